/* SPDX-License-Identifier: BSD-2-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "redis_fixture.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gateway/base/clock.h"

enum { ANSWER_MS = 20000, ARGUMENTS_MAX = 48 };

/* Redis cannot let the kernel choose; that somebody takes the port in between is unlikely. */
uint16_t redis_fixture_free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    close(fd);
    return ntohs(address.sin_port);
}

static void run_server(const struct redis_fixture *redis)
{
    char port[8];
    int null_fd = open("/dev/null", O_RDWR);

    (void)snprintf(port, sizeof(port), "%u", redis->port);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)dup2(null_fd, STDIN_FILENO);
    (void)dup2(null_fd, STDOUT_FILENO);
    (void)dup2(null_fd, STDERR_FILENO);
    const char *arguments[ARGUMENTS_MAX] = {"redis-server",
                                            "--port",
                                            port,
                                            "--bind",
                                            "127.0.0.1",
                                            "--unixsocket",
                                            redis->socket,
                                            "--dir",
                                            redis->folder,
                                            "--logfile",
                                            "redis.log",
                                            "--save",
                                            "",
                                            "--appendonly",
                                            "yes",
                                            "--appendfsync",
                                            "always",
                                            "--repl-diskless-sync-delay",
                                            "0"};
    size_t n = 0;
    while (arguments[n] != NULL)
        n++;
    for (size_t i = 0; redis->options != NULL && redis->options[i] != NULL; i++) {
        if (n + 1 < ARGUMENTS_MAX)
            arguments[n++] = redis->options[i];
    }
    char *argv[ARGUMENTS_MAX];
    memcpy(argv, arguments, sizeof(argv));
    execvp("redis-server", argv);
    _exit(127);
}

static bool answers(const struct redis_fixture *redis)
{
    redisContext *context = redisConnectUnix(redis->socket);
    redisReply *reply = context->err == 0 ? redisCommand(context, "PING") : NULL;
    bool is_pong = reply != NULL && reply->type == REDIS_REPLY_STATUS;

    if (reply != NULL)
        freeReplyObject(reply);
    redisFree(context);
    return is_pong;
}

void redis_fixture_resume(struct redis_fixture *redis)
{
    int64_t deadline = clock_monotonic_ms() + ANSWER_MS;

    redis->pid = fork();
    assert_true(redis->pid >= 0);
    if (redis->pid == 0)
        run_server(redis);
    while (!answers(redis)) {
        assert_true(clock_monotonic_ms() < deadline);
        assert_int_equal(waitpid(redis->pid, NULL, WNOHANG), 0);
        usleep(5000);
    }
}

void redis_fixture_start(struct redis_fixture *redis, bool with_port)
{
    (void)snprintf(redis->folder, sizeof(redis->folder), "/tmp/store-test-XXXXXX");
    assert_non_null(mkdtemp(redis->folder));
    (void)snprintf(redis->socket, sizeof(redis->socket), "%s/redis.sock", redis->folder);
    redis->port = with_port ? redis_fixture_free_port() : 0;
    redis_fixture_resume(redis);
}

void redis_fixture_signal(struct redis_fixture *redis, int number)
{
    if (redis->pid == 0)
        return;
    assert_int_equal(kill(redis->pid, number), 0);
    if (number != SIGKILL && number != SIGTERM)
        return;
    assert_int_equal(waitpid(redis->pid, NULL, 0), redis->pid);
    redis->pid = 0;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *ftw)
{
    return remove(path);
}

void folder_remove(const char *folder)
{
    (void)nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

void redis_fixture_stop(struct redis_fixture *redis)
{
    redis_fixture_signal(redis, SIGKILL);
    folder_remove(redis->folder);
}

static redisReply *ask(const struct redis_fixture *redis, const char *format, va_list args)
{
    redisContext *context = redisConnectUnix(redis->socket);

    assert_int_equal(context->err, 0);
    redisReply *reply = redisvCommand(context, format, args);
    assert_non_null(reply);
    redisFree(context);
    return reply;
}

redisReply *redis_fixture_ask(const struct redis_fixture *redis, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    redisReply *reply = ask(redis, format, args);
    va_end(args);
    return reply;
}

void redis_fixture_do(const struct redis_fixture *redis, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    redisReply *reply = ask(redis, format, args);
    va_end(args);
    if (reply->type == REDIS_REPLY_ERROR)
        fail_msg("%s: %s", format, reply->str);
    freeReplyObject(reply);
}

long long redis_fixture_number(const struct redis_fixture *redis, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    redisReply *reply = ask(redis, format, args);
    va_end(args);
    assert_int_equal(reply->type, REDIS_REPLY_INTEGER);
    long long number = reply->integer;
    freeReplyObject(reply);
    return number;
}
