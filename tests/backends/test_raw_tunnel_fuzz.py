"""Random conversations through raw tunnels: order holds, nothing is lost, and nothing is left."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from kyoukai.exceptions import PeerGone
from kyoukai.stream import CLOSED

from .raw import Raw, pattern, raw_tunnel
from .support import turns
from .wires import Http2Line, both

LIMITS = {"read_buffer_size": 4096, "h2_stream_window": 8192, "write_buffer_size": 4096}


class Conversation:
    """Both ends of a tunnel, and what each has sent and received."""

    def __init__(self, rng: random.Random, raw: Raw, early: bytes) -> None:
        self.rng = rng
        self.stream = raw.stream
        self.line = raw.line
        self.said = bytearray(early)
        self.heard = bytearray()
        self.sent = bytearray()
        self.failures: list[BaseException] = []
        self.client_ended = self.server_ended = False
        self.hearing = asyncio.ensure_future(self._hear())
        self.saying: asyncio.Future[None] | None = None

    async def _hear(self) -> None:
        try:
            while data := await self.stream.receive():
                self.heard += data
                await turns(self.rng.randrange(4))
        except PeerGone as error:
            self.failures.append(error)

    async def _say(self, data: bytes) -> None:
        self.sent += data
        try:
            await self.stream.send_data(data)
        except PeerGone as error:
            self.failures.append(error)

    @property
    def is_silent(self) -> bool:
        """Whether nothing that the server sends waits."""
        return self.saying is None or self.saying.done()

    def client_speaks(self) -> None:
        if not self.client_ended:
            data = self.rng.randbytes(self.rng.choice((1, 100, 20_000)))
            self.said += data
            self.line.send(data)

    def server_speaks(self) -> None:
        if not self.server_ended and self.is_silent:
            data = self.rng.randbytes(self.rng.choice((1, 100, 70_000)))
            self.saying = asyncio.ensure_future(self._say(data))

    def client_ends(self) -> None:
        if not self.client_ended:
            self.client_ended = True
            self.line.end()

    async def server_ends(self) -> None:
        if not self.server_ended and self.is_silent and not self.failures:
            self.server_ended = True
            await self.stream.end()

    async def step(self) -> None:
        chance = self.rng.random()
        if chance < 0.35:
            self.client_speaks()
        elif chance < 0.7:
            self.server_speaks()
        elif chance < 0.8:
            self.line.hold()
        elif chance < 0.93:
            self.line.release()
        elif chance < 0.965:
            self.client_ends()
        else:
            await self.server_ends()
        await turns(self.rng.randrange(6))


@pytest.mark.parametrize("seed", range(40))
@both
async def test_random_conversations(wire: Any, seed: int) -> None:
    rng = random.Random(seed)
    early = pattern(rng.randrange(3) * 50)
    async with raw_tunnel(wire, early, **LIMITS) as raw:
        stream, line = raw.stream, raw.line
        ends = Conversation(rng, raw, early)
        for _ in range(rng.randrange(5, 60)):
            await ends.step()
        line.release()
        await turns(rng.randrange(40))
        how = rng.choice(("end", "end", "reset", "leave"))
        if how == "end":
            if ends.saying is not None:
                await ends.saying
            await ends.server_ends()
            ends.client_ends()
            await ends.hearing
        elif how == "reset":
            stream.reset()
        else:
            line.leave()
        await turns(40)
        assert ends.hearing.done()
        assert ends.is_silent
        assert ends.said.startswith(ends.heard)
        assert ends.sent.startswith(line.data)
        if how == "end":
            assert (ends.heard, line.data) == (ends.said, ends.sent)
            assert ends.failures == []
            assert not line.cut
            assert (stream.sending, stream.receiving) == (CLOSED, CLOSED)
        await raw.ends()
        assert stream.buffered == 0
        if wire is Http2Line:
            assert len(line.protocol._scheduler) == 0
            window = line.protocol.h2.inbound_flow_control_window
            assert window >= line.protocol.config.h2_connection_window // 2
