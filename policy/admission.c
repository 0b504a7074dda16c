/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy/admission.h"

#include <string.h>

#include "policy/rotation.h"

enum reason deny_flags_reason(const struct deny_flags *denied)
{
    if (denied->key)
        return REASON_KEY_DENIED;
    if (denied->certificate)
        return REASON_CERTIFICATE_DENIED;
    if (denied->device)
        return REASON_DEVICE_DENIED;
    return REASON_OK;
}

static enum reason admission_judge_issuer(enum issuer_state issuer, bool known)
{
    switch (issuer) {
    case ISSUER_STATE_ACTIVE:
        return REASON_OK;
    case ISSUER_STATE_DISABLED:
        return known ? REASON_OK : REASON_ISSUER_DISABLED;
    case ISSUER_STATE_REVOKED:
        return REASON_ISSUER_REVOKED;
    case ISSUER_STATE_UNKNOWN:
        break;
    }
    return REASON_ISSUER_UNKNOWN;
}

/* What stands above the table's rows 3 to 6: none of it asks which key the record holds. */
static enum reason admission_judge_credentials(const struct admission_input *input)
{
    const struct credentials *credentials = input->credentials;
    const struct device_record *record = input->record;
    bool known = record_exists(record);
    enum reason reason = deny_flags_reason(&input->denied);

    if (reason == REASON_OK)
        reason = admission_judge_issuer(credentials->issuer, known);
    if (reason != REASON_OK)
        return reason;
    if (!digest_is_set(&credentials->key.id))
        return REASON_CERTIFICATE_MISSING;
    if (!device_name_is_valid(credentials->device, strlen(credentials->device)))
        return REASON_CERTIFICATE_IDENTITY;
    /* Another device's record would admit this key in that device's name. */
    if (known && strcmp(record->name, credentials->device) != 0)
        return REASON_STORE_RECORD_INVALID;
    return REASON_OK;
}

/* As OpenSSL has it: a certificate's last moment is the one before notAfter. */
static bool admission_certificate_has_expired(const struct admission_input *input)
{
    return input->now_ms >= input->credentials->certificate_expires_ms;
}

static void admission_meet(const struct credentials *credentials, struct device_record *next,
                           int64_t now_ms)
{
    next->first_seen_ms = now_ms;
    next->production = credentials->production;
    memcpy(next->factory, credentials->factory, sizeof(next->factory));
}

static void admission_register(const struct admission_input *input, struct decision *out)
{
    const struct credentials *credentials = input->credentials;

    if (input->settings->registration != REGISTRATION_OPEN) {
        decision_set(out, VERDICT_REFUSE, REASON_DEVICE_UNKNOWN);
        return;
    }
    if (admission_certificate_has_expired(input)) {
        decision_set(out, VERDICT_REFUSE, REASON_CERTIFICATE_EXPIRED);
        return;
    }

    decision_set(out, VERDICT_PASS, REASON_REGISTERED);
    struct device_record *next = decision_write_record(out, input->record, input->now_ms);
    memcpy(next->name, credentials->device, sizeof(next->name));
    next->generation = 1;
    pubkey_copy(&next->current, &credentials->key);
    next->current_since_ms = input->now_ms;
    next->current_cert_expires_ms = credentials->certificate_expires_ms;
    admission_meet(credentials, next, input->now_ms);
    decision_add_event(out, EVENT_DEVICE_FIRST_SEEN, next, input->now_ms)->new_key = next->current;
}

/* What an admission under the current key teaches about the device. A commit holds one event: when
 * the rotation is found stalled on a device's first connection, the next one tells the rest. */
static void admission_learn(const struct admission_input *input, struct decision *out)
{
    const struct device_record *record = input->record;
    int64_t expires_ms = input->credentials->certificate_expires_ms;
    struct device_record *next;

    if (record->first_seen_ms == 0 && out->change.n_events == 0) {
        next = decision_write_record(out, record, input->now_ms);
        admission_meet(input->credentials, next, input->now_ms);
        decision_add_event(out, EVENT_DEVICE_FIRST_SEEN, next, input->now_ms)->new_key =
            next->current;
    }
    if (expires_ms > record->current_cert_expires_ms) {
        next = decision_write_record(out, record, input->now_ms);
        next->current_cert_expires_ms = expires_ms;
    }
}

static void admission_under_current_key(const struct admission_input *input, struct decision *out)
{
    const struct standing_facts facts = {input->record->current_since_ms,
                                         input->credentials->certificate_expires_ms};
    const struct standing standing =
        enforcement_judge(enforcement_of(&input->settings->rules, input->record->group), &facts,
                          input->now_ms);

    if (standing.verdict == VERDICT_REFUSE) {
        decision_set(out, VERDICT_REFUSE, standing.reason);
        return;
    }
    rotation_mark_stalled(input->record, input->settings->stalled_after_ms, input->now_ms, out);
    out->verdict = standing.verdict;
    out->reason = standing.reason;
    out->confirms =
        input->now_ms < time_after_ms(input->record->current_since_ms, ADMISSION_CONFIRMS_MS);
    admission_learn(input, out);
}

static void admission_under_pending_key(const struct admission_input *input, struct decision *out)
{
    if (admission_certificate_has_expired(input))
        decision_set(out, VERDICT_REFUSE, REASON_CERTIFICATE_EXPIRED);
    else
        rotation_promote(input, out);
}

static void admission_under_other_key(const struct admission_input *input, struct decision *out)
{
    int64_t every_ms = input->settings->refused_event_every_ms;

    decision_set(out, VERDICT_REFUSE, REASON_KEY_NOT_ANNOUNCED);
    /* Without an interval anybody with a copied CA could fill the log. */
    if (every_ms <= 0)
        return;
    struct device_event *event =
        decision_add_event(out, EVENT_DEVICE_KEY_REFUSED, input->record, input->now_ms);
    pubkey_copy(&event->new_key, &input->credentials->key);
    event->why = REASON_KEY_NOT_ANNOUNCED;
    event->once_in_ms = every_ms;
}

void admission_decide(const struct admission_input *input, struct decision *out)
{
    const struct device_record *record = input->record;
    const struct digest *key = &input->credentials->key.id;
    enum reason refusal = admission_judge_credentials(input);

    if (refusal != REASON_OK)
        decision_set(out, VERDICT_REFUSE, refusal);
    else if (!record_exists(record))
        admission_register(input, out);
    else if (digest_equal(key, &record->current.id))
        admission_under_current_key(input, out);
    else if (digest_equal(key, &record->pending.id))
        admission_under_pending_key(input, out);
    else
        admission_under_other_key(input, out);
}

bool admission_facts(const struct device_record *record, const struct credentials *credentials,
                     struct standing_facts *out)
{
    if (!digest_equal(&credentials->key.id, &record->current.id))
        return false;
    *out = (struct standing_facts){record->current_since_ms, credentials->certificate_expires_ms};
    return true;
}
