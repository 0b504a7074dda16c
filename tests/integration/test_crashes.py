# SPDX-License-Identifier: BSD-2-Clause
"""kill -9 of gateways and of Redis, in the middle of what matters."""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable

import pytest

from agent import StockAgent, compact
from backend import Backend
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Device
from fleet_threads import attempt, persist
from gateway import Gateway
from pki import Identity
from redis_proxy import RedisProxy
from redis_server import RedisServer
from store_view import StoreView
from wire import Response, request

NextIdentity = Callable[[Device], Identity]

# So that an outage of a moment is noticed in a moment.
QUICK = {"store": {"command_timeout": "500ms", "connect_timeout": "500ms", "lease": "1s"}}

BEFORE_COMMIT, AFTER_COMMIT = "before the commit", "after the commit"
at_both_moments = pytest.mark.parametrize("moment", [BEFORE_COMMIT, AFTER_COMMIT])


def through(device: Device, gateway: Gateway) -> Device:
    return Device(device.identity, gateway.address(), device.trust)


def announce(device: Device, following: Identity) -> Response:
    return StockAgent(device).announce(following.public_pem)


# --- the exact moment ----------------------------------------------------------------------------


class Deadly:
    """A gateway that is killed when a certain commit has reached Redis, or is about to."""

    def __init__(self, gateway: Gateway, proxy: RedisProxy, moment: str):
        self.gateway = gateway
        self._proxy = proxy
        self._moment = moment

    def kill_during(
        self, marker: bytes, act: Callable[[], Any], is_done: Callable[[], bool]
    ) -> None:
        late = self._moment == AFTER_COMMIT
        hold = self._proxy.hold_answer(marker) if late else self._proxy.hold_command(marker)
        acting = threading.Thread(target=lambda: attempt(act), daemon=True)
        acting.start()
        hold.await_command()
        if late:
            wait_until(is_done, f"{marker!r} is committed")
        self.gateway.kill()
        hold.release()
        acting.join(30)
        assert not acting.is_alive()
        assert is_done() == late


@pytest.fixture
def deadly(start_gateway: StartGateway, redis_proxy: RedisProxy, moment: str) -> Deadly:
    return Deadly(start_gateway({"store": {"redis": redis_proxy.url}}), redis_proxy, moment)


@at_both_moments
def test_a_gateway_dies_during_an_announcement(
    deadly: Deadly,
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    redis: RedisServer,
    moment: str,
) -> None:
    """Invariants 4, 5, 7: the same bytes again, at another gateway, get the same 200; the rotation
    goes on to its one promotion; the dead gateway comes back and knows.
    """
    device = new_device(to=deadly.gateway)
    following = next_identity(device)
    store = StoreView(redis)
    assert device.get("/hello").status == 200
    deadly.kill_during(
        b"DEVICE_ROTATION_STARTED",
        lambda: announce(device, following),
        lambda: "pending" in store.record(device.name),
    )

    other = start_gateway()
    assert announce(through(device, other), following).status == 200
    deadly.gateway.start()
    new = through(device.with_identity(following), deadly.gateway)
    assert new.get("/hello").status == 200
    assert through(device, deadly.gateway).get("/hello").reason == "key-denied"
    assert store.event_types(device.name) == [
        "DEVICE_FIRST_SEEN",
        "DEVICE_ROTATION_STARTED",
        "DEVICE_PUBKEY_CHANGE",
    ]


@at_both_moments
def test_a_gateway_dies_during_a_promotion(
    deadly: Deadly,
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    redis: RedisServer,
    moment: str,
) -> None:
    """Invariants 4, 5, 7: the device has its new key alone by now. Its next attempt passes, and
    whoever promoted it, it happened once, with the old key's denial.
    """
    device = new_device(to=deadly.gateway)
    following = next_identity(device)
    new = device.with_identity(following)
    store = StoreView(redis)
    assert device.get("/hello").status == 200
    assert announce(device, following).status == 200
    deadly.kill_during(
        b"DEVICE_PUBKEY_CHANGE",
        lambda: new.get("/hello"),
        lambda: store.record(device.name)["current"] == following.key_id,
    )
    denied = bool(store.denial("key", device.identity.key_id))
    assert denied == (moment == AFTER_COMMIT)

    other = start_gateway()
    assert through(new, other).get("/hello").status == 200
    assert through(device, other).get("/hello").reason == "key-denied"
    deadly.gateway.start()
    assert through(new, deadly.gateway).get("/hello").status == 200
    assert store.record(device.name)["generation"] == "2"
    assert store.event_types(device.name) == [
        "DEVICE_FIRST_SEEN",
        "DEVICE_ROTATION_STARTED",
        "DEVICE_PUBKEY_CHANGE",
    ]


@at_both_moments
def test_a_gateway_dies_during_a_denial(
    deadly: Deadly,
    start_gateway: StartGateway,
    new_device: NewDevice,
    backend: Backend,
    redis: RedisServer,
    moment: str,
) -> None:
    """Invariants 1 and 7: what was committed holds everywhere although nobody was told; what was not
    may be said again.
    """
    other = start_gateway()
    device = new_device(to=other)
    store = StoreView(redis)
    with device.connect() as connection:
        assert connection.request("GET", "/hello").status == 200
        deadly.kill_during(
            b"DEVICE_DENIED",
            lambda: deadly.gateway.operator.deny("device", device.name),
            lambda: bool(store.denial("device", device.name)),
        )
        if moment == BEFORE_COMMIT:
            assert connection.request("GET", "/still").status == 200
            assert other.operator.deny("device", device.name).status == 200
        connection.await_close()
    deadly.gateway.start()
    for gateway in (other, deadly.gateway):
        assert through(device, gateway).get("/late").reason == "device-denied"
    assert backend.of("/late") == []
    assert store.event_types(device.name) == ["DEVICE_FIRST_SEEN", "DEVICE_DENIED"]


def test_an_announcement_held_up_in_a_stopped_gateway_replaces_nothing(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    redis: RedisServer,
) -> None:
    """Invariant 4: the device's process died behind its announcement, which lies in a stopped
    gateway. The restarted device has announced another key elsewhere, has the 200, and destroys its
    old key. When the first announcement comes to be handled, it must not take the place of the
    second: the device would be locked out.
    """
    stopped, other = start_gateway(), start_gateway()
    device = new_device(to=stopped)
    forgotten, following = next_identity(device), next_identity(device)
    with device.connect() as connection:
        assert connection.request("GET", "/hello").status == 200
        stopped.pause()
        body = compact({"next_pubkey": forgotten.public_pem})
        connection.send(request("PATCH", "/device", body=body))
        assert persist(lambda: announce(through(device, other), following)).status == 200
        stopped.resume()
        held_up = attempt(lambda: connection.response("PATCH"))
    assert held_up is not None and held_up.reason == "announcement-outdated"
    store = StoreView(redis)
    assert store.record(device.name)["pending"] == following.key_id
    assert through(device.with_identity(following), other).get("/hello").status == 200
    assert store.event_types(device.name) == [
        "DEVICE_FIRST_SEEN",
        "DEVICE_ROTATION_STARTED",
        "DEVICE_PUBKEY_CHANGE",
    ]


# --- random moments ------------------------------------------------------------------------------


@dataclass
class Life:
    """A device that follows the protocol: it keeps a key until the next one's announcement is
    acknowledged, then has only the next. Sometimes it forgets an attempt and begins another.
    """

    device: Device
    gateways: list[Gateway]
    next_identity: NextIdentity
    dice: random.Random
    keys: list[str] = field(default_factory=list)  # each that became current, in order
    given_up: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rotations: int = 0

    def __post_init__(self) -> None:
        self.keys.append(self.device.identity.key_id)

    def live(self, stop: threading.Event) -> None:
        while not stop.is_set() and not self.problems:
            self._rotate()

    def _rotate(self) -> None:
        while self.dice.random() < 0.25:
            forgotten = self.next_identity(self.device)
            self.given_up.append(forgotten.key_id)
            attempt(lambda: announce(self._somewhere(), forgotten))
        following = self.next_identity(self.device)
        self._expect_200("announce", lambda: announce(self._somewhere(), following))
        self.device = self.device.with_identity(following)
        self._expect_200(
            "prove", lambda: StockAgent(self._somewhere()).post_event("CertRotationCompleted")
        )
        self.keys.append(following.key_id)
        self.rotations += 1

    def _somewhere(self) -> Device:
        return through(self.device, self.dice.choice(self.gateways))

    def _expect_200(self, what: str, send: Callable[[], Response]) -> None:
        response = persist(send, deadline=30)
        if response.status != 200:
            self.problems.append(f"{what}: {response.status} {response.body!r}")


def assert_lived_well(life: Life, store: StoreView) -> None:
    """Invariants 2, 4, 5, 7, 8, as they read in the store afterwards."""
    assert life.problems == []
    record = store.record(life.device.name)
    assert record["current"] == life.keys[-1]
    assert record["generation"] == str(len(life.keys))
    events = store.events(life.device.name)
    changes = [e.data["rotation"] for e in events if e.type == "DEVICE_PUBKEY_CHANGE"]
    assert [(c["old_key"], c["new_key"]) for c in changes] == list(zip(life.keys, life.keys[1:]))
    assert all(store.denial("key", key) for key in life.keys[:-1])
    assert not any(store.denial("key", key) for key in life.given_up)
    assert_in_order([(e.type, e.data) for e in events], life.keys)


def assert_in_order(events: Iterable[tuple[str, Any]], keys: list[str]) -> None:
    """Each rotation begins, may be begun anew, and ends before the next one begins."""
    pending, turn = "", 0
    for kind, data in events:
        if kind == "DEVICE_ROTATION_STARTED":
            assert (pending, data["old_key"]) == ("", keys[turn])
            pending = data["new_key"]
        elif kind == "DEVICE_ROTATION_REPLACED":
            assert data["old_key"] == pending
            pending = data["new_key"]
        elif kind == "DEVICE_PUBKEY_CHANGE":
            turn += 1
            assert data["rotation"]["new_key"] == pending == keys[turn]
            pending = ""
        else:
            assert (kind, turn) == ("DEVICE_FIRST_SEEN", 0)


class Denials:
    """An operator who denies one key after the other, and notes what was acknowledged."""

    def __init__(self, gateways: list[Gateway], dice: random.Random):
        self.acknowledged: list[str] = []
        self._gateways = gateways
        self._dice = dice

    def go_on(self, stop: threading.Event) -> None:
        while not stop.is_set():
            key = f"{self._dice.getrandbits(256):064x}"
            operator = self._dice.choice(self._gateways).operator
            response = attempt(lambda: operator.deny("key", key))
            if response is not None and response.status == 200:
                self.acknowledged.append(key)
            stop.wait(0.02)


def chosen_seed() -> int:
    """Printed, so that a failure can be gone after: DGW_SEED repeats the dice (not the scheduler)."""
    seed = int(os.environ.get("DGW_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"DGW_SEED={seed}")
    return seed


def run_lives(
    lives: list[Life], denials: Denials, trouble: Callable[[], None], seconds: float
) -> None:
    stop = threading.Event()
    threads = [threading.Thread(target=life.live, args=(stop,)) for life in lives]
    threads.append(threading.Thread(target=denials.go_on, args=(stop,)))
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            trouble()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_redis_dies_again_and_again(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    redis: RedisServer,
) -> None:
    """Invariants 4, 5, 7: with appendfsync always, kill -9 of Redis takes back nothing that was
    acknowledged, and the gateway comes back to it by itself.
    """
    dice = random.Random(chosen_seed())
    gateway = start_gateway(QUICK)
    lives = [
        Life(new_device(to=gateway), [gateway], next_identity, random.Random(dice.random()))
        for _ in range(3)
    ]
    for life in lives:
        assert life.device.get("/hello").status == 200
    denials = Denials([gateway], dice)

    def trouble() -> None:
        time.sleep(dice.uniform(0.1, 0.7))
        redis.restart()

    run_lives(lives, denials, trouble, seconds=5)
    wait_until(lambda: gateway.operator.get("/readyz").status == 200, "the gateway is ready again")
    store = StoreView(redis)
    for life in lives:
        assert_lived_well(life, store)
    assert sum(life.rotations for life in lives) >= 3
    assert denials.acknowledged
    assert [key for key in denials.acknowledged if not store.denial("key", key)] == []


def test_everything_dies_at_random(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    redis: RedisServer,
) -> None:
    """Invariants 2, 4, 5, 7, 8: devices rotate without a pause over two gateways, while gateways and
    Redis are killed and stopped at random moments.
    """
    dice = random.Random(chosen_seed())
    gateways = [start_gateway(QUICK), start_gateway(QUICK)]
    lives = [
        Life(new_device(to=gateways[0]), gateways, next_identity, random.Random(dice.random()))
        for _ in range(3)
    ]
    for life in lives:
        assert life.device.get("/hello").status == 200
    denials = Denials(gateways, dice)

    def kill_gateway() -> None:
        victim = dice.choice(gateways)
        victim.kill()
        time.sleep(dice.uniform(0, 0.2))
        victim.start(wait_ready=False)

    def stop_gateway() -> None:
        victim = dice.choice(gateways)
        victim.pause()
        time.sleep(dice.uniform(0, 0.5))
        victim.resume()

    def kill_redis() -> None:
        redis.kill()
        time.sleep(dice.uniform(0, 0.2))
        redis.start()

    def stop_redis() -> None:
        redis.pause()
        time.sleep(dice.uniform(0, 0.7))
        redis.resume()

    def trouble() -> None:
        time.sleep(dice.uniform(0, 0.5))
        dice.choice([kill_gateway, stop_gateway, kill_redis, stop_redis])()

    run_lives(lives, denials, trouble, seconds=10)
    store = StoreView(redis)
    for life in lives:
        assert_lived_well(life, store)
    assert sum(life.rotations for life in lives) >= 3
    assert [key for key in denials.acknowledged if not store.denial("key", key)] == []
