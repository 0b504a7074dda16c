# SPDX-License-Identifier: BSD-2-Clause
"""A redis-server of the test's own: durable like the shipped conf/redis.conf, and made to be
killed.
"""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from typing import Optional

import redis

from conditions import stop_process, wait_until


class RedisServer:
    """Listens on a Unix socket in its folder, and on 127.0.0.1 as well when `tcp` is asked for."""

    def __init__(
        self, folder: Path, *options: str, tcp: bool = False, password: Optional[str] = None
    ):
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.log_file = folder / "redis.log"
        self.port = _free_port() if tcp else 0
        self._options = options
        if password is not None:
            self._options += ("--requirepass", password, "--masterauth", password)
        self._password = password
        self._process: Optional[subprocess.Popen[bytes]] = None

    @property
    def url(self) -> str:
        """For the gateway's store.redis."""
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix:{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> "RedisServer":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [
                "redis-server",
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--unixsocket",
                str(self.socket),
                "--dir",
                str(self.folder),
                "--logfile",
                str(self.log_file),
                "--daemonize",
                "no",
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                *self._options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, "redis-server answers")
        return self

    def client(self) -> "redis.Redis[bytes]":
        return redis.Redis(unix_socket_path=str(self.socket), password=self._password)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9: whatever was not on disk is lost."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        """The process stalls: connections stay open, nothing is answered."""
        stop_process(self.pid)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(number)
        self._signal(signal.SIGCONT)
        self._process.wait(timeout=20)
        self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"redis-server ended: {self.log_file.read_text(errors='replace')}")
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.exceptions.AuthenticationError:
            return True
        except redis.exceptions.ConnectionError:  # also while loading
            return False


def _free_port() -> int:
    """Redis cannot let the kernel choose; the chance that somebody takes the port in between is
    small.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
