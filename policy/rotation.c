/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy/rotation.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy/config_lock.h"

#define ROTATION_ID_PREFIX "certs-"

/* The moment in seconds. A rotation that takes another one's place within the same second (or after
 * a clock went back) counts on from it, for its id must be a new one. */
static int64_t rotation_id_number(const struct device_record *record, int64_t now_ms)
{
    const size_t skip = sizeof(ROTATION_ID_PREFIX) - 1;
    int64_t number = now_ms / 1000;

    if (strncmp(record->rotation_id, ROTATION_ID_PREFIX, skip) == 0) {
        int64_t replaced = strtoll(record->rotation_id + skip, NULL, 10);
        if (number <= replaced)
            number = time_after_ms(replaced, 1);
    }
    return number;
}

/* The device acts on this answer as on the first. */
static void rotation_confirm(struct decision *out)
{
    decision_set(out, VERDICT_PASS, REASON_ANNOUNCED_BEFORE);
    out->confirms = true;
}

static struct device_record *rotation_begin(const struct device_record *record,
                                            const struct pubkey *key, int64_t now_ms,
                                            struct decision *out)
{
    struct device_record *next = decision_write_record(out, record, now_ms);

    next->pending = *key;
    next->pending_since_ms = now_ms;
    next->stalled = false;
    next->wanted_until_ms = 0;
    snprintf(next->rotation_id, sizeof(next->rotation_id), ROTATION_ID_PREFIX "%" PRId64,
             rotation_id_number(record, now_ms));
    return next;
}

static void rotation_forget(struct device_record *next)
{
    next->pending = (struct pubkey){0};
    next->pending_since_ms = 0;
    next->rotation_id[0] = '\0';
    next->stalled = false;
    next->wanted_until_ms = 0;
}

static enum reason rotation_refuse_announcement(const struct announcement *input)
{
    const struct device_record *record = input->record;
    enum reason reason = deny_flags_reason(&input->denied);

    if (reason != REASON_OK)
        return reason;
    if (!record_exists(record))
        return REASON_NO_SUCH_DEVICE;
    if (!digest_equal(input->announcer, &record->current.id))
        return REASON_KEY_NOT_CURRENT;
    if (!digest_is_set(&input->next->id))
        return REASON_NEXT_KEY_INVALID;
    if (digest_equal(&input->next->id, &record->current.id))
        return REASON_KEY_IS_CURRENT;
    if (input->next_denied)
        return REASON_NEXT_KEY_DENIED;
    return REASON_OK;
}

void rotation_announce(const struct announcement *input, struct decision *out)
{
    const struct device_record *record = input->record;
    bool replaces = record_rotation_pending(record);
    enum reason refusal = rotation_refuse_announcement(input);

    if (refusal != REASON_OK) {
        decision_set(out, VERDICT_REFUSE, refusal);
        return;
    }
    if (digest_equal(&input->next->id, &record->pending.id)) {
        rotation_confirm(out);
        return;
    }
    if (replaces && input->connected_ms <= record->pending_since_ms) {
        decision_set(out, VERDICT_BUSY, REASON_ANNOUNCEMENT_OUTDATED);
        return;
    }
    if (config_write_in_flight(record, input->now_ms)) {
        config_write_hold(record, input->now_ms, out);
        return;
    }

    decision_set(out, VERDICT_PASS, replaces ? REASON_ANNOUNCEMENT_REPLACED : REASON_ANNOUNCED);
    struct device_record *next = rotation_begin(record, input->next, input->now_ms, out);
    struct device_event *event = decision_add_event(out,
                                                    replaces ? EVENT_DEVICE_ROTATION_REPLACED
                                                             : EVENT_DEVICE_ROTATION_STARTED,
                                                    next, input->now_ms);
    event->old_key = replaces ? record->pending : record->current;
    event->new_key = next->pending;
}

static void rotation_retire_key(const struct admission_input *input, struct decision *out)
{
    const struct device_record *record = input->record;
    struct denial *denial =
        decision_add_denial(out, DENY_KEY, record->current.id.hex, input->now_ms);

    memcpy(denial->device, record->name, sizeof(denial->device));
    decision_copy_text(denial->reason, "retired by a key rotation");
    snprintf(denial->origin, sizeof(denial->origin), "rotation %s", record->rotation_id);
    if (record->current_cert_expires_ms > input->now_ms)
        denial->until_ms = record->current_cert_expires_ms;
    denial->keeps_longer = true;
}

static void rotation_publish_change(const struct admission_input *input, struct decision *out)
{
    const struct device_record *record = input->record;
    struct device_event *event =
        decision_add_event(out, EVENT_DEVICE_PUBKEY_CHANGE, record, input->now_ms);

    event->generation = out->change.next.generation;
    event->old_key = record->current;
    event->new_key = record->pending;
    event->cut = CUT_DRAIN;
    event->cut_kind = DENY_KEY;
    memcpy(event->cut_id, record->current.id.hex, sizeof(event->cut_id));
}

void rotation_promote(const struct admission_input *input, struct decision *out)
{
    const struct device_record *record = input->record;
    const struct credentials *credentials = input->credentials;

    if (credentials->handshake != HANDSHAKE_FULL ||
        !digest_equal(&credentials->key.id, &record->pending.id)) {
        decision_set(out, VERDICT_REFUSE, REASON_KEY_NOT_PROVEN);
        return;
    }

    decision_set(out, VERDICT_PASS, REASON_PROMOTED);
    struct device_record *next = decision_write_record(out, record, input->now_ms);
    next->generation++;
    next->current = record->pending;
    next->current_since_ms = input->now_ms;
    next->current_cert_expires_ms = credentials->certificate_expires_ms;
    rotation_forget(next);
    rotation_retire_key(input, out);
    rotation_publish_change(input, out);
}

bool operator_act_has_reason(const struct operator_act *act)
{
    return act->reason != NULL && act->reason[strspn(act->reason, " \t\r\n")] != '\0';
}

static struct device_event *rotation_add_act(struct decision *out, enum event_type type,
                                             const struct device_record *record,
                                             const struct operator_act *act)
{
    struct device_event *event = decision_add_event(out, type, record, act->now_ms);

    decision_copy_text(event->origin, act->origin);
    decision_copy_text(event->reason, act->reason);
    return event;
}

static enum reason rotation_refuse_cancel(const struct device_record *record,
                                          const struct operator_act *act)
{
    if (!operator_act_has_reason(act))
        return REASON_REASON_REQUIRED;
    if (!record_exists(record))
        return REASON_NO_SUCH_DEVICE;
    if (!record_rotation_pending(record))
        return REASON_NO_ROTATION_PENDING;
    return REASON_OK;
}

void rotation_cancel(const struct device_record *record, const struct operator_act *act,
                     struct decision *out)
{
    enum reason refusal = rotation_refuse_cancel(record, act);

    if (refusal != REASON_OK) {
        decision_set(out, VERDICT_REFUSE, refusal);
        return;
    }
    if (config_write_in_flight(record, act->now_ms)) {
        config_write_hold(record, act->now_ms, out);
        return;
    }

    decision_set(out, VERDICT_PASS, REASON_CANCELLED);
    rotation_add_act(out, EVENT_DEVICE_ROTATION_CANCELLED, record, act)->old_key = record->pending;
    rotation_forget(decision_write_record(out, record, act->now_ms));
}

/* first_seen_ms stays 0 until the device comes: its factory and certificate are not known yet. */
static void rotation_register_key(const struct key_acceptance *input, struct decision *out)
{
    decision_set(out, VERDICT_PASS, REASON_KEY_REGISTERED);
    struct device_record *next = decision_write_record(out, input->record, input->act.now_ms);
    memcpy(next->name, input->device, strlen(input->device) + 1);
    next->generation = 1;
    next->current = *input->key;
    next->current_since_ms = input->act.now_ms;
    rotation_add_act(out, EVENT_DEVICE_KEY_ACCEPTED, next, &input->act)->new_key = next->current;
}

static void rotation_make_pending(const struct key_acceptance *input, struct decision *out)
{
    decision_set(out, VERDICT_PASS, REASON_KEY_ACCEPTED);
    struct device_record *next = rotation_begin(input->record, input->key, input->act.now_ms, out);
    struct device_event *event =
        rotation_add_act(out, EVENT_DEVICE_KEY_ACCEPTED, next, &input->act);
    event->old_key = next->current;
    event->new_key = next->pending;
}

static enum reason rotation_refuse_acceptance(const struct key_acceptance *input)
{
    const struct device_record *record = input->record;

    if (!operator_act_has_reason(&input->act))
        return REASON_REASON_REQUIRED;
    if (!digest_is_set(&input->key->id))
        return REASON_NEXT_KEY_INVALID;
    if (!record_exists(record) && !device_name_is_valid(input->device, strlen(input->device)))
        return REASON_DEVICE_NAME_INVALID;
    if (record_exists(record) && digest_equal(&input->key->id, &record->current.id))
        return REASON_KEY_IS_CURRENT;
    if (input->key_denied)
        return REASON_NEXT_KEY_DENIED;
    return REASON_OK;
}

void rotation_accept_key(const struct key_acceptance *input, struct decision *out)
{
    const struct device_record *record = input->record;
    enum reason refusal = rotation_refuse_acceptance(input);

    if (refusal != REASON_OK)
        decision_set(out, VERDICT_REFUSE, refusal);
    else if (!record_exists(record))
        rotation_register_key(input, out);
    else if (digest_equal(&input->key->id, &record->pending.id))
        rotation_confirm(out);
    else if (config_write_in_flight(record, input->act.now_ms))
        config_write_hold(record, input->act.now_ms, out);
    else
        rotation_make_pending(input, out);
}

void rotation_mark_stalled(const struct device_record *record, int64_t stalled_after_ms,
                           int64_t now_ms, struct decision *out)
{
    int64_t pending_ms = time_between_ms(record->pending_since_ms, now_ms);

    if (!record_exists(record) || !record_rotation_pending(record) || record->stalled ||
        stalled_after_ms <= 0 || pending_ms <= stalled_after_ms) {
        decision_set(out, VERDICT_REFUSE, REASON_NO_ROTATION_PENDING);
        return;
    }

    decision_set(out, VERDICT_PASS, REASON_ROTATION_STALLED);
    decision_write_record(out, record, now_ms)->stalled = true;
    struct device_event *event =
        decision_add_event(out, EVENT_DEVICE_ROTATION_STALLED, record, now_ms);
    event->old_key = record->current;
    event->new_key = record->pending;
}
