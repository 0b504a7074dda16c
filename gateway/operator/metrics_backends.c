/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/operator/metrics.h"

#include <inttypes.h>

#include "gateway/upstream/server.h"

/* Names come from the configuration, where value_check_name() and the address syntax leave nothing
 * to escape but what a socket's path may hold. */
static void print_label(FILE *out, const char *name, const char *value)
{
    (void)fprintf(out, "%s=\"", name);
    for (; *value != '\0'; value++) {
        if (*value == '"' || *value == '\\')
            (void)fputc('\\', out);
        (void)fputc(*value, out);
    }
    (void)fputc('"', out);
}

static void print_head(FILE *out, const char *name, const char *type, const char *help)
{
    (void)fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* --- servers ---------------------------------------------------------------------------------- */

static uint64_t server_sum(const struct upstream_counts *counts, const struct server_page *page,
                           size_t offset)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < upstream_counts_workers(counts); i++)
        sum += stat_get((const counter *)(const void *)((const char *)&page->rows[i] + offset));
    return sum;
}

#define SERVER_SUM(counts, page, member)                                                           \
    server_sum(counts, page, offsetof(struct server_row, member))

static void print_server(FILE *out, const char *metric, const struct server_page *page,
                         const char *result)
{
    (void)fprintf(out, "%s{", metric);
    print_label(out, "backend", page->backend);
    (void)fputc(',', out);
    print_label(out, "server", page->server);
    if (result != NULL)
        (void)fprintf(out, ",result=\"%s\"", result);
    (void)fputs("} ", out);
}

static void print_attempts(const struct upstream_counts *counts, FILE *out)
{
    static const struct {
        const char *result;
        size_t offset;
    } results[] = {
        {"answered", offsetof(struct server_row, answered)},
        {"connect", offsetof(struct server_row, failed[SERVER_FAULT_CONNECT])},
        {"timeout", offsetof(struct server_row, failed[SERVER_FAULT_TIMEOUT])},
        {"broken", offsetof(struct server_row, failed[SERVER_FAULT_BROKEN])},
    };
    static const char metric[] = "dgw_backend_attempts_total";

    print_head(out, metric, "counter", "What became of requests that were given to a server.");
    for (const struct server_page *page = upstream_counts_servers(counts); page != NULL;
         page = page->next) {
        for (size_t i = 0; i < ARRAY_SIZE(results); i++) {
            print_server(out, metric, page, results[i].result);
            (void)fprintf(out, "%" PRIu64 "\n", server_sum(counts, page, results[i].offset));
        }
    }
}

static void print_servers(const struct upstream_counts *counts, FILE *out)
{
    static const struct {
        const char *metric, *type, *help;
        size_t offset;
    } metrics[] = {
        {"dgw_backend_in_flight", "gauge", "Exchanges with a server.",
         offsetof(struct server_row, in_flight)},
        {"dgw_backend_ejections_total", "counter", "How often a server was left alone for a while.",
         offsetof(struct server_row, ejections)},
    };

    for (size_t i = 0; i < ARRAY_SIZE(metrics); i++) {
        print_head(out, metrics[i].metric, metrics[i].type, metrics[i].help);
        for (const struct server_page *page = upstream_counts_servers(counts); page != NULL;
             page = page->next) {
            print_server(out, metrics[i].metric, page, NULL);
            (void)fprintf(out, "%" PRIu64 "\n", server_sum(counts, page, metrics[i].offset));
        }
    }
}

static void print_fitness(const struct upstream_counts *counts, FILE *out)
{
    static const char metric[] = "dgw_backend_server_fit";

    print_head(out, metric, "gauge",
               "Share of a server's addresses, over all workers, that requests go to.");
    for (const struct server_page *page = upstream_counts_servers(counts); page != NULL;
         page = page->next) {
        uint64_t addresses = SERVER_SUM(counts, page, addresses);
        if (addresses == 0)
            continue;
        print_server(out, metric, page, NULL);
        (void)fprintf(out, "%g\n", (double)SERVER_SUM(counts, page, fit) / (double)addresses);
    }
}

/* --- backends --------------------------------------------------------------------------------- */

static uint64_t backend_sum(const struct upstream_counts *counts, const struct backend_page *page,
                            size_t offset)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < upstream_counts_workers(counts); i++)
        sum += stat_get((const counter *)(const void *)((const char *)&page->rows[i] + offset));
    return sum;
}

static void print_histogram(const struct upstream_counts *counts, const struct backend_page *page,
                            size_t offset, const char *metric, FILE *out)
{
    const struct histogram_shape *shape = &histogram_latency;
    struct histogram_total total = {0};
    uint64_t n = 0;

    for (size_t i = 0; i < upstream_counts_workers(counts); i++)
        histogram_add_to(&total,
                         (const struct histogram *)(const void *)((const char *)&page->rows[i] +
                                                                  offset));
    for (size_t i = 0; i <= shape->n; i++) {
        n += total.counts[i];
        (void)fprintf(out, "%s_bucket{", metric);
        print_label(out, "backend", page->backend);
        if (i < shape->n)
            (void)fprintf(out, ",le=\"%g\"} ", (double)shape->bounds[i] / (double)shape->units);
        else
            (void)fputs(",le=\"+Inf\"} ", out);
        (void)fprintf(out, "%" PRIu64 "\n", n);
    }
    (void)fprintf(out, "%s_sum{", metric);
    print_label(out, "backend", page->backend);
    (void)fprintf(out, "} %g\n%s_count{", (double)total.sum / (double)shape->units, metric);
    print_label(out, "backend", page->backend);
    (void)fprintf(out, "} %" PRIu64 "\n", n);
}

static void print_latencies(const struct upstream_counts *counts, FILE *out)
{
    static const struct {
        const char *metric, *help;
        size_t offset;
    } metrics[] = {
        {"dgw_backend_connect_seconds", "How long new connections to a backend took to make.",
         offsetof(struct backend_row, connect)},
        {"dgw_backend_response_seconds",
         "From a request's way to a backend to the head of its answer.",
         offsetof(struct backend_row, response)},
    };

    for (size_t i = 0; i < ARRAY_SIZE(metrics); i++) {
        print_head(out, metrics[i].metric, "histogram", metrics[i].help);
        for (const struct backend_page *page = upstream_counts_backends(counts); page != NULL;
             page = page->next)
            print_histogram(counts, page, metrics[i].offset, metrics[i].metric, out);
    }
}

static void print_backends(const struct upstream_counts *counts, FILE *out)
{
    static const struct {
        const char *metric, *type, *help;
        size_t offset;
    } metrics[] = {
        {"dgw_backend_connections", "gauge", "Connections to a backend, in use and kept.",
         offsetof(struct backend_row, connections)},
        {"dgw_backend_waiting", "gauge", "Requests that wait for a connection.",
         offsetof(struct backend_row, waiting)},
        {"dgw_backend_retries_total", "counter", "Requests that were sent once more.",
         offsetof(struct backend_row, resent)},
    };

    for (size_t i = 0; i < ARRAY_SIZE(metrics); i++) {
        print_head(out, metrics[i].metric, metrics[i].type, metrics[i].help);
        for (const struct backend_page *page = upstream_counts_backends(counts); page != NULL;
             page = page->next) {
            (void)fprintf(out, "%s{", metrics[i].metric);
            print_label(out, "backend", page->backend);
            (void)fprintf(out, "} %" PRIu64 "\n", backend_sum(counts, page, metrics[i].offset));
        }
    }
}

void metrics_print_backends(struct upstream_counts *counts, FILE *out)
{
    upstream_counts_lock(counts);
    print_backends(counts, out);
    print_latencies(counts, out);
    print_fitness(counts, out);
    print_servers(counts, out);
    print_attempts(counts, out);
    upstream_counts_unlock(counts);
}
