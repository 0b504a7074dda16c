/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/pem_file.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/pem.h>

#include "gateway/tls/openssl_error.h"

void sentence_write(struct sentence error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(error.text, error.size, format, args);
    va_end(args);
}

static FILE *open_file(const char *path, struct sentence error)
{
    FILE *file = fopen(path, "re");

    if (file == NULL)
        sentence_write(error, "%s: cannot be read: %s", path, strerror(errno));
    ERR_clear_error();
    return file;
}

/* After the last block, PEM_read_…() fails for want of another start line; anything else is a
 * broken block. */
static bool ended_well(const char *path, int n_read, const char *what, struct sentence error)
{
    unsigned long code = ERR_peek_last_error();
    char text[160];

    if (ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE) {
        ERR_clear_error();
        if (n_read > 0)
            return true;
        sentence_write(error, "%s: holds no PEM %s", path, what);
        return false;
    }
    openssl_error_take(text, sizeof(text));
    sentence_write(error, "%s: PEM block %d is not a valid %s: %s", path, n_read + 1, what, text);
    return false;
}

/* The default would ask on the terminal. */
static int refuse_pass_phrase(char *buffer, int size, int writing, void *was_asked)
{
    *(bool *)was_asked = true;
    return -1;
}

STACK_OF(X509) * pem_file_certificates(const char *path, struct sentence error)
{
    bool asked = false;
    X509 *certificate;
    FILE *file = open_file(path, error);

    if (file == NULL)
        return NULL;
    STACK_OF(X509) *all = sk_X509_new_null();
    while ((certificate = PEM_read_X509(file, NULL, refuse_pass_phrase, &asked)) != NULL)
        if (sk_X509_push(all, certificate) == 0)
            X509_free(certificate);
    (void)fclose(file);
    if (ended_well(path, sk_X509_num(all), "CERTIFICATE", error))
        return all;
    sk_X509_pop_free(all, X509_free);
    return NULL;
}

STACK_OF(X509_CRL) * pem_file_crls(const char *path, struct sentence error)
{
    bool asked = false;
    X509_CRL *crl;
    FILE *file = open_file(path, error);

    if (file == NULL)
        return NULL;
    STACK_OF(X509_CRL) *all = sk_X509_CRL_new_null();
    while ((crl = PEM_read_X509_CRL(file, NULL, refuse_pass_phrase, &asked)) != NULL)
        if (sk_X509_CRL_push(all, crl) == 0)
            X509_CRL_free(crl);
    (void)fclose(file);
    if (ended_well(path, sk_X509_CRL_num(all), "X509 CRL", error))
        return all;
    sk_X509_CRL_pop_free(all, X509_CRL_free);
    return NULL;
}

EVP_PKEY *pem_file_key(const char *path, struct sentence error)
{
    bool asked = false;
    char text[160];
    FILE *file = open_file(path, error);

    if (file == NULL)
        return NULL;
    EVP_PKEY *key = PEM_read_PrivateKey(file, NULL, refuse_pass_phrase, &asked);
    (void)fclose(file);
    openssl_error_take(text, sizeof(text));
    if (key == NULL && asked)
        sentence_write(error, "%s: the key is encrypted; give it without a pass phrase", path);
    else if (key == NULL)
        sentence_write(error, "%s: holds no PEM private key that can be read: %s", path, text);
    return key;
}
