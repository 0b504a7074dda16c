/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/operator/query.h"

#include <time.h>

#include "gateway/base/clock.h"

struct str query_value(const struct exchange *ex, struct str name)
{
    struct str rest = exchange_target(ex)->query, pair;

    if (rest.len > 0)
        rest = (struct str){rest.p + 1, rest.len - 1};
    while (rest.len > 0 && str_split(&rest, '&', &pair)) {
        if (pair.len > name.len && str_starts(pair, name) && pair.p[name.len] == '=')
            return (struct str){pair.p + name.len + 1, pair.len - name.len - 1};
    }
    return (struct str){"", 0};
}

bool query_parse_time(const char *text, int64_t *out_ms)
{
    struct tm tm = {0};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm);

    if (end == NULL || *end != '\0')
        return false;
    *out_ms = (int64_t)timegm(&tm) * 1000;
    return *out_ms > 0;
}

json_t *query_json_time(int64_t wall_ms)
{
    char text[CLOCK_RFC3339_SIZE];

    if (wall_ms == 0)
        return json_null();
    clock_format_rfc3339(wall_ms, text);
    return json_string(text);
}
