/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/daemon/snapshot.h"

#include "gateway/base/mem.h"

static bool snapshot_make_clients(struct snapshot *snapshot, char *error, size_t error_size)
{
    const struct config *config = snapshot->config;

    snapshot->tls_clients = mem_array(config->n_backends, sizeof(struct tls_client *));
    for (size_t i = 0; i < config->n_backends; i++) {
        if (!config->backends[i].tls.enabled)
            continue;
        snapshot->tls_clients[i] = tls_client_new(&config->backends[i], error, error_size);
        if (snapshot->tls_clients[i] == NULL)
            return false;
    }
    return true;
}

struct snapshot *snapshot_new(const struct config *config, char *error, size_t error_size)
{
    struct snapshot *snapshot = mem_new(struct snapshot);

    atomic_init(&snapshot->refs, 1);
    snapshot->config = config_ref(config);
    snapshot->routes = route_table_new(config);
    snapshot->tls_servers = mem_array(config->n_listeners, sizeof(*snapshot->tls_servers));
    for (size_t i = 0; i < config->n_listeners; i++) {
        const struct config_listener *listener = &config->listeners[i];
        if (listener->certificate_file == NULL)
            continue;
        snapshot->tls_servers[i] = tls_server_new(config, listener, error, error_size);
        if (snapshot->tls_servers[i] == NULL) {
            snapshot_unref(&snapshot);
            return NULL;
        }
    }
    if (!snapshot_make_clients(snapshot, error, error_size))
        snapshot_unref(&snapshot);
    return snapshot;
}

struct snapshot *snapshot_ref(struct snapshot *snapshot)
{
    atomic_fetch_add_explicit(&snapshot->refs, 1, memory_order_relaxed);
    return snapshot;
}

void snapshot_unref(struct snapshot **snapshot_at)
{
    struct snapshot *snapshot = *snapshot_at;

    *snapshot_at = NULL;
    if (snapshot == NULL ||
        atomic_fetch_sub_explicit(&snapshot->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < snapshot->config->n_listeners; i++)
        tls_server_unref(&snapshot->tls_servers[i]);
    for (size_t i = 0; i < snapshot->config->n_backends && snapshot->tls_clients != NULL; i++)
        tls_client_unref(&snapshot->tls_clients[i]);
    mem_free(snapshot->tls_clients);
    mem_free(snapshot->tls_servers);
    route_table_free(&snapshot->routes);
    config_unref(&snapshot->config);
    mem_free(snapshot);
}

struct tls_server *snapshot_tls_server(const struct snapshot *snapshot, const char *listener_name)
{
    for (size_t i = 0; i < snapshot->config->n_listeners; i++) {
        if (strcmp(snapshot->config->listeners[i].name, listener_name) == 0)
            return snapshot->tls_servers[i];
    }
    return NULL;
}
