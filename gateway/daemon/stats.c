/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/daemon/stats.h"

#include <assert.h>
#include <string.h>

#include "gateway/base/mem.h"

void stats_init(struct stats *stats, const struct config *config)
{
    histogram_init(&stats->request_duration, &histogram_latency);
    histogram_init(&stats->key_age, &histogram_age);
    histogram_init(&stats->certificate_left, &histogram_age);
    histogram_init(&stats->loop_lag, &histogram_latency);
    store_stats_init(&stats->store);
    stats->n_listeners = config->n_listeners + 1;
    stats->listeners = mem_array(stats->n_listeners, sizeof(*stats->listeners));
    for (size_t i = 0; i < config->n_listeners; i++)
        stats->listeners[i].name = mem_strdup(config->listeners[i].name);
    stats->listeners[config->n_listeners].name = mem_strdup("operator");
}

void stats_deinit(struct stats *stats)
{
    for (size_t i = 0; i < stats->n_listeners; i++)
        mem_free(stats->listeners[i].name);
    mem_free(stats->listeners);
}

struct listener_stats *stats_listener(struct stats *stats, const char *name)
{
    struct listener_stats *last = &stats->listeners[stats->n_listeners - 1];

    for (struct listener_stats *listener = stats->listeners; name != NULL && listener < last;
         listener++) {
        if (strcmp(listener->name, name) == 0)
            return listener;
    }
    assert(name == NULL);
    return last;
}
