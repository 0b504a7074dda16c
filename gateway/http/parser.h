/* SPDX-License-Identifier: BSD-2-Clause */
/* HTTP/1.x messages out of a stream of bytes: llhttp, made stricter where RFC 9112 leaves room for
 * two opinions.
 *
 *      HEAD ──head complete──▶ BODY ──last byte──▶ COMPLETE ──http_parser_next()──▶ HEAD
 *
 * The caller feeds bytes; http_parser_feed() stops right behind a head and right behind a message,
 * so that what follows (a body, a pipelined request) stays with the caller. Body bytes, freed of
 * chunk framing, are appended to the buffer that the caller gives: it must have at least `len`
 * bytes of space. However the bytes are cut into calls, the outcome is the same.
 *
 * Refused, always (request-malformed; for responses: backend-invalid): a bare CR or LF anywhere in
 * head or chunk framing, control bytes, obs-fold, space before the colon, empty or non-token names,
 * Content-Length with Transfer-Encoding, differing or repeated Content-Length, any transfer coding
 * but a single "chunked", Transfer-Encoding in HTTP/1.0, signed or odd lengths and chunk sizes, no
 * Host or several (HTTP/1.1 requests), bytes outside ASCII in the target, a status outside 100-599
 * or 101. Trailers are parsed and dropped, chunk extensions are dropped; the bytes of both together
 * are bounded by head_max. Upgrade is not followed; CONNECT is refused. A few empty lines before a
 * request are skipped.
 *
 * Requests have finer reasons for some of it: request-version-unsupported,
 * request-method-unsupported (CONNECT, and methods that llhttp does not know),
 * request-coding-unsupported, request-head-too-large. */
#pragma once

#include "gateway/base/buf.h"
#include "gateway/base/macros.h"
#include "gateway/http/head.h"
#include "policy/reason.h"

struct http_parser;

enum http_parser_kind {
    HTTP_PARSER_REQUEST,
    HTTP_PARSER_RESPONSE,
};

struct http_parser_limits {
    size_t head_max;   /* bytes of start line and fields together, the empty line included */
    size_t fields_max; /* number of fields */
};

enum http_parse {
    HTTP_PARSE_MORE,     /* everything was used; more is needed */
    HTTP_PARSE_HEAD,     /* the head is complete: http_parser_head() */
    HTTP_PARSE_COMPLETE, /* the message is complete; feed no more before http_parser_next() */
    HTTP_PARSE_ERROR,    /* http_parser_error() and http_parser_error_text(); the parser is of no
                            further use */
};

/* Takes little memory until the first byte of a message comes, and gives it back in
 * http_parser_next(). */
struct http_parser *http_parser_new(enum http_parser_kind kind,
                                    struct http_parser_limits limits) MUST_CHECK;
void http_parser_free(struct http_parser **parser);

/* `body` may be NULL while no body can come (head not complete yet). *out_used tells how many bytes
 * of `data` were consumed. A message without a body goes HEAD, then COMPLETE at the next call
 * (which may have len 0). A head that is wrong in its start line or fields is refused when it is
 * complete; bytes that no head may contain, at once. */
enum http_parse http_parser_feed(struct http_parser *parser, const char *data, size_t len,
                                 struct buf *body, size_t *out_used) MUST_CHECK;

/* How many body bytes follow just as they are (UINT64_MAX: all, up to the end of the connection); 0:
 * none, or they are framed. Whoever moves some of them past the parser, without feeding them, says so
 * with http_parser_pass(): at most so many. MORE or COMPLETE, as for feeding. */
uint64_t http_parser_verbatim(const struct http_parser *parser);
enum http_parse http_parser_pass(struct http_parser *parser, uint64_t len) MUST_CHECK;

/* The peer ended its side: COMPLETE for a response framed by it, MORE between messages (nothing was
 * cut off), ERROR otherwise (closed-by-peer; for responses: backend-broken). */
enum http_parse http_parser_feed_eof(struct http_parser *parser) MUST_CHECK;

/* Responses only: the next message answers a HEAD request, so it has no body whatever it says.
 * Holds over interim (1xx) responses until a final one is complete. */
void http_parser_expect_no_body(struct http_parser *parser);

/* Valid from HTTP_PARSE_HEAD to http_parser_next(). */
const struct http_head *http_parser_head(const struct http_parser *parser);

/* Ready for the message that follows. Only after HTTP_PARSE_COMPLETE. */
void http_parser_next(struct http_parser *parser);

/* True while nothing of the current message was seen (leading empty lines do not count). */
bool http_parser_is_idle(const struct http_parser *parser);

/* request-malformed and its finer kinds; backend-invalid; `internal` when memory is out. */
enum reason http_parser_error(const struct http_parser *parser);
const char *http_parser_error_text(const struct http_parser *parser); /* static; for the log */
