"""
``FailureHandler``: what the pipeline does with errors, of requests and of sockets.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from werkzeug.exceptions import (
    BadGateway,
    BadRequest,
    GatewayTimeout,
    HTTPException,
    InternalServerError,
    ServiceUnavailable,
    default_exceptions,
)
from werkzeug.wrappers import Response as WerkzeugResponse

from kyoukai.debugger import Debugger
from kyoukai.error_pages import ErrorPages
from kyoukai.exceptions import (
    BodyError,
    BodyStorageError,
    ExpectingNoResponse,
    MediaError,
    PeerGone,
    UpstreamError,
    WebSocketDisconnected,
)
from kyoukai.routing import UpgradeRequired
from kyoukai.sending import ResponseSender
from kyoukai.util import wrap_response
from kyoukai.wrappers import Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.app import Kyoukai
    from kyoukai.config import ServerConfig
    from kyoukai.context import HTTPRequestContext
    from kyoukai.route import Route
    from kyoukai.websocket import WebSocket
    from kyoukai.wrappers import Request

__all__ = (
    "FailureHandler",
    "InsufficientStorage",
    "goes_through",
    "gone",
    "internal_error",
    "name_of",
    "safely",
)

logger = logging.getLogger("kyoukai")


class InsufficientStorage(HTTPException):
    """507: the request's body cannot be stored (RFC 4918 section 11.5)."""

    code = 507
    description = "The server has no room for the request's body."


class FailureHandler(ResponseSender):
    """
    The part of the pipeline that answers errors.

    :param app: the application; if its ``debug`` is on now, there is a debugger
    :param settings: the server's settings
    :raises ConfigurationError: if an error page cannot be used
    """

    def __init__(self, app: Kyoukai, settings: ServerConfig) -> None:
        self.app = app
        self.settings = settings
        #: What a client sees of errors that no error handler answers.
        self.error_pages = ErrorPages(settings.error_pages)
        #: What a developer sees of them; None unless the application is in debug mode.
        self.debugger = Debugger(app.name) if app.debug else None

    async def handle_error(
        self, ctx: HTTPRequestContext, error: BaseException, ws: WebSocket | None = None
    ) -> WerkzeugResponse:
        """
        Turn what was raised into a response, by the nearest error handler or the error's page.

        :param ctx: the context; its blueprint is where the search for a handler begins
        :param error: what was raised
        :param ws: the socket, for error handlers that take it; None for a request
        :raises ExpectingNoResponse: if an error handler has taken the connection over
        :raises PeerGone: if the client left while an error handler ran
        """
        try:
            return await self._answer_error(ctx, error, ws)
        except (ExpectingNoResponse, PeerGone):
            raise
        except BaseException as failure:  # an error that fails when it is looked at
            if goes_through(failure):
                raise
            logger.exception("%s: %s has no answer", name_of(ctx.request), safely(error, repr))
            return self.internal_error(ctx.request, failure if ws is None else None)

    async def _answer_error(
        self, ctx: HTTPRequestContext, error: BaseException, ws: WebSocket | None
    ) -> WerkzeugResponse:
        if isinstance(error, PeerGone):
            return gone()
        blueprint = ctx.bp or self.app.root
        if isinstance(error, WebSocketDisconnected) and ws is not None:
            if not blueprint.expects(error):
                logger.warning("%s: %s", name_of(ctx.request), error)
                return gone()
        elif isinstance(error, BodyError | MediaError | UpgradeRequired | UpstreamError):
            error = self._translate(ctx, error)
        if isinstance(error, HTTPException) and error.code is None:
            return self.error_response(ctx, error)  # abort(response): an answer, not an error
        handler = blueprint.get_errorhandler(error)
        if handler is None and not isinstance(error, HTTPException):
            # Nobody has said that they expect this one: it is a fault of the application.
            logger.error("%s failed", name_of(ctx.request), exc_info=error)
            original = error
            error = InternalServerError(original_exception=original)
            handler = blueprint.get_errorhandler(error)
            if handler is None:
                return self.internal_error(ctx.request, original if ws is None else None)
        if handler is None:
            return self.error_response(ctx, cast(HTTPException, error))
        try:
            return await self.invoke_error_handler(handler, ctx, error, ws)
        except (ExpectingNoResponse, PeerGone):
            raise
        except HTTPException as second:
            return self.error_response(ctx, second)
        except BaseException as failure:
            if goes_through(failure):
                raise
            logger.exception("error handler %s failed", handler.name)
            failed = failure
        internal = InternalServerError()
        last = blueprint.get_errorhandler(internal)
        if last is not None and last is not handler:
            try:
                return await self.invoke_error_handler(last, ctx, internal, ws)
            except (ExpectingNoResponse, PeerGone):
                raise
            except BaseException as failure:
                if goes_through(failure):
                    raise
                logger.exception("error handler %s failed", last.name)
        return self.internal_error(ctx.request, failed if ws is None else None)

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

    # -- Answers without the application -------------------------------------------------------

    def error_response(self, ctx: HTTPRequestContext, error: HTTPException) -> WerkzeugResponse:
        """
        Return the response of an HTTP error itself.

        :param ctx: the context
        :param error: the error, perhaps of a class of the application's
        """
        try:
            response = self.error_pages.respond(error, ctx.request)
            if not isinstance(response, WerkzeugResponse):
                raise TypeError(f"get_response returned {type(response).__name__}")
            return response
        except BaseException as failure:
            if goes_through(failure):
                raise
            logger.exception("%s: %s has no response", name_of(ctx.request), safely(error, repr))
            return self.internal_error(ctx.request, failure)

    def internal_error(
        self, request: Request | None = None, error: BaseException | None = None
    ) -> WerkzeugResponse:
        """
        Return the answer when nothing else can be said: 500, and nothing of what has happened.

        :param request: the request
        :param error: what has happened, for the debugger; it has been logged
        """
        try:
            if self.debugger is not None and request is not None and error is not None:
                page = self.debugger.show(request, error)
                if page is not None:
                    return page
            return self.error_pages.respond(InternalServerError(), request)
        except Exception:  # a request that fails when it is looked at
            logger.exception("the page for 500 failed")
            return internal_error()

    def _translate(
        self,
        ctx: HTTPRequestContext,
        error: BodyError | MediaError | UpgradeRequired | UpstreamError,
    ) -> BaseException:
        """Return the HTTP error that says what is wrong, if it is no fault of the application's."""
        translated: BaseException = error
        if isinstance(error, BodyStorageError):
            logger.error("%s: %s", name_of(ctx.request), error)  # the operator's to mend
            translated = InsufficientStorage()
        elif isinstance(error, BodyError):
            translated = default_exceptions[error.status](_sentence(error))
        elif isinstance(error, UpstreamError):
            if not (ctx.bp or self.app.root).expects(error):
                translated = _UPSTREAM_ERRORS[error.status]()
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


#: What a client is told of a server behind us. (The log says more.)
_UPSTREAM_ERRORS: dict[int, Callable[[], HTTPException]] = {
    502: BadGateway,
    503: partial(ServiceUnavailable, retry_after=1),
    504: GatewayTimeout,
}


def name_of(request: Request) -> str:
    """Return what a request is called in the log."""
    try:
        ctx = request.context
        route = getattr(ctx, "route", None)
        name = "request" if route is None else f"route {route.name}"
        return f"{name} ({request.method} {request.path!r})"
    except Exception:  # a class of the application's
        return "request"


def safely(value: object, text_of: Callable[[Any], str] = str) -> str:
    """
    Return an object as text for the log, whatever its class makes of that.

    :param text_of: ``str`` or ``repr``
    """
    try:
        return text_of(value)
    except Exception:
        return f"<{type(value).__qualname__} without a text>"


def internal_error() -> WerkzeugResponse:
    """Return the plainest answer."""
    return InternalServerError().get_response()


def goes_through(error: BaseException) -> bool:
    """
    Whether an error ends the request's task or the program, and so is never turned into an answer.

    The cancellation of something that this task has awaited does not: it is an error like others.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, GeneratorExit | KeyboardInterrupt)


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
