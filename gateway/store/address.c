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
    if (chosen.is_tls && !link_tls_is_available())
        return address_fails(error, error_size,
                             "with rediss:// needs a hiredis with TLS (1.0 or later, hiredis_ssl); "
                             "this program was built without");
    *out = chosen;
    return true;
}
