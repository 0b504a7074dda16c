/* SPDX-License-Identifier: BSD-2-Clause */
/* Which announced keys are taken, and that each has one form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>

#include "gateway/base/encode.h"
#include "gateway/tls/pubkey.h"
#include "pki.h"

struct pem {
    char p[8192];
    size_t len;
};

static struct str pem_str(const struct pem *pem)
{
    return (struct str){pem->p, pem->len};
}

static void pem_of(const EVP_PKEY *key, struct pem *out)
{
    BIO *bio = BIO_new(BIO_s_mem());

    assert_int_equal(PEM_write_bio_PUBKEY(bio, key), 1);
    int len = BIO_read(bio, out->p, sizeof(out->p) - 1);
    assert_true(len > 0);
    out->p[len] = '\0';
    out->len = (size_t)len;
    BIO_free(bio);
}

static void pem_of_kind(const char *kind, struct pem *out)
{
    EVP_PKEY *key = pki_new_key(kind);

    pem_of(key, out);
    EVP_PKEY_free(key);
}

static void pem_of_der(const uint8_t *der, size_t len, struct pem *out)
{
    char base64[4096];

    encode_base64(der, len, base64);
    int n = snprintf(out->p, sizeof(out->p),
                     "-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----\n", base64);
    out->len = (size_t)n;
}

static void kinds_of_keys_are_allowed_or_not(void **state)
{
    static const struct {
        const char *kind;
        enum pubkey_result expected;
    } cases[] = {
        {"P-256", PUBKEY_OK},
        {"P-384", PUBKEY_OK},
        {"P-521", PUBKEY_OK},
        {"ED25519", PUBKEY_OK},
        {"RSA-2048", PUBKEY_OK},
        {"RSA-2056", PUBKEY_OK},
        {"RSA-2047", PUBKEY_NOT_ALLOWED},
        {"RSA-1024", PUBKEY_NOT_ALLOWED},
        {"P-224", PUBKEY_NOT_ALLOWED},
        {"secp256k1", PUBKEY_NOT_ALLOWED},
        {"brainpoolP256r1", PUBKEY_NOT_ALLOWED},
        {"X25519", PUBKEY_NOT_ALLOWED},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct pem pem;
        struct pubkey key = {.pem = "untouched"};
        pem_of_kind(cases[i].kind, &pem);
        print_message("%s\n", cases[i].kind);
        assert_int_equal(pubkey_parse_pem(pem_str(&pem), &key), cases[i].expected);
        /* What OpenSSL writes is the canonical form already. */
        assert_string_equal(key.pem, cases[i].expected == PUBKEY_OK ? pem.p : "untouched");
    }
}

/* RSA keys of any size without the time to generate them: only the form is judged. */
static EVP_PKEY *rsa_of_numbers(int modulus_bits, const char *exponent)
{
    BIGNUM *n = BN_new(), *e = NULL;
    OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    EVP_PKEY *key = NULL;

    BN_set_bit(n, modulus_bits - 1);
    BN_set_bit(n, 0);
    BN_dec2bn(&e, exponent);
    OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_N, n);
    OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_E, e);
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(builder);
    assert_int_equal(EVP_PKEY_fromdata_init(context), 1);
    assert_int_equal(EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, params), 1);
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(builder);
    EVP_PKEY_CTX_free(context);
    BN_free(n);
    BN_free(e);
    return key;
}

static void rsa_sizes_and_exponents_have_limits(void **state)
{
    static const struct {
        int bits;
        const char *exponent;
        enum pubkey_result expected;
    } cases[] = {
        {2048, "65537", PUBKEY_OK},
        {2048, "3", PUBKEY_OK},
        {2048, "1", PUBKEY_NOT_ALLOWED},
        {2048, "65536", PUBKEY_NOT_ALLOWED},
        {2048, "18446744073709551615", PUBKEY_OK},
        {2048, "36893488147419103233", PUBKEY_NOT_ALLOWED},
        {2047, "65537", PUBKEY_NOT_ALLOWED},
        {3072, "65537", PUBKEY_OK},
        {4095, "65537", PUBKEY_OK},
        {8192, "65537", PUBKEY_OK},
        {8193, "65537", PUBKEY_NOT_ALLOWED},
        {16384, "65537", PUBKEY_NOT_ALLOWED},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct pem pem;
        struct pubkey key;
        EVP_PKEY *made = rsa_of_numbers(cases[i].bits, cases[i].exponent);
        pem_of(made, &pem);
        EVP_PKEY_free(made);
        print_message("%d bits, e = %s\n", cases[i].bits, cases[i].exponent);
        assert_int_equal(pubkey_parse_pem(pem_str(&pem), &key), cases[i].expected);
    }
}

static void one_key_has_one_id_however_it_is_laid_out(void **state)
{
    static const char key_openssl[] =
        "-----BEGIN PUBLIC KEY-----\n"
        "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
        "-----END PUBLIC KEY-----\n";
    static const char *const layouts[] = {
        key_openssl,
        "-----BEGIN PUBLIC "
        "KEY-----\r\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\r\n"
        "-----END PUBLIC KEY-----",
        "\n\t -----BEGIN PUBLIC "
        "KEY-----\nMCowBQYDK2VwAyEAGb9ECWmE\nzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE\n=\n"
        "-----END PUBLIC KEY-----\n\n\n",
    };

    for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
        struct pubkey key;
        assert_int_equal(pubkey_parse_pem(str_c(layouts[i]), &key), PUBKEY_OK);
        assert_string_equal(key.pem, key_openssl);
        assert_string_equal(key.id.hex,
                            "a1e9156054e04fac899ae9f275132cdc07a5dbc4ea2c2ad3a1ffc6e0d253681f");
    }
}

static void what_is_not_exactly_one_key_is_invalid(void **state)
{
#define BEGIN_ "-----BEGIN PUBLIC KEY-----\n"
#define BODY_  "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
#define END_   "-----END PUBLIC KEY-----\n"
    static const struct str cases[] = {
        STR(""),
        STR("\0"),
        STR(BEGIN_),
        STR(BEGIN_ END_),
        STR(BEGIN_ "\n\n" END_),
        STR(BODY_),
        STR(BEGIN_ BODY_),
        STR(BODY_ END_),
        STR("x" BEGIN_ BODY_ END_),
        STR(BEGIN_ BODY_ END_ "x"),
        STR(BEGIN_ BODY_ END_ "\0"),
        STR(BEGIN_ BODY_ END_ BEGIN_ BODY_ END_),
        STR("-----BEGIN PRIVATE KEY-----\n" BODY_ "-----END PRIVATE KEY-----\n"),
        STR("-----BEGIN CERTIFICATE-----\n" BODY_ "-----END CERTIFICATE-----\n"),
        STR(BEGIN_ "Proc-Type: 4,ENCRYPTED\n\n" BODY_ END_),
        STR(BEGIN_ "MCowBQYDK2Vw\0AyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n" END_),
        STR(BEGIN_ "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE\n" END_),
        STR(BEGIN_ "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZu==\n" END_),
        STR(BEGIN_ "MCow=BQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE\n" END_),
        STR(BEGIN_ "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuEA\n" END_),
        STR(BEGIN_ "AAAA\n" END_),
        STR(BEGIN_ "====\n" END_),
        STR(BEGIN_ "MCow-----\n" END_),
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct pubkey key;
        print_message("case %zu\n", i);
        assert_int_equal(pubkey_parse_pem(cases[i], &key), PUBKEY_INVALID);
    }
}

static void endless_white_space_and_base64_end_somewhere(void **state)
{
    size_t len = 1 << 20;
    char *text = malloc(len);
    struct pubkey key;

    memset(text, 'A', len);
    memcpy(text, BEGIN_, strlen(BEGIN_));
    memcpy(text + len - strlen(END_), END_, strlen(END_));
    assert_int_equal(pubkey_parse_pem((struct str){text, len}, &key), PUBKEY_INVALID);
    memset(text, ' ', len);
    assert_int_equal(pubkey_parse_pem((struct str){text, len}, &key), PUBKEY_INVALID);
    free(text);
}

static void a_denied_key_cannot_return_in_another_encoding(void **state)
{
    EVP_PKEY *key = pki_new_key("P-256");
    struct pubkey out;
    struct pem pem;
    uint8_t *der = NULL, point[65], compressed[128];

    int len = i2d_PUBKEY(key, &der);
    assert_int_equal(len, 91);
    memcpy(point, der + 26, sizeof(point));

    /* The same point compressed, hybrid, and off the curve. */
    static const uint8_t head[] = {0x30, 0x39, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48,
                                   0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
                                   0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x22, 0x00};
    memcpy(compressed, head, sizeof(head));
    compressed[26] = (uint8_t)(2 + (point[64] & 1));
    memcpy(compressed + 27, point + 1, 32);
    pem_of_der(compressed, 59, &pem);
    assert_int_equal(pubkey_parse_pem(pem_str(&pem), &out), PUBKEY_NOT_ALLOWED);
    der[26] = (uint8_t)(6 + (point[64] & 1));
    pem_of_der(der, (size_t)len, &pem);
    assert_int_equal(pubkey_parse_pem(pem_str(&pem), &out), PUBKEY_NOT_ALLOWED);
    der[26] = 4;
    der[90] ^= 1;
    pem_of_der(der, (size_t)len, &pem);
    assert_int_equal(pubkey_parse_pem(pem_str(&pem), &out), PUBKEY_INVALID);
    OPENSSL_free(der);
    EVP_PKEY_free(key);
}

/* Explicit parameters describe a curve that may only look like P-256 (CVE-2020-0601). */
static void explicit_curves_are_not_allowed(void **state)
{
    EVP_PKEY *key = pki_new_key("P-256");
    struct pubkey out;
    struct pem pem;

    assert_int_equal(EVP_PKEY_set_utf8_string_param(key, OSSL_PKEY_PARAM_EC_ENCODING, "explicit"),
                     1);
    pem_of(key, &pem);
    assert_int_equal(pubkey_parse_pem(pem_str(&pem), &out), PUBKEY_NOT_ALLOWED);
    EVP_PKEY_free(key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_of_keys_are_allowed_or_not),
        cmocka_unit_test(rsa_sizes_and_exponents_have_limits),
        cmocka_unit_test(one_key_has_one_id_however_it_is_laid_out),
        cmocka_unit_test(what_is_not_exactly_one_key_is_invalid),
        cmocka_unit_test(endless_white_space_and_base64_end_somewhere),
        cmocka_unit_test(a_denied_key_cannot_return_in_another_encoding),
        cmocka_unit_test(explicit_curves_are_not_allowed),
    };
    return cmocka_run_group_tests_name("pubkey", tests, NULL, NULL);
}
