/* SPDX-License-Identifier: BSD-2-Clause */
/* The small languages inside the settings: durations, sizes, addresses, names, paths.
 *
 * Functions that return `const char *` say NULL when the text is fine, and otherwise what is wrong
 * with it: a static piece of a sentence that fits behind the quoted text ("has no port"). Nothing
 * here allocates; pieces borrow from the input. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"

enum {
    VALUE_TEXT_SIZE = 32,        /* a formatted number, NUL included */
    VALUE_SOCKET_PATH_MAX = 107, /* sockaddr_un has no more */
};

/* "250ms", "10s", "5m", "12h", "7d", "0". False for anything else and beyond int64_t. */
bool value_parse_duration(struct str text, int64_t *out_ms) MUST_CHECK;
/* With the largest unit that leaves a whole number; value_parse_duration() reads it back. */
void value_format_duration(int64_t ms, char out[VALUE_TEXT_SIZE]);

/* "64KiB", "1MiB", "1GiB", "4096". */
bool value_parse_size(struct str text, uint64_t *out_bytes) MUST_CHECK;
void value_format_size(uint64_t bytes, char out[VALUE_TEXT_SIZE]);

struct value_address {
    bool is_unix;
    struct str host; /* a name, an IPv4 address, an IPv6 address without its brackets; or the
                        socket's path */
    uint16_t port;
};

/* "host:port", "[::]:port" or "unix:path". */
const char *value_parse_address(struct str text, struct value_address *out) MUST_CHECK;

struct value_redis {
    struct value_address address;
    bool tls;
    uint32_t database;
};

/* "redis://host[:port][/db]", "rediss://…" or "unix:path". */
const char *value_parse_redis(struct str text, struct value_redis *out) MUST_CHECK;

/* Not empty, no control characters, nor others that break lines: every string of the file must be
 * like that. */
const char *value_check_text(struct str text) MUST_CHECK;
/* At most LABEL_MAX printable ASCII characters, none of which needs escaping in logs and metrics.
 */
const char *value_check_name(struct str text) MUST_CHECK;
/* First part of the store's keys: [A-Za-z0-9._-]{1,32}. */
const char *value_check_prefix(struct str text) MUST_CHECK;
/* A host without a port: name, IPv4 or [IPv6]. */
const char *value_check_host(struct str text) MUST_CHECK;
/* The value of a Host field: a host, perhaps with a port. */
const char *value_check_authority(struct str text) MUST_CHECK;
/* "1.2" or "1.3". */
const char *value_check_tls_version(struct str text) MUST_CHECK;
/* A request method that a route may name. */
const char *value_check_method(struct str text) MUST_CHECK;
/* A normalised path as http_target_parse() would leave it; `{device}` may stand once, as a whole
 * segment. */
const char *value_check_path(struct str text) MUST_CHECK;
/* The same without `{device}`, and without a slash at the end unless it is "/". */
const char *value_check_path_prefix(struct str text) MUST_CHECK;

/* Does a path (that value_check_path() accepts) have the segment `{device}`? */
bool value_path_names_device(const char *path);

/* How many letters must be changed, added, left out or swapped to get from one word to the other.
 * Words beyond 32 letters are as far as can be. */
size_t value_distance(struct str a, struct str b);

/* "200" or "200-299". */
struct value_statuses {
    int from;
    int to;
};
bool value_parse_statuses(struct str text, struct value_statuses *out) MUST_CHECK;
const char *value_check_statuses(struct str text);
/* A request's target in origin form: "/health?deep=1". */
const char *value_check_target(struct str text);
