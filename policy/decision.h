/* SPDX-License-Identifier: BSD-2-Clause */
/* What a decision says, and what it wants changed.
 *
 * A decision is computed from a record as it was read. If it commits, the shell writes `change` -
 * next record, deny-list entries and events - in one atomic step which succeeds only while the
 * record still has the version that was read (`next.version - 1`); otherwise it reads record and
 * deny-list again and decides again. A change that writes no record names no version: it applies in
 * any case. A decision without `commits` changes nothing. */
#pragma once

#include "policy/reason.h"
#include "policy/record.h"

enum verdict {
    VERDICT_REFUSE,     /* nothing passes; `reason` says why. Zero on purpose. */
    VERDICT_PASS,       /* admitted, accepted or done */
    VERDICT_QUARANTINE, /* admitted, but only for routes marked as open to quarantined devices */
    VERDICT_BUSY,       /* not now, but the same may pass in a moment (503, Retry-After); commits
                           at most that somebody waits */
};

enum deny_kind {
    DENY_KEY,         /* id: key id */
    DENY_CERTIFICATE, /* id: SHA-256 of the DER certificate */
    DENY_DEVICE,      /* id: device name */
};

/* The word of the wire: "key", "certificate", "device". */
const char *deny_kind_wire(enum deny_kind kind);

struct denial {
    enum deny_kind kind;
    char id[LABEL_MAX + 1];
    char device[DEVICE_NAME_MAX + 1]; /* whose it is; empty when that is not known */
    char reason[TEXT_MAX + 1];
    char origin[TEXT_MAX + 1]; /* "rotation certs-1700000000", "operator uid 0" */
    int64_t at_ms;
    int64_t until_ms;  /* 0: for ever */
    bool keeps_longer; /* an entry that exists and ends no sooner stays as it is: retiring a key
                          must not shorten what an operator has said of it */
};

/* X(ENUMERATOR): the enumerator is the wire name as well. */
#define EVENT_TABLE(X)                                                                             \
    X(DEVICE_FIRST_SEEN)                                                                           \
    X(DEVICE_PUBKEY_CHANGE)                                                                        \
    X(DEVICE_ROTATION_STARTED)                                                                     \
    X(DEVICE_ROTATION_REPLACED)                                                                    \
    X(DEVICE_ROTATION_STALLED)                                                                     \
    X(DEVICE_ROTATION_CANCELLED)                                                                   \
    X(DEVICE_KEY_ACCEPTED)                                                                         \
    X(DEVICE_KEY_REFUSED)                                                                          \
    X(DEVICE_GROUP_CHANGED)                                                                        \
    X(DEVICE_DENIED)                                                                               \
    X(DEVICE_ALLOWED)

enum event_type {
#define EVENT_ENUMERATOR(name) EVENT_##name,
    EVENT_TABLE(EVENT_ENUMERATOR)
#undef EVENT_ENUMERATOR
        EVENT_COUNT
};

const char *event_wire(enum event_type type);

/* What an event asks gateways to do with live connections. */
enum cut_mode {
    CUT_NONE,
    CUT_NOW,    /* denied: at once, whatever is in flight */
    CUT_DRAIN,  /* retired: no new request; the one in flight may finish within rotation.drain */
    CUT_DECIDE, /* nothing ends; the next request is decided again */
};

/* The two keys, each with id and PEM, or with an empty id where the type has none:
 *
 *                       old_key                       new_key
 *   FIRST_SEEN          -                             current
 *   PUBKEY_CHANGE       retired, denied               current
 *   ROTATION_STARTED    current                       pending
 *   ROTATION_REPLACED   was pending                   pending
 *   ROTATION_STALLED    current                       pending
 *   ROTATION_CANCELLED  was pending                   -
 *   KEY_ACCEPTED        current; none: registered     pending; current when it was registered
 *   KEY_REFUSED         -                             refused
 *   GROUP_CHANGED       -                             -
 *   DENIED, ALLOWED     -                             -       (cut_kind and cut_id say what) */
/* Not "struct event": that tag is libevent's. */
struct device_event {
    enum event_type type;
    char device[DEVICE_NAME_MAX + 1]; /* empty for a denial that names no device */
    int64_t at_ms;
    struct pubkey old_key;
    struct pubkey new_key;
    char rotation_id[ROTATION_ID_MAX + 1]; /* the rotation that it began, ended or met */
    uint64_t generation;                   /* after the change */
    char group[LABEL_MAX + 1];             /* DeviceGroupId of DEVICE_PUBKEY_CHANGE */
    char old_group[LABEL_MAX + 1];         /* DEVICE_GROUP_CHANGED: from which */
    enum reason why;                       /* DEVICE_KEY_REFUSED: the verdict's reason */
    char reason[TEXT_MAX + 1];             /* an operator's words */
    char origin[TEXT_MAX + 1];
    enum cut_mode cut;
    enum deny_kind cut_kind;
    char cut_id[LABEL_MAX + 1];
    int64_t once_in_ms; /* > 0: at most one of this device, type and `why` in so many ms */
};

struct change {
    struct device_record next; /* next.version = version read + 1; ignored unless `writes_record` */
    bool writes_record;
    size_t n_deny;
    struct denial deny[1];
    size_t n_allow;
    struct denial allow[1]; /* only kind, id and device count */
    size_t n_events;
    struct device_event events[1];
};

/* Beyond a count - in events[], say - and in a record that is not written, bytes are undefined: a
 * decision is made for every connection, and its arrays are large. */
struct decision {
    enum verdict verdict;
    enum reason reason;
    bool commits; /* `change` must be committed before anything of the verdict is acted on */
    /* Nothing is to be changed, but what stands is acknowledged again: whoever did not commit it
     * may not know that it is kept as it was promised (by replicas, too). */
    bool confirms;
    struct change change;
};

/* What follows is for the modules that decide.
 *
 * The verdict, and nothing to change. Comes first in every decision. */
void decision_set(struct decision *out, enum verdict verdict, enum reason reason);

/* The next record, to be edited: a copy of the one that was read, one version on and without
 * expired leases. Further calls lend the same copy. */
struct device_record *decision_write_record(struct decision *out,
                                            const struct device_record *record, int64_t now_ms);

/* An event to be filled in: device, time, group, generation and rotation id are those of the record
 * as given; everything else is empty. `record` may be NULL. */
struct device_event *decision_add_event(struct decision *out, enum event_type type,
                                        const struct device_record *record, int64_t now_ms);

/* An entry to be filled in, for ever until said otherwise; its texts are empty. */
struct denial *decision_add_denial(struct decision *out, enum deny_kind kind, const char *id,
                                   int64_t now_ms);

/* For texts for people only: cuts off what does not fit, never in the middle of a UTF-8 sequence.
 * NULL reads as empty. */
void decision_copy_text(char dst[TEXT_MAX + 1], const char *src);
