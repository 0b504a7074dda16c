/* SPDX-License-Identifier: BSD-2-Clause */
/* An announced key: any bytes, judged; and what is taken has exactly one form, OpenSSL's own. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509.h>

#include "gateway/tls/pubkey.h"
#include "gateway/tls/spki.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_der(const uint8_t *data, size_t size)
{
    struct pubkey key;
    const uint8_t *p = data;
    uint8_t *again = NULL;

    if (spki_describe_der(data, size, &key) != PUBKEY_OK)
        return;
    EVP_PKEY *decoded = d2i_PUBKEY(NULL, &p, (long)size);
    /* NULL: the point is not on its curve. */
    if (decoded != NULL &&
        (i2d_PUBKEY(decoded, &again) != (int)size || memcmp(again, data, size) != 0))
        abort();
    OPENSSL_free(again);
    EVP_PKEY_free(decoded);
    ERR_clear_error();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pubkey key, again;

    check_der(data, size);
    if (pubkey_parse_pem((struct str){(const char *)data, size}, &key) != PUBKEY_OK)
        return 0;
    if (pubkey_parse_pem(str_c(key.pem), &again) != PUBKEY_OK || strcmp(key.pem, again.pem) != 0 ||
        !digest_equal(&key.id, &again.id) || ERR_peek_error() != 0)
        abort();
    return 0;
}
