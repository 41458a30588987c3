"""
Testing applications: with made-up requests, and with real bytes over a transport in memory.

``TestKyoukai`` injects a request into the pipeline. ``Client`` goes all the way: it writes HTTP/1.1
bytes to the real protocol and parses what comes back, without a socket. It opens WebSockets, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import msgspec
from asphalt.core import Context

from kyoukai.app import Kyoukai
from kyoukai.blueprint import Blueprint
from kyoukai.memory import MemoryServer, MemoryTransport
from kyoukai.memory_handshake import WebSocketDenied, open_websocket
from kyoukai.memory_http1 import ClientResponse, Connection, HeaderList, header_pairs
from kyoukai.memory_websocket import ClientWebSocket
from kyoukai.wsgi import to_wsgi_environment

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from werkzeug.wrappers import Response as WerkzeugResponse

__all__ = (
    "Client",
    "ClientResponse",
    "ClientWebSocket",
    "Connection",
    "MemoryServer",
    "MemoryTransport",
    "TestKyoukai",
    "WebSocketDenied",
)


class TestKyoukai(Kyoukai):
    """
    An application for tests.

    :param base_context: the parent of the contexts of injected requests
    """

    __test__ = False  # for pytest, which would take it for a test case

    def __init__(
        self, name: str = "test", *, base_context: Context | None = None, **options: Any
    ) -> None:
        super().__init__(name, **options)
        self.base_context = base_context

    @classmethod
    def wrap_existing_app(cls, app: Kyoukai, *, base_context: Context | None = None) -> TestKyoukai:
        """Return a test application with the routes, classes and configuration of another."""
        wrapped = cls.__new__(cls)
        wrapped.__dict__.update(app.__dict__)
        wrapped.base_context = base_context
        wrapped._own_pipeline = None
        return wrapped

    @contextmanager
    def testing_bp(self) -> Iterator[Blueprint]:
        """Put a fresh root blueprint in place for the length of a ``with`` statement."""
        before = self.root
        self.root = Blueprint(f"{self.name}-testing")
        try:
            yield self.root
        finally:
            self.root = before

    async def inject_request(
        self,
        headers: HeaderList,
        url: str,
        method: str = "GET",
        body: str | bytes | None = None,
    ) -> WerkzeugResponse:
        """
        Handle a request that never was on a wire.

        :param headers: its headers
        :param url: its path, and perhaps a query
        :param method: its method
        :param body: its body
        """
        data = body.encode() if isinstance(body, str) else body or b""
        environ = to_wsgi_environment(headers, method, url, "1.1", BytesIO(data))
        environ.setdefault("CONTENT_LENGTH", str(len(data)))
        self.finalize()
        request = self.request_class(environ)
        return await self.process_request(request, self.base_context)

    def client(self, **settings: Any) -> Client:
        """Return a client for this application; settings are those of ``ServerConfig``."""
        return Client(self, **settings)


class Client:
    """
    A client for tests: real HTTP/1.1 bytes, no socket.

    Requests of one client share a connection, one after the other::

        async with Client(app) as client:
            response = await client.get("/users/12?q=1")
            assert response.json() == {"id": 12, "q": "1"}

    :param app: the application
    :param interface: the kind of an application that is no Kyoukai application, such as ``wsgi``;
        ``auto`` finds out
    :param settings: settings of ``ServerConfig``
    """

    def __init__(self, app: Any, *, interface: str | None = None, **settings: Any) -> None:
        self.server = MemoryServer(app, interface=interface, **settings)
        self._connection: Connection | None = None

    async def __aenter__(self) -> Client:
        await self.server.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.server.__aexit__(*exc)

    def connect(self, **extra: Any) -> Connection:
        """Open a connection of its own, for tests that care about bytes."""
        return self.server.connect(**extra)

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: HeaderList = (),
        body: str | bytes | None = None,
        json: Any = None,
        chunks: Iterable[bytes] | None = None,
        trailers: HeaderList = (),
    ) -> ClientResponse:
        """
        Send a request and wait for its response.

        :param target: path and query
        :param headers: more headers
        :param body: the body
        :param json: an object to send as JSON
        :param chunks: a body to send in chunks
        :param trailers: header lines after the chunks
        """
        pairs = header_pairs(headers)
        if json is not None:
            body = msgspec.json.encode(json)
            pairs.append(("Content-Type", "application/json"))
        if isinstance(body, str):
            body = body.encode()
        if self._connection is None or self._connection.transport.is_closing():
            self._connection = self.connect()
        connection = self._connection
        if connection.transport.eof_written:
            connection.close()
            connection = self._connection = self.connect()
        connection.request(method, target, pairs, body, chunks, trailers)
        return await connection.response()

    async def get(self, target: str, **options: Any) -> ClientResponse:
        """Send a GET request."""
        return await self.request("GET", target, **options)

    async def head(self, target: str, **options: Any) -> ClientResponse:
        """Send a HEAD request."""
        return await self.request("HEAD", target, **options)

    async def options(self, target: str, **options: Any) -> ClientResponse:
        """Send an OPTIONS request."""
        return await self.request("OPTIONS", target, **options)

    async def post(self, target: str, **options: Any) -> ClientResponse:
        """Send a POST request."""
        return await self.request("POST", target, **options)

    async def put(self, target: str, **options: Any) -> ClientResponse:
        """Send a PUT request."""
        return await self.request("PUT", target, **options)

    async def patch(self, target: str, **options: Any) -> ClientResponse:
        """Send a PATCH request."""
        return await self.request("PATCH", target, **options)

    async def delete(self, target: str, **options: Any) -> ClientResponse:
        """Send a DELETE request."""
        return await self.request("DELETE", target, **options)

    def websocket(
        self,
        target: str,
        *,
        headers: HeaderList = (),
        subprotocols: Iterable[str] = (),
        http2: bool = False,
        deflate: bool = False,
    ) -> AbstractAsyncContextManager[ClientWebSocket]:
        """
        Open a WebSocket on a connection of its own::

            async with client.websocket("/echo") as ws:
                await ws.send_text("hello")
                assert await ws.receive_text() == "hello"

        At the end, it closes with 1000 and waits until the server has closed, ``ws_close_timeout``
        at most. After an error, it is cut instead.

        :param target: path and query
        :param headers: more headers; they replace those of the handshake that have the same name
        :param subprotocols: the subprotocols to offer
        :param http2: whether to open it by extended CONNECT on HTTP/2 (RFC 8441)
        :param deflate: whether to offer permessage-deflate (RFC 7692)
        :raises WebSocketDenied: if the server answers with anything but a WebSocket
        :raises AssertionError: if the server breaks a protocol
        :raises ConnectionError: if the server closes before it has answered
        """
        transport = self.server.connect_http2() if http2 else self.connect().transport
        return open_websocket(
            transport,
            target,
            headers=headers,
            subprotocols=subprotocols,
            http2=http2,
            deflate=deflate,
            close_timeout=self.server.config.ws_close_timeout,
        )
