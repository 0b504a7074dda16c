/* SPDX-License-Identifier: BSD-2-Clause */
/* The three constant scripts. Everything variable comes as a key or an argument, binary-safe; all
 * keys are declared, so they work on a Cluster. */
#pragma once

#include "gateway/base/str.h"

struct script {
    struct str sha1; /* what EVALSHA takes; a test compares it with Redis' own */
    struct str text;
};

/* KEYS: record, seen, then any number of deny keys.
 * Returns {seconds, microseconds, {record's fields…}, last seen, …}; when any of the deny keys
 * exists, 1 or 0 for each of them follows. */
extern const struct script script_read;

/* KEYS: record, events, pending, stalled, the denied, the allowed, one "once" key for each throttled event.
 * ARGV: expected version ("": the record is not written), events_max, the record's fields as a
 * list; when it is written, its name, since when a rotation is pending ("": none is) and 1 when that
 * has stalled; number of denials, for each: until in ms (0: for ever), 1 when a longer one stays, a list
 * of fields; number of allowed; number of events, for each: once in ms (0: always), a list of
 * fields. A list is its number of elements, then the elements. Returns 1, or 0 when the record has
 * another version: then nothing was written. */
extern const struct script script_commit;

/* KEYS: pending, stalled. ARGV: ms, limit. Returns {rotations pending and not stalled, stalled, the
 * names of those of the first kind that have been pending for more than so many ms, oldest first,
 * at most `limit`}. */
extern const struct script script_pending;
