/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/config/value.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>

#include "policy/record.h"

struct value_unit {
    struct str name;
    uint64_t factor;
};

/* From large to small, so that formatting finds the largest that divides. */
static const struct value_unit value_duration_units[] = {
    {{"d", 1}, 86400000}, {{"h", 1}, 3600000}, {{"m", 1}, 60000}, {{"s", 1}, 1000}, {{"ms", 2}, 1},
};
static const struct value_unit value_size_units[] = {
    {{"GiB", 3}, 1 << 30},
    {{"MiB", 3}, 1 << 20},
    {{"KiB", 3}, 1 << 10},
    {{"", 0}, 1},
};

static bool value_parse_quantity(struct str text, const struct value_unit *units, size_t n_units,
                                 uint64_t *out)
{
    struct str digits = {text.p, 0}, name;
    uint64_t count, value;

    while (digits.len < text.len && digits.p[digits.len] >= '0' && digits.p[digits.len] <= '9')
        digits.len++;
    name = (struct str){text.p + digits.len, text.len - digits.len};
    if (!str_to_u64(digits, &count))
        return false;
    for (size_t i = 0; i < n_units; i++) {
        if (!str_eq(name, units[i].name))
            continue;
        if (__builtin_mul_overflow(count, units[i].factor, &value))
            return false;
        *out = value;
        return true;
    }
    return false;
}

static void value_format_quantity(uint64_t value, const struct value_unit *units,
                                  char out[VALUE_TEXT_SIZE])
{
    while (value % units->factor != 0)
        units++;
    (void)snprintf(out, VALUE_TEXT_SIZE, "%" PRIu64 "%s", value / units->factor, units->name.p);
}

bool value_parse_duration(struct str text, int64_t *out_ms)
{
    uint64_t value;

    if (str_eq(text, STR("0"))) {
        *out_ms = 0;
        return true;
    }
    if (!value_parse_quantity(text, value_duration_units, ARRAY_SIZE(value_duration_units),
                              &value) ||
        value > INT64_MAX)
        return false;
    *out_ms = (int64_t)value;
    return true;
}

void value_format_duration(int64_t ms, char out[VALUE_TEXT_SIZE])
{
    if (ms == 0)
        (void)snprintf(out, VALUE_TEXT_SIZE, "0s");
    else
        value_format_quantity((uint64_t)ms, value_duration_units, out);
}

bool value_parse_size(struct str text, uint64_t *out_bytes)
{
    return value_parse_quantity(text, value_size_units, ARRAY_SIZE(value_size_units), out_bytes);
}

void value_format_size(uint64_t bytes, char out[VALUE_TEXT_SIZE])
{
    if (bytes == 0)
        (void)snprintf(out, VALUE_TEXT_SIZE, "0");
    else
        value_format_quantity(bytes, value_size_units, out);
}

static bool value_is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool value_is_made_of(struct str text, const char *others)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.p[i] == '\0' || (!value_is_alnum(text.p[i]) && strchr(others, text.p[i]) == NULL))
            return false;
    }
    return true;
}

static bool value_is_ip(int family, struct str text)
{
    char copy[INET6_ADDRSTRLEN], address[sizeof(struct in6_addr)];

    return str_copy(copy, sizeof(copy), text) && memchr(text.p, '\0', text.len) == NULL &&
           inet_pton(family, copy, address) == 1;
}

/* RFC 3986, 3.2.2, without percent-encoding. A name whose last label is a number can only be meant
 * as an IPv4 address. */
static const char *value_check_host_name(struct str text)
{
    struct str rest = text, label = {"", 0};
    uint64_t number;

    if (text.len == 0 || text.len > 253 || !value_is_made_of(text, "._-"))
        return "is not a host name or address";
    while (str_split(&rest, '.', &label)) {
        bool is_root = label.len == 0 && rest.p == NULL && text.len > 1;
        if ((label.len == 0 && !is_root) || label.len > 63)
            return "has an empty or too long label";
        if (label.len > 0 && label.p[0] == '-')
            return "has a label that begins with a hyphen";
    }
    if (str_to_u64(label, &number) && !value_is_ip(AF_INET, text))
        return "is not an IPv4 address";
    return NULL;
}

/* Cuts the host off the front of *rest, where ":port" may be left. */
static const char *value_take_host(struct str *rest, struct str *out_host)
{
    const char *end;

    if (rest->len > 0 && rest->p[0] == '[') {
        end = memchr(rest->p, ']', rest->len);
        if (end == NULL)
            return "has no closing bracket";
        *out_host = (struct str){rest->p + 1, (size_t)(end - rest->p) - 1};
        size_t used = out_host->len + 2;
        *rest = (struct str){rest->p + used, rest->len - used};
        return value_is_ip(AF_INET6, *out_host) ? NULL : "is not an IPv6 address";
    }
    end = rest->len > 0 ? memchr(rest->p, ':', rest->len) : NULL;
    size_t used = end != NULL ? (size_t)(end - rest->p) : rest->len;
    *out_host = (struct str){rest->p, used};
    *rest = (struct str){rest->p + used, rest->len - used};
    if (rest->len > 1 && memchr(rest->p + 1, ':', rest->len - 1) != NULL)
        return "has several colons; write an IPv6 address in brackets";
    return value_check_host_name(*out_host);
}

static const char *value_parse_port(struct str text, uint16_t *out_port)
{
    uint64_t port;

    if (text.len < 2 || text.p[0] != ':')
        return "has no port";
    if (!str_to_u64((struct str){text.p + 1, text.len - 1}, &port) || port > UINT16_MAX)
        return "has an odd port; it is a number from 0 to 65535";
    *out_port = (uint16_t)port;
    return NULL;
}

static bool value_skip(struct str *text, struct str prefix)
{
    if (!str_starts(*text, prefix))
        return false;
    *text = (struct str){text->p + prefix.len, text->len - prefix.len};
    return true;
}

const char *value_parse_address(struct str text, struct value_address *out)
{
    struct value_address address = {.is_unix = false};

    if (value_skip(&text, STR("unix:"))) {
        if (text.len == 0)
            return "has no path behind \"unix:\"";
        *out = (struct value_address){.is_unix = true, .host = text};
        return NULL;
    }
    const char *wrong = value_take_host(&text, &address.host);
    if (wrong == NULL)
        wrong = value_parse_port(text, &address.port);
    if (wrong == NULL)
        *out = address;
    return wrong;
}

/* What follows "redis://". */
static const char *value_parse_redis_server(struct str text, struct value_redis *out)
{
    struct value_redis redis = {.tls = out->tls, .address.port = 6379};
    struct str server, path = text;
    uint64_t database = 0;

    if (memchr(text.p, '@', text.len) != NULL)
        return "has user information; use `username` and `password_file`";
    (void)str_split(&path, '/', &server);
    if (path.p != NULL && path.len > 0 && (!str_to_u64(path, &database) || database > 65535))
        return "has an odd database behind the \"/\"; it is a number";
    redis.database = (uint32_t)database;

    const char *wrong = value_take_host(&server, &redis.address.host);
    if (wrong == NULL && server.len > 0)
        wrong = value_parse_port(server, &redis.address.port);
    if (wrong == NULL && redis.address.port == 0)
        wrong = "has port 0";
    if (wrong == NULL)
        *out = redis;
    return wrong;
}

const char *value_parse_redis(struct str text, struct value_redis *out)
{
    struct value_redis redis = {.tls = false};
    const char *wrong;

    if (str_starts(text, STR("unix:"))) {
        wrong = value_parse_address(text, &redis.address);
    } else {
        redis.tls = value_skip(&text, STR("rediss://"));
        if (!redis.tls && !value_skip(&text, STR("redis://")))
            return "is not redis://host:port, rediss://host:port or unix:/path";
        wrong = value_parse_redis_server(text, &redis);
    }
    if (wrong == NULL)
        *out = redis;
    return wrong;
}

/* The text is UTF-8, libyaml saw to that; what escapes can bring in beyond what a file may contain
 * is refused here. */
const char *value_check_text(struct str text)
{
    static const char *const breaking[] = {"\xe2\x80\xa8", "\xe2\x80\xa9", "\xef\xbb\xbf",
                                           "\xef\xbf\xbe", "\xef\xbf\xbf"};

    if (text.len == 0)
        return "is empty";
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.p[i];
        struct str rest = {text.p + i, text.len - i};
        if (c < 0x20 || c == 0x7f || (c == 0xc2 && rest.len > 1 && (unsigned char)rest.p[1] < 0xa0))
            return "has a control character";
        for (size_t k = 0; k < ARRAY_SIZE(breaking); k++) {
            if (str_starts(rest, str_c(breaking[k])))
                return "has a character that cannot be shown";
        }
    }
    return NULL;
}

const char *value_check_name(struct str text)
{
    if (text.len == 0 || text.len > LABEL_MAX)
        return "is not a name of 1 to 64 characters";
    if (!value_is_made_of(text, " ._-()/:+@=#&,"))
        return "has a character that names cannot have";
    if (text.p[0] == ' ' || text.p[text.len - 1] == ' ')
        return "begins or ends with a space";
    return NULL;
}

const char *value_check_prefix(struct str text)
{
    if (text.len == 0 || text.len > 32 || !value_is_made_of(text, "._-"))
        return "is not 1 to 32 letters, digits, dots, hyphens and underscores";
    return NULL;
}

const char *value_check_authority(struct str text)
{
    struct str host;
    uint16_t port;

    const char *wrong = value_take_host(&text, &host);
    if (wrong == NULL && text.len > 0)
        wrong = value_parse_port(text, &port);
    return wrong;
}

const char *value_check_host(struct str text)
{
    struct str host;

    const char *wrong = value_take_host(&text, &host);
    if (wrong == NULL && text.len > 0)
        wrong = "must be a host alone, without a port";
    return wrong;
}

const char *value_check_tls_version(struct str text)
{
    if (str_eq(text, STR("1.2")) || str_eq(text, STR("1.3")))
        return NULL;
    return "is not 1.2 or 1.3";
}

const char *value_check_method(struct str text)
{
    static const char *const methods[] = {"GET",   "HEAD",   "POST",   "PUT",
                                          "PATCH", "DELETE", "OPTIONS"};

    for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
        if (str_eq(text, str_c(methods[i])))
            return NULL;
    }
    return "is not GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS";
}

static const char *value_check_segment(struct str segment, bool *has_device)
{
    if (str_eq(segment, STR(".")) || str_eq(segment, STR("..")))
        return "has a \".\" or \"..\" segment";
    if (str_eq(segment, STR("{device}"))) {
        if (*has_device)
            return "has {device} twice";
        *has_device = true;
        return NULL;
    }
    if (memchr(segment.p, '{', segment.len) != NULL || memchr(segment.p, '}', segment.len) != NULL)
        return "has braces; only {device} may stand in them, as a whole segment";
    /* RFC 3986, 3.3: pchar, without what could be read in two ways. */
    if (!value_is_made_of(segment, "-._~!$&'()*+,=:@"))
        return "has a character that a normalised path cannot have (such as % ; ? # or a space)";
    return NULL;
}

const char *value_check_path(struct str text)
{
    struct str rest = text, segment;
    bool has_device = false;

    if (!value_skip(&rest, STR("/")))
        return "does not begin with \"/\"";
    while (str_split(&rest, '/', &segment)) {
        if (segment.len == 0 && rest.p != NULL)
            return "has an empty segment (\"//\")";
        const char *wrong = value_check_segment(segment, &has_device);
        if (wrong != NULL)
            return wrong;
    }
    return NULL;
}

const char *value_check_path_prefix(struct str text)
{
    const char *wrong = value_check_path(text);

    if (wrong != NULL)
        return wrong;
    if (text.len > 1 && text.p[text.len - 1] == '/')
        return "ends with \"/\"; prefixes are whole segments without it";
    if (memchr(text.p, '{', text.len) != NULL)
        return "has {device}, which only a `path` can have";
    return NULL;
}

bool value_path_names_device(const char *path)
{
    return strstr(path, "/{device}") != NULL;
}

static size_t value_least(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;

    return least < c ? least : c;
}

/* Optimal string alignment: row i of the matrix needs the two rows above it. */
size_t value_distance(struct str a, struct str b)
{
    enum { WORD_MAX = 32 };
    size_t rows[3][WORD_MAX + 1];

    if (a.len > WORD_MAX || b.len > WORD_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= b.len; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= a.len; i++) {
        size_t *row = rows[i % 3], *above = rows[(i - 1) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= b.len; j++) {
            size_t change = a.p[i - 1] == b.p[j - 1] ? 0 : 1;
            row[j] = value_least(above[j] + 1, row[j - 1] + 1, above[j - 1] + change);
            if (i > 1 && j > 1 && a.p[i - 1] == b.p[j - 2] && a.p[i - 2] == b.p[j - 1] &&
                two_above[j - 2] + 1 < row[j])
                row[j] = two_above[j - 2] + 1;
        }
    }
    return rows[a.len % 3][b.len];
}

static bool value_parse_status(struct str text, int *out)
{
    uint64_t number;

    if (!str_to_u64(text, &number) || number < 200 || number > 599)
        return false;
    *out = (int)number;
    return true;
}

bool value_parse_statuses(struct str text, struct value_statuses *out)
{
    struct str rest = text, from;

    if (!str_split(&rest, '-', &from) || !value_parse_status(from, &out->from))
        return false;
    out->to = out->from;
    return from.len == text.len || (value_parse_status(rest, &out->to) && out->to >= out->from);
}

const char *value_check_statuses(struct str text)
{
    struct value_statuses statuses;

    return value_parse_statuses(text, &statuses)
               ? NULL
               : "is not a status from 200 to 599, or two with a dash between them";
}

const char *value_check_target(struct str text)
{
    if (text.len == 0 || text.p[0] != '/')
        return "must begin with a slash";
    for (size_t i = 0; i < text.len; i++) {
        if (text.p[i] <= ' ' || text.p[i] > '~' || text.p[i] == '#')
            return "must be ASCII without spaces and fragment";
    }
    return text.len <= 1024 ? NULL : "is too long: at most 1024 characters";
}
