# SPDX-License-Identifier: BSD-2-Clause
"""Clients that are slow on purpose, or only clumsy: they cost no work, hold nothing for ever, and
do not shut the operator out.
"""

from __future__ import annotations

import os
import socket
import time

import pytest

from backend import Backend, Exchange
from conditions import DEADLINE, stays_true, wait_until
from conftest import NewDevice, StartGateway
from gateway import Gateway
from wire import request

KIB = 1 << 10


def cpu_seconds(gateway: Gateway) -> float:
    """What the daemon has used so far."""
    assert gateway.process is not None
    with open(f"/proc/{gateway.process.pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_client_that_sends_but_does_not_read_costs_no_work(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    """Between two requests, while an answer waits for the client, nobody reads what the client
    sends. But the socket was watched for it all the same, and announced it in each turn of the
    loop: one such connection kept a core busy.
    """
    gateway = start_gateway({"workers": 1, "http": {"buffer": "64KiB", "write_timeout": "1m"}})
    backend.on("/", lambda exchange: exchange.respond(200, bytes(60 * KIB)))

    def answers_stand_still() -> bool:
        seen = len(backend.requests)
        return seen > 0 and stays_true(lambda: len(backend.requests) == seen, 0.5)

    with new_device(to=gateway).connect(receive_buffer=4 * KIB) as connection:
        connection.send(request("GET", "/") * 300)  # few enough for the gateway's buffer
        wait_until(answers_stand_still, "nothing is answered any more")
        connection.send(request("GET", "/"))
        used, begun = cpu_seconds(gateway), time.monotonic()
        assert stays_true(connection.is_open, 1)
        used, elapsed = cpu_seconds(gateway) - used, time.monotonic() - begun
        assert used < elapsed / 8
        connection.abandon()


def test_what_a_client_sends_does_not_count_as_reading(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    """http.write_timeout is for a client that takes nothing of its answer. Any byte that it sent
    meanwhile moved the deadline, so a dripping client held connection and backend for days.
    """
    gateway = start_gateway({"http": {"write_timeout": "500ms"}})
    backend.on("/", lambda exchange: exchange.respond(200, bytes(20 << 20)))
    with new_device(to=gateway).connect(receive_buffer=4 * KIB) as connection:
        connection.send(request("GET", "/"))

        def drip() -> bool:
            try:
                connection.tls.write(b"G")
                connection.sock.send(connection._outgoing.read())
            except OSError:
                pass
            return bool(gateway.log.find("connection closed", reason="write-timeout"))

        wait_until(drip, "the connection is given up", DEADLINE / 2)
        connection.abandon()


def test_requests_before_a_half_close_are_all_answered(
    backend: Backend, new_device: NewDevice
) -> None:
    """A client that has nothing more to ask may say so at once. The gateway then took the request
    under way for the last one, and dropped those that had arrived behind it.
    """
    gate = backend.gate()

    def late(exchange: Exchange) -> None:
        gate.wait()
        exchange.respond(200, b"late")

    backend.on("/late", late)
    with new_device().connect() as connection:
        connection.send(
            request("GET", "/late")
            + request("POST", "/second", body=b"abc")
            + request("GET", "/third")
        )
        connection.half_close()
        gate.await_arrival()
        gate.open()
        assert connection.response().body == b"late"
        assert connection.response("POST").json()["length"] == 3
        assert connection.response().json()["target"] == "/third"
        assert connection.await_close() < DEADLINE


def test_operators_get_in_when_the_door_is_closed(start_gateway: StartGateway) -> None:
    """Whoever filled max_connections also kept the operator from denying him."""
    gateway = start_gateway({"workers": 1, "max_connections": 10})
    socks = [socket.create_connection(gateway.address()) for _ in range(20)]
    gateway.log.wait("connection closed", reason="too-many-connections")
    assert gateway.operator.get("/livez").status == 200
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8443"])
def test_a_405_on_a_route_with_a_host_says_what_is_allowed(
    start_gateway: StartGateway, new_device: NewDevice, host: str
) -> None:
    """RFC 9110, 15.5.6: a 405 has an Allow field. Routes that name a host were left out of it."""
    gateway = start_gateway(
        {
            "routes": [
                {"path": "/a", "host": "localhost", "methods": ["GET"], "backend": "api"},
                {"path": "/a", "host": "other", "methods": ["POST"], "backend": "api"},
            ]
        }
    )
    with new_device(to=gateway).connect() as connection:
        response = connection.send(request("DELETE", "/a", host=host)).response()
    assert response.status == 405
    assert response.header("Allow") == "GET, HEAD"
