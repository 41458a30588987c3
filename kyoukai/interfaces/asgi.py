"""
``AsgiInterface``: ASGI applications (version 3, its HTTP and WebSocket specification 2.5).

What an application of another server finds here is the same: scopes, messages, lifespan. What a
server may do and need not, it does: see the page on ASGI of the documentation.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kyoukai.interfaces.asgi_http import HttpExchange
from kyoukai.interfaces.asgi_scope import ScopeFactory
from kyoukai.interfaces.asgi_websocket import WebSocketExchange
from kyoukai.interfaces.hosted import Hosted
from kyoukai.interfaces.hosted_socket import open_socket
from kyoukai.interfaces.lifespan import Lifespan, lifespan_of
from kyoukai.interfaces.recognition import is_double_callable
from kyoukai.interfaces.under_asgi import as_asgi
from kyoukai.outcome import request_line
from kyoukai.stream import CLOSED, RESET
from kyoukai.targets import describe

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from asphalt.core import Context

    from kyoukai.stream import StreamState

__all__ = ("AsgiInterface", "as_asgi")

logger = logging.getLogger("kyoukai")


class AsgiInterface(Hosted):
    """
    Answers streams by an ASGI application.

    :param app: the application; of version 3, or a double callable of version 2

    The other parameters are those of :class:`~kyoukai.interfaces.hosted.Hosted`.
    """

    name = "asgi"

    def set_up(self) -> None:
        """Look at the application once, when the interface is made."""
        double = is_double_callable(self.app)
        self._call = _single(self.app) if double else self.app
        self._scopes = ScopeFactory(self.config, "2.0" if double else "3.0")
        self._lifespan: Lifespan | None = None

    # -- Lifespan ------------------------------------------------------------------------------

    async def startup(self, context: Context) -> None:
        """
        Let the application's lifespan begin, unless another interface has done so.

        :param context: the root context
        :raises KyoukaiError: in one line, if the application says that it cannot start, or does
            not answer in time
        """
        if self.config.lifespan == "off" or self._lifespan is not None:
            return
        self._lifespan = lifespan = lifespan_of(
            self.app, self._call, self.config, self.application_name, self._scopes.version
        )
        self._scopes.state = lifespan.state
        try:
            await lifespan.startup()
        except BaseException:
            await self.shutdown()
            raise

    async def shutdown(self) -> None:
        """Let it end, if no other interface needs the application any more."""
        lifespan, self._lifespan = self._lifespan, None
        if lifespan is not None:
            await lifespan.shutdown()

    # -- Streams -------------------------------------------------------------------------------

    def __call__(self, stream: StreamState) -> Coroutine[Any, Any, None]:
        """Answer a stream."""
        if stream.head.protocol is None and self.max_body_size is None:
            return self.answer(stream)  # which sees to its errors itself: a coroutine less
        return super().__call__(stream)

    async def answer(self, stream: StreamState) -> None:
        """Answer a request."""
        stream.cancel_on_disconnect = False
        exchange = HttpExchange(stream)
        try:
            await self._call(self._scopes.http(stream.head), exchange.receive, exchange.send)
        except Exception as error:
            if exchange.told and stream.sending is not CLOSED:
                # It has been told that the client is gone, and made an error of its own of that.
                logger.info(
                    "%s: asgi application %s failed after its client had left: %s",
                    request_line(stream),
                    self.application_name,
                    describe(error),
                )
                stream.reset("the client is gone")
            elif not (stream.sending is RESET and self.is_of_leaving(stream, error)):
                await self._failed(stream, error)
        except BaseException:
            self.sign(stream)
            raise
        else:
            if exchange.told and stream.sending is not CLOSED:
                stream.reset("the client is gone")  # so it has been told, and has let it be
            elif stream.sending is not CLOSED:
                await self._returned_early(stream, exchange.what_is_due())
        finally:
            exchange.left = True
            if stream._gone is not None:
                exchange.wake()

    async def converse(self, stream: StreamState) -> None:
        """Answer a handshake, and hold the conversation."""
        socket = await open_socket(stream, self.config)
        if socket is None:
            return
        exchange = WebSocketExchange(socket)
        scope = self._scopes.websocket(stream.head, socket.subprotocols)
        failed = False
        try:
            await self._call(scope, exchange.receive, exchange.send)
        except Exception as error:
            session = socket.session
            gone = stream.sending is RESET or (session is not None and not session.is_open)
            if gone and self.is_of_leaving(stream, error):
                pass
            elif session is None:
                raise
            else:
                failed = True
                self.report(stream, error)
        finally:
            exchange.leave()
        if due := exchange.what_is_due():
            await self._returned_early(stream, due)
        await socket.finish(failed)

    async def _returned_early(self, stream: StreamState, due: str) -> None:
        """The application has returned, and its answer is not complete."""
        if due:
            self.complain(stream, due)
            await self.give_up(stream)
        else:
            await self._left_open(stream)


def _single(app: Any) -> Any:
    """Return an application of ASGI 2, which is called twice, as one that is called once."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await app(scope)(receive, send)

    return application
