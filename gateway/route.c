/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/route.h"

#include <stdlib.h>

#include "gateway/base/mem.h"

static const struct str ROUTE_DEVICE = {"{device}", 8};

struct route_table {
    const struct config *config; /* borrowed: outlives us */
    size_t n;
    const struct config_route **sorted; /* owned array, borrowed rows; most specific first */
    size_t n_locked;
    const struct config_route **locked; /* owned array: those with a lock */
};

static const char *route_pattern(const struct config_route *route)
{
    return route->path != NULL ? route->path : route->prefix;
}

static int route_compare(const void *a_at, const void *b_at)
{
    const struct config_route *a = *(const struct config_route *const *)a_at;
    const struct config_route *b = *(const struct config_route *const *)b_at;
    size_t a_len = strlen(route_pattern(a));
    size_t b_len = strlen(route_pattern(b));

    if ((a->host != NULL) != (b->host != NULL))
        return a->host != NULL ? -1 : 1;
    if ((a->path != NULL) != (b->path != NULL))
        return a->path != NULL ? -1 : 1;
    bool a_names = strstr(route_pattern(a), ROUTE_DEVICE.p) != NULL;
    bool b_names = strstr(route_pattern(b), ROUTE_DEVICE.p) != NULL;
    if (a_names != b_names)
        return a_names ? 1 : -1;
    if (a_len != b_len)
        return a_len > b_len ? -1 : 1;
    return a < b ? -1 : a > b; /* the file's order, for a stable result */
}

struct route_table *route_table_new(const struct config *config)
{
    struct route_table *table = mem_new(struct route_table);

    table->config = config;
    table->n = config->n_routes;
    table->sorted = mem_array(table->n, sizeof(*table->sorted));
    table->locked = mem_array(table->n, sizeof(*table->locked));
    for (size_t i = 0; i < table->n; i++) {
        table->sorted[i] = &config->routes[i];
        if (config->routes[i].lock != CONFIG_LOCK_NONE)
            table->locked[table->n_locked++] = &config->routes[i];
    }
    qsort(table->sorted, table->n, sizeof(*table->sorted), route_compare);
    return table;
}

void route_table_free(struct route_table **table)
{
    if (*table == NULL)
        return;
    mem_free((*table)->sorted);
    mem_free((*table)->locked);
    mem_free(*table);
    *table = NULL;
}

/* Segment by segment; what stands at {device} goes to *out_device. */
static bool route_matches_segments(struct str pattern, struct str path, bool whole,
                                   struct str *out_device)
{
    struct str want, have;

    while (str_split(&pattern, '/', &want)) {
        if (!str_split(&path, '/', &have))
            return false;
        if (str_eq(want, ROUTE_DEVICE) && have.len > 0)
            *out_device = have;
        else if (!str_eq(want, have))
            return false;
    }
    return !whole || path.p == NULL || path.len == 0;
}

static bool route_matches_path(const struct config_route *route, struct str path,
                               struct str *out_device)
{
    struct str pattern = str_c(route_pattern(route));

    if (memmem(pattern.p, pattern.len, ROUTE_DEVICE.p, ROUTE_DEVICE.len) != NULL)
        return route_matches_segments(pattern, path, route->path != NULL, out_device);
    if (!str_starts(path, pattern))
        return false;
    if (route->path != NULL)
        return path.len == pattern.len ||
               (path.len == pattern.len + 1 && path.p[pattern.len] == '/');
    /* Whole segments only: "/ota" is not a prefix of "/otax". */
    return path.len == pattern.len || pattern.p[pattern.len - 1] == '/' ||
           path.p[pattern.len] == '/';
}

static bool route_fits_listener(const struct config_route *route,
                                const struct config_listener *listener)
{
    if (route->listener != NULL)
        return strcmp(route->listener, listener->name) == 0;
    bool for_operators = strstr(route_pattern(route), ROUTE_DEVICE.p) != NULL;
    return for_operators == (listener->clients == CONFIG_CLIENTS_OPERATORS);
}

static bool route_takes_method(const struct config_route *route, struct str method)
{
    if (route->n_methods == 0)
        return true;
    for (size_t i = 0; i < route->n_methods; i++) {
        struct str taken = str_c(route->methods[i]);
        if (str_eq(taken, method) || (str_eq(taken, STR("GET")) && str_eq(method, STR("HEAD"))))
            return true;
    }
    return false;
}

static bool route_fits_place(const struct config_route *route, const struct route_query *query,
                             struct str *out_device)
{
    return route_fits_listener(route, query->listener) &&
           (route->host == NULL || str_eq_nocase(str_c(route->host), query->host)) &&
           route_matches_path(route, query->path, out_device);
}

static enum config_clients route_clients(const struct route_table *table,
                                         const struct config_route *route)
{
    const struct config *config = table->config;

    for (size_t i = 0; route->listener != NULL && i < config->n_listeners; i++) {
        if (strcmp(config->listeners[i].name, route->listener) == 0)
            return config->listeners[i].clients;
    }
    return strstr(route_pattern(route), ROUTE_DEVICE.p) != NULL ? CONFIG_CLIENTS_OPERATORS
                                                                : CONFIG_CLIENTS_DEVICES;
}

static bool route_is_read(struct str method)
{
    return str_eq(method, STR("GET")) || str_eq(method, STR("HEAD")) ||
           str_eq(method, STR("OPTIONS"));
}

/* A route without a lock that says of the locked place, or of a part of it, that it takes writes. */
static bool route_means_place(const struct config_route *route, const struct config_route *locked)
{
    if (route->n_methods == 0)
        return false;
    if (locked->path != NULL)
        return route->path != NULL && strcmp(route->path, locked->path) == 0;
    return route->path != NULL || strlen(route->prefix) > strlen(locked->prefix);
}

/* Would the route carry a write past the lock of another one that has this path? */
static bool route_evades_lock(const struct route_table *table, const struct config_route *route,
                              const struct route_query *query)
{
    struct str device;

    if (route->lock != CONFIG_LOCK_NONE || route_is_read(query->method))
        return false;
    for (size_t i = 0; i < table->n_locked; i++) {
        const struct config_route *locked = table->locked[i];
        if (route_clients(table, locked) == query->listener->clients &&
            route_matches_path(locked, query->path, &device) && !route_means_place(route, locked))
            return true;
    }
    return false;
}

struct route_match route_find(const struct route_table *table, const struct route_query *query)
{
    struct route_match match = {0};

    for (size_t i = 0; i < table->n; i++) {
        struct str device = {0};
        if (!route_fits_place(table->sorted[i], query, &device))
            continue;
        if (route_takes_method(table->sorted[i], query->method) &&
            !route_evades_lock(table, table->sorted[i], query)) {
            match.route = table->sorted[i];
            match.device = device;
            return match;
        }
        match.other_methods = true;
    }
    return match;
}

/* Appends ", METHOD" unless it is there already or does not fit. */
static void route_add_method(char *out, size_t size, const char *method)
{
    size_t len = strlen(out);
    struct str rest = {out, len}, seen;

    while (len > 0 && str_split(&rest, ',', &seen)) {
        if (str_eq(str_trim(seen), str_c(method)))
            return;
    }
    if (len + 2 + strlen(method) >= size)
        return;
    if (len > 0) {
        memcpy(out + len, ", ", 2);
        len += 2;
    }
    memcpy(out + len, method, strlen(method) + 1);
}

void route_allowed_methods(const struct route_table *table, const struct route_query *query,
                           char *out, size_t size)
{
    out[0] = '\0';
    for (size_t i = 0; i < table->n; i++) {
        const struct config_route *route = table->sorted[i];
        struct str device;
        if (!route_fits_place(route, query, &device))
            continue;
        for (size_t m = 0; m < route->n_methods; m++) {
            struct route_query with = *query;
            with.method = str_c(route->methods[m]);
            if (route_evades_lock(table, route, &with))
                continue;
            route_add_method(out, size, route->methods[m]);
            if (strcmp(route->methods[m], "GET") == 0)
                route_add_method(out, size, "HEAD");
        }
    }
}
