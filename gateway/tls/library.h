/* SPDX-License-Identifier: BSD-2-Clause */
/* OpenSSL's library context for TLS servers: the algorithms that a handshake uses, and no others.
 *
 *      tls_server ──▶ our context ──▶ filter ──▶ OpenSSL's "default" provider, in a context of its own
 *
 * Before 3.2, OpenSSL decodes each certificate's key by asking every decoder and every key type that
 * the context has, and walks over all algorithms of all kinds to find them: most of what decoding
 * costs. The filter is a provider that hands on the default provider's algorithms, less those that
 * no server certificate, device or cipher suite of ours needs. What they do and how is unchanged.
 * Later versions remember how a kind of key is decoded: they need no filter, and get none.
 *
 * Files are read, and everything else is done, in OpenSSL's own context: what is loaded there (keys,
 * anchors) may be used here. */
#pragma once

#include <openssl/types.h>

/* The context, made by the first call; for any number of threads. It stays until the process ends.
 *
 * NULL stands for OpenSSL's own context, as everywhere in OpenSSL: when it is 3.2 or later; when
 * openssl.cnf has activated a provider that we know nothing of (FIPS, a PKCS#11 token), which is
 * then meant to be used; or when ours cannot be made. */
OSSL_LIB_CTX *library_context(void);
