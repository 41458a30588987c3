"""
``HostedSocket``: a WebSocket of a hosted application, from its handshake to its end.

The handshake and its origin are checked as for native sockets; a wrong one never reaches the
application. Messages, limits, pings and closing are :class:`~kyoukai.ws.session.Session`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kyoukai.interfaces.hosted import answer_plainly
from kyoukai.stream import IDLE
from kyoukai.ws.codes import FAILED, NORMAL
from kyoukai.ws.handshake import Handshake, HandshakeError, check_handshake, origin_allowed
from kyoukai.ws.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kyoukai.config import ServerConfig
    from kyoukai.rules import Header
    from kyoukai.stream import Payload, StreamState

__all__ = ("HostedSocket", "open_socket")

#: Messages that may wait to be received before reading stops, as for native sockets.
MAX_QUEUE = 4

#: Headers of an acceptance that are the server's to send.
_OWN_HEADERS = frozenset((b"connection", b"upgrade", b"content-length", b"transfer-encoding"))


class HostedSocket:
    """
    A handshake that is in order, and the socket that comes of it.

    :param stream: the stream
    :param config: the server's settings
    :param handshake: what the client offers
    """

    __slots__ = ("config", "handshake", "session", "stream")

    def __init__(self, stream: StreamState, config: ServerConfig, handshake: Handshake) -> None:
        self.stream = stream
        self.config = config
        self.handshake = handshake
        #: The open socket; None before ``accept``.
        self.session: Session | None = None

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, by its preference."""
        return self.handshake.subprotocols

    @property
    def unanswered(self) -> bool:
        """Whether the handshake waits for its answer, and the client for it."""
        return self.session is None and self.stream.sending is IDLE

    def accept(self, subprotocol: str | None = None, headers: Sequence[Header] = ()) -> Session:
        """
        Accept the handshake.

        :param subprotocol: one of ``subprotocols``, or None
        :param headers: headers of the answer, byte pairs
        :raises ValueError: for a subprotocol that was not offered, or a header that is not legal,
            or is the handshake's own
        :raises StreamStateError: if it has its answer
        :raises PeerGone: if the client left
        """
        answer = self.handshake.answer(subprotocol)
        for name, value in headers:
            lower = name.lower()
            if lower.startswith(b"sec-websocket-") or lower in _OWN_HEADERS:
                raise ValueError(f"the header {name.decode('latin-1')!r} is the server's to send")
            answer.append((name, value))
        session = Session(self.stream, self.config, self.handshake.accepted, MAX_QUEUE)
        self.stream.accept_upgrade(answer, session)
        self.session = session
        session.begin()
        return session

    async def deny(self, status: int, headers: Sequence[Header], body: Payload = b"") -> None:
        """
        Answer the handshake with a whole HTTP response.

        :param status: its status, 300 to 599
        :raises InvalidResponse: if that may not be sent
        :raises StreamStateError: if the handshake has its answer
        :raises PeerGone: if the client left
        """
        await self.stream.send_response(status, headers, body)

    async def finish(self, failed: bool = False) -> None:
        """
        The application has returned: close what is open, and wait until the tunnel has ended.

        A handshake without an answer is left to the caller.

        :param failed: whether the application has failed: close code 1011 instead of 1000
        """
        session = self.session
        if session is None:
            return
        try:
            session.close(FAILED if failed else NORMAL)
            await session.wait_over()
        finally:
            if session.is_over:
                self.stream.tunnel = None  # each refers to the other: nothing is left to collect


async def open_socket(stream: StreamState, config: ServerConfig) -> HostedSocket | None:
    """
    Check a handshake.

    :param stream: the request
    :param config: the server's settings
    :return: the socket; None if the handshake is wrong and has been answered so
    :raises PeerGone: if the client left
    """
    try:
        handshake = check_handshake(stream, config)
        if not origin_allowed(stream.head, config.ws_origins):
            raise HandshakeError(403, "This Origin may not open WebSockets (ws_origins).")
    except HandshakeError as error:
        headers = [(name.encode(), value.encode()) for name, value in error.headers]
        await answer_plainly(stream, error.status, error.detail, headers)
        return None
    return HostedSocket(stream, config, handshake)
