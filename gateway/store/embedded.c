/* SPDX-License-Identifier: BSD-2-Clause */
/* Everything here may block for a moment: it runs on the main thread, which serves nobody. After
 * the start it only waits for SIGCHLD. Between fork() and exec() there are other threads' locks in
 * unknown states, so the child calls nothing but system calls, with what was prepared before. */
#include "gateway/store/embedded.h"

#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/config/value.h"

enum {
    EMBEDDED_LOCK_MS = 10000,
    EMBEDDED_ANSWER_MS = 30000,
    EMBEDDED_LOADING_LOG_MS = 5000,
    EMBEDDED_STOP_MS = 10000,
    EMBEDDED_LOG_MAX = 8 * 1024 * 1024,
    EMBEDDED_BACKOFF_MIN_MS = 100,
    EMBEDDED_BACKOFF_MAX_MS = 10000,
    EMBEDDED_STEADY_MS = 10000, /* after so long, the back-off begins anew */
    EMBEDDED_POLL_MS = 20,
};

struct embedded {
    struct event *child_event; /* owned: SIGCHLD */
    struct event *restart;     /* owned: a timer */
    char *folder;              /* owned, absolute */
    char *program;             /* owned, absolute */
    char *socket;              /* owned */
    char *conf;                /* owned: path */
    char *log;                 /* owned: path */
    int lock_fd;               /* owned; -1 without the lock */
    pid_t pid;                 /* 0: none is running */
    int64_t started_ms;
    int backoff_ms;
};

static bool embedded_fails(char *error, size_t error_size, const char *doing, const char *what)
{
    (void)snprintf(error, error_size, "%s %s: %s", doing, what, strerror(errno));
    return false;
}

static void pause_ms(int ms)
{
    const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

    (void)nanosleep(&pause, NULL);
}

/* Never one of 0 to 2, which the server gets anew. */
static int open_high(const char *path, int flags, mode_t mode)
{
    int fd = open(path, flags | O_CLOEXEC, mode);

    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    return high;
}

/* What the server needs. */

static bool embedded_make_folder(struct embedded *embedded, const char *state_dir, char *error,
                                 size_t error_size)
{
    char absolute[PATH_MAX];

    if (mkdir(state_dir, 0700) != 0 && errno != EEXIST)
        return embedded_fails(error, error_size, "cannot create the state folder", state_dir);
    if (realpath(state_dir, absolute) == NULL)
        return embedded_fails(error, error_size, "cannot use the state folder", state_dir);
    embedded->folder = mem_strdup(absolute);
    embedded->socket = mem_printf("%s/redis.sock", absolute);
    embedded->conf = mem_printf("%s/redis.conf", absolute);
    embedded->log = mem_printf("%s/redis.log", absolute);
    if (strlen(embedded->socket) <= VALUE_SOCKET_PATH_MAX)
        return true;
    (void)snprintf(error, error_size,
                   "state_dir is too long: %s has %zu bytes, and a socket's path at most %d",
                   embedded->socket, strlen(embedded->socket), VALUE_SOCKET_PATH_MAX);
    return false;
}

static bool embedded_lock(struct embedded *embedded, char *error, size_t error_size)
{
    char *path CLEANUP(mem_free_at) = mem_printf("%s/lock", embedded->folder);
    int64_t deadline = clock_monotonic_ms() + EMBEDDED_LOCK_MS;
    bool is_told = false;

    embedded->lock_fd = open_high(path, O_RDWR | O_CREAT, 0600);
    if (embedded->lock_fd < 0)
        return embedded_fails(error, error_size, "cannot open", path);
    while (flock(embedded->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return embedded_fails(error, error_size, "cannot lock", path);
        if (clock_monotonic_ms() >= deadline) {
            (void)snprintf(error, error_size,
                           "%s is in use: another gateway, or its redis-server, is running on it",
                           embedded->folder);
            return false;
        }
        if (!is_told)
            log_write(LOG_NOTICE, "the state folder is in use; waiting for its gateway to end",
                      LOG_STR("folder", embedded->folder));
        is_told = true;
        pause_ms(EMBEDDED_POLL_MS);
    }
    return true;
}

/* The program with its folder, as a shell would find it: a name that is wrong is told here, and not
 * by a child that dies. */
static bool embedded_find_program(struct embedded *embedded, const char *name, char *error,
                                  size_t error_size)
{
    const char *path = getenv("PATH");
    struct str rest = str_c(path != NULL ? path : "/usr/local/bin:/usr/bin:/bin"), folder;

    if (strchr(name, '/') != NULL) {
        embedded->program = mem_strdup(name);
        if (access(name, X_OK) == 0)
            return true;
        return embedded_fails(error, error_size, "cannot run store.redis_server,", name);
    }
    while (str_split(&rest, ':', &folder)) {
        mem_free(embedded->program);
        embedded->program = mem_printf("%.*s/%s", STR_ARGS(folder), name);
        if (folder.len > 0 && access(embedded->program, X_OK) == 0)
            return true;
    }
    (void)
        snprintf(error, error_size,
                 "store.redis_server: there is no program %s in PATH (package redis-server, or set "
                 "store.redis)",
                 name);
    return false;
}

/* In quotes, as redis.conf has them. */
static void write_quoted(FILE *file, const char *name, const char *text)
{
    (void)fprintf(file, "%s \"", name);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\' || (unsigned char)*text < ' ')
            (void)fprintf(file, "\\x%02x", (unsigned char)*text);
        else
            (void)fputc(*text, file);
    }
    (void)fputs("\"\n", file);
}

static const char conf_text[] = "# Written by device-gateway at every start: changes are lost.\n"
                                "port 0\n"
                                "unixsocketperm 700\n"
                                "daemonize no\n"
                                "supervised no\n"
                                "databases 1\n"
                                "always-show-logo no\n"
                                "loglevel notice\n"
                                "# What was acknowledged must be on disk.\n"
                                "appendonly yes\n"
                                "appendfsync always\n"
                                "no-appendfsync-on-rewrite no\n"
                                "aof-load-truncated yes\n"
                                "save \"\"\n"
                                "# What was acknowledged must not vanish.\n"
                                "maxmemory-policy noeviction\n";

static bool embedded_write_conf(const struct embedded *embedded, char *error, size_t error_size)
{
    char *path CLEANUP(mem_free_at) = mem_printf("%s.new", embedded->conf);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;

    if (file == NULL) {
        if (fd >= 0)
            close(fd);
        return embedded_fails(error, error_size, "cannot write", path);
    }
    (void)fputs(conf_text, file);
    write_quoted(file, "unixsocket", embedded->socket);
    write_quoted(file, "dir", embedded->folder);
    write_quoted(file, "logfile", embedded->log);
    bool is_written = fflush(file) == 0 && ferror(file) == 0;
    if (fclose(file) != 0 || !is_written || rename(path, embedded->conf) != 0)
        return embedded_fails(error, error_size, "cannot write", embedded->conf);
    return true;
}

/* -1 on failure. */
static int embedded_open_log(const struct embedded *embedded)
{
    int fd = open_high(embedded->log, O_WRONLY | O_CREAT | O_APPEND, 0640);

    /* Whatever the umask. */
    if (fd >= 0)
        (void)fchmod(fd, 0640);
    return fd;
}

static void embedded_rotate_log(const struct embedded *embedded)
{
    char *aside CLEANUP(mem_free_at) = mem_printf("%s.1", embedded->log);
    struct stat status;

    if (stat(embedded->log, &status) == 0 && status.st_size > EMBEDDED_LOG_MAX)
        (void)rename(embedded->log, aside);
}

/* The process. */

static _Noreturn void child_run(const struct embedded *embedded, pid_t parent, int log_fd,
                                int null_fd)
{
    char *const argv[] = {embedded->program, embedded->conf, NULL};
    sigset_t none;

    for (int i = 1; i < NSIG; i++)
        (void)signal(i, SIG_DFL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    /* Ctrl-C at a terminal is the daemon's: it drains first. */
    (void)setsid();
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) /* died before the line above */
        _exit(1);
    (void)dup2(null_fd, STDIN_FILENO);
    (void)dup2(log_fd, STDOUT_FILENO);
    (void)dup2(log_fd, STDERR_FILENO);
    if (embedded->lock_fd > STDERR_FILENO + 1)
        (void)close_range(STDERR_FILENO + 1, (unsigned)embedded->lock_fd - 1, 0);
    (void)close_range((unsigned)embedded->lock_fd + 1, ~0u, 0);
    (void)fcntl(embedded->lock_fd, F_SETFD, 0);
    (void)execv(embedded->program, argv);
    static const char failed[] = "device-gateway: cannot run redis-server\n";
    ssize_t written = write(STDERR_FILENO, failed, sizeof(failed) - 1);
    (void)written;
    _exit(127);
}

static bool embedded_spawn(struct embedded *embedded, char *error, size_t error_size)
{
    int log_fd = embedded_open_log(embedded), null_fd = open_high("/dev/null", O_RDWR, 0);
    pid_t parent = getpid(), pid = -1;

    if (log_fd < 0 || null_fd < 0)
        (void)embedded_fails(error, error_size, "cannot open", embedded->log);
    else if ((pid = fork()) < 0)
        (void)embedded_fails(error, error_size, "cannot start", embedded->program);
    else if (pid == 0)
        child_run(embedded, parent, log_fd, null_fd);
    if (log_fd >= 0)
        close(log_fd);
    if (null_fd >= 0)
        close(null_fd);
    if (pid < 0)
        return false;
    embedded->pid = pid;
    embedded->started_ms = clock_monotonic_ms();
    return true;
}

/* Has the server ended? Then it is nobody's any more, and *out_status says how. */
static bool embedded_reap(struct embedded *embedded, int *out_status)
{
    if (embedded->pid == 0 || waitpid(embedded->pid, out_status, WNOHANG) != embedded->pid)
        return false;
    embedded->pid = 0;
    return true;
}

static void embedded_restart_later(struct embedded *embedded)
{
    if (clock_monotonic_ms() - embedded->started_ms >= EMBEDDED_STEADY_MS)
        embedded->backoff_ms = EMBEDDED_BACKOFF_MIN_MS;
    const struct timeval delay = {.tv_sec = embedded->backoff_ms / 1000,
                                  .tv_usec = embedded->backoff_ms % 1000 * 1000L};
    (void)event_add(embedded->restart, &delay);
    embedded->backoff_ms *= 2;
    if (embedded->backoff_ms > EMBEDDED_BACKOFF_MAX_MS)
        embedded->backoff_ms = EMBEDDED_BACKOFF_MAX_MS;
}

static void on_child(evutil_socket_t signal_number, short what, void *arg)
{
    struct embedded *embedded = arg;
    int status = 0;

    if (!embedded_reap(embedded, &status))
        return;
    log_write(LOG_ERROR, "the embedded redis-server has ended; it is started again",
              WIFSIGNALED(status) ? LOG_INT("signal", WTERMSIG(status))
                                  : LOG_INT("status", WEXITSTATUS(status)),
              LOG_STR("log", embedded->log), LOG_INT("wait_ms", embedded->backoff_ms));
    embedded_restart_later(embedded);
}

static void on_restart(evutil_socket_t fd, short what, void *arg)
{
    struct embedded *embedded = arg;
    char error[256];

    if (embedded_spawn(embedded, error, sizeof(error)))
        return;
    log_write(LOG_ERROR, "the embedded redis-server cannot be started", LOG_STR("error", error));
    embedded_restart_later(embedded);
}

/* The first answer. */

enum ping { PING_SILENT, PING_LOADING, PING_ANSWERED };

static enum ping embedded_ping(const struct embedded *embedded)
{
    const struct timeval timeout = {.tv_sec = 1};
    redisContext *context = redisConnectUnixWithTimeout(embedded->socket, timeout);
    redisReply *reply = NULL;
    enum ping result = PING_SILENT;

    if (context == NULL)
        return PING_SILENT;
    if (context->err == 0 && redisSetTimeout(context, timeout) == REDIS_OK)
        reply = redisCommand(context, "PING");
    if (reply != NULL && reply->type == REDIS_REPLY_ERROR)
        result = strncmp(reply->str, "LOADING", 7) == 0 ? PING_LOADING : PING_SILENT;
    else if (reply != NULL)
        result = PING_ANSWERED;
    if (reply != NULL)
        freeReplyObject(reply);
    redisFree(context);
    return result;
}

/* One look; false when there is nothing to wait for any more. */
static bool embedded_may_wait(struct embedded *embedded, int64_t deadline_ms, char *error,
                              size_t error_size)
{
    int status;

    if (embedded_reap(embedded, &status)) {
        (void)snprintf(error, error_size, "redis-server ended with %s %d; its log is %s",
                       WIFSIGNALED(status) ? "signal" : "status",
                       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), embedded->log);
        return false;
    }
    if (clock_monotonic_ms() < deadline_ms)
        return true;
    (void)snprintf(error, error_size, "redis-server does not answer; its log is %s", embedded->log);
    return false;
}

static bool embedded_wait(struct embedded *embedded, char *error, size_t error_size)
{
    int64_t deadline = clock_monotonic_ms() + EMBEDDED_ANSWER_MS;
    int64_t log_ms = clock_monotonic_ms() + EMBEDDED_LOADING_LOG_MS;
    enum ping ping;

    while ((ping = embedded_ping(embedded)) != PING_ANSWERED) {
        int64_t now = clock_monotonic_ms();
        if (ping == PING_LOADING)
            deadline = now + EMBEDDED_ANSWER_MS;
        if (ping == PING_LOADING && now >= log_ms) {
            log_write(LOG_NOTICE, "the embedded redis-server is still loading its data",
                      LOG_INT("seconds", (now - embedded->started_ms) / 1000));
            log_ms = now + EMBEDDED_LOADING_LOG_MS;
        }
        if (!embedded_may_wait(embedded, deadline, error, error_size))
            return false;
        pause_ms(EMBEDDED_POLL_MS);
    }
    return true;
}

/* Life. */

struct embedded *embedded_start(struct event_base *base, const struct config *config, char *error,
                                size_t error_size)
{
    struct embedded *embedded = mem_new(struct embedded);

    embedded->lock_fd = -1;
    embedded->backoff_ms = EMBEDDED_BACKOFF_MIN_MS;
    embedded->child_event = evsignal_new(base, SIGCHLD, on_child, embedded);
    embedded->restart = evtimer_new(base, on_restart, embedded);
    if (embedded->child_event == NULL || embedded->restart == NULL)
        abort();
    if (embedded_find_program(embedded, config->store.redis_server, error, error_size) &&
        embedded_make_folder(embedded, config->state_dir, error, error_size) &&
        embedded_lock(embedded, error, error_size) &&
        embedded_write_conf(embedded, error, error_size)) {
        embedded_rotate_log(embedded);
        (void)event_add(embedded->child_event, NULL);
        if (embedded_spawn(embedded, error, error_size) &&
            embedded_wait(embedded, error, error_size)) {
            log_write(LOG_INFO, "the embedded redis-server runs",
                      LOG_STR("socket", embedded->socket), LOG_INT("pid", embedded->pid));
            return embedded;
        }
    }
    embedded_stop(&embedded);
    return NULL;
}

const char *embedded_socket(const struct embedded *embedded)
{
    return embedded->socket;
}

static void embedded_end_server(struct embedded *embedded)
{
    int64_t deadline = clock_monotonic_ms() + EMBEDDED_STOP_MS;
    int status;

    if (embedded->pid == 0)
        return;
    (void)kill(embedded->pid, SIGTERM);
    while (!embedded_reap(embedded, &status)) {
        if (clock_monotonic_ms() >= deadline) {
            log_write(LOG_WARNING, "the embedded redis-server does not end; it is killed");
            (void)kill(embedded->pid, SIGKILL);
            (void)waitpid(embedded->pid, &status, 0);
            embedded->pid = 0;
            return;
        }
        pause_ms(EMBEDDED_POLL_MS);
    }
}

void embedded_stop(struct embedded **embedded)
{
    struct embedded *self = *embedded;

    if (self == NULL)
        return;
    event_free(self->child_event);
    event_free(self->restart);
    embedded_end_server(self);
    if (self->lock_fd >= 0)
        close(self->lock_fd);
    mem_free(self->folder);
    mem_free(self->program);
    mem_free(self->socket);
    mem_free(self->conf);
    mem_free(self->log);
    mem_free(self);
    *embedded = NULL;
}
