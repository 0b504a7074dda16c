/* SPDX-License-Identifier: BSD-2-Clause */
/* A dry run of enforcement: which devices a rule would hit, now or later.
 *
 *   GET /v1/enforcement/preview?at=+1d&group=G&count=N&cursor=C
 *       &key_age.due_after=… &key_age.overdue_after=… &key_age.due_before_expiry=…
 *       &key_age.action=… &expired_grace=…
 *
 * Each device is judged as of `at` (a time, or a span from now; the default is +1d) by the rule of
 * its group that is in force, with whatever the query names put in its place. `group` looks at that
 * group only. The record's latest certificate is taken for the one that the device has.
 *
 * A page is one bounded step through Redis: about N (100, at most 1000) keys are looked at, and the
 * devices among them are read one after the other, between everything else that the gateway asks.
 * It has "devices" - those that are not fresh, or would not pass -, "counts" of all that were looked
 * at by state and verdict, and the "cursor" of the next page, null after the last one: whoever wants
 * them all asks again until then, and adds up. As SCAN has it, a device may come twice, and one that
 * is new meanwhile may be left out. Nothing is changed. */
#pragma once

#include "gateway/exchange.h"

void preview_serve(struct exchange *exchange);
