/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy/denial.h"

#include <string.h>

/* Whose entry it is. That decides where it is kept, so a denied device is named by its id only. */
static const char *denial_device(const struct denial_request *input)
{
    if (input->kind == DENY_DEVICE)
        return input->id;
    return input->device != NULL ? input->device : "";
}

static bool denial_id_is_valid(const struct denial_request *input)
{
    size_t len = strlen(input->id);

    switch (input->kind) {
    case DENY_KEY:
    case DENY_CERTIFICATE:
        return digest_is_valid(input->id, len);
    case DENY_DEVICE:
        return device_name_is_valid(input->id, len);
    }
    return false;
}

static enum reason denial_judge(const struct denial_request *input)
{
    const char *device = denial_device(input);

    if (!operator_act_has_reason(&input->act))
        return REASON_REASON_REQUIRED;
    if (!denial_id_is_valid(input))
        return REASON_DENIAL_ID_INVALID;
    if (device[0] != '\0' && !device_name_is_valid(device, strlen(device)))
        return REASON_DEVICE_NAME_INVALID;
    return REASON_OK;
}

static struct device_event *denial_add_event(struct decision *out, enum event_type type,
                                             const struct denial_request *input)
{
    struct device_event *event = decision_add_event(out, type, NULL, input->act.now_ms);
    const char *device = denial_device(input);

    memcpy(event->device, device, strlen(device) + 1);
    decision_copy_text(event->reason, input->act.reason);
    decision_copy_text(event->origin, input->act.origin);
    event->cut_kind = input->kind;
    memcpy(event->cut_id, input->id, strlen(input->id) + 1);
    return event;
}

void denial_add(const struct denial_request *input, struct decision *out)
{
    enum reason refusal = denial_judge(input);

    if (refusal == REASON_OK && input->until_ms != 0 && input->until_ms <= input->act.now_ms)
        refusal = REASON_DENIAL_ENDED;
    if (refusal != REASON_OK) {
        decision_set(out, VERDICT_REFUSE, refusal);
        return;
    }

    decision_set(out, VERDICT_PASS, REASON_DENIED);
    struct device_event *event = denial_add_event(out, EVENT_DEVICE_DENIED, input);
    struct denial *denial = decision_add_denial(out, input->kind, input->id, input->act.now_ms);
    memcpy(denial->device, event->device, sizeof(denial->device));
    memcpy(denial->reason, event->reason, sizeof(denial->reason));
    memcpy(denial->origin, event->origin, sizeof(denial->origin));
    denial->until_ms = input->until_ms;
    event->cut = CUT_NOW;
}

void denial_remove(const struct denial_request *input, bool exists, struct decision *out)
{
    enum reason refusal = denial_judge(input);

    if (refusal == REASON_OK && !exists)
        refusal = REASON_NOT_DENIED;
    if (refusal != REASON_OK) {
        decision_set(out, VERDICT_REFUSE, refusal);
        return;
    }

    decision_set(out, VERDICT_PASS, REASON_ALLOWED);
    struct device_event *event = denial_add_event(out, EVENT_DEVICE_ALLOWED, input);
    struct denial *allow = &out->change.allow[out->change.n_allow++];
    *allow = (struct denial){.kind = event->cut_kind, .at_ms = input->act.now_ms};
    memcpy(allow->id, event->cut_id, sizeof(allow->id));
    memcpy(allow->device, event->device, sizeof(allow->device));
}
