/* SPDX-License-Identifier: BSD-2-Clause */
/* Which header fields travel on, and which the gateway alone may write.
 *
 * Names are compared as the most careless backend would: case does not count, and every character
 * but letters and digits counts as '-' (CGI and many frameworks fold them: X_Device.Id arrives in a
 * program as HTTP_X_DEVICE_ID). */
#pragma once

#include "gateway/base/buf.h"
#include "gateway/base/macros.h"
#include "gateway/http/head.h"

/* Fields by which a backend knows who speaks: Client-Cert, Client-Cert-Chain, X-Device-*,
 * X-Operator-*, X-Client-*, X-SSL-*, SSL-*, Remote-*, Forwarded, X-Forwarded-*, X-Real-*,
 * X-Request-Id, Device-Rotation... (the table is in fields.c). The gateway removes them from every
 * request, whatever Connection says. */
bool http_field_is_identity(struct str name);

/* Fields by which a backend may be told to take the request for another one than the gateway has
 * judged: X-HTTP-Method-Override, X-Original-URL, X-Rewrite-URL... Removed from every request too.
 */
bool http_field_is_override(struct str name);

/* Connection, Keep-Alive, TE, Trailer, Transfer-Encoding, Upgrade, Proxy-*... (RFC 9110, 7.6.1),
 * Content-Length too (framing is generated), and whatever the message's own Connection field names.
 */
bool http_field_is_hop_by_hop(const struct http_head *head, struct str name);

/* Appends "Name: value\r\n" for each field of the head that may travel on.
 *
 * To a backend: neither hop-by-hop, identity nor override fields, nor Host, Expect, traceparent or
 * tracestate (the caller writes those that it wants). To a client: no hop-by-hop fields, nor
 * Device-Rotation (the gateway's own); Date and Server are the backend's. False when the buffer is
 * full: what fitted is in it. */
enum http_fields_direction { HTTP_FIELDS_TO_BACKEND, HTTP_FIELDS_TO_CLIENT };
bool http_fields_forward(const struct http_head *head, enum http_fields_direction direction,
                         struct buf *out) MUST_CHECK;

/* True for a traceparent that may be kept (W3C Trace Context, version 00 form: 55 characters,
 * lower-case hex, ids not all zero). */
bool http_traceparent_is_valid(struct str value);
