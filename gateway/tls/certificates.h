/* SPDX-License-Identifier: BSD-2-Clause */
/* A listener's own certificates, and which of them a client gets.
 *
 *      SNI ──▶ a name of some certificate, or "*." in place of its first label ──▶ that one
 *          └─▶ none, or unknown ──▶ the listener's `certificate`
 *
 * A certificate's names are its DNS names (subjectAltName); without any, its common name. When two
 * certificates have a name in common, the first in the configuration's order gets it; `certificate`
 * comes before `certificates`. Two with the same names and keys of different kinds (RSA beside EC)
 * stand beside each other: OpenSSL takes the one whose signatures the client understands.
 *
 * Each set of names has an SSL_CTX of its own, all made alike but for the certificate. Immutable,
 * so for any number of threads. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/tls/pem_file.h"

struct certificates;

/* Makes one more context, without a certificate; NULL with a sentence on failure. */
typedef SSL_CTX *certificates_context_fn(void *arg, struct sentence error);

/* Loads all of the listener's. NULL with a sentence on failure. */
struct certificates *certificates_new(const struct config_listener *listener,
                                      certificates_context_fn *make, void *arg,
                                      struct sentence error) MUST_CHECK;
void certificates_free(struct certificates **certificates);

/* When the first of them expires, in ms since 1970. */
int64_t certificates_expire_ms(const struct certificates *certificates);
/* For clients that name no server, or one that is not known. */
SSL_CTX *certificates_default(const struct certificates *certificates);
/* `name` in lower case; the default when it is unknown. Borrowed. */
SSL_CTX *certificates_find(const struct certificates *certificates, const char *name);
