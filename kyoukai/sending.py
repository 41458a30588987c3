"""
Sending Werkzeug responses on streams, and running in threads what would block the loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Response as WerkzeugResponse

from kyoukai.exceptions import StreamError
from kyoukai.proxied import ProxyResponse
from kyoukai.rules import bodyless, check_trailers
from kyoukai.stream import IDLE
from kyoukai.wrappers import response_lines, text_headers
from kyoukai.wsgi import create_wsgi_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kyoukai.app import Kyoukai
    from kyoukai.config import ServerConfig
    from kyoukai.rules import Header
    from kyoukai.stream import StreamState
    from kyoukai.util import Plain
    from kyoukai.wrappers import Request

__all__ = ("ResponseSender",)

_END = object()
_get_wsgi_headers = WerkzeugResponse.get_wsgi_headers
#: Headers whose values Werkzeug escapes when they are sent.
_PUT_RIGHT = frozenset(("location", "content-location"))
#: Headers remembered as lines, each time with the Content-Length that was left out.
_known_lines: dict[tuple[tuple[str, str], ...], tuple[tuple[Header, ...], int | None]] = {}
_REMEMBERED = 256


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
        status, lines, body = answer
        response = self.app.response_class([body], status, text_headers(lines))
        if not body:
            response.headers = text_headers(lines)  # without a Content-Type that nobody has given
        return response

    def as_plain(self, response: WerkzeugResponse, stream: StreamState) -> Plain | None:
        """
        Return a response as an answer that is none, for the quicker way to the wire.

        :return: None if its body streams, or Werkzeug or its class would change its headers on
            their way out
        :raises InvalidResponse: if one of its headers cannot be on the wire
        """
        if isinstance(response, ProxyResponse):
            return response.as_plain(stream.head.method)
        if (
            not response.is_sequence
            or type(response).get_wsgi_headers is not _get_wsgi_headers
            or bodyless("", response.status_code)
        ):
            return None
        body = b"".join(response.iter_encoded())
        lines = _constant_lines(tuple(response.headers), len(body))
        return None if lines is None else (response.status_code, lines, body)

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
        headers: Sequence[Header]
        trailers = _trailers(request)
        run: Callable[..., Any] = copy_context().run  # an iterable's steps share one context
        try:
            proxied = response if isinstance(response, ProxyResponse) else None
            if proxied is not None and proxied.is_passed_on:
                headers = proxied.lines()  # as they are: no environ is needed
            else:
                environ = create_wsgi_environment(stream) if request is None else request.environ
                headers = response_lines(response.get_wsgi_headers(environ))
            status = response.status_code
            if response.is_sequence and not trailers:
                body = b"".join(response.iter_encoded())
                await stream.send_response(status, headers, body)
                return
            if proxied is not None and not trailers:
                whole = proxied.whole_body(stream.head.method)
                if whole is not None:
                    await stream.send_response(status, headers, whole)
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
        headers: Sequence[Header],
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
    """Call something in a thread; who awaits it would not survive what ends generators."""
    try:
        return work()
    except (StopIteration, GeneratorExit) as error:
        raise RuntimeError(f"{type(error).__name__} was raised in a thread") from error


def _trailers(request: Request | None) -> Any:
    """Return the trailers as they are now; they may change until the body ends."""
    if request is None or request.context is None:
        return ()
    return request.context.__dict__.get("trailers", ())


def _constant_lines(headers: tuple[tuple[str, str], ...], size: int) -> tuple[Header, ...] | None:
    """
    Return headers as a stream takes them: for those that have come before, the same tuple again.

    :param headers: names and values
    :param size: bytes of the body; a Content-Length that says so is left out
    :return: None if Werkzeug would put one of them right
    :raises InvalidResponse: if one cannot be on the wire
    """
    known = _known_lines.get(headers)
    if known is not None and (known[1] is None or known[1] == size):
        return known[0]
    if any(name.lower() in _PUT_RIGHT for name, _ in headers):
        return None
    lines = tuple(response_lines(headers, size))
    if not any(name.lower() == "set-cookie" for name, _ in headers):  # which is for one client
        if len(_known_lines) >= _REMEMBERED:
            _known_lines.clear()
        _known_lines[headers] = lines, None if len(lines) == len(headers) else size
    return lines


def _send_head_early(stream: StreamState, status: int, headers: Sequence[Header]) -> None:
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
