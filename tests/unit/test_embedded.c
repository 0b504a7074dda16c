/* SPDX-License-Identifier: BSD-2-Clause */
/* The embedded redis-server: started, killed, started again, and never two on one folder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/store/embedded.h"
#include "gateway/store/startup.h"
#include "redis_fixture.h"

enum { PATIENCE_MS = 15000 };

struct world {
    char folder[64];
    char state_dir[96];
    struct config config;
    struct event_base *base;
    struct embedded *embedded;
    char error[512];
};

static int set_up(void **state)
{
    struct world *world = mem_new(struct world);

    (void)snprintf(world->folder, sizeof(world->folder), "/tmp/embedded-test-XXXXXX");
    assert_non_null(mkdtemp(world->folder));
    (void)snprintf(world->state_dir, sizeof(world->state_dir), "%s/state \"dir\"", world->folder);
    world->config.state_dir = world->state_dir;
    world->config.store.redis_server = "redis-server";
    world->config.store.prefix = "test";
    world->config.store.partitions = 1;
    world->config.store.connect_timeout_ms = 1000;
    world->base = event_base_new();
    *state = world;
    return 0;
}

static int tear_down(void **state)
{
    struct world *world = *state;

    embedded_stop(&world->embedded);
    event_base_free(world->base);
    folder_remove(world->folder);
    mem_free(world);
    return 0;
}

static bool start(struct world *world)
{
    world->embedded =
        embedded_start(world->base, &world->config, world->error, sizeof(world->error));
    return world->embedded != NULL;
}

/* The server's answer as text; "" when there is none. */
static void ask(const struct world *world, char *out, size_t size, const char *command)
{
    redisContext *context = redisConnectUnix(embedded_socket(world->embedded));
    redisReply *reply = context->err == 0 ? redisCommand(context, command, NULL) : NULL;

    out[0] = '\0';
    if (reply != NULL && reply->type == REDIS_REPLY_INTEGER)
        (void)snprintf(out, size, "%lld", reply->integer);
    else if (reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2)
        (void)snprintf(out, size, "%s", reply->element[1]->str);
    else if (reply != NULL && reply->str != NULL)
        (void)snprintf(out, size, "%s", reply->str);
    if (reply != NULL)
        freeReplyObject(reply);
    redisFree(context);
}

static pid_t server_pid(const struct world *world)
{
    char text[8192];

    ask(world, text, sizeof(text), "INFO server");
    const char *found = strstr(text, "process_id:");
    return found != NULL ? (pid_t)strtol(found + 11, NULL, 10) : 0;
}

/* A zombie counts as gone: it may be another process's to reap. */
static bool is_server_gone(pid_t pid)
{
    char path[64], program[256];

    (void)snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
    return readlink(path, program, sizeof(program)) < 0;
}

static mode_t mode_of(const struct world *world, const char *name)
{
    char path[256];
    struct stat status;

    (void)snprintf(path, sizeof(path), "%s/%s", world->state_dir, name);
    assert_int_equal(stat(path, &status), 0);
    return status.st_mode & 07777;
}

static void the_server_is_durable_and_private(void **state)
{
    static const struct {
        const char *command;
        const char *value;
    } cases[] = {
        {"PING", "PONG"},
        {"CONFIG GET appendonly", "yes"},
        {"CONFIG GET appendfsync", "always"},
        {"CONFIG GET save", ""},
        {"CONFIG GET port", "0"},
        {"CONFIG GET maxmemory-policy", "noeviction"},
        {"CONFIG GET aof-load-truncated", "yes"},
    };
    struct world *world = *state;
    char text[256];

    if (!start(world))
        fail_msg("%s", world->error);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        ask(world, text, sizeof(text), cases[i].command);
        assert_string_equal(text, cases[i].value);
    }
    assert_int_equal(mode_of(world, ""), 0700);
    assert_int_equal(mode_of(world, "redis.sock"), 0700);
    assert_int_equal(mode_of(world, "redis.log"), 0640);
    assert_int_equal(mode_of(world, "redis.conf"), 0600);
    assert_int_equal(store_startup_check(&world->config, embedded_socket(world->embedded), text,
                                         sizeof(text)),
                     STORE_STARTUP_READY);
}

static void a_stopped_server_is_gone_and_its_data_stay(void **state)
{
    struct world *world = *state;
    char text[64];

    assert_true(start(world));
    ask(world, text, sizeof(text), "SET a b");
    assert_string_equal(text, "OK");
    pid_t pid = server_pid(world);
    embedded_stop(&world->embedded);
    assert_null(world->embedded);
    assert_true(is_server_gone(pid));
    assert_true(start(world));
    ask(world, text, sizeof(text), "GET a");
    assert_string_equal(text, "b");
}

static void a_killed_server_comes_back_with_what_was_acknowledged(void **state)
{
    struct world *world = *state;
    char text[64], command[64];

    assert_true(start(world));
    for (int round = 0; round < 3; round++) {
        pid_t pid = server_pid(world), now;
        (void)snprintf(command, sizeof(command), "SET key%d value", round);
        ask(world, text, sizeof(text), command);
        assert_string_equal(text, "OK");
        assert_int_equal(kill(pid, SIGKILL), 0);
        int64_t deadline = clock_monotonic_ms() + PATIENCE_MS;
        do {
            const struct timeval moment = {.tv_usec = 10000};
            assert_true(clock_monotonic_ms() < deadline);
            event_base_loopexit(world->base, &moment);
            event_base_dispatch(world->base);
            now = server_pid(world);
            ask(world, text, sizeof(text), "PING"); /* an error while it is loading */
        } while (now == 0 || now == pid || strcmp(text, "PONG") != 0);
        ask(world, text, sizeof(text), "DBSIZE");
        assert_int_equal(strtol(text, NULL, 10), round + 1);
    }
}

/* A daemon of its own; what it says goes back through the pipe. */
static pid_t run_daemon(struct world *world, pid_t *out_server)
{
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct event_base *base = event_base_new();
        world->embedded = embedded_start(base, &world->config, world->error, sizeof(world->error));
        pid_t server = world->embedded != NULL ? server_pid(world) : 0;
        ssize_t written = write(fds[1], &server, sizeof(server));
        (void)written;
        for (;;)
            pause();
    }
    assert_int_equal(read(fds[0], out_server, sizeof(*out_server)), sizeof(*out_server));
    close(fds[0]);
    close(fds[1]);
    return pid;
}

static void the_server_dies_with_the_daemon_and_a_new_one_takes_over(void **state)
{
    struct world *world = *state;
    char text[64];
    pid_t server = 0, pid = run_daemon(world, &server);

    assert_true(server > 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    /* At once: the lock makes us wait for the old server's end. */
    assert_true(start(world));
    assert_true(is_server_gone(server));
    assert_true(server_pid(world) != server);
    ask(world, text, sizeof(text), "PING");
    assert_string_equal(text, "PONG");
}

static void there_are_never_two_on_one_folder(void **state)
{
    struct world *world = *state;
    char path[256];

    assert_int_equal(mkdir(world->state_dir, 0700), 0);
    (void)snprintf(path, sizeof(path), "%s/lock", world->state_dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_false(start(world));
    assert_non_null(strstr(world->error, "in use"));
    close(fd);
    assert_true(start(world));
}

static void a_large_log_is_put_aside(void **state)
{
    struct world *world = *state;
    char path[256];

    assert_int_equal(mkdir(world->state_dir, 0700), 0);
    (void)snprintf(path, sizeof(path), "%s/redis.log", world->state_dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, 9 * 1024 * 1024), 0);
    close(fd);
    assert_true(start(world));
    assert_int_equal(mode_of(world, "redis.log.1"), 0600);
    assert_int_equal(mode_of(world, "redis.log"), 0640);
}

static void what_cannot_start_says_why(void **state)
{
    static const struct {
        const char *program;
        const char *state_dir; /* NULL: the usual one */
        const char *error;
    } cases[] = {
        {"no-such-redis-server", NULL, "no-such-redis-server"},
        {"/nowhere/redis-server", NULL, "/nowhere/redis-server"},
        {"false", NULL, "status 1"},
        {"redis-server", "/nowhere/state", "/nowhere/state"},
        {"redis-server", "/dev/null", "/dev/null"},
    };
    struct world *world = *state;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        world->config.store.redis_server = cases[i].program;
        world->config.state_dir =
            cases[i].state_dir != NULL ? cases[i].state_dir : world->state_dir;
        assert_false(start(world));
        if (strstr(world->error, cases[i].error) == NULL)
            fail_msg("%s: %s", cases[i].program, world->error);
    }
}

static void a_path_that_no_socket_can_have_is_refused(void **state)
{
    struct world *world = *state;
    char path[192];

    (void)snprintf(path, sizeof(path), "%s/%0100d", world->folder, 0);
    world->config.state_dir = path;
    assert_false(start(world));
    assert_non_null(strstr(world->error, "too long"));
}

static int quiet(void **state)
{
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_JSON, LOG_ERROR);
    return 0;
}

#define embedded_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        embedded_test(the_server_is_durable_and_private),
        embedded_test(a_stopped_server_is_gone_and_its_data_stay),
        embedded_test(a_killed_server_comes_back_with_what_was_acknowledged),
        embedded_test(the_server_dies_with_the_daemon_and_a_new_one_takes_over),
        embedded_test(there_are_never_two_on_one_folder),
        embedded_test(a_large_log_is_put_aside),
        embedded_test(what_cannot_start_says_why),
        embedded_test(a_path_that_no_socket_can_have_is_refused),
    };

    return cmocka_run_group_tests(tests, quiet, NULL);
}
