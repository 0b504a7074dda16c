/* SPDX-License-Identifier: BSD-2-Clause */
/* Who may come in: budgets are asked before anything is allocated. Whoever is turned away costs an
 * accept, a look at the budget and a reset: no TLS, no answer, no TIME_WAIT of ours. */
#include "gateway/connection_private.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "gateway/base/clock.h"
#include "gateway/tls/stream.h"

enum {
    OPERATOR_RESERVE = 64,     /* above the limit: whoever fills it must not keep operators out */
    GIVES_WAY_AFTER_MS = 1000, /* without a sign of life */
};

static void connection_reset(int fd)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    (void)close(fd);
}

static void connection_turn_away(struct worker *worker, const struct connection_origin *origin,
                                 enum reason reason)
{
    struct exchange_peer peer = {0};

    stat_add(&worker->stats->closes[reason], 1);
    connection_reset(origin->fd);
    if (!peer_log_pass(worker, PEER_LOG_CLOSE, reason, peer_log_level(reason)))
        return;
    connection_name_peer(&peer, origin->peer);
    log_write(peer_log_level(reason), "connection closed", LOG_STR("reason", reason_wire(reason)),
              LOG_STR("listener", origin->listener != NULL ? origin->listener->name : "operator"),
              LOG_STR("peer", peer.address), LOG_INT("port", peer.port),
              LOG_INT("connections", budget_connections(worker->budget)),
              LOG_INT("handshakes", budget_handshakes(worker->budget)));
}

/* The handshake of this worker that has shown no sign of life for longest ends, if it is not our
 * own fault: what it sent may be waiting for us. */
static bool connection_makes_way(struct worker *worker)
{
    if (list_is_empty(&worker->handshakes))
        return false;
    struct connection *conn = list_entry(worker->handshakes.next, struct connection, handshake);
    int unread = 0;
    if (clock_monotonic_ms() - conn->alive_ms < GIVES_WAY_AFTER_MS ||
        ioctl(stream_fd(conn->stream), FIONREAD, &unread) != 0 || unread > 0)
        return false;
    connection_count_failed_handshake(conn, STREAM_FAILURE_TIMEOUT);
    connection_close(conn, REASON_HANDSHAKE_GAVE_WAY);
    return true;
}

void connection_note_alive(struct connection *conn)
{
    if (!conn->claim.handshaking)
        return;
    conn->alive_ms = clock_monotonic_ms();
    list_remove(&conn->handshake);
    list_push_back(&conn->worker->handshakes, &conn->handshake);
}

void connection_accept(struct worker *worker, const struct connection_origin *origin)
{
    const struct config *config = worker->generation->snapshot->config;
    const struct budget_newcomer newcomer = {
        .peer = origin->peer,
        .handshakes =
            origin->listener != NULL &&
            snapshot_tls_server(worker->generation->snapshot, origin->listener->name) != NULL,
        .reserve = origin->listener == NULL ? OPERATOR_RESERVE : 0,
    };
    struct budget_claim claim = {0};
    const int on = 1;

    stat_add(&origin->stats->accepted, 1);
    enum reason reason = budget_enter(worker->budget, config, &newcomer, &claim);
    if (reason == REASON_TOO_MANY_HANDSHAKES && connection_makes_way(worker))
        reason = budget_enter(worker->budget, config, &newcomer, &claim);
    if (reason != REASON_OK) {
        connection_turn_away(worker, origin, reason);
        return;
    }
    if (origin->peer->ss_family != AF_UNIX)
        (void)setsockopt(origin->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    struct connection *conn = connection_new(worker, origin);
    conn->claim = claim;
    connection_note_alive(conn);
    list_push_back(&worker->connections, &conn->link);
    worker->n_connections++;
    stat_add(&origin->stats->open, 1);
    connection_run(conn);
}

/* --- a device's number ------------------------------------------------------------------------ */

struct idlest {
    struct connection *conn; /* NULL: none is idle */
};

static void on_visit_idle(struct connection_index_link *link, void *arg)
{
    struct connection *conn = CONTAINER_OF(link, struct connection, index);
    struct idlest *idlest = arg;

    bool idle = conn->phase == PHASE_IDLE || conn->phase == PHASE_FIRST;
    if (conn->claim.device == NULL || !idle || conn->last_request)
        return;
    if (idlest->conn == NULL || conn->phase_since_ms < idlest->conn->phase_since_ms)
        idlest->conn = conn;
}

bool connection_enter_device(struct connection *conn)
{
    struct worker *worker = conn->worker;
    const char *device = conn->admission.credentials->device;
    size_t max = connection_config(conn)->limits.device_connections;
    struct idlest idlest = {0};

    if (budget_enter_device(worker->budget, &conn->claim, device, max))
        return true;
    connection_index_visit(worker->index_by_device, device, on_visit_idle, &idlest);
    if (idlest.conn == NULL)
        return false;
    /* In order, not at once: a request that is on its way is still served. */
    budget_leave_device(worker->budget, &idlest.conn->claim);
    connection_drain(idlest.conn, REASON_IDLE_GAVE_WAY, connection_config(conn)->drain_timeout_ms);
    return budget_enter_device(worker->budget, &conn->claim, device, max);
}
