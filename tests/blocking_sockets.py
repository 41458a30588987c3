"""
``connect``: a WebSocket for tests that block, over plain TCP and over TLS.

``websockets.sync`` reads in a thread while another one writes. Python's TLS does not bear that:
once in some hundreds of handshakes the answer is lost, whatever the server. So the client for
asyncio does the work, in a loop of its own.
"""

from __future__ import annotations

import asyncio
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_connection

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from websockets.http11 import Response


class BlockingSocket:
    """
    A client's WebSocket.

    :param socket: the one for asyncio
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def __enter__(self) -> BlockingSocket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def response(self) -> Response:
        """The answer to the handshake."""
        assert self._socket.response is not None
        return self._socket.response

    @property
    def subprotocol(self) -> str | None:
        """What the server has chosen."""
        return self._socket.subprotocol

    @property
    def close_code(self) -> int | None:
        """The code that the socket was closed with."""
        return self._socket.close_code

    @property
    def close_reason(self) -> str | None:
        """The reason that goes with it."""
        return self._socket.close_reason

    def send(self, message: str | bytes) -> None:
        """Send a message."""
        _run(self._socket.send(message))

    def recv(self, timeout: float = 30) -> Any:
        """Wait for a message."""
        return _run(asyncio.wait_for(self._socket.recv(), timeout))

    def close(self, code: int = 1000) -> None:
        """Close the socket, and wait until the server has done so, too."""
        _run(self._socket.close(code))


def connect(url: str, **options: Any) -> BlockingSocket:
    """
    Open a WebSocket; parameters are those of ``websockets.asyncio.client.connect``.

    :raises InvalidStatus: if the server refuses
    """
    options = {"proxy": None, "open_timeout": 30, **options}
    return BlockingSocket(_run(_open(url, options)))


async def _open(url: str, options: dict[str, Any]) -> ClientConnection:
    return await open_connection(url, **options)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(60)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop
