/* SPDX-License-Identifier: BSD-2-Clause */
/* The config lock. Configuration is encrypted to the device's key, so a write that names the wrong
 * key would be lost.
 *
 * A write passes iff
 *   (a) no rotation is pending, and the key that it names, if it names one, is the current key; or
 *   (b) a rotation is pending, the writer is the device itself, and it names the pending key.
 * Otherwise: CONFIG_LOCKED (423) while a rotation is pending, CONFIG_KEY_STALE (412) when none is.
 *
 * A passing write holds a write lease on the record until the backend has answered: begin ->
 * forward -> end. A new announcement is busy while a lease is alive, therefore no write for the old
 * key can land after the announcement's 200. A lease that was never ended (its gateway died)
 * expires by itself.
 *
 * Writes that overlap could keep an announcement waiting for ever. So whoever had to wait leaves a
 * mark on the record, and while it stands no write gets a lease: those in flight end, and the
 * announcement that comes again finds none. The mark ends by itself CONFIG_WRITE_HOLD_MS after it
 * was last made, or with the rotation's beginning or end. Each refused try leaves at least
 * CONFIG_WRITE_HOLD_LEAST_MS of it, which is longer than any pause between two tries of a stock
 * agent (1, 2, 5, 13, 30 s); only a try that finds less writes it anew. */
#pragma once

#include "policy/admission.h"
#include "policy/decision.h"

enum config_writer {
    CONFIG_WRITER_OPERATOR,
    CONFIG_WRITER_DEVICE, /* the device itself, under its current key */
};

struct config_write {
    const struct device_record *record;
    enum config_writer writer;
    struct digest writer_key; /* the key of the device that writes; unset for operators */
    struct deny_flags denied; /* of the credentials of a device that writes */
    struct digest key;        /* the key that the write names; unset when it names none */
    const char *token;        /* LEASE_TOKEN_LEN hex digits, new for each write */
    int64_t lease_ms;         /* how long the lease lives, > 0 */
    int64_t now_ms;
};

enum { CONFIG_WRITE_HOLD_MS = 60000, CONFIG_WRITE_HOLD_LEAST_MS = 40000 };

/* PASS WRITE_PASSES with a commit (the lease; expired ones of others are swept in passing; a token
 * that the record has already gets a new expiry, so that a begin whose answer was lost may be
 * repeated). BUSY CONFIG_WRITES_FULL, CONFIG_WRITES_HELD. REFUSE NO_SUCH_DEVICE, the
 * deny-list's reasons and KEY_NOT_CURRENT (of a device that writes), CONFIG_LOCKED, CONFIG_KEY_STALE, and
 * INTERNAL for a write that could hold no lease: a token of another length, no lease time. */
void config_write_begin(const struct config_write *input, struct decision *out);

/* PASS WRITE_ENDED; commits only when the record still has the token. */
void config_write_end(const struct device_record *record, const char *token, int64_t now_ms,
                      struct decision *out);

/* BUSY CONFIG_WRITES_BUSY, for what must not happen while a write is in flight: leaves the mark. */
void config_write_hold(const struct device_record *record, int64_t now_ms, struct decision *out);

/* True while any lease of the record is alive at now_ms (expires_ms > now_ms). */
bool config_write_in_flight(const struct device_record *record, int64_t now_ms);
