# SPDX-License-Identifier: BSD-2-Clause
"""Rotations that nobody finishes are reported, once, though their devices never come again."""

from __future__ import annotations

from typing import Callable

import pytest

from agent import announce
from conditions import stays_true, wait_until
from conftest import NewDevice, StartGateway
from device import Device
from gateway import Config, Gateway
from pki import Identity
from redis_server import RedisServer
from store_view import StoreView

NextIdentity = Callable[[Device], Identity]

# The shortest period between two looks is a second.
STALLS: Config = {"rotation": {"stalled_after": "1500ms"}}
LATER: Config = {"rotation": {"stalled_after": "30s"}}
TWO_LOOKS = 2.6


def stalled_events(gateway: Gateway, device: Device) -> int:
    return len(gateway.operator.events("DEVICE_ROTATION_STALLED", device.name))


def gauges(gateway: Gateway) -> tuple[float, float]:
    metrics = gateway.operator.metrics()
    return metrics["dgw_rotations_pending"], metrics["dgw_rotations_stalled"]


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_rotation_stalls_once_for_all_gateways(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    partitions: int,
) -> None:
    changes: Config = {**STALLS, "store": {"partitions": partitions}}
    gateways = [start_gateway(changes) for _ in range(3)]
    device = new_device(to=gateways[0])
    identity = next_identity(device)
    assert announce(device, identity).status == 200

    wait_until(lambda: gateways[0].operator.device(device.name)["pending"]["stalled"], "it stalls")
    for gateway in gateways:
        wait_until(lambda: gauges(gateway) == (1, 1), "the gateway knows")
    audited = [line for g in gateways for line in g.log.find("audit", action="rotation-stalled")]
    assert [line["device"] for line in audited] == [device.name]
    assert audited[0]["new_key"] == identity.key_id
    if partitions == 1:
        assert stays_true(lambda: stalled_events(gateways[0], device) == 1, TWO_LOOKS)

    # It is only late: the device may still come.
    assert device.with_identity(identity).get("/").status == 200
    for gateway in gateways:
        wait_until(lambda: gauges(gateway) == (0, 0), "the rotation is over")


def test_what_is_over_or_young_is_not_reported(
    start_gateway: StartGateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    gateway = start_gateway(STALLS)
    finished, cancelled = new_device(to=gateway), new_device(to=gateway)
    identity = next_identity(finished)
    assert announce(finished, identity).status == 200
    assert finished.with_identity(identity).get("/").status == 200
    assert announce(cancelled, next_identity(cancelled)).status == 200
    assert gateway.operator.cancel_rotation(cancelled.name).status == 200
    gateway.reload({**gateway.config, **LATER})
    young = new_device(to=gateway)
    assert announce(young, next_identity(young)).status == 200
    gateway.reload({**gateway.config, **STALLS})

    wait_until(lambda: stalled_events(gateway, young) == 1, "the young one grows old")
    assert stalled_events(gateway, finished) == stalled_events(gateway, cancelled) == 0


def test_a_replaced_rotation_counts_from_its_own_beginning(
    start_gateway: StartGateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    gateway = start_gateway(STALLS)
    device = new_device(to=gateway)
    assert announce(device, next_identity(device)).status == 200
    wait_until(lambda: stalled_events(gateway, device) == 1, "the first stalls")
    assert announce(device, next_identity(device)).status == 200
    assert gateway.operator.device(device.name)["pending"]["stalled"] is False
    wait_until(lambda: stalled_events(gateway, device) == 2, "the second stalls")
    wait_until(lambda: gauges(gateway) == (1, 1), "both are one rotation")


def test_entries_that_no_record_bears_out_are_set_right(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice
) -> None:
    """More of them than one look takes: they must not keep the real ones from being seen."""
    gateway = start_gateway(LATER)
    steady = new_device(to=gateway)
    assert steady.get("/").status == 200
    client = redis.client()
    client.zadd("dgw:{p00}:pending", {f"nobody-{i}": 1 + i for i in range(100)})
    client.zadd("dgw:{p00}:pending", {steady.name: 1, "no device's name": 2})
    before = StoreView(redis).record(steady.name)

    wait_until(lambda: client.zcard("dgw:{p00}:pending") == 1, "only the odd name is left", 40)
    after = StoreView(redis).record(steady.name)
    assert {**after, "version": before["version"]} == before
    assert StoreView(redis).event_types(steady.name) == ["DEVICE_FIRST_SEEN"]


def test_the_watch_outlives_an_outage(
    start_gateway: StartGateway,
    redis: RedisServer,
    new_device: NewDevice,
    next_identity: NextIdentity,
) -> None:
    gateway = start_gateway(STALLS)
    device = new_device(to=gateway)
    assert announce(device, next_identity(device)).status == 200
    redis.kill()
    wait_until(lambda: gateway.operator.get("/readyz").status == 503, "the gateway notices")
    redis.start()
    gateway.log.wait("audit", action="rotation-stalled", device=device.name)
    assert stalled_events(gateway, device) == 1
