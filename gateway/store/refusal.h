/* SPDX-License-Identifier: BSD-2-Clause */
/* Error replies of Redis: one table says what each kind means to us. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/store/store.h"

/* X(name: also the first word of the reply, result, whether another connection may do better) */
#define REFUSAL_TABLE(X)                                                                           \
    X(READONLY, STORE_UNAVAILABLE, true)     /* a replica: the primary has moved */                \
    X(LOADING, STORE_UNAVAILABLE, true)      /* reading its data from disk */                      \
    X(MASTERDOWN, STORE_UNAVAILABLE, true)   /* a replica that has lost its primary */             \
    X(NOAUTH, STORE_UNAVAILABLE, true)       /* our user was changed meanwhile */                  \
    X(UNBLOCKED, STORE_UNAVAILABLE, true)    /* a primary that has just become a replica */        \
    X(CLUSTERDOWN, STORE_UNAVAILABLE, false) /* a Cluster that is not whole */                     \
    X(MOVED, STORE_UNAVAILABLE, false)       /* another node of the Cluster has it */              \
    X(ASK, STORE_UNAVAILABLE, false)         /* likewise, for this once */                         \
    X(TRYAGAIN, STORE_UNAVAILABLE, false)    /* on its way from one node to another */             \
    X(NOSCRIPT, STORE_UNAVAILABLE, false)    /* the script is sent with its text */                \
    X(OOM, STORE_UNAVAILABLE, false)         /* maxmemory is reached */                            \
    X(NOPERM, STORE_UNAVAILABLE, false)      /* the ACL lacks something */                         \
    X(MISCONF, STORE_UNAVAILABLE, false)     /* it cannot write to disk */                         \
    X(NOREPLICAS, STORE_UNAVAILABLE, false)  /* min-replicas-to-write */                           \
    X(BUSY, STORE_UNAVAILABLE, false)        /* somebody's script runs for too long */             \
    X(WRONGTYPE, STORE_INVALID, false)       /* a key of ours holds something else */              \
    X(OTHER, STORE_UNAVAILABLE, false)

enum refusal {
#define REFUSAL_ENUMERATOR(name, result, resets) REFUSAL_##name,
    REFUSAL_TABLE(REFUSAL_ENUMERATOR)
#undef REFUSAL_ENUMERATOR
        REFUSAL_COUNT
};

enum refusal refusal_classify(const char *text);
enum store_result refusal_result(enum refusal refusal);
/* The link should be made anew: the same address may lead to a server that can. */
bool refusal_resets_link(enum refusal refusal);

/* When which kind was logged last; zeroed at the start. */
struct refusal_log {
    int64_t next_ms[REFUSAL_COUNT];
    uint64_t suppressed[REFUSAL_COUNT];
};

/* One line a kind in ten seconds. `doing` is a literal: "reading a record". */
void refusal_report(struct refusal_log *log, enum refusal refusal, const char *text,
                    const char *doing);
