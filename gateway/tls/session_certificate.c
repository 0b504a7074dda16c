/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/session_certificate.h"

#include <string.h>

#include <openssl/asn1.h>
#include <openssl/crypto.h>

/* In OpenSSL's SSL_SESSION_ASN1, the same in all versions, since sessions are kept in files. */
enum { PEER_TAG = 3 };

/* Cuts the certificate out of the encoded session. What remains begins at *out, further behind. */
static bool cut_certificate(unsigned char *der, size_t size, const unsigned char **out,
                            size_t *out_len)
{
    const unsigned char *p = der, *end = der + size;
    long len;
    int tag, class;

    if ((ASN1_get_object(&p, &len, &tag, &class, (long)size) & 0x80) != 0)
        return false;
    size_t content = (size_t)(p - der), cut = 0;
    while (p < end && cut == 0) {
        size_t element = (size_t)(p - der);
        if ((ASN1_get_object(&p, &len, &tag, &class, end - p) & 0x80) != 0)
            return false;
        p += len;
        if (class == V_ASN1_CONTEXT_SPECIFIC && tag == PEER_TAG) {
            cut = (size_t)(p - der) - element;
            memmove(der + element, p, (size_t)(end - p));
        }
    }
    int rest = (int)(size - content - cut), whole = ASN1_object_size(1, rest, V_ASN1_SEQUENCE);
    unsigned char *head = der + content - (whole - rest);
    *out = head;
    *out_len = (size_t)whole;
    ASN1_put_object(&head, 1, rest, V_ASN1_SEQUENCE, V_ASN1_UNIVERSAL);
    return cut > 0;
}

bool session_drop_certificate(SSL_SESSION *session)
{
    unsigned char *der = NULL;
    const unsigned char *rest;
    size_t len;
    int size;

    if (SSL_SESSION_get0_peer(session) == NULL)
        return true;
    if ((size = i2d_SSL_SESSION(session, &der)) <= 0)
        return false;
    bool dropped = cut_certificate(der, (size_t)size, &rest, &len) &&
                   d2i_SSL_SESSION(&session, &rest, (long)len) != NULL;
    OPENSSL_clear_free(der, (size_t)size);
    return dropped;
}
