/* SPDX-License-Identifier: BSD-2-Clause */
/* What the daemon has counted, as Prometheus text (exposition format 0.0.4), and whether it is
 * ready.
 *
 * Names, types and units follow Prometheus' conventions (`promtool check metrics` is content).
 * Labels are bounded by the configuration and by the table of reasons; none carries a device. The
 * list of names, for those who write alerts, is in README.md. */
#pragma once

#include <stdio.h>

#include "gateway/base/macros.h"
#include "gateway/daemon/worker.h"

/* From any worker's thread. `snapshot`: whose listeners, CAs and backends are shown. Owned by the
 * caller: mem_free(). */
char *metrics_format(const struct worker_group *group, const struct snapshot *snapshot) MUST_CHECK;

/* NULL when devices are served: the daemon does not drain, and every worker can ask the store and
 * follows its log. Otherwise the sentence that says what is missing. */
const char *metrics_unready(const struct worker_group *group);

/* The part of it that speaks of backends. */
void metrics_print_backends(struct upstream_counts *counts, FILE *out);
