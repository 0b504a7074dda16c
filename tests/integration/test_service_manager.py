# SPDX-License-Identifier: BSD-2-Clause
"""Under systemd: notification, watchdog, inherited sockets, the shipped units; and without any
privilege. The tests play the manager.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest

from backend import Backend, Exchange, echo
from conditions import DEADLINE, wait_until
from conftest import NewDevice, StartGateway
from gateway import Gateway, binary
from pki import Pki
from redis_server import RedisServer
from wire import request

CONF = Path(__file__).parents[2] / "conf"

# As systemd does it: descriptors from 3 on, and LISTEN_PID is the daemon's own.
_ACTIVATE = """
import fcntl, os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(fds))
os.environ["LISTEN_FDNAMES"] = sys.argv[2]
os.execv(sys.argv[3], sys.argv[3:])
"""


class Manager:
    """The end of NOTIFY_SOCKET."""

    def __init__(self, folder: Path):
        self.path = folder / "notify"
        self.messages: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)

    def __call__(self, gateway: Gateway) -> None:
        gateway.environment["NOTIFY_SOCKET"] = str(self.path)

    def has(self, key: str, value: Optional[str] = None) -> bool:
        return any(key in m and value in (None, m[key]) for m in self.read())

    def read(self) -> list[dict[str, str]]:
        while True:
            try:
                message = self._socket.recv(4096).decode()
            except BlockingIOError:
                return self.messages
            pairs = [line.split("=", 1) for line in message.split("\n")]
            self.messages.append({key: value for key, value in pairs})

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(folder: Path) -> Iterator[Manager]:
    manager = Manager(folder)
    yield manager
    manager.close()


def inheriting(**sockets: socket.socket) -> Callable[[Gateway], None]:
    """Gives the daemon listening sockets under these names."""

    def prepare(gateway: Gateway) -> None:
        fds = [sock.fileno() for sock in sockets.values()]
        words = [",".join(map(str, fds)), ":".join(sockets)]
        gateway.launcher = [sys.executable, "-c", _ACTIVATE, *words]
        gateway.launch_options = {"pass_fds": fds}

    return prepare


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as sock:
        yield sock


# --- notification --------------------------------------------------------------------------------


def test_the_manager_hears_of_start_reload_and_stop(
    start_gateway: StartGateway, manager: Manager, new_device: NewDevice
) -> None:
    gateway = start_gateway(wait_ready=False, prepare=manager)
    wait_until(lambda: manager.has("READY", "1"), "READY=1")
    assert new_device(to=gateway).get("/").status == 200
    assert gateway.operator.get("/readyz").status == 200

    manager.messages.clear()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    gateway.reload()
    wait_until(lambda: manager.has("READY", "1"), "READY=1 after the reload")
    (reloading,) = [m for m in manager.messages if "RELOADING" in m]
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert before <= int(reloading["MONOTONIC_USEC"]) <= after
    assert manager.messages.index(reloading) == 0

    manager.messages.clear()
    assert gateway.stop() == 0
    assert manager.read()[0]["STOPPING"] == "1"
    assert int(manager.messages[0]["EXTEND_TIMEOUT_USEC"]) >= 2_000_000
    assert not manager.has("READY")


def test_a_refused_reload_ends_as_well(start_gateway: StartGateway, manager: Manager) -> None:
    gateway = start_gateway(prepare=manager)
    wait_until(lambda: manager.has("READY", "1"), "READY=1")
    manager.messages.clear()
    gateway.config_file.write_text("nonsense: true\n")
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: manager.has("READY", "1"), "READY=1")
    assert "refused" in [m["STATUS"] for m in manager.messages if "READY" in m][0]


def test_a_store_that_is_away_does_not_hold_up_the_start(
    start_gateway: StartGateway, manager: Manager, redis: RedisServer, new_device: NewDevice
) -> None:
    """A manager that restarts us for it would only take away the 503 that says why."""
    redis.kill()
    gateway = start_gateway(wait_ready=False, prepare=manager)
    wait_until(lambda: manager.has("READY", "1"), "READY=1")
    assert "store" in manager.messages[-1]["STATUS"]
    assert new_device(to=gateway).get("/").status == 503
    redis.start()
    wait_until(lambda: manager.has("STATUS", "ready"), "STATUS=ready")


class _Stuck:
    """One thread of a process, stopped by ptrace while the others go on."""

    SEIZE, INTERRUPT, DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000

    def __init__(self, tid: int):
        self.tid = tid
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = [ctypes.c_long] * 2 + [ctypes.c_void_p] * 2
        self._libc.ptrace.restype = ctypes.c_long

    def _ptrace(self, what: int) -> None:
        if self._libc.ptrace(what, self.tid, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    def __enter__(self) -> None:
        self._ptrace(self.SEIZE)
        self._ptrace(self.INTERRUPT)
        os.waitpid(self.tid, self.WALL)

    def __exit__(self, *_: Any) -> None:
        self._ptrace(self.DETACH)


def task_of(gateway: Gateway, name: str) -> int:
    assert gateway.process is not None
    tasks = Path(f"/proc/{gateway.process.pid}/task")
    (tid,) = [int(t.name) for t in tasks.iterdir() if (t / "comm").read_text() == f"{name}\n"]
    return tid


def test_the_watchdog_is_fed_until_one_worker_is_stuck(
    start_gateway: StartGateway, manager: Manager
) -> None:
    def prepare(gateway: Gateway) -> None:
        manager(gateway)
        gateway.environment["WATCHDOG_USEC"] = "2000000"

    gateway = start_gateway(prepare=prepare)
    wait_until(lambda: manager.has("WATCHDOG", "1"), "WATCHDOG=1")

    def silent(seconds: float) -> bool:
        """No word for so long."""
        manager.read()
        if manager.has("WATCHDOG"):
            manager.messages.clear()
            silent.since = time.monotonic()  # type: ignore[attr-defined]
        return time.monotonic() - silent.since > seconds  # type: ignore[attr-defined]

    silent.since = time.monotonic()  # type: ignore[attr-defined]
    with _Stuck(task_of(gateway, "worker 1")):
        wait_until(lambda: silent(3), "the watchdog is not fed")
        assert gateway.operator.metrics()['dgw_worker_stall_seconds{worker="1"}'] > 1
        assert gateway.operator.get("/livez").status == 200
    wait_until(lambda: manager.has("WATCHDOG", "1"), "WATCHDOG=1 again")


# --- inherited sockets ---------------------------------------------------------------------------


def test_a_restart_refuses_no_connection(
    start_gateway: StartGateway, pki: Pki, new_device: NewDevice, listening: socket.socket
) -> None:
    """Who connects between two daemons waits in the queue, and is served by the second."""
    prepare = inheriting(devices=listening)
    first = start_gateway(prepare=prepare)
    device = new_device(to=first)
    assert device.address == listening.getsockname()
    assert [device.get("/").status for _ in range(8)] == [200] * 8
    assert first.stop() == 0

    waiting = []
    for _ in range(5):
        sock = socket.create_connection(device.address, timeout=DEADLINE)
        tls = device.context().wrap_socket(
            sock, server_hostname="localhost", do_handshake_on_connect=False
        )
        waiting.append(tls)
    start_gateway(prepare=prepare)
    for tls in waiting:
        with tls:
            tls.do_handshake()
            tls.sendall(request("GET", "/", [("Connection", "close")]))
            assert tls.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_workers_share_the_queue_of_an_inherited_socket(
    start_gateway: StartGateway, new_device: NewDevice, listening: socket.socket
) -> None:
    gateway = start_gateway(prepare=inheriting(devices=listening))
    device = new_device(to=gateway)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(device.connect())
            assert connection.request("GET", "/").status == 200
        assert gateway.operator.metrics()['dgw_connections_open{listener="devices"}'] == 8
        # Where one is stuck, the other takes what comes.
        assert gateway.process is not None
        with _Stuck(task_of(gateway, "worker 1")):
            for _ in range(8):
                connection = stack.enter_context(device.connect())
                assert connection.request("GET", "/").status == 200


def test_an_inherited_unix_socket_stays_when_the_daemon_goes(
    start_gateway: StartGateway, folder: Path
) -> None:
    path = folder / "elsewhere.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(8)
        gateway = start_gateway(prepare=inheriting(operator=sock))
        assert not gateway.operator.socket_path.exists()
        gateway.operator.socket_path = path
        assert gateway.operator.get("/readyz").status == 200
        assert gateway.stop() == 0
    assert path.exists()


def _refusal(gateway: Gateway) -> str:
    assert gateway.process is not None
    assert gateway.process.wait(timeout=DEADLINE) == 1
    return str(gateway.log.wait("cannot start")["error"])


@pytest.mark.parametrize(
    "name, kind, expected",
    [
        ("nobody", "tcp", 'the inherited socket "nobody" fits no listener'),
        ("devices", "unix", 'the inherited socket "devices" is a Unix socket, but'),
        ("operator", "tcp", 'the inherited socket "operator" is TCP, but'),
        ("devices", "udp", '"devices" is not a listening stream socket'),
        ("devices", "deaf", '"devices" is not a listening stream socket'),
    ],
)
def test_an_inherited_socket_that_fits_nothing_is_an_error(
    start_gateway: StartGateway, folder: Path, name: str, kind: str, expected: str
) -> None:
    """TCP for an interface that trusts file permissions would let everybody in."""
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as sock:
        sock.bind(str(folder / "sock") if kind == "unix" else ("127.0.0.1", 0))
        if kind in ("tcp", "unix"):
            sock.listen(1)
        started: list[Gateway] = []

        def prepare(gateway: Gateway) -> None:
            inheriting(**{name: sock})(gateway)
            started.append(gateway)

        with pytest.raises(AssertionError, match="ended early"):
            start_gateway(prepare=prepare)
        assert expected in _refusal(started[0])
        started[0].process = None


# --- drain ---------------------------------------------------------------------------------------


def test_a_drain_can_be_watched_and_is_not_disturbed(
    start_gateway: StartGateway, backend: Backend, new_device: NewDevice
) -> None:
    """The operators' socket stays until the end, whoever looks holds nothing up, and a reload
    changes nothing any more.
    """
    gateway = start_gateway({"drain_timeout": "1h"})
    gate = backend.gate()

    def answer(exchange: Exchange) -> None:
        gate.wait()
        echo(exchange)

    backend.on("/slow", answer)
    with new_device(to=gateway).connect() as connection:
        connection.send(request("GET", "/slow"))
        gate.await_arrival()
        gateway.signal(signal.SIGTERM)
        gateway.log.wait("draining")
        answer = gateway.operator.get("/readyz")
        assert (answer.status, answer.reason) == (503, "drained")
        assert "draining" in answer.json()["detail"]
        assert gateway.operator.metrics()["dgw_ready"] == 0
        assert gateway.operator.get("/livez").status == 200
        gateway.signal(signal.SIGHUP)
        gateway.log.wait("reload ignored: the daemon is draining")
        with socket.socket(socket.AF_UNIX) as watcher:
            watcher.connect(str(gateway.operator.socket_path))
            gate.open()
            assert connection.response().status == 200
            assert gateway.process is not None
            assert gateway.process.wait(timeout=DEADLINE) == 0
    assert not gateway.log.find("reloaded")


# --- privileges ----------------------------------------------------------------------------------


def as_nobody(gateway: Gateway) -> None:
    """Where the tests themselves are privileged."""
    if os.geteuid() != 0:
        return
    nobody = pwd.getpwnam("nobody")
    for path in [gateway.folder, *gateway.folder.rglob("*")]:
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    gateway.launch_options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def test_no_privilege_is_needed(start_gateway: StartGateway, new_device: NewDevice) -> None:
    gateway = start_gateway(prepare=as_nobody)
    assert gateway.process is not None
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert "0" not in fields["Uid"].split()
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    assert new_device(to=gateway).get("/").status == 200


def test_a_state_dir_of_somebody_else_is_a_clear_error(
    start_gateway: StartGateway, folder: Path
) -> None:
    state = folder / "theirs"
    state.mkdir(0o500)
    gateways: list[Gateway] = []

    def prepare(gateway: Gateway) -> None:
        gateways.append(gateway)
        as_nobody(gateway)
        if os.geteuid() == 0:
            os.chown(state, 0, 0)

    with pytest.raises(AssertionError, match="ended early"):
        start_gateway({"state_dir": str(state)}, prepare=prepare)
    error = _refusal(gateways[0])
    assert f"cannot use state_dir {state}: Permission denied" in error
    assert "with mode 0500" in error and "chown it" in error
    gateways[0].process = None


# --- the units -----------------------------------------------------------------------------------


def _systemd_analyze(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )


def test_the_units_are_valid_and_confine_the_daemon(folder: Path) -> None:
    """Where there is a systemd to say so."""
    if shutil.which("systemd-analyze") is None:
        return
    text = (CONF / "device-gateway.service").read_text()
    assert "/usr/local/bin/device-gateway " in text
    unit = folder / "device-gateway.service"
    unit.write_text(text.replace("/usr/local/bin/device-gateway ", f"{binary()} "))
    shutil.copy(CONF / "device-gateway.socket", folder)
    done = _systemd_analyze("verify", str(unit), str(folder / "device-gateway.socket"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # In tenths: 1.7 when this was written; 0 is no exposure, 10 all of it.
    done = _systemd_analyze("security", "--offline=true", "--threshold=20", str(unit))
    assert done.returncode == 0, done.stdout
