/* SPDX-License-Identifier: BSD-2-Clause */
/* Bytes as text, and random ones. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/macros.h"

/* Lower case; writes 2 * len characters and a NUL. */
void encode_hex(const uint8_t *data, size_t len, char *out);

/* The size that encode_base64() needs, NUL included. */
#define ENCODE_BASE64_SIZE(len) (((len) + 2) / 3 * 4 + 1)
/* Standard alphabet, padded, in one line. Returns the length without the NUL. */
size_t encode_base64(const uint8_t *data, size_t len, char *out);

/* Decimal digits, with a '-' for negative numbers; no NUL. Returns the length. */
enum { ENCODE_DECIMAL_MAX = 21 };
size_t encode_decimal(int64_t value, char out[ENCODE_DECIMAL_MAX]);
size_t encode_unsigned(uint64_t value, char out[ENCODE_DECIMAL_MAX - 1]);

/* From the kernel. Ends the process when the kernel has none: nothing could be safe then. */
void random_bytes(void *out, size_t len);
/* Hex of `n_bytes` random bytes; writes 2 * n_bytes characters and a NUL. n_bytes <= 32. */
void random_hex(size_t n_bytes, char *out);
/* Evenly in [0, bound); 0 for bound 0. For jitter. */
uint32_t random_below(uint32_t bound);
