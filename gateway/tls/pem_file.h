/* SPDX-License-Identifier: BSD-2-Clause */
/* PEM files that the configuration names. Each function returns NULL with a sentence that names the
 * file and the mend in `error`; what it returns is owned by the caller. */
#pragma once

#include <stddef.h>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "gateway/base/macros.h"

/* Where a sentence goes. */
struct sentence {
    char *text;
    size_t size;
};

void sentence_write(struct sentence error, const char *format, ...) PRINTF_LIKE(2, 3);

/* At least one, in the file's order; blocks of other types are skipped. */
STACK_OF(X509) * pem_file_certificates(const char *path, struct sentence error) MUST_CHECK;
STACK_OF(X509_CRL) * pem_file_crls(const char *path, struct sentence error) MUST_CHECK;
/* Never asks for a pass phrase: an encrypted key is an error. */
EVP_PKEY *pem_file_key(const char *path, struct sentence error) MUST_CHECK;
