/* SPDX-License-Identifier: BSD-2-Clause */
/* Watches for rotations that nobody finishes: a device that announced a key and never came back
 * meets no admission that could notice.
 *
 * Every process asks from time to time which rotations have been pending for longer than
 * rotation.stalled_after, and marks them; the first commit wins, so that each rotation has one
 * DEVICE_ROTATION_STALLED however many gateways watch. It asks the store's sorted sets, so a round
 * costs one script a partition, whatever the number of devices, and tells how many rotations are
 * pending and stalled in the whole fleet (stats.h; when a partition could not be asked, as before).
 *
 *      WAITING ──timer──▶ ASKING a partition ──none, or the store is away──▶ next, or WAITING
 *                             ▲        └──some──▶ MARKING one after the other ──┐
 *                             └───────────────────────────────────────────────┘
 *
 * An entry whose record says otherwise is set right on the way: by writing the record again, or by
 * taking the entry out when there is no record. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/daemon/worker.h"

struct stalled_watch;

/* Of one worker in a process, on its loop; `worker` outlives it. */
struct stalled_watch *stalled_watch_new(struct worker *worker) MUST_CHECK;
/* Before the store. NULL inside is fine. */
void stalled_watch_free(struct stalled_watch **watch);
