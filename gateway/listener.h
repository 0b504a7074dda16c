/* SPDX-License-Identifier: BSD-2-Clause */
/* Listening sockets. Each worker has one of its own for every TCP listener (SO_REUSEPORT spreads
 * connections over them); a Unix socket exists once, on the first worker. A socket that was inherited
 * is shared: each worker has a duplicate, and who comes first accepts. Accepting is the only thing
 * that happens here: what was accepted goes to connection_accept(). */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/daemon/worker.h"

struct listener;

struct listener_params {
    struct worker *worker;
    const char *name;                     /* copied; NULL: the operator's own listener */
    const struct config_address *address; /* borrowed for the call */
    uint16_t port;                        /* TCP: overrides the address' port when not 0 */
    const int *inherited; /* duplicated, instead of binding the address; NULL: none */
};

/* Binds and listens; accepting begins with the worker's loop. A stale Unix socket (nobody answers
 * on it) is replaced; a live one is an error. NULL on failure, with a sentence in `error`. */
struct listener *listener_new(const struct listener_params *params, char *error,
                              size_t error_size) MUST_CHECK;
/* Accepts whoever is connected already: for the end, lest they are reset. On an inherited socket
 * they wait for the next daemon. */
void listener_accept_rest(struct listener *listener);
/* Stops listening; a Unix socket's file is removed. NULL inside is fine. */
void listener_free(struct listener **listener);

bool listener_is_operators_own(const struct listener *listener);
/* The port that the kernel gave; 0 for Unix sockets. */
uint16_t listener_port(const struct listener *listener);
/* In worker->listeners. */
struct list *listener_link(struct listener *listener);
struct listener *listener_of_link(struct list *link);
