/* SPDX-License-Identifier: BSD-2-Clause */
/* Records, denials and events as the fields of Redis hashes and stream entries.
 *
 * Written: numbers in decimal, PEM text raw, flags "0" or "1", leases "token:expiry" joined by
 * spaces; what is empty is left out. Read strictly: fields that are missing or malformed make the
 * whole unreadable, but unknown ones are passed over, so that a newer gateway may add some. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "gateway/store/command.h"
#include "policy/decision.h"

struct field {
    struct str name;
    struct str value;
};

/* More than this in one hash is nothing that a gateway wrote. */
enum { CODEC_FIELDS_MAX = 64 };

/* Values as text that borrow nothing: one for each writer's call, living as long as the command. */
struct codec_scratch {
    char leases[WRITE_LEASES_MAX * (LEASE_TOKEN_LEN + 22) + 1];
    char time[32];
};

/* Each adds a list as the commit script takes it: the number of elements, then names and values.
 * `record`, `denial` and `event` must live until the command is written, and so must `scratch` and
 * `data`. */
void codec_add_record(const struct device_record *record, struct codec_scratch *scratch,
                      struct command *to);
void codec_add_denial(const struct denial *denial, struct command *to);
/* `data`: event_json() of the same event. */
void codec_add_event(const struct device_event *event, const char *data,
                     struct codec_scratch *scratch, struct command *to);

/* Writes *out completely (it is large), or not at all. On failure *out_wrong is the name of the
 * field that is missing or malformed: a literal. */
bool codec_read_record(const struct field *fields, size_t n_fields, struct device_record *out,
                       const char **out_wrong) MUST_CHECK;
/* Kind and id are the key's, not the hash's: the caller fills them in. */
bool codec_read_denial(const struct field *fields, size_t n_fields, struct denial *out,
                       const char **out_wrong) MUST_CHECK;

/* The value of the last field with this name; NULL inside when there is none. */
struct str codec_find(const struct field *fields, size_t n_fields, const char *name);

/* "now", "drain", "decide"; NULL for CUT_NONE. */
const char *cut_mode_wire(enum cut_mode mode);
