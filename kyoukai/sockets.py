"""
``SocketPipeline``: the way of a WebSocket, from its handshake to its end.

The handshake and its origin are checked before anything else. Then come, as for a request,
middlewares, match, hooks and the handler. Before ``accept`` every error is an HTTP response; after
it, a close code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from werkzeug.exceptions import HTTPException

from kyoukai.context import (
    HTTPRequestContext,
    WebSocketContext,
    context_factory,
    replace,
    set_current,
)
from kyoukai.exceptions import PeerGone, WebSocketDisconnected
from kyoukai.failures import goes_through
from kyoukai.steps import PipelineSteps, announce
from kyoukai.util import wrap_response
from kyoukai.websocket import WebSocket
from kyoukai.ws.codes import ABNORMAL
from kyoukai.ws.handshake import HandshakeError, check_handshake, origin_allowed
from kyoukai.wsgi import application_path

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as WerkzeugResponse

    from kyoukai.app import Kyoukai
    from kyoukai.config import ServerConfig
    from kyoukai.stream import StreamState

__all__ = ("SocketPipeline",)


class SocketPipeline(PipelineSteps):
    """
    The part of the pipeline that answers handshakes.

    :param app: the application
    :param settings: the server's settings
    """

    def __init__(self, app: Kyoukai, settings: ServerConfig) -> None:
        super().__init__(app, settings)
        self._new_socket_context = context_factory(_socket_context_class(app.context_class))

    async def run_socket(self, stream: StreamState) -> None:
        """Answer a handshake, and hold the conversation: what the interface calls."""
        app, settings = self.app, self.settings
        request = app.request_class(stream, settings)
        try:
            handshake = check_handshake(stream, settings)
            if not origin_allowed(stream.head, settings.ws_origins):
                raise HandshakeError(403, "This Origin may not open WebSockets (ws_origins).")
        except HandshakeError as error:
            refusal = HTTPException(error.detail)
            refusal.code = error.status
            response = self.error_pages.respond(refusal, request)
            response.headers.extend(error.headers)
            response = await self.finalize_response(response, request)
            await self.send_on(response, stream, request)
            return
        request.pipeline = self
        ws = WebSocket(request, stream, handshake, settings, app.ws_options)
        ctx = self._new_socket_context(app, request, self.parent_context)
        ctx.ws = ws
        request.context = ctx
        set_current(ctx)
        try:
            await self.converse(ctx, ws)
            if ws.session is not None:
                await ws.session.wait_over()
        finally:
            await self.close_context(request)
            request.context = None  # each refers to the other: nothing is left to the collector
            if ws.session is not None and ws.session.is_over:
                stream.tunnel = None  # as above

    async def converse(self, ctx: HTTPRequestContext, ws: WebSocket) -> None:
        """
        Run everything that has a say in a socket; when it returns, the socket is closed.

        :param ctx: the context; its request is the handshake
        :param ws: the socket, unaccepted
        """
        try:
            await self._dispatch_socket(ctx, ws)
        except BaseException as error:
            current = ws.request.context  # a hook may have put another in place
            ctx = current if isinstance(current, HTTPRequestContext) else ctx
            ctx.exception = error
            if goes_through(error):
                raise
            try:
                await self._close_after(ctx, ws, error)
            except (PeerGone, WebSocketDisconnected):
                pass
        else:
            await ws.close()

    async def _dispatch_socket(self, ctx: HTTPRequestContext, ws: WebSocket) -> None:
        """Call middlewares, hooks and the handler; a socket that one of them closes is done."""
        head = ctx.request.head
        root = self.app.root
        entered = list(root.middlewares)
        for bound in entered:
            if bound.request_ws is not None:
                await self._call(bound.request_ws, ctx, ws)
                if ws.closed:
                    return
        path = application_path(head) if head.root_path else head.path
        hit = root.match_socket(path, head.authority, head.scheme, head.root_path, head.query)
        route = ctx.route = hit.route
        ctx.bp, ctx.rule = route.bp, hit.rule
        params = ctx.params = hit.params
        announce(self._signals[0], ctx)
        if not hit.cancel_on_disconnect:
            ws.stream.cancel_on_disconnect = False
        for bound in hit.middlewares:
            entered.append(bound)
            if bound.request_ws is not None:
                await self._call(bound.request_ws, ctx, ws)
                if ws.closed:
                    return
        for bound in entered:
            if bound.resource_ws is not None:
                await self._call(bound.resource_ws, ctx, ws, route.owner, params)
                if ws.closed:
                    return
        announce(self._signals[1], ctx)
        if hit.needs_check:
            route.check_route_args(params)
        for hook in hit.before:
            outcome = await self._call(hook, ctx)
            if isinstance(outcome, HTTPRequestContext):
                if outcome is not ctx:
                    replace(ctx, outcome)
                    outcome.ws = ws  # type: ignore[attr-defined]
                ctx = outcome
            elif outcome is not None:
                app = self.app
                response = wrap_response(outcome, app.response_class, app.media_handlers)
                await self._deny_with(ws, response)
            if ws.closed:
                return
        await route.function(ctx, ws, **params)

    async def _close_after(
        self, ctx: HTTPRequestContext, ws: WebSocket, error: BaseException
    ) -> None:
        """End a socket whose handler, or whatever came before it, has raised."""
        if isinstance(error, BaseExceptionGroup) and not error.split(WebSocketDisconnected)[1]:
            error = WebSocketDisconnected(ws.close_code or ABNORMAL)  # of the tasks of a group
        response = await self.handle_error(ctx, error, ws)
        status = response.status_code
        otherwise = 500
        if isinstance(error, HTTPException):
            code = error.code or 0
            otherwise = code if code >= 300 else 403
        if status < 300:  # an error handler's: it says nothing here
            status = otherwise
        if ws.unaccepted:
            await self._deny_with(ws, response, otherwise)
        elif ws.closed:
            return
        elif isinstance(error, HTTPException) or (
            400 <= status < 500 and not isinstance(error, PeerGone | WebSocketDisconnected)
        ):
            await ws.close(3000 + status)
        else:
            await ws.close(self.app.ws_options.error_close_code)

    async def _deny_with(
        self, ws: WebSocket, response: WerkzeugResponse, otherwise: int = 403
    ) -> None:
        """
        Answer a handshake with a response.

        :param otherwise: the status instead of one below 300, which denies nothing
        """
        if not ws.unaccepted:
            return
        if response.status_code < 300:
            response.status_code = otherwise
        response = await self.finalize_response(response, ws.request)
        await self.send_on(response, ws.stream, ws.request)
        ws.denied()


def _socket_context_class(
    context_class: type[HTTPRequestContext],
) -> type[WebSocketContext]:
    """Return the class of sockets' contexts in an application with its own class of contexts."""
    if issubclass(context_class, WebSocketContext):
        return context_class
    if issubclass(WebSocketContext, context_class):
        return WebSocketContext
    return type("WebSocketContext", (WebSocketContext, context_class), {})
