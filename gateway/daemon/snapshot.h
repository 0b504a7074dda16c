/* SPDX-License-Identifier: BSD-2-Clause */
/* Everything that a reload replaces, as one immutable value: the configuration, its routes, and
 * each listener's and backend's TLS, and the addresses of the backends' servers.
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
#include "gateway/upstream/resolved.h"

struct snapshot {
    const struct config *config; /* ref */
    struct route_table *routes;  /* owned */
    struct tls_server *
        *tls_servers; /* owned array of config->n_listeners refs; NULL for listeners without TLS */
    struct tls_client *
        *tls_clients; /* owned array of config->n_backends refs; NULL for backends without TLS */
    struct resolved **resolved; /* owned array of config->n_backends refs; by snapshot_resolve() */
    atomic_uint refs;
};

/* Takes a reference to `config`. NULL on failure, with a sentence in `error`. */
struct snapshot *snapshot_new(const struct config *config, char *error,
                              size_t error_size) MUST_CHECK;
/* Where the backends' servers are; before anything is served by it. Blocks as long as the system's
 * resolver does. What `before` knows is taken over; NULL: nothing is known. False when a name does
 * not exist, with a sentence in `error`. */
bool snapshot_resolve(struct snapshot *snapshot, const struct snapshot *before, char *error,
                      size_t error_size) MUST_CHECK;
/* The same with the addresses that names have now; NULL when they are what they were. Blocks
 * likewise. */
struct snapshot *snapshot_renew(struct snapshot *snapshot) MUST_CHECK;
struct snapshot *snapshot_ref(struct snapshot *snapshot);
void snapshot_unref(struct snapshot **snapshot);

/* The TLS of the listener of that name; NULL when it has none or there is no such listener. */
struct tls_server *snapshot_tls_server(const struct snapshot *snapshot, const char *listener_name);
