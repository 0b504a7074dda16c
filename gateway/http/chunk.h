/* SPDX-License-Identifier: BSD-2-Clause */
/* Generated framing: one chunk around whatever was appended between begin and end (RFC 9112, 7.1).
 */
#pragma once

#include "gateway/base/buf.h"
#include "gateway/base/macros.h"

enum { HTTP_CHUNK_OVERHEAD = 12 }; /* "00ffffff\r\n" before, "\r\n" behind */

/* A mark in the buffer, from http_chunk_begin() for http_chunk_end(). */
struct http_chunk {
    size_t at;
};

/* Reserves the size line. Between begin and end nothing may be consumed from `buf`, and what is
 * appended must leave the last two bytes of space free for the closing line. False, with nothing
 * appended, when there is no room for HTTP_CHUNK_OVERHEAD. */
bool http_chunk_begin(struct buf *buf, struct http_chunk *out_chunk) MUST_CHECK;
/* Closes the chunk; takes the size line back when nothing was appended (an empty chunk would end
 * the body). */
void http_chunk_end(struct buf *buf, const struct http_chunk *chunk);
/* "0\r\n\r\n". */
bool http_chunk_last(struct buf *buf) MUST_CHECK;
