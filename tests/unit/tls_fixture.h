/* SPDX-License-Identifier: BSD-2-Clause */
/* What the tests of the TLS façade share: a PKI, servers made of it, and an OpenSSL client at the
 * other end of a socketpair.
 *
 * The files have the names that the members of `pki` have; the test runs in their folder. */
#pragma once

#include <openssl/ssl.h>

#include "gateway/config/config.h"
#include "gateway/tls/server.h"
#include "gateway/tls/stream.h"
#include "pki.h"

/* Two fleets, of which one has a CRL, and strangers. */
struct fixture_pki {
    struct pki server, server_weak;
    struct pki root, issuing, issuing_crl, issuing_stale, self_issued, stranger;
    struct pki device, bare, version_1, expired, long_expired, future, server_only, weak, ca_leaf;
    struct pki revoked, not_revoked, of_stale, of_self, of_stranger, nameless, sub_ca, of_sub_ca;
};

extern struct fixture_pki pki;

/* For cmocka_run_group_tests_name(). */
int fixture_set_up(void **state);
int fixture_tear_down(void **state);

/* A configuration built by hand; setup_init() gives the usual one. */
struct setup {
    struct config config;
    struct config_listener listener;
    struct config_device_ca cas[4];
};

/* Device CAs "fleet" (issuing.pem), "fleet-crl" (disabled, with a CRL), "fleet-stale" (its CRL has
 * expired), "fleet-self" (revoked). */
void setup_init(struct setup *setup);
struct tls_server *setup_server(const struct setup *setup);
struct tls_server *usual_server(void);

/* The other side, in OpenSSL. */
struct client {
    SSL_CTX *context;
    SSL_SESSION *session; /* the latest that the server gave */
};

/* `version` is OpenSSL's number; certificate NULL: none. */
void client_init(struct client *client, int version, const struct pki *certificate);
void client_deinit(struct client *client);

/* Both ends of one connection. */
struct link {
    struct stream *stream;
    SSL *ssl;
    int fd;                    /* the client's */
    enum stream_result result; /* of the handshake */
    int alert;                 /* what the client was told; 0: nothing */
};

void make_pair(int fds[2]);
/* Offers the client's session when it has one. sni may be NULL. */
void link_open(struct link *link, struct tls_server *server, const struct client *client,
               const char *sni);
/* Shakes hands until neither side gets further. */
void link_shake(struct link *link);
void link_connect(struct link *link, struct tls_server *server, const struct client *client,
                  const char *sni);
/* One step of the client: handshake first, then a look for tickets and alerts. */
void link_step_client(struct link *link);
void link_close(struct link *link);
