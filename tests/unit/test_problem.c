/* SPDX-License-Identifier: BSD-2-Clause */
/* Every refusal must be JSON, whatever its row in the table and whatever a peer put into the
 * detail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "gateway/http/problem.h"

static void every_reason_is_a_valid_problem_document(void **state)
{
    static const char detail[] = "say \"no\"\\\n\x01\xff";

    for (int reason = 0; reason < REASON_COUNT; reason++) {
        char text[PROBLEM_MAX];
        size_t len =
            problem_format((enum reason)reason, reason % 2 == 0 ? detail : NULL, "0123", text);
        json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
        assert_non_null(json);
        assert_string_equal(json_string_value(json_object_get(json, "reason")),
                            reason_wire((enum reason)reason));
        assert_string_equal(json_string_value(json_object_get(json, "title")),
                            reason_text((enum reason)reason));
        assert_int_equal(json_integer_value(json_object_get(json, "status")),
                         reason_status((enum reason)reason));
        assert_string_equal(json_string_value(json_object_get(json, "request_id")), "0123");
        assert_int_equal(json_object_get(json, "detail") != NULL, reason % 2 == 0);
        json_decref(json);
    }
}

static void a_long_detail_is_cut_and_stays_json(void **state)
{
    char detail[4000], text[PROBLEM_MAX];

    memset(detail, '"', sizeof(detail) - 1);
    detail[sizeof(detail) - 1] = '\0';
    size_t len = problem_format(REASON_REASON_REQUIRED, detail, "0123", text);
    assert_true(len < PROBLEM_MAX);
    json_t *json = json_loadb(text, len, 0, NULL);
    assert_non_null(json);
    json_decref(json);
}

/* The announcement's is a promise; a lock is no overload. */
static void a_fleet_comes_back_spread_out(void **state)
{
    for (uint32_t random = 0; random < 100; random++) {
        assert_int_equal(problem_retry_after(REASON_CONFIG_WRITES_BUSY, random), 1);
        assert_int_equal(problem_retry_after(REASON_CONFIG_LOCKED, random), 5);
        assert_int_equal(problem_retry_after(REASON_KEY_DENIED, random), 0);
        assert_in_range(problem_retry_after(REASON_STORE_UNAVAILABLE, random), 5, 10);
    }
    assert_int_equal(problem_retry_after(REASON_STORE_UNAVAILABLE, 0), 5);
    assert_int_equal(problem_retry_after(REASON_STORE_UNAVAILABLE, 5), 10);
    assert_in_range(problem_retry_after(REASON_STORE_UNAVAILABLE, UINT32_MAX), 5, 10);
}

static void overload_is_never_final(void **state)
{
    for (int reason = 0; reason < REASON_COUNT; reason++)
        assert_int_not_equal(reason_status((enum reason)reason), 429);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_reason_is_a_valid_problem_document),
        cmocka_unit_test(a_long_detail_is_cut_and_stays_json),
        cmocka_unit_test(a_fleet_comes_back_spread_out),
        cmocka_unit_test(overload_is_never_final),
    };
    return cmocka_run_group_tests_name("problem", tests, NULL, NULL);
}
