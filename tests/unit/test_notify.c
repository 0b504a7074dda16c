/* SPDX-License-Identifier: BSD-2-Clause */
/* What the service manager hears. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "gateway/base/macros.h"
#include "gateway/daemon/notify.h"

static void the_watchdog_is_fed_while_every_loop_turns(void **state)
{
    static const struct {
        uint64_t ticked_ms[3];
        uint64_t now_ms;
        bool fed;
    } cases[] = {
        {{1000, 1000, 1000}, 1000, true},
        {{1000, 1000, 1000}, 6000, true},  /* half of ten seconds */
        {{6000, 1000, 6000}, 6001, false}, /* one is enough */
        {{6000, 6000, 1000}, 6001, false},
        {{7000, 6000, 6000}, 6001, true}, /* ticked after the clock was read */
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(notify_may_pet(cases[i].ticked_ms, 3, cases[i].now_ms, 10000),
                         cases[i].fed);
    assert_true(notify_may_pet(NULL, 0, 1, 10000));
}

static int listen_as_manager(struct sockaddr_un *where, socklen_t len)
{
    const struct timeval patience = {.tv_sec = 10};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)where, len), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    return fd;
}

static void messages_reach_an_abstract_socket_and_children_cannot_speak(void **state)
{
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    char name[64], message[128];

    int n = snprintf(name, sizeof(name), "@dgw-test-notify-%d", (int)getpid());
    memcpy(where.sun_path + 1, name + 1, (size_t)n - 1);
    int manager =
        listen_as_manager(&where, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n));
    char pid[16];
    (void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
    assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
    assert_int_equal(setenv("WATCHDOG_USEC", "30000000", 1), 0);
    assert_int_equal(setenv("WATCHDOG_PID", pid, 1), 0);

    assert_int_equal(notify_watchdog_ms(), 0);
    notify_send("READY=%d", 0); /* to nobody */
    notify_init();
    assert_int_equal(notify_watchdog_ms(), 30000);
    notify_send("READY=%d", 1);
    ssize_t len = recv(manager, message, sizeof(message), 0);
    assert_int_equal(len, 7);
    assert_memory_equal(message, "READY=1", 7);
    assert_null(getenv("NOTIFY_SOCKET"));
    assert_null(getenv("WATCHDOG_USEC"));
    assert_null(getenv("WATCHDOG_PID"));
    (void)close(manager);
    notify_send("READY=%d", 1); /* to nobody any more */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_watchdog_is_fed_while_every_loop_turns),
        cmocka_unit_test(messages_reach_an_abstract_socket_and_children_cannot_speak),
    };
    return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
