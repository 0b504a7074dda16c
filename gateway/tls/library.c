/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/library.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include <openssl/core_dispatch.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/provider.h>

#include "gateway/base/log.h"
#include "gateway/base/macros.h"
#include "gateway/base/mem.h"

/* OpenSSL 3.0 has 131 ciphers in the default provider, the most of any kind. */
enum { ALGORITHMS_MAX = 512 };

/* Of one kind (OSSL_OP_…), the algorithms that are handed on: those that are named, or all but
 * those. Names are the first ones that the default provider uses. */
struct selection {
    int operation;
    enum {
        SELECT_NAMED,
        SELECT_OTHERS,
    } mode;
    const char *names[16];     /* NULL ends */
    const char *properties[2]; /* which the definition must have as well; NULL: none */
    OSSL_ALGORITHM *selected;  /* owned by the process; a row without names ends it */
};

static struct selection selections[] = {
    /* The keys that spki.h allows, and those that have their own answer from it. */
    {OSSL_OP_DECODER,
     SELECT_NAMED,
     {"EC", "RSA", "RSA-PSS", "ED25519", "ED448"},
     {"input=der", "structure=SubjectPublicKeyInfo"},
     NULL},
    /* Of the cipher suites with ECDHE that can still be recommended to anybody. */
    {OSSL_OP_CIPHER,
     SELECT_NAMED,
     {"AES-128-GCM", "AES-256-GCM", "ChaCha20-Poly1305", "AES-128-CCM", "AES-256-CCM",
      "AES-128-CBC", "AES-256-CBC"},
     {NULL, NULL},
     NULL},
    {OSSL_OP_DIGEST,
     SELECT_NAMED,
     {"SHA1", "SHA2-224", "SHA2-256", "SHA2-384", "SHA2-512"},
     {NULL, NULL},
     NULL},
    {OSSL_OP_MAC, SELECT_NAMED, {"HMAC"}, {NULL, NULL}, NULL},
    {OSSL_OP_KDF, SELECT_NAMED, {"TLS13-KDF", "TLS1-PRF", "HKDF"}, {NULL, NULL}, NULL},
    /* Not by name: new versions bring key exchanges, and those should work. */
    {OSSL_OP_KEYMGMT,
     SELECT_OTHERS,
     {"DHX", "DSA", "SM2", "HKDF", "TLS1-PRF", "SCRYPT", "SIPHASH", "POLY1305", "CMAC"},
     {NULL, NULL},
     NULL},
};

static OSSL_PROVIDER *base; /* "default", in the other context */
static OSSL_LIB_CTX *context;

/* --- the filter ------------------------------------------------------------------------------- */

static bool is_named(const OSSL_ALGORITHM *algorithm, const char *name)
{
    size_t len = strlen(name);
    const char *names = algorithm->algorithm_names; /* "SHA2-256:SHA-256:SHA256:…" */

    return strncmp(names, name, len) == 0 && (names[len] == '\0' || names[len] == ':');
}

static bool is_selected(const struct selection *selection, const OSSL_ALGORITHM *algorithm)
{
    bool named = false;

    for (size_t i = 0; i < ARRAY_SIZE(selection->properties); i++) {
        const char *property = selection->properties[i];
        if (property != NULL && strstr(algorithm->property_definition, property) == NULL)
            return false;
    }
    for (size_t i = 0; selection->names[i] != NULL && !named; i++)
        named = is_named(algorithm, selection->names[i]);
    return named == (selection->mode == SELECT_NAMED);
}

/* False when nothing is left, which no version of OpenSSL that we know gives. */
static bool select_algorithms(struct selection *selection)
{
    int no_cache = 0;
    const OSSL_ALGORITHM *all =
        OSSL_PROVIDER_query_operation(base, selection->operation, &no_cache);
    size_t n = 0, n_selected = 0;

    while (all != NULL && all[n].algorithm_names != NULL && n < ALGORITHMS_MAX)
        n++;
    selection->selected = mem_array(n + 1, sizeof(OSSL_ALGORITHM));
    for (size_t i = 0; i < n; i++)
        if (is_selected(selection, &all[i]))
            selection->selected[n_selected++] = all[i];
    return n_selected > 0 && n < ALGORITHMS_MAX;
}

static const OSSL_ALGORITHM *on_query(void *provider, int operation, int *no_cache)
{
    for (size_t i = 0; i < ARRAY_SIZE(selections); i++) {
        if (selections[i].operation == operation) {
            *no_cache = 0;
            return selections[i].selected;
        }
    }
    return OSSL_PROVIDER_query_operation(base, operation, no_cache);
}

static const OSSL_PARAM *on_gettable_params(void *provider)
{
    return OSSL_PROVIDER_gettable_params(base);
}

static int on_get_params(void *provider, OSSL_PARAM params[])
{
    return OSSL_PROVIDER_get_params(base, params);
}

/* The groups of TLS. */
static int on_get_capabilities(void *provider, const char *capability, OSSL_CALLBACK *done,
                               void *arg)
{
    return OSSL_PROVIDER_get_capabilities(base, capability, done, arg);
}

/* The algorithms are given the provider's context, so it must be the one that they know. */
static int filter_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *core,
                       const OSSL_DISPATCH **out_functions, void **out_context)
{
    static const OSSL_DISPATCH functions[] = {
        {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))on_query},
        {OSSL_FUNC_PROVIDER_GETTABLE_PARAMS, (void (*)(void))on_gettable_params},
        {OSSL_FUNC_PROVIDER_GET_PARAMS, (void (*)(void))on_get_params},
        {OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (void (*)(void))on_get_capabilities},
        {0, NULL},
    };

    *out_functions = functions;
    *out_context = OSSL_PROVIDER_get0_provider_ctx(base);
    return 1;
}

/* --- the contexts ----------------------------------------------------------------------------- */

static int is_known_provider(OSSL_PROVIDER *provider, void *arg)
{
    const char *name = OSSL_PROVIDER_get0_name(provider);

    return strcmp(name, "default") == 0 || strcmp(name, "base") == 0 || strcmp(name, "legacy") == 0;
}

/* Has the administrator left OpenSSL's context as it is? */
static bool own_context_is_plain(void)
{
    return OSSL_PROVIDER_available(NULL, "default") == 1 &&
           EVP_default_properties_is_fips_enabled(NULL) == 0 &&
           OSSL_PROVIDER_do_all(NULL, is_known_provider, NULL) == 1;
}

static bool make_filter(OSSL_LIB_CTX *of)
{
    for (size_t i = 0; i < ARRAY_SIZE(selections); i++)
        if (!select_algorithms(&selections[i]))
            return false;
    return OSSL_PROVIDER_add_builtin(of, "device-gateway", filter_init) == 1 &&
           OSSL_PROVIDER_load(of, "device-gateway") != NULL;
}

/* The version that runs, not the one that we were built with. */
static bool has_slow_decoding(void)
{
    return OPENSSL_version_major() == 3 && OPENSSL_version_minor() < 2;
}

static void make_context(void)
{
    if (!has_slow_decoding())
        return;
    if (!own_context_is_plain()) {
        log_write(LOG_NOTICE, "TLS uses OpenSSL's providers as openssl.cnf has them");
        return;
    }
    OSSL_LIB_CTX *ours = OSSL_LIB_CTX_new(), *of_base = OSSL_LIB_CTX_new();
    if (ours != NULL && of_base != NULL &&
        (base = OSSL_PROVIDER_load(of_base, "default")) != NULL && make_filter(ours)) {
        context = ours;
        return;
    }
    log_write(LOG_WARNING, "TLS uses all of OpenSSL's algorithms: they cannot be selected");
    OSSL_LIB_CTX_free(ours);
    ERR_clear_error();
}

OSSL_LIB_CTX *library_context(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, make_context);
    return context;
}
