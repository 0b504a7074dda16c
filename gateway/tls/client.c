/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/client.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "gateway/base/mem.h"
#include "gateway/tls/client_private.h"
#include "gateway/tls/handshake.h"
#include "gateway/tls/openssl_error.h"
#include "gateway/tls/pem_file.h"

/* As towards devices: forward secrecy and AEAD only. */
static const char client_ciphers[] = "ECDHE+AESGCM:ECDHE+CHACHA20";

enum { SERVER_CHAIN_MAX = 32 * 1024, CLIENT_CHAIN_DEPTH = 8 };

/* --- loading ---------------------------------------------------------------------------------- */

static bool load_anchors(SSL_CTX *context, const char *path, struct sentence error)
{
    X509_STORE *store = SSL_CTX_get_cert_store(context);

    if (path == NULL) {
        if (SSL_CTX_set_default_verify_paths(context) == 1)
            return true;
        sentence_write(error, "the system's CAs cannot be read; set tls.ca_file");
        return false;
    }
    STACK_OF(X509) *anchors = pem_file_certificates(path, error);
    if (anchors == NULL)
        return false;
    bool good = true;
    for (int i = 0; good && i < sk_X509_num(anchors); i++)
        good = X509_STORE_add_cert(store, sk_X509_value(anchors, i)) == 1;
    sk_X509_pop_free(anchors, X509_free);
    if (!good)
        sentence_write(error, "%s: OpenSSL does not accept the certificates as anchors", path);
    return good;
}

static bool load_chain(SSL_CTX *context, const char *path, struct sentence error)
{
    STACK_OF(X509) *chain = pem_file_certificates(path, error);
    char text[160];

    if (chain == NULL)
        return false;
    ERR_clear_error();
    bool good = SSL_CTX_use_certificate(context, sk_X509_value(chain, 0)) == 1;
    for (int i = 1; good && i < sk_X509_num(chain); i++)
        good = SSL_CTX_add1_chain_cert(context, sk_X509_value(chain, i)) == 1;
    sk_X509_pop_free(chain, X509_free);
    if (good)
        return true;
    openssl_error_take(text, sizeof(text));
    sentence_write(error, "%s: OpenSSL does not accept the certificate: %s", path, text);
    return false;
}

static bool load_identity(SSL_CTX *context, const struct config_backend *backend,
                          struct sentence error)
{
    if (backend->tls.certificate_file == NULL)
        return true;
    if (!load_chain(context, backend->tls.certificate_file, error))
        return false;
    EVP_PKEY *key = pem_file_key(backend->tls.key_file, error);
    if (key == NULL)
        return false;
    bool good = EVP_PKEY_eq(X509_get0_pubkey(SSL_CTX_get0_certificate(context)), key) == 1 &&
                SSL_CTX_use_PrivateKey(context, key) == 1;
    EVP_PKEY_free(key);
    if (!good)
        sentence_write(error, "%s: the key does not belong to the first certificate in %s",
                       backend->tls.key_file, backend->tls.certificate_file);
    return good;
}

/* --- the context ------------------------------------------------------------------------------ */

/* See server.c: an end without close_notify is told apart here. */
static void on_info(const SSL *ssl, int where, int value)
{
    if (where == SSL_CB_READ_ALERT && (value & 0xff) == SSL_AD_CLOSE_NOTIFY)
        handshake_notes(ssl)->close_notify = true;
}

/* OpenSSL hands the reference over when we say 1. */
static int on_session(SSL *ssl, SSL_SESSION *session)
{
    struct handshake_notes *notes = handshake_notes(ssl);

    SSL_SESSION_free(notes->session);
    notes->session = session;
    return 1;
}

static void set_up(SSL_CTX *context, const struct config_backend *backend)
{
    X509_VERIFY_PARAM *param = SSL_CTX_get0_param(context);
    bool only_13 = strcmp(backend->tls.min_version, "1.3") == 0;

    (void)SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                        SSL_MODE_NO_AUTO_CHAIN);
    (void)SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                           SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_info_callback(context, on_info);
    SSL_CTX_set_security_level(context, 2);
    SSL_CTX_set_max_cert_list(context, SERVER_CHAIN_MAX);
    (void)SSL_CTX_set_min_proto_version(context, only_13 ? TLS1_3_VERSION : TLS1_2_VERSION);
    (void)SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_verify_depth(context, CLIENT_CHAIN_DEPTH);
    (void)X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
                                               X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    /* Sessions are kept by who makes the connections, one a server. */
    (void)SSL_CTX_set_session_cache_mode(context,
                                         SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, on_session);
}

static bool client_build(struct tls_client *client, const struct config_backend *backend,
                         struct sentence error)
{
    client->context = SSL_CTX_new(TLS_client_method());
    if (client->context == NULL) {
        sentence_write(error, "OpenSSL cannot make a TLS context");
        return false;
    }
    set_up(client->context, backend);
    return SSL_CTX_set_cipher_list(client->context, client_ciphers) == 1 &&
           load_anchors(client->context, backend->tls.ca_file, error) &&
           load_identity(client->context, backend, error);
}

struct tls_client *tls_client_new(const struct config_backend *backend, char *error,
                                  size_t error_size)
{
    struct tls_client *client = mem_new(struct tls_client);

    atomic_init(&client->refs, 1);
    if (!client_build(client, backend, (struct sentence){error, error_size}))
        tls_client_unref(&client);
    ERR_clear_error();
    return client;
}

struct tls_client *tls_client_ref(struct tls_client *client)
{
    atomic_fetch_add_explicit(&client->refs, 1, memory_order_relaxed);
    return client;
}

void tls_client_unref(struct tls_client **client)
{
    struct tls_client *gone = *client;

    *client = NULL;
    if (gone == NULL || atomic_fetch_sub_explicit(&gone->refs, 1, memory_order_acq_rel) != 1)
        return;
    SSL_CTX_free(gone->context);
    mem_free(gone);
}

/* It is OpenSSL's, under another name. */
void tls_session_free(struct tls_session **session)
{
    SSL_SESSION_free((SSL_SESSION *)*session);
    *session = NULL;
}

/* An address is compared, but not asked for (RFC 6066, 3: "Literal IPv4 and IPv6 addresses are not
 * permitted in HostName"). */
bool tls_client_expect(SSL *ssl, const char *name)
{
    unsigned char numeric[sizeof(struct in6_addr)];

    if (inet_pton(AF_INET, name, numeric) == 1 || inet_pton(AF_INET6, name, numeric) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    return SSL_set_tlsext_host_name(ssl, name) == 1 && SSL_set1_host(ssl, name) == 1;
}

/* --- errors ----------------------------------------------------------------------------------- */

static const char *known_error(unsigned long code)
{
    if (ERR_GET_LIB(code) != ERR_LIB_SSL)
        return NULL;
    switch (ERR_GET_REASON(code)) {
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_UNEXPECTED_MESSAGE:
        return "what the server sent is not TLS";
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
        return "the server speaks only TLS versions that are too old";
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
    case SSL_R_SSLV3_ALERT_NO_CERTIFICATE:
        return "the server demands a client certificate: set tls.certificate and tls.key";
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
        return "the server refuses the handshake: it may demand a client certificate "
               "(tls.certificate), or other ciphers";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
        return "the server does not accept our client certificate";
    default:
        return NULL;
    }
}

void tls_client_explain(const SSL *ssl, char *out, size_t size)
{
    long verdict = SSL_get_verify_result(ssl);
    const char *known = known_error(ERR_peek_error());

    if (verdict == X509_V_ERR_HOSTNAME_MISMATCH || verdict == X509_V_ERR_IP_ADDRESS_MISMATCH)
        (void)snprintf(out, size, "the server's certificate is not for \"%s\"",
                       handshake_notes(ssl)->server_name);
    else if (verdict != X509_V_OK)
        (void)snprintf(out, size, "the server's certificate is not trusted: %s",
                       X509_verify_cert_error_string(verdict));
    else if (known != NULL)
        str_copy_cut(out, size, str_c(known));
    else
        openssl_error_take(out, size);
    ERR_clear_error();
}
