/* SPDX-License-Identifier: BSD-2-Clause */
/* What OpenSSL's callbacks learn of one connection. Embedded in the stream, and the SSL object's
 * app data. */
#pragma once

#include <stdbool.h>

#include <openssl/ssl.h>

enum {
    HANDSHAKE_ERROR_MAX = 255,
    HANDSHAKE_NAME_MAX = 255, /* RFC 1035: no host name is longer */
};

struct session_facts;

struct handshake_notes {
    char error[HANDSHAKE_ERROR_MAX + 1]; /* one sentence, or empty: the first precise one stays */
    char server_name[HANDSHAKE_NAME_MAX + 1]; /* SNI in lower case */
    bool certificate_refused;                 /* the client's chain is not trusted */
    bool can_resume;          /* at TLS 1.3: the client said that it takes tickets */
    bool certificate_expired; /* and let through within the grace */
    size_t issuer;     /* after a full handshake: trust_ca_index() of who vouches; SIZE_MAX: none */
    bool close_notify; /* the peer has ended its side in order */
    SSL_SESSION *session; /* owned: of a client, the newest that the server gave */
    struct session_facts
        *facts; /* ref, from resumption_allow() or the resumed session; else NULL */
};

static inline struct handshake_notes *handshake_notes(const SSL *ssl)
{
    return SSL_get_app_data(ssl);
}
