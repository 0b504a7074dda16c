/* SPDX-License-Identifier: BSD-2-Clause */
/* A redis-server of the test's own, in a folder of its own, made to be stalled and killed. */
#pragma once

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct redis_fixture {
    char folder[64];
    char socket[96];
    uint16_t port; /* on 127.0.0.1; 0: only the Unix socket */
    pid_t pid;     /* 0: not running */
    /* More arguments for redis-server, ended by NULL; or NULL. Borrowed; to be set before the
     * start. */
    const char *const *options;
};

/* A port on 127.0.0.1 that nobody uses at the moment. */
uint16_t redis_fixture_free_port(void);

/* Durable, like the embedded store. Returns once it answers. `with_port`: TCP as well. */
void redis_fixture_start(struct redis_fixture *redis, bool with_port);
/* Starts it again on the same folder. */
void redis_fixture_resume(struct redis_fixture *redis);
/* Sends the signal; SIGKILL and SIGTERM are waited for. */
void redis_fixture_signal(struct redis_fixture *redis, int number);
/* Ends it and removes the folder. */
void redis_fixture_stop(struct redis_fixture *redis);

/* One command on a connection of its own; freeReplyObject() is the caller's. */
redisReply *redis_fixture_ask(const struct redis_fixture *redis, const char *format, ...);
/* The same for those whose answer does not matter, but must be no error. */
void redis_fixture_do(const struct redis_fixture *redis, const char *format, ...);
/* For integers. */
long long redis_fixture_number(const struct redis_fixture *redis, const char *format, ...);

/* Removes a folder that a test has made, with all that is in it. */
void folder_remove(const char *folder);
