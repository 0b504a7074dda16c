/* SPDX-License-Identifier: BSD-2-Clause */
/* The one way in which anything about a device changes: read, decide, commit; on a conflict read
 * and decide again.
 *
 *      READING ──view──▶ decide() ──commits?──▶ COMMITTING ──ok──▶ done
 *         ▲                 └──no──▶ done            │
 *         └──────────── conflict, tries left ────────┘
 *
 * Whoever loses twice waits a few milliseconds, at random. The decision function is pure, so it may
 * run several times. `done` sees the decision only after it was committed.
 *
 * Each committed transition leaves one line in the audit log (audit.h), also when whoever asked for
 * it is gone meanwhile; and one that was sent and never answered, with its outcome "unknown".
 *
 * Where replicas have a say, a decision that confirms asks them (store_confirm()) before `done` sees
 * it. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/store/store.h"

struct transition;

enum { TRANSITION_TRIES = 16 };

/* Must write the decision completely; must not call anything that has effects. */
typedef void transition_decide_fn(const struct store_view *view, struct decision *out, void *arg);

/* Runs exactly once, never from inside transition_start(); not after transition_cancel(). `view` is
 * what the decision was made from. With STORE_OK the decision stands (and is committed if it
 * commits); STORE_CONFLICT: it lost TRANSITION_TRIES times; STORE_UNAVAILABLE: it may or may not
 * have happened, deciding again tells; STORE_INVALID. For anything but STORE_OK `view` and
 * `decision` are NULL. */
typedef void transition_done_fn(enum store_result result, const struct store_view *view,
                                const struct decision *decision, void *arg);

/* The handle is valid until `done` has run. */
struct transition *transition_start(struct store *store, const struct store_query *query,
                                    transition_decide_fn *decide, transition_done_fn *done,
                                    void *arg);
/* For the audit line: the address of whoever asks. Copied. Right after the start. */
void transition_name_peer(struct transition *transition, const char *peer);
/* `done` will not run, nor `decide` any more. A commit that was already sent may still take effect:
 * the transition stays with the store until that is known, for the audit line. NULL inside is fine. */
void transition_cancel(struct transition **transition);
