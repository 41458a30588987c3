"""
The servers that a proxy passes requests on to: their connections, and which of them gets a request.

:class:`Upstream` is one server, with its pool of connections and its health. :class:`Upstreams`
are all servers of a proxy.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections import deque
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import (
    ConfigurationError,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
)
from kyoukai.upstream_connection import UpstreamConnection
from kyoukai.upstream_head import HeadReader
from kyoukai.upstream_socket import first_of, has_news, host_of, is_ip_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kyoukai.proxy import Proxy, UpstreamAddress

__all__ = ("Upstream", "Upstreams")

logger = logging.getLogger("kyoukai.proxy")

#: What connecting says when this machine, and not the server, is out of something.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)

#: Seconds that a connection may have been idle to be used for a request that is sent only once.
_FRESH = 1.0

#: Seconds that connections beyond ``pool_size`` stay idle.
_SURPLUS = 1.0

#: Servers close idle connections when their own time comes; we are that much earlier.
_EARLIER = 0.5


class Upstream:
    """
    One server.

    :param address: where it is
    :param proxy: the settings
    :param context: TLS's context, for ``https``
    :param reader: reads heads
    """

    def __init__(
        self,
        address: UpstreamAddress,
        proxy: Proxy,
        context: ssl.SSLContext | None,
        reader: HeadReader,
    ) -> None:
        self.address = address
        self.proxy = proxy
        #: Requests in progress.
        self.active = 0
        #: Connections that are open, idle ones among them, or being opened. Who is woken with None
        #: inherits the room of one that was closed: it is not counted anew.
        self.open = 0
        #: Until when it is passed over, by the loop's clock.
        self.down_until = 0.0
        self._context = context
        self._has_name = not (address.path or is_ip_address(address.host))
        self._surroundings = copy_context()
        self._reader = reader
        #: Failures in a row.
        self.failures = 0
        # Whether the next one is counted already: that of the request that tries it again.
        self._is_counted = False
        # Why it could not be reached: what was said.
        self._said: set[str] = set()
        # Until when nothing is said of too much to do.
        self._busy_until = 0.0
        # The last one is the one that was used last.
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._waiting: deque[asyncio.Future[UpstreamConnection | None]] = deque()

    def __repr__(self) -> str:
        return f"<Upstream {self.address}>"

    # -- Connections ---------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether a request has to wait for a connection."""
        return self.open >= self.proxy.max_connections and not self._idle

    @property
    def load(self) -> int:
        """Requests in progress, with those that wait for a connection."""
        return self.active + self.open - len(self._all) + len(self._waiting)

    def take(self, only_fresh: bool = False) -> UpstreamConnection | None:
        """
        Return an idle connection, if there is one.

        :param only_fresh: whether one that the server may be about to close does not do
        """
        idle = self._idle
        while idle:
            connection = idle[-1]
            if connection.is_lost or connection.transport.is_closing():
                idle.pop()
            elif only_fresh and (
                asyncio.get_running_loop().time() - connection.idle_since > _FRESH
            ):
                return None
            elif only_fresh and has_news(connection.transport):
                idle.pop().close()  # the server has closed it, which the loop has yet to see
            else:
                return idle.pop()
        return None

    async def connect(self, anew: bool = False) -> UpstreamConnection:
        """
        Open a connection; with ``max_connections``, wait for one.

        :param anew: whether one that was used before does not do
        :raises UpstreamError: if it cannot be had
        """
        found = await self._room(anew)
        return await self._opened() if found is None else found

    async def _room(self, anew: bool) -> UpstreamConnection | None:
        """Wait for an idle connection, or with None for room to open one in, which is counted."""
        while self.open >= self.proxy.max_connections or self._waiting:
            if self._idle:
                self._idle.pop(0).abort()  # which is of no use for this request
            found = await self._wait_for_one()
            if found is None:
                return None
            if found.is_unused:  # else it was lost in the meantime, and its room is another's
                if not (anew or has_news(found.transport)):
                    return found
                self._all.discard(found)  # which leaves its room to the one that takes its place
                found.abort()
                return None
        self.open += 1
        return None

    async def _opened(self) -> UpstreamConnection:
        """Open a connection in room that is counted already, or give that back."""
        try:
            async with asyncio.timeout(self.proxy.connect_timeout):
                connection = await self._open()
            if connection.is_lost:
                raise ConnectionResetError(errno.ECONNRESET, "Connection closed at once")
        except OSError as error:
            self._closed()
            raise self._failure(error) from None
        except BaseException:
            self._closed()
            raise
        self._all.add(connection)
        return connection

    async def _open(self) -> UpstreamConnection:
        """
        Open a connection, in a task of its own.

        A transport keeps the context that it is made in, and so would keep the request that
        happened to need it, with all that hangs on it.
        """
        opening = asyncio.create_task(self._dial(), context=self._surroundings.copy())
        try:
            return await opening
        except BaseException:
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                opening.result().abort()  # nobody waits for it any more
            raise

    async def _dial(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        address = self.address
        if address.path is not None:
            _, connection = await loop.create_unix_connection(self._make, address.path)
            return connection
        hosts = [address.host]
        if self._has_name:
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            hosts = list(dict.fromkeys(host_of(where) for *_, where in found))
        return await first_of([partial(self._dial_host, host) for host in hosts])

    async def _dial_host(self, host: str) -> UpstreamConnection:
        options: dict[str, Any] = {}
        if self._context is not None:
            options = {
                "ssl": self._context,
                "server_hostname": self.proxy.tls_server_name or self.address.host,
                "ssl_handshake_timeout": self.proxy.connect_timeout,
            }
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(self._make, host, self.address.port, **options)
        return connection

    def _make(self) -> UpstreamConnection:
        return UpstreamConnection(self.proxy, self._reader, self._lost)

    def _failure(self, error: OSError) -> UpstreamError:
        """Note that no connection can be had, and return what is raised then."""
        if error.errno in _OURS:
            return self._busy(f"this machine has no room for a connection: {error.strerror}")
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate is refused: {error.verify_message} (ca, tls_server_name)"
        elif isinstance(error, ssl.SSLError):
            reason = f"TLS fails: {error.reason or error}"
        elif isinstance(error, TimeoutError) and error.errno is None:  # and not the kernel's
            seconds = self.proxy.connect_timeout
            reason = f"no connection within {seconds:g} seconds (connect_timeout)"
        else:
            number = error.errno or 0  # those of names that cannot be resolved are negative
            text = os.strerror(number) if number > 0 else error.strerror or str(error)
            reason = f"no connection: {text.lower()}"
        self._out_of_reach(reason)
        return (UpstreamTimeout if isinstance(error, TimeoutError) else UpstreamError)(reason)

    async def _wait_for_one(self) -> UpstreamConnection | None:
        """Wait for an idle connection, or with None for the right to open one."""
        future: asyncio.Future[UpstreamConnection | None]
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(self.proxy.connect_timeout):
                return await future
        except BaseException as error:
            if future.done() and not future.cancelled():  # it came in the last moment
                self._hand_back(future.result())
            elif future in self._waiting:
                self._waiting.remove(future)
            if isinstance(error, TimeoutError):
                limit = self.proxy.max_connections
                raise self._busy(f"all {limit} connections are in use (max_connections)") from None
            raise

    def _hand_back(self, connection: UpstreamConnection | None) -> None:
        if connection is None:
            self._closed()
        elif connection.is_unused:
            self._put_back(connection)

    def release(self, connection: UpstreamConnection) -> None:
        """
        Take a connection back: for the next request if it may be used for one, else to close it.

        :param connection: the connection
        """
        if connection.reusable:
            seconds = self.proxy.keep_alive_timeout
            head = connection.head
            if head is not None and head.idle is not None:
                seconds = min(seconds, head.idle - _EARLIER)
            self._keep(connection, seconds)
        elif connection.is_unused:
            self._put_back(connection)
        elif connection.is_over:
            connection.close()
        else:
            connection.abort()

    def _put_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection that no request was sent on: it is no fresher for having been taken."""
        self._keep(connection, connection.idle_limit if connection.is_new else None)

    def _keep(self, connection: UpstreamConnection, seconds: float | None) -> None:
        """
        Keep a connection for who waits for one, or for the next request.

        :param connection: the connection
        :param seconds: how long it may be idle from now on; None if its time goes on
        """
        waiting = self._waiting
        if seconds is not None:
            if seconds <= 0 or not self.proxy.pool_size:
                connection.close()
                return
            if len(self._idle) >= self.proxy.pool_size:
                seconds = min(seconds, _SURPLUS)  # answers come in bursts, and requests with them
            connection.become_idle(seconds)
        while waiting:
            future = waiting.popleft()
            if not future.done():
                future.set_result(connection)
                return
        self._idle.append(connection)

    def _lost(self, connection: UpstreamConnection) -> None:
        """A connection is closed."""
        if connection in self._all:
            self._all.discard(connection)
            self._closed()
        if connection in self._idle:
            self._idle.remove(connection)

    def _closed(self) -> None:
        """There is room for another connection."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)  # which may open one in its place
                return
        self.open -= 1

    def close(self) -> None:
        """Close all connections."""
        for connection in tuple(self._all):
            if connection in self._idle:
                connection.close()
            else:
                connection.abort()
        self._idle.clear()

    # -- Health --------------------------------------------------------------------------------

    def _busy(self, reason: str) -> UpstreamBusy:
        """Say, at most once a second, that there is too much to do."""
        now = monotonic()
        if now >= self._busy_until:
            self._busy_until = now + 1
            logger.warning("upstream %s: %s", self.address, reason)
        return UpstreamBusy(reason)

    def answered(self) -> None:
        """It has answered a request: whatever was wrong with it is over."""
        if self.failures:
            if self._said:
                logger.info("upstream %s is back", self.address)
            self.failures = 0
            self._is_counted = False
            self._said.clear()
            self.down_until = 0.0

    def failed(self) -> None:
        """It has failed: pass it over for a while, for longer each time."""
        now = asyncio.get_running_loop().time()
        if now < self.down_until:  # one of many that found out at the same time
            return
        if not self._is_counted:
            self.failures += 1
        self._is_counted = False
        proxy = self.proxy
        seconds = min(proxy.max_backoff, proxy.fail_backoff * 2 ** min(self.failures - 1, 32))
        self.down_until = now + seconds

    def on_trial(self) -> None:
        """
        It gets a request again: it counts as failed until it answers that.

        Others need not find out what that one does, each for ``read_timeout``.
        """
        self._is_counted = False
        self.failed()
        self._is_counted = True

    def _out_of_reach(self, reason: str) -> None:
        """No connection can be had: say so once, and once more if it is for another reason."""
        level = logging.DEBUG if reason in self._said else logging.WARNING
        logger.log(level, "upstream %s: %s", self.address, reason)
        self._said.add(reason)
        self.failed()


class Upstreams:
    """
    The servers of a proxy.

    :param proxy: the settings
    :raises ConfigurationError: if ``ca`` cannot be used
    """

    def __init__(self, proxy: Proxy) -> None:
        addresses = proxy.addresses()
        context = _tls_context(proxy) if any(address.tls for address in addresses) else None
        reader = HeadReader(proxy.via)
        self.all = [
            Upstream(address, proxy, context if address.tls else None, reader)
            for address in addresses
        ]
        #: The only one, if there are not several.
        self.only = self.all[0] if len(self.all) == 1 else None
        self._turn = -1
        self._least = proxy.balance == "least_connections"

    def in_order(self) -> Iterator[Upstream]:
        """
        Return the servers to try for a request, each once.

        Those that a request would have to wait for come later, and those that are down come last.
        """
        servers = self.all
        if len(servers) == 1:
            return iter(servers)
        after = self._turn + 1
        now = asyncio.get_running_loop().time()
        ordered = servers[after:] + servers[:after]
        if self._least:
            ordered.sort(key=_load)
        up = [server for server in ordered if server.down_until <= now]
        up.sort(key=_is_full)
        if len(up) < len(servers):
            up += sorted((each for each in ordered if each.down_until > now), key=_down_until)
        first = up[0]
        # Who is passed over has no turn, or the next one would have two.
        self._turn = servers.index(first)
        if first.failures and first.down_until <= now:
            first.on_trial()
        return iter(up)

    def close(self) -> None:
        """Close all connections."""
        for server in self.all:
            server.close()


def _is_full(server: Upstream) -> bool:
    return server.is_full


def _load(server: Upstream) -> int:
    return server.load


def _down_until(server: Upstream) -> float:
    return server.down_until


def _tls_context(proxy: Proxy) -> ssl.SSLContext:
    """Make the context for ``https`` servers, whose certificates are always verified."""
    try:
        context = ssl.create_default_context(cafile=proxy.ca)
    except ssl.SSLError:
        raise ConfigurationError(f"ca: {proxy.ca!r} has no certificates in PEM") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigurationError(f"ca: cannot read {proxy.ca!r}: {reason}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
