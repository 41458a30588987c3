"""
HTTP/2 (RFC 9113) on h2: from frames to streams, and a connection's life.

Requests that are a head alone are opened at once; h2 is told of all others. Its events are
dispatched by their type.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from h2 import events
from h2.errors import ErrorCodes
from h2.stream import StreamClosedBy
from hpack.exceptions import HPACKError, OversizedHeaderListError

from kyoukai.backends.answers import refusal
from kyoukai.backends.base import NEVER
from kyoukai.backends.connections import Component
from kyoukai.backends.http2.frames import too_large
from kyoukai.backends.http2.guard import ConnectionFault
from kyoukai.backends.http2.heads import (
    check_trailer_fields,
    head_with_path,
    refused_head,
    request_head,
)
from kyoukai.backends.http2.lifetime import FAREWELL, H2Lifetime
from kyoukai.backends.http2.priority import Priority, parse_priority
from kyoukai.backends.http2.state import H2State
from kyoukai.backends.http2.wire import END_HEADERS, HEADERS, PRIORITY_UPDATE, frame_head
from kyoukai.exceptions import BodyMalformed, BodyTimeout, ProtocolError
from kyoukai.stream import CLOSED, OPEN, RequestHead, StreamState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from asphalt.core import Context

    from kyoukai.rules import Header

__all__ = ("PROTOCOL_CLASS", "H2KyoukaiProtocol")

PROTOCOL_CLASS = "H2KyoukaiProtocol"

#: Seconds between two looks at how fast bodies arrive.
_RATE_TICK = 1.0


class H2KyoukaiProtocol(H2Lifetime):
    """
    One HTTP/2 connection.

    :param component: what it serves
    :param parent_context: the Asphalt context of its requests' contexts
    """

    __slots__ = (
        "_body_timer",
        "_early_priorities",
        "_limit_known",
        "_max_requests",
        "_max_streams",
        "_max_target_size",
        "_received",
        "_upgraded",
    )

    def __init__(self, component: Component, parent_context: Context | None = None) -> None:
        super().__init__(component, parent_context)
        config = component.config
        self._max_streams = config.h2_max_concurrent_streams
        self._max_target_size = config.max_target_size
        self._max_requests = config.max_requests_per_connection
        # What PRIORITY_UPDATE said of streams that are not open yet.
        self._early_priorities: dict[int, Priority] = {}
        self._limit_known = self.loop.time() + config.header_timeout
        self._body_timer: asyncio.TimerHandle | None = None
        # The head of the request, or the trailers, that h2 is about to report.
        self._received: Any = None
        self._upgraded: tuple[RequestHead, bytes, Sequence[Header]] | None = None

    # -- Transport callbacks -------------------------------------------------------------------

    def begin_with(
        self, head: RequestHead, body: bytes, trailers: Sequence[Header], settings: bytes
    ) -> bool:
        """
        Answer a request that came over HTTP/1.1 as stream 1, once connected (RFC 7540 3.2).

        :param head: its head
        :param body: its whole body
        :param trailers: its trailers
        :param settings: the value of its HTTP2-Settings
        :return: False if these are not valid
        """
        self._upgraded = (head, body, trailers)
        return self.h2.greet(settings)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected: send our half of the preface."""
        super().connection_made(transport)
        if self.is_lost:  # refused
            self._deaf = self._ended = True
            return
        self.set_read_deadline(self.config.header_timeout)
        if self._upgraded is None:
            self.h2.greet()
        else:
            head, body, trailers = self._upgraded
            stream = self._open(1, head)
            stream.adopted = True
            stream.insert_data(body, 0)  # no window was used for it
            stream.trailers = trailers
            stream.receiving = CLOSED
            self.start_stream(stream)
        # Without a word of it in the handshake, the client must show first that it means HTTP/2.
        self._silent = self.tls is not None and self.tls.selected_alpn_protocol() != "h2"
        self.flush()

    def eof_received(self) -> bool:
        """
        The client sends no more, so it cannot open windows: a disconnect.

        :return: whether the transport stays open: never
        """
        return False

    # -- Header blocks to requests -------------------------------------------------------------

    def block_complete(self, stream_id: int, block: bytes, ends: int) -> None:
        """A header block is complete: a new request's, or trailers."""
        h2 = self.h2
        if stream_id <= h2.highest_inbound_stream_id or not stream_id & 1:
            self._later_block(stream_id, block, ends)
            return
        head: RequestHead | None = h2.decoder.known.get(block)
        head = self._recall(block) if head is None else head.copy()
        fields = () if head is not None else self._decode(block)
        if stream_id > self._final_stream:
            # Opened before the client read that we are leaving: it will try elsewhere.
            h2.open_lightly(stream_id)
            h2.forget(stream_id, StreamClosedBy.SEND_RST_STREAM)
            return
        if len(self.streams) + len(self._ending) >= self._max_streams:
            # No fault before the client knows the limit, which it has some time to learn.
            counts = h2.settings_acknowledged or self.loop.time() > self._limit_known
            self._refuse(stream_id, ErrorCodes.REFUSED_STREAM, counts)
            return
        interface = None
        try:
            if head is None:
                self._check_size(fields)
                head = request_head(fields, self)
                h2.decoder.remember(block, head.copy())
            if ends and (head.content_length or head.protocol):
                raise ProtocolError(400, "The request ends before what it announces.")
        except ProtocolError as error:
            if error.status == 400:
                self._refuse(stream_id, ErrorCodes.PROTOCOL_ERROR, True)
                return
            head, interface = refused_head(fields, self), _Refusal(error)
        if ends:
            h2.open_lightly(stream_id)
            stream = self._open(stream_id, head)
            stream.receiving = CLOSED
            self.start_stream(stream, interface)
        else:
            self._received = (head, interface)
            self._dispatch(h2.open(stream_id))

    def _recall(self, block: bytes) -> RequestHead | None:
        """Return the head of a request that differs from an earlier one in its path alone."""
        found = self.h2.decoder.recall_but_path(block)
        if found is None:
            return None
        other, target, size = found
        if size - len(other.target) + len(target) > self._max_head_size:
            return None
        return head_with_path(other, target) if len(target) <= self._max_target_size else None

    def _later_block(self, stream_id: int, block: bytes, ends: int) -> None:
        """Trailers, or a block where none may be."""
        fields = self._decode(block)
        stream = self.streams.get(stream_id)
        if self.h2.was_reset(stream_id):
            self.count_control()
            return
        if stream is not None and stream.receiving is OPEN:
            try:
                self._check_size(fields, 0)
                if stream.head.protocol is not None:  # RFC 9113 section 8.5
                    raise ProtocolError(400, "A tunnel has no trailers.")
                if not ends:
                    raise ProtocolError(400, "The trailers do not end the stream.")
                self._received = check_trailer_fields(fields)
            except ProtocolError as error:
                self._break(stream, error.detail)
                return
        elif stream is not None:
            self.with_h2(stream)
        self._feed_block(stream_id, ends)

    def _feed_block(self, stream_id: int, ends: int) -> None:
        """Let h2 know of a block, whose fields are none of its business."""
        self.feed(frame_head(0, HEADERS, END_HEADERS | ends, stream_id))

    def _decode(self, block: bytes) -> list[Header]:
        try:
            return self.h2.decoder.decode(block)
        except OversizedHeaderListError:
            raise too_large() from None
        except HPACKError as error:
            raise ConnectionFault(ErrorCodes.COMPRESSION_ERROR, str(error)) from None

    def _check_size(self, fields: list[Header] | tuple[()], pseudo: int = 4) -> None:
        if len(fields) > self.config.max_headers + pseudo:
            raise ProtocolError(431, "The request has too many headers.")
        if self.h2.decoder.size > self._max_head_size:
            raise ProtocolError(431, "The request's head is too large.")

    def _open(self, stream_id: int, head: RequestHead) -> H2State:
        """A request's head is complete: make its stream, which is started when all is set."""
        stream = H2State(head, stream_id, self)
        self.streams[stream_id] = stream
        if self._early_priorities:
            priority = self._early_priorities.pop(stream_id, None)
            if priority is not None:
                stream.priority = priority
        self._read_deadline = NEVER
        self._requests += 1
        if self._requests == self._max_requests:
            self.shutdown()
        return stream

    def _refuse(self, stream_id: int, code: int, counts: bool) -> None:
        """Reset a stream that is not to be."""
        self.h2.open_lightly(stream_id)
        self.h2.reset(stream_id, code)
        self.h2.forget(stream_id, StreamClosedBy.SEND_RST_STREAM)
        if counts:
            self.count_reset()

    # -- Events of h2 --------------------------------------------------------------------------

    def feed(self, frame: bytes) -> None:
        """Let h2 take a frame, and handle its events."""
        h2 = self.h2
        provoked = h2.provoked_resets
        self._dispatch(h2.receive_frame(frame))
        for _ in range(h2.provoked_resets - provoked):
            self.count_reset()

    def _dispatch(self, happened: list[events.Event]) -> None:
        for event in happened:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)

    def request_received(self, event: events.RequestReceived) -> None:
        """A request with a body has begun."""
        head, interface = self._received
        stream = self._open(event.stream_id or 0, head)
        stream.adopted = True
        stream.continue_expected = head.get(b"expect") is not None
        stream.upgradable = head.protocol is not None
        self.start_stream(stream, interface)
        if self._body_timer is None and self.config.min_body_rate:
            self._body_timer = self.loop.call_later(_RATE_TICK, self._check_rates)

    def trailers_received(self, event: events.TrailersReceived) -> None:
        """A body has ended with trailers."""
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None:
            stream.trailers = self._received

    def part_received(self, event: events.DataReceived) -> None:
        """Some of a body."""
        size = event.flow_controlled_length or 0
        stream = self.streams.get(event.stream_id or 0)
        if stream is None:
            self.h2.refund(size)
        else:
            self.part(stream, event.data or b"", size)

    def part(self, stream: H2State, data: bytes, size: int) -> None:
        """Some of a body has come, which costs the client's window ``size`` bytes."""
        length = stream.head.content_length
        if length is not None and stream.received + len(data) > length:
            self.h2.refund(size)
            self._break(stream, "The body is longer than its Content-Length.")
            return
        if stream.tunnel is not None:
            stream.pass_on(data, size)
        else:
            stream.insert_data(data, size)

    def stream_complete(self, event: events.StreamEnded) -> None:
        """A request has ended."""
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None:
            self.ended(stream)

    def ended(self, stream: H2State) -> None:
        """A request has ended."""
        length = stream.head.content_length
        if length is not None and stream.received != length and not stream.answered:
            self._break(stream, "The body is shorter than its Content-Length.")
            return
        stream.stream_complete()
        if stream.answered:
            if stream.is_raw:
                self._response_complete(stream)  # both directions have ended
            else:
                self.forget(stream.stream_id)

    def stream_reset(self, event: events.StreamReset) -> None:
        """The client gave a stream up, or made h2 do so."""
        if event.remote_reset:
            self.count_reset()
        stream = self.streams.get(event.stream_id or 0)
        if stream is not None:
            remote = event.remote_reset
            self.release(stream)
            self.forget(
                stream.stream_id,
                StreamClosedBy.RECV_RST_STREAM if remote else StreamClosedBy.SEND_RST_STREAM,
            )
            self.lose(stream)

    def window_updated(self, event: events.WindowUpdated) -> None:
        """The client has opened a window, of a stream or of the connection."""
        self.window_opened(event.stream_id or 0)

    def settings_changed(self, event: events.RemoteSettingsChanged) -> None:
        """The client has settings; a new initial window counts for every stream."""
        for stream_id in self.streams:
            self.window_opened(stream_id)

    def ping_acknowledged(self, event: events.PingAckReceived) -> None:
        """The client has read what we sent before our PING."""
        if event.ping_data == FAREWELL and self.closing:
            self.say_farewell()

    def unknown_frame(self, event: events.UnknownFrameReceived) -> None:
        """A frame that h2 does not know: PRIORITY_UPDATE (RFC 9218 section 7.1), or any other."""
        frame: Any = event.frame
        if frame.type != PRIORITY_UPDATE:
            return
        stream_id = int.from_bytes(frame.body[:4]) & 0x7FFFFFFF
        if frame.stream_id or len(frame.body) < 4 or not stream_id & 1:
            text = "PRIORITY_UPDATE for a stream that cannot be"
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, text)
        priority = parse_priority(frame.body[4:])
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.prioritize(stream, priority)
        elif stream_id > self.h2.highest_inbound_stream_id:
            self._early_priorities.pop(stream_id, None)
            self._early_priorities[stream_id] = priority
            if len(self._early_priorities) > self._max_streams:
                self._early_priorities.pop(next(iter(self._early_priorities)))

    def connection_terminated(self, event: events.ConnectionTerminated) -> None:
        """The client will open no more streams; those that are open go on."""
        self.shutdown()
        self.say_farewell()

    # -- Flow control and rate of bodies -------------------------------------------------------

    def acknowledge(self, stream: StreamState, size: int) -> None:
        """The application has consumed some of a body, or nobody will."""
        assert isinstance(stream, H2State)
        if self.is_lost or self._deaf:
            return
        if (
            stream.receiving is OPEN
            and (not stream.answered or stream.is_raw)
            and stream.stream_id in self.streams
        ):
            self.h2.acknowledge(stream.stream_id, size)
        else:
            self.h2.refund(size)
        if self.h2._data_to_send:
            self.schedule_flush()

    def _check_rates(self) -> None:
        """Hold bodies to ``min_body_rate`` over the time in which we asked for them."""
        self._body_timer = None
        config = self.config
        asking = self.h2.inbound_flow_control_window > 0 and not self.reading_paused
        open_ones = 0
        for stream in tuple(self.streams.values()):
            if stream.receiving is not OPEN or stream.answered or stream.head.protocol:
                continue  # nothing is owed, or it is a tunnel
            open_ones += 1
            window_open = stream.buffered < config.h2_stream_window // 2
            if not (asking and window_open) or stream.continue_expected:
                continue
            stream.asked += _RATE_TICK
            slow = stream.received < config.min_body_rate * stream.asked
            if slow and stream.asked >= config.min_body_grace:
                stream.body_failed(BodyTimeout("the body arrives too slowly"))
        if open_ones and not self.is_lost:
            self._body_timer = self.loop.call_later(_RATE_TICK, self._check_rates)

    # -- What goes wrong -----------------------------------------------------------------------

    def _break(self, stream: H2State, detail: str) -> None:
        """A request turned out to be malformed (RFC 9113 section 8.1.1)."""
        stream.body_failed(BodyMalformed(detail))
        self.give_up(stream, ErrorCodes.PROTOCOL_ERROR)
        self.count_reset()

    def streams_lost(self) -> None:
        """The connection is closed: every stream in progress has lost its client."""
        if self._body_timer is not None:
            self._body_timer.cancel()
        super().streams_lost()


class _Refusal:
    """The interface of a request that is answered by its head alone."""

    def __init__(self, error: ProtocolError) -> None:
        self._error = error

    async def __call__(self, stream: StreamState) -> None:
        await stream.send_response(*refusal(self._error.status, self._error.detail))


_HANDLERS: dict[type[events.Event], Callable[[H2KyoukaiProtocol, Any], None]] = {
    events.RequestReceived: H2KyoukaiProtocol.request_received,
    events.TrailersReceived: H2KyoukaiProtocol.trailers_received,
    events.DataReceived: H2KyoukaiProtocol.part_received,
    events.StreamEnded: H2KyoukaiProtocol.stream_complete,
    events.StreamReset: H2KyoukaiProtocol.stream_reset,
    events.WindowUpdated: H2KyoukaiProtocol.window_updated,
    events.RemoteSettingsChanged: H2KyoukaiProtocol.settings_changed,
    events.PingAckReceived: H2KyoukaiProtocol.ping_acknowledged,
    events.UnknownFrameReceived: H2KyoukaiProtocol.unknown_frame,
    events.ConnectionTerminated: H2KyoukaiProtocol.connection_terminated,
}
