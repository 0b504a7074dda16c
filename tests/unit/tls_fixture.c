/* SPDX-License-Identifier: BSD-2-Clause */
#include "tls_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "gateway/base/log.h"
#include "gateway/base/macros.h"

struct fixture_pki pki;

static char folder[] = "/tmp/test-tls-XXXXXX";

static void mint_cas(void)
{
    pki.root = pki_mint_ca("root", NULL);
    pki.issuing = pki_mint_ca("issuing", &pki.root);
    pki.issuing_crl = pki_mint_ca("issuing-crl", &pki.root);
    pki.issuing_stale = pki_mint_ca("issuing-stale", &pki.root);
    pki.stranger = pki_mint_ca("stranger", NULL);
    /* As `openssl req -x509` makes it: without key usage. */
    pki.self_issued = pki_mint(&(struct pki_recipe){
        .cn = "self",
        .extensions = {{"subjectKeyIdentifier", "hash"}, {"basicConstraints", "CA:TRUE"}},
    });
    pki.sub_ca = pki_mint_ca("sub", &pki.issuing);
}

#define DEVICE_EXTENSIONS                                                                          \
    {                                                                                              \
        {"authorityKeyIdentifier", "keyid"}, {"keyUsage", "critical,digitalSignature"},            \
        {                                                                                          \
            "extendedKeyUsage", "critical,clientAuth"                                              \
        }                                                                                          \
    }

static void mint_odd_leaves(void)
{
    pki.bare = pki_mint(&(struct pki_recipe){
        .issuer = &pki.issuing,
        .cn = "bare",
        .extensions = {{"keyUsage", "critical,digitalSignature"},
                       {"extendedKeyUsage", "clientAuth"}},
    });
    pki.version_1 =
        pki_mint(&(struct pki_recipe){.issuer = &pki.issuing, .cn = "v1", .version_1 = true});
    pki.server_only = pki_mint(&(struct pki_recipe){
        .issuer = &pki.issuing,
        .cn = "server-only",
        .extensions = {{"authorityKeyIdentifier", "keyid"}, {"extendedKeyUsage", "serverAuth"}},
    });
    pki.weak = pki_mint(&(struct pki_recipe){
        .issuer = &pki.issuing, .cn = "weak", .key = "RSA-1024", .extensions = DEVICE_EXTENSIONS});
    pki.ca_leaf = pki_mint_ca("ca-leaf", &pki.issuing);
    pki.nameless = pki_mint(&(struct pki_recipe){.issuer = &pki.issuing,
                                                 .cn = "no name/",
                                                 .extensions = DEVICE_EXTENSIONS});
}

static void mint_leaves_by_time(void)
{
    struct pki_recipe recipe = {.issuer = &pki.issuing, .extensions = DEVICE_EXTENSIONS};

    recipe.cn = "expired";
    recipe.starts_s = -7200;
    recipe.ends_s = -60;
    pki.expired = pki_mint(&recipe);
    recipe.cn = "long-expired";
    recipe.ends_s = -5000;
    pki.long_expired = pki_mint(&recipe);
    recipe.cn = "future";
    recipe.starts_s = 600;
    recipe.ends_s = 7200;
    pki.future = pki_mint(&recipe);
}

static void mint_leaves(void)
{
    pki.device = pki_mint_device("device-1", &pki.issuing);
    pki.revoked = pki_mint_device("revoked-1", &pki.issuing_crl);
    pki.not_revoked = pki_mint_device("not-revoked-1", &pki.issuing_crl);
    pki.of_stale = pki_mint_device("stale-1", &pki.issuing_stale);
    pki.of_self = pki_mint_device("self-1", &pki.self_issued);
    pki.of_stranger = pki_mint_device("device-1", &pki.stranger);
    pki.of_sub_ca = pki_mint_device("sub-1", &pki.sub_ca);
    mint_odd_leaves();
    mint_leaves_by_time();
    pki.server = pki_mint(&(struct pki_recipe){.cn = "localhost"});
    pki.server_weak = pki_mint(&(struct pki_recipe){.cn = "localhost", .key = "RSA-1024"});
}

static void write_crl(const char *name, const struct pki *issuer, X509 *const *revoked, size_t n,
                      long ends_s)
{
    X509_CRL *crl = pki_mint_crl(issuer, revoked, n, ends_s);

    pki_write(name, NULL, NULL, crl);
    X509_CRL_free(crl);
}

static void write_files(void)
{
    pki_write("server.pem", (X509 *[]){pki.server.certificate, NULL}, NULL, NULL);
    pki_write("server.key", NULL, pki.server.key, NULL);
    pki_write("server-weak.pem", (X509 *[]){pki.server_weak.certificate, NULL}, NULL, NULL);
    pki_write("other.key", NULL, pki.device.key, NULL);
    pki_write("issuing.pem", (X509 *[]){pki.issuing.certificate, pki.root.certificate, NULL}, NULL,
              NULL);
    pki_write("reversed.pem", (X509 *[]){pki.root.certificate, pki.issuing.certificate, NULL}, NULL,
              NULL);
    pki_write("issuing-crl.pem", (X509 *[]){pki.issuing_crl.certificate, NULL}, NULL, NULL);
    pki_write("issuing-stale.pem", (X509 *[]){pki.issuing_stale.certificate, NULL}, NULL, NULL);
    pki_write("self.pem", (X509 *[]){pki.self_issued.certificate, NULL}, NULL, NULL);
    pki_write("leaf.pem", (X509 *[]){pki.device.certificate, NULL}, NULL, NULL);
    pki_write("empty.pem", NULL, NULL, NULL);
    write_crl("revoked.crl", &pki.issuing_crl, &pki.revoked.certificate, 1, 3600);
    write_crl("none-revoked.crl", &pki.issuing_crl, NULL, 0, 3600);
    write_crl("stale.crl", &pki.issuing_stale, NULL, 0, -60);
}

static void write_broken_files(void)
{
    FILE *broken = fopen("broken.pem", "we");
    (void)fputs("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", broken);
    (void)fclose(broken);
    FILE *encrypted = fopen("encrypted.key", "we");
    assert_int_equal(PEM_write_PKCS8PrivateKey(encrypted, pki.server.key, EVP_aes_128_cbc(),
                                               "secret", 6, NULL, NULL),
                     1);
    (void)fclose(encrypted);
}

int fixture_set_up(void **state)
{
    tls_init();
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0); /* files are named without it from here on */
    log_configure(LOG_LOGFMT,
                  LOG_ERROR); /* one CRL has expired on purpose, and each server says so */
    mint_cas();
    mint_leaves();
    write_files();
    write_broken_files();
    return 0;
}

int fixture_tear_down(void **state)
{
    static const char *const names[] = {
        "server.pem",  "server.key",       "server-weak.pem", "other.key",
        "issuing.pem", "reversed.pem",     "leaf.pem",        "issuing-stale.pem",
        "self.pem",    "issuing-crl.pem",  "empty.pem",       "revoked.crl",
        "stale.crl",   "none-revoked.crl", "broken.pem",      "encrypted.key",
    };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        (void)unlink(names[i]);
    (void)rmdir(folder);
    for (struct pki *at = &pki.server; at < (struct pki *)(void *)(&pki + 1); at++)
        pki_free(at);
    return 0;
}

void setup_init(struct setup *setup)
{
    *setup = (struct setup){
        .config = {.tls = {.sessions = 100,
                           .session_lifetime_ms = 600000,
                           .chain_depth = 4,
                           .verified_chains = 100}},
        .listener = {.name = "devices", .announce_cas = true, .min_version = "1.2"},
        .cas = {{.name = "fleet", .state = ISSUER_STATE_ACTIVE},
                {.name = "fleet-crl", .state = ISSUER_STATE_DISABLED},
                {.name = "fleet-stale", .state = ISSUER_STATE_ACTIVE},
                {.name = "fleet-self", .state = ISSUER_STATE_REVOKED}},
    };
    setup->listener.certificate_file = "server.pem";
    setup->listener.key_file = "server.key";
    setup->cas[0].certificate_file = "issuing.pem";
    setup->cas[1].certificate_file = "issuing-crl.pem";
    setup->cas[1].crl_file = "revoked.crl";
    setup->cas[2].certificate_file = "issuing-stale.pem";
    setup->cas[2].crl_file = "stale.crl";
    setup->cas[3].certificate_file = "self.pem";
    setup->config.device_cas = setup->cas;
    setup->config.n_device_cas = ARRAY_SIZE(setup->cas);
}

struct tls_server *setup_server(const struct setup *setup)
{
    char error[300] = "";
    struct tls_server *server =
        tls_server_new(&setup->config, &setup->listener, error, sizeof(error));

    assert_string_equal(error, "");
    assert_non_null(server);
    return server;
}

struct tls_server *usual_server(void)
{
    struct setup setup;

    setup_init(&setup);
    return setup_server(&setup);
}

static int on_client_session(SSL *ssl, SSL_SESSION *session)
{
    struct client *client = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

    SSL_SESSION_free(client->session);
    client->session = session;
    return 1;
}

void client_init(struct client *client, int version, const struct pki *certificate)
{
    *client = (struct client){.context = SSL_CTX_new(TLS_client_method())};
    SSL_CTX_set_app_data(client->context, client);
    SSL_CTX_set_security_level(client->context, 0);
    SSL_CTX_set_min_proto_version(client->context, version);
    SSL_CTX_set_max_proto_version(client->context, version);
    SSL_CTX_set_session_cache_mode(client->context,
                                   SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(client->context, on_client_session);
    if (certificate != NULL) {
        assert_int_equal(SSL_CTX_use_certificate(client->context, certificate->certificate), 1);
        assert_int_equal(SSL_CTX_use_PrivateKey(client->context, certificate->key), 1);
    }
}

void client_deinit(struct client *client)
{
    SSL_SESSION_free(client->session);
    SSL_CTX_free(client->context);
}

void make_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

void link_open(struct link *link, struct tls_server *server, const struct client *client,
               const char *sni)
{
    int fds[2];

    make_pair(fds);
    *link = (struct link){.stream = stream_new_tls(server, fds[0]), .fd = fds[1]};
    link->ssl = SSL_new(client->context);
    SSL_set_fd(link->ssl, fds[1]);
    SSL_set_connect_state(link->ssl);
    if (sni != NULL) {
        char name[64]; /* OpenSSL's macro wants it writable */
        (void)snprintf(name, sizeof(name), "%s", sni);
        SSL_set_tlsext_host_name(link->ssl, name);
    }
    if (client->session != NULL)
        assert_int_equal(SSL_set_session(link->ssl, client->session), 1);
}

void link_close(struct link *link)
{
    SSL_set_shutdown(link->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(link->ssl);
    stream_free(&link->stream);
    assert_null(link->stream);
    (void)close(link->fd);
}

void link_step_client(struct link *link)
{
    char byte;

    ERR_clear_error();
    if (SSL_do_handshake(link->ssl) == 1)
        (void)SSL_peek(link->ssl, &byte, 1);
    unsigned long code = ERR_peek_error();
    if (ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) >= SSL_AD_REASON_OFFSET &&
        link->alert == 0)
        link->alert = ERR_GET_REASON(code) - SSL_AD_REASON_OFFSET;
}

void link_shake(struct link *link)
{
    link->result = STREAM_WANT_READ;
    for (int i = 0; i < 20; i++) {
        link_step_client(link);
        if (link->result == STREAM_WANT_READ || link->result == STREAM_WANT_WRITE)
            link->result = stream_handshake(link->stream);
    }
    link_step_client(link);
}

void link_connect(struct link *link, struct tls_server *server, const struct client *client,
                  const char *sni)
{
    link_open(link, server, client, sni);
    link_shake(link);
}
