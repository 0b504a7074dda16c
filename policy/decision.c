/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy/decision.h"

#include <assert.h>
#include <string.h>

const char *deny_kind_wire(enum deny_kind kind)
{
    switch (kind) {
    case DENY_KEY:
        return "key";
    case DENY_CERTIFICATE:
        return "certificate";
    case DENY_DEVICE:
        return "device";
    }
    return "unknown";
}

const char *event_wire(enum event_type type)
{
    static const char *const wires[EVENT_COUNT] = {
#define EVENT_WIRE(name) [EVENT_##name] = #name,
        EVENT_TABLE(EVENT_WIRE)
#undef EVENT_WIRE
    };
    size_t i = (size_t)type;

    return i < EVENT_COUNT ? wires[i] : "UNKNOWN";
}

void decision_set(struct decision *out, enum verdict verdict, enum reason reason)
{
    out->verdict = verdict;
    out->reason = reason;
    out->commits = false;
    out->confirms = false;
    out->change.writes_record = false;
    out->change.n_deny = 0;
    out->change.n_allow = 0;
    out->change.n_events = 0;
}

struct device_record *decision_write_record(struct decision *out,
                                            const struct device_record *record, int64_t now_ms)
{
    struct device_record *next = &out->change.next;

    if (out->change.writes_record)
        return next;
    if (record_exists(record)) {
        *next = *record;
        record_drop_expired_leases(next, now_ms);
    } else {
        *next = (struct device_record){0};
    }
    next->version++;
    out->change.writes_record = true;
    out->commits = true;
    return next;
}

static void decision_init_event(struct device_event *event)
{
    event->device[0] = '\0';
    event->old_key.id.hex[0] = '\0';
    event->old_key.pem[0] = '\0';
    event->new_key.id.hex[0] = '\0';
    event->new_key.pem[0] = '\0';
    event->rotation_id[0] = '\0';
    event->generation = 0;
    event->group[0] = '\0';
    event->old_group[0] = '\0';
    event->why = REASON_OK;
    event->reason[0] = '\0';
    event->origin[0] = '\0';
    event->cut = CUT_NONE;
    event->cut_kind = DENY_KEY;
    event->cut_id[0] = '\0';
    event->once_in_ms = 0;
}

struct device_event *decision_add_event(struct decision *out, enum event_type type,
                                        const struct device_record *record, int64_t now_ms)
{
    struct change *change = &out->change;

    assert(change->n_events < sizeof(change->events) / sizeof(change->events[0]));
    struct device_event *event = &change->events[change->n_events++];
    decision_init_event(event);
    event->type = type;
    event->at_ms = now_ms;
    if (record != NULL) {
        memcpy(event->device, record->name, sizeof(event->device));
        memcpy(event->rotation_id, record->rotation_id, sizeof(event->rotation_id));
        memcpy(event->group, record->group, sizeof(event->group));
        event->generation = record->generation;
    }
    out->commits = true;
    return event;
}

struct denial *decision_add_denial(struct decision *out, enum deny_kind kind, const char *id,
                                   int64_t now_ms)
{
    struct change *change = &out->change;
    size_t len = strlen(id);

    assert(change->n_deny < sizeof(change->deny) / sizeof(change->deny[0]));
    struct denial *denial = &change->deny[change->n_deny++];
    /* An identifier that was cut would deny something else. */
    assert(len < sizeof(denial->id));
    memcpy(denial->id, id, len + 1);
    denial->kind = kind;
    denial->device[0] = '\0';
    denial->reason[0] = '\0';
    denial->origin[0] = '\0';
    denial->at_ms = now_ms;
    denial->until_ms = 0;
    denial->keeps_longer = false;
    out->commits = true;
    return denial;
}

void decision_copy_text(char dst[TEXT_MAX + 1], const char *src)
{
    size_t len = src != NULL ? strlen(src) : 0;

    if (len > TEXT_MAX) {
        len = TEXT_MAX;
        /* src[len] is the first byte that is left out: while it continues a sequence, that sequence
         * began before and goes as a whole. */
        while (len > 0 && ((unsigned char)src[len] & 0xC0) == 0x80)
            len--;
    }
    if (len > 0)
        memcpy(dst, src, len);
    dst[len] = '\0';
}
