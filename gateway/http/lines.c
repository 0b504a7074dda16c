/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/http/lines.h"

#include <endian.h>

enum {
    HTTP_CHUNK_DIGITS_MAX = 16
}; /* what 64 bits hold: more is read differently by different people */

static enum http_line_event http_lines_bad(struct http_lines *lines, const char *why)
{
    lines->why = why;
    return HTTP_LINE_BAD;
}

static enum http_line_event http_lines_end(struct http_lines *lines)
{
    bool empty = lines->len == 0;

    lines->after_cr = false;
    lines->len = 0;
    lines->n += !empty;
    return empty ? HTTP_LINE_EMPTY : HTTP_LINE_ENDED;
}

static enum http_line_event http_lines_step(struct http_lines *lines, char c)
{
    if (lines->after_cr)
        return c == '\n' ? http_lines_end(lines) : http_lines_bad(lines, "a bare CR");
    if (c == '\r') {
        lines->after_cr = true;
        return HTTP_LINE_GOES_ON;
    }
    if (c == '\n')
        return http_lines_bad(lines, "a bare LF");
    if (((unsigned char)c < ' ' && c != '\t') || c == '\x7f')
        return http_lines_bad(lines, "a control byte");
    if (lines->len == 0 && (c == ' ' || c == '\t'))
        return http_lines_bad(lines, "a line that begins with white space");
    lines->len++;
    return HTTP_LINE_GOES_ON;
}

/* How many bytes at the beginning are nothing but text, wherever they stand in a line but at its
 * beginning. Eight at once: a byte of `x` that is 0 borrows from its top bit in (x - ones) & ~x; what
 * that may spoil lies above it, so the lowest bit that is set tells the first byte that is not text.
 */
static size_t plain_run(const char *p, size_t len)
{
    static const bool plain[256] = {[' ' ... '~'] = true, [0x80 ... 0xff] = true};
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    size_t n = 0;

    for (; len - n >= sizeof(uint64_t); n += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, p + n, sizeof(word));
        word = le64toh(word);
        uint64_t del = word ^ ones * 0x7f;
        uint64_t odd = (((word - ones * ' ') & ~word) | ((del - ones) & ~del)) & tops;
        if (odd != 0)
            return n + (size_t)__builtin_ctzll(odd) / 8;
    }
    while (n < len && plain[(unsigned char)p[n]])
        n++;
    return n;
}

enum http_line_event http_lines_scan(struct http_lines *lines, struct str text, size_t *out_used)
{
    enum http_line_event event = HTTP_LINE_GOES_ON;
    size_t used = 0;

    while (used < text.len && event == HTTP_LINE_GOES_ON) {
        event = http_lines_step(lines, text.p[used++]);
        if (lines->len == 0 || lines->after_cr)
            continue;
        size_t run = plain_run(text.p + used, text.len - used);
        used += run;
        lines->len += run;
    }
    *out_used = used;
    return event;
}

static bool http_is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static const char *http_chunk_lines_text(struct http_chunk_lines *chunk, char c, size_t extra_max)
{
    if (!chunk->is_last && http_is_hex(c) && chunk->digits + 1 == chunk->lines.len) {
        chunk->has_nonzero |= c != '0';
        return ++chunk->digits > HTTP_CHUNK_DIGITS_MAX ? "a chunk size of too many digits" : NULL;
    }
    return ++chunk->extra > extra_max ? "too many bytes in chunk extensions and trailers" : NULL;
}

static const char *http_chunk_lines_step(struct http_chunk_lines *chunk, char c, size_t extra_max)
{
    switch (http_lines_step(&chunk->lines, c)) {
    case HTTP_LINE_BAD:
        return chunk->lines.why;
    case HTTP_LINE_ENDED:
        /* A size, until the one of the last chunk. */
        chunk->is_last |= chunk->digits > 0 && !chunk->has_nonzero;
        chunk->digits = 0;
        chunk->has_nonzero = false;
        return NULL;
    case HTTP_LINE_EMPTY:
        return NULL; /* behind a chunk's data, or at the very end */
    case HTTP_LINE_GOES_ON:
        break;
    }
    return chunk->lines.after_cr ? NULL : http_chunk_lines_text(chunk, c, extra_max);
}

const char *http_chunk_lines_check(struct http_chunk_lines *chunk, struct str text,
                                   size_t extra_max)
{
    const char *why = NULL;

    for (size_t i = 0; i < text.len && why == NULL; i++)
        why = http_chunk_lines_step(chunk, text.p[i], extra_max);
    return why;
}
