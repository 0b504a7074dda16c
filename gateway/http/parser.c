/* SPDX-License-Identifier: BSD-2-Clause */
/* Two readers look at every byte that frames a message, and a message passes only if both are
 * content.
 *
 * The first knows nothing but lines (lines.h): each ends with CRLF, holds no control
 * bytes, and does not begin with white space. It gathers a head in one piece of memory and finds
 * its end. The second is llhttp, which then reads that piece at once: therefore it does not matter
 * into which calls the bytes were cut, and names and values are pointers into memory that no longer
 * moves. What llhttp found must account for every line (its versions differ in what they overlook),
 * and what the fields mean together is judged in head.c.
 *
 * A body that is as long as the head says, or ends with the connection, needs no reader at all. A
 * chunked one goes through llhttp to the caller's buffer: one append for each piece; the bytes
 * between the pieces go through the first reader as well, in the order in which they came, so that
 * nothing is appended behind a framing byte that is refused. */
#include "gateway/http/parser.h"

#include <assert.h>
#include <llhttp.h>

#include "gateway/base/mem.h"
#include "gateway/http/lines.h"

enum {
    HTTP_PARSER_ARENA_MIN = 512,
    HTTP_PARSER_EMPTY_LINES_MAX = 4, /* before a request; RFC 9112, 2.2 asks for one */
    HTTP_PARSER_STATUS_MAX = 599,
};

/* The state as the picture in the header has it; BODY begins when the head is handed out, also when
 * no body follows. */
enum http_parser_state {
    HTTP_PARSER_STATE_HEAD,     /* gathers start line and fields */
    HTTP_PARSER_STATE_BODY,     /* waits for body bytes, or for the call that reports the end */
    HTTP_PARSER_STATE_COMPLETE, /* waits for http_parser_next() */
    HTTP_PARSER_STATE_FAILED,   /* of no further use */
};

struct http_parser {
    struct http_parser_limits limits;
    enum http_parser_kind kind;
    enum http_parser_state state;
    struct http_refusal refusal; /* in FAILED */
    bool no_body;                /* the next final response answers a HEAD request */

    size_t n_empty; /* empty lines before the request */
    bool in_empty;  /* after the CR of one */
    char *arena;    /* owned; the head's text; NULL until its first byte */
    size_t arena_len;
    size_t arena_size;
    struct http_lines lines;

    llhttp_t llhttp;       /* valid from the end of the head on */
    struct http_head head; /* its fields are owned; its text borrows from the arena */
    size_t fields_size;    /* how many fields the lines promise */
    bool in_field;         /* a name was seen, and the value is not complete */
    bool has_head;         /* llhttp and the judge have accepted the head */
    bool is_complete;      /* llhttp has seen the message's end */

    uint64_t verbatim_left; /* BODY: see http_parser_verbatim() */
    struct http_chunk_lines chunk_lines;
    const char *framing_from; /* borrowed from the call that feeds: not yet seen by chunk_lines */
    struct buf *body;         /* borrowed from the call that feeds */
};

static enum http_parse http_parser_fail(struct http_parser *parser, enum reason reason,
                                        const char *text)
{
    if (parser->refusal.reason == REASON_OK)
        parser->refusal = (struct http_refusal){reason, text};
    parser->state = HTTP_PARSER_STATE_FAILED;
    return HTTP_PARSE_ERROR;
}

static enum http_parse http_parser_fail_malformed(struct http_parser *parser, const char *text)
{
    bool is_request = parser->kind == HTTP_PARSER_REQUEST;
    return http_parser_fail(parser, is_request ? REASON_REQUEST_MALFORMED : REASON_BACKEND_INVALID,
                            text);
}

static enum http_parse http_parser_fail_too_large(struct http_parser *parser, const char *text)
{
    bool is_request = parser->kind == HTTP_PARSER_REQUEST;
    return http_parser_fail(parser,
                            is_request ? REASON_REQUEST_HEAD_TOO_LARGE : REASON_BACKEND_INVALID,
                            text);
}

static enum http_parse http_parser_fail_memory(struct http_parser *parser)
{
    return http_parser_fail(parser, REASON_INTERNAL, "out of memory");
}

enum http_version {
    HTTP_VERSION_ODD,
    HTTP_VERSION_OTHER, /* well formed */
    HTTP_VERSION_ONE,   /* 1.0 and 1.1 */
};

static enum http_version http_version_parse(struct str text, int *out_minor)
{
    static const char form[] = "HTTP/d.d";

    if (text.len != sizeof(form) - 1)
        return HTTP_VERSION_ODD;
    for (size_t i = 0; i < text.len; i++) {
        bool is_digit = text.p[i] >= '0' && text.p[i] <= '9';
        if (form[i] == 'd' ? !is_digit : text.p[i] != form[i])
            return HTTP_VERSION_ODD;
    }
    if (!str_eq(text, STR("HTTP/1.0")) && !str_eq(text, STR("HTTP/1.1")))
        return HTTP_VERSION_OTHER;
    *out_minor = text.p[text.len - 1] - '0';
    return HTTP_VERSION_ONE;
}

static bool http_is_printable(struct str text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.p[i] < '!' || text.p[i] > '~')
            return false;
    }
    return text.len > 0;
}

/* method SP target SP version, with exactly these spaces: llhttp takes more of them, and other
 * protocols' names. */
static enum http_parse http_parser_read_request_line(struct http_parser *parser, struct str line)
{
    struct http_head *head = &parser->head;

    if (!str_split(&line, ' ', &head->method) || !http_is_token(head->method))
        return http_parser_fail_malformed(parser, "the method is not a token");
    if (!str_split(&line, ' ', &head->target) || !http_is_printable(head->target))
        return http_parser_fail_malformed(parser, "the target is empty or not printable ASCII");
    switch (http_version_parse(line, &head->minor)) {
    case HTTP_VERSION_ONE:
        break;
    case HTTP_VERSION_OTHER:
        return http_parser_fail(parser, REASON_REQUEST_VERSION_UNSUPPORTED,
                                "neither HTTP/1.0 nor HTTP/1.1");
    case HTTP_VERSION_ODD:
        return http_parser_fail_malformed(parser, "the version is odd");
    }
    /* llhttp would read on in another way after these two. */
    if (str_eq(head->method, STR("CONNECT")) || str_eq(head->method, STR("PRI")))
        return http_parser_fail(parser, REASON_REQUEST_METHOD_UNSUPPORTED,
                                "a method that changes the protocol");
    return HTTP_PARSE_MORE;
}

/* version SP three digits, and SP and a phrase or nothing. */
static enum http_parse http_parser_read_status_line(struct http_parser *parser, struct str line)
{
    struct http_head *head = &parser->head;
    struct str version, status;
    uint64_t number;

    if (!str_split(&line, ' ', &version) ||
        http_version_parse(version, &head->minor) != HTTP_VERSION_ONE)
        return http_parser_fail_malformed(parser, "neither HTTP/1.0 nor HTTP/1.1");
    if (!str_split(&line, ' ', &status) || status.len != 3 || !str_to_u64(status, &number))
        return http_parser_fail_malformed(parser, "the status is not a number of three digits");
    if (number < 100 || number > HTTP_PARSER_STATUS_MAX)
        return http_parser_fail_malformed(parser, "the status is not between 100 and 599");
    /* Nobody here ever asks for another protocol. */
    if (number == 101)
        return http_parser_fail_malformed(parser,
                                          "the protocol is switched without having been asked for");
    head->status = (int)number;
    head->phrase = line.p != NULL ? line : STR("");
    return HTTP_PARSE_MORE;
}

static enum http_parse http_parser_read_start_line(struct http_parser *parser)
{
    const char *end = memchr(parser->arena, '\r', parser->arena_len);
    struct str line = {parser->arena, (size_t)(end - parser->arena)};

    return parser->kind == HTTP_PARSER_REQUEST ? http_parser_read_request_line(parser, line)
                                               : http_parser_read_status_line(parser, line);
}

/* Framing bytes of a chunked body from framing_from to `end`. */
static enum http_parse http_parser_check_framing(struct http_parser *parser, const char *end)
{
    if (parser->head.framing != HTTP_FRAMING_CHUNKED)
        return HTTP_PARSE_MORE;

    struct str text = {parser->framing_from, (size_t)(end - parser->framing_from)};
    const char *why = http_chunk_lines_check(&parser->chunk_lines, text, parser->limits.head_max);
    parser->framing_from = end;
    return why != NULL ? http_parser_fail_malformed(parser, why) : HTTP_PARSE_MORE;
}

/* The head comes in one piece, so each text comes in one piece; should it not, the pieces are
 * neighbours. */
static void http_span_add(struct str *span, const char *at, size_t len)
{
    if (span->len == 0)
        span->p = at;
    span->len = (size_t)(at + len - span->p);
}

/* Also called for trailers, which are dropped. */
static int on_header_field(llhttp_t *llhttp, const char *at, size_t len)
{
    struct http_parser *parser = llhttp->data;
    struct http_head *head = &parser->head;

    if (parser->has_head)
        return 0;
    if (head->n_fields == parser->fields_size)
        return HPE_USER;
    if (!parser->in_field)
        head->fields[head->n_fields] = (struct http_field){.name = STR(""), .value = STR("")};
    parser->in_field = true;
    http_span_add(&head->fields[head->n_fields].name, at, len);
    return 0;
}

static int on_header_value(llhttp_t *llhttp, const char *at, size_t len)
{
    struct http_parser *parser = llhttp->data;

    if (parser->has_head)
        return 0;
    if (!parser->in_field)
        return HPE_USER;
    http_span_add(&parser->head.fields[parser->head.n_fields].value, at, len);
    return 0;
}

static const char *http_skip_blank(const char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

/* Name, colon and value take up one line from its beginning to its CR, whatever llhttp may have
 * skipped. */
static bool http_field_is_whole(const struct http_field *field)
{
    struct str name = field->name, value = field->value;
    const char *text = name.p + name.len + 1;

    if (name.p[-1] != '\n' || text[-1] != ':' || !http_is_token(name))
        return false;
    text = http_skip_blank(text);
    return value.len == 0 ? *text == '\r'
                          : text == value.p && *http_skip_blank(value.p + value.len) == '\r';
}

static int on_header_value_complete(llhttp_t *llhttp)
{
    struct http_parser *parser = llhttp->data;

    if (parser->has_head)
        return 0;
    if (!parser->in_field)
        return -1;
    struct http_field *field = &parser->head.fields[parser->head.n_fields];
    field->value = str_trim(field->value);
    if (!http_field_is_whole(field)) {
        (void)http_parser_fail_malformed(parser, "a line that is not one field");
        return -1;
    }
    parser->in_field = false;
    parser->head.n_fields++;
    return 0;
}

static bool http_start_line_is_agreed(const struct http_head *head, const llhttp_t *llhttp)
{
    return llhttp->http_major == 1 && llhttp->http_minor == head->minor &&
           llhttp->status_code == head->status;
}

/* llhttp follows its own opinion of the framing; it must be ours. (Where no body may follow, it is
 * told so.) */
static bool http_framing_is_agreed(const struct http_head *head, const llhttp_t *llhttp)
{
    bool is_chunked = (llhttp->flags & F_CHUNKED) != 0;
    bool has_length = (llhttp->flags & F_CONTENT_LENGTH) != 0;

    switch (head->framing) {
    case HTTP_FRAMING_NONE:
        return true;
    case HTTP_FRAMING_CHUNKED:
        return is_chunked;
    case HTTP_FRAMING_LENGTH:
        return has_length && !is_chunked && llhttp->content_length == head->content_length;
    case HTTP_FRAMING_EOF:
        return !has_length && !is_chunked && (llhttp->flags & F_TRANSFER_ENCODING) == 0;
    }
    return false;
}

static enum http_head_kind http_parser_head_kind(const struct http_parser *parser)
{
    if (parser->kind == HTTP_PARSER_REQUEST)
        return HTTP_HEAD_REQUEST;
    return parser->no_body ? HTTP_HEAD_RESPONSE_WITHOUT_BODY : HTTP_HEAD_RESPONSE;
}

static int on_headers_complete(llhttp_t *llhttp)
{
    struct http_parser *parser = llhttp->data;
    struct http_head *head = &parser->head;

    if (parser->in_field || head->n_fields != parser->fields_size ||
        !http_start_line_is_agreed(head, llhttp)) {
        (void)http_parser_fail_malformed(parser, "the head can be read in two ways");
        return -1;
    }
    parser->refusal = http_head_judge(head, http_parser_head_kind(parser));
    if (parser->refusal.reason != REASON_OK)
        return -1;
    if (!http_framing_is_agreed(head, llhttp)) {
        (void)http_parser_fail_malformed(parser, "the framing can be read in two ways");
        return -1;
    }
    parser->has_head = true;
    return head->framing == HTTP_FRAMING_NONE ? 1 : 0;
}

static int on_body(llhttp_t *llhttp, const char *at, size_t len)
{
    struct http_parser *parser = llhttp->data;

    if (http_parser_check_framing(parser, at) == HTTP_PARSE_ERROR)
        return HPE_USER;
    parser->framing_from = at + len;
    if (!buf_append(parser->body, at, len)) {
        (void)http_parser_fail_memory(parser);
        return HPE_USER;
    }
    return 0;
}

static int on_message_complete(llhttp_t *llhttp)
{
    struct http_parser *parser = llhttp->data;

    parser->is_complete = true;
    return HPE_PAUSED;
}

static const llhttp_settings_t http_parser_callbacks = {
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* The first precise refusal wins: ours, then what llhttp says. */
static enum http_parse http_parser_fail_llhttp(struct http_parser *parser, llhttp_errno_t error)
{
    const char *text = llhttp_get_error_reason(&parser->llhttp);

    /* The request line has its form: these say that the method is not llhttp's, or not HTTP's. */
    if (parser->kind == HTTP_PARSER_REQUEST &&
        (error == HPE_INVALID_METHOD || error == HPE_INVALID_CONSTANT))
        return http_parser_fail(parser, REASON_REQUEST_METHOD_UNSUPPORTED, "an unknown method");
    return http_parser_fail_malformed(parser, text != NULL ? text : "not HTTP");
}

/* Servers skip empty lines before a request (RFC 9112, 2.2); clients have no reason to. */
static size_t http_parser_skip_empty_lines(struct http_parser *parser, struct str data)
{
    size_t used = 0;

    while (used < data.len && parser->n_empty < HTTP_PARSER_EMPTY_LINES_MAX) {
        if (data.p[used] != (parser->in_empty ? '\n' : '\r'))
            break;
        parser->n_empty += parser->in_empty;
        parser->in_empty = !parser->in_empty;
        used++;
    }
    return used;
}

/* Doubles, but never beyond the limit, which `len` respects. */
static bool http_parser_arena_reserve(struct http_parser *parser, size_t len)
{
    size_t size = parser->arena_size * 2;

    if (len <= parser->arena_size - parser->arena_len)
        return true;
    if (size < parser->arena_len + len)
        size = parser->arena_len + len;
    if (size < HTTP_PARSER_ARENA_MIN)
        size = HTTP_PARSER_ARENA_MIN;
    if (size > parser->limits.head_max)
        size = parser->limits.head_max;
    char *arena = mem_try_alloc(size);
    if (arena == NULL)
        return false;
    if (parser->arena_len > 0)
        memcpy(arena, parser->arena, parser->arena_len);
    mem_free(parser->arena);
    parser->arena = arena;
    parser->arena_size = size;
    return true;
}

static bool http_parser_arena_append(struct http_parser *parser, struct str text)
{
    if (!http_parser_arena_reserve(parser, text.len))
        return false;
    memcpy(parser->arena + parser->arena_len, text.p, text.len);
    parser->arena_len += text.len;
    return true;
}

static bool http_parser_fields_reserve(struct http_parser *parser)
{
    parser->fields_size = parser->lines.n - 1;
    if (parser->fields_size == 0)
        return true;
    parser->head.fields = mem_try_alloc(parser->fields_size * sizeof(struct http_field));
    return parser->head.fields != NULL;
}

/* The arena holds a whole head. */
static enum http_parse http_parser_read_head(struct http_parser *parser)
{
    if (parser->lines.n == 0)
        return http_parser_fail_malformed(parser, "an empty line instead of a head");
    if (http_parser_read_start_line(parser) == HTTP_PARSE_ERROR)
        return HTTP_PARSE_ERROR;
    if (!http_parser_fields_reserve(parser))
        return http_parser_fail_memory(parser);

    bool is_request = parser->kind == HTTP_PARSER_REQUEST;
    llhttp_init(&parser->llhttp, is_request ? HTTP_REQUEST : HTTP_RESPONSE, &http_parser_callbacks);
    parser->llhttp.data = parser;
    llhttp_errno_t error = llhttp_execute(&parser->llhttp, parser->arena, parser->arena_len);
    if (!parser->has_head || (error != HPE_OK && !parser->is_complete))
        return http_parser_fail_llhttp(parser, error);
    parser->state = HTTP_PARSER_STATE_BODY;
    if (parser->head.framing == HTTP_FRAMING_LENGTH)
        parser->verbatim_left = parser->head.content_length;
    else if (parser->head.framing == HTTP_FRAMING_EOF)
        parser->verbatim_left = UINT64_MAX;
    return HTTP_PARSE_HEAD;
}

/* Gathers up to one event of the lines. */
static enum http_parse http_parser_gather(struct http_parser *parser, struct str data,
                                          size_t *out_used)
{
    size_t room = parser->limits.head_max - parser->arena_len;
    if (data.len > room)
        data.len = room;

    enum http_line_event event = http_lines_scan(&parser->lines, data, out_used);
    if (event == HTTP_LINE_BAD)
        return http_parser_fail_malformed(parser, parser->lines.why);
    if (!http_parser_arena_append(parser, (struct str){data.p, *out_used}))
        return http_parser_fail_memory(parser);
    if (event == HTTP_LINE_EMPTY)
        return http_parser_read_head(parser);
    /* The first line is the start line. */
    if (parser->lines.n > parser->limits.fields_max + 1)
        return http_parser_fail_too_large(parser, "too many fields");
    if (parser->arena_len == parser->limits.head_max)
        return http_parser_fail_too_large(parser, "the head is too long");
    return HTTP_PARSE_MORE;
}

static enum http_parse http_parser_feed_head(struct http_parser *parser, struct str data,
                                             size_t *out_used)
{
    enum http_parse result = HTTP_PARSE_MORE;
    size_t used = 0;

    if (parser->kind == HTTP_PARSER_REQUEST && parser->arena_len == 0)
        used = http_parser_skip_empty_lines(parser, data);
    if (used < data.len && parser->in_empty)
        return http_parser_fail_malformed(parser, "a bare CR");
    while (used < data.len && result == HTTP_PARSE_MORE) {
        size_t n;
        result = http_parser_gather(parser, (struct str){data.p + used, data.len - used}, &n);
        used += n;
    }
    *out_used = used;
    return result;
}

static enum http_parse http_parser_feed_verbatim(struct http_parser *parser, struct str data,
                                                 struct buf *body, size_t *out_used)
{
    size_t len = data.len < parser->verbatim_left ? data.len : (size_t)parser->verbatim_left;

    if (!buf_append(body, data.p, len))
        return http_parser_fail_memory(parser);
    *out_used = len;
    return http_parser_pass(parser, len);
}

static enum http_parse http_parser_feed_body(struct http_parser *parser, struct str data,
                                             struct buf *body, size_t *out_used)
{
    llhttp_errno_t error = HPE_OK;

    if (parser->verbatim_left > 0)
        return http_parser_feed_verbatim(parser, data, body, out_used);
    if (!parser->is_complete && data.len > 0) {
        parser->body = body;
        parser->framing_from = data.p;
        error = llhttp_execute(&parser->llhttp, data.p, data.len);
        const char *end =
            error == HPE_OK ? data.p + data.len : llhttp_get_error_pos(&parser->llhttp);
        *out_used = (size_t)(end - data.p);
        if (parser->refusal.reason == REASON_OK)
            (void)http_parser_check_framing(parser, end);
    }
    if (parser->refusal.reason != REASON_OK || (error != HPE_OK && !parser->is_complete))
        return http_parser_fail_llhttp(parser, error);
    if (!parser->is_complete)
        return HTTP_PARSE_MORE;
    parser->state = HTTP_PARSER_STATE_COMPLETE;
    return HTTP_PARSE_COMPLETE;
}

static void http_parser_init(struct http_parser *parser, enum http_parser_kind kind,
                             struct http_parser_limits limits)
{
    *parser = (struct http_parser){
        .kind = kind,
        .limits = limits,
        .refusal = {REASON_OK, ""},
    };
}

struct http_parser *http_parser_new(enum http_parser_kind kind, struct http_parser_limits limits)
{
    struct http_parser *parser = mem_new(struct http_parser);

    assert(limits.head_max > 0);
    http_parser_init(parser, kind, limits);
    return parser;
}

static void http_parser_release(struct http_parser *parser)
{
    mem_free(parser->arena);
    mem_free(parser->head.fields);
}

void http_parser_free(struct http_parser **parser)
{
    if (*parser == NULL)
        return;
    http_parser_release(*parser);
    mem_free(*parser);
    *parser = NULL;
}

enum http_parse http_parser_feed(struct http_parser *parser, const char *data, size_t len,
                                 struct buf *body, size_t *out_used)
{
    struct str text = {data, len};

    *out_used = 0;
    switch (parser->state) {
    case HTTP_PARSER_STATE_HEAD:
        return http_parser_feed_head(parser, text, out_used);
    case HTTP_PARSER_STATE_BODY:
        return http_parser_feed_body(parser, text, body, out_used);
    case HTTP_PARSER_STATE_COMPLETE:
        return HTTP_PARSE_COMPLETE;
    case HTTP_PARSER_STATE_FAILED:
        break;
    }
    return HTTP_PARSE_ERROR;
}

uint64_t http_parser_verbatim(const struct http_parser *parser)
{
    return parser->state == HTTP_PARSER_STATE_BODY ? parser->verbatim_left : 0;
}

enum http_parse http_parser_pass(struct http_parser *parser, uint64_t len)
{
    assert(len <= http_parser_verbatim(parser));
    if (parser->head.framing == HTTP_FRAMING_LENGTH) {
        parser->verbatim_left -= len;
        parser->is_complete = parser->verbatim_left == 0;
    }
    if (!parser->is_complete)
        return HTTP_PARSE_MORE;
    parser->state = HTTP_PARSER_STATE_COMPLETE;
    return HTTP_PARSE_COMPLETE;
}

enum http_parse http_parser_feed_eof(struct http_parser *parser)
{
    bool is_request = parser->kind == HTTP_PARSER_REQUEST;

    if (http_parser_is_idle(parser))
        return HTTP_PARSE_MORE;
    if (parser->state == HTTP_PARSER_STATE_FAILED)
        return HTTP_PARSE_ERROR;
    if (parser->has_head && (parser->is_complete || parser->head.framing == HTTP_FRAMING_EOF)) {
        parser->state = HTTP_PARSER_STATE_COMPLETE;
        return HTTP_PARSE_COMPLETE;
    }
    return http_parser_fail(parser, is_request ? REASON_CLOSED_BY_PEER : REASON_BACKEND_BROKEN,
                            "the connection ended inside the message");
}

void http_parser_expect_no_body(struct http_parser *parser)
{
    assert(parser->kind == HTTP_PARSER_RESPONSE && !parser->has_head);
    parser->no_body = true;
}

const struct http_head *http_parser_head(const struct http_parser *parser)
{
    assert(parser->has_head);
    return &parser->head;
}

void http_parser_next(struct http_parser *parser)
{
    assert(parser->state == HTTP_PARSER_STATE_COMPLETE);

    enum http_parser_kind kind = parser->kind;
    struct http_parser_limits limits = parser->limits;
    bool no_body = parser->no_body && parser->head.status < 200;

    http_parser_release(parser);
    http_parser_init(parser, kind, limits);
    parser->no_body = no_body;
}

bool http_parser_is_idle(const struct http_parser *parser)
{
    return parser->state == HTTP_PARSER_STATE_HEAD && parser->arena_len == 0;
}

enum reason http_parser_error(const struct http_parser *parser)
{
    return parser->refusal.reason;
}

const char *http_parser_error_text(const struct http_parser *parser)
{
    return parser->refusal.text;
}
