# SPDX-License-Identifier: BSD-2-Clause
"""Several servers behind one backend: who is asked, who is left alone, and what clients are told."""

from __future__ import annotations

import socket
from typing import Any, Iterator

import pytest

from backend import Backend, Exchange
from conditions import wait_until
from conftest import NewDevice, StartGateway
from gateway import Gateway


@pytest.fixture
def second() -> Iterator[Backend]:
    server = Backend().start()
    yield server
    server.stop()
    assert server.errors == []


def api(*servers: Backend | str, **settings: Any) -> dict[str, Any]:
    addresses = [s if isinstance(s, str) else s.address for s in servers]
    return {"backends": [{"name": "api", "servers": addresses, **settings}], "workers": 1}


def fitness(gateway: Gateway, server: Backend) -> float:
    return gateway.operator.metrics()[
        f'dgw_backend_server_fit{{backend="api",server="{server.address}"}}'
    ]


# --- the choice ----------------------------------------------------------------------------------


def test_the_server_with_fewer_exchanges_is_asked(
    start_gateway: StartGateway, backend: Backend, second: Backend, new_device: NewDevice
) -> None:
    gateway = start_gateway(api(backend, second))
    gate = backend.gate()
    for server in (backend, second):
        server.on("/slow", lambda exchange: (gate.wait(), exchange.respond()))
    device = new_device(to=gateway)
    with device.connect() as slow, device.connect() as quick:
        slow.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        gate.await_arrival()
        for _ in range(10):
            assert quick.request("GET", "/quick").status == 200
        gate.open()
        assert slow.response("GET").status == 200
    counts = sorted(len(server.of("/quick")) for server in (backend, second))
    assert counts == [0, 10]


# --- passive health ------------------------------------------------------------------------------


def test_a_dead_server_costs_no_request_and_is_left_alone(
    start_gateway: StartGateway, backend: Backend, second: Backend, new_device: NewDevice
) -> None:
    gateway = start_gateway(api(backend, second, ejection={"failures": 2, "base": "1h", "max": "1h"}))
    second.stop()
    with new_device(to=gateway).connect() as connection:
        for _ in range(12):
            assert connection.request("GET", "/").status == 200
    entry = gateway.log.wait("a server of the backend is left alone for a while")
    assert (entry["backend"], entry["server"], entry["failures"]) == ("api", second.address, 2)
    assert fitness(gateway, second) == 0
    assert fitness(gateway, backend) == 1
    failed = f'dgw_backend_attempts_total{{backend="api",server="{second.address}",result="connect"}}'
    assert gateway.operator.metrics()[failed] == 2
    assert len(gateway.log.find("a server of the backend is left alone for a while")) == 1
    assert gateway.log.find("backend failed") == []


def test_a_server_that_comes_back_is_found_by_a_trial(
    start_gateway: StartGateway, backend: Backend, second: Backend, new_device: NewDevice
) -> None:
    gateway = start_gateway(
        api(backend, second, ejection={"failures": 1, "base": "50ms", "max": "100ms"})
    )
    second.stop()
    with new_device(to=gateway).connect() as connection:
        for _ in range(4):
            assert connection.request("GET", "/").status == 200
        gateway.log.wait("a server of the backend is left alone for a while")
        second.start()
        seen = len(second.requests)

        def asked_again() -> bool:
            assert connection.request("GET", "/").status == 200
            return len(second.requests) > seen

        wait_until(asked_again, "the second server is asked again")
    gateway.log.wait("a server of the backend is fit again", server=second.address)
    assert fitness(gateway, second) == 1


def test_a_reload_does_not_forget_who_is_left_alone(
    start_gateway: StartGateway, backend: Backend, second: Backend, new_device: NewDevice
) -> None:
    gateway = start_gateway(api(backend, second, ejection={"failures": 1, "base": "1h", "max": "1h"}))
    second.stop()
    device = new_device(to=gateway)
    for _ in range(4):
        assert device.get("/").status == 200
    gateway.reload()
    for _ in range(4):
        assert device.get("/").status == 200
    assert len(gateway.log.find("a server of the backend is left alone for a while")) == 1
    assert fitness(gateway, second) == 0


def test_the_only_server_is_asked_however_bad_it_is(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    gateway = start_gateway(api(backend, ejection={"failures": 1, "base": "1h", "max": "1h"}))
    device = new_device(to=gateway)
    backend.on("/bad", lambda exchange: exchange.send(b"nonsense\r\n\r\n"))
    for _ in range(3):
        assert device.get("/bad").status == 502
    assert device.get("/").status == 200
    gateway.log.wait("a server of the backend is fit again")


# --- what clients are told -----------------------------------------------------------------------


def test_a_server_that_takes_no_connection_is_504(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """Its queue is full: connections neither succeed nor fail."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        port = deaf.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        gateway = start_gateway(api(f"127.0.0.1:{port}", connect_timeout="200ms"))
        response = new_device(to=gateway).get("/")
        assert (response.status, response.reason) == (504, "backend-connect-timeout")
        for filler in fillers:
            filler.close()


def test_an_answer_that_breaks_off_in_its_head_is_502(
    backend: Backend, new_device: NewDevice
) -> None:
    def half_a_head(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-")
        exchange.close()

    backend.on("/", half_a_head)
    response = new_device().get("/")
    assert (response.status, response.reason) == (502, "backend-broken")


def test_latencies_of_backends_are_measured(gateway: Gateway, new_device: NewDevice) -> None:
    assert new_device().get("/").status == 200
    metrics = gateway.operator.metrics()
    for what in ("connect", "response"):
        name = f"dgw_backend_{what}_seconds"
        assert metrics[f'{name}_count{{backend="api"}}'] == 1
        assert metrics[f'{name}_bucket{{backend="api",le="+Inf"}}'] == 1
        assert metrics[f'{name}_sum{{backend="api"}}'] > 0
