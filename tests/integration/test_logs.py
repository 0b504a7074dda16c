# SPDX-License-Identifier: BSD-2-Clause
"""What the log says: one well-formed line an event, whoever tries to write his own into it; and
what it never says.

That all lines are JSON is proven by every test of the suite: see Gateway.finish().
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import struct
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable

import pytest

from agent import announce
from backend import Backend
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device, client_context
from gateway import Entry, Gateway, Log, merged
from pki import Identity, Pki, private_pem
from redis_server import RedisServer
from wire import request

NextIdentity = Callable[[Device], Identity]

EVIL = ['"', "\\", "\t", "\x7f", "é", "\x80", "\xff", "{}", "%s%n", "' or 1=1"]


def lines(gateway: Gateway) -> list[str]:
    return gateway.log.path.read_text(encoding="utf-8").splitlines()


def closed(gateway: Gateway, device: Device, count: int = 1) -> Entry:
    return gateway.log.wait("connection closed", count, device=device.name)


# --- form ----------------------------------------------------------------------------------------


def test_every_line_has_time_level_and_message(gateway: Gateway, new_device: NewDevice) -> None:
    assert new_device().get("/").status == 200
    for line in lines(gateway):
        entry = json.loads(line)
        assert list(entry)[:3] == ["time", "level", "msg"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])
        assert entry["level"] in ("debug", "info", "notice", "warning", "error")
        assert all(isinstance(value, (str, int, bool)) for value in entry.values())
    times = [json.loads(line)["time"] for line in lines(gateway)]
    first = datetime.strptime(times[0], "%Y-%m-%dT%H:%M:%S.%fZ")
    assert abs((datetime.now(timezone.utc).replace(tzinfo=None) - first).total_seconds()) < 300


LOGFMT = re.compile(r'([a-z_]+)=("(?:[^"\\\x00-\x1f\x7f]|\\.)*"|[^" =\\\x00-\x20\x7f]+)(?: |$)')


def read_logfmt(line: str) -> dict[str, Any]:
    entry, position = {}, 0
    while position < len(line):
        match = LOGFMT.match(line, position)
        assert match is not None, f"no logfmt at {position}: {line!r}"
        value = match[2]
        entry[match[1]] = json.loads(value) if value.startswith('"') else value
        position = match.end()
    return entry


def test_logfmt_says_the_same(start_gateway: StartGateway, pki: Pki, backend: Backend) -> None:
    """Also about a path that tries to end its value, and begin one of its own."""
    gateway = start_gateway_in_logfmt(start_gateway)
    entries = [read_logfmt(line) for line in lines(gateway)]
    host, port = next(e for e in entries if e.get("listener") == "devices")["address"].split(":")
    device = Device(pki.device_ca.device(), (host, int(port)), pki.server_ca)
    assert device.get("/a%20b%22%20level=error%0Amsg=forged").status in (200, 400)
    assert device.get("/plain").status == 200

    def entry_of(path: str) -> list[dict[str, Any]]:
        entries = [read_logfmt(line) for line in lines(gateway)]
        return [e for e in entries if e["msg"] == "request" and e.get("path") == path]

    (entry,) = wait_until(lambda: entry_of("/plain"), "the request's line")
    assert (entry["level"], entry["status"], entry["reason"]) == ("info", "200", "ok")
    assert entry["device"] == device.name
    everything = [read_logfmt(line) for line in lines(gateway)]
    assert not [e for e in everything if e["msg"] == "forged" or e["level"] == "error"]
    gateway.log.refresh()
    gateway.log.foreign.clear()
    assert gateway.stop() == 0
    gateway.log.refresh()
    for line in gateway.log.foreign:
        read_logfmt(line)
    gateway.log.foreign.clear()


def start_gateway_in_logfmt(start_gateway: StartGateway) -> Gateway:
    """The harness waits for JSON lines; while the gateway starts, these are read as such."""
    original = Log._parse

    def parse(log: Log, line: bytes) -> None:
        if line.startswith(b"time="):
            log.entries.append(read_logfmt(line.decode()))
        else:
            original(log, line)

    Log._parse = parse  # type: ignore[method-assign]
    try:
        return start_gateway({"log": {"format": "logfmt"}})
    finally:
        Log._parse = original  # type: ignore[method-assign]


def test_the_level_leaves_out_what_is_below_and_changes_at_reload(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    gateway = start_gateway({"log": {"level": "notice"}})
    device = new_device(to=gateway)
    assert device.get("/quiet").status == 200
    gateway.reload(merged(gateway.config, {"log": {"level": "debug"}}))
    assert device.get("/loud").status == 200
    closed(gateway, device)
    gateway.log.wait("request", path="/loud")
    assert gateway.log.find("request", path="/quiet") == []
    assert gateway.log.find("audit", action="registered", level="notice")
    assert len(gateway.log.find("connection closed", device=device.name)) == 1


def test_requests_can_be_left_out(start_gateway: StartGateway, new_device: NewDevice) -> None:
    gateway = start_gateway({"log": {"requests": False}})
    device = new_device(to=gateway)
    assert device.get("/").status == 200
    closed(gateway, device)
    assert gateway.log.find("request") == []


# --- what peers write ----------------------------------------------------------------------------


def test_a_path_is_escaped(gateway: Gateway, new_device: NewDevice) -> None:
    """Raw, percent-encoded, and however long: it stays the value of its own field."""
    device = new_device()
    forged = '","level":"error","msg":"forged","x":"'
    targets = ["/raw" + forged.replace('"', "%22"), "/" + "x" * 9000]
    targets += [
        f"/evil{i}/" + "".join(f"%{b:02x}" for b in text.encode("latin-1"))
        for i, text in enumerate(EVIL)
    ]
    for target in targets:
        assert device.get(target).status in (200, 400)
    for text in EVIL:
        with device.connect() as connection:
            connection.send(f"GET /{text} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"))
            assert connection.response().status in (200, 400)
    total = len(targets) + len(EVIL)
    wait_until(lambda: len(gateway.log.find("request", listener="devices")) >= total, "a line each")
    assert gateway.log.find("forged") == []
    assert len(gateway.log.find("request", listener="devices")) == total
    assert not re.search(r"[\x00-\x1f\x7f]", "".join(lines(gateway)))
    assert max(map(len, lines(gateway))) <= 8192


def test_methods_and_headers_cannot_forge_a_line(gateway: Gateway, new_device: NewDevice) -> None:
    device = new_device()
    forged = '\\n{\\"msg\\":\\"forged\\"}'
    for head in [
        "FORGED /method HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /header HTTP/1.1\r\nHost: x\r\nX-Request-Id: {forged}\r\nUser-Agent: {forged}\r\n"
        f"traceparent: {forged}\r\n\r\n",
        f"GET /host HTTP/1.1\r\nHost: {forged}\r\n\r\n",
        'GET /version HTTP/9.9"forged"\r\nHost: x\r\n\r\n',
        "GET /control HTTP/1.1\r\nHost: x\r\nA: \x01\x1b[31m\r\n\r\n",
    ]:
        with device.connect() as connection:
            connection.send(head.encode("latin-1"))
            assert connection.response().status in (200, 400, 501, 505)
    closed(gateway, device, 5)
    assert gateway.log.find("forged") == []
    assert not re.search(r"[\x00-\x1f\x7f]", "".join(lines(gateway)))
    assert "forged" not in {key for entry in gateway.log.entries for key in entry}


def test_names_in_certificates_are_escaped(gateway: Gateway, pki: Pki) -> None:
    """Of a stranger's certificate the name is shown, for people: he may have chosen any."""
    for name in ["x\n{}", 'x","level":"error', "x\x1b[31m", "ü", "x" * 64]:
        identity = pki.stranger_ca.device(name)
        with Connection(gateway.address(), client_context(pki.server_ca, identity)) as connection:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                connection.handshake()
                connection.send(request("GET", "/"))
                connection.receive()
    gateway.log.wait("connection closed", 5, reason="tls-failed")
    details = [e["detail"] for e in gateway.log.find("connection closed", reason="tls-failed")]
    assert len(details) == 5
    assert all(re.fullmatch(r"[\x20-\x7e]+", detail) for detail in details)
    assert "(CN=x?{})" in details[0]


def test_server_names_are_harmless(gateway: Gateway, new_device: NewDevice) -> None:
    device = new_device()
    context = device.context()
    context.check_hostname = False
    for name in ["a.b-c.example", "x" * 60 + ".example", "under_score"]:
        with device.connect(context=context, server_name=name) as connection:
            assert connection.request("GET", "/").status == 200
    closed(gateway, device, 3)


def test_operators_texts_are_escaped(gateway: Gateway) -> None:
    """They are kept, and shown in the audit line and the event, as they were said."""
    reason = 'he said: "\\stolen"\n{"msg":"forged"}\x1b[31m \u2603 \U0001f600'
    assert gateway.operator.deny("device", "d", reason).status == 200
    audit = gateway.log.wait("audit", action="denied", device="d")
    assert reason in audit.values()
    assert gateway.log.find("forged") == []
    (event,) = gateway.operator.events("DEVICE_DENIED")
    assert reason in event["data"].values()


# --- one line a connection -----------------------------------------------------------------------


def test_a_closed_connection_has_one_line(
    gateway: Gateway, backend: Backend, new_device: NewDevice
) -> None:
    device = new_device()
    with device.connect("1.2") as connection:
        for _ in range(3):
            assert connection.request("POST", "/", body=b"x" * 1000).status == 200
        assert gateway.log.find("connection closed", device=device.name) == []
    entry = closed(gateway, device)
    assert entry["reason"] == "closed-by-peer"
    assert entry["level"] == "debug"
    assert entry["while"] in ("waiting for a request", "closing")
    assert entry["key"] == device.identity.key_id
    assert (entry["listener"], entry["peer"], entry["tls"]) == ("devices", "127.0.0.1", "TLSv1.2")
    assert entry["requests"] == 3
    assert entry["bytes_in"] > 3000 and entry["bytes_out"] > 0 and entry["age_ms"] >= 0
    assert len(gateway.log.find("connection closed", listener="devices")) == 1


def never_says_hello(gateway: Gateway, _: Device) -> None:
    socket.create_connection(gateway.address()).close()


def resets(gateway: Gateway, _: Device) -> None:
    """As port scanners do."""
    with socket.create_connection(gateway.address()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half_a_hello(gateway: Gateway, _: Device) -> None:
    with socket.create_connection(gateway.address()) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")


def speaks_http(gateway: Gateway, _: Device) -> None:
    with socket.create_connection(gateway.address()) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while sock.recv(4096):
            pass


def asks_once(_: Gateway, device: Device) -> None:
    assert device.get("/").status == 200


def is_denied_live(gateway: Gateway, device: Device) -> None:
    with device.connect() as connection:
        assert connection.request("GET", "/").status == 200
        gateway.operator.deny("device", device.name)
        connection.await_close()


def is_silent(_: Gateway, device: Device) -> None:
    with device.connect() as connection:
        assert connection.request("GET", "/").status == 200
        connection.await_close()


ENDS: dict[str, tuple[Callable[[Gateway, Device], None], str, str]] = {
    "a health check": (never_says_hello, "closed-without-hello", "debug"),
    "a port scan": (resets, "closed-without-hello", "debug"),
    "half a hello": (half_a_hello, "tls-failed", "info"),
    "plain HTTP": (speaks_http, "tls-failed", "info"),
    "one request": (asks_once, "closed-after-answer", "debug"),
    "denied": (is_denied_live, "cut-denied", "notice"),
    "idle": (is_silent, "idle-timeout", "debug"),
}


@pytest.mark.parametrize("case", ENDS)
def test_each_end_has_its_reason_and_level(
    start_gateway: StartGateway, new_device: NewDevice, case: str
) -> None:
    act, reason, level = ENDS[case]
    gateway = start_gateway({"http": {"idle_timeout": "500ms"}})
    act(gateway, new_device(to=gateway))
    entry = gateway.log.wait("connection closed", listener="devices")
    assert (entry["reason"], entry["level"]) == (reason, level)
    counter = f'dgw_connections_closed_total{{reason="{reason}"}}'
    assert gateway.operator.metrics()[counter] >= 1
    assert len(gateway.log.find("connection closed", listener="devices")) == 1


def test_connections_above_the_limit_are_told_of(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    """Counted each; and said, or nobody would know why devices find a closed door."""
    gateway = start_gateway({"workers": 1, "max_connections": 10})
    socks = [socket.create_connection(gateway.address()) for _ in range(20)]
    gateway.log.wait("connection closed", reason="too-many-connections")
    for sock in socks:
        sock.close()
    device = new_device(to=gateway)
    wait_until(lambda: _passes(device), "the door is open again")
    counter = 'dgw_connections_closed_total{reason="too-many-connections"}'
    assert gateway.operator.metrics()[counter] >= 9


def _passes(device: Device) -> bool:
    try:
        return device.get("/").status == 200
    except (ssl.SSLError, OSError):
        return False


# --- secrets -------------------------------------------------------------------------------------


def test_secrets_never_appear(
    start_gateway: StartGateway,
    folder: Path,
    pki: Pki,
    backend: Backend,
    new_device: NewDevice,
    next_identity: NextIdentity,
) -> None:
    """Not in the log at its most talkative, not in metrics, events, the dump, or what backends and
    devices get: the Redis password, the private key, what devices send as credentials and bodies.
    """
    password = "correct-horse-battery-staple"
    guarded = RedisServer(folder / "guarded", "--requirepass", password).start()
    (folder / "password").write_text(password + "\n")
    store = {"redis": guarded.url, "password_file": "password"}
    gateway = start_gateway({"store": store})
    device = new_device(to=gateway)
    credentials = [("Authorization", "Bearer device-token"), ("Cookie", "session=device-cookie")]
    answer = device.post("/hello?token=query-token", b"secret-body", credentials)
    assert answer.status == 200
    successor = next_identity(device)
    assert announce(device, successor).status == 200
    assert device.with_identity(successor).get("/").status == 200
    guarded.kill()
    wait_until(lambda: gateway.operator.get("/readyz").status == 503, "not ready")
    (folder / "password").write_text("wrong-" + password + "\n")
    guarded.start()
    refused = gateway.log.wait("cannot connect to Redis", level="error")
    assert "WRONGPASS" in refused["reason"]
    (folder / "password").write_text(password + "\n")
    wait_until(lambda: gateway.operator.get("/readyz").status == 200, "ready again")

    shown = gateway.log.path.read_text() + json.dumps(gateway.operator.events())
    shown += gateway.operator.get("/metrics").body.decode()
    told = answer.body.decode() + "".join(str(r.raw_head) for r in backend.requests)
    key = "".join(private_pem(pki.server.key).decode().split("\n")[1:-2])
    for secret in (password, "PRIVATE KEY", key[40:80], base64.b64encode(key.encode()).decode()):
        assert secret not in shown
        assert secret not in told
    for secret in ("device-token", "device-cookie", "secret-body", "query-token"):
        assert secret not in shown
    guarded.stop()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_forged_record_is_told_apart_from_a_peer_that_goes_away(
    gateway: Gateway, new_device: NewDevice, version: str
) -> None:
    device = new_device()
    with device.connect(version) as connection:
        assert connection.request("GET", "/").status == 200
        connection.sock.sendall(b"\x17\x03\x03\x00\x40" + b"forged".ljust(64, b"."))
        entry = closed(gateway, device)
    assert (entry["reason"], entry["level"]) == ("tls-broken", "info")
    assert entry["detail"] != ""
