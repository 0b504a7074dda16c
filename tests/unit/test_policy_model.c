/* SPDX-License-Identifier: BSD-2-Clause */
/* The whole protocol as a random walk: devices that follow it and crash, thieves, operators and
 * slow backends before several gateways (policy_world.h), with every step judged (policy_check.h).
 *
 * DGW_MODEL_SEED and DGW_MODEL_STEPS, or two arguments, choose another walk or a longer one. The
 * same seed and number of steps walk the same way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy_world.h"

#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define DEFAULT_STEPS UINT64_C(400000)
#else
#define DEFAULT_STEPS UINT64_C(3000000)
#endif
#define DEFAULT_SEED UINT64_C(20240229)
/* From here on, whatever is worth counting must have happened. */
#define TELLING_STEPS UINT64_C(300000)

enum device_phase {
    PHASE_STEADY,     /* one key, on disk */
    PHASE_ANNOUNCING, /* a next key, in memory only */
    PHASE_ANNOUNCED,  /* the 200 was received; the next key goes to disk in a moment */
};

/* A device that does as it should. Only what is on disk survives a crash. */
struct device {
    int index;
    int disk_key;
    int disk_serial;
    int64_t disk_expires_ms;
    bool was_admitted; /* under the key on disk: it has a session to resume */

    unsigned session; /* counts its lives */
    enum device_phase phase;
    int next_key;
    int64_t connected_ms; /* when the connection for announcements began; 0: none */
    int old_key;          /* its predecessor; a forgotten process may use it still */

    /* An operator interfered: whether the device can go on is the operator's business, until it has
     * restarted and is admitted again. */
    bool is_meddled;
};

struct model {
    struct world world;
    struct device devices[STORE_DEVICES];
    int n_keys;
    int minted[2]; /* keys under certificates from a copied CA; nobody ever announced them */
    bool operators_meddle;
    uint64_t judged_commits;
};

static uint64_t model_seed = DEFAULT_SEED;
static uint64_t model_steps = DEFAULT_STEPS;

static int model_new_key(struct model *model)
{
    return ++model->n_keys;
}

static bool model_is_used_up(const struct model *model)
{
    return model->n_keys >= MAKE_KEYS - 4 || model->world.n_tokens >= MAKE_TOKENS - 4;
}

/* devices */

static struct request *device_ask(struct model *model, struct device *device, enum cause_kind kind)
{
    struct request *request = world_ask(&model->world, device->index, kind);

    if (request == NULL)
        return NULL;
    request->session = device->session;
    request->cause.key = device->disk_key;
    request->cause.serial = device->disk_serial;
    request->cause.certificate_expires_ms = device->disk_expires_ms;
    request->cause.writer = CONFIG_WRITER_DEVICE;
    request->cause.writer_key = device->disk_key;
    return request;
}

static void device_renew_certificate(struct model *model, struct device *device)
{
    if (device->disk_serial < STORE_SERIALS - 1)
        device->disk_serial++;
    device->disk_expires_ms =
        model->world.now_ms + (1 + (int64_t)world_random(&model->world, 60)) * MAKE_DAY_MS;
}

static void device_connect(struct model *model, struct device *device)
{
    /* Now and then it comes with the expired certificate before it renews. */
    if (device->disk_expires_ms <= model->world.now_ms && !world_chance(&model->world, 300))
        device_renew_certificate(model, device);
    struct request *request = device_ask(model, device, CAUSE_ADMIT);
    if (request != NULL && device->was_admitted && world_chance(&model->world, 300))
        request->cause.handshake = HANDSHAKE_RESUMED;
}

static void device_poll_with_old_key(struct model *model, struct device *device)
{
    struct request *request = device_ask(model, device, CAUSE_ADMIT);

    if (request == NULL)
        return;
    request->cause.key = device->old_key != 0 ? device->old_key : device->disk_key;
    if (world_chance(&model->world, 500))
        request->cause.handshake = HANDSHAKE_RESUMED;
}

static void device_reconnect(struct model *model, struct device *device)
{
    device->connected_ms = model->world.now_ms;
    /* A gateway may have read the time a little earlier. */
    if (world_chance(&model->world, 100))
        device->connected_ms -= (int64_t)world_random(&model->world, 2000);
}

static void device_announce(struct model *model, struct device *device)
{
    if (device->connected_ms == 0 || world_chance(&model->world, 200))
        device_reconnect(model, device);
    struct request *request = device_ask(model, device, CAUSE_ANNOUNCE);
    if (request == NULL)
        return;
    request->cause.next = device->next_key;
    request->cause.connected_ms = device->connected_ms;
}

static void device_write_config(struct model *model, struct device *device)
{
    struct request *request = device_ask(model, device, CAUSE_WRITE_BEGIN);

    if (request != NULL && device->phase == PHASE_ANNOUNCED)
        request->cause.key = device->next_key;
}

/* The new key takes the old one's place, which is destroyed. */
static void device_switch_keys(struct model *model, struct device *device)
{
    device->old_key = device->disk_key;
    device->disk_key = device->next_key;
    device->disk_serial = 0;
    device->disk_expires_ms = model->world.now_ms + 30 * MAKE_DAY_MS;
    device->was_admitted = false;
    device->next_key = 0;
    device->phase = PHASE_STEADY;
}

static bool operator_is_at_work(const struct world *world, int device)
{
    for (int i = 0; i < WORLD_REQUESTS; i++) {
        const struct request *request = &world->requests[i];
        enum cause_kind kind = request->cause.kind;

        if (request->stage != REQUEST_FREE && request->device == device &&
            (kind == CAUSE_CANCEL || kind == CAUSE_ACCEPT || kind == CAUSE_DENY))
            return true;
    }
    return false;
}

static void device_crash(struct model *model, struct device *device)
{
    device->session++;
    device->phase = PHASE_STEADY;
    device->next_key = 0;
    device->connected_ms = 0;
    device->was_admitted = false;
    if (device->is_meddled && !operator_is_at_work(&model->world, device->index) &&
        world_would_admit(&model->world, device->index, device->disk_key))
        device->is_meddled = false;
}

static void device_continue_rotation(struct model *model, struct device *device)
{
    switch (device->phase) {
    case PHASE_STEADY:
        device->next_key = model_new_key(model);
        device->phase = PHASE_ANNOUNCING;
        break;
    case PHASE_ANNOUNCING:
        /* A process that changes its mind does not even restart. */
        if (world_chance(&model->world, 20))
            device->next_key = model_new_key(model);
        device_announce(model, device);
        break;
    case PHASE_ANNOUNCED:
        if (world_chance(&model->world, 400))
            device_write_config(model, device);
        else
            device_switch_keys(model, device);
        break;
    }
}

static void device_act(struct model *model, struct device *device)
{
    uint64_t dice = world_random(&model->world, 1000);

    if (dice < 380)
        device_connect(model, device);
    else if (dice < 460)
        device_poll_with_old_key(model, device);
    else if (dice < 880)
        device_continue_rotation(model, device);
    else if (dice < 950)
        device_write_config(model, device);
    else
        device_crash(model, device);
}

static void device_hear_announcement(struct model *model, struct device *device,
                                     const struct request *request)
{
    if (device->phase != PHASE_ANNOUNCING || request->cause.next != device->next_key)
        return;
    if (request->verdict == VERDICT_PASS) {
        device->phase = PHASE_ANNOUNCED;
    } else if (request->verdict == VERDICT_BUSY) {
        if (request->reason == REASON_ANNOUNCEMENT_OUTDATED)
            device_reconnect(model, device);
    } else {
        device->phase = PHASE_STEADY;
        device->next_key = 0;
    }
}

static void device_hear(struct world *world, const struct request *request, void *arg)
{
    struct model *model = arg;
    struct device *device = &model->devices[request->device];
    bool is_lost = world_chance(world, 120);

    if (is_lost || request->session != device->session)
        return;
    if (request->cause.kind == CAUSE_ANNOUNCE)
        device_hear_announcement(model, device, request);
    if (request->cause.kind == CAUSE_ADMIT && request->cause.key == device->disk_key)
        device->was_admitted = request->verdict == VERDICT_PASS;
}

/* thieves */

static void thief_connect(struct model *model, const struct device *victim)
{
    const struct device_record *record = &model->world.store.records[victim->index];
    struct request *request = world_ask(&model->world, victim->index, CAUSE_ADMIT);

    if (request == NULL)
        return;
    switch (world_random(&model->world, 4)) {
    case 0:
        request->cause.key = victim->old_key;
        break;
    case 1: /* the pending key's session, not the key */
        request->cause.key = make_key_number(&record->pending.id);
        request->cause.handshake = HANDSHAKE_RESUMED;
        break;
    case 2: /* the pending key, whose certificate has expired meanwhile */
        request->cause.key = make_key_number(&record->pending.id);
        request->cause.certificate_expires_ms = model->world.now_ms - 1;
        break;
    default:
        request->cause.key = model->minted[world_random(&model->world, 2)];
        break;
    }
}

static void thief_announce(struct model *model, const struct device *victim)
{
    const struct device_record *record = &model->world.store.records[victim->index];
    struct request *request = world_ask(&model->world, victim->index, CAUSE_ANNOUNCE);
    /* With a key that still is current the thief would be the device, for all that one can tell. */
    bool has_retired_key =
        victim->old_key != 0 && victim->old_key != make_key_number(&record->current.id);

    if (request == NULL)
        return;
    request->cause.key = has_retired_key ? victim->old_key : model->minted[0];
    request->cause.next = model->minted[1];
    request->cause.connected_ms = model->world.now_ms;
}

static void thief_act(struct model *model, const struct device *victim)
{
    /* Who comes first is the device, in this tale. */
    if (!record_exists(&model->world.store.records[victim->index]))
        return;
    if (world_chance(&model->world, 700))
        thief_connect(model, victim);
    else
        thief_announce(model, victim);
}

/* operators */

static int operator_choose_key(struct model *model, const struct device *device)
{
    const struct device_record *record = &model->world.store.records[device->index];

    switch (world_random(&model->world, 6)) {
    case 0:
        return device->disk_key;
    case 1:
        return device->old_key;
    case 2:
        return device->next_key;
    case 3:
        return make_key_number(&record->pending.id);
    case 4:
        return model->minted[0];
    default:
        return make_key_number(&record->current.id);
    }
}

static void operator_write_config(struct model *model, const struct device *device)
{
    const struct device_record *record = &model->world.store.records[device->index];
    struct request *request = world_ask(&model->world, device->index, CAUSE_WRITE_BEGIN);

    if (request == NULL)
        return;
    request->cause.writer = CONFIG_WRITER_OPERATOR;
    request->cause.key = make_key_number(&record->current.id);
    if (world_chance(&model->world, 300))
        request->cause.key = 0;
    else if (world_chance(&model->world, 200))
        request->cause.key = operator_choose_key(model, device);
}

static void operator_list(struct model *model, const struct device *device, enum cause_kind kind)
{
    struct request *request = world_ask(&model->world, device->index, kind);
    int key = operator_choose_key(model, device);

    if (request == NULL)
        return;
    request->cause.deny_kind = (enum deny_kind)world_random(&model->world, 3);
    if (key == 0)
        request->cause.deny_kind = DENY_DEVICE;
    if (request->cause.deny_kind == DENY_KEY)
        request->cause.deny_id = make_key(key)->id.hex;
    else if (request->cause.deny_kind == DENY_CERTIFICATE)
        request->cause.deny_id = store_certificate(key, 0)->hex;
    else
        request->cause.deny_id = store_device_name(device->index);
}

/* Takes the device off the deny-list and accepts the key that it has. */
static void operator_repair(struct model *model, struct device *device)
{
    struct world *world = &model->world;
    struct request *request = world_ask(world, device->index, CAUSE_ALLOW);
    bool key_is_denied = store_entry_denies(&world->store.keys[device->disk_key], world->now_ms);

    if (request == NULL)
        return;
    request->cause.deny_kind = key_is_denied ? DENY_KEY : DENY_DEVICE;
    request->cause.deny_id =
        key_is_denied ? make_key(device->disk_key)->id.hex : store_device_name(device->index);
    request = world_ask(world, device->index, CAUSE_ACCEPT);
    if (request != NULL)
        request->cause.next = device->disk_key;
}

static void operator_meddle(struct model *model, struct device *device)
{
    static const char *const groups[] = {"", "strict", "other"};
    struct world *world = &model->world;
    struct request *request;

    switch (world_random(world, 6)) {
    case 0:
        operator_list(model, device, CAUSE_DENY);
        device->is_meddled = true;
        break;
    case 1:
        (void)world_ask(world, device->index, CAUSE_CANCEL);
        device->is_meddled = true;
        break;
    case 2:
        device->is_meddled = true;
        request = world_ask(world, device->index, CAUSE_ACCEPT);
        if (request != NULL)
            request->cause.next = model_new_key(model);
        break;
    case 3:
        request = world_ask(world, device->index, CAUSE_GROUP);
        if (request != NULL)
            request->cause.group = groups[world_random(world, 3)];
        break;
    default:
        operator_list(model, device, CAUSE_ALLOW);
        break;
    }
}

static void operator_act(struct model *model, struct device *device)
{
    if (world_chance(&model->world, 750))
        operator_write_config(model, device);
    else if (device->is_meddled && world_chance(&model->world, 600))
        operator_repair(model, device);
    else if (model->operators_meddle)
        operator_meddle(model, device);
}

/* the walk */

static void model_reset(struct model *model, uint64_t seed)
{
    struct world *world = &model->world;

    world_reset(world, seed);
    model->n_keys = 0;
    model->minted[0] = model_new_key(model);
    model->minted[1] = model_new_key(model);
    model->operators_meddle = world_chance(world, 500);
    for (int i = 0; i < STORE_DEVICES; i++) {
        model->devices[i] = (struct device){
            .index = i,
            .disk_key = model_new_key(model),
            .disk_expires_ms = world->now_ms + 30 * MAKE_DAY_MS,
            .session = 1,
            .is_meddled = world->settings.registration == REGISTRATION_CLOSED,
        };
    }
}

static void model_let_time_pass(struct model *model)
{
    uint64_t dice = world_random(&model->world, 10);
    uint64_t span_ms = dice < 6   ? WORLD_LEASE_MS + 10000
                       : dice < 9 ? 120000
                                  : 20 * (uint64_t)MAKE_DAY_MS;

    model->world.now_ms += (int64_t)world_random(&model->world, span_ms);
}

/* Invariant 4: whatever has crashed, the key on the device's disk gets it in. */
static void model_judge_devices(struct model *model)
{
    for (int i = 0; i < STORE_DEVICES; i++) {
        const struct device *device = &model->devices[i];

        if (!device->is_meddled && !world_would_admit(&model->world, i, device->disk_key))
            world_judge(&model->world, "4: a device that follows the protocol is locked out");
    }
}

static void model_step(struct model *model)
{
    struct world *world = &model->world;
    struct device *device = &model->devices[world_random(world, STORE_DEVICES)];
    uint64_t dice = world_random(world, 1000);

    world->step++;
    world->now_ms += (int64_t)world_random(world, 15);
    if (dice < 640)
        world_advance(world, device_hear, model);
    else if (dice < 850)
        device_act(model, device);
    else if (dice < 880)
        thief_act(model, device);
    else if (dice < 930)
        operator_act(model, device);
    else if (dice < 990)
        world_answer_write(world);
    else if (dice < 997)
        model_let_time_pass(model);
    else
        world_crash_gateway(world);
    model_judge_devices(model);
}

static void model_print_counts(const struct world *world)
{
    for (int i = 0; i < COUNT_END; i++)
        printf("# %10" PRIu64 " %s\n", world->counts[i], world_count_name((enum world_count)i));
}

static void no_walk_violates_an_invariant(void **state)
{
    static struct model model;
    struct world *world = &model.world;

    printf("# DGW_MODEL_SEED=%" PRIu64 " DGW_MODEL_STEPS=%" PRIu64 "\n", model_seed, model_steps);
    fflush(stdout);
    for (uint64_t walk = 0; world->step < model_steps; walk++) {
        model_reset(&model, model_seed + walk * UINT64_C(0xD1B54A32D192ED03));
        uint64_t end = world->step + 200 + world_random(world, 800);
        while (world->step < end && world->violation == NULL && !model_is_used_up(&model))
            model_step(&model);
        if (world->violation != NULL) {
            world_print_trace(world);
            fail_msg("walk %" PRIu64 ", step %" PRIu64 ": invariant %s", walk, world->step,
                     world->violation);
        }
    }
    model_print_counts(world);
    for (int i = 0; i < COUNT_END && model_steps >= TELLING_STEPS; i++) {
        if (world->counts[i] == 0)
            fail_msg("never happened: %s", world_count_name((enum world_count)i));
    }
}

/* A judge that never objects would let every walk pass: each of these must be noticed. */
static void break_promotion(int how, struct change *change)
{
    switch (how) {
    case 0:
        change->n_events = 0;
        break;
    case 1:
        change->n_deny = 0;
        break;
    case 2:
        change->events[0].type = EVENT_DEVICE_ROTATION_STARTED;
        break;
    case 3:
        change->next.generation++;
        break;
    case 4:
        change->next.current = *make_key(MAKE_OTHER_KEY);
        break;
    case 5:
        change->next.pending = *make_key(MAKE_PENDING_KEY);
        break;
    case 6:
        change->next.version++;
        break;
    case 7:
        change->next.n_leases = 0;
        break;
    case 8:
        change->events[0].new_key = *make_key(MAKE_OTHER_KEY);
        break;
    case 9:
        change->deny[0].until_ms = MAKE_NOW_MS;
        break;
    case 10:
        change->events[0].cut = CUT_NONE;
        break;
    default:
        change->n_allow = 1;
        break;
    }
}

static void the_judge_notices_every_broken_promotion(void **state)
{
    struct device_record record = make_pending_record();
    struct credentials credentials = make_credentials(MAKE_PENDING_KEY);
    struct admission_settings settings = {0};
    struct admission_input input = {&record, &credentials, {0}, &settings, MAKE_NOW_MS};
    struct cause cause = {
        .kind = CAUSE_ADMIT,
        .key = MAKE_PENDING_KEY,
        .handshake = HANDSHAKE_FULL,
        .certificate_expires_ms = credentials.certificate_expires_ms,
        .decided_ms = MAKE_NOW_MS,
    };
    struct history begun = {
        .current = MAKE_CURRENT_KEY,
        .pending = MAKE_PENDING_KEY,
        .generation = 4,
        .n_changes = 3,
        .first_seen = true,
    };
    static struct decision decision;
    struct commit commit = {&record, &decision.change, &cause, MAKE_NOW_MS};
    struct history history;

    snprintf(begun.rotation_id, sizeof(begun.rotation_id), "%s", record.rotation_id);
    snprintf(begun.group, sizeof(begun.group), "%s", record.group);
    history = begun;
    make_add_lease(&record, 1, MAKE_NOW_MS + 1);
    admission_decide(&input, &decision);
    assert_null(check_commit(&commit, &history));
    for (int how = 0; how < 12; how++) {
        history = begun;
        admission_decide(&input, &decision);
        break_promotion(how, &decision.change);
        if (check_commit(&commit, &history) == NULL)
            fail_msg("not noticed: %d", how);
    }
    cause.handshake = HANDSHAKE_RESUMED;
    history = begun;
    admission_decide(&input, &decision);
    assert_non_null(check_commit(&commit, &history));
}

static void model_read_number(const char *text, uint64_t *out_number)
{
    if (text != NULL && text[0] != '\0')
        *out_number = strtoull(text, NULL, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_judge_notices_every_broken_promotion),
        cmocka_unit_test(no_walk_violates_an_invariant),
    };

    model_read_number(getenv("DGW_MODEL_SEED"), &model_seed);
    model_read_number(getenv("DGW_MODEL_STEPS"), &model_steps);
    model_read_number(argc > 1 ? argv[1] : NULL, &model_seed);
    model_read_number(argc > 2 ? argv[2] : NULL, &model_steps);
    return cmocka_run_group_tests_name("policy_model", tests, NULL, NULL);
}
