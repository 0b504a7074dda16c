/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/admission.h"

static void decide_admission(const struct store_view *view, struct decision *out, void *arg)
{
    const struct admission *admission = arg;
    struct admission_input input = {
        .record = &view->record,
        .credentials = admission->credentials,
        .denied = view->denied,
        .settings = admission->settings,
        .now_ms = view->now_ms,
    };

    if (admission->handshake == admission->credentials->handshake &&
        admission->issuer == admission->credentials->issuer) {
        admission_decide(&input, out);
        return;
    }
    struct credentials credentials = *admission->credentials;
    credentials.handshake = admission->handshake;
    credentials.issuer = admission->issuer;
    input.credentials = &credentials;
    admission_decide(&input, out);
}

static void on_decided(enum store_result result, const struct store_view *view,
                       const struct decision *decision, void *arg)
{
    struct admission *admission = arg;

    admission->transition = NULL;
    admission->done(result, view, decision, admission->arg);
}

void admission_start(struct admission *admission, struct store *store)
{
    const struct store_query query = {
        .device = admission->credentials->device,
        .key = admission->credentials->key.id.hex,
        .certificate = admission->credentials->certificate.hex,
        .certificate_twin = admission->credentials->certificate_twin.hex,
    };

    admission->transition =
        transition_start(store, &query, decide_admission, on_decided, admission);
    transition_name_peer(admission->transition, admission->peer);
}

void admission_cancel(struct admission *admission)
{
    transition_cancel(&admission->transition);
}
