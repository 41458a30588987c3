"""
Answers that never have to wait: others get their turn of the loop, and a client that is gone ends
them, although their transport never pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from kyoukai.backends.base import PART, TURN
from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.exceptions import PeerGone, WebSocketDisconnected
from kyoukai.stream import CLOSED, StreamState
from kyoukai.testing import MemoryServer, MemoryTransport

from . import frames as f
from .support import GOOD, connect, turns
from .wires import BINARY, Http1Line, Http2Line, opened

#: More than one turn may take of pieces of any size, and far less than what would be endless.
FAR_TOO_MANY = 3 * TURN // PART

Ask = Callable[[MemoryServer], MemoryTransport]


def ask_http1(server: MemoryServer) -> MemoryTransport:
    transport = connect(server).transport
    transport.feed(GOOD)
    return transport


def ask_http2(server: MemoryServer) -> MemoryTransport:
    """Ask with windows that are never full."""
    client = f.FrameClient(server)
    most = 2**31 - 1
    client.send(f.settings({f.INITIAL_WINDOW_SIZE: most}), f.window_update(0, most - 65535))
    client.send(f.headers(1, f.request()))
    return client.transport


WIRES = pytest.mark.parametrize(
    ("protocol_class", "ask"),
    [(HttpToolsProtocol, ask_http1), (H2KyoukaiProtocol, ask_http2)],
    ids=["http1", "http2"],
)


class Turns:
    """Counts what happens within one turn of the loop, and insists that turns end."""

    def __init__(self) -> None:
        self.sent = self._since = 0
        asyncio.get_running_loop().call_soon(self._tick)
        self.over = False

    def _tick(self) -> None:
        self._since = 0
        if not self.over:
            asyncio.get_running_loop().call_soon(self._tick)

    def count(self) -> None:
        """Something was sent."""
        self.sent += 1
        self._since += 1
        assert self._since < FAR_TOO_MANY, "nobody else had a turn"


class Endless(Turns):
    """An application whose answer has no end, until the test says so."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.piece = bytes(size)
        self.leaves = False
        self.gone = False
        #: Called before each piece.
        self.before: Callable[[], None] = lambda: None

    async def __call__(self, stream: StreamState) -> None:
        self.stream = stream
        stream.cancel_on_disconnect = False
        stream.send_head(200, ())
        with contextlib.suppress(PeerGone):
            while not self.leaves:
                self.before()
                self.count()
                await stream.send_data(self.piece)
            await stream.end()
            self.over = True
            return
        self.gone = self.over = True


@WIRES
@pytest.mark.parametrize("size", [1, 1000, 65536, 1000000])
async def test_others_have_their_turn(
    protocol_class: type[HttpToolsProtocol], ask: Ask, size: int
) -> None:
    app = Endless(size)
    async with MemoryServer(app, protocol_class) as server:
        ask(server)
        seen = []
        for _ in range(3):
            await turns(4)
            seen.append(app.sent)
        app.leaves = True
        await turns(4)
    # Each turn is bounded in bytes, and in pieces.
    assert 0 < seen[0] < seen[1] < seen[2]
    assert seen[2] - seen[1] <= 4 * (TURN // (size + PART) + 1)


@WIRES
@pytest.mark.parametrize("size", [1, 65536])
async def test_a_client_that_is_gone_ends_it(
    protocol_class: type[HttpToolsProtocol], ask: Ask, size: int
) -> None:
    """As with sockets: the transport knows, and tells its protocol in the next turn only."""
    app = Endless(size)
    async with MemoryServer(app, protocol_class) as server:

        def leave() -> None:
            if app.sent == 5:
                app.stream.protocol.transport.abort()  # type: ignore[attr-defined]

        app.before = leave
        ask(server)
        async with asyncio.timeout(10):
            await server.connections.wait_idle()
    assert app.gone
    assert app.sent <= 5 + TURN // (size + PART) + 1


async def test_a_client_that_is_gone_ends_a_whole_answer_in_slices() -> None:
    """The rest of a large body is not written to nobody."""
    outcomes = []

    async def app(stream: StreamState) -> None:
        stream.cancel_on_disconnect = False
        stream.protocol.transport.abort()  # type: ignore[attr-defined]
        try:
            await stream.send_response(200, (), bytes(100 * TURN))
        except PeerGone:
            outcomes.append(stream.bytes_sent)
            raise

    async with MemoryServer(app) as server:
        ask_http1(server)
        await turns(4)
        await server.connections.wait_idle()
    assert len(outcomes) == 1
    assert outcomes[0] <= TURN


@pytest.mark.parametrize("wire", [Http1Line, Http2Line])
@pytest.mark.parametrize("gone", [False, True])
async def test_sockets(wire: type[Http1Line | Http2Line], gone: bool) -> None:
    """One who sends messages without end, to a client that takes them all, or is gone."""
    async with opened(wire, ws_write_limit=1 << 30) as (session, line):
        counted = Turns()

        async def send() -> None:
            while True:
                counted.count()
                if session.put(BINARY, b"x"):
                    await session.drain()
                if gone and counted.sent == 5:
                    line.transport.abort()

        task = asyncio.create_task(send())
        await turns(6)
        counted.over = True
        assert counted.sent > 5
        if gone:
            with pytest.raises(WebSocketDisconnected):
                await task
        task.cancel()
        await asyncio.wait((task,))


@pytest.mark.parametrize("size", [2 * TURN, 2 * TURN + 1, 40 * 65536])
async def test_a_client_that_leaves_with_its_whole_answer_is_not_lost(size: int) -> None:
    """Nothing is waited for between the last byte of a whole answer and its end."""
    ended = []

    async def app(stream: StreamState) -> None:
        await stream.send_response(200, (), bytes(size))
        ended.append(stream.sending)

    async with MemoryServer(app) as server:
        transport = ask_http1(server)

        def taken() -> None:
            if len(transport.output.partition(b"\r\n\r\n")[2]) == size:
                transport.lose()
            else:
                asyncio.get_running_loop().call_soon(taken)

        taken()
        async with asyncio.timeout(10):
            await server.connections.wait_idle()
    assert ended == [CLOSED]
