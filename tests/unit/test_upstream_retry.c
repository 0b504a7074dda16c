/* SPDX-License-Identifier: BSD-2-Clause */
/* What is sent again, and what must not be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/upstream/connect.h"
#include "upstream_world.h"

/* The look at a kept connection before its use finds nothing, as it does while the backend's end of
 * file is still under way. */
static bool end_is_under_way;

ssize_t __real_recv(int fd, void *data, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t size, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t size, int flags)
{
    if (end_is_under_way && (flags & MSG_PEEK)) {
        errno = EAGAIN;
        return -1;
    }
    return __real_recv(fd, data, size, flags);
}

static const struct fake_script ok = {{REQUEST, SEND(OK_5), DO(FAKE_AGAIN)}};

#define IDEMPOTENT_POST_5                                                                          \
    (struct upstream_request)                                                                      \
    {                                                                                              \
        .head = STR(POST_5), .framing = HTTP_FRAMING_LENGTH, .content_length = 5,                  \
        .idempotent = true                                                                         \
    }

/* --- what TCP knows --------------------------------------------------------------------------- */

static void make_tcp_pair(int fds[2])
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(in);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(listener, (struct sockaddr *)&in, sizeof(in)), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&in, &len), 0);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fds[0], (struct sockaddr *)&in, sizeof(in)), 0);
    fds[1] = accept(listener, NULL, NULL);
    assert_true(fds[1] >= 0);
    close(listener);
}

/* The retry of what is not idempotent relies on these answers of the kernel's. */
static void tcp_tells_what_became_of_bytes(void **state)
{
    enum { CLOSED_BEFORE, HALF_CLOSED, READ };
    static const struct {
        int what;
        enum sent_fate fate;
    } cases[] = {
        {CLOSED_BEFORE, SENT_UNTAKEN},
        {HALF_CLOSED, SENT_TAKEN},
        {READ, SENT_TAKEN},
    };
    char data[10];

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int fds[2];
        make_tcp_pair(fds);
        /* Earlier bytes, that were taken, do not count. */
        assert_int_equal(send(fds[0], "earlier", 7, 0), 7);
        assert_int_equal(read(fds[1], data, sizeof(data)), 7);
        assert_int_equal(send(fds[1], "x", 1, 0), 1);
        assert_int_equal(read(fds[0], data, sizeof(data)), 1);

        if (cases[i].what == CLOSED_BEFORE)
            close(fds[1]);
        if (cases[i].what == HALF_CLOSED)
            assert_int_equal(shutdown(fds[1], SHUT_WR), 0);
        assert_int_equal(send(fds[0], "request", 7, MSG_NOSIGNAL), 7);
        if (cases[i].what == READ)
            assert_int_equal(read(fds[1], data, sizeof(data)), 7);
        if (cases[i].what == READ)
            close(fds[1]);
        enum sent_fate fate;
        while ((fate = connect_sent_fate(fds[0], 7)) == SENT_UNKNOWN)
            (void)usleep(1000);
        assert_int_equal(fate, cases[i].fate);
        close(fds[0]);
        if (cases[i].what == HALF_CLOSED)
            close(fds[1]);
    }
}

static void of_unix_sockets_nothing_is_known(void **state)
{
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(send(fds[0], "request", 7, 0), 7);
    close(fds[1]);
    assert_int_equal(connect_sent_fate(fds[0], 7), SENT_TAKEN);
    close(fds[0]);
}

/* --- a kept connection that the backend closes in that moment --------------------------------- */

static void no_request_is_lost_on_the_end_of_a_kept_connection(void **state)
{
    static const struct fake_script scripts[][2] = {
        {{{REQUEST, SEND(OK_5), DO(FAKE_CLOSE)}}, {{REQUEST, SEND(OK_5)}}},
        {{{REQUEST, SEND(OK_5), DO(FAKE_RESET)}}, {{REQUEST, SEND(OK_5)}}},
    };
    const struct upstream_request requests[] = {request_get, request_post_5, request_post_chunked};

    for (size_t i = 0; i < ARRAY_SIZE(scripts) * ARRAY_SIZE(requests) * 2; i++) {
        struct world *world = world_new();
        const struct upstream_request *request = &requests[i / 4];
        struct fake_backend *fake =
            world_add_kind(world, i % 2 == 0 ? FAKE_TCP : FAKE_UNIX, scripts[i / 2 % 2], 2);
        struct caller *caller = caller_new(world);

        world_open(world);
        assert_exchange(world, &request_get, "200 done");
        end_is_under_way = true;
        caller->to_upload = request->framing == HTTP_FRAMING_CHUNKED ? 3000 : 0;
        caller_start(caller, request);
        caller_run(caller);
        end_is_under_way = false;
        assert_string_equal(caller->notes, "200 done");
        assert_int_equal(fake_backend_conns(fake), 2);
        /* All of it, from its beginning. */
        size_t len;
        const char *got = fake_backend_got(fake, 1, &len);
        assert_memory_equal(got, request->head.p, request->head.len);
        if (request->framing == HTTP_FRAMING_LENGTH)
            assert_pattern(got + request->head.len, len - request->head.len);
        /* Nobody is to blame. */
        assert_int_equal(
            stat_get(&upstream_counts_servers(world->counts)->rows[0].failed[SERVER_FAULT_BROKEN]),
            0);
        caller_free(caller);
        world_free(world);
    }
}

static void what_a_server_may_have_seen_is_not_repeated(void **state)
{
    static const struct {
        struct fake_script scripts[2];
        bool looks_alive;
        size_t conns;
        const char *notes;
        bool idempotent;
    } cases[] = {
        /* It ended its side and reads on. */
        {{{{REQUEST, SEND(OK_5), DO(FAKE_SHUT)}}, {{REQUEST, SEND(OK_5)}}},
         true,
         1,
         "failed broken backend-broken",
         false},
        /* It took the bytes and closed without a look at them. */
        {{{{REQUEST, SEND(OK_5), DO(FAKE_DEAF), DO_N(FAKE_PAUSE, 50), DO(FAKE_CLOSE)}},
          {{REQUEST, SEND(OK_5)}}},
         false,
         1,
         "failed broken backend-broken",
         false},
        /* It read the request and reset the connection before its kernel had acknowledged it. */
        {{{{REQUEST, SEND(OK_5), REQUEST, DO(FAKE_RESET)}}, {{REQUEST, SEND(OK_5)}}},
         false,
         1,
         "failed broken backend-broken",
         false},
        /* Both are no matter for what is idempotent. */
        {{{{REQUEST, SEND(OK_5), DO(FAKE_SHUT)}}, {{REQUEST, SEND(OK_5)}}},
         true,
         2,
         "200 done",
         true},
        {{{{REQUEST, SEND(OK_5), DO(FAKE_DEAF), DO_N(FAKE_PAUSE, 50), DO(FAKE_CLOSE)}},
          {{REQUEST, SEND(OK_5)}}},
         false,
         2,
         "200 done",
         true},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct world *world = world_new();
        struct fake_backend *fake = world_add(world, cases[i].scripts, 2);

        world_open(world);
        assert_exchange(world, &request_get, "200 done");
        end_is_under_way = cases[i].looks_alive;
        assert_exchange(world, cases[i].idempotent ? &IDEMPOTENT_POST_5 : &request_post_5,
                        cases[i].notes);
        end_is_under_way = false;
        assert_int_equal(fake_backend_conns(fake), cases[i].conns);
        world_free(world);
    }
}

/* --- new connections that break --------------------------------------------------------------- */

static void what_is_idempotent_goes_to_another_server(void **state)
{
    static const struct fake_script close_early = {{REQUEST, DO(FAKE_CLOSE)}};
    const struct upstream_request requests[] = {request_get, IDEMPOTENT_POST_5};

    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        struct world *world = world_new();
        struct fake_backend *bad = world_add(world, &close_early, 1);
        struct fake_backend *good = world_add(world, &ok, 1);

        world_open(world);
        for (unsigned k = 0; k < 2; k++)
            assert_exchange(world, &requests[i], "200 done");
        assert_true(fake_backend_conns(bad) >= 1);
        assert_true(fake_backend_conns(good) >= 1);
        assert_int_equal(stat_get(&upstream_counts_backends(world->counts)->rows[0].resent),
                         fake_backend_conns(bad));
        world_free(world);
    }
}

static void it_is_sent_again_as_often_as_configured(void **state)
{
    static const struct fake_script close_early = {{REQUEST, DO(FAKE_CLOSE)}};

    for (size_t retries = 0; retries < 3; retries++) {
        struct world *world = world_new();
        struct fake_backend *fakes[3];
        size_t conns = 0;

        for (size_t i = 0; i < 3; i++)
            fakes[i] = world_add(world, &close_early, 1);
        world->backend.retries = retries;
        world_open(world);
        assert_exchange(world, &request_get, "failed broken backend-broken");
        for (size_t i = 0; i < 3; i++)
            conns += fake_backend_conns(fakes[i]);
        assert_int_equal(conns, retries + 1);
        world_free(world);
    }
}

/* 2 MB do not stay at hand. */
static void what_is_no_longer_at_hand_is_not_sent_again(void **state)
{
    static const struct fake_script close_late = {{DO_N(FAKE_AWAIT_TOTAL, 100000), DO(FAKE_CLOSE)}};
    struct upstream_request request = request_post_big;
    struct world *world = world_new();
    struct fake_backend *bad = world_add(world, &close_late, 1);
    struct fake_backend *other = world_add(world, &close_late, 1);

    request.idempotent = true;
    world_open(world);
    assert_exchange(world, &request, "failed broken backend-broken");
    assert_int_equal(fake_backend_conns(bad) + fake_backend_conns(other), 1);
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tcp_tells_what_became_of_bytes),
        cmocka_unit_test(of_unix_sockets_nothing_is_known),
        cmocka_unit_test(no_request_is_lost_on_the_end_of_a_kept_connection),
        cmocka_unit_test(what_a_server_may_have_seen_is_not_repeated),
        cmocka_unit_test(what_is_idempotent_goes_to_another_server),
        cmocka_unit_test(it_is_sent_again_as_often_as_configured),
        cmocka_unit_test(what_is_no_longer_at_hand_is_not_sent_again),
    };
    return cmocka_run_group_tests_name("upstream_retry", tests, NULL, NULL);
}
