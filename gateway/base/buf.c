/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/base/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "gateway/base/piece.h"

static void buf_assert_sane(const struct buf *buf)
{
    assert(buf->head <= buf->tail);
    assert(buf->tail <= buf->capacity);
    assert(buf->mem != NULL || buf->tail == 0);
}

void buf_init(struct buf *buf, size_t capacity)
{
    *buf = (struct buf){.capacity = capacity};
}

void buf_release(struct buf *buf)
{
    piece_free(buf->mem, buf->capacity);
    buf_init(buf, buf->capacity);
}

void buf_consume(struct buf *buf, size_t len)
{
    assert(len <= buf_len(buf));
    buf->head += len;
    if (buf->head == buf->tail)
        buf->head = buf->tail = 0;
    buf_assert_sane(buf);
}

/* Afterwards all free space is behind the tail. */
static bool buf_make_room(struct buf *buf)
{
    if (buf->mem == NULL) {
        buf->mem = piece_new(buf->capacity);
        if (buf->mem == NULL)
            return false;
    }
    if (buf->head > 0) {
        memmove(buf->mem, buf->mem + buf->head, buf_len(buf));
        buf->tail -= buf->head;
        buf->head = 0;
    }
    return true;
}

bool buf_append_moving(struct buf *buf, const void *data, size_t len)
{
    if (len == 0)
        return true;
    if (len > buf_space(buf) || !buf_make_room(buf))
        return false;
    memcpy(buf->mem + buf->tail, data, len);
    buf->tail += len;
    buf_assert_sane(buf);
    return true;
}

bool buf_printf(struct buf *buf, const char *format, ...)
{
    va_list args;

    if (!buf_make_room(buf))
        return false;
    va_start(args, format);
    int len = vsnprintf(buf->mem + buf->tail, buf_space(buf), format, args);
    va_end(args);
    /* vsnprintf's own NUL needs a place too. */
    if (len < 0 || (size_t)len >= buf_space(buf))
        return false;
    buf->tail += (size_t)len;
    buf_assert_sane(buf);
    return true;
}

char *buf_reserve(struct buf *buf, size_t *out_len)
{
    if (buf_space(buf) == 0)
        return NULL;
    /* Moving a nearly full buffer for a few bytes would cost more than it brings. */
    if ((buf->mem == NULL || buf->capacity - buf->tail < buf->capacity / 4) && !buf_make_room(buf))
        return NULL;
    if (buf->tail == buf->capacity)
        return NULL;
    *out_len = buf->capacity - buf->tail;
    return buf->mem + buf->tail;
}

void buf_commit(struct buf *buf, size_t len)
{
    assert(len <= buf->capacity - buf->tail);
    buf->tail += len;
    buf_assert_sane(buf);
}
