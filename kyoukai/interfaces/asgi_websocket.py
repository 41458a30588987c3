"""
``WebSocketExchange``: a WebSocket, as an ASGI application receives from it and sends to it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import (
    InterfaceError,
    OperationNotAllowed,
    WebSocketDisconnected,
)
from kyoukai.interfaces.asgi_messages import fields_of, required, text_of, type_of
from kyoukai.interfaces.asgi_response import DONE, START, AsgiResponse
from kyoukai.stream import RESET
from kyoukai.ws.codes import ABNORMAL, NORMAL
from kyoukai.ws.messages import BINARY, TEXT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kyoukai.interfaces.hosted_socket import HostedSocket

__all__ = ("WebSocketExchange",)


class _Denial(AsgiResponse):
    """The HTTP response that denies a handshake."""

    __slots__ = ()

    prefix = "websocket.http.response"


class WebSocketExchange:
    """
    One WebSocket, from its handshake on.

    :param socket: the handshake
    """

    __slots__ = ("_answered", "_connected", "_denial", "_left", "socket")

    def __init__(self, socket: HostedSocket) -> None:
        self.socket = socket
        #: Whether the application has been told of the handshake.
        self._connected = False
        self._denial = _Denial(socket.stream)
        #: What ``receive`` waits for before the handshake has its answer.
        self._answered: asyncio.Future[None] | None = None
        self._left = False

    # -- Receiving -----------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """
        Return the next message: the handshake, what the client sends, its end.

        :raises InterfaceError: if another task is receiving
        """
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if self._waits:
            await self._await_answer()
        session = self.socket.session
        try:
            if session is None:
                raise WebSocketDisconnected(ABNORMAL)
            message = await session.receive()
        except WebSocketDisconnected as end:
            await asyncio.sleep(0)  # some ask again and again: others must have their turn
            return {"type": "websocket.disconnect", "code": end.code, "reason": end.reason}
        except OperationNotAllowed as error:
            raise InterfaceError(str(error)) from None
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    @property
    def _waits(self) -> bool:
        """Whether the application has yet to answer the handshake."""
        return (
            self.socket.session is None
            and self._denial.step != DONE
            and self.socket.stream.sending is not RESET
            and not self._left
        )

    async def _await_answer(self) -> None:
        """Wait until the handshake has its answer, or its client is gone."""
        if self._answered is None:
            self._answered = asyncio.get_running_loop().create_future()
        gone = asyncio.ensure_future(self.socket.stream.disconnected())
        try:
            await asyncio.wait((self._answered, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()

    def _wake(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def leave(self) -> None:
        """The application has returned; tasks that it has left behind must not wait for ever."""
        self._left = True
        self._wake()

    # -- Sending -------------------------------------------------------------------------------

    async def send(self, message: Mapping[str, Any]) -> None:
        """
        Take a message; waits while too much waits for the client.

        :raises InterfaceError: if it is out of order, unknown, or something in it is wrong
        :raises InvalidResponse: for headers that may not be sent
        :raises PeerGone: if the client left before the handshake had its answer
        :raises WebSocketDisconnected: if the socket is closed or lost; both are ``OSError``
        """
        kind = type_of(message)
        handler = _HANDLERS.get(kind)
        if handler is None:
            raise InterfaceError(f"{kind} is no message of a websocket scope")
        await handler(self, message, kind)

    async def _accept(self, message: Mapping[str, Any], kind: str) -> None:
        self._check_unanswered(kind)
        subprotocol = text_of(message, "subprotocol")
        headers = fields_of(message.get("headers") or (), kind).headers
        try:
            self.socket.accept(subprotocol, headers)
        except ValueError as error:
            raise InterfaceError(f"{kind}: {error}") from None
        self._wake()

    async def _send(self, message: Mapping[str, Any], kind: str) -> None:
        session = self.socket.session
        if session is None:
            self._check_not_closed()
            if self._denial.step == START:
                raise InterfaceError(f"{kind} before websocket.accept")
            self._denial.refuse(kind)
        text = text_of(message, "text")
        data = message.get("bytes")
        if (text is None) == (data is None):
            raise InterfaceError(f"{kind}: either text or bytes must be given, and not both")
        if text is not None:
            try:
                full = session.put(TEXT, text.encode())
            except UnicodeEncodeError:
                raise InterfaceError(
                    f"{kind}: text has a surrogate, which is no character"
                ) from None
        elif isinstance(data, bytes | bytearray | memoryview):
            full = session.put(BINARY, bytes(data))
        else:
            raise InterfaceError(f"{kind}: bytes must be bytes, not {type(data).__name__}")
        if full:
            await session.drain()

    async def _close(self, message: Mapping[str, Any], kind: str) -> None:
        code = message.get("code")
        if code is None:
            code = NORMAL
        reason = text_of(message, "reason") or ""
        session = self.socket.session
        if session is None:
            self._check_not_closed()
            self._check_unanswered(kind)
            self._denial.step = DONE
            await self.socket.deny(403, ())
            self._wake()
            return
        if not session.is_open:
            raise session.disconnected()
        try:
            session.close(code, reason)
        except ValueError as error:
            raise InterfaceError(f"{kind}: {error}") from None

    def _check_not_closed(self) -> None:
        if self._denial.step == DONE or self._denial.stream.sending is RESET:
            raise WebSocketDisconnected

    def _check_unanswered(self, kind: str) -> None:
        if self.socket.session is not None:
            if not self.socket.session.is_open:
                raise self.socket.session.disconnected()
            raise InterfaceError(f"{kind} after websocket.accept")
        if self._denial.step != START:
            self._denial.refuse(kind)

    # -- Denying -------------------------------------------------------------------------------

    async def _deny(self, message: Mapping[str, Any], kind: str) -> None:
        self._check_unanswered(kind)
        status = required(message, "status")
        if type(status) is int and 200 <= status < 300:
            raise InterfaceError(f"{kind}: {status} denies nothing: 300 to 599 do")
        self._denial.start(message, kind)

    async def _deny_body(self, message: Mapping[str, Any], kind: str) -> None:
        if self.socket.session is not None:
            self._check_unanswered(kind)
        await self._denial.take_body(message, kind)
        if self._denial.step == DONE:
            self._wake()

    def what_is_due(self) -> str:
        """Return what an application that has returned has left out; empty if nothing."""
        if self.socket.session is not None or self._denial.stream.sending is RESET:
            return ""
        if self._denial.step == START:
            return "the application returned without accepting or denying"
        return self._denial.what_is_due()


_HANDLERS: dict[str, Callable[[WebSocketExchange, Mapping[str, Any], str], Awaitable[None]]] = {
    "websocket.accept": WebSocketExchange._accept,
    "websocket.close": WebSocketExchange._close,
    "websocket.http.response.body": WebSocketExchange._deny_body,
    "websocket.http.response.start": WebSocketExchange._deny,
    "websocket.send": WebSocketExchange._send,
}
