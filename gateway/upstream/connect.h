/* SPDX-License-Identifier: BSD-2-Clause */
/* How a connection to a server begins. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/upstream/server.h"

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
