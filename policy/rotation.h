/* SPDX-License-Identifier: BSD-2-Clause */
/* Key rotation: a device announces its next key with its current one and proves it on a new
 * connection.
 *
 *          announce (current key)           proven in a full handshake
 *   STEADY ─────────────────────▶ PENDING ─────────────────────────────▶ STEADY, generation + 1,
 *     ▲                            │  │  ▲                               old key denied,
 *     └────────────────────────────┘  └──┘ announce another key:         DEVICE_PUBKEY_CHANGE
 *           cancel (operator)              replaces; the same: nothing
 *
 * An operator's accept-key is an announcement in the device's stead: the key becomes pending and
 * must be proven like any other, so that there is one way only in which a current key changes. For
 * a device without a record it registers the key as current: it is what `registration: closed`
 * fleets provision with.
 *
 * While a write lease is alive (policy/config_lock.h), whatever starts, replaces or cancels a
 * rotation is busy, and keeps new leases from being given meanwhile. Promotion is not: a write that names the pending key is right after it as well.
 *
 * A pending key is replaced only by an announcement that was certainly sent after it had become
 * pending. A device that holds the answer 200 may have destroyed its old key; if an earlier
 * announcement of its own, sent before a restart and held up in a stopped gateway, were handled now
 * and replaced the key, the device would be locked out. One that means it announces again on a new
 * connection. */
#pragma once

#include "policy/admission.h"
#include "policy/decision.h"

struct announcement {
    const struct device_record *record;
    const struct digest *announcer; /* the key of the connection */
    const struct pubkey *next;      /* algorithm and strength were checked where it was parsed */
    struct deny_flags denied;       /* of the announcer's credentials */
    bool next_denied;
    int64_t connected_ms; /* the store's clock at a moment before which this cannot have been sent:
                             the connection's beginning, before its handshake was answered. Rather
                             too early than too late; 0: nothing is replaced */
    int64_t now_ms;
};

/* PASS: ANNOUNCED, ANNOUNCED_BEFORE (only confirms), ANNOUNCEMENT_REPLACED. BUSY:
 * CONFIG_WRITES_BUSY, ANNOUNCEMENT_OUTDATED (close the connection: only a new one can do better).
 * REFUSE: the deny-list's reasons, NO_SUCH_DEVICE, KEY_NOT_CURRENT, NEXT_KEY_INVALID (no key),
 * KEY_IS_CURRENT, NEXT_KEY_DENIED. */
void rotation_announce(const struct announcement *input, struct decision *out);

/* The pending key of input->record was proven by input->credentials: PASS PROMOTED, or REFUSE
 * KEY_NOT_PROVEN when the handshake was resumed. Called by admission_decide(); the caller has
 * established key = pending, not denied, the certificate valid.
 *
 * The old key is denied until the last certificate seen with it has expired; for ever when none was
 * seen, or when all of them have expired: such an end would end the denial before it began. */
void rotation_promote(const struct admission_input *input, struct decision *out);

/* Who asks, and why. Both are kept in the event and the audit line, cut to TEXT_MAX bytes; a reason
 * that is empty or blank is refused: REASON_REQUIRED. */
struct operator_act {
    const char *origin;
    const char *reason;
    int64_t now_ms;
};

bool operator_act_has_reason(const struct operator_act *act);

/* PASS CANCELLED; BUSY CONFIG_WRITES_BUSY; REFUSE REASON_REQUIRED, NO_SUCH_DEVICE,
 * NO_ROTATION_PENDING. */
void rotation_cancel(const struct device_record *record, const struct operator_act *act,
                     struct decision *out);

/* `device` names the record to create when there is none. PASS KEY_ACCEPTED (pending now, in place
 * of another if there was one), KEY_REGISTERED (was unknown), ANNOUNCED_BEFORE; BUSY
 * CONFIG_WRITES_BUSY; REFUSE REASON_REQUIRED, NEXT_KEY_INVALID, DEVICE_NAME_INVALID,
 * KEY_IS_CURRENT, NEXT_KEY_DENIED. */
struct key_acceptance {
    const struct device_record *record;
    const char *device;
    const struct pubkey *key;
    bool key_denied;
    struct operator_act act;
};
void rotation_accept_key(const struct key_acceptance *input, struct decision *out);

/* Marks a rotation that has been pending for more than stalled_after_ms (0: never) and was not
 * marked yet: PASS ROTATION_STALLED with a commit and DEVICE_ROTATION_STALLED; otherwise REFUSE
 * NO_ROTATION_PENDING without a commit. */
void rotation_mark_stalled(const struct device_record *record, int64_t stalled_after_ms,
                           int64_t now_ms, struct decision *out);
