/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <event2/event_struct.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/connection.h"

enum {
    LISTENER_BACKLOG = 4096,
    ACCEPTS_A_TURN = 64,          /* then live connections get their turn */
    ACCEPT_SAID_EVERY_MS = 10000, /* the log hears of it so often at most */
    ACCEPT_PAUSE_MS = 100,        /* when descriptors or memory are out */
};

struct listener {
    struct list link;             /* worker->listeners */
    struct worker *worker;        /* borrowed: owns us */
    struct listener_stats *stats; /* borrowed from the worker's stats */
    char *name;                   /* owned; NULL: the operator's own listener */
    char *unix_path;              /* owned; NULL for TCP */
    uint16_t port;
    bool inherited;
    int fd;          /* owned */
    int64_t said_ms; /* monotonic: when the log heard that accepting fails */
    struct event accept_event;
    struct event resume_event; /* after a pause */
};

/* --- sockets ---------------------------------------------------------------------------------- */

static void say(char *error, size_t size, const char *what, const char *where, const char *why)
{
    (void)snprintf(error, size, "cannot %s %s: %s", what, where, why);
}

/* SO_REUSEPORT is for the workers of one daemon. A second daemon would get in with it as well, and
 * quietly take its share of the connections; without it, nobody can bind where somebody listens. */
static bool tcp_is_taken(const struct addrinfo *where)
{
    const int on = 1;
    int fd = socket(where->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return false;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    bool taken = bind(fd, where->ai_addr, where->ai_addrlen) != 0 && errno == EADDRINUSE;
    (void)close(fd);
    return taken;
}

static int bind_tcp(const struct addrinfo *where)
{
    const int on = 1;
    int fd = socket(where->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0 ||
        (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
         setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0 &&
         bind(fd, where->ai_addr, where->ai_addrlen) == 0 && listen(fd, LISTENER_BACKLOG) == 0))
        return fd;
    int why = errno;
    (void)close(fd);
    errno = why;
    return -1;
}

/* `port` is what the first worker's socket has got; 0: this is the first. */
static int open_tcp(const struct config_address *address, uint16_t port, char *error,
                    size_t error_size)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char where[300], service[8];

    (void)snprintf(service, sizeof(service), "%u", port != 0 ? port : address->port);
    (void)snprintf(where, sizeof(where), "%s port %s", address->host, service);
    int failed = getaddrinfo(address->host, service, &hints, &found);
    if (failed != 0) {
        say(error, error_size, "resolve", where, gai_strerror(failed));
        return -1;
    }
    bool taken = port == 0 && address->port != 0 && tcp_is_taken(found);
    int fd = taken ? -1 : bind_tcp(found);
    if (fd < 0)
        say(error, error_size, "listen on", where, strerror(taken ? EADDRINUSE : errno));
    freeaddrinfo(found);
    return fd;
}

/* Somebody who is gone left the file behind; one who lives answers. */
static bool unix_socket_is_live(const struct sockaddr_un *where)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return true;
    bool live =
        connect(fd, (const struct sockaddr *)where, sizeof(*where)) == 0 || errno != ECONNREFUSED;
    (void)close(fd);
    return live;
}

static int open_unix(const char *path, char *error, size_t error_size)
{
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    struct stat found;

    if (!str_copy(where.sun_path, sizeof(where.sun_path), str_c(path))) {
        say(error, error_size, "listen on", path,
            "the path of a Unix socket is at most 107 bytes long");
        return -1;
    }
    if (lstat(path, &found) == 0 && S_ISSOCK(found.st_mode)) {
        if (unix_socket_is_live(&where)) {
            say(error, error_size, "listen on", path, "another process serves it");
            return -1;
        }
        (void)unlink(path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t before = umask(0177);
    bool bound = fd >= 0 && bind(fd, (const struct sockaddr *)&where, sizeof(where)) == 0;
    (void)umask(before);
    if (!bound || listen(fd, LISTENER_BACKLOG) != 0) {
        say(error, error_size, "listen on", path, strerror(errno));
        if (fd >= 0)
            (void)close(fd);
        return -1;
    }
    return fd;
}

static int duplicate(int fd, char *error, size_t error_size)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (copy < 0)
        say(error, error_size, "duplicate", "an inherited socket", strerror(errno));
    return copy;
}

static uint16_t bound_port(int fd)
{
    struct sockaddr_storage bound = {0};
    socklen_t len = sizeof(bound);

    if (getsockname(fd, (struct sockaddr *)&bound, &len) != 0)
        return 0;
    if (bound.ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)&bound)->sin_port);
    return bound.ss_family == AF_INET6 ? ntohs(((const struct sockaddr_in6 *)&bound)->sin6_port)
                                       : 0;
}

/* --- accepting -------------------------------------------------------------------------------- */

/* The listener's settings in the snapshot that new connections get. */
static const struct config_listener *listener_config(const struct listener *listener)
{
    const struct config *config = listener->worker->generation->snapshot->config;

    for (size_t i = 0; listener->name != NULL && i < config->n_listeners; i++) {
        if (strcmp(config->listeners[i].name, listener->name) == 0)
            return &config->listeners[i];
    }
    return NULL;
}

static void listener_hand_over(struct listener *listener, int fd,
                               const struct sockaddr_storage *peer)
{
    const struct connection_origin origin = {.fd = fd,
                                             .listener = listener_config(listener),
                                             .stats = listener->stats,
                                             .peer = peer};

    /* Without settings a connection would be taken for the operator's own. */
    if (listener->name != NULL && origin.listener == NULL)
        (void)close(fd);
    else
        connection_accept(listener->worker, &origin);
}

/* Without descriptors the socket would stay readable and spin the loop: look away for a moment. */
static void listener_pause(struct listener *listener)
{
    const struct timeval pause = {.tv_usec = ACCEPT_PAUSE_MS * 1000L};
    int64_t now_ms = clock_monotonic_ms();

    stat_add(&listener->worker->stats->accepts_failed, 1);
    if (now_ms - listener->said_ms >= ACCEPT_SAID_EVERY_MS) {
        log_write(LOG_ERROR, "cannot accept connections", LOG_STR("error", strerror(errno)),
                  LOG_STR("listener", listener->name != NULL ? listener->name : "operator"));
        listener->said_ms = now_ms;
    }
    (void)event_del(&listener->accept_event);
    (void)evtimer_add(&listener->resume_event, &pause);
}

static void listener_accept(struct listener *listener, int max)
{
    for (int i = 0; i < max; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof(peer);
        int fd =
            accept4(listener->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            listener_hand_over(listener, fd, &peer);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            listener_pause(listener);
        if (errno != ECONNABORTED && errno != EINTR)
            return;
    }
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    listener_accept(arg, ACCEPTS_A_TURN);
}

void listener_accept_rest(struct listener *listener)
{
    if (!listener->inherited)
        listener_accept(listener, LISTENER_BACKLOG);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    struct listener *listener = arg;

    (void)fd;
    (void)what;
    (void)event_add(&listener->accept_event, NULL);
}

struct listener *listener_new(const struct listener_params *params, char *error, size_t error_size)
{
    const struct config_address *address = params->address;
    bool is_unix = address->type == CONFIG_ADDRESS_UNIX;
    int fd = params->inherited != NULL ? duplicate(*params->inherited, error, error_size)
             : is_unix                 ? open_unix(address->host, error, error_size)
                                       : open_tcp(address, params->port, error, error_size);

    if (fd < 0)
        return NULL;
    struct listener *listener = mem_new(struct listener);
    listener->worker = params->worker;
    listener->stats = stats_listener(params->worker->stats, params->name);
    listener->name = params->name != NULL ? mem_strdup(params->name) : NULL;
    listener->inherited = params->inherited != NULL;
    /* The file of an inherited socket is its owner's. */
    listener->unix_path = is_unix && !listener->inherited ? mem_strdup(address->host) : NULL;
    listener->fd = fd;
    listener->said_ms = -ACCEPT_SAID_EVERY_MS;
    listener->port = is_unix ? 0 : bound_port(fd);
    (void)event_assign(&listener->accept_event, params->worker->base, fd, EV_READ | EV_PERSIST,
                       on_acceptable, listener);
    (void)evtimer_assign(&listener->resume_event, params->worker->base, on_resume, listener);
    (void)event_add(&listener->accept_event, NULL);
    list_push_back(&params->worker->listeners, &listener->link);
    return listener;
}

void listener_free(struct listener **listener_at)
{
    struct listener *listener = *listener_at;

    *listener_at = NULL;
    if (listener == NULL)
        return;
    list_remove(&listener->link);
    (void)event_del(&listener->accept_event);
    (void)event_del(&listener->resume_event);
    (void)close(listener->fd);
    if (listener->unix_path != NULL)
        (void)unlink(listener->unix_path);
    mem_free(listener->unix_path);
    mem_free(listener->name);
    mem_free(listener);
}

bool listener_is_operators_own(const struct listener *listener)
{
    return listener->name == NULL;
}

uint16_t listener_port(const struct listener *listener)
{
    return listener->port;
}

struct list *listener_link(struct listener *listener)
{
    return &listener->link;
}

struct listener *listener_of_link(struct list *link)
{
    return list_entry(link, struct listener, link);
}
