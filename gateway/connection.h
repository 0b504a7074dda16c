/* SPDX-License-Identifier: BSD-2-Clause */
/* One accepted connection, of a device or an operator, from its first byte to its last.
 *
 *      HANDSHAKE ──▶ ADMITTING ──▶ IDLE ──head──▶ EXCHANGE ──▶ IDLE …
 *        │  │            ▲          │ │              │
 *        │  │            └──────────┘ │              │ last answer, drained, idle too long
 *        │  │         not sure any    ▼              ▼
 *        │  └── refused by TLS ───▶ LINGER ◀─────────┘
 *        └── gone ──▶ CLOSED ◀────────┘                (from anywhere: cut, broken, too slow)
 *
 * A connection belongs to its worker and is touched by that worker's thread alone. Whoever wants to
 * end one closes it with a reason; it is freed at the end of the loop's turn.
 *
 * Trust: a device's connection is entered into the worker's index before its record is read, so
 * that no denial can slip between reading and listening. While the event log is fresh, an admitted
 * connection is trusted; otherwise, or after a gap in the log, the next request is decided again
 * first. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/daemon/worker.h"

struct connection;

struct connection_origin {
    int fd; /* taken over */
    const struct config_listener
        *listener; /* of worker->generation's config; NULL: the operator's own listener */
    struct listener_stats *stats;        /* the listener's, among the worker's */
    const struct sockaddr_storage *peer; /* borrowed for the call */
};

/* Starts serving, or turns the connection away at once when a budget (gateway/budget.h) is used up:
 *
 *   max_connections, or the source's connections or handshakes: reset.
 *   all handshakes: the one on this worker that has shown no sign of life for longest gives way, if
 *     that is a second or more, so that silent strangers lock nobody out; else reset.
 *
 * A device's number is known when it is admitted. Stock agents open a connection a request, and
 * what they leave behind when they restart or their network changes looks idle until
 * http.idle_timeout. So the newest wins: the idlest connection of the device on this worker is
 * closed in order (a request that is on its way has drain_timeout); only if the worker has no idle
 * one is the new one answered 503, and whoever tries again comes from another port, to any worker.
 */
void connection_accept(struct worker *worker, const struct connection_origin *origin);

/* From the event log: cuts, or drains, exactly the connections that were admitted with what it
 * names. */
void connections_cut(struct worker *worker, const struct store_cut *cut);
/* Any cut may have been missed: each connection is decided again before its next request. */
void connections_distrust(struct worker *worker);
/* After a reload: cuts what the new snapshot no longer trusts. */
void connections_recheck(struct worker *worker, const struct snapshot *snapshot);
/* No new requests; exchanges in flight may go on for that long. Idle connections end now, those
 * that never had a request after a moment in which it may come. */
void connections_drain(struct worker *worker, int64_t within_ms);
/* Nothing is left to wait for: an operator who looks at the drain does not hold it up, but for an
 * exchange in flight. */
bool connections_are_drained(const struct worker *worker);
/* Now. */
void connections_close_all(struct worker *worker);
/* Frees what was closed. Called by the worker when no callback of a connection is on the stack. */
void connections_sweep(struct worker *worker);
