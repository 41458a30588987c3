"""
HTTP/1.x answers: heads and bodies as bytes, one exchange after the other, and closing well.

This is the half of the protocol that no parser is needed for; the other half is the backend's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from kyoukai.backends.answers import refusal, response_heads
from kyoukai.backends.base import PART, BaseProtocol
from kyoukai.backends.connections import Component
from kyoukai.exceptions import PeerGone
from kyoukai.rules import bodyless, content_length, reason
from kyoukai.stream import CLOSED, IDLE, OPEN, StreamState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asphalt.core import Context

    from kyoukai.rules import Header
    from kyoukai.stream import Interface, Payload, RequestHead, Wire

__all__ = ("DISCARD_LIMIT", "SLICE", "H1State", "Http1Protocol", "answer_refusal")

#: Bytes of an unread body that are read on and dropped to keep the connection.
DISCARD_LIMIT = 65536
#: Bytes handed to the transport, or to a parser, at a time.
SLICE = 65536


class H1State(StreamState):
    """A stream on HTTP/1.x: what its answer does to the connection is kept with it."""

    #: Whether the answer's body is chunked.
    chunked: bool = False
    #: The server's own answer to bytes that make no request: status and detail.
    refused: tuple[int, str] | None = None

    def __init__(self, head: RequestHead, protocol: Wire, closes: bool = False) -> None:
        # Not super().__init__(), and not on the class: all of it is read for every request.
        self.head = head
        self.protocol = protocol
        self.sending = IDLE
        self.received = 0
        #: Whether the connection closes after the answer.
        self.closes = closes
        #: What answers, if not the component's interface.
        self.interface: Interface | None = None


class Http1Protocol(BaseProtocol):
    """
    One HTTP/1.x connection, from streams to bytes.

    Requests are answered one after the other, in order; the task of the first in ``_streams`` runs.

    :param component: what it serves
    :param parent_context: the Asphalt context of its requests' contexts
    """

    __slots__ = ("_half_closed", "_heads", "_lingering", "_streams")

    def __init__(self, component: Component, parent_context: Context | None = None) -> None:
        super().__init__(component, parent_context)
        self._streams: deque[H1State] = deque()
        self._half_closed = False
        self._lingering = False
        self._heads = response_heads(component.config.server_header)

    # -- What the parsing half defines ---------------------------------------------------------

    @abstractmethod
    def body_left(self) -> int:
        """Return how many bytes of the request's body are known to come, 0 if unknown."""

    @abstractmethod
    def input_left(self) -> bool:
        """Whether anything came, or may have come, that no request was made of."""

    @abstractmethod
    def next_request(self) -> None:
        """An exchange is complete: go on with what has come, or wait for the next request."""

    @abstractmethod
    def read_on(self) -> None:
        """The answer came before the end of its request: go on reading."""

    @abstractmethod
    def drop_input(self) -> None:
        """Make no more requests of what comes."""

    @abstractmethod
    def end_direction(self, stream: H1State) -> None:
        """Close our direction of a raw tunnel."""

    # -- Answers -------------------------------------------------------------------------------

    def send_informational(
        self, stream: StreamState, status: int, headers: Sequence[Header]
    ) -> None:
        """Send an interim response; HTTP/1.0 has none."""
        if stream.head.http_version == "1.1":
            lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
            self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason(status), lines))

    def send_now(
        self, stream: StreamState, status: int, headers: Sequence[Header], body: Payload
    ) -> bool:
        """Send a whole response in one write, if it is an ordinary one."""
        assert isinstance(stream, H1State)
        if (
            type(headers) is tuple
            and type(body) is bytes
            and len(body) <= SLICE
            and stream.receiving is CLOSED
            and not (stream.closes or self.closing or self.write_paused)
        ):
            head = stream.head
            if head.method != "HEAD" and head.http_version == "1.1":
                rendered = self._heads.whole(status, headers, len(body))
                if rendered is not None:
                    stream.status = status
                    stream.bytes_sent = len(body)
                    self.transport.write(rendered + body)
                    self._response_complete(stream)
                    return True
        return False

    async def send_response(
        self, stream: StreamState, status: int, headers: Sequence[Header], body: Payload
    ) -> None:
        """Send a whole response, in one write if it is of ordinary size."""
        assert isinstance(stream, H1State)
        if stream.sending is not IDLE:  # since this coroutine was made
            raise PeerGone
        if not self.send_now(stream, status, headers, body):
            await self._send_whole(stream, status, headers, body)

    async def _send_whole(
        self, stream: H1State, status: int, headers: Sequence[Header], body: Payload
    ) -> None:
        """Send a whole response that is not quite ordinary."""
        prefix, length, closes = self._heads.render(status, headers)
        size = len(body)
        head = stream.head
        length = content_length(head.method, status, length, size)
        if bodyless(head.method, status):
            body, size = b"", 0
        if (
            closes
            or stream.closes
            or self.closing
            or stream.receiving is OPEN
            or head.http_version != "1.1"
        ):
            prefix += self._connection_header(stream, closes)
        stream.sending = OPEN
        stream.status = status
        if self.write_paused:
            await self.drain()
        if length is None:
            self.transport.write(prefix + b"\r\n")
        elif size <= SLICE:
            self.transport.write(
                b"%bcontent-length: %d\r\n\r\n%b" % (prefix, length, body)  # type: ignore[str-format]
            )
        else:
            self.transport.write(b"%bcontent-length: %d\r\n\r\n" % (prefix, length))
            await self._write_slices(stream, body)
            size = 0
        stream.bytes_sent += size
        self._response_complete(stream)

    def send_head(
        self, stream: StreamState, status: int, headers: Sequence[Header], length: int | None
    ) -> None:
        """Send the head of a response whose body follows."""
        assert isinstance(stream, H1State)
        prefix, _, closes = self._heads.render(status, headers)
        framing = b""
        if status != 204:
            if length is not None:
                framing = b"content-length: %d\r\n" % length
            elif status == 304 or stream.head.method == "HEAD":
                pass
            elif stream.head.http_version == "1.1":
                stream.chunked = True
                framing = b"transfer-encoding: chunked\r\n"
            else:
                closes = True  # the body ends where the connection does
        framing += self._connection_header(stream, closes)
        self.transport.write(b"%b%b\r\n" % (prefix, framing))

    async def send_data(self, stream: StreamState, data: Payload) -> None:
        """Send some of the body; waits while the transport's buffer is full."""
        assert isinstance(stream, H1State)
        if len(data) > SLICE:
            await self._write_slices(stream, data)
        else:
            self._write(stream, data)
        if self.write_paused or self.turn_left < 0 or self.transport.is_closing():
            await self.drain()

    async def end(self, stream: StreamState, trailers: Sequence[Header]) -> None:
        """Finish the response."""
        assert isinstance(stream, H1State)
        if stream.chunked:
            lines = b"".join([b"%b: %b\r\n" % pair for pair in trailers])
            self.transport.write(b"0\r\n%b\r\n" % lines)
        elif stream.is_raw:
            self.end_direction(stream)
            return
        self._response_complete(stream)

    def reset(self, stream: StreamState, error: str) -> None:
        """Cut the connection, so that the answer cannot be taken for a whole one."""
        self.abort()

    def _write(self, stream: H1State, data: Payload) -> None:
        size = len(data)
        if stream.chunked:
            data = b"%x\r\n%b\r\n" % (size, data)  # type: ignore[str-format]
        self.transport.write(data)
        self.turn_left -= size + PART
        stream.bytes_sent += size

    async def _write_slices(self, stream: H1State, data: Payload) -> None:
        """Write data slice by slice; waits before all but the first, and not after the last."""
        view = memoryview(data)
        self._write(stream, view[:SLICE])
        for start in range(SLICE, len(view), SLICE):
            if self.write_paused or self.turn_left < 0 or self.transport.is_closing():
                await self.drain()
            self._write(stream, view[start : start + SLICE])

    def _connection_header(self, stream: H1State, closes: bool) -> bytes:
        if closes or self._must_close(stream):
            stream.closes = True
            return b"connection: close\r\n"
        return b"" if stream.head.http_version == "1.1" else b"connection: keep-alive\r\n"

    def _must_close(self, stream: H1State) -> bool:
        """Whether the connection closes after this answer."""
        if stream.closes:
            return True
        if self.closing and self._streams[-1] is stream and not self.input_left():
            return True
        # An early answer: a body that the client holds back, or that is too long to drop, costs
        # the connection.
        return stream.receiving is OPEN and (
            stream.continue_expected or self.body_left() > DISCARD_LIMIT
        )

    # -- One after the other -------------------------------------------------------------------

    def enqueue(self, stream: H1State) -> None:
        """Answer a request, once those before it are answered."""
        streams = self._streams
        streams.append(stream)
        if len(streams) == 1:
            self.start_stream(stream, stream.interface)

    def _response_complete(self, stream: H1State) -> None:
        early = stream.receiving is OPEN
        if early:
            stream.finished()
        else:
            stream.sending = CLOSED  # all that finished() would do
        if self._logs_access:
            self.component.log_access(stream)
        if not early:
            self.exchange_complete(stream)
        elif self._lingering:
            pass  # more than is dropped for an early answer had come already
        elif stream.closes:
            self.linger()
        else:
            self.read_on()

    def exchange_complete(self, stream: H1State) -> None:
        """Request and response are complete: on to the next."""
        streams = self._streams
        streams.popleft()
        if stream.closes:
            if streams or stream.refused or self.input_left():
                self.linger()
            else:
                self.close()
            return
        if streams:
            following = streams[0]
            self.start_stream(following, following.interface)
        self.next_request()
        if self._half_closed and not streams:
            self.close()

    @property
    def unanswered(self) -> int:
        """How many requests have no whole answer yet."""
        return len(self._streams)

    def input_closed(self) -> None:
        """The client has closed its direction: answers are due, and no more requests come."""
        self._half_closed = True
        for stream in self._streams:
            stream.input_closed()

    def linger(self) -> None:
        """
        Close in such a way that the answer arrives.

        Closing with bytes unread makes the kernel send a reset, which destroys what is on its
        way. So only our direction is closed first, and what comes is dropped for a while (RFC
        9112 section 9.6). TLS has no half-closed connections: there, it is only the dropping.
        """
        self._lingering = True
        self.drop_input()
        waiting = tuple(self._streams)
        self._streams.clear()
        for stream in waiting:
            if stream.sending is not CLOSED:
                self.lose(stream)
        if self.is_lost:
            return
        if self._half_closed:
            self.close()
            return
        self.close_output()
        if self.transport.get_write_buffer_size():
            self.watch_writes()
        self.set_read_deadline(self.config.linger_timeout)
        self.resume_reading()

    def lingered(self) -> None:
        """The time to linger is over; while the answer is still being taken, there is more."""
        if self.transport.get_write_buffer_size():
            self.set_read_deadline(self.config.linger_timeout)
        else:
            self.close()

    # -- Closing -------------------------------------------------------------------------------

    def refuse_connection(self) -> None:
        """There are too many connections."""
        if self.transport.get_extra_info("ssl_object") is None:
            status, headers, body = refusal(503, "Too many connections.")
            prefix, _, _ = self._heads.render(status, headers)
            self.transport.write(
                b"%bcontent-length: %d\r\nconnection: close\r\n\r\n%b" % (prefix, len(body), body)
            )
        self.transport.close()

    def streams_lost(self) -> None:
        """The connection is closed: every stream in progress has lost its client."""
        streams = tuple(self._streams)
        self._streams.clear()
        self.drop_input()
        for stream in streams:
            over = stream.sending is CLOSED and not stream.is_raw
            self.lose(stream)
            if self._logs_access and not over:
                self.component.log_access(stream)


async def answer_refusal(stream: StreamState) -> None:
    """The interface of streams that are refused."""
    assert isinstance(stream, H1State)
    assert stream.refused is not None
    await stream.send_response(*refusal(*stream.refused))
