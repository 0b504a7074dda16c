/* SPDX-License-Identifier: BSD-2-Clause */
/* Backends: pools of kept-alive connections, and one exchange over one of them.
 *
 * A pool is one backend as one worker sees it. An exchange has two halves that end separately, in
 * any order:
 *
 *      request:   WAITING ──connected──▶ SENDING ──upstream_body_finish(), all written──▶ SENT
 *      response:  WAITING ──head──▶ HEAD ──(1xx: back to WAITING)──▶ BODY ──last byte──▶ DONE
 *
 * Request body: the caller appends to the buffer that upstream_body_begin() lends and closes the
 * piece with upstream_body_end(); framing is generated. Response body: upstream_read_body() moves
 * decoded bytes into the caller's buffer, never more than fits, so nothing is read from a backend
 * that the device cannot take. Whoever is full just does not ask; no byte is held but in the two
 * bounded buffers.
 *
 * Retries. A server that cannot be connected to is passed over, as long as connect_timeout lasts and
 * there are others. A request whose connection broke before a byte of the answer came is sent again,
 * at most `retries` times and within connect_timeout of its start, when all of it is still at hand
 * (what fits the outgoing buffer is kept until the answer begins) and when one of these holds:
 *   - nothing of it was sent;
 *   - it is idempotent;
 *   - TCP proves that the server never took a byte of it (connect.h). That is what becomes of any
 *     request that meets a kept-alive connection in the moment in which the backend closes it.
 * What cannot be saved: a request that is not idempotent, of which bytes were taken by the server's
 * kernel, or went into a Unix socket, before the server closed. Whether it took effect is unknown:
 * 502 backend-broken. */
#pragma once

#include <event2/event.h>

#include "gateway/base/buf.h"
#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/http/head.h"
#include "policy/reason.h"

struct upstream_pool;
struct upstream;
struct tls_client;      /* gateway/tls/client.h */
struct resolved;        /* resolved.h */
struct upstream_counts; /* counts.h */

/* `config`, `base`, `tls`, `resolved` and `counts` are borrowed and outlive the pool. `worker` is the row in `counts`. `scratch` is memory of the worker (shared
 * by everything that runs in one turn of its loop) for reads. */
struct upstream_pool_params {
    struct event_base *base;
    const struct config *config;
    const struct config_backend *backend;
    struct tls_client *tls;          /* NULL: plain connections */
    const struct resolved *resolved; /* where the servers are */
    struct upstream_counts *counts;
    size_t worker;
    char *scratch;
    size_t scratch_size;
};
struct upstream_pool *upstream_pool_new(const struct upstream_pool_params *params) MUST_CHECK;
/* What is known of the servers' fitness goes over to the pool that takes the place of `before`. */
void upstream_pool_inherit(struct upstream_pool *pool, const struct upstream_pool *before);
/* Exchanges in flight go on and keep the pool alive until they end; unused connections close now.
 * For reloads. */
void upstream_pool_unref(struct upstream_pool **pool);
size_t upstream_pool_connections(const struct upstream_pool *pool); /* in use and kept */

struct upstream_request {
    struct str head; /* start line, fields and empty line, ready for the wire; copied */
    enum http_framing
        framing; /* NONE, LENGTH or CHUNKED: what the head announces and the body gets */
    uint64_t content_length;
    bool is_head;    /* method HEAD: the response has no body */
    bool idempotent; /* may be sent again even if a server has seen it */
    bool
        awaits_continue; /* the head expects 100-continue: until that comes, or body from the caller
                             all the same, the server has response_timeout to say something */
    /* Monotonic; no byte goes out from then on, and what the kernel has not delivered when the
     * exchange breaks off is thrown away, not sent. The caller ends the exchange by then. 0: no
     * such limit. */
    int64_t send_until_ms;
};

/* Failures before the response begins, and what clients are told (policy/reason.h). 503: nothing
 * reached a backend, ask again. 502: something went out, and what came back is no answer. 504: it
 * took too long.
 *
 *   backend-unavailable       503  every server refused, is unreachable, or has no address
 *   backend-busy              503  all connections are in use, and max_waiting others wait
 *   backend-wait-timeout      503  none came free within wait_timeout
 *   backend-connect-timeout   504  no server took a connection within connect_timeout
 *   backend-tls               502  no server passed the TLS handshake
 *   backend-broken            502  the answer broke off, before its head or inside it
 *   backend-invalid           502  the answer is not HTTP
 *   backend-timeout           504  no answer within response_timeout, or no bytes within idle_timeout
 */
enum upstream_result {
    UPSTREAM_DONE,    /* the whole response was delivered */
    UPSTREAM_REFUSED, /* nothing reached a backend */
    UPSTREAM_BROKEN,  /* failed after bytes went out; whether it took effect is unknown */
};

struct upstream_failure {
    enum upstream_result result;
    enum reason reason;
    const char *text;   /* for the log */
    const char *server; /* likewise; "" when none was chosen */
};

/* Callbacks never run from inside a call on this exchange but from the event loop. Each may call
 * upstream_abort(). */
struct upstream_handlers {
    /* There is room for body again, after upstream_body_begin() had given none. */
    void (*on_writable)(void *arg);
    /* A head: of an interim response (1xx, may come several times) or the final one. Borrowed for
     * the call. After the final one upstream_read_body() may be called at once, without on_readable:
     * it costs no system call when nothing has come with the head. */
    void (*on_head)(const struct http_head *head, void *arg);
    /* Body bytes or the end are waiting: call upstream_read_body(). Not repeated until that was
     * called and said MORE. */
    void (*on_readable)(void *arg);
    /* The exchange failed: at most once, nothing follows, the handle is gone. */
    void (*on_failed)(const struct upstream_failure *failure, void *arg);
};

/* Never fails at once: failures come through on_failed. */
struct upstream *upstream_start(struct upstream_pool *pool, const struct upstream_request *request,
                                const struct upstream_handlers *handlers, void *arg) MUST_CHECK;

/* Lends the outgoing buffer with room for at least one and at most *out_room body bytes; NULL when
 * there is none now (on_writable follows). Append at most *out_room bytes to it, then call
 * upstream_body_end(), before anything else. */
struct buf *upstream_body_begin(struct upstream *upstream, size_t *out_room) MUST_CHECK;
void upstream_body_end(struct upstream *upstream);
/* The body is complete (call it also when framing is NONE: then at once after the start). */
void upstream_body_finish(struct upstream *upstream);

enum upstream_read {
    UPSTREAM_READ_MORE, /* nothing more now: on_readable follows */
    UPSTREAM_READ_FULL, /* `sink` has no room, or has got `max` bytes: call again when there is room
                         */
    UPSTREAM_READ_DONE, /* the response is complete; call upstream_finish() */
    UPSTREAM_READ_FAILED, /* broke off: on_failed will not run; see upstream_failure(), then call
                             upstream_abort() */
};
/* Appends what has arrived to `sink`, at most `max` bytes. Only between the final on_head and DONE.
 */
enum upstream_read upstream_read_body(struct upstream *upstream, struct buf *sink,
                                      size_t max) MUST_CHECK;

/* Why, after READ_FAILED; NULL otherwise. Lives as long as the handle. */
const struct upstream_failure *upstream_failure(const struct upstream *upstream);

/* After DONE: gives the connection back to the pool if both sides may keep it, else closes it.
 * Clears the handle. */
void upstream_finish(struct upstream **upstream);
/* Ends the exchange at any moment and closes its connection; no callback follows. NULL inside is
 * fine. */
void upstream_abort(struct upstream **upstream);

/* "127.0.0.1:8080" or "unix:/run/api.sock": the server of this exchange, for the log; "" before one
 * was chosen. */
const char *upstream_server(const struct upstream *upstream);
