/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/admission.h"

#include "gateway/base/log.h"

static void decide_admission(const struct store_view *view, struct decision *out, void *arg)
{
    const struct admission *admission = arg;
    struct admission_input input = {
        .record = &view->record,
        .credentials = admission->credentials,
        .denied = view->denied,
        .settings = admission->settings,
        .now_ms = view->now_ms,
    };

    if (admission->handshake == admission->credentials->handshake &&
        admission->issuer == admission->credentials->issuer) {
        admission_decide(&input, out);
        return;
    }
    struct credentials credentials = *admission->credentials;
    credentials.handshake = admission->handshake;
    credentials.issuer = admission->issuer;
    input.credentials = &credentials;
    admission_decide(&input, out);
}

static void on_decided(enum store_result result, const struct store_view *view,
                       const struct decision *decision, void *arg)
{
    struct admission *admission = arg;

    admission->transition = NULL;
    /* A refusal is no transition: whoever knocks with a wrong key could fill the log. */
    if (result == STORE_OK && decision->commits && decision->verdict != VERDICT_REFUSE)
        audit_decision(decision, admission->credentials->device, admission->peer);
    admission->done(result, view, decision, admission->arg);
}

void admission_start(struct admission *admission, struct store *store)
{
    const struct store_query query = {
        .device = admission->credentials->device,
        .key = admission->credentials->key.id.hex,
        .certificate = admission->credentials->certificate.hex,
    };

    admission->transition =
        transition_start(store, &query, decide_admission, on_decided, admission);
}

void admission_cancel(struct admission *admission)
{
    transition_cancel(&admission->transition);
}

static enum log_level audit_level(enum reason reason)
{
    static const enum log_level levels[] = {
        [REASON_LEVEL_DEBUG] = LOG_INFO,    [REASON_LEVEL_INFO] = LOG_INFO,
        [REASON_LEVEL_NOTICE] = LOG_NOTICE, [REASON_LEVEL_WARNING] = LOG_WARNING,
        [REASON_LEVEL_ERROR] = LOG_ERROR,
    };
    return levels[reason_level(reason)];
}

void audit_decision(const struct decision *decision, const char *device, const char *peer)
{
    static const struct device_event no_event;
    const struct change *change = &decision->change;
    const struct device_event *event = change->n_events > 0 ? &change->events[0] : &no_event;

    /* Refreshed facts (a later expiry of a certificate) are no transitions. */
    if (change->n_events == 0 && change->n_deny == 0 && change->n_allow == 0)
        return;
    log_write(audit_level(decision->reason), "audit",
              LOG_STR("action", reason_wire(decision->reason)),
              LOG_STR("event", change->n_events > 0 ? event_wire(event->type) : ""),
              LOG_STR("device", device), LOG_STR("old_key", event->old_key.id.hex),
              LOG_STR("new_key", event->new_key.id.hex), LOG_STR("rotation", event->rotation_id),
              LOG_STR("denied", change->n_deny > 0 ? change->deny[0].id : ""),
              LOG_STR("group", event->type == EVENT_DEVICE_GROUP_CHANGED ? event->group : ""),
              LOG_STR("old_group", event->old_group),
              LOG_STR("allowed", change->n_allow > 0 ? change->allow[0].id : ""),
              LOG_STR("why", event->reason), LOG_STR("origin", event->origin),
              LOG_STR("peer", peer));
}
