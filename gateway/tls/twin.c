/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/twin.h"

#include <string.h>

#include <openssl/asn1.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "gateway/base/mem.h"
#include "gateway/tls/digest.h"

BIGNUM *twin_order(const EVP_PKEY *issuer)
{
    BIGNUM *order = NULL;

    if (issuer != NULL && EVP_PKEY_is_a(issuer, "EC"))
        (void)EVP_PKEY_get_bn_param(issuer, OSSL_PKEY_PARAM_EC_ORDER, &order);
    ERR_clear_error();
    return order;
}

/* (r, n - s) in DER; its length, 0 on failure. OPENSSL_free() it. */
static size_t twin_signature(const ASN1_BIT_STRING *signature, const BIGNUM *order, uint8_t **out)
{
    const uint8_t *p = ASN1_STRING_get0_data(signature);
    ECDSA_SIG *pair = d2i_ECDSA_SIG(NULL, &p, ASN1_STRING_length(signature));
    BIGNUM *r = NULL, *s = BN_new();
    int len = -1;

    if (pair != NULL && s != NULL && BN_sub(s, order, ECDSA_SIG_get0_s(pair)) == 1 &&
        (r = BN_dup(ECDSA_SIG_get0_r(pair))) != NULL && ECDSA_SIG_set0(pair, r, s) == 1) {
        r = s = NULL; /* now the pair's */
        len = i2d_ECDSA_SIG(pair, out);
    }
    BN_free(r);
    BN_free(s);
    ECDSA_SIG_free(pair);
    return len > 0 ? (size_t)len : 0;
}

/* Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue BIT STRING }: a new
 * end behind `head`, the first two. */
static bool digest_with(const uint8_t *head, size_t head_len, const uint8_t *signature, size_t len,
                        struct digest *out)
{
    int bits_len = ASN1_object_size(0, (int)len + 1, V_ASN1_BIT_STRING);
    int content_len = (int)head_len + bits_len;
    int all_len = ASN1_object_size(1, content_len, V_ASN1_SEQUENCE);
    uint8_t *der = all_len > 0 ? mem_try_alloc((size_t)all_len) : NULL, *p = der;

    if (der == NULL)
        return false;
    ASN1_put_object(&p, 1, content_len, V_ASN1_SEQUENCE, V_ASN1_UNIVERSAL);
    memcpy(p, head, head_len);
    p += head_len;
    ASN1_put_object(&p, 0, (int)len + 1, V_ASN1_BIT_STRING, V_ASN1_UNIVERSAL);
    *p++ = 0; /* unused bits */
    memcpy(p, signature, len);
    digest_sha256(der, (size_t)all_len, out);
    mem_free(der);
    return true;
}

bool twin_digest(const X509 *certificate, const BIGNUM *order, struct digest *out)
{
    const ASN1_BIT_STRING *signature = NULL;
    uint8_t *der = NULL, *twin = NULL;
    const uint8_t *head;
    long content_len;
    int tag, class;
    bool good = false;

    X509_get0_signature(&signature, NULL, certificate);
    int der_len = i2d_X509(certificate, &der);
    size_t twin_len = twin_signature(signature, order, &twin);
    if (der_len > 0 && twin_len > 0) {
        int end_len = ASN1_object_size(0, ASN1_STRING_length(signature) + 1, V_ASN1_BIT_STRING);
        head = der;
        (void)ASN1_get_object(&head, &content_len, &tag, &class, der_len);
        good = digest_with(head, (size_t)(content_len - end_len), twin, twin_len, out);
    }
    OPENSSL_free(twin);
    OPENSSL_free(der);
    ERR_clear_error();
    return good;
}
