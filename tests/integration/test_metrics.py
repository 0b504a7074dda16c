# SPDX-License-Identifier: BSD-2-Clause
"""/metrics: every number moves with what it counts, and Prometheus' own rules are kept."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Callable

from agent import announce
from backend import Backend, Exchange, echo
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device, client_context, refused_alert
from gateway import Gateway, binary
from pki import DAY, Identity, Pki, now
from prometheus_text import Family, parse

NextIdentity = Callable[[Device], Identity]


def families(gateway: Gateway) -> dict[str, Family]:
    response = gateway.operator.get("/metrics")
    assert response.status == 200
    assert response.header("Content-Type") == "text/plain; version=0.0.4"
    return parse(response.body.decode("ascii"))


def value(gateway: Gateway, name: str, **labels: str) -> float:
    return families(gateway)[name].samples.get(tuple(labels.items()), 0)


def count(gateway: Gateway, name: str, **labels: str) -> float:
    return families(gateway)[name].histograms[tuple(labels.items())].count


# --- the format ----------------------------------------------------------------------------------


def test_metrics_are_well_formed_and_name_no_device(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity, backend: Backend
) -> None:
    """Whatever happened. Labels that grow with the fleet would bury the one who collects them."""
    device = new_device()
    successor = next_identity(device)
    assert device.get("/secret-path").status == 200
    assert announce(device, successor).status == 200
    assert device.with_identity(successor).get("/").status == 200
    assert device.get("/").status == 403
    assert gateway.operator.get("/nothing").status == 404

    found = families(gateway)
    text = gateway.operator.get("/metrics").body.decode()
    for name in (device.name, device.identity.key_id, successor.key_id, "secret-path"):
        assert name not in text
    labels = {
        label
        for family in found.values()
        for labels in [*family.samples, *family.histograms]
        for label in labels
    }
    assert {name for name, _ in labels} == {
        *("action", "backend", "ca", "class", "command", "listener", "reason", "result", "server", "state", "step"),
        *("version", "worker"),
    }
    assert all(re.fullmatch(r"[a-z0-9.:-]+", text) for _, text in labels)
    if shutil.which("promtool"):
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text.encode(), capture_output=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_readme_names_every_metric(gateway: Gateway) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    own = {name for name in families(gateway) if name.startswith("dgw_")}
    assert own == set(re.findall(r"`(dgw_\w+)`", readme))


# --- what is counted -----------------------------------------------------------------------------


def test_counters_move_as_they_should(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    """Exactly as often as something happened; and a promotion is one on one worker."""

    def now(name: str, **labels: str) -> float:
        return value(gateway, name, **labels)

    device = new_device()
    context = device.context("1.3")
    with device.connect(context=context) as connection:
        wait_until(lambda: now("dgw_connections_open", listener="devices") == 1, "it is open")
        assert now("dgw_connections_open", listener="operator") == 1
        assert now("dgw_connections_open", listener="operators") == 0
        for _ in range(3):
            assert connection.request("GET", "/").status == 200
        session = connection.session()
    with device.connect(context=context, session=session) as connection:
        assert connection.resumed
        assert connection.request("GET", "/").status == 200
    assert now("dgw_handshakes_total", result="full") == 1
    assert now("dgw_handshakes_total", result="resumed") == 1
    assert now("dgw_admissions_total", reason="registered") == 1
    assert now("dgw_admissions_total", reason="admitted") == 1

    successor = device.with_identity(next_identity(device))
    with device.connect() as old:
        assert old.request("GET", "/").status == 200
        assert announce(device, successor.identity).status == 200
        assert successor.get("/").status == 200
        old.await_close()
    assert device.get("/").status == 403
    assert now("dgw_admissions_total", reason="promoted") == 1
    assert now("dgw_admissions_total", reason="key-denied") == 1
    assert now("dgw_requests_total", reason="announced") == 1
    assert now("dgw_requests_total", reason="key-denied") == 1
    wait_until(lambda: now("dgw_connections_open", listener="devices") == 0, "all are closed")
    assert now("dgw_connections_accepted_total", listener="devices") == 6
    assert now("dgw_connections_cut_total") >= 1


def test_the_steps_of_rotations_are_counted_once_each(
    gateway: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    device = new_device()
    first, second, third = (next_identity(device) for _ in range(3))
    assert device.get("/").status == 200
    assert announce(device, first).status == 200
    assert announce(device, first).status == 200
    assert announce(device, second).status == 200
    assert device.patch("/config", b"{}").status == 423
    assert gateway.operator.cancel_rotation(device.name).status == 200
    assert gateway.operator.accept_key(device.name, third.public_pem).status == 200
    for _ in range(2):
        assert device.with_identity(third).get("/").status == 200
    assert device.with_identity(third).patch("/config", b"{}").status == 200

    steps = families(gateway)["dgw_rotations_total"].samples
    assert {dict(labels)["step"]: n for labels, n in steps.items()} == {
        "announced": 1,
        "replaced": 1,
        "accepted": 1,
        "finished": 1,
        "cancelled": 1,
        "stalled": 0,
    }
    assert value(gateway, "dgw_config_writes_total", reason="config-locked") == 1
    assert value(gateway, "dgw_config_writes_total", reason="write-passes") == 1


def test_failed_handshakes_are_told_apart(
    start_gateway: StartGateway, pki: Pki, new_device: NewDevice
) -> None:
    gateway = start_gateway({"http": {"handshake_timeout": "250ms"}})
    address = gateway.address()
    stranger = pki.stranger_ca.device()

    def failures() -> dict[str, float]:
        samples = families(gateway)["dgw_handshake_failures_total"].samples
        return {dict(labels)["reason"]: n for labels, n in samples.items() if n}

    refused_alert(address, client_context(pki.server_ca, None, "1.3"))
    refused_alert(address, client_context(pki.server_ca, stranger, "1.2"))
    refused_alert(address, client_context(pki.server_ca, stranger, "1.3"))
    try:
        with Connection(address, client_context(pki.stranger_ca)) as connection:
            connection.handshake()
        raise AssertionError("the client trusted the gateway")
    except OSError:
        pass
    with socket.create_connection(address) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while plain.recv(4096):
            pass
    with socket.create_connection(address) as silent:
        silent.sendall(b"\x16")
        assert silent.recv(4096) == b""
    with socket.create_connection(address) as gone:
        gone.sendall(b"\x16\x03\x01")
        gone.shutdown(socket.SHUT_WR)
    expected = {
        "no-certificate": 1,
        "certificate": 2,
        "alert": 1,
        "protocol": 1,
        "timeout": 1,
    }
    wait_until(lambda: expected.items() <= failures().items(), "all are counted")
    wait_until(lambda: value(gateway, "dgw_connections_open", listener="devices") == 0, "all gone")
    found = failures()
    assert value(gateway, "dgw_handshakes_total", result="failed") == sum(found.values())
    assert found.keys() - expected.keys() <= {"closed"}
    assert value(gateway, "dgw_handshakes_total", result="full") == 0


def test_times_are_observed_where_they_pass(
    gateway: Gateway, pki: Pki, backend: Backend, new_device: NewDevice
) -> None:
    def slow(exchange: Exchange) -> None:
        time.sleep(0.3)  # what is to be measured
        echo(exchange)

    backend.on("/slow", slow)
    device = new_device(not_after=now() + 10 * DAY)
    with device.connect() as connection:
        for path in ("/", "/slow", "/"):
            assert connection.request("GET", path).status == 200
    wait_until(lambda: count(gateway, "dgw_request_duration_seconds") == 3, "three requests")

    found = families(gateway)
    duration = found["dgw_request_duration_seconds"].histograms[()]
    assert (duration.buckets[0.25], duration.buckets[10]) == (2, 3)
    assert 0.3 <= duration.sum < 10
    api = (("backend", "api"),)
    response = found["dgw_backend_response_seconds"].histograms[api]
    assert (response.buckets[0.25], response.count) == (2, 3)
    assert response.sum <= duration.sum
    assert found["dgw_backend_connect_seconds"].histograms[api].count == 1
    age = found["dgw_device_key_age_seconds"].histograms[()]
    assert (age.count, age.buckets[3600]) == (1, 1)
    left = found["dgw_device_certificate_remaining_seconds"].histograms[()]
    day = 86400
    assert (left.count, left.buckets[7 * day], left.buckets[14 * day]) == (1, 0, 1)
    store = found["dgw_store_latency_seconds"].histograms
    assert store[(("command", "read"),)].count == 1
    assert store[(("command", "commit"),)].count == 1
    assert found["dgw_loop_lag_seconds"].histograms[()].count >= 1
    assert 0 <= found["dgw_store_log_age_seconds"].samples[()] < 2
    stalls = found["dgw_worker_stall_seconds"].samples
    assert len(stalls) == 2 and all(stall < 5 for stall in stalls.values())


def test_bytes_and_classes_of_answers_are_counted(
    gateway: Gateway, backend: Backend, new_device: NewDevice
) -> None:
    before = families(gateway)
    device = new_device()
    assert device.post("/", b"x" * 100_000).status == 200
    assert device.with_identity(device.identity).get("/devices/..%2f").status == 400
    wait_until(lambda: value(gateway, "dgw_connections_open", listener="devices") == 0, "all gone")
    after = families(gateway)

    def grown(name: str, **labels: str) -> float:
        at = tuple(labels.items())
        return after[name].samples[at] - before[name].samples.get(at, 0)

    assert 100_000 < grown("dgw_received_bytes_total") < 110_000
    assert 200 < grown("dgw_sent_bytes_total")
    assert grown("dgw_responses_total", **{"class": "4xx"}) == 1
    assert grown("dgw_responses_total", **{"class": "2xx"}) >= 1


def test_reloads_are_counted_and_dated(gateway: Gateway) -> None:
    loaded = value(gateway, "dgw_config_loaded_timestamp_seconds")
    assert abs(loaded - time.time()) < 60
    gateway.reload()
    assert value(gateway, "dgw_config_loaded_timestamp_seconds") > loaded
    loaded = value(gateway, "dgw_config_loaded_timestamp_seconds")
    gateway.config_file.write_text("listeners: none\n")
    gateway.log.refresh()
    gateway.signal(signal.SIGHUP)
    gateway.log.wait("reload refused")
    wait_until(
        lambda: value(gateway, "dgw_config_reloads_total", result="refused") == 1, "it is counted"
    )
    assert value(gateway, "dgw_config_reloads_total", result="done") == 1
    assert value(gateway, "dgw_config_loaded_timestamp_seconds") == loaded


def test_certificates_tell_when_they_expire(
    start_gateway: StartGateway, folder: Path, pki: Pki
) -> None:
    """Those in force: a renewed file counts from the reload on."""
    end = now() + 40 * DAY
    (folder / "ca.crl").write_bytes(pki.device_ca.crl(next_update=end))
    gateway = start_gateway(
        {"device_cas": [{"name": "acme", "certificate": "device-ca.pem", "crl": "ca.crl"}]}
    )
    found = families(gateway)
    server = pki.server.certificate.not_valid_after.timestamp()
    name = "dgw_certificate_expiry_timestamp_seconds"
    offset = server - found[name].samples[(("listener", "devices"),)]
    assert abs(offset - round(offset / 1800) * 1800) < 1  # naive times: of whatever zone
    assert set(found[name].samples) == {(("listener", "devices"),), (("listener", "operators"),)}
    acme = (("ca", "acme"),)
    assert set(found["dgw_device_ca_expiry_timestamp_seconds"].samples) == {acme}
    crl = found["dgw_device_crl_expiry_timestamp_seconds"].samples[acme]
    assert abs(crl - time.time() - 40 * 86400) < 3600 * 24

    renewed = pki.server_ca.server("localhost")
    renewed.write(folder, "server", with_chain=True)
    before = value(gateway, name, listener="devices")
    assert value(gateway, name, listener="devices") == before
    gateway.reload()
    wait_until(lambda: value(gateway, name, listener="devices") >= before, "reloaded")


def test_the_process_is_described_as_everywhere(gateway: Gateway) -> None:
    found = {name: family.samples for name, family in families(gateway).items()}
    assert gateway.process is not None
    pid = gateway.process.pid
    assert 0 <= found["process_cpu_seconds_total"][()] < 600
    status = Path(f"/proc/{pid}/status").read_text()
    rss = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024
    assert 0.5 * rss < found["process_resident_memory_bytes"][()] < 2 * rss
    assert abs(found["process_start_time_seconds"][()] - time.time()) < 300
    assert 5 < found["process_open_fds"][()] <= found["process_max_fds"][()]
    assert found["dgw_build_info"][(("version", _version()),)] == 1


def _version() -> str:
    done = subprocess.run([str(binary()), "-V"], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]
