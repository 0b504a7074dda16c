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

/* What became of bytes that were sent on a connection which is broken now. */
enum sent_fate {
    SENT_TAKEN,   /* the other side's kernel may have handed some of them to the server */
    SENT_UNTAKEN, /* it took none of them, and will not: the server never saw a byte */
    SENT_UNKNOWN, /* the other side has not said yet: ask again in a moment */
};
/* Of the last `len` bytes that were sent on a connection on which the end of file has come. TCP
 * tells. What acknowledges none of them ended before they arrived; and when a reset follows, the
 * socket was closed, and not only its sending half: that is what a kernel answers to bytes that
 * nobody can read any more. Without the end before it a reset proves nothing: a server may have read
 * the bytes, of which its kernel had not told us yet. Nor does the end without a reset: a server may
 * end its own side and read on. Of other sockets nothing can be known: TAKEN. */
enum sent_fate connect_sent_fate(int fd, uint64_t len) MUST_CHECK;

/* 0, or the errno with which connecting failed. */
int connect_outcome(int fd) MUST_CHECK;
