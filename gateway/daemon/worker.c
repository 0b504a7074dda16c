/* SPDX-License-Identifier: BSD-2-Clause */
/* Orders from the main thread come as bits in `orders` and a write to an eventfd; everything else
 * happens on the worker's own thread. A worker ends its loop when it is told to stop, or when it
 * drains and nothing is left to drain. */
#include "gateway/daemon/worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/base/mem.h"
#include "gateway/base/piece.h"
#include "gateway/config_write.h"
#include "gateway/connection.h"
#include "gateway/connection_index.h"
#include "gateway/daemon/notify.h"
#include "gateway/listener.h"
#include "gateway/stalled.h"

enum {
    TICK_MS = 200,
    LOG_WAIT_MS = 20, /* how long a line of the access log waits for others, to leave with them */
};

/* Of freed buffers and the like, for the next request. A sanitizer sees what is used too late only
 * when nothing is kept. */
#ifdef __SANITIZE_ADDRESS__
enum { PIECES_KEPT = 0 };
#else
enum { PIECES_KEPT = 1 << 20 };
#endif

enum order {
    ORDER_RELOAD = 1 << 0,
    ORDER_DRAIN = 1 << 1,
    ORDER_STOP = 1 << 2,
};

/* --- generations ------------------------------------------------------------------------------ */

/* Takes over the reference to `snapshot`. */
static struct generation *generation_new(struct worker *worker, struct snapshot *snapshot)
{
    const struct config *config = snapshot->config;
    struct generation *generation = mem_new(struct generation);

    generation->refs = 1;
    generation->snapshot = snapshot;
    generation->pools = mem_array(config->n_backends, sizeof(*generation->pools));
    for (size_t i = 0; i < config->n_backends; i++) {
        const struct upstream_pool_params params = {
            .base = worker->base,
            .config = config,
            .backend = &config->backends[i],
            .tls = snapshot->tls_clients[i],
            .resolved = snapshot->resolved[i],
            .counts = worker->group->upstream_counts,
            .worker = worker->index,
            .scratch = worker->scratch,
            .scratch_size = WORKER_SCRATCH_SIZE,
        };
        generation->pools[i] = upstream_pool_new(&params);
    }
    return generation;
}

struct generation *generation_ref(struct generation *generation)
{
    generation->refs++;
    return generation;
}

void generation_unref(struct generation **generation_at)
{
    struct generation *generation = *generation_at;

    *generation_at = NULL;
    if (generation == NULL || --generation->refs > 0)
        return;
    for (size_t i = 0; i < generation->snapshot->config->n_backends; i++)
        upstream_pool_unref(&generation->pools[i]);
    mem_free(generation->pools);
    snapshot_unref(&generation->snapshot);
    mem_free(generation);
}

/* What was learned of backends that both have. */
static void generation_inherit(struct generation *generation, const struct generation *before)
{
    const struct config *now = generation->snapshot->config, *old = before->snapshot->config;

    for (size_t i = 0; i < now->n_backends; i++) {
        for (size_t k = 0; k < old->n_backends; k++) {
            if (strcmp(now->backends[i].name, old->backends[k].name) == 0)
                upstream_pool_inherit(generation->pools[i], before->pools[k]);
        }
    }
}

/* --- the worker's own thread ------------------------------------------------------------------ */

void worker_random(struct worker *worker, void *out, size_t n)
{
    struct random_stock *stock = &worker->random;

    if (stock->used + n > sizeof(stock->bytes)) {
        random_bytes(stock->bytes, sizeof(stock->bytes));
        stock->used = 0;
    }
    memcpy(out, stock->bytes + stock->used, n);
    stock->used += n;
}

static void on_cut(const struct store_cut *cut, void *arg)
{
    connections_cut(arg, cut);
}

static void on_gap(void *arg)
{
    struct worker *worker = arg;

    /* Finding the place in the log for the first time counts as one: whoever was admitted before
     * may have been cut. */
    if (worker->n_connections > 0)
        log_write(
            LOG_WARNING,
            "the event log has a gap: every connection is decided again before its next request",
            LOG_INT("connections", worker->n_connections));
    connections_distrust(worker);
}

enum whom {
    CLIENTS,  /* all listeners of the configuration */
    EVERYONE, /* the operator's own as well */
};

static void worker_stop_listening(struct worker *worker, enum whom whom)
{
    list_for_each_safe (link, following, &worker->listeners) {
        struct listener *listener = listener_of_link(link);
        if (whom == EVERYONE || !listener_is_operators_own(listener))
            listener_free(&listener);
    }
}

/* The first worker has the operator's socket, at which one can see how the others drain. */
static bool worker_is_drained(const struct worker *worker)
{
    const struct worker_group *group = worker->group;

    for (size_t i = 1; worker->index == 0 && i < group->n; i++) {
        if (!atomic_load(&group->workers[i]->finished))
            return false;
    }
    return connections_are_drained(worker) && list_is_empty(&worker->leases);
}

static void worker_end_when_drained(struct worker *worker)
{
    if (worker->draining &&
        (worker_is_drained(worker) || clock_monotonic_ms() >= worker->drain_until_ms))
        (void)event_base_loopbreak(worker->base);
}

static void worker_obey_reload(struct worker *worker, struct snapshot *snapshot)
{
    struct generation *before = worker->generation;

    worker->generation = generation_new(worker, snapshot);
    generation_inherit(worker->generation, before);
    generation_unref(&before);
    connections_recheck(worker, snapshot);
}

static void worker_obey_drain(struct worker *worker)
{
    int64_t within_ms = worker->generation->snapshot->config->drain_timeout_ms;

    worker->draining = true;
    worker->drain_until_ms = clock_monotonic_ms() + within_ms;
    list_for_each_safe (link, following, &worker->listeners)
        listener_accept_rest(listener_of_link(link));
    worker_stop_listening(worker, CLIENTS);
    connections_drain(worker, within_ms);
    worker_end_when_drained(worker);
}

static void on_orders(evutil_socket_t fd, short what, void *arg)
{
    struct worker *worker = arg;
    uint64_t count;

    (void)what;
    ssize_t got = read((int)fd, &count, sizeof(count));
    (void)got;
    (void)pthread_mutex_lock(&worker->lock);
    unsigned orders = worker->orders;
    struct snapshot *snapshot = worker->ordered_snapshot;
    worker->orders = 0;
    worker->ordered_snapshot = NULL;
    (void)pthread_mutex_unlock(&worker->lock);

    if (orders & ORDER_STOP)
        (void)event_base_loopbreak(worker->base);
    if (snapshot != NULL)
        worker_obey_reload(worker, snapshot);
    if ((orders & ORDER_DRAIN) && !worker->draining)
        worker_obey_drain(worker);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    connections_sweep(arg);
    worker_end_when_drained(arg);
}

/* A tick that is late says for how long something else kept the loop. */
static void worker_note_lag(struct worker *worker)
{
    int64_t now_us = clock_monotonic_us();

    if (worker->tick_due_us != 0)
        histogram_observe(&worker->stats->loop_lag, now_us - worker->tick_due_us);
    worker->tick_due_us = now_us + TICK_MS * 1000L;
    stat_set(&worker->stats->ticked_ms, (uint64_t)(now_us / 1000));
}

static void worker_note_store(struct worker *worker)
{
    struct stats *stats = worker->stats;

    stat_set(&stats->store_ready, store_is_ready(worker->store));
    stat_set(&stats->store_fresh, store_is_fresh(worker->store));
    stat_set(&stats->log_stale_ms, (uint64_t)store_stale_ms(worker->store));
    stat_set(&stats->store.reconnects, store_reconnects(worker->store));
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct worker *worker = arg;

    (void)fd;
    (void)what;
    worker_note_lag(worker);
    worker_note_store(worker);
    peer_log_tell(worker, clock_monotonic_ms());
    worker_end_when_drained(worker);
}

static void on_log_flush(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)arg;
    log_batch_flush();
}

static void on_log_waiting(void *arg)
{
    const struct timeval in = {.tv_usec = LOG_WAIT_MS * 1000L};
    struct worker *worker = arg;

    (void)event_add(worker->log_flush, &in);
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    char name[16]; /* the kernel's limit */

    (void)snprintf(name, sizeof(name), "worker %u", worker->index % 1000000);
    (void)pthread_setname_np(pthread_self(), name);

    log_batch_begin(on_log_waiting, worker);
    pieces_keep(PIECES_KEPT);
    on_tick(-1, 0, worker);
    (void)event_base_dispatch(worker->base);
    /* Everything of this thread ends on this thread. */
    worker_stop_listening(worker, EVERYONE);
    connections_close_all(worker);
    config_write_release_cancel_all(worker);
    connections_sweep(worker);
    peer_log_tell(worker, INT64_MAX);
    stalled_watch_free(&worker->stalled);
    store_free(&worker->store);
    generation_unref(&worker->generation);
    log_batch_end();
    pieces_release();
    atomic_store(&worker->finished, true);
    return NULL;
}

/* --- birth and death, on the main thread ------------------------------------------------------ */

static struct event_base *worker_base_new(void)
{
    struct event_config *config = event_config_new();

    if (config == NULL)
        abort();
    /* A base belongs to one thread. No changelist: it would speak to epoll of descriptors that are
     * closed already, and may be another thread's by then. */
    (void)event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
    struct event_base *base = event_base_new_with_config(config);
    event_config_free(config);
    if (base == NULL)
        abort();
    return base;
}

static void worker_init_events(struct worker *worker)
{
    const struct timeval tick = {.tv_usec = TICK_MS * 1000L};

    worker->sweep = evtimer_new(worker->base, on_sweep, worker);
    worker->tick = event_new(worker->base, -1, EV_PERSIST, on_tick, worker);
    worker->log_flush = evtimer_new(worker->base, on_log_flush, worker);
    worker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    worker->wake_event =
        event_new(worker->base, worker->wake_fd, EV_READ | EV_PERSIST, on_orders, worker);
    if (worker->sweep == NULL || worker->tick == NULL || worker->log_flush == NULL ||
        worker->wake_fd < 0 || worker->wake_event == NULL)
        abort();
    (void)event_add(worker->wake_event, NULL);
    (void)event_add(worker->tick, &tick);
}

static struct worker *worker_new(struct worker_group *group, unsigned index,
                                 struct snapshot *snapshot)
{
    const struct config *config = snapshot->config;
    struct worker *worker = mem_new(struct worker);

    worker->index = index;
    worker->group = group;
    worker->stats = &group->stats[index];
    stats_init(worker->stats, config);
    worker->base = worker_base_new();
    worker->scratch = mem_array(1, WORKER_SCRATCH_SIZE);
    worker->random.used = sizeof(worker->random.bytes);
    list_init(&worker->connections);
    list_init(&worker->handshakes);
    list_init(&worker->closed);
    list_init(&worker->listeners);
    list_init(&worker->leases);
    worker->index_by_device = connection_index_new();
    worker->budget = group->budget;
    (void)pthread_mutex_init(&worker->lock, NULL);
    worker_init_events(worker);
    worker->generation = generation_new(worker, snapshot_ref(snapshot));
    const struct store_handlers handlers = {.on_cut = on_cut,
                                            .on_gap = on_gap,
                                            .arg = worker,
                                            .stats = &worker->stats->store};
    worker->store_config = config_ref(config);
    worker->store = store_new(worker->base, worker->store_config, group->store_socket, &handlers);
    if (index == 0)
        worker->stalled = stalled_watch_new(worker);
    return worker;
}

static void worker_free(struct worker *worker)
{
    /* Only when the thread was never started is any of this left. */
    worker_stop_listening(worker, EVERYONE);
    stalled_watch_free(&worker->stalled);
    store_free(&worker->store);
    config_unref(&worker->store_config);
    generation_unref(&worker->generation);
    snapshot_unref(&worker->ordered_snapshot);
    connection_index_free(&worker->index_by_device);
    event_free(worker->log_flush);
    event_free(worker->tick);
    event_free(worker->wake_event);
    event_free(worker->sweep);
    (void)close(worker->wake_fd);
    event_base_free(worker->base);
    (void)pthread_mutex_destroy(&worker->lock);
    mem_free(worker->scratch);
    mem_free(worker);
}

static void log_listening(const char *name, const struct config_address *address, uint16_t port)
{
    CLEANUP(mem_free_at)
    char *where = address->type == CONFIG_ADDRESS_UNIX ? mem_printf("unix:%s", address->host)
                  : strchr(address->host, ':') != NULL ? mem_printf("[%s]:%u", address->host, port)
                                                       : mem_printf("%s:%u", address->host, port);

    log_write(LOG_NOTICE, "listening", LOG_STR("listener", name), LOG_STR("address", where));
}

/* The first worker's socket fixes the port when the kernel chooses; the others join it. */
static bool group_listen(struct worker_group *group, const struct config_listener *listener,
                         char *error, size_t error_size)
{
    bool is_unix = listener->address.type == CONFIG_ADDRESS_UNIX;
    uint16_t port = 0;

    for (size_t i = 0; i < (is_unix ? 1 : group->n); i++) {
        const struct listener_params params = {
            .worker = group->workers[i],
            .name = listener->name,
            .address = &listener->address,
            .port = port,
        };
        struct listener *opened = listener_new(&params, error, error_size);
        if (opened == NULL)
            return false;
        port = listener_port(opened);
    }
    log_listening(listener->name, &listener->address, port);
    return true;
}

static bool group_listen_operator(struct worker_group *group, const struct config *config,
                                  char *error, size_t error_size)
{
    const struct config_address address = {.type = CONFIG_ADDRESS_UNIX,
                                           .host = config->operator.socket };
    struct listener *listener =
        listener_new(&(struct listener_params){.worker = group->workers[0], .address = &address},
                     error, error_size);

    if (listener == NULL)
        return false;
    log_listening("operator", &address, 0);
    return true;
}

/* One of the sockets that the service manager opened for this listener. `name`: NULL for the
 * operator's own. */
static bool group_adopt(struct worker_group *group, struct inherited_socket *socket,
                        const char *name, enum config_address_type type, char *error,
                        size_t error_size)
{
    const struct config_address address = {.type = type, .host = "inherited"};
    struct listener_params params = {.name = name, .address = &address, .inherited = &socket->fd};
    bool is_unix = type == CONFIG_ADDRESS_UNIX;
    struct listener *listener = NULL;

    /* TLS, or its absence, follows from the configured address: a Unix socket's file permissions
     * let in whom TCP would have to be asked for a certificate. */
    if (socket->is_unix != is_unix) {
        (void)snprintf(error, error_size,
                       "the inherited socket \"%s\" is %s, but the listener's address is %s",
                       socket->name, socket->is_unix ? "a Unix socket" : "TCP",
                       is_unix ? "that of a Unix socket" : "TCP");
        return false;
    }
    for (size_t i = 0; i < (is_unix ? 1 : group->n); i++) {
        params.worker = group->workers[i];
        listener = listener_new(&params, error, error_size);
        if (listener == NULL)
            return false;
    }
    socket->is_used = true;
    log_write(LOG_NOTICE, "listening", LOG_STR("listener", socket->name),
              LOG_STR("address", inherited_address(socket).text), LOG_STR("socket", "inherited"));
    return true;
}

enum adoption {
    ADOPTION_NONE, /* no inherited socket has this name */
    ADOPTION_DONE,
    ADOPTION_FAILED,
};

static enum adoption group_adopt_all(struct worker_group *group, struct inherited *inherited,
                                     const struct config_listener *listener, char *error,
                                     size_t error_size)
{
    const char *name = listener != NULL ? listener->name : "operator";
    enum config_address_type type = listener != NULL ? listener->address.type : CONFIG_ADDRESS_UNIX;
    enum adoption adoption = ADOPTION_NONE;

    for (size_t i = 0; i < inherited->n; i++) {
        struct inherited_socket *socket = &inherited->sockets[i];
        if (strcmp(socket->name, name) != 0)
            continue;
        if (!group_adopt(group, socket, listener != NULL ? name : NULL, type, error, error_size))
            return ADOPTION_FAILED;
        adoption = ADOPTION_DONE;
    }
    return adoption;
}

static bool group_listen_all(struct worker_group *group, const struct config *config,
                             struct inherited *inherited, char *error, size_t error_size)
{
    for (size_t i = 0; i < config->n_listeners; i++) {
        const struct config_listener *listener = &config->listeners[i];
        enum adoption adoption = group_adopt_all(group, inherited, listener, error, error_size);
        if (adoption == ADOPTION_FAILED ||
            (adoption == ADOPTION_NONE && !group_listen(group, listener, error, error_size)))
            return false;
    }
    enum adoption adoption = group_adopt_all(group, inherited, NULL, error, error_size);
    if (adoption == ADOPTION_FAILED ||
        (adoption == ADOPTION_NONE && !group_listen_operator(group, config, error, error_size)))
        return false;
    const char *unused = inherited_unused(inherited);
    if (unused == NULL)
        return true;
    (void)snprintf(error, error_size,
                   "the inherited socket \"%s\" fits no listener: set FileDescriptorName= to a "
                   "listener's name, or \"operator\"",
                   unused);
    return false;
}

struct worker_group *worker_group_new(struct snapshot *snapshot, const char *store_socket,
                                      struct inherited *inherited, char *error, size_t error_size)
{
    const struct config *config = snapshot->config;
    struct worker_group *group = mem_new(struct worker_group);

    group->n = config->workers;
    group->store_socket = store_socket;
    group->budget = budget_new(config->max_connections);
    group->stats = mem_array(group->n, sizeof(*group->stats));
    group->upstream_counts = upstream_counts_new(group->n);
    group->workers = mem_array(group->n, sizeof(struct worker *));
    for (size_t i = 0; i < group->n; i++)
        group->workers[i] = worker_new(group, (unsigned)i, snapshot);
    if (!group_listen_all(group, config, inherited, error, error_size))
        worker_group_free(&group);
    return group;
}

void worker_group_start(struct worker_group *group)
{
    for (size_t i = 0; i < group->n; i++) {
        stat_set(&group->stats[i].ticked_ms, (uint64_t)clock_monotonic_ms());
        if (pthread_create(&group->workers[i]->thread, NULL, worker_main, group->workers[i]) != 0)
            abort();
    }
}

static void worker_order(struct worker *worker, enum order order, struct snapshot *snapshot)
{
    const uint64_t one = 1;

    (void)pthread_mutex_lock(&worker->lock);
    worker->orders |= order;
    if (snapshot != NULL) {
        snapshot_unref(&worker->ordered_snapshot);
        worker->ordered_snapshot = snapshot_ref(snapshot);
    }
    (void)pthread_mutex_unlock(&worker->lock);
    ssize_t written = write(worker->wake_fd, &one, sizeof(one));
    (void)written;
}

void worker_group_reload(struct worker_group *group, struct snapshot *snapshot)
{
    for (size_t i = 0; i < group->n; i++)
        worker_order(group->workers[i], ORDER_RELOAD, snapshot);
}

void worker_group_drain(struct worker_group *group)
{
    for (size_t i = 0; i < group->n; i++)
        worker_order(group->workers[i], ORDER_DRAIN, NULL);
}

void worker_group_stop(struct worker_group *group)
{
    for (size_t i = 0; i < group->n; i++)
        worker_order(group->workers[i], ORDER_STOP, NULL);
}

bool worker_group_may_pet(const struct worker_group *group, int64_t watchdog_ms)
{
    CLEANUP(mem_free_at) uint64_t *ticked_ms = mem_array(group->n, sizeof(*ticked_ms));
    uint64_t now_ms = (uint64_t)clock_monotonic_ms();

    for (size_t i = 0; i < group->n; i++)
        ticked_ms[i] = atomic_load(&group->workers[i]->finished)
                           ? now_ms
                           : stat_get(&group->stats[i].ticked_ms);
    return notify_may_pet(ticked_ms, group->n, now_ms, watchdog_ms);
}

bool worker_group_is_finished(const struct worker_group *group)
{
    for (size_t i = 0; i < group->n; i++) {
        if (!atomic_load(&group->workers[i]->finished))
            return false;
    }
    return true;
}

void worker_group_join(struct worker_group *group)
{
    for (size_t i = 0; i < group->n; i++)
        (void)pthread_join(group->workers[i]->thread, NULL);
}

void worker_group_free(struct worker_group **group_at)
{
    struct worker_group *group = *group_at;

    if (group == NULL)
        return;
    *group_at = NULL;
    for (size_t i = 0; i < group->n; i++)
        worker_free(group->workers[i]);
    upstream_counts_free(&group->upstream_counts);
    for (size_t i = 0; i < group->n; i++)
        stats_deinit(&group->stats[i]);
    mem_free(group->workers);
    budget_free(&group->budget);
    mem_free(group->stats);
    mem_free(group);
}
