/* SPDX-License-Identifier: BSD-2-Clause */
/* Numbers for metrics that one thread writes and any thread reads: counting is a plain load and
 * store, without a lock or a shared cache line. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

typedef atomic_uint_least64_t counter;

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
