/* SPDX-License-Identifier: BSD-2-Clause */
/* The loop and the thread share one job. Whoever leaves last frees it; the thread tells the loop
 * through an eventfd when the result is complete. What hands the result's memory over is the
 * release and acquire of `complete`: C knows nothing of descriptors. */
#include "gateway/store/resolve.h"

#include <assert.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/base/mem.h"

struct resolve_job {
    atomic_int refs;
    int done_fd;                  /* owned */
    char *host;                   /* owned */
    struct resolve_result result; /* the thread's until `complete` */
    atomic_bool complete;
};

struct resolve {
    struct resolve_job *job;  /* ref */
    struct event *done_event; /* owned */
    resolve_done_fn *done;
    void *arg;
};

static void job_unref(struct resolve_job *job)
{
    if (atomic_fetch_sub(&job->refs, 1) != 1)
        return;
    if (job->done_fd >= 0)
        close(job->done_fd);
    mem_free(job->host);
    mem_free(job);
}

void resolve_now(const char *host, struct resolve_result *out)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *found = NULL;
    int status = getaddrinfo(host, NULL, &hints, &found);

    out->n = 0;
    out->error = status != 0 ? gai_strerror(status) : NULL;
    for (struct addrinfo *a = found; a != NULL && out->n < RESOLVE_ADDRESSES_MAX; a = a->ai_next) {
        if (getnameinfo(a->ai_addr, a->ai_addrlen, out->addresses[out->n], RESOLVE_ADDRESS_SIZE,
                        NULL, 0, NI_NUMERICHOST) == 0)
            out->n++;
    }
    if (found != NULL)
        freeaddrinfo(found);
    if (out->n == 0 && out->error == NULL)
        out->error = "the name has no address";
}

static void *resolve_thread(void *arg)
{
    struct resolve_job *job = arg;

    resolve_now(job->host, &job->result);
    atomic_store_explicit(&job->complete, true, memory_order_release);
    (void)eventfd_write(job->done_fd, 1);
    job_unref(job);
    return NULL;
}

/* Signals are the main thread's. */
static bool thread_begin(struct resolve_job *job)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_t thread;

    if (pthread_attr_init(&attributes) != 0)
        return false;
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool is_running = pthread_create(&thread, &attributes, resolve_thread, job) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return is_running;
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
    struct resolve *resolve = arg;
    struct resolve_job *job = resolve->job;
    resolve_done_fn *done = resolve->done;
    void *done_arg = resolve->arg;

    bool complete = atomic_load_explicit(&job->complete, memory_order_acquire);
    assert(complete); /* the eventfd is written afterwards */
    (void)complete;
    event_free(resolve->done_event);
    mem_free(resolve);
    done(&job->result, done_arg);
    job_unref(job);
}

struct resolve *resolve_start(struct event_base *base, const char *host, resolve_done_fn *done,
                              void *arg)
{
    struct resolve *resolve = mem_new(struct resolve);
    struct resolve_job *job = mem_new(struct resolve_job);

    job->host = mem_strdup(host);
    job->result.error = "no thread can be started to look the name up";
    job->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    atomic_init(&job->refs, 2);
    resolve->job = job;
    resolve->done = done;
    resolve->arg = arg;
    resolve->done_event = event_new(base, job->done_fd, EV_READ, on_done, resolve);
    if (resolve->done_event == NULL)
        abort();
    if (job->done_fd >= 0 && thread_begin(job)) {
        (void)event_add(resolve->done_event, NULL);
        return resolve;
    }
    /* No thread: the answer is the error that stands there already. */
    atomic_store_explicit(&job->complete, true, memory_order_release);
    job_unref(job);
    event_active(resolve->done_event, EV_READ, 0);
    return resolve;
}

void resolve_cancel(struct resolve **resolve)
{
    if (*resolve == NULL)
        return;
    event_free((*resolve)->done_event);
    job_unref((*resolve)->job);
    mem_free(*resolve);
    *resolve = NULL;
}
