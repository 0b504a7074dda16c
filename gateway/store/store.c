/* SPDX-License-Identifier: BSD-2-Clause */
/* Each kind of operation is one object that begins with a store_op: how it is asked, and how its
 * answer is understood, stand next to each other below. Everything they have in common is in
 * ops.c. */
#include "gateway/store/store.h"

#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdio.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/store/codec.h"
#include "gateway/store/event_json.h"
#include "gateway/store/keys.h"
#include "gateway/store/ops.h"
#include "gateway/store/reply.h"
#include "gateway/store/seen.h"
#include "gateway/store/servers.h"
#include "gateway/store/tail.h"

enum { STORE_EVENTS_READ_MAX = 1000 };

_Static_assert((int)STORE_OPERATIONS_MAX == (int)LINK_QUEUE_MAX, "each link holds the bound");

struct store {
    const struct config *config; /* borrowed from the store's owner, who outlives us */
    struct keys *keys;           /* owned */
    struct servers *servers;     /* owned */
    struct tail **tails;         /* owned array: one, or on a Cluster one a partition */
    uint32_t n_tails;
    int64_t fresh_ms;  /* at least since then every log has been read */
    struct seen *seen; /* owned */
    struct ops ops;
};

static void log_unreadable(const struct keys *keys, const char *device, const char *wrong)
{
    char *key CLEANUP(mem_free_at) = keys_record(keys, device);

    log_write(LOG_ERROR, "a record cannot be understood", LOG_STR("key", key),
              LOG_STR("field", wrong));
}

/* Reading a record. */

enum read_denial {
    READ_DENY_DEVICE,
    READ_DENY_KEY,
    READ_DENY_CERTIFICATE,
    READ_DENY_TWIN, /* the certificate under its other name */
    READ_DENY_NEXT,
    N_READ_DENIALS
};

struct read_op {
    struct store_op op;
    struct store *store; /* borrowed */
    char device[DEVICE_NAME_MAX + 1];
    size_t n_denials;
    enum read_denial denials[N_READ_DENIALS]; /* in the order in which they were asked */
    store_read_fn *done;
    void *arg;
};

static bool read_number(const redisReply *reply, uint64_t *out)
{
    return reply != NULL && str_to_u64(reply_text(reply), out);
}

static bool *view_denial(struct store_view *view, enum read_denial which)
{
    switch (which) {
    case READ_DENY_KEY:
        return &view->denied.key;
    case READ_DENY_CERTIFICATE:
    case READ_DENY_TWIN:
        return &view->denied.certificate;
    case READ_DENY_NEXT:
        return &view->next_key_denied;
    case READ_DENY_DEVICE:
    case N_READ_DENIALS:
        break;
    }
    return &view->denied.device;
}

/* Seconds, microseconds, the record's fields, last seen; then the denials, if there is any. */
static const char *read_view(const struct read_op *read, const redisReply *reply,
                             struct store_view *out)
{
    enum { BEFORE_DENIALS = 4 };
    struct field fields[CODEC_FIELDS_MAX];
    uint64_t seconds, micros, seen;
    size_t n_fields;
    const char *wrong = NULL;

    if (!read_number(reply_element(reply, 0), &seconds) || seconds > INT64_MAX / 1000000 ||
        !read_number(reply_element(reply, 1), &micros) || micros > 999999)
        return "(the answer's time)";
    out->now_ms = (int64_t)(seconds * 1000 + micros / 1000);
    if (!reply_fields(reply_element(reply, 2), fields, CODEC_FIELDS_MAX, &n_fields))
        return "(all)";
    if (n_fields > 0 && !codec_read_record(fields, n_fields, &out->record, &wrong))
        return wrong;
    if (n_fields > 0 && strcmp(out->record.name, read->device) != 0)
        return "name";
    memcpy(out->record.name, read->device, sizeof(read->device));
    if (read_number(reply_element(reply, 3), &seen) && seen <= INT64_MAX)
        out->last_seen_ms = (int64_t)seen;
    for (size_t i = 0; i < read->n_denials && reply->elements > BEFORE_DENIALS; i++) {
        const redisReply *exists = reply_element(reply, BEFORE_DENIALS + i);
        if (exists == NULL || exists->type != REDIS_REPLY_INTEGER)
            return "(the answer's denials)";
        *view_denial(out, read->denials[i]) |= exists->integer != 0;
    }
    return NULL;
}

static void read_end(struct store_op *op, enum store_result result, const redisReply *reply)
{
    struct read_op *read = (struct read_op *)op;
    struct store_view view;

    if (result != STORE_OK) {
        read->done(result, NULL, read->arg);
        return;
    }
    memset(&view, 0, sizeof(view));
    const char *wrong = read_view(read, reply, &view);
    if (wrong == NULL) {
        read->done(STORE_OK, &view, read->arg);
        return;
    }
    log_unreadable(read->store->keys, read->device, wrong);
    read->done(STORE_INVALID, NULL, read->arg);
}

static bool is_set(const char *id)
{
    return id != NULL && id[0] != '\0';
}

static void read_add_denial(struct read_op *read, struct command *command, uint32_t partition,
                            enum read_denial which, const char *id)
{
    static const enum deny_kind kinds[] = {
        [READ_DENY_DEVICE] = DENY_DEVICE,
        [READ_DENY_KEY] = DENY_KEY,
        [READ_DENY_CERTIFICATE] = DENY_CERTIFICATE,
        [READ_DENY_TWIN] = DENY_CERTIFICATE,
        [READ_DENY_NEXT] = DENY_KEY,
    };

    if (which != READ_DENY_DEVICE && !is_set(id))
        return;
    keys_add_deny(read->store->keys, command, partition, kinds[which], id);
    read->denials[read->n_denials++] = which;
}

struct store_op *store_read(struct store *store, const struct store_query *query,
                            store_read_fn *done, void *arg)
{
    struct read_op *read = mem_new(struct read_op);
    uint32_t partition = keys_partition_of(store->keys, query->device);
    struct command command;

    read->op =
        (struct store_op){.doing = "reading a record", .end = read_end, .script = &script_read};
    read->op.command = STORE_COMMAND_READ;
    read->op.stands_behind_wait = query->after_commits && store_waits_for_replicas(store);
    read->store = store;
    read->done = done;
    read->arg = arg;
    if (!str_copy(read->device, sizeof(read->device), str_c(query->device)))
        return op_refuse(&store->ops, &read->op);
    command_init(&command);
    command_add_int(&command, 3 + is_set(query->key) + is_set(query->certificate) +
                                  is_set(query->certificate_twin) + is_set(query->next_key));
    keys_add_record(store->keys, &command, partition, query->device);
    keys_add_seen(store->keys, &command, partition, query->device);
    read_add_denial(read, &command, partition, READ_DENY_DEVICE, query->device);
    read_add_denial(read, &command, partition, READ_DENY_KEY, query->key);
    read_add_denial(read, &command, partition, READ_DENY_CERTIFICATE, query->certificate);
    read_add_denial(read, &command, partition, READ_DENY_TWIN, query->certificate_twin);
    read_add_denial(read, &command, partition, READ_DENY_NEXT, query->next_key);
    const struct op_place place = {partition,
                                   query->after_commits ? SERVERS_COMMITS : SERVERS_COMMANDS};
    return op_start(&store->ops, place, &read->op, &command);
}

/* Committing a change. */

struct commit_op {
    struct store_op op;
    store_commit_fn *done;
    void *arg;
};

static void commit_end(struct store_op *op, enum store_result result, const redisReply *reply)
{
    struct commit_op *commit = (struct commit_op *)op;

    commit->done(result, commit->arg);
}

static void commit_add_keys(const struct keys *keys, uint32_t partition, const char *device,
                            const struct change *change, struct command *to)
{
    int64_t n_once = 0;

    for (size_t i = 0; i < change->n_events; i++)
        n_once += change->events[i].once_in_ms > 0;
    command_add_int(to, 4 + (int64_t)(change->n_deny + change->n_allow) + n_once);
    keys_add_record(keys, to, partition, device);
    keys_add_events(keys, to, partition);
    keys_add_pending(keys, to, partition);
    keys_add_stalled(keys, to, partition);
    for (size_t i = 0; i < change->n_deny; i++)
        keys_add_deny(keys, to, partition, change->deny[i].kind, change->deny[i].id);
    for (size_t i = 0; i < change->n_allow; i++)
        keys_add_deny(keys, to, partition, change->allow[i].kind, change->allow[i].id);
    for (size_t i = 0; i < change->n_events; i++) {
        if (change->events[i].once_in_ms > 0)
            keys_add_once(keys, to, partition, &change->events[i]);
    }
}

/* What the arguments of one commit borrow from, besides the change. */
struct commit_texts {
    struct codec_scratch record;
    struct codec_scratch events[ARRAY_SIZE(((struct change *)0)->events)];
    char *data[ARRAY_SIZE(((struct change *)0)->events)]; /* owned */
};

static void commit_add_rotation(const struct device_record *record, struct command *to)
{
    command_add(to, str_c(record->name));
    if (record_rotation_pending(record))
        command_add_int(to, record->pending_since_ms);
    else
        command_add(to, STR(""));
    command_add_int(to, record->stalled);
}

static void commit_add_arguments(const struct config *config, const struct change *change,
                                 struct commit_texts *texts, struct command *to)
{
    if (change->writes_record) {
        command_add_int(to, (int64_t)(change->next.version - 1));
        command_add_int(to, (int64_t)config->store.events_max);
        codec_add_record(&change->next, &texts->record, to);
        commit_add_rotation(&change->next, to);
    } else {
        command_add(to, STR(""));
        command_add_int(to, (int64_t)config->store.events_max);
        command_add_int(to, 0);
    }
    command_add_int(to, (int64_t)change->n_deny);
    for (size_t i = 0; i < change->n_deny; i++) {
        command_add_int(to, change->deny[i].until_ms);
        command_add_int(to, change->deny[i].keeps_longer);
        codec_add_denial(&change->deny[i], to);
    }
    command_add_int(to, (int64_t)change->n_allow);
    command_add_int(to, (int64_t)change->n_events);
    for (size_t i = 0; i < change->n_events; i++) {
        command_add_int(to, change->events[i].once_in_ms > 0 ? change->events[i].once_in_ms : 0);
        texts->data[i] = event_json(&change->events[i]);
        codec_add_event(&change->events[i], texts->data[i], &texts->events[i], to);
    }
}

static struct store_op *commit_start(struct store *store, uint32_t partition, const char *device,
                                     const struct change *change, store_commit_fn *done, void *arg)
{
    struct commit_op *commit = mem_new(struct commit_op);
    struct commit_texts texts;
    struct command command;

    commit->op = (struct store_op){
        .doing = "committing a change",
        .end = commit_end,
        .script = &script_commit,
        .is_commit = true,
        .command = STORE_COMMAND_COMMIT,
        .waits_for_replicas = store->config->store.wait_replicas > 0,
    };
    commit->done = done;
    commit->arg = arg;
    command_init(&command);
    commit_add_keys(store->keys, partition, device, change, &command);
    commit_add_arguments(store->config, change, &texts, &command);
    struct store_op *op =
        op_start(&store->ops, (struct op_place){partition, SERVERS_COMMITS}, &commit->op, &command);
    for (size_t i = 0; i < change->n_events; i++)
        mem_free(texts.data[i]);
    return op;
}

struct store_op *store_confirm(struct store *store, const char *device, store_commit_fn *done,
                               void *arg)
{
    struct commit_op *confirm = mem_new(struct commit_op);
    uint32_t partition = keys_partition_of(store->keys, device);
    struct command command;

    confirm->op = (struct store_op){
        .doing = "asking whether replicas have what stands",
        .end = commit_end,
        .command = STORE_COMMAND_COMMIT,
        .waits_for_replicas = store_waits_for_replicas(store),
    };
    confirm->done = done;
    confirm->arg = arg;
    command_init(&command);
    command_add(&command, STR("SET"));
    keys_add_confirmed(store->keys, &command, partition);
    command_add(&command, STR("1"));
    return op_start(&store->ops, (struct op_place){partition, SERVERS_COMMITS}, &confirm->op,
                    &command);
}

/* A change in every partition. */

/* Stands for the commits of all partitions, which follow each other around from the home partition
 * and end there, with the event. A denial begins there, too: so whatever partition has the entry
 * when one of the commits fails, home has it, where it is looked for by whoever wants to take it
 * back. */
struct fan_op {
    struct store_op op;
    struct store *store;
    struct change change; /* no record */
    char device[DEVICE_NAME_MAX + 1];
    uint32_t home;
    uint32_t step; /* from home: whose commit is out */
    store_commit_fn *done;
    void *arg;
};

static void fan_end(struct store_op *op, enum store_result result, const redisReply *reply)
{
    struct fan_op *fan = (struct fan_op *)op;

    fan->done(result, fan->arg);
}

static void on_fan_commit(enum store_result result, void *arg);

static void fan_commit(struct fan_op *fan)
{
    uint32_t n = keys_partitions(fan->store->keys);
    struct change change = fan->change;

    if (fan->step < n)
        change.n_events = 0;
    (void)commit_start(fan->store, (fan->home + fan->step) % n, fan->device, &change, on_fan_commit,
                       fan);
}

static void on_fan_commit(enum store_result result, void *arg)
{
    struct fan_op *fan = arg;

    if (result != STORE_OK || fan->step == keys_partitions(fan->store->keys)) {
        op_end(&fan->op, result);
        return;
    }
    fan->step++;
    fan_commit(fan);
}

static struct store_op *fan_start(struct store *store, const char *device,
                                  const struct change *change, store_commit_fn *done, void *arg)
{
    struct fan_op *fan = mem_new(struct fan_op);

    fan->op = (struct store_op){.doing = "committing a change everywhere", .end = fan_end};
    fan->store = store;
    fan->change = *change;
    fan->home = keys_partition_of(store->keys, device);
    fan->step = change->n_deny > 0 ? 0 : 1;
    fan->done = done;
    fan->arg = arg;
    str_copy_cut(fan->device, sizeof(fan->device), str_c(device));
    (void)op_begin(&store->ops, &fan->op);
    fan_commit(fan);
    return &fan->op;
}

/* What is said of a key or certificate, and of no record. */
static bool change_is_everywhere(const struct change *change)
{
    return !change->writes_record &&
           ((change->n_deny > 0 && change->deny[0].kind != DENY_DEVICE) ||
            (change->n_allow > 0 && change->allow[0].kind != DENY_DEVICE));
}

struct store_op *store_commit(struct store *store, const char *device, const struct change *change,
                              store_commit_fn *done, void *arg)
{
    if (keys_partitions(store->keys) > 1 && change_is_everywhere(change))
        return fan_start(store, device, change, done, arg);
    return commit_start(store, keys_partition_of(store->keys, device), device, change, done, arg);
}

/* Reading a denial. */

struct denial_op {
    struct store_op op;
    struct denial denial; /* kind and id */
    store_denial_fn *done;
    void *arg;
};

static void denial_end(struct store_op *op, enum store_result result, const redisReply *reply)
{
    struct denial_op *read = (struct denial_op *)op;
    struct field fields[CODEC_FIELDS_MAX];
    struct denial denial = {0};
    const char *wrong = "(all)";
    size_t n = 0;

    if (result == STORE_OK && (!reply_fields(reply, fields, CODEC_FIELDS_MAX, &n) ||
                               (n > 0 && !codec_read_denial(fields, n, &denial, &wrong)))) {
        log_write(LOG_ERROR, "a denial cannot be understood",
                  LOG_STR("kind", deny_kind_wire(read->denial.kind)),
                  LOG_STR("id", read->denial.id), LOG_STR("field", wrong));
        result = STORE_INVALID;
    }
    denial.kind = read->denial.kind;
    memcpy(denial.id, read->denial.id, sizeof(denial.id));
    bool exists = result == STORE_OK && n > 0;
    read->done(result, exists, exists ? &denial : NULL, read->arg);
}

struct store_op *store_read_denial(struct store *store, enum deny_kind kind, const char *id,
                                   const char *device, store_denial_fn *done, void *arg)
{
    struct denial_op *read = mem_new(struct denial_op);
    uint32_t partition = keys_partition_of(store->keys, device != NULL ? device : "");
    struct command command;

    read->op = (struct store_op){.doing = "reading a denial",
                                 .end = denial_end,
                                 .command = STORE_COMMAND_OTHER};
    read->denial.kind = kind;
    read->done = done;
    read->arg = arg;
    if (!str_copy(read->denial.id, sizeof(read->denial.id), str_c(id)))
        return op_refuse(&store->ops, &read->op);
    command_init(&command);
    command_add(&command, STR("HGETALL"));
    keys_add_deny(store->keys, &command, partition, kind, id);
    return op_start(&store->ops, (struct op_place){partition, SERVERS_COMMANDS}, &read->op,
                    &command);
}

/* Reading which rotations are pending. */

struct pending_op {
    struct store_op op;
    store_pending_fn *done;
    void *arg;
};

static bool pending_read(const redisReply *reply, struct store_pending *out)
{
    const redisReply *names = reply_element(reply, 2), *pending = reply_element(reply, 0),
                     *stalled = reply_element(reply, 1);

    if (names == NULL || names->type != REDIS_REPLY_ARRAY || pending == NULL ||
        pending->type != REDIS_REPLY_INTEGER || stalled == NULL ||
        stalled->type != REDIS_REPLY_INTEGER || names->elements > STORE_PENDING_MAX)
        return false;
    out->n_pending = (uint64_t)pending->integer;
    out->n_stalled = (uint64_t)stalled->integer;
    for (size_t i = 0; i < names->elements; i++) {
        struct str name = reply_text(names->element[i]);
        /* Whatever is no device's name was not put there by a gateway. */
        if (device_name_is_valid(name.p, name.len) &&
            str_copy(out->overdue[out->n_overdue], sizeof(out->overdue[0]), name))
            out->n_overdue++;
    }
    return true;
}

static void pending_end(struct store_op *op, enum store_result result, const redisReply *reply)
{
    struct pending_op *read = (struct pending_op *)op;
    struct store_pending pending = {0};

    if (result == STORE_OK && !pending_read(reply, &pending))
        result = STORE_INVALID;
    read->done(result, result == STORE_OK ? &pending : NULL, read->arg);
}

struct store_op *store_read_pending(struct store *store, uint32_t partition, int64_t for_ms,
                                    store_pending_fn *done, void *arg)
{
    struct pending_op *read = mem_new(struct pending_op);
    struct command command;

    read->op = (struct store_op){.doing = "reading pending rotations",
                                 .end = pending_end,
                                 .command = STORE_COMMAND_OTHER,
                                 .script = &script_pending};
    read->done = done;
    read->arg = arg;
    if (partition >= keys_partitions(store->keys))
        return op_refuse(&store->ops, &read->op);
    command_init(&command);
    command_add_int(&command, 2);
    keys_add_pending(store->keys, &command, partition);
    keys_add_stalled(store->keys, &command, partition);
    command_add_int(&command, for_ms);
    command_add_int(&command, for_ms > 0 ? STORE_PENDING_MAX : 0);
    return op_start(&store->ops, (struct op_place){partition, SERVERS_COMMANDS}, &read->op,
                    &command);
}

static void forget_end(struct store_op *op, enum store_result result, const redisReply *reply)
{
    struct commit_op *forget = (struct commit_op *)op;

    forget->done(result, forget->arg);
}

struct store_op *store_forget_pending(struct store *store, uint32_t partition, const char *device,
                                      store_commit_fn *done, void *arg)
{
    struct commit_op *forget = mem_new(struct commit_op);
    struct command command;

    forget->op = (struct store_op){.doing = "forgetting a pending rotation",
                                   .end = forget_end,
                                   .command = STORE_COMMAND_OTHER};
    forget->done = done;
    forget->arg = arg;
    command_init(&command);
    command_add(&command, STR("ZREM"));
    keys_add_pending(store->keys, &command, partition);
    command_add(&command, str_c(device));
    return op_start(&store->ops, (struct op_place){partition, SERVERS_COMMANDS}, &forget->op,
                    &command);
}

/* Finding devices. */

struct scan_op {
    struct store_op op;
    const struct keys *keys; /* borrowed from the store */
    uint32_t partition;
    store_scan_fn *done;
    void *arg;
};

/* [cursor, [key, ...]] */
static bool scan_read(const struct scan_op *op, const redisReply *reply, struct store_scan *out)
{
    const redisReply *cursor = reply_element(reply, 0), *keys = reply_element(reply, 1);

    if (!read_number(cursor, &out->cursor) || keys == NULL || keys->type != REDIS_REPLY_ARRAY)
        return false;
    out->devices = mem_array(keys->elements + 1, sizeof(out->devices[0]));
    for (size_t i = 0; i < keys->elements; i++) {
        struct str name = keys_device_of(op->keys, op->partition, reply_text(keys->element[i]));
        if (device_name_is_valid(name.p, name.len) &&
            str_copy(out->devices[out->n], sizeof(out->devices[0]), name))
            out->n++;
    }
    return true;
}

static void scan_end(struct store_op *op, enum store_result result, const redisReply *reply)
{
    struct scan_op *scan_op = (struct scan_op *)op;
    struct store_scan scan = {0};

    if (result == STORE_OK && !scan_read(scan_op, reply, &scan))
        result = STORE_INVALID;
    scan_op->done(result, result == STORE_OK ? &scan : NULL, scan_op->arg);
    mem_free(scan.devices);
}

struct store_op *store_scan_devices(struct store *store, uint32_t partition, uint64_t cursor,
                                    size_t count, store_scan_fn *done, void *arg)
{
    struct scan_op *scan = mem_new(struct scan_op);
    struct command command;
    char from[24];

    scan->op = (struct store_op){.doing = "finding devices",
                                 .end = scan_end,
                                 .command = STORE_COMMAND_OTHER};
    scan->keys = store->keys;
    scan->partition = partition;
    scan->done = done;
    scan->arg = arg;
    if (partition >= keys_partitions(store->keys))
        return op_refuse(&store->ops, &scan->op);
    (void)snprintf(from, sizeof(from), "%" PRIu64, cursor);
    command_init(&command);
    command_add(&command, STR("SCAN"));
    command_add(&command, str_c(from));
    command_add(&command, STR("MATCH"));
    keys_add_record_pattern(store->keys, &command, partition);
    command_add(&command, STR("COUNT"));
    command_add_int(&command, (int64_t)count);
    return op_start(&store->ops, (struct op_place){partition, SERVERS_COMMANDS}, &scan->op,
                    &command);
}

/* Reading events. */

struct events_op {
    struct store_op op;
    store_events_fn *done;
    void *arg;
};

/* Texts are hiredis', which ends them with a NUL. What is missing is "". */
static const char *event_text(const struct field *fields, size_t n, const char *name)
{
    struct str value = codec_find(fields, n, name);

    return value.p != NULL ? value.p : "";
}

static bool read_event(const redisReply *entry, struct store_event *out)
{
    struct field fields[CODEC_FIELDS_MAX];
    const redisReply *id = reply_element(entry, 0);
    size_t n;

    if (id == NULL || reply_text(id).p == NULL ||
        !reply_fields(reply_element(entry, 1), fields, CODEC_FIELDS_MAX, &n))
        return false;
    *out = (struct store_event){
        .id = reply_text(id).p,
        .type = event_text(fields, n, "type"),
        .device = event_text(fields, n, "device"),
        .data = event_text(fields, n, "data"),
    };
    return true;
}

/* The newest came first. An entry that is none of ours is passed over. */
static void events_end(struct store_op *op, enum store_result result, const redisReply *reply)
{
    struct events_op *read = (struct events_op *)op;
    struct store_event *events CLEANUP(mem_free_at) = NULL;
    size_t n = 0;

    if (result == STORE_OK && reply->type == REDIS_REPLY_ARRAY) {
        events = mem_array(reply->elements, sizeof(*events));
        for (size_t i = reply->elements; i-- > 0;)
            n += read_event(reply->element[i], &events[n]);
    }
    read->done(result, events, n, read->arg);
}

struct store_op *store_read_events(struct store *store, uint32_t partition, size_t count,
                                   store_events_fn *done, void *arg)
{
    struct events_op *read = mem_new(struct events_op);
    struct command command;

    read->op = (struct store_op){.doing = "reading events",
                                 .end = events_end,
                                 .command = STORE_COMMAND_OTHER};
    read->done = done;
    read->arg = arg;
    if (partition >= keys_partitions(store->keys) || count == 0)
        return op_refuse(&store->ops, &read->op);
    command_init(&command);
    command_add(&command, STR("XREVRANGE"));
    keys_add_events(store->keys, &command, partition);
    command_add(&command, STR("+"));
    command_add(&command, STR("-"));
    command_add(&command, STR("COUNT"));
    command_add_int(&command,
                    count < STORE_EVENTS_READ_MAX ? (int64_t)count : STORE_EVENTS_READ_MAX);
    return op_start(&store->ops, (struct op_place){partition, SERVERS_COMMANDS}, &read->op,
                    &command);
}

/* A pause. */

struct pause_op {
    struct store_op op;
    store_commit_fn *done;
    void *arg;
};

static void pause_end(struct store_op *op, enum store_result result, const redisReply *reply)
{
    struct pause_op *pause = (struct pause_op *)op;

    pause->done(result, pause->arg);
}

struct store_op *store_pause(struct store *store, int64_t pause_ms, store_commit_fn *done,
                             void *arg)
{
    struct pause_op *pause = mem_new(struct pause_op);

    pause->op = (struct store_op){.doing = "pausing", .end = pause_end};
    pause->done = done;
    pause->arg = arg;
    return op_pause(&store->ops, &pause->op, pause_ms);
}

/* The store. */

static void on_doubt(void *arg, uint32_t partition, const char *error)
{
    servers_doubt(((struct store *)arg)->servers, partition, error);
}

static void on_log_broken(void *arg, uint32_t partition)
{
    servers_log_broke(((struct store *)arg)->servers, partition);
}

/* Each tail follows the server of its first partition: the only one, or all have the same. */
static void on_servers_changed(void *arg)
{
    struct store *store = arg;

    for (uint32_t i = 0; i < store->n_tails; i++) {
        const struct store_address *address = servers_address(store->servers, i);
        if (address != NULL)
            tail_lead(store->tails[i], address);
    }
}

static void store_make_tails(struct store *store, struct event_base *base,
                             const struct store_handlers *handlers)
{
    uint32_t partitions = keys_partitions(store->keys);
    bool is_cluster = config_store_kind(store->config) == CONFIG_STORE_CLUSTER;

    store->n_tails = is_cluster ? partitions : 1;
    store->tails = mem_array(store->n_tails, sizeof(struct tail *));
    for (uint32_t i = 0; i < store->n_tails; i++) {
        const struct tail_params params = {
            .base = base,
            .config = store->config,
            .keys = store->keys,
            .first = i,
            .n = is_cluster ? 1 : partitions,
            .handlers = *handlers,
            .on_doubt = on_doubt,
            .on_broken = on_log_broken,
            .link_arg = store,
        };
        store->tails[i] = tail_new(&params);
    }
}

struct store *store_new(struct event_base *base, const struct config *config, const char *socket,
                        const struct store_handlers *handlers)
{
    struct store *store = mem_new(struct store);

    store->config = config;
    store->fresh_ms = INT64_MIN;
    store->keys = keys_new(config);
    store->servers = servers_new(base, config, socket, on_servers_changed, store);
    ops_init(&store->ops, base, config, store->servers, handlers->stats);
    store_make_tails(store, base, handlers);
    on_servers_changed(store);
    store->seen = seen_new(base, config, store->keys, store->servers);
    return store;
}

void store_free(struct store **store)
{
    struct store *self = *store;

    if (self == NULL)
        return;
    /* Callbacks that this runs may still ask the store, whose parts are all there. */
    servers_close(self->servers);
    ops_deinit(&self->ops);
    for (uint32_t i = 0; i < self->n_tails; i++)
        tail_free(&self->tails[i]);
    mem_free(self->tails);
    servers_free(&self->servers);
    seen_free(&self->seen);
    keys_free(&self->keys);
    mem_free(self);
    *store = NULL;
}

bool store_waits_for_replicas(const struct store *store)
{
    return store->config->store.wait_replicas > 0;
}

bool store_is_ready(const struct store *store)
{
    for (uint32_t i = 0; i < store->n_tails; i++) {
        if (!tail_is_placed(store->tails[i]))
            return false;
    }
    return servers_are_up(store->servers);
}

/* No log has been read for longer. */
static int64_t store_oldest_ms(const struct store *store)
{
    int64_t oldest_ms = INT64_MAX;

    for (uint32_t i = 0; i < store->n_tails; i++) {
        if (tail_fresh_ms(store->tails[i]) < oldest_ms)
            oldest_ms = tail_fresh_ms(store->tails[i]);
    }
    return oldest_ms;
}

/* A tail only becomes fresher, so what was found once is good until it is too old. */
bool store_is_fresh(struct store *store)
{
    int64_t since_ms = clock_monotonic_ms() - store->config->store.lease_ms;

    if (store->fresh_ms < since_ms)
        store->fresh_ms = store_oldest_ms(store);
    return store->fresh_ms >= since_ms;
}

int64_t store_stale_ms(const struct store *store)
{
    int64_t oldest_ms = store_oldest_ms(store);

    return oldest_ms == INT64_MIN ? INT64_MAX : clock_monotonic_ms() - oldest_ms;
}

void store_note_seen(struct store *store, const char *device, const char *address)
{
    seen_note(store->seen, device, address);
}

void store_stats_init(struct store_stats *stats)
{
    memset(stats, 0, sizeof(*stats));
    for (size_t i = 0; i < STORE_COMMAND_COUNT; i++)
        histogram_init(&stats->latency[i], &histogram_latency);
}

uint64_t store_reconnects(const struct store *store)
{
    uint64_t reconnects = servers_reconnects(store->servers);

    for (uint32_t i = 0; i < store->n_tails; i++)
        reconnects += tail_reconnects(store->tails[i]);
    return reconnects;
}

void store_count_transition(struct store *store, enum reason reason)
{
    stat_add(&store->ops.stats->transitions[reason], 1);
}
