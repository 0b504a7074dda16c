/* SPDX-License-Identifier: BSD-2-Clause */
/* Between TLS and the socket, outwards. OpenSSL writes a record at a time, at most 16 KiB; a system
 * call for each would cost more than its encryption. While the outbox gathers, records only pile up
 * in it, and outbox_flush() hands them to the socket with one call; otherwise they pass through.
 *
 *      SSL_write ──records──▶ outbox ──send(2)──▶ socket
 *
 * Memory is taken when gathering begins and given back when all of it is sent, so it is there only
 * while the socket is full. What waits goes before whatever is written later. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <openssl/bio.h>

#include "gateway/base/macros.h"

enum {
    OUTBOX_RECORD_MAX = 16384, /* plaintext of a record */
    OUTBOX_RECORDS = 8,        /* gathered at most */
};

/* Embedded in its owner; others read nothing. Zeroed with a socket in `fd`: empty, passing through. */
struct outbox {
    int fd; /* borrowed from the owner */
    bool gathers;
    char *mem; /* owned; NULL while nothing waits */
    size_t head, tail, size;
};

/* A BIO that writes into the outbox, which must outlive it; NULL when memory is out. */
BIO *outbox_bio_new(struct outbox *outbox) MUST_CHECK;
void outbox_release(struct outbox *outbox);

/* Until outbox_flush(), records of up to `plain` bytes of plaintext in all are kept. False: out of
 * memory. Only while it is empty. */
bool outbox_gather(struct outbox *outbox, size_t plain) MUST_CHECK;

enum outbox_flush {
    OUTBOX_SENT,
    OUTBOX_FULL,  /* the socket is; try again when it is writable */
    OUTBOX_ERROR, /* errno says what */
};
/* Ends gathering, and sends. */
enum outbox_flush outbox_flush(struct outbox *outbox) MUST_CHECK;

/* Bytes that wait. */
static inline size_t outbox_waiting(const struct outbox *outbox)
{
    return outbox->tail - outbox->head;
}
