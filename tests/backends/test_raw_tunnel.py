"""
Raw tunnels: bytes both ways, each direction with an end of its own, whatever the wire.

What only a kernel can show is in ``test_raw_tunnel_sockets.py``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kyoukai.exceptions import InvalidResponse, PeerGone, StreamStateError
from kyoukai.stream import CLOSED, OPEN, RESET, StreamState
from kyoukai.testing import MemoryServer

from . import frames as f
from .support import Clock, Stage, Tls, connect, parse_answers, turns
from .wires import Http1Line, Http2Line, both

#: Settings under which nothing but a stall may end a tunnel.
SHORT: dict[str, Any] = {
    "header_timeout": 1,
    "keep_alive_timeout": 1,
    "min_body_rate": 1_000_000,
    "min_body_grace": 1,
    "linger_timeout": 1,
}


class Raw:
    """A raw tunnel that is open: its stream, its client, and what it is part of."""

    def __init__(self, server: MemoryServer, stage: Stage, stream: StreamState, line: Any) -> None:
        self.server = server
        self.stage = stage
        self.stream = stream
        self.line = line

    @property
    def is_over(self) -> bool:
        """Whether nothing is left of it on the wire."""
        if isinstance(self.line, Http2Line):
            return self.line.protocol.streams == {}
        return bool(self.line.transport.closed)

    async def receive_all(self) -> bytes:
        """Receive what there is, up to the end."""
        data = b""
        while piece := await self.stream.receive():
            data += piece
        return data

    async def ends(self, *, logged: bool = True) -> None:
        """The application returns, and the tunnel is over."""
        self.stage.leave(self.stream)
        await turns()
        assert self.is_over
        assert not self.server.connections.tasks
        assert self.server.logged == [self.stream] * logged


@asynccontextmanager
async def raw_tunnel(
    wire: Any, after: bytes = b"", extra: Any = (), **settings: Any
) -> AsyncIterator[Raw]:
    """A raw tunnel, whose application is cancelled for nothing that the client does."""
    stage = Stage()
    settings = {"access_log": True, **settings}
    async with MemoryServer(stage, wire.protocol_class, **settings) as server:
        line = wire(server, **dict(extra))
        line.ask(after=after)
        stream = await stage.next()
        stream.cancel_on_disconnect = False
        stream.accept_upgrade(((b"x-a", b"1"),))
        assert (stream.sending, stream.receiving) == (OPEN, OPEN)
        yield Raw(server, stage, stream, line)


def pattern(size: int) -> bytes:
    return random.Random(size).randbytes(size)


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


async def test_the_end_waits_for_what_was_written() -> None:
    """On HTTP/1.1; and no stall is overlooked on the way."""
    async with raw_tunnel(Http1Line, send_stall_timeout=10, write_buffer_size=1024) as raw:
        raw.line.hold()
        sending = asyncio.ensure_future(raw.stream.send_data(b"x" * 5000))
        await turns()
        assert not sending.done()
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
        with pytest.raises(PeerGone):
            await raw.stream.receive()
        with pytest.raises(PeerGone):
            await raw.stream.send_data(b"x")
        await raw.ends()


# -- Cut ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [False, True])
@both
async def test_the_server_resets(wire: Any, ended: bool) -> None:
    async with raw_tunnel(wire) as raw:
        stream = raw.stream
        await stream.send_data(b"some")
        if ended:
            await stream.end()
            await turns()
        reading = asyncio.ensure_future(stream.receive())
        await turns()
        stream.reset()
        stream.reset()
        await turns()
        with pytest.raises(PeerGone):
            await reading
        assert stream.receiving is RESET
        assert stream.sending is (CLOSED if ended else RESET)
        if wire is Http2Line:
            assert raw.line.exchange.reset_code == f.CANCEL
        else:
            assert raw.line.transport.aborted
        await raw.ends()


@pytest.mark.parametrize("ended", [False, True])
@both
async def test_the_client_is_gone(wire: Any, ended: bool) -> None:
    async with raw_tunnel(wire) as raw:
        stream = raw.stream
        raw.line.send(b"last words")
        if ended:
            await stream.end()
        raw.line.leave()
        assert await stream.receive() == b"last words"
        with pytest.raises(PeerGone):
            await stream.receive()
        if not ended:
            with pytest.raises(PeerGone):
                await stream.send_data(b"x")
            with pytest.raises(PeerGone):
                await stream.end()
        await stream.disconnected()
        stream.reset()
        await raw.ends()


@pytest.mark.parametrize("ended", [False, True])
@both
async def test_the_task_ends_when_the_client_is_gone(wire: Any, ended: bool) -> None:
    stage = Stage()
    async with MemoryServer(stage, wire.protocol_class, access_log=True) as server:
        line = wire(server)
        line.ask()
        stream = await stage.next()
        stream.accept_upgrade(())
        if ended:
            await stream.end()
        line.leave()
        await turns()
        assert stage.cancelled == [stream]
        assert server.logged == [stream]
        assert not server.connections.tasks


@both
async def test_the_client_is_gone_while_it_takes_nothing(wire: Any) -> None:
    async with raw_tunnel(wire) as raw:
        raw.line.stop()
        sending = asyncio.ensure_future(raw.stream.send_data(b"x" * 1_000_000))
        await turns()
        assert not sending.done()
        raw.line.leave()
        with pytest.raises(PeerGone):
            await sending
        await raw.ends()


@both
async def test_a_client_that_takes_nothing_for_long(wire: Any) -> None:
    async with raw_tunnel(wire, send_stall_timeout=10) as raw:
        clock = Clock()
        raw.line.stop()
        sending = asyncio.ensure_future(raw.stream.send_data(b"x" * 1_000_000))
        await clock.advance(9)
        assert not sending.done()
        await clock.advance(25, step=1)
        with pytest.raises(PeerGone):
            await sending
        with pytest.raises(PeerGone):
            await raw.stream.receive()
        assert raw.line.cut
        await raw.ends()


async def test_trailers_of_a_tunnel_break_it() -> None:
    async with raw_tunnel(Http2Line) as raw:
        with pytest.raises(InvalidResponse):
            await raw.stream.end(((b"x-a", b"1"),))
        await turns()
        assert raw.line.cut
        await raw.ends()


# -- The application returns -------------------------------------------------------------------


@both
async def test_an_application_that_returns_after_its_end(wire: Any) -> None:
    """What it has sent arrives, and what the client still sends is dropped."""
    async with raw_tunnel(wire) as raw:
        clock = Clock()
        raw.line.send(b"unread")
        await raw.stream.send_data(b"all")
        await raw.stream.end()
        raw.stage.leave(raw.stream)
        await turns()
        assert raw.server.logged == [raw.stream]
        assert raw.stream.buffered == 0
        for _ in range(15):
            raw.line.send(b"x" * 10_000)
            await clock.advance(0.2)
        assert raw.line.data == b"all"
        assert raw.is_over
        assert raw.server.logged == [raw.stream]
        if wire is Http2Line:
            assert raw.line.exchange.reset_code == f.NO_ERROR
            window = raw.line.protocol.h2.inbound_flow_control_window
            assert window >= raw.line.protocol.config.h2_connection_window // 2
        else:
            assert not raw.line.cut


@both
async def test_an_application_that_returns_after_its_end_to_a_client_that_ends(wire: Any) -> None:
    async with raw_tunnel(wire) as raw:
        await raw.stream.end()
        raw.stage.leave(raw.stream)
        await turns()
        raw.line.send(b"late")
        raw.line.end()
        await turns()
        assert raw.is_over
        assert not raw.line.cut
        assert raw.server.logged == [raw.stream]


@pytest.mark.parametrize("client_ended", [False, True])
@both
async def test_an_application_that_returns_before_its_end(
    wire: Any, client_ended: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw_tunnel(wire) as raw:
        if client_ended:
            raw.line.end()
        await turns()
        await raw.ends()
        assert raw.line.cut
        assert "did not end its answer" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("ended", [False, True])
@both
async def test_an_application_that_fails(
    wire: Any, ended: bool, caplog: pytest.LogCaptureFixture
) -> None:
    streams = []

    async def fail(stream: StreamState) -> None:
        streams.append(stream)
        stream.accept_upgrade(())
        if ended:
            await stream.end()
        raise RuntimeError("a fault")

    async with MemoryServer(fail, wire.protocol_class, access_log=True) as server:
        line = wire(server)
        line.ask()
        await turns()
        assert server.logged == streams
        if wire is Http2Line:
            assert line.exchange.reset_code == (f.CANCEL if ended else f.INTERNAL_ERROR)
        else:
            assert line.transport.aborted
        assert "unhandled error" in caplog.text
        caplog.clear()


# -- The server stops --------------------------------------------------------------------------


@pytest.mark.parametrize("before", [False, True])
@both
async def test_the_server_stops(wire: Any, before: bool) -> None:
    """It waits for the tunnel, and says so."""
    stage = Stage()
    async with MemoryServer(stage, wire.protocol_class, access_log=True) as server:
        line = wire(server)
        line.ask()
        stream = await stage.next()
        with pytest.raises(StreamStateError):
            await stream.stopping()
        if before:
            server.connections.shutdown()
        stream.accept_upgrade(())
        if not before:
            waiting = asyncio.ensure_future(stream.stopping())
            await turns()
            assert not waiting.done()
            waiting.cancel()  # which hides nothing from others
            server.connections.shutdown()
        await stream.stopping()
        await stream.stopping()
        await Clock().advance(20, step=1)
        line.send(b"in")
        assert await stream.receive() == b"in"
        await stream.send_data(b"out")
        await stream.end()
        line.end()
        stage.leave(stream)
        await turns(40)
        assert line.data == b"out"
        assert server.logged == [stream]
        assert line.protocol.streams == {} if wire is Http2Line else line.transport.closed


@pytest.mark.parametrize("ended", [False, True])
@both
async def test_the_server_stops_at_once(wire: Any, ended: bool) -> None:
    async with raw_tunnel(wire) as raw:
        if ended:
            await raw.stream.end()
        raw.server.connections.abort()
        await turns()
        assert raw.stage.cancelled == [raw.stream]
        assert raw.server.logged == [raw.stream]
        assert not raw.server.connections.tasks


# -- Beside others, on HTTP/2 ------------------------------------------------------------------


async def test_tunnels_take_turns_with_answers() -> None:
    """A tunnel that sends without a pause leaves its turns to an answer, and the other way."""
    stage = Stage()
    async with MemoryServer(stage, Http2Line.protocol_class) as server:
        line = Http2Line(server, client={"window": 2**30, "connection_window": 2**30})
        line.ask()
        tunnel = await stage.next()
        tunnel.accept_upgrade(())
        exchange = line.client.request("GET", "/")
        answer = await stage.next()
        answer.send_head(200, ())
        order: list[str] = []

        async def send(stream: StreamState, name: str) -> None:
            for _ in range(100):
                await stream.send_data(b"x" * 100_000)
                order.append(name)
            await stream.end()

        await asyncio.gather(send(tunnel, "tunnel"), send(answer, "answer"))
        await turns()
        assert exchange.done
        assert len(line.data) == len(exchange.body) == 10_000_000
        longest = max(len(run) for run in "".join(name[0] for name in order).split("t"))
        assert longest <= 60
        longest = max(len(run) for run in "".join(name[0] for name in order).split("a"))
        assert longest <= 60


# -- Whatever happens --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
@both
async def test_random_conversations(wire: Any, seed: int) -> None:
    rng = random.Random(seed)
    limits = {"read_buffer_size": 4096, "h2_stream_window": 8192, "write_buffer_size": 4096}
    async with raw_tunnel(wire, pattern(rng.randrange(100)), **limits) as raw:
        stream, line = raw.stream, raw.line
        said = bytearray(pattern(0))
        said += pattern(0) if stream.buffered == 0 else b""
        sent, heard = bytearray(), bytearray()
        failures: list[BaseException] = []
        early = await stream.receive() if stream.buffered else b""
        client_ended = server_ended = cut = False

        async def hear() -> None:
            try:
                while data := await stream.receive():
                    heard.extend(data)
                    for _ in range(rng.randrange(4)):
                        await asyncio.sleep(0)
            except PeerGone as error:
                failures.append(error)

        async def say(size: int) -> None:
            data = rng.randbytes(size)
            sent.extend(data)
            try:
                await stream.send_data(data)
            except PeerGone as error:
                failures.append(error)

        hearing = asyncio.ensure_future(hear())
        saying: asyncio.Future[None] | None = None
        for _ in range(rng.randrange(5, 60)):
            choice = rng.randrange(12)
            if choice < 4 and not client_ended:
                data = rng.randbytes(rng.choice((1, 100, 20_000)))
                said += data
                line.send(data)
            elif choice < 8 and not server_ended and (saying is None or saying.done()):
                saying = asyncio.ensure_future(say(rng.choice((1, 100, 70_000))))
            elif choice == 8:
                line.hold()
            elif choice == 9:
                line.release()
            elif choice == 10 and not client_ended and rng.random() < 0.3:
                client_ended = True
                line.end()
            elif choice == 11 and rng.random() < 0.3 and not server_ended:
                if saying is None or saying.done():
                    server_ended = True
                    if not failures:
                        await stream.end()
            await turns(rng.randrange(6))
        line.release()
        how = rng.choice(("end", "end", "reset", "leave"))
        await turns(rng.randrange(40))
        if how == "end":
            await turns(400)
            if not client_ended:
                line.end()
            if not server_ended:
                if saying is not None:
                    await saying
                await stream.end()
            await hearing
        elif how == "reset":
            cut = True
            stream.reset()
        else:
            cut = True
            line.leave()
        await turns(40)
        assert hearing.done()
        if saying is not None:
            assert saying.done()
        assert bytes(said).startswith(bytes(heard)), seed
        assert bytes(sent).startswith(line.data), seed
        assert early == pattern(len(early))
        if not cut:
            assert (bytes(heard), line.data) == (bytes(said), bytes(sent)), seed
            assert not failures
            assert not line.cut
            assert (stream.sending, stream.receiving) == (CLOSED, CLOSED)
        await raw.ends()
        assert stream.buffered == 0
        if wire is Http2Line:
            assert len(line.protocol._scheduler) == 0
            window = line.protocol.h2.inbound_flow_control_window
            assert window >= line.protocol.config.h2_connection_window // 2, seed


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
