/* SPDX-License-Identifier: BSD-2-Clause */
/* The config lock: who may write when, and that leases and announcements exclude each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "policy/config_lock.h"
#include "policy/rotation.h"
#include "policy_make.h"

#define LEASE_MS INT64_C(30000)

static struct config_write a_write(const struct device_record *record, unsigned token)
{
    return (struct config_write){
        .record = record,
        .token = make_token(token),
        .lease_ms = LEASE_MS,
        .now_ms = MAKE_NOW_MS,
    };
}

static void begin(const struct config_write *input, struct decision *out)
{
    memset(out, 0xA5, sizeof(*out));
    config_write_begin(input, out);
}

static void end(const struct device_record *record, unsigned token, struct decision *out)
{
    memset(out, 0xA5, sizeof(*out));
    config_write_end(record, make_token(token), MAKE_NOW_MS, out);
}

static void assert_nothing_changes(const struct decision *decision)
{
    assert_false(decision->commits);
    assert_false(decision->change.writes_record);
    assert_int_equal(decision->change.n_events, 0);
    assert_int_equal(decision->change.n_deny, 0);
}

static void a_write_passes_iff_it_names_the_right_key(void **state)
{
    static const enum reason expected[3][2][4] = {
        /* [no record, steady, rotating][operator, device][key: none, current, pending, other] */
        {{REASON_NO_SUCH_DEVICE, REASON_NO_SUCH_DEVICE, REASON_NO_SUCH_DEVICE,
          REASON_NO_SUCH_DEVICE},
         {REASON_NO_SUCH_DEVICE, REASON_NO_SUCH_DEVICE, REASON_NO_SUCH_DEVICE,
          REASON_NO_SUCH_DEVICE}},
        {{REASON_WRITE_PASSES, REASON_WRITE_PASSES, REASON_CONFIG_KEY_STALE,
          REASON_CONFIG_KEY_STALE},
         {REASON_WRITE_PASSES, REASON_WRITE_PASSES, REASON_CONFIG_KEY_STALE,
          REASON_CONFIG_KEY_STALE}},
        {{REASON_CONFIG_LOCKED, REASON_CONFIG_LOCKED, REASON_CONFIG_LOCKED, REASON_CONFIG_LOCKED},
         {REASON_CONFIG_LOCKED, REASON_CONFIG_LOCKED, REASON_WRITE_PASSES, REASON_CONFIG_LOCKED}},
    };
    const struct device_record records[3] = {{0}, make_record(), make_pending_record()};
    struct decision decision;

    for (int i = 0; i < 3 * 2 * 4; i++) {
        struct config_write write = a_write(&records[i / 8], 1);
        enum reason reason = expected[i / 8][i / 4 % 2][i % 4];

        write.writer = i / 4 % 2 == 0 ? CONFIG_WRITER_OPERATOR : CONFIG_WRITER_DEVICE;
        write.writer_key = make_key(1)->id;
        write.key = make_key(i % 4)->id;
        begin(&write, &decision);
        assert_int_equal(decision.reason, reason);
        assert_int_equal(decision.verdict,
                         reason == REASON_WRITE_PASSES ? VERDICT_PASS : VERDICT_REFUSE);
        if (reason != REASON_WRITE_PASSES)
            assert_nothing_changes(&decision);
        else
            assert_true(decision.commits);
    }
}

static void a_device_writes_under_its_current_key_only(void **state)
{
    const struct device_record records[2] = {make_record(), make_pending_record()};
    struct decision decision;

    /* Writer's key: none, current, pending, other. What the write names would pass. */
    for (int i = 0; i < 2 * 4; i++) {
        struct config_write write = a_write(&records[i / 4], 1);
        write.writer = CONFIG_WRITER_DEVICE;
        write.writer_key = make_key(i % 4)->id;
        write.key = make_key(i / 4 == 0 ? 1 : 2)->id;
        begin(&write, &decision);
        assert_int_equal(decision.reason,
                         i % 4 == 1 ? REASON_WRITE_PASSES : REASON_KEY_NOT_CURRENT);
        assert_int_equal(decision.commits, i % 4 == 1);
    }
}

static void a_denied_device_writes_nothing(void **state)
{
    static const struct {
        struct deny_flags denied;
        enum reason reason;
    } cases[] = {
        {{.key = true}, REASON_KEY_DENIED},
        {{.certificate = true}, REASON_CERTIFICATE_DENIED},
        {{.device = true}, REASON_DEVICE_DENIED},
    };
    const struct device_record record = make_record();
    struct decision decision;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct config_write write = a_write(&record, 1);
        write.writer = CONFIG_WRITER_DEVICE;
        write.writer_key = make_key(1)->id;
        write.denied = cases[i].denied;
        begin(&write, &decision);
        assert_int_equal(decision.verdict, VERDICT_REFUSE);
        assert_int_equal(decision.reason, cases[i].reason);
        assert_nothing_changes(&decision);
    }
}

static void a_passing_write_holds_a_lease_and_sweeps_ended_ones(void **state)
{
    struct device_record record = make_record();
    struct config_write write = a_write(&record, 9);
    struct device_record expected;
    struct decision decision;

    make_add_lease(&record, 1, MAKE_NOW_MS);
    make_add_lease(&record, 2, MAKE_NOW_MS + 1);
    expected = make_record();
    expected.version++;
    make_add_lease(&expected, 2, MAKE_NOW_MS + 1);
    make_add_lease(&expected, 9, MAKE_NOW_MS + LEASE_MS);

    begin(&write, &decision);
    assert_true(decision.change.writes_record);
    assert_null(record_difference(&decision.change.next, &expected));
    assert_int_equal(decision.change.n_events, 0);
}

static void a_repeated_begin_renews_its_lease(void **state)
{
    struct device_record record = make_record();
    struct config_write write = a_write(&record, 5);
    struct decision decision;

    for (unsigned i = 0; i < WRITE_LEASES_MAX; i++)
        make_add_lease(&record, i, MAKE_NOW_MS + 1);
    begin(&write, &decision);
    assert_int_equal(decision.reason, REASON_WRITE_PASSES);
    assert_int_equal(decision.change.next.n_leases, WRITE_LEASES_MAX);
    assert_true(decision.change.next.leases[5].expires_ms == MAKE_NOW_MS + LEASE_MS);
    assert_true(decision.change.next.leases[4].expires_ms == MAKE_NOW_MS + 1);
}

static void one_write_too_many_is_busy_until_one_ends(void **state)
{
    struct device_record record = make_record();
    struct config_write write = a_write(&record, 99);
    struct decision decision;

    for (unsigned i = 0; i < WRITE_LEASES_MAX; i++)
        make_add_lease(&record, i, MAKE_NOW_MS + 1);
    begin(&write, &decision);
    assert_int_equal(decision.verdict, VERDICT_BUSY);
    assert_int_equal(decision.reason, REASON_CONFIG_WRITES_FULL);
    assert_nothing_changes(&decision);

    record.leases[3].expires_ms = MAKE_NOW_MS;
    begin(&write, &decision);
    assert_int_equal(decision.reason, REASON_WRITE_PASSES);
    assert_int_equal(decision.change.next.n_leases, WRITE_LEASES_MAX);
}

static void no_write_begins_while_a_rotation_waits(void **state)
{
    static const struct {
        int64_t wanted_until;
        enum reason reason;
    } cases[] = {
        {0, REASON_WRITE_PASSES},
        {MAKE_NOW_MS, REASON_WRITE_PASSES},
        {MAKE_NOW_MS + 1, REASON_CONFIG_WRITES_HELD},
        {INT64_MAX, REASON_CONFIG_WRITES_HELD},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct device_record record = make_record();
        struct config_write write = a_write(&record, 1);
        struct decision decision;

        record.wanted_until_ms = cases[i].wanted_until;
        begin(&write, &decision);
        assert_int_equal(decision.reason, cases[i].reason);
        if (cases[i].reason == REASON_CONFIG_WRITES_HELD) {
            assert_int_equal(decision.verdict, VERDICT_BUSY);
            assert_nothing_changes(&decision);
        } else {
            assert_true(decision.change.next.wanted_until_ms == 0);
        }
        /* Whoever could not write anyway is told why. */
        write.key = make_key(MAKE_OTHER_KEY)->id;
        begin(&write, &decision);
        assert_int_equal(decision.reason, REASON_CONFIG_KEY_STALE);
    }
}

static void who_waits_is_noted_again_only_when_little_is_left(void **state)
{
    struct device_record record = make_record();
    struct decision decision;

    record.wanted_until_ms = MAKE_NOW_MS + CONFIG_WRITE_HOLD_LEAST_MS;
    config_write_hold(&record, MAKE_NOW_MS, &decision);
    assert_int_equal(decision.verdict, VERDICT_BUSY);
    assert_nothing_changes(&decision);
    record.wanted_until_ms--;
    config_write_hold(&record, MAKE_NOW_MS, &decision);
    assert_true(decision.commits);
    assert_true(decision.change.next.wanted_until_ms == MAKE_NOW_MS + CONFIG_WRITE_HOLD_MS);
}

/* A device tries as stock agents do while somebody else's writes overlap without a pause. Without
 * the mark it would give up: the writes leave no moment between them. */
static void an_announcement_gets_through_writes_that_never_pause(void **state)
{
    static const int64_t tries_ms[] = {0, 1000, 3000, 8000, 21000, 51000};
    const int64_t longest_ms = LEASE_MS;

    for (int64_t lasts_ms = 1500; lasts_ms <= longest_ms; lasts_ms += 500) {
        struct device_record record = make_record();
        struct decision decision;
        unsigned begun = 0, ended = 0, next_try = 0;
        int64_t begun_ms[256];
        bool announced = false;

        for (int64_t at = 0; !announced && at <= 51000; at += 500) {
            int64_t now_ms = MAKE_NOW_MS + at;
            while (ended < begun && begun_ms[ended] + lasts_ms <= at) {
                config_write_end(&record, make_token(ended++), now_ms, &decision);
                if (decision.commits)
                    record = decision.change.next;
            }
            struct config_write write = a_write(&record, begun);
            write.now_ms = now_ms;
            config_write_begin(&write, &decision);
            if (decision.verdict == VERDICT_PASS) {
                record = decision.change.next;
                begun_ms[begun++] = at;
            }
            if (at < tries_ms[next_try])
                continue;
            next_try++;
            rotation_announce(&(struct announcement){.record = &record,
                                                     .announcer = &make_key(MAKE_CURRENT_KEY)->id,
                                                     .next = make_key(MAKE_PENDING_KEY),
                                                     .now_ms = now_ms},
                              &decision);
            if (decision.commits)
                record = decision.change.next;
            announced = decision.verdict == VERDICT_PASS;
        }
        if (!announced)
            fail_msg("starved by writes of %lld ms", (long long)lasts_ms);
        assert_true(record.wanted_until_ms == 0);
    }
}

static void a_write_that_could_hold_no_lease_does_not_pass(void **state)
{
    static const char *const tokens[] = {"", "abc", "0123456789abcdef0123456789abcdef0"};
    struct device_record record = make_record();
    struct config_write write = a_write(&record, 1);
    struct decision decision;

    for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++) {
        write.token = tokens[i];
        begin(&write, &decision);
        assert_int_equal(decision.verdict, VERDICT_REFUSE);
        assert_int_equal(decision.reason, REASON_INTERNAL);
    }
    write = a_write(&record, 1);
    for (write.lease_ms = -1; write.lease_ms <= 0; write.lease_ms++) {
        begin(&write, &decision);
        assert_int_equal(decision.reason, REASON_INTERNAL);
        assert_nothing_changes(&decision);
    }
}

static void a_lease_without_end_does_not_wrap_round(void **state)
{
    struct device_record record = make_record();
    struct config_write write = a_write(&record, 1);
    struct decision decision;

    write.lease_ms = INT64_MAX;
    begin(&write, &decision);
    assert_true(decision.change.next.leases[0].expires_ms == INT64_MAX);
    assert_true(config_write_in_flight(&decision.change.next, INT64_MAX - 1));
}

static void ending_a_write_takes_its_lease_away(void **state)
{
    struct device_record record = make_record();
    struct device_record expected = make_record();
    struct decision decision;

    make_add_lease(&record, 1, MAKE_NOW_MS + 5);
    make_add_lease(&record, 2, MAKE_NOW_MS + 6);
    make_add_lease(&record, 3, MAKE_NOW_MS);
    make_add_lease(&record, 4, MAKE_NOW_MS + 7);
    expected.version++;
    make_add_lease(&expected, 1, MAKE_NOW_MS + 5);
    make_add_lease(&expected, 4, MAKE_NOW_MS + 7);
    end(&record, 2, &decision);
    assert_int_equal(decision.verdict, VERDICT_PASS);
    assert_int_equal(decision.reason, REASON_WRITE_ENDED);
    assert_true(decision.commits);
    assert_null(record_difference(&decision.change.next, &expected));
}

static void ending_a_write_whose_lease_has_ended_sweeps_it(void **state)
{
    struct device_record record = make_record();
    struct decision decision;

    make_add_lease(&record, 1, MAKE_NOW_MS);
    make_add_lease(&record, 2, MAKE_NOW_MS + 1);
    end(&record, 1, &decision);
    assert_true(decision.commits);
    assert_int_equal(decision.change.next.n_leases, 1);
    assert_string_equal(decision.change.next.leases[0].token, make_token(2));
}

static void ending_an_unknown_write_changes_nothing(void **state)
{
    struct device_record record = make_record();
    struct device_record none = {0};
    struct decision decision;

    make_add_lease(&record, 1, MAKE_NOW_MS);
    end(&record, 2, &decision);
    assert_int_equal(decision.reason, REASON_WRITE_ENDED);
    assert_nothing_changes(&decision);
    end(&none, 1, &decision);
    assert_int_equal(decision.verdict, VERDICT_PASS);
    assert_nothing_changes(&decision);
}

static void a_write_is_in_flight_until_the_moment_its_lease_ends(void **state)
{
    struct device_record record = make_record();

    assert_false(config_write_in_flight(&record, 0));
    make_add_lease(&record, 1, 10);
    make_add_lease(&record, 2, 20);
    make_add_lease(&record, 3, 5);
    assert_true(config_write_in_flight(&record, 19));
    assert_false(config_write_in_flight(&record, 20));
}

/* Invariant 6, on one record: while the write for the current key may still land, the announcement
 * waits; after the announcement, such a write does not begin. */
static void writes_and_announcements_exclude_each_other(void **state)
{
    struct device_record record = make_record();
    struct config_write write = a_write(&record, 1);
    struct announcement announcement = {
        .record = &record,
        .announcer = &make_key(MAKE_CURRENT_KEY)->id,
        .next = make_key(MAKE_PENDING_KEY),
        .now_ms = MAKE_NOW_MS,
    };
    struct decision decision;

    write.key = make_key(MAKE_CURRENT_KEY)->id;
    begin(&write, &decision);
    record = decision.change.next;
    rotation_announce(&announcement, &decision);
    assert_int_equal(decision.reason, REASON_CONFIG_WRITES_BUSY);
    record = decision.change.next;

    end(&record, 1, &decision);
    record = decision.change.next;
    rotation_announce(&announcement, &decision);
    assert_int_equal(decision.reason, REASON_ANNOUNCED);
    record = decision.change.next;
    begin(&write, &decision);
    assert_int_equal(decision.reason, REASON_CONFIG_LOCKED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_write_passes_iff_it_names_the_right_key),
        cmocka_unit_test(a_device_writes_under_its_current_key_only),
        cmocka_unit_test(a_denied_device_writes_nothing),
        cmocka_unit_test(a_passing_write_holds_a_lease_and_sweeps_ended_ones),
        cmocka_unit_test(a_repeated_begin_renews_its_lease),
        cmocka_unit_test(one_write_too_many_is_busy_until_one_ends),
        cmocka_unit_test(no_write_begins_while_a_rotation_waits),
        cmocka_unit_test(who_waits_is_noted_again_only_when_little_is_left),
        cmocka_unit_test(an_announcement_gets_through_writes_that_never_pause),
        cmocka_unit_test(a_write_that_could_hold_no_lease_does_not_pass),
        cmocka_unit_test(a_lease_without_end_does_not_wrap_round),
        cmocka_unit_test(ending_a_write_takes_its_lease_away),
        cmocka_unit_test(ending_a_write_whose_lease_has_ended_sweeps_it),
        cmocka_unit_test(ending_an_unknown_write_changes_nothing),
        cmocka_unit_test(a_write_is_in_flight_until_the_moment_its_lease_ends),
        cmocka_unit_test(writes_and_announcements_exclude_each_other),
    };

    return cmocka_run_group_tests_name("config_lock", tests, NULL, NULL);
}
