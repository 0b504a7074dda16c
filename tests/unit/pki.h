/* SPDX-License-Identifier: BSD-2-Clause */
/* Certificates for tests, minted in memory: what a CA would never sign is needed most. Failures end
 * the test program. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <openssl/x509.h>

/* A CA or a leaf. Both owned: pki_free(). */
struct pki {
    X509 *certificate;
    EVP_PKEY *key;
};

struct pki_attribute {
    const char *name; /* "CN", "OU", ...; NULL ends the list */
    int type; /* MBSTRING_ASC when 0; V_ASN1_... for others, whose bytes are taken as they are */
    const char *value;
    int len; /* 0: strlen() */
};

struct pki_extension {
    const char *name; /* "keyUsage", ...; NULL ends the list */
    const char *value;
};

struct pki_recipe {
    const struct pki *issuer; /* NULL: self-signed */
    const char *key;          /* "P-256" when NULL, "P-224", "ED25519", "RSA-1024", ... */
    const char *cn;           /* added behind the attributes; NULL: none */
    struct pki_attribute attributes[4];
    struct pki_extension extensions[5];
    bool version_1;
    long starts_s;      /* from now; -3600 when both are 0 */
    long ends_s;        /* from now; +3600 when both are 0 */
    const char *serial; /* hex; a counter when NULL */
};

EVP_PKEY *pki_new_key(const char *kind);
struct pki pki_mint(const struct pki_recipe *recipe);
/* A CA as CAs are; issuer may be NULL. */
struct pki pki_mint_ca(const char *cn, const struct pki *issuer);
/* A leaf as devices have it: digitalSignature, clientAuth. */
struct pki pki_mint_device(const char *cn, const struct pki *issuer);
void pki_free(struct pki *pki);

/* An X509_CRL of `issuer`; owned by the caller. */
X509_CRL *pki_mint_crl(const struct pki *issuer, X509 *const *revoked, size_t n_revoked,
                       long ends_s);

/* Writes certificates (NULL ends) and, when given, key and CRL, as PEM. */
void pki_write(const char *path, X509 *const *certificates, EVP_PKEY *key, X509_CRL *crl);
