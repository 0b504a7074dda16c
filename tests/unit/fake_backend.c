/* SPDX-License-Identifier: BSD-2-Clause */
#include "fake_backend.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FAKE_PIECE = 16 * 1024, FAKE_ROUNDS_MAX = 100, FAKE_BACKLOG = 16 };

struct fake_conn {
    struct fake_backend *backend;
    const struct fake_script *script;
    int fd; /* -1: closed */
    struct event *readable;
    struct event *writable;
    struct event *timer;
    size_t step;
    size_t done;    /* bytes of this step */
    size_t awaited; /* bytes of `got` that earlier steps have awaited */
    unsigned rounds;
    bool paused;
    bool deaf;
    char *got;
    size_t got_len;
    size_t first_read;
};

struct fake_backend {
    struct event_base *base;
    int fd;
    struct event *acceptable;
    uint16_t port;
    char path[64];
    const struct fake_script *scripts;
    size_t n_scripts;
    struct fake_conn conns[FAKE_CONNS_MAX];
    size_t n_conns;
};

static void fake_conn_run(struct fake_conn *conn);

static void fake_conn_close(struct fake_conn *conn, bool reset)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    if (conn->fd < 0)
        return;
    if (reset)
        (void)setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    event_free(conn->readable);
    event_free(conn->writable);
    event_free(conn->timer);
    close(conn->fd);
    conn->fd = -1;
}

static void fake_conn_next(struct fake_conn *conn)
{
    conn->step++;
    conn->done = 0;
}

/* Ends of file are ignored: whoever wants to close has it in the script. */
static void on_fake_readable(evutil_socket_t fd, short what, void *arg)
{
    struct fake_conn *conn = arg;
    static char piece[FAKE_PIECE];
    ssize_t n = recv(fd, piece, sizeof(piece), MSG_DONTWAIT);

    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            event_del(conn->readable);
        return;
    }
    conn->got = realloc(conn->got, conn->got_len + (size_t)n + 1);
    assert(conn->got != NULL);
    memcpy(conn->got + conn->got_len, piece, (size_t)n);
    conn->got_len += (size_t)n;
    conn->got[conn->got_len] = '\0';
    if (conn->first_read == 0)
        conn->first_read = (size_t)n;
    fake_conn_run(conn);
}

static void on_fake_writable(evutil_socket_t fd, short what, void *arg)
{
    fake_conn_run(arg);
}

static void on_fake_timer(evutil_socket_t fd, short what, void *arg)
{
    struct fake_conn *conn = arg;

    conn->paused = false;
    fake_conn_run(conn);
}

static void fake_conn_pause(struct fake_conn *conn, size_t ms)
{
    const struct timeval in = {.tv_sec = (time_t)(ms / 1000),
                               .tv_usec = (suseconds_t)(ms % 1000 * 1000)};

    conn->paused = true;
    event_add(conn->timer, &in);
}

/* True when it has come. */
static bool fake_conn_await(struct fake_conn *conn, const struct fake_step *step)
{
    if (step->act == FAKE_AWAIT_TOTAL)
        return conn->got_len >= step->n;
    if (conn->got == NULL)
        return false;
    const char *found = memmem(conn->got + conn->awaited, conn->got_len - conn->awaited, step->text,
                               strlen(step->text));
    if (found == NULL)
        return false;
    conn->awaited = (size_t)(found - conn->got) + strlen(step->text);
    return true;
}

/* True when the step is done; otherwise the socket is full, or gone. */
static bool fake_conn_send(struct fake_conn *conn, const struct fake_step *step)
{
    static char pattern[FAKE_PIECE];
    bool fill = step->act == FAKE_FILL;
    size_t total = fill ? step->n : strlen(step->text);

    while (conn->done < total) {
        size_t len = total - conn->done;
        if (fill) {
            len = len < sizeof(pattern) ? len : sizeof(pattern);
            for (size_t i = 0; i < len; i++)
                pattern[i] = fake_pattern(conn->done + i);
        }
        if (step->act == FAKE_DRIP)
            len = 1;
        ssize_t n = send(conn->fd, fill ? pattern : step->text + conn->done, len,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN)
                event_add(conn->writable, NULL);
            return false;
        }
        conn->done += (size_t)n;
        if (step->act == FAKE_DRIP && conn->done < total) {
            fake_conn_pause(conn, 0);
            return false;
        }
    }
    return true;
}

/* True when the script goes on at once. */
static bool fake_conn_step(struct fake_conn *conn)
{
    const struct fake_step *step = &conn->script->steps[conn->step];

    switch (step->act) {
    case FAKE_HANG:
        return false;
    case FAKE_AWAIT:
    case FAKE_AWAIT_TOTAL:
        if (!fake_conn_await(conn, step))
            return false;
        break;
    case FAKE_SEND:
    case FAKE_DRIP:
    case FAKE_FILL:
        if (!fake_conn_send(conn, step))
            return false;
        break;
    case FAKE_PAUSE:
        fake_conn_next(conn);
        fake_conn_pause(conn, step->n);
        return false;
    case FAKE_DEAF:
        event_del(conn->readable);
        break;
    case FAKE_AGAIN:
        conn->step = 0;
        conn->done = 0;
        return ++conn->rounds < FAKE_ROUNDS_MAX;
    case FAKE_SHUT:
        (void)shutdown(conn->fd, SHUT_WR);
        break;
    case FAKE_CLOSE:
    case FAKE_RESET:
        fake_conn_close(conn, step->act == FAKE_RESET);
        return false;
    }
    fake_conn_next(conn);
    return conn->step < FAKE_STEPS_MAX;
}

static void fake_conn_run(struct fake_conn *conn)
{
    while (!conn->paused && conn->step < FAKE_STEPS_MAX && fake_conn_step(conn))
        ;
}

static void on_fake_acceptable(evutil_socket_t listener, short what, void *arg)
{
    struct fake_backend *backend = arg;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    const int on = 1;

    if (fd < 0)
        return;
    assert(backend->n_conns < FAKE_CONNS_MAX);
    if (backend->port != 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    size_t i = backend->n_conns++;
    struct fake_conn *conn = &backend->conns[i];
    *conn = (struct fake_conn){
        .backend = backend,
        .script = &backend->scripts[i < backend->n_scripts ? i : backend->n_scripts - 1],
        .fd = fd,
    };
    conn->readable = event_new(backend->base, fd, EV_READ | EV_PERSIST, on_fake_readable, conn);
    conn->writable = event_new(backend->base, fd, EV_WRITE, on_fake_writable, conn);
    conn->timer = event_new(backend->base, -1, 0, on_fake_timer, conn);
    event_add(conn->readable, NULL);
    fake_conn_run(conn);
}

static int fake_listen_tcp(uint16_t *out_port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(in);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (bind(fd, (struct sockaddr *)&in, sizeof(in)) < 0 || listen(fd, FAKE_BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&in, &len) < 0)
        abort();
    *out_port = ntohs(in.sin_port);
    return fd;
}

static int fake_listen_unix(char *path, size_t size)
{
    static unsigned counter;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    (void)snprintf(path, size, "/tmp/fake-backend-%d-%u.sock", (int)getpid(), counter++);
    (void)snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
    (void)unlink(path);
    if (bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0 || listen(fd, FAKE_BACKLOG) < 0)
        abort();
    return fd;
}

struct fake_backend *fake_backend_new(struct event_base *base, enum fake_kind kind,
                                      const struct fake_script *scripts, size_t n_scripts)
{
    struct fake_backend *backend = calloc(1, sizeof(*backend));

    assert(backend != NULL);
    backend->base = base;
    backend->scripts = scripts;
    backend->n_scripts = n_scripts;
    backend->fd = kind == FAKE_TCP ? fake_listen_tcp(&backend->port)
                                   : fake_listen_unix(backend->path, sizeof(backend->path));
    backend->acceptable =
        event_new(base, backend->fd, EV_READ | EV_PERSIST, on_fake_acceptable, backend);
    event_add(backend->acceptable, NULL);
    return backend;
}

void fake_backend_free(struct fake_backend **backend_at)
{
    struct fake_backend *backend = *backend_at;

    *backend_at = NULL;
    if (backend == NULL)
        return;
    for (size_t i = 0; i < backend->n_conns; i++) {
        fake_conn_close(&backend->conns[i], false);
        free(backend->conns[i].got);
    }
    event_free(backend->acceptable);
    close(backend->fd);
    if (backend->path[0] != '\0')
        (void)unlink(backend->path);
    free(backend);
}

uint16_t fake_backend_port(const struct fake_backend *backend)
{
    return backend->port;
}

const char *fake_backend_path(const struct fake_backend *backend)
{
    return backend->path;
}

size_t fake_backend_conns(const struct fake_backend *backend)
{
    return backend->n_conns;
}

const char *fake_backend_got(const struct fake_backend *backend, size_t i, size_t *out_len)
{
    assert(i < backend->n_conns);
    if (out_len != NULL)
        *out_len = backend->conns[i].got_len;
    return backend->conns[i].got != NULL ? backend->conns[i].got : "";
}

size_t fake_backend_first_read(const struct fake_backend *backend, size_t i)
{
    assert(i < backend->n_conns);
    return backend->conns[i].first_read;
}

void fake_backend_accept(struct fake_backend *backend, bool on)
{
    /* The kernel queues one connection more than it is told. */
    (void)listen(backend->fd, on ? FAKE_BACKLOG : 0);
    if (on)
        event_add(backend->acceptable, NULL);
    else
        event_del(backend->acceptable);
}
