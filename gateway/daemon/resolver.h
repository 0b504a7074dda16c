/* SPDX-License-Identifier: BSD-2-Clause */
/* Asks for the names of backends' servers again, every resolve_every, on a thread of its own: asking
 * blocks, and neither a worker nor the main loop may. When an answer has changed, the main loop is
 * told, and makes a snapshot with the new addresses (snapshot_renew()): nothing else changes at
 * runtime. A name that is not answered keeps its last good addresses. */
#pragma once

#include <event2/event.h>

#include "gateway/daemon/snapshot.h"

struct resolver;

/* In the main loop: `snapshot` is to be in force; its owner takes the reference over. */
typedef void resolver_changed_fn(struct snapshot *snapshot, void *arg);

/* Starts the thread, which waits when `snapshot` has no names. */
struct resolver *resolver_start(struct event_base *base, struct snapshot *snapshot,
                                resolver_changed_fn *on_changed, void *arg) MUST_CHECK;
/* Another snapshot is in force. */
void resolver_follow(struct resolver *resolver, struct snapshot *snapshot);
/* Ends the thread, but waits only a moment for it: the resolver may hang for longer than anybody
 * wants to wait at the end. NULL inside is fine. */
void resolver_stop(struct resolver **resolver);
