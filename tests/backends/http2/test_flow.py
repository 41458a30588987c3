"""Flow control, both ways: windows, credit, backpressure."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.exceptions import BodyError, PeerGone
from kyoukai.stream import RESET, StreamState
from kyoukai.testing import MemoryServer

from .. import frames as f
from ..frames import FrameClient
from ..support import Mirror, Stage, turns
from .support import (
    POST,
    credit,
    distinct,
    drain,
    payload,
    serving,
    serving_client,
)

# -- Uploads -----------------------------------------------------------------------------------


async def test_credit_returns_on_uploads() -> None:
    """A fault of 2018: uploads stopped for ever after one window."""
    async with serving_client(h2_stream_window=65_536, h2_connection_window=65_536) as (
        stage,
        client,
        _,
    ):
        body = distinct(5_000_000)
        exchange = client.request("POST", body=body)
        stream = await stage.next()
        assert await stream.read_async() == body
        await stream.send_response(200, ())
        stage.leave(stream)
        assert (await exchange.finished()).status == 200


async def test_credit_returns_as_the_application_takes() -> None:
    """... and not before: what waits is never more than a window."""
    window = 65_536
    async with serving(h2_stream_window=window, h2_connection_window=window) as (stage, client):
        client.send(f.headers(1, POST, end=False), *[f.data(1, bytes(16_384))] * 4)
        stream = await stage.next()
        assert stream.buffered == window
        assert credit(await client.settled(), 1) == credit(client.frames, 0) == 0
        taken = 0
        while taken < window:
            taken += len(await stream.receive())
            frames = await client.settled()
            assert credit(frames, 1) <= taken
            assert credit(frames, 0) <= taken
        for number in (0, 1):
            assert window // 2 <= credit(client.take(), number) <= window


async def test_a_slow_application_stalls_the_upload() -> None:
    async with serving_client(h2_stream_window=100_000) as (stage, client, _):
        body = distinct(1_000_000)
        exchange = client.request("POST", body=body)
        stream = await stage.next()
        await turns()
        assert stream.buffered == stream.received == 100_000
        assert exchange.window == 0
        parts = []
        while part := await stream.receive():
            parts.append(part)
            await turns()
            assert stream.buffered <= 100_000
        assert b"".join(parts) == body


async def test_an_upload_that_stalls_holds_up_no_other() -> None:
    settings = {"h2_stream_window": 65_536, "h2_connection_window": 150_000}
    async with serving_client(**settings) as (stage, client, _):
        stalled = client.request("POST", body=bytes(200_000))
        await stage.next()
        await turns()
        assert stalled.window == 0
        client.request("POST", body=bytes(2_000_000))
        stream = await stage.next()
        assert len(await stream.read_async()) == 2_000_000


async def test_the_windows_of_uploads_may_be_large_or_small() -> None:
    for window, most in ((1024, 65_535), (4_000_000, 8_000_000)):
        async with serving_client(Mirror(), h2_stream_window=window, h2_connection_window=most) as (
            app,
            client,
            _,
        ):
            response = await client.request("POST", body=distinct(200_000)).finished()
            assert response.body == b"POST / " + distinct(200_000)


async def test_more_than_the_window_is_an_error() -> None:
    async with serving(h2_stream_window=20_000) as (stage, client):
        client.send(f.headers(1, POST, end=False), *[f.data(1, bytes(10_000))] * 3)
        frame = await client.next(f.RST_STREAM, f.GOAWAY)
        assert frame.code == f.FLOW_CONTROL_ERROR


async def test_padding_is_refunded() -> None:
    """Each frame costs 257 bytes of the windows and brings one."""
    window = 65_536
    async with serving(h2_stream_window=window, h2_connection_window=window) as (stage, client):
        client.send(f.headers(1, POST, end=False))
        stream = await stage.next()
        reading = asyncio.ensure_future(stream.read_async())
        room = {0: window, 1: window}
        for number in range(1000):
            if min(room.values()) < 257:
                await turns()
                frames = drain(client, f.WINDOW_UPDATE)
                for each in room:
                    room[each] += credit(frames, each)
                    assert 257 <= room[each] <= window
            client.send(f.data(1, bytes([number % 256]), padding=255))
            room = {each: left - 257 for each, left in room.items()}
        client.send(f.data(1, b"", True, padding=0))
        assert await reading == bytes(number % 256 for number in range(1000))


async def test_frames_of_nothing_but_padding_are_refunded_at_once() -> None:
    async with serving(h2_stream_window=65_536, h2_control_burst=1000) as (stage, client):
        client.send(f.headers(1, POST, end=False))
        stream = await stage.next()
        client.send(*[f.data(1, padding=255)] * 255)  # 65,280 bytes
        frames = await client.settled()
        assert credit(frames, 1) >= 32_768
        assert stream.received == stream.buffered == 0


ABANDONED = 60_000


async def abandoning(stream: StreamState) -> None:
    """What becomes of an upload; the path says what."""
    way = stream.head.path
    if way == "/keep":
        size = 0
        while data := await stream.receive():
            size += len(data)
        await stream.send_response(200, (), b"%d" % size)
    elif way == "/leave":
        await asyncio.Event().wait()
    elif way == "/leave-half":
        await stream.receive()
        await asyncio.Event().wait()
    elif way == "/leave-late":
        stream.cancel_on_disconnect = False
        await stream.disconnected()
        assert await stream.receive()  # what came before can be read
    elif way == "/early":
        await stream.send_response(200, ())
    elif way == "/reset":
        stream.reset("for the test")
    elif way == "/half-answer":
        stream.send_head(200, ())
        await stream.receive()
        stream.reset("for the test")
    elif way == "/limit":
        try:
            stream.set_body_limit(10)
            await stream.read_async()
        except BodyError as error:
            await stream.send_response(error.status, ())


@pytest.mark.parametrize(
    "way",
    [
        "leave",
        "leave-at-once",
        "leave-half",
        "leave-late",
        "early",
        "reset",
        "half-answer",
        "limit",
        "refused",
        "malformed",
        "length",
    ],
)
async def test_abandoned_uploads_are_refunded(way: str) -> None:
    """Forty of them come to many times the connection's window, and still there is room."""
    window = 65_536
    settings: dict[str, Any] = {"h2_stream_window": window, "h2_connection_window": window}
    if way == "refused":
        settings["h2_max_concurrent_streams"] = 1
    async with serving_client(abandoning, **settings) as (_, client, _):
        keep = client.begin("POST", "/keep")
        await turns()
        headers = {"malformed": [("te", "junk")], "length": [("content-length", "10")]}
        for _ in range(40):
            exchange = client.begin("POST", f"/{way}", headers.get(way, ()))
            exchange.data(bytes(ABANDONED))
            if way == "leave-at-once":  # before the task has begun
                exchange.reset()
            for _ in range(20):  # as the credit returns, and no longer than it should take
                if exchange.reset_code is not None or not exchange.waiting:
                    break
                await turns()
            else:
                raise AssertionError(f"the connection's window stands at {client.window}")
            await turns()
            if way.startswith("leave"):
                exchange.reset()
            elif way == "early":
                assert (await exchange.finished()).status == 200
            elif way == "limit":
                assert (await exchange.finished()).status == 413
            else:
                await turns()
                assert exchange.reset_code is not None
            if exchange.reset_code is None:
                exchange.end()
            await turns()
        keep.data(bytes(3_000_000), True)
        assert (await keep.finished()).body == b"3000000"
        assert client.goaways == []


async def test_an_upload_that_was_reset_is_refunded_once() -> None:
    """What waited at the reset, and is read after it, counts once on the connection."""
    window = 65_536
    async with serving(h2_stream_window=window, h2_connection_window=window) as (stage, client):
        client.send(f.headers(1, POST, end=False), f.data(1, bytes(10_000)))
        stream = await stage.next()
        stream.cancel_on_disconnect = False
        client.send(f.rst_stream(1))
        await turns()
        assert len(await stream.receive()) == 10_000
        stage.leave(stream)
        await turns()
        frames = drain(client)
        assert credit(frames, 0) <= 10_000
        assert credit(frames, 1) == 0


# -- Answers and windows -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 131_072])
async def test_bodies_at_the_edges_of_frames_and_windows(size: int) -> None:
    body = distinct(size)

    async def app(stream: StreamState) -> None:
        if stream.head.path == "/":
            await stream.send_response(200, (), body)
            return
        stream.send_head(200, ())
        await stream.send_data(body)
        await stream.end()

    for window in (16_384, 65_535, 1 << 20):
        windows = {"window": window, "connection_window": max(window, 65_535)}
        async with serving_client(app, windows) as (_, client, _):
            for target in ("/", "/streamed"):
                assert (await client.get(target)).body == body
            exchanges = [client.request(target="/"), client.request(target="/streamed")]
            for exchange in exchanges:
                assert (await exchange.finished()).body == body
            frames = [x for x in client.frames if x.kind == f.DATA]
            assert max(len(frame.payload) for frame in frames) <= 16_384


async def test_an_update_of_the_connections_window_wakes_every_stream() -> None:
    """A fault of 2018: only streams whose own window grew went on."""
    async with serving() as (stage, client):
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 1_000_000}))
        client.send(f.headers(1), f.headers(3), f.headers(5))
        bodies = {number: distinct(100_000, number << 20) for number in (1, 3, 5)}
        sending = []
        for _ in bodies:
            stream = await stage.next()
            body = bodies[stream.stream_id]
            sending.append(asyncio.ensure_future(stream.send_response(200, (), body)))
        await turns()
        assert len(payload(client.take())) == 65_535
        assert not any(each.done() for each in sending)
        client.send(f.window_update(0, 1000))
        await turns()
        assert len(payload(client.take())) == 66_535
        client.send(f.window_update(0, 1_000_000))
        await asyncio.gather(*sending)
        frames = drain(client)
        for number, body in bodies.items():
            assert payload(frames, number) == body


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("seed", range(4))
async def test_a_partial_send_repeats_nothing(seed: int, streamed: bool) -> None:
    """A fault of 2018: what had been sent of a piece was sent again. Windows tiny and changing."""
    chance = random.Random(seed)
    body = distinct(3000)

    async def app(stream: StreamState) -> None:
        if not streamed:
            await stream.send_response(200, (), body)
            return
        stream.send_head(200, ())
        rest = body
        while rest:
            size = chance.randrange(1, 600)
            await stream.send_data(rest[:size])
            rest = rest[size:]
        await stream.end()

    async with serving(app, h2_control_burst=100_000) as (_, client):
        initial = 7
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: initial}), f.headers(1))
        room, got, done = 65_535, b"", False
        changes = [initial - 65_535]  # each counts from its acknowledgement on
        while not done:
            if chance.random() < 0.3:
                fresh = chance.randrange(0, 60)
                changes.append(fresh - initial)
                initial = fresh
                client.send(f.settings({f.INITIAL_WINDOW_SIZE: fresh}))
            else:
                step = chance.randrange(1, 90)
                room += step
                client.send(f.window_update(1, step))
            await turns(chance.randrange(8))
            for frame in drain(client, f.DATA, f.SETTINGS):
                if frame.kind == f.SETTINGS:
                    room += changes.pop(0)
                    continue
                got += frame.payload
                room -= len(frame.payload)
                assert room >= 0 or not frame.payload
                done = bool(frame.flags & f.END_STREAM)
            assert got == body[: len(got)]
        assert got == body


async def test_both_windows_count() -> None:
    """The connection's and each stream's, all tiny and changing, over three streams."""
    chance = random.Random(5)
    bodies = {number: distinct(1500, number << 20) for number in (3, 5, 7)}

    async def app(stream: Any) -> None:
        body = bytes(65_535) if stream.stream_id == 1 else bodies[stream.stream_id]
        await stream.send_response(200, (), body)

    async with serving(app, h2_control_burst=100_000) as (_, client):
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 65_535}), f.headers(1))
        await turns()
        assert len(payload(drain(client))) == 65_535
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 0}))
        client.send(*[f.headers(number) for number in bodies])
        room = {0: 0, **dict.fromkeys(bodies, 0)}
        got = dict.fromkeys(bodies, b"")
        while got != bodies:
            number = chance.choice([0, 0, *bodies])
            step = chance.randrange(1, 50)
            room[number] += step
            client.send(f.window_update(number, step))
            await turns(chance.randrange(6))
            for frame in drain(client, f.DATA):
                got[frame.stream] += frame.payload
                for each in (0, frame.stream):
                    room[each] -= len(frame.payload)
                    assert room[each] >= 0
            # Whoever has a window is sent to as far as the connection's goes.
            await turns()
            client.take()
            if room[0] and not client.frames:
                assert all(not room[n] or got[n] == bodies[n] for n in bodies)


async def test_windows_of_one_byte() -> None:
    async with serving(h2_control_burst=1000) as (stage, client):
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 1}), f.headers(1))
        stream = await stage.next()
        body = distinct(100)
        sending = asyncio.ensure_future(stream.send_response(200, (), body))
        await client.next(f.HEADERS)
        got = []
        for _ in body:
            data = await client.next(f.DATA)
            got.append(data.payload)
            assert not client.take() or client.frames[0].kind != f.DATA
            client.send(f.window_update(1, 1))
        assert got == [body[index : index + 1] for index in range(100)]
        await sending
        assert data.flags & f.END_STREAM or (await client.next(f.DATA)).flags & f.END_STREAM


async def test_no_window_is_needed_where_there_is_no_body() -> None:
    async with serving(Stage()) as (stage, client):
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 0}), f.headers(1), f.headers(3))
        await stage.answer(b"")
        assert (await client.answer(1))[2] == b""
        stream = await stage.next()
        stream.send_head(200, ())
        await stream.end([(b"x-a", b"1")])
        await client.next(f.HEADERS)
        assert (await client.next(f.HEADERS, f.DATA)).flags & f.END_STREAM


async def test_an_end_waits_for_nothing_but_what_was_sent_before() -> None:
    async with serving(Stage()) as (stage, client):
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 5}), f.headers(1))
        stream = await stage.next()
        stream.send_head(200, ())

        async def rest() -> None:
            await stream.send_data(b"123456789")
            await stream.end([(b"x-a", b"1")])

        sending = asyncio.ensure_future(rest())
        await turns()
        assert [x.kind for x in drain(client)] == [f.SETTINGS, f.HEADERS, f.DATA]
        client.send(f.window_update(1, 4))
        await sending
        data, trailers = drain(client)
        assert (data.kind, data.payload) == (f.DATA, b"6789")
        assert (trailers.kind, trailers.flags & f.END_STREAM) == (f.HEADERS, f.END_STREAM)


async def test_a_send_that_is_given_up_takes_the_stream_along() -> None:
    """Part of it is on the wire: nothing that followed could make the answer good."""
    async with serving() as (stage, client):
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 3}), f.headers(1))
        stream = await stage.next()
        stream.send_head(200, ())
        sending = asyncio.ensure_future(stream.send_data(b"123456"))
        await turns()
        sending.cancel()
        await turns()
        assert sending.cancelled()
        assert stream.sending is RESET
        frames = drain(client)
        assert payload(frames) == b"123"
        assert frames[-1].kind == f.RST_STREAM
        with pytest.raises(PeerGone):
            await stream.send_data(b"more")
        stage.leave(stream)


async def test_settings_change_the_windows_of_streams_that_wait() -> None:
    async with serving(Stage()) as (stage, client):
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 100}), f.headers(1), f.headers(3))
        streams = [await stage.next(), await stage.next()]
        sending = [
            asyncio.ensure_future(stream.send_response(200, (), distinct(1000)))
            for stream in streams
        ]
        await turns()
        frames = drain(client)
        assert [len(payload(frames, number)) for number in (1, 3)] == [100, 100]
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 150}))  # grown: 50 each
        await turns()
        frames = drain(client)
        assert [payload(frames, number) for number in (1, 3)] == [distinct(1000)[100:150]] * 2
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 20}))  # shrunk: -130 each
        client.send(f.window_update(1, 129))
        await turns()
        assert payload(drain(client)) == b""
        client.send(f.window_update(1, 1))  # 0
        await turns()
        assert payload(drain(client)) == b""
        client.send(f.window_update(1, 3))
        await turns()
        assert payload(drain(client), 1) == distinct(1000)[150:153]
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 2000}))
        await turns()
        frames = drain(client)
        assert payload(frames, 1) == distinct(1000)[153:]
        assert payload(frames, 3) == distinct(1000)[150:]
        await asyncio.gather(*sending)


async def test_several_changes_in_one_frame_and_one_read() -> None:
    async with serving(Stage()) as (stage, client):
        client.send(f.headers(1))
        stream = await stage.next()
        client.send(
            f.settings([(f.INITIAL_WINDOW_SIZE, 0), (f.INITIAL_WINDOW_SIZE, 10)]),
            f.settings({f.INITIAL_WINDOW_SIZE: 3}),
            f.window_update(1, 1),
        )
        sending = asyncio.ensure_future(stream.send_response(200, (), b"123456789"))
        await turns()
        assert payload(drain(client)) == b"1234"
        client.send(f.window_update(1, 5))
        await sending


async def test_frames_are_no_larger_than_the_client_takes() -> None:
    async with serving(Stage()) as (stage, client):
        client.send(f.window_update(0, 1 << 20), f.settings({f.INITIAL_WINDOW_SIZE: 1 << 20}))
        for number, most in ((1, 16_384), (3, 20_000), (5, 16_384)):
            client.send(f.settings({f.MAX_FRAME_SIZE: most}), f.headers(number))
            await stage.answer(distinct(100_000))
            await turns()
            frames = drain(client, f.DATA)
            assert payload(frames) == distinct(100_000)
            assert max(len(frame.payload) for frame in frames) <= most


async def test_a_smaller_table_of_fields_is_obeyed() -> None:
    """A block after the change begins by saying so (RFC 7541 section 4.2)."""
    async with serving(Mirror()) as (_, client):

        async def get(number: int) -> f.Frame:
            client.send(f.headers(number))
            head = await client.next(f.HEADERS)
            assert dict(client.decode(head))[b":status"] == b"200"  # raises if it is not obeyed
            return head

        await get(1)
        for number, size in ((3, 0), (7, 4096), (11, 100), (15, 50)):
            client.send(f.settings({f.HEADER_TABLE_SIZE: size}))
            client.decoder.max_allowed_table_size = size
            head = await get(number)
            if number == 3:
                assert head.payload[0] & 0xE0 == 0x20
            await get(number + 2)
        client.send(f.settings({f.HEADER_TABLE_SIZE: 2**32 - 1}))
        client.decoder.max_allowed_table_size = 4096  # the most that a server should remember
        await get(101)


async def test_a_table_that_shrinks_between_two_answers() -> None:
    """To nothing and back, in one read: the client has dropped its table in between."""
    async with serving(Mirror()) as (_, client):
        client.send(f.headers(1))
        client.decode(await client.next(f.HEADERS))
        client.send(f.settings({f.HEADER_TABLE_SIZE: 0}), f.settings({f.HEADER_TABLE_SIZE: 4096}))
        client.decoder.header_table_size = 0
        client.send(f.headers(3))
        head = await client.next(f.HEADERS, stream=3)
        assert head.payload[0] == 0x20
        assert dict(client.decode(head))[b":status"] == b"200"


# -- The transport -----------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_reads_nothing_costs_little(streamed: bool) -> None:
    """However large its windows are: what is written follows what the transport takes."""
    body = distinct(3_000_000)

    async def app(stream: StreamState) -> None:
        if streamed:
            stream.send_head(200, ())
            await stream.send_data(body)
            await stream.end()
        else:
            await stream.send_response(200, (), body)

    windows = {"window": 2**31 - 1, "connection_window": 2**31 - 1, "gives_credit": False}
    async with serving_client(app, windows) as (_, client, transport):
        await turns()
        transport.hold()
        exchanges = [client.request() for _ in range(4)]
        await turns()
        assert len(transport.output) <= 65_536 + 4 * 16_384
        assert not any(exchange.done for exchange in exchanges)
        transport.let_go()
        for exchange in exchanges:
            assert (await exchange.finished()).body == body


async def test_writing_pauses_and_resumes() -> None:
    """A reader that takes a little at a time gets all of it, in order and in bounded memory."""
    body = distinct(1_000_000)

    async def app(stream: StreamState) -> None:
        await stream.send_response(200, (), body)

    async with serving(app, write_buffer_size=20_000) as (_, client):
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 1 << 30}), f.window_update(0, 1 << 30))
        client.transport.hold()
        client.send(f.headers(1), f.headers(3))
        got, rounds = b"", 0
        while rounds < 500:
            await turns()
            waiting = len(client.transport.output)
            assert waiting <= 20_000 + 2 * 65_536
            if not waiting:
                break
            got += client.transport.release()
            client.transport.hold()
            rounds += 1
        client.transport.output[:] = got
        frames = drain(client)
        assert payload(frames, 1) == payload(frames, 3) == body
        assert rounds > 10


async def test_answers_to_pings_wait_for_the_transport() -> None:
    """A client that asks and does not read is not read from either, beyond 64 KiB."""
    async with serving(h2_control_burst=1_000_000) as (_, client):
        client.transport.hold()
        for _ in range(20):
            client.send(f.frame(f.PING, 0, 0, b"12345678") * 1000)
        await turns()
        assert len(client.transport.output) <= 65_536 + 17_000
        client.transport.output[:0] = client.transport.release()
        await turns()
        assert len(drain(client, f.PING)) == 20_000


async def test_a_connection_that_breaks_takes_its_streams_along() -> None:
    async with MemoryServer(Stage(), H2KyoukaiProtocol) as server:
        stage: Any = server.interface
        client = FrameClient(server)
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 0}))
        client.send(f.headers(1, POST, end=False), f.headers(3))
        uploading, downloading = await stage.next(), await stage.next()
        downloading.cancel_on_disconnect = False
        reading = asyncio.ensure_future(uploading.receive())
        sending = asyncio.ensure_future(downloading.send_response(200, (), b"x"))
        await turns()
        client.transport.lose(ConnectionResetError())
        for task in (reading, sending):
            with pytest.raises(PeerGone):
                await task
        await turns()
        assert stage.cancelled == [uploading]
        assert len(server.connections) == 0
        with pytest.raises(PeerGone):
            await downloading.send_response(200, (), b"x")
        stage.leave(downloading)
        await server.connections.wait_idle()


async def test_a_client_that_ends_its_direction() -> None:
    """On HTTP/2 that is no way to end a request: the connection closes."""
    async with serving() as (stage, client):
        client.send(f.headers(1))
        stream = await stage.next()
        client.transport.feed_eof()
        await turns()
        assert client.transport.closed
        assert stage.cancelled == [stream]
