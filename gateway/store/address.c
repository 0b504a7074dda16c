/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/address.h"

#include <stdio.h>

#include "gateway/base/str.h"
#include "gateway/store/link_tls.h"

static bool address_fails(char *error, size_t error_size, const char *sentence)
{
    (void)snprintf(error, error_size, "store.redis %s", sentence);
    return false;
}

static bool address_take_path(struct str path, struct store_address *out, char *error, size_t size)
{
    out->is_unix = true;
    return str_copy(out->path, sizeof(out->path), path) ||
           address_fails(error, size, "is a path longer than the 107 bytes that the kernel takes");
}

bool store_address_parse(const char *text, struct store_address *out, char *error,
                         size_t error_size)
{
    struct store_address parsed = {0};
    struct value_redis redis;

    const char *wrong = value_parse_redis(str_c(text), &redis);
    if (wrong != NULL)
        return address_fails(error, error_size, wrong);
    if (redis.address.is_unix) {
        if (!address_take_path(redis.address.host, &parsed, error, error_size))
            return false;
    } else {
        parsed.is_tls = redis.tls;
        parsed.port = redis.address.port;
        parsed.database = redis.database;
        if (!str_copy(parsed.host, sizeof(parsed.host), redis.address.host))
            return address_fails(error, error_size, "has too long a name");
    }
    *out = parsed;
    return true;
}

static bool address_has_tls(const struct store_address *address, char *error, size_t error_size)
{
    if (!address->is_tls || link_tls_is_available())
        return true;
    (void)
        snprintf(error, error_size,
                 "TLS to Redis needs a hiredis with TLS (1.0 or later, hiredis_ssl); this program "
                 "was built without");
    return false;
}

bool store_address_make(const struct config *config, struct str host, uint16_t port,
                        struct store_address *out, char *error, size_t error_size)
{
    struct store_address made = {.is_tls = config->store.tls, .port = port};

    if (host.len == 0 || memchr(host.p, '\0', host.len) != NULL ||
        !str_copy(made.host, sizeof(made.host), host)) {
        (void)snprintf(error, error_size, "\"%.*s\" is no host's name",
                       host.len < 64 ? (int)host.len : 64, host.p != NULL ? host.p : "");
        return false;
    }
    if (!address_has_tls(&made, error, error_size))
        return false;
    *out = made;
    return true;
}

bool store_address_equal(const struct store_address *a, const struct store_address *b)
{
    return a->is_unix == b->is_unix && a->is_tls == b->is_tls && a->port == b->port &&
           a->database == b->database && strcmp(a->host, b->host) == 0 &&
           strcmp(a->path, b->path) == 0;
}

void store_address_format(const struct store_address *address, char out[STORE_ADDRESS_TEXT_SIZE])
{
    bool is_bracketed = strchr(address->host, ':') != NULL;

    if (address->is_unix)
        str_copy_cut(out, STORE_ADDRESS_TEXT_SIZE, str_c(address->path));
    else
        (void)snprintf(out, STORE_ADDRESS_TEXT_SIZE, "%s%s%s:%u", is_bracketed ? "[" : "",
                       address->host, is_bracketed ? "]" : "", address->port);
}

bool store_address_choose(const struct config *config, const char *socket,
                          struct store_address *out, char *error, size_t error_size)
{
    struct store_address chosen = {0};

    if (socket != NULL) {
        if (!address_take_path(str_c(socket), &chosen, error, error_size))
            return false;
    } else if (config->store.redis == NULL) {
        return address_fails(error, error_size, "is missing, and so is an embedded store");
    } else if (!store_address_parse(config->store.redis, &chosen, error, error_size)) {
        return false;
    }
    if (!address_has_tls(&chosen, error, error_size))
        return false;
    *out = chosen;
    return true;
}
