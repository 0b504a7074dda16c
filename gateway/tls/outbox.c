/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/outbox.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "gateway/base/mem.h"

enum {
    /* Header, content type, tag, and room to spare; TLS 1.2 has an explicit nonce instead of the
     * type. */
    OUTBOX_RECORD_OVERHEAD = 64,
    /* For what TLS itself sends before the first record: tickets, an answer to a key update. */
    OUTBOX_EXTRA = 1024,
};

static ssize_t outbox_send(const struct outbox *outbox, const char *data, size_t len)
{
    ssize_t n;

    do {
        n = send(outbox->fd, data, len, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n;
}

void outbox_release(struct outbox *outbox)
{
    mem_free(outbox->mem);
    outbox->mem = NULL;
    outbox->head = outbox->tail = outbox->size = 0;
    outbox->gathers = false;
}

bool outbox_gather(struct outbox *outbox, size_t plain)
{
    assert(outbox->mem == NULL);
    if (plain > (size_t)OUTBOX_RECORDS * OUTBOX_RECORD_MAX)
        plain = (size_t)OUTBOX_RECORDS * OUTBOX_RECORD_MAX;
    outbox->size = plain + (plain / OUTBOX_RECORD_MAX + 1) * OUTBOX_RECORD_OVERHEAD + OUTBOX_EXTRA;
    outbox->mem = mem_try_alloc(outbox->size);
    outbox->gathers = outbox->mem != NULL;
    return outbox->gathers;
}

enum outbox_flush outbox_flush(struct outbox *outbox)
{
    size_t waiting = outbox_waiting(outbox);

    outbox->gathers = false;
    ssize_t n = waiting > 0 ? outbox_send(outbox, outbox->mem + outbox->head, waiting) : 0;
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? OUTBOX_FULL : OUTBOX_ERROR;
    if ((size_t)n < waiting) {
        outbox->head += (size_t)n;
        return OUTBOX_FULL;
    }
    outbox_release(outbox);
    return OUTBOX_SENT;
}

/* --- as OpenSSL sees it ----------------------------------------------------------------------- */

static int outbox_keep(struct outbox *outbox, const char *data, size_t len)
{
    if (len > outbox->size - outbox->tail)
        return 0;
    memcpy(outbox->mem + outbox->tail, data, len);
    outbox->tail += len;
    return 1;
}

static int on_write(BIO *bio, const char *data, size_t len, size_t *out_len)
{
    struct outbox *outbox = BIO_get_data(bio);

    BIO_clear_retry_flags(bio);
    *out_len = len;
    if (outbox->gathers) {
        if (outbox_keep(outbox, data, len) == 1)
            return 1;
        BIO_set_retry_write(bio);
        return -1;
    }
    ssize_t n = -1;
    switch (outbox_waiting(outbox) > 0 ? outbox_flush(outbox) : OUTBOX_SENT) {
    case OUTBOX_SENT:
        n = outbox_send(outbox, data, len);
        break;
    case OUTBOX_FULL:
        errno = EAGAIN;
        break;
    case OUTBOX_ERROR:
        break;
    }
    if (n > 0) {
        *out_len = (size_t)n;
        return 1;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        BIO_set_retry_write(bio);
    return -1;
}

static long on_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO_METHOD *outbox_method;

static void outbox_method_init(void)
{
    outbox_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "outbox");
    if (outbox_method == NULL || BIO_meth_set_write_ex(outbox_method, on_write) != 1 ||
        BIO_meth_set_ctrl(outbox_method, on_control) != 1)
        abort();
}

BIO *outbox_bio_new(struct outbox *outbox)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, outbox_method_init);
    BIO *bio = BIO_new(outbox_method);
    if (bio != NULL) {
        BIO_set_data(bio, outbox);
        BIO_set_init(bio, 1);
    }
    return bio;
}
