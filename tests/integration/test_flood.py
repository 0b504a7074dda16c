# SPDX-License-Identifier: BSD-2-Clause
"""Strangers in thousands who hold what they can, and devices that drip: a good client notices
nothing. The bound here is for a sanitized build on a busy machine; tests/bench has the strict one.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Iterator

import pytest

from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device
from flood import dripping, half_open, need_descriptors, slowest
from gateway import Gateway

HALF_OPEN = 2000
DRIPPING = 200
BOUND = 1.0  # seconds, for a handshake and a request

INFO = {"level": "info"}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    need_descriptors(2 * HALF_OPEN)
    with ExitStack() as exits:
        yield exits


def get(device: Device) -> None:
    assert device.get("/good").status == 200


def metric(gateway: Gateway, name: str) -> float:
    return gateway.operator.metrics().get(name, 0)


def closed(reason: str) -> str:
    return f'dgw_connections_closed_total{{reason="{reason}"}}'


def test_half_open_handshakes_disturb_nobody(
    start_gateway: StartGateway, new_device: NewDevice, stack: ExitStack
) -> None:
    """As the defaults let them in, from four addresses. Each is ended by handshake_timeout."""
    gateway = start_gateway({"log": INFO, "http": {"handshake_timeout": "15s"}})
    device = new_device(to=gateway)
    live = stack.enter_context(device.connect())
    assert live.request("GET", "/").status == 200
    for i in range(4):
        half_open(stack, gateway.address(), f"127.0.0.{i + 2}", HALF_OPEN // 4)
    wait_until(
        lambda: metric(gateway, "dgw_handshakes_in_flight") == HALF_OPEN, "all are in flight"
    )
    assert slowest(10, lambda: get(device)) < BOUND
    assert slowest(10, lambda: live.request("GET", "/")) < BOUND
    wait_until(
        lambda: metric(gateway, closed("handshake-timeout")) == HALF_OPEN, "all were ended", 60
    )
    assert metric(gateway, "dgw_handshakes_in_flight") == 0


def test_one_address_holds_only_its_share(
    start_gateway: StartGateway, new_device: NewDevice, stack: ExitStack
) -> None:
    """And fills no log."""
    gateway = start_gateway({"log": INFO, "http": {"handshake_timeout": "5m"}})
    half_open(stack, gateway.address(), "127.0.0.2", HALF_OPEN)
    turned_away = closed("too-many-handshakes-of-source")
    wait_until(
        lambda: metric(gateway, turned_away) == HALF_OPEN - 1024, "the rest is turned away"
    )
    assert metric(gateway, "dgw_handshakes_in_flight") == 1024
    device = new_device(to=gateway)
    assert slowest(10, lambda: get(device)) < BOUND
    # Two workers, and perhaps a second window.
    assert len(gateway.log.find("connection closed")) <= 4 * 20


def test_dripping_devices_disturb_nobody(
    start_gateway: StartGateway, new_device: NewDevice, stack: ExitStack
) -> None:
    """None of them comes to its end."""
    gateway = start_gateway(
        {
            "log": INFO,
            "limits": {"device_connections": DRIPPING},
            "http": {"head_timeout": "5s", "body_timeout": "5s"},
        }
    )
    bad, good = new_device(to=gateway), new_device(to=gateway)
    context = bad.context()
    dripping(stack, lambda: Connection(bad.address, context).handshake(), DRIPPING)
    assert slowest(10, lambda: get(good)) < BOUND
    for reason in ("request-timeout", "request-too-slow"):
        name = f'dgw_requests_total{{reason="{reason}"}}'
        wait_until(lambda: metric(gateway, name) == DRIPPING // 2, f"all ended: {reason}", 60)
