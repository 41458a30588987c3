"""How raw tunnels end other than in good order, by whom, and beside what, on both wires."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kyoukai.exceptions import InvalidResponse, PeerGone, StreamStateError
from kyoukai.stream import CLOSED, RESET, StreamState
from kyoukai.testing import MemoryServer

from . import frames as f
from .raw import raw_tunnel
from .support import Clock, Stage, turns
from .wires import Http1Line, Http2Line, both

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


async def test_the_end_of_what_is_about_to_be_lost() -> None:
    async with raw_tunnel(Http1Line) as raw:
        raw.line.transport.close()  # and the loop has had no turn to say so
        with pytest.raises(PeerGone):
            await raw.stream.end()
        await turns()
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
