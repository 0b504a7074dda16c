/* SPDX-License-Identifier: BSD-2-Clause */
/* Refusals that a device can read: application/problem+json (RFC 9457), one shape for every reason.
 */
#pragma once

#include <stdint.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "policy/reason.h"

enum { PROBLEM_MAX = 1536 };

/* {"type":"urn:device-gateway:reason:key-denied","title":…,"status":403,"reason":"key-denied","detail":…,"request_id":…}
 * `detail` may be NULL; it is escaped and cut to what fits. Returns the length. */
size_t problem_format(enum reason reason, const char *detail, const char *request_id,
                      char out[PROBLEM_MAX]);

/* Seconds for Retry-After; 0: send none. After an overload or an outage a fleet must not come back
 * in one moment: 5 s and up to 5 more, which `random`, any number, decides. Always 503, never 429:
 * stock agents take a 4xx for final. */
int problem_retry_after(enum reason reason, uint32_t random);
