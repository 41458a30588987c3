"""
Ways for a WebSocket's bytes to a server in memory: an HTTP/1.1 connection, or a stream of HTTP/2.

Nothing here runs by itself. Whoever has a tunnel calls ``advance`` when the transport has changed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from kyoukai.memory_http1 import ClientResponse, Connection, HeaderList, header_pairs

if TYPE_CHECKING:
    from kyoukai.memory import MemoryTransport

__all__ = ("ClientTunnel", "Http1ClientTunnel", "merged")


class ClientTunnel(ABC):
    """
    A WebSocket's bytes, both ways.

    :param transport: the transport whose other end is the server's protocol
    """

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        #: The answer to the handshake.
        self.response = ClientResponse()
        self._inbox = bytearray()

    @abstractmethod
    async def open(self, target: str, key: str, fields: HeaderList, headers: HeaderList) -> bool:
        """
        Ask the server for a WebSocket, and wait for its answer.

        :param target: path and query
        :param key: the nonce that the server shows that it has read
        :param fields: what a handshake says over every protocol
        :param headers: the caller's headers, which replace what would be sent under these names
        :return: False if the server denied it
        :raises ConnectionError: if the server closes before it has answered
        """

    @abstractmethod
    def advance(self) -> None:
        """Take what the server has written, and send what may go now."""

    @abstractmethod
    def take(self) -> bytes:
        """Return what has come since the last call: the server may send as much again."""

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether nothing more will come."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """How many bytes the server has not taken yet."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send bytes, those that may not go yet later."""

    @abstractmethod
    def write_eof(self) -> None:
        """End the client's direction."""

    @abstractmethod
    def pause(self) -> None:
        """Take nothing more from the server: be a slow reader."""

    @abstractmethod
    def resume(self) -> None:
        """Take again."""

    @abstractmethod
    def abort(self) -> None:
        """Give up without a word."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


class Http1ClientTunnel(ClientTunnel):
    """A connection that was upgraded (RFC 9110 section 7.8)."""

    async def open(self, target: str, key: str, fields: HeaderList, headers: HeaderList) -> bool:
        """Send a GET with Upgrade."""
        own = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", key),
            *header_pairs(fields),
        ]
        connection = Connection(self.transport)
        connection.request("GET", target, merged(own, headers))
        self.response = await connection.response()
        self._inbox += connection.take_rest()
        return self.response.status == 101

    def advance(self) -> None:
        """Take what the server has written."""
        if not self.transport.held or self.transport.closed:
            self._inbox += self.transport.take()

    def take(self) -> bytes:
        """Return what has come since the last call."""
        data = bytes(self._inbox)
        self._inbox.clear()
        return data

    @property
    def over(self) -> bool:
        """Whether the server has closed; a slow reader has not seen that yet."""
        transport = self.transport
        return transport.closed or (transport.eof_written and not transport.held)

    @property
    def unsent(self) -> int:
        """How many bytes wait because the server has paused reading."""
        return self.transport.untaken

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self.transport.feed(data)

    def write_eof(self) -> None:
        """Close the client's direction."""
        self.transport.feed_eof()

    def pause(self) -> None:
        """Take nothing more, so that the server's transport fills."""
        self.transport.hold()

    def resume(self) -> None:
        """Take again."""
        self._inbox += self.transport.release()
        self.transport.changed.set()

    def abort(self) -> None:
        """Reset the connection."""
        self.transport.lose(ConnectionResetError("the client has cut the connection"))

    def close(self) -> None:
        """Close the connection."""
        self.transport.lose()


def merged(fields: HeaderList, headers: HeaderList) -> list[tuple[str, str]]:
    """
    Return both, without those fields that the headers replace.

    :param fields: what would be sent
    :param headers: what the caller wants to be sent
    """
    given = header_pairs(headers)
    names = {name.lower() for name, _ in given}
    return [pair for pair in header_pairs(fields) if pair[0].lower() not in names] + given
