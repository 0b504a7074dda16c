/* SPDX-License-Identifier: BSD-2-Clause */
#include "gateway/tls/stream.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "gateway/base/mem.h"
#include "gateway/tls/client_private.h"
#include "gateway/tls/handshake.h"
#include "gateway/tls/identity.h"
#include "gateway/tls/openssl_error.h"
#include "gateway/tls/server_private.h"
#include "gateway/tls/session_certificate.h"
#include "gateway/tls/twin.h"
#include "gateway/tls/wire.h"

struct stream {
    int fd;           /* owned */
    bool established; /* the handshake is done; always for plain streams */
    bool failed;      /* nothing more can be done with it but stream_free() */
    bool
        misbehaved; /* failed by what TLS forbids: its session must not be resumed (RFC 8446, 6.2) */
    enum stream_failure failure; /* by TLS; NONE: no failure, or the peer went away */
    bool read_dry; /* the last read found no whole record, neither buffered nor on the socket */
    bool resumption_allowed;   /* once a connection */
    struct tls_server *server; /* borrowed, see stream_new_tls(); NULL unless we are the server */
    bool is_client;            /* we have connected: see client.h */
    SSL *ssl;                  /* owned; NULL for plain streams */
    struct wire wire;          /* of `ssl` */
    size_t owed; /* bytes that were encrypted, but not yet reported as taken: some of their records
                    wait in the wire */
    bool full;   /* the socket has just taken a part: the next write need not try */
    struct session_origin origin;
    struct stream_peer peer;
    struct handshake_notes
        notes; /* `notes.error` holds the stream's error, of plain ones as well */
};

struct stream *stream_new_plain(int fd)
{
    struct stream *stream = mem_new(struct stream);

    stream->fd = fd;
    stream->established = true;
    return stream;
}

static bool stream_set_socket(struct stream *stream, int fd)
{
    stream->wire.fd = fd;
    BIO *bio = stream->ssl != NULL ? wire_bio_new(&stream->wire) : NULL;
    if (bio != NULL)
        SSL_set_bio(stream->ssl, bio, bio);
    return bio != NULL;
}

struct stream *tls_client_stream(struct tls_client *client, int fd, const char *name,
                                 struct tls_session *session)
{
    struct stream *stream = mem_new(struct stream);

    stream->fd = fd;
    stream->is_client = true;
    str_copy_cut(stream->notes.server_name, sizeof(stream->notes.server_name), str_c(name));
    ERR_clear_error();
    stream->ssl = SSL_new(client->context);
    if (stream_set_socket(stream, fd) && tls_client_expect(stream->ssl, name) &&
        (session == NULL || SSL_set_session(stream->ssl, (SSL_SESSION *)session) == 1)) {
        (void)SSL_set_app_data(stream->ssl, &stream->notes);
        SSL_set_connect_state(stream->ssl);
        return stream;
    }
    stream->failed = true;
    str_copy_cut(stream->notes.error, sizeof(stream->notes.error),
                 STR("OpenSSL is out of memory, or does not take the server's name"));
    return stream;
}

struct tls_session *tls_client_take_session(struct stream *stream)
{
    struct tls_session *session = (struct tls_session *)stream->notes.session;

    stream->notes.session = NULL;
    return session;
}

uint64_t stream_sent(const struct stream *stream)
{
    return stream->ssl != NULL ? BIO_number_written(SSL_get_wbio(stream->ssl)) : 0;
}

uint64_t stream_received(const struct stream *stream)
{
    return stream->ssl != NULL ? BIO_number_read(SSL_get_rbio(stream->ssl)) : 0;
}

/* When OpenSSL has no memory for it, the handshake will say so. */
struct stream *stream_new_tls(struct tls_server *server, int fd)
{
    struct stream *stream = mem_new(struct stream);

    stream->fd = fd;
    stream->server = server;
    stream->notes.issuer = SIZE_MAX;
    ERR_clear_error();
    stream->ssl = SSL_new(certificates_default(server->certificates));
    if (stream_set_socket(stream, fd)) {
        (void)SSL_set_app_data(stream->ssl, &stream->notes);
        SSL_set_accept_state(stream->ssl);
        return stream;
    }
    stream->failed = true;
    str_copy_cut(stream->notes.error, sizeof(stream->notes.error), STR("OpenSSL is out of memory"));
    return stream;
}

void stream_free(struct stream **stream_at)
{
    struct stream *stream = *stream_at;

    *stream_at = NULL;
    if (stream == NULL)
        return;
    /* Otherwise SSL_free() forgets the session of a connection that ended without our close_notify.
     */
    if (stream->ssl != NULL && stream->established && !stream->misbehaved)
        SSL_set_shutdown(stream->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(stream->ssl);
    wire_release(&stream->wire);
    SSL_SESSION_free(stream->notes.session);
    session_facts_unref(&stream->notes.facts);
    identity_clear(&stream->peer);
    (void)close(stream->fd);
    mem_free(stream);
}

void stream_cut(struct stream *stream)
{
    (void)shutdown(stream->fd, SHUT_RDWR);
}

static enum stream_result stream_fail(struct stream *stream, struct str text)
{
    stream->failed = true;
    if (stream->notes.error[0] == '\0')
        str_copy_cut(stream->notes.error, sizeof(stream->notes.error), text);
    return STREAM_ERROR;
}

static enum stream_result stream_fail_errno(struct stream *stream, int error_number)
{
    char text[160];

    if (error_number == 0)
        return stream_fail(stream, STR("the peer closed the connection"));
    errno = error_number;
    (void)snprintf(text, sizeof(text), "the connection broke: %m");
    return stream_fail(stream, str_c(text));
}

static enum stream_result stream_fail_tls(struct stream *stream)
{
    char text[160];

    stream->misbehaved = true;
    stream->failure =
        stream->notes.certificate_refused ? STREAM_FAILURE_CERTIFICATE : openssl_error_kind();
    if (stream->is_client)
        tls_client_explain(stream->ssl, text, sizeof(text));
    else
        openssl_error_take(text, sizeof(text));
    return stream_fail(stream, str_c(text));
}

/* Of a call of OpenSSL's that returned `status`, which was no success. */
static enum stream_result stream_outcome(struct stream *stream, int status)
{
    int error_number = errno;

    switch (SSL_get_error(stream->ssl, status)) {
    case SSL_ERROR_WANT_READ:
        return STREAM_WANT_READ;
    case SSL_ERROR_WANT_WRITE:
        return STREAM_WANT_WRITE;
    case SSL_ERROR_ZERO_RETURN:
        if (stream->notes.close_notify)
            return STREAM_CLOSED;
        return stream_fail(stream, STR("the peer closed the connection without close_notify"));
    case SSL_ERROR_SYSCALL:
        return stream_fail_errno(stream, error_number);
    default:
        return stream_fail_tls(stream);
    }
}

static enum stream_result stream_outcome_plain(struct stream *stream,
                                               enum stream_result when_blocked)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return when_blocked;
    return stream_fail_errno(stream, errno);
}

/* Before each call into OpenSSL: its verdict is read from the thread's queue and from errno. The
 * queue is nearly always empty, and looking costs less than emptying. */
static void clear_errors(void)
{
    if (ERR_peek_error() != 0)
        ERR_clear_error();
    errno = 0;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void stream_note_issuer(struct stream *stream, const struct trust_ca *ca)
{
    struct stream_peer *peer = &stream->peer;

    stream->origin.not_after_ms = peer->credentials.certificate_expires_ms;
    if (ca == NULL)
        return;
    stream->origin.issuer = trust_ca_index(stream->server->trust, ca);
    stream->origin.not_after_ms = earlier(stream->origin.not_after_ms, ca->crl_expires_ms);
    peer->credentials.issuer = ca->state;
    peer->issuer_certificate = ca->digest;
    str_copy_cut(peer->issuer, sizeof(peer->issuer), str_c(ca->name));
}

/* The certificate was read in the full handshake that the session comes from. */
static enum stream_result stream_recall(struct stream *stream)
{
    struct stream_peer *peer = &stream->peer;
    size_t issuer;

    if (!resumption_recall(stream->ssl, &issuer, peer))
        return stream_fail(stream, STR("a session was resumed that is not ours"));
    peer->credentials.handshake = HANDSHAKE_RESUMED;
    peer->certificate_expired = false;
    if (peer->identity != PEER_NO_CERTIFICATE)
        stream_note_issuer(stream, trust_ca_at(stream->server->trust, issuer));
    return STREAM_DONE;
}

static enum stream_result stream_meet(struct stream *stream)
{
    X509 *certificate = SSL_get0_peer_certificate(stream->ssl);
    struct stream_peer *peer = &stream->peer;
    const struct trust_ca *ca = trust_ca_at(stream->server->trust, stream->notes.issuer);

    peer->credentials.handshake = HANDSHAKE_FULL;
    peer->certificate_expired = stream->notes.certificate_expired;
    if (certificate == NULL)
        return STREAM_DONE;
    if (!identity_read(certificate, peer) ||
        (ca != NULL && ca->order != NULL &&
         !twin_digest(certificate, ca->order, &peer->credentials.certificate_twin)) ||
        !session_drop_certificate(SSL_get_session(stream->ssl)))
        return stream_fail(stream, STR("out of memory"));
    stream_note_issuer(stream, ca);
    return STREAM_DONE;
}

static enum stream_result stream_establish(struct stream *stream)
{
    enum stream_result result = STREAM_DONE;

    if (!stream->is_client) {
        stream->origin = (struct session_origin){SIZE_MAX, INT64_MAX, &stream->peer};
        result = SSL_session_reused(stream->ssl) ? stream_recall(stream) : stream_meet(stream);
    }
    stream->established = result == STREAM_DONE;
    return result;
}

enum stream_result stream_handshake(struct stream *stream)
{
    if (stream->failed)
        return STREAM_ERROR;
    if (stream->established)
        return STREAM_DONE;
    clear_errors();
    int status = SSL_do_handshake(stream->ssl);
    if (status == 1)
        return stream_establish(stream);
    enum stream_result result = stream_outcome(stream, status);
    if (result == STREAM_ERROR && BIO_number_read(SSL_get_rbio(stream->ssl)) == 0)
        return STREAM_CLOSED;
    /* A close_notify here is no orderly end. */
    return result == STREAM_CLOSED ? stream_fail(stream, STR("the peer closed the connection"))
                                   : result;
}

int stream_fd(const struct stream *stream)
{
    return stream->fd;
}

const struct stream_peer *stream_peer(const struct stream *stream)
{
    return stream->server != NULL && stream->established ? &stream->peer : NULL;
}

const char *stream_version(const struct stream *stream)
{
    return stream->ssl != NULL ? SSL_get_version(stream->ssl) : "plain";
}

const char *stream_server_name(const struct stream *stream)
{
    return stream->notes.server_name;
}

bool stream_peer_uid(const struct stream *stream, uint32_t *out_uid)
{
    struct ucred credentials;
    int domain;
    socklen_t domain_len = sizeof(domain), credentials_len = sizeof(credentials);

    if (getsockopt(stream->fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_len) != 0 ||
        domain != AF_UNIX ||
        getsockopt(stream->fd, SOL_SOCKET, SO_PEERCRED, &credentials, &credentials_len) != 0)
        return false;
    *out_uid = credentials.uid;
    return true;
}

enum stream_failure stream_failure(const struct stream *stream)
{
    return stream->failure != STREAM_FAILURE_NONE ? stream->failure : STREAM_FAILURE_CLOSED;
}

const char *stream_error(const struct stream *stream)
{
    return stream->notes.error;
}

void stream_allow_resumption(struct stream *stream)
{
    if (stream->server == NULL || !stream->established || stream->failed ||
        stream->resumption_allowed)
        return;
    stream->resumption_allowed = true;
    clear_errors();
    resumption_allow(stream->server->resumption, stream->ssl, &stream->origin);
    ERR_clear_error();
}

void stream_forget_session(struct stream *stream)
{
    if (stream->server != NULL && stream->established)
        resumption_forget(stream->server->resumption, stream->ssl);
}

static enum stream_result read_plain(struct stream *stream, void *data, size_t size,
                                     size_t *out_len)
{
    ssize_t n = recv(stream->fd, data, size, 0);

    if (n < 0)
        return stream_outcome_plain(stream, STREAM_WANT_READ);
    if (n == 0)
        return STREAM_CLOSED;
    *out_len = (size_t)n;
    return STREAM_DONE;
}

static enum stream_result read_tls(struct stream *stream, void *data, size_t size, size_t *out_len)
{
    clear_errors();
    int status = SSL_read_ex(stream->ssl, data, size, out_len);
    enum stream_result result = status == 1 ? STREAM_DONE : stream_outcome(stream, status);
    stream->read_dry = result == STREAM_WANT_READ;
    return result;
}

enum stream_result stream_read(struct stream *stream, void *data, size_t size, size_t *out_len)
{
    assert(size > 0 && stream->established);
    if (stream->failed)
        return STREAM_ERROR;
    return stream->ssl != NULL ? read_tls(stream, data, size, out_len)
                               : read_plain(stream, data, size, out_len);
}

static enum stream_result write_plain(struct stream *stream, const void *data, size_t len,
                                      size_t *out_len)
{
    ssize_t n = send(stream->fd, data, len, MSG_NOSIGNAL);

    if (n < 0)
        return stream_outcome_plain(stream, STREAM_WANT_WRITE);
    *out_len = (size_t)n;
    return STREAM_DONE;
}

static enum stream_result write_record(struct stream *stream, const void *data, size_t len,
                                       size_t *out_len)
{
    clear_errors();
    int status = SSL_write_ex(stream->ssl, data, len, out_len);
    return status == 1 ? STREAM_DONE : stream_outcome(stream, status);
}

/* As many records as the wire takes; stream->owed tells how much they hold. */
static enum stream_result gather_records(struct stream *stream, const char *data, size_t len)
{
    const size_t most = (size_t)WIRE_RECORDS * WIRE_RECORD_MAX;
    enum stream_result result = STREAM_DONE;

    len = len < most ? len : most;
    if (!wire_gather(&stream->wire, len))
        return stream_fail(stream, STR("out of memory"));
    while (stream->owed < len && result == STREAM_DONE) {
        size_t n = 0;
        result = write_record(stream, data + stream->owed, len - stream->owed, &n);
        stream->owed += n;
    }
    return result == STREAM_WANT_WRITE || result == STREAM_WANT_READ ? STREAM_DONE : result;
}

/* Sends what waits, and says how much of the caller's bytes may go. */
static enum stream_result settle_records(struct stream *stream, size_t *out_len)
{
    enum wire_flush flush = wire_flush(&stream->wire);
    size_t waiting = wire_unsent(&stream->wire);
    size_t keep = waiting < stream->owed ? waiting : stream->owed;

    if (flush == WIRE_ERROR)
        return stream_fail_errno(stream, errno);
    *out_len = stream->owed - keep;
    stream->owed = keep;
    stream->full = keep > 0 && *out_len > 0;
    return *out_len > 0 ? STREAM_DONE : STREAM_WANT_WRITE;
}

/* What is encrypted cannot be taken back, but nobody needs to know: the caller keeps its bytes, as
 * many as still wait in the wire, until the socket has those too. So whoever waits for its buffer
 * to be empty waits for the socket. */
static enum stream_result write_tls(struct stream *stream, const void *data, size_t len,
                                    size_t *out_len)
{
    enum stream_result result = STREAM_DONE;

    assert(len >= stream->owed);
    if (stream->full) {
        stream->full = false;
        return STREAM_WANT_WRITE;
    }
    if (stream->owed == 0 && wire_unsent(&stream->wire) == 0) {
        if (len > WIRE_RECORD_MAX)
            result = gather_records(stream, data, len);
        /* One record goes as it is; so does whatever found no room: with nothing to send, the flush
         * only ends gathering. */
        if (result == STREAM_DONE && wire_unsent(&stream->wire) == 0 &&
            wire_flush(&stream->wire) == WIRE_SENT)
            return write_record(stream, data, len, out_len);
    }
    return result == STREAM_DONE ? settle_records(stream, out_len) : result;
}

enum stream_result stream_write(struct stream *stream, const void *data, size_t len,
                                size_t *out_len)
{
    assert(len > 0 && stream->established);
    if (stream->failed)
        return STREAM_ERROR;
    return stream->ssl != NULL ? write_tls(stream, data, len, out_len)
                               : write_plain(stream, data, len, out_len);
}

/* SSL_has_pending() counts a part of a record, too, which only the socket can complete. */
bool stream_has_pending(const struct stream *stream)
{
    if (stream->ssl == NULL || stream->failed)
        return false;
    return SSL_pending(stream->ssl) > 0 ||
           (!stream->read_dry &&
            (wire_has_unread(&stream->wire) || SSL_has_pending(stream->ssl) == 1));
}

static enum stream_result send_close_notify(struct stream *stream)
{
    clear_errors();
    /* A ticket may still wait for room on the socket. */
    int status = SSL_in_init(stream->ssl) ? SSL_do_handshake(stream->ssl) : 1;
    if (status == 1)
        status = SSL_shutdown(stream->ssl);
    return status >= 0 ? STREAM_DONE : stream_outcome(stream, status);
}

enum stream_result stream_shutdown(struct stream *stream)
{
    enum stream_result result = STREAM_DONE;

    if (stream->ssl != NULL && stream->established && !stream->failed)
        result = send_close_notify(stream);
    if (result == STREAM_WANT_READ || result == STREAM_WANT_WRITE)
        return result;
    /* ENOTCONN: the peer has reset the connection meanwhile; the next read says so. */
    if (shutdown(stream->fd, SHUT_WR) != 0 && errno != ENOTCONN && result == STREAM_DONE)
        return stream_fail_errno(stream, errno);
    return result;
}

enum stream_result stream_drain(struct stream *stream, void *scratch, size_t size, size_t *out_len)
{
    ssize_t len = recv(stream->fd, scratch, size, 0);

    if (len > 0) {
        *out_len = (size_t)len;
        return STREAM_DONE;
    }
    bool blocked = len < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    return blocked ? STREAM_WANT_READ : STREAM_CLOSED;
}

bool stream_is_violated(const struct stream *stream)
{
    return stream->misbehaved;
}
