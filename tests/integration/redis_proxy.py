# SPDX-License-Identifier: BSD-2-Clause
"""Stands between a gateway and Redis, so that a test can stop time between a command and its answer.

    proxy = RedisProxy(folder / "proxy.sock", redis)
    gateway = start_gateway({"store": {"redis": proxy.url}})
    hold = proxy.hold_answer(b"DEVICE_PUBKEY_CHANGE")  # of the next command that contains this
    ...
    hold.await_command()                               # it is on its way to Redis
    hold.release()                                     # the answer may go to the gateway
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Callable, Optional

from conditions import DEADLINE, Deadline
from redis_server import RedisServer


class Hold:
    """One command that is being held up. With it everything behind it on its link."""

    def __init__(self, marker: bytes, before: bool):
        self.marker = marker
        self.before = before  # the command itself does not reach Redis
        self._met = threading.Event()
        self._released = threading.Event()

    def await_command(self, deadline: float = DEADLINE) -> None:
        if not self._met.wait(deadline):
            raise Deadline(f"no command with {self.marker!r} came")

    def release(self) -> None:
        self._released.set()

    def meet(self) -> None:
        self._met.set()

    def wait(self) -> None:
        self._released.wait(4 * DEADLINE)


class RedisProxy:
    """Listens on a Unix socket; one thread a link and direction."""

    def __init__(self, path: Path, redis: RedisServer):
        self._path = path
        self._redis = redis
        self._holds: list[Hold] = []
        self._all: list[Hold] = []
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """For the gateway's store.redis."""
        return f"unix:{self._path}"

    def hold_answer(self, marker: bytes) -> Hold:
        """The next command that contains `marker` reaches Redis; its answer waits."""
        return self._add(Hold(marker, before=False))

    def hold_command(self, marker: bytes) -> Hold:
        """The next command that contains `marker` waits, and never arrives if the gateway ends."""
        return self._add(Hold(marker, before=True))

    def stop(self) -> None:
        for hold in self._all:
            hold.release()
        self._listener.close()

    def _add(self, hold: Hold) -> Hold:
        with self._lock:
            self._holds.append(hold)
            self._all.append(hold)
        return hold

    def _take_hold(self, data: bytes) -> Optional[Hold]:
        with self._lock:
            for hold in self._holds:
                if hold.marker in data:
                    self._holds.remove(hold)
                    return hold
        return None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._redis.socket))
            except OSError:
                client.close()
                continue
            _Link(self._take_hold, client, server)


TakeHold = Callable[[bytes], Optional[Hold]]


class _Link:
    def __init__(self, take_hold: TakeHold, client: socket.socket, server: socket.socket):
        self._take_hold = take_hold
        self._client = client
        self._server = server
        self._hold: Optional[Hold] = None
        for run in (self._commands, self._answers):
            threading.Thread(target=run, daemon=True).start()

    def _commands(self) -> None:
        try:
            while data := self._client.recv(1 << 20):
                hold = self._take_hold(data)
                if hold is not None and hold.before:
                    hold.meet()
                    hold.wait()
                    if self._is_gone():
                        break
                elif hold is not None:
                    self._hold = hold
                self._server.sendall(data)
                if hold is not None and not hold.before:
                    hold.meet()
        except OSError:
            pass
        self._end()

    def _answers(self) -> None:
        try:
            while data := self._server.recv(1 << 20):
                if self._hold is not None:
                    self._hold.wait()
                self._client.sendall(data)
        except OSError:
            pass
        self._end()

    def _is_gone(self) -> bool:
        self._client.setblocking(False)
        try:
            return not self._client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        finally:
            self._client.setblocking(True)

    def _end(self) -> None:
        for sock in (self._client, self._server):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
