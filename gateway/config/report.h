/* SPDX-License-Identifier: BSD-2-Clause */
/* The errors of a configuration file, as people read them: "file:line:column: path: message".
 *
 * What comes out of the file is escaped and cut: a line is one line. */
#pragma once

#include <stddef.h>

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/config/document.h"

enum {
    REPORT_ERRORS_MAX = 20,
    REPORT_QUOTE_SIZE = 96, /* a quoted piece of the file, NUL included */
    REPORT_PATH_SIZE = 256, /* "listeners[0].address", NUL included */
};

struct report {
    const char *file;          /* borrowed for the parse */
    config_error_fn *on_error; /* told the first REPORT_ERRORS_MAX errors */
    void *arg;
    size_t n_errors; /* all of them */
};

/* Where in the tree something stands: the way from the root, kept on the stack of whoever walks it.
 */
struct place {
    const struct place *parent; /* NULL: the root */
    struct node *node;
    struct str key; /* of a member; p NULL: an item of a list */
    size_t index;   /* of an item */
};

/* `path` may be empty. */
void report_line(struct report *report, const struct node *at, const char *path, const char *format,
                 ...) PRINTF_LIKE(4, 5);

/* An error of `place`, standing at `at`. Marks every node on the way as faulty. */
void report_error(struct report *report, const struct place *place, const struct node *at,
                  const char *format, ...) PRINTF_LIKE(4, 5);

/* Writes "text" with its quotes; escaped, and cut when it is long. */
void report_quote(struct str text, char out[REPORT_QUOTE_SIZE]);
