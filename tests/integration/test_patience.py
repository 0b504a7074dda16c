# SPDX-License-Identifier: BSD-2-Clause
"""How long clients may take: absolute deadlines for heads and handshakes, minimum rates for bodies
either way, and never blame for a slow backend.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Callable

from backend import Backend, Exchange
from conditions import DEADLINE, stays_true, wait_until
from conftest import NewDevice, StartGateway
from device import Connection
from gateway import Gateway
from wire import request

KIB = 1 << 10
MIB = 1 << 20


def drip(
    send: Callable[[bytes], object], piece: bytes, every: float, gone: Callable[[], bool]
) -> float:
    """Sends `piece` again and again until the peer is gone; how long that took."""
    begun = time.monotonic()

    def once() -> bool:
        if gone():
            return True
        try:
            send(piece)
        except OSError:
            return True
        return stays_true(lambda: not gone(), every) and False

    wait_until(once, "the peer gives up")
    return time.monotonic() - begun


def is_closed(gateway: Gateway, reason: str) -> Callable[[], bool]:
    return lambda: bool(gateway.log.find("connection closed", reason=reason))


def is_answered(gateway: Gateway, reason: str) -> Callable[[], bool]:
    return lambda: bool(gateway.log.find("request", reason=reason))


def test_a_dripping_handshake_ends_in_time(start_gateway: StartGateway) -> None:
    gateway = start_gateway({"http": {"handshake_timeout": "1s"}})
    with socket.create_connection(gateway.address(), DEADLINE) as sock:
        sock.sendall(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03")
        took = drip(sock.sendall, b"x", 0.05, is_closed(gateway, "handshake-timeout"))
    assert 0.9 < took < DEADLINE / 2


def test_a_dripping_head_ends_in_time(start_gateway: StartGateway, new_device: NewDevice) -> None:
    """Whatever comes meanwhile: the deadline counts from its first byte."""
    gateway = start_gateway({"http": {"head_timeout": "1s"}})
    with new_device(to=gateway).connect() as connection:
        connection.send(b"GET / HTTP/1.1\r\nX-Slow: ")
        took = drip(connection.send, b"x", 0.05, is_answered(gateway, "request-timeout"))
        assert connection.response().reason == "request-timeout"
    assert 0.9 < took < DEADLINE / 2


def test_a_connection_must_be_used(start_gateway: StartGateway, new_device: NewDevice) -> None:
    """Who has connected wants something; who has had an answer may rest for longer."""
    gateway = start_gateway({"http": {"first_request_timeout": "500ms", "idle_timeout": "1h"}})
    with new_device(to=gateway).connect() as used, new_device(to=gateway).connect() as unused:
        assert used.request("GET", "/").status == 200
        assert unused.await_close() < DEADLINE / 2
        assert gateway.log.wait("connection closed", reason="first-request-timeout")
        assert used.request("GET", "/").status == 200


RATED = {"http": {"body_timeout": "1s", "body_min_rate": "10KiB"}}


def test_a_dripping_body_ends_in_time(
    start_gateway: StartGateway, new_device: NewDevice, backend: Backend
) -> None:
    """It never pauses for body_timeout, and would have taken 17 minutes."""
    gateway = start_gateway(RATED)
    with new_device(to=gateway).connect() as connection:
        connection.send(request("POST", "/", [("Content-Length", "1000000")]))
        took = drip(connection.send, bytes(50), 0.05, is_answered(gateway, "request-too-slow"))
        answer = connection.response("POST")
        assert (answer.status, answer.reason) == (408, "request-too-slow")
        assert answer.header("Connection") == "close"
    assert 0.9 < took < DEADLINE / 2


def test_a_dripping_announcement_ends_in_time(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """Bodies that the gateway collects itself, as well."""
    gateway = start_gateway(RATED)
    with new_device(to=gateway).connect() as connection:
        connection.send(request("PATCH", "/device", [("Content-Length", "10000")]) + b"{")
        drip(connection.send, b" ", 0.05, is_answered(gateway, "request-too-slow"))
        assert connection.response().status == 408


def test_a_body_that_stands_still_is_told_apart(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    gateway = start_gateway(RATED)
    with new_device(to=gateway).connect() as connection:
        connection.send(request("POST", "/", [("Content-Length", "10")]))
        assert connection.response("POST").reason == "request-timeout"


def test_a_slow_steady_body_arrives(start_gateway: StartGateway, new_device: NewDevice) -> None:
    """At twice the rate, for several times body_timeout."""
    gateway = start_gateway(RATED)
    with new_device(to=gateway).connect() as connection:
        connection.send(request("POST", "/", [("Content-Length", str(70 * KIB))]))
        for _ in range(70):
            connection.send(bytes(KIB))
            assert stays_true(connection.is_open, 0.04)
        assert connection.response("POST").json()["length"] == 70 * KIB


def test_a_slow_steady_record_arrives(start_gateway: StartGateway, new_device: NewDevice) -> None:
    """TLS gives out a record when it is whole. One of 16 KiB that took longer than body_timeout
    counted as silence all the while, so any client slower than a record a body_timeout was cut,
    whatever body_min_rate allowed.
    """
    gateway = start_gateway({"http": {"body_timeout": "1s", "body_min_rate": "1KiB"}})
    with new_device(to=gateway).connect() as connection:
        connection.send(request("POST", "/", [("Content-Length", str(16 * KIB))]))
        connection.tls.write(bytes(16 * KIB))
        record = connection._outgoing.read()
        for start in range(0, len(record), 512):
            connection.sock.sendall(record[start : start + 512])
            assert stays_true(lambda: not is_answered(gateway, "request-timeout")(), 0.08)
        assert connection.response("POST").json()["length"] == 16 * KIB


def test_a_fast_client_may_pause(start_gateway: StartGateway, new_device: NewDevice) -> None:
    """What it was faster is its own, up to body_timeout; an hour's lead is not."""
    gateway = start_gateway({"http": {"body_timeout": "1s", "body_min_rate": "500"}})
    with new_device(to=gateway).connect() as connection:
        connection.send(request("POST", "/", [("Content-Length", str(3 * MIB))]))
        for _ in range(2):
            connection.send(bytes(MIB))
            assert stays_true(connection.is_open, 0.6)
        connection.send(bytes(MIB - 1))
        assert connection.response("POST").reason == "request-timeout"


def test_a_client_is_not_blamed_for_a_slow_backend(
    start_gateway: StartGateway, new_device: NewDevice, backend: Backend
) -> None:
    """It could not send: nobody took anything for several times body_timeout."""
    gateway = start_gateway({"http": {"body_timeout": "300ms", "body_min_rate": "1MiB"}})
    gate = backend.gate()

    def late(exchange: Exchange) -> None:
        gate.wait()
        exchange.read_body()
        exchange.respond(200)

    backend.on("/late", late)
    body = bytes(16 * MIB)  # more than all buffers on the way
    with new_device(to=gateway).connect() as connection:
        sender = threading.Thread(
            target=lambda: connection.send(request("POST", "/late", body=body))
        )
        sender.start()
        gate.await_arrival()
        assert stays_true(connection.is_open, 1.5)
        gate.open()
        sender.join(DEADLINE)
        assert connection.response("POST").status == 200


def test_a_client_that_awaits_100_continue_is_not_blamed_for_a_slow_backend(
    start_gateway: StartGateway, new_device: NewDevice, backend: Backend
) -> None:
    """It sent nothing because nobody had asked for it yet, and was told 408 after body_timeout. It
    is the backend that has to say something, within response_timeout.
    """
    gateway = start_gateway({"http": {"body_timeout": "300ms"}})
    gate = backend.gate()

    def late(exchange: Exchange) -> None:
        gate.wait()
        exchange.interim(100, "Continue")
        exchange.respond(200, exchange.read_body())

    backend.on("/late", late)
    head = [("Expect", "100-continue"), ("Content-Length", "5")]
    with new_device(to=gateway).connect() as connection:
        connection.send(request("POST", "/late", head))
        gate.await_arrival()
        assert stays_true(connection.is_open, 1.5)
        gate.open()
        assert connection.reader.response_head().status == 100
        assert connection.send(b"hello").response("POST").body == b"hello"
        # from then on it is the client that is waited for
        gateway.log.wait("request", path="/late", reason="ok")
        connection.send(request("POST", "/late", head))
        assert connection.reader.response_head().status == 100
        assert connection.response("POST").reason == "request-timeout"


def test_a_backend_that_never_asks_for_the_body_has_response_timeout(
    start_gateway: StartGateway, new_device: NewDevice, backend: Backend
) -> None:
    gateway = start_gateway(
        {
            "http": {"body_timeout": "100ms"},
            "backends": [
                {"name": "api", "servers": [backend.address], "response_timeout": "700ms"}
            ],
        }
    )
    gate = backend.gate()
    backend.on("/never", lambda exchange: gate.wait())
    head = [("Expect", "100-continue"), ("Content-Length", "5")]
    with new_device(to=gateway).connect() as connection:
        connection.send(request("POST", "/never", head))
        answer = connection.response("POST")
        gate.open()
    assert (answer.status, answer.reason) == (504, "backend-timeout")


def read_slowly(connection: Connection, piece: int, every: float, gone: Callable[[], bool]) -> int:
    """Takes what comes from the socket, undecrypted."""
    taken = 0

    def once() -> bool:
        nonlocal taken
        if gone():
            return True
        try:
            data = connection.sock.recv(piece)
        except OSError:
            return True
        taken += len(data)
        return not data or (stays_true(lambda: not gone(), every) and False)

    wait_until(once, "the gateway gives up")
    return taken


def test_a_dripping_reader_is_cut(
    start_gateway: StartGateway, new_device: NewDevice, backend: Backend
) -> None:
    """It takes a little all the time, so it never stands still for write_timeout."""
    gateway = start_gateway({"http": {"write_timeout": "1s", "write_min_rate": "1MiB"}})
    backend.on("/", lambda exchange: exchange.respond(200, bytes(20 * MIB)))
    with new_device(to=gateway).connect(receive_buffer=4 * KIB) as connection:
        connection.send(request("GET", "/"))
        taken = read_slowly(connection, KIB, 0.01, is_closed(gateway, "response-too-slow"))
        assert taken < 5 * MIB
        connection.abandon()


def test_a_slow_steady_reader_gets_everything(
    start_gateway: StartGateway, new_device: NewDevice, backend: Backend
) -> None:
    """Faster than the rate, for several times write_timeout; what lies in the kernel's buffers is
    not taken for a client that stands still.
    """
    gateway = start_gateway({"http": {"write_timeout": "500ms", "write_min_rate": "50KiB"}})
    body = bytes(8 * MIB)
    backend.on("/", lambda exchange: exchange.respond(200, body))
    with new_device(to=gateway).connect(receive_buffer=16 * KIB) as connection:
        connection.send(request("GET", "/"))
        assert connection.reader.response_head().status == 200
        begun, got = time.monotonic(), 0
        for piece in connection.reader.pieces(len(body)):
            got += len(piece)
            if time.monotonic() - begun < 2.5:
                time.sleep(len(piece) / (200 * KIB))  # a slow reader
        assert got == len(body)


def test_a_reader_is_not_blamed_for_a_slow_backend(
    start_gateway: StartGateway, new_device: NewDevice, backend: Backend
) -> None:
    gateway = start_gateway({"http": {"write_timeout": "300ms", "write_min_rate": "1MiB"}})

    def trickle(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n")
        for _ in range(15):
            exchange.send(b"x")
            time.sleep(0.1)  # a slow backend

    backend.on("/", trickle)
    assert new_device(to=gateway).get("/").body == b"x" * 15
