/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/guide.h"

#include <hiredis/hiredis.h>
#include <stdio.h>

#include "gateway/base/mem.h"
#include "gateway/store/reply.h"

static bool is_sentinel(const struct config *config)
{
    return config_store_kind(config) == CONFIG_STORE_SENTINEL;
}

size_t guide_count(const struct config *config)
{
    return is_sentinel(config) ? config->store.sentinel.n_servers : config->store.n_cluster;
}

bool guide_address(const struct config *config, size_t i, struct store_address *out, char *error,
                   size_t error_size)
{
    const struct config_address *address =
        is_sentinel(config) ? &config->store.sentinel.servers[i] : &config->store.cluster[i];

    return store_address_make(config, str_c(address->host), address->port, out, error, error_size);
}

char *guide_question(const struct config *config)
{
    const char *master = config->store.sentinel.master;

    if (!is_sentinel(config))
        return mem_strdup("*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n");
    return mem_printf("*3\r\n$8\r\nSENTINEL\r\n$23\r\nget-master-addr-by-name\r\n$%zu\r\n%s\r\n",
                      strlen(master), master);
}

void guide_map_init(struct guide_map *map, uint32_t n)
{
    map->n = n;
    map->is_known = mem_array(n, sizeof(*map->is_known));
    map->servers = mem_array(n, sizeof(*map->servers));
}

void guide_map_deinit(struct guide_map *map)
{
    mem_free(map->is_known);
    mem_free(map->servers);
}

/* Slots. */

/* CRC-16/XMODEM, as the Cluster's specification has it. */
static uint16_t crc16(const char *text, size_t len)
{
    unsigned crc = 0;

    for (size_t i = 0; i < len; i++) {
        crc ^= (unsigned)(unsigned char)text[i] << 8;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 0x8000) != 0 ? crc << 1 ^ 0x1021 : crc << 1;
    }
    return (uint16_t)crc;
}

uint16_t guide_slot(uint32_t partition)
{
    char tag[16];
    int len = snprintf(tag, sizeof(tag), "p%02u", partition);

    return crc16(tag, (size_t)len) % GUIDE_SLOTS;
}

/* Answers. */

static bool take_port(const redisReply *reply, uint16_t *out)
{
    uint64_t port = 0;

    if (reply != NULL && reply->type == REDIS_REPLY_INTEGER && reply->integer > 0)
        port = (uint64_t)reply->integer;
    else if (reply == NULL || !str_to_u64(reply_text(reply), &port))
        return false;
    if (port == 0 || port > UINT16_MAX)
        return false;
    *out = (uint16_t)port;
    return true;
}

/* [host, port, …]. A node that does not know its own address leaves it out: it is the one that was
 * asked. */
static bool take_server(const struct config *config, const struct store_address *asked,
                        const redisReply *reply, struct store_address *out)
{
    const redisReply *host = reply_element(reply, 0);
    char ignored[128];
    uint16_t port;

    if (host == NULL || !take_port(reply_element(reply, 1), &port))
        return false;
    struct str name = reply_text(host);
    if (name.len == 0)
        name = str_c(asked->host);
    return store_address_make(config, name, port, out, ignored, sizeof(ignored));
}

static bool take_master(const struct config *config, const struct store_address *asked,
                        const redisReply *reply, struct guide_map *map)
{
    struct store_address master;

    if (!take_server(config, asked, reply, &master))
        return false;
    for (uint32_t i = 0; i < map->n; i++) {
        map->servers[i] = master;
        map->is_known[i] = true;
    }
    return true;
}

/* [[first, last, [host, port, …], replicas…], …] */
static bool take_slots(const struct config *config, const struct store_address *asked,
                       const redisReply *reply, struct guide_map *map)
{
    bool found = false;

    for (size_t i = 0; i < reply->elements; i++) {
        const redisReply *range = reply->element[i];
        const redisReply *first = reply_element(range, 0), *last = reply_element(range, 1);
        const redisReply *node = reply_element(range, 2);
        struct store_address server;
        if (first == NULL || first->type != REDIS_REPLY_INTEGER || last == NULL ||
            last->type != REDIS_REPLY_INTEGER || node == NULL ||
            !take_server(config, asked, node, &server))
            continue;
        for (uint32_t k = 0; k < map->n; k++) {
            uint16_t slot = guide_slot(k);
            if (slot < first->integer || slot > last->integer)
                continue;
            map->servers[k] = server;
            map->is_known[k] = true;
            found = true;
        }
    }
    return found;
}

bool guide_take_reply(const struct config *config, const struct store_address *asked,
                      const redisReply *reply, struct guide_map *map, char *error,
                      size_t error_size)
{
    bool is_array = reply->type == REDIS_REPLY_ARRAY;

    if (is_sentinel(config)) {
        if (is_array && take_master(config, asked, reply, map))
            return true;
        (void)snprintf(error, error_size, "the sentinel %s port %u knows no master \"%s\"%s%s",
                       asked->host, asked->port, config->store.sentinel.master,
                       reply->type == REDIS_REPLY_ERROR ? ": " : "",
                       reply->type == REDIS_REPLY_ERROR ? reply->str : "");
        return false;
    }
    if (is_array && take_slots(config, asked, reply, map))
        return true;
    (void)snprintf(error, error_size, "%s port %u names no servers of a Redis Cluster%s%s",
                   asked->host, asked->port, reply->type == REDIS_REPLY_ERROR ? ": " : "",
                   reply->type == REDIS_REPLY_ERROR ? reply->str : "");
    return false;
}

bool guide_parse_redirect(const struct config *config, const char *text, struct store_address *out)
{
    struct str rest = str_c(text), word;
    char ignored[128];
    uint64_t port;

    /* The kind and the slot; then "host:port", with an IPv6 address as it is. */
    for (int i = 0; i < 2; i++)
        if (!str_split(&rest, ' ', &word))
            return false;
    if (rest.len == 0)
        return false;
    const char *colon = memrchr(rest.p, ':', rest.len);
    if (colon == NULL || colon == rest.p)
        return false;
    size_t host_len = (size_t)(colon - rest.p);
    if (!str_to_u64((struct str){colon + 1, rest.len - host_len - 1}, &port) || port == 0 ||
        port > UINT16_MAX)
        return false;
    return store_address_make(config, (struct str){rest.p, host_len}, (uint16_t)port, out, ignored,
                              sizeof(ignored));
}
