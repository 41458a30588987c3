"""
What a connection can make the server keep.

Whatever a client sends, and however it leaves: tables, queues and dicts are bounded, and what it
could no longer use is given back.
"""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from itertools import count, islice
from typing import Any

import hpack
import pytest

from kyoukai.backends.http2.priority import Priority, Scheduler
from kyoukai.stream import StreamState

from ..frames import (
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    PRIORITY_UPDATE,
    WINDOW_UPDATE,
    data,
    frame,
    headers,
    literals,
    request,
    rst_stream,
    settings,
    window_update,
)
from ..support import Mirror, Stage, turns
from .trial import Prober, h2_server, incremental, indexed, largest, library, table

BLOCK = literals(GET)
POST = request(method=b"POST")


# -- What is kept ------------------------------------------------------------------------------


async def answer_all(stream: StreamState) -> None:
    await stream.send_response(200, (), b"ok")


async def test_what_a_connection_keeps_does_not_grow() -> None:
    """Closed streams are remembered, so that late frames are no faults; but not all of them."""
    async with h2_server(answer_all, h2_reset_burst=10**6) as server:
        client = Prober(server)
        numbers = count(1, 2)
        for _ in range(40):
            for number in islice(numbers, 100):
                path = b"/%d" % number
                fields = [(b"x-%d" % number, b"y" * 50)]
                block = literals(request(path)) + incremental(*fields[0])
                kind = number % 6
                if kind == 1:
                    client.send(frame(HEADERS, 5, number, block))
                elif kind == 3:
                    client.send(
                        headers(number, POST, end=False), data(number, b"abc"), rst_stream(number)
                    )
                else:
                    client.send(headers(number, GET[:2]))
            await turns(4)
            client.look()
        assert not client.closed
        size, what = largest(client.protocol)
        assert size <= 1000, what
        assert len(library(client.protocol)._closed_streams) <= 1000
        assert not client.protocol.streams
        assert not server.connections.tasks


async def test_heads_are_not_kept_for_ever() -> None:
    """What is remembered of heads is bounded in number, and in what they come to."""
    async with h2_server(answer_all) as server:
        client = Prober(server)
        path = literals(GET[-1:])
        block = BLOCK + incremental(b"cookie", b"a" * 3900)
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
        await client.settle()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(3, 3003, 2):
                other = literals([(b"x-%d" % number, b"y")])
                block = (
                    BLOCK[: -len(path)] + b"\x04\1/" + other + indexed(62) * 7 * (number % 8 == 7)
                )
                client.send(frame(HEADERS, END_HEADERS | END_STREAM, number, block))
                if number % 100 == 1:
                    assert not (await client.settle()).resets
            client.seen.answers.clear()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert grown < 400_000
        size, what = largest(client.protocol)
        assert size <= 1000, what


async def test_long_names_and_hosts_are_not_kept_by_anyone() -> None:
    """What the whole process remembers must not be for a client to fill."""
    async with h2_server(answer_all) as server:
        client = Prober(server)
        client.send(headers(1))
        await client.settle()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(3, 203, 2):
                long = b"x%d" % number + b"y" * 15_000
                fields = [pair for pair in GET if pair[0] != b":authority"]
                client.send(headers(number, [*fields, (b":authority", long), (b"x-a", b"b")]))
                client.send(headers(number + 200, request(extra=[(long, b"b")])))
                await client.settle()
            client.look()
            client.seen.answers.clear()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert grown < 400_000


async def test_late_frames_for_streams_long_forgotten() -> None:
    async with h2_server(answer_all) as server:
        client = Prober(server)
        for start in range(1, 4001, 200):
            client.send(*(headers(n) for n in range(start, start + 200, 2)))
            await turns(4)
        client.send(window_update(1, 1), rst_stream(3), frame(2, 0, 5, bytes(5)))
        client.send(headers(4001))
        seen = await client.settle()
        assert len(seen.answers) == 2001
        assert not seen.goaways


async def test_an_endless_contest_of_two_streams_leaves_nothing_behind() -> None:
    stage = Stage()
    async with h2_server(stage) as server:
        client = Prober(server)
        for number, priority in (1, b"u=0"), (3, b"u=7"), (5, b"u=7, i"):
            client.send(headers(number, request(extra=[(b"priority", priority)])))
        scheduler = Scheduler()
        streams: list[Any] = [await stage.next() for _ in range(3)]
        for stream in streams:
            scheduler.add(stream)
        for turn in range(20_000):
            scheduler.add(scheduler.next())
            streams[1].priority = Priority(turn % 8)
            scheduler.add(streams[1])
        assert largest(client.protocol, scheduler)[0] < 1000
        client.transport.lose()
        await turns()


async def test_unknown_settings_are_not_kept() -> None:
    async with h2_server(answer_all) as server:
        client = Prober(server)
        frames = [
            settings((number, 2**32 - 1) for number in range(start, start + 8))
            for start in range(16, 1536, 8)
        ]
        client.send(headers(1))
        await client.settle()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for each in frames:
                client.send(each)
            await client.settle()
            client.seen.others.clear()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert grown < 50_000
        assert largest(client.protocol)[0] <= 1000
        client.send(headers(3))
        assert (await client.settle()).status(3) == 200


async def test_priorities_of_streams_that_never_come_are_not_kept() -> None:
    async with h2_server(answer_all, h2_control_burst=10**6) as server:
        client = Prober(server)
        for number in range(1, 40_001, 2):
            payload = struct.pack(">L", number) + b"u=1, i"
            client.send(frame(PRIORITY_UPDATE, 0, 0, payload))
        size, what = largest(client.protocol)
        assert size <= 1000, what


@pytest.mark.parametrize("size", [2**32 - 1, 65536, 4096, 100, 0])
async def test_the_table_of_a_peer_is_used_within_bounds(size: int) -> None:
    """Whatever table the client offers, 4,096 bytes are the most that we use of it."""

    async def app(stream: StreamState) -> None:
        fields = [(b"x-%d" % n, stream.head.target * 9) for n in range(20)]
        await stream.send_response(200, fields, b"ok")

    async with h2_server(app) as server:
        client = Prober(server)
        client.decoder.max_allowed_table_size = min(size, 4096)
        client.send(settings({1: size}))
        for number in range(1, 401, 2):
            client.send(headers(number, request(b"/%d" % number)))
            if number % 20 == 1:
                seen = await client.settle()
        seen = await client.settle()
        assert len(seen.answers) == 200
        assert library(client.protocol).encoder.header_table._maxsize <= 4096
        assert largest(client.protocol)[0] <= 1000


@pytest.mark.parametrize("sizes", [[100, 100], [0, 4096], [0, 2**32 - 1], [*range(150)], [50, 0]])
async def test_changes_of_the_table_are_announced(sizes: list[int]) -> None:
    """A smaller table is acknowledged at the next block's start, with two updates at most."""
    async with h2_server(answer_all) as server:
        client = Prober(server)
        for size in sizes:
            client.send(settings({1: size}))
        await client.settle()
        client.send(headers(1), headers(3))
        await turns(20)
        client.take()
        blocks = [each.payload for each in client.frames if each.kind == HEADERS]
        assert len(blocks) == 2
        updates = []
        rest = blocks[0]
        while rest[0] & 0xE0 == 0x20:
            value, used = hpack.hpack.decode_integer(rest, 5)
            updates.append(value)
            rest = rest[used:]
        assert 1 <= len(updates) <= 2
        assert updates[0] <= min(sizes)
        assert updates[-1] <= min(sizes[-1], 4096)
        assert blocks[1][0] & 0xE0 != 0x20


# -- What is queued ----------------------------------------------------------------------------

LARGE = settings({4: 2**31 - 1}) + window_update(0, 2**31 - 1 - 65535)


@pytest.mark.parametrize("size", [33_000_000, 16_000, 0])
@pytest.mark.parametrize("number", [1, 20, 100])
async def test_a_window_of_two_gigabytes_fills_no_memory(size: int, number: int) -> None:
    """What waits is bounded by our own buffers: 64 KiB a stream, and the transport's."""
    body = bytes(size)

    async def app(stream: StreamState) -> None:
        if size:
            await stream.send_response(200, (), body)
            return
        stream.send_head(200, ())
        while True:
            await stream.send_data(bytes(100_000))

    async with h2_server(app) as server:
        client = Prober(server)
        client.send(LARGE)
        await client.settle()
        client.transport.hold()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            client.send(*(headers(n) for n in range(1, 2 * number, 2)))
            await turns(200)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert len(client.transport.output) <= 65536 + 65536 + 16384
        assert grown <= 300_000 + number * 120_000
        client.transport.lose()
        await turns(20)
        assert not server.connections.tasks


async def test_the_transport_is_filled_again_and_again() -> None:
    body = bytes(3_000_000)

    async def app(stream: StreamState) -> None:
        await stream.send_response(200, (), body)

    async with h2_server(app) as server:
        client = Prober(server)
        client.send(LARGE)
        await client.settle()
        client.transport.hold()
        client.send(headers(1))
        received = 0
        for _ in range(200):
            await turns(6)
            assert len(client.transport.output) <= 65536 + 65536 + 16384
            received += len(client.transport.release())
            client.transport.hold()
        assert received > 3_000_000
        assert not client.protocol.streams


async def test_a_buffer_may_be_used_again() -> None:
    """Once ``send_data`` has returned, the bytes are the server's, and the buffer the caller's."""

    async def app(stream: StreamState) -> None:
        stream.send_head(200, ())
        buffer = bytearray(b"first ")
        await stream.send_data(buffer)
        buffer[:] = b"second"
        await stream.send_data(memoryview(buffer))
        buffer.clear()
        await stream.end()

    async with h2_server(app) as server:
        client = Prober(server)
        client.send(headers(1), settings({4: 9}), headers(3))
        await client.settle()
        client.send(window_update(1, 9), window_update(3, 9))
        seen = await client.settle()
        assert seen.body(1) == seen.body(3) == b"first second"


# -- What is given back ------------------------------------------------------------------------


async def test_what_is_on_its_way_to_a_stream_that_was_reset_is_given_back() -> None:
    async with h2_server(Mirror()) as server:
        client = Prober(server)
        uploader = Uploader(client, 1048576)
        await uploader.settle()
        for number in range(1, 81, 2):
            client.send(headers(number, GET[:3], end=False))
            uploader.upload(number, 64_000, 50)
            await uploader.settle()
        assert uploader.window >= HALF
        assert len(client.seen.resets) == 40


class Uploader:
    """Sends as much as the connection's window allows, and never more."""

    def __init__(self, client: Prober, window: int) -> None:
        self.client = client
        self.window = window

    def upload(self, stream: int, size: int, padding: int | None = None) -> None:
        while size > 0:
            piece = min(size, 16000)
            size -= piece
            frame_bytes = data(stream, bytes(piece), padding=padding)
            self.window -= len(frame_bytes) - 9
            assert self.window >= 0, "the connection's window has leaked away"
            self.client.send(frame_bytes)

    async def settle(self) -> None:
        seen = await self.client.settle()
        assert not seen.goaways
        for each in seen.others:
            if each.kind == WINDOW_UPDATE and not each.stream:
                self.window += each.number
        seen.others.clear()


#: What may stay ungranted at any time: updates come when half a window is to be given back.
HALF = 1048576 // 2


async def never_reads(stream: StreamState) -> None:
    await stream.disconnected()
    await asyncio.Event().wait()


async def reads_all(stream: StreamState) -> None:
    await stream.read_async()
    await stream.send_response(200, (), b"ok")


async def answers_early(stream: StreamState) -> None:
    await stream.send_response(200, (), b"no")


async def answers_late_and_reads_not(stream: StreamState) -> None:
    await turns(50)
    await stream.send_response(200, (), b"no")


async def fails(stream: StreamState) -> None:
    stream.send_head(200, ())
    await asyncio.sleep(0)
    stream.reset()


async def reads_some(stream: StreamState) -> None:
    await stream.receive()
    await stream.send_response(200, (), b"enough")


ABANDONED = {
    "reset": (never_reads, None, lambda n: rst_stream(n)),
    "reset-padded": (never_reads, 255, lambda n: rst_stream(n)),
    "padded": (reads_all, 255, lambda n: data(n, end=True)),
    "too-long": (never_reads, None, lambda n: data(n, b"x" * 16001)),
    "answered-early": (answers_early, None, lambda n: data(n, end=True)),
    "answered-early-and-reset": (answers_early, 9, lambda n: rst_stream(n)),
    "not-read": (answers_late_and_reads_not, None, lambda n: data(n, end=True)),
    "read-in-part": (reads_some, 77, lambda n: data(n, end=True)),
    "failed": (fails, None, lambda n: b""),
}


@table(ABANDONED, "app, padding, end")
async def test_abandoned_uploads_give_their_window_back(app: Any, padding: Any, end: Any) -> None:
    async with h2_server(app, h2_reset_burst=10**6) as server:
        client = Prober(server)
        uploader = Uploader(client, 1048576)
        await uploader.settle()
        for number in range(1, 81, 2):
            length = [(b"content-length", b"201000")] if end(1)[9:10] == b"x" else []
            client.send(headers(number, [*POST, *length], end=False))
            uploader.upload(number, 100_000, padding)
            await uploader.settle()
            if number not in client.seen.resets:
                uploader.upload(number, 100_000, padding)
            closing = end(number)
            if closing[3:4] == b"\0":
                uploader.window -= len(closing) - 9
            client.send(closing)
            await uploader.settle()
        await turns(60)
        await uploader.settle()
        assert uploader.window >= HALF
        assert not client.closed
        assert not server.connections.tasks
        assert len(client.protocol.streams) <= 1 or app is answers_early


async def test_a_slow_application_holds_its_own_upload_up_and_no_other() -> None:
    stage = Stage()
    async with h2_server(stage) as server:
        client = Prober(server)
        client.send(headers(1, POST, end=False), headers(3, POST, end=False))
        slow, fast = await stage.next(), await stage.next()
        uploader = Uploader(client, 1048576)
        await uploader.settle()
        uploader.upload(1, 256_000)
        for _ in range(20):
            uploader.upload(3, 128_000)
            left = 128_000
            while left:
                left -= len(await fast.receive())
            await uploader.settle()
        assert slow.buffered == 256_000
        assert fast.buffered == 0
        client.send(rst_stream(1))
        await uploader.settle()
        assert uploader.window >= HALF
