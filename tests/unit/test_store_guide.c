/* SPDX-License-Identifier: BSD-2-Clause */
/* What sentinels and a Cluster's nodes say of where the servers are: read with hiredis' own parser,
 * also when it is not what one would expect. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>

#include "gateway/base/mem.h"
#include "gateway/store/guide.h"

static struct config_address places[] = {{.host = "10.0.0.1", .port = 7000}};

static struct config sentinel_config(void)
{
    struct config config = {0};

    config.store.sentinel.master = "fleet";
    config.store.sentinel.servers = places;
    config.store.sentinel.n_servers = 1;
    return config;
}

static struct config cluster_config(void)
{
    struct config config = {0};

    config.store.cluster = places;
    config.store.n_cluster = 1;
    return config;
}

static const struct store_address asked = {.host = "10.0.0.1", .port = 7000};

/* The servers of three partitions as "host:port", "-" where none is known. */
static bool take(const struct config *config, const char *resp, char out[256], char error[256])
{
    redisReader *reader = redisReaderCreate();
    struct guide_map map;
    void *reply = NULL;
    size_t len = 0;

    assert_int_equal(redisReaderFeed(reader, resp, strlen(resp)), REDIS_OK);
    assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
    assert_non_null(reply);
    guide_map_init(&map, 3);
    error[0] = '\0';
    bool taken = guide_take_reply(config, &asked, reply, &map, error, 256);
    for (uint32_t i = 0; i < 3; i++) {
        char text[STORE_ADDRESS_TEXT_SIZE] = "-";
        if (map.is_known[i])
            store_address_format(&map.servers[i], text);
        len += (size_t)snprintf(out + len, 256 - len, "%s%s", i > 0 ? " " : "", text);
    }
    guide_map_deinit(&map);
    freeReplyObject(reply);
    redisReaderFree(reader);
    return taken;
}

static void slots_are_those_that_redis_computes(void **state)
{
    static const struct {
        uint32_t partition;
        uint16_t slot;
    } cases[] = {{0, 11214}, {1, 15343}, {7, 6953}, {15, 2138}, {100, 806}, {1023, 10169}};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(guide_slot(cases[i].partition), cases[i].slot);
}

static void a_sentinel_names_one_server_for_all(void **state)
{
    static const struct {
        const char *resp;
        const char *servers; /* NULL: refused */
    } cases[] = {
        {"*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n", "127.0.0.1:6379 127.0.0.1:6379 127.0.0.1:6379"},
        {"*2\r\n$3\r\n::1\r\n$1\r\n1\r\n", "[::1]:1 [::1]:1 [::1]:1"},
        {"*-1\r\n", NULL},
        {"$-1\r\n", NULL},
        {"-NOAUTH Authentication required.\r\n", NULL},
        {"*1\r\n$9\r\n127.0.0.1\r\n", NULL},
        {"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n65536\r\n", NULL},
        {"*2\r\n$9\r\n127.0.0.1\r\n$1\r\n0\r\n", NULL},
        {"*2\r\n:1\r\n:0\r\n", NULL},
        {"+OK\r\n", NULL},
    };
    const struct config config = sentinel_config();

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char servers[256], error[256];
        bool taken = take(&config, cases[i].resp, servers, error);
        assert_int_equal(taken, cases[i].servers != NULL);
        assert_string_equal(servers, taken ? cases[i].servers : "- - -");
        assert_int_equal(error[0] == '\0', taken);
    }
}

/* p00 is in slot 11214, p01 in 15343, p02 in 2956. */
static void a_node_names_a_server_for_each_slot(void **state)
{
    static const struct {
        const char *resp;
        const char *servers; /* NULL: refused */
    } cases[] = {
        {"*2\r\n*3\r\n:0\r\n:9999\r\n*3\r\n$1\r\na\r\n:1\r\n$2\r\nid\r\n"
         "*4\r\n:10000\r\n:16383\r\n*4\r\n$1\r\nb\r\n:2\r\n$2\r\nid\r\n*0\r\n*2\r\n$1\r\nc\r\n:"
         "3\r\n",
         "b:2 b:2 a:1"},
        /* A node that does not know its own name; slots that nobody has. */
        {"*1\r\n*3\r\n:15343\r\n:15343\r\n*3\r\n$0\r\n\r\n:9\r\n$2\r\nid\r\n", "- 10.0.0.1:9 -"},
        {"*1\r\n*3\r\n:11214\r\n:11214\r\n*3\r\n$-1\r\n:9\r\n$2\r\nid\r\n", "10.0.0.1:9 - -"},
        {"*1\r\n*3\r\n:0\r\n:10\r\n*3\r\n$1\r\na\r\n:1\r\n$2\r\nid\r\n", NULL},
        {"*1\r\n*3\r\n:0\r\n:16383\r\n*1\r\n$1\r\na\r\n", NULL},
        {"*1\r\n*3\r\n$1\r\n0\r\n:16383\r\n*2\r\n$1\r\na\r\n:1\r\n", NULL},
        {"*1\r\n:1\r\n", NULL},
        {"*0\r\n", NULL},
        {"-ERR This instance has cluster support disabled\r\n", NULL},
    };
    const struct config config = cluster_config();

    assert_int_equal(guide_slot(2), 2956);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char servers[256], error[256];
        bool taken = take(&config, cases[i].resp, servers, error);
        if (taken != (cases[i].servers != NULL))
            fail_msg("%s: %s", cases[i].resp, servers);
        assert_string_equal(servers, taken ? cases[i].servers : "- - -");
    }
}

static void redirections_name_a_server(void **state)
{
    static const struct {
        const char *text;
        const char *server; /* NULL: none */
    } cases[] = {
        {"MOVED 3999 127.0.0.1:6381", "127.0.0.1:6381"},
        {"ASK 3999 redis-2.example:1", "redis-2.example:1"},
        {"MOVED 3999 ::1:6381", "[::1]:6381"},
        {"MOVED 3999 :6381", NULL},
        {"MOVED 3999 127.0.0.1", NULL},
        {"MOVED 3999 127.0.0.1:", NULL},
        {"MOVED 3999 127.0.0.1:65536", NULL},
        {"MOVED 3999", NULL},
        {"MOVED", NULL},
        {"", NULL},
    };
    const struct config config = cluster_config();

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct store_address address;
        char text[STORE_ADDRESS_TEXT_SIZE];
        bool parsed = guide_parse_redirect(&config, cases[i].text, &address);
        assert_int_equal(parsed, cases[i].server != NULL);
        if (!parsed)
            continue;
        store_address_format(&address, text);
        assert_string_equal(text, cases[i].server);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_those_that_redis_computes),
        cmocka_unit_test(a_sentinel_names_one_server_for_all),
        cmocka_unit_test(a_node_names_a_server_for_each_slot),
        cmocka_unit_test(redirections_name_a_server),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
