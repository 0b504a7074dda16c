/* SPDX-License-Identifier: BSD-2-Clause */
/* Putting a device into a group. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "policy/group.h"
#include "policy_make.h"

static const struct operator_act because = {"operator uid 0", "moved", MAKE_NOW_MS};

static void a_change_is_written_and_told(void **state)
{
    struct device_record record = make_record(), expected;
    static struct decision decision;

    group_assign(&record, "line 7/b", &because, &decision);
    assert_int_equal(decision.verdict, VERDICT_PASS);
    assert_int_equal(decision.reason, REASON_GROUP_CHANGED);
    expected = record;
    expected.version++;
    memcpy(expected.group, "line 7/b", 9);
    assert_true(decision.commits && decision.change.writes_record);
    assert_null(record_difference(&decision.change.next, &expected));

    const struct device_event *event = &decision.change.events[0];
    assert_int_equal(decision.change.n_events, 1);
    assert_int_equal(decision.change.n_deny + decision.change.n_allow, 0);
    assert_int_equal(event->type, EVENT_DEVICE_GROUP_CHANGED);
    assert_string_equal(event->group, "line 7/b");
    assert_string_equal(event->old_group, record.group);
    assert_string_equal(event->reason, "moved");
    assert_string_equal(event->origin, "operator uid 0");
    assert_int_equal(event->cut, CUT_DECIDE);
    assert_int_equal(event->cut_kind, DENY_DEVICE);
    assert_string_equal(event->cut_id, record.name);
}

static void a_device_may_leave_every_group(void **state)
{
    struct device_record record = make_record();
    static struct decision decision;

    memcpy(record.group, "a", 2);
    group_assign(&record, "", &because, &decision);
    assert_int_equal(decision.reason, REASON_GROUP_CHANGED);
    assert_string_equal(decision.change.next.group, "");
    assert_string_equal(decision.change.events[0].old_group, "a");
}

static void the_same_group_changes_nothing(void **state)
{
    struct device_record record = make_record();
    static struct decision decision;

    group_assign(&record, record.group, &because, &decision);
    assert_int_equal(decision.verdict, VERDICT_PASS);
    assert_int_equal(decision.reason, REASON_GROUP_UNCHANGED);
    assert_false(decision.commits);
}

static void what_is_refused_changes_nothing(void **state)
{
    static const struct device_record nobody;
    const struct device_record record = make_record();
    const struct {
        const struct device_record *record;
        const char *group, *why;
        enum reason reason;
    } cases[] = {
        {&record, "a", "", REASON_REASON_REQUIRED},
        {&record, "a", " \t", REASON_REASON_REQUIRED},
        {&nobody, "a", "why", REASON_NO_SUCH_DEVICE},
        {&record, " a", "why", REASON_GROUP_INVALID},
        {&record, "a ", "why", REASON_GROUP_INVALID},
        {&record, "a\nb", "why", REASON_GROUP_INVALID},
        {&record, "\"a\"", "why", REASON_GROUP_INVALID},
        {&record, "gr\xc3\xbcn", "why", REASON_GROUP_INVALID},
        {&record, "0123456789012345678901234567890123456789012345678901234567890123x", "why",
         REASON_GROUP_INVALID},
    };
    static struct decision decision;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct operator_act act = {"operator", cases[i].why, MAKE_NOW_MS};
        group_assign(cases[i].record, cases[i].group, &act, &decision);
        assert_int_equal(decision.verdict, VERDICT_REFUSE);
        assert_int_equal(decision.reason, cases[i].reason);
        assert_false(decision.commits);
    }
    assert_true(
        group_name_is_valid("0123456789012345678901234567890123456789012345678901234567890123"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_change_is_written_and_told),
        cmocka_unit_test(a_device_may_leave_every_group),
        cmocka_unit_test(the_same_group_changes_nothing),
        cmocka_unit_test(what_is_refused_changes_nothing),
    };

    return cmocka_run_group_tests_name("group", tests, NULL, NULL);
}
