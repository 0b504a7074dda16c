/* SPDX-License-Identifier: BSD-2-Clause */
#include "pki.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include "gateway/base/macros.h"

#define ENSURE(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static EVP_PKEY *new_rsa_pss_key(void)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA-PSS", NULL);
    EVP_PKEY *key = NULL;

    ENSURE(context != NULL && EVP_PKEY_keygen_init(context) == 1);
    ENSURE(EVP_PKEY_CTX_set_rsa_keygen_bits(context, 2048) == 1);
    ENSURE(EVP_PKEY_generate(context, &key) == 1);
    EVP_PKEY_CTX_free(context);
    return key;
}

EVP_PKEY *pki_new_key(const char *kind)
{
    EVP_PKEY *key;

    if (strcmp(kind, "RSA-PSS") == 0)
        key = new_rsa_pss_key();
    else if (strncmp(kind, "RSA-", 4) == 0)
        key = EVP_RSA_gen((unsigned int)strtoul(kind + 4, NULL, 10));
    else if (strcmp(kind, "ED25519") == 0 || strcmp(kind, "ED448") == 0 ||
             strcmp(kind, "X25519") == 0)
        key = EVP_PKEY_Q_keygen(NULL, NULL, kind);
    else
        key = EVP_EC_gen(kind);
    ENSURE(key != NULL);
    return key;
}

static void add_attribute(X509_NAME *name, const struct pki_attribute *attribute)
{
    const unsigned char *value = (const unsigned char *)attribute->value;
    int type = attribute->type != 0 ? attribute->type : MBSTRING_ASC;
    int len = attribute->len != 0 ? attribute->len : -1;

    ENSURE(X509_NAME_add_entry_by_txt(name, attribute->name, type, value, len, -1, 0) == 1);
}

static void set_subject(X509 *certificate, const struct pki_recipe *recipe)
{
    X509_NAME *name = X509_get_subject_name(certificate);

    for (size_t i = 0; i < ARRAY_SIZE(recipe->attributes) && recipe->attributes[i].name != NULL;
         i++)
        add_attribute(name, &recipe->attributes[i]);
    if (recipe->cn != NULL)
        add_attribute(name, &(struct pki_attribute){.name = "CN", .value = recipe->cn});
}

static void set_serial(X509 *certificate, const char *hex)
{
    static unsigned long counter;
    BIGNUM *number = NULL;

    if (hex != NULL)
        ENSURE(BN_hex2bn(&number, hex) > 0);
    else
        ENSURE((number = BN_new()) != NULL && BN_set_word(number, 0x8000 + ++counter) == 1);
    ENSURE(BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL);
    BN_free(number);
}

static void set_validity(X509 *certificate, const struct pki_recipe *recipe)
{
    bool usual = recipe->starts_s == 0 && recipe->ends_s == 0;

    ENSURE(X509_gmtime_adj(X509_getm_notBefore(certificate), usual ? -3600 : recipe->starts_s) !=
           NULL);
    ENSURE(X509_gmtime_adj(X509_getm_notAfter(certificate), usual ? 3600 : recipe->ends_s) != NULL);
}

static void add_extensions(X509 *certificate, X509 *issuer, const struct pki_extension *extensions,
                           size_t n)
{
    X509V3_CTX context;

    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    for (size_t i = 0; i < n && extensions[i].name != NULL; i++) {
        X509_EXTENSION *extension =
            X509V3_EXT_conf(NULL, &context, extensions[i].name, extensions[i].value);
        ENSURE(extension != NULL && X509_add_ext(certificate, extension, -1) == 1);
        X509_EXTENSION_free(extension);
    }
}

static const EVP_MD *hash_for(const EVP_PKEY *key)
{
    return EVP_PKEY_is_a(key, "ED25519") ? NULL : EVP_sha256();
}

struct pki pki_mint(const struct pki_recipe *recipe)
{
    struct pki made = {X509_new(), pki_new_key(recipe->key != NULL ? recipe->key : "P-256")};
    const struct pki *issuer = recipe->issuer != NULL ? recipe->issuer : &made;

    ENSURE(X509_set_version(made.certificate,
                            recipe->version_1 ? X509_VERSION_1 : X509_VERSION_3) == 1);
    set_serial(made.certificate, recipe->serial);
    set_validity(made.certificate, recipe);
    set_subject(made.certificate, recipe);
    ENSURE(X509_set_issuer_name(made.certificate, X509_get_subject_name(issuer->certificate)) == 1);
    ENSURE(X509_set_pubkey(made.certificate, made.key) == 1);
    add_extensions(made.certificate, issuer->certificate, recipe->extensions,
                   ARRAY_SIZE(recipe->extensions));
    ENSURE(X509_sign(made.certificate, issuer->key, hash_for(issuer->key)) > 0);
    return made;
}

struct pki pki_mint_ca(const char *cn, const struct pki *issuer)
{
    return pki_mint(&(struct pki_recipe){
        .issuer = issuer,
        .cn = cn,
        .extensions = {{"subjectKeyIdentifier", "hash"},
                       {"authorityKeyIdentifier", issuer != NULL ? "keyid" : "keyid,issuer"},
                       {"basicConstraints", "critical,CA:TRUE"},
                       {"keyUsage", "critical,keyCertSign,cRLSign,digitalSignature"}},
    });
}

struct pki pki_mint_device(const char *cn, const struct pki *issuer)
{
    return pki_mint(&(struct pki_recipe){
        .issuer = issuer,
        .cn = cn,
        .extensions = {{"authorityKeyIdentifier", "keyid"},
                       {"keyUsage", "critical,digitalSignature"},
                       {"extendedKeyUsage", "critical,clientAuth"}},
    });
}

void pki_free(struct pki *pki)
{
    X509_free(pki->certificate);
    EVP_PKEY_free(pki->key);
    *pki = (struct pki){NULL, NULL};
}

X509_CRL *pki_mint_crl(const struct pki *issuer, X509 *const *revoked, size_t n_revoked,
                       long ends_s)
{
    X509_CRL *crl = X509_CRL_new();
    ASN1_TIME *now = X509_gmtime_adj(NULL, -7200), *end = X509_gmtime_adj(NULL, ends_s);

    ENSURE(X509_CRL_set_version(crl, X509_CRL_VERSION_2) == 1);
    ENSURE(X509_CRL_set_issuer_name(crl, X509_get_subject_name(issuer->certificate)) == 1);
    ENSURE(X509_CRL_set1_lastUpdate(crl, now) == 1 && X509_CRL_set1_nextUpdate(crl, end) == 1);
    for (size_t i = 0; i < n_revoked; i++) {
        X509_REVOKED *entry = X509_REVOKED_new();
        ENSURE(X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(revoked[i])) == 1);
        ENSURE(X509_REVOKED_set_revocationDate(entry, now) == 1);
        ENSURE(X509_CRL_add0_revoked(crl, entry) == 1);
    }
    ENSURE(X509_CRL_sign(crl, issuer->key, hash_for(issuer->key)) > 0);
    ASN1_TIME_free(now);
    ASN1_TIME_free(end);
    return crl;
}

void pki_write(const char *path, X509 *const *certificates, EVP_PKEY *key, X509_CRL *crl)
{
    FILE *file = fopen(path, "we");

    ENSURE(file != NULL);
    for (size_t i = 0; certificates != NULL && certificates[i] != NULL; i++)
        ENSURE(PEM_write_X509(file, certificates[i]) == 1);
    if (key != NULL)
        ENSURE(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) == 1);
    if (crl != NULL)
        ENSURE(PEM_write_X509_CRL(file, crl) == 1);
    ENSURE(fclose(file) == 0);
}
