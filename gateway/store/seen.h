/* SPDX-License-Identifier: BSD-2-Clause */
/* Which device was seen when and from where: gathered, one note a device, and written in batches.
 * Notes are worth little: while Redis is away they wait, and when there are too many the oldest are
 * lost. */
#pragma once

#include <event2/event.h>

#include "gateway/store/keys.h"
#include "gateway/store/servers.h"

enum {
    SEEN_MAX = 4096,        /* devices with a note */
    SEEN_FLUSH_MS = 5000,   /* how long a note waits */
    SEEN_BATCH = 256,       /* notes written at once, and */
    SEEN_BATCH_GAP_MS = 50, /* the time between two batches */
    SEEN_ADDRESS_MAX = 63,
};

struct seen;

/* `keys` and `config` are borrowed and outlive it; `servers` too, until the last loop's turn. */
struct seen *seen_new(struct event_base *base, const struct config *config, const struct keys *keys,
                      const struct servers *servers) MUST_CHECK;
/* After the links were freed. What was not written is lost. */
void seen_free(struct seen **seen);

void seen_note(struct seen *seen, const char *device, const char *address);
