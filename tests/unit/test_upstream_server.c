/* SPDX-License-Identifier: BSD-2-Clause */
/* Which server is fit, and which is next. No sockets, and time is what the test says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gateway/base/macros.h"
#include "gateway/upstream/server.h"

enum { N = 3 };

struct fleet {
    struct config_backend backend;
    struct config_address addresses[N];
    struct upstream_counts *counts;
    struct resolved *resolved;
    struct servers servers;
};

static void fleet_init(struct fleet *fleet)
{
    char error[200];

    *fleet = (struct fleet){
        .backend = {.name = "api",
                    .servers = fleet->addresses,
                    .n_servers = N,
                    .max_connections_per_server = 100,
                    .ejection_failures = 3,
                    .ejection_on = CONFIG_EJECTION_ON_BROKEN,
                    .ejection_base_ms = 1000,
                    .ejection_max_ms = 8000},
        .addresses = {{CONFIG_ADDRESS_UNIX, "/a", 0},
                      {CONFIG_ADDRESS_UNIX, "/b", 0},
                      {CONFIG_ADDRESS_TCP, "127.0.0.1", 80}},
        .counts = upstream_counts_new(1),
    };
    fleet->backend.servers = fleet->addresses;
    fleet->resolved = resolved_new(&fleet->backend, &(struct resolved_before){.n = 0},
                                   RESOLVED_TRUST, error, sizeof(error));
    assert_non_null(fleet->resolved);
    servers_init(&fleet->servers, &(struct servers_params){.backend = &fleet->backend,
                                                           .resolved = fleet->resolved,
                                                           .counts = fleet->counts});
    assert_int_equal(fleet->servers.n, N);
    fleet->servers.turn = 0;
}

static void fleet_deinit(struct fleet *fleet)
{
    servers_deinit(&fleet->servers);
    upstream_counts_free(&fleet->counts);
    resolved_unref(&fleet->resolved);
}

static struct server *at(struct fleet *fleet, size_t i)
{
    return fleet->servers.all[i];
}

/* The slot of the next one. */
static int next(struct fleet *fleet, int64_t now_ms)
{
    struct server *server = servers_choose(&fleet->servers, 0, now_ms);

    return server != NULL ? (int)server->slot : -1;
}

static void fail_times(struct fleet *fleet, size_t i, enum server_fault fault, size_t n,
                       int64_t now_ms)
{
    for (size_t k = 0; k < n; k++)
        server_failed(&fleet->servers, at(fleet, i), fault, "test", now_ms);
}

static bool is_out(struct fleet *fleet, size_t i, int64_t now_ms)
{
    uint64_t others = ~(UINT64_C(1) << i);
    struct server *only = servers_choose(&fleet->servers, others, now_ms);

    assert_ptr_equal(only, at(fleet, i));
    return only->ejected_until_ms > now_ms;
}

static void equals_take_turns(void **state)
{
    struct fleet fleet;

    fleet_init(&fleet);
    for (int i = 0; i < 7; i++)
        assert_int_equal(next(&fleet, 0), i % N);
    fleet_deinit(&fleet);
}

static void the_least_loaded_is_next(void **state)
{
    struct fleet fleet;

    fleet_init(&fleet);
    assert_false(server_enter(at(&fleet, 0), 0));
    assert_false(server_enter(at(&fleet, 0), 0));
    assert_false(server_enter(at(&fleet, 1), 0));
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(next(&fleet, 0), 2);
    server_leave(at(&fleet, 1), false);
    assert_int_equal(next(&fleet, 0), 1);
    assert_int_equal(next(&fleet, 0), 2);
    server_leave(at(&fleet, 0), false);
    server_leave(at(&fleet, 0), false);
    fleet_deinit(&fleet);
}

static void what_was_tried_is_not_chosen_again(void **state)
{
    struct fleet fleet;

    fleet_init(&fleet);
    assert_int_equal(servers_choose(&fleet.servers, 1 | 4, 0)->slot, 1);
    assert_null(servers_choose(&fleet.servers, 1 | 2 | 4, 0));
    fleet_deinit(&fleet);
}

static void failures_in_a_row_eject(void **state)
{
    struct fleet fleet;

    fleet_init(&fleet);
    fail_times(&fleet, 0, SERVER_FAULT_CONNECT, 2, 0);
    server_completed(at(&fleet, 0));
    fail_times(&fleet, 0, SERVER_FAULT_TIMEOUT, 2, 0);
    assert_false(is_out(&fleet, 0, 0));
    fail_times(&fleet, 0, SERVER_FAULT_BROKEN, 1, 0);
    assert_true(is_out(&fleet, 0, 0));
    for (unsigned i = 0; i < 5; i++)
        assert_int_not_equal(next(&fleet, 1), 0);
    assert_int_equal(stat_get(&at(&fleet, 0)->row->ejections), 1);
    assert_int_equal(stat_get(&at(&fleet, 0)->row->fit), 0);
    fleet_deinit(&fleet);
}

static void only_the_configured_failures_count(void **state)
{
    static const struct {
        enum config_ejection_on on;
        bool ejects[3];
    } cases[] = {
        {CONFIG_EJECTION_ON_CONNECT, {true, false, false}},
        {CONFIG_EJECTION_ON_TIMEOUT, {true, true, false}},
        {CONFIG_EJECTION_ON_BROKEN, {true, true, true}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        for (int fault = SERVER_FAULT_CONNECT; fault <= SERVER_FAULT_BROKEN; fault++) {
            struct fleet fleet;
            fleet_init(&fleet);
            fleet.backend.ejection_on = cases[i].on;
            fail_times(&fleet, 0, (enum server_fault)fault, 3, 0);
            assert_int_equal(is_out(&fleet, 0, 0), cases[i].ejects[fault]);
            fleet_deinit(&fleet);
        }
    }
}

static void zero_failures_never_eject(void **state)
{
    struct fleet fleet;

    fleet_init(&fleet);
    fleet.backend.ejection_failures = 0;
    fail_times(&fleet, 0, SERVER_FAULT_CONNECT, 100, 0);
    assert_false(is_out(&fleet, 0, 0));
    fleet_deinit(&fleet);
}

/* One request at a time finds out whether a server is back. */
static void a_trial_is_one_request(void **state)
{
    struct fleet fleet;

    fleet_init(&fleet);
    fail_times(&fleet, 0, SERVER_FAULT_CONNECT, 3, 0);
    fleet.servers.turn = 0;
    assert_int_equal(next(&fleet, 1000), 0);
    assert_true(server_enter(at(&fleet, 0), 1000));
    for (unsigned i = 0; i < 5; i++)
        assert_int_not_equal(next(&fleet, 1001), 0);

    /* It was given up without a verdict: the next may try. */
    server_leave(at(&fleet, 0), true);
    fleet.servers.turn = 0;
    assert_int_equal(next(&fleet, 1002), 0);
    assert_true(server_enter(at(&fleet, 0), 1002));
    server_answered(&fleet.servers, at(&fleet, 0), true);
    server_leave(at(&fleet, 0), true);
    assert_int_equal(stat_get(&at(&fleet, 0)->row->fit), 1);
    assert_false(server_enter(at(&fleet, 0), 1003));
    server_leave(at(&fleet, 0), false);

    /* Only a whole answer is full rehabilitation. */
    fail_times(&fleet, 0, SERVER_FAULT_BROKEN, 1, 1003);
    assert_true(is_out(&fleet, 0, 1003));
    fleet_deinit(&fleet);
}

static void an_answer_to_an_older_request_does_not_bring_it_back(void **state)
{
    struct fleet fleet;

    fleet_init(&fleet);
    fail_times(&fleet, 0, SERVER_FAULT_CONNECT, 3, 0);
    server_answered(&fleet.servers, at(&fleet, 0), false);
    assert_true(is_out(&fleet, 0, 0));
    fleet_deinit(&fleet);
}

static void ejections_grow_up_to_a_limit(void **state)
{
    static const int64_t longest[] = {1000, 2000, 4000, 8000, 8000};
    struct fleet fleet;
    int64_t now_ms = 0;

    fleet_init(&fleet);
    fail_times(&fleet, 0, SERVER_FAULT_CONNECT, 2, now_ms);
    for (size_t i = 0; i < ARRAY_SIZE(longest); i++) {
        fail_times(&fleet, 0, SERVER_FAULT_CONNECT, 1, now_ms);
        int64_t out_ms = at(&fleet, 0)->ejected_until_ms - now_ms;
        assert_in_range(out_ms, longest[i] * 3 / 4 - 1, longest[i]);
        /* While it is out, nothing makes it worse. */
        fail_times(&fleet, 0, SERVER_FAULT_CONNECT, 5, now_ms + 1);
        assert_int_equal(at(&fleet, 0)->ejected_until_ms, now_ms + out_ms);
        now_ms += out_ms;
    }
    /* After a long time it begins anew. */
    now_ms += 8001;
    fail_times(&fleet, 0, SERVER_FAULT_CONNECT, 1, now_ms);
    assert_in_range(at(&fleet, 0)->ejected_until_ms - now_ms, 750, 1000);
    fleet_deinit(&fleet);
}

static void when_all_are_out_the_one_that_is_back_first_is_asked(void **state)
{
    struct fleet fleet;

    fleet_init(&fleet);
    fail_times(&fleet, 1, SERVER_FAULT_CONNECT, 3, 0);
    fail_times(&fleet, 2, SERVER_FAULT_CONNECT, 3, 600);
    fail_times(&fleet, 0, SERVER_FAULT_CONNECT, 3, 700);
    assert_int_equal(next(&fleet, 701), 1);
    assert_true(server_enter(at(&fleet, 1), 701));
    server_answered(&fleet.servers, at(&fleet, 1), true);
    server_leave(at(&fleet, 1), true);
    assert_false(is_out(&fleet, 1, 701));
    fleet_deinit(&fleet);
}

static void a_reload_keeps_what_is_known(void **state)
{
    struct fleet before, after;

    fleet_init(&before);
    fleet_init(&after);
    fail_times(&before, 1, SERVER_FAULT_CONNECT, 3, 0);
    fail_times(&before, 2, SERVER_FAULT_CONNECT, 2, 0);
    servers_inherit(&after.servers, &before.servers);
    assert_false(is_out(&after, 0, 0));
    assert_true(is_out(&after, 1, 0));
    assert_int_equal(stat_get(&at(&after, 1)->row->fit), 0);
    fail_times(&after, 2, SERVER_FAULT_CONNECT, 1, 0);
    assert_true(is_out(&after, 2, 0));
    fleet_deinit(&before);
    fleet_deinit(&after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_take_turns),
        cmocka_unit_test(the_least_loaded_is_next),
        cmocka_unit_test(what_was_tried_is_not_chosen_again),
        cmocka_unit_test(failures_in_a_row_eject),
        cmocka_unit_test(only_the_configured_failures_count),
        cmocka_unit_test(zero_failures_never_eject),
        cmocka_unit_test(a_trial_is_one_request),
        cmocka_unit_test(an_answer_to_an_older_request_does_not_bring_it_back),
        cmocka_unit_test(ejections_grow_up_to_a_limit),
        cmocka_unit_test(when_all_are_out_the_one_that_is_back_first_is_asked),
        cmocka_unit_test(a_reload_keeps_what_is_known),
    };
    return cmocka_run_group_tests_name("upstream_server", tests, NULL, NULL);
}
