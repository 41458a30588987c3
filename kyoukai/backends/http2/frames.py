"""
HTTP/2 frames in: splitting and vetting (RFC 9113 sections 4 and 6).

Frames are split here, so that a wrong one does not take along what came before it in the same
read, and what h2 does not look at is: sizes, floods, header blocks in pieces. Header blocks, DATA
in good order and WINDOW_UPDATE are taken here; what is rarer, or not in order, h2 takes and judges.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from kyoukai.backends.base import NEVER
from kyoukai.backends.connections import Component
from kyoukai.backends.http2.guard import ConnectionFault
from kyoukai.backends.http2.tunnel import H2Tunnels
from kyoukai.backends.http2.wire import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    HEADERS,
    MAX_FRAME_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from kyoukai.bucket import Bucket

if TYPE_CHECKING:
    from asphalt.core import Context

    from kyoukai.backends.http2.state import H2State

__all__ = ("FrameReceiver", "too_large")

#: Control frames that go with each request, beside those that go with what we send, and how many a
#: client may save up.
_FREE_PER_REQUEST = 2
_FREE_AT_MOST = 1000
#: The bytes of SETTINGS, ten of them, that count for as much as a frame.
_SETTINGS_SIZE = 60
#: The least that a WINDOW_UPDATE costs of what we have sent, and the most of that which counts:
#: what can be on its way, for the stream's window and for the connection's.
_LEAST_UPDATE = 2048
_UPDATES_AT_MOST = 2**32
#: DATA that comes too late is no fault, unless it comes in frames shorter than this.
_SMALL_FRAME = 256


class FrameReceiver(H2Tunnels):
    """
    One HTTP/2 connection, from bytes to frames.

    :param component: what it serves
    :param parent_context: the Asphalt context of its requests' contexts
    """

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_stream",
        "_control",
        "_deaf",
        "_free",
        "_free_base",
        "_input",
        "_keep_alive",
        "_max_head_size",
        "_needed",
        "_requests",
        "_resets",
        "_settled",
        "_taken",
    )

    def __init__(self, component: Component, parent_context: Context | None = None) -> None:
        super().__init__(component, parent_context)
        config = component.config
        # Bytes that make no whole frame yet, and how many it takes.
        self._input = bytearray()
        self._needed = 0
        # How much of the client's preface has come, whether its SETTINGS have, and whether
        # nothing more is taken.
        self._taken = 0
        self._settled = False
        self._deaf = False
        # A header block that goes on in CONTINUATION frames.
        self._block: bytearray | None = None
        self._block_stream = self._block_flags = 0
        self._requests = 0
        self._resets = Bucket(config.h2_reset_burst, config.h2_reset_rate)
        self._control = Bucket(config.h2_control_burst, config.h2_control_rate)
        self._free = self._free_base = 0
        self._keep_alive = config.keep_alive_timeout
        self._max_head_size = config.max_head_size

    # -- What the protocol defines -------------------------------------------------------------

    @abstractmethod
    def block_complete(self, stream_id: int, block: bytes, ends: int) -> None:
        """A header block is complete; ``ends`` is not 0 if nothing follows it."""

    @abstractmethod
    def part(self, stream: H2State, data: bytes, size: int) -> None:
        """Some of a body has come, which costs the client's window ``size`` bytes."""

    @abstractmethod
    def ended(self, stream: H2State) -> None:
        """A request has ended."""

    @abstractmethod
    def feed(self, frame: bytes) -> None:
        """Let h2 take a frame, and handle its events."""

    @abstractmethod
    def dropped(self) -> None:
        """Something came that is not taken any more."""

    @abstractmethod
    def fail(self, fault: ConnectionFault) -> None:
        """The connection cannot go on."""

    @property
    def greeted(self) -> bool:
        """Whether the client has sent its preface."""
        return self._taken == len(PREFACE)

    # -- Bytes to frames -----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes from the client: split frames, and take each."""
        if self._deaf:
            self.dropped()
            return
        if self._input:
            self._input += data
            if len(self._input) < self._needed:
                return
            data = bytes(self._input)
            self._input.clear()
        self._flush_due = True  # there is one at the end
        try:
            self._take_frames(data)
        except ConnectionFault as fault:
            self._input.clear()
            self.fail(fault)
        self.flush()
        if self.write_paused:
            self.pause_reading()  # until what our answers to control frames make is taken

    def _take_frames(self, data: bytes) -> None:
        position, end = 0, len(data)
        if self._taken < len(PREFACE):
            position = self._take_preface(data)
        while end - position >= 9:
            length = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
            if length > MAX_FRAME_SIZE:
                text = f"a frame of {length} bytes is longer than {MAX_FRAME_SIZE}"
                raise ConnectionFault(ErrorCodes.FRAME_SIZE_ERROR, text)
            stop = position + 9 + length
            if stop > end:
                self._needed = 9 + length
                break
            kind = data[position + 3]
            if kind == HEADERS and self._settled and self._block is None:
                self._headers_frame(
                    data[position + 4],
                    int.from_bytes(data[position + 5 : position + 9]) & 0x7FFFFFFF,
                    data[position + 9 : stop],
                )
            elif (
                kind == DATA
                and length
                and not data[position + 4] & PADDED
                and self._block is None
                and self._part(data, position, stop)
            ):
                pass
            elif kind == WINDOW_UPDATE and length == 4 and self._block is None and self._settled:
                self._window_frame(data[position:stop])
            else:
                self._other_frame(kind, data[position:stop])
            position = stop
            if self._deaf:
                return
        else:
            self._needed = 9
        if position < end:
            self._input += data[position:] if position else data

    def _part(self, data: bytes, position: int, stop: int) -> bool:
        """Take a DATA frame; False if it is not quite in order, so that h2 must see it."""
        stream = self.streams.get(int.from_bytes(data[position + 5 : position + 9]) & 0x7FFFFFFF)
        ends = data[position + 4] & END_STREAM
        size = stop - position - 9
        if stream is None or not self.h2.receive_part(stream.stream_id, size, ends):
            return False
        self.part(stream, data[position + 9 : stop], size)
        if ends and stream.stream_id in self.streams:  # it may have been broken by its length
            self.ended(stream)
        return True

    def _window_frame(self, frame: bytes) -> None:
        """Take a WINDOW_UPDATE, of which downloads bring many."""
        stream_id = int.from_bytes(frame[5:9]) & 0x7FFFFFFF
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.with_h2(stream)
        elif stream_id:
            self._other_frame(WINDOW_UPDATE, frame)
            return
        increment = int.from_bytes(frame[9:]) & 0x7FFFFFFF
        if self.h2.receive_window(stream_id, increment):
            self._count_update(increment)
            self.window_opened(stream_id)
        else:
            self._other_frame(WINDOW_UPDATE, frame)

    def _take_preface(self, data: bytes) -> int:
        """Take what is left of the client's preface; return how many bytes that were."""
        piece = data[: len(PREFACE) - self._taken]
        if piece != PREFACE[self._taken : self._taken + len(piece)]:
            text = "the connection does not begin with the HTTP/2 preface"
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, text)
        self._taken += len(piece)
        if self.greeted:
            self._silent = False
        return len(piece)

    # -- Frames --------------------------------------------------------------------------------

    def _other_frame(self, kind: int, frame: bytes) -> None:
        """Vet a frame, and let h2 take it."""
        stream_id = int.from_bytes(frame[5:9]) & 0x7FFFFFFF
        if not self._settled:
            if kind != SETTINGS or frame[4] & ACK:
                text = "the first frame is not SETTINGS"
                raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, text)
            self._settled = True
            if not self.streams:
                self.set_read_deadline(self._keep_alive)
        elif self._block is not None or kind == CONTINUATION:
            self._continuation_frame(kind, stream_id, frame)
            return
        if kind == PING and len(frame) != 17:
            raise ConnectionFault(ErrorCodes.FRAME_SIZE_ERROR, "PING has 8 bytes")
        stream = self.streams.get(stream_id)
        if kind == DATA:
            if _is_empty(frame) or (stream is None and len(frame) < _SMALL_FRAME):
                self.count_control()
        elif kind != RST_STREAM or stream is None:
            self.count_control()
        if kind == SETTINGS:
            if frame[4] & ACK and len(frame) > 9:
                text = "an acknowledgement of SETTINGS has a payload"
                raise ConnectionFault(ErrorCodes.FRAME_SIZE_ERROR, text)
            self.count_control((len(frame) - 9) // _SETTINGS_SIZE)
            for each in self.streams.values():
                self.with_h2(each)  # as their windows may change
        elif stream is not None:
            self.with_h2(stream)
            fault = _stream_fault(kind, stream_id, frame)
            if fault is not None:
                self.give_up(stream, fault)
                self.count_reset()
                return
        elif kind == RST_STREAM and stream_id > self.h2.highest_inbound_stream_id:
            text = "RST_STREAM on a stream that is not open"
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, text)
        self.feed(frame)

    def _headers_frame(self, flags: int, stream_id: int, payload: bytes) -> None:
        """A header block begins."""
        if flags & (PADDED | HAS_PRIORITY):
            payload = self._strip(flags, stream_id, payload)
        if len(payload) > self._max_head_size:
            raise too_large()
        if flags & END_HEADERS:
            self.block_complete(stream_id, payload, flags & END_STREAM)
        else:
            self._block = bytearray(payload)
            self._block_stream, self._block_flags = stream_id, flags
            self.set_read_deadline(self.config.header_timeout)

    def _strip(self, flags: int, stream_id: int, payload: bytes) -> bytes:
        """Take padding and priority off a HEADERS frame (RFC 9113 section 6.2)."""
        start, end = 0, len(payload)
        if flags & PADDED:
            start = 1
            end -= payload[0] if payload else 1
        if flags & HAS_PRIORITY:
            start += 5
        if start > end:
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "the padding of HEADERS is too long")
        if flags & HAS_PRIORITY:
            depends_on = int.from_bytes(payload[start - 5 : start - 1]) & 0x7FFFFFFF
            if depends_on == stream_id:
                text = f"stream {stream_id} depends on itself"
                raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, text)
        return payload[start:end]

    def _continuation_frame(self, kind: int, stream_id: int, frame: bytes) -> None:
        """A header block goes on."""
        block = self._block
        if block is None or kind != CONTINUATION or stream_id != self._block_stream:
            text = "CONTINUATION without HEADERS" if block is None else "a header block is torn"
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, text)
        if len(frame) == 9 and not frame[4] & END_HEADERS:
            self.count_control()
        block += frame[9:]
        if len(block) > self._max_head_size:
            raise too_large()
        if frame[4] & END_HEADERS:
            self._block = None
            self._read_deadline = NEVER
            self.block_complete(stream_id, bytes(block), self._block_flags & END_STREAM)
            if not self.streams:
                self.streams_ended()

    # -- Counting ------------------------------------------------------------------------------

    def count_reset(self) -> None:
        """A stream was reset by the client, or by its fault."""
        if not self._resets.take(self.loop.time()):
            text = "too many streams were reset (h2_reset_burst, h2_reset_rate)"
            raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, text)

    def _count_update(self, increment: int) -> None:
        """A window was opened: that is free as far as it gives back what we have sent."""
        cost = max(increment, _LEAST_UPDATE)
        left = min(self.bytes_earned, _UPDATES_AT_MOST) - cost
        if left >= 0:
            self.bytes_earned = left
        else:
            self.count_control()

    def count_control(self, count: int = 1) -> None:
        """A frame came that asks for nothing; ``count`` says for how many it counts."""
        earned = _FREE_PER_REQUEST * self._requests + self.frames_earned
        self._free = min(self._free + earned - self._free_base, _FREE_AT_MOST)
        self._free_base = earned
        free = min(self._free, count)
        self._free -= free
        if count > free and not self._control.take(self.loop.time(), count - free):
            text = "too many control frames (h2_control_burst, h2_control_rate)"
            raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, text)


def _stream_fault(kind: int, stream_id: int, frame: bytes) -> int | None:
    """Return the code of what is a stream error for the RFC, and a connection error for h2."""
    zero_increment = kind == WINDOW_UPDATE and frame[9:] == bytes(4)
    on_itself = (
        kind == PRIORITY
        and len(frame) == 14
        and int.from_bytes(frame[9:13]) & 0x7FFFFFFF == stream_id
    )
    return ErrorCodes.PROTOCOL_ERROR if zero_increment or on_itself else None


def _is_empty(frame: bytes) -> bool:
    """Whether a DATA frame has no data and does not end its stream either."""
    if frame[4] & END_STREAM:
        return False
    return len(frame) == 9 or (frame[4] & PADDED != 0 and len(frame) == 10 + frame[9])


def too_large() -> ConnectionFault:
    """Return what ends a connection that is sent too large a header block."""
    text = "a header block is too large (max_head_size)"
    return ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, text)
