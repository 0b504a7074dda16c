/* SPDX-License-Identifier: BSD-2-Clause */
/* What happens to many connections at once: cuts, gaps in the log, reloads, the end. */
#include "gateway/connection_private.h"

static bool connection_is_meant(const struct connection *conn, const struct store_cut *cut)
{
    const struct credentials *credentials = conn->admission.credentials;

    switch (cut->kind) {
    case DENY_KEY:
        return strcmp(credentials->key.id.hex, cut->id) == 0;
    case DENY_CERTIFICATE:
        return strcmp(credentials->certificate.hex, cut->id) == 0 ||
               strcmp(credentials->certificate_twin.hex, cut->id) == 0;
    case DENY_DEVICE:
        return strcmp(credentials->device, cut->id) == 0;
    }
    return true;
}

static void connection_cut(struct connection *conn, const struct store_cut *cut)
{
    if (!connection_is_meant(conn, cut))
        return;
    if (conn->state == CONNECTION_ADMITTING)
        conn->cut_meanwhile = true;
    if (cut->mode == CUT_DECIDE) {
        conn->distrusted = true;
        return;
    }
    if (!conn->peer.admitted)
        return;
    stat_add(&conn->worker->stats->cuts, 1);
    if (cut->mode == CUT_NOW) {
        connection_close(conn, REASON_CUT_DENIED);
        return;
    }
    /* A request that is on its way is a new one: it is decided again, and learns why it is refused.
     */
    conn->distrusted = conn->retired = true;
    connection_drain(conn, REASON_CUT_RETIRED, connection_config(conn)->rotation.drain_ms);
}

/* First all sockets, then everything else that the end of a connection takes: the last of many does
 * not wait for the logging and freeing of the others. */
static void connection_shut(struct connection *conn, const struct store_cut *cut)
{
    if (conn->peer.admitted && connection_is_meant(conn, cut))
        stream_cut(conn->stream);
}

struct visit {
    const struct store_cut *cut;
    void (*act)(struct connection *conn, const struct store_cut *cut);
};

static void on_visit(struct connection_index_link *link, void *arg)
{
    const struct visit *visit = arg;

    visit->act(CONTAINER_OF(link, struct connection, index), visit->cut);
}

/* Those that may be meant. */
static void connections_visit(struct worker *worker, struct visit visit)
{
    const struct store_cut *cut = visit.cut;
    const char *device = cut->kind == DENY_DEVICE ? cut->id : cut->device;

    /* A retired key is its device's own, and so is what is to be decided again. */
    if (cut->kind == DENY_DEVICE || (cut->mode == CUT_DRAIN && device[0] != '\0')) {
        connection_index_visit(worker->index_by_device, device, on_visit, &visit);
        return;
    }
    /* A key or a certificate that an operator has denied: whoever stole it may have spoken under
     * other names than the one that the denial gives, if it gives any. Rare, and worth a look at
     * each. */
    list_for_each_safe (link, following, &worker->connections) {
        struct connection *conn = list_entry(link, struct connection, link);
        if (list_is_linked(&conn->index.link))
            visit.act(conn, cut);
    }
}

void connections_cut(struct worker *worker, const struct store_cut *cut)
{
    if (cut->mode == CUT_NOW)
        connections_visit(worker, (struct visit){cut, connection_shut});
    connections_visit(worker, (struct visit){cut, connection_cut});
}

void connections_distrust(struct worker *worker)
{
    list_for_each_safe (link, following, &worker->connections) {
        struct connection *conn = list_entry(link, struct connection, link);
        conn->distrusted = true;
        if (conn->state == CONNECTION_ADMITTING)
            conn->cut_meanwhile = true;
    }
}

void connections_recheck(struct worker *worker, const struct snapshot *snapshot)
{
    list_for_each_safe (link, following, &worker->connections) {
        struct connection *conn = list_entry(link, struct connection, link);
        if (connection_is_untrusted(conn, snapshot))
            connection_close(conn, REASON_CUT_UNTRUSTED);
        else if (conn->state == CONNECTION_ADMITTING)
            connection_renew_generation(conn);
    }
}

void connections_drain(struct worker *worker, int64_t within_ms)
{
    list_for_each_safe (link, following, &worker->connections)
        connection_drain(list_entry(link, struct connection, link), REASON_DRAINED, within_ms);
}

bool connections_are_drained(const struct worker *worker)
{
    list_for_each_safe (link, following, &worker->connections) {
        const struct connection *conn = list_entry(link, struct connection, link);
        if (conn->env.listener != NULL || conn->state == CONNECTION_EXCHANGE ||
            !buf_is_empty(&conn->out))
            return false;
    }
    return true;
}

void connections_close_all(struct worker *worker)
{
    list_for_each_safe (link, following, &worker->connections)
        connection_close(list_entry(link, struct connection, link), REASON_DRAINED);
}
