/* SPDX-License-Identifier: BSD-2-Clause */
/* Which server has which partition, now.
 *
 *   embedded, store.redis   one server, known from the start
 *   store.sentinel          the master that a sentinel names, for all partitions
 *   store.cluster           what a node's CLUSTER SLOTS says of each partition's slot
 *
 * Where it has to be asked, one link leads to a guide (guide.h), and the guide is asked every
 * second, and more often while somebody doubts what is known:
 *
 *      ASKING ──names servers──▶ RESTING ──time, doubt──▶ ASKING
 *        │                          │
 *        │ no answer, no server     │ doubts remain, and it only repeats itself
 *        └──────────▶ the next guide ◀──────────┘
 *
 * What was known stays known until a guide says otherwise. */
#pragma once

#include <event2/event.h>

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/store/address.h"

struct topology;

/* Servers have changed. Runs from the loop itself: no callback of a link is under way. */
typedef void topology_change_fn(void *arg);

/* `config` is borrowed, `socket` as in store_new(). An address that cannot work is logged, and
 * nothing will be known. */
struct topology *topology_new(struct event_base *base, const struct config *config,
                              const char *socket, topology_change_fn *changed,
                              void *arg) MUST_CHECK;
void topology_free(struct topology **topology);

/* NULL: not known yet. Borrowed until the next change. */
const struct store_address *topology_server(const struct topology *topology, uint32_t partition);

/* Questions are numbered from 1. How many were asked so far, and which one's answer has named the
 * present servers: 0 for none, and while they have others of which nobody was told yet; UINT64_MAX
 * where nobody has to be asked. */
uint64_t topology_asked(const struct topology *topology);
uint64_t topology_named(const struct topology *topology);
/* Ask now: what was asked before counts no longer. */
void topology_verify(struct topology *topology);

/* A server does not serve, or says that it is not the one: ask soon, whoever knows better. */
void topology_doubt(struct topology *topology);
/* A Cluster's node says that another one has the partition now. */
void topology_moved(struct topology *topology, uint32_t partition,
                    const struct store_address *server);
