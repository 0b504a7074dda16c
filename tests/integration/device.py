# SPDX-License-Identifier: BSD-2-Clause
"""Devices (and operators' clients) as TLS clients that send exactly the bytes they are told to.

    device = Device(identity, address, trust)
    device.get("/config")                      # one connection a request, as the stock agent does
    with device.connect() as connection:       # one that is kept
        connection.send(request("GET", "/a") + request("GET", "/b"))
        first, second = connection.response(), connection.response()

TLS runs over memory buffers, so that a test can half-close, cut the ClientHello into pieces, or
look at a raw socket.
"""

from __future__ import annotations

import select
import socket
import ssl
import tempfile
import time
from contextlib import contextmanager
from typing import Any, Iterator, Optional

from conditions import DEADLINE
from pki import Authority, Identity, pem, private_pem
from wire import Headers, Reader, Response, request

Address = tuple[str, int]

_PIECE = 1 << 16


def _poll(sock: socket.socket, events: int, seconds: float) -> int:
    """What has happened of `events`, or errors; 0: nothing in time. select() knows no descriptor
    above 1023.
    """
    poll = select.poll()
    poll.register(sock, events)
    return sum(happened for _, happened in poll.poll(seconds * 1000))


class Timeout(Exception):
    """Nothing came in time."""


def client_context(
    trust: Authority,
    identity: Optional[Identity] = None,
    version: Optional[str] = None,
    with_chain: bool = False,
    security_level: Optional[int] = None,
) -> ssl.SSLContext:
    """`version`: "1.2" or "1.3" alone; None offers both, as everybody does. `security_level`:
    OpenSSL's; at 0 a client uses what it would itself refuse.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if security_level is not None:
        context.set_ciphers(f"DEFAULT:@SECLEVEL={security_level}")
    context.load_verify_locations(cadata=pem(trust.chain()).decode())
    if version is not None:
        only = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
        context.minimum_version = context.maximum_version = only
    if identity is not None:
        _load_identity(context, identity, with_chain)
    return context


def _load_identity(context: ssl.SSLContext, identity: Identity, with_chain: bool) -> None:
    certificates = [identity.certificate] + (identity.chain if with_chain else [])
    with tempfile.NamedTemporaryFile() as file:  # the only way in that Python's ssl has
        file.write(private_pem(identity.key) + pem(certificates))
        file.flush()
        context.load_cert_chain(file.name)


class Connection:
    """One TLS connection; every wait has a deadline."""

    def __init__(
        self,
        address: Address,
        context: ssl.SSLContext,
        *,
        server_name: str = "localhost",
        session: Optional[ssl.SSLSession] = None,
        deadline: float = DEADLINE,
        receive_buffer: int = 0,
        source: str = "",
    ):
        self.deadline = deadline
        self.sock = socket.socket()
        if receive_buffer:  # before connect(), or the window is already open
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:  # another address of the loopback network
            self.sock.bind((source, 0))
        self.sock.settimeout(deadline)
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_name, session=session
        )
        self.reader = Reader(self.receive)

    def handshake(self, piece: int = 1 << 20, together: bytes = b"") -> "Connection":
        """`piece`: bytes a TCP segment at most; `together`: goes out with our last flight."""
        while True:
            try:
                self.tls.do_handshake()
                if together:
                    self.tls.write(together)
                self._flush(piece)
                return self
            except ssl.SSLWantReadError:
                self._flush(piece)
                self._pull()
            except ssl.SSLError:
                self._try_flush()
                raise

    def send(self, data: bytes) -> "Connection":
        """Sends everything, while whatever the peer says meanwhile is kept for later (it may answer
        early).
        """
        for start in range(0, len(data), _PIECE):
            self.tls.write(data[start : start + _PIECE])
            self._flush()
        return self

    def send_records(self, *records: bytes) -> "Connection":
        """Each a TLS record of its own (up to 16 KiB), all in one piece."""
        for record in records:
            self.tls.write(record)
        self._flush()
        return self

    def request(
        self,
        method: str,
        target: str,
        headers: Optional[Headers] = None,
        body: Optional[bytes] = None,
        chunk: Optional[int] = None,
    ) -> Response:
        self.send(request(method, target, headers, body, chunk=chunk))
        return self.response(method)

    def response(self, method: str = "GET") -> Response:
        return self.reader.response(method)

    def receive(self, size: int = _PIECE) -> bytes:
        """Some plain text; b"" once the peer has closed in order. ConnectionError without
        close_notify.
        """
        while True:
            try:
                return self.tls.read(size)
            except ssl.SSLWantReadError:
                self._flush()
                self._pull()
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLEOFError as error:
                raise ConnectionError("the peer went away without close_notify") from error

    def rest(self) -> bytes:
        """Everything until the end, however it comes."""
        pieces = []
        try:
            pieces.extend(self.reader.to_end())
        except (ConnectionError, ssl.SSLError):
            pass
        return b"".join(pieces)

    def await_close(self) -> float:
        """Reads (and drops) until the peer has ended the connection; how many seconds that took."""
        start = time.monotonic()
        self.rest()
        return time.monotonic() - start

    def is_open(self) -> bool:
        """Whether the peer has not ended the connection, as far as can be seen now."""
        if not _poll(self.sock, select.POLLIN, 0):
            return True
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except ConnectionError:
            return False

    def half_close(self) -> None:
        """Ends our side in order (close_notify, FIN); the peer may go on."""
        self._notify_close()
        self._flush()
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """In order, as clients do that want to resume the session later; does not wait."""
        self._notify_close()
        try:
            self.sock.setblocking(False)
            self.sock.send(self._outgoing.read())
        except OSError:
            pass
        self.abandon()

    def abandon(self) -> None:
        """Without close_notify."""
        self.sock.close()

    def session(self) -> ssl.SSLSession:
        """For another connection's resumption. At TLS 1.3 the ticket comes with the first answer:
        ask before.
        """
        assert self.tls.session is not None
        return self.tls.session

    @property
    def resumed(self) -> bool:
        return bool(self.tls.session_reused)

    @property
    def version(self) -> str:
        return str(self.tls.version())

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _notify_close(self) -> None:
        try:
            self.tls.unwrap()
        except (ssl.SSLError, ValueError):  # nothing was established, or the peer's is not here
            pass

    def _flush(self, piece: int = 1 << 20) -> None:
        view = memoryview(self._outgoing.read())
        while view:
            ready = _poll(self.sock, select.POLLIN | select.POLLOUT, self.deadline)
            readable, writable = ready & ~select.POLLOUT, ready & select.POLLOUT
            if not ready:
                raise Timeout(f"the peer takes nothing for {self.deadline:g} s")
            if readable and not writable:
                self._pull()
            if writable:
                view = view[self.sock.send(view[:piece]) :]

    def _try_flush(self) -> None:
        try:
            self._flush()
        except OSError:
            pass

    def _pull(self) -> None:
        try:
            data = self.sock.recv(_PIECE)
        except socket.timeout as error:
            raise Timeout(f"nothing came for {self.deadline:g} s") from error
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


class Device:
    """A device with its identity. `trust`: who signs the gateway's certificate."""

    def __init__(self, identity: Identity, address: Address, trust: Authority):
        self.identity = identity
        self.address = address
        self.trust = trust

    @property
    def name(self) -> str:
        return self.identity.name

    def with_identity(self, identity: Identity) -> "Device":
        """The same device after it has taken another key into use."""
        return Device(identity, self.address, self.trust)

    @contextmanager
    def connect(
        self,
        version: Optional[str] = None,
        session: Optional[ssl.SSLSession] = None,
        context: Optional[ssl.SSLContext] = None,
        **options: Any,
    ) -> Iterator[Connection]:
        """A connection after its handshake. Resumption needs the context that the session was made
        with.
        """
        context = context or self.context(version)
        connection = Connection(self.address, context, session=session, **options)
        with connection:
            yield connection.handshake()

    def context(self, version: Optional[str] = None) -> ssl.SSLContext:
        return client_context(self.trust, self.identity, version)

    def request(
        self,
        method: str,
        target: str,
        headers: Optional[Headers] = None,
        body: Optional[bytes] = None,
        version: Optional[str] = None,
        chunk: Optional[int] = None,
    ) -> Response:
        """On a connection of its own, closed afterwards."""
        with self.connect(version) as connection:
            return connection.request(
                method, target, [("Connection", "close")] + list(headers or []), body, chunk
            )

    def get(self, target: str, headers: Optional[Headers] = None) -> Response:
        return self.request("GET", target, headers)

    def post(self, target: str, body: bytes, headers: Optional[Headers] = None) -> Response:
        return self.request("POST", target, headers, body)

    def patch(self, target: str, body: bytes, headers: Optional[Headers] = None) -> Response:
        return self.request("PATCH", target, headers, body)


def refused_alert(address: Address, context: ssl.SSLContext, server_name: str = "localhost") -> str:
    """The TLS alert that a client is refused with, as OpenSSL names it ("TLSV1_ALERT_UNKNOWN_CA").

    At TLS 1.3 a client finishes before its certificate is judged, so the alert may come with the
    first read.
    """
    with Connection(address, context, server_name=server_name) as connection:
        try:
            connection.handshake()
            connection.send(request("GET", "/"))
            answer = connection.receive()
        except ssl.SSLError as error:
            return str(error.reason)
    raise AssertionError(f"no alert; got {answer[:200]!r}")
