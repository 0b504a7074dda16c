/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/operator/metrics.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "gateway/base/log.h"
#include "gateway/base/mem.h"

/* The sum over all workers of the counter at `offset` in their stats. */
static uint64_t metrics_sum(const struct worker_group *group, size_t offset)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < group->n; i++)
        sum += stat_get((const counter *)(const void *)((const char *)&group->stats[i] + offset));
    return sum;
}

bool metrics_is_ready(const struct worker_group *group)
{
    for (size_t i = 0; i < group->n; i++) {
        if (stat_get(&group->stats[i].store_ready) == 0 ||
            stat_get(&group->stats[i].store_fresh) == 0)
            return false;
    }
    return group->n > 0;
}

struct metric {
    const char *name;
    const char *type;
    const char *label; /* with its value; NULL: none */
    size_t offset;
    const char *help;
};

static const struct metric plain_metrics[] = {
    {"dgw_connections_accepted_total", "counter", NULL,
     offsetof(struct stats, connections_accepted), "Connections accepted."},
    {"dgw_connections_open", "gauge", NULL, offsetof(struct stats, connections_open),
     "Connections open now."},
    {"dgw_handshakes_total", "counter", "result=\"full\"", offsetof(struct stats, handshakes_full),
     "TLS handshakes by result."},
    {"dgw_handshakes_total", "counter", "result=\"resumed\"",
     offsetof(struct stats, handshakes_resumed), NULL},
    {"dgw_handshakes_total", "counter", "result=\"failed\"",
     offsetof(struct stats, handshakes_failed), NULL},
    {"dgw_connections_cut_total", "counter", NULL, offsetof(struct stats, cuts),
     "Live connections that a denial or a rotation ended."},
    {"dgw_rotations_pending", "gauge", NULL, offsetof(struct stats, rotations_pending),
     "Rotations pending in the whole fleet, as every gateway sees it."},
    {"dgw_rotations_stalled", "gauge", NULL, offsetof(struct stats, rotations_stalled),
     "Those of them that have stalled."},
};

/* Counters with a row a reason. */
static const struct metric reason_metrics[] = {
    {"dgw_requests_total", "counter", NULL, offsetof(struct stats, requests),
     "Requests by reason."},
    {"dgw_admissions_total", "counter", NULL, offsetof(struct stats, admissions),
     "Decisions on connections by reason."},
    {"dgw_connections_closed_total", "counter", NULL, offsetof(struct stats, closes),
     "Connections closed by reason."},
};

static void metrics_head(FILE *out, const struct metric *metric)
{
    if (metric->help != NULL)
        (void)fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", metric->name, metric->help, metric->name,
                      metric->type);
}

char *metrics_format(const struct worker_group *group)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (out == NULL)
        abort();
    for (size_t i = 0; i < ARRAY_SIZE(plain_metrics); i++) {
        const struct metric *metric = &plain_metrics[i];
        metrics_head(out, metric);
        (void)fprintf(out, "%s%s%s%s %" PRIu64 "\n", metric->name, metric->label != NULL ? "{" : "",
                      metric->label != NULL ? metric->label : "", metric->label != NULL ? "}" : "",
                      metrics_sum(group, metric->offset));
    }
    for (size_t i = 0; i < ARRAY_SIZE(reason_metrics); i++) {
        const struct metric *metric = &reason_metrics[i];
        metrics_head(out, metric);
        for (size_t reason = 0; reason < REASON_COUNT; reason++) {
            uint64_t sum = metrics_sum(group, metric->offset + reason * sizeof(counter));
            if (sum > 0)
                (void)fprintf(out, "%s{reason=\"%s\"} %" PRIu64 "\n", metric->name,
                              reason_wire((enum reason)reason), sum);
        }
    }
    (void)fprintf(out,
                  "# HELP dgw_ready 1 when every worker may admit devices.\n# TYPE dgw_ready "
                  "gauge\ndgw_ready %d\n",
                  metrics_is_ready(group));
    (void)fprintf(out,
                  "# HELP dgw_handshakes_in_flight TLS handshakes in flight now.\n# TYPE "
                  "dgw_handshakes_in_flight gauge\ndgw_handshakes_in_flight %zu\n",
                  budget_handshakes(group->budget));
    (void)fprintf(out,
                  "# HELP dgw_log_lines_lost_total Log lines that stderr did not take.\n# TYPE "
                  "dgw_log_lines_lost_total counter\ndgw_log_lines_lost_total %" PRIu64 "\n",
                  log_lost());
    metrics_print_backends(group->upstream_counts, out);
    if (fclose(out) != 0)
        abort();
    return text;
}
