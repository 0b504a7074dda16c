# SPDX-License-Identifier: BSD-2-Clause
"""Other people's TLS clients get through, old and dangerous TLS does not."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import subprocess
from pathlib import Path
from typing import Optional

import pytest

from backend import Backend
from conditions import DEADLINE
from conftest import NewDevice
from device import Address, Connection
from gateway import Gateway
from openssl_client import OpenSslClient
from pki import Pki
from wire import request

both_versions = pytest.mark.parametrize("version", ["1.2", "1.3"])

CLOSING = [("Connection", "close")]


def run(command: list[str], data: bytes = b"") -> str:
    done = subprocess.run(command, input=data, capture_output=True, timeout=DEADLINE)
    return (done.stdout + done.stderr).decode(errors="replace")


# --- clients that nobody here wrote --------------------------------------------------------------


@both_versions
def test_curl_gets_through(
    gateway: Gateway, backend: Backend, pki: Pki, folder: Path, version: str
) -> None:
    identity = pki.device_ca.device()
    certificate, key = identity.write(folder, "curl")
    host, port = gateway.address()
    curl = ["curl", "-sS", "--cacert", str(pki.server_ca.write(folder / "trust.pem"))]
    curl += ["--cert", str(certificate), "--key", str(key), f"--tlsv{version}"]
    curl += ["--tls-max", version, "--connect-to", f"::{host}:{port}"]
    url = "https://gateway.test"

    body = bytes(range(256)) * 1000
    echoed = json.loads(run(curl + ["--data-binary", "@-", f"{url}/first"], body))
    assert echoed["length"] == len(body)
    run(curl + [f"{url}/second", "--next"] + curl[1:] + [f"{url}/third"])

    assert [r.path for r in backend.requests] == ["/first", "/second", "/third"]
    assert {r.header("X-Device-Id") for r in backend.requests} == {identity.name}
    closed = gateway.log.wait("connection closed", listener="devices", device=identity.name)
    assert closed["tls"] == f"TLSv{version}"


@both_versions
def test_s_client_gets_through(
    gateway: Gateway, backend: Backend, pki: Pki, folder: Path, version: str
) -> None:
    identity = pki.device_ca.device()
    option = f"-tls{version.replace('.', '_')}"
    with OpenSslClient(gateway, pki, folder, identity, option) as client:
        client.send(request("GET", "/s_client", CLOSING))
        client.await_output("HTTP/1.1 200 ")
    assert backend.of("/s_client")[0].header("X-Device-Id") == identity.name
    assert f"Protocol version: TLSv{version}" in client.output or f"TLSv{version}" in client.output


@both_versions
def test_gnutls_gets_through(
    gateway: Gateway, backend: Backend, pki: Pki, folder: Path, version: str
) -> None:
    identity = pki.device_ca.device()
    certificate, key = identity.write(folder, "gnutls")
    trust = pki.server_ca.write(folder / "trust.pem")
    host, port = gateway.address()
    output = run(
        ["gnutls-cli", "--x509cafile", str(trust), "--x509certfile", str(certificate)]
        + ["--x509keyfile", str(key), "--priority", f"NORMAL:-VERS-ALL:+VERS-TLS{version}"]
        + ["--sni-hostname", "localhost", "--verify-hostname", "localhost"]
        + ["-p", str(port), host],
        request("GET", "/gnutls", CLOSING),
    )
    assert "HTTP/1.1 200 " in output
    assert f"(TLS{version}" in output
    assert backend.of("/gnutls")[0].header("X-Device-Id") == identity.name


@both_versions
def test_python_gets_through(backend: Backend, new_device: NewDevice, version: str) -> None:
    device = new_device()
    with device.connect(version) as connection:
        assert connection.version == f"TLSv{version}"
        assert connection.request("GET", "/python").status == 200
    assert backend.of("/python")[0].header("X-Device-Id") == device.name


# --- hellos --------------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize("offer", [None, ["http/1.1"], ["h2", "http/1.1"], ["h2"]])
def test_any_alpn_or_none_gets_http_1_1(
    new_device: NewDevice, version: str, offer: Optional[list[str]]
) -> None:
    device = new_device()
    context = device.context(version)
    if offer is not None:
        context.set_alpn_protocols(offer)
    with device.connect(context=context) as connection:
        assert connection.tls.selected_alpn_protocol() in (None, "http/1.1")
        assert connection.request("GET", "/hello").status == 200


@both_versions
def test_a_client_without_sni_gets_through(
    backend: Backend, new_device: NewDevice, version: str
) -> None:
    device = new_device()
    context = device.context(version)
    context.check_hostname = False
    with device.connect(context=context, server_name=None) as connection:
        assert connection.request("GET", "/hello").status == 200
    assert backend.requests[0].header("X-Device-Id") == device.name


@both_versions
@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_a_large_hello_gets_through_in_pieces(
    gateway: Gateway, new_device: NewDevice, version: str, piece: int
) -> None:
    """As large as one with a post-quantum key share, and larger than a segment; byte by byte it
    comes in thousands of segments, through several wake-ups of the gateway.
    """
    device = new_device()
    context = device.context(version)
    context.set_alpn_protocols([f"{i:03}".rjust(200, "x") for i in range(20)] + ["http/1.1"])
    with Connection(device.address, context) as connection:
        assert connection.handshake(piece).request("GET", "/hello").status == 200
    assert gateway.operator.metrics()['dgw_handshakes_total{result="failed"}'] == 0


def extension(number: int, data: bytes) -> bytes:
    return struct.pack("!HH", number, len(data)) + data


def sized(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


# ECDSA with P-256, RSA-PSS, RSA; X25519, P-256.
SIGNATURES = extension(13, sized(struct.pack("!3H", 0x0403, 0x0804, 0x0401)))
GROUPS = extension(10, sized(struct.pack("!2H", 29, 23)))
SUITES = sized(struct.pack("!4H", 0x1301, 0xC02B, 0xC02F, 0xC009))


def client_hello(version: int, extensions: bytes, compressions: bytes = b"\0") -> bytes:
    """The record of a ClientHello by hand. `version` is the legacy one: 0x0303 at 1.2 and 1.3."""
    body = struct.pack("!H", version) + os.urandom(32) + b"\0" + SUITES
    body += bytes([len(compressions)]) + compressions + sized(extensions)
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + sized(message)


def first_record(address: Address, hello: bytes, piece: int = 1 << 20) -> tuple[int, bytes]:
    """The type and the content of what the gateway answers first."""
    with socket.create_connection(address, DEADLINE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(hello), piece):
            sock.sendall(hello[start : start + piece])
        with sock.makefile("rb") as file:
            head = file.read(5)
            return head[0], file.read(struct.unpack("!H", head[3:])[0])


ALERT, HANDSHAKE, SERVER_HELLO = 21, 22, 2
FATAL, HANDSHAKE_FAILURE, PROTOCOL_VERSION = 2, 40, 70


@pytest.mark.parametrize(
    "version, alert",
    [(0x0300, HANDSHAKE_FAILURE), (0x0301, PROTOCOL_VERSION), (0x0302, PROTOCOL_VERSION)],
)
def test_older_versions_are_refused(gateway: Gateway, version: int, alert: int) -> None:
    """SSL 3 (which does not know protocol_version), TLS 1.0, TLS 1.1. The same hello at 1.2 is
    welcome.
    """
    hello = SIGNATURES + GROUPS
    refusal = first_record(gateway.address(), client_hello(version, hello))
    assert refusal == (ALERT, bytes([FATAL, alert]))
    closed = gateway.log.wait("connection closed", reason="tls-failed", listener="devices")
    assert "version" in closed["detail"] or "protocol" in closed["detail"]
    assert first_record(gateway.address(), client_hello(0x0303, hello))[0] == HANDSHAKE


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_gnutls_at_older_versions_is_refused(gateway: Gateway, pki: Pki, version: str) -> None:
    host, port = gateway.address()
    priority = f"NORMAL:-VERS-ALL:+VERS-TLS{version}:%VERIFY_ALLOW_SIGN_WITH_SHA1"
    output = run(["gnutls-cli", "--insecure", "--priority", priority, "-p", str(port), host])
    assert "Handshake was completed" not in output
    assert "protocol version" in output.lower()


def test_compression_is_not_taken(gateway: Gateway) -> None:
    """CRIME. A client that prefers DEFLATE gets the null method."""
    hello = client_hello(0x0303, SIGNATURES + GROUPS, compressions=b"\x01\x00")
    kind, content = first_record(gateway.address(), hello)
    assert (kind, content[0]) == (HANDSHAKE, SERVER_HELLO)
    session_id_length = content[38]
    assert content[39 + session_id_length + 2] == 0


@pytest.mark.parametrize("piece", [1, 1200, 1 << 20])
def test_a_post_quantum_hello_is_answered(gateway: Gateway, piece: int) -> None:
    """X25519MLKEM768 first, X25519 beside it, as the newer stock agents offer it. The
    encapsulation key is that of all zeroes, which is one.
    """
    x25519 = b"\x09" + bytes(31)
    hybrid = struct.pack("!H", 0x11EC) + sized(bytes(1184) + x25519)
    classic = struct.pack("!H", 29) + sized(x25519)
    extensions = SIGNATURES + extension(10, sized(struct.pack("!3H", 0x11EC, 29, 23)))
    extensions += extension(43, b"\x02" + struct.pack("!H", 0x0304))
    extensions += extension(51, sized(hybrid + classic))
    kind, content = first_record(gateway.address(), client_hello(0x0303, extensions), piece)
    assert (kind, content[0]) == (HANDSHAKE, SERVER_HELLO)


# --- what TLS can do and the gateway does not ----------------------------------------------------


def test_renegotiation_is_refused(
    gateway: Gateway, backend: Backend, pki: Pki, folder: Path
) -> None:
    """At 1.2 a renegotiation could change who speaks in the middle of a connection (invariant
    1).
    """
    with OpenSslClient(gateway, pki, folder, pki.device_ca.device(), "-tls1_2") as client:
        client.send(request("GET", "/before"))
        client.await_output('"sha256"')  # all of it: s_client stumbles over data in between
        client.send(b"R\n")
        client.await_output("RENEGOTIATING")
        client.await_output("no renegotiation")
    assert [r.path for r in backend.requests] == ["/before"]
    assert gateway.operator.metrics()['dgw_handshakes_total{result="full"}'] == 1


def test_a_key_update_changes_nothing(
    gateway: Gateway, backend: Backend, pki: Pki, folder: Path
) -> None:
    """What 1.3 has in place of a renegotiation is harmless, and clients may ask for it."""
    with OpenSslClient(gateway, pki, folder, pki.device_ca.device(), "-tls1_3") as client:
        client.send(request("GET", "/before"))
        client.await_output('"sha256"')
        client.send(b"K\n")
        client.await_output("KEYUPDATE")
        client.send(request("GET", "/after"))
        client.await_output("HTTP/1.1 200 ", count=2)
    assert [r.path for r in backend.requests] == ["/before", "/after"]


def with_early_data(session_pem: str, limit: int = 16384) -> str:
    """The client's memory of a session, falsified: as if the server had allowed early data
    (SSL_SESSION's max_early_data, [15] EXPLICIT INTEGER).
    """
    label = "SSL SESSION PARAMETERS"
    inner = session_pem.split(f"-----BEGIN {label}-----")[1].split("-----END")[0]
    fields = der_elements(der_content(base64.b64decode(inner)))
    assert not [field for field in fields if field[0] == 0xAF], "the server allows early data"
    fields.append(der(0xAF, der(2, struct.pack("!H", limit))))
    fields.sort(key=lambda field: field[0] if field[0] >= 0xA0 else 0)
    encoded = base64.encodebytes(der(0x30, b"".join(fields))).decode()
    return f"-----BEGIN {label}-----\n{encoded}-----END {label}-----\n"


def der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content


def der_content(element: bytes) -> bytes:
    size = element[1] & 0x7F if element[1] & 0x80 else 0
    return element[2 + size :]


def der_elements(data: bytes) -> list[bytes]:
    elements = []
    while data:
        size = data[1] & 0x7F if data[1] & 0x80 else 0
        length = int.from_bytes(data[2 : 2 + size], "big") if size else data[1]
        end = 2 + size + length
        elements.append(data[:end])
        data = data[end:]
    return elements


def test_early_data_is_refused(gateway: Gateway, backend: Backend, pki: Pki, folder: Path) -> None:
    """Early data can be replayed by anybody. No session allows it; a client that sends it all the
    same is cut off, and nothing of what it said is served.
    """
    identity = pki.device_ca.device()
    session, early = folder / "session.pem", folder / "early"
    option = ("-tls1_3", "-sess_out", str(session))
    with OpenSslClient(gateway, pki, folder, identity, *option) as client:
        client.send(request("GET", "/first"))
        client.await_output("HTTP/1.1 200 ")

    session.write_text(with_early_data(session.read_text()))
    early.write_bytes(request("GET", "/early"))
    option = ("-tls1_3", "-sess_in", str(session), "-early_data", str(early))
    with OpenSslClient(gateway, pki, folder, identity, *option) as client:
        client.await_output("SSL alert number 10")  # unexpected_message

    closed = gateway.log.wait("connection closed", reason="tls-failed", listener="devices")
    assert closed["detail"] == "too much early data"
    assert [r.path for r in backend.requests] == ["/first"]
    assert gateway.log.find("request", path="/early") == []
