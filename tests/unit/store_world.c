/* SPDX-License-Identifier: BSD-2-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store_world.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/log.h"
#include "gateway/base/mem.h"

struct redis_fixture shared;

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
}

static void on_cut(const struct store_cut *cut, void *arg)
{
    struct world *world = arg;

    assert_true(world->n_cuts < CUTS_MAX);
    struct seen_cut *seen = &world->cuts[world->n_cuts++];
    seen->mode = cut->mode;
    seen->kind = cut->kind;
    (void)snprintf(seen->id, sizeof(seen->id), "%s", cut->id);
    (void)snprintf(seen->device, sizeof(seen->device), "%s", cut->device);
}

static void on_gap(void *arg)
{
    struct world *world = arg;

    world->n_gaps++;
}

size_t world_answered(const struct world *world, enum store_command command)
{
    const struct histogram *latency = &world->stats.latency[command];
    size_t n = 0;

    for (size_t i = 0; i <= latency->shape->n; i++)
        n += stat_get(&latency->counts[i]);
    return n;
}

struct config test_config(void)
{
    struct config config;

    memset(&config, 0, sizeof(config));
    config.store.prefix = "test";
    config.store.partitions = 1;
    config.store.connect_timeout_ms = 2000;
    config.store.command_timeout_ms = 1000;
    config.store.lease_ms = 1000;
    config.store.wait_timeout_ms = 200;
    config.store.events_max = 10000;
    return config;
}

void world_open(struct world *world, struct redis_fixture *redis, const struct config *config)
{
    const struct timeval tick = {.tv_usec = 5000};
    const struct store_handlers handlers = {on_cut, on_gap, world, &world->stats};

    memset(world, 0, sizeof(*world));
    world->redis = redis;
    world->config = *config;
    store_stats_init(&world->stats);
    world->base = event_base_new();
    world->tick = event_new(world->base, -1, EV_PERSIST, on_tick, NULL);
    event_add(world->tick, &tick);
    world->store = store_new(world->base, &world->config,
                             config->store.redis == NULL ? redis->socket : NULL, &handlers);
}

struct store *world_add_store(struct world *world)
{
    const struct store_handlers handlers = {on_cut, on_gap, world, &world->stats};

    return store_new(world->base, &world->config, world->redis->socket, &handlers);
}

void world_close(struct world *world)
{
    store_free(&world->store);
    assert_null(world->store);
    event_free(world->tick);
    event_base_free(world->base);
}

void world_run(struct world *world, int64_t ms)
{
    int64_t end = clock_monotonic_ms() + ms;

    while (clock_monotonic_ms() < end)
        event_base_loop(world->base, EVLOOP_ONCE);
}

/* Each test has an empty Redis and one store that is ready. */
int set_up(void **state)
{
    struct world *world = mem_new(struct world);
    const struct config config = test_config();

    redis_fixture_do(&shared, "FLUSHALL");
    world_open(world, &shared, &config);
    wait_until(world, store_is_ready(world->store));
    *state = world;
    return 0;
}

int tear_down(void **state)
{
    world_close(*state);
    mem_free(*state);
    return 0;
}

void on_read(enum store_result result, const struct store_view *view, void *arg)
{
    struct answer *answer = arg;

    answer->calls++;
    answer->result = result;
    assert_int_equal(view != NULL, result == STORE_OK);
    if (view != NULL)
        answer->view = *view;
}

void on_commit(enum store_result result, void *arg)
{
    struct answer *answer = arg;

    answer->calls++;
    answer->result = result;
}

void on_denial(enum store_result result, bool exists, const struct denial *denial, void *arg)
{
    struct answer *answer = arg;

    answer->calls++;
    answer->result = result;
    answer->exists = exists;
    if (exists)
        answer->denial = *denial;
}

void on_events(enum store_result result, const struct store_event *events, size_t n, void *arg)
{
    struct answer *answer = arg;

    answer->calls++;
    answer->result = result;
    answer->n_events = n;
    for (size_t i = 0; i < n && i < ARRAY_SIZE(answer->ids); i++) {
        (void)snprintf(answer->ids[i], sizeof(answer->ids[i]), "%s", events[i].id);
        (void)snprintf(answer->types[i], sizeof(answer->types[i]), "%s", events[i].type);
        (void)snprintf(answer->devices[i], sizeof(answer->devices[i]), "%s", events[i].device);
        (void)snprintf(answer->data[i], sizeof(answer->data[i]), "%s", events[i].data);
    }
}

struct answer ask(struct world *world, const struct store_query *query)
{
    struct answer answer = {0};

    assert_non_null(store_read(world->store, query, on_read, &answer));
    assert_int_equal(answer.calls, 0);
    wait_until(world, answer.calls > 0);
    assert_int_equal(answer.calls, 1);
    return answer;
}

enum store_result commit_of(struct world *world, const char *device, const struct change *change)
{
    struct answer answer = {0};

    assert_non_null(store_commit(world->store, device, change, on_commit, &answer));
    assert_int_equal(answer.calls, 0);
    wait_until(world, answer.calls > 0);
    assert_int_equal(answer.calls, 1);
    return answer.result;
}

struct answer denial_of(struct world *world, enum deny_kind kind, const char *id)
{
    struct answer answer = {0};

    assert_non_null(store_read_denial(world->store, kind, id, "d1", on_denial, &answer));
    wait_until(world, answer.calls > 0);
    return answer;
}

struct answer events_of(struct world *world, uint32_t partition, size_t count)
{
    struct answer answer = {0};

    assert_non_null(store_read_events(world->store, partition, count, on_events, &answer));
    wait_until(world, answer.calls > 0);
    return answer;
}

struct change record_change(const char *device, uint64_t version)
{
    struct change change = {.writes_record = true};

    change.next = (struct device_record){
        .version = version,
        .factory = "plant",
        .production = true,
        .first_seen_ms = 1669674589123,
        .generation = version,
        .current = {.id = {HEX_A}, .pem = PEM},
        .current_since_ms = 1669674589123,
        .current_cert_expires_ms = 1769674589123,
    };
    (void)snprintf(change.next.name, sizeof(change.next.name), "%s", device);
    return change;
}

struct change denial_change(enum deny_kind kind, const char *id, const char *reason,
                            int64_t until_ms, bool keeps_longer)
{
    struct change change = {.n_deny = 1};

    change.deny[0] = (struct denial){.kind = kind,
                                     .at_ms = 1,
                                     .until_ms = until_ms,
                                     .keeps_longer = keeps_longer};
    (void)snprintf(change.deny[0].id, sizeof(change.deny[0].id), "%s", id);
    (void)snprintf(change.deny[0].reason, sizeof(change.deny[0].reason), "%s", reason);
    return change;
}

struct change event_change(enum event_type type, const char *device)
{
    struct change change = {.n_events = 1};

    change.events[0] = (struct device_event){.type = type, .at_ms = 1669674589123};
    (void)snprintf(change.events[0].device, sizeof(change.events[0].device), "%s", device);
    return change;
}

struct change cut_change(enum cut_mode mode, enum deny_kind kind, const char *id,
                         const char *device)
{
    struct change change = event_change(EVENT_DEVICE_DENIED, device);

    change.events[0].cut = mode;
    change.events[0].cut_kind = kind;
    (void)snprintf(change.events[0].cut_id, sizeof(change.events[0].cut_id), "%s", id);
    return change;
}

int start_redis(void **state)
{
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_JSON, getenv("TEST_LOG") != NULL ? LOG_DEBUG : LOG_ERROR);
    redis_fixture_start(&shared, false);
    return 0;
}

int stop_redis(void **state)
{
    redis_fixture_stop(&shared);
    return 0;
}
