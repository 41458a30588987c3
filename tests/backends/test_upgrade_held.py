"""What comes behind a request for an upgrade on HTTP/1.1: held until the request is answered."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from kyoukai.exceptions import InvalidResponse, PeerGone, StreamStateError
from kyoukai.stream import CLOSED, IDLE, OPEN, StreamState
from kyoukai.testing import MemoryServer

from .support import (
    GOOD,
    Clock,
    Mirror,
    Stage,
    Tls,
    by_byte,
    connect,
    parse_answers,
    send_in_pieces,
    turns,
    whole,
)

ASK = b"GET /ask HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"

feeds = pytest.mark.parametrize("feed", [whole, by_byte])


def asking(*lines: str, method: str = "GET", connection: str = "Upgrade") -> bytes:
    """A request for an upgrade with more headers."""
    more = "".join(f"{line}\r\n" for line in lines)
    return (
        f"{method} /ask HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n"
        f"Upgrade: websocket\r\n{more}\r\n"
    ).encode()


async def drain(stream: StreamState, size: int) -> bytes:
    """Take so many bytes of a tunnel."""
    data = b""
    while len(data) < size:
        data += await stream.receive()
    return data


def deny(stream: StreamState, status: int = 403) -> Any:
    return stream.send_response(status, (), b"no")


# -- Denied and accepted -----------------------------------------------------------------------


@feeds
async def test_behind_a_denial_comes_the_next_request(feed: Any) -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        send_in_pieces(connection, feed(ASK + NEXT + b"POST /b HTTP/1.1\r\nHost: a\r\n"))
        stream = await stage.next()
        assert (stream.upgradable, stream.receiving) == (True, CLOSED)
        await turns()
        assert stage.streams.empty()
        await deny(stream)
        stage.leave(stream)
        assert (await stage.answer()).head.path == "/next"
        send_in_pieces(connection, feed(b"Content-Length: 2\r\n\r\nhi" + ASK + GOOD))
        last = await stage.next()
        assert await last.read_async() == b"hi"
        await last.send_response(200, (), b"b")
        stream = await stage.next()
        assert stream.upgradable
        await deny(stream, 404)
        assert (await stage.answer()).head.path == "/good"
        statuses = [status for status, _, _ in parse_answers(connection.transport.take())]
        assert statuses == [403, 200, 200, 404, 200]
        assert not connection.transport.closed


@feeds
async def test_behind_an_acceptance_come_the_tunnels_bytes(feed: Any) -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        send_in_pieces(connection, feed(ASK + NEXT))
        stream = await stage.next()
        stream.accept_upgrade(())
        send_in_pieces(connection, feed(NEXT))
        assert await drain(stream, 2 * len(NEXT)) == 2 * NEXT
        await turns()
        assert connection.transport.take() == SWITCHED
        assert stage.streams.empty()
        assert (stream.sending, stream.receiving, stream.status) == (OPEN, OPEN, 101)


async def test_a_request_for_an_upgrade_behind_others() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(GOOD * 2 + ASK + b"tunnelled")
        first = await stage.next()
        await turns()
        assert stage.streams.empty()
        await first.send_response(200, (), b"1")
        await (await stage.next()).send_response(200, (), b"2")
        stream = await stage.next()
        stream.accept_upgrade(((b"x-a", b"1"),))
        assert await drain(stream, 9) == b"tunnelled"
        output = connection.transport.take()
        assert output.endswith(SWITCHED[:-2] + b"x-a: 1\r\n\r\n")
        answers = parse_answers(output[: output.index(SWITCHED[:-2])])
        assert [body for _, _, body in answers] == [b"1", b"2"]


@pytest.mark.parametrize("seed", range(60))
async def test_random_pipelines(seed: int) -> None:
    """Whatever the cuts, requests for upgrades that are denied change nothing for the rest."""
    rng = random.Random(seed)
    parts, expected = [], []
    for number in range(rng.randrange(2, 9)):
        kind = rng.randrange(4)
        path = b"/%d" % number
        if kind == 0:
            parts.append(ASK.replace(b"/ask", path))
        elif kind == 1:
            parts.append(
                asking("Content-Length: 3", method="POST").replace(b"/ask", path) + ASK[:3]
            )
        elif kind == 2:
            parts.append(
                asking("Transfer-Encoding: chunked").replace(b"/ask", path)
                + b"3\r\nGET\r\n0\r\n\r\n"
            )
        else:
            parts.append(NEXT.replace(b"/next", path))
        body = b"GET" if kind in (1, 2) else b""
        expected.append((b"POST " if kind == 1 else b"GET ") + path + b" " + body)
    data = b"".join(parts)
    async with MemoryServer(Mirror()) as server:
        connection = connect(server)
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 5, 30))))
        for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
            connection.send(data[start:stop])
            if rng.random() < 0.5:
                await turns(rng.randrange(8))
        await turns(60)
        found = [body for _, _, body in parse_answers(connection.transport.take())]
        assert found == expected
        assert not connection.transport.closed


# -- Much of it --------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1000, 70_000, 300_000])
async def test_what_is_held_is_bounded(piece: int) -> None:
    size = 1_000_000
    data = random.Random(1).randbytes(size)
    stage = Stage()
    async with MemoryServer(stage, read_buffer_size=10_000) as server:
        connection = connect(server)
        connection.send(ASK)
        stream = await stage.next()
        for start in range(0, size, piece):
            connection.send(data[start : start + piece])
        await turns()
        assert size - connection.transport.untaken <= 10_000 + min(piece, 262_144)
        stream.accept_upgrade(())
        await turns()
        assert connection.transport.untaken > 0  # still nobody takes it
        assert await drain(stream, size) == data
        assert connection.transport.untaken == 0
        connection.send(b"more")
        assert await stream.receive() == b"more"


async def test_much_that_is_held_turns_out_to_be_requests() -> None:
    stage = Stage()
    count = 400
    async with MemoryServer(stage, read_buffer_size=2000) as server:
        connection = connect(server)
        connection.send(ASK)
        stream = await stage.next()
        for _ in range(count):
            connection.send(NEXT)
        assert connection.transport.untaken > 0
        await deny(stream)
        for _ in range(count):
            await stage.answer()
        assert len(parse_answers(connection.transport.take())) == count + 1
        assert connection.transport.untaken == 0


async def test_a_head_that_is_too_large_behind_a_denial() -> None:
    stage = Stage()
    async with MemoryServer(stage, max_head_size=1000) as server:
        connection = connect(server)
        connection.send(ASK + b"GET / HTTP/1.1\r\nX: " + b"x" * 5000)
        await turns()
        stream = await stage.next()
        await deny(stream)
        await turns()
        statuses = [status for status, _, _ in parse_answers(connection.transport.take())]
        assert statuses == [403, 431]
        assert connection.transport.eof_written


# -- The end while it is held ------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"tunnelled"])
async def test_a_client_that_ends_before_the_acceptance(data: bytes) -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(ASK + data)
        connection.transport.feed_eof()
        stream = await stage.next()
        await turns()
        assert not connection.transport.is_closing()
        stream.accept_upgrade(())
        assert await drain(stream, len(data)) == data
        assert await stream.receive() == b""
        assert stream.receiving is CLOSED
        await stream.send_data(b"last")
        await stream.end()
        await turns()
        assert connection.transport.take() == SWITCHED + b"last"
        assert connection.transport.closed
        assert not connection.transport.aborted


async def test_a_client_that_ends_before_the_denial() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(ASK + NEXT)
        connection.transport.feed_eof()
        await deny(await stage.next())
        await stage.answer()
        await turns()
        statuses = [status for status, _, _ in parse_answers(connection.transport.take())]
        assert statuses == [403, 200]
        assert connection.transport.closed


@pytest.mark.parametrize("tls", [False, True])
async def test_a_client_that_is_lost_while_it_waits(tls: bool) -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server, **({"ssl_object": Tls()} if tls else {}))
        connection.send(ASK + b"held")
        stream = await stage.next()
        if tls:
            connection.transport.feed_eof()  # there is no half-closed connection
        else:
            connection.transport.lose()
        await turns()
        assert stage.cancelled == [stream]
        with pytest.raises(PeerGone):
            stream.accept_upgrade(())
        assert not server.connections.open


@pytest.mark.parametrize("accepts", [True, False])
async def test_the_server_stops_while_it_is_held(accepts: bool) -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(ASK)
        stream = await stage.next()
        server.connections.shutdown()
        await turns()
        assert not connection.transport.is_closing()
        if accepts:
            stream.accept_upgrade(())
            connection.send(b"data")
            assert await stream.receive() == b"data"
            await stream.end()
            await turns()
            assert connection.transport.take() == SWITCHED
        else:
            await deny(stream)
            await turns()
            ((status, headers, _),) = parse_answers(connection.transport.take())
            assert (status, headers[b"connection"]) == (403, b"close")
        assert connection.transport.closed or connection.transport.eof_written


@pytest.mark.parametrize("wanted", ["upgrade, close", "close, Upgrade"])
async def test_a_connection_that_closes_after_a_denial(wanted: str) -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(asking(connection=wanted) + NEXT)
        await deny(await stage.next())
        await turns()
        ((status, headers, _),) = parse_answers(connection.transport.take())
        assert (status, headers[b"connection"]) == (403, b"close")
        assert stage.streams.empty()
        assert connection.transport.eof_written
        connection = connect(server)
        connection.send(asking(connection=wanted) + b"data")
        stream = await stage.next()
        stream.accept_upgrade(())
        assert await stream.receive() == b"data"
        assert connection.transport.take() == SWITCHED


async def test_the_last_request_of_a_connection() -> None:
    stage = Stage()
    async with MemoryServer(stage, max_requests_per_connection=2) as server:
        connection = connect(server)
        connection.send(GOOD + ASK + NEXT)
        await stage.answer()
        await deny(await stage.next())
        await turns()
        answers = parse_answers(connection.transport.take())
        assert [headers.get(b"connection") for _, headers, _ in answers] == [None, b"close"]
        assert connection.transport.eof_written
        assert stage.streams.empty()
        connection = connect(server)
        connection.send(GOOD + ASK + NEXT)
        await stage.answer()
        stream = await stage.next()
        stream.accept_upgrade(())
        assert await drain(stream, len(NEXT)) == NEXT


async def test_time_outs() -> None:
    """Neither those of heads nor of idle connections count while it is held, nor in a tunnel."""
    settings = {"header_timeout": 1, "keep_alive_timeout": 1, "min_body_grace": 1}
    stage = Stage()
    async with MemoryServer(stage, **settings) as server:
        clock = Clock()
        connection = connect(server)
        connection.send(ASK + b"GET /part")
        stream = await stage.next()
        await clock.advance(60, step=0.5)
        assert not connection.transport.is_closing()
        await deny(stream)
        await clock.advance(1.5, step=0.5)
        statuses = [status for status, _, _ in parse_answers(connection.transport.take())]
        assert statuses == [403, 408]
        connection = connect(server)
        connection.send(ASK)
        stream = await stage.next()
        stream.accept_upgrade(())
        await clock.advance(60, step=0.5)
        assert not connection.transport.is_closing()
        connection = connect(server)
        connection.send(ASK)
        await deny(await stage.next())
        await clock.advance(1.5, step=0.5)
        assert connection.transport.closed  # an idle one, as after any answer


# -- What is no upgrade ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        asking("Content-Length: 4", method="POST") + b"GET ",
        asking("Content-Length: 4") + b"GET ",
        asking("Transfer-Encoding: chunked") + b"4\r\nGET \r\n0\r\n\r\n",
        asking("Transfer-Encoding: chunked", method="PUT") + b"4\r\nGET \r\n0\r\n\r\n",
        asking(method="HEAD"),
        asking(method="OPTIONS"),
        ASK.replace(b"websocket", b"other"),
        ASK.replace(b"Upgrade\r\n", b"other\r\n", 1),
    ],
)
@feeds
async def test_what_is_no_upgrade(data: bytes, feed: Any) -> None:
    """It is a request as any other: its body is a body, and the next request follows it."""
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        send_in_pieces(connection, feed(data + NEXT))
        stream = await stage.next()
        assert not stream.upgradable
        with pytest.raises(StreamStateError, match="no upgrade"):
            stream.accept_upgrade(())
        assert stream.sending is IDLE
        assert await stream.read_async() == (
            b"GET " if b"GET \r" in data or data[-1:] == b" " else b""
        )
        await stream.send_response(200, (), b"")
        assert (await stage.answer()).head.path == "/next"


async def test_h2c_beside_a_websocket_is_not_taken() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        for upgrade in b"h2c, websocket", b"websocket, h2c":
            connection = connect(server)
            settings = b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
            connection.send(ASK.replace(b"websocket", upgrade)[:-2] + settings + NEXT)
            stream = await stage.next()
            assert stream.head.protocol == "websocket"
            assert stream.head.http_version == "1.1"
            await deny(stream)
            await stage.answer()
            statuses = [status for status, _, _ in parse_answers(connection.transport.take())]
            assert statuses == [403, 200]


async def test_an_acceptance_that_is_not_legal() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(ASK)
        stream = await stage.next()
        for name, value in (b"x a", b"1"), (b"x-a", b"1\r\nx-b: 2"), (b"content-length", b"0"):
            with pytest.raises(InvalidResponse):
                stream.accept_upgrade(((name, value),))
        assert connection.transport.take() == b""
        stream.accept_upgrade(())
        with pytest.raises(StreamStateError):
            stream.accept_upgrade(())
        with pytest.raises(StreamStateError):
            await deny(stream)
        assert connection.transport.take() == SWITCHED


async def test_an_answer_that_comes_in_parts() -> None:
    """An application that knows of no upgrades answers as ever, while the next request waits."""
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(ASK + NEXT)
        stream = await stage.next()
        stream.send_informational(103)
        stream.send_head(200, ())
        await stream.send_data(b"some ")
        with pytest.raises(StreamStateError):
            stream.accept_upgrade(())
        await stream.send_data(b"more")
        await stream.end()
        await stage.answer()
        answers = parse_answers(connection.transport.take())
        assert [(status, body) for status, _, body in answers] == [
            (103, b""),
            (200, b"some more"),
            (200, b"ok"),
        ]


async def test_an_application_that_is_slow_to_deny_many() -> None:
    """Requests for upgrades in one pipeline, each held behind the one before."""
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(ASK * 30 + NEXT)
        for _ in range(30):
            stream = await stage.next()
            await turns(3)
            assert stage.streams.empty()
            await deny(stream)
        assert (await stage.answer()).head.path == "/next"
        assert len(parse_answers(connection.transport.take())) == 31


async def test_the_stage_is_left() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(ASK)
        stream = await stage.next()
        stream.accept_upgrade(())
        reading = asyncio.ensure_future(stream.receive())
        await turns()
        server.connections.abort()
        await asyncio.wait((reading,))
        assert isinstance(reading.exception(), PeerGone)
    assert stage.left == [stream]
