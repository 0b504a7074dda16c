/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/trust.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/tls/digest.h"
#include "gateway/tls/identity.h"
#include "gateway/tls/twin.h"

struct trust {
    struct trust_ca *cas; /* owned, n_cas of them */
    size_t n_cas;
    X509_STORE *store;        /* owned */
    bool direct;              /* devices: only a leaf's own issuer vouches for it */
    int64_t expired_grace_ms; /* of any group; 0: an expired leaf is refused */
};

static void digest_certificate(const X509 *certificate, struct digest *out)
{
    uint8_t *der = NULL;
    int len = i2d_X509(certificate, &der);

    digest_sha256(der, len > 0 ? (size_t)len : 0, out);
    OPENSSL_free(der);
}

static bool check_is_ca(X509 *certificate, const char *path, struct sentence error)
{
    if (X509_check_ca(certificate) == 1)
        return true;
    sentence_write(error, "%s: holds a certificate that is not a CA's (basicConstraints CA:TRUE)",
                   path);
    return false;
}

static bool has_issued(X509 *issuer, X509 *subject)
{
    bool issued = X509_check_issued(issuer, subject) == X509_V_OK &&
                  X509_verify(subject, X509_get0_pubkey(issuer)) == 1;
    ERR_clear_error();
    return issued;
}

/* Above all this finds files that begin with the root: that would then be the issuer of devices. */
static bool check_chain(STACK_OF(X509) * chain, const char *path, struct sentence error)
{
    for (int i = 0; i < sk_X509_num(chain); i++) {
        X509 *certificate = sk_X509_value(chain, i);
        if (!check_is_ca(certificate, path, error))
            return false;
        if (i > 0 && !has_issued(certificate, sk_X509_value(chain, i - 1))) {
            sentence_write(
                error,
                "%s: certificate %d did not issue certificate %d; put the issuing CA first, then "
                "each one's issuer up to the root",
                path, i + 1, i);
            return false;
        }
    }
    return true;
}

static void warn_if_expired(X509 *certificate, const char *path)
{
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0)
        log_write(LOG_WARNING, "the CA certificate has expired; what it issued is refused",
                  LOG_STR("file", path));
}

static void ca_init(struct trust_ca *ca, X509 *certificate, const char *path)
{
    X509_up_ref(certificate);
    ca->certificate = certificate;
    ca->crl_expires_ms = INT64_MAX;
    digest_certificate(certificate, &ca->digest);
    ca->order = twin_order(X509_get0_pubkey(certificate));
    warn_if_expired(certificate, path);
}

/* A critical extension that is not honoured can mean that the list is only a part: a delta, one of
 * several distribution points, one that speaks for other issuers (RFC 5280, 5.2). */
static bool crl_is_complete(X509_CRL *crl)
{
    const STACK_OF(X509_REVOKED) *revoked = X509_CRL_get_REVOKED(crl);

    if (X509_CRL_get_ext_by_critical(crl, 1, -1) >= 0)
        return false;
    for (int i = 0; i < sk_X509_REVOKED_num(revoked); i++)
        if (X509_REVOKED_get_ext_by_critical(sk_X509_REVOKED_value(revoked, i), 1, -1) >= 0)
            return false;
    return true;
}

static bool check_crl(X509_CRL *crl, const struct trust_ca *ca, const char *path,
                      struct sentence error)
{
    EVP_PKEY *key = X509_get0_pubkey(ca->certificate);

    if (X509_NAME_cmp(X509_CRL_get_issuer(crl), X509_get_subject_name(ca->certificate)) != 0 ||
        key == NULL || X509_CRL_verify(crl, key) != 1) {
        ERR_clear_error();
        sentence_write(
            error, "%s: holds a CRL that device CA \"%s\" did not issue; only its own belong there",
            path, ca->name);
        return false;
    }
    if (crl_is_complete(crl))
        return true;
    sentence_write(error,
                   "%s: holds a CRL with critical extensions (a delta or a partial CRL); a "
                   "complete CRL is needed",
                   path);
    return false;
}

static bool is_newer(const X509_CRL *a, const X509_CRL *b)
{
    return b == NULL ||
           ASN1_TIME_compare(X509_CRL_get0_lastUpdate(a), X509_CRL_get0_lastUpdate(b)) > 0;
}

static bool ca_take_newest(struct trust_ca *ca, STACK_OF(X509_CRL) * crls, const char *path,
                           struct sentence error)
{
    X509_CRL *newest = NULL;

    for (int i = 0; i < sk_X509_CRL_num(crls); i++) {
        X509_CRL *crl = sk_X509_CRL_value(crls, i);
        if (!check_crl(crl, ca, path, error))
            return false;
        if (is_newer(crl, newest))
            newest = crl;
    }
    X509_CRL_up_ref(newest);
    ca->crl = newest;
    return true;
}

static bool ca_load_crl(struct trust_ca *ca, const char *path, struct sentence error)
{
    STACK_OF(X509_CRL) *crls = pem_file_crls(path, error);

    if (crls == NULL)
        return false;
    bool taken = ca_take_newest(ca, crls, path, error);
    sk_X509_CRL_pop_free(crls, X509_CRL_free);
    if (!taken)
        return false;

    /* Sorted now, so that no handshake has to do it under the CRL's lock. */
    (void)X509_CRL_sort(ca->crl);
    if (!identity_time_ms(X509_CRL_get0_nextUpdate(ca->crl), &ca->crl_expires_ms))
        ca->crl_expires_ms = INT64_MAX;
    if (ca->crl_expires_ms <= clock_wall_ms())
        log_write(LOG_WARNING, "the CRL has expired; all certificates of its issuer are refused",
                  LOG_STR("file", path), LOG_STR("device_ca", ca->name));
    return true;
}

static struct trust *trust_new(size_t n_cas)
{
    struct trust *trust = mem_new(struct trust);

    trust->cas = mem_array(n_cas, sizeof(*trust->cas));
    trust->n_cas = n_cas;
    return trust;
}

static bool trust_make_store(struct trust *trust, struct sentence error)
{
    bool good = (trust->store = X509_STORE_new()) != NULL;

    for (size_t i = 0; good && i < trust->n_cas; i++)
        good = X509_STORE_add_cert(trust->store, trust->cas[i].certificate) == 1;
    if (!good)
        sentence_write(error, "OpenSSL cannot hold the trusted certificates: out of memory");
    return good;
}

static bool ca_load_device_ca(struct trust_ca *ca, const struct config_device_ca *config,
                              struct sentence error)
{
    STACK_OF(X509) *chain = pem_file_certificates(config->certificate_file, error);

    if (chain == NULL)
        return false;
    str_copy_cut(ca->name, sizeof(ca->name), str_c(config->name));
    ca->state = config->state;
    bool good = check_chain(chain, config->certificate_file, error);
    if (good)
        ca_init(ca, sk_X509_value(chain, 0), config->certificate_file);
    sk_X509_pop_free(chain, X509_free);
    return good && (config->crl_file == NULL || ca_load_crl(ca, config->crl_file, error));
}

static bool is_same_crl(const X509_CRL *a, const X509_CRL *b)
{
    return a == b || (a != NULL && b != NULL && X509_CRL_match(a, b) == 0);
}

/* A device's certificate fits every CA certificate with its issuer's name and key, and OpenSSL
 * picks one of them: with different states or CRLs, chance would decide. */
static bool check_distinct(const struct trust_ca *a, const struct trust_ca *b,
                           struct sentence error)
{
    if (X509_NAME_cmp(X509_get_subject_name(a->certificate),
                      X509_get_subject_name(b->certificate)) != 0 ||
        EVP_PKEY_eq(X509_get0_pubkey(a->certificate), X509_get0_pubkey(b->certificate)) != 1)
        return true;
    if (digest_equal(&a->digest, &b->digest))
        sentence_write(error, "device CAs \"%s\" and \"%s\" are the same certificate; remove one",
                       a->name, b->name);
    else if (a->state != b->state || !is_same_crl(a->crl, b->crl))
        sentence_write(error,
                       "device CAs \"%s\" and \"%s\" have the same subject and key; give both the "
                       "same state and CRL",
                       a->name, b->name);
    else
        return true;
    return false;
}

static bool trust_load_devices(struct trust *trust, const struct config *config,
                               struct sentence error)
{
    for (size_t i = 0; i < trust->n_cas; i++) {
        if (!ca_load_device_ca(&trust->cas[i], &config->device_cas[i], error))
            return false;
        for (size_t j = 0; j < i; j++)
            if (!check_distinct(&trust->cas[j], &trust->cas[i], error))
                return false;
    }
    return trust_make_store(trust, error);
}

struct trust *trust_new_devices(const struct config *config, struct sentence error)
{
    if (config->n_device_cas == 0) {
        sentence_write(error, "no device CA is configured: add one to device_cas");
        return NULL;
    }
    struct trust *trust = trust_new(config->n_device_cas);
    trust->direct = true;
    trust->expired_grace_ms = enforcement_longest_grace_ms(&config->rotation.admission.rules);
    if (!trust_load_devices(trust, config, error))
        trust_free(&trust);
    return trust;
}

static bool trust_load_operators(struct trust *trust, STACK_OF(X509) * bundle, const char *path,
                                 struct sentence error)
{
    for (size_t i = 0; i < trust->n_cas; i++) {
        X509 *certificate = sk_X509_value(bundle, (int)i);
        if (!check_is_ca(certificate, path, error))
            return false;
        ca_init(&trust->cas[i], certificate, path);
    }
    return trust_make_store(trust, error);
}

struct trust *trust_new_operators(const char *path, struct sentence error)
{
    STACK_OF(X509) *bundle = pem_file_certificates(path, error);

    if (bundle == NULL)
        return NULL;
    struct trust *trust = trust_new((size_t)sk_X509_num(bundle));
    if (!trust_load_operators(trust, bundle, path, error))
        trust_free(&trust);
    sk_X509_pop_free(bundle, X509_free);
    return trust;
}

void trust_free(struct trust **trust)
{
    if (*trust == NULL)
        return;
    X509_STORE_free((*trust)->store);
    for (size_t i = 0; i < (*trust)->n_cas; i++) {
        X509_free((*trust)->cas[i].certificate);
        X509_CRL_free((*trust)->cas[i].crl);
        BN_free((*trust)->cas[i].order);
    }
    mem_free((*trust)->cas);
    mem_free(*trust);
    *trust = NULL;
}

static const struct trust_ca *find_anchor(const struct trust *trust, const X509 *certificate)
{
    for (size_t i = 0; i < trust->n_cas; i++)
        if (certificate == trust->cas[i].certificate ||
            X509_cmp(certificate, trust->cas[i].certificate) == 0)
            return &trust->cas[i];
    return NULL;
}

const struct trust_ca *trust_find_issuer(const struct trust *trust, STACK_OF(X509) * chain)
{
    int end = trust->direct ? 2 : sk_X509_num(chain);
    const struct trust_ca *found = NULL;

    for (int i = 1; i < end && i < sk_X509_num(chain) && found == NULL; i++)
        found = find_anchor(trust, sk_X509_value(chain, i));
    return found;
}

/* A time that cannot be read gives none. */
static void narrow(struct chain_verdict *verdict, const X509 *certificate)
{
    int64_t from_ms = INT64_MAX, until_ms = 0;

    if (!identity_time_ms(X509_get0_notBefore(certificate), &from_ms) ||
        !identity_time_ms(X509_get0_notAfter(certificate), &until_ms))
        until_ms = 0;
    if (from_ms > verdict->from_ms)
        verdict->from_ms = from_ms;
    if (until_ms < verdict->until_ms)
        verdict->until_ms = until_ms;
}

void trust_conclude(const struct trust *trust, STACK_OF(X509) * chain, struct chain_verdict *out)
{
    const struct trust_ca *ca = trust_find_issuer(trust, chain);

    *out = (struct chain_verdict){.issuer = SIZE_MAX, .from_ms = INT64_MIN, .until_ms = INT64_MAX};
    if (ca != NULL) {
        out->issuer = trust_ca_index(trust, ca);
        out->until_ms = ca->crl_expires_ms;
    }
    for (int i = 0; i < sk_X509_num(chain); i++)
        narrow(out, sk_X509_value(chain, i));
}

size_t trust_ca_index(const struct trust *trust, const struct trust_ca *ca)
{
    return (size_t)(ca - trust->cas);
}

const struct trust_ca *trust_ca_at(const struct trust *trust, size_t index)
{
    return index < trust->n_cas ? &trust->cas[index] : NULL;
}

const struct trust_ca *trust_find(const struct trust *trust, const char *name,
                                  const struct digest *certificate)
{
    for (size_t i = 0; i < trust->n_cas; i++)
        if (digest_equal(&trust->cas[i].digest, certificate) &&
            strcmp(trust->cas[i].name, name) == 0)
            return &trust->cas[i];
    return NULL;
}

bool trust_is_revoked(const struct trust_ca *ca, const char *serial)
{
    X509_REVOKED *entry = NULL;
    BIGNUM *number = NULL;
    int found = 0;

    if (ca->crl == NULL)
        return false;
    ASN1_INTEGER *integer =
        BN_hex2bn(&number, serial) > 0 ? BN_to_ASN1_INTEGER(number, NULL) : NULL;
    if (integer != NULL)
        found = X509_CRL_get0_by_serial(ca->crl, &entry, integer);
    ASN1_INTEGER_free(integer);
    BN_free(number);
    return found == 1; /* 2: removeFromCRL */
}

void trust_fingerprint(const struct trust *trust, struct digest *out)
{
    struct digest all = {{0}}, crl;

    for (size_t i = 0; i < trust->n_cas; i++) {
        const struct trust_ca *ca = &trust->cas[i];
        uint8_t *der = NULL;
        int len = ca->crl != NULL ? i2d_X509_CRL(ca->crl, &der) : 0;
        digest_sha256(der, len > 0 ? (size_t)len : 0, &crl);
        OPENSSL_free(der);
        char *text = mem_printf("%s %s %d %s %s", all.hex, ca->name, (int)ca->state, ca->digest.hex,
                                crl.hex);
        digest_sha256((const uint8_t *)text, strlen(text), &all);
        mem_free(text);
    }
    *out = all;
}

static void announce_subjects(const struct trust *trust, SSL_CTX *context)
{
    for (size_t i = 0; i < trust->n_cas; i++) {
        const X509_NAME *subject = X509_get_subject_name(trust->cas[i].certificate);
        bool seen = false;
        for (size_t j = 0; j < i && !seen; j++)
            seen = X509_NAME_cmp(X509_get_subject_name(trust->cas[j].certificate), subject) == 0;
        if (!seen)
            (void)SSL_CTX_add_client_CA(context, trust->cas[i].certificate);
    }
}

void trust_install(const struct trust *trust, SSL_CTX *context, bool announce)
{
    /* Purpose "sslclient" is what a server-side SSL_CTX asks for by itself. */
    X509_VERIFY_PARAM *param = SSL_CTX_get0_param(context);

    (void)X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_X509_STRICT | X509_V_FLAG_PARTIAL_CHAIN);
    SSL_CTX_set1_cert_store(context, trust->store);
    if (announce)
        announce_subjects(trust, context);
}

/* The common name of the certificate that failed, for people: whatever is not printable becomes
 * '?'. */
static void write_common_name(const X509 *certificate, char *out, size_t size)
{
    const X509_NAME *name = X509_get_subject_name(certificate);
    int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);

    if (at < 0) {
        str_copy_cut(out, size, STR("without a common name"));
        return;
    }
    const ASN1_STRING *value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));
    struct str text = {(const char *)ASN1_STRING_get0_data(value),
                       (size_t)ASN1_STRING_length(value)};
    (void)snprintf(out, size, "CN=");
    str_copy_cut(out + 3, size - 3, text);
    for (size_t i = 3; i < size - 1 && i < text.len + 3; i++)
        if (out[i] < 0x20 || out[i] > 0x7e)
            out[i] = '?';
    out[text.len + 3 < size - 1 ? text.len + 3 : size - 1] = '\0';
}

static int refuse(X509_STORE_CTX *verification, struct handshake_notes *notes)
{
    const char *text = X509_verify_cert_error_string(X509_STORE_CTX_get_error(verification));
    const X509 *certificate = X509_STORE_CTX_get_current_cert(verification);
    char name[80] = "no certificate";

    notes->certificate_refused = true;
    if (notes->error[0] != '\0')
        return 0;
    if (certificate != NULL)
        write_common_name(certificate, name, sizeof(name));
    (void)snprintf(notes->error, sizeof(notes->error),
                   "the client's certificate is not trusted: %s (%s)", text, name);
    return 0;
}

static bool is_excused_for_leaf(int error)
{
    switch (error) {
    case X509_V_ERR_MISSING_AUTHORITY_KEY_IDENTIFIER:
    /* What follows is about leaves that are CAs: identity.c tells. */
    case X509_V_ERR_MISSING_SUBJECT_KEY_IDENTIFIER:
    case X509_V_ERR_CA_BCONS_NOT_CRITICAL:
    case X509_V_ERR_CA_CERT_MISSING_KEY_USAGE:
    case X509_V_ERR_KU_KEY_CERT_SIGN_INVALID_FOR_NON_CA:
        return true;
    default:
        return false;
    }
}

static bool is_excused_for_anchor(int error)
{
    return error == X509_V_ERR_MISSING_SUBJECT_KEY_IDENTIFIER ||
           error == X509_V_ERR_CA_BCONS_NOT_CRITICAL ||
           error == X509_V_ERR_CA_CERT_MISSING_KEY_USAGE;
}

static bool is_within_grace(const struct trust *trust, const X509 *certificate)
{
    int64_t expires_ms;

    return trust->expired_grace_ms > 0 &&
           identity_time_ms(X509_get0_notAfter(certificate), &expires_ms) &&
           clock_wall_ms() - expires_ms <= trust->expired_grace_ms;
}

static bool is_excused(const struct trust *trust, X509_STORE_CTX *verification,
                       struct handshake_notes *notes)
{
    int error = X509_STORE_CTX_get_error(verification);
    const X509 *certificate = X509_STORE_CTX_get_current_cert(verification);

    if (certificate == NULL)
        return false;
    if (X509_STORE_CTX_get_error_depth(verification) > 0)
        return is_excused_for_anchor(error) && find_anchor(trust, certificate) != NULL;
    if (error != X509_V_ERR_CERT_HAS_EXPIRED)
        return is_excused_for_leaf(error);
    notes->certificate_expired = is_within_grace(trust, certificate);
    return notes->certificate_expired;
}

/* X509_V_OK, or why not. */
static int judge_revocation(const struct trust *trust, X509_STORE_CTX *verification)
{
    X509 *leaf = X509_STORE_CTX_get_current_cert(verification);
    const struct trust_ca *ca = trust_find_issuer(trust, X509_STORE_CTX_get0_chain(verification));
    X509_REVOKED *entry = NULL;

    if (ca == NULL || ca->crl == NULL)
        return X509_V_OK;
    if (ca->crl_expires_ms <= clock_wall_ms())
        return X509_V_ERR_CRL_HAS_EXPIRED;
    return X509_CRL_get0_by_cert(ca->crl, &entry, leaf) == 1 ? X509_V_ERR_CERT_REVOKED : X509_V_OK;
}

int trust_verify(const struct trust *trust, int good, X509_STORE_CTX *verification,
                 struct handshake_notes *notes)
{
    if (!good) {
        if (!is_excused(trust, verification, notes))
            return refuse(verification, notes);
        X509_STORE_CTX_set_error(verification, X509_V_OK);
        return 1;
    }
    /* OpenSSL calls with "good" for each certificate once its signature and dates are checked, the
     * leaf last. */
    if (X509_STORE_CTX_get_error_depth(verification) > 0)
        return 1;
    int error = judge_revocation(trust, verification);
    if (error == X509_V_OK)
        return 1;
    X509_STORE_CTX_set_error(verification, error);
    return refuse(verification, notes);
}
