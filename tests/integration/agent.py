# SPDX-License-Identifier: BSD-2-Clause
"""Requests with the field's stock agent's bytes: one connection each, `Connection: close`, no ALPN,
no resumption.
"""

from __future__ import annotations

import json
import uuid
from typing import Any, Optional

from conditions import wait_until
from device import Device
from pki import Identity, public_pem
from wire import Response

# zone "UTC", not "GMT": what stock agents send
NEVER = "Mon, 01 Jan 0001 00:00:00 UTC"


def compact(value: Any) -> bytes:
    """JSON as the agent's encoder writes it: no spaces, keys in the order given."""
    return json.dumps(value, separators=(",", ":")).encode()


class StockAgent:
    """The agent's requests with the identity that it had when its process started."""

    def __init__(self, device: Device, rotation_id: str = "certs-1700000000"):
        self.device = device
        self.rotation_id = rotation_id

    def send(self, method: str, path: str, body: Optional[bytes] = None, *more: str) -> Response:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: localhost:{self.device.address[1]}",
            "User-Agent: fioconfig-client/2",
            "Connection: close",
        ]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        lines += ["Content-Type: application/json", *more, "Accept-Encoding: gzip"]
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        with self.device.connect() as connection:
            return connection.send(head + (body or b"")).response(method)

    def get_config(self, since: str = NEVER) -> Response:
        return self.send("GET", "/config", None, f"If-Modified-Since: {since}")

    def get_device_config(self) -> Response:
        return self.send("GET", "/config-device")

    def patch_config(self, next_pem: str, files: Optional[list[dict[str, Any]]] = None) -> Response:
        """What the agent sends after it has re-encrypted its part of the configuration for
        `next_pem`.
        """
        return self.send(
            "PATCH",
            "/config",
            compact(
                {
                    "reason": "Update device specific configuration on server with new key",
                    "files": files,
                    "public-key": next_pem,
                }
            ),
        )

    def announce(self, next_pem: str) -> Response:
        return self.send("PATCH", "/device", compact({"next_pubkey": next_pem}))

    def post_event(self, event_type: str, success: bool = True) -> Response:
        event = {
            "correlationId": self.rotation_id,
            "success": success,
            "targetName": "lmp-42",
            "version": "42",
            "details": "",
        }
        entry = {
            "id": str(uuid.uuid4()),
            "deviceTime": "2026-11-22T13:07:37+01:00",
            "event": event,
            "eventType": {"id": event_type, "version": 0},
        }
        return self.send("POST", "/events", compact([entry]))


def announce(device: Device, next_identity: Identity) -> Response:
    """Until it is not 5xx: agents try those again."""
    return wait_until(lambda: _unless_busy(device, next_identity), "the announcement is answered")


def _unless_busy(device: Device, next_identity: Identity) -> Optional[Response]:
    response = StockAgent(device).announce(public_pem(next_identity.key))
    return response if response.status < 500 else None
