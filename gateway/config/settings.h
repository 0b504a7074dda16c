/* SPDX-License-Identifier: BSD-2-Clause */
/* The table of settings: one row a setting. Parsing, defaults, the dump, the comparison at a reload
 * and the error messages all walk it, so that a new setting is a field in config.h, a row in
 * settings.c and a line in conf/gateway.yaml. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/str.h"

enum setting_type {
    SETTING_STRING, /* const char *; `check` knows its form */
    SETTING_FILE, /* const char *; a relative one is taken from the folder of the configuration file
                   */
    SETTING_PROGRAM,   /* const char *; the same, but without any slash it is looked for in PATH */
    SETTING_REDIS,     /* const char *; a server's URL */
    SETTING_BOOL,      /* bool */
    SETTING_COUNT,     /* size_t */
    SETTING_COUNT32,   /* uint32_t */
    SETTING_COUNT64,   /* uint64_t */
    SETTING_SIZE,      /* size_t, bytes */
    SETTING_DURATION,  /* int64_t, milliseconds */
    SETTING_CHOICE,    /* an enum, named by one of `choices` */
    SETTING_ADDRESS,   /* struct config_address */
    SETTING_ADDRESSES, /* struct config_address *, and their number */
    SETTING_WORDS,     /* const char **, and their number; `check` knows a word's form */
    SETTING_MAP,       /* more rows, whose fields are in the same struct */
    SETTING_LIST,      /* array of structs, and their number; the rows are an item's */
};

struct setting_choice {
    const char *word; /* NULL ends the list */
    int value;
};

struct setting {
    const char *key;
    const char *help; /* what it is, as a phrase that fits into brackets */
    enum setting_type type;
    size_t offset;
    size_t count_offset;  /* lists: where their number is */
    const char *fallback; /* the default as the file would write it; NULL: none */
    bool required;
    uint64_t min; /* numbers, both inclusive; lists: no range */
    uint64_t max;
    const char *(*check)(struct str text); /* NULL: any text */
    const struct setting_choice *choices;
    const struct setting *rows; /* maps and lists */
    size_t n_rows;
    size_t item_size;     /* lists */
    const char *obstacle; /* NULL: a reload may change it; otherwise why not */
};

/* The whole file. Offsets are those of struct config; inside a list, of the item. */
extern const struct setting settings_root;

/* The row of that key; NULL when there is none. */
const struct setting *settings_find(const struct setting *parent, struct str key);
/* The key nearest to a misspelt one; NULL when none is near. */
const char *settings_suggest(const struct setting *parent, struct str key);
