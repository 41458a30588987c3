"""
``ProxyInterface``: answers requests by passing them on to other servers.

A proxy that is mounted on a Kyoukai application belongs to it: its requests pass the application's
middlewares, its error handlers and its pipeline's steps, and only the handler is another. Where
none of that has anything to do, an answer goes from connection to connection without becoming a
``Response``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import BadRequest, MethodNotAllowed
from werkzeug.exceptions import NotImplemented as NotImplementedHere

from kyoukai.app import Kyoukai
from kyoukai.exceptions import (
    InvalidResponse,
    ProtocolError,
    TargetError,
    UpstreamError,
)
from kyoukai.interfaces.proxy_exchange import Exchange
from kyoukai.interfaces.proxy_heads import RequestWriter
from kyoukai.proxied import ProxyResponse
from kyoukai.proxy import Proxy, is_upstream
from kyoukai.rules import bodyless
from kyoukai.stream import IDLE
from kyoukai.upstream import Upstreams
from kyoukai.wrappers import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from asphalt.core import Context
    from werkzeug.wrappers import Response as WerkzeugResponse

    from kyoukai.config import ServerConfig
    from kyoukai.pipeline import RequestPipeline
    from kyoukai.stream import Interface, StreamState
    from kyoukai.upstream_head import ResponseHead
    from kyoukai.wrappers import Request

__all__ = ("ProxyInterface",)


class ProxyInterface:
    """
    Answers streams by a proxy.

    :param app: the :class:`~kyoukai.proxy.Proxy`, or the URL of a server
    :param config: the server's settings
    :param context: the root context of the program
    :param name: what messages call it
    :param max_body_size: the most bytes that the body of a request may have; None for no limit
    :param pipeline_class: the class of its own pipeline, where it is mounted on no application
    :raises ConfigurationError: if a setting cannot work
    """

    #: What the start-up line calls it.
    name = "proxy"

    def __init__(
        self,
        app: Any,
        config: ServerConfig,
        context: Context | None = None,
        *,
        name: str = "",
        max_body_size: int | None = None,
        pipeline_class: type[RequestPipeline] | None = None,
    ) -> None:
        if is_upstream(app):
            app = Proxy(app)
        if not isinstance(app, Proxy):
            raise TargetError(f"app: {name!r} is of type {type(app).__name__}, which is no Proxy")
        self.proxy = app
        self.config = config
        self.max_body_size = max_body_size
        self.upstreams = Upstreams(app)
        self.writer = RequestWriter(app, config)
        self._prefix = ""
        own = Kyoukai("proxy")
        #: The pipeline that requests pass.
        self.pipeline: RequestPipeline = (pipeline_class or own.pipeline_class)(own, config)
        self.pipeline.parent_context = context

    def belong_to(self, pipeline: RequestPipeline | None, prefix: str) -> None:
        """
        Become part of an application.

        :param pipeline: the application's pipeline; None if it is of another kind
        :param prefix: the prefix that the proxy is mounted at, without a slash at its end
        """
        if pipeline is not None:
            self.pipeline = pipeline
        self._prefix = prefix
        self.writer = RequestWriter(self.proxy, self.config, prefix)

    def public_prefix(self, stream: StreamState) -> str:
        """Return the prefix that clients of a stream's server see."""
        return stream.head.root_path + self._prefix

    async def startup(self, context: Context) -> None:
        """Nothing is connected before the first request."""

    async def shutdown(self) -> None:
        """Close the connections to the servers, after the last request."""
        self.upstreams.close()

    # -- Streams -------------------------------------------------------------------------------

    def start_at_once(
        self, stream: StreamState, in_task: Callable[[StreamState, Interface], None]
    ) -> bool:
        """
        Pass an ordinary request on at once, without a task.

        :param stream: the stream
        :param in_task: starts a task for a stream, with what answers it
        :return: False if it is no ordinary one; nothing is done then
        """
        return self.pipeline.is_bare and Exchange(self, stream).start(in_task)

    def __call__(self, stream: StreamState) -> Coroutine[Any, Any, None]:
        """Answer a stream."""
        if self.max_body_size is None and self.pipeline.is_bare and not stream.upgradable:
            return self.pass_on(stream, Exchange(self, stream))
        return self._through_pipeline(stream)

    async def pass_on(self, stream: StreamState, exchange: Exchange) -> None:
        """
        Pass a request on, and its answer back, when nobody else has a say in it.

        :param stream: the stream
        :param exchange: the request at the server, which may have begun
        """
        try:
            try:
                response = _own_answer(stream)
                if response is None:
                    head = await exchange.begin()
            except Exception as error:
                if stream.sending is not IDLE:
                    raise
                response = error
            if response is None:
                await _send(stream, exchange, head)
            else:
                stream.forward = partial(_given, response)
                await self.pipeline.run(stream)
        except UpstreamError:
            stream.reset("the upstream server has not sent the whole answer")
        except InvalidResponse as error:
            stream.forward = partial(_given, UpstreamError(str(error)))
            await self.pipeline.run(stream)
        finally:
            exchange.close()

    async def _through_pipeline(self, stream: StreamState) -> None:
        """Pass a request on by the pipeline's steps."""
        exchange = Exchange(self, stream)
        stream.forward = partial(self.forward, exchange)
        try:
            await self.pipeline.run(stream)
        finally:
            exchange.close()

    async def forward(self, exchange: Exchange, request: Request) -> WerkzeugResponse:
        """
        Return the response to a request: what a handler does for others.

        :param exchange: the request at the server
        :param request: the request
        :raises UpstreamError: if there is no answer
        :raises BodyError: if the request's body cannot be had
        """
        stream = request.state
        assert stream is not None
        if self.max_body_size is not None:
            stream.set_body_limit(self.max_body_size)
        own = _own_answer(stream)
        if isinstance(own, Exception):
            raise own
        if own is not None:
            return own
        try:
            head = await exchange.begin()
        except ProtocolError as error:
            raise BadRequest(error.detail) from error
        return ProxyResponse(exchange, head.status, exchange.headers_of(head), head.length)


async def _send(stream: StreamState, exchange: Exchange, head: ResponseHead) -> None:
    """Send a server's answer to the client."""
    status = head.status
    headers = exchange.headers_of(head)
    body = exchange.whole_body(stream.head.method, status)
    if body is not None:
        if not stream.send_now(status, headers, body):
            await stream.send_response(status, headers, body)
        return
    if head.length is not None:
        headers = (*headers, (b"content-length", b"%d" % head.length))
    stream.send_head(status, headers)
    if not bodyless(stream.head.method, status):
        while data := await exchange.receive():
            await stream.send_data(data)
    await stream.end(exchange.trailers)


def _own_answer(stream: StreamState) -> WerkzeugResponse | Exception | None:
    """Answer what goes no further."""
    head = stream.head
    if stream.upgradable and not stream.protocol.has_raw_tunnels:
        return NotImplementedHere("The server in front of this one has no tunnels for a proxy.")
    if head.method in ("OPTIONS", "TRACE") and head.get(b"max-forwards") == b"0":
        if head.method == "TRACE":  # as its final recipient (RFC 9110 section 7.6.2)
            return MethodNotAllowed(["GET", "HEAD", "OPTIONS"])
        return Response(status=204)
    return None


async def _given(answer: WerkzeugResponse | Exception, request: Request) -> WerkzeugResponse:
    """Return, or raise, what is there already."""
    if isinstance(answer, ProtocolError):
        raise BadRequest(answer.detail) from answer
    if isinstance(answer, Exception):
        raise answer
    return answer
