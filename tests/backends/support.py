"""What the tests of the wires share: applications, a clock to put forward, a strict reader."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from typing import Any

from kyoukai.exceptions import BodyError
from kyoukai.stream import RequestHead, StreamState
from kyoukai.testing import Connection, MemoryServer, MemoryTransport

GOOD = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]*")
_HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([\t -~\x80-\xff]*)")


class Mirror:
    """An application that reads each body and answers with what it got."""

    def __init__(self) -> None:
        self.heads: list[RequestHead] = []
        self.bodies: list[bytes] = []
        self.trailers: list[list[tuple[bytes, bytes]]] = []
        self.errors: list[BodyError] = []

    @property
    def paths(self) -> list[str]:
        return [head.path for head in self.heads]

    async def __call__(self, stream: StreamState) -> None:
        self.heads.append(stream.head)
        try:
            body = await stream.read_async()
        except BodyError as error:
            self.errors.append(error)
            await stream.send_response(error.status, (), str(error).encode())
            return
        self.bodies.append(body)
        self.trailers.append(list(stream.trailers))
        answer = b"%b %b %b" % (stream.head.method.encode(), stream.head.raw_path, body)
        await stream.send_response(200, ((b"content-type", b"text/plain"),), answer)


class Stage:
    """An application whose part the test plays: it takes the streams and answers them itself."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[StreamState] = asyncio.Queue()
        self.cancelled: list[StreamState] = []
        self.left: list[StreamState] = []
        self._exits: dict[StreamState, asyncio.Event] = {}

    async def __call__(self, stream: StreamState) -> None:
        leave = self._exits[stream] = asyncio.Event()
        self.streams.put_nowait(stream)
        try:
            await leave.wait()
        except asyncio.CancelledError:
            self.cancelled.append(stream)
            raise
        finally:
            del self._exits[stream]
            self.left.append(stream)

    async def next(self) -> StreamState:
        """Wait for the next request."""
        return await self.streams.get()

    def leave(self, stream: StreamState) -> None:
        """Let the application return from a stream."""
        self._exits[stream].set()

    async def answer(self, body: bytes = b"ok") -> StreamState:
        """Answer the next request at once."""
        stream = await self.next()
        await stream.send_response(200, (), body)
        self.leave(stream)
        return stream


class Tls:
    """What a transport over TLS knows of its handshake: nothing was agreed on."""

    def selected_alpn_protocol(self) -> str | None:
        return None


class StrictTransport(MemoryTransport):
    """Like uvloop's, it takes no writes after its end."""

    def write(self, data: Any) -> None:
        if self.eof_written or self.closed:
            raise RuntimeError("write after the end")
        super().write(data)

    def write_eof(self) -> None:
        if self.closed:
            raise RuntimeError("write_eof on a closed transport")
        super().write_eof()


def connect(server: MemoryServer, **extra: Any) -> Connection:
    """Open a connection over a strict transport."""
    protocol = server.protocol_class(server)
    transport = StrictTransport(protocol, extra)
    protocol.connection_made(transport)
    return Connection(transport)


async def turns(count: int = 12) -> None:
    """Let the loop turn, so that whatever is ready runs."""
    for _ in range(count):
        await asyncio.sleep(0)


class Clock:
    """The running loop's clock, which stands still and is put forward instead of waited for."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        self.ahead = 0.0
        loop.time = lambda: start + self.ahead  # type: ignore[method-assign]

    async def advance(self, seconds: float, step: float | None = None) -> None:
        """Put the clock forward, in steps if timers are to fire between."""
        await turns()  # what is ready belongs to the time before
        rest = seconds
        while rest > 0:
            part = min(rest, step or rest)
            rest -= part
            self.ahead += part
            await turns()


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def by_byte(data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        yield data[index : index + 1]


def send_in_pieces(connection: Connection, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        connection.send(piece)


def parse_answers(
    data: bytes, methods: Iterable[str] = (), closed: bool = True
) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """
    Parse what a server wrote, strictly: every byte of it must belong to a well-formed answer.

    :param methods: the methods of the requests; the rest are GET
    :param closed: whether a body may end with the bytes
    """
    answers = []
    waiting = iter(methods)
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        assert separator, f"a head is not whole: {head!r}"
        lines = head.split(b"\r\n")
        match = _STATUS_LINE.fullmatch(lines[0])
        assert match, lines[0]
        status = int(match[1])
        headers: dict[bytes, bytes] = {}
        for line in lines[1:]:
            found = _HEADER_LINE.fullmatch(line)
            assert found, line
            name = found[1].lower()
            assert name not in headers, f"{name!r} came twice"
            headers[name] = found[2]
        if status < 200:
            assert b"content-length" not in headers
            assert b"transfer-encoding" not in headers
            answers.append((status, headers, b""))
            continue
        method = next(waiting, "GET")
        body = b""
        if method == "HEAD" or status in (204, 304):
            assert status != 204 or b"content-length" not in headers
        elif headers.get(b"transfer-encoding") == b"chunked":
            assert b"content-length" not in headers
            chunks, place = [], 0
            while True:
                end = data.find(b"\r\n", place)
                assert end >= 0
                size = int(data[place:end], 16)
                place = end + 2
                if not size:
                    break
                chunks.append(data[place : place + size])
                place += size + 2
                assert data[place - 2 : place] == b"\r\n"
            body, data = b"".join(chunks), data[place:]
            while not data.startswith(b"\r\n"):
                line, separator, data = data.partition(b"\r\n")
                assert separator
                assert _HEADER_LINE.fullmatch(line)
            data = data[2:]
        elif b"content-length" in headers:
            size = int(headers[b"content-length"])
            assert len(data) >= size, "a body is not whole"
            body, data = data[:size], data[size:]
        else:
            assert closed, "a body that ends with the connection, which goes on"
            body, data = data, b""
        answers.append((status, headers, body))
    return answers
