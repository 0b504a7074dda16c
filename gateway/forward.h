/* SPDX-License-Identifier: BSD-2-Clause */
/* The heads that the gateway writes: requests towards backends, responses towards devices and
 * operators.
 *
 * Framing fields and identity fields are always generated here and never copied (DESIGN section 6),
 * so a backend may trust them, and a device Device-Rotation (policy/enforcement.h): Client-Cert (RFC 9440), X-Device-Id, X-Device-Key,
 * X-Device-Key-Generation, X-Operator-Id, X-Request-Id, traceparent, Forwarded (RFC 7239),
 * X-Forwarded-For, -Proto and -Host. */
#pragma once

#include "gateway/base/buf.h"
#include "gateway/base/macros.h"
#include "gateway/exchange.h"

struct forward_request {
    const struct http_head *head; /* as received */
    const struct http_target *target;
    const struct exchange_env *env;
    const struct credentials *device; /* NULL: no device speaks */
    const char *operator_id;          /* NULL: no operator speaks */
    uint64_t generation;       /* of the device's record; 0: not known, the field is left out */
    struct str host;           /* the Host to send */
    struct str asked_host;     /* the one that was asked for; may be empty */
    enum http_framing framing; /* of the body that will follow */
    uint64_t content_length;
    const char *request_id;
    const char *trace_parent; /* 55 characters */
    bool keep_trace_state;    /* the client's traceparent was kept */
    bool drop_expect;         /* the body is here already */
};

/* False when it does not fit. */
bool forward_request_head(const struct forward_request *request, struct buf *out) MUST_CHECK;

struct forward_response {
    const struct http_head *head; /* the backend's */
    enum http_framing framing;    /* of the body that will follow; EOF: none is announced */
    bool with_length; /* say content_length although no body follows (HEAD, 304), or when it is 0 */
    uint64_t content_length;
    const char *rotation; /* value of Device-Rotation; "" or NULL: none */
    bool close;
    bool keep_alive_1_0; /* an HTTP/1.0 client that asked to keep the connection */
};
bool forward_response_head(const struct forward_response *response, struct buf *out) MUST_CHECK;

/* The head of an answer of our own; the caller appends the body. */
struct forward_answer {
    int status;
    const char *content_type; /* NULL: none, there is no body */
    uint64_t content_length;
    bool close;
    bool keep_alive_1_0;
    int retry_after_s;    /* 0: none */
    const char *allow;    /* NULL: none */
    const char *rotation; /* as above */
    const char *request_id;
};
bool forward_answer_head(const struct forward_answer *answer, struct buf *out) MUST_CHECK;

/* The registered phrase of a status code, "" for unknown ones. */
const char *forward_phrase(int status);
