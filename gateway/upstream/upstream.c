/* SPDX-License-Identifier: BSD-2-Clause */
/* The life of an exchange, and its request half. States and deadlines: private.h.
 *
 * Everything that may call back runs from one of three entries, all from the event loop: on_kick
 * (what calls of the caller have put off), on_io (the connection) and on_timer. Each holds a
 * reference around its work, so any callback may abort the exchange, and looks at `closed` after
 * calling out. Calls of the caller only change buffers and states, and activate the kick; so the
 * head and the body pieces of one turn leave in one write. */
#include "gateway/upstream/private.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/piece.h"

enum {
    OUT_MIN = 4096,     /* of the outgoing buffer, whatever the configuration says */
    LAST_CHUNK_LEN = 5, /* "0\r\n\r\n" */
    HEAD_STEP = 2048,
    ERROR_MAX = 160,
    FATE_POLL_MS = 2,      /* between two looks at what TCP says of a broken connection */
    FATE_MAX_MS = 1000,    /* and how long it is asked: some round trips */
    CONNECT_LATER_MS = 10, /* until a full queue of a Unix socket is tried again */
    FRAMING_RESERVE = HTTP_CHUNK_OVERHEAD + LAST_CHUNK_LEN,
};

#define STATE_BIT(state) (1U << (state))

void upstream_set_request_state(struct upstream *upstream, enum request_state state)
{
    static const char *const names[] = {"waiting", "sending", "sent", "abandoned"};
    static const unsigned moves[] = {
        [REQUEST_WAITING] = STATE_BIT(REQUEST_SENDING),
        [REQUEST_SENDING] =
            STATE_BIT(REQUEST_WAITING) | STATE_BIT(REQUEST_SENT) | STATE_BIT(REQUEST_ABANDONED),
        [REQUEST_SENT] = STATE_BIT(REQUEST_WAITING),
        [REQUEST_ABANDONED] = STATE_BIT(REQUEST_WAITING),
    };

    assert(moves[upstream->request] & STATE_BIT(state));
    log_write(LOG_DEBUG, "request to the backend", LOG_STR("state", names[state]),
              LOG_STR("server", upstream_server(upstream)));
    upstream->request = state;
    upstream->progress_ms = clock_monotonic_ms();
    if (state == REQUEST_SENT || state == REQUEST_ABANDONED) {
        upstream->request_end_ms = upstream->progress_ms;
        if (!upstream->whole || upstream->response != RESPONSE_WAITING)
            buf_release(&upstream->out);
    }
}

void upstream_set_response_state(struct upstream *upstream, enum response_state state)
{
    static const char *const names[] = {"waiting", "head", "body", "done", "failed"};
    static const unsigned moves[] = {
        [RESPONSE_WAITING] = STATE_BIT(RESPONSE_HEAD) | STATE_BIT(RESPONSE_FAILED),
        [RESPONSE_HEAD] =
            STATE_BIT(RESPONSE_WAITING) | STATE_BIT(RESPONSE_BODY) | STATE_BIT(RESPONSE_FAILED),
        [RESPONSE_BODY] = STATE_BIT(RESPONSE_DONE) | STATE_BIT(RESPONSE_FAILED),
        [RESPONSE_DONE] = 0,
        [RESPONSE_FAILED] = 0,
    };

    assert(moves[upstream->response] & STATE_BIT(state));
    log_write(LOG_DEBUG, "response of the backend", LOG_STR("state", names[state]),
              LOG_STR("server", upstream_server(upstream)));
    upstream->response = state;
    if (state == RESPONSE_BODY)
        upstream->progress_ms = clock_monotonic_ms();
    if (state == RESPONSE_DONE || state == RESPONSE_FAILED)
        buf_release(&upstream->in);
}

static bool upstream_has_unsent(const struct upstream *upstream)
{
    return upstream->head_sent < upstream->head_len || buf_len(&upstream->out) > upstream->out_sent;
}

void upstream_let_go(struct upstream *upstream)
{
    upstream->whole = false;
    if (upstream->request == REQUEST_SENT || upstream->request == REQUEST_ABANDONED)
        buf_release(&upstream->out);
    else
        buf_consume(&upstream->out, upstream->out_sent);
    upstream->out_sent = 0;
}

static bool upstream_is_queued(const struct upstream *upstream)
{
    return list_is_linked(&upstream->queued);
}

/* --- deadlines -------------------------------------------------------------------------------- */

/* 0: none. */
static int64_t upstream_deadline(const struct upstream *upstream)
{
    const struct config_backend *backend = upstream->pool->params.backend;

    if (upstream->closed || upstream->response == RESPONSE_DONE ||
        upstream->response == RESPONSE_FAILED)
        return 0;
    if (upstream_is_queued(upstream))
        return upstream->wait_until_ms;
    if (upstream->request == REQUEST_WAITING)
        return upstream->attempt_until_ms;
    if (upstream->response == RESPONSE_BODY)
        return upstream->awaiting ? upstream->progress_ms + backend->idle_timeout_ms : 0;
    if (upstream->request != REQUEST_SENDING)
        return upstream->request_end_ms + backend->response_timeout_ms;
    if (upstream_has_unsent(upstream))
        return upstream->progress_ms + backend->idle_timeout_ms;
    return upstream->awaits_continue ? upstream->progress_ms + backend->response_timeout_ms : 0;
}

/* Deadlines mostly move away; so a timer that is early enough is left alone, and looks again when
 * it fires. */
void upstream_update_deadline(struct upstream *upstream)
{
    int64_t deadline = upstream_deadline(upstream);

    if (deadline == 0 || (upstream->timer_ms != 0 && upstream->timer_ms <= deadline))
        return;
    int64_t left = deadline - clock_monotonic_ms();
    if (left < 1)
        left = 1;
    const struct timeval in = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
    event_add(&upstream->timer, &in);
    upstream->timer_ms = deadline;
}

/* --- the end ---------------------------------------------------------------------------------- */

/* Of the memory for a head; rounded up, so that few sizes are in use. */
static size_t upstream_head_size(size_t len)
{
    return (len / HEAD_STEP + 1) * HEAD_STEP;
}

static void upstream_release(struct upstream *upstream)
{
    assert(upstream->refs > 0);
    if (--upstream->refs > 0)
        return;
    assert(upstream->closed);
    pool_unref(upstream->pool);
    piece_free(upstream, sizeof(*upstream));
}

/* What was to be sent only for a time must not arrive any later from the kernel's buffers. */
static void upstream_drop_conn(struct upstream *upstream)
{
    if (upstream->send_until_ms != 0 && upstream->response != RESPONSE_DONE)
        pool_conn_discard(&upstream->conn);
    else
        pool_conn_close(&upstream->conn);
}

/* A probe is not one of the requests by which its server is judged: it neither is a trial nor ejects,
 * and counts nowhere. What it found is said by health.c. */
static bool upstream_is_probe(const struct upstream *upstream)
{
    return upstream->pinned != NULL;
}

static void upstream_leave_server(struct upstream *upstream)
{
    if (upstream->server != NULL && !upstream_is_probe(upstream))
        server_leave(upstream->server, upstream->trial);
    upstream->server = NULL;
}

static void upstream_leave_line(struct upstream *upstream)
{
    struct upstream_pool *pool = upstream->pool;

    if (!upstream_is_queued(upstream))
        return;
    list_remove(&upstream->queued);
    pool->n_waiting--;
    stat_add(&pool->row->waiting, (uint64_t)-1);
    pool_wake_waiting(pool);
}

/* Runs once, in three situations: finished, aborted, failed. Afterwards nothing of it runs; the
 * memory stays as long as one of our frames needs it. */
static void upstream_close(struct upstream *upstream)
{
    assert(!upstream->closed);
    upstream->closed = true;
    event_del(&upstream->kick);
    event_del(&upstream->timer);
    upstream_drop_conn(upstream);
    upstream_leave_line(upstream);
    upstream_leave_server(upstream);
    buf_release(&upstream->out);
    buf_release(&upstream->in);
    piece_free(upstream->head, upstream_head_size(upstream->head_len));
    upstream->head = NULL;
    upstream_release(upstream);
}

static void upstream_blame(struct upstream *upstream, enum server_fault fault, const char *why)
{
    if (!upstream_is_probe(upstream))
        server_failed(&upstream->pool->servers, upstream->server, fault, why, clock_monotonic_ms());
}

/* What a failure of the exchange says about its server. */
static void upstream_blame_failure(struct upstream *upstream, enum reason reason)
{
    if (upstream->server == NULL || upstream->blameless)
        return;
    if (reason == REASON_BACKEND_TIMEOUT)
        upstream_blame(upstream, SERVER_FAULT_TIMEOUT, upstream->failure_text);
    else if (reason == REASON_BACKEND_BROKEN || reason == REASON_BACKEND_INVALID)
        upstream_blame(upstream, SERVER_FAULT_BROKEN, upstream->failure_text);
}

void upstream_note_failure(struct upstream *upstream, enum reason reason, const char *what,
                           const char *why)
{
    (void)snprintf(upstream->failure_text, sizeof(upstream->failure_text), "%s%s%s", what,
                   why[0] != '\0' ? ": " : "", why);
    str_copy_cut(upstream->failure_server, sizeof(upstream->failure_server),
                 str_c(upstream_server(upstream)));
    upstream->failure = (struct upstream_failure){
        .result = upstream->ever_touched ? UPSTREAM_BROKEN : UPSTREAM_REFUSED,
        .reason = reason,
        .text = upstream->failure_text,
        .server = upstream->failure_server,
    };
    upstream_blame_failure(upstream, reason);
    upstream_set_response_state(upstream, RESPONSE_FAILED);
    upstream_leave_line(upstream);
    upstream_drop_conn(upstream);
    event_del(&upstream->kick);
    event_del(&upstream->timer);
}

static void upstream_tell_failure(struct upstream *upstream)
{
    upstream_close(upstream);
    upstream->handlers.on_failed(&upstream->failure, upstream->arg);
}

void upstream_fail(struct upstream *upstream, enum reason reason, const char *what, const char *why)
{
    upstream_note_failure(upstream, reason, what, why);
    upstream_tell_failure(upstream);
}

/* From calls of the caller. */
static void upstream_fail_later(struct upstream *upstream, enum reason reason, const char *what)
{
    if (upstream->response == RESPONSE_DONE || upstream->response == RESPONSE_FAILED)
        return;
    upstream_note_failure(upstream, reason, what, "");
    upstream->failing = true;
    event_active(&upstream->kick, EV_TIMEOUT, 0);
}

/* --- connecting ------------------------------------------------------------------------------- */

static void upstream_on_io(short what, void *arg);
static void upstream_send(struct upstream *upstream);

static size_t upstream_servers_left(const struct upstream *upstream)
{
    if (upstream_is_probe(upstream))
        return 1;
    return upstream->pool->servers.n - (size_t)__builtin_popcountll(upstream->tried);
}

static void upstream_connected(struct upstream *upstream)
{
    upstream->touched = false;
    upstream->heard = false;
    upstream->head_sent = 0;
    upstream->out_sent = 0;
    if (!upstream->conn->reused)
        histogram_observe(&upstream->pool->row->connect,
                          clock_monotonic_us() - upstream->attempt_us);
    if (upstream->is_head)
        http_parser_expect_no_body(upstream->conn->parser);
    upstream_set_request_state(upstream, REQUEST_SENDING);
    pool_conn_read_on(upstream->conn);
    upstream_send(upstream);
}

/* A new connection to upstream->server. What is left of connect_timeout is shared by the servers
 * that are left, so that one which swallows packets leaves time for the next. False when this one
 * could not even be begun with. */
static bool upstream_connect(struct upstream *upstream, int *out_error)
{
    const struct timeval later = {.tv_usec = CONNECT_LATER_MS * 1000L};
    int64_t now = clock_monotonic_ms();
    int64_t share = (upstream->connect_until_ms - now) / (int64_t)upstream_servers_left(upstream);

    upstream->attempt_until_ms = now + (share > 1 ? share : 1);
    upstream->attempt_us = clock_monotonic_us();
    enum connect_result result = pool_connect(upstream->pool, upstream->server, upstream_on_io,
                                              upstream, &upstream->conn, out_error);
    if (result == CONNECT_LATER) {
        upstream->attempt_until_ms = upstream->connect_until_ms;
        event_add(&upstream->kick, &later);
        return true;
    }
    upstream->tried |= UINT64_C(1) << upstream->server->slot;
    if (result == CONNECT_DONE)
        upstream_connected(upstream);
    return result != CONNECT_FAILED;
}

/* All connections are in use: into the line, or turned away. */
static void upstream_wait_in_line(struct upstream *upstream)
{
    struct upstream_pool *pool = upstream->pool;

    upstream_leave_server(upstream);
    if (upstream_is_queued(upstream))
        return;
    if (pool->n_waiting >= pool->params.backend->max_waiting) {
        upstream_fail(upstream, REASON_BACKEND_BUSY, "all connections are in use", "");
        return;
    }
    if (upstream->wait_until_ms == 0)
        upstream->wait_until_ms = clock_monotonic_ms() + pool->params.backend->wait_timeout_ms;
    list_push_back(&pool->waiting, &upstream->queued);
    pool->n_waiting++;
    stat_add(&pool->row->waiting, 1);
}

/* Nobody overtakes those who wait. */
static bool upstream_is_next_in_line(const struct upstream *upstream)
{
    const struct list *waiting = &upstream->pool->waiting;

    return list_is_empty(waiting) || waiting->next == &upstream->queued;
}

void upstream_wake(struct list *queued)
{
    event_active(&list_entry(queued, struct upstream, queued)->kick, EV_TIMEOUT, 0);
}

/* What can be sent again in any case need not look before it leaps. */
static enum pool_take upstream_take(const struct upstream *upstream)
{
    bool can_repeat = upstream->idempotent && upstream->framing == HTTP_FRAMING_NONE &&
                      upstream->retries_left > 0;

    return can_repeat ? POOL_TAKE_ANY : POOL_TAKE_ALIVE;
}

/* One attempt with upstream->server; false when it failed at once, and another server may be tried.
 */
static bool upstream_attempt(struct upstream *upstream, int *out_error)
{
    struct upstream_pool *pool = upstream->pool;

    if (upstream->pinned != NULL)
        return upstream_connect(upstream, out_error);
    if (!upstream_is_next_in_line(upstream)) {
        upstream_wait_in_line(upstream);
        return true;
    }
    if (!upstream->fresh_only)
        upstream->conn = pool_take_kept(pool, upstream->server, upstream_take(upstream),
                                        upstream_on_io, upstream);
    if (upstream->conn == NULL && !pool_has_room(pool, upstream->server)) {
        upstream_wait_in_line(upstream);
        return true;
    }
    upstream_leave_line(upstream);
    if (upstream->conn == NULL)
        return upstream_connect(upstream, out_error);
    upstream_connected(upstream);
    return true;
}

/* Goes to the next server; false when there is none left. */
static bool upstream_choose(struct upstream *upstream)
{
    int64_t now_ms = clock_monotonic_ms();

    struct server *server = upstream->pinned;

    if (server == NULL)
        server = servers_choose(&upstream->pool->servers, upstream->tried, now_ms);
    if (server == NULL || upstream->tried & UINT64_C(1) << server->slot)
        return false;
    upstream_leave_server(upstream);
    upstream->server = server;
    upstream->trial = !upstream_is_probe(upstream) && server_enter(server, now_ms);
    return true;
}

/* No server is to blame, and none would do better. */
static bool error_is_ours(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM ||
           error == EADDRNOTAVAIL;
}

/* Goes on to the next server until one may work. `why` is the error of the one before. */
static void upstream_try(struct upstream *upstream, const char *why)
{
    int error = 0;

    while (clock_monotonic_ms() < upstream->connect_until_ms) {
        if (!upstream_choose(upstream))
            break;
        if (upstream_attempt(upstream, &error))
            return;
        why = strerrordesc_np(error);
        if (error_is_ours(error)) {
            upstream_fail(upstream, REASON_OUT_OF_RESOURCES, "cannot connect", why);
            return;
        }
        upstream->attempt_reason = REASON_BACKEND_UNAVAILABLE;
        upstream_blame(upstream, SERVER_FAULT_CONNECT, why);
    }
    enum reason reason = upstream->ever_touched ? REASON_BACKEND_BROKEN : upstream->attempt_reason;
    upstream->blameless = true; /* connecting was blamed already */
    upstream_fail(upstream, reason,
                  upstream->ever_touched ? "it broke, and there is nobody to send it to again"
                                         : "cannot connect",
                  upstream->pool->servers.n > 0
                      ? why
                      : "the backend has no server that could be resolved");
}

static void upstream_connect_failed(struct upstream *upstream, const char *why)
{
    pool_conn_close(&upstream->conn);
    event_del(&upstream->kick);
    upstream_blame(upstream, SERVER_FAULT_CONNECT, why);
    upstream_try(upstream, why);
}

/* May the request be sent once more? UNKNOWN: TCP will say in a moment. */
static enum sent_fate upstream_judge_loss(const struct upstream *upstream)
{
    bool silent = !upstream->heard && upstream->interims == 0;

    if (!silent || !upstream->whole || clock_monotonic_ms() >= upstream->connect_until_ms)
        return SENT_TAKEN;
    if (!upstream->touched)
        return SENT_UNTAKEN;
    if (upstream->retries_left == 0)
        return SENT_TAKEN;
    return upstream->idempotent ? SENT_UNTAKEN : pool_conn_sent_fate(upstream->conn);
}

static void upstream_send_again(struct upstream *upstream, const char *why)
{
    if (upstream->touched) {
        upstream->retries_left--;
        stat_add(&upstream->pool->row->resent, 1);
    }
    if (!upstream->blameless)
        upstream_blame(upstream, SERVER_FAULT_BROKEN, why);
    upstream->blameless = false;
    upstream->attempt_reason = upstream->conn->stream != NULL && !upstream->conn->reused
                                   ? REASON_BACKEND_TLS
                                   : REASON_BACKEND_UNAVAILABLE;
    upstream->fresh_only = upstream->fresh_only || upstream->conn->reused;
    pool_conn_close(&upstream->conn);
    upstream_set_request_state(upstream, REQUEST_WAITING);
    upstream_try(upstream, why);
}

/* The connection stays, unwatched, until TCP has said what became of the bytes. */
static void upstream_await_fate(struct upstream *upstream, const char *what, const char *why)
{
    const struct timeval soon = {.tv_usec = FATE_POLL_MS * 1000L};
    int64_t now_ms = clock_monotonic_ms();

    if (upstream->fate_until_ms == 0) {
        upstream->fate_until_ms = now_ms + FATE_MAX_MS;
        upstream->lost_what = what;
        pool_conn_read_pause(upstream->conn);
        if (upstream->request == REQUEST_SENDING)
            upstream_set_request_state(upstream, REQUEST_ABANDONED);
    }
    if (now_ms < upstream->fate_until_ms)
        event_add(&upstream->kick, &soon);
    else
        upstream_fail(upstream, REASON_BACKEND_BROKEN, what, why);
}

void upstream_lost(struct upstream *upstream, const char *what, const char *why)
{
    /* It may be the connection's text, and that may be closed here. */
    if (why != upstream->lost_why)
        str_copy_cut(upstream->lost_why, sizeof(upstream->lost_why), str_c(why));
    why = upstream->lost_why;
    /* A server may close what it has kept for long enough. */
    upstream->blameless = upstream->conn->reused && !upstream->heard;
    switch (upstream_judge_loss(upstream)) {
    case SENT_TAKEN:
        upstream_fail(upstream, REASON_BACKEND_BROKEN, what, why);
        break;
    case SENT_UNTAKEN:
        upstream->fate_until_ms = 0;
        upstream_send_again(upstream, why);
        break;
    case SENT_UNKNOWN:
        upstream_await_fate(upstream, what, why);
        break;
    }
}

/* --- sending ---------------------------------------------------------------------------------- */

/* What is free, or holds only what was sent. */
static size_t upstream_space(const struct upstream *upstream)
{
    return buf_space(&upstream->out) + upstream->out_sent;
}

/* Space that a piece of body may use now; 0 while it would only be a crumb. */
static size_t upstream_room(struct upstream *upstream)
{
    size_t reserve = upstream->framing == HTTP_FRAMING_CHUNKED ? FRAMING_RESERVE : 0;
    size_t crumb = upstream->out.capacity / 4;
    size_t least = reserve + 1 > crumb ? reserve + 1 : crumb;

    if (buf_space(&upstream->out) < least &&
        (upstream_space(upstream) >= least || upstream->request == REQUEST_ABANDONED))
        upstream_let_go(upstream);
    size_t space = buf_space(&upstream->out);
    if (space < least)
        return 0;
    size_t room = space - reserve;
    if (upstream->framing == HTTP_FRAMING_LENGTH && room > upstream->body_left)
        room = (size_t)upstream->body_left;
    return room;
}

/* Counts what the kernel took, and says whether something is left. */
static bool upstream_took(struct upstream *upstream, size_t len)
{
    size_t of_head = upstream->head_len - upstream->head_sent;

    upstream->touched = upstream->ever_touched = true;
    upstream->progress_ms = clock_monotonic_ms();
    if (of_head > len)
        of_head = len;
    upstream->head_sent += of_head;
    upstream->out_sent += len - of_head;
    if (!upstream->whole) {
        buf_consume(&upstream->out, upstream->out_sent);
        upstream->out_sent = 0;
    }
    return upstream_has_unsent(upstream);
}

/* The backend takes no more. It may have said why before it closed: an answer that arrived is still
 * read. */
static void upstream_not_taken(struct upstream *upstream, const char *why)
{
    if (!upstream->touched && upstream->response == RESPONSE_WAITING) {
        upstream_lost(upstream, "sending the request", why);
        return;
    }
    upstream_set_request_state(upstream, REQUEST_ABANDONED);
}

/* The caller's timer is due as well; but after a standstill of the process sockets come first. */
static bool upstream_may_send(const struct upstream *upstream)
{
    return upstream->send_until_ms == 0 || clock_monotonic_ms() < upstream->send_until_ms;
}

/* Writes what there is. */
static void upstream_flush(struct upstream *upstream)
{
    char *body = upstream->out.mem;
    struct iovec pieces[] = {
        {.iov_base = upstream->head + upstream->head_sent,
         .iov_len = upstream->head_len - upstream->head_sent},
        {.iov_base = body != NULL ? body + upstream->out.head + upstream->out_sent : NULL,
         .iov_len = buf_len(&upstream->out) - upstream->out_sent},
    };
    size_t taken;

    if (upstream->request != REQUEST_SENDING || !upstream_has_unsent(upstream) ||
        !upstream_may_send(upstream))
        return;
    switch (pool_conn_write(upstream->conn, pieces, ARRAY_SIZE(pieces), &taken)) {
    case POOL_IO_DONE:
        if (upstream_took(upstream, taken))
            pool_conn_await_writable(upstream->conn);
        break;
    case POOL_IO_WAIT:
        pool_conn_await_writable(upstream->conn);
        break;
    case POOL_IO_EOF:
    case POOL_IO_ERROR:
        upstream_not_taken(upstream, pool_conn_error(upstream->conn));
        break;
    }
}

static void upstream_send(struct upstream *upstream)
{
    upstream_flush(upstream);
    if (upstream->closed)
        return;
    if (upstream->request == REQUEST_SENDING && upstream->finished &&
        !upstream_has_unsent(upstream))
        upstream_set_request_state(upstream, REQUEST_SENT);
    /* Half a buffer, so that large bodies do not travel in crumbs. */
    if (upstream->wants_room && upstream_space(upstream) >= upstream->out.capacity / 2) {
        upstream->wants_room = false;
        upstream->handlers.on_writable(upstream->arg);
    }
}

/* --- the three entries ------------------------------------------------------------------------ */

/* The time for connecting begins when there is a connection to be had. */
static void upstream_go_on_from_line(struct upstream *upstream)
{
    upstream->connect_until_ms =
        clock_monotonic_ms() + upstream->pool->params.backend->connect_timeout_ms;
    upstream->attempt_until_ms = upstream->connect_until_ms;
    upstream_try(upstream, "no time was left");
}

static void upstream_on_kick(evutil_socket_t fd, short what, void *arg)
{
    struct upstream *upstream = arg;

    upstream->refs++;
    if (upstream->failing)
        upstream_tell_failure(upstream);
    else if (upstream->fate_until_ms != 0)
        upstream_lost(upstream, upstream->lost_what, upstream->lost_why);
    else if (upstream_is_queued(upstream))
        upstream_go_on_from_line(upstream);
    else if (upstream->request == REQUEST_WAITING && upstream->conn == NULL)
        upstream_try(upstream, "no time was left");
    else if (upstream->request == REQUEST_SENDING)
        upstream_send(upstream);
    upstream_update_deadline(upstream);
    upstream_release(upstream);
}

static void upstream_on_connect_outcome(struct upstream *upstream)
{
    char why[ERROR_MAX];

    switch (pool_conn_advance(upstream->conn)) {
    case POOL_ADVANCE_DONE:
        upstream_connected(upstream);
        return;
    case POOL_ADVANCE_PENDING:
        return;
    case POOL_ADVANCE_FAILED:
        upstream->attempt_reason =
            errno == ETIMEDOUT ? REASON_BACKEND_CONNECT_TIMEOUT : REASON_BACKEND_UNAVAILABLE;
        break;
    case POOL_ADVANCE_NO_TLS:
        upstream->attempt_reason = REASON_BACKEND_TLS;
        break;
    }
    str_copy_cut(why, sizeof(why), str_c(pool_conn_error(upstream->conn)));
    upstream_connect_failed(upstream, why);
}

static void upstream_on_io(short what, void *arg)
{
    struct upstream *upstream = arg;
    const struct pool_conn *conn = upstream->conn;

    upstream->refs++;
    if (upstream->request == REQUEST_WAITING) {
        upstream_on_connect_outcome(upstream);
    } else {
        if ((what & EV_WRITE) && upstream->request == REQUEST_SENDING)
            upstream_send(upstream);
        if ((what & EV_READ) && !upstream->closed && upstream->conn == conn)
            response_on_readable(upstream);
    }
    upstream_update_deadline(upstream);
    upstream_release(upstream);
}

static void upstream_on_deadline(struct upstream *upstream)
{
    if (upstream_is_queued(upstream)) {
        upstream_fail(upstream, REASON_BACKEND_WAIT_TIMEOUT, "no connection came free", "");
    } else if (upstream->request == REQUEST_WAITING) {
        upstream->attempt_reason = REASON_BACKEND_CONNECT_TIMEOUT;
        upstream_connect_failed(upstream, upstream->conn != NULL ? "it took too long"
                                                                 : "its queue stayed full");
    } else if (upstream->response == RESPONSE_BODY) {
        upstream_fail(upstream, REASON_BACKEND_TIMEOUT,
                      "nothing of the body came within idle_timeout", "");
    } else if (upstream->request == REQUEST_SENDING && upstream_has_unsent(upstream)) {
        upstream_fail(upstream, REASON_BACKEND_TIMEOUT,
                      "nothing of the request was taken within idle_timeout", "");
    } else {
        upstream_fail(upstream, REASON_BACKEND_TIMEOUT, "no answer came within response_timeout",
                      "");
    }
}

static void upstream_on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct upstream *upstream = arg;

    upstream->refs++;
    upstream->timer_ms = 0;
    int64_t deadline = upstream_deadline(upstream);
    if (deadline != 0 && deadline <= clock_monotonic_ms())
        upstream_on_deadline(upstream);
    upstream_update_deadline(upstream);
    upstream_release(upstream);
}

/* --- calls ------------------------------------------------------------------------------------ */

struct upstream *upstream_start(struct upstream_pool *pool, const struct upstream_request *request,
                                const struct upstream_handlers *handlers, void *arg)
{
    struct upstream *upstream = piece_zalloc(sizeof(struct upstream));
    size_t out_size =
        pool->params.config->http.buffer > OUT_MIN ? pool->params.config->http.buffer : OUT_MIN;

    pool_ref(pool);
    upstream->pool = pool;
    upstream->handlers = *handlers;
    upstream->arg = arg;
    upstream->refs = 1;
    upstream->started_us = clock_monotonic_us();
    upstream->framing = request->framing;
    upstream->body_left = request->content_length;
    upstream->is_head = request->is_head;
    upstream->idempotent = request->idempotent;
    upstream->awaits_continue = request->awaits_continue;
    upstream->retries_left = pool->params.backend->retries;
    upstream->attempt_reason = REASON_BACKEND_UNAVAILABLE;
    upstream->whole = true;
    list_init(&upstream->queued);
    upstream->send_until_ms = request->send_until_ms;
    upstream->finished = request->framing == HTTP_FRAMING_NONE;
    upstream->connect_until_ms = clock_monotonic_ms() + pool->params.backend->connect_timeout_ms;
    upstream->attempt_until_ms = upstream->connect_until_ms;
    buf_init(&upstream->out, out_size + FRAMING_RESERVE);
    buf_init(&upstream->in, RESPONSE_READ_SIZE);
    event_assign(&upstream->kick, pool->params.base, -1, 0, upstream_on_kick, upstream);
    event_assign(&upstream->timer, pool->params.base, -1, 0, upstream_on_timer, upstream);
    upstream->head = piece_new(upstream_head_size(request->head.len));
    if (upstream->head == NULL) {
        upstream_fail_later(upstream, REASON_BACKEND_UNAVAILABLE,
                            "no memory for the request's head");
        return upstream;
    }
    memcpy(upstream->head, request->head.p, request->head.len);
    upstream->head_len = request->head.len;
    event_active(&upstream->kick, EV_TIMEOUT, 0);
    return upstream;
}

struct upstream *upstream_start_pinned(struct upstream_pool *pool, struct server *server,
                                       const struct upstream_request *request,
                                       const struct upstream_handlers *handlers, void *arg)
{
    struct upstream *upstream = upstream_start(pool, request, handlers, arg);

    upstream->pinned = server;
    upstream->retries_left = 0;
    return upstream;
}

/* The backend's time to take something begins when there is something to take. */
static void upstream_begin_unsent(struct upstream *upstream)
{
    if (!upstream_has_unsent(upstream))
        upstream->progress_ms = clock_monotonic_ms();
}

struct buf *upstream_body_begin(struct upstream *upstream, size_t *out_room)
{
    size_t contiguous = 0;

    assert(!upstream->finished);
    upstream->awaits_continue = false;
    if (upstream->framing == HTTP_FRAMING_LENGTH && upstream->body_left == 0)
        return NULL;
    size_t room = upstream_room(upstream);
    if (room == 0) {
        upstream->wants_room = true;
        return NULL;
    }
    /* Also makes room behind what is waiting: the buffer must not move inside a chunk. */
    if (buf_reserve(&upstream->out, &contiguous) == NULL) {
        upstream_fail_later(upstream, REASON_BACKEND_UNAVAILABLE,
                            "no memory for the request's body");
        return NULL;
    }
    upstream_begin_unsent(upstream);
    upstream->lent_at = buf_len(&upstream->out);
    if (upstream->framing == HTTP_FRAMING_CHUNKED &&
        !http_chunk_begin(&upstream->out, &upstream->chunk))
        return NULL;
    *out_room = room;
    return &upstream->out;
}

/* Lets the kick write what the caller has added, together with whatever else this turn brings. */
static void upstream_push(struct upstream *upstream)
{
    if (upstream->response == RESPONSE_FAILED ||
        (upstream->request == REQUEST_ABANDONED && !upstream->whole))
        buf_release(&upstream->out);
    else if (upstream->request == REQUEST_SENDING &&
             !event_pending(&upstream->conn->writable, EV_WRITE, NULL))
        event_active(&upstream->kick, EV_TIMEOUT, 0);
}

void upstream_body_end(struct upstream *upstream)
{
    if (upstream->framing == HTTP_FRAMING_CHUNKED) {
        http_chunk_end(&upstream->out, &upstream->chunk);
    } else {
        size_t added = buf_len(&upstream->out) - upstream->lent_at;
        assert(added <= upstream->body_left);
        upstream->body_left -= added;
    }
    upstream_push(upstream);
}

void upstream_body_finish(struct upstream *upstream)
{
    if (upstream->finished)
        return;
    assert(upstream->framing == HTTP_FRAMING_CHUNKED || upstream->body_left == 0);
    upstream->finished = true;
    upstream_begin_unsent(upstream);
    if (upstream->framing == HTTP_FRAMING_CHUNKED && !http_chunk_last(&upstream->out))
        upstream_fail_later(upstream, REASON_BACKEND_UNAVAILABLE,
                            "no memory for the request's body");
    upstream_push(upstream);
}

void upstream_finish(struct upstream **upstream_at)
{
    struct upstream *upstream = *upstream_at;

    *upstream_at = NULL;
    if (upstream->response == RESPONSE_DONE && upstream->request == REQUEST_SENT &&
        upstream->may_keep) {
        upstream->conn->unsure = !upstream->dry;
        pool_keep(&upstream->conn);
    }
    upstream_close(upstream);
}

void upstream_abort(struct upstream **upstream_at)
{
    struct upstream *upstream = *upstream_at;

    *upstream_at = NULL;
    if (upstream != NULL)
        upstream_close(upstream);
}

const char *upstream_server(const struct upstream *upstream)
{
    return upstream->server != NULL ? upstream->server->name : "";
}

const struct upstream_failure *upstream_failure(const struct upstream *upstream)
{
    return upstream->response == RESPONSE_FAILED ? &upstream->failure : NULL;
}
