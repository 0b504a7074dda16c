/* SPDX-License-Identifier: BSD-2-Clause */
/* What is taken from the ClientHello before OpenSSL looks for a session: the SNI, and whether
 * tickets are of use. */
#pragma once

#include <openssl/ssl.h>

/* For a callback of SSL_CTX_set_client_hello_cb(); writes into the connection's notes. What is
 * malformed is left to OpenSSL, which refuses it with the right alert. */
void client_hello_read(SSL *ssl);
