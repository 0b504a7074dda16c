/* SPDX-License-Identifier: BSD-2-Clause */
/* The store as the model test has it: records under compare-and-set, and the deny-list. It does
 * what policy/decision.h asks of a store and nothing more; events are judged by policy_check.h. */
#pragma once

#include "policy/decision.h"
#include "policy_make.h"

enum {
    STORE_DEVICES = 2,
    STORE_SERIALS = 4, /* certificates of one key */
};

struct store_entry {
    bool exists;
    bool by_operator;
    int64_t until_ms; /* 0: for ever */
};

struct store {
    struct device_record records[STORE_DEVICES];
    struct store_entry keys[MAKE_KEYS];
    struct store_entry certificates[MAKE_KEYS * STORE_SERIALS];
    struct store_entry devices[STORE_DEVICES];
    int64_t refused_event_ms[STORE_DEVICES]; /* the last DEVICE_KEY_REFUSED */
};

/* All static. */
const char *store_device_name(int device);
const struct digest *store_certificate(int key, int serial);

bool store_entry_denies(const struct store_entry *entry, int64_t now_ms);

/* The entry that an operator's act or a promotion means, or NULL for an id that does not exist. */
struct store_entry *store_find_entry(struct store *store, enum deny_kind kind, const char *id);

/* All or nothing; false when the record has moved on. */
bool store_commit(struct store *store, int device, const struct change *change);

/* Whether this event may be written now, in the store's judgement of once_in_ms. */
bool store_takes_event(struct store *store, int device, const struct device_event *event,
                       int64_t now_ms);
