/* SPDX-License-Identifier: BSD-2-Clause */
/* Who gets in, with which alert others stay out, and what a listener can be made of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/err.h>

#include "gateway/base/macros.h"
#include "gateway/tls/library.h"
#include "tls_fixture.h"

struct trust_case {
    const char *what;
    const struct pki *certificate;
    const struct pki *extra; /* sent behind the leaf */
    int64_t grace_ms;
    enum config_certificate_mode mode;
    int alert;     /* 0: gets in */
    int alert_1_2; /* when it differs */
    const char *error;
    enum peer_identity identity;
    enum issuer_state issuer;
    bool expired;
};

static const struct trust_case trust_cases[] = {
    {
        .what = "an ordinary device",
        .certificate = &pki.device,
        .identity = PEER_IDENTIFIED,
        .issuer = ISSUER_STATE_ACTIVE,
    },
    {
        .what = "a device that sends its chain",
        .certificate = &pki.device,
        .extra = &pki.issuing,
        .identity = PEER_IDENTIFIED,
        .issuer = ISSUER_STATE_ACTIVE,
    },
    {
        .what = "no key identifiers",
        .certificate = &pki.bare,
        .identity = PEER_IDENTIFIED,
        .issuer = ISSUER_STATE_ACTIVE,
    },
    {
        .what = "version 1",
        .certificate = &pki.version_1,
        .identity = PEER_IDENTIFIED,
        .issuer = ISSUER_STATE_ACTIVE,
    },
    {
        .what = "of a disabled CA with a CRL",
        .certificate = &pki.not_revoked,
        .identity = PEER_IDENTIFIED,
        .issuer = ISSUER_STATE_DISABLED,
    },
    {
        .what = "of a revoked self-signed CA without key usage",
        .certificate = &pki.of_self,
        .identity = PEER_IDENTIFIED,
        .issuer = ISSUER_STATE_REVOKED,
    },
    {
        .what = "of a CA below ours that is not configured",
        .certificate = &pki.of_sub_ca,
        .extra = &pki.sub_ca,
        .identity = PEER_IDENTIFIED,
        .issuer = ISSUER_STATE_UNKNOWN,
    },
    {
        .what = "a CA",
        .certificate = &pki.ca_leaf,
        .identity = PEER_IS_CA,
        .issuer = ISSUER_STATE_ACTIVE,
    },
    {
        .what = "the device CA itself",
        .certificate = &pki.issuing,
        .identity = PEER_IS_CA,
        .issuer = ISSUER_STATE_UNKNOWN,
    },
    {
        .what = "no clean name",
        .certificate = &pki.nameless,
        .identity = PEER_NAME_INVALID,
        .issuer = ISSUER_STATE_ACTIVE,
    },
    {
        .what = "no certificate, optional",
        .mode = CONFIG_CERTIFICATE_OPTIONAL,
        .identity = PEER_NO_CERTIFICATE,
    },
    {
        .what = "no certificate, required",
        .alert = SSL_AD_CERTIFICATE_REQUIRED,
        .alert_1_2 = SSL_AD_HANDSHAKE_FAILURE,
        .error = "the client offered no certificate",
    },
    {
        .what = "of a stranger's CA",
        .certificate = &pki.of_stranger,
        .alert = SSL_AD_UNKNOWN_CA,
        .error = "not trusted: unable to get local issuer certificate (CN=device-1)",
    },
    {
        .what = "of a stranger's CA, optional",
        .certificate = &pki.of_stranger,
        .extra = &pki.stranger,
        .mode = CONFIG_CERTIFICATE_OPTIONAL,
        .alert = SSL_AD_UNKNOWN_CA,
        .error = "not trusted: self-signed certificate in certificate chain (CN=stranger)",
    },
    {
        .what = "expired, no grace",
        .certificate = &pki.expired,
        .alert = SSL_AD_CERTIFICATE_EXPIRED,
        .error = "not trusted: certificate has expired (CN=expired)",
    },
    {
        .what = "expired, within the grace",
        .certificate = &pki.expired,
        .grace_ms = 600000,
        .identity = PEER_IDENTIFIED,
        .issuer = ISSUER_STATE_ACTIVE,
        .expired = true,
    },
    {
        .what = "expired, beyond the grace",
        .certificate = &pki.long_expired,
        .grace_ms = 600000,
        .alert = SSL_AD_CERTIFICATE_EXPIRED,
        .error = "certificate has expired (CN=long-expired)",
    },
    {
        .what = "not yet valid",
        .certificate = &pki.future,
        .grace_ms = 600000,
        .alert = SSL_AD_BAD_CERTIFICATE,
        .error = "certificate is not yet valid (CN=future)",
    },
    {
        .what = "revoked by the CRL",
        .certificate = &pki.revoked,
        .alert = SSL_AD_CERTIFICATE_REVOKED,
        .error = "not trusted: certificate revoked (CN=revoked-1)",
    },
    {
        .what = "of a CA whose CRL has expired",
        .certificate = &pki.of_stale,
        .alert = SSL_AD_CERTIFICATE_EXPIRED,
        .error = "not trusted: CRL has expired (CN=stale-1)",
    },
    {
        .what = "for servers",
        .certificate = &pki.server_only,
        .alert = SSL_AD_UNSUPPORTED_CERTIFICATE,
        .error = "(CN=server-only)",
    },
    {
        .what = "a weak key",
        .certificate = &pki.weak,
        .alert = SSL_AD_BAD_CERTIFICATE,
        .error = "(CN=weak)",
    },
};

static void check_admitted(const struct link *link, const struct trust_case *expected)
{
    const struct stream_peer *peer = stream_peer(link->stream);

    assert_string_equal(stream_error(link->stream), "");
    assert_int_equal(link->result, STREAM_DONE);
    assert_int_equal(link->alert, 0);
    assert_int_equal(peer->identity, expected->identity);
    assert_int_equal(peer->credentials.issuer, expected->issuer);
    assert_int_equal(peer->credentials.handshake, HANDSHAKE_FULL);
    assert_int_equal(peer->certificate_expired, expected->expired);
    assert_int_equal(peer->issuer[0] != '\0', expected->issuer != ISSUER_STATE_UNKNOWN);
    assert_int_equal(peer->client_cert != NULL, expected->certificate != NULL);
}

static void check_connection(const struct trust_case *expected, struct tls_server *server,
                             const struct client *client, int alert)
{
    struct link link;

    link_connect(&link, server, client, NULL);
    if (alert == 0) {
        check_admitted(&link, expected);
    } else {
        assert_int_equal(link.result, STREAM_ERROR);
        assert_int_equal(link.alert, alert);
        if (strstr(stream_error(link.stream), expected->error) == NULL)
            fail_msg("\"%s\" is not in \"%s\"", expected->error, stream_error(link.stream));
        assert_null(stream_peer(link.stream));
    }
    link_close(&link);
}

/* Twice: a chain that was verified once is not verified again, and that must make no difference. */
static void check_trust_case(const struct trust_case *expected, int version)
{
    struct setup setup;
    struct client client;
    int alert = version == TLS1_2_VERSION && expected->alert_1_2 != 0 ? expected->alert_1_2
                                                                      : expected->alert;

    setup_init(&setup);
    setup.listener.client_certificate = expected->mode;
    setup.config.rotation.admission.rules.fleet.expired_grace_ms = expected->grace_ms;
    struct tls_server *server = setup_server(&setup);
    client_init(&client, version, expected->certificate);
    if (expected->extra != NULL)
        SSL_CTX_add1_chain_cert(client.context, expected->extra->certificate);
    check_connection(expected, server, &client, alert);
    check_connection(expected, server, &client, alert);
    client_deinit(&client);
    tls_server_unref(&server);
}

static void certificates_get_in_or_are_refused_with_the_right_alert(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(trust_cases); i++) {
        print_message("%s\n", trust_cases[i].what);
        check_trust_case(&trust_cases[i], TLS1_2_VERSION);
        check_trust_case(&trust_cases[i], TLS1_3_VERSION);
    }
}

struct key_case {
    const char *kind;
    enum peer_identity identity;
};

static const struct key_case key_cases[] = {
    {"P-256", PEER_IDENTIFIED},        {"P-384", PEER_IDENTIFIED},
    {"P-521", PEER_IDENTIFIED},        {"ED25519", PEER_IDENTIFIED},
    {"RSA-2048", PEER_IDENTIFIED},     {"RSA-3072", PEER_IDENTIFIED},
    {"RSA-PSS", PEER_KEY_NOT_ALLOWED}, {"ED448", PEER_KEY_NOT_ALLOWED},
};

static void check_key_case(const struct key_case *expected, struct tls_server *server, int version)
{
    struct pki device = pki_mint(&(struct pki_recipe){
        .issuer = &pki.issuing,
        .cn = "keyed",
        .key = expected->kind,
        .extensions = {{"keyUsage", "critical,digitalSignature"}},
    });
    struct client client;
    struct link link;

    print_message("%s\n", expected->kind);
    client_init(&client, version, &device);
    link_connect(&link, server, &client, NULL);
    assert_string_equal(stream_error(link.stream), "");
    assert_int_equal(link.result, STREAM_DONE);
    assert_int_equal(stream_peer(link.stream)->identity, expected->identity);
    link_close(&link);
    client_deinit(&client);
    pki_free(&device);
}

/* library.h leaves out what handshakes do not need; a key that is not allowed is still told by HTTP
 * and not by an alert. */
static void every_kind_of_key_gets_its_answer(void **state)
{
    struct tls_server *server = usual_server();

    assert_int_equal(library_context() != NULL, OPENSSL_version_minor() < 2);
    for (size_t i = 0; i < ARRAY_SIZE(key_cases); i++) {
        check_key_case(&key_cases[i], server, TLS1_2_VERSION);
        check_key_case(&key_cases[i], server, TLS1_3_VERSION);
    }
    tls_server_unref(&server);
}

static void issuing_cas_are_announced_or_none(void **state)
{
    for (int announce = 0; announce < 2; announce++) {
        struct setup setup;
        struct client client;
        struct link link;

        setup_init(&setup);
        setup.listener.announce_cas = announce == 1;
        struct tls_server *server = setup_server(&setup);
        client_init(&client, TLS1_3_VERSION, &pki.device);
        link_connect(&link, server, &client, NULL);
        assert_int_equal(sk_X509_NAME_num(SSL_get0_peer_CA_list(link.ssl)), announce == 1 ? 4 : -1);
        link_close(&link);
        client_deinit(&client);
        tls_server_unref(&server);
    }
}

static void operators_are_verified_by_their_own_bundle(void **state)
{
    struct setup setup;
    struct client client;
    struct link link;

    setup_init(&setup);
    setup.listener.clients = CONFIG_CLIENTS_OPERATORS;
    setup.listener.client_ca_file = "issuing.pem";
    struct tls_server *server = setup_server(&setup);
    client_init(&client, TLS1_3_VERSION, &pki.device);
    link_connect(&link, server, &client, NULL);
    assert_int_equal(link.result, STREAM_DONE);
    const struct stream_peer *peer = stream_peer(link.stream);
    assert_int_equal(peer->identity, PEER_IDENTIFIED);
    assert_string_equal(peer->credentials.device, "device-1");
    assert_int_equal(peer->credentials.issuer, ISSUER_STATE_UNKNOWN);
    assert_string_equal(peer->issuer, "");
    assert_int_equal(tls_server_recheck(server, peer), TLS_TRUST_STANDS);
    setup.listener.client_ca_file = "self.pem";
    struct tls_server *other = setup_server(&setup);
    assert_int_equal(tls_server_recheck(other, peer), TLS_TRUST_GONE);
    link_close(&link);
    client_deinit(&client);
    tls_server_unref(&other);
    tls_server_unref(&server);
}

static void old_versions_and_plain_http_are_refused(void **state)
{
    struct setup setup;
    struct client client;
    struct link link;

    setup_init(&setup);
    setup.listener.min_version = "1.3";
    struct tls_server *server = setup_server(&setup);
    client_init(&client, TLS1_2_VERSION, &pki.device);
    link_connect(&link, server, &client, NULL);
    assert_int_equal(link.result, STREAM_ERROR);
    assert_int_equal(link.alert, SSL_AD_PROTOCOL_VERSION);
    assert_string_equal(stream_error(link.stream),
                        "the client speaks only TLS versions that are too old");
    link_close(&link);

    link_open(&link, server, &client, NULL);
    assert_int_equal(send(link.fd, "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
    assert_int_equal(stream_handshake(link.stream), STREAM_ERROR);
    assert_string_equal(stream_error(link.stream), "the client speaks plain HTTP, not TLS");
    assert_int_equal(stream_handshake(link.stream), STREAM_ERROR);
    link_close(&link);

    client_deinit(&client);
    tls_server_unref(&server);
}

/* Port scanners and health checks say nothing at all: that is no failed handshake. */
static void a_peer_that_went_away_before_it_spoke_is_told_apart(void **state)
{
    struct tls_server *server = usual_server();
    struct client client;
    struct link link;

    client_init(&client, TLS1_3_VERSION, &pki.device);
    link_open(&link, server, &client, NULL);
    assert_int_equal(stream_handshake(link.stream), STREAM_WANT_READ);
    (void)shutdown(link.fd, SHUT_RDWR);
    assert_int_equal(stream_handshake(link.stream), STREAM_CLOSED);
    assert_string_not_equal(stream_error(link.stream), "");
    link_close(&link);

    link_open(&link, server, &client, NULL);
    assert_int_equal(send(link.fd, "\x16\x03\x01", 3, 0), 3);
    (void)shutdown(link.fd, SHUT_RDWR);
    assert_int_equal(stream_handshake(link.stream), STREAM_ERROR);
    assert_string_not_equal(stream_error(link.stream), "");
    link_close(&link);
    client_deinit(&client);
    tls_server_unref(&server);
}

static int on_add_filler(SSL *ssl, unsigned int type, unsigned int context,
                         const unsigned char **out, size_t *out_len, X509 *x, size_t chain_index,
                         int *alert, void *arg)
{
    static unsigned char filler[20000];

    *out = filler;
    *out_len = *(const size_t *)arg;
    return 1;
}

/* Post-quantum key shares make a ClientHello larger than a segment; nothing may depend on how it is
 * cut up. */
static void a_large_client_hello_works_in_pieces(void **state)
{
    static size_t sizes[] = {1200, 4000, 20000};

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct tls_server *server = usual_server();
        struct client client;
        struct link link;
        int fds[2];
        char byte;

        client_init(&client, TLS1_3_VERSION, &pki.device);
        assert_int_equal(SSL_CTX_add_custom_ext(client.context, 0xfafa, SSL_EXT_CLIENT_HELLO,
                                                on_add_filler, NULL, &sizes[i], NULL, NULL),
                         1);
        link_open(&link, server, &client, "gateway.example");
        make_pair(fds);
        SSL_set_fd(link.ssl, fds[0]);
        link_step_client(&link);
        /* One byte at a time, so that every length is cut somewhere. */
        while (recv(fds[1], &byte, 1, 0) == 1) {
            assert_int_equal(stream_handshake(link.stream), STREAM_WANT_READ);
            assert_int_equal(send(link.fd, &byte, 1, 0), 1);
        }
        SSL_set_fd(link.ssl, link.fd);
        link_shake(&link);
        assert_int_equal(link.result, STREAM_DONE);
        assert_string_equal(stream_server_name(link.stream), "gateway.example");
        link_close(&link);
        (void)close(fds[0]);
        (void)close(fds[1]);
        client_deinit(&client);
        tls_server_unref(&server);
    }
}

static void a_hello_retry_request_works(void **state)
{
    struct setup setup;
    struct client client;
    struct link link;
    char groups[] = "X25519:P-384";

    setup_init(&setup);
    setup.listener.groups = "P-384";
    struct tls_server *server = setup_server(&setup);
    client_init(&client, TLS1_3_VERSION, &pki.device);
    SSL_CTX_set1_groups_list(client.context, groups);
    link_connect(&link, server, &client, "GateWay.example");
    assert_int_equal(link.result, STREAM_DONE);
    assert_string_equal(stream_server_name(link.stream), "gateway.example");
    link_close(&link);
    client_deinit(&client);
    tls_server_unref(&server);
}

struct error_case {
    const char *what;
    const char *certificate, *key, *ca, *crl, *ciphers, *groups;
    bool no_cas;
    const char *expected[2];
};

static const struct error_case error_cases[] = {
    {"missing certificate", .certificate = "nowhere.pem",
     .expected = {"nowhere.pem: cannot be read: No such file"}},
    {"no certificate inside", .certificate = "empty.pem",
     .expected = {"empty.pem: holds no PEM CERTIFICATE"}},
    {"broken certificate", .certificate = "broken.pem",
     .expected = {"broken.pem: PEM block 1 is not a valid CERTIFICATE"}},
    {"weak certificate", .certificate = "server-weak.pem",
     .expected = {"server-weak.pem: ", "key too small"}},
    {"missing key", .key = "nowhere.key", .expected = {"nowhere.key: cannot be read"}},
    {"no key inside", .key = "server.pem", .expected = {"server.pem: holds no PEM private key"}},
    {"another's key", .key = "other.key",
     .expected = {"other.key: the key does not belong to", "server.pem"}},
    {"encrypted key", .key = "encrypted.key",
     .expected = {"encrypted.key: the key is encrypted; give it without"}},
    {"missing CA", .ca = "nowhere.pem", .expected = {"nowhere.pem: cannot be read"}},
    {"CA that is none", .ca = "leaf.pem",
     .expected = {"leaf.pem: holds a certificate that is not a CA's"}},
    {"root first", .ca = "reversed.pem",
     .expected = {"reversed.pem: certificate 2 did not issue certificate 1"}},
    {"the same CA twice", .ca = "self.pem",
     .expected = {"\"fleet\" and \"fleet-self\" are the same certificate"}},
    {"missing CRL", .crl = "nowhere.crl", .expected = {"nowhere.crl: cannot be read"}},
    {"another's CRL", .crl = "stale.crl",
     .expected = {"stale.crl: holds a CRL that device CA \"fleet\" did not issue"}},
    {"no CRL inside", .crl = "leaf.pem", .expected = {"leaf.pem: holds no PEM X509 CRL"}},
    {"no device CAs", .no_cas = true, .expected = {"no device CA is configured"}},
    {"unknown cipher", .ciphers = "ROT13",
     .expected = {"listener \"devices\": OpenSSL knows no cipher of \"ROT13\""}},
    {"unknown group", .groups = "P-1",
     .expected = {"listener \"devices\": OpenSSL does not know all groups of \"P-1\""}},
};

static void errors_name_the_file_and_the_mend(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(error_cases); i++) {
        const struct error_case *wanted = &error_cases[i];
        struct setup setup;
        char error[300] = "";

        setup_init(&setup);
        if (wanted->certificate != NULL)
            setup.listener.certificate_file = wanted->certificate;
        if (wanted->key != NULL)
            setup.listener.key_file = wanted->key;
        if (wanted->ca != NULL)
            setup.cas[0].certificate_file = wanted->ca;
        if (wanted->crl != NULL)
            setup.cas[0].crl_file = wanted->crl;
        setup.listener.ciphers = wanted->ciphers;
        setup.listener.groups = wanted->groups;
        setup.config.n_device_cas = wanted->no_cas ? 0 : ARRAY_SIZE(setup.cas);
        print_message("%s\n", wanted->what);
        assert_null(tls_server_new(&setup.config, &setup.listener, error, sizeof(error)));
        for (size_t j = 0; j < ARRAY_SIZE(wanted->expected) && wanted->expected[j] != NULL; j++)
            if (strstr(error, wanted->expected[j]) == NULL)
                fail_msg("\"%s\" is not in \"%s\"", wanted->expected[j], error);
    }
}

static void a_reload_takes_trust_away(void **state)
{
    static const struct {
        const char *what;
        const char *ca, *crl;
        enum issuer_state state;
        enum tls_trust expected;
    } reloads[] = {
        {"nothing changed", "issuing-crl.pem", "none-revoked.crl", ISSUER_STATE_ACTIVE,
         TLS_TRUST_STANDS},
        {"no CRL any more", "issuing-crl.pem", NULL, ISSUER_STATE_ACTIVE, TLS_TRUST_STANDS},
        {"CA disabled", "issuing-crl.pem", NULL, ISSUER_STATE_DISABLED, TLS_TRUST_STANDS},
        {"CA revoked", "issuing-crl.pem", NULL, ISSUER_STATE_REVOKED, TLS_TRUST_GONE},
        {"listed in the CRL", "issuing-crl.pem", "revoked.crl", ISSUER_STATE_ACTIVE,
         TLS_TRUST_GONE},
        {"CA of the same name replaced", "issuing.pem", NULL, ISSUER_STATE_ACTIVE, TLS_TRUST_GONE},
    };
    struct setup setup;
    struct client client;
    struct link link;

    setup_init(&setup);
    setup.config.n_device_cas = 1;
    setup.cas[0].certificate_file = "issuing-crl.pem";
    setup.cas[0].crl_file = "none-revoked.crl";
    struct tls_server *server = setup_server(&setup);
    client_init(&client, TLS1_3_VERSION, &pki.revoked);
    link_connect(&link, server, &client, NULL);
    assert_int_equal(link.result, STREAM_DONE);
    for (size_t i = 0; i < ARRAY_SIZE(reloads); i++) {
        setup.cas[0].certificate_file = reloads[i].ca;
        setup.cas[0].crl_file = reloads[i].crl != NULL ? reloads[i].crl : NULL;
        setup.cas[0].state = reloads[i].state;
        struct tls_server *reloaded = setup_server(&setup);
        print_message("%s\n", reloads[i].what);
        assert_int_equal(tls_server_recheck(reloaded, stream_peer(link.stream)),
                         reloads[i].expected);
        tls_server_unref(&reloaded);
    }
    link_close(&link);
    client_deinit(&client);
    tls_server_unref(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(certificates_get_in_or_are_refused_with_the_right_alert),
        cmocka_unit_test(every_kind_of_key_gets_its_answer),
        cmocka_unit_test(issuing_cas_are_announced_or_none),
        cmocka_unit_test(operators_are_verified_by_their_own_bundle),
        cmocka_unit_test(old_versions_and_plain_http_are_refused),
        cmocka_unit_test(a_peer_that_went_away_before_it_spoke_is_told_apart),
        cmocka_unit_test(a_large_client_hello_works_in_pieces),
        cmocka_unit_test(a_hello_retry_request_works),
        cmocka_unit_test(errors_name_the_file_and_the_mend),
        cmocka_unit_test(a_reload_takes_trust_away),
    };
    return cmocka_run_group_tests_name("tls", tests, fixture_set_up, fixture_tear_down);
}
