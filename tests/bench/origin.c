/* SPDX-License-Identifier: BSD-2-Clause */
/* The backend of the benchmarks: HTTP/1.1 with keep-alive, one thread, nothing parsed that it does
 * not need. It must never be what is measured.
 *
 *   GET  /download/N      N bytes, as fast as they are taken
 *   any  /slowly/R        swallows the body at R bytes a second, then answers
 *   any  anything else    swallows the body, then answers with a small one
 *
 * origin PORT-FILE: listens on a port of the kernel's choice on 127.0.0.1 and writes it to the
 * file. Ends by a signal. A request that it does not understand ends it with a message: no
 * benchmark goes on after that. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_MAX = 16384,
    PIECE = 262144,
    EVENTS = 256,
    TICK_MS = 10, /* of bodies that are swallowed slowly */
};

static const char small_answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                                   "Content-Length: 12\r\n\r\nhello there\n";

struct conn {
    int fd;
    size_t head_len; /* of bytes in `head`: the head as far as it has come, and what follows it */
    uint64_t body_left;     /* of the request's, or of the chunk's with `chunked` */
    uint64_t download_left; /* of the answer's */
    uint64_t rate;          /* bytes a second; 0: as they come */
    uint64_t since_ns;      /* when the slow body began */
    uint64_t swallowed;     /* of it */
    bool in_body, close_after;
    struct conn *next_slow;
    bool is_slow; /* in the list of slow ones */
    char head[HEAD_MAX + 1];
};

static char scratch[PIECE]; /* what is swallowed, and zeros to send */
static struct conn *slow_ones;

static void die(const char *what)
{
    fprintf(stderr, "origin: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- answering ----------------------------------------------------------------------------------*/

/* A small write to a peer that waits for it: the socket's buffer always has room. */
static void write_all(struct conn *conn, const char *text, size_t len)
{
    if (send(conn->fd, text, len, MSG_NOSIGNAL) != (ssize_t)len) {
        conn->close_after = true;
    }
}

/* False: the peer is gone. */
static bool go_on_sending(struct conn *conn)
{
    while (conn->download_left > 0) {
        size_t piece = conn->download_left < PIECE ? (size_t)conn->download_left : PIECE;
        ssize_t sent = send(conn->fd, scratch, piece, MSG_NOSIGNAL);
        if (sent < 0) {
            return errno == EAGAIN;
        }
        conn->download_left -= (uint64_t)sent;
    }
    return true;
}

static bool answer(struct conn *conn)
{
    conn->in_body = false;
    conn->rate = 0;
    if (strncmp(conn->head, "GET /download/", 14) == 0) {
        conn->download_left = strtoull(conn->head + 14, NULL, 10);
        char head[128];
        int len = snprintf(head, sizeof(head),
                           "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                           "Content-Length: %llu\r\n\r\n",
                           (unsigned long long)conn->download_left);
        write_all(conn, head, (size_t)len);
        memset(scratch, 0, sizeof(scratch));
        return go_on_sending(conn) && !(conn->close_after && conn->download_left == 0);
    }
    write_all(conn, small_answer, sizeof(small_answer) - 1);
    return !conn->close_after;
}

/* --- requests -----------------------------------------------------------------------------------*/

/* The value of a field of the head, which ends with an empty line; NULL if it is missing. */
static const char *field(const char *head, const char *name)
{
    size_t len = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, len) == 0 && line[2 + len] == ':') {
            line += 3 + len;
            return line + strspn(line, " ");
        }
    }
    return NULL;
}

/* The head is whole, `end` behind it. */
static void begin_request(struct conn *conn, char *end)
{
    char kept = *end;
    *end = 0;
    const char *length = field(conn->head, "Content-Length");
    const char *connection = field(conn->head, "Connection");
    const char *slowly = strstr(conn->head, " /slowly/");
    if (field(conn->head, "Transfer-Encoding") != NULL) {
        fprintf(stderr, "origin: a chunked request, which it does not know\n");
        exit(1);
    }
    conn->close_after = (connection != NULL && strncasecmp(connection, "close", 5) == 0) ||
                        strstr(conn->head, " HTTP/1.0\r\n") != NULL;
    conn->body_left = length != NULL ? strtoull(length, NULL, 10) : 0;
    conn->rate = slowly != NULL ? strtoull(slowly + 9, NULL, 10) : 0;
    conn->since_ns = conn->rate > 0 ? now_ns() : 0;
    conn->swallowed = 0;
    conn->in_body = true;
    *end = kept;
    /* Of the body, what came with the head. */
    size_t more = conn->head_len - (size_t)(end - conn->head);
    conn->body_left -= more < conn->body_left ? more : conn->body_left;
    conn->swallowed = more;
    conn->head_len = 0;
}

/* How much of a slow body may be taken now. */
static size_t allowance(const struct conn *conn)
{
    if (conn->rate == 0) {
        return PIECE;
    }
    uint64_t due = (uint64_t)((double)(now_ns() - conn->since_ns) / 1e9 * (double)conn->rate);
    uint64_t more = due > conn->swallowed ? due - conn->swallowed : 0;
    return more < PIECE ? (size_t)more : PIECE;
}

static void park(struct conn *conn)
{
    if (!conn->is_slow) {
        conn->is_slow = true;
        conn->next_slow = slow_ones;
        slow_ones = conn;
    }
}

/* False: the connection is over. */
static bool swallow(struct conn *conn)
{
    while (conn->body_left > 0) {
        size_t most = allowance(conn);
        if (most == 0) {
            park(conn);
            return true;
        }
        if (most > conn->body_left) {
            most = (size_t)conn->body_left;
        }
        ssize_t got = recv(conn->fd, scratch, most, 0);
        if (got <= 0) {
            return got < 0 && errno == EAGAIN;
        }
        conn->body_left -= (uint64_t)got;
        conn->swallowed += (uint64_t)got;
    }
    return answer(conn);
}

/* Reads and answers until there is nothing to do. False: the connection is over. */
static bool go_on(struct conn *conn)
{
    for (;;) {
        if (conn->download_left > 0) {
            if (!go_on_sending(conn)) {
                return false;
            }
            if (conn->download_left > 0) {
                return true;
            }
            if (conn->close_after) {
                return false;
            }
        }
        if (conn->in_body) {
            if (!swallow(conn)) {
                return false;
            }
            if (conn->in_body || conn->download_left > 0) {
                return true;
            }
        }
        ssize_t got = recv(conn->fd, conn->head + conn->head_len, HEAD_MAX - conn->head_len, 0);
        if (got <= 0) {
            return got < 0 && errno == EAGAIN;
        }
        conn->head_len += (size_t)got;
        conn->head[conn->head_len] = 0;
        char *end = strstr(conn->head, "\r\n\r\n");
        if (end != NULL) {
            begin_request(conn, end + 4);
        } else if (conn->head_len == HEAD_MAX) {
            fprintf(stderr, "origin: a head of more than %d bytes\n", HEAD_MAX);
            exit(1);
        }
    }
}

/* --- the loop -----------------------------------------------------------------------------------*/

static void drive(struct conn *conn)
{
    if (go_on(conn)) {
        return;
    }
    for (struct conn **at = &slow_ones; *at != NULL; at = &(*at)->next_slow) {
        if (*at == conn) {
            *at = conn->next_slow;
            break;
        }
    }
    close(conn->fd);
    free(conn);
}

static void drive_slow_ones(void)
{
    struct conn *due = slow_ones;
    slow_ones = NULL;
    while (due != NULL) {
        struct conn *conn = due;
        due = conn->next_slow;
        conn->is_slow = false;
        conn->next_slow = NULL;
        drive(conn);
    }
}

static void accept_all(int epoll, int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno != EAGAIN && errno != ECONNABORTED) {
                die("accept");
            }
            return;
        }
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        struct conn *conn = calloc(1, sizeof(*conn));
        if (conn == NULL) {
            die("memory");
        }
        conn->fd = fd;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                    .data.ptr = conn};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
            die("epoll_ctl");
        }
    }
}

static int listen_at(const char *port_file)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) != 0 || listen(fd, 4096) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0) {
        die("listen");
    }
    FILE *file = fopen(port_file, "w");
    if (file == NULL || fprintf(file, "%d\n", ntohs(address.sin_port)) < 0 || fclose(file) != 0) {
        die(port_file);
    }
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: origin PORT-FILE\n");
        return 2;
    }
    int epoll = epoll_create1(EPOLL_CLOEXEC), listener = listen_at(argv[1]);
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0) {
        die("epoll");
    }
    for (;;) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll, events, EVENTS, slow_ones != NULL ? TICK_MS : -1);
        if (n < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (int i = 0; i < n; i++) {
            struct conn *conn = events[i].data.ptr;
            if (conn == NULL) {
                accept_all(epoll, listener);
            } else {
                drive(conn);
            }
        }
        drive_slow_ones();
    }
}
