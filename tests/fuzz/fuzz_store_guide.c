/* SPDX-License-Identifier: BSD-2-Clause */
/* What a sentinel or a Cluster's node says of where the servers are: RESP, or an error's text. */
#include <hiredis/hiredis.h>
#include <stdint.h>
#include <stdlib.h>

#include "gateway/base/mem.h"
#include "gateway/store/guide.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct config_address places[] = {{.host = "h", .port = 1}};

static void take(const struct config *config, const struct redisReply *reply)
{
    static const struct store_address asked = {.host = "h", .port = 1};
    struct guide_map map;
    char error[128] = "";

    guide_map_init(&map, 16);
    bool taken = guide_take_reply(config, &asked, reply, &map, error, sizeof(error));
    for (uint32_t i = 0; i < map.n; i++) {
        if (map.is_known[i] && (!taken || map.servers[i].port == 0 || map.servers[i].host[0] == 0))
            abort();
    }
    if (taken == (error[0] != '\0'))
        abort();
    guide_map_deinit(&map);
}

static void take_redirect(const struct config *config, const uint8_t *data, size_t size)
{
    char *text = mem_zalloc(size + 1);
    struct store_address address;

    memcpy(text, data, size);
    if (guide_parse_redirect(config, text, &address) && address.port == 0)
        abort();
    mem_free(text);
}

/* hiredis makes room for all elements that an array announces. */
static bool announces_much(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 5 < size; i++) {
        if (data[i] == '*' && memchr(data + i, '\r', 6) == NULL)
            return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (announces_much(data, size))
        return 0;

    struct config sentinel = {0}, cluster = {0};
    redisReader *reader = redisReaderCreate();
    void *reply = NULL;

    sentinel.store.sentinel.master = "m";
    sentinel.store.sentinel.servers = cluster.store.cluster = places;
    sentinel.store.sentinel.n_servers = cluster.store.n_cluster = 1;
    take_redirect(&cluster, data, size);
    if (redisReaderFeed(reader, (const char *)data, size) == REDIS_OK &&
        redisReaderGetReply(reader, &reply) == REDIS_OK && reply != NULL) {
        take(&sentinel, reply);
        take(&cluster, reply);
        freeReplyObject(reply);
    }
    redisReaderFree(reader);
    return 0;
}
