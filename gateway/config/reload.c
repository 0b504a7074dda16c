/* SPDX-License-Identifier: BSD-2-Clause */
/* What a running daemon cannot change: the rows of the table that have an obstacle, and the sockets
 * that it listens on. */
#include <string.h>

#include "gateway/config/config.h"
#include "gateway/config/field.h"
#include "gateway/config/settings.h"

static const char *reload_compare(const struct setting *map_row, const struct config *before,
                                  const struct config *now)
{
    for (size_t i = 0; i < map_row->n_rows; i++) {
        const struct setting *row = &map_row->rows[i];
        const char *obstacle = row->type == SETTING_MAP ? reload_compare(row, before, now)
                               : row->obstacle != NULL && !field_equal(row, before, now)
                                   ? row->obstacle
                                   : NULL;
        if (obstacle != NULL)
            return obstacle;
    }
    return NULL;
}

static const struct config_listener *reload_find(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->n_listeners; i++) {
        if (strcmp(config->listeners[i].name, name) == 0)
            return &config->listeners[i];
    }
    return NULL;
}

/* Their order in the file means nothing. */
static bool reload_keeps_listeners(const struct config *before, const struct config *now)
{
    if (before->n_listeners != now->n_listeners)
        return false;
    for (size_t i = 0; i < before->n_listeners; i++) {
        const struct config_listener *old = &before->listeners[i];
        const struct config_listener *new = reload_find(now, old->name);
        if (new == NULL || new->clients != old->clients || new->address.type != old->address.type ||
            new->address.port != old->address.port ||
            strcmp(new->address.host, old->address.host) != 0)
            return false;
    }
    return true;
}

const char *config_reload_obstacle(const struct config *before, const struct config *now)
{
    const char *obstacle = reload_compare(&settings_root, before, now);

    if (obstacle != NULL)
        return obstacle;
    if (!reload_keeps_listeners(before, now))
        return "listeners: names, addresses and clients cannot change while the daemon runs; "
               "restart it";
    return NULL;
}
