# SPDX-License-Identifier: BSD-2-Clause
"""Redis behind Sentinel: finding the master, following it, and losing nothing that was
acknowledged.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from agent import announce
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Device
from gateway import Config, Gateway
from pki import Identity
from redis_fleet import FAILOVER, Replicated
from store_view import StoreView
from test_crashes import Denials, Life, assert_lived_well, chosen_seed, run_lives

NextIdentity = Callable[[Device], Identity]

QUICK = {
    "command_timeout": "500ms",
    "connect_timeout": "500ms",
    "wait_timeout": "400ms",
    "lease": "1s",
}


@pytest.fixture
def fleet(folder: Path) -> Iterator[Replicated]:
    servers = Replicated(folder)
    try:
        yield servers.start()
    finally:
        servers.stop()


def behind(fleet: Replicated, **store: Any) -> Config:
    return {"store": {**fleet.store, **QUICK, **store}}


def await_ready(gateway: Gateway) -> None:
    wait_until(
        lambda: gateway.operator.get("/readyz").status == 200, "the gateway is ready", FAILOVER
    )


def is_served(device: Device) -> bool:
    return device.get("/hello").status == 200


def test_the_master_is_found_by_any_sentinel_that_knows_it(
    fleet: Replicated, start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """One sentinel is dead, one hangs, one has never heard of the master: the others are asked."""
    fleet.sentinels[0].kill()
    fleet.sentinels[1].pause()
    changes = behind(fleet)
    stranger = f"127.0.0.1:{fleet.servers[0].port}"  # a server, no sentinel
    changes["store"]["sentinel"]["servers"].insert(0, stranger)
    gateway = start_gateway(changes)
    device = new_device(to=gateway)
    assert is_served(device)
    assert StoreView(fleet.servers[0]).record(device.name)["generation"] == "1"


def test_a_gateway_waits_for_a_master_that_is_not_known_yet(
    fleet: Replicated, start_gateway: StartGateway, new_device: NewDevice
) -> None:
    with fleet.sentinels[0].client() as sentinel:
        sentinel.execute_command("SENTINEL", "REMOVE", "fleet")
        changes = behind(fleet)
        changes["store"]["sentinel"]["servers"] = [fleet.sentinels[0].address]
        gateway = start_gateway(changes, wait_ready=False)
        gateway.log.wait("cannot learn where Redis is")
        assert gateway.operator.get("/readyz").status == 503
        assert new_device(to=gateway).get("/hello").status == 503
        sentinel.execute_command(
            "SENTINEL", "MONITOR", "fleet", "127.0.0.1", fleet.servers[0].port, 2
        )
        await_ready(gateway)
    assert is_served(new_device(to=gateway))


def test_a_gateway_follows_a_fail_over(
    fleet: Replicated,
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
) -> None:
    """A live connection survives, is decided anew, and a denial at the new master cuts it."""
    gateway = start_gateway(behind(fleet, wait_replicas=1))
    device = new_device(to=gateway)
    following = next_identity(device)
    assert is_served(device)
    assert announce(device, following).status == 200
    with device.connect() as connection:
        assert connection.request("GET", "/hello").status == 200
        master = fleet.fail_over()
        await_ready(gateway)
        assert connection.request("GET", "/hello").status == 200
        assert StoreView(master).record(device.name)["pending"] == following.key_id
        assert is_served(device.with_identity(following))
        assert (
            gateway.operator.deny("key", device.identity.key_id, device=device.name).status == 200
        )
        connection.await_close()
    assert gateway.log.find(
        "the event log has a gap: every connection is decided again before its next request"
    )
    assert StoreView(master).event_types(device.name)[-2:] == [
        "DEVICE_PUBKEY_CHANGE",
        "DEVICE_DENIED",
    ]


def test_a_demoted_master_is_left_although_nobody_writes(
    fleet: Replicated, start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """SENTINEL FAILOVER leaves the old master running, as a replica."""
    gateway = start_gateway(behind(fleet))
    device = new_device(to=gateway)
    assert is_served(device)
    before = fleet.master()
    with fleet.sentinels[0].client() as sentinel:
        sentinel.execute_command("SENTINEL", "FAILOVER", "fleet")
    master = fleet.await_master_other_than(before)
    where = f"127.0.0.1:{master.port}"
    gateway.log.wait("Redis is here now", server=where, deadline=FAILOVER)
    await_ready(gateway)
    assert is_served(device)
    with before.client() as client:
        users = [c for c in client.client_list() if c["cmd"] in ("evalsha", "eval", "xread", "set")]
    assert users == []


def test_what_was_acknowledged_survives_fail_overs(
    fleet: Replicated,
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
) -> None:
    """Invariants 2, 4, 5, 7, 8: devices rotate without a pause over two gateways, and keys are denied,
    while the master is killed again and again.
    """
    dice = random.Random(chosen_seed())
    changes = behind(fleet, wait_replicas=1)
    gateways = [start_gateway(changes), start_gateway(changes)]
    lives = [
        Life(new_device(to=gateways[0]), gateways, next_identity, random.Random(dice.random()))
        for _ in range(4)
    ]
    for life in lives:
        wait_until(lambda: is_served(life.device), "the device is registered")
    denials = Denials(gateways, dice)
    fail_overs = 0

    def trouble() -> None:
        nonlocal fail_overs
        time.sleep(dice.uniform(0.3, 1.0))
        dead = fleet.master()
        fleet.fail_over()
        fleet.revive(dead)
        fail_overs += 1

    run_lives(lives, denials, trouble, seconds=25)
    for gateway in gateways:
        await_ready(gateway)
    store = StoreView(fleet.master())
    for life in lives:
        assert_lived_well(life, store)
    assert fail_overs >= 2
    assert sum(life.rotations for life in lives) >= 3
    assert [key for key in denials.acknowledged if not store.denial("key", key)] == []
    print(
        f"{fail_overs} fail-overs, {sum(life.rotations for life in lives)} rotations, "
        f"{len(denials.acknowledged)} denials"
    )
