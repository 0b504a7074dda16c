# SPDX-License-Identifier: BSD-2-Clause
"""Many clients at once, and devices that retry as stock agents do."""

from __future__ import annotations

import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Optional, TypeVar

from conditions import DEADLINE, Deadline
from device import Timeout
from wire import EndOfStream, Response

T = TypeVar("T")
A = TypeVar("A")

TRANSPORT_ERRORS = (OSError, ssl.SSLError, EndOfStream, Timeout)

# Stock agents wait 1, 2, 5, 13 and 30 s; the order of things is the same with less.
_RETRY_AFTER = 0.05


def at_once(run: Callable[[A], T], arguments: Iterable[A]) -> list[T]:
    """run(argument) in a thread for each, all released in the same moment; the results in order."""
    items = list(arguments)
    barrier = threading.Barrier(len(items))

    def one(item: A) -> T:
        barrier.wait(DEADLINE)
        return run(item)

    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(one, items))


def attempt(send: Callable[[], Response]) -> Optional[Response]:
    """None when no answer came: to the device a lost request and a lost answer look alike."""
    try:
        return send()
    except TRANSPORT_ERRORS:
        return None


def persist(send: Callable[[], Response], deadline: float = DEADLINE) -> Response:
    """The first answer that is final to a stock agent: it repeats the same request after 5xx and
    transport errors.
    """
    end = time.monotonic() + deadline
    while True:
        response = attempt(send)
        if response is not None and response.status < 500:
            return response
        if time.monotonic() >= end:
            raise Deadline(f"no final answer within {deadline:g} s, at last {response}")
        time.sleep(_RETRY_AFTER)
