/* SPDX-License-Identifier: BSD-2-Clause */
/* The daemon's life on the main thread: the embedded store, the workers, signals.
 *
 *      load ──▶ store ──▶ workers ──▶ serving ──TERM, INT──▶ draining ──▶ stopped
 *                                       │  ▲        └── again: stops at once
 *                                       └──┘ HUP: reload, all or nothing */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/config/config.h"

/* Serves until it is told to stop. Takes over the reference to `config`. Returns the exit status of
 * the process. */
int daemon_run(const struct config *config) MUST_CHECK;

/* Where config errors go: one line each on stderr. For config_load(). */
void daemon_print_error(const char *line, void *arg);
