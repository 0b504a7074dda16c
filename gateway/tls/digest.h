/* SPDX-License-Identifier: BSD-2-Clause */
/* SHA-256, in bytes and as policy knows it: lower-case hex. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "policy/record.h"

enum { DIGEST_SIZE = 32 };

void digest_sha256_bytes(const uint8_t *data, size_t len, uint8_t out[DIGEST_SIZE]);
void digest_sha256(const uint8_t *data, size_t len, struct digest *out);
