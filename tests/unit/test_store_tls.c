/* SPDX-License-Identifier: BSD-2-Clause */
/* rediss:// where the installed hiredis has TLS, and the sentence that refuses it where it has
 * not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/mem.h"
#include "gateway/store/link_tls.h"
#include "gateway/store/startup.h"
#include "pki.h"
#include "store_world.h"

/* A redis-server with TLS on its TCP port, and the CAs that clients may believe in. */
struct tls_server {
    char folder[64];
    char ca[96], other_ca[96], certificate[96], key[96];
    char port[8];
    struct redis_fixture redis;
};

static void write_ca(const char *path, const struct pki *ca)
{
    X509 *certificates[] = {ca->certificate, NULL};

    pki_write(path, certificates, NULL, NULL);
}

static void mint(struct tls_server *server)
{
    struct pki ca = pki_mint_ca("Redis CA", NULL), other = pki_mint_ca("Other CA", NULL);
    struct pki leaf = pki_mint(&(struct pki_recipe){
        .issuer = &ca,
        .cn = "redis",
        .extensions = {{"subjectAltName", "DNS:localhost"}, {"extendedKeyUsage", "serverAuth"}},
    });
    X509 *chain[] = {leaf.certificate, NULL}, *none[] = {NULL};

    write_ca(server->ca, &ca);
    write_ca(server->other_ca, &other);
    pki_write(server->certificate, chain, NULL, NULL);
    pki_write(server->key, none, leaf.key, NULL);
    pki_free(&leaf);
    pki_free(&other);
    pki_free(&ca);
}

static void start_server(struct tls_server *server)
{
    memset(server, 0, sizeof(*server));
    (void)snprintf(server->folder, sizeof(server->folder), "/tmp/store-tls-XXXXXX");
    assert_non_null(mkdtemp(server->folder));
    (void)snprintf(server->ca, sizeof(server->ca), "%s/ca.pem", server->folder);
    (void)snprintf(server->other_ca, sizeof(server->other_ca), "%s/other.pem", server->folder);
    (void)snprintf(server->certificate, sizeof(server->certificate), "%s/redis.pem",
                   server->folder);
    (void)snprintf(server->key, sizeof(server->key), "%s/redis.key", server->folder);
    mint(server);
    (void)snprintf(server->port, sizeof(server->port), "%u", redis_fixture_free_port());
    const char *const options[] = {"--tls-port",
                                   server->port,
                                   "--tls-cert-file",
                                   server->certificate,
                                   "--tls-key-file",
                                   server->key,
                                   "--tls-ca-cert-file",
                                   server->ca,
                                   "--tls-auth-clients",
                                   "no",
                                   NULL};
    server->redis.options = options;
    redis_fixture_start(&server->redis, false);
    server->redis.options = NULL;
}

static void stop_server(struct tls_server *server)
{
    redis_fixture_stop(&server->redis);
    folder_remove(server->folder);
}

static void a_server_is_believed_under_its_name_and_ca_only(void **state)
{
    static const struct {
        const char *host;
        bool has_right_ca;
        bool is_believed;
    } cases[] = {
        {"localhost", true, true},
        {"localhost", false, false},
        {"127.0.0.1", true, false}, /* not in the certificate */
    };
    struct world *world = mem_new(struct world);
    struct config config = test_config();
    struct tls_server server;
    char url[64], error[256];

    if (!link_tls_is_available()) {
        config.store.redis = "rediss://localhost:1";
        assert_int_equal(store_startup_check(&config, NULL, error, sizeof(error)),
                         STORE_STARTUP_WRONG);
        assert_non_null(strstr(error, "built without"));
        mem_free(world);
        return;
    }
    start_server(&server);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        (void)snprintf(url, sizeof(url), "rediss://%s:%s", cases[i].host, server.port);
        config.store.redis = url;
        config.store.ca_file = cases[i].has_right_ca ? server.ca : server.other_ca;
        error[0] = '\0';
        assert_int_equal(store_startup_check(&config, NULL, error, sizeof(error)),
                         cases[i].is_believed ? STORE_STARTUP_READY : STORE_STARTUP_UNREACHABLE);
        world_open(world, &server.redis, &config);
        if (cases[i].is_believed)
            wait_until(world, store_is_ready(world->store));
        else
            world_run(world, 300);
        assert_int_equal(store_is_ready(world->store), cases[i].is_believed);
        world_close(world);
    }
    stop_server(&server);
    mem_free(world);
}

/* Answers of many records of TLS, and more to write than the kernel takes at once. */
static void much_goes_through_in_both_directions(void **state)
{
    enum { N = 2000 };
    struct world *world = mem_new(struct world);
    struct answer *answers = mem_array(N, sizeof(*answers));
    struct config config = test_config();
    struct tls_server server;
    char url[64];

    if (link_tls_is_available()) {
        start_server(&server);
        (void)snprintf(url, sizeof(url), "rediss://localhost:%s", server.port);
        config.store.redis = url;
        config.store.ca_file = server.ca;
        config.store.command_timeout_ms = 5000;
        world_open(world, &server.redis, &config);
        wait_until(world, store_is_ready(world->store));
        struct change change = record_change("d1", 1);
        memset(change.next.current.pem, 'x', PUBKEY_PEM_MAX);
        assert_int_equal(commit_of(world, "d1", &change), STORE_OK);
        for (int i = 0; i < N; i++)
            (void)store_read(world->store, &(struct store_query){.device = "d1"}, on_read,
                             &answers[i]);
        wait_until(world, answers[N - 1].calls > 0);
        for (int i = 0; i < N; i++) {
            assert_int_equal(answers[i].calls, 1);
            assert_int_equal(answers[i].result, STORE_OK);
        }
        world_close(world);
        stop_server(&server);
    }
    mem_free(answers);
    mem_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_server_is_believed_under_its_name_and_ca_only),
        cmocka_unit_test(much_goes_through_in_both_directions),
    };

    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
