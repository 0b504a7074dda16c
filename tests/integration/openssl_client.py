# SPDX-License-Identifier: BSD-2-Clause
"""`openssl s_client` as a client: for what Python's ssl cannot do, and for what it says about the
handshake.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Optional

from conditions import wait_until
from gateway import Gateway
from pki import Identity, Pki


class OpenSslClient:
    """One run of s_client; what it prints is collected while it goes on.

    with OpenSslClient(gateway, pki, folder, identity, "-tls1_3") as client:
        client.send(request("GET", "/hello"))
        client.await_output("HTTP/1.1 200 ")
    """

    def __init__(
        self,
        gateway: Gateway,
        pki: Pki,
        folder: Path,
        identity: Optional[Identity],
        *options: str,
    ):
        host, port = gateway.address()
        pki.server_ca.write(folder / "s_client-ca.pem")
        self._output = folder / "s_client.txt"
        command = ["openssl", "s_client", "-connect", f"{host}:{port}", "-CAfile"]
        command += [str(folder / "s_client-ca.pem"), "-verify_return_error"]
        if identity is not None:
            certificate, key = identity.write(folder, "s_client")
            command += ["-cert", str(certificate), "-key", str(key)]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command + list(options),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                bufsize=0,
                env={**os.environ, "LC_ALL": "C", "OPENSSL_CONF": "/dev/null"},
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)

    def await_output(self, text: str, count: int = 1) -> None:
        wait_until(lambda: self.output.count(text) >= count, f"s_client prints {text!r}")

    def await_end(self) -> str:
        """Until the connection is over; everything that was printed. No further input comes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        return self.output

    def __enter__(self) -> "OpenSslClient":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
