/* SPDX-License-Identifier: BSD-2-Clause */
/* Other set-ups: partitions, users, TCP, replicas, and what is told at the start. */
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
#include "gateway/store/startup.h"
#include "gateway/store/transition.h"
#include "store_world.h"

static enum store_startup startup_of(const struct config *config, char error[256])
{
    error[0] = '\0';
    return store_startup_check(config, config->store.redis == NULL ? shared.socket : NULL, error,
                               256);
}

static void a_denial_that_names_no_device_is_in_every_partition(void **state)
{
    struct world *world = mem_new(struct world);
    struct config config = test_config();
    struct change change = denial_change(DENY_KEY, HEX_A, "found in a bin", 0, false);

    redis_fixture_do(&shared, "FLUSHALL");
    config.store.partitions = 5;
    world_open(world, &shared, &config);
    wait_until(world, store_is_ready(world->store));
    change.n_events = 1;
    change.events[0] = cut_change(CUT_NOW, DENY_KEY, HEX_A, "").events[0];
    assert_int_equal(commit_of(world, "", &change), STORE_OK);
    wait_until(world, world->n_cuts > 0);
    static const char *const devices[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"};
    unsigned partitions = 0;
    for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
        const struct store_query query = {.device = devices[i], .key = HEX_A};
        partitions |= 1u << store_partition(&config, devices[i]);
        assert_true(ask(world, &query).view.denied.key);
    }
    assert_int_equal(partitions, 31);
    struct change allow = {.n_allow = 1, .allow[0] = change.deny[0]};
    assert_int_equal(commit_of(world, "", &allow), STORE_OK);
    assert_false(ask(world, &(struct store_query){.device = "e", .key = HEX_A}).view.denied.key);
    world_run(world, 200);
    assert_int_equal(world->n_cuts, 1);
    struct answer last = {0};
    (void)store_commit(world->store, "", &change, on_commit, &last);
    struct store_op *op = store_commit(world->store, "", &change, on_commit, &last);
    store_op_cancel(&op);
    world_close(world);
    assert_int_equal(last.calls, 1);
    assert_int_equal(last.result, STORE_UNAVAILABLE);
    mem_free(world);
}

static void every_partition_is_tailed(void **state)
{
    struct world *world = mem_new(struct world);
    struct config config = test_config();

    redis_fixture_do(&shared, "FLUSHALL");
    config.store.partitions = 300;
    world_open(world, &shared, &config);
    wait_until(world, store_is_ready(world->store));
    for (int i = 0; i < 300; i += 50)
        redis_fixture_do(&shared,
                         "XADD test:{p%s%d}:events * cut now device d cut_kind key cut_id x",
                         i < 10 ? "0" : "", i);
    wait_until(world, world->n_cuts == 6);
    world_close(world);
    mem_free(world);
}

static void data_of_another_layout_is_not_touched(void **state)
{
    struct world *world = mem_new(struct world);
    struct config config = test_config();
    char error[256];

    redis_fixture_do(&shared, "FLUSHALL");
    redis_fixture_do(&shared, "SET test:{p00}:partitions 16");
    world_open(world, &shared, &config);
    world_run(world, 500);
    assert_false(store_is_ready(world->store));
    assert_int_equal(ask(world, &(struct store_query){.device = "d1"}).result, STORE_UNAVAILABLE);
    assert_int_equal(startup_of(&config, error), STORE_STARTUP_WRONG);
    assert_non_null(strstr(error, "laid out for 16"));
    redis_fixture_do(&shared, "SET test:{p00}:partitions 1");
    wait_until(world, store_is_ready(world->store));
    world_close(world);
    mem_free(world);
}

static void write_password(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    (void)fputs(text, file);
    (void)fclose(file);
}

static void a_user_with_a_password_is_let_in(void **state)
{
    struct world *world = mem_new(struct world);
    struct config config = test_config();
    char path[128], error[256];

    redis_fixture_do(&shared, "FLUSHALL");
    redis_fixture_do(&shared, "ACL SETUSER gateway on >right ~test:* +@all -@admin");
    (void)snprintf(path, sizeof(path), "%s/password", shared.folder);
    write_password(path, "wrong\n");
    config.store.username = "gateway";
    config.store.password_file = path;
    assert_int_equal(startup_of(&config, error), STORE_STARTUP_WRONG);
    assert_non_null(strstr(error, "WRONGPASS"));
    world_open(world, &shared, &config);
    world_run(world, 300);
    assert_false(store_is_ready(world->store));
    /* The password is read again with every attempt. */
    write_password(path, "right\r\nsecond line\n");
    wait_until(world, store_is_ready(world->store));
    assert_int_equal(startup_of(&config, error), STORE_STARTUP_READY);
    assert_int_equal(ask(world, &(struct store_query){.device = "d1"}).result, STORE_OK);
    world_close(world);
    write_password(path, "\n");
    assert_int_equal(startup_of(&config, error), STORE_STARTUP_WRONG);
    redis_fixture_do(&shared, "ACL DELUSER gateway");
    mem_free(world);
}

/* A fleet whose user still had the rights of the version before: the event and the record were
 * written when the script met the set that it had no right to, and told of a failure. */
static void a_user_without_rights_to_all_changes_nothing(void **state)
{
    struct world *world = mem_new(struct world);
    struct config config = test_config();
    char path[128];

    redis_fixture_do(&shared, "FLUSHALL");
    redis_fixture_do(&shared, "ACL SETUSER gateway on >right ~test:* +@all -@admin -@sortedset");
    (void)snprintf(path, sizeof(path), "%s/password", shared.folder);
    write_password(path, "right\n");
    config.store.username = "gateway";
    config.store.password_file = path;
    world_open(world, &shared, &config);
    wait_until(world, store_is_ready(world->store));
    struct change change = record_change("d1", 1);
    change.n_events = 1;
    change.events[0] = event_change(EVENT_DEVICE_FIRST_SEEN, "d1").events[0];
    assert_int_equal(commit_of(world, "d1", &change), STORE_UNAVAILABLE);
    assert_int_equal(redis_fixture_number(&shared, "EXISTS test:{p00}:device:d1"), 0);
    assert_int_equal(redis_fixture_number(&shared, "EXISTS test:{p00}:events"), 0);
    /* What needs no set is not held up. */
    struct change denial = denial_change(DENY_KEY, HEX_A, "stolen", 0, false);
    assert_int_equal(commit_of(world, "d1", &denial), STORE_OK);
    redis_fixture_do(&shared, "ACL SETUSER gateway +@sortedset");
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    world_close(world);
    redis_fixture_do(&shared, "ACL DELUSER gateway");
    mem_free(world);
}

static void tcp_names_and_databases_are_found(void **state)
{
    static const char *const hosts[] = {"localhost", "127.0.0.1"};
    struct world *world = mem_new(struct world);
    struct config config = test_config();
    struct redis_fixture redis = {0};
    char url[64], error[256];

    redis_fixture_start(&redis, true);
    for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
        (void)snprintf(url, sizeof(url), "redis://%s:%u/3", hosts[i], redis.port);
        config.store.redis = url;
        world_open(world, &redis, &config);
        wait_until(world, store_is_ready(world->store));
        struct change change = record_change("d1", i + 1);
        assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
        assert_int_equal(startup_of(&config, error), STORE_STARTUP_READY);
        world_close(world);
    }
    assert_int_equal(redis_fixture_number(&redis, "EXISTS test:{p00}:partitions"), 0);
    redis_fixture_stop(&redis);
    assert_int_equal(startup_of(&config, error), STORE_STARTUP_UNREACHABLE);
    mem_free(world);
}

static void what_cannot_work_is_told_at_the_start(void **state)
{
    static const struct {
        const char *redis;
        enum store_startup result;
        const char *error;
    } cases[] = {
        {"unix:/nowhere/redis.sock", STORE_STARTUP_UNREACHABLE, "/nowhere/redis.sock"},
        {"redis://name.invalid", STORE_STARTUP_UNREACHABLE, "name.invalid"},
        {"redis://127.0.0.1:1", STORE_STARTUP_UNREACHABLE, "refused"},
        {"redis://127.0.0.1:x", STORE_STARTUP_WRONG, "port"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct config config = test_config();
        char error[256] = "";
        config.store.redis = cases[i].redis;
        assert_int_equal(store_startup_check(&config, NULL, error, sizeof(error)), cases[i].result);
        if (strstr(error, cases[i].error) == NULL)
            fail_msg("%s: %s", cases[i].redis, error);
    }
}

/* A config write that was given up released its lease by a read that came before the lease's own
 * commit, which stood behind another one's WAIT: the lease was left to expire, and announcements
 * were refused as busy until then. */
static void a_read_after_commits_is_not_early(struct world *world, struct redis_fixture *replica,
                                              uint64_t version)
{
    struct store_query query = {.device = "d2"};
    struct change blocking = record_change("d1", version + 1), behind = record_change("d2", 1);
    struct answer blocked = {0}, late = {0};

    (void)store_commit(world->store, "d1", &blocking, on_commit, &blocked);
    struct store_op *given_up = store_commit(world->store, "d2", &behind, on_commit, &blocked);
    assert_int_equal(ask(world, &query).view.record.version, 0);
    store_op_cancel(&given_up);
    query.after_commits = true;
    (void)store_read(world->store, &query, on_read, &late);
    redis_fixture_signal(replica, SIGCONT);
    wait_until(world, late.calls > 0);
    assert_int_equal(late.view.record.version, 1);
    assert_int_equal(blocked.calls, 1);
}

static void an_acknowledgement_waits_for_replicas(void **state)
{
    struct world *world = mem_new(struct world);
    struct config config = test_config();
    struct redis_fixture primary = {0}, replica = {0};
    struct change change = record_change("d1", 1);

    redis_fixture_start(&primary, true);
    config.store.wait_replicas = 1;
    /* A replica's first acknowledgement after its synchronisation may take a second. */
    config.store.wait_timeout_ms = 3000;
    world_open(world, &primary, &config);
    wait_until(world, store_is_ready(world->store));
    /* Nobody else has it: it happened, but that is no promise. */
    assert_int_equal(commit_of(world, "d1", &change), STORE_UNAVAILABLE);
    struct answer answer = ask(world, &(struct store_query){.device = "d1"});
    assert_int_equal(answer.view.record.version, 1);
    assert_int_equal(commit_of(world, "d1", &change), STORE_CONFLICT);

    redis_fixture_start(&replica, false);
    redis_fixture_do(&replica, "REPLICAOF 127.0.0.1 %d", (int)primary.port);
    uint64_t version = 1;
    do
        change = record_change("d1", ++version);
    while (commit_of(world, "d1", &change) != STORE_OK && version < 200);
    assert_true(version < 200);
    assert_int_equal(redis_fixture_number(&replica, "EXISTS test:{p00}:device:d1"), 1);
    redis_fixture_do(&primary, "SCRIPT FLUSH");
    change = record_change("d1", ++version);
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);

    /* Reads do not stand behind a WAIT. */
    redis_fixture_signal(&replica, SIGSTOP);
    change = record_change("d1", ++version);
    struct answer late = {0};
    (void)store_commit(world->store, "d1", &change, on_commit, &late);
    int64_t start = clock_monotonic_ms();
    assert_int_equal(ask(world, &(struct store_query){.device = "d1"}).result, STORE_OK);
    assert_true(clock_monotonic_ms() - start < config.store.wait_timeout_ms / 2);
    wait_until(world, late.calls > 0);
    assert_int_equal(late.result, STORE_UNAVAILABLE);
    a_read_after_commits_is_not_early(world, &replica, version);
    world_close(world);
    redis_fixture_stop(&replica);
    redis_fixture_stop(&primary);
    mem_free(world);
}

struct repetition {
    unsigned calls;
    enum store_result result;
};

/* As an announcement of the key that is pending already. */
static void decide_repetition(const struct store_view *view, struct decision *out, void *arg)
{
    assert_true(view->record.version > 0);
    decision_set(out, VERDICT_PASS, REASON_ANNOUNCED_BEFORE);
    out->confirms = true;
}

static void on_repeated(enum store_result result, const struct store_view *view,
                        const struct decision *decision, void *arg)
{
    struct repetition *repetition = arg;

    repetition->calls++;
    repetition->result = result;
    if (result == STORE_OK)
        assert_false(decision->commits);
}

static enum store_result repeat(struct world *world)
{
    struct repetition repetition = {0};

    (void)transition_start(world->store, &(struct store_query){.device = "d1"}, decide_repetition,
                           on_repeated, &repetition);
    wait_until(world, repetition.calls > 0);
    return repetition.result;
}

/* An announcement that no replica got in time is answered 503, and the device repeats it. It was
 * then answered 200 from the primary's memory, although still no replica had it: with the primary,
 * a key was lost that its device had finalised on. */
static void a_repeated_acknowledgement_waits_for_replicas_too(void **state)
{
    struct world *world = mem_new(struct world);
    struct config config = test_config();
    struct redis_fixture primary = {0}, replica = {0};
    struct change change = record_change("d1", 1);

    redis_fixture_start(&primary, true);
    config.store.wait_replicas = 1;
    config.store.wait_timeout_ms = 500;
    world_open(world, &primary, &config);
    wait_until(world, store_is_ready(world->store));
    assert_int_equal(commit_of(world, "d1", &change), STORE_UNAVAILABLE);
    assert_int_equal(repeat(world), STORE_UNAVAILABLE);

    redis_fixture_start(&replica, false);
    redis_fixture_do(&replica, "REPLICAOF 127.0.0.1 %d", (int)primary.port);
    wait_until(world, repeat(world) == STORE_OK);
    assert_int_equal(redis_fixture_number(&replica, "EXISTS test:{p00}:device:d1"), 1);
    assert_int_equal(ask(world, &(struct store_query){.device = "d1"}).view.record.version, 1);
    assert_int_equal(events_of(world, 0, 8).n_events, 0);
    world_close(world);
    redis_fixture_stop(&replica);
    redis_fixture_stop(&primary);
    mem_free(world);
}

/* A primary that becomes a replica keeps its clients, and reading went on there: from data that may
 * be old, for as long as nobody wanted to change anything. */
static void a_primary_that_becomes_a_replica_is_left(void **state)
{
    struct world *world = mem_new(struct world);
    struct config config = test_config();
    struct redis_fixture redis = {0};

    redis_fixture_start(&redis, false);
    world_open(world, &redis, &config);
    wait_until(world, store_is_ready(world->store));
    redis_fixture_do(&redis, "REPLICAOF 127.0.0.1 1");
    wait_until(world, ask(world, &(struct store_query){.device = "d1"}).result != STORE_OK);
    wait_until(world, !store_is_fresh(world->store));
    redis_fixture_do(&redis, "REPLICAOF NO ONE");
    wait_until(world, store_is_ready(world->store) && store_is_fresh(world->store));
    assert_int_equal(ask(world, &(struct store_query){.device = "d1"}).result, STORE_OK);
    world_close(world);
    redis_fixture_stop(&redis);
    mem_free(world);
}

/* With an argument: only the tests whose names match it. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_denial_that_names_no_device_is_in_every_partition),
        cmocka_unit_test(every_partition_is_tailed),
        cmocka_unit_test(data_of_another_layout_is_not_touched),
        cmocka_unit_test(a_user_with_a_password_is_let_in),
        cmocka_unit_test(a_user_without_rights_to_all_changes_nothing),
        cmocka_unit_test(tcp_names_and_databases_are_found),
        cmocka_unit_test(what_cannot_work_is_told_at_the_start),
        cmocka_unit_test(an_acknowledgement_waits_for_replicas),
        cmocka_unit_test(a_repeated_acknowledgement_waits_for_replicas_too),
        cmocka_unit_test(a_primary_that_becomes_a_replica_is_left),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
