/* SPDX-License-Identifier: BSD-2-Clause */
/* The servers of a backend: their addresses, and how a connection to one begins.
 *
 * Addresses come from the configuration. Unix paths and numeric addresses need no lookup; names are
 * looked up once, in servers_init(), which blocks as long as the resolver does: call it at the
 * start and on reloads only. Every address that a name has becomes a server of its own. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "gateway/base/macros.h"
#include "gateway/config/config.h"

/* Also the number of bits in a set of servers. */
enum { SERVERS_MAX = 64 };

struct server {
    struct sockaddr_storage address;
    socklen_t address_len;
    char *name; /* owned; "127.0.0.1:8080", "[::1]:8080" or "unix:/run/api.sock", for the log */
    int64_t avoid_until_ms; /* monotonic: it could not be reached, so others go first until then */
};

/* Embedded in its owner; at most SERVERS_MAX, in the order of the configuration. */
struct servers {
    struct server *all; /* owned */
    size_t n;
};

/* What cannot be resolved is left out and logged, so the list may be empty. */
void servers_init(struct servers *servers, const struct config_backend *backend);
void servers_deinit(struct servers *servers);

enum connect_result {
    CONNECT_DONE,    /* connected */
    CONNECT_PENDING, /* wait until the socket is writable, then ask connect_outcome() */
    CONNECT_LATER, /* a Unix socket whose queue is full: there is no socket; begin again in a moment
                    */
    CONNECT_FAILED, /* there is no socket */
};

/* The socket is non-blocking, close-on-exec and sends small pieces at once; the caller closes it.
 * *out_fd is written when there is a socket, *out_error (an errno) otherwise. */
enum connect_result connect_begin(const struct server *server, int *out_fd,
                                  int *out_error) MUST_CHECK;

/* 0, or the errno with which connecting failed. */
int connect_outcome(int fd) MUST_CHECK;
