/* SPDX-License-Identifier: BSD-2-Clause */
/* The path goes through in one pass, character by character: decode, judge, append; at each slash
 * the segment behind it is resolved. Percent signs are decoded exactly once, and what is written
 * never needs more room than what was read. */
#include "gateway/http/path.h"

#include <arpa/inet.h>

#include "gateway/base/mem.h"

enum {
    HTTP_HOST_MAX = 253, /* a DNS name as text */
    HTTP_LABEL_MAX = 63,
    HTTP_PORT_MAX = 65535,
};

/* RFC 3986, 2.3 and 3.3. */
enum http_path_class {
    HTTP_PATH_REFUSED,
    HTTP_PATH_UNRESERVED,
    HTTP_PATH_RESERVED, /* may stand raw; stays encoded where it came encoded */
};

static const unsigned char path_classes[256] = {
    ['0' ... '9'] = HTTP_PATH_UNRESERVED, ['A' ... 'Z'] = HTTP_PATH_UNRESERVED,
    ['a' ... 'z'] = HTTP_PATH_UNRESERVED, ['-'] = HTTP_PATH_UNRESERVED,
    ['.'] = HTTP_PATH_UNRESERVED,         ['_'] = HTTP_PATH_UNRESERVED,
    ['~'] = HTTP_PATH_UNRESERVED,         ['!'] = HTTP_PATH_RESERVED,
    ['$'] = HTTP_PATH_RESERVED,           ['&'] = HTTP_PATH_RESERVED,
    ['\''] = HTTP_PATH_RESERVED,          ['('] = HTTP_PATH_RESERVED,
    [')'] = HTTP_PATH_RESERVED,           ['*'] = HTTP_PATH_RESERVED,
    ['+'] = HTTP_PATH_RESERVED,           [','] = HTTP_PATH_RESERVED,
    ['='] = HTTP_PATH_RESERVED,           [':'] = HTTP_PATH_RESERVED,
    ['@'] = HTTP_PATH_RESERVED,
};

static int http_hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The byte that two hex digits at the beginning of `text` stand for; -1 if there are none. */
static int http_hex_byte(struct str text)
{
    if (text.len < 2 || http_hex_digit(text.p[0]) < 0 || http_hex_digit(text.p[1]) < 0)
        return -1;
    return http_hex_digit(text.p[0]) * 16 + http_hex_digit(text.p[1]);
}

static struct str http_behind(struct str text, size_t n)
{
    return (struct str){text.p + n, text.len - n};
}

/* What a UTF-8 sequence still lacks. */
struct http_utf8 {
    int more; /* so many continuation bytes */
    int min,
        max; /* the range of the next one: narrower behind some lead bytes (Unicode, table 3-7) */
};

static bool http_utf8_lead(struct http_utf8 *utf8, int byte)
{
    *utf8 = (struct http_utf8){.min = 0x80, .max = 0xbf};
    if (byte < 0x80)
        return true;
    if (byte < 0xc2 || byte > 0xf4)
        return false;
    utf8->more = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
    if (byte == 0xe0)
        utf8->min = 0xa0;
    if (byte == 0xed)
        utf8->max = 0x9f;
    if (byte == 0xf0)
        utf8->min = 0x90;
    if (byte == 0xf4)
        utf8->max = 0x8f;
    return true;
}

static bool http_utf8_next(struct http_utf8 *utf8, int byte)
{
    if (utf8->more == 0)
        return http_utf8_lead(utf8, byte);
    if (byte < utf8->min || byte > utf8->max)
        return false;
    *utf8 = (struct http_utf8){.more = utf8->more - 1, .min = 0x80, .max = 0xbf};
    return true;
}

struct http_path_writer {
    char *out; /* borrowed from http_path_normalise(); has room for the whole input */
    size_t len;
    size_t segment; /* where the open segment begins, right behind its slash */
    struct http_utf8 utf8;
};

/* Resolves the open segment if it is a dot segment. False for a ".." above the root. */
static bool http_path_resolve(struct http_path_writer *writer)
{
    struct str segment = {writer->out + writer->segment, writer->len - writer->segment};

    if (str_eq(segment, STR("."))) {
        writer->len = writer->segment;
    } else if (str_eq(segment, STR(".."))) {
        if (writer->segment == 1)
            return false;
        writer->len = writer->segment - 1;
        while (writer->out[writer->len - 1] != '/')
            writer->len--;
        writer->segment = writer->len;
    }
    return true;
}

static bool http_path_slash(struct http_path_writer *writer)
{
    if (!http_path_resolve(writer))
        return false;
    if (writer->len > writer->segment)
        writer->out[writer->len++] = '/';
    writer->segment = writer->len;
    return true;
}

/* `rest` begins behind the percent sign. */
static bool http_path_encoded(struct http_path_writer *writer, struct str rest)
{
    static const char digits[] = "0123456789ABCDEF";
    int byte = http_hex_byte(rest);

    if (byte < 0x20 || byte == 0x7f || byte == '/' || byte == '\\' || byte == ';')
        return false;
    if (!http_utf8_next(&writer->utf8, byte))
        return false;
    if (path_classes[byte] == HTTP_PATH_UNRESERVED) {
        writer->out[writer->len++] = (char)byte;
        return true;
    }
    writer->out[writer->len++] = '%';
    writer->out[writer->len++] = digits[byte / 16];
    writer->out[writer->len++] = digits[byte % 16];
    return true;
}

/* One character of the input; returns how much of it was used, 0 when it is refused. */
static size_t http_path_step(struct http_path_writer *writer, struct str rest)
{
    if (rest.p[0] == '%')
        return http_path_encoded(writer, http_behind(rest, 1)) ? 3 : 0;
    if (writer->utf8.more > 0)
        return 0;
    if (rest.p[0] == '/')
        return http_path_slash(writer) ? 1 : 0;
    if (path_classes[(unsigned char)rest.p[0]] == HTTP_PATH_REFUSED)
        return 0;
    writer->out[writer->len++] = rest.p[0];
    return 1;
}

/* A percent sign that makes another encoded character: for whoever decodes twice the path would be
 * another one. */
static bool http_path_is_doubly_encoded(const char *path)
{
    for (const char *at = strstr(path, "%25"); at != NULL; at = strstr(at + 3, "%25")) {
        if (http_hex_byte(str_c(at + 3)) >= 0)
            return true;
    }
    return false;
}

/* Into `out`, which has room for path.len + 2 bytes. `path` begins with a slash, or is empty. */
static bool http_path_normalise(struct str path, char *out)
{
    struct http_path_writer writer = {.out = out, .len = 1, .segment = 1};

    out[0] = '/';
    for (size_t i = 1; i < path.len;) {
        size_t used = http_path_step(&writer, http_behind(path, i));
        if (used == 0)
            return false;
        i += used;
    }
    if (writer.utf8.more > 0 || !http_path_resolve(&writer))
        return false;
    out[writer.len] = '\0';
    return !http_path_is_doubly_encoded(out);
}

/* Queries are the backend's business, but they must not end somewhere else for it. */
static bool http_query_is_clean(struct str query)
{
    for (size_t i = 0; i < query.len; i++) {
        if (query.p[i] < '!' || query.p[i] > '~' || query.p[i] == '#')
            return false;
        if (query.p[i] == '%' && http_hex_byte(http_behind(query, i + 1)) < 0)
            return false;
    }
    return true;
}

/* Cuts "http://authority" off *rest. False if it is not there, or odd. */
static bool http_target_cut_authority(struct str *rest, struct str *out_host)
{
    static const struct str schemes[] = {STR("http://"), STR("https://")};

    for (size_t i = 0; i < ARRAY_SIZE(schemes); i++) {
        size_t len = schemes[i].len, end = len;
        if (rest->len < len || !str_eq_nocase((struct str){rest->p, len}, schemes[i]))
            continue;
        while (end < rest->len && rest->p[end] != '/' && rest->p[end] != '?')
            end++;
        struct str authority = {rest->p + len, end - len};
        *rest = http_behind(*rest, end);
        return http_host_parse(authority, out_host);
    }
    return false;
}

/* OPTIONS for the server as a whole (RFC 9112, 3.2.4). */
static struct http_target http_target_asterisk(void)
{
    return (struct http_target){.path = mem_strdup("*"),
                                .query = STR(""),
                                .host = STR(""),
                                .is_asterisk = true};
}

bool http_target_parse(struct str method, struct str target, struct http_target *out_target)
{
    struct http_target result = {.query = STR(""), .host = STR("")};

    if (str_eq(target, STR("*")) && str_eq(method, STR("OPTIONS"))) {
        *out_target = http_target_asterisk();
        return true;
    }
    if (target.len == 0 ||
        (target.p[0] != '/' && !http_target_cut_authority(&target, &result.host)))
        return false;

    const char *mark = target.len > 0 ? memchr(target.p, '?', target.len) : NULL;
    struct str path = {target.p, mark != NULL ? (size_t)(mark - target.p) : target.len};
    if (mark != NULL)
        result.query = http_behind(target, path.len);
    if (!http_query_is_clean(result.query))
        return false;

    result.path =
        mem_try_alloc(path.len + 2); /* absolute-form without a path still gets its slash */
    if (result.path == NULL)
        return false;
    if (!http_path_normalise(path, result.path)) {
        http_target_clear(&result);
        return false;
    }
    *out_target = result;
    return true;
}

void http_target_clear(struct http_target *target)
{
    mem_free(target->path);
    *target = (struct http_target){0};
}

static bool http_port_is_clean(struct str port)
{
    uint64_t number;

    return port.len <= 5 && str_to_u64(port, &number) && number <= HTTP_PORT_MAX;
}

/* With brackets. inet_pton() takes no zone, and nothing but the address. */
static bool http_host_is_ipv6(struct str host)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;

    return host.len > 2 && str_copy(text, sizeof(text), (struct str){host.p + 1, host.len - 2}) &&
           strlen(text) == host.len - 2 && inet_pton(AF_INET6, text, &address) == 1;
}

/* Four decimal numbers without leading zeros; `host` is a clean name. */
static bool http_host_is_ipv4(struct str host)
{
    char text[INET_ADDRSTRLEN];
    struct in_addr address;

    return str_copy(text, sizeof(text), host) && inet_pton(AF_INET, text, &address) == 1;
}

static bool http_label_is_clean(struct str label)
{
    for (size_t i = 0; i < label.len; i++) {
        char c = label.p[i];
        if (path_classes[(unsigned char)c] != HTTP_PATH_UNRESERVED || c == '~' || c == '.')
            return false;
    }
    return label.len > 0 && label.len <= HTTP_LABEL_MAX;
}

static bool http_label_is_number(struct str label)
{
    if (label.len > 1 && label.p[0] == '0' && (label.p[1] == 'x' || label.p[1] == 'X'))
        return true;
    for (size_t i = 0; i < label.len; i++) {
        if (label.p[i] < '0' || label.p[i] > '9')
            return false;
    }
    return true;
}

/* "127.1" and "127.0.0.0x1" are addresses for some and names for others: what ends like a number
 * must be an address. */
static bool http_host_is_name(struct str host)
{
    struct str rest = host, label = STR("");

    if (host.len == 0 || host.len > HTTP_HOST_MAX)
        return false;
    while (str_split(&rest, '.', &label)) {
        if (!http_label_is_clean(label))
            return false;
    }
    return !http_label_is_number(label) || http_host_is_ipv4(host);
}

/* The part of an authority that is not the port. */
static struct str http_host_text(struct str authority)
{
    bool in_brackets = authority.len > 0 && authority.p[0] == '[';
    const char *end =
        authority.len > 0 ? memchr(authority.p, in_brackets ? ']' : ':', authority.len) : NULL;

    if (end == NULL)
        return authority;
    return (struct str){authority.p, (size_t)(end - authority.p) + in_brackets};
}

bool http_host_parse(struct str authority, struct str *out_host)
{
    struct str host = http_host_text(authority);
    struct str port = http_behind(authority, host.len);

    if (host.len == 0 ||
        (port.len > 0 && (port.p[0] != ':' || !http_port_is_clean(http_behind(port, 1)))))
        return false;
    if (host.p[0] == '[') {
        if (host.p[host.len - 1] != ']' || !http_host_is_ipv6(host))
            return false;
    } else {
        if (host.p[host.len - 1] == '.')
            host.len--;
        if (!http_host_is_name(host))
            return false;
    }
    *out_host = host;
    return true;
}
