/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/daemon/resolver.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "gateway/base/log.h"
#include "gateway/base/mem.h"

enum { STOP_WAIT_S = 1 };

struct resolver {
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows, up to the line */
    pthread_cond_t wake;
    struct snapshot *snapshot; /* ref: in force */
    struct snapshot *renewed;  /* ref: made of it, for the main loop; NULL: none */
    bool stopping;
    /* ---- the main loop's */
    int fd; /* an eventfd: the thread has renewed something */
    struct event *event;
    resolver_changed_fn *on_changed;
    void *arg;
};

/* The next look is due; false when it is time to stop. Called with the lock. */
static bool resolver_wait(struct resolver *resolver)
{
    const struct snapshot *before = resolver->snapshot;
    struct timespec until;

    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ms = before->config->resolve_every_ms;
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    while (!resolver->stopping && resolver->snapshot == before &&
           pthread_cond_timedwait(&resolver->wake, &resolver->lock, &until) == 0)
        ;
    return !resolver->stopping;
}

static void *resolver_main(void *arg)
{
    struct resolver *resolver = arg;
    const uint64_t one = 1;

    (void)pthread_mutex_lock(&resolver->lock);
    while (resolver_wait(resolver)) {
        struct snapshot *before = snapshot_ref(resolver->snapshot);
        (void)pthread_mutex_unlock(&resolver->lock);
        struct snapshot *renewed = snapshot_renew(before);
        (void)pthread_mutex_lock(&resolver->lock);
        /* A reload meanwhile has looked for itself. */
        if (renewed != NULL && resolver->snapshot == before && !resolver->stopping) {
            snapshot_unref(&resolver->renewed);
            resolver->renewed = renewed;
            renewed = NULL;
            ssize_t written = write(resolver->fd, &one, sizeof(one));
            (void)written;
        }
        (void)pthread_mutex_unlock(&resolver->lock);
        snapshot_unref(&renewed);
        snapshot_unref(&before);
        (void)pthread_mutex_lock(&resolver->lock);
    }
    (void)pthread_mutex_unlock(&resolver->lock);
    return NULL;
}

static void on_renewed(evutil_socket_t fd, short what, void *arg)
{
    struct resolver *resolver = arg;
    uint64_t count;

    (void)what;
    ssize_t got = read((int)fd, &count, sizeof(count));
    (void)got;
    (void)pthread_mutex_lock(&resolver->lock);
    struct snapshot *renewed = resolver->renewed;
    resolver->renewed = NULL;
    (void)pthread_mutex_unlock(&resolver->lock);
    if (renewed == NULL)
        return;
    resolver_follow(resolver, renewed);
    resolver->on_changed(renewed, resolver->arg);
}

struct resolver *resolver_start(struct event_base *base, struct snapshot *snapshot,
                                resolver_changed_fn *on_changed, void *arg)
{
    struct resolver *resolver = mem_new(struct resolver);
    pthread_condattr_t attributes;

    (void)pthread_mutex_init(&resolver->lock, NULL);
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&resolver->wake, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    resolver->snapshot = snapshot_ref(snapshot);
    resolver->on_changed = on_changed;
    resolver->arg = arg;
    resolver->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    resolver->event = event_new(base, resolver->fd, EV_READ | EV_PERSIST, on_renewed, resolver);
    if (resolver->fd < 0 || resolver->event == NULL || event_add(resolver->event, NULL) != 0 ||
        pthread_create(&resolver->thread, NULL, resolver_main, resolver) != 0)
        abort();
    return resolver;
}

void resolver_follow(struct resolver *resolver, struct snapshot *snapshot)
{
    (void)pthread_mutex_lock(&resolver->lock);
    snapshot_unref(&resolver->renewed);
    snapshot_unref(&resolver->snapshot);
    resolver->snapshot = snapshot_ref(snapshot);
    (void)pthread_cond_signal(&resolver->wake);
    (void)pthread_mutex_unlock(&resolver->lock);
}

void resolver_stop(struct resolver **resolver_at)
{
    struct resolver *resolver = *resolver_at;
    struct timespec until;

    *resolver_at = NULL;
    if (resolver == NULL)
        return;
    event_free(resolver->event);
    (void)pthread_mutex_lock(&resolver->lock);
    resolver->stopping = true;
    (void)pthread_cond_signal(&resolver->wake);
    (void)pthread_mutex_unlock(&resolver->lock);
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STOP_WAIT_S;
    if (pthread_timedjoin_np(resolver->thread, NULL, &until) != 0)
        return; /* it hangs in the resolver, and still uses all of this; the process ends */
    snapshot_unref(&resolver->renewed);
    snapshot_unref(&resolver->snapshot);
    (void)close(resolver->fd);
    (void)pthread_cond_destroy(&resolver->wake);
    (void)pthread_mutex_destroy(&resolver->lock);
    mem_free(resolver);
}
