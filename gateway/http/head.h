/* SPDX-License-Identifier: BSD-2-Clause */
/* The head of one HTTP/1.1 message: start line, fields, and what they say about the body's framing.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "policy/reason.h"

struct http_field {
    struct str name;  /* as received */
    struct str value; /* without white space around it */
};

enum http_framing {
    HTTP_FRAMING_NONE,    /* no body follows */
    HTTP_FRAMING_LENGTH,  /* content_length bytes */
    HTTP_FRAMING_CHUNKED, /* RFC 9112, 7.1 */
    HTTP_FRAMING_EOF,     /* responses only: until the connection ends */
};

/* All text borrows from the parser that made it, until http_parser_next() or the parser's end. */
struct http_head {
    struct str method; /* requests */
    struct str target; /* requests: as received; printable ASCII */
    int status;        /* responses: 100-599 */
    struct str phrase; /* responses; may be empty */
    int minor;         /* HTTP/1.minor: 0 or 1 */
    struct http_field *fields;
    size_t n_fields;
    enum http_framing framing;
    uint64_t content_length; /* valid for HTTP_FRAMING_LENGTH, and for responses to HEAD and 304
                                when has_length */
    bool has_length;         /* a Content-Length field is there */
    bool keep_alive;         /* by version and Connection; never with HTTP_FRAMING_EOF */
    bool expect_continue; /* Expect: 100-continue, in HTTP/1.1. Other expectations are the caller's
                             to refuse. */
};

/* The first field of that name, without case; NULL if there is none. */
const struct http_field *http_head_find(const struct http_head *head, struct str name);
/* How many fields have that name. */
size_t http_head_count(const struct http_head *head, struct str name);
/* True when a comma-separated list field (all of its lines) has the token, without case. */
bool http_head_has_token(const struct http_head *head, struct str name, struct str token);

/* RFC 9110, 5.6.2: what names and methods are made of; false for an empty one. */
bool http_is_token(struct str text);

enum http_head_kind {
    HTTP_HEAD_REQUEST,
    HTTP_HEAD_RESPONSE,
    HTTP_HEAD_RESPONSE_WITHOUT_BODY, /* the answer to a HEAD request */
};

struct http_refusal {
    enum reason reason; /* REASON_OK: nothing is wrong */
    const char *text;   /* static; for the log */
};

/* For the parser: derives framing, content_length, has_length, keep_alive and expect_continue from
 * start line and fields, and says what is ambiguous about them. */
struct http_refusal http_head_judge(struct http_head *head, enum http_head_kind kind) MUST_CHECK;
