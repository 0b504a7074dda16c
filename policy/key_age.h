/* SPDX-License-Identifier: BSD-2-Clause */
/* How old a key is, how near a certificate's end is, and what follows.
 *
 * Key age counts from the moment the key became current; a renewed certificate for the same key
 * does not make it younger. Both clocks give fresh -> due -> overdue; the later state of the two
 * counts. */
#pragma once

#include <stdint.h>

enum key_age_state {
    KEY_AGE_FRESH,
    KEY_AGE_DUE,     /* the device should rotate */
    KEY_AGE_OVERDUE, /* the deadline has passed */
};

enum key_age_action {
    KEY_AGE_OBSERVE,    /* counted, nothing else */
    KEY_AGE_WARN,       /* responses carry Device-Rotation (policy/enforcement.h) when not fresh */
    KEY_AGE_QUARANTINE, /* overdue: only rotation routes are open; warns as well */
    KEY_AGE_REFUSE,     /* overdue: refused; warns before */
};

/* An unset limit (0) never takes effect: without due_after_ms a key's age never makes it due,
 * without overdue_after_ms never overdue, and without due_before_expiry_ms the certificate's clock
 * counts for nothing. The action decides what overdue by age means; what an expired certificate
 * means is decided by its grace alone. */
struct key_age_settings {
    int64_t due_after_ms;         /* key age from which rotation is due */
    int64_t overdue_after_ms;     /* key age from which it is overdue; >= due_after_ms */
    int64_t due_before_expiry_ms; /* due with less than this left; overdue once it has expired */
    enum key_age_action action;
};

struct key_age {
    enum key_age_state state;
    int64_t deadline_ms; /* when it becomes (or became) overdue; 0: never */
};

/* certificate_expires_ms is 0 when no certificate is known: then only the key's age is judged. */
struct key_age key_age_judge(const struct key_age_settings *settings, int64_t key_since_ms,
                             int64_t certificate_expires_ms, int64_t now_ms);

/* "fresh", "due", "overdue". */
const char *key_age_wire(enum key_age_state state);
/* "observe", "warn", "quarantine", "refuse". */
const char *key_age_action_wire(enum key_age_action action);
