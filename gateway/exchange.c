/* SPDX-License-Identifier: BSD-2-Clause */
/* The two machines of an exchange. They run side by side and end in any order.
 *
 *   request:   COLLECTING ──last byte──▶ COMPLETE          into our own buffer, for services and
 * judged config writes RELAYING   ──last byte──▶ COMPLETE          into the backend's any
 * ──answered before the end──▶ ABANDONED  the connection closes afterwards
 *
 *   response:  PENDING ──answer of ours──▶ SENDING ──last byte──▶ COMPLETE
 *              PENDING ──backend's head──▶ RELAYING ──last byte──▶ COMPLETE
 *              any ──broken when the head was out──▶ BROKEN   the connection closes at once
 */
#include "gateway/exchange.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/base/mem.h"
#include "gateway/config_write.h"
#include "gateway/forward.h"
#include "gateway/http/chunk.h"
#include "gateway/http/fields.h"
#include "gateway/http/problem.h"
#include "gateway/operator/operator.h"
#include "gateway/service/rotation_service.h"

enum {
    SERVICE_BODY_MAX = 64 * 1024, /* announcements and operators' requests */
    COLLECT_SLACK =
        4096, /* so that the parser always has room to find the end behind a full body */
    FORWARD_HEAD_EXTRA = 16 * 1024, /* what the identity fields may add to a request's head */
    REQUEST_ID_LEN = 32,
    TRACE_PARENT_LEN = 55,
};

enum request_state {
    REQUEST_COLLECTING, /* body goes into ex->body; what is done with it follows from ex->handler */
    REQUEST_RELAYING,   /* body goes to the backend as it comes */
    REQUEST_COMPLETE,   /* nothing more to read */
    REQUEST_ABANDONED,  /* answered before the end; the rest is not read */
};

enum response_state {
    RESPONSE_PENDING,  /* nothing final was written yet */
    RESPONSE_SENDING,  /* our own head is written, the rest of our body waits for room */
    RESPONSE_RELAYING, /* the backend's head is written, its body flows */
    RESPONSE_COMPLETE, /* all of it is in `out` */
    RESPONSE_BROKEN,   /* cannot be completed any more */
};

/* Who gets the collected body. */
enum exchange_handler {
    HANDLER_NONE,
    HANDLER_OPERATOR,
    HANDLER_ROTATION,
    HANDLER_CONFIG_WRITE,
    HANDLER_BACKEND,
};

struct exchange {
    const struct exchange_env *env; /* borrowed from the connection, which owns us */
    const struct http_head
        *head; /* borrowed from the parser until http_parser_next(); NULL: it never was complete */
    struct http_target target;
    struct route_match match;
    enum exchange_handler handler;
    enum request_state request;
    enum response_state response;
    bool close_after;

    struct buf body;   /* collected */
    struct buf answer; /* the rest of our own answer's body */
    size_t body_max;

    struct upstream *upstream; /* owned */
    bool upstream_readable;    /* on_readable came, upstream_read_body() has not said MORE since */
    bool response_chunked;     /* towards the peer */
    struct transition *transition;    /* owned: of a service */
    struct store_op *store_op;        /* owned: of a service */
    void *service_state;              /* owned: memory of a service */
    struct config_write_claim *claim; /* owned: of a config write, while its lease may be alive */
    struct event *lease_timer;        /* owned */
    uint64_t generation;              /* to be told to the backend */

    char request_id[REQUEST_ID_LEN + 1];
    enum reason reason;
    int status;
    int64_t started_us;
    uint64_t bytes_in;
    uint64_t bytes_out;
};

static void exchange_set_request(struct exchange *ex, enum request_state state)
{
    assert(ex->request != REQUEST_COMPLETE && ex->request != REQUEST_ABANDONED);
    ex->request = state;
}

static void exchange_set_response(struct exchange *ex, enum response_state state)
{
    assert(ex->response != RESPONSE_COMPLETE && ex->response != RESPONSE_BROKEN);
    ex->response = state;
}

static bool exchange_request_open(const struct exchange *ex)
{
    return ex->request == REQUEST_COLLECTING || ex->request == REQUEST_RELAYING;
}

static bool exchange_is_head(const struct exchange *ex)
{
    return ex->head != NULL && str_eq(ex->head->method, STR("HEAD"));
}

static bool exchange_is_1_0(const struct exchange *ex)
{
    return ex->head != NULL && ex->head->minor == 0;
}

void exchange_wake(struct exchange *ex)
{
    ex->env->wake(ex->env->arg);
}

/* --- answers of our own ----------------------------------------------------------------------- */

/* When the final head is out, nothing else can be said: the peer learns by the connection's end. */
static void exchange_break(struct exchange *ex, enum reason reason)
{
    ex->reason = reason;
    ex->close_after = true;
    exchange_set_response(ex, RESPONSE_BROKEN);
}

/* What fits goes out now; exchange_pump_answer() brings the rest. */
static void exchange_put_body(struct exchange *ex, struct str body)
{
    ex->bytes_out = body.len;
    if (body.len <= buf_space(ex->env->out) && buf_append_str(ex->env->out, body)) {
        exchange_set_response(ex, RESPONSE_COMPLETE);
        return;
    }
    buf_init(&ex->answer, body.len);
    if (!buf_append_str(&ex->answer, body))
        exchange_break(ex, REASON_INTERNAL);
    else
        exchange_set_response(ex, RESPONSE_SENDING);
}

static void exchange_put_answer(struct exchange *ex, struct forward_answer *answer, struct str body)
{
    if (exchange_request_open(ex)) {
        exchange_set_request(ex, REQUEST_ABANDONED);
        ex->close_after = true;
    }
    answer->content_length = body.len;
    answer->close = ex->close_after;
    answer->keep_alive_1_0 = exchange_is_1_0(ex) && !ex->close_after;
    answer->request_id = ex->request_id;
    ex->status = answer->status;
    if (!forward_answer_head(answer, ex->env->out))
        exchange_break(ex, REASON_INTERNAL);
    else
        exchange_put_body(ex, exchange_is_head(ex) ? STR("") : body);
}

void exchange_refuse(struct exchange *ex, enum reason reason, const char *detail)
{
    char problem[PROBLEM_MAX];
    char allow[128] = "";

    upstream_abort(&ex->upstream);
    if (ex->response != RESPONSE_PENDING) {
        exchange_break(ex, reason);
        return;
    }
    if (reason == REASON_METHOD_NOT_ALLOWED && ex->env->listener != NULL) {
        const struct route_query query = {.listener = ex->env->listener,
                                          .path = str_c(ex->target.path)};
        route_allowed_methods(ex->env->generation->snapshot->routes, &query, allow, sizeof(allow));
    }
    ex->reason = reason;
    size_t len = problem_format(reason, detail, ex->request_id, problem);
    exchange_put_answer(ex,
                        &(struct forward_answer){
                            .status = reason_status(reason),
                            .content_type = "application/problem+json",
                            .retry_after_s = problem_retry_after(reason),
                            .allow = allow[0] != '\0' ? allow : NULL,
                        },
                        (struct str){problem, len});
}

void exchange_answer_text(struct exchange *ex, int status, enum reason reason,
                          const char *content_type, struct str text)
{
    ex->reason = reason;
    exchange_put_answer(ex,
                        &(struct forward_answer){.status = status, .content_type = content_type},
                        text);
}

void exchange_answer_json(struct exchange *ex, int status, enum reason reason, json_t *body)
{
    char *text = json_dumps(body, JSON_COMPACT);

    json_decref(body);
    if (text == NULL)
        exchange_refuse(ex, REASON_INTERNAL, NULL);
    else
        exchange_answer_text(ex, status, reason, "application/json", str_c(text));
    free(text);
}

void exchange_refuse_store(struct exchange *ex, enum store_result result)
{
    static const enum reason reasons[] = {
        [STORE_OK] = REASON_INTERNAL,
        [STORE_CONFLICT] = REASON_STORE_CONFLICT,
        [STORE_UNAVAILABLE] = REASON_STORE_UNAVAILABLE,
        [STORE_INVALID] = REASON_STORE_RECORD_INVALID,
    };
    exchange_refuse(ex, reasons[result], NULL);
}

/* --- towards the backend ---------------------------------------------------------------------- */

static void exchange_end_lease(struct exchange *ex, bool release)
{
    if (ex->claim == NULL)
        return;
    config_write_cancel(ex->claim);
    if (release)
        config_write_release(ex->env->worker, ex->claim);
    if (ex->lease_timer != NULL)
        event_free(ex->lease_timer);
    ex->lease_timer = NULL;
    mem_free(ex->claim);
    ex->claim = NULL;
}

static void on_upstream_writable(void *arg)
{
    exchange_wake(arg);
}

static void on_upstream_readable(void *arg)
{
    struct exchange *ex = arg;

    ex->upstream_readable = true;
    exchange_wake(ex);
}

static void on_upstream_failed(enum upstream_result result, enum reason reason, const char *text,
                               void *arg)
{
    struct exchange *ex = arg;

    log_write(LOG_WARNING, "backend failed", LOG_STR("request_id", ex->request_id),
              LOG_STR("backend", ex->match.route->backend), LOG_STR("reason", reason_wire(reason)),
              LOG_STR("detail", text));
    ex->upstream = NULL;
    /* What went out may still take effect: only a write that reached nobody gives its lease back.
     */
    exchange_end_lease(ex, result == UPSTREAM_REFUSED);
    exchange_refuse(ex, reason, NULL);
    exchange_wake(ex);
}

static void exchange_relay_interim(struct exchange *ex, const struct http_head *head)
{
    struct buf *out = ex->env->out;
    size_t before = buf_len(out);

    /* HTTP/1.0 knows no interim responses (RFC 9110, 15.2); a 100 is of no use behind the body. */
    if (exchange_is_1_0(ex) || (head->status == 100 && ex->request == REQUEST_COMPLETE))
        return;
    if (!forward_response_head(&(struct forward_response){.head = head,
                                                          .framing = HTTP_FRAMING_NONE},
                               out)) {
        /* No room for it now: an interim response may be left out, but never half of one. */
        out->tail = out->head + before;
    }
}

static struct forward_response exchange_frame_response(struct exchange *ex,
                                                       const struct http_head *head)
{
    struct forward_response response = {.head = head,
                                        .framing = head->framing,
                                        .content_length = head->content_length};
    bool no_body = exchange_is_head(ex) || head->status == 204 || head->status == 304;

    if (no_body || head->framing == HTTP_FRAMING_NONE) {
        response.framing = HTTP_FRAMING_NONE;
        /* A 204 has no Content-Length (RFC 9110, 8.6); a 200 without a body needs one. */
        response.with_length = head->status != 204 && (head->has_length || !no_body);
        if (!head->has_length)
            response.content_length = 0;
    } else if (head->framing == HTTP_FRAMING_EOF || head->framing == HTTP_FRAMING_CHUNKED) {
        response.framing = exchange_is_1_0(ex) ? HTTP_FRAMING_EOF : HTTP_FRAMING_CHUNKED;
    }
    if (response.framing == HTTP_FRAMING_EOF)
        ex->close_after = true;
    response.close = ex->close_after;
    response.keep_alive_1_0 = exchange_is_1_0(ex) && !ex->close_after;
    return response;
}

static void on_upstream_head(const struct http_head *head, void *arg)
{
    struct exchange *ex = arg;

    if (head->status < 200) {
        exchange_relay_interim(ex, head);
        exchange_wake(ex);
        return;
    }
    /* The backend has answered: the write is over, whatever it made of it. */
    exchange_end_lease(ex, true);
    struct forward_response response = exchange_frame_response(ex, head);
    size_t before = buf_len(ex->env->out);
    if (!forward_response_head(&response, ex->env->out)) {
        ex->env->out->tail = ex->env->out->head + before;
        exchange_refuse(ex, REASON_BACKEND_INVALID,
                        "The head of the backend's answer is too large.");
    } else {
        ex->status = head->status;
        ex->reason = REASON_OK;
        ex->response_chunked = response.framing == HTTP_FRAMING_CHUNKED;
        exchange_set_response(ex, RESPONSE_RELAYING);
    }
    exchange_wake(ex);
}

static const struct upstream_handlers exchange_upstream_handlers = {
    .on_writable = on_upstream_writable,
    .on_head = on_upstream_head,
    .on_readable = on_upstream_readable,
    .on_failed = on_upstream_failed,
};

static bool exchange_is_idempotent(const struct exchange *ex)
{
    static const struct str methods[] = {{"GET", 3}, {"HEAD", 4},   {"OPTIONS", 7},
                                         {"PUT", 3}, {"DELETE", 6}, {"TRACE", 5}};

    for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
        if (str_eq(ex->head->method, methods[i]))
            return true;
    }
    return false;
}

/* Keeps the client's trace when it has a valid one, else begins one. */
static bool exchange_trace(struct exchange *ex, char out[TRACE_PARENT_LEN + 1])
{
    const struct http_field *field = http_head_find(ex->head, STR("traceparent"));
    uint8_t ids[24];

    if (field != NULL && http_head_count(ex->head, STR("traceparent")) == 1 &&
        http_traceparent_is_valid(field->value) &&
        str_copy(out, TRACE_PARENT_LEN + 1, field->value))
        return true;
    worker_random(ex->env->worker, ids, sizeof(ids));
    memcpy(out, "00-", 3);
    encode_hex(ids, 16, out + 3);
    out[35] = '-';
    encode_hex(ids + 16, 8, out + 36);
    memcpy(out + 52, "-00", 4);
    return false;
}

static const char *exchange_operator_id(const struct exchange *ex, char text[32])
{
    const struct exchange_peer *peer = ex->env->peer;

    if (ex->env->listener == NULL || ex->env->listener->clients != CONFIG_CLIENTS_OPERATORS)
        return NULL;
    if (peer->certificate != NULL && peer->certificate->identity == PEER_IDENTIFIED)
        return peer->certificate->credentials.device;
    if (!peer->has_uid)
        return NULL;
    (void)snprintf(text, 32, "uid:%u", peer->uid);
    return text;
}

static struct str exchange_asked_host(const struct exchange *ex)
{
    const struct http_field *host = http_head_find(ex->head, STR("Host"));

    if (ex->target.host.len > 0)
        return ex->target.host;
    return host != NULL ? host->value : STR("");
}

/* Ready for the backend: the framing is that of the request, or of the collected body. */
static void exchange_start_upstream(struct exchange *ex)
{
    struct generation *generation = ex->env->generation;
    const struct config_backend *backend =
        &generation->snapshot->config->backends[ex->match.route->backend_index];
    bool collected = ex->request == REQUEST_COMPLETE;
    char trace[TRACE_PARENT_LEN + 1], operator_id[32];
    struct buf head;

    struct forward_request forward = {
        .head = ex->head,
        .target = &ex->target,
        .env = ex->env,
        .device = exchange_device(ex),
        .operator_id = exchange_operator_id(ex, operator_id),
        .generation = ex->generation,
        .host = backend->host != NULL ? str_c(backend->host) : exchange_asked_host(ex),
        .asked_host = exchange_asked_host(ex),
        .framing = ex->head->framing,
        .content_length = ex->head->content_length,
        .request_id = ex->request_id,
        .trace_parent = trace,
        .keep_trace_state = exchange_trace(ex, trace),
        .drop_expect = collected,
    };
    if (collected && ex->head->framing != HTTP_FRAMING_NONE) {
        forward.framing = HTTP_FRAMING_LENGTH;
        forward.content_length = buf_len(&ex->body);
    }
    buf_init(&head, generation->snapshot->config->http.head_max + FORWARD_HEAD_EXTRA);
    if (!forward_request_head(&forward, &head)) {
        buf_release(&head);
        exchange_end_lease(ex, true);
        exchange_refuse(ex, REASON_REQUEST_HEAD_TOO_LARGE, NULL);
        return;
    }
    const struct upstream_request request = {
        .head = buf_peek(&head),
        .framing = forward.framing,
        .content_length = forward.content_length,
        .is_head = exchange_is_head(ex),
        .replayable = forward.framing == HTTP_FRAMING_NONE && exchange_is_idempotent(ex),
        .send_until_ms = ex->claim != NULL ? ex->claim->deadline_ms : 0,
    };
    ex->upstream = upstream_start(generation->pools[ex->match.route->backend_index], &request,
                                  &exchange_upstream_handlers, ex);
    buf_release(&head);
    if (collected && buf_is_empty(&ex->body))
        upstream_body_finish(ex->upstream);
}

/* --- config writes ---------------------------------------------------------------------------- */

static void on_lease_over(evutil_socket_t fd, short what, void *arg)
{
    struct exchange *ex = arg;

    (void)fd;
    (void)what;
    exchange_end_lease(ex, false);
    exchange_refuse(ex, REASON_CONFIG_LEASE_EXPIRED, NULL);
    exchange_wake(ex);
}

static void exchange_arm_lease(struct exchange *ex)
{
    int64_t left = ex->claim->deadline_ms - clock_monotonic_ms();

    left = left > 0 ? left : 0;
    struct timeval in = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
    ex->lease_timer = evtimer_new(ex->env->worker->base, on_lease_over, ex);
    if (ex->lease_timer == NULL || evtimer_add(ex->lease_timer, &in) != 0)
        abort();
}

static void on_claimed(enum store_result result, const struct store_view *view,
                       const struct decision *decision, void *arg)
{
    struct exchange *ex = arg;

    if (result != STORE_OK || decision->verdict != VERDICT_PASS) {
        /* A commit whose outcome is unknown may have left a lease behind. */
        exchange_end_lease(ex, result == STORE_UNAVAILABLE);
        if (result != STORE_OK)
            exchange_refuse_store(ex, result);
        else
            exchange_refuse(ex, decision->reason, NULL);
        exchange_wake(ex);
        return;
    }
    ex->generation = view->record.generation;
    exchange_arm_lease(ex);
    exchange_start_upstream(ex);
    exchange_wake(ex);
}

/* The body is here: judge the write. */
static void exchange_claim_write(struct exchange *ex)
{
    struct config_write_claim *claim = mem_new(struct config_write_claim);
    const struct credentials *device = exchange_device(ex);

    ex->claim = claim;
    enum reason reason = config_write_named_key(ex->head, exchange_body(ex), &claim->named);
    if (reason != REASON_OK) {
        exchange_end_lease(ex, false);
        exchange_refuse(ex, reason, NULL);
        return;
    }
    claim->lease_ms = ex->env->generation->snapshot->config->rotation.write_lease_ms;
    if (device != NULL) {
        claim->writer = CONFIG_WRITER_DEVICE;
        claim->writer_key = device->key.id;
        str_copy_cut(claim->device, sizeof(claim->device), str_c(device->device));
    } else {
        claim->writer = CONFIG_WRITER_OPERATOR;
        str_copy_cut(claim->device, sizeof(claim->device), ex->match.device);
    }
    claim->done = on_claimed;
    claim->arg = ex;
    config_write_start(ex->env->worker, claim);
}

/* --- the request's way in --------------------------------------------------------------------- */

static void exchange_request_complete(struct exchange *ex)
{
    bool relayed = ex->request == REQUEST_RELAYING;

    exchange_set_request(ex, REQUEST_COMPLETE);
    if (relayed) {
        upstream_body_finish(ex->upstream);
        return;
    }
    switch (ex->handler) {
    case HANDLER_OPERATOR:
        operator_serve(ex);
        break;
    case HANDLER_ROTATION:
        rotation_service_serve(ex);
        break;
    case HANDLER_CONFIG_WRITE:
        exchange_claim_write(ex);
        break;
    case HANDLER_BACKEND:
    case HANDLER_NONE:
        break;
    }
}

static bool exchange_has_body(const struct http_head *head)
{
    return head->framing == HTTP_FRAMING_CHUNKED ||
           (head->framing == HTTP_FRAMING_LENGTH && head->content_length > 0);
}

static void exchange_begin_body(struct exchange *ex)
{
    size_t used;

    if (!exchange_has_body(ex->head)) {
        /* Nothing follows: the parser says so without a byte. */
        if (http_parser_feed(ex->env->parser, "", 0, NULL, &used) == HTTP_PARSE_COMPLETE)
            exchange_request_complete(ex);
        else
            exchange_refuse(ex, REASON_INTERNAL, NULL);
        return;
    }
    /* For a backend the expectation is forwarded, and it is the backend that answers it. */
    if (ex->handler != HANDLER_BACKEND && ex->head->expect_continue && buf_is_empty(ex->env->in) &&
        !buf_append_str(ex->env->out, STR("HTTP/1.1 100 Continue\r\n\r\n")))
        exchange_refuse(ex, REASON_INTERNAL, NULL);
}

static void exchange_collect(struct exchange *ex, size_t body_max)
{
    ex->request = REQUEST_COLLECTING;
    ex->body_max = body_max;
    buf_init(&ex->body, body_max + COLLECT_SLACK);
    exchange_begin_body(ex);
}

static void exchange_dispatch(struct exchange *ex)
{
    const struct config *config = ex->env->generation->snapshot->config;

    switch (ex->handler) {
    case HANDLER_OPERATOR:
    case HANDLER_ROTATION:
        exchange_collect(ex, SERVICE_BODY_MAX);
        break;
    case HANDLER_CONFIG_WRITE:
        exchange_collect(ex, config->rotation.config_body_max);
        break;
    case HANDLER_BACKEND:
        ex->request = REQUEST_RELAYING;
        ex->body_max = ex->match.route->body_limit > 0 ? ex->match.route->body_limit : SIZE_MAX;
        if (ex->head->framing == HTTP_FRAMING_LENGTH && ex->head->content_length > ex->body_max) {
            exchange_refuse(ex, REASON_REQUEST_BODY_TOO_LARGE, NULL);
            break;
        }
        exchange_start_upstream(ex);
        if (ex->response == RESPONSE_PENDING)
            exchange_begin_body(ex);
        break;
    case HANDLER_NONE:
        exchange_refuse(ex, REASON_INTERNAL, NULL);
        break;
    }
}

/* Which handler, or REASON_... for a refusal. */
static enum reason exchange_guard_route(struct exchange *ex)
{
    const struct config_route *route = ex->match.route;
    const struct exchange_peer *peer = ex->env->peer;
    bool for_devices = ex->env->listener->clients == CONFIG_CLIENTS_DEVICES;

    if (for_devices && !peer->admitted && route->certificate_required)
        return REASON_CERTIFICATE_MISSING;
    if (peer->quarantined && !route->open_in_quarantine)
        return peer->verdict;
    if (ex->match.device.p != NULL &&
        !device_name_is_valid(ex->match.device.p, ex->match.device.len))
        return REASON_DEVICE_NAME_INVALID;
    if (route->service == CONFIG_SERVICE_ROTATION) {
        ex->handler = HANDLER_ROTATION;
        return peer->admitted ? REASON_OK : REASON_CERTIFICATE_MISSING;
    }
    if (route->lock != CONFIG_LOCK_CONFIG) {
        ex->handler = HANDLER_BACKEND;
        return REASON_OK;
    }
    ex->handler = HANDLER_CONFIG_WRITE;
    /* Whose configuration is it? A lock cannot be judged without a device. */
    return peer->admitted || ex->match.device.p != NULL ? REASON_OK : REASON_CERTIFICATE_MISSING;
}

static enum reason exchange_find_route(struct exchange *ex)
{
    struct str host = ex->target.host;
    const struct http_field *field = http_head_find(ex->head, STR("Host"));

    if (ex->env->listener == NULL) {
        ex->handler = HANDLER_OPERATOR;
        return REASON_OK;
    }
    /* An absolute-form target's host replaces the Host field (RFC 9112, 3.2.2). */
    if (host.len == 0 && field != NULL && !http_host_parse(field->value, &host))
        return REASON_REQUEST_MALFORMED;
    const struct route_query query = {
        .listener = ex->env->listener,
        .host = host,
        .path = str_c(ex->target.path),
        .method = ex->head->method,
    };
    ex->match = route_find(ex->env->generation->snapshot->routes, &query);
    if (ex->match.route == NULL)
        return ex->match.other_methods ? REASON_METHOD_NOT_ALLOWED : REASON_NO_ROUTE;
    return exchange_guard_route(ex);
}

static enum reason exchange_judge_head(struct exchange *ex)
{
    if (http_head_find(ex->head, STR("Expect")) != NULL && !ex->head->expect_continue)
        return REASON_EXPECTATION_UNSUPPORTED;
    if (!http_target_parse(ex->head->method, ex->head->target, &ex->target))
        return REASON_REQUEST_TARGET_INVALID;
    return exchange_find_route(ex);
}

static struct exchange *exchange_alloc(const struct exchange_env *env)
{
    struct exchange *ex = mem_new(struct exchange);
    uint8_t id[REQUEST_ID_LEN / 2];

    ex->env = env;
    ex->started_us = clock_monotonic_us();
    ex->generation = env->peer->admitted ? env->peer->generation : 0;
    worker_random(env->worker, id, sizeof(id));
    encode_hex(id, sizeof(id), ex->request_id);
    return ex;
}

struct exchange *exchange_new(const struct exchange_env *env, bool close_after)
{
    struct exchange *ex = exchange_alloc(env);

    ex->head = http_parser_head(env->parser);
    ex->close_after = close_after || !ex->head->keep_alive;
    enum reason reason = exchange_judge_head(ex);
    if (reason == REASON_OK) {
        exchange_dispatch(ex);
        return ex;
    }
    /* What two parties could read differently ends the connection too */
    if (reason_status(reason) == 400)
        ex->close_after = true;
    if (!exchange_has_body(ex->head)) {
        ex->handler = HANDLER_NONE;
        exchange_begin_body(ex);
    }
    exchange_refuse(ex, reason, NULL);
    return ex;
}

struct exchange *exchange_new_refusal(const struct exchange_env *env, const struct http_head *head,
                                      enum reason reason, const char *detail)
{
    struct exchange *ex = exchange_alloc(env);

    if (reason_status(reason) == 0)
        reason = REASON_INTERNAL;
    ex->head = head;
    ex->close_after = true;
    /* Only for the log: what cannot be parsed is logged without a path. */
    if (head != NULL && !http_target_parse(head->method, head->target, &ex->target))
        ex->target = (struct http_target){0};
    exchange_refuse(ex, reason, detail);
    return ex;
}

/* Feeds at most `room` bytes of what waits in `in`. */
static enum http_parse exchange_feed(struct exchange *ex, struct buf *body, size_t room)
{
    struct buf *in = ex->env->in;
    struct str data = buf_peek(in);
    size_t before = buf_len(body), used = 0;

    enum http_parse parse =
        http_parser_feed(ex->env->parser, data.p, data.len < room ? data.len : room, body, &used);
    buf_consume(in, used);
    ex->bytes_in += buf_len(body) - before;
    return parse;
}

/* True when it moved something. */
static bool exchange_pump_request(struct exchange *ex)
{
    struct buf *body = &ex->body;
    size_t room = 0;

    if (!exchange_request_open(ex) || buf_is_empty(ex->env->in))
        return false;
    if (ex->request == REQUEST_RELAYING)
        body = upstream_body_begin(ex->upstream, &room);
    else
        room = buf_space(body);
    if (body == NULL)
        return false;
    enum http_parse parse = exchange_feed(ex, body, room);
    if (ex->request == REQUEST_RELAYING)
        upstream_body_end(ex->upstream);
    if (parse == HTTP_PARSE_ERROR)
        exchange_refuse(ex, http_parser_error(ex->env->parser),
                        http_parser_error_text(ex->env->parser));
    else if (ex->bytes_in > ex->body_max)
        exchange_refuse(ex, REASON_REQUEST_BODY_TOO_LARGE, NULL);
    else if (parse == HTTP_PARSE_COMPLETE)
        exchange_request_complete(ex);
    return true;
}

/* A judged config write: its collected body goes to the backend. True when it moved something. */
static bool exchange_pump_collected(struct exchange *ex)
{
    struct str body = buf_peek(&ex->body);
    size_t room = 0;

    if (ex->handler != HANDLER_CONFIG_WRITE || ex->upstream == NULL || body.len == 0)
        return false;
    struct buf *to = upstream_body_begin(ex->upstream, &room);
    if (to == NULL)
        return false;
    size_t len = body.len < room ? body.len : room;
    if (!buf_append(to, body.p, len))
        abort(); /* the room was promised */
    upstream_body_end(ex->upstream);
    buf_consume(&ex->body, len);
    if (buf_is_empty(&ex->body))
        upstream_body_finish(ex->upstream);
    return true;
}

/* --- the response's way out ------------------------------------------------------------------- */

static void exchange_response_complete(struct exchange *ex)
{
    upstream_finish(&ex->upstream);
    exchange_set_response(ex, RESPONSE_COMPLETE);
    if (exchange_request_open(ex)) {
        exchange_set_request(ex, REQUEST_ABANDONED);
        ex->close_after = true;
    }
}

static enum upstream_read exchange_read_upstream(struct exchange *ex, size_t max)
{
    struct buf *out = ex->env->out;
    struct http_chunk chunk;
    size_t before = buf_len(out);

    if (!ex->response_chunked) {
        enum upstream_read read = upstream_read_body(ex->upstream, out, max);
        ex->bytes_out += buf_len(out) - before;
        return read;
    }
    if (!http_chunk_begin(out, &chunk))
        return UPSTREAM_READ_FULL;
    before = buf_len(out);
    enum upstream_read read = upstream_read_body(ex->upstream, out, max);
    ex->bytes_out += buf_len(out) - before;
    http_chunk_end(out, &chunk);
    return read;
}

/* True when it moved something. */
static bool exchange_pump_response(struct exchange *ex)
{
    struct buf *out = ex->env->out;
    size_t reserve = ex->response_chunked ? HTTP_CHUNK_OVERHEAD + STR("0\r\n\r\n").len : 0;

    if (ex->response != RESPONSE_RELAYING || !ex->upstream_readable || buf_space(out) <= reserve)
        return false;
    size_t before = buf_len(out);
    switch (exchange_read_upstream(ex, buf_space(out) - reserve)) {
    case UPSTREAM_READ_MORE:
        ex->upstream_readable = false;
        break;
    case UPSTREAM_READ_FULL:
        break;
    case UPSTREAM_READ_DONE:
        if (ex->response_chunked && !http_chunk_last(out))
            abort(); /* its room was kept free */
        exchange_response_complete(ex);
        return true;
    case UPSTREAM_READ_FAILED:
        upstream_abort(&ex->upstream);
        exchange_break(ex, REASON_BACKEND_BROKEN);
        return true;
    }
    return buf_len(out) != before;
}

/* True when it moved something. */
static bool exchange_pump_answer(struct exchange *ex)
{
    struct buf *out = ex->env->out;
    struct str rest = buf_peek(&ex->answer);

    if (ex->response != RESPONSE_SENDING || buf_space(out) == 0)
        return false;
    size_t len = rest.len < buf_space(out) ? rest.len : buf_space(out);
    if (!buf_append(out, rest.p, len)) {
        exchange_break(ex, REASON_INTERNAL);
        return true;
    }
    buf_consume(&ex->answer, len);
    if (buf_is_empty(&ex->answer))
        exchange_set_response(ex, RESPONSE_COMPLETE);
    return true;
}

enum exchange_pump exchange_pump(struct exchange *ex)
{
    bool moved = true;

    while (moved && ex->response != RESPONSE_COMPLETE && ex->response != RESPONSE_BROKEN) {
        moved = exchange_pump_request(ex);
        moved = exchange_pump_collected(ex) || moved;
        moved = exchange_pump_response(ex) || moved;
        moved = exchange_pump_answer(ex) || moved;
    }
    switch (ex->response) {
    case RESPONSE_PENDING:
    case RESPONSE_SENDING:
    case RESPONSE_RELAYING:
        return EXCHANGE_WAIT;
    case RESPONSE_COMPLETE:
        return ex->close_after ? EXCHANGE_CLOSE : EXCHANGE_KEEP;
    case RESPONSE_BROKEN:
        break;
    }
    return EXCHANGE_ABORT;
}

bool exchange_peer_ended(struct exchange *ex)
{
    ex->close_after = true;
    return !exchange_request_open(ex) || !buf_is_empty(ex->env->in);
}

void exchange_close_after(struct exchange *ex)
{
    ex->close_after = true;
}

bool exchange_awaits_peer(const struct exchange *ex)
{
    return exchange_request_open(ex) && buf_is_empty(ex->env->in) &&
           ex->response == RESPONSE_PENDING;
}

enum reason exchange_reason(const struct exchange *ex)
{
    return ex->reason;
}

/* --- the end ---------------------------------------------------------------------------------- */

static void exchange_log(const struct exchange *ex)
{
    const struct exchange_peer *peer = ex->env->peer;
    const struct credentials *who =
        peer->certificate != NULL && peer->certificate->identity == PEER_IDENTIFIED
            ? &peer->certificate->credentials
            : NULL;
    const struct config_route *route = ex->match.route;

    log_write(LOG_INFO, "request", LOG_STR("request_id", ex->request_id),
              LOG_STR("listener", ex->env->listener != NULL ? ex->env->listener->name : "operator"),
              LOG_STR("peer", peer->address), LOG_STR("device", who != NULL ? who->device : ""),
              LOG_STR("key", who != NULL ? who->key.id.hex : ""),
              LOG_SLICE("method", ex->head != NULL ? ex->head->method : STR("")),
              LOG_STR("path", ex->target.path != NULL ? ex->target.path : ""),
              LOG_INT("status", ex->status), LOG_STR("reason", reason_wire(ex->reason)),
              LOG_STR("route", route == NULL         ? ""
                               : route->path != NULL ? route->path
                                                     : route->prefix),
              LOG_STR("backend", route != NULL && route->backend != NULL ? route->backend : ""),
              LOG_INT("bytes_in", ex->bytes_in), LOG_INT("bytes_out", ex->bytes_out),
              LOG_INT("duration_us", clock_monotonic_us() - ex->started_us));
}

void exchange_cut_off(struct exchange *ex, enum reason reason)
{
    if (ex->response == RESPONSE_COMPLETE || ex->response == RESPONSE_BROKEN)
        return;
    ex->reason = reason;
    exchange_set_response(ex, RESPONSE_BROKEN);
}

void exchange_free(struct exchange **ex_at)
{
    struct exchange *ex = *ex_at;

    if (ex == NULL)
        return;
    *ex_at = NULL;
    exchange_cut_off(ex, REASON_CLOSED_BY_PEER);
    stat_add(&ex->env->worker->stats->requests[ex->reason], 1);
    if (ex->env->generation->snapshot->config->log.requests)
        exchange_log(ex);
    upstream_abort(&ex->upstream);
    /* A claim that is still undecided never reached a backend; one that did is left to expire. */
    bool unsent = ex->claim != NULL && ex->claim->transition != NULL;
    transition_cancel(&ex->transition);
    store_op_cancel(&ex->store_op);
    exchange_end_lease(ex, unsent);
    mem_free(ex->service_state);
    http_target_clear(&ex->target);
    buf_release(&ex->body);
    buf_release(&ex->answer);
    mem_free(ex);
}

/* --- for services ----------------------------------------------------------------------------- */

const struct exchange_env *exchange_env(const struct exchange *ex)
{
    return ex->env;
}

const struct http_head *exchange_head(const struct exchange *ex)
{
    return ex->head;
}

const struct http_target *exchange_target(const struct exchange *ex)
{
    return &ex->target;
}

const struct credentials *exchange_device(const struct exchange *ex)
{
    const struct exchange_peer *peer = ex->env->peer;

    return peer->admitted ? &peer->certificate->credentials : NULL;
}

int64_t exchange_connected_store_ms(const struct exchange *ex)
{
    const struct exchange_peer *peer = ex->env->peer;

    /* The store had read its clock before we had its answer, so the sum is never later than the
     * truth. */
    return peer->decided_store_ms + (peer->opened_ms - peer->decided_ms);
}

struct str exchange_body(const struct exchange *ex)
{
    return buf_peek(&ex->body);
}

void **exchange_service_state(struct exchange *ex)
{
    return &ex->service_state;
}

struct transition **exchange_transition_slot(struct exchange *ex)
{
    return &ex->transition;
}

struct store_op **exchange_store_slot(struct exchange *ex)
{
    return &ex->store_op;
}
