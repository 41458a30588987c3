"""
``RequestPipeline``: the steps from a request to a sent response.

Each step is a method to override. A pipeline that overrides none of them takes a shorter way with
the same steps: a plain answer (a string, bytes, JSON) then goes to the wire without ever becoming
a ``Response``, unless somebody is to see that, and what nobody listens to is not called.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from werkzeug.routing import RequestRedirect
from werkzeug.wrappers import Response as WerkzeugResponse

from kyoukai.conditional import has_validator
from kyoukai.context import HTTPRequestContext, replace, reset_current, set_current
from kyoukai.exceptions import (
    BodyTooLarge,
    ExpectingNoResponse,
    InvalidResponse,
    PeerGone,
)
from kyoukai.failures import (
    InsufficientStorage,
    goes_through,
    gone,
    name_of,
)
from kyoukai.finalisation import duplicate
from kyoukai.proxied import ProxyResponse
from kyoukai.route import UNSET
from kyoukai.sockets import SocketPipeline
from kyoukai.steps import announce
from kyoukai.stream import CLOSED, IDLE
from kyoukai.util import plain_response, wrap_response
from kyoukai.wrappers import Response, response_lines
from kyoukai.wsgi import application_path

if TYPE_CHECKING:
    from kyoukai.app import Kyoukai
    from kyoukai.blueprint import Hit
    from kyoukai.config import ServerConfig
    from kyoukai.stream import StreamState
    from kyoukai.util import Plain
    from kyoukai.wrappers import Request

__all__ = ("InsufficientStorage", "RequestPipeline")

logger = logging.getLogger("kyoukai")


class RequestPipeline(SocketPipeline):
    """
    The way of a request, as steps to override.

    :param app: the application
    :param settings: the server's settings
    """

    def __init__(self, app: Kyoukai, settings: ServerConfig) -> None:
        super().__init__(app, settings)
        self._lean = (
            self.debugger is None
            and not app.overrides_processing
            and all(getattr(type(self), step) is getattr(RequestPipeline, step) for step in _STEPS)
        )
        # Only the ordinary response class is known to say what a plain answer says.
        self._plain = app.response_class is Response
        self._new_request = app.request_class

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
            logger.exception("%s failed", name_of(request))
            raise
        finally:
            await self.close_context(request)
        return request

    async def get_request(self, stream: StreamState) -> Request:
        """
        Make the request of a stream.

        :param stream: the stream
        """
        return self.app.request_class(stream, self.settings)

    async def start_response(
        self, request: Request, response: WerkzeugResponse | None = None
    ) -> None:
        """
        Handle a request and send the response.

        :param request: the request
        :param response: a response to send instead of handling the request
        """
        if response is None and self.debugger is not None:
            response = await self.debugger.answer(request, self.in_thread)
        if response is None:
            try:
                response = await self.app.process_request(request, request.parent_context)
            except ExpectingNoResponse:
                return
        assert request.state is not None
        if isinstance(response, ProxyResponse) and response.switches:
            if response.is_upgrade:
                await self.handle_connection_upgrade(request, response)
                return
            response.refuse()
        response = await self.finalize_response(response, request)
        await self.send_response(response, request.state, request)

    async def get_response(self, request: Request) -> WerkzeugResponse:
        """
        Match the request, run hooks and handler, and return the response.

        :param request: the request
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

        :param request: the request
        :param producer: makes the response
        :param processor: changes it; if that fails, the response goes out unchanged
        :raises ExpectingNoResponse: if a handler has taken the connection over
        """
        try:
            response = await producer(request)
        except ExpectingNoResponse:
            raise
        except PeerGone:
            return gone()
        except BaseException as error:
            if goes_through(error):
                raise
            logger.exception("%s failed", name_of(request))
            response = self.internal_error(request, error)
        if processor is not None:
            try:
                response = await processor(duplicate(response))
            except BaseException as error:
                if goes_through(error):
                    raise
                logger.exception("%s: its response could not be processed", name_of(request))
        return response

    async def apply_middlewares_to_response(
        self, response: WerkzeugResponse, request: Request
    ) -> WerkzeugResponse:
        """
        Pass a response back through the middlewares; a place for what every one should get.

        :param response: the response, which may be changed
        :param request: its request
        :return: the response, or another one in its place
        """
        ctx = request.context
        if not isinstance(ctx, HTTPRequestContext):
            return response
        return await self.pass_back(ctx, response)

    async def send_response(
        self,
        response: WerkzeugResponse,
        stream: StreamState,
        request: Request | None = None,
        disable_logging: bool = False,
    ) -> None:
        """
        Send a response; if it cannot be sent, a 500 in its place.

        :param response: the response
        :param stream: where it goes
        :param request: its request
        :param disable_logging: keep faults of the response out of the log
        :raises PeerGone: if the client left
        """
        try:
            await self.send_on(response, stream, request)
        except BaseException as error:
            await self.cannot_send(error, stream, request, disable_logging)

    async def handle_connection_upgrade(
        self,
        request: Request,
        response: ProxyResponse,
        protocol_receive_timeout: float | None = None,
        protocol_receive_buffer: int | None = None,
    ) -> None:
        """
        Accept an upgrade to which a proxy's server has agreed, and pass bytes on both ways.

        :param request: the client's request
        :param response: the server's answer, 101
        :param protocol_receive_timeout: seconds without a byte after which both sides are closed;
            by default the proxy's setting
        :param protocol_receive_buffer: bytes that may wait in each direction; by default the
            proxy's setting
        :raises PeerGone: if the client left
        """
        try:
            headers = response_lines(response.headers)
            await response.source.converse(
                headers, protocol_receive_timeout, protocol_receive_buffer
            )
        finally:
            response.close()

    # -- The short way -------------------------------------------------------------------------

    @property
    def is_bare(self) -> bool:
        """Whether a proxy's answer may pass without becoming a response: nobody looks at it."""
        return self._lean and not self._finalizes_all and not self.app.root.uses_middleware

    async def run(self, stream: StreamState) -> None:
        """
        Answer a stream: what the interface calls.

        :param stream: the client's request, and where its answer goes
        """
        if not self._lean or (stream.upgradable and stream.forward is not None):
            # Also for what a proxy may upgrade, which is a step of its own.
            try:
                await self(stream)
            except PeerGone:
                raise
            except Exception:  # which has been logged
                if stream.sending is IDLE:
                    await self.send_on(self.internal_error(), stream, None)
                else:
                    stream.reset("the response is not whole")
            return
        request = self._new_request(stream, self.settings)
        request.pipeline = self
        ctx = self._new_context(self.app, request, self.parent_context)
        request.context = ctx
        touched = ctx.__dict__  # its attributes cost much more: Asphalt's contexts look upwards
        set_current(ctx)  # the task is this request's own: nothing to take back
        try:
            answer = await self._respond(ctx, request)
            for bound in touched.get("entered_middlewares", ()):
                if bound.response is not None:
                    response = self.as_response(answer)
                    answer = await self.apply_middlewares_to_response(response, request)
                    break
            if self._finalizes_all and type(answer) is tuple:
                answer = self._finalize_plain(answer, request)
            if type(answer) is tuple and "trailers" not in touched:
                if not stream.send_now(*answer):
                    await stream.send_response(*answer)
            else:
                await self._send_lean(self.as_response(answer), stream, request)
        except ExpectingNoResponse:
            pass
        except InvalidResponse as error:  # of a plain answer
            await self.cannot_send(error, stream, request)
        finally:
            if "_teardown_callbacks" in touched:
                await self.close_context(request)
            request.context = None  # each refers to the other: nothing is left to the collector

    async def _send_lean(
        self, response: WerkzeugResponse, stream: StreamState, request: Request
    ) -> None:
        """Finalise a response and send it, as an answer that is none if it can be one."""
        ctx = request.context
        try:
            if self._finalizes_all or (response.is_sequence and has_validator(response.headers)):
                response = await self.finalize_response(response, request)
            has_trailers = ctx is None or "trailers" in ctx.__dict__
            plain = None if has_trailers else self.as_plain(response, stream)
        except BaseException as error:
            if isinstance(error, PeerGone) or goes_through(error):
                raise
            plain = None  # the long way fails as well, and says so
        if plain is None:
            await self.send_response(response, stream, request)
            return
        try:
            try:
                if not stream.send_now(*plain):
                    await stream.send_response(*plain)
            finally:
                response.close()
        except BaseException as error:
            await self.cannot_send(error, stream, request)

    # -- Match, hooks, handler -----------------------------------------------------------------

    async def _respond(self, ctx: HTTPRequestContext, request: Request) -> WerkzeugResponse | Plain:
        """Match the request, run hooks and handler; whatever they raise becomes an answer."""
        app = self.app
        stream = request.state
        watched = app.root.uses_middleware
        try:
            if watched:
                answer = await self.enter_middlewares(ctx, app.root.middlewares)
                if answer is not None:
                    return wrap_response(answer, app.response_class, app.media_handlers)
            if stream is not None:
                if stream.forward is not None:
                    forwarded: WerkzeugResponse = await stream.forward(request)
                    return forwarded
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
                announce(self._signals[0], ctx)
            if watched:
                if stream is not None:
                    self._limit_early(stream, hit)
                answer = await self.enter_middlewares(ctx, hit.middlewares)
                if answer is None:
                    answer = await self.show_resource(ctx, params)
                if answer is not None:
                    return wrap_response(answer, app.response_class, app.media_handlers)
            if hit.automatic_options:
                return _options(hit.allowed)
            if stream is not None:
                if not hit.cancel_on_disconnect:
                    stream.cancel_on_disconnect = False
                if stream.receiving is not CLOSED or stream.received:
                    await self._take_body(stream, hit)
            if self._invoked.listeners or self._bound_invoked:
                announce(self._signals[1], ctx)
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
                plain = plain_response(value, app.media_handlers)
                if plain is not None and not (self._completed.listeners or self._bound_completed):
                    return plain
            response = wrap_response(value, app.response_class, app.media_handlers)
            for hook in hit.after:
                outcome = await self._call(hook, ctx, response)
                if outcome is not None:
                    response = wrap_response(outcome, app.response_class, app.media_handlers)
            if self._completed.listeners or self._bound_completed:
                announce(self._signals[2], ctx, result=response)
            return response
        except RequestRedirect as redirect:
            return redirect.get_response(ctx.environ)
        except ExpectingNoResponse:
            raise
        except BaseException as error:
            ctx.exception = error
            if goes_through(error):
                raise
            return await self.handle_error(ctx, error)

    def _limit_early(self, stream: StreamState, hit: Hit) -> None:
        """Limit what middlewares may read; a body that is too large fails when it is taken."""
        try:
            stream.set_body_limit(self._body_limit(hit))
        except BodyTooLarge:
            pass

    def _body_limit(self, hit: Hit) -> int | None:
        return self.settings.max_body_size if hit.max_body_size is UNSET else hit.max_body_size

    async def _take_body(self, stream: StreamState, hit: Hit) -> None:
        stream.set_body_limit(self._body_limit(hit))
        if not hit.stream and stream.receiving is not CLOSED:
            settings = self.settings
            await stream.receive_body(settings.body_spool_size, settings.body_spool_dir)


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


def _options(allowed: Iterable[str]) -> Plain:
    return 204, ((b"allow", ", ".join(sorted(allowed)).encode()),), b""
