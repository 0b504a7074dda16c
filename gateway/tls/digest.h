/* SPDX-License-Identifier: BSD-2-Clause */
/* SHA-256 as policy knows it: lower-case hex. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "policy/record.h"

void digest_sha256(const uint8_t *data, size_t len, struct digest *out);
