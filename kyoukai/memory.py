"""
Servers and connections in memory: real protocols and real bytes, no sockets.

The classes here are what :mod:`kyoukai.testing` is made of, for tests that care about bytes, slow
readers or lost connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httptools
import msgspec
from asphalt.core import Context
from asphalt.core.component import component_types
from werkzeug.datastructures import Headers

from kyoukai.app import Kyoukai
from kyoukai.backends.base import BaseProtocol
from kyoukai.backends.connections import Connections
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.config import ServerConfig
from kyoukai.interfaces.native import NativeInterface
from kyoukai.server.options import backend_class

if TYPE_CHECKING:
    from kyoukai.stream import Interface, StreamState

__all__ = (
    "ClientResponse",
    "Connection",
    "HeaderList",
    "MemoryServer",
    "MemoryTransport",
    "header_pairs",
)

#: Bytes that a protocol gets at a time, as from a socket.
_READ_SIZE = 262144

HeaderList = Mapping[str, str] | Iterable[tuple[str, str]]


class MemoryTransport(asyncio.Transport):
    """
    A transport whose other end is the test.

    Like a socket's, it tells the protocol to pause when more than its limit waits unread; ``hold``
    makes the test a reader that takes nothing.

    :param protocol: the protocol to drive
    :param extra: what ``get_extra_info`` returns
    """

    def __init__(self, protocol: asyncio.Protocol, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(extra)
        self.protocol = protocol
        #: What the protocol has written and the test has not taken.
        self.output = bytearray()
        self.held = False
        self.eof_written = False
        self.closed = False
        self.aborted = False
        self.changed = asyncio.Event()
        self._extra: dict[str, Any] = {
            "peername": ("127.0.0.1", 50000),
            "sockname": ("127.0.0.1", 8000),
            **(extra or {}),
        }
        self._closing = False
        self._paused = False
        self._high = 65536
        self._pending: deque[bytes | None] = deque()
        self._reading = True
        self._loop = asyncio.get_running_loop()

    # -- What the protocol calls ---------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the test said the connection is like."""
        return self._extra.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol go on with the connection."""
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that has the connection."""
        return self.protocol

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set how much may wait before the protocol is told to pause."""
        self._high = 65536 if high is None else high

    def get_write_buffer_size(self) -> int:
        """Return how much waits for the test, while it holds."""
        return len(self.output) if self.held else 0

    def write(self, data: Any) -> None:
        """Write bytes to the test."""
        if self._closing or self.eof_written:
            return
        self.output += data
        self.changed.set()
        if self.held and not self._paused and len(self.output) > self._high:
            self._paused = True
            self.protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """Whether the direction to the test can be closed alone: not with TLS."""
        return self._extra.get("ssl_object") is None

    def write_eof(self) -> None:
        """Close the direction to the test."""
        self.eof_written = True
        self.changed.set()

    def close(self) -> None:
        """Close the connection, soon."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """Cut the connection, soon."""
        self.aborted = True
        if not self._closing or not self.closed:
            self._closing = True
            self._loop.call_soon(self._lose, None)

    def is_reading(self) -> bool:
        """Whether the protocol takes bytes."""
        return self._reading

    def pause_reading(self) -> None:
        """Take no bytes for now."""
        self._reading = False

    def resume_reading(self) -> None:
        """Take bytes again."""
        self._reading = True
        self._loop.call_soon(self._deliver)  # never at once, as with sockets

    # -- What the test calls -------------------------------------------------------------------

    def hold(self) -> None:
        """Take nothing more of what the protocol writes."""
        self.held = True

    def release(self) -> bytes:
        """Take what waits, and go on taking."""
        self.held = False
        data = self.take()
        if self._paused:
            self._paused = False
            self.protocol.resume_writing()
        return data

    def take(self) -> bytes:
        """Return what was written since the last call."""
        data = bytes(self.output)
        self.output.clear()
        return data

    def feed(self, data: bytes) -> None:
        """Send bytes to the protocol; they wait while it has paused reading."""
        for start in range(0, len(data), _READ_SIZE):  # no socket gives more at a time
            self._pending.append(data[start : start + _READ_SIZE])
        self._deliver()

    def feed_eof(self) -> None:
        """Close the test's direction."""
        self._pending.append(None)
        self._deliver()

    def lose(self, error: Exception | None = None) -> None:
        """Break the connection, as a reset does."""
        self._closing = True
        self._lose(error)

    def _deliver(self) -> None:
        while self._pending and self._reading and not self._closing:
            data = self._pending.popleft()
            if data is not None:
                self.protocol.data_received(data)
            elif not self.protocol.eof_received():
                self.close()

    def _lose(self, error: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self.changed.set()
            self.protocol.connection_lost(error)


class MemoryServer:
    """
    A server without sockets.

    :param app: an application, or any interface: an async callable that takes a stream
    :param protocol_class: what its connections speak
    :param settings: settings of ``ServerConfig``; the access log is off by default
    """

    def __init__(
        self,
        app: Kyoukai | Interface,
        protocol_class: type[BaseProtocol] = HttpToolsProtocol,
        **settings: Any,
    ) -> None:
        self.config = ServerConfig(**{"access_log": False, **settings})
        self.connections = Connections(self.config.max_connections)
        self.protocol_class = protocol_class
        #: Streams that were logged, in order.
        self.logged: list[StreamState] = []
        self._stack = AsyncExitStack()
        self._native: NativeInterface | None = None
        if isinstance(app, Kyoukai):
            self._native = NativeInterface(app, self.config)
            self.interface: Interface = self._native
        else:
            self.interface = app

    def switch_target(self, name: str) -> BaseProtocol | None:
        """Make the protocol that a connection may go on with: ``h2`` is HTTP/2."""
        return backend_class("http2")(self) if name == "h2" else None

    def log_access(self, stream: StreamState) -> None:
        """Keep the stream for the test to look at."""
        self.logged.append(stream)

    async def __aenter__(self) -> MemoryServer:
        if self._native is not None:
            context = Context()
            self._stack.push_async_callback(context.close)
            for alias, (kind, config) in self._native.app.components.items():
                component = component_types.create_object(kind or alias, **config)
                await component.start(context)
            await self._native.startup(context)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.connections.abort()
        await self.connections.wait_idle()
        if self._native is not None:
            await self._native.shutdown()
            await self._stack.aclose()

    def connect(self, **extra: Any) -> Connection:
        """
        Open a connection.

        :param extra: what the transport's ``get_extra_info`` returns, such as ``peername``
        """
        protocol = self.protocol_class(self)
        transport = MemoryTransport(protocol, extra)
        protocol.connection_made(transport)
        return Connection(transport)


class Connection:
    """
    One HTTP/1.1 connection, from the client's side.

    :param transport: the transport whose other end is the server's protocol
    """

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self._methods: deque[str] = deque()
        self._ready: deque[ClientResponse] = deque()
        self._reader = _ResponseReader(self._methods, self._ready)

    def send(self, data: bytes, *methods: str) -> None:
        """
        Send bytes as they are.

        :param methods: the methods of the requests in them, if not all are GET: answers to HEAD
            have no body
        """
        self._methods.extend(methods)
        self.transport.feed(data)

    def request(
        self,
        method: str,
        target: str,
        headers: HeaderList = (),
        body: bytes | None = None,
        chunks: Iterable[bytes] | None = None,
        trailers: HeaderList = (),
    ) -> None:
        """
        Send a request.

        :param target: path and query
        :param headers: more headers than Host and the framing
        :param body: a body, sent with its length
        :param chunks: a body, sent in these chunks
        :param trailers: header lines after the chunks
        """
        self._methods.append(method)
        pairs = header_pairs(headers)
        if not any(name.lower() == "host" for name, _ in pairs):
            pairs.insert(0, ("Host", "localhost"))
        if body is not None:
            pairs.append(("Content-Length", str(len(body))))
        if chunks is not None:
            pairs.append(("Transfer-Encoding", "chunked"))
        lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
        data = f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + (body or b"")
        if chunks is not None:
            data += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
            ends = "".join(f"{name}: {value}\r\n" for name, value in header_pairs(trailers))
            data += f"0\r\n{ends}\r\n".encode("latin-1")
        self.transport.feed(data)

    async def response(self) -> ClientResponse:
        """
        Wait for the next response.

        :raises ConnectionError: if the server closes before it is complete
        """
        while True:
            self._reader.feed(self.transport.take())
            if self._ready:
                return self._ready.popleft()
            if self.transport.closed or self.transport.eof_written:
                self._reader.end()
                if self._ready:
                    return self._ready.popleft()
                raise ConnectionError("the server closed the connection before its answer ended")
            self.transport.changed.clear()
            await self.transport.changed.wait()

    async def closed(self) -> None:
        """Wait until the server closes the connection, or its direction of it."""
        while not (self.transport.closed or self.transport.eof_written):
            self.transport.changed.clear()
            await self.transport.changed.wait()

    def close(self) -> None:
        """Close the connection."""
        if not self.transport.closed:
            self.transport.lose()


class ClientResponse:
    """A response as the client sees it."""

    def __init__(self) -> None:
        self.status = 0
        self.reason = ""
        self.headers = Headers()
        self.trailers = Headers()
        self.body = b""
        #: Interim responses that came before: status and headers.
        self.informational: list[tuple[int, Headers]] = []

    @property
    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)

    def __repr__(self) -> str:
        return f"<ClientResponse {self.status} {len(self.body)} bytes>"


class _ResponseReader:
    """Parses responses; each parser sees one, as an answer to HEAD must end at its head."""

    def __init__(self, methods: deque[str], ready: deque[ClientResponse]) -> None:
        self._methods = methods
        self._ready = ready
        self._buffer = b""
        self._informational: list[tuple[int, Headers]] = []
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._response = ClientResponse()
        self._in_head = True
        self._headers: list[tuple[bytes, bytes]] = []
        self._done = False
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes from the server."""
        self._buffer += data
        while self._buffer:
            if self._in_head:
                end = self._buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                head, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
                self._parser.feed_data(head)
                self._head_complete()
                continue
            length = self._response.headers.get("Content-Length", type=int)
            if length is not None:
                rest = length - len(self._body)
                piece, self._buffer = self._buffer[:rest], self._buffer[rest:]
                self._body += piece
                if len(self._body) == length:
                    self._finish()
            elif self._response.headers.get("Transfer-Encoding") == "chunked":
                # A byte at a time: the parser does not say how much it has taken.
                for index in range(len(self._buffer)):
                    self._parser.feed_data(self._buffer[index : index + 1])
                    if self._done:
                        self._buffer = self._buffer[index + 1 :]
                        self._finish()
                        break
                else:
                    self._buffer = b""
            else:
                self._body += self._buffer
                self._buffer = b""

    def _head_complete(self) -> None:
        response = self._response
        response.status = self._parser.get_status_code()
        for name, value in self._headers:
            response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        self._headers = []
        if response.status < 200 and response.status != 101:
            self._informational.append((response.status, response.headers))
            self._begin()
            return
        response.informational, self._informational = self._informational, []
        self._in_head = False
        method = self._methods.popleft() if self._methods else "GET"
        empty = response.headers.get("Content-Length") == "0"
        if method == "HEAD" or response.status in (101, 204, 304) or empty:
            self._finish()

    def end(self) -> None:
        """The server has closed: a body without a length ends here."""
        headers = self._response.headers
        if not self._in_head and not {"content-length", "transfer-encoding"} & {
            name.lower() for name, _ in headers
        }:
            self._finish()

    def _finish(self) -> None:
        self._response.body = bytes(self._body)
        for name, value in self._headers:
            self._response.trailers.add(name.decode("latin-1"), value.decode("latin-1"))
        self._ready.append(self._response)
        self._begin()

    def on_status(self, status: bytes) -> None:
        """Parser callback: the reason."""
        self._response.reason += status.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Parser callback: a header or trailer."""
        self._headers.append((name, value))

    def on_body(self, data: bytes) -> None:
        """Parser callback: some of the body."""
        self._body += data

    def on_message_complete(self) -> None:
        """Parser callback: the end."""
        self._done = True


def header_pairs(headers: HeaderList) -> list[tuple[str, str]]:
    """Return headers as a list of pairs."""
    return list(headers.items() if isinstance(headers, Mapping) else headers)
