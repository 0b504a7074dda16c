# SPDX-License-Identifier: BSD-2-Clause
"""The dry run of enforcement: whom a rule would hit, and nothing is changed by asking."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Optional

import pytest

from conftest import NewDevice, StartGateway
from device import Device
from gateway import Config, Gateway
from redis_server import RedisServer
from store_view import StoreView

DAY_MS = 86400000
CALM: Config = {
    "rotation": {
        "key_age": {"action": "warn", "due_after": "10d", "overdue_after": "20d"},
        "expired_grace": "5d",
    },
    "groups": [{"name": "strict", "key_age": {"action": "refuse"}}],
}


def make(
    redis: RedisServer, device: Device, days: float, group: str = "", ends_in: float = 1000
) -> None:
    """A record with that key age in days, and so many days of its certificate left."""
    now = int(time.time() * 1000)
    fields = {
        "current_since": now - int(days * DAY_MS),
        "current_cert_expires": now + int(ends_in * DAY_MS),
        **({"group": group} if group else {}),
    }
    redis.client().hset(f"dgw:{{p00}}:device:{device.name}", mapping=fields)


def clone(redis: RedisServer, device: Device, n: int) -> None:
    """n records like that one."""
    client = redis.client()
    record = client.hgetall(f"dgw:{{p00}}:device:{device.name}")
    pipe = client.pipeline()
    for i in range(n):
        pipe.hset(f"dgw:{{p00}}:device:clone-{i}", mapping={**record, b"name": f"clone-{i}"})
    pipe.execute()


def preview(gateway: Gateway, query: str = "") -> tuple[dict[str, Any], Counter[str]]:
    """All pages: devices by name, counts added up."""
    devices: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    cursor: Optional[str] = ""
    while cursor is not None:
        more = f"&cursor={cursor}" if cursor else ""
        response = gateway.operator.get(f"/v1/enforcement/preview?{query}{more}")
        assert response.status == 200, response
        page = response.json()
        devices.update({hit["device"]: hit for hit in page["devices"]})
        counts.update(page["counts"])
        cursor = page["cursor"]
    return devices, counts


@pytest.fixture
def fleet(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice
) -> tuple[Gateway, dict[str, Device]]:
    gateway = start_gateway(CALM)
    names = ("fresh", "nearly", "due", "overdue", "strict", "expiring", "expired")
    devices = {name: new_device(to=gateway, name=f"d-{name}") for name in names}
    for device in devices.values():
        assert device.get("/").status == 200
    make(redis, devices["fresh"], 1)
    make(redis, devices["nearly"], 9.5)
    make(redis, devices["due"], 15)
    make(redis, devices["overdue"], 25)
    make(redis, devices["strict"], 19.5, group="strict")
    make(redis, devices["expiring"], 1, ends_in=0.5)
    make(redis, devices["expired"], 1, ends_in=-30)
    return gateway, devices


def brief(hits: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    return {n[2:]: (h["state"], h["verdict"], h["reason"]) for n, h in hits.items()}


def test_tomorrows_standings_are_listed(
    fleet: tuple[Gateway, dict[str, Device]], redis: RedisServer
) -> None:
    gateway, devices = fleet
    before = {d.name: StoreView(redis).record(d.name) for d in devices.values()}
    hits, counts = preview(gateway)
    assert brief(hits) == {
        "nearly": ("due", "pass", "admitted"),
        "due": ("due", "pass", "admitted"),
        "overdue": ("overdue", "pass", "admitted"),
        "strict": ("overdue", "refuse", "key-age-overdue"),
        "expiring": ("overdue", "quarantine", "certificate-expired-quarantine"),
        "expired": ("overdue", "refuse", "certificate-expired"),
    }
    assert counts["looked_at"] == 7 and counts["unreadable"] == 0
    assert (counts["fresh"], counts["due"], counts["overdue"]) == (1, 2, 4)
    assert (counts["pass"], counts["quarantine"], counts["refuse"]) == (4, 1, 2)
    strict = hits["d-strict"]
    assert (strict["group"], strict["action"], strict["told"]) == ("strict", "refuse", True)
    assert {d.name: StoreView(redis).record(d.name) for d in devices.values()} == before

    now, _ = preview(gateway, "at=+0s")
    assert brief(now)["strict"] == ("due", "pass", "admitted")
    assert "nearly" not in brief(now) and brief(now)["expiring"][:2] == ("due", "pass")
    later, counts = preview(gateway, "at=2099-01-01T00:00:00Z")
    assert counts["refuse"] == counts["looked_at"] == len(later) == 7


def test_a_rule_is_tried_before_it_is_made(fleet: tuple[Gateway, dict[str, Device]]) -> None:
    gateway, _ = fleet
    hits, counts = preview(gateway, "at=+0s&key_age.action=quarantine&key_age.overdue_after=12d")
    assert brief(hits)["due"] == ("overdue", "quarantine", "key-age-quarantine")
    assert brief(hits)["strict"] == ("overdue", "quarantine", "key-age-quarantine")
    assert counts["quarantine"] == 3
    hits, _ = preview(gateway, "at=+0s&expired_grace=60d&key_age.due_before_expiry=0s")
    assert brief(hits)["expired"] == ("fresh", "quarantine", "certificate-expired-quarantine")
    hits, counts = preview(gateway, "group=strict&key_age.overdue_after=300d&key_age.due_after=0s")
    assert (hits, counts["looked_at"]) == ({}, 1)


def test_pages_are_bounded_and_miss_nobody(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice
) -> None:
    gateway = start_gateway(CALM)
    device = new_device(to=gateway)
    assert device.get("/").status == 200
    make(redis, device, 15)
    clone(redis, device, 3000)
    response = gateway.operator.get("/v1/enforcement/preview?count=50")
    assert response.json()["cursor"] is not None
    assert len(response.json()["devices"]) < 200
    hits, counts = preview(gateway, "count=1000")
    assert hits.keys() == {device.name, *(f"clone-{i}" for i in range(3000))}
    assert counts["due"] >= 3001


def test_every_partition_is_looked_at(start_gateway: StartGateway, new_device: NewDevice) -> None:
    gateway = start_gateway({**CALM, "store": {"partitions": 5}})
    devices = [new_device(to=gateway) for _ in range(8)]
    for device in devices:
        assert device.get("/").status == 200
    hits, counts = preview(gateway, "at=+12d&count=3")
    assert hits.keys() == {device.name for device in devices}
    assert counts["due"] == 8


def test_a_broken_record_is_counted(
    fleet: tuple[Gateway, dict[str, Device]], redis: RedisServer
) -> None:
    gateway, devices = fleet
    redis.client().hset(f"dgw:{{p00}}:device:{devices['due'].name}", "generation", "x")
    hits, counts = preview(gateway)
    assert (counts["unreadable"], counts["looked_at"]) == (1, 6)
    assert "d-due" not in hits


@pytest.mark.parametrize(
    "query",
    [
        "at=tomorrow",
        "at=+1x",
        "at=1d",
        "group=%20",
        "group=" + "x" * 65,
        "key_age.due_after=soon",
        "expired_grace=-1d",
        "key_age.action=punish",
        "count=0",
        "count=1001",
        "cursor=7",
        "cursor=1.0",
        "cursor=0.x",
    ],
)
def test_what_cannot_be_asked_is_refused(gateway: Gateway, query: str) -> None:
    response = gateway.operator.get(f"/v1/enforcement/preview?{query}")
    assert (response.status, response.reason) == (400, "request-body-invalid")


def test_without_redis_there_is_no_preview(gateway: Gateway, redis: RedisServer) -> None:
    redis.kill()
    response = gateway.operator.get("/v1/enforcement/preview")
    assert (response.status, response.reason) == (503, "store-unavailable")
    redis.start()
