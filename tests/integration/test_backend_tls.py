# SPDX-License-Identifier: BSD-2-Clause
"""TLS to backends: whom the gateway trusts, whom it shows itself as, and what it says when that
fails.
"""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from typing import Any, Iterator, Optional

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from backend import Backend, Exchange
from conditions import wait_until
from conftest import NewDevice, StartGateway
from gateway import check_config
from pki import Authority, Extensions, Identity, key_usage, name, new_key


class TlsBackend(Backend):
    """The same behind TLS: it reads and writes through `context`."""

    def __init__(self, context: ssl.SSLContext):
        super().__init__()
        self.context = context
        self.resumed: list[bool] = []
        self.names: list[Optional[str]] = []
        self.clients: list[Any] = []
        self.failed = 0
        context.sni_callback = lambda sock, name, _: self.names.append(name)

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            secured = self.context.wrap_socket(sock, server_side=True)
        except (OSError, ssl.SSLError):
            self.failed += 1
            return
        self.resumed.append(bool(secured.session_reused))
        self.clients.append(secured.getpeercert())
        with self._lock:
            self._open.add(secured)
        super()._serve(secured, number)


def server_context(folder: Path, identity: Identity, stem: str = "backend") -> ssl.SSLContext:
    certificate, key = identity.write(folder, stem, with_chain=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def named(ca: Authority, common_name: str, *dns_names: str) -> Identity:
    """A server's certificate with these names and no address."""
    key = new_key()
    extensions: Extensions = [
        (key_usage("digital_signature"), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    ]
    if dns_names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(n) for n in dns_names])
        extensions.append((alternatives, False))
    return Identity("server", key, ca.leaf(key.public_key(), name(common_name), extensions), [])


@pytest.fixture
def ca(folder: Path) -> Authority:
    authority = Authority.root("Backend CA")
    authority.write(folder / "backend-ca.pem")
    return authority


@pytest.fixture
def tls_backend(folder: Path, ca: Authority) -> Iterator[TlsBackend]:
    server = TlsBackend(server_context(folder, ca.server("backend.test")))
    server.start()
    yield server
    server.stop()
    assert server.errors == []


def over_tls(backend: Backend, **tls: Any) -> dict[str, Any]:
    settings = {"enabled": True, "ca_file": "backend-ca.pem", **tls}
    return {"backends": [{"name": "api", "servers": [backend.address], "tls": settings}], "workers": 1}


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_requests_pass_over_tls(
    start_gateway: StartGateway, tls_backend: TlsBackend, new_device: NewDevice, version: str
) -> None:
    if version == "1.2":
        tls_backend.context.maximum_version = ssl.TLSVersion.TLSv1_2
    gateway = start_gateway(over_tls(tls_backend, min_version=version))
    body = bytes(range(256)) * 4096

    def double(exchange: Exchange) -> None:
        exchange.respond(200, exchange.read_body() * 2)

    tls_backend.on("/double", double)
    with new_device(to=gateway).connect() as connection:
        for _ in range(3):
            assert connection.request("POST", "/double", body=body).body == body * 2
            assert connection.request("POST", "/double", body=b"small").body == b"smallsmall"
    assert tls_backend.connections == 1


def test_bodies_stream_both_ways_over_tls(
    start_gateway: StartGateway, tls_backend: TlsBackend, new_device: NewDevice
) -> None:
    gateway = start_gateway(over_tls(tls_backend))
    piece = b"0123456789abcdef" * 1000

    def stream(exchange: Exchange) -> None:
        exchange.respond_chunked(piece for _ in range(1000))

    tls_backend.on("/stream", stream)
    assert new_device(to=gateway).get("/stream").body == piece * 1000


def test_the_server_is_asked_for_and_verified_by_its_name(
    start_gateway: StartGateway, tls_backend: TlsBackend, new_device: NewDevice
) -> None:
    gateway = start_gateway(over_tls(tls_backend, server_name="backend.test"))
    assert new_device(to=gateway).get("/").status == 200
    assert tls_backend.names == ["backend.test"]


def test_a_host_name_is_what_its_certificate_must_name(
    start_gateway: StartGateway, folder: Path, ca: Authority, new_device: NewDevice
) -> None:
    server = TlsBackend(server_context(folder, ca.server("localhost")))
    server.start()
    changes = over_tls(server)
    changes["backends"][0]["servers"] = ["localhost:" + server.address.split(":")[1]]
    gateway = start_gateway(changes)
    assert new_device(to=gateway).get("/").status == 200
    assert server.names == ["localhost"]
    server.stop()


@pytest.mark.parametrize(
    "case, detail",
    [
        ("other name", 'the server\'s certificate is not for "other.test"'),
        ("other address", 'the server\'s certificate is not for "127.0.0.1"'),
        ("common name", 'the server\'s certificate is not for "backend.test"'),
        ("part of a label", 'the server\'s certificate is not for "backend.backend.test"'),
        ("other CA", "the server's certificate is not trusted: "),
        ("too old", "the server"),
        ("wants a certificate", "it may demand a client certificate"),
    ],
)
def test_what_cannot_be_trusted_gets_no_byte_of_a_request(
    start_gateway: StartGateway,
    folder: Path,
    ca: Authority,
    new_device: NewDevice,
    case: str,
    detail: str,
) -> None:
    identity = ca.server("backend.test")
    if case == "other CA":
        identity = Authority.root("Stranger").server("backend.test")
    if case == "other address":
        identity = named(ca, "127.0.0.1", "backend.test")
    if case == "common name":
        identity = named(ca, "backend.test")
    if case == "part of a label":
        identity = named(ca, "x", "back*.backend.test")
    context = server_context(folder, identity)
    if case == "too old":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if case == "wants a certificate":
        # At 1.3 the refusal comes only after the handshake.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "backend-ca.pem")
    server = TlsBackend(context)
    server.start()
    tls = {
        "other name": {"server_name": "other.test"},
        "common name": {"server_name": "backend.test"},
        "part of a label": {"server_name": "backend.backend.test"},
        "too old": {"min_version": "1.3"},
    }.get(case, {})
    gateway = start_gateway(over_tls(server, **tls))
    response = new_device(to=gateway).get("/secret")
    assert response.status == 502
    if case != "wants a certificate":
        assert response.reason == "backend-tls"
    assert detail in gateway.log.wait("backend failed")["detail"]
    assert server.requests == []
    server.stop()


def test_a_server_without_tls_is_told_apart(
    start_gateway: StartGateway, ca: Authority, new_device: NewDevice
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            sock, _ = plain.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        address = f"127.0.0.1:{plain.getsockname()[1]}"
        tls = {"enabled": True, "ca_file": "backend-ca.pem"}
        gateway = start_gateway({"backends": [{"name": "api", "servers": [address], "tls": tls}]})
        response = new_device(to=gateway).get("/")
    assert (response.status, response.reason) == (502, "backend-tls")
    assert "what the server sent is not TLS" in gateway.log.wait("backend failed")["detail"]


def test_the_gateway_shows_its_certificate(
    start_gateway: StartGateway, folder: Path, ca: Authority, new_device: NewDevice
) -> None:
    context = server_context(folder, ca.server("backend.test"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "backend-ca.pem")
    ca.device("gateway-1", factory=None).write(folder, "us")
    server = TlsBackend(context)
    server.start()
    gateway = start_gateway(over_tls(server, certificate="us.pem", key="us.key"))
    device = new_device(to=gateway)
    assert device.get("/").status == 200
    assert (("commonName", "gateway-1"),) in server.clients[0]["subject"]

    # A reload brings the new one.
    ca.device("gateway-2", factory=None).write(folder, "us")
    gateway.reload()
    assert device.get("/").status == 200
    assert (("commonName", "gateway-2"),) in server.clients[-1]["subject"]

    # What cannot be read is refused, and nothing changes.
    (folder / "us.key").write_text("nonsense")
    assert "us.key" in gateway.reload(expect="reload refused")["error"]
    assert device.get("/").status == 200
    server.stop()


def test_sessions_are_resumed(
    start_gateway: StartGateway, tls_backend: TlsBackend, new_device: NewDevice
) -> None:
    changes = over_tls(tls_backend)
    changes["backends"][0]["keepalive_connections"] = 0
    gateway = start_gateway(changes)
    device = new_device(to=gateway)
    for _ in range(3):
        assert device.get("/").status == 200
    wait_until(lambda: len(tls_backend.resumed) == 3, "three handshakes")
    assert tls_backend.resumed == [False, True, True]


def test_a_silent_handshake_is_over_with_connect_timeout(
    start_gateway: StartGateway, ca: Authority, new_device: NewDevice
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        backend = {"name": "api", "servers": [address], "connect_timeout": "200ms"}
        gateway = start_gateway(
            {"backends": [{**backend, "tls": {"enabled": True, "ca_file": "backend-ca.pem"}}]}
        )
        response = new_device(to=gateway).get("/")
    assert (response.status, response.reason) == (504, "backend-connect-timeout")


def test_a_kept_connection_that_ends_is_not_noticed_over_tls(
    start_gateway: StartGateway, tls_backend: TlsBackend, new_device: NewDevice
) -> None:
    gateway = start_gateway(over_tls(tls_backend))

    def once(exchange: Exchange) -> None:
        exchange.respond(200, exchange.read_body())
        exchange.close()

    tls_backend.on("/once", once)
    with new_device(to=gateway).connect() as connection:
        for _ in range(20):
            assert connection.request("PUT", "/once", body=b"x").status == 200


def test_the_check_reads_the_files(
    start_gateway: StartGateway, folder: Path, tls_backend: TlsBackend
) -> None:
    gateway = start_gateway(over_tls(tls_backend))
    (folder / "backend-ca.pem").write_text("nothing")
    result = check_config(gateway.config_file)
    assert result.returncode != 0
    assert "backend-ca.pem" in result.stderr


def test_probes_go_over_tls_as_well(
    start_gateway: StartGateway, tls_backend: TlsBackend, new_device: NewDevice
) -> None:
    changes = over_tls(tls_backend)
    changes["backends"][0]["health"] = {"path": "/health", "every": "20ms"}
    gateway = start_gateway(changes)
    tls_backend.await_request("/health", 3)
    assert new_device(to=gateway).get("/").status == 200
    assert gateway.log.find("a server of the backend is unhealthy") == []
