/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/daemon/daemon.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/daemon/notify.h"
#include "gateway/daemon/resolver.h"
#include "gateway/daemon/worker.h"
#include "gateway/operator/metrics.h"
#include "gateway/operator/process_metrics.h"
#include "gateway/store/embedded.h"
#include "gateway/store/startup.h"

enum {
    WATCH_MS = 50,
    DRAIN_SLACK_MS = 5000, /* to end the threads, and the embedded store */
    COUNT_FILES_S = 5,
    START_PATIENCE_MS = 10000, /* then READY=1 is said, whatever the store does */
    ERROR_MAX = 1024,
};

struct daemon {
    const struct config *config; /* ref; the newest */
    struct event_base *base;     /* owned */
    struct embedded *embedded;   /* owned; NULL with a Redis of the operator's */
    struct snapshot *snapshot;   /* ref; in force */
    struct resolver *resolver;   /* owned */
    struct worker_group *group;  /* owned */
    struct event *signals[3];    /* owned: TERM, INT, HUP */
    struct event *watch;         /* owned */
    struct inherited inherited;  /* owned */
    bool store_answered;         /* at the start */
    bool started;                /* READY=1 was said */
    int64_t began_ms;            /* monotonic */
    int64_t petted_ms;
    bool draining;
    const char *unready; /* static: why the log heard that we are not ready; NULL: we are */
    struct event *count; /* owned */
};

void daemon_print_error(const char *line, void *arg)
{
    (void)arg;
    (void)fprintf(stderr, "%s\n", line);
}

/* --- signals ---------------------------------------------------------------------------------- */

static void on_stop(evutil_socket_t signal, short what, void *arg)
{
    struct daemon *daemon = arg;

    (void)what;
    if (daemon->draining) {
        log_write(LOG_NOTICE, "stopping at once", LOG_INT("signal", signal));
        worker_group_stop(daemon->group);
    } else {
        stat_set(&daemon->group->daemon.draining, 1);
        notify_send("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=%" PRId64,
                    (daemon->config->drain_timeout_ms + DRAIN_SLACK_MS) * 1000);
        log_write(LOG_NOTICE, "draining", LOG_INT("signal", signal),
                  LOG_INT("within_ms", daemon->config->drain_timeout_ms));
        worker_group_drain(daemon->group);
    }
    daemon->draining = true;
}

static void log_reload_refused(const char *line, void *arg)
{
    (void)arg;
    log_write(LOG_ERROR, "reload refused", LOG_STR("error", line));
}

/* Takes over the reference. */
static void daemon_put_in_force(struct snapshot *snapshot, void *arg)
{
    struct daemon *daemon = arg;

    if (!daemon->draining)
        worker_group_reload(daemon->group, snapshot);
    snapshot_unref(&daemon->snapshot);
    daemon->snapshot = snapshot;
}

/* All of it, or false and nothing. */
static bool daemon_reload(struct daemon *daemon)
{
    char error[ERROR_MAX];
    const struct config *config = config_load(daemon->config->path, log_reload_refused, NULL);

    if (config == NULL)
        return false;
    const char *obstacle = config_reload_obstacle(daemon->config, config);
    struct snapshot *snapshot =
        obstacle == NULL ? snapshot_new(config, error, sizeof(error)) : NULL;
    if (snapshot != NULL && !snapshot_resolve(snapshot, daemon->snapshot, error, sizeof(error)))
        snapshot_unref(&snapshot);
    if (snapshot == NULL) {
        log_reload_refused(obstacle != NULL ? obstacle : error, NULL);
        config_unref(&config);
        return false;
    }
    resolver_follow(daemon->resolver, snapshot);
    daemon_put_in_force(snapshot, daemon);
    log_set_level(config->log.level);
    config_unref(&daemon->config);
    daemon->config = config;
    log_write(LOG_NOTICE, "reloaded", LOG_STR("file", config->path));
    return true;
}

static void on_reload(evutil_socket_t signal, short what, void *arg)
{
    struct daemon *daemon = arg;
    struct daemon_stats *stats = &daemon->group->daemon;

    (void)signal;
    (void)what;
    if (daemon->draining) {
        log_write(LOG_NOTICE, "reload ignored: the daemon is draining");
        return;
    }
    notify_send("RELOADING=1\nMONOTONIC_USEC=%" PRId64, clock_monotonic_us());
    bool done = daemon_reload(daemon);
    if (done)
        stat_set(&stats->loaded_wall_ms, (uint64_t)clock_wall_ms());
    stat_add(done ? &stats->reloads : &stats->reloads_refused, 1);
    notify_send("READY=1\nSTATUS=%s", done ? "reloaded" : "reload refused: see the log");
}

static void daemon_note_readiness(struct daemon *daemon)
{
    const char *unready = metrics_unready(daemon->group);

    if (daemon->draining || (unready == NULL) == (daemon->unready == NULL))
        return;
    daemon->unready = unready;
    notify_send("STATUS=%s", unready == NULL ? "ready" : unready);
    if (unready == NULL)
        log_write(LOG_NOTICE, "ready");
    else
        log_write(LOG_WARNING, "not ready", LOG_STR("detail", unready));
}

/* READY=1 is for those who wait for the start. They wait for the store too, unless it is known to
 * be away: then it may be long, we serve without it (503, with the reason), and being restarted by
 * an impatient manager would mend nothing. */
static void daemon_tell_started(struct daemon *daemon)
{
    const char *unready = metrics_unready(daemon->group);
    bool patient =
        daemon->store_answered && clock_monotonic_ms() < daemon->began_ms + START_PATIENCE_MS;

    if (daemon->started || daemon->draining || (patient && unready != NULL))
        return;
    daemon->started = true;
    notify_send("READY=1\nSTATUS=%s", unready == NULL ? "ready" : unready);
}

static void daemon_pet_watchdog(struct daemon *daemon)
{
    int64_t watchdog_ms = notify_watchdog_ms(), now_ms = clock_monotonic_ms();

    if (watchdog_ms == 0 || now_ms - daemon->petted_ms < watchdog_ms / 4 ||
        !worker_group_may_pet(daemon->group, watchdog_ms))
        return;
    daemon->petted_ms = now_ms;
    notify_send("WATCHDOG=1");
}

static void on_watch(evutil_socket_t fd, short what, void *arg)
{
    struct daemon *daemon = arg;

    (void)fd;
    (void)what;
    /* The loop goes on to the end, so that a second signal is heard and the embedded store stays up
     * for what drains. */
    if (worker_group_is_finished(daemon->group))
        (void)event_base_loopbreak(daemon->base);
    daemon_note_readiness(daemon);
    daemon_tell_started(daemon);
    daemon_pet_watchdog(daemon);
}

static void on_count(evutil_socket_t fd, short what, void *arg)
{
    struct daemon *daemon = arg;

    (void)fd;
    (void)what;
    stat_set(&daemon->group->daemon.open_files, process_count_files());
}

/* --- start and stop --------------------------------------------------------------------------- */

/* As many descriptors as we may have: a connection is one, or two with its backend. */
static void raise_descriptor_limit(const struct config *config)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur / 2 < config->max_connections)
        log_write(LOG_WARNING,
                  "the limit of open files is below twice max_connections: raise it (LimitNOFILE, "
                  "ulimit -n)",
                  LOG_INT("files", limit.rlim_cur),
                  LOG_INT("max_connections", config->max_connections));
}

/* Who may use it, when we may not. */
static void say_owner(const char *path, const struct stat *found, char *error, size_t error_size)
{
    (void)snprintf(error, error_size,
                   "cannot use state_dir %s: %s: it belongs to uid %u with mode %04o, and this is "
                   "uid %u: chown it",
                   path, strerror(EACCES), (unsigned)found->st_uid,
                   (unsigned)found->st_mode & 07777, (unsigned)geteuid());
}

/* The operator's socket lives there, and the embedded store. */
static bool make_state_dir(const struct config *config, char *error, size_t error_size)
{
    struct stat found;

    if (mkdir(config->state_dir, 0700) != 0 && errno != EEXIST) {
        (void)snprintf(error, error_size, "cannot create state_dir %s: %s", config->state_dir,
                       strerror(errno));
        return false;
    }
    if (access(config->state_dir, R_OK | W_OK | X_OK) == 0)
        return true;
    int why = errno;
    bool is_found = stat(config->state_dir, &found) == 0;
    if (is_found && !S_ISDIR(found.st_mode))
        why = ENOTDIR;
    if (is_found && why == EACCES)
        say_owner(config->state_dir, &found, error, error_size);
    else
        (void)snprintf(error, error_size, "cannot use state_dir %s: %s", config->state_dir,
                       strerror(why));
    return false;
}

static bool daemon_start_store(struct daemon *daemon, char *error, size_t error_size)
{
    if (config_store_kind(daemon->config) == CONFIG_STORE_EMBEDDED) {
        daemon->embedded = embedded_start(daemon->base, daemon->config, error, error_size);
        if (daemon->embedded == NULL)
            return false;
    }
    const char *socket = daemon->embedded != NULL ? embedded_socket(daemon->embedded) : NULL;
    switch (store_startup_check(daemon->config, socket, error, error_size)) {
    case STORE_STARTUP_READY:
        daemon->store_answered = true;
        return true;
    case STORE_STARTUP_UNREACHABLE:
        log_write(LOG_WARNING, "the store cannot be reached yet; starting all the same",
                  LOG_STR("error", error));
        return true;
    case STORE_STARTUP_WRONG:
        break;
    }
    return false;
}

static bool daemon_start_workers(struct daemon *daemon, char *error, size_t error_size)
{
    const char *socket = daemon->embedded != NULL ? embedded_socket(daemon->embedded) : NULL;
    struct snapshot *snapshot = snapshot_new(daemon->config, error, error_size);

    daemon->snapshot = snapshot;
    if (snapshot == NULL || !snapshot_resolve(snapshot, NULL, error, error_size))
        return false;
    daemon->group = worker_group_new(snapshot, socket, &daemon->inherited, error, error_size);
    if (daemon->group == NULL)
        return false;
    stat_set(&daemon->group->daemon.loaded_wall_ms, (uint64_t)clock_wall_ms());
    stat_set(&daemon->group->daemon.open_files, process_count_files());
    return true;
}

static void daemon_watch_signals(struct daemon *daemon)
{
    const struct timeval watch = {.tv_usec = WATCH_MS * 1000L}, count = {.tv_sec = COUNT_FILES_S};

    daemon->signals[0] = evsignal_new(daemon->base, SIGTERM, on_stop, daemon);
    daemon->signals[1] = evsignal_new(daemon->base, SIGINT, on_stop, daemon);
    daemon->signals[2] = evsignal_new(daemon->base, SIGHUP, on_reload, daemon);
    daemon->watch = event_new(daemon->base, -1, EV_PERSIST, on_watch, daemon);
    daemon->count = event_new(daemon->base, -1, EV_PERSIST, on_count, daemon);
    if (daemon->watch == NULL || daemon->count == NULL)
        abort();
    for (size_t i = 0; i < ARRAY_SIZE(daemon->signals); i++) {
        if (daemon->signals[i] == NULL || event_add(daemon->signals[i], NULL) != 0)
            abort();
    }
    (void)event_add(daemon->watch, &watch);
    (void)event_add(daemon->count, &count);
}

/* Workers leave all signals to the main thread. */
static void daemon_start_threads(struct daemon *daemon)
{
    sigset_t all, before;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_BLOCK, &all, &before);
    worker_group_start(daemon->group);
    daemon->resolver = resolver_start(daemon->base, daemon->snapshot, daemon_put_in_force, daemon);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void daemon_free(struct daemon *daemon)
{
    for (size_t i = 0; i < ARRAY_SIZE(daemon->signals); i++) {
        if (daemon->signals[i] != NULL)
            event_free(daemon->signals[i]);
    }
    if (daemon->watch != NULL)
        event_free(daemon->watch);
    if (daemon->count != NULL)
        event_free(daemon->count);
    resolver_stop(&daemon->resolver);
    snapshot_unref(&daemon->snapshot);
    worker_group_free(&daemon->group);
    inherited_close(&daemon->inherited);
    embedded_stop(&daemon->embedded);
    event_base_free(daemon->base);
    config_unref(&daemon->config);
}

int daemon_run(const struct config *config)
{
    struct daemon daemon = {.config = config,
                            .base = event_base_new(),
                            .unready = "The daemon starts."};
    char error[ERROR_MAX] = "";

    if (daemon.base == NULL)
        abort();
    (void)signal(SIGPIPE, SIG_IGN);
    /* A log file (or the embedded store's data) at its size limit is an error like a full disk. */
    (void)signal(SIGXFSZ, SIG_IGN);
    log_configure(config->log.format, config->log.level);
    raise_descriptor_limit(config);
    notify_init();
    daemon.began_ms = clock_monotonic_ms();
    bool prepared = inherited_take(&daemon.inherited, error, sizeof(error)) &&
                    make_state_dir(config, error, sizeof(error)) &&
                    daemon_start_store(&daemon, error, sizeof(error));
    /* Before anybody is told that we listen: whoever reads that may send signals. */
    daemon_watch_signals(&daemon);
    if (!prepared || !daemon_start_workers(&daemon, error, sizeof(error))) {
        log_write(LOG_ERROR, "cannot start", LOG_STR("error", error));
        daemon_free(&daemon);
        return EXIT_FAILURE;
    }
    daemon_start_threads(&daemon);
    (void)event_base_dispatch(daemon.base);
    worker_group_join(daemon.group);
    daemon_free(&daemon);
    log_write(LOG_NOTICE, "stopped");
    return EXIT_SUCCESS;
}
