/* SPDX-License-Identifier: BSD-2-Clause */
/* What a worker counts. Only its own thread writes, so counting is a plain load and store; anybody
 * may read. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "policy/reason.h"

typedef atomic_uint_least64_t counter;

struct stats {
    counter connections_accepted;
    counter connections_open;
    counter handshakes_full;
    counter handshakes_resumed;
    counter handshakes_failed;
    counter requests[REASON_COUNT];   /* finished exchanges, by their reason */
    counter admissions[REASON_COUNT]; /* verdicts on connections */
    counter closes[REASON_COUNT];     /* ends of connections */
    counter cuts;                     /* connections that the event log cut or drained */
    counter store_ready;              /* gauge, 0 or 1 */
    counter store_fresh;              /* gauge, 0 or 1 */
};

static inline void stat_add(counter *at, uint64_t n)
{
    atomic_store_explicit(at, atomic_load_explicit(at, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static inline void stat_set(counter *at, uint64_t value)
{
    atomic_store_explicit(at, value, memory_order_relaxed);
}

static inline uint64_t stat_get(const counter *at)
{
    return atomic_load_explicit(at, memory_order_relaxed);
}
