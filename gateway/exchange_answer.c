/* SPDX-License-Identifier: BSD-2-Clause */
/* Answers of our own: refusals, and what services say. */
#include "gateway/exchange_private.h"

#include <stdlib.h>

#include "gateway/forward.h"
#include "gateway/http/problem.h"

void exchange_break(struct exchange *ex, enum reason reason)
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
    answer->rotation = ex->env->peer->rotation;
    answer->request_id = ex->request_id;
    ex->status = answer->status;
    if (!forward_answer_head(answer, ex->env->out))
        exchange_break(ex, REASON_INTERNAL);
    else
        exchange_put_body(ex, exchange_is_head(ex) ? STR("") : body);
}

/* `allow`: the methods of a 405, "" for anything else. */
static void exchange_put_refusal(struct exchange *ex, enum reason reason, const char *detail,
                                 const char *allow)
{
    char problem[PROBLEM_MAX];
    uint32_t random;

    upstream_abort(&ex->upstream);
    if (ex->response != RESPONSE_PENDING) {
        exchange_break(ex, reason);
        return;
    }
    ex->reason = reason;
    worker_random(ex->env->worker, &random, sizeof(random));
    size_t len = problem_format(reason, detail, ex->request_id, problem);
    exchange_put_answer(ex,
                        &(struct forward_answer){
                            .status = reason_status(reason),
                            .content_type = "application/problem+json",
                            .retry_after_s = problem_retry_after(reason, random),
                            .allow = allow[0] != '\0' ? allow : NULL,
                        },
                        (struct str){problem, len});
}

void exchange_refuse(struct exchange *ex, enum reason reason, const char *detail)
{
    char allow[128] = "";

    if (reason == REASON_METHOD_NOT_ALLOWED && ex->asked.listener != NULL)
        route_allowed_methods(ex->env->generation->snapshot->routes, &ex->asked, allow,
                              sizeof(allow));
    exchange_put_refusal(ex, reason, detail, allow);
}

void exchange_refuse_method(struct exchange *ex, const char *allow)
{
    exchange_put_refusal(ex, REASON_METHOD_NOT_ALLOWED, NULL, allow);
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

bool exchange_pump_answer(struct exchange *ex)
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
