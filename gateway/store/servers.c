/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/servers.h"

#include <stdio.h>

#include "gateway/base/clock.h"
#include "gateway/base/list.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/store/guide.h"
#include "gateway/store/refusal.h"
#include "gateway/store/topology.h"

enum {
    SERVERS_MAX = 1024,       /* more than there can be partitions serves nobody */
    SERVERS_GUEST_MS = 60000, /* without a partition, a server is forgotten after so long */
};

struct server {
    struct list link;        /* in `list` */
    struct servers *servers; /* borrowed: our owner */
    struct store_address address;
    struct link *commands; /* owned */
    struct link *commits;  /* owned; only with wait_replicas */
    uint64_t up_asked;     /* questions that were asked before the last of its links came up */
    bool has_partition;
    uint32_t n_gained; /* partitions, and not told yet */
    int64_t asked_ms;  /* when servers_link_at() last wanted it */
};

struct servers {
    const struct config *config; /* borrowed from the store's owner */
    struct event_base *base;     /* borrowed likewise */
    servers_change_fn *changed;
    void *arg;
    struct topology *topology; /* owned */
    struct list list;
    size_t n;
    uint32_t n_partitions;
    struct server **route; /* owned array: each partition's server, or NULL */
    bool is_sentinel;
    bool knows_layout; /* a server has confirmed the number of partitions */
    uint64_t gone_reconnects;
    bool is_closed;
};

/* One server. */

static void on_up(void *arg)
{
    struct server *server = arg;

    server->up_asked = topology_asked(server->servers->topology);
    server->servers->knows_layout |= link_knows_layout(server->commands);
    if (server->servers->is_sentinel)
        topology_verify(server->servers->topology);
}

static void on_lost(void *arg)
{
    struct server *server = arg;

    if (server->has_partition)
        topology_doubt(server->servers->topology);
}

static struct link *server_link(struct server *server, const char *purpose)
{
    const struct link_params params = {
        .base = server->servers->base,
        .config = server->servers->config,
        .address = &server->address,
        .greeting = greeting_kind_of_servers(server->servers->config),
        .purpose = purpose,
        .handlers = {.on_up = on_up, .on_down = on_lost, .on_failed = on_lost, .arg = server},
    };
    return link_new(&params);
}

static struct server *server_new(struct servers *servers, const struct store_address *address)
{
    struct server *server = mem_new(struct server);

    server->servers = servers;
    server->address = *address;
    server->asked_ms = clock_monotonic_ms();
    list_push_back(&servers->list, &server->link);
    servers->n++;
    server->commands = server_link(server, "commands");
    if (servers->config->store.wait_replicas > 0)
        server->commits = server_link(server, "commits");
    return server;
}

static uint64_t server_reconnects(const struct server *server)
{
    return link_reconnects(server->commands) +
           (server->commits != NULL ? link_reconnects(server->commits) : 0);
}

static void server_close(struct server *server)
{
    if (server->commits != NULL)
        link_close(server->commits);
    link_close(server->commands);
}

static void server_free(struct server *server)
{
    server_close(server);
    server->servers->gone_reconnects += server_reconnects(server);
    link_free(&server->commits);
    link_free(&server->commands);
    list_remove(&server->link);
    server->servers->n--;
    mem_free(server);
}

static void server_reset(const struct server *server, const char *reason)
{
    link_reset(server->commands, reason);
    if (server->commits != NULL)
        link_reset(server->commits, reason);
}

static bool server_is_up(const struct server *server)
{
    return link_is_up(server->commands) && (server->commits == NULL || link_is_up(server->commits));
}

static struct link *server_of_use(const struct server *server, enum servers_use use)
{
    return use == SERVERS_COMMITS && server->commits != NULL ? server->commits : server->commands;
}

/* All of them. */

static struct server *servers_find(const struct servers *servers,
                                   const struct store_address *address)
{
    for (struct list *link = servers->list.next; link != &servers->list; link = link->next) {
        struct server *server = list_entry(link, struct server, link);
        if (store_address_equal(&server->address, address))
            return server;
    }
    return NULL;
}

/* One line a server. */
static void servers_log_changes(struct servers *servers)
{
    char text[STORE_ADDRESS_TEXT_SIZE];

    for (struct list *link = servers->list.next; link != &servers->list; link = link->next) {
        struct server *server = list_entry(link, struct server, link);
        if (server->n_gained == 0)
            continue;
        store_address_format(&server->address, text);
        log_write(LOG_NOTICE, "Redis is here now", LOG_STR("server", text),
                  LOG_INT("partitions", server->n_gained));
        server->n_gained = 0;
    }
}

static void servers_route(struct servers *servers)
{
    for (uint32_t i = 0; i < servers->n_partitions; i++) {
        const struct store_address *address = topology_server(servers->topology, i);
        if (address == NULL)
            continue;
        struct server *server = servers_find(servers, address);
        if (server == NULL && servers->n < SERVERS_MAX)
            server = server_new(servers, address);
        if (server != NULL && server != servers->route[i])
            server->n_gained++;
        servers->route[i] = server;
    }
    if (config_store_is_guided(servers->config))
        servers_log_changes(servers);
}

static void servers_sweep(struct servers *servers)
{
    int64_t now = clock_monotonic_ms();

    list_for_each_safe (link, following, &servers->list) {
        struct server *server = list_entry(link, struct server, link);
        bool had_partition = server->has_partition;
        server->has_partition = false;
        for (uint32_t i = 0; i < servers->n_partitions; i++)
            server->has_partition |= servers->route[i] == server;
        if (!server->has_partition && (had_partition || now - server->asked_ms > SERVERS_GUEST_MS))
            server_free(server);
    }
}

static void on_topology(void *arg)
{
    struct servers *servers = arg;

    servers_route(servers);
    servers_sweep(servers);
    servers->changed(servers->arg);
}

struct servers *servers_new(struct event_base *base, const struct config *config,
                            const char *socket, servers_change_fn *changed, void *arg)
{
    struct servers *servers = mem_new(struct servers);

    servers->config = config;
    servers->base = base;
    servers->changed = changed;
    servers->arg = arg;
    servers->is_sentinel = config_store_kind(config) == CONFIG_STORE_SENTINEL;
    servers->n_partitions = config->store.partitions > 0 ? config->store.partitions : 1;
    servers->route = mem_array(servers->n_partitions, sizeof(struct server *));
    list_init(&servers->list);
    servers->topology = topology_new(base, config, socket, on_topology, servers);
    servers_route(servers);
    servers_sweep(servers);
    return servers;
}

void servers_close(struct servers *servers)
{
    servers->is_closed = true;
    list_for_each_safe (link, following, &servers->list)
        server_close(list_entry(link, struct server, link));
}

void servers_free(struct servers **servers_at)
{
    struct servers *servers = *servers_at;

    if (servers == NULL)
        return;
    *servers_at = NULL;
    list_for_each_safe (link, following, &servers->list)
        server_free(list_entry(link, struct server, link));
    topology_free(&servers->topology);
    mem_free(servers->route);
    mem_free(servers);
}

static bool servers_are_sure(const struct servers *servers, const struct server *server)
{
    return !servers->is_sentinel || topology_named(servers->topology) > server->up_asked;
}

struct link *servers_link(const struct servers *servers, uint32_t partition, enum servers_use use)
{
    const struct server *server = servers->route[partition];

    if (server == NULL || !servers->knows_layout || !servers_are_sure(servers, server))
        return NULL;
    return server_of_use(server, use);
}

struct link *servers_link_at(struct servers *servers, const struct store_address *address,
                             enum servers_use use)
{
    struct server *server = servers_find(servers, address);

    if (server == NULL && servers->n < SERVERS_MAX && !servers->is_closed)
        server = server_new(servers, address);
    if (server == NULL)
        return NULL;
    server->asked_ms = clock_monotonic_ms();
    return server_of_use(server, use);
}

const struct store_address *servers_address(const struct servers *servers, uint32_t partition)
{
    return topology_server(servers->topology, partition);
}

bool servers_are_up(const struct servers *servers)
{
    for (uint32_t i = 0; i < servers->n_partitions; i++) {
        const struct server *server = servers->route[i];
        if (server == NULL || !server_is_up(server) || !servers_are_sure(servers, server))
            return false;
    }
    return servers->knows_layout;
}

void servers_doubt(struct servers *servers, uint32_t partition, const char *error)
{
    enum refusal refusal = error != NULL ? refusal_classify(error) : REFUSAL_OTHER;
    const struct server *server = servers->route[partition];
    struct store_address elsewhere;

    if (refusal == REFUSAL_MOVED && guide_parse_redirect(servers->config, error, &elsewhere)) {
        topology_moved(servers->topology, partition, &elsewhere);
        return;
    }
    topology_doubt(servers->topology);
    if (server != NULL && refusal_resets_link(refusal))
        server_reset(server, "Redis refuses to serve");
}

void servers_log_broke(struct servers *servers, uint32_t partition)
{
    topology_doubt(servers->topology);
    if (servers->is_sentinel && servers->route[partition] != NULL)
        server_reset(servers->route[partition], "the link to the log broke");
}

uint64_t servers_reconnects(const struct servers *servers)
{
    uint64_t n = servers->gone_reconnects;

    for (struct list *link = servers->list.next; link != &servers->list; link = link->next)
        n += server_reconnects(list_entry(link, struct server, link));
    return n;
}
