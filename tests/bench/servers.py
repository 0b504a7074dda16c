# SPDX-License-Identifier: BSD-2-Clause
"""What stands in the ring: the gateway, nginx, and the origin behind both; and what they cost.

The load generator, the origin and Redis share one CPU, the server that is measured has the other
for itself (LOAD_CPU, SERVER_CPU).
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Iterator, Optional

import gateway as integration
from conditions import wait_until
from pki import Authority
from redis_server import RedisServer

LOAD_CPU, SERVER_CPU = 0, 1
_TICK = os.sysconf("SC_CLK_TCK")


def on_cpu(*cpus: int) -> list[str]:
    """What a command begins with to run there."""
    return ["taskset", "-c", ",".join(map(str, cpus))]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# --- what a server costs --------------------------------------------------------------------------


def family(pid: int) -> Iterator[int]:
    """The process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def cpu_seconds(pids: list[int]) -> float:
    """utime + stime of all threads, the ended ones too."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK


def resident_bytes(pids: list[int], line: str = "VmRSS") -> int:
    """`line`: VmRSS, or VmHWM for the peak."""
    total = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(re.search(rf"^{line}:\s+(\d+) kB", status, re.M).group(1)) * 1024
    return total


def reset_peak(pids: list[int]) -> None:
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


# --- certificates ---------------------------------------------------------------------------------


class Pki:
    """P-256 throughout; devices and server each below an intermediate."""

    def __init__(self, folder: Path):
        self.folder = folder
        server_root = Authority.root("Bench Server Root")
        server_ca = server_root.intermediate("Bench Server CA")
        server_ca.server("localhost").write(folder, "server", with_chain=True)
        self.server_ca = server_root.write(folder / "server-ca.pem")
        self.device_ca = Authority.root("Bench Device Root").intermediate("Bench Device CA")
        self.device_ca_file = self.device_ca.write(folder / "device-ca.pem")

    def devices(self, count: int) -> Path:
        """A folder with the first `count` devices, as the load generator takes it. Each is made
        once.
        """
        every, some = self.folder / "every-device", self.folder / f"devices-{count}"
        every.mkdir(exist_ok=True)
        some.mkdir(exist_ok=True)
        for i in range(count):
            if not (every / f"{i}.key").exists():
                self.device_ca.device(device_name(i)).write(every, str(i))
            for kind in ("pem", "key"):
                if not (some / f"{i}.{kind}").exists():
                    (some / f"{i}.{kind}").symlink_to(every / f"{i}.{kind}")
        return some


def device_name(i: int) -> str:
    return f"bench-device-{i}"


# --- processes ------------------------------------------------------------------------------------


class Origin:
    """The backend of all servers."""

    def __init__(self, folder: Path, build: Path):
        port_file = folder / "origin.port"
        self.process = subprocess.Popen(
            [*on_cpu(LOAD_CPU), str(build / "tests/bench/origin"), str(port_file)]
        )
        wait_until(lambda: port_file.exists() and port_file.read_text().endswith("\n"), "the origin")
        self.address = f"127.0.0.1:{int(port_file.read_text())}"

    def stop(self) -> None:
        if self.process.poll() is not None:
            raise RuntimeError("the origin has ended early: the run is invalid")
        self.process.kill()
        self.process.wait()


class Server:
    """One that is measured. `name` is its column in the tables."""

    name: str
    address: str
    process: "subprocess.Popen[bytes]"

    def pids(self) -> list[int]:
        return list(family(self.process.pid))

    def cpu(self) -> float:
        return cpu_seconds(self.pids())

    def rss(self) -> int:
        return resident_bytes(self.pids())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


class Gateway(Server):
    """As it is meant to be used: admission, a locked route, identity headers, a log line a request.

    Its Redis is beside it, durable as shipped, on the other CPU and with an account of its own.
    """

    def __init__(
        self, folder: Path, build: Path, pki: Pki, origin: Origin, redis: RedisServer, workers: int = 1
    ):
        self.name = "gateway" if workers == 1 else f"gateway, {workers} workers"
        self.redis = redis
        self.folder = folder / f"gateway-{workers}"
        self.folder.mkdir()
        config = self._config(pki, origin, workers)
        os.environ["DGW_BUILD"] = str(build)
        self.daemon = integration.Gateway(self.folder, config)
        self.daemon.start()
        self.process = self.daemon.process
        cpus = [SERVER_CPU] if workers == 1 else [SERVER_CPU, LOAD_CPU]
        subprocess.run(
            ["taskset", "-acp", ",".join(map(str, cpus)), str(self.process.pid)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.address = "%s:%d" % self.daemon.address()
        self.operator = self.daemon.operator

    def _config(self, pki: Pki, origin: Origin, workers: int) -> integration.Config:
        return {
            "workers": workers,
            "state_dir": str(self.folder / "state"),
            "drain_timeout": "1s",
            "max_connections": 12000,
            "store": {"redis": self.redis.url},
            # Connections are held longer than anybody holds them without a purpose.
            "http": {"idle_timeout": "10m"},
            # One address is a whole fleet here, and one device may be.
            "limits": {"device_connections": 12000},
            "listeners": [
                {
                    "name": "devices",
                    "address": "127.0.0.1:0",
                    "clients": "devices",
                    "certificate": str(pki.folder / "server.pem"),
                    "key": str(pki.folder / "server.key"),
                }
            ],
            "device_cas": [{"name": "factory", "certificate": str(pki.device_ca_file)}],
            "backends": [{"name": "api", "servers": [origin.address]}],
            "routes": [
                {"path": "/device", "methods": ["GET", "PATCH"], "service": "rotation"},
                {
                    "path": "/config",
                    "methods": ["PATCH", "PUT", "POST", "DELETE"],
                    "backend": "api",
                    "lock": "config",
                },
                {"prefix": "/", "backend": "api", "body_limit": 0},
            ],
        }

    def redis_cpu(self) -> float:
        return cpu_seconds([self.redis.pid])

    def stop(self) -> None:
        status = self.daemon.stop()
        if status != 0:
            raise RuntimeError(f"the gateway ended with status {status}:\n{self.daemon.log.tail(5)}")


class Nginx(Server):
    """Debian's nginx.conf with one worker, and a site with mutual TLS in front of the origin.

    `keepalive`: connections to the origin are kept, which Debian's defaults do not, and bodies of
    requests are passed on as they come: what a careful administrator adds, and the harder rival.
    """

    def __init__(self, folder: Path, pki: Pki, origin: Origin, keepalive: bool, workers: int = 1):
        self.name = "nginx, keepalive" if keepalive else "nginx"
        self.folder = folder / f"nginx-{'keepalive' if keepalive else 'default'}-{workers}"
        self.folder.mkdir()
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        config_file = self.folder / "nginx.conf"
        config_file.write_text(self._config(pki, origin, port, keepalive, workers))
        self.process = subprocess.Popen(
            [
                *on_cpu(SERVER_CPU),
                *["nginx", "-p", str(self.folder), "-c", str(config_file), "-g", "daemon off;"],
            ],
            stderr=(self.folder / "stderr.log").open("wb"),
        )
        wait_until(self._accepts, "nginx accepts connections")

    def _accepts(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"nginx ended: {(self.folder / 'stderr.log').read_text()}")
        with socket.socket() as probe:
            host, port = self.address.split(":")
            return probe.connect_ex((host, int(port))) == 0

    def _config(self, pki: Pki, origin: Origin, port: int, keepalive: bool, workers: int) -> str:
        kept = """
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_request_buffering off;"""
        user = "user root;" if os.geteuid() == 0 else ""
        return f"""
{user}
worker_processes {workers};
pid {self.folder}/nginx.pid;
error_log {self.folder}/error.log;
events {{
    worker_connections 16384;
}}
http {{
    # Debian's nginx.conf
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers on;
    access_log {self.folder}/access.log;
    gzip on;

    # Its folders are not ours.
    client_body_temp_path {self.folder}/body;
    proxy_temp_path {self.folder}/proxy;
    fastcgi_temp_path {self.folder}/fastcgi;
    uwsgi_temp_path {self.folder}/uwsgi;
    scgi_temp_path {self.folder}/scgi;

    upstream origin {{
        server {origin.address};
        {'keepalive 32; keepalive_requests 1000000000;' if keepalive else ''}
    }}
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        ssl_certificate {pki.folder}/server.pem;
        ssl_certificate_key {pki.folder}/server.key;
        ssl_client_certificate {pki.device_ca_file};
        ssl_verify_client on;
        ssl_verify_depth 2;
        # Without these the load could not be the same.
        keepalive_requests 1000000000;
        keepalive_timeout 10m;
        client_max_body_size 0;
        location / {{
            proxy_pass http://origin;{kept if keepalive else ''}
        }}
    }}
}}
"""


def find_program(name: str) -> Optional[str]:
    for folder in [*os.environ["PATH"].split(":"), "/usr/sbin", "/usr/local/sbin", "/sbin"]:
        if os.access(Path(folder) / name, os.X_OK):
            return str(Path(folder) / name)
    return None
