/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/upstream/server.h"

#include <assert.h>
#include <netdb.h>
#include <string.h>

#include "gateway/base/encode.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"

/* --- the list --------------------------------------------------------------------------------- */

/* As the configuration spells it: what metrics call all addresses of a name. */
static char *server_spelling(const struct config_address *address)
{
    bool is_ip6 = strchr(address->host, ':') != NULL;

    if (address->type == CONFIG_ADDRESS_UNIX)
        return mem_printf("unix:%s", address->host);
    return mem_printf(is_ip6 ? "[%s]:%u" : "%s:%u", address->host, (unsigned)address->port);
}

static char *server_name_inet(const struct sockaddr *address, socklen_t address_len)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getnameinfo(address, address_len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return mem_strdup("?");
    return mem_printf(address->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static void servers_add(struct servers *servers, const struct servers_params *params,
                        const struct resolved_address *address)
{
    const struct config_backend *backend = params->backend;
    const struct config_address *configured = &backend->servers[address->server];
    CLEANUP(mem_free_at) char *spelling = server_spelling(configured);
    struct server *server = mem_new(struct server);

    server->address = address->address;
    server->address_len = address->len;
    server->name = configured->type == CONFIG_ADDRESS_UNIX
                       ? mem_strdup(spelling)
                       : server_name_inet((const struct sockaddr *)&address->address, address->len);
    server->row = upstream_counts_server(params->counts, params->worker, backend->name, spelling);
    server->tls_name =
        backend->tls.server_name != NULL ? backend->tls.server_name : configured->host;
    server->was_fit = true;
    stat_add(&server->row->addresses, 1);
    stat_add(&server->row->fit, 1);
    server->slot = servers->n;
    servers->all[servers->n++] = server;
}

void servers_init(struct servers *servers, const struct servers_params *params)
{
    const struct resolved *resolved = params->resolved;

    *servers = (struct servers){.backend = params->backend};
    for (size_t i = 0; i < resolved->n; i++)
        servers_add(servers, params, &resolved->all[i]);
    /* Several workers should not all begin with the same server. */
    servers->turn = random_below((uint32_t)servers->n);
}

static void server_count_fit(struct server *server)
{
    bool fit = server->ejected_until_ms == 0 && !server->unhealthy;

    if (fit != server->was_fit)
        stat_add(&server->row->fit, fit ? 1 : (uint64_t)-1);
    server->was_fit = fit;
}

void servers_inherit(struct servers *servers, const struct servers *before)
{
    for (size_t i = 0; i < servers->n; i++) {
        struct server *server = servers->all[i];
        for (size_t k = 0; k < before->n; k++) {
            const struct server *old = before->all[k];
            if (strcmp(server->name, old->name) != 0)
                continue;
            server->unhealthy = old->unhealthy && servers->backend->health.path != NULL;
            server_count_fit(server);
            if (servers->backend->ejection_failures == 0)
                continue;
            server->faults = old->faults;
            server->ejected_ms = old->ejected_ms;
            server->grows_until_ms = old->grows_until_ms;
            server->ejected_until_ms = old->ejected_until_ms;
            server_count_fit(server);
        }
    }
}

static void server_free(struct server *server)
{
    assert(server->in_flight == 0);
    stat_add(&server->row->addresses, (uint64_t)-1);
    if (server->was_fit)
        stat_add(&server->row->fit, (uint64_t)-1);
    tls_session_free(&server->session);
    mem_free(server->name);
    mem_free(server);
}

void servers_deinit(struct servers *servers)
{
    for (size_t i = 0; i < servers->n; i++)
        server_free(servers->all[i]);
    *servers = (struct servers){.n = 0};
}

/* --- the choice ------------------------------------------------------------------------------- */

static bool server_is_fit(const struct server *server, int64_t now_ms)
{
    return !server->unhealthy && (server->ejected_until_ms == 0 ||
                                  (server->ejected_until_ms <= now_ms && !server->on_trial));
}

static bool server_is_full(const struct servers *servers, const struct server *server)
{
    return server->n_conns - server->n_kept >= servers->backend->max_connections_per_server;
}

/* Is `a` to be preferred to `b`? */
static bool server_is_better(const struct servers *servers, const struct server *a,
                             const struct server *b, int64_t now_ms)
{
    bool a_full = server_is_full(servers, a), b_full = server_is_full(servers, b);
    bool a_fit = server_is_fit(a, now_ms), b_fit = server_is_fit(b, now_ms);

    if (a_fit != b_fit)
        return a_fit;
    if (a->unhealthy != b->unhealthy)
        return b->unhealthy;
    if (!a_fit && a->ejected_until_ms != b->ejected_until_ms)
        return a->ejected_until_ms < b->ejected_until_ms;
    if (a_full != b_full)
        return b_full;
    return a->in_flight < b->in_flight;
}

struct server *servers_choose(struct servers *servers, uint64_t tried, int64_t now_ms)
{
    struct server *best = NULL;

    for (size_t i = 0; i < servers->n; i++) {
        struct server *server = servers->all[(servers->turn + i) % servers->n];
        if (tried & UINT64_C(1) << server->slot)
            continue;
        if (best == NULL || server_is_better(servers, server, best, now_ms))
            best = server;
    }
    if (best != NULL)
        servers->turn = (best->slot + 1) % servers->n;
    return best;
}

bool server_enter(struct server *server, int64_t now_ms)
{
    server->in_flight++;
    stat_add(&server->row->in_flight, 1);
    if (server->ejected_until_ms == 0)
        return false;
    server->on_trial = server->on_trial || server->ejected_until_ms <= now_ms;
    return true;
}

void server_leave(struct server *server, bool trial)
{
    assert(server->in_flight > 0);
    server->in_flight--;
    stat_add(&server->row->in_flight, (uint64_t)-1);
    if (trial)
        server->on_trial = false;
}

/* --- verdicts --------------------------------------------------------------------------------- */

void server_answered(struct servers *servers, struct server *server, bool trial)
{
    stat_add(&server->row->answered, 1);
    if (!trial || server->ejected_until_ms == 0)
        return;
    log_write(LOG_NOTICE, "a server of the backend is fit again",
              LOG_STR("backend", servers->backend->name), LOG_STR("server", server->name));
    server->ejected_until_ms = 0;
    server->on_trial = false;
    server->faults = servers->backend->ejection_failures - 1;
    server_count_fit(server);
}

void server_completed(struct server *server)
{
    server->faults = 0;
}

void server_set_health(struct servers *servers, struct server *server, bool healthy,
                       const char *detail)
{
    if (healthy == !server->unhealthy)
        return;
    server->unhealthy = !healthy;
    server_count_fit(server);
    log_write(healthy ? LOG_NOTICE : LOG_WARNING,
              healthy ? "a server of the backend is healthy again"
                      : "a server of the backend is unhealthy",
              LOG_STR("backend", servers->backend->name), LOG_STR("server", server->name),
              LOG_STR("detail", detail));
}

/* Twice as long as the last one when it follows that soon. */
static void server_eject(struct servers *servers, struct server *server, const char *detail,
                         int64_t now_ms)
{
    const struct config_backend *backend = servers->backend;
    int64_t ms =
        now_ms < server->grows_until_ms ? server->ejected_ms * 2 : backend->ejection_base_ms;

    if (ms > backend->ejection_max_ms)
        ms = backend->ejection_max_ms;
    server->ejected_ms = ms;
    ms -= random_below((uint32_t)(ms / 4 + 1));
    server->ejected_until_ms = now_ms + ms;
    server->grows_until_ms = server->ejected_until_ms + backend->ejection_max_ms;
    stat_add(&server->row->ejections, 1);
    server_count_fit(server);
    log_write(LOG_WARNING, "a server of the backend is left alone for a while",
              LOG_STR("backend", backend->name), LOG_STR("server", server->name),
              LOG_INT("for_ms", ms), LOG_INT("failures", server->faults),
              LOG_STR("detail", detail));
}

void server_failed(struct servers *servers, struct server *server, enum server_fault fault,
                   const char *detail, int64_t now_ms)
{
    const struct config_backend *backend = servers->backend;

    stat_add(&server->row->failed[fault], 1);
    /* While it is left alone it is asked only because all others are no better. */
    if (backend->ejection_failures == 0 || (int)fault > (int)backend->ejection_on ||
        now_ms < server->ejected_until_ms)
        return;
    server->faults++;
    if (server->ejected_until_ms != 0 || server->faults >= backend->ejection_failures)
        server_eject(servers, server, detail, now_ms);
}
