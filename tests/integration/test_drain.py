# SPDX-License-Identifier: BSD-2-Clause
"""SIGTERM: what is under way ends in order, within drain_timeout."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from backend import Backend, Exchange
from conditions import DEADLINE, wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device
from gateway import Gateway
from pki import Pki
from redis_server import RedisServer
from wire import EndOfStream, request

NEVER = {"drain_timeout": "1h", "rotation": {"write_lease": "10m"}}


def wait_ended(gateway: Gateway, deadline: float = DEADLINE) -> int:
    assert gateway.process is not None
    return gateway.process.wait(timeout=deadline)


def refuses_connections(gateway: Gateway, device: Device) -> bool:
    try:
        with Connection(device.address, device.context()):
            return False
    except ConnectionRefusedError:
        return True


def test_an_exchange_in_flight_completes(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    """Its request was half sent and its answer not begun when the signal came."""
    gateway = start_gateway(NEVER)
    device = new_device(to=gateway)
    body = bytes(range(256)) * 1000
    with device.connect() as connection:
        head = request("POST", "/upload", [("Content-Length", str(len(body)))])
        connection.send(head + body[:1000])
        backend.await_request("/upload")

        gateway.signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(gateway, device), "new connections are refused")
        assert gateway.is_running()

        connection.send(body[1000:])
        answer = connection.response()
        assert (answer.status, answer.json()["length"]) == (200, len(body))
        assert answer.header("Connection") == "close"
        assert connection.rest() == b""
    assert bytes(backend.of("/upload")[0].body) == body
    assert wait_ended(gateway) == 0
    assert gateway.log.find("draining", signal=signal.SIGTERM)
    assert gateway.log.find("stopped")


def test_a_download_in_flight_completes(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    gateway = start_gateway(NEVER)
    gate = backend.gate()
    body = bytes(range(256)) * 4096

    def answer(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 Told\r\nContent-Length: %d\r\n\r\n" % len(body))
        exchange.send(body[:1000])
        gate.wait()
        exchange.send(body[1000:])

    backend.on("/slow", answer)
    with new_device(to=gateway).connect() as connection:
        connection.send(request("GET", "/slow") + request("GET", "/pipelined"))
        gate.await_arrival()
        gateway.signal(signal.SIGTERM)
        gateway.log.wait("draining")
        gate.open()
        assert connection.response().body == body
        assert connection.rest() == b""
    assert wait_ended(gateway) == 0
    assert backend.of("/pipelined") == []


def test_idle_connections_are_closed_in_order(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """With close_notify, so that clients know that nothing was lost."""
    gateway = start_gateway(NEVER)
    devices = [new_device(to=gateway) for _ in range(3)]
    with devices[0].connect() as a, devices[1].connect() as b, devices[2].connect() as unused:
        assert (a.request("GET", "/").status, b.request("GET", "/").status) == (200, 200)
        gateway.signal(signal.SIGTERM)
        assert (a.receive(), b.receive(), unused.receive()) == (b"", b"", b"")
        for connection in (a, b, unused):
            connection.close()
        assert wait_ended(gateway) == 0
    for device in devices:
        assert gateway.log.find("connection closed", device=device.name, reason="drained")


def test_a_request_that_is_on_its_way_when_the_signal_comes_is_answered(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """The connection was made for it. It was closed unanswered when the handshake had ended and the
    request not begun.
    """
    gateway = start_gateway(NEVER)
    with new_device(to=gateway).connect() as connection:
        gateway.signal(signal.SIGTERM)
        gateway.log.wait("draining")
        answer = connection.request("GET", "/late")
        assert (answer.status, answer.header("Connection")) == (200, "close")
        assert connection.rest() == b""
    assert wait_ended(gateway) == 0


def test_a_connection_without_a_request_is_not_waited_for_long(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    gateway = start_gateway({**NEVER, "http": {"first_request_timeout": "1h"}})
    device = new_device(to=gateway)
    with device.connect() as connection:
        gateway.signal(signal.SIGTERM)
        assert connection.await_close() < DEADLINE / 2
        assert wait_ended(gateway) == 0
    assert gateway.log.find("connection closed", device=device.name, reason="drained")


def test_connections_that_wait_to_be_accepted_are_served_to_the_end(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """For these clients the connection was there before the signal came. Closing the listening
    socket reset them.
    """
    gateway = start_gateway({**NEVER, "workers": 1})
    device = new_device(to=gateway)
    gateway.pause()
    context = device.context()
    waiting = [Connection(device.address, context) for _ in range(100)]
    gateway.signal(signal.SIGTERM)
    gateway.resume()
    for connection in waiting:
        with connection.handshake():
            assert connection.request("GET", "/").status == 200
    assert wait_ended(gateway) == 0


def test_an_idle_client_that_does_not_close_holds_nothing_up(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    gateway = start_gateway(NEVER)
    with new_device(to=gateway).connect() as connection:
        assert connection.request("GET", "/").status == 200
        gateway.signal(signal.SIGTERM)
        assert wait_ended(gateway) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_endless_download_is_cut_when_the_time_is_over(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice, number: signal.Signals
) -> None:
    gateway = start_gateway({"drain_timeout": "1s"})

    def endless(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 Told\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            exchange.send(b"400\r\n" + bytes(1024) + b"\r\n")

    backend.on("/endless", endless)
    with new_device(to=gateway).connect() as connection:
        connection.send(request("GET", "/endless"))
        assert connection.reader.response_head().status == 200
        start = time.monotonic()
        gateway.signal(number)
        with pytest.raises((EndOfStream, ConnectionError)):
            for _ in connection.reader.chunks():
                pass
        assert wait_ended(gateway) == 0
        took = time.monotonic() - start
    assert 0.9 < took < 10
    entry = gateway.log.wait("connection closed", listener="devices")
    assert entry["reason"] == "drained"


def test_a_second_signal_stops_at_once(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    gateway = start_gateway(NEVER)
    gate = backend.gate()
    backend.on("/slow", lambda exchange: gate.wait())
    with new_device(to=gateway).connect() as connection:
        connection.send(request("GET", "/slow"))
        gate.await_arrival()
        gateway.signal(signal.SIGTERM)
        gateway.log.wait("draining")
        assert gateway.is_running()
        gateway.signal(signal.SIGTERM)
        assert wait_ended(gateway) == 0
        assert connection.rest() == b""
    assert gateway.log.find("stopping at once", signal=signal.SIGTERM)


def test_the_operator_socket_goes_with_the_daemon(gateway: Gateway) -> None:
    assert gateway.operator.socket_path.exists()
    assert gateway.stop() == 0
    assert not gateway.operator.socket_path.exists()


def test_a_write_lease_is_given_back_before_the_end(
    start_gateway: StartGateway, backend: Backend, pki: Pki, new_device: NewDevice
) -> None:
    """Another gateway takes an announcement at once, long before the lease would have expired: its
    release was not lost with the daemon (invariants 6 and 7).
    """
    gateway, other = start_gateway(NEVER), start_gateway()
    device = new_device(to=gateway)
    at_other = Device(device.identity, other.address(), pki.server_ca)
    gate = backend.gate()

    def answer(exchange: Exchange) -> None:
        exchange.read_body()
        gate.wait()
        exchange.respond(201)

    backend.on("/config", answer, method="PATCH")
    announcement = b'{"next_pubkey":"%s"}' % pki.device_ca.device(
        device.name
    ).public_pem.encode().replace(b"\n", b"\\n")
    with device.connect() as connection:
        connection.send(request("PATCH", "/config", body=b'{"files":[]}'))
        gate.await_arrival()
        assert other.operator.device(device.name)["config_writes_in_flight"] == 1
        assert at_other.patch("/device", announcement).reason == "config-writes-busy"

        gateway.signal(signal.SIGTERM)
        gateway.log.wait("draining")
        gate.open()
        assert connection.response().status == 201
    assert wait_ended(gateway) == 0
    assert other.operator.device(device.name)["config_writes_in_flight"] == 0
    assert at_other.patch("/device", announcement).status == 200


def test_the_embedded_store_stays_up_for_what_drains(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    """A config write completes, and its lease is given back, although its store ends with the
    daemon.
    """
    gateway = start_gateway({**NEVER, "store": {"redis": None}})
    gate = backend.gate()
    backend.on("/config", lambda exchange: (gate.wait(), exchange.respond(201)), method="PATCH")
    device = new_device(to=gateway)
    with device.connect() as connection:
        connection.send(request("PATCH", "/config", body=b'{"files":[]}'))
        gate.await_arrival()
        gateway.signal(signal.SIGTERM)
        gateway.log.wait("draining")
        gate.open()
        assert connection.response().status == 201
    assert wait_ended(gateway) == 0
    gateway.start()
    assert gateway.operator.device(device.name)["config_writes_in_flight"] == 0


def test_a_drain_without_store_ends_in_time(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice
) -> None:
    gateway = start_gateway({"drain_timeout": "2s"})
    with new_device(to=gateway).connect() as connection:
        assert connection.request("GET", "/").status == 200
        redis.pause()
        start = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert wait_ended(gateway) == 0
        assert time.monotonic() - start < 10


def test_a_signal_while_starting_ends_the_daemon_in_order(
    start_gateway: StartGateway, folder: Path
) -> None:
    """As soon as it says that it listens, it can be stopped: no signal kills it half-way."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        gateway = start_gateway(wait_ready=False)
        gateway.signal(number)
        if number == signal.SIGHUP:
            gateway.log.wait("reloaded")
            gateway.signal(signal.SIGTERM)
        assert wait_ended(gateway) == 0
        gateway.log.wait("stopped")
