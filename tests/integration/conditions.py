# SPDX-License-Identifier: BSD-2-Clause
"""Waiting for conditions. Nothing in these tests sleeps for a fixed time in the hope that something
has happened.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Callable, TypeVar

T = TypeVar("T")

# Generous, because sanitized builds run on busy machines; a passing test never waits this long.
DEADLINE = 20.0

_POLL = 0.01


class Deadline(Exception):
    """A condition did not come true in time."""


def wait_until(predicate: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """Polls until `predicate` gives something true, and returns that."""
    end = time.monotonic() + deadline
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() >= end:
            raise Deadline(f"not within {deadline:g} s: {what}")
        time.sleep(_POLL)


def stays_true(predicate: Callable[[], bool], seconds: float) -> bool:
    """False as soon as `predicate` is. For what must *not* happen within a known bound of the
    product's.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not predicate():
            return False
        time.sleep(_POLL)
    return predicate()


def stop_process(pid: int) -> None:
    """SIGSTOP, and every thread has obeyed. kill() returns before that: on a busy machine the others
    run on until the first has taken the signal.
    """
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(_is_stopped(task) for task in Path(f"/proc/{pid}/task").iterdir()), "it stops")


def _is_stopped(task: Path) -> bool:
    # "pid (name) state …", and a name may contain anything.
    return (task / "stat").read_text().rpartition(")")[2].split()[0] in ("T", "t", "Z")
