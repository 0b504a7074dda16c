/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/daemon/inherited.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "gateway/base/str.h"

enum { FIRST_FD = 3 };

static bool socket_option(int fd, int option, int *out)
{
    socklen_t len = sizeof(*out);

    return getsockopt(fd, SOL_SOCKET, option, out, &len) == 0;
}

static bool inherited_add(struct inherited *inherited, int fd, struct str name, char *error,
                          size_t error_size)
{
    struct inherited_socket *socket = &inherited->sockets[inherited->n];
    int type = 0, listens = 0, family = 0;

    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    str_copy_cut(socket->name, sizeof(socket->name), name);
    if (!socket_option(fd, SO_TYPE, &type) || !socket_option(fd, SO_ACCEPTCONN, &listens) ||
        !socket_option(fd, SO_DOMAIN, &family) || type != SOCK_STREAM || listens == 0) {
        (void)snprintf(error, error_size,
                       "the inherited descriptor \"%s\" is not a listening stream socket: use "
                       "ListenStream= and Accept=no",
                       socket->name);
        return false;
    }
    int flags = fcntl(fd, F_GETFL);
    (void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    socket->fd = fd;
    socket->is_unix = family == AF_UNIX;
    inherited->n++;
    return true;
}

/* Whether the variables speak to us, and how many descriptors there are. */
static bool inherited_is_ours(uint64_t *out_n)
{
    const char *pid_text = getenv("LISTEN_PID"), *n_text = getenv("LISTEN_FDS");
    uint64_t pid;

    return pid_text != NULL && n_text != NULL && str_to_u64(str_c(pid_text), &pid) &&
           pid == (uint64_t)getpid() && str_to_u64(str_c(n_text), out_n);
}

bool inherited_take(struct inherited *inherited, char *error, size_t error_size)
{
    const char *names_text = getenv("LISTEN_FDNAMES");
    struct str names = str_c(names_text != NULL ? names_text : "");
    uint64_t n = 0;
    bool good = true;

    inherited->n = 0;
    if (inherited_is_ours(&n) && n > INHERITED_MAX) {
        (void)snprintf(error, error_size, "more than %d inherited sockets", (int)INHERITED_MAX);
        good = false;
    }
    for (uint64_t i = 0; good && i < n; i++) {
        struct str name = STR("");
        (void)str_split(&names, ':', &name);
        good = inherited_add(inherited, FIRST_FD + (int)i, name, error, error_size);
    }
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_FDNAMES");
    return good;
}

struct inherited_where inherited_address(const struct inherited_socket *socket)
{
    struct sockaddr_storage bound = {0};
    socklen_t len = sizeof(bound);
    struct inherited_where where = {""};
    char host[INET6_ADDRSTRLEN] = "";

    if (getsockname(socket->fd, (struct sockaddr *)&bound, &len) != 0)
        return where;
    if (bound.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&bound;
        (void)inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        (void)snprintf(where.text, sizeof(where.text), "%s:%u", host, ntohs(in->sin_port));
    } else if (bound.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&bound;
        (void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        (void)snprintf(where.text, sizeof(where.text), "[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_un *un = (const struct sockaddr_un *)&bound;
        (void)snprintf(where.text, sizeof(where.text), "unix:%.107s", un->sun_path);
    }
    return where;
}

const char *inherited_unused(const struct inherited *inherited)
{
    for (size_t i = 0; i < inherited->n; i++) {
        if (!inherited->sockets[i].is_used)
            return inherited->sockets[i].name;
    }
    return NULL;
}

void inherited_close(struct inherited *inherited)
{
    for (size_t i = 0; i < inherited->n; i++)
        (void)close(inherited->sockets[i].fd);
    inherited->n = 0;
}
