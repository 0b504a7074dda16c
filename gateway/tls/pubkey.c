/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/pubkey.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include "gateway/tls/spki.h"

/* Base64 characters of the longest text that is looked at. Twice what an allowed key takes, so that
 * "too large a key" can still be told from "not a key". */
enum { BASE64_MAX = 4096 };

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static struct str trim_space(struct str s)
{
    while (s.len > 0 && is_space(s.p[0])) {
        s.p++;
        s.len--;
    }
    while (s.len > 0 && is_space(s.p[s.len - 1]))
        s.len--;
    return s;
}

/* What is between the two lines that must be the text's first and last. */
static bool take_body(struct str pem, struct str *out)
{
    const struct str begin = STR("-----BEGIN PUBLIC KEY-----"),
                     end = STR("-----END PUBLIC KEY-----");

    pem = trim_space(pem);
    if (pem.len < begin.len + end.len || !str_starts(pem, begin))
        return false;
    if (!str_eq((struct str){pem.p + pem.len - end.len, end.len}, end))
        return false;
    *out = (struct str){pem.p + begin.len, pem.len - begin.len - end.len};
    return true;
}

static bool is_base64(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' ||
           c == '/';
}

/* Drops white space; false for anything but the alphabet and, at the end, padding. */
static bool gather_base64(struct str body, uint8_t out[BASE64_MAX], size_t *out_len,
                          size_t *out_padding)
{
    size_t len = 0, padding = 0;

    for (size_t i = 0; i < body.len; i++) {
        char c = body.p[i];
        if (is_space(c))
            continue;
        if (c == '=' ? padding == 2 : padding > 0 || !is_base64(c))
            return false;
        padding += c == '=';
        if (len == BASE64_MAX)
            return false;
        out[len++] = (uint8_t)c;
    }
    *out_len = len;
    *out_padding = padding;
    return len > padding && len % 4 == 0;
}

/* Returns the length; 0 when it is not base64. */
static size_t decode_base64(struct str body, uint8_t out[BASE64_MAX / 4 * 3])
{
    uint8_t text[BASE64_MAX];
    size_t len, padding;

    if (!gather_base64(body, text, &len, &padding))
        return 0;
    int decoded = EVP_DecodeBlock(out, text, (int)len);
    return decoded > 0 ? (size_t)decoded - padding : 0;
}

static enum pubkey_result judge_der(const uint8_t *der, size_t len, struct pubkey *out)
{
    struct pubkey described;
    const uint8_t *p = der;
    enum pubkey_result result = PUBKEY_INVALID;
    X509_PUBKEY *key = d2i_X509_PUBKEY(NULL, &p, (long)len);

    if (key != NULL && p == der + len) {
        result = spki_describe(key, &described);
        /* Decodes the key proper: fails for a point that is not on its curve. */
        if (result == PUBKEY_OK && X509_PUBKEY_get0(key) == NULL)
            result = PUBKEY_INVALID;
    }
    X509_PUBKEY_free(key);
    ERR_clear_error();
    if (result == PUBKEY_OK)
        *out = described;
    return result;
}

enum pubkey_result pubkey_parse_pem(struct str pem, struct pubkey *out)
{
    uint8_t der[BASE64_MAX / 4 * 3];
    struct str body;

    if (!take_body(pem, &body))
        return PUBKEY_INVALID;
    size_t len = decode_base64(body, der);
    return len > 0 ? judge_der(der, len, out) : PUBKEY_INVALID;
}
