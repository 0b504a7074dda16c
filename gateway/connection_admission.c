/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/connection_private.h"

#include "gateway/base/clock.h"

static void connection_decide(struct connection *conn)
{
    conn->cut_meanwhile = false;
    conn->admission_tries++;
    admission_start(&conn->admission, conn->worker->store);
}

/* The store cannot be asked about a connection that was admitted before: store.on_outage says what
 * follows. */
static bool connection_may_serve_on(const struct connection *conn)
{
    const struct config *config = connection_config(conn);

    return conn->peer.admitted && !conn->retired &&
           config->store.on_outage == CONFIG_ON_OUTAGE_SERVE_ADMITTED &&
           store_stale_ms(conn->worker->store) <= config->store.serve_admitted_max_ms;
}

static void connection_observe_ages(struct connection *conn, const struct store_view *view,
                                    const struct device_record *record)
{
    struct stats *stats = conn->worker->stats;
    int64_t expires_ms = conn->admission.credentials->certificate_expires_ms;

    histogram_observe(&stats->key_age, (view->now_ms - record->current_since_ms) / 1000);
    histogram_observe(&stats->certificate_left, (expires_ms - view->now_ms) / 1000);
}

/* As of store_ms on the store's clock. */
static struct standing connection_judge(struct connection *conn, int64_t store_ms)
{
    const struct enforcement_rules *rules = &conn->admission.settings->rules;
    struct standing standing =
        enforcement_judge(enforcement_of(rules, conn->group), &conn->facts, store_ms);

    standing_format(&standing, conn->peer.rotation);
    conn->stands_until_ms =
        standing.until_ms == INT64_MAX
            ? INT64_MAX
            : time_after_ms(conn->peer.decided_ms,
                            time_between_ms(conn->peer.decided_store_ms, standing.until_ms));
    return standing;
}

/* The verdict is the decision's: here it is what will become of it, and what the device is told. */
static void connection_begin_standing(struct connection *conn, const struct device_record *record)
{
    conn->peer.rotation[0] = '\0';
    conn->stands_until_ms = INT64_MAX;
    if (!admission_facts(record, conn->admission.credentials, &conn->facts))
        return;
    memcpy(conn->group, record->group, sizeof(conn->group));
    struct standing standing = connection_judge(conn, conn->peer.decided_store_ms);
    stat_add(&conn->worker->stats->standings[standing.age.state][standing.action], 1);
}

void connection_adopt_rules(struct connection *conn)
{
    struct admission *admission = &conn->admission;

    if (admission->credentials == NULL)
        return;
    admission->settings = &connection_config(conn)->rotation.admission;
    admission->issuer = tls_server_issuer_state(snapshot_tls_server(conn->env.generation->snapshot,
                                                                    conn->env.listener->name),
                                                conn->peer.certificate);
    conn->stands_until_ms = 0;
}

void connection_keep_standing(struct connection *conn)
{
    int64_t now_ms = clock_monotonic_ms();

    if (!conn->peer.admitted || conn->refusal != REASON_OK || now_ms < conn->stands_until_ms)
        return;
    struct standing standing =
        connection_judge(conn, conn->peer.decided_store_ms + (now_ms - conn->peer.decided_ms));
    conn->peer.quarantined = standing.verdict == VERDICT_QUARANTINE;
    conn->peer.verdict = standing.reason;
    if (standing.verdict != VERDICT_REFUSE)
        return;
    conn->peer.admitted = false;
    conn->refusal = standing.reason;
    stream_forget_session(conn->stream);
    stat_add(&conn->worker->stats->admissions[standing.reason], 1);
}

static void connection_take_decision(struct connection *conn, const struct store_view *view,
                                     const struct decision *decision)
{
    bool passes = decision->verdict == VERDICT_PASS || decision->verdict == VERDICT_QUARANTINE;
    bool changed = decision->commits && decision->change.writes_record;
    const struct device_record *record = changed ? &decision->change.next : &view->record;

    /* Whatever was decided is in the record; a device that has too many connections only gets none
     * more. */
    bool full = passes && !connection_enter_device(conn);
    enum reason reason = full ? REASON_TOO_MANY_CONNECTIONS_OF_DEVICE : decision->reason;
    conn->peer.admitted = passes && !full;
    conn->peer.quarantined = decision->verdict == VERDICT_QUARANTINE;
    conn->peer.verdict = decision->reason;
    conn->peer.generation = record->generation;
    conn->peer.decided_store_ms = view->now_ms;
    conn->peer.decided_ms = clock_monotonic_ms();
    conn->refusal = conn->peer.admitted ? REASON_OK : reason;
    conn->distrusted = conn->retired = false;
    connection_begin_standing(conn, record);
    if (conn->peer.admitted) {
        connection_observe_ages(conn, view, changed ? &decision->change.next : &view->record);
        stream_allow_resumption(conn->stream);
        store_note_seen(conn->worker->store, conn->admission.credentials->device,
                        conn->peer.address);
    } else if (!passes) {
        stream_forget_session(conn->stream);
    }
    stat_add(&conn->worker->stats->admissions[reason], 1);
}

static void connection_admission_failed(struct connection *conn, enum reason reason)
{
    if (reason == REASON_STORE_UNAVAILABLE && connection_may_serve_on(conn))
        return;
    /* The refusal ends the connection; `admitted` stays true until then, for the cuts. */
    conn->refusal = reason;
    stat_add(&conn->worker->stats->admissions[reason], 1);
}

static void on_admission(enum store_result result, const struct store_view *view,
                         const struct decision *decision, void *arg)
{
    static const enum reason reasons[] = {
        [STORE_OK] = REASON_UNDECIDED,
        [STORE_CONFLICT] = REASON_STORE_CONFLICT,
        [STORE_UNAVAILABLE] = REASON_STORE_UNAVAILABLE,
        [STORE_INVALID] = REASON_STORE_RECORD_INVALID,
    };
    struct connection *conn = arg;

    /* What was decided from a record that is older than the cut is worth nothing. */
    if (conn->cut_meanwhile && conn->admission_tries < CONNECTION_ADMISSION_TRIES) {
        connection_decide(conn);
        return;
    }
    if (conn->cut_meanwhile)
        connection_admission_failed(conn, REASON_STORE_CONFLICT);
    else if (result == STORE_OK)
        connection_take_decision(conn, view, decision);
    else
        connection_admission_failed(conn, reasons[result]);
    connection_set_state(conn, CONNECTION_IDLE);
    connection_run(conn);
}

bool connection_is_trusted(const struct connection *conn)
{
    if (!conn->peer.admitted || conn->refusal != REASON_OK)
        return true; /* nothing to trust: it is refused, or has no certificate and routes decide */
    return !conn->distrusted && store_is_fresh(conn->worker->store);
}

/* Before the next request of a live connection. */
void connection_readmit(struct connection *conn)
{
    conn->head_waits = true;
    conn->admission.handshake = HANDSHAKE_RESUMED;
    conn->admission_tries = 0;
    connection_set_state(conn, CONNECTION_ADMITTING);
    connection_decide(conn);
}

static enum reason connection_identity_refusal(enum peer_identity identity)
{
    switch (identity) {
    case PEER_NO_CERTIFICATE:
    case PEER_IDENTIFIED:
        return REASON_OK;
    case PEER_NAME_INVALID:
        return REASON_CERTIFICATE_IDENTITY;
    case PEER_IS_CA:
        return REASON_CERTIFICATE_IS_CA;
    case PEER_KEY_NOT_ALLOWED:
        return REASON_CERTIFICATE_KEY_WEAK;
    }
    return REASON_UNDECIDED;
}

static void connection_count_handshake(struct connection *conn, const struct stream_peer *peer)
{
    struct stats *stats = conn->worker->stats;
    bool resumed = peer != NULL && peer->identity == PEER_IDENTIFIED &&
                   peer->credentials.handshake == HANDSHAKE_RESUMED;

    if (peer != NULL)
        stat_add(resumed ? &stats->handshakes_resumed : &stats->handshakes_full, 1);
}

/* Does the newest snapshot not trust any more whom an older one let in? */
bool connection_is_untrusted(const struct connection *conn, const struct snapshot *newest)
{
    if (conn->peer.certificate == NULL)
        return false;
    const struct tls_server *server = snapshot_tls_server(newest, conn->env.listener->name);
    return server == NULL || tls_server_recheck(server, conn->peer.certificate) == TLS_TRUST_GONE;
}

enum step connection_identify(struct connection *conn)
{
    const struct stream_peer *peer = stream_peer(conn->stream);

    connection_count_handshake(conn, peer);
    conn->peer.certificate = peer;
    conn->peer.has_uid = stream_peer_uid(conn->stream, &conn->peer.uid);
    /* A reload during the handshake: the chain was judged by what was trusted before. */
    if (conn->tls_generation != conn->worker->generation &&
        connection_is_untrusted(conn, conn->worker->generation->snapshot)) {
        connection_close(conn, REASON_CUT_UNTRUSTED);
        return STEP_OVER;
    }
    connection_renew_generation(conn);
    conn->refusal = peer != NULL ? connection_identity_refusal(peer->identity) : REASON_OK;
    bool device = peer != NULL && peer->identity == PEER_IDENTIFIED && conn->env.listener != NULL &&
                  conn->env.listener->clients == CONFIG_CLIENTS_DEVICES;
    if (!device) {
        /* Operators are whom their CA names. */
        if (conn->refusal == REASON_OK)
            stream_allow_resumption(conn->stream);
        connection_set_state(conn, CONNECTION_IDLE);
        return STEP_MORE;
    }
    conn->admission = (struct admission){
        .credentials = &peer->credentials,
        .handshake = peer->credentials.handshake,
        .peer = conn->peer.address,
        .done = on_admission,
        .arg = conn,
    };
    connection_adopt_rules(conn);
    /* First into the index, then the question: a cut between the two finds us. */
    connection_index_add(conn->worker->index_by_device, &conn->index, peer->credentials.device);
    connection_set_state(conn, CONNECTION_ADMITTING);
    connection_decide(conn);
    return STEP_WAIT;
}
