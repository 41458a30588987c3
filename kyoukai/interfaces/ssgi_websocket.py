"""
``SSGIWebSocket``: the ``res`` of an SSGI application that holds a conversation.

The socket lasts until either side closes it, also when the application's call has long returned:
what comes is given to handlers.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import InterfaceError, PeerGone, WebSocketDisconnected
from kyoukai.interfaces.ssgi_exchange import SsgiExchange
from kyoukai.interfaces.ssgi_headers import fields_of
from kyoukai.interfaces.ssgi_sending import (
    GONE,
    MOST_WAITING,
    SENT,
    Later,
    payload_of,
)
from kyoukai.interfaces.stepping import begin
from kyoukai.stream import CLOSED, RESET
from kyoukai.ws.codes import ABNORMAL, FAILED, NORMAL
from kyoukai.ws.messages import BINARY, TEXT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from kyoukai.interfaces.hosted_socket import HostedSocket
    from kyoukai.interfaces.ssgi import SsgiInterface
    from kyoukai.interfaces.ssgi_exchange import Handler
    from kyoukai.interfaces.ssgi_headers import RequestHeaders
    from kyoukai.stream import Payload
    from kyoukai.ws.session import Session

__all__ = ("SSGIWebSocket",)

_PENDING, _REJECTED, _CLOSED, _ACCEPTED = range(4)
_STATES = ("pending", "rejected", "closed", "accepted")


class SSGIWebSocket(SsgiExchange):
    """
    A WebSocket, from its handshake on.

    Made by the server. All of it is to be used on the event loop's thread.

    :param interface: the interface
    :param socket: the handshake
    :param headers: its headers
    """

    _session: Session | None = None
    _rejected = False
    #: Whether more has been sent than the client takes at once.
    _clogged = False
    #: What on_close tells, once it has.
    _close: tuple[int, str | None] | None = None
    #: What waits for somebody to receive.
    _waiting: asyncio.Future[None] | None = None

    def __init__(
        self, interface: SsgiInterface, socket: HostedSocket, headers: RequestHeaders
    ) -> None:
        super().__init__(interface, socket.stream, headers)
        self._socket = socket
        self._receivers: list[Handler] = []
        self._closers: list[Handler] = []

    @property
    def status(self) -> int:
        """0 while the handshake waits for its answer, 1 rejected, 2 closed or lost, 3 accepted."""
        if self._session is not None:
            return _ACCEPTED if self._session.is_open else _CLOSED
        sending = self._stream.sending
        if self._rejected or sending is CLOSED:
            return _REJECTED
        return _CLOSED if sending is RESET else _PENDING

    @property
    def extensions(self) -> dict[str, Any]:
        """What is known of the request beyond the draft, see :doc:`/ssgi`; the caller may add."""
        extensions = super().extensions
        extensions.setdefault("subprotocols", self._socket.subprotocols)
        return extensions

    # -- The handshake -------------------------------------------------------------------------

    def accept(self, protocol: str | None = None) -> Awaitable[None]:
        """
        Accept the handshake; its headers are gone then.

        :param protocol: one of the subprotocols that the client offers. By default, the first of
            them; ``""`` for none
        :return: to be awaited or not; raises :class:`ConnectionError` if the client is gone
        :raises InterfaceError: for a subprotocol that is not offered, or if it has its answer
        """
        if self._answered("accept()"):
            return GONE
        if protocol is None:
            protocol = next(iter(self._socket.subprotocols), "")
        elif not isinstance(protocol, str):
            raise InterfaceError(f"accept() takes a str or None, not {type(protocol).__name__}")
        try:
            session = self._socket.accept(protocol or None)
        except PeerGone:
            return GONE
        except ValueError as error:
            raise InterfaceError(f"accept(): {error}") from None
        self._session = session
        self._headers.end()
        self.extensions["subprotocol"] = protocol or None
        session.listeners.append(self)
        self._spawn(self._read(session))
        return SENT

    def reject(
        self,
        status_code: int | None = 403,
        payload: str | Payload | None = None,
        headers: Iterable[tuple[str, str]] | None = None,
    ) -> Awaitable[None]:
        """
        Answer the handshake with an HTTP response; its headers are gone then.

        :param status_code: 300 to 599; None for 403
        :param payload: the body, as for ``send``; None for none
        :param headers: pairs of ``str``
        :return: to be awaited or not; raises :class:`ConnectionError` if the client is gone
        :raises InterfaceError: if that may not be sent, or if the handshake has its answer
        :raises InvalidResponse: if the payload does not fit its Content-Length
        """
        status = 403 if status_code is None else status_code
        if type(status) is not int or not 300 <= status <= 599:
            raise InterfaceError(f"reject() takes a status from 300 to 599, not {status!r}")
        data = b"" if payload is None else payload_of(payload, "reject()")
        fields = () if headers is None else fields_of(headers)
        if self._answered("reject()"):
            return GONE
        try:
            rest = begin(self._socket.deny(status, fields, data))
        except PeerGone:
            return GONE
        self._rejected = True
        self._headers.end()
        if rest is None:
            return SENT
        return Later(_denied, self._spawn(_deny(rest)))

    def _answered(self, what: str) -> bool:
        """Raise if the handshake has its answer; return whether the client did not wait for it."""
        status = self.status
        if status is _CLOSED and self._session is None:
            return True
        if status is not _PENDING:
            raise InterfaceError(f"{what} of a WebSocket that is {_STATES[status]}")
        return False

    # -- Messages ------------------------------------------------------------------------------

    def send(self, payload: str | Payload) -> Awaitable[None]:
        """
        Send a message: a ``str`` is text, all else binary.

        :param payload: the message
        :return: to be awaited or not: waits while the client is slow, raises
            :class:`ConnectionError` if the socket is closed
        :raises InterfaceError: before ``accept`` and after ``reject``, and for other types
        """
        data = payload_of(payload, "send()")
        session = self._session
        if session is None:
            status = self.status
            if status is _CLOSED:
                return GONE
            raise InterfaceError(f"send() to a WebSocket that is {_STATES[status]}")
        if not session.is_open:
            return GONE
        if self._clogged and session.buffered >= MOST_WAITING:
            self._overflow(session.buffered)
            return GONE
        self._clogged = session.put(TEXT if isinstance(payload, str) else BINARY, data)
        return Later(session.drain) if self._clogged else SENT

    def close(self, code: int | None = 1000) -> Awaitable[None]:
        """
        Close the socket; before ``accept``, reject it; if it is closed, do nothing.

        :param code: the close code: 1000 to 1003, 1007 to 1014, 3000 to 4999; None for 1000
        :return: to be awaited or not
        :raises InterfaceError: for any other code
        """
        session = self._session
        if session is None:
            return self.reject() if self.status is _PENDING else SENT
        try:
            session.close(NORMAL if code is None else code)
        except ValueError as error:
            raise InterfaceError(f"close(): {error}") from None
        return SENT

    # -- Events --------------------------------------------------------------------------------

    def on_receive(self, handler: Callable[..., Any], *arguments: Any) -> None:
        """
        Have a handler called with every message, one after the other.

        :param handler: called with ``res``, the message (``str`` or ``bytes``) and the arguments;
            a coroutine function is awaited before the next message is read
        :param arguments: these
        :raises InterfaceError: if it is no callable, or the conversation is over
        """
        self._check_handler("on_receive", handler)
        self._receivers.append((handler, arguments))
        self._wake()

    def on_close(self, handler: Callable[..., Any], *arguments: Any) -> None:
        """
        Have a handler called once, when the socket is closed or lost, after the last message.

        :param handler: called with ``res``, the close code, the reason (None for none) and the
            arguments; a coroutine function is awaited
        :param arguments: these
        :raises InterfaceError: if it is no callable, or the conversation is over
        """
        self._check_handler("on_close", handler)
        self._closers.append((handler, arguments))
        if self._close is not None:
            self._notify()
        elif self._session is None:
            self._watch()

    def _notify(self) -> None:
        """It is over, or was before it began: tell who wants to hear of it, once."""
        if self._session is None and not self._rejected:
            self._close = (ABNORMAL, None)
        if self._close is not None and self._closers:
            closers, self._closers = self._closers, []
            self._spawn(self._fire("on_close", closers, *self._close))

    async def _read(self, session: Session) -> None:
        """Give every message to the handlers, and then tell that there will be no more."""
        while session.is_open and self._holders and not self._receivers:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        while True:
            try:
                message = await session.receive()
            except WebSocketDisconnected as end:
                self._close = (end.code, end.reason or None)
                self._notify()
                return
            for handler, arguments in tuple(self._receivers):
                try:
                    result = handler(self, message, *arguments)
                    if inspect.isawaitable(result):
                        await result
                except Exception as error:
                    self._event_failed("on_receive", error)
                    session.close(FAILED)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _release(self, task: object = None) -> None:
        super()._release(task)
        if not self._holders:
            self._wake()  # nobody will ask for messages any more: they are dropped

    # -- What the session calls, see ``kyoukai.ws.session.Listener`` ---------------------------

    def socket_writable(self, session: Session) -> None:
        """There is room for more."""

    def socket_closed(self, session: Session) -> None:
        """The session is not open any more."""
        self._wake()

    # -- The end -------------------------------------------------------------------------------

    def _end(self) -> None:
        super()._end()
        self._receivers.clear()
        self._closers.clear()

    def fail(self, error: Exception) -> None:
        """Log what the application has raised, and close with 1011, or answer with 500."""
        session = self._session
        if session is None or error is self._seen:
            super().fail(error)
            return
        self._seen = error
        self._interface.report(self._stream, error)
        session.close(FAILED)


async def _deny(rest: Awaitable[None]) -> bool:
    """Send the rest of an answer; return whether the client took it."""
    try:
        await rest
    except PeerGone:
        return False
    return True


async def _denied(sending: asyncio.Task[bool]) -> None:
    if not await asyncio.shield(sending):
        raise PeerGone
