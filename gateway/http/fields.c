/* SPDX-License-Identifier: BSD-2-Clause */
/* Forwarding runs for every request and every response: the first letter of a name finds the few
 * rules that may concern it, and most names have none. */
#include "gateway/http/fields.h"

/* Why a field stays behind; one bit each. */
enum http_field_class {
    HTTP_FIELD_HOP = 1,      /* in both directions */
    HTTP_FIELD_IDENTITY = 2, /* in requests; only the gateway says who speaks */
    HTTP_FIELD_OVERRIDE = 4, /* in requests; only the request line says what is asked for */
    HTTP_FIELD_REQUEST = 8,  /* in requests; the caller writes it */
    HTTP_FIELD_RESPONSE = 16 /* in responses; the gateway writes it */
};

struct http_field_rule {
    struct str name; /* folded */
    bool is_prefix;  /* "x-device-" stands for all that begin so */
    unsigned classes;
};

#define EXACT(text, classes)                                                                       \
    {                                                                                              \
        STR(text), false, classes                                                                  \
    }
#define PREFIX(text, classes)                                                                      \
    {                                                                                              \
        STR(text), true, classes                                                                   \
    }

static const struct http_field_rule rules_c[] = {
    EXACT("connection", HTTP_FIELD_HOP),
    EXACT("content-length", HTTP_FIELD_HOP),
    PREFIX("client-cert", HTTP_FIELD_IDENTITY),
    EXACT("client-ip", HTTP_FIELD_IDENTITY),
    EXACT("cf-connecting-ip", HTTP_FIELD_IDENTITY),
};
static const struct http_field_rule rules_d[] = {
    EXACT("device-rotation", HTTP_FIELD_IDENTITY | HTTP_FIELD_RESPONSE),
};
static const struct http_field_rule rules_e[] = {
    EXACT("expect", HTTP_FIELD_REQUEST),
};
static const struct http_field_rule rules_f[] = {
    PREFIX("forwarded", HTTP_FIELD_IDENTITY),
};
static const struct http_field_rule rules_h[] = {
    EXACT("host", HTTP_FIELD_REQUEST),
    EXACT("http2-settings", HTTP_FIELD_HOP),
};
static const struct http_field_rule rules_k[] = {
    EXACT("keep-alive", HTTP_FIELD_HOP),
};
static const struct http_field_rule rules_p[] = {
    PREFIX("proxy-", HTTP_FIELD_HOP),
    EXACT("proxy", HTTP_FIELD_HOP), /* HTTP_PROXY in a CGI's environment */
};
static const struct http_field_rule rules_r[] = {
    PREFIX("remote-", HTTP_FIELD_IDENTITY),
};
static const struct http_field_rule rules_s[] = {
    PREFIX("ssl-", HTTP_FIELD_IDENTITY),
};
static const struct http_field_rule rules_t[] = {
    EXACT("te", HTTP_FIELD_HOP),
    EXACT("trailer", HTTP_FIELD_HOP),
    EXACT("transfer-encoding", HTTP_FIELD_HOP),
    EXACT("traceparent", HTTP_FIELD_REQUEST),
    EXACT("tracestate", HTTP_FIELD_REQUEST),
    EXACT("true-client-ip", HTTP_FIELD_IDENTITY),
};
static const struct http_field_rule rules_u[] = {
    EXACT("upgrade", HTTP_FIELD_HOP),
};
static const struct http_field_rule rules_x[] = {
    PREFIX("x-device-", HTTP_FIELD_IDENTITY),
    PREFIX("x-operator-", HTTP_FIELD_IDENTITY),
    PREFIX("x-client-", HTTP_FIELD_IDENTITY),
    PREFIX("x-ssl-", HTTP_FIELD_IDENTITY),
    PREFIX("x-forwarded", HTTP_FIELD_IDENTITY),
    PREFIX("x-real-", HTTP_FIELD_IDENTITY),
    PREFIX("x-remote-", HTTP_FIELD_IDENTITY),
    PREFIX("x-authenticated-", HTTP_FIELD_IDENTITY),
    EXACT("x-request-id", HTTP_FIELD_IDENTITY),
    EXACT("x-cluster-client-ip", HTTP_FIELD_IDENTITY),
    EXACT("x-arr-clientcert", HTTP_FIELD_IDENTITY),
    PREFIX("x-original-",
           HTTP_FIELD_OVERRIDE | HTTP_FIELD_IDENTITY), /* -URL, -Method; -Forwarded-For */
    PREFIX("x-rewrite-", HTTP_FIELD_OVERRIDE),
    PREFIX("x-http-method", HTTP_FIELD_OVERRIDE),
    EXACT("x-method-override", HTTP_FIELD_OVERRIDE),
};

#undef EXACT
#undef PREFIX

static const struct {
    const struct http_field_rule *rules;
    size_t n;
} rules_by_letter['z' - 'a' + 1] = {
    ['c' - 'a'] = {rules_c, ARRAY_SIZE(rules_c)}, ['d' - 'a'] = {rules_d, ARRAY_SIZE(rules_d)},
    ['e' - 'a'] = {rules_e, ARRAY_SIZE(rules_e)}, ['f' - 'a'] = {rules_f, ARRAY_SIZE(rules_f)},
    ['h' - 'a'] = {rules_h, ARRAY_SIZE(rules_h)}, ['k' - 'a'] = {rules_k, ARRAY_SIZE(rules_k)},
    ['p' - 'a'] = {rules_p, ARRAY_SIZE(rules_p)}, ['r' - 'a'] = {rules_r, ARRAY_SIZE(rules_r)},
    ['s' - 'a'] = {rules_s, ARRAY_SIZE(rules_s)}, ['t' - 'a'] = {rules_t, ARRAY_SIZE(rules_t)},
    ['u' - 'a'] = {rules_u, ARRAY_SIZE(rules_u)}, ['x' - 'a'] = {rules_x, ARRAY_SIZE(rules_x)},
};

static char http_fold(char c)
{
    if (c >= 'A' && c <= 'Z')
        return (char)(c + ('a' - 'A'));
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? c : '-';
}

static bool http_rule_matches(const struct http_field_rule *rule, struct str name)
{
    if (rule->is_prefix ? name.len < rule->name.len : name.len != rule->name.len)
        return false;
    /* From the end: beginnings are alike ("x-", "content-"). */
    for (size_t i = rule->name.len; i > 0; i--) {
        if (http_fold(name.p[i - 1]) != rule->name.p[i - 1])
            return false;
    }
    return true;
}

static unsigned http_field_classes(struct str name)
{
    char first = name.len > 0 ? http_fold(name.p[0]) : '-';

    if (first < 'a' || first > 'z')
        return 0;
    const struct http_field_rule *rules = rules_by_letter[first - 'a'].rules;
    for (size_t i = 0; i < rules_by_letter[first - 'a'].n; i++) {
        if (http_rule_matches(&rules[i], name))
            return rules[i].classes;
    }
    return 0;
}

bool http_field_is_identity(struct str name)
{
    return (http_field_classes(name) & HTTP_FIELD_IDENTITY) != 0;
}

bool http_field_is_override(struct str name)
{
    return (http_field_classes(name) & HTTP_FIELD_OVERRIDE) != 0;
}

static bool http_eq_folded(struct str a, struct str b)
{
    if (a.len != b.len)
        return false;
    for (size_t i = 0; i < a.len; i++) {
        if (http_fold(a.p[i]) != http_fold(b.p[i]))
            return false;
    }
    return true;
}

/* True when a Connection field names `name`; for an empty name, when it names anything but its own
 * two options. */
static bool http_head_nominates(const struct http_head *head, struct str name)
{
    for (size_t i = 0; i < head->n_fields; i++) {
        struct str list = head->fields[i].value, option;
        if (head->fields[i].name.len != sizeof("Connection") - 1 ||
            !str_eq_nocase(head->fields[i].name, STR("Connection")))
            continue;
        while (str_split(&list, ',', &option)) {
            option = str_trim(option);
            if (name.len > 0 ? http_eq_folded(option, name)
                             : !str_eq_nocase(option, STR("close")) &&
                                   !str_eq_nocase(option, STR("keep-alive")))
                return true;
        }
    }
    return false;
}

bool http_field_is_hop_by_hop(const struct http_head *head, struct str name)
{
    return (http_field_classes(name) & HTTP_FIELD_HOP) != 0 ||
           (name.len > 0 && http_head_nominates(head, name));
}

static char *http_put(char *at, struct str text)
{
    if (text.len > 0)
        memcpy(at, text.p, text.len);
    return at + text.len;
}

static bool http_field_append(struct buf *out, const struct http_field *field)
{
    size_t need = field->name.len + field->value.len + sizeof(": \r\n") - 1, room;

    if (buf_space(out) < need)
        return false;
    char *at = buf_reserve(out, &room);
    if (at == NULL)
        return false;
    if (room < need)
        return buf_append_str(out, field->name) && buf_append_str(out, STR(": ")) &&
               buf_append_str(out, field->value) && buf_append_str(out, STR("\r\n"));
    at = http_put(at, field->name);
    at = http_put(at, STR(": "));
    at = http_put(at, field->value);
    (void)http_put(at, STR("\r\n"));
    buf_commit(out, need);
    return true;
}

bool http_fields_forward(const struct http_head *head, enum http_fields_direction direction,
                         struct buf *out)
{
    unsigned held =
        direction == HTTP_FIELDS_TO_BACKEND
            ? HTTP_FIELD_HOP | HTTP_FIELD_IDENTITY | HTTP_FIELD_OVERRIDE | HTTP_FIELD_REQUEST
            : HTTP_FIELD_HOP | HTTP_FIELD_RESPONSE;
    bool has_nominees = http_head_nominates(head, STR(""));

    for (size_t i = 0; i < head->n_fields; i++) {
        const struct http_field *field = &head->fields[i];
        if ((http_field_classes(field->name) & held) != 0)
            continue;
        if (has_nominees && http_head_nominates(head, field->name))
            continue;
        if (!http_field_append(out, field))
            return false;
    }
    return true;
}

/* Exactly `len` lower-case hex digits. */
static bool http_is_trace_id(struct str text, size_t len)
{
    if (text.len != len)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!((text.p[i] >= '0' && text.p[i] <= '9') || (text.p[i] >= 'a' && text.p[i] <= 'f')))
            return false;
    }
    return true;
}

bool http_traceparent_is_valid(struct str value)
{
    struct str version, trace, parent;

    return str_split(&value, '-', &version) && str_split(&value, '-', &trace) &&
           str_split(&value, '-', &parent) && str_eq(version, STR("00")) &&
           http_is_trace_id(trace, 32) && http_is_trace_id(parent, 16) && value.p != NULL &&
           http_is_trace_id(value, 2) && !str_eq(trace, STR("00000000000000000000000000000000")) &&
           !str_eq(parent, STR("0000000000000000"));
}
