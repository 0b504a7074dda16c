/* SPDX-License-Identifier: BSD-2-Clause */
/* What an event says, as the JSON object in the stream's `data` and, from there, in webhooks. */
#pragma once

#include "gateway/base/macros.h"
#include "policy/decision.h"

/* DEVICE_PUBKEY_CHANGE is a contract with software that exists: Uuid, DeviceGroupId, Time,
 * NewPubKey and OldPubKey, exactly so; ours is below "rotation". Every other type has `device`,
 * `time` and what it knows of: group, generation, rotation_id, new_key, new_pubkey, old_key,
 * old_pubkey, kind, id, why, reason, origin. Text that is not UTF-8 is taken as Latin-1. Owned by
 * the caller: mem_free(). */
char *event_json(const struct device_event *event) MUST_CHECK;
