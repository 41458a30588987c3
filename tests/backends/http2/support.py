"""
A whole HTTP/2 client, which keeps the rules and holds the server to them.

It sends only what the server's windows allow, gives credit for what it takes, and asserts that the
server does the same. ``frames.FrameClient`` is for everything that a client should not do.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import hpack

from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.memory import ClientResponse
from kyoukai.testing import MemoryServer

from .. import frames as f
from ..support import Stage, StrictTransport

#: What may not be in a head on HTTP/2 (RFC 9113 section 8.2.2).
CONNECTION_SPECIFIC = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
    b"upgrade",
}

Text = Iterable[tuple[str, str]]


class Exchange:
    """A request, as its client sees it."""

    def __init__(self, client: Client, number: int, method: str) -> None:
        self.client = client
        self.number = number
        self.method = method
        self.response = ClientResponse()
        #: What we may send, and what the server may send.
        self.window = client.initial_window
        self.credit = client.own_window
        #: Parts of the body that wait for the window, and whether they are the last.
        self.waiting: deque[tuple[bytes, bool]] = deque()
        #: Whether we have ended it, the server has, and the server has reset it.
        self.ended = self.done = self.gone = False
        #: The code of RST_STREAM, whoever sent it.
        self.reset_code: int | None = None
        self.body = bytearray()
        self._has_head = False

    # -- What we send --------------------------------------------------------------------------

    def data(self, data: bytes, end: bool = False) -> None:
        """Send some of the body, as soon as the windows allow."""
        self.waiting.append((data, end))
        self.flush()

    def end(self, trailers: Text = ()) -> None:
        """End the body."""
        pairs = [(name.lower().encode(), value.encode()) for name, value in trailers]
        if not pairs:
            self.data(b"", True)
            return
        assert not self.waiting, "trailers would overtake the body"
        self.client.send_head(self.number, pairs, True)
        self.ended = True

    def flush(self) -> None:
        """Send what the windows allow."""
        client = self.client
        while self.waiting and self.reset_code is None:
            data, end = self.waiting[0]
            size = min(len(data), self.window, client.window, client.frame_size)
            if size <= 0 and data:
                return
            if size < len(data):
                self.waiting[0] = (data[size:], end)
                data, end = data[:size], False
            else:
                self.waiting.popleft()
            self.window -= size
            client.window -= size
            self.ended = self.ended or end
            client.send(f.data(self.number, data, end))

    def reset(self, code: int = f.CANCEL) -> None:
        """Reset the stream."""
        if self.reset_code is None:
            self.reset_code = code
            self.client.send(f.rst_stream(self.number, code))

    # -- What comes ----------------------------------------------------------------------------

    def take_head(self, pairs: list[tuple[bytes, bytes]], end: bool) -> None:
        for name, _ in pairs:
            assert name == name.lower(), name
            assert name not in CONNECTION_SPECIFIC, name
        for single in (b"content-length", b"content-type", b"date", b"server"):
            assert sum(name == single for name, _ in pairs) <= 1, single
        if self._has_head:
            assert end, "trailers that end nothing"
            assert not any(name.startswith(b":") for name, _ in pairs)
            self._add(self.response.trailers, pairs)
        else:
            assert pairs[0][0] == b":status"
            assert not any(name.startswith(b":") for name, _ in pairs[1:])
            status = int(pairs[0][1])
            assert status != 101
            if status < 200:
                assert not end
                interim = ClientResponse()
                self._add(interim.headers, pairs[1:])
                self.response.informational.append((status, interim.headers))
                return
            self._has_head = True
            self.response.status = status
            self._add(self.response.headers, pairs[1:])
        if end:
            self._finish()

    def take_data(self, frame: f.Frame) -> None:
        size = len(frame.payload)
        assert self._has_head, "data before the head"
        self.credit -= size
        assert self.credit >= 0, "more than the stream's window"
        self.body += frame.payload
        if frame.flags & f.END_STREAM:
            self._finish()
        elif self.client.gives_credit and size:
            self.credit += size
            self.client.send(f.window_update(self.number, size))

    def _finish(self) -> None:
        self.done = True
        response = self.response
        response.body = bytes(self.body)
        length = response.headers.get("content-length", type=int)
        if self.method == "HEAD" or response.status in (204, 304):
            assert not self.body
        elif length is not None:
            assert length == len(self.body)

    @staticmethod
    def _add(headers: Any, pairs: list[tuple[bytes, bytes]]) -> None:
        for name, value in pairs:
            headers.add(name.decode("latin-1"), value.decode("latin-1"))

    async def finished(self) -> ClientResponse:
        """
        Wait for the whole answer.

        :raises ConnectionError: if the stream is reset or the connection closed before that
        """
        while not self.done:
            if self.reset_code is not None:
                raise ConnectionError(f"the stream was reset: {self.reset_code}")
            if self.client.closed:
                raise ConnectionError("the connection is closed")
            await self.client.event()
        return self.response


class Client:
    """
    A client, whatever its bytes travel on.

    :param write: takes bytes for the server
    :param window: what SETTINGS say of the streams' windows
    :param connection_window: what the connection's window is raised to
    :param gives_credit: whether what is taken may come again
    :param secure: whether the scheme is https
    :param upgraded: whether stream 1 is half closed already, after ``Upgrade: h2c``
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        *,
        window: int = 65535,
        connection_window: int = 65535,
        gives_credit: bool = True,
        secure: bool = False,
        upgraded: bool = False,
    ) -> None:
        self._write = write
        self.gives_credit = gives_credit
        self.scheme = "https" if secure else "http"
        self.decoder = hpack.Decoder()
        self.encoder = hpack.Encoder()
        self.exchanges: dict[int, Exchange] = {}
        #: Windows for what we send, as the server has announced and updated them.
        self.initial_window = self.window = 65535
        self.frame_size = 16384
        #: The most that ``window`` may come to, where the test knows.
        self.most = 2**31 - 1
        #: The same for what the server sends.
        self.own_window = window
        self.credit = connection_window
        self.server_settings: dict[int, int] = {}
        #: Every frame that came.
        self.frames: list[f.Frame] = []
        self.goaways: list[f.Frame] = []
        self.closed = False
        self._next = 1
        self._bytes = b""
        self._block: list[Any] = []
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._handlers = {
            f.DATA: self._data,
            f.HEADERS: self._headers,
            f.RST_STREAM: self._rst_stream,
            f.SETTINGS: self._settings,
            f.PING: self._ping,
            f.GOAWAY: self.goaways.append,
            f.WINDOW_UPDATE: self._window_update,
            f.CONTINUATION: self._headers,
        }
        if upgraded:
            exchange = self.exchanges[1] = Exchange(self, 1, "GET")
            exchange.ended = True
            self._next = 3
        greeting = f.PREFACE + f.settings({f.ENABLE_PUSH: 0, f.INITIAL_WINDOW_SIZE: window})
        if connection_window > 65535:
            greeting += f.window_update(0, connection_window - 65535)
        self.send(greeting)

    # -- What we send --------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send frames."""
        if not self.closed:
            self._write(data)

    def send_head(self, number: int, pairs: Iterable[tuple[Any, Any]], end: bool) -> None:
        """Send a header block, in as many frames as it needs."""
        block = self.encoder.encode(list(pairs))
        kind, flags = f.HEADERS, f.END_STREAM * end
        while True:
            piece, block = block[: self.frame_size], block[self.frame_size :]
            self.send(f.frame(kind, flags | f.END_HEADERS * (not block), number, piece))
            if not block:
                return
            kind, flags = f.CONTINUATION, 0

    def begin(
        self, method: str = "POST", target: str = "/", headers: Text = (), end: bool = False
    ) -> Exchange:
        """Send a head whose body follows, unless it is the end."""
        number, self._next = self._next, self._next + 2
        exchange = self.exchanges[number] = Exchange(self, number, method)
        exchange.ended = end
        pairs = [
            (":method", method),
            (":scheme", self.scheme),
            (":authority", "localhost"),
            (":path", target),
            *((name.lower(), value) for name, value in headers),
        ]
        self.send_head(number, pairs, end)
        return exchange

    def request(
        self,
        method: str = "GET",
        target: str = "/",
        headers: Text = (),
        body: bytes | None = None,
        chunks: Iterable[bytes] | None = None,
        trailers: Text = (),
    ) -> Exchange:
        """
        Send a whole request; a body waits where the windows are small.

        :param body: a body, sent with its length
        :param chunks: a body, sent in these frames
        """
        pairs = list(headers)
        if body is not None:
            pairs.append(("content-length", str(len(body))))
        parts = list(chunks or ()) + ([body] if body else [])
        exchange = self.begin(method, target, pairs, not parts and not trailers)
        for index, part in enumerate(parts):
            exchange.data(part, not trailers and index == len(parts) - 1)
        if trailers:
            exchange.end(trailers)
        return exchange

    async def get(self, target: str = "/", **options: Any) -> ClientResponse:
        """Send a request and wait for its answer."""
        return await self.request("GET", target, **options).finished()

    # -- What comes ----------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Take bytes from the server."""
        self._bytes += data
        while len(self._bytes) >= 9:
            length = int.from_bytes(self._bytes[:3])
            assert length <= 16384, "a frame larger than we allow"
            if len(self._bytes) < 9 + length:
                break
            kind, flags = self._bytes[3:5]
            stream = int.from_bytes(self._bytes[5:9])
            frame = f.Frame(kind, flags, stream, self._bytes[9 : 9 + length])
            self._bytes = self._bytes[9 + length :]
            if not self.frames:
                assert kind == f.SETTINGS, "the server's first frame is not SETTINGS"
            self.frames.append(frame)
            assert not self._block or (kind, stream) == (f.CONTINUATION, self._block[0].stream)
            self._handlers[kind](frame)
        self._changed.set()

    def lost(self) -> None:
        """The connection is closed."""
        self.closed = True
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        """The server broke a rule: tell whoever waits."""
        self._failure = error
        self._changed.set()

    async def event(self) -> None:
        """Wait until something comes."""
        if self._failure is None:
            self._changed.clear()
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure

    async def ended(self) -> None:
        """Wait until the server closes."""
        while not self.closed:
            await self.event()

    def _data(self, frame: f.Frame) -> None:
        exchange = self._open_exchange(frame)
        size = len(frame.payload)
        self.credit -= size
        assert self.credit >= 0, "more than the connection's window"
        if self.gives_credit and size:
            self.credit += size
            self.send(f.window_update(0, size))
        if exchange.reset_code is None:
            exchange.take_data(frame)

    def _headers(self, frame: f.Frame) -> None:
        self._block.append(frame)
        if frame.flags & f.END_HEADERS:
            first = self._block[0]
            block = b"".join([part.payload for part in self._block])
            self._block = []
            pairs = [(bytes(n), bytes(v)) for n, v in self.decoder.decode(block, raw=True)]
            exchange = self._open_exchange(frame)
            if exchange.reset_code is None:
                exchange.take_head(pairs, bool(first.flags & f.END_STREAM))

    def _open_exchange(self, frame: f.Frame) -> Exchange:
        exchange = self.exchanges[frame.stream]
        assert not exchange.done, "a frame after the end of the stream"
        assert not exchange.gone, "a frame after the stream's reset"
        return exchange

    def _rst_stream(self, frame: f.Frame) -> None:
        exchange = self.exchanges[frame.stream]
        assert not exchange.gone, "a second reset"
        exchange.gone = True
        if exchange.reset_code is None:
            exchange.reset_code = frame.code

    def _settings(self, frame: f.Frame) -> None:
        if frame.flags & f.ACK:
            return
        pairs = frame.settings
        self.server_settings.update(pairs)
        initial = pairs.get(f.INITIAL_WINDOW_SIZE, self.initial_window)
        change, self.initial_window = initial - self.initial_window, initial
        for exchange in self.exchanges.values():
            exchange.window += change
        self.frame_size = pairs.get(f.MAX_FRAME_SIZE, self.frame_size)
        self.send(f.settings(ack=True))
        self._flush()

    def _ping(self, frame: f.Frame) -> None:
        if not frame.flags & f.ACK:
            self.send(f.frame(f.PING, f.ACK, 0, frame.payload))

    def _window_update(self, frame: f.Frame) -> None:
        assert frame.number, "a WINDOW_UPDATE of nothing"
        if frame.stream:
            exchange = self.exchanges[frame.stream]
            exchange.window += frame.number
            assert exchange.window <= self.initial_window, "credit for what was not sent"
        else:
            self.window += frame.number
            assert self.window <= self.most, "credit for what was not sent"
        self._flush()

    def _flush(self) -> None:
        for exchange in tuple(self.exchanges.values()):
            exchange.flush()


class PumpingTransport(StrictTransport):
    """Gives what the server writes to a client, in the loop's next turn."""

    client: Client
    _scheduled = False

    def write(self, data: Any) -> None:
        super().write(data)
        self.schedule()

    def write_eof(self) -> None:
        super().write_eof()
        self.schedule()

    def _lose(self, error: Exception | None) -> None:
        super()._lose(error)
        self._pump()

    def schedule(self) -> None:
        """Let the client take what is there, unless it holds."""
        if not self._scheduled and not self.held:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        if not self.held or self.closed:
            try:
                self.client.received(self.take())
            except BaseException as error:
                self.client.fail(error)
                raise  # into the log, as the test may not be waiting
            if self.closed or self.eof_written:
                self.client.lost()

    def let_go(self) -> None:
        """End what ``hold`` began."""
        self.output[:0] = self.release()
        self.schedule()


def dial(server: MemoryServer, **options: Any) -> tuple[Client, PumpingTransport]:
    """
    Connect a client to a server in memory.

    :param options: those of :class:`Client`, and in ``extra`` those of the transport
    """
    protocol = server.protocol_class(server)
    transport = PumpingTransport(protocol, options.pop("extra", None))
    protocol.connection_made(transport)
    transport.client = Client(transport.feed, **options)
    transport.client.most = server.config.h2_connection_window
    transport.schedule()
    return transport.client, transport


# -- What tests share --------------------------------------------------------------------------

POST = f.request(method=b"POST")

#: The stream id of a GOAWAY that only announces the end.
LAST = 2**31 - 1


async def begin_shutdown(client: f.FrameClient) -> f.Frame:
    """Stop the server; return the PING that follows the first GOAWAY."""
    client.protocol.connections.shutdown()
    goaway = await client.next(f.GOAWAY)
    assert (goaway.number, goaway.code) == (LAST, f.NO_ERROR)
    ping = await client.next(f.PING)
    assert ping.flags == 0
    return ping


@asynccontextmanager
async def serving(app: Any = None, **settings: Any) -> AsyncIterator[tuple[Any, f.FrameClient]]:
    """A server, and a client of frames that has greeted it."""
    app = app or Stage()
    async with MemoryServer(app, H2KyoukaiProtocol, **settings) as server:
        yield app, f.FrameClient(server)


@asynccontextmanager
async def serving_client(
    app: Any = None, client: Any = (), **settings: Any
) -> AsyncIterator[tuple[Any, Client, PumpingTransport]]:
    """A server, and a client that keeps the rules and checks that the server does."""
    app = app or Stage()
    async with MemoryServer(app, H2KyoukaiProtocol, **settings) as server:
        yield app, *dial(server, **dict(client))


def drain(client: f.FrameClient, *kinds: int, stream: int | None = None) -> list[f.Frame]:
    """What has come and was not asked for, and that is forgotten now; these kinds of it."""
    frames = client.take()
    client.frames.clear()
    return [
        frame
        for frame in frames
        if (not kinds or frame.kind in kinds) and stream in (None, frame.stream)
    ]


def credit(frames: Iterable[f.Frame], stream: int) -> int:
    """How many bytes the WINDOW_UPDATEs among these allow."""
    return sum(x.number for x in frames if x.kind == f.WINDOW_UPDATE and x.stream == stream)


def payload(frames: Iterable[f.Frame], stream: int | None = None) -> bytes:
    """The data in these frames."""
    return b"".join(x.payload for x in frames if x.kind == f.DATA and stream in (None, x.stream))


def distinct(size: int, start: int = 0) -> bytes:
    """Bytes of which no four are the same as others, so that what is amiss can be told."""
    numbers = range(start, start + size // 4 + 1)
    return struct.pack(f">{len(numbers)}L", *numbers)[:size]
