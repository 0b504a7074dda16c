# SPDX-License-Identifier: BSD-2-Clause
"""The daemon's command line, and what it says when it cannot start."""

from __future__ import annotations

import json
import os
import shutil
import re
import socket
import subprocess
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
import yaml

from conditions import DEADLINE
from conftest import StartGateway
from device import Device
from gateway import (
    ROOT,
    Config,
    Gateway,
    Log,
    binary,
    check_config,
    default_config,
    listener,
    merged,
)
from pki import Authority, Pki
from redis_server import RedisServer

USAGE = "usage: device-gateway [-c FILE] [-t | -T | -V]\n"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(binary()), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def config(folder: Path, pki: Pki) -> Config:
    """A valid one, on an embedded store."""
    return default_config(folder, pki, None, "127.0.0.1:8080")


@pytest.fixture
def write(folder: Path) -> Callable[[Config], Path]:
    def write_file(config: Config) -> Path:
        path = folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    return write_file


Write = Callable[[Config], Path]


# --- options -------------------------------------------------------------------------------------


def test_the_version() -> None:
    done = run("-V")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"device-gateway [0-9]+\.[0-9]+\.[0-9]+\n", done.stdout)


def test_the_help_names_every_option() -> None:
    done = run("-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(USAGE)
    assert re.findall(r"^  (-.)", done.stdout, re.MULTILINE) == ["-c", "-t", "-T", "-V", "-h"]


@pytest.mark.parametrize("arguments", [["-x"], ["--help"], ["-c"], ["file"], ["-t", "file"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert USAGE in done.stderr


@pytest.mark.parametrize("mode", [[], ["-t"], ["-T"]])
def test_a_missing_file_is_named(folder: Path, mode: list[str]) -> None:
    done = run(*mode, "-c", str(folder / "none.yaml"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{folder}/none.yaml: cannot be read: No such file or directory\n"


# --- checking ------------------------------------------------------------------------------------


def test_a_valid_configuration_is_valid(config: Config, write: Write) -> None:
    path = write(config)
    done = check_config(path, "-t")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{path}: the configuration is valid\n"


def test_checking_changes_nothing(folder: Path, config: Config, write: Write) -> None:
    path = write(config)
    before = sorted(folder.rglob("*"))
    assert check_config(path, "-t").returncode == 0
    assert check_config(path, "-T").returncode == 0
    assert sorted(folder.rglob("*")) == before


def test_a_dump_is_a_configuration_again(folder: Path, config: Config, write: Write) -> None:
    """With every default in it: it means the same, and its own dump is the same text."""
    config = merged(config, {"rotation": {"key_age": {"due_after": "90d"}}})
    first = check_config(write(config), "-T")
    assert (first.returncode, first.stderr) == (0, "")
    effective = yaml.safe_load(first.stdout)
    assert effective["rotation"]["drain"] == "1s"
    assert effective["rotation"]["key_age"]["due_after"] == "90d"
    assert effective["http"]["head_max"] == "16KiB"

    dumped = folder / "dumped.yaml"
    dumped.write_text(first.stdout)
    assert check_config(dumped, "-t").returncode == 0
    again = check_config(dumped, "-T").stdout
    assert again == first.stdout.replace("gateway.yaml", "dumped.yaml")


def test_the_shipped_example_is_accepted() -> None:
    done = check_config(ROOT / "conf" / "gateway.yaml", "-T")
    assert (done.returncode, done.stderr) == (0, "")


def first_of(config: Config, section: str, **changes: Any) -> Config:
    """`changes` in the first item of a list."""
    return {section: [merged(config[section][0], changes)] + config[section][1:]}


# What is changed in a valid file -> the error behind "file:line:column: ".
BROKEN: dict[str, tuple[Callable[[Config], Config], str]] = {
    "unknown key": (
        lambda c: {"drain_timout": "1s"},
        'drain_timout: unknown key; did you mean "drain_timeout"?',
    ),
    "unknown key in a list": (
        lambda c: first_of(c, "listeners", adress="x"),
        'listeners[0].adress: unknown key; did you mean "address"?',
    ),
    "nothing near": (lambda c: {"colour": "red"}, "colour: unknown key"),
    "no duration": (
        lambda c: {"rotation": {"drain": "soon"}},
        'rotation.drain: "soon" is not a duration like 250ms, 10s, 5m, 12h or 7d',
    ),
    "out of range": (
        lambda c: {"store": {"lease": "1ms"}},
        'store.lease: "1ms" is not between 1s and 1m',
    ),
    "no choice": (
        lambda c: {"store": {"on_outage": "panic"}},
        'store.on_outage: "panic" is not refuse or serve_admitted',
    ),
    "no size": (lambda c: {"http": {"head_max": "big"}}, 'http.head_max: "big" is not a size'),
    "a map for a value": (lambda c: {"workers": {"a": 1}}, "workers: "),
    "no address": (
        lambda c: first_of(c, "listeners", address="nowhere"),
        'listeners[0].address: "nowhere" has no port',
    ),
    "no CA": (
        lambda c: {"device_cas": []},
        "device_cas: a listener for devices needs at least one CA",
    ),
    "no such backend": (
        lambda c: {"routes": [{"prefix": "/", "backend": "ipa"}]},
        'routes[0].backend: there is no backend "ipa"',
    ),
    "a lock on reads": (
        lambda c: {
            "routes": [{"path": "/c", "methods": ["GET"], "backend": "api", "lock": "config"}]
        },
        "routes[0].methods: `lock: config` is for writes",
    ),
    "twice the same route": (
        lambda c: {"routes": [{"path": "/c", "backend": "api"}, {"path": "/c", "backend": "api"}]},
        "routes[1]: routes[0] already takes these requests",
    ),
    "devices without TLS": (
        lambda c: first_of(c, "listeners", address="unix:/tmp/x"),
        "listeners[0].address: devices need TLS",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_error_names_its_place_and_what_is_expected(
    config: Config, write: Write, case: str
) -> None:
    change, message = BROKEN[case]
    path = write(merged(config, change(config)))
    done = check_config(path, "-t")
    assert (done.returncode, done.stdout) == (1, "")
    first = done.stderr.splitlines()[0]
    place = re.match(rf"{re.escape(str(path))}:(\d+):(\d+): ", first)
    assert place is not None, first
    assert first[place.end() :].startswith(message)

    lines = path.read_text().splitlines()
    line, column = int(place[1]), int(place[2])
    assert 1 <= line <= len(lines) and 1 <= column <= len(lines[line - 1])
    key = re.search(r"(\w+)(\[\d+\])?: ", first[place.end() :])
    assert key is not None
    if key[2] is None:
        assert key[1] in lines[line - 1] or f"{key[1]}:" in lines[line - 2]


def test_every_error_is_told_at_once(config: Config, write: Write) -> None:
    path = write(merged(config, {"drain_timeout": "x", "colour": 1, "http": {"buffer": "y"}}))
    assert [line.split(": ")[1] for line in check_config(path).stderr.splitlines()] == [
        "drain_timeout",
        "colour",
        "http.buffer",
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [\n", ":2:1: "),
        ("workers: 1\nworkers: 2\n", ":2:1: workers: duplicate key"),
        ("\t\n", ":1:1: "),
        ("", ":1:1: "),
        ("- 1\n", ":1:1: "),
        ("workers: \x01\n", ":1:"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(folder: Path, text: str, message: str) -> None:
    path = folder / "broken.yaml"
    path.write_text(text)
    done = check_config(path, "-t")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{path}{message}")


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no certificate": (
        lambda folder: (folder / "server.pem").unlink(),
        "server.pem: cannot be read: No such file or directory",
    ),
    "a folder for a key": (
        lambda folder: ((folder / "server.key").unlink(), (folder / "server.key").mkdir()),
        "server.key: holds no PEM private key",
    ),
    "a certificate for a key": (
        lambda folder: (folder / "server.key").write_bytes((folder / "server.pem").read_bytes()),
        "server.key: holds no PEM private key",
    ),
    "another's key": (
        lambda folder: Authority.root("x")
        .server()
        .write(folder, "server")[0]
        .write_bytes((folder / "operator-ca.pem").read_bytes()),
        "server.key: the key does not belong to the first certificate in",
    ),
    "a device CA that is none": (
        lambda folder: (folder / "device-ca.pem").write_bytes((folder / "server.pem").read_bytes()),
        "device-ca.pem: holds a certificate that is not a CA's",
    ),
    "the root first": (
        lambda folder: reversed_chain(folder / "device-ca.pem"),
        "device-ca.pem: certificate 2 did not issue certificate 1; put the issuing CA first",
    ),
}


def reversed_chain(path: Path) -> None:
    end = "-----END CERTIFICATE-----\n"
    blocks = [block + end for block in path.read_text().split(end) if block]
    path.write_text("".join(reversed(blocks)))


@pytest.mark.parametrize("mode", [["-t"], []])
@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_used_is_named(
    folder: Path, config: Config, write: Write, case: str, mode: list[str]
) -> None:
    """By the check as by the start."""
    break_it, message = FILES[case]
    break_it(folder)
    done = check_config(write(config), *mode)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr


@pytest.mark.parametrize("content", [None, b"", b"\n", b"x" * 513])
def test_a_password_file_that_cannot_be_used_is_named(
    folder: Path, config: Config, write: Write, content: Optional[bytes]
) -> None:
    if content is not None:
        (folder / "password").write_bytes(content)
    path = write(merged(config, {"store": {"redis": "redis://127.0.0.1:1", "password_file": "password"}}))
    done = check_config(path, "-t")
    assert done.returncode == 1
    assert f"store.password_file {folder}/password" in done.stderr
    (folder / "password").write_text("open sesame\n")
    assert check_config(path, "-t").returncode == 0


# --- starting ------------------------------------------------------------------------------------


def cannot_start(config_file: Path) -> str:
    """The sentence that the daemon gives for it, as its last log line."""
    done = check_config(config_file)
    log = Log(config_file.with_suffix(".log"))
    log.path.write_text(done.stderr)
    (entry,) = log.find("cannot start")
    assert log.foreign == []
    assert (done.returncode, entry["level"]) == (1, "error")
    return str(entry["error"])


def on_port(config: Config, folder: Path, port: int) -> Config:
    devices = listener("devices", folder, "devices", address=f"127.0.0.1:{port}")
    return {"listeners": [devices] + config["listeners"][1:]}


def test_a_port_of_another_program_is_in_use(folder: Path, config: Config, write: Write) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = cannot_start(write(merged(config, on_port(config, folder, port))))
    assert error == f"cannot listen on 127.0.0.1 port {port}: Address already in use"


def test_a_port_of_another_gateway_is_in_use(
    gateway: Gateway, folder: Path, config: Config, write: Write
) -> None:
    """Workers share their port (SO_REUSEPORT). A second daemon once got in with it, unnoticed, and
    half of the devices came to it.
    """
    port = gateway.address()[1]
    error = cannot_start(write(merged(config, on_port(config, folder, port))))
    assert error == f"cannot listen on 127.0.0.1 port {port}: Address already in use"
    assert gateway.operator.get("/readyz").status == 200


def test_a_port_may_be_taken_again_after_the_end(
    start_gateway: StartGateway, folder: Path, pki: Pki
) -> None:
    """Connections in TIME_WAIT do not keep it."""
    gateway = start_gateway()
    host, port = gateway.address()
    device = Device(pki.device_ca.device(), (host, port), pki.server_ca)
    with device.connect() as connection:
        assert connection.request("GET", "/").status == 200
        assert gateway.stop() == 0
    gateway.config = merged(gateway.config, on_port(gateway.config, folder, port))
    gateway.start()
    assert device.get("/").status == 200


def test_an_address_that_is_not_ours(folder: Path, config: Config, write: Write) -> None:
    devices = listener("devices", folder, "devices", address="192.0.2.1:8443")
    error = cannot_start(write(merged(config, {"listeners": [devices] + config["listeners"][1:]})))
    assert error == "cannot listen on 192.0.2.1 port 8443: Cannot assign requested address"


@pytest.mark.parametrize("store", ["embedded", "shared"])
@pytest.mark.parametrize("below", ["", "/below"])
def test_a_state_dir_that_cannot_be_used(
    folder: Path, config: Config, write: Write, redis: RedisServer, store: str, below: str
) -> None:
    (folder / "file").write_text("")
    changes: Config = {"state_dir": f"{folder}/file{below}"}
    if store == "shared":
        changes["store"] = {"redis": redis.url}
    error = cannot_start(write(merged(config, changes)))
    assert f"{folder}/file" in error
    assert "Not a directory" in error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run the daemon as another user")
@pytest.mark.parametrize("secret", ["server.key", "state"])
def test_what_belongs_to_somebody_else(
    folder: Path, config: Config, write: Write, redis: RedisServer, secret: str
) -> None:
    """Root may read and write everything, so the daemon is run as nobody."""
    path = write(merged(config, {"store": {"redis": redis.url}, "state_dir": f"{folder}/state"}))
    (folder / "state").mkdir()
    for each in [folder, *folder.iterdir()]:
        each.chmod(0o777 if each.is_dir() else 0o644)
    redis.socket.chmod(0o777)
    (folder / secret).chmod(0o700)
    # The build folder may be where nobody cannot go.
    program = shutil.copy(binary(), folder / "device-gateway")
    done = subprocess.run(
        [str(program), "-c", str(path)],
        user="nobody",
        group="nogroup",
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 1
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert f"{folder}/{secret}" in error
    assert "Permission denied" in error


def test_a_store_that_is_not_there_yet_holds_nothing_up(
    start_gateway: StartGateway, redis: RedisServer
) -> None:
    """Gateways and Redis may be started in any order (invariant 9: until then, not ready)."""
    redis.stop()
    gateway = start_gateway(wait_ready=False)
    assert gateway.operator.get("/livez").status == 200
    assert gateway.operator.get("/readyz").status == 503
    redis.start()
    gateway.wait_ready()


def test_a_store_of_another_layout_is_refused(
    start_gateway: StartGateway, config: Config, write: Write, redis: RedisServer
) -> None:
    """The number of partitions is chosen once: with another one, devices would be looked for in the
    wrong place and registered anew.
    """
    start_gateway()
    error = cannot_start(write(merged(config, {"store": {"redis": redis.url, "partitions": 8}})))
    assert "partitions" in error


def test_a_store_without_its_program_is_refused(config: Config, write: Write) -> None:
    error = cannot_start(
        write(merged(config, {"store": {"redis_server": "/nowhere/redis-server"}}))
    )
    assert "/nowhere/redis-server" in error
