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
 * A greeting (greeting.h) authenticates and looks whom it has before it; data of another layout is
 * never touched. A link leads to one address for life. Commands are pipelined and answered in their
 * order. */
#pragma once

#include <event2/event.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "gateway/config/config.h"
#include "gateway/store/address.h"
#include "gateway/store/greeting.h"

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
    void (*on_down)(void *arg);   /* only after on_up; the open commands are answered right after */
    void (*on_failed)(void *arg); /* an attempt that did not get so far; NULL: of no interest */
    void *arg;
};

struct link_params {
    struct event_base *base; /* borrowed, like the config: both outlive the link */
    const struct config *config;
    const struct store_address *address; /* copied */
    enum greeting_kind greeting;
    const char *purpose; /* a word for the log: "commands"; borrowed, outlives the link */
    struct link_handlers handlers;
};
/* Starts connecting at once. */
struct link *link_new(const struct link_params *params) MUST_CHECK;
/* For good. Answers everything that is open with NULL (from inside this call). Not from inside a
 * callback. */
void link_close(struct link *link);
/* Closes, then frees. NULL inside is fine. */
void link_free(struct link **link);

bool link_is_up(const struct link *link);
/* Is up, and its server has confirmed the number of partitions. */
bool link_knows_layout(const struct link *link);
/* How often it has been up, less one. */
uint64_t link_reconnects(const struct link *link);

/* Sends RESP text, given in pieces that are copied: one command, or several that belong together,
 * such as a script and the WAIT behind it. False, and no callback, when the link is not up or has
 * its hands full. When the answers to the oldest are overdue, the link is broken, and with it all
 * that are open. The time counts from when the text has gone out, and what has arrived when it ends
 * is in time: a loop that is busy with others is not Redis' fault. */
struct link_command {
    struct str pieces[4];
    unsigned n_replies; /* how many commands the text holds; each is answered by a callback */
    int64_t timeout_ms;
    link_reply_fn *on_reply;
    void *arg;
};
bool link_send(struct link *link, const struct link_command *command) MUST_CHECK;

/* Breaks the link and makes a new one: this one leads to a server that cannot serve. From inside a
 * callback, too. */
void link_reset(struct link *link, const char *reason);
