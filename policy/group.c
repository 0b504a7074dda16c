/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy/group.h"

#include <string.h>

/* Not isalnum(): that asks the locale. */
static bool group_name_has(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           strchr(" ._-()/:+@=#&,", c) != NULL;
}

bool group_name_is_valid(const char *name)
{
    size_t len = strlen(name);

    if (len > LABEL_MAX || (len > 0 && (name[0] == ' ' || name[len - 1] == ' ')))
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!group_name_has(name[i]))
            return false;
    }
    return true;
}

static enum reason group_refuse(const struct device_record *record, const char *group,
                                const struct operator_act *act)
{
    if (!operator_act_has_reason(act))
        return REASON_REASON_REQUIRED;
    if (!group_name_is_valid(group))
        return REASON_GROUP_INVALID;
    if (!record_exists(record))
        return REASON_NO_SUCH_DEVICE;
    return REASON_OK;
}

void group_assign(const struct device_record *record, const char *group,
                  const struct operator_act *act, struct decision *out)
{
    enum reason refusal = group_refuse(record, group, act);

    if (refusal != REASON_OK) {
        decision_set(out, VERDICT_REFUSE, refusal);
        return;
    }
    if (strcmp(record->group, group) == 0) {
        decision_set(out, VERDICT_PASS, REASON_GROUP_UNCHANGED);
        return;
    }

    decision_set(out, VERDICT_PASS, REASON_GROUP_CHANGED);
    struct device_record *next = decision_write_record(out, record, act->now_ms);
    memcpy(next->group, group, strlen(group) + 1);
    struct device_event *event =
        decision_add_event(out, EVENT_DEVICE_GROUP_CHANGED, next, act->now_ms);
    memcpy(event->old_group, record->group, sizeof(event->old_group));
    decision_copy_text(event->origin, act->origin);
    decision_copy_text(event->reason, act->reason);
    event->cut = CUT_DECIDE;
    event->cut_kind = DENY_DEVICE;
    memcpy(event->cut_id, record->name, sizeof(record->name));
}
