# SPDX-License-Identifier: BSD-2-Clause
"""The daemon under test: its configuration, its process, its log, and its operator socket."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, Optional

import yaml

from conditions import DEADLINE, stop_process, wait_until
from device import Address
from pki import Pki
from wire import Reader, Response, request

ROOT = Path(__file__).resolve().parents[2]

Config = dict[str, Any]
Entry = dict[str, Any]


def binary() -> Path:
    """The daemon of the build folder that DGW_BUILD names."""
    return Path(os.environ.get("DGW_BUILD", ROOT / "build")) / "gateway" / "device-gateway"


def default_config(folder: Path, pki: Pki, store: Optional[str], backend: str) -> Config:
    """A small fleet: devices and operators on ports of the kernel's choice, one backend, all routes
    of the design.

    Tests change what they are about and leave the rest. `store` is store.redis; None makes it
    embedded.
    """
    pki.device_ca.write(folder / "device-ca.pem")
    pki.operator_ca.write(folder / "operator-ca.pem")
    pki.server.write(folder, "server", with_chain=True)
    config: Config = {
        "workers": 2,
        "state_dir": str(folder / "state"),
        "drain_timeout": "2s",
        "log": {"level": "debug"},
        "store": {},
        "rotation": {"drain": "1s"},
        "listeners": [
            listener("devices", folder, clients="devices"),
            listener("operators", folder, clients="operators", client_ca="operator-ca.pem"),
        ],
        "device_cas": [{"name": "acme", "certificate": "device-ca.pem", "state": "active"}],
        "backends": [{"name": "api", "servers": [backend]}],
        "routes": [
            {
                "path": "/device",
                "methods": ["GET", "PATCH"],
                "service": "rotation",
                "open_in_quarantine": True,
            },
            {"path": "/config", "methods": ["PATCH"], "backend": "api", "lock": "config"},
            {"prefix": "/", "backend": "api"},
            {
                "path": "/devices/{device}/config",
                "methods": ["PATCH", "PUT"],
                "backend": "api",
                "lock": "config",
            },
            {"prefix": "/", "listener": "operators", "backend": "api"},
        ],
    }
    if store is not None:
        config["store"]["redis"] = store
    return config


def listener(name: str, folder: Path, clients: str, **settings: Any) -> Config:
    """One with the test server's certificate, on 127.0.0.1."""
    return {
        "name": name,
        "address": "127.0.0.1:0",
        "clients": clients,
        "certificate": "server.pem",
        "key": "server.key",
        **settings,
    }


def merged(config: Config, changes: Config) -> Config:
    """`changes` over `config`: mappings are merged, everything else (lists too) is replaced, None
    removes.
    """
    result = copy.deepcopy(config)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


class Log:
    """The daemon's stderr, a file that is parsed as it grows."""

    def __init__(self, path: Path):
        self.path = path
        self.entries: list[Entry] = []
        self.foreign: list[
            str
        ] = []  # lines that are no log entries: sanitizers, libraries, mistakes
        self._offset = 0
        self._partial = b""
        self._lock = threading.Lock()  # tests ask from several threads

    def refresh(self) -> None:
        with self._lock:
            self._read_on()

    def find(self, msg: str, **fields: Any) -> list[Entry]:
        """The entries with this message and these values, oldest first."""
        self.refresh()
        return [
            e
            for e in list(self.entries)
            if e.get("msg") == msg and all(e.get(k) == v for k, v in fields.items())
        ]

    def wait(self, msg: str, count: int = 1, deadline: float = DEADLINE, **fields: Any) -> Entry:
        """The count-th such entry."""
        wait_until(
            lambda: len(self.find(msg, **fields)) >= count,
            f"log entry {count} of {msg!r} with {fields}",
            deadline,
        )
        return self.find(msg, **fields)[count - 1]

    def tail(self, lines: int = 60) -> str:
        if not self.path.exists():
            return ""
        return "\n".join(self.path.read_text(errors="replace").splitlines()[-lines:])

    def _read_on(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._parse(line)

    def _parse(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict) and {"time", "level", "msg"} <= entry.keys():
            self.entries.append(entry)
        else:
            self.foreign.append(line.decode(errors="replace"))


class Operator:
    """The operator listener on its Unix socket."""

    def __init__(self, socket_path: Path):
        self.socket_path = socket_path

    def request(self, method: str, target: str, body: Optional[object] = None) -> Response:
        data = None if body is None else json.dumps(body).encode()
        headers = [("Connection", "close")] + (
            [("Content-Type", "application/json")] if data is not None else []
        )
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(self.socket_path))
            sock.sendall(request(method, target, headers, data))
            return Reader(sock.recv).response(method)

    def get(self, target: str) -> Response:
        return self.request("GET", target)

    def device(self, name: str) -> Any:
        response = self.get(f"/v1/devices/{name}")
        assert response.status == 200, response
        return response.json()

    def events(
        self, event_type: Optional[str] = None, device: Optional[str] = None, count: int = 1000
    ) -> list[Any]:
        """The newest `count` events, oldest first, of one type and device if asked for."""
        response = self.get(f"/v1/events?count={count}")
        assert response.status == 200, response
        return [
            e
            for e in response.json()
            if event_type in (None, e["type"]) and device in (None, e["device"])
        ]

    def deny(self, kind: str, what: str, reason: str = "stolen", **more: str) -> Response:
        return self.request("PUT", f"/v1/denied/{kind}/{what}", {"reason": reason, **more})

    def allow(self, kind: str, what: str, reason: str = "found again") -> Response:
        return self.request("DELETE", f"/v1/denied/{kind}/{what}", {"reason": reason})

    def cancel_rotation(self, name: str, reason: str = "test") -> Response:
        return self.request("POST", f"/v1/devices/{name}/cancel-rotation", {"reason": reason})

    def accept_key(self, name: str, public_pem: str, reason: str = "test") -> Response:
        return self.request(
            "POST", f"/v1/devices/{name}/accept-key", {"pubkey": public_pem, "reason": reason}
        )

    def metrics(self) -> dict[str, float]:
        """Samples by their name with labels, as Prometheus' text format spells them."""
        lines = self.get("/metrics").body.decode().splitlines()
        return {
            name: float(value)
            for name, value in (
                line.rsplit(" ", 1) for line in lines if line and not line.startswith("#")
            )
        }


class Gateway:
    """One daemon. It belongs to a folder of its own: configuration, state and log are there."""

    def __init__(self, folder: Path, config: Config, name: str = "gateway"):
        self.folder = folder
        self.name = name
        self.config = config
        self.config_file = folder / f"{name}.yaml"
        self.log = Log(folder / f"{name}.log")
        self.operator = Operator(Path(config["state_dir"]) / "operator.sock")
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.environment: dict[str, str] = {}  # what a service manager adds
        self.launcher: list[str] = []  # a command that executes the one behind it
        self.launch_options: dict[str, Any] = {}  # of subprocess.Popen
        self._expect_clean = True

    def start(self, wait_ready: bool = True) -> "Gateway":
        """May be called again after stop() or kill(): ports may differ then."""
        self.write_config()
        self.log.refresh() if self.log.path.exists() else self.log.path.touch()
        before = len(self.log.find("ready")), len(self.log.find("listening"))
        with self.log.path.open("ab") as log_file:
            self.process = subprocess.Popen(
                [*self.launcher, str(binary()), "-c", str(self.config_file)],
                cwd=self.folder,
                env={**_environment(), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                **self.launch_options,
            )
        self._wait_started(len(self.config["listeners"]) + before[1], "listening")
        if wait_ready:
            self.wait_ready(before[0] + 1)
        return self

    def wait_ready(self, count: int = 1) -> None:
        self._wait_started(count, "ready")

    def address(self, listener_name: str = "devices") -> Address:
        host, port = self.log.find("listening", listener=listener_name)[-1]["address"].rsplit(
            ":", 1
        )
        return host, int(port)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def reload(self, config: Optional[Config] = None, expect: str = "reloaded") -> Entry:
        """SIGHUP; waits for the outcome ("reloaded" or "reload refused")."""
        if config is not None:
            self.config = config
            self.write_config()
        count = len(self.log.find(expect)) + 1
        self.signal(signal.SIGHUP)
        return self.log.wait(expect, count)

    def stop(self, deadline: float = 30.0) -> int:
        """SIGTERM, as an init system would; the exit status."""
        assert self.process is not None
        if self.is_running():
            self.signal(signal.SIGTERM)
        status = self.process.wait(timeout=deadline)
        self.process = None
        return status

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def pause(self) -> None:
        assert self.process is not None
        stop_process(self.process.pid)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def write_config(self) -> None:
        self.config_file.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def finish(self) -> None:
        """The end of every test: the daemon stops in order, and nothing but log entries was ever
        printed.
        """
        if self.process is not None:
            try:
                status = self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{self.name} does not end after SIGTERM")
            assert status == 0, f"{self.name} ended with status {status}"
        if self.log.path.exists():
            self.log.refresh()
        assert self.log.foreign == [], f"{self.name} printed what is no log entry"

    def _wait_started(self, count: int, msg: str) -> None:
        def happened() -> bool:
            if not self.is_running():
                raise AssertionError(f"{self.name} ended early:\n{self.log.tail()}")
            return len(self.log.find(msg)) >= count

        wait_until(happened, f"{self.name} logs {msg!r}")


def check_config(config_file: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """device-gateway -t (or -T, -V)."""
    return subprocess.run(
        [str(binary()), "-c", str(config_file), *options],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def _environment() -> dict[str, str]:
    """Sanitizers stop at the first finding, which then is the exit status and is in the log."""
    return {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:exitcode=98",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=97",
        "TSAN_OPTIONS": "halt_on_error=1:exitcode=96",
        "LC_ALL": "C",
    }
