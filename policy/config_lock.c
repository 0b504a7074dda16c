/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy/config_lock.h"

#include <string.h>

/* The lease's place, or n_leases. */
static size_t config_write_find_lease(const struct device_record *record, const char *token)
{
    size_t i = 0;

    while (i < record->n_leases && strcmp(record->leases[i].token, token) != 0)
        i++;
    return i;
}

static enum reason config_write_judge(const struct config_write *input)
{
    const struct device_record *record = input->record;

    /* Without a lease of its own a write could land at any time. */
    if (strlen(input->token) != LEASE_TOKEN_LEN || input->lease_ms <= 0)
        return REASON_INTERNAL;
    enum reason denied = deny_flags_reason(&input->denied);
    if (denied != REASON_OK)
        return denied;
    if (!record_exists(record))
        return REASON_NO_SUCH_DEVICE;
    if (input->writer == CONFIG_WRITER_DEVICE &&
        !digest_equal(&input->writer_key, &record->current.id))
        return REASON_KEY_NOT_CURRENT;
    if (record_rotation_pending(record)) {
        bool own_for_next_key =
            input->writer == CONFIG_WRITER_DEVICE && digest_equal(&input->key, &record->pending.id);
        return own_for_next_key ? REASON_WRITE_PASSES : REASON_CONFIG_LOCKED;
    }
    if (digest_is_set(&input->key) && !digest_equal(&input->key, &record->current.id))
        return REASON_CONFIG_KEY_STALE;
    return REASON_WRITE_PASSES;
}

void config_write_begin(const struct config_write *input, struct decision *out)
{
    enum reason reason = config_write_judge(input);

    if (reason != REASON_WRITE_PASSES) {
        decision_set(out, VERDICT_REFUSE, reason);
        return;
    }

    if (input->record->wanted_until_ms > input->now_ms) {
        decision_set(out, VERDICT_BUSY, REASON_CONFIG_WRITES_HELD);
        return;
    }

    decision_set(out, VERDICT_PASS, REASON_WRITE_PASSES);
    struct device_record *next = decision_write_record(out, input->record, input->now_ms);
    size_t i = config_write_find_lease(next, input->token);
    if (i == WRITE_LEASES_MAX) {
        decision_set(out, VERDICT_BUSY, REASON_CONFIG_WRITES_FULL);
        return;
    }
    if (i == next->n_leases)
        next->n_leases++;
    memcpy(next->leases[i].token, input->token, sizeof(next->leases[i].token));
    next->leases[i].expires_ms = time_after_ms(input->now_ms, input->lease_ms);
}

void config_write_end(const struct device_record *record, const char *token, int64_t now_ms,
                      struct decision *out)
{
    decision_set(out, VERDICT_PASS, REASON_WRITE_ENDED);
    if (config_write_find_lease(record, token) == record->n_leases)
        return;

    /* The copy may have lost it already, with the expired ones. */
    struct device_record *next = decision_write_record(out, record, now_ms);
    size_t i = config_write_find_lease(next, token);
    if (i == next->n_leases)
        return;
    next->n_leases--;
    for (; i < next->n_leases; i++)
        next->leases[i] = next->leases[i + 1];
}

void config_write_hold(const struct device_record *record, int64_t now_ms, struct decision *out)
{
    decision_set(out, VERDICT_BUSY, REASON_CONFIG_WRITES_BUSY);
    if (record->wanted_until_ms >= time_after_ms(now_ms, CONFIG_WRITE_HOLD_LEAST_MS))
        return;
    decision_write_record(out, record, now_ms)->wanted_until_ms =
        time_after_ms(now_ms, CONFIG_WRITE_HOLD_MS);
}

bool config_write_in_flight(const struct device_record *record, int64_t now_ms)
{
    for (size_t i = 0; i < record->n_leases; i++) {
        if (record->leases[i].expires_ms > now_ms)
            return true;
    }
    return false;
}
