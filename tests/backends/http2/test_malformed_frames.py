"""
Frames that break HTTP/2, and frames that only look as if they did (RFC 9113 sections 4 to 6).

An error of the connection ends in GOAWAY with the right code, after the answers to what came before
it; an error of a stream leaves the others alone. All comes whole and byte by byte.
"""

from __future__ import annotations

import logging
import struct

import pytest

from ..frames import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GET,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
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
from .trial import (
    Feed,
    Prober,
    feeds,
    h2_server,
    in_parts,
    incremental,
    indexed,
    integer,
    table,
    table_size,
)

BLOCK = literals(GET)
OPEN = frame(HEADERS, 0, 5, BLOCK[:4])
POST = headers(5, request(method=b"POST"), end=False)


def bare_head(length: int, kind: int, flags: int = 0, stream: int = 0) -> bytes:
    """The nine bytes before a payload that never comes."""
    return struct.pack(">L", length)[1:] + struct.pack(">BBL", kind, flags, stream)


def block(payload: bytes, stream: int = 5) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, payload)


def code(value: int) -> tuple[int, ...]:
    return (value,)


PROTOCOL, SIZE, FLOW = code(PROTOCOL_ERROR), code(FRAME_SIZE_ERROR), code(FLOW_CONTROL_ERROR)
COMPRESSION, CALM = code(COMPRESSION_ERROR), code(ENHANCE_YOUR_CALM)

#: What ends the connection, with the code (or one of the codes) of the GOAWAY.
FATAL: dict[str, tuple[bytes, tuple[int, ...]]] = {
    # Frames of a length that their kind cannot have, or that we do not take.
    "long-data": (bare_head(16385, DATA, 0, 3), SIZE),
    "long-headers": (bare_head(16385, HEADERS, END_HEADERS, 5), SIZE),
    "long-unknown": (bare_head(16385, 99), SIZE),
    "longest-unknown": (bare_head(2**24 - 1, 255, 255, 2**31 - 1), SIZE),
    "long-settings": (bare_head(18000, SETTINGS), SIZE),
    "settings-of-5": (frame(SETTINGS, 0, 0, bytes(5)), SIZE),
    "settings-of-7": (frame(SETTINGS, 0, 0, b"\0\3\0\0\0\1\0"), SIZE),
    "settings-ack-with-more": (frame(SETTINGS, ACK, 0, bytes(6)), SIZE),
    "ping-of-7": (frame(PING, 0, 0, bytes(7)), SIZE),
    "ping-of-9": (frame(PING, 0, 0, bytes(9)), SIZE),
    "ping-of-0": (frame(PING), SIZE),
    "reset-of-3": (frame(RST_STREAM, 0, 3, bytes(3)), SIZE),
    "reset-of-5": (frame(RST_STREAM, 0, 3, bytes(5)), SIZE),
    "window-update-of-3": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    "window-update-of-5": (frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1\0"), SIZE),
    "stream-window-update-of-3": (frame(WINDOW_UPDATE, 0, 3, bytes(3)), SIZE),
    "goaway-of-7": (frame(GOAWAY, 0, 0, bytes(7)), SIZE),
    # Frames where they do not belong.
    "data-on-0": (data(0, b"a"), PROTOCOL),
    "headers-on-0": (headers(0), PROTOCOL),
    "priority-on-0": (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "reset-on-0": (rst_stream(0), PROTOCOL),
    "settings-on-stream": (frame(SETTINGS, 0, 3), PROTOCOL),
    "settings-ack-on-stream": (frame(SETTINGS, ACK, 3), PROTOCOL),
    "ping-on-stream": (frame(PING, 0, 3, bytes(8)), PROTOCOL),
    "goaway-on-stream": (frame(GOAWAY, 0, 3, bytes(8)), PROTOCOL),
    "continuation-on-0": (frame(CONTINUATION, END_HEADERS, 0, BLOCK), PROTOCOL),
    "continuation-alone": (frame(CONTINUATION, END_HEADERS, 3, BLOCK), PROTOCOL),
    "continuation-on-idle": (frame(CONTINUATION, END_HEADERS, 5, BLOCK), PROTOCOL),
    "continuation-after-headers": (
        headers(5) + frame(CONTINUATION, END_HEADERS, 5, b""),
        (PROTOCOL_ERROR, STREAM_CLOSED),
    ),
    "push-promise": (frame(PUSH_PROMISE, END_HEADERS, 3, b"\0\0\0\2" + BLOCK), PROTOCOL),
    "push-promise-on-0": (frame(PUSH_PROMISE, END_HEADERS, 0, b"\0\0\0\2" + BLOCK), PROTOCOL),
    "even-stream": (headers(6), PROTOCOL),
    "older-stream": (headers(9) + headers(7), PROTOCOL),
    "closed-stream": (headers(1), (STREAM_CLOSED, PROTOCOL_ERROR)),
    "data-on-idle": (data(99, b"a"), PROTOCOL),
    "data-on-even-idle": (data(2, b"a"), PROTOCOL),
    "reset-on-idle": (rst_stream(99), PROTOCOL),
    "window-update-on-idle": (window_update(99, 1), PROTOCOL),
    "priority-update-on-stream": (frame(PRIORITY_UPDATE, 0, 3, b"\0\0\0\3u=1"), PROTOCOL),
    "priority-update-of-0": (frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\0u=1"), PROTOCOL),
    "priority-update-of-3-bytes": (
        frame(PRIORITY_UPDATE, 0, 0, b"\0\0\3"),
        (FRAME_SIZE_ERROR, PROTOCOL_ERROR),
    ),
    # Header blocks that something comes between.
    "data-in-block": (OPEN + data(3, b"a"), PROTOCOL),
    "headers-in-block": (OPEN + headers(7), PROTOCOL),
    "headers-again-in-block": (OPEN + headers(5), PROTOCOL),
    "ping-in-block": (OPEN + frame(PING, 0, 0, bytes(8)), PROTOCOL),
    "settings-in-block": (OPEN + settings(), PROTOCOL),
    "reset-in-block": (OPEN + rst_stream(5), PROTOCOL),
    "window-update-in-block": (OPEN + window_update(0, 1), PROTOCOL),
    "unknown-in-block": (OPEN + frame(99, 0, 5, b"x"), PROTOCOL),
    "priority-in-block": (OPEN + frame(PRIORITY, 0, 5, bytes(5)), PROTOCOL),
    "goaway-in-block": (OPEN + frame(GOAWAY, 0, 0, bytes(8)), PROTOCOL),
    "other-continuation": (OPEN + frame(CONTINUATION, END_HEADERS, 3, BLOCK[4:]), PROTOCOL),
    "ping-in-trailers": (frame(HEADERS, 1, 3, b"\0") + frame(PING, 0, 0, bytes(8)), PROTOCOL),
    # Padding that is longer than its frame.
    "data-padding": (frame(DATA, PADDED, 3, b"\4abc"), PROTOCOL),
    "data-padding-by-one": (frame(DATA, PADDED, 3, b"\1"), PROTOCOL),
    "data-without-its-padding": (frame(DATA, PADDED, 3), (FRAME_SIZE_ERROR, PROTOCOL_ERROR)),
    "headers-padding": (frame(HEADERS, PADDED | END_HEADERS, 5, b"\xff" + BLOCK), PROTOCOL),
    "headers-without-its-padding": (
        frame(HEADERS, PADDED | END_HEADERS | END_STREAM, 5),
        (FRAME_SIZE_ERROR, PROTOCOL_ERROR),
    ),
    "headers-without-its-priority": (
        frame(HEADERS, HAS_PRIORITY | END_HEADERS | END_STREAM, 5, bytes(4)),
        (FRAME_SIZE_ERROR, PROTOCOL_ERROR),
    ),
    # Settings and windows.
    "push-2": (settings({2: 2}), PROTOCOL),
    "window-2**31": (settings({4: 2**31}), FLOW),
    "frame-size-small": (settings({5: 16383}), PROTOCOL),
    "frame-size-large": (settings({5: 2**24}), PROTOCOL),
    "connect-protocol-2": (settings({8: 2}), PROTOCOL),
    "connection-window-0": (window_update(0, 0), PROTOCOL),
    "connection-window-overflow": (window_update(0, 2**31 - 1), FLOW),
    "settings-overflow-a-stream": (
        window_update(3, 2**31 - 1 - 65535) + settings({4: 65536}),
        FLOW,
    ),
    # Header compression.
    "index-0": (block(indexed(0)), COMPRESSION),
    "index-beyond": (block(BLOCK + indexed(62)), COMPRESSION),
    "index-far-beyond": (block(BLOCK + indexed(2**31)), COMPRESSION),
    "index-endless": (block(BLOCK + b"\xff" + b"\x80" * 1000 + b"\x01"), COMPRESSION),
    "index-without-end": (block(BLOCK + b"\xff"), COMPRESSION),
    "name-index-beyond": (block(BLOCK + integer(62, 6, 0x40) + b"\1a"), COMPRESSION),
    "name-truncated": (block(BLOCK + b"\0\5ab"), COMPRESSION),
    "value-truncated": (block(BLOCK + b"\0\1a\5b"), COMPRESSION),
    "value-missing": (block(BLOCK + b"\0\1a"), COMPRESSION),
    "name-missing": (block(BLOCK + b"\0"), COMPRESSION),
    "length-beyond": (block(BLOCK + b"\0\x7f\xff\xff\xff\xff\x07"), COMPRESSION),
    "huffman-end-of-string": (block(BLOCK + b"\0\1a\x84\xff\xff\xff\xff"), COMPRESSION),
    "huffman-long-padding": (block(BLOCK + b"\0\1a\x82\x1f\xff"), COMPRESSION),
    "huffman-padding-of-zeros": (block(BLOCK + b"\0\1a\x81\x18"), COMPRESSION),
    "table-too-large": (block(table_size(4097) + BLOCK), COMPRESSION),
    "table-size-thrice": (block(table_size(0) * 3 + BLOCK), COMPRESSION),
    "table-size-late": (block(BLOCK + table_size(0)), COMPRESSION),
    "broken-trailers": (block(indexed(99), 3), COMPRESSION),
    "fragments-too-large": (
        in_parts(5, BLOCK + literals([(b"x", b"y" * 30000)]) + literals([(b"x", b"y" * 3000)])),
        CALM,
    ),
    "list-too-large": (block(BLOCK + incremental(b"x", b"y" * 3900) + indexed(62) * 16), CALM),
}


@feeds
@table(FATAL, "bad, codes")
async def test_what_ends_the_connection(
    bad: bytes, codes: tuple[int, ...], feed: Feed, caplog: pytest.LogCaptureFixture
) -> None:
    app = Mirror()
    async with h2_server(app, access_log=True) as server:
        client = Prober(server)
        client.push(feed, headers(1, request(b"/before")))
        client.push(feed, headers(3, request(b"/open", b"POST"), end=False), data(3, b"abc"))
        await client.settle()
        client.push(feed, bad, headers(101, request(b"/after")))
        seen = await client.settle()
        assert seen.body(1) == b"GET /before "
        (goaway,) = seen.goaways
        assert goaway.code in codes
        assert 3 <= goaway.number < 101
        text = goaway.payload[8:].decode("ascii")
        assert text.isprintable()
        assert " " in text, "no sentence"
        assert client.closed
        assert "/after" not in app.paths
        assert not app.bodies[1:] or app.paths[1:] == ["/open", "/"]
        assert not client.protocol.streams
        assert not server.connections.tasks
        client.transport.feed_eof()
        await turns()
        assert client.transport.closed
        assert not server.connections.open
    for record in caplog.records:
        assert record.name == "kyoukai.server"
        assert record.levelno == logging.WARNING
        assert record.exc_info is None
        assert "\n" not in record.getMessage()
    assert len(caplog.records) <= 1


@table({name: case for name, case in FATAL.items() if name != "closed-stream"}, "bad, codes")
async def test_requests_before_it_in_the_same_read(bad: bytes, codes: tuple[int, ...]) -> None:
    """They are answered, if that takes no long time; but who floods us is owed nothing."""
    app = Mirror()
    async with h2_server(app) as server:
        client = Prober(server)
        begun = headers(3, request(b"/two", b"POST"), end=False)
        client.send(headers(1, request(b"/one")) + begun + bad)
        seen = await client.settle()
        assert len(seen.goaways) == 1
        assert seen.codes[0] in codes
        assert seen.goaways[0].number >= 3
        assert client.closed
        if codes != CALM:
            assert seen.body(1) == b"GET /one "


@feeds
@table(FATAL, "bad, codes")
async def test_nothing_more_is_heard_after_it(
    bad: bytes, codes: tuple[int, ...], feed: Feed
) -> None:
    app = Mirror()
    async with h2_server(app) as server:
        client = Prober(server)
        client.send(headers(1, request(b"/before")), headers(3, request(b"/open"), end=False))
        await client.settle()
        client.push(feed, bad)
        await client.settle()
        sent = len(client.seen.others)
        client.push(feed, b"".join(headers(n) for n in range(201, 221, 2)), settings() * 9)
        client.push(feed, frame(PING, 0, 0, bytes(8)) * 9, b"\xff" * 1000)
        seen = await client.settle()
        assert len(seen.goaways) == 1
        assert len(seen.others) == sent
        assert app.paths[:2] == ["/before", "/open"]
        assert len(app.paths) < 5


# -- Errors of a stream ------------------------------------------------------------------------

#: On stream 5: the code of its RST_STREAM; the connection goes on.
STREAM_ERRORS = {
    "window-0": (POST + window_update(5, 0), PROTOCOL),
    "window-overflow": (POST + window_update(5, 2**31 - 1), FLOW),
    "window-overflow-in-steps": (POST + window_update(5, 2**30) * 2, FLOW),
    "data-after-the-end": (headers(5) + data(5, b"a"), code(STREAM_CLOSED)),
    "data-after-the-end-of-data": (POST + data(5, end=True) + data(5), code(STREAM_CLOSED)),
    "headers-after-the-end": (headers(5) + headers(5), code(STREAM_CLOSED)),
    "headers-after-the-end-of-data": (
        POST + data(5, end=True) + headers(5),
        code(STREAM_CLOSED),
    ),
    "priority-of-4": (POST + frame(PRIORITY, 0, 5, bytes(4)), SIZE),
    "priority-on-itself": (POST + frame(PRIORITY, 0, 5, b"\0\0\0\5\0"), PROTOCOL),
    "headers-on-itself": (
        frame(HEADERS, 1 | END_HEADERS | HAS_PRIORITY, 5, b"\0\0\0\5\0" + BLOCK),
        PROTOCOL,
    ),
}


@feeds
@table(STREAM_ERRORS, "bad, codes")
async def test_errors_of_a_stream(bad: bytes, codes: tuple[int, ...], feed: Feed) -> None:
    """Each may end the connection too (RFC 9113 section 5.4.2), but with the same code."""
    stage = Stage()
    async with h2_server(stage, access_log=True) as server:
        client = Prober(server)
        client.push(feed, headers(3, request(b"/beside", b"POST"), end=False), bad)
        seen = await client.settle()
        if seen.goaways:
            assert seen.codes[0] in codes
            assert client.closed
            return
        assert [*seen.resets] == [5]
        assert len(seen.resets[5]) == 1
        assert seen.resets[5][0] in codes
        client.push(feed, data(3, b"x", end=True), headers(7, request(b"/after")))
        found = {(await stage.answer(b"ok")).head.path}
        while "/after" not in found:
            found.add((await stage.answer(b"ok")).head.path)
        seen = await client.settle()
        assert seen.body(3) == seen.body(7) == b"ok"
        assert not client.closed
        assert not client.protocol.streams


@feeds
async def test_what_comes_after_a_stream_error_is_dropped(feed: Feed) -> None:
    async with h2_server(Mirror()) as server:
        client = Prober(server)
        client.push(feed, POST, window_update(5, 2**31 - 1))
        client.push(feed, data(5, b"x" * 99), window_update(5, 9), data(5, end=True), rst_stream(5))
        client.push(feed, headers(7))
        seen = await client.settle()
        assert seen.resets == {5: [FLOW_CONTROL_ERROR]}
        assert seen.status(7) == 200


@pytest.mark.parametrize("level", ["stream", "connection"])
async def test_more_data_than_the_window(level: str) -> None:
    stage = Stage()
    settled = {"h2_stream_window": 2**17 if level == "stream" else 2**20}
    async with h2_server(stage, h2_connection_window=2**18, **settled) as server:
        client = Prober(server)
        client.send(headers(1, request(method=b"POST"), end=False))
        client.send(headers(3, request(method=b"POST"), end=False))
        room = 2**17 if level == "stream" else 2**18
        for _ in range(room // 16384):
            client.send(data(1, bytes(16384)))
        seen = await client.settle()
        assert not seen.resets
        assert not seen.goaways
        client.send(data(1, b"x"))
        seen = await client.settle()
        if level == "connection" or seen.goaways:
            assert seen.codes == [FLOW_CONTROL_ERROR]
        else:
            assert seen.resets == {1: [FLOW_CONTROL_ERROR]}


# -- What is right -----------------------------------------------------------------------------

EMPTY = frame(CONTINUATION, 0, 5)

RIGHT = {
    "unknown": frame(99, 255, 5, b"x" * 100) + frame(200, 0, 0) + headers(5),
    "unknown-as-long-as-may-be": frame(99, 0, 0, bytes(16384)) + headers(5),
    "unknown-flags": frame(HEADERS, 0xC2 | END_HEADERS | END_STREAM, 5, BLOCK),
    "reserved-bit": frame(PING, 0, 2**31, bytes(8)) + headers(5 + 2**31),
    "empty-blocks": frame(HEADERS, END_STREAM, 5) + EMPTY + frame(CONTINUATION, 4, 5, BLOCK),
    "block-in-bytes": in_parts(5, BLOCK, 1),
    "block-in-two": frame(HEADERS, END_STREAM, 5, BLOCK[:9])
    + frame(CONTINUATION, END_HEADERS, 5, BLOCK[9:]),
    "settings": settings({1: 0, 2: 0, 3: 0, 4: 65535, 5: 16384, 6: 9}) + headers(5),
    "push-1": settings({2: 1}) + headers(5),
    "unknown-settings": settings({0: 1, 99: 2**32 - 1, 0xFFFF: 7}) + headers(5),
    "settings-twice-in-one": settings([(4, 1), (4, 65535)]) + headers(5),
    "settings-ack-unasked": settings(ack=True) * 3 + headers(5),
    "ping-ack-unasked": frame(PING, ACK, 0, b"whatever") + headers(5),
    "priority-of-idle": frame(PRIORITY, 0, 77, b"\0\0\0\3\x10") + headers(5),
    "priority-of-closed": frame(PRIORITY, 0, 1, b"\x80\0\0\3\x10") + headers(5),
    "priority-update": frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\5u=0, i") + headers(5),
    "priority-update-junk": frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\5" + bytes(999)) + headers(5),
    "reset-of-closed": rst_stream(1) + headers(5),
    "window-of-closed": window_update(1, 100) + headers(5),
    "window-of-closed-overflows": window_update(1, 2**31 - 1) * 2 + headers(5),
    "alt-svc": frame(10, 0, 0, b"\0\1ah2=1") + headers(5),
    "origin": frame(12, 0, 0, b"\0\1a") + headers(5),
    "windows-as-large-as-may-be": window_update(0, 2**31 - 1 - 65535)
    + settings({4: 2**31 - 1})
    + headers(5),
}


@feeds
@table(RIGHT, "good")
async def test_what_is_right(good: bytes, feed: Feed) -> None:
    async with h2_server(Mirror()) as server:
        client = Prober(server)
        client.push(feed, headers(1, request(b"/before")))
        client.push(feed, headers(3, request(b"/beside", b"POST"), end=False))
        await client.settle()
        client.push(feed, good, data(3, b"x", end=True), headers(7, request(b"/after")))
        seen = await client.settle()
        assert not seen.goaways
        assert not seen.resets
        assert [seen.body(n) for n in (1, 3, 7)] == [
            b"GET /before ",
            b"POST /beside x",
            b"GET /after ",
        ]
        assert seen.body(5) == b"GET / "
        assert not client.protocol.streams


@feeds
async def test_a_ping_is_answered_with_its_own_bytes(feed: Feed) -> None:
    async with h2_server(Mirror()) as server:
        client = Prober(server)
        client.push(feed, frame(PING, 0, 0, b"\0\xff345678"))
        (pong,) = (await client.settle()).others
        assert (pong.kind, pong.flags, pong.payload) == (PING, ACK, b"\0\xff345678")
