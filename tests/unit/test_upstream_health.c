/* SPDX-License-Identifier: BSD-2-Clause */
/* Probes: what they ask, when they are believed, and what follows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "upstream_world.h"

#define ANSWER(status_) "HTTP/1.1 " status_ " x\r\nContent-Length: 5\r\n\r\nhello"
#define PROBE           "GET /health?deep HTTP/1.1\r\n"

static const struct fake_script good = {{REQUEST, SEND(OK_5), DO(FAKE_AGAIN)}};

static struct world *probing_world(void)
{
    struct world *world = world_new();

    world->backend.health.path = "/health?deep";
    world->backend.health.every_ms = 20;
    world->backend.health.timeout_ms = 100;
    world->backend.health.healthy_after = 2;
    world->backend.health.unhealthy_after = 3;
    world->backend.health.status = "200-204";
    return world;
}

struct fit_wish {
    struct world *world;
    uint64_t n;
    size_t conns;
};

/* So many addresses are fit, and so many connections were made. */
static bool is_fit(void *arg)
{
    const struct fit_wish *wish = arg;
    uint64_t fit = 0;

    for (const struct server_page *page = upstream_counts_servers(wish->world->counts);
         page != NULL; page = page->next)
        fit += stat_get(&page->rows[0].fit);
    return fit == wish->n && fake_backend_conns(wish->world->fakes[0]) >= wish->conns;
}

static void assert_fit_becomes(struct world *world, uint64_t n, size_t conns)
{
    assert_true(world_run_until(world, is_fit, &(struct fit_wish){world, n, conns}));
}

static void a_probe_asks_for_the_path(void **state)
{
    struct world *world = probing_world();
    struct fake_backend *fake = world_add(world, &good, 1);

    world_open(world);
    assert_fit_becomes(world, 1, 2);
    const char *got = fake_backend_got(fake, 0, NULL);
    assert_memory_equal(got, PROBE, sizeof(PROBE) - 1);
    assert_non_null(strstr(got, "\r\nConnection: close\r\n"));
    assert_non_null(strstr(got, "\r\nHost: 127.0.0.1:"));
    world_free(world);
}

static void bad_answers_in_a_row_make_a_server_unhealthy(void **state)
{
    static const struct fake_script cases[] = {
        {{REQUEST, SEND(ANSWER("500"))}}, {{REQUEST, SEND(ANSWER("205"))}},
        {{REQUEST, DO(FAKE_CLOSE)}},      {{REQUEST, SEND("nonsense\r\n\r\n")}},
        {{REQUEST, DO(FAKE_HANG)}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct world *world = probing_world();
        struct fake_backend *sick = world_add(world, &cases[i], 1);
        (void)world_add(world, &good, 1);
        world_open(world);
        assert_fit_becomes(world, 1, 3);
        assert_int_equal(fake_backend_conns(sick), 3);
        for (unsigned k = 0; k < 4; k++)
            assert_exchange(world, &request_post_5, "200 done");
        world_free(world);
    }
}

static void good_answers_in_a_row_make_it_healthy_again(void **state)
{
    static const struct fake_script scripts[] = {
        {{REQUEST, SEND(ANSWER("503"))}}, {{REQUEST, SEND(ANSWER("503"))}},
        {{REQUEST, SEND(ANSWER("200"))}}, {{REQUEST, SEND(ANSWER("503"))}},
        {{REQUEST, SEND(ANSWER("503"))}}, {{REQUEST, SEND(ANSWER("503"))}},
        {{REQUEST, SEND(ANSWER("200"))}}, {{REQUEST, SEND(ANSWER("503"))}},
        {{REQUEST, SEND(ANSWER("204"))}}, {{REQUEST, SEND(ANSWER("204"))}},
        {{REQUEST, SEND(ANSWER("204"))}},
    };
    struct world *world = probing_world();

    (void)world_add(world, scripts, ARRAY_SIZE(scripts));
    world_open(world);
    assert_fit_becomes(world, 0, 6);
    assert_int_equal(fake_backend_conns(world->fakes[0]), 6);
    assert_fit_becomes(world, 1, 10);
    assert_int_equal(fake_backend_conns(world->fakes[0]), 10);
    world_free(world);
}

/* Nobody is better off without any. */
static void when_all_are_unhealthy_they_are_asked_all_the_same(void **state)
{
    static const struct fake_script sick = {{REQUEST, SEND(ANSWER("500")), DO(FAKE_AGAIN)}};
    struct world *world = probing_world();

    (void)world_add(world, &sick, 1);
    world_open(world);
    assert_fit_becomes(world, 0, 3);
    assert_exchange(world, &request_post_5, "500 done");
    world_free(world);
}

/* Requests found the server unfit: what it says to probes does not make it fit for requests. */
static void a_probe_is_no_trial(void **state)
{
    static const struct fake_script scripts[] = {{{REQUEST, DO(FAKE_CLOSE)}},
                                                 {{REQUEST, SEND(ANSWER("200"))}}};
    struct world *world = probing_world();
    const char *path = world->backend.health.path;

    world->backend.ejection_failures = 1;
    world->backend.ejection_on = CONFIG_EJECTION_ON_BROKEN;
    world->backend.ejection_base_ms = world->backend.ejection_max_ms = 60000;
    world->backend.health.path = NULL;
    (void)world_add(world, scripts, 2);
    world_open(world);
    assert_exchange(world, &request_post_5, "failed broken backend-broken");
    assert_fit_becomes(world, 0, 1);

    struct upstream_pool *before = world->pool;
    world->backend.health.path = path;
    world_open(world);
    upstream_pool_inherit(world->pool, before);
    upstream_pool_unref(&before);
    assert_fit_becomes(world, 0, 4);
    const struct server_row *row = &upstream_counts_servers(world->counts)->rows[0];
    assert_int_equal(stat_get(&row->answered), 0);
    assert_int_equal(stat_get(&row->ejections), 1);
    world_free(world);
}

static void probes_end_with_the_pool(void **state)
{
    static const struct fake_script silent = {{REQUEST, DO(FAKE_HANG)}};
    struct world *world = probing_world();

    world->backend.health.timeout_ms = 5000;
    (void)world_add(world, &silent, 1);
    world_open(world);
    assert_fit_becomes(world, 1, 1);
    upstream_pool_unref(&world->pool);
    world_run_ms(world, 50);
    assert_int_equal(fake_backend_conns(world->fakes[0]), 1);
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_probe_asks_for_the_path),
        cmocka_unit_test(bad_answers_in_a_row_make_a_server_unhealthy),
        cmocka_unit_test(good_answers_in_a_row_make_it_healthy_again),
        cmocka_unit_test(when_all_are_unhealthy_they_are_asked_all_the_same),
        cmocka_unit_test(a_probe_is_no_trial),
        cmocka_unit_test(probes_end_with_the_pool),
    };
    return cmocka_run_group_tests_name("upstream_health", tests, NULL, NULL);
}
