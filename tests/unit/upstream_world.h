/* SPDX-License-Identifier: BSD-2-Clause */
/* One loop with a pool, its backends and the callers of its exchanges, who write down what they are
 * told.
 *
 * Includes nothing of cmocka: include that first. */
#pragma once

#include <string.h>

#include "fake_backend.h"
#include "gateway/upstream/counts.h"
#include "gateway/upstream/resolved.h"
#include "gateway/upstream/upstream.h"

#define GET          "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#define HEAD         "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
#define POST         "POST / HTTP/1.1\r\nHost: x\r\n"
#define POST_5       POST "Content-Length: 5\r\n\r\n"
#define POST_BIG     POST "Content-Length: 2000000\r\n\r\n"
#define POST_ENDLESS POST "Content-Length: 100000000\r\n\r\n"
#define POST_CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"
#define OK_5         "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

/* Bodies are fake_pattern(); `endless` is more than the kernel's buffers take. */
extern const struct upstream_request request_get, request_post_5, request_head_only,
    request_post_chunked, request_post_big, request_post_endless;

enum { BACKENDS_MAX = 3 };

struct world {
    struct event_base *base;
    struct config config;
    struct config_backend backend;
    struct config_address servers[BACKENDS_MAX];
    struct fake_backend *fakes[BACKENDS_MAX];
    struct upstream_counts *counts;
    struct resolved *resolved;
    struct upstream_pool *pool;
    char scratch[32 * 1024];
};

/* Generous timeouts; change `backend` before world_open(). */
struct world *world_new(void);
void world_free(struct world *world);
void world_add_address(struct world *world, struct config_address address);
struct fake_backend *world_add_kind(struct world *world, enum fake_kind kind,
                                    const struct fake_script *scripts, size_t n);
struct fake_backend *world_add(struct world *world, const struct fake_script *scripts, size_t n);
/* A port at which nobody listens. */
void world_add_refusing(struct world *world);
void world_open(struct world *world);

/* Runs the loop until the condition holds; false when GUARD_MS have gone by. */
typedef bool world_condition_fn(void *arg);
bool world_run_until(struct world *world, world_condition_fn *holds, void *arg);
void world_run_ms(struct world *world, int64_t ms);
void assert_connections_become(struct world *world, size_t n);

enum moment {
    NEVER,
    AT_INTERIM,
    AT_HEAD,
    AT_READABLE,
    AT_WRITABLE,
    AT_FAILED,
    N_MOMENTS,
};

struct caller {
    struct world *world;
    struct upstream *upstream;
    enum http_framing framing;
    size_t to_upload;
    size_t uploaded;
    bool finished;
    char notes[256]; /* "100 200 done", "failed refused backend-busy"… */
    struct buf sink;
    char *body;
    size_t body_len;
    size_t body_size;
    bool over;
    unsigned n_over;

    /* what makes trouble */
    enum moment abort_at;
    enum moment unref_pool_at;
    bool read_in_head;   /* calls upstream_read_body() from inside on_head */
    bool holds_upload;   /* gives the body only after the first head came */
    bool never_finishes; /* owes the rest of the body */
    size_t read_max;     /* at most so many bytes a read */
    int64_t drain_ms;    /* 0: the sink is emptied at once */
    struct event *drain;
    struct caller *next; /* started in on_failed */
};

struct caller *caller_new(struct world *world);
void caller_free(struct caller *caller);
void caller_start(struct caller *caller, const struct upstream_request *request);
/* Until it is over, which must happen once. */
void caller_run(struct caller *caller);
void caller_upload(struct caller *caller);
bool is_over(void *caller);

void assert_pattern(const char *data, size_t len);
/* A whole exchange, and what became of it. */
void assert_exchange(struct world *world, const struct upstream_request *request,
                     const char *notes);
