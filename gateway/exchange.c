/* SPDX-License-Identifier: BSD-2-Clause */
/* A request's way in, the pumps in both directions, and the end. The states are drawn in
 * exchange_private.h. */
#include "gateway/exchange_private.h"

#include <stdlib.h>

#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/base/piece.h"
#include "gateway/http/chunk.h"
#include "gateway/operator/operator.h"
#include "gateway/service/rotation_service.h"

enum {
    SERVICE_BODY_MAX = 64 * 1024, /* announcements and operators' requests */
    /* So that the parser always has room to find the end behind a full body. */
    COLLECT_SLACK = 4096,
};

void exchange_wake(struct exchange *ex)
{
    ex->env->wake(ex->env->arg);
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
        ex->awaits_continue = ex->head->expect_continue && exchange_has_body(ex->head);
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

/* "A server that receives a request with an absolute-form target must ignore the Host field"
 * (RFC 9112, 3.2.2). A party behind us may not know that, so the two have to agree. HTTP/1.0 may
 * have neither. */
static bool exchange_find_host(const struct exchange *ex, struct str *out_host)
{
    const struct http_field *field = http_head_find(ex->head, STR("Host"));
    struct str host = ex->target.host;

    if (field != NULL && !http_host_parse(field->value, &host))
        return false;
    *out_host = host;
    return ex->target.host.len == 0 || str_eq_nocase(host, ex->target.host);
}

static enum reason exchange_find_route(struct exchange *ex)
{
    struct str host;

    if (ex->env->listener == NULL) {
        ex->handler = HANDLER_OPERATOR;
        return REASON_OK;
    }
    if (!exchange_find_host(ex, &host))
        return REASON_REQUEST_MALFORMED;
    ex->asked = (struct route_query){
        .listener = ex->env->listener,
        .host = host,
        .path = str_c(ex->target.path),
        .method = ex->head->method,
    };
    ex->match = route_find(ex->env->generation->snapshot->routes, &ex->asked);
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
    struct exchange *ex = piece_zalloc(sizeof(struct exchange));
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
    ex->awaits_continue = false;
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

static void exchange_broken_by_upstream(struct exchange *ex)
{
    const struct upstream_failure *failure = upstream_failure(ex->upstream);
    enum reason reason = failure->reason;

    exchange_log_backend(ex, failure);
    upstream_abort(&ex->upstream);
    exchange_break(ex, reason);
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
        exchange_broken_by_upstream(ex);
        return true;
    }
    return buf_len(out) != before;
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
    /* The rest of this request, or others behind it. */
    if (!buf_is_empty(ex->env->in))
        return true;
    ex->close_after = true;
    return !exchange_request_open(ex);
}

void exchange_close_after(struct exchange *ex)
{
    ex->close_after = true;
}

bool exchange_awaits_peer(const struct exchange *ex)
{
    return exchange_request_open(ex) && buf_is_empty(ex->env->in) && !ex->awaits_continue &&
           ex->response == RESPONSE_PENDING;
}

enum reason exchange_reason(const struct exchange *ex)
{
    return ex->reason;
}

/* --- the end ---------------------------------------------------------------------------------- */

static void exchange_log(const struct exchange *ex, int64_t duration_us)
{
    const struct exchange_peer *peer = ex->env->peer;
    const struct credentials *who =
        peer->certificate != NULL && peer->certificate->identity == PEER_IDENTIFIED
            ? &peer->certificate->credentials
            : NULL;
    const struct config_route *route = ex->match.route;
    struct str name = who != NULL ? str_c(who->device) : STR("");
    bool of_device =
        ex->env->listener != NULL && ex->env->listener->clients == CONFIG_CLIENTS_DEVICES;

    /* Whom admission has let in is known by name; everybody else is a stranger. */
    if (of_device && !peer->admitted && ex->reason != REASON_OK &&
        !peer_log_pass(ex->env->worker, PEER_LOG_REQUEST, ex->reason, LOG_INFO))
        return;
    log_write_later(
        LOG_INFO, "request", LOG_STR("request_id", ex->request_id),
        LOG_STR("listener", ex->env->listener != NULL ? ex->env->listener->name : "operator"),
        LOG_STR("peer", peer->address), LOG_SLICE("device", of_device ? name : ex->match.device),
        LOG_SLICE("operator", of_device ? STR("") : name),
        LOG_STR("key", who != NULL ? who->key.id.hex : ""),
        LOG_SLICE("method", ex->head != NULL ? ex->head->method : STR("")),
        LOG_STR("path", ex->target.path != NULL ? ex->target.path : ""),
        LOG_INT("status", ex->status), LOG_STR("reason", reason_wire(ex->reason)),
        LOG_STR("route", route == NULL         ? ""
                         : route->path != NULL ? route->path
                                               : route->prefix),
        LOG_STR("backend", route != NULL && route->backend != NULL ? route->backend : ""),
        LOG_INT("bytes_in", ex->bytes_in), LOG_INT("bytes_out", ex->bytes_out),
        LOG_INT("duration_us", duration_us));
}

void exchange_cut_off(struct exchange *ex, enum reason reason)
{
    if (ex->response == RESPONSE_COMPLETE || ex->response == RESPONSE_BROKEN)
        return;
    ex->reason = reason;
    exchange_set_response(ex, RESPONSE_BROKEN);
}

static void exchange_count(const struct exchange *ex, int64_t duration_us)
{
    struct stats *stats = ex->env->worker->stats;
    int class = ex->status / 100;

    stat_add(&stats->requests[ex->reason], 1);
    stat_add(&stats->responses[class > 0 && class < STATUS_CLASSES ? class : 0], 1);
    /* Operators' own requests would hide how clients fare. */
    if (ex->env->listener != NULL)
        histogram_observe(&stats->request_duration, duration_us);
}

void exchange_free(struct exchange **ex_at)
{
    struct exchange *ex = *ex_at;

    if (ex == NULL)
        return;
    *ex_at = NULL;
    exchange_cut_off(ex, REASON_CLOSED_BY_PEER);
    int64_t duration_us = clock_monotonic_us() - ex->started_us;
    exchange_count(ex, duration_us);
    if (ex->env->generation->snapshot->config->log.requests)
        exchange_log(ex, duration_us);
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
    piece_free(ex, sizeof(*ex));
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
