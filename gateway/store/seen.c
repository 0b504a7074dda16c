/* SPDX-License-Identifier: BSD-2-Clause */
/* Notes are in a hash table, to find a device's, and in a list, oldest first. */
#include "gateway/store/seen.h"

#include <hiredis/hiredis.h>
#include <stdlib.h>

#include "gateway/base/clock.h"
#include "gateway/base/encode.h"
#include "gateway/base/list.h"
#include "gateway/base/mem.h"
#include "gateway/store/refusal.h"

enum { SEEN_BUCKETS = 1024 };

struct note {
    struct list in_bucket;
    struct list in_age;
    int64_t at_ms;
    char device[DEVICE_NAME_MAX + 1];
    char address[SEEN_ADDRESS_MAX + 1];
};

struct seen {
    const struct config *config;
    const struct keys *keys;
    const struct servers *servers;
    struct event *flush; /* owned: a timer */
    struct refusal_log refusals;
    struct list oldest_first;
    size_t n;
    uint32_t seed; /* so that nobody can choose names for one bucket */
    struct list buckets[SEEN_BUCKETS];
};

static void seen_arm(struct seen *seen, int ms)
{
    const struct timeval delay = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000L};

    if (!event_pending(seen->flush, EV_TIMEOUT, NULL))
        (void)event_add(seen->flush, &delay);
}

static struct list *seen_bucket(struct seen *seen, const char *device)
{
    uint32_t hash = 2166136261u ^ seen->seed;

    for (; *device != '\0'; device++)
        hash = (hash ^ (unsigned char)*device) * 16777619u;
    return &seen->buckets[(hash ^ hash >> 16) % SEEN_BUCKETS];
}

static void seen_forget(struct seen *seen, struct note *note)
{
    list_remove(&note->in_bucket);
    list_remove(&note->in_age);
    mem_free(note);
    seen->n--;
}

/* A note that was lost is not missed: the next one is as good. */
static void on_written(const redisReply *reply, void *arg)
{
    struct seen *seen = arg;

    if (reply == NULL || reply->type != REDIS_REPLY_ERROR)
        return;
    refusal_report(&seen->refusals, refusal_classify(reply->str), reply->str,
                   "writing when devices were seen");
}

static bool seen_write(struct seen *seen, const struct note *note)
{
    uint32_t partition = keys_partition_of(seen->keys, note->device);
    struct link *link = servers_link(seen->servers, partition, SERVERS_COMMANDS);
    char head[COMMAND_HEAD_SIZE];
    struct command command;
    size_t body_len;

    if (link == NULL || !link_is_up(link))
        return false;
    command_init(&command);
    command_add(&command, STR("HSET"));
    keys_add_seen(seen->keys, &command, partition, note->device);
    command_add(&command, STR("at"));
    command_add_int(&command, note->at_ms);
    command_add(&command, STR("address"));
    command_add(&command, str_c(note->address));
    char *body CLEANUP(mem_free_at) = command_write(&command, &body_len);
    size_t head_len = command_write_head(command.n_args, head);
    return link_send(link,
                     &(struct link_command){.pieces = {{head, head_len}, {body, body_len}},
                                            .n_replies = 1,
                                            .timeout_ms = seen->config->store.command_timeout_ms,
                                            .on_reply = on_written,
                                            .arg = seen});
}

/* Notes whose server is away wait, and hold up no others. */
static bool seen_flush_batch(struct seen *seen)
{
    int written = 0;

    list_for_each_safe (link, following, &seen->oldest_first) {
        struct note *note = list_entry(link, struct note, in_age);
        if (written == SEEN_BATCH)
            break;
        if (!seen_write(seen, note))
            continue;
        seen_forget(seen, note);
        written++;
    }
    return written > 0;
}

static void on_flush(evutil_socket_t fd, short what, void *arg)
{
    struct seen *seen = arg;

    bool goes_on = seen_flush_batch(seen);
    if (!list_is_empty(&seen->oldest_first))
        seen_arm(seen, goes_on ? SEEN_BATCH_GAP_MS : SEEN_FLUSH_MS);
}

static struct note *seen_find(struct list *bucket, const char *device)
{
    for (struct list *link = bucket->next; link != bucket; link = link->next) {
        struct note *note = list_entry(link, struct note, in_bucket);
        if (strcmp(note->device, device) == 0)
            return note;
    }
    return NULL;
}

static void seen_make_room(struct seen *seen)
{
    if (seen->n < SEEN_MAX)
        return;
    (void)seen_flush_batch(seen);
    if (seen->n == SEEN_MAX)
        seen_forget(seen, list_entry(seen->oldest_first.next, struct note, in_age));
}

void seen_note(struct seen *seen, const char *device, const char *address)
{
    struct list *bucket = seen_bucket(seen, device);
    struct note *note = seen_find(bucket, device);

    if (note == NULL) {
        seen_make_room(seen);
        note = mem_new(struct note);
        str_copy_cut(note->device, sizeof(note->device), str_c(device));
        list_push_back(bucket, &note->in_bucket);
        list_push_back(&seen->oldest_first, &note->in_age);
        seen->n++;
        seen_arm(seen, SEEN_FLUSH_MS);
    }
    note->at_ms = clock_wall_ms();
    str_copy_cut(note->address, sizeof(note->address), str_c(address != NULL ? address : ""));
}

struct seen *seen_new(struct event_base *base, const struct config *config, const struct keys *keys,
                      const struct servers *servers)
{
    struct seen *seen = mem_new(struct seen);

    seen->config = config;
    seen->keys = keys;
    seen->servers = servers;
    random_bytes(&seen->seed, sizeof(seen->seed));
    list_init(&seen->oldest_first);
    for (size_t i = 0; i < SEEN_BUCKETS; i++)
        list_init(&seen->buckets[i]);
    seen->flush = evtimer_new(base, on_flush, seen);
    if (seen->flush == NULL)
        abort();
    return seen;
}

void seen_free(struct seen **seen)
{
    struct seen *self = *seen;

    if (self == NULL)
        return;
    event_free(self->flush);
    while (!list_is_empty(&self->oldest_first))
        seen_forget(self, list_entry(self->oldest_first.next, struct note, in_age));
    mem_free(self);
    *seen = NULL;
}
