"""
SSGI 1.0: a function that is called once for each request, synchronous or not.

:doc:`/ssgi` is its specification.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import BodyError, PeerGone, TargetError
from kyoukai.interfaces.build import interface_for
from kyoukai.interfaces.hosted import Hosted, answer_plainly
from kyoukai.interfaces.hosted_socket import open_socket
from kyoukai.interfaces.ssgi_headers import RequestHeaders, address_of, server_address_of
from kyoukai.interfaces.ssgi_http import SSGIHttpResponse
from kyoukai.interfaces.ssgi_negotiation import NegotiatedInterface, SSGIFramework
from kyoukai.interfaces.ssgi_websocket import SSGIWebSocket
from kyoukai.rules import reason
from kyoukai.wsgi import application_path

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from asphalt.core import Context

    from kyoukai.config import ServerConfig
    from kyoukai.stream import Interface, StreamState

__all__ = ("SSGIFramework", "SSGIHttpResponse", "SSGIWebSocket", "SsgiInterface")


class SsgiInterface(Hosted):
    """
    Answers streams by an SSGI application.

    :param app: a callable of eight arguments, or an object with ``get_supported`` that chooses
        the interfaces to be called by
    :raises TargetError: in one line, if it is neither, or its choice cannot be had
    """

    name = "ssgi"

    def set_up(self) -> None:
        """Look at the application once, when the interface is made."""
        app, limit = self.app, self.max_body_size
        #: The most bytes of a body that ``get_data`` keeps.
        self.most_in_memory = self.config.max_body_size if limit is None else limit
        #: What the application has chosen; None if it is a callable that chooses nothing.
        self.negotiated: NegotiatedInterface | None = None
        if callable(getattr(app, "get_supported", None)):
            self.negotiated = NegotiatedInterface(
                app,
                self.config,
                self.context,
                source=self.application_name,
                max_body_size=limit,
                make=_make,
            )
            self.name = self.negotiated.name
            self.interfaces = self.negotiated.interfaces
        elif not callable(app):
            raise TargetError(
                f"{self.application_name} is of type {type(app).__name__}, which is no SSGI"
                " application: it is neither callable nor has get_supported"
            )

    def __call__(self, stream: StreamState) -> Coroutine[Any, Any, None]:
        """Answer a stream."""
        if self.negotiated is not None:
            return self.negotiated(stream)
        return super().__call__(stream)

    async def startup(self, context: Context) -> None:
        """
        Get the applications ready that were chosen; SSGI itself has no such thing.

        :param context: the root context
        :raises KyoukaiError: in one line
        """
        if self.negotiated is not None:
            await self.negotiated.startup(context)

    async def shutdown(self) -> None:
        """Take back what ``startup`` did."""
        if self.negotiated is not None:
            await self.negotiated.shutdown()

    # -- Streams -------------------------------------------------------------------------------

    def answer(self, stream: StreamState) -> Coroutine[Any, Any, None]:
        """Answer a request; returns when the application has nothing more to do."""
        headers = RequestHeaders(stream.head.headers)
        res = SSGIHttpResponse(self, stream, headers)
        return self._run("http", stream, stream.head.method, headers, res)

    async def converse(self, stream: StreamState) -> None:
        """Hold a conversation, from its handshake to its end."""
        socket = await open_socket(stream, self.config)
        if socket is None:
            return
        headers = RequestHeaders(stream.head.headers)
        # On HTTP/2, a CONNECT stands for the GET of HTTP/1.1 (RFC 8441 section 5).
        await self._run("websocket", stream, "GET", headers, SSGIWebSocket(self, socket, headers))
        await socket.finish()

    async def _run(
        self,
        kind: str,
        stream: StreamState,
        method: str,
        headers: RequestHeaders,
        res: SSGIHttpResponse | SSGIWebSocket,
    ) -> None:
        """Call the application, and wait for all that it has begun."""
        head = stream.head
        try:
            try:
                result = self.app(
                    kind,
                    server_address_of(head.server),
                    address_of(head.client, "unix:"),
                    method,
                    application_path(head) if head.root_path else head.path,
                    head.query.decode("latin-1"),
                    headers,
                    res,
                )
                if result is not None and inspect.isawaitable(result):
                    await result
            except Exception as error:
                res.fail(error)
            if res.goes_on():
                await res.finish()
        except BaseException:  # cancelled
            await res.abandon()
            raise

    async def application_failed(self, stream: StreamState, error: Exception) -> None:
        """
        Log what the application has raised, and end its answer.

        :param error: what it has raised
        """
        try:
            try:
                await self._failed(stream, error)
            except BodyError as refusal:  # the client's doing
                phrase = reason(refusal.status).decode()
                page = f"{phrase}\n{str(refusal).rstrip('.')}."
                await answer_plainly(stream, refusal.status, page)
        except PeerGone:
            pass


def _make(
    name: str,
    app: Any,
    config: ServerConfig,
    context: Context | None = None,
    *,
    source: str = "",
    max_body_size: int | None = None,
) -> Interface:
    """Make the interface that was chosen, with what is mounted on its application."""
    return interface_for(
        app, config, context, interface=name, source=source, max_body_size=max_body_size
    )
