/* SPDX-License-Identifier: BSD-2-Clause */
/* Exchanges with backends that misbehave on purpose. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "gateway/base/clock.h"
#include "gateway/http/parser.h"
#include "upstream_world.h"

/* --- one exchange, one connection ------------------------------------------------------------- */

#define CHUNKED     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
#define OK_LENGTH_5 "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"

struct answer_case {
    const char *name;
    const struct upstream_request *request; /* NULL: request_get */
    struct fake_script script;
    const char *notes;
    const char *body; /* NULL: none */
    size_t kept;
};

static const struct answer_case answer_cases[] = {
    {.name = "length",
     .script = {{REQUEST, SEND(OK_5)}},
     .notes = "200 done",
     .body = "hello",
     .kept = 1},
    {.name = "no body",
     .script = {{REQUEST, SEND("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")}},
     .notes = "200 done",
     .kept = 1},
    {.name = "204",
     .script = {{REQUEST, SEND("HTTP/1.1 204 No Content\r\n\r\n")}},
     .notes = "204 done",
     .kept = 1},
    {.name = "304 with a length",
     .script = {{REQUEST, SEND("HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n")}},
     .notes = "304 done",
     .kept = 1},
    {.name = "head",
     .request = &request_head_only,
     .script = {{REQUEST, SEND("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")}},
     .notes = "200 done",
     .kept = 1},
    {.name = "head behind an interim answer",
     .request = &request_head_only,
     .script = {{REQUEST, SEND("HTTP/1.1 103 x\r\n\r\n" CHUNKED)}},
     .notes = "103 200 done",
     .kept = 1},
    {.name = "chunked",
     .script = {{REQUEST, SEND(CHUNKED "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")}},
     .notes = "200 done",
     .body = "abcde",
     .kept = 1},
    {.name = "until the end of the connection",
     .script = {{REQUEST, SEND("HTTP/1.1 200 OK\r\n\r\nabc"), DO_N(FAKE_PAUSE, 5), SEND("de"),
                 DO(FAKE_CLOSE)}},
     .notes = "200 done",
     .body = "abcde"},
    {.name = "interim answers",
     .script = {{REQUEST, SEND("HTTP/1.1 100 x\r\n\r\nHTTP/1.1 103 x\r\nLink: y\r\n\r\n" OK_5)}},
     .notes = "100 103 200 done",
     .body = "hello",
     .kept = 1},
    {.name = "a byte at a time",
     .script = {{REQUEST,
                 DRIP("HTTP/1.1 100 x\r\n\r\n" CHUNKED "3;x=y\r\nabc\r\n00\r\nT: z\r\n\r\n")}},
     .notes = "100 200 done",
     .body = "abc",
     .kept = 1},
    {.name = "connection: close",
     .script = {{REQUEST,
                 SEND("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na")}},
     .notes = "200 done",
     .body = "a"},
    {.name = "HTTP/1.0",
     .script = {{REQUEST, SEND("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na")}},
     .notes = "200 done",
     .body = "a"},
    {.name = "bytes behind the end",
     .script = {{REQUEST, SEND(OK_5 "HTTP/1.1 200 OK\r\n")}},
     .notes = "200 done",
     .body = "hello"},
    {.name = "bytes behind no body",
     .script = {{REQUEST, SEND("HTTP/1.1 204 x\r\n\r\nx")}},
     .notes = "204 done"},
    {.name = "an answer and the end at once",
     .script = {{REQUEST, SEND(OK_5), DO(FAKE_CLOSE)}},
     .notes = "200 done",
     .body = "hello"},
    {.name = "an answer, then a reset",
     .script = {{REQUEST, SEND(OK_5), DO(FAKE_RESET)}},
     .notes = "200 done",
     .body = "hello"},
    {.name = "half a body",
     .script = {{REQUEST, SEND(OK_LENGTH_5 "hel"), DO(FAKE_CLOSE)}},
     .notes = "200 broken backend-broken",
     .body = "hel"},
    {.name = "half a body and a reset",
     .script = {{REQUEST, SEND(OK_LENGTH_5 "hel"), DO_N(FAKE_PAUSE, 5), DO(FAKE_RESET)}},
     .notes = "200 broken backend-broken",
     .body = "hel"},
    {.name = "chunks without the last one",
     .script = {{REQUEST, SEND(CHUNKED "1\r\na\r\n"), DO(FAKE_SHUT)}},
     .notes = "200 broken backend-broken",
     .body = "a"},
    {.name = "an odd chunk size",
     .script = {{REQUEST, SEND(CHUNKED), DO_N(FAKE_PAUSE, 5), SEND("+1\r\na\r\n")}},
     .notes = "200 broken backend-invalid"},
    {.name = "half a head",
     .script = {{REQUEST, SEND("HTTP/1.1 200 OK\r\nConte"), DO(FAKE_CLOSE)}},
     .notes = "failed broken backend-broken"},
    {.name = "half a head and a reset",
     .script = {{REQUEST, SEND("HTTP/1.1 200 OK\r\nConte"), DO(FAKE_RESET)}},
     .notes = "failed broken backend-broken"},
    {.name = "nothing on a new connection",
     .script = {{REQUEST, DO(FAKE_CLOSE)}},
     .notes = "failed broken backend-broken"},
    {.name = "a reset on a new connection",
     .script = {{REQUEST, DO(FAKE_RESET)}},
     .notes = "failed broken backend-broken"},
    {.name = "the end behind an interim answer",
     .script = {{REQUEST, SEND("HTTP/1.1 100 x\r\n\r\n"), DO_N(FAKE_PAUSE, 5), DO(FAKE_CLOSE)}},
     .notes = "100 failed broken backend-broken"},
    {.name = "garbage",
     .script = {{REQUEST, SEND("SSH-2.0-OpenSSH_9.2\r\n\r\n")}},
     .notes = "failed broken backend-invalid"},
    {.name = "bare line feeds",
     .script = {{REQUEST, SEND("HTTP/1.1 200 OK\n\n")}},
     .notes = "failed broken backend-invalid"},
    {.name = "both framings",
     .script =
         {{REQUEST,
           SEND("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")}},
     .notes = "failed broken backend-invalid"},
    {.name = "another protocol",
     .script = {{REQUEST, SEND("HTTP/1.1 101 x\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")}},
     .notes = "failed broken backend-invalid"},
    {.name = "a head without end",
     .script = {{REQUEST, SEND("HTTP/1.1 200 OK\r\nX: "), DO_N(FAKE_FILL, 100000)}},
     .notes = "failed broken backend-invalid"},
    {.name = "interim answers without end",
     .script = {{SEND("HTTP/1.1 103 x\r\n\r\n"), DO(FAKE_AGAIN)}},
     .notes = "103 103 103 103 103 103 103 103 103 103 103 103 103 103 103 103 failed broken "
              "backend-invalid"},
    {.name = "a body both ways",
     .request = &request_post_5,
     .script = {{AWAIT("ahovc"), SEND(OK_5)}},
     .notes = "200 done",
     .body = "hello",
     .kept = 1},
    {.name = "no answer to a body",
     .request = &request_post_5,
     .script = {{REQUEST, DO(FAKE_CLOSE)}},
     .notes = "failed broken backend-broken"},
};

static void assert_answer(const struct answer_case *test, enum fake_kind kind, bool read_in_head)
{
    struct world *world = world_new();
    struct caller *caller = caller_new(world);

    (void)world_add_kind(world, kind, &test->script, 1);
    world_open(world);
    caller->read_in_head = read_in_head;
    caller_start(caller, test->request != NULL ? test->request : &request_get);
    caller_run(caller);
    if (strcmp(caller->notes, test->notes) != 0)
        fail_msg("%s: \"%s\" instead of \"%s\"", test->name, caller->notes, test->notes);
    if (strcmp(caller->body != NULL ? caller->body : "", test->body != NULL ? test->body : "") != 0)
        fail_msg("%s: body \"%s\"", test->name, caller->body);
    assert_connections_become(world, test->kept);
    caller_free(caller);
    world_free(world);
}

static void answers_are_delivered_or_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(answer_cases); i++)
        assert_answer(&answer_cases[i], FAKE_TCP, false);
}

static void a_caller_may_read_from_inside_on_head(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(answer_cases); i++)
        assert_answer(&answer_cases[i], FAKE_TCP, true);
}

static void unix_sockets_serve_as_well(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(answer_cases); i++)
        assert_answer(&answer_cases[i], FAKE_UNIX, false);
}

/* --- bodies ----------------------------------------------------------------------------------- */

static const struct fake_script big_answer = {
    {REQUEST, SEND("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"),
     DO_N(FAKE_FILL, 3000000)}};

static void large_answers_arrive_whole_whatever_the_sink(void **state)
{
    static const struct {
        size_t sink;
        size_t read_max;
        int64_t drain_ms;
    } cases[] = {{64 * 1024, SIZE_MAX, 0},
                 {777, SIZE_MAX, 0},
                 {64 * 1024, 1000, 0},
                 {60000, SIZE_MAX, 1}};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct world *world = world_new();
        struct caller *caller = caller_new(world);
        (void)world_add(world, &big_answer, 1);
        world_open(world);
        buf_init(&caller->sink, cases[i].sink);
        caller->read_max = cases[i].read_max;
        caller->drain_ms = cases[i].drain_ms;
        caller_start(caller, &request_get);
        caller_run(caller);
        assert_string_equal(caller->notes, "200 done");
        assert_int_equal(caller->body_len, 3000000);
        assert_pattern(caller->body, caller->body_len);
        assert_int_equal(upstream_pool_connections(world->pool), 1);
        caller_free(caller);
        world_free(world);
    }
}

static void a_slow_caller_is_not_the_backends_idleness(void **state)
{
    struct world *world = world_new();
    struct caller *caller = caller_new(world);

    (void)world_add(world, &big_answer, 1);
    world->backend.idle_timeout_ms = 40;
    world_open(world);
    buf_init(&caller->sink, 1000000);
    caller->drain_ms = 150;
    caller_start(caller, &request_get);
    caller_run(caller);
    assert_string_equal(caller->notes, "200 done");
    assert_int_equal(caller->body_len, 3000000);
    caller_free(caller);
    world_free(world);
}

/* What came on the wire, through a strict parser. */
static void assert_request_came_whole(const struct fake_backend *fake, size_t body_len)
{
    const struct http_parser_limits limits = {.head_max = 4096, .fields_max = 20};
    struct http_parser *parser = http_parser_new(HTTP_PARSER_REQUEST, limits);
    enum http_parse result;
    size_t len, used;
    const char *got = fake_backend_got(fake, 0, &len);
    struct buf body;

    buf_init(&body, len);
    assert_int_equal(http_parser_feed(parser, got, len, &body, &used), HTTP_PARSE_HEAD);
    got += used;
    len -= used;
    result = http_parser_feed(parser, got, len, &body, &used);
    assert_int_equal(result, HTTP_PARSE_COMPLETE);
    assert_int_equal(used, len);
    assert_int_equal(buf_len(&body), body_len);
    assert_pattern(buf_peek(&body).p, buf_len(&body));
    buf_release(&body);
    http_parser_free(&parser);
}

static void large_requests_arrive_whole_in_generated_framing(void **state)
{
    static const struct fake_script until_last_chunk = {{AWAIT("\r\n0\r\n\r\n"), SEND(OK_5)}};
    static const struct fake_script until_length = {
        {DO_N(FAKE_AWAIT_TOTAL, 2000000 + sizeof(POST_BIG) - 1), SEND(OK_5)}};
    static const struct {
        const struct upstream_request *request;
        const struct fake_script *script;
    } cases[] = {{&request_post_chunked, &until_last_chunk}, {&request_post_big, &until_length}};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct world *world = world_new();
        struct caller *caller = caller_new(world);
        struct fake_backend *fake = world_add(world, cases[i].script, 1);
        world_open(world);
        caller->to_upload = 2000000;
        caller_start(caller, cases[i].request);
        caller_run(caller);
        assert_string_equal(caller->notes, "200 done");
        assert_request_came_whole(fake, 2000000);
        assert_int_equal(upstream_pool_connections(world->pool), 1);
        caller_free(caller);
        world_free(world);
    }
}

static void an_empty_chunked_body_is_one_last_chunk(void **state)
{
    static const struct fake_script script = {{AWAIT("\r\n\r\n0\r\n\r\n"), SEND(OK_5)}};
    struct world *world = world_new();
    struct fake_backend *fake = world_add(world, &script, 1);

    world_open(world);
    assert_exchange(world, &request_post_chunked, "200 done");
    assert_string_equal(fake_backend_got(fake, 0, NULL), POST_CHUNKED "0\r\n\r\n");
    world_free(world);
}

static void head_and_first_piece_leave_in_one_write(void **state)
{
    static const struct fake_script script = {{REQUEST, SEND(OK_5), REQUEST, SEND(OK_5)}};
    struct world *world = world_new();
    struct fake_backend *fake = world_add(world, &script, 1);

    world_open(world);
    assert_exchange(world, &request_post_5, "200 done");
    assert_int_equal(fake_backend_first_read(fake, 0), sizeof(POST_5) - 1 + 5);
    world_free(world);
}

static void a_body_may_wait_for_an_interim_answer(void **state)
{
    static const struct fake_script script = {{REQUEST, SEND("HTTP/1.1 100 Continue\r\n\r\n"),
                                               DO_N(FAKE_AWAIT_TOTAL, sizeof(POST_5) - 1 + 5),
                                               SEND(OK_5)}};
    struct world *world = world_new();
    struct caller *caller = caller_new(world);

    (void)world_add(world, &script, 1);
    world_open(world);
    caller->holds_upload = true;
    caller_start(caller, &request_post_5);
    caller_run(caller);
    assert_string_equal(caller->notes, "100 200 done");
    assert_connections_become(world, 1);
    caller_free(caller);
    world_free(world);
}

/* --- early answers ---------------------------------------------------------------------------- */

#define TOO_LARGE "HTTP/1.1 413 x\r\nContent-Length: 4\r\n\r\nnope"

static void early_answers_are_delivered_and_end_the_connection(void **state)
{
    static const struct fake_script cases[] = {
        {{REQUEST, SEND(TOO_LARGE)}},
        {{REQUEST, DO(FAKE_DEAF), SEND(TOO_LARGE)}},
        {{REQUEST, SEND(TOO_LARGE), DO(FAKE_CLOSE)}},
        {{REQUEST, SEND(TOO_LARGE), DO(FAKE_RESET)}},
        {{REQUEST, DO(FAKE_DEAF), SEND("HTTP/1.1 413 x\r\n\r\nnope"), DO(FAKE_SHUT)}},
        {{REQUEST, DO(FAKE_DEAF), DRIP(TOO_LARGE)}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        for (enum fake_kind kind = FAKE_TCP; kind <= FAKE_UNIX; kind++) {
            struct world *world = world_new();
            struct caller *caller = caller_new(world);
            (void)world_add_kind(world, kind, &cases[i], 1);
            world_open(world);
            caller->never_finishes = i % 2 == 0;
            caller_start(caller, i == 0 ? &request_post_big : &request_post_endless);
            caller_run(caller);
            if (strcmp(caller->notes, "413 done") != 0 || strcmp(caller->body, "nope") != 0)
                fail_msg("case %zu, kind %u: \"%s\" \"%s\"", i, (unsigned)kind, caller->notes,
                         caller->body);
            assert_connections_become(world, 0);
            caller_free(caller);
            world_free(world);
        }
    }
}

/* Somebody has to take the device's bytes: a caller that drains the body must not hang on a dead
 * backend. */
static void what_the_backend_no_longer_takes_is_thrown_away(void **state)
{
    static const struct fake_script script = {
        {REQUEST, SEND("HTTP/1.1 413 x\r\nContent-Length: 400000\r\n\r\n"), DO_N(FAKE_FILL, 400000),
         DO(FAKE_CLOSE)}};
    struct world *world = world_new();
    struct caller *caller = caller_new(world);

    (void)world_add(world, &script, 1);
    world_open(world);
    buf_init(&caller->sink, 1000);
    caller->drain_ms = 1;
    caller->read_max = 1000;
    caller_start(caller, &request_post_big);
    world_run_ms(world, 100);
    assert_false(caller->over);
    assert_int_equal(caller->uploaded, 2000000);
    upstream_abort(&caller->upstream);
    caller_free(caller);
    world_free(world);
}

/* --- deadlines -------------------------------------------------------------------------------- */

struct deadline_case {
    const char *name;
    const struct upstream_request *request; /* NULL: request_get */
    struct fake_script script;
    const char *notes;
    int64_t response_ms;
    int64_t idle_ms;
    int64_t at_least_ms;
};

static void each_phase_has_its_deadline(void **state)
{
    static const struct deadline_case cases[] = {
        {.name = "no answer",
         .script = {{REQUEST}},
         .notes = "failed broken backend-timeout",
         .response_ms = 60,
         .idle_ms = 2000,
         .at_least_ms = 60},
        {.name = "interim answers do not buy time",
         .script = {{SEND("HTTP/1.1 102 x\r\n\r\n"), DO_N(FAKE_PAUSE, 40), DO(FAKE_AGAIN)}},
         .notes = "102 102 102 failed broken backend-timeout",
         .response_ms = 100,
         .idle_ms = 2000,
         .at_least_ms = 100},
        {.name = "a dripped head does not buy time",
         .script = {{SEND("HTTP/1.1 200 OK\r\nX: "), DO_N(FAKE_PAUSE, 40), SEND("a"),
                     DO_N(FAKE_PAUSE, 40), SEND("a"), DO_N(FAKE_PAUSE, 40), SEND("a")}},
         .notes = "failed broken backend-timeout",
         .response_ms = 100,
         .idle_ms = 2000,
         .at_least_ms = 100},
        {.name = "half a body",
         .script = {{REQUEST, SEND(OK_LENGTH_5 "hel")}},
         .notes = "200 failed broken backend-timeout",
         .response_ms = 2000,
         .idle_ms = 60,
         .at_least_ms = 60},
        {.name = "a slow body that moves",
         .script = {{REQUEST, SEND(OK_LENGTH_5), DO_N(FAKE_PAUSE, 50), SEND("a"),
                     DO_N(FAKE_PAUSE, 50), SEND("b"), DO_N(FAKE_PAUSE, 50), SEND("c"),
                     DO_N(FAKE_PAUSE, 50), SEND("de")}},
         .notes = "200 done",
         .response_ms = 50,
         .idle_ms = 120,
         .at_least_ms = 200},
        {.name = "the request is not taken",
         .request = &request_post_endless,
         .script = {{DO(FAKE_DEAF)}},
         .notes = "failed broken backend-timeout",
         .response_ms = 20,
         .idle_ms = 80,
         .at_least_ms = 80},
        {.name = "the answer may take longer than idle_timeout",
         .script = {{REQUEST, DO_N(FAKE_PAUSE, 150), SEND(OK_5)}},
         .notes = "200 done",
         .response_ms = 2000,
         .idle_ms = 50,
         .at_least_ms = 150},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct world *world = world_new();
        (void)world_add(world, &cases[i].script, 1);
        world->backend.response_timeout_ms = cases[i].response_ms;
        world->backend.idle_timeout_ms = cases[i].idle_ms;
        world_open(world);
        struct caller *caller = caller_new(world);
        int64_t began_ms = clock_monotonic_ms();
        caller_start(caller, cases[i].request != NULL ? cases[i].request : &request_get);
        caller_run(caller);
        if (strcmp(caller->notes, cases[i].notes) != 0)
            fail_msg("%s: \"%s\"", cases[i].name, caller->notes);
        /* The loop reads the clock once a turn. */
        if (clock_monotonic_ms() - began_ms < cases[i].at_least_ms - 5)
            fail_msg("%s: after %d ms", cases[i].name, (int)(clock_monotonic_ms() - began_ms));
        caller_free(caller);
        world_free(world);
    }
}

/* The device is what the exchange waits for then, and has its own deadline. */
static void an_unfinished_request_without_bytes_has_no_deadline(void **state)
{
    static const struct fake_script script = {
        {DO_N(FAKE_AWAIT_TOTAL, sizeof(POST_5) - 1 + 5), SEND(OK_5)}};
    struct world *world = world_new();
    struct caller *caller = caller_new(world);

    (void)world_add(world, &script, 1);
    world->backend.idle_timeout_ms = world->backend.response_timeout_ms = 50;
    world_open(world);
    caller->holds_upload = true;
    caller_start(caller, &request_post_5);
    world_run_ms(world, 200);
    assert_false(caller->over);
    caller_upload(caller);
    caller_run(caller);
    assert_string_equal(caller->notes, "200 done");
    caller_free(caller);
    world_free(world);
}

/* Whoever holds a write lease relies on it: an announcement may pass once it has ended. */
static void nothing_leaves_after_its_time(void **state)
{
    static const struct fake_script script[] = {{{REQUEST, SEND(OK_5)}}};
    struct world *world = world_new();
    struct fake_backend *fake = world_add(world, script, ARRAY_SIZE(script));
    struct upstream_request request = request_post_5;
    size_t len = 1;

    world_open(world);
    request.send_until_ms = clock_monotonic_ms();
    struct caller *late = caller_new(world);
    caller_start(late, &request);
    world_run_ms(world, 50);
    assert_int_equal(fake_backend_conns(fake), 1);
    (void)fake_backend_got(fake, 0, &len);
    assert_int_equal(len, 0);
    assert_false(late->over);
    upstream_abort(&late->upstream);
    caller_free(late);

    request.send_until_ms = clock_monotonic_ms() + 60 * 1000;
    assert_exchange(world, &request, "200 done");
    world_free(world);
}

/* --- callers that make trouble ---------------------------------------------------------------- */

static const struct fake_script ok_twice = {{REQUEST, SEND(OK_5), REQUEST, SEND(OK_5)}};

static const struct fake_script eventful = {{REQUEST,
                                             SEND("HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\n"
                                                  "Content-Length: 300000\r\n\r\n"),
                                             DO_N(FAKE_FILL, 300000)}};

static void any_callback_may_abort_or_let_go_of_the_pool(void **state)
{
    for (enum moment abort_at = NEVER; abort_at < N_MOMENTS; abort_at++) {
        for (enum moment unref_at = NEVER; unref_at < N_MOMENTS; unref_at++) {
            struct world *world = world_new();
            struct caller *caller = caller_new(world);
            (void)world_add(world, &eventful, 1);
            world_open(world);
            caller->abort_at = abort_at == AT_FAILED ? NEVER : abort_at;
            caller->unref_pool_at = unref_at;
            caller_start(caller, &request_post_big);
            caller_run(caller);
            caller_free(caller);
            world_free(world);
        }
    }
}

static void an_exchange_may_be_aborted_at_once(void **state)
{
    struct world *world = world_new();
    struct caller *caller = caller_new(world);

    (void)world_add(world, &ok_twice, 1);
    world_open(world);
    caller_start(caller, &request_post_5);
    upstream_abort(&caller->upstream);
    assert_null(caller->upstream);
    upstream_abort(&caller->upstream);
    world_run_ms(world, 20);
    assert_string_equal(caller->notes, "");
    assert_int_equal(upstream_pool_connections(world->pool), 0);
    caller_free(caller);
    world_free(world);
}

static void the_next_exchange_may_start_in_on_failed(void **state)
{
    struct world *world = world_new();
    struct caller *first = caller_new(world), *second = caller_new(world);

    world_add_refusing(world);
    world_open(world);
    first->next = second;
    caller_start(first, &request_get);
    caller_run(second);
    assert_string_equal(first->notes, "failed refused backend-unavailable");
    assert_string_equal(second->notes, "failed refused backend-unavailable");
    caller_free(first);
    caller_free(second);
    world_free(world);
}

static void a_released_pool_keeps_nothing(void **state)
{
    static const struct fake_script script = {
        {REQUEST, DO_N(FAKE_PAUSE, 30), SEND(OK_5), AWAIT("never")}};
    struct world *world = world_new();
    struct caller *caller = caller_new(world);

    (void)world_add(world, &script, 1);
    world_open(world);
    caller_start(caller, &request_get);
    upstream_pool_unref(&world->pool);
    assert_null(world->pool);
    caller_run(caller);
    assert_string_equal(caller->notes, "200 done");
    caller_free(caller);
    world_free(world);
}

/* --- chance ----------------------------------------------------------------------------------- */

enum { CHAOS_SCRIPTS = 16, CHAOS_CALLERS = 12, CHAOS_ROUNDS = 20 };

static unsigned below(unsigned bound)
{
    return (unsigned)random() % bound;
}

static void chaos_script(struct fake_script *script)
{
    static const struct fake_step answers[] = {
        SEND(OK_5),
        SEND("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        SEND("HTTP/1.1 100 x\r\n\r\n"),
        SEND("HTTP/1.1 204 x\r\n\r\n"),
        SEND("HTTP/1.1 200 OK\r\n\r\nhel"),
        SEND("HTTP/1.1 200 OK\r\nContent-Length: 50"),
        SEND("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel"),
        SEND("\r\n"),
        DRIP("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n\r\n"),
        DO_N(FAKE_PAUSE, 3),
        DO_N(FAKE_PAUSE, 60),
        DO_N(FAKE_FILL, 60000),
        REQUEST,
        REQUEST,
        REQUEST,
        DO(FAKE_DEAF),
        DO(FAKE_CLOSE),
        DO(FAKE_RESET),
        DO(FAKE_SHUT),
        DO(FAKE_HANG),
        DO(FAKE_AGAIN),
    };

    *script = (struct fake_script){{REQUEST}};
    for (size_t i = below(8) == 0 ? 0 : 1; i < FAKE_STEPS_MAX; i++)
        script->steps[i] = answers[below(i == 1 ? 7 : ARRAY_SIZE(answers))];
}

static void chaos_caller(struct caller *caller)
{
    static const struct upstream_request *const requests[] = {
        &request_get,    &request_get,          &request_head_only,
        &request_post_5, &request_post_chunked, &request_post_big};

    caller->abort_at = below(4) == 0 ? (enum moment)below(AT_FAILED) : NEVER;
    caller->read_in_head = below(2) == 0;
    caller->holds_upload = below(4) == 0;
    caller->never_finishes = below(8) == 0;
    caller->drain_ms = below(3) == 0 ? 1 + below(5) : 0;
    caller->to_upload = below(2) == 0 ? below(100) : below(300000);
    buf_init(&caller->sink, caller->drain_ms > 0 ? 20000 : 100 + below(5000));
    caller_start(caller, requests[below(ARRAY_SIZE(requests))]);
}

static void chaos_round(struct fake_script scripts[static CHAOS_SCRIPTS])
{
    struct world *world = world_new();
    struct caller *callers[CHAOS_CALLERS];

    for (size_t i = 0; i < CHAOS_SCRIPTS; i++)
        chaos_script(&scripts[i]);
    world->backend.connect_timeout_ms = 100;
    world->backend.response_timeout_ms = world->backend.idle_timeout_ms = 40;
    world->backend.keepalive_connections = below(4);
    world->backend.max_connections = 2 + below(16);
    (void)world_add(world, scripts, CHAOS_SCRIPTS / 2);
    (void)world_add_kind(world, FAKE_UNIX, scripts + CHAOS_SCRIPTS / 2, CHAOS_SCRIPTS / 2);
    if (below(3) == 0)
        world_add_refusing(world);
    world_open(world);
    for (size_t i = 0; i < CHAOS_CALLERS; i++) {
        callers[i] = caller_new(world);
        chaos_caller(callers[i]);
        world_run_ms(world, below(4));
    }
    if (below(4) == 0)
        upstream_pool_unref(&world->pool);
    /* A caller that owes bytes to a silent backend waits for itself: those are aborted below. */
    world_run_ms(world, 150);
    for (size_t i = 0; i < CHAOS_CALLERS; i++) {
        if (!callers[i]->over && !callers[i]->never_finishes && !callers[i]->holds_upload)
            (void)world_run_until(world, is_over, callers[i]);
        assert_true(callers[i]->n_over <= 1);
        if (!callers[i]->over && !callers[i]->never_finishes && !callers[i]->holds_upload)
            fail_msg("\"%s\", got %zu, gave %zu of %zu", callers[i]->notes, callers[i]->body_len,
                     callers[i]->uploaded, callers[i]->to_upload);
        caller_free(callers[i]);
    }
    if (world->pool != NULL)
        assert_true(upstream_pool_connections(world->pool) <= world->backend.keepalive_connections);
    world_free(world);
}

/* CHAOS_SEED repeats a run, CHAOS_ROUNDS prolongs it. */
static void chance_finds_nothing(void **state)
{
    const char *given = getenv("CHAOS_SEED");
    unsigned seed =
        given != NULL ? (unsigned)strtoul(given, NULL, 10) : (unsigned)clock_monotonic_us();
    static struct fake_script scripts[CHAOS_SCRIPTS];

    print_message("# CHAOS_SEED=%u\n", seed);
    srandom(seed);
    unsigned rounds = CHAOS_ROUNDS;
    if (getenv("CHAOS_ROUNDS") != NULL)
        rounds = (unsigned)strtoul(getenv("CHAOS_ROUNDS"), NULL, 10);
    for (unsigned i = 0; i < rounds; i++)
        chaos_round(scripts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_delivered_or_refused),
        cmocka_unit_test(a_caller_may_read_from_inside_on_head),
        cmocka_unit_test(unix_sockets_serve_as_well),
        cmocka_unit_test(large_answers_arrive_whole_whatever_the_sink),
        cmocka_unit_test(a_slow_caller_is_not_the_backends_idleness),
        cmocka_unit_test(large_requests_arrive_whole_in_generated_framing),
        cmocka_unit_test(an_empty_chunked_body_is_one_last_chunk),
        cmocka_unit_test(head_and_first_piece_leave_in_one_write),
        cmocka_unit_test(a_body_may_wait_for_an_interim_answer),
        cmocka_unit_test(early_answers_are_delivered_and_end_the_connection),
        cmocka_unit_test(what_the_backend_no_longer_takes_is_thrown_away),
        cmocka_unit_test(each_phase_has_its_deadline),
        cmocka_unit_test(an_unfinished_request_without_bytes_has_no_deadline),
        cmocka_unit_test(nothing_leaves_after_its_time),
        cmocka_unit_test(any_callback_may_abort_or_let_go_of_the_pool),
        cmocka_unit_test(an_exchange_may_be_aborted_at_once),
        cmocka_unit_test(the_next_exchange_may_start_in_on_failed),
        cmocka_unit_test(a_released_pool_keeps_nothing),
        cmocka_unit_test(chance_finds_nothing),
    };
    return cmocka_run_group_tests_name("upstream", tests, NULL, NULL);
}
