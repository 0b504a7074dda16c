/* SPDX-License-Identifier: BSD-2-Clause */
/* A store with its loop, what it has said, and short ways to ask it, for tests against a real
 * Redis. */
#pragma once

#include <event2/event.h>

#include "gateway/base/clock.h"
#include "gateway/store/store.h"
#include "redis_fixture.h"

#define HEX_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HEX_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define HEX_C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
#define PEM   "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"

enum { PATIENCE_MS = 10000, CUTS_MAX = 4096 };

struct seen_cut {
    enum cut_mode mode;
    enum deny_kind kind;
    char id[LABEL_MAX + 1];
    char device[DEVICE_NAME_MAX + 1];
};

/* One store with a loop and all that it has said. */
struct world {
    struct redis_fixture *redis;
    struct config config;
    struct event_base *base;
    struct event *tick;
    struct store *store;
    struct store_stats stats; /* of all stores of this world */
    struct seen_cut cuts[CUTS_MAX];
    size_t n_cuts;
    size_t n_gaps;
};

/* What an operation has answered. */
struct answer {
    unsigned calls;
    enum store_result result;
    struct store_view view;
    bool exists;
    struct denial denial;
    size_t n_events;
    char ids[8][40], types[8][40], devices[8][65], data[8][1024];
};

/* The redis-server of most tests; started and ended by the group. */
extern struct redis_fixture shared;
int start_redis(void **state);
int stop_redis(void **state);

/* One partition, prefix "test", short timeouts. */
struct config test_config(void);
/* A store on that Redis, or on config->store.redis. Nothing of it is ready. */
void world_open(struct world *world, struct redis_fixture *redis, const struct config *config);
void world_close(struct world *world);
/* Another store on the same loop; store_free() is the caller's. */
struct store *world_add_store(struct world *world);
/* How many commands have got an answer. */
size_t world_answered(const struct world *world, enum store_command command);
/* Lets the loop turn. */
void world_run(struct world *world, int64_t ms);
/* Lets the loop turn until it is so, or the test fails. */
#define wait_until(world, condition)                                                               \
    do {                                                                                           \
        int64_t deadline_ = clock_monotonic_ms() + PATIENCE_MS;                                    \
        while (!(condition)) {                                                                     \
            if (clock_monotonic_ms() > deadline_)                                                  \
                fail_msg("in vain: %s", #condition);                                               \
            event_base_loop((world)->base, EVLOOP_ONCE);                                           \
        }                                                                                          \
    } while (0)

/* For each test: an empty Redis, and a world whose store is ready, as the state. */
int set_up(void **state);
int tear_down(void **state);
#define store_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* Callbacks whose argument is a struct answer. */
void on_read(enum store_result result, const struct store_view *view, void *arg);
void on_commit(enum store_result result, void *arg);
void on_denial(enum store_result result, bool exists, const struct denial *denial, void *arg);
void on_events(enum store_result result, const struct store_event *events, size_t n, void *arg);

/* Ask, and turn the loop until the answer is there. */
struct answer ask(struct world *world, const struct store_query *query);
enum store_result commit_of(struct world *world, const char *device, const struct change *change);
struct answer denial_of(struct world *world, enum deny_kind kind, const char *id);
struct answer events_of(struct world *world, uint32_t partition, size_t count);

struct change record_change(const char *device, uint64_t version);
struct change denial_change(enum deny_kind kind, const char *id, const char *reason,
                            int64_t until_ms, bool keeps_longer);
struct change event_change(enum event_type type, const char *device);
struct change cut_change(enum cut_mode mode, enum deny_kind kind, const char *id,
                         const char *device);
