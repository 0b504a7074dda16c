# SPDX-License-Identifier: BSD-2-Clause
"""The load generator (load.c) as an object: one run, with a look at the server where it begins and
where it ends.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from servers import LOAD_CPU, on_cpu

Result = dict[str, Any]


class Load:
    """`with Load(...) as load: load.ready(); …look…; load.go(); result = load.result(); …look…`"""

    def __init__(
        self, build: Path, ca_file: Path, devices: Path, mode: str, address: str, **options: Any
    ):
        flags = [f"--{name}={value}" for name, value in options.items() if value]
        self._process = subprocess.Popen(
            [
                *on_cpu(LOAD_CPU),
                str(build / "tests/bench/load"),
                f"--devices={devices}",
                f"--ca={ca_file}",
                *flags,
                mode,
                address,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.what = f"{mode} {' '.join(flags)}"

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ready(self) -> None:
        self._phase("ready")

    def go(self) -> None:
        """The measured part begins; while connections are held: it ends."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def standing(self) -> None:
        self._phase("standing")

    def result(self) -> Result:
        return self._phase("done")

    def _phase(self, name: str) -> Result:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator ended ({self.what})")
        said: Result = json.loads(line)
        if said.get("errors"):
            raise RuntimeError(
                f"invalid: {said['errors']} errors, the first: {said['first_error']} ({self.what})"
            )
        if said["phase"] != name:
            raise RuntimeError(f"the load generator said {said} instead of {name} ({self.what})")
        return said
