/* SPDX-License-Identifier: BSD-2-Clause */
/* For the parser: the bytes that frame a message, seen as nothing but lines. Each ends with CRLF,
 * holds no control bytes, and does not begin with white space. One byte after the other, so that it
 * does not matter how they arrive. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/base/str.h"

/* Zeroed to begin with. Others may read n, len and why. */
struct http_lines {
    size_t n;        /* lines that ended, without empty ones */
    size_t len;      /* bytes of the open line */
    bool after_cr;   /* only LF may follow */
    const char *why; /* of HTTP_LINE_BAD; static */
};

enum http_line_event {
    HTTP_LINE_GOES_ON,
    HTTP_LINE_ENDED,
    HTTP_LINE_EMPTY, /* an empty one ended */
    HTTP_LINE_BAD,   /* a byte that may not stand there: see `why` */
};

/* Up to the first event, or the end of the text. *out_used tells how far it came. */
enum http_line_event http_lines_scan(struct http_lines *lines, struct str text, size_t *out_used);

/* What stands between the pieces of a chunked body: sizes with extensions, line ends, trailers.
 * Zeroed to begin with. */
struct http_chunk_lines {
    struct http_lines lines;
    size_t digits;    /* of the open line: hex digits at its beginning */
    bool has_nonzero; /* among those digits */
    bool is_last;     /* the last chunk's size was seen: trailers follow */
    size_t extra;     /* bytes of extensions and trailers, over the whole message */
};

/* NULL, or what is wrong with the text (static): its lines, too many digits in a size, or more than
 * extra_max bytes of extensions and trailers. The grammar of sizes and trailers is llhttp's
 * business. */
const char *http_chunk_lines_check(struct http_chunk_lines *chunk, struct str text,
                                   size_t extra_max);
