/* SPDX-License-Identifier: BSD-2-Clause */
/* Follows the event log of some partitions on a link of its own, and knows since when it has not.
 *
 *   on connect:  XINFO STREAM of each partition: is everything after our position still there?
 *   then rounds: XREAD BLOCK lease/4 over all of them, and behind it XINFO STREAM of each
 *
 * One tail follows all partitions where they have one server. A Cluster reads no two slots with one
 * command, and a blocked one holds up its link: there each partition has a tail of its own.
 *
 * Entries that are trimmed before we have read them are simply not in XREAD's answer. XINFO, asked
 * in the same breath, tells: a stream counts what was ever added to it (entries-added), and we
 * count along. If more was trimmed (entries-added less length) than we had read when the XREAD was
 * sent, or something behind our position was deleted (max-deleted-entry-id), there is a gap. That
 * may cry wolf when trimming reaches what we are just reading; a gap only makes connections be
 * decided again. A stream that was replaced (a flushed or older database) has a last id, or a
 * count, before ours, or another count at the same id. A gap that was found is told even if the
 * connection ends before its round.
 *
 * Another server than before (tail_lead()) is always a gap: it may lack entries that we have read,
 * which nobody acknowledged, and may have given their ids, or earlier ones, to others. Reading goes
 * on from our position all the same, so that exchanges under way are cut by what came since. Where
 * our position stands in the new server's count, and so what it trims, is known only once all is
 * read: then there is a gap again.
 *
 * What is read from a primary that has become a replica may be old, and nothing in an answer says
 * so. Each round ends with a write that changes nothing, which a replica refuses (a Cluster's
 * replica refuses to be read as well).
 *
 * The time of a round is that of its sending. It counts only when every stream was read to its
 * end. */
#pragma once

#include "gateway/store/address.h"
#include "gateway/store/keys.h"
#include "gateway/store/store.h"

struct tail;

struct tail_params {
    struct event_base *base;
    const struct config *config; /* borrowed from the store's owner */
    const struct keys *keys;     /* borrowed for the call */
    uint32_t first;              /* partition, and how many from there */
    uint32_t n;
    struct store_handlers handlers; /* the store's */
    /* The server refuses ("MOVED …", "READONLY …"), or cannot be reached (NULL). From inside a
     * link's callback. */
    void (*on_doubt)(void *arg, uint32_t partition, const char *error);
    /* The link ended. Likewise. */
    void (*on_broken)(void *arg, uint32_t partition);
    void *link_arg;
};
/* Follows nobody yet. */
struct tail *tail_new(const struct tail_params *params) MUST_CHECK;
void tail_free(struct tail **tail);

/* From now on this server is followed. Not from inside a link's callback. */
void tail_lead(struct tail *tail, const struct store_address *server);

/* Has its place in every partition's log, on the present connection. */
bool tail_is_placed(const struct tail *tail);
/* When it was last fresh, on the monotonic clock: never decreases. INT64_MIN: never yet. */
int64_t tail_fresh_ms(const struct tail *tail);
uint64_t tail_reconnects(const struct tail *tail);
