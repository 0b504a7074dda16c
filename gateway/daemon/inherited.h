/* SPDX-License-Identifier: BSD-2-Clause */
/* Listening sockets that the service manager has opened for us: socket activation,
 * sd_listen_fds(3). They outlive the daemon, so a restart refuses nobody: who connects meanwhile
 * waits in the socket's queue.
 *
 * A socket serves the listener of its name (FileDescriptorName= in the .socket unit; "operator" is
 * the operators' own) instead of an address that we would bind. Several may have one name. All
 * workers accept from the one queue. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "gateway/base/macros.h"

enum { INHERITED_MAX = 64 };

struct inherited_socket {
    char name[64];
    int fd;       /* owned */
    bool is_unix; /* else IPv4 or IPv6 */
    bool is_used; /* a listener has taken a duplicate */
};

struct inherited {
    struct inherited_socket sockets[INHERITED_MAX];
    size_t n;
};

/* From LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, which it takes out of the environment. Without
 * them there are none. False with a sentence when a descriptor is not a listening stream socket. */
bool inherited_take(struct inherited *inherited, char *error, size_t error_size) MUST_CHECK;
/* "127.0.0.1:8443", "[::]:8443" or "unix:/run/x.sock": where the socket is bound, for the log. */
struct inherited_where {
    char text[128];
};
struct inherited_where inherited_address(const struct inherited_socket *socket);
/* The name of the first socket that no listener has taken; NULL: there is none. */
const char *inherited_unused(const struct inherited *inherited);
void inherited_close(struct inherited *inherited);
