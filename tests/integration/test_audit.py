# SPDX-License-Identifier: BSD-2-Clause
"""Each transition and each act of an operator leaves one line in the audit log, whatever becomes of
whoever asked for it.
"""

from __future__ import annotations

import signal
import threading
from typing import Callable

from agent import announce, compact
from conditions import wait_until
from conftest import NewDevice, StartGateway
from device import Connection, Device
from fleet_threads import attempt
from gateway import merged
from pki import Identity
from redis_proxy import RedisProxy
from redis_server import RedisServer
from store_view import StoreView
from wire import request

NextIdentity = Callable[[Device], Identity]


def test_an_announcement_is_audited_though_the_device_is_gone(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    redis_proxy: RedisProxy,
    redis: RedisServer,
) -> None:
    """The line was written by whoever waited for the answer: when the device lost its connection
    between the commit and its answer, a rotation had begun, and the audit log never heard of it.
    """
    gateway = start_gateway({"store": {"redis": redis_proxy.url}})
    device = new_device(to=gateway)
    following = next_identity(device)
    assert device.get("/hello").status == 200

    hold = redis_proxy.hold_answer(b"DEVICE_ROTATION_STARTED")
    connection = Connection(device.address, device.context()).handshake()
    body = compact({"next_pubkey": following.public_pem})
    connection.send(request("PATCH", "/device", body=body))
    hold.await_command()
    connection.abandon()
    gateway.log.wait("request", path="/device", reason="closed-by-peer")
    assert gateway.log.find("audit", action="announced") == []
    hold.release()

    line = gateway.log.wait("audit", action="announced", device=device.name)
    assert (line["new_key"], line["peer"]) == (following.key_id, "127.0.0.1")
    assert "outcome" not in line
    assert StoreView(redis).record(device.name)["pending"] == following.key_id
    assert gateway.operator.metrics()['dgw_rotations_total{step="announced"}'] == 1


def test_a_commit_without_an_answer_is_audited_as_unknown(
    start_gateway: StartGateway,
    new_device: NewDevice,
    next_identity: NextIdentity,
    redis_proxy: RedisProxy,
) -> None:
    """It took effect, and when the device came again it was found done: nothing more to log."""
    gateway = start_gateway({"store": {"redis": redis_proxy.url, "command_timeout": "300ms"}})
    old = new_device(to=gateway)
    following = next_identity(old)
    new = old.with_identity(following)
    assert old.get("/hello").status == 200
    assert announce(old, following).status == 200

    hold = redis_proxy.hold_answer(b"DEVICE_PUBKEY_CHANGE")
    assert new.get("/hello").reason == "store-unavailable"
    line = gateway.log.wait("audit", action="promoted", device=old.name)
    assert (line["outcome"], line["new_key"]) == ("unknown", following.key_id)
    hold.release()

    def is_served() -> bool:
        response = attempt(lambda: new.get("/hello"))
        return response is not None and response.status == 200

    wait_until(is_served, "the device is served")
    assert len(gateway.log.find("audit", action="promoted")) == 1


def test_an_act_in_flight_is_audited_when_the_daemon_stops_at_once(
    start_gateway: StartGateway, redis_proxy: RedisProxy
) -> None:
    gateway = start_gateway({"store": {"redis": redis_proxy.url}})
    hold = redis_proxy.hold_answer(b"DEVICE_DENIED")
    acting = threading.Thread(
        target=lambda: attempt(lambda: gateway.operator.deny("device", "d", "stolen"))
    )
    acting.start()
    hold.await_command()
    for _ in range(2):
        gateway.signal(signal.SIGTERM)
        gateway.log.wait("draining")
    assert gateway.process is not None and gateway.process.wait(30) == 0
    gateway.process = None
    hold.release()
    acting.join()
    line = gateway.log.wait("audit", action="denied", device="d")
    assert (line["outcome"], line["why"]) == ("unknown", "stolen")


def test_the_audit_log_is_written_whatever_the_level(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    gateway.config = merged(gateway.config, {"log": {"level": "error"}})
    gateway.write_config()
    gateway.signal(signal.SIGHUP)
    wait_until(
        lambda: gateway.operator.metrics()['dgw_config_reloads_total{result="done"}'] == 1,
        "the level is in force",
    )
    assert gateway.operator.deny("device", "d", "stolen").status == 200
    gateway.log.wait("audit", action="denied", device="d", why="stolen")
    assert gateway.log.find("request", path="/v1/denied/device/d") == []
