"""
Sending Werkzeug responses on streams, and running in threads what would block the loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import InvalidResponse, StreamError
from kyoukai.proxied import ProxyResponse
from kyoukai.rules import bodyless, check_trailers
from kyoukai.stream import IDLE
from kyoukai.wsgi import create_wsgi_environment

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as WerkzeugResponse

    from kyoukai.app import Kyoukai
    from kyoukai.config import ServerConfig
    from kyoukai.rules import Header
    from kyoukai.stream import StreamState
    from kyoukai.wrappers import Request

    #: An answer that needs no ``Response``: status, constant headers, body.
    Plain = tuple[int, tuple[Header, ...], bytes]

__all__ = ("ResponseSender", "response_lines")

_END = object()


class ResponseSender:
    """What the pipeline sends with, and where it runs synchronous code."""

    app: Kyoukai
    settings: ServerConfig

    #: Seconds that the head of a streamed answer waits for the first bytes of its body. If there is
    #: an error before them, the client gets a 500 and not a head without a body.
    head_delay: float = 1.0

    # -- Threads -------------------------------------------------------------------------------

    async def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a hook or the like: a coroutine function, or a plain one in a thread."""
        if _is_coroutine_function(function):
            return await function(*args, **kwargs)
        return await self.in_thread(function, *args, **kwargs)

    async def in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function in a thread, in a copy of this context; await what it returns."""
        value = await self._run_in_thread(partial(copy_context().run, function, *args, **kwargs))
        return await value if inspect.isawaitable(value) else value

    async def _run_in_thread(self, work: Callable[[], Any], always: bool = False) -> Any:
        """
        Run something in a thread; when cancelled, wait until it lets go of the request.

        :param always: whether it runs even if it is cancelled before it could begin
        """
        future = self.app.thread_pool(self.settings.handler_threads).submit(_no_stop, work)
        result = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if always or not future.cancel():
                await asyncio.gather(result, return_exceptions=True)
            raise

    def as_response(self, answer: WerkzeugResponse | Plain) -> WerkzeugResponse:
        """Return an answer as a response, for who must look at it or change it."""
        if not isinstance(answer, tuple):
            return answer
        status, headers, body = answer
        response = self.app.response_class(body, status)
        response.headers.clear()
        for name, value in headers:
            response.headers.add(name.decode(), value.decode())
        return response

    # -- Sending -------------------------------------------------------------------------------

    async def send_on(
        self, response: WerkzeugResponse, stream: StreamState, request: Request | None
    ) -> None:
        """
        Send a response, as a whole if it is one, else as it comes.

        :param request: its request
        :raises InvalidResponse: if its head may not be sent; another may then be
        :raises PeerGone: if the client left
        """
        trailers = _trailers(request)
        run: Callable[..., Any] = copy_context().run  # an iterable's steps share one context
        try:
            proxied = response if isinstance(response, ProxyResponse) else None
            if proxied is not None and proxied.is_passed_on:
                headers = response_lines(response.headers)  # as they are: no environ is needed
            else:
                environ = create_wsgi_environment(stream) if request is None else request.environ
                headers = response_lines(response.get_wsgi_headers(environ))
            status = response.status_code
            if response.is_sequence and not trailers:
                body = b"".join(response.iter_encoded())
                await stream.send_response(status, headers, body)
                return
            if proxied is not None and not trailers and proxied.is_whole(stream.head.method):
                body = proxied.source.take()
                proxied.source.close()  # another request need not wait for this client
                await stream.send_response(status, headers, body)
                return
            if trailers:
                check_trailers(response_lines(trailers))
                headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
            if bodyless(stream.head.method, status):
                stream.send_head(status, headers)
            else:
                at_once = proxied is not None and proxied.is_passed_on
                await self._send_pieces(
                    self._pieces(response, run), stream, status, headers, at_once
                )
            last = response_lines(_trailers(request))
            if proxied is not None and proxied.is_passed_on:
                last += proxied.source.trailers
            await stream.end(last)
        finally:
            await self._close(response, run)

    def _pieces(
        self, response: WerkzeugResponse, run: Callable[..., Any]
    ) -> Callable[[], Awaitable[Any]]:
        """Return what gets the next piece of a body, or ``_END``."""
        source: Any = response.response
        if hasattr(source, "__aiter__"):
            iterator = aiter(source)
            return lambda: anext(iterator, _END)
        return partial(self._run_in_thread, partial(run, next, response.iter_encoded(), _END))

    async def _send_pieces(
        self,
        next_piece: Callable[[], Awaitable[Any]],
        stream: StreamState,
        status: int,
        headers: list[Header],
        at_once: bool,
    ) -> None:
        """
        Send a head and the pieces of a body.

        :param next_piece: gets a piece, or ``_END``
        :param at_once: whether the head does not wait for the first piece
        """
        piece: Any = b""
        if at_once:
            stream.send_head(status, headers)
        else:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self.head_delay, _send_head_early, stream, status, headers)
            try:
                while piece is not _END and not len(piece):
                    piece = _encode(await next_piece())
            finally:
                timer.cancel()
            if stream.sending is IDLE:
                stream.send_head(status, headers)
        while piece is not _END:
            await stream.send_data(piece)
            piece = _encode(await next_piece())

    async def _close(self, response: WerkzeugResponse, run: Callable[..., Any]) -> None:
        """Close a response and what it iterates over, where that ran."""
        source: Any = response.response
        if response.is_sequence or hasattr(source, "__aiter__"):
            if hasattr(source, "aclose"):
                await source.aclose()
            response.close()
        else:
            await self._run_in_thread(partial(run, response.close), always=True)


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    try:
        return _is_known_coroutine_function(function)
    except TypeError:  # an object without a hash
        return inspect.iscoroutinefunction(function)


_is_known_coroutine_function = lru_cache(maxsize=1024)(inspect.iscoroutinefunction)


def _no_stop(work: Callable[[], Any]) -> Any:
    """Call something in a thread; a future cannot hold a ``StopIteration``."""
    try:
        return work()
    except StopIteration as error:
        raise RuntimeError("StopIteration was raised in a thread") from error


def _trailers(request: Request | None) -> Any:
    """Return the trailers as they are now; they may change until the body ends."""
    if request is None or request.context is None:
        return ()
    return request.context.__dict__.get("trailers", ())


def response_lines(headers: Iterable[tuple[str, str]]) -> list[Header]:
    """
    Return headers as a stream takes them.

    :param headers: names and values
    :raises InvalidResponse: if one cannot be on the wire
    """
    try:
        return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
    except UnicodeEncodeError as error:
        raise InvalidResponse(f"a header is not in Latin-1: {error.object!r}") from None


def _send_head_early(stream: StreamState, status: int, headers: list[Header]) -> None:
    """Send a head whose body has not come; if that fails, whoever sends it next hears of it."""
    if stream.sending is IDLE:
        try:
            stream.send_head(status, headers)
        except StreamError:
            pass


def _encode(chunk: Any) -> Any:
    if isinstance(chunk, str):
        return chunk.encode()
    if chunk is _END or isinstance(chunk, bytes | bytearray | memoryview):
        return chunk
    raise TypeError(f"a streamed body yields str or bytes, not {type(chunk).__name__}")
