"""HTTP/2 frames by hand, and a client that knows no more than these: what tests send is exact."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import hpack

from kyoukai.testing import MemoryServer

from .support import StrictTransport, turns

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION, PRIORITY_UPDATE = 8, 9, 16

#: What SETTINGS are about.
(
    HEADER_TABLE_SIZE,
    ENABLE_PUSH,
    MAX_CONCURRENT_STREAMS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
) = range(1, 7)
NO_RFC7540_PRIORITIES = 9

END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY, ACK = 1, 4, 8, 32, 1

(
    NO_ERROR,
    PROTOCOL_ERROR,
    INTERNAL_ERROR,
    FLOW_CONTROL_ERROR,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    FRAME_SIZE_ERROR,
    REFUSED_STREAM,
    CANCEL,
    COMPRESSION_ERROR,
    CONNECT_ERROR,
    ENHANCE_YOUR_CALM,
) = range(12)

Pairs = Iterable[tuple[bytes, bytes]]

GET = (
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"localhost"),
    (b":path", b"/"),
)


class Frame(NamedTuple):
    """A frame as it was received."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        return int.from_bytes(self.payload[4:8] if self.kind == GOAWAY else self.payload[:4])

    @property
    def number(self) -> int:
        """The first four bytes: the increment of WINDOW_UPDATE, the last stream of GOAWAY."""
        return int.from_bytes(self.payload[:4]) & 0x7FFFFFFF

    @property
    def settings(self) -> dict[int, int]:
        """The pairs of SETTINGS."""
        return dict(struct.iter_unpack(">HL", self.payload))


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame."""
    return struct.pack(">L", len(payload))[1:] + struct.pack(">BBL", kind, flags, stream) + payload


def settings(pairs: dict[int, int] | Iterable[tuple[int, int]] = (), ack: bool = False) -> bytes:
    """Return a SETTINGS frame."""
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return frame(SETTINGS, ACK * ack, 0, b"".join(struct.pack(">HL", *pair) for pair in items))


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">L", increment))


def rst_stream(stream: int, code: int = CANCEL) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, struct.pack(">L", code))


def data(stream: int, payload: bytes = b"", end: bool = False, padding: int | None = None) -> bytes:
    """Return a DATA frame."""
    flags = END_STREAM * end
    if padding is not None:
        flags |= PADDED
        payload = bytes([padding]) + payload + bytes(padding)
    return frame(DATA, flags, stream, payload)


def literals(headers: Pairs) -> bytes:
    """Return a header block of literals that change no table (RFC 7541 section 6.2.2)."""

    def integer(value: int, bits: int) -> bytes:
        most = (1 << bits) - 1
        if value < most:
            return bytes([value])
        out, value = [most], value - most
        while value >= 128:
            out.append(value % 128 + 128)
            value //= 128
        return bytes([*out, value])

    return b"".join(
        b"\0" + integer(len(name), 7) + name + integer(len(value), 7) + value
        for name, value in headers
    )


def headers(stream: int, pairs: Pairs = GET, end: bool = True, flags: int = END_HEADERS) -> bytes:
    """Return a HEADERS frame with a block of literals."""
    return frame(HEADERS, flags | END_STREAM * end, stream, literals(pairs))


def request(path: bytes = b"/", method: bytes = b"GET", extra: Pairs = ()) -> list[Any]:
    """Return the headers of a request."""
    return [
        (b":method", method),
        (b":scheme", b"http"),
        (b":authority", b"localhost"),
        (b":path", path),
        *extra,
    ]


class FrameClient:
    """
    A connection to a server, frame by frame.

    :param server: whose ``protocol_class`` speaks HTTP/2
    :param greet: whether to send the preface, SETTINGS and the ACK of the server's
    """

    def __init__(self, server: MemoryServer, greet: bool = True, **extra: Any) -> None:
        self.protocol: Any = server.protocol_class(server)
        self.transport = StrictTransport(self.protocol, extra)
        self.protocol.connection_made(self.transport)
        self.decoder = hpack.Decoder()
        #: What was received and not asked for yet.
        self.frames: deque[Frame] = deque()
        self._bytes = b""
        if greet:
            self.send(PREFACE, settings(), settings(ack=True))
            self.take()
            self.frames.clear()

    def send(self, *frames: bytes) -> None:
        """Send frames, in one piece."""
        self.transport.feed(b"".join(frames))

    def take(self) -> list[Frame]:
        """Parse what the server has written, and return all frames that were not asked for."""
        self._bytes += self.transport.take()
        while len(self._bytes) >= 9:
            length = int.from_bytes(self._bytes[:3])
            if len(self._bytes) < 9 + length:
                break
            kind, flags, stream = struct.unpack(">BBL", self._bytes[3:9])
            self.frames.append(Frame(kind, flags, stream, self._bytes[9 : 9 + length]))
            self._bytes = self._bytes[9 + length :]
        return list(self.frames)

    async def next(self, *kinds: int, stream: int | None = None) -> Frame:
        """
        Wait for the next frame of these kinds (all but SETTINGS and WINDOW_UPDATE by default).

        :raises ConnectionError: if the server closes instead
        """
        while True:
            self.take()
            for found in self.frames:
                wanted = found.kind in kinds if kinds else found.kind not in (4, 8)
                if wanted and stream in (None, found.stream):
                    self.frames.remove(found)
                    return found
            if self.transport.closed or self.transport.eof_written:
                raise ConnectionError("the server closed the connection")
            self.transport.changed.clear()
            await self.transport.changed.wait()

    async def answer(self, stream: int) -> tuple[int, dict[bytes, bytes], bytes]:
        """
        Wait for a whole answer: status, headers and body.

        :raises ConnectionError: if the stream is reset, or the connection closed
        """
        head = await self.next(HEADERS, RST_STREAM, GOAWAY, stream=None if stream == 0 else stream)
        if head.kind != HEADERS:
            raise ConnectionError(f"the stream was reset: {head.code}")
        pairs = self.decode(head)
        body = b""
        last = head
        while not last.flags & END_STREAM:
            last = await self.next(HEADERS, DATA, RST_STREAM, stream=stream)
            if last.kind == RST_STREAM:
                raise ConnectionError(f"the stream was reset: {last.code}")
            if last.kind == DATA:
                body += last.payload
        found = dict(pairs)
        return int(found[b":status"]), found, body

    def decode(self, head: Frame) -> list[tuple[bytes, bytes]]:
        """Decode the block of a HEADERS frame."""
        return [(bytes(n), bytes(v)) for n, v in self.decoder.decode(head.payload, raw=True)]

    async def settled(self) -> list[Frame]:
        """Let the server work, then return what it has sent."""
        await turns()
        return self.take()

    @property
    def closed(self) -> bool:
        """Whether the server has closed its direction."""
        return self.transport.closed or self.transport.eof_written
