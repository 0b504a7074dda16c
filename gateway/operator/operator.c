/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/operator/operator.h"

#include <stdio.h>
#include <stdlib.h>

#include "gateway/base/clock.h"
#include "gateway/base/mem.h"
#include "gateway/operator/metrics.h"
#include "gateway/operator/preview.h"
#include "gateway/operator/query.h"
#include "gateway/store/transition.h"
#include "gateway/tls/pubkey.h"
#include "policy/denial.h"
#include "policy/group.h"
#include "policy/rotation.h"

enum { EVENTS_DEFAULT = 100, EVENTS_MAX = 1000 };

/* One act of an operator, from its parsed request to its answer. Memory of the exchange. */
struct act {
    struct exchange *exchange; /* borrowed: owns us */
    char device[DEVICE_NAME_MAX + 1];
    enum deny_kind kind;
    char id[LABEL_MAX + 1];
    int64_t until_ms;
    struct pubkey key;
    bool names_group;
    char group[LABEL_MAX + 1];
    char reason[TEXT_MAX + 1];
    char origin[32];
};

static void free_json(json_t **json)
{
    json_decref(*json);
}

static struct store *act_store(const struct act *act)
{
    return exchange_env(act->exchange)->worker->store;
}

static bool method_is(const struct exchange *ex, const char *method)
{
    return str_eq(exchange_head(ex)->method, str_c(method));
}

/* --- what a request says ---------------------------------------------------------------------- */

/* True when the member is absent, or a string that fits. */
static bool take_string(const json_t *json, const char *name, char *out, size_t size)
{
    const json_t *value = json_object_get(json, name);

    return value == NULL ||
           (json_is_string(value) &&
            str_copy(out, size, (struct str){json_string_value(value), json_string_length(value)}));
}

/* NULL, or what is wrong with the body. */
static const char *act_read_body(struct act *act)
{
    struct str body = exchange_body(act->exchange);
    CLEANUP(free_json)
    json_t *json = body.len > 0 ? json_loadb(body.p, body.len, JSON_REJECT_DUPLICATES, NULL) : NULL;
    char until[32] = "";

    if (!json_is_object(json))
        return "Expected a JSON object with a field \"reason\".";
    if (!take_string(json, "reason", act->reason, sizeof(act->reason)))
        return "\"reason\" is not a string of at most 255 bytes.";
    if (act->device[0] == '\0' && !take_string(json, "device", act->device, sizeof(act->device)))
        return "\"device\" is not a device's name.";
    if (!take_string(json, "until", until, sizeof(until)) ||
        (until[0] != '\0' && !query_parse_time(until, &act->until_ms)))
        return "\"until\" is not a time like 2026-11-22T22:30:00Z.";
    act->names_group = json_object_get(json, "group") != NULL;
    if (!take_string(json, "group", act->group, sizeof(act->group)))
        return "\"group\" is not a string of at most 64 bytes.";
    const json_t *pem = json_object_get(json, "pubkey");
    if (pem != NULL &&
        (!json_is_string(pem) ||
         pubkey_parse_pem((struct str){json_string_value(pem), json_string_length(pem)},
                          &act->key) != PUBKEY_OK))
        return "\"pubkey\" is not the PEM of an allowed public key.";
    return NULL;
}

static struct operator_act act_said(const struct act *act, int64_t now_ms)
{
    return (struct operator_act){.origin = act->origin, .reason = act->reason, .now_ms = now_ms};
}

static struct act *act_new(struct exchange *ex)
{
    struct act *act = mem_new(struct act);
    const struct exchange_peer *peer = exchange_env(ex)->peer;

    act->exchange = ex;
    if (peer->has_uid)
        (void)snprintf(act->origin, sizeof(act->origin), "operator uid:%u", peer->uid);
    else
        (void)snprintf(act->origin, sizeof(act->origin), "operator");
    *exchange_service_state(ex) = act;
    return act;
}

/* --- devices ---------------------------------------------------------------------------------- */

static json_t *describe_pending(const struct device_record *record)
{
    if (!record_rotation_pending(record))
        return json_null();
    return json_pack("{s:s, s:s, s:o, s:s, s:b}", "key", record->pending.id.hex, "pubkey",
                     record->pending.pem, "since", query_json_time(record->pending_since_ms),
                     "rotation", record->rotation_id, "stalled", record->stalled);
}

static json_t *describe_device(const struct store_view *view)
{
    const struct device_record *record = &view->record;
    size_t in_flight = 0;

    for (size_t i = 0; i < record->n_leases; i++)
        in_flight += record->leases[i].expires_ms > view->now_ms;
    return json_pack(
        "{s:s, s:s, s:s, s:b, s:I, s:I, s:o, s:o, s:{s:s, s:s, s:o, s:o}, s:o, s:I, s:{s:b, s:b}}",
        "device", record->name, "factory", record->factory, "group", record->group, "production",
        record->production, "generation", (json_int_t)record->generation, "version",
        (json_int_t)record->version, "first_seen", query_json_time(record->first_seen_ms),
        "last_seen", query_json_time(view->last_seen_ms), "current", "key", record->current.id.hex,
        "pubkey", record->current.pem, "since", query_json_time(record->current_since_ms),
        "certificate_expires", query_json_time(record->current_cert_expires_ms), "pending",
        describe_pending(record), "config_writes_in_flight", (json_int_t)in_flight, "denied",
        "device", view->denied.device, "key", view->denied.key);
}

/* Second look: the deny-list's word on the current key, whose id only the first look told. */
static void on_device_read(enum store_result result, const struct store_view *view, void *arg)
{
    struct act *act = arg;
    struct exchange *ex = act->exchange;

    *exchange_store_slot(ex) = NULL;
    if (result != STORE_OK) {
        exchange_refuse_store(ex, result);
    } else if (!record_exists(&view->record)) {
        exchange_refuse(ex, REASON_NO_SUCH_DEVICE, NULL);
    } else if (strcmp(act->id, view->record.current.id.hex) != 0) {
        str_copy_cut(act->id, sizeof(act->id), str_c(view->record.current.id.hex));
        const struct store_query query = {.device = act->device, .key = act->id};
        *exchange_store_slot(ex) = store_read(act_store(act), &query, on_device_read, act);
        return;
    } else {
        exchange_answer_json(ex, 200, REASON_OK, describe_device(view));
    }
    exchange_wake(ex);
}

static void show_device(struct act *act)
{
    const struct store_query query = {.device = act->device};

    *exchange_store_slot(act->exchange) = store_read(act_store(act), &query, on_device_read, act);
}

/* --- acts that change something --------------------------------------------------------------- */

static void on_act_done(enum store_result result, const struct store_view *view,
                        const struct decision *decision, void *arg)
{
    struct act *act = arg;
    struct exchange *ex = act->exchange;

    (void)view;
    *exchange_transition_slot(ex) = NULL;
    if (result == STORE_UNAVAILABLE) {
        exchange_refuse(ex, REASON_STORE_UNAVAILABLE,
                        "It may have happened, or only in some of the partitions. Send the same "
                        "again: that completes it.");
    } else if (result != STORE_OK) {
        exchange_refuse_store(ex, result);
    } else if (decision->verdict != VERDICT_PASS) {
        exchange_refuse(ex, decision->reason, NULL);
    } else {
        exchange_answer_json(ex, 200, decision->reason,
                             json_pack("{s:s, s:s}", "reason", reason_wire(decision->reason),
                                       "text", reason_text(decision->reason)));
    }
    exchange_wake(ex);
}

static void act_start(struct act *act, const struct store_query *query,
                      transition_decide_fn *decide)
{
    struct transition *transition =
        transition_start(act_store(act), query, decide, on_act_done, act);

    transition_name_peer(transition, exchange_env(act->exchange)->peer->address);
    *exchange_transition_slot(act->exchange) = transition;
}

static void decide_cancel(const struct store_view *view, struct decision *out, void *arg)
{
    const struct act *act = arg;
    struct operator_act said = act_said(act, view->now_ms);

    rotation_cancel(&view->record, &said, out);
}

static void decide_accept_key(const struct store_view *view, struct decision *out, void *arg)
{
    const struct act *act = arg;

    rotation_accept_key(
        &(struct key_acceptance){
            .record = &view->record,
            .device = act->device,
            .key = &act->key,
            .key_denied = view->next_key_denied,
            .act = act_said(act, view->now_ms),
        },
        out);
}

/* A new act on the device that the path names; NULL when the request is refused already. */
static struct act *act_on_device(struct exchange *ex, struct str name)
{
    struct act *act = act_new(ex);

    if (device_name_is_valid(name.p, name.len) && str_copy(act->device, sizeof(act->device), name))
        return act;
    exchange_refuse(ex, REASON_DEVICE_NAME_INVALID, NULL);
    return NULL;
}

static bool act_takes_body(struct act *act)
{
    const char *wrong = act_read_body(act);

    if (wrong != NULL)
        exchange_refuse(act->exchange, REASON_REQUEST_BODY_INVALID, wrong);
    return wrong == NULL;
}

static void decide_group(const struct store_view *view, struct decision *out, void *arg)
{
    const struct act *act = arg;
    struct operator_act said = act_said(act, view->now_ms);

    group_assign(&view->record, act->group, &said, out);
}

static void change_device(struct act *act)
{
    if (!act_takes_body(act))
        return;
    if (act->names_group)
        act_start(act, &(struct store_query){.device = act->device}, decide_group);
    else
        exchange_refuse(act->exchange, REASON_REQUEST_BODY_INVALID,
                        "Expected what to change: \"group\".");
}

static void serve_device(struct exchange *ex, const struct str *names)
{
    struct act *act = act_on_device(ex, names[0]);

    if (act == NULL)
        return;
    if (method_is(ex, "PATCH"))
        change_device(act);
    else
        show_device(act);
}

static void serve_cancel_rotation(struct exchange *ex, const struct str *names)
{
    struct act *act = act_on_device(ex, names[0]);

    if (act != NULL && act_takes_body(act))
        act_start(act, &(struct store_query){.device = act->device}, decide_cancel);
}

static void serve_accept_key(struct exchange *ex, const struct str *names)
{
    struct act *act = act_on_device(ex, names[0]);

    if (act == NULL || !act_takes_body(act))
        return;
    const struct store_query query = {.device = act->device, .next_key = act->key.id.hex};
    if (digest_is_set(&act->key.id))
        act_start(act, &query, decide_accept_key);
    else
        exchange_refuse(ex, REASON_REQUEST_BODY_INVALID,
                        "Expected the key to accept in \"pubkey\".");
}

/* --- the deny-list ---------------------------------------------------------------------------- */

static struct denial_request act_denial(const struct act *act, int64_t now_ms)
{
    return (struct denial_request){
        .kind = act->kind,
        .id = act->id,
        .device = act->device,
        .until_ms = act->until_ms,
        .act = act_said(act, now_ms),
    };
}

static void decide_deny(const struct store_view *view, struct decision *out, void *arg)
{
    struct denial_request request = act_denial(arg, view->now_ms);

    denial_add(&request, out);
}

static bool act_is_denied(const struct act *act, const struct store_view *view)
{
    return act->kind == DENY_KEY           ? view->denied.key
           : act->kind == DENY_CERTIFICATE ? view->denied.certificate
                                           : view->denied.device;
}

static void decide_allow(const struct store_view *view, struct decision *out, void *arg)
{
    const struct act *act = arg;
    struct denial_request request = act_denial(act, view->now_ms);

    denial_remove(&request, act_is_denied(act, view), out);
}

static struct store_query act_denial_query(const struct act *act)
{
    return (struct store_query){
        .device = act->device,
        .key = act->kind == DENY_KEY ? act->id : NULL,
        .certificate = act->kind == DENY_CERTIFICATE ? act->id : NULL,
    };
}

static void on_denial_read(enum store_result result, bool exists, const struct denial *denial,
                           void *arg)
{
    struct act *act = arg;
    struct exchange *ex = act->exchange;

    *exchange_store_slot(ex) = NULL;
    if (result != STORE_OK)
        exchange_refuse_store(ex, result);
    else if (!exists)
        exchange_refuse(ex, REASON_NOT_DENIED, NULL);
    else
        exchange_answer_json(ex, 200, REASON_OK,
                             json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:o}", "kind",
                                       deny_kind_wire(denial->kind), "id", denial->id, "device",
                                       denial->device, "reason", denial->reason, "origin",
                                       denial->origin, "at", query_json_time(denial->at_ms),
                                       "until", query_json_time(denial->until_ms)));
    exchange_wake(ex);
}

static bool act_take_kind(struct act *act, struct str kind)
{
    static const enum deny_kind kinds[] = {DENY_KEY, DENY_CERTIFICATE, DENY_DEVICE};

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        if (str_eq(kind, str_c(deny_kind_wire(kinds[i])))) {
            act->kind = kinds[i];
            return true;
        }
    }
    return false;
}

static bool act_take_denied_id(struct act *act, struct str id)
{
    if (!str_copy(act->id, sizeof(act->id), id))
        return false;
    if (act->kind != DENY_DEVICE)
        return digest_is_valid(id.p, id.len);
    return device_name_is_valid(id.p, id.len) && str_copy(act->device, sizeof(act->device), id);
}

/* Whose key or certificate it is, where that is said: in the path's query, or in the body. */
static bool act_denied_device_is_valid(const struct act *act)
{
    return act->device[0] == '\0' || device_name_is_valid(act->device, strlen(act->device));
}

static void serve_denial_change(struct act *act)
{
    struct exchange *ex = act->exchange;

    if (!act_takes_body(act))
        return;
    const struct store_query query = act_denial_query(act);
    if (!act_denied_device_is_valid(act))
        exchange_refuse(ex, REASON_DEVICE_NAME_INVALID, NULL);
    else
        act_start(act, &query, method_is(ex, "PUT") ? decide_deny : decide_allow);
}

static void serve_denied(struct exchange *ex, const struct str *names)
{
    struct act *act = act_new(ex);

    if (!act_take_kind(act, names[0]))
        exchange_refuse(ex, REASON_NO_ROUTE, "Expected /v1/denied/key|certificate|device/ID.");
    else if (!act_take_denied_id(act, names[1]))
        exchange_refuse(ex, REASON_DENIAL_ID_INVALID, NULL);
    else if (act->kind != DENY_DEVICE &&
             (!str_copy(act->device, sizeof(act->device), query_value(ex, STR("device"))) ||
              !act_denied_device_is_valid(act)))
        exchange_refuse(ex, REASON_DEVICE_NAME_INVALID, NULL);
    else if (method_is(ex, "PUT") || method_is(ex, "DELETE"))
        serve_denial_change(act);
    else
        *exchange_store_slot(ex) =
            store_read_denial(act_store(act), act->kind, act->id, act->device, on_denial_read, act);
}

/* --- events ----------------------------------------------------------------------------------- */

static void on_events(enum store_result result, const struct store_event *events, size_t n_events,
                      void *arg)
{
    struct exchange *ex = arg;

    *exchange_store_slot(ex) = NULL;
    if (result != STORE_OK) {
        exchange_refuse_store(ex, result);
        exchange_wake(ex);
        return;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < n_events; i++) {
        json_t *data = json_loads(events[i].data, 0, NULL);
        (void)json_array_append_new(list,
                                    json_pack("{s:s, s:s, s:s, s:o}", "id", events[i].id, "type",
                                              events[i].type, "device", events[i].device, "data",
                                              data != NULL ? data : json_null()));
    }
    exchange_answer_json(ex, 200, REASON_OK, list);
    exchange_wake(ex);
}

static void serve_events(struct exchange *ex, const struct str *names)
{
    struct str count_text = query_value(ex, STR("count")),
               partition_text = query_value(ex, STR("partition"));
    uint64_t count = EVENTS_DEFAULT, partition = 0;

    (void)names;
    if ((count_text.len > 0 && !str_to_u64(count_text, &count)) || count < 1 ||
        count > EVENTS_MAX) {
        exchange_refuse(ex, REASON_REQUEST_BODY_INVALID, "count is a number from 1 to 1000.");
        return;
    }
    if ((partition_text.len > 0 && !str_to_u64(partition_text, &partition)) ||
        partition >= exchange_env(ex)->generation->snapshot->config->store.partitions) {
        exchange_refuse(ex, REASON_REQUEST_BODY_INVALID, "There is no such partition.");
        return;
    }
    *exchange_store_slot(ex) = store_read_events(exchange_env(ex)->worker->store,
                                                 (uint32_t)partition, (size_t)count, on_events, ex);
}

/* --- routes ----------------------------------------------------------------------------------- */

static void serve_preview(struct exchange *ex, const struct str *names)
{
    (void)names;
    preview_serve(ex);
}

static void serve_live(struct exchange *ex, const struct str *names)
{
    (void)names;
    exchange_answer_text(ex, 200, REASON_OK, "text/plain", STR("alive\n"));
}

static void serve_ready(struct exchange *ex, const struct str *names)
{
    const struct worker_group *group = exchange_env(ex)->worker->group;
    const char *unready = metrics_unready(group);

    (void)names;
    if (unready == NULL)
        exchange_answer_text(ex, 200, REASON_OK, "text/plain", STR("ready\n"));
    else
        exchange_refuse(ex,
                        stat_get(&group->daemon.draining) != 0 ? REASON_DRAINED
                                                               : REASON_STORE_UNAVAILABLE,
                        unready);
}

static void serve_metrics(struct exchange *ex, const struct str *names)
{
    const struct exchange_env *env = exchange_env(ex);
    CLEANUP(mem_free_at)
    char *text = metrics_format(env->worker->group, env->generation->snapshot);

    (void)names;
    exchange_answer_text(ex, 200, REASON_OK, "text/plain; version=0.0.4", str_c(text));
}

enum { NAMES_MAX = 2 };

struct operator_route {
    const char *path;    /* a segment "*" is a name */
    const char *methods; /* as Allow has them */
    void (*serve)(struct exchange *ex, const struct str *names);
};

static const struct operator_route operator_routes[] = {
    {"/livez", "GET, HEAD", serve_live},
    {"/readyz", "GET, HEAD", serve_ready},
    {"/metrics", "GET, HEAD", serve_metrics},
    {"/v1/devices/*", "GET, HEAD, PATCH", serve_device},
    {"/v1/devices/*/cancel-rotation", "POST", serve_cancel_rotation},
    {"/v1/devices/*/accept-key", "POST", serve_accept_key},
    {"/v1/denied/*/*", "GET, HEAD, PUT, DELETE", serve_denied},
    {"/v1/events", "GET, HEAD", serve_events},
    {"/v1/enforcement/preview", "GET, HEAD", serve_preview},
};

/* The segments that "*" stands for are written to `names`. */
static bool route_fits(const struct operator_route *route, struct str path,
                       struct str names[NAMES_MAX])
{
    struct str pattern = str_c(route->path), expected, segment;
    size_t n = 0;

    while (str_split(&pattern, '/', &expected)) {
        if (!str_split(&path, '/', &segment))
            return false;
        if (str_eq(expected, STR("*")))
            names[n++] = segment;
        else if (!str_eq(expected, segment))
            return false;
    }
    return !str_split(&path, '/', &segment);
}

static bool route_takes(const struct operator_route *route, struct str method)
{
    struct str methods = str_c(route->methods), piece;

    while (str_split(&methods, ',', &piece)) {
        if (str_eq(str_trim(piece), method))
            return true;
    }
    return false;
}

void operator_serve(struct exchange *ex)
{
    struct str path = str_c(exchange_target(ex)->path), names[NAMES_MAX] = {0};
    const struct operator_route *route = operator_routes;
    const struct operator_route *end = route + ARRAY_SIZE(operator_routes);

    while (route < end && !route_fits(route, path, names))
        route++;
    if (route == end)
        exchange_refuse(ex, REASON_NO_ROUTE, NULL);
    else if (!route_takes(route, exchange_head(ex)->method))
        exchange_refuse_method(ex, route->methods);
    else
        route->serve(ex, names);
}
