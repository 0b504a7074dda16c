/* SPDX-License-Identifier: BSD-2-Clause */
/* One exchange from the inside: what upstream.c (its life and the request) and response.c share.
 *
 *            (WAITING: in line for a connection, then connecting)
 *                    connected              all written
 *      request:  WAITING ───────▶ SENDING ──────────────▶ SENT
 *                  ▲              │  │  no longer taken    │
 *                  │              │  └──────▶ ABANDONED    │
 *                  └──────────────┴───────────────┴────────┘
 *                              try again
 *
 *                                    final           last byte
 *      response: WAITING ──▶ HEAD ─────────▶ BODY ─────────────▶ DONE
 *                  ▲          │
 *                  └──────────┘                (each but DONE) ──▶ FAILED
 *                    interim
 *
 * Deadlines, each for its phase and counted from the phase's start; one lazy timer serves them all:
 *
 *      request WAITING, in line                  wait_timeout
 *      request WAITING, connecting               its share of connect_timeout
 *      request SENDING with bytes to write       idle_timeout since the backend last took some
 *      request SENDING without, 100 awaited      response_timeout since the head was taken
 *      request SENDING without                   none: the caller is what we wait for
 *      request SENT or ABANDONED, no head yet    response_timeout; interim heads do not move it
 *      response BODY, caller waits for bytes     idle_timeout since bytes last moved, either way
 *      response BODY, caller has no room         none: the backend is not to blame
 */
#pragma once

#include "gateway/http/chunk.h"
#include "gateway/upstream/pool.h"

/* Bytes read at once while a head is awaited. */
enum { RESPONSE_READ_SIZE = 16 * 1024 };

enum request_state {
    REQUEST_WAITING,   /* no connection yet: a server is being chosen or connected to */
    REQUEST_SENDING,   /* the connection takes head and body; more body may come from the caller */
    REQUEST_SENT,      /* the last byte was handed to the kernel */
    REQUEST_ABANDONED, /* the backend takes no more; what the caller still gives is thrown away */
};

enum response_state {
    RESPONSE_WAITING, /* for the first or next head */
    RESPONSE_HEAD,    /* a head is complete and being handed out */
    RESPONSE_BODY,   /* the final head was handed out; the caller takes the body at its own speed */
    RESPONSE_DONE,   /* the caller has seen the end */
    RESPONSE_FAILED, /* broke off; `failure` says why; the connection is closed */
};

struct upstream {
    struct upstream_pool *pool; /* ref */
    struct upstream_handlers handlers;
    void *arg;
    size_t refs; /* the caller's handle, and each of our frames that calls out */
    bool closed; /* the handle is gone: nobody is called any more */

    /* where it goes */
    struct server *server;  /* borrowed from the pool; NULL before one was chosen, and at the end */
    struct server *pinned;  /* likewise: it must be this one; NULL: any */
    bool trial;             /* it is that server's trial */
    struct pool_conn *conn; /* owned while the exchange lasts; NULL while there is none */
    uint64_t tried;         /* servers that were connected to */
    int64_t connect_until_ms; /* no attempt begins after this, and none lasts longer */
    int64_t attempt_until_ms; /* this one's share */
    struct event kick;        /* runs what a call has put off */
    struct event timer;
    int64_t started_us;
    int64_t attempt_us;    /* when this one began */
    struct list queued;    /* in pool->waiting */
    int64_t wait_until_ms; /* in line; 0: never was */
    size_t retries_left;
    int64_t
        fate_until_ms; /* the connection is broken, and what TCP says of it is awaited; 0: not */
    const char *lost_what;      /* meanwhile: what was being done */
    char lost_why[160];         /* why the last connection was lost */
    bool fresh_only;            /* a kept connection has let us down: take no other */
    enum reason attempt_reason; /* why the last one failed */
    bool blameless;             /* what failed is not the server's fault */

    /* the request */
    enum request_state request;
    char *head; /* owned; kept as long as it may have to be sent again */
    size_t head_len;
    size_t head_sent;
    struct buf out;          /* body, framed; from its beginning while `whole` */
    size_t out_sent;         /* of `out`; 0 when not `whole` */
    bool whole;              /* all that the caller gave is at hand: it can be sent again */
    struct http_chunk chunk; /* between begin and end */
    size_t lent_at;          /* bytes in `out` when the caller's piece began */
    enum http_framing framing;
    uint64_t body_left; /* LENGTH: what the caller still owes */
    bool is_head;
    bool idempotent;
    int64_t send_until_ms; /* 0: no limit */
    bool awaits_continue;  /* the caller waits for a 100 before it gives any body */
    bool finished;         /* the caller has given all */
    bool wants_room;       /* on_writable is due when there is room */
    bool touched;          /* bytes went out on this connection */
    bool ever_touched;     /* on any connection */

    /* the response */
    enum response_state response;
    struct buf in;     /* a head's bytes, and what came together with it */
    unsigned interims; /* how many interim heads came */
    bool heard;        /* bytes came on this connection */
    bool dry;      /* the last read did not fill its room: only readiness makes another worth it */
    bool complete; /* BODY: the parser has seen the end; the caller may not know yet */
    bool may_keep; /* BODY: another exchange may follow, as far as the response is concerned */
    bool awaiting; /* BODY: on_readable is due when something comes */
    int64_t progress_ms; /* when bytes last moved, or a wait for them began */
    int64_t request_end_ms;

    int64_t timer_ms; /* when the timer fires; 0: it is not armed */
    bool failing;     /* `failure` waits for the kick to tell it */
    struct upstream_failure failure;
    char failure_text[160];
    char failure_server[128];
};

void upstream_set_request_state(struct upstream *upstream, enum request_state state);
void upstream_set_response_state(struct upstream *upstream, enum response_state state);

/* An exchange with one server and no other, on a new connection beyond all limits: a probe. Fitness,
 * trials and counters of servers are the business of requests: it touches none of them. */
struct upstream *upstream_start_pinned(struct upstream_pool *pool, struct server *server,
                                       const struct upstream_request *request,
                                       const struct upstream_handlers *handlers,
                                       void *arg) MUST_CHECK;

/* The exchange is over: closes it and tells the caller. From the event loop only. */
void upstream_fail(struct upstream *upstream, enum reason reason, const char *what,
                   const char *why);
/* Notes the failure without telling; for calls of the caller. */
void upstream_note_failure(struct upstream *upstream, enum reason reason, const char *what,
                           const char *why);
/* The connection ended before the response began. What follows is decided here and nowhere else:
 * another attempt, or failure, or a moment's wait for what TCP knows. From the event loop only. */
void upstream_lost(struct upstream *upstream, const char *what, const char *why);
/* What was sent need not be kept any longer. */
void upstream_let_go(struct upstream *upstream);
/* Arms the timer for the phase that the exchange is in now. */
void upstream_update_deadline(struct upstream *upstream);

/* The connection is readable. From the event loop only. */
void response_on_readable(struct upstream *upstream);
