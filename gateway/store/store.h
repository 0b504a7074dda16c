/* SPDX-License-Identifier: BSD-2-Clause */
/* The store: device records, the deny-list and the event log in Redis, as one worker sees them.
 *
 * Each worker has a store of its own: one link for commands (pipelined, each with a deadline) and
 * one that tails the event log. Nothing here blocks. Links come back by themselves after a jittered
 * back-off; while one is down, everything asked of it ends at once with STORE_UNAVAILABLE. With
 * wait_replicas there is a third link, for commits, so that no read stands behind a WAIT. The
 * process must ignore SIGPIPE.
 *
 *   servers.h ──▶ topology.h ──▶ guide.h    which server has a partition: one for all (embedded,
 *                                           store.redis, the master that sentinels name), or the
 *                                           nodes of a Redis Cluster, each with links of its own
 *   tail.h                                  follows the log: one, or on a Cluster one a partition
 *
 * Only primaries are read and written. Where the primary moves, whatever was open ends with
 * STORE_UNAVAILABLE, the log has a gap, and what was acknowledged is there if replicas had it
 * (wait_replicas) and one of them was made the primary.
 *
 *   keys (NN: the device's partition)        type
 *   <prefix>:{p00}:partitions                string, written once for the fleet
 *   <prefix>:{pNN}:device:<name>             hash: the record, `version` among its fields
 *   <prefix>:{pNN}:deny:key:<id>             hash: reason, origin, at, until, device
 *                 …:deny:certificate:<id>    likewise
 *                 …:deny:device:<name>       likewise
 *   <prefix>:{pNN}:events                    stream: everything that happened, in order
 *   <prefix>:{pNN}:pending, …:stalled        sorted sets: devices whose rotation is pending, by when
 *                                            it began; in the second those that have stalled
 *   <prefix>:{pNN}:once:<type>:<why>:<name>  string with expiry: rate of repeated events
 *   <prefix>:{pNN}:seen:<name>               hash: last seen time and address
 *   <prefix>:{pNN}:confirmed                 string: written again before a WAIT that is to speak of
 *                                            what stands already
 *
 * Constant Lua scripts do the work: one reads a record with its denials and the store's time in one
 * consistent step, one commits a change if the record's version is still the one that was read. The
 * sorted sets follow from the record in the same commit; a rotation that an earlier version had
 * recorded enters them with its record's next commit. */
#pragma once

#include <event2/event.h>

#include "gateway/base/histogram.h"
#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "policy/admission.h"
#include "policy/decision.h"

struct store;
struct store_op;

enum store_result {
    STORE_OK,
    STORE_CONFLICT,    /* commit: the record has changed since it was read; nothing was written */
    STORE_UNAVAILABLE, /* no answer, or the store refused. A commit may or may not have happened:
                          read again to know */
    STORE_INVALID,     /* the record's content cannot be understood; logged with its key */
};

/* What to read. Strings are copied. */
struct store_query {
    const char *device;
    const char *key;              /* key id whose denial is asked for; NULL or "": none */
    const char *certificate;      /* likewise */
    const char *certificate_twin; /* likewise: another name of the same */
    const char *next_key;         /* a second key id (an announcement's); likewise */
    /* Sees what this store has committed before, even where that was given up and its answer is
     * still to come. Such a read may stand behind a WAIT. */
    bool after_commits;
};

struct store_view {
    struct device_record record; /* version 0, with the name filled in, when there is none */
    struct deny_flags denied;    /* of key, certificate and device */
    bool next_key_denied;
    int64_t now_ms;       /* the store's clock */
    int64_t last_seen_ms; /* 0: never flushed */
};

/* Runs exactly once an operation, never from inside the call that started it, also when the link
 * dies; not after store_op_cancel(). `view` is borrowed for the call and only valid for
 * STORE_OK. */
typedef void store_read_fn(enum store_result result, const struct store_view *view, void *arg);
typedef void store_commit_fn(enum store_result result, void *arg);

/* Something happened that live connections must follow (from the event log, in its order). Strings
 * are borrowed. The log and the answers to reads come over two links: a cut may run before the read
 * that was answered earlier, so a connection must be findable before it asks, and ask again when it
 * is cut meanwhile. */
struct store_cut {
    enum cut_mode mode;
    enum deny_kind kind;
    const char *id;
    const char *device;
};
typedef void store_cut_fn(const struct store_cut *cut, void *arg);

/* The log could not be followed without a gap (it was trimmed, lost or replaced, another server has
 * it now, or an entry cannot be understood): any cut may have been missed, so every live connection has to be decided again
 * before its next request. Runs also when the log is found for the first time: whatever was decided
 * before, was decided without it. */
typedef void store_gap_fn(void *arg);

enum store_command {
    STORE_COMMAND_READ,   /* a record with its denials: what an admission waits for */
    STORE_COMMAND_COMMIT, /* a change, with its WAIT if there is one */
    STORE_COMMAND_OTHER,
    STORE_COMMAND_COUNT
};

/* What a store counts, for metrics. It belongs to the store's owner, so that other threads may read
 * it however the store ends. */
struct store_stats {
    counter commands;
    counter failures; /* operations that ended with STORE_UNAVAILABLE */
    counter conflicts;
    counter reconnects;                            /* set by the owner, from store_reconnects() */
    counter transitions[REASON_COUNT];             /* changes of records that made an event */
    struct histogram latency[STORE_COMMAND_COUNT]; /* of commands that were answered; what was
                                                      refused or given up does not count */
};
void store_stats_init(struct store_stats *stats);

struct store_handlers {
    store_cut_fn *on_cut;
    store_gap_fn *on_gap;
    void *arg;
    struct store_stats *stats; /* borrowed from the owner, outlives the store */
};

/* `config` is borrowed and outlives the store, reloads notwithstanding: nothing that the store
 * reads of it can change while the daemon runs. `socket` is the embedded store's Unix socket, or
 * NULL to use config->store.redis. Starts connecting at once. */
struct store *store_new(struct event_base *base, const struct config *config, const char *socket,
                        const struct store_handlers *handlers) MUST_CHECK;
/* Ends every operation that is still open with STORE_UNAVAILABLE (from inside this call), then
 * frees. Not from inside one of the store's own callbacks; and a callback that is called from here
 * must not ask again without end. */
void store_free(struct store **store);

/* Is a change acknowledged only once replicas have it? What was not committed by whoever
 * acknowledges it now, may then still be missing there: store_confirm() asks. */
bool store_waits_for_replicas(const struct store *store);

/* The links to the servers of all partitions are up, and every log is followed. */
bool store_is_ready(const struct store *store);

/* The log of every partition has been read within store.lease: live connections may be trusted
 * without asking. Of every one, because the event of a key's denial is in one of them, and concerns
 * connections of all. Time counts from when the answered read was sent. Cheap: called for every
 * request. */
bool store_is_fresh(struct store *store);
/* How long the log has not been read (of the partitions' logs, the one that was not for longest),
 * in ms of the monotonic clock; INT64_MAX before the first time. */
int64_t store_stale_ms(const struct store *store);

/* How many operations may be open at once; more end with STORE_UNAVAILABLE. */
enum { STORE_OPERATIONS_MAX = 4096 };

/* Each returns a handle for store_op_cancel(), valid until its callback has run. */
struct store_op *store_read(struct store *store, const struct store_query *query,
                            store_read_fn *done, void *arg);
/* In one atomic step: the record, if its version is still the one before `next.version`; the
 * denials; the events, of which repeated ones may be left out (once_in_ms). `change` is copied into
 * the command. With config->store.wait_replicas, STORE_OK means that so many replicas have it too.
 * A change without `writes_record` has no version to conflict with.
 *
 * `device` fixes the partition, where its event goes ("" is a name like any other). But a denial of
 * a key or certificate that comes without a record, and its removal, go to every partition, one
 * after the other: an admission asks its own device's partition only, and whoever has stolen a key
 * may speak under any name. STORE_OK means that all have it. After STORE_UNAVAILABLE some may; the
 * same again completes it. (The key that a promotion retires is denied in its device's partition
 * alone, within the promotion's one step.) */
struct store_op *store_commit(struct store *store, const char *device, const struct change *change,
                              store_commit_fn *done, void *arg);
/* STORE_OK once so many replicas have everything that now stands in the device's partition. Writes
 * one small key, because a WAIT speaks of what its own link has written. Only where
 * store_waits_for_replicas(). */
struct store_op *store_confirm(struct store *store, const char *device, store_commit_fn *done,
                               void *arg);
/* Ends with STORE_OK after about so long: a pause between two tries that ends with the store. */
struct store_op *store_pause(struct store *store, int64_t pause_ms, store_commit_fn *done,
                             void *arg);
/* The callback will not run. What was sent may still take effect. Clears the caller's pointer; NULL
 * inside is fine. */
void store_op_cancel(struct store_op **op);

/* Notes that the device was seen now; coalesced, flushed in batches every few seconds, lost in a
 * crash. Never blocks, never fails; bounded (when there are too many new names, the oldest notes
 * are flushed first). */
void store_note_seen(struct store *store, const char *device, const char *address);

/* A deny-list entry, for operators. `denial` is borrowed for the call and only valid for STORE_OK
 * with `exists`. */
typedef void store_denial_fn(enum store_result result, bool exists, const struct denial *denial,
                             void *arg);
struct store_op *store_read_denial(struct store *store, enum deny_kind kind, const char *id,
                                   const char *device, store_denial_fn *done, void *arg);

/* How many rotations are pending in a partition, and which of them have been for more than `for_ms`
 * (0: none are asked for) without being marked as stalled: the oldest. Borrowed for the call. */
enum { STORE_PENDING_MAX = 64 };
struct store_pending {
    uint64_t n_pending; /* not marked as stalled */
    uint64_t n_stalled;
    size_t n_overdue;
    char overdue[STORE_PENDING_MAX][DEVICE_NAME_MAX + 1];
};
typedef void store_pending_fn(enum store_result result, const struct store_pending *pending,
                              void *arg);
struct store_op *store_read_pending(struct store *store, uint32_t partition, int64_t for_ms,
                                    store_pending_fn *done, void *arg);

/* Takes a device without a record out of those with a pending rotation. */
struct store_op *store_forget_pending(struct store *store, uint32_t partition, const char *device,
                                      store_commit_fn *done, void *arg);

/* The devices that one step of SCAN meets in a partition, about `count` keys on from `cursor` (0:
 * from the beginning). Borrowed for the call. */
struct store_scan {
    uint64_t cursor; /* of the next step; 0: that was the last */
    size_t n;
    char (*devices)[DEVICE_NAME_MAX + 1];
};
typedef void store_scan_fn(enum store_result result, const struct store_scan *scan, void *arg);
struct store_op *store_scan_devices(struct store *store, uint32_t partition, uint64_t cursor,
                                    size_t count, store_scan_fn *done, void *arg);

/* The newest events of a partition, oldest first, at most `count` (1 to 1000). Everything is
 * borrowed for the call. */
struct store_event {
    const char *id; /* the stream's entry id: stable, ordered */
    const char *type;
    const char *device;
    const char *data; /* JSON object */
};
typedef void store_events_fn(enum store_result result, const struct store_event *events,
                             size_t n_events, void *arg);
struct store_op *store_read_events(struct store *store, uint32_t partition, size_t count,
                                   store_events_fn *done, void *arg);

/* The partition of a device name, below config->store.partitions: FNV-1a (32 bit) modulo the
 * number. */
uint32_t store_partition(const struct config *config, const char *device);

/* For transition.c: a change for that reason is committed. */
void store_count_transition(struct store *store, enum reason reason);
/* How often its links were up again. */
uint64_t store_reconnects(const struct store *store);
