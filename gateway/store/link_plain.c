/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/link_tls.h"

#include <stdio.h>

bool link_tls_is_available(void)
{
    return false;
}

bool link_tls_start(struct redisContext *context, const char *host, const char *ca_file,
                    char *error, size_t error_size)
{
    (void)snprintf(error, error_size, "this program was built without TLS to Redis");
    return false;
}
