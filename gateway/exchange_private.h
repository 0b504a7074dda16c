/* SPDX-License-Identifier: BSD-2-Clause */
/* What exchange.c (the request's way, the pumps), exchange_answer.c (answers of our own) and
 * exchange_backend.c (backends and config writes) share, and nobody else includes.
 *
 * The two machines of an exchange run side by side and end in any order.
 *
 *   request:   COLLECTING ──last byte──▶ COMPLETE    into our own buffer: services, config writes
 *              RELAYING   ──last byte──▶ COMPLETE    into the backend's
 *              either ──answered before the end──▶ ABANDONED    the connection closes afterwards
 *
 *   response:  PENDING ──answer of ours──▶ SENDING ──last byte──▶ COMPLETE
 *              PENDING ──backend's head──▶ RELAYING ──last byte──▶ COMPLETE
 *              any ──broken when the head was out──▶ BROKEN    the connection closes at once
 */
#pragma once

#include <assert.h>

#include "gateway/config_write.h"
#include "gateway/exchange.h"

enum {
    REQUEST_ID_LEN = 32,
};

enum request_state {
    REQUEST_COLLECTING, /* body goes into ex->body; what is done with it follows from ex->handler */
    REQUEST_RELAYING,   /* body goes to the backend as it comes */
    REQUEST_COMPLETE,   /* nothing more to read */
    REQUEST_ABANDONED,  /* answered before the end; the rest is not read */
};

enum response_state {
    RESPONSE_PENDING,  /* nothing final was written yet */
    RESPONSE_SENDING,  /* our own head is written, the rest of our body waits for room */
    RESPONSE_RELAYING, /* the backend's head is written, its body flows */
    RESPONSE_COMPLETE, /* all of it is in `out` */
    RESPONSE_BROKEN,   /* cannot be completed any more */
};

/* Who gets the collected body. */
enum exchange_handler {
    HANDLER_NONE,
    HANDLER_OPERATOR,
    HANDLER_ROTATION,
    HANDLER_CONFIG_WRITE,
    HANDLER_BACKEND,
};

struct exchange {
    const struct exchange_env *env; /* borrowed from the connection, which owns us */
    /* Borrowed from the parser until http_parser_next(); NULL: it never was complete. */
    const struct http_head *head;
    struct http_target target;
    struct route_query asked; /* borrows from `head` and `target`; unset for the operator's own */
    struct route_match match;
    enum exchange_handler handler;
    enum request_state request;
    enum response_state response;
    bool close_after;
    bool awaits_continue; /* the peer waits for the backend's 100 before it sends its body */

    struct buf body;   /* collected */
    struct buf answer; /* the rest of our own answer's body */
    size_t body_max;

    struct upstream *upstream; /* owned */
    bool upstream_readable;    /* on_readable came, upstream_read_body() has not said MORE since */
    bool response_chunked;     /* towards the peer */
    struct transition *transition;    /* owned: of a service */
    struct store_op *store_op;        /* owned: of a service */
    void *service_state;              /* owned: memory of a service */
    struct config_write_claim *claim; /* owned: of a config write, while its lease may be alive */
    struct event *lease_timer;        /* owned */
    uint64_t generation;              /* to be told to the backend */

    char request_id[REQUEST_ID_LEN + 1];
    enum reason reason;
    int status;
    int64_t started_us;
    uint64_t bytes_in;
    uint64_t bytes_out;
};

static inline void exchange_set_request(struct exchange *ex, enum request_state state)
{
    assert(ex->request != REQUEST_COMPLETE && ex->request != REQUEST_ABANDONED);
    ex->request = state;
}

static inline void exchange_set_response(struct exchange *ex, enum response_state state)
{
    assert(ex->response != RESPONSE_COMPLETE && ex->response != RESPONSE_BROKEN);
    ex->response = state;
}

static inline bool exchange_request_open(const struct exchange *ex)
{
    return ex->request == REQUEST_COLLECTING || ex->request == REQUEST_RELAYING;
}

static inline bool exchange_is_head(const struct exchange *ex)
{
    return ex->head != NULL && str_eq(ex->head->method, STR("HEAD"));
}

static inline bool exchange_is_1_0(const struct exchange *ex)
{
    return ex->head != NULL && ex->head->minor == 0;
}

/* --- exchange_answer.c ------------------------------------------------------------------------ */

/* When the final head is out, nothing else can be said: the peer learns by the connection's end. */
void exchange_break(struct exchange *ex, enum reason reason);
/* Moves the rest of our own answer's body; true when it moved something. */
bool exchange_pump_answer(struct exchange *ex);

/* --- exchange_backend.c ----------------------------------------------------------------------- */

/* Sends the request's head; with a framing that is the request's own, or that of the collected
 * body. */
void exchange_start_upstream(struct exchange *ex);
/* The body of a config write is here: judge it, and go on to the backend with a lease. */
void exchange_claim_write(struct exchange *ex);
/* `release`: gives the lease back now; otherwise it is left to expire by itself. Fine without a
 * lease. */
void exchange_end_lease(struct exchange *ex, bool release);
/* The backend let the exchange down: one line. */
void exchange_log_backend(const struct exchange *ex, const struct upstream_failure *failure);
