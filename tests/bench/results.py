# SPDX-License-Identifier: BSD-2-Clause
"""What was measured, as Markdown.

Servers take turns, so each round gives one number a server; a ratio is made of the two numbers of
one round. Shown are the median of the rounds and, in brackets, the least and the greatest.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Optional

from servers import find_program


def spread(values: list[float], digits: int = 2) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def verdict(value: float, bar: Optional[float], at_least: bool = False) -> str:
    if bar is None:
        return ""
    met = value >= bar if at_least else value <= bar
    return "met" if met else "**missed**"


@dataclass
class Comparison:
    """The gateway against its rivals; the bar is for the ratio to the hardest of them."""

    name: str
    unit: str
    bar: Optional[float]
    digits: int = 0
    rounds: dict[str, list[float]] = field(default_factory=dict)  # by the server's name

    def add(self, server: str, value: float) -> None:
        self.rounds.setdefault(server, []).append(value)

    def ratios(self, rival: str) -> list[float]:
        return [a / b for a, b in zip(self.rounds["gateway"], self.rounds[rival])]

    def row(self, rivals: list[str]) -> list[str]:
        worst = max(statistics.median(self.ratios(rival)) for rival in rivals)
        return [
            f"{self.name}, {self.unit}",
            *(spread(self.rounds[server], self.digits) for server in ["gateway", *rivals]),
            *(spread(self.ratios(rival)) for rival in rivals),
            f"≤ {self.bar}" if self.bar is not None else "",
            verdict(worst, self.bar),
        ]


@dataclass
class Measurement:
    """A number of the gateway's own."""

    name: str
    unit: str
    bar: Optional[float] = None
    digits: int = 1
    at_least: bool = False
    rounds: list[float] = field(default_factory=list)

    def row(self) -> list[str]:
        sign = "≥" if self.at_least else "≤"
        return [
            f"{self.name}, {self.unit}" if self.unit else self.name,
            spread(self.rounds, self.digits),
            f"{sign} {self.bar:g}" if self.bar is not None else "",
            verdict(statistics.median(self.rounds), self.bar, self.at_least),
        ]


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def comparisons_table(comparisons: list[Comparison], rivals: list[str]) -> str:
    head = ["", "gateway", *rivals, *(f"gateway ÷ {rival}" for rival in rivals), "bar", ""]
    return table(head, (comparison.row(rivals) for comparison in comparisons))


def measurements_table(measurements: list[Measurement]) -> str:
    return table(["", "gateway", "bar", ""], (measurement.row() for measurement in measurements))


# --- the machine ----------------------------------------------------------------------------------


def machine() -> str:
    """One paragraph: what these numbers belong to."""
    cpu = _found(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = int(_found(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())) // 1024 // 1024
    debian = _found(r'PRETTY_NAME="(.+)"', Path("/etc/os-release").read_text())
    virtual = "virtual, " if "hypervisor" in Path("/proc/cpuinfo").read_text() else ""
    return (
        f"{cpu}, {os.cpu_count()} cores ({virtual}{memory} GiB), Linux {platform.release()}, {debian}, "
        f"{_version('gcc', '--version', r'gcc .*?([0-9.]+)$', 'gcc')}, "
        f"{_version('openssl', 'version', r'OpenSSL ([0-9.a-z]+)', 'OpenSSL')}, "
        f"{_version('nginx', '-v', r'nginx/([0-9.]+)', 'nginx')}, "
        f"{_version('redis-server', '--version', r'v=([0-9.]+)', 'Redis')}"
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.M)
    return match.group(1) if match else "unknown"


def _version(program: str, option: str, pattern: str, name: str) -> str:
    path = find_program(program)
    if path is None:
        return f"{name} missing"
    done = subprocess.run([path, option], capture_output=True, text=True)
    return f"{name} {_found(pattern, done.stdout + done.stderr)}"
