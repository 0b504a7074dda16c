/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of verified certificates: what is found, and what is replaced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/tls/verdicts.h"

struct key {
    uint8_t bytes[DIGEST_SIZE];
};

/* Digests as they are: spread evenly. */
static struct key key_of(uint32_t number)
{
    struct key key;

    digest_sha256_bytes((const uint8_t *)&number, sizeof(number), key.bytes);
    return key;
}

static void put(struct verdicts *verdicts, uint32_t number)
{
    const struct chain_verdict verdict = {.issuer = number, .from_ms = 0, .until_ms = 1000};

    verdicts_put(verdicts, key_of(number).bytes, 500, &verdict);
}

static bool has(struct verdicts *verdicts, uint32_t number)
{
    struct chain_verdict verdict;
    bool found = verdicts_find(verdicts, key_of(number).bytes, 500, &verdict);

    assert_true(!found || verdict.issuer == number);
    return found;
}

static void a_verdict_stands_within_its_time(void **state)
{
    struct verdicts *verdicts = verdicts_new(100);
    const struct chain_verdict kept = {.issuer = SIZE_MAX, .from_ms = 1000, .until_ms = 2000};
    struct key key = key_of(1);
    struct chain_verdict found = {0};

    verdicts_put(verdicts, key.bytes, 999, &kept);
    verdicts_put(verdicts, key.bytes, 2000, &kept);
    assert_false(verdicts_find(verdicts, key.bytes, 1500, &found));
    verdicts_put(verdicts, key.bytes, 1000, &kept);
    assert_false(verdicts_find(verdicts, key.bytes, 999, &found));
    assert_false(verdicts_find(verdicts, key.bytes, 2000, &found));
    assert_true(verdicts_find(verdicts, key.bytes, 1999, &found));
    assert_true(found.issuer == SIZE_MAX);
    assert_int_equal(found.until_ms, 2000);
    assert_false(has(verdicts, 2));
    verdicts_free(&verdicts);
    assert_null(verdicts);
    verdicts_free(&verdicts);
}

static void a_new_verdict_replaces_the_old_one(void **state)
{
    struct verdicts *verdicts = verdicts_new(1);
    struct key key = key_of(7);
    struct chain_verdict verdict = {.issuer = 1, .until_ms = 1000}, found;

    for (size_t issuer = 0; issuer < 20; issuer++) {
        verdict.issuer = issuer;
        verdicts_put(verdicts, key.bytes, 500, &verdict);
        assert_true(verdicts_find(verdicts, key.bytes, 500, &found));
        assert_int_equal(found.issuer, issuer);
    }
    verdicts_free(&verdicts);
}

static void the_table_is_bounded(void **state)
{
    struct verdicts *verdicts = verdicts_new(100);
    size_t n = 0;

    for (uint32_t i = 0; i < 10000; i++) {
        put(verdicts, i);
        assert_true(has(verdicts, i));
    }
    for (uint32_t i = 0; i < 10000; i++)
        n += has(verdicts, i);
    assert_int_equal(n, 104); /* whole sets of eight, all full */
    verdicts_free(&verdicts);
}

static void what_was_not_used_for_the_longest_goes_first(void **state)
{
    struct verdicts *verdicts = verdicts_new(8); /* one set */

    for (uint32_t i = 0; i < 8; i++)
        put(verdicts, i);
    assert_true(has(verdicts, 0));
    put(verdicts, 8);
    assert_true(has(verdicts, 0));
    assert_false(has(verdicts, 1));
    put(verdicts, 9);
    assert_false(has(verdicts, 2));
    for (uint32_t i = 3; i < 10; i++)
        assert_true(has(verdicts, i));
    verdicts_free(&verdicts);
}

static void without_capacity_nothing_is_kept(void **state)
{
    struct verdicts *verdicts = verdicts_new(0);

    put(verdicts, 1);
    assert_false(has(verdicts, 1));
    verdicts_free(&verdicts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_verdict_stands_within_its_time),
        cmocka_unit_test(a_new_verdict_replaces_the_old_one),
        cmocka_unit_test(the_table_is_bounded),
        cmocka_unit_test(what_was_not_used_for_the_longest_goes_first),
        cmocka_unit_test(without_capacity_nothing_is_kept),
    };
    return cmocka_run_group_tests_name("verdicts", tests, NULL, NULL);
}
