/* SPDX-License-Identifier: BSD-2-Clause */
/* The store against a real redis-server: what is written is what is read, also beside rubbish. */
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
#include "gateway/store/scripts.h"
#include "store_world.h"

static void script_names_are_those_that_redis_computes(void **state)
{
    const struct script *const scripts[] = {&script_read, &script_commit, &script_pending};

    for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
        redisReply *reply =
            redis_fixture_ask(&shared, "SCRIPT LOAD %b", scripts[i]->text.p, scripts[i]->text.len);
        assert_int_equal(reply->type, REDIS_REPLY_STRING);
        assert_string_equal(reply->str, scripts[i]->sha1.p);
        freeReplyObject(reply);
    }
}

static void a_new_store_finds_its_place_in_the_log(void **state)
{
    struct world *world = *state;

    assert_true(store_is_fresh(world->store));
    assert_int_equal(world->n_gaps, 1);
    assert_int_equal(world->n_cuts, 0);
    assert_true(store_stale_ms(world->store) <= world->config.store.lease_ms);
    redisReply *reply = redis_fixture_ask(&shared, "GET test:{p00}:partitions");
    assert_string_equal(reply->str, "1");
    freeReplyObject(reply);
}

static void an_unknown_device_reads_as_no_record(void **state)
{
    struct answer answer = ask(*state, &(struct store_query){.device = "d1", .key = HEX_A});

    assert_int_equal(answer.result, STORE_OK);
    assert_int_equal(answer.view.record.version, 0);
    assert_string_equal(answer.view.record.name, "d1");
    assert_false(answer.view.denied.key || answer.view.denied.device ||
                 answer.view.denied.certificate || answer.view.next_key_denied);
    assert_true(llabs(answer.view.now_ms - clock_wall_ms()) < 5000);
    assert_int_equal(answer.view.last_seen_ms, 0);
}

static void a_committed_record_is_what_is_read(void **state)
{
    struct world *world = *state;
    struct change change = record_change("d1", 1);

    change.next.pending = (struct pubkey){.id = {HEX_B}, .pem = PEM};
    change.next.pending_since_ms = 5;
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    struct answer answer = ask(world, &(struct store_query){.device = "d1"});
    assert_int_equal(answer.result, STORE_OK);
    assert_memory_equal(&answer.view.record, &change.next, sizeof(change.next));

    /* Nothing of the former record stays behind. */
    change = record_change("d1", 2);
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    answer = ask(world, &(struct store_query){.device = "d1"});
    assert_memory_equal(&answer.view.record, &change.next, sizeof(change.next));
    assert_int_equal(redis_fixture_number(&shared, "HEXISTS test:{p00}:device:d1 pending"), 0);
}

static struct pending_answer {
    unsigned calls;
    struct store_pending pending;
} pending_answer;

static void on_pending(enum store_result result, const struct store_pending *pending, void *arg)
{
    assert_int_equal(result, STORE_OK);
    pending_answer.pending = *pending;
    pending_answer.calls++;
}

static const struct store_pending *pending_of(struct world *world, int64_t for_ms)
{
    pending_answer.calls = 0;
    (void)store_read_pending(world->store, 0, for_ms, on_pending, NULL);
    wait_until(world, pending_answer.calls == 1);
    return &pending_answer.pending;
}

static void set_pending(struct change *change, int64_t since_ms, bool stalled)
{
    change->next.version++;
    change->next.pending = (struct pubkey){.id = {HEX_B}, .pem = PEM};
    change->next.pending_since_ms = since_ms;
    change->next.stalled = stalled;
}

static void pending_rotations_are_found_by_their_age(void **state)
{
    struct world *world = *state;
    struct change old = record_change("old", 0), young = record_change("young", 0),
                  steady = record_change("steady", 1);

    set_pending(&old, clock_wall_ms() - 100000, false);
    set_pending(&young, clock_wall_ms() - 50000, false);
    assert_int_equal(commit_of(world, "old", &old), STORE_OK);
    assert_int_equal(commit_of(world, "young", &young), STORE_OK);
    assert_int_equal(commit_of(world, "steady", &steady), STORE_OK);

    const struct store_pending *found = pending_of(world, 70000);
    assert_int_equal(found->n_pending, 2);
    assert_int_equal(found->n_stalled, 0);
    assert_int_equal(found->n_overdue, 1);
    assert_string_equal(found->overdue[0], "old");
    found = pending_of(world, 40000);
    assert_int_equal(found->n_overdue, 2);
    assert_string_equal(found->overdue[1], "young");
    assert_int_equal(pending_of(world, 0)->n_overdue, 0);

    set_pending(&old, clock_wall_ms() - 100000, true);
    assert_int_equal(commit_of(world, "old", &old), STORE_OK);
    found = pending_of(world, 40000);
    assert_int_equal(found->n_pending, 1);
    assert_int_equal(found->n_stalled, 1);
    assert_int_equal(found->n_overdue, 1);
    assert_string_equal(found->overdue[0], "young");

    old = record_change("old", old.next.version + 1);
    young = record_change("young", young.next.version + 1);
    assert_int_equal(commit_of(world, "old", &old), STORE_OK);
    assert_int_equal(commit_of(world, "young", &young), STORE_OK);
    found = pending_of(world, 1);
    assert_int_equal(found->n_pending + found->n_stalled + found->n_overdue, 0);
}

static void the_time_of_answered_commands_is_told(void **state)
{
    struct world *world = *state;
    struct change change = record_change("d1", 1);

    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    assert_int_equal(commit_of(world, "d1", &change), STORE_CONFLICT);
    (void)ask(world, &(struct store_query){.device = "d1"});
    (void)events_of(world, 0, 8);
    assert_int_equal(world_answered(world, STORE_COMMAND_READ), 1);
    assert_int_equal(world_answered(world, STORE_COMMAND_COMMIT), 2);
    assert_int_equal(world_answered(world, STORE_COMMAND_OTHER), 1);
}

static void a_commit_on_another_version_writes_nothing(void **state)
{
    struct world *world = *state;
    struct change change = record_change("d1", 1);

    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    change.n_events = 1;
    change.events[0] = event_change(EVENT_DEVICE_FIRST_SEEN, "d1").events[0];
    change.n_deny = 1;
    change.deny[0] = denial_change(DENY_KEY, HEX_A, "x", 0, false).deny[0];
    assert_int_equal(commit_of(world, "d1", &change), STORE_CONFLICT);
    change.next.version = 3;
    assert_int_equal(commit_of(world, "d1", &change), STORE_CONFLICT);
    assert_int_equal(redis_fixture_number(&shared, "EXISTS test:{p00}:events"), 0);
    assert_int_equal(redis_fixture_number(&shared, "EXISTS test:{p00}:deny:key:" HEX_A), 0);
    change.next.version = 2;
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    assert_int_equal(redis_fixture_number(&shared, "XLEN test:{p00}:events"), 1);
    assert_int_equal(stat_get(&world->stats.conflicts), 2);
}

static void each_denial_is_seen_for_what_it_is(void **state)
{
    static const struct {
        enum deny_kind kind;
        const char *id;
        struct deny_flags denied;
        bool next_key_denied;
    } cases[] = {
        {DENY_KEY, HEX_A, {.key = true}, false},
        {DENY_CERTIFICATE, HEX_B, {.certificate = true}, false},
        {DENY_DEVICE, "d1", {.device = true}, false},
        {DENY_KEY, HEX_C, {false, false, false}, true},
        {DENY_CERTIFICATE, HEX_A, {false, false, false}, false},
        {DENY_DEVICE, "d2", {false, false, false}, false},
    };
    const struct store_query query = {.device = "d1",
                                      .key = HEX_A,
                                      .certificate = HEX_B,
                                      .next_key = HEX_C};
    struct world *world = *state;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct change change = denial_change(cases[i].kind, cases[i].id, "why", 0, false);
        assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
        struct answer answer = ask(world, &query);
        assert_int_equal(answer.view.denied.key, cases[i].denied.key);
        assert_int_equal(answer.view.denied.certificate, cases[i].denied.certificate);
        assert_int_equal(answer.view.denied.device, cases[i].denied.device);
        assert_int_equal(answer.view.next_key_denied, cases[i].next_key_denied);

        struct change allow = {.n_allow = 1, .allow[0] = change.deny[0]};
        assert_int_equal(commit_of(world, "d1", &allow), STORE_OK);
        answer = ask(world, &query);
        assert_false(answer.view.denied.key || answer.view.denied.device ||
                     answer.view.denied.certificate || answer.view.next_key_denied);
    }
}

static void a_longer_denial_stays_when_it_is_asked_to(void **state)
{
    int64_t now = clock_wall_ms();
    const struct {
        int64_t held_until;
        int64_t new_until;
        bool keeps_longer;
        const char *reason;
    } cases[] = {
        {0, now + 60000, true, "held"},
        {now + 90000, now + 60000, true, "held"},
        {now + 60000, now + 60000, true, "held"},
        {0, 0, true, "held"},
        {now + 60000, now + 90000, true, "new"},
        {now + 60000, 0, true, "new"},
        {0, now + 60000, false, "new"},
        {now + 90000, now + 60000, false, "new"},
        {0, 0, false, "new"},
    };
    struct world *world = *state;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct change held = denial_change(DENY_KEY, HEX_A, "held", cases[i].held_until, false);
        struct change new =
            denial_change(DENY_KEY, HEX_A, "new", cases[i].new_until, cases[i].keeps_longer);
        assert_int_equal(commit_of(world, "d1", &held), STORE_OK);
        assert_int_equal(commit_of(world, "d1", &new), STORE_OK);
        struct answer answer = denial_of(world, DENY_KEY, HEX_A);
        assert_true(answer.exists);
        assert_string_equal(answer.denial.reason, cases[i].reason);
        int64_t until =
            strcmp(cases[i].reason, "new") == 0 ? cases[i].new_until : cases[i].held_until;
        assert_int_equal(answer.denial.until_ms, until);
        assert_int_equal(redis_fixture_number(&shared, "PEXPIRETIME test:{p00}:deny:key:" HEX_A),
                         until == 0 ? -1 : until);
    }
}

static void a_denial_ends_by_itself(void **state)
{
    struct world *world = *state;
    struct change change =
        denial_change(DENY_DEVICE, "d1", "for a moment", clock_wall_ms() + 150, false);

    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    assert_true(denial_of(world, DENY_DEVICE, "d1").exists);
    wait_until(world, !denial_of(world, DENY_DEVICE, "d1").exists);
    assert_false(ask(world, &(struct store_query){.device = "d1"}).view.denied.device);
}

static void a_repeated_event_is_logged_once_in_its_time(void **state)
{
    struct world *world = *state;
    struct change change = event_change(EVENT_DEVICE_KEY_REFUSED, "d1");

    change.events[0].why = REASON_KEY_NOT_ANNOUNCED;
    change.events[0].once_in_ms = 200;
    for (int i = 0; i < 5; i++)
        assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    assert_int_equal(redis_fixture_number(&shared, "XLEN test:{p00}:events"), 1);
    change.events[0].why = REASON_KEY_DENIED;
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    assert_int_equal(redis_fixture_number(&shared, "XLEN test:{p00}:events"), 2);
    wait_until(world, redis_fixture_number(
                          &shared, "EXISTS test:{p00}:once:DEVICE_KEY_REFUSED:key-denied:d1") == 0);
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    assert_int_equal(redis_fixture_number(&shared, "XLEN test:{p00}:events"), 3);
}

static void events_are_read_oldest_first(void **state)
{
    struct world *world = *state;
    static const char *const devices[] = {"d1", "d2", "d3"};

    assert_int_equal(events_of(world, 0, 10).n_events, 0);
    for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
        struct change change = event_change(EVENT_DEVICE_FIRST_SEEN, devices[i]);
        assert_int_equal(commit_of(world, devices[i], &change), STORE_OK);
    }
    struct answer answer = events_of(world, 0, 2);
    assert_int_equal(answer.result, STORE_OK);
    assert_int_equal(answer.n_events, 2);
    assert_string_equal(answer.devices[0], "d2");
    assert_string_equal(answer.devices[1], "d3");
    assert_string_equal(answer.types[1], "DEVICE_FIRST_SEEN");
    assert_string_equal(answer.data[1],
                        "{\"device\":\"d3\",\"time\":\"2022-11-28T22:29:49.123Z\"}");
    assert_true(strcmp(answer.ids[0], answer.ids[1]) < 0);
    assert_int_equal(events_of(world, 7, 2).result, STORE_UNAVAILABLE);
}

static void the_log_is_trimmed(void **state)
{
    struct world *world = *state;
    struct change change = event_change(EVENT_DEVICE_FIRST_SEEN, "d1");

    world->config.store.events_max = 100;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    assert_true(redis_fixture_number(&shared, "XLEN test:{p00}:events") < 400);
}

static void scripts_come_back_after_a_flush(void **state)
{
    struct world *world = *state;
    struct change change = record_change("d1", 1);

    redis_fixture_do(&shared, "SCRIPT FLUSH");
    assert_int_equal(ask(world, &(struct store_query){.device = "d1"}).result, STORE_OK);
    redis_fixture_do(&shared, "SCRIPT FLUSH");
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
    assert_int_equal(stat_get(&world->stats.failures), 0);
}

static void what_is_no_record_is_told_so(void **state)
{
    static const char *const spoils[] = {
        "DEL test:{p00}:device:d1\nSET test:{p00}:device:d1 x",
        "HSET test:{p00}:device:d1 version seven",
        "HDEL test:{p00}:device:d1 current_pem",
        "HSET test:{p00}:device:d1 name d2",
        "HSET test:{p00}:device:d1 leases x",
        "DEL test:{p00}:device:d1\nHSET test:{p00}:device:d1 a b",
    };
    struct world *world = *state;
    struct change change = record_change("d1", 1);

    for (size_t i = 0; i < ARRAY_SIZE(spoils); i++) {
        char spoil[256], *rest = spoil, *line;
        (void)snprintf(spoil, sizeof(spoil), "%s", spoils[i]);
        redis_fixture_do(&shared, "DEL test:{p00}:device:d1");
        assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
        while ((line = strsep(&rest, "\n")) != NULL)
            redis_fixture_do(&shared, line, NULL);
        assert_int_equal(ask(world, &(struct store_query){.device = "d1"}).result, STORE_INVALID);
    }
    assert_int_equal(ask(world, &(struct store_query){.device = "d2"}).result, STORE_OK);
}

static void a_broken_note_of_the_last_visit_refuses_nobody(void **state)
{
    struct world *world = *state;

    redis_fixture_do(&shared, "SET test:{p00}:seen:d1 x");
    assert_int_equal(ask(world, &(struct store_query){.device = "d1"}).result, STORE_OK);
    redis_fixture_do(&shared, "DEL test:{p00}:seen:d1");
    redis_fixture_do(&shared, "HSET test:{p00}:seen:d1 at soon");
    assert_int_equal(ask(world, &(struct store_query){.device = "d1"}).result, STORE_OK);
}

/* A script is not undone when it fails in the middle: so it must fail before it begins. */
static void a_commit_that_cannot_be_whole_is_not_begun(void **state)
{
    static const char *const wrong_keys[] = {"test:{p00}:events", "test:{p00}:deny:key:" HEX_B};
    struct world *world = *state;
    struct change change = record_change("d1", 1);

    change.n_events = 1;
    change.events[0] = event_change(EVENT_DEVICE_FIRST_SEEN, "d1").events[0];
    change.n_deny = 1;
    change.deny[0] = denial_change(DENY_KEY, HEX_B, "x", 0, false).deny[0];
    for (size_t i = 0; i < ARRAY_SIZE(wrong_keys); i++) {
        redis_fixture_do(&shared, "SET %s x", wrong_keys[i]);
        assert_int_equal(commit_of(world, "d1", &change), STORE_INVALID);
        assert_int_equal(redis_fixture_number(&shared, "EXISTS test:{p00}:device:d1"), 0);
        redis_fixture_do(&shared, "DEL %s", wrong_keys[i]);
        assert_int_equal(redis_fixture_number(&shared, "EXISTS test:{p00}:events"), 0);
    }
    assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
}

/* Whatever a denial is, the key is denied; and it can be lifted. */
static void a_denial_of_the_wrong_type_still_denies(void **state)
{
    struct world *world = *state;
    struct change allow = {.n_allow = 1, .allow[0] = {.kind = DENY_KEY, .id = HEX_A}};

    redis_fixture_do(&shared, "SET test:{p00}:deny:key:" HEX_A " x");
    assert_true(ask(world, &(struct store_query){.device = "d1", .key = HEX_A}).view.denied.key);
    assert_int_equal(denial_of(world, DENY_KEY, HEX_A).result, STORE_INVALID);
    assert_int_equal(commit_of(world, "d1", &allow), STORE_OK);
    assert_false(ask(world, &(struct store_query){.device = "d1", .key = HEX_A}).view.denied.key);
}

static void the_oldest_notes_are_written_when_there_are_too_many(void **state)
{
    struct world *world = *state;
    char device[32];

    for (int i = 0; i < 4097; i++) {
        (void)snprintf(device, sizeof(device), "d%d", i);
        store_note_seen(world->store, device, "127.0.0.1");
        store_note_seen(world->store, device, "127.0.0.2");
    }
    struct answer answer = ask(world, &(struct store_query){.device = "d0"});
    assert_true(llabs(answer.view.last_seen_ms - clock_wall_ms()) < 5000);
    redisReply *reply = redis_fixture_ask(&shared, "HGET test:{p00}:seen:d0 address");
    assert_string_equal(reply->str, "127.0.0.2");
    freeReplyObject(reply);
    assert_int_equal(ask(world, &(struct store_query){.device = "d4096"}).view.last_seen_ms, 0);
}

static void notes_are_written_after_a_while(void **state)
{
    struct world *world = *state;

    store_note_seen(world->store, "d1", NULL);
    wait_until(world, redis_fixture_number(&shared, "EXISTS test:{p00}:seen:d1") == 1);
}

static void notes_without_a_redis_are_bounded(void **state)
{
    struct world *world = *state;
    char device[32];

    redis_fixture_do(&shared, "CLIENT KILL TYPE normal");
    wait_until(world, !store_is_ready(world->store));
    for (int i = 0; i < 20000; i++) {
        (void)snprintf(device, sizeof(device), "d%d", i);
        store_note_seen(world->store, device, "127.0.0.1");
    }
    wait_until(world, store_is_ready(world->store));
}

/* With an argument: only the tests whose names match it. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        store_test(script_names_are_those_that_redis_computes),
        store_test(a_new_store_finds_its_place_in_the_log),
        store_test(an_unknown_device_reads_as_no_record),
        store_test(a_committed_record_is_what_is_read),
        store_test(pending_rotations_are_found_by_their_age),
        store_test(the_time_of_answered_commands_is_told),
        store_test(a_commit_on_another_version_writes_nothing),
        store_test(each_denial_is_seen_for_what_it_is),
        store_test(a_longer_denial_stays_when_it_is_asked_to),
        store_test(a_denial_ends_by_itself),
        store_test(a_repeated_event_is_logged_once_in_its_time),
        store_test(events_are_read_oldest_first),
        store_test(the_log_is_trimmed),
        store_test(scripts_come_back_after_a_flush),
        store_test(what_is_no_record_is_told_so),
        store_test(a_broken_note_of_the_last_visit_refuses_nobody),
        store_test(a_commit_that_cannot_be_whole_is_not_begun),
        store_test(a_denial_of_the_wrong_type_still_denies),
        store_test(the_oldest_notes_are_written_when_there_are_too_many),
        store_test(notes_are_written_after_a_while),
        store_test(notes_without_a_redis_are_bounded),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
