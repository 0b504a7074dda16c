/* SPDX-License-Identifier: BSD-2-Clause */
/* The operator's own API, on a Unix socket that only the daemon's user (and root) can open:
 *
 *   GET    /livez      200 while the daemon lives
 *   GET    /readyz     200 while devices are served; else 503 with what is missing, see
 *                      metrics_unready(). Answers during a drain too, up to the end.
 *   GET    /metrics
 *   GET    /v1/devices/NAME
 *   PATCH  /v1/devices/NAME                   {"reason", "group"}: "" is no group
 *   POST   /v1/devices/NAME/cancel-rotation   {"reason"}
 *   POST   /v1/devices/NAME/accept-key        {"reason", "pubkey": PEM}
 *   GET    /v1/denied/KIND/ID                 KIND: key, certificate, device
 *   PUT    /v1/denied/KIND/ID                 {"reason", "device"?, "until"?: RFC 3339}
 *   DELETE /v1/denied/KIND/ID                 {"reason", "device"?}
 *   GET    /v1/enforcement/preview            a dry run: operator/preview.h
 *   GET    /v1/events?count=N                 the newest N (100), oldest first
 *
 * Where a key or certificate is named, ?device=NAME (or "device") may say whose it is; it is denied
 * whoever shows it, on all partitions. Refusals are problem+json. Every act needs a reason and leaves an
 * audit line with the caller's uid. */
#pragma once

#include "gateway/exchange.h"

/* The request's body is complete. Answers at once or later. */
void operator_serve(struct exchange *exchange);
