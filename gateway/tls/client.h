/* SPDX-License-Identifier: BSD-2-Clause */
/* What a backend needs for TLS: whom it trusts, and the certificate that we show.
 *
 * Built whole from files, immutable afterwards, shared by all workers (thread-safe). Its streams
 * behave as all others (stream.h), but that we speak first: TLS 1.2 or 1.3, security level 2, no
 * renegotiation.
 *
 * The server's chain must lead to a certificate of tls.ca_file (an issuing CA will do; its root need
 * not be there), or to the system's CAs when there is none; and one of its subject alternative names
 * must be the one that is expected: a DNS name (which is also asked for, by SNI) or an IP address.
 * The common name is not looked at, a wildcard stands for one whole label. No setting switches this
 * off. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/tls/stream.h"

struct tls_client;

/* What a server gave us to resume with. For that server, and streams of that `client`, alone. */
struct tls_session;

/* NULL on failure, with a sentence that names the file and the mend in `error`. */
struct tls_client *tls_client_new(const struct config_backend *backend, char *error,
                                  size_t error_size) MUST_CHECK;
struct tls_client *tls_client_ref(struct tls_client *client); /* thread-safe */
void tls_client_unref(struct tls_client **client);            /* thread-safe; NULL inside is fine */

/* Takes over the connected, non-blocking socket: stream_free() closes it. `client` is borrowed and
 * must outlive the stream. `name`: DNS name or numeric address that the certificate must have.
 * `session` is borrowed for the call; NULL: none. */
struct stream *tls_client_stream(struct tls_client *client, int fd, const char *name,
                                 struct tls_session *session) MUST_CHECK;

/* The newest session that the server gave on this connection; owned by the caller; NULL: none. */
struct tls_session *tls_client_take_session(struct stream *stream) MUST_CHECK;
void tls_session_free(struct tls_session **session); /* NULL inside is fine */
