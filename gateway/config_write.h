/* SPDX-License-Identifier: BSD-2-Clause */
/* The config lock's shell: which key does this write name, and may it pass?
 *
 * begin: read the record, decide, commit the write lease; the exchange goes on only after the
 * commit. end:   give the lease back, when the backend has answered or nothing reached it. If it
 * cannot be known whether the write took effect, the lease is left to expire by itself. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/daemon/worker.h"
#include "gateway/http/head.h"
#include "gateway/store/transition.h"
#include "policy/config_lock.h"

/* The key that the write names: the body's "public-key" (a PEM; absent, null and "" name none), or
 * the header Device-Key (a key id). REASON_OK, with *out_key unset when none is named; otherwise
 * CONFIG_BODY_ENCODED, CONFIG_BODY_INVALID, CONFIG_KEY_INVALID or CONFIG_KEY_CONFLICT. */
enum reason config_write_named_key(const struct http_head *head, struct str body,
                                   struct digest *out_key) MUST_CHECK;

/* One write on its way to a lease. The first part is filled in by the caller. */
struct config_write_claim {
    char device[DEVICE_NAME_MAX + 1];
    enum config_writer writer;
    struct digest writer_key; /* of the device that writes; unset for operators */
    struct digest writer_certificate;
    struct digest writer_twin; /* its other form */
    struct digest named;
    int64_t lease_ms;
    transition_done_fn *done; /* as in transition.h */
    void *arg;

    struct transition *transition; /* owned; NULL: decided, or not asked yet */
    char token[LEASE_TOKEN_LEN + 1];
    int64_t deadline_ms; /* monotonic: the lease may be gone from then on */
};

/* `done` runs exactly once, never from inside this call, unless config_write_cancel() comes first.
 */
void config_write_start(struct worker *worker, struct config_write_claim *claim);
/* What was already sent may still take effect: release the claim as well. Fine when nothing runs.
 */
void config_write_cancel(struct config_write_claim *claim);

/* Independent of the exchange; tries again a few times, then leaves it to the lease's expiry. */
void config_write_release(struct worker *worker, const struct config_write_claim *claim);
/* For the worker's end: forgets what is still being released. */
void config_write_release_cancel_all(struct worker *worker);
