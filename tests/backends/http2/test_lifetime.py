"""What time and the end do to connections: early answers, time-outs, GOAWAY."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.exceptions import BodyTimeout, PeerGone
from kyoukai.stream import StreamState
from kyoukai.testing import MemoryServer

from .. import frames as f
from ..frames import FrameClient
from ..support import Clock, Mirror, Stage, turns
from .support import (
    LAST,
    POST,
    begin_shutdown,
    credit,
    dial,
    distinct,
    drain,
    payload,
    serving,
    serving_client,
)

# -- Early answers -----------------------------------------------------------------------------


async def test_an_early_answer_is_followed_by_a_reset_after_a_while() -> None:
    """At once, the reset makes curl drop the answer; never, and nghttp sends on for ever."""
    async with serving() as (stage, client):
        clock = Clock()
        client.send(f.headers(1, POST, end=False), f.data(1, bytes(1000)))
        await stage.answer(b"early")
        assert (await client.answer(1))[2] == b"early"
        await clock.advance(0.15)
        client.send(f.data(1, bytes(1000)))
        await turns()
        assert drain(client, f.RST_STREAM) == []
        await clock.advance(0.1)
        (reset,) = drain(client, f.RST_STREAM)
        assert (reset.stream, reset.code) == (1, f.NO_ERROR)
        client.send(f.data(1, bytes(1000)), f.data(1, b"", True), f.headers(3))
        await stage.answer()
        assert (await client.answer(3))[0] == 200
        assert drain(client, f.RST_STREAM, f.GOAWAY) == []


@pytest.mark.parametrize(
    "end", [f.data(1, b"x", True), f.headers(1, [(b"x", b"y")]), f.rst_stream(1)]
)
async def test_no_reset_when_the_request_ends_in_time(end: bytes) -> None:
    async with serving() as (stage, client):
        clock = Clock()
        client.send(f.headers(1, POST, end=False))
        await stage.answer(b"early")
        assert (await client.answer(1))[2] == b"early"
        client.send(end)
        await clock.advance(1)
        assert drain(client, f.RST_STREAM, f.GOAWAY) == []


async def test_a_body_after_the_answer_is_refunded_on_the_connection_alone() -> None:
    async with serving(h2_connection_window=65_535) as (stage, client):
        Clock()
        client.send(f.headers(1, POST, end=False), f.data(1, bytes(16_000)))
        stream = await stage.answer(b"early")
        client.send(*[f.data(1, bytes(16_000))] * 3)
        frames = await client.settled()
        assert credit(frames, 1) == 0
        assert 32_768 <= credit(frames, 0) <= 64_000
        assert stream.buffered == 0


async def test_an_upload_that_ends_short_after_its_answer() -> None:
    """curl does that when it is answered 413; the connection must live on."""
    async with serving() as (stage, client):
        Clock()
        head = f.request(method=b"POST", extra=[(b"content-length", b"1000")])
        client.send(f.headers(1, head, end=False), f.data(1, bytes(10)))
        await stage.answer(b"early")
        client.send(f.data(1, b"", True), f.headers(3))
        await stage.answer(b"next")
        assert (await client.answer(1))[2] == b"early"
        assert (await client.answer(3))[2] == b"next"
        assert drain(client, f.RST_STREAM, f.GOAWAY) == []


async def test_a_shutdown_does_not_wait_for_the_rest_of_an_upload() -> None:
    async with serving() as (stage, client):
        clock = Clock()
        client.send(f.headers(1, POST, end=False))
        await stage.answer(b"early")
        assert (await client.answer(1))[2] == b"early"
        ping = await begin_shutdown(client)
        client.send(f.frame(f.PING, f.ACK, 0, ping.payload))
        await turns()
        assert not client.closed
        await clock.advance(0.25)
        assert client.closed


async def test_an_answer_streams_while_the_request_does() -> None:
    async with serving() as (stage, client):
        client.send(f.headers(1, POST, end=False))
        stream = await stage.next()
        stream.send_head(200, ())
        for number in range(5):
            client.send(f.data(1, b"%d" % number))
            await stream.send_data(await stream.receive())
            assert (await client.next(f.DATA)).payload == b"%d" % number
        client.send(f.data(1, b"", True))
        assert await stream.receive() == b""
        await stream.end()
        assert (await client.next(f.DATA)).flags == f.END_STREAM


# -- Time --------------------------------------------------------------------------------------


async def test_a_stream_that_waits_too_long_for_its_window() -> None:
    async with serving(send_stall_timeout=60) as (stage, client):
        clock = Clock()
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 0}), f.headers(1))
        stream = await stage.next()
        stream.cancel_on_disconnect = False
        sending = asyncio.ensure_future(stream.send_response(200, (), b"x"))
        await clock.advance(55, 5)
        assert not sending.done()
        await clock.advance(70, 5)
        with pytest.raises(PeerGone):
            await sending
        (reset,) = drain(client, f.RST_STREAM)
        assert (reset.stream, reset.code) == (1, f.CANCEL)
        stage.leave(stream)
        assert not client.closed
        client.send(f.headers(3))
        await stage.answer(b"")
        assert (await client.answer(3))[0] == 200


async def test_a_stream_that_gets_some_window_now_and_then_is_kept() -> None:
    async with serving(send_stall_timeout=60) as (stage, client):
        clock = Clock()
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 0}), f.headers(1))
        stream = await stage.next()
        sending = asyncio.ensure_future(stream.send_response(200, (), b"0123456789"))
        for _ in range(10):
            assert not sending.done()
            await clock.advance(50, 5)
            client.send(f.window_update(1, 1))
        await sending
        assert payload(drain(client)) == b"0123456789"


async def test_a_stall_of_the_connections_window_ends_the_streams_that_wait() -> None:
    async with serving(send_stall_timeout=60) as (stage, client):
        clock = Clock()
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 1 << 20}), f.headers(1), f.headers(3))
        sending = []
        for _ in range(2):
            stream = await stage.next()
            stream.cancel_on_disconnect = False
            sending.append(asyncio.ensure_future(stream.send_response(200, (), bytes(100_000))))
        await clock.advance(130, 5)
        for each in sending:
            with pytest.raises(PeerGone):
                await each
        for stream in tuple(stage._exits):
            stage.leave(stream)


async def test_a_client_that_takes_no_bytes_is_cut_off() -> None:
    async with serving(send_stall_timeout=60) as (stage, client):
        clock = Clock()
        client.transport.hold()
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 1 << 20}), f.window_update(0, 1 << 20))
        client.send(f.headers(1))
        stream = await stage.next()
        stream.cancel_on_disconnect = False
        sending = asyncio.ensure_future(stream.send_response(200, (), bytes(1_000_000)))
        await clock.advance(125, 5)
        with pytest.raises(PeerGone):
            await sending
        assert client.transport.aborted
        stage.leave(stream)


async def test_a_body_that_is_too_slow() -> None:
    async with serving(Mirror(), min_body_rate=240, min_body_grace=5) as (app, client):
        clock = Clock()
        client.send(f.headers(1, POST, end=False), f.headers(3, POST, end=False))
        for _ in range(20):  # one at 300 bytes a second, the other at 50
            client.send(f.data(1, bytes(300)), f.data(3, bytes(50)))
            await clock.advance(1)
        assert [type(error) for error in app.errors] == [BodyTimeout]
        assert (await client.answer(3))[0] == 408
        client.send(f.data(1, b"", True))
        assert (await client.answer(1))[0] == 200


async def test_a_client_that_waits_for_us_is_not_slow() -> None:
    """While its window is closed, or before it was told to continue, the time is ours."""
    async with serving(h2_stream_window=2000) as (stage, client):
        clock = Clock()
        client.send(f.headers(1, POST, end=False), f.data(1, bytes(2000)))
        expect = f.request(method=b"POST", extra=[(b"expect", b"100-continue")])
        client.send(f.headers(3, expect, end=False))
        first, second = await stage.next(), await stage.next()
        await clock.advance(100, 1)
        assert len(await first.receive()) == 2000
        client.send(f.data(1, b"rest", True))
        assert await first.read_async() == b"rest"
        reading = asyncio.ensure_future(second.read_async())
        await clock.advance(2, 1)
        client.send(f.data(3, b"body", True))
        assert await reading == b"body"


async def test_an_idle_connection_ends() -> None:
    async with serving(keep_alive_timeout=15) as (stage, client):
        clock = Clock()
        client.send(f.headers(1))
        await clock.advance(100, 5)  # while a stream is open, it is not idle
        await stage.answer()
        await client.answer(1)
        await clock.advance(14)
        assert drain(client) == []
        assert not client.closed
        client.send(f.headers(3))
        await stage.answer()
        await client.answer(3)
        await clock.advance(14)
        assert not client.closed
        await clock.advance(2)
        (goaway,) = drain(client)
        assert (goaway.kind, goaway.number, goaway.code) == (f.GOAWAY, 3, f.NO_ERROR)
        assert client.closed


async def test_a_connection_on_which_nothing_ever_comes() -> None:
    async with serving(keep_alive_timeout=15) as (_, client):
        clock = Clock()
        await clock.advance(16)
        goaway = await client.next(f.GOAWAY)
        assert (goaway.number, goaway.code) == (0, f.NO_ERROR)
        await turns()
        assert client.closed


@pytest.mark.parametrize("greeting", [b"", f.PREFACE[:10], f.PREFACE, f.PREFACE + b"\0\0\0\4"])
async def test_a_greeting_that_takes_too_long(greeting: bytes) -> None:
    async with MemoryServer(Stage(), H2KyoukaiProtocol, header_timeout=10) as server:
        clock = Clock()
        client = FrameClient(server, greet=False)
        await clock.advance(5)
        client.send(greeting) if greeting else None
        await turns()
        assert not client.closed
        await clock.advance(6)
        assert client.closed


async def test_a_head_that_takes_too_long() -> None:
    """Its time runs from its first frame, whatever comes of it meanwhile."""
    async with serving(header_timeout=10) as (_, client):
        clock = Clock()
        block = f.literals(f.GET)
        client.send(f.frame(f.HEADERS, f.END_STREAM, 1, block[:2]))
        for index in range(2, 11):
            await clock.advance(1)
            assert not client.closed
            client.send(f.frame(f.CONTINUATION, 0, 1, block[index : index + 1]))
        await clock.advance(2)
        await client.next(f.GOAWAY)
        await turns()
        assert client.closed


async def test_answers_to_others_put_off_no_deadline() -> None:
    async with serving(header_timeout=10, keep_alive_timeout=15) as (stage, client):
        clock = Clock()
        client.send(f.headers(1), f.headers(3, flags=0))
        await clock.advance(9)
        await stage.answer()
        await client.answer(1)
        await clock.advance(2)
        await client.next(f.GOAWAY)
        await turns()
        assert client.closed


async def test_a_head_in_time_leaves_no_deadline() -> None:
    async with serving(header_timeout=10) as (stage, client):
        clock = Clock()
        client.send(f.headers(1, flags=0))
        await clock.advance(9)
        client.send(f.frame(f.CONTINUATION, f.END_HEADERS, 1))
        stream = await stage.next()
        await clock.advance(30, 1)
        assert not client.closed
        await stream.send_response(200, ())
        assert (await client.answer(1))[0] == 200


async def test_after_an_error_the_server_reads_on_for_a_while() -> None:
    """Otherwise the kernel's reset would overtake the GOAWAY; but not for ever."""
    async with serving(linger_timeout=2) as (_, client):
        clock = Clock()
        client.send(f.data(0, b"x"))
        await client.next(f.GOAWAY)
        await turns()
        assert client.transport.eof_written
        assert not client.transport.closed
        client.send(f.headers(1), bytes(100_000))
        await clock.advance(3)
        assert client.transport.closed
        assert drain(client) == []


# -- Ends --------------------------------------------------------------------------------------


async def test_a_shutdown_takes_two_steps() -> None:
    """Requests that crossed with the first GOAWAY are served; later ones may be sent again."""
    async with MemoryServer(Stage(), H2KyoukaiProtocol) as server:
        stage: Any = server.interface
        client = FrameClient(server)
        client.send(f.headers(1))
        ping = await begin_shutdown(client)
        client.send(f.headers(3, POST, end=False))
        client.send(f.frame(f.PING, f.ACK, 0, ping.payload))
        goaway = await client.next(f.GOAWAY)
        assert (goaway.number, goaway.code) == (3, f.NO_ERROR)
        client.send(f.headers(5), f.headers(7, POST, end=False), f.data(7, bytes(1000)))
        first = await stage.next()
        await first.send_response(200, (), b"one")
        stage.leave(first)
        assert (await client.answer(1))[2] == b"one"
        second = await stage.next()
        client.send(f.data(3, b"abc"), f.headers(3, [(b"x-sum", b"3")]))
        assert await second.read_async() == b"abc"
        assert list(second.trailers) == [(b"x-sum", b"3")]
        assert not client.closed
        await second.send_response(200, (), b"two")
        stage.leave(second)
        assert (await client.answer(3))[2] == b"two"
        await turns()
        assert stage.streams.empty()
        assert {x.stream for x in drain(client)} <= {0}
        assert client.closed
        client.transport.feed_eof()
        await server.connections.wait_idle()


async def test_the_second_step_waits_a_second_at_most() -> None:
    async with serving() as (stage, client):
        clock = Clock()
        client.send(f.headers(1))
        stream = await stage.next()
        await begin_shutdown(client)
        await clock.advance(0.9)
        assert drain(client) == []
        await clock.advance(0.2)
        (goaway,) = drain(client)
        assert (goaway.kind, goaway.number) == (f.GOAWAY, 1)
        await clock.advance(100, 5)
        assert not client.closed
        await stream.send_response(200, (), b"late")
        assert (await client.answer(1))[2] == b"late"
        await turns()
        assert client.closed


async def test_the_answer_to_another_ping_is_not_the_one() -> None:
    async with serving() as (stage, client):
        client.send(f.headers(1))
        await stage.next()
        ping = await begin_shutdown(client)
        client.send(f.frame(f.PING, f.ACK, 0, bytes(byte ^ 255 for byte in ping.payload)))
        assert await client.settled() == []
        client.send(f.frame(f.PING, f.ACK, 0, ping.payload))
        assert (await client.next(f.GOAWAY)).number == 1


async def test_the_table_of_fields_lives_on_after_the_last_goaway() -> None:
    """Blocks of streams that are ignored may change what the trailers of others refer to."""
    async with serving_client() as (stage, client, transport):
        exchange = client.begin()
        stream = await stage.next()
        transport.protocol.connections.shutdown()  # type: ignore[attr-defined]
        while len(client.goaways) < 2:
            await client.event()
        client.request(headers=[("x-late", "a value to remember")])
        exchange.end([("x-late", "a value to remember")])
        assert await stream.read_async() == b""
        assert list(stream.trailers) == [(b"x-late", b"a value to remember")]


async def test_what_is_ignored_after_the_last_goaway_is_refunded() -> None:
    """Uploads that go on need the connection's window (RFC 9113 section 6.8)."""
    window = 65_536
    async with serving_client(h2_connection_window=window) as (stage, client, transport):
        exchange = client.begin()
        stream = await stage.next()
        transport.protocol.connections.shutdown()  # type: ignore[attr-defined]
        while len(client.goaways) < 2:
            await client.event()
        for _ in range(3):
            client.begin().data(bytes(30_000))
            await turns()
        body = distinct(200_000)
        exchange.data(body, True)
        assert await stream.read_async() == body
        await stream.send_response(200, (), b"ok")
        stage.leave(stream)
        assert (await exchange.finished()).body == b"ok"


async def test_an_idle_connection_ends_at_once_on_shutdown() -> None:
    async with MemoryServer(Stage(), H2KyoukaiProtocol) as server:
        client = FrameClient(server)
        ping = await begin_shutdown(client)
        client.send(f.frame(f.PING, f.ACK, 0, ping.payload))
        await turns()
        assert client.closed
        client.transport.feed_eof()
        await server.connections.wait_idle()


async def test_a_shutdown_before_the_greeting() -> None:
    async with MemoryServer(Stage(), H2KyoukaiProtocol) as server:
        clock = Clock()
        client = FrameClient(server, greet=False)
        server.connections.shutdown()
        await clock.advance(4, 0.5)
        assert client.closed
        await server.connections.wait_idle()


async def test_a_shutdown_loses_nothing_that_is_on_its_way() -> None:
    """Uploads and downloads go on, over windows that must be given again and again."""

    async def app(stream: StreamState) -> None:
        body = await stream.read_async()
        await stream.send_response(200, (), body)

    async with MemoryServer(app, H2KyoukaiProtocol, h2_stream_window=20_000) as server:
        client, _ = dial(server)
        body = distinct(500_000)
        exchanges = [client.begin("POST") for _ in range(4)]
        for exchange in exchanges:
            exchange.data(body[:250_000])
        await turns()
        server.connections.shutdown()
        await turns()
        for exchange in exchanges:
            exchange.data(body[250_000:], True)
        for exchange in exchanges:
            assert (await exchange.finished()).body == body
        await client.ended()
        assert [frame.number for frame in client.goaways] == [LAST, 7]
        await server.connections.wait_idle()


async def test_requests_per_connection_may_be_limited() -> None:
    async with serving(max_requests_per_connection=2) as (stage, client):
        client.send(f.headers(1))
        await stage.answer()
        await client.answer(1)
        assert drain(client, f.GOAWAY) == []
        client.send(f.headers(3))
        await stage.answer()
        goaway = await client.next(f.GOAWAY)
        assert (goaway.number, goaway.code) == (LAST, f.NO_ERROR)
        ping = await client.next(f.PING)
        client.send(f.headers(5))  # it crossed
        await stage.answer()
        assert (await client.answer(3))[0] == (await client.answer(5))[0] == 200
        client.send(f.frame(f.PING, f.ACK, 0, ping.payload))
        assert (await client.next(f.GOAWAY)).number == 5
        await turns()
        assert client.closed


@pytest.mark.parametrize("code", [f.NO_ERROR, f.INTERNAL_ERROR])
async def test_close(code: int) -> None:
    """Seed 002's way to end a connection, for whatever reason."""
    async with serving() as (_, client):
        client.send(f.headers(1))
        await turns()
        client.protocol.close(code)
        goaway = await client.next(f.GOAWAY)
        assert (goaway.number, goaway.code) == (1, code)
        await turns()
        assert client.closed


async def test_an_end_may_come_twice() -> None:
    async with MemoryServer(Stage(), H2KyoukaiProtocol) as server:
        client = FrameClient(server)
        client.protocol.shutdown()
        client.protocol.shutdown()
        client.protocol.close()
        client.protocol.close(f.INTERNAL_ERROR)
        client.protocol.shutdown()
        await turns()
        goaways = drain(client, f.GOAWAY)
        assert [x.code for x in goaways] == [f.NO_ERROR] * len(goaways)
        client.transport.lose()
        client.protocol.close()
        client.protocol.shutdown()
        await server.connections.wait_idle()


async def test_what_applications_do_after_the_end_writes_nothing() -> None:
    """A transport takes no bytes after its end: credit, resets and answers come too late."""
    settings = {"h2_stream_window": 65_536, "h2_connection_window": 65_536}
    async with serving(**settings) as (stage, client):
        client.send(f.headers(1, POST, end=False), *[f.data(1, bytes(15_000))] * 4)
        client.send(f.headers(3, POST, end=False), f.headers(5, POST, end=False))
        streams = [await stage.next() for _ in range(3)]
        for stream in streams:
            stream.cancel_on_disconnect = False
        streams[1].send_head(200, ())
        client.send(f.data(0, b"x"))
        await client.next(f.GOAWAY)
        await turns()
        assert client.transport.eof_written
        while len(await streams[0].receive()) and streams[0].buffered:
            await turns()
        streams[0].send_informational(103)
        streams[1].reset("for the test")
        with pytest.raises(PeerGone):
            await streams[1].send_data(b"x")
        with pytest.raises(PeerGone):
            await streams[2].send_response(200, (), b"x")
        for stream in streams:
            stage.leave(stream)
        await turns()
        assert drain(client, f.DATA, f.RST_STREAM, f.WINDOW_UPDATE) == []


@pytest.mark.parametrize("busy", [False, True])
async def test_a_connection_leaves_nothing_to_the_garbage_collector(busy: bool) -> None:
    """Thousands of connections end in the time between two of its rounds."""
    async with MemoryServer(Mirror(), H2KyoukaiProtocol) as server:
        client = FrameClient(server)
        for number in (1, 3):
            client.send(f.headers(number, POST, end=False), f.data(number, b"abc", True))
            await client.answer(number)
        if busy:
            client.send(f.settings({f.INITIAL_WINDOW_SIZE: 1}))
            client.send(f.headers(5), f.headers(7, POST, end=False), f.data(7, b"abc"))
            await turns()
        reference = weakref.ref(client.protocol)
        gc.disable()
        try:
            client.transport.lose()
            await turns()
            assert len(server.connections.tasks) == 0
            del client.transport.protocol  # as a socket's transport does
            del client
            assert reference() is None
        finally:
            gc.enable()


async def test_too_many_connections() -> None:
    async with MemoryServer(Mirror(), H2KyoukaiProtocol, max_connections=1) as server:
        first = FrameClient(server)
        second = FrameClient(server, greet=False)
        await turns()
        assert second.closed
        first.send(f.headers(1))
        assert (await first.answer(1))[0] == 200
