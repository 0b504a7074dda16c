/* SPDX-License-Identifier: BSD-2-Clause */
/* Whom to ask where the store's servers are, what to ask, and what the answer means.
 *
 *   Sentinel   guides: store.sentinel.servers
 *              SENTINEL get-master-addr-by-name: one server for all partitions
 *   Cluster    guides: store.cluster, and the servers that are known by now
 *              CLUSTER SLOTS: a server for each partition's hash slot
 *
 * Nothing here sends: topology.c asks over a link, startup.c before there are any. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/store/address.h"

struct redisReply;

/* How many the configuration names. */
size_t guide_count(const struct config *config);
/* False with a sentence in `error` when it cannot be used. */
bool guide_address(const struct config *config, size_t i, struct store_address *out, char *error,
                   size_t error_size) MUST_CHECK;

/* RESP text, owned by the caller: mem_free(). */
char *guide_question(const struct config *config) MUST_CHECK;

/* The server of each partition. Embedded in its owner. */
struct guide_map {
    uint32_t n;
    bool *is_known;                /* owned array of n */
    struct store_address *servers; /* owned array of n; those that are known */
};
void guide_map_init(struct guide_map *map, uint32_t n);
void guide_map_deinit(struct guide_map *map);

/* Reads the answer of the guide at `asked` into the map: partitions that the answer does not name
 * stay as they are. False with a sentence in `error` when it names no server at all. */
bool guide_take_reply(const struct config *config, const struct store_address *asked,
                      const struct redisReply *reply, struct guide_map *map, char *error,
                      size_t error_size) MUST_CHECK;

/* The server that "MOVED 3999 127.0.0.1:6381" or "ASK ..." names. */
bool guide_parse_redirect(const struct config *config, const char *text,
                          struct store_address *out) MUST_CHECK;

/* The Cluster's hash slot of everything with the tag {pNN}. */
enum { GUIDE_SLOTS = 16384 };
uint16_t guide_slot(uint32_t partition);
