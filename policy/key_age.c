/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy/key_age.h"

#include "policy/record.h"

static struct key_age key_age_by_age(const struct key_age_settings *settings, int64_t since_ms,
                                     int64_t now_ms)
{
    int64_t age_ms = time_between_ms(since_ms, now_ms);
    struct key_age age = {.state = KEY_AGE_FRESH};

    if (settings->due_after_ms > 0 && age_ms >= settings->due_after_ms)
        age.state = KEY_AGE_DUE;
    if (settings->overdue_after_ms > 0) {
        age.deadline_ms = time_after_ms(since_ms, settings->overdue_after_ms);
        if (age_ms >= settings->overdue_after_ms)
            age.state = KEY_AGE_OVERDUE;
    }
    return age;
}

static struct key_age key_age_by_certificate(const struct key_age_settings *settings,
                                             int64_t expires_ms, int64_t now_ms)
{
    struct key_age age = {.state = KEY_AGE_FRESH};

    if (settings->due_before_expiry_ms <= 0 || expires_ms == 0)
        return age;
    age.deadline_ms = expires_ms;
    if (now_ms >= expires_ms)
        age.state = KEY_AGE_OVERDUE;
    else if (time_between_ms(now_ms, expires_ms) < settings->due_before_expiry_ms)
        age.state = KEY_AGE_DUE;
    return age;
}

struct key_age key_age_judge(const struct key_age_settings *settings, int64_t key_since_ms,
                             int64_t certificate_expires_ms, int64_t now_ms)
{
    struct key_age age = key_age_by_age(settings, key_since_ms, now_ms);
    struct key_age cert = key_age_by_certificate(settings, certificate_expires_ms, now_ms);

    if (cert.state > age.state)
        age.state = cert.state;
    if (age.deadline_ms == 0 || (cert.deadline_ms != 0 && cert.deadline_ms < age.deadline_ms))
        age.deadline_ms = cert.deadline_ms;
    return age;
}

const char *key_age_wire(enum key_age_state state)
{
    switch (state) {
    case KEY_AGE_FRESH:
        return "fresh";
    case KEY_AGE_DUE:
        return "due";
    case KEY_AGE_OVERDUE:
        return "overdue";
    }
    return "unknown";
}

const char *key_age_action_wire(enum key_age_action action)
{
    switch (action) {
    case KEY_AGE_OBSERVE:
        return "observe";
    case KEY_AGE_WARN:
        return "warn";
    case KEY_AGE_QUARANTINE:
        return "quarantine";
    case KEY_AGE_REFUSE:
        return "refuse";
    }
    return "unknown";
}
