/* SPDX-License-Identifier: BSD-2-Clause */
/* Key age and certificate expiry: which state, which deadline. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "policy/key_age.h"

struct judge_case {
    struct key_age_settings settings;
    int64_t since, expires, now;
    enum key_age_state state;
    int64_t deadline;
};

static void judge_all(const struct judge_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct judge_case *c = &cases[i];
        struct key_age age = key_age_judge(&c->settings, c->since, c->expires, c->now);

        if (age.state != c->state || age.deadline_ms != c->deadline)
            fail_msg("case %zu: state %d, deadline %lld", i, (int)age.state,
                     (long long)age.deadline_ms);
    }
}

#define JUDGE_ALL(cases) judge_all(cases, sizeof(cases) / sizeof((cases)[0]))

static void unset_limits_never_make_a_key_due(void **state)
{
    static const struct judge_case cases[] = {
        {.since = 0, .expires = 5, .now = INT64_MAX, .state = KEY_AGE_FRESH},
        {.settings = {.action = KEY_AGE_REFUSE}, .expires = 5, .now = 6, .state = KEY_AGE_FRESH},
        {.settings = {-1, -1, -1, KEY_AGE_REFUSE}, .expires = 5, .now = 6, .state = KEY_AGE_FRESH},
    };

    JUDGE_ALL(cases);
}

static void age_makes_due_and_then_overdue(void **state)
{
    static const struct judge_case cases[] = {
        {{100, 200, 0, 0}, 1000, 0, 1000, KEY_AGE_FRESH, 1200},
        {{100, 200, 0, 0}, 1000, 0, 1099, KEY_AGE_FRESH, 1200},
        {{100, 200, 0, 0}, 1000, 0, 1100, KEY_AGE_DUE, 1200},
        {{100, 200, 0, 0}, 1000, 0, 1199, KEY_AGE_DUE, 1200},
        {{100, 200, 0, 0}, 1000, 0, 1200, KEY_AGE_OVERDUE, 1200},
        {{100, 200, 0, 0}, 1000, 1050, 1199, KEY_AGE_DUE, 1200},
        {{100, 0, 0, 0}, 1000, 0, 99999, KEY_AGE_DUE, 0},
        {{0, 200, 0, 0}, 1000, 0, 1199, KEY_AGE_FRESH, 1200},
        {{0, 200, 0, 0}, 1000, 0, 1200, KEY_AGE_OVERDUE, 1200},
        {{300, 200, 0, 0}, 1000, 0, 1250, KEY_AGE_OVERDUE, 1200},
        /* The store's clock went back behind the key's birth. */
        {{100, 200, 0, 0}, 1000, 0, 10, KEY_AGE_FRESH, 1200},
    };

    JUDGE_ALL(cases);
}

static void the_certificates_end_makes_due_and_then_overdue(void **state)
{
    static const struct judge_case cases[] = {
        {{0, 0, 50, 0}, 0, 1000, 950, KEY_AGE_FRESH, 1000},
        {{0, 0, 50, 0}, 0, 1000, 951, KEY_AGE_DUE, 1000},
        {{0, 0, 50, 0}, 0, 1000, 999, KEY_AGE_DUE, 1000},
        {{0, 0, 50, 0}, 0, 1000, 1000, KEY_AGE_OVERDUE, 1000},
        {{0, 0, 50, 0}, 0, 0, 99999, KEY_AGE_FRESH, 0},
    };

    JUDGE_ALL(cases);
}

static void the_later_state_and_the_nearer_deadline_count(void **state)
{
    static const struct judge_case cases[] = {
        {{100, 200, 50, 0}, 1000, 1300, 1000, KEY_AGE_FRESH, 1200},
        {{100, 200, 50, 0}, 1000, 1100, 1060, KEY_AGE_DUE, 1100},
        {{100, 200, 50, 0}, 1000, 1100, 1100, KEY_AGE_OVERDUE, 1100},
        {{100, 200, 50, 0}, 1000, 5000, 1200, KEY_AGE_OVERDUE, 1200},
        {{100, 0, 50, 0}, 1000, 5000, 1200, KEY_AGE_DUE, 5000},
    };

    JUDGE_ALL(cases);
}

static void extreme_times_do_not_wrap_round(void **state)
{
    static const struct judge_case cases[] = {
        {{1, INT64_MAX, 0, 0}, 1000, 0, 1001, KEY_AGE_DUE, INT64_MAX},
        {{1, 2, 0, 0}, INT64_MIN, 0, INT64_MAX, KEY_AGE_OVERDUE, INT64_MIN + 2},
        {{1, 2, 0, 0}, INT64_MAX, 0, INT64_MIN, KEY_AGE_FRESH, INT64_MAX},
        {{0, 0, INT64_MAX, 0}, 0, INT64_MAX, 1, KEY_AGE_DUE, INT64_MAX},
        {{0, 0, 1, 0}, 0, INT64_MAX, INT64_MIN, KEY_AGE_FRESH, INT64_MAX},
        {{0, 0, 1, 0}, 0, INT64_MIN, INT64_MAX, KEY_AGE_OVERDUE, INT64_MIN},
    };

    JUDGE_ALL(cases);
}

/* Every combination on a small clock, against the sentences of the header. */
static void all_small_cases_agree_with_the_sentences(void **state)
{
    for (int64_t i = 0; i < INT64_C(432000); i++) {
        const int64_t due = i % 6, overdue = i / 6 % 6, before = i / 36 % 6;
        const int64_t since = i / 216 % 10, expires = i / 2160 % 10, now = i / 21600 % 20;
        const struct key_age_settings settings = {due, overdue, before, KEY_AGE_OBSERVE};
        bool by_cert = before != 0 && expires != 0;
        bool is_overdue = (overdue != 0 && now - since >= overdue) || (by_cert && now >= expires);
        bool is_due = (due != 0 && now - since >= due) || (by_cert && expires - now < before);
        int64_t deadline = overdue != 0 ? since + overdue : INT64_MAX;

        if (by_cert && expires < deadline)
            deadline = expires;
        struct key_age age = key_age_judge(&settings, since, expires, now);
        assert_int_equal(age.state, is_overdue ? KEY_AGE_OVERDUE
                                    : is_due   ? KEY_AGE_DUE
                                               : KEY_AGE_FRESH);
        assert_true(age.deadline_ms == (deadline == INT64_MAX ? 0 : deadline));
    }
}

static void states_have_wire_words(void **state)
{
    assert_string_equal(key_age_wire(KEY_AGE_FRESH), "fresh");
    assert_string_equal(key_age_wire(KEY_AGE_DUE), "due");
    assert_string_equal(key_age_wire(KEY_AGE_OVERDUE), "overdue");
    assert_string_equal(key_age_wire((enum key_age_state)9), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unset_limits_never_make_a_key_due),
        cmocka_unit_test(age_makes_due_and_then_overdue),
        cmocka_unit_test(the_certificates_end_makes_due_and_then_overdue),
        cmocka_unit_test(the_later_state_and_the_nearer_deadline_count),
        cmocka_unit_test(extreme_times_do_not_wrap_round),
        cmocka_unit_test(all_small_cases_agree_with_the_sentences),
        cmocka_unit_test(states_have_wire_words),
    };

    return cmocka_run_group_tests_name("key_age", tests, NULL, NULL);
}
