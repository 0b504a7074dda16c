/* SPDX-License-Identifier: BSD-2-Clause */
/* Probes: each worker asks each server of a backend for health.path now and then, over a new
 * connection and the same TLS that requests take, and tells server.h when its mind has changed.
 *
 *             unhealthy_after bad ones in a row
 *      HEALTHY ───────────────────────────────▶ UNHEALTHY
 *              ◀───────────────────────────────
 *              healthy_after good ones in a row
 *
 * A probe is good when a final head with one of the configured statuses comes within health.timeout.
 * Servers are healthy until a probe says otherwise. Probes of one server are health.every apart, a
 * tenth more or less, so that workers and servers do not beat together. A probe counts as an
 * attempt: one that is answered is as good a trial as any (server.h). */
#pragma once

#include "gateway/upstream/pool.h"

struct health;

/* NULL when the backend has no health.path. `pool` is borrowed: health_stop() comes before its end. */
struct health *health_start(struct upstream_pool *pool);
/* NULL inside is fine. */
void health_stop(struct health **health);
