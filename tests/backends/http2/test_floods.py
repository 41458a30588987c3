"""
Clients that cost a server more than themselves: each ends in ENHANCE_YOUR_CALM, or costs nothing.

Frames are sent as raw bytes, and the clock stands still unless a test puts it forward: what a
bucket lets pass is then exact.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from itertools import count, islice
from typing import Any

import pytest

from kyoukai.config import ServerConfig
from kyoukai.exceptions import PeerGone
from kyoukai.stream import StreamState

from ..frames import (
    ACK,
    DATA,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    GET,
    GOAWAY,
    PING,
    PRIORITY,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
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
from .trial import Prober, h2_server, table

DEFAULTS = {
    "h2_max_concurrent_streams": 100,
    "h2_stream_window": 262144,
    "h2_connection_window": 1048576,
    "h2_reset_burst": 200,
    "h2_reset_rate": 33.0,
    "h2_control_burst": 200,
    "h2_control_rate": 20.0,
}

BLOCK = literals(GET)
POST = request(method=b"POST")


def test_defaults() -> None:
    config = ServerConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


async def answer_all(stream: StreamState) -> None:
    await stream.send_response(200, (), b"ok")


# -- Resets: rapid reset and MadeYouReset ------------------------------------------------------


def long_head(stream: int) -> bytes:
    return headers(stream, [*POST, (b"content-length", b"1")], end=False)


def headers_to(stream: int, *, end: bool = False) -> bytes:
    return headers(stream, POST, end=end)


#: Bytes that open a stream and make either side reset it; the code if it is the server.
RESETS: dict[str, tuple[Callable[[int], bytes], tuple[int, ...]]] = {
    "rapid": (lambda n: headers(n) + rst_stream(n), ()),
    "rapid-with-a-body": (lambda n: headers_to(n) + data(n, b"abc") + rst_stream(n), ()),
    "rapid-after-the-body": (lambda n: headers_to(n) + data(n, end=True) + rst_stream(n, 0), ()),
    "window-0": (lambda n: headers_to(n) + window_update(n, 0), (PROTOCOL_ERROR,)),
    "window-0-half-closed": (lambda n: headers(n) + window_update(n, 0), (PROTOCOL_ERROR,)),
    "window-overflow": (
        lambda n: headers(n) + window_update(n, 2**31 - 1),
        (FLOW_CONTROL_ERROR,),
    ),
    "data-half-closed": (lambda n: headers(n) + data(n, b"a"), (STREAM_CLOSED,)),
    "data-end-half-closed": (lambda n: headers(n) + data(n, end=True), (STREAM_CLOSED,)),
    "headers-half-closed": (lambda n: headers(n) + headers(n), (STREAM_CLOSED,)),
    "priority-on-itself": (
        lambda n: headers(n) + frame(PRIORITY, 0, n, struct.pack(">LB", n, 1)),
        (PROTOCOL_ERROR,),
    ),
    "too-long": (lambda n: long_head(n) + data(n, b"ab"), (PROTOCOL_ERROR,)),
    "too-short": (lambda n: long_head(n) + data(n, end=True), (PROTOCOL_ERROR,)),
    "no-body": (lambda n: headers(n, [*POST, (b"content-length", b"1")]), (PROTOCOL_ERROR,)),
    "malformed-head": (lambda n: headers(n, GET[:3]), (PROTOCOL_ERROR,)),
    "malformed-trailers": (
        lambda n: headers_to(n) + headers(n, [(b"X", b"y")]),
        (PROTOCOL_ERROR,),
    ),
    "trailers-that-go-on": (
        lambda n: headers_to(n) + headers(n, [(b"x", b"y")], end=False),
        (PROTOCOL_ERROR,),
    ),
}


@table(RESETS, "attack, codes")
async def test_floods_of_resets(
    attack: Callable[[int], bytes], codes: tuple[int, ...], still: Any
) -> None:
    """Each counts, whoever sends it; the tasks that it starts are cancelled, and never many."""
    most = 0

    async def app(stream: StreamState) -> None:
        nonlocal most
        most = max(most, len(server.connections.tasks))
        await stream.disconnected()
        await asyncio.Event().wait()

    async with h2_server(app) as server:
        client = Prober(server)
        numbers = count(1, 2)
        for done in range(200):
            client.send(attack(next(numbers)))
            seen = client.look()
            if seen.goaways:  # some of these may be errors of the connection, but at once
                assert done == 0
                assert seen.codes[0] in codes
                break
            if done % 50 == 0:
                await turns(4)
        else:
            if codes:
                assert {each for got in seen.resets.values() for each in got} == set(codes)
            else:
                assert not seen.resets
            assert not client.closed
            for _ in range(2):
                client.send(attack(next(numbers)))
            assert client.look().codes == [ENHANCE_YOUR_CALM]
            assert b"h2_reset_burst" in client.seen.goaways[0].payload
        await turns(30)
        assert client.closed
        assert most <= 100
        assert not server.connections.tasks


@pytest.mark.parametrize("attack", [RESETS["rapid"][0], RESETS["data-half-closed"][0]])
async def test_resets_come_back_at_their_rate(attack: Any, still: Any) -> None:
    async with h2_server(answer_all, h2_reset_burst=10, h2_reset_rate=5.0) as server:
        client = Prober(server)
        numbers = count(1, 2)
        for _ in range(10):
            client.send(attack(next(numbers)))
        for _ in range(20):
            still(1)
            for _ in range(5):
                client.send(attack(next(numbers)))
            await turns()
        assert not client.look().goaways
        still(0.19)
        client.send(attack(next(numbers)))
        assert client.look().codes == [ENHANCE_YOUR_CALM]


async def test_one_read_full_of_resets(still: Any) -> None:
    """What one read holds is not served whole before anyone counts."""
    started = []

    async def app(stream: StreamState) -> None:
        started.append(stream)
        await asyncio.Event().wait()

    async with h2_server(app) as server:
        client = Prober(server)
        client.send(b"".join(headers(n) + rst_stream(n) for n in range(1, 10001, 2)))
        await turns()
        assert client.look().codes == [ENHANCE_YOUR_CALM]
        assert client.seen.goaways[0].number < 500
        assert started == []
        assert not server.connections.tasks


async def test_resets_of_closed_streams_are_not_free(still: Any) -> None:
    async with h2_server(answer_all) as server:
        client = Prober(server)
        client.send(headers(1))
        assert (await client.settle()).status(1) == 200
        client.send(rst_stream(1) * 2000)
        assert client.look().codes == [ENHANCE_YOUR_CALM]


async def test_an_application_that_resets_its_streams_costs_the_client_nothing(
    still: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what the client provokes counts: not our own failures, and not NO_ERROR."""

    async def app(stream: StreamState) -> None:
        if stream.head.path == "/reset":
            stream.reset()
            return
        stream.send_head(200, ())
        await stream.send_data(b"some")
        raise LookupError("broken")

    async with h2_server(app, h2_reset_burst=5) as server:
        client = Prober(server)
        for number in range(1, 101, 4):
            client.send(headers(number, request(b"/reset")), headers(number + 2))
            await turns()
        seen = client.look()
        assert not seen.goaways
        assert len(seen.resets) == 50
    caplog.clear()


# -- Control frames ----------------------------------------------------------------------------


#: Frames that ask for nothing. Each may come 200 times, and then 20 times a second.
CONTROL: dict[str, bytes] = {
    "ping": frame(PING, 0, 0, bytes(8)),
    "ping-ack": frame(PING, ACK, 0, bytes(8)),
    "settings": settings(),
    "settings-that-change": settings({4: 65535, 1: 0}),
    "settings-unknown": settings({999: 1}),
    "settings-ack": settings(ack=True),
    "priority": frame(PRIORITY, 0, 1, bytes(4) + b"\x10"),
    "priority-of-idle": frame(PRIORITY, 0, 9999, bytes(4) + b"\x10"),
    "priority-update": frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\1u=1"),
    "priority-update-of-idle": frame(PRIORITY_UPDATE, 0, 0, b"\0\0\x0f\1u=1"),
    "unknown": frame(77, 0, 0, b"x"),
    "unknown-on-a-stream": frame(250, 9, 1),
    "empty-data": data(1),
    "padded-empty-data": data(1, padding=0),
    "all-padding-data": data(1, padding=1),
    "window-update": window_update(0, 1),
    "window-update-of-a-stream": window_update(1, 1),
    "window-update-of-a-closed-stream": window_update(3, 1),
    "window-update-of-a-reset-stream": window_update(5, 1),
    "data-of-a-reset-stream": data(5, b"x"),
    "end-of-a-reset-stream": data(5, end=True),
    "trailers-of-a-reset-stream": headers(5),
}


@table(CONTROL, "each")
async def test_floods_of_control_frames(each: bytes, still: Any) -> None:
    stage = Stage()
    async with h2_server(stage) as server:
        client = Prober(server)
        client.send(headers(1, POST, end=False), headers(3), headers(5, GET[:3]))
        await stage.next()
        await stage.answer()
        await turns()
        client.look()
        for _ in range(190):
            client.send(each)
        assert not client.look().goaways
        client.send(each * 30)  # the ACK, two requests and a frame of ours have earned a few
        assert client.look().codes == [ENHANCE_YOUR_CALM]
        assert b"h2_control_burst" in client.seen.goaways[0].payload
        assert client.closed


@pytest.mark.parametrize("each", [CONTROL["ping"], CONTROL["settings"], CONTROL["unknown"]])
async def test_control_frames_come_back_at_their_rate(each: bytes, still: Any) -> None:
    async with h2_server(Mirror(), h2_control_burst=10, h2_control_rate=4.0) as server:
        client = Prober(server)
        still(100)
        client.send(each * 10)
        for _ in range(20):
            still(0.5)
            client.send(each * 2)
        assert not client.look().goaways
        client.send(each)
        assert client.look().codes == [ENHANCE_YOUR_CALM]


async def test_large_settings_count_by_their_length(still: Any) -> None:
    """One frame of 2,700 of them takes a millisecond, and a client needs no more than a few."""
    async with h2_server(Mirror()) as server:
        client = Prober(server)
        client.send(settings((number, 1) for number in range(16, 116)))
        client.send(headers(1))
        assert (await client.settle()).status(1) == 200
        for _ in range(10):
            client.send(settings((number, 1) for number in range(16, 2716)))
        assert client.look().codes == [ENHANCE_YOUR_CALM]


async def test_goaways_from_the_client_are_not_free(still: Any) -> None:
    async with h2_server(Stage()) as server:
        client = Prober(server)
        client.send(headers(1))
        client.send(frame(GOAWAY, 0, 0, bytes(8)) * 1000)
        await turns()
        assert client.look().codes[-1] == ENHANCE_YOUR_CALM
        assert len(client.seen.goaways) <= 3
        assert client.closed


async def test_small_pieces_of_a_body_are_no_flood(still: Any) -> None:
    app = Mirror()
    async with h2_server(app) as server:
        client = Prober(server)
        client.send(headers(1, POST, end=False))
        for _ in range(2000):
            client.send(data(1, b"x"))
        client.send(data(1, end=True))
        assert (await client.settle()).status(1) == 200
        assert app.bodies == [b"x" * 2000]


async def test_pongs_do_not_pile_up_for_a_client_that_reads_nothing(still: Any) -> None:
    async with h2_server(Mirror(), h2_control_burst=10**6) as server:
        client = Prober(server)
        client.transport.hold()
        for _ in range(200):
            client.send(frame(PING, 0, 0, bytes(8)) * 100)
        assert not client.transport.is_reading()
        assert len(client.transport.output) <= 65536 + 100 * 17
        pongs = len(client.transport.output) // 17
        taken = client.transport.release()
        await turns()
        assert client.transport.is_reading()
        assert pongs + len(client.transport.take()) // 17 == 20000
        assert len(taken) == pongs * 17


async def test_an_honest_client_trips_nothing(still: Any) -> None:
    """50,000 requests on one connection, in a time that gives no bucket anything back."""
    body = b"x" * 100
    fields = ((b"content-type", b"text/plain"),)

    async def app(stream: StreamState) -> None:
        await stream.send_response(200, fields, body)

    async with h2_server(app) as server:
        client = Prober(server)
        numbers = count(1, 2)
        ended = 0
        for _ in range(500):
            frames = [frame(PING, 0, 0, b"honestly")]
            for number in islice(numbers, 100):
                frames += [headers(number), window_update(number, 100), window_update(0, 100)]
            client.send(*frames)
            await turns(2)
            # The heads of DATA frames that end a stream: counted, as parsing all would take long.
            ended += client.transport.take().count(b"\0\0\x64\0\1")
        assert ended == 50_000
        assert not client.closed
        assert not client.protocol.streams


async def test_a_client_that_gives_a_window_for_each_frame_trips_nothing(still: Any) -> None:
    async def app(stream: StreamState) -> None:
        stream.send_head(200, ())
        for _ in range(3000):
            await stream.send_data(bytes(1000))
        await stream.end()

    async with h2_server(app) as server:
        client = Prober(server)
        client.send(headers(1))
        received = 0
        while received < 3_000_000:
            await turns(2)
            frames = client.take()
            client.frames.clear()
            for each in frames:
                assert each.kind != GOAWAY
                if each.kind == DATA and each.payload:
                    received += len(each.payload)
                    client.send(window_update(0, len(each.payload)))
                    client.send(window_update(1, len(each.payload)))
        assert not client.closed


async def test_credit_for_control_frames_is_bounded(still: Any) -> None:
    async with h2_server(answer_all) as server:
        client = Prober(server)
        for start in range(1, 4001, 200):
            client.send(*(headers(n) for n in range(start, start + 200, 2)))
            await turns(4)
        client.send(frame(PING, 0, 0, bytes(8)) * 1150)
        assert not client.look().goaways
        client.send(frame(PING, 0, 0, bytes(8)) * 60)
        assert client.look().codes == [ENHANCE_YOUR_CALM]


async def test_other_connections_notice_nothing(still: Any) -> None:
    stage = Stage()
    async with h2_server(stage) as server:
        clients = [Prober(server) for _ in range(3)]
        for client in clients:
            client.send(headers(1))
        streams = [await stage.next() for _ in clients]
        clients[1].send(frame(PING, 0, 0, bytes(8)) * 5000)
        for stream in streams:
            try:
                await stream.send_response(200, (), b"ok")
            except PeerGone:
                continue
            stage.leave(stream)
        await turns()
        assert [client.closed for client in clients] == [False, True, False]
        assert clients[0].look().status(1) == clients[2].look().status(1) == 200
