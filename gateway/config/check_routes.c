/* SPDX-License-Identifier: BSD-2-Clause */
/* Routes: each must say one thing, be reachable, and not contradict another.
 *
 * A route serves the clients of its listener; without one, those who can use it: operators when its
 * path names {device}, because devices are known by their certificates, and devices otherwise. */
#include <string.h>

#include "gateway/config/check.h"
#include "gateway/config/value.h"

#define ROUTE(index_, key_) ((struct check_spot){"routes", (index_), (key_)})

static bool route_names_device(const struct config_route *route)
{
    return route->path != NULL && value_path_names_device(route->path);
}

static const struct config_listener *route_listener(const struct config *config,
                                                    const struct config_route *route)
{
    for (size_t i = 0; i < config->n_listeners; i++) {
        const struct config_listener *listener = &config->listeners[i];
        if (route->listener != NULL && listener->name != NULL &&
            strcmp(listener->name, route->listener) == 0)
            return listener;
    }
    return NULL;
}

static enum config_clients route_clients(const struct config *config,
                                         const struct config_route *route)
{
    const struct config_listener *listener = route_listener(config, route);

    if (listener != NULL)
        return listener->clients;
    return route_names_device(route) ? CONFIG_CLIENTS_OPERATORS : CONFIG_CLIENTS_DEVICES;
}

static void check_route_shape(struct checker *checker, size_t i)
{
    const struct config_route *route = &checker->config->routes[i];
    bool has_service = route->service != CONFIG_SERVICE_NONE;

    if (route->path == NULL && route->prefix == NULL)
        check_error(checker, ROUTE(i, NULL), "needs a `path` or a `prefix`");
    if (route->path != NULL && route->prefix != NULL)
        check_error(checker, ROUTE(i, "prefix"), "cannot stand beside `path`: one of the two");
    if (!has_service && route->backend == NULL)
        check_error(checker, ROUTE(i, NULL), "needs a `service` or a `backend`");
    if (has_service && route->backend != NULL)
        check_error(checker, ROUTE(i, "backend"), "cannot stand beside `service`: one of the two");
}

static void check_route_backend(struct checker *checker, size_t i)
{
    const struct config *config = checker->config;
    char quoted[REPORT_QUOTE_SIZE];
    const char *backend = config->routes[i].backend;

    if (backend == NULL || check_is_faulty(checker, "backends", CHECK_NO_INDEX))
        return;
    for (size_t k = 0; k < config->n_backends; k++) {
        if (strcmp(config->backends[k].name, backend) == 0)
            return;
    }
    report_quote(str_c(backend), quoted);
    check_error(checker, ROUTE(i, "backend"), "there is no backend %s", quoted);
}

/* The three below return false after an error: what else there is to say would rest on a guess
 * then. */
static bool check_route_named_listener(struct checker *checker, size_t i)
{
    const struct config *config = checker->config;
    const struct config_route *route = &config->routes[i];
    const struct config_listener *listener = route_listener(config, route);
    char quoted[REPORT_QUOTE_SIZE];

    if (listener == NULL) {
        report_quote(str_c(route->listener), quoted);
        check_error(checker, ROUTE(i, "listener"), "there is no listener %s", quoted);
        return false;
    }
    if (listener->clients == CONFIG_CLIENTS_DEVICES && route_names_device(route)) {
        check_error(checker, ROUTE(i, "path"),
                    "{device} is for operators' listeners: a device is known by its certificate");
        return false;
    }
    return true;
}

static bool check_route_any_listener(struct checker *checker, size_t i)
{
    const struct config *config = checker->config;
    enum config_clients clients = route_clients(config, &config->routes[i]);

    for (size_t k = 0; k < config->n_listeners; k++) {
        if (config->listeners[k].clients == clients)
            return true;
    }
    if (clients == CONFIG_CLIENTS_OPERATORS)
        check_error(checker, ROUTE(i, "path"),
                    "{device} is for operators' listeners, and there is none");
    else if (config->n_listeners > 0)
        check_error(checker, ROUTE(i, NULL),
                    "there is no listener for devices; set `listener` to one for operators");
    return false;
}

static bool check_route_listener(struct checker *checker, size_t i)
{
    if (checker->config->routes[i].listener != NULL)
        return check_route_named_listener(checker, i);
    return check_route_any_listener(checker, i);
}

static bool route_methods_are_among(const struct config_route *route, const char *const *allowed)
{
    for (size_t i = 0; i < route->n_methods; i++) {
        size_t k = 0;
        while (allowed[k] != NULL && strcmp(route->methods[i], allowed[k]) != 0)
            k++;
        if (allowed[k] == NULL)
            return false;
    }
    return route->n_methods > 0;
}

static void check_route_lock(struct checker *checker, size_t i)
{
    static const char *const writing[] = {"PATCH", "PUT", "POST", "DELETE", NULL};
    const struct config_route *route = &checker->config->routes[i];

    if (!route_methods_are_among(route, writing))
        check_error(checker, ROUTE(i, "methods"),
                    "`lock: config` is for writes: name those of PATCH, PUT, POST and DELETE that "
                    "write, and give reads a route of their own");
    if (route_clients(checker->config, route) == CONFIG_CLIENTS_OPERATORS &&
        !route_names_device(route))
        check_error(checker, ROUTE(i, "lock"),
                    "on operators' routes the path must name the device: {device}");
}

static void check_route_service(struct checker *checker, size_t i)
{
    static const char *const known[] = {"GET", "HEAD", "PATCH", NULL};
    const struct config_route *route = &checker->config->routes[i];

    if (!route_methods_are_among(route, known))
        check_error(checker, ROUTE(i, "methods"),
                    "`service: rotation` needs them, and knows GET, HEAD and PATCH");
    if (route_clients(checker->config, route) == CONFIG_CLIENTS_OPERATORS)
        check_error(checker, ROUTE(i, "service"), "rotation is for devices' listeners");
    if (route->lock != CONFIG_LOCK_NONE)
        check_error(checker, ROUTE(i, "lock"),
                    "`service: rotation` makes the lock, and cannot stand behind it");
}

static void check_route_device(struct checker *checker, size_t i)
{
    const struct config_route *route = &checker->config->routes[i];
    bool needs_device =
        route->service == CONFIG_SERVICE_ROTATION || route->lock == CONFIG_LOCK_CONFIG;

    if (needs_device && !route->certificate_required &&
        route_clients(checker->config, route) == CONFIG_CLIENTS_DEVICES)
        check_error(checker, ROUTE(i, "certificate_required"),
                    "cannot be false where the device must be known");
}

/* A route that lists GET takes HEAD as well. */
static bool methods_overlap(const char *a, const char *b)
{
    return strcmp(a, b) == 0 || (strcmp(a, "GET") == 0 && strcmp(b, "HEAD") == 0) ||
           (strcmp(a, "HEAD") == 0 && strcmp(b, "GET") == 0);
}

static bool routes_share_methods(const struct config_route *a, const struct config_route *b)
{
    if (a->n_methods == 0 || b->n_methods == 0)
        return true;
    for (size_t i = 0; i < a->n_methods; i++) {
        for (size_t k = 0; k < b->n_methods; k++) {
            if (methods_overlap(a->methods[i], b->methods[k]))
                return true;
        }
    }
    return false;
}

static bool routes_same_text(const char *a, const char *b)
{
    if (a == NULL || b == NULL)
        return a == b;
    return strcmp(a, b) == 0;
}

static bool routes_share_listeners(const struct config *config, const struct config_route *a,
                                   const struct config_route *b)
{
    if (a->listener != NULL && b->listener != NULL)
        return strcmp(a->listener, b->listener) == 0;
    return route_clients(config, a) == route_clients(config, b);
}

static bool routes_collide(const struct config *config, const struct config_route *a,
                           const struct config_route *b)
{
    bool same_host = (a->host == NULL) == (b->host == NULL) &&
                     (a->host == NULL || str_eq_nocase(str_c(a->host), str_c(b->host)));

    return same_host && (a->path != NULL || a->prefix != NULL) &&
           routes_same_text(a->path, b->path) && routes_same_text(a->prefix, b->prefix) &&
           routes_share_methods(a, b) && routes_share_listeners(config, a, b);
}

static void check_route_alone(struct checker *checker, size_t i)
{
    const struct config *config = checker->config;

    for (size_t k = 0; k < i; k++) {
        if (!routes_collide(config, &config->routes[k], &config->routes[i]) ||
            check_is_faulty(checker, "routes", k))
            continue;
        check_error(checker, ROUTE(i, NULL),
                    "routes[%zu] already takes these requests: give the two different `methods`, "
                    "paths or hosts",
                    k);
        return;
    }
}

static void check_route(struct checker *checker, size_t i)
{
    const struct config_route *route = &checker->config->routes[i];

    check_route_shape(checker, i);
    check_route_backend(checker, i);
    if (check_is_faulty(checker, "listeners", CHECK_NO_INDEX) || !check_route_listener(checker, i))
        return;
    if (route->lock == CONFIG_LOCK_CONFIG)
        check_route_lock(checker, i);
    if (route->service == CONFIG_SERVICE_ROTATION)
        check_route_service(checker, i);
    check_route_device(checker, i);
    check_route_alone(checker, i);
}

void check_routes(struct checker *checker)
{
    for (size_t i = 0; i < checker->config->n_routes; i++) {
        if (!check_is_faulty(checker, "routes", i))
            check_route(checker, i);
    }
}
