/* SPDX-License-Identifier: BSD-2-Clause */
/* A YAML document as a tree whose nodes remember where they stood.
 *
 * A careful subset: one document of maps, lists and scalars; no anchors, aliases, tags or keys that
 * are not scalars; at most DOCUMENT_BYTES_MAX long, DOCUMENT_DEPTH_MAX deep, and with bounded
 * numbers of nodes. What the text means is for others to say: a scalar is text, a key may be there
 * twice. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "gateway/config/arena.h"

struct report;

enum {
    DOCUMENT_BYTES_MAX = 1024 * 1024,
    DOCUMENT_DEPTH_MAX = 8,
    DOCUMENT_NODES_MAX = 50000,
    DOCUMENT_ITEMS_MAX = 4096, /* of one list */
    DOCUMENT_KEYS_MAX = 64,    /* of one map */
};

enum node_type {
    NODE_NULL, /* nothing behind the colon, or a plain ~ or null */
    NODE_SCALAR,
    NODE_LIST,
    NODE_MAP,
};

/* Lives in the arena that it was parsed into. */
struct node {
    enum node_type type;
    size_t line; /* both count from 1 */
    size_t column;
    struct str text;     /* scalars; terminated; may contain any character, NUL too */
    struct node *first;  /* lists and maps: the first child, then along `next` */
    struct node *next;   /* sibling */
    struct node **items; /* lists: the children by index */
    struct node *key;    /* children of maps: a scalar */
    size_t n_children;
    bool faulty; /* an error was reported here or below */
};

/* The root (NODE_NULL for an empty text), or NULL after one error was reported. Keeps nothing of
 * `text`. */
struct node *document_parse(struct arena *arena, struct report *report, struct str text) MUST_CHECK;

/* The first child of that key; NULL when there is none, or when `map` is NULL or no map. */
struct node *node_find(const struct node *map, struct str key);
/* The child at `index`; NULL alike. */
struct node *node_at(const struct node *list, size_t index);
