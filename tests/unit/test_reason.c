/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of reasons: its rows are whole, and its wire names are what clients were promised. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "policy/reason.h"

static const char *const enumerators[REASON_COUNT] = {
#define ENUMERATOR_TEXT(name, wire, status, level, text) #name,
    REASON_TABLE(ENUMERATOR_TEXT)
#undef ENUMERATOR_TEXT
};

static void zero_is_a_refusal(void **state)
{
    enum reason zeroed = (enum reason)0;

    assert_int_equal(zeroed, REASON_UNDECIDED);
    assert_int_equal(reason_status(zeroed), 503);
    assert_int_equal(reason_level(zeroed), REASON_LEVEL_ERROR);
}

static void wire_name_is_the_enumerator_in_kebab_case(void **state)
{
    for (int i = 0; i < REASON_COUNT; i++) {
        char expected[64];
        size_t len = strlen(enumerators[i]);

        assert_true(len < sizeof(expected));
        for (size_t c = 0; c <= len; c++)
            expected[c] = enumerators[i][c] == '_' ? '-' : (char)tolower(enumerators[i][c]);
        assert_string_equal(reason_wire((enum reason)i), expected);
    }
}

static void every_row_is_whole(void **state)
{
    for (int i = 0; i < REASON_COUNT; i++) {
        enum reason reason = (enum reason)i;
        int status = reason_status(reason);
        const char *text = reason_text(reason);

        assert_true(status == 0 || status == 200 || (status >= 400 && status < 600));
        assert_in_range(reason_level(reason), REASON_LEVEL_DEBUG, REASON_LEVEL_ERROR);
        assert_true(isupper((unsigned char)text[0]));
        assert_int_equal(text[strlen(text) - 1], '.');
        assert_null(strpbrk(text, "\n\t"));
    }
}

static void a_value_outside_the_table_reads_as_undecided(void **state)
{
    assert_string_equal(reason_wire(REASON_COUNT), "undecided");
    assert_string_equal(reason_wire((enum reason) - 1), "undecided");
    assert_int_equal(reason_status((enum reason)12345), 503);
}

/* What devices, operators and backends branch on. A row that has to change here breaks them. */
static void the_contract_with_clients_is_kept(void **state)
{
    static const struct {
        enum reason reason;
        const char *wire;
        int status;
    } contract[] = {
        {REASON_KEY_DENIED, "key-denied", 403},
        {REASON_CERTIFICATE_DENIED, "certificate-denied", 403},
        {REASON_DEVICE_DENIED, "device-denied", 403},
        {REASON_ISSUER_REVOKED, "issuer-revoked", 403},
        {REASON_ISSUER_DISABLED, "issuer-disabled", 403},
        {REASON_DEVICE_UNKNOWN, "device-unknown", 403},
        {REASON_KEY_NOT_ANNOUNCED, "key-not-announced", 403},
        {REASON_KEY_NOT_PROVEN, "key-not-proven", 503},
        {REASON_ANNOUNCED, "announced", 200},
        {REASON_ANNOUNCED_BEFORE, "announced-before", 200},
        {REASON_ANNOUNCEMENT_REPLACED, "announcement-replaced", 200},
        {REASON_ANNOUNCEMENT_OUTDATED, "announcement-outdated", 503},
        {REASON_CONFIG_WRITES_BUSY, "config-writes-busy", 503},
        {REASON_CONFIG_LOCKED, "config-locked", 423},
        {REASON_CONFIG_KEY_STALE, "config-key-stale", 412},
        {REASON_CONFIG_WRITES_FULL, "config-writes-full", 503},
        {REASON_STORE_UNAVAILABLE, "store-unavailable", 503},
    };

    for (size_t i = 0; i < sizeof(contract) / sizeof(contract[0]); i++) {
        assert_string_equal(reason_wire(contract[i].reason), contract[i].wire);
        assert_int_equal(reason_status(contract[i].reason), contract[i].status);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zero_is_a_refusal),
        cmocka_unit_test(wire_name_is_the_enumerator_in_kebab_case),
        cmocka_unit_test(every_row_is_whole),
        cmocka_unit_test(a_value_outside_the_table_reads_as_undecided),
        cmocka_unit_test(the_contract_with_clients_is_kept),
    };

    return cmocka_run_group_tests_name("reason", tests, NULL, NULL);
}
