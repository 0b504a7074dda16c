# SPDX-License-Identifier: BSD-2-Clause
"""A device announces its next key, proves it on a new connection, and is promoted."""

from __future__ import annotations

import base64
import json
import textwrap
import threading
from typing import Any, Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from agent import StockAgent, announce, compact
from backend import Backend, Exchange
from conditions import DEADLINE, wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device
from gateway import Gateway
from pki import Identity, Pki, key_id, new_key, public_pem
from wire import Response, chunked, request

NextIdentity = Callable[[Device], Identity]


def assert_refused(response: Response, status: int, reason: str) -> None:
    """The device can read why: a problem document, with every member."""
    assert (response.status, response.reason) == (status, reason)
    problem = response.json()
    assert problem["type"] == f"urn:device-gateway:reason:{reason}"
    assert problem["status"] == status
    assert problem["title"]


def pubkey_changes(gateway: Gateway, device: Device) -> list[Any]:
    return gateway.operator.events("DEVICE_PUBKEY_CHANGE", device.name)


# --- the whole exchange, as stock agents have it -------------------------------------------------


class FleetApi:
    """The agents' API behind the gateway: config, events, and an EST server that signs whatever
    it is asked to."""

    def __init__(self, backend: Backend, pki: Pki):
        self.pki = pki
        self.patches: list[Any] = []
        self.events: list[str] = []
        backend.on("/config", lambda exchange: exchange.respond(204), method="GET")
        backend.on("/config", self._patch, method="PATCH")
        backend.on("/config-device", self._get_device_config)
        backend.on("/events", self._post_events)
        backend.on("/.well-known/est/simplereenroll", self._enrol)

    def _patch(self, exchange: Exchange) -> None:
        self.patches.append(json.loads(exchange.read_body()))
        exchange.respond(201)

    def _get_device_config(self, exchange: Exchange) -> None:
        secret = {"Value": "AAAA", "Unencrypted": False, "OnChanged": None}
        exchange.respond_json({"wireguard-client": secret})

    def _post_events(self, exchange: Exchange) -> None:
        self.events += [event["eventType"]["id"] for event in json.loads(exchange.read_body())]
        exchange.respond(200)

    def _enrol(self, exchange: Exchange) -> None:
        csr = x509.load_der_x509_csr(base64.b64decode(exchange.read_body()))
        certificate = self.pki.device_ca.leaf(csr.public_key(), csr.subject)
        der = pkcs7.serialize_certificates([certificate], serialization.Encoding.DER)
        exchange.respond(
            200,
            "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64)).encode() + b"\n",
            [("Content-Transfer-Encoding", "base64")],
            "application/pkcs7-mime; smime-type=certs-only",
        )


def enrol(device: Device) -> Identity:
    """EST simplereenroll over one kept connection, the request chunked as EST clients have it."""
    key = new_key()
    csr = x509.CertificateSigningRequestBuilder().subject_name(device.identity.certificate.subject)
    signed = csr.sign(key, hashes.SHA256())
    body = base64.b64encode(signed.public_bytes(serialization.Encoding.DER))
    head = [("Content-Type", "application/pkcs10"), ("Transfer-Encoding", "chunked")]
    with device.connect() as connection:
        path = "/.well-known/est/simplereenroll"
        connection.send(request("POST", path, head) + chunked(body, 100))
        response = connection.response("POST")
    assert response.status == 200
    assert response.header("Content-Type") == "application/pkcs7-mime; smime-type=certs-only"
    assert response.header("Content-Transfer-Encoding") == "base64"
    (certificate,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(response.body))
    return Identity(device.name, key, certificate)


def test_the_whole_exchange_of_a_stock_agent(
    gateway: Gateway, backend: Backend, new_device: NewDevice, pki: Pki
) -> None:
    """INTEROP section 2, request by request."""
    api = FleetApi(backend, pki)
    old = new_device()
    agent = StockAgent(old)
    assert agent.get_config().status == 204  # any check-in before: registers

    assert agent.post_event("CertRotationStarted").status == 200
    identity = enrol(old)
    assert agent.post_event("Generate new certificate").status == 200
    assert agent.announce(identity.public_pem).status == 200
    assert agent.post_event("Lock device configuration on server").status == 200
    assert agent.post_event("Update local configuration with new key").status == 200
    assert agent.get_device_config().status == 200
    secret = {"name": "wireguard-client", "value": "BBBB", "unencrypted": False, "on-changed": None}
    assert agent.patch_config(identity.public_pem, [secret]).status == 201
    step = "Update device specific configuration on server with new key"
    assert agent.post_event(step).status == 200
    assert agent.post_event("Finalize aktualizr configuration").status == 200
    assert agent.post_event("CertRotationCompleted").status == 200
    shown = gateway.operator.device(old.name)
    assert shown["current"]["key"] == old.identity.key_id  # success: true is no proof

    new = old.with_identity(identity)
    assert StockAgent(new).get_config().status == 204
    assert_refused(agent.get_config(), 403, "key-denied")

    assert api.patches[0]["public-key"] == identity.public_pem
    assert api.patches[0]["files"] == [secret]
    assert api.events[0] == "CertRotationStarted" and api.events[-1] == "CertRotationCompleted"
    assert len(api.events) == 7
    (change,) = pubkey_changes(gateway, old)
    assert change["data"]["Uuid"] == old.name
    assert change["data"]["OldPubKey"] == old.identity.public_pem
    assert change["data"]["NewPubKey"] == identity.public_pem
    assert {"DeviceGroupId", "Time"} <= change["data"].keys()


def test_a_config_of_no_files_passes_while_pending(
    backend: Backend, new_device: NewDevice, next_identity: NextIdentity, pki: Pki
) -> None:
    """A device without secrets of its own sends "files": null, with the next key."""
    api = FleetApi(backend, pki)
    device = new_device()
    identity = next_identity(device)
    assert announce(device, identity).status == 200
    assert StockAgent(device).patch_config(identity.public_pem, None).status == 201
    assert api.patches[0]["files"] is None


# --- announcing ----------------------------------------------------------------------------------


def test_an_announcement_is_seen_by_device_and_operator(
    gateway: Gateway, backend: Backend, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    device = new_device()
    identity = next_identity(device)
    assert announce(device, identity).status == 200

    known = device.get("/device").json()
    assert known["uuid"] == device.name
    assert known["pubkey"] == device.identity.public_pem  # still the old one
    assert {"group_name", "is_prod", "last_seen", "target_name"} <= known.keys()
    shown = gateway.operator.device(device.name)
    assert shown["pending"]["key"] == identity.key_id
    assert shown["pending"]["pubkey"] == identity.public_pem
    assert shown["pending"]["stalled"] is False
    assert shown["generation"] == 1
    (event,) = gateway.operator.events("DEVICE_ROTATION_STARTED", device.name)
    assert event["data"]["new_key"] == identity.key_id
    gateway.log.wait("audit", device=device.name, event="DEVICE_ROTATION_STARTED")
    assert backend.of("/device") == []  # the gateway's own service


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "Ed25519", "RSA-2048", "RSA-4096"])
def test_every_allowed_kind_of_key_can_be_rotated_to(
    gateway: Gateway, new_device: NewDevice, pki: Pki, kind: str
) -> None:
    device = new_device()
    identity = pki.device_ca.device(device.name, key=new_key(kind))
    assert announce(device, identity).status == 200
    assert device.with_identity(identity).get("/hello").status == 200
    assert gateway.operator.device(device.name)["current"]["key"] == identity.key_id


def test_the_same_announcement_again_is_the_same_answer(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    device = new_device()
    identity = next_identity(device)
    first = announce(device, identity)
    version = gateway.operator.device(device.name)["version"]
    for _ in range(3):
        again = announce(device, identity)
        assert (again.status, again.body) == (200, first.body)
    assert gateway.operator.device(device.name)["version"] == version
    assert len(gateway.operator.events("DEVICE_ROTATION_STARTED", device.name)) == 1


def test_another_announcement_replaces_the_pending_key(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    """A restarted rotation has forgotten the first key; to refuse it would wedge the device."""
    device = new_device()
    forgotten, wanted = next_identity(device), next_identity(device)
    assert announce(device, forgotten).status == 200
    assert announce(device, wanted).status == 200
    assert gateway.operator.device(device.name)["pending"]["key"] == wanted.key_id
    assert len(gateway.operator.events("DEVICE_ROTATION_REPLACED", device.name)) == 1

    assert_refused(device.with_identity(forgotten).get("/"), 403, "key-not-announced")
    assert device.with_identity(wanted).get("/").status == 200
    assert_refused(device.with_identity(forgotten).get("/"), 403, "key-not-announced")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "request-body-invalid"),
        (b"nonsense", 400, "request-body-invalid"),
        (b"[]", 400, "request-body-invalid"),
        (b"{}", 400, "request-body-invalid"),
        (b'{"next_pubkey": 5}', 400, "request-body-invalid"),
        (b'{"next_pubkey": ""}', 400, "next-key-invalid"),
        (compact({"next_pubkey": "not a PEM"}), 400, "next-key-invalid"),
        (compact({"next_pubkey": public_pem(new_key()) * 2}), 400, "next-key-invalid"),
        (compact({"next_pubkey": public_pem(new_key("P-224"))}), 400, "next-key-not-allowed"),
        (compact({"next_pubkey": public_pem(new_key("K-256"))}), 400, "next-key-not-allowed"),
        (compact({"next_pubkey": public_pem(new_key("RSA-1024"))}), 400, "next-key-not-allowed"),
        (compact({"next_pubkey": public_pem(new_key("DSA-2048"))}), 400, "next-key-not-allowed"),
    ],
    ids=[
        "empty",
        "no JSON",
        "no object",
        "no key",
        "a number",
        "an empty key",
        "no PEM",
        "two PEMs",
        "P-224",
        "K-256",
        "RSA-1024",
        "DSA-2048",
    ],
)
def test_what_is_no_good_key_is_not_announced(
    gateway: Gateway, new_device: NewDevice, body: bytes, status: int, reason: str
) -> None:
    device = new_device()
    assert_refused(device.patch("/device", body), status, reason)
    assert gateway.operator.device(device.name)["pending"] is None


def test_the_current_key_cannot_be_announced(new_device: NewDevice) -> None:
    device = new_device()
    assert_refused(announce(device, device.identity), 409, "key-is-current")


def test_a_retired_key_cannot_be_announced(
    new_device: NewDevice, next_identity: NextIdentity
) -> None:
    old = new_device()
    identity = next_identity(old)
    assert announce(old, identity).status == 200
    new = old.with_identity(identity)
    assert new.get("/").status == 200
    assert_refused(announce(new, old.identity), 403, "next-key-denied")


# --- promotion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        ("GET", "/config", None),
        ("POST", "/events", b"[]"),
        ("GET", "/device", None),
        ("PATCH", "/config", b'{"files": null}'),
        ("GET", "/nothing/in/particular?x", None),
    ],
    ids=lambda first: f"{first[0]} {first[1]}",
)
def test_the_first_request_with_the_new_key_promotes_whatever_it_is(
    gateway: Gateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    first: tuple[str, str, bytes | None],
) -> None:
    device = new_device()
    identity = next_identity(device)
    assert announce(device, identity).status == 200
    method, path, body = first
    assert device.with_identity(identity).request(method, path, body=body).status == 200

    shown = gateway.operator.device(device.name)
    assert shown["current"]["key"] == identity.key_id
    assert shown["pending"] is None
    assert shown["generation"] == 2
    assert len(pubkey_changes(gateway, device)) == 1
    audit = gateway.log.wait("audit", device=device.name, event="DEVICE_PUBKEY_CHANGE")
    assert audit["new_key"] == identity.key_id


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_both_tls_versions_promote(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity, version: str
) -> None:
    device = new_device()
    identity = next_identity(device)
    assert announce(device, identity).status == 200
    assert device.with_identity(identity).request("GET", "/", version=version).status == 200
    assert gateway.operator.device(device.name)["generation"] == 2


def test_the_old_key_is_refused_with_a_reason_after_promotion(
    gateway: Gateway, backend: Backend, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    """403, not an alert and not a 5xx: a finished agent would hang in its retries."""
    old = new_device()
    identity = next_identity(old)
    assert announce(old, identity).status == 200
    assert old.get("/still-fine").status == 200
    assert old.with_identity(identity).get("/").status == 200

    for _ in range(2):
        with old.connect() as connection:
            response = connection.request("GET", "/after")
            assert_refused(response, 403, "key-denied")
            assert response.header("Connection") == "close"
            connection.await_close()
    assert backend.of("/after") == []
    assert_refused(announce(old, next_identity(old)), 403, "key-denied")
    denial = gateway.operator.get(f"/v1/denied/key/{old.identity.key_id}?device={old.name}").json()
    assert denial["origin"].startswith("rotation certs-")
    gateway.log.wait("request", path="/after", reason="key-denied")


def test_the_old_keys_open_connections_end_with_the_promotion(
    start_gateway: StartGateway,
    backend: Backend,
    new_device: NewDevice,
    next_identity: NextIdentity,
) -> None:
    """An idle one at once; an exchange in flight may finish, but not beyond rotation.drain."""
    gateway = start_gateway({"rotation": {"drain": "1s"}})
    quick, endless = backend.gate(), backend.gate()

    def answer_after(gate: Any) -> Callable[[Exchange], None]:
        def handler(exchange: Exchange) -> None:
            gate.wait()
            exchange.respond(200, b"finished")

        return handler

    backend.on("/quick", answer_after(quick))
    backend.on("/endless", answer_after(endless))
    old, stranger = new_device(to=gateway), new_device(to=gateway)
    identity = next_identity(old)
    assert announce(old, identity).status == 200
    with old.connect() as idle, old.connect() as busy, old.connect() as stuck:
        with stranger.connect() as other:
            assert idle.request("GET", "/").status == 200
            assert other.request("GET", "/").status == 200
            busy.send(request("GET", "/quick"))
            stuck.send(request("GET", "/endless"))
            quick.await_arrival()
            endless.await_arrival()

            assert old.with_identity(identity).get("/").status == 200
            idle.await_close()
            quick.open()
            assert busy.response().body == b"finished"
            busy.await_close()
            assert stuck.await_close() < DEADLINE
            assert other.request("GET", "/").status == 200  # nobody else's
    gateway.log.wait("connection closed", count=2, reason="cut-retired", device=old.name)


def test_many_connections_promote_once(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    old = new_device()
    identity = next_identity(old)
    assert announce(old, identity).status == 200
    new, statuses = old.with_identity(identity), []
    start = threading.Barrier(20)

    def connect() -> None:
        start.wait()
        statuses.append(new.get("/").status)

    threads = [threading.Thread(target=connect) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert statuses == [200] * 20
    assert len(pubkey_changes(gateway, old)) == 1
    assert gateway.operator.device(old.name)["generation"] == 2


def test_a_device_rotates_again_and_again(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    device = new_device()
    retired = []
    for _ in range(5):
        identity = next_identity(device)
        assert announce(device, identity).status == 200
        retired.append(device)
        device = device.with_identity(identity)
        assert device.get("/").status == 200
    assert gateway.operator.device(device.name)["generation"] == 6
    assert len(pubkey_changes(gateway, device)) == 5
    for old in retired:
        assert_refused(old.get("/"), 403, "key-denied")


# --- who must stay out ---------------------------------------------------------------------------


def test_a_key_that_was_never_announced_is_refused(
    gateway: Gateway, backend: Backend, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    """A valid certificate of the device CA for the same name: a clone, or a copied CA."""
    device = new_device()
    assert device.get("/").status == 200
    thief = device.with_identity(next_identity(device))
    for _ in range(3):
        assert_refused(thief.get("/stolen"), 403, "key-not-announced")
    assert_refused(announce(thief, next_identity(device)), 403, "key-not-announced")

    assert backend.of("/stolen") == []
    assert device.get("/").status == 200
    assert gateway.operator.device(device.name)["pending"] is None
    events = gateway.operator.events("DEVICE_KEY_REFUSED", device.name)
    assert len(events) == 1  # nobody fills the log by knocking
    assert events[0]["data"]["why"] == "key-not-announced"


def test_another_devices_announced_key_proves_nothing(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity, pki: Pki
) -> None:
    device, other = new_device(), new_device()
    identity = next_identity(device)
    assert device.get("/").status == 200 and other.get("/").status == 200
    assert announce(device, identity).status == 200
    same_key = pki.device_ca.device(other.name, key=identity.key)
    assert_refused(other.with_identity(same_key).get("/"), 403, "key-not-announced")
    assert gateway.operator.device(device.name)["generation"] == 1


def test_an_unannounced_key_cannot_announce_itself_while_pending(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    device = new_device()
    wanted, stolen = next_identity(device), next_identity(device)
    assert announce(device, wanted).status == 200
    assert_refused(announce(device.with_identity(stolen), stolen), 403, "key-not-announced")
    assert gateway.operator.device(device.name)["pending"]["key"] == wanted.key_id


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_resumed_session_of_the_old_key_is_refused_after_promotion(
    new_device: NewDevice, next_identity: NextIdentity, version: str
) -> None:
    """OpenSSL does not verify again on resumption: admission does."""
    old = new_device()
    identity = next_identity(old)
    context = old.context(version)
    with old.connect(context=context) as connection:
        assert connection.request("GET", "/").status == 200
        session = connection.session()
    with old.connect(context=context, session=session) as connection:
        assert connection.resumed
        assert connection.request("GET", "/").status == 200
        session = connection.session()
    assert announce(old, identity).status == 200
    assert old.with_identity(identity).get("/").status == 200
    with old.connect(context=context, session=session) as connection:
        assert_refused(connection.request("GET", "/"), 403, "key-denied")


# --- operators -----------------------------------------------------------------------------------


def test_an_operator_cancels_a_rotation(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    device = new_device()
    identity = next_identity(device)
    assert announce(device, identity).status == 200
    assert_refused(gateway.operator.cancel_rotation(device.name, ""), 400, "reason-required")
    assert gateway.operator.cancel_rotation(device.name, "wrong device").status == 200

    assert gateway.operator.device(device.name)["pending"] is None
    assert_refused(device.with_identity(identity).get("/"), 403, "key-not-announced")
    assert device.get("/").status == 200
    (event,) = gateway.operator.events("DEVICE_ROTATION_CANCELLED", device.name)
    assert event["data"]["reason"] == "wrong device"
    assert event["data"]["origin"].startswith("operator")
    assert_refused(gateway.operator.cancel_rotation(device.name), 409, "no-rotation-pending")


def test_an_operator_accepts_a_key_for_a_device_that_lost_its_own(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    device = new_device()
    assert device.get("/").status == 200
    identity = next_identity(device)
    repaired = device.with_identity(identity)
    assert_refused(repaired.get("/"), 403, "key-not-announced")
    assert gateway.operator.accept_key(device.name, identity.public_pem).status == 200
    assert repaired.get("/").status == 200
    shown = gateway.operator.device(device.name)
    assert (shown["current"]["key"], shown["generation"]) == (identity.key_id, 2)
    assert_refused(device.get("/"), 403, "key-denied")


def test_a_closed_fleet_is_provisioned_by_its_operator(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    gateway = start_gateway({"rotation": {"registration": "closed"}})
    device = new_device(to=gateway)
    assert_refused(device.get("/"), 403, "device-unknown")
    assert gateway.operator.accept_key(device.name, device.identity.public_pem).status == 200
    assert device.get("/").status == 200
    assert gateway.operator.device(device.name)["generation"] == 1


# --- durability ----------------------------------------------------------------------------------


def test_a_pending_key_survives_the_gateway_and_the_store(
    gateway: Gateway, redis: Any, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    device = new_device()
    identity = next_identity(device)
    assert announce(device, identity).status == 200
    gateway.kill()
    redis.restart()
    gateway.start()
    new = Device(identity, gateway.address(), device.trust)
    assert new.get("/").status == 200
    assert gateway.operator.device(device.name)["current"]["key"] == key_id(identity.key)


def test_a_pending_key_survives_with_the_embedded_store(
    start_gateway: StartGateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    gateway = start_gateway({"store": {"redis": None}})
    device = new_device(to=gateway)
    identity = next_identity(device)
    assert announce(device, identity).status == 200
    gateway.kill()
    gateway.start()
    assert Device(identity, gateway.address(), device.trust).get("/").status == 200
    wait_until(lambda: len(pubkey_changes(gateway, device)) == 1, "the event is in the log")


def test_a_connection_that_sends_nothing_does_not_promote_twice(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    """Proof is the handshake: a connection without a request may promote, once."""
    device = new_device()
    identity = next_identity(device)
    assert announce(device, identity).status == 200
    new = device.with_identity(identity)
    with Connection(new.address, new.context()) as silent:
        silent.handshake()
        assert new.get("/").status == 200
        assert silent.request("GET", "/").status == 200
    assert len(pubkey_changes(gateway, device)) == 1
