"""
A server: its addresses, its settings, its connections and its application.

:class:`Server` is the ``component`` of the protocols that it makes. The servers of one program
form a :class:`~kyoukai.server.group.ServerGroup`, which starts and stops them together.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kyoukai.backends.connections import Connections
from kyoukai.backends.tls_reader import TlsReader
from kyoukai.exceptions import ConfigurationError
from kyoukai.server.access_log import AccessLog
from kyoukai.server.address import Address, BoundSocket, bind, listen_error
from kyoukai.server.tls import Certificate, spare_memory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Any

    from asphalt.core import Context

    from kyoukai.backends.base import BaseProtocol
    from kyoukai.config import ServerConfig
    from kyoukai.stream import Interface, StreamState

    #: Makes the protocol of a connection.
    ProtocolFactory = Callable[["Server"], asyncio.BaseProtocol]

__all__ = ("Address", "BoundSocket", "Server", "bind")

#: Connections that asyncio accepts in a row before it looks after the others; its own default.
_ACCEPT_BATCH = 100


class LimitedConnections(Connections):
    """
    The connections of one server, which without a limit of its own shares one with others.

    :param limit: connections at once; None for the shared limit
    """

    #: Whether the servers together have as many connections as they may.
    is_full: Callable[[], bool] | None = None

    def add(self, protocol: BaseProtocol) -> bool:
        """
        Register a connection.

        :param protocol: the connection's protocol
        :return: False if there are too many, or the server is stopping
        """
        if self.limit is None and self.is_full is not None and self.is_full():
            self.full_refused += 1
            return False
        return super().add(protocol)


class Server:
    """
    One application on some addresses.

    Its life: :meth:`bind`, then :attr:`interface` is set, :meth:`start_serving`, and at the end
    :meth:`close_listeners` and :meth:`drain`, or :meth:`abort`.

    :param config: the settings, with ``bind`` and ``tls_bind``
    :param factory: makes the protocol of each connection; gets the server
    :param alpn: what TLS offers, the best first
    :param label: the backends and the interface, for the line that says that it listens
    :raises ConfigurationError: if an address or the format of the access log is wrong
    """

    #: The application. Set before :meth:`start_serving`.
    interface: Interface
    #: Awaited with the root context when the application is ready and nothing listens yet.
    before_listening: Callable[[Context], Awaitable[None]] | None = None

    def __init__(
        self,
        config: ServerConfig,
        factory: ProtocolFactory,
        *,
        alpn: Sequence[str] = ("http/1.1",),
        label: str = "httptools, kyoukai",
    ) -> None:
        self.config = config
        self.connections = LimitedConnections(config.max_connections)
        self.label = label
        self.sockets: list[BoundSocket] = []
        self._factory = factory
        self._alpn = alpn
        self._plain = _addresses("bind", config.bind)
        self._secure = _addresses("tls_bind", config.tls_bind)
        self._certificate: Certificate | None = None
        self._listeners: list[asyncio.Server] = []
        self._tls_sockets: list[BoundSocket] = []
        self._access_log = AccessLog(config.access_log_format)

    def log_access(self, stream: StreamState) -> None:
        """
        Write the access line of a stream that is over.

        :param stream: the stream
        """
        self._access_log(stream)

    def switch_target(self, name: str) -> BaseProtocol | None:
        """
        Return None: connections go on speaking what the factory has made.

        :param name: what a client would rather speak
        """
        return None

    # -- Addresses -----------------------------------------------------------------------------

    def bind(self) -> None:
        """
        Bind every address, and load the certificate; nothing listens yet.

        :raises ConfigurationError: in one line, if an address or the certificate cannot be had
        """
        if self.sockets:
            return
        if self._secure:
            self._certificate = Certificate(self.config, self._alpn)
        try:
            for address in self._plain:
                self.sockets.append(bind(address, self.config, "bind"))
            for address in self._secure:
                sock = bind(address, self.config, "tls_bind")
                self.sockets.append(sock)
                self._tls_sockets.append(sock)
        except ConfigurationError:
            self.close_listeners()
            raise

    @property
    def urls(self) -> list[str]:
        """Where the server is found, with real ports."""
        return [sock.url(self._scheme(sock)) for sock in self.sockets]

    @property
    def port(self) -> int | None:
        """The first TCP port, None if there is none."""
        ports = [sock.port for sock in self.sockets if sock.port is not None]
        return ports[0] if ports else None

    @property
    def has_tls(self) -> bool:
        """Whether any address is a TLS one."""
        return self._certificate is not None

    def reload_certificate(self) -> None:
        """
        Read the certificate again, for handshakes from now on.

        :raises ConfigurationError: if it cannot be used; the one in use stays
        """
        if self._certificate is not None:
            self._certificate.reload()

    def _scheme(self, sock: BoundSocket) -> str:
        return "https" if sock in self._tls_sockets else "http"

    # -- Serving -------------------------------------------------------------------------------

    async def start_serving(self) -> None:
        """
        Listen on every address, and accept connections.

        :raises ConfigurationError: if another program took an address since it was bound
        """
        if self.has_tls:
            spare_memory()
        for sock in self.sockets:
            self._listeners.append(await self._make_listener(sock))
        try:
            # Asked of the sockets themselves: uvloop does not report that listening fails.
            self._listen()
            for listener in self._listeners:
                await listener.start_serving()
            self._listen()
        except ConfigurationError:
            self.close_listeners()
            raise

    def _listen(self) -> None:
        for bound in self.sockets:
            try:
                bound.sock.listen(self.config.backlog)
            except OSError as error:
                setting = "tls_bind" if bound in self._tls_sockets else "bind"
                raise listen_error(bound.place, error, setting) from None

    async def _make_listener(self, bound: BoundSocket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {
            "sock": bound.sock,
            "backlog": min(self.config.backlog, _ACCEPT_BATCH),
            "start_serving": False,
        }
        if bound in self._tls_sockets:
            assert self._certificate is not None
            options["ssl"] = self._certificate.context
            options["ssl_handshake_timeout"] = self.config.tls_handshake_timeout
        factory = self._make_reader if bound in self._tls_sockets else self._make_protocol
        if bound.is_unix:
            return await loop.create_unix_server(factory, **options)
        return await loop.create_server(factory, **options)

    def _make_protocol(self) -> asyncio.BaseProtocol:
        return self._factory(self)

    def _make_reader(self) -> asyncio.BaseProtocol:
        protocol = self._factory(self)
        return TlsReader(protocol) if isinstance(protocol, asyncio.Protocol) else protocol

    # -- Stopping ------------------------------------------------------------------------------

    def close_listeners(self) -> None:
        """Accept no more connections, and free the addresses."""
        for listener in self._listeners:
            listener.close()
        for sock in self.sockets:
            sock.close()
        self._listeners = []

    def shutdown(self) -> None:
        """Close the listeners and tell every connection to finish."""
        self.close_listeners()
        self.connections.shutdown()

    async def drain(self, timeout: float | None = None) -> bool:
        """
        Stop: close the listeners and give the requests in progress time to finish.

        :param timeout: seconds; by default ``graceful_timeout``
        :return: whether all did; what was left is cut
        """
        if timeout is None:
            timeout = self.config.graceful_timeout
        self.shutdown()
        try:
            async with asyncio.timeout(timeout):
                await self.connections.wait_idle()
        except TimeoutError:
            self.connections.abort()
            return False
        return True


def _addresses(setting: str, texts: Sequence[str]) -> list[Address]:
    try:
        return [Address.parse(text) for text in texts]
    except ConfigurationError as error:
        raise ConfigurationError(f"{setting}: {error}") from None
