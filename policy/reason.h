/* SPDX-License-Identifier: BSD-2-Clause */
/* The one table of reasons.
 *
 * Whatever the gateway refuses, answers by itself or closes has exactly one reason, and everything
 * that is said about it - the wire name in problem documents, logs and metrics, the sentence for
 * people, the HTTP status and the log level - comes from one row here. Wire names are a contract:
 * they may be added, never renamed.
 *
 * A row is X(ENUMERATOR, wire name, HTTP status, log level, sentence). Status 0: the reason is
 * never an HTTP answer (a connection closed below HTTP). Levels: DEBUG is for what a peer can
 * trigger at will. */
#pragma once

/* clang-format off */
#define REASON_TABLE(X) \
    /* Zero is a refusal: a verdict that nobody filled in lets nobody in. */ \
    X(UNDECIDED, "undecided", 503, ERROR, "The gateway could not come to a decision.") \
    X(OK, "ok", 200, INFO, "Done.") \
    /* admission */ \
    X(ADMITTED, "admitted", 200, INFO, "The device is admitted.") \
    X(REGISTERED, "registered", 200, NOTICE, "The device was seen for the first time and is registered.") \
    X(PROMOTED, "promoted", 200, NOTICE, "The announced key was proven and is now the device's current key.") \
    X(KEY_AGE_QUARANTINE, "key-age-quarantine", 403, INFO, "The device's key is overdue for rotation; only rotation routes are open.") \
    X(CERTIFICATE_EXPIRED_QUARANTINE, "certificate-expired-quarantine", 403, INFO, "The certificate has expired; only rotation routes are open.") \
    X(KEY_DENIED, "key-denied", 403, INFO, "This key is on the deny-list.") \
    X(CERTIFICATE_DENIED, "certificate-denied", 403, INFO, "This certificate is on the deny-list.") \
    X(DEVICE_DENIED, "device-denied", 403, INFO, "This device is on the deny-list.") \
    X(ISSUER_UNKNOWN, "issuer-unknown", 403, WARNING, "The certificate's issuer is not a configured device CA.") \
    X(ISSUER_REVOKED, "issuer-revoked", 403, INFO, "The device CA that issued the certificate is revoked.") \
    X(ISSUER_DISABLED, "issuer-disabled", 403, INFO, "The device CA is disabled: it registers no new devices.") \
    X(DEVICE_UNKNOWN, "device-unknown", 403, INFO, "The device is not known, and registration is closed.") \
    X(KEY_NOT_ANNOUNCED, "key-not-announced", 403, WARNING, "This key was never announced with the device's current key.") \
    X(KEY_NOT_PROVEN, "key-not-proven", 503, INFO, "A pending key must be proven in a full handshake, not in a resumed session.") \
    X(KEY_AGE_OVERDUE, "key-age-overdue", 403, INFO, "The device's key is overdue for rotation.") \
    X(CERTIFICATE_EXPIRED, "certificate-expired", 403, INFO, "The certificate has expired.") \
    X(CERTIFICATE_MISSING, "certificate-missing", 403, INFO, "This route needs a client certificate.") \
    X(CERTIFICATE_IDENTITY, "certificate-identity", 403, WARNING, "The certificate's subject does not name a device with exactly one clean common name.") \
    X(CERTIFICATE_IS_CA, "certificate-is-ca", 403, WARNING, "A CA certificate cannot be a device's certificate.") \
    X(CERTIFICATE_KEY_WEAK, "certificate-key-weak", 403, WARNING, "The certificate's key is of a kind or strength that is not allowed.") \
    /* announcement, and what operators do */ \
    X(ANNOUNCED, "announced", 200, NOTICE, "The next key is recorded; prove it on a new connection.") \
    X(ANNOUNCED_BEFORE, "announced-before", 200, INFO, "This key was already announced; nothing changed.") \
    X(ANNOUNCEMENT_REPLACED, "announcement-replaced", 200, NOTICE, "The next key is recorded in place of another pending one.") \
    X(ANNOUNCEMENT_OUTDATED, "announcement-outdated", 503, INFO, "Another key was announced after this connection began; announce on a new connection.") \
    X(CONFIG_WRITES_BUSY, "config-writes-busy", 503, INFO, "Configuration writes of this device are in flight; try again in a moment.") \
    X(KEY_IS_CURRENT, "key-is-current", 409, INFO, "The announced key is the device's current key already.") \
    X(KEY_NOT_CURRENT, "key-not-current", 403, INFO, "Only the device's current key may announce its next one.") \
    X(NEXT_KEY_DENIED, "next-key-denied", 403, WARNING, "The announced key is on the deny-list.") \
    X(NEXT_KEY_INVALID, "next-key-invalid", 400, INFO, "The announced key is not a PEM public key.") \
    X(NEXT_KEY_NOT_ALLOWED, "next-key-not-allowed", 400, INFO, "Keys of this algorithm or size are not allowed: use P-256, P-384, P-521, Ed25519 or RSA of at least 2048 bits.") \
    X(CANCELLED, "cancelled", 200, NOTICE, "The pending rotation is cancelled.") \
    X(NO_ROTATION_PENDING, "no-rotation-pending", 409, INFO, "No rotation is pending for this device.") \
    X(KEY_ACCEPTED, "key-accepted", 200, NOTICE, "The key is accepted; the device must prove it on a new connection.") \
    X(KEY_REGISTERED, "key-registered", 200, NOTICE, "The device is registered with this key.") \
    X(GROUP_CHANGED, "group-changed", 200, NOTICE, "The device is in the group.") \
    X(GROUP_UNCHANGED, "group-unchanged", 200, INFO, "The device was in the group already; nothing changed.") \
    X(GROUP_INVALID, "group-invalid", 400, INFO, "A group has at most 64 letters, digits and characters of \" ._-()/:+@=#&,\", and no space at either end.") \
    X(DENIED, "denied", 200, NOTICE, "The deny-list holds the entry.") \
    X(ALLOWED, "allowed", 200, NOTICE, "The deny-list entry is removed.") \
    X(NOT_DENIED, "not-denied", 404, INFO, "The deny-list has no such entry.") \
    X(DENIAL_ID_INVALID, "denial-id-invalid", 400, INFO, "A key or certificate is denied by 64 lower-case hex digits, a device by its name.") \
    X(DENIAL_ENDED, "denial-ended", 400, INFO, "The end of the denial lies in the past.") \
    X(REASON_REQUIRED, "reason-required", 400, INFO, "Say why: the field \"reason\" must not be empty.") \
    X(NO_SUCH_DEVICE, "no-such-device", 404, INFO, "No such device is known.") \
    X(ROTATION_STALLED, "rotation-stalled", 200, WARNING, "The rotation has been pending for too long.") \
    /* config lock */ \
    X(WRITE_PASSES, "write-passes", 200, INFO, "The configuration write may pass.") \
    X(WRITE_ENDED, "write-ended", 200, DEBUG, "The configuration write has ended.") \
    X(CONFIG_LOCKED, "config-locked", 423, INFO, "A key rotation of this device is pending: its configuration is locked.") \
    X(CONFIG_KEY_STALE, "config-key-stale", 412, INFO, "The configuration is encrypted for a key that is not the device's current key.") \
    X(CONFIG_KEY_CONFLICT, "config-key-conflict", 400, INFO, "The body and the Device-Key header name different keys.") \
    X(CONFIG_KEY_INVALID, "config-key-invalid", 400, INFO, "The key that the write names is neither a PEM public key nor a key id.") \
    X(CONFIG_BODY_INVALID, "config-body-invalid", 400, INFO, "The body is not JSON that can be judged.") \
    X(CONFIG_BODY_ENCODED, "config-body-encoded", 415, INFO, "A configuration write must not be content-encoded: the gateway has to read which key it names.") \
    X(CONFIG_WRITES_FULL, "config-writes-full", 503, INFO, "Too many configuration writes of this device are in flight.") \
    X(CONFIG_WRITES_HELD, "config-writes-held", 503, INFO, "A key rotation of this device waits for the configuration writes in flight; try again in a moment.") \
    X(CONFIG_LEASE_EXPIRED, "config-lease-expired", 504, WARNING, "The backend outlived the write lease; the exchange was cut.") \
    /* store */ \
    X(STORE_UNAVAILABLE, "store-unavailable", 503, WARNING, "The device's record cannot be read or written at the moment.") \
    X(STORE_CONFLICT, "store-conflict", 503, WARNING, "The device's record keeps changing; try again.") \
    X(STORE_RECORD_INVALID, "store-record-invalid", 503, ERROR, "The device's record cannot be understood.") \
    /* requests */ \
    X(REQUEST_MALFORMED, "request-malformed", 400, DEBUG, "The request is malformed or ambiguous.") \
    X(REQUEST_HEAD_TOO_LARGE, "request-head-too-large", 431, DEBUG, "The request's head is too large.") \
    X(REQUEST_BODY_TOO_LARGE, "request-body-too-large", 413, INFO, "The request's body is too large.") \
    X(REQUEST_TARGET_INVALID, "request-target-invalid", 400, DEBUG, "The request's target cannot be normalised safely.") \
    X(REQUEST_VERSION_UNSUPPORTED, "request-version-unsupported", 505, DEBUG, "Only HTTP/1.0 and HTTP/1.1 are spoken here.") \
    X(REQUEST_METHOD_UNSUPPORTED, "request-method-unsupported", 501, DEBUG, "The method is not supported.") \
    X(REQUEST_CODING_UNSUPPORTED, "request-coding-unsupported", 501, DEBUG, "The transfer coding is not supported.") \
    X(EXPECTATION_UNSUPPORTED, "expectation-unsupported", 417, DEBUG, "The only expectation that can be met is 100-continue.") \
    X(REQUEST_TIMEOUT, "request-timeout", 408, DEBUG, "The request did not arrive in time.") \
    X(REQUEST_TOO_SLOW, "request-too-slow", 408, DEBUG, "The request's body arrived too slowly.") \
    X(REQUEST_BODY_INVALID, "request-body-invalid", 400, INFO, "The request's body is not what this route expects.") \
    X(NO_ROUTE, "no-route", 404, INFO, "Nothing is served at this path.") \
    X(METHOD_NOT_ALLOWED, "method-not-allowed", 405, INFO, "The route does not take this method.") \
    X(DEVICE_NAME_INVALID, "device-name-invalid", 400, INFO, "The path does not name a device.") \
    /* backends */ \
    X(BACKEND_UNAVAILABLE, "backend-unavailable", 503, WARNING, "No server of the backend could be reached.") \
    X(BACKEND_CONNECT_TIMEOUT, "backend-connect-timeout", 504, WARNING, "No server of the backend took a connection in time.") \
    X(BACKEND_TLS, "backend-tls", 502, WARNING, "No server of the backend could be trusted, or spoke TLS with us.") \
    X(BACKEND_BROKEN, "backend-broken", 502, WARNING, "The backend broke off its answer.") \
    X(BACKEND_INVALID, "backend-invalid", 502, WARNING, "The backend's answer is not valid HTTP.") \
    X(BACKEND_TIMEOUT, "backend-timeout", 504, WARNING, "The backend did not answer in time.") \
    X(BACKEND_BUSY, "backend-busy", 503, WARNING, "The backend's connections are all in use.") \
    X(BACKEND_WAIT_TIMEOUT, "backend-wait-timeout", 503, WARNING, "None of the backend's connections came free in time.") \
    X(OUT_OF_RESOURCES, "out-of-resources", 503, WARNING, "The gateway is out of file descriptors, ports or memory for a connection to the backend.") \
    /* how a connection ended */ \
    X(CLOSED_BY_PEER, "closed-by-peer", 0, DEBUG, "The peer closed the connection.") \
    X(CLOSED_AFTER_ANSWER, "closed-after-answer", 0, DEBUG, "The connection ended with its last answer.") \
    X(CLOSED_WITHOUT_HELLO, "closed-without-hello", 0, DEBUG, "The peer went away before it said anything.") \
    X(TLS_FAILED, "tls-failed", 0, INFO, "The TLS handshake failed.") \
    X(TLS_BROKEN, "tls-broken", 0, INFO, "The TLS connection broke.") \
    X(HANDSHAKE_TIMEOUT, "handshake-timeout", 0, DEBUG, "The TLS handshake took too long.") \
    X(IDLE_TIMEOUT, "idle-timeout", 0, DEBUG, "The connection was idle for too long.") \
    X(FIRST_REQUEST_TIMEOUT, "first-request-timeout", 0, DEBUG, "The connection was made, but nothing was asked on it.") \
    X(RESPONSE_TOO_SLOW, "response-too-slow", 0, INFO, "The peer took what was sent to it too slowly.") \
    X(WRITE_TIMEOUT, "write-timeout", 0, INFO, "The peer did not take what was sent to it.") \
    X(CUT_DENIED, "cut-denied", 0, NOTICE, "The connection was cut: what it was admitted with is denied now.") \
    X(CUT_RETIRED, "cut-retired", 0, INFO, "The connection was cut: its key was retired by a rotation.") \
    X(CUT_UNTRUSTED, "cut-untrusted", 0, NOTICE, "The connection was cut: its certificate is no longer trusted after a reload.") \
    X(DRAINED, "drained", 503, INFO, "The gateway is stopping.") \
    X(TOO_MANY_CONNECTIONS, "too-many-connections", 0, WARNING, "The gateway's limit of connections is reached.") \
    X(TOO_MANY_HANDSHAKES, "too-many-handshakes", 0, WARNING, "The gateway's limit of TLS handshakes in flight is reached.") \
    X(TOO_MANY_CONNECTIONS_OF_SOURCE, "too-many-connections-of-source", 0, WARNING, "The limit of connections from one address is reached.") \
    X(TOO_MANY_HANDSHAKES_OF_SOURCE, "too-many-handshakes-of-source", 0, WARNING, "The limit of TLS handshakes in flight from one address is reached.") \
    X(TOO_MANY_CONNECTIONS_OF_DEVICE, "too-many-connections-of-device", 503, WARNING, "The device has too many connections in use.") \
    X(HANDSHAKE_GAVE_WAY, "handshake-gave-way", 0, INFO, "The TLS handshake stood still, and gave way to a new one.") \
    X(IDLE_GAVE_WAY, "idle-gave-way", 0, INFO, "The idle connection gave way to a newer one of the same device.") \
    X(INTERNAL, "internal", 500, ERROR, "The gateway made a mistake.")
/* clang-format on */

enum reason {
#define REASON_ENUMERATOR(name, wire, status, level, text) REASON_##name,
    REASON_TABLE(REASON_ENUMERATOR)
#undef REASON_ENUMERATOR
        REASON_COUNT
};

enum reason_level {
    REASON_LEVEL_DEBUG,
    REASON_LEVEL_INFO,
    REASON_LEVEL_NOTICE,
    REASON_LEVEL_WARNING,
    REASON_LEVEL_ERROR,
};

/* The rows' columns. All strings are static; a value outside the table reads as UNDECIDED. */
const char *reason_wire(enum reason reason);
const char *reason_text(enum reason reason);
int reason_status(enum reason reason);
enum reason_level reason_level(enum reason reason);
