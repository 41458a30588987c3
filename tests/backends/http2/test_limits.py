"""
The limits of streams and of header blocks.

They hold from the first byte on, before the client has acknowledged our SETTINGS.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest

from kyoukai.stream import StreamState

from ..frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    GET,
    HEADERS,
    PREFACE,
    REFUSED_STREAM,
    data,
    frame,
    headers,
    literals,
    request,
    rst_stream,
    settings,
)
from ..support import Clock, Mirror, Stage, turns
from .trial import Prober, h2_server, incremental, indexed, table

BLOCK = literals(GET)
POST = request(method=b"POST")


def headers_to(stream: int, *, end: bool = False) -> bytes:
    return headers(stream, POST, end=end)


# -- The limit of streams ----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [3, 100])
async def test_streams_beyond_the_limit_are_refused_alone(limit: int) -> None:
    stage = Stage()
    async with h2_server(stage, h2_max_concurrent_streams=limit) as server:
        client = Prober(server, greet=False)
        client.send(PREFACE, settings(), settings(ack=True))
        assert client.look().others[0].settings[3] == limit
        numbers = range(1, 2 * limit + 1, 2)
        client.send(*(headers(n) for n in numbers))
        excess = [2 * limit + 1, 2 * limit + 3]
        client.send(headers(excess[0]), headers_to(excess[1]) + data(excess[1], b"a", end=True))
        seen = await client.settle()
        assert seen.resets == {n: [REFUSED_STREAM] for n in excess}
        for _ in numbers:
            await stage.answer()
        client.send(headers(excess[1] + 2))
        await stage.answer()
        seen = await client.settle()
        assert [*seen.answers] == [*numbers, excess[1] + 2]
        assert not seen.goaways


async def test_a_refused_head_still_counts_for_the_tables() -> None:
    stage = Stage()
    async with h2_server(stage, h2_max_concurrent_streams=1) as server:
        client = Prober(server)
        client.send(headers(1))
        client.send(frame(HEADERS, 5, 3, BLOCK + incremental(b"x-kept", b"1")))
        await stage.answer()
        client.send(frame(HEADERS, 5, 5, BLOCK + indexed(62)))
        assert (b"x-kept", b"1") in (await stage.answer()).head.headers
        assert (await client.settle()).resets == {3: [REFUSED_STREAM]}


async def test_tasks_of_reset_streams_count_until_they_finish(still: Any) -> None:
    """Otherwise a client opens and resets, and an application that is slow to end piles up."""
    leave = asyncio.Event()
    running = 0

    async def app(stream: StreamState) -> None:
        nonlocal running
        running += 1
        try:
            await stream.disconnected()
        finally:
            try:
                await leave.wait()
            finally:
                running -= 1

    async def stubborn(stream: StreamState) -> None:
        stream.cancel_on_disconnect = False
        await app(stream)

    for each in app, stubborn:
        leave.clear()
        async with h2_server(each, h2_max_concurrent_streams=4) as server:
            client = Prober(server)
            for number in 1, 3, 5, 7:
                client.send(headers(number))
            await turns()
            for number in 1, 3, 5, 7:
                client.send(rst_stream(number))
            await turns()
            assert running == 4
            client.send(headers(9), rst_stream(9), headers(11))
            assert (await client.settle()).resets == {9: [REFUSED_STREAM], 11: [REFUSED_STREAM]}
            assert running == 4
            leave.set()
            await turns()
            assert running == 0
            client.send(headers(13))
            await turns()
            assert not (await client.settle()).resets.get(13)
            assert not client.closed


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_refused_streams_count_once_the_limit_is_known(
    acknowledged: bool, still: Any
) -> None:
    """Before, a client cannot know how many it may open (RFC 9113 section 6.5.3)."""
    async with h2_server(Stage(), h2_max_concurrent_streams=1, h2_reset_burst=20) as server:
        client = Prober(server, greet=False)
        client.send(PREFACE, settings(), settings(ack=True) if acknowledged else b"")
        numbers = count(1, 2)
        client.send(*(headers(next(numbers)) for _ in range(20)))
        assert not client.look().goaways
        client.send(*(headers(next(numbers)) for _ in range(20)))
        assert client.look().codes == ([ENHANCE_YOUR_CALM] if acknowledged else [])


async def test_a_client_that_never_acknowledges_cannot_have_streams_refused_for_ever(
    still: Any,
) -> None:
    async with h2_server(Stage(), h2_max_concurrent_streams=1, header_timeout=10) as server:
        client = Prober(server, greet=False)
        client.send(PREFACE, settings())
        numbers = count(1, 2)
        for _ in range(6):
            client.send(*(headers(next(numbers)) for _ in range(200)))
            still(5)
            await turns()
        assert client.look().goaways


# -- Header blocks -----------------------------------------------------------------------------


CONTINUATIONS = {
    "full": (frame(CONTINUATION, 0, 1, b"\0\1x\x7f\x80\x7f" + b"y" * 16378), 3),
    "half": (frame(CONTINUATION, 0, 1, b"\0\1x\x7f\xd7\x0f" + b"y" * 2000), 20),
    "bytes": (frame(CONTINUATION, 0, 1, b"\x82"), 33000),
    "empty": (frame(CONTINUATION, 0, 1), 1000),
}


@table(CONTINUATIONS, "each, most")
async def test_floods_of_continuations(each: bytes, most: int, still: Any) -> None:
    async with h2_server(Mirror()) as server:
        client = Prober(server)
        client.send(frame(HEADERS, END_STREAM, 1, b""))
        for _ in range(most):
            client.send(each)
            if client.transport.eof_written:
                break
        assert client.look().codes == [ENHANCE_YOUR_CALM]
        assert len(client.protocol._input) == 0


@pytest.mark.parametrize("streams", [0, 1])
async def test_a_header_block_that_never_ends(streams: int) -> None:
    clock = Clock()
    async with h2_server(Stage(), header_timeout=4, keep_alive_timeout=30) as server:
        client = Prober(server)
        client.send(*(headers(3),) * streams)
        client.send(frame(HEADERS, END_STREAM, 5, BLOCK[:4]))
        for _ in range(7):
            await clock.advance(0.5)
            client.send(frame(CONTINUATION, 0, 5, b"\x84"))
        assert not client.closed
        await clock.advance(1, 0.5)
        assert client.closed
        assert len((await client.settle()).goaways) == 1


BOMBS = {
    "one-large-entry": (incremental(b"x", b"y" * 4000) + indexed(62) * 20000, ENHANCE_YOUR_CALM),
    "many-static-fields": (indexed(2) * 30000, ENHANCE_YOUR_CALM),
    "many-empty-fields": (b"\0\0\0" * 10000, ENHANCE_YOUR_CALM),
    "large-names": (incremental(b"x" * 4000, b"") + b"\x7e\0" * 10000, ENHANCE_YOUR_CALM),
}


@pytest.mark.parametrize("acknowledged", [True, False])
@table(BOMBS, "bomb, code")
async def test_compressed_bombs(bomb: bytes, code: int, acknowledged: bool) -> None:
    """Limits hold before the client has acknowledged our SETTINGS, too."""
    async with h2_server(Mirror()) as server:
        client = Prober(server, greet=False)
        client.send(PREFACE, settings(), settings(ack=True) if acknowledged else b"")
        pieces = [BLOCK + bomb[:16000], bomb[16000:32000]]
        client.send(frame(HEADERS, END_STREAM, 1, pieces[0]))
        client.send(frame(CONTINUATION, END_HEADERS, 1, pieces[1]))
        assert client.look().codes == [code]


async def test_a_head_a_little_too_large_is_answered_431() -> None:
    """The connection goes on, as it was decoded whole: up to twice the limit."""
    async with h2_server(Mirror()) as server:
        client = Prober(server)
        block = BLOCK + incremental(b"x", b"y" * 4000) + indexed(62) * 10
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block))
        client.send(headers(3))
        seen = await client.settle()
        assert [seen.status(1), seen.status(3)] == [431, 200]


async def test_limits_hold_before_the_settings_are_acknowledged() -> None:
    stage = Stage()
    async with h2_server(stage, h2_max_concurrent_streams=2) as server:
        client = Prober(server, greet=False)
        client.send(PREFACE, settings())
        client.send(headers(1, POST, end=False), headers(3), headers(5))
        assert (await client.settle()).resets == {5: [REFUSED_STREAM]}
        for _ in range(16):
            client.send(data(1, bytes(16384)))
        assert not (await client.settle()).goaways
        client.send(data(1, bytes(16384)))
        seen = await client.settle()
        assert seen.codes == [FLOW_CONTROL_ERROR] or seen.resets[1] == [FLOW_CONTROL_ERROR]


async def test_a_small_window_does_not_hurt_a_client_that_cannot_know_of_it() -> None:
    """Until it has read our SETTINGS, a client may send 65,535 bytes (RFC 9113 section 6.9.2)."""
    app = Mirror()
    async with h2_server(app, h2_stream_window=16384) as server:
        client = Prober(server, greet=False)
        client.send(PREFACE, settings(), headers(1, POST, end=False))
        client.send(*(data(1, bytes(10000)) for _ in range(6)), settings(ack=True))
        client.send(data(1, end=True))
        seen = await client.settle()
        assert seen.status(1) == 200
        assert len(app.bodies[0]) == 60000
