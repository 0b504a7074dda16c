# SPDX-License-Identifier: BSD-2-Clause
"""The benchmarks' load generator (tests/bench/load.c) must notice when a server does not do what is
being measured: a server that answers wrongly is often a fast one.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backend import Backend
from conftest import StartGateway
from gateway import Gateway, binary
from pki import Pki


@pytest.fixture
def devices(folder: Path, pki: Pki) -> Path:
    path = folder / "devices"
    path.mkdir()
    for i in range(2):
        pki.device_ca.device(f"load-{i}").write(path, str(i))
    return path


def run_load(gateway: Gateway, pki: Pki, devices: Path, mode: str, **options: Any) -> dict[str, Any]:
    """The result, and under "status" the exit status. Unless told otherwise, 10 requests over 2
    connections.
    """
    ca_file = pki.server_ca.write(devices / "ca.pem")
    options = {"requests": 10, "connections": 2, **options}
    done = subprocess.run(
        [
            str(binary().parents[1] / "tests" / "bench" / "load"),
            f"--devices={devices}",
            f"--ca={ca_file}",
            *[f"--{name}={value}" for name, value in options.items()],
            mode,
            "%s:%d" % gateway.address(),
        ],
        input="go\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**result, "status": done.returncode}


@pytest.mark.parametrize("mode", ["full", "resumed", "keepalive"])
def test_what_a_good_server_does_is_counted(
    gateway: Gateway, pki: Pki, devices: Path, backend: Backend, mode: str
) -> None:
    result = run_load(gateway, pki, devices, mode)
    assert (result["status"], result["errors"], result["requests"]) == (0, 0, 10)
    assert result["resumed"] == (10 if mode == "resumed" else 0)
    assert len(backend.requests) == 12  # each connection warms up with one
    full, resumed = {"full": (12, 0), "resumed": (2, 10), "keepalive": (2, 0)}[mode]
    metrics = gateway.operator.metrics()
    assert metrics['dgw_handshakes_total{result="full"}'] == full
    assert metrics['dgw_handshakes_total{result="resumed"}'] == resumed


def test_a_refused_device_makes_the_run_invalid(
    gateway: Gateway, pki: Pki, devices: Path
) -> None:
    assert gateway.operator.deny("device", "load-1").status == 200
    result = run_load(gateway, pki, devices, "full")
    assert result["status"] == 1
    assert "403 Forbidden" in result["first_error"]


def test_a_server_without_tickets_cannot_pass_as_resuming(
    start_gateway: StartGateway, pki: Pki, devices: Path
) -> None:
    gateway = start_gateway({"tls": {"sessions": 0}})
    result = run_load(gateway, pki, devices, "resumed")
    assert result["status"] == 1
    assert "no ticket" in result["first_error"]


def test_a_server_that_ends_makes_the_run_invalid(
    gateway: Gateway, pki: Pki, devices: Path
) -> None:
    address = gateway.address()
    gateway.stop()
    gateway.address = lambda *_: address  # type: ignore[method-assign]
    result = run_load(gateway, pki, devices, "keepalive")
    assert result["status"] == 1
    assert "connect" in result["first_error"]
