/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy_world.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "policy/denial.h"
#include "policy/group.h"
#include "policy/rotation.h"

const char *world_count_name(enum world_count count)
{
    static const char *const names[COUNT_END] = {
        [COUNT_REGISTERED] = "registered",
        [COUNT_PROMOTED] = "promoted",
        [COUNT_REPLACED] = "replaced",
        [COUNT_ANNOUNCED_AGAIN] = "announced again",
        [COUNT_OUTDATED] = "outdated announcements",
        [COUNT_BUSY] = "busy",
        [COUNT_HELD] = "held back",
        [COUNT_CANCELLED] = "cancelled",
        [COUNT_ACCEPTED] = "accepted",
        [COUNT_STALLED] = "stalled",
        [COUNT_QUARANTINED] = "quarantined",
        [COUNT_NOT_PROVEN] = "pending keys not proven",
        [COUNT_EXPIRED] = "expired",
        [COUNT_NOT_ANNOUNCED] = "keys not announced",
        [COUNT_DENIED] = "denied",
        [COUNT_GROUPED] = "put into another group",
        [COUNT_LOCKED] = "locked writes",
        [COUNT_STALE_WRITE] = "stale writes",
        [COUNT_LANDED] = "landed writes",
        [COUNT_LANDED_FOR_PENDING] = "landed for a pending key",
        [COUNT_LANDED_AFTER_PROMOTION] = "landed after the promotion",
        [COUNT_CUT_WRITES] = "cut writes",
        [COUNT_CONFLICTS] = "conflicts",
        [COUNT_COMMITTED_TWICE] = "repeated after a commit",
        [COUNT_CRASHED_UNCOMMITTED] = "crashes before a commit",
        [COUNT_CRASHED_UNANSWERED] = "crashes before an answer",
    };

    return names[count];
}

static enum world_count world_count_of(enum reason reason)
{
    static const struct {
        enum reason reason;
        enum world_count count;
    } rows[] = {
        {REASON_REGISTERED, COUNT_REGISTERED},
        {REASON_PROMOTED, COUNT_PROMOTED},
        {REASON_ANNOUNCEMENT_REPLACED, COUNT_REPLACED},
        {REASON_ANNOUNCED_BEFORE, COUNT_ANNOUNCED_AGAIN},
        {REASON_ANNOUNCEMENT_OUTDATED, COUNT_OUTDATED},
        {REASON_CONFIG_WRITES_BUSY, COUNT_BUSY},
        {REASON_CONFIG_WRITES_HELD, COUNT_HELD},
        {REASON_CANCELLED, COUNT_CANCELLED},
        {REASON_KEY_ACCEPTED, COUNT_ACCEPTED},
        {REASON_KEY_NOT_PROVEN, COUNT_NOT_PROVEN},
        {REASON_CERTIFICATE_EXPIRED, COUNT_EXPIRED},
        {REASON_KEY_NOT_ANNOUNCED, COUNT_NOT_ANNOUNCED},
        {REASON_KEY_DENIED, COUNT_DENIED},
        {REASON_GROUP_CHANGED, COUNT_GROUPED},
        {REASON_CONFIG_LOCKED, COUNT_LOCKED},
        {REASON_CONFIG_KEY_STALE, COUNT_STALE_WRITE},
        {REASON_KEY_AGE_QUARANTINE, COUNT_QUARANTINED},
        {REASON_CERTIFICATE_EXPIRED_QUARANTINE, COUNT_QUARANTINED},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (rows[i].reason == reason)
            return rows[i].count;
    }
    return COUNT_END;
}

uint64_t world_random(struct world *world, uint64_t below)
{
    /* splitmix64 */
    uint64_t z = world->random += UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (z ^ (z >> 31)) % below;
}

bool world_chance(struct world *world, unsigned per_mille)
{
    return world_random(world, 1000) < per_mille;
}

static void world_choose_settings(struct world *world)
{
    static const enum key_age_action actions[] = {KEY_AGE_OBSERVE, KEY_AGE_WARN,
                                                  KEY_AGE_QUARANTINE};
    struct admission_settings *settings = &world->settings;

    /* Without KEY_AGE_REFUSE: it locks devices out because it was told to. */
    *settings = (struct admission_settings){
        .registration = world_chance(world, 750) ? REGISTRATION_OPEN : REGISTRATION_CLOSED,
        .rules.fleet.expired_grace_ms = world_chance(world, 500) ? 7 * MAKE_DAY_MS : 0,
        .stalled_after_ms = world_chance(world, 700) ? 60000 : 0,
        .refused_event_every_ms = world_chance(world, 700) ? 60000 : 0,
        .rules.fleet.key_age.action = actions[world_random(world, 3)],
    };
    if (world_chance(world, 500))
        settings->rules.fleet.key_age.overdue_after_ms = 10 * MAKE_DAY_MS;
    world->group = (struct enforcement_group){
        .name = "strict",
        .rule.key_age = {.overdue_after_ms = MAKE_DAY_MS, .action = KEY_AGE_QUARANTINE},
    };
    settings->rules.groups = &world->group;
    settings->rules.n_groups = 1;
}

void world_reset(struct world *world, uint64_t seed)
{
    world->random = seed;
    world->now_ms = MAKE_NOW_MS;
    memset(&world->store, 0, sizeof(world->store));
    memset(world->histories, 0, sizeof(world->histories));
    for (int i = 0; i < WORLD_REQUESTS; i++)
        world->requests[i].stage = REQUEST_FREE;
    for (int i = 0; i < WORLD_WRITES; i++)
        world->writes[i].is_open = false;
    world->n_tokens = 0;
    world->n_trace = 0;
    world_choose_settings(world);
}

void world_judge(struct world *world, const char *violation)
{
    if (world->violation == NULL)
        world->violation = violation;
}

static void world_trace(struct world *world, const struct request *request)
{
    world->trace[world->n_trace++ % WORLD_TRACE] = (struct world_step){
        .step = world->step,
        .stage = request->stage,
        .gateway = request->gateway,
        .device = request->device,
        .cause = request->cause,
        .reason = request->stage == REQUEST_ANSWERED ? request->reason : REASON_UNDECIDED,
    };
}

void world_print_trace(const struct world *world)
{
    static const char *const stages[] = {"free", "arrived", "read", "answered"};
    uint64_t i = world->n_trace > WORLD_TRACE ? world->n_trace - WORLD_TRACE : 0;

    for (; i < world->n_trace; i++) {
        const struct world_step *step = &world->trace[i % WORLD_TRACE];

        printf("# step %" PRIu64 ": gateway %d, device %d: %s, key %d, next %d: %s %s\n",
               step->step, step->gateway, step->device, cause_name(step->cause.kind),
               step->cause.key, step->cause.next, stages[step->stage],
               step->stage == REQUEST_ANSWERED ? reason_wire(step->reason) : "");
    }
}

struct request *world_ask(struct world *world, int device, enum cause_kind kind)
{
    for (int i = 0; i < WORLD_REQUESTS; i++) {
        struct request *request = &world->requests[i];

        if (request->stage != REQUEST_FREE)
            continue;
        request->stage = REQUEST_ARRIVED;
        request->gateway = (int)world_random(world, WORLD_GATEWAYS);
        request->device = device;
        request->session = 0;
        request->cause = (struct cause){
            .kind = kind,
            .handshake = HANDSHAKE_FULL,
            .certificate_expires_ms = world->now_ms + MAKE_DAY_MS,
            .lease_ms = WORLD_LEASE_MS,
        };
        if (kind == CAUSE_WRITE_BEGIN) {
            request->token = world->n_tokens++;
            request->cause.token = make_token(request->token);
        }
        return request;
    }
    return NULL;
}

static struct deny_flags world_deny_flags(struct world *world, int device, int key, int serial)
{
    const struct store *store = &world->store;
    int certificate = key * STORE_SERIALS + serial;

    return (struct deny_flags){
        .key = store_entry_denies(&store->keys[key], world->now_ms),
        .certificate = store_entry_denies(&store->certificates[certificate], world->now_ms),
        .device = store_entry_denies(&store->devices[device], world->now_ms),
    };
}

static void world_read(struct world *world, struct request *request)
{
    struct cause *cause = &request->cause;

    request->read = world->store.records[request->device];
    request->denied = world_deny_flags(world, request->device, cause->key, cause->serial);
    request->next_denied = store_entry_denies(&world->store.keys[cause->next], world->now_ms);
    if (cause->kind == CAUSE_ALLOW) {
        const struct store_entry *entry =
            store_find_entry(&world->store, cause->deny_kind, cause->deny_id);
        request->entry_exists = store_entry_denies(entry, world->now_ms);
    }
    cause->decided_ms = world->now_ms;
    request->stage = REQUEST_READ;
}

static struct credentials world_credentials(int device, const struct cause *cause)
{
    struct credentials credentials = {
        .factory = "factory-7",
        .production = true,
        .key = {make_key(cause->key)->id, make_key(cause->key)->pem},
        .certificate = *store_certificate(cause->key, cause->serial),
        .certificate_expires_ms = cause->certificate_expires_ms,
        .issuer = ISSUER_STATE_ACTIVE,
        .handshake = cause->handshake,
    };

    snprintf(credentials.device, sizeof(credentials.device), "%s", store_device_name(device));
    return credentials;
}

static void world_admit(const struct world *world, const struct device_record *record, int device,
                        const struct cause *cause, struct deny_flags denied, struct decision *out)
{
    struct credentials credentials = world_credentials(device, cause);
    struct admission_input input = {
        .record = record,
        .credentials = &credentials,
        .denied = denied,
        .settings = &world->settings,
        .now_ms = cause->decided_ms,
    };

    admission_decide(&input, out);
}

static void world_announce(const struct request *request, struct decision *out)
{
    const struct cause *cause = &request->cause;
    struct announcement input = {
        .record = &request->read,
        .announcer = &make_key(cause->key)->id,
        .next = make_key(cause->next),
        .denied = request->denied,
        .next_denied = request->next_denied,
        .connected_ms = cause->connected_ms,
        .now_ms = cause->decided_ms,
    };

    rotation_announce(&input, out);
}

static void world_begin_write(const struct request *request, struct decision *out)
{
    const struct cause *cause = &request->cause;
    struct config_write input = {
        .record = &request->read,
        .writer = cause->writer,
        .writer_key = make_key(cause->writer_key)->id,
        .key = make_key(cause->key)->id,
        .token = cause->token,
        .lease_ms = cause->lease_ms,
        .now_ms = cause->decided_ms,
    };

    config_write_begin(&input, out);
}

static void world_decide(struct world *world, const struct request *request, struct decision *out)
{
    const struct cause *cause = &request->cause;
    const struct operator_act act = {"operator uid 0", "because", cause->decided_ms};
    const struct key_acceptance acceptance = {&request->read, store_device_name(request->device),
                                              make_key(cause->next), request->next_denied, act};
    const struct denial_request denial = {cause->deny_kind, cause->deny_id,
                                          store_device_name(request->device), 0, act};

    switch (cause->kind) {
    case CAUSE_ADMIT:
        world_admit(world, &request->read, request->device, cause, request->denied, out);
        break;
    case CAUSE_ANNOUNCE:
        world_announce(request, out);
        break;
    case CAUSE_CANCEL:
        rotation_cancel(&request->read, &act, out);
        break;
    case CAUSE_ACCEPT:
        rotation_accept_key(&acceptance, out);
        break;
    case CAUSE_WRITE_BEGIN:
        world_begin_write(request, out);
        break;
    case CAUSE_WRITE_END:
        config_write_end(&request->read, cause->token, cause->decided_ms, out);
        break;
    case CAUSE_DENY:
        denial_add(&denial, out);
        break;
    case CAUSE_ALLOW:
        denial_remove(&denial, request->entry_exists, out);
        break;
    case CAUSE_GROUP:
        group_assign(&request->read, cause->group, &act, out);
        break;
    case CAUSE_COUNT:
        assert(false);
        break;
    }
}

static bool world_is_denied(const struct request *request)
{
    enum cause_kind kind = request->cause.kind;
    bool authenticates = kind == CAUSE_ADMIT || kind == CAUSE_ANNOUNCE;
    bool announces = kind == CAUSE_ANNOUNCE || kind == CAUSE_ACCEPT;

    return (authenticates &&
            (request->denied.key || request->denied.certificate || request->denied.device)) ||
           (announces && request->next_denied);
}

/* False when the record has moved on. */
static bool world_commit(struct world *world, struct request *request)
{
    struct change *change = &world->decision.change;
    const struct device_record *before = &world->store.records[request->device];
    const struct commit commit = {before, change, &request->cause, world->now_ms};

    if (change->writes_record && change->next.version - 1 != before->version)
        return false;
    world_judge(world, check_commit(&commit, &world->histories[request->device]));
    if (world->violation != NULL)
        return true;
    if (change->n_events == 1 && change->events[0].type == EVENT_DEVICE_ROTATION_STALLED)
        world->counts[COUNT_STALLED]++;
    if (change->n_events == 1 &&
        !store_takes_event(&world->store, request->device, &change->events[0], world->now_ms))
        change->n_events = 0;
    world->n_commits++;
    return store_commit(&world->store, request->device, change);
}

static void world_conclude(struct world *world, struct request *request)
{
    struct decision *decision = &world->decision;

    world_decide(world, request, decision);
    world_judge(world, check_decision(&request->read, world_is_denied(request), &request->cause,
                                      decision));
    if (world->settings.registration != REGISTRATION_OPEN && decision->reason == REASON_REGISTERED)
        world_judge(world, "2: a device registered itself in a closed fleet");
    request->verdict = decision->verdict;
    request->reason = decision->reason;
    request->generation = request->read.generation;
    if (decision->commits && !world_commit(world, request)) {
        world->counts[COUNT_CONFLICTS]++;
        request->stage = REQUEST_ARRIVED;
        return;
    }
    if (decision->commits && world_chance(world, 30)) {
        world->counts[COUNT_COMMITTED_TWICE]++;
        request->stage = REQUEST_ARRIVED;
        return;
    }
    request->stage = REQUEST_ANSWERED;
    if (world_count_of(request->reason) != COUNT_END)
        world->counts[world_count_of(request->reason)]++;
}

static void world_forward_write(struct world *world, const struct request *request)
{
    int64_t lease_ends_ms = request->cause.decided_ms + request->cause.lease_ms;

    for (int i = 0; i < WORLD_WRITES; i++) {
        struct forwarded_write *write = &world->writes[i];

        if (write->is_open || world->now_ms >= lease_ends_ms)
            continue;
        *write = (struct forwarded_write){
            .is_open = true,
            .gateway = request->gateway,
            .device = request->device,
            .cause = request->cause,
            .generation = request->generation,
            .lease_ends_ms = lease_ends_ms,
        };
        return;
    }
}

void world_advance(struct world *world, world_answer_fn *on_answer, void *arg)
{
    size_t start = (size_t)world_random(world, WORLD_REQUESTS);

    for (size_t i = 0; i < WORLD_REQUESTS; i++) {
        struct request *request = &world->requests[(start + i) % WORLD_REQUESTS];

        if (request->stage == REQUEST_FREE)
            continue;
        if (request->stage == REQUEST_ARRIVED) {
            world_read(world, request);
        } else if (request->stage == REQUEST_READ) {
            world_conclude(world, request);
        } else {
            request->stage = REQUEST_FREE;
            if (request->cause.kind == CAUSE_WRITE_BEGIN && request->verdict == VERDICT_PASS)
                world_forward_write(world, request);
            on_answer(world, request, arg);
            return;
        }
        world_trace(world, request);
        return;
    }
}

void world_crash_gateway(struct world *world)
{
    int gateway = (int)world_random(world, WORLD_GATEWAYS);

    for (int i = 0; i < WORLD_REQUESTS; i++) {
        struct request *request = &world->requests[i];

        if (request->stage == REQUEST_FREE || request->gateway != gateway)
            continue;
        world->counts[request->stage == REQUEST_ANSWERED ? COUNT_CRASHED_UNANSWERED
                                                         : COUNT_CRASHED_UNCOMMITTED]++;
        request->stage = REQUEST_FREE;
    }
    for (int i = 0; i < WORLD_WRITES; i++) {
        if (world->writes[i].gateway == gateway)
            world->writes[i].gateway = -1;
    }
}

static void world_land(struct world *world, const struct forwarded_write *write)
{
    const struct device_record *record = &world->store.records[write->device];

    world_judge(world, check_landing(record, &write->cause, write->generation));
    world->counts[COUNT_LANDED]++;
    if (record_rotation_pending(record))
        world->counts[COUNT_LANDED_FOR_PENDING]++;
    else if (record->generation != write->generation)
        world->counts[COUNT_LANDED_AFTER_PROMOTION]++;
}

void world_answer_write(struct world *world)
{
    size_t i = (size_t)world_random(world, WORLD_WRITES);

    for (size_t tried = 0; tried < WORLD_WRITES && !world->writes[i].is_open; tried++)
        i = (i + 1) % WORLD_WRITES;
    struct forwarded_write *write = &world->writes[i];
    if (!write->is_open)
        return;
    if (world->now_ms < write->lease_ends_ms)
        world_land(world, write);
    else
        world->counts[COUNT_CUT_WRITES]++;
    write->is_open = false;
    if (write->gateway < 0)
        return;
    struct request *request = world_ask(world, write->device, CAUSE_WRITE_END);
    if (request == NULL)
        return;
    request->gateway = write->gateway;
    request->cause.token = write->cause.token;
}

bool world_would_admit(struct world *world, int device, int key)
{
    const struct cause cause = {
        .kind = CAUSE_ADMIT,
        .key = key,
        .handshake = HANDSHAKE_FULL,
        .certificate_expires_ms = world->now_ms + MAKE_DAY_MS,
        .decided_ms = world->now_ms,
    };
    struct deny_flags denied = world_deny_flags(world, device, key, 0);

    world_admit(world, &world->store.records[device], device, &cause, denied, &world->decision);
    return world->decision.verdict == VERDICT_PASS || world->decision.verdict == VERDICT_QUARANTINE;
}
