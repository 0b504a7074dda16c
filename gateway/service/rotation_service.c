/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/service/rotation_service.h"

#include "gateway/base/mem.h"
#include "gateway/store/transition.h"
#include "gateway/tls/pubkey.h"
#include "policy/rotation.h"

/* --- PATCH: announce -------------------------------------------------------------------------- */

struct announcing {
    struct exchange *exchange; /* borrowed: owns us */
    struct pubkey next;
};

static void free_json(json_t **json)
{
    json_decref(*json);
}

/* REASON_OK, or why the body cannot be an announcement. */
static enum reason parse_announcement(struct str body, struct pubkey *out_next)
{
    CLEANUP(free_json) json_t *json = json_loadb(body.p, body.len, JSON_REJECT_DUPLICATES, NULL);
    const json_t *pem = json_object_get(json, "next_pubkey");

    if (!json_is_string(pem))
        return REASON_REQUEST_BODY_INVALID;
    switch (
        pubkey_parse_pem((struct str){json_string_value(pem), json_string_length(pem)}, out_next)) {
    case PUBKEY_OK:
        return REASON_OK;
    case PUBKEY_INVALID:
        return REASON_NEXT_KEY_INVALID;
    case PUBKEY_NOT_ALLOWED:
        break;
    }
    return REASON_NEXT_KEY_NOT_ALLOWED;
}

static void decide_announcement(const struct store_view *view, struct decision *out, void *arg)
{
    const struct announcing *announcing = arg;

    rotation_announce(
        &(struct announcement){
            .record = &view->record,
            .announcer = &exchange_device(announcing->exchange)->key.id,
            .next = &announcing->next,
            .denied = view->denied,
            .next_denied = view->next_key_denied,
            .connected_ms = exchange_connected_store_ms(announcing->exchange),
            .now_ms = view->now_ms,
        },
        out);
}

static void on_announced(enum store_result result, const struct store_view *view,
                         const struct decision *decision, void *arg)
{
    struct announcing *announcing = arg;
    struct exchange *ex = announcing->exchange;

    *exchange_transition_slot(ex) = NULL;
    if (result != STORE_OK) {
        exchange_refuse_store(ex, result);
    } else if (decision->verdict != VERDICT_PASS) {
        /* Only a request on a new connection can be known to be newer than the rotation that is
         * pending. */
        if (decision->reason == REASON_ANNOUNCEMENT_OUTDATED)
            exchange_close_after(ex);
        exchange_refuse(ex, decision->reason, NULL);
    } else {
        const struct device_record *record =
            decision->commits ? &decision->change.next : &view->record;
        exchange_answer_json(ex, 200, decision->reason,
                             json_pack("{s:s, s:s, s:s}", "uuid", record->name, "pending_key",
                                       record->pending.id.hex, "rotation_id", record->rotation_id));
    }
    exchange_wake(ex);
}

static void announce(struct exchange *ex)
{
    struct announcing *announcing = mem_new(struct announcing);
    const struct credentials *device = exchange_device(ex);

    *exchange_service_state(ex) = announcing;
    announcing->exchange = ex;
    enum reason reason = parse_announcement(exchange_body(ex), &announcing->next);
    if (reason != REASON_OK) {
        exchange_refuse(ex, reason,
                        reason == REASON_REQUEST_BODY_INVALID
                            ? "Expected {\"next_pubkey\": \"<PEM>\"}."
                            : NULL);
        return;
    }
    const struct store_query query = {
        .device = device->device,
        .key = device->key.id.hex,
        .certificate = device->certificate.hex,
        .certificate_twin = device->certificate_twin.hex,
        .next_key = announcing->next.id.hex,
    };
    struct transition *transition = transition_start(exchange_env(ex)->worker->store, &query,
                                                     decide_announcement, on_announced, announcing);
    transition_name_peer(transition, exchange_env(ex)->peer->address);
    *exchange_transition_slot(ex) = transition;
}

/* --- GET: the device -------------------------------------------------------------------------- */

/* The first seven names are what stock agents read. */
static json_t *describe(const struct store_view *view)
{
    const struct device_record *record = &view->record;

    json_t *json =
        json_pack("{s:s, s:s, s:s, s:b, s:I, s:s, s:s, s:s, s:I, s:I, s:I}", "uuid", record->name,
                  "pubkey", record->current.pem, "group_name", record->group, "is_prod",
                  record->production, "last_seen", (json_int_t)(view->last_seen_ms / 1000),
                  "target_name", "", "factory", record->factory, "key", record->current.id.hex,
                  "key_since", (json_int_t)(record->current_since_ms / 1000), "generation",
                  (json_int_t)record->generation, "created_at",
                  (json_int_t)(record->first_seen_ms / 1000));
    if (json != NULL && record_rotation_pending(record)) {
        (void)json_object_set_new(json, "pending_key", json_string(record->pending.id.hex));
        (void)json_object_set_new(json, "rotation_id", json_string(record->rotation_id));
    }
    return json;
}

static void on_read(enum store_result result, const struct store_view *view, void *arg)
{
    struct exchange *ex = arg;

    *exchange_store_slot(ex) = NULL;
    if (result != STORE_OK)
        exchange_refuse_store(ex, result);
    else if (!record_exists(&view->record))
        exchange_refuse(ex, REASON_NO_SUCH_DEVICE, NULL);
    else
        exchange_answer_json(ex, 200, REASON_OK, describe(view));
    exchange_wake(ex);
}

void rotation_service_serve(struct exchange *ex)
{
    if (str_eq(exchange_head(ex)->method, STR("PATCH"))) {
        announce(ex);
        return;
    }
    const struct store_query query = {.device = exchange_device(ex)->device};
    *exchange_store_slot(ex) = store_read(exchange_env(ex)->worker->store, &query, on_read, ex);
}
