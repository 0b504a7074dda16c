/* SPDX-License-Identifier: BSD-2-Clause */
/* How a connection is driven: every callback - socket, timer, store, exchange - ends in
 * connection_run(), which takes steps until one of them has nothing to do. A step does one thing
 * and says MORE, WAIT or OVER.
 *
 * Reading is level-triggered and stays on: only when bytes are announced and nobody takes any is it
 * switched off, for they would be announced again in each turn, and who has room again switches it
 * on. A turn reads at most TURN_BYTES_MAX of one connection, however fast the other side takes them.
 * Writing is armed only while the socket is full. `in` holds what the peer sent and nobody parsed; `out` what
 * we wrote and the peer did not take. Both are bounded; a full one stops its source. Deadlines:
 * connection_deadline.c. */
#include "gateway/connection_private.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdlib.h>

#include "gateway/base/clock.h"
#include "gateway/base/mem.h"
#include "gateway/http/parser.h"
#include "gateway/tls/stream.h"

enum {
    LINGER_BYTES = 1 << 20, /* and how much it may send in that time */
    STEPS_A_TURN = 64,      /* then other connections get their turn */
    TURN_BYTES_MAX = 256 * 1024,
    READ_LEAST = 2048, /* no read is started into less room than this */
};

static const char *const connection_doing[] = {
    [CONNECTION_HANDSHAKE] = "in the TLS handshake",
    [CONNECTION_ADMITTING] = "waiting for admission",
    [CONNECTION_IDLE] = "waiting for a request",
    [CONNECTION_EXCHANGE] = "in an exchange",
    [CONNECTION_LINGER] = "closing",
    [CONNECTION_CLOSED] = "closed",
};

/* The picture in connection.h, as a table: state x -> states that may follow. */
void connection_set_state(struct connection *conn, enum connection_state state)
{
    static const unsigned follows[] = {
        [CONNECTION_HANDSHAKE] = 1u << CONNECTION_ADMITTING | 1u << CONNECTION_IDLE |
                                 1u << CONNECTION_LINGER | 1u << CONNECTION_CLOSED,
        [CONNECTION_ADMITTING] =
            1u << CONNECTION_IDLE | 1u << CONNECTION_LINGER | 1u << CONNECTION_CLOSED,
        [CONNECTION_IDLE] = 1u << CONNECTION_EXCHANGE | 1u << CONNECTION_ADMITTING |
                            1u << CONNECTION_LINGER | 1u << CONNECTION_CLOSED,
        [CONNECTION_EXCHANGE] =
            1u << CONNECTION_IDLE | 1u << CONNECTION_LINGER | 1u << CONNECTION_CLOSED,
        [CONNECTION_LINGER] = 1u << CONNECTION_CLOSED,
        [CONNECTION_CLOSED] = 0,
    };
    assert(follows[conn->state] & (1u << state));
    if (conn->state == CONNECTION_HANDSHAKE) {
        list_remove(&conn->handshake);
        budget_end_handshake(conn->worker->budget, &conn->claim);
    }
    if (state == CONNECTION_LINGER)
        budget_leave_device(conn->worker->budget, &conn->claim);
    conn->state = state;
}

/* --- the end ---------------------------------------------------------------------------------- */

/* Not the peer's doing: these lines are as many as there are such connections. */
static bool connection_was_ended_by_us(enum reason reason)
{
    return reason == REASON_CUT_DENIED || reason == REASON_CUT_RETIRED ||
           reason == REASON_CUT_UNTRUSTED || reason == REASON_DRAINED;
}

static void connection_log_close(const struct connection *conn)
{
    enum log_level level = peer_log_level(conn->close_reason);
    const struct stream_peer *peer = stream_peer(conn->stream);
    bool named = peer != NULL && peer->identity == PEER_IDENTIFIED;

    if (!connection_was_ended_by_us(conn->close_reason) &&
        !peer_log_pass(conn->worker, PEER_LOG_CLOSE, conn->close_reason, level))
        return;
    log_write(
        level, "connection closed", LOG_STR("reason", reason_wire(conn->close_reason)),
        LOG_STR(
            "while",
            connection_doing[conn->state == CONNECTION_LINGER ? conn->lingers_from : conn->state]),
        LOG_STR("detail", stream_error(conn->stream)),
        LOG_STR("listener", conn->env.listener != NULL ? conn->env.listener->name : "operator"),
        LOG_STR("peer", conn->peer.address), LOG_INT("port", conn->peer.port),
        LOG_STR("device", named ? peer->credentials.device : ""),
        LOG_STR("key", named ? peer->credentials.key.id.hex : ""),
        LOG_STR("tls", stream_version(conn->stream)),
        LOG_INT("age_ms", clock_monotonic_ms() - conn->peer.opened_ms),
        LOG_INT("requests", conn->requests), LOG_INT("bytes_in", conn->bytes_read),
        LOG_INT("bytes_out", conn->bytes_written));
}

void connection_close(struct connection *conn, enum reason reason)
{
    struct worker *worker = conn->worker;

    if (conn->state == CONNECTION_CLOSED)
        return;
    conn->close_reason = reason;
    connection_log_close(conn);
    connection_set_state(conn, CONNECTION_CLOSED);
    if (conn->exchange != NULL)
        exchange_cut_off(conn->exchange, reason);
    exchange_free(&conn->exchange);
    admission_cancel(&conn->admission);
    event_del(&conn->read_event);
    event_del(&conn->write_event);
    event_del(&conn->again_event);
    event_del(&conn->timer);
    connection_index_remove(worker->index_by_device, &conn->index);
    list_remove(&conn->link);
    list_push_back(&worker->closed, &conn->link);
    budget_leave(worker->budget, &conn->claim);
    worker->n_connections--;
    stat_set(&conn->listener_stats->open, stat_get(&conn->listener_stats->open) - 1);
    stat_add(&worker->stats->closes[reason], 1);
    event_active(worker->sweep, EV_TIMEOUT, 0);
    /* The peer notices now, not at the sweep; nothing of the connection touches the socket any
     * more. */
    stream_free(&conn->stream);
}

static void connection_free(struct connection *conn)
{
    list_remove(&conn->link);
    http_parser_free(&conn->parser);
    buf_release(&conn->in);
    buf_release(&conn->out);
    generation_unref(&conn->env.generation);
    generation_unref(&conn->tls_generation);
    mem_free(conn);
}

void connections_sweep(struct worker *worker)
{
    list_for_each_safe (link, following, &worker->closed)
        connection_free(list_entry(link, struct connection, link));
}

/* --- bytes ------------------------------------------------------------------------------------ */

static void connection_arm_read(struct connection *conn, bool armed)
{
    if (conn->read_armed == armed)
        return;
    conn->read_armed = armed;
    if (armed)
        (void)event_add(&conn->read_event, NULL);
    else
        (void)event_del(&conn->read_event);
}

/* All that the peer has sent was taken. */
static void connection_await_readable(struct connection *conn)
{
    conn->readable = false;
    connection_arm_read(conn, true);
}

/* In the loop's next turn; others come first. */
static void connection_go_on_later(struct connection *conn)
{
    static const struct timeval at_once = {0, 0};

    (void)evtimer_add(&conn->again_event, &at_once);
}

static enum reason connection_lost_reason(const struct connection *conn)
{
    return stream_is_violated(conn->stream) ? REASON_TLS_BROKEN : REASON_CLOSED_BY_PEER;
}

static bool connection_has_input(const struct connection *conn)
{
    return conn->readable || stream_has_pending(conn->stream);
}

/* Takes what the peer has sent, as far as there is room. False when nothing came; then the
 * connection may be closed. */
static bool connection_fill(struct connection *conn)
{
    size_t room = 0, len = 0;

    if (conn->peer_ended || !connection_has_input(conn))
        return false;
    if (conn->turn_bytes >= TURN_BYTES_MAX) {
        connection_go_on_later(conn);
        return false;
    }
    char *to = buf_space(&conn->in) >= READ_LEAST ? buf_reserve(&conn->in, &room) : NULL;
    if (to == NULL)
        return false;
    connection_arm_read(conn, true);
    conn->took = true;
    switch (stream_read(conn->stream, to, room, &len)) {
    case STREAM_DONE:
        buf_commit(&conn->in, len);
        conn->bytes_read += len;
        stat_add(&conn->worker->stats->bytes_in, len);
        conn->turn_bytes += len;
        /* The socket is level-triggered: what is left there will be announced again. */
        conn->readable = len == room;
        return true;
    case STREAM_WANT_READ:
        connection_await_readable(conn);
        return false;
    case STREAM_WANT_WRITE:
        conn->writable = false;
        (void)event_add(&conn->write_event, NULL);
        connection_arm_read(conn, false);
        return false;
    case STREAM_CLOSED:
        conn->peer_ended = true;
        connection_arm_read(conn, false);
        return true;
    case STREAM_ERROR:
        connection_close(conn, connection_lost_reason(conn));
        return false;
    }
    return false;
}

/* True when the peer took something. The connection may be closed afterwards. */
static bool connection_flush(struct connection *conn)
{
    bool wrote = false;

    while (!buf_is_empty(&conn->out) && conn->writable) {
        struct str data = buf_peek(&conn->out);
        size_t len = 0;
        switch (stream_write(conn->stream, data.p, data.len, &len)) {
        case STREAM_DONE:
            buf_consume(&conn->out, len);
            conn->bytes_written += len;
            stat_add(&conn->worker->stats->bytes_out, len);
            wrote = true;
            break;
        case STREAM_WANT_READ: /* cannot be: nothing renegotiates. Treated like a full socket. */
        case STREAM_WANT_WRITE:
            conn->writable = false;
            (void)event_add(&conn->write_event, NULL);
            break;
        case STREAM_CLOSED:
        case STREAM_ERROR:
            connection_close(conn, connection_lost_reason(conn));
            return false;
        }
    }
    return wrote;
}

/* --- the orderly end -------------------------------------------------------------------------- */

void connection_linger(struct connection *conn, enum reason reason)
{
    if (conn->state == CONNECTION_LINGER || conn->state == CONNECTION_CLOSED)
        return;
    exchange_free(&conn->exchange);
    conn->close_reason = reason;
    conn->lingers_from = conn->state;
    buf_release(&conn->in);
    connection_set_state(conn, CONNECTION_LINGER);
}

/* Everything is written and our side ended: read on until the peer ends its own, or the time is
 * over. Closing at once could destroy the answer on its way (RFC 9112, 9.6). */
static enum step connection_step_linger(struct connection *conn)
{
    size_t len = 0;

    (void)connection_flush(conn);
    if (conn->state == CONNECTION_CLOSED)
        return STEP_OVER;
    if (!buf_is_empty(&conn->out))
        return STEP_WAIT;
    if (conn->linger_bytes == 0) {
        enum stream_result result = stream_shutdown(conn->stream);
        if (result == STREAM_WANT_WRITE) {
            (void)event_add(&conn->write_event, NULL);
            return STEP_WAIT;
        }
        conn->linger_bytes = 1;
    }
    if (!conn->peer_ended && conn->linger_bytes <= LINGER_BYTES) {
        conn->took = true;
        enum stream_result result =
            stream_drain(conn->stream, conn->worker->scratch, WORKER_SCRATCH_SIZE, &len);
        conn->linger_bytes += len;
        if (result == STREAM_WANT_READ)
            connection_await_readable(conn);
        if (result != STREAM_CLOSED)
            return result == STREAM_DONE ? STEP_MORE : STEP_WAIT;
    }
    connection_close(conn, conn->close_reason);
    return STEP_OVER;
}

void connection_count_failed_handshake(struct connection *conn, enum stream_failure why)
{
    stat_add(&conn->worker->stats->handshakes_failed[why], 1);
}

static enum step connection_step_handshake(struct connection *conn)
{
    enum stream_result result = stream_handshake(conn->stream);

    conn->took = true;
    switch (result) {
    case STREAM_DONE:
        conn->readable = true; /* the request may have come in the same segment */
        return connection_identify(conn);
    case STREAM_WANT_READ:
        connection_note_alive(conn);
        connection_await_readable(conn);
        return STEP_WAIT;
    case STREAM_WANT_WRITE:
        connection_note_alive(conn);
        (void)event_add(&conn->write_event, NULL);
        return STEP_WAIT;
    case STREAM_CLOSED:
        connection_close(conn, REASON_CLOSED_WITHOUT_HELLO);
        return STEP_OVER;
    case STREAM_ERROR:
        break;
    }
    /* At TLS 1.3 the peer may have sent a request already: let the alert reach it first. */
    connection_count_failed_handshake(conn, stream_failure(conn->stream));
    connection_linger(conn, REASON_TLS_FAILED);
    return STEP_MORE;
}

/* --- requests --------------------------------------------------------------------------------- */

void connection_renew_generation(struct connection *conn)
{
    struct generation *newest = conn->worker->generation;

    if (conn->env.generation == newest)
        return;
    const char *name = conn->env.listener != NULL ? conn->env.listener->name : NULL;
    const struct config *config = newest->snapshot->config;
    for (size_t i = 0; name != NULL && i < config->n_listeners; i++) {
        if (strcmp(config->listeners[i].name, name) == 0)
            conn->env.listener = &config->listeners[i];
    }
    generation_unref(&conn->env.generation);
    conn->env.generation = generation_ref(newest);
    connection_adopt_rules(conn);
}

static void connection_begin_exchange(struct connection *conn)
{
    conn->head_waits = false;
    conn->requests++;
    connection_start_pace(conn);
    connection_keep_standing(conn);
    if (conn->refusal != REASON_OK)
        conn->exchange =
            exchange_new_refusal(&conn->env, http_parser_head(conn->parser), conn->refusal, NULL);
    else
        conn->exchange = exchange_new(&conn->env, conn->last_request);
    connection_set_state(conn, CONNECTION_EXCHANGE);
}

void connection_refuse_malformed(struct connection *conn, enum reason reason, const char *detail)
{
    conn->requests++;
    connection_start_pace(conn);
    conn->exchange = exchange_new_refusal(&conn->env, NULL, reason, detail);
    connection_set_state(conn, CONNECTION_EXCHANGE);
}

static enum step connection_parse_head(struct connection *conn)
{
    struct str data = buf_peek(&conn->in);
    size_t used = 0;

    enum http_parse parse = http_parser_feed(conn->parser, data.p, data.len, NULL, &used);
    buf_consume(&conn->in, used);
    switch (parse) {
    case HTTP_PARSE_MORE:
        return STEP_MORE;
    case HTTP_PARSE_HEAD:
        connection_renew_generation(conn);
        if (connection_is_trusted(conn))
            connection_begin_exchange(conn);
        else
            connection_readmit(conn);
        return STEP_MORE;
    case HTTP_PARSE_COMPLETE:
    case HTTP_PARSE_ERROR:
        break;
    }
    connection_refuse_malformed(conn, http_parser_error(conn->parser),
                                http_parser_error_text(conn->parser));
    return STEP_MORE;
}

/* Nothing can be done now: memory of empty buffers goes back, to whoever has something to do. */
static void connection_rest(struct connection *conn)
{
    if (buf_is_empty(&conn->in))
        buf_release(&conn->in);
    if (buf_is_empty(&conn->out))
        buf_release(&conn->out);
}

static enum step connection_step_idle(struct connection *conn)
{
    if (conn->head_waits) {
        connection_begin_exchange(conn);
        return STEP_MORE;
    }
    (void)connection_flush(conn);
    if (conn->state == CONNECTION_CLOSED)
        return STEP_OVER;
    if (!buf_is_empty(&conn->out))
        return STEP_WAIT;
    if (!buf_is_empty(&conn->in))
        return connection_parse_head(conn);
    if (connection_fill(conn))
        return STEP_MORE;
    if (conn->state == CONNECTION_CLOSED)
        return STEP_OVER;
    /* A connection that was made for a request has a moment to send it. */
    if (conn->peer_ended ||
        (conn->last_request && conn->requests > 0 && http_parser_is_idle(conn->parser))) {
        connection_linger(conn, conn->peer_ended ? REASON_CLOSED_BY_PEER : conn->drain_reason);
        return STEP_MORE;
    }
    connection_rest(conn);
    return STEP_WAIT;
}

/* --- exchanges -------------------------------------------------------------------------------- */

static enum step connection_end_exchange(struct connection *conn, enum exchange_pump end)
{
    if (end == EXCHANGE_ABORT) {
        /* What did arrive is passed on as far as the socket takes it; then the end says that it was
         * not all. */
        (void)connection_flush(conn);
        if (conn->state != CONNECTION_CLOSED)
            connection_close(conn, exchange_reason(conn->exchange));
        return STEP_OVER;
    }
    if (end == EXCHANGE_CLOSE) {
        connection_linger(conn, REASON_CLOSED_AFTER_ANSWER);
        return STEP_MORE;
    }
    exchange_free(&conn->exchange);
    http_parser_next(conn->parser);
    connection_set_state(conn, CONNECTION_IDLE);
    return STEP_MORE;
}

static enum step connection_step_exchange(struct connection *conn)
{
    bool moved = connection_fill(conn);

    if (conn->state == CONNECTION_CLOSED)
        return STEP_OVER;
    enum exchange_pump pump = exchange_pump(conn->exchange);
    if (pump != EXCHANGE_WAIT)
        return connection_end_exchange(conn, pump);
    if (conn->peer_ended && !exchange_peer_ended(conn->exchange)) {
        connection_close(conn, REASON_CLOSED_BY_PEER);
        return STEP_OVER;
    }
    if (connection_flush(conn))
        moved = true;
    if (conn->state == CONNECTION_CLOSED)
        return STEP_OVER;
    /* The pump may have made the room that was missing above. */
    if (!conn->peer_ended && buf_space(&conn->in) >= READ_LEAST) {
        connection_arm_read(conn, true);
        moved = moved || (conn->turn_bytes < TURN_BYTES_MAX && connection_has_input(conn));
    }
    if (moved)
        return STEP_MORE;
    connection_rest(conn);
    return STEP_WAIT;
}

/* --- the loop --------------------------------------------------------------------------------- */

static enum step connection_step(struct connection *conn)
{
    switch (conn->state) {
    case CONNECTION_HANDSHAKE:
        return connection_step_handshake(conn);
    case CONNECTION_ADMITTING:
        /* The request may be on its way already; take it off the socket. */
        (void)connection_fill(conn);
        if (conn->state != CONNECTION_CLOSED && conn->peer_ended && buf_is_empty(&conn->in) &&
            !conn->head_waits)
            connection_close(conn, REASON_CLOSED_BY_PEER);
        return STEP_WAIT;
    case CONNECTION_IDLE:
        return connection_step_idle(conn);
    case CONNECTION_EXCHANGE:
        return connection_step_exchange(conn);
    case CONNECTION_LINGER:
        return connection_step_linger(conn);
    case CONNECTION_CLOSED:
        break;
    }
    return STEP_OVER;
}

void connection_run(struct connection *conn)
{
    enum step step = STEP_MORE;

    for (int i = 0; i < STEPS_A_TURN && step == STEP_MORE; i++)
        step = connection_step(conn);
    if (conn->state == CONNECTION_CLOSED)
        return;
    if (step == STEP_MORE)
        connection_go_on_later(conn);
    connection_update_deadline(conn);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct connection *conn = arg;

    (void)fd;
    (void)what;
    if (conn->state == CONNECTION_CLOSED)
        return;
    conn->readable = true;
    conn->took = false;
    conn->turn_bytes = 0;
    connection_run(conn);
    if (!conn->took && conn->state != CONNECTION_CLOSED)
        connection_arm_read(conn, false);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct connection *conn = arg;

    (void)fd;
    (void)what;
    if (conn->state == CONNECTION_CLOSED)
        return;
    conn->writable = true;
    conn->turn_bytes = 0;
    connection_run(conn);
}

static void on_again(evutil_socket_t fd, short what, void *arg)
{
    struct connection *conn = arg;

    (void)fd;
    (void)what;
    if (conn->state == CONNECTION_CLOSED)
        return;
    conn->turn_bytes = 0;
    connection_run(conn);
}

static void on_exchange_wake(void *arg)
{
    struct connection *conn = arg;

    if (conn->state == CONNECTION_EXCHANGE)
        connection_run(conn);
}

void connection_drain(struct connection *conn, enum reason reason, int64_t within_ms)
{
    int64_t now_ms = clock_monotonic_ms();

    if (conn->state == CONNECTION_LINGER || conn->state == CONNECTION_CLOSED)
        return;
    conn->last_request = true;
    conn->drain_reason = reason;
    if (conn->drain_until_ms > now_ms + within_ms)
        conn->drain_until_ms = now_ms + within_ms;
    if (conn->exchange != NULL)
        exchange_close_after(conn->exchange);
    connection_arm_timer(conn, now_ms);
    connection_run(conn);
}

/* --- birth ------------------------------------------------------------------------------------ */

static struct stream *connection_stream(struct worker *worker,
                                        const struct connection_origin *origin)
{
    struct tls_server *server =
        origin->listener != NULL
            ? snapshot_tls_server(worker->generation->snapshot, origin->listener->name)
            : NULL;
    return server != NULL ? stream_new_tls(server, origin->fd) : stream_new_plain(origin->fd);
}

static void connection_init_events(struct connection *conn)
{
    struct event_base *base = conn->worker->base;
    int fd = stream_fd(conn->stream);

    (void)event_assign(&conn->read_event, base, fd, EV_READ | EV_PERSIST, on_readable, conn);
    (void)event_assign(&conn->write_event, base, fd, EV_WRITE, on_writable, conn);
    (void)evtimer_assign(&conn->again_event, base, on_again, conn);
    (void)evtimer_assign(&conn->timer, base, connection_on_timer, conn);
    connection_arm_read(conn, true);
}

void connection_name_peer(struct exchange_peer *peer, const struct sockaddr_storage *from)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)from;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)from;

    if (from->ss_family == AF_INET) {
        (void)inet_ntop(AF_INET, &in->sin_addr, peer->address, sizeof(peer->address));
        peer->port = ntohs(in->sin_port);
    } else if (from->ss_family == AF_INET6) {
        (void)inet_ntop(AF_INET6, &in6->sin6_addr, peer->address, sizeof(peer->address));
        peer->port = ntohs(in6->sin6_port);
    } else {
        str_copy_cut(peer->address, sizeof(peer->address), STR("unix"));
    }
}

struct connection *connection_new(struct worker *worker, const struct connection_origin *origin)
{
    const struct config *config = worker->generation->snapshot->config;
    struct connection *conn = mem_new(struct connection);

    conn->worker = worker;
    conn->listener_stats = origin->stats;
    conn->tls_generation = generation_ref(worker->generation);
    conn->stream = connection_stream(worker, origin);
    conn->parser = http_parser_new(HTTP_PARSER_REQUEST, (struct http_parser_limits){
                                                            .head_max = config->http.head_max,
                                                            .fields_max = config->http.fields_max,
                                                        });
    buf_init(&conn->in, config->http.buffer);
    buf_init(&conn->out, config->http.buffer);
    connection_name_peer(&conn->peer, origin->peer);
    conn->env = (struct exchange_env){
        .worker = worker,
        .generation = generation_ref(worker->generation),
        .listener = origin->listener,
        .peer = &conn->peer,
        .parser = conn->parser,
        .in = &conn->in,
        .out = &conn->out,
        .wake = on_exchange_wake,
        .arg = conn,
    };
    conn->refusal = REASON_UNDECIDED;
    conn->writable = true;
    conn->phase = PHASE_LINGER; /* so that the first update sets HANDSHAKE's deadline */
    conn->phase_until_ms = conn->drain_until_ms = conn->timer_at_ms = INT64_MAX;
    conn->drain_reason = REASON_DRAINED;
    conn->peer.opened_ms = clock_monotonic_ms();
    connection_index_link_init(&conn->index);
    list_init(&conn->handshake);
    connection_init_events(conn);
    return conn;
}
