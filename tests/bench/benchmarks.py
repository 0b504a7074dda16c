# SPDX-License-Identifier: BSD-2-Clause
"""The benchmarks. Each is a function of the world, named as on the command line, whose docstring
says what it measures.
"""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Optional

from conditions import wait_until
from device import Connection
from flood import dripping, half_open, need_descriptors, slowest
from load import Load, Result
from redis_server import RedisServer
from results import Comparison, Measurement
from servers import (
    LOAD_CPU,
    Gateway,
    Nginx,
    Origin,
    Pki,
    Server,
    cpu_seconds,
    device_name,
    reset_peak,
    resident_bytes,
)

RIVALS = ["nginx", "nginx, keepalive"]
DEVICES = 64
MIB = 1024 * 1024
GB = 1_000_000_000


class World:
    """What benchmarks share, and where they leave their results."""

    def __init__(self, folder: Path, build: Path, pairs: int, quick: bool):
        self.folder, self.build, self.pairs, self.quick = folder, build, pairs, quick
        self.pki = Pki(folder)
        self.origin = Origin(folder, build)
        self.comparisons: list[Comparison] = []
        self.measurements: list[Measurement] = []
        self.notes: list[str] = []
        self._folders = 0
        self._started: list[Server] = []
        self._redis: list[RedisServer] = []

    def sized(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def folder_for(self, what: str) -> Path:
        self._folders += 1
        folder = self.folder / f"{self._folders}-{what}"
        folder.mkdir()
        return folder

    def redis(self) -> RedisServer:
        redis = RedisServer(self.folder_for("redis")).start()
        self._redis.append(redis)
        subprocess.run(
            ["taskset", "-acp", str(LOAD_CPU), str(redis.pid)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return redis

    def gateway(self, workers: int = 1, redis: Optional[RedisServer] = None) -> Gateway:
        server = Gateway(
            self.folder_for("gateway"),
            self.build,
            self.pki,
            self.origin,
            redis or self.redis(),
            workers,
        )
        self._started.append(server)
        return server

    def rivals(self) -> list[Server]:
        servers: list[Server] = [
            Nginx(self.folder_for("nginx"), self.pki, self.origin, keepalive)
            for keepalive in (False, True)
        ]
        self._started += servers
        return servers

    def stop_servers(self) -> None:
        """Those that were started since the last time."""
        started, self._started = self._started, []
        redis, self._redis = self._redis, []
        for server in started:
            server.stop()
        for server in redis:
            server.stop()

    def stop(self) -> None:
        self.stop_servers()
        self.origin.stop()

    def load(self, server: Server, mode: str, devices: int = DEVICES, **options: Any) -> Load:
        return Load(
            self.build,
            self.pki.server_ca,
            self.pki.devices(devices),
            mode,
            server.address,
            **options,
        )

    def cost(self, server: Server, mode: str, devices: int = DEVICES, **options: Any) -> float:
        """The server's CPU seconds for the measured part of a load."""
        with self.load(server, mode, devices, **options) as load:
            load.ready()
            before = server.cpu()
            load.go()
            load.result()
            return server.cpu() - before


def _compare(
    world: World, comparison: Comparison, scale: float, mode: str, **options: Any
) -> None:
    """A round a pair: each server once, in turn."""
    gateway = world.gateway()
    servers: list[Server] = [gateway, *world.rivals()]
    redis_cpu = 0.0
    for _ in range(world.pairs):
        for server in servers:
            before = gateway.redis_cpu()
            comparison.add(server.name, world.cost(server, mode, **options) * scale)
            redis_cpu += gateway.redis_cpu() - before if server is gateway else 0
    world.comparisons.append(comparison)
    world.notes.append(
        f"{comparison.name}: the gateway's Redis took {redis_cpu * scale / world.pairs:.1f}"
        f" {comparison.unit} besides."
    )
    world.stop_servers()


def full(world: World) -> None:
    """A new connection for each request: full mutual handshake, one small GET, Connection: close."""
    requests = world.sized(1000, 300)
    comparison = Comparison("full handshake and GET", "µs", 0.45)
    _compare(world, comparison, 1e6 / requests, "full", requests=requests)


def resumed(world: World) -> None:
    """The same with a resumed handshake; each ticket is used once."""
    requests = world.sized(2000, 500)
    comparison = Comparison("resumed handshake and GET", "µs", 0.35)
    _compare(world, comparison, 1e6 / requests, "resumed", requests=requests)


def keepalive(world: World) -> None:
    """Small GETs over 16 connections that stay."""
    requests = world.sized(40_000, 10_000)
    comparison = Comparison("kept-alive GET", "µs", 0.75, digits=1)
    _compare(world, comparison, 1e6 / requests, "keepalive", requests=requests)


def download(world: World) -> None:
    """Answers of 100 MB over 2 connections."""
    size, requests = 100_000_000, world.sized(10, 4)
    comparison = Comparison("download", "CPU s/GB", 0.65, digits=2)
    scale = GB / (size * requests)
    _compare(
        world, comparison, scale, "keepalive", requests=requests, connections=2, download=size
    )


def upload(world: World) -> None:
    """Requests of 100 MB over 2 connections."""
    size, requests = 100_000_000, world.sized(10, 4)
    comparison = Comparison("upload", "CPU s/GB", 0.75, digits=2)
    scale = GB / (size * requests)
    _compare(world, comparison, scale, "keepalive", requests=requests, connections=2, upload=size)


def idle(world: World) -> None:
    """Resident memory of a connection that made one request and stands, among thousands. Each round
    has servers of its own: an old one has memory left over.
    """
    connections = world.sized(4000, 1000)
    comparison = Comparison(f"idle connection, of {connections}", "KiB", 0.8, digits=1)
    for _ in range(min(world.pairs, 3)):
        for server in [world.gateway(), *world.rivals()]:
            world.cost(server, "full", requests=DEVICES)
            before = server.rss()
            with world.load(server, "hold", connections=connections) as load:
                load.ready()
                load.go()
                load.standing()
                comparison.add(server.name, (server.rss() - before) / connections / 1024)
        world.stop_servers()
    world.comparisons.append(comparison)


def streaming(world: World) -> None:
    """Growth of the peak of resident memory while 1 GB goes to a device that reads, and to a backend
    that reads, at 100 MB/s. The other side would be faster.
    """
    size = world.sized(GB, GB // 5)
    rate = 100_000_000
    ways: dict[str, dict[str, Any]] = {
        "to a slow device": {"download": size, "rate": rate},
        "to a slow backend": {"upload": size, "target": f"/slowly/{rate}"},
    }
    for way, options in ways.items():
        measurement = Measurement(f"streaming {size / GB:g} GB {way}: peak growth", "KiB", 1024, 0)
        for _ in range(min(world.pairs, 3)):
            gateway = world.gateway()
            world.cost(gateway, "keepalive", requests=1000)
            pids = gateway.pids()
            with world.load(
                gateway, "keepalive", requests=1, connections=1, timeout=60, **options
            ) as load:
                load.ready()
                before = gateway.rss()
                reset_peak(pids)
                load.go()
                load.result()
                measurement.rounds.append((resident_bytes(pids, "VmHWM") - before) / 1024)
            world.stop_servers()
        world.measurements.append(measurement)


_MANY_RECORDS = """
local template = redis.call('HGETALL', KEYS[1])
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
  local name, record = 'filler-' .. i, {unpack(template)}
  for at = 1, #record, 2 do
    if record[at] == 'name' then record[at + 1] = name end
    if record[at] == 'current' then record[at + 1] = redis.sha1hex(name) .. '000000000000000000000000' end
  end
  redis.call('HSET', ARGV[3] .. name, unpack(record))
end
"""


def _fill(redis: RedisServer, begin: int, end: int) -> None:
    """Records begin to end - 1, as copies of the first device's."""
    client = redis.client()
    base = "dgw:{p00}:device:"
    script = client.register_script(_MANY_RECORDS)
    client.config_set("appendfsync", "no")
    for at in range(begin, end, 5000):
        script(keys=[base + device_name(0)], args=[at, min(at + 5000, end), base])
    client.config_set("appendfsync", "always")
    # The log that grew meanwhile is not rewritten in the middle of a measurement.
    wait_until(
        lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, "no rewrite", 120
    )


def admission(world: World) -> None:
    """CPU of gateway and Redis together for a full handshake with one GET, with 1 million records in
    Redis against 1 thousand.
    """
    requests, many = world.sized(1000, 300), world.sized(1_000_000, 100_000)
    gateways = {}
    for records in (1000, many):
        redis = world.redis()
        redis.client().config_set("auto-aof-rewrite-percentage", 0)
        gateways[records] = world.gateway(redis=redis)
        world.cost(gateways[records], "full", requests=DEVICES)
        _fill(redis, 0, records - DEVICES)
    costs: dict[int, list[float]] = {records: [] for records in gateways}
    for _ in range(world.pairs):
        for records, gateway in gateways.items():
            before = gateway.redis_cpu()
            cpu = world.cost(gateway, "full", requests=requests)
            costs[records].append((cpu + gateway.redis_cpu() - before) * 1e6 / requests)
    world.stop_servers()
    for records, values in costs.items():
        name = f"admission, gateway and Redis, {records} records"
        world.measurements.append(Measurement(name, "µs", None, 0, rounds=values))
    ratios = [b / a for a, b in zip(costs[1000], costs[many])]
    world.measurements.append(
        Measurement(f"admission, {many} records ÷ 1000", "", 1.1, 2, rounds=ratios)
    )


def cut(world: World) -> None:
    """From the operator's request to deny until the last live connection has ended, as the clients
    see it: 1,000 and 10,000 connections of one device, by device and by key; and 10,000 of 100
    devices, which are denied at once in 8 threads.
    """
    _cut_of(world, "the device", 1000, 1, "device", 50)
    _cut_of(world, "the key", 1000, 1, "key", 50)
    if not world.quick:
        _cut_of(world, "the device", 10_000, 1, "device", 200)
        _cut_of(world, "100 devices", 10_000, 100, "device", 200)


def _cut_of(
    world: World, what: str, connections: int, devices: int, kind: str, bar_ms: float
) -> None:
    measurement = Measurement(
        f"denial of {what} → {connections:,} connections cut", "ms", bar_ms, 1
    )
    world.pki.devices(devices)  # before anything is timed
    for _ in range(min(world.pairs, 3)):
        gateway = world.gateway()
        world.cost(gateway, "full", devices, requests=DEVICES)
        with world.load(gateway, "hold", devices, connections=connections) as load:
            load.ready()
            load.go()
            load.standing()
            names = [_denied_name(gateway, i, kind) for i in range(devices)]
            begun = time.monotonic_ns()
            _deny_all(gateway, kind, names)
            result: Result = load.result()
        if result["cut"] != connections:
            raise RuntimeError(f"invalid: {result['cut']} of {connections} were cut")
        measurement.rounds.append((result["last_cut_ns"] - begun) / 1e6)
        world.stop_servers()
    world.measurements.append(measurement)


def _denied_name(gateway: Gateway, i: int, kind: str) -> str:
    name = device_name(i)
    return name if kind == "device" else gateway.operator.device(name)["current"]["key"]


def _deny_all(gateway: Gateway, kind: str, names: list[str]) -> None:
    failures: list[str] = []

    def deny(some: list[str]) -> None:
        for name in some:
            response = gateway.operator.deny(kind, name)
            if response.status not in (200, 201, 204):
                failures.append(f"denying {name}: {response}")

    threads = [threading.Thread(target=deny, args=(names[i::8],)) for i in range(min(8, len(names)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(failures[0])


def _client(world: World, i: int) -> ssl.SSLContext:
    devices = world.pki.devices(i + 1)
    context = ssl.create_default_context(cafile=str(world.pki.server_ca))
    context.load_cert_chain(devices / f"{i}.pem", devices / f"{i}.key")
    return context


def flood(world: World) -> None:
    """A new connection's handshake and GET as its client sees it, the slowest of 50: alone, and while
    2,000 half-open handshakes from four addresses and 200 dripping requests hold what they can.
    """
    need_descriptors(5000)
    half, drips = world.sized(2000, 2000), world.sized(200, 200)
    alone = Measurement("handshake and GET, slowest of 50, alone", "ms", None, 1)
    flooded = Measurement(
        f"the same among {half:,} half-open handshakes and {drips} drips", "ms", 100, 1
    )
    contexts = [_client(world, 0), _client(world, 1)]
    for _ in range(min(world.pairs, 3)):
        gateway = world.gateway()
        address = gateway.daemon.address()

        def get() -> None:
            with Connection(address, contexts[0]) as connection:
                connection.handshake().request("GET", "/", [("Connection", "close")])

        get()
        alone.rounds.append(slowest(50, get) * 1000)
        with ExitStack() as stack:
            for i in range(4):
                half_open(stack, address, f"127.0.0.{i + 2}", half // 4)
            dripping(stack, lambda: Connection(address, contexts[1]).handshake(), drips)
            flooded.rounds.append(slowest(50, get) * 1000)
        world.stop_servers()
    world.measurements += [alone, flooded]


def workers(world: World) -> None:
    """What a second worker brings, from CPU accounts: twice the work if a request costs two workers no
    more CPU than one, and they share evenly. The load generator needs a core, so on two cores the
    throughput of two busy workers cannot be seen directly.
    """
    loads: dict[str, dict[str, Any]] = {
        "full": {"requests": world.sized(1000, 300)},
        "keepalive": {"requests": world.sized(40_000, 10_000), "connections": 64},
    }
    for mode, options in loads.items():
        one, two = world.gateway(1), world.gateway(2)
        measurement = Measurement(
            f"two workers ÷ one, {mode}, projected from CPU", "", 1.8, 2, at_least=True
        )
        for _ in range(world.pairs):
            cost_of_one = world.cost(one, mode, **options)
            before = _worker_cpu(two)
            cost_of_two = world.cost(two, mode, **options)
            busy = sorted(b - a for a, b in zip(before, _worker_cpu(two)))[-2:]
            evenness = sum(busy) / (2 * busy[-1])
            # Less CPU comes of the load generator's being in the way; it is no gain of theirs.
            measurement.rounds.append(2 * evenness * min(1.0, cost_of_one / cost_of_two))
        world.measurements.append(measurement)
        world.stop_servers()


def _worker_cpu(gateway: Gateway) -> list[float]:
    """Of each thread, in the order of their ids."""
    tasks = Path(f"/proc/{gateway.process.pid}/task")
    return [cpu_seconds([int(task)]) for task in sorted(t.name for t in tasks.iterdir())]


BENCHMARKS: dict[str, Callable[[World], None]] = {
    benchmark.__name__: benchmark
    for benchmark in (
        full,
        resumed,
        keepalive,
        download,
        upload,
        idle,
        streaming,
        admission,
        cut,
        flood,
        workers,
    )
}
