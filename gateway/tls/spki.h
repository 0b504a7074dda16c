/* SPDX-License-Identifier: BSD-2-Clause */
/* SubjectPublicKeyInfo: which keys are allowed, and the one form in which each is compared.
 *
 * A key id is the hash of an encoding, so a key must have exactly one encoding, or a denied key
 * would come back in another one. Hence only DER as everybody writes it is allowed: uncompressed
 * points on curves named by their OID, RSA with NULL parameters, minimal lengths. Point
 * compression, which RFC 5480 leaves optional, is refused as not allowed. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <openssl/x509.h>

#include "gateway/base/macros.h"
#include "gateway/tls/pubkey.h"

/* No allowed key's encoding is longer: RSA 8192 takes 1.1 KB. */
enum { SPKI_MAX = 1152 };

/* PUBKEY_OK or PUBKEY_NOT_ALLOWED, by form and size alone: whether a point is on its curve is not
 * looked at, because a certificate's key was used by TLS before and pubkey_parse_pem() decodes.
 * Writes *out only on PUBKEY_OK. */
enum pubkey_result spki_describe_der(const uint8_t *der, size_t len, struct pubkey *out) MUST_CHECK;
/* The same for a decoded one: re-encoded, then judged. */
enum pubkey_result spki_describe(const X509_PUBKEY *key, struct pubkey *out) MUST_CHECK;
