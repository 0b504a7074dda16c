/* SPDX-License-Identifier: BSD-2-Clause */
/* What time makes of a device under its current key, by the rule of its group: the age of the key
 * and the end of the certificate, together.
 *
 *   certificate          key's age, action             standing
 *   expired, no grace    any                           refuse CERTIFICATE_EXPIRED
 *   any                  overdue, refuse               refuse KEY_AGE_OVERDUE
 *   expired, in grace    any other                     quarantine CERTIFICATE_EXPIRED_QUARANTINE
 *   valid                overdue, quarantine           quarantine KEY_AGE_QUARANTINE
 *   valid                any other                     pass ADMITTED
 *
 * A standing lasts until a moment that it names, so whoever keeps it need not judge again before:
 * a live connection costs nothing, and yet its certificate's end or its key's is not missed. */
#pragma once

#include "policy/decision.h"
#include "policy/key_age.h"

/* Every limit that is unset (0) means "never". */
struct enforcement {
    int64_t expired_grace_ms; /* so long an expired certificate may be quarantined instead */
    struct key_age_settings key_age;
};

/* What counts for the devices of one group (device_record.group). */
struct enforcement_group {
    const char *name; /* borrowed from the configuration */
    struct enforcement rule;
};

/* The fleet's rule, and those of the groups that have one of their own. */
struct enforcement_rules {
    struct enforcement fleet;
    const struct enforcement_group *groups; /* borrowed likewise */
    size_t n_groups;
};

/* A group without a rule of its own, or no group (""), has the fleet's. */
const struct enforcement *enforcement_of(const struct enforcement_rules *rules, const char *group);
/* The longest that any group's expired certificate may count. */
int64_t enforcement_longest_grace_ms(const struct enforcement_rules *rules);

/* What is judged. Kept with a connection, so that it can be judged again without the store. */
struct standing_facts {
    int64_t key_since_ms;
    int64_t certificate_expires_ms; /* INT64_MAX: no certificate is known */
};

struct standing {
    enum verdict verdict; /* PASS, QUARANTINE or REFUSE */
    enum reason reason;   /* as in the table */
    struct key_age age;   /* of key and certificate together */
    enum key_age_action action;
    bool is_told;     /* responses carry Device-Rotation: not fresh, and not only observed */
    int64_t until_ms; /* nothing of this changes before; INT64_MAX: ever */
};

struct standing enforcement_judge(const struct enforcement *rule,
                                  const struct standing_facts *facts, int64_t now_ms);

/* The value of Device-Rotation: an Item of RFC 9651, a token with a date in whole seconds,
 * "due;deadline=@1700000000". Without the parameter when there is no deadline; empty when the
 * device is not told. */
enum { STANDING_TEXT_SIZE = 40 };
void standing_format(const struct standing *standing, char out[STANDING_TEXT_SIZE]);
