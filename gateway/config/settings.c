/* SPDX-License-Identifier: BSD-2-Clause */
/* Each macro below fills a row's type, place and default; FIELD() refuses, when it is compiled, a
 * field of another type than the row's. BASE is the struct that the rows of a table describe. */
#include "gateway/config/settings.h"

#include "gateway/config/config.h"
#include "gateway/config/value.h"

/* Types and lists of initialisers cannot stand in parentheses.
 * NOLINTBEGIN(bugprone-macro-parentheses) */
#define SAME_TYPE(a, b)     (0 * sizeof(char[__builtin_types_compatible_p(a, b) ? 1 : -1]))
#define MEMBER(member)      __typeof__(((BASE *)NULL)->member)
#define FIELD(member, type) (offsetof(BASE, member) + SAME_TYPE(MEMBER(member), type))

#define PLACE(key_, type_, member, c_type)                                                         \
    .key = key_, .type = type_, .offset = FIELD(member, c_type)
#define COUNTED(key_, type_, member, count, c_type)                                                \
    PLACE(key_, type_, member, c_type), .count_offset = FIELD(count, size_t)
#define RANGE(fallback_, min_, max_)          .fallback = fallback_, .min = min_, .max = max_
#define NUMBER(key, type, field, c_type, ...) PLACE(key, type, field, c_type), RANGE(__VA_ARGS__)

#define STRING(key, member)          PLACE(key, SETTING_STRING, member, const char *)
#define FILE_PATH(key, member)       PLACE(key, SETTING_FILE, member, const char *)
#define PROGRAM(key, member)         PLACE(key, SETTING_PROGRAM, member, const char *)
#define REDIS(key, member)           PLACE(key, SETTING_REDIS, member, const char *)
#define BOOL(key, member, fallback_) PLACE(key, SETTING_BOOL, member, bool), .fallback = fallback_
#define COUNT(key, field, ...)       NUMBER(key, SETTING_COUNT, field, size_t, __VA_ARGS__)
#define COUNT32(key, field, ...)     NUMBER(key, SETTING_COUNT32, field, uint32_t, __VA_ARGS__)
#define COUNT64(key, field, ...)     NUMBER(key, SETTING_COUNT64, field, uint64_t, __VA_ARGS__)
#define SIZE(key, field, ...)        NUMBER(key, SETTING_SIZE, field, size_t, __VA_ARGS__)
#define DURATION(key, field, ...)    NUMBER(key, SETTING_DURATION, field, int64_t, __VA_ARGS__)
#define ADDRESS(key, member)         PLACE(key, SETTING_ADDRESS, member, struct config_address)
#define ADDRESSES(key, member, count)                                                              \
    COUNTED(key, SETTING_ADDRESSES, member, count, struct config_address *)
#define WORDS(key, member, count) COUNTED(key, SETTING_WORDS, member, count, const char **)
#define CHOICE(key, member, enum_name, fallback_)                                                  \
    PLACE(key, SETTING_CHOICE, member, enum enum_name), .choices = enum_name##_choices,            \
                                                        .fallback = fallback_
#define ROWS(rows_)      .rows = rows_, .n_rows = ARRAY_SIZE(rows_)
#define MAP(key_, rows_) .key = key_, .type = SETTING_MAP, ROWS(rows_)
#define LIST(key, member, count, struct_name, rows_)                                               \
    COUNTED(key, SETTING_LIST, member, count, struct struct_name *), ROWS(rows_),                  \
        .item_size = sizeof(struct struct_name)

/* NOLINTEND(bugprone-macro-parentheses) */
#define NEEDS_RESTART(name) .obstacle = name " cannot change while the daemon runs; restart it"

#define SECOND INT64_C(1000)
#define MINUTE (60 * SECOND)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)
#define KIB    UINT64_C(1024)
#define MIB    (1024 * KIB)

/* --- words ------------------------------------------------------------------------------------ */

static const struct setting_choice log_format_choices[] = {
    {"json", LOG_JSON},
    {"logfmt", LOG_LOGFMT},
    {NULL, 0},
};

static const struct setting_choice log_level_choices[] = {
    {"debug", LOG_DEBUG},     {"info", LOG_INFO},   {"notice", LOG_NOTICE},
    {"warning", LOG_WARNING}, {"error", LOG_ERROR}, {NULL, 0},
};

static const struct setting_choice config_on_outage_choices[] = {
    {"refuse", CONFIG_ON_OUTAGE_REFUSE},
    {"serve_admitted", CONFIG_ON_OUTAGE_SERVE_ADMITTED},
    {NULL, 0},
};

static const struct setting_choice registration_choices[] = {
    {"open", REGISTRATION_OPEN},
    {"closed", REGISTRATION_CLOSED},
    {NULL, 0},
};

static const struct setting_choice key_age_action_choices[] = {
    {"observe", KEY_AGE_OBSERVE},
    {"warn", KEY_AGE_WARN},
    {"quarantine", KEY_AGE_QUARANTINE},
    {"refuse", KEY_AGE_REFUSE},
    {NULL, 0},
};

static const struct setting_choice config_clients_choices[] = {
    {"devices", CONFIG_CLIENTS_DEVICES},
    {"operators", CONFIG_CLIENTS_OPERATORS},
    {NULL, 0},
};

static const struct setting_choice config_certificate_mode_choices[] = {
    {"required", CONFIG_CERTIFICATE_REQUIRED},
    {"optional", CONFIG_CERTIFICATE_OPTIONAL},
    {NULL, 0},
};

static const struct setting_choice issuer_state_choices[] = {
    {"active", ISSUER_STATE_ACTIVE},
    {"disabled", ISSUER_STATE_DISABLED},
    {"revoked", ISSUER_STATE_REVOKED},
    {NULL, 0},
};

static const struct setting_choice config_service_choices[] = {
    {"none", CONFIG_SERVICE_NONE},
    {"rotation", CONFIG_SERVICE_ROTATION},
    {NULL, 0},
};

static const struct setting_choice config_lock_choices[] = {
    {"none", CONFIG_LOCK_NONE},
    {"config", CONFIG_LOCK_CONFIG},
    {NULL, 0},
};

static const struct setting_choice config_ejection_on_choices[] = {
    {"connect", CONFIG_EJECTION_ON_CONNECT},
    {"timeout", CONFIG_EJECTION_ON_TIMEOUT},
    {"broken", CONFIG_EJECTION_ON_BROKEN},
    {NULL, 0},
};

/* A row is easier to read when its help stands alone. */
/* clang-format off */

/* --- sections --------------------------------------------------------------------------------- */

#define BASE struct config

static const struct setting log_rows[] = {
    {CHOICE("format", log.format, log_format, "json"), NEEDS_RESTART("log.format"),
     .help = "how lines are written"},
    {CHOICE("level", log.level, log_level, "info"),
     .help = "the least important lines that are written"},
    {BOOL("requests", log.requests, "true"),
     .help = "whether each request gets a line"},
    {COUNT("repeats", log.repeats, "20", 1, 1000000000),
     .help = "how many lines strangers can provoke in 10 s, a reason and worker"},
};

static const struct setting sentinel_rows[] = {
    {STRING("master", store.sentinel.master), .check = value_check_name,
     NEEDS_RESTART("store.sentinel.master"),
     .help = "the name under which the sentinels know the master"},
    {ADDRESSES("servers", store.sentinel.servers, store.sentinel.n_servers),
     NEEDS_RESTART("store.sentinel.servers"),
     .help = "the sentinels' addresses"},
    {STRING("username", store.sentinel.username), NEEDS_RESTART("store.sentinel.username"),
     .help = "the sentinels' user (ACL)"},
    {FILE_PATH("password_file", store.sentinel.password_file),
     NEEDS_RESTART("store.sentinel.password_file"),
     .help = "the file whose first line is the sentinels' password"},
};

static const struct setting store_rows[] = {
    {REDIS("redis", store.redis), NEEDS_RESTART("store.redis"),
     .help = "the Redis server; without it the daemon runs its own"},
    {MAP("sentinel", sentinel_rows),
     .help = "the sentinels that know where the Redis server is"},
    {ADDRESSES("cluster", store.cluster, store.n_cluster), NEEDS_RESTART("store.cluster"),
     .help = "some nodes of the Redis Cluster that has the data"},
    {BOOL("tls", store.tls, "false"), NEEDS_RESTART("store.tls"),
     .help = "whether sentinels, and servers that they or a Cluster name, have TLS"},
    {PROGRAM("redis_server", store.redis_server), .fallback = "redis-server",
     NEEDS_RESTART("store.redis_server"),
     .help = "the program of the daemon's own Redis"},
    {STRING("username", store.username), NEEDS_RESTART("store.username"),
     .help = "the Redis user (ACL)"},
    {FILE_PATH("password_file", store.password_file), NEEDS_RESTART("store.password_file"),
     .help = "the file whose first line is the Redis password"},
    {FILE_PATH("ca_file", store.ca_file), NEEDS_RESTART("store.ca_file"),
     .help = "the CAs that may sign the certificate of a rediss:// server"},
    {STRING("prefix", store.prefix), .check = value_check_prefix, .fallback = "dgw",
     NEEDS_RESTART("store.prefix"),
     .help = "the first part of every key in Redis"},
    {COUNT32("partitions", store.partitions, "1", 1, 1024), NEEDS_RESTART("store.partitions"),
     .help = "how many partitions the fleet's keys are spread over, chosen once for ever"},
    {DURATION("connect_timeout", store.connect_timeout_ms, "2s", 10, MINUTE),
     NEEDS_RESTART("store.connect_timeout"),
     .help = "how long connecting to Redis may take"},
    {DURATION("command_timeout", store.command_timeout_ms, "2s", 10, MINUTE),
     NEEDS_RESTART("store.command_timeout"),
     .help = "how long Redis may take to answer"},
    {DURATION("lease", store.lease_ms, "2s", SECOND, MINUTE), NEEDS_RESTART("store.lease"),
     .help = "how long live connections are trusted after the event log was last read"},
    {CHOICE("on_outage", store.on_outage, config_on_outage, "refuse"),
     NEEDS_RESTART("store.on_outage"),
     .help = "what becomes of admitted connections while Redis does not answer"},
    {DURATION("serve_admitted_max", store.serve_admitted_max_ms, "10m", SECOND, 7 * DAY),
     NEEDS_RESTART("store.serve_admitted_max"),
     .help = "how long admitted connections are served without Redis"},
    {COUNT32("wait_replicas", store.wait_replicas, "0", 0, 16),
     NEEDS_RESTART("store.wait_replicas"),
     .help = "how many replicas must have a change before it is acknowledged"},
    {DURATION("wait_timeout", store.wait_timeout_ms, "1s", 10, MINUTE),
     NEEDS_RESTART("store.wait_timeout"),
     .help = "how long replicas may take to have a change"},
    {COUNT64("events_max", store.events_max, "1000000", 1000, UINT64_C(1000000000)),
     NEEDS_RESTART("store.events_max"),
     .help = "about how many events the log keeps"},
};

static const struct setting key_age_rows[] = {
    {DURATION("due_after", rotation.admission.rules.fleet.key_age.due_after_ms, "0s", 0, 3650 * DAY),
     .help = "the age from which a key should be rotated; 0: never by age"},
    {DURATION("overdue_after", rotation.admission.rules.fleet.key_age.overdue_after_ms, "0s", 0, 3650 * DAY),
     .help = "the age at which a key is overdue; 0: never by age"},
    {DURATION("due_before_expiry", rotation.admission.rules.fleet.key_age.due_before_expiry_ms,
     "30d", 0, 3650 * DAY),
     .help = "how long before its certificate's end a key should be rotated; 0: never by expiry"},
    {CHOICE("action", rotation.admission.rules.fleet.key_age.action, key_age_action, "observe"),
     .help = "what happens to devices with an overdue key"},
};

static const struct setting rotation_rows[] = {
    {CHOICE("registration", rotation.admission.registration, registration, "open"),
     .help = "whether a device CA's signature registers unknown devices"},
    {DURATION("expired_grace", rotation.admission.rules.fleet.expired_grace_ms, "0s", 0, 3650 * DAY),
     .help = "how long after its expiry a certificate is let into quarantine; 0: never"},
    {DURATION("stalled_after", rotation.admission.stalled_after_ms, "24h", 0, 365 * DAY),
     .help = "when a pending rotation is reported as stalled; 0: never"},
    {DURATION("refused_event_every", rotation.admission.refused_event_every_ms,
     "1h", SECOND, 30 * DAY),
     .help = "how often a device's refusals for one reason become an event"},
    {DURATION("drain", rotation.drain_ms, "10s", 0, 10 * MINUTE),
     .help = "how long the exchanges of a retired key may go on"},
    {DURATION("write_lease", rotation.write_lease_ms, "30s", SECOND, 10 * MINUTE),
     .help = "how long a config write may take"},
    {SIZE("config_body_max", rotation.config_body_max, "1MiB", KIB, 64 * MIB),
     .help = "the largest config write that can be judged"},
    {MAP("key_age", key_age_rows),
     .help = "when keys are too old"},
};

static const struct setting http_rows[] = {
    {DURATION("handshake_timeout", http.handshake_timeout_ms, "10s", 100, 10 * MINUTE),
     .help = "how long a TLS handshake may take"},
    {DURATION("head_timeout", http.head_timeout_ms, "10s", 100, 10 * MINUTE),
     .help = "how long a request's head may take"},
    {DURATION("first_request_timeout", http.first_request_timeout_ms, "30s", 100, DAY),
     .help = "how long a new connection may take to begin its first request"},
    {DURATION("body_timeout", http.body_timeout_ms, "30s", 100, HOUR),
     .help = "how long may pass between two pieces of a request's body"},
    {SIZE("body_min_rate", http.body_min_rate, "500", 0, MIB),
     .help = "how many bytes a second of a request's body must arrive; 0: any"},
    {DURATION("write_timeout", http.write_timeout_ms, "30s", 100, HOUR),
     .help = "how long a client may take nothing of its response"},
    {SIZE("write_min_rate", http.write_min_rate, "500", 0, MIB),
     .help = "how many bytes a second a client must take of its response; 0: any"},
    {DURATION("idle_timeout", http.idle_timeout_ms, "75s", 100, DAY),
     .help = "how long a connection may be idle between two requests"},
    {SIZE("head_max", http.head_max, "16KiB", KIB, 256 * KIB),
     .help = "the largest head of a request"},
    {COUNT("fields_max", http.fields_max, "100", 10, 1000),
     .help = "how many header fields a request may have"},
    {SIZE("buffer", http.buffer, "128KiB", 16 * KIB, MIB),
     .help = "how much is buffered, a connection and direction"},
};

static const struct setting limits_rows[] = {
    {COUNT("handshakes", limits.handshakes, "4096", 1, 10000000),
     .help = "how many TLS handshakes may be in flight"},
    {COUNT("source_handshakes", limits.source_handshakes, "1024", 1, 10000000),
     .help = "how many TLS handshakes of one source address may be in flight"},
    {COUNT("source_connections", limits.source_connections, "20000", 1, 10000000),
     .help = "how many connections one source address may have"},
    {COUNT("source_prefix_v4", limits.source_prefix_v4, "32", 8, 32),
     .help = "how many bits of an IPv4 address make a source"},
    {COUNT("source_prefix_v6", limits.source_prefix_v6, "64", 16, 128),
     .help = "how many bits of an IPv6 address make a source"},
    {COUNT("device_connections", limits.device_connections, "64", 1, 1000000),
     .help = "how many connections an admitted device may have"},
};

static const struct setting tls_rows[] = {
    {COUNT("sessions", tls.sessions, "20000", 0, 1000000),
     .help = "how many TLS sessions are remembered for resumption; 0: none"},
    {DURATION("session_lifetime", tls.session_lifetime_ms, "1h", SECOND, 7 * DAY),
     .help = "how long a TLS session may be resumed"},
    {COUNT("chain_depth", tls.chain_depth, "4", 1, 10),
     .help = "how many certificates there may be between a leaf and its root"},
    {COUNT("verified_chains", tls.verified_chains, "100000", 0, 10000000),
     .help = "how many clients' certificates are remembered as verified, a listener; 0: none"},
};

static const struct setting operator_rows[] = {
    {FILE_PATH("socket", operator.socket), NEEDS_RESTART("operator.socket"),
     .help = "the Unix socket of the operators' interface"},
};
#undef BASE

/* --- lists ------------------------------------------------------------------------------------ */

#define BASE struct config_certificate
static const struct setting certificate_rows[] = {
    {FILE_PATH("certificate", certificate_file), .required = true,
     .help = "the PEM file of a certificate and its chain, leaf first"},
    {FILE_PATH("key", key_file), .required = true,
     .help = "the PEM file of its private key"},
};
#undef BASE

#define BASE struct config_listener
static const struct setting listener_rows[] = {
    {STRING("name", name), .check = value_check_name, .required = true,
     .help = "its name in routes and logs"},
    {ADDRESS("address", address), .required = true,
     .help = "where it listens: \"0.0.0.0:8443\", \"[::]:8443\" or \"unix:/path\""},
    {CHOICE("clients", clients, config_clients, "devices"),
     .help = "who connects"},
    {CHOICE("client_certificate", client_certificate, config_certificate_mode, "required"),
     .help = "whether clients without a certificate get through the handshake"},
    {FILE_PATH("certificate", certificate_file),
     .help = "the PEM file of the server's certificate and its chain, leaf first"},
    {FILE_PATH("key", key_file),
     .help = "the PEM file of the server's private key"},
    {LIST("certificates", certificates, n_certificates, config_certificate, certificate_rows),
     .help = "further certificates, for clients that ask for their names"},
    {FILE_PATH("client_ca", client_ca_file),
     .help = "the PEM file of the CAs that sign operators' certificates"},
    {STRING("min_version", min_version), .check = value_check_tls_version, .fallback = "1.2",
     .help = "the oldest TLS version that is spoken"},
    {STRING("ciphers", ciphers),
     .help = "the TLS 1.2 cipher suites, as OpenSSL writes them"},
    {STRING("groups", groups),
     .help = "the key-exchange groups, as OpenSSL writes them"},
    {BOOL("announce_cas", announce_cas, "true"),
     .help = "whether the accepted CAs are named in the handshake"},
};
#undef BASE

#define BASE struct enforcement_group
/* Same keys as in rotation: whatever is unset is inherited from there. */
static const struct setting group_key_age_rows[] = {
    {DURATION("due_after", rule.key_age.due_after_ms, NULL, 0, 3650 * DAY),
     .help = "the age from which a key should be rotated; 0: never by age"},
    {DURATION("overdue_after", rule.key_age.overdue_after_ms, NULL, 0, 3650 * DAY),
     .help = "the age at which a key is overdue; 0: never by age"},
    {DURATION("due_before_expiry", rule.key_age.due_before_expiry_ms, NULL, 0, 3650 * DAY),
     .help = "how long before its certificate's end a key should be rotated; 0: never by expiry"},
    {CHOICE("action", rule.key_age.action, key_age_action, NULL),
     .help = "what happens to devices with an overdue key"},
};

static const struct setting group_rows[] = {
    {STRING("name", name), .check = value_check_name, .required = true,
     .help = "the group that operators put devices into"},
    {DURATION("expired_grace", rule.expired_grace_ms, NULL, 0, 3650 * DAY),
     .help = "how long after its expiry a certificate is let into quarantine; 0: never"},
    {MAP("key_age", group_key_age_rows),
     .help = "when keys are too old"},
};
#undef BASE

#define BASE struct config_device_ca
static const struct setting device_ca_rows[] = {
    {STRING("name", name), .check = value_check_name, .required = true,
     .help = "its name for operators"},
    {FILE_PATH("certificate", certificate_file), .required = true,
     .help = "the PEM file of the issuing CA and its chain, up to the root"},
    {FILE_PATH("crl", crl_file),
     .help = "the PEM file of its revocation lists"},
    {CHOICE("state", state, issuer_state, "active"),
     .help = "whether its devices are admitted"},
};
#undef BASE

#define BASE struct config_backend
static const struct setting ejection_rows[] = {
    {COUNT("failures", ejection_failures, "3", 0, 1000),
     .help = "how many failures in a row eject a server; 0: none do"},
    {CHOICE("on", ejection_on, config_ejection_on, "broken"),
     .help = "which failures count"},
    {DURATION("base", ejection_base_ms, "1s", 10, HOUR),
     .help = "how long a server is left alone at first"},
    {DURATION("max", ejection_max_ms, "60s", 10, DAY),
     .help = "how long a server is left alone at most"},
};

static const struct setting backend_tls_rows[] = {
    {BOOL("enabled", tls.enabled, "false"),
     .help = "whether TLS is spoken to the servers"},
    {FILE_PATH("ca_file", tls.ca_file),
     .help = "the PEM file of the CAs that sign the servers' certificates"},
    {STRING("server_name", tls.server_name), .check = value_check_host,
     .help = "the name that the servers' certificates must have"},
    {FILE_PATH("certificate", tls.certificate_file),
     .help = "the PEM file of the gateway's client certificate and its chain, leaf first"},
    {FILE_PATH("key", tls.key_file),
     .help = "the PEM file of the client certificate's private key"},
    {STRING("min_version", tls.min_version), .check = value_check_tls_version, .fallback = "1.2",
     .help = "the oldest TLS version that is spoken"},
};

static const struct setting health_rows[] = {
    {STRING("path", health.path), .check = value_check_target,
     .help = "what servers are asked for to see how they are; without it they are not"},
    {DURATION("every", health.every_ms, "10s", 10, DAY),
     .help = "how often a worker asks a server"},
    {DURATION("timeout", health.timeout_ms, "2s", 10, 5 * MINUTE),
     .help = "how long the answer may take"},
    {COUNT("healthy_after", health.healthy_after, "2", 1, 1000),
     .help = "how many good answers in a row make a server healthy"},
    {COUNT("unhealthy_after", health.unhealthy_after, "3", 1, 1000),
     .help = "how many bad or missing answers in a row make a server unhealthy"},
    {STRING("status", health.status), .check = value_check_statuses, .fallback = "200-299",
     .help = "the status of a good answer, or the first and the last of a range"},
};

static const struct setting backend_rows[] = {
    {STRING("name", name), .check = value_check_name, .required = true,
     .help = "its name in routes and logs"},
    {ADDRESSES("servers", servers, n_servers), .required = true,
     .help = "the addresses of its servers: \"host:port\" or \"unix:/path\""},
    {DURATION("connect_timeout", connect_timeout_ms, "5s", 10, 5 * MINUTE),
     .help = "how long connecting to a server may take"},
    {DURATION("response_timeout", response_timeout_ms, "60s", 100, DAY),
     .help = "how long a server may take to begin its response"},
    {DURATION("idle_timeout", idle_timeout_ms, "60s", 100, DAY),
     .help = "how long may pass between two pieces of a body"},
    {DURATION("keepalive_timeout", keepalive_timeout_ms, "60s", 100, DAY),
     .help = "how long an unused connection is kept"},
    {COUNT("keepalive_connections", keepalive_connections, "32", 0, 100000),
     .help = "how many unused connections a worker keeps"},
    {COUNT("max_connections", max_connections, "1024", 1, 1000000),
     .help = "how many connections a worker makes"},
    {COUNT("max_connections_per_server", max_connections_per_server, "1024", 1, 1000000),
     .help = "how many connections a worker makes to one server"},
    {COUNT("max_waiting", max_waiting, "256", 0, 1000000),
     .help = "how many requests of a worker may wait for a connection"},
    {DURATION("wait_timeout", wait_timeout_ms, "1s", 1, 5 * MINUTE),
     .help = "how long a request may wait for a connection"},
    {COUNT("retries", retries, "1", 0, 10),
     .help = "how often a request is sent again where that is safe"},
    {STRING("host", host), .check = value_check_authority,
     .help = "the Host field to send instead of the request's own"},
    {MAP("tls", backend_tls_rows),
     .help = "TLS to the servers"},
    {MAP("health", health_rows),
     .help = "asking the servers how they are"},
    {MAP("ejection", ejection_rows),
     .help = "when a server that fails is left alone"},
};
#undef BASE

#define BASE struct config_route
static const struct setting route_rows[] = {
    {STRING("host", host), .check = value_check_host,
     .help = "the host that requests name; without it any"},
    {STRING("path", path), .check = value_check_path,
     .help = "the exact path; {device} stands for a device's name on operators' routes"},
    {STRING("prefix", prefix), .check = value_check_path_prefix,
     .help = "the first segments of the path"},
    {WORDS("methods", methods, n_methods), .check = value_check_method,
     .help = "the request methods; without them any"},
    {STRING("listener", listener),
     .help = "the listener; without it every one with fitting clients"},
    {CHOICE("service", service, config_service, "none"),
     .help = "the gateway's own service that answers"},
    {STRING("backend", backend),
     .help = "the backend that answers"},
    {CHOICE("lock", lock, config_lock, "none"),
     .help = "the lock that requests must pass"},
    {BOOL("open_in_quarantine", open_in_quarantine, "false"),
     .help = "whether quarantined devices get through"},
    {BOOL("certificate_required", certificate_required, "true"),
     .help = "whether the client must have shown a certificate"},
    {SIZE("body_limit", body_limit, "64MiB", 0, UINT64_C(1024) * 1024 * MIB),
     .help = "the largest body of a request; 0: no limit"},
};
#undef BASE

/* --- the file --------------------------------------------------------------------------------- */

#define BASE struct config
static const struct setting root_rows[] = {
    {COUNT("workers", workers, "0", 0, 1024), NEEDS_RESTART("workers"),
     .help = "how many threads serve connections; 0: one a core"},
    {FILE_PATH("state_dir", state_dir), .fallback = "/var/lib/device-gateway",
     NEEDS_RESTART("state_dir"),
     .help = "the folder of the daemon's own data"},
    {DURATION("drain_timeout", drain_timeout_ms, "30s", 0, HOUR),
     .help = "how long exchanges may go on when the daemon stops"},
    {DURATION("resolve_every", resolve_every_ms, "30s", 100, DAY),
     .help = "how often the names of backends' servers are looked up again"},
    {COUNT("max_connections", max_connections, "100000", 1, 10000000),
     .help = "how many connections of clients there may be"},
    {MAP("log", log_rows), .help = "what is logged"},
    {MAP("store", store_rows), .help = "where devices are recorded"},
    {MAP("rotation", rotation_rows), .help = "who is admitted, and how keys are rotated"},
    {MAP("http", http_rows), .help = "limits of requests"},
    {MAP("limits", limits_rows), .help = "what one client may take from the others"},
    {MAP("tls", tls_rows), .help = "limits of TLS"},
    {MAP("operator", operator_rows), .help = "the operators' interface"},
    {LIST("listeners", listeners, n_listeners, config_listener, listener_rows),
     .help = "where clients connect"},
    {LIST("groups", groups, n_groups, enforcement_group, group_rows),
     .help = "groups of devices with enforcement of their own"},
    {LIST("device_cas", device_cas, n_device_cas, config_device_ca, device_ca_rows),
     .help = "the CAs that sign devices' certificates"},
    {LIST("backends", backends, n_backends, config_backend, backend_rows),
     .help = "the servers behind the gateway"},
    {LIST("routes", routes, n_routes, config_route, route_rows), .help = "which requests go where"},
};
#undef BASE

const struct setting settings_root = {
    .key = "", .help = "the configuration", .type = SETTING_MAP, ROWS(root_rows),
};

/* clang-format on */

const struct setting *settings_find(const struct setting *parent, struct str key)
{
    for (size_t i = 0; i < parent->n_rows; i++) {
        if (str_eq(str_c(parent->rows[i].key), key))
            return &parent->rows[i];
    }
    return NULL;
}

const char *settings_suggest(const struct setting *parent, struct str key)
{
    const char *nearest = NULL;
    size_t least = 3;

    for (size_t i = 0; i < parent->n_rows; i++) {
        size_t distance = value_distance(str_c(parent->rows[i].key), key);
        if (distance < least && distance * 2 <= key.len) {
            nearest = parent->rows[i].key;
            least = distance;
        }
    }
    return nearest;
}
