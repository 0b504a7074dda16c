/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/upstream/connect.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "gateway/base/log.h"
#include "gateway/base/mem.h"

static void servers_warn(const struct config_backend *backend, const struct config_address *address,
                         const char *error)
{
    log_write(LOG_WARNING, "a server of the backend is left out", LOG_STR("backend", backend->name),
              LOG_STR("server", address->host), LOG_STR("error", error));
}

static char *server_name_inet(const struct sockaddr *address, socklen_t address_len)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getnameinfo(address, address_len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return mem_strdup("?");
    return mem_printf(address->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static void servers_add_unix(struct servers *servers, const struct config_backend *backend,
                             const struct config_address *address)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};

    if (!str_copy(un.sun_path, sizeof(un.sun_path), str_c(address->host))) {
        servers_warn(backend, address, "the path is too long for a Unix socket");
        return;
    }
    struct server *server = &servers->all[servers->n++];
    memcpy(&server->address, &un, sizeof(un));
    server->address_len = sizeof(un);
    server->name = mem_printf("unix:%s", address->host);
}

/* A numeric address must not wait for a resolver; so that is what is tried first. */
static int servers_look_up(const struct config_address *address, struct addrinfo **out_found)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    char port[8];

    (void)snprintf(port, sizeof(port), "%u", (unsigned)address->port);
    int error = getaddrinfo(address->host, port, &hints, out_found);
    if (error != EAI_NONAME)
        return error;
    hints.ai_flags = AI_NUMERICSERV;
    return getaddrinfo(address->host, port, &hints, out_found);
}

static void servers_add_inet(struct servers *servers, const struct config_backend *backend,
                             const struct config_address *address)
{
    struct addrinfo *found = NULL;
    int error = servers_look_up(address, &found);

    if (error != 0) {
        servers_warn(backend, address, gai_strerror(error));
        return;
    }
    for (const struct addrinfo *each = found; each != NULL && servers->n < SERVERS_MAX;
         each = each->ai_next) {
        assert(each->ai_addrlen <= sizeof(struct sockaddr_storage));
        struct server *server = &servers->all[servers->n++];
        memcpy(&server->address, each->ai_addr, each->ai_addrlen);
        server->address_len = each->ai_addrlen;
        server->name = server_name_inet(each->ai_addr, each->ai_addrlen);
    }
    freeaddrinfo(found);
}

void servers_init(struct servers *servers, const struct config_backend *backend)
{
    *servers = (struct servers){.all = mem_array(SERVERS_MAX, sizeof(struct server))};
    for (size_t i = 0; i < backend->n_servers; i++) {
        const struct config_address *address = &backend->servers[i];
        if (servers->n == SERVERS_MAX)
            servers_warn(backend, address, "the backend has too many servers");
        else if (address->type == CONFIG_ADDRESS_UNIX)
            servers_add_unix(servers, backend, address);
        else
            servers_add_inet(servers, backend, address);
    }
}

void servers_deinit(struct servers *servers)
{
    for (size_t i = 0; i < servers->n; i++)
        mem_free(servers->all[i].name);
    mem_free(servers->all);
    *servers = (struct servers){.n = 0};
}

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
