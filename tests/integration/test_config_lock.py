# SPDX-License-Identifier: BSD-2-Clause
"""While a rotation is pending, only the device writes configuration, for its next key."""

from __future__ import annotations

import json
import threading
from typing import Any, Callable, Optional

import pytest

from agent import StockAgent, announce, compact
from backend import Backend, Exchange
from conditions import DEADLINE, stays_true, wait_until
from conftest import NewDevice, StartGateway
from device import Device
from gateway import Config, Gateway
from pki import Identity, new_key, public_pem
from wire import Response

NextIdentity = Callable[[Device], Identity]
OperatorApi = Callable[..., Device]

JSON = ("Content-Type", "application/json")


def assert_refused(response: Response, status: int, reason: str) -> None:
    assert (response.status, response.reason) == (status, reason)


def config_body(public_key: Optional[str] = None, **more: Any) -> bytes:
    named = {} if public_key is None else {"public-key": public_key}
    files = [{"name": "a/b", "value": "dmFsdWU=", "unencrypted": True, "on-changed": None}]
    return compact({"reason": "test", "files": files, **named, **more})


@pytest.fixture
def device(new_device: NewDevice) -> Device:
    """Known to the gateway, nothing pending."""
    device = new_device()
    assert device.get("/hello").status == 200
    return device


@pytest.fixture
def pending(device: Device, next_identity: NextIdentity) -> Identity:
    """The key that `device` has announced."""
    identity = next_identity(device)
    assert announce(device, identity).status == 200
    return identity


# --- nothing pending -----------------------------------------------------------------------------


def test_without_a_rotation_writes_pass(
    backend: Backend, device: Device, operator_api: OperatorApi
) -> None:
    body = config_body()
    path = f"/devices/{device.name}/config"
    assert device.patch("/config", body, [JSON]).status == 200
    assert operator_api().patch(path, body, [JSON]).status == 200
    assert operator_api().request("PUT", path, [JSON], body).status == 200
    assert [bytes(r.body) for r in backend.requests if r.method != "GET"] == [body] * 3


def test_a_write_that_names_the_current_key_passes(
    device: Device, operator_api: OperatorApi
) -> None:
    path = f"/devices/{device.name}/config"
    by_body = config_body(device.identity.public_pem)
    assert operator_api().patch(path, by_body).status == 200
    by_header = ("Device-Key", device.identity.key_id)
    assert operator_api().patch(path, config_body(), [by_header]).status == 200
    assert operator_api().patch(path, by_body, [by_header]).status == 200
    assert device.patch("/config", by_body).status == 200


def test_an_empty_key_names_none(device: Device) -> None:
    """The first PATCH of a fresh agent: "Set initial device data", "public-key": ""."""
    assert device.patch("/config", config_body("")).status == 200
    assert device.patch("/config", config_body(None, **{"public-key": None})).status == 200


def test_a_write_for_another_key_is_stale(
    backend: Backend, device: Device, operator_api: OperatorApi
) -> None:
    other = new_key()
    path = f"/devices/{device.name}/config"
    for response in (
        operator_api().patch(path, config_body(public_pem(other))),
        operator_api().patch(path, config_body(), [("Device-Key", "0" * 64)]),
        device.patch("/config", config_body(public_pem(other))),
    ):
        assert_refused(response, 412, "config-key-stale")
    assert backend.of(path) == [] and backend.of("/config") == []


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b"{", [JSON], 400, "config-body-invalid"),
        (b'{"public-key": 1}', [JSON], 400, "config-key-invalid"),
        (b'{"public-key": "no PEM"}', [JSON], 400, "config-key-invalid"),
        (b'{"public-key": "", "public-key": "x"}', [JSON], 400, "config-body-invalid"),
        (b"{}", [JSON, ("Device-Key", "not an id")], 400, "config-key-invalid"),
        (b"{}", [JSON, ("Device-Key", "0" * 64), ("Device-Key", "1" * 64)], 400, None),
        (
            config_body(public_pem(new_key())),
            [("Device-Key", "0" * 64)],
            400,
            "config-key-conflict",
        ),
        (b"\x1f\x8b\x08", [JSON, ("Content-Encoding", "gzip")], 415, "config-body-encoded"),
        (b"{" + b" " * (1 << 20) + b"}", [JSON], 413, "request-body-too-large"),
    ],
    ids=[
        "no JSON",
        "a number",
        "no PEM",
        "named twice",
        "no key id",
        "two headers",
        "two keys",
        "compressed",
        "too large",
    ],
)
def test_a_write_that_cannot_be_judged_is_refused(
    backend: Backend,
    device: Device,
    body: bytes,
    headers: list[tuple[str, str]],
    status: int,
    reason: Optional[str],
) -> None:
    response = device.patch("/config", body, headers)
    assert response.status == status
    assert reason is None or response.reason == reason
    assert backend.of("/config") == []


@pytest.mark.parametrize("name", ["%20", "a%00b", "a%20b", "x" * 65, "a%2Fb"])
def test_an_odd_device_name_in_an_operators_path_is_refused(
    backend: Backend, gateway: Gateway, operator_api: OperatorApi, name: str
) -> None:
    response = operator_api().patch(f"/devices/{name}/config", config_body())
    assert 400 <= response.status < 500
    assert backend.requests == []


def test_a_write_for_an_unknown_device_is_refused(
    backend: Backend, gateway: Gateway, operator_api: OperatorApi
) -> None:
    response = operator_api().patch("/devices/nobody/config", config_body())
    assert_refused(response, 404, "no-such-device")
    assert backend.requests == []


# --- a rotation is pending -----------------------------------------------------------------------


def test_operators_writes_are_locked_out(
    gateway: Gateway,
    backend: Backend,
    device: Device,
    pending: Identity,
    operator_api: OperatorApi,
) -> None:
    """Whatever key they name, even the pending one: only the device knows that it has it."""
    path = f"/devices/{device.name}/config"
    bodies = [
        config_body(),
        config_body(device.identity.public_pem),
        config_body(pending.public_pem),
        config_body(public_pem(new_key())),
    ]
    for body in bodies:
        response = operator_api().patch(path, body)
        assert_refused(response, 423, "config-locked")
        assert int(response.header("Retry-After") or 0) > 0
    response = operator_api().patch(path, config_body(), [("Device-Key", pending.key_id)])
    assert_refused(response, 423, "config-locked")
    assert backend.of(path) == []
    gateway.log.wait("request", count=5, reason="config-locked", status=423)


def test_the_devices_own_write_for_the_next_key_passes(
    backend: Backend, device: Device, pending: Identity
) -> None:
    assert StockAgent(device).patch_config(pending.public_pem, []).status == 200
    assert device.patch("/config", config_body(), [("Device-Key", pending.key_id)]).status == 200
    assert len(backend.of("/config")) == 2


@pytest.mark.parametrize("named", ["nothing", "the old key", "another key"])
def test_the_devices_other_writes_are_locked_out(
    backend: Backend, device: Device, pending: Identity, named: str
) -> None:
    keys = {
        "nothing": None,
        "the old key": device.identity.public_pem,
        "another key": public_pem(new_key()),
    }
    response = device.patch("/config", config_body(keys[named]))
    assert_refused(response, 423, "config-locked")
    assert backend.of("/config") == []


def test_reading_is_never_locked(
    device: Device, pending: Identity, operator_api: OperatorApi
) -> None:
    assert device.get("/config").status == 200
    assert device.get("/config-device").status == 200
    assert operator_api().get(f"/devices/{device.name}/config").status == 200


def test_other_devices_are_not_locked(
    device: Device, pending: Identity, new_device: NewDevice, operator_api: OperatorApi
) -> None:
    other = new_device()
    assert other.patch("/config", config_body()).status == 200
    assert operator_api().patch(f"/devices/{other.name}/config", config_body()).status == 200


DISGUISES = [
    "/./config",
    "//config",
    "/%63onfig",
    "/%63%6F%6E%66%69%67",
    "/x/../config",
    "/x/%2e%2e/config",
    "/%2e/config",
    "/config?x=1",
    "http://localhost/config",
    "https://localhost//config",
    "HTTPS://LOCALHOST/./config?a",
]
NO_ROUTES_TO_IT = [
    "/config;x",
    "/config;",
    "/;/config",
    "/config%3bx",
    "/config#",
    "/config%2f",
    "/config\\",
]


@pytest.mark.parametrize("target", DISGUISES)
def test_a_disguised_write_is_locked_alike(
    backend: Backend, device: Device, pending: Identity, target: str
) -> None:
    assert_refused(device.patch(target, config_body()), 423, "config-locked")
    assert [r for r in backend.requests if r.method == "PATCH"] == []
    assert device.patch(target, config_body(pending.public_pem)).status == 200
    (passed,) = [r for r in backend.requests if r.method == "PATCH"]
    assert passed.path == "/config"  # what was judged is what is forwarded


@pytest.mark.parametrize("target", NO_ROUTES_TO_IT)
def test_what_somebody_might_read_as_the_config_path_is_refused(
    backend: Backend, device: Device, pending: Identity, target: str
) -> None:
    response = device.patch(target, config_body())
    assert 400 <= response.status < 500
    assert [r for r in backend.requests if r.method == "PATCH"] == []


@pytest.mark.parametrize(
    "path", ["/devices//{}/config", "/devices/./{}/config", "/x/../devices/{}/%63onfig"]
)
def test_a_disguised_operators_write_is_locked_alike(
    backend: Backend, device: Device, pending: Identity, operator_api: OperatorApi, path: str
) -> None:
    response = operator_api().patch(path.format(device.name), config_body())
    assert_refused(response, 423, "config-locked")
    assert [r for r in backend.requests if r.method == "PATCH"] == []


def test_a_wider_route_carries_no_write_past_the_lock(
    backend: Backend, device: Device, pending: Identity, operator_api: OperatorApi
) -> None:
    """A prefix for everything took whatever the locked route did not list: POST to the same API wrote
    configuration in the middle of a rotation.
    """
    path = f"/devices/{device.name}/config"
    for client, target in ((device, "/config"), (operator_api(), path)):
        for method in ("POST", "DELETE"):
            response = client.request(method, target, [JSON], config_body())
            assert_refused(response, 405, "method-not-allowed")
            assert "PATCH" in str(response.header("Allow"))
        assert client.get(target).status == 200
    assert {r.method for r in backend.requests} == {"GET"}


@pytest.mark.parametrize("spelling", ["patch", "Patch"])
def test_a_disguised_method_is_no_way_around(
    backend: Backend, device: Device, pending: Identity, spelling: str
) -> None:
    response = device.request(spelling, "/config", body=config_body())
    assert 400 <= response.status <= 501
    headers = [("X-HTTP-Method-Override", "PATCH"), ("X-HTTP-Method", "PATCH")]
    assert_refused(device.post("/config", config_body(), headers), 405, "method-not-allowed")
    assert [r for r in backend.requests if r.path == "/config"] == []
    assert device.post("/other", config_body(), headers).status == 200
    (passed,) = [r for r in backend.requests if r.path == "/other"]
    assert passed.header("X-HTTP-Method-Override") is None
    assert passed.header("X-HTTP-Method") is None


def test_the_lock_ends_with_the_promotion(
    device: Device, pending: Identity, operator_api: OperatorApi
) -> None:
    path = f"/devices/{device.name}/config"
    new = device.with_identity(pending)
    assert new.get("/config").status == 200
    assert operator_api().patch(path, config_body()).status == 200
    assert operator_api().patch(path, config_body(pending.public_pem)).status == 200
    old = operator_api().patch(path, config_body(device.identity.public_pem))
    assert_refused(old, 412, "config-key-stale")
    assert new.patch("/config", config_body(pending.public_pem)).status == 200


def test_the_lock_ends_when_the_rotation_is_cancelled(
    gateway: Gateway, device: Device, pending: Identity, operator_api: OperatorApi
) -> None:
    path = f"/devices/{device.name}/config"
    assert gateway.operator.cancel_rotation(device.name).status == 200
    assert operator_api().patch(path, config_body()).status == 200
    assert_refused(
        device.patch("/config", config_body(pending.public_pem)), 412, "config-key-stale"
    )


# --- writes in flight ----------------------------------------------------------------------------


class HeldWrite:
    """A config write that the backend has and does not answer yet."""

    def __init__(self, backend: Backend, path: str):
        self.gate = backend.gate()
        self.path = path
        self.response: Optional[Response] = None
        self._thread: Optional[threading.Thread] = None
        backend.on(path, self._hold, method="PATCH")

    def start(self, client: Device) -> "HeldWrite":
        def write() -> None:
            self.response = client.patch(self.path, config_body())

        self._thread = threading.Thread(target=write, daemon=True)
        self._thread.start()
        self.gate.await_arrival()
        return self

    def finish(self) -> Optional[Response]:
        self.gate.open()
        return self.join()

    def join(self) -> Optional[Response]:
        assert self._thread is not None
        self._thread.join(DEADLINE)
        return self.response

    def _hold(self, exchange: Exchange) -> None:
        exchange.read_body()
        self.gate.wait()
        exchange.respond(201)


@pytest.fixture
def held(backend: Backend, device: Device, operator_api: OperatorApi) -> HeldWrite:
    return HeldWrite(backend, f"/devices/{device.name}/config").start(operator_api())


def test_an_announcement_waits_for_writes_in_flight(
    gateway: Gateway,
    device: Device,
    held: HeldWrite,
    next_identity: NextIdentity,
    operator_api: OperatorApi,
) -> None:
    """503 with Retry-After: the agent tries again. Nothing is pending until the write has ended."""
    identity = next_identity(device)
    response = StockAgent(device).announce(identity.public_pem)
    assert_refused(response, 503, "config-writes-busy")
    assert response.header("Retry-After") == "1"
    shown = gateway.operator.device(device.name)
    assert (shown["pending"], shown["config_writes_in_flight"]) == (None, 1)

    response = held.finish()
    assert response is not None and response.status == 201
    wait_until(
        lambda: gateway.operator.device(device.name)["config_writes_in_flight"] == 0,
        "the lease is given back",
    )
    assert StockAgent(device).announce(identity.public_pem).status == 200


def test_a_write_that_outlives_its_lease_is_cut(
    start_gateway: StartGateway,
    backend: Backend,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: OperatorApi,
) -> None:
    gateway = start_gateway({"rotation": {"write_lease": "1s"}})
    device = new_device(to=gateway)
    assert device.get("/hello").status == 200
    broken = threading.Event()

    def never(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.await_break()
        broken.set()

    path = f"/devices/{device.name}/config"
    backend.on(path, never, method="PATCH")
    response = operator_api(to=gateway).patch(path, config_body())
    assert_refused(response, 504, "config-lease-expired")
    assert broken.wait(DEADLINE)
    assert announce(device, next_identity(device)).status == 200


@pytest.mark.parametrize("how", ["refused", "broken", "gone"])
def test_a_failed_write_does_not_hold_announcements_up_for_ever(
    start_gateway: StartGateway,
    backend: Backend,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: OperatorApi,
    how: str,
) -> None:
    gateway = start_gateway({"rotation": {"write_lease": "2s"}})
    device = new_device(to=gateway)
    assert device.get("/hello").status == 200
    path = f"/devices/{device.name}/config"
    backend.on(path, lambda exchange: exchange.respond(500), method="PATCH")
    if how == "broken":
        backend.on(path, lambda exchange: exchange.reset(), method="PATCH")
    if how == "gone":
        backend.stop()
    assert operator_api(to=gateway).patch(path, config_body()).status >= 500
    assert announce(device, next_identity(device)).status == 200


def test_a_killed_gateways_write_lease_expires(
    start_gateway: StartGateway,
    backend: Backend,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: OperatorApi,
) -> None:
    settings: Config = {"rotation": {"write_lease": "2s"}}
    doomed, other = start_gateway(settings), start_gateway(settings)
    device = new_device(to=other)
    assert device.get("/hello").status == 200
    held = HeldWrite(backend, f"/devices/{device.name}/config")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda _: None)  # the client's connection breaks
        held.start(operator_api(to=doomed))
        doomed.kill()
        held.join()
    identity = next_identity(device)
    response = StockAgent(device).announce(identity.public_pem)
    assert_refused(response, 503, "config-writes-busy")
    assert announce(device, identity).status == 200


def test_writes_of_a_device_do_not_exclude_each_other(
    backend: Backend, device: Device, held: HeldWrite, operator_api: OperatorApi
) -> None:
    assert device.patch("/config", config_body()).status == 200
    response = held.finish()
    assert response is not None and response.status == 201


def test_the_lock_holds_across_gateways(
    start_gateway: StartGateway,
    backend: Backend,
    new_device: NewDevice,
    next_identity: NextIdentity,
    operator_api: OperatorApi,
) -> None:
    one, two = start_gateway(), start_gateway()
    device = new_device(to=one)
    path = f"/devices/{device.name}/config"
    assert announce(device, next_identity(device)).status == 200
    assert_refused(operator_api(to=two).patch(path, config_body()), 423, "config-locked")
    assert_refused(operator_api(to=one).patch(path, config_body()), 423, "config-locked")
    assert backend.of(path) == []


def test_no_write_lands_between_announcement_and_promotion(
    gateway: Gateway,
    backend: Backend,
    device: Device,
    next_identity: NextIdentity,
    operator_api: OperatorApi,
) -> None:
    """Invariant 6, with writers hammering: whatever lands has landed before the 200."""
    path = f"/devices/{device.name}/config"
    finished, stop = [0], threading.Event()

    def land(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.respond(201)
        finished[0] += 1

    backend.on(path, land, method="PATCH")

    def hammer() -> None:
        with operator_api().connect() as connection:
            while not stop.is_set():
                answer = connection.request("PATCH", path, [JSON], config_body())
                held = (answer.status, answer.reason) == (503, "config-writes-held")
                assert held or answer.status in (201, 423)

    writers = [threading.Thread(target=hammer, daemon=True) for _ in range(4)]
    for writer in writers:
        writer.start()
    wait_until(lambda: finished[0] > 20, "writes land")
    identity = next_identity(device)
    assert announce(device, identity).status == 200
    landed = len(backend.of(path))
    assert stays_true(lambda: len(backend.of(path)) == landed, 1.0)
    assert device.with_identity(identity).get("/").status == 200
    wait_until(lambda: len(backend.of(path)) > landed, "writes land again")
    stop.set()
    for writer in writers:
        writer.join(DEADLINE)
    assert json.loads(bytes(backend.of(path)[-1].body))["reason"] == "test"
