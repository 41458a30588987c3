"""What the tests of raw tunnels share."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kyoukai.stream import OPEN, StreamState
from kyoukai.testing import MemoryServer

from .support import Stage, turns
from .wires import Http2Line

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
