/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/tail.h"

#include <hiredis/hiredis.h>
#include <inttypes.h>

#include <stdio.h>
#include <stdlib.h>

#include "gateway/base/buf.h"
#include "gateway/base/clock.h"
#include "gateway/base/mem.h"
#include "gateway/store/codec.h"
#include "gateway/store/link.h"
#include "gateway/store/refusal.h"
#include "gateway/store/reply.h"

enum {
    TAIL_COUNT = 512,   /* entries of one round over all streams, and */
    TAIL_COUNT_MIN = 4, /* of each stream at least */
};

struct stream_id {
    uint64_t ms;
    uint64_t seq;
};

/* A place in a log: the last entry that is known, and how many were ever added up to it. */
struct place {
    struct stream_id id;
    uint64_t count;
};

/* One partition's log. */
struct stream {
    struct tail *tail;   /* borrowed: our owner */
    char *key;           /* owned */
    struct place at;     /* what was read */
    struct place before; /* where the present round's XREAD began */
    bool is_known;       /* `at` means something */
    bool counts_anew;    /* another server: its count is taken over once all is read */
};

struct tail {
    struct tail_params params;
    struct link *link;           /* owned; NULL: nobody is followed yet */
    struct store_address server; /* at its other end */
    uint64_t gone_reconnects;    /* of former links */
    char *probe;                 /* owned: the write that ends a round; NULL: none is needed */
    struct stream *streams;      /* owned array */
    uint32_t n;
    unsigned due; /* replies of the present round that have not come */
    bool is_placed;
    bool is_round;   /* with an XREAD; otherwise the finding of the place */
    bool lags;       /* a stream has more than was read */
    bool has_gap;    /* found, and not told yet: a round may end with its connection */
    int64_t sent_ms; /* of the present round */
    int64_t fresh_ms;
};

static void tail_send_round(struct tail *tail);

/* Reading answers. */

static int id_compare(struct stream_id a, struct stream_id b)
{
    if (a.ms != b.ms)
        return a.ms < b.ms ? -1 : 1;
    return a.seq == b.seq ? 0 : a.seq < b.seq ? -1 : 1;
}

static bool id_parse(struct str text, struct stream_id *out)
{
    struct str ms;
    struct stream_id id;

    if (!str_split(&text, '-', &ms) || text.p == NULL || !str_to_u64(ms, &id.ms) ||
        !str_to_u64(text, &id.seq))
        return false;
    *out = id;
    return true;
}

/* What XINFO STREAM tells of a log. One that does not exist is one to which nothing was added. */
struct log_info {
    struct place last;
    struct stream_id deleted; /* the latest that XDEL has taken out */
    uint64_t trimmed;
};

static const redisReply *info_find(const redisReply *reply, const char *name)
{
    for (size_t i = 0; i + 1 < reply->elements; i += 2) {
        if (str_eq(reply_text(reply->element[i]), str_c(name)))
            return reply->element[i + 1];
    }
    return NULL;
}

static bool info_id(const redisReply *reply, const char *name, struct stream_id *out)
{
    const redisReply *value = info_find(reply, name);

    return value != NULL && id_parse(reply_text(value), out);
}

static bool info_number(const redisReply *reply, const char *name, uint64_t *out)
{
    const redisReply *value = info_find(reply, name);

    if (value == NULL || value->type != REDIS_REPLY_INTEGER || value->integer < 0)
        return false;
    *out = (uint64_t)value->integer;
    return true;
}

static bool info_parse(const redisReply *reply, struct log_info *out)
{
    struct log_info info = {0};
    uint64_t length = 0;

    if (reply->type == REDIS_REPLY_ERROR)
        return strcmp(reply->str, "ERR no such key") == 0;
    if (reply->type != REDIS_REPLY_ARRAY || !info_id(reply, "last-generated-id", &info.last.id) ||
        !info_id(reply, "max-deleted-entry-id", &info.deleted) ||
        !info_number(reply, "entries-added", &info.last.count) ||
        !info_number(reply, "length", &length))
        return false;
    info.trimmed = info.last.count > length ? info.last.count - length : 0;
    *out = info;
    return true;
}

/* Events. */

static bool text_find(const struct field *fields, size_t n, const char *name, char *out,
                      size_t size)
{
    struct str value = codec_find(fields, n, name);

    return value.p != NULL && memchr(value.p, '\0', value.len) == NULL &&
           str_copy(out, size, value);
}

static bool kind_parse(const char *text, enum deny_kind *out)
{
    static const enum deny_kind kinds[] = {DENY_KEY, DENY_CERTIFICATE, DENY_DEVICE};

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        if (strcmp(text, deny_kind_wire(kinds[i])) == 0) {
            *out = kinds[i];
            return true;
        }
    }
    return false;
}

static bool mode_parse(const char *text, enum cut_mode *out)
{
    static const enum cut_mode modes[] = {CUT_NOW, CUT_DRAIN, CUT_DECIDE};

    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        if (strcmp(text, cut_mode_wire(modes[i])) == 0) {
            *out = modes[i];
            return true;
        }
    }
    return false;
}

/* An event that wants a cut which cannot be understood (a newer gateway's) is like one that was
 * missed. */
static void tail_take_cut(struct tail *tail, const struct field *fields, size_t n)
{
    char mode[16], kind[16], id[LABEL_MAX + 1], device[DEVICE_NAME_MAX + 1];
    struct store_cut cut = {.id = id, .device = device};

    if (text_find(fields, n, "cut", mode, sizeof(mode)) &&
        text_find(fields, n, "cut_kind", kind, sizeof(kind)) &&
        text_find(fields, n, "cut_id", id, sizeof(id)) &&
        text_find(fields, n, "device", device, sizeof(device)) && kind_parse(kind, &cut.kind)) {
        if (mode_parse(mode, &cut.mode)) {
            tail->params.handlers.on_cut(&cut, tail->params.handlers.arg);
            return;
        }
    }
    tail->has_gap = true;
}

/* [id, [name, value, ...]]. One with more fields than a gateway writes may say anything. */
static bool tail_take_entry(struct stream *stream, const redisReply *entry)
{
    struct field fields[CODEC_FIELDS_MAX];
    const redisReply *id = reply_element(entry, 0), *list = reply_element(entry, 1);
    size_t n = 0;

    if (id == NULL || list == NULL || !id_parse(reply_text(id), &stream->at.id))
        return false;
    stream->at.count++;
    if (!reply_fields(list, fields, CODEC_FIELDS_MAX, &n))
        stream->tail->has_gap = true;
    else if (codec_find(fields, n, "cut").p != NULL)
        tail_take_cut(stream->tail, fields, n);
    return true;
}

static struct stream *tail_find_stream(struct tail *tail, struct str key)
{
    for (uint32_t i = 0; i < tail->n; i++) {
        if (str_eq(str_c(tail->streams[i].key), key))
            return &tail->streams[i];
    }
    return NULL;
}

static int tail_count(const struct tail *tail)
{
    int count = TAIL_COUNT / (int)tail->n;

    return count > TAIL_COUNT_MIN ? count : TAIL_COUNT_MIN;
}

/* [[key, [entry, ...]], ...], or nil when nothing has come. */
static bool tail_take_streams(struct tail *tail, const redisReply *reply)
{
    if (reply->type == REDIS_REPLY_NIL)
        return true;
    if (reply->type != REDIS_REPLY_ARRAY)
        return false;
    for (size_t i = 0; i < reply->elements; i++) {
        const redisReply *key = reply_element(reply->element[i], 0);
        const redisReply *entries = reply_element(reply->element[i], 1);
        struct stream *stream = key != NULL ? tail_find_stream(tail, reply_text(key)) : NULL;
        if (stream == NULL || entries == NULL || entries->type != REDIS_REPLY_ARRAY)
            return false;
        for (size_t j = 0; j < entries->elements; j++) {
            if (!tail_take_entry(stream, entries->element[j]))
                return false;
        }
        tail->lags |= entries->elements >= (size_t)tail_count(tail);
    }
    return true;
}

/* Places and gaps. */

/* At the same entry both have counted alike, unless the log has got others before it meanwhile. */
static bool stream_has_gap(const struct stream *stream, const struct log_info *info)
{
    int order = id_compare(info->last.id, stream->at.id);

    if (!stream->is_known || order < 0 || id_compare(info->deleted, stream->before.id) > 0)
        return true;
    return !stream->counts_anew && (info->last.count < stream->at.count ||
                                    (order == 0 && info->last.count != stream->at.count) ||
                                    info->trimmed > stream->before.count);
}

static bool tail_take_info(struct stream *stream, const redisReply *reply)
{
    struct tail *tail = stream->tail;
    struct log_info info = {0};

    if (!info_parse(reply, &info))
        return false;
    if (stream_has_gap(stream, &info)) {
        stream->at = info.last;
        stream->is_known = true;
        stream->counts_anew = false;
        tail->has_gap = true;
    }
    if (stream->counts_anew && id_compare(info.last.id, stream->at.id) == 0) {
        stream->at.count = info.last.count;
        stream->counts_anew = false;
        tail->has_gap = true; /* what was trimmed on the way here was not noticed */
    }
    if (!tail->is_round)
        tail->lags |= id_compare(info.last.id, stream->at.id) > 0;
    return true;
}

static void tail_end_round(struct tail *tail)
{
    if (tail->has_gap)
        tail->params.handlers.on_gap(tail->params.handlers.arg);
    tail->has_gap = false;
    tail->is_placed = true;
    if (!tail->lags)
        tail->fresh_ms = tail->sent_ms;
    tail_send_round(tail);
}

static void tail_refuse(struct tail *tail, const char *error)
{
    tail->params.on_doubt(tail->params.link_arg, tail->params.first, error);
    link_reset(tail->link, error);
}

static void tail_take_reply(struct tail *tail, const redisReply *reply, bool is_understood)
{
    tail->due--;
    if (reply == NULL)
        return;
    if (!is_understood)
        tail_refuse(tail,
                    reply->type == REDIS_REPLY_ERROR ? reply->str : "the log cannot be understood");
    else if (tail->due == 0)
        tail_end_round(tail);
}

static void on_info(const redisReply *reply, void *arg)
{
    struct stream *stream = arg;

    tail_take_reply(stream->tail, reply, reply != NULL && tail_take_info(stream, reply));
}

static void on_streams(const redisReply *reply, void *arg)
{
    struct tail *tail = arg;

    tail_take_reply(tail, reply, reply != NULL && tail_take_streams(tail, reply));
}

/* A server that cannot write for other reasons can still be followed. */
static void on_probe(const redisReply *reply, void *arg)
{
    bool is_replica = reply != NULL && reply->type == REDIS_REPLY_ERROR &&
                      refusal_classify(reply->str) == REFUSAL_READONLY;

    tail_take_reply(arg, reply, !is_replica);
}

/* Asking. */

static void tail_send(struct tail *tail, struct str text, int64_t timeout_ms,
                      link_reply_fn *on_reply, void *arg)
{
    const struct link_command command = {.pieces = {text},
                                         .n_replies = 1,
                                         .timeout_ms = timeout_ms,
                                         .on_reply = on_reply,
                                         .arg = arg};

    tail->due++;
    if (!link_send(tail->link, &command)) {
        tail->due--;
        link_reset(tail->link, "no room for the log's commands");
    }
}

static void tail_send_infos(struct tail *tail, int64_t timeout_ms)
{
    for (uint32_t i = 0; i < tail->n; i++) {
        char *text CLEANUP(mem_free_at) =
            mem_printf("*3\r\n$5\r\nXINFO\r\n$6\r\nSTREAM\r\n$%zu\r\n%s\r\n",
                       strlen(tail->streams[i].key), tail->streams[i].key);
        tail_send(tail, str_c(text), timeout_ms, on_info, &tail->streams[i]);
    }
}

static void tail_begin_round(struct tail *tail, bool is_round)
{
    tail->is_round = is_round;
    tail->lags = false;
    tail->sent_ms = clock_monotonic_ms();
    for (uint32_t i = 0; i < tail->n; i++)
        tail->streams[i].before = tail->streams[i].at;
}

/* Written out here, because there may be more streams than a command has room for. */
static void tail_put(struct buf *to, const char *text)
{
    /* The capacity was computed for it. */
    if (!buf_printf(to, "$%zu\r\n%s\r\n", strlen(text), text))
        abort();
}

static void tail_put_xread(const struct tail *tail, int64_t block_ms, struct buf *to)
{
    char number[48];

    if (!buf_printf(to, "*%u\r\n", 6 + 2 * tail->n))
        abort();
    tail_put(to, "XREAD");
    tail_put(to, "COUNT");
    (void)snprintf(number, sizeof(number), "%d", tail_count(tail));
    tail_put(to, number);
    tail_put(to, "BLOCK");
    (void)snprintf(number, sizeof(number), "%" PRId64, block_ms);
    tail_put(to, number);
    tail_put(to, "STREAMS");
    for (uint32_t i = 0; i < tail->n; i++)
        tail_put(to, tail->streams[i].key);
    for (uint32_t i = 0; i < tail->n; i++) {
        (void)snprintf(number, sizeof(number), "%" PRIu64 "-%" PRIu64, tail->streams[i].at.id.ms,
                       tail->streams[i].at.id.seq);
        tail_put(to, number);
    }
}

static size_t tail_xread_size(const struct tail *tail)
{
    enum { FIXED = 256, OF_A_STREAM = 96 };
    size_t size = FIXED;

    for (uint32_t i = 0; i < tail->n; i++)
        size += strlen(tail->streams[i].key) + OF_A_STREAM;
    return size;
}

static void tail_send_round(struct tail *tail)
{
    const struct config *config = tail->params.config;
    int64_t block_ms = config->store.lease_ms >= 4 ? config->store.lease_ms / 4 : 1;
    int64_t timeout_ms = block_ms + config->store.command_timeout_ms;
    struct buf text;

    tail_begin_round(tail, true);
    buf_init(&text, tail_xread_size(tail));
    tail_put_xread(tail, block_ms, &text);
    tail_send(tail, buf_peek(&text), timeout_ms, on_streams, tail);
    buf_release(&text);
    tail_send_infos(tail, timeout_ms);
    if (tail->probe != NULL)
        tail_send(tail, str_c(tail->probe), timeout_ms, on_probe, tail);
}

static void on_link_up(void *arg)
{
    struct tail *tail = arg;

    tail_begin_round(tail, false);
    tail_send_infos(tail, tail->params.config->store.command_timeout_ms);
}

static void on_link_down(void *arg)
{
    struct tail *tail = arg;

    tail->is_placed = false;
    tail->params.on_broken(tail->params.link_arg, tail->params.first);
}

static void on_link_failed(void *arg)
{
    struct tail *tail = arg;

    tail->params.on_doubt(tail->params.link_arg, tail->params.first, NULL);
}

/* For the store. */

/* SET <the number of partitions> … NX: it is always there. */
static char *tail_write_probe(const struct config *config)
{
    char head[COMMAND_HEAD_SIZE];
    struct command command;
    size_t len;

    command_init(&command);
    command_add(&command, STR("SET"));
    keys_add_partitions(config, &command);
    command_add_int(&command, config->store.partitions > 0 ? config->store.partitions : 1);
    command_add(&command, STR("NX"));
    char *body CLEANUP(mem_free_at) = command_write(&command, &len);
    size_t head_len = command_write_head(command.n_args, head);
    return mem_printf("%.*s%.*s", (int)head_len, head, (int)len, body);
}

struct tail *tail_new(const struct tail_params *params)
{
    struct tail *tail = mem_new(struct tail);

    tail->params = *params;
    tail->params.keys = NULL;
    tail->fresh_ms = INT64_MIN;
    tail->n = params->n;
    tail->streams = mem_array(tail->n, sizeof(*tail->streams));
    for (uint32_t i = 0; i < tail->n; i++) {
        tail->streams[i].tail = tail;
        tail->streams[i].key = keys_events(params->keys, params->first + i);
    }
    if (config_store_kind(params->config) != CONFIG_STORE_CLUSTER)
        tail->probe = tail_write_probe(params->config);
    return tail;
}

void tail_lead(struct tail *tail, const struct store_address *server)
{
    const struct link_params params = {
        .base = tail->params.base,
        .config = tail->params.config,
        .address = server,
        .greeting = greeting_kind_of_servers(tail->params.config),
        .purpose = "tail",
        .handlers = {on_link_up, on_link_down, on_link_failed, tail},
    };

    if (tail->link != NULL && store_address_equal(&tail->server, server))
        return;
    if (tail->link != NULL)
        tail->gone_reconnects += link_reconnects(tail->link) + 1;
    link_free(&tail->link);
    tail->is_placed = false;
    for (uint32_t i = 0; i < tail->n; i++) {
        tail->streams[i].counts_anew = tail->streams[i].is_known;
        tail->has_gap |= tail->streams[i].is_known;
    }
    tail->server = *server;
    tail->link = link_new(&params);
}

void tail_free(struct tail **tail)
{
    struct tail *self = *tail;

    if (self == NULL)
        return;
    link_free(&self->link);
    for (uint32_t i = 0; i < self->n; i++)
        mem_free(self->streams[i].key);
    mem_free(self->streams);
    mem_free(self->probe);
    mem_free(self);
    *tail = NULL;
}

bool tail_is_placed(const struct tail *tail)
{
    return tail->is_placed;
}

int64_t tail_fresh_ms(const struct tail *tail)
{
    return tail->fresh_ms;
}

uint64_t tail_reconnects(const struct tail *tail)
{
    return tail->gone_reconnects + (tail->link != NULL ? link_reconnects(tail->link) : 0);
}
