/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/upstream/health.h"

#include <stdio.h>

#include "gateway/base/encode.h"
#include "gateway/base/mem.h"
#include "gateway/config/value.h"
#include "gateway/upstream/private.h"

enum { FIRST_PROBE_MS = 1000, HEAD_SIZE = 2048 };

/* One server's. Between two probes `upstream` is NULL, and the timer waits for the next; during
 * one, it is the timeout. */
struct probe {
    struct health *health; /* borrowed: its owner */
    struct server *server; /* borrowed from the pool */
    struct upstream *upstream;
    struct event timer;
    size_t contrary; /* results in a row that contradict what is held true */
};

struct health {
    struct upstream_pool *pool;
    struct value_statuses good;
    struct probe probes[SERVERS_MAX]; /* by slot */
};

static const struct config_backend *health_settings(const struct health *health)
{
    return health->pool->params.backend;
}

static void probe_arm(struct probe *probe, int64_t ms)
{
    const struct timeval in = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

    event_add(&probe->timer, &in);
}

static void probe_result(struct probe *probe, bool good, const char *detail)
{
    const struct config_backend *backend = health_settings(probe->health);
    struct server *server = probe->server;
    size_t enough = good ? backend->health.healthy_after : backend->health.unhealthy_after;
    int64_t every_ms = backend->health.every_ms;

    upstream_abort(&probe->upstream);
    probe->contrary = good == !server->unhealthy ? 0 : probe->contrary + 1;
    if (probe->contrary >= enough) {
        probe->contrary = 0;
        server_set_health(&probe->health->pool->servers, server, good, detail);
    }
    probe_arm(probe, every_ms - every_ms / 10 + random_below((uint32_t)(every_ms / 5 + 1)));
}

static void on_probe_head(const struct http_head *head, void *arg)
{
    struct probe *probe = arg;
    const struct value_statuses *statuses = &probe->health->good;
    char detail[64];

    if (head->status < 200)
        return;
    (void)snprintf(detail, sizeof(detail), "it answered with status %d", head->status);
    probe_result(probe, head->status >= statuses->from && head->status <= statuses->to, detail);
}

static void on_probe_failed(const struct upstream_failure *failure, void *arg)
{
    struct probe *probe = arg;

    probe->upstream = NULL;
    probe_result(probe, false, failure->text);
}

static void on_probe_nothing(void *arg)
{
}

static void probe_send(struct probe *probe)
{
    static const struct upstream_handlers handlers = {.on_writable = on_probe_nothing,
                                                      .on_head = on_probe_head,
                                                      .on_readable = on_probe_nothing,
                                                      .on_failed = on_probe_failed};
    const struct config_backend *backend = health_settings(probe->health);
    bool is_unix = probe->server->address.ss_family == AF_UNIX;
    char head[HEAD_SIZE];

    int len = snprintf(head, sizeof(head),
                       "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: device-gateway (health)\r\n"
                       "Connection: close\r\n\r\n",
                       backend->health.path,
                       backend->host != NULL ? backend->host
                       : is_unix             ? "localhost"
                                             : probe->server->name);
    if (len < 0 || (size_t)len >= sizeof(head)) {
        probe_result(probe, false, "health.path is too long");
        return;
    }
    const struct upstream_request request = {.head = {head, (size_t)len}};
    probe->upstream =
        upstream_start_pinned(probe->health->pool, probe->server, &request, &handlers, probe);
    probe_arm(probe, backend->health.timeout_ms);
}

static void on_probe_timer(evutil_socket_t fd, short what, void *arg)
{
    struct probe *probe = arg;

    if (probe->upstream != NULL)
        probe_result(probe, false, "it did not answer within health.timeout");
    else
        probe_send(probe);
}

struct health *health_start(struct upstream_pool *pool)
{
    const struct config_backend *backend = pool->params.backend;

    if (backend->health.path == NULL)
        return NULL;
    struct health *health = mem_new(struct health);
    health->pool = pool;
    if (!value_parse_statuses(str_c(backend->health.status), &health->good))
        health->good = (struct value_statuses){200, 299}; /* not from a configuration */
    for (size_t i = 0; i < pool->servers.n; i++) {
        struct probe *probe = &health->probes[i];
        int64_t within_ms =
            backend->health.every_ms < FIRST_PROBE_MS ? backend->health.every_ms : FIRST_PROBE_MS;
        probe->health = health;
        probe->server = pool->servers.all[i];
        event_assign(&probe->timer, pool->params.base, -1, 0, on_probe_timer, probe);
        probe_arm(probe, random_below((uint32_t)within_ms));
    }
    return health;
}

void health_stop(struct health **health_at)
{
    struct health *health = *health_at;

    *health_at = NULL;
    if (health == NULL)
        return;
    for (size_t i = 0; i < health->pool->servers.n; i++) {
        upstream_abort(&health->probes[i].upstream);
        event_del(&health->probes[i].timer);
    }
    mem_free(health);
}
