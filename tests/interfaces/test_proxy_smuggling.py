"""
Request smuggling, against a proxy and a server together.

The server here is a strict one. It sees either nothing of an attack, or exactly the requests that
the proxy has understood, one by one; and everybody gets the answer to what they have asked, whoever
else uses the same connections to the server.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from backends import frames as f
from backends.frames import data, headers, request
from backends.support import turns
from interfaces.proxy_peers import (
    Bystanders,
    Expected,
    answers_of,
    answers_to,
    both_ways,
    echo,
    fronted,
    seen_of,
)
from upstreams import ScriptedUpstream

from kyoukai import Kyoukai, Proxy
from kyoukai.interfaces.under_asgi import as_asgi

X = b"Host: x\r\n"
POST = b"POST /a HTTP/1.1\r\n" + X
GET = b"GET /a HTTP/1.1\r\n" + X
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKS = b"4\r\nbody\r\n0\r\n\r\n"
A = ("POST", "/a", b"")
BODY = ("POST", "/a", b"body")
S = ("GET", "/smuggled", b"")
CHUNKED = b"Transfer-Encoding: chunked\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n"

#: Bytes from a client on HTTP/1.1, and the requests that they are.
ATTACKS: list[tuple[bytes, Expected]] = [
    # Both framings: CL.TE, TE.CL, TE.TE.
    (POST + b"Content-Length: 6\r\n" + CHUNKED + b"\r\n0\r\n\r\nG", []),
    (POST + CHUNKED + b"Content-Length: 4\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Content-Length: 0\r\n" + CHUNKED + b"\r\n" + CHUNKS + SMUGGLED, []),
    (POST + CHUNKED + CHUNKED + b"\r\n" + CHUNKS + SMUGGLED, []),
    (POST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding: identity\r\n" + CHUNKED + b"\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding: chunked,\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding: 'chunked'\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding: \x00chunked\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding: chunked\xa0\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding\x00: chunked\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"X: y\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b" Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKS + SMUGGLED, []),
    (b"POST /a HTTP/1.0\r\n" + X + CHUNKED + b"\r\n" + CHUNKS + SMUGGLED, []),
    # A name with an underscore is another field here, and none to the server.
    (POST + b"Transfer_Encoding: chunked\r\n\r\n" + SMUGGLED, [A, S]),
    (POST + b"Content_Length: 4\r\n\r\n" + SMUGGLED, [A, S]),
    (POST + b"Content-Length: 4\r\nContent_Length: 0\r\n\r\nbody" + SMUGGLED, [BODY, S]),
    (POST + b"Transfer-Encoding: CHUNKED\r\n\r\n" + CHUNKS + SMUGGLED, [BODY, S]),
    # Lengths.
    (POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody" + SMUGGLED, []),
    (POST + b"Content-Length: 4\r\nContent-Length: 0\r\n\r\nbody" + SMUGGLED, []),
    (POST + b"Content-Length: 4, 4\r\n\r\nbody" + SMUGGLED, []),
    (POST + b"Content-Length: +4\r\n\r\nbody" + SMUGGLED, []),
    (POST + b"Content-Length: 0x4\r\n\r\nbody" + SMUGGLED, []),
    (POST + b"Content-Length: 4 4\r\n\r\nbody" + SMUGGLED, []),
    (POST + b"Content-Length:\r\n\r\n" + SMUGGLED, []),
    (POST + b"Content-Length: -1\r\n\r\n" + SMUGGLED, []),
    (POST + b"Content-Length : 4\r\n\r\nbody" + SMUGGLED, []),
    (POST + b"Content-Length: 004\r\n\r\nbody" + SMUGGLED, [BODY, S]),
    # CL.0 and 0.CL: bodies where servers may expect none.
    (GET + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED, [("GET", "/a", SMUGGLED)]),
    (GET + CHUNKED + b"\r\n" + CHUNKS + SMUGGLED, [("GET", "/a", b"body"), S]),
    (b"HEAD" + GET[3:] + b"Content-Length: 4\r\n\r\nbody", [("HEAD", "/a", b"body")]),
    (
        b"DELETE" + GET[3:] + b"Content-Length: 4\r\n\r\nbody" + SMUGGLED,
        [("DELETE", "/a", b"body"), S],
    ),
    (b"OPTIONS" + GET[3:] + b"\r\n" + SMUGGLED, [("OPTIONS", "/a", b""), S]),
    (POST + b"Content-Length: 0\r\n\r\n" + SMUGGLED, [A, S]),
    (POST + b"Content-Length: 0\r\nConnection: content-length\r\n\r\n" + SMUGGLED, [A, S]),
    (
        POST + b"Content-Length: 4\r\nConnection: content-length\r\n\r\nbody" + SMUGGLED,
        [BODY, S],
    ),
    (POST + CHUNKED + b"Connection: transfer-encoding\r\n\r\n" + CHUNKS + SMUGGLED, [BODY, S]),
    (POST + b"Content-Length: 99\r\n\r\n" + SMUGGLED, []),
    # Pipelines: in order, and what follows Connection: close is nothing.
    (
        GET + b"\r\n" + SMUGGLED + POST + b"Content-Length: 4\r\n\r\nbody",
        [("GET", "/a", b""), S, BODY],
    ),
    (GET + b"Connection: close\r\n\r\n" + SMUGGLED, [("GET", "/a", b"")]),
    (SMUGGLED * 16, [S] * 16),
    (SMUGGLED + POST + b"Content-Length: x\r\n\r\n" + SMUGGLED, [S]),
    (GET + b"\r\n\r\n\r\n" + SMUGGLED, [("GET", "/a", b""), S]),
    # Chunks.
    (POST + CHUNKED + b"\r\n4;a=b;c\r\nbody\r\n0;x\r\n\r\n" + SMUGGLED, [BODY, S]),
    (POST + CHUNKED + b"\r\n004\r\nbody\r\n000\r\n\r\n" + SMUGGLED, [BODY, S]),
    (POST + CHUNKED + b"\r\n4;a\nb\r\nbody\r\n0\r\n\r\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n4;a\rb\r\nbody\r\n0\r\n\r\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n4\nbody\n0\n\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n4\r\nbody0\r\n\r\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n4\r\nbodyXX0\r\n\r\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n0x4\r\nbody\r\n0\r\n\r\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n4 \r\nbody\r\n0\r\n\r\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n-4\r\nbody\r\n0\r\n\r\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n10000000000000004\r\nbody\r\n0\r\n\r\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n\r\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n0\r\n" + SMUGGLED, []),
    # Trailers that would frame or route.
    (POST + CHUNKED + b"\r\n4\r\nbody\r\n0\r\nContent-Length: 9\r\n\r\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n4\r\nbody\r\n0\r\nX-A: b\r\n\r\n" + SMUGGLED, [BODY, S]),
    (POST + CHUNKED + b"\r\n4\r\nbody\r\n0\r\nX-A: b\r\n c\r\n\r\n" + SMUGGLED, []),
    (POST + CHUNKED + b"\r\n4\r\nbody\r\n0\r\nX-A: b\nGET /b HTTP/1.1\r\n\r\n", []),
    # Hosts.
    (b"GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", []),
    (b"GET /a HTTP/1.1\r\n\r\n", []),
    (b"GET /a HTTP/1.1\r\nHost: x y\r\n\r\n", []),
    (b"GET /a HTTP/1.1\r\nHost: x/\r\n\r\n", []),
    (b"GET /a HTTP/1.1\r\nHost: x\r\n\tHost: y\r\n\r\n", []),
    (b"GET http://x/a HTTP/1.1\r\nHost: y\r\n\r\n" + SMUGGLED, [("GET", "/a", b""), S]),
    # Request lines.
    (b"GET /a HTTP/1.1 HTTP/1.1\r\n" + X + b"\r\n", []),
    (b"GET /a\tHTTP/1.1\r\n" + X + b"\r\n", []),
    (b"GET /a\x00 HTTP/1.1\r\n" + X + b"\r\n", []),
    (b"GET /a\x0b HTTP/1.1\r\n" + X + b"\r\n", []),
    (b"GET /a HTTP/1.1\n" + X + b"\r\n", []),
    (b"GET /a\r\n" + X + b"\r\n", []),
    (b"GET /a HTTP/1.2\r\n" + X + b"\r\n", []),
    (b"GET /a HTTP/2.0\r\n" + X + b"\r\n", []),
    (b"GET a HTTP/1.1\r\n" + X + b"\r\n", []),
    (b"G\x00T /a HTTP/1.1\r\n" + X + b"\r\n", []),
    (b"GET  /a HTTP/1.1\r\n" + X + b"\r\n" + SMUGGLED, [("GET", "/a", b""), S]),
    # Tunnels that are none.
    (b"CONNECT x:80 HTTP/1.1\r\n" + X + b"\r\n" + SMUGGLED, []),
    (b"CONNECT x:80 HTTP/1.1\r\n" + X + b"Content-Length: 4\r\n\r\nbody" + SMUGGLED, []),
    (GET + UPGRADE + KEY + b"\r\n" + SMUGGLED, [("GET", "/a", b""), S]),
    (
        GET + UPGRADE + KEY + b"Content-Length: 4\r\n\r\nbody" + SMUGGLED,
        [("GET", "/a", b"body"), S],
    ),
    (GET + UPGRADE + KEY + CHUNKED + b"\r\n" + CHUNKS + SMUGGLED, [("GET", "/a", b"body"), S]),
    (POST + UPGRADE + KEY + b"Content-Length: 4\r\n\r\nbody" + SMUGGLED, [BODY, S]),
    (POST + UPGRADE + KEY + b"\r\n" + SMUGGLED, [A, S]),
    (GET + b"Connection: Upgrade\r\nUpgrade: foo\r\n\r\n" + SMUGGLED, [("GET", "/a", b""), S]),
    (GET + b"Upgrade: websocket\r\n\r\n" + SMUGGLED, [("GET", "/a", b""), S]),
    # Forgetting the end.
    (POST + b"Content-Length: 9\r\n\r\nbody", []),
    (POST + CHUNKED + b"\r\n4\r\nbody\r\n", []),
    (POST + CHUNKED + b"\r\n4\r\nbody\r\n0\r\n", []),
    (GET[:-2], []),
]


@both_ways
@pytest.mark.parametrize("size", [4096, 16, 1])
async def test_http_1_1(size: int, way: str) -> None:
    """In one piece, byte by byte, and in pieces between which all that can goes on."""
    async with fronted(echo, way=way) as front:
        bystanders = Bystanders(front)
        await bystanders.ask()
        for attack, expected in ATTACKS:
            del front.upstream.requests[:]
            connection = front.http1()
            connection.send(b"", *([method for method, _, _ in expected] or ["GET"]))
            for start in range(0, len(attack), size):
                if size == 16:
                    await turns(4)
                if not connection.transport.is_closing():
                    connection.send(attack[start : start + size])
            answers, _ = await asyncio.gather(
                answers_to(connection, len(expected)), bystanders.ask()
            )
            assert seen_of(front) == expected, attack
            assert answers == answers_of(expected), attack
        await bystanders.ask()
        assert not front.upstream.wrong


HEAD = request(b"/a", b"POST")


def with_pseudo(name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    """Return a head with another value of a pseudo-header field."""
    return [(each, value if each == name else before) for each, before in HEAD]


def post(*extra: tuple[bytes, bytes]) -> bytes:
    """Return a HEADERS frame of a request whose body follows."""
    return headers(1, [*HEAD, *extra], end=False)


NOTHING = post((b"content-length", b"0"))
FOUR = post((b"content-length", b"4")) + data(1, b"body")
#: What the server may see of attacks that are none until the client breaks its word.
MEANWHILE = {NOTHING: [A], FOUR: [BODY]}

#: Frames from a client on HTTP/2, and the request that they are.
FRAMES: list[tuple[bytes, Expected]] = [
    # H2.CL: a length that the frames belie.
    (NOTHING + data(1, SMUGGLED, True), []),
    (FOUR + data(1, SMUGGLED, True), []),
    (post((b"content-length", b"4")) + data(1, b"body" + SMUGGLED, True), []),
    (post((b"content-length", b"9")) + data(1, b"body", True), []),
    (post((b"content-length", b"4")) + data(1, b"", True), []),
    (headers(1, [*HEAD, (b"content-length", b"4")]), []),
    (post((b"content-length", b"4"), (b"content-length", b"5")) + data(1, b"body", True), []),
    (post((b"content-length", b"4, 4")) + data(1, b"body", True), []),
    (post((b"content-length", b"+4")) + data(1, b"body", True), []),
    (post((b"content-length", b"")) + data(1, b"body", True), []),
    (post((b"content-length", b"4\r\n")) + data(1, b"body", True), []),
    (post((b"content-length", b"4")) + data(1, b"bo") + data(1, b"dy", True), [BODY]),
    (post() + data(1, b"bo") + data(1, b"dy", True), [BODY]),
    (post() + data(1, b"", True), [A]),
    (
        headers(1, [*request(b"/a"), (b"content-length", b"%d" % len(SMUGGLED))], end=False)
        + data(1, SMUGGLED, True),
        [("GET", "/a", SMUGGLED)],
    ),
    # H2.TE, and all else that is about a connection.
    (post((b"transfer-encoding", b"chunked")) + data(1, b"0\r\n\r\n" + SMUGGLED, True), []),
    (post((b"Transfer-Encoding", b"chunked")) + data(1, b"0\r\n\r\n" + SMUGGLED, True), []),
    (post((b"transfer-encoding ", b"chunked")) + data(1, b"0\r\n\r\n" + SMUGGLED, True), []),
    (post((b"transfer_encoding", b"chunked")) + data(1, b"body", True), [BODY]),
    (post((b"connection", b"transfer-encoding")) + data(1, b"", True), []),
    (post((b"upgrade", b"websocket")) + data(1, b"", True), []),
    (post((b"keep-alive", b"x")) + data(1, b"", True), []),
    (post((b"te", b"chunked")) + data(1, b"", True), []),
    # CRLF and the like in names, values, and everything that becomes the request line.
    (post((b"x", b"y\r\ntransfer-encoding: chunked")) + data(1, b"0\r\n\r\n" + SMUGGLED, True), []),
    (post((b"x", b"y\r\n\r\n" + SMUGGLED)) + data(1, b"", True), []),
    (post((b"x", b"y\ntransfer-encoding: chunked")) + data(1, b"", True), []),
    (post((b"x", b"y\r")) + data(1, b"", True), []),
    (post((b"x", b"y\x00")) + data(1, b"", True), []),
    (post((b"x", b" y")) + data(1, b"", True), []),
    (post((b"cookie", b"y\r\nx: z"), (b"cookie", b"a")) + data(1, b"", True), []),
    (post((b"x-forwarded-for", b"y\r\nx: z")) + data(1, b"", True), []),
    (post((b"via", b"y\r\nx: z")) + data(1, b"", True), []),
    (post((b"max-forwards", b"y\r\nx: z")) + data(1, b"", True), []),
    (post((b"expect", b"100-continue\r\nx: z")) + data(1, b"", True), []),
    (post((b"x: y\r\ntransfer-encoding", b"chunked")) + data(1, b"", True), []),
    (post((b"transfer-encoding:chunked\r\nx", b"y")) + data(1, b"", True), []),
    (post((b"x:", b"y")) + data(1, b"", True), []),
    (post((b"x y", b"z")) + data(1, b"", True), []),
    (post((b"", b"z")) + data(1, b"", True), []),
    (post((b"x\x00", b"z")) + data(1, b"", True), []),
    *(
        (headers(1, with_pseudo(name, value)), [])
        for name, value in [
            (b":method", b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\nPOST"),
            (b":method", b"GET /smuggled"),
            (b":method", b"GET\r\n"),
            (b":method", b""),
            (b":path", b"/a HTTP/1.1\r\nhost: x\r\n\r\nGET /smuggled"),
            (b":path", b"/a HTTP/1.1"),
            (b":path", b"/a\r\n"),
            (b":path", b"/a\tb"),
            (b":path", b"/a\x00"),
            (b":path", b""),
            (b":path", b"a"),
            (b":path", b"http://y/a"),
            (b":authority", b"x\r\ntransfer-encoding: chunked"),
            (b":authority", b"x y"),
            (b":authority", b"x/smuggled"),
            (b":authority", b"u@x"),
            (b":authority", b""),
            (b":scheme", b"http://x/smuggled HTTP/1.1\r\n"),
            (b":scheme", b"http\r\nx: y"),
            (b":scheme", b"file"),
        ]
    ),
    (headers(1, [*HEAD, (b":path", b"/smuggled")]), []),
    (headers(1, [*HEAD, (b"x", b"y"), (b":method", b"GET")]), []),
    (headers(1, [*HEAD, (b":smuggled", b"y")]), []),
    (headers(1, HEAD[1:]), []),
    (headers(1, [*HEAD, (b"host", b"y")]), []),
    (headers(1, [*HEAD, (b"host", b"localhost"), (b"host", b"localhost")]), []),
    # Trailers.
    (post() + data(1, b"body") + headers(1, [(b"x-a", b"b")]), [BODY]),
    (post() + data(1, b"body") + headers(1, [(b"x-a", b"b\r\n\r\n" + SMUGGLED)]), []),
    (post() + data(1, b"body") + headers(1, [(b"transfer-encoding", b"chunked")]), []),
    (post() + data(1, b"body") + headers(1, [(b":path", b"/smuggled")]), []),
    (post() + data(1, b"body") + headers(1, [(b"x-a", b"b")], end=False), []),
    (post((b"content-length", b"9")) + data(1, b"body") + headers(1, [(b"x-a", b"b")]), []),
    # Tunnels.
    (headers(1, [(b":method", b"CONNECT"), (b":authority", b"x:80")], end=False), []),
    (headers(1, request(b"/a", b"CONNECT"), end=False) + data(1, SMUGGLED, True), []),
    (headers(1, [*request(b"/a", b"CONNECT"), (b":protocol", b"foo")], end=False), []),
    (headers(1, [*HEAD, (b":protocol", b"websocket")], end=False), []),
    (
        headers(1, [*request(b"/a", b"CONNECT"), (b":protocol", b"websocket\r\nx: y")], end=False),
        [],
    ),
    # No end.
    (post() + data(1, b"body") + f.rst_stream(1), []),
    (post((b"content-length", b"9")) + data(1, b"body") + f.rst_stream(1), []),
]


def frames_of(attack: bytes) -> list[bytes]:
    """Split bytes into frames."""
    frames = []
    while attack:
        size = 9 + int.from_bytes(attack[:3])
        frames.append(attack[:size])
        attack = attack[size:]
    return frames


@both_ways
@pytest.mark.parametrize("slowly", [False, True])
async def test_http_2(slowly: bool, way: str) -> None:
    """In one piece, and frame by frame, when the server has what came before."""
    async with fronted(echo, way=way) as front:
        bystanders = Bystanders(front)
        await bystanders.ask()
        for attack, expected in FRAMES:
            del front.upstream.requests[:]
            meanwhile = next(
                (MEANWHILE[word] for word in MEANWHILE if attack.startswith(word)), None
            )
            client = front.frames()
            for frame in frames_of(attack) if slowly else [attack]:
                if not client.transport.is_closing():
                    client.send(frame)
                await bystanders.ask()
            if expected:
                status, _, body = await client.answer(1)
                assert (status, [body]) == (200, answers_of(expected)), attack
            elif not attack.endswith(f.rst_stream(1)):
                try:
                    status, _, _ = await client.answer(1)
                    assert status >= 400 or (slowly and meanwhile), attack
                except ConnectionError:
                    pass
            await bystanders.ask()
            seen = seen_of(front)
            assert seen == expected or (slowly and seen == meanwhile), attack
            client.transport.lose()
        await bystanders.ask()
        assert not front.upstream.wrong


@both_ways
async def test_h2c(way: str) -> None:
    """An upgrade to HTTP/2 is of the client's connection alone: the server hears nothing of it."""
    async with fronted(echo, way=way) as front:
        connection = front.http1()
        connection.send(
            POST + b"Content-Length: 4\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nbody"
        )
        await front.upstream.wait(lambda: seen_of(front))
        assert seen_of(front) == [BODY]
        (seen,) = front.upstream.requests
        assert not {"upgrade", "http2-settings", "connection"} & {name for name, _ in seen.headers}
        # The server does not take it for one to HTTP/2 either, if it switches all the same.
        connection = front.http1()
        front.upstream.answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        )
        connection.send(GET + b"\r\n" + SMUGGLED)
        assert (await connection.response()).status == 502
        assert (await connection.response()).status == 502


@pytest.mark.parametrize(
    ("fields", "pieces", "scope", "expected"),
    [
        ({b"content-length": b"4"}, [b"body"], {}, [BODY]),
        ({b"content-length": b"4"}, [b"bo", b"dy"], {}, [BODY]),
        ({}, [b"bo", b"dy"], {}, [BODY]),
        ({b"content-length": b"4"}, [b"body" + SMUGGLED], {}, []),
        ({b"content-length": b"4"}, [b"bo", b"dy" + SMUGGLED], {}, []),
        ({b"content-length": b"9"}, [b"body"], {}, []),
        ({b"content-length": b"9"}, [b"bo", b"dy"], {}, []),
        ({b"content-length": b"4, 4"}, [b"body"], {}, []),
        ({b"transfer-encoding": b"chunked"}, [b"body"], {}, [BODY]),
        ({b"x: y\r\nz": b"a"}, [b""], {}, []),
        ({b"x": b"y\r\nz: a"}, [b""], {}, []),
        ({b"x": b"y\n"}, [b""], {}, []),
        ({b"x y": b"z"}, [b""], {}, []),
        ({b"x": b"y\x00"}, [b""], {}, []),
        ({}, [b""], {"method": "POST /smuggled HTTP/1.1\r\n"}, []),
        ({}, [b""], {"method": "CONNECT"}, []),
        ({}, [b""], {"raw_path": b"/a HTTP/1.1\r\nx: y"}, [A]),
        ({}, [b""], {"path": "/a\r\nx: y"}, [("POST", "/a%0D%0Ax:%20y", b"")]),
        ({}, [b""], {"client": ("1.2.3.4\r\nx: y", 5)}, [A]),
    ],
)
async def test_another_servers_word(
    fields: dict[bytes, bytes], pieces: list[bytes], scope: dict[str, Any], expected: Expected
) -> None:
    """A proxy in an application that another server runs is as strict as in ours."""
    messages = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1}
        for number, piece in enumerate(pieces)
    ]
    answers = []

    async def receive() -> Any:
        await asyncio.sleep(0)
        if messages:
            return messages.pop(0)
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        answers.append(message)

    whole: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "method": "POST",
        "scheme": "http",
        "path": "/a",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"x"), *fields.items()],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 80),
        **scope,
    }
    async with asyncio.timeout(5), ScriptedUpstream(echo) as upstream:
        app = Kyoukai("front")
        app.mount("/", Proxy(upstream.url))
        await as_asgi(app)(whole, receive, send)
        assert answers[0]["status"] == (200 if expected else 400)
        assert not upstream.wrong
        complete = [each for each in upstream.requests if each.complete]
        assert [(each.method, each.target, each.body) for each in complete] == expected
        for seen in complete:
            assert not {"x", "z"} & {name for name, _ in seen.headers}
            assert len(seen.all("content-length") + seen.all("transfer-encoding")) == 1
