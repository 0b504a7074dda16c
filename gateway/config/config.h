/* SPDX-License-Identifier: BSD-2-Clause */
/* The configuration: one immutable, reference-counted value, read from a YAML file.
 *
 * config_parse() reads, checks and completes it; nothing else ever changes it. Every setting is one
 * row of the table in settings.c (key, type, field, default, range, unit, reloadable or not, help),
 * which parsing, defaults, the dump (-T) and the error messages all come from. Unknown and
 * duplicate keys are errors, with a suggestion when a known key is near. Errors name place and
 * mend: "gateway.yaml:12:5: listeners[0].adress: unknown key; did you mean \"address\"?".
 *
 * Durations are written "250ms", "10s", "5m", "12h", "7d", sizes "64KiB", "1MiB" or plain bytes;
 * the fields' names give the unit that is kept. Every limit and timeout has a finite default. Files
 * that the configuration names are not opened here; relative paths are taken from the folder of the
 * configuration file. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/log.h"
#include "gateway/base/macros.h"
#include "policy/admission.h"

enum config_clients {
    CONFIG_CLIENTS_DEVICES,   /* mutual TLS against the device CAs; every connection needs admission
                               */
    CONFIG_CLIENTS_OPERATORS, /* the operators' own APIs: mutual TLS against `client_ca`, or a Unix
                                 socket; no admission */
};

enum config_certificate_mode {
    CONFIG_CERTIFICATE_REQUIRED, /* a TLS alert without one */
    CONFIG_CERTIFICATE_OPTIONAL, /* routes decide: 403 certificate-missing where a device is needed
                                  */
};

enum config_on_outage {
    CONFIG_ON_OUTAGE_REFUSE,         /* 503 until the store answers again */
    CONFIG_ON_OUTAGE_SERVE_ADMITTED, /* admitted connections go on for at most serve_admitted_max */
};

enum config_service {
    CONFIG_SERVICE_NONE,     /* the route goes to its backend */
    CONFIG_SERVICE_ROTATION, /* PATCH and GET of the device's own record */
};

enum config_lock {
    CONFIG_LOCK_NONE,
    CONFIG_LOCK_CONFIG, /* a config write: judged by the config lock, holds a write lease while it
                           lasts */
};

/* What a backend's server does wrong, the more innocent first: the order of enum server_fault. */
enum config_ejection_on {
    CONFIG_EJECTION_ON_CONNECT, /* it cannot be connected to */
    CONFIG_EJECTION_ON_TIMEOUT, /* the above, or it does not answer in time */
    CONFIG_EJECTION_ON_BROKEN,  /* the above, or its answer breaks off or is not valid */
};

enum config_address_type {
    CONFIG_ADDRESS_TCP,
    CONFIG_ADDRESS_UNIX,
};

/* "0.0.0.0:8443", "[::]:8443", "localhost:8080" or "unix:/run/api.sock". Host names are resolved
 * where they are used. */
struct config_address {
    enum config_address_type type;
    const char *host; /* or the socket's path */
    uint16_t port;    /* host byte order; 0 lets the kernel choose */
};

struct config_certificate {
    const char *certificate_file; /* PEM chain, leaf first */
    const char *key_file;
};

struct config_listener {
    const char *name;
    struct config_address address;
    enum config_clients clients;
    enum config_certificate_mode client_certificate;
    const char *certificate_file; /* PEM chain, leaf first; NULL on a Unix socket: no TLS */
    const char *key_file;
    struct config_certificate *certificates; /* further ones, n_certificates of them, by SNI */
    size_t n_certificates;
    const char *client_ca_file; /* PEM bundle; operators only */
    const char *min_version;    /* "1.2" or "1.3" */
    const char *ciphers;        /* TLS 1.2, OpenSSL's notation; NULL: our default */
    const char *groups;         /* OpenSSL's notation; NULL: OpenSSL's default */
    bool announce_cas;          /* send certificate_authorities in the CertificateRequest */
};

struct config_device_ca {
    const char *name;             /* shown to operators; at most LABEL_MAX */
    const char *certificate_file; /* PEM: the issuing CA first, then its chain up to the root */
    const char *crl_file;         /* PEM, one CRL or several; NULL: none */
    enum issuer_state state;      /* active, disabled, revoked */
};

struct config_backend {
    const char *name;
    struct config_address *servers; /* n_servers of them */
    size_t n_servers;
    int64_t connect_timeout_ms;
    int64_t response_timeout_ms;  /* from the last byte of the request to the response's head */
    int64_t idle_timeout_ms;      /* between two pieces of a body, either way */
    int64_t keepalive_timeout_ms; /* how long an unused connection is kept */
    size_t keepalive_connections; /* unused ones, a worker */
    size_t max_connections;       /* in all, a worker */
    size_t max_connections_per_server;
    size_t max_waiting;      /* exchanges that wait for a connection, a worker */
    int64_t wait_timeout_ms; /* how long they do */
    size_t retries;          /* how often what may be sent again is */
    struct {
        const char *path; /* NULL: no probes */
        int64_t every_ms;
        int64_t timeout_ms;
        size_t healthy_after; /* in a row */
        size_t unhealthy_after;
        const char *status; /* "200" or "200-299" */
    } health;
    size_t ejection_failures; /* in a row; 0: never */
    enum config_ejection_on ejection_on;
    int64_t ejection_base_ms;
    int64_t ejection_max_ms;
    const char *host; /* the Host to send; NULL: the request's own */
    struct {
        bool enabled;
        const char *ca_file;          /* PEM bundle; NULL: the system's CAs */
        const char *server_name;      /* whom certificates must name; NULL: each server's host */
        const char *certificate_file; /* PEM chain, leaf first; NULL: none is shown */
        const char *key_file;
        const char *min_version; /* "1.2" or "1.3" */
    } tls;
};

struct config_route {
    const char *host;     /* NULL: any; compared without case and port */
    const char *path;     /* exact, but for a slash behind it; "{device}" may be a segment */
    const char *prefix;   /* whole segments: "/ota" matches "/ota" and "/ota/x", not "/otax" */
    const char **methods; /* n_methods of them; none: any */
    size_t n_methods;
    const char *listener; /* NULL: all with fitting clients; operators when the path has {device} */
    enum config_service service;
    const char *backend;  /* NULL when a service answers */
    size_t backend_index; /* into backends[], valid when backend != NULL */
    enum config_lock lock;
    bool open_in_quarantine;
    bool certificate_required; /* false: clients without one get through (listener: optional) */
    size_t body_limit;         /* bytes; 0: streamed without a limit of ours */
};

struct config {
    const char *path; /* as given to config_parse() */

    size_t workers; /* 0 in the file: one a core; here the number */
    const char *state_dir;
    int64_t drain_timeout_ms; /* SIGTERM: how long exchanges in flight may go on */
    int64_t resolve_every_ms; /* names of backends' servers */
    size_t max_connections;   /* of devices and operators, in the whole process */

    struct {
        enum log_format format;
        enum log_level level;
        bool requests;  /* one line a request (the access log) */
        size_t repeats; /* of a line that peers can provoke: in 10 s, a reason and worker */
    } log;

    struct {
        const char *redis; /* redis://host:port[/db], rediss://…, unix:/path; NULL: none */
        struct {
            const char *master; /* its name among the sentinels; NULL: no Sentinel */
            struct config_address *servers;
            size_t n_servers;
            const char *username;      /* the sentinels' own; NULL: none */
            const char *password_file; /* likewise */
        } sentinel;
        struct config_address *cluster; /* some nodes of a Redis Cluster; none: no Cluster */
        size_t n_cluster;
        bool tls;                 /* to sentinels, and to the servers that they or a Cluster name */
        const char *redis_server; /* the embedded store's program */
        const char *username;     /* NULL: none */
        const char *password_file; /* NULL: none; the file's first line */
        const char *ca_file;       /* rediss: who signs the server; NULL: the system's */
        const char *prefix;        /* first part of every key */
        uint32_t partitions;
        int64_t connect_timeout_ms;
        int64_t command_timeout_ms;
        int64_t lease_ms; /* how long live connections are trusted after the log was last read */
        enum config_on_outage on_outage;
        int64_t serve_admitted_max_ms;
        uint32_t wait_replicas; /* 0: none */
        int64_t wait_timeout_ms;
        uint64_t events_max; /* the log is trimmed to about this many events */
    } store;

    struct {
        struct admission_settings admission;
        int64_t drain_ms; /* rotation.drain: exchanges of a retired key may finish within it */
        int64_t write_lease_ms; /* rotation.write_lease: how long a config write may take */
        size_t config_body_max; /* rotation.config_body_max: the largest that can be judged */
    } rotation;

    struct {
        int64_t handshake_timeout_ms;
        int64_t head_timeout_ms; /* from the first byte of a request to the end of its head */
        int64_t first_request_timeout_ms; /* from the handshake to the first byte of a request */
        int64_t body_timeout_ms;          /* between two pieces of a request's body */
        size_t body_min_rate;             /* bytes a second; 0: any */
        int64_t write_timeout_ms;         /* without progress */
        size_t write_min_rate;            /* bytes a second; 0: any */
        int64_t idle_timeout_ms;          /* between two requests */
        size_t head_max;                  /* bytes of a request's head */
        size_t fields_max;                /* header fields of a request */
        size_t buffer;                    /* bytes buffered a direction and connection */
    } http;

    struct {
        size_t handshakes;         /* TLS handshakes in flight */
        size_t source_handshakes;  /* of one source address */
        size_t source_connections; /* of one source address */
        size_t source_prefix_v4;   /* how many bits of an address make a source */
        size_t source_prefix_v6;
        size_t device_connections; /* of one admitted device */
    } limits;

    struct {
        size_t sessions; /* TLS sessions remembered for resumption; 0: none */
        int64_t session_lifetime_ms;
        size_t chain_depth;
        size_t verified_chains; /* certificates whose verified chain is remembered; 0: none */
    } tls;

    struct {
        const char *socket; /* the operators' Unix socket; default <state_dir>/operator.sock */
    } operator;

    struct config_listener *listeners;
    size_t n_listeners;
    struct enforcement_group *groups; /* what they leave out is rotation's */
    size_t n_groups;                  /* both in rotation.admission.rules as well */
    struct config_device_ca *device_cas;
    size_t n_device_cas;
    struct config_backend *backends;
    size_t n_backends;
    struct config_route *routes;
    size_t n_routes;
};

/* Which of the settings says where the store is. */
enum config_store_kind {
    CONFIG_STORE_EMBEDDED, /* none: the daemon runs a Redis of its own */
    CONFIG_STORE_REDIS,    /* one server, named by the configuration */
    CONFIG_STORE_SENTINEL, /* the master that sentinels name */
    CONFIG_STORE_CLUSTER,  /* the nodes of a Redis Cluster */
};
enum config_store_kind config_store_kind(const struct config *config);
/* Has somebody to be asked where the servers are? */
static inline bool config_store_is_guided(const struct config *config)
{
    return config_store_kind(config) >= CONFIG_STORE_SENTINEL;
}

/* Where errors go; each is one complete line without newline. */
typedef void config_error_fn(const char *line, void *arg);

/* Parses `text` (of `len` bytes, any bytes) as the file `path`. Returns NULL after at least one
 * call of on_error, which is told every error that was found, at most 20. The caller owns the
 * result: config_unref(). */
struct config *config_parse(const char *path, const char *text, size_t len,
                            config_error_fn *on_error, void *arg) MUST_CHECK;

/* Reads the file and parses it. */
struct config *config_load(const char *path, config_error_fn *on_error, void *arg) MUST_CHECK;

struct config *config_ref(const struct config *config); /* thread-safe */
void config_unref(const struct config **config);        /* thread-safe; NULL inside is fine */

/* The effective configuration, defaults included, as YAML that config_parse() accepts again. Owned
 * by the caller: mem_free(). */
char *config_dump(const struct config *config) MUST_CHECK;

/* NULL when `now` may replace `before` in a running daemon; otherwise a static sentence that names
 * the setting which needs a restart (workers, store, state_dir, listeners' addresses…). */
const char *config_reload_obstacle(const struct config *before, const struct config *now);
