# SPDX-License-Identifier: BSD-2-Clause
"""Identity headers that reach a backend were written by the gateway (invariant 10)."""

from __future__ import annotations

import base64
import json
import re
from itertools import product
from typing import Any, Callable

import pytest
from cryptography import x509

from agent import announce
from backend import Backend, Request
from conftest import NewDevice
from device import Device
from gateway import Gateway
from pki import Identity, Pki
from wire import find_all

FORGED = "forged-by-the-client"

# Names by which backends learn who speaks, or are told to believe something else was asked for.
NAMES = [
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Device-Id",
    "X-Device-Key",
    "X-Device-Key-Generation",
    "X-Device-Anything",
    "X-Operator-Id",
    "X-Client-Cert",
    "X-Client-Verify",
    "X-Client-DN",
    "X-SSL-Client-Cert",
    "X-SSL-Client-S-DN",
    "SSL-Client-Cert",
    "SSL-Client-Verify",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Client-Cert",
    "X-Real-IP",
    "X-Request-Id",
    "Device-Rotation",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
]


def spellings(name: str) -> list[str]:
    """What frameworks fold into one: case, and '_' for '-', in every mixture that differs."""
    cases = [name, name.lower(), name.upper(), name.swapcase()]
    separators = product("-_", repeat=min(name.count("-"), 3))
    forms = []
    for case, chosen in product(cases, list(separators)):
        parts = case.split("-")
        form = parts[0]
        for i, part in enumerate(parts[1:]):
            form += (chosen[i] if i < len(chosen) else "-") + part
        forms.append(form)
    return list(dict.fromkeys(forms))


def fold(name: str) -> str:
    return name.lower().replace("_", "-")


def assert_not_fooled(request: Request) -> None:
    """No field of the client's making came through, and none is there twice."""
    assert FORGED.encode() not in request.raw_head
    identity = [fold(name) for name, _ in request.headers if fold(name) in map(fold, NAMES)]
    assert len(identity) == len(set(identity))


@pytest.mark.parametrize("name", NAMES)
def test_a_forged_identity_never_reaches_the_backend(
    backend: Backend, new_device: NewDevice, name: str
) -> None:
    device = new_device()
    forms = spellings(name)
    with device.connect() as connection:
        for form in forms:
            assert connection.request("GET", "/", [(form, FORGED)]).status == 200
        # all at once, and repeated
        all_of_them = [(form, FORGED) for form in forms]
        assert connection.request("GET", "/", all_of_them).status == 200
    assert len(backend.requests) == len(forms) + 1
    for request in backend.requests:
        assert_not_fooled(request)
        assert request.header("X-Device-Id") == device.name


@pytest.mark.parametrize("name", ["X-Device-Id", "Client-Cert", "X-Forwarded-For", "x_device_id"])
def test_a_connection_field_removes_no_identity(
    backend: Backend, new_device: NewDevice, name: str
) -> None:
    """`Connection: X-Device-Id` must not make anybody drop what the gateway has written."""
    device = new_device()
    headers = [("Connection", f"keep-alive, {name}"), (name, FORGED)]
    assert device.request("GET", "/", headers).status == 200
    (request,) = backend.requests
    assert_not_fooled(request)
    assert request.header("X-Device-Id") == device.name
    assert request.header("Client-Cert") is not None
    assert FORGED not in (request.header("Connection") or "")
    assert name.lower() not in (request.header("Connection") or "").lower()


def test_hop_by_hop_fields_end_at_the_gateway(backend: Backend, new_device: NewDevice) -> None:
    headers = [
        ("Connection", "X-Mine, close"),
        ("X-Mine", FORGED),
        ("Keep-Alive", FORGED),
        ("TE", "trailers"),
        ("Proxy-Authorization", FORGED),
        ("Proxy-Connection", FORGED),
        ("Upgrade", FORGED),
    ]
    with new_device().connect() as connection:
        assert connection.request("GET", "/", headers).status == 200
    (request,) = backend.requests
    assert FORGED.encode() not in request.raw_head
    assert request.header("TE") is None


@pytest.mark.parametrize(
    "raw",
    [
        b"X-Device-Id : %s\r\n",
        b"X-Device-Id\t: %s\r\n",
        b" X-Device-Id: %s\r\n",
        b"A: b\r\n X-Device-Id: %s\r\n",
        b"A: b\nX-Device-Id: %s\r\n",
        b"A: b\rX-Device-Id: %s\r\n",
        b"X-Device-Id\0: %s\r\n",
        b"X-Device\xadId: %s\r\n",
    ],
)
def test_a_field_that_parsers_read_differently_is_refused(
    backend: Backend, new_device: NewDevice, raw: bytes
) -> None:
    with new_device().connect() as connection:
        field = raw % FORGED.encode()
        connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + field + b"\r\n")
        response = connection.response()
        assert (response.status, response.reason) == (400, "request-malformed")
    assert backend.requests == []


def test_trailers_bring_nothing_in(backend: Backend, new_device: NewDevice) -> None:
    with new_device().connect() as connection:
        connection.send(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Trailer: X-Device-Id\r\n\r\n2\r\nhi\r\n0\r\nX-Device-Id: "
            + FORGED.encode()
            + b"\r\n\r\n"
        )
        assert connection.response("POST").status == 200
        assert connection.request("GET", "/after").status == 200
    assert all(FORGED.encode() not in request.raw_head for request in backend.requests)


# --- what is written instead ---------------------------------------------------------------------


def test_the_backend_learns_who_speaks(
    gateway: Gateway, backend: Backend, new_device: NewDevice
) -> None:
    device = new_device(production=True)
    response = device.get("/who", [("Host-Like", "kept")])
    assert response.status == 200
    (request,) = backend.requests
    identity = device.identity
    assert request.header("X-Device-Id") == device.name
    assert request.header("X-Device-Key") == identity.key_id
    assert request.header("X-Device-Key-Generation") == "1"
    assert request.header("Host-Like") == "kept"
    assert request.header("Host") == "localhost"
    assert request.header("X-Forwarded-For") == "127.0.0.1"
    assert (request.header("Forwarded") or "").startswith("for=127.0.0.1;")
    assert "proto=https" in (request.header("Forwarded") or "")
    entry = gateway.log.wait("request", path="/who")
    assert request.header("X-Request-Id") == entry["request_id"]


def test_client_cert_is_the_certificate_as_rfc_9440_has_it(
    backend: Backend, new_device: NewDevice
) -> None:
    device = new_device()
    assert device.get("/").status == 200
    value = backend.requests[0].header("Client-Cert") or ""
    assert re.fullmatch(r":[A-Za-z0-9+/]+=*:", value)
    der = base64.b64decode(value.strip(":"), validate=True)
    assert x509.load_der_x509_certificate(der) == device.identity.certificate


def test_the_generation_counts_promotions(
    backend: Backend, new_device: NewDevice, next_identity: Callable[[Device], Identity]
) -> None:
    device = new_device()
    identity = next_identity(device)
    assert announce(device, identity).status == 200
    assert device.get("/").status == 200
    new = device.with_identity(identity)
    assert new.get("/").status == 200
    generations = [r.header("X-Device-Key-Generation") for r in backend.of("/")]
    assert generations == ["1", "2"]
    assert backend.of("/")[1].header("X-Device-Key") == identity.key_id


def test_every_request_has_an_id_of_its_own(backend: Backend, new_device: NewDevice) -> None:
    with new_device().connect() as connection:
        for _ in range(10):
            connection.request("GET", "/")
    ids = {request.header("X-Request-Id") for request in backend.requests}
    assert len(ids) == 10


GOOD_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_good_traceparent_is_kept(backend: Backend, new_device: NewDevice) -> None:
    headers = [("traceparent", GOOD_TRACE), ("tracestate", "a=1")]
    assert new_device().get("/", headers).status == 200
    assert backend.requests[0].header("traceparent") == GOOD_TRACE
    assert backend.requests[0].header("tracestate") == "a=1"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", "nonsense")],
        [("traceparent", GOOD_TRACE.upper())],
        [("traceparent", GOOD_TRACE.replace("b7ad6b7169203331", "0" * 16))],
        [("traceparent", GOOD_TRACE), ("traceparent", GOOD_TRACE)],
    ],
    ids=["none", "nonsense", "upper case", "all zero", "twice"],
)
def test_otherwise_a_traceparent_is_made(
    backend: Backend, new_device: NewDevice, headers: list[tuple[str, str]]
) -> None:
    stale = [("tracestate", "a=1")] if headers else []
    assert new_device().get("/", headers + stale).status == 200
    (value,) = find_all(backend.requests[0].headers, "traceparent")
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", value)
    assert value != GOOD_TRACE
    assert find_all(backend.requests[0].headers, "tracestate") == []


def test_an_operators_request_names_no_device(
    gateway: Gateway, backend: Backend, operator_api: Callable[..., Device], pki: Pki
) -> None:
    forged = [("X-Device-Id", FORGED), ("X-Operator-Id", FORGED), ("Client-Cert", FORGED)]
    assert operator_api().get("/anything", forged).status == 200
    (request,) = backend.requests
    assert_not_fooled(request)
    assert request.header("X-Device-Id") is None
    der = base64.b64decode((request.header("Client-Cert") or "").strip(":"))
    assert x509.load_der_x509_certificate(der) == pki.operator.certificate


def test_a_device_is_not_let_in_where_operators_are(
    gateway: Gateway, backend: Backend, new_device: NewDevice, pki: Pki
) -> None:
    """And an operator is no device: each listener trusts its own CAs alone."""
    device = new_device()
    intruder = Device(device.identity, gateway.address("operators"), pki.server_ca)
    operator = Device(pki.operator, gateway.address("devices"), pki.server_ca)
    for client in (intruder, operator):
        with pytest.raises(Exception, match="(?i)unknown.ca"):
            client.get("/")
    assert backend.requests == []


def test_what_the_backend_answers_is_its_own(backend: Backend, new_device: NewDevice) -> None:
    """Response fields pass as they are, but for hop-by-hop ones."""

    def answer(exchange: Any) -> None:
        exchange.respond(
            200,
            json.dumps({}).encode(),
            [
                ("Set-Cookie", "a=1"),
                ("Set-Cookie", "b=2"),
                ("Server", "api"),
                ("X-Device-Id", "the backend may say what it likes"),
                ("Keep-Alive", "timeout=5"),
                ("Connection", "X-Internal"),
                ("X-Internal", "secret"),
            ],
        )

    backend.on("/", answer)
    response = new_device().get("/")
    assert find_all(response.headers, "Set-Cookie") == ["a=1", "b=2"]
    assert response.header("Server") == "api"
    assert response.header("Keep-Alive") is None
    assert response.header("X-Internal") is None
