/* SPDX-License-Identifier: BSD-2-Clause */
/* One timer serves all phases: in WAITING it ends the back-off, in CONNECTING and GREETING it is
 * the phase's deadline, and in UP it stands for the oldest command. There it is not moved with
 * every answer: when it fires, it looks at whoever is the oldest then.
 *
 * What is sent in one turn of the loop leaves in one write: link_send() only makes `flush_event`
 * active, which runs before the loop waits again. */
#include "gateway/store/link.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/store/address.h"
#include "gateway/store/greeting.h"
#include "gateway/store/link_tls.h"
#include "gateway/store/resolve.h"

enum {
    LINK_LOG_AGAIN_MS = 60000, /* a server that stays away is mentioned so often */
    LINK_STEADY_MS = 2000,     /* after so long in UP, the back-off begins anew */
};

enum link_state {
    LINK_STATE_WAITING,    /* no socket; the timer ends the back-off */
    LINK_STATE_RESOLVING,  /* no socket; the resolver always answers */
    LINK_STATE_CONNECTING, /* a socket that is not writable yet */
    LINK_STATE_GREETING,   /* the greeting's commands are out */
    LINK_STATE_UP,         /* commands may be sent */
    LINK_STATE_CLOSED,     /* being freed */
};

struct waiting {
    link_reply_fn *on_reply;
    void *arg;
    int64_t timeout_ms;
    int64_t deadline_ms; /* counts again from when the command has gone out */
    unsigned n_replies;  /* still to come */
};

struct link {
    enum link_state state;
    struct event_base *base;     /* borrowed from the worker, which frees its store first */
    const struct config *config; /* borrowed from the store's owner, who outlives us */
    const char *purpose;         /* literal */
    struct link_handlers handlers;
    struct store_address address;
    enum greeting_kind kind;
    redisContext *context;   /* owned; NULL without a socket */
    struct resolve *resolve; /* owned; only in RESOLVING */
    struct greeting greeting;
    struct event *timer;       /* owned */
    struct event *flush_event; /* owned; never added, only made active */
    struct event *read_event;  /* owned; with a socket; added once that is connected */
    struct event *write_event; /* owned; with a socket; added while the kernel takes no more */
    size_t unsent;             /* bytes since the output was last empty */
    bool in_callback;
    bool is_wrong;     /* the last greeting said so: somebody has to mend something */
    bool logged_wrong; /* the last line about a failure said so */
    /* The open commands, oldest at `first`, in a ring of LINK_QUEUE_MAX. */
    struct waiting *queue; /* owned */
    size_t first;
    size_t n_waiting;
    size_t n_unsent;   /* the newest of them, which have not gone out completely */
    unsigned attempts; /* since the link was last steady */
    uint64_t ups;
    int64_t up_ms;
    int64_t log_again_ms;
};

static void link_connect(struct link *link);
static void link_break(struct link *link, const char *reason);
static void link_flush(struct link *link);

/* State. */

static void link_arm(struct link *link, int64_t ms)
{
    if (ms < 1)
        ms = 1;
    const struct timeval delay = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000L};

    (void)event_add(link->timer, &delay);
}

/* Half of the step is certain, half is luck: many gateways that lost one Redis come back apart. */
static int64_t link_backoff_ms(struct link *link)
{
    int64_t step = LINK_BACKOFF_MIN_MS;

    for (unsigned i = 0; i < link->attempts && step < LINK_BACKOFF_MAX_MS; i++)
        step *= 2;
    if (step > LINK_BACKOFF_MAX_MS)
        step = LINK_BACKOFF_MAX_MS;
    link->attempts++;
    return step / 2 + random_below((uint32_t)(step / 2));
}

static void link_set_state(struct link *link, enum link_state state)
{
    assert(link->state != LINK_STATE_CLOSED);
    link->state = state;
    switch (state) {
    case LINK_STATE_WAITING:
        link_arm(link, link_backoff_ms(link));
        break;
    case LINK_STATE_CONNECTING:
    case LINK_STATE_GREETING:
        link_arm(link, link->config->store.connect_timeout_ms);
        break;
    case LINK_STATE_UP:
        link->up_ms = clock_monotonic_ms();
        link->log_again_ms = 0;
        link->ups++;
        (void)event_del(link->timer);
        break;
    case LINK_STATE_RESOLVING:
    case LINK_STATE_CLOSED:
        (void)event_del(link->timer);
        break;
    }
}

static void link_drop_socket(struct link *link)
{
    resolve_cancel(&link->resolve);
    (void)event_del(link->flush_event);
    if (link->context == NULL)
        return;
    event_free(link->read_event);
    event_free(link->write_event);
    redisFree(link->context);
    link->context = NULL;
    link->unsent = 0;
    link->n_unsent = 0;
}

/* Gives the reply to the oldest. */
static void link_answer(struct link *link, const redisReply *reply)
{
    struct waiting *oldest = &link->queue[link->first];
    const struct waiting waiting = *oldest;
    bool before = link->in_callback;

    if (--oldest->n_replies == 0) {
        link->n_waiting--;
        /* From the beginning again when it can be: a link in little use touches little memory. */
        link->first = link->n_waiting > 0 ? (link->first + 1) % LINK_QUEUE_MAX : 0;
        if (link->n_unsent > link->n_waiting) /* answered before it was asked */
            link->n_unsent = link->n_waiting;
    }
    link->in_callback = true;
    waiting.on_reply(reply, waiting.arg);
    link->in_callback = before;
}

/* Nothing can join the queue meanwhile: the link is not up. */
static void link_answer_all(struct link *link)
{
    while (link->n_waiting > 0)
        link_answer(link, NULL);
}

static void link_log_broken(struct link *link, const char *reason, bool was_up)
{
    int64_t now = clock_monotonic_ms();
    char server[STORE_ADDRESS_TEXT_SIZE];

    /* What somebody has to mend is no repetition of what may pass by itself. */
    if (!was_up && now < link->log_again_ms && link->is_wrong == link->logged_wrong)
        return;
    link->log_again_ms = now + LINK_LOG_AGAIN_MS;
    link->logged_wrong = link->is_wrong;
    store_address_format(&link->address, server);
    log_write(link->is_wrong ? LOG_ERROR : LOG_WARNING,
              was_up ? "the link to Redis broke" : "cannot connect to Redis",
              LOG_STR("reason", reason), LOG_STR("link", link->purpose), LOG_STR("server", server),
              LOG_INT("open_commands", link->n_waiting));
}

/* The one way out of every state but CLOSED: the socket is gone, the next attempt is set, then
 * those who wait are told. */
static void link_break(struct link *link, const char *reason)
{
    bool was_up = link->state == LINK_STATE_UP;

    link_log_broken(link, reason, was_up);
    if (was_up && clock_monotonic_ms() - link->up_ms >= LINK_STEADY_MS)
        link->attempts = 0;
    link_drop_socket(link);
    link_set_state(link, LINK_STATE_WAITING);
    if (was_up)
        link->handlers.on_down(link->handlers.arg);
    else if (link->handlers.on_failed != NULL)
        link->handlers.on_failed(link->handlers.arg);
    link_answer_all(link);
}

void link_reset(struct link *link, const char *reason)
{
    if (link->context != NULL)
        link_break(link, reason);
}

/* Bytes. */

/* Nothing went out. Either the kernel's buffer is full, or TLS wants to read first; then waiting
 * for a writable socket would spin, and the next read flushes again. */
static bool link_waits_for_room(const struct link *link)
{
    struct pollfd fd = {.fd = link->context->fd, .events = POLLOUT};

    return !link->address.is_tls || poll(&fd, 1, 0) != 1 || (fd.revents & POLLOUT) == 0;
}

/* The loop may have been busy between link_send() and now; Redis is not to blame for that. */
static void link_note_sent(struct link *link)
{
    int64_t now = clock_monotonic_ms();

    link->unsent = 0;
    for (; link->n_unsent > 0; link->n_unsent--) {
        size_t at = link->first + link->n_waiting - link->n_unsent;
        struct waiting *waiting = &link->queue[at % LINK_QUEUE_MAX];
        waiting->deadline_ms = now + waiting->timeout_ms;
    }
}

static void link_flush(struct link *link)
{
    int is_done = 0;

    if (redisBufferWrite(link->context, &is_done) != REDIS_OK) {
        link_break(link, link->context->errstr);
        return;
    }
    if (is_done) {
        link_note_sent(link);
        (void)event_del(link->write_event);
    } else if (link_waits_for_room(link)) {
        (void)event_add(link->write_event, NULL);
    } else {
        (void)event_del(link->write_event);
    }
}

static void on_flush(evutil_socket_t fd, short what, void *arg)
{
    struct link *link = arg;

    if (link->context != NULL && link->state >= LINK_STATE_GREETING)
        link_flush(link);
}

static void link_append(struct link *link, struct str text)
{
    /* Fails only when memory is out. */
    if (text.len > 0 && redisAppendFormattedCommand(link->context, text.p, text.len) != REDIS_OK)
        abort();
    link->unsent += text.len;
}

/* Answers of the greeting, then those of commands. */
static void link_take_reply(struct link *link, const redisReply *reply)
{
    char reason[256];

    if (link->state == LINK_STATE_GREETING) {
        switch (greeting_take_reply(&link->greeting, reply, reason, sizeof(reason))) {
        case GREETING_MORE:
            break;
        case GREETING_DONE:
            link_set_state(link, LINK_STATE_UP);
            log_write(LOG_INFO, "the link to Redis is up", LOG_STR("link", link->purpose));
            link->handlers.on_up(link->handlers.arg);
            break;
        case GREETING_WRONG:
            link->is_wrong = true;
            link_break(link, reason);
            break;
        case GREETING_FAILED:
            link_break(link, reason);
            break;
        }
    } else if (link->n_waiting == 0) {
        /* As when it has too many clients: an error, then it hangs up. */
        (void)snprintf(reason, sizeof(reason), "said unasked: %s",
                       reply->type == REDIS_REPLY_ERROR ? reply->str : "something");
        link_break(link, reason);
    } else {
        link_answer(link, reply);
    }
}

/* Each callback may have broken the link. */
static void link_take_replies(struct link *link)
{
    while (link->context != NULL) {
        void *reply = NULL;

        if (redisGetReplyFromReader(link->context, &reply) != REDIS_OK) {
            link_break(link, link->context->errstr);
            return;
        }
        if (reply == NULL)
            break;
        link_take_reply(link, reply);
        freeReplyObject(reply);
    }
    if (link->context != NULL && link->context->reader->len > LINK_REPLY_MAX)
        link_break(link, "an answer is too large");
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct link *link = arg;

    /* At most 16 KiB a turn. */
    if (redisBufferRead(link->context) != REDIS_OK) {
        link_break(link, link->context->errstr);
        return;
    }
    link_take_replies(link);
    if (link->context != NULL && link->unsent > 0)
        link_flush(link);
}

static struct event *link_new_event(struct event_base *base, int fd, short what,
                                    event_callback_fn callback, struct link *link)
{
    struct event *event = event_new(base, fd, what, callback, link);

    /* Only memory can be missing. */
    if (event == NULL)
        abort();
    return event;
}

/* Connecting. */

static void link_greet(struct link *link)
{
    char reason[256];
    char *text CLEANUP(mem_free_at) = NULL;

    if (link->address.is_tls &&
        !link_tls_start(link->context, link->address.host, link->config->store.ca_file, reason,
                        sizeof(reason))) {
        link_break(link, reason);
        return;
    }
    text = greeting_begin(&link->greeting, link->kind, link->config, &link->address, reason,
                          sizeof(reason));
    if (text == NULL) {
        link_break(link, reason);
        return;
    }
    link->is_wrong = false;
    link_set_state(link, LINK_STATE_GREETING);
    (void)event_add(link->read_event, NULL);
    link_append(link, str_c(text));
    link_flush(link);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct link *link = arg;
    int error = 0;
    socklen_t size = sizeof(error);

    if (link->state != LINK_STATE_CONNECTING) {
        link_flush(link);
        return;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    if (error != 0) {
        link_break(link, strerror(error));
        return;
    }
    (void)event_del(link->write_event);
    if (!link->address.is_unix)
        (void)redisEnableKeepAlive(link->context);
    link_greet(link);
}

/* `host`: numeric; NULL for a Unix socket. */
static void link_open(struct link *link, const char *host)
{
    link->context = host == NULL ? redisConnectUnixNonBlock(link->address.path)
                                 : redisConnectNonBlock(host, link->address.port);
    if (link->context == NULL)
        abort();
    if (link->context->err != 0) {
        char reason[sizeof(link->context->errstr)];
        str_copy_cut(reason, sizeof(reason), str_c(link->context->errstr));
        redisFree(link->context);
        link->context = NULL;
        link_break(link, reason);
        return;
    }
    (void)fcntl(link->context->fd, F_SETFD, FD_CLOEXEC);
    link->read_event =
        link_new_event(link->base, link->context->fd, EV_READ | EV_PERSIST, on_readable, link);
    link->write_event =
        link_new_event(link->base, link->context->fd, EV_WRITE | EV_PERSIST, on_writable, link);
    link_set_state(link, LINK_STATE_CONNECTING);
    (void)event_add(link->write_event, NULL);
}

/* Each attempt takes the next of the name's addresses. */
static void on_resolved(const struct resolve_result *result, void *arg)
{
    struct link *link = arg;

    link->resolve = NULL;
    if (result->error != NULL)
        link_break(link, result->error);
    else
        link_open(link, result->addresses[link->attempts % result->n]);
}

static bool host_is_numeric(const char *host)
{
    unsigned char numeric[sizeof(struct in6_addr)];

    return inet_pton(AF_INET, host, numeric) == 1 || inet_pton(AF_INET6, host, numeric) == 1;
}

static void link_connect(struct link *link)
{
    const char *host = link->address.host;

    if (link->address.is_unix) {
        link_open(link, NULL);
    } else if (host_is_numeric(host)) {
        link_open(link, host);
    } else {
        link_set_state(link, LINK_STATE_RESOLVING);
        link->resolve = resolve_start(link->base, host, on_resolved, link);
    }
}

/* Deadlines. */

/* For the oldest command that waits. */
static int64_t link_time_left_ms(const struct link *link)
{
    return link->queue[link->first].deadline_ms - clock_monotonic_ms();
}

static bool link_is_readable(const struct link *link)
{
    struct pollfd fd = {.fd = link->context->fd, .events = POLLIN};

    return poll(&fd, 1, 0) == 1;
}

/* The loop may have been with others for so long that the timer comes before what Redis answered
 * long ago: a storm of handshakes must not look like an outage. So what has arrived is read first. */
static void link_check_deadline(struct link *link)
{
    while (link->state == LINK_STATE_UP && link->n_waiting > 0 && link_time_left_ms(link) <= 0 &&
           link_is_readable(link))
        on_readable(link->context->fd, EV_READ, link);
    if (link->state != LINK_STATE_UP || link->n_waiting == 0)
        return;
    int64_t left = link_time_left_ms(link);
    if (left > 0)
        link_arm(link, left);
    else
        link_break(link, "no answer in time");
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct link *link = arg;

    switch (link->state) {
    case LINK_STATE_WAITING:
        link_connect(link);
        break;
    case LINK_STATE_CONNECTING:
        link_break(link, "no connection in time");
        break;
    case LINK_STATE_GREETING:
        link_break(link, "no answer to the greeting in time");
        break;
    case LINK_STATE_UP:
        link_check_deadline(link);
        break;
    case LINK_STATE_RESOLVING:
    case LINK_STATE_CLOSED:
        break;
    }
}

/* For others. */

struct link *link_new(const struct link_params *params)
{
    static const struct timeval at_once = {0};
    struct link *link = mem_new(struct link);

    link->base = params->base;
    link->config = params->config;
    link->purpose = params->purpose;
    link->handlers = params->handlers;
    link->address = *params->address;
    link->kind = params->greeting;
    link->queue = mem_array(LINK_QUEUE_MAX, sizeof(*link->queue));
    link->timer = link_new_event(link->base, -1, 0, on_timer, link);
    link->flush_event = link_new_event(link->base, -1, 0, on_flush, link);
    link->state = LINK_STATE_WAITING;
    (void)event_add(link->timer, &at_once);
    return link;
}

void link_close(struct link *link)
{
    assert(!link->in_callback);
    if (link->state == LINK_STATE_CLOSED)
        return;
    link_drop_socket(link);
    link_set_state(link, LINK_STATE_CLOSED);
    link_answer_all(link);
}

void link_free(struct link **link)
{
    if (*link == NULL)
        return;
    link_close(*link);
    event_free((*link)->timer);
    event_free((*link)->flush_event);
    mem_free((*link)->queue);
    mem_free(*link);
    *link = NULL;
}

bool link_is_up(const struct link *link)
{
    return link->state == LINK_STATE_UP;
}

bool link_knows_layout(const struct link *link)
{
    return link->state == LINK_STATE_UP && link->greeting.knows_layout;
}

uint64_t link_reconnects(const struct link *link)
{
    return link->ups > 0 ? link->ups - 1 : 0;
}

bool link_send(struct link *link, const struct link_command *command)
{
    if (link->state != LINK_STATE_UP || link->n_waiting == LINK_QUEUE_MAX ||
        link->unsent > LINK_OUTPUT_MAX)
        return false;
    assert(command->n_replies > 0);
    for (size_t i = 0; i < ARRAY_SIZE(command->pieces); i++)
        link_append(link, command->pieces[i]);
    link->queue[(link->first + link->n_waiting) % LINK_QUEUE_MAX] = (struct waiting){
        .on_reply = command->on_reply,
        .arg = command->arg,
        .timeout_ms = command->timeout_ms,
        .deadline_ms = clock_monotonic_ms() + command->timeout_ms,
        .n_replies = command->n_replies,
    };
    link->n_waiting++;
    link->n_unsent++;
    if (!event_pending(link->timer, EV_TIMEOUT, NULL))
        link_arm(link, command->timeout_ms);
    event_active(link->flush_event, EV_WRITE, 0);
    return true;
}
