/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/session_store.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "gateway/base/list.h"
#include "gateway/base/mem.h"

enum { SHARDS_MAX = 16 };

struct entry {
    struct list use; /* in shard.by_use */
    struct entry *next_in_bucket;
    SSL_SESSION *session; /* owned reference; its id is the key */
};

struct shard {
    pthread_mutex_t lock;
    struct list by_use; /* of struct entry, the latest used first */
    struct entry **buckets;
    size_t n_entries;
};

struct session_store {
    size_t n_shards;  /* a power of two */
    size_t n_buckets; /* a power of two, a shard */
    size_t shard_capacity;
    struct shard shards[SHARDS_MAX];
};

/* The server draws ids at random, and a peer can only ask for them, so their first bytes are a hash
 * that nobody chooses. */
static uint64_t hash_id(const unsigned char *id, size_t len)
{
    uint64_t hash = 0;

    memcpy(&hash, id, len < sizeof(hash) ? len : sizeof(hash));
    return hash;
}

static struct shard *find_shard(struct session_store *store, uint64_t hash)
{
    return &store->shards[hash & (store->n_shards - 1)];
}

static struct entry **find_bucket(const struct session_store *store, const struct shard *shard,
                                  uint64_t hash)
{
    return &shard->buckets[(hash >> 8) & (store->n_buckets - 1)];
}

/* The place that points to the entry, or to NULL at the bucket's end. */
static struct entry **find_entry(const struct session_store *store, const struct shard *shard,
                                 const unsigned char *id, size_t id_len)
{
    struct entry **at = find_bucket(store, shard, hash_id(id, id_len));

    for (; *at != NULL; at = &(*at)->next_in_bucket) {
        unsigned int len;
        const unsigned char *other = SSL_SESSION_get_id((*at)->session, &len);
        if (len == id_len && memcmp(other, id, id_len) == 0)
            break;
    }
    return at;
}

static size_t power_of_two(size_t at_least)
{
    size_t n = 1;

    while (n < at_least)
        n *= 2;
    return n;
}

struct session_store *session_store_new(size_t capacity)
{
    struct session_store *store = mem_new(struct session_store);

    store->n_shards = SHARDS_MAX;
    while (store->n_shards > capacity)
        store->n_shards /= 2;
    store->shard_capacity = (capacity + store->n_shards - 1) / store->n_shards;
    store->n_buckets = power_of_two(store->shard_capacity);
    for (size_t i = 0; i < store->n_shards; i++) {
        struct shard *shard = &store->shards[i];
        (void)pthread_mutex_init(&shard->lock, NULL);
        list_init(&shard->by_use);
        shard->buckets = mem_array(store->n_buckets, sizeof(struct entry *));
    }
    return store;
}

void session_store_free(struct session_store **store)
{
    if (*store == NULL)
        return;
    for (size_t i = 0; i < (*store)->n_shards; i++) {
        struct shard *shard = &(*store)->shards[i];
        list_for_each_safe (link, following, &shard->by_use) {
            struct entry *entry = list_entry(link, struct entry, use);
            SSL_SESSION_free(entry->session);
            mem_free(entry);
        }
        mem_free(shard->buckets);
        (void)pthread_mutex_destroy(&shard->lock);
    }
    mem_free(*store);
    *store = NULL;
}

/* Returns the entry at `at` out of all its places. */
static struct entry *take_entry(struct shard *shard, struct entry **at)
{
    struct entry *entry = *at;

    *at = entry->next_in_bucket;
    list_remove(&entry->use);
    shard->n_entries--;
    return entry;
}

static struct entry *take_least_used(const struct session_store *store, struct shard *shard)
{
    struct entry *entry = list_entry(shard->by_use.prev, struct entry, use);
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(entry->session, &len);

    return take_entry(shard, find_entry(store, shard, id, len));
}

static void add_entry(const struct session_store *store, struct shard *shard, struct entry *entry)
{
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(entry->session, &len);
    struct entry **bucket = find_bucket(store, shard, hash_id(id, len));

    entry->next_in_bucket = *bucket;
    *bucket = entry;
    list_push_front(&shard->by_use, &entry->use);
    shard->n_entries++;
}

/* Outside the lock: the last reference frees a whole certificate. */
static void free_entry(struct entry *entry)
{
    if (entry == NULL)
        return;
    SSL_SESSION_free(entry->session);
    mem_free(entry);
}

void session_store_put(struct session_store *store, SSL_SESSION *session)
{
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(session, &len);
    struct shard *shard = find_shard(store, hash_id(id, len));
    struct entry *entry, *gone = NULL;

    if (len == 0)
        return;
    SSL_SESSION_up_ref(session);
    entry = mem_new(struct entry);
    entry->session = session;

    pthread_mutex_lock(&shard->lock);
    struct entry **same = find_entry(store, shard, id, len);
    if (*same != NULL)
        gone = take_entry(shard, same);
    else if (shard->n_entries >= store->shard_capacity)
        gone = take_least_used(store, shard);
    add_entry(store, shard, entry);
    pthread_mutex_unlock(&shard->lock);
    free_entry(gone);
}

SSL_SESSION *session_store_get(struct session_store *store, const unsigned char *id, size_t id_len)
{
    struct shard *shard = find_shard(store, hash_id(id, id_len));
    SSL_SESSION *session = NULL;

    pthread_mutex_lock(&shard->lock);
    struct entry *entry = *find_entry(store, shard, id, id_len);
    if (entry != NULL) {
        session = entry->session;
        SSL_SESSION_up_ref(session);
        list_remove(&entry->use);
        list_push_front(&shard->by_use, &entry->use);
    }
    pthread_mutex_unlock(&shard->lock);
    return session;
}

void session_store_remove(struct session_store *store, const unsigned char *id, size_t id_len)
{
    struct shard *shard = find_shard(store, hash_id(id, id_len));
    struct entry *gone = NULL;

    pthread_mutex_lock(&shard->lock);
    struct entry **at = find_entry(store, shard, id, id_len);
    if (*at != NULL)
        gone = take_entry(shard, at);
    pthread_mutex_unlock(&shard->lock);
    free_entry(gone);
}
