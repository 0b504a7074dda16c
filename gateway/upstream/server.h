/* SPDX-License-Identifier: BSD-2-Clause */
/* The servers of a backend as one worker sees them: who is fit, and who is asked next.
 *
 *              `failures` faults in a row                   the time is over
 *        FIT ──────────────────────────────▶ EJECTED ─────────────────────────────▶ ON TRIAL
 *         ▲                                     ▲                                     │  │
 *         │                                     └───── the trial fails: longer ───────┘  │
 *         └───────────────────── the trial is answered ──────────────────────────────────┘
 *
 * A trial is a real request, one at a time. An ejection lasts `ejection.base`, and twice as long as
 * the last one when it follows within `ejection.max` of its end; never longer than `ejection.max`; up
 * to a quarter is taken off by chance, so that workers do not come back together. Beside it, probes (health.h) may find a
 * server unhealthy: then it gets nothing either, until they find it healthy again.
 *
 * Nobody is left without a server: when none is fit, the least bad one is asked. Among the fit, the
 * one with the fewest exchanges in flight is next, and among equals they take turns. A fit one whose
 * connections are all in use is better than one that is not fit: it is worth waiting for.
 *
 * Time is an argument. What changes is logged once a change, and its rate is bounded by
 * ejection.base and health.every. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/tls/client.h"
#include "gateway/upstream/counts.h"
#include "gateway/upstream/resolved.h"

/* What a server did wrong, the more innocent first; ejection.on names the last one that counts. */
enum server_fault {
    SERVER_FAULT_CONNECT, /* no connection: refused, unreachable, not in time, or no TLS */
    SERVER_FAULT_TIMEOUT, /* no answer, or no more of it, in time */
    SERVER_FAULT_BROKEN,  /* the answer broke off, or was no HTTP */
};

struct server {
    struct sockaddr_storage address;
    socklen_t address_len;
    char *name; /* owned; "127.0.0.1:8080", "[::1]:8080" or "unix:/run/api.sock", for the log */
    const char *tls_name; /* borrowed from the configuration: whom its certificate must name */
    struct tls_session *session; /* owned: to resume with; NULL: none */
    struct server_row *row;      /* borrowed from the counts */
    size_t slot;                 /* its bit in a set of servers */
    unsigned in_flight;          /* exchanges that have chosen it and are not over */
    size_t n_conns;              /* the pool's, in use and kept */
    size_t n_kept;               /* of them */

    bool unhealthy; /* probes say so; changed by server_set_health() alone */

    /* private to server.c */
    size_t faults;            /* in a row */
    int64_t ejected_ms;       /* how long the last ejection was meant to be */
    int64_t grows_until_ms;   /* until then another ejection is longer than the last */
    int64_t ejected_until_ms; /* 0: fit as far as requests can tell; past: waits for its trial */
    bool on_trial;            /* its trial is under way */
    bool was_fit;             /* as it was counted last */
};

/* Embedded in its owner. */
struct servers {
    const struct config_backend *backend; /* borrowed */
    struct server *all[SERVERS_MAX];      /* owned; by slot, without gaps */
    size_t n;
    size_t turn; /* where looking for the next one begins */
};

struct servers_params {
    const struct config_backend *backend;
    const struct resolved *resolved; /* of that backend; may be empty */
    struct upstream_counts *counts;
    size_t worker;
};

void servers_init(struct servers *servers, const struct servers_params *params);
/* Takes over what `before` knows of the servers that both have. */
void servers_inherit(struct servers *servers, const struct servers *before);
void servers_deinit(struct servers *servers);

/* The next one that is not in the set `tried`; NULL when there is none left. */
struct server *servers_choose(struct servers *servers, uint64_t tried, int64_t now_ms) MUST_CHECK;

/* An exchange has chosen it. True when it is its trial (or it was asked for want of a better one):
 * server_answered() and server_leave() want to know. */
bool server_enter(struct server *server, int64_t now_ms) MUST_CHECK;
/* That exchange is over, or goes elsewhere; what it saw was told before. */
void server_leave(struct server *server, bool trial);

/* A final head came. One that was on trial is fit again, but the next fault ejects it. */
void server_answered(struct servers *servers, struct server *server, bool trial);
/* A whole answer came: what was wrong before is forgotten. */
void server_completed(struct server *server);
/* What probes have found; a change. `detail` is for the log. */
void server_set_health(struct servers *servers, struct server *server, bool healthy,
                       const char *detail);
/* `detail` is for the log. */
void server_failed(struct servers *servers, struct server *server, enum server_fault fault,
                   const char *detail, int64_t now_ms);
