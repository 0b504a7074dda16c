/* SPDX-License-Identifier: BSD-2-Clause */
/* The rules that more than one setting is needed for. */
#pragma once

#include "gateway/config/config.h"
#include "gateway/config/document.h"
#include "gateway/config/report.h"

struct checker {
    const struct config *config;
    const struct node *root; /* what `config` was made from: where errors point to */
    struct report *report;
};

/* Which setting an error speaks of. */
struct check_spot {
    const char *section; /* "store", "rotation.key_age"; NULL: the root */
    size_t index;        /* of a list's item, otherwise CHECK_NO_INDEX */
    const char *key;     /* NULL: the section or item itself */
};
#define CHECK_NO_INDEX SIZE_MAX

/* Reports everything that does not fit together. What stands in a part of the file that was already
 * faulty is left out: its value is not what its writer meant. */
void check_config(struct checker *checker);

/* For the parts of it: routes have a file of their own. */
void check_routes(struct checker *checker);
void check_error(struct checker *checker, struct check_spot spot, const char *format, ...)
    PRINTF_LIKE(3, 4);
/* Was an error reported in this section, or in this item of it, while it was read? */
bool check_is_faulty(const struct checker *checker, const char *section, size_t index);
