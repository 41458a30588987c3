"""
``UpstreamConnection``: one HTTP/1.1 connection to an upstream server, from our end.

It has one request at a time. What comes waits in one bounded buffer until it is taken, and reading
stops while that is full. Only after an answer whose end is beyond doubt is the connection used
again.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, cast

from kyoukai.exceptions import UpstreamError, UpstreamTimeout
from kyoukai.upstream_answer import DONE, HEAD, IDLE, TO_EOF, TUNNEL, AnswerReceiver
from kyoukai.upstream_socket import cut, has_ended, rest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.proxy import Proxy
    from kyoukai.upstream_head import HeadReader

__all__ = ("UpstreamConnection",)


NEVER = float("inf")

#: Seconds without progress in which a connection is closed in good order, before it is cut.
_CLOSING = 5.0


class UpstreamConnection(AnswerReceiver, asyncio.Protocol):
    """
    One connection.

    :param proxy: the settings
    :param reader: reads heads
    :param on_lost: called once when the connection is closed
    """

    __slots__ = (
        "_context",
        "_deadline",
        "_gone",
        "_is_ending",
        "_on_lost",
        "_reading_paused",
        "_room",
        "_timeout",
        "_timer",
        "_timer_at",
        "_unsent",
        "answered",
        "idle_limit",
        "idle_since",
        "is_lost",
        "request_complete",
        "transport",
        "write_paused",
    )

    def __init__(
        self, proxy: Proxy, reader: HeadReader, on_lost: Callable[[UpstreamConnection], None]
    ) -> None:
        super().__init__(proxy, reader)
        self.transport: asyncio.Transport
        self.is_lost = False
        self.write_paused = False
        #: When it became idle, by the loop's clock, and how long it may be.
        self.idle_since = 0.0
        self.idle_limit = proxy.keep_alive_timeout
        #: Whether any byte of an answer has come, and whether the request has been written.
        self.answered = self.request_complete = False
        self._on_lost = on_lost
        self._context = copy_context()
        self._timeout = proxy.read_timeout
        self._is_ending = False
        # Who waits for room, and who for the end.
        self._room: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[Exception | None] | None = None
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
        if self._phase is HEAD and self.feed_whole(data):
            self._deadline = NEVER
            self._wake()
            return
        if self.request_complete or self.write_paused:
            self._deadline = deadline = self._loop.time() + self._timeout
            if deadline < self._timer_at:
                self._arm(deadline)
        self.feed(data)
        if self._phase is DONE:
            self._deadline = NEVER
        self._wake()  # and nothing after that: the next request may be on its way

    def eof_received(self) -> bool:
        """
        The server sends no more.

        :return: whether the transport stays open: for a tunnel, whose other direction goes on
        """
        is_tunnel = self._phase is TUNNEL
        if is_tunnel or (self._phase is TO_EOF and has_ended(self.transport)):
            self._phase = DONE
            self._wake()
        return is_tunnel and self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self.is_lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if exc is not None and self._error is None:
            self._read_rest()
        # Our own abort ends in good order as well, but then there is an error already.
        if self._error is not None or self._phase is DONE or self._phase is IDLE:
            pass
        elif exc is None and (
            self._phase is TUNNEL
            # Over TLS it would have said so.
            or (self._phase is TO_EOF and self.transport.get_extra_info("sslcontext") is None)
        ):
            self._phase = DONE
        else:
            where = "in the middle of its answer" if self.answered else "without an answer"
            self._error = UpstreamError(f"the connection was closed {where}")
        self._wake_writer()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(exc)
        self._on_lost(self)
        self._wake()

    def _read_rest(self) -> None:
        """
        Take what had come when a write failed.

        A server may answer early, and close. A transport that cannot write reads no more; but
        its socket is closed only after this.
        """
        for data in rest_of(self.transport):
            if self._error is not None or self._phase is DONE or self._phase is IDLE:
                return
            self.answered = True
            self.feed(data)

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

    def begin(
        self, method: str, data: bytes, complete: bool, taker: Callable[[], None] | None = None
    ) -> None:
        """
        Send a request.

        :param method: its method, which says whether the answer has a body
        :param data: its head, and perhaps some of its body
        :param complete: whether that is all
        :param taker: called once when :meth:`final_head` would return or raise
        """
        self.expect(method)
        self.answered = False
        self.request_complete = complete
        self._taker = taker
        if self.is_lost:
            self._error = UpstreamError("the connection was closed without an answer")
            if taker is not None:
                self._loop.call_soon(self._wake)
            return
        self.transport.write(data)
        if complete and not self.write_paused:
            self._deadline = deadline = self._loop.time() + self._timeout
            if deadline < self._timer_at:
                self._arm(deadline)
        else:
            self.expect_progress()

    def write(self, data: bytes) -> None:
        """Send more of a request, or of a tunnel."""
        if not (self.is_lost or self.transport.is_closing()):
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

    # -- What the answers ask for --------------------------------------------------------------

    def pause(self) -> None:
        """So much waits to be taken that reading stops."""
        if not (self._reading_paused or self.is_lost) and self._phase is not DONE:
            self._reading_paused = True
            self.transport.pause_reading()
            self._deadline = NEVER  # whatever it does, the client is behind

    def resume(self) -> None:
        """What had come was taken: reading goes on."""
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()
            self.expect_progress()

    def _wake_writer(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

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
        """Whether no request has been sent on it since it became idle, or since it was made."""
        return self._phase is IDLE and not (self.is_lost or self.transport.is_closing())

    @property
    def is_new(self) -> bool:
        """Whether it has had no request before this one, so that it is not just out of date."""
        return self.idle_since == 0.0

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
        self._taker = self.on_interim = None
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
        self.broken(error)
        self._wake_writer()
        self._wake()

    def broken(self, error: Exception) -> None:
        """
        Cut the connection; who waits is woken later.

        :param error: what they get
        """
        if self._error is None:
            self._error = error
        self.abort()

    def abort(self) -> None:
        """Cut the connection, with a reset, so that nothing looks like an orderly end."""
        if self._error is None and not (self._phase is DONE or self._phase is IDLE):
            self._error = UpstreamError("the connection was closed")
        self._deadline = NEVER
        if self.is_lost:
            return
        cut(self.transport)

    def close_output(self) -> bool:
        """Close our direction of a tunnel alone; False where that cannot be, as over TLS."""
        if self.is_lost or not self.transport.can_write_eof():
            return False
        try:
            self.transport.write_eof()
        except OSError:
            pass  # the server has reset the connection, which the transport is about to learn
        return True

    def close(self) -> None:
        """Close the connection once what has been written is sent."""
        if self.is_lost:
            return
        self._is_ending = True
        if not self.transport.is_closing():  # asyncio's over TLS must not be closed twice
            self.transport.close()
        # Over TLS, the server may never close its side.
        self._unsent = self.transport.get_write_buffer_size()
        self._deadline = deadline = self._loop.time() + _CLOSING
        if deadline < self._timer_at:
            self._arm(deadline)

    def when_lost(self) -> asyncio.Future[Exception | None]:
        """Return what is done once the connection is closed: with None, if in good order."""
        if self._gone is None:
            self._gone = self._loop.create_future()
            if self.is_lost:
                self._gone.set_result(self._error)
        return self._gone

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
    # Deadlines move with every read, so they are only noted; the timer looks when it fires. Where
    # one is noted, it is asked in place whether the timer is later, which saves most calls.

    def _arm(self, deadline: float) -> None:
        if deadline == NEVER:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        # Whatever request it is for: the timer would keep that until it fires.
        self._timer = self._loop.call_at(deadline, self._timer_fired, context=self._context)

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
