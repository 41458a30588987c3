"""
``UpstreamConnection``: one HTTP/1.1 connection to an upstream server, from our end.

It has one request at a time. What comes waits in one bounded buffer until it is taken, and reading
stops while that is full. Only after an answer whose end is beyond doubt is the connection used
again.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

import httptools

from kyoukai.exceptions import InvalidResponse, UpstreamError, UpstreamTimeout
from kyoukai.upstream_head import passed_trailers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kyoukai.proxy import Proxy
    from kyoukai.rules import Header
    from kyoukai.upstream_head import HeadReader, ResponseHead

__all__ = ("UpstreamConnection",)


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

NEVER = float("inf")

#: Interim answers that one request may get.
_INTERIMS = 32
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_PREFIX = b"HTTP/1."
_BAD_CHUNKS = "the chunked body of its answer is malformed"
_TRAILERS_TOO_LARGE = "the trailers of its answer are too large (max_head_size)"

#: Seconds without progress in which a connection is closed in good order, before it is cut.
_CLOSING = 5.0
_NO_LINGER = struct.pack("ii", 1, 0)


class UpstreamConnection(asyncio.Protocol):
    """
    One connection.

    :param proxy: the settings
    :param reader: reads heads
    :param on_lost: called once when the connection is closed
    """

    __slots__ = (
        "_before",
        "_buffer",
        "_buffered",
        "_chunks",
        "_deadline",
        "_error",
        "_excess",
        "_framing",
        "_interims",
        "_is_ending",
        "_left",
        "_limit",
        "_loop",
        "_method",
        "_on_lost",
        "_parser",
        "_phase",
        "_reader",
        "_reading_paused",
        "_room",
        "_timeout",
        "_timer",
        "_timer_at",
        "_trailer_lines",
        "_trailer_size",
        "_unsent",
        "_waiter",
        "answered",
        "head",
        "idle_limit",
        "idle_since",
        "is_lost",
        "max_head_size",
        "on_interim",
        "request_complete",
        "trailers",
        "transport",
        "write_paused",
    )

    def __init__(
        self, proxy: Proxy, reader: HeadReader, on_lost: Callable[[UpstreamConnection], None]
    ) -> None:
        self.transport: asyncio.Transport
        self.is_lost = False
        self.write_paused = False
        #: When it became idle, by the loop's clock, and how long it may be.
        self.idle_since = 0.0
        self.idle_limit = proxy.keep_alive_timeout
        self.max_head_size = proxy.max_head_size
        #: The head of the answer, once it is there.
        self.head: ResponseHead | None = None
        #: Header lines after the body of the answer, complete at its end.
        self.trailers: Sequence[Header] = ()
        #: Called with the head of each interim answer.
        self.on_interim: Callable[[ResponseHead], None] | None = None
        #: Whether any byte of an answer has come, and whether the request has been written.
        self.answered = self.request_complete = False
        self._reader = reader
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._phase = IDLE
        self._method = ""
        self._limit = proxy.buffer_size
        self._timeout = proxy.read_timeout
        self._buffer = b""
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._left = 0
        self._interims = 0
        self._excess = self._is_ending = False
        self._error: Exception | None = None
        self._parser: Any = None
        self._trailer_lines: list[Header] = []
        self._trailer_size = 0
        # Bytes of a chunked body since the last one that was content.
        self._framing = 0
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._reading_paused = False
        # What waited to be taken by the server when its turn began.
        self._unsent = 0
        self._deadline = self._timer_at = NEVER
        self._timer: asyncio.TimerHandle | None = None

    # -- Transport callbacks -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=self._limit)

    def data_received(self, data: bytes) -> None:
        """Bytes from the server."""
        self.answered = True
        if self.request_complete or self.write_paused:
            self._deadline = deadline = self._loop.time() + self._timeout
            if deadline < self._timer_at:
                self._arm(deadline)
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
            self.abort()

    def eof_received(self) -> bool:
        """
        The server sends no more.

        :return: whether the transport stays open: for a tunnel, whose other direction goes on
        """
        if self._phase is TO_EOF:
            self._done()
        elif self._phase is TUNNEL:
            self._phase = DONE
            self._wake()
            return self.transport.get_extra_info("ssl_object") is None
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self.is_lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Our own abort ends in good order as well, but then there is an error already.
        if self._error is not None or self._phase is DONE or self._phase is IDLE:
            pass
        elif self._phase is TO_EOF and exc is None:
            self._done()
        elif self._phase is TUNNEL and exc is None:
            self._phase = DONE
        else:
            where = "in the middle of its answer" if self.answered else "without an answer"
            self._error = UpstreamError(f"the connection was closed {where}")
        self._wake()
        self._wake_writer()
        self._on_lost(self)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.write_paused = True
        self.expect_progress()

    def resume_writing(self) -> None:
        """The transport's buffer has drained."""
        self.write_paused = False
        self.expect_progress()
        self._wake_writer()

    # -- The request ---------------------------------------------------------------------------

    def begin(self, method: str, data: bytes, complete: bool) -> None:
        """
        Send a request.

        :param method: its method, which says whether the answer has a body
        :param data: its head, and perhaps some of its body
        :param complete: whether that is all
        """
        self._method = method
        self._phase = HEAD
        self.head = None
        self.trailers = ()
        self.answered = False
        self.request_complete = complete
        self._interims = 0
        if self.is_lost:
            self._error = UpstreamError("the connection was closed without an answer")
            return
        self.transport.write(data)
        self.expect_progress()

    def write(self, data: bytes) -> None:
        """Send more of a request, or of a tunnel."""
        if not self.is_lost:
            self.transport.write(data)

    async def drain(self) -> None:
        """
        Wait until the server takes more.

        :raises UpstreamError: if it is gone, or took nothing for ``read_timeout``
        """
        while self.write_paused and not self.is_lost and self._error is None:
            self._room = self._loop.create_future()
            try:
                await self._room
            finally:
                self._room = None
        if self._error is not None:
            raise self._error
        if self.is_lost:
            raise UpstreamError("the connection was closed")

    def complete_request(self) -> None:
        """The request has been written: the answer is due."""
        self.request_complete = True
        self.expect_progress()

    def expect_progress(self) -> None:
        """Give the server ``read_timeout`` from now, if it is its turn and not the client's."""
        phase = self._phase
        self._unsent = self.transport.get_write_buffer_size() if self.write_paused else 0
        if (
            self._reading_paused
            or phase is DONE
            or phase is IDLE
            or not (self.request_complete or self.write_paused)
        ):
            self._deadline = NEVER
            return
        self._deadline = deadline = self._loop.time() + self._timeout
        if deadline < self._timer_at:
            self._arm(deadline)

    def expect_nothing(self) -> None:
        """It is the client's turn."""
        if not self.write_paused:
            self._deadline = NEVER

    # -- The answer ----------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether all of the answer has come."""
        return self._phase is DONE

    async def final_head(self) -> ResponseHead:
        """
        Wait for the head of the answer.

        :raises UpstreamError: if it does not come, or is broken
        :raises Exception: what :meth:`fail` was called with
        """
        while self.head is None:
            if self._error is not None:
                raise self._error
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.head

    def take(self) -> bytes:
        """Return what has come of the body and was not taken."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()
            self.expect_progress()
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
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _wake_writer(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # -- Bytes in ------------------------------------------------------------------------------

    def _head_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end == 3:
                self._buffer = data
                self._check_beginning(data)
                return
            if end > self.max_head_size:
                self.fail(UpstreamError("the head of its answer is too large (max_head_size)"))
                return
            rest = data[end:]
            try:
                head = self._reader.read(data[:end])
            except UpstreamError as error:
                self.fail(error)
                return
            if head.status >= 200 or head.status == 101:
                break
            self._interims += 1
            if self._interims > _INTERIMS:
                self.fail(UpstreamError(f"it has sent more than {_INTERIMS} interim answers"))
                return
            if self.on_interim is not None:
                self.on_interim(head)
            data = rest
        self._buffer = b""
        self._begin_body(head, rest)
        self._wake()

    def _check_beginning(self, data: bytes) -> None:
        """Refuse what cannot become a head, at once."""
        if data[:7] != _PREFIX[: len(data)]:
            self.fail(UpstreamError("its answer is not in HTTP/1.0 or HTTP/1.1"))
        elif data.count(b"\n") != data.count(b"\r\n"):  # its end may never be found
            self.fail(UpstreamError("the head of its answer is malformed"))
        elif len(data) > self.max_head_size:
            self.fail(UpstreamError("the head of its answer is too large (max_head_size)"))

    def _begin_body(self, head: ResponseHead, rest: bytes) -> None:
        """A final head has come: what follows it is its body, if it has one."""
        self.head = head
        status = head.status
        if status == 101:
            self._phase = TUNNEL
            if rest:
                self._push(rest)
        elif self._method == "HEAD" or status == 204 or status == 304 or head.length == 0:
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
                large = self._trailer_size > self.max_head_size
                self.fail(UpstreamError(_TRAILERS_TOO_LARGE if large else _BAD_CHUNKS))
            self._excess = True
            return
        self._framing = 0 if self._buffered > before else self._framing + len(data)
        if self._phase is CHUNKED and (
            self._trailer_size > self.max_head_size or self._framing > self.max_head_size
        ):
            self.fail(UpstreamError(_TRAILERS_TOO_LARGE))
        elif self._buffered > self._limit:
            self._pause()
        self._wake()

    def _push(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > self._limit:
            self._pause()
        self._wake()

    def _pause(self) -> None:
        if not self._reading_paused and self._phase is not DONE:
            self._reading_paused = True
            self.transport.pause_reading()
            self._deadline = NEVER  # whatever it does, the client is behind

    def _done(self, rest: bytes = b"") -> None:
        """The answer is complete."""
        self._phase = DONE
        self._deadline = NEVER
        if rest:
            self._excess = True
        self._wake()

    # -- Parser callbacks, for chunked bodies --------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """A trailer; the first one is that of the head that the parser was started with."""
        if self._phase is not CHUNKED:
            return  # of what nobody has asked for
        self._trailer_lines.append((name.lower(), value.rstrip(b" \t")))
        self._trailer_size += len(name) + len(value) + 4
        if self._trailer_size > self.max_head_size:
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

    # -- The end -------------------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: both messages are complete, and nothing else came."""
        return (
            self._phase is DONE
            and self.request_complete
            and self.head is not None
            and self.head.keeps
            and self.head.status != 101
            and not (self._excess or self.is_lost or self._reading_paused)
            and not self.transport.is_closing()
        )

    @property
    def is_unused(self) -> bool:
        """Whether it was taken for a request that has not been sent on it."""
        return self._phase is IDLE and not (self.is_lost or self.transport.is_closing())

    @property
    def is_over(self) -> bool:
        """Whether both messages are complete."""
        return self._phase is DONE and self.request_complete and self._error is None

    def become_idle(self, seconds: float) -> None:
        """
        Wait for the next request.

        :param seconds: how long
        """
        self._phase = IDLE
        self.on_interim = None
        self._parser = None
        self._chunks.clear()
        self._buffered = 0
        self.idle_since = self._loop.time()
        self.idle_limit = seconds
        self._deadline = deadline = self.idle_since + seconds
        if deadline < self._timer_at:
            self._arm(deadline)

    def fail(self, error: Exception) -> None:
        """
        Give the connection up: who waits for the answer gets an error.

        :param error: the error
        """
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()
        self._wake_writer()

    def abort(self) -> None:
        """Cut the connection, with a reset, so that nothing looks like an orderly end."""
        if self._error is None and not (self._phase is DONE or self._phase is IDLE):
            self._error = UpstreamError("the connection was closed")
        self._deadline = NEVER
        sock = self.transport.get_extra_info("socket")
        if (
            sock is not None
            and not self.is_lost
            and sock.family in (socket.AF_INET, socket.AF_INET6)
        ):
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            except OSError:
                pass  # it is closed already
        self.transport.abort()

    def close_output(self) -> bool:
        """Close our direction of a tunnel alone; False where that cannot be, as over TLS."""
        if self.is_lost or not self.transport.can_write_eof():
            return False
        self.transport.write_eof()
        return True

    def close(self) -> None:
        """Close the connection once what has been written is sent."""
        self._is_ending = True
        self.transport.close()
        if not self.is_lost:  # over TLS, the server may never close its side
            self._unsent = self.transport.get_write_buffer_size()
            self._deadline = deadline = self._loop.time() + _CLOSING
            if deadline < self._timer_at:
                self._arm(deadline)

    def tune(self, buffer_size: int) -> None:
        """
        Become a tunnel's: there is no time-out but the tunnel's own, and another buffer.

        :param buffer_size: bytes that may wait in each direction
        """
        self._limit = buffer_size
        self._deadline = NEVER
        self._timeout = NEVER
        if not self.is_lost:
            self.transport.set_write_buffer_limits(high=buffer_size)

    # -- Time ----------------------------------------------------------------------------------
    # Deadlines move with every read, so they are only noted; the timer looks when it fires.

    def _arm(self, deadline: float) -> None:
        if deadline == NEVER:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._timer_at = NEVER
        if self.is_lost:
            return
        deadline = self._deadline
        if deadline > self._loop.time() + 0.001:  # a loop's clock is cached
            self._arm(deadline)
        elif self._is_ending:
            if self.transport.get_write_buffer_size() < self._unsent:
                self.close()
            else:
                self.abort()
        elif self._phase is IDLE:
            self.abort()
        elif self.write_paused and self.transport.get_write_buffer_size() < self._unsent:
            self.expect_progress()  # it is slow, and no more than that
        else:
            what = "has sent nothing" if self.request_complete else "has taken nothing"
            self.fail(UpstreamTimeout(f"it {what} for {self._timeout:g} seconds (read_timeout)"))
