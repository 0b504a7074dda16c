# SPDX-License-Identifier: BSD-2-Clause
"""A log that nobody can flood, and a daemon that no log can stop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import IO, Callable, Iterator, Optional, Union

import pytest

from backend import Backend
from conditions import DEADLINE, wait_until
from conftest import NewDevice, StartGateway
from gateway import Config, Gateway, _environment, binary, default_config, merged
from pki import Pki
from redis_server import RedisServer
from wire import request

FEW: Config = {"workers": 1, "log": {"level": "info", "repeats": 3}}


def speak_nonsense(gateway: Gateway) -> None:
    with socket.create_connection(gateway.address(), DEADLINE) as sock:
        sock.sendall(b"\x16\x03\x01\xff\xff" + bytes(100))
        while sock.recv(4096):
            pass


def test_refused_handshakes_fill_no_log(start_gateway: StartGateway) -> None:
    """Some lines, so that the operator knows what it is; then a number."""
    gateway = start_gateway(FEW)
    for _ in range(10):
        speak_nonsense(gateway)
    wait_until(
        lambda: gateway.operator.metrics().get('dgw_connections_closed_total{reason="tls-failed"}')
        == 10,
        "all are counted",
    )
    assert gateway.stop() == 0
    assert len(gateway.log.find("connection closed", reason="tls-failed")) == 3
    (more,) = gateway.log.find("more of the same", line="connection closed", reason="tls-failed")
    assert more["more"] == 7


def test_requests_that_are_not_admitted_fill_no_log(
    start_gateway: StartGateway, new_device: NewDevice, pki: Pki
) -> None:
    """A device whose key is denied knocks on and on: normal, and not worth a line each. What
    admitted devices ask is told in full.
    """
    gateway = start_gateway(FEW)
    good, denied = new_device(to=gateway), new_device(to=gateway)
    assert gateway.operator.deny("device", denied.name).status == 200
    for _ in range(5):
        assert denied.get("/denied").reason == "device-denied"
        assert good.get("/good").status == 200
    assert gateway.stop() == 0
    assert len(gateway.log.find("request", path="/denied")) == 3
    assert len(gateway.log.find("request", path="/good")) == 5
    (more,) = gateway.log.find("more of the same", line="request", reason="device-denied")
    assert more["more"] == 2


def test_a_backend_that_is_down_fills_no_log(
    start_gateway: StartGateway, new_device: NewDevice
) -> None:
    gateway = start_gateway({**FEW, "backends": [{"name": "api", "servers": ["127.0.0.1:1"]}]})
    with new_device(to=gateway).connect() as connection:
        for _ in range(5):
            assert connection.request("GET", "/").reason == "backend-unavailable"
    assert gateway.stop() == 0
    assert len(gateway.log.find("backend failed")) == 3
    assert gateway.log.find("more of the same", line="backend failed")[0]["more"] == 2
    assert len(gateway.log.find("request", path="/")) == 5


# --- a stderr that takes nothing -----------------------------------------------------------------


class Daemon:
    """One with a stderr of the test's."""

    def __init__(
        self,
        folder: Path,
        pki: Pki,
        redis: RedisServer,
        stderr: Union[int, IO[bytes]],
        before: Optional[Callable[[], None]] = None,
    ):
        config = merged(
            default_config(folder, pki, redis.url, "127.0.0.1:1"),
            {"state_dir": str(folder / "odd"), "workers": 1},
        )
        self.gateway = Gateway(folder, config, "odd")
        self.gateway.write_config()
        self.process = subprocess.Popen(
            [str(binary()), "-c", str(self.gateway.config_file)],
            cwd=folder,
            env=_environment(),
            stderr=stderr,
            preexec_fn=before,
        )
        wait_until(self._answers, "the daemon answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None
        try:
            return self.gateway.operator.get("/readyz").status == 200
        except OSError:
            return False

    def lost(self) -> float:
        return self.gateway.operator.metrics()["dgw_log_lines_lost_total"]

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(DEADLINE) == 0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


def test_a_log_that_nobody_reads_stops_nobody(
    folder: Path, pki: Pki, redis: RedisServer, pipe: tuple[int, int]
) -> None:
    """The pipe is full: write(2) waited for its reader, and a worker with it. Lines are lost
    instead, whole ones, and the log says how many when it is read again.
    """
    daemon = Daemon(folder, pki, redis, pipe[1])
    wait_until(lambda: daemon.gateway.operator.get("/livez") and daemon.lost() > 0, "it is full")
    output: list[bytes] = []

    def read() -> None:
        while data := os.read(pipe[0], 1 << 16):
            output.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(
        lambda: daemon.gateway.operator.get("/livez") and b"log lines were lost" in b"".join(output),
        "the log says so",
    )
    daemon.stop()
    os.close(pipe[1])
    reader.join(DEADLINE)
    entries = [json.loads(line) for line in b"".join(output).splitlines()]
    (said,) = [e for e in entries if e["msg"] == "log lines were lost"]
    assert said["lines"] > 0
    assert entries[-1]["msg"] == "stopped"


def test_a_log_whose_reader_is_gone_stops_nobody(
    folder: Path, pki: Pki, redis: RedisServer, pipe: tuple[int, int]
) -> None:
    daemon = Daemon(folder, pki, redis, pipe[1])
    os.close(pipe[0])
    before = daemon.lost()
    assert daemon.gateway.operator.get("/livez").status == 200
    assert daemon.lost() > before
    daemon.stop()


def test_a_log_on_a_full_disk_stops_nobody(folder: Path, pki: Pki, redis: RedisServer) -> None:
    with open("/dev/full", "wb") as full:
        daemon = Daemon(folder, pki, redis, full)
        assert daemon.lost() > 0
        daemon.stop()


def test_a_log_at_its_size_limit_stops_nobody(
    folder: Path, pki: Pki, redis: RedisServer
) -> None:
    """RLIMIT_FSIZE: the kernel sends SIGXFSZ, which ends who does not ignore it."""
    import resource

    with (folder / "small.txt").open("wb") as file:
        daemon = Daemon(folder, pki, redis, file)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (file.tell() + 100,) * 2)
        wait_until(
            lambda: daemon.gateway.operator.get("/livez") and daemon.lost() > 0, "lines are lost"
        )
        daemon.stop()


def test_closed_standard_files_are_not_mistaken_for_others(
    folder: Path, pki: Pki, redis: RedisServer
) -> None:
    """The next sockets had their numbers, and the log went into the link to Redis."""
    daemon = Daemon(folder, pki, redis, subprocess.DEVNULL, lambda: os.closerange(0, 3))
    files = [os.readlink(f"/proc/{daemon.process.pid}/fd/{fd}") for fd in range(3)]
    assert files == ["/dev/null"] * 3
    assert daemon.lost() == 0
    daemon.stop()
