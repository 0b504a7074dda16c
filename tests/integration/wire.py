# SPDX-License-Identifier: BSD-2-Clause
"""HTTP/1.1 as bytes: a strict reader, shared by the test devices (responses) and the test backend
(requests).

It accepts only what RFC 9112 says a sender must write, so that sloppy framing by the gateway fails
a test.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Optional

Headers = list[tuple[str, str]]

_HEAD_MAX = 1 << 20
_PIECE = 1 << 16
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")


class WireError(Exception):
    """The peer's bytes are not the HTTP that was expected."""


class EndOfStream(WireError):
    """The stream ended before the message was complete; `got` is what had come of it."""

    def __init__(self, got: bytes = b""):
        super().__init__(f"the stream ended after {got[-200:]!r}")
        self.got = got


def find(headers: Headers, name: str) -> Optional[str]:
    """The value of the only field of that name; None without one."""
    values = find_all(headers, name)
    if len(values) > 1:
        raise WireError(f"{name} is there {len(values)} times: {values}")
    return values[0] if values else None


def find_all(headers: Headers, name: str) -> list[str]:
    return [value for other, value in headers if other.lower() == name.lower()]


@dataclass
class Head:
    start_line: str
    headers: Headers
    raw: bytes

    def header(self, name: str) -> Optional[str]:
        return find(self.headers, name)


@dataclass
class Response:
    status: int
    phrase: str
    headers: Headers
    body: bytes = b""
    interim: list["Response"] = field(default_factory=list)
    chunks: Optional[list[int]] = None  # sizes, when the body was chunked

    def header(self, name: str) -> Optional[str]:
        return find(self.headers, name)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> Optional[str]:
        """The wire name of the reason, when the answer is one of the gateway's problems."""
        if self.header("Content-Type") != "application/problem+json":
            return None
        return str(self.json()["reason"])


class Reader:
    """Pulls bytes with `receive(n)`, which gives b"" at the end of the stream."""

    def __init__(self, receive: Callable[[int], bytes]):
        self._receive = receive
        self._buffer = bytearray()

    def at_end(self) -> bool:
        """Waits for a byte or the end."""
        return not self._buffer and not self._fill()

    def head(self) -> Head:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _HEAD_MAX:
                raise WireError("the head does not end")
            if not self._fill():
                raise EndOfStream(bytes(self._buffer))
        raw = self._take(end + 4)
        start_line, *lines = raw[:-4].split(b"\r\n")
        headers = []
        for line in lines:
            match = _FIELD.fullmatch(line)
            if match is None:
                raise WireError(f"bad field line {line!r}")
            headers.append((match[1].decode(), match[2].decode("latin-1")))
        return Head(start_line.decode("latin-1"), headers, raw)

    def exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            if not self._fill():
                raise EndOfStream(bytes(self._buffer))
        return self._take(length)

    def pieces(self, length: int) -> Iterator[bytes]:
        """`length` bytes as they come."""
        while length > 0:
            if not self._buffer and not self._fill():
                raise EndOfStream()
            piece = self._take(min(length, len(self._buffer)))
            length -= len(piece)
            yield piece

    def to_end(self) -> Iterator[bytes]:
        while self._buffer or self._fill():
            yield self._take(len(self._buffer))

    def chunks(self) -> Iterator[bytes]:
        """Whole chunks; trailers are read and dropped."""
        while True:
            line = self._line()
            if not re.fullmatch(rb"[0-9A-Fa-f]+(;.*)?", line):
                raise WireError(f"bad chunk size line {line!r}")
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            yield self.exactly(size)
            if self.exactly(2) != b"\r\n":
                raise WireError("no CRLF behind a chunk")
        while self._line():
            pass

    def body(self, headers: Headers, until_end: bool) -> Iterator[bytes]:
        """The body that the head announces; `until_end` tells what an unframed one means (a
        response's).
        """
        coding, length = find(headers, "Transfer-Encoding"), find(headers, "Content-Length")
        if coding is not None:
            if coding != "chunked" or length is not None:
                raise WireError(f"ambiguous framing: {coding!r}, {length!r}")
            return self.chunks()
        if length is not None:
            return self.pieces(int(length))
        return self.to_end() if until_end else iter(())

    def response(self, method: str = "GET") -> Response:
        """The next final response, with the interim ones before it."""
        interim = []
        while True:
            response = self.response_head()
            if response.status >= 200 or response.status == 101:
                break
            interim.append(response)
        response.interim = interim
        if method == "HEAD" or response.status in (101, 204, 304):
            return response
        pieces = list(self.body(response.headers, until_end=True))
        response.body = b"".join(pieces)
        if find(response.headers, "Transfer-Encoding"):
            response.chunks = [len(piece) for piece in pieces]
        return response

    def response_head(self) -> Response:
        head = self.head()
        match = re.fullmatch(r"HTTP/1\.1 ([1-5][0-9][0-9]) ([^\r\n]*)", head.start_line)
        if match is None:
            raise WireError(f"bad status line {head.start_line!r}")
        return Response(int(match[1]), match[2], head.headers)

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _HEAD_MAX or not self._fill():
                raise EndOfStream(bytes(self._buffer))
        return self._take(end + 2)[:-2]

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def _fill(self) -> bool:
        data = self._receive(_PIECE)
        self._buffer += data
        return bool(data)


def request(
    method: str,
    target: str,
    headers: Optional[Headers] = None,
    body: Optional[bytes] = None,
    host: str = "localhost",
    chunk: Optional[int] = None,
) -> bytes:
    """A whole request. A body gets a Content-Length, or chunks of `chunk` bytes."""
    fields = [("Host", host)] + list(headers or [])
    if body is not None:
        fields.append(
            ("Content-Length", str(len(body)))
            if chunk is None
            else ("Transfer-Encoding", "chunked")
        )
    lines = [f"{method} {target} HTTP/1.1"] + [f"{name}: {value}" for name, value in fields]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    if body is None:
        return head
    return head + (body if chunk is None else chunked(body, chunk))


def chunked(body: bytes, size: int) -> bytes:
    return b"".join(one_chunk(body[i : i + size]) for i in range(0, len(body), size)) + LAST_CHUNK


def one_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
