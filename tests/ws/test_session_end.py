"""How a ``Session`` ends: closed by either side, by the server's stop, by loss."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from backends.support import Clock, turns
from backends.wires import (
    BINARY,
    CLOSE,
    FIELDS,
    PING,
    TEXT,
    Booth,
    Http1Line,
    Http2Line,
    both,
    close_frame,
    frame,
    opened,
    received,
    text,
)
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import Protocol, Side, State

from kyoukai.exceptions import WebSocketDisconnected
from kyoukai.stream import StreamState
from kyoukai.testing import MemoryServer
from kyoukai.ws.session import Session

# -- The closing handshake ---------------------------------------------------------------------


@pytest.mark.parametrize("gives_end", [True, False])
@both
async def test_the_server_closes(wire: Any, gives_end: bool) -> None:
    async with opened(wire) as (session, line):
        line.send(text("unheard"))
        await turns()
        session.put(TEXT, b"last")
        session.close(3000, "enough")
        session.close(4000, "again")
        assert (session.is_open, session.close_code, session.close_reason) == (
            False,
            3000,
            "enough",
        )
        assert not session.messages
        await turns()
        assert line.take() == [(TEXT, b"last"), (CLOSE, b"\x0b\xb8enough")]
        assert not session.is_over
        assert not line.ended
        waiting = asyncio.ensure_future(session.wait_over())
        line.send(text("dropped") + frame(PING, b"dropped") + close_frame(3000, "enough"))
        if gives_end:
            line.end()
        await waiting
        await turns()
        assert line.ended
        assert not line.cut
        assert await received(session) == []
        assert (session.close_code, session.close_reason) == (3000, "enough")


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        (close_frame(1000, "bye"), 1000, "bye"),
        (close_frame(None), 1005, ""),
        (close_frame(4999, "ü" * 61), 4999, "ü" * 61),
    ],
)
@both
async def test_the_client_closes(wire: Any, sent: bytes, code: int, reason: str) -> None:
    async with opened(wire) as (session, line):
        waiting = asyncio.ensure_future(session.wait_closed())
        line.send(text("last") + sent + text("dropped"))
        await waiting
        await turns()
        assert line.close == (code, reason)
        assert line.ended
        assert session.is_over
        if wire is Http1Line:  # nothing more will come
            assert line.transport.closed
        assert await received(session) == ["last"]
        assert (session.close_code, session.close_reason) == (code, reason)
        session.close(1000)
        with pytest.raises(WebSocketDisconnected) as caught:
            await session.ping()
        assert caught.value.code == code
        await session.wait_closed()
        await session.wait_over()


@both
async def test_both_close_at_once(wire: Any) -> None:
    async with opened(wire) as (session, line):
        session.close(3001)
        line.send(close_frame(3002))
        await turns()
        assert line.close == (3001, "")
        assert session.close_code == 3001
        assert session.is_over
        assert line.ended


@both
async def test_a_client_that_answers_no_close(wire: Any) -> None:
    async with opened(wire, ws_close_timeout=5) as (session, line):
        clock = Clock()
        session.close(1000)
        await clock.advance(4.5)
        line.send(text("not yet"))
        assert not session.is_over
        await clock.advance(0.6)
        assert session.is_over
        assert session.close_code == 1000
        assert line.cut


@both
async def test_a_client_that_takes_no_close(wire: Any) -> None:
    """Its answer is there, and ours cannot be sent."""
    async with opened(wire, ws_close_timeout=5) as (session, line):
        clock = Clock()
        line.stop()
        session.put(BINARY, bytes(500_000))
        line.send(close_frame(1000))
        await turns()
        assert session.close_code == 1000
        await clock.advance(60, step=1)
        assert session.is_over
        assert line.cut == (wire is Http2Line)  # a connection may still linger for what it has


@both
async def test_what_comes_after_our_close_costs_nothing(wire: Any) -> None:
    async with opened(wire, max_queue=1) as (session, line):
        line.send(text("a") * 3)
        await turns()
        session.close(1000)
        for number in range(40):
            line.send(frame(BINARY, number.to_bytes(4) * 20_000))
            await turns(3)
        assert line.untaken == 0
        assert session.stream.buffered < 80_010
        assert not session.messages
        line.send(close_frame())
        await turns()
        assert session.is_over
        assert line.ended


@both
async def test_what_is_wrong_after_our_close_ends_it(wire: Any) -> None:
    async with opened(wire) as (session, line):
        session.close(1000)
        line.send(frame(TEXT, b"\xff"))
        await turns()
        assert line.close == (1000, "")
        assert session.close_code == 1000
        assert session.is_over
        assert line.ended


@pytest.mark.parametrize(
    ("code", "reason"), [(1004, ""), (1005, ""), (1006, ""), (1015, ""), (2999, ""), (5000, ""),
                         (1000, "x" * 124), (1000, "ü" * 62), (True, "")],
)  # fmt: skip
@both
async def test_what_no_close_frame_may_say(wire: Any, code: int, reason: str) -> None:
    async with opened(wire) as (session, line):
        with pytest.raises(ValueError, match="close"):
            session.close(code, reason)
        assert session.is_open
        await turns()
        assert line.take() == []


# -- The server stops --------------------------------------------------------------------------


@pytest.mark.parametrize("max_queue", [0, 4])
@both
async def test_the_server_stops(wire: Any, max_queue: int) -> None:
    async with opened(wire, max_queue=max_queue) as (session, line):
        line.send(text("a") * 9)
        await turns()
        session.stream.protocol.connections.shutdown()  # type: ignore[attr-defined]
        await turns()
        assert line.close == (1001, "the server is stopping")
        assert session.close_code == 1001
        assert not session.is_over
        line.send(close_frame(1001))
        await turns()
        assert session.is_over
        assert line.ended
        assert not session.stream.protocol.connections.tasks  # type: ignore[attr-defined]


@pytest.mark.parametrize("when", ["before", "with"])
@both
async def test_the_server_stops_before_the_acceptance(wire: Any, when: str) -> None:
    accepting = asyncio.Event()
    sessions: list[Session] = []

    async def app(stream: StreamState) -> None:
        await accepting.wait()
        session = Session(stream, server.config, [], 4)
        stream.accept_upgrade((), session)
        sessions.append(session)
        if when == "with":
            server.connections.shutdown()
        session.begin()
        await session.wait_over()

    async with MemoryServer(app, wire.protocol_class) as server:
        line = wire(server)
        line.ask()
        await turns()
        if when == "before":
            server.connections.shutdown()
        accepting.set()
        await turns()
        assert line.close == (1001, "the server is stopping")
        line.send(close_frame(1001))
        await turns()
        assert sessions[0].is_over
        assert line.ended


@pytest.mark.parametrize("what", ["cancelled", "failed", "returned"])
@both
async def test_the_application_leaves_it_open(
    wire: Any, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    go = asyncio.Event()
    sessions: list[Session] = []

    async def app(stream: StreamState) -> None:
        session = Session(stream, server.config, [], 4)
        stream.accept_upgrade((), session)
        session.begin()
        sessions.append(session)
        await go.wait()
        if what == "failed":
            raise LookupError("on purpose")
        if what == "cancelled":
            raise asyncio.CancelledError

    async with MemoryServer(app, wire.protocol_class) as server:
        clock = Clock()
        line = wire(server)
        line.ask()
        await turns()
        (session,) = sessions
        receiving = asyncio.ensure_future(session.receive())
        await turns()
        go.set()
        await asyncio.wait((receiving,))
        assert isinstance(receiving.exception(), WebSocketDisconnected)
        assert (session.close_code, session.is_over) == (1006, True)
        assert line.cut
        await clock.advance(100, step=10)
        assert session.buffered == 0
    assert len(caplog.records) == 1
    caplog.clear()


# -- Loss --------------------------------------------------------------------------------------

Wait = Callable[[Session, Any], Awaitable[Any]]


async def _clogged(session: Session, line: Any) -> None:
    line.stop()
    session.put(BINARY, bytes(200_000))
    await session.drain()


async def _closing(session: Session, line: Any) -> None:
    session.close(1000)
    await session.wait_over()
    raise session.disconnected()


STATES: dict[str, Wait] = {
    "receiving": lambda session, line: session.receive(),
    "sending": _clogged,
    "pinging": lambda session, line: session.ping(),
    "closing": _closing,
}


@pytest.mark.parametrize("way", ["leave", "end", "stop reading, leave"])
@pytest.mark.parametrize("wait", STATES.values(), ids=STATES)
@both
async def test_lost_in_every_state(wire: Any, wait: Wait, way: str) -> None:
    async with opened(wire, max_queue=1) as (session, line):
        waiting = asyncio.ensure_future(wait(session, line))  # type: ignore[arg-type]
        await turns(60)
        assert not waiting.done()
        if way.startswith("stop"):
            line.send(text("a") * 5)
            await turns()
        (line.end if way == "end" else line.leave)()
        await turns(20)
        if wait is not STATES["receiving"] or not way.startswith("stop"):
            assert isinstance(waiting.exception(), WebSocketDisconnected)
        assert session.is_over or (way == "end" and wait is STATES["sending"])
        assert not session.is_open
        assert session.close_code == (1000 if wait is STATES["closing"] else 1006)
        with pytest.raises(WebSocketDisconnected):
            session.put(TEXT, b"")
        assert session.keepalive._timer is None
        if session.is_over:
            assert session._close_timer is None


@pytest.mark.parametrize("count", [3, 400])
@both
async def test_what_a_lost_client_leaves_is_bounded(wire: Any, count: int) -> None:
    """Compressed, what has come may be a thousand times as much as its bytes."""
    size = 100_000

    def extensions() -> list[PerMessageDeflate]:
        return [PerMessageDeflate(False, False, 12, 12, {})]

    client = Protocol(Side.CLIENT, state=State.OPEN)
    client.extensions = list(extensions())
    for _ in range(count):
        client.send_binary(bytes(size))
    data = b"".join(client.data_to_send())
    settings = {"max_queue": 1, "extensions": extensions, "ws_max_message_size": size}
    async with opened(wire, **settings) as (session, line):
        line.send(data)
        line.end()
        await turns()
        assert session.is_over
        assert session.close_code == 1006
        found = await received(session)
        assert len(found) == (3 if count == 3 else 4)
        assert set(found) == {bytes(size)}


# -- Nothing is left ---------------------------------------------------------------------------

ENDS: dict[str, Callable[[Session, Any], Any]] = {
    "client closes": lambda session, line: line.send(close_frame()),
    "server closes": lambda session, line: (session.close(1000), line.send(close_frame())),
    "lost": lambda session, line: line.leave(),
    "ended": lambda session, line: line.end(),
    "failed": lambda session, line: line.send(frame(TEXT, b"\xff")),
    "reset": lambda session, line: session.stream.reset(),
    "lost while reading has stopped": lambda session, line: (
        line.send(text("a") * 9),
        line.leave(),
    ),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@both
async def test_a_session_is_freed(wire: Any, end: Callable[[Session, Any], Any]) -> None:
    class Watched(Session):
        __slots__ = ("__weakref__",)

    found: list[weakref.ref[Session]] = []

    async def app(stream: StreamState) -> None:
        session = Watched(stream, server.config, [], 1)
        stream.accept_upgrade((), session)
        stream.cancel_on_disconnect = False
        session.begin()
        found.append(weakref.ref(session))
        line.send(text("a"))
        await session.receive()
        waiting = asyncio.ensure_future(session.ping())
        await turns()
        end(session, line)
        await session.wait_over()
        await asyncio.wait((waiting,))
        waiting.exception()

    async with MemoryServer(app, wire.protocol_class) as server:
        line = wire(server)
        line.ask(headers=FIELDS)
        while server.connections.tasks or not found:
            await turns(5)
        if wire is Http2Line:  # the connection goes on, without any trace of it
            if not (line.exchange.ended or line.cut or line.exchange.reset_code):
                line.end()
            assert not line.protocol.closing
            assert not line.protocol.streams
        else:
            line.transport.lose()
            del line.transport, line.protocol
        gc.collect()
        loop: Any = asyncio.get_running_loop()
        assert found[0]() is None, gc.get_referrers(found[0]())
        timers = [handle for handle in loop._scheduled if not handle.cancelled()]
        assert not any("Session" in repr(handle) for handle in timers)


async def test_a_booth_is_left_when_all_is_over() -> None:
    booth = Booth()
    async with MemoryServer(booth) as server:
        lines = [Http1Line(server) for _ in range(5)]
        for line in lines:
            line.ask()
            await booth.sessions.get()
        server.connections.shutdown()
        await turns()
        for line in lines:
            assert line.close == (1001, "the server is stopping")
            line.send(close_frame(1001))
        async with asyncio.timeout(5):
            await server.connections.wait_idle()
        assert len(booth.left) == 5
