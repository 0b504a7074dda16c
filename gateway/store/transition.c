/* SPDX-License-Identifier: BSD-2-Clause */
/* Cancelling before the commit frees at once; later it takes the callback away (`done` is NULL then),
 * and the store's answer, or its end, frees.
 *
 * Most decisions commit nothing: they are made on the reader's stack and handed on at once. Only
 * one that commits or confirms is copied, view and all, to wait for that. */
#include "gateway/store/transition.h"

#include "gateway/base/encode.h"
#include "gateway/base/mem.h"
#include "gateway/store/audit.h"

enum {
    TRANSITION_PATIENT = 2,       /* conflicts after which the next read waits a little, */
    TRANSITION_DELAY_MAX_MS = 64, /* at random below twice as long each time, up to this */
};

/* What a commit is made from. */
struct proposal {
    struct store_view view;
    struct decision decision;
};

struct transition {
    struct store *store; /* borrowed; outlives its operations */
    struct store_op *op; /* the read, the commit or the pause between; NULL when it has ended */
    char device[DEVICE_NAME_MAX + 1];
    char key[sizeof(struct digest)];
    char certificate[sizeof(struct digest)];
    char certificate_twin[sizeof(struct digest)];
    char next_key[sizeof(struct digest)];
    char peer[64];
    bool after_commits;
    int conflicts;
    bool is_finished;          /* `done` is running */
    struct proposal *proposal; /* owned; only while committing */
    transition_decide_fn *decide;
    transition_done_fn *done; /* NULL: cancelled while committing */
    void *arg;
};

static void transition_read(struct transition *transition);

static void transition_free(struct transition *transition)
{
    mem_free(transition->proposal);
    mem_free(transition);
}

/* The callback comes first: it may look at what is freed then, and must not be able to cancel
 * it. */
static void transition_finish(struct transition *transition, enum store_result result,
                              const struct store_view *view, const struct decision *decision)
{
    transition->is_finished = true;
    if (transition->done != NULL)
        transition->done(result, view, decision, transition->arg);
    transition_free(transition);
}

static void on_paused(enum store_result result, void *arg)
{
    struct transition *transition = arg;

    transition->op = NULL;
    if (result == STORE_OK)
        transition_read(transition);
    else
        transition_finish(transition, result, NULL, NULL);
}

/* Writers that met once meet again, unless they wait for times of their own. */
static void transition_try_again(struct transition *transition)
{
    mem_free(transition->proposal);
    transition->proposal = NULL;
    if (transition->done == NULL) {
        transition_free(transition);
        return;
    }
    if (++transition->conflicts == TRANSITION_TRIES) {
        transition_finish(transition, STORE_CONFLICT, NULL, NULL);
        return;
    }
    if (transition->conflicts < TRANSITION_PATIENT) {
        transition_read(transition);
        return;
    }
    uint32_t below_ms = 1u << transition->conflicts;
    if (below_ms > TRANSITION_DELAY_MAX_MS)
        below_ms = TRANSITION_DELAY_MAX_MS;
    transition->op =
        store_pause(transition->store, 1 + (int64_t)random_below(below_ms), on_paused, transition);
}

static void on_committed(enum store_result result, void *arg)
{
    struct transition *transition = arg;
    const struct proposal *proposal = transition->proposal;

    transition->op = NULL;
    if (result == STORE_OK || result == STORE_UNAVAILABLE)
        audit_decision(&proposal->decision, transition->device, transition->peer,
                       result == STORE_OK ? AUDIT_DONE : AUDIT_UNKNOWN);
    if (result == STORE_OK) {
        if (proposal->decision.commits && proposal->decision.change.n_events > 0)
            store_count_transition(transition->store, proposal->decision.reason);
        transition_finish(transition, STORE_OK, &proposal->view, &proposal->decision);
    } else if (result == STORE_CONFLICT)
        transition_try_again(transition);
    else
        transition_finish(transition, result, NULL, NULL);
}

static void transition_decide(struct transition *transition, const struct store_view *view)
{
    struct decision decision;

    transition->decide(view, &decision, transition->arg);
    bool confirms = decision.confirms && store_waits_for_replicas(transition->store);
    if (!decision.commits && !confirms) {
        transition_finish(transition, STORE_OK, view, &decision);
        return;
    }
    struct proposal *proposal = mem_new(struct proposal);
    proposal->view = *view;
    proposal->decision = decision;
    transition->proposal = proposal;
    transition->op =
        decision.commits
            ? store_commit(transition->store, transition->device, &proposal->decision.change,
                           on_committed, transition)
            : store_confirm(transition->store, transition->device, on_committed, transition);
}

static void on_read(enum store_result result, const struct store_view *view, void *arg)
{
    struct transition *transition = arg;

    transition->op = NULL;
    if (result == STORE_OK)
        transition_decide(transition, view);
    else
        transition_finish(transition, result, NULL, NULL);
}

static void transition_read(struct transition *transition)
{
    const struct store_query query = {
        .device = transition->device,
        .key = transition->key,
        .certificate = transition->certificate,
        .certificate_twin = transition->certificate_twin,
        .next_key = transition->next_key,
        .after_commits = transition->after_commits,
    };

    transition->op = store_read(transition->store, &query, on_read, transition);
}

/* An id that does not fit is not one of ours; cut, it names nothing that exists either. */
static void transition_copy(char *dst, size_t size, const char *text)
{
    str_copy_cut(dst, size, str_c(text != NULL ? text : ""));
}

struct transition *transition_start(struct store *store, const struct store_query *query,
                                    transition_decide_fn *decide, transition_done_fn *done,
                                    void *arg)
{
    struct transition *transition = mem_new(struct transition);

    transition->store = store;
    transition->decide = decide;
    transition->done = done;
    transition->arg = arg;
    transition->after_commits = query->after_commits;
    transition_copy(transition->device, sizeof(transition->device), query->device);
    transition_copy(transition->key, sizeof(transition->key), query->key);
    transition_copy(transition->certificate, sizeof(transition->certificate), query->certificate);
    transition_copy(transition->certificate_twin, sizeof(transition->certificate_twin),
                    query->certificate_twin);
    transition_copy(transition->next_key, sizeof(transition->next_key), query->next_key);
    transition_read(transition);
    return transition;
}

void transition_name_peer(struct transition *transition, const char *peer)
{
    str_copy_cut(transition->peer, sizeof(transition->peer), str_c(peer));
}

/* What was sent may come to pass, whoever still wants it. */
static bool transition_is_committing(const struct transition *transition)
{
    return transition->proposal != NULL && transition->proposal->decision.commits;
}

void transition_cancel(struct transition **transition_at)
{
    struct transition *transition = *transition_at;

    *transition_at = NULL;
    if (transition == NULL || transition->is_finished)
        return;
    if (transition_is_committing(transition)) {
        transition->done = NULL;
        return;
    }
    store_op_cancel(&transition->op);
    transition_free(transition);
}
