/* SPDX-License-Identifier: BSD-2-Clause */
/* The log: one line an event, JSON or logfmt, on stderr.
 *
 *     log_write(LOG_WARNING, "cannot connect to Redis", LOG_STR("server", where),
 * LOG_INT("retry_ms", delay));
 *
 * gives {"time":"2026-11-22T22:30:00.123Z","level":"warning","msg":"cannot connect to
 * Redis","server":"…","retry_ms":250}. A line is built on the stack and leaves in one write(2), so
 * lines of several threads do not mix; what does not fit into LOG_LINE_MAX is cut and marked. Text
 * is escaped: a peer can put nothing into a log but its own value. Names are string literals.
 * Writing never blocks the caller for long and never fails it. */
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
    enum log_field_type type;
    struct str str; /* borrowed for the call; an empty one is left out of the line */
    int64_t number;
};

#define LOG_STR(name_, text)                                                                       \
    ((struct log_field){.name = (name_), .type = LOG_FIELD_STR, .str = str_c(text)})
#define LOG_SLICE(name_, s) ((struct log_field){.name = (name_), .type = LOG_FIELD_STR, .str = (s)})
#define LOG_INT(name_, value)                                                                      \
    ((struct log_field){.name = (name_), .type = LOG_FIELD_INT, .number = (int64_t)(value)})
#define LOG_BOOL(name_, value)                                                                     \
    ((struct log_field){.name = (name_), .type = LOG_FIELD_BOOL, .number = (value)})

/* Set once at the start, before there are threads; the level may change later. */
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

void log_write_fields(enum log_level level, const char *message, const struct log_field *fields,
                      size_t n_fields);

/* The line without the final newline, as log_write_fields() would print it; returns its length (<
 * size). For tests. */
size_t log_format_line(enum log_format format, enum log_level level, int64_t wall_ms,
                       const char *message, const struct log_field *fields, size_t n_fields,
                       char *out, size_t size);
