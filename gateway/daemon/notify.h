/* SPDX-License-Identifier: BSD-2-Clause */
/* Tells the service manager how we are: systemd's notification protocol, sd_notify(3). Without a
 * manager (no NOTIFY_SOCKET) nothing happens.
 *
 *   READY=1       devices may connect; also after a reload. STATUS= says the rest to people.
 *   RELOADING=1   with MONOTONIC_USEC, as Type=notify-reload wants it
 *   STOPPING=1    a drain begins; EXTEND_TIMEOUT_USEC gives it the time that it may take
 *   WATCHDOG=1    every worker's loop has turned lately
 *
 * One datagram of documented text is all there is to it: libsystemd would bring three compression
 * libraries and a cryptographic one into the process that faces the internet. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/macros.h"

/* Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and takes them out of the environment, so
 * that no child speaks for us. Once, before threads start. */
void notify_init(void);
/* "READY=1\nSTATUS=…": one message. Never blocks; what the manager does not take is lost. */
void notify_send(const char *format, ...) PRINTF_LIKE(1, 2);
/* Within how many ms the manager wants to hear WATCHDOG=1; 0: it does not. */
int64_t notify_watchdog_ms(void);

/* The watchdog's rule: has each of the `n` loops turned within half the manager's time? `ticked_ms`
 * and `now_ms` are of one clock. One that is stuck is enough to be restarted: its connections hang,
 * and with SO_REUSEPORT its share of the new ones too. */
bool notify_may_pet(const uint64_t *ticked_ms, size_t n, uint64_t now_ms, int64_t watchdog_ms);
