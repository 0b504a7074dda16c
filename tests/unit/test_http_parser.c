/* SPDX-License-Identifier: BSD-2-Clause */
/* HTTP messages as peers really and maliciously send them. Every input is played whole, byte by
 * byte and cut in two at every place, and must tell the same story each time. Pieces are copies of
 * exact size, so that a sanitizer sees every byte that is read too far. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <llhttp.h>

#include "gateway/base/buf.h"
#include "gateway/http/parser.h"

enum { STORY_SIZE = 8192, BODY_SIZE = 65536 };

static const struct http_parser_limits usual = {.head_max = 8192, .fields_max = 64};

struct play {
    enum http_parser_kind kind;
    struct http_parser_limits limits;
    bool no_body; /* http_parser_expect_no_body() before the first message */
    bool ends;    /* http_parser_feed_eof() after the last byte */
    struct str input;
};

struct story {
    char text[STORY_SIZE];
    size_t len;
};

static void tell(struct story *story, const char *format, ...) PRINTF_LIKE(2, 3);
static void tell(struct story *story, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int len = vsnprintf(story->text + story->len, sizeof(story->text) - story->len, format, args);
    va_end(args);
    assert_true(len >= 0 && (size_t)len < sizeof(story->text) - story->len);
    story->len += (size_t)len;
}

static const char *wire(enum reason reason)
{
    static const char *const names[] = {
#define ROW(name, wire_name, status, level, text) [REASON_##name] = wire_name,
        REASON_TABLE(ROW)
#undef ROW
    };

    return names[reason];
}

static void tell_head(struct story *story, enum http_parser_kind kind, const struct http_head *head)
{
    if (kind == HTTP_PARSER_REQUEST)
        tell(story, "%.*s %.*s", STR_ARGS(head->method), STR_ARGS(head->target));
    else
        tell(story, "%d (%.*s)", head->status, STR_ARGS(head->phrase));
    tell(story, " 1.%d", head->minor);
    switch (head->framing) {
    case HTTP_FRAMING_NONE:
        tell(story, " none");
        break;
    case HTTP_FRAMING_LENGTH:
        tell(story, " length");
        break;
    case HTTP_FRAMING_CHUNKED:
        tell(story, " chunked");
        break;
    case HTTP_FRAMING_EOF:
        tell(story, " eof");
        break;
    }
    if (head->has_length)
        tell(story, "=%llu", (unsigned long long)head->content_length);
    tell(story, "%s%s", head->keep_alive ? " keep" : " close",
         head->expect_continue ? " expect" : "");
    for (size_t i = 0; i < head->n_fields; i++)
        tell(story, " [%.*s|%.*s]", STR_ARGS(head->fields[i].name),
             STR_ARGS(head->fields[i].value));
}

static void tell_body(struct story *story, struct buf *body)
{
    struct str text = buf_peek(body);

    if (text.len > 0)
        tell(story, " {%.*s}", STR_ARGS(text));
    buf_consume(body, text.len);
}

/* Feeds one piece to its end; false when the story is over. */
static bool play_piece(const struct play *play, struct http_parser *parser, struct str piece,
                       struct buf *body, struct story *story)
{
    enum http_parse result;

    do {
        size_t used = SIZE_MAX;
        result = http_parser_feed(parser, piece.p, piece.len, body, &used);
        assert_true(used <= piece.len);
        piece = (struct str){piece.p + used, piece.len - used};
        switch (result) {
        case HTTP_PARSE_MORE:
            assert_int_equal(piece.len, 0);
            break;
        case HTTP_PARSE_HEAD:
            tell_head(story, play->kind, http_parser_head(parser));
            break;
        case HTTP_PARSE_COMPLETE:
            tell_body(story, body);
            tell(story, "; ");
            http_parser_next(parser);
            assert_true(http_parser_is_idle(parser));
            break;
        case HTTP_PARSE_ERROR:
            tell_body(story, body);
            tell(story, "! %s (%s)", wire(http_parser_error(parser)),
                 http_parser_error_text(parser));
            assert_int_equal(http_parser_feed(parser, "x", 1, body, &used), HTTP_PARSE_ERROR);
            return false;
        }
    } while (piece.len > 0 || result == HTTP_PARSE_HEAD);
    return true;
}

static void play_end(struct http_parser *parser, struct buf *body, struct story *story)
{
    enum http_parse result = http_parser_feed_eof(parser);

    tell_body(story, body);
    if (result == HTTP_PARSE_ERROR)
        tell(story, "! %s", wire(http_parser_error(parser)));
    else
        tell(story, result == HTTP_PARSE_COMPLETE ? ";" : "-");
}

/* The first piece has `first` bytes, the others `step`. */
static void play(const struct play *play, size_t first, size_t step, struct story *story)
{
    struct http_parser *parser = http_parser_new(play->kind, play->limits);
    struct buf body;
    bool goes_on = true;

    buf_init(&body, BODY_SIZE);
    story->len = 0;
    story->text[0] = '\0';
    if (play->no_body)
        http_parser_expect_no_body(parser);
    for (size_t at = 0, len = first; at < play->input.len && goes_on; at += len, len = step) {
        if (len > play->input.len - at)
            len = play->input.len - at;
        char *copy = malloc(len > 0 ? len : 1);
        assert_non_null(copy);
        memcpy(copy, play->input.p + at, len);
        goes_on = play_piece(play, parser, (struct str){copy, len}, &body, story);
        free(copy);
    }
    if (goes_on && play->ends)
        play_end(parser, &body, story);
    else if (goes_on)
        tell(story, http_parser_is_idle(parser) ? "-" : "...");
    buf_release(&body);
    http_parser_free(&parser);
    assert_null(parser);
}

static void check_story(const struct play *played, const char *expected, const struct story *story)
{
    size_t len = strlen(expected);

    /* A refusal's text is for people: the tables may leave it out. */
    if (strncmp(story->text, expected, len) == 0 &&
        (story->text[len] == '\0' || strncmp(story->text + len, " (", 2) == 0))
        return;
    print_error("input:    %.*s\nexpected: %s\nstory:    %s\n", STR_ARGS(played->input), expected,
                story->text);
    fail();
}

static void check(const struct play *played, const char *expected)
{
    static struct story whole, cut;

    play(played, played->input.len, played->input.len, &whole);
    check_story(played, expected, &whole);
    play(played, 1, 1, &cut);
    assert_string_equal(cut.text, whole.text);
    for (size_t first = 0; first < played->input.len; first++) {
        play(played, first, played->input.len, &cut);
        assert_string_equal(cut.text, whole.text);
    }
}

struct example {
    struct str input;
    const char *story;
};

static void check_all(enum http_parser_kind kind, const struct example *examples, size_t n)
{
    for (size_t i = 0; i < n; i++)
        check(&(struct play){.kind = kind, .limits = usual, .input = examples[i].input},
              examples[i].story);
}

#define HOST    "Host: a\r\n"
#define CHUNKED "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
#define TOLD    "POST / 1.1 chunked keep [Host|a] [Transfer-Encoding|chunked]"

static void requests_are_read_one_after_the_other(void **state)
{
    static const struct example examples[] = {
        {STR(""), "-"},
        {STR("GET / HTTP/1.1\r\n" HOST "\r\n"), "GET / 1.1 none keep [Host|a]; -"},
        {STR("GET / HTTP/1.0\r\n\r\n"), "GET / 1.0 none close; -"},
        {STR("GET / HTTP/1.0\r\nConnection: Foo ,Keep-Alive\r\n\r\n"),
         "GET / 1.0 none keep [Connection|Foo ,Keep-Alive]; -"},
        {STR("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"),
         "GET / 1.0 none close [Connection|keep-alive, close]; -"},
        {STR("GET /a?b HTTP/1.1\r\nhOST: a:80\r\nConnection: x\r\nconnection: CLOSE\r\n\r\n"),
         "GET /a?b 1.1 none close [hOST|a:80] [Connection|x] [connection|CLOSE]; -"},
        {STR("GET / HTTP/1.1\r\n" HOST "Connection: closed\r\n\r\n"),
         "GET / 1.1 none keep [Host|a] [Connection|closed]; -"},
        {STR("GET / HTTP/1.1\r\n" HOST
             "A:\r\nB: \t \r\nC:x\r\nD: \t x y\tz \t\r\nE: \x80\xff\r\n\r\n"),
         "GET / 1.1 none keep [Host|a] [A|] [B|] [C|x] [D|x y\tz] [E|\x80\xff]; -"},
        {STR("\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n\r\n\r"),
         "GET / 1.1 none keep [Host|a]; -"},
        {STR("GET /1 HTTP/1.1\r\n" HOST "\r\nGET /2 HTTP/1.1\r\n" HOST "\r\nGET /3"),
         "GET /1 1.1 none keep [Host|a]; GET /2 1.1 none keep [Host|a]; ..."},
        {STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhelloPUT / HTTP/1.1\r\n" HOST
             "content-length: 0\r\n\r\n"),
         "POST / 1.1 length=5 keep [Host|a] [Content-Length|5] {hello}; "
         "PUT / 1.1 length=0 keep [Host|a] [content-length|0]; -"},
        {STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhell"),
         "POST / 1.1 length=5 keep [Host|a] [Content-Length|5]..."},
        {STR("POST / HTTP/1.1\r\n" HOST "Content-Length:   0003  \r\n\r\n\r\n\r"),
         "POST / 1.1 length=3 keep [Host|a] [Content-Length|0003] {\r\n\r}; -"},
        {STR("POST / HTTP/1.0\r\nContent-Length: 18446744073709551615\r\n\r\na"),
         "POST / 1.0 length=18446744073709551615 close [Content-Length|18446744073709551615]..."},
        {STR("PATCH / HTTP/1.1\r\n" HOST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx"),
         "PATCH / 1.1 length=1 keep expect [Host|a] [Expect|100-Continue] [Content-Length|1] {x}; "
         "-"},
        {STR("PATCH / HTTP/1.0\r\n" HOST "Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx"),
         "PATCH / 1.0 length=1 close [Host|a] [Expect|100-continue] [Content-Length|1] {x}; -"},
        {STR("PATCH / HTTP/1.1\r\n" HOST "Expect: 100-continue, x\r\n\r\n"),
         "PATCH / 1.1 none keep [Host|a] [Expect|100-continue, x]; -"},
        {STR("OPTIONS * HTTP/1.1\r\n" HOST "\r\n"), "OPTIONS * 1.1 none keep [Host|a]; -"},
        {STR("GET http://a/b HTTP/1.1\r\n" HOST "\r\n"),
         "GET http://a/b 1.1 none keep [Host|a]; -"},
        {STR("M-SEARCH / HTTP/1.1\r\n" HOST "\r\n"), "M-SEARCH / 1.1 none keep [Host|a]; -"},
        /* Upgrade is not followed: neither is the body lost, nor what comes behind. */
        {STR("POST / HTTP/1.1\r\n" HOST "Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: "
             "2\r\n\r\nabGET /2 HTTP/1.1\r\n" HOST
             "Upgrade: h2c\r\nConnection: upgrade\r\n\r\nGET /3 HTTP/1.0\r\n\r\n"),
         "POST / 1.1 length=2 keep [Host|a] [Upgrade|h2c] [Connection|upgrade] [Content-Length|2] "
         "{ab}; "
         "GET /2 1.1 none keep [Host|a] [Upgrade|h2c] [Connection|upgrade]; GET /3 1.0 none close; "
         "-"},
    };

    check_all(HTTP_PARSER_REQUEST, examples, ARRAY_SIZE(examples));
}

static void chunked_bodies_lose_their_framing(void **state)
{
    static const struct example examples[] = {
        {STR(CHUNKED "0\r\n\r\n"), TOLD "; -"},
        {STR(CHUNKED "5\r\nhello\r\n0\r\n\r\n"), TOLD " {hello}; -"},
        {STR(CHUNKED "5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.0\r\n\r\n"),
         TOLD " {hello}; GET / 1.0 none close; -"},
        {STR(CHUNKED "a\r\n0123456789\r\nB\r\n\r\n0\r\n\r\n\r\n\r\n\r\n00\r\n\r\n"),
         TOLD " {0123456789\r\n0\r\n\r\n\r\n\r\n}; -"},
        {STR(CHUNKED "0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n"), TOLD " {hello}; -"},
        {STR(CHUNKED "5;a\r\nhello\r\n1;b=c\r\n!\r\n0;d=\"e f\"\r\n\r\n"), TOLD " {hello!}; -"},
        {STR(CHUNKED "1\r\na\r\n2\r\nbc\r\n1\r\n\n\r\n0\r\n\r\n"), TOLD " {abc\n}; -"},
        {STR(CHUNKED "1\r\na\r\n0\r\nT: x\r\nDEADBEEFDEADBEEF0: y\r\nX-Y:\r\n\r\n"),
         TOLD " {a}; -"},
        {STR(CHUNKED "5\r\nhello\r\n0\r\n\r"), TOLD "..."},
        {STR("POST / HTTP/1.1\r\n" HOST
             "TRANSFER-ENCODING:CHUNKED\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
             "1\r\na\r\n0\r\nUpgrade: y\r\nConnection: upgrade\r\n\r\n"),
         "POST / 1.1 chunked keep [Host|a] [TRANSFER-ENCODING|CHUNKED] [Upgrade|x] "
         "[Connection|upgrade] {a}; -"},
    };

    check_all(HTTP_PARSER_REQUEST, examples, ARRAY_SIZE(examples));
}

static void responses_are_read_one_after_the_other(void **state)
{
    static const struct example examples[] = {
        {STR("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 404 \r\nContent-Length: "
             "0\r\n\r\n"),
         "200 (OK) 1.1 length=2 keep [Content-Length|2] {hi}; 404 () 1.1 length=0 keep "
         "[Content-Length|0]; -"},
        {STR("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"),
         "200 () 1.1 length=0 keep [Content-Length|0]; -"},
        {STR("HTTP/1.1 200 A\tB \x80 \r\nContent-Length: 0\r\n\r\n"),
         "200 (A\tB \x80 ) 1.1 length=0 keep [Content-Length|0]; -"},
        {STR("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
         "200 (OK) 1.0 length=0 close [Content-Length|0]; -"},
        {STR("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"),
         "200 (OK) 1.0 length=0 keep [Connection|keep-alive] [Content-Length|0]; -"},
        {STR("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
         "200 (OK) 1.1 length=0 close [Connection|close] [Content-Length|0]; -"},
        {STR("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
         "200 (OK) 1.1 chunked keep [Transfer-Encoding|chunked] {abc}; -"},
        {STR("HTTP/1.1 200 OK\r\nUpgrade: h2\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\na"),
         "200 (OK) 1.1 length=1 keep [Upgrade|h2] [Connection|upgrade] [Content-Length|1] {a}; -"},
        {STR("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 599 "
             "Z\r\nContent-Length: 1"
             "\r\n\r\n!"),
         "100 (Continue) 1.1 none keep; 103 (Early Hints) 1.1 none keep [Link|x]; 599 (Z) 1.1 "
         "length=1 keep "
         "[Content-Length|1] {!}; -"},
        {STR("HTTP/1.1 204 No\r\n\r\nHTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\nHTTP/1.1 304 "
             "Not\r\nContent-Length: 3\r\n\r\n"
             "HTTP/1.1 304 Not\r\nTransfer-Encoding: chunked\r\n\r\n"),
         "204 (No) 1.1 none keep; 204 (No) 1.1 none=3 keep [Content-Length|3]; 304 (Not) 1.1 "
         "none=3 keep "
         "[Content-Length|3]; 304 (Not) 1.1 none keep [Transfer-Encoding|chunked]; -"},
    };

    check_all(HTTP_PARSER_RESPONSE, examples, ARRAY_SIZE(examples));
}

static void answers_to_head_have_no_body_until_a_final_one_is_read(void **state)
{
    struct play played = {
        .kind = HTTP_PARSER_RESPONSE,
        .limits = usual,
        .no_body = true,
        .input = STR("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
                     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!"),
    };

    check(&played, "100 (Continue) 1.1 none keep; 200 (OK) 1.1 none=5 keep [Content-Length|5]; "
                   "200 (OK) 1.1 length=1 keep [Content-Length|1] {!}; -");
    played.input =
        STR("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\n\r\n!");
    check(&played, "200 (OK) 1.1 none keep [Transfer-Encoding|chunked]; 200 (OK) 1.1 eof close...");
    played.input = STR("HTTP/1.1 200 OK\r\n\r\n");
    check(&played, "200 (OK) 1.1 none keep; -");
}

static void the_end_of_the_connection_is_an_end_or_a_cut(void **state)
{
    static const struct {
        enum http_parser_kind kind;
        struct str input;
        const char *story;
    } cases[] = {
        {HTTP_PARSER_REQUEST, STR(""), "-"},
        {HTTP_PARSER_REQUEST, STR("\r\n\r"), "-"},
        {HTTP_PARSER_REQUEST, STR("G"), "! closed-by-peer"},
        {HTTP_PARSER_REQUEST, STR("GET / HTTP/1.0\r\n\r\n"), "GET / 1.0 none close; -"},
        {HTTP_PARSER_REQUEST, STR("POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\na"),
         "POST / 1.0 length=2 close [Content-Length|2] {a}! closed-by-peer"},
        {HTTP_PARSER_REQUEST, STR(CHUNKED "1\r\na\r\n0\r\n"), TOLD " {a}! closed-by-peer"},
        {HTTP_PARSER_RESPONSE, STR(""), "-"},
        {HTTP_PARSER_RESPONSE, STR("H"), "! backend-broken"},
        {HTTP_PARSER_RESPONSE, STR("HTTP/1.1 200 OK\r\n\r\n"), "200 (OK) 1.1 eof close;"},
        {HTTP_PARSER_RESPONSE, STR("HTTP/1.1 200 OK\r\n\r\nab\r\ncHTTP/1.1 200 OK\r\n\r\n"),
         "200 (OK) 1.1 eof close {ab\r\ncHTTP/1.1 200 OK\r\n\r\n};"},
        {HTTP_PARSER_RESPONSE, STR("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nx"),
         "200 (OK) 1.0 eof close [Connection|keep-alive] {x};"},
        {HTTP_PARSER_RESPONSE, STR("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na"),
         "200 (OK) 1.1 length=2 keep [Content-Length|2] {a}! backend-broken"},
        {HTTP_PARSER_RESPONSE, STR("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
         "200 (OK) 1.1 chunked keep [Transfer-Encoding|chunked]! backend-broken"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        check(&(struct play){.kind = cases[i].kind,
                             .limits = usual,
                             .input = cases[i].input,
                             .ends = true},
              cases[i].story);
    }
}

static void requests_that_can_be_read_in_two_ways_are_refused(void **state)
{
    static const struct str malformed[] = {
        /* line ends */
        STR("GET / HTTP/1.1\nHost: a\n\n"),
        STR("GET / HTTP/1.1\nHost: a\r\n\r\n"),
        STR("GET / HTTP/1.1\r\nHost: a\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "\n"),
        STR("GET / HTTP/1.1\rHost: a\r\r"),
        STR("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n"),
        STR("GET / HTTP/1.1\r\nHost: a\r\rX: b\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "\rX"),
        STR("GET / HTTP/1.1\r\nX: a\r\r\n" HOST "\r\n"),
        STR("\nGET / HTTP/1.1\r\n" HOST "\r\n"),
        STR("\rGET / HTTP/1.1\r\n" HOST "\r\n"),
        STR("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n"),
        /* start lines */
        STR(" GET / HTTP/1.1\r\n" HOST "\r\n"),
        STR("GET  / HTTP/1.1\r\n" HOST "\r\n"),
        STR("GET /  HTTP/1.1\r\n" HOST "\r\n"),
        STR("GET / HTTP/1.1 \r\n" HOST "\r\n"),
        STR("GET\t/ HTTP/1.1\r\n" HOST "\r\n"),
        STR("GET /\tHTTP/1.1\r\n" HOST "\r\n"),
        STR("GET /a b HTTP/1.1\r\n" HOST "\r\n"),
        STR("GET /\r\n\r\n"),
        STR("GET\r\n\r\n"),
        STR("GET / \r\n" HOST "\r\n"),
        STR("GET  HTTP/1.1\r\n" HOST "\r\n"),
        STR("GET HTTP/1.1\r\n" HOST "\r\n"),
        STR("G@T / HTTP/1.1\r\n" HOST "\r\n"),
        STR("GET/ HTTP/1.1\r\n" HOST "\r\n"),
        STR("GET a HTTP/1.1\r\n" HOST "\r\n"),
        STR("GET /\x80 HTTP/1.1\r\n" HOST "\r\n"),
        STR("GET / http/1.1\r\n" HOST "\r\n"),
        STR("GET / HTTP/1.\r\n" HOST "\r\n"),
        STR("GET / HTTP/1.10\r\n" HOST "\r\n"),
        STR("GET / HTTP/01.1\r\n" HOST "\r\n"),
        STR("GET / HTTP/1,1\r\n" HOST "\r\n"),
        STR("GET / HTTP/1.x\r\n" HOST "\r\n"),
        STR("GET / RTSP/1.0\r\n" HOST "\r\n"),
        STR("GET / ICE/1.0\r\n" HOST "\r\n"),
        STR("SOURCE / ICE/1.0\r\n" HOST "\r\n"),
        STR("ANNOUNCE / RTSP/1.0\r\n" HOST "\r\n"),
        /* fields */
        STR("GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        STR("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n\tHost: a\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "X: y\r\n z\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "X: y\r\n\tz\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "X:\r\n \r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "X: y\r\n \r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST ": y\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "X\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "X y: z\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "X\xff: z\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "\"X\": z\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "X: a\0b\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "X: a\x7f\r\n\r\n"),
        STR("GET / HTTP/1.1\r\n" HOST "X: \x0b"
            "a\r\n\r\n"),
        STR("\0GET / HTTP/1.1\r\n" HOST "\r\n"),
        STR("\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),
        /* hosts */
        STR("GET / HTTP/1.1\r\n\r\n"),
        STR("GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        STR("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        STR("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n"),
        STR("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        STR("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        STR("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
        STR("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        STR("GET / HTTP/1.0\r\nHost: a:b\r\n\r\n"),
        /* lengths */
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        STR("POST / HTTP/1.1\r\n" HOST
            "Content-Length: 5\r\nX: y\r\ncontent-length: 5\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 5, 5\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 5,\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: +5\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: -0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 0x5\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 5 5\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 5;\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 5.0\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 1_0\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: \"5\"\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551616\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Content-Length: \xd9\xa5\r\n\r\nhello"),
        /* codings */
        STR("POST / HTTP/1.1\r\n" HOST
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST
            "Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\nContent-Length: 5\r\n\r\nhello"),
        STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST
            "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chun ked\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n"),
        STR("POST / HTTP/1.1\r\n" HOST
            "Content-Length: 5\r\nTransfer-Encoding: identity\r\n\r\nhello"),
    };

    for (size_t i = 0; i < ARRAY_SIZE(malformed); i++)
        check(&(struct play){.limits = usual, .input = malformed[i]}, "! request-malformed");
}

static void what_is_only_not_spoken_here_is_said_so(void **state)
{
    static const struct example examples[] = {
        {STR("GET / HTTP/2.0\r\n\r\n"), "! request-version-unsupported"},
        {STR("GET / HTTP/1.2\r\n\r\n"), "! request-version-unsupported"},
        {STR("GET / HTTP/0.9\r\n\r\n"), "! request-version-unsupported"},
        {STR("GET / HTTP/3.0\r\n\r\n"), "! request-version-unsupported"},
        {STR("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "! request-version-unsupported"},
        {STR("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), "! request-method-unsupported"},
        {STR("CONNECT / HTTP/1.1\r\n" HOST "\r\n"), "! request-method-unsupported"},
        {STR("FOO / HTTP/1.1\r\n" HOST "\r\n"), "! request-method-unsupported"},
        {STR("get / HTTP/1.1\r\n" HOST "\r\n"), "! request-method-unsupported"},
        {STR("GETX / HTTP/1.1\r\n" HOST "\r\n"), "! request-method-unsupported"},
        {STR("GE / HTTP/1.1\r\n" HOST "\r\n"), "! request-method-unsupported"},
        {STR("PRI / HTTP/1.1\r\n" HOST "\r\n"), "! request-method-unsupported"},
        {STR("DESCRIBE / HTTP/1.1\r\n" HOST "\r\n"), "! request-method-unsupported"},
        {STR("FLUSH / HTTP/1.1\r\n" HOST "\r\n"), "! request-method-unsupported"},
        {STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip\r\n\r\n"),
         "! request-coding-unsupported"},
        {STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n"),
         "! request-coding-unsupported"},
        {STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n"),
         "! request-coding-unsupported"},
        {STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n"),
         "! request-coding-unsupported"},
        {STR("POST / HTTP/1.1\r\n" HOST
             "Transfer-Encoding: gzip;q=1\r\nTransfer-Encoding: chunked\r\n\r\n"),
         "! request-coding-unsupported"},
    };

    check_all(HTTP_PARSER_REQUEST, examples, ARRAY_SIZE(examples));
}

static void odd_chunk_framing_is_refused_behind_what_was_sound(void **state)
{
    static const struct example examples[] = {
        {STR(CHUNKED "\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5\rhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5\r\rhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5\r\nhello\n0\r\n\r\n"), TOLD " {hello}! request-malformed"},
        {STR(CHUNKED "5\r\nhello\r0\r\n\r\n"), TOLD " {hello}! request-malformed"},
        {STR(CHUNKED "5\r\nhello0\r\n\r\n"), TOLD " {hello}! request-malformed"},
        {STR(CHUNKED "5\r\nhelloo\r\n0\r\n\r\n"), TOLD " {hello}! request-malformed"},
        {STR(CHUNKED "5\r\nhello\r\n0\n\n"), TOLD " {hello}! request-malformed"},
        {STR(CHUNKED "5\r\nhello\r\n0\r\n\n"), TOLD " {hello}! request-malformed"},
        {STR(CHUNKED "5\r\nhello\r\n0\r\n\rX"), TOLD " {hello}! request-malformed"},
        {STR(CHUNKED "+5\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "-5\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "0x5\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED " 5\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5 \r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5\t\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5 ;a=b\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5_0\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "g\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "00000000000000005\r\nhello\r\n0\r\n\r\n"),
         TOLD "! request-malformed (a chunk size of too"},
        {STR(CHUNKED "1\r\na\r\n00000000000000000\r\n\r\n"),
         TOLD " {a}! request-malformed (a chunk size of too"},
        {STR(CHUNKED "10000000000000005\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5;a\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5;a\rb\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5;a=\x01\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "5;a=\"\x7f\"\r\nhello\r\n0\r\n\r\n"), TOLD "! request-malformed"},
        {STR(CHUNKED "1\r\na\r\n0\r\nT: x\n\r\n"), TOLD " {a}! request-malformed"},
        {STR(CHUNKED "1\r\na\r\n0\r\nT: x\r\n y\r\n\r\n"), TOLD " {a}! request-malformed"},
        {STR(CHUNKED "1\r\na\r\n0\r\n T: x\r\n\r\n"), TOLD " {a}! request-malformed"},
        {STR(CHUNKED "1\r\na\r\n0\r\nT : x\r\n\r\n"), TOLD " {a}! request-malformed"},
        {STR(CHUNKED "1\r\na\r\n0\r\nT\r\n\r\n"), TOLD " {a}! request-malformed"},
        {STR(CHUNKED "1\r\na\r\n0\r\nT: x\0\r\n\r\n"), TOLD " {a}! request-malformed"},
        {STR(CHUNKED "1\r\na\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
         TOLD " {a}! request-malformed"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        struct play played = {.limits = usual, .input = examples[i].input};
        static struct story story;
        play(&played, played.input.len, 1, &story);
        assert_memory_equal(story.text, examples[i].story, strlen(examples[i].story));
        /* The text belongs to the story here as well: it is the same whatever the cuts. */
        check(&played, story.text);
    }
}

static void responses_that_can_be_read_in_two_ways_are_refused(void **state)
{
    static const struct str invalid[] = {
        STR("\r\nHTTP/1.1 200 OK\r\n\r\n"),
        STR("HTTP/1.1 200 OK\n\n"),
        STR("HTTP/1.1 200 OK\r\nX: y\rZ: a\r\n\r\n"),
        STR("HTTP/1.1  200 OK\r\n\r\n"),
        STR("HTTP/1.1 20 OK\r\n\r\n"),
        STR("HTTP/1.1 2000 OK\r\n\r\n"),
        STR("HTTP/1.1 +20 OK\r\n\r\n"),
        STR("HTTP/1.1 2x0 OK\r\n\r\n"),
        STR("HTTP/1.1 000 OK\r\n\r\n"),
        STR("HTTP/1.1 099 OK\r\n\r\n"),
        STR("HTTP/1.1 600 OK\r\n\r\n"),
        STR("HTTP/1.1 200\tOK\r\n\r\n"),
        STR("HTTP/1.1\r\n\r\n"),
        STR("HTTP/1.1 \r\n\r\n"),
        STR("HTTP/1.1 200 O\x01K\r\n\r\n"),
        STR("HTTP/2.0 200 OK\r\n\r\n"),
        STR("HTTP/1.2 200 OK\r\n\r\n"),
        STR("HTTP/0.9 200 OK\r\n\r\n"),
        STR("http/1.1 200 OK\r\n\r\n"),
        STR("ICY 200 OK\r\n\r\n"),
        STR("RTSP/1.0 200 OK\r\n\r\n"),
        STR("HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        STR("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: "
            "upgrade\r\n\r\n"),
        STR("HTTP/1.1 200 OK\r\n: y\r\n\r\n"),
        STR("HTTP/1.1 200 OK\r\nX : y\r\n\r\n"),
        STR("HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n"),
        STR("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"),
        STR("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\na"),
        STR("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        STR("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
        STR("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        STR("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        STR("HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n"),
        STR("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        STR("HTTP/1.1 304 Not\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        STR("HTTP/1.1 204 No\r\nTransfer-Encoding: gzip\r\n\r\n"),
    };

    for (size_t i = 0; i < ARRAY_SIZE(invalid); i++) {
        check(&(struct play){.kind = HTTP_PARSER_RESPONSE, .limits = usual, .input = invalid[i]},
              "! backend-invalid");
    }
    check(&(struct play){.kind = HTTP_PARSER_RESPONSE,
                         .limits = usual,
                         .input = STR("HTTP/1.1 200 OK\r\nTransfer-Encoding: "
                                      "chunked\r\n\r\n1\r\na\r\n1\nb\r\n0\r\n\r\n")},
          "200 (OK) 1.1 chunked keep [Transfer-Encoding|chunked] {a}! backend-invalid");
}

/* RFC 9110, 5.6.2. */
static bool is_tchar(int c)
{
    return c != 0 && c < 0x80 &&
           ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
            strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_text(int c)
{
    return c == '\t' || (c >= ' ' && c != 0x7f);
}

static void every_byte_is_judged_by_where_it_stands(void **state)
{
    static struct story story;
    char input[64];

    for (int c = 0; c < 256; c++) {
        struct play played = {.limits = usual};

        int len = snprintf(input, sizeof(input), "GET / HTTP/1.0\r\na%cb: x\r\n\r\n", c);
        played.input = (struct str){input, (size_t)len};
        play(&played, 1, 1, &story);
        assert_int_equal(story.text[0] == 'G', is_tchar(c) || c == ':');

        len = snprintf(input, sizeof(input), "GET / HTTP/1.0\r\n%cb: x\r\n\r\n", c);
        played.input = (struct str){input, (size_t)len};
        play(&played, 1, 1, &story);
        assert_int_equal(story.text[0] == 'G', is_tchar(c));

        len = snprintf(input, sizeof(input), "GET / HTTP/1.0\r\na: x%cy\r\n\r\n", c);
        played.input = (struct str){input, (size_t)len};
        play(&played, 1, 1, &story);
        assert_int_equal(story.text[0] == 'G', is_text(c));

        len = snprintf(input, sizeof(input), "GET /%c HTTP/1.0\r\n\r\n", c);
        played.input = (struct str){input, (size_t)len};
        play(&played, 1, 1, &story);
        assert_int_equal(story.text[0] == 'G', c > ' ' && c < 0x7f);

        len = snprintf(input, sizeof(input), "HTTP/1.0 200 a%cb\r\n\r\n", c);
        played = (struct play){.kind = HTTP_PARSER_RESPONSE,
                               .limits = usual,
                               .input = {input, (size_t)len}};
        play(&played, 1, 1, &story);
        assert_int_equal(story.text[0] == '2', is_text(c));
    }
}

static void heads_are_bounded_in_bytes_and_fields(void **state)
{
    const struct str input = STR("GET / HTTP/1.0\r\nA: b\r\nC: d\r\n\r\n");
    const char *const understood = "GET / 1.0 none close [A|b] [C|d]; -";
    struct play played = {.limits = {.head_max = input.len, .fields_max = 2}, .input = input};

    check(&played, understood);
    played.limits.head_max--;
    check(&played, "! request-head-too-large");
    played.limits = (struct http_parser_limits){.head_max = input.len, .fields_max = 1};
    check(&played, "! request-head-too-large");
    played.limits = (struct http_parser_limits){.head_max = 5, .fields_max = 1};
    check(&played, "! request-head-too-large");

    /* Empty lines before a request are not the request's. */
    played = (struct play){.limits = {.head_max = input.len, .fields_max = 2},
                           .input = STR("\r\n\r\nGET / HTTP/1.0\r\nA: b\r\nC: d\r\n\r\n")};
    check(&played, understood);

    played = (struct play){.kind = HTTP_PARSER_RESPONSE,
                           .limits = {.head_max = 22, .fields_max = 1},
                           .input = STR("HTTP/1.1 200 \r\nA: b\r\n\r\n")};
    check(&played, "! backend-invalid");
    played.limits.head_max = 23;
    check(&played, "200 () 1.1 eof close [A|b]...");
    played.limits.fields_max = 0;
    check(&played, "! backend-invalid");
}

static void large_heads_arrive_in_small_pieces(void **state)
{
    static char input[8192];
    static struct story story;
    size_t len = (size_t)snprintf(input, sizeof(input), "GET / HTTP/1.0\r\n");

    for (int i = 0; i < 60; i++)
        len += (size_t)snprintf(input + len, sizeof(input) - len, "Field-%d: %0100d\r\n", i, i);
    len += (size_t)snprintf(input + len, sizeof(input) - len, "\r\n");
    struct play played = {.limits = usual, .input = {input, len}};
    for (size_t step = 1; step < 700; step += 37) {
        play(&played, step, step, &story);
        assert_non_null(strstr(story.text, " [Field-59|"));
        assert_non_null(strstr(story.text, "59]; -"));
    }
}

static void extensions_and_trailers_are_bounded_over_the_message(void **state)
{
    struct play played = {
        .limits = {.head_max = 64, .fields_max = 2},
        .input = STR(CHUNKED "1;a\r\na\r\n1;b\r\nb\r\n1;c\r\nc\r\n0\r\nT: "
                             "0123456789012345678901234567890123456789012345678901\r\n"
                             "\r\n"),
    };

    /* The head itself has 58 bytes; three times ";x", then 55 bytes of a trailer: 61. */
    check(&played, TOLD " {abc}; -");
    played.limits.head_max = 60;
    check(&played,
          TOLD " {abc}! request-malformed (too many bytes in chunk extensions and trailers)");
}

static void connection_options_are_bounded(void **state)
{
    static struct story story;
    static char input[4096];
    size_t len = (size_t)snprintf(input, sizeof(input), "GET / HTTP/1.0\r\nConnection: a");

    for (int i = 1; i < 32; i++)
        len += (size_t)snprintf(input + len, sizeof(input) - len, ",a");
    struct play played = {.limits = usual, .input = {input, len + 4}};
    memcpy(input + len, "\r\n\r\n", 4);
    play(&played, 1, 1, &story);
    assert_int_equal(story.text[0], 'G');
    memcpy(input + len, ",\r\n\r\n", 5);
    played.input.len++;
    check(&played, "! request-malformed");
}

static void bodies_land_in_the_buffer_as_they_are(void **state)
{
    static const char head[] = "POST / HTTP/1.0\r\nContent-Length: 100000\r\n\r\n";
    struct http_parser *parser = http_parser_new(HTTP_PARSER_REQUEST, usual);
    static char data[3000];
    struct buf body;
    size_t used, total = 0;

    buf_init(&body, sizeof(data));
    assert_int_equal(http_parser_feed(parser, head, sizeof(head) - 1, NULL, &used),
                     HTTP_PARSE_HEAD);
    assert_int_equal(used, sizeof(head) - 1);
    while (total < 100000) {
        for (size_t i = 0; i < sizeof(data); i++)
            data[i] = (char)(total + i);
        enum http_parse result = http_parser_feed(parser, data, sizeof(data), &body, &used);
        total += used;
        assert_int_equal(result, total < 100000 ? HTTP_PARSE_MORE : HTTP_PARSE_COMPLETE);
        assert_int_equal(buf_len(&body), used);
        assert_memory_equal(buf_peek(&body).p, data, used);
        buf_consume(&body, used);
    }
    assert_int_equal(total, 100000);
    http_parser_free(&parser);
    buf_release(&body);
}

static void bytes_of_a_body_may_pass_by_the_parser(void **state)
{
    static const char length[] = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
    static const char until_end[] = "HTTP/1.1 200 OK\r\n\r\n";
    static const char chunked[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    struct http_parser *parser = http_parser_new(HTTP_PARSER_RESPONSE, usual);
    struct buf body;
    size_t used, at;

    buf_init(&body, 100);
    assert_int_equal(http_parser_verbatim(parser), 0);
    assert_int_equal(http_parser_feed(parser, length, sizeof(length) - 1, NULL, &at),
                     HTTP_PARSE_HEAD);
    assert_int_equal(http_parser_verbatim(parser), 10);
    assert_int_equal(http_parser_feed(parser, length + at, 3, &body, &used), HTTP_PARSE_MORE);
    assert_int_equal(http_parser_verbatim(parser), 7);
    assert_int_equal(http_parser_pass(parser, 6), HTTP_PARSE_MORE);
    assert_int_equal(http_parser_pass(parser, 1), HTTP_PARSE_COMPLETE);
    assert_int_equal(http_parser_verbatim(parser), 0);

    http_parser_next(parser);
    assert_int_equal(http_parser_feed(parser, chunked, sizeof(chunked) - 1, NULL, &used),
                     HTTP_PARSE_HEAD);
    assert_int_equal(http_parser_verbatim(parser), 0);
    assert_int_equal(http_parser_feed(parser, "0\r\n\r\n", 5, &body, &used), HTTP_PARSE_COMPLETE);

    http_parser_next(parser);
    assert_int_equal(http_parser_feed(parser, until_end, sizeof(until_end) - 1, NULL, &used),
                     HTTP_PARSE_HEAD);
    assert_int_equal(http_parser_pass(parser, UINT64_C(1) << 40), HTTP_PARSE_MORE);
    assert_int_equal(http_parser_verbatim(parser), UINT64_MAX);
    assert_int_equal(http_parser_feed_eof(parser), HTTP_PARSE_COMPLETE);
    http_parser_free(&parser);
    buf_release(&body);
}

static int take_no_body(llhttp_t *llhttp)
{
    return 1;
}

static int pause_behind(llhttp_t *llhttp)
{
    return HPE_PAUSED;
}

/* The parser relies on both, in whatever version of llhttp is installed: that a pause ends right
 * behind the message, and that its word on missing bodies counts more than Content-Length. */
static void llhttp_pauses_behind_a_message_and_can_be_told_of_no_body(void **state)
{
    static const llhttp_settings_t settings = {.on_headers_complete = take_no_body,
                                               .on_message_complete = pause_behind};
    static const struct str responses[] = {
        STR("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        STR("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n"),
        STR("HTTP/1.1 304 Not\r\nTransfer-Encoding: chunked\r\n\r\n"),
        STR("HTTP/1.1 100 Continue\r\n\r\n"),
    };

    for (size_t i = 0; i < ARRAY_SIZE(responses); i++) {
        char input[128];
        llhttp_t llhttp;
        int len = snprintf(input, sizeof(input), "%.*sHTTP/1.1", STR_ARGS(responses[i]));

        llhttp_init(&llhttp, HTTP_RESPONSE, &settings);
        assert_int_equal(llhttp_execute(&llhttp, input, (size_t)len), HPE_PAUSED);
        assert_ptr_equal(llhttp_get_error_pos(&llhttp), input + responses[i].len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_read_one_after_the_other),
        cmocka_unit_test(chunked_bodies_lose_their_framing),
        cmocka_unit_test(responses_are_read_one_after_the_other),
        cmocka_unit_test(answers_to_head_have_no_body_until_a_final_one_is_read),
        cmocka_unit_test(the_end_of_the_connection_is_an_end_or_a_cut),
        cmocka_unit_test(requests_that_can_be_read_in_two_ways_are_refused),
        cmocka_unit_test(what_is_only_not_spoken_here_is_said_so),
        cmocka_unit_test(odd_chunk_framing_is_refused_behind_what_was_sound),
        cmocka_unit_test(responses_that_can_be_read_in_two_ways_are_refused),
        cmocka_unit_test(every_byte_is_judged_by_where_it_stands),
        cmocka_unit_test(heads_are_bounded_in_bytes_and_fields),
        cmocka_unit_test(large_heads_arrive_in_small_pieces),
        cmocka_unit_test(extensions_and_trailers_are_bounded_over_the_message),
        cmocka_unit_test(connection_options_are_bounded),
        cmocka_unit_test(bodies_land_in_the_buffer_as_they_are),
        cmocka_unit_test(bytes_of_a_body_may_pass_by_the_parser),
        cmocka_unit_test(llhttp_pauses_behind_a_message_and_can_be_told_of_no_body),
    };
    return cmocka_run_group_tests_name("http_parser", tests, NULL, NULL);
}
