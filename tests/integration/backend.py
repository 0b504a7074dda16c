# SPDX-License-Identifier: BSD-2-Clause
"""A backend that does as it is told, and remembers every byte it was sent.

    backend = Backend().start()
    backend.on("/slow", lambda exchange: exchange.respond(200, b"late"))
    ...
    assert backend.requests[-1].header("X-Device-Id") == "d1"

A handler gets an Exchange and may read the body (at once, in pieces, or never), answer early,
stream, stall on a Gate, or break off. Paths without a handler get an echo: 200 and a JSON
description of the request. One thread a connection.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator, Optional

from conditions import DEADLINE, Deadline, wait_until
from wire import LAST_CHUNK, EndOfStream, Head, Headers, Reader, WireError, find, one_chunk

Handler = Callable[["Exchange"], None]


class Gate:
    """Something a handler waits at until the test opens it (or the backend stops)."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._arrived = threading.Semaphore(0)

    def wait(self) -> None:
        self._arrived.release()
        if not self._open.wait(4 * DEADLINE):
            raise Deadline("nobody opened the gate")

    def await_arrival(self, deadline: float = DEADLINE) -> None:
        """Returns when one more handler stands at the gate (or has passed it)."""
        if not self._arrived.acquire(timeout=deadline):
            raise Deadline("nobody came to the gate")

    def open(self) -> None:
        self._open.set()


@dataclass
class Request:
    """As it came; `body` is complete once the handler has read it to the end."""

    method: str
    target: str
    headers: Headers
    raw_head: bytes
    connection: int  # counts accepted connections, from 1
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    broken: bool = False  # the connection ended before the body did

    @property
    def path(self) -> str:
        return self.target.split("?")[0]

    def header(self, name: str) -> Optional[str]:
        return find(self.headers, name)


class Exchange:
    """One request and the answer to it, on the handler's side."""

    def __init__(self, request: Request, sock: socket.socket, reader: Reader, backend: "Backend"):
        self.request = request
        self.backend = backend
        self.ended = False  # the handler has closed the connection
        self._socket = sock
        self._pieces = reader.body(request.headers, until_end=False)

    def read_body(self) -> bytes:
        for _ in self.body_pieces():
            pass
        return bytes(self.request.body)

    def body_pieces(self, keep: bool = True) -> Iterator[bytes]:
        """The body as it comes; with keep=False it is not remembered (large ones)."""
        try:
            for piece in self._pieces:
                if keep:
                    self.request.body += piece
                yield piece
        except (EndOfStream, OSError):
            self.request.broken = True
            raise
        self.request.complete = True

    def send(self, data: bytes) -> None:
        """Exactly these bytes."""
        self._socket.sendall(data)

    def interim(self, status: int, phrase: str, headers: Optional[Headers] = None) -> None:
        self.send(_head(status, phrase, headers or []))

    def respond(
        self,
        status: int = 200,
        body: bytes = b"",
        headers: Optional[Headers] = None,
        content_type: str = "text/plain",
    ) -> None:
        fields = list(headers or [])
        if status not in (204, 304):
            fields += [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        self.send(_head(status, "Told", fields) + (b"" if self.request.method == "HEAD" else body))

    def respond_json(self, value: object, status: int = 200) -> None:
        self.respond(status, json.dumps(value).encode(), content_type="application/json")

    def respond_chunked(self, pieces: Iterator[bytes], status: int = 200) -> None:
        self.send(_head(status, "Told", [("Transfer-Encoding", "chunked")]))
        for piece in pieces:
            self.send(one_chunk(piece))
        self.send(LAST_CHUNK)

    def await_break(self, deadline: float = DEADLINE) -> None:
        """Returns when the gateway has ended this connection."""
        self._socket.settimeout(deadline)
        try:
            while self._socket.recv(65536):
                pass
        except ConnectionError:
            pass
        self.ended = True

    def close(self) -> None:
        self.ended = True
        self._socket.close()

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Backend:
    """A threaded HTTP/1.1 server on 127.0.0.1, or on a Unix socket."""

    def __init__(self, unix_socket: Optional[Path] = None):
        self.requests: list[Request] = []
        self.errors: list[str] = []  # what was not HTTP, or a handler's mistake
        self.connections = 0
        self._unix_socket = unix_socket
        self._handlers: dict[tuple[Optional[str], str], Handler] = {}
        self._gates: list[Gate] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: Optional[socket.socket] = None
        self._port = 0

    @property
    def address(self) -> str:
        """For the gateway's backends[].servers."""
        return f"unix:{self._unix_socket}" if self._unix_socket else f"127.0.0.1:{self._port}"

    def start(self) -> "Backend":
        """May be called again after stop(): on the same address."""
        if self._unix_socket:
            self._unix_socket.unlink(missing_ok=True)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._unix_socket))
            self._listener.listen(128)
        else:
            self._listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
            self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Opens all gates and ends all connections."""
        for gate in self._gates:
            gate.open()
        if self._listener is not None:
            _end(self._listener)
            self._listener = None
        with self._lock:
            for sock in self._open:
                _end(sock)

    def on(self, path: str, handler: Handler, method: Optional[str] = None) -> None:
        self._handlers[method, path] = handler

    def gate(self) -> Gate:
        gate = Gate()
        self._gates.append(gate)
        return gate

    def of(self, path: str, method: Optional[str] = None) -> list[Request]:
        """The requests for a path, oldest first."""
        return [r for r in list(self.requests) if r.path == path and method in (None, r.method)]

    def await_request(self, path: str, count: int = 1) -> Request:
        """The count-th request for the path, once its head has come."""
        wait_until(
            lambda: len(self.of(path)) >= count, f"request {count} for {path} at the backend"
        )
        return self.of(path)[count - 1]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
                number = self.connections
            threading.Thread(target=self._serve, args=(sock, number), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = Reader(sock.recv)
            while not reader.at_end():
                if not self._serve_one(sock, reader, number):
                    break
        except OSError:
            pass  # the gateway ended the connection; tests that care look at Request.broken
        except EndOfStream:
            pass
        except (WireError, ValueError, Deadline, AssertionError) as error:
            self.errors.append(f"connection {number}: {error!r}")
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _serve_one(self, sock: socket.socket, reader: Reader, number: int) -> bool:
        request = _parse_request(reader.head(), number)
        self.requests.append(request)
        exchange = Exchange(request, sock, reader, self)
        self._handler(request)(exchange)
        if exchange.ended:
            return False
        for _ in exchange.body_pieces(keep=False):
            pass
        return (request.header("Connection") or "").lower() != "close"

    def _handler(self, request: Request) -> Handler:
        for method in (request.method, None):
            if (method, request.path) in self._handlers:
                return self._handlers[method, request.path]
        return echo


def echo(exchange: Exchange) -> None:
    """200, with what was asked."""
    digest, length = hashlib.sha256(), 0
    for piece in exchange.body_pieces(keep=True):
        digest.update(piece)
        length += len(piece)
    request = exchange.request
    exchange.respond_json(
        {
            "method": request.method,
            "target": request.target,
            "headers": request.headers,
            "length": length,
            "sha256": digest.hexdigest(),
        }
    )


def _parse_request(head: Head, number: int) -> Request:
    method, target, version = head.start_line.split(" ")
    if version != "HTTP/1.1":
        raise WireError(f"not HTTP/1.1: {head.start_line!r}")
    return Request(method, target, head.headers, head.raw, number)


def _head(status: int, phrase: str, headers: Headers) -> bytes:
    lines = [f"HTTP/1.1 {status} {phrase}"] + [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def _end(sock: socket.socket) -> None:
    """Wakes the thread that sits in accept() or recv()."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()
