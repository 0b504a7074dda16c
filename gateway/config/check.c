/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/config/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "gateway/config/value.h"

/* The longest file name that the embedded store puts into the state folder, and the slash before
 * it. */
enum { CHECK_STATE_DIR_MAX = VALUE_SOCKET_PATH_MAX - 27 };

/* --- where errors point ----------------------------------------------------------------------- */

static const struct node *check_find_section(const struct node *root, const char *section)
{
    struct str rest = str_c(section), key;
    const struct node *node = root;

    while (str_split(&rest, '.', &key))
        node = node_find(node, key);
    return node;
}

/* The setting's own node, or what it would have stood in. */
static const struct node *check_find(const struct node *root, struct check_spot spot)
{
    const struct node *section =
        spot.section != NULL ? check_find_section(root, spot.section) : root;
    const struct node *item = spot.index != CHECK_NO_INDEX ? node_at(section, spot.index) : section;
    const struct node *member = spot.key != NULL ? node_find(item, str_c(spot.key)) : item;

    return member != NULL ? member : item != NULL ? item : section != NULL ? section : root;
}

void check_error(struct checker *checker, struct check_spot spot, const char *format, ...)
{
    char path[REPORT_PATH_SIZE], index[32] = "", message[512];
    va_list args;

    if (spot.index != CHECK_NO_INDEX)
        (void)snprintf(index, sizeof(index), "[%zu]", spot.index);
    (void)snprintf(path, sizeof(path), "%s%s%s%s", spot.section != NULL ? spot.section : "", index,
                   spot.section != NULL && spot.key != NULL ? "." : "",
                   spot.key != NULL ? spot.key : "");
    va_start(args, format);
    (void)vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    report_line(checker->report, check_find(checker->root, spot), path, "%s", message);
}

bool check_is_faulty(const struct checker *checker, const char *section, size_t index)
{
    const struct node *node = check_find_section(checker->root, section);

    if (index != CHECK_NO_INDEX)
        node = node_at(node, index);
    return node != NULL && node->faulty;
}

#define SETTING(section_, key_) ((struct check_spot){(section_), CHECK_NO_INDEX, (key_)})
#define LISTENER(index_, key_)  ((struct check_spot){"listeners", (index_), (key_)})
#define BACKEND(index_, key_)   ((struct check_spot){"backends", (index_), (key_)})

/* --- sections --------------------------------------------------------------------------------- */

static void check_paths(struct checker *checker)
{
    const struct config *config = checker->config;

    if (strlen(config->state_dir) > CHECK_STATE_DIR_MAX)
        check_error(checker, SETTING(NULL, "state_dir"),
                    "the path is too long for the sockets in it; at most %d bytes",
                    CHECK_STATE_DIR_MAX);
    else if (strlen(config->operator.socket) > VALUE_SOCKET_PATH_MAX)
        check_error(checker, SETTING("operator", "socket"),
                    "the path is too long: a socket's path has at most %d bytes",
                    VALUE_SOCKET_PATH_MAX);
}

static void check_store_address(struct checker *checker)
{
    const struct config *config = checker->config;
    struct value_redis redis;

    if (value_parse_redis(str_c(config->store.redis), &redis) != NULL)
        return;
    if (redis.address.is_unix && redis.address.host.len > VALUE_SOCKET_PATH_MAX)
        check_error(checker, SETTING("store", "redis"),
                    "the path is too long: a socket's path has at most %d bytes",
                    VALUE_SOCKET_PATH_MAX);
    if (redis.tls && !HAVE_HIREDIS_SSL)
        check_error(checker, SETTING("store", "redis"),
                    "this build's hiredis has no TLS: use a Unix socket, a TLS tunnel, or a build "
                    "with hiredis 1.0 or newer");
    if (config->store.ca_file != NULL && !redis.tls)
        check_error(checker, SETTING("store", "ca_file"), "only a rediss:// server has TLS");
}

/* Addresses that are only ever connected to. */
static void check_store_list(struct checker *checker, struct check_spot spot,
                             const struct config_address *addresses, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (addresses[i].type == CONFIG_ADDRESS_UNIX)
            check_error(checker, spot, "takes \"host:port\" only");
        else if (addresses[i].port == 0)
            check_error(checker, spot, "nobody can connect to port 0");
    }
}

static void check_store_sentinel(struct checker *checker)
{
    const struct config *config = checker->config;
    const struct check_spot spot = SETTING("store.sentinel", "servers");

    if (config->store.sentinel.n_servers == 0)
        check_error(checker, spot, "at least one sentinel is needed");
    if (config->store.sentinel.master == NULL)
        check_error(checker, SETTING("store.sentinel", "master"),
                    "is missing: the name that the sentinels monitor");
    if (config->store.sentinel.username != NULL && config->store.sentinel.password_file == NULL)
        check_error(checker, SETTING("store.sentinel", "username"), "needs `password_file`");
    check_store_list(checker, spot, config->store.sentinel.servers,
                     config->store.sentinel.n_servers);
}

static bool check_has_sentinel(const struct config *config)
{
    return config->store.sentinel.master != NULL || config->store.sentinel.n_servers > 0 ||
           config->store.sentinel.username != NULL || config->store.sentinel.password_file != NULL;
}

/* One of three ways to say where the store is. */
static void check_store_place(struct checker *checker)
{
    const struct config *config = checker->config;
    bool has_redis = config->store.redis != NULL, has_sentinel = check_has_sentinel(config);
    bool has_cluster = config->store.n_cluster > 0;

    if (has_redis + has_sentinel + has_cluster > 1)
        check_error(checker, SETTING("store", has_cluster ? "cluster" : "sentinel"),
                    "excludes %s: say in one way only where Redis is",
                    has_redis ? "store.redis" : "store.sentinel");
    if (has_redis)
        check_store_address(checker);
    else if (config->store.ca_file != NULL && !config->store.tls)
        check_error(checker, SETTING("store", "ca_file"), "needs `tls: true`");
    if (has_sentinel)
        check_store_sentinel(checker);
    check_store_list(checker, SETTING("store", "cluster"), config->store.cluster,
                     config->store.n_cluster);
    if (config->store.tls && has_redis)
        check_error(checker, SETTING("store", "tls"),
                    "is for sentinel and cluster; store.redis says it with rediss://");
    if (config->store.tls && !HAVE_HIREDIS_SSL)
        check_error(checker, SETTING("store", "tls"),
                    "this build's hiredis has no TLS: use a TLS tunnel, or a build with hiredis "
                    "1.0 or newer");
}

static void check_store_server(struct checker *checker)
{
    const struct config *config = checker->config;

    check_store_place(checker);
    if (config->store.username != NULL && config->store.password_file == NULL)
        check_error(checker, SETTING("store", "username"), "needs `password_file`");
    if (config->store.wait_replicas > 0 &&
        config->store.wait_timeout_ms >= config->store.command_timeout_ms)
        check_error(checker, SETTING("store", "wait_timeout"),
                    "must be shorter than store.command_timeout, which the wait is a part of");
}

/* The embedded store is one process without replicas, reached by nobody else. */
static void check_store_embedded(struct checker *checker)
{
    static const char why[] = "is for a server of one's own: say where Redis is, or leave it out";
    const struct config *config = checker->config;

    if (config->store.wait_replicas > 0)
        check_error(checker, SETTING("store", "wait_replicas"),
                    "the embedded store has no replicas: say where Redis is, or leave it out");
    if (config->store.username != NULL)
        check_error(checker, SETTING("store", "username"), "%s", why);
    if (config->store.password_file != NULL)
        check_error(checker, SETTING("store", "password_file"), "%s", why);
    if (config->store.ca_file != NULL)
        check_error(checker, SETTING("store", "ca_file"), "%s", why);
    if (config->store.tls)
        check_error(checker, SETTING("store", "tls"), "%s", why);
}

static bool check_age_is_crossed(const struct enforcement *rule)
{
    return rule->key_age.overdue_after_ms > 0 &&
           rule->key_age.overdue_after_ms < rule->key_age.due_after_ms;
}

static void check_limits(struct checker *checker)
{
    if (!check_is_faulty(checker, "rotation", CHECK_NO_INDEX) &&
        check_age_is_crossed(&checker->config->rotation.admission.rules.fleet))
        check_error(checker, SETTING("rotation.key_age", "overdue_after"),
                    "must not be shorter than due_after");
    if (!check_is_faulty(checker, "http", CHECK_NO_INDEX) &&
        checker->config->http.buffer < checker->config->http.head_max)
        check_error(checker, SETTING("http", "buffer"),
                    "must not be smaller than http.head_max: a head has to fit");
}

static void check_sections(struct checker *checker)
{
    check_paths(checker);
    if (!check_is_faulty(checker, "store", CHECK_NO_INDEX)) {
        if (checker->config->store.redis != NULL || checker->config->store.n_cluster > 0 ||
            check_has_sentinel(checker->config))
            check_store_server(checker);
        else
            check_store_embedded(checker);
    }
    check_limits(checker);
}

/* --- listeners -------------------------------------------------------------------------------- */

static void check_listener_devices(struct checker *checker, size_t i)
{
    const struct config_listener *listener = &checker->config->listeners[i];

    if (listener->address.type == CONFIG_ADDRESS_UNIX)
        check_error(checker, LISTENER(i, "address"),
                    "devices need TLS, which a Unix socket does not have");
    else if (listener->certificate_file == NULL)
        check_error(checker, LISTENER(i, NULL), "devices need TLS: set `certificate` and `key`");
    if (listener->client_ca_file != NULL)
        check_error(checker, LISTENER(i, "client_ca"),
                    "is for operators; devices are signed by `device_cas`");
}

static void check_listener_operators(struct checker *checker, size_t i)
{
    const struct config_listener *listener = &checker->config->listeners[i];
    bool is_unix = listener->address.type == CONFIG_ADDRESS_UNIX;

    if (is_unix && listener->certificate_file != NULL)
        check_error(checker, LISTENER(i, "certificate"), "a Unix socket has no TLS");
    if (is_unix && listener->key_file != NULL)
        check_error(checker, LISTENER(i, "key"), "a Unix socket has no TLS");
    if (is_unix && listener->client_ca_file != NULL)
        check_error(checker, LISTENER(i, "client_ca"), "a Unix socket has no TLS");
    if (!is_unix && listener->certificate_file == NULL)
        check_error(checker, LISTENER(i, NULL),
                    "operators need TLS: set `certificate` and `key`, or listen on \"unix:/path\"");
    if (!is_unix && listener->client_ca_file == NULL)
        check_error(checker, LISTENER(i, NULL),
                    "operators are known by their certificates: set `client_ca`");
    if (listener->client_certificate == CONFIG_CERTIFICATE_OPTIONAL)
        check_error(checker, LISTENER(i, "client_certificate"),
                    "must be `required`: nothing else tells who an operator is");
}

static bool check_same_address(const struct config_address *a, const struct config_address *b)
{
    if (a->type != b->type || strcmp(a->host, b->host) != 0)
        return false;
    return a->type == CONFIG_ADDRESS_UNIX || (a->port == b->port && a->port != 0);
}

static void check_listener_alone(struct checker *checker, size_t i)
{
    const struct config *config = checker->config;
    const struct config_listener *listener = &config->listeners[i];

    if (listener->address.type == CONFIG_ADDRESS_UNIX &&
        strcmp(listener->address.host, config->operator.socket) == 0)
        check_error(checker, LISTENER(i, "address"), "is the same as operator.socket");
    if (strcmp(listener->name, "operator") == 0)
        check_error(checker, LISTENER(i, "name"),
                    "\"operator\" is the operators' own socket in log and metrics; take another");
    for (size_t k = 0; k < i; k++) {
        const struct config_listener *other = &config->listeners[k];
        if (other->name != NULL && strcmp(listener->name, other->name) == 0)
            check_error(checker, LISTENER(i, "name"), "listeners[%zu] has the same name", k);
        if (other->address.host != NULL && check_same_address(&listener->address, &other->address))
            check_error(checker, LISTENER(i, "address"), "listeners[%zu] has the same address", k);
    }
}

static void check_listener(struct checker *checker, size_t i)
{
    const struct config_listener *listener = &checker->config->listeners[i];

    if (listener->clients == CONFIG_CLIENTS_DEVICES)
        check_listener_devices(checker, i);
    else
        check_listener_operators(checker, i);
    if (listener->certificate_file != NULL && listener->key_file == NULL)
        check_error(checker, LISTENER(i, "certificate"), "needs its `key` as well");
    if (listener->certificate_file == NULL && listener->key_file != NULL)
        check_error(checker, LISTENER(i, "key"), "needs its `certificate` as well");
    if (listener->certificate_file == NULL && listener->n_certificates > 0)
        check_error(
            checker, LISTENER(i, "certificates"),
            "are for clients that ask for their names; others need `certificate` and `key`");
    check_listener_alone(checker, i);
}

static void check_listeners(struct checker *checker)
{
    const struct config *config = checker->config;
    bool has_devices = false;

    for (size_t i = 0; i < config->n_listeners; i++) {
        if (check_is_faulty(checker, "listeners", i))
            continue;
        check_listener(checker, i);
        has_devices |= config->listeners[i].clients == CONFIG_CLIENTS_DEVICES;
    }
    if (config->n_listeners == 0 && !check_is_faulty(checker, "listeners", CHECK_NO_INDEX))
        check_error(checker, SETTING(NULL, "listeners"), "at least one listener is needed");
    if (has_devices && config->n_device_cas == 0 &&
        !check_is_faulty(checker, "device_cas", CHECK_NO_INDEX))
        check_error(checker, SETTING(NULL, "device_cas"),
                    "a listener for devices needs at least one CA that signs their certificates");
}

/* --- groups ----------------------------------------------------------------------------------- */

static void check_group(struct checker *checker, size_t i)
{
    const struct enforcement_group *groups = checker->config->groups;

    if (!check_is_faulty(checker, "rotation", CHECK_NO_INDEX) &&
        check_age_is_crossed(&groups[i].rule))
        check_error(checker, (struct check_spot){"groups", i, "key_age"},
                    "overdue_after must not be shorter than due_after; what the group leaves out "
                    "is rotation.key_age's");
    for (size_t k = 0; k < i; k++) {
        if (groups[k].name != NULL && strcmp(groups[i].name, groups[k].name) == 0)
            check_error(checker, (struct check_spot){"groups", i, "name"},
                        "groups[%zu] has the same name", k);
    }
}

/* --- device CAs and backends ------------------------------------------------------------------ */

static void check_device_cas(struct checker *checker)
{
    const struct config_device_ca *cas = checker->config->device_cas;

    for (size_t i = 0; i < checker->config->n_device_cas; i++) {
        for (size_t k = 0; k < i; k++) {
            if (cas[i].name != NULL && cas[k].name != NULL && strcmp(cas[i].name, cas[k].name) == 0)
                check_error(checker, (struct check_spot){"device_cas", i, "name"},
                            "device_cas[%zu] has the same name", k);
        }
    }
}

static void check_backend_tls(struct checker *checker, size_t i)
{
    const struct config_backend *backend = &checker->config->backends[i];
    bool asks_for_more = backend->tls.ca_file != NULL || backend->tls.server_name != NULL ||
                         backend->tls.certificate_file != NULL || backend->tls.key_file != NULL;

    if (!backend->tls.enabled && asks_for_more)
        check_error(checker, BACKEND(i, "tls"), "is not in use without `enabled: true`");
    if ((backend->tls.certificate_file == NULL) != (backend->tls.key_file == NULL))
        check_error(checker, BACKEND(i, "tls"), "`certificate` and `key` need each other");
    for (size_t k = 0; k < backend->n_servers; k++) {
        if (backend->tls.enabled && backend->tls.server_name == NULL &&
            backend->servers[k].type == CONFIG_ADDRESS_UNIX)
            check_error(checker, BACKEND(i, "tls"),
                        "a Unix socket has no name to verify: set `server_name`");
    }
}

static void check_backend(struct checker *checker, size_t i)
{
    const struct config_backend *backends = checker->config->backends;

    if (backends[i].n_servers == 0)
        check_error(checker, BACKEND(i, "servers"), "at least one server is needed");
    for (size_t k = 0; k < backends[i].n_servers; k++) {
        const struct config_address *server = &backends[i].servers[k];
        if (server->type == CONFIG_ADDRESS_TCP && server->port == 0)
            check_error(checker, BACKEND(i, "servers"), "nobody can connect to port 0");
    }
    if (backends[i].keepalive_connections > backends[i].max_connections)
        check_error(checker, BACKEND(i, "keepalive_connections"),
                    "must not be greater than max_connections");
    check_backend_tls(checker, i);
    if (backends[i].ejection_base_ms > backends[i].ejection_max_ms)
        check_error(checker, BACKEND(i, "ejection"), "`base` must not be longer than `max`");
    for (size_t k = 0; k < i; k++) {
        if (backends[k].name != NULL && strcmp(backends[i].name, backends[k].name) == 0)
            check_error(checker, BACKEND(i, "name"), "backends[%zu] has the same name", k);
    }
}

void check_config(struct checker *checker)
{
    check_sections(checker);
    check_listeners(checker);
    check_device_cas(checker);
    for (size_t i = 0; i < checker->config->n_groups; i++) {
        if (!check_is_faulty(checker, "groups", i))
            check_group(checker, i);
    }
    for (size_t i = 0; i < checker->config->n_backends; i++) {
        if (!check_is_faulty(checker, "backends", i))
            check_backend(checker, i);
    }
    check_routes(checker);
}
