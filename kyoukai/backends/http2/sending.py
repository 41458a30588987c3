"""
HTTP/2 answers: from streams to frames, under flow control (RFC 9113 section 5.2).

Frames gather in ``_out`` and leave in one write: after each read, or once for all the answers of a
turn of the loop. A stream that may not send now holds its bytes back until the scheduler grants
them, a frame at a time.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes
from h2.stream import StreamClosedBy

from kyoukai.backends.base import PART, BaseProtocol
from kyoukai.backends.connections import Component
from kyoukai.backends.http2.connection import ServerConnection
from kyoukai.backends.http2.fields import block_of, response_blocks
from kyoukai.backends.http2.priority import Priority, Scheduler
from kyoukai.backends.http2.wire import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_FRAME_SIZE,
    frame_head,
)
from kyoukai.exceptions import PeerGone
from kyoukai.rules import bodyless, content_length
from kyoukai.stream import CLOSED, IDLE, OPEN, StreamState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asphalt.core import Context

    from kyoukai.backends.http2.state import H2State
    from kyoukai.rules import Header
    from kyoukai.stream import Payload

__all__ = ("H2Sender",)

#: Bytes that a stream holds back at a time.
_SLICE = 65536
#: The least that a frame has which a window cut short, and that is worth its updates.
_ORDINARY = 1024
#: Methods whose answers are not ordinary.
_APART = frozenset(("HEAD", "CONNECT"))
#: Seconds that a request has to end after its answer, before it is told to stop.
_EARLY = 0.2


class H2Sender(BaseProtocol):
    """
    One HTTP/2 connection, from streams to bytes.

    :param component: what it serves
    :param parent_context: the Asphalt context of its requests' contexts
    """

    __slots__ = (
        "_blocks",
        "_ended",
        "_ending",
        "_flush_due",
        "_out",
        "_out_size",
        "_pump_due",
        "_scheduler",
        "_sent",
        "_sent_then",
        "_silent",
        "_stall_timer",
        "bytes_earned",
        "frames_earned",
        "h2",
        "streams",
    )

    def __init__(self, component: Component, parent_context: Context | None = None) -> None:
        super().__init__(component, parent_context)
        self.h2 = ServerConnection(component.config)
        #: The open streams, by their numbers.
        self.streams: dict[int, H2State] = {}
        #: Control frames that what we sent may well be answered with, and bytes that windows may
        #: be opened by in return.
        self.frames_earned = self.bytes_earned = 0
        self._blocks = response_blocks(component.config.server_header)
        self._out: list[bytes | memoryview] = []
        self._out_size = 0
        self._flush_due = False
        # Whether the last byte has been sent.
        self._ended = False
        self._scheduler = Scheduler()
        self._pump_due = False
        self._stall_timer: asyncio.TimerHandle | None = None
        # DATA sent by streams that had to wait, now and at the last look.
        self._sent = self._sent_then = 0
        # Whether nothing is sent yet, for the client may not mean HTTP/2.
        self._silent = False
        # Tasks of streams that were reset.
        self._ending: set[asyncio.Task[None]] = set()

    @abstractmethod
    def streams_ended(self) -> None:
        """No stream is open any more."""

    # -- Bytes out -----------------------------------------------------------------------------

    def schedule_flush(self) -> None:
        """Write what has gathered at the end of this turn of the loop."""
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what has gathered."""
        self._flush_due = False
        if self._silent:
            return
        out = self._out
        if self.h2._data_to_send:
            out.append(self.h2.data_to_send())
        if out:
            data = b"".join(out)
            out.clear()
            self._out_size = 0
            if not (self._ended or self.transport.is_closing()):
                self.transport.write(data)

    def _put(self, size: int, *pieces: bytes | memoryview) -> None:
        """Let frames leave in order with those of h2."""
        out = self._out
        if self.h2._data_to_send:
            out.append(self.h2.data_to_send())
        out += pieces
        self._out_size += size
        if self._out_size >= self.write_limit:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self.flush)

    # -- Whole answers -------------------------------------------------------------------------

    def send_now(
        self, stream: StreamState, status: int, headers: Sequence[Header], body: Payload
    ) -> bool:
        """Send a whole response as HEADERS and DATA in one write, if it is an ordinary one."""
        if type(headers) is tuple and type(body) is bytes and stream.receiving is CLOSED:
            size = len(body)
            h2 = self.h2
            stream_id = stream.stream_id  # type: ignore[attr-defined]
            if (
                size <= MAX_FRAME_SIZE
                and size <= h2.outbound_flow_control_window
                and size <= h2.stream_window(stream_id)
                and not self.write_paused
                and not self._scheduler
                and not h2.block_prefix
                and stream.head.method not in _APART
            ):
                block = self._blocks.whole(status, headers, size)
                if block is not None and len(block) <= MAX_FRAME_SIZE:
                    h2.outbound_flow_control_window -= size
                    stream.status = status
                    stream.bytes_sent = size
                    stream.sending = CLOSED
                    head = frame_head(len(block), HEADERS, END_HEADERS, stream_id)
                    end = frame_head(size, DATA, END_STREAM, stream_id)
                    self._put(size, head, block, end, body)
                    self.frames_earned += 2
                    self.bytes_earned += 2 * size
                    if self._logs_access:
                        self.component.log_access(stream)
                    self.forget(stream_id)
                    return True
        return False

    async def send_response(
        self, stream: StreamState, status: int, headers: Sequence[Header], body: Payload
    ) -> None:
        """Send a whole response."""
        if stream.sending is not IDLE:  # since this coroutine was made
            raise PeerGone
        if not self.send_now(stream, status, headers, body):
            await self._send_whole(self.with_h2(stream), status, headers, body)

    async def _send_whole(
        self, stream: H2State, status: int, headers: Sequence[Header], body: Payload
    ) -> None:
        """Send a whole response that is not quite ordinary."""
        stream.check_no_tunnel(status)
        block, length, _ = self._blocks.render(status, headers)
        size = len(body)
        length = content_length(stream.head.method, status, length, size)
        if status == 304:
            length = None  # allowed (RFC 9110 section 8.6), but Go's client waits for such a body
        if bodyless(stream.head.method, status):
            body, size = b"", 0
        if length is not None:
            block = self._blocks.with_length(block, length)
        stream.sending = OPEN
        stream.status = status
        if not size:
            self.h2.send_block(stream.stream_id, block, end_stream=True)
            self._response_complete(stream)
            return
        self.h2.send_block(stream.stream_id, block)
        await self._send(stream, body, end_stream=True)
        self._response_complete(stream)

    # -- Answers in parts ----------------------------------------------------------------------

    def send_informational(
        self, stream: StreamState, status: int, headers: Sequence[Header]
    ) -> None:
        """Send an interim response."""
        state = self.with_h2(stream)
        self.h2.send_block(state.stream_id, block_of(headers, status), interim=True)
        self.schedule_flush()

    def send_head(
        self, stream: StreamState, status: int, headers: Sequence[Header], length: int | None
    ) -> None:
        """Send the head of a response whose body follows."""
        state = self.with_h2(stream)
        state.check_no_tunnel(status)
        block, _, _ = self._blocks.render(status, headers)
        if length is not None and status not in (204, 304):
            block = self._blocks.with_length(block, length)
        self.h2.send_block(state.stream_id, block)
        self.schedule_flush()

    async def send_data(self, stream: StreamState, data: Payload) -> None:
        """Send some of the body; waits while the windows or the transport's buffer are full."""
        await self._send(self.with_h2(stream), data)
        self.turn_left -= len(data) + PART
        if self.write_paused or self.turn_left < 0:
            await self.drain()

    async def end(self, stream: StreamState, trailers: Sequence[Header]) -> None:
        """Finish the response."""
        state = self.with_h2(stream)
        async with state.sender:
            self._check_open(state)
            if trailers:
                self.h2.send_block(state.stream_id, block_of(trailers), end_stream=True)
            else:
                self.h2.count_data(state.stream_id, 0, end_stream=True)
                self._put(0, frame_head(0, DATA, END_STREAM, state.stream_id))
            self._response_complete(state)

    async def _send(self, stream: H2State, data: Payload, end_stream: bool = False) -> None:
        view = memoryview(data)
        size = len(view)
        async with stream.sender:  # tasks that send on one stream take turns, piece by piece
            self._check_open(stream)
            for start in range(0, size, _SLICE):
                stream.unsent = view[start : start + _SLICE]
                stream.ends = end_stream and start + _SLICE >= size
                if not (self._scheduler or self.write_paused):
                    while stream.unsent and self._write_frame(stream):
                        pass
                if stream.unsent:
                    await self.sending_loop(stream.stream_id)

    def _check_open(self, stream: H2State) -> None:
        if stream.stream_id not in self.streams:
            raise PeerGone

    def _write_frame(self, stream: H2State) -> bool:
        """Send one frame of what a stream holds back; False if the windows let nothing pass."""
        unsent = stream.unsent
        assert unsent is not None
        stream_id = stream.stream_id
        allowed = self.h2.window(stream_id)
        if allowed <= 0 or self.write_paused:
            return False
        size = min(allowed, len(unsent), MAX_FRAME_SIZE)
        whole = size == len(unsent)
        stream.unsent = None if whole else unsent[size:]
        end_stream = stream.ends and whole
        piece: bytes | memoryview = unsent[:size]
        if type(unsent.obj) is not bytes:
            piece = bytes(piece)  # the application may use its buffer again before it is flushed
        self.h2.count_data(stream_id, size, end_stream)
        stream.bytes_sent += size
        self._sent += size
        if whole or size >= _ORDINARY:  # windows of a few bytes do not pay for their updates
            self.frames_earned += 2
        self.bytes_earned += 2 * size
        self._put(size, frame_head(size, DATA, end_stream, stream_id), piece)
        return True

    # -- Waiting for windows and for the transport ---------------------------------------------

    async def sending_loop(self, stream_id: int) -> None:
        """
        Wait until all that a stream holds back is sent.

        :raises PeerGone: if the client left, or took nothing for ``send_stall_timeout``
        """
        stream = self.streams.get(stream_id)
        while stream is not None and stream.unsent:
            stream.turn = self.loop.create_future()
            self._await_turn(stream)
            try:
                await stream.turn
            except asyncio.CancelledError:
                stream.reset("cancelled")  # what is left out cannot be made good
                raise
            finally:
                stream.turn = None
                self._scheduler.discard(stream)
        if stream is None or stream_id not in self.streams:
            raise PeerGone

    def _await_turn(self, stream: H2State) -> None:
        """Let a stream take part in the scheduling, once its own window is open."""
        if self.h2.streams[stream.stream_id].outbound_flow_control_window > 0:
            self._scheduler.add(stream)
            self.schedule_pump()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(
                self.config.send_stall_timeout, self._check_stalls
            )

    def schedule_pump(self) -> None:
        """Grant frames once whoever is about to ask for some has done so."""
        if not self._pump_due:
            self._pump_due = True
            self.loop.call_soon(self.pump)

    def pump(self) -> None:
        """Grant frames, one a turn, while the windows and the transport let them pass."""
        self._pump_due = False
        scheduler, h2 = self._scheduler, self.h2
        while scheduler and not self.write_paused and h2.outbound_flow_control_window > 0:
            stream = scheduler.next()
            if not self._write_frame(stream):
                continue  # its window is closed: an update will bring it back
            if stream.unsent:
                if h2.streams[stream.stream_id].outbound_flow_control_window > 0:
                    scheduler.add(stream)
                continue
            turn = stream.turn
            if turn is not None and not turn.done():
                turn.set_result(None)
                if scheduler:
                    # It may have more to send, and be more urgent than the others.
                    self.schedule_pump()
                    return

    def window_opened(self, stream_id: int) -> None:
        """The client has opened a window: that of a stream, or with 0 the connection's."""
        if stream_id:
            stream = self.streams.get(stream_id)
            if stream is None or stream.turn is None or stream in self._scheduler:
                return
            if self.h2.streams[stream_id].outbound_flow_control_window > 0:
                self._scheduler.add(stream)
        if self._scheduler:
            self.schedule_pump()

    def resume_writing(self) -> None:
        """The transport's buffer has drained."""
        super().resume_writing()
        self.resume_reading()
        if self._scheduler:
            self.schedule_pump()

    def prioritize(self, stream: H2State, priority: Priority) -> None:
        """The client has changed its mind about an answer."""
        stream.priority = priority
        if stream in self._scheduler:
            self._scheduler.add(stream)

    def _check_stalls(self) -> None:
        """
        Give up streams that wait and whose client has taken nothing since the last look.

        One that waits for its turn behind others is not stalled while these are taken.
        """
        self._stall_timer = None
        waiting = [stream for stream in self.streams.values() if stream.turn is not None]
        idle = self._sent == self._sent_then
        self._sent_then = self._sent
        for stream in waiting:
            stalled = idle or self.h2.stream_window(stream.stream_id) <= 0
            if stalled and stream.looked_at == stream.bytes_sent and not self.write_paused:
                self.give_up(stream, ErrorCodes.CANCEL)
            stream.looked_at = stream.bytes_sent
        if waiting and not self.is_lost:
            self._stall_timer = self.loop.call_later(
                self.config.send_stall_timeout, self._check_stalls
            )

    # -- The end of a stream -------------------------------------------------------------------
    #
    #   method      who calls it                          sends         the stream's task
    #   forget      both directions are complete          nothing       goes on
    #   reset       the application (see StreamState)     RST_STREAM    goes on, is counted
    #   give_up     the client broke it, or took nothing  RST_STREAM    is cancelled, is counted
    #   lose        the client left, or reset it          nothing       is cancelled, is counted

    def with_h2(self, stream: StreamState) -> H2State:
        """Return the stream, which h2 knows from now on."""
        state: H2State = stream  # type: ignore[assignment]
        if not state.adopted:
            if state.stream_id not in self.streams:
                raise PeerGone
            self.h2.adopt(state.stream_id)
            state.adopted = True
        return state

    def _response_complete(self, stream: H2State) -> None:
        if stream.is_raw and stream.receiving is OPEN:
            stream.sending = CLOSED  # the client's direction goes on
            return
        stream.finished()
        if self._logs_access:
            self.component.log_access(stream)
        stream_id = stream.stream_id
        if stream.receiving is OPEN:
            self.loop.call_later(_EARLY, self._end_early, stream_id)
        else:
            self.forget(stream_id)
        self.schedule_flush()

    def forget(
        self, stream_id: int, closed_by: StreamClosedBy = StreamClosedBy.SEND_END_STREAM
    ) -> None:
        """A stream is closed in both directions."""
        streams = self.streams
        del streams[stream_id]
        self.h2.forget(stream_id, closed_by)
        if not streams:
            self.streams_ended()

    def _end_early(self, stream_id: int) -> None:
        """The answer is complete and the request goes on: tell the client to stop (8.1)."""
        if stream_id in self.streams and not self.is_lost:
            self._reset(self.streams[stream_id], ErrorCodes.NO_ERROR)

    def reset(self, stream: StreamState, error: str) -> None:
        """Give a stream up, so that the client cannot take what it got for a whole answer."""
        state: H2State = stream  # type: ignore[assignment]
        if state.stream_id not in self.streams:
            return
        if state.answered and not state.is_raw:  # an early answer, which is whole
            self._reset(state, ErrorCodes.NO_ERROR)
            return
        cancelled = error == "cancelled"
        self._reset(state, ErrorCodes.CANCEL if cancelled else ErrorCodes.INTERNAL_ERROR)
        if self._logs_access:
            self.component.log_access(stream)

    def give_up(self, stream: H2State, code: int) -> None:
        """Reset a stream that the client has broken or left, and end its task."""
        self._reset(stream, code)
        self.lose(stream)

    def _reset(self, stream: H2State, code: int) -> None:
        stream_id = stream.stream_id
        if stream_id not in self.streams or self.is_lost:
            return
        self.h2.reset(stream_id, code)
        self.schedule_flush()
        self.count_task(stream)
        self.release(stream)
        self.forget(stream_id, StreamClosedBy.SEND_RST_STREAM)

    def count_task(self, stream: StreamState) -> None:
        """Let the task of a stream that is over count for the limit of streams until it ends."""
        task = stream.task
        if task is not None and task not in self._ending:
            self._ending.add(task)
            task.add_done_callback(partial(self._task_ended, stream))

    def _task_ended(self, stream: StreamState, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        stream.close()  # one that had not begun has not done it itself

    def release(self, stream: H2State) -> None:
        """Wake whoever waits to send on a stream that is over."""
        stream.unsent = None
        self._scheduler.discard(stream)
        if stream.turn is not None and not stream.turn.done():
            stream.turn.set_result(None)
