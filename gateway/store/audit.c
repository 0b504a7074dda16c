/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/audit.h"

#include "gateway/base/log.h"

static enum log_level audit_level(enum reason reason)
{
    static const enum log_level levels[] = {
        [REASON_LEVEL_DEBUG] = LOG_INFO,    [REASON_LEVEL_INFO] = LOG_INFO,
        [REASON_LEVEL_NOTICE] = LOG_NOTICE, [REASON_LEVEL_WARNING] = LOG_WARNING,
        [REASON_LEVEL_ERROR] = LOG_ERROR,
    };
    return levels[reason_level(reason)];
}

void audit_decision(const struct decision *decision, const char *device, const char *peer,
                    enum audit_outcome outcome)
{
    static const struct device_event no_event;
    const struct change *change = &decision->change;
    const struct device_event *event = change->n_events > 0 ? &change->events[0] : &no_event;

    if (!decision->commits || decision->verdict == VERDICT_REFUSE ||
        (change->n_events == 0 && change->n_deny == 0 && change->n_allow == 0))
        return;
    const struct log_field fields[] = {
        LOG_STR("action", reason_wire(decision->reason)),
        LOG_STR("event", change->n_events > 0 ? event_wire(event->type) : ""),
        LOG_STR("device", device),
        LOG_STR("old_key", event->old_key.id.hex),
        LOG_STR("new_key", event->new_key.id.hex),
        LOG_STR("rotation", event->rotation_id),
        LOG_STR("denied", change->n_deny > 0 ? change->deny[0].id : ""),
        LOG_STR("group", event->type == EVENT_DEVICE_GROUP_CHANGED ? event->group : ""),
        LOG_STR("old_group", event->old_group),
        LOG_STR("allowed", change->n_allow > 0 ? change->allow[0].id : ""),
        LOG_STR("why", event->reason),
        LOG_STR("origin", event->origin),
        LOG_STR("peer", peer),
        LOG_STR("outcome", outcome == AUDIT_UNKNOWN ? "unknown" : ""),
    };
    log_write_fields(audit_level(decision->reason), "audit", fields, ARRAY_SIZE(fields));
}
