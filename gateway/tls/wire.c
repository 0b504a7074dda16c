/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/wire.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "gateway/base/piece.h"

enum {
    /* Header, content type, tag, and room to spare; TLS 1.2 has an explicit nonce instead of the
     * type. */
    WIRE_RECORD_OVERHEAD = 64,
    /* For what TLS itself sends before the first record: tickets, an answer to a key update. */
    WIRE_EXTRA = 1024,
};

static bool is_blocked(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK;
}

static bool box_take(struct wire_box *box, size_t size)
{
    assert(box->mem == NULL);
    box->mem = piece_new(size);
    box->size = box->mem != NULL ? size : 0;
    return box->mem != NULL;
}

static void box_release(struct wire_box *box)
{
    piece_free(box->mem, box->size);
    *box = (struct wire_box){0};
}

void wire_release(struct wire *wire)
{
    box_release(&wire->in);
    box_release(&wire->out);
    wire->gathers = false;
}

/* --- outwards --------------------------------------------------------------------------------- */

static ssize_t wire_send(const struct wire *wire, const char *data, size_t len)
{
    ssize_t n;

    do {
        n = send(wire->fd, data, len, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n;
}

bool wire_gather(struct wire *wire, size_t plain)
{
    const size_t most = (size_t)WIRE_RECORDS * WIRE_RECORD_MAX;

    plain = plain < most ? plain : most;
    wire->gathers =
        box_take(&wire->out,
                 plain + (plain / WIRE_RECORD_MAX + 1) * WIRE_RECORD_OVERHEAD + WIRE_EXTRA);
    return wire->gathers;
}

enum wire_flush wire_flush(struct wire *wire)
{
    size_t waiting = wire_unsent(wire);

    wire->gathers = false;
    ssize_t n = waiting > 0 ? wire_send(wire, wire->out.mem + wire->out.head, waiting) : 0;
    if (n < 0)
        return is_blocked() ? WIRE_FULL : WIRE_ERROR;
    if ((size_t)n < waiting) {
        wire->out.head += (size_t)n;
        return WIRE_FULL;
    }
    box_release(&wire->out);
    return WIRE_SENT;
}

static int wire_keep(struct wire *wire, BIO *bio, const char *data, size_t len)
{
    if (len > wire->out.size - wire->out.tail) {
        BIO_set_retry_write(bio);
        return -1;
    }
    memcpy(wire->out.mem + wire->out.tail, data, len);
    wire->out.tail += len;
    return 1;
}

static int on_write(BIO *bio, const char *data, size_t len, size_t *out_len)
{
    struct wire *wire = BIO_get_data(bio);
    ssize_t n = -1;

    BIO_clear_retry_flags(bio);
    *out_len = len;
    if (wire->gathers)
        return wire_keep(wire, bio, data, len);
    switch (wire_unsent(wire) > 0 ? wire_flush(wire) : WIRE_SENT) {
    case WIRE_SENT:
        n = wire_send(wire, data, len);
        break;
    case WIRE_FULL:
        errno = EAGAIN;
        break;
    case WIRE_ERROR:
        break;
    }
    if (n > 0) {
        *out_len = (size_t)n;
        return 1;
    }
    if (is_blocked())
        BIO_set_retry_write(bio);
    return -1;
}

/* --- inwards ---------------------------------------------------------------------------------- */

/* Into `data`, and what is more into the inbox. Without memory for that, less is read at once. */
static ssize_t wire_receive(struct wire *wire, char *data, size_t len)
{
    bool rich = wire->rich && box_take(&wire->in, WIRE_INBOX);
    struct iovec rooms[] = {{.iov_base = data, .iov_len = len},
                            {.iov_base = wire->in.mem, .iov_len = WIRE_INBOX}};
    ssize_t n;

    do {
        n = rich ? readv(wire->fd, rooms, 2) : recv(wire->fd, data, len, 0);
    } while (n < 0 && errno == EINTR);
    wire->rich = n >= (ssize_t)len;
    if (n <= (ssize_t)len) {
        box_release(&wire->in);
        return n;
    }
    wire->in.tail = (size_t)n - len;
    return (ssize_t)len;
}

static size_t wire_serve(struct wire_box *box, char *data, size_t len)
{
    size_t there = box->tail - box->head;

    len = len < there ? len : there;
    memcpy(data, box->mem + box->head, len);
    box->head += len;
    if (box->head == box->tail)
        box_release(box);
    return len;
}

static int on_read(BIO *bio, char *data, size_t len, size_t *out_len)
{
    struct wire *wire = BIO_get_data(bio);

    BIO_clear_retry_flags(bio);
    if (wire_has_unread(wire)) {
        *out_len = wire_serve(&wire->in, data, len);
        return 1;
    }
    ssize_t n = wire_receive(wire, data, len);
    if (n > 0) {
        *out_len = (size_t)n;
        return 1;
    }
    *out_len = 0;
    wire->ended = n == 0;
    if (n < 0 && is_blocked())
        BIO_set_retry_read(bio);
    return (int)n;
}

/* --- as OpenSSL sees it ----------------------------------------------------------------------- */

static long on_control(BIO *bio, int command, long number, void *pointer)
{
    const struct wire *wire = BIO_get_data(bio);

    (void)number;
    (void)pointer;
    switch (command) {
    case BIO_CTRL_FLUSH:
        return 1;
    case BIO_CTRL_EOF:
        return wire->ended;
    default:
        return 0;
    }
}

static BIO_METHOD *wire_method;

static void wire_method_init(void)
{
    wire_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "wire");
    if (wire_method == NULL || BIO_meth_set_write_ex(wire_method, on_write) != 1 ||
        BIO_meth_set_read_ex(wire_method, on_read) != 1 ||
        BIO_meth_set_ctrl(wire_method, on_control) != 1)
        abort();
}

BIO *wire_bio_new(struct wire *wire)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, wire_method_init);
    BIO *bio = BIO_new(wire_method);
    if (bio != NULL) {
        BIO_set_data(bio, wire);
        BIO_set_init(bio, 1);
    }
    return bio;
}
