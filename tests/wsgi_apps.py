"""What the tests of WSGI share: applications served on both wires, and gates between threads."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from backends.test_contract import PEERS

from kyoukai import ServerConfig
from kyoukai.interfaces.wsgi import WsgiInterface
from kyoukai.testing import MemoryServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from kyoukai.testing import ClientResponse

#: For tests that hold on both protocols; they take ``wire``.
both = pytest.mark.parametrize("wire", ["http1", "http2"])
#: And both ways to leave on HTTP/2.
leaving = pytest.mark.parametrize("wire", list(PEERS))

PLAIN = [("Content-Type", "text/plain")]


class Gate:
    """What one thread waits for and another opens; no test waits forever."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self) -> None:
        self._event.set()

    @property
    def is_open(self) -> bool:
        return self._event.is_set()

    def wait(self) -> None:
        """Wait in a thread."""
        assert self._event.wait(20), "the gate was not opened"

    async def opened(self) -> None:
        """Wait on the loop, which goes on."""
        assert await asyncio.to_thread(self._event.wait, 20), "the gate was not opened"


class Site:
    """A server with a WSGI application."""

    def __init__(self, server: MemoryServer, wire: str, interface: WsgiInterface) -> None:
        self.server = server
        self.interface = interface
        self._peer_class = PEERS[wire]

    def dial(self) -> Any:
        """Connect another client."""
        return self._peer_class(self.server)

    async def ask(self, method: str = "GET", target: str = "/", **options: Any) -> ClientResponse:
        """Send a request on a connection of its own, and wait for the answer."""
        peer = self.dial()
        peer.request(method, target, **options)
        response: ClientResponse = await peer.response()
        return response


@asynccontextmanager
async def hosted(
    app: Any, wire: str = "http1", *, max_body_size: int | None = None, **settings: Any
) -> AsyncIterator[Site]:
    """Serve an application."""
    config = ServerConfig(access_log=False, **settings)
    interface = WsgiInterface(app, config, name="project:app", max_body_size=max_body_size)
    async with MemoryServer(interface, PEERS[wire].protocol_class, **settings) as server:
        yield Site(server, wire, interface)
        # A client may have its answer before the thread has closed the iterable.
        if tasks := tuple(server.connections.tasks):
            _, pending = await asyncio.wait(tasks, timeout=20)
            assert not pending, "a thread is not done"


async def answer_of(
    app: Any, wire: str = "http1", method: str = "GET", target: str = "/", **options: Any
) -> ClientResponse:
    """Serve an application for one request."""
    async with hosted(app, wire) as site:
        return await site.ask(method, target, **options)


def saying(result: Any, status: str = "200 OK", headers: Any = None) -> Callable[..., Any]:
    """An application that starts its response with this, and returns that."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, PLAIN if headers is None else headers)
        return result() if callable(result) else result

    return app


class Body:
    """An iterable of chunks that knows whether it was closed, and where."""

    def __init__(self, chunks: Iterable[Any]) -> None:
        self._chunks = iter(chunks)
        self.closed = Gate()
        self.closings = 0
        self.taken = 0
        self.threads = {threading.get_ident()}

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> Any:
        self.threads.add(threading.get_ident())
        chunk = next(self._chunks)
        self.taken += 1
        return chunk

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closings += 1
        self.closed.open()
