"""
Mutated requests, fed whole and in random pieces: whatever comes, the server answers or closes.

The seeds are fixed. Both ways of feeding must lead to the same answers: a difference between them
is how requests are smuggled.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest

from kyoukai.exceptions import BodyError, BodyTooLarge
from kyoukai.stream import CLOSED, StreamState
from kyoukai.testing import MemoryServer

from .support import GOOD, Clock, Tls, connect, parse_answers, turns

REQUESTS = [
    GOOD,
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"a;x=y\r\n0123456789\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
    b"GET /d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST /e HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Content-Length: 4\r\n\r\nGET ",
    b"POST /f HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    b"POST /g HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"GET http://b:81/h?x=%20 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
    b"DELETE /early HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n01234567890123456789",
    b"POST /early HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"\r\nPUT /i HTTP/1.1\r\nHost: a\r\nX_A: b\r\nConnection: close\r\n\r\n",
]
PIECES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\t", b",", b";", b"0\r\n\r\n", b"\r\n\r\n",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Connection: upgrade\r\n", b"Upgrade: x\r\n", b"Host: b\r\n", b"HTTP/1.0", b"-", b"+", b"\xff",
    b"Expect: 100-continue\r\n", b"ffffffffffffffff", b"GET / HTTP/1.1\r\n", b"%", b"#",
    b"?", b"//",
]  # fmt: skip


def mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(changed) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            changed[place:place] = rng.choice(PIECES)
        elif kind == 1:
            del changed[place : place + rng.randrange(1, 6)]
        elif kind == 2 and place < len(changed):
            changed[place] = rng.randrange(256)
        elif kind == 3:
            changed[place : place + 2] = rng.choice(PIECES)
        else:
            other = rng.choice(REQUESTS)
            changed[place:place] = other[: rng.randrange(len(other))]
        if not changed:
            changed += GOOD
    return bytes(changed)


def split(rng: random.Random, data: bytes) -> Iterator[bytes]:
    most = rng.choice((1, 3, 20, 200))
    while data:
        size = rng.randrange(1, most + 1)
        yield data[:size]
        data = data[size:]


async def application(stream: StreamState) -> None:
    head = stream.head
    assert head.headers[0][0] == b"host"
    assert all(name == name.lower() and b"_" not in name for name, _ in head.headers)
    answer = b"%b %b %b" % (head.method.encode(), head.target, head.authority.encode())
    if head.path != "/early":
        try:
            answer += b" " + await stream.read_async()
        except BodyError as error:
            await stream.send_response(error.status, (), b"broken")
            return
        answer += b"".join(b" %b=%b" % pair for pair in stream.trailers)
    await stream.send_response(200, (), answer)


async def outcome(data: bytes, pieces: Any, settle_between: bool, **settings: Any) -> Any:
    server = MemoryServer(application, access_log=True, **settings)
    transport = connect(server).transport
    for piece in pieces:
        transport.feed(piece)
        if settle_between:
            await turns(3)
    await turns(12)
    for _ in range(20):
        if transport._pending or server.connections.tasks:
            await turns(12)
    transport.feed_eof()
    await turns(12)
    assert transport.closed, "the client has left, and the connection stays"
    assert not server.connections.tasks
    assert not server.connections.open
    methods = [stream.head.method for stream in server.logged if stream.status]
    assert len({id(stream) for stream in server.logged}) == len(server.logged)
    return [
        (status, headers.get(b"connection"), body)
        for status, headers, body in parse_answers(transport.take(), methods)
        if status >= 200
    ]


@pytest.mark.parametrize("seed", range(6))
async def test_mutated_requests(seed: int) -> None:
    rng = random.Random(seed)
    statuses = set()
    for _ in range(200):
        data = b"".join(
            mutate(rng, rng.choice(REQUESTS)) for _ in range(rng.randrange(1, 4))
        ) + rng.choice((b"", GOOD))
        expected = await outcome(data, [data], False)
        pieces = list(split(rng, data))
        assert await outcome(data, pieces, False) == expected, (data, pieces)
        statuses.update(answer[0] for answer in expected)
    assert {200, 400} <= statuses


@pytest.mark.parametrize("seed", range(2))
async def test_mutated_requests_with_answers_in_between(seed: int) -> None:
    rng = random.Random(100 + seed)
    small = {"max_pipelined": 1, "read_buffer_size": 1024, "max_head_size": 512}
    for _ in range(60):
        data = b"".join(mutate(rng, rng.choice(REQUESTS)) for _ in range(rng.randrange(1, 4)))
        await outcome(data, split(rng, data), True, **small)
        await outcome(data, [data], True, **small)


@pytest.mark.parametrize("seed", range(2))
async def test_requests_and_then_a_half_close(seed: int) -> None:
    """A client that closes its direction gets the same answers as one that does not."""
    rng = random.Random(300 + seed)
    for _ in range(120):
        data = b"".join(
            mutate(rng, rng.choice(REQUESTS)) if rng.random() < 0.2 else rng.choice(REQUESTS)
            for _ in range(rng.randrange(1, 6))
        )
        expected = [answer[:2] for answer in await outcome(data, [data], False)]
        server = MemoryServer(application, access_log=True, max_pipelined=rng.choice((1, 2, 16)))
        transport = connect(server).transport
        for piece in split(rng, data):
            transport.feed(piece)
        transport.feed_eof()
        for _ in range(20):
            if not transport.closed:
                await turns()
        assert transport.closed
        assert not server.connections.tasks
        methods = [stream.head.method for stream in server.logged if stream.status]
        answers = parse_answers(transport.take(), methods)
        got = [(answer[0], answer[1].get(b"connection")) for answer in answers if answer[0] >= 200]
        assert got == expected, data


@pytest.mark.parametrize("seed", range(2))
async def test_connections_lost_anywhere(seed: int) -> None:
    rng = random.Random(200 + seed)
    for _ in range(80):
        data = b"".join(rng.choice(REQUESTS) for _ in range(4))
        server = MemoryServer(application, access_log=True)
        transport = connect(server).transport
        for piece in split(rng, data[: rng.randrange(len(data))]):
            transport.feed(piece)
            await turns(rng.randrange(3))
        transport.lose(rng.choice((None, ConnectionResetError())))
        await turns()
        assert not server.connections.tasks
        assert not server.connections.open
        assert len({id(stream) for stream in server.logged}) == len(server.logged)


# -- Whole lives -------------------------------------------------------------------------------

LONG = [
    b"POST /u HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000),
    b"POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    + (b"1000\r\n" + bytes(4096) + b"\r\n") * 40
    + b"0\r\nX-T: y\r\n\r\n",
    b"POST /w HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + bytes(100),
    b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n",
]


class Whims:
    """An application that reads, waits and answers as chance will have it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    async def __call__(self, stream: StreamState) -> None:
        rng = self.rng
        stream.cancel_on_disconnect = rng.random() < 0.9
        try:
            for _ in range(rng.randrange(6)):
                await self.take(stream, rng.randrange(7))
        except (BodyError, TimeoutError):
            pass
        if rng.random() < 0.6:
            body = bytes(rng.choice((0, 10, 70_000, 300_000)))
            await stream.send_response(rng.choice((200, 204, 304, 404)), ((b"x-a", b"b"),), body)
        else:
            length = [(b"content-length", b"6000")] if rng.random() < 0.4 else []
            stream.send_head(rng.choice((200, 404)), length)
            for _ in range(6):
                await stream.send_data(bytes(1000))
                await asyncio.sleep(rng.choice((0, 0, 1)))
            await stream.end([(b"x-t", b"y")] if rng.random() < 0.3 else ())
        if rng.random() < 0.1:
            await asyncio.sleep(50)

    async def take(self, stream: StreamState, step: int) -> None:
        if step == 0:
            await asyncio.sleep(self.rng.choice((0, 1, 20, 100)))
        elif step == 1:
            await stream.receive()
        elif step == 2:
            try:
                stream.set_body_limit(self.rng.choice((100, 100_000)))
            except BodyTooLarge:
                pass
        elif step == 3:
            stream.send_informational(103, [(b"link", b"x")])
        elif step == 4 and self.rng.random() < 0.3:
            await stream.read_async()
        elif step == 5 and self.rng.random() < 0.3:
            async with asyncio.timeout(5):
                await stream.receive()
        elif step == 6 and self.rng.random() < 0.05:
            stream.reset()


async def live(rng: random.Random, clock: Clock) -> None:
    server = MemoryServer(
        Whims(rng),
        access_log=True,
        max_pipelined=rng.choice((1, 2, 16)),
        read_buffer_size=rng.choice((1024, 65536)),
        write_buffer_size=rng.choice((1024, 65536)),
    )
    extra = {"ssl_object": Tls()} if rng.random() < 0.2 else {}
    transport = connect(server, **extra).transport
    data = b"".join(rng.choice(REQUESTS + LONG) for _ in range(rng.randrange(1, 6)))
    if rng.random() < 0.3:
        data = mutate(rng, data)
    output = b""
    most = rng.choice((50, 5000, 100_000))
    while data and not transport.is_closing():
        action = rng.randrange(40)
        if action < 24:
            size = rng.randrange(1, most)
            transport.feed(data[:size])
            data = data[size:]
        elif action < 26:
            transport.hold()
        elif action < 28:
            output += transport.release()
        elif action < 30:
            await clock.advance(rng.choice((0.1, 1, 3, 20)))
        elif action == 30 and rng.random() < 0.2:
            server.connections.shutdown()
        elif action == 31 and rng.random() < 0.2:
            transport.feed_eof()
        elif action == 32 and rng.random() < 0.2:
            transport.lose(ConnectionResetError())
        else:
            await turns(rng.randrange(5))
    output += transport.release()
    for _ in range(12):  # every time-out has its chance, and the client takes what comes
        await clock.advance(30, 5)
        output += transport.release()
        if transport.closed:
            break
        if rng.random() < 0.2:
            transport.feed_eof()
    assert transport.closed, "the connection hangs"
    for _ in range(10):
        if server.connections.tasks:
            await clock.advance(30, 10)
    assert not server.connections.tasks
    assert not server.connections.open
    assert len({id(stream) for stream in server.logged}) == len(server.logged)
    methods = [stream.head.method for stream in server.logged if stream.status]
    cut = transport.aborted or any(
        stream.sending is not CLOSED for stream in server.logged if stream.status
    )
    if not cut:
        parse_answers(output, methods)


@pytest.mark.parametrize("seed", range(3))
async def test_whole_lives_of_connections(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Reading, pausing, waiting, stopping and leaving in any order: nothing hangs or is left."""
    clock = Clock()
    for each in range(150):
        await live(random.Random(seed * 1000 + each), clock)
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert not errors, (seed, each)
