/* SPDX-License-Identifier: BSD-2-Clause */
/* What is asked of the store once, blocking, before the workers start. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/config/config.h"

enum store_startup {
    STORE_STARTUP_READY,
    STORE_STARTUP_UNREACHABLE, /* may come later: the daemon starts and is not ready until then */
    STORE_STARTUP_WRONG, /* must not be used: other partitions, too old, wrong credentials… */
};

/* Finds the server (behind sentinels, or in a Cluster), connects (within connect_timeout, each),
 * authenticates, checks the server's version, writes or compares
 * <prefix>:{p00}:partitions, and warns in the log when the server's persistence would lose acknowledged
 * transitions (no AOF, appendfsync not "always"), or when maxmemory-policy may evict. `socket` as
 * in store_new(). `error` gets a sentence unless READY. */
enum store_startup store_startup_check(const struct config *config, const char *socket, char *error,
                                       size_t error_size) MUST_CHECK;

/* Can the files that the store's settings name be read? Connects to nothing. */
bool store_startup_check_files(const struct config *config, char *error,
                               size_t error_size) MUST_CHECK;
