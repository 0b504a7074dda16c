/* SPDX-License-Identifier: BSD-2-Clause */
/* A connected socket under one set of five outcomes: TLS towards devices and operators, TLS towards
 * backends (client.h), or plain bytes.
 *
 * No OpenSSL type leaves this folder. All calls are non-blocking; after WANT_READ or WANT_WRITE the
 * caller waits for that readiness of stream_fd() and repeats the call. TLS records are read and
 * written straight on the socket.
 *
 *      new ──handshake──▶ established ──read/write──▶ … ──shutdown──▶ free
 *
 * TLS facts that matter to callers: 1.2 and 1.3; no renegotiation, compression or early data.
 * Server-side sessions are remembered by the process (no stateless tickets) and only when
 * stream_allow_resumption() was called, so that nobody resumes what was never admitted. A session
 * is bound to listener, SNI and key. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/base/macros.h"
#include "gateway/base/str.h"
#include "policy/admission.h"

struct stream;
struct tls_server;

enum stream_result {
    STREAM_DONE,       /* did what was asked; counts are > 0 */
    STREAM_WANT_READ,  /* repeat when readable */
    STREAM_WANT_WRITE, /* repeat when writable */
    STREAM_CLOSED, /* the peer has ended its side in order (close_notify; for plain sockets: end of
                      file) */
    STREAM_ERROR,  /* over; stream_error() says why */
};

/* Why a handshake came to nothing, for metrics; stream_error() is for people. */
enum stream_failure {
    STREAM_FAILURE_NONE,
    STREAM_FAILURE_CLOSED,  /* the peer went away in the midst */
    STREAM_FAILURE_TIMEOUT, /* the stream's owner had enough of it: never said by the stream */
    STREAM_FAILURE_NO_CERTIFICATE, /* the peer offered none */
    STREAM_FAILURE_CERTIFICATE,    /* what it offered is not trusted */
    STREAM_FAILURE_ALERT,          /* the peer refused: it does not trust us, mostly */
    STREAM_FAILURE_PROTOCOL,       /* no common version or cipher, or not TLS at all */
    STREAM_FAILURE_COUNT
};

/* What the certificate says, judged once after a full handshake. */
enum peer_identity {
    PEER_NO_CERTIFICATE,  /* none was offered (client certificate optional) */
    PEER_IDENTIFIED,      /* `credentials` are filled in */
    PEER_NAME_INVALID,    /* see identity.h: no strict name     -> certificate-identity */
    PEER_IS_CA,           /* CA:TRUE or keyCertSign             -> certificate-is-ca */
    PEER_KEY_NOT_ALLOWED, /* see pubkey.h                       -> certificate-key-weak */
};

/* Facts copied out of the certificate, once a full handshake; the certificate itself is not kept,
 * nor is it in the session: what is resumed has its facts. */
struct stream_peer {
    enum peer_identity identity;
    /* Valid when PEER_IDENTIFIED. On operators' listeners, the issuer's state is UNKNOWN. */
    struct credentials credentials;
    /* The device CA that issued the certificate: its name in the configuration ("" on operators'
     * listeners) and its certificate (there, that of the CA which vouched). Unset: none of ours. */
    char issuer[LABEL_MAX + 1];
    struct digest issuer_certificate;
    /* Hex, as in CRLs; with a "-" in front of the negative ones that some CAs make. */
    char serial[1 + 2 * 20 + 1];
    /* RFC 9440 Client-Cert value ":base64 DER:"; in `texts`; NULL without certificate. */
    const char *client_cert;
    /* Owned, unless it is NULL: then the session's facts, which the stream holds, own what
     * client_cert and credentials.key.pem point at. */
    char *texts;
    /* Let through by TLS because of rotation.expired_grace; policy decides. */
    bool certificate_expired;
};

/* Takes over the connected, non-blocking socket: stream_free() closes it. `server` is borrowed and
 * must outlive the stream (its owner holds the snapshot that it belongs to). */
struct stream *stream_new_tls(struct tls_server *server, int fd) MUST_CHECK;
struct stream *stream_new_plain(int fd) MUST_CHECK;
/* NULL inside is fine. Closes the socket without ceremony. */
void stream_free(struct stream **stream);

int stream_fd(const struct stream *stream);

/* DONE at once on plain streams. On ERROR an alert has been sent where TLS has one. CLOSED: the peer
 * went away, in whatever way, before it said anything. After DONE, look at stream_has_pending() or
 * read at once: a request may have come together with the end of the handshake. */
enum stream_result stream_handshake(struct stream *stream) MUST_CHECK;

/* After the handshake; lives as long as the stream. NULL on plain streams and where we are the
 * client. */
const struct stream_peer *stream_peer(const struct stream *stream);
/* "TLSv1.3", "TLSv1.2", "plain". */
const char *stream_version(const struct stream *stream);
/* The SNI that the peer sent, "" if none. */
const char *stream_server_name(const struct stream *stream);
/* Uid of the process at the other end of a Unix socket; false for other sockets. */
bool stream_peer_uid(const struct stream *stream, uint32_t *out_uid);

/* From now on the peer may resume this session: at TLS 1.3 sends a ticket, if the client takes any.
 * Call after admission; without the call nothing is remembered. Harmless on plain streams. A
 * resumed one gets a new ticket, because clients use each only once; however long the chain, it
 * ends tls.session_lifetime after its full handshake, or with the certificate or its CRL. */
void stream_allow_resumption(struct stream *stream);
/* Forgets the session and all tickets of the same full handshake: nobody resumes them any more. */
void stream_forget_session(struct stream *stream);

/* For TLS, an end of file without close_notify is an ERROR, because whoever cuts connections could
 * cut a body short with it. `size` > 0. */
enum stream_result stream_read(struct stream *stream, void *data, size_t size,
                               size_t *out_len) MUST_CHECK;
/* After WANT_READ or WANT_WRITE, repeat with the same bytes in front: elsewhere in memory and more
 * of them is fine, fewer is not. `len` > 0. Much data becomes many TLS records, but one write on the
 * socket; a byte counts as taken when the socket has it. */
enum stream_result stream_write(struct stream *stream, const void *data, size_t len,
                                size_t *out_len) MUST_CHECK;
/* How many bytes TLS has given to the socket; 0 for plain streams. */
uint64_t stream_sent(const struct stream *stream);
/* How many it has taken from there, of records that are not whole yet as well; 0 for plain streams. */
uint64_t stream_received(const struct stream *stream);
/* True when bytes are waiting inside TLS that no readiness of the socket will announce. False after
 * a read that gave WANT_READ. */
bool stream_has_pending(const struct stream *stream);
/* Ends our side in order: close_notify, then shutdown(SHUT_WR). The peer's side may still be read.
 */
enum stream_result stream_shutdown(struct stream *stream) MUST_CHECK;

/* Ends both directions at once, without a word: the peer notices now, however long it takes until
 * the stream is freed. */
void stream_cut(struct stream *stream);

/* Throws away what still comes, undecrypted, after stream_shutdown() or a failed handshake: a socket
 * that is closed with unread bytes is reset, and the reset overtakes our last words. CLOSED when
 * nothing more can come. `scratch` is the caller's. */
enum stream_result stream_drain(struct stream *stream, void *scratch, size_t size,
                                size_t *out_len) MUST_CHECK;

/* After ERROR: the peer broke TLS itself (a forged record, an alert), it did not just go away. */
bool stream_is_violated(const struct stream *stream);

/* Of a handshake that ended with ERROR. */
enum stream_failure stream_failure(const struct stream *stream);

/* One sentence, "" when nothing failed; valid until the next call on the stream. The first failure
 * stays. Parts of it may be the peer's text (the name in a certificate), printable ASCII only. */
const char *stream_error(const struct stream *stream);
