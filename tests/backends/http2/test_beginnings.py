"""How connections begin and end when the client says so, in good order or not."""

from __future__ import annotations

import asyncio
import struct

import pytest

from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.testing import MemoryServer

from ..frames import (
    ACK,
    FRAME_SIZE_ERROR,
    GOAWAY,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    data,
    frame,
    headers,
    request,
    rst_stream,
    settings,
    window_update,
)
from ..support import Clock, Mirror, Stage, turns
from .trial import Feed, Prober, feeds, h2_server, table

GOODBYE = frame(GOAWAY, 0, 0, struct.pack(">LL", 0, NO_ERROR) + b"bye")


async def test_a_client_that_says_goodbye_gets_its_answers() -> None:
    """It may open no more streams, but those that are open go on in both directions."""
    stage = Stage()
    async with h2_server(stage) as server:
        client = Prober(server)
        client.send(headers(1), headers(3), headers(5, request(method=b"POST"), end=False))
        client.send(headers(7), GOODBYE)
        streams = {(stream := await stage.next()).stream_id: stream for _ in range(4)}
        await streams[1].send_response(200, (), b"whole")
        sending = asyncio.ensure_future(streams[3].send_response(200, (), bytes(100_000)))
        await client.settle()
        client.send(window_update(0, 100_000), window_update(3, 100_000))
        await sending
        client.send(data(5, b"abc"), data(5, b"def"), frame(PING, 0, 0, bytes(8)), settings())
        client.send(data(5, end=True), rst_stream(7))
        assert await streams[5].read_async() == b"abcdef"
        await turns()
        assert stage.cancelled == [streams[7]]
        streams[5].send_head(200, ())
        await streams[5].send_data(b"in ")
        await streams[5].send_data(b"parts")
        await streams[5].end(((b"x-t", b"y"),))
        for number in 1, 3, 5:
            stage.leave(streams[number])
        seen = await client.settle()
        assert [seen.body(1), len(seen.body(3)), seen.body(5)] == [b"whole", 100_000, b"in parts"]
        assert set(seen.codes) <= {NO_ERROR}
        assert seen.goaways[-1].number == 7
        assert client.closed
        assert not client.protocol.streams


async def test_goodbye_alone() -> None:
    async with h2_server(Mirror()) as server:
        client = Prober(server)
        client.send(GOODBYE + headers(1))
        seen = await client.settle()
        assert set(seen.codes) == {NO_ERROR}
        client.transport.feed_eof()
        await turns()
        assert not server.connections.open


async def test_the_last_stream_of_a_goaway_never_grows() -> None:
    """A client may have sent again elsewhere what the one before did not name (section 6.8)."""
    stage = Stage()
    async with h2_server(stage) as server:
        client = Prober(server)
        client.send(headers(1))
        await stage.next()
        server.connections.shutdown()
        (ping,) = [each for each in (await client.settle()).others if each.kind == PING]
        client.send(frame(PING, ACK, 0, ping.payload))
        await client.settle()
        client.send(headers(3), headers(5), frame(PING, 0, 0, b"short"))
        seen = await client.settle()
        assert [each.number for each in seen.goaways] == [2**31 - 1, 1, 1]
        assert seen.codes == [NO_ERROR, NO_ERROR, FRAME_SIZE_ERROR]
        assert stage.streams.empty(), "a stream that will be sent again elsewhere was served"


# -- The beginning -----------------------------------------------------------------------------

BEGINNINGS = {
    "no-preface": headers(1),
    "http-1": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "almost": PREFACE[:-1] + b"x" + settings(),
    "tls-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "nothing-but-zeros": bytes(100),
    "headers-first": PREFACE + headers(1),
    "ping-first": PREFACE + frame(PING, 0, 0, bytes(8)) + settings(),
    "ack-first": PREFACE + settings(ack=True),
    "unknown-first": PREFACE + frame(99) + settings(),
    "window-update-first": PREFACE + window_update(0, 1) + settings(),
    "preface-twice": PREFACE + PREFACE,
}


@feeds
@table(BEGINNINGS)
async def test_connections_that_begin_wrongly(bad: bytes, feed: Feed) -> None:
    app = Mirror()
    async with h2_server(app) as server:
        client = Prober(server, greet=False)
        client.push(feed, bad, headers(1), headers(3))
        seen = await client.settle()
        assert client.closed
        assert app.paths == []
        if bad.startswith(PREFACE):
            assert seen.codes in ([PROTOCOL_ERROR], [FRAME_SIZE_ERROR])
        client.transport.feed_eof()
        await turns()
        assert not server.connections.open


@pytest.mark.parametrize("sent", [b"", PREFACE[:5], PREFACE, PREFACE + settings()[:5]])
async def test_connections_that_never_begin(sent: bytes) -> None:
    clock = Clock()
    async with h2_server(Mirror(), header_timeout=3) as server:
        client = Prober(server, greet=False)
        client.send(sent)
        await clock.advance(2.5, 0.5)
        assert not client.closed
        await clock.advance(1, 0.5)
        assert client.closed
        await clock.advance(5, 0.5)  # whatever lingers
        assert not server.connections.open


async def test_a_preface_in_two_reads() -> None:
    """On a port that speaks HTTP/1.1 too, where its first line looks like a head."""
    sent = PREFACE + settings() + headers(1)
    for size in range(1, len(sent)):
        async with MemoryServer(Mirror(), HttpToolsProtocol) as server:
            client = Prober(server, greet=False)
            client.send(sent[:size])
            await turns()
            client.send(sent[size:])
            assert (await client.settle()).status(1) == 200, size
