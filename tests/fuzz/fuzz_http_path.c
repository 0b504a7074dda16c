/* SPDX-License-Identifier: BSD-2-Clause */
/* Targets: a normalised path is clean, never longer than the target, and normal already; hosts are
 * part of their authority. */
#include <stdint.h>
#include <stdlib.h>

#include "gateway/http/path.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_clean(const char *path)
{
    for (const char *p = path; *p != '\0'; p++) {
        if (*p < '!' || *p > '~' || strchr(";\\?#", *p) != NULL || (p[0] == '/' && p[1] == '/'))
            return false;
    }
    return path[0] == '/' && strstr(path, "/../") == NULL && strstr(path, "/./") == NULL &&
           strstr(path, "%2F") == NULL;
}

static void check(struct str method, struct str target)
{
    struct http_target first, second;

    if (!http_target_parse(method, target, &first))
        return;
    if (!first.is_asterisk) {
        if (!is_clean(first.path) || strlen(first.path) > target.len + 1)
            abort();
        if (!http_target_parse(method, str_c(first.path), &second) ||
            strcmp(first.path, second.path) != 0)
            abort();
        http_target_clear(&second);
    }
    http_target_clear(&first);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = {(const char *)data, size}, host;

    check(STR("OPTIONS"), text);
    if (http_host_parse(text, &host) && (host.p != text.p || host.len == 0 || host.len > size))
        abort();
    return 0;
}
