/* SPDX-License-Identifier: BSD-2-Clause */
/* What is taken from the ClientHello before OpenSSL looks for a session: the SNI, and whether
 * tickets are of use. */
#pragma once

#include <openssl/ssl.h>

/* For SSL_CTX_set_client_hello_cb(). Never refuses: what is malformed OpenSSL refuses itself, with
 * the right alert. */
int client_hello_read(SSL *ssl, int *alert, void *arg);
