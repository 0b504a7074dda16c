/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy/record.h"

#include <string.h>

bool digest_equal(const struct digest *a, const struct digest *b)
{
    return digest_is_set(a) && strncmp(a->hex, b->hex, sizeof(a->hex)) == 0;
}

void pubkey_copy(struct pubkey *out, const struct pubkey_shown *key)
{
    *out = (struct pubkey){.id = key->id};
    if (key->pem != NULL)
        memcpy(out->pem, key->pem, strnlen(key->pem, PUBKEY_PEM_MAX));
}

/* Not isalnum(): that asks the locale, and names are ASCII in every one of them. */
static bool device_name_has(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

bool device_name_is_valid(const char *name, size_t len)
{
    if (len == 0 || len > DEVICE_NAME_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!device_name_has(name[i]))
            return false;
    }
    return name[0] != '.' || (len > 1 && !(len == 2 && name[1] == '.'));
}

bool digest_is_valid(const char *hex, size_t len)
{
    if (len != sizeof(((struct digest *)0)->hex) - 1)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!((hex[i] >= '0' && hex[i] <= '9') || (hex[i] >= 'a' && hex[i] <= 'f')))
            return false;
    }
    return true;
}

void record_drop_expired_leases(struct device_record *record, int64_t now_ms)
{
    size_t kept = 0;

    for (size_t i = 0; i < record->n_leases; i++) {
        if (record->leases[i].expires_ms > now_ms)
            record->leases[kept++] = record->leases[i];
    }
    record->n_leases = kept;
    if (record->wanted_until_ms <= now_ms)
        record->wanted_until_ms = 0;
}
