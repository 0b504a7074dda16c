/* SPDX-License-Identifier: BSD-2-Clause */
/* TLS below a connection to Redis, where the installed hiredis has it: link_tls.c with hiredis_ssl,
 * link_plain.c without. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "gateway/base/macros.h"

struct redisContext;

bool link_tls_is_available(void);

/* Puts TLS (1.2 or later) over a connected context, blocking or not: without blocking, the first
 * reads and writes finish the handshake. The server must show a certificate for `host` that was
 * issued under `ca_file` (NULL: the system's CAs). False with a sentence in `error`. */
bool link_tls_start(struct redisContext *context, const char *host, const char *ca_file,
                    char *error, size_t error_size) MUST_CHECK;
