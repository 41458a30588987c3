"""Heads that come again: the same as if the parser had seen each, whatever the request line."""

from __future__ import annotations

import random
import re

import pytest

from kyoukai.backends.http1_heads import HeadMemory
from kyoukai.stream import StreamState
from kyoukai.testing import MemoryServer

from .support import Mirror, Stage, connect, turns

SECTION = b"\r\nHost: a\r\nAccept: */*\r\nCookie: a=b\r\n\r\n"

LINES = [
    b"GET / HTTP/1.1",
    b"GET /a%20b?c=d&e HTTP/1.1",
    b"GET /? HTTP/1.1",
    b"GET //a?/b HTTP/1.1",
    b"HEAD /a HTTP/1.1",
    b"DELETE /a HTTP/1.1",
    b"POST /a HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"GET * HTTP/1.1",
    b"GET /a#b HTTP/1.1",
    b'GET /"<>\\^`{|} HTTP/1.1',
    b"GET /\xc3\xa4 HTTP/1.1",
    b"GET http://b/a HTTP/1.1",
    b"GET http://a HTTP/1.1",
    b"GET / HTTP/1.0",
    b"GET / HTTP/1.2",
    b"GET / HTTP/2.0",
    b"GET /",
    b"GET  / HTTP/1.1",
    b"GET /a b HTTP/1.1",
    b"GET / HTTP/1.1 ",
    b"GET /\tHTTP/1.1",
    b"get / HTTP/1.1",
    b"CONNECT a:1 HTTP/1.1",
    b"BREW / HTTP/1.1",
    b"GET /%zz HTTP/1.1",
    b"GET /" + b"x" * 9000 + b" HTTP/1.1",
    b"",
]


async def outcome(*requests: bytes) -> tuple[object, object]:
    """Return what became of the last request of a connection."""
    heads = []

    async def app(stream: StreamState) -> None:
        head = stream.head
        heads.append([getattr(head, name) for name in head.__slots__])
        await stream.send_response(200, ((b"content-type", b"text/plain"),), b"ok")

    async with MemoryServer(app) as server:
        connection = connect(server)
        for request in requests:
            connection.transport.take()
            heads.clear()
            connection.send(request)
            await turns()
        written = re.sub(rb"date: [^\r]*", b"", connection.transport.take())
        return heads, (written, connection.transport.eof_written, connection.transport.closed)


@pytest.mark.parametrize("line", LINES)
async def test_a_line_with_headers_that_came_before(line: bytes) -> None:
    first = b"GET /first HTTP/1.1" + SECTION
    assert await outcome(first, first, line + SECTION) == await outcome(
        # With a header that was not there before, the parser sees it.
        b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n",
        line + SECTION,
    )


@pytest.mark.parametrize("seed", range(3))
async def test_lines_by_chance(seed: int) -> None:
    chance = random.Random(seed)
    first = b"GET /first HTTP/1.1" + SECTION
    for _ in range(150):
        line = bytearray(chance.choice(LINES[:10]))
        for _ in range(chance.randrange(1, 3)):
            line[chance.randrange(len(line))] = chance.choice(b"\0\t !#%/?\\\x7f\x80\xffAaz~")
        request = bytes(line) + SECTION
        expected = await outcome(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n", request)
        assert await outcome(first, request) == expected, request


async def test_each_request_has_a_head_of_its_own() -> None:
    async with MemoryServer(Stage()) as server:
        stage = server.interface
        connection = connect(server)
        for number in range(4):
            connection.send(b"GET /%d?q HTTP/1.1" % number + SECTION)
            stream = await stage.next()  # type: ignore[attr-defined]
            assert stream.head.target == b"/%d?q" % number
            assert len(stream.head.headers) == 3
            stream.head.headers.append((b"x-added", b"by a handler"))
            await stream.send_response(200, ())
            stage.leave(stream)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "headers",
    [
        b"Connection: close\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    ],
)
async def test_what_decides_over_body_or_connection_is_parsed_each_time(headers: bytes) -> None:
    request = b"GET /%d HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n"
    ends = b"0\r\n\r\n" if b"chunked" in headers else b""
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        for number in range(3):
            connection.send(request % number + ends)
            await turns()
        count = 1 if b"close" in headers else 3
        assert app.paths == [f"/{number}" for number in range(count)]
        memory = connection.transport.protocol._memory  # type: ignore[attr-defined]
        assert memory.recall(request % 9) is None


async def test_what_is_remembered_is_bounded() -> None:
    async with MemoryServer(Mirror()) as server:
        connection = connect(server)
        memory: HeadMemory = connection.transport.protocol._memory  # type: ignore[attr-defined]
        for number in range(20):
            connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-N: %d\r\n\r\n" % number)
            assert (await connection.response()).status == 200
        assert len(memory._known) == 4
        assert memory.recall(b"GET / HTTP/1.1\r\nHost: a\r\nX-N: 19\r\n\r\n") is not None
        assert memory.recall(b"GET / HTTP/1.1\r\nHost: a\r\nX-N: 15\r\n\r\n") is None
        large = b"GET / HTTP/1.1\r\nHost: a\r\nX-N: %s\r\n\r\n" % (b"x" * 3000)
        connection.send(large)
        assert (await connection.response()).status == 200
        assert memory.recall(large) is None


async def test_a_host_that_a_1_0_request_needs_not_is_not_invented_for_1_1() -> None:
    async with MemoryServer(Mirror()) as server:
        connection = connect(server)
        connection.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await connection.response()).status == 200
        connection.send(b"GET /b HTTP/1.1\r\nConnection: keep-alive\r\n\r\n")
        assert (await connection.response()).status == 400
