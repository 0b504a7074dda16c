/* SPDX-License-Identifier: BSD-2-Clause */
/* What streams see of their client, inside this folder. */
#pragma once

#include <stdatomic.h>

#include <openssl/ssl.h>

#include "gateway/tls/client.h"

/* Immutable after tls_client_new() but for the references. */
struct tls_client {
    atomic_uint refs;
    SSL_CTX *context; /* owned */
};

/* Whom the certificate must name. */
bool tls_client_expect(SSL *ssl, const char *name) MUST_CHECK;

/* A handshake or a call failed: one sentence that says what about the server is wrong. Takes the
 * queue of OpenSSL's errors. */
void tls_client_explain(const SSL *ssl, char *out, size_t size);
