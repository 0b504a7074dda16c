/* SPDX-License-Identifier: BSD-2-Clause */
/* Which server an exchange goes to, and which connection it gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "gateway/base/clock.h"
#include "upstream_world.h"

/* --- servers ---------------------------------------------------------------------------------- */

#define OK_CLOSE "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
static const struct fake_script ok_close = {{REQUEST, SEND(OK_CLOSE), DO(FAKE_CLOSE)}};
static const struct fake_script ok_twice = {{REQUEST, SEND(OK_5), REQUEST, SEND(OK_5)}};

static void servers_take_turns(void **state)
{
    struct world *world = world_new();
    struct fake_backend *a = world_add(world, &ok_close, 1);
    struct fake_backend *b = world_add_kind(world, FAKE_UNIX, &ok_close, 1);

    world_open(world);
    for (unsigned i = 0; i < 4; i++)
        assert_exchange(world, &request_get, "200 done");
    assert_int_equal(fake_backend_conns(a), 2);
    assert_int_equal(fake_backend_conns(b), 2);
    world_free(world);
}

static void a_server_that_refuses_is_passed_over(void **state)
{
    struct world *world = world_new();

    world_add_refusing(world);
    struct fake_backend *fake = world_add(world, &ok_close, 1);
    world_add_refusing(world);
    world_open(world);
    for (unsigned i = 0; i < 4; i++)
        assert_exchange(world, &request_post_5, "200 done");
    assert_int_equal(fake_backend_conns(fake), 4);
    world_free(world);
}

static void without_a_server_that_answers_nothing_was_sent(void **state)
{
    struct world *world = world_new();

    world_add_refusing(world);
    world_add_refusing(world);
    world_add_address(world,
                      (struct config_address){CONFIG_ADDRESS_UNIX, "/nonexistent/api.sock", 0});
    world_open(world);
    assert_exchange(world, &request_get, "failed refused backend-unavailable");
    assert_exchange(world, &request_post_5, "failed refused backend-unavailable");
    assert_int_equal(upstream_pool_connections(world->pool), 0);
    world_free(world);
}

static void a_backend_may_have_no_usable_server(void **state)
{
    struct world *world = world_new();
    char path[200];

    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    world_add_address(world, (struct config_address){CONFIG_ADDRESS_UNIX, path, 0});
    world_open(world);
    assert_exchange(world, &request_get, "failed refused backend-unavailable");
    world_free(world);
}

static void names_are_resolved(void **state)
{
    struct world *world = world_new();
    struct caller *caller = caller_new(world);
    struct fake_backend *fake = world_add(world, &ok_twice, 1);
    char server[64];

    world->servers[0].host = "localhost";
    world_open(world);
    caller_start(caller, &request_get);
    assert_string_equal(upstream_server(caller->upstream), "");
    while (caller->notes[0] == '\0')
        event_base_loop(world->base, EVLOOP_ONCE);
    (void)snprintf(server, sizeof(server), "127.0.0.1:%u", fake_backend_port(fake));
    if (caller->upstream != NULL)
        assert_string_equal(upstream_server(caller->upstream), server);
    caller_run(caller);
    assert_string_equal(caller->notes, "200 done");
    caller_free(caller);
    world_free(world);
}

/* Fills the queue of a server that does not accept, so that the next connection hangs. */
static void fill_queue(struct world *world, const struct fake_backend *fake,
                       struct caller *callers[], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        callers[i] = caller_new(world);
        caller_start(callers[i], &request_post_5);
    }
    world_run_ms(world, 30);
    assert_int_equal(fake_backend_conns(fake), 0);
}

static void connecting_has_a_deadline(void **state)
{
    struct world *world = world_new();
    struct fake_backend *fake = world_add(world, &ok_twice, 1);
    struct caller *waiting[4];

    fake_backend_accept(fake, false);
    world->backend.connect_timeout_ms = 150;
    world_open(world);
    fill_queue(world, fake, waiting, ARRAY_SIZE(waiting));
    caller_run(waiting[3]);
    assert_string_equal(waiting[3]->notes, "failed refused backend-connect-timeout");
    for (size_t i = 0; i < ARRAY_SIZE(waiting); i++)
        caller_free(waiting[i]);
    world_free(world);
}

static void a_server_that_swallows_connections_leaves_time_for_the_next(void **state)
{
    struct world *world = world_new();
    struct fake_backend *deaf = world_add(world, &ok_twice, 1);
    struct caller *waiting[4], *caller = caller_new(world);

    fake_backend_accept(deaf, false);
    world_open(world);
    fill_queue(world, deaf, waiting, ARRAY_SIZE(waiting));
    upstream_pool_unref(&world->pool);

    struct fake_backend *good = world_add(world, &ok_twice, 1);
    world->backend.connect_timeout_ms = 300;
    world_open(world);
    for (unsigned i = 0; i < 2; i++)
        assert_exchange(world, &request_post_5, "200 done");
    assert_true(fake_backend_conns(good) >= 1);
    caller_free(caller);
    for (size_t i = 0; i < ARRAY_SIZE(waiting); i++)
        caller_free(waiting[i]);
    world_free(world);
}

static void a_full_queue_of_a_unix_socket_is_waited_for(void **state)
{
    struct world *world = world_new();
    struct fake_backend *fake = world_add_kind(world, FAKE_UNIX, &ok_twice, 1);
    struct caller *waiting[4];

    fake_backend_accept(fake, false);
    world_open(world);
    fill_queue(world, fake, waiting, ARRAY_SIZE(waiting));
    fake_backend_accept(fake, true);
    for (size_t i = 0; i < ARRAY_SIZE(waiting); i++) {
        caller_run(waiting[i]);
        assert_string_equal(waiting[i]->notes, "200 done");
        caller_free(waiting[i]);
    }
    world_free(world);
}

/* --- kept connections ------------------------------------------------------------------------- */

static void a_connection_serves_one_exchange_after_another(void **state)
{
    static const struct fake_script script = {{REQUEST, SEND(OK_5), DO(FAKE_AGAIN)}};
    struct world *world = world_new();
    struct fake_backend *fake = world_add(world, &script, 1);

    world_open(world);
    for (unsigned i = 0; i < 20; i++)
        assert_exchange(world, i % 2 == 0 ? &request_get : &request_post_5, "200 done");
    assert_int_equal(fake_backend_conns(fake), 1);
    assert_int_equal(upstream_pool_connections(world->pool), 1);
    world_free(world);
}

static void kept_connections_are_bounded_in_number_and_time(void **state)
{
    static const struct fake_script script = {
        {REQUEST, DO_N(FAKE_PAUSE, 30), SEND(OK_5), DO(FAKE_AGAIN)}};
    struct world *world = world_new();
    struct caller *callers[4];

    (void)world_add(world, &script, 1);
    world->backend.keepalive_connections = 2;
    world->backend.keepalive_timeout_ms = 100;
    world_open(world);
    for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
        callers[i] = caller_new(world);
        caller_start(callers[i], &request_get);
    }
    for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
        caller_run(callers[i]);
        caller_free(callers[i]);
    }
    assert_int_equal(upstream_pool_connections(world->pool), 2);
    int64_t began_ms = clock_monotonic_ms();
    assert_connections_become(world, 0);
    assert_true(clock_monotonic_ms() - began_ms >= 50);
    world_free(world);
}

static void a_kept_connection_that_says_anything_is_closed(void **state)
{
    static const struct fake_script cases[] = {
        {{REQUEST, SEND(OK_5), DO_N(FAKE_PAUSE, 30), DO(FAKE_CLOSE)}},
        {{REQUEST, SEND(OK_5), DO_N(FAKE_PAUSE, 30), DO(FAKE_RESET)}},
        {{REQUEST, SEND(OK_5), DO_N(FAKE_PAUSE, 30), DO(FAKE_SHUT)}},
        {{REQUEST, SEND(OK_5), DO_N(FAKE_PAUSE, 30),
          SEND("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct world *world = world_new();
        (void)world_add(world, &cases[i], 1);
        world_open(world);
        assert_exchange(world, &request_get, "200 done");
        assert_int_equal(upstream_pool_connections(world->pool), 1);
        assert_connections_become(world, 0);
        world_free(world);
    }
}

/* The backend closes while the loop looks elsewhere: the check right before the reuse must find it.
 */
static void a_dead_kept_connection_is_not_used(void **state)
{
    static const struct fake_script scripts[] = {{{REQUEST, SEND(OK_5), DO(FAKE_CLOSE)}},
                                                 {{REQUEST, SEND(OK_5)}}};
    struct world *world = world_new();
    struct fake_backend *fake = world_add(world, scripts, ARRAY_SIZE(scripts));

    world_open(world);
    assert_exchange(world, &request_post_5, "200 done");
    assert_exchange(world, &request_post_5, "200 done");
    assert_int_equal(fake_backend_conns(fake), 2);
    world_free(world);
}

static void only_replayable_requests_are_sent_twice(void **state)
{
    static const struct {
        struct fake_script scripts[2];
        const struct upstream_request *request;
        const char *notes;
        size_t conns;
    } cases[] = {
        {{{{REQUEST, SEND(OK_5), REQUEST, DO(FAKE_CLOSE)}}, {{REQUEST, SEND(OK_5)}}},
         &request_get,
         "200 done",
         2},
        {{{{REQUEST, SEND(OK_5), REQUEST, DO(FAKE_RESET)}}, {{REQUEST, SEND(OK_5)}}},
         &request_get,
         "200 done",
         2},
        {{{{REQUEST, SEND(OK_5), REQUEST, DO(FAKE_CLOSE)}}, {{REQUEST, SEND(OK_5)}}},
         &request_head_only,
         "200 done",
         2},
        {{{{REQUEST, SEND(OK_5), REQUEST, DO(FAKE_CLOSE)}}, {{REQUEST, SEND(OK_5)}}},
         &request_post_5,
         "failed broken backend-broken",
         1},
        {{{{REQUEST, SEND(OK_5), REQUEST, DO(FAKE_CLOSE)}}, {{REQUEST, DO(FAKE_CLOSE)}}},
         &request_get,
         "failed broken backend-broken",
         2},
        {{{{REQUEST, SEND(OK_5), REQUEST, SEND("H"), DO(FAKE_CLOSE)}}, {{REQUEST, SEND(OK_5)}}},
         &request_get,
         "failed broken backend-broken",
         1},
        {{{{REQUEST, SEND(OK_5), REQUEST, SEND("HTTP/1.1 102 x\r\n\r\n"), DO(FAKE_CLOSE)}},
          {{REQUEST, SEND(OK_5)}}},
         &request_get,
         "102 failed broken backend-broken",
         1},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct world *world = world_new();
        struct fake_backend *fake = world_add(world, cases[i].scripts, 2);
        world_open(world);
        assert_exchange(world, &request_get, "200 done");
        assert_exchange(world, cases[i].request, cases[i].notes);
        assert_int_equal(fake_backend_conns(fake), cases[i].conns);
        world_free(world);
    }
}

static void connections_are_bounded(void **state)
{
    static const struct fake_script script = {
        {REQUEST, DO_N(FAKE_PAUSE, 50), SEND(OK_5), DO(FAKE_AGAIN)}};
    struct world *world = world_new();
    struct caller *first = caller_new(world);

    (void)world_add(world, &script, 1);
    world->backend.max_connections = 1;
    world_open(world);
    caller_start(first, &request_get);
    assert_exchange(world, &request_get, "failed refused backend-busy");
    caller_run(first);
    assert_string_equal(first->notes, "200 done");
    assert_exchange(world, &request_get, "200 done");
    caller_free(first);
    world_free(world);
}

/* --- the line --------------------------------------------------------------------------------- */

static void who_finds_no_connection_waits_in_line(void **state)
{
    static const struct fake_script script = {
        {REQUEST, DO_N(FAKE_PAUSE, 20), SEND(OK_5), DO(FAKE_AGAIN)}};
    struct world *world = world_new();
    struct caller *callers[4];

    (void)world_add(world, &script, 1);
    world->backend.max_connections = 1;
    world->backend.max_waiting = 2;
    world->backend.wait_timeout_ms = 5000;
    world_open(world);
    for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
        callers[i] = caller_new(world);
        caller_start(callers[i], &request_post_5);
    }
    caller_run(callers[3]);
    assert_string_equal(callers[3]->notes, "failed refused backend-busy");
    for (size_t i = 0; i < 3; i++) {
        assert_false(callers[i]->over);
        caller_run(callers[i]);
        assert_string_equal(callers[i]->notes, "200 done");
    }
    assert_int_equal(upstream_pool_connections(world->pool), 1);
    for (size_t i = 0; i < ARRAY_SIZE(callers); i++)
        caller_free(callers[i]);
    world_free(world);
}

/* A connection that ends makes room as well as one that is given back. */
static void a_closed_connection_lets_the_next_in(void **state)
{
    struct world *world = world_new();
    struct caller *callers[3];

    (void)world_add(world, &ok_close, 1);
    world->backend.max_connections = 1;
    world->backend.max_waiting = 2;
    world->backend.wait_timeout_ms = 5000;
    world_open(world);
    for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
        callers[i] = caller_new(world);
        caller_start(callers[i], &request_get);
    }
    for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
        caller_run(callers[i]);
        assert_string_equal(callers[i]->notes, "200 done");
        caller_free(callers[i]);
    }
    world_free(world);
}

static void waiting_has_a_limit_of_its_own(void **state)
{
    static const struct fake_script silent = {{REQUEST}};
    struct world *world = world_new();
    struct caller *first = caller_new(world), *second = caller_new(world);

    (void)world_add(world, &silent, 1);
    world->backend.max_connections = 1;
    world->backend.max_waiting = 2;
    world->backend.wait_timeout_ms = 50;
    world_open(world);
    caller_start(first, &request_get);
    caller_start(second, &request_get);
    caller_run(second);
    assert_string_equal(second->notes, "failed refused backend-wait-timeout");
    assert_false(first->over);

    /* Who gives up leaves the line; who is behind moves up. */
    struct caller *third = caller_new(world), *fourth = caller_new(world);
    world->backend.wait_timeout_ms = 5000;
    caller_start(third, &request_get);
    caller_start(fourth, &request_get);
    world_run_ms(world, 10);
    upstream_abort(&third->upstream);
    upstream_abort(&first->upstream);
    world_run_ms(world, 10);
    assert_string_not_equal(upstream_server(fourth->upstream), "");
    caller_free(first);
    caller_free(second);
    caller_free(third);
    caller_free(fourth);
    world_free(world);
}

static void connections_to_one_server_are_bounded(void **state)
{
    static const struct fake_script script = {
        {REQUEST, DO_N(FAKE_PAUSE, 20), SEND(OK_5), DO(FAKE_AGAIN)}};
    struct world *world = world_new();
    struct fake_backend *a = world_add(world, &script, 1), *b = world_add(world, &script, 1);
    struct caller *callers[6];

    world->backend.max_connections_per_server = 2;
    world->backend.max_waiting = 2;
    world->backend.wait_timeout_ms = 5000;
    world_open(world);
    for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
        callers[i] = caller_new(world);
        caller_start(callers[i], &request_get);
    }
    for (size_t i = 0; i < ARRAY_SIZE(callers); i++) {
        caller_run(callers[i]);
        assert_string_equal(callers[i]->notes, "200 done");
        caller_free(callers[i]);
    }
    assert_int_equal(fake_backend_conns(a), 2);
    assert_int_equal(fake_backend_conns(b), 2);
    world_free(world);
}

static void a_kept_connection_makes_room_for_another_server(void **state)
{
    struct world *world = world_new();
    struct fake_backend *a = world_add(world, &ok_twice, 1), *b = world_add(world, &ok_twice, 1);

    world->backend.max_connections = 1;
    world_open(world);
    assert_exchange(world, &request_get, "200 done");
    assert_exchange(world, &request_get, "200 done");
    assert_int_equal(fake_backend_conns(a), 1);
    assert_int_equal(fake_backend_conns(b), 1);
    assert_int_equal(upstream_pool_connections(world->pool), 1);
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(servers_take_turns),
        cmocka_unit_test(a_server_that_refuses_is_passed_over),
        cmocka_unit_test(without_a_server_that_answers_nothing_was_sent),
        cmocka_unit_test(a_backend_may_have_no_usable_server),
        cmocka_unit_test(names_are_resolved),
        cmocka_unit_test(connecting_has_a_deadline),
        cmocka_unit_test(a_server_that_swallows_connections_leaves_time_for_the_next),
        cmocka_unit_test(a_full_queue_of_a_unix_socket_is_waited_for),
        cmocka_unit_test(a_connection_serves_one_exchange_after_another),
        cmocka_unit_test(kept_connections_are_bounded_in_number_and_time),
        cmocka_unit_test(a_kept_connection_that_says_anything_is_closed),
        cmocka_unit_test(a_dead_kept_connection_is_not_used),
        cmocka_unit_test(only_replayable_requests_are_sent_twice),
        cmocka_unit_test(connections_are_bounded),
        cmocka_unit_test(who_finds_no_connection_waits_in_line),
        cmocka_unit_test(a_closed_connection_lets_the_next_in),
        cmocka_unit_test(waiting_has_a_limit_of_its_own),
        cmocka_unit_test(connections_to_one_server_are_bounded),
        cmocka_unit_test(a_kept_connection_makes_room_for_another_server),
    };
    return cmocka_run_group_tests_name("upstream_pool", tests, NULL, NULL);
}
