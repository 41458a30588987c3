"""
``AnswerReceiver``: what an upstream server sends, from bytes to an answer that somebody takes.

What has come waits here until it is taken. Where it comes from, and for how long, is the
connection's business.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any

import httptools

from kyoukai.exceptions import InvalidResponse, UpstreamError
from kyoukai.upstream_head import passed_trailers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kyoukai.proxy import Proxy
    from kyoukai.rules import Header
    from kyoukai.upstream_head import HeadReader, ResponseHead

__all__ = ("DONE", "HEAD", "IDLE", "TO_EOF", "TUNNEL", "AnswerReceiver")


class Phase(Enum):
    """What the next bytes from the server are."""

    IDLE = "idle"
    HEAD = "head"
    LENGTH = "length"
    CHUNKED = "chunked"
    TO_EOF = "to eof"
    DONE = "done"
    TUNNEL = "tunnel"


IDLE, HEAD, LENGTH, CHUNKED, TO_EOF, DONE, TUNNEL = Phase

#: Interim answers that one request may get.
_INTERIMS = 32
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_PREFIX = b"HTTP/1."
_BAD_CHUNKS = "the chunked body of its answer is malformed"
_TRAILERS_TOO_LARGE = "the trailers of its answer are too large (max_head_size)"

#: Statuses of answers that are not final, or end with their head (RFC 9112 section 6.3). An answer
#: with 205 does not: it is framed like any other.
_BODYLESS = frozenset((*range(100, 200), 204, 304))


class AnswerReceiver(ABC):
    """
    The answers of one connection, one after the other.

    :param proxy: the settings
    :param reader: reads heads
    """

    __slots__ = (
        "_buffer",
        "_buffered",
        "_chunks",
        "_error",
        "_excess",
        "_framing",
        "_interims",
        "_left",
        "_limit",
        "_loop",
        "_max_head_size",
        "_method",
        "_parser",
        "_phase",
        "_reader",
        "_taker",
        "_trailer_lines",
        "_trailer_size",
        "_waiter",
        "head",
        "on_interim",
        "trailers",
    )

    def __init__(self, proxy: Proxy, reader: HeadReader) -> None:
        #: The head of the answer, once it is there.
        self.head: ResponseHead | None = None
        #: Header lines after the body of the answer, complete at its end.
        self.trailers: Sequence[Header] = ()
        #: Called with the head of each interim answer.
        self.on_interim: Callable[[ResponseHead], None] | None = None
        self._reader = reader
        self._phase = IDLE
        self._method = ""
        self._limit = proxy.buffer_size
        self._max_head_size = proxy.max_head_size
        self._buffer = b""
        self._chunks: deque[bytes] = deque()
        # Bytes that wait, while more may come: the last piece of an answer does not count, as
        # nothing is left to stop.
        self._buffered = 0
        self._left = 0
        self._interims = 0
        self._excess = False
        self._parser: Any = None
        self._trailer_lines: list[Header] = []
        self._trailer_size = 0
        # Bytes of a chunked body since the last one that was content.
        self._framing = 0
        self._loop = asyncio.get_running_loop()
        # Why there is no answer, or no more of it.
        self._error: Exception | None = None
        # Who waits for the head of the answer without a task, and who waits with one.
        self._taker: Callable[[], None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    # -- What the connection defines -----------------------------------------------------------

    @abstractmethod
    def broken(self, error: Exception) -> None:
        """The answer is none: nothing that follows can be told apart."""

    @abstractmethod
    def pause(self) -> None:
        """So much waits to be taken that no more should come."""

    @abstractmethod
    def resume(self) -> None:
        """What had come was taken."""

    # -- Taking --------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether all of the answer has come."""
        return self._phase is DONE

    async def final_head(self) -> ResponseHead:
        """
        Wait for the head of the answer.

        :raises UpstreamError: if it does not come, or is broken
        :raises Exception: what the connection was given up for
        """
        while self.head is None:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self.head

    def take(self) -> bytes:
        """Return what has come of the body and was not taken."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        self.resume()
        return data

    async def receive(self) -> bytes:
        """
        Return the next bytes of the answer, or of a tunnel; ``b""`` at the end.

        :raises UpstreamError: if the rest does not come
        """
        while True:
            if self._chunks:
                return self.take()
            if self._phase is DONE:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        taker = self._taker
        if taker is not None and (self.head is not None or self._error is not None):
            self._taker = None
            taker()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- Bytes in ------------------------------------------------------------------------------

    def expect(self, method: str) -> None:
        """
        Begin with an answer.

        :param method: the method of its request, which says whether it has a body
        """
        self._method = method
        self._phase = HEAD
        self.head = None
        self.trailers = ()
        self._interims = 0

    def feed(self, data: bytes) -> None:
        """
        Read some bytes.

        :param data: what has come
        """
        phase = self._phase
        if phase is HEAD:
            self._head_received(data)
        elif phase is LENGTH:
            self._length_received(data)
        elif phase is CHUNKED:
            self._chunked_received(data)
        elif phase is TO_EOF or phase is TUNNEL:
            self._push(data)
        else:  # nobody has asked for it
            self._excess = True
            self.broken(UpstreamError("it has sent something that nobody has asked for"))

    def feed_whole(self, data: bytes) -> bool:
        """
        Read a whole answer in one piece whose head is known, as most are.

        :param data: what has come
        :return: False if it is another one; nothing is done then
        """
        if self._buffer or self._method == "HEAD":
            return False
        end = data.find(b"\r\n\r\n") + 4
        head = self._reader.recall(data[:end])
        if head is None or head.length != len(data) - end or head.status in _BODYLESS:
            return False
        self.head = head
        self._phase = DONE
        self._chunks.append(data[end:])
        return True

    def _head_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end == 3:
                self._buffer = data
                self._check_beginning(data)
                return
            if end > self._max_head_size:
                self.broken(UpstreamError("the head of its answer is too large (max_head_size)"))
                return
            rest = data[end:]
            try:
                head = self._reader.read(data[:end])
            except UpstreamError as error:
                self.broken(error)
                return
            if head.status >= 200 or head.status == 101:
                break
            self._interims += 1
            if self._interims > _INTERIMS:
                self.broken(UpstreamError(f"it has sent more than {_INTERIMS} interim answers"))
                return
            if self.on_interim is not None:
                self.on_interim(head)
            data = rest
        self._buffer = b""
        self._begin_body(head, rest)

    def _check_beginning(self, data: bytes) -> None:
        """Refuse what cannot become a head, at once."""
        if data[:7] != _PREFIX[: len(data)]:
            self.broken(UpstreamError("its answer is not in HTTP/1.0 or HTTP/1.1"))
        elif data.count(b"\n") != data.count(b"\r\n"):  # its end may never be found
            self.broken(UpstreamError("the head of its answer is malformed"))
        elif len(data) > self._max_head_size:
            self.broken(UpstreamError("the head of its answer is too large (max_head_size)"))

    def _begin_body(self, head: ResponseHead, rest: bytes) -> None:
        """A final head has come: what follows it is its body, if it has one."""
        self.head = head
        status = head.status
        if status == 101:
            self._phase = TUNNEL
            if rest:
                self._push(rest)
        elif self._method == "HEAD" or status in _BODYLESS or head.length == 0:
            self._done(rest)
        elif head.chunked:
            self._phase = CHUNKED
            self._trailer_lines = []
            self._trailer_size = self._framing = 0
            self._parser = None
            parser = httptools.HttpResponseParser(self)
            parser.feed_data(_CHUNKED_HEAD)
            self._trailer_lines.clear()
            self._parser = parser
            if rest:
                self._chunked_received(rest)
        elif head.length is not None:
            self._phase = LENGTH
            self._left = head.length
            if rest:
                self._length_received(rest)
        else:
            self._phase = TO_EOF
            self._excess = True  # the connection ends with it
            if rest:
                self._push(rest)

    def _length_received(self, data: bytes) -> None:
        size = len(data)
        if size < self._left:
            self._left -= size
            self._push(data)
            return
        rest = b""
        if size > self._left:
            data, rest = data[: self._left], data[self._left :]
        self._left = 0
        self._chunks.append(data)
        self._done(rest)

    def _chunked_received(self, data: bytes) -> None:
        before = self._buffered
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._phase is not DONE:
                large = self._trailer_size > self._max_head_size
                self.broken(UpstreamError(_TRAILERS_TOO_LARGE if large else _BAD_CHUNKS))
            self._excess = True
            return
        self._framing = 0 if self._buffered > before else self._framing + len(data)
        if self._phase is CHUNKED and (
            self._trailer_size > self._max_head_size or self._framing > self._max_head_size
        ):
            self.broken(UpstreamError(_TRAILERS_TOO_LARGE))
        elif self._buffered > self._limit:
            self.pause()

    def _push(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > self._limit:
            self.pause()

    def _done(self, rest: bytes = b"") -> None:
        """The answer is complete."""
        self._phase = DONE
        if rest:
            self._excess = True

    # -- Parser callbacks, for chunked bodies --------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """A trailer; the first one is that of the head that the parser was started with."""
        if self._phase is not CHUNKED:
            return  # of what nobody has asked for
        self._trailer_lines.append((name.lower(), value.rstrip(b" \t")))
        self._trailer_size += len(name) + len(value) + 4
        if self._trailer_size > self._max_head_size:
            raise InvalidResponse("the trailers are too large")  # which ends the parser

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if self._phase is CHUNKED:
            self._chunks.append(data)
            self._buffered += len(data)

    def on_message_begin(self) -> None:
        """Something begins; nothing may after the body."""
        if self._parser is not None:
            self._excess = True

    def on_message_complete(self) -> None:
        """The body is complete."""
        if self._phase is not CHUNKED:
            return
        if self._trailer_lines:
            self.trailers = passed_trailers(self._trailer_lines)
        self._done()
