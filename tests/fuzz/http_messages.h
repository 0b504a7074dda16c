/* SPDX-License-Identifier: BSD-2-Clause */
/* For the fuzz targets of requests and responses: what a parser makes of an input must not depend
 * on how the input is cut, and what may travel on must never be an identity. */
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include "gateway/base/buf.h"
#include "gateway/http/fields.h"
#include "gateway/http/parser.h"

enum { HTTP_MESSAGES_BUFFER = 1 << 20 };

/* A checksum over everything that a caller sees, and whether the parser failed. */
struct http_messages {
    uint64_t sum;
    bool failed;
};

static void http_messages_add(struct http_messages *seen, struct str text)
{
    for (size_t i = 0; i < text.len; i++)
        seen->sum = (seen->sum ^ (unsigned char)text.p[i]) * 0x100000001b3;
    seen->sum = (seen->sum ^ 0x100) * 0x100000001b3;
}

static void http_messages_add_head(struct http_messages *seen, const struct http_head *head)
{
    struct buf out;

    http_messages_add(seen, head->method);
    http_messages_add(seen, head->target);
    http_messages_add(seen, head->phrase);
    seen->sum += (uint64_t)head->framing * 7 + head->keep_alive * 3u + head->content_length;
    for (size_t i = 0; i < head->n_fields; i++) {
        http_messages_add(seen, head->fields[i].name);
        http_messages_add(seen, head->fields[i].value);
    }
    buf_init(&out, 4096);
    if (!http_fields_forward(head, HTTP_FIELDS_TO_BACKEND, &out))
        abort();
    http_messages_add(seen, buf_peek(&out));
    buf_release(&out);
}

/* True while the parser wants more of the piece. */
static bool http_messages_step(struct http_parser *parser, struct str *piece, struct buf *body,
                               struct http_messages *seen)
{
    size_t used;
    enum http_parse result = http_parser_feed(parser, piece->p, piece->len, body, &used);

    *piece = (struct str){piece->p + used, piece->len - used};
    if (result == HTTP_PARSE_HEAD)
        http_messages_add_head(seen, http_parser_head(parser));
    if (result == HTTP_PARSE_COMPLETE || result == HTTP_PARSE_ERROR) {
        http_messages_add(seen, buf_peek(body));
        buf_consume(body, buf_len(body));
    }
    if (result == HTTP_PARSE_COMPLETE)
        http_parser_next(parser);
    seen->failed = result == HTTP_PARSE_ERROR;
    return !seen->failed && (piece->len > 0 || result == HTTP_PARSE_HEAD);
}

static struct http_messages http_messages_read(enum http_parser_kind kind, struct str input,
                                               size_t step)
{
    struct http_parser *parser =
        http_parser_new(kind, (struct http_parser_limits){.head_max = 1024, .fields_max = 8});
    struct http_messages seen = {0};
    struct buf body;

    buf_init(&body, HTTP_MESSAGES_BUFFER);
    for (size_t at = 0; at < input.len && !seen.failed; at += step) {
        struct str piece = {input.p + at, input.len - at < step ? input.len - at : step};
        while (http_messages_step(parser, &piece, &body, &seen))
            ;
    }
    if (!seen.failed)
        seen.sum += (uint64_t)http_parser_feed_eof(parser);
    http_messages_add(&seen, buf_peek(&body));
    seen.sum += (uint64_t)http_parser_error(parser);
    http_messages_add(&seen, str_c(http_parser_error_text(parser)));
    http_parser_free(&parser);
    buf_release(&body);
    return seen;
}

static void http_messages_compare(enum http_parser_kind kind, struct str input, size_t step)
{
    struct http_messages whole = http_messages_read(kind, input, input.len + 1);
    struct http_messages cut = http_messages_read(kind, input, step + 1);

    if (whole.sum != cut.sum || whole.failed != cut.failed)
        abort();
}
