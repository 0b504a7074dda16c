# SPDX-License-Identifier: BSD-2-Clause
"""The Redis user of conf/redis.conf has the rights that the gateway needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable

import pytest

from agent import StockAgent, announce
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Device
from pki import Identity
from redis_fleet import Cluster, Replicated
from redis_server import RedisServer

_CONF = Path(__file__).parents[2] / "conf" / "redis.conf"


def rights() -> list[str]:
    line = re.search(r"^#user gateway on #<hash> (.*)$", _CONF.read_text(), re.M)
    assert line is not None
    return ["reset", "on", ">of-the-user", *line[1].split()]


@pytest.mark.parametrize("kind", ["single", "sentinel", "cluster"])
def test_the_shipped_user_may_do_all_that_the_gateway_does(
    kind: str,
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: Callable[[Device], Identity],
    redis: RedisServer,
    folder: Path,
) -> None:
    store = {"username": "gateway", "password_file": "user.password", "wait_replicas": 0}
    (folder / "user.password").write_text("of-the-user\n")
    fleet = {
        "single": lambda: None,
        "sentinel": lambda: Replicated(folder / "f", replicas=1).start(),
        "cluster": lambda: Cluster(folder / "f").start(),
    }[kind]()
    try:
        if fleet is not None:
            store |= fleet.store
        if kind == "cluster":
            store["partitions"] = 4
        for server in [redis] if fleet is None else fleet.servers:
            with server.client() as client:
                client.execute_command("ACL", "SETUSER", "gateway", *rights())
        gateway = start_gateway({"store": store})
        device = new_device(to=gateway)
        following = next_identity(device)
        assert device.get("/hello").status == 200
        assert StockAgent(device).patch_config("").status == 200
        assert announce(device, following).status == 200
        assert device.with_identity(following).get("/hello").status == 200
        assert device.get("/hello").reason == "key-denied"
        assert gateway.operator.get("/v1/enforcement/preview").status == 200
        assert new_device(device.name, to=gateway).get("/hello").reason == "key-not-announced"
        assert gateway.operator.device(device.name)["generation"] == 2
        assert gateway.operator.deny("key", following.key_id).status == 200
        assert gateway.operator.allow("key", following.key_id).status == 200
        assert gateway.operator.get("/v1/events?partition=0").status == 200
        # Seen times are written by the way.
        wait_until(
            lambda: gateway.operator.device(device.name)["last_seen"] is not None, "it was seen"
        )
        assert "NOPERM" not in gateway.log.path.read_text()
        gateway.stop()
    finally:
        if fleet is not None:
            fleet.stop()
