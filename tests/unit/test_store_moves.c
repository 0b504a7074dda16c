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
#include "gateway/store/keys.h"
#include "gateway/store/servers.h"
#include "gateway/store/tail.h"
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

/* --- a log that is trimmed while a tail catches up on another server ---------------------------- */

struct log {
    struct fake_redis fake;
    unsigned last;     /* entries 1-0 to last-0 were added; */
    unsigned trims_at; /* when one from here on is read, */
    unsigned trimmed;  /* these are there no longer */
    unsigned trims_to;
};

static void log_put_entries(const struct log *log, unsigned from, char *out, size_t size)
{
    enum { ROUND = 512 };
    unsigned n = log->last - from + 1 < ROUND ? log->last - from + 1 : ROUND;
    size_t len = (size_t)snprintf(out, size, "*1\r\n*2\r\n$17\r\ntest:{p00}:events\r\n*%u\r\n", n);

    for (unsigned i = from; i < from + n; i++) {
        char id[16];
        int id_len = snprintf(id, sizeof(id), "%u-0", i);
        len += (size_t)snprintf(out + len, size - len, "*2\r\n$%d\r\n%s\r\n*0\r\n", id_len, id);
    }
    assert_true(len < size);
}

static void log_answer(const struct redisReply *command, char out[FAKE_REDIS_ANSWER_SIZE],
                       void *arg)
{
    struct log *log = arg;
    unsigned after = 0;

    if (says(command, "XINFO") && log->last > 0) {
        (void)snprintf(out, FAKE_REDIS_ANSWER_SIZE,
                       "*8\r\n$6\r\nlength\r\n:%u\r\n$17\r\nlast-generated-id\r\n+%u-0\r\n"
                       "$20\r\nmax-deleted-entry-id\r\n+0-0\r\n$13\r\nentries-added\r\n:%u\r\n",
                       log->last - log->trimmed, log->last, log->last);
    } else if (says(command, "XREAD")) {
        (void)sscanf(fake_redis_word(command, command->elements - 1), "%u-0", &after);
        if (log->trims_at > 0 && after >= log->trims_at)
            log->trimmed = log->trims_to;
        if (after < log->last)
            log_put_entries(log, 1 + (after > log->trimmed ? after : log->trimmed), out,
                            FAKE_REDIS_ANSWER_SIZE);
    } else if (says(command, "GET")) {
        strcpy(out, "$1\r\n1\r\n");
    } else if (!answer_as_server(command, out)) {
        fail_msg("unexpected: %s", fake_redis_word(command, 0));
    }
}

static void count_gap(void *arg)
{
    ++*(unsigned *)arg;
}

static void ignore_doubt(void *arg, uint32_t partition, const char *error)
{
}

static void ignore_break(void *arg, uint32_t partition)
{
}

/* How many entries a new server had trimmed before those that were read on the old one is not
 * known, and so its trimming was not looked at until all was read. */
static void test_what_a_new_server_trims_unread_is_a_gap(void **state)
{
    struct event_base *base = event_base_new();
    struct log before = {.last = 5}, after = {.last = 1000, .trims_at = 500, .trims_to = 900};
    const struct config config = test_config();
    struct keys *keys = keys_new(&config);
    unsigned gaps = 0;
    const struct tail_params params = {.base = base,
                                       .config = &config,
                                       .keys = keys,
                                       .n = 1,
                                       .handlers = {ignore_cut, count_gap, &gaps, NULL},
                                       .on_doubt = ignore_doubt,
                                       .on_broken = ignore_break};
    struct tail *tail = tail_new(&params);
    struct store_address address = {.host = "127.0.0.1"};

    fake_redis_open(&before.fake, base, log_answer, &before);
    fake_redis_open(&after.fake, base, log_answer, &after);
    address.port = before.fake.port;
    tail_lead(tail, &address);
    int64_t deadline = clock_monotonic_ms() + PATIENCE_MS;
    while (tail_fresh_ms(tail) == INT64_MIN) {
        assert_true(clock_monotonic_ms() < deadline);
        event_base_loop(base, EVLOOP_ONCE);
    }
    assert_int_equal(gaps, 1);

    address.port = after.fake.port;
    tail_lead(tail, &address);
    int64_t fresh_ms = tail_fresh_ms(tail);
    while (tail_fresh_ms(tail) == fresh_ms) {
        assert_true(clock_monotonic_ms() < deadline);
        event_base_loop(base, EVLOOP_ONCE);
        if (after.trimmed == 0) /* of the move itself */
            assert_in_range(gaps, 1, 2);
    }
    assert_int_equal(gaps, 3);

    tail_free(&tail);
    keys_free(&keys);
    fake_redis_close(&after.fake);
    fake_redis_close(&before.fake);
    event_base_free(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_store_may_be_freed_while_a_change_for_all_partitions_is_redirected),
        cmocka_unit_test(test_an_answer_that_names_another_master_does_not_vouch_for_the_old_one),
        cmocka_unit_test(test_what_a_new_server_trims_unread_is_a_gap),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
