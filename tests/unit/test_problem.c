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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_reason_is_a_valid_problem_document),
        cmocka_unit_test(a_long_detail_is_cut_and_stays_json),
    };
    return cmocka_run_group_tests_name("problem", tests, NULL, NULL);
}
