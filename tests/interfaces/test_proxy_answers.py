"""
Answers that are more than one, or somebody else's: nobody gets what is not theirs.

The server here is a hostile one, or the client leaves the proxy with half of an exchange. Others
use the same connections to the server meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from backends.support import turns
from interfaces.proxy_peers import Bystanders, answers_to, both, both_ways, echo, fronted, seen_of
from upstreams import OK

X = b"Host: x\r\n"
POST = b"POST /a HTTP/1.1\r\n" + X
GET = b"GET /a HTTP/1.1\r\n" + X
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
S = ("GET", "/smuggled", b"")
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


#: What a server sends, and the status that the client gets; None for an answer that is cut.
ANSWERS = [
    ("GET", 200, OK + EVIL),
    ("GET", 200, OK + b"\r\n"),
    ("GET", 200, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL),
    ("GET", 204, b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n" % len(EVIL) + EVIL),
    ("GET", 304, b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n" % len(EVIL) + EVIL),
    ("HEAD", 200, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(EVIL) + EVIL),
    (
        "HEAD",
        200,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
    ),
    ("GET", 502, b"HTTP/1.1 200 OK\r\nX-A: b\rX-C: d\r\nContent-Length: 4\r\n\r\nevil"),
    ("GET", 502, b"HTTP/1.1 200 OK\r\nX-A: b\n\nevil\r\nContent-Length: 4\r\n\r\nevil"),
    ("GET", 502, b"HTTP/1.1 200 OK\r\nX-A: b\x00\r\nContent-Length: 4\r\n\r\nevil"),
    ("GET", 502, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 0\r\n\r\nevil"),
    (
        "GET",
        502,
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nevil",
    ),
    ("GET", 502, b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + EVIL),
    ("GET", 502, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, x\r\n\r\n" + EVIL),
    ("GET", 502, b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + EVIL),
    ("GET", 502, b"HTTP/1.1 100 C\r\n\r\n" * 40 + EVIL),
    ("GET", 502, b"HTTP/1.1 999 X\r\nContent-Length: 4\r\n\r\nevil"),
    ("GET", 502, b"evil"),
    ("GET", None, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevilXX" + EVIL),
    ("GET", None, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n" + EVIL),
]


def target(seen: Any) -> str:
    return str(seen.target)


@both
@both_ways
async def test_answers(way: str, http2: bool) -> None:
    """
    A client gets the answer, or 502, or one that is visibly cut; nobody else gets anything of it.
    """
    async with fronted(echo, way=way) as front:
        upstream, bystanders = front.upstream, Bystanders(front)
        await bystanders.ask()
        for number, (method, status, answer) in enumerate(ANSWERS * 2):  # some heads are known then
            upstream.answers = [answer]
            place = f"/evil/{number}"
            try:
                response = await front.ask(http2, method, place)
            except ConnectionError:
                assert status is None, answer
            else:
                assert response.status == status, answer
                assert b"evil" not in response.body
            wire = next(each for each in upstream.wires if place in map(target, each.requests))
            await asyncio.gather(wire.closed.wait(), bystanders.ask())
            assert wire.requests[-1].target == place, "the connection was used again"
        for place in ("/plain", "/plain"):
            assert (await front.ask(http2, target=place)).body == b"GET /plain "


@both
@both_ways
async def test_late_answers(way: str, http2: bool) -> None:
    """What comes when nobody has asked for it, or has left, is nobody's answer."""
    go = asyncio.Event()

    async def late(seen: Any, wire: Any) -> bytes:
        await go.wait()
        return EVIL

    async with fronted(echo, way=way) as front:
        bystanders = Bystanders(front)
        await bystanders.ask()
        # On idle connections.
        for wire in front.upstream.wires:
            await wire.send(EVIL)
        await asyncio.gather(*(wire.closed.wait() for wire in front.upstream.wires))
        await bystanders.ask()
        # After the client has left.
        front.upstream.answers = [late]
        if http2:
            exchange = front.http2().begin("GET", "/left", end=True)
        else:
            connection = front.http1()
            connection.request("GET", "/left")
        await front.upstream.wait(lambda: "/left" in map(target, front.upstream.requests))
        wire = next(each for each in front.upstream.wires if each.requests[-1].target == "/left")
        if http2:
            exchange.reset()
        else:
            connection.close()
        await turns()
        go.set()
        await asyncio.gather(wire.closed.wait(), bystanders.ask())
        assert wire.requests[-1].target == "/left"


@both
@both_ways
async def test_early_answers(way: str, http2: bool) -> None:
    """The rest of the body is on its way: neither side may take it for a request."""

    async def early(seen: Any, wire: Any) -> bytes | None:
        if seen.target != "/early":
            while await wire.body():
                pass
            return echo(seen)
        await wire.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
        while await wire.read():
            pass
        raise ConnectionResetError

    async with fronted(early, way=way) as front:
        bystanders = Bystanders(front)
        await bystanders.ask()
        for _ in range(2):
            if http2:
                client = front.http2()
                exchange = client.begin("POST", "/early", [("content-length", "30000")])
                exchange.data(SMUGGLED * 200)
                response = await exchange.finished()
                exchange.data(SMUGGLED, True)
                assert (await client.get("/x")).body == b"GET /x "
            else:
                connection = front.http1()
                connection.send(
                    POST.replace(b"/a", b"/early")
                    + b"Content-Length: 30000\r\n\r\n"
                    + SMUGGLED * 200,
                    "POST",
                )
                response = await connection.response()
                rest = SMUGGLED * 1000
                if not connection.transport.is_closing():
                    connection.send(rest[: 30000 - len(SMUGGLED) * 200] + GET + b"\r\n")
                answers = await answers_to(connection, 0)
                assert answers in ([], [b"GET /a "])
            assert (response.status, response.body) == (413, b"no")
            await bystanders.ask()
            assert S not in seen_of(front)
            early_ones = [
                each for each in front.upstream.wires if "/early" in map(target, each.requests)
            ]
            assert [each.requests[-1].target for each in early_ones] == ["/early"] * len(early_ones)


@both_ways
@pytest.mark.parametrize("refusal", [b"200 OK", b"400 Bad Request", b"426 Upgrade Required"])
async def test_a_handshake_that_is_refused(refusal: bytes, way: str) -> None:
    """What the client has sent for the tunnel is a request at most, to the proxy itself."""
    async with fronted(echo, way=way, half_closed=True) as front:
        bystanders = Bystanders(front)
        await bystanders.ask()
        del front.upstream.requests[:]
        front.upstream.answers = [b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nno" % refusal]
        connection = front.http1()
        connection.send(GET + UPGRADE + KEY + b"\r\n" + SMUGGLED)
        response = await connection.response()
        assert (response.status, response.body) == (int(refusal[:3]), b"no")
        answers = await answers_to(connection, 0)
        assert (seen_of(front), answers) in (
            ([("GET", "/a", b"")], []),
            ([("GET", "/a", b""), S], [b"GET /smuggled "]),
        )
        await bystanders.ask()


@both_ways
async def test_a_tunnel_is_not_used_again(way: str) -> None:
    """What comes through a tunnel is no request, and its connection never has another one."""

    async def switch(seen: Any, wire: Any) -> None:
        await wire.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        data = b""
        while piece := await wire.read():
            data += piece
        tunnelled.append(data)
        await wire.send(EVIL)
        raise ConnectionResetError

    tunnelled: list[bytes] = []
    async with fronted(echo, way=way) as front:
        bystanders = Bystanders(front)
        await bystanders.ask()
        front.upstream.answers = [switch]
        connection = front.http1()
        connection.send(GET + UPGRADE + KEY + b"\r\n" + SMUGGLED)
        assert (await connection.response()).status == 101
        connection.send(SMUGGLED)
        connection.transport.feed_eof()
        await connection.closed()
        assert connection.take_rest() == EVIL
        assert tunnelled == [SMUGGLED * 2]
        await bystanders.ask()
        assert S not in seen_of(front)
        wires = [each for each in front.upstream.wires if "/a" in map(target, each.requests)]
        assert [each.requests[-1].target for each in wires] == ["/a"]
