/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/upstream/connect.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

enum connect_result connect_begin(const struct server *server, int *out_fd, int *out_error)
{
    const struct sockaddr *address = (const struct sockaddr *)&server->address;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const int on = 1;

    if (fd < 0) {
        *out_error = errno;
        return CONNECT_FAILED;
    }
    /* Costs latency when it fails, nothing else. */
    if (address->sa_family != AF_UNIX)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    *out_fd = fd;
    if (connect(fd, address, server->address_len) == 0)
        return CONNECT_DONE;
    if (errno == EINPROGRESS)
        return CONNECT_PENDING;
    *out_error = errno;
    close(fd);
    return *out_error == EAGAIN && address->sa_family == AF_UNIX ? CONNECT_LATER : CONNECT_FAILED;
}

int connect_outcome(int fd)
{
    int error = 0;
    socklen_t len = sizeof(error);

    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 ? error : errno;
}
