# SPDX-License-Identifier: BSD-2-Clause
"""Integration tests: the real daemon, a real Redis, real TLS clients.

A test starts what it needs through fixtures, acts, and looks at all sides:

    def test_a_request_passes(gateway, backend, new_device):
        device = new_device()  # with a certificate of its own
        response = device.get("/hello")
        # what the device saw, what the backend got, what the log says, what operators see
        assert response.status == 200
        assert backend.requests[0].header("X-Device-Id") == device.name
        assert gateway.log.wait("request", path="/hello")["reason"] == "ok"
        assert gateway.operator.device(device.name)["generation"] == 1

The rooms:
    conditions.py    wait_until(): never sleep, wait for conditions
    pki.py           CAs, identities, odd certificates, CRLs
    wire.py          HTTP/1.1 as bytes, read strictly
    device.py        Device and Connection: TLS clients that send exact bytes
    agent.py         StockAgent: the field agent's requests
    backend.py       Backend: scriptable, remembers every byte
    redis_server.py  RedisServer: to be killed, stalled, restarted
    redis_proxy.py   RedisProxy: holds up commands and answers
    store_view.py    StoreView: what is in Redis
    fleet_threads.py many clients at once, retries as stock agents make them
    gateway.py       Gateway: configuration, process, log, operator socket

Fixtures: `gateway` is one daemon with default_config(); `start_gateway(changes)` starts as many as
wanted, with changes over the default ({"workers": 1, "rotation": {"drain": "5s"}}; a list replaces,
None removes). Gateways of one test share `redis` and `backend`. Without `redis` in the daemon's
configuration (changes={"store": {"redis": None}}) the store is embedded. Each daemon is stopped at
the test's end, and must end with status 0, having printed nothing but log entries (sanitizers'
reports fail the test this way). `gateway.kill()` is fine.

DGW_BUILD names the build folder (default: build/). Tests run in parallel with -n: everything is in
the test's own folder, ports are the kernel's choice. A failed test's folder is kept, and its
daemons' logs are in the report.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest

from backend import Backend
from device import Device
from gateway import Config, Gateway, binary, default_config, merged
from pki import Identity, Pki
from redis_proxy import RedisProxy
from redis_server import RedisServer

StartGateway = Callable[..., Gateway]
NewDevice = Callable[..., Device]

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        item.stash[_FAILED] = True
        folder = getattr(item, "funcargs", {}).get("folder")
        for log in sorted(folder.glob("*.log")) if folder else []:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-80:])
            report.sections.append((f"{log} (its end)", tail))


@pytest.fixture(scope="session", autouse=True)
def the_binary() -> Path:
    path = binary()
    if not os.access(path, os.X_OK):
        pytest.exit(
            f"{path} is missing: build it first, or say where it is with DGW_BUILD", returncode=3
        )
    return path


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki()


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The test's own; short, because paths of Unix sockets must be."""
    path = Path(tempfile.mkdtemp(prefix="dgw-"))
    yield path
    if not request.node.stash.get(_FAILED, False):
        shutil.rmtree(path)


@pytest.fixture
def backend(folder: Path) -> Iterator[Backend]:
    """On 127.0.0.1, echoing. Whatever it received must have been well-formed."""
    server = Backend().start()
    yield server
    server.stop()
    assert server.errors == []


@pytest.fixture
def redis(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder / "redis").start()
    yield server
    server.stop()


@pytest.fixture
def redis_proxy(folder: Path, redis: RedisServer) -> Iterator[RedisProxy]:
    """In front of `redis`, to hold up commands and answers; for store.redis: redis_proxy.url."""
    proxy = RedisProxy(folder / "proxy.sock", redis)
    yield proxy
    proxy.stop()


@pytest.fixture
def start_gateway(
    folder: Path, pki: Pki, redis: RedisServer, backend: Backend
) -> Iterator[StartGateway]:
    """start_gateway(changes=None, wait_ready=True): one more, on the same redis and backend."""
    started: list[Gateway] = []

    def start(
        changes: Optional[Config] = None,
        wait_ready: bool = True,
        prepare: Callable[[Gateway], None] = lambda gateway: None,
    ) -> Gateway:
        name = f"gateway{len(started) + 1}"
        own_state: Config = {"state_dir": str(folder / name)}
        config = merged(
            merged(default_config(folder, pki, redis.url, backend.address), own_state),
            changes or {},
        )
        gateway = Gateway(folder, config, name)
        started.append(gateway)
        prepare(gateway)
        return gateway.start(wait_ready)

    yield start
    redis.resume()
    backend.stop()
    errors = [error for error in map(_finish, started) if error is not None]
    if errors:
        raise errors[0]


def _finish(gateway: Gateway) -> Optional[AssertionError]:
    try:
        gateway.finish()
    except AssertionError as error:
        return error
    return None


@pytest.fixture
def gateway(start_gateway: StartGateway) -> Gateway:
    return start_gateway()


@pytest.fixture
def new_device(request: pytest.FixtureRequest, pki: Pki) -> NewDevice:
    """new_device(name=None, to=None, ca=None, **leaf): a device that talks to `to` (default: the
    fixture `gateway`).

    `leaf` goes to Authority.device(): key, factory, production, not_after, extensions…
    """

    def make(
        name: Optional[str] = None, to: Optional[Gateway] = None, ca: Any = None, **leaf: Any
    ) -> Device:
        target = to or request.getfixturevalue("gateway")
        identity = (ca or pki.device_ca).device(name, **leaf)
        return Device(identity, target.address(), pki.server_ca)

    return make


@pytest.fixture
def next_identity(pki: Pki) -> Callable[[Device], Identity]:
    """A new key and certificate for the same device, as EST would give it."""
    return lambda device: pki.device_ca.device(device.name)


@pytest.fixture
def operator_api(request: pytest.FixtureRequest, pki: Pki) -> Callable[..., Device]:
    """operator_api(to=None): an operator's client on the operators' mTLS listener."""

    def make(to: Optional[Gateway] = None) -> Device:
        target = to or request.getfixturevalue("gateway")
        return Device(pki.operator, target.address("operators"), pki.server_ca)

    return make
