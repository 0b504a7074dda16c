/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/peer_log.h"

#include "gateway/base/clock.h"
#include "gateway/daemon/worker.h"

enum log_level peer_log_level(enum reason reason)
{
    static const enum log_level levels[] = {
        [REASON_LEVEL_DEBUG] = LOG_DEBUG,   [REASON_LEVEL_INFO] = LOG_INFO,
        [REASON_LEVEL_NOTICE] = LOG_NOTICE, [REASON_LEVEL_WARNING] = LOG_WARNING,
        [REASON_LEVEL_ERROR] = LOG_ERROR,
    };
    return levels[reason_level(reason)];
}

bool peer_log_pass(struct worker *worker, enum peer_log_kind kind, enum reason reason,
                   enum log_level level)
{
    struct peer_log *log = &worker->peer_log;

    if (level == LOG_DEBUG || !log_enabled(level))
        return log_enabled(level);
    if (log_limit_pass(&log->limits[kind][reason],
                       worker->generation->snapshot->config->log.repeats, clock_monotonic_ms()))
        return true;
    log->holds_back = true;
    return false;
}

void peer_log_tell(struct worker *worker, int64_t now_ms)
{
    static const char *const lines[] = {
        [PEER_LOG_CLOSE] = "connection closed",
        [PEER_LOG_REQUEST] = "request",
        [PEER_LOG_BACKEND] = "backend failed",
    };
    struct peer_log *log = &worker->peer_log;

    if (!log->holds_back)
        return;
    log->holds_back = false;
    for (int kind = 0; kind < PEER_LOG_KINDS; kind++) {
        for (int reason = 0; reason < REASON_COUNT; reason++) {
            struct log_limit *limit = &log->limits[kind][reason];
            uint64_t more = log_limit_take(limit, now_ms);
            log->holds_back = log->holds_back || limit->more > 0;
            if (more > 0)
                log_write(LOG_WARNING, "more of the same", LOG_STR("line", lines[kind]),
                          LOG_STR("reason", reason_wire((enum reason)reason)),
                          LOG_INT("more", more), LOG_INT("worker", worker->index));
        }
    }
}
