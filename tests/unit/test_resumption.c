/* SPDX-License-Identifier: BSD-2-Clause */
/* Which TLS sessions are resumed, and that they are shared between threads safely. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "gateway/base/clock.h"
#include "gateway/tls/session_certificate.h"
#include "gateway/tls/session_store.h"
#include "tls_fixture.h"

enum between {
    BETWEEN_NOTHING,
    BETWEEN_FORGET,
    BETWEEN_OTHER_SERVER,
    BETWEEN_OTHER_SNI,
    BETWEEN_NO_SNI,
    BETWEEN_LIFETIME,
};

struct resumption_case {
    const char *what;
    const struct pki *certificate;
    bool allowed;
    size_t sessions;
    int64_t grace_ms;
    enum between between;
    bool resumed;
};

static const struct resumption_case resumption_cases[] = {
    {"allowed", &pki.device, .allowed = true, .sessions = 10, .resumed = true},
    {"not allowed", &pki.device, .allowed = false, .sessions = 10},
    {"no store", &pki.device, .allowed = true, .sessions = 0},
    {"forgotten", &pki.device, .allowed = true, .sessions = 10, .between = BETWEEN_FORGET},
    {"another server", &pki.device, .allowed = true, .sessions = 10,
     .between = BETWEEN_OTHER_SERVER},
    {"another SNI", &pki.device, .allowed = true, .sessions = 10, .between = BETWEEN_OTHER_SNI},
    {"no SNI", &pki.device, .allowed = true, .sessions = 10, .between = BETWEEN_NO_SNI},
    {"too late", &pki.device, .allowed = true, .sessions = 10, .between = BETWEEN_LIFETIME},
    {"expired certificate", &pki.expired, .allowed = true, .sessions = 10, .grace_ms = 600000},
    {"of a CA with a CRL", &pki.not_revoked, .allowed = true, .sessions = 10, .resumed = true},
};

/* The first connection of a case, closed in order. */
static void connect_first(struct tls_server *server, struct client *client,
                          const struct resumption_case *wanted)
{
    struct link link;

    link_connect(&link, server, client, "a.example");
    assert_int_equal(link.result, STREAM_DONE);
    assert_int_equal(stream_peer(link.stream)->credentials.handshake, HANDSHAKE_FULL);
    if (wanted->allowed)
        stream_allow_resumption(link.stream);
    link_step_client(&link);
    if (wanted->between == BETWEEN_FORGET)
        stream_forget_session(link.stream);
    link_close(&link);
}

static void wait_ms(int64_t ms)
{
    int64_t until = clock_wall_ms() + ms;

    while (clock_wall_ms() <= until)
        usleep(500);
}

static void check_resumption_case(const struct resumption_case *wanted, int version)
{
    struct setup setup;
    struct client client;
    struct link link;

    setup_init(&setup);
    setup.config.tls.sessions = wanted->sessions;
    setup.config.rotation.admission.rules.fleet.expired_grace_ms = wanted->grace_ms;
    if (wanted->between == BETWEEN_LIFETIME)
        setup.config.tls.session_lifetime_ms = 20;
    struct tls_server *server = setup_server(&setup);
    client_init(&client, version, wanted->certificate);
    connect_first(server, &client, wanted);

    if (wanted->between == BETWEEN_OTHER_SERVER) {
        tls_server_unref(&server);
        server = setup_server(&setup);
    }
    if (wanted->between == BETWEEN_LIFETIME)
        wait_ms(20);
    const char *sni = wanted->between == BETWEEN_OTHER_SNI ? "b.example" : "a.example";
    link_connect(&link, server, &client, wanted->between == BETWEEN_NO_SNI ? NULL : sni);
    assert_int_equal(link.result, STREAM_DONE);
    const struct stream_peer *peer = stream_peer(link.stream);
    assert_int_equal(SSL_session_reused(link.ssl), wanted->resumed);
    assert_int_equal(peer->credentials.handshake,
                     wanted->resumed ? HANDSHAKE_RESUMED : HANDSHAKE_FULL);
    assert_int_equal(peer->identity, PEER_IDENTIFIED);
    assert_int_not_equal(peer->credentials.issuer, ISSUER_STATE_UNKNOWN);
    assert_int_equal(tls_server_recheck(server, peer), TLS_TRUST_STANDS);
    link_close(&link);
    client_deinit(&client);
    tls_server_unref(&server);
}

static void sessions_are_resumed_only_as_bound(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(resumption_cases); i++) {
        print_message("%s\n", resumption_cases[i].what);
        check_resumption_case(&resumption_cases[i], TLS1_2_VERSION);
        check_resumption_case(&resumption_cases[i], TLS1_3_VERSION);
    }
}

static void check_same_peer(const struct stream_peer *a, const struct stream_peer *b)
{
    assert_int_equal(a->identity, b->identity);
    assert_string_equal(a->credentials.device, b->credentials.device);
    assert_string_equal(a->credentials.factory, b->credentials.factory);
    assert_int_equal(a->credentials.production, b->credentials.production);
    assert_string_equal(a->credentials.key.id.hex, b->credentials.key.id.hex);
    assert_string_equal(a->credentials.key.pem, b->credentials.key.pem);
    assert_string_equal(a->credentials.certificate.hex, b->credentials.certificate.hex);
    assert_int_equal(a->credentials.certificate_expires_ms, b->credentials.certificate_expires_ms);
    assert_int_equal(a->credentials.issuer, b->credentials.issuer);
    assert_string_equal(a->issuer, b->issuer);
    assert_string_equal(a->issuer_certificate.hex, b->issuer_certificate.hex);
    assert_string_equal(a->serial, b->serial);
    assert_string_equal(a->client_cert, b->client_cert);
}

static void check_facts_survive(int version)
{
    struct tls_server *server = usual_server();
    struct client client, reference;
    struct link known, link;

    client_init(&reference, version, &pki.device);
    link_connect(&known, server, &reference, "a.example");
    client_init(&client, version, &pki.device);
    for (int i = 0; i < 3; i++) {
        link_connect(&link, server, &client, "a.example");
        assert_int_equal(stream_peer(link.stream)->credentials.handshake,
                         i > 0 ? HANDSHAKE_RESUMED : HANDSHAKE_FULL);
        check_same_peer(stream_peer(link.stream), stream_peer(known.stream));
        stream_allow_resumption(link.stream);
        check_same_peer(stream_peer(link.stream), stream_peer(known.stream));
        link_step_client(&link);
        if (i < 2)
            link_close(&link);
    }
    /* Now only the connection has them. */
    stream_forget_session(link.stream);
    check_same_peer(stream_peer(link.stream), stream_peer(known.stream));
    link_close(&link);
    link_close(&known);
    client_deinit(&client);
    client_deinit(&reference);
    tls_server_unref(&server);
}

static void a_resumed_connection_has_the_facts_of_the_full_handshake(void **state)
{
    check_facts_survive(TLS1_2_VERSION);
    check_facts_survive(TLS1_3_VERSION);
}

static int64_t session_time(const SSL_SESSION *session)
{
#if OPENSSL_VERSION_NUMBER >= 0x30300000L
    return SSL_SESSION_get_time_ex(session);
#else
    return SSL_SESSION_get_time(session);
#endif
}

static void check_same_session(SSL_SESSION *a, SSL_SESSION *b)
{
    unsigned char key_a[64], key_b[64];
    unsigned int id_len_a, id_len_b;
    const unsigned char *id_a = SSL_SESSION_get_id(a, &id_len_a),
                        *id_b = SSL_SESSION_get_id(b, &id_len_b);
    size_t len = SSL_SESSION_get_master_key(a, key_a, sizeof(key_a));

    assert_int_equal(SSL_SESSION_get_master_key(b, key_b, sizeof(key_b)), len);
    assert_memory_equal(key_a, key_b, len);
    assert_int_equal(id_len_a, id_len_b);
    assert_memory_equal(id_a, id_b, id_len_a);
    assert_ptr_equal(SSL_SESSION_get0_cipher(a), SSL_SESSION_get0_cipher(b));
    assert_int_equal(SSL_SESSION_get_protocol_version(a), SSL_SESSION_get_protocol_version(b));
    assert_int_equal(session_time(a), session_time(b));
    assert_int_equal(SSL_SESSION_get_timeout(a), SSL_SESSION_get_timeout(b));
    assert_int_equal(SSL_SESSION_get_max_fragment_length(a),
                     SSL_SESSION_get_max_fragment_length(b));
}

static void check_dropping(int version)
{
    struct tls_server *server = usual_server();
    struct client client;
    struct link link;

    client_init(&client, version, &pki.device);
    SSL_CTX_set_tlsext_max_fragment_length(client.context, TLSEXT_max_fragment_length_1024);
    link_connect(&link, server, &client, "a.example");
    stream_allow_resumption(link.stream);
    link_step_client(&link);
    link_close(&link);

    SSL_SESSION *whole = client.session, *dropped = SSL_SESSION_dup(whole);
    assert_non_null(SSL_SESSION_get0_peer(whole));
    assert_true(session_drop_certificate(dropped));
    assert_null(SSL_SESSION_get0_peer(dropped));
    check_same_session(dropped, whole);
    assert_true(session_drop_certificate(dropped));
    check_same_session(dropped, whole);
    SSL_SESSION_free(whole);

    /* Nor did it lose what is needed to resume. */
    client.session = dropped;
    link_connect(&link, server, &client, "a.example");
    assert_int_equal(SSL_session_reused(link.ssl), 1);
    link_close(&link);
    client_deinit(&client);
    tls_server_unref(&server);
}

static void a_session_loses_its_certificate_and_nothing_else(void **state)
{
    check_dropping(TLS1_2_VERSION);
    check_dropping(TLS1_3_VERSION);
}

/* Clients use a TLS 1.3 ticket once, so a resumed connection gives a new one; all of them end
 * together. */
static void a_chain_of_tickets_ends_with_its_first_handshake(void **state)
{
    struct tls_server *server = usual_server();
    struct client client;
    SSL_SESSION *first = NULL;

    client_init(&client, TLS1_3_VERSION, &pki.device);
    for (int i = 0; i < 5; i++) {
        struct link link;
        link_connect(&link, server, &client, NULL);
        assert_int_equal(SSL_session_reused(link.ssl), i > 0 && i < 4);
        assert_string_equal(stream_peer(link.stream)->credentials.device, "device-1");
        SSL_SESSION *before = client.session;
        if (i == 0 || i == 1)
            stream_allow_resumption(link.stream);
        stream_allow_resumption(link.stream);
        link_step_client(&link);
        assert_true(i >= 4 || client.session != before);
        if (i == 0)
            SSL_SESSION_up_ref(first = client.session);
        if (i == 3) {
            stream_forget_session(link.stream);
            SSL_SESSION_free(client.session);
            client.session = first;
        }
        link_close(&link);
    }
    client_deinit(&client);
    tls_server_unref(&server);
}

static SSL_SESSION *session_with_id(unsigned int number)
{
    SSL_SESSION *session = SSL_SESSION_new();
    unsigned char id[32] = {(unsigned char)(number * 37), (unsigned char)number};

    memcpy(id + 8, &number, sizeof(number));
    assert_int_equal(SSL_SESSION_set1_id(session, id, sizeof(id)), 1);
    return session;
}

static bool store_has(struct session_store *store, unsigned int number)
{
    SSL_SESSION *wanted = session_with_id(number);
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(wanted, &len);
    SSL_SESSION *found = session_store_get(store, id, len);
    bool has = found != NULL;

    SSL_SESSION_free(found);
    SSL_SESSION_free(wanted);
    return has;
}

static void store_put(struct session_store *store, unsigned int number)
{
    SSL_SESSION *session = session_with_id(number);

    session_store_put(store, session);
    SSL_SESSION_free(session);
}

static void the_session_store_is_bounded(void **state)
{
    struct session_store *store = session_store_new(100);
    unsigned int n = 0;

    for (unsigned int i = 0; i < 10000; i++)
        store_put(store, i);
    for (unsigned int i = 0; i < 10000; i++)
        n += store_has(store, i);
    assert_true(n > 50 && n <= 112);
    assert_true(store_has(store, 9999));
    session_store_free(&store);

    store = session_store_new(1);
    store_put(store, 1);
    store_put(store, 1);
    assert_true(store_has(store, 1));
    store_put(store, 2);
    assert_false(store_has(store, 1));
    assert_true(store_has(store, 2));
    session_store_free(&store);
}

static void the_session_used_longest_ago_goes_first(void **state)
{
    struct session_store *store = session_store_new(1);

    session_store_free(&store);
    /* One shard of the sixteen: ids whose first byte agrees modulo 16. */
    store = session_store_new(32);
    store_put(store, 16);
    store_put(store, 32);
    assert_true(store_has(store, 16));
    store_put(store, 48);
    assert_true(store_has(store, 16));
    assert_false(store_has(store, 32));
    SSL_SESSION *session = session_with_id(16);
    unsigned int len;
    const unsigned char *id = SSL_SESSION_get_id(session, &len);
    session_store_remove(store, id, len);
    session_store_remove(store, id, len);
    assert_false(store_has(store, 16));
    SSL_SESSION_free(session);
    session_store_free(&store);
}

enum { N_THREADS = 4, N_ROUNDS = 25 };

struct visitor {
    pthread_t thread;
    struct tls_server *server;
    int version;
    size_t n_resumed;
};

/* No assertions of cmocka's here: they jump out of the wrong thread. */
static void *visit(void *arg)
{
    struct visitor *visitor = arg;
    struct client client;

    client_init(&client, visitor->version, &pki.device);
    for (int i = 0; i < N_ROUNDS; i++) {
        struct link link;
        link_connect(&link, visitor->server, &client, "a.example");
        if (link.result != STREAM_DONE || stream_peer(link.stream)->identity != PEER_IDENTIFIED)
            abort();
        visitor->n_resumed += stream_peer(link.stream)->credentials.handshake == HANDSHAKE_RESUMED;
        stream_allow_resumption(link.stream);
        link_step_client(&link);
        if (i % 10 == 9)
            stream_forget_session(link.stream);
        link_close(&link);
    }
    client_deinit(&client);
    tls_server_unref(&visitor->server);
    return NULL;
}

static void one_server_serves_many_threads(void **state)
{
    struct tls_server *server = usual_server();
    struct visitor visitors[N_THREADS];
    size_t n_resumed = 0;

    for (int i = 0; i < N_THREADS; i++) {
        visitors[i] = (struct visitor){.server = tls_server_ref(server),
                                       .version = i % 2 == 0 ? TLS1_2_VERSION : TLS1_3_VERSION};
        assert_int_equal(pthread_create(&visitors[i].thread, NULL, visit, &visitors[i]), 0);
    }
    tls_server_unref(&server);
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(visitors[i].thread, NULL);
        n_resumed += visitors[i].n_resumed;
    }
    assert_int_equal(n_resumed, N_THREADS * (N_ROUNDS - 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_are_resumed_only_as_bound),
        cmocka_unit_test(a_resumed_connection_has_the_facts_of_the_full_handshake),
        cmocka_unit_test(a_session_loses_its_certificate_and_nothing_else),
        cmocka_unit_test(a_chain_of_tickets_ends_with_its_first_handshake),
        cmocka_unit_test(the_session_store_is_bounded),
        cmocka_unit_test(the_session_used_longest_ago_goes_first),
        cmocka_unit_test(one_server_serves_many_threads),
    };
    return cmocka_run_group_tests_name("resumption", tests, fixture_set_up, fixture_tear_down);
}
