/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy/reason.h"

#include <stddef.h>

struct reason_row {
    const char *wire;
    int status;
    enum reason_level level;
    const char *text;
};

static const struct reason_row reason_rows[REASON_COUNT] = {
#define REASON_ROW(name, wire, status, level, text)                                                \
    [REASON_##name] = {wire, status, REASON_LEVEL_##level, text},
    REASON_TABLE(REASON_ROW)
#undef REASON_ROW
};

static const struct reason_row *reason_row(enum reason reason)
{
    size_t i = (size_t)reason;

    return &reason_rows[i < REASON_COUNT ? i : REASON_UNDECIDED];
}

const char *reason_wire(enum reason reason)
{
    return reason_row(reason)->wire;
}

const char *reason_text(enum reason reason)
{
    return reason_row(reason)->text;
}

int reason_status(enum reason reason)
{
    return reason_row(reason)->status;
}

enum reason_level reason_level(enum reason reason)
{
    return reason_row(reason)->level;
}
