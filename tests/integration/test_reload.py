# SPDX-License-Identifier: BSD-2-Clause
"""SIGHUP: a new configuration as a whole or not at all, and nobody is disturbed who need not be."""

from __future__ import annotations

import signal
import ssl
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

from backend import Backend, Exchange, Gate
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device, client_context, refused_alert
from gateway import Config, Gateway, listener, merged
from pki import Authority, Identity, Pki
from wire import EndOfStream, request

both_versions = pytest.mark.parametrize("version", ["1.2", "1.3"])


def changed(gateway: Gateway, changes: Config) -> Config:
    return merged(gateway.config, changes)


def slow(backend: Backend, path: str, body: bytes) -> Gate:
    """The backend answers `path` in two halves, with a gate in between."""
    gate = backend.gate()

    def answer(exchange: Exchange) -> None:
        half = len(body) // 2
        exchange.send(b"HTTP/1.1 200 Told\r\nContent-Length: %d\r\n\r\n" % len(body))
        exchange.send(body[:half])
        gate.wait()
        exchange.send(body[half:])

    backend.on(path, answer)
    return gate


# --- what takes effect ---------------------------------------------------------------------------


def test_new_routes_count_for_the_next_request(
    gateway: Gateway, backend: Backend, new_device: NewDevice
) -> None:
    with new_device().connect() as connection:
        assert connection.request("GET", "/old").status == 200
        routes = [{"prefix": "/new", "backend": "api"}]
        gateway.reload(changed(gateway, {"routes": routes}))

        gone = connection.request("GET", "/old")
        assert (gone.status, gone.reason) == (404, "no-route")
        assert connection.request("GET", "/new").status == 200
    assert [r.path for r in backend.requests] == ["/old", "/new"]


def test_a_new_backend_counts_for_the_next_request(
    gateway: Gateway, backend: Backend, new_device: NewDevice
) -> None:
    other = Backend().start()
    try:
        with new_device().connect() as connection:
            assert connection.request("GET", "/a").status == 200
            backends = [{"name": "api", "servers": [other.address]}]
            gateway.reload(changed(gateway, {"backends": backends}))
            assert connection.request("GET", "/b").status == 200
    finally:
        other.stop()
    assert [r.path for r in backend.requests] == ["/a"]
    assert [r.path for r in other.requests] == ["/b"]


def peer_certificate(device: Device) -> bytes:
    context = device.context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with device.connect(context=context) as connection:
        der = connection.tls.getpeercert(binary_form=True)
    assert der is not None
    return der


def test_a_new_certificate_is_shown_to_new_connections(
    gateway: Gateway, folder: Path, pki: Pki, new_device: NewDevice
) -> None:
    """The same file names with new contents: as tools that renew certificates do it."""
    device = new_device()
    with device.connect() as before:
        assert before.request("GET", "/a").status == 200
        renewed = pki.server_ca.server()
        renewed.write(folder, "server", with_chain=True)
        assert peer_certificate(device) == pki.server.certificate_der
        gateway.reload()
        assert peer_certificate(device) == renewed.certificate_der
        assert before.request("GET", "/b").status == 200


@both_versions
def test_a_new_device_ca_lets_its_devices_in(
    gateway: Gateway, folder: Path, pki: Pki, new_device: NewDevice, version: str
) -> None:
    authority = Authority.root("New Device CA")
    device = new_device(ca=authority)
    assert refused_alert(device.address, device.context(version)) == "TLSV1_ALERT_UNKNOWN_CA"

    authority.write(folder / "new-ca.pem")
    cas = gateway.config["device_cas"] + [{"name": "new", "certificate": "new-ca.pem"}]
    gateway.reload(changed(gateway, {"device_cas": cas}))
    assert device.request("GET", "/hello", version=version).status == 200


def test_a_ca_that_is_disabled_registers_nobody_any_more(
    gateway: Gateway, new_device: NewDevice
) -> None:
    known, new = new_device(), new_device()
    with known.connect() as connection:
        assert connection.request("GET", "/a").status == 200
        gateway.reload(changed(gateway, with_state("disabled")))
        assert connection.request("GET", "/b").status == 200
    assert known.get("/c").status == 200
    assert new.get("/d").reason == "issuer-disabled"
    assert gateway.log.find("connection closed", reason="cut-untrusted") == []


def with_state(state: str) -> Config:
    return {"device_cas": [{"name": "acme", "certificate": "device-ca.pem", "state": state}]}


# --- who is cut ----------------------------------------------------------------------------------


@pytest.fixture
def two_cas(start_gateway: StartGateway, folder: Path) -> tuple[Gateway, Authority]:
    """Beside the fleet's own CA, another one whose devices are none of the reload's business."""
    authority = Authority.root("Other Device CA")
    authority.write(folder / "other-ca.pem")
    other = {"name": "other", "certificate": "other-ca.pem"}
    return start_gateway({"device_cas": with_state("active")["device_cas"] + [other]}), authority


def revoke_ca(gateway: Gateway, *_: Any) -> Config:
    cas = with_state("revoked")["device_cas"] + gateway.config["device_cas"][1:]
    return changed(gateway, {"device_cas": cas})


def remove_ca(gateway: Gateway, *_: Any) -> Config:
    return changed(gateway, {"device_cas": gateway.config["device_cas"][1:]})


def revoke_certificate(gateway: Gateway, pki: Pki, identity: Identity) -> Config:
    (gateway.folder / "acme.crl").write_bytes(pki.device_ca.crl(identity))
    first = {**gateway.config["device_cas"][0], "crl": "acme.crl"}
    return changed(gateway, {"device_cas": [first] + gateway.config["device_cas"][1:]})


Untrust = Callable[[Gateway, Pki, Identity], Config]
every_way = pytest.mark.parametrize("untrust", [revoke_ca, remove_ca, revoke_certificate])


@every_way
@both_versions
def test_who_is_no_longer_trusted_is_cut_and_nobody_else(
    two_cas: tuple[Gateway, Authority],
    backend: Backend,
    pki: Pki,
    new_device: NewDevice,
    untrust: Untrust,
    version: str,
) -> None:
    """Idle, in a download and in an upload (invariant 1). Others' exchanges complete, byte by
    byte.
    """
    gateway, other_ca = two_cas
    body = bytes(range(256)) * 4096
    gate = slow(backend, "/slow", body)
    bad = new_device(to=gateway)
    good = new_device(to=gateway, ca=other_ca)
    with bad.connect(version) as idle, bad.connect(version) as down, bad.connect(
        version
    ) as up, good.connect(version) as other_idle, good.connect(version) as other_down:
        assert idle.request("GET", "/a").status == 200
        assert other_idle.request("GET", "/a").status == 200
        for connection in (down, other_down):
            connection.send(request("GET", "/slow"))
            gate.await_arrival()
        up.send(request("POST", "/upload", [("Content-Length", "1000")]) + b"x" * 10)
        backend.await_request("/upload")

        gateway.reload(untrust(gateway, pki, bad.identity))

        for connection in (idle, down, up):
            connection.await_close()
        gateway.log.wait("connection closed", 3, reason="cut-untrusted", device=bad.name)
        gate.open()
        assert other_down.response().body == body
        assert other_down.request("GET", "/b").status == 200
        assert other_idle.request("GET", "/b").status == 200
    assert gateway.log.find("connection closed", reason="cut-untrusted", device=good.name) == []
    assert wait_until(lambda: backend.of("/upload")[0].broken, "the upload breaks off")
    cut = 'dgw_connections_closed_total{reason="cut-untrusted"}'
    assert gateway.operator.metrics()[cut] == 3


def test_a_new_crl_leaves_the_other_devices_of_its_ca_alone(
    two_cas: tuple[Gateway, Authority], pki: Pki, new_device: NewDevice
) -> None:
    gateway, _ = two_cas
    bad, good = new_device(to=gateway), new_device(to=gateway)
    with bad.connect() as cut, good.connect() as kept:
        assert (cut.request("GET", "/").status, kept.request("GET", "/").status) == (200, 200)
        gateway.reload(revoke_certificate(gateway, pki, bad.identity))
        cut.await_close()
        assert kept.request("GET", "/").status == 200
    alert = refused_alert(bad.address, bad.context("1.3"))
    assert alert == "SSLV3_ALERT_CERTIFICATE_REVOKED"
    assert good.get("/").status == 200


@every_way
@both_versions
def test_a_session_does_not_outlive_the_trust(
    two_cas: tuple[Gateway, Authority],
    backend: Backend,
    pki: Pki,
    new_device: NewDevice,
    untrust: Untrust,
    version: str,
) -> None:
    """OpenSSL judges no certificate when a session is resumed (invariant 1)."""
    gateway, _ = two_cas
    device = new_device(to=gateway)
    context = device.context(version)
    with device.connect(context=context) as first:
        assert first.request("GET", "/a").status == 200
        session = first.session()
    gateway.reload(untrust(gateway, pki, device.identity))

    with Connection(device.address, context, session=session) as second:
        try:
            answer = second.handshake().request("GET", "/b").reason
        except ssl.SSLError as error:
            answer = str(error.reason)
        assert not second.resumed
    assert answer in ("issuer-revoked", "TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_CERTIFICATE_REVOKED")
    assert len(backend.requests) == 1


@every_way
@both_versions
def test_a_handshake_under_way_ends_under_the_new_trust(
    two_cas: tuple[Gateway, Authority],
    backend: Backend,
    pki: Pki,
    new_device: NewDevice,
    untrust: Untrust,
    version: str,
) -> None:
    """The gateway judged the chain with what it trusted when the connection came; a client could
    stop in the middle of its handshake, wait for the reload, and stay for good (invariant 1).
    """
    gateway, _ = two_cas
    device = new_device(to=gateway)
    with Connection(device.address, device.context(version)) as connection:
        half = half_handshake(connection)
        gateway.reload(untrust(gateway, pki, device.identity))
        half()
        with pytest.raises((ssl.SSLError, OSError, EndOfStream)):
            connection.request("GET", "/late")
            raise AssertionError("served")
    gateway.log.wait("connection closed", reason="cut-untrusted", device=device.name)
    assert backend.requests == []


def test_a_handshake_under_way_registers_by_the_new_rules(
    gateway: Gateway, backend: Backend, new_device: NewDevice
) -> None:
    """A connection kept the rules that it had been accepted under, and with them an open door that
    the operator had closed before the device had shown who it is.
    """
    device = new_device()
    with Connection(device.address, device.context("1.3")) as connection:
        half = half_handshake(connection)
        gateway.reload(changed(gateway, {"rotation": {"registration": "closed"}}))
        half()
        assert connection.request("GET", "/late").reason == "device-unknown"
    assert backend.requests == []


def half_handshake(connection: Connection) -> Callable[[], Connection]:
    """Up to the point where the gateway waits for the certificate; call what it returns to go
    on.
    """
    pull = connection._pull
    stopped: list[bool] = []

    class Stop(Exception):
        pass

    def stop() -> None:
        pull()
        stopped.append(True)
        raise Stop

    connection._pull = stop  # type: ignore[method-assign]
    with pytest.raises(Stop):
        connection.handshake()
    connection._pull = pull  # type: ignore[method-assign]
    return connection.handshake


def test_who_has_no_certificate_is_cut_when_one_is_required(
    start_gateway: StartGateway, folder: Path, pki: Pki
) -> None:
    def devices(mode: str) -> Config:
        return {"listeners": [listener("devices", folder, "devices", client_certificate=mode)]}

    route = {"prefix": "/", "backend": "api", "certificate_required": False}
    gateway = start_gateway({**devices("optional"), "routes": [route]})
    with Connection(gateway.address(), client_context(pki.server_ca)) as connection:
        assert connection.handshake().request("GET", "/a").status == 200
        gateway.reload(changed(gateway, devices("required")))
        connection.await_close()
    gateway.log.wait("connection closed", reason="cut-untrusted")


def test_operators_are_cut_when_their_ca_goes(
    gateway: Gateway, folder: Path, operator_api: Callable[..., Device]
) -> None:
    with operator_api().connect() as connection:
        assert connection.request("GET", "/a").status == 200
        Authority.root("New Operator CA").write(folder / "operator-ca.pem")
        gateway.reload()
        connection.await_close()
    gateway.log.wait("connection closed", reason="cut-untrusted", listener="operators")


# --- what is refused -----------------------------------------------------------------------------


def bad_yaml(gateway: Gateway) -> None:
    gateway.config_file.write_text("workers: [\n")


def bad_value(gateway: Gateway) -> None:
    text = gateway.config_file.read_text()
    gateway.config_file.write_text(text.replace("drain: 1s", "drain: soon"))


def file_is_gone(gateway: Gateway) -> None:
    gateway.config_file.unlink()


def certificate_is_gone(gateway: Gateway) -> None:
    (gateway.folder / "server.pem").unlink()


def certificate_is_garbage(gateway: Gateway) -> None:
    (gateway.folder / "server.pem").write_text("hello")


def key_of_another(gateway: Gateway) -> None:
    Authority.root("x").server().write(gateway.folder, "other")
    (gateway.folder / "other.key").rename(gateway.folder / "server.key")


def ca_is_garbage(gateway: Gateway) -> None:
    (gateway.folder / "device-ca.pem").write_text("hello")


def ca_is_a_leaf(gateway: Gateway) -> None:
    leaf = Authority.root("x").server()
    leaf.write(gateway.folder, "device-ca")


def crl_of_another(gateway: Gateway) -> None:
    (gateway.folder / "acme.crl").write_bytes(Authority.root("x").crl())
    cas = [{**gateway.config["device_cas"][0], "crl": "acme.crl"}]
    gateway.config = changed(gateway, {"device_cas": cas})
    gateway.write_config()


def setting(changes: Config) -> Callable[[Gateway], None]:
    def apply(gateway: Gateway) -> None:
        gateway.config = changed(gateway, changes)
        gateway.write_config()

    return apply


def another_address(gateway: Gateway) -> None:
    listeners = [{**each, "address": "127.0.0.2:0"} for each in gateway.config["listeners"]]
    setting({"listeners": listeners})(gateway)


def one_listener_less(gateway: Gateway) -> None:
    routes = [{"prefix": "/", "backend": "api"}]
    setting({"listeners": gateway.config["listeners"][:1], "routes": routes})(gateway)


# What is done to the files -> what the log says, besides the file that is to blame.
BROKEN: dict[str, tuple[Callable[[Gateway], None], str]] = {
    "bad YAML": (bad_yaml, "gateway1.yaml:"),
    "a bad value": (bad_value, 'rotation.drain: "soon" is not a duration'),
    "no file": (file_is_gone, "gateway1.yaml: "),
    "no certificate": (certificate_is_gone, "server.pem: cannot be read: No such file"),
    "garbage for a certificate": (certificate_is_garbage, "server.pem: holds no PEM CERTIFICATE"),
    "another's key": (key_of_another, "server.key: the key does not belong to"),
    "garbage for a CA": (ca_is_garbage, "device-ca.pem: holds no PEM CERTIFICATE"),
    "a leaf for a CA": (ca_is_a_leaf, "device-ca.pem: holds a certificate that is not a CA's"),
    "another's CRL": (crl_of_another, 'acme.crl: holds a CRL that device CA "acme" did not issue'),
    "workers": (setting({"workers": 1}), "workers cannot change while the daemon runs"),
    "log format": (setting({"log": {"format": "logfmt"}}), "log.format cannot change"),
    "store": (setting({"store": {"prefix": "x"}}), "store.prefix cannot change"),
    "an address": (another_address, "listeners: names, addresses and clients cannot change"),
    "a listener less": (one_listener_less, "listeners: names, addresses and clients cannot change"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_configuration_is_refused_as_a_whole(
    gateway: Gateway, backend: Backend, new_device: NewDevice, case: str
) -> None:
    """Whatever else was changed (here: a backend to nowhere, in the same file) does not happen
    either, and the next good one is taken.
    """
    break_it, message = BROKEN[case]
    device = new_device()
    good = gateway.config
    files = {path: path.read_bytes() for path in gateway.folder.iterdir() if path.suffix in PARTS}
    gateway.config = changed(gateway, {"backends": [{"name": "api", "servers": ["127.0.0.1:1"]}]})
    gateway.write_config()
    with device.connect() as before:
        assert before.request("GET", "/a").status == 200
        break_it(gateway)
        entry = gateway.reload(expect="reload refused")

        assert message in entry["error"]
        assert entry["level"] == "error"
        assert gateway.log.find("reloaded") == []
        assert before.request("GET", "/b").status == 200
        assert device.get("/c").status == 200

        for path, content in files.items():
            path.write_bytes(content)
        gateway.reload(good)
        assert before.request("GET", "/d").status == 200
    assert [r.path for r in backend.requests] == ["/a", "/b", "/c", "/d"]


PARTS = (".pem", ".key")


def test_every_error_of_a_broken_file_is_told(gateway: Gateway) -> None:
    text = gateway.config_file.read_text()
    gateway.config_file.write_text(text.replace("drain:", "drian:") + "colour: red\n")
    gateway.reload(expect="reload refused")
    gateway.log.wait("reload refused", 2)
    errors = [entry["error"] for entry in gateway.log.find("reload refused")]
    lines = gateway.config_file.read_text().splitlines()
    drian = next(i for i, line in enumerate(lines, 1) if "drian" in line)
    assert errors == [
        f'{gateway.config_file}:{drian}:3: rotation.drian: unknown key; did you mean "drain"?',
        f"{gateway.config_file}:{len(lines)}:1: colour: unknown key",
    ]


# --- under traffic -------------------------------------------------------------------------------


def test_reloads_under_traffic_fail_nobody(
    gateway: Gateway, folder: Path, pki: Pki, backend: Backend, new_device: NewDevice
) -> None:
    """New connections, kept ones, large bodies, while certificate, routes and backends change."""
    stop = threading.Event()
    failures: list[str] = []
    served = [0, 0]
    body = bytes(range(256)) * 2048

    def one_a_connection() -> None:
        device = new_device()
        while not stop.is_set():
            if device.get("/new").status != 200:
                failures.append("new")
            served[0] += 1

    def on_one_connection() -> None:
        with new_device().connect() as connection:
            while not stop.is_set():
                answer = connection.request("POST", "/kept", body=body)
                if answer.status != 200 or answer.json()["length"] != len(body):
                    failures.append("kept")
                served[1] += 1

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except Exception as error:  # told below, with the others
                failures.append(repr(error))

        return run

    works = [one_a_connection, one_a_connection, on_one_connection, on_one_connection]
    threads = [threading.Thread(target=guarded(work)) for work in works]
    for thread in threads:
        thread.start()
    routes = gateway.config["routes"]
    for turn in range(8):
        before = list(served)
        pki.server_ca.server().write(folder, "server", with_chain=True)
        more = [{"prefix": f"/turn{turn}", "backend": "api"}]
        backends = [{"name": "api", "servers": [backend.address], "keepalive_connections": turn}]
        gateway.reload(changed(gateway, {"routes": more + routes, "backends": backends}))
        wait_until(
            lambda: failures or (served[0] > before[0] and served[1] > before[1]), "traffic flows"
        )
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [e for e in gateway.log.find("request") if e["reason"] != "ok"] == []


def test_trust_that_changes_under_traffic_fails_nobody_whom_it_does_not_concern(
    gateway: Gateway, folder: Path, pki: Pki, new_device: NewDevice
) -> None:
    """Certificates, CAs, CRLs come and go, some of them broken, while devices connect anew, resume,
    and stay: all that they may notice is that a session is not resumed.
    """
    stop = threading.Event()
    failures: list[str] = []
    served = {"new 1.2": 0, "new 1.3": 0, "resumed 1.2": 0, "resumed 1.3": 0, "kept": 0}
    resumptions: list[bool] = []

    def anew(version: str) -> None:
        device = new_device()
        while not stop.is_set():
            assert device.request("GET", "/new", version=version).status == 200
            served[f"new {version}"] += 1

    def with_sessions(version: str) -> None:
        device = new_device()
        context, session = device.context(version), None
        while not stop.is_set():
            with device.connect(context=context, session=session) as connection:
                assert connection.request("GET", "/resumed").status == 200
                session = connection.session()
                resumptions.append(connection.resumed)
            served[f"resumed {version}"] += 1

    def on_one_connection() -> None:
        with new_device().connect() as connection:
            while not stop.is_set():
                assert connection.request("GET", "/kept").status == 200
                served["kept"] += 1

    def guarded(what: str, work: Callable[..., None], *args: str) -> Callable[[], None]:
        def run() -> None:
            try:
                work(*args)
            except Exception as error:  # told below, with the others
                failures.append(f"{what}: {error!r}")

        return run

    works = [guarded("kept", on_one_connection)]
    for version in ("1.2", "1.3"):
        works.append(guarded(f"new {version}", anew, version))
        works.append(guarded(f"resumed {version}", with_sessions, version))
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()

    own = {**gateway.config["device_cas"][0], "crl": "acme.crl"}
    breaks = [(ca_is_garbage, "device-ca.pem"), (key_of_another, "server.key")]
    revoked: list[Identity] = []
    try:
        for turn in range(8):
            before = dict(served)
            pki.server_ca.server().write(folder, "server", with_chain=True)
            pki.server_ca.server(f"turn{turn}.example").write(folder, "other")
            Authority.root(f"CA {turn}").write(folder / "other-ca.pem")
            revoked.append(pki.device_ca.device())
            (folder / "acme.crl").write_bytes(pki.device_ca.crl(*revoked))
            state = ["active", "disabled", "revoked"][turn % 3]
            other = {"name": "other", "certificate": "other-ca.pem", "state": state}
            names = [{"certificate": "other.pem", "key": "other.key"}] if turn % 2 else []
            devices = listener("devices", folder, "devices", certificates=names)
            listeners = [devices] + gateway.config["listeners"][1:]
            cas = [own] + ([other] if turn % 2 else [])
            gateway.reload(changed(gateway, {"device_cas": cas, "listeners": listeners}))
            alert = refused_alert(new_device().address, client_context(pki.server_ca, revoked[-1]))
            assert alert == "SSLV3_ALERT_CERTIFICATE_REVOKED"

            break_it, file = breaks[turn % 2]
            good = (folder / file).read_bytes()
            break_it(gateway)
            gateway.reload(expect="reload refused")
            (folder / file).write_bytes(good)
            wait_until(
                lambda: failures or all(served[what] > before[what] for what in served),
                "traffic flows",
            )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert any(resumptions)
    assert [e for e in gateway.log.find("request") if e["reason"] != "ok"] == []
    assert gateway.log.find("connection closed", reason="cut-untrusted") == []


def test_signals_that_come_together_are_one_reload(gateway: Gateway, new_device: NewDevice) -> None:
    for _ in range(20):
        gateway.signal(signal.SIGHUP)
    gateway.log.wait("reloaded")
    assert new_device().get("/hello").status == 200
