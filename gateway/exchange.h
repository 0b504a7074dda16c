/* SPDX-License-Identifier: BSD-2-Clause */
/* One request and its answer: finds the route, guards it, and lets a service or a backend answer.
 *
 *                       ┌─ refuse ───────────────────────────────────────────┐
 *      start ── route ──┼─ service: COLLECTING ── whole body ── answer ──────┼──▶ answered
 *                       ├─ lock: COLLECTING ── write lease ──▶ upstream ─────┤
 *                       └─ backend: RELAYING ◀────────────────▶ upstream ────┘
 *
 * The request and the response end separately (exchange.c draws both machines). The connection owns
 * the exchange and drives it: exchange_pump() moves what can be moved between the connection's two
 * buffers and whoever answers; `wake` tells the connection from the event loop that pumping makes
 * sense again. Back-pressure is the absence of pumping.
 *
 * Services see the exchange through the second half of this header. */
#pragma once

#include <jansson.h>

#include "gateway/base/buf.h"
#include "gateway/base/macros.h"
#include "gateway/daemon/worker.h"
#include "gateway/http/head.h"
#include "gateway/http/parser.h"
#include "gateway/http/path.h"
#include "gateway/store/transition.h"
#include "gateway/tls/stream.h"

struct exchange;

/* Who is at the other end, as admission left it. */
struct exchange_peer {
    const struct stream_peer *certificate; /* borrowed from the stream; NULL on plain sockets */
    bool admitted;       /* a device that may pass; false without certificate and for operators */
    bool quarantined;    /* admitted, but only to routes open in quarantine */
    enum reason verdict; /* admission's reason */
    char rotation[STANDING_TEXT_SIZE]; /* for responses: the value of Device-Rotation; or empty */
    uint64_t generation;               /* of the device's record when it was admitted */
    int64_t decided_store_ms;          /* the store's clock when admission read the record, */
    int64_t decided_ms;                /* and the monotonic one when we had its answer */
    int64_t opened_ms;                 /* monotonic: when the connection was accepted */
    char address[64];                  /* "192.0.2.1", "2001:db8::1", "unix" */
    uint16_t port;
    bool has_uid; /* Unix sockets */
    uint32_t uid;
};

/* What the connection lends to its exchanges. Everything outlives them. */
struct exchange_env {
    struct worker *worker;
    struct generation *generation;
    const struct config_listener *listener; /* NULL: the operator's own listener */
    const struct exchange_peer *peer;
    struct http_parser *parser;
    struct buf *in;  /* bytes from the peer that were not parsed yet */
    struct buf *out; /* bytes for the peer */
    void (*wake)(void *arg);
    void *arg;
};

enum exchange_pump {
    EXCHANGE_WAIT,  /* needs more input, more room in `out`, or a wake */
    EXCHANGE_KEEP,  /* complete; `out` holds the rest; the connection may take another request */
    EXCHANGE_CLOSE, /* complete; close the connection when `out` is written */
    EXCHANGE_ABORT, /* failed beyond an answer; close the connection now */
};

/* The parser has just reported a head. `env` is borrowed. `close_after`: this will be the
 * connection's last exchange. */
struct exchange *exchange_new(const struct exchange_env *env, bool close_after) MUST_CHECK;
/* Refuses the request and closes after it. `head` is the parser's, or NULL when it never was
 * complete (or valid). */
struct exchange *exchange_new_refusal(const struct exchange_env *env, const struct http_head *head,
                                      enum reason reason, const char *detail) MUST_CHECK;
/* Ends it, complete or not, and writes the line of the access log. NULL inside is fine. */
void exchange_free(struct exchange **ex_at);

enum exchange_pump exchange_pump(struct exchange *exchange) MUST_CHECK;
/* The peer ended its side: false when that cuts the request off. */
bool exchange_peer_ended(struct exchange *exchange) MUST_CHECK;
/* The next head goes out with "Connection: close". */
void exchange_close_after(struct exchange *exchange);
/* The peer is expected to send (body bytes) before anything else can happen. */
bool exchange_awaits_peer(const struct exchange *exchange);
enum reason exchange_reason(const struct exchange *exchange);
/* The connection ends before the exchange does, and this is why: what the access log will say. Free
 * it next. */
void exchange_cut_off(struct exchange *exchange, enum reason reason);

/* --- for services ----------------------------------------------------------------------------- */

const struct exchange_env *exchange_env(const struct exchange *exchange);
const struct http_head *exchange_head(const struct exchange *exchange);
const struct http_target *exchange_target(const struct exchange *exchange);
/* The device's credentials; NULL unless a device was admitted. */
const struct credentials *exchange_device(const struct exchange *exchange);
/* The store's clock when the connection was accepted: rather too early than too late. */
int64_t exchange_connected_store_ms(const struct exchange *exchange);
/* The collected body. */
struct str exchange_body(const struct exchange *exchange);

/* Exactly one of these ends a service's work. May be called at once or from a later callback. */
void exchange_refuse(struct exchange *exchange, enum reason reason, const char *detail);
/* 405; `allow` names the methods that the resource takes: "GET, HEAD". */
void exchange_refuse_method(struct exchange *exchange, const char *allow);
/* Takes over the reference to `body`. `reason` is for log and metrics. */
void exchange_answer_json(struct exchange *exchange, int status, enum reason reason, json_t *body);
void exchange_answer_text(struct exchange *exchange, int status, enum reason reason,
                          const char *content_type, struct str text);
/* 503, 500…: what a failed store operation means for the one who asked. */
void exchange_refuse_store(struct exchange *exchange, enum store_result result);

/* Memory of the service, of any kind that mem_free() can end; it goes with the exchange. NULL at
 * first. */
void **exchange_service_state(struct exchange *exchange);
/* The connection should go on: call it after answering from a callback (not from inside the
 * service's first call). */
void exchange_wake(struct exchange *exchange);

/* A slot for the one asynchronous operation that a service may have open: it is cancelled with the
 * exchange. The callbacks clear the slot first thing. */
struct transition **exchange_transition_slot(struct exchange *exchange);
struct store_op **exchange_store_slot(struct exchange *exchange);
