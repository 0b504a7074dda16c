/* SPDX-License-Identifier: BSD-2-Clause */
/* A drawer holds pieces of one size. Few sizes are in use at a time, so a size has a choice of a few
 * neighbouring drawers; one that finds them all taken by others is not kept. */
#include "gateway/base/piece.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/mem.h"

enum { DRAWERS = 16, DRAWERS_OF_A_SIZE = 4 };

/* What a kept piece is used for. */
struct kept {
    struct kept *next;
};

struct drawer {
    size_t size;
    struct kept *first; /* NULL: whoever comes may have the drawer */
};

static _Thread_local struct {
    size_t left; /* how many bytes may still be kept; 0 at first */
    struct drawer drawers[DRAWERS];
} pieces;

static struct drawer *drawer_at(size_t size, size_t n)
{
    uint64_t scattered = (uint64_t)size * UINT64_C(0x9e3779b97f4a7c15);

    return &pieces.drawers[((scattered >> 32) + n) % DRAWERS];
}

static struct drawer *drawer_find(size_t size)
{
    for (size_t i = 0; i < DRAWERS_OF_A_SIZE; i++) {
        if (drawer_at(size, i)->size == size)
            return drawer_at(size, i);
    }
    return NULL;
}

static struct drawer *drawer_claim(size_t size)
{
    for (size_t i = 0; i < DRAWERS_OF_A_SIZE; i++) {
        struct drawer *drawer = drawer_at(size, i);
        if (drawer->first == NULL) {
            drawer->size = size;
            return drawer;
        }
    }
    return NULL;
}

void *piece_new(size_t size)
{
    struct drawer *drawer = drawer_find(size);

    if (drawer == NULL || drawer->first == NULL)
        return mem_try_alloc(size);
    struct kept *piece = drawer->first;
    drawer->first = piece->next;
    pieces.left += size;
    return piece;
}

void *piece_zalloc(size_t size)
{
    void *piece = piece_new(size);

    /* mem_zalloc() knows what to say at the end. */
    return piece != NULL ? memset(piece, 0, size) : mem_zalloc(size);
}

void piece_free(void *piece, size_t size)
{
    struct drawer *drawer = NULL;
    struct kept *kept = piece;

    if (piece == NULL)
        return;
    if (size <= pieces.left && size >= sizeof(*kept)) {
        drawer = drawer_find(size);
        if (drawer == NULL)
            drawer = drawer_claim(size);
    }
    if (drawer == NULL) {
        mem_free(piece);
        return;
    }
    kept->next = drawer->first;
    drawer->first = kept;
    pieces.left -= size;
}

void pieces_keep(size_t max)
{
    pieces.left = max;
}

void pieces_release(void)
{
    pieces.left = 0;
    for (size_t i = 0; i < DRAWERS; i++) {
        struct drawer *drawer = &pieces.drawers[i];
        while (drawer->first != NULL) {
            struct kept *piece = drawer->first;
            drawer->first = piece->next;
            mem_free(piece);
        }
        drawer->size = 0;
    }
}
