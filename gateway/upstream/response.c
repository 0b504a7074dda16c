/* SPDX-License-Identifier: BSD-2-Clause */
/* The response half of an exchange.
 *
 * Heads are read into upstream->in, a small buffer; what follows the final head in it is the body's
 * beginning. The rest goes from the socket straight into the caller's sink, a chunked body through
 * the worker's scratch memory and the parser, and only when the caller asks for it: decoding never
 * makes bytes more, so what fits the sink raw fits it decoded. */
#include "gateway/upstream/private.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "gateway/base/clock.h"

enum {
    TURN_BYTES_MAX = 256 * 1024, /* read for one exchange before others have their turn */
    INTERIMS_MAX = 16,           /* heads of interim responses before the final one */
};

/* What one step of reading a body came to. */
enum body_step {
    BODY_STEP_AGAIN,  /* something moved; there may be more */
    BODY_STEP_WAIT,   /* nothing more now */
    BODY_STEP_FAILED, /* noted */
};

/* --- heads ------------------------------------------------------------------------------------ */

/* Lets the parser say whether the message ends with its head. False on nonsense. */
static bool response_probe_end(struct upstream *upstream)
{
    struct buf none;
    size_t used;

    buf_init(&none, 0);
    enum http_parse result = http_parser_feed(upstream->conn->parser, "", 0, &none, &used);
    upstream->complete = result == HTTP_PARSE_COMPLETE;
    return result != HTTP_PARSE_ERROR;
}

static void response_invalid(struct upstream *upstream)
{
    struct http_parser *parser = upstream->conn->parser;

    upstream_fail(upstream, REASON_BACKEND_INVALID, "the answer is not valid",
                  http_parser_error_text(parser));
}

/* Back to waiting when the caller has seen it. */
static void response_interim(struct upstream *upstream, const struct http_head *head)
{
    if (head->status == 100)
        upstream->awaits_continue = false;
    if (head->status == 101 || ++upstream->interims > INTERIMS_MAX) {
        upstream_fail(upstream, REASON_BACKEND_INVALID,
                      head->status == 101 ? "nobody asked to switch protocols"
                                          : "too many interim answers",
                      "");
        return;
    }
    upstream->handlers.on_head(head, upstream->arg);
    if (upstream->closed || upstream->response == RESPONSE_FAILED)
        return;
    if (!response_probe_end(upstream) || !upstream->complete) {
        response_invalid(upstream);
        return;
    }
    upstream->complete = false;
    http_parser_next(upstream->conn->parser);
    if (upstream->is_head)
        http_parser_expect_no_body(upstream->conn->parser);
    upstream_set_response_state(upstream, RESPONSE_WAITING);
}

static void response_final(struct upstream *upstream, const struct http_head *head)
{
    if (!response_probe_end(upstream)) {
        response_invalid(upstream);
        return;
    }
    bool surplus = upstream->complete && !buf_is_empty(&upstream->in);
    upstream->may_keep = head->keep_alive && head->framing != HTTP_FRAMING_EOF && !surplus;
    upstream->awaiting = true;
    if (upstream->pinned == NULL) {
        server_answered(&upstream->pool->servers, upstream->server, upstream->trial);
        histogram_observe(&upstream->pool->row->response,
                          clock_monotonic_us() - upstream->started_us);
    }
    upstream_set_response_state(upstream, RESPONSE_BODY);
    upstream->handlers.on_head(head, upstream->arg);
    /* The caller may have read already, even up to the end. Otherwise what is here by now would be
     * announced by no readiness of the socket. */
    if (upstream->closed || upstream->response == RESPONSE_FAILED || !upstream->awaiting ||
        (!upstream->complete && buf_is_empty(&upstream->in)))
        return;
    upstream->awaiting = false;
    upstream->handlers.on_readable(upstream->arg);
}

static void response_on_head(struct upstream *upstream)
{
    const struct http_head *head = http_parser_head(upstream->conn->parser);

    upstream_set_response_state(upstream, RESPONSE_HEAD);
    upstream_let_go(upstream);
    if (head->status < 200)
        response_interim(upstream, head);
    else
        response_final(upstream, head);
}

/* Up to the final head, or as far as the bytes reach. */
static void response_parse_heads(struct upstream *upstream)
{
    while (!upstream->closed && upstream->response == RESPONSE_WAITING &&
           !buf_is_empty(&upstream->in)) {
        struct str bytes = buf_peek(&upstream->in);
        size_t used = 0;
        enum http_parse result =
            http_parser_feed(upstream->conn->parser, bytes.p, bytes.len, NULL, &used);

        buf_consume(&upstream->in, used);
        if (result == HTTP_PARSE_HEAD)
            response_on_head(upstream);
        else if (result != HTTP_PARSE_MORE)
            response_invalid(upstream);
    }
    if (buf_is_empty(&upstream->in))
        buf_release(&upstream->in);
}

static void response_read_heads(struct upstream *upstream)
{
    size_t size = 0, len = 0;
    char *room = buf_reserve(&upstream->in, &size);

    if (room == NULL) {
        upstream_fail(upstream, REASON_BACKEND_UNAVAILABLE, "no memory for the answer", "");
        return;
    }
    switch (pool_conn_read(upstream->conn, room, size, &len)) {
    case POOL_IO_DONE:
        buf_commit(&upstream->in, len);
        upstream->heard = true;
        upstream->dry = len < size && !pool_conn_has_more(upstream->conn);
        response_parse_heads(upstream);
        break;
    case POOL_IO_WAIT:
        buf_release(&upstream->in);
        break;
    case POOL_IO_EOF:
        upstream_lost(upstream, "waiting for the answer", "the backend closed the connection");
        break;
    case POOL_IO_ERROR:
        upstream_lost(upstream, "waiting for the answer", pool_conn_error(upstream->conn));
        break;
    }
}

/* --- body ------------------------------------------------------------------------------------- */

static enum body_step response_fed(struct upstream *upstream, enum http_parse result, bool surplus)
{
    switch (result) {
    case HTTP_PARSE_MORE:
        return BODY_STEP_AGAIN;
    case HTTP_PARSE_COMPLETE:
        upstream->complete = true;
        upstream->may_keep = upstream->may_keep && !surplus;
        return BODY_STEP_AGAIN;
    case HTTP_PARSE_HEAD:
    case HTTP_PARSE_ERROR:
        break;
    }
    upstream_note_failure(upstream, REASON_BACKEND_INVALID, "the answer's body is not valid",
                          http_parser_error_text(upstream->conn->parser));
    return BODY_STEP_FAILED;
}

/* What came together with the head. */
static enum body_step response_feed_buffered(struct upstream *upstream, struct buf *sink,
                                             size_t room)
{
    struct str bytes = buf_peek(&upstream->in);
    size_t used = 0;

    if (bytes.len > room)
        bytes.len = room;
    enum http_parse result =
        http_parser_feed(upstream->conn->parser, bytes.p, bytes.len, sink, &used);
    buf_consume(&upstream->in, used);
    enum body_step step = response_fed(upstream, result, !buf_is_empty(&upstream->in));
    if (buf_is_empty(&upstream->in))
        buf_release(&upstream->in);
    return step;
}

/* Only a body that nothing else delimits may end like this. */
static enum body_step response_ended(struct upstream *upstream, const char *why)
{
    if (why == NULL && http_parser_feed_eof(upstream->conn->parser) == HTTP_PARSE_COMPLETE) {
        upstream->complete = true;
        return BODY_STEP_AGAIN;
    }
    upstream_note_failure(upstream, REASON_BACKEND_BROKEN, "reading the answer's body",
                          why != NULL ? why : "the backend closed the connection before its end");
    return BODY_STEP_FAILED;
}

/* Where bytes of the body are read to. */
struct body_room {
    char *at;
    size_t size;
    bool direct; /* it is the sink's own memory */
};

/* Bytes that are body and nothing else need no way round through scratch memory and parser. */
static struct body_room response_room(struct upstream *upstream, struct buf *sink, size_t size)
{
    const struct upstream_pool_params *params = &upstream->pool->params;
    struct body_room room = {.size = 0};

    if (http_parser_verbatim(upstream->conn->parser) > 0)
        room.at = buf_reserve(sink, &room.size);
    room.direct = room.at != NULL;
    if (!room.direct)
        room = (struct body_room){.at = params->scratch, .size = params->scratch_size};
    if (room.size > size)
        room.size = size;
    return room;
}

/* `len` bytes were read. What is more than the body ends with the connection. */
static enum body_step response_take(struct upstream *upstream, struct buf *sink,
                                    const struct body_room *room, size_t len)
{
    struct http_parser *parser = upstream->conn->parser;
    size_t used = 0;

    if (!room->direct) {
        enum http_parse result = http_parser_feed(parser, room->at, len, sink, &used);
        return response_fed(upstream, result, used < len);
    }
    used = len < http_parser_verbatim(parser) ? len : (size_t)http_parser_verbatim(parser);
    buf_commit(sink, used);
    return response_fed(upstream, http_parser_pass(parser, used), used < len);
}

/* *budget loses what was read. */
static enum body_step response_feed_socket(struct upstream *upstream, struct buf *sink, size_t size,
                                           size_t *budget)
{
    size_t len = 0;

    if (size > *budget)
        size = *budget;
    if (size == 0 || upstream->dry)
        return BODY_STEP_WAIT;
    struct body_room room = response_room(upstream, sink, size);
    switch (pool_conn_read(upstream->conn, room.at, room.size, &len)) {
    case POOL_IO_DONE:
        break;
    case POOL_IO_WAIT:
        return BODY_STEP_WAIT;
    case POOL_IO_EOF:
        return response_ended(upstream, NULL);
    case POOL_IO_ERROR:
        return response_ended(upstream, pool_conn_error(upstream->conn));
    }
    upstream->progress_ms = clock_monotonic_ms();
    upstream->dry = len < room.size && !pool_conn_has_more(upstream->conn);
    *budget -= len;
    return response_take(upstream, sink, &room, len);
}

/* The caller waits from now on; on_readable follows. */
static enum upstream_read response_await(struct upstream *upstream, bool was_awaiting)
{
    if (!was_awaiting)
        upstream->progress_ms = clock_monotonic_ms();
    upstream->awaiting = true;
    pool_conn_read_on(upstream->conn);
    upstream_update_deadline(upstream);
    return UPSTREAM_READ_MORE;
}

enum upstream_read upstream_read_body(struct upstream *upstream, struct buf *sink, size_t max)
{
    size_t before = buf_len(sink), budget = TURN_BYTES_MAX;
    bool was_awaiting = upstream->awaiting;
    enum body_step step = BODY_STEP_AGAIN;

    if (upstream->response == RESPONSE_DONE)
        return UPSTREAM_READ_DONE;
    if (upstream->response == RESPONSE_FAILED)
        return UPSTREAM_READ_FAILED;
    assert(upstream->response == RESPONSE_BODY);
    upstream->awaiting = false;
    while (!upstream->complete && step == BODY_STEP_AGAIN) {
        size_t room = max - (buf_len(sink) - before);
        if (room > buf_space(sink))
            room = buf_space(sink);
        if (room == 0)
            return UPSTREAM_READ_FULL;
        if (!buf_is_empty(&upstream->in))
            step = response_feed_buffered(upstream, sink, room);
        else
            step = response_feed_socket(upstream, sink, room, &budget);
    }
    if (step == BODY_STEP_FAILED)
        return UPSTREAM_READ_FAILED;
    if (!upstream->complete)
        return response_await(upstream, was_awaiting);
    server_completed(upstream->server);
    upstream_set_response_state(upstream, RESPONSE_DONE);
    return UPSTREAM_READ_DONE;
}

void response_on_readable(struct upstream *upstream)
{
    upstream->dry = false;
    if (upstream->response == RESPONSE_WAITING) {
        response_read_heads(upstream);
    } else if (upstream->response == RESPONSE_BODY && upstream->awaiting) {
        upstream->awaiting = false;
        upstream->handlers.on_readable(upstream->arg);
    } else {
        /* The caller has no room, or needs nothing more. */
        pool_conn_read_pause(upstream->conn);
    }
}
