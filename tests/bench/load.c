/* SPDX-License-Identifier: BSD-2-Clause */
/* The load generator of the benchmarks: a fleet of TLS 1.3 clients on one thread. It drives, the
 * driver (run) looks at what that costs the server.
 *
 *   load [options] MODE HOST:PORT
 *
 *   full         a new connection for each request, full handshake, Connection: close
 *   resumed      the same with a resumed handshake: each ticket is used once, and the answer's
 *                connection brings the next. A handshake that is not resumed is an error
 *   keepalive    requests over --connections connections that stay
 *   hold         --connections connections that made one request each and then stand still
 *
 * The request is GET /; --download N asks for N bytes instead, --upload N sends N. --target T asks
 * for something else than the origin's usual. --rate R: each connection reads (writes, with
 * --upload) at most R bytes of the body a second.
 *
 * Cipher suite and group are pinned, so that two servers do the same work. The client shows its
 * leaf alone, as stock agents do, and verifies the server. Connections take the devices in turn:
 * --devices is a folder with 0.pem, 0.key, 1.pem, …
 *
 * It talks to its driver through stdin and stdout, a JSON object a line. A run has three parts:
 *
 *   warming up   each connection makes one request (not with `hold`): resumed has its tickets then,
 *                keepalive its connections, and the server knows the devices
 *   {"phase": "ready"}     the driver looks at the server's CPU and writes a line
 *   measured     --requests requests
 *   {"phase": "done", "errors": 0, …}
 *
 * `hold` says {"phase": "standing"} when all connections stand, goes on until the driver writes
 * another line or all have been cut, and tells in the result when (CLOCK_MONOTONIC, ns) the first
 * and the last was.
 *
 * Any error makes the run invalid: exit status 1, and the result tells how many and the first. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

enum {
    PIECE = 65536,
    HEAD_MAX = 8192,
    EVENTS = 512,
    TICK_MS = 10,      /* of slow connections */
    ERRORS_MAX = 1000, /* then it gives up */
    STARTS_PER_TURN = 32,
    STARTING_MAX = 256,
};

enum mode { MODE_FULL, MODE_RESUMED, MODE_KEEPALIVE, MODE_HOLD };
static const char *const mode_names[] = {"full", "resumed", "keepalive", "hold"};

/*
 *   IDLE ── start ──▶ CONNECTING ─▶ HANDSHAKE ─▶ SENDING ─▶ HEAD ─▶ BODY ─┬─▶ CLOSING ─▶ IDLE
 *                                                   ▲                     ├─▶ STANDING ─▶ CUT (hold)
 *                                                   └──────── start ──────┴── OPEN (keepalive)
 */
enum state {
    STATE_IDLE,       /* no connection */
    STATE_CONNECTING, /* TCP */
    STATE_HANDSHAKE,  /* TLS */
    STATE_SENDING,    /* the request */
    STATE_HEAD,       /* of the response */
    STATE_BODY,       /* of the response */
    STATE_OPEN,       /* between two requests */
    STATE_CLOSING,    /* waits for the server to close, as it was asked to */
    STATE_STANDING,   /* held */
    STATE_CUT, /* was held; nothing more is done with it, as that would delay the others' clock */
};

struct device {
    X509 *certificate;
    EVP_PKEY *key;
};

struct conn {
    enum state state;
    int fd;
    SSL *ssl;             /* owned */
    SSL_SESSION *session; /* owned: of the newest ticket, not used yet */
    const struct device *device;
    uint64_t begun_ns;  /* the request */
    size_t sent;        /* of head and body */
    uint64_t body_left; /* of the response */
    uint64_t body_ns;   /* when the body began, and how much of it has passed: for --rate */
    uint64_t body_passed;
    bool slow; /* has used up what its rate allows */
    size_t head_len;
    char head[HEAD_MAX];
};

static struct {
    enum mode mode;
    const char *devices_dir, *ca_file, *host, *target;
    struct sockaddr_in server;
    size_t n_conns, n_requests;
    uint64_t download, upload, rate;
    unsigned timeout_s;
} options = {.n_conns = 16, .n_requests = 1000, .host = "localhost", .timeout_s = 30};

static struct device *devices;
static size_t n_devices;
static struct conn *conns;
static SSL_CTX *tls;
static int epoll;
static char request_head[512];
static size_t request_head_len;
static char zeros[PIECE], scratch[PIECE];

static struct {
    bool measuring;
    size_t started, finished; /* requests of this part of the run */
    size_t target;            /* how many it has */
    size_t errors;
    char first_error[256];
    size_t resumed;
    uint64_t bytes; /* of bodies */
    uint32_t *latencies_us;
    size_t standing, cut;
    uint64_t first_cut_ns, last_cut_ns;
    uint64_t progress_ns;
} run;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    ERR_print_errors_fp(stderr);
    exit(2);
}

/* --- results ------------------------------------------------------------------------------------*/

__attribute__((format(printf, 1, 2))) static void note_error(const char *format, ...)
{
    if (run.errors++ > 0) {
        return;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(run.first_error, sizeof(run.first_error), format, args);
    va_end(args);
    for (char *at = run.first_error; *at != 0; at++) {
        if (*at < ' ' || *at == '"' || *at == '\\') {
            *at = '\'';
        }
    }
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static uint32_t percentile(size_t count, double part)
{
    return count == 0 ? 0 : run.latencies_us[(size_t)((double)(count - 1) * part)];
}

static void print_result(double seconds)
{
    size_t count = run.finished < options.n_requests ? run.finished : options.n_requests;
    qsort(run.latencies_us, count, sizeof(*run.latencies_us), compare_u32);
    printf("{\"phase\": \"done\", \"mode\": \"%s\", \"requests\": %zu, \"errors\": %zu, "
           "\"first_error\": \"%s\", \"seconds\": %.6f, \"resumed\": %zu, \"bytes\": %llu, "
           "\"latency_us\": {\"p50\": %u, \"p99\": %u, \"max\": %u}, \"standing\": %zu, "
           "\"cut\": %zu, \"first_cut_ns\": %llu, \"last_cut_ns\": %llu}\n",
           mode_names[options.mode], run.finished, run.errors, run.first_error, seconds,
           run.resumed, (unsigned long long)run.bytes, percentile(count, 0.5),
           percentile(count, 0.99), percentile(count, 1), run.standing, run.cut,
           (unsigned long long)run.first_cut_ns, (unsigned long long)run.last_cut_ns);
    fflush(stdout);
}

/* --- a connection's life ------------------------------------------------------------------------*/

static void conn_close(struct conn *conn)
{
    if (conn->ssl != NULL) {
        /* Or OpenSSL holds the session to be unusable. */
        SSL_set_shutdown(conn->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
        SSL_free(conn->ssl);
        conn->ssl = NULL;
    }
    if (conn->fd >= 0) {
        close(conn->fd);
        conn->fd = -1;
    }
    conn->state = STATE_IDLE;
    conn->slow = false;
}

/* The request is over, well or not. */
static void finish_request(struct conn *conn)
{
    if (run.measuring && run.finished < options.n_requests) {
        run.latencies_us[run.finished] = (uint32_t)((now_ns() - conn->begun_ns) / 1000);
    }
    run.finished++;
    run.progress_ns = now_ns();
}

__attribute__((format(printf, 2, 3))) static void conn_fail(struct conn *conn, const char *format,
                                                            ...)
{
    char text[200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    unsigned long code = ERR_peek_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
    note_error("%s%s%s (request %zu)", text, reason != NULL ? ": " : "",
               reason != NULL ? reason : "", run.finished + 1);
    ERR_clear_error();
    bool was_standing = conn->state == STATE_STANDING;
    conn_close(conn);
    if (!was_standing) {
        finish_request(conn);
    }
}

static int on_new_session(SSL *ssl, SSL_SESSION *session)
{
    struct conn *conn = SSL_get_app_data(ssl);
    if (options.mode != MODE_RESUMED) {
        return 0;
    }
    SSL_SESSION_free(conn->session);
    conn->session = session;
    return 1;
}

static bool begin_tls(struct conn *conn)
{
    conn->ssl = SSL_new(tls);
    if (conn->ssl == NULL ||
        SSL_use_cert_and_key(conn->ssl, conn->device->certificate, conn->device->key, NULL, 1) !=
            1 ||
        SSL_set_fd(conn->ssl, conn->fd) != 1 ||
        SSL_set_tlsext_host_name(conn->ssl, options.host) != 1 ||
        SSL_set1_host(conn->ssl, options.host) != 1) {
        return false;
    }
    SSL_set_app_data(conn->ssl, conn);
    SSL_set_connect_state(conn->ssl);
    if (options.mode == MODE_RESUMED && conn->session != NULL) {
        if (SSL_set_session(conn->ssl, conn->session) != 1) {
            return false;
        }
        SSL_SESSION_free(conn->session);
        conn->session = NULL;
    }
    return true;
}

static void conn_connect(struct conn *conn)
{
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (conn->fd < 0) {
        conn_fail(conn, "socket: %s", strerror(errno));
        return;
    }
    int one = 1;
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    conn->state = STATE_CONNECTING;
    if (connect(conn->fd, (struct sockaddr *)&options.server, sizeof(options.server)) != 0 &&
        errno != EINPROGRESS) {
        conn_fail(conn, "connect: %s", strerror(errno));
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = conn};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, conn->fd, &event) != 0) {
        die("epoll_ctl: %s", strerror(errno));
    }
}

/* The next request, if the run has one left. */
static void conn_start(struct conn *conn)
{
    if (run.started == run.target) {
        return;
    }
    run.started++;
    conn->begun_ns = now_ns();
    conn->sent = 0;
    conn->head_len = 0;
    conn->body_passed = 0;
    conn->body_ns = 0;
    if (conn->state == STATE_OPEN) {
        conn->state = STATE_SENDING;
    } else {
        conn_connect(conn);
    }
}

/* After a request; each connection makes one to warm up. */
static void conn_next(struct conn *conn)
{
    if (run.measuring && run.errors < ERRORS_MAX) {
        conn_start(conn);
    }
}

/* --- its steps ----------------------------------------------------------------------------------*/

enum step { STEP_MORE, STEP_WAIT };

/* How much of a body may pass now; 0: the rate is used up. */
static size_t allowance(struct conn *conn)
{
    if (options.rate == 0) {
        return PIECE;
    }
    if (conn->body_ns == 0) {
        conn->body_ns = now_ns();
    }
    uint64_t due = (uint64_t)((double)(now_ns() - conn->body_ns) / 1e9 * (double)options.rate);
    uint64_t more = due > conn->body_passed ? due - conn->body_passed : 0;
    conn->slow = more == 0;
    return more < PIECE ? (size_t)more : PIECE;
}

static void pass_body(struct conn *conn, size_t count)
{
    conn->body_passed += count;
    run.bytes += run.measuring ? count : 0;
    run.progress_ns = options.rate > 0 ? now_ns() : run.progress_ns;
}

/* After an SSL_… call that did not succeed. */
static enum step wait_or_fail(struct conn *conn, int result, const char *doing)
{
    int error = SSL_get_error(conn->ssl, result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        return STEP_WAIT;
    }
    if (error == SSL_ERROR_SYSCALL && ERR_peek_error() == 0) {
        conn_fail(conn, "%s: %s", doing, result == 0 || errno == 0 ? "closed" : strerror(errno));
    } else if (error == SSL_ERROR_ZERO_RETURN) {
        conn_fail(conn, "%s: closed", doing);
    } else {
        conn_fail(conn, "%s", doing);
    }
    return STEP_MORE;
}

static enum step step_connecting(struct conn *conn)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
        conn_fail(conn, "connect: %s", strerror(error));
        return STEP_MORE;
    }
    if (!begin_tls(conn)) {
        conn_fail(conn, "TLS setup");
        return STEP_MORE;
    }
    conn->state = STATE_HANDSHAKE;
    return STEP_MORE;
}

static enum step step_handshake(struct conn *conn)
{
    int result = SSL_do_handshake(conn->ssl);
    if (result != 1) {
        return wait_or_fail(conn, result, "handshake");
    }
    bool resumed = SSL_session_reused(conn->ssl) == 1;
    if (options.mode == MODE_RESUMED && run.measuring && !resumed) {
        conn_fail(conn, "the handshake was not resumed");
        return STEP_MORE;
    }
    run.resumed += resumed && run.measuring ? 1 : 0;
    conn->state = STATE_SENDING;
    return STEP_MORE;
}

static enum step step_sending(struct conn *conn)
{
    /* The warm-up sends no bodies, except that it is what keepalive repeats. */
    uint64_t body = run.measuring ? options.upload : 0;
    const char *from = request_head + conn->sent;
    size_t most = request_head_len - conn->sent;
    if (conn->sent >= request_head_len) {
        uint64_t left = request_head_len + body - conn->sent;
        size_t allowed = allowance(conn);
        from = zeros;
        most = left < allowed ? (size_t)left : allowed;
        if (left > 0 && allowed == 0) {
            return STEP_WAIT;
        }
        if (left == 0) {
            conn->body_passed = 0;
            conn->body_ns = 0;
            conn->state = STATE_HEAD;
            return STEP_MORE;
        }
    }
    size_t written = 0;
    int result = SSL_write_ex(conn->ssl, from, most, &written);
    if (result != 1) {
        return wait_or_fail(conn, result, "sending");
    }
    if (conn->sent >= request_head_len) {
        pass_body(conn, written);
    }
    conn->sent += written;
    return STEP_MORE;
}

/* The whole head is there. False: it is not what was asked for. */
static bool judge_head(struct conn *conn)
{
    const char *length = strcasestr(conn->head, "\r\nContent-Length:");
    if (strncmp(conn->head, "HTTP/1.1 200 ", 13) != 0 || length == NULL) {
        conn_fail(conn, "the answer is %.60s", conn->head);
        return false;
    }
    conn->body_left = strtoull(length + 17, NULL, 10);
    if (run.measuring && options.download > 0 && conn->body_left != options.download) {
        conn_fail(conn, "a body of %llu bytes", (unsigned long long)conn->body_left);
        return false;
    }
    return true;
}

static enum step step_head(struct conn *conn)
{
    size_t got = 0;
    int result = SSL_read_ex(conn->ssl, conn->head + conn->head_len,
                             sizeof(conn->head) - 1 - conn->head_len, &got);
    if (result != 1) {
        return wait_or_fail(conn, result, "waiting for the answer");
    }
    conn->head_len += got;
    conn->head[conn->head_len] = 0;
    char *end = strstr(conn->head, "\r\n\r\n");
    if (end == NULL) {
        if (conn->head_len == sizeof(conn->head) - 1) {
            conn_fail(conn, "the answer has too long a head");
        }
        return STEP_MORE;
    }
    size_t beyond = conn->head_len - (size_t)(end + 4 - conn->head);
    end[2] = 0;
    if (!judge_head(conn)) {
        return STEP_MORE;
    }
    if (beyond > conn->body_left) {
        conn_fail(conn, "more bytes than the answer's length");
        return STEP_MORE;
    }
    conn->body_left -= beyond;
    pass_body(conn, options.upload > 0 ? 0 : beyond);
    conn->state = STATE_BODY;
    return STEP_MORE;
}

static enum step finish_response(struct conn *conn)
{
    if (options.mode == MODE_RESUMED && conn->session == NULL) {
        conn_fail(conn, "no ticket for the next handshake");
        return STEP_MORE;
    }
    if (options.mode == MODE_FULL || options.mode == MODE_RESUMED) {
        conn->state = STATE_CLOSING;
        return STEP_MORE;
    }
    finish_request(conn);
    if (options.mode == MODE_HOLD) {
        conn->state = STATE_STANDING;
        run.standing++;
        return STEP_WAIT;
    }
    conn->state = STATE_OPEN;
    conn_next(conn);
    return conn->state == STATE_OPEN ? STEP_WAIT : STEP_MORE;
}

static enum step step_body(struct conn *conn)
{
    if (conn->body_left == 0) {
        return finish_response(conn);
    }
    size_t allowed = options.upload > 0 ? PIECE : allowance(conn);
    if (allowed == 0) {
        return STEP_WAIT;
    }
    size_t got = 0;
    size_t most = conn->body_left < allowed ? (size_t)conn->body_left : allowed;
    int result = SSL_read_ex(conn->ssl, scratch, most, &got);
    if (result != 1) {
        return wait_or_fail(conn, result, "reading the answer");
    }
    conn->body_left -= got;
    pass_body(conn, options.upload > 0 ? 0 : got);
    return STEP_MORE;
}

static enum step step_closing(struct conn *conn)
{
    size_t got = 0;
    int result = SSL_read_ex(conn->ssl, scratch, sizeof(scratch), &got);
    if (result == 1) {
        conn_fail(conn, "bytes after the answer");
        return STEP_MORE;
    }
    int error = SSL_get_error(conn->ssl, result);
    if (error != SSL_ERROR_ZERO_RETURN) {
        return wait_or_fail(conn, result, "waiting for the end");
    }
    conn_close(conn);
    finish_request(conn);
    conn_next(conn);
    return STEP_WAIT;
}

/* Between requests nothing but tickets comes. */
static enum step step_open(struct conn *conn)
{
    size_t got = 0;
    int result = SSL_read_ex(conn->ssl, scratch, sizeof(scratch), &got);
    if (result == 1) {
        conn_fail(conn, "bytes that nobody asked for");
        return STEP_MORE;
    }
    return wait_or_fail(conn, result, "between two requests");
}

/* One that was held has ended: the driver judges whether that is right. */
static enum step step_standing(struct conn *conn, uint32_t events)
{
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == 0) {
        return STEP_WAIT;
    }
    run.last_cut_ns = now_ns();
    if (run.cut++ == 0) {
        run.first_cut_ns = run.last_cut_ns;
    }
    conn->state = STATE_CUT;
    return STEP_WAIT;
}

static void drive(struct conn *conn, uint32_t events)
{
    enum step step = STEP_MORE;
    conn->slow = false;
    while (step == STEP_MORE) {
        ERR_clear_error();
        switch (conn->state) {
        case STATE_IDLE: /* it failed */
            conn_next(conn);
            return;
        case STATE_CONNECTING:
            if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) == 0) {
                return;
            }
            step = step_connecting(conn);
            break;
        case STATE_HANDSHAKE:
            step = step_handshake(conn);
            break;
        case STATE_SENDING:
            step = step_sending(conn);
            break;
        case STATE_HEAD:
            step = step_head(conn);
            break;
        case STATE_BODY:
            step = step_body(conn);
            break;
        case STATE_OPEN:
            step = step_open(conn);
            break;
        case STATE_CLOSING:
            step = step_closing(conn);
            break;
        case STATE_CUT:
            return;
        case STATE_STANDING:
            step = step_standing(conn, events);
            break;
        }
    }
}

/* --- the run ------------------------------------------------------------------------------------*/

static void make_request(bool warming_up)
{
    uint64_t upload = warming_up ? 0 : options.upload;
    bool closes = options.mode == MODE_FULL || options.mode == MODE_RESUMED;
    char target[64] = "/", length[64] = "";
    if (!warming_up && options.download > 0) {
        snprintf(target, sizeof(target), "/download/%llu", (unsigned long long)options.download);
    }
    if (!warming_up && options.target != NULL) {
        snprintf(target, sizeof(target), "%s", options.target);
    }
    if (upload > 0) {
        snprintf(length, sizeof(length), "Content-Length: %llu\r\n", (unsigned long long)upload);
    }
    int len = snprintf(request_head, sizeof(request_head),
                       "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: load/1\r\n%s%s\r\n",
                       upload > 0 ? "POST" : "GET", target, options.host, length,
                       closes ? "Connection: close\r\n" : "");
    request_head_len = (size_t)len;
}

static void say(const char *phase)
{
    printf("{\"phase\": \"%s\"}\n", phase);
    fflush(stdout);
}

static void wait_for_driver(void)
{
    char line[16];
    if (read(STDIN_FILENO, line, sizeof(line)) <= 0) {
        exit(2); /* it is gone */
    }
}

/* New ones a few at a time, so that the server's backlog and its limits are not what is measured. */
static void start_some(size_t *next)
{
    for (size_t n = 0; n < STARTS_PER_TURN && *next < options.n_conns; n++, (*next)++) {
        if (run.started - run.finished >= STARTING_MAX && options.mode == MODE_HOLD) {
            return;
        }
        struct conn *conn = &conns[*next];
        conn_start(conn);
        if (conn->state != STATE_IDLE) {
            drive(conn, 0);
        }
    }
}

static void drive_slow_ones(void)
{
    for (size_t i = 0; i < options.n_conns; i++) {
        if (conns[i].slow) {
            drive(&conns[i], 0);
        }
    }
}

/* False: too long without progress, or too many errors. */
static bool turn(int timeout_ms)
{
    struct epoll_event events[EVENTS];
    int n = epoll_wait(epoll, events, EVENTS, options.rate > 0 ? TICK_MS : timeout_ms);
    if (n < 0 && errno != EINTR) {
        die("epoll_wait: %s", strerror(errno));
    }
    for (int i = 0; i < n; i++) {
        struct conn *conn = events[i].data.ptr;
        if (conn != NULL && conn->fd >= 0) {
            drive(conn, events[i].events);
        }
    }
    if (options.rate > 0) {
        drive_slow_ones();
    }
    if (now_ns() - run.progress_ns > (uint64_t)options.timeout_s * 1000000000u) {
        note_error("no progress for %u s", options.timeout_s);
        return false;
    }
    return run.errors < ERRORS_MAX;
}

static bool run_part(size_t requests)
{
    size_t next = 0;
    run.started = run.finished = 0;
    run.target = requests;
    run.progress_ns = now_ns();
    while (run.finished < run.target) {
        start_some(&next);
        if (!turn(next < options.n_conns ? 1 : 1000)) {
            return false;
        }
    }
    return true;
}

/* Until the driver writes a line or all are cut. */
static void hold(void)
{
    say("standing");
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0) {
        die("epoll_ctl: %s", strerror(errno));
    }
    while (run.cut < run.standing) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct conn *conn = events[i].data.ptr;
            if (conn == NULL) {
                wait_for_driver();
                return;
            }
            drive(conn, events[i].events);
        }
    }
}

/* --- setting up ---------------------------------------------------------------------------------*/

static void load_devices(void)
{
    for (;; n_devices++) {
        char path[512];
        snprintf(path, sizeof(path), "%s/%zu.pem", options.devices_dir, n_devices);
        BIO *certificate = BIO_new_file(path, "r");
        if (certificate == NULL) {
            break;
        }
        snprintf(path, sizeof(path), "%s/%zu.key", options.devices_dir, n_devices);
        BIO *key = BIO_new_file(path, "r");
        devices = realloc(devices, (n_devices + 1) * sizeof(*devices));
        if (devices == NULL || key == NULL) {
            die("%s: cannot be read", path);
        }
        devices[n_devices].certificate = PEM_read_bio_X509(certificate, NULL, NULL, NULL);
        devices[n_devices].key = PEM_read_bio_PrivateKey(key, NULL, NULL, NULL);
        if (devices[n_devices].certificate == NULL || devices[n_devices].key == NULL) {
            die("%s: no certificate with its key", path);
        }
        BIO_free(certificate);
        BIO_free(key);
    }
    ERR_clear_error();
    if (n_devices == 0) {
        die("%s has no 0.pem", options.devices_dir);
    }
}

static void set_up_tls(void)
{
    tls = SSL_CTX_new(TLS_client_method());
    if (tls == NULL || SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256") != 1 ||
        SSL_CTX_set1_groups_list(tls, "X25519") != 1 ||
        SSL_CTX_load_verify_locations(tls, options.ca_file, NULL) != 1) {
        die("TLS setup");
    }
    SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(tls, on_new_session);
}

static void set_up_conns(void)
{
    conns = calloc(options.n_conns, sizeof(*conns));
    run.latencies_us = calloc(options.n_requests + 1, sizeof(*run.latencies_us));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (conns == NULL || run.latencies_us == NULL || epoll < 0) {
        die("memory or descriptors");
    }
    for (size_t i = 0; i < options.n_conns; i++) {
        conns[i].fd = -1;
        conns[i].device = &devices[i % n_devices];
    }
}

__attribute__((noreturn)) static void usage(void)
{
    fprintf(stderr,
            "usage: load --devices DIR --ca FILE [--connections N] [--requests N] [--download N]\n"
            "            [--upload N] [--rate N] [--host NAME] [--target PATH]\n"
            "            [--timeout S] MODE ADDRESS:PORT\n"
            "MODE: full, resumed, keepalive, hold\n");
    exit(2);
}

static uint64_t number(const char *text)
{
    char *end = NULL;
    uint64_t value = strtoull(text, &end, 10);
    if (end == text || *end != 0) {
        usage();
    }
    return value;
}

static void read_target(const char *mode, char *address)
{
    size_t i = 0;
    while (i < sizeof(mode_names) / sizeof(*mode_names) && strcmp(mode, mode_names[i]) != 0) {
        i++;
    }
    char *port = strrchr(address, ':');
    if (i == sizeof(mode_names) / sizeof(*mode_names) || port == NULL) {
        usage();
    }
    options.mode = (enum mode)i;
    *port++ = 0;
    options.server.sin_family = AF_INET;
    options.server.sin_port = htons((uint16_t)number(port));
    if (inet_pton(AF_INET, address, &options.server.sin_addr) != 1) {
        usage();
    }
}

static void read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"devices", required_argument, NULL, 'd'},
        {"ca", required_argument, NULL, 'a'},
        {"connections", required_argument, NULL, 'c'},
        {"requests", required_argument, NULL, 'n'},
        {"download", required_argument, NULL, 'D'},
        {"upload", required_argument, NULL, 'U'},
        {"rate", required_argument, NULL, 'r'},
        {"host", required_argument, NULL, 'h'},
        {"timeout", required_argument, NULL, 't'},
        {"target", required_argument, NULL, 'T'},
        {0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 'd':
            options.devices_dir = optarg;
            break;
        case 'a':
            options.ca_file = optarg;
            break;
        case 'c':
            options.n_conns = number(optarg);
            break;
        case 'n':
            options.n_requests = number(optarg);
            break;
        case 'D':
            options.download = number(optarg);
            break;
        case 'U':
            options.upload = number(optarg);
            break;
        case 'r':
            options.rate = number(optarg);
            break;
        case 'h':
            options.host = optarg;
            break;
        case 't':
            options.timeout_s = (unsigned)number(optarg);
            break;
        case 'T':
            options.target = optarg;
            break;
        default:
            usage();
        }
    }
    if (argc - optind != 2 || options.devices_dir == NULL || options.ca_file == NULL ||
        options.n_conns == 0) {
        usage();
    }
    read_target(argv[optind], argv[optind + 1]);
    if (options.mode == MODE_HOLD) {
        options.n_requests = options.n_conns;
    }
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    load_devices();
    set_up_tls();
    set_up_conns();
    make_request(true);
    bool ok = options.mode == MODE_HOLD || run_part(options.n_conns);
    if (ok && run.errors == 0) {
        make_request(false);
        run.measuring = true;
        say("ready");
        wait_for_driver();
        uint64_t begun = now_ns();
        ok = run_part(options.n_requests);
        if (ok && run.errors == 0 && options.mode == MODE_HOLD) {
            hold();
        }
        print_result((double)(now_ns() - begun) / 1e9);
    } else {
        print_result(0);
    }
    return ok && run.errors == 0 ? 0 : 1;
}
