/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy/enforcement.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const struct enforcement *enforcement_of(const struct enforcement_rules *rules, const char *group)
{
    for (size_t i = 0; i < rules->n_groups; i++) {
        if (strcmp(rules->groups[i].name, group) == 0)
            return &rules->groups[i].rule;
    }
    return &rules->fleet;
}

int64_t enforcement_longest_grace_ms(const struct enforcement_rules *rules)
{
    int64_t longest_ms = rules->fleet.expired_grace_ms;

    for (size_t i = 0; i < rules->n_groups; i++) {
        if (rules->groups[i].rule.expired_grace_ms > longest_ms)
            longest_ms = rules->groups[i].rule.expired_grace_ms;
    }
    return longest_ms;
}

/* The key's age is judged without the certificate: what its end means is settled by grace, and
 * due_before_expiry must not turn that into a refusal. */
static enum reason enforcement_reason(const struct enforcement *rule,
                                      const struct standing_facts *facts, int64_t now_ms)
{
    int64_t expires_ms = facts->certificate_expires_ms;
    /* As OpenSSL has it: a certificate's last moment is the one before notAfter. */
    bool expired = now_ms >= expires_ms;
    bool in_grace =
        rule->expired_grace_ms > 0 && now_ms < time_after_ms(expires_ms, rule->expired_grace_ms);
    struct key_age age = key_age_judge(&rule->key_age, facts->key_since_ms, 0, now_ms);
    bool overdue = age.state == KEY_AGE_OVERDUE;

    if (expired && !in_grace)
        return REASON_CERTIFICATE_EXPIRED;
    if (overdue && rule->key_age.action == KEY_AGE_REFUSE)
        return REASON_KEY_AGE_OVERDUE;
    if (expired)
        return REASON_CERTIFICATE_EXPIRED_QUARANTINE;
    if (overdue && rule->key_age.action == KEY_AGE_QUARANTINE)
        return REASON_KEY_AGE_QUARANTINE;
    return REASON_ADMITTED;
}

static enum verdict enforcement_verdict(enum reason reason)
{
    if (reason == REASON_ADMITTED)
        return VERDICT_PASS;
    if (reason == REASON_KEY_AGE_QUARANTINE || reason == REASON_CERTIFICATE_EXPIRED_QUARANTINE)
        return VERDICT_QUARANTINE;
    return VERDICT_REFUSE;
}

/* The first moment after now at which one of the limits is crossed. */
static int64_t enforcement_until_ms(const struct enforcement *rule,
                                    const struct standing_facts *facts, int64_t now_ms)
{
    const struct key_age_settings *age = &rule->key_age;
    int64_t since_ms = facts->key_since_ms, expires_ms = facts->certificate_expires_ms;
    bool expires = expires_ms != INT64_MAX, due_before = expires && age->due_before_expiry_ms > 0;
    const int64_t limits_ms[] = {
        age->due_after_ms > 0 ? time_after_ms(since_ms, age->due_after_ms) : INT64_MAX,
        age->overdue_after_ms > 0 ? time_after_ms(since_ms, age->overdue_after_ms) : INT64_MAX,
        due_before ? time_after_ms(expires_ms, 1 - age->due_before_expiry_ms) : INT64_MAX,
        expires_ms,
        expires ? time_after_ms(expires_ms, rule->expired_grace_ms) : INT64_MAX,
    };
    int64_t until_ms = INT64_MAX;

    for (size_t i = 0; i < sizeof(limits_ms) / sizeof(limits_ms[0]); i++) {
        if (limits_ms[i] > now_ms && limits_ms[i] < until_ms)
            until_ms = limits_ms[i];
    }
    return until_ms;
}

struct standing enforcement_judge(const struct enforcement *rule,
                                  const struct standing_facts *facts, int64_t now_ms)
{
    int64_t expires_ms = facts->certificate_expires_ms;
    enum reason reason = enforcement_reason(rule, facts, now_ms);
    struct standing standing = {
        .verdict = enforcement_verdict(reason),
        .reason = reason,
        .age = key_age_judge(&rule->key_age, facts->key_since_ms,
                             expires_ms != INT64_MAX ? expires_ms : 0, now_ms),
        .action = rule->key_age.action,
        .until_ms = enforcement_until_ms(rule, facts, now_ms),
    };

    standing.is_told =
        standing.age.state != KEY_AGE_FRESH && rule->key_age.action != KEY_AGE_OBSERVE;
    return standing;
}

void standing_format(const struct standing *standing, char out[STANDING_TEXT_SIZE])
{
    /* RFC 9651, 3.3.1 and 3.3.7: no more than 15 digits. */
    static const int64_t most = INT64_C(999999999999999);
    int64_t deadline = standing->age.deadline_ms / 1000;

    if (!standing->is_told)
        out[0] = '\0';
    else if (standing->age.deadline_ms == 0 || deadline > most || deadline < -most)
        (void)snprintf(out, STANDING_TEXT_SIZE, "%s", key_age_wire(standing->age.state));
    else
        (void)snprintf(out, STANDING_TEXT_SIZE, "%s;deadline=@%" PRId64,
                       key_age_wire(standing->age.state), deadline);
}
