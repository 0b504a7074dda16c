/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy_check.h"

#include <string.h>

#include "policy_make.h"

/* First violated sentence wins. */
#define MUST(condition, sentence)                                                                  \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return sentence;                                                                       \
    } while (0)
#define PASS_ON(check)                                                                             \
    do {                                                                                           \
        const char *violated = (check);                                                            \
        if (violated != NULL)                                                                      \
            return violated;                                                                       \
    } while (0)

const char *cause_name(enum cause_kind kind)
{
    static const char *const names[CAUSE_COUNT] = {"admit", "announce", "cancel", "accept", "write",
                                                   "end",   "deny",     "allow",  "group"};

    return names[kind];
}

static int current_of(const struct device_record *record)
{
    return make_key_number(&record->current.id);
}

static int pending_of(const struct device_record *record)
{
    return make_key_number(&record->pending.id);
}

/* decisions */

static const char *check_admission(const struct device_record *read, const struct cause *cause,
                                   const struct decision *decision)
{
    bool admitted = decision->verdict == VERDICT_PASS || decision->verdict == VERDICT_QUARANTINE;

    MUST(decision->verdict != VERDICT_BUSY, "an admission is never busy");
    if (!admitted)
        return NULL;
    if (!record_exists(read)) {
        MUST(decision->commits, "2: a device was admitted and not registered");
        return NULL;
    }
    if (cause->key == current_of(read)) {
        MUST(decision->commits || cause->certificate_expires_ms <= read->current_cert_expires_ms,
             "5: a later certificate was not noted, and the denial would end too soon");
        return NULL;
    }
    MUST(cause->key == pending_of(read), "2: a key was admitted that nobody announced");
    MUST(cause->handshake == HANDSHAKE_FULL, "3: a key was admitted that was not proven");
    MUST(decision->verdict == VERDICT_PASS && decision->commits,
         "3: a pending key was admitted and not promoted");
    return NULL;
}

const char *check_decision(const struct device_record *read, bool denied, const struct cause *cause,
                           const struct decision *decision)
{
    if (denied) {
        MUST(decision->verdict == VERDICT_REFUSE, "1: something denied was let through");
        MUST(!decision->commits, "1: something denied changed the store");
    }
    if (decision->verdict == VERDICT_BUSY && decision->commits)
        MUST(decision->change.writes_record && decision->change.n_events == 0 &&
                 decision->change.next.wanted_until_ms > cause->decided_ms,
             "busy must change nothing but who waits");
    return cause->kind == CAUSE_ADMIT ? check_admission(read, cause, decision) : NULL;
}

/* commits: the record */

static bool lease_alive_in(const struct device_record *record, int64_t now_ms)
{
    for (size_t i = 0; i < record->n_leases; i++) {
        if (record->leases[i].expires_ms > now_ms)
            return true;
    }
    return false;
}

static const char *check_promotion(const struct commit *c)
{
    const struct device_record *before = c->before, *after = &c->change->next;
    const struct denial *denial = &c->change->deny[0];
    int64_t until_ms = before->current_cert_expires_ms;

    MUST(c->cause->kind == CAUSE_ADMIT, "3: the current key changed without an admission");
    MUST(c->cause->handshake == HANDSHAKE_FULL, "3: promoted without a full handshake");
    MUST(c->cause->key == pending_of(before) && pending_of(before) != 0,
         "2: promoted a key that was not pending");
    MUST(c->cause->certificate_expires_ms > c->cause->decided_ms,
         "3: promoted on an expired certificate");
    MUST(current_of(after) == c->cause->key, "3: promoted another key than the proven one");
    MUST(pubkey_equal(&after->current, &before->pending), "3: the promoted key was altered");
    MUST(pending_of(after) == 0, "5: promoted, and the rotation goes on");
    MUST(after->generation == before->generation + 1, "5: a promotion counts exactly one");
    MUST(after->current_since_ms == c->cause->decided_ms, "4: key age began at another time");
    MUST(after->current_cert_expires_ms == c->cause->certificate_expires_ms,
         "5: the new key's certificate was not noted");
    MUST(c->change->n_deny == 1 && denial->kind == DENY_KEY, "5: the old key was not denied");
    MUST(strcmp(denial->id, before->current.id.hex) == 0, "5: another key was denied");
    MUST(denial->until_ms == (until_ms > c->cause->decided_ms ? until_ms : 0),
         "5: the old key's denial ends at a wrong time");
    MUST(denial->keeps_longer, "1: a retirement may shorten an operator's denial");
    return NULL;
}

static const char *check_registration(const struct commit *c)
{
    const struct device_record *after = &c->change->next;
    bool by_device = c->cause->kind == CAUSE_ADMIT;

    MUST(by_device || c->cause->kind == CAUSE_ACCEPT,
         "2: registered by neither device nor operator");
    MUST(current_of(after) == (by_device ? c->cause->key : c->cause->next),
         "2: registered another key");
    MUST(after->generation == 1, "generations begin at one");
    MUST(pending_of(after) == 0 && after->n_leases == 0,
         "a new record has neither past nor future");
    MUST(c->change->n_deny == 0, "5: a registration denied something");
    return NULL;
}

static const char *check_current(const struct commit *c)
{
    const struct device_record *before = c->before, *after = &c->change->next;

    if (!record_exists(before))
        return check_registration(c);
    if (current_of(before) != current_of(after))
        return check_promotion(c);
    MUST(after->generation == before->generation, "5: the generation moved without a promotion");
    MUST(after->current_since_ms == before->current_since_ms, "4: key age was reset");
    MUST(after->current_cert_expires_ms >= before->current_cert_expires_ms,
         "5: a later certificate of the current key was forgotten");
    MUST(c->change->n_deny == 0, "5: something was denied without a promotion");
    return NULL;
}

static const char *check_begun_rotation(const struct commit *c)
{
    const struct device_record *before = c->before, *after = &c->change->next;
    const struct cause *cause = c->cause;

    MUST(cause->kind == CAUSE_ANNOUNCE || cause->kind == CAUSE_ACCEPT,
         "2: a key became pending by itself");
    MUST(pending_of(after) == cause->next, "2: another key than the announced one is pending");
    MUST(cause->kind != CAUSE_ANNOUNCE || cause->key == current_of(before),
         "2: announced by another than the current key's holder");
    MUST(cause->kind != CAUSE_ANNOUNCE || pending_of(before) == 0 ||
             cause->connected_ms > before->pending_since_ms,
         "4: replaced by an announcement from before the rotation");
    MUST(!lease_alive_in(before, c->now_ms), "6: a rotation began while a write was in flight");
    MUST(after->pending_since_ms == cause->decided_ms, "a rotation began at another time");
    MUST(!after->stalled, "a new rotation is stalled");
    MUST(strcmp(after->rotation_id, before->rotation_id) != 0, "two rotations share an id");
    return NULL;
}

static const char *check_pending(const struct commit *c)
{
    const struct device_record *before = c->before, *after = &c->change->next;
    bool promoted = record_exists(before) && current_of(before) != current_of(after);

    if (pending_of(after) == pending_of(before)) {
        MUST(strcmp(after->rotation_id, before->rotation_id) == 0, "a rotation changed its id");
        MUST(after->pending_since_ms == before->pending_since_ms, "a rotation changed its age");
        MUST(after->stalled || !before->stalled, "a stalled rotation recovered by itself");
        return NULL;
    }
    if (pending_of(after) != 0)
        return check_begun_rotation(c);
    MUST(after->rotation_id[0] == '\0' && after->pending_since_ms == 0 && !after->stalled,
         "an ended rotation left traces");
    if (promoted)
        return NULL;
    MUST(c->cause->kind == CAUSE_CANCEL, "7: an announced key was lost");
    MUST(!lease_alive_in(before, c->now_ms), "6: cancelled while a write was in flight");
    return NULL;
}

static const struct write_lease *lease_in(const struct device_record *record, const char *token)
{
    for (size_t i = 0; i < record->n_leases; i++) {
        if (strcmp(record->leases[i].token, token) == 0)
            return &record->leases[i];
    }
    return NULL;
}

static const char *check_written_lease(const struct commit *c, const struct write_lease *lease)
{
    const struct device_record *before = c->before;
    const struct cause *cause = c->cause;

    MUST(cause->kind == CAUSE_WRITE_BEGIN && strcmp(cause->token, lease->token) == 0,
         "6: a write lease came from nowhere");
    MUST(lease->expires_ms == cause->decided_ms + cause->lease_ms, "6: a lease of another length");
    MUST(before->wanted_until_ms <= cause->decided_ms, "a write overtook a waiting rotation");
    MUST(cause->writer != CONFIG_WRITER_DEVICE || cause->writer_key == current_of(before),
         "6: a device writes under a key that is not current");
    if (pending_of(before) != 0) {
        MUST(cause->writer == CONFIG_WRITER_DEVICE, "6: a stranger writes during a rotation");
        MUST(cause->key == pending_of(before), "6: a write for another key than the pending one");
    } else {
        MUST(cause->key == 0 || cause->key == current_of(before), "6: a write for a stale key");
    }
    return NULL;
}

/* Whoever waits for writes may keep others out, for a while. */
static const char *check_hold(const struct commit *c)
{
    const struct device_record *before = c->before, *after = &c->change->next;
    enum cause_kind kind = c->cause->kind;

    if (after->wanted_until_ms == 0 || after->wanted_until_ms == before->wanted_until_ms)
        return NULL;
    MUST(kind == CAUSE_ANNOUNCE || kind == CAUSE_CANCEL || kind == CAUSE_ACCEPT,
         "writes are held back for nobody");
    MUST(lease_alive_in(before, c->cause->decided_ms), "writes are held back for no write");
    MUST(after->wanted_until_ms == c->cause->decided_ms + 60000, "writes are held back for long");
    MUST(pending_of(after) == pending_of(before), "6: what was to wait has happened");
    return NULL;
}

static const char *check_leases(const struct commit *c)
{
    const struct device_record *before = c->before, *after = &c->change->next;

    for (size_t i = 0; i < before->n_leases; i++) {
        const struct write_lease *lease = &before->leases[i];
        bool ended =
            c->cause->kind == CAUSE_WRITE_END && strcmp(c->cause->token, lease->token) == 0;

        if (lease_in(after, lease->token) != NULL)
            MUST(!ended, "an ended write keeps its lease");
        else
            MUST(ended || lease->expires_ms <= c->cause->decided_ms,
                 "6: a living write lease was lost");
    }
    for (size_t i = 0; i < after->n_leases; i++) {
        const struct write_lease *lease = &after->leases[i];
        const struct write_lease *old = lease_in(before, lease->token);

        if (old == NULL || old->expires_ms != lease->expires_ms)
            PASS_ON(check_written_lease(c, lease));
    }
    return NULL;
}

static const char *check_identity(const struct commit *c)
{
    const struct device_record *before = c->before, *after = &c->change->next;

    MUST(after->version == before->version + 1, "a version was left out");
    if (!record_exists(before))
        return NULL;
    MUST(strcmp(before->name, after->name) == 0, "a device changed its name");
    MUST(c->cause->kind == CAUSE_GROUP || strcmp(before->group, after->group) == 0,
         "a device changed its group by itself");
    if (before->first_seen_ms == 0)
        return NULL;
    MUST(before->first_seen_ms == after->first_seen_ms, "a device was seen first twice");
    MUST(strcmp(before->factory, after->factory) == 0 && before->production == after->production,
         "a device changed its factory");
    return NULL;
}

/* commits: the events */

/* The one event that a change of the record calls for; EVENT_COUNT for none. */
static enum event_type event_for(const struct commit *c)
{
    const struct device_record *before = c->before, *after = &c->change->next;
    bool accepted = c->cause->kind == CAUSE_ACCEPT;

    if (!c->change->writes_record) {
        if (c->cause->kind == CAUSE_DENY)
            return EVENT_DEVICE_DENIED;
        return c->cause->kind == CAUSE_ALLOW ? EVENT_DEVICE_ALLOWED : EVENT_DEVICE_KEY_REFUSED;
    }
    if (!record_exists(before))
        return accepted ? EVENT_DEVICE_KEY_ACCEPTED : EVENT_DEVICE_FIRST_SEEN;
    if (current_of(before) != current_of(after))
        return EVENT_DEVICE_PUBKEY_CHANGE;
    if (pending_of(before) != pending_of(after)) {
        if (pending_of(after) == 0)
            return EVENT_DEVICE_ROTATION_CANCELLED;
        if (accepted)
            return EVENT_DEVICE_KEY_ACCEPTED;
        return pending_of(before) == 0 ? EVENT_DEVICE_ROTATION_STARTED
                                       : EVENT_DEVICE_ROTATION_REPLACED;
    }
    if (before->stalled != after->stalled)
        return EVENT_DEVICE_ROTATION_STALLED;
    if (strcmp(before->group, after->group) != 0)
        return EVENT_DEVICE_GROUP_CHANGED;
    return before->first_seen_ms != after->first_seen_ms ? EVENT_DEVICE_FIRST_SEEN : EVENT_COUNT;
}

static const char *history_begin_rotation(struct history *h, const struct device_event *event,
                                          int next)
{
    h->pending = next;
    h->stalled = false;
    memcpy(h->rotation_id, event->rotation_id, sizeof(h->rotation_id));
    return NULL;
}

static const char *history_end_rotation(struct history *h, const struct device_event *event)
{
    MUST(strcmp(h->rotation_id, event->rotation_id) == 0, "8: another rotation ended");
    h->pending = 0;
    h->stalled = false;
    h->rotation_id[0] = '\0';
    return NULL;
}

static const char *history_change(struct history *h, const struct device_event *event)
{
    int old = make_key_number(&event->old_key.id);
    int new = make_key_number(&event->new_key.id);

    MUST(old == h->current && new == h->pending &&new != 0,
         "8: the change does not continue the history");
    MUST(event->cut == CUT_DRAIN && event->cut_kind == DENY_KEY &&
             strcmp(event->cut_id, event->old_key.id.hex) == 0,
         "1: the retired key's connections are not cut");
    h->current = new;
    h->generation++;
    h->n_changes++;
    return history_end_rotation(h, event);
}

static const char *history_accept(struct history *h, const struct device_event *event)
{
    int old = make_key_number(&event->old_key.id);
    int new = make_key_number(&event->new_key.id);

    MUST(old == h->current, "8: a key was accepted beside another current one");
    MUST(event->reason[0] != '\0' && event->origin[0] != '\0', "an act without reason or origin");
    if (old != 0)
        return history_begin_rotation(h, event, new);
    h->current = new;
    h->generation = 1;
    return NULL;
}

static const char *history_meet(struct history *h, const struct device_event *event)
{
    MUST(!h->first_seen, "8: a device was first seen twice");
    h->first_seen = true;
    if (h->generation == 0) {
        h->generation = 1;
        h->current = make_key_number(&event->new_key.id);
    }
    MUST(h->current == make_key_number(&event->new_key.id), "8: first seen under another key");
    return NULL;
}

static const char *history_apply(struct history *h, const struct device_event *event)
{
    int old = make_key_number(&event->old_key.id);
    int new = make_key_number(&event->new_key.id);

    switch (event->type) {
    case EVENT_DEVICE_FIRST_SEEN:
        return history_meet(h, event);
    case EVENT_DEVICE_PUBKEY_CHANGE:
        return history_change(h, event);
    case EVENT_DEVICE_ROTATION_STARTED:
        MUST(old == h->current && h->pending == 0, "8: a rotation started within another");
        return history_begin_rotation(h, event, new);
    case EVENT_DEVICE_ROTATION_REPLACED:
        MUST(old == h->pending && old != 0, "8: what was replaced was not pending");
        return history_begin_rotation(h, event, new);
    case EVENT_DEVICE_ROTATION_STALLED:
        MUST(!h->stalled && new == h->pending &&old == h->current, "8: stalled twice");
        h->stalled = true;
        return NULL;
    case EVENT_DEVICE_ROTATION_CANCELLED:
        MUST(old == h->pending && old != 0, "8: what was cancelled was not pending");
        return history_end_rotation(h, event);
    case EVENT_DEVICE_KEY_ACCEPTED:
        return history_accept(h, event);
    case EVENT_DEVICE_GROUP_CHANGED:
        MUST(strcmp(h->group, event->old_group) == 0, "8: a device left another group");
        MUST(event->cut == CUT_DECIDE && event->cut_kind == DENY_DEVICE &&
                 strcmp(event->cut_id, event->device) == 0,
             "its connections go on under the old group's rule");
        memcpy(h->group, event->group, sizeof(h->group));
        return NULL;
    case EVENT_DEVICE_KEY_REFUSED:
    case EVENT_DEVICE_DENIED:
    case EVENT_DEVICE_ALLOWED:
    case EVENT_COUNT:
        break;
    }
    return "8: an event that tells of no change came with one";
}

static const char *check_event(const struct commit *c)
{
    const struct change *change = c->change;
    enum event_type expected = event_for(c);

    MUST(change->n_events == (expected != EVENT_COUNT), "5: the number of events is wrong");
    if (expected == EVENT_COUNT)
        return NULL;
    MUST(change->events[0].type == expected, "8: an event of the wrong type");
    MUST(change->events[0].at_ms == c->cause->decided_ms, "8: an event of another time");
    MUST(change->events[0].once_in_ms == 0 || expected == EVENT_DEVICE_KEY_REFUSED,
         "8: an event of a change may be left out");
    return NULL;
}

static const char *check_history(const struct commit *c, struct history *h)
{
    const struct device_record *after = &c->change->next;

    if (c->change->n_events == 1) {
        MUST(c->change->events[0].at_ms >= h->last_ms, "8: events out of order");
        MUST(c->change->events[0].generation == after->generation,
             "8: an event of another generation");
        h->last_ms = c->change->events[0].at_ms;
        PASS_ON(history_apply(h, &c->change->events[0]));
    }
    MUST(h->current == current_of(after), "8: the events tell of another current key");
    MUST(h->pending == pending_of(after), "8: the events tell of another pending key");
    MUST(h->generation == after->generation, "8: the events tell of another generation");
    MUST(h->n_changes == after->generation - 1, "5: changes and promotions are not one to one");
    MUST(strcmp(h->rotation_id, after->rotation_id) == 0, "8: the events tell of another rotation");
    MUST(strcmp(h->group, after->group) == 0, "8: the events tell of another group");
    MUST(h->stalled == after->stalled, "8: the events tell of another stall");
    MUST(h->first_seen == (after->first_seen_ms != 0), "8: first seen, and no event of it");
    return NULL;
}

static const char *check_denial_act(const struct commit *c)
{
    const struct change *change = c->change;
    const struct cause *cause = c->cause;
    const struct denial *entry = cause->kind == CAUSE_DENY ? change->deny : change->allow;

    MUST(!change->writes_record, "the deny-list waits for no record");
    MUST(change->n_deny == (cause->kind == CAUSE_DENY) &&
             change->n_allow == (cause->kind == CAUSE_ALLOW),
         "7: an act on the deny-list was lost");
    MUST(entry->kind == cause->deny_kind && strcmp(entry->id, cause->deny_id) == 0,
         "1: something else was denied or allowed");
    MUST(cause->kind != CAUSE_DENY || change->events[0].cut == CUT_NOW,
         "1: what is denied is not cut at once");
    return NULL;
}

const char *check_commit(const struct commit *commit, struct history *history)
{
    PASS_ON(check_event(commit));
    if (commit->cause->kind == CAUSE_DENY || commit->cause->kind == CAUSE_ALLOW)
        return check_denial_act(commit);
    MUST(commit->change->n_allow == 0, "1: something was taken off the deny-list by itself");
    if (!commit->change->writes_record) {
        MUST(commit->change->n_deny == 0, "5: a denial came without its promotion");
        return NULL;
    }
    PASS_ON(check_identity(commit));
    PASS_ON(check_current(commit));
    PASS_ON(check_pending(commit));
    PASS_ON(check_leases(commit));
    PASS_ON(check_hold(commit));
    return check_history(commit, history);
}

/* The write was encrypted to a key when it began; now it must still be the right one. */
const char *check_landing(const struct device_record *record, const struct cause *write,
                          uint64_t generation)
{
    if (pending_of(record) != 0) {
        MUST(write->writer == CONFIG_WRITER_DEVICE, "6: an operator's write landed in a rotation");
        MUST(write->key == pending_of(record), "6: a write for the old key landed in a rotation");
        return NULL;
    }
    if (write->key == 0)
        MUST(generation == record->generation, "6: a write for an earlier generation landed");
    else
        MUST(write->key == current_of(record), "6: a write for a retired key landed");
    return NULL;
}
