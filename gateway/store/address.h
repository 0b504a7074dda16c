/* SPDX-License-Identifier: BSD-2-Clause */
/* Where Redis is: store.redis, taken apart. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/macros.h"
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

/* The address that a store uses: `socket` when it is given, otherwise config->store.redis. Checks
 * what can be known before connecting: TLS without a hiredis that has it. */
bool store_address_choose(const struct config *config, const char *socket,
                          struct store_address *out, char *error, size_t error_size) MUST_CHECK;
