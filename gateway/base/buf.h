/* SPDX-License-Identifier: BSD-2-Clause */
/* A bounded queue of bytes in one piece of memory.
 *
 *      mem          head              tail           mem + capacity
 *       |  consumed   |   readable      |    free          |
 *
 * A buffer never grows beyond the capacity it was made with: when it is full, whoever fills it
 * stops reading its own side. Memory is taken at the first write and given back by buf_release(),
 * so an idle connection holds none. Not for two threads. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"

/* Embedded in its owner. Others read nothing but through the functions. */
struct buf {
    char *mem; /* owned; NULL while released */
    size_t capacity;
    size_t head;
    size_t tail;
};

void buf_init(struct buf *buf, size_t capacity);
/* Gives the memory back and forgets what is inside. The buffer may be used again. */
void buf_release(struct buf *buf);

static inline size_t buf_len(const struct buf *buf)
{
    return buf->tail - buf->head;
}

static inline bool buf_is_empty(const struct buf *buf)
{
    return buf->tail == buf->head;
}

/* What may still be appended. */
static inline size_t buf_space(const struct buf *buf)
{
    return buf->capacity - buf_len(buf);
}

/* Everything readable; borrowed until the next change of the buffer. */
static inline struct str buf_peek(const struct buf *buf)
{
    return (struct str){buf->mem != NULL ? buf->mem + buf->head : "", buf_len(buf)};
}

/* len <= buf_len(). */
void buf_consume(struct buf *buf, size_t len);

bool buf_append_moving(struct buf *buf, const void *data, size_t len) MUST_CHECK;

/* False, with nothing appended, when it does not fit or memory is out. Inline for the many small
 * pieces that a head is put together from; the first one, and whatever needs the room in front, goes
 * through buf_append_moving(), which nobody else calls. */
MUST_CHECK static inline bool buf_append(struct buf *buf, const void *data, size_t len)
{
    if (buf->mem == NULL || len > buf->capacity - buf->tail)
        return buf_append_moving(buf, data, len);
    if (len > 0)
        memcpy(buf->mem + buf->tail, data, len);
    buf->tail += len;
    return true;
}
static inline bool buf_append_str(struct buf *buf, struct str s)
{
    return buf_append(buf, s.p, s.len);
}
bool buf_printf(struct buf *buf, const char *format, ...) MUST_CHECK PRINTF_LIKE(2, 3);

/* Room to write into in place: at least one byte up to buf_space() in one piece, NULL when full or
 * memory is out. buf_commit() then takes what was written. */
char *buf_reserve(struct buf *buf, size_t *out_len) MUST_CHECK;
void buf_commit(struct buf *buf, size_t len);
