# SPDX-License-Identifier: BSD-2-Clause
"""Clients that hold what they can: handshakes that stand still, requests that drip. For the tests
and for tests/bench.
"""

from __future__ import annotations

import resource
import socket
import threading
import time
from contextlib import ExitStack
from typing import Callable

from conditions import DEADLINE
from device import Address, Connection
from wire import request

# Of a ClientHello whose record says that 512 bytes follow.
HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)


def need_descriptors(number: int) -> None:
    """Or there is nothing to test with."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard == resource.RLIM_INFINITY or hard >= number, f"ulimit -Hn is below {number}"


def half_open(stack: ExitStack, address: Address, source: str, number: int) -> None:
    """Every other one is silent, the others stop in the middle of their ClientHello."""
    for i in range(number):
        try:
            sock = socket.create_connection(address, DEADLINE, (source, 0))
            stack.callback(sock.close)
            sock.sendall(HALF_A_HELLO if i % 2 == 0 else b"")
        except ConnectionError:
            pass  # turned away


def dripping(stack: ExitStack, connect: Callable[[], Connection], number: int) -> None:
    """Connections that send a byte five times a second until the stack ends: half of them in a head,
    half in a body.
    """
    head = b"GET / HTTP/1.1\r\nX-Slow: "
    body = request("POST", "/slow", [("Content-Length", "100000")])
    connections = [
        stack.enter_context(connect()).send(body if i % 2 else head)
        for i in range(number)
    ]
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.2):
            for connection in connections:
                _try_send(connection)

    thread = threading.Thread(target=drip)
    thread.start()
    stack.callback(thread.join)
    stack.callback(over.set)


def _try_send(connection: Connection) -> None:
    try:
        connection.send(b"x")
    except OSError:
        pass


def slowest(number: int, act: Callable[[], object]) -> float:
    """Seconds that the slowest of so many took."""

    def once() -> float:
        begun = time.monotonic()
        act()
        return time.monotonic() - begun

    return max(once() for _ in range(number))
