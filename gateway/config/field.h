/* SPDX-License-Identifier: BSD-2-Clause */
/* One setting's field: text into it, out of it, compared. `base` is the struct that holds it: a
 * struct config, or an item of one of its lists. Everything here knows the types of settings.h;
 * nothing else does. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "gateway/config/arena.h"
#include "gateway/config/settings.h"

enum { FIELD_COMPLAINT_SIZE = 512 };

/* What a field's value is made with. */
struct field_maker {
    struct arena *arena; /* where text goes; borrowed for the parse */
    struct str folder;   /* of the configuration file; where relative paths start */
};

/* Reads `text` into the field; of SETTING_ADDRESSES and SETTING_WORDS into the item `index`, which
 * must be there. False with a complaint, and nothing changed, when it is not what the row wants. */
struct field_value {
    struct str text;
    size_t index;
};
bool field_assign(const struct setting *row, const struct field_maker *maker, void *base,
                  struct field_value value, char complaint[FIELD_COMPLAINT_SIZE]) MUST_CHECK;

/* Makes room for n items: SETTING_ADDRESSES, SETTING_WORDS and SETTING_LIST. */
void field_make_items(const struct setting *row, struct arena *arena, void *base, size_t n);
/* Fewer items than there is room for. */
void field_set_count(const struct setting *row, void *base, size_t n);
size_t field_count(const struct setting *row, const void *base);
/* The struct at `index` of a SETTING_LIST. */
void *field_item(const struct setting *row, const void *base, size_t index);

/* The value of one row's field into another's of the same type: a number, a choice or a flag. */
void field_copy(const struct setting *from, const void *from_base, const struct setting *to,
                void *to_base);

/* Writes the value as YAML on one line: "10s", [a, b], null. Neither for SETTING_MAP nor
 * SETTING_LIST. */
void field_print(const struct setting *row, const void *base, FILE *out);

/* Neither for SETTING_MAP nor SETTING_LIST. */
bool field_equal(const struct setting *row, const void *a, const void *b);
