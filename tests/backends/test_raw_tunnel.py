"""
Raw tunnels: bytes both ways, each direction with an end of its own, whatever the wire.

How they are cut, and what else may happen to them, is in ``test_raw_tunnel_ends.py``, and what only
a kernel can show in ``test_raw_tunnel_sockets.py``.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kyoukai.exceptions import PeerGone, StreamStateError
from kyoukai.stream import CLOSED, OPEN
from kyoukai.testing import MemoryServer

from .raw import SHORT, Raw, pattern, raw_tunnel
from .support import Clock, Stage, Tls, connect, parse_answers, turns
from .wires import Http1Line, Http2Line, both

# -- Bytes -------------------------------------------------------------------------------------


@both
async def test_both_talk_first(wire: Any) -> None:
    early, late = pattern(30_000), pattern(20_000)
    async with raw_tunnel(wire, early) as raw:
        await raw.stream.send_data(b"server first")
        raw.line.send(late)
        raw.line.end()
        assert await raw.receive_all() == early + late
        await turns()
        assert raw.line.data == b"server first"
        assert raw.stream.received == 50_000
        await raw.stream.send_data(memoryview(b" and last"))
        await raw.stream.end()
        await turns()
        assert raw.line.data == b"server first and last"
        assert raw.line.ended
        assert not raw.line.cut
        assert raw.stream.bytes_sent == 21
        await raw.ends()


@both
async def test_both_talk_at_once_and_take_little(wire: Any) -> None:
    size = 3_000_000
    up, down = pattern(size), pattern(size)[::-1]
    limits = {"read_buffer_size": 20_000, "h2_stream_window": 20_000, "write_buffer_size": 20_000}
    async with raw_tunnel(wire, **limits) as raw:
        stream, line = raw.stream, raw.line
        sent = 0

        async def send() -> None:
            nonlocal sent
            for start in range(0, size, 7001):
                await stream.send_data(down[start : start + 7001])
                sent += 7001
            await stream.end()

        line.hold()
        sending = asyncio.ensure_future(send())
        for start in range(0, size, 9001):
            line.send(up[start : start + 9001])
        await turns(60)
        assert not sending.done()
        assert sent <= 20_000 + 65535 + 2 * 7001  # and no more, as nobody takes it
        assert stream.buffered <= 20_000 + 9001
        assert size - line.untaken <= 20_000 + 65535 + 9001
        heard = b""
        for turn in range(100_000):
            if len(heard) == size and sending.done():
                break
            if turn % 7 == 0:
                line.release()
                await turns(2)
                line.hold()
            if len(heard) < size and stream.buffered:
                heard += await stream.receive()
                assert stream.buffered <= 20_000 + 9001
            await turns(1)
        line.release()
        await turns()
        assert heard == up
        assert line.data == down
        assert line.ended
        assert stream.receiving is OPEN
        line.end()
        assert await stream.receive() == b""
        await raw.ends()


@both
async def test_a_limit_of_bodies_does_not_count(wire: Any) -> None:
    stage = Stage()
    async with MemoryServer(stage, wire.protocol_class) as server:
        line = wire(server)
        line.ask()
        stream = await stage.next()
        stream.set_body_limit(10)
        stream.accept_upgrade(())
        line.send(b"more than ten bytes")
        assert await stream.receive() == b"more than ten bytes"


async def test_a_body_that_was_asked_for_before_hides_nothing() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        line = Http1Line(server)
        line.ask(after=b"bytes")
        stream = await stage.next()
        assert stream.receiving is CLOSED  # a GET has no body
        await stream.receive_body(100)
        assert await stream.receive() == b""
        stream.accept_upgrade(())
        assert stream.receiving is OPEN
        assert await stream.receive() == b"bytes"


async def test_requests_before_a_tunnel_are_answered() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(
            b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n"
            b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\ntunnelled"
        )
        await stage.answer()
        stream = await stage.next()
        stream.accept_upgrade(())
        assert await stream.receive() == b"tunnelled"
        await stream.send_data(b"bytes")
        answer, _, rest = connection.transport.take().partition(b"HTTP/1.1 101")
        assert [status for status, _, _ in parse_answers(answer)] == [200]
        assert rest.endswith(b"\r\n\r\nbytes")


# -- The acceptance ----------------------------------------------------------------------------


async def test_what_the_acceptance_says() -> None:
    """The wire's own headers come first, the others in their order, whoever has made them."""
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, UPGRADE\r\n"
            b"Upgrade: h2c, WebSocket\r\n\r\n"
        )
        stream = await stage.next()
        assert stream.head.protocol == "websocket"
        stream.accept_upgrade(
            (
                (b"Server", b"other"),
                (b"Connection", b"upgrade, x"),
                (b"Date", b"today"),
                (b"Upgrade", b"x"),
                (b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            )
        )
        assert connection.transport.take() == (
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\n"
            b"Server: other\r\nDate: today\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )


async def test_what_the_acceptance_says_on_http2() -> None:
    stage = Stage()
    async with MemoryServer(stage, Http2Line.protocol_class) as server:
        line = Http2Line(server)
        line.ask()
        stream = await stage.next()
        assert stream.receiving is OPEN
        stream.accept_upgrade(((b"Server", b"other"), (b"Connection", b"upgrade"), (b"X-A", b"1")))
        await turns()
        assert line.status == 200
        assert line.headers["server"] == "other"
        assert line.headers["x-a"] == "1"
        assert "connection" not in line.headers


# -- Half-closed -------------------------------------------------------------------------------


@both
async def test_the_client_ends_first(wire: Any) -> None:
    async with raw_tunnel(wire, **SHORT) as raw:
        raw.line.send(b"all")
        raw.line.end()
        assert await raw.receive_all() == b"all"
        assert (raw.stream.sending, raw.stream.receiving) == (OPEN, CLOSED)
        await Clock().advance(30, step=0.5)
        await raw.stream.send_data(b"still here")
        await turns()
        assert raw.line.data == b"still here"
        assert not raw.line.ended
        assert raw.server.logged == []
        await raw.stream.end()
        await turns()
        assert raw.line.ended
        assert not raw.line.cut
        await raw.ends()


@both
async def test_the_server_ends_first(wire: Any) -> None:
    data = pattern(300_000)
    limits = {"read_buffer_size": 10_000, "h2_stream_window": 20_000}
    async with raw_tunnel(wire, **SHORT, **limits) as raw:
        stream, line = raw.stream, raw.line
        await stream.send_data(b"all")
        await stream.end()
        await turns()
        assert line.data == b"all"
        assert line.ended
        assert (stream.sending, stream.receiving) == (CLOSED, OPEN)
        with pytest.raises(StreamStateError):
            await stream.send_data(b"more")
        with pytest.raises(StreamStateError):
            await stream.end()
        clock = Clock()
        await clock.advance(30, step=0.5)
        for start in range(0, len(data), 10_000):
            line.send(data[start : start + 10_000])
        await clock.advance(30, step=0.5)
        assert line.untaken > 200_000  # as it is not discarded
        heard = b""
        while len(heard) < len(data):
            heard += await stream.receive()
        assert heard == data
        assert not raw.is_over
        assert raw.server.logged == []
        line.send(b"end")
        line.end()
        assert await raw.receive_all() == b"end"
        assert stream.receiving is CLOSED
        assert not line.cut
        await raw.ends()


@both
async def test_the_end_before_the_acceptance(wire: Any) -> None:
    stage = Stage()
    async with MemoryServer(stage, wire.protocol_class, access_log=True) as server:
        line = wire(server)
        line.ask(after=b"all")
        line.end()
        stream = await stage.next()
        await turns()
        stream.accept_upgrade(())
        await stream.end()  # at once
        raw = Raw(server, stage, stream, line)
        assert await raw.receive_all() == b"all"
        await turns()
        assert line.ended
        assert not line.cut
        await raw.ends()


@both
async def test_what_has_come_outlives_both_ends(wire: Any) -> None:
    async with raw_tunnel(wire) as raw:
        raw.line.send(b"unread")
        raw.line.end()
        await raw.stream.end()
        await turns()
        assert raw.is_over
        assert raw.server.logged == [raw.stream]
        assert await raw.receive_all() == b"unread"
        await raw.ends()


@pytest.mark.parametrize("size", [500, 5000])
async def test_the_end_waits_for_what_was_written(size: int) -> None:
    """On HTTP/1.1; and no stall is overlooked on the way."""
    async with raw_tunnel(Http1Line, send_stall_timeout=10, write_buffer_size=1024) as raw:
        raw.line.hold()
        sending = asyncio.ensure_future(raw.stream.send_data(b"x" * size))
        await turns()
        assert sending.done() is (size < 1024)
        sending.cancel()
        await raw.stream.end()
        assert raw.line.transport.eof_written
        await Clock().advance(40, step=1)
        assert raw.line.cut
        with pytest.raises(PeerGone):
            await raw.stream.receive()
        await raw.ends()


# -- Over TLS, HTTP/1.1 has no half-closed connections -----------------------------------------


async def test_the_server_ends_over_tls() -> None:
    async with raw_tunnel(Http1Line, extra={"ssl_object": Tls()}) as raw:
        clock = Clock()
        raw.line.send(b"unread")
        await raw.stream.send_data(b"all")
        await raw.stream.end()
        assert raw.server.logged == [raw.stream]
        assert await raw.receive_all() == b"unread"
        assert (raw.stream.sending, raw.stream.receiving) == (CLOSED, CLOSED)
        for _ in range(4):  # a client that is still sending gets its time to read
            raw.line.send(b"late")
            await clock.advance(0.2)
            assert not raw.is_over
        await clock.advance(0.3)
        assert raw.line.data == b"all"
        assert not raw.line.cut
        await raw.ends()


async def test_a_client_that_goes_on_for_long_over_tls() -> None:
    async with raw_tunnel(Http1Line, extra={"ssl_object": Tls()}) as raw:
        clock = Clock()
        await raw.stream.end()
        for _ in range(11):
            raw.line.send(b"late" * 10_000)
            await clock.advance(0.2)
        assert raw.line.transport.closed
        await raw.ends()


async def test_a_slow_reader_of_the_end_over_tls() -> None:
    async with raw_tunnel(Http1Line, extra={"ssl_object": Tls()}, linger_timeout=1) as raw:
        clock = Clock()
        raw.line.hold()
        await raw.stream.send_data(b"x" * 10_000)
        await raw.stream.end()
        await clock.advance(20, step=0.2)
        assert not raw.is_over
        raw.line.release()
        await clock.advance(0.3)
        assert raw.line.data == b"x" * 10_000
        await raw.ends()


async def test_the_client_ends_over_tls() -> None:
    async with raw_tunnel(Http1Line, extra={"ssl_object": Tls()}) as raw:
        raw.line.send(b"all")
        raw.line.end()
        await turns()
        assert raw.is_over
        assert await raw.stream.receive() == b"all"
        assert await raw.stream.receive() == b""
        with pytest.raises(PeerGone):
            await raw.stream.send_data(b"x")
        await raw.ends()
