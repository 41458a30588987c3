"""Extensible priorities (RFC 9218): who sends next, by the order of DATA frames on the wire."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kyoukai.backends.http2.priority import Priority, parse_priority
from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.stream import StreamState
from kyoukai.testing import MemoryServer

from .. import frames as f
from ..frames import FrameClient
from ..support import turns
from .support import drain, serving

#: A frame's worth of an answer.
FRAME = 16_384


async def sized(stream: StreamState) -> None:
    """Answer with as many frames' worth as the path says."""
    await stream.send_response(200, (), bytes(int(stream.head.path[1:]) * FRAME))


@asynccontextmanager
async def contended() -> AsyncIterator[FrameClient]:
    """A connection whose window is used up, by stream 1, though those of its streams are not."""

    async def app(stream: StreamState) -> None:
        if stream.head.path == "/":
            await stream.send_response(200, (), bytes(65_535))
        else:
            await sized(stream)

    async with MemoryServer(app, H2KyoukaiProtocol) as server:
        client = FrameClient(server)
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 1 << 24}), f.headers(1))
        await turns()
        client.take()
        client.frames.clear()
        yield client


def ask(
    stream: int, frames: int, priority: bytes | None = None, more: tuple[bytes, ...] = ()
) -> bytes:
    """A request for an answer of so many frames."""
    values = (*(() if priority is None else (priority,)), *more)
    extra = [(b"priority", value) for value in values]
    return f.headers(stream, f.request(b"/%d" % frames, extra=extra))


def update(stream: int, value: bytes, on: int = 0) -> bytes:
    """A PRIORITY_UPDATE frame."""
    return f.frame(f.PRIORITY_UPDATE, 0, on, struct.pack(">L", stream) + value)


async def order(client: FrameClient, frames: int) -> list[int]:
    """Let so many frames pass; return whose they were."""
    await turns()
    client.send(f.window_update(0, frames * FRAME))
    await turns(40)
    found = [frame for frame in client.take() if frame.kind == f.DATA]
    client.frames.clear()
    assert sum(len(frame.payload) for frame in found) == frames * FRAME
    return [frame.stream for frame in found if frame.payload]


async def test_the_most_urgent_goes_first() -> None:
    async with contended() as client:
        urgencies = {3: 7, 5: 0, 7: 3, 9: 5, 11: 1}
        client.send(*[ask(stream, 1, b"u=%d" % u) for stream, u in urgencies.items()])
        assert await order(client, 5) == [5, 11, 7, 9, 3]


async def test_no_priority_is_urgency_three() -> None:
    async with contended() as client:
        client.send(ask(3, 1, b"u=4"), ask(5, 1), ask(7, 1, b"u=2"))
        assert await order(client, 3) == [7, 5, 3]


async def test_of_the_same_urgency_the_oldest_goes_first() -> None:
    """What is not incremental is of use when it is whole: one after the other."""
    async with contended() as client:
        client.send(ask(3, 2), ask(5, 2), ask(7, 2))
        assert await order(client, 6) == [3, 3, 5, 5, 7, 7]


async def test_incremental_answers_take_turns() -> None:
    async with contended() as client:
        client.send(ask(3, 2, b"i"), ask(5, 2, b"u=3, i"), ask(7, 2, b"i=?1"))
        assert await order(client, 6) == [3, 5, 7, 3, 5, 7]


async def test_a_newcomer_takes_its_place_in_the_rotation() -> None:
    """It makes up for nothing that it missed."""
    async with contended() as client:
        client.send(ask(3, 99, b"i"), ask(5, 99, b"i"))
        before = await order(client, 30)
        assert 13 <= before.count(3) <= 17
        client.send(ask(7, 99, b"i"))
        after = await order(client, 15)
        for stream in (3, 5, 7):
            assert 3 <= after.count(stream) <= 7


async def test_rotation_is_within_an_urgency() -> None:
    async with contended() as client:
        client.send(ask(3, 2, b"u=5, i"), ask(5, 2, b"u=1, i"), ask(7, 2, b"u=1, i"))
        assert await order(client, 6) == [5, 7, 5, 7, 3, 3]


async def test_an_answer_of_many_slices_keeps_its_place() -> None:
    """More bytes than wait at a time: what follows is as urgent as what went before."""
    async with contended() as client:
        client.send(ask(3, 50, b"u=5"), ask(5, 20, b"u=1"))
        passed = await order(client, 24)
        assert passed.count(5) >= 20
        assert passed[:7] == [5] * 7


async def test_nobody_starves() -> None:
    """Every eighth frame goes to whoever has waited longest."""
    async with contended() as client:
        client.send(ask(3, 99, b"u=7"), ask(5, 99, b"u=0"), ask(7, 99, b"u=6"))
        passed = await order(client, 64)
        assert passed.count(5) == 56
        assert passed.count(3) == passed.count(7) == 4
        places = [place for place, stream in enumerate(passed) if stream != 5]
        assert {b - a for a, b in itertools.pairwise(places)} == {8}
        assert [passed[place] for place in places] == [3, 7] * 4


async def test_a_late_urgent_request_overtakes() -> None:
    async with contended() as client:
        client.send(ask(3, 99))
        assert await order(client, 2) == [3, 3]
        client.send(ask(5, 2, b"u=0"))
        assert await order(client, 3) == [5, 5, 3]


async def test_an_update_changes_the_order() -> None:
    async with contended() as client:
        client.send(ask(3, 99, b"u=1"), ask(5, 99, b"u=2"))
        assert await order(client, 2) == [3, 3]
        client.send(update(5, b"u=0"))
        assert await order(client, 2) == [5, 5]
        client.send(update(5, b"u=1, i"), update(3, b"u=1, i"))
        assert set(await order(client, 2)) == {3, 5}


async def test_an_update_says_everything_anew() -> None:
    """What it does not mention is as if it had never been said."""
    async with contended() as client:
        client.send(ask(3, 99, b"u=7, i"), ask(5, 99, b"u=4"))
        client.send(update(3, b""))
        assert await order(client, 2) == [3, 3]
        client.send(update(3, b"i, u=6"), update(3, b"u=6"))
        assert await order(client, 2) == [5, 5]


async def test_an_update_before_the_stream_opens() -> None:
    """It is remembered, the last one counts, and it overrides the header."""
    async with contended() as client:
        client.send(update(7, b"u=6"), update(7, b"u=0"), update(5, b"u=6"))
        client.send(ask(3, 1), ask(5, 1, b"u=1"), ask(7, 1, b"u=7"))
        assert await order(client, 3) == [7, 3, 5]


async def test_an_update_of_an_upload_counts_for_its_answer() -> None:
    async with contended() as client:
        client.send(ask(3, 3))
        head = f.request(b"/3", b"POST", [(b"content-length", b"3"), (b"priority", b"u=5")])
        client.send(update(5, b"u=4"), f.headers(5, head, end=False), update(5, b"u=0"))
        client.send(f.data(5, b"abc", True))
        assert await order(client, 4) == [5, 5, 5, 3]


async def test_updates_for_streams_that_are_over_are_ignored() -> None:
    async with contended() as client:
        client.send(update(1, b"u=0"), ask(3, 2, b"u=5"), ask(5, 2))
        client.send(f.rst_stream(5), update(5, b"u=0"))
        assert await order(client, 2) == [3, 3]
        await turns()
        client.send(update(3, b"u=0"))
        assert client.take() == []


@pytest.mark.parametrize(
    "frame",
    [
        update(3, b"u=0", on=3),
        update(0, b"u=0"),
        f.frame(f.PRIORITY_UPDATE, 0, 0, b"\0\0\0"),
    ],
    ids=["stream", "nothing", "short"],
)
async def test_updates_that_may_not_be(frame: bytes) -> None:
    async with contended() as client:
        client.send(frame)
        goaway = await client.next(f.GOAWAY)
        assert goaway.code in (f.PROTOCOL_ERROR, f.FRAME_SIZE_ERROR)
        await turns()
        assert client.closed


async def test_the_old_priorities_count_for_nothing() -> None:
    """PRIORITY frames and flags (RFC 7540) were switched off by SETTINGS_NO_RFC7540_PRIORITIES."""
    async with contended() as client:
        flags = f.END_STREAM | f.END_HEADERS | f.HAS_PRIORITY
        light, heavy = struct.pack(">LB", 0, 0), struct.pack(">LB", 0, 255)
        client.send(
            f.frame(f.HEADERS, flags, 3, light + f.literals(f.request(b"/2"))),
            f.frame(f.HEADERS, flags, 5, heavy + f.literals(f.request(b"/2"))),
            f.frame(f.PRIORITY, 0, 3, struct.pack(">LB", 5, 0)),
        )
        assert await order(client, 4) == [3, 3, 5, 5]


async def test_who_has_no_window_of_its_own_holds_nobody_up() -> None:
    async with contended() as client:
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 0}))
        client.send(ask(3, 9, b"u=0"), ask(5, 9, b"u=5"))
        client.send(f.window_update(5, 1 << 20))
        assert await order(client, 2) == [5, 5]
        client.send(f.window_update(3, 2 * FRAME))
        assert await order(client, 3) == [3, 3, 5]


async def test_who_leaves_makes_room() -> None:
    async with contended() as client:
        client.send(ask(3, 9, b"u=0"), ask(5, 9, b"u=1"))
        assert await order(client, 1) == [3]
        client.send(f.rst_stream(3))
        assert await order(client, 2) == [5, 5]


async def test_a_part_of_a_frame_is_a_turn_too() -> None:
    async with contended() as client:
        client.send(ask(3, 9, b"i"), ask(5, 9, b"i"))
        await turns()
        passed = []
        for _ in range(6):
            client.send(f.window_update(0, 100))
            await turns()
            passed += [frame.stream for frame in client.take() if frame.kind == f.DATA]
            client.frames.clear()
        assert passed == [3, 5, 3, 5, 3, 5]


async def test_priorities_decide_when_the_transport_is_what_is_slow() -> None:
    """The usual case: windows are large, and the client's network is not."""
    async with MemoryServer(sized, H2KyoukaiProtocol, write_buffer_size=FRAME) as server:
        client = FrameClient(server)
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 1 << 30}), f.window_update(0, 1 << 30))
        client.transport.hold()
        client.send(ask(3, 60, b"u=5"))
        await turns()
        client.send(ask(5, 30, b"u=1"), ask(7, 30, b"u=3"))
        await turns()
        got = client.transport.release()
        client.transport.hold()
        while True:
            await turns()
            piece = client.transport.release()
            client.transport.hold()
            if not piece:
                break
            got += piece
        client.transport.output[:] = got
        passed = [frame.stream for frame in client.take() if frame.kind == f.DATA]
        assert (passed.count(3), passed.count(5), passed.count(7)) == (60, 30, 30)
        ends = {stream: len(passed) - passed[::-1].index(stream) for stream in (3, 5, 7)}
        assert ends[5] < ends[7] < ends[3]
        assert ends[5] <= 4 + 30 + 30 // 7 + 1  # what was on its way, and every eighth frame


async def test_a_sender_that_gives_a_little_at_a_time_keeps_its_place() -> None:
    """Between two pieces of an answer nobody waits on its behalf; the next is as urgent."""

    async def app(stream: StreamState) -> None:
        stream.send_head(200, ())
        for _ in range(8):
            await stream.send_data(bytes(FRAME))
        await stream.end()

    async with MemoryServer(app, H2KyoukaiProtocol) as server:
        client = FrameClient(server)
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 1 << 24}))
        client.send(ask(1, 1, b"u=4"), ask(3, 1, b"u=2"))
        await turns()
        client.send(f.window_update(0, 1))  # 65,535 and this are whole frames
        await turns()
        client.take()
        client.frames.clear()
        assert (await order(client, 5))[-4:] == [3] * 4


@pytest.mark.parametrize("size", [100, 3 * FRAME])
@pytest.mark.parametrize("whole", [True, False])
async def test_nobody_jumps_the_queue(size: int, whole: bool) -> None:
    """A window that has just opened belongs to those who wait, not to who is quickest."""
    async with serving() as (stage, client):
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 1 << 24}))
        client.send(ask(1, 0, b"u=2"), ask(3, 0, b"u=6"))
        urgent, other = await stage.next(), await stage.next()
        sending = asyncio.ensure_future(urgent.send_response(200, (), bytes(10 * FRAME)))
        await turns()
        drain(client)

        async def hasten() -> None:
            if whole:
                await other.send_response(200, (), bytes(size))
            else:
                other.send_head(200, ())
                await other.send_data(bytes(size))

        hastening = asyncio.ensure_future(hasten())  # its first step comes in the next turn
        client.send(f.window_update(0, 2 * FRAME))
        await turns()
        assert {frame.stream for frame in drain(client, f.DATA)} == {1}
        sending.cancel()
        hastening.cancel()
        await turns()


async def test_what_the_application_sees() -> None:
    seen: asyncio.Queue[Any] = asyncio.Queue()

    async def app(stream: Any) -> None:
        seen.put_nowait((stream.priority, stream.head.get(b"priority")))
        await stream.send_response(200, ())

    async with MemoryServer(app, H2KyoukaiProtocol) as server:
        client = FrameClient(server)
        client.send(ask(1, 0, b"u=1, i"), ask(3, 0))
        assert await seen.get() == (Priority(1, True), b"u=1, i")
        assert await seen.get() == (Priority(3, False), None)


@pytest.mark.parametrize(
    "value, expected",
    [
        (b"", (3, False)),
        (b"u=0", (0, False)),
        (b"u=7,i", (7, True)),
        (b" u=2 ,\ti ", (2, True)),
        (b"i", (3, True)),
        (b"i=?1, u=4", (4, True)),
        (b"i=?0", (3, False)),
        (b"i, i=?0", (3, False)),
        (b"u=1, u=5", (5, False)),
        (b"u=1, u=9", (3, False)),
        (b'foo="a,b", u=1', (1, False)),
        (b"u=1, x=" + b"y" * 300 + b", u=5", (1, False)),
        (b"u=5;a=b, i;c", (5, True)),
        (b"foo=bar, u=2", (2, False)),
        (b"u=8", (3, False)),
        (b"u=-1", (3, False)),
        (b"u=1.0", (3, False)),
        (b'u="1"', (3, False)),
        (b"u", (3, False)),
        (b"i=1", (3, False)),
        (b"U=1", (3, False)),
        (b"u=1, =", (3, False)),
        (b"\xff\xff", (3, False)),
        (b"u=1" + b" " * 100_000, (1, False)),
    ],
)
def test_parsing(value: bytes, expected: tuple[int, bool]) -> None:
    assert parse_priority(value) == Priority(*expected)
