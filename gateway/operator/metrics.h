/* SPDX-License-Identifier: BSD-2-Clause */
/* All workers' counters as Prometheus text (exposition format 0.0.4). No label carries a device. */
#pragma once

#include <stdio.h>

#include "gateway/base/macros.h"
#include "gateway/daemon/worker.h"

/* Owned by the caller: mem_free(). */
char *metrics_format(const struct worker_group *group) MUST_CHECK;

/* The part of it that speaks of backends. */
void metrics_print_backends(struct upstream_counts *counts, FILE *out);

/* Every worker's store is ready and its event log is fresh. */
bool metrics_is_ready(const struct worker_group *group);
