/* SPDX-License-Identifier: BSD-2-Clause */
/* Announce, promote, cancel, accept, stall: each as a table of who asks in which state, and as
 * stories of what is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "policy/config_lock.h"
#include "policy/rotation.h"
#include "policy_make.h"

#define HOUR_MS INT64_C(3600000)
/* make_pending_record()'s rotation began an hour ago. */
#define BEFORE_ROTATION_MS (MAKE_NOW_MS - HOUR_MS)
#define AFTER_ROTATION_MS  (MAKE_NOW_MS - HOUR_MS + 1)

static const struct operator_act act = {"operator uid 0", "lost in the field", MAKE_NOW_MS};

enum device_state { NO_RECORD, STEADY, ROTATING, N_DEVICE_STATES };
enum leases { NONE, ENDED, ALIVE, N_LEASES };

static struct device_record device_in(enum device_state device, enum leases leases)
{
    struct device_record record = {0};

    if (device == STEADY)
        record = make_record();
    if (device == ROTATING)
        record = make_pending_record();
    if (leases != NONE && device != NO_RECORD)
        make_add_lease(&record, 1, leases == ENDED ? MAKE_NOW_MS : MAKE_NOW_MS + 1);
    return record;
}

static void assert_nothing_changes(const struct decision *decision)
{
    assert_false(decision->commits);
    assert_false(decision->change.writes_record);
    assert_int_equal(decision->change.n_deny, 0);
    assert_int_equal(decision->change.n_allow, 0);
    assert_int_equal(decision->change.n_events, 0);
}

/* One commit with this record and this event, and nothing on the deny-list. */
static void assert_changes(const struct decision *decision, const struct device_record *next,
                           const struct device_event *event)
{
    const struct change *change = &decision->change;

    assert_true(decision->commits);
    assert_true(change->writes_record);
    const char *difference = record_difference(&change->next, next);
    if (difference != NULL)
        fail_msg("record: %s differs", difference);
    assert_int_equal(change->n_deny, 0);
    assert_int_equal(change->n_allow, 0);
    assert_int_equal(change->n_events, 1);
    difference = event_difference(&change->events[0], event);
    if (difference != NULL)
        fail_msg("event: %s differs", difference);
}

/* Busy with config writes: all that changes is that somebody waits. */
static void assert_waits(const struct decision *decision, const struct device_record *record)
{
    struct device_record next = *record;

    next.version++;
    next.wanted_until_ms = MAKE_NOW_MS + 60000;
    assert_int_equal(decision->verdict, VERDICT_BUSY);
    assert_true(decision->commits && decision->change.writes_record);
    assert_int_equal(decision->change.n_events + decision->change.n_deny + decision->change.n_allow,
                     0);
    assert_null(record_difference(&decision->change.next, &next));
}

static void announce(const struct announcement *input, struct decision *out)
{
    memset(out, 0xA5, sizeof(*out));
    rotation_announce(input, out);
}

/* Which announcement gets which answer: the full cross product. */

struct announce_scene {
    enum device_state device;
    enum leases leases;
    unsigned denied;
    bool next_denied;
    int announcer, next;
    int64_t connected_ms;
};

static enum reason expected_answer(const struct announce_scene *s)
{
    const bool rotating = s->device == ROTATING;
    const struct {
        bool holds;
        enum reason reason;
    } rows[] = {
        {s->denied & 1, REASON_KEY_DENIED},
        {s->denied & 2, REASON_CERTIFICATE_DENIED},
        {s->denied & 4, REASON_DEVICE_DENIED},
        {s->device == NO_RECORD, REASON_NO_SUCH_DEVICE},
        {s->announcer != MAKE_CURRENT_KEY, REASON_KEY_NOT_CURRENT},
        {s->next == 0, REASON_NEXT_KEY_INVALID},
        {s->next == MAKE_CURRENT_KEY, REASON_KEY_IS_CURRENT},
        {s->next_denied, REASON_NEXT_KEY_DENIED},
        {rotating && s->next == MAKE_PENDING_KEY, REASON_ANNOUNCED_BEFORE},
        {rotating && s->connected_ms <= BEFORE_ROTATION_MS, REASON_ANNOUNCEMENT_OUTDATED},
        {s->leases == ALIVE, REASON_CONFIG_WRITES_BUSY},
        {rotating, REASON_ANNOUNCEMENT_REPLACED},
        {true, REASON_ANNOUNCED},
    };
    size_t i = 0;

    while (!rows[i].holds)
        i++;
    return rows[i].reason;
}

static enum verdict verdict_of_answer(enum reason reason)
{
    if (reason == REASON_CONFIG_WRITES_BUSY || reason == REASON_ANNOUNCEMENT_OUTDATED)
        return VERDICT_BUSY;
    return reason_status(reason) == 200 ? VERDICT_PASS : VERDICT_REFUSE;
}

static void announce_scene_check(const struct announce_scene *s)
{
    struct device_record record = device_in(s->device, s->leases);
    struct announcement input = {
        .record = &record,
        .announcer = &make_key(s->announcer)->id,
        .next = make_key(s->next),
        .denied = {s->denied & 1, s->denied & 2, s->denied & 4},
        .next_denied = s->next_denied,
        .connected_ms = s->connected_ms,
        .now_ms = MAKE_NOW_MS,
    };
    enum reason expected = expected_answer(s);
    struct decision decision;

    announce(&input, &decision);
    if (decision.reason != expected)
        fail_msg("%s, expected %s: device %d leases %d denied %u next_denied %d announcer %d next "
                 "%d connected %lld",
                 reason_wire(decision.reason), reason_wire(expected), (int)s->device,
                 (int)s->leases, s->denied, s->next_denied, s->announcer, s->next,
                 (long long)s->connected_ms);
    assert_int_equal(decision.verdict, verdict_of_answer(expected));
    if (expected == REASON_CONFIG_WRITES_BUSY)
        assert_waits(&decision, &record);
    else if (expected != REASON_ANNOUNCED && expected != REASON_ANNOUNCEMENT_REPLACED)
        assert_nothing_changes(&decision);
    else
        assert_true(decision.commits);
    assert_int_equal(decision.confirms, expected == REASON_ANNOUNCED_BEFORE);
}

static void every_announcement_gets_its_answer(void **state)
{
    static const int64_t connected[] = {0, BEFORE_ROTATION_MS, AFTER_ROTATION_MS};

    for (unsigned i = 0; i < 3 * 3 * 8 * 2 * 4 * 4 * 3; i++) {
        const struct announce_scene scene = {
            .device = (enum device_state)(i % 3),
            .leases = (enum leases)(i / 3 % 3),
            .denied = i / 9 % 8,
            .next_denied = i / 72 % 2,
            .announcer = (int)(i / 144 % 4),
            .next = (int)(i / 576 % 4),
            .connected_ms = connected[i / 2304],
        };
        announce_scene_check(&scene);
    }
}

static struct announcement an_announcement(const struct device_record *record, int next)
{
    return (struct announcement){
        .record = record,
        .announcer = &make_key(MAKE_CURRENT_KEY)->id,
        .next = make_key(next),
        .connected_ms = MAKE_NOW_MS - 5,
        .now_ms = MAKE_NOW_MS,
    };
}

static void an_announced_key_is_pending_under_a_new_rotation_id(void **state)
{
    struct device_record record = device_in(STEADY, ENDED);
    struct announcement input = an_announcement(&record, MAKE_OTHER_KEY);
    struct device_record next = make_record();
    struct device_event event = {
        .type = EVENT_DEVICE_ROTATION_STARTED,
        .device = MAKE_DEVICE,
        .at_ms = MAKE_NOW_MS,
        .old_key = *make_key(MAKE_CURRENT_KEY),
        .new_key = *make_key(MAKE_OTHER_KEY),
        .rotation_id = "certs-1700000000",
        .generation = 4,
        .group = "group-a",
        .why = REASON_OK,
    };
    struct decision decision;

    next.version++;
    next.pending = *make_key(MAKE_OTHER_KEY);
    next.pending_since_ms = MAKE_NOW_MS;
    snprintf(next.rotation_id, sizeof(next.rotation_id), "%s", "certs-1700000000");
    announce(&input, &decision);
    assert_changes(&decision, &next, &event);
}

static void a_replacing_announcement_begins_another_rotation(void **state)
{
    struct device_record record = device_in(ROTATING, ENDED);
    struct announcement input = an_announcement(&record, MAKE_OTHER_KEY);
    struct device_record next = make_record();
    struct device_event event = {
        .type = EVENT_DEVICE_ROTATION_REPLACED,
        .device = MAKE_DEVICE,
        .at_ms = MAKE_NOW_MS,
        .old_key = *make_key(MAKE_PENDING_KEY),
        .new_key = *make_key(MAKE_OTHER_KEY),
        .rotation_id = "certs-1700000000",
        .generation = 4,
        .group = "group-a",
        .why = REASON_OK,
    };
    struct decision decision;

    record.stalled = true;
    next.version++;
    next.pending = *make_key(MAKE_OTHER_KEY);
    next.pending_since_ms = MAKE_NOW_MS;
    snprintf(next.rotation_id, sizeof(next.rotation_id), "%s", "certs-1700000000");
    announce(&input, &decision);
    assert_changes(&decision, &next, &event);
}

/* Two keys within one second, or a clock that went back: the two rotations keep distinct ids. */
static void a_replaced_rotation_never_shares_its_id(void **state)
{
    static const struct {
        const char *replaced, *expected;
    } cases[] = {
        {"certs-1699999999", "certs-1700000000"}, {"certs-1700000000", "certs-1700000001"},
        {"certs-1700000007", "certs-1700000008"}, {"", "certs-1700000000"},
        {"something-else", "certs-1700000000"},   {"certs-", "certs-1700000000"},
    };
    struct decision decision;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct device_record record = device_in(ROTATING, NONE);
        struct announcement input = an_announcement(&record, MAKE_OTHER_KEY);

        snprintf(record.rotation_id, sizeof(record.rotation_id), "%s", cases[i].replaced);
        announce(&input, &decision);
        assert_string_equal(decision.change.next.rotation_id, cases[i].expected);
        assert_string_equal(decision.change.events[0].rotation_id, cases[i].expected);
    }
}

static void rotation_ids_fit_at_any_time(void **state)
{
    static const int64_t times[] = {INT64_MIN, -1, 0, 999, 1000, INT64_MAX};
    static const char *const ids[] = {
        "certs--9223372036854775", "certs-0", "certs-0", "certs-0", "certs-1",
        "certs-9223372036854775"};
    struct device_record record = device_in(STEADY, NONE);
    struct announcement input = an_announcement(&record, MAKE_OTHER_KEY);
    struct decision decision;

    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        input.now_ms = times[i];
        announce(&input, &decision);
        assert_string_equal(decision.change.next.rotation_id, ids[i]);
    }
}

/* The device announced key 3 and crashed before the gateway, which was stopped, looked at it. It
 * came back, announced key 2, had its 200 and destroyed the old key. Were key 3 to replace key 2
 * now, no key that the device holds would be admitted ever again. */
static void an_announcement_from_before_the_rotation_cannot_lock_the_device_out(void **state)
{
    struct device_record record = device_in(ROTATING, NONE);
    struct announcement input = an_announcement(&record, MAKE_OTHER_KEY);
    struct decision decision;

    input.connected_ms = record.pending_since_ms - 1;
    announce(&input, &decision);
    assert_int_equal(decision.verdict, VERDICT_BUSY);
    assert_int_equal(decision.reason, REASON_ANNOUNCEMENT_OUTDATED);
    assert_nothing_changes(&decision);

    /* Nor while write leases are alive: waiting for them would not help this one. */
    make_add_lease(&record, 1, INT64_MAX);
    announce(&input, &decision);
    assert_int_equal(decision.reason, REASON_ANNOUNCEMENT_OUTDATED);
}

static struct admission_settings open_settings(void)
{
    return (struct admission_settings){.registration = REGISTRATION_OPEN};
}

static void promotion_denies_the_old_key_and_says_so_once(void **state)
{
    struct device_record record = device_in(ROTATING, ALIVE);
    struct credentials credentials = make_credentials(MAKE_PENDING_KEY);
    struct admission_settings settings = open_settings();
    struct admission_input input = {&record, &credentials, {0}, &settings, MAKE_NOW_MS};
    struct decision decision;

    credentials.certificate_expires_ms = MAKE_NOW_MS + 7;
    memset(&decision, 0xA5, sizeof(decision));
    rotation_promote(&input, &decision);
    assert_int_equal(decision.verdict, VERDICT_PASS);
    assert_int_equal(decision.reason, REASON_PROMOTED);

    const struct device_record *next = &decision.change.next;
    assert_int_equal(next->generation, 5);
    assert_true(pubkey_equal(&next->current, make_key(MAKE_PENDING_KEY)));
    assert_false(record_rotation_pending(next));
    assert_true(next->current_since_ms == MAKE_NOW_MS);
    assert_true(next->current_cert_expires_ms == MAKE_NOW_MS + 7);
    /* The device's own write for the next key goes on. */
    assert_int_equal(next->n_leases, 1);

    assert_int_equal(decision.change.n_deny, 1);
    assert_string_equal(decision.change.deny[0].id, make_key(MAKE_CURRENT_KEY)->id.hex);
    assert_true(decision.change.deny[0].until_ms == record.current_cert_expires_ms);
    assert_int_equal(decision.change.n_events, 1);
    assert_int_equal(decision.change.events[0].type, EVENT_DEVICE_PUBKEY_CHANGE);

    /* A repeat finds it done. */
    record = *next;
    admission_decide(&input, &decision);
    assert_int_equal(decision.reason, REASON_ADMITTED);
    assert_nothing_changes(&decision);
}

static void only_the_proven_pending_key_is_promoted(void **state)
{
    struct device_record record = device_in(ROTATING, NONE);
    struct credentials credentials = make_credentials(MAKE_PENDING_KEY);
    struct admission_settings settings = open_settings();
    struct admission_input input = {&record, &credentials, {0}, &settings, MAKE_NOW_MS};
    struct decision decision;

    credentials.handshake = HANDSHAKE_RESUMED;
    rotation_promote(&input, &decision);
    assert_int_equal(decision.reason, REASON_KEY_NOT_PROVEN);
    assert_int_equal(decision.verdict, VERDICT_REFUSE);
    assert_nothing_changes(&decision);

    credentials = make_credentials(MAKE_OTHER_KEY);
    rotation_promote(&input, &decision);
    assert_int_equal(decision.reason, REASON_KEY_NOT_PROVEN);

    record = device_in(STEADY, NONE);
    credentials = make_credentials(0);
    rotation_promote(&input, &decision);
    assert_int_equal(decision.reason, REASON_KEY_NOT_PROVEN);
}

static void the_old_key_is_denied_for_ever_when_no_end_is_known(void **state)
{
    static const struct {
        int64_t seen_ms, until_ms;
    } cases[] = {
        {0, 0},
        {1, 0},
        {MAKE_NOW_MS - 1, 0},
        {MAKE_NOW_MS, 0},
        {MAKE_NOW_MS + 1, MAKE_NOW_MS + 1},
        {INT64_MAX, INT64_MAX},
    };
    struct device_record record = device_in(ROTATING, NONE);
    struct credentials credentials = make_credentials(MAKE_PENDING_KEY);
    struct admission_settings settings = open_settings();
    struct admission_input input = {&record, &credentials, {0}, &settings, MAKE_NOW_MS};
    struct decision decision;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        record.current_cert_expires_ms = cases[i].seen_ms;
        rotation_promote(&input, &decision);
        assert_true(decision.change.deny[0].until_ms == cases[i].until_ms);
        assert_true(decision.change.deny[0].keeps_longer);
    }
}

static void every_cancellation_gets_its_answer(void **state)
{
    static const char *const reasons[] = {NULL, "", " \t\r\n", " because "};

    for (int device = NO_RECORD; device < N_DEVICE_STATES; device++) {
        for (int leases = NONE; leases < N_LEASES; leases++) {
            for (int why = 0; why < 4; why++) {
                struct device_record record =
                    device_in((enum device_state)device, (enum leases)leases);
                struct operator_act asked = {"operator uid 0", reasons[why], MAKE_NOW_MS};
                struct decision decision;
                enum reason expected = why != 3              ? REASON_REASON_REQUIRED
                                       : device == NO_RECORD ? REASON_NO_SUCH_DEVICE
                                       : device == STEADY    ? REASON_NO_ROTATION_PENDING
                                       : leases == ALIVE     ? REASON_CONFIG_WRITES_BUSY
                                                             : REASON_CANCELLED;

                memset(&decision, 0xA5, sizeof(decision));
                rotation_cancel(&record, &asked, &decision);
                assert_int_equal(decision.reason, expected);
                assert_int_equal(decision.verdict, verdict_of_answer(expected));
                if (expected == REASON_CONFIG_WRITES_BUSY)
                    assert_waits(&decision, &record);
                else if (expected != REASON_CANCELLED)
                    assert_nothing_changes(&decision);
            }
        }
    }
}

static void a_cancelled_rotation_leaves_no_trace_but_the_event(void **state)
{
    struct device_record record = device_in(ROTATING, ENDED);
    struct device_record next = make_record();
    struct device_event event = {
        .type = EVENT_DEVICE_ROTATION_CANCELLED,
        .device = MAKE_DEVICE,
        .at_ms = MAKE_NOW_MS,
        .old_key = *make_key(MAKE_PENDING_KEY),
        .rotation_id = "certs-1699996400",
        .generation = 4,
        .group = "group-a",
        .why = REASON_OK,
        .reason = "lost in the field",
        .origin = "operator uid 0",
    };
    struct decision decision;

    record.stalled = true;
    next.version++;
    memset(&decision, 0xA5, sizeof(decision));
    rotation_cancel(&record, &act, &decision);
    assert_changes(&decision, &next, &event);
}

static struct key_acceptance an_acceptance(const struct device_record *record, int key)
{
    return (struct key_acceptance){
        .record = record,
        .device = MAKE_DEVICE,
        .key = make_key(key),
        .act = act,
    };
}

static void accept(const struct key_acceptance *input, struct decision *out)
{
    memset(out, 0xA5, sizeof(*out));
    rotation_accept_key(input, out);
}

struct acceptance_scene {
    enum device_state device;
    enum leases leases;
    int key;
    bool key_denied, says_why, names_device;
};

static enum reason expected_acceptance(const struct acceptance_scene *s)
{
    const struct {
        bool holds;
        enum reason reason;
    } rows[] = {
        {!s->says_why, REASON_REASON_REQUIRED},
        {s->key == 0, REASON_NEXT_KEY_INVALID},
        {s->device == NO_RECORD && !s->names_device, REASON_DEVICE_NAME_INVALID},
        {s->device != NO_RECORD && s->key == MAKE_CURRENT_KEY, REASON_KEY_IS_CURRENT},
        {s->key_denied, REASON_NEXT_KEY_DENIED},
        {s->device == NO_RECORD, REASON_KEY_REGISTERED},
        {s->device == ROTATING && s->key == MAKE_PENDING_KEY, REASON_ANNOUNCED_BEFORE},
        {s->leases == ALIVE, REASON_CONFIG_WRITES_BUSY},
        {true, REASON_KEY_ACCEPTED},
    };
    size_t i = 0;

    while (!rows[i].holds)
        i++;
    return rows[i].reason;
}

static void every_acceptance_gets_its_answer(void **state)
{
    for (unsigned i = 0; i < 3 * 3 * 4 * 2 * 2 * 2; i++) {
        const struct acceptance_scene scene = {
            .device = (enum device_state)(i % 3),
            .leases = (enum leases)(i / 3 % 3),
            .key = (int)(i / 9 % 4),
            .key_denied = i / 36 % 2,
            .says_why = i / 72 % 2,
            .names_device = i / 144,
        };
        struct device_record record = device_in(scene.device, scene.leases);
        struct key_acceptance input = an_acceptance(&record, scene.key);
        enum reason expected = expected_acceptance(&scene);
        struct decision decision;

        input.key_denied = scene.key_denied;
        input.act.reason = scene.says_why ? "found again" : "";
        input.device = scene.names_device ? MAKE_DEVICE : "..";
        accept(&input, &decision);
        assert_int_equal(decision.reason, expected);
        assert_int_equal(decision.verdict, verdict_of_answer(expected));
        if (expected == REASON_CONFIG_WRITES_BUSY)
            assert_waits(&decision, &record);
        else if (expected != REASON_KEY_REGISTERED && expected != REASON_KEY_ACCEPTED)
            assert_nothing_changes(&decision);
    }
}

static void an_accepted_key_of_a_known_device_has_to_be_proven(void **state)
{
    static const enum device_state devices[] = {STEADY, ROTATING};
    struct device_event event = {
        .type = EVENT_DEVICE_KEY_ACCEPTED,
        .device = MAKE_DEVICE,
        .at_ms = MAKE_NOW_MS,
        .old_key = *make_key(MAKE_CURRENT_KEY),
        .new_key = *make_key(MAKE_OTHER_KEY),
        .rotation_id = "certs-1700000000",
        .generation = 4,
        .group = "group-a",
        .why = REASON_OK,
        .reason = "lost in the field",
        .origin = "operator uid 0",
    };
    struct decision decision;

    for (size_t i = 0; i < 2; i++) {
        struct device_record record = device_in(devices[i], ENDED);
        struct device_record next = make_record();
        struct key_acceptance input = an_acceptance(&record, MAKE_OTHER_KEY);

        record.stalled = devices[i] == ROTATING;
        next.version++;
        next.pending = *make_key(MAKE_OTHER_KEY);
        next.pending_since_ms = MAKE_NOW_MS;
        snprintf(next.rotation_id, sizeof(next.rotation_id), "%s", "certs-1700000000");
        accept(&input, &decision);
        assert_changes(&decision, &next, &event);
    }
}

static void an_accepted_key_registers_an_unknown_device(void **state)
{
    struct device_record none = {0};
    struct key_acceptance input = an_acceptance(&none, MAKE_OTHER_KEY);
    struct device_record next = {
        .version = 1,
        .name = MAKE_DEVICE,
        .generation = 1,
        .current = *make_key(MAKE_OTHER_KEY),
        .current_since_ms = MAKE_NOW_MS,
    };
    struct device_event event = {
        .type = EVENT_DEVICE_KEY_ACCEPTED,
        .device = MAKE_DEVICE,
        .at_ms = MAKE_NOW_MS,
        .new_key = *make_key(MAKE_OTHER_KEY),
        .generation = 1,
        .why = REASON_OK,
        .reason = "lost in the field",
        .origin = "operator uid 0",
    };
    struct decision decision;

    accept(&input, &decision);
    assert_changes(&decision, &next, &event);
}

static void a_rotation_stalls_once_and_only_beyond_its_limit(void **state)
{
    static const struct {
        enum device_state device;
        bool marked;
        int64_t limit_ms, now_ms;
        bool stalls;
    } cases[] = {
        {ROTATING, false, HOUR_MS, MAKE_NOW_MS, false},
        {ROTATING, false, HOUR_MS, MAKE_NOW_MS + 1, true},
        {ROTATING, true, HOUR_MS, MAKE_NOW_MS + 1, false},
        {ROTATING, false, 0, INT64_MAX, false},
        {ROTATING, false, -1, INT64_MAX, false},
        {ROTATING, false, INT64_MAX, INT64_MAX, false},
        {ROTATING, false, HOUR_MS, INT64_MIN, false},
        {STEADY, false, HOUR_MS, INT64_MAX, false},
        {NO_RECORD, false, HOUR_MS, INT64_MAX, false},
    };
    struct decision decision;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct device_record record = device_in(cases[i].device, NONE);

        record.stalled = cases[i].marked;
        memset(&decision, 0xA5, sizeof(decision));
        rotation_mark_stalled(&record, cases[i].limit_ms, cases[i].now_ms, &decision);
        assert_int_equal(decision.verdict, cases[i].stalls ? VERDICT_PASS : VERDICT_REFUSE);
        assert_int_equal(decision.reason,
                         cases[i].stalls ? REASON_ROTATION_STALLED : REASON_NO_ROTATION_PENDING);
        if (!cases[i].stalls)
            assert_nothing_changes(&decision);
    }
}

static void a_stalled_rotation_stays_pending(void **state)
{
    struct device_record record = device_in(ROTATING, ALIVE);
    struct device_record next = record;
    struct device_event event = {
        .type = EVENT_DEVICE_ROTATION_STALLED,
        .device = MAKE_DEVICE,
        .at_ms = MAKE_NOW_MS,
        .old_key = *make_key(MAKE_CURRENT_KEY),
        .new_key = *make_key(MAKE_PENDING_KEY),
        .rotation_id = "certs-1699996400",
        .generation = 4,
        .group = "group-a",
        .why = REASON_OK,
    };
    struct decision decision;

    next.version++;
    next.stalled = true;
    memset(&decision, 0xA5, sizeof(decision));
    rotation_mark_stalled(&record, 1, MAKE_NOW_MS, &decision);
    assert_changes(&decision, &next, &event);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_announcement_gets_its_answer),
        cmocka_unit_test(an_announced_key_is_pending_under_a_new_rotation_id),
        cmocka_unit_test(a_replacing_announcement_begins_another_rotation),
        cmocka_unit_test(a_replaced_rotation_never_shares_its_id),
        cmocka_unit_test(rotation_ids_fit_at_any_time),
        cmocka_unit_test(an_announcement_from_before_the_rotation_cannot_lock_the_device_out),
        cmocka_unit_test(promotion_denies_the_old_key_and_says_so_once),
        cmocka_unit_test(only_the_proven_pending_key_is_promoted),
        cmocka_unit_test(the_old_key_is_denied_for_ever_when_no_end_is_known),
        cmocka_unit_test(every_cancellation_gets_its_answer),
        cmocka_unit_test(a_cancelled_rotation_leaves_no_trace_but_the_event),
        cmocka_unit_test(every_acceptance_gets_its_answer),
        cmocka_unit_test(an_accepted_key_of_a_known_device_has_to_be_proven),
        cmocka_unit_test(an_accepted_key_registers_an_unknown_device),
        cmocka_unit_test(a_rotation_stalls_once_and_only_beyond_its_limit),
        cmocka_unit_test(a_stalled_rotation_stays_pending),
    };

    return cmocka_run_group_tests_name("rotation", tests, NULL, NULL);
}
