/* SPDX-License-Identifier: BSD-2-Clause */
/* What travels on. The spellings are those by which somebody could smuggle an identity past the
 * gateway into a backend that folds names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "gateway/http/fields.h"

static void identity_fields_are_known_in_every_spelling(void **state)
{
    static const char *const identity[] = {
        "Client-Cert",
        "CLIENT-CERT",
        "client_cert",
        "Client.Cert",
        "Client~Cert!Chain",
        "Client-Cert-Chain",
        "Client-Certificate",
        "Client-IP",
        "X-Device-Id",
        "x-device-id",
        "X_Device_Id",
        "X_DEVICE-ID",
        "X-Device_Key",
        "X.Device.Id",
        "X+Device*Id",
        "X-Device-Key-Generation",
        "X-Device-",
        "X-Device-Anything",
        "X-Operator-Name",
        "x_operator_",
        "X-Client-Cert",
        "X-Client-DN",
        "X-Client-Verify",
        "X-SSL-Client-S-DN",
        "x_ssl_cert",
        "SSL-Client-Cert",
        "SSL_CLIENT_VERIFY",
        "Forwarded",
        "forwarded_for",
        "X-Forwarded",
        "X-Forwarded-For",
        "X_FORWARDED_FOR",
        "X-Forwarded-Client-Cert",
        "X-Forwarded-Proto",
        "X-Real-IP",
        "X-Remote-User",
        "Remote-User",
        "REMOTE_ADDR",
        "X-Authenticated-UserId",
        "X-Request-Id",
        "x_request_id",
        "X-Original-Forwarded-For",
        "X-Cluster-Client-IP",
        "X-ARR-ClientCert",
        "True-Client-IP",
        "CF-Connecting-IP",
        "Device-Rotation",
        "device_rotation",
    };

    for (size_t i = 0; i < ARRAY_SIZE(identity); i++) {
        if (!http_field_is_identity(str_c(identity[i])))
            fail_msg("%s passes", identity[i]);
    }
}

static void other_fields_are_not_taken_for_them(void **state)
{
    static const char *const others[] = {
        "",
        "-",
        "_",
        "X",
        "X-",
        "Accept",
        "Authorization",
        "Client",
        "Client-Name",
        "Content-Type",
        "Cookie",
        "Device",
        "Device-Key",
        "Device-Rotations",
        "Forward",
        "If-Modified-Since",
        "Remote",
        "Remoteness",
        "SSL",
        "User-Agent",
        "X-Api-Key",
        "X-Auth-Token",
        "X-Devic",
        "X-Device",
        "X-DeviceId",
        "XX-Device-Id",
        "X--Device-Id",
        "X-Request-Id2",
        "X-Requested-With",
        "traceparent",
    };

    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        if (http_field_is_identity(str_c(others[i])) || http_field_is_override(str_c(others[i])))
            fail_msg("%s is held back", others[i]);
    }
}

static void every_separator_is_folded(void **state)
{
    char name[] = "X-Device-Id";

    for (int c = 0; c < 256; c++) {
        name[1] = name[8] = (char)c;
        bool alphanumeric =
            (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        assert_int_equal(http_field_is_identity((struct str){name, sizeof(name) - 1}),
                         !alphanumeric);
    }
}

static void requests_cannot_be_made_to_mean_something_else(void **state)
{
    static const char *const overrides[] = {
        "X-HTTP-Method-Override", "x_http_method_override", "X-HTTP-Method", "X-Method-Override",
        "X-Original-URL",         "X-Original-Method",      "X-Rewrite-URL", "X_Rewrite_Url",
    };

    for (size_t i = 0; i < ARRAY_SIZE(overrides); i++)
        assert_true(http_field_is_override(str_c(overrides[i])));
}

static void hop_by_hop_fields_are_the_standards_and_those_that_connection_names(void **state)
{
    struct http_field fields[] = {
        {STR("Connection"), STR("close, X-One ,,x_two")},
        {STR("connection"), STR("X-Three")},
        {STR("X-Connection"), STR("X-Four")},
    };
    const struct http_head head = {.fields = fields, .n_fields = ARRAY_SIZE(fields)};
    static const struct {
        struct str name;
        bool hop_by_hop;
    } cases[] = {
        {STR("Connection"), true},
        {STR("Keep-Alive"), true},
        {STR("Proxy-Connection"), true},
        {STR("Proxy-Authorization"), true},
        {STR("Proxy"), true},
        {STR("TE"), true},
        {STR("Trailer"), true},
        {STR("Transfer-Encoding"), true},
        {STR("transfer_encoding"), true},
        {STR("Upgrade"), true},
        {STR("HTTP2-Settings"), true},
        {STR("Content-Length"), true},
        {STR("CONTENT_LENGTH"), true},
        {STR("close"), true}, /* "close" as a field's name is named by Connection, too */
        {STR("X-One"), true},
        {STR("x_one"), true},
        {STR("X-Two"), true},
        {STR("X-Three"), true},
        {STR("X-Four"), false},
        {STR("X-On"), false},
        {STR(""), false},
        {STR("Content-Type"), false},
        {STR("TEA"), false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(http_field_is_hop_by_hop(&head, cases[i].name), cases[i].hop_by_hop);
}

struct forwarding {
    enum http_fields_direction direction;
    struct http_field fields[10];
    const char *out;
};

static void check_forwarding(const struct forwarding *forwarding, size_t capacity, bool fits)
{
    struct http_field fields[ARRAY_SIZE(forwarding->fields)];
    struct http_head head = {.fields = fields};
    struct buf out;

    memcpy(fields, forwarding->fields, sizeof(fields));
    while (head.n_fields < ARRAY_SIZE(fields) && fields[head.n_fields].name.len > 0)
        head.n_fields++;
    buf_init(&out, capacity);
    assert_int_equal(http_fields_forward(&head, forwarding->direction, &out), fits);
    if (fits) {
        struct str text = buf_peek(&out);
        if (!str_eq(text, str_c(forwarding->out)))
            fail_msg("%.*s instead of %s", STR_ARGS(text), forwarding->out);
    }
    buf_release(&out);
}

static const struct forwarding forwardings[] = {
    {HTTP_FIELDS_TO_BACKEND,
     {{STR("Host"), STR("a")},
      {STR("Accept"), STR("*/*")},
      {STR("X_Device.Id"), STR("forged")},
      {STR("Empty"), STR("")},
      {STR("Content-Length"), STR("5")},
      {STR("Content-Type"), STR("application/json")},
      {STR("Connection"), STR("keep-alive")},
      {STR("Device-Key"), STR("k")},
      {STR("X-HTTP-Method-Override"), STR("PATCH")}},
     "Accept: */*\r\nEmpty: \r\nContent-Type: application/json\r\nDevice-Key: k\r\n"},
    {HTTP_FIELDS_TO_BACKEND,
     {{STR("Connection"), STR("X-Device-Id, Cookie, client_cert")},
      {STR("X-Device-Id"), STR("forged")},
      {STR("Client-Cert"), STR("forged")},
      {STR("Cookie"), STR("a=b")},
      {STR("cookies"), STR("a=b")},
      {STR("Traceparent"), STR("x")},
      {STR("TraceState"), STR("x")},
      {STR("Expect"), STR("100-continue")},
      {STR("HOST"), STR("a")},
      {STR("Upgrade"), STR("h2c")}},
     "cookies: a=b\r\n"},
    {HTTP_FIELDS_TO_CLIENT,
     {{STR("Date"), STR("Sun, 22 Nov 2026 13:07:37 GMT")},
      {STR("Server"), STR("s")},
      {STR("Transfer-Encoding"), STR("chunked")},
      {STR("Trailer"), STR("x")},
      {STR("Device-Rotation"), STR("due")},
      {STR("Connection"), STR("close,x-private")},
      {STR("X-Private"), STR("y")},
      {STR("X-Request-Id"), STR("r")},
      {STR("Set-Cookie"), STR("a")},
      {STR("Set-Cookie"), STR("b")}},
     "Date: Sun, 22 Nov 2026 13:07:37 GMT\r\nServer: s\r\nX-Request-Id: r\r\nSet-Cookie: "
     "a\r\nSet-Cookie: b\r\n"},
};

static void only_what_may_travel_on_is_forwarded(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(forwardings); i++)
        check_forwarding(&forwardings[i], 1024, true);
}

static void forwarding_needs_exactly_its_room(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(forwardings); i++) {
        size_t len = strlen(forwardings[i].out);
        check_forwarding(&forwardings[i], len, true);
        for (size_t capacity = 0; capacity < len; capacity++)
            check_forwarding(&forwardings[i], capacity, false);
    }
}

/* Room that lies on both sides of what is in the buffer. */
static void forwarding_uses_room_in_two_places(void **state)
{
    struct http_field field = {STR("Name"), STR("value")};
    struct http_head head = {.fields = &field, .n_fields = 1};
    struct buf out;

    buf_init(&out, 32);
    assert_true(buf_append_str(&out, STR("0123456789abcdefghijkl")));
    buf_consume(&out, 10);
    assert_true(http_fields_forward(&head, HTTP_FIELDS_TO_BACKEND, &out));
    assert_true(str_eq(buf_peek(&out), STR("abcdefghijklName: value\r\n")));
    buf_release(&out);
}

static void traceparents_are_kept_in_one_form_only(void **state)
{
    static const struct {
        struct str value;
        bool valid;
    } cases[] = {
        {STR("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), true},
        {STR("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff"), true},
        {STR("00-00000000000000000000000000000000-b7ad6b7169203331-01"), false},
        {STR("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"), false},
        {STR("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), false},
        {STR("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), false},
        {STR("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), false},
        {STR("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"), false},
        {STR("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-"), false},
        {STR("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x"), false},
        {STR("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"), false},
        {STR("00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01"), false},
        {STR("00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01"), false},
        {STR("00"), false},
        {STR("---"), false},
        {STR(""), false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(http_traceparent_is_valid(cases[i].value), cases[i].valid);
}

static void fields_are_found_without_case_and_lists_over_all_lines(void **state)
{
    struct http_field fields[] = {
        {STR("Accept"), STR("a")},
        {STR("TE"), STR("trailers , x;q=1")},
        {STR("accept"), STR("b")},
        {STR("te"), STR("Gzip,")},
    };
    const struct http_head head = {.fields = fields, .n_fields = ARRAY_SIZE(fields)};

    assert_ptr_equal(http_head_find(&head, STR("ACCEPT")), &fields[0]);
    assert_null(http_head_find(&head, STR("Accep")));
    assert_int_equal(http_head_count(&head, STR("Accept")), 2);
    assert_int_equal(http_head_count(&head, STR("Host")), 0);
    assert_true(http_head_has_token(&head, STR("Te"), STR("TRAILERS")));
    assert_true(http_head_has_token(&head, STR("Te"), STR("gzip")));
    assert_false(http_head_has_token(&head, STR("Te"), STR("x")));
    assert_false(http_head_has_token(&head, STR("Te"), STR("trailer")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity_fields_are_known_in_every_spelling),
        cmocka_unit_test(other_fields_are_not_taken_for_them),
        cmocka_unit_test(every_separator_is_folded),
        cmocka_unit_test(requests_cannot_be_made_to_mean_something_else),
        cmocka_unit_test(hop_by_hop_fields_are_the_standards_and_those_that_connection_names),
        cmocka_unit_test(only_what_may_travel_on_is_forwarded),
        cmocka_unit_test(forwarding_needs_exactly_its_room),
        cmocka_unit_test(forwarding_uses_room_in_two_places),
        cmocka_unit_test(traceparents_are_kept_in_one_form_only),
        cmocka_unit_test(fields_are_found_without_case_and_lists_over_all_lines),
    };
    return cmocka_run_group_tests_name("http_fields", tests, NULL, NULL);
}
