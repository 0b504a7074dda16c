/* SPDX-License-Identifier: BSD-2-Clause */
/* What streams see of their server, inside this folder. */
#pragma once

#include <stdatomic.h>

#include <openssl/ssl.h>

#include "gateway/tls/certificates.h"
#include "gateway/tls/resumption.h"
#include "gateway/tls/server.h"
#include "gateway/tls/trust.h"
#include "gateway/tls/verdicts.h"

/* Immutable after tls_server_new() but for the references and what is behind `verdicts` and `resumption`. All
 * owned. */
struct tls_server {
    atomic_uint refs;
    struct certificates *certificates;
    struct trust *trust;
    struct verdicts *verdicts;
    struct resumption *resumption;
    struct digest session_context; /* sessions of others are not resumed here */
    bool certificate_required;
};
