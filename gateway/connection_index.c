/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/connection_index.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "gateway/base/mem.h"

enum { INDEX_BUCKETS_MIN = 64 };

/* Chained hashing; doubled when there are more members than buckets, never shrunk. Names come out
 * of certificates that a device CA has signed, so nobody can choose them to collide. */
struct connection_index {
    struct list *buckets; /* owned */
    size_t n_buckets;     /* a power of two */
    size_t n_links;
};

static struct list *index_buckets_new(size_t n)
{
    struct list *buckets = mem_array(n, sizeof(*buckets));

    for (size_t i = 0; i < n; i++)
        list_init(&buckets[i]);
    return buckets;
}

static struct list *index_bucket(const struct connection_index *index, const char *device)
{
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (const unsigned char *p = (const unsigned char *)device; *p != '\0'; p++)
        hash = (hash ^ *p) * 16777619u;
    return &index->buckets[hash & (index->n_buckets - 1)];
}

struct connection_index *connection_index_new(void)
{
    struct connection_index *index = mem_new(struct connection_index);

    index->n_buckets = INDEX_BUCKETS_MIN;
    index->buckets = index_buckets_new(index->n_buckets);
    return index;
}

void connection_index_free(struct connection_index **index)
{
    if (*index == NULL)
        return;
    mem_free((*index)->buckets);
    mem_free(*index);
    *index = NULL;
}

void connection_index_link_init(struct connection_index_link *link)
{
    list_init(&link->link);
    link->device = NULL;
}

static void index_grow(struct connection_index *index)
{
    struct list *old = index->buckets;
    size_t n_old = index->n_buckets;

    index->n_buckets = n_old * 2;
    index->buckets = index_buckets_new(index->n_buckets);
    for (size_t i = 0; i < n_old; i++) {
        list_for_each_safe (at, following, &old[i]) {
            struct connection_index_link *link = list_entry(at, struct connection_index_link, link);
            list_remove(at);
            list_push_back(index_bucket(index, link->device), at);
        }
    }
    mem_free(old);
}

void connection_index_add(struct connection_index *index, struct connection_index_link *link,
                          const char *device)
{
    if (index->n_links >= index->n_buckets)
        index_grow(index);
    link->device = device;
    list_push_back(index_bucket(index, device), &link->link);
    index->n_links++;
}

void connection_index_remove(struct connection_index *index, struct connection_index_link *link)
{
    if (!list_is_linked(&link->link))
        return;
    list_remove(&link->link);
    index->n_links--;
}

void connection_index_visit(struct connection_index *index, const char *device,
                            connection_index_visit_fn *visit, void *arg)
{
    list_for_each_safe (at, following, index_bucket(index, device)) {
        struct connection_index_link *link = list_entry(at, struct connection_index_link, link);
        if (strcmp(link->device, device) == 0)
            visit(link, arg);
    }
}
