"""
Sockets of connections to upstream servers: how they are opened, and what is asked of them.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import select
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

__all__ = ("cut", "first_of", "has_ended", "has_news", "host_of", "is_ip_address", "rest_of")

_NO_LINGER = struct.pack("ii", 1, 0)
_PIECE = 65536

#: Seconds that an address of a name is tried alone, before the next one is as well (RFC 8305
#: section 8).
_ALONE = 0.25


class _Connection(Protocol):
    def abort(self) -> None: ...


_C = TypeVar("_C", bound=_Connection)


def is_ip_address(host: str) -> bool:
    """Return whether a host is an address, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def host_of(address: Sequence[Any]) -> str:
    """
    Return the host of an address that was looked up, with the zone that an IPv6 one may need.

    :param address: as the socket module has it: host, port, and for IPv6 flow and zone
    """
    host, *rest = address
    return f"{host}%{rest[2]}" if len(rest) > 2 and rest[2] and "%" not in host else str(host)


async def first_of(attempts: Sequence[Callable[[], Coroutine[Any, Any, _C]]]) -> _C:
    """
    Return the first connection that can be had, of those to all addresses of a name.

    Each is tried as soon as the one before has failed, or says nothing: an address that nobody
    can reach does not keep us from the others (RFC 8305 section 5).

    :param attempts: each opens a connection
    :raises OSError: if none can be had: what came from a server, rather than what came on the way
    """
    if len(attempts) == 1:
        return await attempts[0]()
    waiting = list(reversed(attempts))
    running: set[asyncio.Task[_C]] = set()
    failure: BaseException | None = None
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(waiting.pop()()))
            done, _ = await asyncio.wait(
                running,
                timeout=_ALONE if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                running.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                if failure is None or _weight(error) > _weight(failure):
                    failure = error
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_drop)
    raise failure or OSError("it has no address")


def _weight(error: BaseException) -> int:
    """How much an error says of the server, rather than of the way to it, or of this machine."""
    if isinstance(error, ssl.SSLError):
        return 3
    if isinstance(error, ConnectionError):
        return 2
    # Which is said where there is no address of that family, too.
    return int(getattr(error, "errno", None) != errno.EADDRNOTAVAIL)


def _drop(task: asyncio.Task[_C]) -> None:
    """Close a connection that came too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().abort()


def cut(transport: asyncio.Transport) -> None:
    """
    Close a transport with a reset, so that nothing looks like an orderly end.

    :param transport: the transport
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        except OSError:
            pass  # it is closed already
    transport.abort()


def has_ended(transport: asyncio.Transport) -> bool:
    """
    Return whether the server has said that it sends no more, over TLS by an alert.

    Without one, anybody on the way may have cut it (RFC 9112 section 9.8).

    :param transport: a transport at its end of file
    """
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:  # it would read on
        return False


def has_news(transport: asyncio.Transport) -> bool:
    """
    Return whether something has come that nobody has read yet: of an idle connection, its end.

    :param transport: the transport
    """
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(select, "poll"):  # Windows has none
        return False
    watch = select.poll()  # select() knows no descriptor above 1023
    watch.register(sock.fileno(), select.POLLIN)
    return bool(watch.poll(0))


def rest_of(transport: asyncio.Transport) -> Iterator[bytes]:
    """
    Yield what waits in the socket of a transport that has failed, and is about to close it.

    :param transport: the transport; over TLS, nothing can be had
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and transport.get_extra_info("sslcontext") is None:
        try:
            while data := os.read(sock.fileno(), _PIECE):
                yield data
        except OSError:
            pass  # that is all
