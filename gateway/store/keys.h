/* SPDX-License-Identifier: BSD-2-Clause */
/* The names of everything in Redis (see store.h), added to a command piece by piece. */
#pragma once

#include "gateway/config/config.h"
#include "gateway/store/command.h"
#include "policy/decision.h"

struct keys;

struct keys *keys_new(const struct config *config) MUST_CHECK;
void keys_free(struct keys **keys);

uint32_t keys_partition_of(const struct keys *keys, const char *device);
uint32_t keys_partitions(const struct keys *keys);

/* Each adds one argument. `text` arguments must live until the command is written. */
void keys_add_record(const struct keys *keys, struct command *to, uint32_t partition,
                     const char *device);
/* What SCAN finds every record of the partition with; and the device's name in such a key, "" in any
 * other. */
void keys_add_record_pattern(const struct keys *keys, struct command *to, uint32_t partition);
struct str keys_device_of(const struct keys *keys, uint32_t partition, struct str key);
void keys_add_deny(const struct keys *keys, struct command *to, uint32_t partition,
                   enum deny_kind kind, const char *id);
void keys_add_events(const struct keys *keys, struct command *to, uint32_t partition);
/* Devices with a pending rotation, by when it began: those that have not stalled, and those that
 * have. */
void keys_add_pending(const struct keys *keys, struct command *to, uint32_t partition);
void keys_add_stalled(const struct keys *keys, struct command *to, uint32_t partition);
void keys_add_once(const struct keys *keys, struct command *to, uint32_t partition,
                   const struct device_event *event);
void keys_add_seen(const struct keys *keys, struct command *to, uint32_t partition,
                   const char *device);
void keys_add_confirmed(const struct keys *keys, struct command *to, uint32_t partition);
/* <prefix>:{p00}:partitions */
void keys_add_partitions(const struct config *config, struct command *to);

/* For logs and comparisons; owned by the caller: mem_free(). */
char *keys_record(const struct keys *keys, const char *device) MUST_CHECK;
char *keys_events(const struct keys *keys, uint32_t partition) MUST_CHECK;
