/* SPDX-License-Identifier: BSD-2-Clause */
/* Which certificates were verified before: most devices come again with the certificate that they
 * had, and checking its chain costs more than finding it here.
 *
 *      chain ──▶ found, and its time is not over ──▶ as before
 *            └─▶ else: all checks ──▶ trusted ──▶ kept here
 *
 * A verdict is about the certificate and not about whoever shows it: that the client has the key is
 * proven in every full handshake. The table belongs to one tls_server, hence to one set of anchors,
 * CRLs, states and rules; a reload makes a new server, and the table begins empty. Only good verdicts
 * are kept, and only as long as nothing in them changes by itself: all certificates of the chain
 * and the issuer's CRL must be within their times. So nobody without a good certificate can fill it,
 * and a refusal is always judged anew.
 *
 * All memory is taken when the table is made (56 bytes a certificate) and becomes resident as it
 * fills. It is shared by all workers, because one of its own for each would have to learn every
 * certificate again; 16 locks, held for some compares, are nothing beside the handshake. A full one
 * replaces what was not used for the longest among eight. For any number of threads. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/macros.h"
#include "gateway/tls/digest.h"

struct verdicts;

struct chain_verdict {
    size_t issuer;             /* trust_ca_index(), SIZE_MAX: none */
    int64_t from_ms, until_ms; /* it stands from the one and before the other; wall clock */
};

/* capacity 0: nothing is kept. */
struct verdicts *verdicts_new(size_t capacity) MUST_CHECK;
void verdicts_free(struct verdicts **verdicts);

/* The certificate's verdict, when it stands at `now_ms`. */
bool verdicts_find(struct verdicts *verdicts, const uint8_t certificate[DIGEST_SIZE],
                   int64_t now_ms, struct chain_verdict *out) MUST_CHECK;
/* Replaces the one that there is. Without effect when `verdict` does not stand at `now_ms`. */
void verdicts_put(struct verdicts *verdicts, const uint8_t certificate[DIGEST_SIZE], int64_t now_ms,
                  const struct chain_verdict *verdict);
