/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/base/str.h"

static char str_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

bool str_eq_nocase(struct str a, struct str b)
{
    if (a.len != b.len)
        return false;
    for (size_t i = 0; i < a.len; i++) {
        if (str_lower(a.p[i]) != str_lower(b.p[i]))
            return false;
    }
    return true;
}

struct str str_trim(struct str s)
{
    while (s.len > 0 && (s.p[0] == ' ' || s.p[0] == '\t')) {
        s.p++;
        s.len--;
    }
    while (s.len > 0 && (s.p[s.len - 1] == ' ' || s.p[s.len - 1] == '\t'))
        s.len--;
    return s;
}

bool str_split(struct str *rest, char separator, struct str *out_piece)
{
    if (rest->p == NULL)
        return false;

    const char *end = rest->len > 0 ? memchr(rest->p, separator, rest->len) : NULL;
    if (end == NULL) {
        *out_piece = *rest;
        *rest = (struct str){NULL, 0};
        return true;
    }
    size_t len = (size_t)(end - rest->p);
    *out_piece = (struct str){rest->p, len};
    *rest = (struct str){end + 1, rest->len - len - 1};
    return true;
}

bool str_to_u64(struct str s, uint64_t *out_value)
{
    uint64_t value = 0;

    if (s.len == 0)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(s.p[i] - '0'), &value))
            return false;
    }
    *out_value = value;
    return true;
}

bool str_copy(char *dst, size_t size, struct str src)
{
    if (src.len >= size)
        return false;
    if (src.len > 0)
        memcpy(dst, src.p, src.len);
    dst[src.len] = '\0';
    return true;
}

void str_copy_cut(char *dst, size_t size, struct str src)
{
    if (src.len >= size)
        src.len = size - 1;
    if (src.len > 0)
        memcpy(dst, src.p, src.len);
    dst[src.len] = '\0';
}
