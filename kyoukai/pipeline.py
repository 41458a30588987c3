"""
``RequestPipeline``: the steps from a request to a sent response.

Each step is a method to override. A pipeline that overrides none of them takes a shorter way with
the same steps: a plain answer (a string, bytes, JSON) then goes to the wire without ever becoming
a ``Response``, and what nobody listens to is not called.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from werkzeug.exceptions import (
    HTTPException,
    InternalServerError,
    default_exceptions,
)
from werkzeug.routing import RequestRedirect
from werkzeug.wrappers import Response as WerkzeugResponse

from kyoukai.context import (
    HTTPRequestContext,
    context_factory,
    listens,
    replace,
    reset_current,
    set_current,
)
from kyoukai.exceptions import (
    BodyError,
    ExpectingNoResponse,
    InvalidResponse,
    PeerGone,
)
from kyoukai.route import UNSET
from kyoukai.sending import ResponseSender
from kyoukai.stream import CLOSED, IDLE
from kyoukai.util import plain_response, wrap_response
from kyoukai.wrappers import Response
from kyoukai.wsgi import application_path

if TYPE_CHECKING:
    from asphalt.core import Context

    from kyoukai.app import Kyoukai
    from kyoukai.blueprint import Hit
    from kyoukai.config import ServerConfig
    from kyoukai.route import Route
    from kyoukai.sending import Plain
    from kyoukai.stream import StreamState
    from kyoukai.wrappers import Request

__all__ = ("InsufficientStorage", "RequestPipeline")

logger = logging.getLogger("kyoukai")


class InsufficientStorage(HTTPException):
    """507: the request's body cannot be stored (RFC 4918 section 11.5)."""

    code = 507
    description = "The server has no room for the request's body."


class RequestPipeline(ResponseSender):
    """
    The way of a request, as steps to override.

    :param app: the application
    :param settings: the server's settings
    """

    def __init__(self, app: Kyoukai, settings: ServerConfig) -> None:
        self.app = app
        self.settings = settings
        #: The Asphalt context that the requests' contexts are children of; None: the current one.
        self.parent_context: Context | None = None
        self._lean = not app.overrides_processing and all(
            getattr(type(self), step) is getattr(RequestPipeline, step) for step in _STEPS
        )
        # Only the ordinary response class is known to say what a plain answer says.
        self._plain = app.response_class is Response
        context_class = app.context_class
        self._new_context = context_factory(context_class)
        self._new_request = app.request_class
        self._matched, self._invoked = app.route_matched, app.route_invoked
        self._completed = app.route_completed
        self._signals = (
            (self._matched, context_class.route_matched),
            (self._invoked, context_class.route_invoked),
            (self._completed, context_class.route_completed),
        )
        # What shows whether any context listens, looked at for each request.
        self._bound_matched, self._bound_invoked, self._bound_completed = (
            _listened(signal) for _, signal in self._signals
        )

    # -- The steps -----------------------------------------------------------------------------

    async def __call__(self, stream: StreamState) -> Request:
        """
        Answer a stream.

        :return: the request that was handled
        :raises Exception: what a step let through, after it was logged; the client gets a 500
        """
        request = await self.get_request(stream)
        request.pipeline = self
        request.parent_context = self.parent_context
        try:
            await self.start_response(request)
        except (PeerGone, asyncio.CancelledError):
            raise
        except Exception:
            logger.exception("%s failed", _name_of(request))
            raise
        finally:
            await self.close_context(request)
        return request

    async def get_request(self, stream: StreamState) -> Request:
        """Make the request of a stream."""
        return self.app.request_class(stream, self.settings)

    async def start_response(
        self, request: Request, response: WerkzeugResponse | None = None
    ) -> None:
        """
        Handle a request and send the response.

        :param response: a response to send instead of handling the request
        """
        if response is None:
            try:
                response = await self.app.process_request(request, request.parent_context)
            except ExpectingNoResponse:
                return
        assert request.state is not None
        response = await self.finalize_response(response, request)
        await self.send_response(response, request.state, request)

    async def get_response(self, request: Request) -> WerkzeugResponse:
        """
        Match the request, run hooks and handler, and return the response.

        :raises ExpectingNoResponse: if a handler has taken the connection over
        """
        ctx = self._new_context(self.app, request, request.parent_context)
        request.context = ctx
        token = set_current(ctx)
        try:
            answer = await self._respond(ctx, request)
        finally:
            if request.pipeline is None:  # otherwise the task is the request's own
                reset_current(token)
        return await self.apply_middlewares_to_response(self.as_response(answer), request)

    async def produce_final_response_failsafe(
        self,
        request: Request,
        producer: Callable[[Request], Awaitable[WerkzeugResponse]],
        processor: Callable[[WerkzeugResponse], Awaitable[WerkzeugResponse]] | None = None,
    ) -> WerkzeugResponse:
        """
        Produce a response, whatever fails.

        :param producer: makes the response
        :param processor: changes it; if that fails, the response goes out unchanged
        :raises ExpectingNoResponse: if a handler has taken the connection over
        """
        try:
            response = await producer(request)
        except (ExpectingNoResponse, *_THROUGH):
            raise
        except PeerGone:
            return _gone()
        except BaseException:
            logger.exception("%s failed", _name_of(request))
            response = _internal_error()
        if processor is not None:
            try:
                response = await processor(response)
            except _THROUGH:
                raise
            except BaseException:
                logger.exception("%s: its response could not be processed", _name_of(request))
        return response

    async def apply_middlewares_to_response(
        self, response: WerkzeugResponse, request: Request
    ) -> WerkzeugResponse:
        """Pass a response back; a place for what every response should get."""
        return response

    async def finalize_response(
        self, response: WerkzeugResponse, request: Request | None = None
    ) -> WerkzeugResponse:
        """Give a response its last touches before it is sent."""
        return response

    async def send_response(
        self,
        response: WerkzeugResponse,
        stream: StreamState,
        request: Request | None = None,
        disable_logging: bool = False,
    ) -> None:
        """
        Send a response; if it cannot be sent, a 500 in its place.

        :param request: its request
        :param disable_logging: keep faults of the response out of the log
        :raises PeerGone: if the client left
        """
        try:
            await self.send_on(response, stream, request)
        except BaseException as error:
            ctx = None if request is None else request.context
            if isinstance(ctx, HTTPRequestContext) and ctx.exception is None:
                ctx.exception = error
            if isinstance(error, (PeerGone, *_THROUGH)):
                raise
            if not disable_logging:
                illegal = isinstance(error, InvalidResponse | UnicodeError)
                logger.error(
                    "%s: its response cannot be sent: %s",
                    stream.head.target.decode("latin-1") if request is None else
                    _name_of(request),
                    error,
                    exc_info=None if illegal else error,
                )  # fmt: skip
            if stream.sending is not IDLE:
                stream.reset("the response is not whole")
                return
            await self.send_on(_internal_error(), stream, request)

    # -- The short way -------------------------------------------------------------------------

    async def run(self, stream: StreamState) -> None:
        """Answer a stream: what the interface calls."""
        if not self._lean:
            await self(stream)
            return
        app = self.app
        request = self._new_request(stream, self.settings)
        ctx = self._new_context(app, request, self.parent_context)
        request.context = ctx
        touched = ctx.__dict__  # its attributes cost much more: Asphalt's contexts look upwards
        set_current(ctx)  # the task is this request's own: nothing to take back
        try:
            answer = await self._respond(ctx, request)
            if type(answer) is tuple and "trailers" not in touched:
                await stream.send_response(*answer)
            else:
                await self.send_response(self.as_response(answer), stream, request)
        except ExpectingNoResponse:
            pass
        except InvalidResponse:  # of a plain answer; the long way says what is wrong
            await self.send_response(self.as_response(answer), stream, request)
        finally:
            if "_teardown_callbacks" in touched:
                await self.close_context(request)
            request.context = None  # each refers to the other: nothing is left to the collector

    async def close_context(self, request: Request) -> None:
        """Close a request's context, if anything waits for that."""
        ctx = request.context
        if isinstance(ctx, HTTPRequestContext) and ctx.has_teardown:
            try:
                await ctx.close(ctx.exception)
            except Exception:
                logger.exception("%s: its context could not be closed", _name_of(request))

    # -- Match, hooks, handler -----------------------------------------------------------------

    async def _respond(self, ctx: HTTPRequestContext, request: Request) -> WerkzeugResponse | Plain:
        """Match the request, run hooks and handler; whatever they raise becomes an answer."""
        app = self.app
        stream = request.state
        try:
            if stream is not None:
                head = stream.head
                path = application_path(head) if head.root_path else head.path
                if path == "*":
                    return _options(("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"))
                hit = app.root.match_head(
                    head.method, path, head.authority, head.scheme, head.root_path, head.query
                )
            else:
                hit = app.root.match_head(
                    request.method,
                    request.path,
                    request.host.lower(),
                    request.scheme,
                    request.root_path,
                    request.query_string,
                )
            route = hit.route
            ctx.route = route
            ctx.bp = route.bp
            ctx.rule = hit.rule
            params = ctx.params = hit.params
            if self._matched.listeners or self._bound_matched:
                _dispatch(self._signals[0], ctx)
            if hit.automatic_options:
                return _options(hit.allowed)
            if stream is not None:
                if not hit.cancel_on_disconnect:
                    stream.cancel_on_disconnect = False
                if stream.receiving is not CLOSED or stream.received:
                    await self._take_body(stream, hit)
            if self._invoked.listeners or self._bound_invoked:
                _dispatch(self._signals[1], ctx)
            if hit.needs_check:
                route.check_route_args(params)
            for hook in hit.before:
                outcome = await self._call(hook, ctx)
                if isinstance(outcome, HTTPRequestContext):
                    if outcome is not ctx:
                        replace(ctx, outcome)
                    ctx = outcome
                elif outcome is not None:
                    value = outcome
                    break
            else:
                if route.is_coroutine:
                    value = await route.function(ctx, **params)
                elif route.is_generator:
                    value = route.function(ctx, **params)
                else:
                    value = await self.in_thread(route.function, ctx, **params)
            if not hit.after and self._plain:
                plain = plain_response(value)
                if plain is not None and not (self._completed.listeners or self._bound_completed):
                    return plain
            response = wrap_response(value, app.response_class)
            for hook in hit.after:
                outcome = await self._call(hook, ctx, response)
                if outcome is not None:
                    response = wrap_response(outcome, app.response_class)
            if self._completed.listeners or self._bound_completed:
                _dispatch(self._signals[2], ctx, result=response)
            return response
        except RequestRedirect as redirect:
            return redirect.get_response(ctx.environ)
        except ExpectingNoResponse:
            raise
        except BaseException as error:
            ctx.exception = error
            if isinstance(error, _THROUGH):
                raise
            return await self._handle_error(ctx, error)

    async def _take_body(self, stream: StreamState, hit: Hit) -> None:
        limit = self.settings.max_body_size if hit.max_body_size is UNSET else hit.max_body_size
        stream.set_body_limit(limit)
        if not hit.stream and stream.receiving is not CLOSED:
            settings = self.settings
            await stream.receive_body(settings.body_spool_size, settings.body_spool_dir)

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a hook: a coroutine function, or a plain function, in a thread."""
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        return await self.in_thread(function, *args)

    # -- Errors --------------------------------------------------------------------------------

    async def _handle_error(
        self, ctx: HTTPRequestContext, error: BaseException
    ) -> WerkzeugResponse:
        """Turn what was raised into a response, by the nearest error handler or Werkzeug's."""
        if isinstance(error, PeerGone):
            return _gone()
        if isinstance(error, BodyError):
            error = _http_error(error)
        if isinstance(error, HTTPException) and error.code is None:
            return _error_response(ctx, error)  # abort(response): an answer, not an error
        blueprint = ctx.bp or self.app.root
        handler = blueprint.get_errorhandler(error)
        if handler is None and not isinstance(error, HTTPException):
            # Nobody has said that they expect this one: it is a fault of the application.
            logger.error("%s failed", _name_of(ctx.request), exc_info=error)
            error = InternalServerError(original_exception=error)
            handler = blueprint.get_errorhandler(error)
        if handler is None:
            return _error_response(ctx, cast(HTTPException, error))
        try:
            return await self._invoke_error_handler(handler, ctx, error)
        except (ExpectingNoResponse, PeerGone, *_THROUGH):
            raise
        except HTTPException as second:
            return _error_response(ctx, second)
        except BaseException:
            logger.exception("error handler %s failed", handler.name)
        internal = InternalServerError()
        last = blueprint.get_errorhandler(internal)
        if last is not None and last is not handler:
            try:
                return await self._invoke_error_handler(last, ctx, internal)
            except (ExpectingNoResponse, PeerGone, *_THROUGH):
                raise
            except BaseException:
                logger.exception("error handler %s failed", last.name)
        return _internal_error()

    async def _invoke_error_handler(
        self, handler: Route, ctx: HTTPRequestContext, error: BaseException
    ) -> WerkzeugResponse:
        value = await self._call(handler.function, ctx, error)
        response = wrap_response(value, self.app.response_class)
        if not _names_status(value):
            code = error.code if isinstance(error, HTTPException) else None
            response.status_code = code or 500
        return response


#: The steps that decide whether a pipeline takes the short way.
_STEPS = (
    "__call__",
    "get_request",
    "start_response",
    "get_response",
    "produce_final_response_failsafe",
    "apply_middlewares_to_response",
    "finalize_response",
    "send_response",
)

#: What ends a request's task or the program, and so is never turned into an answer.
_THROUGH = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)


def _listened(signal: Any) -> Any:
    """Return the container that is empty while no context listens to a signal."""
    return signal.bound_signals.data  # of a WeakKeyDictionary, whose own truth is slower


def _dispatch(signals: tuple[Any, Any], ctx: HTTPRequestContext, **values: Any) -> None:
    on_app, on_class = signals
    if on_app.listeners:
        on_app.dispatch(ctx=ctx, **values)
    if listens(on_class, ctx):
        getattr(ctx, on_class.topic).dispatch(ctx=ctx, **values)


def _name_of(request: Request) -> str:
    ctx = request.context
    route = getattr(ctx, "route", None)
    name = "request" if route is None else f"route {route.name}"
    return f"{name} ({request.method} {request.path!r})"


def _options(allowed: Iterable[str]) -> Plain:
    return 204, ((b"allow", ", ".join(sorted(allowed)).encode()),), b""


def _internal_error() -> WerkzeugResponse:
    return InternalServerError().get_response()


def _error_response(ctx: HTTPRequestContext, error: HTTPException) -> WerkzeugResponse:
    try:
        return error.get_response(ctx.environ)
    except Exception:  # a class of the application's with a page of its own
        logger.exception("%s: %r has no response", _name_of(ctx.request), error)
        return _internal_error()


def _names_status(value: Any) -> bool:
    """Whether what an error handler returned says which status to answer with."""
    if isinstance(value, tuple):
        return isinstance(value[0], WerkzeugResponse) or isinstance(value[1], int | str)
    return isinstance(value, WerkzeugResponse)


def _gone() -> WerkzeugResponse:
    """For a client that has left: nobody sees this."""
    return Response(status=400)


def _http_error(error: BodyError) -> HTTPException:
    known: dict[int, type[HTTPException]] = {**default_exceptions, 507: InsufficientStorage}
    translated = known[error.status](str(error).capitalize() + ".")
    translated.__cause__ = error
    return translated
