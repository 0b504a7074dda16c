/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/verdicts.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "gateway/base/mem.h"

enum { WAYS = 8, LOCKS = 16 };

struct slot {
    uint8_t certificate[DIGEST_SIZE];
    int64_t from_ms, until_ms; /* until_ms 0: empty */
    uint32_t issuer;           /* UINT32_MAX: none */
    uint32_t used;             /* the set's clock when it was last found */
};

static_assert(sizeof(struct slot) == 56, "as the header says");

/* A certificate is looked for in the one set that its digest names. */
struct verdicts {
    pthread_mutex_t locks[LOCKS]; /* set i under i % LOCKS */
    uint32_t clocks[LOCKS];       /* counts what was found; wraps, which costs a slot at worst */
    size_t n_sets;
    struct slot slots[]; /* n_sets times WAYS */
};

struct verdicts *verdicts_new(size_t capacity)
{
    size_t n_sets = (capacity + WAYS - 1) / WAYS;
    struct verdicts *verdicts = mem_zalloc(sizeof(*verdicts) + n_sets * WAYS * sizeof(struct slot));

    verdicts->n_sets = n_sets;
    for (size_t i = 0; i < LOCKS; i++)
        (void)pthread_mutex_init(&verdicts->locks[i], NULL);
    return verdicts;
}

void verdicts_free(struct verdicts **verdicts)
{
    if (*verdicts == NULL)
        return;
    for (size_t i = 0; i < LOCKS; i++)
        (void)pthread_mutex_destroy(&(*verdicts)->locks[i]);
    mem_free(*verdicts);
    *verdicts = NULL;
}

static bool stands(int64_t from_ms, int64_t until_ms, int64_t now_ms)
{
    return from_ms <= now_ms && now_ms < until_ms;
}

static size_t set_of(const struct verdicts *verdicts, const uint8_t certificate[DIGEST_SIZE])
{
    uint64_t hash;

    memcpy(&hash, certificate, sizeof(hash));
    return hash % verdicts->n_sets;
}

/* The certificate's slot; NULL: it has none. */
static struct slot *find_slot(struct slot *set, const uint8_t certificate[DIGEST_SIZE])
{
    for (size_t i = 0; i < WAYS; i++)
        if (set[i].until_ms != 0 && memcmp(set[i].certificate, certificate, DIGEST_SIZE) == 0)
            return &set[i];
    return NULL;
}

/* An empty one, else what was not used for the longest. */
static struct slot *choose_slot(struct slot *set, uint32_t clock)
{
    struct slot *chosen = &set[0];

    for (size_t i = 0; i < WAYS && chosen->until_ms != 0; i++)
        if (set[i].until_ms == 0 || clock - set[i].used > clock - chosen->used)
            chosen = &set[i];
    return chosen;
}

bool verdicts_find(struct verdicts *verdicts, const uint8_t certificate[DIGEST_SIZE],
                   int64_t now_ms, struct chain_verdict *out)
{
    if (verdicts->n_sets == 0)
        return false;
    size_t set = set_of(verdicts, certificate), lock = set % LOCKS;

    (void)pthread_mutex_lock(&verdicts->locks[lock]);
    struct slot *slot = find_slot(&verdicts->slots[set * WAYS], certificate);
    bool found = slot != NULL && stands(slot->from_ms, slot->until_ms, now_ms);
    if (found) {
        slot->used = ++verdicts->clocks[lock];
        out->issuer = slot->issuer == UINT32_MAX ? SIZE_MAX : slot->issuer;
        out->from_ms = slot->from_ms;
        out->until_ms = slot->until_ms;
    }
    (void)pthread_mutex_unlock(&verdicts->locks[lock]);
    return found;
}

void verdicts_put(struct verdicts *verdicts, const uint8_t certificate[DIGEST_SIZE], int64_t now_ms,
                  const struct chain_verdict *verdict)
{
    if (verdicts->n_sets == 0 || !stands(verdict->from_ms, verdict->until_ms, now_ms))
        return;
    size_t set = set_of(verdicts, certificate), lock = set % LOCKS;
    struct slot *slots = &verdicts->slots[set * WAYS];

    (void)pthread_mutex_lock(&verdicts->locks[lock]);
    uint32_t clock = ++verdicts->clocks[lock];
    struct slot *slot = find_slot(slots, certificate);
    if (slot == NULL)
        slot = choose_slot(slots, clock);
    memcpy(slot->certificate, certificate, DIGEST_SIZE);
    slot->from_ms = verdict->from_ms;
    slot->until_ms = verdict->until_ms;
    slot->issuer = verdict->issuer < UINT32_MAX ? (uint32_t)verdict->issuer : UINT32_MAX;
    slot->used = clock;
    (void)pthread_mutex_unlock(&verdicts->locks[lock]);
}
