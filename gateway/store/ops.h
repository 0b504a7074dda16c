/* SPDX-License-Identifier: BSD-2-Clause */
/* Operations on the store's links, whatever they ask: sent now or failed later, answered exactly
 * once.
 *
 *      SENT ──last answer of the round──▶ ENDED (callback, freed)
 *      │ │ ▲                                ▲
 *      │ │ ├─NOSCRIPT: again, with its text │
 *      │ │ └─a Cluster's MOVED, ASK, TRYAGAIN: again, a moment later, where they say,
 *      │ │      as long as command_timeout is not over
 *      op_start() fails ──▶ DEFERRED ─timer─┘
 *
 * Private to the store: store.c embeds an op in an object of its own for each kind. */
#pragma once

#include <event2/event.h>

#include "gateway/base/list.h"
#include "gateway/store/command.h"
#include "gateway/store/refusal.h"
#include "gateway/store/scripts.h"
#include "gateway/store/servers.h"
#include "gateway/store/store.h"

struct redisReply;

/* What all operations of one store share. Embedded in the store. */
struct ops {
    struct event_base *base;
    const struct config *config;
    struct servers *servers; /* borrowed from the store */
    struct list sent;
    struct list deferred;
    struct event *deferral; /* owned: a timer */
    struct refusal_log refusals;
    struct store_stats *stats; /* borrowed from the store's owner */
};

void ops_init(struct ops *ops, struct event_base *base, const struct config *config,
              struct servers *servers, struct store_stats *stats);
/* After the links were closed: ends what is deferred. */
void ops_deinit(struct ops *ops);

/* Runs once, unless the operation was cancelled. `reply` is the last one of the script or command,
 * borrowed for the call; NULL unless STORE_OK, and when there was a WAIT behind it. */
typedef void op_end_fn(struct store_op *op, enum store_result result,
                       const struct redisReply *reply);

enum op_state {
    OP_STATE_SENT,     /* the link will answer */
    OP_STATE_DEFERRED, /* ends with STORE_UNAVAILABLE in the next turn of the loop */
    OP_STATE_ENDED,    /* its callback is running, or has */
};

struct store_op {
    struct list link; /* in `sent` or `deferred` */
    struct ops *ops;  /* borrowed from the store, which outlives its operations */
    uint32_t partition;
    enum servers_use use;
    bool is_asked; /* of a server; not a pause, nor what stands for others */
    enum op_state state;
    const char *doing; /* literal, for the log */
    op_end_fn *end;
    const struct script *script; /* NULL: a plain command */
    char *body;                  /* owned; kept for further tries */
    size_t body_len;
    size_t n_args;              /* in `body` */
    enum store_command command; /* for those who measure */
    bool is_commit;             /* 1: OK, 0: conflict */
    bool waits_for_replicas;
    bool stands_behind_wait; /* the link's earlier commands may take that much longer */
    unsigned n_replies;      /* still to come of this sending */
    bool is_cancelled;
    bool is_evaluated; /* the script's text was sent */
    bool sends_again;
    bool is_redirected;        /* ... a moment later, or elsewhere */
    struct store_address *ask; /* owned; where a Cluster has sent us for this once, or NULL */
    bool awaits_asking;        /* the answer to ASKING comes first */
    enum store_result result;
    int64_t started_us;
    struct event *timer; /* owned; of a pause, and before sending again */
};

/* `op` is zeroed but for `doing`, `end`, `script`, `command`, `is_commit`, `waits_for_replicas`
 * and `stands_behind_wait`, and heads an object of its own that mem_free() frees. With a script, `command` is what follows its name: the number of keys,
 * the keys, the arguments. */
struct op_place {
    uint32_t partition;
    enum servers_use use;
};
struct store_op *op_start(struct ops *ops, struct op_place place, struct store_op *op,
                          const struct command *command);
/* Without asking the server: ends with STORE_UNAVAILABLE. */
struct store_op *op_refuse(struct ops *ops, struct store_op *op);
/* One that sends nothing itself, but stands for others; ended by op_end(), from inside a
 * callback. */
struct store_op *op_begin(struct ops *ops, struct store_op *op);
void op_end(struct store_op *op, enum store_result result);
/* Likewise; ends by itself with STORE_OK. */
struct store_op *op_pause(struct ops *ops, struct store_op *op, int64_t pause_ms);
