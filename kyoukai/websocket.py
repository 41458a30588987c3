"""
``WebSocket``: one conversation, as a handler sees it, and ``WebSocketOptions``.

.. code-block:: python

    @app.websocket("/echo")
    async def echo(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()
        async for message in ws:
            await ws.send_text(f"you said {message!r}")

A socket is unaccepted until ``accept``, ``deny`` or ``close``; then ready, until either side closes
it or the client is lost; then closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import (
    OperationNotAllowed,
    PayloadTypeError,
    PeerGone,
    WebSocketDisconnected,
)
from kyoukai.media import (
    WebSocketPayloadType,
    read_message,
    websocket_handlers,
    write_message,
)
from kyoukai.ws.codes import FAILED, NORMAL, check_close, shorten
from kyoukai.ws.messages import BINARY, TEXT
from kyoukai.ws.session import Session

if TYPE_CHECKING:
    from werkzeug.datastructures import EnvironHeaders

    from kyoukai.config import ServerConfig
    from kyoukai.rules import Header
    from kyoukai.stream import StreamState
    from kyoukai.wrappers import Request
    from kyoukai.ws.handshake import Handshake

__all__ = ("WebSocket", "WebSocketOptions", "WebSocketPayloadType")

HeadersValue = Mapping[str, str] | Iterable[tuple[str, str]]

_REASONS = {
    1000: "Normal Closure",
    1001: "Going Away",
    1002: "Protocol Error",
    1003: "Unsupported Data",
    1007: "Invalid Payload Data",
    1008: "Policy Violation",
    1009: "Message Too Big",
    1011: "Internal Server Error",
    1012: "Service Restart",
    1013: "Try Again Later",
    **{3000 + status: status.phrase for status in HTTPStatus if status >= 400},
}

#: Headers of an acceptance that are the wire's, beside ``Sec-WebSocket-*``.
_OWN_HEADERS = (b"connection", b"upgrade")


class WebSocketOptions:
    """
    What an application says of all its sockets, as ``app.ws_options``.
    """

    def __init__(self) -> None:
        #: The handlers of ``send_media`` and ``receive_media``, by payload type.
        self.media_handlers: dict[WebSocketPayloadType, Any] = websocket_handlers()
        #: Reasons by close code, for closes that give none.
        self.default_close_reasons: dict[int, str] = dict(_REASONS)
        self._error_close_code = FAILED
        self._max_receive_queue = 4

    @property
    def error_close_code(self) -> int:
        """
        The close code when a handler raises: 1011.

        :raises ValueError: when it is set to one that may not be sent
        """
        return self._error_close_code

    @error_close_code.setter
    def error_close_code(self, code: int) -> None:
        check_close(code, "")
        self._error_close_code = code

    @property
    def max_receive_queue(self) -> int:
        """
        Messages that may wait to be received before reading stops: 4; 0: none.

        :raises ValueError: when it is set to anything else than such a number
        """
        return self._max_receive_queue

    @max_receive_queue.setter
    def max_receive_queue(self, messages: int) -> None:
        if type(messages) is not int or messages < 0:
            raise ValueError(f"max_receive_queue must be 0 or more messages, not {messages!r}")
        self._max_receive_queue = messages


class WebSocket:
    """
    One WebSocket.

    :param request: the handshake
    :param stream: its stream
    :param handshake: what the client offers
    :param config: the server's settings
    :param options: the application's
    """

    def __init__(
        self,
        request: Request,
        stream: StreamState,
        handshake: Handshake,
        config: ServerConfig,
        options: WebSocketOptions,
    ) -> None:
        #: The handshake's request, and its stream.
        self.request = request
        self.stream = stream
        self._handshake = handshake
        self._config = config
        self._options = options
        #: What the socket is from its acceptance on; None before, and if it was denied.
        self.session: Session | None = None
        self._denied = False
        # What ``wait_closed`` waits for before the handshake has its answer.
        self._answered: asyncio.Future[None] | None = None
        #: The subprotocol that was accepted.
        self.subprotocol: str | None = None

    def __repr__(self) -> str:
        state = "unaccepted" if self.unaccepted else "ready" if self.ready else "closed"
        return f"<WebSocket {self.request.path!r} {state}>"

    # -- What it is ----------------------------------------------------------------------------

    @property
    def headers(self) -> EnvironHeaders:
        """The handshake's headers, without regard to case."""
        return self.request.headers

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, by its preference."""
        return self._handshake.subprotocols

    @property
    def unaccepted(self) -> bool:
        """Whether the handshake has no answer yet."""
        return self.session is None and not self._denied

    @property
    def ready(self) -> bool:
        """Whether messages can be sent: it is accepted, and neither closed nor lost."""
        return self.session is not None and self.session.is_open

    @property
    def closed(self) -> bool:
        """Whether it was denied, closed by either side, or lost."""
        return self._denied if self.session is None else not self.session.is_open

    @property
    def close_code(self) -> int | None:
        """
        The code that it was closed with: the client's, 1005 if it gave none, 1006 if it was lost;
        or ours. None while it is open, and if it was denied.
        """
        return None if self.session is None else self.session.close_code

    @property
    def close_reason(self) -> str | None:
        """The reason that goes with ``close_code``."""
        return None if self.session is None else self.session.close_reason

    @property
    def buffered_amount(self) -> int:
        """Bytes that were sent and that the client has not taken."""
        return 0 if self.session is None else self.session.buffered

    # -- The handshake -------------------------------------------------------------------------

    async def accept(
        self, subprotocol: str | None = None, headers: HeadersValue | None = None
    ) -> None:
        """
        Accept the handshake.

        :param subprotocol: one of ``subprotocols``
        :param headers: headers of the answer
        :raises ValueError: for a subprotocol that was not offered, or a header that is not legal,
            or is the handshake's own (``Sec-WebSocket-*``, ``Connection``, ``Upgrade``)
        :raises OperationNotAllowed: if it has its answer
        :raises WebSocketDisconnected: if the client is gone
        """
        self._check_unaccepted()
        answer = self._handshake.answer(subprotocol)
        for name, value in _pairs(headers):
            lower = name.lower()
            if lower.startswith(b"sec-websocket-") or lower in _OWN_HEADERS:
                raise ValueError(f"{name.decode()} is the server's to send")
            answer.append((name, value))
        session = Session(
            self.stream,
            self._config,
            self._handshake.accepted,
            self._options.max_receive_queue,
        )
        try:
            self.stream.accept_upgrade(answer, session)
        except PeerGone as gone:
            raise WebSocketDisconnected from gone
        self.stream.cancel_on_disconnect = False
        self.session = session
        self.subprotocol = subprotocol
        session.begin()
        self._wake()

    async def deny(
        self, status: int = 403, body: str | bytes = b"", headers: HeadersValue | None = None
    ) -> None:
        """
        Answer the handshake with an HTTP response.

        :param status: its status, 300 to 599
        :param body: its body; a ``str`` is plain text
        :param headers: its headers
        :raises ValueError: if that may not be sent
        :raises OperationNotAllowed: if it has its answer
        :raises WebSocketDisconnected: if the client is gone
        """
        self._check_unaccepted()
        if type(status) is not int or not 300 <= status <= 599:
            raise ValueError(f"{status!r} denies nothing: 300 to 599 do")
        pairs = _pairs(headers)
        if isinstance(body, str):
            body = body.encode()
            if not any(name.lower() == b"content-type" for name, _ in pairs):
                pairs.append((b"content-type", b"text/plain; charset=utf-8"))
        await self._answer(status, pairs, body)

    async def _answer(self, status: int, headers: list[Header], body: bytes) -> None:
        self._denied = True  # from now on, for whoever asks while it is sent
        try:
            await self.stream.send_response(status, headers, body)
        except Exception as error:
            self._denied = False
            if isinstance(error, PeerGone):
                raise WebSocketDisconnected from error
            raise
        self._wake()

    def denied(self) -> None:
        """For the pipeline: the handshake has been answered with an HTTP response."""
        self._denied = True
        self._wake()

    def _wake(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def _check_unaccepted(self) -> None:
        if not self.unaccepted:
            done = "denied" if self._denied else "accepted"
            raise OperationNotAllowed(f"the WebSocket has been {done}")

    # -- The end -------------------------------------------------------------------------------

    async def close(self, code: int = NORMAL, reason: str | None = None) -> None:
        """
        Close the socket; before ``accept``, deny it with 403; if it is closed, do nothing.

        :param code: the close code
        :param reason: why, at most 123 bytes in UTF-8; by default the code's in
            ``app.ws_options.default_close_reasons``
        :raises ValueError: if code or reason may not be sent
        """
        if reason is None:
            reason = shorten(self._options.default_close_reasons.get(code, ""))
        check_close(code, reason)
        if self.session is not None:
            self.session.close(code, reason)
        elif not self._denied:
            try:
                await self.deny(403)
            except WebSocketDisconnected:
                pass

    async def wait_closed(self) -> None:
        """Wait until the socket is closed, or the client is gone."""
        if self.unaccepted:
            if self._answered is None:
                self._answered = asyncio.get_running_loop().create_future()
            gone = asyncio.ensure_future(self.stream.disconnected())
            try:
                await asyncio.wait((self._answered, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
        if self.session is not None:
            await self.session.wait_closed()

    def _opened(self) -> Session:
        if self.session is None:
            state = "was denied" if self._denied else "has not been accepted"
            raise OperationNotAllowed(f"the WebSocket {state}")
        return self.session

    # -- Sending -------------------------------------------------------------------------------

    async def send_text(self, payload: str) -> None:
        """
        Send a text message.

        Any number of tasks may send: messages go out whole, in the order of the calls. It waits
        while more than ``ws_write_limit`` bytes wait for the client; a call that is cancelled then
        has been sent.

        :raises TypeError: if it is no text
        :raises WebSocketDisconnected: if the socket is closed, or the client is gone
        :raises OperationNotAllowed: before ``accept``
        """
        if not isinstance(payload, str):
            raise TypeError(f"send_text takes a str, not {type(payload).__name__}")
        session = self.session or self._opened()
        if session.put(TEXT, payload.encode()):
            await session.drain()

    async def send_data(self, payload: bytes | bytearray | memoryview) -> None:
        """Send a binary message; as ``send_text``."""
        if not isinstance(payload, bytes | bytearray | memoryview):
            raise TypeError(f"send_data takes bytes, not {type(payload).__name__}")
        session = self.session or self._opened()
        if session.put(BINARY, bytes(payload)):
            await session.drain()

    async def send_media(
        self, media: Any, payload_type: WebSocketPayloadType = WebSocketPayloadType.TEXT
    ) -> None:
        """
        Send an object, as the handler of the payload type writes it; as ``send_text``.

        :param payload_type: which handler of ``app.ws_options.media_handlers``
        :raises MediaError: if the handler cannot
        """
        payload = write_message(self._options.media_handlers, media, payload_type)
        if isinstance(payload, str):
            await self.send_text(payload)
        else:
            await self.send_data(payload)

    async def ping(self) -> float:
        """
        Send a ping and wait for its answer.

        While messages wait that nobody receives, the answer is not read either.

        :return: seconds that it took
        :raises WebSocketDisconnected: if the socket is closed, or the client is lost meanwhile
        :raises OperationNotAllowed: before ``accept``
        """
        return await self._opened().ping()

    # -- Receiving -----------------------------------------------------------------------------

    async def receive(self) -> str | bytes:
        """
        Return the next message, text as ``str``, binary as ``bytes``.

        One task receives at a time; a cancelled call loses no message.

        :raises WebSocketDisconnected: if the socket is closed, or the client is gone, and all that
            came before has been received
        :raises OperationNotAllowed: before ``accept``, or while another task receives
        """
        session = self.session or self._opened()
        messages = session.messages
        if not messages or session.busy:
            return await session.receive()
        message = messages.popleft()
        if session.full and not messages:
            session.make_room()
        return message

    async def receive_text(self) -> str:
        """
        Return the next message; as ``receive``.

        :raises PayloadTypeError: if it is binary; it is dropped then
        """
        message = await self.receive()
        if type(message) is not str:
            raise PayloadTypeError("the message is binary, not text")
        return message

    async def receive_data(self) -> bytes:
        """
        Return the next message; as ``receive``.

        :raises PayloadTypeError: if it is text; it is dropped then
        """
        message = await self.receive()
        if type(message) is not bytes:
            raise PayloadTypeError("the message is text, not binary")
        return message

    async def receive_media(self) -> Any:
        """
        Return what the next message says, as the handler of its payload type reads it.

        :raises MediaError: if the handler cannot; ``payload_type`` is ``text`` or ``binary``, and
            for JSON it is a ``json.JSONDecodeError`` too
        """
        return read_message(self._options.media_handlers, await self.receive())

    def __aiter__(self) -> WebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.receive()
        except WebSocketDisconnected:
            raise StopAsyncIteration from None


def _pairs(headers: HeadersValue | None) -> list[Header]:
    if headers is None:
        return []
    items = headers.items() if isinstance(headers, Mapping) else headers
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in items]
