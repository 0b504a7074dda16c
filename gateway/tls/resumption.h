/* SPDX-License-Identifier: BSD-2-Clause */
/* Which TLS sessions may be resumed, and for how long.
 *
 *      full handshake ──allow──▶ facts, one for all tickets that descend from it ──▶ store
 *      ClientHello with a ticket or session id ──▶ store ──▶ facts: same SNI? in time? not
 * forgotten? ──▶ resumed
 *
 * A session stays in this process: what the peer holds is a random id. It is bound
 * - to its listener and to the trust that verified it: the session id context, which OpenSSL
 * compares, and the store itself, which belongs to one tls_server;
 * - to the SNI, which OpenSSL does not compare at TLS 1.3: the facts;
 * - to the key, and all else that the certificate says: the facts.
 * The time counts from the full handshake, and ends no later than the certificate and its issuer's
 * CRL do: tickets that a resumed connection is given (clients use each only once) do not prolong
 * it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

#include "gateway/base/macros.h"
#include "gateway/tls/handshake.h"
#include "gateway/tls/stream.h"

struct resumption;

/* Once a process, before the first resumption_new(). */
void resumption_init(void);

/* capacity 0: nothing is ever resumed. */
struct resumption *resumption_new(size_t capacity, int64_t lifetime_ms) MUST_CHECK;
void resumption_free(struct resumption **resumption);
/* The context's callbacks look into `resumption`, which is borrowed and must outlive it. */
void resumption_install(struct resumption *resumption, SSL_CTX *context);

/* What must be known again on resumption, where there is no chain. */
struct session_origin {
    size_t issuer;        /* the caller's number; SIZE_MAX: none */
    int64_t not_after_ms; /* of the certificate or the CRL, whichever ends first */
    /* Borrowed. Its texts go over to the facts, and so to the notes: they live no shorter. */
    struct stream_peer *peer;
};

/* After the handshake, at most once a connection: stores the session, which at TLS 1.3 also sends a
 * ticket. `origin` is ignored on resumed connections: they go on with that of the full handshake.
 */
void resumption_allow(struct resumption *resumption, SSL *ssl, const struct session_origin *origin);
/* After a resumed handshake: takes the facts into the notes, and a copy of the peer's whose texts
 * are theirs. False when the session is not one of ours. */
bool resumption_recall(SSL *ssl, size_t *out_issuer, struct stream_peer *out) MUST_CHECK;
/* Neither this session nor any ticket that descends from the same full handshake is resumed again.
 */
void resumption_forget(struct resumption *resumption, SSL *ssl);

void session_facts_unref(struct session_facts **facts);
