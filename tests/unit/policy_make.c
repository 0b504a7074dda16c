/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy_make.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void make_fill_key(struct pubkey *key, int number)
{
    snprintf(key->id.hex, sizeof(key->id.hex), "%04x%060d", (unsigned)number, number);
    snprintf(key->pem, sizeof(key->pem),
             "-----BEGIN PUBLIC KEY-----\nkey %d\n-----END PUBLIC KEY-----\n", number);
}

const struct pubkey *make_key(int number)
{
    static struct pubkey keys[MAKE_KEYS];

    assert(number >= 0 && number < MAKE_KEYS);
    if (number != 0 && !digest_is_set(&keys[number].id))
        make_fill_key(&keys[number], number);
    return &keys[number];
}

int make_key_number(const struct digest *id)
{
    char digits[5];

    if (!digest_is_set(id))
        return 0;
    memcpy(digits, id->hex, 4);
    digits[4] = '\0';
    return (int)strtol(digits, NULL, 16);
}

struct device_record make_record(void)
{
    return (struct device_record){
        .version = 12,
        .name = MAKE_DEVICE,
        .factory = "factory-7",
        .group = "group-a",
        .production = true,
        .first_seen_ms = MAKE_NOW_MS - 400 * MAKE_DAY_MS,
        .generation = 4,
        .current = *make_key(MAKE_CURRENT_KEY),
        .current_since_ms = MAKE_NOW_MS - 10 * MAKE_DAY_MS,
        .current_cert_expires_ms = MAKE_NOW_MS + 100 * MAKE_DAY_MS,
    };
}

struct device_record make_pending_record(void)
{
    struct device_record record = make_record();

    record.pending = *make_key(MAKE_PENDING_KEY);
    record.pending_since_ms = MAKE_NOW_MS - 3600000;
    snprintf(record.rotation_id, sizeof(record.rotation_id), "%s", "certs-1699996400");
    return record;
}

struct credentials make_credentials(int number)
{
    struct credentials credentials = {
        .device = MAKE_DEVICE,
        .factory = "factory-7",
        .production = true,
        .key = {make_key(number)->id, make_key(number)->pem},
        .certificate_expires_ms = MAKE_NOW_MS + 100 * MAKE_DAY_MS,
        .issuer = ISSUER_STATE_ACTIVE,
        .handshake = HANDSHAKE_FULL,
    };

    memset(credentials.certificate.hex, 'c', sizeof(credentials.certificate.hex) - 1);
    return credentials;
}

const char *make_token(unsigned number)
{
    static char tokens[MAKE_TOKENS][LEASE_TOKEN_LEN + 1];

    assert(number < MAKE_TOKENS);
    if (tokens[number][0] == '\0')
        snprintf(tokens[number], sizeof(tokens[number]), "%032x", number);
    return tokens[number];
}

void make_add_lease(struct device_record *record, unsigned token, int64_t expires_ms)
{
    struct write_lease *lease = &record->leases[record->n_leases++];

    snprintf(lease->token, sizeof(lease->token), "%s", make_token(token));
    lease->expires_ms = expires_ms;
}

bool pubkey_equal(const struct pubkey *a, const struct pubkey *b)
{
    return strcmp(a->id.hex, b->id.hex) == 0 && strcmp(a->pem, b->pem) == 0;
}

static bool leases_equal(const struct device_record *a, const struct device_record *b)
{
    if (a->n_leases != b->n_leases)
        return false;
    for (size_t i = 0; i < a->n_leases; i++) {
        if (strcmp(a->leases[i].token, b->leases[i].token) != 0 ||
            a->leases[i].expires_ms != b->leases[i].expires_ms)
            return false;
    }
    return true;
}

#define DIFFER_IF(condition, field)                                                                \
    do {                                                                                           \
        if (condition)                                                                             \
            return field;                                                                          \
    } while (0)

const char *record_difference(const struct device_record *a, const struct device_record *b)
{
    DIFFER_IF(a->version != b->version, "version");
    DIFFER_IF(strcmp(a->name, b->name) != 0, "name");
    DIFFER_IF(strcmp(a->factory, b->factory) != 0, "factory");
    DIFFER_IF(a->wanted_until_ms != b->wanted_until_ms, "wanted_until_ms");
    DIFFER_IF(strcmp(a->group, b->group) != 0, "group");
    DIFFER_IF(a->production != b->production, "production");
    DIFFER_IF(a->first_seen_ms != b->first_seen_ms, "first_seen_ms");
    DIFFER_IF(a->generation != b->generation, "generation");
    DIFFER_IF(!pubkey_equal(&a->current, &b->current), "current");
    DIFFER_IF(a->current_since_ms != b->current_since_ms, "current_since_ms");
    DIFFER_IF(a->current_cert_expires_ms != b->current_cert_expires_ms, "current_cert_expires_ms");
    DIFFER_IF(!pubkey_equal(&a->pending, &b->pending), "pending");
    DIFFER_IF(a->pending_since_ms != b->pending_since_ms, "pending_since_ms");
    DIFFER_IF(strcmp(a->rotation_id, b->rotation_id) != 0, "rotation_id");
    DIFFER_IF(a->stalled != b->stalled, "stalled");
    DIFFER_IF(!leases_equal(a, b), "leases");
    return NULL;
}

const char *event_difference(const struct device_event *a, const struct device_event *b)
{
    DIFFER_IF(a->type != b->type, "type");
    DIFFER_IF(strcmp(a->device, b->device) != 0, "device");
    DIFFER_IF(a->at_ms != b->at_ms, "at_ms");
    DIFFER_IF(!pubkey_equal(&a->old_key, &b->old_key), "old_key");
    DIFFER_IF(!pubkey_equal(&a->new_key, &b->new_key), "new_key");
    DIFFER_IF(strcmp(a->rotation_id, b->rotation_id) != 0, "rotation_id");
    DIFFER_IF(a->generation != b->generation, "generation");
    DIFFER_IF(strcmp(a->group, b->group) != 0, "group");
    DIFFER_IF(strcmp(a->old_group, b->old_group) != 0, "old_group");
    DIFFER_IF(a->why != b->why, "why");
    DIFFER_IF(strcmp(a->reason, b->reason) != 0, "reason");
    DIFFER_IF(strcmp(a->origin, b->origin) != 0, "origin");
    DIFFER_IF(a->cut != b->cut, "cut");
    DIFFER_IF(a->cut_kind != b->cut_kind, "cut_kind");
    DIFFER_IF(strcmp(a->cut_id, b->cut_id) != 0, "cut_id");
    DIFFER_IF(a->once_in_ms != b->once_in_ms, "once_in_ms");
    return NULL;
}
