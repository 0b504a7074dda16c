/* SPDX-License-Identifier: BSD-2-Clause */
/* One thread that serves: an event loop, its listening sockets, its Redis links, its backend pools,
 * its connections.
 *
 * Workers share nothing that changes on the way of a request (the budget of connections changes
 * when one is accepted, admitted or closed). The struct is open, for everything
 * that runs on the worker's thread - connections, exchanges, services - which may read it all; only
 * worker.c writes what is not said otherwise. */
#pragma once

#include <event2/event.h>
#include <pthread.h>

#include "gateway/base/list.h"
#include "gateway/budget.h"
#include "gateway/daemon/inherited.h"
#include "gateway/daemon/snapshot.h"
#include "gateway/daemon/stats.h"
#include "gateway/peer_log.h"
#include "gateway/store/store.h"
#include "gateway/upstream/counts.h"
#include "gateway/upstream/upstream.h"

enum { WORKER_SCRATCH_SIZE = 256 * 1024 };

/* A snapshot as one worker uses it: with backend pools of its own. Counted without atomics: it
 * never leaves its thread. */
struct generation {
    struct snapshot *snapshot;    /* ref */
    struct upstream_pool **pools; /* owned array, one a backend of the config */
    unsigned refs;
};
struct generation *generation_ref(struct generation *generation);
void generation_unref(struct generation **generation);

/* Random bytes in stock, so that ids do not cost a system call each. */
struct random_stock {
    uint8_t bytes[2048];
    size_t used;
};

struct worker {
    unsigned index;
    struct event_base *base;           /* owned */
    struct store *store;               /* owned */
    const struct config *store_config; /* ref: what `store` borrows, however many reloads come */
    struct generation *generation;     /* ref; what new connections get */
    struct stats *stats;               /* borrowed from the daemon, which outlives its workers */
    struct worker_group *group; /* borrowed: for the operator's listener, which speaks for all */
    char *scratch; /* owned: WORKER_SCRATCH_SIZE bytes for whatever runs in this turn of the loop */
    struct stalled_watch *stalled; /* owned; of the first worker only */
    struct random_stock random;
    struct peer_log peer_log;
    struct list connections; /* connection.c: every connection that is not closed */
    struct list handshakes;  /* connection.c: those in it, by their last sign of life */
    struct list closed;      /* connection.c: closed ones, freed at the end of the turn */
    struct event *sweep;     /* owned: frees `closed` */
    struct connection_index *index_by_device; /* owned */
    struct budget *budget;                    /* borrowed from the group: shared by all */
    size_t n_connections;                     /* connection.c */
    bool draining;
    /* private to worker.c */
    struct list listeners;
    struct list leases; /* config_write.c: write leases that are being given back */
    pthread_t thread;
    pthread_mutex_t lock; /* guards `orders` */
    unsigned orders;
    struct snapshot *ordered_snapshot; /* ref, under `lock` */
    int wake_fd;
    struct event *wake_event;
    struct event *tick;
    struct event *log_flush; /* armed while lines of the access log wait */
    int64_t tick_due_us;     /* monotonic; 0: the loop has not begun */
    int64_t drain_until_ms;
    atomic_bool finished; /* the loop has ended; read by the main thread */
};

/* What the main thread counts. */
struct daemon_stats {
    counter reloads;         /* that took effect */
    counter reloads_refused; /* that left everything as it was */
    counter loaded_wall_ms;  /* gauge: when the configuration in force was read */
    counter open_files;      /* gauge, a few seconds old: counting them takes a while */
    counter draining;        /* gauge, 0 or 1 */
};

/* All workers; made and driven by the main thread. */
struct worker_group {
    struct worker **workers; /* owned */
    size_t n;
    struct stats *stats;                     /* owned array, one a worker */
    struct budget *budget;                   /* owned */
    struct upstream_counts *upstream_counts; /* owned */
    struct daemon_stats daemon;
    const char *store_socket;
};

/* Makes config->workers workers with listening sockets for every listener (and the operator's Unix
 * socket on the first), but starts no thread yet. NULL on failure, with a sentence in `error`.
 * `store_socket`: see store_new(); borrowed. Listeners take
 * their sockets from `inherited` where it has some of their name; one that is left over is an
 * error. */
struct worker_group *worker_group_new(struct snapshot *snapshot, const char *store_socket,
                                      struct inherited *inherited, char *error,
                                      size_t error_size) MUST_CHECK;
void worker_group_start(struct worker_group *group);
/* New connections are served under `snapshot`; older ones that it no longer trusts are cut.
 * Thread-safe. */
void worker_group_reload(struct worker_group *group, struct snapshot *snapshot);
/* Stops accepting clients, lets exchanges in flight end within drain_timeout, then ends the threads.
 * worker_group_join() waits. */
void worker_group_drain(struct worker_group *group);
/* Ends the threads now. */
void worker_group_stop(struct worker_group *group);
/* Every loop turns: see notify_may_pet(). */
bool worker_group_may_pet(const struct worker_group *group, int64_t watchdog_ms);
/* True when every thread has ended its loop: worker_group_join() will not wait long. */
bool worker_group_is_finished(const struct worker_group *group);
void worker_group_join(struct worker_group *group);
/* After join. Clears the caller's pointer; NULL inside is fine. */
void worker_group_free(struct worker_group **group);

/* `n` <= 64 random bytes from the stock. */
void worker_random(struct worker *worker, void *out, size_t n);
