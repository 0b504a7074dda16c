/* SPDX-License-Identifier: BSD-2-Clause */
/* One timer does everything that a link's callback must not: it asks, leaves a guide for the next,
 * and tells of changes. */
#include "gateway/store/topology.h"

#include <hiredis/hiredis.h>
#include <stdlib.h>

#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/store/guide.h"
#include "gateway/store/link.h"

enum {
    TOPOLOGY_POLL_MS = 1000,
    TOPOLOGY_DOUBT_POLL_MS = 200, /* while there are doubts, */
    TOPOLOGY_DOUBT_FOR_MS = 3000, /* which are forgotten after so long */
    TOPOLOGY_PATIENCE = 5,        /* answers without news, while there are doubts */
    TOPOLOGY_HINT_MS = 2000, /* a node's own word that it has lost a slot goes before a guide's,
                                      which may not have heard of it yet */
    TOPOLOGY_NEXT_MS = 10,   /* before the next guide is asked; */
    TOPOLOGY_ROUND_MS = 300, /* at least so long when all have failed */
    TOPOLOGY_LOG_EVERY_MS = 10000, /* what a guide says wrong is mentioned so often */
};

struct topology {
    const struct config *config; /* borrowed from the store's owner */
    struct event_base *base;     /* borrowed likewise */
    topology_change_fn *changed;
    void *arg;
    struct guide_map map;
    int64_t *hinted_until_ms; /* owned array: a partition each */
    bool is_changed;          /* and not told yet */
    struct event *timer;      /* owned */
    size_t guide;         /* which is asked: one of the configuration's, then the known servers */
    unsigned repetitions; /* of what the guide had said, in spite of doubts */
    unsigned failures;    /* of guides, since one has answered */
    struct link *link;    /* owned; to the guide. NULL where nobody has to be asked */
    struct store_address guide_address;
    bool is_asking;
    bool asks_again; /* as soon as the present question is answered */
    uint64_t asked;  /* questions, and the last one that named servers */
    uint64_t named;
    bool leaves_guide; /* at the timer's next turn */
    int64_t doubt_until_ms;
    int64_t log_again_ms;
};

static void topology_arm(struct topology *topology, int64_t ms)
{
    const struct timeval delay = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000L};

    (void)event_add(topology->timer, &delay);
}

static bool topology_has_doubts(const struct topology *topology)
{
    return clock_monotonic_ms() < topology->doubt_until_ms;
}

/* Guides. */

static void topology_leave_guide(struct topology *topology)
{
    bool all_failed = ++topology->failures >= guide_count(topology->config);

    topology->leaves_guide = true;
    topology_arm(topology, all_failed ? TOPOLOGY_ROUND_MS + random_below(TOPOLOGY_ROUND_MS)
                                      : TOPOLOGY_NEXT_MS);
}

static void topology_complain(struct topology *topology, const char *error)
{
    int64_t now = clock_monotonic_ms();

    if (now < topology->log_again_ms)
        return;
    topology->log_again_ms = now + TOPOLOGY_LOG_EVERY_MS;
    log_write(LOG_WARNING, "cannot learn where Redis is", LOG_STR("error", error));
}

static void topology_set(struct topology *topology, uint32_t partition,
                         const struct store_address *server)
{
    struct guide_map *map = &topology->map;

    if (map->is_known[partition] && store_address_equal(&map->servers[partition], server))
        return;
    map->is_known[partition] = true;
    map->servers[partition] = *server;
    topology->is_changed = true;
    topology_arm(topology, 0);
}

static bool topology_take(struct topology *topology, const struct guide_map *said)
{
    bool was_changed = topology->is_changed;
    int64_t now = clock_monotonic_ms();

    topology->is_changed = false;
    for (uint32_t i = 0; i < said->n; i++) {
        if (said->is_known[i] && now >= topology->hinted_until_ms[i])
            topology_set(topology, i, &said->servers[i]);
    }
    bool is_news = topology->is_changed;
    topology->is_changed |= was_changed;
    return is_news;
}

static void topology_ask(struct topology *topology);

static void on_answer(const redisReply *reply, void *arg)
{
    struct topology *topology = arg;
    struct guide_map said;
    char error[512];

    topology->is_asking = false;
    /* The link's end, which has handlers of its own. */
    if (reply == NULL)
        return;
    guide_map_init(&said, topology->map.n);
    if (!guide_take_reply(topology->config, &topology->guide_address, reply, &said, error,
                          sizeof(error))) {
        topology_complain(topology, error);
        topology_leave_guide(topology);
    } else {
        bool is_news = topology_take(topology, &said);
        topology->failures = 0;
        topology->named = topology->asked;
        /* Cut off from the others, it may know nothing newer for ever. */
        topology->repetitions =
            is_news || !topology_has_doubts(topology) ? 0 : topology->repetitions + 1;
        topology->leaves_guide = topology->repetitions >= TOPOLOGY_PATIENCE;
        if (topology->asks_again)
            topology_ask(topology);
        else if (!topology->is_changed)
            topology_arm(topology,
                         topology_has_doubts(topology) ? TOPOLOGY_DOUBT_POLL_MS : TOPOLOGY_POLL_MS);
    }
    guide_map_deinit(&said);
}

static void topology_ask(struct topology *topology)
{
    char *text CLEANUP(mem_free_at) = guide_question(topology->config);
    const struct link_command command = {.pieces = {str_c(text)},
                                         .n_replies = 1,
                                         .timeout_ms = topology->config->store.command_timeout_ms,
                                         .on_reply = on_answer,
                                         .arg = topology};

    if (topology->is_asking)
        return;
    topology->asks_again = false;
    topology->is_asking = link_send(topology->link, &command);
    topology->asked += topology->is_asking;
}

static void on_guide_up(void *arg)
{
    topology_ask(arg);
}

static void on_guide_lost(void *arg)
{
    topology_leave_guide(arg);
}

static bool topology_find_guide(const struct topology *topology, struct store_address *out)
{
    const struct guide_map *map = &topology->map;
    size_t n = guide_count(topology->config);
    char error[256];

    if (topology->guide < n)
        return guide_address(topology->config, topology->guide, out, error, sizeof(error));
    if (!map->is_known[topology->guide - n])
        return false;
    *out = map->servers[topology->guide - n];
    return true;
}

/* Those of the configuration; and a Cluster's nodes, which may have replaced all of them. */
static size_t topology_count_guides(const struct topology *topology)
{
    size_t n = guide_count(topology->config);

    return config_store_kind(topology->config) == CONFIG_STORE_CLUSTER ? n + topology->map.n : n;
}

/* The next that is another one: many partitions have the same server. */
static void topology_choose_guide(struct topology *topology)
{
    const struct store_address before = topology->guide_address;
    size_t n = topology_count_guides(topology);
    struct store_address found;

    for (size_t i = 0; i < n; i++) {
        topology->guide = (topology->guide + 1) % n;
        if (topology_find_guide(topology, &found) && !store_address_equal(&found, &before))
            return;
    }
}

static void topology_go_to_guide(struct topology *topology)
{
    bool is_sentinel = config_store_kind(topology->config) == CONFIG_STORE_SENTINEL;
    const struct link_params params = {
        .base = topology->base,
        .config = topology->config,
        .address = &topology->guide_address,
        .greeting = is_sentinel ? GREETING_SENTINEL : GREETING_GUIDE,
        .purpose = is_sentinel ? "sentinel" : "cluster map",
        .handlers = {.on_up = on_guide_up,
                     .on_down = on_guide_lost,
                     .on_failed = on_guide_lost,
                     .arg = topology},
    };

    topology->is_asking = topology->leaves_guide = false;
    topology->repetitions = 0;
    link_free(&topology->link);
    if (topology_find_guide(topology, &topology->guide_address))
        topology->link = link_new(&params);
    else
        topology_leave_guide(topology);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct topology *topology = arg;

    if (topology->is_changed) {
        topology->is_changed = false;
        topology_arm(topology, TOPOLOGY_POLL_MS);
        topology->changed(topology->arg);
    } else if (topology->leaves_guide) {
        topology_choose_guide(topology);
        topology_go_to_guide(topology);
    } else {
        topology_ask(topology);
    }
}

/* For others. */

static void topology_know(struct topology *topology, const char *socket)
{
    struct store_address address;
    char error[256];

    if (!store_address_choose(topology->config, socket, &address, error, sizeof(error))) {
        log_write(LOG_ERROR, "the store's address cannot be used", LOG_STR("error", error));
        return;
    }
    for (uint32_t i = 0; i < topology->map.n; i++) {
        topology->map.servers[i] = address;
        topology->map.is_known[i] = true;
    }
}

struct topology *topology_new(struct event_base *base, const struct config *config,
                              const char *socket, topology_change_fn *changed, void *arg)
{
    struct topology *topology = mem_new(struct topology);
    uint32_t partitions = config->store.partitions > 0 ? config->store.partitions : 1;

    topology->config = config;
    topology->base = base;
    topology->changed = changed;
    topology->arg = arg;
    topology->timer = evtimer_new(base, on_timer, topology);
    if (topology->timer == NULL)
        abort();
    guide_map_init(&topology->map, partitions);
    topology->hinted_until_ms = mem_array(partitions, sizeof(int64_t));
    if (socket != NULL || !config_store_is_guided(config)) {
        topology_know(topology, socket);
    } else {
        topology->guide = random_below((uint32_t)guide_count(config));
        topology_go_to_guide(topology);
    }
    return topology;
}

void topology_free(struct topology **topology_at)
{
    struct topology *topology = *topology_at;

    if (topology == NULL)
        return;
    *topology_at = NULL;
    link_free(&topology->link);
    event_free(topology->timer);
    guide_map_deinit(&topology->map);
    mem_free(topology->hinted_until_ms);
    mem_free(topology);
}

const struct store_address *topology_server(const struct topology *topology, uint32_t partition)
{
    return topology->map.is_known[partition] ? &topology->map.servers[partition] : NULL;
}

uint64_t topology_asked(const struct topology *topology)
{
    return topology->asked;
}

uint64_t topology_named(const struct topology *topology)
{
    if (!config_store_is_guided(topology->config))
        return UINT64_MAX;
    return topology->is_changed ? 0 : topology->named;
}

void topology_verify(struct topology *topology)
{
    if (topology->link == NULL || !link_is_up(topology->link))
        return; /* it asks as soon as it is up */
    topology->asks_again = topology->is_asking;
    topology_ask(topology);
}

void topology_doubt(struct topology *topology)
{
    if (topology->link == NULL)
        return;
    bool had_doubts = topology_has_doubts(topology);
    topology->doubt_until_ms = clock_monotonic_ms() + TOPOLOGY_DOUBT_FOR_MS;
    if (!had_doubts && !topology->is_changed && !topology->leaves_guide)
        topology_arm(topology, TOPOLOGY_NEXT_MS);
}

void topology_moved(struct topology *topology, uint32_t partition,
                    const struct store_address *server)
{
    if (config_store_kind(topology->config) == CONFIG_STORE_CLUSTER) {
        topology->hinted_until_ms[partition] = clock_monotonic_ms() + TOPOLOGY_HINT_MS;
        topology_set(topology, partition, server);
    }
    topology_doubt(topology);
}
