"""
HTTP/1.x request bodies: framing, flow control and the rate that a client must keep up.

The half of the parser's work that comes after the head. Bodies are fed to the parser piece by
piece, so that it never sees the message after them.
"""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Any

import httptools

from kyoukai.backends.base import NEVER
from kyoukai.backends.connections import Component
from kyoukai.backends.http1 import DISCARD_LIMIT, SLICE, H1State, Http1Protocol
from kyoukai.exceptions import BodyMalformed, BodyTimeout
from kyoukai.stream import CLOSED, StreamState

if TYPE_CHECKING:
    from asphalt.core import Context

    from kyoukai.rules import Header

__all__ = ("BODY", "CHUNKED", "DROPPED", "HEAD", "HELD", "TUNNEL", "BodyReceiver", "Phase")


class Phase(Enum):
    """What the next bytes from the client are."""

    HEAD = "head"
    BODY = "body"
    CHUNKED = "chunked"
    DROPPED = "dropped"
    #: Unknown until a request for an upgrade is answered.
    HELD = "held"
    TUNNEL = "tunnel"


HEAD, BODY, CHUNKED, DROPPED, HELD, TUNNEL = Phase

#: Seconds between two looks at the rate of a body.
_RATE_TICK = 1.0
#: Bytes of chunk framing that are free for each chunk.
_CHUNK_ALLOWANCE = 16


class BodyReceiver(Http1Protocol):
    """
    One HTTP/1.x connection, from the end of a request's head to the end of its body.

    :param component: what it serves
    :param parent_context: the Asphalt context of its requests' contexts
    """

    __slots__ = (
        "_asked",
        "_buffer",
        "_chunk_bytes",
        "_chunks",
        "_discarded",
        "_excess",
        "_headers",
        "_incoming",
        "_looked",
        "_message_done",
        "_parser",
        "_parsing",
        "_phase",
        "_pieces",
        "_remaining",
        "_tail",
        "_trailer_bytes",
    )

    def __init__(self, component: Component, parent_context: Context | None = None) -> None:
        super().__init__(component, parent_context)
        self._asked = 0.0
        self._buffer = bytearray()
        self._chunk_bytes = 0
        self._chunks = 0
        self._discarded = 0
        self._excess = 0
        self._headers: list[Header] = []
        #: The request that the next bytes belong to.
        self._incoming: H1State | None = None
        self._looked = 0.0
        self._message_done = False
        self._parser: Any = httptools.HttpRequestParser(self)
        self._parsing = False
        self._phase = HEAD
        self._pieces: list[bytes] = []
        self._remaining = 0
        self._tail = b""
        self._trailer_bytes = 0

    @abstractmethod
    def _reset_head(self) -> None:
        """Forget the last head: another may begin."""

    @abstractmethod
    def release_held(self) -> None:
        """Answer a request that was held back, as its body will not be complete."""

    # -- Framing -------------------------------------------------------------------------------

    def _start_body(self, stream: H1State, chunked: bool, length: int, expect: bool) -> None:
        self._incoming = stream
        self._phase = CHUNKED if chunked else BODY
        self._remaining = length
        self._discarded = self._excess = self._trailer_bytes = 0
        self._tail = b""
        self._asked = 0.0
        self._looked = self.loop.time()
        stream.continue_expected = expect and stream.head.http_version == "1.1" and not self._buffer
        self.set_read_deadline(_RATE_TICK)

    def new_parser(self, chunked: bool, length: int | None) -> None:
        """An upgrade was not taken: its parser cannot go on, so a fresh one frames the body."""
        self._parser = httptools.HttpRequestParser(self)
        if chunked:
            self._parser.feed_data(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        elif length:
            self._parser.feed_data(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % length)
        self._reset_head()

    def _chunked_end(self, buffer: bytearray) -> int:
        """
        Return how much of the buffer the parser may have.

        A chunked message ends with a blank line: up to the next one there is no second message.
        """
        joint = (self._tail + buffer[:3]).find(b"\r\n\r\n")
        if joint >= 0:
            return joint + 4 - len(self._tail)
        end = buffer.find(b"\r\n\r\n", 0, SLICE)
        return end + 4 if end >= 0 else min(len(buffer), SLICE)

    def _feed_chunks(self, data: bytes) -> None:
        config = self.config
        self._chunk_bytes = self._chunks = 0
        trailers = self._trailer_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._deliver()
            self._body_broken("The chunked body is malformed.")
            return
        self._deliver()
        framing = len(data) - self._chunk_bytes - (self._trailer_bytes - trailers)
        free = _CHUNK_ALLOWANCE * self._chunks + 2 * self._chunk_bytes
        self._excess = max(0, self._excess + framing - free)
        if self._excess > config.max_chunk_overhead:
            self._body_broken("The chunked body has too much framing.")
        elif len(self._headers) > config.max_headers or self._trailer_bytes > config.max_head_size:
            self._body_broken("The request's trailers are too large.")
        elif self._message_done:
            self._message_complete()
        else:
            self._tail = (self._tail + data[-3:])[-3:]

    def _deliver(self) -> None:
        """Hand over what the parser has made of a slice, in one piece."""
        pieces, self._pieces = self._pieces, []
        if pieces and self._incoming is not None:
            self._incoming.insert_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _message_complete(self) -> None:
        stream = self._incoming
        if stream is None:
            return  # too much of it came after the answer: the connection is closing
        self._incoming = None
        if self._trailer_bytes:
            # The parser takes "Connection: close" among the trailers for its own.
            self._parser = httptools.HttpRequestParser(self)
        self._phase = DROPPED if stream.closes else HEAD
        self._read_deadline = NEVER
        if self._headers:
            stream.trailers = self._headers
        self._reset_head()
        stream.continue_expected = False
        stream.stream_complete()
        if stream.sending is CLOSED:
            self.exchange_complete(stream)

    def _body_broken(self, detail: str) -> None:
        """The framing is lost: nothing that follows can be told apart."""
        stream = self._incoming
        if stream is None:
            return
        self._phase = DROPPED
        self._read_deadline = NEVER
        stream.closes = True
        stream.body_failed(BodyMalformed(detail))
        self.release_held()
        if stream.sending is CLOSED:
            self.linger()

    # -- Flow control and rate -----------------------------------------------------------------

    def _check_reading(self) -> None:
        """Stop reading while the application is behind; go on when it is not."""
        incoming = self._incoming
        # Bytes that wait for more of their own kind are bounded elsewhere, by max_head_size.
        full = len(self._streams) >= self.config.max_pipelined or self._phase is HELD
        waiting = len(self._buffer) if full else 0
        if incoming is not None:
            waiting += incoming.buffered
        limit = self.config.read_buffer_size
        if waiting > limit:
            if not self.reading_paused:
                self._count_asked()
                self.pause_reading()
        elif self.reading_paused and waiting <= limit // 2:
            self._looked = self.loop.time()
            self.resume_reading()

    def acknowledge(self, stream: StreamState, size: int) -> None:
        """The application has consumed some of a body, or nobody will."""
        if stream is not self._incoming:
            return
        if stream.sending is CLOSED and self._phase is not TUNNEL:
            self._discarded += size
            if self._discarded > DISCARD_LIMIT and not self._lingering:
                self.linger()
                return
        if self.reading_paused and not self._parsing:
            self._check_reading()

    def _count_asked(self) -> None:
        """Add the time since the last look, if the server was asking for the body in it."""
        now = self.loop.time()
        stream = self._incoming
        if not self.reading_paused and stream is not None and not stream.continue_expected:
            self._asked += now - self._looked
        self._looked = now

    def _check_rate(self, stream: H1State) -> None:
        """Hold the client to ``min_body_rate`` over the time in which the server was asking."""
        self._count_asked()
        slow = stream.received < self.config.min_body_rate * self._asked
        if slow and self._asked >= self.config.min_body_grace:
            self._phase = DROPPED
            stream.closes = True
            stream.body_failed(BodyTimeout("the body arrives too slowly"))
            self.release_held()
        else:
            self.set_read_deadline(_RATE_TICK)

    def body_left(self) -> int:
        """Return how many bytes of the request's body are known to come, 0 if unknown."""
        return self._remaining if self._phase is BODY else 0

    def read_on(self) -> None:
        """The answer came before the end of its request: drop the rest, within limits."""
        self.set_read_deadline(self.config.linger_timeout)
        self._check_reading()

    # -- Parser callbacks ----------------------------------------------------------------------

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._chunk_bytes += len(data)
        self._pieces.append(data)

    def on_chunk_header(self) -> None:
        """The size of a chunk has been read."""
        self._chunks += 1

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._message_done = True
