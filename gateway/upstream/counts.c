/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/upstream/counts.h"

#include <pthread.h>
#include <string.h>

#include "gateway/base/mem.h"

struct upstream_counts {
    pthread_mutex_t lock; /* guards the two lists, not the rows */
    size_t n_workers;
    struct backend_page *backends; /* owned */
    struct server_page *servers;   /* owned */
};

struct upstream_counts *upstream_counts_new(size_t n_workers)
{
    struct upstream_counts *counts = mem_new(struct upstream_counts);

    (void)pthread_mutex_init(&counts->lock, NULL);
    counts->n_workers = n_workers;
    return counts;
}

void upstream_counts_free(struct upstream_counts **counts_at)
{
    struct upstream_counts *counts = *counts_at;

    *counts_at = NULL;
    if (counts == NULL)
        return;
    for (struct backend_page *page = counts->backends, *next; page != NULL; page = next) {
        next = page->next;
        mem_free(page->backend);
        mem_free(page->rows);
        mem_free(page);
    }
    for (struct server_page *page = counts->servers, *next; page != NULL; page = next) {
        next = page->next;
        mem_free(page->backend);
        mem_free(page->server);
        mem_free(page->rows);
        mem_free(page);
    }
    (void)pthread_mutex_destroy(&counts->lock);
    mem_free(counts);
}

void upstream_counts_lock(struct upstream_counts *counts)
{
    (void)pthread_mutex_lock(&counts->lock);
}

void upstream_counts_unlock(struct upstream_counts *counts)
{
    (void)pthread_mutex_unlock(&counts->lock);
}

static struct backend_page *backend_page_new(const struct upstream_counts *counts,
                                             const char *backend)
{
    struct backend_page *page = mem_new(struct backend_page);

    page->backend = mem_strdup(backend);
    page->rows = mem_array(counts->n_workers, sizeof(*page->rows));
    for (size_t i = 0; i < counts->n_workers; i++) {
        histogram_init(&page->rows[i].connect, &histogram_latency);
        histogram_init(&page->rows[i].response, &histogram_latency);
    }
    return page;
}

struct backend_row *upstream_counts_backend(struct upstream_counts *counts, size_t worker,
                                            const char *backend)
{
    upstream_counts_lock(counts);
    struct backend_page **at = &counts->backends;
    while (*at != NULL && strcmp((*at)->backend, backend) != 0)
        at = &(*at)->next;
    if (*at == NULL)
        *at = backend_page_new(counts, backend);
    struct backend_row *row = &(*at)->rows[worker];
    upstream_counts_unlock(counts);
    return row;
}

struct server_row *upstream_counts_server(struct upstream_counts *counts, size_t worker,
                                          const char *backend, const char *server)
{
    upstream_counts_lock(counts);
    struct server_page **at = &counts->servers;
    while (*at != NULL &&
           (strcmp((*at)->backend, backend) != 0 || strcmp((*at)->server, server) != 0))
        at = &(*at)->next;
    if (*at == NULL) {
        *at = mem_new(struct server_page);
        (*at)->backend = mem_strdup(backend);
        (*at)->server = mem_strdup(server);
        (*at)->rows = mem_array(counts->n_workers, sizeof(*(*at)->rows));
    }
    struct server_row *row = &(*at)->rows[worker];
    upstream_counts_unlock(counts);
    return row;
}

const struct backend_page *upstream_counts_backends(const struct upstream_counts *counts)
{
    return counts->backends;
}

const struct server_page *upstream_counts_servers(const struct upstream_counts *counts)
{
    return counts->servers;
}

size_t upstream_counts_workers(const struct upstream_counts *counts)
{
    return counts->n_workers;
}
