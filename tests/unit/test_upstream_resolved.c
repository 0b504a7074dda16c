/* SPDX-License-Identifier: BSD-2-Clause */
/* Names and their addresses, with a resolver that says what the test wants. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "gateway/base/macros.h"
#include "gateway/upstream/resolved.h"

/* What the resolver says of names: the last octets of 127.0.0.x, or an error. */
static const char *octets = "\1";
static int failure;
static unsigned asked;

int __real_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **out);
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **out);
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **out)
{
    struct addrinfo numeric = *hints;
    struct addrinfo **end = out;
    char text[32];

    if (hints->ai_flags & AI_NUMERICHOST)
        return __real_getaddrinfo(host, port, hints, out);
    asked++;
    if (failure != 0)
        return failure;
    numeric.ai_flags |= AI_NUMERICHOST;
    *out = NULL;
    for (const char *octet = octets; *octet != '\0'; octet++) {
        (void)snprintf(text, sizeof(text), "127.0.0.%d", *octet);
        assert_int_equal(__real_getaddrinfo(text, port, &numeric, end), 0);
        end = &(*end)->ai_next;
    }
    return 0;
}

static struct config_address addresses[] = {
    {CONFIG_ADDRESS_TCP, "api.test", 80},
    {CONFIG_ADDRESS_TCP, "127.0.0.9", 81},
    {CONFIG_ADDRESS_UNIX, "/run/api.sock", 0},
};
static const struct config_backend backend = {.name = "api",
                                              .servers = addresses,
                                              .n_servers = ARRAY_SIZE(addresses)};
static char error[200];

static struct resolved *resolve(struct resolved *before, enum resolved_how how)
{
    return resolved_new(&backend, &(struct resolved_before){&before, before != NULL ? 1 : 0}, how,
                        error, sizeof(error));
}

static void assert_octets(const struct resolved *resolved, const char *expected)
{
    size_t n = strlen(expected);

    assert_int_equal(resolved->n, n + 2);
    for (size_t i = 0; i < n; i++) {
        const struct sockaddr_in *in = (const void *)&resolved->all[i].address;
        assert_int_equal(ntohl(in->sin_addr.s_addr) & 0xff, expected[i]);
        assert_int_equal(ntohs(in->sin_port), 80);
        assert_int_equal(resolved->all[i].server, 0);
    }
    assert_int_equal(resolved->all[n].server, 1);
    assert_int_equal(resolved->all[n + 1].address.ss_family, AF_UNIX);
}

static int reset(void **state)
{
    octets = "\1";
    failure = 0;
    asked = 0;
    return 0;
}

static void every_address_of_a_name_is_a_server(void **state)
{
    octets = "\3\1\2";
    struct resolved *resolved = resolve(NULL, RESOLVED_TRUST);

    assert_octets(resolved, "\1\2\3");
    assert_true(resolved->has_names);
    assert_int_equal(asked, 1);
    resolved_unref(&resolved);
}

static void the_order_of_an_answer_means_nothing(void **state)
{
    octets = "\1\2";
    struct resolved *a = resolve(NULL, RESOLVED_ASK);
    octets = "\2\1";
    struct resolved *b = resolve(a, RESOLVED_ASK);
    octets = "\2\4";
    struct resolved *c = resolve(b, RESOLVED_ASK);

    assert_true(resolved_equal(a, b));
    assert_false(resolved_equal(b, c));
    resolved_unref(&a);
    resolved_unref(&b);
    resolved_unref(&c);
}

static void a_reload_asks_only_for_what_it_does_not_know(void **state)
{
    struct resolved *a = resolve(NULL, RESOLVED_TRUST);
    octets = "\7";
    struct resolved *b = resolve(a, RESOLVED_TRUST);

    assert_octets(b, "\1");
    assert_int_equal(asked, 1);
    resolved_unref(&a);
    resolved_unref(&b);
}

static void the_last_good_answer_is_kept(void **state)
{
    struct resolved *a = resolve(NULL, RESOLVED_ASK);
    failure = EAI_NONAME;
    struct resolved *b = resolve(a, RESOLVED_ASK);

    assert_octets(b, "\1");
    resolved_unref(&a);
    resolved_unref(&b);
}

static void a_name_that_does_not_exist_is_an_error_at_the_start(void **state)
{
    failure = EAI_NONAME;
    assert_null(resolve(NULL, RESOLVED_TRUST));
    assert_string_equal(error, "backend \"api\": \"api.test\" cannot be resolved: Name or service "
                               "not known");
}

/* Then it may come later. */
static void a_resolver_that_does_not_answer_is_none(void **state)
{
    failure = EAI_AGAIN;
    struct resolved *resolved = resolve(NULL, RESOLVED_TRUST);

    assert_octets(resolved, "");
    resolved_unref(&resolved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_address_of_a_name_is_a_server, reset),
        cmocka_unit_test_setup(the_order_of_an_answer_means_nothing, reset),
        cmocka_unit_test_setup(a_reload_asks_only_for_what_it_does_not_know, reset),
        cmocka_unit_test_setup(the_last_good_answer_is_kept, reset),
        cmocka_unit_test_setup(a_name_that_does_not_exist_is_an_error_at_the_start, reset),
        cmocka_unit_test_setup(a_resolver_that_does_not_answer_is_none, reset),
    };
    return cmocka_run_group_tests_name("upstream_resolved", tests, NULL, NULL);
}
