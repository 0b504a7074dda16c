/* SPDX-License-Identifier: BSD-2-Clause */
/* The addresses of a backend's servers, as one answer: Unix paths and numeric addresses as they are,
 * names as the system's resolver knows them. Every address of a name is a server of its own.
 *
 * Immutable and counted (thread-safe). Asking for names blocks, so it is done by the main thread
 * (start and reload) and by the resolver's (daemon/resolver.h), never by a worker. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "gateway/base/macros.h"
#include "gateway/config/config.h"

/* Also the number of bits in a set of servers (server.h). */
enum { SERVERS_MAX = 64 };

struct resolved_address {
    struct sockaddr_storage address;
    socklen_t len;
    size_t server; /* index into the configured servers */
};

struct resolved {
    struct resolved_address all[SERVERS_MAX]; /* by server, then by address */
    size_t n;
    bool has_names; /* it may become another one */
    /* private */
    struct config_address *names; /* owned copies of what was configured */
    size_t n_names;
    unsigned refs; /* atomic */
};

/* Earlier answers, of whatever backends; for each name the first is used that has an address. */
struct resolved_before {
    struct resolved *const *all;
    size_t n;
};

enum resolved_how {
    RESOLVED_TRUST, /* what is known is taken over, and only new names are asked for */
    RESOLVED_ASK,   /* all names are asked for; what is known stays where there is no answer */
};

/* NULL with a sentence in `error` when a name does not exist and no earlier answer is known. When it
 * is the resolver that does not answer, that is logged, and the name has no address for now. */
struct resolved *resolved_new(const struct config_backend *backend,
                              const struct resolved_before *before, enum resolved_how how,
                              char *error, size_t error_size) MUST_CHECK;
struct resolved *resolved_ref(struct resolved *resolved); /* thread-safe */
void resolved_unref(struct resolved **resolved);          /* thread-safe; NULL inside is fine */

/* The same addresses? */
bool resolved_equal(const struct resolved *a, const struct resolved *b);
