/* SPDX-License-Identifier: BSD-2-Clause */
/* Whom a listener trusts, and the judgement on a client's chain.
 *
 * **Anchors.** For devices, the first certificate of each device CA's file is a trust anchor by
 * itself (partial chains): the administrator names the issuing CA, so what stands above it in the
 * file is checked once, when it is loaded, and costs no signature check at each handshake. The root
 * need not be there. For operators, each certificate of the bundle is an anchor. An anchor's own
 * expiry counts, nothing above it does.
 *
 * **Strictness.** X509_V_FLAG_X509_STRICT, less what stock certificates would fail for:
 * - a leaf without authority key identifier, which strict mode demands of everything but the last
 * in the chain, and which `openssl x509 -req` leaves out before OpenSSL 3.2 (a leaf's subject key
 * identifier is never demanded);
 * - an anchor without subject key identifier or key usage, or whose basic constraints are not
 * critical: RFC 5280, 6.1 does not process an anchor's extensions, and the CA of a fleet in the
 * field cannot be made anew;
 * - a leaf that is a CA in any form: it is not refused here but told as PEER_IS_CA, so that the
 * device can read why.
 *
 * **CRLs** are checked by us instead of by OpenSSL, which would check the CRL's signature again at
 * each handshake: here it is checked when it is loaded. An issuer without a CRL is not an error;
 * one whose CRL has expired (nextUpdate) has all its certificates refused until a reload brings a
 * newer one.
 *
 * Immutable, so for any number of threads. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/x509_vfy.h>

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/tls/handshake.h"
#include "gateway/tls/pem_file.h"
#include "gateway/tls/verdicts.h"
#include "policy/record.h"

struct trust_ca {
    char name[LABEL_MAX + 1]; /* as configured; "" for operators */
    enum issuer_state state;  /* UNKNOWN for operators */
    X509 *certificate;        /* owned */
    struct digest digest;     /* of the certificate */
    BIGNUM *order;            /* owned; of its key's curve, see twin.h; NULL: none */
    X509_CRL *crl;            /* owned; NULL: none is configured */
    int64_t crl_expires_ms;   /* INT64_MAX: never */
};

struct trust;

/* The device CAs of the configuration, or the bundle of the operators' listener. NULL with a
 * sentence on failure. */
struct trust *trust_new_devices(const struct config *config, struct sentence error) MUST_CHECK;
struct trust *trust_new_operators(const char *path, struct sentence error) MUST_CHECK;
void trust_free(struct trust **trust);

/* Makes `context` verify against these anchors. With `announce`, their subjects are the
 * certificate_authorities. */
void trust_install(const struct trust *trust, SSL_CTX *context, bool announce);
/* For the callback of SSL_CTX_set_verify(): same arguments and result. Writes error and expiry into
 * the notes. */
int trust_verify(const struct trust *trust, int good, X509_STORE_CTX *verification,
                 struct handshake_notes *notes);

/* For a verified chain: who vouches for it, and from when until when that stands, by the times of
 * all its certificates, its anchor's included, and of the issuer's CRL. */
void trust_conclude(const struct trust *trust, STACK_OF(X509) * chain, struct chain_verdict *out);
/* The anchor that vouches for a verified chain: for devices, the leaf's own issuer and nothing
 * above it; for operators, any. NULL: none. */
const struct trust_ca *trust_find_issuer(const struct trust *trust, STACK_OF(X509) * chain);
/* A number for the life of `trust`, for places that outlive pointers into it. trust_ca_at() gives
 * NULL for none. */
size_t trust_ca_index(const struct trust *trust, const struct trust_ca *ca);
const struct trust_ca *trust_ca_at(const struct trust *trust, size_t index);
/* By both; NULL: none. */
const struct trust_ca *trust_find(const struct trust *trust, const char *name,
                                  const struct digest *certificate);
/* Serial as in struct stream_peer. */
bool trust_is_revoked(const struct trust_ca *ca, const char *serial);
/* SHA-256 over everything above: names, certificates, states, CRLs. */
void trust_fingerprint(const struct trust *trust, struct digest *out);
