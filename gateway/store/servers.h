/* SPDX-License-Identifier: BSD-2-Clause */
/* The links to the servers that have the data: which one leads to a partition, now.
 *
 * One server behind store.redis or Sentinel, several of a Cluster. Each has a link for commands,
 * and with wait_replicas another one for commits. When the topology changes, links to servers that
 * lost their last partition are closed, and new ones made.
 *
 * A master that hung while sentinels put another one in its place comes back believing itself the
 * master, perhaps with a replica that has not left it yet: together they would acknowledge what is
 * lost a moment later. So behind Sentinel
 *   - a link that has come up is used only once a sentinel, asked after that, names its server; and
 *   - the links to a server break together with that of its log, which is never without a question
 *     and so finds a hanging server within lease/4 + command_timeout. Sentinels must wait longer
 *     than that (down-after-milliseconds). */
#pragma once

#include <event2/event.h>

#include "gateway/store/link.h"

struct servers;

enum servers_use {
    SERVERS_COMMANDS,
    SERVERS_COMMITS, /* in order among themselves, perhaps behind a WAIT */
};

/* Partitions have other servers than before. From the loop itself; links may be made and freed. */
typedef void servers_change_fn(void *arg);

struct servers *servers_new(struct event_base *base, const struct config *config,
                            const char *socket, servers_change_fn *changed, void *arg) MUST_CHECK;
/* Answers everything that is open (from inside this call). */
void servers_close(struct servers *servers);
void servers_free(struct servers **servers);

/* NULL: nobody is known to have it; or nobody has yet confirmed how the data is laid out. Borrowed
 * for the turn of the loop. */
struct link *servers_link(const struct servers *servers, uint32_t partition, enum servers_use use);
/* A link to a certain server: of a Cluster in which a partition is on its way there. NULL: too
 * many. */
struct link *servers_link_at(struct servers *servers, const struct store_address *address,
                             enum servers_use use);
/* Whose log to follow; NULL: not known yet. Borrowed until the next change. */
const struct store_address *servers_address(const struct servers *servers, uint32_t partition);

/* Every partition has a server, with all its links up. */
bool servers_are_up(const struct servers *servers);

/* The link to the partition's log broke. From inside a link's callback, too. */
void servers_log_broke(struct servers *servers, uint32_t partition);

/* The partition's server says that it is not, or not now, the one to ask ("MOVED …", "READONLY …"),
 * or cannot be reached (NULL). From inside a link's callback, too. */
void servers_doubt(struct servers *servers, uint32_t partition, const char *error);

uint64_t servers_reconnects(const struct servers *servers);
