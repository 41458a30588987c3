"""Clients that take their time: each has a limit, whatever it does meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from kyoukai.exceptions import BodyTimeout, PeerGone
from kyoukai.stream import StreamState

from ..frames import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    NO_ERROR,
    PING,
    PREFACE,
    data,
    frame,
    headers,
    request,
    settings,
    window_update,
)
from ..support import Clock, Mirror, Stage, turns
from .trial import Negotiated, Prober, h2_server

POST = request(method=b"POST")


@pytest.mark.parametrize("requests", [0, 1])
async def test_pings_do_not_keep_an_idle_connection(requests: int) -> None:
    clock = Clock()
    async with h2_server(Mirror(), keep_alive_timeout=10) as server:
        client = Prober(server)
        client.send(*(headers(1),) * requests)
        for _ in range(9):
            await clock.advance(1)
            client.send(frame(PING, 0, 0, bytes(8)), window_update(0, 1))
        assert not (await client.settle()).goaways
        await clock.advance(2, 0.5)
        assert (await client.settle()).codes == [NO_ERROR]
        assert client.closed
        await clock.advance(1, 0.5)
        assert not server.connections.open


async def test_a_part_of_a_frame_does_not_keep_an_idle_connection() -> None:
    clock = Clock()
    async with h2_server(Mirror(), keep_alive_timeout=10) as server:
        client = Prober(server)
        sent = frame(99, 0, 0, bytes(100))
        for index in range(22):
            client.send(sent[index : index + 1])
            await clock.advance(0.5)
        assert client.closed


async def test_a_hundred_streams_without_a_window_are_given_up() -> None:
    """What they hold is bounded, and not for ever."""
    clock = Clock()
    gone = 0

    async def app(stream: StreamState) -> None:
        nonlocal gone
        try:
            await stream.send_response(200, (), bytes(1_000_000))
        except (PeerGone, asyncio.CancelledError):
            gone += 1
            raise

    async with h2_server(app, send_stall_timeout=20, keep_alive_timeout=10) as server:
        client = Prober(server)
        client.send(settings({4: 0}), *(headers(n) for n in range(1, 201, 2)))
        await clock.advance(15, 5)
        assert not (await client.settle()).resets
        for _ in range(6):  # PINGs are no progress
            await clock.advance(5)
            client.send(frame(PING, 0, 0, bytes(8)))
        seen = await client.settle()
        assert seen.resets == {n: [CANCEL] for n in range(1, 201, 2)}
        assert gone == 100
        assert not server.connections.tasks
        await clock.advance(12, 1)
        assert client.closed


async def test_progress_keeps_a_slow_stream_alive() -> None:
    clock = Clock()

    async def app(stream: StreamState) -> None:
        await stream.send_response(200, (), bytes(100))

    async with h2_server(app, send_stall_timeout=10) as server:
        client = Prober(server)
        client.send(settings({4: 10}), headers(1))
        for _ in range(9):
            await clock.advance(9, 3)
            client.send(window_update(1, 10))
        assert len((await client.settle()).body(1)) == 100


@pytest.mark.parametrize("body", [b"", b"x"])
async def test_bodies_that_do_not_come(body: bytes) -> None:
    clock = Clock()
    app = Mirror()
    async with h2_server(app, min_body_grace=5) as server:
        client = Prober(server)
        client.send(*(headers(n, POST, end=False) for n in range(1, 41, 2)))
        for _ in range(4):
            await clock.advance(1)
            client.send(*(data(n, body) for n in range(1, 41, 2)) if body else b"")
        assert not (await client.settle()).answers
        await clock.advance(4, 1)
        seen = await client.settle()
        assert {seen.status(n) for n in range(1, 41, 2)} == {408}
        assert len(app.errors) == 20
        assert all(isinstance(error, BodyTimeout) for error in app.errors)
        await clock.advance(0.5, 0.1)
        assert not client.protocol.streams
        assert not client.closed


async def test_a_full_connection_window_is_not_the_fault_of_the_stream_that_waits() -> None:
    """Slow handlers of other streams have not read: the client may not send to this one."""
    clock = Clock()
    stage = Stage()
    async with h2_server(stage, h2_connection_window=262144) as server:
        client = Prober(server)
        client.send(headers(1, POST, end=False), headers(3, POST, end=False))
        for _ in range(16):
            client.send(data(1, bytes(16384)))
        slow, waiting = await stage.next(), await stage.next()
        reading = asyncio.ensure_future(waiting.read_async())
        await clock.advance(30, 1)
        assert not reading.done(), "408, though it was not allowed to send"
        left = 262144
        while left:
            left -= len(await slow.receive())
        client.send(data(3, b"now", end=True))
        assert await reading == b"now"
        await slow.send_response(200, (), b"")
        await waiting.send_response(200, (), b"")
        stage.leave(slow)
        stage.leave(waiting)
        await client.settle()


async def test_the_log_is_no_target(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand bad connections make a line or two, and no traceback."""
    async with h2_server(Mirror()) as server:
        for number in range(1000):
            client = Prober(server, greet=False)
            client.send(PREFACE + settings() + (headers(2), frame(99)[:3] * 9)[number % 2])
            client.transport.feed_eof()
        await turns()
        assert not server.connections.open
    assert len(caplog.records) <= 2
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert all(record.exc_info is None for record in caplog.records)


async def test_what_lingers_takes_nothing_in(still: Any) -> None:
    """After a GOAWAY what comes is dropped unread, and soon the connection is."""
    async with h2_server(Mirror(), linger_timeout=2) as server:
        client = Prober(server)
        client.send(frame(PING, 0, 0, bytes(8)) * 1000)
        assert client.look().codes == [ENHANCE_YOUR_CALM]
        protocol = client.protocol
        for _ in range(50):
            client.send(headers(1) + bytes(100_000))
        assert not protocol._input
        assert not protocol.streams
        assert client.transport.is_reading()
        client.transport.feed_eof()
        await turns()
        assert not server.connections.open


async def test_the_end_of_a_client_is_heard_although_reading_was_paused(still: Any) -> None:
    async with h2_server(Mirror(), h2_control_burst=10**6) as server:
        client = Prober(server)
        client.transport.hold()
        while client.transport.is_reading():
            client.send(frame(PING, 0, 0, bytes(8)) * 100)
        client.protocol.close()
        client.transport.feed_eof()
        await turns()
        assert not server.connections.open


@pytest.mark.parametrize("sending", [True, False])
async def test_over_tls_a_bad_connection_lingers_while_something_comes(sending: bool) -> None:
    """Its own direction cannot be closed alone; but who goes on sending gets no longer for it."""
    clock = Clock()
    async with h2_server(Mirror(), linger_timeout=2) as server:
        client = Prober(server, ssl_object=Negotiated())
        client.send(frame(PING, 0, 0, b"short"))
        steps = 0
        while not client.transport.closed and steps < 30:
            await clock.advance(0.1)
            steps += 1
            if sending:
                client.send(bytes(1000))
        assert (20 <= steps <= 23) if sending else (2 <= steps <= 5)
        assert (await client.settle()).codes == [FRAME_SIZE_ERROR]
        assert not server.connections.open
