/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/operator/preview.h"

#include <inttypes.h>
#include <stdio.h>

#include "gateway/base/mem.h"
#include "gateway/config/value.h"
#include "gateway/operator/query.h"
#include "policy/group.h"

enum {
    PREVIEW_COUNT_DEFAULT = 100,
    PREVIEW_COUNT_MAX = 1000,
    PREVIEW_STATES = KEY_AGE_OVERDUE + 1,
    PREVIEW_VERDICTS = VERDICT_QUARANTINE + 1,
};

/* One setting that the query may put in the place of the rule's. */
struct override {
    const char *name;
    size_t offset; /* of the milliseconds, in a struct enforcement */
};

static const struct override overrides[] = {
    {"key_age.due_after", offsetof(struct enforcement, key_age.due_after_ms)},
    {"key_age.overdue_after", offsetof(struct enforcement, key_age.overdue_after_ms)},
    {"key_age.due_before_expiry", offsetof(struct enforcement, key_age.due_before_expiry_ms)},
    {"expired_grace", offsetof(struct enforcement, expired_grace_ms)},
};

/* What is asked, and how far it has come. Memory of the exchange. */
struct preview {
    struct exchange *exchange; /* borrowed: owns us */
    int64_t at_ms;             /* 0: `in_ms` from the store's time */
    int64_t in_ms;
    bool has_group;
    char group[LABEL_MAX + 1];
    bool overrides[ARRAY_SIZE(overrides)];
    bool overrides_action;
    struct enforcement instead; /* the values of those that are set */
    size_t count;
    uint32_t partition;
    uint64_t cursor; /* of Redis, within the partition; 0: its end */

    size_t n_devices; /* on this page */
    size_t next;      /* to be read */
    uint64_t looked_at;
    uint64_t unreadable;
    uint64_t states[PREVIEW_STATES];
    uint64_t verdicts[PREVIEW_VERDICTS];
    struct preview_device {
        char name[DEVICE_NAME_MAX + 1];
        bool is_hit;
        char group[LABEL_MAX + 1];
        struct standing_facts facts;
        struct standing standing;
    } devices[];
};

static const struct config *preview_config(const struct preview *preview)
{
    return exchange_env(preview->exchange)->generation->snapshot->config;
}

/* --- what is asked ---------------------------------------------------------------------------- */

static bool preview_take_overrides(struct preview *preview)
{
    const struct exchange *ex = preview->exchange;

    for (size_t i = 0; i < ARRAY_SIZE(overrides); i++) {
        struct str text = query_value(ex, str_c(overrides[i].name));
        int64_t *ms = (int64_t *)(void *)((char *)&preview->instead + overrides[i].offset);
        preview->overrides[i] = text.len > 0;
        if (text.len > 0 && !value_parse_duration(text, ms))
            return false;
    }
    struct str action = query_value(ex, STR("key_age.action"));
    preview->overrides_action = action.len > 0;
    for (int i = KEY_AGE_OBSERVE; i <= KEY_AGE_REFUSE && action.len > 0; i++) {
        preview->instead.key_age.action = (enum key_age_action)i;
        if (str_eq(action, str_c(key_age_action_wire((enum key_age_action)i))))
            return true;
    }
    return action.len == 0;
}

static bool preview_take_time(struct preview *preview)
{
    struct str text = query_value(preview->exchange, STR("at"));
    char copy[32];

    preview->in_ms = INT64_C(86400000);
    if (text.len == 0)
        return true;
    if (text.p[0] == '+')
        return value_parse_duration((struct str){text.p + 1, text.len - 1}, &preview->in_ms);
    return str_copy(copy, sizeof(copy), text) && query_parse_time(copy, &preview->at_ms);
}

static bool preview_take_group(struct preview *preview)
{
    struct str text = query_value(preview->exchange, STR("group"));

    preview->has_group = text.len > 0;
    return str_copy(preview->group, sizeof(preview->group), text) &&
           group_name_is_valid(preview->group);
}

/* "partition.cursor", as a page has given it. */
static bool preview_take_page(struct preview *preview)
{
    struct str cursor = query_value(preview->exchange, STR("cursor")), piece;
    struct str count = query_value(preview->exchange, STR("count"));
    uint64_t partition = 0, number = PREVIEW_COUNT_DEFAULT;

    if (count.len > 0 && (!str_to_u64(count, &number) || number < 1 || number > PREVIEW_COUNT_MAX))
        return false;
    preview->count = (size_t)number;
    if (cursor.len > 0 && (!str_split(&cursor, '.', &piece) || !str_to_u64(piece, &partition) ||
                           cursor.p == NULL || !str_to_u64(cursor, &preview->cursor)))
        return false;
    if (partition >= preview_config(preview)->store.partitions)
        return false;
    preview->partition = (uint32_t)partition;
    return true;
}

/* NULL, or what is wrong with the query. */
static const char *preview_take_query(struct preview *preview)
{
    if (!preview_take_time(preview))
        return "at is a time like 2026-11-22T22:30:00Z, or a span from now like +12h.";
    if (!preview_take_group(preview))
        return "There can be no such group.";
    if (!preview_take_overrides(preview))
        return "Expected durations like 30d, and for key_age.action one of observe, warn, "
               "quarantine and refuse.";
    if (!preview_take_page(preview))
        return "count is a number from 1 to 1000, and cursor comes from the page before.";
    return NULL;
}

/* --- the answer ------------------------------------------------------------------------------- */

static const char *verdict_wire(enum verdict verdict)
{
    return verdict == VERDICT_PASS         ? "pass"
           : verdict == VERDICT_QUARANTINE ? "quarantine"
                                           : "refuse";
}

static json_t *describe_hit(const struct preview_device *device)
{
    const struct standing *standing = &device->standing;
    int64_t expires_ms = device->facts.certificate_expires_ms;

    return json_pack("{s:s, s:s, s:s, s:o, s:s, s:s, s:s, s:b, s:o, s:o}", "device", device->name,
                     "group", device->group, "state", key_age_wire(standing->age.state), "deadline",
                     query_json_time(standing->age.deadline_ms), "action",
                     key_age_action_wire(standing->action), "verdict",
                     verdict_wire(standing->verdict), "reason", reason_wire(standing->reason),
                     "told", standing->is_told, "key_since",
                     query_json_time(device->facts.key_since_ms), "certificate_expires",
                     query_json_time(expires_ms != INT64_MAX ? expires_ms : 0));
}

static json_t *describe_cursor(const struct preview *preview)
{
    uint32_t partition = preview->partition + (preview->cursor == 0);
    char text[48];

    if (partition == preview_config(preview)->store.partitions)
        return json_null();
    (void)snprintf(text, sizeof(text), "%" PRIu32 ".%" PRIu64, partition, preview->cursor);
    return json_string(text);
}

static void preview_answer(struct preview *preview)
{
    json_t *hits = json_array();

    for (size_t i = 0; i < preview->n_devices; i++) {
        if (preview->devices[i].is_hit)
            (void)json_array_append_new(hits, describe_hit(&preview->devices[i]));
    }
    exchange_answer_json(preview->exchange, 200, REASON_OK,
                         json_pack("{s:o, s:o, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}, s:o}",
                                   "at", query_json_time(preview->at_ms), "devices", hits, "counts",
                                   "looked_at", (json_int_t)preview->looked_at, "fresh",
                                   (json_int_t)preview->states[KEY_AGE_FRESH], "due",
                                   (json_int_t)preview->states[KEY_AGE_DUE], "overdue",
                                   (json_int_t)preview->states[KEY_AGE_OVERDUE], "pass",
                                   (json_int_t)preview->verdicts[VERDICT_PASS], "quarantine",
                                   (json_int_t)preview->verdicts[VERDICT_QUARANTINE], "refuse",
                                   (json_int_t)preview->verdicts[VERDICT_REFUSE], "unreadable",
                                   (json_int_t)preview->unreadable, "cursor",
                                   describe_cursor(preview)));
}

/* --- the devices of the page ------------------------------------------------------------------ */

static struct enforcement preview_rule(const struct preview *preview, const char *group)
{
    const struct enforcement_rules *rules = &preview_config(preview)->rotation.admission.rules;
    struct enforcement rule = *enforcement_of(rules, group);

    for (size_t i = 0; i < ARRAY_SIZE(overrides); i++) {
        if (preview->overrides[i])
            memcpy((char *)&rule + overrides[i].offset,
                   (const char *)&preview->instead + overrides[i].offset, sizeof(int64_t));
    }
    if (preview->overrides_action)
        rule.key_age.action = preview->instead.key_age.action;
    return rule;
}

static void preview_judge(struct preview *preview, const struct store_view *view)
{
    const struct device_record *record = &view->record;
    struct preview_device *device = &preview->devices[preview->next];
    const struct enforcement rule = preview_rule(preview, record->group);

    /* The whole page is judged as of one moment. */
    if (preview->at_ms == 0)
        preview->at_ms = time_after_ms(view->now_ms, preview->in_ms);
    if (!record_exists(record) ||
        (preview->has_group && strcmp(record->group, preview->group) != 0))
        return;
    memcpy(device->group, record->group, sizeof(device->group));
    device->facts.key_since_ms = record->current_since_ms;
    device->facts.certificate_expires_ms =
        record->current_cert_expires_ms != 0 ? record->current_cert_expires_ms : INT64_MAX;
    device->standing = enforcement_judge(&rule, &device->facts, preview->at_ms);
    device->is_hit =
        device->standing.age.state != KEY_AGE_FRESH || device->standing.verdict != VERDICT_PASS;
    preview->looked_at++;
    preview->states[device->standing.age.state]++;
    preview->verdicts[device->standing.verdict]++;
}

static void preview_read_next(struct preview *preview);

static void on_preview_read(enum store_result result, const struct store_view *view, void *arg)
{
    struct preview *preview = arg;
    struct exchange *ex = preview->exchange;

    *exchange_store_slot(ex) = NULL;
    if (result == STORE_UNAVAILABLE) {
        exchange_refuse_store(ex, result);
        exchange_wake(ex);
        return;
    }
    if (result == STORE_OK)
        preview_judge(preview, view);
    else
        preview->unreadable++;
    preview->next++;
    preview_read_next(preview);
}

static void preview_read_next(struct preview *preview)
{
    struct exchange *ex = preview->exchange;

    if (preview->next == preview->n_devices) {
        preview_answer(preview);
        exchange_wake(ex);
        return;
    }
    const struct store_query query = {.device = preview->devices[preview->next].name};
    *exchange_store_slot(ex) =
        store_read(exchange_env(ex)->worker->store, &query, on_preview_read, preview);
}

static void on_preview_scan(enum store_result result, const struct store_scan *scan, void *arg)
{
    struct preview *asked = arg;
    struct exchange *ex = asked->exchange;

    *exchange_store_slot(ex) = NULL;
    if (result != STORE_OK) {
        exchange_refuse_store(ex, result);
        exchange_wake(ex);
        return;
    }
    struct preview *preview =
        mem_array(1, sizeof(*preview) + scan->n * sizeof(preview->devices[0]));
    *preview = *asked;
    preview->cursor = scan->cursor;
    preview->n_devices = scan->n;
    for (size_t i = 0; i < scan->n; i++)
        memcpy(preview->devices[i].name, scan->devices[i], sizeof(scan->devices[i]));
    *exchange_service_state(ex) = preview;
    mem_free(asked);
    preview_read_next(preview);
}

void preview_serve(struct exchange *ex)
{
    struct preview *preview = mem_new(struct preview);

    *exchange_service_state(ex) = preview;
    preview->exchange = ex;
    const char *wrong = preview_take_query(preview);
    if (wrong != NULL)
        exchange_refuse(ex, REASON_REQUEST_BODY_INVALID, wrong);
    else
        *exchange_store_slot(ex) =
            store_scan_devices(exchange_env(ex)->worker->store, preview->partition, preview->cursor,
                               preview->count, on_preview_scan, preview);
}
