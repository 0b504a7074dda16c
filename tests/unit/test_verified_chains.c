/* SPDX-License-Identifier: BSD-2-Clause */
/* A chain that was verified once is not verified again, and nobody gets in by that who would not
 * otherwise. Each case connects well first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>

#include "gateway/base/clock.h"
#include "gateway/base/macros.h"
#include "tls_fixture.h"

static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

/* The alert that a client gets; 0: it got in. */
static int alert_for(struct tls_server *server, int version, const struct pki *certificate)
{
    struct client client;
    struct link link;

    client_init(&client, version, certificate);
    link_connect(&link, server, &client, NULL);
    assert_int_equal(link.result, link.alert == 0 ? STREAM_DONE : STREAM_ERROR);
    int alert = link.alert;
    link_close(&link);
    client_deinit(&client);
    return alert;
}

static void check_well_known(struct tls_server *server, const struct pki *certificate)
{
    for (size_t i = 0; i < 2 * ARRAY_SIZE(versions); i++)
        assert_int_equal(alert_for(server, versions[i % 2], certificate), 0);
}

/* The one's public key with the other's private key: what somebody would have who copied the
 * certificate. */
static EVP_PKEY *mismatched_key(EVP_PKEY *public_of, EVP_PKEY *private_of)
{
    OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    unsigned char public[256];
    BIGNUM *private = NULL;
    EVP_PKEY *key = NULL;
    size_t len;

    assert_int_equal(EVP_PKEY_get_octet_string_param(public_of, OSSL_PKEY_PARAM_PUB_KEY, public,
                                                     sizeof(public), &len),
                     1);
    assert_int_equal(EVP_PKEY_get_bn_param(private_of, OSSL_PKEY_PARAM_PRIV_KEY, &private), 1);
    OSSL_PARAM_BLD_push_utf8_string(builder, OSSL_PKEY_PARAM_GROUP_NAME, "P-256", 0);
    OSSL_PARAM_BLD_push_octet_string(builder, OSSL_PKEY_PARAM_PUB_KEY, public, len);
    OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_PRIV_KEY, private);
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(builder);
    assert_int_equal(EVP_PKEY_fromdata_init(context), 1);
    assert_int_equal(EVP_PKEY_fromdata(context, &key, EVP_PKEY_KEYPAIR, params), 1);
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(builder);
    EVP_PKEY_CTX_free(context);
    BN_free(private);
    return key;
}

static void the_key_is_proven_each_time(void **state)
{
    struct tls_server *server = usual_server();
    struct pki thief = {pki.device.certificate,
                        mismatched_key(pki.device.key, pki.not_revoked.key)};

    check_well_known(server, &pki.device);
    for (size_t i = 0; i < ARRAY_SIZE(versions); i++)
        assert_int_equal(alert_for(server, versions[i], &thief), SSL_AD_DECRYPT_ERROR);
    check_well_known(server, &pki.device);
    EVP_PKEY_free(thief.key);
    tls_server_unref(&server);
}

static void another_certificate_is_verified_although_name_and_key_are_known(void **state)
{
    struct tls_server *server = usual_server();
    struct pki expired = pki_mint(&(struct pki_recipe){
        .issuer = &pki.issuing, .cn = "device-1", .starts_s = -7200, .ends_s = -60});
    struct pki of_stranger = pki_mint_device("device-1", &pki.stranger);

    check_well_known(server, &pki.device);
    for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
        assert_int_equal(alert_for(server, versions[i], &expired), SSL_AD_CERTIFICATE_EXPIRED);
        assert_int_equal(alert_for(server, versions[i], &of_stranger), SSL_AD_UNKNOWN_CA);
    }
    pki_free(&expired);
    pki_free(&of_stranger);
    tls_server_unref(&server);
}

/* What ends in LIFE_S seconds: a certificate, an issuing CA, a CRL. */
enum { LIFE_S = 2 };

struct short_lived {
    struct pki leaf, ca, of_ca, crl_ca, of_crl_ca;
    struct setup setup;
};

static void short_lived_init(struct short_lived *world)
{
    const struct pki_extension ca_extensions[] = {{"subjectKeyIdentifier", "hash"},
                                                  {"basicConstraints", "critical,CA:TRUE"},
                                                  {"keyUsage", "critical,keyCertSign,cRLSign"}};
    struct pki_recipe recipe = {.cn = "short-ca", .starts_s = -60, .ends_s = LIFE_S};

    for (size_t i = 0; i < ARRAY_SIZE(ca_extensions); i++)
        recipe.extensions[i] = ca_extensions[i];
    world->ca = pki_mint(&recipe);
    world->of_ca = pki_mint_device("of-short-ca", &world->ca);
    world->crl_ca = pki_mint_ca("short-crl", NULL);
    world->of_crl_ca = pki_mint_device("of-short-crl", &world->crl_ca);
    world->leaf = pki_mint(&(struct pki_recipe){
        .issuer = &pki.issuing, .cn = "short", .starts_s = -60, .ends_s = LIFE_S});
    X509_CRL *crl = pki_mint_crl(&world->crl_ca, NULL, 0, LIFE_S);
    pki_write("short-ca.pem", (X509 *[]){world->ca.certificate, NULL}, NULL, NULL);
    pki_write("short-crl-ca.pem", (X509 *[]){world->crl_ca.certificate, NULL}, NULL, NULL);
    pki_write("short.crl", NULL, NULL, crl);
    X509_CRL_free(crl);

    setup_init(&world->setup);
    world->setup.cas[1] = (struct config_device_ca){.name = "short",
                                                    .state = ISSUER_STATE_ACTIVE,
                                                    .certificate_file = "short-ca.pem"};
    world->setup.cas[2] = (struct config_device_ca){.name = "short-crl",
                                                    .state = ISSUER_STATE_ACTIVE,
                                                    .certificate_file = "short-crl-ca.pem",
                                                    .crl_file = "short.crl"};
}

static void short_lived_deinit(struct short_lived *world)
{
    pki_free(&world->leaf);
    pki_free(&world->of_ca);
    pki_free(&world->ca);
    pki_free(&world->of_crl_ca);
    pki_free(&world->crl_ca);
    (void)unlink("short-ca.pem");
    (void)unlink("short-crl-ca.pem");
    (void)unlink("short.crl");
}

static void nothing_outlives_its_certificates_and_crl(void **state)
{
    struct short_lived world;

    short_lived_init(&world);
    struct tls_server *server = setup_server(&world.setup);
    int64_t over_ms = clock_wall_ms() + LIFE_S * 1000 + 1000;
    check_well_known(server, &world.leaf);
    check_well_known(server, &world.of_ca);
    check_well_known(server, &world.of_crl_ca);
    check_well_known(server, &pki.device);
    while (clock_wall_ms() < over_ms)
        usleep(1000);
    for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
        assert_int_equal(alert_for(server, versions[i], &world.leaf), SSL_AD_CERTIFICATE_EXPIRED);
        assert_int_equal(alert_for(server, versions[i], &world.of_ca), SSL_AD_CERTIFICATE_EXPIRED);
        assert_int_equal(alert_for(server, versions[i], &world.of_crl_ca),
                         SSL_AD_CERTIFICATE_EXPIRED);
    }
    check_well_known(server, &pki.device);
    tls_server_unref(&server);
    short_lived_deinit(&world);
}

/* A reload makes a new server; so does another listener have one of its own. */
static void another_server_begins_anew(void **state)
{
    struct setup setup;
    struct link link;
    struct client client;

    setup_init(&setup);
    setup.cas[1].crl_file = "none-revoked.crl";
    struct tls_server *before = setup_server(&setup);
    check_well_known(before, &pki.revoked);
    check_well_known(before, &pki.device);

    setup.cas[1].crl_file = "revoked.crl";
    setup.cas[0] = setup.cas[3];
    setup.config.n_device_cas = 3;
    struct tls_server *after = setup_server(&setup);
    for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
        assert_int_equal(alert_for(after, versions[i], &pki.revoked), SSL_AD_CERTIFICATE_REVOKED);
        assert_int_equal(alert_for(after, versions[i], &pki.device), SSL_AD_UNKNOWN_CA);
    }
    check_well_known(before, &pki.revoked);
    tls_server_unref(&after);

    setup_init(&setup);
    setup.cas[0].state = ISSUER_STATE_DISABLED;
    after = setup_server(&setup);
    client_init(&client, TLS1_3_VERSION, &pki.device);
    link_connect(&link, after, &client, NULL);
    assert_int_equal(stream_peer(link.stream)->credentials.issuer, ISSUER_STATE_DISABLED);
    link_close(&link);
    client_deinit(&client);
    tls_server_unref(&after);
    tls_server_unref(&before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_key_is_proven_each_time),
        cmocka_unit_test(another_certificate_is_verified_although_name_and_key_are_known),
        cmocka_unit_test(nothing_outlives_its_certificates_and_crl),
        cmocka_unit_test(another_server_begins_anew),
    };
    return cmocka_run_group_tests_name("verified chains", tests, fixture_set_up, fixture_tear_down);
}
