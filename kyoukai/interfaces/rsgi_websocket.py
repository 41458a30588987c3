"""
``WebsocketProtocol`` and its transport: WebSockets, as RSGI has them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from kyoukai.exceptions import (
    OperationNotAllowed,
    PeerGone,
    WebSocketDisconnected,
)
from kyoukai.interfaces.hosted_socket import HostedSocket
from kyoukai.interfaces.rsgi_errors import RSGIProtocolClosed, RSGIProtocolError, make_error
from kyoukai.interfaces.rsgi_fields import as_bytes, encoded
from kyoukai.interfaces.rsgi_sending import Answer
from kyoukai.interfaces.stepping import begin
from kyoukai.ws.codes import ABNORMAL, NORMAL
from kyoukai.ws.messages import BINARY, TEXT

if TYPE_CHECKING:
    from kyoukai.ws.session import Session

__all__ = (
    "WebsocketMessage",
    "WebsocketMessageType",
    "WebsocketProtocol",
    "WebsocketTransport",
)


class WebsocketMessageType(IntEnum):
    """What a message is; the same numbers as Granian's."""

    close = 0
    bytes = 1
    string = 2


class WebsocketMessage:
    """
    A message of the client, or that it has closed.

    :param kind: 0 for a close, 1 for bytes, 2 for text
    :param data: what it says; None for a close
    """

    __slots__ = ("data", "kind")

    def __init__(self, kind: WebsocketMessageType, data: str | bytes | None = None) -> None:
        self.kind = kind
        self.data = data

    def __repr__(self) -> str:
        return f"<WebsocketMessage {self.kind.name} {self.data!r:.80}>"


class WebsocketProtocol(Answer, eq=False, kw_only=True):
    """
    A handshake, to be accepted or refused.

    :param socket: the handshake
    :param closed: whether the application has closed it
    """

    socket: HostedSocket
    closed: bool = False

    async def accept(self) -> WebsocketTransport:
        """
        Open the WebSocket.

        :raises RSGIProtocolError: if the handshake has been answered
        :raises RSGIProtocolClosed: if the client left
        """
        if self.answered:
            what = "close()" if self.socket.session is None else "another accept()"
            raise make_error(RSGIProtocolError, f"accept() after {what}")
        try:
            session = self.socket.accept()
        except PeerGone as error:
            raise make_error(RSGIProtocolClosed, str(error)) from error
        self.answered = True
        return WebsocketTransport(session, self)

    def close(self, status: int | None = None) -> None:
        """
        Refuse the handshake, or close the WebSocket; to do that again does nothing.

        :param status: before ``accept``, the HTTP status of the refusal, 300 to 599, 403 by
            default; afterwards the close code, 1000 by default and for what is none
        :raises RSGIProtocolError: if that is no such HTTP status
        """
        if self.closed:
            return
        session = self.socket.session
        if session is None:
            self._deny(403 if status is None else status)
            self.closed = self.answered = True
            return
        self.closed = True
        try:
            session.close(NORMAL if status is None else status)
        except ValueError:
            session.close(NORMAL)

    def _deny(self, status: int) -> None:
        if not isinstance(status, int) or not 300 <= status <= 599:
            rule = "before accept() it is an HTTP status, 300 to 599"
            raise make_error(RSGIProtocolError, f"close({status!r:.80}): {rule}")
        try:
            rest = begin(self.stream.send_response(int(status), (), b""))
        except PeerGone:
            return  # there is nobody to answer
        if rest is not None:
            self.run(rest)


class WebsocketTransport:
    """
    An open WebSocket.

    :param session: the socket
    :param protocol: what it was accepted by
    """

    __slots__ = ("_ended", "_protocol", "_session")

    def __init__(self, session: Session, protocol: WebsocketProtocol) -> None:
        self._session = session
        self._protocol = protocol
        #: Whether the application knows that there are no more messages.
        self._ended = False

    async def receive(self) -> WebsocketMessage:
        """
        Return the next message, the last of which says that the socket is closed.

        :raises RSGIProtocolClosed: after that one, or if the client was lost without closing
        :raises RSGIProtocolError: if another task is receiving
        """
        try:
            data = await self._session.receive()
        except WebSocketDisconnected as error:
            if self._ended or error.code == ABNORMAL:
                raise make_error(RSGIProtocolClosed, str(error)) from error
            self._ended = True
            return WebsocketMessage(WebsocketMessageType.close)
        except OperationNotAllowed as error:
            raise make_error(RSGIProtocolError, f"receive(): {error}") from error
        if type(data) is str:
            return WebsocketMessage(WebsocketMessageType.string, data)
        return WebsocketMessage(WebsocketMessageType.bytes, data)

    async def send_bytes(self, data: bytes) -> None:
        """
        Send a binary message; waits while much waits for the client.

        :param data: its bytes
        :raises RSGIProtocolClosed: if the client has closed, or is gone
        :raises RSGIProtocolError: if these are no bytes, or the application has closed
        """
        await self._send(
            BINARY, data if type(data) is bytes else as_bytes(data, "send_bytes: data")
        )

    async def send_str(self, data: str) -> None:
        """
        Send a text message; raises as ``send_bytes`` does.

        :param data: its text
        """
        await self._send(TEXT, encoded(data, "send_str: data"))

    async def _send(self, opcode: int, payload: bytes) -> None:
        if self._protocol.closed:
            raise make_error(RSGIProtocolError, "a message after close()")
        session = self._session
        try:
            if session.put(opcode, payload):
                await session.drain()
        except WebSocketDisconnected as error:
            raise make_error(RSGIProtocolClosed, str(error)) from error
