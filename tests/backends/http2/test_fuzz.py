"""
Frames by chance, in an order by chance: whatever comes, the server answers, resets or says goodbye.

The seeds are fixed. What comes whole and what comes in pieces must lead to the same answers; what
the server sends is held against the windows that it was given; and nothing is left at the end.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from kyoukai.exceptions import BodyError
from kyoukai.stream import StreamState

from ..frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_UPDATE,
    PUSH_PROMISE,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    data,
    frame,
    headers,
    literals,
    request,
    rst_stream,
    settings,
    window_update,
)
from ..support import Clock, Tls, turns
from .trial import (
    Prober,
    Seen,
    h2_server,
    in_parts,
    incremental,
    indexed,
    largest,
    table_size,
)

PATHS = (
    *(b"/", b"/echo", b"/early", b"/large", b"/parts"),
    *(b"/wait", b"/fail", b"/slow", b"/stubborn", b"/some"),
)


async def application(stream: StreamState) -> None:
    """Read, or not; answer at once, in parts, late or never."""
    head = stream.head
    assert head.headers[0][0] == b"host"
    assert all(name == name.lower() and b"_" not in name for name, _ in head.headers)
    answer = b"%b %b" % (head.method.encode(), head.target)
    if head.path == "/wait":
        await stream.disconnected()
        return
    if head.path == "/fail":
        stream.reset()
        return
    if head.path == "/slow":
        await asyncio.sleep(3)
    elif head.path == "/stubborn":
        stream.cancel_on_disconnect = False
        stream.send_head(200, ())
        for _ in range(30):
            await stream.send_data(bytes(5000))
        await stream.end()
        return
    elif head.path != "/early":
        try:
            some = head.path == "/some"
            answer += b" " + await (stream.receive() if some else stream.read_async())
        except BodyError as error:
            await stream.send_response(error.status, (), b"broken")
            return
        answer += b"".join(b" %b=%b" % pair for pair in stream.trailers)
    if head.path == "/large":
        await stream.send_response(200, (), b"x" * 150_000)
    elif head.path == "/parts":
        stream.send_informational(103, [(b"link", b"</style.css>")])
        stream.send_head(200, [(b"x-a", b"b")])
        for size in 0, 1, 70_000, 5:
            await stream.send_data(b"y" * size)
        await stream.end([(b"x-t", b"z")])
    else:
        await stream.send_response(200, (), answer)


class Writer:
    """Writes frames that make sense, mostly."""

    def __init__(self, rng: random.Random, wild: float = 0.03) -> None:
        self.rng = rng
        self.wild = wild
        self.last = -1
        #: Streams whose request goes on.
        self.open: list[int] = []
        self.kinds: list[Callable[[], bytes]] = [
            *(self.begin,) * 6,
            *(self.body,) * 6,
            *(self.finish,) * 2,
            *(self.credit,) * 3,
            self.trailers,
            self.reset,
            self.settings,
            self.chatter,
        ]

    def __call__(self) -> bytes:
        if self.rng.random() < self.wild:
            return self.rng.choice((self.odd, self.junk, self.mutated))()
        return self.rng.choice(self.kinds)()

    def any_stream(self) -> int:
        if self.open and self.rng.random() < 0.8:
            return self.rng.choice(self.open)
        return self.rng.randrange(max(self.last, 1) + 2) | 1

    def begin(self) -> bytes:
        rng = self.rng
        self.last += 2
        end = rng.random() < 0.5
        pairs = request(rng.choice(PATHS), rng.choice((b"GET", b"POST", b"HEAD")))
        if rng.random() < 0.2:
            pairs.append((b"content-length", b"%d" % rng.choice((0, 0, 5, 1000))))
        if rng.random() < 0.2:
            pairs.append((b"priority", b"u=%d, i" % rng.randrange(8)))
        if rng.random() < 0.1:
            pairs.append(rng.choice(((b"X", b"y"), (b"te", b"gzip"), (b":path", b"/"))))
        if rng.random() < 0.05:
            pairs.remove(rng.choice(pairs))
        if rng.random() < 0.05:
            pairs.append((b"expect", rng.choice((b"100-continue", b"junk"))))
        if not end:
            self.open.append(self.last)
        block = literals(pairs)
        if rng.random() < 0.1:
            block = table_size(4096) + block + incremental(b"x-kept", b"1") + indexed(62)
        if rng.random() < 0.2:
            return in_parts(self.last, block, rng.randrange(1, 40), END_STREAM * end)
        flags = END_HEADERS | END_STREAM * end
        if rng.random() < 0.1:
            flags |= HAS_PRIORITY
            block = struct.pack(">LB", rng.randrange(self.last), 9) + block
        if rng.random() < 0.1:
            flags |= PADDED
            block = b"\3" + block + bytes(3)
        return frame(HEADERS, flags, self.last, block)

    def body(self) -> bytes:
        rng = self.rng
        if not self.open:
            return self.begin()
        payload = b"z" * rng.choice((0, 1, 5, 5, 100, 1000, 9000))
        padding = rng.choice((None, None, None, 0, 7))
        return data(rng.choice(self.open), payload, padding=padding)

    def finish(self) -> bytes:
        if not self.open:
            return self.begin()
        stream = self.open.pop(self.rng.randrange(len(self.open)))
        return data(stream, b"z" * self.rng.choice((0, 5)), end=True)

    def trailers(self) -> bytes:
        if not self.open:
            return self.begin()
        stream = self.open.pop(self.rng.randrange(len(self.open)))
        return headers(stream, self.rng.choice(([(b"x-t", b"u")], [(b"X", b"u")], [])))

    def credit(self) -> bytes:
        stream = self.rng.choice((0, self.any_stream(), self.any_stream()))
        return window_update(stream, self.rng.choice((1, 100, 5000, 60_000)))

    def reset(self) -> bytes:
        stream = self.any_stream()
        if stream in self.open:
            self.open.remove(stream)
        return rst_stream(stream, self.rng.randrange(16))

    def settings(self) -> bytes:
        rng = self.rng
        pairs = ((4, rng.choice((0, 10, 20_000, 65535, 200_000))), (1, 4096), (99, 1), (6, 100))
        return settings(rng.sample(pairs, rng.randrange(3)))

    def chatter(self) -> bytes:
        rng = self.rng
        stream = self.any_stream()
        update = struct.pack(">L", stream) + rng.choice((b"u=0", b"i", b"u=9;x, i=?0", b"\xff"))
        return rng.choice(
            (
                frame(PING, 0, 0, b"whatever"),
                frame(PING, ACK, 0, b"whatever"),
                frame(PRIORITY, 0, stream, struct.pack(">LB", stream + 2, 1)),
                frame(PRIORITY_UPDATE, 0, 0, update),
                frame(rng.randrange(20, 256), rng.randrange(256), stream, b"unknown"),
                settings(ack=True),
            )
        )

    def odd(self) -> bytes:
        """A frame that is well formed and wrong."""
        stream = self.any_stream()
        return self.rng.choice(
            (
                window_update(stream, 0),
                window_update(0, 0),
                window_update(stream, 2**31 - 1),
                window_update(0, 2**31 - 1),
                data(stream, b"late", end=True),
                data(self.last + 20, b"idle"),
                data(0, b"nowhere"),
                headers(stream),
                headers(stream + 1),
                rst_stream(self.last + 20),
                frame(PRIORITY, 0, stream, struct.pack(">LB", stream, 1)),
                frame(CONTINUATION, END_HEADERS, stream, b"\x82"),
                frame(HEADERS, 0, self.last + 2, b"\x82"),
                frame(PUSH_PROMISE, END_HEADERS, stream, b"\0\0\0\2\x82"),
                frame(GOAWAY, 0, 0, bytes(8) + b"bye"),
                settings({4: 2**31}),
                settings({5: 1}),
                settings({4: 2**31 - 1}),
                frame(SETTINGS, 0, 0, b"12345"),
                frame(DATA, PADDED, stream, b"\xff"),
                frame(HEADERS, END_HEADERS | END_STREAM, self.last + 2, b"\xff\xff\xff\xff"),
            )
        )

    def junk(self) -> bytes:
        """A frame of chance."""
        rng = self.rng
        kind = rng.choice((*range(11), 16, 99))
        stream = rng.choice((0, self.any_stream(), self.last + 2, rng.randrange(2**32)))
        return frame(kind, rng.randrange(256), stream, rng.randbytes(rng.randrange(40)))

    def mutated(self) -> bytes:
        """A frame with something changed in it, which moves what follows."""
        rng = self.rng
        changed = bytearray(rng.choice(self.kinds)())
        for _ in range(rng.randrange(1, 3)):
            place = rng.randrange(len(changed))
            if rng.random() < 0.6:
                changed[place] = rng.randrange(256)
            elif rng.random() < 0.5:
                del changed[place]
            else:
                changed.insert(place, rng.randrange(256))
            if not changed:
                break
        return bytes(changed)


def split(rng: random.Random, sent: bytes) -> Iterator[bytes]:
    most = rng.choice((1, 9, 30, 500)) * (1 + len(sent) // 10_000)
    while sent:
        size = rng.randrange(1, most + 1)
        yield sent[:size]
        sent = sent[size:]


async def gone(client: Prober, server: Any) -> None:
    """When the client has left, nothing of the connection may be left either."""
    await turns(12)
    protocol = client.protocol
    assert client.transport.closed, "the client has left, and the connection stays"
    assert not server.connections.tasks
    assert not server.connections.open
    assert len({id(stream) for stream in server.logged}) == len(server.logged)
    assert not protocol.streams
    assert len(protocol._scheduler) == 0
    assert not protocol._ending
    assert not protocol._input
    size, what = largest(protocol)
    assert size <= 1000, what


def result(seen: Seen, closed: bool) -> Any:
    heads = {
        number: (status, len(body) if len(body) > 200 else body)
        for number, (status, _, body) in seen.answers.items()
    }
    return heads, seen.begun, seen.interim, seen.resets, seen.codes, closed


async def outcome(sent: bytes, pieces: Iterable[bytes]) -> Any:
    async with h2_server(application, access_log=True) as server:
        client = Prober(server, greet=False)
        for piece in pieces:
            client.send(piece)
        seen = await client.settle(40)
        closed = client.closed
        client.transport.feed_eof()
        await gone(client, server)
        return result(seen, closed)


@pytest.mark.parametrize("seed", range(2))
async def test_whole_and_in_pieces(seed: int) -> None:
    rng = random.Random(seed)
    statuses, codes, resets = set(), set(), set()
    for _ in range(100):
        writer = Writer(rng, rng.choice((0, 0.03, 0.1)))
        sent = PREFACE + settings() + b"".join(writer() for _ in range(rng.randrange(1, 60)))
        expected = await outcome(sent, [sent])
        pieces = list(split(rng, sent))
        assert await outcome(sent, pieces) == expected, (sent, pieces)
        statuses.update(status for status, _ in expected[0].values())
        resets.update(code for each in expected[3].values() for code in each)
        codes.update(expected[4])
    assert {200, 417} <= statuses
    assert 1 in resets
    assert len(resets) > 1
    assert {1, 6} <= codes


# -- Whole lives -------------------------------------------------------------------------------


class Referee(Prober):
    """A client that knows what the server may send, as long as what it sends itself is sane."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        #: What the server may send, and has sent: connection, and each stream.
        self.credit = {0: 65535}
        self.used: dict[int, int] = {}
        #: The initial window, and those that the server has not acknowledged.
        self.initial = [65535]
        self.strict = True
        self.last_goaway = 2**31 - 1
        super().__init__(*arguments, **options)
        del self.initial[1:]  # as the greeting is acknowledged by now

    def send(self, *frames: bytes) -> None:
        for each in frames:
            if each[3:4] == bytes((WINDOW_UPDATE,)) and len(each) == 13:
                stream, size = struct.unpack(">LL", each[5:13])
                self.credit[stream] = self.credit.get(stream, 0) + size
            elif each[3:5] == bytes((SETTINGS, 0)) and each[5:9] == bytes(4):
                pairs = Frame(SETTINGS, 0, 0, each[9:]).settings if not len(each) % 6 - 3 else {}
                self.initial.append(pairs.get(4, self.initial[-1]))
        super().send(*frames)

    def look(self) -> Seen:
        for each in self.take():
            if each.kind == DATA and self.strict:
                size = len(each.payload)
                self.used[0] = self.used.get(0, 0) + size
                self.used[each.stream] = self.used.get(each.stream, 0) + size
                assert not size or self.used[0] <= self.credit[0]
                most = max(self.initial) + self.credit.get(each.stream, 0)
                assert not size or self.used[each.stream] <= most
                assert size <= 16384
            elif each.kind == SETTINGS and each.flags & ACK and len(self.initial) > 1:
                del self.initial[0]
            elif each.kind == GOAWAY:
                assert each.number <= self.last_goaway
                self.last_goaway = each.number
        return super().look()


async def live(seed: int, clock: Clock) -> None:
    rng = random.Random(seed)
    limits = {
        "h2_max_concurrent_streams": rng.choice((2, 100)),
        "h2_reset_burst": rng.choice((5, 200)),
        "h2_control_burst": rng.choice((10, 200)),
        "max_requests_per_connection": rng.choice((0, 0, 9)),
        "write_buffer_size": rng.choice((1024, 65536)),
    }
    async with h2_server(application, access_log=True, **limits) as server:
        extra = {"ssl_object": Tls()} if rng.random() < 0.3 else {}
        client = Referee(server, **extra)
        writer = Writer(rng, 0)
        wild = rng.random() < 0.3
        transport = client.transport
        for _ in range(rng.randrange(5, 80)):
            if transport.is_closing():
                break
            action = rng.randrange(40)
            if action < 24:
                client.send(writer())
            elif action < 26:
                transport.hold()
            elif action < 28:
                transport.held = False
                client.look()
                client._bytes += transport.release()
            elif action == 28:
                await clock.advance(rng.choice((0.1, 0.3, 1, 6, 16)))
            elif action == 29 and wild:
                client.strict = False
                client.send(rng.choice((writer.odd, writer.junk, writer.mutated))())
            elif action == 30 and rng.random() < 0.2:
                server.connections.shutdown()
            elif action == 31 and rng.random() < 0.2:
                transport.feed_eof()
            elif action == 32 and rng.random() < 0.2:
                transport.lose(ConnectionResetError())
            else:
                await turns(rng.randrange(5))
            if not transport.held:
                client.look()
        client._bytes += transport.release()
        if not transport.is_closing() and rng.random() < 0.5:
            client.send(window_update(0, 2**30), settings({4: 2**29}))
            for _ in range(10):
                await client.settle(8)
        elif rng.random() < 0.5:
            server.connections.shutdown()
        for _ in range(8):  # every time-out has its chance
            await clock.advance(20, 5)
            client.look()
            if transport.closed:
                break
        if not transport.closed:  # some requests wait as long as the client does
            transport.feed_eof()
        await gone(client, server)


@pytest.mark.parametrize("seed", range(3))
async def test_whole_lives_of_connections(seed: int) -> None:
    """Sending, pausing, waiting, stopping and leaving in any order: nothing hangs or is left."""
    clock = Clock()
    for each in range(50):
        try:
            await live(seed * 1000 + each, clock)
        except BaseException as error:
            error.add_note(f"seed {seed * 1000 + each}")
            raise


@pytest.mark.parametrize("seed", range(2))
async def test_bytes_without_any_sense(seed: int) -> None:
    rng = random.Random(500 + seed)
    for _ in range(50):
        sent = rng.choice((b"", PREFACE, PREFACE + settings())) + rng.randbytes(rng.randrange(300))
        expected = await outcome(sent, [sent])
        assert await outcome(sent, split(rng, sent)) == expected


@pytest.mark.parametrize("seed", range(2))
async def test_connections_lost_anywhere(seed: int) -> None:
    rng = random.Random(700 + seed)
    for _ in range(40):
        async with h2_server(application, access_log=True) as server:
            client = Prober(server, greet=False)
            writer = Writer(rng, 0)
            sent = PREFACE + settings() + b"".join(writer() for _ in range(30))
            for piece in split(rng, sent[: rng.randrange(len(sent))]):
                client.send(piece)
                await turns(rng.randrange(2))
            client.transport.lose(rng.choice((None, ConnectionResetError())))
            await asyncio.sleep(0)
            await gone(client, server)
