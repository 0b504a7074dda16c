/* SPDX-License-Identifier: BSD-2-Clause */
/* The event log as gateways follow it: cuts in order, and every gap noticed. */
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
#include "store_world.h"

static void cuts_arrive_in_order(void **state)
{
    static const struct seen_cut cuts[] = {
        {CUT_NOW, DENY_KEY, HEX_A, "d1"},
        {CUT_DRAIN, DENY_KEY, HEX_B, "d1"},
        {CUT_NOW, DENY_CERTIFICATE, HEX_C, ""},
        {CUT_NOW, DENY_DEVICE, "d2", "d2"},
    };
    struct world *world = *state;
    struct change quiet = event_change(EVENT_DEVICE_FIRST_SEEN, "d1");

    for (size_t i = 0; i < ARRAY_SIZE(cuts); i++) {
        struct change change = cut_change(cuts[i].mode, cuts[i].kind, cuts[i].id, cuts[i].device);
        assert_int_equal(commit_of(world, "d1", &quiet), STORE_OK);
        assert_int_equal(commit_of(world, cuts[i].device, &change), STORE_OK);
    }
    wait_until(world, world->n_cuts == ARRAY_SIZE(cuts));
    for (size_t i = 0; i < ARRAY_SIZE(cuts); i++) {
        assert_int_equal(world->cuts[i].mode, cuts[i].mode);
        assert_int_equal(world->cuts[i].kind, cuts[i].kind);
        assert_string_equal(world->cuts[i].id, cuts[i].id);
        assert_string_equal(world->cuts[i].device, cuts[i].device);
    }
    assert_int_equal(world->n_gaps, 1);
}

static void a_cut_comes_within_milliseconds(void **state)
{
    struct world *world = *state;
    struct change change = cut_change(CUT_NOW, DENY_KEY, HEX_A, "d1");
    int64_t start = clock_monotonic_ms();

    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    wait_until(world, world->n_cuts == 1);
    assert_true(clock_monotonic_ms() - start < world->config.store.lease_ms / 4);
}

static void a_cut_that_cannot_be_understood_is_a_gap(void **state)
{
    static const char *const entries[] = {
        "XADD test:{p00}:events * type X device d1 cut slowly cut_kind key cut_id " HEX_A,
        "XADD test:{p00}:events * type X device d1 cut now cut_kind planet cut_id " HEX_A,
        "XADD test:{p00}:events * type X device d1 cut now cut_kind key",
        "XADD test:{p00}:events * type X cut now cut_kind key cut_id " HEX_A,
        "XADD test:{p00}:events * cut now device d1 cut_kind key cut_id " HEX_A HEX_A,
    };
    struct world *world = *state;

    for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
        redis_fixture_do(&shared, entries[i], NULL);
        wait_until(world, world->n_gaps == i + 2);
    }
    redis_fixture_do(&shared, "XADD test:{p00}:events * what ever");
    struct change change = cut_change(CUT_NOW, DENY_KEY, HEX_A, "d1");
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    wait_until(world, world->n_cuts == 1);
    assert_int_equal(world->n_gaps, ARRAY_SIZE(entries) + 1);
}

static void a_broken_tail_goes_on_where_it_was(void **state)
{
    struct world *world = *state;
    struct change change = cut_change(CUT_NOW, DENY_KEY, HEX_A, "d1");

    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    wait_until(world, world->n_cuts == 1);
    redis_fixture_do(&shared, "CLIENT KILL TYPE normal");
    redis_fixture_do(&shared, "XADD test:{p00}:events * type X device d2 cut now cut_kind key "
                              "cut_id " HEX_B);
    wait_until(world, world->n_cuts == 2);
    assert_string_equal(world->cuts[1].id, HEX_B);
    assert_int_equal(world->n_gaps, 1);
    wait_until(world, store_is_ready(world->store) && store_is_fresh(world->store));
    assert_true(store_reconnects(world->store) >= 2);
}

static void what_was_trimmed_unread_is_a_gap(void **state)
{
    static const char *const losses[] = {
        /* Trimmed while nobody read, with entries left. */
        "return redis.call('XADD', KEYS[1], 'MAXLEN', '1', '*', 'a', 'b')",
        /* Emptied. */
        "return redis.call('XTRIM', KEYS[1], 'MAXLEN', '0')",
        /* Gone. */
        "return redis.call('DEL', KEYS[1])",
        /* Replaced by another one. */
        "redis.call('DEL', KEYS[1]) return redis.call('XADD', KEYS[1], '1-1', 'a', 'b')",
    };
    struct world *world = *state;

    for (size_t i = 0; i < ARRAY_SIZE(losses); i++) {
        struct change change = cut_change(CUT_NOW, DENY_KEY, HEX_A, "d1");
        redis_fixture_do(&shared, "DEL test:{p00}:events");
        wait_until(world, world->n_gaps > 0 && store_is_fresh(world->store));
        world_run(world, 200);
        world->n_cuts = 0;
        assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
        wait_until(world, world->n_cuts == 1);
        size_t before = world->n_gaps;
        /* This loop is not running meanwhile: the tail reads nothing of it. */
        redis_fixture_do(&shared, "CLIENT KILL TYPE normal");
        redis_fixture_do(&shared,
                         "XADD test:{p00}:events * cut now device d1 cut_kind key cut_id " HEX_B);
        redis_fixture_do(&shared, "EVAL %s 1 test:{p00}:events", losses[i]);
        wait_until(world, world->n_gaps > before);
        wait_until(world, store_is_ready(world->store) && store_is_fresh(world->store));
        assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
        wait_until(world, world->n_cuts >= 2);
    }
}

/* The same without a broken link: a gateway that was stopped for a while. */
static void what_was_trimmed_behind_a_stalled_gateway_is_a_gap(void **state)
{
    struct world *world = *state;
    struct change change = cut_change(CUT_NOW, DENY_KEY, HEX_A, "d1");

    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    wait_until(world, world->n_cuts == 1);
    size_t before = world->n_gaps;
    /* The blocked XREAD is answered with the first of these; the second is gone before the next. */
    redis_fixture_do(&shared, "XADD test:{p00}:events * a b");
    redis_fixture_do(&shared,
                     "XADD test:{p00}:events * cut now device d1 cut_kind key cut_id " HEX_B);
    redis_fixture_do(&shared, "XADD test:{p00}:events MAXLEN 1 * a b");
    wait_until(world, world->n_gaps > before);
    assert_int_equal(world->n_cuts, 1);
    assert_int_equal(store_reconnects(world->store), 0);
}

/* Whoever reads on from a place takes its word for what it has found before: a gap that was seen in
 * one connection must be told, even if that connection ends before the round does. */
static void a_gap_outlives_its_connection(void **state)
{
    struct world *world = *state;
    struct change change = cut_change(CUT_NOW, DENY_KEY, HEX_A, "d1");

    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    wait_until(world, world->n_cuts == 1);
    world_run(world, 20);
    size_t before = world->n_gaps;
    /* XREAD waits, and XINFO behind it: the first will be answered and the second refused. */
    redis_fixture_do(&shared, "ACL SETUSER default -xinfo");
    redis_fixture_do(&shared, "XADD test:{p00}:events * device d1 cut slowly");
    wait_until(world, store_reconnects(world->store) > 0);
    redis_fixture_do(&shared, "ACL SETUSER default +xinfo");
    wait_until(world, store_is_ready(world->store));
    wait_until(world, world->n_gaps > before);
    assert_int_equal(world->n_cuts, 1);
}

/* As after a failover to a replica that lacked the newest entries and whose clock was behind: the
 * log ends where it ended, and has entries before that nobody has read. */
static void entries_before_the_place_are_a_gap(void **state)
{
    struct world *world = *state;
    struct change change = cut_change(CUT_NOW, DENY_KEY, HEX_A, "d1");

    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    wait_until(world, world->n_cuts == 1);
    world_run(world, 20);
    size_t before = world->n_gaps;
    redis_fixture_do(&shared, "EVAL %s 1 test:{p00}:events",
                     "local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]\n"
                     "redis.call('DEL', KEYS[1])\n"
                     "redis.call('XADD', KEYS[1], '1-1', 'device', 'd2', 'cut', 'now')\n"
                     "redis.call('XADD', KEYS[1], last, 'a', 'b')");
    wait_until(world, world->n_gaps > before);
    before = world->n_gaps;
    world_run(world, 600);
    assert_int_equal(world->n_gaps, before);
    assert_true(store_is_fresh(world->store));
}

static void a_burst_is_followed_to_its_end(void **state)
{
    struct world *world = *state;

    redis_fixture_do(&shared, "EVAL %s 1 test:{p00}:events",
                     "for i = 1, 3000 do redis.call('XADD', KEYS[1], '*', 'cut', 'now', 'device', "
                     "'d' .. i, 'cut_kind', 'device', 'cut_id', 'd' .. i) end");
    wait_until(world, world->n_cuts == 3000);
    assert_string_equal(world->cuts[0].id, "d1");
    assert_string_equal(world->cuts[2999].id, "d3000");
    assert_int_equal(world->n_gaps, 1);
    assert_true(store_is_fresh(world->store));
}

static void freshness_ends_with_the_lease(void **state)
{
    struct world *world = *state;

    redis_fixture_signal(&shared, SIGSTOP);
    assert_true(store_is_fresh(world->store));
    int64_t start = clock_monotonic_ms();
    wait_until(world, !store_is_fresh(world->store));
    assert_true(clock_monotonic_ms() - start <= world->config.store.lease_ms + 50);
    assert_true(store_stale_ms(world->store) > world->config.store.lease_ms);
    redis_fixture_signal(&shared, SIGCONT);
    wait_until(world, store_is_fresh(world->store));
    assert_int_equal(world->n_gaps, 1);
}

static void an_idle_log_stays_fresh(void **state)
{
    struct world *world = *state;
    int64_t end = clock_monotonic_ms() + 1500;

    while (clock_monotonic_ms() < end) {
        event_base_loop(world->base, EVLOOP_ONCE);
        assert_true(store_is_fresh(world->store));
    }
}

/* With an argument: only the tests whose names match it. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        store_test(cuts_arrive_in_order),
        store_test(a_cut_comes_within_milliseconds),
        store_test(a_cut_that_cannot_be_understood_is_a_gap),
        store_test(a_broken_tail_goes_on_where_it_was),
        store_test(what_was_trimmed_unread_is_a_gap),
        store_test(what_was_trimmed_behind_a_stalled_gateway_is_a_gap),
        store_test(a_gap_outlives_its_connection),
        store_test(entries_before_the_place_are_a_gap),
        store_test(a_burst_is_followed_to_its_end),
        store_test(freshness_ends_with_the_lease),
        store_test(an_idle_log_stays_fresh),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
