# SPDX-License-Identifier: BSD-2-Clause
"""The embedded store: a real redis-server in the state folder, which belongs to one daemon at a
time.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import threading
from pathlib import Path
from typing import Callable

import pytest
import redis as redis_client

from agent import StockAgent
from backend import Backend
from conditions import stop_process, wait_until
from conftest import NewDevice, StartGateway
from device import Device
from fleet_threads import attempt, persist
from gateway import Config, Gateway, binary, merged
from pki import Identity

NextIdentity = Callable[[Device], Identity]

EMBEDDED: Config = {
    "store": {
        "redis": None,
        "command_timeout": "500ms",
        "connect_timeout": "500ms",
        "lease": "1s",
    }
}


@pytest.fixture
def embedded(start_gateway: StartGateway) -> Gateway:
    return start_gateway(EMBEDDED)


def state_dir(gateway: Gateway) -> Path:
    return Path(gateway.config["state_dir"])


def server_pid(gateway: Gateway) -> int:
    """Of the redis-server that answers on the state folder's socket."""
    with redis_client.Redis(unix_socket_path=str(state_dir(gateway) / "redis.sock")) as client:
        return int(client.info("server")["process_id"])


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def through(device: Device, gateway: Gateway) -> Device:
    return Device(device.identity, gateway.address(), device.trust)


def await_readiness(gateway: Gateway, status: int) -> None:
    wait_until(lambda: gateway.operator.get("/readyz").status == status, f"/readyz gives {status}")


def test_it_is_durable_private_and_readable(embedded: Gateway) -> None:
    """Nobody else can connect; what was acknowledged is on disk; its log can be read."""
    folder = state_dir(embedded)
    with redis_client.Redis(unix_socket_path=str(folder / "redis.sock")) as client:
        settings = client.config_get("*")
    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "always")
    assert (settings["port"], settings["maxmemory-policy"]) == ("0", "noeviction")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "redis.sock").stat().st_mode) == 0o700
    log = folder / "redis.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert "ready to accept connections" in log.read_text().lower()


def test_it_stops_with_the_daemon_and_keeps_everything(
    embedded: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    device = new_device(to=embedded)
    following = next_identity(device)
    assert device.get("/hello").status == 200
    assert StockAgent(device).announce(following.public_pem).status == 200
    pid = server_pid(embedded)
    assert embedded.stop() == 0
    assert not is_alive(pid)

    embedded.start()
    new = through(device.with_identity(following), embedded)
    assert new.get("/hello").status == 200
    assert embedded.operator.device(device.name)["generation"] == 2


def test_it_is_started_again_when_it_dies(
    embedded: Gateway, new_device: NewDevice, next_identity: NextIdentity, backend: Backend
) -> None:
    """Invariant 7: kill -9 of the embedded server between an announcement's 200, the promotion and a
    denial loses none of them; the daemon says what happened, and goes on.
    """
    device, stolen = new_device(to=embedded), new_device(to=embedded)
    following = next_identity(device)

    def kill_server() -> None:
        pid = server_pid(embedded)
        ended = len(embedded.log.find("the embedded redis-server has ended; it is started again"))
        links = len(embedded.log.find("the link to Redis is up"))
        os.kill(pid, signal.SIGKILL)
        embedded.log.wait(
            "the embedded redis-server has ended; it is started again", count=ended + 1, signal=9
        )
        wait_until(lambda: attempt(lambda: through(stolen, embedded).get("/")), "an answer")
        # Both links of both workers are new ones; before that, readiness may be the old one's.
        embedded.log.wait("the link to Redis is up", count=links + 4)
        await_readiness(embedded, 200)

    for each in (device, stolen):
        assert each.get("/hello").status == 200
    assert StockAgent(device).announce(following.public_pem).status == 200
    kill_server()
    new = device.with_identity(following)
    assert persist(lambda: new.get("/hello")).status == 200
    assert embedded.operator.deny("device", stolen.name).status == 200
    kill_server()
    assert persist(lambda: new.get("/hello")).status == 200
    assert persist(lambda: device.get("/late")).reason == "key-denied"
    assert persist(lambda: stolen.get("/late")).reason == "device-denied"
    assert backend.of("/late") == []
    types = [e["type"] for e in embedded.operator.events(device=device.name)]
    assert types == ["DEVICE_FIRST_SEEN", "DEVICE_ROTATION_STARTED", "DEVICE_PUBKEY_CHANGE"]


def test_it_dies_in_the_middle_of_rotations(
    embedded: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    """Invariants 4, 5, 7: a device rotates on while the server is killed again and again; each
    rotation has its one event.
    """
    device = new_device(to=embedded)
    assert device.get("/hello").status == 200
    keys = [device.identity.key_id]
    deaths = 0
    while deaths < 3:
        killed = threading.Thread(target=os.kill, args=(server_pid(embedded), signal.SIGKILL))
        for turn in range(4):
            following = next_identity(device)
            if turn == 1:
                killed.start()
            answer = persist(lambda: StockAgent(device).announce(following.public_pem))
            assert answer.status == 200, answer
            device = device.with_identity(following)
            assert persist(lambda: device.get("/hello")).status == 200
            keys.append(following.key_id)
        killed.join()
        deaths += 1
        await_readiness(embedded, 200)
    events = embedded.operator.events("DEVICE_PUBKEY_CHANGE", device.name)
    changes = [e["data"]["rotation"] for e in events]
    assert [(c["old_key"], c["new_key"]) for c in changes] == list(zip(keys, keys[1:]))
    assert len(embedded.log.find("the embedded redis-server runs")) == 1


def test_it_ends_with_a_killed_daemon_and_the_next_one_has_all_data(
    embedded: Gateway, new_device: NewDevice, next_identity: NextIdentity
) -> None:
    """Invariant 7: kill -9 of the daemon. Its server is told by the kernel; the next daemon on the
    folder waits for it to end, and goes on with what it left.
    """
    device = new_device(to=embedded)
    following = next_identity(device)
    assert device.get("/hello").status == 200
    assert StockAgent(device).announce(following.public_pem).status == 200
    pid = server_pid(embedded)
    embedded.kill()
    wait_until(lambda: not is_alive(pid), "the killed daemon's redis-server ends")

    embedded.start()
    assert server_pid(embedded) != pid
    new = through(device.with_identity(following), embedded)
    assert new.get("/hello").status == 200
    assert through(device, embedded).get("/hello").reason == "key-denied"


def test_a_daemon_waits_for_its_predecessors_server(
    embedded: Gateway, new_device: NewDevice
) -> None:
    """Never two on one folder: the killed daemon's server is slow to end (it stands still here), and
    holds the lock until it has.
    """
    device = new_device(to=embedded)
    assert device.get("/hello").status == 200
    pid = server_pid(embedded)
    stop_process(pid)
    try:
        embedded.kill()
        starting = threading.Thread(target=embedded.start)
        starting.start()
        embedded.log.wait("the state folder is in use; waiting for its gateway to end")
        assert embedded.is_running() and is_alive(pid)
        assert len(embedded.log.find("the embedded redis-server runs")) == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    starting.join(30)
    assert not is_alive(pid)
    assert len(embedded.log.find("the embedded redis-server runs")) == 2
    assert through(device, embedded).get("/hello").status == 200
    assert embedded.operator.device(device.name)["generation"] == 1


def start_error(config: Config, folder: Path) -> str:
    """Of a daemon that must end by itself, with one sentence that says why."""
    failing = Gateway(folder, config, "failing")
    failing.write_config()
    run = subprocess.run(
        [str(binary()), "-c", str(failing.config_file)], cwd=folder, capture_output=True, timeout=60
    )
    assert run.returncode == 1, run
    entries = [json.loads(line) for line in run.stderr.splitlines()]
    (error,) = [entry["error"] for entry in entries if entry["msg"] == "cannot start"]
    return str(error)


def test_a_second_daemon_on_the_same_folder_refuses_to_start(
    embedded: Gateway, folder: Path, new_device: NewDevice
) -> None:
    """After the ten seconds that a dying predecessor would have had."""
    device = new_device(to=embedded)
    assert device.get("/hello").status == 200
    pid = server_pid(embedded)
    error = start_error(embedded.config, folder)
    assert error.startswith(f"{state_dir(embedded)} is in use")
    assert server_pid(embedded) == pid
    assert device.get("/hello").status == 200
    assert embedded.operator.get("/readyz").status == 200


def test_a_second_daemon_does_not_take_over_the_operators_socket(
    gateway: Gateway, folder: Path
) -> None:
    """Without an embedded store there is no lock on the folder, but its socket has one owner."""
    error = start_error(gateway.config, folder)
    assert "operator.sock" in error
    assert gateway.operator.get("/readyz").status == 200


def test_a_state_folder_that_cannot_be_used_is_said_clearly(
    embedded: Gateway, folder: Path
) -> None:
    (folder / "a-file").write_text("")
    config = merged(embedded.config, {"state_dir": str(folder / "a-file")})
    assert str(folder / "a-file") in start_error(config, folder)
