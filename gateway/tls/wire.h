/* SPDX-License-Identifier: BSD-2-Clause */
/* Between TLS and the socket. OpenSSL reads and writes a record at a time, at most 16 KiB; a system
 * call for each would cost more than its encryption.
 *
 *      SSL_write ──records──▶ box ──send(2)──▶ socket
 *      SSL_read  ◀──records── box ◀──readv(2)── socket
 *
 * Outwards: while the wire gathers, records only pile up in a box, and wire_flush() hands them
 * to the socket with one call; otherwise they pass through. What waits goes before whatever is
 * written later.
 *
 * Inwards: a read that fills the room which OpenSSL offers is a sign of more, so the next one takes
 * up to WIRE_INBOX bytes beyond that room, and the following reads are served from there.
 *
 * Both boxes take memory only while bytes are in them: a peer that sends or takes little costs
 * nothing, and an idle one neither. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <openssl/bio.h>

#include "gateway/base/macros.h"

enum {
    WIRE_RECORD_MAX = 16384,       /* plaintext of a record */
    WIRE_RECORDS = 8,              /* gathered at most */
    WIRE_INBOX = 4 * (16384 + 64), /* what is read beyond the room for a record */
};

struct wire_box {
    char *mem; /* owned; NULL while empty */
    size_t head, tail, size;
};

/* Embedded in its owner; others read nothing. Zeroed with a socket in `fd`: empty, passing through. */
struct wire {
    int fd; /* borrowed from the owner */
    bool gathers;
    bool rich;  /* the last read filled its room */
    bool ended; /* the peer has ended its side */
    struct wire_box out, in;
};

/* A BIO for both directions; the wire must outlive it. NULL when memory is out. */
BIO *wire_bio_new(struct wire *wire) MUST_CHECK;
void wire_release(struct wire *wire);

/* Until wire_flush(), records of up to `plain` bytes of plaintext in all are kept. False: out of
 * memory. Only while none waits. */
bool wire_gather(struct wire *wire, size_t plain) MUST_CHECK;

enum wire_flush {
    WIRE_SENT,
    WIRE_FULL,  /* the socket is; try again when it is writable */
    WIRE_ERROR, /* errno says what */
};
/* Ends gathering, and sends. */
enum wire_flush wire_flush(struct wire *wire) MUST_CHECK;

/* Bytes that wait for the socket. */
static inline size_t wire_unsent(const struct wire *wire)
{
    return wire->out.tail - wire->out.head;
}

/* Bytes were read that OpenSSL has not asked for yet. */
static inline bool wire_has_unread(const struct wire *wire)
{
    return wire->in.tail > wire->in.head;
}
