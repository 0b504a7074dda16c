# SPDX-License-Identifier: BSD-2-Clause
"""Key age and certificate expiry: what devices are told, which of them are quarantined or refused,
by group, and as time passes on live connections.
"""

from __future__ import annotations

import datetime
import json
import time
from typing import Any, Callable, Optional

import pytest

from agent import announce
from backend import Backend
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device
from gateway import Config, Gateway, merged
from pki import Identity, now
from redis_server import RedisServer
from store_view import StoreView
from test_reload import changed, half_handshake, with_state
from wire import Response

NextIdentity = Callable[[Device], Identity]

DAY_MS = 86400000


def rule(action: str, **more: str) -> Config:
    """Due after 10 days, overdue after 20, nothing by expiry."""
    limits = {"due_after": "10d", "overdue_after": "20d", "due_before_expiry": "0s"}
    return {"key_age": {"action": action, **limits, **more}}


def fleet(action: str, **more: str) -> Config:
    return {"rotation": rule(action, **more)}


def born(redis: RedisServer, device: Device, days: float, and_ms: int = 0) -> int:
    """Makes the device's key so old; since when, in ms."""
    since = int(time.time() * 1000) - int(days * DAY_MS) - and_ms
    redis.client().hset(f"dgw:{{p00}}:device:{device.name}", "current_since", since)
    return since


def known(device: Device) -> Device:
    assert device.get("/").status == 200
    return device


def told(response: Response) -> Optional[str]:
    return response.header("Device-Rotation")


def deadline(since_ms: int, days: int = 20) -> str:
    return f"@{(since_ms + days * DAY_MS) // 1000}"


def assert_problem(response: Response, status: int, reason: str) -> None:
    assert (response.status, response.reason) == (status, reason), response
    assert response.header("Content-Type") == "application/problem+json"


def standings(gateway: Gateway, state: str, action: str) -> float:
    name = f'dgw_rotation_standings_total{{state="{state}",action="{action}"}}'
    return gateway.operator.metrics()[name]


def assign(gateway: Gateway, device: Device, group: Any, reason: str = "test") -> Response:
    body = {"group": group, "reason": reason}
    return gateway.operator.request("PATCH", f"/v1/devices/{device.name}", body)


# --- what devices are told -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "action, days, state",
    [
        ("observe", 5, None),
        ("observe", 25, None),
        ("warn", 5, None),
        ("warn", 15, "due"),
        ("warn", 25, "overdue"),
        ("quarantine", 15, "due"),
        ("refuse", 15, "due"),
    ],
)
def test_a_device_is_told_when_to_rotate(
    start_gateway: StartGateway,
    redis: RedisServer,
    backend: Backend,
    new_device: NewDevice,
    action: str,
    days: float,
    state: Optional[str],
) -> None:
    """In answers of its backend's and of ours, and nobody else can say so."""
    gateway = start_gateway(fleet(action))
    device = known(new_device(to=gateway))
    since = born(redis, device, days)
    forged = [("Device-Rotation", "overdue"), ("device_rotation", "forged"), ("X-Kept", "yes")]
    backend.on("/forged", lambda exchange: exchange.respond(200, b"x", forged))
    expected = f"{state};deadline={deadline(since)}" if state else None

    with device.connect() as connection:
        for target in ("/hello", "/device", "/forged"):
            response = connection.request("GET", target, [("Device-Rotation", "mine")])
            assert (response.status, told(response)) == (200, expected)
        assert response.header("X-Kept") == "yes"
        assert response.header("device_rotation") is None
        wrong = connection.request("DELETE", "/device")
    assert told(wrong) == expected
    assert all(r.header("Device-Rotation") is None for r in backend.requests)
    age = "overdue" if days > 20 else "due" if days > 10 else "fresh"
    # The first decision registered it.
    assert standings(gateway, age, action) == (2 if age == "fresh" else 1)


def test_a_device_without_a_deadline_is_told_so(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice
) -> None:
    gateway = start_gateway(fleet("warn", overdue_after="0s"))
    device = known(new_device(to=gateway))
    born(redis, device, 15)
    assert told(device.get("/")) == "due"


def test_the_certificates_end_makes_due(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """Told with the first answer: the device is registered in that moment."""
    gateway = start_gateway(fleet("warn", due_before_expiry="10d"))
    ends = (now() + datetime.timedelta(days=5)).replace(microsecond=0)
    device = new_device(to=gateway, not_after=ends)
    assert told(device.get("/")) == f"due;deadline=@{int(ends.timestamp())}"


# --- quarantine and refusal ----------------------------------------------------------------------


def test_quarantine_opens_only_what_is_marked(
    start_gateway: StartGateway,
    redis: RedisServer,
    backend: Backend,
    new_device: NewDevice,
    next_identity: NextIdentity,
) -> None:
    """On a new connection, on a resumed one, on a live one; and it ends with the promotion."""
    gateway = start_gateway(fleet("quarantine"))
    device = known(new_device(to=gateway))
    context = device.context("1.3")
    with device.connect(context=context) as live:
        assert live.request("GET", "/before").status == 200
        session = live.session()
        since = born(redis, device, 25)
        seen = len(backend.requests)

        header = f"overdue;deadline={deadline(since)}"
        with device.connect() as fresh:
            with device.connect(context=context, session=session) as resumed:
                assert resumed.resumed
                for connection in (fresh, resumed):
                    for method, target in (("GET", "/"), ("PATCH", "/config"), ("POST", "/x")):
                        refused = connection.request(method, target, body=b"{}")
                        assert_problem(refused, 403, "key-age-quarantine")
                        assert told(refused) == header
                        if refused.header("Connection") == "close":
                            break
                    else:
                        shown = connection.request("GET", "/device")
                        assert (shown.status, told(shown)) == (200, header)
        # The live connection was admitted before: the record's change reaches it with a decision.
        assert assign(gateway, device, "any").status == 200
        wait_until(lambda: live.request("GET", "/device").header("Device-Rotation"), "decided again")
        assert_problem(live.request("GET", "/live"), 403, "key-age-quarantine")
    assert len(backend.requests) == seen

    identity = next_identity(device)
    assert announce(device, identity).status == 200
    with device.with_identity(identity).connect() as promoted:
        first = promoted.request("GET", "/free")
        assert (first.status, told(first)) == (200, None)
    assert_problem(device.get("/device"), 403, "key-denied")


def test_refusal_is_refusal_everywhere(
    start_gateway: StartGateway, redis: RedisServer, backend: Backend, new_device: NewDevice
) -> None:
    gateway = start_gateway(fleet("refuse"))
    device = known(new_device(to=gateway))
    since = born(redis, device, 25)
    seen = len(backend.requests)
    for target in ("/", "/device"):
        response = device.get(target)
        assert_problem(response, 403, "key-age-overdue")
        assert told(response) == f"overdue;deadline={deadline(since)}"
    assert len(backend.requests) == seen


# --- as time passes ------------------------------------------------------------------------------


def test_a_live_connection_grows_old(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice
) -> None:
    """Fresh, due, and quarantined in turn, on one connection that nobody decides on again: Redis is
    not even there.
    """
    gateway = start_gateway(
        merged(
            fleet("quarantine"),
            {"store": {"on_outage": "serve_admitted", "command_timeout": "300ms", "lease": "1s"}},
        )
    )
    device = known(new_device(to=gateway))
    gateway.reload(changed(gateway, fleet("quarantine", due_after="3s", overdue_after="6s")))
    since = born(redis, device, 0)
    with device.connect() as connection:
        first = connection.request("GET", "/")
        assert (first.status, told(first)) == (200, None)
        redis.kill()
        end = f"deadline=@{(since + 6000) // 1000}"
        wait_until(lambda: told(connection.request("GET", "/")) == f"due;{end}", "it is due")
        assert connection.request("GET", "/").status == 200
        wait_until(lambda: connection.request("GET", "/").status == 403, "it is overdue")
        response = connection.request("GET", "/")
        assert_problem(response, 403, "key-age-quarantine")
        assert told(response) == f"overdue;{end}"
    assert time.time() * 1000 >= since + 6000
    redis.start()


@pytest.mark.parametrize("grace", ["0s", "1h"])
def test_a_certificate_ends_under_a_live_connection(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice, grace: str
) -> None:
    gateway = start_gateway({"rotation": {"expired_grace": grace}})
    ends = (now() + datetime.timedelta(seconds=4)).replace(microsecond=0)
    device = new_device(to=gateway, not_after=ends)
    with device.connect() as connection:
        assert connection.request("GET", "/early").status == 200
        wait_until(lambda: now() > ends, "the certificate ends")
        late = connection.request("GET", "/late")
        if grace == "0s":
            assert_problem(late, 403, "certificate-expired")
            connection.await_close()
        else:
            assert_problem(late, 403, "certificate-expired-quarantine")
            assert connection.request("GET", "/device").status == 200
    assert [request.target for request in backend.requests] == ["/early"]


def test_a_reloaded_rule_reaches_live_connections(
    start_gateway: StartGateway, redis: RedisServer, backend: Backend, new_device: NewDevice
) -> None:
    """Their next request, in both directions, and without a decision of the store's."""
    gateway = start_gateway(fleet("warn"))
    device = known(new_device(to=gateway))
    born(redis, device, 15)
    with device.connect() as connection:

        def under(changes: Config) -> Response:
            gateway.reload(changed(gateway, changes))
            return connection.request("GET", "/")

        assert str(told(connection.request("GET", "/"))).startswith("due;")
        redis.client().delete(f"dgw:{{p00}}:device:{device.name}")  # whoever asks, is refused
        assert told(under(fleet("observe"))) is None
        response = under(fleet("quarantine", overdue_after="12d"))
        assert_problem(response, 403, "key-age-quarantine")
        assert under(fleet("quarantine")).status == 200
        seen = len(backend.requests)
        assert_problem(under(fleet("refuse", overdue_after="12d")), 403, "key-age-overdue")
        connection.await_close()
    assert len(backend.requests) == seen


# --- groups --------------------------------------------------------------------------------------

GROUPS: Config = {
    "groups": [
        {"name": "watched", "key_age": {"action": "observe"}},
        {"name": "strict line/7", **rule("quarantine")},
        {"name": "patient", "expired_grace": "1h"},
    ]
}


def test_a_group_has_rules_of_its_own(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice
) -> None:
    """Live connections follow, at every gateway."""
    changes = merged(fleet("warn"), GROUPS)
    gateway, other = start_gateway(changes), start_gateway(changes)
    device = known(new_device(to=gateway))
    since = born(redis, device, 25)
    elsewhere = Device(device.identity, other.address(), device.trust)
    due = f"overdue;deadline={deadline(since)}"

    def seen(connection: Connection) -> tuple[int, Optional[str]]:
        response = connection.request("GET", "/")
        return response.status, told(response)

    with device.connect() as here, elsewhere.connect() as there:
        for group, expected in (
            ("", (200, due)),
            ("watched", (200, None)),
            ("strict line/7", (403, due)),
            ("nowhere configured", (200, due)),
            ("watched", (200, None)),
            ("", (200, due)),
        ):
            response = assign(gateway, device, group)
            changed_it = gateway.operator.device(device.name)["group"] == group
            assert response.status == 200 and changed_it
            wait_until(lambda: seen(here) == expected, f"{expected} here")
            wait_until(lambda: seen(there) == expected, f"{expected} there")
    assert gateway.log.find("connection closed", reason="cut-denied") == []

    events = gateway.operator.events("DEVICE_GROUP_CHANGED", device.name)
    moves = [(event["data"]["old_group"], event["data"]["group"]) for event in events]
    assert moves[:2] == [("", "watched"), ("watched", "strict line/7")] and len(moves) == 5
    assert all(event["data"]["reason"] == "test" for event in events)
    assert all(event["data"]["origin"].startswith("operator") for event in events)
    audit = gateway.log.find("audit", event="DEVICE_GROUP_CHANGED", device=device.name)
    moves = [(line.get("old_group", ""), line.get("group", "")) for line in audit]
    assert moves[:2] == [("", "watched"), ("watched", "strict line/7")] and len(moves) == 5
    assert device.get("/device").json()["group_name"] == ""


def test_only_the_groups_grace_lets_an_expired_certificate_in(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice, pki: Any
) -> None:
    """The handshake knows no groups, so it lets everybody through whom one of them would."""
    gateway = start_gateway(merged(fleet("observe"), GROUPS))
    device = known(new_device(to=gateway))
    expired = pki.device_ca.device(
        device.name, key=device.identity.key, not_after=now() - datetime.timedelta(minutes=10)
    )
    late = device.with_identity(expired)
    assert_problem(late.get("/device"), 403, "certificate-expired")
    assert assign(gateway, device, "patient").status == 200
    assert late.get("/device").status == 200
    assert_problem(late.get("/"), 403, "certificate-expired-quarantine")


def test_the_group_goes_into_the_rotations_event(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    device = known(new_device())
    assert assign(gateway, device, "line-7").status == 200
    identity = next_identity(device)
    assert announce(device, identity).status == 200
    assert device.with_identity(identity).get("/").status == 200
    (event,) = gateway.operator.events("DEVICE_PUBKEY_CHANGE", device.name)
    assert event["data"]["DeviceGroupId"] == "line-7"


@pytest.mark.parametrize(
    "name, body, status, reason",
    [
        (None, {"group": "a"}, 400, "reason-required"),
        (None, {"group": "a", "reason": " "}, 400, "reason-required"),
        (None, {"reason": "why"}, 400, "request-body-invalid"),
        (None, {"group": None, "reason": "why"}, 400, "request-body-invalid"),
        (None, {"group": 7, "reason": "why"}, 400, "request-body-invalid"),
        (None, {"group": "x" * 65, "reason": "why"}, 400, "request-body-invalid"),
        (None, {"group": " a", "reason": "why"}, 400, "group-invalid"),
        (None, {"group": 'a"b', "reason": "why"}, 400, "group-invalid"),
        ("nobody", {"group": "a", "reason": "why"}, 404, "no-such-device"),
        ("a%20b", {"group": "a", "reason": "why"}, 400, "device-name-invalid"),
    ],
)
def test_a_group_that_cannot_be_is_refused(
    gateway: Gateway,
    redis: RedisServer,
    new_device: NewDevice,
    name: Optional[str],
    body: dict[str, Any],
    status: int,
    reason: str,
) -> None:
    device = known(new_device())
    target = f"/v1/devices/{name or device.name}"
    assert_problem(gateway.operator.request("PATCH", target, body), status, reason)
    assert gateway.operator.device(device.name)["group"] == ""
    assert gateway.operator.events("DEVICE_GROUP_CHANGED") == []


def test_the_same_group_again_is_no_event(gateway: Gateway, new_device: NewDevice) -> None:
    device = known(new_device())
    assert json.loads(assign(gateway, device, "a").body)["reason"] == "group-changed"
    assert json.loads(assign(gateway, device, "a").body)["reason"] == "group-unchanged"
    assert len(gateway.operator.events("DEVICE_GROUP_CHANGED", device.name)) == 1


# --- a CA that is disabled meanwhile -------------------------------------------------------------


def test_a_handshake_under_way_registers_nobody_with_a_disabled_ca(
    gateway: Gateway, redis: RedisServer, backend: Backend, new_device: NewDevice
) -> None:
    """The issuer's state was taken from the rules that the connection had been accepted under: a
    stranger could stop within the handshake, and register after the CA was disabled.
    """
    known_one, stranger = known(new_device()), new_device()
    with Connection(stranger.address, stranger.context("1.3")) as connection:
        half = half_handshake(connection)
        with Connection(known_one.address, known_one.context("1.3")) as friend:
            other_half = half_handshake(friend)
            gateway.reload(changed(gateway, with_state("disabled")))
            half()
            other_half()
            assert_problem(connection.request("GET", "/late"), 403, "issuer-disabled")
            assert friend.request("GET", "/friend").status == 200
    assert StoreView(redis).record(stranger.name) == {}


def test_an_admission_under_way_registers_nobody_with_a_disabled_ca(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice
) -> None:
    """The record is being read when the CA is disabled."""
    gateway = start_gateway({"store": {"command_timeout": "20s"}})
    stranger = new_device(to=gateway)
    with Connection(stranger.address, stranger.context("1.3")) as connection:
        redis.pause()
        connection.handshake()
        gateway.reload(changed(gateway, with_state("disabled")))
        redis.resume()
        assert_problem(connection.request("GET", "/late"), 403, "issuer-disabled")
    assert StoreView(redis).record(stranger.name) == {}
