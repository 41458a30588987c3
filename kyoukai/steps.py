"""
``PipelineSteps``: what the ways of a request and of a socket through the pipeline have in common.

Making contexts, announcing signals, calling middlewares on the way in and out, and answering what
cannot be sent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kyoukai.context import HTTPRequestContext, context_factory, listens
from kyoukai.exceptions import InvalidResponse, PeerGone, UpstreamError
from kyoukai.failures import goes_through, internal_error, name_of, safely
from kyoukai.finalisation import Finaliser
from kyoukai.stream import CLOSED, IDLE
from kyoukai.util import wrap_response

if TYPE_CHECKING:
    from asphalt.core import Context
    from werkzeug.wrappers import Response as WerkzeugResponse

    from kyoukai.app import Kyoukai
    from kyoukai.config import ServerConfig
    from kyoukai.middleware import Bound
    from kyoukai.stream import StreamState
    from kyoukai.wrappers import Request

__all__ = ("PipelineSteps", "announce")

logger = logging.getLogger("kyoukai")


class PipelineSteps(Finaliser):
    """
    What requests and sockets share.

    :param app: the application
    :param settings: the server's settings
    """

    def __init__(self, app: Kyoukai, settings: ServerConfig) -> None:
        super().__init__(app, settings)
        #: The Asphalt context that the requests' contexts are children of; None: the current one.
        self.parent_context: Context | None = None
        context_class = app.context_class
        self._new_context = context_factory(context_class)
        self._matched, self._invoked = app.route_matched, app.route_invoked
        self._completed = app.route_completed
        #: For ``announce``: each signal on the application, and on the class of contexts.
        self._signals = (
            (self._matched, context_class.route_matched),
            (self._invoked, context_class.route_invoked),
            (self._completed, context_class.route_completed),
        )
        # What shows whether any context listens, looked at for each request.
        self._bound_matched, self._bound_invoked, self._bound_completed = (
            _listened(signal) for _, signal in self._signals
        )

    async def close_context(self, request: Request) -> None:
        """Close a request's context, if anything waits for that."""
        ctx = request.context
        if isinstance(ctx, HTTPRequestContext) and ctx.has_teardown:
            try:
                await ctx.close(ctx.exception)
            except Exception:
                logger.exception("%s: its context could not be closed", name_of(request))

    # -- Middlewares ---------------------------------------------------------------------------

    async def enter_middlewares(self, ctx: HTTPRequestContext, middlewares: Iterable[Bound]) -> Any:
        """
        Call ``process_request`` of middlewares, until one answers.

        :param middlewares: the middlewares that come next, in their order
        :return: what the one that answered has returned, None if none did
        """
        entered = ctx.entered_middlewares
        for bound in middlewares:
            entered.append(bound)
            if bound.request is not None:
                answer = await self._call(bound.request, ctx)
                if answer is not None:
                    return answer
        return None

    async def show_resource(self, ctx: HTTPRequestContext, params: dict[str, Any]) -> Any:
        """
        Call ``process_resource`` of all middlewares that were entered, until one answers.

        The response passes back from the one that answers or fails: those further in are left.

        :param params: the arguments from the path
        :return: what the one that answered has returned, None if none did
        """
        assert ctx.route is not None
        resource = ctx.route.owner
        entered = ctx.entered_middlewares
        for number, bound in enumerate(tuple(entered), 1):
            if bound.resource is None:
                continue
            stops = True
            try:
                answer = await self._call(bound.resource, ctx, resource, params)
                stops = answer is not None
            finally:
                if stops:
                    del entered[number:]
            if stops:
                return answer
        return None

    async def pass_back(
        self, ctx: HTTPRequestContext, response: WerkzeugResponse
    ) -> WerkzeugResponse:
        """
        Call ``process_response`` of the middlewares that were entered, the last one first.

        Each is called once, however often a response passes here; one that fails is logged.

        :return: the response, or the one that a middleware has put in its place
        """
        entered = ctx.__dict__.get("entered_middlewares")
        while entered:
            bound = entered.pop()
            if bound.response is None:
                continue
            try:
                outcome = await self._call(bound.response, ctx, response)
                if outcome is not None:
                    app = self.app
                    response = wrap_response(outcome, app.response_class, app.media_handlers)
            except PeerGone:
                pass
            except BaseException as error:
                if goes_through(error):
                    raise
                logger.exception(
                    "%s: process_response of %s failed",
                    name_of(ctx.request),
                    safely(bound.middleware, repr),
                )
        return response

    # -- What cannot be sent -------------------------------------------------------------------

    async def cannot_send(
        self,
        error: BaseException,
        stream: StreamState,
        request: Request | None,
        disable_logging: bool = False,
    ) -> None:
        """
        Send a 500 in place of a response that cannot be sent, or reset what is not whole.

        :param error: why it cannot be sent
        :param stream: where it would go
        :param request: its request
        :param disable_logging: keep the error out of the log
        :raises PeerGone: if the client left
        """
        ctx = None if request is None else request.context
        if isinstance(ctx, HTTPRequestContext) and ctx.exception is None:
            ctx.exception = error
        if isinstance(error, PeerGone) or goes_through(error):
            raise error
        if not (disable_logging or isinstance(error, UpstreamError)):  # which has been logged
            illegal = isinstance(error, InvalidResponse | UnicodeError)
            logger.error(
                "%s: its response %s: %s",
                stream.head.target.decode("latin-1") if request is None else name_of(request),
                "cannot be closed" if stream.sending is CLOSED else "cannot be sent",
                safely(error),
                exc_info=None if illegal else error,
            )
        if stream.sending is not IDLE:
            stream.reset("the response is not whole")
        else:
            await self._send_failure(error, stream, request)

    async def _send_failure(
        self, error: BaseException, stream: StreamState, request: Request | None
    ) -> None:
        """Answer that a response cannot be sent, without trailers of its own."""
        ctx = None if request is None else request.context
        if isinstance(error, UpstreamError) and isinstance(ctx, HTTPRequestContext):
            response = await self.handle_error(ctx, error)
        else:
            response = self.internal_error(request, error)
        try:
            response = await self.finalize_response(response, request)
            await self.send_on(response, stream, None)
        except PeerGone:
            raise
        except BaseException as failure:
            if goes_through(failure):
                raise
            logger.exception("%s: its 500 cannot be sent", name_of(request) if request else "500")
            if stream.sending is IDLE:
                await self.send_on(internal_error(), stream, None)
            else:
                stream.reset("the response is not whole")


def announce(signals: tuple[Any, Any], ctx: HTTPRequestContext, **values: Any) -> None:
    """
    Dispatch a signal to those who listen on the application, and on this context.

    :param signals: one of the pipeline's ``_signals``
    :param values: more attributes of the event
    """
    on_app, on_class = signals
    if on_app.listeners:
        on_app.dispatch(ctx=ctx, **values)
    if listens(on_class, ctx):
        getattr(ctx, on_class.topic).dispatch(ctx=ctx, **values)


def _listened(signal: Any) -> Any:
    """Return the container that is empty while no context listens to a signal."""
    return signal.bound_signals.data  # of a WeakKeyDictionary, whose own truth is slower
