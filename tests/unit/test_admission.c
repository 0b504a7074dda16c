/* SPDX-License-Identifier: BSD-2-Clause */
/* Admission. The first test walks the full cross product of everything that the decision depends on
 * and compares verdict, reason, next record, denial and event with an expectation that is written
 * here a second time, from the design's table; the others are single stories. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "policy/rotation.h"
#include "policy_make.h"

#define HOUR_MS INT64_C(3600000)

enum known { UNKNOWN_DEVICE, STEADY, ROTATING, ROTATING_FOR_LONG, MARKED_STALLED, N_KNOWN };
enum expiry { VALID, IN_GRACE, BEYOND_GRACE, EXPIRED_WITHOUT_GRACE, N_EXPIRY };
enum age { NO_LIMITS, FRESH, DUE, OVERDUE, N_AGE };
enum history { SEEN, SEEN_WITH_LATER_CERTIFICATE, NEVER_SEEN, N_HISTORY };

static const int key_numbers[] = {0, MAKE_CURRENT_KEY, MAKE_PENDING_KEY, MAKE_OTHER_KEY};

struct scene {
    unsigned denied; /* 1: key, 2: certificate, 4: device */
    enum issuer_state issuer;
    enum known known;
    enum registration registration;
    int key;
    enum handshake handshake;
    enum expiry expiry;
    enum age age;
    enum key_age_action action;
    enum history history;
    bool logs_refusals;
};

struct stage {
    struct device_record record;
    struct credentials credentials;
    struct admission_settings settings;
    struct admission_input input;
};

static const int64_t expires_ms[N_EXPIRY] = {
    [VALID] = MAKE_NOW_MS + 1,
    [IN_GRACE] = MAKE_NOW_MS - HOUR_MS + 1,
    [BEYOND_GRACE] = MAKE_NOW_MS - HOUR_MS,
    [EXPIRED_WITHOUT_GRACE] = MAKE_NOW_MS,
};

static const struct key_age_settings age_limits[N_AGE] = {
    [NO_LIMITS] = {0},
    [FRESH] = {.due_after_ms = 10 * MAKE_DAY_MS + 1, .overdue_after_ms = 20 * MAKE_DAY_MS},
    [DUE] = {.due_after_ms = 10 * MAKE_DAY_MS, .overdue_after_ms = 10 * MAKE_DAY_MS + 1},
    [OVERDUE] = {.due_after_ms = MAKE_DAY_MS, .overdue_after_ms = 10 * MAKE_DAY_MS},
};

static struct device_record scene_record(const struct scene *s)
{
    struct device_record record = {0};

    if (s->known == UNKNOWN_DEVICE)
        return record;
    record = s->known == STEADY ? make_record() : make_pending_record();
    record.stalled = s->known == MARKED_STALLED;
    if (s->known == ROTATING)
        record.pending_since_ms = MAKE_NOW_MS - 3 * HOUR_MS; /* exactly the limit is not beyond */
    if (s->known == ROTATING_FOR_LONG)
        record.pending_since_ms = MAKE_NOW_MS - 3 * HOUR_MS - 1;
    record.current_cert_expires_ms =
        expires_ms[s->expiry] - (s->history == SEEN_WITH_LATER_CERTIFICATE ? 1 : 0);
    if (s->history == NEVER_SEEN) {
        record.first_seen_ms = 0;
        record.factory[0] = '\0';
        record.production = false;
        record.current_cert_expires_ms = 0;
    }
    make_add_lease(&record, 1, MAKE_NOW_MS);
    make_add_lease(&record, 2, MAKE_NOW_MS + 1);
    return record;
}

static void scene_build(const struct scene *s, struct stage *out)
{
    out->record = scene_record(s);
    out->credentials = make_credentials(s->key);
    out->credentials.issuer = s->issuer;
    out->credentials.handshake = s->handshake;
    out->credentials.certificate_expires_ms = expires_ms[s->expiry];
    out->settings = (struct admission_settings){
        .registration = s->registration,
        .rules.fleet.expired_grace_ms = s->expiry == EXPIRED_WITHOUT_GRACE ? 0 : HOUR_MS,
        .stalled_after_ms = 3 * HOUR_MS,
        .refused_event_every_ms = s->logs_refusals ? HOUR_MS : 0,
        .rules.fleet.key_age = age_limits[s->age],
    };
    out->settings.rules.fleet.key_age.action = s->action;
    out->input = (struct admission_input){
        .record = &out->record,
        .credentials = &out->credentials,
        .denied = {s->denied & 1, s->denied & 2, s->denied & 4},
        .settings = &out->settings,
        .now_ms = MAKE_NOW_MS,
    };
}

/* The expectation: the first row whose condition holds. */
static enum reason expected_reason(const struct scene *s)
{
    const bool known = s->known != UNKNOWN_DEVICE;
    const bool rotating = known && s->known != STEADY;
    const bool is_current = known && s->key == MAKE_CURRENT_KEY;
    const bool is_pending = rotating && s->key == MAKE_PENDING_KEY;
    const struct {
        bool holds;
        enum reason reason;
    } rows[] = {
        {s->denied & 1, REASON_KEY_DENIED},
        {s->denied & 2, REASON_CERTIFICATE_DENIED},
        {s->denied & 4, REASON_DEVICE_DENIED},
        {s->issuer == ISSUER_STATE_UNKNOWN, REASON_ISSUER_UNKNOWN},
        {s->issuer == ISSUER_STATE_REVOKED, REASON_ISSUER_REVOKED},
        {s->issuer == ISSUER_STATE_DISABLED && !known, REASON_ISSUER_DISABLED},
        {s->key == 0, REASON_CERTIFICATE_MISSING},
        {!known && s->registration == REGISTRATION_CLOSED, REASON_DEVICE_UNKNOWN},
        {!known && s->expiry != VALID, REASON_CERTIFICATE_EXPIRED},
        {!known, REASON_REGISTERED},
        {!is_current && !is_pending, REASON_KEY_NOT_ANNOUNCED},
        {is_pending && s->expiry != VALID, REASON_CERTIFICATE_EXPIRED},
        {is_pending && s->handshake == HANDSHAKE_RESUMED, REASON_KEY_NOT_PROVEN},
        {is_pending, REASON_PROMOTED},
        {s->expiry >= BEYOND_GRACE, REASON_CERTIFICATE_EXPIRED},
        {s->age == OVERDUE && s->action == KEY_AGE_REFUSE, REASON_KEY_AGE_OVERDUE},
        {s->expiry == IN_GRACE, REASON_CERTIFICATE_EXPIRED_QUARANTINE},
        {s->age == OVERDUE && s->action == KEY_AGE_QUARANTINE, REASON_KEY_AGE_QUARANTINE},
        {true, REASON_ADMITTED},
    };
    size_t i = 0;

    while (!rows[i].holds)
        i++;
    return rows[i].reason;
}

static enum verdict expected_verdict(enum reason reason)
{
    if (reason == REASON_ADMITTED || reason == REASON_REGISTERED || reason == REASON_PROMOTED)
        return VERDICT_PASS;
    if (reason == REASON_KEY_AGE_QUARANTINE || reason == REASON_CERTIFICATE_EXPIRED_QUARANTINE)
        return VERDICT_QUARANTINE;
    return VERDICT_REFUSE;
}

/* What has to be written; version 0: no record is. */
static struct device_record expected_record(const struct stage *stage, const struct scene *s,
                                            enum reason reason)
{
    struct device_record next = stage->record;

    if (reason == REASON_REGISTERED) {
        snprintf(next.name, sizeof(next.name), "%s", MAKE_DEVICE);
        next.generation = 1;
        next.current = *make_key(s->key);
        next.current_since_ms = MAKE_NOW_MS;
    } else if (reason == REASON_PROMOTED) {
        next.generation++;
        next.current = *make_key(MAKE_PENDING_KEY);
        next.current_since_ms = MAKE_NOW_MS;
        next.pending = *make_key(0);
        next.pending_since_ms = 0;
        next.rotation_id[0] = '\0';
        next.stalled = false;
    } else if (expected_verdict(reason) == VERDICT_REFUSE ||
               (s->known != ROTATING_FOR_LONG && s->history == SEEN)) {
        next.version = 0;
        return next;
    } else if (s->known == ROTATING_FOR_LONG) {
        next.stalled = true;
    }

    bool learns =
        s->history == NEVER_SEEN && reason != REASON_PROMOTED && s->known != ROTATING_FOR_LONG;
    if (reason == REASON_REGISTERED || learns) {
        next.first_seen_ms = MAKE_NOW_MS;
        snprintf(next.factory, sizeof(next.factory), "%s", "factory-7");
        next.production = true;
    }
    next.version++;
    next.current_cert_expires_ms = expires_ms[s->expiry];
    if (next.n_leases > 0) {
        next.n_leases = 1;
        next.leases[0] = next.leases[1];
    }
    return next;
}

static struct device_event event_of_device(const struct stage *stage, enum event_type type)
{
    struct device_event event = {
        .type = type,
        .device = MAKE_DEVICE,
        .at_ms = MAKE_NOW_MS,
        .generation = stage->record.generation,
        .why = REASON_OK,
    };

    snprintf(event.group, sizeof(event.group), "%s", stage->record.group);
    snprintf(event.rotation_id, sizeof(event.rotation_id), "%s", stage->record.rotation_id);
    return event;
}

/* The event that must come with it; false when there is none. */
static bool expected_event(const struct stage *stage, const struct scene *s, enum reason reason,
                           struct device_event *out)
{
    bool admitted = expected_verdict(reason) != VERDICT_REFUSE;

    if (reason == REASON_KEY_NOT_ANNOUNCED && s->logs_refusals) {
        *out = event_of_device(stage, EVENT_DEVICE_KEY_REFUSED);
        out->new_key = *make_key(s->key);
        out->why = REASON_KEY_NOT_ANNOUNCED;
        out->once_in_ms = HOUR_MS;
    } else if (reason == REASON_PROMOTED) {
        *out = event_of_device(stage, EVENT_DEVICE_PUBKEY_CHANGE);
        out->old_key = *make_key(MAKE_CURRENT_KEY);
        out->new_key = *make_key(MAKE_PENDING_KEY);
        out->generation++;
        out->cut = CUT_DRAIN;
        out->cut_kind = DENY_KEY;
        snprintf(out->cut_id, sizeof(out->cut_id), "%s", make_key(MAKE_CURRENT_KEY)->id.hex);
    } else if (admitted && s->known == ROTATING_FOR_LONG) {
        *out = event_of_device(stage, EVENT_DEVICE_ROTATION_STALLED);
        out->old_key = *make_key(MAKE_CURRENT_KEY);
        out->new_key = *make_key(MAKE_PENDING_KEY);
    } else if (reason == REASON_REGISTERED || (admitted && s->history == NEVER_SEEN)) {
        *out = event_of_device(stage, EVENT_DEVICE_FIRST_SEEN);
        out->new_key = *make_key(s->key);
        if (reason == REASON_REGISTERED)
            out->generation = 1;
    } else {
        return false;
    }
    return true;
}

static const char *denial_difference(const struct stage *stage, const struct denial *denial)
{
    int64_t until_ms = stage->record.current_cert_expires_ms;

    if (denial->kind != DENY_KEY || strcmp(denial->id, make_key(MAKE_CURRENT_KEY)->id.hex) != 0)
        return "denied thing";
    if (strcmp(denial->device, MAKE_DEVICE) != 0 || !denial->keeps_longer)
        return "denial's device or strength";
    if (strcmp(denial->origin, "rotation certs-1699996400") != 0 || denial->reason[0] == '\0')
        return "denial's origin or reason";
    if (denial->at_ms != MAKE_NOW_MS || denial->until_ms != (until_ms > MAKE_NOW_MS ? until_ms : 0))
        return "denial's times";
    return NULL;
}

static const char *decision_difference(const struct stage *stage, const struct scene *s,
                                       const struct decision *decision)
{
    const struct change *change = &decision->change;
    enum reason reason = expected_reason(s);
    struct device_record next;
    struct device_event event;

    if (decision->reason != reason || decision->verdict != expected_verdict(reason))
        return "verdict";
    if (change->n_allow != 0 || change->n_deny != (reason == REASON_PROMOTED))
        return "number of deny-list entries";
    if (change->n_deny == 1 && denial_difference(stage, &change->deny[0]) != NULL)
        return denial_difference(stage, &change->deny[0]);

    bool has_event = expected_event(stage, s, reason, &event);
    if (change->n_events != has_event)
        return "number of events";
    if (has_event && event_difference(&change->events[0], &event) != NULL)
        return event_difference(&change->events[0], &event);

    next = expected_record(stage, s, reason);
    if (change->writes_record != (next.version != 0) ||
        decision->commits != (change->writes_record || has_event))
        return "commits";
    return change->writes_record ? record_difference(&change->next, &next) : NULL;
}

static void scene_check(const struct scene *s)
{
    static struct stage stage;
    static struct decision decision;

    scene_build(s, &stage);
    admission_decide(&stage.input, &decision);
    const char *difference = decision_difference(&stage, s, &decision);
    if (difference != NULL)
        fail_msg("%s differs (reason %s, expected %s): denied %u issuer %d known %d registration "
                 "%d key %d handshake %d expiry %d age %d action %d history %d logs %d",
                 difference, reason_wire(decision.reason), reason_wire(expected_reason(s)),
                 s->denied, (int)s->issuer, (int)s->known, (int)s->registration, s->key,
                 (int)s->handshake, (int)s->expiry, (int)s->age, (int)s->action, (int)s->history,
                 s->logs_refusals);
}

/* Takes the digit of the next dimension off a scene's number. */
static unsigned digit(uint64_t *number, unsigned base)
{
    unsigned value = (unsigned)(*number % base);

    *number /= base;
    return value;
}

static void every_combination_meets_the_table(void **state)
{
    const uint64_t n = UINT64_C(8) * 4 * N_KNOWN * 2 * 4 * 2 * N_EXPIRY * N_AGE * 4 * N_HISTORY * 2;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t rest = i;
        struct scene scene = {
            .denied = digit(&rest, 8),
            .issuer = (enum issuer_state)digit(&rest, 4),
            .known = (enum known)digit(&rest, N_KNOWN),
            .registration = (enum registration)digit(&rest, 2),
            .key = key_numbers[digit(&rest, 4)],
            .handshake = (enum handshake)digit(&rest, 2),
            .expiry = (enum expiry)digit(&rest, N_EXPIRY),
            .age = (enum age)digit(&rest, N_AGE),
            .action = (enum key_age_action)digit(&rest, 4),
            .history = (enum history)digit(&rest, N_HISTORY),
            .logs_refusals = digit(&rest, 2),
        };
        scene_check(&scene);
    }
}

static void decide(struct stage *stage, struct decision *out)
{
    memset(out, 0xA5, sizeof(*out));
    admission_decide(&stage->input, out);
}

/* A scene in which everything is in order; the stories below spoil it. */
static struct scene calm_scene(enum known known, int key)
{
    return (struct scene){
        .issuer = ISSUER_STATE_ACTIVE,
        .known = known,
        .registration = REGISTRATION_OPEN,
        .key = key,
        .handshake = HANDSHAKE_FULL,
    };
}

static void zeroed_inputs_let_nobody_in(void **state)
{
    struct device_record record = {0};
    struct credentials credentials = {0};
    struct admission_settings settings = {0};
    struct admission_input input = {&record, &credentials, {0}, &settings, 0};
    struct decision decision;

    admission_decide(&input, &decision);
    assert_int_equal(decision.verdict, VERDICT_REFUSE);
    assert_false(decision.commits);

    credentials = make_credentials(MAKE_OTHER_KEY);
    credentials.certificate_expires_ms = 0;
    settings.registration = REGISTRATION_OPEN;
    admission_decide(&input, &decision);
    assert_int_equal(decision.reason, REASON_CERTIFICATE_EXPIRED);
}

static void a_known_device_under_its_current_key_writes_nothing(void **state)
{
    struct scene scene = calm_scene(ROTATING, MAKE_CURRENT_KEY);
    struct decision decision;
    struct stage stage;

    scene_build(&scene, &stage);
    decide(&stage, &decision);
    assert_int_equal(decision.reason, REASON_ADMITTED);
    assert_false(decision.commits);
    /* The record was not even copied: this is the way of nearly every connection. */
    assert_int_equal((unsigned char)decision.change.next.name[0], 0xA5);
}

/* A promotion that too few replicas had in time was answered 503, and the device that came again was
 * let in although still none had it. */
static void an_admission_soon_after_a_promotion_confirms_it(void **state)
{
    const struct scene scene = {.issuer = ISSUER_STATE_ACTIVE,
                                .known = STEADY,
                                .key = MAKE_CURRENT_KEY,
                                .handshake = HANDSHAKE_RESUMED};
    struct stage stage;
    struct decision decision;

    scene_build(&scene, &stage);
    stage.record.current_since_ms = MAKE_NOW_MS - ADMISSION_CONFIRMS_MS + 1;
    admission_decide(&stage.input, &decision);
    assert_int_equal(decision.reason, REASON_ADMITTED);
    assert_true(decision.confirms && !decision.commits);
    stage.input.now_ms++;
    stage.credentials.certificate_expires_ms++;
    admission_decide(&stage.input, &decision);
    assert_false(decision.confirms);
}

static void a_record_of_another_device_admits_nobody(void **state)
{
    struct scene scene = calm_scene(STEADY, MAKE_CURRENT_KEY);
    struct decision decision;
    struct stage stage;

    scene_build(&scene, &stage);
    snprintf(stage.record.name, sizeof(stage.record.name), "%s", "another-device");
    decide(&stage, &decision);
    assert_int_equal(decision.verdict, VERDICT_REFUSE);
    assert_int_equal(decision.reason, REASON_STORE_RECORD_INVALID);
}

static void a_name_that_is_no_path_segment_registers_nothing(void **state)
{
    static const char *const names[] = {"", ".", "..", "a/b", "a b"};
    struct scene scene = calm_scene(UNKNOWN_DEVICE, MAKE_OTHER_KEY);
    struct decision decision;
    struct stage stage;

    scene_build(&scene, &stage);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(stage.credentials.device, sizeof(stage.credentials.device), "%s", names[i]);
        decide(&stage, &decision);
        assert_int_equal(decision.reason, REASON_CERTIFICATE_IDENTITY);
        assert_false(decision.commits);
    }
}

static void values_outside_their_enums_are_refused(void **state)
{
    struct scene scene = calm_scene(STEADY, MAKE_CURRENT_KEY);
    struct decision decision;
    struct stage stage;

    scene_build(&scene, &stage);
    stage.credentials.issuer = (enum issuer_state)9;
    decide(&stage, &decision);
    assert_int_equal(decision.reason, REASON_ISSUER_UNKNOWN);

    scene = calm_scene(UNKNOWN_DEVICE, MAKE_CURRENT_KEY);
    scene_build(&scene, &stage);
    stage.settings.registration = (enum registration)9;
    decide(&stage, &decision);
    assert_int_equal(decision.reason, REASON_DEVICE_UNKNOWN);

    scene = calm_scene(ROTATING, MAKE_PENDING_KEY);
    scene_build(&scene, &stage);
    stage.credentials.handshake = (enum handshake)9;
    decide(&stage, &decision);
    assert_int_equal(decision.reason, REASON_KEY_NOT_PROVEN);
}

static void a_first_connection_keeps_the_later_expiry(void **state)
{
    struct scene scene = calm_scene(STEADY, MAKE_CURRENT_KEY);
    struct decision decision;
    struct stage stage;

    scene_build(&scene, &stage);
    stage.record.first_seen_ms = 0;
    stage.record.current_cert_expires_ms = MAKE_NOW_MS + 50 * MAKE_DAY_MS;
    decide(&stage, &decision);
    assert_true(decision.commits);
    assert_true(decision.change.next.first_seen_ms == MAKE_NOW_MS);
    assert_true(decision.change.next.current_cert_expires_ms == MAKE_NOW_MS + 50 * MAKE_DAY_MS);
}

/* Registered by an operator, first seen on the connection that also finds the rotation stalled:
 * both events come, one commit after the other. */
static void a_first_connection_of_a_stalled_rotation_tells_both_in_turn(void **state)
{
    struct scene scene = calm_scene(ROTATING_FOR_LONG, MAKE_CURRENT_KEY);
    struct decision first, second, third;
    struct stage stage;

    scene.history = NEVER_SEEN;
    scene_build(&scene, &stage);
    decide(&stage, &first);
    assert_int_equal(first.change.events[0].type, EVENT_DEVICE_ROTATION_STALLED);
    stage.record = first.change.next;
    decide(&stage, &second);
    assert_int_equal(second.change.events[0].type, EVENT_DEVICE_FIRST_SEEN);
    stage.record = second.change.next;
    decide(&stage, &third);
    assert_int_equal(third.reason, REASON_ADMITTED);
    assert_false(third.commits);
}

/* due_before_expiry makes an expired certificate "overdue"; grace must still let the device renew.
 */
static void grace_outlives_the_certificates_own_deadline(void **state)
{
    struct scene scene = calm_scene(STEADY, MAKE_CURRENT_KEY);
    struct decision decision;
    struct stage stage;

    scene.expiry = IN_GRACE;
    scene.action = KEY_AGE_REFUSE;
    scene_build(&scene, &stage);
    stage.settings.rules.fleet.key_age.due_before_expiry_ms = 30 * MAKE_DAY_MS;
    decide(&stage, &decision);
    assert_int_equal(decision.verdict, VERDICT_QUARANTINE);
    assert_int_equal(decision.reason, REASON_CERTIFICATE_EXPIRED_QUARANTINE);
}

static void extreme_times_are_decided_safely(void **state)
{
    static const struct {
        int64_t now, expires, grace;
        enum reason reason;
    } cases[] = {
        {INT64_MAX, INT64_MAX, 0, REASON_CERTIFICATE_EXPIRED},
        {INT64_MAX, INT64_MAX - 5, 10, REASON_CERTIFICATE_EXPIRED},
        {INT64_MAX - 1, INT64_MAX - 5, INT64_MAX, REASON_CERTIFICATE_EXPIRED_QUARANTINE},
        {INT64_MAX - 1, INT64_MAX, 0, REASON_ADMITTED},
        {0, INT64_MIN, INT64_MAX, REASON_CERTIFICATE_EXPIRED},
        {INT64_MIN, INT64_MAX, -1, REASON_ADMITTED},
        {1000, 900, -1, REASON_CERTIFICATE_EXPIRED},
    };
    struct scene scene = calm_scene(STEADY, MAKE_CURRENT_KEY);
    struct decision decision;
    struct stage stage;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        scene_build(&scene, &stage);
        stage.input.now_ms = cases[i].now;
        stage.credentials.certificate_expires_ms = cases[i].expires;
        stage.settings.rules.fleet.expired_grace_ms = cases[i].grace;
        decide(&stage, &decision);
        assert_int_equal(decision.reason, cases[i].reason);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_combination_meets_the_table),
        cmocka_unit_test(zeroed_inputs_let_nobody_in),
        cmocka_unit_test(a_known_device_under_its_current_key_writes_nothing),
        cmocka_unit_test(an_admission_soon_after_a_promotion_confirms_it),
        cmocka_unit_test(a_record_of_another_device_admits_nobody),
        cmocka_unit_test(a_name_that_is_no_path_segment_registers_nothing),
        cmocka_unit_test(values_outside_their_enums_are_refused),
        cmocka_unit_test(a_first_connection_keeps_the_later_expiry),
        cmocka_unit_test(a_first_connection_of_a_stalled_rotation_tells_both_in_turn),
        cmocka_unit_test(grace_outlives_the_certificates_own_deadline),
        cmocka_unit_test(extreme_times_are_decided_safely),
    };

    return cmocka_run_group_tests_name("admission", tests, NULL, NULL);
}
