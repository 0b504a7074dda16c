/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/upstream/pool.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/base/clock.h"
#include "gateway/base/mem.h"
#include "gateway/tls/stream.h"
#include "gateway/upstream/health.h"

/* Of a response's head. */
enum { TLS_RECORD_MAX = 16 * 1024 };
enum { RESPONSE_HEAD_MAX = 64 * 1024, RESPONSE_FIELDS_MAX = 200 };

static void pool_conn_unref(struct pool_conn *conn)
{
    assert(conn->refs > 0);
    if (--conn->refs > 0)
        return;
    http_parser_free(&conn->parser);
    mem_free(conn);
}

/* The newest session of a server is what the next connection to it begins with. */
static void pool_conn_save_session(struct pool_conn *conn)
{
    struct tls_session *session = tls_client_take_session(conn->stream);

    if (session == NULL)
        return;
    tls_session_free(&conn->server->session);
    conn->server->session = session;
}

static void pool_conn_end_tls(struct pool_conn *conn)
{
    if (conn->connected) {
        pool_conn_save_session(conn);
        enum stream_result farewell = stream_shutdown(conn->stream);
        (void)farewell; /* it goes out at once or not at all */
    }
    stream_free(&conn->stream);
}

static bool pool_conn_is_quiet(struct pool_conn *conn);

static void pool_unkeep(struct pool_conn *conn)
{
    list_remove(&conn->link);
    conn->pool->n_kept--;
    conn->server->n_kept--;
}

void pool_wake_waiting(struct upstream_pool *pool)
{
    if (!list_is_empty(&pool->waiting))
        upstream_wake(pool->waiting.next);
}

void pool_conn_close(struct pool_conn **conn_at)
{
    struct pool_conn *conn = *conn_at;

    *conn_at = NULL;
    if (conn == NULL)
        return;
    event_del(&conn->readable);
    event_del(&conn->writable);
    if (conn->stream != NULL)
        pool_conn_end_tls(conn);
    else
        close(conn->fd);
    conn->fd = -1;
    if (list_is_linked(&conn->link))
        pool_unkeep(conn);
    conn->pool->n_conns--;
    conn->server->n_conns--;
    stat_add(&conn->pool->row->connections, (uint64_t)-1);
    pool_wake_waiting(conn->pool);
    pool_conn_unref(conn);
}

void pool_conn_discard(struct pool_conn **conn_at)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    /* Means nothing to a Unix socket: what was written to one has arrived. */
    if (*conn_at != NULL)
        (void)setsockopt((*conn_at)->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    pool_conn_close(conn_at);
}

/* libevent's entry for every connection. The reference keeps the events' memory while their own
 * callback runs. */
static void pool_conn_on_event(evutil_socket_t fd, short what, void *arg)
{
    struct pool_conn *conn = arg;
    struct pool_conn *closing = conn;

    conn->refs++;
    if (conn->on_io != NULL)
        conn->on_io(what & (EV_READ | EV_WRITE), conn->arg);
    else if (!pool_conn_is_quiet(conn))
        pool_conn_close(&closing); /* kept: nothing may come, not even the end */
    if (conn->fd >= 0 && conn->reading && pool_conn_has_more(conn))
        event_active(&conn->readable, EV_READ, 0);
    pool_conn_unref(conn);
}

void pool_conn_read_on(struct pool_conn *conn)
{
    if (!conn->reading)
        event_add(&conn->readable, NULL);
    conn->reading = true;
    if (pool_conn_has_more(conn))
        event_active(&conn->readable, EV_READ, 0);
}

void pool_conn_read_pause(struct pool_conn *conn)
{
    if (!conn->reading)
        return;
    event_del(&conn->readable);
    conn->reading = false;
}

void pool_conn_await_writable(struct pool_conn *conn)
{
    event_add(&conn->writable, NULL);
}

/* The kernel tells a socket's error once, and afterwards nothing but its end. EPIPE is what it says
 * of a reset that came behind the end. */
static enum pool_io pool_conn_failed(struct pool_conn *conn)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return POOL_IO_WAIT;
    conn->broke = conn->broke || errno != EPIPE;
    return POOL_IO_ERROR;
}

enum sent_fate pool_conn_sent_fate(const struct pool_conn *conn)
{
    uint64_t sent = conn->stream != NULL ? stream_sent(conn->stream) - conn->sent : conn->sent;

    return conn->ended && !conn->broke ? connect_sent_fate(conn->fd, sent) : SENT_TAKEN;
}

/* Of TLS, where we do not know which error the kernel told: only an orderly end is one. */
static enum pool_io pool_conn_tls_outcome(struct pool_conn *conn, enum stream_result result)
{
    switch (result) {
    case STREAM_DONE:
        return POOL_IO_DONE;
    case STREAM_WANT_READ:
        return POOL_IO_WAIT;
    case STREAM_WANT_WRITE:
        pool_conn_await_writable(conn);
        return POOL_IO_WAIT;
    case STREAM_CLOSED:
        conn->ended = true;
        return POOL_IO_EOF;
    case STREAM_ERROR:
        break;
    }
    conn->broke = true;
    return POOL_IO_ERROR;
}

enum pool_io pool_conn_read(struct pool_conn *conn, char *data, size_t size, size_t *out_len)
{
    ssize_t n;

    if (conn->stream != NULL)
        return pool_conn_tls_outcome(conn, stream_read(conn->stream, data, size, out_len));

    do {
        n = recv(conn->fd, data, size, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return pool_conn_failed(conn);
    if (n == 0) {
        conn->ended = true;
        return POOL_IO_EOF;
    }
    *out_len = (size_t)n;
    return POOL_IO_DONE;
}

/* One record of what there is: head and beginning of the body leave together. What is repeated after
 * WAIT begins with the same bytes and is not less, as stream_write() wants it. */
static enum pool_io pool_conn_write_tls(struct pool_conn *conn, const struct iovec *pieces,
                                        size_t n, size_t *out_len)
{
    const struct upstream_pool_params *params = &conn->pool->params;
    size_t max = params->scratch_size < TLS_RECORD_MAX ? params->scratch_size : TLS_RECORD_MAX;
    size_t len = 0;

    for (size_t i = 0; i < n && len < max; i++) {
        size_t part = pieces[i].iov_len < max - len ? pieces[i].iov_len : max - len;
        if (part > 0)
            memcpy(params->scratch + len, pieces[i].iov_base, part);
        len += part;
    }
    return pool_conn_tls_outcome(conn, stream_write(conn->stream, params->scratch, len, out_len));
}

enum pool_io pool_conn_write(struct pool_conn *conn, struct iovec *pieces, size_t n_pieces,
                             size_t *out_len)
{
    const struct msghdr message = {.msg_iov = pieces, .msg_iovlen = n_pieces};
    ssize_t n;

    if (conn->stream != NULL)
        return pool_conn_write_tls(conn, pieces, n_pieces, out_len);
    do {
        n = sendmsg(conn->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return pool_conn_failed(conn);
    *out_len = (size_t)n;
    conn->sent += (uint64_t)n;
    return POOL_IO_DONE;
}

const char *pool_conn_error(const struct pool_conn *conn)
{
    return conn->stream != NULL ? stream_error(conn->stream) : strerrordesc_np(errno);
}

bool pool_conn_has_more(const struct pool_conn *conn)
{
    return conn->stream != NULL && conn->connected && stream_has_pending(conn->stream);
}

/* Nothing to read and no end: what a connection must look like before a request goes out on it. TLS
 * may have to say something that is none of our business (a session ticket). */
static bool pool_conn_is_quiet(struct pool_conn *conn)
{
    char byte;
    size_t len;

    if (conn->stream != NULL)
        return stream_read(conn->stream, &byte, 1, &len) == STREAM_WANT_READ;
    return recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
           (errno == EAGAIN || errno == EWOULDBLOCK);
}

static struct pool_conn *pool_oldest(const struct upstream_pool *pool)
{
    return list_is_empty(&pool->kept) ? NULL : list_entry(pool->kept.prev, struct pool_conn, link);
}

static void pool_arm_expiry(struct upstream_pool *pool)
{
    const struct pool_conn *oldest = pool_oldest(pool);

    if (oldest == NULL)
        return;
    int64_t left = oldest->expires_ms - clock_monotonic_ms();
    if (left < 0)
        left = 0;
    const struct timeval in = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
    event_add(&pool->expiry, &in);
}

/* The timer is not moved when connections leave the stack: then it finds nothing to do, and waits
 * for the next. */
static void pool_on_expiry(evutil_socket_t fd, short what, void *arg)
{
    struct upstream_pool *pool = arg;
    int64_t now = clock_monotonic_ms();
    struct pool_conn *oldest;

    while ((oldest = pool_oldest(pool)) != NULL && oldest->expires_ms <= now)
        pool_conn_close(&oldest);
    pool_arm_expiry(pool);
}

struct upstream_pool *upstream_pool_new(const struct upstream_pool_params *params)
{
    struct upstream_pool *pool = mem_new(struct upstream_pool);

    pool->params = *params;
    pool->refs = 1;
    list_init(&pool->kept);
    list_init(&pool->waiting);
    pool->row = upstream_counts_backend(params->counts, params->worker, params->backend->name);
    stat_add(&pool->row->pools, 1);
    servers_init(&pool->servers, &(struct servers_params){.backend = params->backend,
                                                          .resolved = params->resolved,
                                                          .counts = params->counts,
                                                          .worker = params->worker});
    event_assign(&pool->expiry, params->base, -1, 0, pool_on_expiry, pool);
    pool->health = health_start(pool);
    return pool;
}

void upstream_pool_inherit(struct upstream_pool *pool, const struct upstream_pool *before)
{
    servers_inherit(&pool->servers, &before->servers);
}

void pool_ref(struct upstream_pool *pool)
{
    pool->refs++;
}

void pool_unref(struct upstream_pool *pool)
{
    assert(pool->refs > 0);
    if (--pool->refs > 0)
        return;
    assert(pool->n_conns == 0);
    event_del(&pool->expiry);
    servers_deinit(&pool->servers);
    stat_add(&pool->row->pools, (uint64_t)-1);
    mem_free(pool);
}

void upstream_pool_unref(struct upstream_pool **pool_at)
{
    struct upstream_pool *pool = *pool_at;
    struct pool_conn *oldest;

    *pool_at = NULL;
    if (pool == NULL)
        return;
    pool->closing = true;
    health_stop(&pool->health);
    while ((oldest = pool_oldest(pool)) != NULL)
        pool_conn_close(&oldest);
    pool_unref(pool);
}

size_t upstream_pool_connections(const struct upstream_pool *pool)
{
    return pool->n_conns;
}

static struct pool_conn *pool_find_kept(struct upstream_pool *pool, const struct server *server)
{
    for (struct list *link = pool->kept.next; link != &pool->kept; link = link->next) {
        struct pool_conn *conn = list_entry(link, struct pool_conn, link);
        if (conn->server == server)
            return conn;
    }
    return NULL;
}

struct pool_conn *pool_take_kept(struct upstream_pool *pool, const struct server *server,
                                 enum pool_take take, pool_conn_fn *on_io, void *arg)
{
    struct pool_conn *conn;

    while ((conn = pool_find_kept(pool, server)) != NULL) {
        if ((take == POOL_TAKE_ALIVE || conn->unsure) && !pool_conn_is_quiet(conn)) {
            pool_conn_close(&conn);
            continue;
        }
        pool_unkeep(conn);
        conn->sent = conn->stream != NULL ? stream_sent(conn->stream) : 0;
        conn->on_io = on_io;
        conn->arg = arg;
        return conn;
    }
    return NULL;
}

bool pool_has_room(struct upstream_pool *pool, const struct server *server)
{
    const struct config_backend *backend = pool->params.backend;
    struct pool_conn *of_server = pool_find_kept(pool, server);

    if (server->n_conns >= backend->max_connections_per_server)
        pool_conn_close(&of_server);
    struct pool_conn *oldest = pool_oldest(pool);
    if (pool->n_conns >= backend->max_connections)
        pool_conn_close(&oldest);
    return server->n_conns < backend->max_connections_per_server &&
           pool->n_conns < backend->max_connections;
}

static struct pool_conn *pool_conn_new(struct upstream_pool *pool, struct server *server, int fd)
{
    const struct http_parser_limits limits = {.head_max = RESPONSE_HEAD_MAX,
                                              .fields_max = RESPONSE_FIELDS_MAX};
    struct pool_conn *conn = mem_new(struct pool_conn);

    list_init(&conn->link);
    conn->pool = pool;
    conn->server = server;
    conn->fd = fd;
    conn->refs = 1;
    conn->parser = http_parser_new(HTTP_PARSER_RESPONSE, limits);
    event_assign(&conn->readable, pool->params.base, fd, EV_READ | EV_PERSIST, pool_conn_on_event,
                 conn);
    event_assign(&conn->writable, pool->params.base, fd, EV_WRITE, pool_conn_on_event, conn);
    pool->n_conns++;
    server->n_conns++;
    stat_add(&pool->row->connections, 1);
    return conn;
}

enum connect_result pool_connect(struct upstream_pool *pool, struct server *server,
                                 pool_conn_fn *on_io, void *arg, struct pool_conn **out_conn,
                                 int *out_error)
{
    int fd;
    enum connect_result result = connect_begin(server, &fd, out_error);

    if (result == CONNECT_LATER || result == CONNECT_FAILED)
        return result;
    struct pool_conn *conn = pool_conn_new(pool, server, fd);
    conn->on_io = on_io;
    conn->arg = arg;
    conn->connected = result == CONNECT_DONE && pool->params.tls == NULL;
    if (!conn->connected)
        pool_conn_await_writable(conn);
    *out_conn = conn;
    return conn->connected ? CONNECT_DONE : CONNECT_PENDING;
}

static enum pool_advance pool_conn_shake_hands(struct pool_conn *conn)
{
    enum stream_result result = stream_handshake(conn->stream);

    if (result == STREAM_WANT_READ) {
        pool_conn_read_on(conn);
        return POOL_ADVANCE_PENDING;
    }
    pool_conn_read_pause(conn);
    if (result == STREAM_WANT_WRITE) {
        pool_conn_await_writable(conn);
        return POOL_ADVANCE_PENDING;
    }
    if (result == STREAM_DONE) {
        conn->sent = stream_sent(conn->stream);
        conn->connected = true;
        return POOL_ADVANCE_DONE;
    }
    tls_session_free(&conn->server->session);
    return POOL_ADVANCE_NO_TLS;
}

enum pool_advance pool_conn_advance(struct pool_conn *conn)
{
    if (conn->stream != NULL)
        return pool_conn_shake_hands(conn);
    errno = connect_outcome(conn->fd);
    if (errno != 0)
        return POOL_ADVANCE_FAILED;
    if (conn->pool->params.tls == NULL) {
        conn->connected = true;
        return POOL_ADVANCE_DONE;
    }
    conn->stream = tls_client_stream(conn->pool->params.tls, conn->fd, conn->server->tls_name,
                                     conn->server->session);
    return pool_conn_shake_hands(conn);
}

void pool_keep(struct pool_conn **conn_at)
{
    struct pool_conn *conn = *conn_at;
    struct upstream_pool *pool = conn->pool;
    size_t limit = pool->params.backend->keepalive_connections;
    struct pool_conn *oldest = pool_oldest(pool);

    if (pool->closing || limit == 0) {
        pool_conn_close(conn_at);
        return;
    }
    if (pool->n_kept >= limit)
        pool_conn_close(&oldest);
    *conn_at = NULL;
    http_parser_next(conn->parser);
    event_del(&conn->writable);
    pool_conn_read_on(conn);
    conn->on_io = NULL;
    conn->arg = NULL;
    conn->reused = true;
    if (conn->stream != NULL)
        pool_conn_save_session(conn);
    conn->expires_ms = clock_monotonic_ms() + pool->params.backend->keepalive_timeout_ms;
    list_push_front(&pool->kept, &conn->link);
    pool->n_kept++;
    conn->server->n_kept++;
    if (!event_pending(&pool->expiry, EV_TIMEOUT, NULL))
        pool_arm_expiry(pool);
    pool_wake_waiting(pool);
}
