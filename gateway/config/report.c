/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/config/report.h"

#include <stdarg.h>
#include <stdio.h>

#include "gateway/base/mem.h"

static void PRINTF_LIKE(4, 0) report_write(struct report *report, const struct node *at,
                                           const char *path, const char *format, va_list args)
{
    char message[1024];

    if (report->n_errors++ >= REPORT_ERRORS_MAX)
        return;
    (void)vsnprintf(message, sizeof(message), format, args);
    char *line = mem_printf("%s:%zu:%zu: %s%s%s", report->file, at->line, at->column, path,
                            *path != '\0' ? ": " : "", message);
    report->on_error(line, report->arg);
    mem_free(line);
}

void report_line(struct report *report, const struct node *at, const char *path, const char *format,
                 ...)
{
    va_list args;

    va_start(args, format);
    report_write(report, at, path, format, args);
    va_end(args);
}

/* Keys come from the file: only those of the table are sure to be harmless. */
static bool report_is_word(struct str key)
{
    for (size_t i = 0; i < key.len; i++) {
        char c = key.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_' || c == '-'))
            return false;
    }
    return key.len > 0 && key.len <= 40;
}

/* Returns the length so far; `out` stays terminated. */
static size_t report_path(const struct place *place, char out[REPORT_PATH_SIZE])
{
    char quoted[REPORT_QUOTE_SIZE];
    int added;

    if (place == NULL || place->parent == NULL) {
        out[0] = '\0';
        return 0;
    }
    size_t len = report_path(place->parent, out);
    size_t room = REPORT_PATH_SIZE - len;
    if (place->key.p == NULL) {
        added = snprintf(out + len, room, "[%zu]", place->index);
    } else if (report_is_word(place->key)) {
        added = snprintf(out + len, room, "%s%.*s", len > 0 ? "." : "", STR_ARGS(place->key));
    } else {
        report_quote(place->key, quoted);
        added = snprintf(out + len, room, "%s%s", len > 0 ? "." : "", quoted);
    }
    return added > 0 && (size_t)added < room ? len + (size_t)added : REPORT_PATH_SIZE - 1;
}

void report_error(struct report *report, const struct place *place, const struct node *at,
                  const char *format, ...)
{
    char path[REPORT_PATH_SIZE];
    va_list args;

    for (const struct place *up = place; up != NULL; up = up->parent) {
        if (up->node != NULL)
            up->node->faulty = true;
    }
    (void)report_path(place, path);
    va_start(args, format);
    report_write(report, at, path, format, args);
    va_end(args);
}

void report_quote(struct str text, char out[REPORT_QUOTE_SIZE])
{
    size_t len = 0, i;

    out[len++] = '"';
    /* The longest step is "\xff", and behind it come three dots, the quote and the NUL. */
    for (i = 0; i < text.len && len < REPORT_QUOTE_SIZE - 9; i++) {
        unsigned char c = (unsigned char)text.p[i];
        if (c == '"' || c == '\\') {
            out[len++] = '\\';
            out[len++] = (char)c;
        } else if (c < 0x20 || c >= 0x7f) {
            (void)snprintf(out + len, 5, "\\x%02x", c);
            len += 4;
        } else {
            out[len++] = (char)c;
        }
    }
    for (int dots = 0; i < text.len && dots < 3; dots++)
        out[len++] = '.';
    out[len++] = '"';
    out[len] = '\0';
}
