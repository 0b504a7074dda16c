/* SPDX-License-Identifier: BSD-2-Clause */
/* Redis' replies as pieces of text: nothing that a server says is trusted to have the right
 * shape. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "gateway/store/codec.h"

struct redisReply;

/* A string's or a status' text; NULL inside for anything else. */
struct str reply_text(const struct redisReply *reply);
/* The element; NULL when the reply is no array, or is shorter. */
const struct redisReply *reply_element(const struct redisReply *reply, size_t i);
/* Names and values in turn, as HGETALL and stream entries have them. False when it is anything
 * else, or more than `max` fields. */
bool reply_fields(const struct redisReply *reply, struct field *out, size_t max,
                  size_t *out_n) MUST_CHECK;
