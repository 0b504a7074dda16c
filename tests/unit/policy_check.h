/* SPDX-License-Identifier: BSD-2-Clause */
/* The judge of the model test: what may follow from what, said a second time and without looking at
 * how policy/ comes to it. Each check returns NULL, or the sentence that was violated, which begins
 * with the number of the design's invariant. */
#pragma once

#include "policy/admission.h"
#include "policy/config_lock.h"
#include "policy/decision.h"

enum cause_kind {
    CAUSE_ADMIT,
    CAUSE_ANNOUNCE,
    CAUSE_CANCEL,
    CAUSE_ACCEPT,
    CAUSE_WRITE_BEGIN,
    CAUSE_WRITE_END,
    CAUSE_DENY,
    CAUSE_ALLOW,
    CAUSE_GROUP,
    CAUSE_COUNT
};

const char *cause_name(enum cause_kind kind);

/* What was asked of a gateway. Keys are numbers of make_key(). */
struct cause {
    enum cause_kind kind;
    int key;  /* of the connection; or the one that a config write names, 0 for none */
    int next; /* announced or accepted */
    int serial;
    enum handshake handshake;
    int64_t certificate_expires_ms;
    int64_t connected_ms;
    enum config_writer writer;
    int writer_key; /* of the device that writes */
    const char *token;
    int64_t lease_ms;
    enum deny_kind deny_kind;
    const char *deny_id;
    const char *group;
    int64_t decided_ms; /* the time at which the gateway had read the store */
};

/* What the events of a device say, and nothing else: the record must agree with it always. */
struct history {
    int current, pending;
    uint64_t generation;
    uint64_t n_changes;
    bool first_seen, stalled;
    char rotation_id[ROTATION_ID_MAX + 1];
    char group[LABEL_MAX + 1];
    int64_t last_ms; /* of the last event that came with a record */
};

struct commit {
    const struct device_record *before; /* as the store has it at this moment */
    const struct change *change;
    const struct cause *cause;
    int64_t now_ms;
};

/* A decision as such, against the snapshot that it was made from. */
const char *check_decision(const struct device_record *read, bool denied, const struct cause *cause,
                           const struct decision *decision);

/* A change that is about to be committed; tells the history of its events. */
const char *check_commit(const struct commit *commit, struct history *history);

/* A config write that reaches the backend's storage now; `generation` is that of its begin. */
const char *check_landing(const struct device_record *record, const struct cause *write,
                          uint64_t generation);
