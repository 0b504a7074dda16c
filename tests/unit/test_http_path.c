/* SPDX-License-Identifier: BSD-2-Clause */
/* Targets in their disguises: each is either brought to the one form that rules know, or refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "gateway/http/path.h"

struct expected {
    const char *path;  /* NULL: refused */
    const char *query; /* NULL: any */
    const char *host;  /* NULL: any */
};

/* Parses a copy of exact size, so that a sanitizer sees every byte that is read too far. */
static void check(struct str target, struct expected expected)
{
    struct http_target result = {.path = NULL};
    char *copy = malloc(target.len > 0 ? target.len : 1);
    assert_non_null(copy);
    memcpy(copy, target.p, target.len);

    bool valid = http_target_parse(STR("PATCH"), (struct str){copy, target.len}, &result);
    if (valid != (expected.path != NULL) || (valid && strcmp(result.path, expected.path) != 0)) {
        print_error("target: %.*s\npath: %s\n", STR_ARGS(target),
                    valid ? result.path : "(refused)");
        fail();
    }
    assert_true(valid || result.path == NULL);
    if (valid && expected.query != NULL)
        assert_true(str_eq(result.query, str_c(expected.query)));
    if (valid && expected.host != NULL)
        assert_true(str_eq(result.host, str_c(expected.host)));
    http_target_clear(&result);
    assert_null(result.path);
    free(copy);
}

struct example {
    const char *target;
    const char *path; /* NULL: refused */
};

static void check_all(const struct example *examples, size_t n)
{
    for (size_t i = 0; i < n; i++)
        check(str_c(examples[i].target), (struct expected){.path = examples[i].path});
}

static void disguises_of_one_path_become_that_path(void **state)
{
    static const struct example examples[] = {
        {"/config", "/config"},
        {"/./config", "/config"},
        {"/%63onfig", "/config"},
        {"/%63%6F%6e%66%69%67", "/config"},
        {"//config", "/config"},
        {"///config", "/config"},
        {"/.//./config", "/config"},
        {"/%2e/config", "/config"},
        {"/%2E%2e/config", NULL},
        {"/x/../config", "/config"},
        {"/x/%2e%2E/config", "/config"},
        {"/x/.%2e/config", "/config"},
        {"/x//../config", "/config"},
        {"/x/y/../../config", "/config"},
        {"/x/y/z/.././../../config", "/config"},
        {"/config?", "/config"},
        {"/config?a=/../b;c", "/config"},
        {"/x/..?/config", "/"},
        {"http://h/config", "/config"},
        {"HTTPS://H:443/./config", "/config"},
        {"http://h//config?q", "/config"},
        {"/config;", NULL},
        {"/config;x", NULL},
        {"/config;x=y", NULL},
        {"/;x/config", NULL},
        {"/..;/config", NULL},
        {"/config%3b", NULL},
        {"/config%3Bx", NULL},
        {"/%2563onfig", NULL},
        {"/%25%36%33onfig", NULL},
        {"/%25%2e", "/%25."},
        {"/%252e", NULL},
        {"/100%25", "/100%25"},
        {"/100%25/63", "/100%25/63"},
        {"/%2fconfig", NULL},
        {"/x%2F..%2fconfig", NULL},
        {"\\config", NULL},
        {"/\\config", NULL},
        {"/%5cconfig", NULL},
        {"/%5Cconfig", NULL},
        {"/config#", NULL},
        {"/config#x", NULL},
        {"/config%23", "/config%23"},
        {"/config%3fx", "/config%3Fx"},
        {"/config%00", NULL},
        {"/config%0a", NULL},
        {"/config%0D%0A", NULL},
        {"/config%7f", NULL},
        {"/config%1F", NULL},
        {"/config%20", "/config%20"},
        {"/config%", NULL},
        {"/config%2", NULL},
        {"/config%zz", NULL},
        {"/config%6", NULL},
        {"/config%6z", NULL},
        {"/config% 63", NULL},
        {"/config%+6", NULL},
        {"/config%u0063", NULL},
        {"/config ", NULL},
        {" /config", NULL},
        {"config", NULL},
        {"./config", NULL},
        {"%2fconfig", NULL},
        {"?/config", NULL},
    };

    check_all(examples, ARRAY_SIZE(examples));
}

static void dot_segments_end_at_the_root(void **state)
{
    static const struct example examples[] = {
        {"/", "/"},           {"//", "/"},         {"/.", "/"},           {"/./", "/"},
        {"/a/.", "/a/"},      {"/a/./", "/a/"},    {"/a/..", "/"},        {"/a/../", "/"},
        {"/a/b/..", "/a/"},   {"/a/b/../", "/a/"}, {"/a/b/../c", "/a/c"}, {"/a//", "/a/"},
        {"/a/", "/a/"},       {"/..", NULL},       {"/../", NULL},        {"/../a", NULL},
        {"//..", NULL},       {"/./..", NULL},     {"/a/../..", NULL},    {"/a/../../a", NULL},
        {"/a/.././..", NULL}, {"/...", "/..."},    {"/.../..", "/"},      {"/.a", "/.a"},
        {"/..a", "/..a"},     {"/a.", "/a."},      {"/a..", "/a.."},      {"/.%2e.", "/..."},
    };

    check_all(examples, ARRAY_SIZE(examples));
}

static void encoded_text_must_be_utf8(void **state)
{
    static const struct example examples[] = {
        {"/%c3%a9", "/%C3%A9"},
        {"/%E2%82%AC", "/%E2%82%AC"},
        {"/%f0%9f%98%80/x", "/%F0%9F%98%80/x"},
        {"/%f4%8f%bf%bf", "/%F4%8F%BF%BF"},
        {"/%c0%af", NULL}, /* an overlong slash */
        {"/%c0%ae%c0%ae/", NULL},
        {"/%c1%9c", NULL},
        {"/%e0%80%af", NULL},
        {"/%f0%80%80%af", NULL},
        {"/%ed%a0%80", NULL}, /* half a surrogate pair */
        {"/%f4%90%80%80", NULL},
        {"/%f5%80%80%80", NULL},
        {"/%e9", NULL},
        {"/%80", NULL},
        {"/%c3", NULL},
        {"/%c3/%a9", NULL},
        {"/%c3a", NULL},
        {"/%c3%41", NULL},
        {"/%e2%82", NULL},
        {"/%e2%82x%ac", NULL},
        {"/%c3%a9%a9", NULL},
        {"/%fe", NULL},
        {"/%ff", NULL},
    };

    check_all(examples, ARRAY_SIZE(examples));
}

static bool is_unreserved(int c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c > 0 && strchr("-._~", c) != NULL);
}

/* RFC 3986, pchar, but for ';', which begins path parameters. */
static bool may_stand_raw(int c)
{
    return is_unreserved(c) || (c > 0 && strchr("!$&'()*+,=:@", c) != NULL);
}

static bool may_stand_encoded(int c)
{
    return c >= 0x20 && c < 0x7f && c != '/' && c != '\\' && c != ';';
}

static void every_raw_byte_is_judged(void **state)
{
    for (int c = 0; c < 256; c++) {
        char text[8];

        (void)snprintf(text, sizeof(text), "/a%cb", c);
        if (c == '?')
            check((struct str){text, 4}, (struct expected){.path = "/a", .query = "?b"});
        else
            check((struct str){text, 4},
                  (struct expected){.path = may_stand_raw(c) || c == '/' ? text : NULL});

        (void)snprintf(text, sizeof(text), "/?%cb", c);
        bool clean = c > ' ' && c < 0x7f && c != '#' && c != '%';
        check((struct str){text, 4},
              (struct expected){.path = clean ? "/" : NULL, .query = text + 1});
    }
}

static void every_encoded_byte_is_judged(void **state)
{
    for (int c = 0; c < 256; c++) {
        char upper[8], lower[8], plain[8];

        (void)snprintf(upper, sizeof(upper), "/a%%%02Xz", (unsigned)c);
        (void)snprintf(lower, sizeof(lower), "/a%%%02xz", (unsigned)c);
        (void)snprintf(plain, sizeof(plain), "/a%cz", c);
        const char *path = !may_stand_encoded(c) ? NULL : is_unreserved(c) ? plain : upper;
        check(str_c(upper), (struct expected){.path = path});
        check(str_c(lower), (struct expected){.path = path});
    }
}

static void queries_stay_as_they_are(void **state)
{
    static const struct {
        const char *target;
        struct expected expected;
    } cases[] = {
        {"/", {.path = "/", .query = ""}},
        {"/?", {.path = "/", .query = "?"}},
        {"/??", {.path = "/", .query = "??"}},
        {"/config?a=/../b;c", {.path = "/config", .query = "?a=/../b;c"}},
        {"/x/..?/config", {.path = "/", .query = "?/config"}},
        {"/?a=%2f%00%c0&b=\\|{}[]\"<>^`", {.path = "/", .query = "?a=%2f%00%c0&b=\\|{}[]\"<>^`"}},
        {"http://h?x", {.path = "/", .query = "?x", .host = "h"}},
        {"http://h/?x", {.path = "/", .query = "?x", .host = "h"}},
        {"/?a%", {.path = NULL}},
        {"/?a%4", {.path = NULL}},
        {"/?a%4g", {.path = NULL}},
        {"/?a#b", {.path = NULL}},
        {"/?a b", {.path = NULL}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        check(str_c(cases[i].target), cases[i].expected);
}

static void absolute_forms_need_a_clean_authority(void **state)
{
    static const struct {
        const char *target;
        struct expected expected;
    } cases[] = {
        {"/h", {.path = "/h", .host = ""}},
        {"//h/a", {.path = "/h/a", .host = ""}},
        {"http://h", {.path = "/", .host = "h"}},
        {"http://h/", {.path = "/", .host = "h"}},
        {"http://h:80/a", {.path = "/a", .host = "h"}},
        {"HTTPS://H:443/./a", {.path = "/a", .host = "H"}},
        {"https://[::1]:8443/a", {.path = "/a", .host = "[::1]"}},
        {"http:///a", {.path = NULL}},
        {"http://", {.path = NULL}},
        {"http://:80/", {.path = NULL}},
        {"http:/a", {.path = NULL}},
        {"http:a", {.path = NULL}},
        {"http://u@h/a", {.path = NULL}},
        {"http://u:p@h/a", {.path = NULL}},
        {"http://h\\@x/a", {.path = NULL}},
        {"http://h#/a", {.path = NULL}},
        {"http://h /a", {.path = NULL}},
        {"http://h:/a", {.path = NULL}},
        {"http://h:99999/a", {.path = NULL}},
        {"http://%68/a", {.path = NULL}},
        {"ftp://h/a", {.path = NULL}},
        {"ws://h/a", {.path = NULL}},
        {"http://h/../a", {.path = NULL}},
        {"h:443", {.path = NULL}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        check(str_c(cases[i].target), cases[i].expected);
}

static void the_asterisk_is_for_options_only(void **state)
{
    struct http_target target;

    assert_true(http_target_parse(STR("OPTIONS"), STR("*"), &target));
    assert_true(target.is_asterisk);
    assert_string_equal(target.path, "*");
    http_target_clear(&target);
    assert_false(http_target_parse(STR("GET"), STR("*"), &target));
    assert_false(http_target_parse(STR("options"), STR("*"), &target));
    assert_false(http_target_parse(STR("OPTIONS"), STR("**"), &target));
    assert_false(http_target_parse(STR("OPTIONS"), STR("*?a"), &target));
    assert_false(http_target_parse(STR("OPTIONS"), STR(""), &target));
    assert_true(http_target_parse(STR("OPTIONS"), STR("/*"), &target));
    assert_false(target.is_asterisk);
    assert_string_equal(target.path, "/*");
    http_target_clear(&target);
}

static void hosts_are_names_or_addresses_and_nothing_else(void **state)
{
    static const struct {
        const char *authority;
        const char *host; /* NULL: refused */
    } cases[] = {
        {"a", "a"},
        {"A-b_c.example", "A-b_c.example"},
        {"example.com.", "example.com"},
        {"a:0", "a"},
        {"a:65535", "a"},
        {"a:00080", "a"},
        {"127.0.0.1", "127.0.0.1"},
        {"127.0.0.1:8443", "127.0.0.1"},
        {"1.2.3.example", "1.2.3.example"},
        {"[::1]", "[::1]"},
        {"[::1]:443", "[::1]"},
        {"[2001:db8::A:1]", "[2001:db8::A:1]"},
        {"[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]"},
        {"", NULL},
        {".", NULL},
        {"..", NULL},
        {".a", NULL},
        {"a..", NULL},
        {"a..b", NULL},
        {":", NULL},
        {":80", NULL},
        {"a:", NULL},
        {"a:65536", NULL},
        {"a:100000", NULL},
        {"a:000080", NULL},
        {"a:+8", NULL},
        {"a:8 ", NULL},
        {"a:b", NULL},
        {"a:80:80", NULL},
        {"a b", NULL},
        {" a", NULL},
        {"a,b", NULL},
        {"a@b", NULL},
        {"a/b", NULL},
        {"a?b", NULL},
        {"a#b", NULL},
        {"a%62", NULL},
        {"a~", NULL},
        {"a\x80", NULL},
        {"1", NULL},
        {"127.1", NULL},
        {"1.2.3.4.5", NULL},
        {"1.2.3.256", NULL},
        {"1.2.3.04", NULL},
        {"0x7f000001", NULL},
        {"127.0.0.0x1", NULL},
        {"99999999999999999999999999", NULL},
        {"a.1", NULL},
        {"::1", NULL},
        {"[]", NULL},
        {"[", NULL},
        {"[::1", NULL},
        {"[::1]a", NULL},
        {"[::1]:", NULL},
        {"[::1]:x", NULL},
        {"[::1%25eth0]", NULL},
        {"[::1%eth0]", NULL},
        {"[1.2.3.4]", NULL},
        {"[v1.a]", NULL},
        {"[::1]]", NULL},
        {"a[::1]", NULL},
        {"[1:2:3:4:5:6:7:8:9]", NULL},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         NULL}, /* 64 in one label */
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct str host = STR("untouched");
        bool valid = http_host_parse(str_c(cases[i].authority), &host);
        if (valid != (cases[i].host != NULL) ||
            !str_eq(host, str_c(valid ? cases[i].host : "untouched"))) {
            print_error("authority: %s\n", cases[i].authority);
            fail();
        }
    }
    struct str host;
    assert_false(http_host_parse(STR("[::1\0]"), &host));
    assert_false(http_host_parse(STR("a\0b"), &host));
}

static void a_normalised_path_stays_as_it_is(void **state)
{
    static const char *const targets[] = {
        "/a/b/../c//%7e%41%c3%a9%3f/", "/%2e%2e%2e", "/x/.%2e/y", "/%21", "/a%20b/./c",
    };

    for (size_t i = 0; i < ARRAY_SIZE(targets); i++) {
        struct http_target first, second;
        assert_true(http_target_parse(STR("GET"), str_c(targets[i]), &first));
        assert_true(http_target_parse(STR("GET"), str_c(first.path), &second));
        assert_string_equal(first.path, second.path);
        http_target_clear(&first);
        http_target_clear(&second);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disguises_of_one_path_become_that_path),
        cmocka_unit_test(dot_segments_end_at_the_root),
        cmocka_unit_test(encoded_text_must_be_utf8),
        cmocka_unit_test(every_raw_byte_is_judged),
        cmocka_unit_test(every_encoded_byte_is_judged),
        cmocka_unit_test(queries_stay_as_they_are),
        cmocka_unit_test(absolute_forms_need_a_clean_authority),
        cmocka_unit_test(the_asterisk_is_for_options_only),
        cmocka_unit_test(hosts_are_names_or_addresses_and_nothing_else),
        cmocka_unit_test(a_normalised_path_stays_as_it_is),
    };
    return cmocka_run_group_tests_name("http_path", tests, NULL, NULL);
}
