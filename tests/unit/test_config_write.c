/* SPDX-License-Identifier: BSD-2-Clause */
/* Which key does a config write name? Whatever a backend might read as naming one must be read, or
 * refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "gateway/config_write.h"

#define PEM                                                                                        \
    "-----BEGIN PUBLIC KEY-----\\n"                                                                \
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEwR79ccZAOmaZRc/38IP5cLA3LcbY\\n"                          \
    "31WzXpom9f3ZnUULLWZlx9npx/ug6SEO4FBbFXPQDvVQLnBUKiucu98aaw==\\n"                              \
    "-----END PUBLIC KEY-----\\n"
/* SHA-256 of its DER, by openssl pkey -pubin -outform DER | sha256sum. */
#define KEY_ID "91da3102490d3be4459133bd79d306ef87937afea70c5f733500739b8fbe461c"

#define OTHER_ID "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

struct write_case {
    const char *type;     /* Content-Type; NULL: none */
    const char *encoding; /* Content-Encoding; NULL: none */
    const char *header;   /* Device-Key; NULL: none */
    const char *header2;
    const char *body;
    enum reason reason;
    const char *key; /* NULL: none */
};

static const struct write_case cases[] = {
    {.body = "", .reason = REASON_OK},
    {.body = "{}", .reason = REASON_OK},
    {.type = "application/json", .body = "{\"public-key\": \"\"}", .reason = REASON_OK},
    {.type = "application/json", .body = "{\"public-key\": null}", .reason = REASON_OK},
    {.type = "application/json",
     .body = "{\"public-key\": \"" PEM "\"}",
     .reason = REASON_OK,
     .key = KEY_ID},
    {.type = "application/json; charset=utf-8",
     .body = "{\"public-key\":\"" PEM "\"}",
     .reason = REASON_OK,
     .key = KEY_ID},
    {.type = "application/merge-patch+json",
     .body = "{\"public-key\":\"" PEM "\"}",
     .reason = REASON_OK,
     .key = KEY_ID},
    {.body = "{\"public-key\":\"" PEM "\"}", .reason = REASON_OK, .key = KEY_ID},
    /* A lie about the type does not hide the key. */
    {.type = "text/plain",
     .body = " \n{\"public-key\":\"" PEM "\"}",
     .reason = REASON_OK,
     .key = KEY_ID},
    {.type = "text/plain",
     .body = "\xef\xbb\xbf{\"public-key\":\"x\"}",
     .reason = REASON_CONFIG_BODY_INVALID},
    {.type = "text/plain", .body = "{oops", .reason = REASON_CONFIG_BODY_INVALID},
    {.type = "text/plain", .body = "just text", .reason = REASON_OK},
    {.type = "application/json", .body = "just text", .reason = REASON_CONFIG_BODY_INVALID},
    {.type = "application/json", .body = "{\"public-key\":1}", .reason = REASON_CONFIG_KEY_INVALID},
    {.type = "application/json",
     .body = "{\"public-key\":\"x\"}",
     .reason = REASON_CONFIG_KEY_INVALID},
    /* Two members of one name: parsers disagree which one counts. */
    {.type = "application/json",
     .body = "{\"public-key\":\"\",\"public-key\":\"" PEM "\"}",
     .reason = REASON_CONFIG_BODY_INVALID},
    {.type = "application/json", .body = "{} {}", .reason = REASON_CONFIG_BODY_INVALID},
    {.encoding = "gzip", .body = "{}", .reason = REASON_CONFIG_BODY_ENCODED},
    {.encoding = "Identity", .body = "{}", .reason = REASON_OK},
    {.header = OTHER_ID, .body = "", .reason = REASON_OK, .key = OTHER_ID},
    {.header = OTHER_ID, .header2 = OTHER_ID, .body = "", .reason = REASON_CONFIG_KEY_INVALID},
    {.header = "", .body = "", .reason = REASON_CONFIG_KEY_INVALID},
    {.header = "AAAA", .body = "", .reason = REASON_CONFIG_KEY_INVALID},
    {.header = OTHER_ID,
     .body = "{\"public-key\":\"" PEM "\"}",
     .reason = REASON_CONFIG_KEY_CONFLICT},
    {.header = OTHER_ID, .body = "{\"public-key\":\"\"}", .reason = REASON_OK, .key = OTHER_ID},
};

static void add_field(struct http_head *head, struct http_field *fields, const char *name,
                      const char *value)
{
    if (value != NULL)
        fields[head->n_fields++] = (struct http_field){str_c(name), str_c(value)};
}

static void the_named_key_is_found_or_the_write_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct http_field fields[4];
        struct http_head head = {.fields = fields};
        struct digest key = {0};

        add_field(&head, fields, "Content-Type", cases[i].type);
        add_field(&head, fields, "content-encoding", cases[i].encoding);
        add_field(&head, fields, "device-key", cases[i].header);
        add_field(&head, fields, "Device-Key", cases[i].header2);
        enum reason reason = config_write_named_key(&head, str_c(cases[i].body), &key);
        if (reason != cases[i].reason)
            print_error("case %zu: %s, not %s\n", i, reason_wire(reason),
                        reason_wire(cases[i].reason));
        assert_int_equal(reason, cases[i].reason);
        assert_string_equal(key.hex, cases[i].key != NULL ? cases[i].key : "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_named_key_is_found_or_the_write_refused)};
    return cmocka_run_group_tests_name("config_write", tests, NULL, NULL);
}
