/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory that is given back all at once: what a parsed configuration is made of. Not for two
 * threads. */
#pragma once

#include <stddef.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"

struct arena_block;

/* Embedded in its owner; zeroed is empty. */
struct arena {
    struct arena_block *blocks; /* owned */
};

/* Frees everything that came from the arena, which may be used again. */
void arena_release(struct arena *arena);

/* Zeroed, aligned for anything, never NULL; an overflow of n * size ends the process, as memory's
 * end does. */
void *arena_array(struct arena *arena, size_t n, size_t size) MUST_CHECK;
#define arena_new(arena, type) ((type *)arena_array(arena, 1, sizeof(type)))

/* Terminated copies. */
char *arena_copy(struct arena *arena, struct str text) MUST_CHECK;
char *arena_concat(struct arena *arena, struct str first, struct str second) MUST_CHECK;
