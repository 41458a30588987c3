"""
Reads TLS connections into one buffer, which those of a thread share.

Without it, the loops' TLS allocates 256 KiB for each record of at most 16 KiB that it decrypts.
"""

from __future__ import annotations

import asyncio
import threading

__all__ = ("TlsReader", "replace_protocol")

#: Less than what the C library would ask the system for anew, see ``spare_memory``.
_SIZE = 131072


class _Buffers(threading.local):
    """A buffer for each thread, and so for each loop: decrypting lets other threads run."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_SIZE))


_buffers = _Buffers()


class TlsReader(asyncio.BufferedProtocol):
    """
    Stands between a TLS transport and a connection's protocol.

    :param protocol: the connection's protocol
    """

    __slots__ = ("_buffer", "protocol")

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        self._buffer = _buffers.buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        self.protocol.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to decrypt to; it is used up before another connection asks for it."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """That many bytes have come."""
        self.protocol.data_received(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return self.protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self.protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        """The transport's buffer has drained."""
        self.protocol.resume_writing()


def replace_protocol(transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
    """
    Let another protocol go on with a connection.

    :param transport: the connection's transport
    :param protocol: the other protocol, which is not told
    """
    current = transport.get_protocol()
    if isinstance(current, TlsReader):
        current.protocol = protocol
    else:
        transport.set_protocol(protocol)
