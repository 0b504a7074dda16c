# SPDX-License-Identifier: BSD-2-Clause
"""Resumed TLS sessions are admitted anew each time (invariant 1), never prove a key (invariant 3),
and only go on what they were begun on: the same listener, the same server name, the same key.
"""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Optional

import pytest

from agent import announce
from backend import Backend
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device
from gateway import Gateway, listener
from pki import Identity
from redis_server import RedisServer

both_versions = pytest.mark.parametrize("version", ["1.2", "1.3"])
each_kind = pytest.mark.parametrize("kind", ["key", "certificate", "device"])


@dataclass
class Client:
    """A device that remembers its last session, as a TLS client library does."""

    device: Device
    context: ssl.SSLContext
    session: Optional[ssl.SSLSession] = None

    @contextmanager
    def connect(self, to: Optional[Device] = None, **options: Any) -> Iterator[Connection]:
        address = (to or self.device).address
        with Connection(address, self.context, session=self.session, **options) as connection:
            yield connection.handshake()

    def get(self, target: str, to: Optional[Device] = None, **options: Any) -> tuple[bool, Any]:
        """Whether the session was resumed, and the answer; the newest session is kept."""
        with self.connect(to, **options) as connection:
            answer = connection.request("GET", target, [("Connection", "close")])
            assert connection.rest() == b""
            self.session = connection.session()
            return connection.resumed, answer


def client(device: Device, version: str) -> Client:
    """With a session that was admitted."""
    new = Client(device, device.context(version))
    resumed, answer = new.get("/first")
    assert (resumed, answer.status) == (False, 200)
    return new


def handshakes(gateway: Gateway) -> tuple[int, int]:
    """How many were full, how many resumed."""
    metrics = gateway.operator.metrics()
    return tuple(  # type: ignore[return-value]
        int(metrics[f'dgw_handshakes_total{{result="{result}"}}']) for result in ("full", "resumed")
    )


def admissions(gateway: Gateway) -> int:
    """Passing ones."""
    metrics = gateway.operator.metrics()
    return sum(
        int(metrics.get(f'dgw_admissions_total{{reason="{reason}"}}', 0))
        for reason in ("admitted", "registered", "promoted")
    )


# --- what may be resumed -------------------------------------------------------------------------


@both_versions
def test_a_session_is_resumed_again_and_again_and_admitted_each_time(
    gateway: Gateway, backend: Backend, new_device: NewDevice, version: str
) -> None:
    device = new_device()
    device_client = client(device, version)
    for i in range(3):
        resumed, answer = device_client.get("/again")
        assert (resumed, answer.status) == (True, 200)

    assert handshakes(gateway) == (1, 3)
    assert admissions(gateway) == 4
    for forwarded in backend.requests:  # the identity comes from the session
        assert forwarded.header("X-Device-Id") == device.name
        assert forwarded.header("X-Device-Key") == device.identity.key_id
        assert forwarded.header("Client-Cert") == backend.requests[0].header("Client-Cert")


@both_versions
def test_a_resumed_connection_that_asks_for_nothing_uses_no_session_up(
    gateway: Gateway, new_device: NewDevice, version: str
) -> None:
    device_client = client(new_device(), version)
    for _ in range(2):
        with device_client.connect() as connection:
            assert connection.resumed
            connection.half_close()
            assert connection.rest() == b""
    resumed, answer = device_client.get("/again")
    assert (resumed, answer.status) == (True, 200)


@both_versions
def test_a_client_without_resumption_gets_full_handshakes(
    gateway: Gateway, new_device: NewDevice, version: str
) -> None:
    device = new_device()
    for _ in range(3):
        with device.connect(version) as connection:
            assert not connection.resumed
            assert connection.request("GET", "/").status == 200
    assert handshakes(gateway) == (3, 0)


# --- what may not ---------------------------------------------------------------------------------


@both_versions
def test_a_session_is_not_resumed_on_another_listener(
    start_gateway: StartGateway, new_device: NewDevice, folder: Any, version: str
) -> None:
    """Although the listener has the same certificate and trusts the same CAs."""
    listeners = [listener(name, folder, clients="devices") for name in ("devices", "others")]
    gateway = start_gateway({"listeners": listeners, "routes": DEVICE_ROUTES})
    device = new_device(to=gateway)
    there = Device(device.identity, gateway.address("others"), device.trust)
    device_client = client(device, version)
    first = device_client.session

    resumed, answer = device_client.get("/there", to=there)
    assert (resumed, answer.status) == (False, 200)
    device_client.session = first
    assert device_client.get("/here")[0]
    assert gateway.log.find("connection closed", reason="tls-failed") == []


DEVICE_ROUTES = [
    {"path": "/device", "methods": ["GET", "PATCH"], "service": "rotation"},
    {"prefix": "/", "backend": "api"},
]


@both_versions
def test_a_session_is_not_resumed_under_another_server_name(
    gateway: Gateway, new_device: NewDevice, version: str
) -> None:
    device_client = client(new_device(), version)
    first = device_client.session
    resumed, answer = device_client.get("/there", server_name="gateway.test")
    assert (resumed, answer.status) == (False, 200)
    device_client.session = first
    assert device_client.get("/here")[0]


@both_versions
def test_a_session_is_not_resumed_at_another_gateway(
    start_gateway: StartGateway, new_device: NewDevice, version: str
) -> None:
    """Nor does it disturb: behind a balancer that happens all the time."""
    first, second = start_gateway(), start_gateway()
    device = new_device(to=first)
    there = Device(device.identity, second.address(), device.trust)
    resumed, answer = client(device, version).get("/there", to=there)
    assert (resumed, answer.status) == (False, 200)


@both_versions
def test_a_refused_connection_s_session_is_not_resumed(
    gateway: Gateway, new_device: NewDevice, version: str
) -> None:
    device = new_device()
    gateway.operator.deny("device", device.name)
    stranger = Client(device, device.context(version))
    resumed, answer = stranger.get("/refused")
    assert (resumed, answer.status) == (False, 403)

    resumed, answer = stranger.get("/refused")
    assert (resumed, answer.status) == (False, 403)
    gateway.operator.allow("device", device.name)
    resumed, answer = stranger.get("/allowed")
    assert (resumed, answer.status) == (False, 200)


@both_versions
def test_a_connection_that_the_store_could_not_admit_leaves_nothing_to_resume(
    start_gateway: StartGateway, redis: RedisServer, new_device: NewDevice, version: str
) -> None:
    gateway = start_gateway({"store": {"command_timeout": "300ms"}})
    device = new_device(to=gateway)
    unlucky = Client(device, device.context(version))
    redis.pause()
    resumed, answer = unlucky.get("/outage")
    assert (resumed, answer.status) == (False, 503)
    redis.resume()
    gateway.log.wait("ready")
    assert unlucky.get("/back")[0] is False


# --- invariant 1 ----------------------------------------------------------------------------------


@both_versions
@each_kind
def test_a_denied_device_s_session_is_refused_and_then_forgotten(
    gateway: Gateway, backend: Backend, new_device: NewDevice, version: str, kind: str
) -> None:
    device = new_device()
    device_client = client(device, version)
    session = device_client.session
    what = {
        "key": device.identity.key_id,
        "certificate": device.identity.certificate_id,
        "device": device.name,
    }[kind]
    assert gateway.operator.deny(kind, what).status == 200

    resumed, answer = device_client.get("/denied")
    assert resumed, "the refusal must be proven on a resumed session"
    assert (answer.status, answer.reason) == (403, f"{kind}-denied")
    assert answer.header("Connection") == "close"

    for offered in (session, device_client.session):
        device_client.session = offered
        resumed, answer = device_client.get("/denied")
        assert (resumed, answer.status) == (False, 403)
    assert backend.of("/denied") == []

    assert gateway.operator.allow(kind, what).status == 200
    device_client.session = session
    resumed, answer = device_client.get("/allowed")
    assert (resumed, answer.status) == (False, 200)


@both_versions
def test_all_sessions_of_one_handshake_are_forgotten_together(
    gateway: Gateway, new_device: NewDevice, version: str
) -> None:
    """Each resumption at TLS 1.3 hands out another ticket; a refusal ends the whole family."""
    device = new_device()
    device_client = client(device, version)
    family = [device_client.session]
    for _ in range(3):
        assert device_client.get("/again")[0]
        family.append(device_client.session)

    gateway.operator.deny("device", device.name)
    assert device_client.get("/denied")[0]
    gateway.operator.allow("device", device.name)
    for session in family:
        device_client.session = session
        resumed, answer = device_client.get("/allowed")
        assert (resumed, answer.status) == (False, 200)


@both_versions
def test_a_denial_at_another_gateway_refuses_a_resumed_session(
    start_gateway: StartGateway, new_device: NewDevice, version: str
) -> None:
    here, there = start_gateway(), start_gateway()
    device = new_device(to=here)
    device_client = client(device, version)
    assert there.operator.deny("device", device.name).status == 200
    resumed, answer = device_client.get("/denied")
    assert (resumed, answer.status, answer.reason) == (True, 403, "device-denied")


@both_versions
def test_a_resumed_connection_is_cut_like_any_other(
    gateway: Gateway, new_device: NewDevice, version: str
) -> None:
    device = new_device()
    device_client = client(device, version)
    with device_client.connect() as connection:
        assert connection.resumed
        assert connection.request("GET", "/").status == 200
        gateway.operator.deny("device", device.name)
        assert connection.rest() == b""
    assert gateway.log.wait("connection closed", reason="cut-denied")["device"] == device.name


# --- invariant 3 ----------------------------------------------------------------------------------


@dataclass
class Pending:
    """A device one of whose former keys, for which it holds a session, is pending again."""

    device: Device  # with the current key
    former: Client  # with the pending one
    generation: int


@contextmanager
def no_promotion(gateway: Gateway, pending: Pending) -> Iterator[None]:
    def state() -> tuple[Any, ...]:
        shown = gateway.operator.device(pending.device.name)
        changes = gateway.operator.events("DEVICE_PUBKEY_CHANGE", pending.device.name)
        return shown["generation"], shown["current"]["key"], shown["pending"]["key"], len(changes)

    before = state()
    assert before[:3] == (
        pending.generation,
        pending.device.identity.key_id,
        pending.former.device.identity.key_id,
    )
    yield
    assert state() == before


@pytest.fixture
def pending(
    gateway: Gateway, new_device: NewDevice, next_identity: Callable[[Device], Identity]
) -> Callable[[str], Pending]:
    """Only a key that was current before can have a session, so an operator has to lift the former
    key's denial first.
    """

    def make(version: str) -> Pending:
        device = new_device()
        former = client(device, version)
        following = Device(next_identity(device), device.address, device.trust)
        assert announce(device, following.identity).status == 200
        assert following.get("/promoted").status == 200
        assert gateway.operator.allow("key", device.identity.key_id).status == 200
        assert announce(following, device.identity).status == 200
        return Pending(following, former, generation=2)

    return make


@both_versions
def test_a_resumed_session_promotes_no_key(
    gateway: Gateway, backend: Backend, pending: Callable[[str], Pending], version: str
) -> None:
    """503, so that a client tries again; the session is forgotten, so that the retry is a full
    handshake even if it offers the session again, and that one promotes.
    """
    case = pending(version)
    session = case.former.session
    with no_promotion(gateway, case):
        resumed, answer = case.former.get("/proof")
        assert resumed
        assert (answer.status, answer.reason) == (503, "key-not-proven")
        assert answer.header("Retry-After") == "1"
        assert backend.of("/proof") == []

    case.former.session = session
    resumed, answer = case.former.get("/proof")
    assert (resumed, answer.status) == (False, 200)
    shown = gateway.operator.device(case.device.name)
    assert shown["generation"] == case.generation + 1
    assert shown["current"]["key"] == case.former.device.identity.key_id
    assert len(gateway.operator.events("DEVICE_PUBKEY_CHANGE", case.device.name)) == 2
    assert case.device.get("/old").reason == "key-denied"


@both_versions
def test_a_resumed_session_that_is_never_retried_leaves_the_rotation_pending(
    gateway: Gateway, pending: Callable[[str], Pending], version: str
) -> None:
    case = pending(version)
    refusals = 'dgw_admissions_total{reason="key-not-proven"}'
    with no_promotion(gateway, case), case.former.connect() as connection:
        assert connection.resumed
        wait_until(lambda: gateway.operator.metrics().get(refusals) == 1, "it is decided")
    assert case.device.get("/current").status == 200
