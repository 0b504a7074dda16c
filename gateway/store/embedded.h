/* SPDX-License-Identifier: BSD-2-Clause */
/* The embedded store: a real redis-server of our own on a Unix socket in the state folder.
 *
 *      starting ──answers PING──▶ running ──exits──▶ waiting (back-off)
 *                                  │  ▲                  │
 *                embedded_stop() ◀─┘  └──────────────────┘
 *
 * Durable: AOF with appendfsync always. Its log is <state_dir>/redis.log (put aside as redis.log.1
 * at the start when it has grown; readable by the daemon's group). A lock on <state_dir>/lock is
 * held by us and inherited by the server, so there are never two on one folder, even when a daemon
 * was killed and its server is still saving; and the server ends when the daemon dies. Driven by
 * the main thread's event loop; SIGCHLD is watched by this module alone.
 *
 * The kernel ends the server when the *thread* that started it ends: all of this belongs to the
 * main thread. */
#pragma once

#include <event2/event.h>

#include "gateway/base/macros.h"
#include "gateway/config/config.h"

struct embedded;

/* Creates the state folder when it is missing (0700), takes the lock (waiting up to 10 s for a
 * dying predecessor), writes <state_dir>/redis.conf, starts the server and waits until it answers:
 * up to 30 s, and for as long as it says that it is loading its data. NULL on failure, with a
 * sentence in `error`. */
struct embedded *embedded_start(struct event_base *base, const struct config *config, char *error,
                                size_t error_size) MUST_CHECK;
/* The Unix socket's path; lives as long as the object. */
const char *embedded_socket(const struct embedded *embedded);
/* SIGTERM, waits for the exit (SIGKILL after 10 s), frees. NULL inside is fine. */
void embedded_stop(struct embedded **embedded);
