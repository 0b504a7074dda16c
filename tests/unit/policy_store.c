/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy_store.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const device_names[STORE_DEVICES] = {"device-0", "device-1"};

const char *store_device_name(int device)
{
    return device_names[device];
}

const struct digest *store_certificate(int key, int serial)
{
    static struct digest certificates[MAKE_KEYS * STORE_SERIALS];
    int number = key * STORE_SERIALS + serial;

    assert(number >= 0 && number < MAKE_KEYS * STORE_SERIALS);
    if (!digest_is_set(&certificates[number]))
        snprintf(certificates[number].hex, sizeof(certificates[number].hex), "%04x%060x",
                 (unsigned)number, 0xce47u);
    return &certificates[number];
}

static int store_number(const char *id, int bound)
{
    char digits[5] = "";

    memcpy(digits, id, 4);
    long number = strtol(digits, NULL, 16);
    return number > 0 && number < bound ? (int)number : -1;
}

struct store_entry *store_find_entry(struct store *store, enum deny_kind kind, const char *id)
{
    int number;

    switch (kind) {
    case DENY_KEY:
        number = store_number(id, MAKE_KEYS);
        return number >= 0 ? &store->keys[number] : NULL;
    case DENY_CERTIFICATE:
        number = store_number(id, MAKE_KEYS * STORE_SERIALS);
        return number >= 0 ? &store->certificates[number] : NULL;
    case DENY_DEVICE:
        for (number = 0; number < STORE_DEVICES; number++) {
            if (strcmp(id, device_names[number]) == 0)
                return &store->devices[number];
        }
        return NULL;
    }
    return NULL;
}

bool store_entry_denies(const struct store_entry *entry, int64_t now_ms)
{
    return entry->exists && (entry->until_ms == 0 || entry->until_ms > now_ms);
}

static void store_deny(struct store *store, const struct denial *denial)
{
    struct store_entry *entry = store_find_entry(store, denial->kind, denial->id);

    assert(entry != NULL);
    if (denial->keeps_longer && store_entry_denies(entry, denial->at_ms) &&
        (entry->until_ms == 0 || (denial->until_ms != 0 && entry->until_ms >= denial->until_ms)))
        return;
    entry->exists = true;
    entry->by_operator = !denial->keeps_longer;
    entry->until_ms = denial->until_ms;
}

bool store_commit(struct store *store, int device, const struct change *change)
{
    if (change->writes_record) {
        if (store->records[device].version != change->next.version - 1)
            return false;
        store->records[device] = change->next;
    }
    for (size_t i = 0; i < change->n_deny; i++)
        store_deny(store, &change->deny[i]);
    for (size_t i = 0; i < change->n_allow; i++)
        *store_find_entry(store, change->allow[i].kind, change->allow[i].id) =
            (struct store_entry){0};
    return true;
}

bool store_takes_event(struct store *store, int device, const struct device_event *event,
                       int64_t now_ms)
{
    if (event->once_in_ms <= 0)
        return true;
    if (store->refused_event_ms[device] != 0 &&
        now_ms - store->refused_event_ms[device] < event->once_in_ms)
        return false;
    store->refused_event_ms[device] = now_ms;
    return true;
}
