# SPDX-License-Identifier: BSD-2-Clause
"""Invariant 1: a denied key, certificate or device gets no request through - not on a new
connection, and on live ones not later than the bound (store.lease), whatever they are doing. And
nobody else notices.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from typing import Any, Iterator, Optional

import pytest

from agent import announce
from backend import Backend, Exchange
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device
from gateway import Entry, Gateway
from pki import Identity, Pki, key_id, new_key, now
from redis_server import RedisServer
from wire import LAST_CHUNK, EndOfStream, one_chunk, request

# DESIGN section 4: what a denial may take at most; store.lease by default.
BOUND = 2.0

KINDS = ["key", "certificate", "device"]
PIECE = b"0123456789abcdef" * 4096

each_kind = pytest.mark.parametrize("kind", KINDS)
both_versions = pytest.mark.parametrize("version", ["1.2", "1.3"])

log = logging.getLogger(__name__)


def named(kind: str, identity: Identity) -> str:
    """How the deny-list names it."""
    return {
        "key": identity.key_id,
        "certificate": identity.certificate_id,
        "device": identity.name,
    }[kind]


def deny(gateway: Gateway, kind: str, identity: Identity, **more: str) -> float:
    """The moment at which the operator had the answer."""
    response = gateway.operator.deny(kind, named(kind, identity), **more)
    assert (response.status, response.json()["reason"]) == (200, "denied")
    return time.monotonic()


def check_bound(since: float, what: str) -> None:
    took = time.monotonic() - since
    log.info("%s: cut %.1f ms after the answer to the denial", what, took * 1000)
    assert took < BOUND, what


def assert_cut(gateway: Gateway, connection: Connection, since: float) -> bytes:
    """The gateway ended it in time, and says why; what was still to be read of it."""
    port = connection.sock.getsockname()[1]
    entry = gateway.log.wait("connection closed", port=port)
    check_bound(since, str(entry["while"]))
    assert entry["reason"] == "cut-denied"
    return connection.rest()


def opened(device: Device, version: Optional[str] = None) -> Connection:
    """A kept connection, admitted and idle."""
    connection = Connection(device.address, device.context(version)).handshake()
    assert connection.request("GET", "/opened").status == 200
    return connection


def head_of_upload(chunk: Optional[int]) -> bytes:
    framing = "Transfer-Encoding: chunked" if chunk else f"Content-Length: {2 * len(PIECE)}"
    return f"POST /upload HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode()


def half_an_upload(chunk: Optional[int]) -> bytes:
    return head_of_upload(chunk) + (one_chunk(PIECE) if chunk else PIECE)


def other_half(chunk: Optional[int]) -> bytes:
    return one_chunk(PIECE) + LAST_CHUNK if chunk else PIECE


def events_of(gateway: Gateway, event_type: str, what: str) -> list[Any]:
    return [e for e in gateway.operator.events(event_type) if e["data"].get("id") == what]


class Stream:
    """A handler that sends an endless chunked response, until the test or the gateway ends it."""

    def __init__(self) -> None:
        self.finish = threading.Event()
        self.broken = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        try:
            exchange.respond_chunked(self._pieces())
        except OSError:
            self.broken.set()
            raise

    def _pieces(self) -> Iterator[bytes]:
        yield PIECE
        while not self.finish.is_set():
            yield PIECE


class Waiting:
    """A handler that never answers, and notices that nobody waits any more."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.broken = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        self.arrived.set()
        exchange.await_break()
        self.broken.set()


# --- live connections ----------------------------------------------------------------------------


@both_versions
@each_kind
def test_a_denial_cuts_idle_connections(
    gateway: Gateway, new_device: NewDevice, kind: str, version: str
) -> None:
    device, other = new_device(), new_device()
    connections = [opened(device, version) for _ in range(6)]  # so that each worker has some
    others = [opened(other, version) for _ in range(6)]

    since = deny(gateway, kind, device.identity)
    for connection in connections:
        assert assert_cut(gateway, connection, since) == b""

    for connection in others:
        assert connection.request("GET", "/still").status == 200
    assert gateway.log.find("connection closed", device=other.name) == []
    assert gateway.operator.metrics()["dgw_connections_cut_total"] == 6


@pytest.mark.parametrize("chunk", [None, len(PIECE)], ids=["length", "chunked"])
@each_kind
def test_a_denial_cuts_an_upload_in_flight(
    gateway: Gateway, backend: Backend, new_device: NewDevice, kind: str, chunk: Optional[int]
) -> None:
    device = new_device()
    with device.connect() as connection:
        connection.send(half_an_upload(chunk))
        upload = backend.await_request("/upload")
        wait_until(lambda: len(upload.body) == len(PIECE), "half of the upload at the backend")

        since = deny(gateway, kind, device.identity)
        assert assert_cut(gateway, connection, since) == b""

    wait_until(lambda: upload.broken, "the backend sees the upload break off")
    check_bound(since, "an upload, at the backend")
    assert not upload.complete
    assert bytes(upload.body) == PIECE


@each_kind
def test_a_denial_cuts_a_download_that_is_read_slowly(
    gateway: Gateway, backend: Backend, new_device: NewDevice, kind: str
) -> None:
    """So slowly that all buffers are full, and nothing that the device does wakes the gateway."""
    device, stream = new_device(), Stream()
    backend.on("/stream", stream)
    with device.connect(receive_buffer=16384) as connection:
        connection.send(request("GET", "/stream"))
        assert connection.reader.response_head().status == 200
        assert connection.reader.exactly(1000)

        since = deny(gateway, kind, device.identity)
        rest = assert_cut(gateway, connection, since)
    assert not rest.endswith(LAST_CHUNK)
    assert stream.broken.wait(BOUND), "the backend can still send"


@each_kind
def test_a_denial_cuts_a_request_that_waits_for_its_backend(
    gateway: Gateway, backend: Backend, new_device: NewDevice, kind: str
) -> None:
    device, waiting = new_device(), Waiting()
    backend.on("/wait", waiting)
    with device.connect() as connection:
        connection.send(request("GET", "/wait"))
        assert waiting.arrived.wait(BOUND)

        since = deny(gateway, kind, device.identity)
        assert assert_cut(gateway, connection, since) == b""
    assert waiting.broken.wait(BOUND), "the backend is not told"
    entry = gateway.log.wait("request", path="/wait")
    assert (entry["status"], entry["reason"]) == (0, "cut-denied")


@each_kind
def test_a_denial_leaves_everybody_else_s_traffic_alone(
    gateway: Gateway, backend: Backend, new_device: NewDevice, kind: str
) -> None:
    """With a name that begins like the denied one's, and in the middle of every kind of exchange."""
    device = new_device("meter-1")
    other = new_device("meter-11")
    stream, gate = Stream(), backend.gate()
    backend.on("/stream", stream)

    def late(exchange: Exchange) -> None:
        gate.wait()
        exchange.respond(200, b"late")

    backend.on("/late", late)
    cut = [opened(device) for _ in range(4)]
    idle, upload, chunked, download, waiting = (opened(other) for _ in range(5))
    upload.send(half_an_upload(None))
    chunked.send(half_an_upload(len(PIECE)))
    download.send(request("GET", "/stream"))
    waiting.send(request("GET", "/late"))
    gate.await_arrival()
    assert download.reader.response_head().status == 200

    since = deny(gateway, kind, device.identity)
    for connection in cut:
        assert_cut(gateway, connection, since)

    stream.finish.set()
    gate.open()
    pieces = list(download.reader.chunks())
    assert pieces and all(PIECE.startswith(p) or p in PIECE + PIECE for p in pieces)
    assert len(b"".join(pieces)) % len(PIECE) == 0
    assert b"".join(pieces) == PIECE * (len(b"".join(pieces)) // len(PIECE))
    assert waiting.response().body == b"late"
    for connection, chunk in ((upload, None), (chunked, len(PIECE))):
        answer = connection.send(other_half(chunk)).response("POST")
        assert (answer.status, answer.json()["length"]) == (200, 2 * len(PIECE))
    assert idle.request("GET", "/still").status == 200
    assert [bytes(r.body) for r in backend.of("/upload")] == [2 * PIECE] * 2
    assert gateway.log.find("connection closed", device=other.name) == []


@each_kind
def test_a_denial_at_one_gateway_cuts_at_all(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice, kind: str
) -> None:
    first, second = start_gateway(), start_gateway()
    waiting = Waiting()
    backend.on("/wait", waiting)
    here = new_device(to=first)
    there = Device(here.identity, second.address(), here.trust)
    other = new_device(to=second)
    survivor = opened(other)
    at_first, at_second, busy = opened(here), opened(there), opened(there)
    busy.send(request("GET", "/wait"))
    assert waiting.arrived.wait(BOUND)

    since = deny(first, kind, here.identity)
    assert_cut(first, at_first, since)
    assert_cut(second, at_second, since)
    assert_cut(second, busy, since)

    assert waiting.broken.wait(BOUND)
    assert survivor.request("GET", "/still").status == 200
    assert there.get("/again").reason == f"{kind}-denied"
    assert second.log.find("audit", action="denied") == []  # who acted has the audit line


@pytest.mark.parametrize("with_device", [True, False])
@pytest.mark.parametrize("kind", ["key", "certificate"])
def test_a_denial_finds_connections_without_a_device_s_name(
    gateway: Gateway, new_device: NewDevice, kind: str, with_device: bool
) -> None:
    device, other = new_device(), new_device()
    connections, survivor = [opened(device) for _ in range(4)], opened(other)
    more = {"device": device.name} if with_device else {}

    since = deny(gateway, kind, device.identity, **more)
    for connection in connections:
        assert_cut(gateway, connection, since)
    assert survivor.request("GET", "/still").status == 200
    assert device.get("/again").reason == f"{kind}-denied"


@pytest.mark.parametrize("kind", ["key", "certificate"])
def test_a_denial_under_the_wrong_name_cuts_all_the_same(
    gateway: Gateway, new_device: NewDevice, kind: str
) -> None:
    """A stolen key may speak for other names than the operator thinks; the entry refuses it under
    each, so live connections must not depend on the name either.
    """
    device, other = new_device(), new_device()
    connections, survivor = [opened(device) for _ in range(4)], opened(other)

    since = deny(gateway, kind, device.identity, device=other.name)
    for connection in connections:
        assert_cut(gateway, connection, since)
    assert device.get("/again").reason == f"{kind}-denied"
    assert survivor.request("GET", "/still").status == 200


@pytest.mark.parametrize("shown", ["itself", "its twin"])
def test_a_denied_certificate_is_out_in_both_forms_of_its_signature(
    gateway: Gateway, new_device: NewDevice, shown: str
) -> None:
    """An ECDSA signature can be written in two ways, by anybody. A certificate with the other one
    has another digest, under which the deny-list did not know it: a denied device that turned its
    own certificate's signature over was let in again.
    """
    device = new_device()
    twin = device.with_identity(device.identity.twin())
    assert twin.identity.certificate_id != device.identity.certificate_id
    denied = device if shown == "itself" else twin
    live = [opened(device), opened(twin)]

    since = deny(gateway, "certificate", denied.identity)
    for connection in live:
        assert_cut(gateway, connection, since)
    assert device.get("/new").reason == "certificate-denied"
    assert twin.get("/new").reason == "certificate-denied"


def test_a_denied_certificate_leaves_another_one_of_its_key_alone(
    gateway: Gateway, new_device: NewDevice
) -> None:
    key = new_key()
    device = new_device(key=key)
    renewed = new_device(device.name, key=key)
    cut, survivor = opened(device), opened(renewed)

    since = deny(gateway, "certificate", device.identity)
    assert_cut(gateway, cut, since)
    assert survivor.request("GET", "/still").status == 200
    assert renewed.get("/new").status == 200
    assert device.get("/new").reason == "certificate-denied"


# --- new connections -----------------------------------------------------------------------------


@both_versions
@each_kind
def test_a_denied_device_is_told_why_and_gets_nothing_through(
    gateway: Gateway, backend: Backend, new_device: NewDevice, kind: str, version: str
) -> None:
    device = new_device()
    deny(gateway, kind, device.identity)
    with device.connect(version) as connection:
        connection.send(request("POST", "/first", body=b"x") + request("GET", "/second"))
        answer = connection.response("POST")
        assert connection.rest() == b""

    assert answer.status == 403
    assert answer.header("Content-Type") == "application/problem+json"
    assert answer.header("Connection") == "close"
    problem = answer.json()
    assert (problem["status"], problem["reason"]) == (403, f"{kind}-denied")
    assert problem["type"] == f"urn:device-gateway:reason:{kind}-denied"
    assert backend.requests == []
    entry = gateway.log.wait("request", device=device.name)
    assert (entry["status"], entry["reason"]) == (403, f"{kind}-denied")
    assert len(gateway.log.find("request", device=device.name)) == 1
    metrics = gateway.operator.metrics()
    assert metrics[f'dgw_admissions_total{{reason="{kind}-denied"}}'] == 1
    assert gateway.operator.events(device=device.name, event_type="DEVICE_FIRST_SEEN") == []


# --- the deny-list -------------------------------------------------------------------------------


@each_kind
def test_whom_an_operator_allows_passes_again(
    gateway: Gateway, new_device: NewDevice, kind: str
) -> None:
    device = new_device()
    cut = opened(device)
    since = deny(gateway, kind, device.identity)
    assert_cut(gateway, cut, since)
    assert device.get("/").status == 403

    allowed = gateway.operator.allow(kind, named(kind, device.identity))
    assert (allowed.status, allowed.json()["reason"]) == (200, "allowed")
    assert device.get("/").status == 200
    again = gateway.operator.allow(kind, named(kind, device.identity))
    assert (again.status, again.reason) == (404, "not-denied")


@each_kind
def test_a_denial_ends_at_its_time(gateway: Gateway, new_device: NewDevice, kind: str) -> None:
    device = new_device()
    until = now() + datetime.timedelta(seconds=2)
    deny(gateway, kind, device.identity, until=until.strftime("%Y-%m-%dT%H:%M:%SZ"))

    assert device.get("/").reason == f"{kind}-denied"
    wait_until(lambda: device.get("/").status == 200, "the denial ends")
    assert datetime.datetime.now(datetime.timezone.utc) >= until


def test_a_denial_that_has_ended_already_is_an_error(
    gateway: Gateway, new_device: NewDevice
) -> None:
    device = new_device()
    answer = gateway.operator.deny("device", device.name, until="2026-01-01T00:00:00Z")
    assert (answer.status, answer.reason) == (400, "denial-ended")
    assert device.get("/").status == 200


@each_kind
def test_denying_again_replaces_reason_and_end(
    gateway: Gateway, new_device: NewDevice, kind: str
) -> None:
    device = new_device()
    what = named(kind, device.identity)
    deny(gateway, kind, device.identity, reason="lost")
    deny(gateway, kind, device.identity, reason="stolen", until="2999-01-01T00:00:00Z")

    entry = gateway.operator.get(f"/v1/denied/{kind}/{what}").json()
    assert (entry["reason"], entry["until"][:10]) == ("stolen", "2999-01-01")
    assert [e["data"]["reason"] for e in events_of(gateway, "DEVICE_DENIED", what)] == [
        "lost",
        "stolen",
    ]
    assert gateway.operator.allow(kind, what).status == 200
    assert device.get("/").status == 200


@each_kind
def test_denials_are_events_and_audited(gateway: Gateway, new_device: NewDevice, kind: str) -> None:
    device = new_device()
    what = named(kind, device.identity)
    deny(gateway, kind, device.identity, reason="stolen in Kiel", device=device.name)
    gateway.operator.request(
        "DELETE", f"/v1/denied/{kind}/{what}", {"reason": "found in Kiel", "device": device.name}
    )

    def check(event_type: str, action: str, reason: str, audited: str) -> None:
        (event,) = events_of(gateway, event_type, what)
        assert event["device"] == device.name
        assert (event["data"]["kind"], event["data"]["reason"]) == (kind, reason)
        assert event["data"]["origin"].startswith("operator uid:")
        line = gateway.log.wait("audit", action=action)
        assert (line["event"], line[audited], line["why"]) == (event_type, what, reason)
        assert (line["device"], line["origin"]) == (device.name, event["data"]["origin"])

    check("DEVICE_DENIED", "denied", "stolen in Kiel", "denied")
    check("DEVICE_ALLOWED", "allowed", "found in Kiel", "allowed")


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": " \t"}, {"reason": 7}, [], None])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_operators_must_say_why(
    gateway: Gateway, new_device: NewDevice, method: str, body: object
) -> None:
    device = new_device()
    if method == "DELETE":
        deny(gateway, "device", device.identity)
    answer = gateway.operator.request(method, f"/v1/denied/device/{device.name}", body)

    assert answer.status == 400
    assert answer.reason in ("reason-required", "request-body-invalid")
    assert device.get("/").status == (200 if method == "PUT" else 403)
    assert len(gateway.log.find("audit", device=device.name, event="DEVICE_ALLOWED")) == 0


# --- races ---------------------------------------------------------------------------------------


class Knocker(threading.Thread):
    """Makes one request after the other until it is refused: each on a new connection, or on one
    that is kept while the gateway keeps it.
    """

    def __init__(self, device: Device, keep: bool):
        super().__init__(daemon=True)
        self.device = device
        self.keep = keep
        self.answers: list[tuple[float, float, int]] = []  # connected, answered, status; 0: cut
        self._context = device.context()
        self._connection: Optional[Connection] = None
        self._connected = 0.0

    def run(self) -> None:
        while not self.answers or self.answers[-1][2] != 403:
            status = self._knock()
            if self._connection is not None and not (self.keep and status == 200):
                self._connection.close()
                self._connection = None
            self.answers.append((self._connected, time.monotonic(), status))

    def _knock(self) -> int:
        try:
            if self._connection is None:
                self._connected = time.monotonic()
                self._connection = Connection(self.device.address, self._context).handshake()
            return self._connection.request("GET", "/race").status
        except (EndOfStream, OSError):
            return 0


def test_no_connection_that_begins_after_a_denial_passes(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """Denials that are committed while connections are somewhere between the handshake, their
    record's reading and admission, or in requests, at two gateways. A connection that begins after
    the denial's answer is refused without any bound; one that began before may be answered within
    it.
    """
    gateways = [start_gateway(), start_gateway()]
    for round_number in range(6):
        device = new_device(to=gateways[0])
        there = Device(device.identity, gateways[1].address(), device.trust)
        knockers = [Knocker(d, keep) for d in (device, there) for keep in (True, False)]
        for knocker in knockers:
            knocker.start()
        wait_until(lambda: all(knocker.answers for knocker in knockers), "all have knocked")
        denied = deny(gateways[round_number % 2], KINDS[round_number % 3], device.identity)
        for knocker in knockers:
            knocker.join(20)
            assert knocker.answers[-1][2] == 403
            late = [a for a in knocker.answers if a[0] > denied and a[2] == 200]
            over = [a for a in knocker.answers if a[1] > denied + BOUND and a[2] == 200]
            assert late == [] and over == []


def last_words(connection: Connection) -> bytes:
    """What comes until the gateway ends the connection."""
    try:
        connection.send(request("GET", "/late"))
    except OSError:  # it has ended already
        pass
    return connection.rest()


@each_kind
def test_connections_that_a_denial_overtakes_in_a_stalled_store_are_not_left_over(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice, kind: str
) -> None:
    """While Redis stalls, records' reads wait in its socket, with the denial behind or in front of
    them; when it goes on, answers and the denial's event reach the gateway together, in any order.
    """
    gateway = start_gateway({"store": {"command_timeout": "10s"}})
    for _ in range(4):
        device, other = new_device(to=gateway), new_device(to=gateway)
        survivor = opened(other)
        redis.pause()
        before = [Connection(device.address, device.context()).handshake() for _ in range(6)]
        denying = threading.Thread(target=deny, args=(gateway, kind, device.identity), daemon=True)
        denying.start()
        after = [Connection(device.address, device.context()).handshake() for _ in range(6)]
        redis.resume()
        denying.join(20)
        since = time.monotonic()

        for connection in before + after:
            with connection:
                answer = last_words(connection)
            check_bound(since, f"overtaken ({answer[:12]!r})")
            assert answer == b"" or answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 200"))
        assert survivor.request("GET", "/still").status == 200


# --- retirement ----------------------------------------------------------------------------------


def promote(device: Device, next_identity: Identity) -> float:
    """The moment at which the new key's first request was answered."""
    assert announce(device, next_identity).status == 200
    assert Device(next_identity, device.address, device.trust).get("/new-key").status == 200
    return time.monotonic()


def closed(gateway: Gateway, connection: Connection) -> Entry:
    return gateway.log.wait("connection closed", port=connection.sock.getsockname()[1])


def test_a_retired_key_s_exchange_in_flight_may_finish(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice, next_identity: Any
) -> None:
    gateway = start_gateway({"workers": 1, "rotation": {"drain": "20s"}})
    device, other = new_device(to=gateway), new_device(to=gateway)
    gate = backend.gate()

    def late(exchange: Exchange) -> None:
        exchange.read_body()
        gate.wait()
        exchange.respond(200, PIECE)

    backend.on("/upload", late)
    busy, idle, survivor = opened(device), opened(device), opened(other)
    busy.send(half_an_upload(None))

    since = promote(device, next_identity(device))
    assert idle.rest() == b""
    check_bound(since, "idle, retired")
    assert closed(gateway, idle)["reason"] == "cut-retired"
    busy.send(other_half(None))
    gate.await_arrival()
    gate.open()
    answer = busy.response("POST")
    assert (answer.status, answer.body) == (200, PIECE)
    assert answer.header("Connection") == "close"
    assert busy.rest() == b""
    assert bytes(backend.of("/upload")[0].body) == 2 * PIECE
    assert survivor.request("GET", "/still").status == 200
    assert device.get("/again").reason == "key-denied"


def test_a_retired_key_s_exchange_is_cut_after_the_drain(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice, next_identity: Any
) -> None:
    drain = 1.0
    gateway = start_gateway({"workers": 1, "rotation": {"drain": "1s"}})
    device, other = new_device(to=gateway), new_device(to=gateway)
    waiting, stream = Waiting(), Stream()
    backend.on("/wait", waiting)
    backend.on("/stream", stream)
    waits, downloads, uploads = opened(device), opened(device), opened(device)
    survivor = opened(other)
    waits.send(request("GET", "/wait"))
    downloads.send(request("GET", "/stream"))
    assert downloads.reader.response_head().status == 200
    uploads.send(half_an_upload(len(PIECE)))
    upload = backend.await_request("/upload")
    survivor.send(half_an_upload(None))

    before = time.monotonic()
    since = promote(device, next_identity(device))
    for connection in (waits, downloads, uploads):
        entry = closed(gateway, connection)
        assert entry["reason"] == "cut-retired"
        assert time.monotonic() - before >= drain
    check_bound(since + drain, "in flight, retired")
    assert waits.rest() == b""
    assert not downloads.rest().endswith(LAST_CHUNK)
    assert waiting.broken.wait(BOUND) and stream.broken.wait(BOUND)
    wait_until(lambda: upload.broken, "the backend sees the upload break off")
    assert survivor.send(other_half(None)).response("POST").json()["length"] == 2 * len(PIECE)


def test_a_retired_key_s_next_request_is_refused(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice, next_identity: Any
) -> None:
    """Half of its head is here already when the key is retired, so the connection is not idle: the
    request is decided anew, and the device reads why.
    """
    gateway = start_gateway({"workers": 1, "rotation": {"drain": "20s"}})
    device = new_device(to=gateway)
    begun, idle = opened(device), opened(device)
    head = request("GET", "/next")
    begun.send(head[:10])
    assert idle.request("GET", "/opened").status == 200  # the same worker has seen those bytes

    promote(device, next_identity(device))
    assert idle.rest() == b""
    answer = begun.send(head[10:]).response()
    assert (answer.status, answer.reason) == (403, "key-denied")
    assert begun.rest() == b""
    assert backend.of("/next") == []
    assert closed(gateway, begun)["reason"] in ("closed-after-answer", "cut-retired")


def test_a_denial_cuts_what_a_rotation_lets_finish(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice, next_identity: Any
) -> None:
    gateway = start_gateway({"workers": 1, "rotation": {"drain": "20s"}})
    device, waiting = new_device(to=gateway), Waiting()
    backend.on("/wait", waiting)
    busy, idle = opened(device), opened(device)
    busy.send(request("GET", "/wait"))
    assert waiting.arrived.wait(BOUND)
    promote(device, next_identity(device))
    assert idle.rest() == b""

    since = deny(gateway, "key", device.identity)
    assert_cut(gateway, busy, since)
    assert waiting.broken.wait(BOUND)


# --- the lease, and gaps in the log ---------------------------------------------------------------


GAP = "the event log has a gap: every connection is decided again before its next request"
SHORT = {"store": {"lease": "1s", "command_timeout": "400ms"}}


def refused_by_outage(connection: Connection) -> bool:
    answer = connection.request("GET", "/outage")
    assert (answer.status, answer.reason) in [(200, None), (503, "store-unavailable")]
    return answer.status == 503


def test_beyond_the_lease_admitted_connections_are_refused_until_the_store_is_back(
    start_gateway: StartGateway, redis: RedisServer, backend: Backend, new_device: NewDevice
) -> None:
    """Invariant 9. Within the lease they are served; and one that asked for nothing meanwhile goes
    on as if nothing had been.
    """
    gateway = start_gateway(SHORT)
    device = new_device(to=gateway)
    asking, silent = [opened(device) for _ in range(3)], opened(device)

    redis.pause()
    paused = time.monotonic()
    assert wait_until(lambda: time.monotonic() - paused > 1.1, "the lease ends")
    for connection in asking:
        answer = connection.request("GET", "/outage")
        assert (answer.status, answer.reason) == (503, "store-unavailable")
        assert 5 <= int(answer.header("Retry-After") or 0) <= 10
        assert connection.rest() == b""
    assert device.get("/outage").reason == "store-unavailable"
    assert backend.of("/outage") == []

    redis.resume()
    wait_until(lambda: gateway.operator.metrics()["dgw_ready"] == 1, "the store is back")
    assert silent.request("GET", "/back").status == 200
    wait_until(lambda: device.get("/back").status == 200, "new connections are admitted again")
    assert gateway.log.find("connection closed", reason="cut-denied") == []


def test_serve_admitted_goes_on_for_its_time_and_for_nobody_new(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice
) -> None:
    """Invariant 9, the other policy."""
    gateway = start_gateway(
        {
            "store": {
                **SHORT["store"],
                "on_outage": "serve_admitted",
                "serve_admitted_max": "3s",
            }
        }
    )
    device = new_device(to=gateway)
    admitted = opened(device)
    redis.pause()
    paused = time.monotonic()
    assert wait_until(lambda: time.monotonic() - paused > 1.1, "the lease ends")
    assert admitted.request("GET", "/outage").status == 200
    assert device.get("/outage").reason == "store-unavailable"
    wait_until(lambda: refused_by_outage(admitted), "serve_admitted_max ends")
    assert time.monotonic() - paused >= 3 - 1


def cut_event(identity: Identity, mode: str) -> dict[str, str]:
    """The fields of the log's entry that gateways act on."""
    return {
        "type": "DEVICE_PUBKEY_CHANGE",
        "device": identity.name,
        "data": "{}",
        "cut": mode,
        "cut_kind": "key",
        "cut_id": identity.key_id,
    }


def test_serve_admitted_serves_no_one_of_whom_the_log_has_said_otherwise(
    start_gateway: StartGateway, redis: RedisServer, backend: Backend, new_device: NewDevice
) -> None:
    """The policy is for what cannot be known. Here the log can be read but records cannot, and it
    says that the key was retired: a request whose head had begun was served under it.
    """
    gateway = start_gateway({"workers": 1, "store": {"on_outage": "serve_admitted"}})
    device, other = new_device(to=gateway), new_device(to=gateway)
    begun, idle, survivor = opened(device), opened(device), opened(other)
    head = request("GET", "/next")
    begun.send(head[:10])
    assert idle.request("GET", "/opened").status == 200
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")
        client.xadd("dgw:{p00}:events", cut_event(device.identity, "drain"))
    assert idle.rest() == b""

    answer = begun.send(head[10:]).response()
    assert (answer.status, answer.reason) == (503, "store-unavailable")
    assert backend.of("/next") == []
    assert survivor.request("GET", "/still").status == 200
    assert closed(gateway, idle)["reason"] == "cut-retired"


class Link:
    """A gateway's connections to Redis, to be cut while it is stopped and cannot reconnect."""

    def __init__(self, gateway: Gateway, redis: RedisServer, earlier: set[str]):
        self.gateway = gateway
        self.redis = redis
        self.ids = clients(redis) - earlier

    def cut(self) -> None:
        self.gateway.pause()
        with self.redis.client() as client:
            for client_id in self.ids:
                client.execute_command("CLIENT", "KILL", "ID", client_id)

    def heal(self) -> None:
        self.gateway.resume()


def clients(redis: RedisServer) -> set[str]:
    with redis.client() as client:
        return {entry["id"] for entry in client.client_list()}


@pytest.mark.parametrize("kind", ["key", "device"])
def test_a_denial_made_while_the_log_was_out_of_reach_is_followed_afterwards(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice, kind: str
) -> None:
    """The log is read on from the last known entry, so even connections that ask for nothing are
    cut, and only those.
    """
    earlier = clients(redis)
    first = start_gateway()
    device, other = new_device(to=first), new_device(to=first)
    cut, survivor = [opened(device) for _ in range(4)], opened(other)
    link = Link(first, redis, earlier)
    second = start_gateway()

    link.cut()
    deny(second, kind, device.identity)
    link.heal()
    since = time.monotonic()
    for connection in cut:
        assert_cut(first, connection, since)
    assert survivor.request("GET", "/still").status == 200
    assert first.log.find(GAP) == []


@pytest.mark.parametrize("more", [0, 3], ids=["emptied", "with-later-entries"])
def test_after_a_trimmed_log_every_live_connection_is_decided_again(
    start_gateway: StartGateway,
    redis: RedisServer,
    backend: Backend,
    new_device: NewDevice,
    more: int,
) -> None:
    """The denial's event is gone before the gateway could read it, and perhaps others have come
    since.
    """
    earlier = clients(redis)
    first = start_gateway({"workers": 1})
    device, other = new_device(to=first), new_device(to=first)
    denied, survivor = [opened(device) for _ in range(4)], opened(other)
    link = Link(first, redis, earlier)
    second = start_gateway()

    link.cut()
    deny(second, "device", device.identity)
    with redis.client() as client:
        client.xtrim("dgw:{p00}:events", maxlen=0, approximate=False)
    for _ in range(more):
        assert new_device(to=second).get("/").status == 200
    link.heal()
    first.log.wait(GAP)
    first.log.wait("the link to Redis is up", 2, link="commands")

    for connection in denied:
        answer = connection.request("GET", "/trimmed")
        assert (answer.status, answer.reason) == (403, "device-denied")
        assert connection.rest() == b""
    assert survivor.request("GET", "/still").status == 200
    assert backend.of("/trimmed") == []
