/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/address.h"

#include <stdio.h>
#include <string.h>

#include "gateway/base/str.h"
#include "gateway/store/link_tls.h"

enum { REDIS_PORT = 6379 };

static bool address_fails(char *error, size_t error_size, const char *sentence)
{
    (void)snprintf(error, error_size, "store.redis: %s", sentence);
    return false;
}

/* "host", "host:port", "[::1]", "[::1]:port". */
static bool address_split_port(struct str authority, struct str *out_host, struct str *out_port)
{
    const char *colon;

    *out_port = (struct str){"", 0};
    if (authority.len > 0 && authority.p[0] == '[') {
        const char *end = memchr(authority.p, ']', authority.len);
        if (end == NULL)
            return false;
        *out_host = (struct str){authority.p + 1, (size_t)(end - authority.p) - 1};
        size_t used = out_host->len + 2;
        if (used == authority.len)
            return true;
        if (authority.p[used] != ':')
            return false;
        *out_port = (struct str){authority.p + used + 1, authority.len - used - 1};
        return out_port->len > 0;
    }
    colon = memchr(authority.p, ':', authority.len);
    if (colon == NULL) {
        *out_host = authority;
        return true;
    }
    *out_host = (struct str){authority.p, (size_t)(colon - authority.p)};
    *out_port = (struct str){colon + 1, authority.len - out_host->len - 1};
    return out_port->len > 0;
}

static bool address_parse_tcp(struct str rest, struct store_address *out, char *error, size_t size)
{
    struct str authority, host, port, database = rest;
    uint64_t number;

    if (!str_split(&database, '/', &authority) || memchr(authority.p, '@', authority.len) != NULL)
        return address_fails(error, size,
                             "expected host:port; user and password have settings of their own");
    if (!address_split_port(authority, &host, &port) || host.len == 0 ||
        !str_copy(out->host, sizeof(out->host), host))
        return address_fails(error, size, "expected \"redis://host:port\" or with a database, /N");
    out->port = REDIS_PORT;
    if (port.len > 0) {
        if (!str_to_u64(port, &number) || number == 0 || number > UINT16_MAX)
            return address_fails(error, size, "the port must be a number from 1 to 65535");
        out->port = (uint16_t)number;
    }
    if (database.p != NULL && database.len > 0) {
        if (!str_to_u64(database, &number) || number > INT32_MAX)
            return address_fails(error, size, "what follows the slash must be a database number");
        out->database = (uint32_t)number;
    }
    return true;
}

static bool address_parse_unix(struct str path, struct store_address *out, char *error, size_t size)
{
    out->is_unix = true;
    if (path.len == 0)
        return address_fails(error, size, "the socket's path is empty");
    if (!str_copy(out->path, sizeof(out->path), path))
        return address_fails(
            error, size, "the socket's path is longer than the 107 bytes that the kernel takes");
    return true;
}

bool store_address_parse(const char *text, struct store_address *out, char *error,
                         size_t error_size)
{
    static const struct str unix_scheme = {"unix:", 5}, tcp = {"redis://", 8},
                            tls = {"rediss://", 9};
    struct str s = str_c(text);
    struct store_address parsed = {0};
    bool is_valid;

    if (str_starts(s, unix_scheme)) {
        s = (struct str){s.p + unix_scheme.len, s.len - unix_scheme.len};
        is_valid = address_parse_unix(s, &parsed, error, error_size);
    } else if (str_starts(s, tcp) || str_starts(s, tls)) {
        parsed.is_tls = str_starts(s, tls);
        size_t scheme = parsed.is_tls ? tls.len : tcp.len;
        s = (struct str){s.p + scheme, s.len - scheme};
        is_valid = address_parse_tcp(s, &parsed, error, error_size);
    } else {
        is_valid = address_fails(error, error_size,
                                 "expected \"redis://host:port\", \"rediss://host:port\" or "
                                 "\"unix:/path\"");
    }
    if (is_valid)
        *out = parsed;
    return is_valid;
}

static bool address_prefix_is_valid(const char *prefix)
{
    size_t len = strlen(prefix);

    return len > 0 && len <= STORE_PREFIX_MAX && strpbrk(prefix, "{}\r\n ") == NULL;
}

bool store_address_choose(const struct config *config, const char *socket,
                          struct store_address *out, char *error, size_t error_size)
{
    struct store_address chosen = {0};

    if (!address_prefix_is_valid(config->store.prefix)) {
        (void)snprintf(error, error_size,
                       "store.prefix: expected 1 to %d characters without braces and spaces",
                       STORE_PREFIX_MAX);
        return false;
    }
    if (config->store.partitions > STORE_PARTITIONS_MAX) {
        (void)snprintf(error, error_size, "store.partitions: at most %d", STORE_PARTITIONS_MAX);
        return false;
    }
    if (socket != NULL) {
        if (!address_parse_unix(str_c(socket), &chosen, error, error_size))
            return false;
    } else if (config->store.redis == NULL) {
        return address_fails(error, error_size, "neither an address nor an embedded store");
    } else if (!store_address_parse(config->store.redis, &chosen, error, error_size)) {
        return false;
    }
    if (chosen.is_tls && !link_tls_is_available())
        return address_fails(error, error_size,
                             "rediss:// needs a hiredis with TLS (1.0 or later, hiredis_ssl); this "
                             "program was built without");
    *out = chosen;
    return true;
}
