/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/reply.h"

#include <hiredis/hiredis.h>

struct str reply_text(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS
               ? (struct str){reply->str, reply->len}
               : (struct str){NULL, 0};
}

const redisReply *reply_element(const redisReply *reply, size_t i)
{
    return reply->type == REDIS_REPLY_ARRAY && i < reply->elements ? reply->element[i] : NULL;
}

bool reply_fields(const redisReply *reply, struct field *out, size_t max, size_t *out_n)
{
    size_t n = 0;

    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY || reply->elements % 2 != 0 ||
        reply->elements / 2 > max)
        return false;
    for (size_t i = 0; i < reply->elements; i += 2, n++) {
        out[n] = (struct field){reply_text(reply->element[i]), reply_text(reply->element[i + 1])};
        if (out[n].name.p == NULL || out[n].value.p == NULL)
            return false;
    }
    *out_n = n;
    return true;
}
