# SPDX-License-Identifier: BSD-2-Clause
"""Several redis-servers that belong together: a primary with replicas and sentinels, or a Cluster.
Real processes on 127.0.0.1, each with a folder of its own.
"""

from __future__ import annotations

import socket
import subprocess
from binascii import crc_hqx
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import redis

from conditions import stop_process, wait_until
from redis_server import RedisServer

# Fail-overs take their time; what waits for one waits for so long.
FAILOVER = 60.0

_QUICK = (
    "--repl-diskless-sync-delay",
    "0",
    "--repl-ping-replica-period",
    "1",
    "--enable-debug-command",
    "yes",
)


@dataclass(frozen=True)
class Passwords:
    servers: Optional[str] = None
    sentinels: Optional[str] = None

    def settings(self) -> str:
        """A sentinel's."""
        lines = ""
        if self.servers is not None:
            lines += f"sentinel auth-pass fleet {self.servers}\n"
        if self.sentinels is not None:
            lines += f"requirepass {self.sentinels}\nsentinel sentinel-pass {self.sentinels}\n"
        return lines


class Sentinel:
    """One sentinel that watches the master "fleet"."""

    def __init__(self, folder: Path, port: int, master_port: int, passwords: Passwords):
        self.folder = folder
        self.port = port
        self._password = passwords.sentinels
        self._process: Optional[subprocess.Popen[bytes]] = None
        folder.mkdir(parents=True)
        (folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor fleet 127.0.0.1 {master_port} 2\n"
            "sentinel down-after-milliseconds fleet 2500\n"
            "sentinel failover-timeout fleet 4000\n"
            "sentinel parallel-syncs fleet 4\n" + passwords.settings()
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> "Sentinel":
        self._process = subprocess.Popen(
            [
                "redis-server",
                str(self.folder / "sentinel.conf"),
                "--sentinel",
                "--logfile",
                str(self.folder / "sentinel.log"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, "a sentinel answers")
        return self

    def client(self) -> "redis.Redis[bytes]":
        return redis.Redis(host="127.0.0.1", port=self.port, password=self._password)

    def master_port(self) -> int:
        with self.client() as client:
            return int(client.execute_command("SENTINEL", "get-master-addr-by-name", "fleet")[1])

    def master(self) -> dict[str, str]:
        with self.client() as client:
            state: dict[str, str] = client.sentinel_master("fleet")
            return state

    def pause(self) -> None:
        assert self._process is not None
        stop_process(self._process.pid)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False


class Replicated:
    """One master, replicas, three sentinels with a quorum of two."""

    def __init__(self, folder: Path, replicas: int = 2, passwords: Passwords = Passwords()):
        secret = passwords.servers
        first = RedisServer(folder / "redis0", *_QUICK, tcp=True, password=secret)
        following = ("--replicaof", "127.0.0.1", str(first.port))
        self.servers = [first] + [
            RedisServer(folder / f"redis{i}", *_QUICK, *following, tcp=True, password=secret)
            for i in range(1, replicas + 1)
        ]
        ports = _free_ports(3)
        self.sentinels = [
            Sentinel(folder / f"sentinel{i}", port, first.port, passwords)
            for i, port in enumerate(ports)
        ]

    def start(self) -> "Replicated":
        for server in self.servers:
            server.start()
        for sentinel in self.sentinels:
            sentinel.start()
        self.await_whole()
        return self

    @property
    def store(self) -> dict[str, Any]:
        """For the gateway's configuration."""
        return {
            "redis": None,
            "sentinel": {"master": "fleet", "servers": [s.address for s in self.sentinels]},
        }

    def master(self) -> RedisServer:
        """As the first sentinel has it."""
        return self._by_port(self.sentinels[0].master_port())

    def replicas(self) -> list[RedisServer]:
        master = self.master()
        return [server for server in self.servers if server is not master]

    def fail_over(self) -> RedisServer:
        """kill -9 of the master; returns the next one, once all sentinels name it."""
        before = self.master()
        before.kill()
        return self.await_master_other_than(before)

    @staticmethod
    def isolate(master: RedisServer) -> None:
        """Its replicas lose it, and cannot come back, until its end."""
        with master.client() as client:
            client.config_set("requirepass", "nobody-knows")
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")

    def revive(self, dead: RedisServer) -> None:
        """As whoever looks after the fleet would: back as a replica, at once."""
        dead.start()
        self.follow(dead)

    def follow(self, server: RedisServer) -> None:
        with server.client() as client:
            client.replicaof("127.0.0.1", self.master().port)
        self.await_whole()

    def await_master_other_than(self, before: RedisServer) -> RedisServer:
        def moved() -> bool:
            ports = {s.master_port() for s in self.sentinels}
            return len(ports) == 1 and ports != {before.port}

        wait_until(moved, "the sentinels name another master", FAILOVER)
        return self.master()

    def await_whole(self) -> None:
        """Every server runs, and all replicas follow the one master."""

        def is_whole() -> bool:
            states = [s.master() for s in self.sentinels]
            if any(
                int(s["num-other-sentinels"]) != 2
                or int(s["num-slaves"]) != len(self.servers) - 1
                or s["flags"] != "master"
                for s in states
            ):
                return False
            with self.master().client() as client:
                info = client.info("replication")
            online = [
                v for k, v in info.items() if k.startswith("slave") and v["state"] == "online"
            ]
            return info["role"] == "master" and len(online) == len(self.servers) - 1

        wait_until(_patient(is_whole), "every replica follows the master", FAILOVER)

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.kill()
        for server in self.servers:
            server.kill()

    def _by_port(self, port: int) -> RedisServer:
        return next(server for server in self.servers if server.port == port)


def _patient(predicate: Any) -> Any:
    def ask() -> bool:
        try:
            return bool(predicate())
        except redis.exceptions.RedisError:
            return False

    return ask


def _free_ports(n: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Cluster:
    """Three masters with the slots in thirds, each with a replica if asked for."""

    def __init__(self, folder: Path, replicas: int = 0):
        self._n_masters = 3
        self.servers = [
            RedisServer(
                folder / f"node{i}",
                *_QUICK,
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1500",
                "--cluster-port",
                str(port),
                tcp=True,
            )
            for i, port in enumerate(_free_ports(self._n_masters * (1 + replicas)))
        ]

    def start(self) -> "Cluster":
        for server in self.servers:
            server.start()
        first, *others = self.servers
        for server in others:
            # The bus port is not the usual one, so that tests can run side by side.
            _ask(server, "CLUSTER", "MEET", "127.0.0.1", first.port, _bus_port(first))
        wait_until(
            lambda: all(len(_nodes(s)) == len(self.servers) for s in self.servers), "all meet"
        )
        third = 16384 // self._n_masters
        for i, master in enumerate(self.servers[: self._n_masters]):
            last = 16383 if i == self._n_masters - 1 else (i + 1) * third - 1
            _ask(master, "CLUSTER", "ADDSLOTSRANGE", i * third, last)
        for i, replica in enumerate(self.servers[self._n_masters :]):
            master = self.servers[i % self._n_masters]
            wait_until(
                _patient(lambda: _ask(replica, "CLUSTER", "REPLICATE", self.node_id(master))),
                "a replica follows",
            )
        self.await_whole()
        return self

    @property
    def store(self) -> dict[str, Any]:
        """For the gateway's configuration: one node of them."""
        return {"redis": None, "cluster": [f"127.0.0.1:{self.servers[1].port}"]}

    @staticmethod
    def slot(partition: int) -> int:
        return crc_hqx(b"p%02d" % partition, 0) % 16384

    def owner(self, slot: int, of: Optional[RedisServer] = None) -> RedisServer:
        """Who has the slot, says a node (the first that runs)."""
        witness = of or next(server for server in self.servers if server.is_running())
        for first, last, node, *_ in _ask(witness, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self._by_port(node[1])
        raise AssertionError(f"nobody has slot {slot}")

    def client(self, partition: int) -> "redis.Redis[bytes]":
        return self.owner(self.slot(partition)).client()

    @staticmethod
    def node_id(server: RedisServer) -> str:
        return bytes(_ask(server, "CLUSTER", "MYID")).decode()

    def begin_move(self, slot: int, to: RedisServer) -> RedisServer:
        """From now on the slot is on its way; returns where it comes from."""
        source = self.owner(slot)
        _ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.node_id(source))
        _ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.node_id(to))
        return source

    def move_keys(self, slot: int, source: RedisServer, to: RedisServer) -> None:
        while keys := _ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            _ask(source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)

    def end_move(self, slot: int, source: RedisServer, to: RedisServer) -> None:
        for server in (to, source):
            _ask(server, "CLUSTER", "SETSLOT", slot, "NODE", self.node_id(to))

    def await_whole(self) -> None:
        """Every node sees all slots served, and every replica follows its master."""

        def is_whole() -> bool:
            for server in self.servers:
                with server.client() as client:
                    state = client.execute_command("CLUSTER", "INFO")
                    info = client.info("replication")
                if b"cluster_state:ok" not in bytes(state):
                    return False
                if info["role"] == "slave" and info["master_link_status"] != "up":
                    return False
            return True

        wait_until(_patient(is_whole), "the Cluster is whole", FAILOVER)

    def stop(self) -> None:
        for server in self.servers:
            server.kill()

    def _by_port(self, port: int) -> RedisServer:
        return next(server for server in self.servers if server.port == port)


def _ask(server: RedisServer, *command: Any) -> Any:
    with server.client() as client:
        # redis-py knows some of the answers too well.
        client.response_callbacks.clear()
        return client.execute_command(*command)


def _nodes(server: RedisServer) -> list[bytes]:
    return bytes(_ask(server, "CLUSTER", "NODES")).splitlines()


def _bus_port(server: RedisServer) -> int:
    myself = next(line for line in _nodes(server) if b"myself" in line)
    return int(myself.split()[1].split(b"@")[1].split(b",")[0])
