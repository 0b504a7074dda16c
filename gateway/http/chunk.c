/* SPDX-License-Identifier: BSD-2-Clause */
/* The size line has a fixed width, so that it can be written before the size is known. Works inside
 * the buffer: nobody else needs to change what was already appended. */
#include "gateway/http/chunk.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "gateway/base/encode.h"

enum { HTTP_CHUNK_DIGITS = 8, HTTP_CHUNK_LINE = HTTP_CHUNK_DIGITS + 2 };

static_assert(HTTP_CHUNK_LINE + 2 == HTTP_CHUNK_OVERHEAD, "size line and closing line");

bool http_chunk_begin(struct buf *buf, struct http_chunk *out_chunk)
{
    size_t at = buf_len(buf);

    if (buf_space(buf) < HTTP_CHUNK_OVERHEAD || !buf_append_str(buf, STR("00000000\r\n")))
        return false;
    *out_chunk = (struct http_chunk){at};
    return true;
}

void http_chunk_end(struct buf *buf, const struct http_chunk *chunk)
{
    size_t size = buf_len(buf) - chunk->at - HTTP_CHUNK_LINE;
    const uint8_t big_endian[] = {(uint8_t)(size >> 24), (uint8_t)(size >> 16),
                                  (uint8_t)(size >> 8), (uint8_t)size};
    char digits[HTTP_CHUNK_DIGITS + 1];

    assert(size <= UINT32_MAX);
    if (size == 0) {
        buf->tail -= HTTP_CHUNK_LINE;
        return;
    }
    encode_hex(big_endian, sizeof(big_endian), digits);
    memcpy(buf->mem + buf->head + chunk->at, digits, HTTP_CHUNK_DIGITS);
    bool fits = buf_append_str(buf, STR("\r\n"));
    assert(fits);
    (void)fits;
}

bool http_chunk_last(struct buf *buf)
{
    return buf_append_str(buf, STR("0\r\n\r\n"));
}
