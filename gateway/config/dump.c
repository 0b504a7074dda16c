/* SPDX-License-Identifier: BSD-2-Clause */
/* The configuration as text, along the table of settings. */
#include <stdio.h>
#include <stdlib.h>

#include "gateway/config/config.h"
#include "gateway/config/field.h"
#include "gateway/config/settings.h"

static void dump_rows(FILE *out, const struct setting *map_row, const void *base, int indent);

static void dump_list(FILE *out, const struct setting *row, const void *base, int indent)
{
    size_t n = field_count(row, base);

    (void)fprintf(out, "%s%*s%s:%s\n", indent == 0 ? "\n" : "", indent, "", row->key,
                  n == 0 ? " []" : "");
    for (size_t i = 0; i < n; i++) {
        (void)fprintf(out, "%*s-\n", indent + 2, "");
        dump_rows(out, row, field_item(row, base, i), indent + 4);
    }
}

static void dump_rows(FILE *out, const struct setting *map_row, const void *base, int indent)
{
    for (size_t i = 0; i < map_row->n_rows; i++) {
        const struct setting *row = &map_row->rows[i];
        if (row->type == SETTING_LIST) {
            dump_list(out, row, base, indent);
        } else if (row->type == SETTING_MAP) {
            (void)fprintf(out, "%s%*s%s:\n", indent == 0 ? "\n" : "", indent, "", row->key);
            dump_rows(out, row, base, indent + 2);
        } else {
            (void)fprintf(out, "%*s%s: ", indent, "", row->key);
            field_print(row, base, out);
            (void)fputc('\n', out);
        }
    }
}

char *config_dump(const struct config *config)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (out == NULL)
        abort();
    (void)fprintf(out, "# The effective configuration of %s, defaults included.\n", config->path);
    dump_rows(out, &settings_root, config, 0);
    if (fclose(out) != 0)
        abort();
    return text;
}
