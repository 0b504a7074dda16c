/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/store/codec.h"

#include <inttypes.h>
#include <stdio.h>

#include "gateway/base/clock.h"

enum rule_type {
    RULE_COUNT, /* uint64_t */
    RULE_TIME, /* int64_t, may be negative: a certificate's notAfter is whatever its issuer wrote */
    RULE_FLAG, /* bool */
    RULE_TEXT, /* char[size], without a NUL inside */
    RULE_NAME, /* char[size], a device's name */
    RULE_DIGEST, /* struct digest */
    RULE_LEASES, /* n_leases and leases */
};

/* One field of a hash and where it belongs. */
struct rule {
    const char *name;
    size_t name_len;
    enum rule_type type;
    bool is_required;
    size_t offset;
    size_t size;
};

#define RULE(type_, required_, name_, struct_, member_)                                            \
    {                                                                                              \
        .name = (name_), .name_len = sizeof(name_) - 1, .type = (type_),                           \
        .is_required = (required_), .offset = offsetof(struct_, member_),                          \
        .size = sizeof(((struct_ *)0)->member_)                                                    \
    }
#define REQUIRED(type, name, member) RULE(type, true, name, struct device_record, member)
#define OPTIONAL(type, name, member) RULE(type, false, name, struct device_record, member)

static const struct rule record_rules[] = {
    REQUIRED(RULE_COUNT, "version", version),
    REQUIRED(RULE_NAME, "name", name),
    OPTIONAL(RULE_TEXT, "factory", factory),
    OPTIONAL(RULE_TEXT, "group", group),
    REQUIRED(RULE_FLAG, "production", production),
    REQUIRED(RULE_TIME, "first_seen", first_seen_ms),
    REQUIRED(RULE_COUNT, "generation", generation),
    REQUIRED(RULE_DIGEST, "current", current.id),
    REQUIRED(RULE_TEXT, "current_pem", current.pem),
    REQUIRED(RULE_TIME, "current_since", current_since_ms),
    REQUIRED(RULE_TIME, "current_cert_expires", current_cert_expires_ms),
    OPTIONAL(RULE_DIGEST, "pending", pending.id),
    OPTIONAL(RULE_TEXT, "pending_pem", pending.pem),
    OPTIONAL(RULE_TIME, "pending_since", pending_since_ms),
    OPTIONAL(RULE_TEXT, "rotation_id", rotation_id),
    OPTIONAL(RULE_FLAG, "stalled", stalled),
    OPTIONAL(RULE_TIME, "wanted_until", wanted_until_ms),
    OPTIONAL(RULE_LEASES, "leases", leases),
};
#undef REQUIRED
#undef OPTIONAL

static const struct rule denial_rules[] = {
    RULE(RULE_TIME, true, "at", struct denial, at_ms),
    RULE(RULE_TIME, true, "until", struct denial, until_ms),
    RULE(RULE_TEXT, false, "reason", struct denial, reason),
    RULE(RULE_TEXT, false, "origin", struct denial, origin),
    RULE(RULE_NAME, false, "device", struct denial, device),
};

/* Every rule has a bit in the set of those that were met. */
_Static_assert(ARRAY_SIZE(record_rules) <= 32, "too many rules for one set");

const char *cut_mode_wire(enum cut_mode mode)
{
    switch (mode) {
    case CUT_NOW:
        return "now";
    case CUT_DRAIN:
        return "drain";
    case CUT_DECIDE:
        return "decide";
    case CUT_NONE:
        break;
    }
    return NULL;
}

/* Reading. */

static bool read_time(struct str text, int64_t *out)
{
    bool is_negative = text.len > 0 && text.p[0] == '-';
    struct str digits = {text.p + is_negative, text.len - is_negative};
    uint64_t number;

    if (!str_to_u64(digits, &number) || number > (uint64_t)INT64_MAX + is_negative)
        return false;
    *out = (int64_t)(is_negative ? 0 - number : number);
    return true;
}

static bool read_flag(struct str text, bool *out)
{
    if (text.len != 1 || (text.p[0] != '0' && text.p[0] != '1'))
        return false;
    *out = text.p[0] == '1';
    return true;
}

static bool read_text(struct str text, char *out, size_t size)
{
    return (text.len == 0 || memchr(text.p, '\0', text.len) == NULL) && str_copy(out, size, text);
}

static bool token_is_valid(struct str token)
{
    if (token.len != LEASE_TOKEN_LEN)
        return false;
    for (size_t i = 0; i < token.len; i++) {
        if (!((token.p[i] >= '0' && token.p[i] <= '9') || (token.p[i] >= 'a' && token.p[i] <= 'f')))
            return false;
    }
    return true;
}

static bool read_leases(struct str text, struct device_record *record)
{
    struct str lease, token;

    record->n_leases = 0;
    while (text.len > 0 && str_split(&text, ' ', &lease)) {
        if (record->n_leases == WRITE_LEASES_MAX)
            return false;
        struct write_lease *to = &record->leases[record->n_leases++];
        if (!str_split(&lease, ':', &token) || !token_is_valid(token) || lease.p == NULL ||
            !read_time(lease, &to->expires_ms) || !str_copy(to->token, sizeof(to->token), token))
            return false;
    }
    return text.p == NULL || record->n_leases == 0;
}

static bool read_value(const struct rule *rule, struct str value, void *object)
{
    void *member = (char *)object + rule->offset;

    switch (rule->type) {
    case RULE_COUNT:
        return str_to_u64(value, member);
    case RULE_TIME:
        return read_time(value, member);
    case RULE_FLAG:
        return read_flag(value, member);
    case RULE_TEXT:
        return read_text(value, member, rule->size);
    case RULE_NAME:
        return device_name_is_valid(value.p, value.len) && str_copy(member, rule->size, value);
    case RULE_DIGEST:
        return digest_is_valid(value.p, value.len) && str_copy(member, rule->size, value);
    case RULE_LEASES:
        return read_leases(value, object);
    }
    return false;
}

static const struct rule *find_rule(const struct rule *rules, size_t n_rules, struct str name)
{
    for (size_t i = 0; i < n_rules; i++) {
        if (rules[i].name_len == name.len && memcmp(rules[i].name, name.p, name.len) == 0)
            return &rules[i];
    }
    return NULL;
}

static bool read_fields(const struct rule *rules, size_t n_rules, const struct field *fields,
                        size_t n_fields, void *object, const char **out_wrong)
{
    uint32_t met = 0;

    for (size_t i = 0; i < n_fields; i++) {
        const struct rule *rule = find_rule(rules, n_rules, fields[i].name);
        if (rule == NULL)
            continue;
        if (!read_value(rule, fields[i].value, object)) {
            *out_wrong = rule->name;
            return false;
        }
        met |= 1u << (rule - rules);
    }
    for (size_t i = 0; i < n_rules; i++) {
        if (rules[i].is_required && (met & (1u << i)) == 0) {
            *out_wrong = rules[i].name;
            return false;
        }
    }
    return true;
}

/* What the fields must be to each other; NULL, or the one that is wrong. */
static const char *record_contradiction(const struct device_record *record)
{
    bool is_pending = record_rotation_pending(record);

    if (record->version == 0)
        return "version";
    if (record->current.pem[0] == '\0')
        return "current_pem";
    if (is_pending != (record->pending.pem[0] != '\0'))
        return "pending_pem";
    if (is_pending && record->pending_since_ms == 0)
        return "pending_since";
    return NULL;
}

bool codec_read_record(const struct field *fields, size_t n_fields, struct device_record *out,
                       const char **out_wrong)
{
    struct device_record record = {0};
    const char *wrong = NULL;

    if (!read_fields(record_rules, ARRAY_SIZE(record_rules), fields, n_fields, &record, &wrong) ||
        (wrong = record_contradiction(&record)) != NULL) {
        *out_wrong = wrong;
        return false;
    }
    *out = record;
    return true;
}

bool codec_read_denial(const struct field *fields, size_t n_fields, struct denial *out,
                       const char **out_wrong)
{
    struct denial denial = {0};

    if (!read_fields(denial_rules, ARRAY_SIZE(denial_rules), fields, n_fields, &denial, out_wrong))
        return false;
    *out = denial;
    return true;
}

struct str codec_find(const struct field *fields, size_t n_fields, const char *name)
{
    struct str wanted = str_c(name), found = {NULL, 0};

    for (size_t i = 0; i < n_fields; i++) {
        if (str_eq(fields[i].name, wanted))
            found = fields[i].value;
    }
    return found;
}

/* Writing. */

static bool member_is_written(const struct rule *rule, const struct device_record *record)
{
    const char *member = (const char *)record + rule->offset;
    int64_t time;

    switch (rule->type) {
    case RULE_TEXT:
    case RULE_NAME:
    case RULE_DIGEST:
        return *member != '\0';
    case RULE_LEASES:
        return record->n_leases > 0;
    case RULE_TIME:
        memcpy(&time, member, sizeof(time));
        return rule->is_required || time != 0;
    case RULE_COUNT:
    case RULE_FLAG:
        break;
    }
    return rule->is_required || record_rotation_pending(record);
}

static struct str write_leases(const struct device_record *record, struct codec_scratch *scratch)
{
    size_t len = 0;

    for (size_t i = 0; i < record->n_leases && i < WRITE_LEASES_MAX; i++) {
        const struct write_lease *lease = &record->leases[i];
        len += (size_t)snprintf(scratch->leases + len, sizeof(scratch->leases) - len,
                                "%s%.*s:%" PRId64, i > 0 ? " " : "", LEASE_TOKEN_LEN, lease->token,
                                lease->expires_ms);
    }
    return (struct str){scratch->leases, len};
}

static void write_member(const struct rule *rule, const struct device_record *record,
                         struct codec_scratch *scratch, struct command *to)
{
    const char *member = (const char *)record + rule->offset;
    uint64_t count;
    int64_t time;
    bool flag;

    command_add(to, (struct str){rule->name, rule->name_len});
    switch (rule->type) {
    case RULE_COUNT:
        memcpy(&count, member, sizeof(count));
        command_add_int(to, (int64_t)count);
        break;
    case RULE_TIME:
        memcpy(&time, member, sizeof(time));
        command_add_int(to, time);
        break;
    case RULE_FLAG:
        memcpy(&flag, member, sizeof(flag));
        command_add(to, flag ? STR("1") : STR("0"));
        break;
    case RULE_TEXT:
    case RULE_NAME:
    case RULE_DIGEST:
        command_add(to, str_c(member));
        break;
    case RULE_LEASES:
        command_add(to, write_leases(record, scratch));
        break;
    }
}

void codec_add_record(const struct device_record *record, struct codec_scratch *scratch,
                      struct command *to)
{
    int64_t n = 0;

    for (size_t i = 0; i < ARRAY_SIZE(record_rules); i++)
        n += member_is_written(&record_rules[i], record);
    command_add_int(to, 2 * n);
    for (size_t i = 0; i < ARRAY_SIZE(record_rules); i++) {
        if (member_is_written(&record_rules[i], record))
            write_member(&record_rules[i], record, scratch, to);
    }
}

static void write_text(struct command *to, struct str name, const char *text)
{
    command_add(to, name);
    command_add(to, str_c(text));
}

void codec_add_denial(const struct denial *denial, struct command *to)
{
    bool has_device = denial->device[0] != '\0';

    command_add_int(to, has_device ? 10 : 8);
    write_text(to, STR("reason"), denial->reason);
    write_text(to, STR("origin"), denial->origin);
    command_add(to, STR("at"));
    command_add_int(to, denial->at_ms);
    command_add(to, STR("until"));
    command_add_int(to, denial->until_ms);
    if (has_device)
        write_text(to, STR("device"), denial->device);
}

void codec_add_event(const struct device_event *event, const char *data,
                     struct codec_scratch *scratch, struct command *to)
{
    const char *cut = cut_mode_wire(event->cut);

    clock_format_rfc3339(event->at_ms, scratch->time);
    command_add_int(to, cut != NULL ? 14 : 8);
    write_text(to, STR("type"), event_wire(event->type));
    write_text(to, STR("device"), event->device);
    write_text(to, STR("time"), scratch->time);
    write_text(to, STR("data"), data);
    if (cut != NULL) {
        write_text(to, STR("cut"), cut);
        write_text(to, STR("cut_kind"), deny_kind_wire(event->cut_kind));
        write_text(to, STR("cut_id"), event->cut_id);
    }
}
