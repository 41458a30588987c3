"""Random conversations over both wires: whatever happens, order holds, and nothing is left."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from kyoukai.exceptions import OperationNotAllowed, WebSocketDisconnected
from kyoukai.testing import MemoryServer
from kyoukai.ws.session import Session

from .support import Clock, turns
from .wires import (
    BINARY,
    CONT,
    PING,
    PONG,
    TEXT,
    Booth,
    Http2Line,
    both,
    close_frame,
    frame,
    received,
    text,
)

SETTINGS: dict[str, Any] = {
    "access_log": True,
    "ws_write_limit": 4096,
    "ws_max_message_size": 100_000,
    "ws_ping_burst": 1_000_000,
    "ws_close_timeout": 5,
    "read_buffer_size": 4096,
    "h2_stream_window": 20_000,
    "h2_control_burst": 1_000_000,
}


class Conversation:
    """Both ends of a tunnel, and what each has sent and received."""

    def __init__(self, rng: random.Random, session: Session, line: Any) -> None:
        self.rng = rng
        self.session = session
        self.line = line
        self.said: list[bytes] = []
        self.heard: list[str | bytes] = []
        self.sent: list[bytes] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.pending = b""
        self.client_ended = False
        self.broken = False

    def payload(self) -> bytes:
        size = self.rng.choice((0, 1, 10, 125, 126, 1000, 5000, 70_000))
        return len(self.said).to_bytes(4) * (size // 4 + 1)

    # -- What the client does ------------------------------------------------------------------

    def client_speaks(self) -> None:
        payload = self.payload()
        self.said.append(payload)
        cut = self.rng.randrange(len(payload) + 1)
        if self.rng.random() < 0.3:
            self.pending += frame(BINARY, payload[:cut], fin=False)
            if self.rng.random() < 0.5:
                self.pending += frame(PING, b"between")
            self.pending += frame(CONT, payload[cut:])
        else:
            self.pending += frame(BINARY, payload)

    def client_flushes(self, whole: bool = False) -> None:
        size = len(self.pending) if whole else self.rng.randrange(len(self.pending) + 1)
        data, self.pending = self.pending[:size], self.pending[size:]
        if data and not self.client_ended:
            self.line.send(data)

    def client_closes(self) -> None:
        self.pending += close_frame(self.rng.choice((None, 1000, 4000)))

    def client_errs(self) -> None:
        self.broken = True
        self.pending += self.rng.choice(
            (text("x", mask=None), frame(TEXT, b"\xff"), frame(3), frame(BINARY, bytes(100_001)))
        )

    def client_ends(self) -> None:
        if not self.client_ended:
            self.client_flushes(whole=self.rng.random() < 0.5)
            self.client_ended = True
            self.line.end()

    def client_leaves(self) -> None:
        self.client_ended = True
        self.line.leave()

    # -- What the server does ------------------------------------------------------------------

    async def _receive(self) -> None:
        try:
            for _ in range(self.rng.choice((1, 2, 10))):
                self.heard.append(await self.session.receive())
        except (WebSocketDisconnected, OperationNotAllowed):
            pass

    async def _send(self) -> None:
        payload = len(self.sent).to_bytes(4) * self.rng.choice((0, 1, 100, 5000, 30_000))
        try:
            full = self.session.put(BINARY, payload)
            self.sent.append(payload)
            if full:
                await self.session.drain()
        except WebSocketDisconnected:
            pass

    async def _ping(self) -> None:
        try:
            await self.session.ping()
        except WebSocketDisconnected:
            pass

    def start(self, work: Any) -> None:
        task = asyncio.ensure_future(work())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def cancel(self) -> None:
        if self.tasks:
            self.rng.choice(list(self.tasks)).cancel()

    def step(self) -> None:
        rng = self.rng
        often = (self.client_speaks, self.client_speaks, self.client_flushes, self.client_flushes)
        server = tuple(
            lambda work=work: self.start(work)
            for work in (self._receive, self._receive, self._send, self._send, self._ping)
        )
        rare = (
            self.client_closes,
            self.client_errs,
            self.client_ends,
            self.client_leaves,
            lambda: self.session.close(rng.choice((1000, 3000))),
            self.session.stream.reset,
            self.line.hold,
            self.line.stop,
            self.cancel,
            lambda: setattr(self, "pending", self.pending + frame(PONG, b"any")),
        )
        chance = rng.random()
        rng.choice(often if chance < 0.5 else server if chance < 0.93 else rare)()


@pytest.mark.parametrize("max_queue", [0, 1, 4])
@pytest.mark.parametrize("batch", range(4))
@both
async def test_random_conversations(wire: Any, batch: int, max_queue: int) -> None:
    clock = Clock()
    for seed in range(10 * batch, 10 * batch + 10):
        rng = random.Random(seed * 10 + max_queue)
        booth = Booth(max_queue)
        async with MemoryServer(booth, wire.protocol_class, **SETTINGS) as server:
            line = wire(server)
            line.ask()
            session = await booth.sessions.get()
            both_ends = Conversation(rng, session, line)
            for _ in range(rng.randrange(5, 60)):
                both_ends.step()
                if rng.random() < 0.5:
                    await turns(rng.randrange(6))
                if rng.random() < 0.05:
                    await clock.advance(rng.choice((0.1, 3)))
            # The end: whatever the client has done, the server gets rid of it.
            both_ends.client_flushes(whole=True)
            session.close(1000)
            await clock.advance(200, step=5)
            assert session.is_over, seed
            for task in tuple(both_ends.tasks):
                task.cancel()
            await turns()
            both_ends.heard += await received(session)
            found = both_ends.heard
            assert found == both_ends.said[: len(found)], seed
            payloads = [payload for opcode, payload in line.frames if opcode == BINARY]
            assert payloads == both_ends.sent[: len(payloads)], seed
            assert booth.left == [session.stream] == server.logged, seed
            assert not session.keepalive._waiting
            assert session.keepalive._timer is None
            assert session._close_timer is None
            if wire is Http2Line and not line.transport.closed:
                assert line.protocol.streams == {}
                assert len(line.protocol._scheduler) == 0
                window = line.protocol.h2.inbound_flow_control_window
                assert window >= line.protocol.config.h2_connection_window // 2, seed
