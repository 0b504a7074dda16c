/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/upstream/connect.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/sockios.h>

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

enum sent_fate connect_sent_fate(int fd, uint64_t len)
{
    struct tcp_info info;
    socklen_t info_len = sizeof(info);
    int unacknowledged;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &info_len) != 0 ||
        ioctl(fd, SIOCOUTQ, &unacknowledged) != 0 || unacknowledged < 0 ||
        (uint64_t)unacknowledged < len)
        return SENT_TAKEN;
    return info.tcpi_state == TCP_CLOSE ? SENT_UNTAKEN : SENT_UNKNOWN;
}
