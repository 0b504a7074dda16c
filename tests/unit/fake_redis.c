/* SPDX-License-Identifier: BSD-2-Clause */
#include "fake_redis.h"

#include <assert.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <string.h>

#include "gateway/base/mem.h"

struct fake_redis_client {
    struct fake_redis *fake;
    struct fake_redis_client **place; /* in `fake` */
    struct bufferevent *stream;
    redisReader *reader;
};

static void client_free(struct fake_redis_client *client)
{
    *client->place = NULL;
    bufferevent_free(client->stream);
    redisReaderFree(client->reader);
    mem_free(client);
}

static void on_input(struct bufferevent *stream, void *arg)
{
    struct fake_redis_client *client = arg;
    char bytes[4096], answer[FAKE_REDIS_ANSWER_SIZE];
    void *command;
    size_t n;

    while ((n = bufferevent_read(stream, bytes, sizeof(bytes))) > 0)
        assert(redisReaderFeed(client->reader, bytes, n) == REDIS_OK);
    while (redisReaderGetReply(client->reader, &command) == REDIS_OK && command != NULL) {
        answer[0] = '\0';
        client->fake->answer(command, answer, client->fake->arg);
        bufferevent_write(stream, answer, strlen(answer));
        freeReplyObject(command);
    }
}

static void on_end(struct bufferevent *stream, short what, void *arg)
{
    client_free(arg);
}

static void on_client(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address,
                      int size, void *arg)
{
    struct fake_redis *fake = arg;
    struct fake_redis_client *client = mem_new(struct fake_redis_client);

    client->fake = fake;
    client->place = fake->clients;
    while (*client->place != NULL) {
        client->place++;
        assert(client->place < fake->clients + FAKE_REDIS_CLIENTS_MAX);
    }
    *client->place = client;
    client->reader = redisReaderCreate();
    client->stream =
        bufferevent_socket_new(evconnlistener_get_base(listener), fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(client->stream, on_input, NULL, on_end, client);
    bufferevent_enable(client->stream, EV_READ | EV_WRITE);
}

void fake_redis_open(struct fake_redis *fake, struct event_base *base, fake_redis_answer_fn *answer,
                     void *arg)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);

    *fake = (struct fake_redis){.answer = answer, .arg = arg};
    fake->listener = evconnlistener_new_bind(base, on_client, fake, LEV_OPT_CLOSE_ON_FREE, -1,
                                             (struct sockaddr *)&address, sizeof(address));
    assert(fake->listener != NULL);
    int status =
        getsockname(evconnlistener_get_fd(fake->listener), (struct sockaddr *)&address, &size);
    assert(status == 0);
    (void)status;
    fake->port = ntohs(address.sin_port);
}

void fake_redis_hang_up(struct fake_redis *fake)
{
    for (size_t i = 0; i < FAKE_REDIS_CLIENTS_MAX; i++) {
        if (fake->clients[i] != NULL)
            client_free(fake->clients[i]);
    }
}

void fake_redis_close(struct fake_redis *fake)
{
    fake_redis_hang_up(fake);
    evconnlistener_free(fake->listener);
}

const char *fake_redis_word(const struct redisReply *command, size_t n)
{
    return n < command->elements && command->element[n]->type == REDIS_REPLY_STRING
               ? command->element[n]->str
               : "";
}
