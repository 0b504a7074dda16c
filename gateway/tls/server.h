/* SPDX-License-Identifier: BSD-2-Clause */
/* What a listener needs for TLS: its certificates, whom it trusts, how strictly.
 *
 * Built whole from files, immutable afterwards but for the session store inside, shared by all
 * workers (thread-safe). Verification is strict: X509_V_FLAG_X509_STRICT, purpose client, security
 * level 2, depth limit.
 *
 * All device CAs are trusted for verification, disabled and revoked ones too: their state is told
 * to policy, so that the device gets an HTTP answer that says why. Of each file, the first
 * certificate is the trust anchor (the issuing CA; its root need not be there), and only what it
 * issued directly has a known issuer. Devices may send their leaf alone.
 *
 * A CRL is checked for those CAs that have one configured. When it has expired, all certificates of
 * that CA are refused until a reload brings a newer one. An expired certificate is refused but
 * within the longest expired_grace of rotation and groups: admission knows whose it is. What exactly is excused of the strict checks stands in trust.h,
 * what makes a name invalid in identity.h. */
#pragma once

#include "gateway/base/macros.h"
#include "gateway/config/config.h"
#include "gateway/tls/stream.h"

struct tls_server;

/* NULL on failure, with a sentence that names the file and the mend in `error`. */
struct tls_server *tls_server_new(const struct config *config,
                                  const struct config_listener *listener, char *error,
                                  size_t error_size) MUST_CHECK;
struct tls_server *tls_server_ref(struct tls_server *server); /* thread-safe */
void tls_server_unref(struct tls_server **server);            /* thread-safe; NULL inside is fine */

enum tls_trust {
    TLS_TRUST_GONE,   /* its issuer is not configured any more, is revoked, or its CRL lists it */
    TLS_TRUST_STANDS, /* none of that */
};

/* After a reload: is a connection that was verified by an older server still trusted by this one?
 * Without cryptography: issuer, issuer's state and CRL membership only. */
enum tls_trust tls_server_recheck(const struct tls_server *server, const struct stream_peer *peer);

/* When the first of the listener's own certificates expires, in ms since 1970. */
int64_t tls_server_expires_ms(const struct tls_server *server);
/* For each CA that the listener trusts: its name in the configuration, "" for operators' CAs; when
 * its certificate and its CRL expire, INT64_MAX for no CRL, or one without end. */
typedef void tls_ca_fn(const char *name, int64_t expires_ms, int64_t crl_expires_ms, void *arg);
void tls_server_visit_cas(const struct tls_server *server, tls_ca_fn *visit, void *arg);
/* The state of the issuer by this server's configuration; UNKNOWN when it has none of it. */
enum issuer_state tls_server_issuer_state(const struct tls_server *server,
                                          const struct stream_peer *peer);

/* Once, before the first server is made, and before threads are started. Ignores SIGPIPE in the
 * whole process. */
void tls_init(void);
