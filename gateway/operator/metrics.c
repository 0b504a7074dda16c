/* SPDX-License-Identifier: BSD-2-Clause */
/* Families are written one after the other: HELP and TYPE, then all samples, as the format wants
 * it. What is a plain counter is a row of a table; the rest has a function a family. */
#include "gateway/operator/metrics.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/operator/process_metrics.h"

struct page {
    FILE *out;
    const struct worker_group *group;
    const struct snapshot *snapshot;
};

/* --- the format ------------------------------------------------------------------------------- */

static void page_family(struct page *page, const char *name, const char *type, const char *help)
{
    (void)fprintf(page->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Labels come from the configuration and from our own tables: names, without what needs escapes. */
static void page_count(struct page *page, const char *name, const char *label, const char *value,
                       uint64_t count)
{
    (void)fprintf(page->out, "%s{%s=\"%s\"} %" PRIu64 "\n", name, label, value, count);
}

static void page_seconds(struct page *page, const char *name, const char *label, const char *value,
                         double seconds)
{
    (void)fprintf(page->out, "%s{%s=\"%s\"} %.3f\n", name, label, value, seconds);
}

/* A family's one histogram, or with a label one of several. Prometheus' buckets count everything
 * below their bound. */
static void page_histogram(struct page *page, const char *name, const char *labels,
                           const struct histogram_shape *shape, const struct histogram_total *total)
{
    const char *comma = labels[0] != '\0' ? "," : "";
    const char *open = labels[0] != '\0' ? "{" : "", *close = labels[0] != '\0' ? "}" : "";
    double units = (double)shape->units;
    uint64_t below = 0;

    for (size_t i = 0; i < shape->n; i++) {
        below += total->counts[i];
        (void)fprintf(page->out, "%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", name, labels, comma,
                      (double)shape->bounds[i] / units, below);
    }
    below += total->counts[shape->n];
    (void)fprintf(page->out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, comma,
                  below);
    (void)fprintf(page->out, "%s_sum%s%s%s %.6f\n", name, open, labels, close,
                  (double)total->sum / units);
    (void)fprintf(page->out, "%s_count%s%s%s %" PRIu64 "\n", name, open, labels, close, below);
}

/* --- all workers ------------------------------------------------------------------------------ */

static const void *stats_at(const struct worker_group *group, size_t worker, size_t offset)
{
    return (const char *)&group->stats[worker] + offset;
}

/* The sum over all workers of the counter at `offset` in their stats. */
static uint64_t group_sum(const struct worker_group *group, size_t offset)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < group->n; i++)
        sum += stat_get((const counter *)stats_at(group, i, offset));
    return sum;
}

const char *metrics_unready(const struct worker_group *group)
{
    if (stat_get(&group->daemon.draining) != 0)
        return "The daemon is draining.";
    for (size_t i = 0; i < group->n; i++) {
        if (stat_get(&group->stats[i].store_ready) == 0)
            return "Not every worker is connected to the store.";
    }
    for (size_t i = 0; i < group->n; i++) {
        if (stat_get(&group->stats[i].store_fresh) == 0)
            return "Not every worker has read the event log within store.lease.";
    }
    return NULL;
}

/* --- tables ----------------------------------------------------------------------------------- */

struct plain_metric {
    const char *name;
    size_t offset;
    const char *help;
};

static const struct plain_metric plain_counters[] = {
    {"dgw_accepts_failed_total", offsetof(struct stats, accepts_failed),
     "Times that nobody could be accepted, for want of descriptors or memory."},
    {"dgw_connections_cut_total", offsetof(struct stats, cuts),
     "Live connections that a denial or a rotation ended."},
    {"dgw_received_bytes_total", offsetof(struct stats, bytes_in),
     "Bytes received from clients, without TLS."},
    {"dgw_sent_bytes_total", offsetof(struct stats, bytes_out),
     "Bytes sent to clients, without TLS."},
    {"dgw_store_commands_total", offsetof(struct stats, store.commands),
     "Commands sent to the store."},
    {"dgw_store_failures_total", offsetof(struct stats, store.failures),
     "Operations on the store that got no answer, or an error."},
    {"dgw_store_conflicts_total", offsetof(struct stats, store.conflicts),
     "Commits that found the record changed meanwhile, and were decided again."},
    {"dgw_store_reconnects_total", offsetof(struct stats, store.reconnects),
     "Links to the store that came up again."},
};

static const struct plain_metric plain_gauges[] = {
    {"dgw_rotations_pending", offsetof(struct stats, rotations_pending),
     "Rotations pending in the whole fleet, as every gateway sees it."},
    {"dgw_rotations_stalled", offsetof(struct stats, rotations_stalled),
     "Those of them that have stalled."},
};

/* Counters with a row a reason; rows that never happened are left out. */
static const struct plain_metric reason_counters[] = {
    {"dgw_admissions_total", offsetof(struct stats, admissions),
     "Decisions on connections of devices, by reason."},
    {"dgw_connections_closed_total", offsetof(struct stats, closes),
     "Connections closed, by reason."},
    {"dgw_requests_total", offsetof(struct stats, requests), "Requests, by reason."},
    {"dgw_config_writes_total", offsetof(struct stats, config_writes),
     "Configuration writes, by what the config lock said."},
};

static const struct plain_metric histograms[] = {
    {"dgw_request_duration_seconds", offsetof(struct stats, request_duration),
     "From a request's head to its end, of clients."},
    {"dgw_device_key_age_seconds", offsetof(struct stats, key_age),
     "Age of the device's current key, whenever a device is admitted."},
    {"dgw_device_certificate_remaining_seconds", offsetof(struct stats, certificate_left),
     "Time until the device's certificate expires, whenever a device is admitted."},
    {"dgw_loop_lag_seconds", offsetof(struct stats, loop_lag),
     "How late the workers' periodic timers ran."},
};

static const struct {
    enum reason reason;
    const char *step;
} rotation_steps[] = {
    {REASON_ANNOUNCED, "announced"},   {REASON_ANNOUNCEMENT_REPLACED, "replaced"},
    {REASON_KEY_ACCEPTED, "accepted"}, {REASON_PROMOTED, "finished"},
    {REASON_CANCELLED, "cancelled"},   {REASON_ROTATION_STALLED, "stalled"},
};

static const char *const failure_names[STREAM_FAILURE_COUNT] = {
    [STREAM_FAILURE_CLOSED] = "closed",
    [STREAM_FAILURE_TIMEOUT] = "timeout",
    [STREAM_FAILURE_NO_CERTIFICATE] = "no-certificate",
    [STREAM_FAILURE_CERTIFICATE] = "certificate",
    [STREAM_FAILURE_ALERT] = "alert",
    [STREAM_FAILURE_PROTOCOL] = "protocol",
};

static void page_plain(struct page *page, const char *type, const struct plain_metric *metrics,
                       size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct plain_metric *metric = &metrics[i];
        page_family(page, metric->name, type, metric->help);
        (void)fprintf(page->out, "%s %" PRIu64 "\n", metric->name,
                      group_sum(page->group, metric->offset));
    }
}

static void page_reasons(struct page *page)
{
    for (size_t i = 0; i < ARRAY_SIZE(reason_counters); i++) {
        const struct plain_metric *metric = &reason_counters[i];
        page_family(page, metric->name, "counter", metric->help);
        for (size_t reason = 0; reason < REASON_COUNT; reason++) {
            uint64_t sum = group_sum(page->group, metric->offset + reason * sizeof(counter));
            if (sum > 0)
                page_count(page, metric->name, "reason", reason_wire((enum reason)reason), sum);
        }
    }
}

static void page_group_histogram(struct page *page, const char *name, const char *labels,
                                 size_t offset)
{
    const struct histogram *first = stats_at(page->group, 0, offset);
    struct histogram_total total = {0};

    for (size_t worker = 0; worker < page->group->n; worker++)
        histogram_add_to(&total, stats_at(page->group, worker, offset));
    page_histogram(page, name, labels, first->shape, &total);
}

static void page_histograms(struct page *page)
{
    for (size_t i = 0; i < ARRAY_SIZE(histograms); i++) {
        const struct plain_metric *metric = &histograms[i];
        page_family(page, metric->name, "histogram", metric->help);
        page_group_histogram(page, metric->name, "", metric->offset);
    }
}

/* --- families of their own -------------------------------------------------------------------- */

static void page_handshakes(struct page *page)
{
    const char *name = "dgw_handshakes_total";
    uint64_t failed = 0;

    page_family(page, "dgw_handshake_failures_total", "counter",
                "Failed TLS handshakes, by reason.");
    for (size_t i = STREAM_FAILURE_NONE + 1; i < STREAM_FAILURE_COUNT; i++) {
        uint64_t sum =
            group_sum(page->group, offsetof(struct stats, handshakes_failed) + i * sizeof(counter));
        page_count(page, "dgw_handshake_failures_total", "reason", failure_names[i], sum);
        failed += sum;
    }
    page_family(page, name, "counter", "TLS handshakes, by result.");
    page_count(page, name, "result", "full",
               group_sum(page->group, offsetof(struct stats, handshakes_full)));
    page_count(page, name, "result", "resumed",
               group_sum(page->group, offsetof(struct stats, handshakes_resumed)));
    page_count(page, name, "result", "failed", failed);
    page_family(page, "dgw_handshakes_in_flight", "gauge", "TLS handshakes in flight now.");
    (void)fprintf(page->out, "dgw_handshakes_in_flight %zu\n",
                  budget_handshakes(page->group->budget));
}

static void page_responses(struct page *page)
{
    static const char *const classes[STATUS_CLASSES] = {"none", "1xx", "2xx", "3xx", "4xx", "5xx"};

    page_family(page, "dgw_responses_total", "counter", "Requests, by the class of their status.");
    for (size_t i = 0; i < STATUS_CLASSES; i++) {
        if (i != 1)
            page_count(page, "dgw_responses_total", "class", classes[i],
                       group_sum(page->group,
                                 offsetof(struct stats, responses) + i * sizeof(counter)));
    }
}

static void page_rotations(struct page *page)
{
    page_family(page, "dgw_rotations_total", "counter",
                "Steps of key rotations that this gateway has recorded.");
    for (size_t i = 0; i < ARRAY_SIZE(rotation_steps); i++) {
        size_t offset = offsetof(struct stats, store.transitions) +
                        (size_t)rotation_steps[i].reason * sizeof(counter);
        page_count(page, "dgw_rotations_total", "step", rotation_steps[i].step,
                   group_sum(page->group, offset));
    }
}

static void page_standings(struct page *page)
{
    const char *name = "dgw_rotation_standings_total";

    page_family(page, name, "counter",
                "Decisions on connections under the device's current key, by its state and the "
                "action of its group's rule.");
    for (size_t state = KEY_AGE_FRESH; state <= KEY_AGE_OVERDUE; state++) {
        for (size_t action = KEY_AGE_OBSERVE; action <= KEY_AGE_REFUSE; action++)
            (void)fprintf(page->out, "%s{state=\"%s\",action=\"%s\"} %" PRIu64 "\n", name,
                          key_age_wire((enum key_age_state)state),
                          key_age_action_wire((enum key_age_action)action),
                          group_sum(page->group, offsetof(struct stats, standings[state][action])));
    }
}

static uint64_t listener_sum(const struct worker_group *group, size_t listener, size_t offset)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < group->n; i++) {
        const char *at = (const char *)&group->stats[i].listeners[listener] + offset;
        sum += stat_get((const counter *)(const void *)at);
    }
    return sum;
}

static void page_listeners(struct page *page, const char *name, const char *type, size_t offset,
                           const char *help)
{
    const struct stats *stats = &page->group->stats[0];

    page_family(page, name, type, help);
    for (size_t i = 0; i < stats->n_listeners; i++)
        page_count(page, name, "listener", stats->listeners[i].name,
                   listener_sum(page->group, i, offset));
}

static void page_store_latency(struct page *page)
{
    static const char *const labels[STORE_COMMAND_COUNT] = {
        [STORE_COMMAND_READ] = "command=\"read\"",
        [STORE_COMMAND_COMMIT] = "command=\"commit\"",
        [STORE_COMMAND_OTHER] = "command=\"other\"",
    };

    page_family(page, "dgw_store_latency_seconds", "histogram",
                "From a command to the store's answer: reads of records, commits, others.");
    for (size_t i = 0; i < STORE_COMMAND_COUNT; i++)
        page_group_histogram(page, "dgw_store_latency_seconds", labels[i],
                             offsetof(struct stats, store.latency) + i * sizeof(struct histogram));
}

static void page_workers(struct page *page)
{
    const struct worker_group *group = page->group;
    uint64_t now_ms = (uint64_t)clock_monotonic_ms(), stale_ms = 0;
    char index[24];

    page_family(page, "dgw_worker_stall_seconds", "gauge",
                "Time since the worker's loop last turned; a fifth of a second is usual.");
    for (size_t i = 0; i < group->n; i++) {
        uint64_t ticked_ms = stat_get(&group->stats[i].ticked_ms);
        uint64_t ms = stat_get(&group->stats[i].log_stale_ms);
        (void)snprintf(index, sizeof(index), "%zu", i);
        page_seconds(page, "dgw_worker_stall_seconds", "worker", index,
                     now_ms > ticked_ms ? (double)(now_ms - ticked_ms) / 1000 : 0);
        stale_ms = ms > stale_ms ? ms : stale_ms;
    }
    page_family(page, "dgw_store_log_age_seconds", "gauge",
                "Time since the event log was last read, by the worker that is furthest behind; "
                "+Inf: never.");
    if (stale_ms >= INT64_MAX)
        (void)fprintf(page->out, "dgw_store_log_age_seconds +Inf\n");
    else
        (void)fprintf(page->out, "dgw_store_log_age_seconds %.3f\n", (double)stale_ms / 1000);
}

static void page_certificates(struct page *page)
{
    const struct snapshot *snapshot = page->snapshot;
    const char *name = "dgw_certificate_expiry_timestamp_seconds";

    page_family(page, name, "gauge", "When the listener's certificate expires.");
    for (size_t i = 0; i < snapshot->config->n_listeners; i++) {
        if (snapshot->tls_servers[i] != NULL)
            page_seconds(page, name, "listener", snapshot->config->listeners[i].name,
                         (double)tls_server_expires_ms(snapshot->tls_servers[i]) / 1000);
    }
}

static void page_ca(const char *name, int64_t expires_ms, int64_t crl_expires_ms, void *arg)
{
    (void)crl_expires_ms;
    page_seconds(arg, "dgw_device_ca_expiry_timestamp_seconds", "ca", name,
                 (double)expires_ms / 1000);
}

static void page_crl(const char *name, int64_t expires_ms, int64_t crl_expires_ms, void *arg)
{
    (void)expires_ms;
    if (crl_expires_ms != INT64_MAX)
        page_seconds(arg, "dgw_device_crl_expiry_timestamp_seconds", "ca", name,
                     (double)crl_expires_ms / 1000);
}

/* All listeners for devices trust the same CAs. */
static void page_device_cas(struct page *page)
{
    const struct config *config = page->snapshot->config;
    size_t i = 0;

    while (i < config->n_listeners && config->listeners[i].clients != CONFIG_CLIENTS_DEVICES)
        i++;
    if (i == config->n_listeners)
        return;
    page_family(page, "dgw_device_ca_expiry_timestamp_seconds", "gauge",
                "When the device CA's certificate expires.");
    tls_server_visit_cas(page->snapshot->tls_servers[i], page_ca, page);
    page_family(
        page, "dgw_device_crl_expiry_timestamp_seconds", "gauge",
        "When the device CA's revocation list expires; its devices are refused from then on.");
    tls_server_visit_cas(page->snapshot->tls_servers[i], page_crl, page);
}

static void page_daemon(struct page *page)
{
    const struct daemon_stats *daemon = &page->group->daemon;

    page_family(page, "dgw_build_info", "gauge", "Always 1; the label is what matters.");
    page_count(page, "dgw_build_info", "version", VERSION, 1);
    page_family(page, "dgw_ready", "gauge",
                "1 when every worker may admit devices, as /readyz says it.");
    (void)fprintf(page->out, "dgw_ready %d\n", metrics_unready(page->group) == NULL);
    page_family(page, "dgw_config_reloads_total", "counter", "Reloads of the configuration.");
    page_count(page, "dgw_config_reloads_total", "result", "done", stat_get(&daemon->reloads));
    page_count(page, "dgw_config_reloads_total", "result", "refused",
               stat_get(&daemon->reloads_refused));
    page_family(page, "dgw_config_loaded_timestamp_seconds", "gauge",
                "When the configuration in force was read.");
    (void)fprintf(page->out, "dgw_config_loaded_timestamp_seconds %.3f\n",
                  (double)stat_get(&daemon->loaded_wall_ms) / 1000);
    page_family(page, "dgw_log_lines_lost_total", "counter", "Log lines that stderr did not take.");
    (void)fprintf(page->out, "dgw_log_lines_lost_total %" PRIu64 "\n", log_lost());
}

char *metrics_format(const struct worker_group *group, const struct snapshot *snapshot)
{
    struct page page = {.group = group, .snapshot = snapshot};
    char *text = NULL;
    size_t size;

    page.out = open_memstream(&text, &size);
    if (page.out == NULL)
        abort();
    page_daemon(&page);
    page_handshakes(&page);
    page_listeners(&page, "dgw_connections_accepted_total", "counter",
                   offsetof(struct listener_stats, accepted), "Connections accepted.");
    page_listeners(&page, "dgw_connections_open", "gauge", offsetof(struct listener_stats, open),
                   "Connections open now.");
    page_plain(&page, "counter", plain_counters, ARRAY_SIZE(plain_counters));
    page_plain(&page, "gauge", plain_gauges, ARRAY_SIZE(plain_gauges));
    page_reasons(&page);
    page_responses(&page);
    page_rotations(&page);
    page_standings(&page);
    page_histograms(&page);
    metrics_print_backends(group->upstream_counts, page.out);
    page_store_latency(&page);
    page_workers(&page);
    page_certificates(&page);
    page_device_cas(&page);
    process_metrics_write(page.out, stat_get(&group->daemon.open_files));
    if (fclose(page.out) != 0)
        abort();
    return text;
}
