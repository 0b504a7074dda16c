/* SPDX-License-Identifier: BSD-2-Clause */
/* The thread that asks for names again: with a resolver that says what the test wants. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/daemon/resolver.h"

static atomic_int octet;
static atomic_int asked;

int __real_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **out);
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **out);
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **out)
{
    struct addrinfo numeric = *hints;
    char text[32];

    if (hints->ai_flags & AI_NUMERICHOST)
        return __real_getaddrinfo(host, port, hints, out);
    int now = atomic_load(&octet);
    (void)snprintf(text, sizeof(text), "127.0.0.%d", now);
    numeric.ai_flags |= AI_NUMERICHOST;
    atomic_fetch_add(&asked, 1);
    return now == 0 ? EAI_NONAME : __real_getaddrinfo(text, port, &numeric, out);
}

static const char yaml[] = "resolve_every: 100ms\n"
                           "listeners:\n"
                           "  - {name: local, address: \"unix:/tmp/x.sock\", clients: operators}\n"
                           "backends:\n"
                           "  - {name: api, servers: [\"api.test:80\"]}\n"
                           "  - {name: other, servers: [\"127.0.0.1:80\"]}\n"
                           "routes:\n"
                           "  - {prefix: /, listener: local, backend: api}\n";

static void on_error(const char *line, void *arg)
{
    fail_msg("%s", line);
}

struct world {
    struct event_base *base;
    struct snapshot *snapshot;
    struct resolver *resolver;
    unsigned changes;
};

static void on_changed(struct snapshot *snapshot, void *arg)
{
    struct world *world = arg;

    snapshot_unref(&world->snapshot);
    world->snapshot = snapshot;
    world->changes++;
}

static void run_ms(struct world *world, int64_t ms)
{
    const struct timeval in = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

    (void)event_base_loopexit(world->base, &in);
    (void)event_base_dispatch(world->base);
}

static int last_octet(const struct snapshot *snapshot)
{
    const unsigned char *in = (const unsigned char *)&snapshot->resolved[0]->all[0].address;

    return in[7]; /* family, port, address */
}

static void a_new_address_becomes_a_new_snapshot(void **state)
{
    struct world world = {.base = event_base_new()};
    const struct config *config = config_parse("x.yaml", yaml, strlen(yaml), on_error, NULL);
    char error[200] = "";

    atomic_store(&octet, 1);
    world.snapshot = snapshot_new(config, error, sizeof(error));
    assert_non_null(world.snapshot);
    assert_true(snapshot_resolve(world.snapshot, NULL, error, sizeof(error)));
    world.resolver = resolver_start(world.base, world.snapshot, on_changed, &world);

    /* The same answer changes nothing. */
    while (atomic_load(&asked) < 3)
        run_ms(&world, 10);
    assert_int_equal(world.changes, 0);

    struct snapshot *before = snapshot_ref(world.snapshot);
    atomic_store(&octet, 2);
    while (world.changes == 0)
        run_ms(&world, 10);
    assert_int_equal(last_octet(before), 1);
    assert_int_equal(last_octet(world.snapshot), 2);
    assert_ptr_equal(world.snapshot->resolved[1], before->resolved[1]);
    assert_ptr_equal(world.snapshot->config, before->config);
    snapshot_unref(&before);

    /* No answer: the last good one stays. */
    int so_far = atomic_load(&asked);
    atomic_store(&octet, 0);
    while (atomic_load(&asked) < so_far + 3)
        run_ms(&world, 10);
    assert_int_equal(world.changes, 1);
    assert_int_equal(last_octet(world.snapshot), 2);

    resolver_stop(&world.resolver);
    snapshot_unref(&world.snapshot);
    config_unref(&config);
    event_base_free(world.base);
}

static void a_name_that_never_was_is_an_error(void **state)
{
    const struct config *config = config_parse("x.yaml", yaml, strlen(yaml), on_error, NULL);
    char error[200] = "";

    atomic_store(&octet, 0);
    struct snapshot *snapshot = snapshot_new(config, error, sizeof(error));
    assert_false(snapshot_resolve(snapshot, NULL, error, sizeof(error)));
    assert_non_null(strstr(error, "\"api.test\" cannot be resolved"));
    snapshot_unref(&snapshot);
    config_unref(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_address_becomes_a_new_snapshot),
        cmocka_unit_test(a_name_that_never_was_is_an_error),
    };
    return cmocka_run_group_tests_name("resolver", tests, NULL, NULL);
}
