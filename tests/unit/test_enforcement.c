/* SPDX-License-Identifier: BSD-2-Clause */
/* What time makes of a device: the table of enforcement.h, and for how long it holds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "policy/enforcement.h"

/* A small clock: limits, since, expiry and now, all below ten or so, in every combination. */
struct small {
    struct enforcement rule;
    struct standing_facts facts;
    int64_t now;
};

enum { SMALL_CASES = 4 * 4 * 4 * 4 * 4 * 4 * 7 * 14 };

static struct small small_case(int64_t i)
{
    static const int64_t limits[] = {0, 2, 3, 6};
    static const int64_t expiries[] = {1, 4, 5, 7, 9, 11, INT64_MAX};
    struct small c;

    c.rule.key_age.due_after_ms = limits[i % 4];
    c.rule.key_age.overdue_after_ms = limits[i / 4 % 4];
    c.rule.key_age.due_before_expiry_ms = limits[i / 16 % 4];
    c.rule.expired_grace_ms = limits[i / 64 % 4];
    c.rule.key_age.action = (enum key_age_action)(i / 256 % 4);
    c.facts.key_since_ms = i / 1024 % 4;
    c.facts.certificate_expires_ms = expiries[i / 4096 % 7];
    c.now = i / 28672 % 14;
    return c;
}

/* The table once more, row by row. */
static enum reason expected_reason(const struct small *c)
{
    const bool known = c->facts.certificate_expires_ms != INT64_MAX;
    const bool expired = known && c->now >= c->facts.certificate_expires_ms;
    const bool in_grace =
        expired && c->now < c->facts.certificate_expires_ms + c->rule.expired_grace_ms;
    const bool overdue = c->rule.key_age.overdue_after_ms > 0 &&
                         c->now - c->facts.key_since_ms >= c->rule.key_age.overdue_after_ms;

    if (expired && !in_grace)
        return REASON_CERTIFICATE_EXPIRED;
    if (overdue && c->rule.key_age.action == KEY_AGE_REFUSE)
        return REASON_KEY_AGE_OVERDUE;
    if (expired)
        return REASON_CERTIFICATE_EXPIRED_QUARANTINE;
    if (overdue && c->rule.key_age.action == KEY_AGE_QUARANTINE)
        return REASON_KEY_AGE_QUARANTINE;
    return REASON_ADMITTED;
}

static void every_small_case_meets_the_table(void **state)
{
    for (int64_t i = 0; i < SMALL_CASES; i++) {
        const struct small c = small_case(i);
        const struct standing standing = enforcement_judge(&c.rule, &c.facts, c.now);
        const int64_t expires = c.facts.certificate_expires_ms;
        const struct key_age age = key_age_judge(&c.rule.key_age, c.facts.key_since_ms,
                                                 expires == INT64_MAX ? 0 : expires, c.now);
        enum reason reason = expected_reason(&c);

        if (standing.reason != reason)
            fail_msg("case %lld: %s, expected %s", (long long)i, reason_wire(standing.reason),
                     reason_wire(reason));
        assert_int_equal(standing.verdict,
                         reason == REASON_ADMITTED ? VERDICT_PASS
                         : reason == REASON_CERTIFICATE_EXPIRED || reason == REASON_KEY_AGE_OVERDUE
                             ? VERDICT_REFUSE
                             : VERDICT_QUARANTINE);
        assert_int_equal(standing.age.state, age.state);
        assert_true(standing.age.deadline_ms == age.deadline_ms);
        assert_int_equal(standing.action, c.rule.key_age.action);
        assert_int_equal(standing.is_told,
                         age.state != KEY_AGE_FRESH && c.rule.key_age.action != KEY_AGE_OBSERVE);
    }
}

static bool standings_equal(const struct standing *a, const struct standing *b)
{
    return a->verdict == b->verdict && a->reason == b->reason && a->age.state == b->age.state &&
           a->age.deadline_ms == b->age.deadline_ms && a->is_told == b->is_told;
}

static void a_standing_holds_until_its_moment(void **state)
{
    for (int64_t i = 0; i < SMALL_CASES; i++) {
        const struct small c = small_case(i);
        const struct standing standing = enforcement_judge(&c.rule, &c.facts, c.now);

        assert_true(standing.until_ms > c.now);
        for (int64_t now = c.now + 1; now < 30 && now < standing.until_ms; now++) {
            const struct standing later = enforcement_judge(&c.rule, &c.facts, now);
            if (!standings_equal(&standing, &later) || later.until_ms != standing.until_ms)
                fail_msg("case %lld: changes at %lld, before %lld", (long long)i, (long long)now,
                         (long long)standing.until_ms);
        }
    }
}

static void extreme_times_do_not_wrap_round(void **state)
{
    static const int64_t times[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX};
    static const int64_t limits[] = {INT64_MIN, -1, 0, 1, INT64_MAX};

    for (int i = 0; i < 7 * 7 * 7 * 5 * 5; i++) {
        const struct standing_facts facts = {times[i % 7], times[i / 7 % 7]};
        const struct enforcement rule = {
            .expired_grace_ms = limits[i / 343 % 5],
            .key_age = {limits[i / 1715 % 5], limits[i / 343 % 5], limits[i / 1715 % 5],
                        KEY_AGE_REFUSE},
        };
        int64_t now = times[i / 49 % 7];
        const struct standing standing = enforcement_judge(&rule, &facts, now);
        char text[STANDING_TEXT_SIZE];

        assert_true(standing.until_ms > now || now == INT64_MAX);
        standing_format(&standing, text);
    }
}

static void a_group_has_its_own_rule_or_the_fleets(void **state)
{
    static const struct enforcement_group groups[] = {
        {.name = "a", .rule.expired_grace_ms = 1},
        {.name = "b", .rule.expired_grace_ms = 30},
    };
    struct enforcement_rules rules = {.fleet.expired_grace_ms = 2, .groups = groups, .n_groups = 2};

    assert_ptr_equal(enforcement_of(&rules, "a"), &groups[0].rule);
    assert_ptr_equal(enforcement_of(&rules, "b"), &groups[1].rule);
    assert_ptr_equal(enforcement_of(&rules, "c"), &rules.fleet);
    assert_ptr_equal(enforcement_of(&rules, ""), &rules.fleet);
    assert_true(enforcement_longest_grace_ms(&rules) == 30);
    rules.n_groups = 1;
    assert_true(enforcement_longest_grace_ms(&rules) == 2);
}

static void what_a_device_is_told_is_a_structured_field(void **state)
{
    static const struct {
        struct standing standing;
        const char *text;
    } cases[] = {
        {{.is_told = false, .age = {KEY_AGE_OVERDUE, 1700000000000}}, ""},
        {{.is_told = true, .age = {KEY_AGE_DUE, 1700000000999}}, "due;deadline=@1700000000"},
        {{.is_told = true, .age = {KEY_AGE_OVERDUE, 1}}, "overdue;deadline=@0"},
        {{.is_told = true, .age = {KEY_AGE_OVERDUE, -5000}}, "overdue;deadline=@-5"},
        {{.is_told = true, .age = {KEY_AGE_DUE, 0}}, "due"},
        {{.is_told = true, .age = {KEY_AGE_DUE, INT64_MAX}}, "due"},
        {{.is_told = true, .age = {KEY_AGE_OVERDUE, INT64_MIN}}, "overdue"},
        {{.is_told = true, .age = {KEY_AGE_OVERDUE, -999999999999999000}},
         "overdue;deadline=@-999999999999999"},
        {{.is_told = true, .age = {KEY_AGE_OVERDUE, 1000000000000000000}}, "overdue"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[STANDING_TEXT_SIZE];
        standing_format(&cases[i].standing, text);
        assert_string_equal(text, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_small_case_meets_the_table),
        cmocka_unit_test(a_standing_holds_until_its_moment),
        cmocka_unit_test(extreme_times_do_not_wrap_round),
        cmocka_unit_test(a_group_has_its_own_rule_or_the_fleets),
        cmocka_unit_test(what_a_device_is_told_is_a_structured_field),
    };

    return cmocka_run_group_tests_name("enforcement", tests, NULL, NULL);
}
