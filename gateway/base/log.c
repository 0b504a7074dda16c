/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/base/log.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/base/mem.h"

static enum log_format log_chosen_format = LOG_JSON;
static atomic_int log_lowest_level = LOG_INFO;

/* Written once, by log_configure(). */
static int log_fd = STDERR_FILENO;
static bool log_fd_is_socket;

static atomic_uint_least64_t log_lost_lines;
static atomic_uint_least64_t log_lost_unsaid; /* of them: the log has not said it yet */
static atomic_bool log_line_is_torn;          /* the last one got through in part only */

/* Lines that wait. */
struct log_batch {
    void (*on_waiting)(void *arg);
    void *arg;
    uint64_t lines;
    size_t len;
    char text[PIPE_BUF];
};
static _Thread_local struct log_batch *log_batch; /* owned by its thread; NULL: no line waits */

/* Room that is always kept free, so that a line which was cut can still be closed. */
enum { LINE_RESERVE = 64 };

struct line {
    char *out;
    size_t len;
    size_t limit;
    bool cut;
};

/* O_NONBLOCK belongs to the open file, which others may share (a shell's terminal); so we open it
 * once more. Sockets cannot be opened, but need it neither. Files never wait. */
static void log_open(void)
{
    struct stat status;

    if (fstat(STDERR_FILENO, &status) != 0)
        return;
    log_fd_is_socket = S_ISSOCK(status.st_mode);
    if (!S_ISFIFO(status.st_mode) && !S_ISCHR(status.st_mode))
        return;
    int fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_APPEND | O_CLOEXEC | O_NOCTTY);
    if (fd >= 0)
        log_fd = fd;
}

void log_configure(enum log_format format, enum log_level level)
{
    log_chosen_format = format;
    log_set_level(level);
    if (log_fd == STDERR_FILENO)
        log_open();
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&log_lowest_level, (int)level, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&log_lowest_level, memory_order_relaxed);
}

/* There is room for it. */
static inline void line_add(struct line *line, const char *text, size_t len)
{
    memcpy(line->out + line->len, text, len);
    line->len += len;
}

static void line_put(struct line *line, const char *text, size_t len)
{
    if (line->cut || len > line->limit - line->len)
        line->cut = true;
    else
        line_add(line, text, len);
}

static void line_puts(struct line *line, const char *text)
{
    line_put(line, text, strlen(text));
}

/* Length of the well-formed UTF-8 sequence at `p`, 0 when there is none (RFC 3629, section 4). */
static size_t utf8_sequence(const unsigned char *p, size_t len)
{
    size_t n = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;

    if (n == 0 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

/* Of eight bytes at once, a bit in each that does not stand for itself between quotes. A byte of `x`
 * that is 0 borrows from its top bit in (x - ones) & ~x; what it may spoil lies above it, so only
 * the lowest bit that is set is sure. */
static uint64_t line_odd_bytes(const char *p)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    uint64_t word;

    memcpy(&word, p, sizeof(word));
    word = le64toh(word);
    uint64_t quote = word ^ ones * '"', backslash = word ^ ones * '\\', del = word ^ ones * 0x7f;
    uint64_t odd = ((word - ones * ' ') & ~word) | ((quote - ones) & ~quote) |
                   ((backslash - ones) & ~backslash) | ((del - ones) & ~del) | word;
    return odd & tops;
}

/* How many bytes at the beginning stand for themselves between quotes. */
static size_t line_plain_run(struct str s)
{
    size_t n = 0;

    for (; s.len - n >= sizeof(uint64_t); n += sizeof(uint64_t)) {
        uint64_t odd = line_odd_bytes(s.p + n);
        if (odd != 0)
            return n + (size_t)__builtin_ctzll(odd) / 8;
    }
    /* The last eight once more, rather than each of the rest. */
    if (n > 0 && line_odd_bytes(s.p + s.len - sizeof(uint64_t)) == 0)
        return s.len;
    while (n < s.len && s.p[n] >= ' ' && s.p[n] < '\x7f' && s.p[n] != '"' && s.p[n] != '\\')
        n++;
    return n;
}

/* As much of the run as fits: such text may be cut anywhere. */
static void line_put_run(struct line *line, const char *text, size_t len)
{
    size_t room = line->limit - line->len;

    line_put(line, text, len < room || line->cut ? len : room);
    line->cut = line->cut || len > room;
}

/* JSON's escapes serve logfmt as well. Bytes that are not UTF-8 become \u00xx. */
static void line_escape(struct line *line, struct str s)
{
    for (size_t i = 0; i < s.len;) {
        size_t n = line_plain_run((struct str){s.p + i, s.len - i});
        char escaped[8];

        if (n > 0) {
            line_put_run(line, s.p + i, n);
            i += n;
            continue;
        }
        unsigned char c = (unsigned char)s.p[i];
        n = utf8_sequence((const unsigned char *)s.p + i, s.len - i);

        if (c == '"' || c == '\\') {
            (void)snprintf(escaped, sizeof(escaped), "\\%c", c);
            line_puts(line, escaped);
            n = 1;
        } else if (n == 0) {
            (void)snprintf(escaped, sizeof(escaped), "\\u%04x", c);
            line_puts(line, escaped);
            n = 1;
        } else {
            line_put(line, s.p + i, n);
        }
        i += n;
    }
}

/* Between quotes. */
static void line_quote(struct line *line, struct str s)
{
    line_puts(line, "\"");
    if (s.len <= line->limit - line->len && line_plain_run(s) == s.len)
        line_add(line, s.p, s.len);
    else
        line_escape(line, s);
    /* Also when the text was cut: the line stays well-formed. */
    line->out[line->len++] = '"';
}

static bool logfmt_is_plain(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.p[i];
        if (c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\')
            return false;
    }
    return s.len > 0;
}

/* There is room for it. */
static void line_name(struct line *line, enum log_format format, const struct log_field *field)
{
    if (format == LOG_JSON) {
        if (line->len > 1)
            line_add(line, ",", 1);
        line_add(line, "\"", 1);
        line_add(line, field->name, field->name_len);
        line_add(line, "\":", 2);
    } else {
        if (line->len > 0)
            line_add(line, " ", 1);
        line_add(line, field->name, field->name_len);
        line_add(line, "=", 1);
    }
}

static void line_field(struct line *line, enum log_format format, const struct log_field *field)
{
    char number[24];

    if (field->name == NULL || (field->type == LOG_FIELD_STR && field->str.len == 0))
        return;
    /* A field that does not fit with its name and an empty value is left out whole. */
    if (line->cut || field->name_len + sizeof(number) + 8 > line->limit - line->len) {
        line->cut = true;
        return;
    }
    line_name(line, format, field);
    switch (field->type) {
    case LOG_FIELD_STR:
        if (format == LOG_LOGFMT && logfmt_is_plain(field->str) &&
            field->str.len < line->limit - line->len)
            line_add(line, field->str.p, field->str.len);
        else
            line_quote(line, field->str);
        break;
    case LOG_FIELD_INT:
        line_put(line, number, encode_decimal(field->number, number));
        break;
    case LOG_FIELD_BOOL:
        line_puts(line, field->number ? "true" : "false");
        break;
    }
}

size_t log_format_line(enum log_format format, enum log_level level, int64_t wall_ms,
                       const char *message, const struct log_field *fields, size_t n_fields,
                       char *out, size_t size)
{
    static const char *const levels[] = {"debug", "info", "notice", "warning", "error"};
    struct line line = {.out = out, .limit = size - LINE_RESERVE};
    char time[CLOCK_RFC3339_SIZE];

    clock_format_rfc3339(wall_ms, time);
    if (format == LOG_JSON)
        line_puts(&line, "{");
    line_field(&line, format, &LOG_STR("time", time));
    line_field(&line, format, &LOG_STR("level", levels[level]));
    line_field(&line, format, &LOG_STR("msg", message));
    for (size_t i = 0; i < n_fields; i++)
        line_field(&line, format, &fields[i]);
    if (line.cut) {
        line.cut = false;
        line.limit = size;
        line_field(&line, format, &LOG_BOOL("cut", true));
    }
    if (format == LOG_JSON)
        out[line.len++] = '}';
    out[line.len] = '\0';
    return line.len;
}

/* --- writing ---------------------------------------------------------------------------------- */

static ssize_t log_put(const char *data, size_t len)
{
    ssize_t n;

    do {
        n = log_fd_is_socket ? send(log_fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL)
                             : write(log_fd, data, len);
    } while (n < 0 && errno == EINTR);
    return n;
}

/* Whole lines, newline included. False when they did not get through whole. */
static bool log_put_lines(const char *data, size_t len)
{
    /* Half a line is ended, so that it spoils no other. */
    if (atomic_load_explicit(&log_line_is_torn, memory_order_relaxed) &&
        atomic_exchange_explicit(&log_line_is_torn, false, memory_order_relaxed) &&
        log_put("\n", 1) != 1) {
        atomic_store_explicit(&log_line_is_torn, true, memory_order_relaxed);
        return false;
    }
    ssize_t n = log_put(data, len);
    if (n > 0 && (size_t)n < len)
        atomic_store_explicit(&log_line_is_torn, true, memory_order_relaxed);
    return n == (ssize_t)len;
}

static void log_say_lost(void)
{
    char line[512];
    uint64_t lines = atomic_exchange_explicit(&log_lost_unsaid, 0, memory_order_relaxed);

    if (lines == 0)
        return;
    size_t len =
        log_format_line(log_chosen_format, LOG_WARNING, clock_wall_ms(), "log lines were lost",
                        &LOG_INT("lines", lines), 1, line, sizeof(line) - 1);
    line[len++] = '\n';
    if (!log_put_lines(line, len))
        (void)atomic_fetch_add_explicit(&log_lost_unsaid, lines, memory_order_relaxed);
}

/* Whole lines, so many of them. */
static void log_send(const char *data, size_t len, uint64_t lines)
{
    if (!log_put_lines(data, len)) {
        (void)atomic_fetch_add_explicit(&log_lost_lines, lines, memory_order_relaxed);
        (void)atomic_fetch_add_explicit(&log_lost_unsaid, lines, memory_order_relaxed);
    } else if (atomic_load_explicit(&log_lost_unsaid, memory_order_relaxed) > 0) {
        log_say_lost();
    }
}

/* With its newline; returns the length. */
static size_t log_build(enum log_level level, const char *message, const struct log_field *fields,
                        size_t n_fields, char line[LOG_LINE_MAX])
{
    size_t len = log_format_line(log_chosen_format, level, clock_wall_ms(), message, fields,
                                 n_fields, line, LOG_LINE_MAX - 1);

    line[len++] = '\n';
    return len;
}

void log_write_fields(enum log_level level, const char *message, const struct log_field *fields,
                      size_t n_fields)
{
    char line[LOG_LINE_MAX];
    size_t len = log_build(level, message, fields, n_fields, line);

    log_batch_flush();
    log_send(line, len, 1);
}

/* --- batches ---------------------------------------------------------------------------------- */

void log_batch_begin(void (*on_waiting)(void *arg), void *arg)
{
    log_batch = mem_new(struct log_batch);
    log_batch->on_waiting = on_waiting;
    log_batch->arg = arg;
}

void log_batch_flush(void)
{
    if (log_batch == NULL || log_batch->len == 0)
        return;
    log_send(log_batch->text, log_batch->len, log_batch->lines);
    log_batch->len = 0;
    log_batch->lines = 0;
}

void log_batch_end(void)
{
    log_batch_flush();
    mem_free(log_batch);
    log_batch = NULL;
}

void log_write_fields_later(enum log_level level, const char *message,
                            const struct log_field *fields, size_t n_fields)
{
    char line[LOG_LINE_MAX];
    size_t len = log_build(level, message, fields, n_fields, line);
    struct log_batch *batch = log_batch;

    if (batch == NULL || len > sizeof(batch->text) - batch->len)
        log_batch_flush();
    if (batch == NULL || len > sizeof(batch->text)) {
        log_send(line, len, 1);
        return;
    }
    memcpy(batch->text + batch->len, line, len);
    batch->len += len;
    if (batch->lines++ == 0)
        batch->on_waiting(batch->arg);
}

uint64_t log_lost(void)
{
    return atomic_load_explicit(&log_lost_lines, memory_order_relaxed);
}

/* --- limits ----------------------------------------------------------------------------------- */

bool log_limit_pass(struct log_limit *limit, uint64_t max, int64_t now_ms)
{
    /* A window whose rest was not told yet goes on until it was. */
    if (now_ms >= limit->until_ms && limit->more == 0) {
        limit->until_ms = now_ms + LOG_LIMIT_WINDOW_MS;
        limit->lines = 0;
    }
    if (limit->lines < max) {
        limit->lines++;
        return true;
    }
    limit->more++;
    return false;
}

uint64_t log_limit_take(struct log_limit *limit, int64_t now_ms)
{
    uint64_t more = limit->more;

    if (now_ms < limit->until_ms)
        return 0;
    limit->more = 0;
    return more;
}
