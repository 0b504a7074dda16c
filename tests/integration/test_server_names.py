# SPDX-License-Identifier: BSD-2-Clause
"""Several certificates on one listener: a client gets the one whose name it asks for."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Optional

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from conftest import NewDevice, StartGateway
from device import Connection, Device
from gateway import Config, Gateway, listener, merged
from openssl_client import OpenSslClient
from pki import Authority, Identity, Pki, new_key

both_versions = pytest.mark.parametrize("version", ["1.2", "1.3"])

# The certificate's stem -> its names. "localhost" is that of the listener's `certificate`.
NAMES = {
    "api": ("api.example", "API2.example"),
    "wild": ("*.fleet.example", "bare.example"),
    "late": ("api.example", "late.example", "exact.fleet.example"),
}


def listeners(folder: Path, *stems: str) -> Config:
    certificates = [{"certificate": f"{stem}.pem", "key": f"{stem}.key"} for stem in stems]
    return {"listeners": [listener("devices", folder, "devices", certificates=certificates)]}


Named = tuple[Gateway, dict[str, Identity]]


@pytest.fixture
def named(start_gateway: StartGateway, folder: Path, pki: Pki) -> Named:
    identities = {stem: pki.server_ca.server(*names) for stem, names in NAMES.items()}
    for stem, identity in identities.items():
        identity.write(folder, stem, with_chain=True)
    route = {"routes": [{"prefix": "/", "backend": "api"}]}
    gateway = start_gateway({**listeners(folder, *identities), **route})
    return gateway, {**identities, "server": pki.server}


def shown(device: Device, server_name: Optional[str], version: str = "1.3") -> bytes:
    """The certificate that a client gets, after a request has passed."""
    context = device.context(version)
    context.check_hostname = False
    options: dict[str, Any] = {"server_name": server_name}
    with device.connect(context=context, **options) as connection:
        assert connection.request("GET", "/hello").status == 200
        der = connection.tls.getpeercert(binary_form=True)
    assert der is not None
    return der


# The SNI -> the certificate.
CASES = {
    "api.example": "api",
    "api2.example": "api",
    "device-1.fleet.example": "wild",
    "bare.example": "wild",
    "late.example": "late",
    "exact.fleet.example": "late",
    "fleet.example": "server",
    "a.b.fleet.example": "server",
    "x.bare.example": "server",
    "unknown.example": "server",
    "localhost": "server",
    None: "server",
}


@both_versions
def test_a_client_gets_the_certificate_that_it_asks_for(
    named: Named, new_device: NewDevice, version: str
) -> None:
    gateway, identities = named
    device = new_device(to=gateway)
    got = {sni: shown(device, sni, version) for sni in CASES}
    stems = {identity.certificate_der: stem for stem, identity in identities.items()}
    assert {sni: stems[der] for sni, der in got.items()} == CASES


@both_versions
def test_names_are_verified_by_clients(named: Named, new_device: NewDevice, version: str) -> None:
    """With the client's own check of the name, and whatever case it is asked for in."""
    gateway, _ = named
    device = new_device(to=gateway)
    for sni in ("Api.Example", "bare.example", "localhost"):
        with device.connect(version, server_name=sni) as connection:
            assert connection.request("GET", "/hello").status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        with device.connect(version, server_name="unknown.example"):
            pass


@both_versions
def test_a_session_is_resumed_under_its_own_name_only(
    named: Named, new_device: NewDevice, version: str
) -> None:
    gateway, identities = named
    device = new_device(to=gateway)
    context = device.context(version)

    def visit(sni: str, session: Optional[ssl.SSLSession]) -> tuple[bool, Any]:
        with Connection(device.address, context, server_name=sni, session=session) as connection:
            assert connection.handshake().request("GET", "/hello").status == 200
            return connection.resumed, connection.session()

    resumed, session = visit("api.example", None)
    assert not resumed
    resumed, session = visit("api.example", session)
    assert resumed
    # Another certificate, and another name of the same one.
    assert not visit("bare.example", session)[0]
    assert not visit("api2.example", session)[0]


def dns_names(identity: Identity) -> list[str]:
    extension = identity.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


def test_rsa_and_ec_stand_beside_each_other(
    start_gateway: StartGateway, folder: Path, pki: Pki, new_device: NewDevice
) -> None:
    """Under the same names: who understands no signature but RSA's gets the RSA certificate."""
    stems = {"rsa": new_key("RSA-2048"), "other-ec": new_key()}
    for stem, key in stems.items():
        names = dns_names(pki.server)
        pki.server_ca.server(*names, key=key).write(folder, stem, with_chain=True)
    gateway = start_gateway(
        {**listeners(folder, *stems), "routes": [{"prefix": "/", "backend": "api"}]}
    )
    assert shown(new_device(to=gateway), "localhost") == pki.server.certificate_der
    device = pki.device_ca.device(key=new_key("RSA-2048"))
    with OpenSslClient(
        gateway, pki, folder, device, "-servername", "localhost", "-sigalgs", "rsa_pss_rsae_sha256"
    ) as client:
        client.send(b"GET /rsa HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        client.await_output("HTTP/1.1 200 ")
        output = client.output
    pem = (
        output[output.index("-----BEGIN") : output.index("-----END")] + "-----END CERTIFICATE-----"
    )
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    assert isinstance(key, rsa.RSAPublicKey)


def test_a_reload_changes_certificates_and_names(
    named: Named, folder: Path, pki: Pki, new_device: NewDevice
) -> None:
    gateway, identities = named
    device = new_device(to=gateway)
    with device.connect(server_name="late.example") as before:
        assert before.request("GET", "/a").status == 200
        renewed = pki.server_ca.server("api.example", "new.example")
        renewed.write(folder, "api", with_chain=True)
        gateway.reload(merged(gateway.config, listeners(folder, "api")))
        assert shown(device, "api.example") == renewed.certificate_der
        assert shown(device, "new.example") == renewed.certificate_der
        assert shown(device, "late.example") == identities["server"].certificate_der
        assert before.request("GET", "/b").status == 200


def without_names(folder: Path) -> None:
    authority = Authority.root("x")
    key = new_key()
    certificate = authority.leaf(key.public_key(), x509.Name([]), [])
    Identity("x", key, certificate, []).write(folder, "api")


def with_another_key(folder: Path) -> None:
    (folder / "api.key").write_bytes((folder / "wild.key").read_bytes())


def gone(folder: Path) -> None:
    (folder / "api.pem").unlink()


@pytest.mark.parametrize(
    "break_it, message",
    [
        (without_names, "api.pem: the certificate has no DNS name"),
        (with_another_key, "api.key: the key does not belong to the first certificate in"),
        (gone, "api.pem: cannot be read"),
    ],
)
def test_a_broken_further_certificate_is_refused(
    named: Named, folder: Path, new_device: NewDevice, break_it: Any, message: str
) -> None:
    gateway, identities = named
    break_it(folder)
    entry = gateway.reload(expect="reload refused")
    assert message in entry["error"]
    device = new_device(to=gateway)
    assert shown(device, "api.example") == identities["api"].certificate_der
