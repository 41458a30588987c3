"""
What a connection to an upstream server asks of the socket below its transport.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

__all__ = ("cut", "has_ended", "rest_of")

_NO_LINGER = struct.pack("ii", 1, 0)
_PIECE = 65536


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
