/* SPDX-License-Identifier: BSD-2-Clause */
/* Admission's shell: asks the store and policy about one connection, and commits what follows. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/store/transition.h"

/* Embedded in the connection, which fills in the first part before admission_start(). */
struct admission {
    const struct credentials *credentials; /* borrowed from the stream */
    /* Borrowed from the newest snapshot. This and `issuer` are read when the record has been: a
     * reload may change them while admission runs. */
    const struct admission_settings *settings;
    enum handshake handshake; /* RESUMED when a live connection is decided again */
    enum issuer_state issuer; /* by the newest snapshot */
    const char *peer;         /* address, for the audit line; borrowed */
    transition_done_fn *done; /* as in transition.h */
    void *arg;

    struct transition *transition; /* owned; NULL: not running */
};

/* One at a time. `done` runs exactly once, never from inside this call. */
void admission_start(struct admission *admission, struct store *store);
static inline bool admission_is_running(const struct admission *admission)
{
    return admission->transition != NULL;
}
/* `done` will not run. Fine when nothing runs. */
void admission_cancel(struct admission *admission);
