/* SPDX-License-Identifier: BSD-2-Clause */
/* Public keys as devices announce them: from PEM to the value that policy compares.
 *
 * Canonical form: the DER SubjectPublicKeyInfo, re-encoded as PEM. The key id is lower-case hex
 * SHA-256 of that DER.
 *
 * One key has one encoding: compressed points and other spellings of an allowed key are not
 * allowed, or a denied key could come back in another one (see spki.h). */
#pragma once

#include <stddef.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "policy/record.h"

enum pubkey_result {
    PUBKEY_OK,
    PUBKEY_INVALID,     /* not exactly one PEM "PUBLIC KEY" (white space around it is fine), or not
                           decodable */
    PUBKEY_NOT_ALLOWED, /* decodable, but not P-256/384/521 (named curve), Ed25519 or RSA of 2048 to
                           8192 bits */
};

/* Writes *out only on PUBKEY_OK. `pem` may hold any bytes, NULs included. */
enum pubkey_result pubkey_parse_pem(struct str pem, struct pubkey *out) MUST_CHECK;
