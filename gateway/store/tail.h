/* SPDX-License-Identifier: BSD-2-Clause */
/* Follows the event log of all partitions on a link of its own, and knows since when it has not.
 *
 *   on connect:  XINFO STREAM of each partition: is everything after our position still there?
 *   then rounds: XREAD BLOCK lease/4 over all partitions, and behind it XINFO STREAM of each
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
 * The time of a round is that of its sending. It counts only when every stream was read to its
 * end. */
#pragma once

#include "gateway/store/keys.h"
#include "gateway/store/store.h"

struct tail;

struct tail *tail_new(struct event_base *base, const struct config *config, const char *socket,
                      const struct keys *keys, const struct store_handlers *handlers) MUST_CHECK;
void tail_free(struct tail **tail);

/* Has its place in every partition's log, on the present connection. */
bool tail_is_placed(const struct tail *tail);
/* As store_stale_ms(). */
int64_t tail_stale_ms(const struct tail *tail);
uint64_t tail_reconnects(const struct tail *tail);
