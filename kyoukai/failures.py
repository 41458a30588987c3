"""
``FailureHandler``: what the pipeline does with errors, of requests and of sockets.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, cast

from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    InternalServerError,
    default_exceptions,
)
from werkzeug.wrappers import Response as WerkzeugResponse

from kyoukai.exceptions import (
    BodyError,
    ExpectingNoResponse,
    MediaError,
    PeerGone,
    WebSocketDisconnected,
)
from kyoukai.routing import UpgradeRequired
from kyoukai.sending import ResponseSender
from kyoukai.util import wrap_response
from kyoukai.wrappers import Response

if TYPE_CHECKING:
    from kyoukai.context import HTTPRequestContext
    from kyoukai.route import Route
    from kyoukai.websocket import WebSocket
    from kyoukai.wrappers import Request

__all__ = (
    "THROUGH",
    "FailureHandler",
    "InsufficientStorage",
    "error_response",
    "gone",
    "internal_error",
    "name_of",
)

logger = logging.getLogger("kyoukai")

#: What ends a request's task or the program, and so is never turned into an answer.
THROUGH: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)


class InsufficientStorage(HTTPException):
    """507: the request's body cannot be stored (RFC 4918 section 11.5)."""

    code = 507
    description = "The server has no room for the request's body."


class FailureHandler(ResponseSender):
    """The part of the pipeline that answers errors."""

    async def handle_error(
        self, ctx: HTTPRequestContext, error: BaseException, ws: WebSocket | None = None
    ) -> WerkzeugResponse:
        """
        Turn what was raised into a response, by the nearest error handler or Werkzeug's.

        :param ctx: the context; its blueprint is where the search for a handler begins
        :param error: what was raised
        :param ws: the socket, for error handlers that take it; None for a request
        :raises ExpectingNoResponse: if an error handler has taken the connection over
        :raises PeerGone: if the client left while an error handler ran
        """
        if isinstance(error, PeerGone):
            return gone()
        blueprint = ctx.bp or self.app.root
        if isinstance(error, WebSocketDisconnected) and ws is not None:
            if not blueprint.expects(error):
                logger.warning("%s: %s", name_of(ctx.request), error)
                return gone()
        elif isinstance(error, BodyError | MediaError | UpgradeRequired):
            error = self._translate(ctx, error)
        if isinstance(error, HTTPException) and error.code is None:
            return error_response(ctx, error)  # abort(response): an answer, not an error
        handler = blueprint.get_errorhandler(error)
        if handler is None and not isinstance(error, HTTPException):
            # Nobody has said that they expect this one: it is a fault of the application.
            logger.error("%s failed", name_of(ctx.request), exc_info=error)
            error = InternalServerError(original_exception=error)
            handler = blueprint.get_errorhandler(error)
        if handler is None:
            return error_response(ctx, cast(HTTPException, error))
        try:
            return await self.invoke_error_handler(handler, ctx, error, ws)
        except (ExpectingNoResponse, PeerGone, *THROUGH):
            raise
        except HTTPException as second:
            return error_response(ctx, second)
        except BaseException:
            logger.exception("error handler %s failed", handler.name)
        internal = InternalServerError()
        last = blueprint.get_errorhandler(internal)
        if last is not None and last is not handler:
            try:
                return await self.invoke_error_handler(last, ctx, internal, ws)
            except (ExpectingNoResponse, PeerGone, *THROUGH):
                raise
            except BaseException:
                logger.exception("error handler %s failed", last.name)
        return internal_error()

    async def invoke_error_handler(
        self,
        handler: Route,
        ctx: HTTPRequestContext,
        error: BaseException,
        ws: WebSocket | None = None,
    ) -> WerkzeugResponse:
        """
        Call an error handler and make a response of what it returns.

        :param handler: the error handler
        :param ctx: the context
        :param error: what was raised
        :param ws: the socket, for a handler that takes it
        """
        if handler.takes_socket:
            value = await self._call(handler.function, ctx, error, ws=ws)
        else:
            value = await self._call(handler.function, ctx, error)
        response = wrap_response(value, self.app.response_class, self.app.media_handlers)
        if not _names_status(value):
            code = error.code if isinstance(error, HTTPException) else None
            response.status_code = code or 500
        return response

    def _translate(
        self, ctx: HTTPRequestContext, error: BodyError | MediaError | UpgradeRequired
    ) -> BaseException:
        """Return the HTTP error that says what is wrong with the request, if it is that."""
        translated: BaseException = error
        if isinstance(error, BodyError):
            known: dict[int, type[HTTPException]] = {**default_exceptions, 507: InsufficientStorage}
            translated = known[error.status](_sentence(error))
        elif isinstance(error, MediaError):
            if error.received and not (ctx.bp or self.app.root).expects(error):
                translated = BadRequest(_sentence(error))
        else:
            stream = ctx.request.state
            if stream is not None and stream.head.http_version == "2":  # which has no upgrades
                translated = BadRequest(error.description)
        if translated is not error:
            translated.__cause__ = error
        return translated


def name_of(request: Request) -> str:
    """Return what a request is called in the log."""
    ctx = request.context
    route = getattr(ctx, "route", None)
    name = "request" if route is None else f"route {route.name}"
    return f"{name} ({request.method} {request.path!r})"


def internal_error() -> WerkzeugResponse:
    """Return the answer when nothing else can be said."""
    return InternalServerError().get_response()


def error_response(ctx: HTTPRequestContext, error: HTTPException) -> WerkzeugResponse:
    """Return the response of an HTTP error itself."""
    try:
        return error.get_response(ctx.environ)
    except Exception:  # a class of the application's with a page of its own
        logger.exception("%s: %r has no response", name_of(ctx.request), error)
        return internal_error()


def gone() -> WerkzeugResponse:
    """Return a response for a client that has left: nobody sees it."""
    return Response(status=400)


def _names_status(value: Any) -> bool:
    """Whether what an error handler returned says which status to answer with."""
    if isinstance(value, tuple):
        return isinstance(value[0], WerkzeugResponse) or isinstance(value[1], int | str)
    return isinstance(value, WerkzeugResponse)


def _sentence(error: BaseException) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + "."
