/* SPDX-License-Identifier: BSD-2-Clause */
/* Everything that a reload replaces, as one immutable value: the configuration, its routes, and
 * each listener's and backend's TLS.
 *
 * Built whole or not at all; shared by all workers, which hold references (thread-safe). A request
 * is served to its end under the snapshot that it met; the next one on the same connection meets
 * the newest. */
#pragma once

#include <stdatomic.h>

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/route.h"
#include "gateway/tls/client.h"
#include "gateway/tls/server.h"

struct snapshot {
    const struct config *config; /* ref */
    struct route_table *routes;  /* owned */
    struct tls_server *
        *tls_servers; /* owned array of config->n_listeners refs; NULL for listeners without TLS */
    struct tls_client *
        *tls_clients; /* owned array of config->n_backends refs; NULL for backends without TLS */
    atomic_uint refs;
};

/* Takes a reference to `config`. NULL on failure, with a sentence in `error`. */
struct snapshot *snapshot_new(const struct config *config, char *error,
                              size_t error_size) MUST_CHECK;
struct snapshot *snapshot_ref(struct snapshot *snapshot);
void snapshot_unref(struct snapshot **snapshot);

/* The TLS of the listener of that name; NULL when it has none or there is no such listener. */
struct tls_server *snapshot_tls_server(const struct snapshot *snapshot, const char *listener_name);
