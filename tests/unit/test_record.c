/* SPDX-License-Identifier: BSD-2-Clause */
/* Records: names, digests, leases and times; and how a decision comes to hold the next record. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "policy/decision.h"
#include "policy_make.h"

#define SIXTY_FOUR "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void device_names_are_safe_path_segments(void **state)
{
    static const struct {
        const char *name;
        bool valid;
    } cases[] = {
        {"a", true},
        {"0b6c1f3e-60a5-4b3c-9d7e-2f6d1c0a9b8e", true},
        {"Device_7.local-3", true},
        {"...", true},
        {".a", true},
        {"..a", true},
        {"a.", true},
        {"-", true},
        {SIXTY_FOUR, true},
        {SIXTY_FOUR "0", false},
        {"", false},
        {".", false},
        {"..", false},
        {"a/b", false},
        {"a b", false},
        {"a%2f", false},
        {"a\n", false},
        {"a:b", false},
        {"a{b}", false},
        {"a@b", false},
        {"a[b", false},
        {"a`b", false},
        {"caf\xc3\xa9", false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(device_name_is_valid(cases[i].name, strlen(cases[i].name)),
                         cases[i].valid);
    assert_false(device_name_is_valid("a\0b", 3));
    assert_true(device_name_is_valid("ab/", 2));
}

static void digests_are_64_lower_case_hex_digits(void **state)
{
    char text[] = SIXTY_FOUR;

    assert_true(digest_is_valid(text, 64));
    assert_false(digest_is_valid(text, 63));
    assert_false(digest_is_valid(SIXTY_FOUR "0", 65));
    assert_false(digest_is_valid("", 0));
    for (const char *bad = "ABFG/:`gx \n"; *bad != '\0'; bad++) {
        text[63] = *bad;
        assert_false(digest_is_valid(text, 64));
    }
}

static void no_digest_equals_nothing(void **state)
{
    struct digest none = {""};
    struct digest one = make_key(1)->id;
    struct digest same = make_key(1)->id;
    struct digest other = one;

    other.hex[63] = other.hex[63] == '0' ? '1' : '0';
    assert_true(digest_equal(&one, &same));
    assert_false(digest_equal(&one, &other));
    assert_false(digest_equal(&one, &none));
    assert_false(digest_equal(&none, &one));
    assert_false(digest_equal(&none, &none));
}

static void a_zeroed_record_is_no_record(void **state)
{
    struct device_record record = {0};

    assert_false(record_exists(&record));
    assert_false(record_rotation_pending(&record));
    assert_false(digest_is_set(&record.current.id));
}

static void expired_leases_go_and_the_others_keep_their_order(void **state)
{
    struct device_record record = make_record();

    for (unsigned i = 0; i < WRITE_LEASES_MAX; i++)
        make_add_lease(&record, i, i % 3 == 0 ? 1000 : 1001 + (int64_t)i);
    record_drop_expired_leases(&record, 1000);
    assert_int_equal(record.n_leases, 10);
    assert_string_equal(record.leases[0].token, make_token(1));
    assert_string_equal(record.leases[1].token, make_token(2));
    assert_string_equal(record.leases[2].token, make_token(4));
    assert_string_equal(record.leases[9].token, make_token(14));
    assert_int_equal(record.leases[9].expires_ms, 1015);
    record_drop_expired_leases(&record, INT64_MAX);
    assert_int_equal(record.n_leases, 0);
}

static void times_do_not_wrap_round(void **state)
{
    assert_int_equal(time_after_ms(5, 6), 11);
    assert_true(time_after_ms(INT64_MAX, 1) == INT64_MAX);
    assert_true(time_after_ms(INT64_MAX - 1, INT64_MAX) == INT64_MAX);
    assert_true(time_after_ms(INT64_MIN, -1) == INT64_MIN);
    assert_true(time_between_ms(5, 11) == 6);
    assert_true(time_between_ms(11, 5) == -6);
    assert_true(time_between_ms(INT64_MIN, INT64_MAX) == INT64_MAX);
    assert_true(time_between_ms(INT64_MAX, INT64_MIN) == INT64_MIN);
    assert_true(time_between_ms(INT64_MIN, 0) == INT64_MAX);
}

static void a_verdict_is_set_with_nothing_to_change(void **state)
{
    struct decision decision;

    memset(&decision, 0xA5, sizeof(decision));
    decision_set(&decision, VERDICT_PASS, REASON_ADMITTED);
    assert_int_equal(decision.verdict, VERDICT_PASS);
    assert_int_equal(decision.reason, REASON_ADMITTED);
    assert_false(decision.commits);
    assert_false(decision.change.writes_record);
    assert_int_equal(decision.change.n_deny, 0);
    assert_int_equal(decision.change.n_allow, 0);
    assert_int_equal(decision.change.n_events, 0);
}

static void the_next_record_is_a_swept_copy_one_version_on(void **state)
{
    struct device_record record = make_record();
    struct device_record expected;
    struct decision decision;

    make_add_lease(&record, 1, 100);
    make_add_lease(&record, 2, 101);
    expected = record;
    expected.version++;
    expected.n_leases = 1;
    expected.leases[0] = record.leases[1];

    memset(&decision, 0xA5, sizeof(decision));
    decision_set(&decision, VERDICT_PASS, REASON_OK);
    struct device_record *next = decision_write_record(&decision, &record, 100);
    assert_null(record_difference(next, &expected));
    assert_true(decision.commits);
    assert_true(decision.change.writes_record);

    next->stalled = true;
    assert_ptr_equal(decision_write_record(&decision, &record, 100), next);
    assert_true(next->stalled);
    assert_int_equal(next->version, expected.version);
}

static void a_new_record_begins_empty_at_version_one(void **state)
{
    struct device_record none = {0};
    struct device_record expected = {.version = 1};
    struct decision decision;

    memset(&decision, 0xA5, sizeof(decision));
    decision_set(&decision, VERDICT_PASS, REASON_OK);
    assert_null(record_difference(decision_write_record(&decision, &none, 100), &expected));
}

static void an_added_event_leaves_nothing_undefined(void **state)
{
    struct device_record record = make_pending_record();
    struct device_event expected = {
        .type = EVENT_DEVICE_ROTATION_STALLED,
        .device = MAKE_DEVICE,
        .at_ms = 77,
        .rotation_id = "certs-1699996400",
        .generation = 4,
        .group = "group-a",
        .why = REASON_OK,
    };
    struct decision decision;

    memset(&decision, 0xA5, sizeof(decision));
    decision_set(&decision, VERDICT_PASS, REASON_OK);
    decision_add_event(&decision, EVENT_DEVICE_ROTATION_STALLED, &record, 77);
    assert_true(decision.commits);
    assert_false(decision.change.writes_record);
    assert_int_equal(decision.change.n_events, 1);
    assert_null(event_difference(&decision.change.events[0], &expected));
}

static void texts_are_cut_between_characters(void **state)
{
    char dst[TEXT_MAX + 1];
    char src[2 * TEXT_MAX];

    decision_copy_text(dst, NULL);
    assert_string_equal(dst, "");
    decision_copy_text(dst, "stolen");
    assert_string_equal(dst, "stolen");

    memset(src, 'x', sizeof(src));
    src[TEXT_MAX] = '\0';
    decision_copy_text(dst, src);
    assert_int_equal(strlen(dst), TEXT_MAX);
    src[TEXT_MAX] = 'y';
    src[TEXT_MAX + 1] = '\0';
    decision_copy_text(dst, src);
    assert_int_equal(strlen(dst), TEXT_MAX);

    /* A euro sign of three bytes, at each place around the end. */
    for (size_t at = TEXT_MAX - 4; at <= TEXT_MAX; at++) {
        memset(src, 'x', sizeof(src));
        memcpy(src + at, "\xe2\x82\xac", 3);
        src[sizeof(src) - 1] = '\0';
        decision_copy_text(dst, src);
        assert_int_equal(strlen(dst), at + 3 <= TEXT_MAX ? TEXT_MAX : at);
    }
}

static void wire_words_are_fixed(void **state)
{
    assert_string_equal(deny_kind_wire(DENY_KEY), "key");
    assert_string_equal(deny_kind_wire(DENY_CERTIFICATE), "certificate");
    assert_string_equal(deny_kind_wire(DENY_DEVICE), "device");
    assert_string_equal(deny_kind_wire((enum deny_kind)17), "unknown");
    assert_string_equal(event_wire(EVENT_DEVICE_FIRST_SEEN), "DEVICE_FIRST_SEEN");
    assert_string_equal(event_wire(EVENT_DEVICE_PUBKEY_CHANGE), "DEVICE_PUBKEY_CHANGE");
    assert_string_equal(event_wire(EVENT_DEVICE_ALLOWED), "DEVICE_ALLOWED");
    assert_string_equal(event_wire(EVENT_COUNT), "UNKNOWN");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_names_are_safe_path_segments),
        cmocka_unit_test(digests_are_64_lower_case_hex_digits),
        cmocka_unit_test(no_digest_equals_nothing),
        cmocka_unit_test(a_zeroed_record_is_no_record),
        cmocka_unit_test(expired_leases_go_and_the_others_keep_their_order),
        cmocka_unit_test(times_do_not_wrap_round),
        cmocka_unit_test(a_verdict_is_set_with_nothing_to_change),
        cmocka_unit_test(the_next_record_is_a_swept_copy_one_version_on),
        cmocka_unit_test(a_new_record_begins_empty_at_version_one),
        cmocka_unit_test(an_added_event_leaves_nothing_undefined),
        cmocka_unit_test(texts_are_cut_between_characters),
        cmocka_unit_test(wire_words_are_fixed),
    };

    return cmocka_run_group_tests_name("record", tests, NULL, NULL);
}
