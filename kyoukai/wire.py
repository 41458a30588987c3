"""
``Wire``: what a stream asks of the connection that it came in on, and ``Tunnel``: what an upgraded
one tells whoever took it over.

The stream is above both: these are the two ends that it joins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kyoukai.rules import Header
    from kyoukai.stream import StreamState

__all__ = ("Payload", "Tunnel", "Wire")

#: Bytes of an answer.
Payload = bytes | bytearray | memoryview


class Tunnel(Protocol):
    """
    What takes the bytes of a stream after ``accept_upgrade``, as they come.

    None of this may wait, or raise.
    """

    #: Whether it wants no more for now: what has come is acknowledged when it does again.
    full: bool

    def bytes_received(self, data: bytes) -> None:
        """Some bytes from the client."""

    def end_received(self) -> None:
        """The client sends no more."""

    def lost(self) -> None:
        """The client is gone."""

    def writable(self) -> None:
        """There is room for more after there was none."""

    def ended(self) -> None:
        """The end that was asked for has been sent."""

    def going_away(self) -> None:
        """The server is stopping."""


class Wire(Protocol):
    """
    What a stream asks of its protocol: the whole difference between HTTP versions.

    ``send_response``, ``send_data`` and ``end`` wait while the peer or the transport is slow, and
    raise :class:`~kyoukai.exceptions.PeerGone`. The others return at once.
    """

    #: Whether requests have named clients behind the peer, which is a proxy then; True below
    #: another server, which does not say so.
    peer_forwards: bool
    #: Whether the tunnels of upgraded streams can be raw, that is pass bytes on.
    has_raw_tunnels: bool

    def peer(self, stream: StreamState) -> tuple[str, int] | None:
        """Return address and port of whoever holds the connection; None on a unix socket."""

    def send_informational(
        self, stream: StreamState, status: int, headers: Sequence[Header]
    ) -> None:
        """Send an interim response, 100 to 199."""

    def send_head(
        self, stream: StreamState, status: int, headers: Sequence[Header], length: int | None
    ) -> None:
        """Send the final head of a response whose body follows; ``length`` if it is known."""

    def send_now(
        self, stream: StreamState, status: int, headers: Sequence[Header], body: Payload
    ) -> bool:
        """
        Send a whole response, as ``send_response`` does, if nothing has to wait for it.

        :return: False if that is not certain; nothing is done then
        """

    async def send_response(
        self, stream: StreamState, status: int, headers: Sequence[Header], body: Payload
    ) -> None:
        """
        Send a whole response in one write, and finish the stream.

        Once its head is known to be right, ``sending`` becomes ``OPEN``, and ``CLOSED`` when all
        is handed over.
        """

    async def send_data(self, stream: StreamState, data: Payload) -> None:
        """Send some of the body."""

    async def end(self, stream: StreamState, trailers: Sequence[Header]) -> None:
        """Finish the response, or our direction of a raw tunnel."""

    def reset(self, stream: StreamState, error: str) -> None:
        """Give the stream up, so that the client cannot take what it got for a whole answer."""

    def acknowledge(self, stream: StreamState, size: int) -> None:
        """The application has consumed ``size`` bytes: the peer may send as many more."""

    def accept_upgrade(self, stream: StreamState, headers: Sequence[Header]) -> None:
        """Send the head that makes the stream a tunnel."""

    def tunnel_write(self, stream: StreamState, data: bytes) -> None:
        """Send bytes through a tunnel, in order, as soon as the client takes them."""

    def tunnel_waiting(self, stream: StreamState) -> int:
        """Return how many bytes of a tunnel wait for the client."""

    def tunnel_full(self, stream: StreamState) -> bool:
        """Whether so many wait that no more should be sent; ``Tunnel.writable`` ends that."""

    def tunnel_end(self, stream: StreamState, complete: bool) -> None:
        """
        Close a tunnel once all is sent; then ``Tunnel.ended`` is called.

        A raw tunnel, our direction of which is closed already, is none from then on: what the
        client still sends is dropped, as after any early answer.

        :param complete: whether the client has said that it sends no more
        """
