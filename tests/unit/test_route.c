/* SPDX-License-Identifier: BSD-2-Clause */
/* Which route answers: specificity, methods, listeners, {device}. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "gateway/route.h"

enum { DEVICES, OPERATORS };

static struct config_listener listeners[] = {
    [DEVICES] = {.name = "devices", .clients = CONFIG_CLIENTS_DEVICES},
    [OPERATORS] = {.name = "operators", .clients = CONFIG_CLIENTS_OPERATORS},
};

static const char *patch[] = {"PATCH"};
static const char *get_patch[] = {"GET", "PATCH"};

/* In an order that is not the one they match in. */
static struct config_route routes[] = {
    {.prefix = "/", .backend = "all"},
    {.prefix = "/ota", .backend = "ota"},
    {.prefix = "/ota/large", .backend = "large"},
    {.path = "/config",
     .methods = patch,
     .n_methods = 1,
     .backend = "config",
     .lock = CONFIG_LOCK_CONFIG},
    {.path = "/device", .methods = get_patch, .n_methods = 2, .service = CONFIG_SERVICE_ROTATION},
    {.path = "/config", .host = "blue.example", .backend = "blue"},
    {.path = "/devices/{device}/config", .methods = patch, .n_methods = 1, .backend = "named"},
    {.path = "/devices/self/config", .listener = "operators", .backend = "self"},
    {.prefix = "/fleet/{device}/files", .backend = "files"},
    {.prefix = "/only",
     .methods = get_patch,
     .n_methods = 2,
     .listener = "operators",
     .backend = "only"},
};

static struct config config = {
    .listeners = listeners,
    .n_listeners = 2,
    .routes = routes,
    .n_routes = sizeof(routes) / sizeof(routes[0]),
};

static void the_most_specific_route_wins(void **state)
{
    static const struct {
        int listener;
        const char *method, *host, *path;
        const char *backend; /* NULL: no route */
        const char *device;
        bool other_methods;
    } cases[] = {
        {.listener = DEVICES, .method = "GET", .path = "/", .backend = "all"},
        {.listener = DEVICES, .method = "GET", .path = "/ota", .backend = "ota"},
        {.listener = DEVICES, .method = "GET", .path = "/ota/x", .backend = "ota"},
        {.listener = DEVICES, .method = "GET", .path = "/otax", .backend = "all"},
        {.listener = DEVICES, .method = "GET", .path = "/ota/large", .backend = "large"},
        {.listener = DEVICES, .method = "GET", .path = "/ota/large/y", .backend = "large"},
        {.listener = DEVICES, .method = "PATCH", .path = "/config", .backend = "config"},
        {.listener = DEVICES, .method = "GET", .path = "/config", .backend = "all"},
        {.listener = DEVICES, .method = "PATCH", .path = "/config/", .backend = "config"},
        {.listener = DEVICES, .method = "PATCH", .path = "/config/x", .backend = "all"},
        {.listener = DEVICES, .method = "PATCH", .path = "/Config", .backend = "all"},
        {.listener = DEVICES,
         .method = "GET",
         .host = "BLUE.example",
         .path = "/config",
         .backend = "blue"},
        {.listener = DEVICES,
         .method = "PATCH",
         .host = "BLUE.example",
         .path = "/config",
         .backend = "config"},
        {.listener = DEVICES,
         .method = "PATCH",
         .host = "green.example",
         .path = "/config",
         .backend = "config"},
        {.listener = DEVICES, .method = "HEAD", .path = "/device", .backend = "rotation"},
        {.listener = DEVICES, .method = "PATCH", .path = "/devices/d1/config", .backend = "all"},
        {.listener = OPERATORS,
         .method = "PATCH",
         .path = "/devices/d1/config",
         .backend = "named",
         .device = "d1"},
        {.listener = OPERATORS,
         .method = "PATCH",
         .path = "/devices/self/config",
         .backend = "self"},
        {.listener = OPERATORS,
         .method = "PATCH",
         .path = "/devices/d1/config/",
         .backend = "named",
         .device = "d1"},
        {.listener = OPERATORS, .method = "PATCH", .path = "/devices//config"},
        {.listener = OPERATORS, .method = "PATCH", .path = "/devices/d1/config/x"},
        {.listener = OPERATORS,
         .method = "GET",
         .path = "/devices/d1/config",
         .other_methods = true},
        {.listener = OPERATORS,
         .method = "GET",
         .path = "/fleet/d2/files/a/b",
         .backend = "files",
         .device = "d2"},
        {.listener = OPERATORS, .method = "GET", .path = "/fleet/d2/filesystem"},
        {.listener = OPERATORS, .method = "PUT", .path = "/only", .other_methods = true},
        {.listener = OPERATORS, .method = "HEAD", .path = "/only/x", .backend = "only"},
        {.listener = OPERATORS, .method = "GET", .path = "/"},
    };
    struct route_table *table = route_table_new(&config);

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct route_match match =
            route_find(table, &(struct route_query){
                                  .listener = &listeners[cases[i].listener],
                                  .host = str_c(cases[i].host != NULL ? cases[i].host : ""),
                                  .path = str_c(cases[i].path),
                                  .method = str_c(cases[i].method),
                              });
        if (cases[i].backend == NULL) {
            assert_null(match.route);
            assert_int_equal(match.other_methods, cases[i].other_methods);
            continue;
        }
        assert_non_null(match.route);
        assert_string_equal(match.route->backend != NULL ? match.route->backend : "rotation",
                            cases[i].backend);
        if (cases[i].device != NULL)
            assert_true(str_eq(match.device, str_c(cases[i].device)));
    }
    route_table_free(&table);
    assert_null(table);
}

static const char *put[] = {"PUT"};
static const char *post_get[] = {"POST", "GET"};

static struct config_listener lock_listeners[] = {
    {.name = "devices", .clients = CONFIG_CLIENTS_DEVICES},
    {.name = "services", .clients = CONFIG_CLIENTS_OPERATORS},
    {.name = "local", .clients = CONFIG_CLIENTS_OPERATORS},
};

#define WRITES(words) .methods = (words), .n_methods = ARRAY_SIZE(words)

static struct config_route lock_routes[] = {
    {.path = "/config", WRITES(patch), .backend = "locked", .lock = CONFIG_LOCK_CONFIG},
    {.path = "/config", WRITES(put), .backend = "meant"},
    {.path = "/hosted",
     .host = "a.example",
     WRITES(patch),
     .backend = "hosted",
     .lock = CONFIG_LOCK_CONFIG},
    {.prefix = "/tree", WRITES(patch), .backend = "tree", .lock = CONFIG_LOCK_CONFIG},
    {.path = "/tree/leaf", WRITES(post_get), .backend = "leaf"},
    {.prefix = "/tree/branch", WRITES(post_get), .backend = "branch"},
    {.prefix = "/tree/any", .backend = "any"},
    {.path = "/devices/{device}/config",
     .listener = "services",
     WRITES(patch),
     .backend = "named",
     .lock = CONFIG_LOCK_CONFIG},
    {.path = "/devices/self/config", .listener = "services", WRITES(patch), .backend = "self"},
    {.prefix = "/", .backend = "wide"},
    {.prefix = "/", .listener = "services", .backend = "wide"},
    {.prefix = "/", .listener = "local", .backend = "wide"},
};

static void nothing_wider_carries_a_write_past_a_lock(void **state)
{
    static const struct config lock_config = {
        .listeners = lock_listeners,
        .n_listeners = ARRAY_SIZE(lock_listeners),
        .routes = lock_routes,
        .n_routes = ARRAY_SIZE(lock_routes),
    };
    enum { FROM_DEVICE, FROM_SERVICE, FROM_LOCAL };
    static const struct {
        int listener;
        const char *method, *path;
        const char *backend; /* NULL: 405 */
    } cases[] = {
        {FROM_DEVICE, "PATCH", "/config", "locked"},
        {FROM_DEVICE, "PUT", "/config", "meant"},
        {FROM_DEVICE, "PUT", "/config/", "meant"},
        {FROM_DEVICE, "GET", "/config", "wide"},
        {FROM_DEVICE, "OPTIONS", "/config", "wide"},
        {FROM_DEVICE, "POST", "/config", NULL},
        {FROM_DEVICE, "POST", "/config/", NULL},
        {FROM_DEVICE, "DELETE", "/config", NULL},
        {FROM_DEVICE, "LOCK", "/config", NULL},
        {FROM_DEVICE, "POST", "/config/x", "wide"},
        {FROM_DEVICE, "POST", "/configs", "wide"},
        /* The API may not look at the host. */
        {FROM_DEVICE, "PATCH", "/hosted", NULL},
        {FROM_DEVICE, "GET", "/hosted", "wide"},
        {FROM_DEVICE, "PATCH", "/tree/x", "tree"},
        {FROM_DEVICE, "POST", "/tree", NULL},
        {FROM_DEVICE, "POST", "/tree/x", NULL},
        {FROM_DEVICE, "POST", "/tree/leaf", "leaf"},
        {FROM_DEVICE, "POST", "/tree/branch/x", "branch"},
        {FROM_DEVICE, "PATCH", "/tree/any/x", "tree"},
        {FROM_DEVICE, "POST", "/tree/any/x", NULL},
        {FROM_DEVICE, "GET", "/tree/any/x", "any"},
        {FROM_SERVICE, "PATCH", "/devices/d/config", "named"},
        {FROM_SERVICE, "PATCH", "/devices/self/config", "named"},
        {FROM_SERVICE, "PUT", "/devices/d/config", NULL},
        {FROM_SERVICE, "POST", "/devices/d/other", "wide"},
        /* The lock was forgotten on this listener. */
        {FROM_LOCAL, "PATCH", "/devices/d/config", NULL},
        {FROM_LOCAL, "GET", "/devices/d/config", "wide"},
        /* Devices' paths are not operators'. */
        {FROM_LOCAL, "POST", "/config", "wide"},
    };
    struct route_table *table = route_table_new(&lock_config);

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct route_match match =
            route_find(table, &(struct route_query){
                                  .listener = &lock_listeners[cases[i].listener],
                                  .path = str_c(cases[i].path),
                                  .method = str_c(cases[i].method),
                              });
        const char *found = match.route != NULL ? match.route->backend : "none";
        if (strcmp(found, cases[i].backend != NULL ? cases[i].backend : "none") != 0)
            fail_msg("%s %s: %s", cases[i].method, cases[i].path, found);
        assert_true(match.route != NULL || match.other_methods);
    }
    char allow[64];
    route_allowed_methods(table,
                          &(struct route_query){.listener = &lock_listeners[0],
                                                .path = STR("/tree/leaf")},
                          allow, sizeof(allow));
    assert_string_equal(allow, "POST, GET, HEAD, PATCH");
    route_table_free(&table);
}

static void allowed_methods_are_listed_once_with_head_for_get(void **state)
{
    struct route_table *table = route_table_new(&config);
    char allow[64];

    route_allowed_methods(table,
                          &(struct route_query){.listener = &listeners[OPERATORS],
                                                .path = STR("/only/x")},
                          allow, sizeof(allow));
    assert_string_equal(allow, "GET, HEAD, PATCH");
    char small[8];
    route_allowed_methods(table,
                          &(struct route_query){.listener = &listeners[OPERATORS],
                                                .path = STR("/only/x")},
                          small, sizeof(small));
    assert_string_equal(small, "GET");
    route_table_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_most_specific_route_wins),
        cmocka_unit_test(nothing_wider_carries_a_write_past_a_lock),
        cmocka_unit_test(allowed_methods_are_listed_once_with_head_for_get),
    };
    return cmocka_run_group_tests_name("route", tests, NULL, NULL);
}
