/* SPDX-License-Identifier: BSD-2-Clause */
/* Several gateways before one store, as the model test drives them.
 *
 * A request arrives at a gateway, the gateway reads the store, decides, commits against the version
 * that it read - by then the record may have moved on: it reads again -, and answers. Between any
 * two of these moments everything else may happen, and the gateway may die: what it had not
 * committed is undone, what it had committed is told to nobody. A commit whose answer the gateway
 * missed is made again from the beginning.
 *
 * Every decision, commit and landing is handed to policy_check.h. The first violation is kept, with
 * the steps that led to it, and ends the run. */
#pragma once

#include <stdint.h>

#include "policy_check.h"
#include "policy_store.h"

enum {
    WORLD_GATEWAYS = 3,
    WORLD_REQUESTS = 14, /* under way at once, over all gateways */
    WORLD_WRITES = 24,
    WORLD_TRACE = 32,
    WORLD_LEASE_MS = 30000,
};

enum request_stage {
    REQUEST_FREE,
    REQUEST_ARRIVED,  /* the gateway has not read the store yet */
    REQUEST_READ,     /* it has, and that may be out of date already */
    REQUEST_ANSWERED, /* decided and committed; nobody has been told */
};

struct request {
    enum request_stage stage;
    int gateway, device;
    unsigned session; /* which life of the device asked; 0 for everybody else */
    struct cause cause;
    struct device_record read;
    struct deny_flags denied;
    bool next_denied, entry_exists;
    enum verdict verdict;
    enum reason reason;
    uint64_t generation; /* of the record that was decided on */
    unsigned token;
};

/* A config write that its gateway has forwarded and whose backend has not answered. */
struct forwarded_write {
    bool is_open;
    int gateway, device;
    struct cause cause;
    uint64_t generation;
    int64_t lease_ends_ms;
};

enum world_count {
    COUNT_REGISTERED,
    COUNT_PROMOTED,
    COUNT_REPLACED,
    COUNT_ANNOUNCED_AGAIN,
    COUNT_OUTDATED,
    COUNT_BUSY,
    COUNT_HELD,
    COUNT_CANCELLED,
    COUNT_ACCEPTED,
    COUNT_STALLED,
    COUNT_QUARANTINED,
    COUNT_NOT_PROVEN,
    COUNT_EXPIRED,
    COUNT_NOT_ANNOUNCED,
    COUNT_DENIED,
    COUNT_GROUPED,
    COUNT_LOCKED,
    COUNT_STALE_WRITE,
    COUNT_LANDED,
    COUNT_LANDED_FOR_PENDING,
    COUNT_LANDED_AFTER_PROMOTION,
    COUNT_CUT_WRITES,
    COUNT_CONFLICTS,
    COUNT_COMMITTED_TWICE,
    COUNT_CRASHED_UNCOMMITTED,
    COUNT_CRASHED_UNANSWERED,
    COUNT_END,
};

const char *world_count_name(enum world_count count);

struct world_step {
    uint64_t step;
    enum request_stage stage;
    int gateway, device;
    struct cause cause;
    enum reason reason;
};

struct world {
    uint64_t random;
    uint64_t step;
    int64_t now_ms;
    struct admission_settings settings;
    struct enforcement_group group; /* the one with a rule of its own */
    struct store store;
    struct history histories[STORE_DEVICES];
    struct request requests[WORLD_REQUESTS];
    struct forwarded_write writes[WORLD_WRITES];
    unsigned n_tokens;
    uint64_t n_commits;
    struct decision decision; /* of the request that is being decided */
    uint64_t counts[COUNT_END];
    struct world_step trace[WORLD_TRACE];
    uint64_t n_trace;
    const char *violation;
};

/* Runs when an answer reaches who asked; it may ask again. */
typedef void world_answer_fn(struct world *world, const struct request *request, void *arg);

/* Everything but the counts begins anew. */
void world_reset(struct world *world, uint64_t seed);

uint64_t world_random(struct world *world, uint64_t below);
bool world_chance(struct world *world, unsigned per_mille);

/* NULL when all are taken. The caller fills in the cause before the next step. */
struct request *world_ask(struct world *world, int device, enum cause_kind kind);

/* Moves one request, chosen at random, one stage on. */
void world_advance(struct world *world, world_answer_fn *on_answer, void *arg);

/* A gateway dies with all that it was doing. What it had forwarded may still land. */
void world_crash_gateway(struct world *world);

/* A backend answers one of its writes, or the gateway cuts it because its lease has ended. */
void world_answer_write(struct world *world);

/* Whether this key would be admitted now, in a full handshake under a good certificate. */
bool world_would_admit(struct world *world, int device, int key);

/* Keeps the first violation; NULL is none. */
void world_judge(struct world *world, const char *violation);

void world_print_trace(const struct world *world);
