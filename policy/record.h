/* SPDX-License-Identifier: BSD-2-Clause */
/* What is known of one device: the value that decisions read and write.
 *
 * Everything is held inline, so a record is copied by assignment, compared field by field and never
 * freed. Times are milliseconds since 1970 on the store's clock (Redis TIME), 0 meaning "never"; so
 * no gateway's own clock takes part in a decision. Whoever builds a record from bytes checks that
 * its strings are terminated and that n_leases is at most WRITE_LEASES_MAX. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DEVICE_NAME_MAX = 64,  /* [A-Za-z0-9._-]{1,64} */
    LABEL_MAX = 64,        /* factory, group, issuer; longer ones are refused where they enter */
    PUBKEY_PEM_MAX = 2047, /* a PEM SubjectPublicKeyInfo; RSA 8192 takes 1.5 KB */
    ROTATION_ID_MAX = 32,  /* "certs-<unix time>" */
    WRITE_LEASES_MAX = 16, /* config writes of one device in flight at once, over all gateways */
    LEASE_TOKEN_LEN = 32,  /* hex of 16 random bytes */
    TEXT_MAX = 255,        /* an operator's reason or origin */
};

/* Lower-case hex SHA-256: of the DER SubjectPublicKeyInfo for a key, of the DER certificate for a
 * certificate. An empty string is "none". */
struct digest {
    char hex[65];
};

struct pubkey {
    struct digest id;
    char pem[PUBKEY_PEM_MAX + 1]; /* "-----BEGIN PUBLIC KEY-----\n...", canonical, ends in "\n" */
};

/* A key whose text is kept elsewhere: records have room for the longest one, but most are short. */
struct pubkey_shown {
    struct digest id;
    const char *pem; /* as in struct pubkey, and no longer; NULL: none */
};

/* A config write that was let through and whose backend has not answered yet. */
struct write_lease {
    char token[LEASE_TOKEN_LEN + 1];
    int64_t expires_ms;
};

struct device_record {
    uint64_t version; /* counts commits; 0: there is no record, and all else is zero */
    char name[DEVICE_NAME_MAX + 1];
    char factory[LABEL_MAX + 1]; /* OU of the certificate; may be empty */
    char group[LABEL_MAX + 1];   /* may be empty */
    bool production;             /* businessCategory=production */
    int64_t first_seen_ms;       /* first admission; 0: registered by an operator, not seen yet */
    uint64_t generation;         /* counts promotions, from 1 at registration */

    struct pubkey current;
    int64_t current_since_ms;        /* when it became current: key age counts from here */
    int64_t current_cert_expires_ms; /* latest notAfter seen with the current key; 0: none seen */

    struct pubkey pending;    /* id empty: no rotation is pending */
    int64_t pending_since_ms; /* when the rotation was announced */
    char rotation_id[ROTATION_ID_MAX + 1];
    bool stalled; /* DEVICE_ROTATION_STALLED was emitted for this rotation */

    int64_t wanted_until_ms; /* no config write gets a lease before: a rotation waits for those that
                                have one (policy/config_lock.h) */
    size_t n_leases;
    struct write_lease leases[WRITE_LEASES_MAX];
};

static inline bool record_exists(const struct device_record *record)
{
    return record->version != 0;
}

static inline bool digest_is_set(const struct digest *digest)
{
    return digest->hex[0] != '\0';
}

static inline bool record_rotation_pending(const struct device_record *record)
{
    return digest_is_set(&record->pending.id);
}

/* True when both are set and equal: "none" equals nothing, not even "none". */
bool digest_equal(const struct digest *a, const struct digest *b);

/* All of *out is written. */
void pubkey_copy(struct pubkey *out, const struct pubkey_shown *key);

/* [A-Za-z0-9._-]{1,64}, and neither "." nor "..": a device's name is used as a path segment. */
bool device_name_is_valid(const char *name, size_t len);

/* 64 lower-case hex digits. */
bool digest_is_valid(const char *hex, size_t len);

/* Forgets the write leases that have ended at now_ms, and a wish to have none that has; the other
 * leases keep their order. */
void record_drop_expired_leases(struct device_record *record, int64_t now_ms);

/* Sums and differences of times, held at the ends of the range instead of wrapping round: notAfter
 * of a certificate and the limits of a configuration may be as extreme as they like. */
static inline int64_t time_after_ms(int64_t time_ms, int64_t span_ms)
{
    int64_t sum;

    if (__builtin_add_overflow(time_ms, span_ms, &sum))
        return span_ms > 0 ? INT64_MAX : INT64_MIN;
    return sum;
}

static inline int64_t time_between_ms(int64_t from_ms, int64_t to_ms)
{
    int64_t span;

    if (__builtin_sub_overflow(to_ms, from_ms, &span))
        return to_ms > from_ms ? INT64_MAX : INT64_MIN;
    return span;
}
