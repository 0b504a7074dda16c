/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/server.h"

#include <signal.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/tls/client_hello.h"
#include "gateway/tls/digest.h"
#include "gateway/tls/handshake.h"
#include "gateway/tls/identity.h"
#include "gateway/tls/library.h"
#include "gateway/tls/pem_file.h"
#include "gateway/tls/server_private.h"

/* Forward secrecy and AEAD only; ChaCha20 goes first for clients that put it first (no AES
 * instructions). */
static const char default_ciphers[] = "ECDHE+AESGCM:ECDHE+CHACHA20";

/* The first is known to every TLS 1.3 client and as strong as the P-256 keys around it. Its SHA-256
 * derives keys cheaper than SHA-384. */
static const char ciphers_13[] =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

/* A device sends one leaf, an EST client perhaps a chain; OpenSSL's own limit is 100 KB. */
enum { PEER_CHAIN_MAX = 32 * 1024 };

void tls_init(void)
{
    (void)OPENSSL_init_ssl(0, NULL);
    resumption_init();
    /* OpenSSL writes with write(2), which cannot be told MSG_NOSIGNAL. */
    (void)signal(SIGPIPE, SIG_IGN);
}

/* Plenty of clients just close the socket. OpenSSL would answer that with an alert and forget the
 * session; it is told to take it for an orderly end, and here the two are told apart again. */
static void on_info(const SSL *ssl, int where, int value)
{
    if (where == SSL_CB_READ_ALERT && (value & 0xff) == SSL_AD_CLOSE_NOTIFY)
        handshake_notes(ssl)->close_notify = true;
}

static void set_modes(SSL_CTX *context)
{
    /* No automatic chain: OpenSSL would search and verify one at each handshake, among the clients'
     * CAs; ours is the file's. */
    (void)SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                        SSL_MODE_NO_AUTO_CHAIN);
    (void)SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                           SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                           SSL_OP_PRIORITIZE_CHACHA | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_info_callback(context, on_info);
    (void)SSL_CTX_set_max_early_data(context, 0);
    (void)SSL_CTX_set_recv_max_early_data(context, 0);
    SSL_CTX_set_security_level(context, 2);
    SSL_CTX_set_max_cert_list(context, PEER_CHAIN_MAX);
    /* One recv() a record instead of two. What it reads too much is why stream_has_pending()
     * exists. */
    SSL_CTX_set_read_ahead(context, 1);
}

static bool set_groups(SSL_CTX *context, const struct config_listener *listener,
                       struct sentence error)
{
    /* OpenSSL's macro casts const away, which our warnings do not let pass. */
    CLEANUP(mem_free_at) char *groups = mem_strdup(listener->groups);

    if (SSL_CTX_set1_groups_list(context, groups) == 1)
        return true;
    sentence_write(error, "listener \"%s\": OpenSSL does not know all groups of \"%s\"",
                   listener->name, groups);
    return false;
}

static bool set_algorithms(SSL_CTX *context, const struct config_listener *listener,
                           struct sentence error)
{
    bool only_13 = listener->min_version != NULL && strcmp(listener->min_version, "1.3") == 0;
    const char *ciphers = listener->ciphers != NULL ? listener->ciphers : default_ciphers;

    (void)SSL_CTX_set_min_proto_version(context, only_13 ? TLS1_3_VERSION : TLS1_2_VERSION);
    (void)SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION);
    (void)SSL_CTX_set_ciphersuites(context, ciphers_13);
    if (SSL_CTX_set_cipher_list(context, ciphers) != 1) {
        sentence_write(error, "listener \"%s\": OpenSSL knows no cipher of \"%s\"", listener->name,
                       ciphers);
        return false;
    }
    return listener->groups == NULL || set_groups(context, listener, error);
}

/* What a server's contexts are made of. */
struct server_source {
    struct tls_server *server;
    const struct config *config;
    const struct config_listener *listener;
};

/* Runs again for the answer to a HelloRetryRequest. */
static int on_client_hello(SSL *ssl, int *alert, void *arg)
{
    const struct tls_server *server = arg;

    client_hello_read(ssl);
    SSL_CTX *context = certificates_find(server->certificates, handshake_notes(ssl)->server_name);
    if (SSL_set_SSL_CTX(ssl, context) != NULL)
        return SSL_CLIENT_HELLO_SUCCESS;
    *alert = SSL_AD_INTERNAL_ERROR;
    return SSL_CLIENT_HELLO_ERROR;
}

static int on_verify(int good, X509_STORE_CTX *verification)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(verification, SSL_get_ex_data_X509_STORE_CTX_idx());
    const struct tls_server *server = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

    return trust_verify(server->trust, good, verification, handshake_notes(ssl));
}

static bool digest_leaf(X509_STORE_CTX *verification, uint8_t out[DIGEST_SIZE])
{
    uint8_t *der = NULL;
    int len = i2d_X509(X509_STORE_CTX_get0_cert(verification), &der);

    if (len > 0)
        digest_sha256_bytes(der, (size_t)len, out);
    OPENSSL_free(der);
    return len > 0;
}

/* In place of X509_verify_cert(): once a full handshake with a certificate. */
static int on_chain(X509_STORE_CTX *verification, void *arg)
{
    const struct tls_server *server = arg;
    SSL *ssl = X509_STORE_CTX_get_ex_data(verification, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct handshake_notes *notes = handshake_notes(ssl);
    int64_t now_ms = clock_wall_ms();
    uint8_t certificate[DIGEST_SIZE];
    struct chain_verdict verdict;

    if (!digest_leaf(verification, certificate)) {
        X509_STORE_CTX_set_error(verification, X509_V_ERR_OUT_OF_MEM);
        return 0;
    }
    if (verdicts_find(server->verdicts, certificate, now_ms, &verdict)) {
        notes->issuer = verdict.issuer;
        X509_STORE_CTX_set_error(verification, X509_V_OK);
        return 1;
    }
    if (X509_verify_cert(verification) != 1)
        return 0;
    trust_conclude(server->trust, X509_STORE_CTX_get0_chain(verification), &verdict);
    notes->issuer = verdict.issuer;
    verdicts_put(server->verdicts, certificate, now_ms, &verdict);
    return 1;
}

static void set_verification(struct tls_server *server, SSL_CTX *context,
                             const struct server_source *source)
{
    int mode = SSL_VERIFY_PEER;

    if (server->certificate_required)
        mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    (void)SSL_CTX_set_app_data(context, server);
    SSL_CTX_set_verify(context, mode, on_verify);
    SSL_CTX_set_cert_verify_callback(context, on_chain, server);
    SSL_CTX_set_verify_depth(context, (int)source->config->tls.chain_depth);
    trust_install(server->trust, context, source->listener->announce_cas);
}

/* Sessions of another listener, of other trust or other strictness are not resumed here, even if
 * they got here. */
static void write_session_context(struct tls_server *server, const struct config_listener *listener)
{
    struct digest trust;

    trust_fingerprint(server->trust, &trust);
    char *text = mem_printf("%s %d %d %s", trust.hex, (int)listener->clients,
                            (int)listener->client_certificate, listener->name);
    digest_sha256((const uint8_t *)text, strlen(text), &server->session_context);
    mem_free(text);
}

static bool server_load_trust(struct tls_server *server, const struct config *config,
                              const struct config_listener *listener, struct sentence error)
{
    if (listener->clients == CONFIG_CLIENTS_DEVICES)
        server->trust = trust_new_devices(config, error);
    else if (listener->client_ca_file != NULL)
        server->trust = trust_new_operators(listener->client_ca_file, error);
    else
        sentence_write(error, "listener \"%s\" has no client_ca: operators need one over TLS",
                       listener->name);
    return server->trust != NULL;
}

/* All contexts of a server are alike, so that it does not matter which one a connection has, but
 * for the certificate. */
static bool server_set_context(struct tls_server *server, SSL_CTX *context,
                               const struct server_source *source, struct sentence error)
{
    set_modes(context);
    if (!set_algorithms(context, source->listener, error))
        return false;
    resumption_install(server->resumption, context);
    set_verification(server, context, source);
    /* 128 bits of it: OpenSSL takes up to 32 bytes. */
    (void)SSL_CTX_set_session_id_context(context,
                                         (const unsigned char *)server->session_context.hex,
                                         SSL_MAX_SID_CTX_LENGTH);
    SSL_CTX_set_client_hello_cb(context, on_client_hello, server);
    return true;
}

static SSL_CTX *server_new_context(void *arg, struct sentence error)
{
    const struct server_source *source = arg;
    SSL_CTX *context = SSL_CTX_new_ex(library_context(), NULL, TLS_server_method());

    if (context == NULL) {
        sentence_write(error, "OpenSSL cannot make a TLS context");
        return NULL;
    }
    if (server_set_context(source->server, context, source, error))
        return context;
    SSL_CTX_free(context);
    return NULL;
}

static bool server_build(struct tls_server *server, const struct config *config,
                         const struct config_listener *listener, struct sentence error)
{
    struct server_source source = {server, config, listener};

    if (!server_load_trust(server, config, listener, error))
        return false;
    write_session_context(server, listener);
    server->verdicts = verdicts_new(config->tls.verified_chains);
    server->resumption = resumption_new(config->tls.sessions, config->tls.session_lifetime_ms);
    server->certificates = certificates_new(listener, server_new_context, &source, error);
    return server->certificates != NULL;
}

struct tls_server *tls_server_new(const struct config *config,
                                  const struct config_listener *listener, char *error,
                                  size_t error_size)
{
    struct tls_server *server = mem_new(struct tls_server);

    atomic_init(&server->refs, 1);
    server->certificate_required = listener->client_certificate == CONFIG_CERTIFICATE_REQUIRED;
    if (!server_build(server, config, listener, (struct sentence){error, error_size}))
        tls_server_unref(&server);
    ERR_clear_error();
    return server;
}

struct tls_server *tls_server_ref(struct tls_server *server)
{
    atomic_fetch_add_explicit(&server->refs, 1, memory_order_relaxed);
    return server;
}

void tls_server_unref(struct tls_server **server)
{
    struct tls_server *gone = *server;

    *server = NULL;
    if (gone == NULL || atomic_fetch_sub_explicit(&gone->refs, 1, memory_order_acq_rel) != 1)
        return;
    certificates_free(&gone->certificates);
    resumption_free(&gone->resumption);
    verdicts_free(&gone->verdicts);
    trust_free(&gone->trust);
    mem_free(gone);
}

enum tls_trust tls_server_recheck(const struct tls_server *server, const struct stream_peer *peer)
{
    if (peer->identity == PEER_NO_CERTIFICATE)
        return server->certificate_required ? TLS_TRUST_GONE : TLS_TRUST_STANDS;

    const struct trust_ca *ca = trust_find(server->trust, peer->issuer, &peer->issuer_certificate);
    if (ca == NULL || ca->state == ISSUER_STATE_REVOKED || trust_is_revoked(ca, peer->serial))
        return TLS_TRUST_GONE;
    return TLS_TRUST_STANDS;
}

int64_t tls_server_expires_ms(const struct tls_server *server)
{
    return certificates_expire_ms(server->certificates);
}

void tls_server_visit_cas(const struct tls_server *server, tls_ca_fn *visit, void *arg)
{
    const struct trust_ca *ca;

    for (size_t i = 0; (ca = trust_ca_at(server->trust, i)) != NULL; i++) {
        int64_t expires_ms = 0;
        (void)!identity_time_ms(X509_get0_notAfter(ca->certificate), &expires_ms);
        visit(ca->name, expires_ms, ca->crl_expires_ms, arg);
    }
}

enum issuer_state tls_server_issuer_state(const struct tls_server *server,
                                          const struct stream_peer *peer)
{
    const struct trust_ca *ca = trust_find(server->trust, peer->issuer, &peer->issuer_certificate);

    return ca != NULL ? ca->state : ISSUER_STATE_UNKNOWN;
}
