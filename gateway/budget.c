/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/budget.h"

#include <assert.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/encode.h"
#include "gateway/base/mem.h"
#include "policy/record.h"

enum {
    STRIPES = 64,
    BUCKETS_MIN = 1024,
    BUCKETS_MAX = 1 << 20,
    KEY_MAX = 1 + DEVICE_NAME_MAX,
    CACHE_LINE = 64,
};

/* The first byte of a key. */
enum kind {
    KIND_IPV4 = '4',
    KIND_IPV6 = '6',
    KIND_DEVICE = 'd',
};

struct key {
    size_t len;
    char bytes[KEY_MAX];
};

/* All fields are guarded by the entry's stripe. */
struct budget_entry {
    struct budget_entry *next; /* in the bucket */
    uint64_t hash;
    size_t connections;
    size_t handshakes; /* of sources */
    size_t key_len;
    char key[];
};

struct stripe {
    alignas(CACHE_LINE) pthread_mutex_t lock;
};

struct budget {
    alignas(CACHE_LINE) atomic_size_t connections;
    alignas(CACHE_LINE) atomic_size_t handshakes;
    atomic_size_t entries;
    uint64_t seeds[2]; /* so that nobody can choose addresses that collide */
    size_t n_buckets;  /* a power of two, not less than STRIPES */
    struct budget_entry **buckets;
    struct stripe stripes[STRIPES];
};

/* --- keys ------------------------------------------------------------------------------------- */

__extension__ typedef unsigned __int128 uint128;

static uint64_t budget_hash(const struct budget *budget, const struct key *key)
{
    uint64_t hash = budget->seeds[0] ^ key->len;

    for (size_t i = 0; i < key->len; i += sizeof(uint64_t)) {
        uint64_t word = 0;
        size_t left = key->len - i;
        memcpy(&word, key->bytes + i, left < sizeof(word) ? left : sizeof(word));
        uint128 product = (uint128)(hash ^ word) * (budget->seeds[1] | 1);
        hash = (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    return hash;
}

static void key_add_prefix(struct key *key, const void *address, size_t len, size_t bits)
{
    memcpy(key->bytes + 1, address, len);
    for (size_t i = 0; i < len; i++) {
        size_t kept = bits > i * 8 ? bits - i * 8 : 0;
        if (kept < 8)
            key->bytes[1 + i] =
                (char)((unsigned char)key->bytes[1 + i] & (unsigned char)(0xff00u >> kept));
    }
    key->len = 1 + len;
}

/* False: no source. An IPv4 address in IPv6's clothes is an IPv4 address. */
static bool key_of_source(const struct config *config, const struct sockaddr_storage *peer,
                          struct key *key)
{
    if (peer->ss_family == AF_INET) {
        key->bytes[0] = KIND_IPV4;
        key_add_prefix(key, &((const struct sockaddr_in *)peer)->sin_addr, 4,
                       config->limits.source_prefix_v4);
        return true;
    }
    if (peer->ss_family != AF_INET6)
        return false;
    const struct in6_addr *address = &((const struct sockaddr_in6 *)peer)->sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(address)) {
        key->bytes[0] = KIND_IPV4;
        key_add_prefix(key, address->s6_addr + 12, 4, config->limits.source_prefix_v4);
    } else {
        key->bytes[0] = KIND_IPV6;
        key_add_prefix(key, address, sizeof(*address), config->limits.source_prefix_v6);
    }
    return true;
}

static void key_of_device(const char *device, struct key *key)
{
    size_t len = strlen(device);

    assert(len <= DEVICE_NAME_MAX);
    key->bytes[0] = KIND_DEVICE;
    memcpy(key->bytes + 1, device, len);
    key->len = 1 + len;
}

/* --- entries ---------------------------------------------------------------------------------- */

static struct budget_entry **budget_bucket(struct budget *budget, uint64_t hash)
{
    return &budget->buckets[hash & (budget->n_buckets - 1)];
}

static void budget_lock(struct budget *budget, uint64_t hash)
{
    (void)pthread_mutex_lock(&budget->stripes[hash % STRIPES].lock);
}

static void budget_unlock(struct budget *budget, uint64_t hash)
{
    (void)pthread_mutex_unlock(&budget->stripes[hash % STRIPES].lock);
}

/* The stripe is locked. Finds the entry, or makes it. */
static struct budget_entry *budget_entry(struct budget *budget, const struct key *key,
                                         uint64_t hash)
{
    struct budget_entry **bucket = budget_bucket(budget, hash);

    for (struct budget_entry *entry = *bucket; entry != NULL; entry = entry->next) {
        if (entry->hash == hash && entry->key_len == key->len &&
            memcmp(entry->key, key->bytes, key->len) == 0)
            return entry;
    }
    struct budget_entry *entry = mem_zalloc(sizeof(*entry) + key->len);
    entry->hash = hash;
    entry->key_len = key->len;
    memcpy(entry->key, key->bytes, key->len);
    entry->next = *bucket;
    *bucket = entry;
    (void)atomic_fetch_add_explicit(&budget->entries, 1, memory_order_relaxed);
    return entry;
}

/* The stripe is locked. Frees the entry when nothing counts in it any more. */
static void budget_entry_release(struct budget *budget, struct budget_entry *entry)
{
    struct budget_entry **at = budget_bucket(budget, entry->hash);

    if (entry->connections > 0)
        return;
    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    mem_free(entry);
    (void)atomic_fetch_sub_explicit(&budget->entries, 1, memory_order_relaxed);
}

/* --- totals ----------------------------------------------------------------------------------- */

static bool budget_take(atomic_size_t *total, size_t max)
{
    if (atomic_fetch_add_explicit(total, 1, memory_order_relaxed) < max)
        return true;
    (void)atomic_fetch_sub_explicit(total, 1, memory_order_relaxed);
    return false;
}

static void budget_give_back(atomic_size_t *total)
{
    (void)atomic_fetch_sub_explicit(total, 1, memory_order_relaxed);
}

/* --- sources ---------------------------------------------------------------------------------- */

static enum reason budget_enter_source(struct budget *budget, const struct config *config,
                                       const struct budget_newcomer *newcomer,
                                       struct budget_claim *claim)
{
    struct key key;
    enum reason reason = REASON_OK;

    if (!key_of_source(config, newcomer->peer, &key))
        return REASON_OK;
    uint64_t hash = budget_hash(budget, &key);
    budget_lock(budget, hash);
    struct budget_entry *entry = budget_entry(budget, &key, hash);
    if (entry->connections >= config->limits.source_connections) {
        reason = REASON_TOO_MANY_CONNECTIONS_OF_SOURCE;
    } else if (newcomer->handshakes && entry->handshakes >= config->limits.source_handshakes) {
        reason = REASON_TOO_MANY_HANDSHAKES_OF_SOURCE;
    } else {
        entry->connections++;
        entry->handshakes += newcomer->handshakes;
        claim->source = entry;
    }
    budget_entry_release(budget, entry);
    budget_unlock(budget, hash);
    return reason;
}

static void budget_leave_source(struct budget *budget, struct budget_claim *claim)
{
    struct budget_entry *entry = claim->source;

    if (entry == NULL)
        return;
    uint64_t hash = entry->hash;
    budget_lock(budget, hash);
    entry->connections--;
    entry->handshakes -= claim->handshaking;
    budget_entry_release(budget, entry);
    budget_unlock(budget, hash);
    claim->source = NULL;
}

/* --- the interface ---------------------------------------------------------------------------- */

enum reason budget_enter(struct budget *budget, const struct config *config,
                         const struct budget_newcomer *newcomer, struct budget_claim *out_claim)
{
    struct budget_claim claim = {.handshaking = newcomer->handshakes};
    enum reason reason = budget_enter_source(budget, config, newcomer, &claim);

    if (reason != REASON_OK)
        return reason;
    if (!budget_take(&budget->connections, config->max_connections + newcomer->reserve)) {
        budget_leave_source(budget, &claim);
        return REASON_TOO_MANY_CONNECTIONS;
    }
    if (claim.handshaking && !budget_take(&budget->handshakes, config->limits.handshakes)) {
        budget_give_back(&budget->connections);
        budget_leave_source(budget, &claim);
        return REASON_TOO_MANY_HANDSHAKES;
    }
    claim.connected = true;
    *out_claim = claim;
    return REASON_OK;
}

void budget_end_handshake(struct budget *budget, struct budget_claim *claim)
{
    if (!claim->handshaking)
        return;
    claim->handshaking = false;
    budget_give_back(&budget->handshakes);
    if (claim->source == NULL)
        return;
    budget_lock(budget, claim->source->hash);
    claim->source->handshakes--;
    budget_unlock(budget, claim->source->hash);
}

bool budget_enter_device(struct budget *budget, struct budget_claim *claim, const char *device,
                         size_t max)
{
    struct key key;

    if (claim->device != NULL)
        return true;
    key_of_device(device, &key);
    uint64_t hash = budget_hash(budget, &key);
    budget_lock(budget, hash);
    struct budget_entry *entry = budget_entry(budget, &key, hash);
    if (entry->connections < max) {
        entry->connections++;
        claim->device = entry;
    }
    budget_entry_release(budget, entry);
    budget_unlock(budget, hash);
    return claim->device != NULL;
}

void budget_leave_device(struct budget *budget, struct budget_claim *claim)
{
    struct budget_entry *entry = claim->device;

    if (entry == NULL)
        return;
    uint64_t hash = entry->hash;
    budget_lock(budget, hash);
    entry->connections--;
    budget_entry_release(budget, entry);
    budget_unlock(budget, hash);
    claim->device = NULL;
}

void budget_leave(struct budget *budget, struct budget_claim *claim)
{
    budget_leave_device(budget, claim);
    budget_end_handshake(budget, claim);
    budget_leave_source(budget, claim);
    if (claim->connected)
        budget_give_back(&budget->connections);
    claim->connected = false;
}

struct budget *budget_new(size_t connections)
{
    struct budget *budget = aligned_alloc(CACHE_LINE, sizeof(struct budget));

    if (budget == NULL)
        abort();
    memset(budget, 0, sizeof(*budget));
    random_bytes(budget->seeds, sizeof(budget->seeds));
    budget->n_buckets = BUCKETS_MIN;
    while (budget->n_buckets < connections && budget->n_buckets < BUCKETS_MAX)
        budget->n_buckets *= 2;
    budget->buckets = mem_array(budget->n_buckets, sizeof(struct budget_entry *));
    for (size_t i = 0; i < STRIPES; i++)
        (void)pthread_mutex_init(&budget->stripes[i].lock, NULL);
    return budget;
}

void budget_free(struct budget **budget_at)
{
    struct budget *budget = *budget_at;

    *budget_at = NULL;
    if (budget == NULL)
        return;
    assert(atomic_load(&budget->entries) == 0);
    for (size_t i = 0; i < STRIPES; i++)
        (void)pthread_mutex_destroy(&budget->stripes[i].lock);
    mem_free(budget->buckets);
    free(budget);
}

size_t budget_connections(const struct budget *budget)
{
    return atomic_load_explicit(&budget->connections, memory_order_relaxed);
}

size_t budget_handshakes(const struct budget *budget)
{
    return atomic_load_explicit(&budget->handshakes, memory_order_relaxed);
}

size_t budget_entries(const struct budget *budget)
{
    return atomic_load_explicit(&budget->entries, memory_order_relaxed);
}
