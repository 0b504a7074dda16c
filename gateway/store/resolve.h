/* SPDX-License-Identifier: BSD-2-Clause */
/* Looks a host name up without holding up the event loop: getaddrinfo(3) in a thread of its own. */
#pragma once

#include <event2/event.h>

#include "gateway/base/macros.h"

struct resolve;

enum { RESOLVE_ADDRESSES_MAX = 8, RESOLVE_ADDRESS_SIZE = 64 };

struct resolve_result {
    const char *error; /* NULL when there is at least one address */
    size_t n;
    char addresses[RESOLVE_ADDRESSES_MAX][RESOLVE_ADDRESS_SIZE]; /* numeric */
};

/* Runs exactly once, never from inside resolve_start(); not after resolve_cancel(). The handle has
 * ended before. The result is borrowed for the call. */
typedef void resolve_done_fn(const struct resolve_result *result, void *arg);

struct resolve *resolve_start(struct event_base *base, const char *host, resolve_done_fn *done,
                              void *arg) MUST_CHECK;
/* The thread ends when the resolver does; nobody waits for it. NULL inside is fine. */
void resolve_cancel(struct resolve **resolve);

/* The same, blocking: for the time before there is a loop. */
void resolve_now(const char *host, struct resolve_result *out);
