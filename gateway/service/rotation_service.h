/* SPDX-License-Identifier: BSD-2-Clause */
/* `service: rotation`, what devices call to rotate their key (DESIGN section 5):
 *
 *   PATCH  {"next_pubkey": "<PEM PUBLIC KEY>"}  -> 200 once the pending key is durable; the same
 * key again: 200 again; another key: replaces the pending one GET    -> 200, the device as the
 * gateway knows it */
#pragma once

#include "gateway/exchange.h"

/* The request's body is complete, and the device is admitted. Answers at once or later. */
void rotation_service_serve(struct exchange *exchange);
