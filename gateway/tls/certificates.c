/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/certificates.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/base/str.h"
#include "gateway/tls/identity.h"
#include "gateway/tls/openssl_error.h"

/* One file of the configuration. */
struct source {
    const char *listener;
    const char *certificate_file;
    const char *key_file;
};

/* Certificates of the same names, each with another kind of key. */
struct group {
    SSL_CTX *context; /* owned */
    char **names;     /* owned, and each; sorted, in lower case */
    size_t n_names;
};

struct name {
    const char *text; /* of its group */
    size_t group;
};

struct certificates {
    struct group *groups; /* owned; the first is the default */
    size_t n_groups;
    struct name *names; /* owned; sorted by text, then by group */
    size_t n_names;
    int64_t expire_ms;
};

/* --- names ------------------------------------------------------------------------------------ */

static void group_add_name(struct group *group, const ASN1_STRING *value)
{
    struct str text = {(const char *)ASN1_STRING_get0_data(value),
                       (size_t)ASN1_STRING_length(value)};

    if (text.len == 0 || memchr(text.p, '\0', text.len) != NULL)
        return;
    char *name = mem_strndup(text.p, text.len);
    for (char *p = name; *p != '\0'; p++)
        *p = *p >= 'A' && *p <= 'Z' ? (char)(*p - 'A' + 'a') : *p;
    group->names[group->n_names++] = name;
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void group_read_names(struct group *group, X509 *certificate)
{
    GENERAL_NAMES *all = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    const X509_NAME *subject = X509_get_subject_name(certificate);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);

    group->names =
        mem_array((size_t)(all != NULL ? sk_GENERAL_NAME_num(all) : 0) + 1, sizeof(*group->names));
    for (int i = 0; all != NULL && i < sk_GENERAL_NAME_num(all); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(all, i);
        if (name->type == GEN_DNS)
            group_add_name(group, name->d.dNSName);
    }
    /* RFC 6125, 6.4.4: the common name counts only when there is nothing else. */
    if (group->n_names == 0 && at >= 0)
        group_add_name(group, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    qsort(group->names, group->n_names, sizeof(*group->names), compare_texts);
    GENERAL_NAMES_free(all);
}

static bool has_same_names(const struct group *a, const struct group *b)
{
    bool same = a->n_names == b->n_names;

    for (size_t i = 0; same && i < a->n_names; i++)
        same = strcmp(a->names[i], b->names[i]) == 0;
    return same;
}

static void group_deinit(struct group *group)
{
    SSL_CTX_free(group->context);
    for (size_t i = 0; i < group->n_names; i++)
        mem_free(group->names[i]);
    mem_free(group->names);
}

/* --- files ------------------------------------------------------------------------------------ */

static void warn_if_expired(X509 *certificate, const struct source *source)
{
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0)
        log_write(LOG_WARNING, "the listener's certificate has expired; clients will refuse it",
                  LOG_STR("listener", source->listener), LOG_STR("file", source->certificate_file));
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

/* For the certificate that was put into the context last. */
static bool use_key(SSL_CTX *context, const struct source *source, struct sentence error)
{
    EVP_PKEY *key = pem_file_key(source->key_file, error);

    if (key == NULL)
        return false;
    bool good = EVP_PKEY_eq(X509_get0_pubkey(SSL_CTX_get0_certificate(context)), key) == 1 &&
                SSL_CTX_use_PrivateKey(context, key) == 1;
    EVP_PKEY_free(key);
    ERR_clear_error();
    if (!good)
        sentence_write(error, "%s: the key does not belong to the first certificate in %s",
                       source->key_file, source->certificate_file);
    return good;
}

/* --- the whole -------------------------------------------------------------------------------- */

/* Has the context a certificate with a key of this kind? */
static bool has_kind(SSL_CTX *context, X509 *certificate)
{
    int kind = EVP_PKEY_get_base_id(X509_get0_pubkey(certificate));
    bool found = false;

    for (int op = SSL_CERT_SET_FIRST; SSL_CTX_set_current_cert(context, op) == 1 && !found;
         op = SSL_CERT_SET_NEXT) {
        X509 *other = SSL_CTX_get0_certificate(context);
        found = EVP_PKEY_get_base_id(X509_get0_pubkey(other)) == kind;
    }
    return found;
}

/* The group that the certificate can join, else a new one, which takes over the names of `wanted`.
 * NULL with a sentence on failure. */
static struct group *find_group(struct certificates *certificates, struct group *wanted,
                                X509 *certificate, certificates_context_fn *make, void *arg,
                                struct sentence error)
{
    for (size_t i = 0; i < certificates->n_groups; i++) {
        struct group *group = &certificates->groups[i];
        if (has_same_names(group, wanted) && !has_kind(group->context, certificate))
            return group;
    }
    wanted->context = make(arg, error);
    if (wanted->context == NULL)
        return NULL;
    struct group *group = &certificates->groups[certificates->n_groups++];
    *group = *wanted;
    *wanted = (struct group){0};
    return group;
}

struct load {
    struct certificates *into;
    certificates_context_fn *make;
    void *arg;
    struct sentence error;
};

static void note_expiry(struct certificates *certificates, const X509 *leaf)
{
    int64_t expires_ms = 0;

    (void)!identity_time_ms(X509_get0_notAfter(leaf), &expires_ms);
    if (expires_ms < certificates->expire_ms)
        certificates->expire_ms = expires_ms;
}

static bool load_chain(const struct load *load, const struct source *source, STACK_OF(X509) * chain)
{
    X509 *leaf = sk_X509_value(chain, 0);
    struct group wanted = {0};
    bool good = false;

    warn_if_expired(leaf, source);
    note_expiry(load->into, leaf);
    group_read_names(&wanted, leaf);
    if (wanted.n_names == 0 && load->into->n_groups > 0) {
        sentence_write(load->error,
                       "%s: the certificate has no DNS name, so no client could ask for it",
                       source->certificate_file);
    } else {
        struct group *group =
            find_group(load->into, &wanted, leaf, load->make, load->arg, load->error);
        good = group != NULL &&
               use_chain(group->context, chain, source->certificate_file, load->error) &&
               use_key(group->context, source, load->error);
    }
    group_deinit(&wanted);
    return good;
}

static bool load_source(const struct load *load, const struct source *source)
{
    STACK_OF(X509) *chain = pem_file_certificates(source->certificate_file, load->error);

    if (chain == NULL)
        return false;
    bool good = load_chain(load, source, chain);
    sk_X509_pop_free(chain, X509_free);
    return good;
}

static bool load_all(const struct load *load, const struct config_listener *listener)
{
    struct source source = {listener->name, listener->certificate_file, listener->key_file};

    if (source.certificate_file == NULL || source.key_file == NULL) {
        sentence_write(load->error, "listener \"%s\" has no certificate: give certificate and key",
                       listener->name);
        return false;
    }
    bool good = load_source(load, &source);
    for (size_t i = 0; good && i < listener->n_certificates; i++) {
        source.certificate_file = listener->certificates[i].certificate_file;
        source.key_file = listener->certificates[i].key_file;
        good = load_source(load, &source);
    }
    return good;
}

static int compare_names(const void *a, const void *b)
{
    const struct name *first = a, *second = b;
    int order = strcmp(first->text, second->text);

    return order != 0 ? order : first->group < second->group ? -1 : first->group > second->group;
}

static void index_names(struct certificates *certificates)
{
    size_t n = 0;

    for (size_t i = 0; i < certificates->n_groups; i++)
        n += certificates->groups[i].n_names;
    certificates->names = mem_array(n, sizeof(*certificates->names));
    for (size_t i = 0; i < certificates->n_groups; i++)
        for (size_t k = 0; k < certificates->groups[i].n_names; k++)
            certificates->names[certificates->n_names++] =
                (struct name){certificates->groups[i].names[k], i};
    if (n > 0)
        qsort(certificates->names, n, sizeof(*certificates->names), compare_names);
}

struct certificates *certificates_new(const struct config_listener *listener,
                                      certificates_context_fn *make, void *arg,
                                      struct sentence error)
{
    struct certificates *certificates = mem_new(struct certificates);
    const struct load load = {certificates, make, arg, error};

    certificates->expire_ms = INT64_MAX;
    certificates->groups = mem_array(listener->n_certificates + 1, sizeof(struct group));
    if (load_all(&load, listener))
        index_names(certificates);
    else
        certificates_free(&certificates);
    return certificates;
}

void certificates_free(struct certificates **certificates)
{
    if (*certificates == NULL)
        return;
    for (size_t i = 0; i < (*certificates)->n_groups; i++)
        group_deinit(&(*certificates)->groups[i]);
    mem_free((*certificates)->groups);
    mem_free((*certificates)->names);
    mem_free(*certificates);
    *certificates = NULL;
}

int64_t certificates_expire_ms(const struct certificates *certificates)
{
    return certificates->expire_ms;
}

SSL_CTX *certificates_default(const struct certificates *certificates)
{
    return certificates->groups[0].context;
}

/* "*." stands in front of `name` where `wildcard`. */
static int compare_to(const char *text, const char *name, bool wildcard)
{
    if (!wildcard)
        return strcmp(text, name);
    int order = strncmp(text, "*.", 2);
    return order != 0 ? order : strcmp(text + 2, name);
}

/* The first of its equals; NULL: none. */
static const struct name *find_name(const struct certificates *certificates, const char *name,
                                    bool wildcard)
{
    size_t low = 0, high = certificates->n_names;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_to(certificates->names[middle].text, name, wildcard) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < certificates->n_names &&
                 compare_to(certificates->names[low].text, name, wildcard) == 0;
    return found ? &certificates->names[low] : NULL;
}

SSL_CTX *certificates_find(const struct certificates *certificates, const char *name)
{
    const char *dot = strchr(name, '.');
    const struct name *found = NULL;

    /* Nearly always there is but one certificate. */
    if (certificates->n_groups == 1 || name[0] == '\0')
        return certificates_default(certificates);
    found = find_name(certificates, name, false);
    if (found == NULL && dot != NULL && dot != name)
        found = find_name(certificates, dot + 1, true);
    return certificates->groups[found != NULL ? found->group : 0].context;
}
