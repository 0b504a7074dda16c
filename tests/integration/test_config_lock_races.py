# SPDX-License-Identifier: BSD-2-Clause
"""The config lock against time: writes and announcements that meet, leases that end, gateways that
die or stand still with a write in hand.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

from agent import StockAgent
from backend import Backend, Exchange
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Device
from fleet_threads import attempt, persist
from gateway import Gateway
from pki import Identity
from redis_proxy import RedisProxy
from redis_server import RedisServer
from store_view import StoreView
from wire import Response

NextIdentity = Callable[[Device], Identity]

SHORT_LEASE = {"rotation": {"write_lease": "1s"}}


def through(device: Device, gateway: Gateway) -> Device:
    return Device(device.identity, gateway.address(), device.trust)


def announce(device: Device, following: Identity) -> Response:
    """Once, whatever the answer."""
    return StockAgent(device).announce(following.public_pem)


def config_body(named: Optional[Identity], padding: int = 0) -> bytes:
    value: dict[str, Any] = {"reason": "test", "files": [{"name": "a", "value": "x" * padding}]}
    if named is not None:
        value["public-key"] = named.public_pem
    return json.dumps(value).encode()


def write_as_operator(
    operator: Device, device: Device, named: Optional[Identity], padding: int = 0
) -> Response:
    return operator.patch(f"/devices/{device.name}/config", config_body(named, padding))


class Sending:
    """A request whose answer is looked at later."""

    def __init__(self, send: Callable[[], Response]):
        self._answer: Optional[Response] = None
        self._send = send
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._answer = attempt(self._send)

    def answer(self) -> Optional[Response]:
        """None when the connection ended without one."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self._answer


# --- one write, one announcement -----------------------------------------------------------------


def test_an_announcement_waits_for_a_write_in_flight(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: Callable[..., Device],
    backend: Backend,
    redis: RedisServer,
) -> None:
    """Invariant 6: the write is at one gateway, the announcement at another."""
    gateways = [start_gateway(), start_gateway()]
    device = new_device(to=gateways[0])
    following = next_identity(device)
    store = StoreView(redis)
    gate = backend.gate()
    path = f"/devices/{device.name}/config"
    backend.on(path, lambda exchange: (gate.wait(), exchange.respond(200)) and None)
    assert device.get("/hello").status == 200

    writing = Sending(lambda: write_as_operator(operator_api(gateways[0]), device, device.identity))
    gate.await_arrival()
    before = store.record(device.name)
    for _ in range(2):
        busy = announce(through(device, gateways[1]), following)
        assert (busy.status, busy.reason) == (503, "config-writes-busy")
        assert busy.header("Retry-After") == "1"
    after = store.record(device.name)
    assert int(after["version"]) == int(before["version"]) + 1  # that somebody waits, noted once
    assert int(after.pop("wanted_until")) > time.time() * 1000 + 40000
    assert {**after, "version": before["version"]} == before
    assert store.event_types(device.name) == ["DEVICE_FIRST_SEEN"]

    gate.open()
    written = writing.answer()
    assert written is not None and written.status == 200
    assert persist(lambda: announce(through(device, gateways[1]), following)).status == 200
    assert "leases" not in store.record(device.name)
    late = write_as_operator(operator_api(gateways[0]), device, device.identity)
    assert (late.status, late.reason) == (423, "config-locked")
    assert len(backend.of(path)) == 1


def test_writes_that_overlap_do_not_starve_an_announcement(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: Callable[..., Device],
    backend: Backend,
    redis: RedisServer,
) -> None:
    """Each write began before the last one had ended, and an announcement was busy for ever. Now one
    that had to wait keeps further writes out.
    """
    gateways = [start_gateway(), start_gateway()]
    device = new_device(to=gateways[0])
    following = next_identity(device)
    gate = backend.gate()
    path = f"/devices/{device.name}/config"
    backend.on(path, lambda exchange: (gate.wait(), exchange.respond(200)) and None)
    assert device.get("/hello").status == 200

    first = Sending(lambda: write_as_operator(operator_api(gateways[0]), device, None))
    gate.await_arrival()
    second = Sending(lambda: write_as_operator(operator_api(gateways[1]), device, None))
    gate.await_arrival()
    assert announce(device, following).reason == "config-writes-busy"
    for gateway in gateways:
        held = write_as_operator(operator_api(gateway), device, None)
        assert (held.status, held.reason) == (503, "config-writes-held")
        assert held.header("Retry-After") is not None
    own = StockAgent(device).patch_config("")
    assert (own.status, own.reason) == (503, "config-writes-held")

    gate.open()
    for writing in (first, second):
        written = writing.answer()
        assert written is not None and written.status == 200
    assert persist(lambda: announce(device, following)).status == 200
    assert "wanted_until" not in StoreView(redis).record(device.name)
    assert StockAgent(device).patch_config(following.public_pem).status == 200
    cancelled = persist(lambda: gateways[0].operator.cancel_rotation(device.name))
    assert cancelled.status == 200  # once the lease of that write has been given back
    assert write_as_operator(operator_api(gateways[0]), device, None).status == 200


def test_a_write_that_outlives_its_lease_is_cut(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: Callable[..., Device],
    backend: Backend,
) -> None:
    """Invariant 6: whoever waits for the backend is told, the backend's connection ends, and only
    then may an announcement pass.
    """
    gateway = start_gateway(SHORT_LEASE)
    device = new_device(to=gateway)
    following = next_identity(device)
    broken = threading.Event()
    entered = backend.gate()

    def never_answer(exchange: Exchange) -> None:
        exchange.read_body()
        entered.open()
        entered.wait()
        exchange.await_break()
        broken.set()

    backend.on(f"/devices/{device.name}/config", never_answer)
    assert device.get("/hello").status == 200
    writing = Sending(lambda: write_as_operator(operator_api(gateway), device, None))
    entered.await_arrival()
    assert announce(device, following).reason == "config-writes-busy"
    assert persist(lambda: announce(device, following)).status == 200
    announced = time.monotonic()

    cut = writing.answer()
    assert cut is not None
    assert (cut.status, cut.reason) == (504, "config-lease-expired")
    assert broken.wait(5) and time.monotonic() - announced < 5
    gateway.log.wait("request", path=f"/devices/{device.name}/config", status=504)


def test_a_lease_of_a_killed_gateway_ends_by_itself(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: Callable[..., Device],
    backend: Backend,
) -> None:
    """Invariant 4: a gateway dies with a write in hand, and never gives the lease back."""
    dying, other = start_gateway(SHORT_LEASE), start_gateway(SHORT_LEASE)
    device = new_device(to=other)
    following = next_identity(device)
    gate = backend.gate()
    backend.on(f"/devices/{device.name}/config", lambda exchange: gate.wait())
    assert device.get("/hello").status == 200
    writing = Sending(lambda: write_as_operator(operator_api(dying), device, None))
    gate.await_arrival()
    dying.kill()
    assert writing.answer() is None
    assert announce(device, following).reason == "config-writes-busy"
    assert persist(lambda: announce(device, following), deadline=5).status == 200


class FullQueue:
    """A Unix socket that nobody can connect to until somebody accepts."""

    def __init__(self, path: Path):
        self.address = f"unix:{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(0)
        self._first = socket.socket(socket.AF_UNIX)
        self._first.connect(str(path))

    def make_room(self) -> None:
        self._listener.accept()[0].close()

    def next_bytes(self) -> bytes:
        """All that the next connection brings until it ends; nothing when none comes."""
        self._listener.settimeout(1)
        try:
            connection, _ = self._listener.accept()
        except socket.timeout:
            return b""
        with connection:
            connection.settimeout(20)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def close(self) -> None:
        self._first.close()
        self._listener.close()


def test_a_gateway_that_stood_still_does_not_send_an_old_write(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: Callable[..., Device],
    folder: Path,
    redis: RedisServer,
) -> None:
    """Invariant 6: a write waits for its turn at the backend when its gateway is stopped (a stalled
    machine). Its lease ends, and the announcement passes at another gateway. When the first one goes
    on, the backend is free and the lease timer overdue, both at once: nothing may go out.
    """
    queue = FullQueue(folder / "full.sock")
    changes = {**SHORT_LEASE, "backends": [{"name": "api", "servers": [queue.address]}]}
    sleeper, other = start_gateway(changes), start_gateway(SHORT_LEASE)
    device = new_device(to=other)
    following = next_identity(device)
    store = StoreView(redis)
    assert device.get("/hello").status == 200
    writing = Sending(lambda: write_as_operator(operator_api(sleeper), device, device.identity))
    wait_until(lambda: "leases" in store.record(device.name), "the lease is committed")
    sleeper.pause()
    assert announce(device, following).reason == "config-writes-busy"
    assert persist(lambda: announce(device, following)).status == 200
    queue.make_room()
    sleeper.resume()

    answer = writing.answer()
    assert answer is not None
    assert (answer.status, answer.reason) == (504, "config-lease-expired")
    assert queue.next_bytes() == b""
    queue.close()


def test_what_the_kernel_holds_of_a_cut_write_does_not_arrive(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: Callable[..., Device],
    backend: Backend,
) -> None:
    """Invariant 6: the gateway has handed the whole write to the kernel, and the backend reads only
    after the lease. An orderly close would still deliver the rest; a reset does not.
    """
    gateway = start_gateway(SHORT_LEASE)
    device = new_device(to=gateway)
    following = next_identity(device)
    gate = backend.gate()
    ended = threading.Event()

    def read_late(exchange: Exchange) -> None:
        gate.wait()
        try:
            exchange.read_body()
        finally:
            ended.set()

    path = f"/devices/{device.name}/config"
    backend.on(path, read_late)
    assert device.get("/hello").status == 200
    writing = Sending(lambda: write_as_operator(operator_api(gateway), device, None, 900_000))
    gate.await_arrival()
    assert persist(lambda: announce(device, following)).status == 200
    cut = writing.answer()
    assert cut is not None and cut.reason == "config-lease-expired"
    gate.open()
    assert ended.wait(20)
    assert backend.of(path)[0].broken and not backend.of(path)[0].complete


def test_a_lease_that_ended_before_it_was_known_lets_nothing_through(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: Callable[..., Device],
    backend: Backend,
    redis: RedisServer,
    redis_proxy: RedisProxy,
) -> None:
    """Invariant 6: the lease was committed, but the answer of the store came to the gateway only
    when the lease was over and another gateway had let an announcement pass.
    """
    late = start_gateway(
        {**SHORT_LEASE, "store": {"redis": redis_proxy.url, "command_timeout": "10s"}}
    )
    other = start_gateway(SHORT_LEASE)
    device = new_device(to=other)
    following = next_identity(device)
    store = StoreView(redis)
    assert device.get("/hello").status == 200
    assert write_as_operator(operator_api(late), device, None).status == 200
    wait_until(lambda: "leases" not in store.record(device.name), "the first write is over")

    hold = redis_proxy.hold_answer(b"leases")
    writing = Sending(lambda: write_as_operator(operator_api(late), device, device.identity))
    wait_until(lambda: "leases" in store.record(device.name), "the lease is committed")
    assert announce(device, following).reason == "config-writes-busy"
    assert persist(lambda: announce(device, following)).status == 200
    hold.release()

    answer = writing.answer()
    assert answer is not None
    assert (answer.status, answer.reason) == (504, "config-lease-expired")
    assert len(backend.of(f"/devices/{device.name}/config")) == 1


# --- everybody at once ---------------------------------------------------------------------------


@dataclass
class Write:
    """One that reached the backend."""

    named: str  # key id, "" for none
    by_device: bool
    generation: int
    began: float = 0.0  # its body was here
    ended: float = 0.0  # it was about to be answered


@dataclass
class Rotation:
    key: str
    announced: float = 0.0  # the device had the 200
    proving: float = 0.0  # just before the first connection with the new key
    promoted: float = 0.0  # the new key had its first answer


@dataclass
class Fleet:
    """One device, its rotations, and its writers."""

    device: Device
    gateways: list[Gateway]
    operator: Device
    seed: int
    keys: list[Identity] = field(default_factory=list)  # in the order of their announcement
    rotations: list[Rotation] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    answers: list[tuple[int, Optional[str]]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def record(self, exchange: Exchange, pause: float) -> None:
        body = json.loads(exchange.read_body())
        pem = body.get("public-key", "")
        request = exchange.request
        write = Write(
            named=next((k.key_id for k in self.keys if k.public_pem == pem), ""),
            by_device=request.header("X-Operator-Id") is None,
            generation=int(request.header("X-Device-Key-Generation") or 0),
            began=time.monotonic(),
        )
        self.writes.append(write)
        time.sleep(pause)
        write.ended = time.monotonic()
        exchange.respond(200)

    def choose(self, dice: random.Random) -> Optional[Identity]:
        return dice.choice([None, *self.keys[-3:]])

    def write_as_operator(self, number: int) -> None:
        dice = random.Random(f"{self.seed} operator {number}")
        operator = through_operators(self.operator, self.gateways[number % 2])
        while not self.stop.is_set():
            named = self.choose(dice)
            self._note(attempt(lambda: write_as_operator(operator, self.device, named)))
            self.stop.wait(dice.uniform(0, 0.06))

    def write_as_device(self) -> None:
        dice = random.Random(f"{self.seed} device")
        while not self.stop.is_set():
            device = through(self.device, dice.choice(self.gateways))
            body, named = None, self.choose(dice)
            body = config_body(named)
            self._note(attempt(lambda: device.patch("/config", body)))
            self.stop.wait(dice.uniform(0, 0.06))

    def _note(self, response: Optional[Response]) -> None:
        assert response is not None
        self.answers.append((response.status, response.reason))

    def rotate(self, following: Identity, dice: random.Random) -> None:
        rotation = Rotation(following.key_id)
        self.keys.append(following)
        device = self.device
        assert (
            persist(lambda: announce(through(device, dice.choice(self.gateways)), following)).status
            == 200
        )
        rotation.announced = time.monotonic()
        own = config_body(following)
        assert (
            persist(
                lambda: through(device, dice.choice(self.gateways)).patch("/config", own)
            ).status
            == 200
        )
        self.stop.wait(dice.uniform(0, 0.2))
        self.device = device.with_identity(following)
        rotation.proving = time.monotonic()
        assert (
            persist(lambda: through(self.device, dice.choice(self.gateways)).get("/hello")).status
            == 200
        )
        rotation.promoted = time.monotonic()
        self.rotations.append(rotation)


def through_operators(operator: Device, gateway: Gateway) -> Device:
    return Device(operator.identity, gateway.address("operators"), operator.trust)


def misplaced(fleet: Fleet) -> list[str]:
    """The writes that no reading of the lock permits."""
    found = []
    first = fleet.keys[0].key_id
    for number, rotation in enumerate(fleet.rotations):
        before = fleet.rotations[number - 1].key if number else first
        for write in fleet.writes:
            pending = rotation.announced < write.ended and write.began < rotation.proving
            if pending and not (write.by_device and write.named == rotation.key):
                found.append(f"while rotation {number} was pending: {write} {rotation}")
            if write.named == before and write.ended > rotation.announced:
                found.append(f"for the key before rotation {number}: {write} {rotation}")
            # the device's write for the next key is as right after the promotion as before it
            outdated = write.generation == number + 1 and write.named != rotation.key
            if outdated and write.began > rotation.promoted:
                found.append(f"with a stale generation after rotation {number}: {write}")
    return found


def test_no_write_lands_between_an_announcements_200_and_the_promotion(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: Callable[..., Device],
    backend: Backend,
    redis: RedisServer,
) -> None:
    """Invariant 6, with operators and the device writing over two gateways all the time: for the
    current key, for none, for the next one, for old ones. Times are taken at the backend and at the
    device, so every write that a correct gateway lets through lies on the right side.
    """
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    gateways = [start_gateway(), start_gateway()]
    device = new_device(to=gateways[0])
    assert device.get("/hello").status == 200
    fleet = Fleet(device, gateways, operator_api(gateways[0]), seed, keys=[device.identity])
    pauses = random.Random(f"{seed} backend")
    for path in ("/config", f"/devices/{device.name}/config"):
        backend.on(path, lambda exchange: fleet.record(exchange, pauses.uniform(0, 0.03)))
    writers = [threading.Thread(target=fleet.write_as_operator, args=(n,)) for n in range(3)]
    writers.append(threading.Thread(target=fleet.write_as_device))
    for writer in writers:
        writer.start()
    try:
        for _ in range(8):
            fleet.rotate(next_identity(device), dice)
            wait_until(lambda: (200, None) in fleet.answers[-20:], "writes pass between rotations")
    finally:
        fleet.stop.set()
        for writer in writers:
            writer.join()

    assert misplaced(fleet) == []
    seen = set(fleet.answers)
    assert {(200, None), (423, "config-locked"), (412, "config-key-stale")} <= seen
    assert seen <= {
        (200, None),
        (423, "config-locked"),
        (412, "config-key-stale"),
        (403, "key-denied"),  # the device's own, that its promotion overtook
        (403, "key-not-current"),
        (503, "store-conflict"),
        (503, "config-writes-held"),
    }
    wait_until(
        lambda: any(g.log.find("request", reason="config-writes-busy") for g in gateways),
        "an announcement that had to wait",
    )
    record = StoreView(redis).record(device.name)
    assert (record["generation"], record["current"]) == ("9", fleet.keys[-1].key_id)
