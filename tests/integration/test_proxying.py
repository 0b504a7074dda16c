# SPDX-License-Identifier: BSD-2-Clause
"""Requests and responses pass through with their framing, their order and every byte of their
bodies.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Iterator

import pytest

from backend import Backend, Exchange
from conditions import DEADLINE, stays_true, wait_until
from conftest import NewDevice, StartGateway
from device import Connection, client_context
from gateway import Gateway
from pki import Pki
from wire import LAST_CHUNK, one_chunk, request

MIB = 1 << 20
LARGE = 50 * MIB
BLOCK = b"".join(i.to_bytes(4, "big") for i in range(MIB // 4 + 1))  # no round size

both_versions = pytest.mark.parametrize("version", ["1.2", "1.3"])


def pattern(length: int) -> bytes:
    """Bytes in which anything lost, doubled or moved shows."""
    return (BLOCK * (length // len(BLOCK) + 1))[:length]


# --- the plain cases -----------------------------------------------------------------------------


@both_versions
def test_a_request_passes(
    gateway: Gateway, backend: Backend, new_device: NewDevice, version: str
) -> None:
    device = new_device()
    response = device.request(
        "GET", "/hello?a=b&c=%2F", [("Accept", "text/plain")], version=version
    )

    assert response.status == 200
    assert response.json()["target"] == "/hello?a=b&c=%2F"
    assert backend.requests[0].header("Accept") == "text/plain"
    entry = gateway.log.wait("request", path="/hello")
    assert entry["device"] == device.name
    assert entry["key"] == device.identity.key_id
    assert (entry["method"], entry["status"], entry["reason"]) == ("GET", 200, "ok")
    assert entry["listener"] == "devices"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("chunk", [None, 1, 7, 4096])
def test_a_request_body_arrives_whole(
    backend: Backend, new_device: NewDevice, method: str, chunk: int | None
) -> None:
    body = pattern(10_000)
    response = new_device().request(method, "/upload", body=body, chunk=chunk)

    assert response.status == 200
    assert bytes(backend.of("/upload", method)[0].body) == body


def test_an_empty_body_with_a_length_stays_one(backend: Backend, new_device: NewDevice) -> None:
    assert new_device().post("/upload", b"").status == 200
    assert backend.requests[0].header("Content-Length") == "0"


@pytest.mark.parametrize("sizes", [[1], [1, 2, 3], [65536, 1, 100_000], [1] * 500])
def test_a_chunked_response_arrives_whole(
    backend: Backend, new_device: NewDevice, sizes: list[int]
) -> None:
    pieces = [pattern(size) for size in sizes]
    backend.on("/stream", lambda exchange: exchange.respond_chunked(iter(pieces)))
    response = new_device().get("/stream")

    assert response.status == 200
    assert response.chunks is not None
    assert response.body == b"".join(pieces)


def test_a_response_that_ends_with_its_connection_is_framed_for_the_device(
    backend: Backend, new_device: NewDevice
) -> None:
    def until_close(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + pattern(100_000))
        exchange.close()

    backend.on("/old", until_close)
    with new_device().connect() as connection:
        response = connection.request("GET", "/old")
        assert response.body == pattern(100_000)
        assert response.chunks is not None
        assert connection.request("GET", "/next").status == 200


def test_an_http_1_0_client_gets_no_chunks(backend: Backend, new_device: NewDevice) -> None:
    backend.on("/stream", lambda exchange: exchange.respond_chunked(iter([b"one", b"two"])))
    with new_device().connect() as connection:
        connection.send(b"GET /stream HTTP/1.0\r\nHost: localhost\r\n\r\n")
        response = connection.response()
    assert response.status == 200
    assert response.header("Transfer-Encoding") is None
    assert response.body == b"onetwo"


# --- answers without a body ----------------------------------------------------------------------


def test_head_has_the_length_but_no_body(backend: Backend, new_device: NewDevice) -> None:
    backend.on("/file", lambda exchange: exchange.respond(200, b"x" * 1234))
    with new_device().connect() as connection:
        response = connection.request("HEAD", "/file")
        assert (response.status, response.header("Content-Length")) == (200, "1234")
        assert connection.request("GET", "/file").body == b"x" * 1234


def test_head_of_something_chunked_keeps_the_connection_in_step(
    backend: Backend, new_device: NewDevice
) -> None:
    backend.on(
        "/file",
        lambda exchange: exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        method="HEAD",
    )
    with new_device().connect() as connection:
        assert connection.request("HEAD", "/file").status == 200
        assert connection.request("GET", "/next").json()["target"] == "/next"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_body_has_none(
    backend: Backend, new_device: NewDevice, status: int
) -> None:
    backend.on("/config", lambda exchange: exchange.respond(status, headers=[("ETag", '"1"')]))
    with new_device().connect() as connection:
        response = connection.request("GET", "/config")
        assert (response.status, response.header("ETag")) == (status, '"1"')
        assert response.header("Transfer-Encoding") is None
        assert connection.request("GET", "/next").status == 200


# --- interim answers -----------------------------------------------------------------------------


def test_interim_responses_are_passed_on_in_order(backend: Backend, new_device: NewDevice) -> None:
    def hint(exchange: Exchange) -> None:
        exchange.interim(103, "Early Hints", [("Link", "</a>; rel=preload")])
        exchange.interim(102, "Processing")
        exchange.respond(200, b"done")

    backend.on("/hint", hint)
    response = new_device().get("/hint")
    assert [r.status for r in response.interim] == [103, 102]
    assert response.interim[0].header("Link") == "</a>; rel=preload"
    assert (response.status, response.body) == (200, b"done")


def test_expect_100_continue_is_answered_before_the_body(
    backend: Backend, new_device: NewDevice
) -> None:
    def ask_for_it(exchange: Exchange) -> None:
        if exchange.request.header("Expect"):
            exchange.interim(100, "Continue")
        exchange.respond(200, exchange.read_body())

    backend.on("/upload", ask_for_it)
    with new_device().connect() as connection:
        head = [("Expect", "100-continue"), ("Content-Length", "5")]
        connection.send(request("POST", "/upload", head))
        assert connection.reader.response_head().status == 100
        response = connection.send(b"hello").response("POST")
    assert (response.status, response.body) == (200, b"hello")
    assert response.interim == []


def test_a_refusal_needs_no_100_continue(gateway: Gateway, new_device: NewDevice) -> None:
    """A client that waits for 100 is refused at once, and never sends the body."""
    with new_device().connect() as connection:
        head = [("Expect", "100-continue"), ("Content-Length", "100000000")]
        connection.send(request("POST", "/upload", head))
        response = connection.response("POST")
        assert (response.status, response.reason) == (413, "request-body-too-large")
        connection.await_close()


def test_an_unknown_expectation_is_refused(backend: Backend, new_device: NewDevice) -> None:
    response = new_device().post("/upload", b"x", [("Expect", "the-unexpected")])
    assert (response.status, response.reason) == (417, "expectation-unsupported")
    assert backend.requests == []


# --- connections ---------------------------------------------------------------------------------


@both_versions
def test_keep_alive_serves_many_requests_over_one_backend_connection(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice, version: str
) -> None:
    gateway = start_gateway({"workers": 1})
    with new_device(to=gateway).connect(version) as connection:
        for i in range(50):
            response = connection.request("POST", f"/{i}", body=b"x" * i)
            assert response.json()["length"] == i
    assert backend.connections == 1


def test_pipelined_requests_are_answered_in_order(backend: Backend, new_device: NewDevice) -> None:
    gate = backend.gate()

    def slow(exchange: Exchange) -> None:
        gate.wait()
        exchange.respond(200, b"slow")

    backend.on("/slow", slow)
    with new_device().connect() as connection:
        connection.send(
            request("GET", "/slow")
            + request("POST", "/second", body=b"abc")
            + request("PUT", "/third", body=b"defg", chunk=2)
            + request("HEAD", "/fourth")
            + request("GET", "/fifth")
        )
        gate.await_arrival()
        gate.open()
        assert connection.response().body == b"slow"
        assert connection.response().json()["target"] == "/second"
        assert connection.response().json()["length"] == 4
        assert connection.response("HEAD").status == 200
        assert connection.response().json()["target"] == "/fifth"
    paths = [r.path for r in backend.requests]
    assert paths == ["/slow", "/second", "/third", "/fourth", "/fifth"]


def test_connection_close_is_obeyed(gateway: Gateway, new_device: NewDevice) -> None:
    with new_device().connect() as connection:
        response = connection.request("GET", "/", [("Connection", "close")])
        assert response.status == 200
        assert response.header("Connection") == "close"
        assert connection.receive() == b""  # in order: close_notify
    gateway.log.wait("connection closed", reason="closed-after-answer")


def test_a_half_closed_client_gets_its_whole_answer(
    backend: Backend, new_device: NewDevice
) -> None:
    gate = backend.gate()

    def late(exchange: Exchange) -> None:
        exchange.read_body()
        gate.wait()
        exchange.respond(200, pattern(300_000))

    backend.on("/late", late)
    with new_device().connect() as connection:
        connection.send(request("POST", "/late", body=b"done"))
        connection.half_close()
        gate.await_arrival()
        gate.open()
        assert connection.response("POST").body == pattern(300_000)
        assert connection.await_close() < DEADLINE


def test_a_client_that_goes_away_ends_the_backend_exchange(
    backend: Backend, new_device: NewDevice
) -> None:
    gone = threading.Event()

    def wait_for_the_end(exchange: Exchange) -> None:
        exchange.await_break()
        gone.set()

    backend.on("/wait", wait_for_the_end)
    with new_device().connect() as connection:
        connection.send(request("POST", "/wait", [("Content-Length", "10")]))
        connection.send(b"half")
        backend.await_request("/wait")
    assert gone.wait(DEADLINE)


def test_a_cut_off_request_body_is_never_passed_on_as_complete(
    backend: Backend, new_device: NewDevice
) -> None:
    ended = threading.Event()

    def read(exchange: Exchange) -> None:
        try:
            exchange.read_body()
        finally:
            ended.set()

    backend.on("/upload", read)
    with new_device().connect() as connection:
        connection.send(request("POST", "/upload", [("Transfer-Encoding", "chunked")]))
        connection.send(one_chunk(b"half"))
        backend.await_request("/upload")
        connection.half_close()
        connection.await_close()
    assert ended.wait(DEADLINE)
    assert backend.requests[0].broken and not backend.requests[0].complete


@both_versions
def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(
    new_device: NewDevice, version: str
) -> None:
    """In one segment with Finished: it must not wait inside TLS for bytes that never come."""
    device = new_device()
    with Connection(device.address, device.context(version)) as connection:
        connection.handshake(together=request("GET", "/together"))
        assert connection.response().json()["target"] == "/together"


# --- large bodies, slow peers --------------------------------------------------------------------


def upload_digest(exchange: Exchange) -> None:
    digest = hashlib.sha256()
    for piece in exchange.body_pieces(keep=False):
        digest.update(piece)
    exchange.respond(200, digest.hexdigest().encode())


@both_versions
@pytest.mark.parametrize("chunk", [None, 100_000])
def test_a_large_upload_arrives_bit_by_bit(
    backend: Backend, new_device: NewDevice, version: str, chunk: int | None
) -> None:
    backend.on("/upload", upload_digest)
    body = pattern(LARGE)
    response = new_device().request("PUT", "/upload", body=body, chunk=chunk, version=version)
    assert response.body.decode() == hashlib.sha256(body).hexdigest()


@both_versions
@pytest.mark.parametrize("record", [1000, 9000, 16_000, 16_383])
def test_records_that_do_not_fill_a_buffer_do_not_get_stuck_in_tls(
    backend: Backend, new_device: NewDevice, version: str, record: int
) -> None:
    """What was read from the socket before there was room for it stays within TLS, where no readiness
    announces it: when room comes, somebody must think of it, or the upload times out.
    """
    backend.on("/upload", upload_digest)
    body = pattern(400_000)
    head = f"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with new_device().connect(version=version) as connection:
        connection.send_records(head.encode(), *slices(body, record))
        response = connection.response("PUT")
    assert response.body.decode() == hashlib.sha256(body).hexdigest()


def slices(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


@both_versions
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_download_arrives_bit_by_bit(
    backend: Backend, new_device: NewDevice, version: str, framing: str
) -> None:
    body = pattern(LARGE)

    def pieces() -> Iterator[bytes]:
        yield from (body[i : i + 99_991] for i in range(0, len(body), 99_991))

    if framing == "length":
        backend.on("/download", lambda exchange: exchange.respond(200, body))
    else:
        backend.on("/download", lambda exchange: exchange.respond_chunked(pieces()))
    response = new_device().request("GET", "/download", version=version)
    assert hashlib.sha256(response.body).digest() == hashlib.sha256(body).digest()


def test_both_bodies_stream_at_the_same_time(backend: Backend, new_device: NewDevice) -> None:
    """The answer begins while the request is still being sent: nothing waits for a whole body."""

    def mirror(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in exchange.body_pieces():
            exchange.send(one_chunk(piece))
        exchange.send(LAST_CHUNK)

    backend.on("/mirror", mirror)
    with new_device().connect() as connection:
        connection.send(request("POST", "/mirror", [("Transfer-Encoding", "chunked")]))
        connection.send(one_chunk(b"first"))
        assert connection.reader.response_head().status == 200
        answer = connection.reader.chunks()
        assert next(answer) == b"first"
        connection.send(one_chunk(b"second"))
        assert next(answer) == b"second"
        connection.send(LAST_CHUNK)
        assert list(answer) == []
        assert connection.request("GET", "/next").status == 200


def test_a_client_that_does_not_read_stops_the_backend(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    """Back-pressure: what the device does not take is not taken from the backend either."""
    gateway = start_gateway({"http": {"buffer": "64KiB"}})
    body, sent = pattern(LARGE), [0]

    def stream(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 65536):
            exchange.send(body[start : start + 65536])
            sent[0] += 65536

    backend.on("/download", stream)
    with new_device(to=gateway).connect(receive_buffer=65536) as connection:
        connection.send(request("GET", "/download"))
        standstill(sent)
        assert sent[0] < LARGE // 2
        assert connection.response().body == body


def test_a_backend_that_does_not_read_stops_the_client(
    backend: Backend, new_device: NewDevice
) -> None:
    gate, body, sent = backend.gate(), pattern(LARGE), [0]

    def read_late(exchange: Exchange) -> None:
        gate.wait()
        upload_digest(exchange)

    backend.on("/upload", read_late)
    with new_device().connect() as connection:
        connection.send(request("PUT", "/upload", [("Content-Length", str(LARGE))]))

        def upload() -> None:
            for start in range(0, len(body), 65536):
                connection.send(body[start : start + 65536])
                sent[0] += 65536

        sender = threading.Thread(target=upload, daemon=True)
        sender.start()
        gate.await_arrival()
        standstill(sent)
        assert sent[0] < LARGE // 2
        gate.open()
        sender.join(DEADLINE)
        assert connection.response("PUT").body.decode() == hashlib.sha256(body).hexdigest()


def standstill(counter: list[int]) -> None:
    """Returns when the counter has begun to move and then has not moved for a good while."""

    def stands() -> bool:
        seen = counter[0]
        return seen > 0 and stays_true(lambda: counter[0] == seen, 0.5)

    wait_until(stands, "the stream stands still")


def test_a_response_that_drips_arrives_as_it_drips(backend: Backend, new_device: NewDevice) -> None:
    gate = backend.gate()

    def drip(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Le")
        exchange.send(b"ngth: 6\r\n\r\na")
        gate.wait()
        for byte in b"bcdef":
            exchange.send(bytes([byte]))

    backend.on("/drip", drip)
    with new_device().connect() as connection:
        connection.send(request("GET", "/drip"))
        assert connection.reader.response_head().status == 200
        assert connection.reader.exactly(1) == b"a"
        gate.open()
        assert connection.reader.exactly(5) == b"bcdef"


@pytest.mark.parametrize("body", [None, b"some bytes"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_a_request_that_drips_is_understood(
    backend: Backend, new_device: NewDevice, body: bytes | None, chunk: int | None
) -> None:
    """One byte a TLS record: every boundary there can be."""
    with new_device().connect() as connection:
        for byte in request("POST", "/drip?x", [("A", "b")], body, chunk=chunk):
            connection.send(bytes([byte]))
        response = connection.response("POST")
    assert response.json()["length"] == len(body or b"")
    assert response.json()["target"] == "/drip?x"


def test_a_request_that_never_ends_is_given_up(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    gateway = start_gateway({"http": {"head_timeout": "300ms"}})
    with new_device(to=gateway).connect() as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: loc")
        response = connection.response()
        assert (response.status, response.reason) == (408, "request-timeout")
        connection.await_close()


def test_an_idle_connection_is_closed(start_gateway: StartGateway, new_device: NewDevice) -> None:
    gateway = start_gateway({"http": {"idle_timeout": "300ms"}})
    with new_device(to=gateway).connect() as connection:
        assert connection.request("GET", "/").status == 200
        assert connection.await_close() < DEADLINE
    gateway.log.wait("connection closed", reason="idle-timeout")


# --- backends that misbehave ---------------------------------------------------------------------


def test_an_early_answer_reaches_the_client_before_the_upload_ends(
    backend: Backend, new_device: NewDevice
) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.respond(413, b"too much", headers=[("Connection", "close")])
        exchange.close()

    backend.on("/upload", refuse)
    with new_device().connect() as connection:
        connection.send(request("POST", "/upload", [("Content-Length", "1000000")]))
        connection.send(b"x" * 1000)
        response = connection.response("POST")
        assert (response.status, response.body) == (413, b"too much")


def test_no_backend_is_503(gateway: Gateway, backend: Backend, new_device: NewDevice) -> None:
    backend.stop()
    response = new_device().get("/")
    assert (response.status, response.reason) == (503, "backend-unavailable")
    assert 5 <= int(response.header("Retry-After") or 0) <= 10
    assert gateway.log.wait("request", status=503)["reason"] == "backend-unavailable"
    assert gateway.log.wait("backend failed")["server"] == backend.address


def test_a_backend_that_breaks_off_before_its_answer_is_502(
    backend: Backend, new_device: NewDevice
) -> None:
    backend.on("/", lambda exchange: exchange.reset())
    response = new_device().post("/", b"not repeatable")
    assert (response.status, response.reason) == (502, "backend-broken")
    assert len(backend.requests) == 1  # a POST is not tried twice


def test_a_backend_that_talks_nonsense_is_502(backend: Backend, new_device: NewDevice) -> None:
    backend.on("/", lambda exchange: exchange.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"))
    response = new_device().get("/")
    assert (response.status, response.reason) == (502, "backend-invalid")


def test_a_backend_that_is_silent_is_504(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    api = {"name": "api", "servers": [backend.address], "response_timeout": "300ms"}
    gateway = start_gateway({"backends": [api]})
    gate = backend.gate()
    backend.on("/", lambda exchange: gate.wait())
    response = new_device(to=gateway).get("/")
    assert (response.status, response.reason) == (504, "backend-timeout")


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_a_response_that_breaks_off_is_not_passed_on_as_complete(
    gateway: Gateway, backend: Backend, new_device: NewDevice, framing: bytes
) -> None:
    def break_off(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nhello\r\n")
        exchange.close()

    backend.on("/", break_off)
    with new_device().connect() as connection:
        connection.send(request("GET", "/"))
        assert connection.reader.response_head().status == 200
        rest = connection.rest()
    assert len(rest) < 100 and not rest.endswith(LAST_CHUNK)
    assert gateway.log.wait("request", path="/")["reason"] == "backend-broken"


def test_a_kept_connection_that_the_backend_closed_is_not_noticed(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    gateway = start_gateway({"workers": 1})
    with new_device(to=gateway).connect() as connection:
        assert connection.request("GET", "/a").status == 200
        backend.stop()
        backend.start()
        assert connection.request("GET", "/b").status == 200


def test_a_backend_on_a_unix_socket_is_reached(
    start_gateway: StartGateway, new_device: NewDevice, folder: Path
) -> None:
    server = Backend(folder / "api.sock").start()
    gateway = start_gateway({"backends": [{"name": "api", "servers": [server.address]}]})
    response = new_device(to=gateway).post("/unix", pattern(100_000))
    assert response.json()["length"] == 100_000
    server.stop()


# --- what is no request --------------------------------------------------------------------------

REFUSED = {
    "length and coding": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nab",
    "signed length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
    "listed length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na",
    "bare line feeds": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare line feed in a field": b"GET / HTTP/1.1\r\nHost: a\r\nA: b\nC: d\r\n\r\n",
    "folded field": b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "odd chunk size": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0x1\r\na\r\n0\r\n\r\n",
    "coding in 1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_what_two_parties_could_read_differently_is_refused(
    gateway: Gateway, backend: Backend, new_device: NewDevice, raw: bytes
) -> None:
    """400, the connection is closed, and what is smuggled behind is never a request."""
    with new_device().connect() as connection:
        connection.send(raw + request("GET", "/smuggled"))
        response = connection.response()
        assert (response.status, response.reason) == (400, "request-malformed")
        assert connection.rest() == b""
    gateway.log.wait("connection closed")
    assert backend.of("/smuggled") == []
    assert all(not r.complete for r in backend.requests)


@pytest.mark.parametrize(
    "target",
    [
        "/../x",
        "/a/%2e%2e/../../x",
        "/a%2fb",
        "/a%5Cb",
        "/a\\b",
        "/%zz",
        "/%",
        "/a%00b",
        "/a;x",
        "/a#b",
    ],
)
def test_a_target_that_two_parties_could_read_differently_is_refused(
    backend: Backend, new_device: NewDevice, target: str
) -> None:
    response = new_device().get(target)
    assert response.status == 400
    assert response.reason in ("request-malformed", "request-target-invalid")
    assert backend.requests == []


# --- other people's clients ----------------------------------------------------------------------


@pytest.fixture
def files(folder: Path, pki: Pki, gateway: Gateway) -> dict[str, str]:
    certificate, key = pki.device_ca.device("foreign-client").write(folder, "client")
    trust = pki.server_ca.write(folder / "server-ca.pem")
    host, port = gateway.address()
    return {"cert": str(certificate), "key": str(key), "ca": str(trust), "port": str(port)}


def run(command: list[str], stdin: bytes = b"") -> bytes:
    if shutil.which(command[0]) is None:
        pytest.fail(f"{command[0]} is not installed: tools/install-packages test")
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60)
    return done.stdout


@pytest.mark.parametrize("option", [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3"]])
def test_curl_talks_to_it(files: dict[str, str], folder: Path, option: list[str]) -> None:
    body = folder / "body"
    body.write_bytes(pattern(3 * MIB))
    credentials = ["--cacert", files["ca"], "--cert", files["cert"], "--key", files["key"]]
    url = f"https://localhost:{files['port']}/curl"
    # with Expect: 100-continue, which curl sends for large bodies by itself
    out = run(["curl", "-sS", *option, *credentials, "-T", str(body), url, url])
    answers = [json.loads(line) for line in out.replace(b"}{", b"}\n{").splitlines()]
    assert answers[0]["sha256"] == hashlib.sha256(body.read_bytes()).hexdigest()
    assert answers[0]["method"] == "PUT"


@pytest.mark.parametrize("option", ["-tls1_2", "-tls1_3"])
def test_openssl_talks_to_it(files: dict[str, str], option: str) -> None:
    command = ["openssl", "s_client", "-quiet", option, "-connect", f"localhost:{files['port']}"]
    command += ["-CAfile", files["ca"], "-verify_return_error"]
    command += ["-cert", files["cert"], "-key", files["key"]]
    out = run(command, request("GET", "/openssl", [("Connection", "close")]))
    assert out.startswith(b"HTTP/1.1 200 ")
    assert b"/openssl" in out


@pytest.mark.parametrize(
    "priority", ["NORMAL:-VERS-ALL:+VERS-TLS1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.3"]
)
def test_gnutls_talks_to_it(files: dict[str, str], priority: str) -> None:
    command = ["gnutls-cli", "--priority", priority, "--port", files["port"], "--logfile=/dev/null"]
    command += ["--x509cafile", files["ca"], "--x509certfile", files["cert"]]
    command += ["--x509keyfile", files["key"], "localhost"]
    out = run(command, request("GET", "/gnutls", [("Connection", "close")]))
    assert b"HTTP/1.1 200 " in out
    assert b"/gnutls" in out


def test_a_large_client_hello_in_small_segments_is_understood(
    gateway: Gateway, new_device: NewDevice
) -> None:
    """Post-quantum key shares make a ClientHello larger than one segment."""
    device = new_device()
    context = client_context(device.trust, device.identity)
    context.set_alpn_protocols(["x" * 250] * 30)
    with Connection(device.address, context) as connection:
        connection.handshake(piece=100)
        assert connection.request("GET", "/").status == 200
