/* SPDX-License-Identifier: BSD-2-Clause */
/* What a worker counts. Only its own thread writes, so counting is a plain load and store; anybody
 * may read. */
#pragma once

#include "gateway/base/stat.h"
#include "policy/reason.h"

struct stats {
    counter connections_accepted;
    counter connections_open;
    counter handshakes_full;
    counter handshakes_resumed;
    counter handshakes_failed;
    counter requests[REASON_COUNT];   /* finished exchanges, by their reason */
    counter admissions[REASON_COUNT]; /* verdicts on connections */
    counter closes[REASON_COUNT];     /* ends of connections */
    counter cuts;                     /* connections that the event log cut or drained */
    counter rotations_pending;        /* gauge of the fleet, of one worker only */
    counter rotations_stalled;        /* those among them */
    counter store_ready;              /* gauge, 0 or 1 */
    counter store_fresh;              /* gauge, 0 or 1 */
};
