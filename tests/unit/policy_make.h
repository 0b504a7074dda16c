/* SPDX-License-Identifier: BSD-2-Clause */
/* Keys, records and credentials for the tests of policy/, and comparisons that name what differs.
 */
#pragma once

#include "policy/admission.h"
#include "policy/decision.h"

enum {
    MAKE_KEYS = 160, /* numbers of make_key(): 1 to MAKE_KEYS - 1; 0 is "none" */
    MAKE_TOKENS = 512,
    MAKE_CURRENT_KEY = 1, /* of make_record() */
    MAKE_PENDING_KEY = 2,
    MAKE_OTHER_KEY = 3,
};

#define MAKE_DEVICE "0b6c1f3e-device"
#define MAKE_DAY_MS INT64_C(86400000)
/* The tests' present. */
#define MAKE_NOW_MS INT64_C(1700000000500)

/* Lent for ever. The same number is the same key; 0 lends a key that is not set. */
const struct pubkey *make_key(int number);

/* The number of a key that make_key() lent, 0 when it is not set. */
int make_key_number(const struct digest *id);

/* A known device: generation 4, current since ten days, certificate seen valid for 100 more. */
struct device_record make_record(void);

/* The same with MAKE_PENDING_KEY pending since an hour, as rotation certs-1699996400. */
struct device_record make_pending_record(void);

/* Of MAKE_DEVICE under key `number`: active issuer, full handshake, 100 days left. */
struct credentials make_credentials(int number);

/* A token of LEASE_TOKEN_LEN digits, lent for ever; number < MAKE_TOKENS. */
const char *make_token(unsigned number);

void make_add_lease(struct device_record *record, unsigned token, int64_t expires_ms);

/* The first field in which they differ, or NULL. */
const char *record_difference(const struct device_record *a, const struct device_record *b);

/* The same for events: `why`, `once_in_ms` and the texts as well. */
const char *event_difference(const struct device_event *a, const struct device_event *b);

bool pubkey_equal(const struct pubkey *a, const struct pubkey *b);
