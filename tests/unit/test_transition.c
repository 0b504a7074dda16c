/* SPDX-License-Identifier: BSD-2-Clause */
/* Read, decide, commit, against a real redis-server: many writers, one line of versions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/base/mem.h"
#include "gateway/store/transition.h"
#include "store_world.h"

struct increment {
    struct transition *transition;
    unsigned calls;
    unsigned decisions;
    enum store_result result;
    uint64_t version;
    uint64_t stop_at; /* beyond it, nothing is committed; 0: no limit */
};

static void decide_increment(const struct store_view *view, struct decision *out, void *arg)
{
    struct increment *increment = arg;

    increment->decisions++;
    memset(out, 0, sizeof(*out));
    out->verdict = VERDICT_PASS;
    out->reason = REASON_OK;
    if (increment->stop_at != 0 && view->record.version >= increment->stop_at)
        return;
    out->commits = true;
    out->change = record_change("d1", view->record.version + 1);
    out->change.n_events = 1;
    out->change.events[0] = event_change(EVENT_DEVICE_KEY_ACCEPTED, "d1").events[0];
}

static void on_increment(enum store_result result, const struct store_view *view,
                         const struct decision *decision, void *arg)
{
    struct increment *increment = arg;

    increment->calls++;
    increment->result = result;
    assert_int_equal(view != NULL, result == STORE_OK);
    assert_int_equal(decision != NULL, result == STORE_OK);
    if (result == STORE_OK && decision->commits) {
        increment->version = decision->change.next.version;
        assert_int_equal(view->record.version + 1, increment->version);
    }
    transition_cancel(&increment->transition);
}

static void start_increment(struct store *store, struct increment *increment)
{
    increment->transition = transition_start(store, &(struct store_query){.device = "d1"},
                                             decide_increment, on_increment, increment);
    assert_int_equal(increment->calls, 0);
}

static void a_transition_reads_decides_and_commits(void **state)
{
    struct world *world = *state;
    struct increment increment = {0};

    start_increment(world->store, &increment);
    wait_until(world, increment.calls > 0);
    assert_int_equal(increment.result, STORE_OK);
    assert_int_equal(increment.version, 1);
    assert_int_equal(increment.decisions, 1);

    struct increment idle = {.stop_at = 1};
    start_increment(world->store, &idle);
    wait_until(world, idle.calls > 0);
    assert_int_equal(idle.result, STORE_OK);
    assert_int_equal(idle.version, 0);
    assert_int_equal(redis_fixture_number(&shared, "XLEN test:{p00}:events"), 1);
}

/* Two gateways, many writers, one device: every version is given to one of them only. */
static void transitions_on_one_device_are_linear(void **state)
{
    enum { N = 60, VERSIONS = 1000 };
    struct world *world = *state;
    struct store *second = world_add_store(world);
    struct increment increments[N] = {{0}};
    bool given[VERSIONS + N] = {false};
    unsigned n_ok = 0, n_conflicts = 0;

    wait_until(world, store_is_ready(second));
    for (int round = 0; round < VERSIONS / N; round++) {
        memset(increments, 0, sizeof(increments));
        for (int i = 0; i < N; i++)
            start_increment(i % 2 == 0 ? world->store : second, &increments[i]);
        for (int i = 0; i < N; i++) {
            wait_until(world, increments[i].calls > 0);
            assert_int_equal(increments[i].calls, 1);
            if (increments[i].result == STORE_CONFLICT) {
                n_conflicts++;
                continue;
            }
            assert_int_equal(increments[i].result, STORE_OK);
            assert_true(increments[i].version < ARRAY_SIZE(given));
            assert_false(given[increments[i].version]);
            given[increments[i].version] = true;
            n_ok++;
        }
    }
    struct answer answer = ask(world, &(struct store_query){.device = "d1"});
    assert_int_equal(answer.view.record.version, n_ok);
    assert_int_equal(redis_fixture_number(&shared, "XLEN test:{p00}:events"), n_ok);
    assert_int_equal(n_ok + n_conflicts, VERSIONS / N * N);
    print_message("# %u committed, %u gave up\n", n_ok, n_conflicts);
    assert_true(n_conflicts < n_ok / 10);
    store_free(&second);
}

static void a_cancelled_transition_is_silent_at_every_stage(void **state)
{
    struct world *world = *state;

    for (int turns = 0; turns < 12; turns++) {
        struct increment increment = {0};
        start_increment(world->store, &increment);
        for (int i = 0; i < turns && increment.calls == 0; i++)
            event_base_loop(world->base, EVLOOP_NONBLOCK);
        unsigned calls = increment.calls;
        transition_cancel(&increment.transition);
        assert_null(increment.transition);
        world_run(world, 10);
        assert_int_equal(increment.calls, calls);
    }
}

static void a_transition_without_a_store_says_so(void **state)
{
    struct world *world = *state;
    struct increment increment = {0}, last = {0};

    redis_fixture_do(&shared, "CLIENT KILL TYPE normal");
    wait_until(world, !store_is_ready(world->store));
    start_increment(world->store, &increment);
    wait_until(world, increment.calls > 0);
    assert_int_equal(increment.result, STORE_UNAVAILABLE);
    assert_int_equal(increment.decisions, 0);

    struct world *other = mem_new(struct world);
    world_open(other, &shared, &world->config);
    wait_until(other, store_is_ready(other->store));
    start_increment(other->store, &last);
    world_close(other);
    mem_free(other);
    assert_int_equal(last.calls, 1);
    assert_int_equal(last.result, STORE_UNAVAILABLE);
}

/* With an argument: only the tests whose names match it. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        store_test(a_transition_reads_decides_and_commits),
        store_test(transitions_on_one_device_are_linear),
        store_test(a_cancelled_transition_is_silent_at_every_stage),
        store_test(a_transition_without_a_store_says_so),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
