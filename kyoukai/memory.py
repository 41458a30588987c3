"""
Servers and connections in memory: real protocols and real bytes, no sockets.

The classes here are what :mod:`kyoukai.testing` is made of, for tests that care about bytes, slow
readers or lost connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from asphalt.core import Context
from asphalt.core.component import component_types

from kyoukai.app import Kyoukai
from kyoukai.backends.base import BaseProtocol
from kyoukai.backends.connections import Connections
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.config import ServerConfig
from kyoukai.interfaces.build import interface_for
from kyoukai.interfaces.mounts import natives_of, shut_down, start_up
from kyoukai.memory_http1 import ClientResponse, Connection, HeaderList, header_pairs
from kyoukai.proxy import Proxy, is_upstream
from kyoukai.server.options import backend_class, is_backend

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
        self._loop.call_soon(self._deliver_late)  # never at once, as with sockets

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

    @property
    def untaken(self) -> int:
        """How many bytes the test has sent that the protocol has not taken."""
        return sum(len(data) for data in self._pending if data is not None)

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

    def _deliver_late(self) -> None:
        if self._pending:
            self._deliver()
            self.changed.set()  # whoever waits to send more may

    def _lose(self, error: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self.changed.set()
            self.protocol.connection_lost(error)


class MemoryServer:
    """
    A server without sockets.

    :param app: a Kyoukai application, a :class:`~kyoukai.proxy.Proxy` or the URL of a server; with
        ``interface`` one of any kind; otherwise an interface, an async callable that takes a stream
    :param protocol_class: what its connections speak
    :param interface: the kind of the application: ``asgi``, ``rsgi``, ``ssgi`` or ``wsgi``, or
        ``auto`` to find out
    :param settings: settings of ``ServerConfig``; the access log is off by default
    """

    def __init__(
        self,
        app: Any,
        protocol_class: type[BaseProtocol] = HttpToolsProtocol,
        *,
        interface: str | None = None,
        **settings: Any,
    ) -> None:
        self.config = ServerConfig(**{"access_log": False, **settings})
        self.connections = Connections(self.config.max_connections)
        self.protocol_class = protocol_class
        #: Streams that were logged, in order.
        self.logged: list[StreamState] = []
        self._stack = AsyncExitStack()
        self.interface: Interface = app
        if interface is not None or isinstance(app, Kyoukai | Proxy) or is_upstream(app):
            self.interface = interface_for(app, self.config, interface=interface or "auto")

    def switch_target(self, name: str) -> BaseProtocol | None:
        """Make the protocol that a connection may go on with: ``h2`` is HTTP/2."""
        return backend_class("http2")(self) if name == "h2" else None

    def log_access(self, stream: StreamState) -> None:
        """Keep the stream for the test to look at."""
        self.logged.append(stream)

    async def __aenter__(self) -> MemoryServer:
        context = Context()
        self._stack.push_async_callback(context.close)
        for native in natives_of(self.interface):
            for alias, (kind, config) in native.app.components.items():
                component = component_types.create_object(kind or alias, **config)
                await component.start(context)
        await start_up(self.interface, context)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.connections.abort()
        await self.connections.wait_idle()
        await shut_down(self.interface)
        await self._stack.aclose()

    def connect(self, **extra: Any) -> Connection:
        """
        Open a connection.

        :param extra: what the transport's ``get_extra_info`` returns, such as ``peername``
        """
        return Connection(self._open(self.protocol_class, extra))

    def connect_http2(self, **extra: Any) -> MemoryTransport:
        """
        Open a connection to a server that speaks HTTP/2 alone.

        :param extra: what the transport's ``get_extra_info`` returns, such as ``peername``
        """
        own = is_backend(self.protocol_class, "http2")
        return self._open(self.protocol_class if own else backend_class("http2"), extra)

    def _open(
        self, protocol_class: Callable[..., BaseProtocol], extra: Mapping[str, Any]
    ) -> MemoryTransport:
        protocol = protocol_class(self)
        transport = MemoryTransport(protocol, extra)
        protocol.connection_made(transport)
        return transport
