"""
``H2State``: a stream on HTTP/2, with what flow control and scheduling know of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kyoukai.backends.http2.heads import request_head
from kyoukai.backends.http2.priority import DEFAULT_PRIORITY, Priority, parse_priority
from kyoukai.exceptions import InvalidResponse
from kyoukai.stream import CLOSED, IDLE, RequestHead, StreamState

if TYPE_CHECKING:
    from kyoukai.backends.http2.protocol import H2KyoukaiProtocol

__all__ = ("H2State",)


class H2State(StreamState):
    """
    A stream on HTTP/2.

    :param headers: the request's fields, pseudo-header fields among them, as pairs of ``str`` or
        ``bytes``; or a head that has been made of them
    :param stream_id: the stream's number
    :param protocol: the connection's protocol
    :raises ProtocolError: if the fields make no request
    """

    #: Whether h2 knows the stream. It hears only of those that are not answered at once.
    adopted: bool = False
    #: What a sender holds back until the stream's turn comes.
    unsent: memoryview | None = None
    #: Whether the answer ends with it.
    ends: bool = False
    #: Done when ``unsent`` is sent.
    turn: asyncio.Future[None] | None = None
    #: Turns that it has had, if it is incremental.
    rounds: int = 0
    #: ``bytes_sent`` when the server last looked whether the client takes anything.
    looked_at: int = -1
    #: Seconds in which the server has asked for the body.
    asked: float = 0.0
    #: Of a tunnel: what it sends after ``unsent``, how much that is, whether it is about to be
    #: sent, and whether the tunnel ends with it. The list is made for each tunnel.
    outgoing: list[bytes]
    outgoing_size: int = 0
    due: bool = False
    end_due: bool = False

    _sender: asyncio.Lock | None = None
    _priority: Priority | None = None
    _headers: list[tuple[str, str]] | None = None

    def __init__(
        self,
        headers: RequestHead | Sequence[tuple[Any, Any]],
        stream_id: int,
        protocol: H2KyoukaiProtocol,
    ) -> None:
        # Not super().__init__(), and not on the class: all of it is read for every request.
        if not isinstance(headers, RequestHead):
            fields = [(_encoded(name), _encoded(value)) for name, value in headers]
            headers = request_head(fields, protocol)
        self.head = headers
        self.stream_id = stream_id
        self.protocol = protocol
        self.sending = IDLE
        self.received = 0

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The request's fields as text, pseudo-header fields first."""
        if self._headers is None:
            head = self.head
            self._headers = [
                (":method", head.method),
                (":scheme", head.scheme),
                (":authority", head.authority),
                (":path", head.target.decode("latin-1")),
                *(
                    (name.decode("latin-1"), value.decode("latin-1"))
                    for name, value in head.headers
                    if name != b"host"
                ),
            ]
        return self._headers

    @property
    def priority(self) -> Priority:
        """What the client last said of it: in PRIORITY_UPDATE, or in the ``priority`` header."""
        if self._priority is None:
            value = self.head.get(b"priority")
            self._priority = DEFAULT_PRIORITY if value is None else parse_priority(value)
        return self._priority

    @priority.setter
    def priority(self, priority: Priority) -> None:
        self._priority = priority

    @property
    def sender(self) -> asyncio.Lock:
        """Held by the task that sends a piece of the answer."""
        if self._sender is None:
            self._sender = asyncio.Lock()
        return self._sender

    def check_no_tunnel(self, status: int) -> None:
        """
        Refuse an answer that would open a tunnel which the application knows nothing of.

        :param status: the answer's status
        :raises InvalidResponse: if it would
        """
        if self.upgradable and status < 300:
            raise InvalidResponse(f"{status} would accept CONNECT: only accept_upgrade() does that")

    @property
    def answered(self) -> bool:
        """Whether the whole response has been handed over."""
        return self.sending is CLOSED

    async def get_chunk(self) -> bytes:
        """Return the next bytes of the body, as they arrive; ``b""`` at its end."""
        return await self.receive()

    def close(self) -> None:
        """Free what the body holds; what nobody will read is given back to the client's window."""
        super().close()
        if self.buffered:
            self.discard()


def _encoded(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else bytes(text)
