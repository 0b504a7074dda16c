/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/base/encode.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

void encode_hex(const uint8_t *data, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[data[i] >> 4];
        out[2 * i + 1] = digits[data[i] & 15];
    }
    out[2 * len] = '\0';
}

size_t encode_base64(const uint8_t *data, size_t len, char *out)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *p = out;

    for (size_t i = 0; i < len; i += 3) {
        uint32_t group = (uint32_t)data[i] << 16;
        if (i + 1 < len)
            group |= (uint32_t)data[i + 1] << 8;
        if (i + 2 < len)
            group |= data[i + 2];
        *p++ = alphabet[group >> 18];
        *p++ = alphabet[(group >> 12) & 63];
        *p++ = i + 1 < len ? alphabet[(group >> 6) & 63] : '=';
        *p++ = i + 2 < len ? alphabet[group & 63] : '=';
    }
    *p = '\0';
    return (size_t)(p - out);
}

size_t encode_unsigned(uint64_t value, char out[ENCODE_DECIMAL_MAX - 1])
{
    char digits[ENCODE_DECIMAL_MAX];
    size_t n = 0, len = 0;

    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    while (n > 0)
        out[len++] = digits[--n];
    return len;
}

size_t encode_decimal(int64_t value, char out[ENCODE_DECIMAL_MAX])
{
    if (value >= 0)
        return encode_unsigned((uint64_t)value, out);
    out[0] = '-';
    return 1 + encode_unsigned(0 - (uint64_t)value, out + 1);
}

void random_bytes(void *out, size_t len)
{
    char *at = out;

    while (len > 0) {
        ssize_t n = getrandom(at, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            fputs("device-gateway: the kernel gives no random bytes\n", stderr);
            abort();
        }
        at += n;
        len -= (size_t)n;
    }
}

void random_hex(size_t n_bytes, char *out)
{
    uint8_t bytes[32];

    assert(n_bytes <= sizeof(bytes));
    random_bytes(bytes, n_bytes);
    encode_hex(bytes, n_bytes, out);
}

uint32_t random_below(uint32_t bound)
{
    uint32_t value;

    random_bytes(&value, sizeof(value));
    return (uint32_t)(((uint64_t)value * bound) >> 32);
}
