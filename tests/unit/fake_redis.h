/* SPDX-License-Identifier: BSD-2-Clause */
/* A server that says whatever a test wants, on the test's own loop: a Redis, a sentinel or a
 * Cluster's node that is hostile, confused, or merely asked at the worst moment. */
#pragma once

#include <event2/event.h>
#include <event2/listener.h>
#include <stdint.h>

struct redisReply;

enum { FAKE_REDIS_CLIENTS_MAX = 32, FAKE_REDIS_ANSWER_SIZE = 65536 };

/* What to say to a command (an array of texts): RESP text into `out`; left empty: nothing. */
typedef void fake_redis_answer_fn(const struct redisReply *command,
                                  char out[FAKE_REDIS_ANSWER_SIZE], void *arg);

struct fake_redis {
    struct evconnlistener *listener;
    uint16_t port; /* on 127.0.0.1 */
    fake_redis_answer_fn *answer;
    void *arg;
    struct fake_redis_client *clients[FAKE_REDIS_CLIENTS_MAX];
};

void fake_redis_open(struct fake_redis *fake, struct event_base *base, fake_redis_answer_fn *answer,
                     void *arg);
/* Ends the connections that there are; new ones are taken. Not from inside `answer`. */
void fake_redis_hang_up(struct fake_redis *fake);
void fake_redis_close(struct fake_redis *fake);

/* The n-th word of a command; "" when there are fewer. */
const char *fake_redis_word(const struct redisReply *command, size_t n);
