/* SPDX-License-Identifier: BSD-2-Clause */
/* Bytes through TLS and plain streams, and how either ends. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/err.h>

#include "tls_fixture.h"

static void connect_device(struct link *link, struct tls_server *server, struct client *client,
                           int version)
{
    client_init(client, version, &pki.device);
    link_connect(link, server, client, NULL);
    assert_int_equal(link->result, STREAM_DONE);
}

static void disconnect(struct link *link, struct client *client, struct tls_server **server)
{
    link_close(link);
    client_deinit(client);
    tls_server_unref(server);
}

/* More than the sockets hold, so that both sides are blocked again and again. */
static void megabytes_pass_both_ways(void **state)
{
    enum { TOTAL = 3 << 20 };
    struct tls_server *server = usual_server();
    struct client client;
    struct link link;
    uint8_t *sent = malloc(TOTAL), *received = malloc(TOTAL);
    size_t n_read = 0, n_written = 0, n_back = 0, n;

    for (size_t i = 0; i < TOTAL; i++)
        sent[i] = (uint8_t)(i * 31 >> 3);
    connect_device(&link, server, &client, TLS1_3_VERSION);
    for (size_t at = 0; n_read < TOTAL;) {
        while (at < TOTAL &&
               SSL_write_ex(link.ssl, sent + at, TOTAL - at < 30000 ? TOTAL - at : 30000, &n) == 1)
            at += n;
        while (n_read < TOTAL &&
               stream_read(link.stream, received + n_read, TOTAL - n_read, &n) == STREAM_DONE)
            n_read += n;
        assert_false(stream_has_pending(link.stream));
    }
    assert_memory_equal(sent, received, TOTAL);
    memset(received, 0, TOTAL);
    while (n_back < TOTAL) {
        enum stream_result result = STREAM_DONE;
        while (n_written < TOTAL && result == STREAM_DONE) {
            result = stream_write(link.stream, sent + n_written, TOTAL - n_written, &n);
            if (result == STREAM_DONE)
                n_written += n;
        }
        assert_true(n_written == TOTAL || result == STREAM_WANT_WRITE);
        while (n_back < TOTAL && SSL_read_ex(link.ssl, received + n_back, TOTAL - n_back, &n) == 1)
            n_back += n;
    }
    assert_memory_equal(sent, received, TOTAL);
    disconnect(&link, &client, &server);
    free(sent);
    free(received);
}

/* The ticket goes before the answer, and shares its write; at both versions, and however little the
 * peer takes at a time, each byte arrives once. A byte that was reported as taken is on its way
 * without any further call. */
static void large_answers_pass_with_what_tls_has_to_say_itself(void **state)
{
    enum { TOTAL = 300000 };
    const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    uint8_t *sent = malloc(TOTAL), *received = malloc(TOTAL);

    for (size_t i = 0; i < TOTAL; i++)
        sent[i] = (uint8_t)(i * 7 >> 2);
    for (size_t v = 0; v < ARRAY_SIZE(versions); v++) {
        struct tls_server *server = usual_server();
        struct client client;
        struct link link;
        size_t taken = 0, n_back = 0, n;
        const int small = 4096;

        connect_device(&link, server, &client, versions[v]);
        assert_int_equal(setsockopt(stream_fd(link.stream), SOL_SOCKET, SO_SNDBUF, &small,
                                    sizeof(small)),
                         0);
        stream_allow_resumption(link.stream);
        while (taken < TOTAL) {
            enum stream_result result = stream_write(link.stream, sent + taken, TOTAL - taken, &n);
            assert_true(result == STREAM_DONE || result == STREAM_WANT_WRITE);
            if (result == STREAM_DONE) {
                assert_true(n > 0 && n <= TOTAL - taken);
                taken += n;
            }
            while (n_back < TOTAL &&
                   SSL_read_ex(link.ssl, received + n_back, TOTAL - n_back, &n) == 1)
                n_back += n;
            assert_true(n_back + 16384 > taken);
        }
        while (n_back < TOTAL && SSL_read_ex(link.ssl, received + n_back, TOTAL - n_back, &n) == 1)
            n_back += n;
        assert_int_equal(n_back, TOTAL);
        assert_memory_equal(sent, received, TOTAL);
        disconnect(&link, &client, &server);
    }
    free(sent);
    free(received);
}

/* An answer may begin while the upload is under way: what was read ahead of it is still there. */
static void small_answers_do_not_disturb_an_upload(void **state)
{
    enum { TOTAL = 1 << 20 };
    struct tls_server *server = usual_server();
    struct client client;
    struct link link;
    uint8_t *sent = malloc(TOTAL), *received = malloc(TOTAL);
    size_t n_read = 0, n;
    char answer[8];

    for (size_t i = 0; i < TOTAL; i++)
        sent[i] = (uint8_t)(i * 31 >> 3);
    connect_device(&link, server, &client, TLS1_3_VERSION);
    for (size_t at = 0; n_read < TOTAL;) {
        while (at < TOTAL &&
               SSL_write_ex(link.ssl, sent + at, TOTAL - at < 30000 ? TOTAL - at : 30000, &n) == 1)
            at += n;
        while (n_read < TOTAL) {
            enum stream_result result =
                stream_read(link.stream, received + n_read, TOTAL - n_read, &n);
            if (result == STREAM_WANT_READ)
                break;
            assert_int_equal(result, STREAM_DONE);
            n_read += n;
            assert_int_equal(stream_write(link.stream, "progress", 8, &n), STREAM_DONE);
            assert_int_equal(SSL_read_ex(link.ssl, answer, sizeof(answer), &n), 1);
        }
    }
    assert_memory_equal(sent, received, TOTAL);
    disconnect(&link, &client, &server);
    free(sent);
    free(received);
}

static bool socket_has_bytes(const struct stream *stream)
{
    struct pollfd fd = {.fd = stream_fd(stream), .events = POLLIN};

    return poll(&fd, 1, 0) == 1 && (fd.revents & POLLIN) != 0;
}

/* With read-ahead, a request that arrives together with the end of the handshake is inside TLS
 * already. */
static void what_came_with_the_handshake_is_announced_as_pending(void **state)
{
    struct tls_server *server = usual_server();
    struct client client;
    struct link link;
    char data[16];
    size_t n;

    client_init(&client, TLS1_3_VERSION, &pki.device);
    link_open(&link, server, &client, NULL);
    assert_int_equal(SSL_do_handshake(link.ssl), -1);
    assert_int_equal(stream_handshake(link.stream), STREAM_WANT_READ);
    assert_int_equal(SSL_do_handshake(link.ssl), 1);
    assert_int_equal(SSL_write(link.ssl, "request", 7), 7);
    assert_int_equal(stream_handshake(link.stream), STREAM_DONE);
    /* OpenSSL 3.0 has read it along; 3.5 leaves it to the socket, which says so itself. */
    assert_true(stream_has_pending(link.stream) || socket_has_bytes(link.stream));
    assert_int_equal(stream_read(link.stream, data, 3, &n), STREAM_DONE);
    assert_int_equal(n, 3);
    assert_true(stream_has_pending(link.stream));
    assert_int_equal(stream_read(link.stream, data, sizeof(data), &n), STREAM_DONE);
    assert_int_equal(n, 4);
    assert_int_equal(stream_read(link.stream, data, sizeof(data), &n), STREAM_WANT_READ);
    assert_false(stream_has_pending(link.stream));
    disconnect(&link, &client, &server);
}

static void each_side_ends_by_itself(void **state)
{
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        struct tls_server *server = usual_server();
        struct client client;
        struct link link;
        char data[16];
        size_t n;

        connect_device(&link, server, &client, version);
        stream_allow_resumption(link.stream);
        assert_int_equal(stream_shutdown(link.stream), STREAM_DONE);
        assert_int_equal(SSL_read(link.ssl, data, sizeof(data)), 0);
        assert_int_equal(SSL_get_error(link.ssl, 0), SSL_ERROR_ZERO_RETURN);
        assert_int_equal(SSL_write(link.ssl, "late", 4), 4);
        assert_int_equal(stream_read(link.stream, data, sizeof(data), &n), STREAM_DONE);
        assert_int_equal(n, 4);
        assert_int_equal(SSL_shutdown(link.ssl), 1);
        assert_int_equal(stream_read(link.stream, data, sizeof(data), &n), STREAM_CLOSED);
        disconnect(&link, &client, &server);
    }
}

static void a_cut_connection_is_not_an_orderly_end(void **state)
{
    struct tls_server *server = usual_server();
    struct client client;
    struct link link;
    char data[16];
    size_t n;

    connect_device(&link, server, &client, TLS1_3_VERSION);
    (void)shutdown(link.fd, SHUT_WR);
    assert_int_equal(stream_read(link.stream, data, sizeof(data), &n), STREAM_ERROR);
    assert_string_equal(stream_error(link.stream),
                        "the peer closed the connection without close_notify");
    assert_int_equal(stream_write(link.stream, "x", 1, &n), STREAM_ERROR);
    assert_int_equal(stream_shutdown(link.stream), STREAM_DONE);
    disconnect(&link, &client, &server);
}

static void a_peer_that_is_gone_kills_nobody(void **state)
{
    struct tls_server *server = usual_server();
    struct client client;
    struct link link;
    size_t n;

    connect_device(&link, server, &client, TLS1_3_VERSION);
    (void)shutdown(link.fd, SHUT_RDWR);
    assert_int_equal(stream_write(link.stream, "x", 1, &n), STREAM_ERROR);
    assert_string_equal(stream_error(link.stream), "the connection broke: Broken pipe");
    disconnect(&link, &client, &server);
}

static void renegotiation_is_refused(void **state)
{
    struct tls_server *server = usual_server();
    struct client client;
    struct link link;
    char data[16];
    size_t n;

    connect_device(&link, server, &client, TLS1_2_VERSION);
    assert_int_equal(SSL_renegotiate(link.ssl), 1);
    (void)SSL_do_handshake(link.ssl);
    assert_int_equal(stream_read(link.stream, data, sizeof(data), &n), STREAM_WANT_READ);
    ERR_clear_error();
    (void)SSL_do_handshake(link.ssl);
    assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
    disconnect(&link, &client, &server);
}

static void plain_streams_behave_alike(void **state)
{
    int fds[2];
    char data[16];
    size_t n;
    uint32_t uid;

    make_pair(fds);
    struct stream *stream = stream_new_plain(fds[0]);
    assert_int_equal(stream_handshake(stream), STREAM_DONE);
    assert_null(stream_peer(stream));
    assert_string_equal(stream_version(stream), "plain");
    assert_string_equal(stream_server_name(stream), "");
    assert_true(stream_peer_uid(stream, &uid));
    assert_int_equal(uid, getuid());
    stream_allow_resumption(stream);
    stream_forget_session(stream);

    assert_int_equal(stream_read(stream, data, sizeof(data), &n), STREAM_WANT_READ);
    assert_false(stream_has_pending(stream));
    assert_int_equal(send(fds[1], "hello", 5, 0), 5);
    assert_int_equal(stream_read(stream, data, sizeof(data), &n), STREAM_DONE);
    assert_int_equal(n, 5);
    assert_int_equal(stream_write(stream, "bye", 3, &n), STREAM_DONE);
    assert_int_equal(stream_shutdown(stream), STREAM_DONE);
    assert_int_equal(recv(fds[1], data, sizeof(data), 0), 3);
    assert_int_equal(recv(fds[1], data, sizeof(data), 0), 0);
    (void)close(fds[1]);
    assert_int_equal(stream_read(stream, data, sizeof(data), &n), STREAM_CLOSED);
    assert_int_equal(stream_write(stream, "x", 1, &n), STREAM_ERROR);
    assert_string_not_equal(stream_error(stream), "");
    stream_free(&stream);
    stream_free(&stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(megabytes_pass_both_ways),
        cmocka_unit_test(large_answers_pass_with_what_tls_has_to_say_itself),
        cmocka_unit_test(small_answers_do_not_disturb_an_upload),
        cmocka_unit_test(what_came_with_the_handshake_is_announced_as_pending),
        cmocka_unit_test(each_side_ends_by_itself),
        cmocka_unit_test(a_cut_connection_is_not_an_orderly_end),
        cmocka_unit_test(a_peer_that_is_gone_kills_nobody),
        cmocka_unit_test(renegotiation_is_refused),
        cmocka_unit_test(plain_streams_behave_alike),
    };
    return cmocka_run_group_tests_name("stream", tests, fixture_set_up, fixture_tear_down);
}
