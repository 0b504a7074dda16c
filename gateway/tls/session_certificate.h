/* SPDX-License-Identifier: BSD-2-Clause */
/* A session without the peer's certificate.
 *
 * OpenSSL keeps the certificate, decoded and with its key, in the session, that is as long as the
 * connection lives and the session may be resumed: five kilobytes in a hundred pieces, of which
 * nothing is needed once the facts are copied (stream.h). There is no call that drops it, but
 * decoding a session into one that exists replaces all that the encoding has; so it is encoded,
 * the certificate is cut out, and what remains is decoded into the same session. */
#pragma once

#include <stdbool.h>

#include <openssl/ssl.h>

#include "gateway/base/macros.h"

/* Only while nobody else has the session. False when memory is out: it is as it was. Certificates
 * that came besides the peer's own stay. */
bool session_drop_certificate(SSL_SESSION *session) MUST_CHECK;
