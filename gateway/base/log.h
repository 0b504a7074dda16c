/* SPDX-License-Identifier: BSD-2-Clause */
/* The log: one line an event, JSON or logfmt, on stderr.
 *
 *     log_write(LOG_WARNING, "cannot connect to Redis", LOG_STR("server", where),
 * LOG_INT("retry_ms", delay));
 *
 * gives {"time":"2026-11-22T22:30:00.123Z","level":"warning","msg":"cannot connect to
 * Redis","server":"…","retry_ms":250}. A line leaves whole in one write(2), so lines of several
 * threads do not mix; what does not fit into LOG_LINE_MAX is cut and marked. Text is escaped: a peer
 * can put nothing into a log but its own value. Names are string literals.
 *
 * log_write() writes at once. log_write_later() is for the many lines that nobody misses when the
 * process dies within a moment (the access log): see log_batch_begin().
 *
 * Writing never waits and never fails its caller: what stderr does not take at once (a full pipe
 * that nobody reads, a full disk) is lost, counted, and said as soon as lines get through again.
 *
 * What a stranger can provoke at will goes through a `struct log_limit` of its kind first. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"

enum { LOG_LINE_MAX = 8192 };

enum log_level {
    LOG_DEBUG,
    LOG_INFO,
    LOG_NOTICE,
    LOG_WARNING,
    LOG_ERROR,
};

enum log_format {
    LOG_JSON,
    LOG_LOGFMT,
};

enum log_field_type {
    LOG_FIELD_STR,
    LOG_FIELD_INT,
    LOG_FIELD_BOOL,
};

struct log_field {
    const char *name; /* literal; NULL: the field is left out */
    size_t name_len;
    enum log_field_type type;
    struct str str; /* borrowed for the call; an empty one is left out of the line */
    int64_t number;
};

#define LOG_FIELD_(name_, ...)                                                                     \
    ((struct log_field){.name = "" name_, .name_len = sizeof(name_) - 1, __VA_ARGS__})
#define LOG_STR(name_, text)   LOG_SLICE(name_, str_c(text))
#define LOG_SLICE(name_, s)    LOG_FIELD_(name_, .type = LOG_FIELD_STR, .str = (s))
#define LOG_INT(name_, value)  LOG_FIELD_(name_, .type = LOG_FIELD_INT, .number = (int64_t)(value))
#define LOG_BOOL(name_, value) LOG_FIELD_(name_, .type = LOG_FIELD_BOOL, .number = (value))

/* Set once at the start, before there are threads; the level may change later. From then on a pipe
 * or terminal on stderr is written without waiting, through a descriptor of our own: others who
 * share it notice nothing. */
void log_configure(enum log_format format, enum log_level level);
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);

#define log_write(level, message, ...)                                                             \
    do {                                                                                           \
        if (log_enabled(level)) {                                                                  \
            const struct log_field log_fields_[] = {{.name = NULL}, ##__VA_ARGS__};                \
            log_write_fields(level, message, log_fields_, ARRAY_SIZE(log_fields_));                \
        }                                                                                          \
    } while (0)

/* Like log_write(), but in a thread with a batch the line may wait in it. Nothing that somebody must
 * be able to prove afterwards - transitions, operators' actions, failures - may be written so. */
#define log_write_later(level, message, ...)                                                       \
    do {                                                                                           \
        if (log_enabled(level)) {                                                                  \
            const struct log_field log_fields_[] = {{.name = NULL}, ##__VA_ARGS__};                \
            log_write_fields_later(level, message, log_fields_, ARRAY_SIZE(log_fields_));          \
        }                                                                                          \
    } while (0)

void log_write_fields(enum log_level level, const char *message, const struct log_field *fields,
                      size_t n_fields);
void log_write_fields_later(enum log_level level, const char *message,
                            const struct log_field *fields, size_t n_fields);

/* From now on the calling thread's log_write_later() gathers lines and writes many at once. The
 * batch leaves with log_batch_flush(), when it is full (as much as a pipe takes whole, PIPE_BUF), and
 * before any log_write() of the thread, so that its lines stay in order.
 *
 * `on_waiting` runs from inside log_write_later() when a line has begun to wait: the owner lets
 * log_batch_flush() follow within a moment. A crash (or kill -9) loses what waits: the lines of that
 * moment, never others. Ends with log_batch_end(), which flushes, on the same thread. */
void log_batch_begin(void (*on_waiting)(void *arg), void *arg);
void log_batch_flush(void);
void log_batch_end(void);

/* How many lines stderr did not take, ever. */
uint64_t log_lost(void);

/* A few lines of one kind in each window of LOG_LIMIT_WINDOW_MS; what comes beyond is counted.
 * Zeroed at the start; belongs to one thread. The owner asks log_limit_take() now and then and
 * writes one line about what was held back. */
enum { LOG_LIMIT_WINDOW_MS = 10000 };

struct log_limit {
    int64_t until_ms; /* monotonic: the window's end */
    uint64_t lines;   /* written in it */
    uint64_t more;    /* and held back */
};

/* May another line be written, when a window has `max`? If not, it is counted. */
bool log_limit_pass(struct log_limit *limit, uint64_t max, int64_t now_ms) MUST_CHECK;
/* How many were held back in a window that is over; 0 while it is not. Forgets them. */
uint64_t log_limit_take(struct log_limit *limit, int64_t now_ms) MUST_CHECK;

/* The line without the final newline, as log_write_fields() would print it; returns its length (<
 * size). For tests. */
size_t log_format_line(enum log_format format, enum log_level level, int64_t wall_ms,
                       const char *message, const struct log_field *fields, size_t n_fields,
                       char *out, size_t size);
