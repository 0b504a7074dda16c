/* SPDX-License-Identifier: BSD-2-Clause */
/* The configuration: what is accepted, what it becomes, and what people are told about the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "gateway/base/mem.h"
#include "gateway/config/config.h"
#include "gateway/config/document.h"
#include "gateway/config/report.h"
#include "gateway/config/settings.h"
#include "gateway/config/value.h"

/* --- help ------------------------------------------------------------------------------------- */

/* Everything that was reported, a line each. */
struct errors {
    char text[8192];
    size_t n;
};

static void on_error(const char *line, void *arg)
{
    struct errors *errors = arg;
    size_t len = strlen(errors->text);

    assert_null(strchr(line, '\n'));
    (void)snprintf(errors->text + len, sizeof(errors->text) - len, "%s%s", len > 0 ? "\n" : "",
                   line);
    errors->n++;
}

static void config_free_at(const struct config **config)
{
    config_unref(config);
}

#define CONFIG CLEANUP(config_free_at) const struct config *

static const struct config *parse_at(const char *path, const char *text)
{
    struct errors errors = {.n = 0};
    const struct config *config = config_parse(path, text, strlen(text), on_error, &errors);

    if (config == NULL)
        fail_msg("%s", errors.text);
    return config;
}

static const struct config *parse(const char *text)
{
    return parse_at("/etc/gateway.yaml", text);
}

/* Of a text that must be refused. */
static void parse_errors(const char *text, size_t len, struct errors *out)
{
    *out = (struct errors){.n = 0};
    CONFIG config = config_parse("g.yaml", text, len, on_error, out);
    if (config != NULL)
        fail_msg("accepted: %s", text);
    assert_true(out->n > 0);
}

/* The least that works; more sections follow. One line each, so that what follows begins in line 3.
 */
#define MINIMAL                                                                                    \
    "listeners: [{name: d, address: \"127.0.0.1:1\", certificate: c, key: k}]\n"                   \
    "device_cas: [{name: ca, certificate: ca.pem}]\n"
/* The same with listeners for operators. Line 3 holds the backend; more begins in line 4. */
#define OPERATORS                                                                                  \
    "listeners: [{name: d, address: \"127.0.0.1:1\", certificate: c, key: k}, {name: o, "          \
    "clients: operators, address: unix:o}]\n"                                                      \
    "device_cas: [{name: ca, certificate: ca.pem}]\n"                                              \
    "backends: [{name: b, servers: [\"127.0.0.1:80\"]}]\n"

static char *read_file(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = mem_zalloc(DOCUMENT_BYTES_MAX);

    assert_non_null(file);
    assert_true(fread(text, 1, DOCUMENT_BYTES_MAX - 1, file) > 0);
    assert_int_equal(fclose(file), 0);
    return text;
}

/* --- values ----------------------------------------------------------------------------------- */

static void durations_need_a_unit_and_are_written_back_alike(void **state)
{
    static const struct {
        const char *text;
        int64_t ms; /* -1: refused */
        const char *back;
    } cases[] = {
        {"250ms", 250, "250ms"},
        {"10s", 10000, "10s"},
        {"5m", 300000, "5m"},
        {"12h", 43200000, "12h"},
        {"7d", 604800000, "7d"},
        {"24h", 86400000, "1d"},
        {"1500ms", 1500, "1500ms"},
        {"120s", 120000, "2m"},
        {"0", 0, "0s"},
        {"0ms", 0, "0s"},
        {"9223372036854775807ms", INT64_MAX, "9223372036854775807ms"},
        {"9223372036854775808ms", -1, NULL},
        {"106751991168d", -1, NULL},
        {"10", -1, NULL},
        {"s", -1, NULL},
        {"", -1, NULL},
        {"10 s", -1, NULL},
        {"-1s", -1, NULL},
        {"1.5s", -1, NULL},
        {"10S", -1, NULL},
        {"10sec", -1, NULL},
        {"1m30s", -1, NULL},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char back[VALUE_TEXT_SIZE];
        int64_t ms = -1;
        assert_int_equal(value_parse_duration(str_c(cases[i].text), &ms), cases[i].ms >= 0);
        assert_int_equal(ms, cases[i].ms);
        if (ms < 0)
            continue;
        value_format_duration(ms, back);
        assert_string_equal(back, cases[i].back);
    }
}

static void sizes_are_binary_and_are_written_back_alike(void **state)
{
    static const struct {
        const char *text;
        bool valid;
        uint64_t bytes;
        const char *back;
    } cases[] = {
        {"64KiB", true, 65536, "64KiB"},    {"1MiB", true, 1048576, "1MiB"},
        {"1024KiB", true, 1048576, "1MiB"}, {"2GiB", true, UINT64_C(2) << 30, "2GiB"},
        {"1000", true, 1000, "1000"},       {"0", true, 0, "0"},
        {"64KB", false, 0, NULL},           {"64k", false, 0, NULL},
        {"64 KiB", false, 0, NULL},         {"KiB", false, 0, NULL},
        {"0x10", false, 0, NULL},           {"17179869184GiB", false, 0, NULL},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char back[VALUE_TEXT_SIZE];
        uint64_t bytes = 0;
        assert_int_equal(value_parse_size(str_c(cases[i].text), &bytes), cases[i].valid);
        assert_int_equal(bytes, cases[i].bytes);
        if (!cases[i].valid)
            continue;
        value_format_size(bytes, back);
        assert_string_equal(back, cases[i].back);
    }
}

static void addresses_have_a_host_and_a_port_or_a_path(void **state)
{
    static const struct {
        const char *text;
        const char *host; /* NULL: refused */
        uint16_t port;
        bool is_unix;
    } cases[] = {
        {"0.0.0.0:8443", "0.0.0.0", 8443, false},
        {"[::]:8443", "::", 8443, false},
        {"[fe80::1]:0", "fe80::1", 0, false},
        {"localhost:65535", "localhost", 65535, false},
        {"a_b.example.com.:1", "a_b.example.com.", 1, false},
        {"unix:/run/api.sock", "/run/api.sock", 0, true},
        {"unix:api", "api", 0, true},
        {"unix:", NULL, 0, false},
        {"8443", NULL, 0, false},
        {":8443", NULL, 0, false},
        {"localhost", NULL, 0, false},
        {"localhost:", NULL, 0, false},
        {"localhost:65536", NULL, 0, false},
        {"localhost:http", NULL, 0, false},
        {"::1:8443", NULL, 0, false},
        {"[::1]", NULL, 0, false},
        {"[::1:8443", NULL, 0, false},
        {"[localhost]:1", NULL, 0, false},
        {"[]:1", NULL, 0, false},
        {"256.0.0.1:1", NULL, 0, false},
        {"1.2.3:1", NULL, 0, false},
        {"a..b:1", NULL, 0, false},
        {"-a:1", NULL, 0, false},
        {"a b:1", NULL, 0, false},
        {"http://a:1", NULL, 0, false},
        {"*:80", NULL, 0, false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct value_address address;
        const char *wrong = value_parse_address(str_c(cases[i].text), &address);
        if ((wrong == NULL) != (cases[i].host != NULL))
            fail_msg("%s: %s", cases[i].text, wrong != NULL ? wrong : "accepted");
        if (wrong != NULL)
            continue;
        assert_true(str_eq(address.host, str_c(cases[i].host)));
        assert_int_equal(address.port, cases[i].port);
        assert_int_equal(address.is_unix, cases[i].is_unix);
    }
}

static void redis_servers_are_urls_without_secrets(void **state)
{
    static const struct {
        const char *text;
        const char *host; /* NULL: refused */
        uint16_t port;
        uint32_t database;
        bool tls;
    } cases[] = {
        {"redis://redis:6380/3", "redis", 6380, 3, false},
        {"redis://redis", "redis", 6379, 0, false},
        {"redis://redis/", "redis", 6379, 0, false},
        {"rediss://[::1]:1", "::1", 1, 0, true},
        {"unix:/run/redis.sock", "/run/redis.sock", 0, 0, false},
        {"redis://", NULL, 0, 0, false},
        {"redis://:secret@redis", NULL, 0, 0, false},
        {"redis://redis:0", NULL, 0, 0, false},
        {"redis://redis:x", NULL, 0, 0, false},
        {"redis://redis/x", NULL, 0, 0, false},
        {"redis://redis/1/2", NULL, 0, 0, false},
        {"redis.example.com:6379", NULL, 0, 0, false},
        {"REDIS://redis", NULL, 0, 0, false},
        {"unix:", NULL, 0, 0, false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct value_redis redis;
        const char *wrong = value_parse_redis(str_c(cases[i].text), &redis);
        if ((wrong == NULL) != (cases[i].host != NULL))
            fail_msg("%s: %s", cases[i].text, wrong != NULL ? wrong : "accepted");
        if (wrong != NULL)
            continue;
        assert_true(str_eq(redis.address.host, str_c(cases[i].host)));
        assert_int_equal(redis.address.port, cases[i].port);
        assert_int_equal(redis.database, cases[i].database);
        assert_int_equal(redis.tls, cases[i].tls);
    }
}

static void only_normalised_paths_can_be_routes(void **state)
{
    static const struct {
        const char *text;
        bool is_path;
        bool is_prefix;
    } cases[] = {
        {"/", true, true},
        {"/device", true, true},
        {"/a/b-c_d.e~f/1", true, true},
        {"/a:b@c", true, true},
        {"/...", true, true},
        {"/a/", true, false},
        {"/devices/{device}/config", true, false},
        {"/{device}", true, false},
        {"/{device}/{device}", false, false},
        {"/x{device}", false, false},
        {"/{Device}", false, false},
        {"/{}", false, false},
        {"/a//b", false, false},
        {"//", false, false},
        {"/./a", false, false},
        {"/a/..", false, false},
        {"/%63onfig", false, false},
        {"/a;b", false, false},
        {"/a?b", false, false},
        {"/a#b", false, false},
        {"/a b", false, false},
        {"/a\\b", false, false},
        {"/\xc3\xa9", false, false},
        {"a", false, false},
        {"", false, false},
        {"*", false, false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        if ((value_check_path(str_c(cases[i].text)) == NULL) != cases[i].is_path ||
            (value_check_path_prefix(str_c(cases[i].text)) == NULL) != cases[i].is_prefix)
            fail_msg("%s", cases[i].text);
    }
    assert_true(value_path_names_device("/a/{device}/b"));
    assert_false(value_path_names_device("/a/device"));
}

static void words_are_judged_by_their_form(void **state)
{
    static const char name64[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    static const struct {
        const char *(*check)(struct str text);
        struct str text;
        bool valid;
    } cases[] = {
        {value_check_text, STR("/home/j\xc3\xbcrgen"), true},
        {value_check_text, STR(""), false},
        {value_check_text, STR("a\0b"), false},
        {value_check_text, STR("a\nb"), false},
        {value_check_text, STR("a\x7f"), false},
        {value_check_text, STR("a\xc2\x85"), false},
        {value_check_text, STR("a\xc2\xa0"), true},
        {value_check_text, STR("a\xe2\x80\xa8"), false},
        {value_check_text, STR("\xef\xbb\xbf"), false},
        {value_check_name, STR("Factory A (2024)"), true},
        {value_check_name, {name64, 64}, true},
        {value_check_name, {name64, 65}, false},
        {value_check_name, STR(" a"), false},
        {value_check_name, STR("a "), false},
        {value_check_name, STR("a\"b"), false},
        {value_check_name, STR("a\\b"), false},
        {value_check_name, STR("\xc3\xa9"), false},
        {value_check_prefix, STR("dgw-1.a_b"), true},
        {value_check_prefix, STR("a:b"), false},
        {value_check_prefix, STR("{a}"), false},
        {value_check_host, STR("example.com"), true},
        {value_check_host, STR("[::1]"), true},
        {value_check_host, STR("example.com:80"), false},
        {value_check_host, STR("http://x"), false},
        {value_check_authority, STR("example.com:80"), true},
        {value_check_authority, STR("example.com"), true},
        {value_check_authority, STR("example.com:"), false},
        {value_check_authority, STR("a\r\nb: c"), false},
        {value_check_tls_version, STR("1.2"), true},
        {value_check_tls_version, STR("1.1"), false},
        {value_check_method, STR("PATCH"), true},
        {value_check_method, STR("patch"), false},
        {value_check_method, STR("CONNECT"), false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        if ((cases[i].check(cases[i].text) == NULL) != cases[i].valid)
            fail_msg("case %zu: %.*s", i, STR_ARGS(cases[i].text));
    }
}

static void distance_counts_slips_of_the_fingers(void **state)
{
    static const struct {
        const char *a, *b;
        size_t distance;
    } cases[] = {
        {"", "", 0},
        {"", "abc", 3},
        {"address", "adress", 1},
        {"address", "addresss", 1},
        {"address", "addrses", 1},
        {"lease", "leese", 1},
        {"prefix", "postfix", 3},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "a", SIZE_MAX},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(value_distance(str_c(cases[i].a), str_c(cases[i].b)), cases[i].distance);
        assert_int_equal(value_distance(str_c(cases[i].b), str_c(cases[i].a)), cases[i].distance);
    }
}

/* --- the shipped files and the table ---------------------------------------------------------- */

/* Takes the "#" away from lines of the form `  #key: value`. */
static char *uncomment(const char *text)
{
    char *out = mem_zalloc(strlen(text) + 1);
    size_t len = 0;

    for (const char *p = text; *p != '\0'; p++) {
        size_t line_start = len;
        while (line_start > 0 && out[line_start - 1] == ' ')
            line_start--;
        bool is_first = line_start == 0 || out[line_start - 1] == '\n';
        if (*p == '#' && is_first && p[1] >= 'a' && p[1] <= 'z')
            continue;
        out[len++] = *p;
    }
    return out;
}

static void the_commented_defaults_of_the_example_are_the_defaults(void **state)
{
    CLEANUP(mem_free_at) char *text = read_file(CONF_DIR "/gateway.yaml");
    CLEANUP(mem_free_at) char *explicit = uncomment(text);
    CONFIG config = parse(text);
    CONFIG spelled = parse(explicit);
    CLEANUP(mem_free_at) char *dump = config_dump(config);
    CLEANUP(mem_free_at) char *spelled_dump = config_dump(spelled);

    assert_string_not_equal(text, explicit);
    assert_string_equal(dump, spelled_dump);
}

/* In a map, or in any item of a list. */
static const struct node *find_mention(const struct node *map, const struct setting *row)
{
    const struct node *found = NULL;

    if (map->type != NODE_LIST)
        return node_find(map, str_c(row->key));
    for (const struct node *item = map->first; item != NULL && found == NULL; item = item->next)
        found = node_find(item, str_c(row->key));
    return found;
}

static void assert_all_mentioned(const struct node *map, const struct setting *map_row)
{
    for (size_t i = 0; i < map_row->n_rows; i++) {
        const struct setting *row = &map_row->rows[i];
        const struct node *mention = find_mention(map, row);
        if (mention == NULL)
            fail_msg("conf/gateway.yaml does not mention %s.%s", map_row->key, row->key);
        if (row->n_rows > 0)
            assert_all_mentioned(mention, row);
    }
}

static void the_example_mentions_every_setting(void **state)
{
    CLEANUP(mem_free_at) char *text = read_file(CONF_DIR "/gateway.yaml");
    CLEANUP(mem_free_at) char *explicit = uncomment(text);
    struct errors errors = {.n = 0};
    struct report report = {.file = "gateway.yaml", .on_error = on_error, .arg = &errors};
    struct arena arena = {NULL};

    struct node *root = document_parse(&arena, &report, str_c(explicit));
    assert_non_null(root);
    assert_all_mentioned(root, &settings_root);
    arena_release(&arena);
}

static void assert_rows_are_complete(const struct setting *map_row, const char *path)
{
    for (size_t i = 0; i < map_row->n_rows; i++) {
        const struct setting *row = &map_row->rows[i];
        CLEANUP(mem_free_at)
        char *name = mem_printf("%s%s%s", path, *path != '\0' ? "." : "", row->key);
        assert_true(row->help != NULL && *row->help != '\0');
        assert_ptr_equal(settings_find(map_row, str_c(row->key)), row);
        assert_true(row->min <= row->max);
        assert_false(row->required && row->fallback != NULL);
        if (row->obstacle != NULL)
            assert_true(str_starts(str_c(row->obstacle), str_c(name)));
        assert_rows_are_complete(row, name);
    }
}

static void every_row_of_the_table_is_complete(void **state)
{
    assert_rows_are_complete(&settings_root, "");
}

/* What a group leaves out is looked up in rotation under the same key. */
static void every_setting_of_a_group_is_one_of_rotation(void **state)
{
    const struct setting *groups = settings_find(&settings_root, STR("groups"));
    const struct setting *rotation = settings_find(&settings_root, STR("rotation"));

    for (size_t i = 0; i < groups->n_rows; i++) {
        const struct setting *row = &groups->rows[i];
        const struct setting *same = settings_find(rotation, str_c(row->key));
        if (row->required)
            continue;
        assert_non_null(same);
        assert_int_equal(row->type, same->type);
        for (size_t k = 0; k < row->n_rows; k++) {
            const struct setting *inner = settings_find(same, str_c(row->rows[k].key));
            assert_non_null(inner);
            assert_int_equal(row->rows[k].type, inner->type);
            assert_true(row->rows[k].max == inner->max && row->rows[k].fallback == NULL);
        }
    }
}

static void a_group_inherits_what_it_leaves_out(void **state)
{
    const int64_t day = INT64_C(86400000);
    CONFIG config = parse(MINIMAL "groups:\n"
                                  "  - name: a\n"
                                  "    key_age: {action: refuse, overdue_after: ~}\n"
                                  "  - {name: b, expired_grace: 0s}\n"
                                  "rotation: {expired_grace: 9d,\n"
                                  "           key_age: {due_after: 2d, overdue_after: 3d, "
                                  "due_before_expiry: 1d, action: warn}}\n");
    const struct enforcement_rules *rules = &config->rotation.admission.rules;
    const struct enforcement *a = enforcement_of(rules, "a"), *b = enforcement_of(rules, "b");

    assert_int_equal(rules->n_groups, 2);
    assert_ptr_not_equal(a, &rules->fleet);
    assert_int_equal(a->key_age.action, KEY_AGE_REFUSE);
    assert_true(a->expired_grace_ms == 9 * day && a->key_age.due_after_ms == 2 * day &&
                a->key_age.overdue_after_ms == 3 * day && a->key_age.due_before_expiry_ms == day);
    assert_int_equal(b->key_age.action, KEY_AGE_WARN);
    assert_true(b->expired_grace_ms == 0 && b->key_age.overdue_after_ms == 3 * day);

    /* The dump spells it out, and means the same. */
    CLEANUP(mem_free_at) char *dump = config_dump(config);
    CONFIG again = parse(dump);
    const struct enforcement *same = enforcement_of(&again->rotation.admission.rules, "a");
    assert_memory_equal(same, a, sizeof(*a));
}

/* --- what the file becomes -------------------------------------------------------------------- */

static void defaults_are_finite_and_sensible(void **state)
{
    CONFIG config = parse(MINIMAL);

    assert_true(config->workers >= 1);
    assert_string_equal(config->path, "/etc/gateway.yaml");
    assert_string_equal(config->state_dir, "/var/lib/device-gateway");
    assert_string_equal(config->operator.socket, "/var/lib/device-gateway/operator.sock");
    assert_int_equal(config->max_connections, 100000);
    assert_int_equal(config->log.level, LOG_INFO);
    assert_null(config->store.redis);
    assert_string_equal(config->store.redis_server, "redis-server");
    assert_string_equal(config->store.prefix, "dgw");
    assert_int_equal(config->store.partitions, 1);
    assert_int_equal(config->store.lease_ms, 2000);
    assert_int_equal(config->store.on_outage, CONFIG_ON_OUTAGE_REFUSE);
    assert_int_equal(config->store.serve_admitted_max_ms, 600000);
    assert_int_equal(config->store.events_max, 1000000);
    assert_int_equal(config->rotation.admission.registration, REGISTRATION_OPEN);
    assert_int_equal(config->rotation.drain_ms, 10000);
    assert_int_equal(config->rotation.write_lease_ms, 30000);
    assert_int_equal(config->rotation.config_body_max, 1 << 20);
    assert_int_equal(config->http.head_max, 16384);
    assert_int_equal(config->http.buffer, 131072);
    assert_int_equal(config->tls.sessions, 20000);
    assert_int_equal(config->tls.session_lifetime_ms, 3600000);
    assert_int_equal(config->listeners[0].clients, CONFIG_CLIENTS_DEVICES);
    assert_int_equal(config->listeners[0].client_certificate, CONFIG_CERTIFICATE_REQUIRED);
    assert_string_equal(config->listeners[0].min_version, "1.2");
    assert_true(config->listeners[0].announce_cas);
    assert_int_equal(config->device_cas[0].state, ISSUER_STATE_ACTIVE);
    assert_int_equal(config->n_backends, 0);
    assert_int_equal(config->n_routes, 0);
}

static void settings_arrive_in_their_fields(void **state)
{
    CONFIG config = parse(
        MINIMAL "workers: 3\n"
                "drain_timeout: 1m\n"
                "log: {format: logfmt, level: debug, requests: false}\n"
                "store: {redis: \"redis://r:1/2\", partitions: 1024, on_outage: serve_admitted,\n"
                "        username: u, password_file: p, wait_replicas: 1, events_max: 5000}\n"
                "rotation: {registration: closed, expired_grace: 90d,\n"
                "           key_age: {due_after: 300d, overdue_after: 365d, action: refuse}}\n"
                "http: {buffer: 1MiB, fields_max: 10, idle_timeout: 500ms}\n"
                "tls: {sessions: 0}\n");

    assert_int_equal(config->workers, 3);
    assert_int_equal(config->drain_timeout_ms, 60000);
    assert_int_equal(config->log.format, LOG_LOGFMT);
    assert_int_equal(config->log.level, LOG_DEBUG);
    assert_false(config->log.requests);
    assert_string_equal(config->store.redis, "redis://r:1/2");
    assert_int_equal(config->store.partitions, 1024);
    assert_int_equal(config->store.on_outage, CONFIG_ON_OUTAGE_SERVE_ADMITTED);
    assert_string_equal(config->store.username, "u");
    assert_string_equal(config->store.password_file, "/etc/p");
    assert_int_equal(config->store.wait_replicas, 1);
    assert_int_equal(config->store.events_max, 5000);
    assert_int_equal(config->rotation.admission.registration, REGISTRATION_CLOSED);
    assert_int_equal(config->rotation.admission.rules.fleet.expired_grace_ms,
                     INT64_C(90) * 86400000);
    assert_int_equal(config->rotation.admission.rules.fleet.key_age.due_after_ms,
                     INT64_C(300) * 86400000);
    assert_int_equal(config->rotation.admission.rules.fleet.key_age.overdue_after_ms,
                     INT64_C(365) * 86400000);
    assert_int_equal(config->rotation.admission.rules.fleet.key_age.action, KEY_AGE_REFUSE);
    assert_int_equal(config->http.buffer, 1 << 20);
    assert_int_equal(config->http.fields_max, 10);
    assert_int_equal(config->http.idle_timeout_ms, 500);
    assert_int_equal(config->tls.sessions, 0);
}

static void lists_arrive_in_their_fields(void **state)
{
    CONFIG config =
        parse(OPERATORS
              "routes:\n"
              "  - {path: /device, methods: [GET, PATCH], service: rotation}\n"
              "  - {path: \"/d/{device}\", methods: [PUT], backend: b, lock: config, listener: o}\n"
              "  - {prefix: /ota, backend: b, open_in_quarantine: true, body_limit: 0,\n"
              "     certificate_required: false, host: example.com}\n");

    assert_int_equal(config->n_listeners, 2);
    assert_int_equal(config->listeners[1].clients, CONFIG_CLIENTS_OPERATORS);
    assert_int_equal(config->listeners[1].address.type, CONFIG_ADDRESS_UNIX);
    assert_string_equal(config->listeners[1].address.host, "/etc/o");
    assert_int_equal(config->backends[0].n_servers, 1);
    assert_string_equal(config->backends[0].servers[0].host, "127.0.0.1");
    assert_int_equal(config->backends[0].servers[0].port, 80);
    assert_int_equal(config->backends[0].max_connections, 1024);
    assert_int_equal(config->n_routes, 3);
    assert_int_equal(config->routes[0].n_methods, 2);
    assert_string_equal(config->routes[0].methods[1], "PATCH");
    assert_int_equal(config->routes[0].service, CONFIG_SERVICE_ROTATION);
    assert_null(config->routes[0].backend);
    assert_true(config->routes[0].certificate_required);
    assert_int_equal(config->routes[0].body_limit, 64 << 20);
    assert_int_equal(config->routes[1].lock, CONFIG_LOCK_CONFIG);
    assert_string_equal(config->routes[1].listener, "o");
    assert_string_equal(config->routes[2].prefix, "/ota");
    assert_null(config->routes[2].path);
    assert_string_equal(config->routes[2].backend, "b");
    assert_int_equal(config->routes[2].backend_index, 0);
    assert_true(config->routes[2].open_in_quarantine);
    assert_false(config->routes[2].certificate_required);
    assert_int_equal(config->routes[2].body_limit, 0);
    assert_string_equal(config->routes[2].host, "example.com");
}

static void relative_paths_start_in_the_folder_of_the_file(void **state)
{
    static const char text[] =
        MINIMAL "state_dir: ./state\n"
                "store: {redis_server: bin/redis-server, redis: \"unix:run/r.sock\"}\n"
                "operator: {socket: /abs.sock}\n";
    char here[4096];

    assert_non_null(getcwd(here, sizeof(here)));
    CLEANUP(mem_free_at) char *in_folder = mem_printf("%s/conf/c", here);
    CLEANUP(mem_free_at) char *in_here = mem_printf("%s/c", here);
    CONFIG absolute = parse_at("/a/b/gateway.yaml", text);
    CONFIG folder = parse_at("conf/gateway.yaml", text);
    CONFIG plain = parse_at("gateway.yaml", text);
    CONFIG dotted = parse_at("./gateway.yaml", text);
    CONFIG root = parse_at("/gateway.yaml", text);

    assert_string_equal(absolute->state_dir, "/a/b/state");
    assert_string_equal(absolute->store.redis_server, "/a/b/bin/redis-server");
    assert_string_equal(absolute->store.redis, "unix:/a/b/run/r.sock");
    assert_string_equal(absolute->operator.socket, "/abs.sock");
    assert_string_equal(folder->listeners[0].certificate_file, in_folder);
    assert_string_equal(plain->listeners[0].certificate_file, in_here);
    assert_string_equal(dotted->listeners[0].certificate_file, in_here);
    assert_string_equal(root->listeners[0].certificate_file, "/c");
}

static void empty_sections_are_as_good_as_none(void **state)
{
    CONFIG bare = parse(MINIMAL);
    CONFIG empty = parse("log:\n\nstore: ~\nrotation:\n  key_age:\nbackends:\nroutes: []\n"
                         "operator: {socket: null}\n" MINIMAL);
    CLEANUP(mem_free_at) char *bare_dump = config_dump(bare);
    CLEANUP(mem_free_at) char *empty_dump = config_dump(empty);

    assert_string_equal(bare_dump, empty_dump);
}

static void the_dump_reads_back_as_the_same(void **state)
{
    static const char *const texts[] = {
        MINIMAL,
        "listeners: [{name: \"null\", address: \"[::1]:1\", certificate: \"a \\\"b\\\\\", key: "
        "\"\\u00fc: #\", ciphers: \"no\", groups: \"-x\"}]\ndevice_cas: [{name: \"1\", "
        "certificate: ca}]\n",
        OPERATORS "routes: [{path: \"/d/{device}\", methods: [PUT], backend: b, lock: config}]\n",
        "listeners: [{name: o, clients: operators, address: \"unix:a b\"}]\n",
    };

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        CONFIG config = parse(texts[i]);
        CLEANUP(mem_free_at) char *dump = config_dump(config);
        CONFIG again = parse(dump);
        CLEANUP(mem_free_at) char *dump_again = config_dump(again);
        assert_string_equal(dump, dump_again);
    }
}

static void a_configuration_lives_until_its_last_reference(void **state)
{
    const struct config *config = parse(MINIMAL);
    const struct config *other = config_ref(config), *none = NULL;

    assert_ptr_equal(config, other);
    config_unref(&config);
    assert_null(config);
    assert_string_equal(other->listeners[0].name, "d");
    config_unref(&other);
    config_unref(&none);
}

/* --- what is refused -------------------------------------------------------------------------- */

struct refusal {
    const char *text;
    const char *errors; /* exactly these lines */
};

static void assert_refused(const struct refusal *cases, size_t n)
{
    struct errors errors;

    for (size_t i = 0; i < n; i++) {
        parse_errors(cases[i].text, strlen(cases[i].text), &errors);
        assert_string_equal(errors.text, cases[i].errors);
    }
}

static void errors_name_the_place_and_the_mend(void **state)
{
    static const struct refusal cases[] = {
        {"", "g.yaml:1:1: listeners: at least one listener is needed"},
        {"listeners:\n  - name: d\n    adress: \"[::]:1\"\n",
         "g.yaml:3:5: listeners[0].adress: unknown key; did you mean \"address\"?\n"
         "g.yaml:2:5: listeners[0].address: is missing (where it listens: \"0.0.0.0:8443\", "
         "\"[::]:8443\" or \"unix:/path\")"},
        {MINIMAL "strore: {}\n", "g.yaml:3:1: strore: unknown key; did you mean \"store\"?"},
        {MINIMAL "frobnicate: 1\n", "g.yaml:3:1: frobnicate: unknown key"},
        {MINIMAL "\"a\\nb\": 1\n", "g.yaml:3:1: \"a\\x0ab\": unknown key"},
        {MINIMAL "\"\": 1\n", "g.yaml:3:1: \"\": unknown key"},
        {MINIMAL "workers: 1\nworkers: 2\n",
         "g.yaml:4:1: workers: duplicate key; the first stands in line 3"},
        {MINIMAL "rotation:\n  key_age: {due_afer: 1d}\n",
         "g.yaml:4:13: rotation.key_age.due_afer: unknown key; did you mean \"due_after\"?"},
        {MINIMAL "drain_timeout: 5\n",
         "g.yaml:3:16: drain_timeout: \"5\" is not a duration like 250ms, 10s, 5m, 12h or 7d (how "
         "long exchanges may go on when the daemon stops)"},
        {MINIMAL "store: {lease: 2m}\n",
         "g.yaml:3:16: store.lease: \"2m\" is not between 1s and 1m (how long live connections "
         "are trusted after the event log was last read)"},
        {MINIMAL "http: {buffer: 8KiB}\n",
         "g.yaml:3:16: http.buffer: \"8KiB\" is not between 16KiB and 1MiB (how much is buffered, "
         "a connection and direction)"},
        {MINIMAL "http: {buffer: 64KB}\n",
         "g.yaml:3:16: http.buffer: \"64KB\" is not a size like 65536, 64KiB or 1MiB (how much is "
         "buffered, a connection and direction)"},
        {MINIMAL "workers: many\n", "g.yaml:3:10: workers: \"many\" is not a number (how many "
                                    "threads serve connections; 0: one a core)"},
        {MINIMAL "workers:\n",
         "g.yaml:3:9: workers: a value is missing (how many threads serve connections; 0: one a "
         "core)"},
        {MINIMAL "workers: [1]\n", "g.yaml:3:10: workers: a single value is expected (how many "
                                   "threads serve connections; 0: one a core)"},
        {MINIMAL "log: {level: warn}\n",
         "g.yaml:3:14: log.level: \"warn\" is not debug, info, notice, warning or error (the least "
         "important lines that are written)"},
        {MINIMAL "log: {requests: yes}\n",
         "g.yaml:3:17: log.requests: \"yes\" is not true or false (whether each request gets a "
         "line)"},
        {MINIMAL "log: json\n", "g.yaml:3:6: log: \"key: value\" lines are expected (what is "
                                "logged)"},
        {MINIMAL "backends: {name: b}\n",
         "g.yaml:3:11: backends: a list is expected (the servers behind the gateway)"},
        {MINIMAL "backends: [b]\n", "g.yaml:3:12: backends[0]: \"key: value\" lines are expected "
                                    "(the servers behind the gateway)"},
        {MINIMAL "state_dir: \"a\\0b\"\n",
         "g.yaml:3:12: state_dir: \"a\\x00b\" has a control character (the folder of the daemon's "
         "own data)"},
        {MINIMAL "state_dir: \"\"\n",
         "g.yaml:3:12: state_dir: \"\" is empty (the folder of the daemon's own data)"},
    };

    assert_refused(cases, ARRAY_SIZE(cases));
}

static void yaml_that_is_not_plain_is_refused(void **state)
{
    static const struct refusal cases[] = {
        {"a: [1, 2\nb: 3\n", "g.yaml:2:2: did not find expected ',' or ']' (while parsing a flow "
                             "sequence)"},
        {"a: 1\n b: 2\n", "g.yaml:2:3: mapping values are not allowed in this context"},
        {"a: \"x\n", "g.yaml:2:1: found unexpected end of stream (while scanning a quoted scalar)"},
        {"a: b\n\x01", "g.yaml:2:1: control characters are not allowed"},
        {"a: b\nab\xff", "g.yaml:2:3: invalid leading UTF-8 octet"},
        {"a: &x 1\n", "g.yaml:1:4: anchors, aliases and tags are not allowed"},
        {"a: *x\n", "g.yaml:1:4: anchors, aliases and tags are not allowed"},
        {"a: !!str 1\n", "g.yaml:1:4: anchors, aliases and tags are not allowed"},
        {"? [a]\n: b\n", "g.yaml:1:1: a key must be a word"},
        {"a: 1\n---\nb: 2\n", "g.yaml:3:1: the file must be a single document"},
        {"[[[[[[[[[[a]]]]]]]]]]", "g.yaml:1:10: nested too deeply"},
        {"- a\n- b\n", "g.yaml:1:1: \"key: value\" lines are expected (the configuration)\n"
                       "g.yaml:1:1: listeners: at least one listener is needed"},
    };

    assert_refused(cases, ARRAY_SIZE(cases));
}

static void sections_must_fit_together(void **state)
{
    static const struct refusal cases[] = {
        {MINIMAL "store: {wait_replicas: 1}\n", "g.yaml:3:24: store.wait_replicas: the embedded "
                                                "store has no replicas: say where Redis is, "
                                                "or leave it out"},
        {MINIMAL "store: {username: u, ca_file: c}\n",
         "g.yaml:3:19: store.username: is for a server of one's own: say where Redis is, or leave "
         "it out\n"
         "g.yaml:3:31: store.ca_file: is for a server of one's own: say where Redis is, or leave "
         "it out"},
        {MINIMAL "store: {redis: \"redis://r\", username: u, ca_file: c}\n",
         "g.yaml:3:51: store.ca_file: only a rediss:// server has TLS\n"
         "g.yaml:3:39: store.username: needs `password_file`"},
        {MINIMAL "store: {redis: \"redis://r\", wait_replicas: 1, wait_timeout: 2s}\n",
         "g.yaml:3:61: store.wait_timeout: must be shorter than store.command_timeout, which the "
         "wait is a part of"},
        {MINIMAL "store: {redis: \"http://r\", username: u}\n",
         "g.yaml:3:16: store.redis: \"http://r\" is not redis://host:port, rediss://host:port or "
         "unix:/path (the Redis server; without it the daemon runs its own)"},
        {MINIMAL "store: {redis: \"redis://r\", sentinel: {master: m, servers: [\"s:1\"]}}\n",
         "g.yaml:3:39: store.sentinel: excludes store.redis: say in one way only where Redis is"},
        {MINIMAL "store: {cluster: [\"c:1\"], sentinel: {master: m, servers: [\"s:1\"]}}\n",
         "g.yaml:3:18: store.cluster: excludes store.sentinel: say in one way only where Redis is"},
        {MINIMAL "store: {sentinel: {servers: [\"s:0\", \"unix:/s\"], username: u}}\n",
         "g.yaml:3:19: store.sentinel.master: is missing: the name that the sentinels monitor\n"
         "g.yaml:3:59: store.sentinel.username: needs `password_file`\n"
         "g.yaml:3:29: store.sentinel.servers: nobody can connect to port 0\n"
         "g.yaml:3:29: store.sentinel.servers: takes \"host:port\" only"},
        {MINIMAL "store: {sentinel: {master: m}}\n",
         "g.yaml:3:19: store.sentinel.servers: at least one sentinel is needed"},
        {MINIMAL "store: {cluster: [\"c:1\"], ca_file: c}\n",
         "g.yaml:3:36: store.ca_file: needs `tls: true`"},
        {MINIMAL "groups: [{name: a}, {name: b}, {name: a}]\n",
         "g.yaml:3:39: groups[2].name: groups[0] has the same name"},
        {MINIMAL "groups: [{key_age: {action: warn}}]\n",
         "g.yaml:3:10: groups[0].name: is missing (the group that operators put devices into)"},
        {MINIMAL "rotation: {key_age: {due_after: 2d}}\n"
                 "groups: [{name: a, key_age: {overdue_after: 1d}}]\n",
         "g.yaml:4:29: groups[0].key_age: overdue_after must not be shorter than due_after; what "
         "the group leaves out is rotation.key_age's"},
        {MINIMAL "rotation: {key_age: {due_after: 2d, overdue_after: 1d}}\n",
         "g.yaml:3:52: rotation.key_age.overdue_after: must not be shorter than due_after"},
        {MINIMAL "http: {head_max: 256KiB}\n",
         "g.yaml:3:7: http.buffer: must not be smaller than http.head_max: a head has to fit"},
    };

    assert_refused(cases, ARRAY_SIZE(cases));
}

static void tls_to_redis_needs_a_hiredis_that_has_it(void **state)
{
    static const char text[] = MINIMAL "store: {redis: \"rediss://r:1\", ca_file: ca}\n";
    struct errors errors;

    if (HAVE_HIREDIS_SSL) {
        CONFIG config = parse(text);
        assert_string_equal(config->store.redis, "rediss://r:1");
        return;
    }
    parse_errors(text, strlen(text), &errors);
    assert_string_equal(errors.text, "g.yaml:3:16: store.redis: this build's hiredis has no TLS: "
                                     "use a Unix socket, a TLS tunnel, or a build with hiredis 1.0 "
                                     "or newer");
}

#define CAS  "device_cas: [{name: ca, certificate: ca.pem}]\n"
#define CERT "certificate: c, key: k"

static void listeners_must_know_their_clients(void **state)
{
    static const struct refusal cases[] = {
        {"listeners: [{name: a, address: \"[::]:1\", " CERT "}]\n",
         "g.yaml:1:1: device_cas: a listener for devices needs at least one CA that signs their "
         "certificates"},
        {CAS "listeners: [{name: a, address: \"[::]:1\"}]\n",
         "g.yaml:2:13: listeners[0]: devices need TLS: set `certificate` and `key`"},
        {CAS "listeners: [{name: a, address: \"[::]:1\", certificate: c}]\n",
         "g.yaml:2:55: listeners[0].certificate: needs its `key` as well"},
        {CAS "listeners: [{name: a, address: unix:a}]\n",
         "g.yaml:2:32: listeners[0].address: devices need TLS, which a Unix socket does not have"},
        {CAS "listeners: [{name: a, address: \"[::]:1\", " CERT ", client_ca: x}]\n",
         "g.yaml:2:77: listeners[0].client_ca: is for operators; devices are signed by "
         "`device_cas`"},
        {"listeners: [{name: a, clients: operators, address: \"[::]:1\"}]\n",
         "g.yaml:1:13: listeners[0]: operators need TLS: set `certificate` and `key`, or listen on "
         "\"unix:/path\"\n"
         "g.yaml:1:13: listeners[0]: operators are known by their certificates: set `client_ca`"},
        {"listeners: [{name: a, clients: operators, address: unix:a, " CERT ", client_ca: x}]\n",
         "g.yaml:1:73: listeners[0].certificate: a Unix socket has no TLS\n"
         "g.yaml:1:81: listeners[0].key: a Unix socket has no TLS\n"
         "g.yaml:1:95: listeners[0].client_ca: a Unix socket has no TLS"},
        {"listeners: [{name: a, clients: operators, address: unix:a, certificates: [{certificate: "
         "c, key: k}]}]\n",
         "g.yaml:1:74: listeners[0].certificates: are for clients that ask for their names; others "
         "need `certificate` and `key`"},
        {CAS "listeners: [{name: a, address: \"[::]:1\", " CERT ", certificates: [{key: k}]}]\n",
         "g.yaml:2:81: listeners[0].certificates[0].certificate: is missing (the PEM file of a "
         "certificate and its chain, leaf first)"},
        {"listeners: [{name: a, clients: operators, address: unix:a, client_certificate: "
         "optional}]\n",
         "g.yaml:1:80: listeners[0].client_certificate: must be `required`: nothing else tells who "
         "an operator is"},
        {"listeners:\n- {name: a, clients: operators, address: unix:a}\n"
         "- {name: a, clients: operators, address: unix:a}\n",
         "g.yaml:3:10: listeners[1].name: listeners[0] has the same name\n"
         "g.yaml:3:42: listeners[1].address: listeners[0] has the same address"},
        {"listeners: [{name: a, clients: operators, address: unix:/o}]\n"
         "operator: {socket: /o}\n",
         "g.yaml:1:52: listeners[0].address: is the same as operator.socket"},
        {"listeners: [{name: operator, clients: operators, address: unix:a}]\n",
         "g.yaml:1:20: listeners[0].name: \"operator\" is the operators' own socket in log and "
         "metrics; take another"},
        {"listeners: [{name: a, clients: operators, address: unix:/o, certificate: \"a\\nb\"}]\n",
         "g.yaml:1:74: listeners[0].certificate: \"a\\x0ab\" has a control character (the PEM file "
         "of the server's certificate and its chain, leaf first)"},
        {MINIMAL "device_cas: []\n",
         "g.yaml:3:1: device_cas: duplicate key; the first stands in line 2"},
    };

    assert_refused(cases, ARRAY_SIZE(cases));
}

static void names_are_unique_and_backends_have_servers(void **state)
{
    static const struct refusal cases[] = {
        {MINIMAL "backends:\n- {name: b, servers: []}\n",
         "g.yaml:4:22: backends[0].servers: at least one server is needed"},
        {MINIMAL "backends:\n- {name: b, servers: [\"a:1\", \"a:0\"]}\n- {name: b, servers: "
                 "[\"a:1\"]}\n",
         "g.yaml:4:22: backends[0].servers: nobody can connect to port 0\n"
         "g.yaml:5:10: backends[1].name: backends[0] has the same name"},
        {MINIMAL "backends:\n- {name: b, servers: [\"a:1\", a]}\n",
         "g.yaml:4:30: backends[0].servers[1]: \"a\" has no port (the addresses of its servers: "
         "\"host:port\" or \"unix:/path\")"},
        {MINIMAL "backends:\n- {name: b, servers: [\"a:1\"], max_connections: 1}\n",
         "g.yaml:4:3: backends[0].keepalive_connections: must not be greater than "
         "max_connections"},
        {"listeners: [{name: a, clients: operators, address: unix:a}]\n"
         "device_cas: [{name: a, certificate: a}, {name: a, certificate: b}]\n",
         "g.yaml:2:48: device_cas[1].name: device_cas[0] has the same name"},
    };

    assert_refused(cases, ARRAY_SIZE(cases));
}

static void routes_say_one_thing(void **state)
{
    static const struct refusal cases[] = {
        {OPERATORS "routes: [{}]\n", "g.yaml:4:10: routes[0]: needs a `path` or a `prefix`\n"
                                     "g.yaml:4:10: routes[0]: needs a `service` or a `backend`"},
        {OPERATORS "routes: [{path: /a, prefix: /a, backend: b, service: rotation, methods: "
                   "[GET]}]\n",
         "g.yaml:4:29: routes[0].prefix: cannot stand beside `path`: one of the two\n"
         "g.yaml:4:42: routes[0].backend: cannot stand beside `service`: one of the two"},
        {OPERATORS "routes: [{path: /a, backend: c}]\n",
         "g.yaml:4:30: routes[0].backend: there is no backend \"c\""},
        {OPERATORS "routes: [{path: /a, backend: b, listener: x}]\n",
         "g.yaml:4:43: routes[0].listener: there is no listener \"x\""},
        {OPERATORS "routes: [{path: a, backend: b}]\n",
         "g.yaml:4:17: routes[0].path: \"a\" does not begin with \"/\" (the exact path; {device} "
         "stands for a device's name on operators' routes)"},
        {OPERATORS "routes: [{path: \"/{device}\", backend: b, listener: d}]\n",
         "g.yaml:4:17: routes[0].path: {device} is for operators' listeners: a device is known by "
         "its certificate"},
        {MINIMAL "backends: [{name: b, servers: [\"a:1\"]}]\n"
                 "routes: [{path: \"/{device}\", backend: b}]\n",
         "g.yaml:4:17: routes[0].path: {device} is for operators' listeners, and there is none"},
        {"listeners: [{name: o, clients: operators, address: unix:o}]\n"
         "backends: [{name: b, servers: [\"a:1\"]}]\n"
         "routes: [{path: /a, backend: b}]\n",
         "g.yaml:3:10: routes[0]: there is no listener for devices; set `listener` to one for "
         "operators"},
        {OPERATORS "routes: [{path: /a, backend: b, methods: [get]}]\n",
         "g.yaml:4:43: routes[0].methods[0]: \"get\" is not GET, HEAD, POST, PUT, PATCH, DELETE or "
         "OPTIONS (the request methods; without them any)"},
    };

    assert_refused(cases, ARRAY_SIZE(cases));
}

static void locks_and_services_stand_where_they_work(void **state)
{
    static const struct refusal cases[] = {
        {OPERATORS "routes: [{path: /a, backend: b, lock: config}]\n",
         "g.yaml:4:10: routes[0].methods: `lock: config` is for writes: name those of PATCH, PUT, "
         "POST and DELETE that write, and give reads a route of their own"},
        {OPERATORS "routes: [{path: /a, backend: b, lock: config, methods: [GET, PUT]}]\n",
         "g.yaml:4:56: routes[0].methods: `lock: config` is for writes: name those of PATCH, PUT, "
         "POST and DELETE that write, and give reads a route of their own"},
        {OPERATORS "routes: [{path: /a, backend: b, lock: config, methods: [PUT], listener: o}]\n",
         "g.yaml:4:39: routes[0].lock: on operators' routes the path must name the device: "
         "{device}"},
        {OPERATORS "routes: [{path: /a, backend: b, lock: config, methods: [PUT], "
                   "certificate_required: false}]\n",
         "g.yaml:4:85: routes[0].certificate_required: cannot be false where the device must be "
         "known"},
        {OPERATORS "routes: [{path: /a, service: rotation}]\n",
         "g.yaml:4:10: routes[0].methods: `service: rotation` needs them, and knows GET, HEAD and "
         "PATCH"},
        {OPERATORS "routes: [{path: /a, service: rotation, methods: [PUT], listener: o, lock: "
                   "config}]\n",
         "g.yaml:4:75: routes[0].lock: on operators' routes the path must name the device: "
         "{device}\n"
         "g.yaml:4:49: routes[0].methods: `service: rotation` needs them, and knows GET, HEAD and "
         "PATCH\n"
         "g.yaml:4:30: routes[0].service: rotation is for devices' listeners\n"
         "g.yaml:4:75: routes[0].lock: `service: rotation` makes the lock, and cannot stand behind "
         "it"},
    };

    assert_refused(cases, ARRAY_SIZE(cases));
}

static void routes_that_take_the_same_requests_are_refused(void **state)
{
    static const struct {
        const char *a, *b;
        bool collide;
    } cases[] = {
        {"path: /a", "path: /a", true},
        {"path: /a", "path: /b", false},
        {"path: /a", "prefix: /a", false},
        {"prefix: /a", "prefix: /a", true},
        {"path: /a, methods: [GET]", "path: /a, methods: [PUT]", false},
        {"path: /a, methods: [GET, PUT]", "path: /a, methods: [PUT, POST]", true},
        {"path: /a, methods: [GET]", "path: /a, methods: [HEAD]", true},
        {"path: /a, methods: [GET]", "path: /a", true},
        {"path: /a, host: x", "path: /a", false},
        {"path: /a, host: x", "path: /a, host: X", true},
        {"path: /a, listener: d", "path: /a", true},
        {"path: /a, listener: d", "path: /a, listener: o", false},
        {"path: /a, listener: o", "path: /a", false},
        {"path: \"/{device}\"", "path: \"/{device}\", listener: o", true},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct errors errors = {.n = 0};
        CLEANUP(mem_free_at)
        char *text = mem_printf(OPERATORS "routes: [{backend: b, %s}, {backend: b, %s}]\n",
                                cases[i].a, cases[i].b);
        CONFIG config = config_parse("g.yaml", text, strlen(text), on_error, &errors);
        if ((config == NULL) != cases[i].collide)
            fail_msg("%s", text);
        if (config == NULL)
            assert_non_null(strstr(errors.text, "routes[0] already takes these requests"));
    }
}

static void all_errors_are_told_but_not_more_than_twenty(void **state)
{
    char text[4096] = "";
    struct errors errors;

    for (size_t i = 0; i < 30; i++)
        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "unknown%zu: 1\n", i);
    parse_errors(text, strlen(text), &errors);
    assert_int_equal(errors.n, 20);
    assert_non_null(strstr(errors.text, "g.yaml:1:1: unknown0: unknown key"));
    assert_non_null(strstr(errors.text, "g.yaml:20:1: unknown19: unknown key"));
}

static void documents_are_bounded(void **state)
{
    struct errors errors;
    size_t size = DOCUMENT_BYTES_MAX + 1;
    CLEANUP(mem_free_at) char *text = mem_zalloc(size + 1);

    memset(text, '\n', size);
    parse_errors(text, size, &errors);
    assert_string_equal(errors.text, "g.yaml:1:1: the file is larger than 1 MiB");

    memcpy(text, "a: [", 4);
    for (size_t i = 4; i + 1 < size; i += 2)
        memcpy(text + i, "b,", 2);
    parse_errors(text, size - 1, &errors);
    assert_string_equal(errors.text, "g.yaml:1:4: the list is too long");

    size_t len = 0;
    for (size_t i = 0; i < 100; i++)
        len += (size_t)sprintf(text + len, "key%zu: 1\n", i);
    parse_errors(text, len, &errors);
    assert_string_equal(errors.text, "g.yaml:1:1: the map has too many keys");
}

static void what_a_file_says_cannot_break_a_line_or_flood_it(void **state)
{
    char text[4096];
    struct errors errors;
    size_t len = (size_t)snprintf(text, sizeof(text), MINIMAL "log: {level: \"\\n%01000d\"}\n", 0);

    parse_errors(text, len, &errors);
    assert_int_equal(errors.n, 1);
    assert_true(strlen(errors.text) < 300);
    assert_non_null(strstr(errors.text, "log.level: \"\\x0a0000"));
    assert_non_null(strstr(errors.text, "...\" has a control character"));
}

/* --- files ------------------------------------------------------------------------------------ */

static void files_that_cannot_be_read_are_errors(void **state)
{
    struct errors errors = {.n = 0};

    CONFIG missing = config_load("/nowhere/gateway.yaml", on_error, &errors);
    assert_null(missing);
    assert_string_equal(errors.text,
                        "/nowhere/gateway.yaml: cannot be read: No such file or directory");
    errors = (struct errors){.n = 0};
    CONFIG folder = config_load("/", on_error, &errors);
    assert_null(folder);
    assert_string_equal(errors.text, "/: cannot be read: Is a directory");
}

static void the_shipped_file_loads(void **state)
{
    struct errors errors = {.n = 0};

    CONFIG config = config_load(CONF_DIR "/gateway.yaml", on_error, &errors);
    assert_non_null(config);
    assert_int_equal(errors.n, 0);
}

/* --- reload ----------------------------------------------------------------------------------- */

static void a_reload_cannot_move_what_is_built_on(void **state)
{
    static const struct {
        const char *now;
        const char *obstacle; /* its beginning; NULL: fine */
    } cases[] = {
        {OPERATORS, NULL},
        {OPERATORS "workers: 77\n", "workers cannot change"},
        {OPERATORS "state_dir: /x\n", "state_dir cannot change"},
        {OPERATORS "store: {lease: 3s}\n", "store.lease cannot change"},
        {OPERATORS "store: {redis: \"redis://r\"}\n", "store.redis cannot change"},
        {OPERATORS "operator: {socket: /x}\n", "operator.socket cannot change"},
        {OPERATORS "log: {format: logfmt}\n", "log.format cannot change"},
        {OPERATORS "log: {level: debug, requests: false}\n", NULL},
        {OPERATORS "drain_timeout: 1s\nmax_connections: 5\n", NULL},
        {OPERATORS "rotation: {drain: 1s, key_age: {action: warn}}\nhttp: {buffer: 1MiB}\n", NULL},
        {OPERATORS "tls: {sessions: 1}\nroutes: [{path: /a, backend: b}]\n", NULL},
        {MINIMAL, "listeners: names, addresses and clients cannot change"},
        {CAS "listeners: [{name: o, clients: operators, address: unix:o}, {name: d, address: "
             "\"127.0.0.1:1\", certificate: other, key: other, min_version: 1.3}]\n",
         NULL},
        {CAS "listeners: [{name: o, clients: operators, address: unix:p}, {name: d, address: "
             "\"127.0.0.1:1\", " CERT "}]\n",
         "listeners:"},
        {CAS "listeners: [{name: o, clients: operators, address: unix:o}, {name: d, address: "
             "\"127.0.0.1:2\", " CERT "}]\n",
         "listeners:"},
        {CAS "listeners: [{name: o, clients: operators, address: unix:o}, {name: e, address: "
             "\"127.0.0.1:1\", " CERT "}]\n",
         "listeners:"},
    };

    CONFIG before = parse(OPERATORS);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        CONFIG now = parse(cases[i].now);
        const char *obstacle = config_reload_obstacle(before, now);
        if ((obstacle == NULL) != (cases[i].obstacle == NULL))
            fail_msg("%s: %s", cases[i].now, obstacle != NULL ? obstacle : "no obstacle");
        if (obstacle != NULL)
            assert_true(str_starts(str_c(obstacle), str_c(cases[i].obstacle)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations_need_a_unit_and_are_written_back_alike),
        cmocka_unit_test(sizes_are_binary_and_are_written_back_alike),
        cmocka_unit_test(addresses_have_a_host_and_a_port_or_a_path),
        cmocka_unit_test(redis_servers_are_urls_without_secrets),
        cmocka_unit_test(only_normalised_paths_can_be_routes),
        cmocka_unit_test(words_are_judged_by_their_form),
        cmocka_unit_test(distance_counts_slips_of_the_fingers),
        cmocka_unit_test(the_commented_defaults_of_the_example_are_the_defaults),
        cmocka_unit_test(the_example_mentions_every_setting),
        cmocka_unit_test(every_row_of_the_table_is_complete),
        cmocka_unit_test(defaults_are_finite_and_sensible),
        cmocka_unit_test(every_setting_of_a_group_is_one_of_rotation),
        cmocka_unit_test(a_group_inherits_what_it_leaves_out),
        cmocka_unit_test(settings_arrive_in_their_fields),
        cmocka_unit_test(lists_arrive_in_their_fields),
        cmocka_unit_test(relative_paths_start_in_the_folder_of_the_file),
        cmocka_unit_test(empty_sections_are_as_good_as_none),
        cmocka_unit_test(the_dump_reads_back_as_the_same),
        cmocka_unit_test(a_configuration_lives_until_its_last_reference),
        cmocka_unit_test(errors_name_the_place_and_the_mend),
        cmocka_unit_test(yaml_that_is_not_plain_is_refused),
        cmocka_unit_test(sections_must_fit_together),
        cmocka_unit_test(tls_to_redis_needs_a_hiredis_that_has_it),
        cmocka_unit_test(listeners_must_know_their_clients),
        cmocka_unit_test(names_are_unique_and_backends_have_servers),
        cmocka_unit_test(routes_say_one_thing),
        cmocka_unit_test(locks_and_services_stand_where_they_work),
        cmocka_unit_test(routes_that_take_the_same_requests_are_refused),
        cmocka_unit_test(all_errors_are_told_but_not_more_than_twenty),
        cmocka_unit_test(documents_are_bounded),
        cmocka_unit_test(what_a_file_says_cannot_break_a_line_or_flood_it),
        cmocka_unit_test(files_that_cannot_be_read_are_errors),
        cmocka_unit_test(the_shipped_file_loads),
        cmocka_unit_test(a_reload_cannot_move_what_is_built_on),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
