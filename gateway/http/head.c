/* SPDX-License-Identifier: BSD-2-Clause */
/* What the fields of a head mean together. Where RFC 9112 lets a recipient repair or guess, this
 * one refuses: whatever is guessed here may be guessed otherwise behind us. */
#include "gateway/http/head.h"

#include "gateway/http/path.h"

/* Each option may strike a field from what is forwarded: unbounded, a head of them would cost a
 * square of its length. */
enum { HTTP_CONNECTION_OPTIONS_MAX = 32 };

static const bool token_chars[256] = {
    ['!'] = true,         ['#'] = true,         ['$'] = true,         ['%'] = true, ['&'] = true,
    ['\''] = true,        ['*'] = true,         ['+'] = true,         ['-'] = true, ['.'] = true,
    ['^'] = true,         ['_'] = true,         ['`'] = true,         ['|'] = true, ['~'] = true,
    ['0' ... '9'] = true, ['A' ... 'Z'] = true, ['a' ... 'z'] = true,
};

bool http_is_token(struct str text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (!token_chars[(unsigned char)text.p[i]])
            return false;
    }
    return text.len > 0;
}

const struct http_field *http_head_find(const struct http_head *head, struct str name)
{
    for (size_t i = 0; i < head->n_fields; i++) {
        if (str_eq_nocase(head->fields[i].name, name))
            return &head->fields[i];
    }
    return NULL;
}

size_t http_head_count(const struct http_head *head, struct str name)
{
    size_t n = 0;

    for (size_t i = 0; i < head->n_fields; i++)
        n += str_eq_nocase(head->fields[i].name, name);
    return n;
}

static bool http_list_has(struct str list, struct str token)
{
    struct str piece;

    while (str_split(&list, ',', &piece)) {
        if (str_eq_nocase(str_trim(piece), token))
            return true;
    }
    return false;
}

bool http_head_has_token(const struct http_head *head, struct str name, struct str token)
{
    for (size_t i = 0; i < head->n_fields; i++) {
        if (str_eq_nocase(head->fields[i].name, name) &&
            http_list_has(head->fields[i].value, token))
            return true;
    }
    return false;
}

struct http_note {
    size_t n;         /* how many fields of that name there are */
    struct str value; /* of the last one */
};

/* The fields that decide how a message is framed and routed, collected in one pass. */
struct http_notes {
    struct http_note host, length, coding, expect;
    bool close, keep_alive; /* options of Connection */
    size_t n_options;
};

static void http_note(const struct http_field *field, struct str name, struct http_note *note)
{
    if (!str_eq_nocase(field->name, name))
        return;
    note->n++;
    note->value = field->value;
}

static void http_note_connection(const struct http_field *field, struct http_notes *notes)
{
    struct str list = field->value, option;

    if (!str_eq_nocase(field->name, STR("Connection")))
        return;
    while (str_split(&list, ',', &option)) {
        notes->close |= str_eq_nocase(str_trim(option), STR("close"));
        notes->keep_alive |= str_eq_nocase(str_trim(option), STR("keep-alive"));
        notes->n_options++;
    }
}

static void http_note_field(const struct http_field *field, struct http_notes *notes)
{
    switch (field->name.len) {
    case sizeof("Host") - 1:
        http_note(field, STR("Host"), &notes->host);
        break;
    case sizeof("Expect") - 1:
        http_note(field, STR("Expect"), &notes->expect);
        break;
    case sizeof("Connection") - 1:
        http_note_connection(field, notes);
        break;
    case sizeof("Content-Length") - 1:
        http_note(field, STR("Content-Length"), &notes->length);
        break;
    case sizeof("Transfer-Encoding") - 1:
        http_note(field, STR("Transfer-Encoding"), &notes->coding);
        break;
    }
}

static struct http_refusal http_fine(void)
{
    return (struct http_refusal){REASON_OK, ""};
}

static struct http_refusal http_refuse(enum http_head_kind kind, const char *text)
{
    enum reason reason =
        kind == HTTP_HEAD_REQUEST ? REASON_REQUEST_MALFORMED : REASON_BACKEND_INVALID;
    return (struct http_refusal){reason, text};
}

static struct http_refusal http_judge_host(const struct http_head *head,
                                           const struct http_note *host)
{
    struct str name;

    if (host->n > 1)
        return http_refuse(HTTP_HEAD_REQUEST, "more than one Host");
    if (host->n == 0 && head->minor > 0)
        return http_refuse(HTTP_HEAD_REQUEST, "no Host");
    if (host->n == 1 && !http_host_parse(host->value, &name))
        return http_refuse(HTTP_HEAD_REQUEST, "the Host is odd");
    return http_fine();
}

static struct http_refusal http_judge_length(struct http_head *head, enum http_head_kind kind,
                                             const struct http_note *length)
{
    head->has_length = length->n > 0;
    if (length->n > 1)
        return http_refuse(kind, "more than one Content-Length");
    if (length->n == 1 && !str_to_u64(length->value, &head->content_length))
        return http_refuse(kind, "the Content-Length is not a number");
    return http_fine();
}

/* A coding that exists, but not here: its name is a token, and not "chunked". */
static bool http_is_other_coding(struct str coding)
{
    struct str name;

    return str_split(&coding, ';', &name) && http_is_token(str_trim(name)) &&
           !str_eq_nocase(str_trim(name), STR("chunked"));
}

/* A request in a coding that we do not know gets 501 (RFC 9112, 6.1), but only if that is all that
 * is wrong with it. */
static enum reason http_coding_reason(const struct http_head *head)
{
    size_t n_other = 0, n_odd = 0;

    for (size_t i = 0; i < head->n_fields; i++) {
        struct str list = head->fields[i].value, coding;
        if (!str_eq_nocase(head->fields[i].name, STR("Transfer-Encoding")))
            continue;
        while (str_split(&list, ',', &coding)) {
            n_other += http_is_other_coding(coding);
            n_odd +=
                !http_is_other_coding(coding) && !str_eq_nocase(str_trim(coding), STR("chunked"));
        }
    }
    return n_other > 0 && n_odd == 0 ? REASON_REQUEST_CODING_UNSUPPORTED : REASON_REQUEST_MALFORMED;
}

static struct http_refusal http_judge_coding(const struct http_head *head, enum http_head_kind kind,
                                             const struct http_notes *notes)
{
    struct http_refusal refusal = http_fine();

    if (notes->coding.n == 0)
        return refusal;
    if (notes->length.n > 0)
        return http_refuse(kind, "Content-Length with Transfer-Encoding");
    if (head->minor == 0)
        return http_refuse(kind, "Transfer-Encoding in HTTP/1.0");
    if (notes->coding.n > 1 || !str_eq_nocase(notes->coding.value, STR("chunked"))) {
        refusal = http_refuse(kind, "a transfer coding that is not a single chunked");
        if (kind == HTTP_HEAD_REQUEST)
            refusal.reason = http_coding_reason(head);
    }
    return refusal;
}

/* RFC 9112, 6.3. */
static enum http_framing http_frame(const struct http_head *head, enum http_head_kind kind,
                                    const struct http_notes *notes)
{
    bool is_response = kind != HTTP_HEAD_REQUEST;

    if (kind == HTTP_HEAD_RESPONSE_WITHOUT_BODY)
        return HTTP_FRAMING_NONE;
    if (is_response && (head->status < 200 || head->status == 204 || head->status == 304))
        return HTTP_FRAMING_NONE;
    if (notes->coding.n > 0)
        return HTTP_FRAMING_CHUNKED;
    if (notes->length.n > 0)
        return HTTP_FRAMING_LENGTH;
    return is_response ? HTTP_FRAMING_EOF : HTTP_FRAMING_NONE;
}

struct http_refusal http_head_judge(struct http_head *head, enum http_head_kind kind)
{
    struct http_notes notes = {0};
    struct http_refusal refusal = http_fine();

    for (size_t i = 0; i < head->n_fields; i++)
        http_note_field(&head->fields[i], &notes);

    if (kind == HTTP_HEAD_REQUEST)
        refusal = http_judge_host(head, &notes.host);
    if (refusal.reason == REASON_OK && notes.n_options > HTTP_CONNECTION_OPTIONS_MAX)
        refusal = http_refuse(kind, "too many options in Connection");
    if (refusal.reason == REASON_OK)
        refusal = http_judge_length(head, kind, &notes.length);
    if (refusal.reason == REASON_OK)
        refusal = http_judge_coding(head, kind, &notes);
    if (refusal.reason != REASON_OK)
        return refusal;

    head->framing = http_frame(head, kind, &notes);
    head->keep_alive =
        !notes.close && (head->minor > 0 || notes.keep_alive) && head->framing != HTTP_FRAMING_EOF;
    head->expect_continue = kind == HTTP_HEAD_REQUEST && head->minor > 0 && notes.expect.n == 1 &&
                            str_eq_nocase(notes.expect.value, STR("100-continue"));
    return refusal;
}
