/* SPDX-License-Identifier: BSD-2-Clause */
/* What these share, and nobody else includes: connection.c (the loop, bytes, requests),
 * connection_deadline.c (time), connection_accept.c (budgets), connection_admission.c (who is it, may
 * it pass) and connections.c (what happens to many at once). */
#pragma once

#include <event2/event_struct.h>

#include "gateway/admission.h"
#include "gateway/budget.h"
#include "gateway/connection.h"
#include "gateway/connection_index.h"
#include "gateway/exchange.h"

enum { CONNECTION_ADMISSION_TRIES = 4 }; /* decisions that a simultaneous cut made worthless */

enum connection_state {
    CONNECTION_HANDSHAKE, /* TLS is being set up */
    CONNECTION_ADMITTING, /* the store was asked; nothing is answered before it has decided */
    CONNECTION_IDLE,      /* between requests, or within a head */
    CONNECTION_EXCHANGE,  /* `exchange` is there */
    CONNECTION_LINGER,    /* our side is ended; waiting for the peer to end its own, so that it can
                             read the last answer */
    CONNECTION_CLOSED,    /* off the socket and all lists but `closed`; freed soon */
};

enum connection_phase {
    PHASE_HANDSHAKE,
    PHASE_ADMITTING,
    PHASE_FIRST, /* nothing was asked yet */
    PHASE_GRACE, /* the same, but draining */
    PHASE_IDLE,
    PHASE_HEAD,
    PHASE_BODY,
    PHASE_WRITE,
    PHASE_ANSWER, /* whoever answers has timeouts of its own */
    PHASE_LINGER,
};

/* A peer's stock of time: see connection_deadline.c. */
struct connection_pace {
    int64_t left_ms;
    int64_t waited_ms; /* since the last look */
    int64_t quiet_ms;  /* waited without a byte, up to the last look */
    uint64_t bytes;    /* at the last look */
};

enum step {
    STEP_WAIT,
    STEP_MORE,
    STEP_OVER, /* closed */
};

struct connection {
    struct worker *worker;                 /* borrowed: outlives its connections */
    struct listener_stats *listener_stats; /* borrowed from the worker's stats */
    struct generation *tls_generation;     /* ref: `stream` borrows its TLS server */
    struct exchange_env
        env; /* its generation is a ref of our own: what requests are served under */
    struct exchange_peer peer;
    struct stream *stream;      /* owned */
    struct http_parser *parser; /* owned */
    struct buf in;
    struct buf out;
    struct exchange *exchange; /* owned; exists in EXCHANGE only */

    enum connection_state state;
    struct admission admission;
    enum reason refusal; /* what the next request is refused with; REASON_OK: nothing */
    bool head_waits;     /* a complete head waits for the renewed decision */
    bool distrusted;     /* decide again before the next request */
    bool cut_meanwhile;  /* a cut came while the decision was being made */
    bool retired;        /* its key was, says the log: a decision may differ, no outage may */
    struct standing_facts facts; /* what time is judged by; of an admitted device */
    char group[LABEL_MAX + 1];
    int64_t stands_until_ms; /* monotonic: judge again from then on; INT64_MAX: never */
    int admission_tries;
    bool last_request; /* no further requests: close when idle */
    bool peer_ended;

    bool readable;
    bool writable;
    struct event read_event;
    struct event write_event;
    bool read_armed;
    bool took;                /* somebody has read since the socket was announced as readable */
    size_t turn_bytes;        /* read in this turn of the loop */
    struct event again_event; /* a zero timer: go on in the loop's next turn */

    enum connection_phase phase;
    int64_t phase_since_ms;
    int64_t phase_until_ms; /* INT64_MAX: none */
    struct connection_pace body_pace;
    struct connection_pace write_pace;
    int64_t drain_until_ms; /* INT64_MAX: not draining */
    enum reason drain_reason;
    struct event timer;
    int64_t timer_at_ms; /* when `timer` fires; INT64_MAX: not armed */

    enum connection_state lingers_from;
    size_t linger_bytes;
    enum reason close_reason;
    uint64_t requests;
    uint64_t bytes_read;
    uint64_t bytes_written;
    struct list link;      /* worker->connections, then worker->closed */
    struct list handshake; /* worker->handshakes, in HANDSHAKE with TLS */
    int64_t alive_ms;      /* monotonic: the handshake's last sign of life */
    struct budget_claim claim;
    struct connection_index_link index; /* by device, from before the first decision to the close */
};

static inline const struct config *connection_config(const struct connection *conn)
{
    return conn->env.generation->snapshot->config;
}

/* --- connection.c ----------------------------------------------------------------------------- */

/* Takes steps until one has nothing to do. May close the connection. */
void connection_run(struct connection *conn);
/* The only place that assigns the state. */
void connection_set_state(struct connection *conn, enum connection_state state);
/* Admission and requests meet the newest snapshot. Not while an exchange is under way. */
void connection_renew_generation(struct connection *conn);
void connection_count_failed_handshake(struct connection *conn, enum stream_failure why);
/* Runs once; whatever was going on is cancelled. The memory goes with connections_sweep(). */
void connection_close(struct connection *conn, enum reason reason);
/* No request after the present one, and the end within so many ms. May close the connection. */
void connection_drain(struct connection *conn, enum reason reason, int64_t within_ms);

/* Not in any list yet, and without a claim. */
struct connection *connection_new(struct worker *worker,
                                  const struct connection_origin *origin) MUST_CHECK;
/* Fills in address and port. */
void connection_name_peer(struct exchange_peer *peer, const struct sockaddr_storage *from);

/* The orderly end: what is written goes out first. */
void connection_linger(struct connection *conn, enum reason reason);
void connection_refuse_malformed(struct connection *conn, enum reason reason, const char *detail);

/* --- connection_deadline.c -------------------------------------------------------------------- */

/* After each run: a new phase has a deadline of its own. */
void connection_update_deadline(struct connection *conn);
/* A new exchange: full stocks. */
void connection_start_pace(struct connection *conn);
/* For the phase's deadline, or the drain's. */
void connection_arm_timer(struct connection *conn, int64_t now_ms);
void connection_on_timer(evutil_socket_t fd, short what, void *arg);

/* --- connection_accept.c ---------------------------------------------------------------------- */

/* Something came in the handshake. */
void connection_note_alive(struct connection *conn);
/* The device is admitted: false when it has too many connections. May close another one of it. */
bool connection_enter_device(struct connection *conn) MUST_CHECK;

/* --- connection_admission.c ------------------------------------------------------------------- */

/* The handshake is done: who is it, and may it pass? */
enum step connection_identify(struct connection *conn);
/* May the next request be served without asking the store? */
bool connection_is_trusted(const struct connection *conn);
/* Asks it. The head that waits is served after the decision. */
void connection_readmit(struct connection *conn);
/* The rules that count are the newest snapshot's. */
void connection_adopt_rules(struct connection *conn);
/* Time has passed, or other rules count: what a trusted device may do now. Cheap when neither is
 * so. */
void connection_keep_standing(struct connection *conn);
/* The newest snapshot no longer trusts what the connection was verified with. */
bool connection_is_untrusted(const struct connection *conn, const struct snapshot *newest);
