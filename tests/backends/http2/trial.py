"""What the hostile tests share: a strict client, and a look at what a connection holds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h2.connection
import hpack
import pytest

from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.testing import MemoryServer

from ..frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    Frame,
    FrameClient,
    data,
    frame,
    headers,
    request,
)
from ..support import by_byte, turns, whole

Feed = Callable[[bytes], Iterable[bytes]]
Pairs = list[tuple[bytes, bytes]]
Answer = tuple[int, dict[bytes, bytes], bytes]

feeds = pytest.mark.parametrize("feed", [whole, by_byte])


def table(cases: dict[str, Any], names: str = "bad") -> pytest.MarkDecorator:
    """A test for each of the cases."""
    return pytest.mark.parametrize(names, cases.values(), ids=cases)


@dataclass
class Seen:
    """All that a client has received, stream by stream."""

    #: Whole answers: status, headers and body.
    answers: dict[int, Answer] = field(default_factory=dict)
    #: Streams with a head or some body, and no end.
    begun: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    #: Interim responses.
    interim: dict[int, list[int]] = field(default_factory=dict)
    resets: dict[int, list[int]] = field(default_factory=dict)
    goaways: list[Frame] = field(default_factory=list)
    #: Frames of the other kinds.
    others: list[Frame] = field(default_factory=list)

    @property
    def codes(self) -> list[int]:
        """The codes of the GOAWAYs."""
        return [frame.code for frame in self.goaways]

    def status(self, stream: int) -> int | None:
        """The status of a whole answer, None without one."""
        return self.answers[stream][0] if stream in self.answers else None

    def body(self, stream: int) -> bytes:
        """The body of a whole answer."""
        return self.answers[stream][2]


class Prober(FrameClient):
    """A client that sorts what it receives, and that is strict about it."""

    def __init__(self, server: MemoryServer, greet: bool = True, **extra: Any) -> None:
        self.seen = Seen()
        self._heads: dict[int, dict[bytes, bytes]] = {}
        super().__init__(server, greet, **extra)

    def push(self, feed: Feed, *frames: bytes) -> None:
        """Send frames in the pieces that ``feed`` makes of them."""
        for piece in feed(b"".join(frames)):
            self.send(piece)

    async def settle(self, count: int = 20) -> Seen:
        """Let the server work, then return all that came of it so far."""
        await turns(count)
        return self.look()

    def look(self) -> Seen:
        """Sort what the server has sent."""
        seen = self.seen
        self.take()
        while self.frames:
            frame = self.frames.popleft()
            stream = frame.stream
            if frame.kind == HEADERS:
                pairs = dict(self.decode(frame))
                assert stream not in seen.answers, "headers after the end"
                assert stream not in seen.resets, "headers after a reset"
                if stream in seen.begun:
                    assert frame.flags & END_STREAM, "trailers that do not end the stream"
                elif 100 <= int(pairs[b":status"]) < 200:
                    assert not frame.flags & END_STREAM, "an interim response is no end"
                    seen.interim.setdefault(stream, []).append(int(pairs[b":status"]))
                    continue
                else:
                    seen.begun[stream] = (int(pairs[b":status"]), b"")
                    self._heads[stream] = pairs
            elif frame.kind == DATA:
                assert stream in seen.begun, "data before the head or after the end"
                assert stream not in seen.resets, "data after a reset"
                status, body = seen.begun[stream]
                seen.begun[stream] = (status, body + frame.payload)
            elif frame.kind == RST_STREAM:
                seen.resets.setdefault(stream, []).append(frame.code)
                continue
            else:
                (seen.goaways if frame.kind == GOAWAY else seen.others).append(frame)
                continue
            if frame.flags & END_STREAM:
                status, body = seen.begun.pop(stream)
                seen.answers[stream] = (status, self._heads.pop(stream), body)
        return seen


class Negotiated:
    """What a connection over TLS is known by: HTTP/2 was chosen in its handshake."""

    def selected_alpn_protocol(self) -> str:
        return "h2"


def h2_server(app: Any, **settings: Any) -> MemoryServer:
    """A server in memory that speaks HTTP/2."""
    return MemoryServer(app, H2KyoukaiProtocol, **settings)


def reachable(root: Any, *others: Any) -> Iterator[Any]:
    """Yield every object that a connection holds, but not what it shares with others."""
    shared = (
        root._blocks,
        root.component,
        root.config,
        root.connections,
        root.interface,
        root.loop,
        root.transport,
    )
    seen = {id(each) for each in shared}
    waiting = [root, *others]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type):
            continue
        module = type(each).__module__
        if module.startswith(("asyncio", "contextvars", "_asyncio", "_pytest", "logging")):
            continue
        if type(each).__name__ in ("function", "module", "builtin_function_or_method", "method"):
            continue
        seen.add(id(each))
        yield each
        waiting.extend(gc.get_referents(each))


def largest(protocol: Any, *others: Any) -> tuple[int, str]:
    """Return the length of the longest container that a connection holds, and what is in it."""
    found = (0, "")
    for each in reachable(protocol, *others):
        if isinstance(each, dict | list | set | tuple | frozenset) or type(each).__name__ in (
            "deque",
            "OrderedDict",
            "SizeLimitDict",
            "bytearray",
        ):
            found = max(found, (len(each), f"{type(each).__name__} {each!r:.200}"))
    return found


def library(protocol: Any) -> h2.connection.H2Connection:
    """Return the connection's protocol library."""
    (found,) = (
        each for each in reachable(protocol) if isinstance(each, h2.connection.H2Connection)
    )
    return found


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """Return an integer of HPACK (RFC 7541 section 5.1)."""
    out = bytearray(hpack.hpack.encode_integer(value, bits))
    out[0] |= first
    return bytes(out)


def indexed(index: int) -> bytes:
    """An indexed field (RFC 7541 section 6.1)."""
    return integer(index, 7, 0x80)


def incremental(name: bytes, value: bytes) -> bytes:
    """A literal that goes into the dynamic table (RFC 7541 section 6.2.1)."""
    return b"\x40" + integer(len(name), 7) + name + integer(len(value), 7) + value


def table_size(size: int) -> bytes:
    """A change of the dynamic table's size (RFC 7541 section 6.3)."""
    return integer(size, 5, 0x20)


def in_parts(stream: int, block: bytes, size: int = 16384, flags: int = END_STREAM) -> bytes:
    """A header block as HEADERS and as many CONTINUATIONs as it takes."""
    parts = [block[start : start + size] for start in range(0, len(block), size)]
    kinds = [HEADERS] + [CONTINUATION] * (len(parts) - 1)
    last = len(parts) - 1
    return b"".join(
        frame(kind, flags * (not number) | END_HEADERS * (number == last), stream, part)
        for number, (kind, part) in enumerate(zip(kinds, parts, strict=True))
    )


# -- Streams around what breaks ----------------------------------------------------------------

BEFORE = headers(1, request(b"/before")) + headers(3, request(b"/beside", b"POST"), end=False)
BESIDE = data(3, b"to ") + data(3, b"the end", end=True)
AFTER = headers(7, request(b"/after"))


async def trial(
    app: Any, feed: Feed, bad: bytes, after: bytes = b"", **settings: Any
) -> tuple[Seen, Prober]:
    """Send something bad between healthy streams, which must not notice; return what came."""
    async with h2_server(app, access_log=True, **settings) as server:
        client = Prober(server)
        client.push(feed, BEFORE)
        await client.settle()
        client.push(feed, bad)
        await client.settle()
        client.push(feed, BESIDE + after + AFTER)
        seen = await client.settle()
        for stream, body in (1, b"GET /before "), (3, b"POST /beside to the end"):
            assert seen.body(stream) == body
        assert seen.body(7) == b"GET /after "
        assert seen.goaways == []
        assert not client.closed
        assert not client.protocol.streams
        assert not server.connections.tasks
        assert len({id(stream) for stream in server.logged}) == len(server.logged)
    return seen, client


def post(length: bytes | None, *, end: bool = False) -> bytes:
    fields = [] if length is None else [(b"content-length", length)]
    return headers(5, request(b"/bad", b"POST", fields), end=end)


TRAILERS = headers(5, [(b"x-sum", b"1")])
