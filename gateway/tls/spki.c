/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/spki.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "gateway/base/encode.h"
#include "gateway/tls/digest.h"

/* Keys of one size have the same bytes in front of the key proper: the SEQUENCEs, the OIDs, the BIT
 * STRING's head and, for curves, the 04 of an uncompressed point. */
struct fixed_form {
    uint8_t prefix[26 + 1];
    size_t prefix_len;
    size_t key_len;
};

static const struct fixed_form fixed_forms[] = {
    /* P-256 */
    {{0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
      0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04},
     27,
     64},
    /* P-384 */
    {{0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
      0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00, 0x04},
     24,
     96},
    /* P-521 */
    {{0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02,
      0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23, 0x03, 0x81, 0x86, 0x00, 0x04},
     26,
     132},
    /* Ed25519 */
    {{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, 12, 32},
};

static bool is_fixed_form(const uint8_t *der, size_t len)
{
    for (size_t i = 0; i < ARRAY_SIZE(fixed_forms); i++) {
        const struct fixed_form *form = &fixed_forms[i];
        if (len == form->prefix_len + form->key_len &&
            memcmp(der, form->prefix, form->prefix_len) == 0)
            return true;
    }
    return false;
}

struct der {
    const uint8_t *p;
    size_t len;
};

/* X.690, 10.1: the length in as few bytes as possible. Two bytes of length are enough for SPKI_MAX.
 */
static bool der_take_length(struct der *in, size_t *out_len)
{
    if (in->len < 1)
        return false;
    size_t len = in->p[0], n_bytes = 1;
    if (len == 0x81 && in->len >= 2 && in->p[1] >= 0x80) {
        len = in->p[1];
        n_bytes = 2;
    } else if (len == 0x82 && in->len >= 3 && in->p[1] != 0) {
        len = (size_t)in->p[1] << 8 | in->p[2];
        n_bytes = 3;
    } else if (len >= 0x80) {
        return false;
    }
    in->p += n_bytes;
    in->len -= n_bytes;
    *out_len = len;
    return len <= in->len;
}

/* Cuts the element off *in, which must begin with it. */
static bool der_take(struct der *in, uint8_t tag, struct der *out_content)
{
    size_t len;

    if (in->len < 1 || in->p[0] != tag)
        return false;
    in->p++;
    in->len--;
    if (!der_take_length(in, &len))
        return false;
    *out_content = (struct der){in->p, len};
    in->p += len;
    in->len -= len;
    return true;
}

/* A positive odd INTEGER, minimally encoded; *out begins with its first byte that is not zero. */
static bool der_take_odd(struct der *in, struct der *out)
{
    struct der number;

    if (!der_take(in, 0x02, &number) || number.len == 0 || (number.p[0] & 0x80) != 0)
        return false;
    if (number.p[0] == 0) {
        if (number.len == 1 || (number.p[1] & 0x80) == 0)
            return false;
        number.p++;
        number.len--;
    }
    *out = number;
    return (number.p[number.len - 1] & 1) != 0;
}

static bool rsa_numbers_are_allowed(struct der modulus, struct der exponent)
{
    /* 2048 bits: 256 bytes, the first of them with its highest bit set. */
    bool strong = modulus.len > 256 || (modulus.len == 256 && (modulus.p[0] & 0x80) != 0);
    bool exponent_is_one = exponent.len == 1 && exponent.p[0] == 1;

    return strong && modulus.len <= 1024 && exponent.len <= 8 && !exponent_is_one;
}

static bool is_allowed_rsa(const uint8_t *data, size_t len)
{
    static const uint8_t algorithm[] = {0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
                                        0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00};
    struct der rest = {data, len}, info, bits, numbers, modulus, exponent;

    if (!der_take(&rest, 0x30, &info) || rest.len != 0 || info.len < sizeof(algorithm) ||
        memcmp(info.p, algorithm, sizeof(algorithm)) != 0)
        return false;
    info.p += sizeof(algorithm);
    info.len -= sizeof(algorithm);
    if (!der_take(&info, 0x03, &bits) || info.len != 0 || bits.len < 1 || bits.p[0] != 0)
        return false;
    bits.p++;
    bits.len--;
    if (!der_take(&bits, 0x30, &numbers) || bits.len != 0 || !der_take_odd(&numbers, &modulus) ||
        !der_take_odd(&numbers, &exponent) || numbers.len != 0)
        return false;
    return rsa_numbers_are_allowed(modulus, exponent);
}

/* RFC 7468: lines of 64 characters, thus of 48 bytes. */
static void write_pem(const uint8_t *der, size_t len, char *out)
{
    static const char begin[] = "-----BEGIN PUBLIC KEY-----\n",
                      end[] = "-----END PUBLIC KEY-----\n";
    char *p = out;

    static_assert(sizeof(begin) + sizeof(end) + ENCODE_BASE64_SIZE(SPKI_MAX) + SPKI_MAX / 48 + 1 <=
                      PUBKEY_PEM_MAX,
                  "every allowed key fits into struct pubkey");
    memcpy(p, begin, sizeof(begin) - 1);
    p += sizeof(begin) - 1;
    for (size_t at = 0; at < len; at += 48) {
        p += encode_base64(der + at, len - at < 48 ? len - at : 48, p);
        *p++ = '\n';
    }
    memcpy(p, end, sizeof(end));
}

enum pubkey_result spki_describe_der(const uint8_t *der, size_t len, struct pubkey *out)
{
    if (len > SPKI_MAX || (!is_fixed_form(der, len) && !is_allowed_rsa(der, len)))
        return PUBKEY_NOT_ALLOWED;
    digest_sha256(der, len, &out->id);
    write_pem(der, len, out->pem);
    return PUBKEY_OK;
}

enum pubkey_result spki_describe(const X509_PUBKEY *key, struct pubkey *out)
{
    uint8_t der[SPKI_MAX], *p = der;
    int len = i2d_X509_PUBKEY(key, NULL);

    if (len <= 0 || len > SPKI_MAX)
        return PUBKEY_NOT_ALLOWED;
    len = i2d_X509_PUBKEY(key, &p);
    return len > 0 ? spki_describe_der(der, (size_t)len, out) : PUBKEY_NOT_ALLOWED;
}
