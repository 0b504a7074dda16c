/* SPDX-License-Identifier: BSD-2-Clause */
/* Servers that move, at moments that no real one can be made to choose. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "fake_redis.h"
#include "gateway/base/log.h"
#include "gateway/store/servers.h"
#include "store_world.h"

static bool says(const struct redisReply *command, const char *word)
{
    return strcasecmp(fake_redis_word(command, 0), word) == 0;
}

/* What a server with empty logs and one or more partitions says; false: of other commands. */
static bool answer_as_server(const struct redisReply *command, char out[FAKE_REDIS_ANSWER_SIZE])
{
    static const char *const answers[][2] = {
        {"PING", "+PONG\r\n"}, {"ROLE", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"},
        {"SET", "$-1\r\n"},    {"XINFO", "-ERR no such key\r\n"},
        {"XREAD", ""}, /* blocks for as long as the test lasts */
    };

    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        if (says(command, answers[i][0])) {
            strcpy(out, answers[i][1]);
            return true;
        }
    }
    return false;
}

/* --- a Cluster of one node, whose scripts fail as while a slot moves ---------------------------- */

struct node {
    struct fake_redis fake;
    unsigned n_scripts; /* that it was asked for */
};

static void node_answer(const struct redisReply *command, char out[FAKE_REDIS_ANSWER_SIZE],
                        void *arg)
{
    struct node *node = arg;

    if (answer_as_server(command, out))
        return;
    if (says(command, "CLUSTER")) {
        (void)snprintf(out, FAKE_REDIS_ANSWER_SIZE,
                       "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%u\r\n",
                       node->fake.port);
    } else if (says(command, "GET")) {
        strcpy(out, "$1\r\n2\r\n");
    } else if (says(command, "EVALSHA") || says(command, "EVAL")) {
        node->n_scripts++;
        strcpy(out, "-TRYAGAIN Multiple keys request during rehashing of slot\r\n");
    } else {
        fail_msg("unexpected: %s", fake_redis_word(command, 0));
    }
}

static void ignore_cut(const struct store_cut *cut, void *arg)
{
}

static void ignore_gap(void *arg)
{
}

/* A denial of a key goes to all partitions, one after the other: what stood for all of them was
 * freed before the commit that was waiting to be sent again, and which then spoke to it. */
static void test_a_store_may_be_freed_while_a_change_for_all_partitions_is_redirected(void **state)
{
    struct event_base *base = event_base_new();
    struct node node = {0};
    struct store_stats stats;
    const struct store_handlers handlers = {ignore_cut, ignore_gap, NULL, &stats};
    const struct change change = denial_change(DENY_KEY, HEX_A, "stolen", 0, false);
    struct answer answer = {0};

    fake_redis_open(&node.fake, base, node_answer, &node);
    struct config_address place = {.host = "127.0.0.1", .port = node.fake.port};
    struct config config = test_config();
    config.store.partitions = 2;
    config.store.cluster = &place;
    config.store.n_cluster = 1;
    store_stats_init(&stats);
    struct store *store = store_new(base, &config, NULL, &handlers);
    int64_t deadline = clock_monotonic_ms() + PATIENCE_MS;
    while (!store_is_ready(store)) {
        assert_true(clock_monotonic_ms() < deadline);
        event_base_loop(base, EVLOOP_ONCE);
    }

    (void)store_commit(store, "", &change, on_commit, &answer);
    while (node.n_scripts < 2) { /* the second sending tells that the first was redirected */
        assert_true(clock_monotonic_ms() < deadline);
        event_base_loop(base, EVLOOP_ONCE);
    }
    for (int i = 0; i < 3; i++) /* its answer arrives */
        event_base_loop(base, EVLOOP_NONBLOCK);
    store_free(&store);
    assert_int_equal(answer.calls, 1);
    assert_int_equal(answer.result, STORE_UNAVAILABLE);
    fake_redis_close(&node.fake);
    event_base_free(base);
}

/* --- a master that comes back while a sentinel has another one ---------------------------------- */

struct watched {
    struct fake_redis sentinel;
    struct fake_redis master;
    uint16_t named;       /* the master's port, as the sentinel has it */
    uint16_t named_later; /* ... once the master is asked for its role again; 0: likewise */
    unsigned n_roles;
};

static void sentinel_answer(const struct redisReply *command, char out[FAKE_REDIS_ANSWER_SIZE],
                            void *arg)
{
    const struct watched *watched = arg;

    if (answer_as_server(command, out))
        return;
    if (!says(command, "SENTINEL"))
        fail_msg("unexpected: %s", fake_redis_word(command, 0));
    char port[8];
    int len = snprintf(port, sizeof(port), "%u", watched->named);
    (void)snprintf(out, FAKE_REDIS_ANSWER_SIZE, "*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n", len,
                   port);
}

static void master_answer(const struct redisReply *command, char out[FAKE_REDIS_ANSWER_SIZE],
                          void *arg)
{
    struct watched *watched = arg;

    if (says(command, "ROLE")) {
        watched->n_roles++;
        if (watched->named_later != 0)
            watched->named = watched->named_later;
    }
    if (answer_as_server(command, out))
        return;
    if (!says(command, "GET"))
        fail_msg("unexpected: %s", fake_redis_word(command, 0));
    strcpy(out, "$1\r\n1\r\n");
}

static void ignore_change(void *arg)
{
}

/* The sentinel's answer made the old master trusted for the rest of the loop's turn, because it
 * was an answer, whomever it named. */
static void test_an_answer_that_names_another_master_does_not_vouch_for_the_old_one(void **state)
{
    struct event_base *base = event_base_new();
    struct watched watched = {0};

    fake_redis_open(&watched.sentinel, base, sentinel_answer, &watched);
    fake_redis_open(&watched.master, base, master_answer, &watched);
    watched.named = watched.master.port;
    struct config_address place = {.host = "127.0.0.1", .port = watched.sentinel.port};
    struct config config = test_config();
    config.store.sentinel.master = "fleet";
    config.store.sentinel.servers = &place;
    config.store.sentinel.n_servers = 1;
    struct servers *servers = servers_new(base, &config, NULL, ignore_change, NULL);
    int64_t deadline = clock_monotonic_ms() + PATIENCE_MS;
    while (servers_link(servers, 0, SERVERS_COMMANDS) == NULL) {
        assert_true(clock_monotonic_ms() < deadline);
        event_base_loop(base, EVLOOP_ONCE);
    }

    /* Nobody listens where the new one is said to be. */
    watched.named_later = 1;
    unsigned n_roles = watched.n_roles;
    fake_redis_hang_up(&watched.master);
    while (watched.n_roles == n_roles) {
        assert_true(clock_monotonic_ms() < deadline);
        event_base_loop(base, EVLOOP_ONCE);
    }
    while (servers_address(servers, 0)->port == watched.master.port) {
        assert_true(clock_monotonic_ms() < deadline);
        event_base_loop(base, EVLOOP_ONCE);
    }
    assert_null(servers_link(servers, 0, SERVERS_COMMANDS));

    servers_free(&servers);
    fake_redis_close(&watched.master);
    fake_redis_close(&watched.sentinel);
    event_base_free(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_store_may_be_freed_while_a_change_for_all_partitions_is_redirected),
        cmocka_unit_test(test_an_answer_that_names_another_master_does_not_vouch_for_the_old_one),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
