/* SPDX-License-Identifier: BSD-2-Clause */
/* TLS sessions by their id: bounded, the one that was not used for the longest goes first. Split
 * into shards with a lock each, so that workers seldom wait for each other. For any number of
 * threads. */
#pragma once

#include <stddef.h>

#include <openssl/ssl.h>

#include "gateway/base/macros.h"

struct session_store;

/* At most about `capacity` sessions (> 0); exactly no more than it rounded up to whole shards. */
struct session_store *session_store_new(size_t capacity) MUST_CHECK;
void session_store_free(struct session_store **store);

/* Takes its own reference. Under an id that is there already it replaces. */
void session_store_put(struct session_store *store, SSL_SESSION *session);
/* The caller owns a reference; NULL: not here. */
SSL_SESSION *session_store_get(struct session_store *store, const unsigned char *id,
                               size_t id_len) MUST_CHECK;
void session_store_remove(struct session_store *store, const unsigned char *id, size_t id_len);
