/* SPDX-License-Identifier: BSD-2-Clause */
/* Each piece is an allocation of its own, so that the sanitizers see a step beyond its end. */
#include "gateway/config/arena.h"

#include <stdlib.h>

#include "gateway/base/mem.h"

struct arena_block {
    struct arena_block *next; /* owned */
    _Alignas(max_align_t) char bytes[];
};

void arena_release(struct arena *arena)
{
    while (arena->blocks != NULL) {
        struct arena_block *block = arena->blocks;
        arena->blocks = block->next;
        mem_free(block);
    }
}

void *arena_array(struct arena *arena, size_t n, size_t size)
{
    size_t total;

    if (__builtin_mul_overflow(n, size, &total) ||
        __builtin_add_overflow(total, sizeof(struct arena_block), &total))
        abort();

    struct arena_block *block = mem_zalloc(total);
    block->next = arena->blocks;
    arena->blocks = block;
    return block->bytes;
}

char *arena_copy(struct arena *arena, struct str text)
{
    return arena_concat(arena, text, STR(""));
}

char *arena_concat(struct arena *arena, struct str first, struct str second)
{
    char *copy = arena_array(arena, first.len + second.len + 1, 1);

    if (first.len > 0)
        memcpy(copy, first.p, first.len);
    if (second.len > 0)
        memcpy(copy + first.len, second.p, second.len);
    return copy;
}
