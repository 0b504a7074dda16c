/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/stalled.h"

#include <stdlib.h>

#include "gateway/base/encode.h"
#include "gateway/base/mem.h"
#include "gateway/store/transition.h"
#include "policy/rotation.h"

enum {
    STALLED_PERIOD_MAX_MS = 15000,
    STALLED_PERIOD_MIN_MS = 1000,
    STALLED_PERIODS = 10, /* in stalled_after: a report is late by at most a tenth */
};

struct stalled_watch {
    struct worker *worker; /* borrowed */
    struct event *timer;   /* owned */
    struct store_op *op;   /* of the store; NULL: nothing is asked */
    struct transition *transition;
    uint32_t partition;
    struct store_pending found; /* in that partition */
    size_t at;                  /* of found.overdue: being marked */
    bool moved;                 /* some of them left the set of the overdue */
    uint64_t n_pending;         /* in the partitions so far */
    uint64_t n_stalled;
    bool is_partial; /* a partition could not be asked */
};

static void stalled_ask(struct stalled_watch *watch);
static void stalled_mark_next(struct stalled_watch *watch);

static const struct config *stalled_config(const struct stalled_watch *watch)
{
    return watch->worker->generation->snapshot->config;
}

static int64_t stalled_after_ms(const struct stalled_watch *watch)
{
    return stalled_config(watch)->rotation.admission.stalled_after_ms;
}

/* Gateways that were started together should not ask together for ever. */
static void stalled_wait(struct stalled_watch *watch)
{
    int64_t period_ms = stalled_after_ms(watch) / STALLED_PERIODS;

    if (period_ms == 0 || period_ms > STALLED_PERIOD_MAX_MS)
        period_ms = STALLED_PERIOD_MAX_MS;
    if (period_ms < STALLED_PERIOD_MIN_MS)
        period_ms = STALLED_PERIOD_MIN_MS;
    int64_t in_ms = period_ms * 3 / 4 + random_below((uint32_t)period_ms / 2);
    const struct timeval in = {.tv_sec = in_ms / 1000, .tv_usec = in_ms % 1000 * 1000};
    (void)evtimer_add(watch->timer, &in);
}

static void stalled_next_partition(struct stalled_watch *watch)
{
    if (++watch->partition < watch->worker->store_config->store.partitions) {
        stalled_ask(watch);
        return;
    }
    if (!watch->is_partial) {
        stat_set(&watch->worker->stats->rotations_pending, watch->n_pending + watch->n_stalled);
        stat_set(&watch->worker->stats->rotations_stalled, watch->n_stalled);
    }
    stalled_wait(watch);
}

/* The server of a Cluster's partition may be away for long: the others are looked after. */
static void stalled_give_up_partition(struct stalled_watch *watch)
{
    watch->is_partial = true;
    stalled_next_partition(watch);
}

static void stalled_end_partition(struct stalled_watch *watch)
{
    /* A full page has more behind it, which the next look shows if this one moved anything. */
    if (watch->found.n_overdue == STORE_PENDING_MAX && watch->moved) {
        stalled_ask(watch);
        return;
    }
    watch->n_pending += watch->found.n_pending;
    watch->n_stalled += watch->found.n_stalled;
    stalled_next_partition(watch);
}

/* --- marking ---------------------------------------------------------------------------------- */

static void decide_stalled(const struct store_view *view, struct decision *out, void *arg)
{
    const struct stalled_watch *watch = arg;
    const struct device_record *record = &view->record;

    rotation_mark_stalled(record, stalled_after_ms(watch), view->now_ms, out);
    if (!out->commits && record_exists(record) &&
        (!record_rotation_pending(record) || record->stalled))
        (void)decision_write_record(out, record, view->now_ms);
}

static void on_forgotten(enum store_result result, void *arg)
{
    struct stalled_watch *watch = arg;

    watch->op = NULL;
    if (result != STORE_OK) {
        stalled_give_up_partition(watch);
        return;
    }
    watch->moved = true;
    stalled_mark_next(watch);
}

static void on_marked(enum store_result result, const struct store_view *view,
                      const struct decision *decision, void *arg)
{
    struct stalled_watch *watch = arg;
    const char *device = watch->found.overdue[watch->at++];

    watch->transition = NULL;
    /* A record that cannot be understood or keeps changing does not keep the others waiting. */
    if (result == STORE_UNAVAILABLE) {
        stalled_give_up_partition(watch);
        return;
    }
    if (result == STORE_OK && !record_exists(&view->record)) {
        watch->op = store_forget_pending(watch->worker->store, watch->partition, device,
                                         on_forgotten, watch);
        return;
    }
    if (result == STORE_OK && decision->commits)
        watch->moved = true;
    stalled_mark_next(watch);
}

static void stalled_mark_next(struct stalled_watch *watch)
{
    if (watch->at == watch->found.n_overdue) {
        stalled_end_partition(watch);
        return;
    }
    const struct store_query query = {.device = watch->found.overdue[watch->at]};
    watch->transition =
        transition_start(watch->worker->store, &query, decide_stalled, on_marked, watch);
}

/* --- asking ----------------------------------------------------------------------------------- */

static void on_pending(enum store_result result, const struct store_pending *pending, void *arg)
{
    struct stalled_watch *watch = arg;

    watch->op = NULL;
    if (result != STORE_OK) {
        stalled_give_up_partition(watch);
        return;
    }
    watch->found = *pending;
    watch->at = 0;
    watch->moved = false;
    stalled_mark_next(watch);
}

static void stalled_ask(struct stalled_watch *watch)
{
    watch->op = store_read_pending(watch->worker->store, watch->partition, stalled_after_ms(watch),
                                   on_pending, watch);
}

static void on_stalled_timer(evutil_socket_t fd, short what, void *arg)
{
    struct stalled_watch *watch = arg;

    (void)fd;
    (void)what;
    watch->partition = 0;
    watch->n_pending = watch->n_stalled = 0;
    watch->is_partial = false;
    stalled_ask(watch);
}

struct stalled_watch *stalled_watch_new(struct worker *worker)
{
    struct stalled_watch *watch = mem_new(struct stalled_watch);

    watch->worker = worker;
    watch->timer = evtimer_new(worker->base, on_stalled_timer, watch);
    if (watch->timer == NULL)
        abort();
    stalled_wait(watch);
    return watch;
}

void stalled_watch_free(struct stalled_watch **watch_at)
{
    struct stalled_watch *watch = *watch_at;

    *watch_at = NULL;
    if (watch == NULL)
        return;
    event_free(watch->timer);
    store_op_cancel(&watch->op);
    transition_cancel(&watch->transition);
    mem_free(watch);
}
