# SPDX-License-Identifier: BSD-2-Clause
"""The operators' Unix socket: health, metrics, devices, denials, events."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest

from agent import announce
from backend import Backend
from conditions import DEADLINE, wait_until
from conftest import NewDevice, StartGateway
from device import Device
from gateway import Gateway, check_config
from pki import Identity, Pki, new_key, public_pem
from redis_server import RedisServer
from wire import Headers, Reader, Response, request

NextIdentity = Callable[[Device], Identity]

ID = "0" * 64


def raw(gateway: Gateway, data: bytes) -> Iterator[Reader]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(str(gateway.operator.socket_path))
        sock.sendall(data)
        yield Reader(sock.recv)


def ask(
    gateway: Gateway,
    method: str,
    target: str,
    body: Optional[bytes] = None,
    headers: Optional[Headers] = None,
) -> Response:
    """One exchange with exactly these bytes."""
    closing = [("Connection", "close")] + (headers or [])
    (response,) = (
        reader.response(method) for reader in raw(gateway, request(method, target, closing, body))
    )
    return response


def assert_problem(response: Response, status: int, reason: str) -> None:
    """RFC 9457, complete."""
    assert (response.status, response.reason) == (status, reason)
    problem = response.json()
    assert problem["type"] == f"urn:device-gateway:reason:{reason}"
    assert problem["status"] == status
    assert problem["title"]
    assert response.header("Content-Length") == str(len(response.body))


# --- health --------------------------------------------------------------------------------------


def test_health_follows_the_store(gateway: Gateway, redis: RedisServer) -> None:
    """A gateway without store lives, and is not ready for devices (invariant 9)."""
    assert (ask(gateway, "GET", "/livez").body, ask(gateway, "GET", "/readyz").body) == (
        b"alive\n",
        b"ready\n",
    )
    assert gateway.operator.metrics()["dgw_ready"] == 1
    redis.pause()
    wait_until(lambda: gateway.operator.get("/readyz").status == 503, "not ready")
    assert_problem(gateway.operator.get("/readyz"), 503, "store-unavailable")
    assert gateway.operator.get("/livez").status == 200
    assert gateway.operator.metrics()["dgw_ready"] == 0
    redis.resume()
    wait_until(lambda: gateway.operator.get("/readyz").status == 200, "ready again")
    assert gateway.operator.metrics()["dgw_ready"] == 1


def test_what_needs_the_store_says_so(gateway: Gateway, redis: RedisServer) -> None:
    redis.kill()
    wait_until(lambda: gateway.operator.get("/readyz").status == 503, "not ready")
    for method, target in [
        ("GET", "/v1/devices/d"),
        ("GET", "/v1/events"),
        ("GET", f"/v1/denied/key/{ID}"),
        ("PUT", f"/v1/denied/key/{ID}"),
        ("DELETE", f"/v1/denied/key/{ID}"),
        ("POST", "/v1/devices/d/cancel-rotation"),
    ]:
        body = None if method == "GET" else b'{"reason":"r"}'
        response = ask(gateway, method, target, body)
        assert_problem(response, 503, "store-unavailable")
        assert response.header("Retry-After") is not None
    redis.start()


# --- devices -------------------------------------------------------------------------------------


def test_a_device_is_shown_as_it_is(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    device = new_device(production=True)
    assert_problem(gateway.operator.get(f"/v1/devices/{device.name}"), 404, "no-such-device")
    assert device.get("/").status == 200

    shown = gateway.operator.device(device.name)
    assert shown["device"] == device.name
    assert (shown["factory"], shown["production"]) == ("acme-factory", True)
    assert (shown["generation"], shown["pending"]) == (1, None)
    assert shown["current"]["key"] == device.identity.key_id
    assert shown["current"]["pubkey"] == device.identity.public_pem
    expires = device.identity.certificate.not_valid_after.strftime("%Y-%m-%dT%H:%M:%S")
    assert shown["current"]["certificate_expires"].startswith(expires)
    assert shown["denied"] == {"device": False, "key": False}

    successor = next_identity(device)
    assert announce(device, successor).status == 200
    pending = gateway.operator.device(device.name)["pending"]
    assert (pending["key"], pending["pubkey"]) == (successor.key_id, successor.public_pem)
    assert pending["stalled"] is False

    assert device.with_identity(successor).get("/").status == 200
    shown = gateway.operator.device(device.name)
    assert (shown["generation"], shown["pending"]) == (2, None)
    assert shown["current"]["key"] == successor.key_id


def test_a_cancelled_rotation_is_over(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    """The key that was announced is as strange as before; the lock is off (invariants 2 and 6)."""
    device = new_device()
    successor = next_identity(device)
    assert device.get("/").status == 200
    assert_problem(gateway.operator.cancel_rotation(device.name), 409, "no-rotation-pending")
    assert announce(device, successor).status == 200

    answer = gateway.operator.cancel_rotation(device.name, "the wrong device")
    assert (answer.status, answer.json()["reason"]) == (200, "cancelled")
    assert gateway.operator.device(device.name)["pending"] is None
    assert device.with_identity(successor).get("/").reason == "key-not-announced"
    assert device.patch("/config", b"{}").status == 200
    (event,) = gateway.operator.events("DEVICE_ROTATION_CANCELLED", device.name)
    assert "the wrong device" in json.dumps(event["data"])
    audit = gateway.log.wait("audit", action="cancelled", device=device.name)
    assert "the wrong device" in json.dumps(audit)
    assert f"uid:{os.geteuid()}" in json.dumps(audit)


def test_an_accepted_key_must_be_proven(
    gateway: Gateway, backend: Backend, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    """Accepting is announcing in the device's stead: the old key counts until the new one has
    connected (invariants 3 and 4).
    """
    device = new_device()
    successor = next_identity(device)
    assert device.get("/").status == 200
    answer = gateway.operator.accept_key(device.name, successor.public_pem)
    assert (answer.status, answer.json()["reason"]) == (200, "key-accepted")
    shown = gateway.operator.device(device.name)
    assert shown["current"]["key"] == device.identity.key_id
    assert shown["pending"]["key"] == successor.key_id
    assert device.get("/").status == 200
    assert gateway.operator.events("DEVICE_PUBKEY_CHANGE") == []

    assert device.with_identity(successor).get("/").status == 200
    assert gateway.operator.device(device.name)["generation"] == 2
    assert device.get("/").reason == "key-denied"
    (event,) = gateway.operator.events("DEVICE_PUBKEY_CHANGE", device.name)
    assert event["data"]["NewPubKey"] == successor.public_pem


@pytest.mark.parametrize(
    "kind, reason",
    [("current", "key-is-current"), ("denied", "next-key-denied")],
)
def test_a_key_that_cannot_be_next_is_not_accepted(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity, kind: str, reason: str
) -> None:
    device = new_device()
    assert device.get("/").status == 200
    identity = device.identity if kind == "current" else next_identity(device)
    if kind == "denied":
        assert gateway.operator.deny("key", identity.key_id).status == 200
    answer = gateway.operator.accept_key(device.name, identity.public_pem)
    assert_problem(answer, 409 if kind == "current" else 403, reason)
    assert gateway.operator.device(device.name)["pending"] is None


# --- the deny-list -------------------------------------------------------------------------------


def target_of(kind: str, identity: Identity) -> str:
    ids = {
        "key": identity.key_id,
        "certificate": identity.certificate_id,
        "device": identity.name,
    }
    return f"/v1/denied/{kind}/{ids[kind]}"


@pytest.mark.parametrize("kind", ["key", "certificate", "device"])
def test_a_denial_is_made_read_and_removed(
    gateway: Gateway, new_device: NewDevice, kind: str
) -> None:
    """Between PUT and DELETE nothing of the device's gets through (invariant 1)."""
    device = new_device()
    assert device.get("/").status == 200
    target = target_of(kind, device.identity)
    assert_problem(ask(gateway, "GET", target), 404, "not-denied")
    assert_problem(ask(gateway, "DELETE", target, b'{"reason":"r"}'), 404, "not-denied")

    body = b'{"reason":"stolen \\u2603 \\"x\\"","until":"2099-01-02T03:04:05Z"}'
    answer = ask(gateway, "PUT", target, body)
    assert (answer.status, answer.json()["reason"]) == (200, "denied")
    entry = ask(gateway, "GET", target).json()
    assert (entry["kind"], entry["id"]) == (kind, target.rsplit("/", 1)[1])
    assert entry["reason"] == 'stolen \u2603 "x"'
    assert entry["until"].startswith("2099-01-02T03:04:05")
    assert entry["origin"] == f"operator uid:{os.geteuid()}"
    assert device.get("/").reason == f"{kind}-denied"
    assert ask(gateway, "HEAD", target).status == 200

    answer = ask(gateway, "DELETE", target, b'{"reason":"found"}')
    assert (answer.status, answer.json()["reason"]) == (200, "allowed")
    assert_problem(ask(gateway, "GET", target), 404, "not-denied")
    assert device.get("/").status == 200


def test_a_denial_ends_by_itself(gateway: Gateway, new_device: NewDevice) -> None:
    past = b'{"reason":"r","until":"2020-01-01T00:00:00Z"}'
    assert_problem(ask(gateway, "PUT", "/v1/denied/device/d", past), 400, "denial-ended")


# --- events --------------------------------------------------------------------------------------


def test_a_thousand_events_arrive_whole(gateway: Gateway) -> None:
    """Half a megabyte and more: far above any buffer of the gateway."""
    reason = "x" * 255
    for i in range(500):
        device = f"device-{i:04}"
        assert gateway.operator.deny("device", device, reason).status == 200
        assert gateway.operator.allow("device", device, reason).status == 200

    response = gateway.operator.get("/v1/events?count=1000")
    events = response.json()
    assert len(response.body) > 300_000
    assert len(events) == 1000
    assert [e["device"] for e in events] == [f"device-{i // 2:04}" for i in range(1000)]
    ids = [tuple(map(int, e["id"].split("-"))) for e in events]
    assert ids == sorted(set(ids))
    assert gateway.operator.get("/v1/events?count=3").json() == events[-3:]
    assert gateway.operator.get("/v1/events").json() == events[-100:]


@pytest.mark.parametrize(
    "query", ["count=0", "count=1001", "count=-1", "count=x", "partition=1", "partition=x"]
)
def test_odd_questions_for_events_are_refused(gateway: Gateway, query: str) -> None:
    assert_problem(ask(gateway, "GET", f"/v1/events?{query}"), 400, "request-body-invalid")


# --- what is refused -----------------------------------------------------------------------------

BAD_BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"reason"',
    b'{"reason":1}',
    b'{"reason":"%s"}' % (b"x" * 256),
    b'{"reason":"a","reason":"b"}',
    b'{"reason":"\xff"}',
    b'{"reason":"a\\u0000b"}',
    b'{"reason":"r"} trailing',
    b'{"reason":"r","until":"tomorrow"}',
    b'{"reason":"r","pubkey":"hello"}',
]

ACTS = [
    ("POST", "/v1/devices/d/cancel-rotation"),
    ("POST", "/v1/devices/d/accept-key"),
    ("PUT", f"/v1/denied/key/{ID}"),
    ("DELETE", "/v1/denied/device/d"),
]


@pytest.mark.parametrize("method, target", ACTS)
def test_a_body_that_is_not_understood_is_refused(
    gateway: Gateway, method: str, target: str
) -> None:
    for body in BAD_BODIES:
        assert_problem(ask(gateway, method, target, body), 400, "request-body-invalid")
    assert gateway.operator.events() == []


@pytest.mark.parametrize("method, target", ACTS)
@pytest.mark.parametrize("reason", [None, "", "  \t"])
def test_every_act_needs_a_reason(
    gateway: Gateway, method: str, target: str, reason: Optional[str]
) -> None:
    body: dict[str, Any] = {} if reason is None else {"reason": reason}
    if target.endswith("accept-key"):
        body["pubkey"] = public_pem(new_key())
    response = ask(gateway, method, target, json.dumps(body).encode())
    assert_problem(response, 400, "reason-required")
    assert gateway.operator.events() == []
    assert gateway.operator.get("/v1/devices/d").status == 404


def test_a_body_without_end_is_refused(gateway: Gateway) -> None:
    body = b'{"reason":"r","x":"' + b"x" * 100_000 + b'"}'
    response = ask(gateway, "PUT", "/v1/denied/device/d", body)
    assert_problem(response, 413, "request-body-too-large")


@pytest.mark.parametrize("kind", ["P-224", "K-256", "RSA-1024"])
def test_a_weak_key_is_not_accepted(gateway: Gateway, kind: str) -> None:
    answer = gateway.operator.accept_key("d", public_pem(new_key(kind)))
    assert_problem(answer, 400, "request-body-invalid")
    assert gateway.operator.get("/v1/devices/d").status == 404


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1",
        "/v1/devices",
        "/v1/devices/d/unknown-verb",
        "/v1/devices/d/accept-key/x",
        "/v1/denied",
        "/v1/denied/key",
        f"/v1/denied/keys/{ID}",
        "/v2/events",
        "/metrics/x",
        "/livez2",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_unknown_paths_are_not_found(gateway: Gateway, method: str, target: str) -> None:
    body = None if method == "GET" else b'{"reason":"r"}'
    assert_problem(ask(gateway, method, target, body), 404, "no-route")


@pytest.mark.parametrize(
    "method, target, allow",
    [
        ("POST", "/livez", "GET, HEAD"),
        ("DELETE", "/readyz", "GET, HEAD"),
        ("PUT", "/metrics", "GET, HEAD"),
        ("POST", "/v1/events", "GET, HEAD"),
        ("DELETE", "/v1/devices/d", "GET, HEAD, PATCH"),
        ("GET", "/v1/devices/d/accept-key", "POST"),
        ("PUT", "/v1/devices/d/cancel-rotation", "POST"),
        ("POST", f"/v1/denied/key/{ID}", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/v1/denied/device/d", "GET, HEAD, PUT, DELETE"),
    ],
)
def test_other_methods_are_told_which_there_are(
    gateway: Gateway, method: str, target: str, allow: str
) -> None:
    """RFC 9110, 15.5.6: a 405 has an Allow field. An unknown resource is no 405."""
    response = ask(gateway, method, target, None if method == "GET" else b'{"reason":"r"}')
    assert_problem(response, 405, "method-not-allowed")
    assert response.header("Allow") == allow


@pytest.mark.parametrize(
    "target, reason",
    [
        ("/v1/devices/a%20b", "device-name-invalid"),
        ("/v1/devices/" + "x" * 65, "device-name-invalid"),
        ("/v1/denied/key/123", "denial-id-invalid"),
        ("/v1/denied/key/" + "A" * 64, "denial-id-invalid"),
        ("/v1/denied/certificate/" + "g" * 64, "denial-id-invalid"),
        ("/v1/denied/device/a%20b", "denial-id-invalid"),
        ("/v1/denied/device/" + "x" * 65, "denial-id-invalid"),
        (f"/v1/denied/key/{ID}?device=a%20b", "device-name-invalid"),
        (f"/v1/denied/key/{ID}?device=" + "x" * 65, "device-name-invalid"),
    ],
)
def test_names_that_are_none_are_refused(gateway: Gateway, target: str, reason: str) -> None:
    assert_problem(ask(gateway, "GET", target), 400, reason)


# --- connections and the socket ------------------------------------------------------------------


def test_one_connection_takes_many_requests(gateway: Gateway) -> None:
    """Pipelined, with refusals and a large answer among them."""
    assert gateway.operator.deny("device", "d").status == 200
    targets = ["/livez", "/metrics", "/nothing", "/v1/devices/d", "/v1/events", "/readyz"]
    data = b"".join(request("GET", target) for target in targets)
    data += request("PUT", "/v1/denied/device/e", body=b'{"reason":"r"}') + request("GET", "/livez")
    for reader in raw(gateway, data):
        statuses = [reader.response().status for _ in range(len(targets) + 2)]
    assert statuses == [200, 200, 404, 404, 200, 200, 200, 200]


def test_many_ask_at_once(gateway: Gateway) -> None:
    answers: list[int] = []

    def work() -> None:
        for _ in range(10):
            answers.append(gateway.operator.get("/v1/events").status)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 80


def test_curl_speaks_with_the_socket(gateway: Gateway) -> None:
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", str(gateway.operator.socket_path)]
        + ["-X", "PUT", "-d", '{"reason":"stolen"}', "http://localhost/v1/denied/device/d"],
        capture_output=True,
        timeout=DEADLINE,
    )
    assert (json.loads(done.stdout)["reason"], done.stderr) == ("denied", b"")


def test_only_the_owner_may_open_the_socket(gateway: Gateway) -> None:
    mode = gateway.operator.socket_path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_stale_socket_is_replaced(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    gateway.kill()
    assert gateway.operator.socket_path.exists()
    gateway.start()
    assert gateway.operator.get("/livez").status == 200


def test_a_live_socket_is_not_taken_from_another(
    gateway: Gateway, folder: Path, start_gateway: StartGateway
) -> None:
    """Two daemons on one state folder: the second says why it does not start."""
    done = check_config(gateway.config_file)
    assert done.returncode == 1
    socket_path = gateway.operator.socket_path
    assert f"cannot listen on {socket_path}: another process serves it" in done.stderr
    assert gateway.operator.get("/livez").status == 200


def test_what_is_no_socket_is_left_alone(start_gateway: StartGateway, folder: Path) -> None:
    precious = folder / "precious.txt"
    precious.write_text("data")
    gateway = start_gateway()
    gateway.stop()
    gateway.config["operator"] = {"socket": str(precious)}
    gateway.write_config()
    done = check_config(gateway.config_file)
    assert done.returncode == 1
    assert f"cannot listen on {precious}: Address already in use" in done.stderr
    assert precious.read_text() == "data"


def test_two_gateways_show_the_same(
    start_gateway: StartGateway, pki: Pki, new_device: NewDevice
) -> None:
    one, other = start_gateway(), start_gateway()
    device = new_device(to=one)
    assert device.get("/").status == 200
    assert one.operator.deny("device", device.name).status == 200
    assert other.operator.device(device.name)["denied"] == {"device": True, "key": False}
    assert other.operator.events() == one.operator.events()
