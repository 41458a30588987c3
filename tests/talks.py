"""Conversations for tests: both ends of a WebSocket, over real bytes of both protocols."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from kyoukai import Kyoukai
from kyoukai.testing import Client, WebSocketDenied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from kyoukai import WebSocket, WebSocketContext
    from kyoukai.testing import ClientResponse, ClientWebSocket, MemoryServer

#: For tests that hold on both protocols; they take ``http2``.
both = pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])


def app_with(handler: Callable[..., Any], **options: Any) -> Kyoukai:
    app = Kyoukai("test", **options)
    app.websocket("/")(handler)
    return app


def lines_of(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Return what was logged at that level or above, but for asyncio's own complaints."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= level and record.name.startswith("kyoukai")
    ]


async def greet(ctx: Any, ws: WebSocket, name: str = "nobody") -> None:
    await ws.accept()
    await ws.send_text(f"hello {name}")


async def turns(count: int = 50) -> None:
    """Let everything go on that can."""
    for _ in range(count):
        await asyncio.sleep(0)


@dataclass
class Ends:
    """Both ends of a WebSocket that was accepted, held by a handler that waits."""

    server: WebSocket
    client: ClientWebSocket
    ctx: WebSocketContext
    app: Kyoukai
    memory: MemoryServer
    #: Let the handler return.
    leave: asyncio.Event

    def client_says(self, *messages: str | bytes) -> None:
        """Send messages so that the server has them when this returns."""
        for message in messages:
            if isinstance(message, str):
                self.client.protocol.send_text(message.encode())
            else:
                self.client.protocol.send_binary(message)
        self.client.flush()


@asynccontextmanager
async def ends(
    http2: bool,
    app: Kyoukai | None = None,
    *,
    deflate: bool = False,
    settings: dict[str, Any] | None = None,
) -> AsyncIterator[Ends]:
    """Open a WebSocket, and hand out both ends."""
    app = app or Kyoukai("test")
    accepted: asyncio.Future[tuple[WebSocketContext, WebSocket]]
    accepted = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    @app.websocket("/ends")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()
        accepted.set_result((ctx, ws))
        await leave.wait()

    async with Client(app, ws_deflate=deflate, **(settings or {})) as client:
        try:
            async with client.websocket("/ends", http2=http2, deflate=deflate) as ws:
                ctx, server = await accepted
                yield Ends(server, ws, ctx, app, client.server, leave)
                leave.set()
        finally:
            leave.set()


@dataclass
class Outcome:
    """How a conversation ended."""

    #: The answer that denied it; None if it was accepted.
    denied: ClientResponse | None = None
    #: The close code and reason that the client saw.
    code: int | None = None
    reason: str | None = None
    messages: tuple[str | bytes, ...] = ()

    @property
    def status(self) -> int | None:
        """The status of the answer that denied it."""
        return None if self.denied is None else self.denied.status


async def ask(app: Kyoukai, target: str = "/", *, http2: bool, **options: Any) -> Outcome:
    """Open a WebSocket, receive until the server closes, and say how that ended."""
    async with Client(app) as client:
        return await converse(client, target, http2=http2, **options)


async def converse(client: Client, target: str = "/", *, http2: bool, **options: Any) -> Outcome:
    """As ``ask``, with a client that there is."""
    try:
        async with client.websocket(target, http2=http2, **options) as ws:
            messages = tuple([message async for message in ws])
    except WebSocketDenied as denied:
        return Outcome(denied.response)
    return Outcome(None, ws.close_code, ws.close_reason, messages)


async def run(
    handler: Callable[[WebSocketContext, WebSocket], Any],
    *,
    http2: bool,
    app: Kyoukai | None = None,
    **options: Any,
) -> Outcome:
    """Let a handler have a conversation; what it asserts is asserted."""
    app = app or Kyoukai("test")
    wrong: list[AssertionError] = []

    @app.websocket("/")
    async def watched(ctx: WebSocketContext, ws: WebSocket) -> None:
        try:
            await handler(ctx, ws)
        except AssertionError as error:
            wrong.append(error)
            raise

    outcome = await ask(app, http2=http2, **options)
    for error in wrong:
        raise error
    return outcome
