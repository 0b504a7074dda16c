/* SPDX-License-Identifier: BSD-2-Clause */
/* What the store writes, and how strictly it reads it again; no Redis is needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>

#include "gateway/base/mem.h"
#include "gateway/store/address.h"
#include "gateway/store/codec.h"
#include "gateway/store/event_json.h"
#include "gateway/store/refusal.h"

#define HEX_A   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HEX_B   "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define TOKEN_1 "0123456789abcdef0123456789abcdef"
#define TOKEN_2 "fedcba9876543210fedcba9876543210"
#define PEM_A   "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
#define PEM_B   "-----BEGIN PUBLIC KEY-----\nBBBB\n-----END PUBLIC KEY-----\n"

static const struct device_record steady = {
    .version = 7,
    .name = "device-1",
    .factory = "plant",
    .group = "north wing",
    .production = true,
    .first_seen_ms = 1669674589123,
    .generation = 3,
    .current = {.id = {HEX_A}, .pem = PEM_A},
    .current_since_ms = 1669674589124,
    .current_cert_expires_ms = -1,
};

/* Field by field, so that what lies between them stays zero and records can be compared whole. */
static void add_lease(struct device_record *record, const char *token, int64_t expires_ms)
{
    struct write_lease *lease = &record->leases[record->n_leases++];

    memcpy(lease->token, token, sizeof(lease->token));
    lease->expires_ms = expires_ms;
}

static struct device_record rotating(void)
{
    struct device_record record = steady;

    record.pending = (struct pubkey){.id = {HEX_B}, .pem = PEM_B};
    record.pending_since_ms = 1669674589200;
    (void)snprintf(record.rotation_id, sizeof(record.rotation_id), "certs-1669674589");
    record.stalled = true;
    record.wanted_until_ms = 1669674660000;
    add_lease(&record, TOKEN_1, 1669674600000);
    add_lease(&record, TOKEN_2, INT64_MAX);
    return record;
}

/* The fields of a command that holds one list. */
static size_t fields_of(const struct command *command, struct field *out)
{
    size_t n = 0;

    for (size_t i = 1; i + 1 < command->n_pieces; i += 2, n++)
        out[n] = (struct field){command->pieces[i].text, command->pieces[i + 1].text};
    uint64_t count;
    assert_true(str_to_u64(command->pieces[0].text, &count));
    assert_int_equal(count, 2 * n);
    return n;
}

static void assert_record_comes_back(const struct device_record *record)
{
    struct codec_scratch scratch;
    struct command command;
    struct field fields[CODEC_FIELDS_MAX];
    struct device_record again;
    const char *wrong = NULL;

    command_init(&command);
    codec_add_record(record, &scratch, &command);
    size_t n = fields_of(&command, fields);
    if (!codec_read_record(fields, n, &again, &wrong))
        fail_msg("%s", wrong);
    assert_memory_equal(&again, record, sizeof(again));
}

static void a_record_comes_back_as_it_was(void **state)
{
    struct device_record record = rotating();

    assert_record_comes_back(&steady);
    assert_record_comes_back(&record);
    record.current_cert_expires_ms = INT64_MIN;
    memset(record.factory, 0, sizeof(record.factory));
    memset(record.group, 0, sizeof(record.group));
    record.n_leases = 0;
    memset(record.leases, 0, sizeof(record.leases));
    assert_record_comes_back(&record);
}

static void the_largest_record_fits_into_a_command(void **state)
{
    struct device_record record = rotating();

    memset(record.factory, 'f', LABEL_MAX);
    memset(record.group, 'g', LABEL_MAX);
    memset(record.current.pem, 'p', PUBKEY_PEM_MAX);
    memset(record.pending.pem, 'q', PUBKEY_PEM_MAX);
    record.version = record.generation = INT64_MAX;
    record.first_seen_ms = record.current_since_ms = record.pending_since_ms = INT64_MIN;
    record.n_leases = 0;
    while (record.n_leases < WRITE_LEASES_MAX)
        add_lease(&record, TOKEN_1, INT64_MIN);
    assert_record_comes_back(&record);
}

static void a_steady_record_says_nothing_of_a_rotation(void **state)
{
    struct codec_scratch scratch;
    struct command command;
    struct field fields[CODEC_FIELDS_MAX];
    static const char *const absent[] = {"pending", "pending_pem", "pending_since", "rotation_id",
                                         "stalled", "leases",      "wanted_until"};

    command_init(&command);
    codec_add_record(&steady, &scratch, &command);
    size_t n = fields_of(&command, fields);
    for (size_t i = 0; i < ARRAY_SIZE(absent); i++)
        assert_null(codec_find(fields, n, absent[i]).p);
    assert_true(str_eq(codec_find(fields, n, "current_cert_expires"), STR("-1")));
    assert_true(str_eq(codec_find(fields, n, "production"), STR("1")));
}

static void records_are_read_strictly(void **state)
{
    static const struct {
        const char *field;
        struct str value; /* NULL: the field is missing */
        const char *wrong;
    } cases[] = {
        {"version", {NULL, 0}, "version"},
        {"version", STR("0"), "version"},
        {"version", STR("-1"), "version"},
        {"version", STR("7 "), "version"},
        {"version", STR("18446744073709551616"), "version"},
        {"name", {NULL, 0}, "name"},
        {"name", STR(".."), "name"},
        {"name", STR("a\0b"), "name"},
        {"production", STR("yes"), "production"},
        {"production", STR(""), "production"},
        {"production", {NULL, 0}, "production"},
        {"first_seen", {NULL, 0}, "first_seen"},
        {"first_seen", STR("9223372036854775808"), "first_seen"},
        {"first_seen", STR("--1"), "first_seen"},
        {"generation", {NULL, 0}, "generation"},
        {"current", {NULL, 0}, "current"},
        {"current", STR("AAAA"), "current"},
        {"current_pem", {NULL, 0}, "current_pem"},
        {"current_pem", STR(""), "current_pem"},
        {"current_pem", STR("a\0b"), "current_pem"},
        {"current_since", {NULL, 0}, "current_since"},
        {"current_cert_expires", {NULL, 0}, "current_cert_expires"},
        {"factory", STR("0123456789012345678901234567890123456789012345678901234567890123456789"),
         "factory"},
        {"pending", {NULL, 0}, "pending_pem"},
        {"pending_pem", {NULL, 0}, "pending_pem"},
        {"pending_since", {NULL, 0}, "pending_since"},
        {"stalled", STR("2"), "stalled"},
        {"leases", STR("x:1"), "leases"},
        {"leases", STR(TOKEN_1), "leases"},
        {"leases", STR(TOKEN_1 ":"), "leases"},
        {"leases", STR(TOKEN_1 ":1 "), "leases"},
        {"leases", STR(" " TOKEN_1 ":1"), "leases"},
        {"leases", STR(TOKEN_1 ":1:2"), "leases"},
    };
    struct device_record record = rotating();

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct codec_scratch scratch;
        struct command command;
        struct field fields[CODEC_FIELDS_MAX];
        struct device_record out = steady;
        const char *wrong = NULL;

        command_init(&command);
        codec_add_record(&record, &scratch, &command);
        size_t n = fields_of(&command, fields);
        for (size_t j = 0; j < n; j++) {
            if (!str_eq(fields[j].name, str_c(cases[i].field)))
                continue;
            fields[j].value = cases[i].value;
            if (cases[i].value.p == NULL)
                fields[j] = fields[--n];
        }
        assert_false(codec_read_record(fields, n, &out, &wrong));
        assert_string_equal(wrong, cases[i].wrong);
        assert_memory_equal(&out, &steady, sizeof(out));
    }
}

static void unknown_fields_are_passed_over(void **state)
{
    struct codec_scratch scratch;
    struct command command;
    struct field fields[CODEC_FIELDS_MAX];
    struct device_record again;
    const char *wrong = NULL;

    command_init(&command);
    codec_add_record(&steady, &scratch, &command);
    size_t n = fields_of(&command, fields);
    fields[n++] = (struct field){STR("from-the-future"), STR("\0\xff")};
    assert_true(codec_read_record(fields, n, &again, &wrong));
    assert_memory_equal(&again, &steady, sizeof(again));
}

static void a_denial_comes_back_as_it_was(void **state)
{
    static const struct denial cases[] = {
        {.reason = "stolen", .origin = "operator uid 0", .at_ms = 1, .until_ms = 0},
        {.device = "device-1", .reason = "x", .origin = "", .at_ms = 5, .until_ms = 1700000000000},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct command command;
        struct field fields[CODEC_FIELDS_MAX];
        struct denial again;
        const char *wrong = NULL;

        command_init(&command);
        codec_add_denial(&cases[i], &command);
        size_t n = fields_of(&command, fields);
        assert_true(codec_read_denial(fields, n, &again, &wrong));
        assert_memory_equal(&again, &cases[i], sizeof(again));
        assert_false(codec_read_denial(fields, 2, &again, &wrong));
        assert_string_equal(wrong, "at");
    }
}

static void commands_are_resp(void **state)
{
    struct command command;
    char head[COMMAND_HEAD_SIZE];
    size_t len;

    command_init(&command);
    command_add(&command, STR("GET"));
    command_add(&command, STR("a"));
    command_extend(&command, STR(""));
    command_extend(&command, STR(":b\r\n"));
    command_add_int(&command, -42);
    command_add(&command, STR(""));
    char *text = command_write(&command, &len);
    assert_true(str_eq((struct str){text, len},
                       STR("$3\r\nGET\r\n$5\r\na:b\r\n\r\n$3\r\n-42\r\n$0\r\n\r\n")));
    mem_free(text);
    len = command_write_head(command.n_args, head);
    assert_true(str_eq((struct str){head, len}, STR("*4\r\n")));
    len = command_write_head(1234567, head);
    assert_true(str_eq((struct str){head, len}, STR("*1234567\r\n")));
}

static void a_key_change_is_announced_as_the_contract_says(void **state)
{
    const struct device_event event = {
        .type = EVENT_DEVICE_PUBKEY_CHANGE,
        .device = "device-1",
        .at_ms = 1669674589123,
        .old_key = {.id = {HEX_A}, .pem = PEM_A},
        .new_key = {.id = {HEX_B}, .pem = PEM_B},
        .rotation_id = "certs-1669674589",
        .generation = 4,
        .group = "north wing",
    };
    char *text = event_json(&event);

    assert_string_equal(
        text, "{\"Uuid\":\"device-1\",\"DeviceGroupId\":\"north wing\","
              "\"Time\":\"2022-11-28T22:29:49.123Z\","
              "\"NewPubKey\":\"-----BEGIN PUBLIC KEY-----\\nBBBB\\n-----END PUBLIC KEY-----\\n\","
              "\"OldPubKey\":\"-----BEGIN PUBLIC KEY-----\\nAAAA\\n-----END PUBLIC KEY-----\\n\","
              "\"rotation\":{\"id\":\"certs-1669674589\",\"generation\":4,\"new_key\":\"" HEX_B
              "\",\"old_key\":\"" HEX_A "\"}}");
    mem_free(text);
}

static void other_events_say_what_they_know(void **state)
{
    const struct device_event refused = {
        .type = EVENT_DEVICE_KEY_REFUSED,
        .device = "device-1",
        .at_ms = 1669674589123,
        .new_key = {.id = {HEX_A}},
        .why = REASON_KEY_NOT_ANNOUNCED,
    };
    const struct device_event denied = {
        .type = EVENT_DEVICE_DENIED,
        .at_ms = 1669674589123,
        .reason = "caf\xe9 \"x\"",
        .origin = "operator uid 0",
        .cut = CUT_NOW,
        .cut_kind = DENY_CERTIFICATE,
        .cut_id = HEX_B,
    };
    char *text = event_json(&refused);
    assert_string_equal(text, "{\"device\":\"device-1\",\"time\":\"2022-11-28T22:29:49.123Z\","
                              "\"new_key\":\"" HEX_A "\",\"why\":\"key-not-announced\"}");
    mem_free(text);
    text = event_json(&denied);
    assert_string_equal(text, "{\"time\":\"2022-11-28T22:29:49.123Z\",\"kind\":\"certificate\","
                              "\"id\":\"" HEX_B "\",\"reason\":\"caf\xc3\xa9 \\\"x\\\"\","
                              "\"origin\":\"operator uid 0\"}");
    mem_free(text);
}

static void addresses_are_taken_apart(void **state)
{
    static const struct {
        const char *text;
        bool is_valid;
        struct store_address address;
    } cases[] = {
        {"redis://localhost:6380", true, {.host = "localhost", .port = 6380}},
        {"redis://h", true, {.host = "h", .port = 6379}},
        {"redis://h/", true, {.host = "h", .port = 6379}},
        {"redis://h:1/12", true, {.host = "h", .port = 1, .database = 12}},
        {"rediss://r.example:6379", true, {.is_tls = true, .host = "r.example", .port = 6379}},
        {"redis://[::1]:6380/2", true, {.host = "::1", .port = 6380, .database = 2}},
        {"redis://[::1]", true, {.host = "::1", .port = 6379}},
        {"unix:/run/redis.sock", true, {.is_unix = true, .path = "/run/redis.sock"}},
        {"", false, {0}},
        {"localhost:6379", false, {0}},
        {"http://h", false, {0}},
        {"redis://", false, {0}},
        {"redis://:6379", false, {0}},
        {"redis://h:", false, {0}},
        {"redis://h:0", false, {0}},
        {"redis://h:65536", false, {0}},
        {"redis://h:1:2", false, {0}},
        {"redis://user:secret@h:1", false, {0}},
        {"redis://[::1", false, {0}},
        {"redis://[::1]x", false, {0}},
        {"redis://h/one", false, {0}},
        {"redis://h/1/2", false, {0}},
        {"unix:", false, {0}},
        {"unix:/0123456789012345678901234567890123456789012345678901234567890123456789012345678901"
         "23456789012345678901234567",
         false,
         {0}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct store_address address = {0};
        char error[256] = "";
        bool is_valid = store_address_parse(cases[i].text, &address, error, sizeof(error));
        if (is_valid != cases[i].is_valid)
            fail_msg("%s: %s", cases[i].text, error);
        assert_memory_equal(&address, &cases[i].address, sizeof(address));
        assert_int_equal(error[0] == '\0', is_valid);
    }
}

static void refusals_are_told_apart(void **state)
{
    static const struct {
        const char *text;
        enum refusal refusal;
        enum store_result result;
        bool resets;
    } cases[] = {
        {"READONLY You can't write against a read only replica.", REFUSAL_READONLY,
         STORE_UNAVAILABLE, true},
        {"LOADING Redis is loading the dataset in memory", REFUSAL_LOADING, STORE_UNAVAILABLE,
         true},
        {"OOM command not allowed when used memory > 'maxmemory'.", REFUSAL_OOM, STORE_UNAVAILABLE,
         false},
        {"WRONGTYPE Operation against a key holding the wrong kind of value", REFUSAL_WRONGTYPE,
         STORE_INVALID, false},
        {"NOSCRIPT No matching script.", REFUSAL_NOSCRIPT, STORE_UNAVAILABLE, false},
        {"NOPERM", REFUSAL_NOPERM, STORE_UNAVAILABLE, false},
        {"ERR whatever", REFUSAL_OTHER, STORE_UNAVAILABLE, false},
        {"", REFUSAL_OTHER, STORE_UNAVAILABLE, false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        enum refusal refusal = refusal_classify(cases[i].text);
        assert_int_equal(refusal, cases[i].refusal);
        assert_int_equal(refusal_result(refusal), cases[i].result);
        assert_int_equal(refusal_resets_link(refusal), cases[i].resets);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_comes_back_as_it_was),
        cmocka_unit_test(the_largest_record_fits_into_a_command),
        cmocka_unit_test(a_steady_record_says_nothing_of_a_rotation),
        cmocka_unit_test(records_are_read_strictly),
        cmocka_unit_test(unknown_fields_are_passed_over),
        cmocka_unit_test(a_denial_comes_back_as_it_was),
        cmocka_unit_test(commands_are_resp),
        cmocka_unit_test(a_key_change_is_announced_as_the_contract_says),
        cmocka_unit_test(other_events_say_what_they_know),
        cmocka_unit_test(addresses_are_taken_apart),
        cmocka_unit_test(refusals_are_told_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
