/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/digest.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <openssl/evp.h>

#include "gateway/base/encode.h"

/* Fetched once: an implicit fetch takes a lock of the whole process, and this runs several times a
 * handshake. Constant after that, and needed until the process ends. */
static EVP_MD *sha256;
static pthread_once_t sha256_once = PTHREAD_ONCE_INIT;

static void fetch_sha256(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

void digest_sha256_bytes(const uint8_t *data, size_t len, uint8_t out[DIGEST_SIZE])
{
    (void)pthread_once(&sha256_once, fetch_sha256);
    if (sha256 == NULL || EVP_Digest(data, len, out, NULL, sha256, NULL) != 1) {
        /* As with memory: nothing that follows could be right. */
        fputs("device-gateway: OpenSSL cannot compute SHA-256\n", stderr);
        abort();
    }
}

void digest_sha256(const uint8_t *data, size_t len, struct digest *out)
{
    uint8_t hash[DIGEST_SIZE];

    digest_sha256_bytes(data, len, hash);
    encode_hex(hash, sizeof(hash), out->hex);
}
