/* SPDX-License-Identifier: BSD-2-Clause */
/* The context is built here and not by hiredis' own helper, which sets the server name that is
 * asked for but does not compare it with the certificate that comes. */
#include "gateway/store/link_tls.h"

#include <arpa/inet.h>
#include <hiredis/hiredis.h>
#include <hiredis/hiredis_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>

bool link_tls_is_available(void)
{
    return true;
}

static bool tls_fails(const char *doing, char *error, size_t error_size)
{
    char text[160] = "unknown";

    if (ERR_peek_error() != 0)
        ERR_error_string_n(ERR_peek_error(), text, sizeof(text));
    ERR_clear_error();
    (void)snprintf(error, error_size, "%s: %s", doing, text);
    return false;
}

static SSL_CTX *tls_context(const char *ca_file)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());

    if (context == NULL)
        return NULL;
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1 ||
        (ca_file != NULL ? SSL_CTX_load_verify_file(context, ca_file)
                         : SSL_CTX_set_default_verify_paths(context)) != 1) {
        SSL_CTX_free(context);
        return NULL;
    }
    return context;
}

/* Names are asked for and compared; numeric addresses are only compared (RFC 6066, 3: "Literal IPv4
 * and IPv6 addresses are not permitted in HostName"). */
static bool tls_expect(SSL *ssl, const char *host)
{
    unsigned char numeric[sizeof(struct in6_addr)];

    if (inet_pton(AF_INET, host, numeric) == 1 || inet_pton(AF_INET6, host, numeric) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
    return SSL_set_tlsext_host_name(ssl, host) == 1 && SSL_set1_host(ssl, host) == 1;
}

bool link_tls_start(struct redisContext *context, const char *host, const char *ca_file,
                    char *error, size_t error_size)
{
    ERR_clear_error();
    SSL_CTX *tls = tls_context(ca_file);
    if (tls == NULL)
        return tls_fails("cannot load the CA of Redis", error, error_size);

    SSL *ssl = SSL_new(tls);
    SSL_CTX_free(tls); /* the SSL object holds it */
    if (ssl == NULL || !tls_expect(ssl, host)) {
        SSL_free(ssl);
        return tls_fails("cannot prepare TLS to Redis", error, error_size);
    }
    /* Takes the SSL object over only when it succeeds. */
    if (redisInitiateSSL(context, ssl) != REDIS_OK) {
        SSL_free(ssl);
        (void)snprintf(error, error_size, "TLS to Redis failed: %s", context->errstr);
        ERR_clear_error();
        return false;
    }
    return true;
}
