"""
What every tunnel offers whoever has it, whatever the wire.

The suite runs once for each wire, as that of requests does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kyoukai.exceptions import InvalidResponse, PeerGone, StreamStateError
from kyoukai.stream import CLOSED, OPEN, RESET, StreamState
from kyoukai.testing import MemoryServer

from .support import Clock, Stage, turns
from .wires import Http2Line, both


class Recorder:
    """What takes a tunnel's bytes, and writes down all that happens to it."""

    def __init__(self) -> None:
        self.full = False
        self.data = bytearray()
        self.events: list[str] = []

    def bytes_received(self, data: bytes) -> None:
        self.data += data

    def end_received(self) -> None:
        self.events.append("end")

    def lost(self) -> None:
        self.events.append("lost")

    def writable(self) -> None:
        self.events.append("writable")

    def ended(self) -> None:
        self.events.append("ended")

    def going_away(self) -> None:
        self.events.append("going away")


class Held:
    """A tunnel that has been opened: its stream, what it records, and its client."""

    def __init__(self, server: MemoryServer, stage: Stage, stream: StreamState, line: Any) -> None:
        self.server = server
        self.stage = stage
        self.stream = stream
        self.line = line
        self.tunnel = Recorder()
        self.wire = stream.protocol

    def write(self, data: bytes) -> None:
        self.wire.tunnel_write(self.stream, data)

    def end(self, complete: bool = False) -> None:
        self.wire.tunnel_end(self.stream, complete)

    @property
    def is_full(self) -> bool:
        return self.wire.tunnel_full(self.stream)

    async def fill(self) -> bytes:
        """Write until no more should be; return what was written."""
        data = b""
        for number in range(2000):
            piece = number.to_bytes(4) * 1000
            self.write(piece)
            data += piece
            await turns(4)
            if self.is_full:
                return data
        raise AssertionError("it is never full")


@asynccontextmanager
async def tunnel(
    wire: Any, after: bytes = b"", raw: bool = False, **settings: Any
) -> AsyncIterator[Held]:
    """A tunnel that is open; ``raw`` has nothing that takes its bytes."""
    stage = Stage()
    async with MemoryServer(stage, wire.protocol_class, **settings) as server:
        line = wire(server)
        line.ask(after=after)
        stream = await stage.next()
        held = Held(server, stage, stream, line)
        if raw:
            stream.accept_upgrade(((b"x-a", b"1"),))
        else:
            stream.accept_upgrade(((b"x-a", b"1"),), held.tunnel)
        stream.cancel_on_disconnect = False
        await turns()
        yield held


# -- The acceptance ----------------------------------------------------------------------------


@both
async def test_the_acceptance(wire: Any) -> None:
    async with tunnel(wire) as held:
        stream, line = held.stream, held.line
        status = 200 if wire is Http2Line else 101
        assert (line.status, stream.status) == (status, status)
        assert line.headers["x-a"] == "1"
        assert "content-length" not in line.headers
        assert "transfer-encoding" not in line.headers
        assert (stream.sending, stream.receiving) == (OPEN, OPEN)
        assert not stream.upgradable
        assert held.tunnel.events == []
        with pytest.raises(StreamStateError):
            stream.accept_upgrade(())
        with pytest.raises(StreamStateError):
            await stream.send_response(200, ())
        with pytest.raises(StreamStateError):
            stream.send_head(200, ())


@both
async def test_what_cannot_be_accepted(wire: Any) -> None:
    stage = Stage()
    async with MemoryServer(stage, wire.protocol_class) as server:
        line = wire(server)
        line.ask()
        stream = await stage.next()
        for name, value in (b"x a", b"1"), (b"x-a", b"1\r\nx: 1"), (b"content-length", b"1"):
            with pytest.raises(InvalidResponse):
                stream.accept_upgrade(((name, value),), Recorder())
        assert stream.tunnel is None
        await stream.send_response(403, (), b"no")
        await turns()
        assert line.status == 403
        with pytest.raises(StreamStateError):
            stream.accept_upgrade(())


@both
async def test_bytes_before_the_acceptance(wire: Any) -> None:
    data = b"early " * 10_000
    async with tunnel(wire, after=data) as held:
        assert bytes(held.tunnel.data) == data
        assert held.stream.buffered == 0
        held.line.send(b"late")
        await turns()
        assert bytes(held.tunnel.data) == data + b"late"
        assert held.stream.received == len(data) + 4


@both
async def test_the_end_before_the_acceptance(wire: Any) -> None:
    stage = Stage()
    async with MemoryServer(stage, wire.protocol_class) as server:
        line = wire(server)
        line.ask(after=b"all")
        line.end()
        stream = await stage.next()
        await turns()
        recorder = Recorder()
        stream.accept_upgrade((), recorder)
        await turns()
        assert bytes(recorder.data) == b"all"
        assert recorder.events == ["end"]
        assert stream.receiving is CLOSED
        stream.protocol.tunnel_write(stream, b"last")
        stream.protocol.tunnel_end(stream, False)
        await turns()
        assert line.data == b"last"
        assert line.ended
        assert not line.cut
        assert recorder.events == ["end", "ended"]


@both
async def test_a_client_that_left_before_the_acceptance(wire: Any) -> None:
    stage = Stage()
    async with MemoryServer(stage, wire.protocol_class) as server:
        line = wire(server)
        line.ask()
        stream = await stage.next()
        line.leave()
        await turns()
        with pytest.raises(PeerGone):
            stream.accept_upgrade((), Recorder())
        assert stream.tunnel is None
        assert stage.cancelled == [stream]


# -- Bytes in ----------------------------------------------------------------------------------


@both
async def test_a_tunnel_that_is_full(wire: Any) -> None:
    size = 2_000_000
    data = b"".join(number.to_bytes(4) for number in range(size // 4))
    async with tunnel(wire, read_buffer_size=10_000, h2_stream_window=20_000) as held:
        held.tunnel.full = True
        for start in range(0, size, 5_000):
            held.line.send(data[start : start + 5_000])
        await turns()
        taken = size - held.line.untaken
        assert 0 < taken <= 70_000
        assert len(held.tunnel.data) == held.stream.buffered == taken
        for _ in range(5):  # it takes some, and is full again
            before = size - held.line.untaken
            held.stream.taken()
            await turns()
            assert before < size - held.line.untaken <= before + 70_000
        held.tunnel.full = False
        held.stream.taken()
        await turns(200)
        assert held.line.untaken == 0
        assert bytes(held.tunnel.data) == data
        assert held.stream.buffered == 0
        held.stream.taken()  # of nothing


@both
async def test_the_client_ends(wire: Any) -> None:
    async with tunnel(wire) as held:
        held.line.send(b"all")
        held.line.end()
        await turns()
        assert bytes(held.tunnel.data) == b"all"
        assert held.tunnel.events == ["end"]
        assert held.stream.receiving is CLOSED
        held.write(b"one ")
        await turns()
        held.write(b"two")
        held.end()
        await turns()
        assert held.line.data == b"one two"
        assert held.line.ended
        assert held.tunnel.events == ["end", "ended"]


@pytest.mark.parametrize("full", [False, True])
@both
async def test_the_client_is_lost(wire: Any, full: bool) -> None:
    async with tunnel(wire) as held:
        held.tunnel.full = full
        held.line.send(b"some")
        held.write(b"unsent")
        held.line.leave()
        await turns()
        assert held.tunnel.events == ["lost"]
        assert (held.stream.sending, held.stream.receiving) == (RESET, RESET)
        held.write(b"more")
        held.end()
        held.stream.taken()
        held.stream.reset()
        await turns()
        assert held.tunnel.events == ["lost"]
        assert held.stage.cancelled == []
        held.stage.leave(held.stream)


# -- Bytes out ---------------------------------------------------------------------------------


@both
async def test_what_is_written_in_one_turn_leaves_at_once(wire: Any) -> None:
    async with tunnel(wire) as held:
        frames = len(getattr(held.line, "client", held).__dict__.get("frames", ()))
        for number in range(1000):
            held.write(b"%d," % number)
        assert held.line.data == b""
        await turns(6)
        assert held.line.data == b"".join(b"%d," % number for number in range(1000))
        assert held.stream.bytes_sent == len(held.line.data)
        if wire is Http2Line:
            assert len(held.line.client.frames) - frames == 1


@both
async def test_a_client_that_takes_nothing(wire: Any) -> None:
    async with tunnel(wire, ws_write_limit=8192) as held:
        held.line.hold()
        data = await held.fill()
        assert held.wire.tunnel_waiting(held.stream) > 0
        held.tunnel.events.clear()
        await turns()
        assert held.tunnel.events == []
        held.line.release()
        await turns(100)
        assert held.line.data == data
        assert set(held.tunnel.events) == {"writable"}
        assert not held.is_full
        assert held.wire.tunnel_waiting(held.stream) == 0


@both
async def test_a_stop_does_not_cost_more_than_the_limit(wire: Any) -> None:
    async with tunnel(wire, ws_write_limit=8192) as held:
        held.line.stop()
        data = await held.fill()
        assert len(data) <= 65535 + 3 * 8192 + 8000
        assert held.wire.tunnel_waiting(held.stream) <= 3 * 8192


@pytest.mark.parametrize("size", [0, 10, 200_000])
@pytest.mark.parametrize("complete", [True, False])
@both
async def test_the_server_ends(wire: Any, complete: bool, size: int) -> None:
    async with tunnel(wire) as held:
        data = bytes(size)
        held.write(data)
        held.end(complete)
        held.end(complete)
        await turns(60)
        held.write(b"after the end")
        await turns(60)
        assert held.line.data == data
        assert held.line.ended
        assert not held.line.cut
        assert held.tunnel.events[-1] == "ended"
        assert held.tunnel.events.count("ended") == 1
        assert held.stream.sending is CLOSED
        held.line.send(b"x" * 100_000)  # which nobody wants
        await turns()
        assert held.stream.buffered == 0


@both
async def test_a_client_that_goes_on_after_our_end(wire: Any) -> None:
    async with tunnel(wire, linger_timeout=2) as held:
        clock = Clock()
        held.end()
        await turns()
        for _ in range(20):
            held.line.send(bytes(10_000))
            await clock.advance(0.2)
        assert not held.wire.streams if wire is Http2Line else held.line.transport.closed  # type: ignore[attr-defined]
        assert "lost" not in held.tunnel.events


@both
async def test_a_reset(wire: Any) -> None:
    async with tunnel(wire) as held:
        held.write(b"some")
        held.stream.reset()
        held.stream.reset()
        await turns()
        assert held.line.cut
        assert held.tunnel.events == ["lost"]
        assert held.stream.sending is RESET
        held.end()
        await turns()
        assert held.tunnel.events == ["lost"]


# -- The server and its settings ---------------------------------------------------------------


@both
async def test_the_server_stops(wire: Any) -> None:
    async with tunnel(wire) as held:
        held.server.connections.shutdown()
        await turns()
        assert held.tunnel.events == ["going away"]
        held.line.send(b"in")
        held.write(b"out")
        await turns()
        assert (bytes(held.tunnel.data), held.line.data) == (b"in", b"out")
        held.end()
        held.line.end()
        held.stage.leave(held.stream)
        await turns()
        assert held.line.ended
        assert not held.server.connections.tasks


@both
async def test_no_time_out_of_requests_counts(wire: Any) -> None:
    settings = {
        "header_timeout": 1,
        "keep_alive_timeout": 1,
        "min_body_rate": 1_000_000,
        "min_body_grace": 1,
        "linger_timeout": 1,
        "send_stall_timeout": 1,
    }
    async with tunnel(wire, **settings) as held:
        clock = Clock()
        await clock.advance(20, step=0.5)
        held.line.send(b"x")
        await clock.advance(20, step=0.5)
        held.write(b"y")
        await clock.advance(20, step=0.5)
        assert held.tunnel.events == []
        assert (bytes(held.tunnel.data), held.line.data) == (b"x", b"y")


@both
async def test_a_client_that_takes_nothing_for_long(wire: Any) -> None:
    async with tunnel(wire, ws_write_limit=8192, send_stall_timeout=10) as held:
        clock = Clock()
        held.line.stop()
        await held.fill()
        held.tunnel.events.clear()
        await clock.advance(9)
        assert held.tunnel.events == []
        await clock.advance(22, step=1)
        assert held.tunnel.events == ["lost"]
        assert held.line.cut


@pytest.mark.parametrize("how", ["ended", "lost", "reset"])
@both
async def test_each_tunnel_is_logged_once(wire: Any, how: str) -> None:
    async with tunnel(wire, access_log=True) as held:
        held.write(b"12345")
        await turns()
        assert held.server.logged == []
        {"ended": held.end, "lost": held.line.leave, "reset": held.stream.reset}[how]()
        await turns()
        held.line.leave()
        held.stage.leave(held.stream)
        await turns()
        assert held.server.logged == [held.stream]
        assert held.stream.bytes_sent == 5


# -- Without anything that takes its bytes -----------------------------------------------------


@both
async def test_a_tunnel_as_a_body_both_ways(wire: Any) -> None:
    async with tunnel(wire, after=b"early", raw=True) as held:
        stream = held.stream
        assert await stream.receive() == b"early"
        reading = asyncio.ensure_future(stream.receive())
        await turns()
        held.line.send(b"in")
        assert await reading == b"in"
        await stream.send_data(b"out ")
        await stream.send_data(b"x" * 200_000)
        held.line.end()
        assert await stream.receive() == b""
        await stream.send_data(b"last")
        await stream.end()
        await turns(60)
        assert held.line.data == b"out " + b"x" * 200_000 + b"last"
        assert held.line.ended
        assert not held.line.cut


@both
async def test_backpressure_of_such_a_tunnel(wire: Any) -> None:
    size = 1_000_000
    async with tunnel(wire, raw=True, read_buffer_size=10_000, h2_stream_window=20_000) as held:
        for number in range(size // 4000):
            held.line.send(number.to_bytes(4) * 1000)
        await turns()
        assert size - held.line.untaken <= 300_000
        data = b""
        while len(data) < size:
            data += await held.stream.receive()
        assert data == b"".join(number.to_bytes(4) * 1000 for number in range(size // 4000))


@pytest.mark.parametrize("how", ["leave", "return"])
@both
async def test_such_a_tunnel_is_lost_or_left(
    wire: Any, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with tunnel(wire, raw=True) as held:
        if how == "leave":
            held.line.leave()
            with pytest.raises(PeerGone):
                await held.stream.receive()
            with pytest.raises(PeerGone):
                await held.stream.send_data(b"x")
            held.stage.leave(held.stream)
        else:
            held.stage.leave(held.stream)
            await turns()
            assert held.line.cut
            assert "did not end its answer" in caplog.text
            caplog.clear()


@both
async def test_no_rate_is_asked_of_it(wire: Any) -> None:
    async with tunnel(wire, raw=True, min_body_rate=10**6, min_body_grace=1) as held:
        await Clock().advance(20, step=0.5)
        held.line.send(b"late")
        assert await held.stream.receive() == b"late"
