/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/keys.h"

#include "gateway/base/mem.h"
#include "gateway/store/store.h"
#include "policy/reason.h"

struct keys_base {
    char *text; /* owned: "<prefix>:{pNN}:" */
    size_t len;
};

struct keys {
    uint32_t n;
    struct keys_base *bases; /* owned array of n */
};

/* A partition count of 0 is no configuration that was parsed; one partition is what it can mean. */
static uint32_t keys_count(const struct config *config)
{
    return config->store.partitions > 0 ? config->store.partitions : 1;
}

struct keys *keys_new(const struct config *config)
{
    struct keys *keys = mem_new(struct keys);

    keys->n = keys_count(config);
    keys->bases = mem_array(keys->n, sizeof(*keys->bases));
    for (uint32_t i = 0; i < keys->n; i++) {
        keys->bases[i].text = mem_printf("%s:{p%02u}:", config->store.prefix, i);
        keys->bases[i].len = strlen(keys->bases[i].text);
    }
    return keys;
}

void keys_free(struct keys **keys)
{
    if (*keys == NULL)
        return;
    for (uint32_t i = 0; i < (*keys)->n; i++)
        mem_free((*keys)->bases[i].text);
    mem_free((*keys)->bases);
    mem_free(*keys);
    *keys = NULL;
}

static uint32_t fnv1a(const char *text)
{
    uint32_t hash = 2166136261u;

    for (; *text != '\0'; text++)
        hash = (hash ^ (unsigned char)*text) * 16777619u;
    return hash;
}

uint32_t store_partition(const struct config *config, const char *device)
{
    return fnv1a(device) % keys_count(config);
}

uint32_t keys_partition_of(const struct keys *keys, const char *device)
{
    return keys->n == 1 ? 0 : fnv1a(device) % keys->n;
}

uint32_t keys_partitions(const struct keys *keys)
{
    return keys->n;
}

static void keys_begin(const struct keys *keys, struct command *to, uint32_t partition,
                       struct str rest)
{
    const struct keys_base *base = &keys->bases[partition];

    command_add(to, (struct str){base->text, base->len});
    command_extend(to, rest);
}

void keys_add_record(const struct keys *keys, struct command *to, uint32_t partition,
                     const char *device)
{
    keys_begin(keys, to, partition, STR("device:"));
    command_extend(to, str_c(device));
}

void keys_add_record_pattern(const struct keys *keys, struct command *to, uint32_t partition)
{
    /* Nothing of a prefix has a meaning in a pattern (value_check_prefix()). */
    keys_begin(keys, to, partition, STR("device:*"));
}

struct str keys_device_of(const struct keys *keys, uint32_t partition, struct str key)
{
    const struct keys_base *base = &keys->bases[partition];
    const struct str kind = STR("device:");

    if (!str_starts(key, (struct str){base->text, base->len}))
        return STR("");
    struct str rest = {key.p + base->len, key.len - base->len};
    return str_starts(rest, kind) ? (struct str){rest.p + kind.len, rest.len - kind.len} : STR("");
}

void keys_add_deny(const struct keys *keys, struct command *to, uint32_t partition,
                   enum deny_kind kind, const char *id)
{
    keys_begin(keys, to, partition, STR("deny:"));
    command_extend(to, str_c(deny_kind_wire(kind)));
    command_extend(to, STR(":"));
    command_extend(to, str_c(id));
}

void keys_add_events(const struct keys *keys, struct command *to, uint32_t partition)
{
    keys_begin(keys, to, partition, STR("events"));
}

void keys_add_pending(const struct keys *keys, struct command *to, uint32_t partition)
{
    keys_begin(keys, to, partition, STR("pending"));
}

void keys_add_stalled(const struct keys *keys, struct command *to, uint32_t partition)
{
    keys_begin(keys, to, partition, STR("stalled"));
}

void keys_add_once(const struct keys *keys, struct command *to, uint32_t partition,
                   const struct device_event *event)
{
    keys_begin(keys, to, partition, STR("once:"));
    command_extend(to, str_c(event_wire(event->type)));
    command_extend(to, STR(":"));
    command_extend(to, str_c(reason_wire(event->why)));
    command_extend(to, STR(":"));
    command_extend(to, str_c(event->device));
}

void keys_add_seen(const struct keys *keys, struct command *to, uint32_t partition,
                   const char *device)
{
    keys_begin(keys, to, partition, STR("seen:"));
    command_extend(to, str_c(device));
}

void keys_add_confirmed(const struct keys *keys, struct command *to, uint32_t partition)
{
    keys_begin(keys, to, partition, STR("confirmed"));
}

void keys_add_partitions(const struct config *config, struct command *to)
{
    command_add(to, str_c(config->store.prefix));
    command_extend(to, STR(":{p00}:partitions"));
}

char *keys_record(const struct keys *keys, const char *device)
{
    return mem_printf("%sdevice:%s", keys->bases[keys_partition_of(keys, device)].text, device);
}

char *keys_events(const struct keys *keys, uint32_t partition)
{
    return mem_printf("%sevents", keys->bases[partition].text);
}
