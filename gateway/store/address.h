/* SPDX-License-Identifier: BSD-2-Clause */
/* Where a server is. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "gateway/config/config.h"
#include "gateway/config/value.h"

enum { STORE_HOST_MAX = 253 }; /* a DNS name (RFC 1035, 2.3.4, as text) */

struct store_address {
    bool is_unix;
    bool is_tls;
    char host[STORE_HOST_MAX + 1]; /* a name or a numeric address, without brackets; TCP only */
    uint16_t port;
    uint32_t database;
    char path[VALUE_SOCKET_PATH_MAX + 1]; /* the socket's path; Unix only */
};

/* What value_parse_redis() accepts, if a socket's path can be so long. False with a sentence in
 * `error`. */
bool store_address_parse(const char *text, struct store_address *out, char *error,
                         size_t error_size) MUST_CHECK;

/* One of those that the configuration lists, or that a sentinel or a Cluster's node names: with TLS
 * when store.tls says so. `host`: a name or a numeric address, without brackets. */
bool store_address_make(const struct config *config, struct str host, uint16_t port,
                        struct store_address *out, char *error, size_t error_size) MUST_CHECK;

bool store_address_equal(const struct store_address *a, const struct store_address *b);

/* For the log: "host:port", or the path. */
enum { STORE_ADDRESS_TEXT_SIZE = STORE_HOST_MAX + 16 };
void store_address_format(const struct store_address *address, char out[STORE_ADDRESS_TEXT_SIZE]);

/* The address of a store that nobody has to be asked for: `socket` when it is given, otherwise
 * config->store.redis. Checks what can be known before connecting: TLS without a hiredis that has
 * it. */
bool store_address_choose(const struct config *config, const char *socket,
                          struct store_address *out, char *error, size_t error_size) MUST_CHECK;
