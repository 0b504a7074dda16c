/* SPDX-License-Identifier: BSD-2-Clause */
/* What the operator's handlers share: values of the query, and times. */
#pragma once

#include <jansson.h>

#include "gateway/exchange.h"

/* The value of ?name=…, undecoded: what operators look up needs no escapes. Empty: not there. */
struct str query_value(const struct exchange *exchange, struct str name);

/* "2026-11-22T22:30:00Z": whole seconds, UTC. */
bool query_parse_time(const char *text, int64_t *out_ms);

/* RFC 3339, or null for 0. */
json_t *query_json_time(int64_t wall_ms);
