/* SPDX-License-Identifier: BSD-2-Clause */
/* What a worker counts, as gateway/base/stat.h counts: only its own thread writes, anybody may
 * read. operator/metrics.c shows it, added up over all workers.
 *
 * No count is kept by device: what grows with the fleet belongs into log and events. Counts by
 * listener are as many as the configuration names; those of backends are in upstream/counts.h. */
#pragma once

#include "gateway/base/histogram.h"
#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/store/store.h"
#include "gateway/tls/stream.h"
#include "policy/key_age.h"
#include "policy/reason.h"

struct listener_stats {
    char *name; /* owned */
    counter accepted;
    counter open; /* gauge */
};

enum { STATUS_CLASSES = 6 };

struct stats {
    counter accepts_failed; /* out of descriptors or memory: nobody was accepted for a moment */
    counter handshakes_full;
    counter handshakes_resumed;
    counter handshakes_failed[STREAM_FAILURE_COUNT];
    counter requests[REASON_COUNT];    /* finished exchanges, by their reason */
    counter responses[STATUS_CLASSES]; /* the same by status / 100; [0]: no answer was begun */
    counter admissions[REASON_COUNT];  /* verdicts on connections */
    /* Decisions on connections under the device's current key, by policy/enforcement.h. */
    counter standings[KEY_AGE_OVERDUE + 1][KEY_AGE_REFUSE + 1];
    counter closes[REASON_COUNT];        /* ends of connections */
    counter config_writes[REASON_COUNT]; /* what the config lock said */
    counter cuts;                        /* connections that the event log cut or drained */
    counter rotations_pending;           /* gauge of the fleet, of one worker only */
    counter rotations_stalled;           /* those among them */
    counter bytes_in;                    /* of clients, without TLS */
    counter bytes_out;
    counter store_ready;  /* gauge, 0 or 1 */
    counter store_fresh;  /* gauge, 0 or 1 */
    counter log_stale_ms; /* gauge: store_stale_ms() */
    counter ticked_ms;    /* when the loop last turned, monotonic: for the watchdog */
    struct histogram request_duration;
    struct histogram key_age;          /* of devices, whenever one is admitted */
    struct histogram certificate_left; /* likewise: until it expires; 0: it has */
    struct histogram loop_lag;         /* how late the worker's tick came */
    struct store_stats store;
    struct listener_stats *listeners; /* owned: one a listener, then the operator's */
    size_t n_listeners;
};

/* `config`'s listeners are all that there will be. */
void stats_init(struct stats *stats, const struct config *config);
void stats_deinit(struct stats *stats);

/* NULL: the operator's own. The name is there, or it is a mistake of the caller's. */
struct listener_stats *stats_listener(struct stats *stats, const char *name);
