# SPDX-License-Identifier: BSD-2-Clause
"""What is in Redis, read past all gateways: the last word on what was committed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Optional

from redis_server import RedisServer

# One script, so that nothing can come in between.
_LOOK = """
local generation = redis.call('HGET', KEYS[1], 'generation')
local denied = redis.call('EXISTS', KEYS[2])
local changes = 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[3], '-', '+')) do
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  if fields.type == 'DEVICE_PUBKEY_CHANGE' and fields.device == ARGV[1] then changes = changes + 1 end
end
return {generation, denied, changes}
"""


@dataclass
class Event:
    id: str
    type: str
    device: str
    data: Any


@dataclass(frozen=True)
class Rotated:
    """How far a device's rotation is, as of one moment."""

    generation: int
    old_key_denied: bool
    changes: int  # DEVICE_PUBKEY_CHANGE events


class StoreView:
    """Of one partition."""

    def __init__(self, redis: RedisServer, partition: int = 0):
        self._base = f"dgw:{{p{partition:02}}}:"
        self._client = redis.client()
        self._look = self._client.register_script(_LOOK)

    def record(self, device: str) -> dict[str, str]:
        """Its fields; empty without a record."""
        fields = self._client.hgetall(f"{self._base}device:{device}")
        return {name.decode(): value.decode() for name, value in fields.items()}

    def denial(self, kind: str, what: str) -> dict[str, str]:
        fields = self._client.hgetall(f"{self._base}deny:{kind}:{what}")
        return {name.decode(): value.decode() for name, value in fields.items()}

    def events(self, device: Optional[str] = None) -> list[Event]:
        """Oldest first."""
        found = []
        for entry_id, fields in self._client.xrange(f"{self._base}events"):
            event = Event(
                entry_id.decode(),
                fields[b"type"].decode(),
                fields.get(b"device", b"").decode(),
                json.loads(fields[b"data"]),
            )
            if device in (None, event.device):
                found.append(event)
        return found

    def event_types(self, device: str) -> list[str]:
        return [event.type for event in self.events(device)]

    def rotated(self, device: str, old_key: str) -> Rotated:
        """Record, deny-list and log in one look."""
        generation, denied, changes = self._look(
            keys=[
                f"{self._base}device:{device}",
                f"{self._base}deny:key:{old_key}",
                f"{self._base}events",
            ],
            args=[device],
        )
        return Rotated(int(generation), bool(denied), changes)
