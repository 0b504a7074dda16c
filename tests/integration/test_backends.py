# SPDX-License-Identifier: BSD-2-Clause
"""Several servers behind one backend: who is asked, who is left alone, and what clients are told."""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from typing import Any, Iterator

import pytest

from backend import Backend, Exchange
from conditions import wait_until
from conftest import NewDevice, StartGateway
from gateway import Gateway
from wire import EndOfStream, Reader


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
    gateway = start_gateway(
        api(backend, second, ejection={"failures": 2, "base": "1h", "max": "1h"})
    )
    second.stop()
    with new_device(to=gateway).connect() as connection:
        for _ in range(12):
            assert connection.request("GET", "/").status == 200
    entry = gateway.log.wait("a server of the backend is left alone for a while")
    assert (entry["backend"], entry["server"], entry["failures"]) == ("api", second.address, 2)
    assert fitness(gateway, second) == 0
    assert fitness(gateway, backend) == 1
    failed = (
        f'dgw_backend_attempts_total{{backend="api",server="{second.address}",result="connect"}}'
    )
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
    gateway = start_gateway(
        api(backend, second, ejection={"failures": 1, "base": "1h", "max": "1h"})
    )
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


# --- no request is lost on the end of a kept connection ------------------------------------------


class ImpatientBackend:
    """Closes its kept connections in nasty moments: after a few answers, at once or a moment
    later, while the next request may be under way. Before it closes it looks whether one has come.
    """

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.closed = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = Reader(sock.recv)
        with sock:
            try:
                for _ in range(random.randint(1, 3)):
                    self._serve_one(sock, reader)
                    # Not read: looked at without end, so that closing is never late.
                    idle = time.perf_counter() + random.choice([0, 5e-5, 2e-4, 1e-3])
                    while time.perf_counter() < idle and not _readable(sock):
                        pass
                if _readable(sock):
                    self._serve_one(sock, reader)
            except EndOfStream:
                pass
        self.closed += 1

    def _serve_one(self, sock: socket.socket, reader: Reader) -> None:
        head = reader.head()
        self.bodies.append(b"".join(reader.body(head.headers, until_end=False)))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def _readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def _hurry(gateway: Gateway, new_device: NewDevice, method: str) -> tuple[list[int], float]:
    """A thousand requests from four devices, each one behind the other; their statuses, and how
    many were sent to the backend again.
    """
    statuses: list[int] = []

    def send(number: int) -> None:
        with new_device(to=gateway).connect() as connection:
            for i in range(250):
                body = b"%d-%d " % (number, i) + b"x" * random.choice([0, 100, 20_000])
                statuses.append(connection.request(method, "/", body=body).status)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses, gateway.operator.metrics()['dgw_backend_retries_total{backend="api"}']


def test_no_idempotent_request_is_lost_when_kept_connections_end(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    impatient = ImpatientBackend()
    gateway = start_gateway(api(impatient.address, retries=3))
    statuses, _ = _hurry(gateway, new_device, "PUT")
    impatient.stop()
    assert statuses == [200] * 1000
    assert gateway.log.find("backend failed") == []
    assert impatient.closed > 300
    assert gateway.log.find("a server of the backend is left alone for a while") == []


def test_no_post_is_doubled_and_none_lost_that_the_backend_never_took(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """Between its last look and its close() the backend's kernel may take a request, which then
    nobody reads: the backend loses that one, and says so by a reset. All others are delivered.
    """
    impatient = ImpatientBackend()
    gateway = start_gateway(api(impatient.address))
    statuses, _ = _hurry(gateway, new_device, "POST")
    impatient.stop()
    told = {e["detail"] for e in gateway.log.find("backend failed")}  # some of them
    assert told <= {"waiting for the answer: Connection reset by peer"}
    lost = statuses.count(502)
    assert lost <= 100
    assert statuses.count(200) == 1000 - lost
    names = [body.split(b" ")[0] for body in impatient.bodies]
    assert len(names) == len(set(names)) == 1000 - lost
    assert impatient.closed > 300


def test_who_finds_no_connection_waits_for_one(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    limits = {"max_connections": 1, "keepalive_connections": 1, "max_waiting": 1}
    gateway = start_gateway(api(backend, **limits, wait_timeout="10s"))
    gate = backend.gate()
    backend.on("/slow", lambda exchange: (gate.wait(), exchange.respond()))
    device = new_device(to=gateway)
    get = b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with device.connect() as first, device.connect() as second, device.connect() as third:
        first.send(get % b"slow")
        gate.await_arrival()
        second.send(get % b"second")
        waiting = 'dgw_backend_waiting{backend="api"}'
        wait_until(lambda: gateway.operator.metrics()[waiting] == 1, "the second one waits")
        response = third.send(get % b"third").response("GET")
        assert (response.status, response.reason) == (503, "backend-busy")
        assert 5 <= int(response.header("Retry-After") or 0) <= 10
        gate.open()
        assert first.response("GET").status == 200
        assert second.response("GET").status == 200
    assert [r.path for r in backend.requests] == ["/slow", "/second"]
    assert backend.connections == 1


def test_waiting_for_a_connection_has_an_end(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    limits = {"max_connections": 1, "keepalive_connections": 1, "wait_timeout": "100ms"}
    gateway = start_gateway(api(backend, **limits))
    gate = backend.gate()
    backend.on("/slow", lambda exchange: (gate.wait(), exchange.respond()))
    device = new_device(to=gateway)
    with device.connect() as first, device.connect() as second:
        first.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        gate.await_arrival()
        response = second.request("GET", "/second")
        assert (response.status, response.reason) == (503, "backend-wait-timeout")
        gate.open()
        assert first.response("GET").status == 200


def test_an_idempotent_request_goes_to_another_server(
    start_gateway: StartGateway, backend: Backend, second: Backend, new_device: NewDevice
) -> None:
    gateway = start_gateway(api(backend, second))
    for server in (backend, second):
        server.on("/break", lambda exchange: (exchange.read_body(), exchange.reset()))
    backend.on("/", lambda exchange: (exchange.read_body(), exchange.reset()))
    device = new_device(to=gateway)
    for _ in range(2):
        assert device.request("PUT", "/", body=b"again").status == 200
    assert all(bytes(r.body) == b"again" for r in backend.of("/") + second.of("/"))
    retries = gateway.operator.metrics()['dgw_backend_retries_total{backend="api"}']
    assert retries == len(backend.of("/")) >= 1
    assert device.get("/break").status == 502
    assert len(backend.of("/break")) + len(second.of("/break")) == 2


def test_a_config_write_is_not_sent_twice(
    start_gateway: StartGateway, backend: Backend, second: Backend, new_device: NewDevice
) -> None:
    routes = [
        {"path": "/config", "methods": ["PUT"], "backend": "api", "lock": "config"},
        {"prefix": "/", "backend": "api"},
    ]
    gateway = start_gateway({**api(backend, second), "routes": routes})
    for server in (backend, second):
        server.on("/config", lambda exchange: (exchange.read_body(), exchange.reset()))
    response = new_device(to=gateway).request("PUT", "/config", body=b'{"files": []}')
    assert (response.status, response.reason) == (502, "backend-broken")
    assert len(backend.of("/config")) + len(second.of("/config")) == 1


# --- probes --------------------------------------------------------------------------------------


def test_an_unhealthy_server_gets_no_requests_until_it_is_well(
    start_gateway: StartGateway, backend: Backend, second: Backend, new_device: NewDevice
) -> None:
    health = {"path": "/health", "every": "20ms", "healthy_after": 2, "unhealthy_after": 2}
    second.on("/health", lambda exchange: exchange.respond(503))
    gateway = start_gateway(api(backend, second, health=health))
    entry = gateway.log.wait("a server of the backend is unhealthy")
    assert (entry["server"], entry["detail"]) == (second.address, "it answered with status 503")
    assert fitness(gateway, second) == 0
    device = new_device(to=gateway)
    for _ in range(4):
        assert device.get("/hello").status == 200
    assert len(backend.of("/hello")) == 4

    # What is known outlives a reload.
    gateway.reload()
    assert device.get("/hello").status == 200
    assert second.of("/hello") == []

    second.on("/health", lambda exchange: exchange.respond(204))
    gateway.log.wait("a server of the backend is healthy again", server=second.address)
    wait_until(lambda: fitness(gateway, second) == 1, "the second server is fit")
    for _ in range(4):
        assert device.get("/hello").status == 200
    assert second.of("/hello") != []
    assert len(gateway.log.find("a server of the backend is unhealthy")) == 1
