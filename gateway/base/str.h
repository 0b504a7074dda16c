/* SPDX-License-Identifier: BSD-2-Clause */
/* Borrowed pieces of text: pointer and length, not terminated. Whoever holds one says what it
 * borrows from. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "gateway/base/macros.h"

struct str {
    const char *p;
    size_t len;
};

#define STR(literal) ((struct str){(literal), sizeof(literal) - 1})
/* For printf's "%.*s". */
#define STR_ARGS(s) (int)(s).len, (s).p

static inline struct str str_c(const char *text)
{
    return (struct str){text, strlen(text)};
}

static inline bool str_eq(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

static inline bool str_starts(struct str s, struct str prefix)
{
    return s.len >= prefix.len && memcmp(s.p, prefix.p, prefix.len) == 0;
}

/* ASCII only, as HTTP has it. */
bool str_eq_nocase(struct str a, struct str b);

/* Without spaces and tabs at both ends. */
struct str str_trim(struct str s);

/* Cuts the next `separator`-delimited piece off *rest; false when *rest is used up. */
bool str_split(struct str *rest, char separator, struct str *out_piece);

/* Decimal digits only, no sign, no space; false on anything else and on overflow. */
bool str_to_u64(struct str s, uint64_t *out_value) MUST_CHECK;

/* Copies and terminates; false, with dst untouched, when it does not fit into `size` bytes. */
bool str_copy(char *dst, size_t size, struct str src) MUST_CHECK;

/* Cuts off what does not fit. For texts for people only. */
void str_copy_cut(char *dst, size_t size, struct str src);
