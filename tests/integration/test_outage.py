# SPDX-License-Identifier: BSD-2-Clause
"""Redis stands still, is gone, or was never there (invariant 9)."""

from __future__ import annotations

import time
from typing import Any, Callable, Iterator

import pytest

from agent import StockAgent, compact
from backend import Backend
from conditions import stays_true, wait_until
from conftest import NewDevice, StartGateway
from device import Device
from fleet_threads import at_once
from gateway import Gateway, merged
from pki import Identity
from redis_server import RedisServer
from store_view import StoreView
from wire import Response, request

NextIdentity = Callable[[Device], Identity]

QUICK: dict[str, Any] = {
    "store": {"command_timeout": "300ms", "connect_timeout": "300ms", "lease": "1s"}
}
REFUSE = merged(QUICK, {"store": {"on_outage": "refuse"}})
SERVE = merged(QUICK, {"store": {"on_outage": "serve_admitted", "serve_admitted_max": "3s"}})


class Outage:
    """Redis does not answer: its process is stopped, or there is none."""

    def __init__(self, redis: RedisServer, kind: str):
        self._redis = redis
        self._stalls = kind == "stalled"

    def begin(self) -> None:
        self._redis.pause() if self._stalls else self._redis.kill()

    def end(self) -> None:
        self._redis.resume() if self._stalls else self._redis.start()


@pytest.fixture(params=["stalled", "gone"])
def outage(request: pytest.FixtureRequest, redis: RedisServer) -> Iterator[Outage]:
    yield Outage(redis, request.param)
    redis.resume()


def await_readiness(gateway: Gateway, status: int) -> None:
    wait_until(lambda: gateway.operator.get("/readyz").status == status, f"/readyz gives {status}")


def assert_unavailable(response: Response) -> None:
    assert (response.status, response.reason) == (503, "store-unavailable")
    assert 5 <= int(response.header("Retry-After") or 0) <= 10


def patch_device(following: Identity) -> bytes:
    return request("PATCH", "/device", body=compact({"next_pubkey": following.public_pem}))


@pytest.mark.parametrize("policy", [REFUSE, SERVE], ids=["refuse", "serve_admitted"])
def test_nothing_is_decided_during_an_outage(
    outage: Outage,
    policy: dict[str, Any],
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: Callable[..., Device],
    backend: Backend,
    redis: RedisServer,
) -> None:
    """Nothing is promoted, announced, registered, denied or unlocked, under either policy, and
    nothing of it has happened secretly when Redis is back.
    """
    gateway = start_gateway(policy)
    device, rotating, unknown = (new_device(to=gateway) for _ in range(3))
    following, wanted = next_identity(rotating), next_identity(device)
    store = StoreView(redis)
    operator = operator_api(gateway)
    for known in (device, rotating):
        assert known.get("/hello").status == 200
    assert StockAgent(rotating).announce(following.public_pem).status == 200
    before = [store.record(d.name) for d in (device, rotating, unknown)]
    heard = len(backend.requests)

    with device.connect() as kept:
        assert kept.request("GET", "/hello").status == 200
        heard += 1
        outage.begin()
        await_readiness(gateway, 503)
        assert gateway.operator.get("/livez").status == 200
        assert_unavailable(kept.send(patch_device(wanted)).response("PATCH"))
    assert_unavailable(unknown.get("/hello"))
    assert_unavailable(device.get("/hello"))
    assert_unavailable(rotating.with_identity(following).get("/hello"))
    write = b'{"reason":"test","files":[]}'
    for each in (device, rotating):
        assert_unavailable(operator.patch(f"/devices/{each.name}/config", write))
    assert_unavailable(gateway.operator.deny("device", device.name))
    assert_unavailable(gateway.operator.cancel_rotation(rotating.name))
    assert len(backend.requests) == heard

    outage.end()
    await_readiness(gateway, 200)
    assert [store.record(d.name) for d in (device, rotating, unknown)] == before
    assert store.denial("device", device.name) == {}
    assert rotating.with_identity(following).get("/hello").status == 200
    assert StockAgent(device).announce(wanted.public_pem).status == 200
    assert store.event_types(rotating.name)[1:] == [
        "DEVICE_ROTATION_STARTED",
        "DEVICE_PUBKEY_CHANGE",
    ]


def test_admitted_connections_are_refused_during_an_outage(
    outage: Outage, start_gateway: StartGateway, new_device: NewDevice, backend: Backend
) -> None:
    """refuse: from the moment on at which the log has not been read for store.lease."""
    gateway = start_gateway(REFUSE)
    device = new_device(to=gateway)
    with device.connect() as connection:
        response = connection.request("GET", "/hello")
        outage.begin()
        began = served = time.monotonic()
        while response.status == 200 and served - began < 1 + 0.5:
            served = time.monotonic()
            response = connection.request("GET", "/during")
        assert_unavailable(response)
        connection.await_close()
    await_readiness(gateway, 503)
    heard = len(backend.of("/during"))
    assert_unavailable(device.get("/during"))
    assert len(backend.of("/during")) == heard
    outage.end()
    await_readiness(gateway, 200)
    assert device.get("/after").status == 200


def test_admitted_connections_are_served_for_a_time(
    outage: Outage, start_gateway: StartGateway, new_device: NewDevice, backend: Backend
) -> None:
    """serve_admitted: until serve_admitted_max, and not any longer. What asks the store to be
    answered fails all the same.
    """
    gateway = start_gateway(SERVE)
    device = new_device(to=gateway)
    with device.connect() as connection:
        assert connection.request("GET", "/hello").status == 200
        began = time.monotonic()
        outage.begin()
        await_readiness(gateway, 503)
        assert connection.request("GET", "/during").status == 200
        assert_unavailable(connection.request("GET", "/device"))
        served = time.monotonic()
        response = connection.request("GET", "/during")
        while response.status == 200 and served - began < 3 + 1:
            served = time.monotonic()
            response = connection.request("GET", "/during")
        refused = time.monotonic()
        assert_unavailable(response)
    # the last reading of the log may have been up to a lease before; a request takes a moment
    assert refused - began >= 3 - 1.1
    seen = backend.of("/during")
    assert {r.header("X-Device-Id") for r in seen} == {device.name}
    outage.end()
    await_readiness(gateway, 200)
    assert device.get("/after").status == 200


def test_a_connection_that_outlives_the_outage_is_decided_anew(
    outage: Outage, start_gateway: StartGateway, new_device: NewDevice, redis: RedisServer
) -> None:
    """A denial that was committed elsewhere reaches a served connection as soon as Redis is back."""
    gateway, other = start_gateway(SERVE), start_gateway(QUICK)
    device, friend = new_device(to=gateway), new_device(to=gateway)
    with device.connect() as connection, friend.connect() as unhurt:
        for each in (connection, unhurt):
            assert each.request("GET", "/hello").status == 200
        gateway.pause()
        assert other.operator.deny("device", device.name).status == 200
        outage.begin()
        gateway.resume()
        await_readiness(gateway, 503)
        outage.end()
        await_readiness(gateway, 200)
        wait_until(lambda: not connection.is_open(), "the denied device's connection is cut")
        assert unhurt.request("GET", "/after").status == 200
    assert device.get("/late").reason == "device-denied"


def test_an_outage_does_not_fill_the_log(
    outage: Outage, start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """Besides its line in the access log, a request in an outage says nothing, and of these lines
    there are only so many; the rest is counted. The outage itself is told a few times only, and its
    end.
    """
    gateway = start_gateway(merged(QUICK, {"log": {"level": "info"}}))
    device = new_device(to=gateway)
    assert device.get("/hello").status == 200
    outage.begin()
    await_readiness(gateway, 503)
    gateway.log.wait("not ready")
    gateway.log.refresh()
    before = len(gateway.log.entries)
    for _ in range(5):
        for response in at_once(lambda _: device.get("/during"), range(20)):
            assert_unavailable(response)
    assert stays_true(lambda: gateway.operator.get("/readyz").status == 503, 1.0)

    def refused() -> int:
        gateway.log.refresh()
        during = gateway.log.entries[before:]
        more = [
            e["more"] for e in during if e["msg"] == "more of the same" and e["line"] == "request"
        ]
        return len([e for e in during if e.get("path") == "/during"]) + sum(more)

    wait_until(lambda: refused() == 100, "each request is told or counted")
    others = [e["msg"] for e in gateway.log.entries[before:] if e["msg"] != "request"]
    assert len(others) <= 12 + 2, others
    outage.end()
    await_readiness(gateway, 200)
    gateway.log.wait("ready", count=2)


def test_a_gateway_starts_before_its_redis(
    start_gateway: StartGateway, new_device: NewDevice, redis: RedisServer, backend: Backend
) -> None:
    redis.kill()
    gateway = start_gateway(QUICK, wait_ready=False)
    device = new_device(to=gateway)
    assert gateway.operator.get("/livez").status == 200
    assert_unavailable(gateway.operator.get("/readyz"))
    assert_unavailable(device.get("/early"))
    redis.start()
    gateway.wait_ready()
    await_readiness(gateway, 200)
    assert device.get("/hello").status == 200
    assert backend.of("/early") == []
