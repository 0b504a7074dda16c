/* SPDX-License-Identifier: BSD-2-Clause */
/* A certificate that a CA signed without looking: whatever is in it, a name that passes is a strict
 * one. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509.h>

#include "gateway/tls/identity.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_identified(const struct stream_peer *peer)
{
    const struct credentials *credentials = &peer->credentials;

    if (!device_name_is_valid(credentials->device, strlen(credentials->device)) ||
        !digest_is_set(&credentials->key.id) || credentials->key.pem[0] != '-' ||
        strpbrk(credentials->factory, "\r\n\t\x7f") != NULL)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stream_peer peer = {0};
    X509 *certificate = d2i_X509(NULL, &data, (long)size);

    ERR_clear_error();
    if (certificate == NULL)
        return 0;
    if (identity_read(certificate, &peer)) {
        if (peer.identity == PEER_IDENTIFIED)
            check_identified(&peer);
        if (!digest_is_set(&peer.credentials.certificate) ||
            peer.credentials.certificate_expires_ms <= 0 || peer.client_cert[0] != ':')
            abort();
    }
    identity_clear(&peer);
    X509_free(certificate);
    return 0;
}
