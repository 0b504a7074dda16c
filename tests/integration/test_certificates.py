# SPDX-License-Identifier: BSD-2-Clause
"""Whose certificate opens what: TLS refuses by alert what it cannot trust, HTTP says why about the
rest.

Clients here take any key and cipher themselves, so that it is the gateway that refuses.
"""

from __future__ import annotations

import datetime
import ssl
import subprocess
from pathlib import Path
from typing import Callable, Optional

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from backend import Backend
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Connection, client_context, refused_alert
from gateway import Config, Gateway, listener
from openssl_client import OpenSslClient
from pki import (
    DAY,
    DEVICE_EXTENSIONS,
    FACTORY,
    Authority,
    Extensions,
    Identity,
    Pki,
    key_usage,
    new_key,
    now,
)
from wire import Response, request

both_versions = pytest.mark.parametrize("version", ["1.2", "1.3"])

LONG_AGO = {"not_before": now() - 30 * DAY, "not_after": now() - DAY}
SOON = {"not_before": now() + DAY, "not_after": now() + 30 * DAY}
SERVER_ONLY: Extensions = [
    (key_usage("digital_signature"), True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), True),
]


def client(
    pki: Pki, identity: Optional[Identity], version: Optional[str], with_chain: bool = False
) -> ssl.SSLContext:
    return client_context(pki.server_ca, identity, version, with_chain, security_level=0)


def ask(gateway: Gateway, context: ssl.SSLContext, target: str = "/hello") -> Response:
    with Connection(gateway.address(), context) as connection:
        return connection.handshake().request("GET", target)


def assert_admitted(response: Response) -> None:
    assert (response.status, response.reason) == (200, None)


def assert_refused(response: Response, reason: str, status: int = 403) -> None:
    """The device can read why, and the connection is of no further use."""
    assert (response.status, response.reason) == (status, reason)
    assert response.json()["type"] == f"urn:device-gateway:reason:{reason}"
    assert response.header("Connection") == "close"


def assert_alert(
    gateway: Gateway, context: ssl.SSLContext, alert: str, detail: str, passed: int = 0
) -> None:
    """Refused by TLS: the client is told `alert`, the log says `detail`, and nobody else hears of
    it.
    """
    failed = gateway.operator.metrics()['dgw_handshakes_total{result="failed"}']
    assert refused_alert(gateway.address(), context) == alert
    closed = gateway.log.wait("connection closed", reason="tls-failed", listener="devices")
    assert detail in closed["detail"]
    assert closed["level"] == "info"
    assert "device" not in closed
    assert gateway.operator.metrics()['dgw_handshakes_total{result="failed"}'] == failed + 1
    wait_until(
        lambda: len(gateway.log.find("request", listener="devices")) >= passed, "the requests' lines"
    )
    assert len(gateway.log.find("request", listener="devices")) == passed


# --- no certificate ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version, alert",
    [("1.2", "SSLV3_ALERT_HANDSHAKE_FAILURE"), ("1.3", "TLSV13_ALERT_CERTIFICATE_REQUIRED")],
)
def test_a_listener_that_requires_a_certificate_refuses_without_one(
    gateway: Gateway, backend: Backend, pki: Pki, version: str, alert: str
) -> None:
    assert_alert(gateway, client(pki, None, version), alert, "offered no certificate")
    assert backend.requests == []


@pytest.fixture
def optional(start_gateway: StartGateway, folder: Path) -> Gateway:
    """Clients without certificate get to /open, and nowhere else."""
    return start_gateway(
        {
            "listeners": [listener("devices", folder, "devices", client_certificate="optional")],
            "routes": [
                {"path": "/open", "backend": "api", "certificate_required": False},
                {"path": "/device", "methods": ["GET", "PATCH"], "service": "rotation"},
                {"path": "/config", "methods": ["PATCH"], "backend": "api", "lock": "config"},
                {"prefix": "/", "backend": "api"},
            ],
        }
    )


@both_versions
def test_an_optional_certificate_is_demanded_by_routes(
    optional: Gateway, backend: Backend, pki: Pki, new_device: NewDevice, version: str
) -> None:
    with Connection(optional.address(), client(pki, None, version)) as connection:
        connection.handshake()
        for method, target in [("GET", "/hello"), ("GET", "/device"), ("PATCH", "/device")]:
            refusal = connection.request(method, target)
            assert (refusal.status, refusal.reason) == (403, "certificate-missing")
        assert connection.request("GET", "/open").status == 200
    assert [request.path for request in backend.requests] == ["/open"]
    identity_fields = ("X-Device-Id", "X-Device-Key", "X-Device-Key-Generation", "Client-Cert")
    assert [f for f in identity_fields if backend.requests[0].header(f) is not None] == []

    device = new_device(to=optional)
    assert device.request("GET", "/hello", version=version).status == 200
    assert device.request("GET", "/open", version=version).status == 200
    assert [r.header("X-Device-Id") for r in backend.requests[1:]] == [device.name] * 2


def test_a_config_write_without_a_certificate_is_refused(
    optional: Gateway, backend: Backend, pki: Pki
) -> None:
    """Nobody could say whose lock is asked for (invariant 6)."""
    with Connection(optional.address(), client(pki, None, None)) as connection:
        refusal = connection.handshake().request("PATCH", "/config", body=b"{}")
    assert_refused(refusal, "certificate-missing")
    assert backend.requests == []


@both_versions
def test_an_untrusted_certificate_is_refused_where_none_would_do(
    optional: Gateway, pki: Pki, version: str
) -> None:
    context = client(pki, pki.stranger_ca.device(), version)
    assert_alert(optional, context, "TLSV1_ALERT_UNKNOWN_CA", "unable to get local issuer")


# --- what TLS refuses ----------------------------------------------------------------------------

TLS_REFUSES: dict[str, tuple[Callable[[Pki], Identity], str, str]] = {
    "strangers' CA": (
        lambda pki: pki.stranger_ca.device(),
        "TLSV1_ALERT_UNKNOWN_CA",
        "unable to get local issuer",
    ),
    "a stranger with our CA's name": (
        lambda pki: Authority.root("Test Device CA").device(),
        "TLSV1_ALERT_UNKNOWN_CA",
        "unable to get local issuer",
    ),
    "signed by the root above the device CA": (
        lambda pki: pki.root.device(),
        "TLSV1_ALERT_UNKNOWN_CA",
        "unable to get local issuer",
    ),
    "expired": (
        lambda pki: pki.device_ca.device(**LONG_AGO),
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "certificate has expired",
    ),
    "not yet valid": (
        lambda pki: pki.device_ca.device(**SOON),
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "not yet valid",
    ),
    "a server's": (
        lambda pki: pki.device_ca.device(extensions=SERVER_ONLY),
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "unsuitable certificate purpose",
    ),
    "RSA of 1024 bits": (
        lambda pki: pki.device_ca.device(key=new_key("RSA-1024")),
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "key too weak",
    ),
}


@both_versions
@pytest.mark.parametrize("case", TLS_REFUSES)
def test_tls_refuses_by_alert(
    gateway: Gateway, backend: Backend, pki: Pki, case: str, version: str
) -> None:
    make, alert, detail = TLS_REFUSES[case]
    assert_alert(gateway, client(pki, make(pki), version), alert, detail)
    assert backend.requests == []


@both_versions
def test_tls_refuses_a_revoked_certificate(
    start_gateway: StartGateway, folder: Path, pki: Pki, version: str
) -> None:
    revoked, other = pki.device_ca.device(), pki.device_ca.device()
    (folder / "device.crl").write_bytes(pki.device_ca.crl(revoked))
    gateway = start_gateway(with_cas(acme(crl="device.crl")))

    assert_admitted(ask(gateway, client(pki, other, version)))
    assert_alert(
        gateway,
        client(pki, revoked, version),
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "certificate revoked",
        passed=1,
    )


@both_versions
def test_tls_refuses_everybody_when_the_crl_has_expired(
    start_gateway: StartGateway, folder: Path, pki: Pki, version: str
) -> None:
    """Who withholds new CRLs must not bring revoked devices back."""
    (folder / "device.crl").write_bytes(
        pki.device_ca.crl(next_update=now() - datetime.timedelta(hours=1))
    )
    gateway = start_gateway(with_cas(acme(crl="device.crl")))

    context = client(pki, pki.device_ca.device(), version)
    assert_alert(gateway, context, "SSLV3_ALERT_CERTIFICATE_EXPIRED", "CRL has expired")
    assert gateway.log.find("the CRL has expired; all certificates of its issuer are refused")


@both_versions
def test_tls_refuses_a_chain_that_is_too_long(
    start_gateway: StartGateway, folder: Path, pki: Pki, version: str
) -> None:
    top = Authority.root("Long CA")
    middle = top.intermediate("Middle", path_length=None)
    last = middle.intermediate("Last")
    top.write(folder / "long-ca.pem")
    changes = with_cas({"name": "long", "certificate": "long-ca.pem"})
    gateway = start_gateway({**changes, "tls": {"chain_depth": 1}})

    short, long = client(pki, top.device(), version), client(pki, last.device(), version, True)
    assert_admitted(ask(gateway, short))
    assert_alert(gateway, long, "TLSV1_ALERT_UNKNOWN_CA", "chain too long", passed=1)


@both_versions
def test_only_a_device_ca_itself_may_issue_devices(
    start_gateway: StartGateway, folder: Path, pki: Pki, version: str
) -> None:
    """A CA below a device CA is in no list: its state, its CRL and its name are unknown."""
    top = Authority.root("Top CA")
    below = top.intermediate("Below")
    top.write(folder / "top-ca.pem")
    gateway = start_gateway(with_cas({"name": "top", "certificate": "top-ca.pem"}))

    context = client(pki, below.device(), version, with_chain=True)
    assert_refused(ask(gateway, context), "issuer-unknown")
    assert gateway.operator.events() == []


# --- what HTTP refuses ---------------------------------------------------------------------------

CA_LEAF: Extensions = [
    (x509.BasicConstraints(ca=True, path_length=None), True),
    (key_usage("digital_signature", "key_cert_sign"), True),
    DEVICE_EXTENSIONS[1],
]


def common_names(*names: str) -> Callable[[Pki], Identity]:
    return lambda pki: pki.device_ca.device(names)


def without_common_name(pki: Pki) -> Identity:
    factory = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, FACTORY)
    return pki.device_ca.device(subject=x509.Name([factory]))


HTTP_REFUSES: dict[str, tuple[Callable[[Pki], Identity], str]] = {
    "a CA": (lambda pki: pki.device_ca.device(extensions=CA_LEAF), "certificate-is-ca"),
    "two common names": (common_names("one", "two"), "certificate-identity"),
    "the same common name twice": (common_names("one", "one"), "certificate-identity"),
    "no common name": (without_common_name, "certificate-identity"),
    "a space": (common_names("a b"), "certificate-identity"),
    "a slash": (common_names("a/b"), "certificate-identity"),
    "dots": (common_names(".."), "certificate-identity"),
    "a line feed": (common_names("a\nb"), "certificate-identity"),
    "no ASCII": (common_names("gerät"), "certificate-identity"),
    "a line feed in the factory": (
        lambda pki: pki.device_ca.device(factory="a\nb"),
        "certificate-identity",
    ),
}


@both_versions
@pytest.mark.parametrize("case", HTTP_REFUSES)
def test_an_unfit_certificate_is_told_why(
    gateway: Gateway, backend: Backend, pki: Pki, case: str, version: str
) -> None:
    make, reason = HTTP_REFUSES[case]
    assert_refused(ask(gateway, client(pki, make(pki), version)), reason)

    entry = gateway.log.wait("request", reason=reason)
    assert "device" not in entry
    assert backend.requests == []
    assert gateway.operator.events() == []


@pytest.mark.parametrize("kind", ["P-224", "K-256"])
def test_a_curve_that_tls_does_not_offer_is_refused_by_alert(
    gateway: Gateway, pki: Pki, kind: str
) -> None:
    context = client(pki, pki.device_ca.device(key=new_key(kind)), "1.2")
    assert_alert(gateway, context, "SSLV3_ALERT_ILLEGAL_PARAMETER", "wrong curve")


@pytest.mark.parametrize("kind", ["P-224", "K-256"])
def test_a_weak_curve_is_told_why_where_tls_lets_it_through(
    start_gateway: StartGateway, folder: Path, pki: Pki, kind: str
) -> None:
    groups = "P-256:secp224r1:secp256k1"
    gateway = start_gateway(
        {
            "listeners": [listener("devices", folder, "devices", groups=groups)],
            "routes": [{"prefix": "/", "backend": "api"}],
        }
    )
    options = ("-tls1_2", "-groups", groups, "-cipher", "DEFAULT:@SECLEVEL=0", "-quiet")
    identity = pki.device_ca.device(key=new_key(kind))
    with OpenSslClient(gateway, pki, folder, identity, *options) as weak:
        weak.send(request("GET", "/hello"))
        weak.await_output('"reason":"certificate-key-weak"')
    gateway.log.wait("request", reason="certificate-key-weak", status=403)
    assert gateway.operator.events() == []


@both_versions
@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "Ed25519", "RSA-2048"])
def test_every_allowed_key_passes(
    gateway: Gateway, backend: Backend, pki: Pki, kind: str, version: str
) -> None:
    identity = pki.device_ca.device(key=new_key(kind))
    assert_admitted(ask(gateway, client(pki, identity, version)))
    assert backend.requests[0].header("X-Device-Key") == identity.key_id


@both_versions
def test_a_certificate_that_tools_make_without_extensions_passes(
    gateway: Gateway, pki: Pki, version: str
) -> None:
    assert_admitted(ask(gateway, client(pki, pki.device_ca.device(extensions=[]), version)))


# --- expiry, and the grace that follows ----------------------------------------------------------

QUARANTINE = {"rotation": {"expired_grace": "2d"}}


@both_versions
def test_an_expired_certificate_is_quarantined_within_the_grace(
    start_gateway: StartGateway, backend: Backend, pki: Pki, version: str
) -> None:
    """A device that slept for months can still rotate, and do nothing else."""
    gateway = start_gateway(QUARANTINE)
    valid = pki.device_ca.device()
    expired = pki.device_ca.device(valid.name, key=valid.key, **LONG_AGO)
    assert_admitted(ask(gateway, client(pki, valid, version)))

    asleep = client(pki, expired, version)
    assert ask(gateway, asleep, "/device").status == 200
    refusal = ask(gateway, asleep, "/hello")
    assert (refusal.status, refusal.reason) == (403, "certificate-expired-quarantine")
    assert len(backend.requests) == 1

    next_pem = pki.device_ca.device(valid.name).public_pem
    with Connection(gateway.address(), asleep) as connection:
        body = b'{"next_pubkey":"%s"}' % next_pem.replace("\n", "\\n").encode()
        assert connection.handshake().request("PATCH", "/device", body=body).status == 200


@both_versions
def test_an_expired_certificate_registers_nothing(
    start_gateway: StartGateway, pki: Pki, version: str
) -> None:
    """Grace is for keys that count already (invariant 2)."""
    gateway = start_gateway(QUARANTINE)
    expired = pki.device_ca.device(**LONG_AGO)
    assert_refused(ask(gateway, client(pki, expired, version), "/device"), "certificate-expired")
    assert gateway.operator.get(f"/v1/devices/{expired.name}").status == 404
    assert gateway.operator.events() == []


@both_versions
def test_the_grace_ends(start_gateway: StartGateway, pki: Pki, version: str) -> None:
    gateway = start_gateway({"rotation": {"expired_grace": "12h"}})
    context = client(pki, pki.device_ca.device(**LONG_AGO), version)
    assert_alert(gateway, context, "SSLV3_ALERT_CERTIFICATE_EXPIRED", "certificate has expired")


# --- device CAs and registration -----------------------------------------------------------------


def acme(state: str = "active", crl: Optional[str] = None) -> Config:
    ca = {"name": "acme", "certificate": "device-ca.pem", "state": state}
    return {**ca, "crl": crl} if crl is not None else ca


def with_cas(*cas: Config) -> Config:
    return {"device_cas": list(cas)}


@both_versions
def test_a_disabled_ca_registers_no_new_devices(
    start_gateway: StartGateway, backend: Backend, pki: Pki, version: str
) -> None:
    known, new = pki.device_ca.device(), pki.device_ca.device()
    first = start_gateway()
    assert_admitted(ask(first, client(pki, known, version)))

    gateway = start_gateway(with_cas(acme("disabled")))
    assert_admitted(ask(gateway, client(pki, known, version)))
    assert_refused(ask(gateway, client(pki, new, version)), "issuer-disabled")
    assert [request.header("X-Device-Id") for request in backend.requests] == [known.name] * 2
    assert gateway.operator.get(f"/v1/devices/{new.name}").status == 404


@both_versions
def test_a_revoked_ca_is_refused_to_known_devices_too(
    start_gateway: StartGateway, backend: Backend, pki: Pki, version: str
) -> None:
    known, new = pki.device_ca.device(), pki.device_ca.device()
    assert_admitted(ask(start_gateway(), client(pki, known, version)))

    gateway = start_gateway(with_cas(acme("revoked")))
    for identity in (known, new):
        assert_refused(ask(gateway, client(pki, identity, version)), "issuer-revoked")
    assert len(backend.requests) == 1
    assert gateway.operator.get(f"/v1/devices/{new.name}").status == 404


@both_versions
def test_closed_registration_admits_only_who_was_registered(
    start_gateway: StartGateway, backend: Backend, pki: Pki, version: str
) -> None:
    """An operator registers a device by its key; another key of that name stays out (invariant
    2).
    """
    gateway = start_gateway({"rotation": {"registration": "closed"}})
    identity = pki.device_ca.device()
    impostor = pki.device_ca.device(identity.name)
    assert_refused(ask(gateway, client(pki, identity, version)), "device-unknown")
    assert gateway.operator.events() == []

    answer = gateway.operator.accept_key(identity.name, identity.public_pem)
    assert (answer.status, answer.json()["reason"]) == (200, "key-registered")
    assert_refused(ask(gateway, client(pki, impostor, version)), "key-not-announced")
    assert_admitted(ask(gateway, client(pki, identity, version)))
    assert [request.header("X-Device-Id") for request in backend.requests] == [identity.name]


# --- certificate_authorities ---------------------------------------------------------------------


def names_announced(
    gateway: Gateway, pki: Pki, folder: Path, identity: Identity, version: str
) -> list[str]:
    """As s_client lists them: stock agents keep their certificate back unless its issuer is among
    them, or nobody is.
    """
    options = (f"-tls{version.replace('.', '_')}", "-nameopt", "RFC2253")
    with OpenSslClient(gateway, pki, folder, identity, *options) as s_client:
        lines = s_client.await_end().splitlines()
    if "No client certificate CA names sent" in lines:
        return []
    start = lines.index("Acceptable client certificate CA names") + 1
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("CN"))
    return lines[start:end]


def gnutls_offers_certificate(gateway: Gateway, identity: Identity, folder: Path) -> bool:
    """Whether GnuTLS, which looks at the list as stock agents do, gets in."""
    certificate, key = identity.write(folder, "gnutls", with_chain=False)
    host, port = gateway.address()
    done = subprocess.run(
        ["gnutls-cli", "--no-ca-verification", "-p", str(port), host, "-V"]
        + ["--x509certfile", str(certificate), "--x509keyfile", str(key)],
        input="GET /gnutls HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        capture_output=True,
        text=True,
        timeout=20,
    )
    return "HTTP/1.1 200 " in done.stdout


@pytest.fixture
def another_ca(folder: Path) -> Authority:
    authority = Authority.root("Another Device CA")
    authority.write(folder / "another-ca.pem")
    return authority


def announcing(folder: Path, announce: bool) -> Config:
    """Three CAs in three states. What stands above the issuing one is no issuer."""
    another = {"name": "another", "certificate": "another-ca.pem", "state": "disabled"}
    revoked = {"name": "revoked", "certificate": "revoked-ca.pem", "state": "revoked"}
    Authority.root("Revoked Device CA").write(folder / "revoked-ca.pem")
    return {
        "listeners": [listener("devices", folder, "devices", announce_cas=announce)],
        "device_cas": [acme(), another, revoked],
        "routes": [{"prefix": "/", "backend": "api"}],
    }


@both_versions
def test_every_issuing_ca_is_announced(
    start_gateway: StartGateway, folder: Path, pki: Pki, another_ca: Authority, version: str
) -> None:
    """The disabled and the revoked one too, or their devices could not read why they are
    refused.
    """
    gateway = start_gateway(announcing(folder, True))
    names = names_announced(gateway, pki, folder, pki.device_ca.device(), version)
    assert sorted(names) == ["CN=Another Device CA", "CN=Revoked Device CA", "CN=Test Device CA"]


@both_versions
def test_no_ca_is_announced_when_that_is_configured(
    start_gateway: StartGateway, folder: Path, pki: Pki, another_ca: Authority, version: str
) -> None:
    gateway = start_gateway(announcing(folder, False))
    assert names_announced(gateway, pki, folder, pki.device_ca.device(), version) == []


@pytest.mark.parametrize("announce", [True, False])
def test_clients_that_look_at_the_announced_cas_offer_their_certificate(
    start_gateway: StartGateway, folder: Path, pki: Pki, another_ca: Authority, announce: bool
) -> None:
    gateway = start_gateway(announcing(folder, announce))
    assert gnutls_offers_certificate(gateway, pki.device_ca.device(), folder)
    assert not gnutls_offers_certificate(gateway, pki.stranger_ca.device(), folder)
