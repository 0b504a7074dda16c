/* SPDX-License-Identifier: BSD-2-Clause */
/* From a client's certificate to the facts that policy judges.
 *
 * What counts as the device's name and what does not:
 * - exactly one common name, whatever its string type, that is a strict device name once converted
 * to UTF-8;
 * - the first OU is the factory. One that does not fit into LABEL_MAX or has control characters in
 * it makes the whole name invalid: a cut name could be another factory's, and dropping it would
 * change who the device says it is;
 * - businessCategory counts when it is exactly "production";
 * - a serial number longer than the 20 bytes of RFC 5280, 4.1.2.2 makes the name invalid, too: no
 * CRL could name it afterwards. */
#pragma once

#include <stdbool.h>

#include <openssl/x509.h>

#include "gateway/base/macros.h"
#include "gateway/tls/stream.h"

/* Writes everything into the zeroed *out but what is known of the handshake alone: issuer,
 * handshake, certificate_expired. False when memory is out. The texts are owned by *out then:
 * identity_clear(). Facts that do not depend on the verdict (digest, expiry, serial,
 * Client-Cert) are there for every certificate. */
bool identity_read(X509 *certificate, struct stream_peer *out) MUST_CHECK;
void identity_clear(struct stream_peer *peer);

/* Milliseconds since 1970; false when it is not a time. */
bool identity_time_ms(const ASN1_TIME *time, int64_t *out_ms) MUST_CHECK;
