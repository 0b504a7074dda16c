# SPDX-License-Identifier: BSD-2-Clause
"""What happens when the machine has no more to give: descriptors, disk. The daemon says so, goes on
with what it has, and recovers by itself.
"""

from __future__ import annotations

import resource
import stat
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Iterator

import pytest
import redis as redis_client

from agent import StockAgent
from backend import Backend
from conditions import stays_true, wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device
from fleet_threads import attempt
from gateway import Gateway
from pki import Pki
from redis_server import RedisServer
from test_slow_clients import cpu_seconds


def pid(gateway: Gateway) -> int:
    assert gateway.process is not None
    return gateway.process.pid


def take_descriptors(gateway: Gateway) -> None:
    """No new ones, until release_descriptors(): the limit is on their numbers."""
    hard = resource.prlimit(pid(gateway), resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid(gateway), resource.RLIMIT_NOFILE, (3, hard))


def release_descriptors(gateway: Gateway) -> None:
    hard = resource.prlimit(pid(gateway), resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid(gateway), resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as exits:
        yield exits


def knock(stack: ExitStack, device: Device, number: int) -> list[Connection]:
    """Connections as far as the kernel makes them."""
    context = device.context()
    return [
        stack.enter_context(Connection(device.address, context, deadline=60)) for _ in range(number)
    ]


def test_without_descriptors_live_connections_go_on(
    start_gateway: StartGateway, new_device: NewDevice, stack: ExitStack
) -> None:
    """Who comes waits, without costing work, and is served as soon as others have left."""
    gateway = start_gateway({"workers": 1})
    device = new_device(to=gateway)
    live = stack.enter_context(device.connect())
    assert live.request("GET", "/").status == 200  # its backend connection is kept
    take_descriptors(gateway)
    coming = knock(stack, device, 20)
    gateway.log.wait("cannot accept connections", error="Too many open files")
    used, begun = cpu_seconds(gateway), time.monotonic()
    for _ in range(10):
        assert live.request("GET", "/").status == 200
        assert stays_true(live.is_open, 0.1)
    assert cpu_seconds(gateway) - used < (time.monotonic() - begun) / 2
    assert len(gateway.log.find("cannot accept connections")) < 5

    release_descriptors(gateway)
    for connection in coming:
        assert connection.handshake().request("GET", "/").status == 200
    assert gateway.operator.metrics()["dgw_accepts_failed_total"] > 0


def test_a_backend_connection_without_descriptor_is_503(
    start_gateway: StartGateway, new_device: NewDevice, backend: Backend, stack: ExitStack
) -> None:
    """Not 502: the backend is well, and nobody blames its server; who tries again gets through."""
    gateway = start_gateway(
        {
            "workers": 1,
            "backends": [
                {"name": "api", "servers": [backend.address], "keepalive_connections": 0}
            ],
        }
    )
    device = new_device(to=gateway)
    live = stack.enter_context(device.connect())
    assert live.request("GET", "/").status == 200
    take_descriptors(gateway)
    for _ in range(5):
        answer = live.request("GET", "/")
        assert (answer.status, answer.reason) == (503, "out-of-resources")
        assert int(answer.header("Retry-After") or 0) >= 5
    release_descriptors(gateway)
    assert live.request("GET", "/").status == 200
    failed = gateway.log.wait("backend failed", reason="out-of-resources")
    assert "Too many open files" in failed["detail"]


def test_the_link_to_redis_comes_back_with_the_descriptors(
    start_gateway: StartGateway, new_device: NewDevice, redis: RedisServer, stack: ExitStack
) -> None:
    gateway = start_gateway(
        {
            "workers": 1,
            "store": {"command_timeout": "500ms", "connect_timeout": "500ms", "lease": "1s"},
        }
    )
    device = new_device(to=gateway)
    live = stack.enter_context(device.connect())
    assert live.request("GET", "/").status == 200
    take_descriptors(gateway)
    redis.client().execute_command("CLIENT", "KILL", "TYPE", "normal")

    def is_refused() -> bool:
        answer = attempt(lambda: live.request("GET", "/"))
        return answer is not None and answer.reason == "store-unavailable"

    wait_until(is_refused, "the store cannot be asked")
    release_descriptors(gateway)
    wait_until(lambda: gateway.operator.get("/readyz").status == 200, "it is ready again")
    assert device.get("/").status == 200


# --- a full disk ---------------------------------------------------------------------------------

# A redis-server whose files cannot grow while the file "full" says how large they may be (in blocks
# of 512 bytes). Like a full disk, an error of write(2); unlike it, no privilege is needed.
SERVER = """#!/bin/sh
trap '' XFSZ
[ -e "{folder}/full" ] && ulimit -f "$(cat "{folder}/full")"
exec redis-server "$@"
"""


class Disk:
    """Of an embedded store."""

    def __init__(self, folder: Path):
        self.marker = folder / "full"
        self.program = folder / "redis-on-a-small-disk"
        self.program.write_text(SERVER.format(folder=folder))
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    def fill(self, gateway: Gateway) -> None:
        state = Path(gateway.config["state_dir"])
        size = max(file.stat().st_size for file in state.rglob("*.incr.aof"))
        self.marker.write_text(str(size // 512))
        with redis_client.Redis(unix_socket_path=str(state / "redis.sock")) as client:
            server = int(client.info("server")["process_id"])
        resource.prlimit(server, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def empty(self) -> None:
        self.marker.unlink()


def test_a_full_disk_is_an_outage_and_no_more(
    start_gateway: StartGateway, folder: Path, new_device: NewDevice, pki: Pki
) -> None:
    """Nothing that was acknowledged is lost, nothing new is acknowledged, and when there is room
    again the store is back without anybody's help.
    """
    disk = Disk(folder)
    gateway = start_gateway(
        {
            "store": {
                "redis": None,
                "redis_server": str(disk.program),
                "command_timeout": "500ms",
                "connect_timeout": "500ms",
            }
        }
    )
    known, stranger = new_device(to=gateway), new_device(to=gateway)
    following = pki.device_ca.device(known.name)
    assert known.get("/").status == 200
    assert StockAgent(known).announce(following.public_pem).status == 200
    disk.fill(gateway)
    for _ in range(5):
        answer = stranger.get("/")
        assert (answer.status, answer.reason) == (503, "store-unavailable")
        promotion = known.with_identity(following).get("/")
        assert (promotion.status, promotion.reason) == (503, "store-unavailable")
    assert gateway.is_running()

    disk.empty()

    def works(device: Device) -> bool:
        answer = attempt(lambda: device.get("/"))
        return answer is not None and answer.status == 200

    # The server that is still bound to the full disk ends with the next write that it cannot do.
    wait_until(lambda: works(stranger), "the store is back", 40)
    wait_until(lambda: works(known.with_identity(following)), "a promotion is possible")
    wait_until(lambda: gateway.operator.get("/readyz").status == 200, "each worker is back")
    assert gateway.operator.device(known.name)["generation"] == 2
    changes = gateway.operator.events("DEVICE_PUBKEY_CHANGE", known.name)
    assert len(changes) == 1
