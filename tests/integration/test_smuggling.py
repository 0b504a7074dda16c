# SPDX-License-Identifier: BSD-2-Clause
"""Of an attack on the framing of messages, the backend sees nothing, or exactly one well-formed
request.

Each table is played against one gateway. What is refused is followed by a request for /smuggled:
whoever reads the attack in another way than the gateway would find it. The backend reads strictly,
and its fixture fails the test when anything that it received was not HTTP (wire.py).
"""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import dataclass
from typing import Iterator, Optional

import pytest

from backend import Backend, Exchange
from conditions import wait_until
from conftest import NewDevice, StartGateway
from gateway import Gateway
from wire import Reader, Response, request

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
VALUE = frozenset(b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100)))
# Printable ASCII but what could be read in two ways, or what RFC 3986 does not allow in a path.
TARGET = frozenset(range(0x21, 0x7F)) - frozenset(b'"#%;<>[\\]^`{|}')


@dataclass
class Seen:
    """What one connection's bytes came to, on both sides."""

    answers: list[Response]
    requests: list  # at the backend


class Wire:
    """Sends exact bytes on the plain Unix listener, and looks at both sides."""

    def __init__(self, gateway: Gateway, backend: Backend, path: str):
        self.gateway = gateway
        self.backend = backend
        self.path = path

    def play(self, raw: bytes) -> Seen:
        """Every byte is sent, then our side ends; so whatever can be read as a request is."""
        before = len(self.backend.requests)
        answers = []
        with closing(socket.socket(socket.AF_UNIX)) as sock:
            sock.settimeout(20)
            sock.connect(self.path)
            try:
                sock.sendall(raw)
                sock.shutdown(socket.SHUT_WR)
            except BrokenPipeError:
                pass  # refused before all was read
            reader = Reader(lambda size: receive(sock, size))
            while not reader.at_end():
                answers.append(reader.response(raw[:4].decode("latin-1").strip() or "GET"))
        return Seen(answers, self.backend.requests[before:])


def receive(sock: socket.socket, size: int) -> bytes:
    try:
        return sock.recv(size)
    except ConnectionError:
        return b""


@pytest.fixture
def wire(start_gateway: StartGateway, backend: Backend, folder) -> Iterator[Wire]:
    path = str(folder / "plain.sock")
    gateway = start_gateway(
        {
            "listeners": [{"name": "plain", "address": f"unix:{path}", "clients": "operators"}],
            "device_cas": None,
            "routes": [{"prefix": "/", "listener": "plain", "backend": "api"}],
            "log": {"level": "info"},
        }
    )
    yield Wire(gateway, backend, path)
    assert backend.of("/smuggled") == []


def refusal(seen: Seen) -> Optional[str]:
    """The reason, when there was one answer, a refusal, and no request that was completed."""
    if [r for r in seen.requests if r.complete] or len(seen.answers) != 1:
        return None
    return seen.answers[0].reason


def story(seen: Seen) -> str:
    answers = [f"{a.status} {a.reason or ''}" for a in seen.answers]
    asked = [
        f"{r.method} {r.target} {bytes(r.body)!r} complete={r.complete}" for r in seen.requests
    ]
    return f"answers {answers}, the backend got {asked}"


# --- heads --------------------------------------------------------------------------------------


def head(*lines: bytes, start: bytes = b"POST /attack HTTP/1.1", host: bytes = b"a") -> bytes:
    fields = ([b"Host: " + host] if host else []) + list(lines)
    return b"\r\n".join([start] + fields) + b"\r\n\r\n"


BODY = b"5\r\nhello\r\n0\r\n\r\n"
CL5 = b"Content-Length: 5"
TE = b"Transfer-Encoding: chunked"

REFUSED_HEADS = {
    # Content-Length with Transfer-Encoding, in any order and spelling
    "CL.TE": head(CL5, TE) + BODY,
    "TE.CL": head(TE, CL5) + BODY,
    "CL.TE, coding in capitals": head(CL5, b"TRANSFER-ENCODING: CHUNKED") + BODY,
    "CL0.TE": head(b"Content-Length: 0", TE) + BODY,
    "CL.TE identity": head(CL5, b"Transfer-Encoding: identity") + b"hello",
    "CL.TE empty": head(CL5, b"Transfer-Encoding:") + b"hello",
    "CL.TE of nonsense": head(CL5, b"Transfer-Encoding: cow") + b"hello",
    # lists and odd spellings of Transfer-Encoding
    "TE chunked twice": head(TE, TE) + BODY,
    "TE chunked, chunked": head(b"Transfer-Encoding: chunked, chunked") + BODY,
    "TE gzip, chunked": head(b"Transfer-Encoding: gzip, chunked") + BODY,
    "TE chunked, gzip": head(b"Transfer-Encoding: chunked, gzip") + BODY,
    "TE chunked, identity": head(b"Transfer-Encoding: chunked, identity") + BODY,
    "TE identity then chunked": head(b"Transfer-Encoding: identity", TE) + BODY,
    "TE chunked then identity": head(TE, b"Transfer-Encoding: identity") + BODY,
    "TE identity": head(b"Transfer-Encoding: identity") + BODY,
    "TE gzip": head(b"Transfer-Encoding: gzip") + BODY,
    "TE empty": head(b"Transfer-Encoding:") + BODY,
    "TE of a comma": head(b"Transfer-Encoding: ,") + BODY,
    "TE comma before": head(b"Transfer-Encoding: ,chunked") + BODY,
    "TE comma behind": head(b"Transfer-Encoding: chunked,") + BODY,
    "TE xchunked": head(b"Transfer-Encoding: xchunked") + BODY,
    "TE chunkedx": head(b"Transfer-Encoding: chunkedx") + BODY,
    "TE chunke": head(b"Transfer-Encoding: chunke") + BODY,
    "TE quoted": head(b'Transfer-Encoding: "chunked"') + BODY,
    "TE with a parameter": head(b"Transfer-Encoding: chunked;q=1") + BODY,
    "TE behind a vertical tab": head(b"Transfer-Encoding: \x0bchunked") + BODY,
    "TE behind a form feed": head(b"Transfer-Encoding: \x0cchunked") + BODY,
    "TE behind a NUL": head(b"Transfer-Encoding: \x00chunked") + BODY,
    "TE behind a no-break space": head(b"Transfer-Encoding: \xa0chunked") + BODY,
    "TE before a NUL": head(b"Transfer-Encoding: chunked\x00") + BODY,
    "TE before a bare CR": head(b"Transfer-Encoding: chunked\r") + BODY,
    "TE space before the colon": head(b"Transfer-Encoding : chunked") + BODY,
    "TE tab before the colon": head(b"Transfer-Encoding\t: chunked") + BODY,
    "TE NUL before the colon": head(b"Transfer-Encoding\x00: chunked") + BODY,
    "TE folded": head(b"Transfer-Encoding:\r\n chunked") + BODY,
    "TE folded by a tab": head(b"Transfer-Encoding:\r\n\tchunked") + BODY,
    "TE folded in front": head(b"X: y\r\n Transfer-Encoding: chunked") + BODY,
    "TE without colon": head(b"Transfer-Encoding chunked") + BODY,
    "TE hidden by a bare LF": head(b"X: y\nTransfer-Encoding: chunked") + BODY,
    "TE hidden by a bare CR": head(b"X: y\rTransfer-Encoding: chunked") + BODY,
    "TE before a space line": head(b" Transfer-Encoding: chunked") + BODY,
    "TE in 1.0": head(TE, start=b"POST /attack HTTP/1.0") + BODY,
    "CL and TE in 1.0": head(CL5, TE, start=b"POST /attack HTTP/1.0") + BODY,
    # lengths
    "CL twice, differing": head(CL5, b"Content-Length: 6") + b"hello!",
    "CL twice, equal": head(CL5, CL5) + b"hello",
    "CL list, equal": head(b"Content-Length: 5, 5") + b"hello",
    "CL list, differing": head(b"Content-Length: 5, 6") + b"hello",
    "CL comma behind": head(b"Content-Length: 5,") + b"hello",
    "CL plus": head(b"Content-Length: +5") + b"hello",
    "CL minus": head(b"Content-Length: -5") + b"hello",
    "CL minus zero": head(b"Content-Length: -0"),
    "CL empty": head(b"Content-Length:") + b"hello",
    "CL of blanks": head(b"Content-Length:  \t") + b"hello",
    "CL hexadecimal": head(b"Content-Length: 0x5") + b"hello",
    "CL with a letter": head(b"Content-Length: 5a") + b"hello",
    "CL with a point": head(b"Content-Length: 5.0") + b"hello",
    "CL with an exponent": head(b"Content-Length: 5e0") + b"hello",
    "CL with a low line": head(b"Content-Length: 1_0") + b"0123456789",
    "CL two numbers": head(b"Content-Length: 5 5") + b"hello",
    "CL quoted": head(b'Content-Length: "5"') + b"hello",
    "CL other digits": head("Content-Length: \u0665".encode()) + b"hello",
    "CL beyond 64 bits": head(b"Content-Length: 18446744073709551616") + b"hello",
    "CL that wraps to 5": head(b"Content-Length: 18446744073709551621") + b"hello",
    "CL of 400 digits": head(b"Content-Length: " + b"9" * 400) + b"hello",
    "CL behind a NUL": head(b"Content-Length: \x005") + b"hello",
    "CL space before the colon": head(b"Content-Length : 5") + b"hello",
    "CL folded": head(b"Content-Length:\r\n 5") + b"hello",
    "CL hidden by a bare LF": head(b"X: y\nContent-Length: 5") + b"hello",
    # fields
    "a field without name": head(b": x"),
    "a field without colon": head(b"Nothing"),
    "a folded field": head(b"X: y", b" z"),
    "a folded first field": b"GET /attack HTTP/1.1\r\n Host: a\r\n\r\n",
    "a bare CR in a value": head(b"X: y\rz"),
    "a bare CR at a value's end": head(b"X: y\r"),
    "a bare LF for an empty line": b"GET /attack HTTP/1.1\r\nHost: a\r\n\n",
    "bare LFs everywhere": b"GET /attack HTTP/1.1\nHost: a\n\n",
    "bare CRs everywhere": b"GET /attack HTTP/1.1\rHost: a\r\r",
    "LF before CR": b"GET /attack HTTP/1.1\n\rHost: a\n\r\n\r",
    # Host
    "no Host": head(host=b""),
    "two Hosts, equal": head(b"Host: a"),
    "two Hosts, differing": head(b"Host: b"),
    "Hosts in two spellings": head(b"hOSt: b"),
    "a listed Host": head(host=b"a, b"),
    "a Host with a path": head(host=b"a/b"),
    "a Host with user": head(host=b"x@a"),
    "a Host with a space": head(host=b"a b"),
    "a Host of an odd port": head(host=b"a:80x"),
    "a Host of too large a port": head(host=b"a:65536"),
    "an absolute form of another Host": head(start=b"GET http://b/attack HTTP/1.1"),
    # request lines
    "an authority form": head(start=b"GET a:80 HTTP/1.1"),
    "a relative target": head(start=b"GET attack HTTP/1.1"),
    "an empty target": head(start=b"GET  HTTP/1.1"),
    "another scheme": head(start=b"GET ftp://a/attack HTTP/1.1"),
    "an absolute form with user": head(start=b"GET http://x@a/attack HTTP/1.1"),
    "an absolute form without authority": head(start=b"GET http:///attack HTTP/1.1"),
    "an asterisk for GET": head(start=b"GET * HTTP/1.1"),
    "two spaces": head(start=b"GET  /attack HTTP/1.1"),
    "a space behind": head(start=b"GET /attack HTTP/1.1 "),
    "a tab": head(start=b"GET\t/attack HTTP/1.1"),
    "a request line in a request line": head(start=b"GET /attack HTTP/1.1 GET / HTTP/1.1"),
    "HTTP/0.9": b"GET /attack\r\n\r\n",
    "lower-case version": head(start=b"GET /attack http/1.1"),
    "an odd version": head(start=b"GET /attack HTTP/1.10"),
    "a version with a sign": head(start=b"GET /attack HTTP/+1.1"),
    "too many empty lines": b"\r\n" * 5 + head(start=b"GET /attack HTTP/1.1"),
    # paths
    "a fragment": head(start=b"GET /attack#x HTTP/1.1"),
    "an encoded slash": head(start=b"GET /a%2fttack HTTP/1.1"),
    "a doubly encoded slash": head(start=b"GET /a%252fttack HTTP/1.1"),
    "an encoded backslash": head(start=b"GET /a%5cttack HTTP/1.1"),
    "an overlong slash": head(start=b"GET /a%c0%afttack HTTP/1.1"),
    "an encoded NUL": head(start=b"GET /attack%00 HTTP/1.1"),
    "an encoded line end": head(start=b"GET /attack%0d%0aX:%20y HTTP/1.1"),
    "above the root": head(start=b"GET /../attack HTTP/1.1"),
    "above the root, encoded": head(start=b"GET /%2e%2e/attack HTTP/1.1"),
    "a path parameter": head(start=b"GET /attack;x=y HTTP/1.1"),
    "half an escape": head(start=b"GET /attack%4 HTTP/1.1"),
}
REFUSED_OTHERWISE = {
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "request-method-unsupported"),
    "PRI": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "request-version-unsupported"),
    "HTTP/2.0": (head(start=b"GET / HTTP/2.0"), "request-version-unsupported"),
    "HTTP/1.2": (head(start=b"GET / HTTP/1.2"), "request-version-unsupported"),
    "a huge head": (head(b"X: " + b"y" * 70_000), "request-head-too-large"),
    "a huge target": (
        head(start=b"GET /" + b"y" * 70_000 + b" HTTP/1.1"),
        "request-head-too-large",
    ),
    "many fields": (head(*[b"X: y"] * 2_000), "request-head-too-large"),
}
# Codings that HTTP knows are told apart from nonsense; each is refused all the same.
REFUSALS = {"request-malformed", "request-target-invalid", "request-coding-unsupported"}


def test_a_head_that_two_parties_could_read_differently_reaches_no_backend(wire: Wire) -> None:
    wrong = []
    for name, raw in REFUSED_HEADS.items():
        seen = wire.play(raw + SMUGGLED)
        if refusal(seen) not in REFUSALS or seen.requests:
            wrong.append(f"{name}: {story(seen)}")
    assert wrong == []


def test_what_is_not_spoken_here_is_refused_by_its_name(wire: Wire) -> None:
    wrong = []
    for name, (raw, reason) in REFUSED_OTHERWISE.items():
        seen = wire.play(raw + SMUGGLED)
        if refusal(seen) != reason or seen.requests:
            wrong.append(f"{name}: {story(seen)}")
    assert wrong == []


# --- bodies --------------------------------------------------------------------------------------


def chunks(text: bytes) -> bytes:
    return head(TE) + text


REFUSED_BODIES = {
    "0x": chunks(b"0x5\r\nhello\r\n0\r\n\r\n"),
    "plus": chunks(b"+5\r\nhello\r\n0\r\n\r\n"),
    "minus": chunks(b"-5\r\nhello\r\n0\r\n\r\n"),
    "low line": chunks(b"0_5\r\nhello\r\n0\r\n\r\n"),
    "no size": chunks(b"\r\nhello\r\n0\r\n\r\n"),
    "an extension without size": chunks(b";a\r\nhello\r\n0\r\n\r\n"),
    "space before the size": chunks(b" 5\r\nhello\r\n0\r\n\r\n"),
    "not hexadecimal": chunks(b"5g\r\nhello\r\n0\r\n\r\n"),
    "17 digits": chunks(b"00000000000000005\r\nhello\r\n0\r\n\r\n"),
    "a size that wraps": chunks(b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "a size behind a bare CR": chunks(b"\r5\r\nhello\r\n0\r\n\r\n"),
    "LF behind the size": chunks(b"5\nhello\r\n0\r\n\r\n"),
    "CR behind the size": chunks(b"5\rhello\r\n0\r\n\r\n"),
    "CR CR LF behind the size": chunks(b"5\r\r\nhello\r\n0\r\n\r\n"),
    "LF behind the data": chunks(b"5\r\nhello\n0\r\n\r\n"),
    "nothing behind the data": chunks(b"5\r\nhello0\r\n\r\n"),
    "more data than the size": chunks(b"5\r\nhello!\r\n0\r\n\r\n"),
    "less data than the size": chunks(b"7\r\nhello\r\n0\r\n\r\n"),
    "LF behind the last size": chunks(b"5\r\nhello\r\n0\n\r\n"),
    "LF at the end": chunks(b"5\r\nhello\r\n0\r\n\n"),
    "an extension with a bare LF": chunks(b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    "an extension with a bare CR": chunks(b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    "an extension with a NUL": chunks(b"5;a\x00b\r\nhello\r\n0\r\n\r\n"),
    "a line end in a quoted extension": chunks(b'5;a="\r\nX"\r\nhello\r\n0\r\n\r\n'),
    "a huge extension": chunks(b"5;" + b"a" * 70_000 + b"\r\nhello\r\n0\r\n\r\n"),
    "many extensions": chunks((b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 100 + b"0\r\n\r\n"),
    "huge trailers": chunks(b"0\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"),
    "many trailers": chunks(b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"),
    "a folded trailer": chunks(b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n"),
    "a trailer with a bare LF": chunks(b"5\r\nhello\r\n0\r\nX: y\nZ: z\r\n\r\n"),
    "a trailer with a NUL": chunks(b"5\r\nhello\r\n0\r\nX: \x00\r\n\r\n"),
    "a trailer without colon": chunks(b"5\r\nhello\r\n0\r\nX\r\n\r\n"),
    "a trailer with space before its colon": chunks(b"5\r\nhello\r\n0\r\nX : y\r\n\r\n"),
}


def test_a_body_that_two_parties_could_read_differently_is_never_complete(wire: Wire) -> None:
    """Its head may have gone to the backend; then the backend sees it break off."""
    wrong = []
    for name, raw in REFUSED_BODIES.items():
        seen = wire.play(raw + SMUGGLED)
        wait_until(lambda: all(r.complete or r.broken for r in seen.requests), name)
        if refusal(seen) not in REFUSALS or len(seen.requests) > 1:
            wrong.append(f"{name}: {story(seen)}")
    assert wrong == []


# --- what passes ---------------------------------------------------------------------------------

# Arrives as exactly one request: (method, target, body).
PASSES = {
    "a length": (head(CL5) + b"hello", ("POST", "/attack", b"hello")),
    "a length with zeros before": (
        head(b"Content-Length: 0005") + b"hello",
        ("POST", "/attack", b"hello"),
    ),
    "a length of zero": (head(b"Content-Length: 0"), ("POST", "/attack", b"")),
    "chunks": (chunks(BODY), ("POST", "/attack", b"hello")),
    "chunks in capitals": (
        head(b"TRANSFER-encoding: ChunKED") + BODY,
        ("POST", "/attack", b"hello"),
    ),
    "chunks behind blanks": (
        head(b"Transfer-Encoding:   chunked") + BODY,
        ("POST", "/attack", b"hello"),
    ),
    "sizes with zeros before": (
        chunks(b"0005\r\nhello\r\n0000\r\n\r\n"),
        ("POST", "/attack", b"hello"),
    ),
    "extensions": (
        chunks(b'3;a=b\r\nhel\r\n2;c="d;e"\r\nlo\r\n0;f\r\n\r\n'),
        ("POST", "/attack", b"hello"),
    ),
    "trailers": (
        chunks(b"5\r\nhello\r\n0\r\nX-Device-Id: forged\r\nX-More: y\r\n\r\n"),
        ("POST", "/attack", b"hello"),
    ),
    "a request as a body": (
        head(b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED,
        ("POST", "/attack", SMUGGLED),
    ),
    "a request in chunks": (
        chunks(b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
        ("POST", "/attack", SMUGGLED),
    ),
    "other coding fields": (
        head(b"Transfer_Encoding: chunked", b"X-Transfer-Encoding: chunked", CL5) + b"hello",
        ("POST", "/attack", b"hello"),
    ),
    "empty lines before": (
        b"\r\n\r\n" + head(start=b"GET /attack HTTP/1.1"),
        ("GET", "/attack", b""),
    ),
    "an absolute form": (
        head(start=b"GET http://A:80/attack HTTP/1.1", host=b"a"),
        ("GET", "/attack", b""),
    ),
    "a doubled slash": (head(start=b"GET //a///ttack HTTP/1.1"), ("GET", "/a/ttack", b"")),
    "dots": (head(start=b"GET /x/./y/../../attack HTTP/1.1"), ("GET", "/attack", b"")),
    "encoded dots": (head(start=b"GET /x/%2e%2E/attack HTTP/1.1"), ("GET", "/attack", b"")),
    "encoded letters": (head(start=b"GET /%61ttac%6b HTTP/1.1"), ("GET", "/attack", b"")),
    "an odd query": (head(start=b"GET /attack?a//../%2f;b HTTP/1.1"), None),
}


def test_what_has_one_meaning_arrives_as_exactly_one_request(wire: Wire) -> None:
    wrong = []
    for name, (raw, want) in PASSES.items():
        seen = wire.play(raw)
        got = [(r.method, r.target, bytes(r.body)) for r in seen.requests if r.complete]
        want = want or ("GET", raw.split(b" ")[1].decode(), b"")
        if [a.status for a in seen.answers] != [200] or got != [want]:
            wrong.append(f"{name}: {story(seen)}")
        for r in seen.requests:
            framings = [
                n for n, _ in r.headers if n.lower() in ("content-length", "transfer-encoding")
            ]
            if len(framings) > 1 or r.header("X-Device-Id") is not None:
                wrong.append(f"{name}: {r.headers}")
    assert wrong == []


def test_pipelined_attacks_end_the_connection_behind_the_good_requests(wire: Wire) -> None:
    good = request("GET", "/good")
    for raw in (
        REFUSED_HEADS["CL.TE"],
        REFUSED_BODIES["0x"],
        REFUSED_HEADS["a bare CR in a value"],
    ):
        seen = wire.play(good + good + raw + SMUGGLED)
        assert [a.status for a in seen.answers] == [200, 200, 400], story(seen)
        assert [r.path for r in seen.requests if r.complete] == ["/good", "/good"], story(seen)


# --- every byte ----------------------------------------------------------------------------------


def test_every_byte_in_a_method(wire: Wire) -> None:
    wrong = []
    for byte in range(256):
        seen = wire.play(head(start=b"G%cET /attack HTTP/1.1" % byte) + SMUGGLED)
        want = "request-method-unsupported" if byte in TOKEN else "request-malformed"
        if refusal(seen) != want or seen.requests:
            wrong.append(f"{byte:#04x}: {story(seen)}")
    assert wrong == []


def test_every_byte_in_a_target(wire: Wire) -> None:
    wrong = []
    for byte in range(256):
        target = b"/a%cb" % byte
        seen = wire.play(head(start=b"GET " + target + b" HTTP/1.1"))
        if byte in TARGET:
            path = target.replace(b"//", b"/").decode()
            passed = [(r.method, r.target) for r in seen.requests] == [("GET", path)]
        else:
            passed = refusal(seen) in REFUSALS and not seen.requests
        if not passed:
            wrong.append(f"{byte:#04x}: {story(seen)}")
    assert wrong == []


def test_every_byte_in_a_field_name(wire: Wire) -> None:
    wrong = []
    for byte in range(256):
        seen = wire.play(head(b"X%cY: z" % byte, start=b"GET /attack HTTP/1.1"))
        if byte in TOKEN or byte == ord(":"):
            name, value = ("X", "Y: z") if byte == ord(":") else (f"X{byte:c}Y", "z")
            passed = [r.header(name) for r in seen.requests] == [value]
        else:
            passed = refusal(seen) in REFUSALS and not seen.requests
        if not passed:
            wrong.append(f"{byte:#04x}: {story(seen)}")
    assert wrong == []


def test_every_byte_in_a_field_value(wire: Wire) -> None:
    wrong = []
    for byte in range(256):
        seen = wire.play(head(b"X: y%cz" % byte, start=b"GET /attack HTTP/1.1"))
        if byte in VALUE:
            passed = [r.header("X") for r in seen.requests] == [f"y{byte:c}z"]
        else:
            passed = refusal(seen) in REFUSALS and not seen.requests
        if not passed:
            wrong.append(f"{byte:#04x}: {story(seen)}")
    assert wrong == []


@pytest.mark.parametrize(
    "form",
    [
        b"5%c\r\nhello\r\n",
        b"%c5\r\nhello\r\n",
        b"5;a=%c\r\nhello\r\n",
        b"5\r\nhello%c\n",
        b"5\r%chello\r\n",
    ],
    ids=["behind a size", "before a size", "in an extension", "for CR", "for LF"],
)
def test_every_byte_in_chunk_framing(wire: Wire, form: bytes) -> None:
    """Whatever passes is the one request that it looks like: a size of 5 and "hello". Digits make
    it another size, which the data does not have.
    """
    wrong = []
    for byte in range(256):
        seen = wire.play(
            chunks(form % byte + b"0\r\n\r\n") + SMUGGLED.replace(b"smuggled", b"next")
        )
        wait_until(lambda: all(r.complete or r.broken for r in seen.requests), f"{byte:#04x}")
        if refusal(seen) in REFUSALS and len(seen.requests) <= 1:
            continue
        if byte in b"0123456789abcdefABCDEF" and not any(r.complete for r in seen.requests):
            continue  # a larger size: its data does not come
        got = [(r.path, bytes(r.body)) for r in seen.requests]
        if got != [("/attack", b"hello"), ("/next", b"")] or byte < 0x20 and byte not in b"\t\r\n":
            wrong.append(f"{byte:#04x}: {story(seen)}")
    assert wrong == []


# --- over TLS, and the other way -----------------------------------------------------------------


def test_the_same_holds_behind_tls(
    gateway: Gateway, backend: Backend, new_device: NewDevice
) -> None:
    device = new_device()
    for raw in (REFUSED_HEADS["TE.CL"], REFUSED_HEADS["bare LFs everywhere"], REFUSED_BODIES["0x"]):
        with device.connect() as connection:
            connection.send(raw + SMUGGLED)
            assert connection.response().status == 400
            assert connection.rest() == b""
    assert backend.of("/smuggled") == []
    assert all(not r.complete for r in backend.requests)


ANSWERS = {
    "length and coding": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + TE + b"\r\n\r\n" + BODY,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "a listed coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + BODY,
    "a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "a folded field": b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 5\r\n\r\nhello",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
    "a NUL": b"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 5\r\n\r\nhello",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nhello",
    "an odd status": b"HTTP/1.1 2OO OK\r\nContent-Length: 5\r\n\r\nhello",
    "no HTTP": b"hello\r\n\r\n",
}


def test_an_answer_that_two_parties_could_read_differently_is_not_passed_on(
    wire: Wire, backend: Backend
) -> None:
    wrong = []
    for name, raw in ANSWERS.items():

        def answer(exchange: Exchange, raw: bytes = raw) -> None:
            exchange.send(raw)
            exchange.await_break()

        backend.on("/attack", answer)
        seen = wire.play(request("GET", "/attack"))
        if [(a.status, a.reason) for a in seen.answers] != [(502, "backend-invalid")]:
            wrong.append(f"{name}: {story(seen)}")
    assert wrong == []


def test_bytes_behind_an_answer_are_nobody_elses_answer(wire: Wire, backend: Backend) -> None:
    """A backend that says more than it was asked for is not asked again on that connection."""

    def split(exchange: Exchange) -> None:
        one = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
        exchange.send(one + one.replace(b"one", b"two"))
        exchange.await_break()

    backend.on("/split", split)
    seen = wire.play(request("GET", "/split") + request("GET", "/other"))
    assert [a.status for a in seen.answers] == [200, 200]
    assert seen.answers[0].body == b"one" and seen.answers[1].json()["target"] == "/other"
