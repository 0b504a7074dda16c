/* SPDX-License-Identifier: BSD-2-Clause */
/* The connections of one backend: what is kept, what is in use. For upstream.c and response.c
 * alone; which server comes next is decided in server.h.
 *
 *              pool_connect()             pool_keep()
 *      (none) ────────────────▶ in use ────────────────▶ kept
 *                               │    ▲                   │  │
 *             pool_conn_close() │    └───────────────────┘  │ idle too long, bytes, end of file
 *                               ▼      pool_take_kept()     ▼
 *                             closed                      closed
 *
 * A kept connection has nothing to say: whatever comes on it, bytes or the end, closes it. They
 * form a stack, the most recently used on top, because that one is the likeliest to live; all wait
 * equally long, so the one at the bottom is always the first to expire and one timer serves them
 * all. */
#pragma once

#include <event2/event.h>
#include <event2/event_struct.h>
#include <sys/uio.h>

#include "gateway/base/list.h"
#include "gateway/http/parser.h"
#include "gateway/upstream/connect.h"
#include "gateway/upstream/upstream.h"

struct upstream_pool {
    struct upstream_pool_params params;
    struct servers servers;
    struct health *health;   /* owned; NULL without probes */
    struct backend_row *row; /* borrowed from the counts */
    struct list kept;        /* struct pool_conn, most recently used first */
    struct list waiting;     /* struct upstream, by `queued`; who came first is in front */
    size_t n_waiting;
    size_t n_kept;
    size_t n_conns; /* in use and kept */
    struct event expiry;
    size_t refs;  /* the owner's and one of each exchange */
    bool closing; /* the owner has let go: nothing is kept any more */
};

/* EV_READ, EV_WRITE or both have happened. From the event loop only; may close the connection. */
typedef void pool_conn_fn(short what, void *arg);

/* The pool's while kept, the exchange's while in use. */
struct pool_conn {
    struct list link; /* in pool->kept while kept */
    struct upstream_pool
        *pool; /* borrowed: the user holds a reference, and its end closes the kept ones */
    struct server *server; /* borrowed from the pool */
    int fd;
    struct stream *stream;      /* owned; NULL: plain, or not connected yet. It closes `fd` */
    struct event readable;      /* persistent; may be paused while in use */
    struct event writable;      /* once */
    struct http_parser *parser; /* owned */
    pool_conn_fn *on_io;        /* NULL while kept */
    void *arg;
    int64_t expires_ms; /* while kept */
    uint64_t sent;      /* bytes, in this use; with TLS: before this use, as stream_sent() counts */
    bool reading;       /* `readable` is pending */
    bool connected;     /* pool_conn_advance() need not be called any more */
    bool reused;        /* it was kept before */
    bool ended;         /* the end of file was read, */
    bool broke;         /* or reading or writing failed */
    bool unsure; /* kept; more bytes than the answer may have come: look before the next use */
    size_t refs; /* open, and inside its own callback */
};

void pool_ref(struct upstream_pool *pool);
void pool_unref(struct upstream_pool *pool);

/* A kept connection to `server`; NULL when there is none. Reads from now on. The loop closes kept
 * ones as soon as it hears of their end; POOL_TAKE_ALIVE asks the kernel as well, for requests that
 * could not be sent again. */
enum pool_take { POOL_TAKE_ANY, POOL_TAKE_ALIVE };
struct pool_conn *pool_take_kept(struct upstream_pool *pool, const struct server *server,
                                 enum pool_take take, pool_conn_fn *on_io, void *arg);

/* False when all connections that may be are in use; closes a kept one where that helps. */
bool pool_has_room(struct upstream_pool *pool, const struct server *server) MUST_CHECK;
/* upstream.c is told: there may be room for the exchange that waits in front. Only notes it. */
void upstream_wake(struct list *queued);
void pool_wake_waiting(struct upstream_pool *pool);
/* Call only when pool_has_room(). With DONE and PENDING there is a connection: while it is PENDING,
 * whatever it reports means to call pool_conn_advance(). */
enum connect_result pool_connect(struct upstream_pool *pool, struct server *server,
                                 pool_conn_fn *on_io, void *arg, struct pool_conn **out_conn,
                                 int *out_error) MUST_CHECK;

/* Goes on with connecting, up to the end of the TLS handshake. */
enum pool_advance {
    POOL_ADVANCE_DONE,
    POOL_ADVANCE_PENDING,
    POOL_ADVANCE_FAILED, /* pool_conn_error() says why; errno is ETIMEDOUT when TCP gave up */
    POOL_ADVANCE_NO_TLS, /* likewise: there is a server, but its certificate or its TLS will not do */
};
enum pool_advance pool_conn_advance(struct pool_conn *conn) MUST_CHECK;
/* Right after something failed: one sentence, valid until the next call. */
const char *pool_conn_error(const struct pool_conn *conn);

/* Hands a connection back, whose last exchange ended so that another may follow. Closes it if none
 * more can be kept. Clears the pointer. */
void pool_keep(struct pool_conn **conn);
/* Bytes wait inside TLS that the socket will not announce. */
bool pool_conn_has_more(const struct pool_conn *conn);
/* What became of the bytes of this use, when reading has ended or failed. */
enum sent_fate pool_conn_sent_fate(const struct pool_conn *conn) MUST_CHECK;
/* Clears the pointer; NULL inside is fine. */
void pool_conn_close(struct pool_conn **conn);
/* Likewise, and what the kernel has not delivered yet is thrown away (TCP: a reset). */
void pool_conn_discard(struct pool_conn **conn);

void pool_conn_read_on(struct pool_conn *conn);
void pool_conn_read_pause(struct pool_conn *conn);
void pool_conn_await_writable(struct pool_conn *conn);

enum pool_io {
    POOL_IO_DONE,  /* *out_len bytes, at least one */
    POOL_IO_WAIT,  /* not now */
    POOL_IO_EOF,   /* the backend has ended its side */
    POOL_IO_ERROR, /* pool_conn_error() says what */
};
enum pool_io pool_conn_read(struct pool_conn *conn, char *data, size_t size,
                            size_t *out_len) MUST_CHECK;
enum pool_io pool_conn_write(struct pool_conn *conn, struct iovec *pieces, size_t n,
                             size_t *out_len) MUST_CHECK;
