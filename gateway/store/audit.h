/* SPDX-License-Identifier: BSD-2-Clause */
/* The audit log: one line for each transition and each act of an operator - what, whose, which keys,
 * why, by whom. Written by the transition (transition.h) that has committed it, and by nobody else;
 * at once, whatever log.level is, and under no limit. */
#pragma once

#include "policy/decision.h"

enum audit_outcome {
    AUDIT_DONE,
    AUDIT_UNKNOWN, /* it was sent, and no answer came; the line says so */
};

/* `peer`: the address of whoever asked; "": nobody did. Says nothing of what is no transition: a
 * refusal (whoever knocks with a wrong key could fill the log), refreshed facts, write leases. */
void audit_decision(const struct decision *decision, const char *device, const char *peer,
                    enum audit_outcome outcome);
