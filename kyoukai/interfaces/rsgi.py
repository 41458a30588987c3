"""
RSGI 1.6, as Granian defines it: a coroutine function that is called once for each request.
"""

from __future__ import annotations

import inspect
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import BodyError
from kyoukai.interfaces.hosted import Hosted
from kyoukai.interfaces.hosted_socket import open_socket
from kyoukai.interfaces.rsgi_errors import (
    RSGIProtocolClosed,
    RSGIProtocolError,
    RSGIRangeError,
    make_error,
)
from kyoukai.interfaces.rsgi_http import HTTPProtocol
from kyoukai.interfaces.rsgi_lifecycle import Life, life_of
from kyoukai.interfaces.rsgi_scope import Headers, Scope, WebsocketScope
from kyoukai.interfaces.rsgi_sending import StreamTransport
from kyoukai.interfaces.rsgi_websocket import (
    WebsocketMessage,
    WebsocketMessageType,
    WebsocketProtocol,
    WebsocketTransport,
)
from kyoukai.stream import CLOSED, RESET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from asphalt.core import Context

    from kyoukai.interfaces.rsgi_sending import Answer
    from kyoukai.stream import StreamState

__all__ = (
    "HTTPProtocol",
    "Headers",
    "RSGIProtocolClosed",
    "RSGIProtocolError",
    "RSGIRangeError",
    "RsgiInterface",
    "Scope",
    "StreamTransport",
    "WebsocketMessage",
    "WebsocketMessageType",
    "WebsocketProtocol",
    "WebsocketScope",
    "WebsocketTransport",
)


class RsgiInterface(Hosted):
    """
    Answers streams by an RSGI application.

    :param app: a coroutine function of scope and protocol, or an object that has one as
        ``__rsgi__``

    The other parameters are those of :class:`~kyoukai.interfaces.hosted.Hosted`.
    """

    name = "rsgi"

    def set_up(self) -> None:
        """Look at the application once, when the interface is made."""
        self._function: Any = getattr(self.app, "__rsgi__", self.app)
        self._life: Life | None = None

    # -- Its life ------------------------------------------------------------------------------

    async def startup(self, context: Context) -> None:
        """
        Call ``__rsgi_init__``, unless another interface has done so.

        :param context: the root context
        :raises KyoukaiError: in one line, if it fails
        """
        if self._life is not None:
            return
        self._life = life = life_of(self.app, self.application_name)
        try:
            await life.begin()
        except BaseException:
            await self.shutdown()
            raise

    async def shutdown(self) -> None:
        """Call ``__rsgi_del__``, if no other interface needs the application any more."""
        life, self._life = self._life, None
        if life is not None:
            await life.end()

    # -- Streams -------------------------------------------------------------------------------

    def __call__(self, stream: StreamState) -> Coroutine[Any, Any, None]:
        """Answer a stream."""
        if stream.head.protocol is not None or self.max_body_size is not None:
            return super().__call__(stream)
        stream.cancel_on_disconnect = False
        return self.answer(stream)  # which fails as the base does, with one coroutine less

    async def answer(self, stream: StreamState) -> None:
        """Answer a request."""
        protocol = HTTPProtocol(stream, self)
        try:
            called = self._function(Scope(stream.head), protocol)
            if type(called) is not CoroutineType:
                called = _awaitable(called)
            await called
            if stream.sending is not CLOSED or protocol.rest is not None:
                await protocol.complete()
                if protocol.told and stream.sending is not CLOSED:
                    stream.reset("the client is gone")  # so it has been told, and has let it be
                elif stream.sending is not CLOSED:
                    await self._left_open(stream)
        except Exception as error:
            await self._failed_http(protocol, error)
        except BaseException:
            _cancel(protocol)
            self.sign(stream)
            raise
        finally:
            if stream._gone is not None:
                protocol.wake()  # tasks that were left behind must not wait for ever

    async def _failed_http(self, protocol: HTTPProtocol, error: Exception) -> None:
        """The application has raised something; a response that it has given is sent first."""
        if protocol.rest is not None:
            await protocol.rest
        stream = protocol.stream
        if isinstance(error, RSGIProtocolClosed) and isinstance(error.__cause__, BodyError):
            await self._failed(stream, error.__cause__)  # the client's doing: there is an answer
        elif stream.sending is not RESET or not self.is_of_leaving(stream, error):
            self.report(stream, error)
            await self.give_up(stream)

    def report(self, stream: StreamState, error: Exception) -> None:
        """
        Log what the application has raised, even if it is that another stream's client is gone.

        :param error: the exception
        """
        if isinstance(error, RSGIProtocolClosed):
            self.complain(stream, "unhandled error in the application", error)
        else:
            super().report(stream, error)

    async def converse(self, stream: StreamState) -> None:
        """Answer a handshake, and hold the conversation."""
        socket = await open_socket(stream, self.config)
        if socket is None:
            return
        protocol = WebsocketProtocol(stream, self, socket=socket)
        failed = False
        try:
            await _awaitable(self._function(WebsocketScope(stream.head), protocol))
        except Exception as error:
            if protocol.rest is not None:
                await protocol.rest
            session = socket.session
            gone = stream.sending is RESET or (session is not None and not session.is_open)
            if not (gone and self.is_of_leaving(stream, error)):
                failed = True
                self.report(stream, error)
        except BaseException:
            _cancel(protocol)
            raise
        if socket.unanswered and protocol.rest is None:
            if failed:
                await self.give_up(stream)
            else:
                protocol.close()  # it has not wanted it
        if protocol.rest is not None:
            await protocol.rest
        await socket.finish(failed)


def _awaitable(called: Any) -> Awaitable[Any]:
    """
    Return what calling an application has given, if it can be awaited.

    :raises RSGIProtocolError: if not
    """
    if inspect.isawaitable(called):
        return called
    rule = "an application is a coroutine function"
    raise make_error(RSGIProtocolError, f"{rule}; calling it gave {type(called).__name__}")


def _cancel(answer: Answer) -> None:
    """The application was cancelled: what is left of its answer does not matter any more."""
    if answer.rest is not None:
        answer.rest.cancel()
