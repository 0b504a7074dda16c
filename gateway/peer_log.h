/* SPDX-License-Identifier: BSD-2-Clause */
/* Lines that somebody else can provoke at will: refused handshakes, malformed requests, connections
 * turned away, refused requests of who was not admitted, failures of backends that requests run into.
 *
 * Of each kind and reason a worker writes log.repeats lines in ten seconds; the rest is counted and
 * becomes one line, "more of the same", when the time is over. Lines of level debug are not
 * limited: whoever switches them on wants them all. */
#pragma once

#include "gateway/base/log.h"
#include "gateway/base/macros.h"
#include "policy/reason.h"

struct worker;

enum peer_log_kind {
    PEER_LOG_CLOSE,   /* "connection closed" */
    PEER_LOG_REQUEST, /* "request" */
    PEER_LOG_BACKEND, /* "backend failed" */
    PEER_LOG_KINDS,
};

/* Embedded in the worker; zeroed at the start. */
struct peer_log {
    struct log_limit limits[PEER_LOG_KINDS][REASON_COUNT];
    bool holds_back; /* something, somewhere */
};

/* The reason's level as the log has it. */
enum log_level peer_log_level(enum reason reason);
/* Should the line be written? */
bool peer_log_pass(struct worker *worker, enum peer_log_kind kind, enum reason reason,
                   enum log_level level) MUST_CHECK;
/* Now and then: writes what was held back before `now_ms`. INT64_MAX: whatever there is. */
void peer_log_tell(struct worker *worker, int64_t now_ms);
