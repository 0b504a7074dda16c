/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/ops.h"

#include <assert.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/store/guide.h"

/* EVALSHA, or EVAL with the text of the longest script. */
enum {
    OP_HEAD_SIZE = 4096,
    OP_WAIT_SIZE = 96,
    OP_REDIRECTED_MS = 10, /* before a redirected one is sent again */
};

static void op_on_reply(const redisReply *reply, void *arg);

/* The end. */

static void op_count(struct store_op *op)
{
    struct store_stats *stats = op->ops->stats;

    if (op->result == STORE_CONFLICT)
        stat_add(&stats->conflicts, 1);
    if (op->result == STORE_UNAVAILABLE)
        stat_add(&stats->failures, 1);
    else if (op->is_asked)
        histogram_observe(&stats->latency[op->command], clock_monotonic_us() - op->started_us);
}

/* The one place where an operation ends. */
static void op_finish(struct store_op *op, const redisReply *reply)
{
    list_remove(&op->link);
    op_count(op);
    op->state = OP_STATE_ENDED;
    if (!op->is_cancelled)
        op->end(op, op->result, op->result == STORE_OK ? reply : NULL);
    if (op->timer != NULL)
        event_free(op->timer);
    mem_free(op->ask);
    mem_free(op->body);
    mem_free(op);
}

void store_op_cancel(struct store_op **op_at)
{
    struct store_op *op = *op_at;

    *op_at = NULL;
    if (op == NULL || op->state == OP_STATE_ENDED)
        return;
    op->is_cancelled = true;
    if (op->state == OP_STATE_DEFERRED)
        op_finish(op, NULL);
}

static struct store_op *op_defer(struct store_op *op)
{
    static const struct timeval at_once = {0};

    list_remove(&op->link);
    list_push_back(&op->ops->deferred, &op->link);
    op->state = OP_STATE_DEFERRED;
    op->result = STORE_UNAVAILABLE;
    (void)event_add(op->ops->deferral, &at_once);
    return op;
}

/* Those only that were deferred before this turn: one whose callback asks again at once must not
 * keep the loop from its sockets. */
static void on_deferral(evutil_socket_t fd, short what, void *arg)
{
    struct ops *ops = arg;
    struct list marker;

    list_push_back(&ops->deferred, &marker);
    while (ops->deferred.next != &marker)
        op_finish(list_entry(ops->deferred.next, struct store_op, link), NULL);
    list_remove(&marker);
}

/* Sending. */

/* "*N" and, before a script's arguments, how to find the script. */
static struct str op_head(const struct store_op *op, char *out, size_t size)
{
    size_t len = command_write_head(op->n_args + (op->script != NULL ? 2 : 0), out);
    int more;

    if (op->script == NULL)
        return (struct str){out, len};
    if (op->is_evaluated)
        more = snprintf(out + len, size - len, "$4\r\nEVAL\r\n$%zu\r\n%.*s\r\n",
                        op->script->text.len, STR_ARGS(op->script->text));
    else
        more = snprintf(out + len, size - len, "$7\r\nEVALSHA\r\n$40\r\n%.*s\r\n",
                        STR_ARGS(op->script->sha1));
    assert(more > 0 && (size_t)more < size - len);
    return (struct str){out, len + (size_t)more};
}

/* The acknowledgement of replicas is asked for in the same breath, so that it speaks of this
 * write. */
static struct str op_wait_text(const struct config *config, char *out, size_t size)
{
    struct command command;
    size_t len;

    command_init(&command);
    command_add(&command, STR("WAIT"));
    command_add_int(&command, config->store.wait_replicas);
    command_add_int(&command, config->store.wait_timeout_ms);
    char *body CLEANUP(mem_free_at) = command_write(&command, &len);
    int n = snprintf(out, size, "*3\r\n%.*s", (int)len, body);
    assert(n > 0 && (size_t)n < size);
    return (struct str){out, (size_t)n};
}

static struct link *op_link(const struct store_op *op)
{
    return op->ask != NULL ? servers_link_at(op->ops->servers, op->ask, op->use)
                           : servers_link(op->ops->servers, op->partition, op->use);
}

static bool op_send(struct store_op *op)
{
    const struct config *config = op->ops->config;
    struct link *link = op_link(op);
    char head[OP_HEAD_SIZE], wait[OP_WAIT_SIZE];
    struct link_command command = {
        .pieces = {op->ask != NULL ? STR("*1\r\n$6\r\nASKING\r\n") : STR(""),
                   op_head(op, head, sizeof(head)),
                   {op->body, op->body_len}},
        .n_replies = op->ask != NULL ? 2 : 1,
        .timeout_ms = config->store.command_timeout_ms,
        .on_reply = op_on_reply,
        .arg = op,
    };

    if (op->waits_for_replicas) {
        command.pieces[3] = op_wait_text(config, wait, sizeof(wait));
        command.n_replies++;
    }
    if (op->waits_for_replicas || op->stands_behind_wait)
        command.timeout_ms += config->store.wait_timeout_ms;
    if (link == NULL || !link_send(link, &command))
        return false;
    op->n_replies = command.n_replies;
    op->awaits_asking = op->ask != NULL;
    stat_add(&op->ops->stats->commands, 1);
    return true;
}

struct store_op *op_start(struct ops *ops, struct op_place place, struct store_op *op,
                          const struct command *command)
{
    op->ops = ops;
    op->partition = place.partition;
    op->use = place.use;
    op->is_asked = true;
    op->state = OP_STATE_SENT;
    op->started_us = clock_monotonic_us();
    op->n_args = command->n_args;
    op->body = command_write(command, &op->body_len);
    list_init(&op->link);
    if (!op_send(op))
        return op_defer(op);
    list_push_back(&ops->sent, &op->link);
    return op;
}

struct store_op *op_refuse(struct ops *ops, struct store_op *op)
{
    op->ops = ops;
    list_init(&op->link);
    return op_defer(op);
}

struct store_op *op_begin(struct ops *ops, struct store_op *op)
{
    op->ops = ops;
    op->state = OP_STATE_SENT;
    op->started_us = clock_monotonic_us();
    list_init(&op->link);
    list_push_back(&ops->sent, &op->link);
    return op;
}

void op_end(struct store_op *op, enum store_result result)
{
    op->result = result;
    op_finish(op, NULL);
}

static void on_pause_over(evutil_socket_t fd, short what, void *arg)
{
    op_end(arg, STORE_OK);
}

struct store_op *op_pause(struct ops *ops, struct store_op *op, int64_t pause_ms)
{
    const struct timeval delay = {.tv_sec = pause_ms / 1000, .tv_usec = pause_ms % 1000 * 1000L};

    (void)op_begin(ops, op);
    op->timer = evtimer_new(ops->base, on_pause_over, op);
    if (op->timer == NULL || event_add(op->timer, &delay) != 0)
        return op_defer(op);
    return op;
}

/* Again, elsewhere. */

static bool op_is_in_time(const struct store_op *op)
{
    return clock_monotonic_us() - op->started_us < op->ops->config->store.command_timeout_ms * 1000;
}

static void on_time_to_send(evutil_socket_t fd, short what, void *arg);

/* Until the links to where it is sent are up, too. */
static void op_send_soon(struct store_op *op)
{
    static const struct timeval delay = {.tv_usec = OP_REDIRECTED_MS * 1000L};

    if (op->timer == NULL)
        op->timer = evtimer_new(op->ops->base, on_time_to_send, op);
    if (!op_is_in_time(op) || op->timer == NULL || event_add(op->timer, &delay) != 0)
        (void)op_defer(op);
}

static void on_time_to_send(evutil_socket_t fd, short what, void *arg)
{
    struct store_op *op = arg;

    if (op->is_cancelled)
        op_finish(op, NULL);
    else if (!op_send(op))
        op_send_soon(op);
}

/* Nothing was done, and the answer says who does it, or when. */
static bool op_take_redirect(struct store_op *op, enum refusal refusal, const char *text)
{
    const struct config *config = op->ops->config;
    struct store_address elsewhere;

    mem_free(op->ask);
    op->ask = NULL;
    if (config_store_kind(config) != CONFIG_STORE_CLUSTER || !op_is_in_time(op))
        return false;
    if (refusal == REFUSAL_ASK) {
        if (!guide_parse_redirect(config, text, &elsewhere))
            return false;
        op->ask = mem_new(struct store_address);
        *op->ask = elsewhere;
    } else if (refusal != REFUSAL_MOVED && refusal != REFUSAL_TRYAGAIN) {
        return false;
    }
    op->result = STORE_UNAVAILABLE; /* unless another try says otherwise */
    op->sends_again = op->is_redirected = true;
    return true;
}

/* Answers. */

static bool op_take_error(struct store_op *op, const char *text)
{
    enum refusal refusal = refusal_classify(text);

    if (refusal == REFUSAL_NOSCRIPT && op->script != NULL && !op->is_evaluated) {
        op->result = STORE_UNAVAILABLE; /* unless the second try says otherwise */
        op->sends_again = true;
        return false;
    }
    if (op_take_redirect(op, refusal, text))
        return refusal == REFUSAL_MOVED;
    op->result = refusal_result(refusal);
    refusal_report(&op->ops->refusals, refusal, text, op->doing);
    return refusal_resets_link(refusal) || refusal == REFUSAL_CLUSTERDOWN ||
           refusal == REFUSAL_MOVED;
}

/* The second reply of a commit: how many replicas have it. What is already decided, stays. */
static void op_take_wait_reply(struct store_op *op, const redisReply *reply)
{
    if (op->result != STORE_OK || op->sends_again)
        return;
    if (reply != NULL && reply->type == REDIS_REPLY_INTEGER &&
        reply->integer >= (long long)op->ops->config->store.wait_replicas)
        return;
    op->result = STORE_UNAVAILABLE;
    if (reply != NULL)
        refusal_report(&op->ops->refusals, REFUSAL_NOREPLICAS,
                       reply->type == REDIS_REPLY_ERROR ? reply->str
                                                        : "too few replicas have the change",
                       op->doing);
}

/* Returns true when another server should be asked from now on. */
static bool op_take_reply(struct store_op *op, const redisReply *reply)
{
    if (reply != NULL && reply->type == REDIS_REPLY_ERROR)
        return op_take_error(op, reply->str);
    if (reply == NULL || (op->is_commit && reply->type != REDIS_REPLY_INTEGER))
        op->result = STORE_UNAVAILABLE;
    else if (op->is_commit && reply->integer != 1)
        op->result = STORE_CONFLICT;
    else
        op->result = STORE_OK;
    return false;
}

/* All replies of one sending are in. */
static void op_end_round(struct store_op *op, const redisReply *reply)
{
    if (!op->sends_again || op->is_cancelled) {
        op_finish(op, reply);
        return;
    }
    op->sends_again = false;
    if (op->is_redirected) {
        op->is_redirected = false;
        op_send_soon(op);
        return;
    }
    op->is_evaluated = true;
    if (!op_send(op))
        (void)op_defer(op);
}

static void op_on_reply(const redisReply *reply, void *arg)
{
    struct store_op *op = arg;
    struct servers *servers = op->ops->servers;
    uint32_t partition = op->partition;
    bool has_doubt = false;

    if (op->awaits_asking)
        op->awaits_asking = false;
    else if (op->waits_for_replicas && op->n_replies == 1)
        op_take_wait_reply(op, reply);
    else
        has_doubt = op_take_reply(op, reply);
    if (--op->n_replies == 0)
        op_end_round(op, op->waits_for_replicas ? NULL : reply);
    if (has_doubt)
        servers_doubt(servers, partition, reply->str);
}

/* Life. */

void ops_init(struct ops *ops, struct event_base *base, const struct config *config,
              struct servers *servers, struct store_stats *stats)
{
    *ops = (struct ops){.base = base, .config = config, .servers = servers, .stats = stats};
    list_init(&ops->sent);
    list_init(&ops->deferred);
    ops->deferral = evtimer_new(base, on_deferral, ops);
    if (ops->deferral == NULL)
        abort();
}

void ops_deinit(struct ops *ops)
{
    /* Of those that were sent, what waits for a time; the links have answered all others. The
     * newest first: what stands for others is older than they, and ended by them. */
    while (!list_is_empty(&ops->deferred) || !list_is_empty(&ops->sent)) {
        struct list *list = list_is_empty(&ops->deferred) ? &ops->sent : &ops->deferred;
        op_end(list_entry(list->prev, struct store_op, link), STORE_UNAVAILABLE);
    }
    event_free(ops->deferral);
}
