/* SPDX-License-Identifier: BSD-2-Clause */
/* Which rule answers a request: by listener, host, path or prefix, and method.
 *
 * The most specific route wins: one that names a host before one that does not, an exact path
 * before a prefix, a path without {device} before one with it, a longer prefix before a shorter
 * one. A route that lists GET takes HEAD as well. Paths are compared as http_target_parse()
 * normalised them. An exact path takes the same path with a slash behind it too: many backends make
 * no difference, and a lock must not be passed by one.
 *
 * A lock holds for its path, whichever way the path is reached. Where a route with `lock` has the
 * path - whatever methods it lists, whatever host it names, on any listener of the same kind of
 * clients -, anything but GET, HEAD and OPTIONS is served by that route, or by one that means the
 * place: it lists the method, and names the very same path, or something narrower than the locked
 * prefix. A wider route (a shorter prefix, another pattern, one for all methods) that goes to the
 * same API would carry the same write past the lock; it takes no part there, and when there is
 * nothing else the answer is 405. What lies below the path of a locked route is another place: lock
 * a prefix to hold that as well. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "gateway/config/config.h"

struct route_table;

/* `config` is borrowed and must outlive the table. */
struct route_table *route_table_new(const struct config *config) MUST_CHECK;
void route_table_free(struct route_table **table);

struct route_query {
    const struct config_listener *listener;
    struct str host; /* without port; empty if there is none */
    struct str path;
    struct str method;
};

struct route_match {
    const struct config_route *route; /* borrowed from the config; NULL: none fits */
    struct str device;  /* what stood for {device}, unchecked; borrows from query.path */
    bool other_methods; /* no route fits, but one would with another method: 405 */
};

struct route_match route_find(const struct route_table *table, const struct route_query *query);

/* The methods that routes take at this place, as an Allow value ("GET, HEAD, PATCH"); cut to what
 * fits. */
void route_allowed_methods(const struct route_table *table, const struct route_query *query,
                           char *out, size_t size);
