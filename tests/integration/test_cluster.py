# SPDX-License-Identifier: BSD-2-Clause
"""The fleet's data on a Redis Cluster: each device's partition on its node, wherever that is."""

from __future__ import annotations

import random
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest

from agent import announce
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Device
from fleet_threads import attempt
from gateway import Config, Gateway, check_config
from pki import Identity
from redis_fleet import FAILOVER, Cluster
from store_view import StoreView
from test_crashes import Denials, Life, assert_lived_well, chosen_seed, run_lives

NextIdentity = Callable[[Device], Identity]

PARTITIONS = 16

QUICK = {
    "command_timeout": "1s",
    "connect_timeout": "500ms",
    "wait_timeout": "400ms",
    "lease": "1s",
}


@pytest.fixture
def cluster(request: pytest.FixtureRequest, folder: Path) -> Iterator[Cluster]:
    servers = Cluster(folder, getattr(request, "param", 0))
    try:
        yield servers.start()
    finally:
        servers.stop()


with_replicas = pytest.mark.parametrize("cluster", [1], indirect=True)


def on(cluster: Cluster, partitions: int = PARTITIONS, **store: Any) -> Config:
    return {"store": {**cluster.store, "partitions": partitions, **QUICK, **store}}


def partition_of(device: str, partitions: int = PARTITIONS) -> int:
    value = 2166136261
    for byte in device.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value % partitions


def view(cluster: Cluster, device: str, partitions: int = PARTITIONS) -> StoreView:
    """Of the device's partition, where it is now."""
    partition = partition_of(device, partitions)
    return StoreView(cluster.owner(cluster.slot(partition)), partition)


def await_ready(gateway: Gateway) -> None:
    wait_until(
        lambda: gateway.operator.get("/readyz").status == 200, "the gateway is ready", FAILOVER
    )


def is_served(device: Device) -> bool:
    return device.get("/hello").status == 200


def device_on(
    cluster: Cluster, node: int, to: Gateway, new_device: NewDevice, not_in: Optional[int] = None
) -> Device:
    """One whose partition is on that node."""
    for i in range(10000):
        name = f"device-{node}-{i}"
        partition = partition_of(name)
        if cluster.owner(cluster.slot(partition)) is cluster.servers[node] and partition != not_in:
            return new_device(name, to=to)
    raise AssertionError("no name fits")


def test_devices_live_on_all_nodes(
    cluster: Cluster,
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
) -> None:
    """A whole rotation and a cut, for a device on each of the nodes, one of which was named."""
    gateway = start_gateway(on(cluster))
    for node in range(3):
        device = device_on(cluster, node, gateway, new_device)
        following = next_identity(device)
        assert is_served(device)
        assert announce(device, following).status == 200
        assert is_served(device.with_identity(following))
        assert device.get("/hello").reason == "key-denied"
        store = view(cluster, device.name)
        assert store.record(device.name)["current"] == following.key_id
        assert store.event_types(device.name) == [
            "DEVICE_FIRST_SEEN",
            "DEVICE_ROTATION_STARTED",
            "DEVICE_PUBKEY_CHANGE",
        ]
        with device.with_identity(following).connect() as connection:
            assert connection.request("GET", "/hello").status == 200
            assert gateway.operator.deny("device", device.name).status == 200
            connection.await_close()
    assert (
        gateway.operator.device(device_on(cluster, 0, gateway, new_device).name)["generation"] == 2
    )


def test_one_partition_is_enough(
    cluster: Cluster, start_gateway: StartGateway, new_device: NewDevice
) -> None:
    gateway = start_gateway(on(cluster, partitions=1))
    device = new_device(to=gateway)
    assert is_served(device)
    assert view(cluster, device.name, 1).record(device.name)["generation"] == "1"


def test_a_cluster_laid_out_otherwise_is_not_touched(
    cluster: Cluster, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(on(cluster))
    gateway.stop()
    gateway.config["store"]["partitions"] = 8
    gateway.write_config()
    result = check_config(gateway.config_file)  # the daemon itself: it ends at once
    assert result.returncode == 1
    assert "laid out for 16" in result.stderr


def test_a_denied_key_is_denied_in_every_partition(
    cluster: Cluster, start_gateway: StartGateway, new_device: NewDevice, pki: Any
) -> None:
    """Whoever has stolen a key may speak under any name: whether or not the denial names a device, no
    name helps, live connections of all names are cut, and one event tells of it.
    """
    gateways = [start_gateway(on(cluster)), start_gateway(on(cluster))]
    named = device_on(cluster, 0, gateways[0], new_device)
    for said in ({}, {"device": named.name}):
        key = pki.device_ca.device().key
        candidates = (f"thief-{len(said)}-{i}" for i in range(1000))
        names = list({partition_of(name): name for name in candidates}.values())
        assert len(names) == PARTITIONS
        thieves = [new_device(name, to=gateways[i % 2], key=key) for i, name in enumerate(names)]
        denied = thieves[0].identity.key_id
        with ExitStack() as stack:
            connections = [stack.enter_context(thief.connect()) for thief in thieves]
            assert all(c.request("GET", "/hello").status == 200 for c in connections)
            assert gateways[0].operator.deny("key", denied, **said).status == 200
            for connection in connections:
                connection.await_close()
        assert {thief.get("/hello").reason for thief in thieves} == {"key-denied"}
        events = [
            event
            for partition in range(PARTITIONS)
            for event in StoreView(cluster.owner(cluster.slot(partition)), partition).events()
            if event.type == "DEVICE_DENIED" and denied in str(event.data)
        ]
        assert len(events) == 1
        assert gateways[1].operator.get(f"/v1/denied/key/{denied}").status == 200
        assert gateways[1].operator.allow("key", denied).status == 200
        assert gateways[1].operator.get(f"/v1/denied/key/{denied}").status == 404
        assert all(is_served(thief) for thief in thieves)


def test_a_denial_that_some_partitions_lack_is_completed_by_its_repetition(
    cluster: Cluster, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(on(cluster))
    key = "ab" * 32
    cluster.servers[0].pause()
    response = gateway.operator.deny("key", key)
    assert response.status == 503
    assert b"again" in response.body
    cluster.servers[0].resume()
    await_ready(gateway)
    assert gateway.operator.deny("key", key).status == 200
    for partition in range(PARTITIONS):
        assert StoreView(cluster.owner(cluster.slot(partition)), partition).denial("key", key)


def test_a_partition_that_moves_is_followed(
    cluster: Cluster, start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """Resharding under way: a request meets a slot that is half here and half there and waits for it
    (TRYAGAIN); afterwards everything goes to the new node (MOVED), the log too.
    """
    gateway = start_gateway(on(cluster))
    device = device_on(cluster, 0, gateway, new_device)
    partition = partition_of(device.name)
    slot, to = cluster.slot(partition), cluster.servers[2]
    assert is_served(device)
    with device.connect() as connection:
        assert connection.request("GET", "/hello").status == 200
        source = cluster.begin_move(slot, to)
        answers = []
        asking = threading.Thread(target=lambda: answers.append(device.get("/hello").status))
        asking.start()
        cluster.move_keys(slot, source, to)
        cluster.end_move(slot, source, to)
        asking.join()
        assert answers == [200]
        gateway.log.wait("Redis is here now", server=f"127.0.0.1:{to.port}", partitions=1)
        await_ready(gateway)
        assert connection.request("GET", "/hello").status == 200
        assert gateway.operator.deny("device", device.name).status == 200
        connection.await_close()
    assert cluster.owner(slot) is to
    assert device.get("/hello").reason == "device-denied"
    assert view(cluster, device.name).event_types(device.name) == [
        "DEVICE_FIRST_SEEN",
        "DEVICE_DENIED",
    ]


def test_single_keys_are_read_where_they_have_gone_already(
    cluster: Cluster, start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """ASK: all keys are at the new node, and the slot is still the old one's."""
    gateway = start_gateway(on(cluster))
    device = device_on(cluster, 1, gateway, new_device)
    partition = partition_of(device.name)
    slot, to = cluster.slot(partition), cluster.servers[0]
    assert is_served(device)
    assert gateway.operator.deny("device", device.name).status == 200
    source = cluster.begin_move(slot, to)
    cluster.move_keys(slot, source, to)
    response = gateway.operator.get(f"/v1/denied/device/{device.name}")
    assert (response.status, response.json()["reason"]) == (200, "stolen")
    response = gateway.operator.get(f"/v1/events?partition={partition}")
    assert [e["type"] for e in response.json()] == ["DEVICE_FIRST_SEEN", "DEVICE_DENIED"]
    assert device.get("/hello").status == 503
    cluster.end_move(slot, source, to)
    await_ready(gateway)
    wait_until(lambda: device.get("/hello").reason == "device-denied", "the move is followed")


def test_devices_of_other_nodes_do_not_notice_a_lost_one(
    cluster: Cluster, start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """A node is away: its devices get 503, the others go on, new and live connections alike."""
    gateway = start_gateway(on(cluster, on_outage="refuse"))
    lost = device_on(cluster, 0, gateway, new_device)
    others = [device_on(cluster, node, gateway, new_device) for node in (1, 2)]
    assert is_served(lost) and all(map(is_served, others))
    with cluster.servers[1].client() as one, cluster.servers[2].client() as two:
        for client in (one, two):
            client.config_set("cluster-require-full-coverage", "no")
    with others[0].connect() as connection:
        assert connection.request("GET", "/hello").status == 200
        cluster.servers[0].kill()
        wait_until(lambda: lost.get("/hello").status == 503, "the outage is noticed")
        wait_until(lambda: gateway.operator.get("/readyz").status == 503, "it is told")
        assert connection.request("GET", "/hello").status == 200
        assert all(map(is_served, others))
        cluster.servers[0].start()
        await_ready(gateway)
        assert is_served(lost)


def test_rotations_stall_while_a_node_is_away(
    cluster: Cluster,
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
) -> None:
    """The watch used to stop at the first partition that could not be asked."""
    gateway = start_gateway({**on(cluster), "rotation": {"stalled_after": "3s"}})
    devices = [device_on(cluster, node, gateway, new_device) for node in (1, 2)]
    for node in (1, 2):
        with cluster.servers[node].client() as client:
            client.config_set("cluster-require-full-coverage", "no")
    cluster.servers[0].kill()
    for device in devices:
        wait_until(lambda: announce(device, next_identity(device)).status == 200, "announced")
    for device in devices:
        wait_until(
            lambda: gateway.operator.device(device.name)["pending"]["stalled"], "it stalls", 20.0
        )


@with_replicas
def test_what_was_acknowledged_survives_lost_nodes(
    cluster: Cluster,
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
) -> None:
    """Invariants 2, 4, 5, 7, 8 on a Cluster with replicas, whose masters are killed in turn while slots
    move.
    """
    dice = random.Random(chosen_seed())
    changes = on(cluster, wait_replicas=1)
    gateways = [start_gateway(changes), start_gateway(changes)]
    lives = [
        Life(new_device(to=gateways[0]), gateways, next_identity, random.Random(dice.random()))
        for _ in range(4)
    ]
    for life in lives:
        wait_until(lambda: is_served(life.device), "the device is registered")
    denials = Denials(gateways, dice)
    fail_overs = moves = 0

    def fail_over() -> None:
        nonlocal fail_overs
        slot = cluster.slot(partition_of(dice.choice(lives).device.name))
        dead = cluster.owner(slot)
        dead.kill()
        wait_until(lambda: cluster.owner(slot) is not dead, "a replica takes its place", FAILOVER)
        dead.start()
        cluster.await_whole()
        fail_overs += 1

    def move() -> None:
        nonlocal moves
        slot = cluster.slot(partition_of(dice.choice(lives).device.name))
        source = cluster.owner(slot)
        to = dice.choice(
            [s for s in {cluster.owner(i * 5461 + 1) for i in range(3)} if s is not source]
        )
        cluster.begin_move(slot, to)
        cluster.move_keys(slot, source, to)
        cluster.end_move(slot, source, to)
        cluster.await_whole()
        moves += 1

    def trouble() -> None:
        time.sleep(dice.uniform(0.2, 0.6))
        dice.choice([fail_over, move])()

    run_lives(lives, denials, trouble, seconds=25)
    while fail_overs == 0:
        fail_over()
    for gateway in gateways:
        await_ready(gateway)
    for life in lives:
        assert_lived_well(life, view(cluster, life.device.name))
    assert sum(life.rotations for life in lives) >= 3
    lacking = [
        (key, partition)
        for partition in range(PARTITIONS)
        for store in [StoreView(cluster.owner(cluster.slot(partition)), partition)]
        for key in denials.acknowledged
        if not store.denial("key", key)
    ]
    assert lacking == []
    print(
        f"{fail_overs} fail-overs, {moves} moves, {sum(life.rotations for life in lives)} rotations, "
        f"{len(denials.acknowledged)} denials"
    )
