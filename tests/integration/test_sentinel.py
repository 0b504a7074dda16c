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
from gateway import Config, Gateway, check_config
from pki import Identity
from redis_fleet import FAILOVER, Passwords, Replicated
from redis_server import RedisServer
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
def fleet(request: pytest.FixtureRequest, folder: Path) -> Iterator[Replicated]:
    """With the passwords that the test is parametrized with, if it is."""
    servers = Replicated(folder, passwords=getattr(request, "param", Passwords()))
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


def age(master: RedisServer, device: str) -> None:
    """Its key has been current for an hour."""
    with master.client() as client:
        client.hincrby(f"dgw:{{p00}}:device:{device}", "current_since", -3600000)


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


@pytest.mark.parametrize("fleet", [Passwords("of-servers", "of-sentinels")], indirect=True)
def test_servers_and_sentinels_have_passwords_of_their_own(
    fleet: Replicated, start_gateway: StartGateway, new_device: NewDevice, folder: Path
) -> None:
    (folder / "servers.password").write_text("of-servers\n")
    (folder / "sentinels.password").write_text("of-sentinels\n")
    changes = behind(fleet, password_file="servers.password")
    changes["store"]["sentinel"]["password_file"] = "sentinels.password"
    gateway = start_gateway(changes)
    assert is_served(new_device(to=gateway))
    fleet.fail_over()
    await_ready(gateway)
    assert is_served(new_device(to=gateway))
    gateway.stop()
    (folder / "sentinels.password").write_text("of-servers\n")
    result = check_config(gateway.config_file)  # the daemon itself: it ends at once
    assert result.returncode == 1
    assert "WRONGPASS" in result.stderr


def test_a_promotion_that_no_replica_has_is_not_admitted(
    fleet: Replicated,
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
) -> None:
    """It was answered 503, as it should be; but the device that came again was admitted, although
    still no replica had it. With one, a connection of a key that has long been current needs none.
    """
    gateway = start_gateway(behind(fleet, wait_replicas=1))
    device, steady = new_device(to=gateway), new_device(to=gateway)
    following = next_identity(device)
    assert is_served(device) and is_served(steady)
    assert announce(device, following).status == 200
    store = StoreView(fleet.master())
    age(fleet.master(), steady.name)
    replicas = fleet.replicas()
    for replica in replicas:
        replica.pause()
    new = device.with_identity(following)
    assert new.get("/hello").status == 503
    assert store.record(device.name)["current"] == following.key_id
    assert new.get("/hello").status == 503
    assert is_served(steady)
    for replica in replicas:
        replica.resume()
    wait_until(lambda: is_served(new), "a replica has it")
    assert store.event_types(device.name).count("DEVICE_PUBKEY_CHANGE") == 1


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


@pytest.mark.parametrize(
    "trouble, wait_replicas",
    [
        pytest.param("kill", 1, id="of a master that was killed"),
        pytest.param("hang", 2, id="of a master that hangs and comes back"),
    ],
)
def test_what_was_acknowledged_survives_fail_overs(
    fleet: Replicated,
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    trouble: str,
    wait_replicas: int,
) -> None:
    """Invariants 2, 4, 5, 7, 8: devices rotate without a pause over two gateways, and keys are denied,
    while the master is lost again and again.

    One replica's word is enough where the old master is dead. One that hangs comes back with a
    replica that has not left it yet, and what these two agree on is lost: there it takes both.
    """
    dice = random.Random(chosen_seed())
    changes = behind(fleet, wait_replicas=wait_replicas)
    gateways = [start_gateway(changes), start_gateway(changes)]
    lives = [
        Life(new_device(to=gateways[0]), gateways, next_identity, random.Random(dice.random()))
        for _ in range(4)
    ]
    for life in lives:
        wait_until(lambda: is_served(life.device), "the device is registered")
    denials = Denials(gateways, dice)
    fail_overs = 0

    def kill() -> None:
        """Nothing reached its replicas any more for a while."""
        dead = fleet.master()
        fleet.isolate(dead)
        time.sleep(dice.uniform(0, 0.5))
        fleet.fail_over()
        fleet.revive(dead)

    def hang() -> None:
        """It comes back believing itself the master."""
        master = fleet.master()
        master.pause()
        fleet.await_master_other_than(master)
        master.resume()
        fleet.follow(master)

    def lose_master() -> None:
        nonlocal fail_overs
        time.sleep(dice.uniform(0.3, 1.0))
        (kill if trouble == "kill" else hang)()
        fail_overs += 1

    run_lives(lives, denials, lose_master, seconds=20)
    for gateway in gateways:
        await_ready(gateway)
    store = StoreView(fleet.master())
    for life in lives:
        assert_lived_well(life, store)
    assert fail_overs >= 2
    assert sum(life.rotations for life in lives) >= 3
    assert denials.acknowledged
    assert [key for key in denials.acknowledged if not store.denial("key", key)] == []
    print(
        f"{fail_overs} fail-overs, {sum(life.rotations for life in lives)} rotations, "
        f"{len(denials.acknowledged)} denials"
    )
