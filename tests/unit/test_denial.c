/* SPDX-License-Identifier: BSD-2-Clause */
/* The deny-list as operators use it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "policy/denial.h"
#include "policy_make.h"

#define KEY_ID "00010000000000000000000000000000000000000000000000000000000000ff"

enum { ADD, REMOVE, REMOVE_MISSING, N_ACTS };

static struct denial_request a_request(enum deny_kind kind, const char *id, const char *device)
{
    return (struct denial_request){
        .kind = kind,
        .id = id,
        .device = device,
        .until_ms = MAKE_NOW_MS + 1,
        .act = {.origin = "operator uid 0", .reason = "stolen", .now_ms = MAKE_NOW_MS},
    };
}

static void ask(int what, const struct denial_request *request, struct decision *out)
{
    memset(out, 0xA5, sizeof(*out));
    if (what == ADD)
        denial_add(request, out);
    else
        denial_remove(request, what == REMOVE, out);
}

static void assert_refused(const struct decision *decision, enum reason reason)
{
    assert_int_equal(decision->reason, reason);
    assert_int_equal(decision->verdict, VERDICT_REFUSE);
    assert_false(decision->commits);
    assert_int_equal(decision->change.n_deny, 0);
    assert_int_equal(decision->change.n_allow, 0);
    assert_int_equal(decision->change.n_events, 0);
}

static void requests_are_checked_before_they_count(void **state)
{
    static const struct {
        enum deny_kind kind;
        const char *id, *device, *why;
        enum reason reason; /* OK: it is carried out */
    } cases[] = {
        {DENY_KEY, KEY_ID, "", "stolen", REASON_OK},
        {DENY_KEY, KEY_ID, NULL, "stolen", REASON_OK},
        {DENY_KEY, KEY_ID, MAKE_DEVICE, "stolen", REASON_OK},
        {DENY_CERTIFICATE, KEY_ID, MAKE_DEVICE, "stolen", REASON_OK},
        {DENY_DEVICE, MAKE_DEVICE, MAKE_DEVICE, "stolen", REASON_OK},
        {DENY_DEVICE, MAKE_DEVICE, "", "stolen", REASON_OK},
        {DENY_DEVICE, MAKE_DEVICE, "some/thing:else", "stolen", REASON_OK},
        {DENY_KEY, KEY_ID, "", NULL, REASON_REASON_REQUIRED},
        {DENY_KEY, KEY_ID, "", "", REASON_REASON_REQUIRED},
        {DENY_KEY, KEY_ID, "", "  \n", REASON_REASON_REQUIRED},
        {DENY_KEY, "", "", "stolen", REASON_DENIAL_ID_INVALID},
        {DENY_KEY, MAKE_DEVICE, "", "stolen", REASON_DENIAL_ID_INVALID},
        {DENY_KEY, KEY_ID "0", "", "stolen", REASON_DENIAL_ID_INVALID},
        {DENY_CERTIFICATE, "FF", "", "stolen", REASON_DENIAL_ID_INVALID},
        {DENY_DEVICE, "", "", "stolen", REASON_DENIAL_ID_INVALID},
        {DENY_DEVICE, "..", "", "stolen", REASON_DENIAL_ID_INVALID},
        {DENY_DEVICE, KEY_ID KEY_ID KEY_ID, "", "stolen", REASON_DENIAL_ID_INVALID},
        {(enum deny_kind)9, KEY_ID, "", "stolen", REASON_DENIAL_ID_INVALID},
        {DENY_KEY, KEY_ID, "a/b", "stolen", REASON_DEVICE_NAME_INVALID},
        {DENY_KEY, KEY_ID, KEY_ID KEY_ID, "stolen", REASON_DEVICE_NAME_INVALID},
    };
    static const enum reason done[] = {REASON_DENIED, REASON_ALLOWED, REASON_NOT_DENIED};
    struct decision decision;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int what = ADD; what < N_ACTS; what++) {
            struct denial_request request = a_request(cases[i].kind, cases[i].id, cases[i].device);
            request.act.reason = cases[i].why;
            enum reason expected = cases[i].reason == REASON_OK ? done[what] : cases[i].reason;

            ask(what, &request, &decision);
            assert_int_equal(decision.reason, expected);
            if (cases[i].reason != REASON_OK || what == REMOVE_MISSING)
                assert_refused(&decision, expected);
            else
                assert_int_equal(decision.verdict, VERDICT_PASS);
        }
    }
}

static void a_denial_cuts_at_once_and_touches_no_record(void **state)
{
    struct denial_request request = a_request(DENY_KEY, KEY_ID, MAKE_DEVICE);
    struct device_event event = {
        .type = EVENT_DEVICE_DENIED,
        .device = MAKE_DEVICE,
        .at_ms = MAKE_NOW_MS,
        .why = REASON_OK,
        .reason = "stolen",
        .origin = "operator uid 0",
        .cut = CUT_NOW,
        .cut_kind = DENY_KEY,
        .cut_id = KEY_ID,
    };
    struct decision decision;

    ask(ADD, &request, &decision);
    assert_true(decision.commits);
    assert_false(decision.change.writes_record);
    assert_int_equal(decision.change.n_allow, 0);
    assert_int_equal(decision.change.n_deny, 1);

    const struct denial *denial = &decision.change.deny[0];
    assert_int_equal(denial->kind, DENY_KEY);
    assert_string_equal(denial->id, KEY_ID);
    assert_string_equal(denial->device, MAKE_DEVICE);
    assert_string_equal(denial->reason, "stolen");
    assert_string_equal(denial->origin, "operator uid 0");
    assert_true(denial->at_ms == MAKE_NOW_MS);
    assert_true(denial->until_ms == MAKE_NOW_MS + 1);
    assert_false(denial->keeps_longer);
    assert_int_equal(decision.change.n_events, 1);
    assert_null(event_difference(&decision.change.events[0], &event));
}

static void a_denied_device_is_named_by_its_id_alone(void **state)
{
    struct denial_request request = a_request(DENY_DEVICE, "device-1", "device-2");
    struct decision decision;

    ask(ADD, &request, &decision);
    assert_string_equal(decision.change.deny[0].id, "device-1");
    assert_string_equal(decision.change.deny[0].device, "device-1");
    assert_string_equal(decision.change.events[0].device, "device-1");
    assert_int_equal(decision.change.events[0].cut_kind, DENY_DEVICE);
}

static void a_denial_must_end_in_the_future_or_never(void **state)
{
    static const struct {
        int64_t until_ms;
        enum reason reason;
    } cases[] = {
        {0, REASON_DENIED},         {MAKE_NOW_MS + 1, REASON_DENIED},
        {INT64_MAX, REASON_DENIED}, {MAKE_NOW_MS, REASON_DENIAL_ENDED},
        {1, REASON_DENIAL_ENDED},   {-1, REASON_DENIAL_ENDED},
    };
    struct denial_request request = a_request(DENY_KEY, KEY_ID, "");
    struct decision decision;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        request.until_ms = cases[i].until_ms;
        ask(ADD, &request, &decision);
        assert_int_equal(decision.reason, cases[i].reason);
        if (cases[i].reason == REASON_DENIED)
            assert_true(decision.change.deny[0].until_ms == cases[i].until_ms);
    }
    ask(REMOVE, &request, &decision);
    assert_int_equal(decision.reason, REASON_ALLOWED);
}

static void an_allowance_removes_the_entry_and_cuts_nothing(void **state)
{
    struct denial_request request = a_request(DENY_CERTIFICATE, KEY_ID, MAKE_DEVICE);
    struct device_event event = {
        .type = EVENT_DEVICE_ALLOWED,
        .device = MAKE_DEVICE,
        .at_ms = MAKE_NOW_MS,
        .why = REASON_OK,
        .reason = "stolen",
        .origin = "operator uid 0",
        .cut = CUT_NONE,
        .cut_kind = DENY_CERTIFICATE,
        .cut_id = KEY_ID,
    };
    struct decision decision;

    ask(REMOVE, &request, &decision);
    assert_true(decision.commits);
    assert_false(decision.change.writes_record);
    assert_int_equal(decision.change.n_deny, 0);
    assert_int_equal(decision.change.n_allow, 1);
    assert_int_equal(decision.change.allow[0].kind, DENY_CERTIFICATE);
    assert_string_equal(decision.change.allow[0].id, KEY_ID);
    assert_string_equal(decision.change.allow[0].device, MAKE_DEVICE);
    assert_int_equal(decision.change.n_events, 1);
    assert_null(event_difference(&decision.change.events[0], &event));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_checked_before_they_count),
        cmocka_unit_test(a_denial_cuts_at_once_and_touches_no_record),
        cmocka_unit_test(a_denied_device_is_named_by_its_id_alone),
        cmocka_unit_test(a_denial_must_end_in_the_future_or_never),
        cmocka_unit_test(an_allowance_removes_the_entry_and_cuts_nothing),
    };

    return cmocka_run_group_tests_name("denial", tests, NULL, NULL);
}
