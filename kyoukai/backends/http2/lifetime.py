"""
How an HTTP/2 connection ends: by its own errors, by a GOAWAY in two steps, or for want of use.

A connection goes through these states, each by what stands for it:

- greeting: not ``_settled``, until the client's preface and SETTINGS have come
- open
- announced: ``closing``; GOAWAY(2^31-1) and PING are sent, requests are still served
- last: ``_final_stream`` is a real number; later streams are ignored
- deaf: ``_deaf``; after an error, nothing more is taken, but answers go out
- ended: ``_ended``; the last byte is sent, and the client may close first
- lost: ``is_lost``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from kyoukai.backends.http2.frames import FrameReceiver
from kyoukai.backends.http2.guard import ConnectionFault, report
from kyoukai.stream import CLOSED, OPEN, StreamState

if TYPE_CHECKING:
    from asphalt.core import Context

    from kyoukai.backends.connections import Component

__all__ = ("ALL_STREAMS", "FAREWELL", "H2Lifetime")

#: The stream id of a GOAWAY that only announces the end.
ALL_STREAMS = 2**31 - 1
#: What we PING with to learn that the client has read it, and how long we wait for the answer.
FAREWELL = b"farewell"
_FAREWELL_WAIT = 1.0
#: Seconds that a client has to close by itself, once nothing is left to do.
_CLOSE_WAIT = 0.25


class H2Lifetime(FrameReceiver):
    """
    One HTTP/2 connection, and what ends it.

    :param component: what it serves
    :param parent_context: the Asphalt context of its requests' contexts
    """

    __slots__ = ("_end_by", "_final_stream")

    def __init__(self, component: Component, parent_context: Context | None = None) -> None:
        super().__init__(component, parent_context)
        #: The last stream that is served.
        self._final_stream = ALL_STREAMS
        # When the connection is closed though the client goes on sending; 0 if it does not matter.
        self._end_by = 0.0

    # -- By an error ---------------------------------------------------------------------------

    def fail(self, fault: ConnectionFault) -> None:
        """
        The connection cannot go on (RFC 9113 section 5.4.1).

        Nothing more is taken from the client. What it had asked for in good order is answered, as
        far as its windows are open and if that takes no longer than ``linger_timeout``; but after
        ENHANCE_YOUR_CALM nothing is.
        """
        report(self.client[0] if self.client else "unix", fault.text)
        self._deaf = self.closing = True
        self._block = None
        if self._silent:
            self._end(0)
            return
        self._final_stream = min(self._final_stream, self.h2.highest_inbound_stream_id)
        self.h2.go_away(self._final_stream, fault.code, fault.text)
        for stream in tuple(self.streams.values()):
            if stream.receiving is OPEN or fault.code == ErrorCodes.ENHANCE_YOUR_CALM:
                self.release(stream)
                del self.streams[stream.stream_id]
                self.lose(stream)
        self.set_read_deadline(self.config.linger_timeout)
        if not self.streams:
            self._end(self.config.linger_timeout)

    def lose(self, stream: StreamState) -> None:
        """The stream's client is gone; its task counts until it has finished."""
        over = stream.sending is CLOSED and not stream.is_raw
        self.count_task(stream)
        super().lose(stream)
        if self._logs_access and not over:
            self.component.log_access(stream)

    # -- In good order -------------------------------------------------------------------------

    def shutdown(self) -> None:
        """
        Take no further requests, in two steps (RFC 9113 section 6.8).

        The first GOAWAY only announces the end, as requests are on their way. Those that come
        before the answer to our PING are served; the second GOAWAY names the last of them.
        """
        if self.connections.closing:
            self.tunnels_going_away()
        if not self.closing:
            self.closing = True
            self.h2.go_away(ALL_STREAMS, ErrorCodes.NO_ERROR)
            self.h2.ping(FAREWELL)
            self.schedule_flush()
            self.loop.call_later(_FAREWELL_WAIT, self.say_farewell)

    def say_farewell(self) -> None:
        """Take the second step."""
        if self.is_lost or self._final_stream != ALL_STREAMS:
            return
        self._final_stream = self.h2.highest_inbound_stream_id
        self.h2.go_away(self._final_stream, ErrorCodes.NO_ERROR)
        self.schedule_flush()
        if not self.streams:
            self._end(_CLOSE_WAIT)

    def close(self, error_code: int = 0) -> None:
        """
        End the connection at once.

        :param error_code: the code of the GOAWAY, 0 for no error
        """
        if not self._ended:
            self._final_stream = min(self._final_stream, self.h2.highest_inbound_stream_id)
            self.h2.go_away(self._final_stream, error_code)
            self._end(_CLOSE_WAIT)

    def _end(self, wait: float) -> None:
        """
        Send nothing more, and close such that what we have sent arrives.

        :param wait: seconds in which the client may close first: a close with bytes unread makes
            the kernel send a reset, which destroys what is on its way
        """
        self.flush()
        self._deaf = self._ended = self.closing = True
        self._lose_all()
        if self.is_lost or self.transport.is_closing():
            return
        if not self.close_output():
            self._end_by = self.loop.time() + wait
            wait = min(wait, _CLOSE_WAIT)  # more while something comes
        if self.transport.get_write_buffer_size():
            self.watch_writes()
        self.resume_reading()
        self.set_read_deadline(wait)

    def dropped(self) -> None:
        """Something came that is not taken any more: over TLS, wait until nothing does."""
        if self._end_by:
            self.set_read_deadline(min(_CLOSE_WAIT, self._end_by - self.loop.time()))

    def streams_ended(self) -> None:
        """No stream is open any more: wait for the next request, or end."""
        if self._ended or self.is_lost or self._block is not None:
            return
        if self._final_stream != ALL_STREAMS:
            self._end(_CLOSE_WAIT)
        elif not self.closing:
            self._read_deadline = deadline = self.loop.time() + self._keep_alive
            if deadline < self._timer_at:
                self._arm(deadline)

    def read_timed_out(self) -> None:
        """A head, the preface, the next request or the end is late."""
        if self._ended:
            if self.transport.get_write_buffer_size():
                self.set_read_deadline(self.config.linger_timeout)
            else:
                super().close()
        elif self._deaf:
            self._end(_CLOSE_WAIT)
        elif self._block is not None:
            text = "a header block took too long (header_timeout)"
            self.fail(ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, text))
        elif not self.streams:
            self.close()

    @property
    def unanswered(self) -> int:
        """How many requests have no whole answer yet."""
        return len(self.streams)

    def is_idle(self) -> bool:
        """Whether no request is in progress, not even in part."""
        return not (self.streams or self._block)

    def streams_lost(self) -> None:
        """The connection is closed: every stream in progress has lost its client."""
        self._deaf = self._ended = True
        self._input.clear()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        self._lose_all()

    def _lose_all(self) -> None:
        streams = tuple(self.streams.values())
        self.streams.clear()
        for stream in streams:
            self.release(stream)
            self.lose(stream)
