/* SPDX-License-Identifier: BSD-2-Clause */
/* What a certificate says of its holder, and what it must not be able to say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/tls/identity.h"
#include "pki.h"

#define LONG_64 "abcdefghijklmnopqrstuvwxyz-0123456789-abcdefghijklmnopqrstuvwx01"

struct identity_case {
    const char *what;
    struct pki_recipe recipe;
    enum peer_identity identity;
    const char *device;
    const char *factory;
    bool production;
};

static const struct identity_case cases[] = {
    {
        .what = "a uuid",
        .recipe = {.cn = "7f1c7d3e-9f83-4b8c-a3a5-3d2f0e6b7c11"},
        .device = "7f1c7d3e-9f83-4b8c-a3a5-3d2f0e6b7c11",
        .identity = PEER_IDENTIFIED,
    },
    {
        .what = "factory and production",
        .recipe = {.cn = "a",
                   .attributes = {{.name = "OU", .value = "acme"},
                                  {.name = "businessCategory", .value = "production"}}},
        .identity = PEER_IDENTIFIED,
        .device = "a",
        .factory = "acme",
        .production = true,
    },
    {
        .what = "the first of two OUs, another business category",
        .recipe = {.cn = "a",
                   .attributes = {{.name = "OU", .value = "one"},
                                  {.name = "OU", .value = "two"},
                                  {.name = "businessCategory", .value = "Production"}}},
        .identity = PEER_IDENTIFIED,
        .device = "a",
        .factory = "one",
    },
    {
        .what = "64 characters",
        .recipe = {.cn = LONG_64},
        .identity = PEER_IDENTIFIED,
        .device = LONG_64,
    },
    {
        .what = "65 characters",
        .recipe = {.attributes = {{"CN", V_ASN1_UTF8STRING, LONG_64 "x", 0}}},
        .identity = PEER_NAME_INVALID,
    },
    {.what = "no common name", .identity = PEER_NAME_INVALID},
    {
        .what = "two common names",
        .recipe = {.cn = "a", .attributes = {{.name = "CN", .value = "b"}}},
        .identity = PEER_NAME_INVALID,
    },
    {
        .what = "twice the same common name",
        .recipe = {.cn = "a", .attributes = {{.name = "CN", .value = "a"}}},
        .identity = PEER_NAME_INVALID,
    },
    {
        .what = "an embedded NUL",
        .recipe = {.attributes = {{"CN", V_ASN1_UTF8STRING, "admin\0.evil", 11}}},
        .identity = PEER_NAME_INVALID,
    },
    {
        .what = "a NUL at the end",
        .recipe = {.attributes = {{"CN", V_ASN1_PRINTABLESTRING, "admin", 6}}},
        .identity = PEER_NAME_INVALID,
    },
    {
        .what = "BMPString",
        .recipe = {.attributes = {{"CN", V_ASN1_BMPSTRING,
                                   "\0d\0-\0"
                                   "1",
                                   6}}},
        .identity = PEER_IDENTIFIED,
        .device = "d-1",
    },
    {
        .what = "BMPString with a character that is not ASCII",
        .recipe = {.attributes = {{"CN", V_ASN1_BMPSTRING,
                                   "\0d\x20\x10\0"
                                   "1",
                                   6}}},
        .identity = PEER_NAME_INVALID,
    },
    {
        .what = "BMPString whose bytes would be a name",
        .recipe = {.attributes = {{"CN", V_ASN1_BMPSTRING, "name", 4}}},
        .identity = PEER_NAME_INVALID,
    },
    {
        .what = "UniversalString",
        .recipe = {.attributes = {{"CN", V_ASN1_UNIVERSALSTRING,
                                   "\0\0\0d\0\0\0"
                                   "1",
                                   8}}},
        .identity = PEER_IDENTIFIED,
        .device = "d1",
    },
    {
        .what = "T61String",
        .recipe = {.attributes = {{"CN", V_ASN1_T61STRING, "d1", 0}}},
        .identity = PEER_IDENTIFIED,
        .device = "d1",
    },
    {
        .what = "T61String with a Latin letter",
        .recipe = {.attributes = {{"CN", V_ASN1_T61STRING, "d\xe9", 0}}},
        .identity = PEER_NAME_INVALID,
    },
    {.what = "a slash", .recipe = {.cn = "a/b"}, .identity = PEER_NAME_INVALID},
    {.what = "a space", .recipe = {.cn = "a b"}, .identity = PEER_NAME_INVALID},
    {.what = "two dots", .recipe = {.cn = ".."}, .identity = PEER_NAME_INVALID},
    {
        .what = "a line break",
        .recipe = {.attributes = {{"CN", V_ASN1_UTF8STRING, "a\r\nX: y", 0}}},
        .identity = PEER_NAME_INVALID,
    },
    {
        .what = "a factory in UTF-8",
        .recipe = {.cn = "a", .attributes = {{"OU", V_ASN1_UTF8STRING, "K\xc3\xb6ln 1", 0}}},
        .identity = PEER_IDENTIFIED,
        .device = "a",
        .factory = "K\xc3\xb6ln 1",
    },
    {
        .what = "a factory with a line break",
        .recipe = {.cn = "a", .attributes = {{"OU", V_ASN1_UTF8STRING, "a\nb", 0}}},
        .identity = PEER_NAME_INVALID,
    },
    {
        .what = "a factory with a C1 control",
        .recipe = {.cn = "a",
                   .attributes = {{"OU", V_ASN1_UTF8STRING,
                                   "a\xc2\x85"
                                   "b",
                                   0}}},
        .identity = PEER_NAME_INVALID,
    },
    {
        .what = "a factory that is too long",
        .recipe = {.cn = "a", .attributes = {{"OU", V_ASN1_UTF8STRING, LONG_64 "x", 0}}},
        .identity = PEER_NAME_INVALID,
    },
    {
        .what = "a CA",
        .recipe = {.cn = "a", .extensions = {{"basicConstraints", "critical,CA:TRUE"}}},
        .identity = PEER_IS_CA,
    },
    {
        .what = "a signer of certificates",
        .recipe = {.cn = "a", .extensions = {{"keyUsage", "digitalSignature,keyCertSign"}}},
        .identity = PEER_IS_CA,
    },
    {
        .what = "no key usage, explicitly no CA",
        .recipe = {.cn = "a", .extensions = {{"basicConstraints", "CA:FALSE"}}},
        .identity = PEER_IDENTIFIED,
        .device = "a",
    },
    {.what = "version 1",
     .recipe = {.cn = "a", .version_1 = true},
     .identity = PEER_IDENTIFIED,
     .device = "a"},
    {.what = "a weak key",
     .recipe = {.cn = "a", .key = "RSA-1024"},
     .identity = PEER_KEY_NOT_ALLOWED},
    {.what = "a rare curve",
     .recipe = {.cn = "a", .key = "secp256k1"},
     .identity = PEER_KEY_NOT_ALLOWED},
    {.what = "RSA",
     .recipe = {.cn = "a", .key = "RSA-2048"},
     .identity = PEER_IDENTIFIED,
     .device = "a"},
    {.what = "Ed25519",
     .recipe = {.cn = "a", .key = "ED25519"},
     .identity = PEER_IDENTIFIED,
     .device = "a"},
    {
        .what = "a serial of 21 bytes",
        .recipe = {.cn = "a", .serial = "0102030405060708090a0b0c0d0e0f101112131415"},
        .identity = PEER_NAME_INVALID,
    },
};

static void subjects_are_judged(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct pki made = pki_mint(&cases[i].recipe);
        struct stream_peer peer = {0};

        print_message("%s\n", cases[i].what);
        assert_true(identity_read(made.certificate, &peer));
        assert_int_equal(peer.identity, cases[i].identity);
        if (peer.identity == PEER_IDENTIFIED) {
            assert_string_equal(peer.credentials.device, cases[i].device);
            assert_string_equal(peer.credentials.factory,
                                cases[i].factory != NULL ? cases[i].factory : "");
            assert_int_equal(peer.credentials.production, cases[i].production);
        }
        assert_true(digest_is_set(&peer.credentials.certificate));
        assert_non_null(peer.client_cert);
        identity_clear(&peer);
        assert_null(peer.client_cert);
        pki_free(&made);
    }
}

static void sha256_hex(const uint8_t *data, size_t len, char out[65])
{
    uint8_t hash[32];

    assert_int_equal(EVP_Digest(data, len, hash, NULL, EVP_sha256(), NULL), 1);
    encode_hex(hash, sizeof(hash), out);
}

static void facts_are_those_of_the_certificate(void **state)
{
    struct pki made = pki_mint(
        &(struct pki_recipe){.cn = "a", .serial = "00a1b2c3", .starts_s = -10, .ends_s = 1000});
    struct stream_peer peer = {0};
    uint8_t *der = NULL, *spki = NULL;
    char hex[65], base64[4096];

    int len = i2d_X509(made.certificate, &der), spki_len = i2d_PUBKEY(made.key, &spki);
    assert_true(identity_read(made.certificate, &peer));
    sha256_hex(der, (size_t)len, hex);
    assert_string_equal(peer.credentials.certificate.hex, hex);
    sha256_hex(spki, (size_t)spki_len, hex);
    assert_string_equal(peer.credentials.key.id.hex, hex);
    base64[0] = ':';
    size_t base64_len = encode_base64(der, (size_t)len, base64 + 1);
    memcpy(base64 + 1 + base64_len, ":", 2);
    assert_string_equal(peer.client_cert, base64);
    assert_string_equal(peer.serial, "a1b2c3");
    int64_t left_ms = peer.credentials.certificate_expires_ms - clock_wall_ms();
    assert_true(left_ms > 990000 && left_ms <= 1000000);
    assert_int_equal(peer.credentials.certificate_expires_ms % 1000, 0);

    identity_clear(&peer);
    OPENSSL_free(der);
    OPENSSL_free(spki);
    pki_free(&made);
}

static void negative_serials_are_told_apart(void **state)
{
    struct pki made = pki_mint(&(struct pki_recipe){.cn = "a", .serial = "-7f01"});
    struct stream_peer peer = {0};

    assert_true(identity_read(made.certificate, &peer));
    assert_int_equal(peer.identity, PEER_IDENTIFIED);
    assert_string_equal(peer.serial, "-7f01");
    identity_clear(&peer);
    pki_free(&made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subjects_are_judged),
        cmocka_unit_test(facts_are_those_of_the_certificate),
        cmocka_unit_test(negative_serials_are_told_apart),
    };
    return cmocka_run_group_tests_name("identity", tests, NULL, NULL);
}
