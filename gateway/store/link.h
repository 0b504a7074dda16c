/* SPDX-License-Identifier: BSD-2-Clause */
/* One connection to Redis that comes back by itself.
 *
 *      WAITING ──back-off──▶ RESOLVING ──▶ CONNECTING ──▶ GREETING ──▶ UP
 *         ▲                      │              │             │         │
 *         └──────────────────────┴──────────────┴─────────────┴─────────┘ broken, or out of time
 *
 * Of hiredis only the reply parser, the output buffer and the socket calls are used (its
 * synchronous context, in non-blocking mode): queue, deadlines and callbacks are ours, because
 * hiredis 0.14 has no deadlines, and its asynchronous half ends the process when a server says
 * something unasked.
 *
 * A greeting authenticates, chooses the database, and writes or compares <prefix>:partitions: data
 * of another layout is never touched. Commands are pipelined and answered in their order. */
#pragma once

#include <event2/event.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "gateway/config/config.h"

struct link;
struct redisReply;

enum {
    LINK_QUEUE_MAX = 4096,             /* commands without an answer */
    LINK_OUTPUT_MAX = 8 * 1024 * 1024, /* bytes for the kernel, and one command */
    LINK_REPLY_MAX = 64 * 1024 * 1024, /* bytes of an answer that is not complete yet */
    LINK_BACKOFF_MIN_MS = 50,
    LINK_BACKOFF_MAX_MS = 2000,
};

/* Runs exactly once for each reply that link_send() was told to expect, never from inside it.
 * `reply` is borrowed for the call; NULL: the link broke, or the answer did not come in time. May
 * send; must not free the link. */
typedef void link_reply_fn(const struct redisReply *reply, void *arg);

/* Neither runs from inside link_new() or link_close(). */
struct link_handlers {
    void (*on_up)(void *arg);
    void (*on_down)(void *arg); /* only after on_up; the open commands are answered right after */
    void *arg;
};

/* Starts connecting at once. `config` and `purpose` (a word for the log: "commands") are borrowed
 * and outlive the link; `socket` is as in store_new(). An address that cannot work is logged, and
 * the link stays down: store_startup_check() has told it before. */
struct link *link_new(struct event_base *base, const struct config *config, const char *socket,
                      const char *purpose, const struct link_handlers *handlers) MUST_CHECK;
/* For good. Answers everything that is open with NULL (from inside this call). Not from inside a
 * callback. */
void link_close(struct link *link);
/* Closes, then frees. NULL inside is fine. */
void link_free(struct link **link);

bool link_is_up(const struct link *link);
/* How often it has been up, less one. */
uint64_t link_reconnects(const struct link *link);

/* Sends RESP text, given in pieces that are copied: one command, or several that belong together,
 * such as a script and the WAIT behind it. False, and no callback, when the link is not up or has
 * its hands full. When the answers to the oldest are overdue, the link is broken, and with it all
 * that are open. */
struct link_command {
    struct str pieces[3];
    unsigned n_replies; /* how many commands the text holds; each is answered by a callback */
    int64_t timeout_ms;
    link_reply_fn *on_reply;
    void *arg;
};
bool link_send(struct link *link, const struct link_command *command) MUST_CHECK;

/* Breaks the link and makes a new one: this one leads to a server that cannot serve. From inside a
 * callback, too. */
void link_reset(struct link *link, const char *reason);
