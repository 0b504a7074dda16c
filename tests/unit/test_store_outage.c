/* SPDX-License-Identifier: BSD-2-Clause */
/* A redis-server that is stalled, killed, full or a replica, and owners that go away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "gateway/base/mem.h"
#include "store_world.h"

static void a_stalled_redis_is_given_up_in_time(void **state)
{
    struct world *world = *state;
    struct answer answers[3] = {{0}};
    const struct store_query query = {.device = "d1"};

    redis_fixture_signal(&shared, SIGSTOP);
    int64_t start = clock_monotonic_ms();
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++)
        (void)store_read(world->store, &query, on_read, &answers[i]);
    wait_until(world, answers[0].calls > 0);
    int64_t took = clock_monotonic_ms() - start;
    assert_true(took >= world->config.store.command_timeout_ms - 10);
    assert_true(took < world->config.store.command_timeout_ms + 200);
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        assert_int_equal(answers[i].calls, 1);
        assert_int_equal(answers[i].result, STORE_UNAVAILABLE);
    }
    assert_false(store_is_ready(world->store));

    /* Down: told at once. */
    start = clock_monotonic_ms();
    assert_int_equal(ask(world, &query).result, STORE_UNAVAILABLE);
    assert_true(clock_monotonic_ms() - start < 100);

    redis_fixture_signal(&shared, SIGCONT);
    wait_until(world, store_is_ready(world->store));
    assert_int_equal(ask(world, &query).result, STORE_OK);
    assert_int_equal(stat_get(&world->stats.failures), 4);
}

static void on_busy(evutil_socket_t fd, short what, void *arg)
{
}

/* A storm of handshakes kept the loop busy for longer than Redis may take to answer; its answer had
 * been there, but the timer came first: the link was broken, and everybody got 503. libevent takes
 * 32 of the ready descriptors at first, and timers after each portion. */
static void an_answer_that_waited_for_a_busy_loop_is_in_time(void **state)
{
    struct world *world = *state;
    struct event *busy[500];

    for (size_t i = 0; i < ARRAY_SIZE(busy); i++) {
        busy[i] =
            event_new(world->base, eventfd(1, EFD_CLOEXEC), EV_READ | EV_PERSIST, on_busy, NULL);
        assert_int_equal(event_add(busy[i], NULL), 0);
    }
    /* It is kept from reading the answer, and then from sending the command. */
    for (int turns = 1; turns >= 0; turns--) {
        struct answer answer = {0};
        (void)store_read(world->store, &(struct store_query){.device = "d1"}, on_read, &answer);
        if (turns > 0)
            event_base_loop(world->base, EVLOOP_ONCE);
        assert_int_equal(answer.calls, 0);
        usleep((unsigned)(world->config.store.command_timeout_ms + 50) * 1000);
        wait_until(world, answer.calls > 0);
        assert_int_equal(answer.result, STORE_OK);
    }
    assert_int_equal(stat_get(&world->stats.failures), 0);
    for (size_t i = 0; i < ARRAY_SIZE(busy); i++) {
        close(event_get_fd(busy[i]));
        event_free(busy[i]);
    }
}

static void what_was_acknowledged_survives_a_killed_redis(void **state)
{
    struct world *world = *state;
    uint64_t acknowledged = 0;

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 20; i++) {
            struct change change = record_change("d1", acknowledged + 1);
            assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
            acknowledged++;
        }
        struct change last = record_change("d1", acknowledged + 1);
        struct answer answer = {0};
        (void)store_commit(world->store, "d1", &last, on_commit, &answer);
        redis_fixture_signal(&shared, SIGKILL);
        wait_until(world, answer.calls > 0);
        assert_int_equal(answer.result, STORE_UNAVAILABLE);
        redis_fixture_resume(&shared);
        wait_until(world, store_is_ready(world->store));
        struct answer read = ask(world, &(struct store_query){.device = "d1"});
        assert_int_equal(read.result, STORE_OK);
        assert_true(read.view.record.version >= acknowledged);
        acknowledged = read.view.record.version;
    }
}

static void a_replica_is_not_trusted(void **state)
{
    struct world *world = *state;
    struct change change = record_change("d1", 1);

    redis_fixture_do(&shared, "CONFIG SET replica-serve-stale-data yes");
    redis_fixture_do(&shared, "REPLICAOF 127.0.0.1 1");
    wait_until(world, commit_of(world, "d1", &change) == STORE_UNAVAILABLE &&
                          !store_is_ready(world->store));
    world_run(world, 300);
    assert_int_equal(ask(world, &(struct store_query){.device = "d1"}).result, STORE_UNAVAILABLE);
    redis_fixture_do(&shared, "REPLICAOF NO ONE");
    wait_until(world, store_is_ready(world->store));
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
}

static void a_full_redis_refuses_commits_but_can_be_read(void **state)
{
    struct world *world = *state;
    struct change change = record_change("d1", 1);

    change.n_events = 1;
    change.events[0] = event_change(EVENT_DEVICE_FIRST_SEEN, "d1").events[0];
    redis_fixture_do(&shared, "CONFIG SET maxmemory 1");
    assert_int_equal(commit_of(world, "d1", &change), STORE_UNAVAILABLE);
    assert_int_equal(ask(world, &(struct store_query){.device = "d1"}).result, STORE_OK);
    redis_fixture_do(&shared, "CLIENT KILL TYPE normal");
    wait_until(world, !store_is_ready(world->store));
    wait_until(world, store_is_ready(world->store));
    redis_fixture_do(&shared, "CONFIG SET maxmemory 0");
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
}

static void a_missing_right_makes_unavailable(void **state)
{
    struct world *world = *state;
    struct change change = event_change(EVENT_DEVICE_FIRST_SEEN, "d1");

    redis_fixture_do(&shared, "ACL SETUSER default -xadd");
    assert_int_equal(commit_of(world, "d1", &change), STORE_UNAVAILABLE);
    redis_fixture_do(&shared, "ACL SETUSER default +@all");
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
}

static void a_cancelled_operation_is_silent(void **state)
{
    struct world *world = *state;
    const struct store_query query = {.device = "d1"};
    struct change change = record_change("d1", 1);
    struct answer answer = {0};

    struct store_op *op = store_read(world->store, &query, on_read, &answer);
    store_op_cancel(&op);
    assert_null(op);
    store_op_cancel(&op);
    redis_fixture_signal(&shared, SIGSTOP);
    op = store_commit(world->store, "d1", &change, on_commit, &answer);
    world_run(world, 20);
    store_op_cancel(&op);
    redis_fixture_signal(&shared, SIGCONT);
    op = store_pause(world->store, 1, on_commit, &answer);
    store_op_cancel(&op);
    /* One whose script has to be sent again. */
    redis_fixture_do(&shared, "SCRIPT FLUSH");
    op = store_read(world->store, &query, on_read, &answer);
    store_op_cancel(&op);
    assert_int_equal(ask(world, &query).result, STORE_OK);
    world_run(world, 30);
    assert_int_equal(answer.calls, 0);

    redis_fixture_do(&shared, "CLIENT KILL TYPE normal");
    wait_until(world, !store_is_ready(world->store));
    op = store_read(world->store, &query, on_read, &answer);
    store_op_cancel(&op);
    op = store_pause(world->store, 1, on_commit, &answer);
    store_op_cancel(&op);
    world_run(world, 30);
    assert_int_equal(answer.calls, 0);
    wait_until(world, store_is_ready(world->store));
}

struct self_canceller {
    struct store_op *op;
    struct store_op *other;
    struct world *world;
    unsigned calls;
};

static void on_cancel_in_callback(enum store_result result, const struct store_view *view,
                                  void *arg)
{
    struct self_canceller *self = arg;

    self->calls++;
    store_op_cancel(&self->op);
    store_op_cancel(&self->other);
}

static void a_callback_may_cancel_itself_and_others(void **state)
{
    struct world *world = *state;
    const struct store_query query = {.device = "d1"};

    for (int is_down = 0; is_down < 2; is_down++) {
        struct self_canceller self = {.world = world};
        if (is_down) {
            redis_fixture_do(&shared, "CLIENT KILL TYPE normal");
            wait_until(world, !store_is_ready(world->store));
        }
        self.op = store_read(world->store, &query, on_cancel_in_callback, &self);
        self.other = store_read(world->store, &query, on_cancel_in_callback, &self);
        wait_until(world, self.calls > 0);
        world_run(world, 30);
        assert_int_equal(self.calls, 1);
    }
}

/* Asks again on every failure, as somebody will. */
static void on_ask_again(enum store_result result, const struct store_view *view, void *arg)
{
    struct self_canceller *self = arg;

    if (++self->calls < 100000)
        self->op = store_read(self->world->store, &(struct store_query){.device = "d1"},
                              on_ask_again, self);
}

static void asking_again_at_once_does_not_stop_the_loop(void **state)
{
    struct world *world = *state;
    struct self_canceller self = {.world = world};

    redis_fixture_do(&shared, "CLIENT KILL TYPE normal");
    wait_until(world, !store_is_ready(world->store));
    on_ask_again(STORE_UNAVAILABLE, NULL, &self);
    wait_until(world, store_is_ready(world->store));
    assert_true(self.calls < 100000);
    store_op_cancel(&self.op);
}

static void a_store_that_is_freed_answers_everything(void **state)
{
    static const struct answer none;
    struct world *world = mem_new(struct world);
    const struct config config = test_config();
    struct answer answers[6] = {none};
    struct change change = record_change("d9", 1);

    for (int is_up = 0; is_up < 2; is_up++) {
        memset(answers, 0, sizeof(answers));
        world_open(world, &shared, &config);
        if (is_up)
            wait_until(world, store_is_ready(world->store));
        (void)store_read(world->store, &(struct store_query){.device = "d9"}, on_read, &answers[0]);
        (void)store_commit(world->store, "d9", &change, on_commit, &answers[1]);
        (void)store_read_denial(world->store, DENY_KEY, HEX_A, "", on_denial, &answers[2]);
        (void)store_read_events(world->store, 0, 5, on_events, &answers[3]);
        (void)store_pause(world->store, 1000, on_commit, &answers[4]);
        struct store_op *op =
            store_read(world->store, &(struct store_query){.device = "d9"}, on_read, &answers[5]);
        store_op_cancel(&op);
        world_close(world);
        for (size_t i = 0; i < 5; i++) {
            assert_int_equal(answers[i].calls, 1);
            assert_int_equal(answers[i].result, STORE_UNAVAILABLE);
        }
        assert_int_equal(answers[5].calls, 0);
    }
    mem_free(world);
}

static void more_than_the_bound_is_refused_and_all_are_answered(void **state)
{
    struct world *world = *state;
    enum { N = STORE_OPERATIONS_MAX + 500 };
    struct answer *answers = mem_array(N, sizeof(*answers));
    unsigned done = 0, ok = 0;

    for (int i = 0; i < N; i++)
        (void)store_read(world->store, &(struct store_query){.device = "d1"}, on_read, &answers[i]);
    int64_t deadline = clock_monotonic_ms() + PATIENCE_MS;
    while (done < N && clock_monotonic_ms() < deadline) {
        event_base_loop(world->base, EVLOOP_ONCE);
        done = ok = 0;
        for (int i = 0; i < N; i++) {
            done += answers[i].calls;
            ok += answers[i].calls == 1 && answers[i].result == STORE_OK;
        }
    }
    assert_int_equal(done, N);
    assert_int_equal(ok, STORE_OPERATIONS_MAX);
    mem_free(answers);
}

/* With an argument: only the tests whose names match it. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        store_test(a_stalled_redis_is_given_up_in_time),
        store_test(an_answer_that_waited_for_a_busy_loop_is_in_time),
        store_test(what_was_acknowledged_survives_a_killed_redis),
        store_test(a_replica_is_not_trusted),
        store_test(a_full_redis_refuses_commits_but_can_be_read),
        store_test(a_missing_right_makes_unavailable),
        store_test(a_cancelled_operation_is_silent),
        store_test(a_callback_may_cancel_itself_and_others),
        store_test(asking_again_at_once_does_not_stop_the_loop),
        cmocka_unit_test(a_store_that_is_freed_answers_everything),
        store_test(more_than_the_bound_is_refused_and_all_are_answered),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
