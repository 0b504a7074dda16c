/* SPDX-License-Identifier: BSD-2-Clause */
/* The other form of a certificate. Who sees an ECDSA signature (r, s) can write (r, n - s), n being
 * the order of the curve: that verifies as well. So each certificate that an ECDSA key has signed has
 * a twin, alike but for the signature, hence with another digest; its holder can show either. What
 * names certificates by digest to keep them out must know both. (RSA and EdDSA have no such thing.) */
#pragma once

#include <stdbool.h>

#include <openssl/bn.h>
#include <openssl/x509.h>

#include "gateway/base/macros.h"
#include "policy/record.h"

/* The order of the key's curve, owned by the caller; NULL: it makes no ECDSA signatures. */
BIGNUM *twin_order(const EVP_PKEY *issuer);

/* The digest of the twin of a certificate that a key with this `order` has signed. False: out of
 * memory. */
bool twin_digest(const X509 *certificate, const BIGNUM *order, struct digest *out) MUST_CHECK;
