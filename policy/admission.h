/* SPDX-License-Identifier: BSD-2-Clause */
/* May this connection pass? The table of the design's section 3, from top to bottom:
 *
 *   1  key, certificate or device denied    refuse key-denied / certificate-denied / device-denied
 *   2  issuer revoked, or disabled and the  refuse issuer-revoked / issuer-disabled /
 *      device unknown, or not configured    issuer-unknown
 *   3  no record, registration closed       refuse device-unknown
 *   3b no record, registration open         admit, create the record, DEVICE_FIRST_SEEN
 *   4  key = current                        admit, or quarantine by key age or expiry
 *   5  key = pending, full handshake        promote, then admit
 *   6  any other key                        refuse key-not-announced, DEVICE_KEY_REFUSED
 *
 * Asked after the chain was verified and before the first request is answered, on a resumed session
 * as well, and again whenever a live connection may no longer be trusted.
 *
 * An expired certificate registers nothing and promotes nothing. Grace is for row 4 alone: it lets
 * a device renew under a key that counts already, whereas a promotion retires the old key for good,
 * and that should not happen on a certificate which the CA no longer stands behind. The rotation
 * stays pending; the old key, or an operator's accept-key, continues. What row 4 makes of age and
 * expiry is the table of policy/enforcement.h. */
#pragma once

#include "policy/decision.h"
#include "policy/enforcement.h"

enum issuer_state {
    ISSUER_STATE_UNKNOWN, /* not a configured device CA: refused */
    ISSUER_STATE_ACTIVE,
    ISSUER_STATE_DISABLED, /* known devices pass, new ones do not */
    ISSUER_STATE_REVOKED,
};

enum registration {
    REGISTRATION_CLOSED, /* only devices that have a record */
    REGISTRATION_OPEN,   /* the device CA's signature registers */
};

enum handshake {
    HANDSHAKE_RESUMED, /* the key was proven once, on another connection */
    HANDSHAKE_FULL,    /* the key was proven on this connection */
};

/* What the peer has shown. Copied out of the certificate once, after the handshake. */
struct credentials {
    char device[DEVICE_NAME_MAX + 1];
    char factory[LABEL_MAX + 1];
    bool production;
    struct pubkey_shown key;
    struct digest certificate;
    struct digest certificate_twin; /* the other form of the same; "": it has none */
    int64_t certificate_expires_ms;
    enum issuer_state issuer;
    enum handshake handshake;
};

/* What the deny-list says of the credentials. */
struct deny_flags {
    bool key;
    bool certificate;
    bool device;
};

/* Every limit that is unset (0) means "never". */
struct admission_settings {
    enum registration registration;
    int64_t stalled_after_ms;       /* a rotation pending for longer is stalled */
    int64_t refused_event_every_ms; /* at most one DEVICE_KEY_REFUSED a device in this time */
    struct enforcement_rules rules;
};

struct admission_input {
    const struct device_record *record; /* version 0 when there is none */
    const struct credentials *credentials;
    struct deny_flags denied;
    const struct admission_settings *settings;
    int64_t now_ms;
};

/* How long after a key became current an admission under it confirms that. Whoever made it current
 * may have been told that replicas do not have it yet, and the device that comes again must not be
 * let in on what can still be lost. */
enum { ADMISSION_CONFIRMS_MS = 5 * 60 * 1000 };

/* Reasons: ADMITTED, REGISTERED, PROMOTED with VERDICT_PASS; KEY_AGE_QUARANTINE and
 * CERTIFICATE_EXPIRED_QUARANTINE with VERDICT_QUARANTINE; with VERDICT_REFUSE those of the table,
 * KEY_NOT_PROVEN (a pending key on a resumed session), CERTIFICATE_EXPIRED, KEY_AGE_OVERDUE, and
 * for credentials that name no key, no valid device, or not the record's device:
 * CERTIFICATE_MISSING, CERTIFICATE_IDENTITY, STORE_RECORD_INVALID.
 *
 * A refusal may commit (the event of row 6), and so may an admission under the current key: a
 * certificate that expires later than any seen before, a rotation found stalled, the first
 * connection of a device that an operator had registered (DEVICE_FIRST_SEEN). */
void admission_decide(const struct admission_input *input, struct decision *out);

/* On what a device stands whose current key this is, by the record after the decision; false when
 * it is another key. */
bool admission_facts(const struct device_record *record, const struct credentials *credentials,
                     struct standing_facts *out);

/* The reason of table row 1, or OK when nothing is denied. */
enum reason deny_flags_reason(const struct deny_flags *denied);
