/* SPDX-License-Identifier: BSD-2-Clause */
/* The exchange with a backend, and the config writes that need a lease before it. */
#include "gateway/exchange_private.h"

#include <stdio.h>
#include <stdlib.h>

#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/forward.h"
#include "gateway/http/fields.h"

enum {
    FORWARD_HEAD_EXTRA = 16 * 1024, /* what the identity fields may add to a request's head */
    TRACE_PARENT_LEN = 55,
};

void exchange_end_lease(struct exchange *ex, bool release)
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

void exchange_log_backend(const struct exchange *ex, const struct upstream_failure *failure)
{
    if (!peer_log_pass(ex->env->worker, PEER_LOG_BACKEND, failure->reason, LOG_WARNING))
        return;
    log_write(LOG_WARNING, "backend failed", LOG_STR("request_id", ex->request_id),
              LOG_STR("backend", ex->match.route->backend), LOG_STR("server", failure->server),
              LOG_STR("reason", reason_wire(failure->reason)), LOG_STR("detail", failure->text));
}

static void on_upstream_failed(const struct upstream_failure *failure, void *arg)
{
    struct exchange *ex = arg;

    exchange_log_backend(ex, failure);
    ex->upstream = NULL;
    /* What went out may still take effect: only a write that reached nobody gives its lease back.
     */
    exchange_end_lease(ex, failure->result == UPSTREAM_REFUSED);
    exchange_refuse(ex, failure->reason, NULL);
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
    response.rotation = ex->env->peer->rotation;
    response.close = ex->close_after;
    response.keep_alive_1_0 = exchange_is_1_0(ex) && !ex->close_after;
    return response;
}

static void on_upstream_head(const struct http_head *head, void *arg)
{
    struct exchange *ex = arg;

    if (head->status < 200) {
        if (head->status == 100)
            ex->awaits_continue = false;
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
        /* What came together with the head leaves together with it. */
        ex->upstream_readable = true;
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
void exchange_start_upstream(struct exchange *ex)
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
        /* Whoever judges a write twice may find it outdated; so may its lease. */
        .idempotent = ex->claim == NULL && exchange_is_idempotent(ex),
        .awaits_continue = ex->awaits_continue,
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

    if (result == STORE_OK)
        stat_add(&ex->env->worker->stats->config_writes[decision->reason], 1);
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
void exchange_claim_write(struct exchange *ex)
{
    struct config_write_claim *claim = mem_new(struct config_write_claim);
    const struct credentials *device = exchange_device(ex);

    ex->claim = claim;
    enum reason reason = config_write_named_key(ex->head, exchange_body(ex), &claim->named);
    if (reason != REASON_OK) {
        stat_add(&ex->env->worker->stats->config_writes[reason], 1);
        exchange_end_lease(ex, false);
        exchange_refuse(ex, reason, NULL);
        return;
    }
    claim->lease_ms = ex->env->generation->snapshot->config->rotation.write_lease_ms;
    if (device != NULL) {
        claim->writer = CONFIG_WRITER_DEVICE;
        claim->writer_key = device->key.id;
        claim->writer_certificate = device->certificate;
        claim->writer_twin = device->certificate_twin;
        str_copy_cut(claim->device, sizeof(claim->device), str_c(device->device));
    } else {
        claim->writer = CONFIG_WRITER_OPERATOR;
        str_copy_cut(claim->device, sizeof(claim->device), ex->match.device);
    }
    claim->done = on_claimed;
    claim->arg = ex;
    config_write_start(ex->env->worker, claim);
}
