/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/http/problem.h"

#include <stdio.h>

enum {
    PROBLEM_DETAIL_MAX = 512,
    LOCKED_RETRY_S = 5,
    OVERLOAD_RETRY_S = 5,
};

/* As the inside of a JSON string, ASCII only; stops before it would exceed `size`. */
static void problem_escape(const char *text, char *out, size_t size)
{
    size_t len = 0;

    for (const unsigned char *p = (const unsigned char *)text; *p != '\0' && len + 7 < size; p++) {
        if (*p == '"' || *p == '\\') {
            out[len++] = '\\';
            out[len++] = (char)*p;
        } else if (*p < 0x20 || *p >= 0x7f) {
            len += (size_t)snprintf(out + len, size - len, "\\u%04x", *p);
        } else {
            out[len++] = (char)*p;
        }
    }
    out[len] = '\0';
}

size_t problem_format(enum reason reason, const char *detail, const char *request_id,
                      char out[PROBLEM_MAX])
{
    const char *wire = reason_wire(reason);
    char title[PROBLEM_DETAIL_MAX], escaped[PROBLEM_DETAIL_MAX] = "";

    problem_escape(reason_text(reason), title, sizeof(title));
    if (detail != NULL)
        problem_escape(detail, escaped, sizeof(escaped));
    int len =
        snprintf(out, PROBLEM_MAX,
                 "{\"type\":\"urn:device-gateway:reason:%s\",\"title\":\"%s\",\"status\":%d,"
                 "\"reason\":\"%s\"%s%s%s,"
                 "\"request_id\":\"%s\"}\n",
                 wire, title, reason_status(reason), wire, detail != NULL ? ",\"detail\":\"" : "",
                 escaped, detail != NULL ? "\"" : "", request_id);
    return (size_t)len;
}

int problem_retry_after(enum reason reason, uint32_t random)
{
    if (reason == REASON_CONFIG_LOCKED)
        return LOCKED_RETRY_S;
    /* One device in a moment of its own: it may try again at once. */
    if (reason == REASON_CONFIG_WRITES_BUSY || reason == REASON_ANNOUNCEMENT_OUTDATED ||
        reason == REASON_KEY_NOT_PROVEN || reason == REASON_STORE_CONFLICT)
        return 1;
    return reason_status(reason) == 503 ? OVERLOAD_RETRY_S + (int)(random % (OVERLOAD_RETRY_S + 1))
                                        : 0;
}
