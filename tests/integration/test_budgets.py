# SPDX-License-Identifier: BSD-2-Clause
"""Nobody takes all of it: limits of connections and handshakes, in all, of a source and of a
device. Who is above one is reset before any TLS; who is in already notices nothing.

Sources are addresses of the loopback network: 127.0.0.1, 127.0.0.2…
"""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from typing import Any, Iterator

import pytest

from backend import Backend, Exchange
from conditions import DEADLINE, stays_true, wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device
from gateway import Config, Gateway
from wire import request


def limits(workers: int = 1, **numbers: int) -> Config:
    return {"workers": workers, "limits": numbers}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as exits:
        yield exits


def knock(stack: ExitStack, gateway: Gateway, source: str, data: bytes = b"") -> socket.socket:
    """A TCP connection that begins no handshake, or sends some bytes of one."""
    sock = socket.create_connection(gateway.address(), DEADLINE, (source, 0))
    stack.callback(sock.close)
    sock.sendall(data)
    return sock


def is_turned_away(gateway: Gateway, source: str) -> bool:
    """Whether a connection is ended at once and without a word: by a reset, so that no TIME_WAIT is
    the gateway's. Some clients learn of it before connect() returns.
    """
    with ExitStack() as stack:
        try:
            return knock(stack, gateway, source).recv(1) != b""
        except ConnectionResetError:
            return True


def closes(gateway: Gateway, reason: str) -> float:
    return gateway.operator.metrics().get(f'dgw_connections_closed_total{{reason="{reason}"}}', 0)


def enter(stack: ExitStack, device: Device, **options: Any) -> Connection:
    return stack.enter_context(device.connect(**options))


def test_a_source_has_its_number_of_connections(
    start_gateway: StartGateway, new_device: NewDevice, stack: ExitStack
) -> None:
    """In the whole process, wherever the kernel puts them; others are not concerned; and what ends
    makes room.
    """
    gateway = start_gateway(limits(workers=4, source_connections=5))
    device = new_device(to=gateway)
    inside = [enter(stack, device) for _ in range(5)]
    for _ in range(8):
        assert is_turned_away(gateway, "127.0.0.1")
    reason = "too-many-connections-of-source"
    assert closes(gateway, reason) == 8
    assert gateway.log.wait("connection closed", reason=reason)["peer"] == "127.0.0.1"
    assert enter(stack, device, source="127.0.0.2").request("GET", "/").status == 200
    assert [connection.request("GET", "/").status for connection in inside] == [200] * 5

    inside[0].close()
    metric = 'dgw_connections_open{listener="devices"}'
    wait_until(lambda: gateway.operator.metrics()[metric] < 6, "it has ended")
    assert enter(stack, device).request("GET", "/").status == 200


def test_a_source_has_its_number_of_handshakes(
    start_gateway: StartGateway, new_device: NewDevice, stack: ExitStack
) -> None:
    gateway = start_gateway(limits(workers=2, source_handshakes=3))
    device = new_device(to=gateway)
    before = enter(stack, device, source="127.0.0.3")
    for data in (b"", b"\x16\x03\x01\x02\x00", b"\x16"):
        knock(stack, gateway, "127.0.0.3", data)
    wait_until(
        lambda: gateway.operator.metrics()["dgw_handshakes_in_flight"] == 3, "all are in flight"
    )
    assert is_turned_away(gateway, "127.0.0.3")
    assert closes(gateway, "too-many-handshakes-of-source") == 1
    assert before.request("GET", "/").status == 200
    assert enter(stack, device).request("GET", "/").status == 200


def test_a_handshake_that_stands_still_gives_way(
    start_gateway: StartGateway, new_device: NewDevice, stack: ExitStack
) -> None:
    """Strangers from many addresses hold all handshakes: who comes next is refused, but not for as
    long as handshake_timeout.
    """
    gateway = start_gateway(
        {**limits(handshakes=3), "http": {"handshake_timeout": "5m"}},
    )
    device = new_device(to=gateway)
    before = enter(stack, device)
    for i in (2, 3, 4):
        knock(stack, gateway, f"127.0.0.{i}")
    wait_until(
        lambda: gateway.operator.metrics()["dgw_handshakes_in_flight"] == 3, "all are in flight"
    )

    def gets_in() -> bool:
        try:
            return enter(stack, device).request("GET", "/").status == 200
        except ConnectionError:
            return False

    wait_until(gets_in, "a handshake gives way")
    assert closes(gateway, "handshake-gave-way") == 1
    assert closes(gateway, "too-many-handshakes") > 0
    gateway.log.wait("connection closed", reason="handshake-gave-way", peer="127.0.0.2")
    assert before.request("GET", "/").status == 200
    assert gateway.operator.metrics()["dgw_handshakes_in_flight"] == 2


def test_a_handshake_that_waits_for_us_does_not_give_way(
    start_gateway: StartGateway, new_device: NewDevice, stack: ExitStack
) -> None:
    """The gateway itself was slow (it stood still for a while here): what a client had sent
    meanwhile lies unread, and the client is not to blame.
    """
    gateway = start_gateway(limits(handshakes=1))
    device = new_device(to=gateway)
    first = stack.enter_context(Connection(device.address, device.context()))
    wait_until(
        lambda: gateway.operator.metrics()["dgw_handshakes_in_flight"] == 1, "it is in flight"
    )
    gateway.pause()
    with pytest.raises(ssl.SSLWantReadError):
        first.tls.do_handshake()
    knock(stack, gateway, "127.0.0.2")  # the first thing that it sees
    first._flush()
    assert stays_true(first.is_open, 1.2)
    gateway.resume()
    assert first.handshake().request("GET", "/").status == 200
    assert closes(gateway, "too-many-handshakes") == 1


def test_an_idle_connection_of_a_device_gives_way_to_a_newer_one(
    start_gateway: StartGateway, new_device: NewDevice, stack: ExitStack
) -> None:
    """The idlest one, in order: whatever a device left behind when it restarted must not keep it
    out.
    """
    gateway = start_gateway(limits(device_connections=2))
    device, other = new_device(to=gateway), new_device(to=gateway)
    oldest = enter(stack, device)
    assert oldest.request("GET", "/").status == 200
    second = enter(stack, device)
    assert second.request("GET", "/").status == 200
    assert stays_true(second.is_open, 0.02)  # times are compared by the millisecond
    assert oldest.request("GET", "/").status == 200  # the second is the idlest now
    assert enter(stack, other).request("GET", "/").status == 200
    assert enter(stack, device).request("GET", "/").status == 200
    assert second.receive() == b""  # close_notify
    second.close()
    entry = gateway.log.wait("connection closed", reason="idle-gave-way")
    assert entry["device"] == device.name
    assert oldest.request("GET", "/").status == 200


def test_a_request_of_a_connection_that_gives_way_is_served_to_its_end(
    start_gateway: StartGateway, new_device: NewDevice, backend: Backend, stack: ExitStack
) -> None:
    """It was cut when as long had passed as the head of a request may take."""
    gateway = start_gateway({**limits(device_connections=1), "http": {"head_timeout": "500ms"}})
    device, gate = new_device(to=gateway), backend.gate()

    def late(exchange: Exchange) -> None:
        gate.wait()
        exchange.respond(200, b"late")

    backend.on("/late", late)
    fresh = enter(stack, device)
    metric = 'dgw_admissions_total{reason="registered"}'
    wait_until(lambda: gateway.operator.metrics().get(metric) == 1, "it is admitted")
    newer = enter(stack, device)
    assert newer.request("GET", "/").status == 200
    fresh.send(request("GET", "/late"))
    gate.await_arrival()
    assert stays_true(fresh.is_open, 1.2)
    gate.open()
    assert fresh.response().body == b"late"


def test_a_device_whose_connections_are_all_busy_gets_no_more(
    start_gateway: StartGateway, new_device: NewDevice, backend: Backend, stack: ExitStack
) -> None:
    """503, so that stock agents come again; what is under way goes on."""
    gateway = start_gateway(limits(workers=2, device_connections=3))
    device = new_device(to=gateway)
    gate = backend.gate()

    def late(exchange: Exchange) -> None:
        gate.wait()
        exchange.respond(200, b"late")

    backend.on("/late", late)
    busy = [enter(stack, device) for _ in range(3)]
    for connection in busy:
        connection.send(request("GET", "/late"))
    wait_until(lambda: len(backend.of("/late")) == 3, "all are busy")
    refused = device.get("/")
    assert (refused.status, refused.reason) == (503, "too-many-connections-of-device")
    assert int(refused.header("Retry-After") or 0) >= 1
    assert refused.header("Connection") == "close"
    assert new_device(to=gateway).get("/").status == 200
    gate.open()
    assert [connection.response().body for connection in busy] == [b"late"] * 3
    for connection in busy:
        connection.close()
    wait_until(lambda: device.get("/").status == 200, "it may come again")


def test_a_stolen_key_takes_nothing_from_its_device(
    start_gateway: StartGateway, new_device: NewDevice, pki: Any, stack: ExitStack
) -> None:
    """Whoever is not admitted does not count: a clone could have kept the device out, or closed its
    idle connections.
    """
    gateway = start_gateway(limits(device_connections=1))
    device = new_device(to=gateway)
    own = enter(stack, device)
    assert own.request("GET", "/").status == 200
    clone = device.with_identity(pki.device_ca.device(device.name))
    for _ in range(3):
        assert enter(stack, clone).request("GET", "/").reason == "key-not-announced"
    assert own.request("GET", "/").status == 200
    assert closes(gateway, "idle-gave-way") == 0


def test_limits_change_with_a_reload(
    start_gateway: StartGateway, new_device: NewDevice, stack: ExitStack
) -> None:
    gateway = start_gateway(limits(source_connections=1))
    device = new_device(to=gateway)
    enter(stack, device)
    with pytest.raises(ConnectionError):
        enter(stack, device)
    gateway.config["limits"]["source_connections"] = 2
    gateway.reload(gateway.config)
    assert enter(stack, device).request("GET", "/").status == 200
