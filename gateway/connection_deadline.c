/* SPDX-License-Identifier: BSD-2-Clause */
/* How long a connection may take for what it does.
 *
 * A deadline belongs to a phase and is set when the phase begins; nothing that the peer does moves
 * it, so dripping a byte now and then gains nothing. The timer is lazy: it is armed for a moment not
 * later than the deadline, and looks again when it fires.
 *
 * In two phases the peer has as much time as it makes progress: while a body is awaited from it
 * (BODY), and while it is to take what we wrote (WRITE). Each exchange begins with a full stock of
 * time, body_timeout or write_timeout. While the peer is waited for, the stock runs out; each byte
 * earns 1/body_min_rate (write_min_rate) of a second, up to the full stock. So a peer may pause for
 * a whole timeout after it was fast, and needs the minimum rate for ever. Time in which a backend
 * is waited for is not counted. The stock is looked at a few times a timeout, so the end comes up
 * to a quarter later.
 *
 * What a peer has taken is what it has acknowledged, not what lies in the kernel: that may be
 * megabytes. */
#include "gateway/connection_private.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "gateway/base/clock.h"

enum {
    LINGER_MS = 2000, /* how long a peer may take to close after us */
    GRACE_MS = 1000,  /* when draining: for the request that a new connection was made for */
    LOOKS = 4,        /* at a stock, in the time that a full one lasts */
};

/* --- stocks of time --------------------------------------------------------------------------- */

static bool phase_is_paced(enum connection_phase phase)
{
    return phase == PHASE_BODY || phase == PHASE_WRITE;
}

static struct connection_pace *connection_pace(struct connection *conn, enum connection_phase phase)
{
    return phase == PHASE_BODY ? &conn->body_pace : &conn->write_pace;
}

static int64_t connection_full_ms(const struct connection *conn, enum connection_phase phase)
{
    const struct config *config = connection_config(conn);

    return phase == PHASE_BODY ? config->http.body_timeout_ms : config->http.write_timeout_ms;
}

/* A slow peer's TLS record may take longer than a full stock lasts: its bytes count as they come. */
static uint64_t connection_received(const struct connection *conn)
{
    uint64_t received = stream_received(conn->stream);

    return received > 0 ? received : conn->bytes_read;
}

static uint64_t connection_moved(const struct connection *conn, enum connection_phase phase)
{
    int on_its_way = 0;

    if (phase == PHASE_BODY)
        return connection_received(conn);
    if (ioctl(stream_fd(conn->stream), SIOCOUTQ, &on_its_way) != 0 || on_its_way < 0)
        on_its_way = 0;
    return conn->bytes_written > (uint64_t)on_its_way ? conn->bytes_written - (uint64_t)on_its_way
                                                      : 0;
}

void connection_start_pace(struct connection *conn)
{
    conn->body_pace = (struct connection_pace){
        .left_ms = connection_full_ms(conn, PHASE_BODY),
        .bytes = connection_received(conn),
    };
    conn->write_pace = (struct connection_pace){
        .left_ms = connection_full_ms(conn, PHASE_WRITE),
        .bytes = conn->write_pace.bytes,
    };
}

static int64_t pace_earned_ms(uint64_t bytes, size_t rate, int64_t full_ms)
{
    if (bytes == 0)
        return 0;
    if (rate == 0 || bytes / rate >= (uint64_t)full_ms)
        return full_ms;
    return (int64_t)(bytes * 1000 / rate);
}

/* What has the peer made of its time? */
static void connection_look(struct connection *conn, enum connection_phase phase)
{
    const struct config *config = connection_config(conn);
    struct connection_pace *pace = connection_pace(conn, phase);
    size_t rate = phase == PHASE_BODY ? config->http.body_min_rate : config->http.write_min_rate;
    int64_t full_ms = connection_full_ms(conn, phase);
    uint64_t moved = connection_moved(conn, phase);
    uint64_t bytes = moved > pace->bytes ? moved - pace->bytes : 0;

    pace->left_ms += pace_earned_ms(bytes, rate, full_ms) - pace->waited_ms;
    pace->left_ms = pace->left_ms < full_ms ? pace->left_ms : full_ms;
    pace->quiet_ms = bytes > 0 ? 0 : pace->quiet_ms + pace->waited_ms;
    pace->bytes += bytes;
    pace->waited_ms = 0;
}

/* Nothing came at all, or not enough? */
static bool connection_stood_still(struct connection *conn, enum connection_phase phase)
{
    return connection_pace(conn, phase)->quiet_ms >= connection_full_ms(conn, phase);
}

static int64_t connection_next_look_ms(struct connection *conn, enum connection_phase phase)
{
    const struct connection_pace *pace = connection_pace(conn, phase);
    int64_t left_ms = pace->left_ms - pace->waited_ms;
    int64_t look_ms = connection_full_ms(conn, phase) / LOOKS;

    return left_ms < look_ms ? left_ms : look_ms;
}

/* --- phases ----------------------------------------------------------------------------------- */

static enum connection_phase connection_idle_phase(const struct connection *conn)
{
    if (!http_parser_is_idle(conn->parser))
        return PHASE_HEAD;
    if (conn->requests > 0)
        return PHASE_IDLE;
    return conn->last_request ? PHASE_GRACE : PHASE_FIRST;
}

static enum connection_phase connection_phase(const struct connection *conn)
{
    switch (conn->state) {
    case CONNECTION_HANDSHAKE:
        return PHASE_HANDSHAKE;
    case CONNECTION_ADMITTING:
        return PHASE_ADMITTING;
    case CONNECTION_IDLE:
        return buf_is_empty(&conn->out) ? connection_idle_phase(conn) : PHASE_WRITE;
    case CONNECTION_EXCHANGE:
        if (!buf_is_empty(&conn->out))
            return PHASE_WRITE;
        return exchange_awaits_peer(conn->exchange) ? PHASE_BODY : PHASE_ANSWER;
    case CONNECTION_LINGER:
        return buf_is_empty(&conn->out) ? PHASE_LINGER : PHASE_WRITE;
    case CONNECTION_CLOSED:
        break;
    }
    return PHASE_LINGER;
}

/* -1: none. */
static int64_t connection_phase_ms(struct connection *conn, enum connection_phase phase)
{
    const struct config *config = connection_config(conn);

    switch (phase) {
    case PHASE_HANDSHAKE:
        return config->http.handshake_timeout_ms;
    case PHASE_ADMITTING:
        /* The store's own deadlines end this phase long before. */
        return INT64_C(4) * CONNECTION_ADMISSION_TRIES * config->store.command_timeout_ms;
    case PHASE_FIRST:
        return config->http.first_request_timeout_ms;
    case PHASE_GRACE:
        return GRACE_MS;
    case PHASE_IDLE:
        return config->http.idle_timeout_ms;
    case PHASE_HEAD:
        return config->http.head_timeout_ms;
    case PHASE_BODY:
    case PHASE_WRITE:
        return connection_next_look_ms(conn, phase);
    case PHASE_ANSWER:
        return -1;
    case PHASE_LINGER:
        break;
    }
    return LINGER_MS;
}

void connection_arm_timer(struct connection *conn, int64_t now_ms)
{
    int64_t until_ms =
        conn->phase_until_ms < conn->drain_until_ms ? conn->phase_until_ms : conn->drain_until_ms;

    if (until_ms == INT64_MAX || conn->timer_at_ms <= until_ms)
        return;
    int64_t left = until_ms > now_ms ? until_ms - now_ms : 0;
    struct timeval in = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
    conn->timer_at_ms = until_ms;
    (void)evtimer_add(&conn->timer, &in);
}

static void connection_begin_phase(struct connection *conn, enum connection_phase phase,
                                   int64_t now_ms)
{
    int64_t ms = connection_phase_ms(conn, phase);

    conn->phase = phase;
    conn->phase_since_ms = now_ms;
    conn->phase_until_ms = ms < 0 ? INT64_MAX : now_ms + ms;
    connection_arm_timer(conn, now_ms);
}

static void connection_end_phase(struct connection *conn, int64_t now_ms)
{
    if (phase_is_paced(conn->phase))
        connection_pace(conn, conn->phase)->waited_ms += now_ms - conn->phase_since_ms;
}

void connection_update_deadline(struct connection *conn)
{
    enum connection_phase phase = connection_phase(conn);

    if (phase == conn->phase)
        return;
    int64_t now_ms = clock_monotonic_ms();
    connection_end_phase(conn, now_ms);
    connection_begin_phase(conn, phase, now_ms);
}

/* --- the end of patience ---------------------------------------------------------------------- */

/* True when a paced phase goes on. */
static bool connection_has_time_left(struct connection *conn, int64_t now_ms)
{
    if (!phase_is_paced(conn->phase))
        return false;
    connection_end_phase(conn, now_ms);
    connection_look(conn, conn->phase);
    if (connection_pace(conn, conn->phase)->left_ms <= 0)
        return false;
    connection_begin_phase(conn, conn->phase, now_ms);
    return true;
}

static void connection_timed_out(struct connection *conn)
{
    bool still;

    switch (conn->phase) {
    case PHASE_HANDSHAKE:
        connection_count_failed_handshake(conn, STREAM_FAILURE_TIMEOUT);
        connection_close(conn, REASON_HANDSHAKE_TIMEOUT);
        return;
    case PHASE_ADMITTING:
        connection_close(conn, REASON_STORE_UNAVAILABLE);
        return;
    case PHASE_FIRST:
        connection_linger(conn, REASON_FIRST_REQUEST_TIMEOUT);
        break;
    case PHASE_GRACE:
        connection_linger(conn, conn->drain_reason);
        break;
    case PHASE_IDLE:
        connection_linger(conn, REASON_IDLE_TIMEOUT);
        break;
    case PHASE_HEAD:
        connection_refuse_malformed(conn, REASON_REQUEST_TIMEOUT, NULL);
        break;
    case PHASE_BODY:
        still = connection_stood_still(conn, PHASE_BODY);
        exchange_refuse(conn->exchange, still ? REASON_REQUEST_TIMEOUT : REASON_REQUEST_TOO_SLOW,
                        NULL);
        break;
    case PHASE_WRITE:
        still = connection_stood_still(conn, PHASE_WRITE);
        connection_close(conn, still ? REASON_WRITE_TIMEOUT : REASON_RESPONSE_TOO_SLOW);
        return;
    case PHASE_ANSWER:
        break;
    case PHASE_LINGER:
        connection_close(conn, conn->close_reason);
        return;
    }
    connection_run(conn);
}

void connection_on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct connection *conn = arg;
    int64_t now_ms = clock_monotonic_ms();

    (void)fd;
    (void)what;
    if (conn->state == CONNECTION_CLOSED)
        return;
    conn->timer_at_ms = INT64_MAX;
    if (now_ms >= conn->drain_until_ms)
        connection_close(conn, conn->drain_reason);
    else if (now_ms >= conn->phase_until_ms && !connection_has_time_left(conn, now_ms))
        connection_timed_out(conn);
    if (conn->state != CONNECTION_CLOSED)
        connection_arm_timer(conn, now_ms);
}
