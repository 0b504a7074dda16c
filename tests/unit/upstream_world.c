/* SPDX-License-Identifier: BSD-2-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "upstream_world.h"

#include <stdio.h>
#include <stdlib.h>

#include "gateway/base/clock.h"
#include "gateway/base/mem.h"

enum {
    GUARD_MS = 10000, /* no test waits longer */
    SINK_SIZE = 64 * 1024,
};

const struct upstream_request request_get = {.head = {GET, sizeof(GET) - 1}, .idempotent = true};
const struct upstream_request request_post_5 = {
    .head = {POST_5, sizeof(POST_5) - 1},
    .framing = HTTP_FRAMING_LENGTH,
    .content_length = 5,
};

const struct upstream_request request_head_only = {
    .head = {"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", 28},
    .is_head = true,
    .idempotent = true,
};

const struct upstream_request request_post_chunked = {
    .head = {POST_CHUNKED, sizeof(POST_CHUNKED) - 1},
    .framing = HTTP_FRAMING_CHUNKED,
};
const struct upstream_request request_post_big = {
    .head = {POST_BIG, sizeof(POST_BIG) - 1},
    .framing = HTTP_FRAMING_LENGTH,
    .content_length = 2000000,
};

const struct upstream_request request_post_endless = {
    .head = {POST_ENDLESS, sizeof(POST_ENDLESS) - 1},
    .framing = HTTP_FRAMING_LENGTH,
    .content_length = 100000000,
};

/* --- the world -------------------------------------------------------------------------------- */

struct world *world_new(void)
{
    struct world *world = mem_new(struct world);

    world->base = event_base_new();
    world->counts = upstream_counts_new(1);
    world->config.http.buffer = 16 * 1024;
    world->backend = (struct config_backend){
        .name = "api",
        .servers = world->servers,
        .connect_timeout_ms = 2000,
        .response_timeout_ms = 2000,
        .idle_timeout_ms = 2000,
        .keepalive_timeout_ms = 60000,
        .keepalive_connections = 8,
        .max_connections = 16,
        .max_connections_per_server = 16,
        .retries = 1,
    };
    return world;
}

void world_add_address(struct world *world, struct config_address address)
{
    assert_true(world->backend.n_servers < BACKENDS_MAX);
    world->servers[world->backend.n_servers++] = address;
}

struct fake_backend *world_add_kind(struct world *world, enum fake_kind kind,
                                    const struct fake_script *scripts, size_t n)
{
    struct fake_backend *fake = fake_backend_new(world->base, kind, scripts, n);

    world->fakes[world->backend.n_servers] = fake;
    if (kind == FAKE_UNIX)
        world_add_address(world,
                          (struct config_address){CONFIG_ADDRESS_UNIX, fake_backend_path(fake), 0});
    else
        world_add_address(world, (struct config_address){CONFIG_ADDRESS_TCP, "127.0.0.1",
                                                         fake_backend_port(fake)});
    return fake;
}

struct fake_backend *world_add(struct world *world, const struct fake_script *scripts, size_t n)
{
    return world_add_kind(world, FAKE_TCP, scripts, n);
}

/* A port at which nobody listens. */
void world_add_refusing(struct world *world)
{
    static const struct fake_script none[1];
    struct fake_backend *fake = fake_backend_new(world->base, FAKE_TCP, none, 1);

    world_add_address(world, (struct config_address){CONFIG_ADDRESS_TCP, "127.0.0.1",
                                                     fake_backend_port(fake)});
    fake_backend_free(&fake);
}

void world_open(struct world *world)
{
    char error[200];

    resolved_unref(&world->resolved);
    world->resolved = resolved_new(&world->backend, &(struct resolved_before){.n = 0},
                                   RESOLVED_TRUST, error, sizeof(error));
    assert_non_null(world->resolved);
    world->pool = upstream_pool_new(&(struct upstream_pool_params){
        .base = world->base,
        .config = &world->config,
        .backend = &world->backend,
        .resolved = world->resolved,
        .counts = world->counts,
        .scratch = world->scratch,
        .scratch_size = sizeof(world->scratch),
    });
}

void world_free(struct world *world)
{
    upstream_pool_unref(&world->pool);
    upstream_counts_free(&world->counts);
    resolved_unref(&world->resolved);
    for (size_t i = 0; i < BACKENDS_MAX; i++)
        fake_backend_free(&world->fakes[i]);
    event_base_free(world->base);
    mem_free(world);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
}

bool world_run_until(struct world *world, world_condition_fn *holds, void *arg)
{
    const struct timeval period = {.tv_usec = 2000};
    int64_t give_up_ms = clock_monotonic_ms() + GUARD_MS;
    struct event *tick = event_new(world->base, -1, EV_PERSIST, on_tick, NULL);

    event_add(tick, &period);
    while (!holds(arg) && clock_monotonic_ms() < give_up_ms)
        event_base_loop(world->base, EVLOOP_ONCE);
    event_free(tick);
    return holds(arg);
}

static bool has_time_come(void *arg)
{
    return clock_monotonic_ms() >= *(int64_t *)arg;
}

void world_run_ms(struct world *world, int64_t ms)
{
    int64_t until_ms = clock_monotonic_ms() + ms;

    assert_true(world_run_until(world, has_time_come, &until_ms));
}

struct connections_wish {
    struct world *world;
    size_t n;
};

static bool has_connections(void *arg)
{
    const struct connections_wish *wish = arg;

    return upstream_pool_connections(wish->world->pool) == wish->n;
}

void assert_connections_become(struct world *world, size_t n)
{
    struct connections_wish wish = {world, n};

    (void)world_run_until(world, has_connections, &wish);
    assert_int_equal(upstream_pool_connections(world->pool), n);
}

/* --- the caller ------------------------------------------------------------------------------- */

static void caller_note(struct caller *caller, const char *format, ...) PRINTF_LIKE(2, 3);
static void caller_note(struct caller *caller, const char *format, ...)
{
    size_t len = strlen(caller->notes);
    va_list args;

    if (len > 0 && len + 1 < sizeof(caller->notes))
        caller->notes[len++] = ' ';
    va_start(args, format);
    (void)vsnprintf(caller->notes + len, sizeof(caller->notes) - len, format, args);
    va_end(args);
}

static void caller_end(struct caller *caller)
{
    caller->over = true;
    caller->n_over++;
    if (caller->drain != NULL)
        event_del(caller->drain);
}

/* True when the caller is gone. */
static bool caller_trouble(struct caller *caller, enum moment moment)
{
    if (caller->unref_pool_at == moment)
        upstream_pool_unref(&caller->world->pool);
    if (caller->abort_at != moment)
        return false;
    upstream_abort(&caller->upstream);
    caller_note(caller, "aborted");
    caller_end(caller);
    return true;
}

void caller_upload(struct caller *caller)
{
    size_t room = 0;
    struct buf *out;

    if (caller->framing == HTTP_FRAMING_NONE || caller->finished)
        return;
    while (caller->uploaded < caller->to_upload &&
           (out = upstream_body_begin(caller->upstream, &room)) != NULL) {
        for (; room > 0 && caller->uploaded < caller->to_upload; room--, caller->uploaded++) {
            char c = fake_pattern(caller->uploaded);
            assert_true(buf_append(out, &c, 1));
        }
        upstream_body_end(caller->upstream);
    }
    if (caller->uploaded == caller->to_upload && !caller->never_finishes) {
        caller->finished = true;
        upstream_body_finish(caller->upstream);
    }
}

/* Grows by doubling: a sanitizer copies at every realloc(). */
static void caller_empty_sink(struct caller *caller)
{
    struct str bytes = buf_peek(&caller->sink);

    if (caller->body_len + bytes.len >= caller->body_size) {
        caller->body_size = 2 * (caller->body_len + bytes.len + 1);
        caller->body = realloc(caller->body, caller->body_size);
        assert_non_null(caller->body);
    }
    memcpy(caller->body + caller->body_len, bytes.p, bytes.len);
    caller->body_len += bytes.len;
    caller->body[caller->body_len] = '\0';
    buf_consume(&caller->sink, bytes.len);
}

static void caller_drain_later(struct caller *caller)
{
    const struct timeval in = {.tv_usec = (suseconds_t)(caller->drain_ms * 1000)};

    event_add(caller->drain, &in);
}

static const char *result_name(enum upstream_result result)
{
    return result == UPSTREAM_REFUSED ? "refused" : result == UPSTREAM_BROKEN ? "broken" : "done";
}

/* False when it cannot go on now. */
static bool caller_read_once(struct caller *caller)
{
    const struct upstream_failure *failure;

    switch (upstream_read_body(caller->upstream, &caller->sink, caller->read_max)) {
    case UPSTREAM_READ_MORE:
        if (caller->drain_ms == 0)
            caller_empty_sink(caller);
        return false;
    case UPSTREAM_READ_FULL:
        if (caller->drain_ms > 0) {
            caller_drain_later(caller);
            return false;
        }
        caller_empty_sink(caller);
        return true;
    case UPSTREAM_READ_DONE:
        caller_empty_sink(caller);
        upstream_finish(&caller->upstream);
        caller_note(caller, "done");
        break;
    case UPSTREAM_READ_FAILED:
        caller_empty_sink(caller);
        failure = upstream_failure(caller->upstream);
        assert_non_null(failure);
        caller_note(caller, "%s %s", result_name(failure->result), reason_wire(failure->reason));
        upstream_abort(&caller->upstream);
        break;
    }
    caller_end(caller);
    return false;
}

static void caller_read(struct caller *caller)
{
    while (caller_read_once(caller))
        ;
}

static void on_drain(evutil_socket_t fd, short what, void *arg)
{
    struct caller *caller = arg;

    caller_empty_sink(caller);
    caller_read(caller);
}

static void on_writable(void *arg)
{
    struct caller *caller = arg;

    assert_false(caller->over);
    if (!caller_trouble(caller, AT_WRITABLE))
        caller_upload(caller);
}

static void on_head(const struct http_head *head, void *arg)
{
    struct caller *caller = arg;

    assert_false(caller->over);
    caller_note(caller, "%d", head->status);
    if (caller->holds_upload) {
        caller->holds_upload = false;
        caller_upload(caller);
    }
    if (!caller_trouble(caller, head->status < 200 ? AT_INTERIM : AT_HEAD) && head->status >= 200 &&
        caller->read_in_head)
        caller_read(caller);
}

static void on_readable(void *arg)
{
    struct caller *caller = arg;

    assert_false(caller->over);
    if (!caller_trouble(caller, AT_READABLE))
        caller_read(caller);
}

static void on_failed(const struct upstream_failure *failure, void *arg)
{
    struct caller *caller = arg;

    assert_false(caller->over);
    assert_true(strlen(failure->text) > 0);
    caller->upstream = NULL;
    caller_note(caller, "failed %s %s", result_name(failure->result), reason_wire(failure->reason));
    caller_end(caller);
    (void)caller_trouble(caller, AT_FAILED);
    if (caller->next != NULL)
        caller_start(caller->next,
                     &(struct upstream_request){.head = STR(GET), .idempotent = true});
}

static const struct upstream_handlers handlers = {
    .on_writable = on_writable,
    .on_head = on_head,
    .on_readable = on_readable,
    .on_failed = on_failed,
};

struct caller *caller_new(struct world *world)
{
    struct caller *caller = mem_new(struct caller);

    caller->world = world;
    caller->read_max = SIZE_MAX;
    caller->drain = event_new(world->base, -1, 0, on_drain, caller);
    buf_init(&caller->sink, SINK_SIZE);
    return caller;
}

void caller_free(struct caller *caller)
{
    if (caller == NULL)
        return;
    upstream_abort(&caller->upstream);
    event_free(caller->drain);
    buf_release(&caller->sink);
    free(caller->body);
    mem_free(caller);
}

void caller_start(struct caller *caller, const struct upstream_request *request)
{
    caller->framing = request->framing;
    if (request->framing == HTTP_FRAMING_LENGTH)
        caller->to_upload = (size_t)request->content_length;
    caller->upstream = upstream_start(caller->world->pool, request, &handlers, caller);
    if (!caller->holds_upload)
        caller_upload(caller);
}

bool is_over(void *arg)
{
    return ((struct caller *)arg)->over;
}

void caller_run(struct caller *caller)
{
    (void)world_run_until(caller->world, is_over, caller);
    assert_true(caller->over);
    assert_int_equal(caller->n_over, 1);
}

void assert_pattern(const char *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (data[i] != fake_pattern(i))
            fail_msg("byte %zu is %d instead of %d", i, data[i], fake_pattern(i));
    }
}
/* A whole exchange, and what became of it. */
void assert_exchange(struct world *world, const struct upstream_request *request, const char *notes)
{
    struct caller *caller = caller_new(world);

    caller_start(caller, request);
    caller_run(caller);
    assert_string_equal(caller->notes, notes);
    caller_free(caller);
}
