/* SPDX-License-Identifier: BSD-2-Clause */
/* Time. Deadlines use the monotonic clock; what people and other machines read uses the wall clock.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/macros.h"

/* Milliseconds; counts on through changes of the wall clock. */
int64_t clock_monotonic_ms(void);
int64_t clock_monotonic_us(void);
/* Milliseconds since 1970. */
int64_t clock_wall_ms(void);

enum {
    CLOCK_RFC3339_SIZE = 32,   /* "2026-11-22T22:30:00.123Z" and the NUL */
    CLOCK_HTTP_DATE_SIZE = 32, /* "Sun, 22 Nov 2026 22:30:00 GMT" and the NUL (RFC 9110, 5.6.7) */
};

/* Both write an empty string for times outside the years 1-9999. */
void clock_format_rfc3339(int64_t wall_ms, char out[CLOCK_RFC3339_SIZE]);
void clock_format_http_date(int64_t wall_ms, char out[CLOCK_HTTP_DATE_SIZE]);
