/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/daemon/snapshot.h"

#include "gateway/base/log.h"
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
    snapshot->resolved = mem_array(config->n_backends, sizeof(struct resolved *));
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

bool snapshot_resolve(struct snapshot *snapshot, const struct snapshot *before, char *error,
                      size_t error_size)
{
    const struct config *config = snapshot->config;
    const struct resolved_before known = {
        .all = before != NULL ? before->resolved : NULL,
        .n = before != NULL ? before->config->n_backends : 0,
    };

    for (size_t i = 0; i < config->n_backends; i++) {
        snapshot->resolved[i] =
            resolved_new(&config->backends[i], &known, RESOLVED_TRUST, error, error_size);
        if (snapshot->resolved[i] == NULL)
            return false;
    }
    return true;
}

/* Everything but the addresses is shared with the original. */
static struct snapshot *snapshot_copy(const struct snapshot *original)
{
    struct snapshot *copy = mem_new(struct snapshot);
    const struct config *config = original->config;

    atomic_init(&copy->refs, 1);
    copy->config = config_ref(config);
    copy->routes = route_table_new(config);
    copy->tls_servers = mem_array(config->n_listeners, sizeof(*copy->tls_servers));
    copy->tls_clients = mem_array(config->n_backends, sizeof(*copy->tls_clients));
    copy->resolved = mem_array(config->n_backends, sizeof(*copy->resolved));
    for (size_t i = 0; i < config->n_listeners; i++) {
        if (original->tls_servers[i] != NULL)
            copy->tls_servers[i] = tls_server_ref(original->tls_servers[i]);
    }
    for (size_t i = 0; i < config->n_backends; i++) {
        if (original->tls_clients[i] != NULL)
            copy->tls_clients[i] = tls_client_ref(original->tls_clients[i]);
    }
    return copy;
}

struct snapshot *snapshot_renew(struct snapshot *snapshot)
{
    const struct config *config = snapshot->config;
    struct snapshot *copy = snapshot_copy(snapshot);
    bool changed = false;
    char error[256];

    for (size_t i = 0; i < config->n_backends; i++) {
        struct resolved *old = snapshot->resolved[i];
        const struct resolved_before known = {.all = &old, .n = 1};
        if (old->has_names)
            copy->resolved[i] =
                resolved_new(&config->backends[i], &known, RESOLVED_ASK, error, sizeof(error));
        if (copy->resolved[i] != NULL && !resolved_equal(copy->resolved[i], old)) {
            changed = true;
            log_write(LOG_NOTICE, "the addresses of a backend have changed",
                      LOG_STR("backend", config->backends[i].name),
                      LOG_INT("addresses", copy->resolved[i]->n));
        }
        if (copy->resolved[i] == NULL)
            copy->resolved[i] = resolved_ref(old);
    }
    if (!changed)
        snapshot_unref(&copy);
    return copy;
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
    for (size_t i = 0; i < snapshot->config->n_backends; i++)
        resolved_unref(&snapshot->resolved[i]);
    mem_free(snapshot->resolved);
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
