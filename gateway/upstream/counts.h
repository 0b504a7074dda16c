/* SPDX-License-Identifier: BSD-2-Clause */
/* What is counted of backends and their servers, for the metrics.
 *
 * One book for the whole process, with a page for each backend and for each of its servers as the
 * configuration spells it, and on each page a row for each worker, which only that worker writes.
 * Pages outlive reloads, so that counters go on; their number is bounded by what configurations
 * name. Finding a page takes a lock: it is done when pools are made, never on a request's way. */
#pragma once

#include <stddef.h>

#include "gateway/base/histogram.h"
#include "gateway/base/macros.h"
#include "gateway/base/stat.h"

struct upstream_counts;

/* Of one backend, by one worker. */
struct backend_row {
    counter pools;             /* gauge: pools that use the row; 0: not configured any more */
    counter connections;       /* gauge: in use and kept */
    counter waiting;           /* gauge: exchanges that wait for a connection */
    counter resent;            /* requests that were sent once more */
    struct histogram connect;  /* microseconds, TLS included; of new connections */
    struct histogram response; /* from the exchange's start to its final head */
};

/* Of one server, by one worker. */
struct server_row {
    counter addresses; /* gauge: how many addresses its name has; 0: not configured any more */
    counter fit;       /* gauge: how many of them are neither ejected nor found unhealthy */
    counter in_flight; /* gauge */
    counter answered;  /* attempts that brought a final head */
    counter failed[3]; /* attempts that failed, by enum server_fault */
    counter ejections;
};

struct upstream_counts *upstream_counts_new(size_t n_workers) MUST_CHECK;
/* When no pool is left. */
void upstream_counts_free(struct upstream_counts **counts);

/* The row of `worker`; made when there is none. Thread-safe; lives as long as `counts`. */
struct backend_row *upstream_counts_backend(struct upstream_counts *counts, size_t worker,
                                            const char *backend);
struct server_row *upstream_counts_server(struct upstream_counts *counts, size_t worker,
                                          const char *backend, const char *server);

/* A page for reading: `rows` has one row a worker. */
struct backend_page {
    struct backend_page *next;
    char *backend;            /* owned */
    struct backend_row *rows; /* owned */
};
struct server_page {
    struct server_page *next;
    char *backend;           /* owned */
    char *server;            /* owned */
    struct server_row *rows; /* owned */
};
/* The first page of each kind, the oldest in front. Between these two calls nothing is added. */
void upstream_counts_lock(struct upstream_counts *counts);
void upstream_counts_unlock(struct upstream_counts *counts);
const struct backend_page *upstream_counts_backends(const struct upstream_counts *counts);
const struct server_page *upstream_counts_servers(const struct upstream_counts *counts);
size_t upstream_counts_workers(const struct upstream_counts *counts);
