/* SPDX-License-Identifier: BSD-2-Clause */
/* What streams see of their server, inside this folder. */
#pragma once

#include <stdatomic.h>

#include <openssl/ssl.h>

#include "gateway/tls/resumption.h"
#include "gateway/tls/server.h"
#include "gateway/tls/trust.h"

/* Immutable after tls_server_new() but for the references and what is behind `resumption`. All
 * owned. */
struct tls_server {
    atomic_uint refs;
    SSL_CTX *context;
    struct trust *trust;
    struct resumption *resumption;
    bool certificate_required;
};
