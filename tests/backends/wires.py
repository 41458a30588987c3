"""
Tunnels for tests: the client's end of a WebSocket, byte by byte, on both wires.

A ``Line`` is one tunnel. It sends what the test says, keeps what the server sends, and knows
nothing of WebSockets; frames are made and read by the functions here, which check what they read.
"""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.exceptions import PeerGone, WebSocketDisconnected
from kyoukai.stream import StreamState
from kyoukai.testing import MemoryServer
from kyoukai.ws.handshake import check_handshake
from kyoukai.ws.session import Session

from .http2.support import Exchange, dial
from .support import connect, turns

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

#: What a client says, beside what each wire has of its own.
FIELDS = (("sec-websocket-version", "13"),)
KEY = "AAECAwQFBgcICQoLDA0ODw=="
MASK = b"\x11\x82\x33\xf4"

Text = Iterable[tuple[str, str]]


# -- Frames ------------------------------------------------------------------------------------


def masked(data: bytes, mask: bytes = MASK) -> bytes:
    """Mask bytes, or unmask them."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data) ^ int.from_bytes(key)).to_bytes(size)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    form: int | None = None,
    size: int | None = None,
) -> bytes:
    """
    Return a client's frame.

    :param rsv: the reserved bits, 0 to 7
    :param mask: None for a frame that is not masked
    :param form: bytes of the length, 0, 2 or 8; the shortest by default
    :param size: what the length says; by default, the truth
    """
    length = len(payload) if size is None else size
    if form is None:
        form = 0 if length < 126 else 2 if length < 65536 else 8
    first = fin << 7 | rsv << 4 | opcode
    bit = 0x80 if mask is not None else 0
    if form == 0:
        head = bytes((first, bit | length))
    else:
        code = 126 if form == 2 else 127
        head = bytes((first, bit | code)) + length.to_bytes(form, "big")
    if mask is None:
        return head + payload
    if mask == bytes(4):
        return head + mask + payload
    return head + mask + masked(payload, mask)


def text(payload: str, **options: Any) -> bytes:
    """Return a client's frame with text."""
    return frame(TEXT, payload.encode(), **options)


def close_frame(code: int | None = 1000, reason: str | bytes = b"", **options: Any) -> bytes:
    """Return a client's Close frame."""
    reason = reason.encode() if isinstance(reason, str) else reason
    payload = b"" if code is None else struct.pack("!H", code) + reason
    return frame(CLOSE, payload, **options)


def read_frames(data: bytes, whole: bool = True) -> list[tuple[int, bytes]]:
    """
    Read a server's frames: opcodes, with 0x40 for a compressed one, and payloads.

    :param whole: whether all of it must be frames
    """
    found = []
    position = 0
    while position < len(data):
        assert not (whole and len(data) - position < 2), "a frame is not whole"
        if len(data) - position < 2:
            break
        first, size = data[position], data[position + 1]
        start = position + 2
        assert first & 0x80, "a fragment"
        assert not first & 0x30, "reserved bits"
        assert not size & 0x80, "a server's frame that is masked"
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[start : start + width], "big")
            start += width
            assert size >= (126 if width == 2 else 65536), "not the shortest form"
        if start + size > len(data):
            assert not whole, "a frame is not whole"
            break
        assert first & 0x0F in (TEXT, BINARY, CLOSE, PING, PONG)
        found.append((first & 0x4F, data[start : start + size]))
        position = start + size
    return found


def close_of(frames: list[tuple[int, bytes]]) -> tuple[int, str] | None:
    """Return code and reason of the Close frame, which must be the last one; None without one."""
    closes = [payload for opcode, payload in frames if opcode == CLOSE]
    if not closes:
        return None
    assert len(closes) == 1, "more than one Close frame"
    assert frames[-1][0] == CLOSE, "a frame after Close"
    payload = closes[0]
    if not payload:
        return 1005, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


# -- Lines -------------------------------------------------------------------------------------


class Line(ABC):
    """One tunnel, from the client's side."""

    version: str
    protocol_class: Any
    transport: Any
    protocol: Any

    def __init__(self) -> None:
        self._taken = 0

    @property
    @abstractmethod
    def data(self) -> bytes:
        """All that has come through the tunnel."""

    def take(self) -> list[tuple[int, bytes]]:
        """Return the frames that have come since the last call; there must be no part of one."""
        data = self.data[self._taken :]
        self._taken += len(data)
        return read_frames(data)

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """All frames that have come."""
        return read_frames(self.data, whole=False)

    @property
    def close(self) -> tuple[int, str] | None:
        """Code and reason of the server's Close frame."""
        return close_of(self.frames)


class Http1Line(Line):
    """A tunnel over HTTP/1.1: the connection."""

    version = "1.1"
    protocol_class = HttpToolsProtocol
    #: What the server may have taken before it stops reading.
    most_taken = 65536 + 262144

    def __init__(self, server: MemoryServer, **extra: Any) -> None:
        super().__init__()
        self.transport = connect(server, **extra).transport
        self.protocol = self.transport.protocol
        self._data = bytearray()
        self._status: int | None = None
        self._headers: dict[str, str] = {}

    def ask(self, target: str = "/", headers: Text = FIELDS, after: bytes = b"") -> None:
        """Send a handshake, and something right behind it."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self.transport.feed(
            f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Key: {KEY}\r\n{lines}\r\n".encode()
            + after
        )

    def _advance(self) -> None:
        self._data += self.transport.take() if not self.transport.held else b""
        if self._status is None and b"\r\n\r\n" in self._data:
            head, _, rest = bytes(self._data).partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            self._status = int(first.split()[1])
            for line in lines:
                name, _, value = line.partition(": ")
                self._headers[name.lower()] = value
            self._data = bytearray(rest)

    @property
    def status(self) -> int | None:
        self._advance()
        return self._status

    @property
    def headers(self) -> dict[str, str]:
        self._advance()
        return self._headers

    @property
    def data(self) -> bytes:
        self._advance()
        return b"" if self._status is None else bytes(self._data)

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.transport.feed(data)

    def end(self) -> None:
        """Send no more."""
        self.transport.feed_eof()

    def leave(self) -> None:
        """Be gone."""
        if not self.transport.closed:
            self.transport.lose(ConnectionResetError("gone"))

    def hold(self) -> None:
        """Take nothing of what comes."""
        self.data  # noqa: B018 - what has come before is taken
        self.transport.hold()

    def release(self) -> None:
        """Take what has come, and go on."""
        self._data += self.transport.release()

    def stop(self) -> None:
        """Let nothing more of the tunnel come."""
        self.hold()

    @property
    def untaken(self) -> int:
        """Bytes that the server has not taken from us."""
        return int(self.transport.untaken)

    @property
    def ended(self) -> bool:
        """Whether the server has closed in good order."""
        transport = self.transport
        return (transport.eof_written or transport.closed) and not transport.aborted

    @property
    def cut(self) -> bool:
        """Whether the server has reset the connection."""
        return bool(self.transport.aborted)


class Http2Line(Line):
    """A tunnel over HTTP/2: a stream that the connection has alone."""

    version = "2"
    protocol_class = H2KyoukaiProtocol
    most_taken = 262144

    def __init__(self, server: MemoryServer, client: Any = (), **extra: Any) -> None:
        super().__init__()
        self.client, self.transport = dial(server, extra=extra, **dict(client))
        self.protocol = self.transport.protocol
        self.exchange: Exchange

    def ask(self, target: str = "/", headers: Text = FIELDS, after: bytes = b"") -> None:
        """Send a handshake, and something right behind it."""
        fields = [(":protocol", "websocket"), *headers]
        self.exchange = self.client.begin("CONNECT", target, fields)
        if after:
            self.exchange.data(after)

    @property
    def status(self) -> int | None:
        return self.exchange.response.status or None

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.exchange.response.headers.items())

    @property
    def data(self) -> bytes:
        return bytes(self.exchange.body)

    def send(self, data: bytes) -> None:
        """Send bytes, those that the windows do not let pass later."""
        for start in range(0, len(data), 16384):
            self.exchange.data(data[start : start + 16384])

    def end(self) -> None:
        """Send no more."""
        self.exchange.end()

    def leave(self) -> None:
        """Be gone."""
        self.exchange.reset()

    def hold(self) -> None:
        """Take nothing of what comes."""
        self.transport.hold()

    def release(self) -> None:
        """Take what has come, and go on."""
        self.transport.let_go()

    def stop(self) -> None:
        """Let nothing more of the tunnel come, once its window is used up."""
        self.client.gives_credit = False

    @property
    def untaken(self) -> int:
        """Bytes that the windows have not let pass."""
        return sum(len(data) for data, _ in self.exchange.waiting)

    @property
    def ended(self) -> bool:
        """Whether the server has closed in good order."""
        return self.exchange.done

    @property
    def cut(self) -> bool:
        """Whether the server has reset the stream."""
        return self.exchange.gone


LINES: dict[str, Any] = {"http1": Http1Line, "http2": Http2Line}

#: For tests that hold on both wires; they take ``wire``.
both = pytest.mark.parametrize("wire", LINES.values(), ids=LINES)


# -- Sessions ----------------------------------------------------------------------------------


class Booth:
    """
    An application that accepts every handshake, and leaves the session to the test.

    :param max_queue: messages that may wait to be received
    :param extensions: makes those of a session
    """

    def __init__(self, max_queue: int = 4, extensions: Callable[[], Any] = list) -> None:
        self.sessions: asyncio.Queue[Session] = asyncio.Queue()
        self.max_queue = max_queue
        self.extensions = extensions
        #: Streams whose application has returned.
        self.left: list[StreamState] = []

    async def __call__(self, stream: StreamState) -> None:
        if stream.head.protocol != "websocket":
            body = await stream.read_async()
            await stream.send_response(200, (), b"%b %b" % (stream.head.raw_path, body))
            return
        config = stream.protocol.config  # type: ignore[attr-defined]
        answer = check_handshake(stream, config).answer(None)
        session = Session(stream, config, self.extensions(), self.max_queue)
        try:
            stream.accept_upgrade(answer, session)
        except PeerGone:
            return
        stream.cancel_on_disconnect = False
        session.begin()
        self.sessions.put_nowait(session)
        await session.wait_over()
        self.left.append(stream)


@asynccontextmanager
async def opened(
    wire: Any, *, max_queue: int = 4, extensions: Any = list, client: Any = (), **settings: Any
) -> AsyncIterator[tuple[Session, Any]]:
    """A session that is open, and its client's line."""
    booth = Booth(max_queue, extensions)
    async with MemoryServer(booth, wire.protocol_class, **settings) as server:
        line = wire(server, client=client) if client else wire(server)
        line.ask()
        session = await booth.sessions.get()
        await turns()
        assert line.status == (200 if wire is Http2Line else 101)
        yield session, line


async def received(session: Session) -> list[str | bytes]:
    """Receive all that there is, and return it once there will be no more."""
    messages = []
    try:
        while True:
            messages.append(await session.receive())
    except WebSocketDisconnected:
        return messages
