# SPDX-License-Identifier: BSD-2-Clause
"""Promotion when many want it at once: gateways, connections, a thief, aborted attempts."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

from agent import StockAgent, announce, compact
from backend import Backend
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Device
from fleet_threads import at_once, persist
from gateway import Gateway
from pki import Identity, Pki
from redis_proxy import RedisProxy
from redis_server import RedisServer
from store_view import Rotated, StoreView
from wire import Response, request

NextIdentity = Callable[[Device], Identity]

CONNECTIONS = 50


def through(device: Device, gateway: Gateway) -> Device:
    """The same device at another gateway."""
    return Device(device.identity, gateway.address(), device.trust)


def audited_promotions(*gateways: Gateway) -> int:
    return sum(len(gateway.log.find("audit", action="promoted")) for gateway in gateways)


class Watcher:
    """Looks at the store without a pause, and keeps every combination that it has seen."""

    def __init__(self, look: Callable[[], Rotated]):
        self.seen: set[Rotated] = set()
        self._look = look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.seen.add(self._look())

    def __enter__(self) -> "Watcher":
        self.seen.add(self._look())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.seen.add(self._look())


def test_fifty_connections_over_two_gateways_promote_once(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    backend: Backend,
    redis: RedisServer,
) -> None:
    """Invariant 5: current key, denial of the old one and event change in one step, once; whoever
    lost the race finds it done and is admitted.
    """
    patient = {"store": {"command_timeout": "20s", "lease": "20s"}}
    gateways = [start_gateway(patient), start_gateway(patient)]
    old = new_device(to=gateways[0])
    following = next_identity(old)
    new = old.with_identity(following)
    store = StoreView(redis)
    assert old.get("/hello").status == 200
    assert announce(old, following).status == 200

    def arrive(number: int) -> Response:
        return persist(lambda: through(new, gateways[number % 2]).get(f"/race/{number}"))

    def shaken_hands() -> float:
        return sum(g.operator.metrics()['dgw_handshakes_total{result="full"}'] for g in gateways)

    before_race = shaken_hands()
    with Watcher(lambda: store.rotated(old.name, old.identity.key_id)) as watcher:
        # all of them find the rotation pending, and all of them try
        redis.pause()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            racing = [pool.submit(arrive, number) for number in range(CONNECTIONS)]
            wait_until(
                lambda: shaken_hands() - before_race >= CONNECTIONS, "all wait for the store"
            )
            redis.resume()
        answers = [each.result() for each in racing]

    assert [answer.status for answer in answers] == [200] * CONNECTIONS
    before = Rotated(generation=1, old_key_denied=False, changes=0)
    after = Rotated(generation=2, old_key_denied=True, changes=1)
    assert watcher.seen == {before, after}
    record = store.record(old.name)
    assert record["current"] == following.key_id
    assert "pending" not in record
    assert audited_promotions(*gateways) == 1
    arrived = [r for r in backend.requests if r.path.startswith("/race/")]
    assert {r.header("X-Device-Key") for r in arrived} == {following.key_id}
    assert {r.header("X-Device-Key-Generation") for r in arrived} == {"2"}
    for gateway in gateways:
        refused = through(old, gateway).get("/late")
        assert (refused.status, refused.reason) == (403, "key-denied")
    assert backend.of("/late") == []


def test_the_old_key_passes_until_the_promotion_and_never_after_it(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    redis: RedisServer,
) -> None:
    """Invariant 4: at each moment exactly one key passes. Connections that began before the new key
    had its first answer may still have been admitted; none that began afterwards.
    """
    gateways = [start_gateway(), start_gateway()]
    old = new_device(to=gateways[0])
    following = next_identity(old)
    assert old.get("/hello").status == 200
    assert announce(old, following).status == 200
    seen: list[tuple[float, Response]] = []
    refused = [threading.Event(), threading.Event()]

    def poll(number: int) -> None:
        while not refused[number].is_set():
            began = time.monotonic()
            answer = through(old, gateways[number]).get("/old")
            seen.append((began, answer))
            if answer.status != 200:
                refused[number].set()

    pollers = [threading.Thread(target=poll, args=(n,)) for n in range(2)]
    for poller in pollers:
        poller.start()
    wait_until(lambda: len(seen) >= 6, "the old key is in use at both gateways")
    assert (
        persist(lambda: through(old.with_identity(following), gateways[1]).get("/new")).status
        == 200
    )
    promoted = time.monotonic()
    for poller in pollers:
        poller.join()

    assert {answer.status for began, answer in seen if began > promoted} <= {403}
    assert {(a.status, a.reason) for _, a in seen} == {(200, None), (403, "key-denied")}
    assert StoreView(redis).event_types(old.name).count("DEVICE_PUBKEY_CHANGE") == 1


def test_a_thief_never_becomes_current_wherever_it_interleaves(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    backend: Backend,
    redis: RedisServer,
) -> None:
    """Invariants 2 and 3: somebody holds a valid certificate with the device's name and another key
    (a copied CA). It knocks and announces at both gateways all the time, before, between and behind
    the device's own steps.
    """
    gateways = [start_gateway(), start_gateway()]
    device = new_device(to=gateways[0])
    assert device.get("/hello").status == 200
    thief = device.with_identity(next_identity(device))
    loot = next_identity(device)
    stop = threading.Event()
    stolen: list[Response] = []

    def steal(number: int) -> None:
        at_gateway = through(thief, gateways[number % 2])
        while not stop.is_set():
            stolen.append(announce(at_gateway, loot) if number < 2 else at_gateway.get("/stolen"))

    thieves = [threading.Thread(target=steal, args=(n,)) for n in range(4)]
    for each in thieves:
        each.start()
    keys = [device.identity.key_id]
    for turn in range(5):
        following = next_identity(device)
        assert (
            persist(lambda: announce(through(device, gateways[turn % 2]), following)).status == 200
        )
        device = device.with_identity(following)
        there = through(device, gateways[(turn + 1) % 2])
        assert persist(lambda: there.get("/own")).status == 200
        keys.append(following.key_id)
    stop.set()
    for each in thieves:
        each.join()

    assert len(stolen) >= 10
    assert {(answer.status, answer.reason) for answer in stolen} == {(403, "key-not-announced")}
    store = StoreView(redis)
    events = store.events(device.name)
    changes = [e.data["rotation"] for e in events if e.type == "DEVICE_PUBKEY_CHANGE"]
    assert [(c["old_key"], c["new_key"]) for c in changes] == list(zip(keys, keys[1:]))
    assert [c["generation"] for c in changes] == [2, 3, 4, 5, 6]
    assert [e.type for e in events].count("DEVICE_KEY_REFUSED") == 1
    assert {r.header("X-Device-Key") for r in backend.requests} <= set(keys)
    assert backend.of("/stolen") == []


def test_a_lost_answer_is_made_good_by_announcing_again(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    redis: RedisServer,
    redis_proxy: RedisProxy,
) -> None:
    """Invariant 7, INTEROP 2: the announcement is committed, but the device has gone before the 200.
    The same bytes again get 200 at any gateway, and change nothing.
    """
    gateways = [start_gateway({"store": {"redis": redis_proxy.url}}), start_gateway()]
    device = new_device(to=gateways[0])
    following = next_identity(device)
    store = StoreView(redis)
    assert device.get("/hello").status == 200
    hold = redis_proxy.hold_answer(b"DEVICE_ROTATION_STARTED")
    with device.connect() as connection:
        body = compact({"next_pubkey": following.public_pem})
        connection.send(request("PATCH", "/device", body=body))
        wait_until(lambda: "pending" in store.record(device.name), "the announcement is recorded")
    hold.release()  # nobody is there any more to take the answer
    first = store.record(device.name)

    for gateway in gateways * 2:
        answer = announce(through(device, gateway), following)
        assert (answer.status, answer.json()["pending_key"]) == (200, following.key_id)
    assert store.record(device.name) == first
    assert store.event_types(device.name) == ["DEVICE_FIRST_SEEN", "DEVICE_ROTATION_STARTED"]


def test_an_aborted_attempts_certificate_stays_out(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    backend: Backend,
    redis: RedisServer,
) -> None:
    """Invariant 2, INTEROP 2: a restarted rotation announces another key, which takes the first
    one's place. The first one's certificate is valid and was announced once; it stays out all the
    same, and one event an interval says so, however often and wherever it knocks.
    """
    changes = {"rotation": {"refused_event_every": "1h"}}
    gateways = [start_gateway(changes), start_gateway(changes)]
    device = new_device(to=gateways[0])
    never_announced, replaced, last = (next_identity(device) for _ in range(3))
    store = StoreView(redis)
    assert device.get("/hello").status == 200
    assert announce(through(device, gateways[0]), replaced).status == 200
    assert persist(lambda: announce(through(device, gateways[1]), last)).status == 200
    assert store.record(device.name)["pending"] == last.key_id

    def knock(number: int) -> Response:
        identity = (never_announced, replaced)[number // 2 % 2]
        return through(device.with_identity(identity), gateways[number % 2]).get("/aborted")

    answers = at_once(knock, range(16))
    assert {(a.status, a.reason) for a in answers} == {(403, "key-not-announced")}
    assert backend.of("/aborted") == []
    assert store.event_types(device.name) == [
        "DEVICE_FIRST_SEEN",
        "DEVICE_ROTATION_STARTED",
        "DEVICE_ROTATION_REPLACED",
        "DEVICE_KEY_REFUSED",
    ]
    assert through(device.with_identity(last), gateways[0]).get("/hello").status == 200
    assert knock(2).status == 403
    refused = [e for e in store.events(device.name) if e.type == "DEVICE_KEY_REFUSED"]
    assert [e.data["why"] for e in refused] == ["key-not-announced"]
    for gateway in gateways:
        assert gateway.log.find("audit", event="DEVICE_KEY_REFUSED") == []


def test_a_refused_key_is_an_event_again_after_the_interval(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    redis: RedisServer,
) -> None:
    gateway = start_gateway({"rotation": {"refused_event_every": "1s"}})
    device = new_device(to=gateway)
    clone = device.with_identity(next_identity(device))
    store = StoreView(redis)
    assert device.get("/hello").status == 200

    def knock_until_event(count: int) -> None:
        assert clone.get("/hello").reason == "key-not-announced"
        wait_until(
            lambda: clone.get("/hello").status == 403
            and store.event_types(device.name).count("DEVICE_KEY_REFUSED") >= count,
            f"event {count}",
        )

    knock_until_event(1)
    first = store.events(device.name)[-1]
    knock_until_event(2)
    second = store.events(device.name)[-1]
    assert int(second.id.split("-")[0]) - int(first.id.split("-")[0]) >= 1000


def test_the_first_request_with_the_new_key_promotes_whatever_it_is(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    backend: Backend,
    redis: RedisServer,
) -> None:
    """INTEROP 2: after a crash between "finalised" and "completed" it is POST /events."""
    gateway = start_gateway()
    device = new_device(to=gateway)
    following = next_identity(device)
    assert device.get("/hello").status == 200
    assert announce(device, following).status == 200

    answer = StockAgent(device.with_identity(following)).post_event("CertRotationCompleted")
    assert answer.status == 200
    posted = backend.of("/events", "POST")[0]
    assert posted.header("X-Device-Key") == following.key_id
    assert posted.header("X-Device-Key-Generation") == "2"
    assert StoreView(redis).record(device.name)["current"] == following.key_id


def test_a_stranger_with_the_pending_keys_public_half_cannot_promote(
    start_gateway: StartGateway,
    pki: Pki,
    new_device: NewDevice,
    next_identity: NextIdentity,
    redis: RedisServer,
) -> None:
    """Invariant 3: the pending key counts for the device that announced it alone. Another device
    whose certificate holds the same key (it copied the public half into its request, say) is
    registered under its own name, and promotes nobody.
    """
    gateway = start_gateway()
    device = new_device(to=gateway)
    following = next_identity(device)
    assert device.get("/hello").status == 200
    assert announce(device, following).status == 200

    other = Device(
        pki.device_ca.device("other", key=following.key), gateway.address(), pki.server_ca
    )
    assert other.get("/hello").status == 200
    store = StoreView(redis)
    assert store.record(device.name)["current"] == device.identity.key_id
    assert store.record(device.name)["pending"] == following.key_id
    assert store.rotated(device.name, device.identity.key_id) == Rotated(1, False, 0)
