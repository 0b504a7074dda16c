/* SPDX-License-Identifier: BSD-2-Clause */
/* OpenSSL's error queue, translated once, at the boundary.
 *
 * The queue belongs to the thread, so each call into OpenSSL whose errors matter is preceded by
 * ERR_clear_error(), and what is left after a failure is taken away here. The oldest entry counts:
 * it is the precise one, later ones only tell who called whom. */
#pragma once

#include <stddef.h>

#include "gateway/tls/stream.h"

/* Takes the whole queue of this thread and writes what its oldest entry says, in our words where we
 * have some
 * ("the client offered no certificate"), else in OpenSSL's. "unknown TLS error" for an empty queue.
 */
void openssl_error_take(char *out, size_t size);
/* Whose fault the queue's oldest entry is; leaves the queue as it is. */
enum stream_failure openssl_error_kind(void);
