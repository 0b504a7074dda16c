/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/forward.h"

#include <stdio.h>

#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/http/fields.h"

/* `name` is a literal. */
#define put_field(out, name, value)   put_named(out, STR(name ": "), value)
#define put_number(out, name, number) put_named_number(out, STR(name ": "), number)

static inline bool put_named(struct buf *out, struct str name, struct str value)
{
    return buf_append_str(out, name) && buf_append_str(out, value) && buf_append(out, "\r\n", 2);
}

static bool put_named_number(struct buf *out, struct str name, uint64_t number)
{
    char digits[ENCODE_DECIMAL_MAX];

    return put_named(out, name, (struct str){digits, encode_unsigned(number, digits)});
}

static bool put_framing(struct buf *out, enum http_framing framing, uint64_t content_length)
{
    switch (framing) {
    case HTTP_FRAMING_LENGTH:
        return put_number(out, "Content-Length", content_length);
    case HTTP_FRAMING_CHUNKED:
        return put_field(out, "Transfer-Encoding", STR("chunked"));
    case HTTP_FRAMING_NONE:
    case HTTP_FRAMING_EOF:
        return true;
    }
    return false;
}

static bool put_start_line(const struct forward_request *request, struct buf *out)
{
    return buf_append_str(out, request->head->method) && buf_append(out, " ", 1) &&
           buf_append_str(out, str_c(request->target->path)) &&
           buf_append_str(out, request->target->query) && buf_append_str(out, STR(" HTTP/1.1\r\n"));
}

static bool put_peer(const struct forward_request *request, struct buf *out)
{
    const struct exchange_peer *peer = request->env->peer;
    const struct credentials *device = request->device;

    if (peer->certificate != NULL && peer->certificate->client_cert != NULL &&
        !put_field(out, "Client-Cert", str_c(peer->certificate->client_cert)))
        return false;
    if (device != NULL && !(put_field(out, "X-Device-Id", str_c(device->device)) &&
                            put_field(out, "X-Device-Key", str_c(device->key.id.hex))))
        return false;
    if (request->generation > 0 && !put_number(out, "X-Device-Key-Generation", request->generation))
        return false;
    return request->operator_id == NULL ||
           put_field(out, "X-Operator-Id", str_c(request->operator_id));
}

static bool put_origin(const struct forward_request *request, struct buf *out)
{
    const struct exchange_peer *peer = request->env->peer;
    bool is_ip = peer->port != 0;
    const char *proto = peer->certificate != NULL ? "https" : "http";
    bool is_ip6 = is_ip && strchr(peer->address, ':') != NULL;

    /* RFC 7239, section 6: what is no address is "unknown"; IPv6 goes into brackets, and therefore
     * into quotes. */
    return buf_append_str(out, STR("Forwarded: for=")) &&
           buf_append_str(out, is_ip6 ? STR("\"[") : STR("")) &&
           buf_append_str(out, is_ip ? str_c(peer->address) : STR("unknown")) &&
           buf_append_str(out, is_ip6 ? STR("]\"") : STR("")) &&
           buf_append_str(out, STR(";proto=")) && buf_append_str(out, str_c(proto)) &&
           buf_append(out, "\r\n", 2) &&
           (!is_ip || put_field(out, "X-Forwarded-For", str_c(peer->address))) &&
           put_field(out, "X-Forwarded-Proto", str_c(proto)) &&
           (request->asked_host.len == 0 ||
            put_field(out, "X-Forwarded-Host", request->asked_host));
}

static bool put_trace(const struct forward_request *request, struct buf *out)
{
    static const struct str name = {"tracestate", 10};

    if (!put_field(out, "X-Request-Id", str_c(request->request_id)) ||
        !put_field(out, "traceparent", str_c(request->trace_parent)))
        return false;
    for (size_t i = 0; request->keep_trace_state && i < request->head->n_fields; i++) {
        const struct http_field *field = &request->head->fields[i];
        if (str_eq_nocase(field->name, name) && !put_field(out, "tracestate", field->value))
            return false;
    }
    return true;
}

bool forward_request_head(const struct forward_request *request, struct buf *out)
{
    return put_start_line(request, out) && put_field(out, "Host", request->host) &&
           http_fields_forward(request->head, HTTP_FIELDS_TO_BACKEND, out) &&
           (request->drop_expect || !request->head->expect_continue ||
            put_field(out, "Expect", STR("100-continue"))) &&
           put_peer(request, out) && put_origin(request, out) && put_trace(request, out) &&
           put_framing(out, request->framing, request->content_length) &&
           buf_append(out, "\r\n", 2);
}

static bool put_rotation(struct buf *out, const char *value)
{
    return value == NULL || value[0] == '\0' || put_field(out, "Device-Rotation", str_c(value));
}

static bool put_connection(struct buf *out, bool close, bool keep_alive_1_0)
{
    if (close)
        return put_field(out, "Connection", STR("close"));
    return !keep_alive_1_0 || put_field(out, "Connection", STR("keep-alive"));
}

bool forward_response_head(const struct forward_response *response, struct buf *out)
{
    const struct http_head *head = response->head;

    /* Three digits: 100 to 599. */
    char status[ENCODE_DECIMAL_MAX];
    struct str number = {status, encode_unsigned((uint64_t)head->status, status)};

    return buf_append_str(out, STR("HTTP/1.1 ")) && buf_append_str(out, number) &&
           buf_append(out, " ", 1) && buf_append_str(out, head->phrase) &&
           buf_append(out, "\r\n", 2) && http_fields_forward(head, HTTP_FIELDS_TO_CLIENT, out) &&
           put_framing(out, response->framing, response->content_length) &&
           (!response->with_length ||
            put_number(out, "Content-Length", response->content_length)) &&
           put_rotation(out, response->rotation) &&
           put_connection(out, response->close, response->keep_alive_1_0) &&
           buf_append(out, "\r\n", 2);
}

bool forward_answer_head(const struct forward_answer *answer, struct buf *out)
{
    char date[CLOCK_HTTP_DATE_SIZE];

    clock_format_http_date(clock_wall_ms(), date);
    return buf_printf(out, "HTTP/1.1 %03d %s\r\nDate: %s\r\n", answer->status,
                      forward_phrase(answer->status), date) &&
           (answer->content_type == NULL ||
            put_field(out, "Content-Type", str_c(answer->content_type))) &&
           (answer->status == 204 || put_number(out, "Content-Length", answer->content_length)) &&
           put_field(out, "X-Request-Id", str_c(answer->request_id)) &&
           (answer->retry_after_s == 0 ||
            put_number(out, "Retry-After", (uint64_t)answer->retry_after_s)) &&
           (answer->allow == NULL || put_field(out, "Allow", str_c(answer->allow))) &&
           put_rotation(out, answer->rotation) &&
           put_connection(out, answer->close, answer->keep_alive_1_0) && buf_append(out, "\r\n", 2);
}

const char *forward_phrase(int status)
{
    static const struct {
        int status;
        const char *phrase;
    } phrases[] = {
        {200, "OK"},
        {201, "Created"},
        {204, "No Content"},
        {304, "Not Modified"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {423, "Locked"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(phrases); i++) {
        if (phrases[i].status == status)
            return phrases[i].phrase;
    }
    return "";
}
