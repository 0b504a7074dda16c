/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/upstream/resolved.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "gateway/base/log.h"
#include "gateway/base/mem.h"

struct resolving {
    const struct config_backend *backend;
    const struct resolved_before *before;
    enum resolved_how how;
    struct resolved *made;
    char *error;
    size_t error_size;
};

static void resolving_warn(const struct resolving *job, size_t server, const char *error)
{
    log_write(LOG_WARNING, "a server of the backend has no new address",
              LOG_STR("backend", job->backend->name),
              LOG_STR("server", job->backend->servers[server].host), LOG_STR("error", error));
}

static void resolving_add(struct resolving *job, size_t server, const struct sockaddr *address,
                          socklen_t len)
{
    struct resolved *made = job->made;

    if (made->n == SERVERS_MAX) {
        resolving_warn(job, server, "the backend has too many servers");
        return;
    }
    struct resolved_address *at = &made->all[made->n++];
    memcpy(&at->address, address, len);
    at->len = len;
    at->server = server;
}

static bool is_same_name(const struct config_address *a, const struct config_address *b)
{
    return a->type == b->type && a->port == b->port && strcmp(a->host, b->host) == 0;
}

/* What an earlier answer knows; false when it knows nothing. */
static bool resolving_recall(struct resolving *job, size_t server)
{
    size_t n_before = job->made->n;

    for (size_t i = 0; i < job->before->n && job->made->n == n_before; i++) {
        const struct resolved *old = job->before->all[i];
        for (size_t k = 0; k < old->n; k++) {
            if (is_same_name(&old->names[old->all[k].server], &job->backend->servers[server]))
                resolving_add(job, server, (const struct sockaddr *)&old->all[k].address,
                              old->all[k].len);
        }
    }
    return job->made->n > n_before;
}

static int compare_addresses(const void *a, const void *b)
{
    const struct resolved_address *one = a, *other = b;

    if (one->len != other->len)
        return one->len < other->len ? -1 : 1;
    return memcmp(&one->address, &other->address, one->len);
}

static void resolving_take(struct resolving *job, size_t server, const struct addrinfo *found)
{
    size_t first = job->made->n;

    for (; found != NULL; found = found->ai_next)
        resolving_add(job, server, found->ai_addr, found->ai_addrlen);
    /* Name servers like to shuffle them. */
    qsort(job->made->all + first, job->made->n - first, sizeof(job->made->all[0]),
          compare_addresses);
}

static int ask(const struct config_address *address, int flags, struct addrinfo **out_found)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    char port[8];

    (void)snprintf(port, sizeof(port), "%u", (unsigned)address->port);
    return getaddrinfo(address->host, port, &hints, out_found);
}

static bool resolving_ask(struct resolving *job, size_t server)
{
    const struct config_address *address = &job->backend->servers[server];
    struct addrinfo *found = NULL;
    int error = ask(address, 0, &found);

    if (error == 0) {
        resolving_take(job, server, found);
        freeaddrinfo(found);
        return true;
    }
    if (resolving_recall(job, server) || error == EAI_AGAIN || error == EAI_SYSTEM) {
        resolving_warn(job, server, gai_strerror(error));
        return true;
    }
    (void)snprintf(job->error, job->error_size, "backend \"%s\": \"%s\" cannot be resolved: %s",
                   job->backend->name, address->host, gai_strerror(error));
    return false;
}

static bool resolving_add_unix(struct resolving *job, size_t server)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};

    if (!str_copy(un.sun_path, sizeof(un.sun_path), str_c(job->backend->servers[server].host)))
        resolving_warn(job, server, "the path is too long for a Unix socket");
    else
        resolving_add(job, server, (const struct sockaddr *)&un, sizeof(un));
    return true;
}

static bool resolving_server(struct resolving *job, size_t server)
{
    const struct config_address *address = &job->backend->servers[server];
    struct addrinfo *found = NULL;

    if (address->type == CONFIG_ADDRESS_UNIX)
        return resolving_add_unix(job, server);
    if (ask(address, AI_NUMERICHOST, &found) == 0) {
        resolving_take(job, server, found);
        freeaddrinfo(found);
        return true;
    }
    job->made->has_names = true;
    if (job->how == RESOLVED_TRUST && resolving_recall(job, server))
        return true;
    return resolving_ask(job, server);
}

struct resolved *resolved_new(const struct config_backend *backend,
                              const struct resolved_before *before, enum resolved_how how,
                              char *error, size_t error_size)
{
    struct resolved *made = mem_new(struct resolved);
    struct resolving job = {.backend = backend,
                            .before = before,
                            .how = how,
                            .made = made,
                            .error = error,
                            .error_size = error_size};

    made->refs = 1;
    made->n_names = backend->n_servers;
    made->names = mem_array(made->n_names, sizeof(*made->names));
    for (size_t i = 0; i < made->n_names; i++) {
        made->names[i] = backend->servers[i];
        made->names[i].host = mem_strdup(backend->servers[i].host);
    }
    for (size_t i = 0; i < backend->n_servers; i++) {
        if (resolving_server(&job, i))
            continue;
        resolved_unref(&made);
        return NULL;
    }
    return made;
}

struct resolved *resolved_ref(struct resolved *resolved)
{
    __atomic_fetch_add(&resolved->refs, 1, __ATOMIC_RELAXED);
    return resolved;
}

void resolved_unref(struct resolved **resolved_at)
{
    struct resolved *resolved = *resolved_at;

    *resolved_at = NULL;
    if (resolved == NULL || __atomic_fetch_sub(&resolved->refs, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    for (size_t i = 0; i < resolved->n_names; i++)
        mem_free((void *)(uintptr_t)resolved->names[i].host);
    mem_free(resolved->names);
    mem_free(resolved);
}

bool resolved_equal(const struct resolved *a, const struct resolved *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        if (a->all[i].server != b->all[i].server || compare_addresses(&a->all[i], &b->all[i]) != 0)
            return false;
    }
    return true;
}
