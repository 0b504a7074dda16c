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
#include "gateway/tls/openssl_error.h"
#include "gateway/tls/pem_file.h"
#include "gateway/tls/server_private.h"

/* Forward secrecy and AEAD only; ChaCha20 goes first for clients that put it first (no AES
 * instructions). */
static const char default_ciphers[] = "ECDHE+AESGCM:ECDHE+CHACHA20";

/* A device sends one leaf, an EST client perhaps a chain; OpenSSL's own limit is 100 KB. */
enum { PEER_CHAIN_MAX = 32 * 1024 };

void tls_init(void)
{
    (void)OPENSSL_init_ssl(0, NULL);
    resumption_init();
    /* OpenSSL writes with write(2), which cannot be told MSG_NOSIGNAL. */
    (void)signal(SIGPIPE, SIG_IGN);
}

static void warn_if_expired(X509 *certificate, const struct config_listener *listener)
{
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0)
        log_write(LOG_WARNING, "the listener's certificate has expired; clients will refuse it",
                  LOG_STR("listener", listener->name), LOG_STR("file", listener->certificate_file));
}

static bool use_chain(SSL_CTX *context, STACK_OF(X509) * chain, const char *path,
                      struct sentence error)
{
    char text[160];

    ERR_clear_error();
    bool good = SSL_CTX_use_certificate(context, sk_X509_value(chain, 0)) == 1;
    for (int i = 1; good && i < sk_X509_num(chain); i++)
        good = SSL_CTX_add1_chain_cert(context, sk_X509_value(chain, i)) == 1;
    if (good)
        return true;
    openssl_error_take(text, sizeof(text));
    sentence_write(error, "%s: OpenSSL does not accept the certificate: %s", path, text);
    return false;
}

static bool load_certificate(SSL_CTX *context, const struct config_listener *listener,
                             struct sentence error)
{
    if (listener->certificate_file == NULL || listener->key_file == NULL) {
        sentence_write(error, "listener \"%s\" has no certificate: give certificate and key",
                       listener->name);
        return false;
    }
    STACK_OF(X509) *chain = pem_file_certificates(listener->certificate_file, error);
    if (chain == NULL)
        return false;
    warn_if_expired(sk_X509_value(chain, 0), listener);
    bool good = use_chain(context, chain, listener->certificate_file, error);
    sk_X509_pop_free(chain, X509_free);
    return good;
}

static bool load_key(SSL_CTX *context, const struct config_listener *listener,
                     struct sentence error)
{
    EVP_PKEY *key = pem_file_key(listener->key_file, error);

    if (key == NULL)
        return false;
    bool good = EVP_PKEY_eq(X509_get0_pubkey(SSL_CTX_get0_certificate(context)), key) == 1 &&
                SSL_CTX_use_PrivateKey(context, key) == 1;
    EVP_PKEY_free(key);
    ERR_clear_error();
    if (!good)
        sentence_write(error, "%s: the key does not belong to the first certificate in %s",
                       listener->key_file, listener->certificate_file);
    return good;
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
    if (SSL_CTX_set_cipher_list(context, ciphers) != 1) {
        sentence_write(error, "listener \"%s\": OpenSSL knows no cipher of \"%s\"", listener->name,
                       ciphers);
        return false;
    }
    return listener->groups == NULL || set_groups(context, listener, error);
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

static void set_verification(struct tls_server *server, const struct config *config,
                             const struct config_listener *listener)
{
    int mode = SSL_VERIFY_PEER;

    if (server->certificate_required)
        mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    (void)SSL_CTX_set_app_data(server->context, server);
    SSL_CTX_set_verify(server->context, mode, on_verify);
    SSL_CTX_set_cert_verify_callback(server->context, on_chain, server);
    SSL_CTX_set_verify_depth(server->context, (int)config->tls.chain_depth);
    trust_install(server->trust, server->context, listener->announce_cas);
}

/* Sessions of another listener, of other trust or other strictness are not resumed here, even if
 * they got here. */
static void set_session_context(struct tls_server *server, const struct config_listener *listener)
{
    struct digest trust, all;

    trust_fingerprint(server->trust, &trust);
    char *text = mem_printf("%s %d %d %s", trust.hex, (int)listener->clients,
                            (int)listener->client_certificate, listener->name);
    digest_sha256((const uint8_t *)text, strlen(text), &all);
    mem_free(text);
    /* 128 bits of it: OpenSSL takes up to 32 bytes. */
    (void)SSL_CTX_set_session_id_context(server->context, (const unsigned char *)all.hex,
                                         SSL_MAX_SID_CTX_LENGTH);
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

static bool server_build(struct tls_server *server, const struct config *config,
                         const struct config_listener *listener, struct sentence error)
{
    server->context = SSL_CTX_new_ex(library_context(), NULL, TLS_server_method());
    if (server->context == NULL) {
        sentence_write(error, "OpenSSL cannot make a TLS context");
        return false;
    }
    set_modes(server->context);
    if (!set_algorithms(server->context, listener, error) ||
        !load_certificate(server->context, listener, error) ||
        !load_key(server->context, listener, error) ||
        !server_load_trust(server, config, listener, error))
        return false;
    server->verdicts = verdicts_new(config->tls.verified_chains);
    server->resumption = resumption_new(config->tls.sessions, config->tls.session_lifetime_ms);
    resumption_install(server->resumption, server->context);
    set_verification(server, config, listener);
    set_session_context(server, listener);
    SSL_CTX_set_client_hello_cb(server->context, client_hello_read, NULL);
    return true;
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
    SSL_CTX_free(gone->context);
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
    int64_t expires_ms;

    return identity_time_ms(X509_get0_notAfter(SSL_CTX_get0_certificate(server->context)),
                            &expires_ms)
               ? expires_ms
               : 0;
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
