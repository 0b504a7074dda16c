/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/startup.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/log.h"
#include "gateway/base/mem.h"
#include "gateway/store/address.h"
#include "gateway/store/greeting.h"
#include "gateway/store/guide.h"
#include "gateway/store/link_tls.h"
#include "gateway/store/resolve.h"

/* XINFO tells what was trimmed from a stream since 7.0; Valkey says 7.2. */
enum { REDIS_VERSION_MIN = 7 };

static void context_free(redisContext **context)
{
    if (*context != NULL)
        redisFree(*context);
}

static struct timeval timeval_of(int64_t ms)
{
    return (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000L};
}

/* The first of a name's addresses that answers. */
static redisContext *startup_connect_tcp(const struct store_address *address,
                                         struct timeval timeout, char *error, size_t error_size)
{
    struct resolve_result found;

    resolve_now(address->host, &found);
    if (found.error != NULL)
        (void)snprintf(error, error_size, "%s: %s", address->host, found.error);
    for (size_t i = 0; i < found.n; i++) {
        redisContext *context = redisConnectWithTimeout(found.addresses[i], address->port, timeout);
        if (context != NULL && context->err == 0)
            return context;
        (void)snprintf(error, error_size, "%s port %u: %s", found.addresses[i], address->port,
                       context != NULL ? context->errstr : "out of memory");
        context_free(&context);
    }
    return NULL;
}

static redisContext *startup_connect(const struct config *config,
                                     const struct store_address *address, char *error,
                                     size_t error_size)
{
    struct timeval timeout = timeval_of(config->store.connect_timeout_ms);
    redisContext *context;

    if (address->is_unix) {
        context = redisConnectUnixWithTimeout(address->path, timeout);
        if (context != NULL && context->err != 0) {
            (void)snprintf(error, error_size, "%s: %s", address->path, context->errstr);
            context_free(&context);
            return NULL;
        }
    } else {
        context = startup_connect_tcp(address, timeout, error, error_size);
    }
    if (context == NULL)
        return NULL;
    (void)redisSetTimeout(context, timeout);
    if (!address->is_tls ||
        link_tls_start(context, address->host, config->store.ca_file, error, error_size))
        return context;
    context_free(&context);
    return NULL;
}

/* The same greeting as a link's. */
static enum store_startup startup_greet(redisContext *context, enum greeting_kind kind,
                                        const struct config *config,
                                        const struct store_address *address, char *error,
                                        size_t error_size)
{
    struct greeting greeting;
    enum greeting_progress progress = GREETING_MORE;
    char *text CLEANUP(mem_free_at) =
        greeting_begin(&greeting, kind, config, address, error, error_size);

    if (text == NULL)
        return STORE_STARTUP_WRONG;
    if (redisAppendFormattedCommand(context, text, strlen(text)) != REDIS_OK)
        abort();
    while (progress == GREETING_MORE) {
        void *reply = NULL;
        if (redisGetReply(context, &reply) != REDIS_OK) {
            (void)snprintf(error, error_size, "no answer from Redis: %s", context->errstr);
            return STORE_STARTUP_UNREACHABLE;
        }
        progress = greeting_take_reply(&greeting, reply, error, error_size);
        freeReplyObject(reply);
    }
    return progress == GREETING_DONE    ? STORE_STARTUP_READY
           : progress == GREETING_WRONG ? STORE_STARTUP_WRONG
                                        : STORE_STARTUP_UNREACHABLE;
}

/* Asks one sentinel, or one node of a Cluster. */
static enum store_startup startup_ask_guide(const struct config *config,
                                            const struct store_address *guide,
                                            struct store_address *out, char *error,
                                            size_t error_size)
{
    bool is_sentinel = config_store_kind(config) == CONFIG_STORE_SENTINEL;
    redisContext *context CLEANUP(context_free) = startup_connect(config, guide, error, error_size);
    char *question CLEANUP(mem_free_at) = guide_question(config);
    struct guide_map map;
    void *reply = NULL;

    if (context == NULL)
        return STORE_STARTUP_UNREACHABLE;
    enum store_startup result =
        startup_greet(context, is_sentinel ? GREETING_SENTINEL : GREETING_GUIDE, config, guide,
                      error, error_size);
    if (result != STORE_STARTUP_READY)
        return result;
    if (redisAppendFormattedCommand(context, question, strlen(question)) != REDIS_OK)
        abort();
    if (redisGetReply(context, &reply) != REDIS_OK) {
        (void)snprintf(error, error_size, "%s: %s", guide->host, context->errstr);
        return STORE_STARTUP_UNREACHABLE;
    }
    guide_map_init(&map, 1);
    if (guide_take_reply(config, guide, reply, &map, error, error_size))
        *out = map.servers[0];
    else
        result = STORE_STARTUP_UNREACHABLE;
    guide_map_deinit(&map);
    freeReplyObject(reply);
    return result;
}

/* The server of the first partition, which has the layout. */
static enum store_startup startup_locate(const struct config *config, const char *socket,
                                         struct store_address *out, char *error, size_t error_size)
{
    enum store_startup result = STORE_STARTUP_WRONG;
    struct store_address guide;

    if (socket != NULL || !config_store_is_guided(config))
        return store_address_choose(config, socket, out, error, error_size) ? STORE_STARTUP_READY
                                                                            : STORE_STARTUP_WRONG;
    for (size_t i = 0; i < guide_count(config) && result != STORE_STARTUP_READY; i++) {
        if (!guide_address(config, i, &guide, error, error_size))
            return STORE_STARTUP_WRONG;
        result = startup_ask_guide(config, &guide, out, error, error_size);
    }
    return result;
}

/* What the server lets us know; managed ones keep some of it to themselves. NULL then. */
static redisReply *startup_ask(redisContext *context, const char *command, const char *argument,
                               const char *parameter)
{
    const char *argv[] = {command, argument, parameter};
    redisReply *reply = redisCommandArgv(context, parameter != NULL ? 3 : 2, argv, NULL);

    if (reply == NULL || reply->type != REDIS_REPLY_ERROR)
        return reply;
    log_write(LOG_NOTICE, "Redis does not tell how it is set up", LOG_STR("command", command),
              LOG_STR("error", reply->str));
    freeReplyObject(reply);
    return NULL;
}

static enum store_startup startup_check_version(redisContext *context, char *error,
                                                size_t error_size)
{
    static const char name[] = "redis_version:";
    redisReply *reply = startup_ask(context, "INFO", "server", NULL);
    const char *found =
        reply != NULL && reply->type == REDIS_REPLY_STRING ? strstr(reply->str, name) : NULL;
    enum store_startup result = STORE_STARTUP_READY;

    if (found != NULL && strtol(found + sizeof(name) - 1, NULL, 10) < REDIS_VERSION_MIN) {
        found += sizeof(name) - 1;
        (void)snprintf(error, error_size, "Redis %.*s is too old: 7.0 or later is needed",
                       (int)strcspn(found, "\r\n"), found);
        result = STORE_STARTUP_WRONG;
    }
    if (reply != NULL)
        freeReplyObject(reply);
    return result;
}

/* Warns unless the parameter has the value. */
static void startup_expect(redisContext *context, const char *parameter, const char *wanted,
                           const char *consequence)
{
    redisReply *reply = startup_ask(context, "CONFIG", "GET", parameter);

    if (reply == NULL)
        return;
    if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
        reply->element[1]->type == REDIS_REPLY_STRING &&
        strcmp(reply->element[1]->str, wanted) != 0)
        log_write(LOG_WARNING, consequence, LOG_STR("parameter", parameter),
                  LOG_STR("value", reply->element[1]->str), LOG_STR("wanted", wanted));
    freeReplyObject(reply);
}

enum store_startup store_startup_check(const struct config *config, const char *socket, char *error,
                                       size_t error_size)
{
    struct store_address address;
    redisContext *context CLEANUP(context_free) = NULL;

    enum store_startup result = startup_locate(config, socket, &address, error, error_size);
    if (result != STORE_STARTUP_READY)
        return result;
    context = startup_connect(config, &address, error, error_size);
    if (context == NULL)
        return STORE_STARTUP_UNREACHABLE;
    result = startup_greet(context, greeting_kind_of_servers(config), config, &address, error,
                           error_size);
    if (result == STORE_STARTUP_READY)
        result = startup_check_version(context, error, error_size);
    if (result != STORE_STARTUP_READY)
        return result;
    startup_expect(context, "appendonly", "yes",
                   "Redis keeps no append-only file: acknowledged transitions may be lost");
    startup_expect(context, "appendfsync", "always",
                   "Redis does not sync every write: acknowledged transitions may be lost");
    startup_expect(context, "maxmemory-policy", "noeviction",
                   "Redis may evict keys: records and denials may vanish");
    return STORE_STARTUP_READY;
}

bool store_startup_check_files(const struct config *config, char *error, size_t error_size)
{
    const char *ca_file = config->store.ca_file;
    FILE *file = ca_file != NULL ? fopen(ca_file, "re") : NULL;

    if (file != NULL)
        (void)fclose(file);
    if (ca_file == NULL || file != NULL)
        return greeting_has_password(config, error, error_size);
    (void)snprintf(error, error_size, "cannot open store.ca_file %s: %s", ca_file, strerror(errno));
    return false;
}
