/* SPDX-License-Identifier: BSD-2-Clause */
/* The deny-list as operators use it. A denial touches no record: it stands above them, in
 * admission's first row, and so never conflicts with a transition and never waits for one. */
#pragma once

#include "policy/decision.h"
#include "policy/rotation.h"

struct denial_request {
    enum deny_kind kind;
    const char *id;
    const char *device; /* whose it is, "" if not known; ignored with DENY_DEVICE */
    int64_t until_ms;   /* 0: for ever */
    struct operator_act act;
};

/* PASS DENIED with the entry and DEVICE_DENIED (cut: at once), also when the entry exists already
 * (its reason and end are replaced); REFUSE REASON_REQUIRED, DENIAL_ID_INVALID,
 * DEVICE_NAME_INVALID, DENIAL_ENDED (until_ms is not in the future). */
void denial_add(const struct denial_request *input, struct decision *out);

/* PASS ALLOWED removes the entry, with DEVICE_ALLOWED; REFUSE REASON_REQUIRED, DENIAL_ID_INVALID,
 * DEVICE_NAME_INVALID, NOT_DENIED when there is none (`exists`). until_ms is ignored. */
void denial_remove(const struct denial_request *input, bool exists, struct decision *out);
