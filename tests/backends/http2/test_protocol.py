"""HTTP/2, frame by frame: greetings, requests and answers, errors and resets."""

from __future__ import annotations

import asyncio
import random
import struct
from typing import Any

import hpack
import pytest

from kyoukai.app import Kyoukai
from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.context import HTTPRequestContext
from kyoukai.exceptions import BodyError, PeerGone
from kyoukai.stream import CLOSED, RESET, StreamState
from kyoukai.testing import MemoryServer

from .. import frames as f
from ..frames import FrameClient
from ..support import Mirror, Stage, turns
from .support import (
    POST,
    distinct,
    drain,
    payload,
    serving,
    serving_client,
)

# -- Greetings ---------------------------------------------------------------------------------


async def test_the_server_speaks_first() -> None:
    settings = {"h2_max_concurrent_streams": 7, "h2_stream_window": 70_000}
    limits = {"h2_connection_window": 200_000, "max_head_size": 10_000}
    async with MemoryServer(Mirror(), H2KyoukaiProtocol, **settings, **limits) as server:
        client = FrameClient(server, greet=False)
        first, second = client.take()
        assert (first.kind, first.flags, first.stream) == (f.SETTINGS, 0, 0)
        pairs = first.settings
        assert pairs.pop(f.ENABLE_PUSH, 0) == 0
        assert pairs.pop(f.HEADER_TABLE_SIZE, 4096) == 4096
        assert pairs.pop(8, 0) == 1  # extended CONNECT (RFC 8441 section 3)
        assert pairs == {
            f.MAX_CONCURRENT_STREAMS: 7,
            f.INITIAL_WINDOW_SIZE: 70_000,
            f.MAX_FRAME_SIZE: 16384,
            f.MAX_HEADER_LIST_SIZE: 10_000,
            f.NO_RFC7540_PRIORITIES: 1,
        }
        assert (second.kind, second.stream) == (f.WINDOW_UPDATE, 0)
        assert second.number == 200_000 - 65_535


async def test_the_windows_are_what_the_documentation_says() -> None:
    async with MemoryServer(Mirror(), H2KyoukaiProtocol) as server:
        client = FrameClient(server, greet=False)
        first, second = client.take()
        assert first.settings[f.INITIAL_WINDOW_SIZE] == 262_144
        assert second.number == 1_048_576 - 65_535


async def test_the_client_may_greet_byte_by_byte() -> None:
    app = Mirror()
    async with MemoryServer(app, H2KyoukaiProtocol) as server:
        client = FrameClient(server, greet=False)
        for byte in f.PREFACE + f.settings({f.INITIAL_WINDOW_SIZE: 10}) + f.headers(1):
            client.send(bytes([byte]))
        assert (await client.answer(1))[2] == b"GET / "
        assert any(x.kind == f.SETTINGS and x.flags == f.ACK for x in client.frames)


async def test_settings_are_acknowledged_one_by_one() -> None:
    async with serving() as (_, client):
        client.send(f.settings({f.MAX_FRAME_SIZE: 20_000}), f.settings(), f.settings({77: 1}))
        acks = [x for x in await client.settled() if x.kind == f.SETTINGS]
        assert [(x.flags, x.stream, x.payload) for x in acks] == [(f.ACK, 0, b"")] * 3


@pytest.mark.parametrize(
    "greeting",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        f.PREFACE[:-1] + b"x" + f.settings(),
        f.PREFACE + f.headers(1),
        f.PREFACE + f.settings(ack=True),
    ],
    ids=["http1", "preface", "no-settings", "ack"],
)
async def test_a_wrong_greeting_ends_the_connection(greeting: bytes) -> None:
    app = Mirror()
    async with MemoryServer(app, H2KyoukaiProtocol) as server:
        client = FrameClient(server, greet=False)
        client.send(greeting)
        await turns()
        for goaway in drain(client, f.GOAWAY):
            assert goaway.code == f.PROTOCOL_ERROR
        assert client.closed
        assert app.heads == []


# -- Requests and answers ----------------------------------------------------------------------


async def test_a_small_answer_is_two_frames() -> None:
    async with serving(Mirror()) as (_, client):
        client.send(f.headers(1))
        await turns()
        head, body = drain(client)
        assert (head.kind, head.flags, head.stream) == (f.HEADERS, f.END_HEADERS, 1)
        assert dict(client.decode(head))[b"content-length"] == b"6"
        assert (body.kind, body.flags, body.stream) == (f.DATA, f.END_STREAM, 1)
        assert body.payload == b"GET / "


@pytest.mark.parametrize("method, status", [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_an_answer_without_a_body_is_one_frame(method: bytes, status: int) -> None:
    async def app(stream: StreamState) -> None:
        await stream.send_response(status, (), b"body")

    async with serving(app) as (_, client):
        client.send(f.headers(1, f.request(method=method)))
        await turns()
        (head,) = drain(client)
        assert (head.kind, head.flags) == (f.HEADERS, f.END_HEADERS | f.END_STREAM)
        assert dict(client.decode(head))[b":status"] == b"%d" % status


async def test_an_empty_body_is_no_frame_of_its_own() -> None:
    async with serving() as (stage, client):
        client.send(f.headers(1))
        await stage.answer(b"")
        await turns()
        frames = drain(client)
        assert frames[-1].flags & f.END_STREAM
        assert payload(frames) == b""
        assert dict(client.decode(frames[0]))[b"content-length"] == b"0"


async def test_a_streamed_answer_goes_out_as_it_is_made() -> None:
    async with serving() as (stage, client):
        client.send(f.headers(1))
        stream = await stage.next()
        stream.send_head(200, [(b"x-a", b"1")])
        head = await client.next(f.HEADERS)
        assert not head.flags & f.END_STREAM
        assert (b"x-a", b"1") in client.decode(head)
        for part in (b"one", b"two"):
            await stream.send_data(part)
            assert (await client.next(f.DATA)).payload == part
        await stream.end()
        last = await client.next(f.DATA)
        assert (last.payload, last.flags) == (b"", f.END_STREAM)
        stage.leave(stream)


async def test_requests_are_answered_as_they_are_done() -> None:
    async with serving_client() as (stage, client, _):
        exchanges = [client.request(target=f"/{number}") for number in range(20)]
        streams = [await stage.next() for _ in exchanges]
        for stream in reversed(streams):
            await stream.send_response(200, (), stream.head.target)
            stage.leave(stream)
            exchange = next(x for x in exchanges if x.number == stream.stream_id)
            assert (await exchange.finished()).body == stream.head.target
        assert [stream.head.target for stream in streams] == [b"/%d" % n for n in range(20)]


async def test_a_client_that_is_well_behaved_may_go_on_for_ever() -> None:
    """Frames that go with requests are no flood: two WINDOW_UPDATEs for each answer."""
    async with serving_client(Mirror()) as (app, client, _):
        for _ in range(1500):
            assert (await client.get()).body == b"GET / "
        assert client.goaways == []


async def test_a_download_whose_every_frame_is_acknowledged_twice() -> None:
    """Clients give credit for each frame that they take, on the stream and on the connection."""
    size = 10_000_000

    async def app(stream: StreamState) -> None:
        await stream.send_response(200, (), bytes(size))

    async with serving_client(app) as (_, client, _):
        assert len((await client.get()).body) == size
        assert client.goaways == []


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", [tuple, list])
async def test_what_belongs_to_http1_is_left_out(kind: Any, streamed: bool) -> None:
    """Applications that know HTTP/1.1 set such headers; names come in lower case."""
    headers = kind(
        [
            (b"Connection", b"close"),
            (b"X-Mixed-Case", b"1"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Proxy-Connection", b"close"),
            (b"upgrade", b"h2c"),
        ]
    )

    async def app(stream: StreamState) -> None:
        if streamed:
            stream.send_informational(103, [(b"Link", b"</a>")])
            stream.send_head(200, headers)
            await stream.send_data(b"ok")
            await stream.end([(b"X-Sum", b"2")])
        else:
            await stream.send_response(200, headers, b"ok")

    async with serving_client(app) as (_, client, _):
        for _ in range(2):
            response = await client.get()  # which checks the names
            assert response.body == b"ok"
            assert response.headers["x-mixed-case"] == "1"
        assert client.goaways == []


async def test_an_interim_answer_ends_nothing() -> None:
    async with serving() as (stage, client):
        client.send(f.headers(1, f.request(extra=[(b"expect", b"100-continue")]), end=False))
        stream = await stage.next()
        assert drain(client) == []
        reading = asyncio.ensure_future(stream.read_async())
        for status in (b"100", b"103"):
            head = await client.next(f.HEADERS)
            assert head.flags == f.END_HEADERS
            assert client.decode(head)[0] == (b":status", status)
            stream.send_informational(103, [(b"link", b"</a>")])
        client.send(f.data(1, b"abc", True))
        assert await reading == b"abc"
        await stream.send_response(200, ())
        stage.leave(stream)
        assert client.decode(await client.next(f.HEADERS))  # the second 103
        assert (await client.answer(1))[0] == 200


async def test_fields_of_a_request() -> None:
    async with serving(Mirror()) as (app, client):
        extra = [
            (b"cookie", b"a=1"),
            (b"x_evil", b"1"),
            (b"te", b"trailers"),
            (b"cookie", b"b=2"),
            (b"host", b"localhost"),
        ]
        client.send(f.headers(1, f.request(b"/a?b", extra=extra)))
        await client.answer(1)
        (head,) = app.heads
        assert head.headers[0] == (b"host", b"localhost")
        assert sorted(head.headers[1:]) == [(b"cookie", b"a=1; b=2"), (b"te", b"trailers")]
        assert (head.http_version, head.target, head.query) == ("2", b"/a?b", b"b")


async def test_trailers_both_ways() -> None:
    async with serving() as (stage, client):
        client.send(
            f.headers(1, POST, end=False),
            f.data(1, b"abc"),
            f.headers(1, [(b"x-sum", b"3"), (b"x-more", b"4")]),
        )
        stream = await stage.next()
        assert await stream.read_async() == b"abc"
        assert list(stream.trailers) == [(b"x-sum", b"3"), (b"x-more", b"4")]
        stream.send_head(200, ())
        await stream.send_data(b"abc")
        await stream.end([(b"x-sum", b"6")])
        stage.leave(stream)
        await client.next(f.HEADERS)
        assert not (await client.next(f.DATA)).flags
        trailers = await client.next(f.HEADERS)
        assert trailers.flags == f.END_HEADERS | f.END_STREAM
        assert client.decode(trailers) == [(b"x-sum", b"6")]


async def test_trailers_without_a_body() -> None:
    async with serving() as (stage, client):
        client.send(f.headers(1, POST, end=False), f.headers(1, [(b"x-sum", b"0")]))
        stream = await stage.next()
        assert await stream.read_async() == b""
        assert list(stream.trailers) == [(b"x-sum", b"0")]


@pytest.mark.parametrize(
    "trailers",
    [
        f.headers(1, [(b"x-sum", b"3")], end=False),
        f.headers(1, [(b":path", b"/")]),
        f.headers(1, [(b"X-Sum", b"3")]),
        f.headers(1, [(b"connection", b"close")]),
    ],
    ids=["no-end", "pseudo", "upper", "connection"],
)
async def test_trailers_that_may_not_be(trailers: bytes) -> None:
    async with serving() as (stage, client):
        client.send(f.headers(1, POST, end=False), f.data(1, b"abc"))
        stream = await stage.next()
        stream.cancel_on_disconnect = False
        client.send(trailers)
        frame = await client.next(f.RST_STREAM, f.GOAWAY)
        assert (frame.kind, frame.code) == (f.RST_STREAM, f.PROTOCOL_ERROR)
        with pytest.raises((PeerGone, BodyError)):
            await stream.read_async()
        stage.leave(stream)
        client.send(f.headers(3))
        await stage.answer()
        assert (await client.answer(3))[0] == 200


def static_names(pairs: list[tuple[bytes, bytes]], never: bool) -> bytes:
    """A block of literals whose names are from the static table where it has them."""
    numbers = {b":authority": 1, b":method": 2, b":path": 4, b":scheme": 6, b"accept": 19}
    block = b""
    for name, value in pairs:
        number = numbers.get(name)
        if number is None:
            block += f.literals([(name, value)])
        else:
            first = 0x10 * never | min(number, 15)
            rest = b"" if number < 15 else bytes([number - 15])
            block += bytes([first]) + rest + f.literals([(b"", value)])[2:]
    return block


@pytest.mark.parametrize("seed", range(3))
async def test_heads_are_what_was_sent_however_they_were_encoded(seed: int) -> None:
    """
    Whole blocks, or all of them but the path, may have come before, under another table.

    What a handler does to its head is no other request's business.
    """
    chance = random.Random(seed)
    seen: list[tuple[bytes, list[tuple[bytes, bytes]]]] = []

    async def app(stream: StreamState) -> None:
        seen.append((stream.head.target, list(stream.head.headers)))
        stream.head.headers.append((b"x-added", b"by a handler"))
        await stream.send_response(200, ())

    async with serving(app) as (_, client):
        encoder = hpack.Encoder()
        paths = [b"/", b"/index.html", b"/a?b=c", b"/%20", b"/" + b"long" * 50]
        extras = [
            (b"accept", b"*/*"),
            (b"accept", b"a/b"),
            (b"x-a", b"1"),
            (b"x-a", b"2"),
            (b"x-b", b""),
        ]
        for number in range(1, 1201, 2):
            path = chance.choice(paths) if chance.random() < 0.8 else b"/%d" % number
            extra = [pair for pair in extras if chance.random() < 0.3]
            pairs = f.request(path, extra=extra)
            way = chance.randrange(5)
            if chance.random() < 0.02:
                encoder.header_table_size = chance.choice([0, 100, 4096])
                way = 0
            if way < 2:
                block = encoder.encode(pairs, huffman=bool(way))
            elif way == 2:
                block = f.literals(pairs)
            else:
                block = static_names(pairs, never=way == 4)
            client.send(f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, number, block))
            assert (await client.answer(number))[0] == 200
            assert seen.pop() == (path, [(b"host", b"localhost"), *extra])


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_large_request_head_in_pieces(size: int) -> None:
    pairs = f.request(extra=[(b"x-%d" % number, b"v" * 200) for number in range(50)])
    block = f.literals(pairs)
    size = max(size, len(block) // 60)  # 64 pieces or so: more are a flood
    pieces = [block[start : start + size] for start in range(0, len(block), size)]
    async with serving(Mirror()) as (app, client):
        client.send(f.frame(f.HEADERS, f.END_STREAM, 1, pieces[0]))
        for piece in pieces[1:-1]:
            client.send(f.frame(f.CONTINUATION, 0, 1, piece))
        client.send(f.frame(f.CONTINUATION, f.END_HEADERS, 1, pieces[-1]))
        assert (await client.answer(1))[0] == 200
        assert app.heads[0].headers[1:] == pairs[4:]


async def test_a_head_whose_last_frame_is_empty() -> None:
    async with serving(Mirror()) as (app, client):
        client.send(f.headers(1, flags=0), f.frame(f.CONTINUATION, f.END_HEADERS, 1))
        assert (await client.answer(1))[0] == 200


async def test_a_head_with_padding_and_an_old_priority() -> None:
    block = f.literals(f.GET)
    priority = struct.pack(">LB", 0x80000000, 15)
    flags = f.END_STREAM | f.END_HEADERS | f.PADDED | f.HAS_PRIORITY
    async with serving(Mirror()) as (app, client):
        client.send(f.frame(f.HEADERS, flags, 1, b"\x09" + priority + block + bytes(9)))
        assert (await client.answer(1))[2] == b"GET / "
        client.send(f.headers(3))
        assert (await client.answer(3))[2] == b"GET / "


async def test_a_large_head_of_an_answer_takes_several_frames() -> None:
    headers = [(b"x-%d" % number, distinct(9_000).hex().encode()) for number in range(3)]
    async with serving_client() as (stage, client, _):
        exchange = client.request()
        stream = await stage.next()
        stream.send_informational(103, headers)
        stream.send_head(200, headers)
        await stream.end(headers)
        stage.leave(stream)
        response = await exchange.finished()
        expected = [(name.decode(), value.decode()) for name, value in headers]
        assert [pair for pair in response.headers if pair[0].startswith("x-")] == expected
        assert list(response.trailers) == expected
        assert len(response.informational) == 1
        kinds = [frame.kind for frame in client.frames if frame.stream == 1]
        assert kinds.count(f.HEADERS) == 3
        assert kinds.count(f.CONTINUATION) >= 6


async def test_the_table_of_fields_lives_on_when_a_stream_is_turned_away() -> None:
    """Blocks of streams that nobody serves still change the table that later ones refer to."""
    async with serving_client(h2_max_concurrent_streams=1) as (stage, client, _):
        fields = [("x-first", "a value to remember")]
        first = client.begin(headers=fields)
        stream = await stage.next()
        more = [*fields, ("x-second", "another one"), ("x-third", "and a third")]
        refused = client.request(headers=more)
        with pytest.raises(ConnectionError, match=str(f.REFUSED_STREAM)):
            await refused.finished()
        malformed = client.request(headers=[("te", "junk"), ("x-fourth", "the last")])
        with pytest.raises(ConnectionError):
            await malformed.finished()
        first.end([*more, ("x-fourth", "the last")])
        assert await stream.read_async() == b""
        assert [name for name, _ in stream.trailers] == [
            b"x-first",
            b"x-second",
            b"x-third",
            b"x-fourth",
        ]
        await stream.send_response(200, ())
        stage.leave(stream)
        assert (await first.finished()).status == 200


async def test_the_access_log_gets_every_stream() -> None:
    async with MemoryServer(Mirror(), H2KyoukaiProtocol, access_log=True) as server:
        client = FrameClient(server)
        client.send(f.headers(1), f.headers(3, f.request(b"/b")))
        await client.answer(1)
        await client.answer(3)
        assert [stream.head.target for stream in server.logged] == [b"/", b"/b"]
        assert server.logged[1].bytes_sent == len(b"GET /b ")
    async with MemoryServer(Stage(), H2KyoukaiProtocol, access_log=True) as server:
        client = FrameClient(server)
        client.send(f.headers(1))
        await turns()
        client.send(f.rst_stream(1))
        await turns()
        assert [stream.head.target for stream in server.logged] == [b"/"]


# -- Error answers, which the version of 2018 lost ---------------------------------------------


def errors_app() -> Kyoukai:
    app = Kyoukai("test")

    @app.route("/upload", methods=["POST"], max_body_size=1000)
    async def upload(ctx: HTTPRequestContext) -> str:
        return "never"

    @app.route("/broken")
    async def broken(ctx: HTTPRequestContext) -> str:
        raise LookupError("broken")

    @app.route("/good")
    async def good(ctx: HTTPRequestContext) -> str:
        return "good"

    return app


@pytest.mark.parametrize(
    "status, options",
    [
        (404, {"target": "/nothing"}),
        (404, {"target": "/nothing", "method": "POST", "body": bytes(100_000)}),
        (405, {"target": "/upload"}),
        (405, {"target": "/good", "method": "POST", "body": bytes(100_000)}),
        (413, {"target": "/upload", "method": "POST", "body": bytes(100_000)}),
        (413, {"target": "/upload", "method": "POST", "chunks": [bytes(400)] * 300}),
        (500, {"target": "/broken"}),
    ],
    ids=["404", "404-upload", "405", "405-upload", "413-length", "413-bytes", "500"],
)
async def test_error_answers_arrive(
    status: int, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of 2018: errors were answered before the body was read, and never arrived."""
    async with serving_client(errors_app()) as (_, client, _):
        exchange = client.request(**options)
        response = await exchange.finished()
        assert response.status == status
        assert response.body
        if status == 405:
            assert response.headers["Allow"]
        assert (await client.get("/good")).body == b"good"
        assert client.goaways == []
    if status == 500:
        assert "LookupError" in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    "status, pairs",
    [
        (405, [(b":method", b"CONNECT"), (b":authority", b"localhost:80")]),
        (414, f.request(b"/" + b"a" * 10_000)),
        (431, f.request(extra=[(b"x-a", b"1")] * 120)),
        (431, f.request(extra=[(b"x-a", b"a" * 10_000)] * 3 + [(b"x-b", b"b" * 2500)])),
        (417, f.request(extra=[(b"expect", b"junk")])),
    ],
    ids=["connect", "target", "number", "size", "expect"],
)
async def test_heads_that_are_answered_by_the_server_itself(status: int, pairs: Any) -> None:
    async with serving(Mirror(), access_log=True) as (app, client):
        block = f.literals(pairs)
        client.send(f.frame(f.HEADERS, f.END_STREAM, 1, block[:16_000]))
        for start in range(16_000, len(block), 16_000):
            client.send(f.frame(f.CONTINUATION, 0, 1, block[start : start + 16_000]))
        client.send(f.frame(f.CONTINUATION, f.END_HEADERS, 1))
        answer = await client.answer(1)
        assert answer[0] == status
        assert answer[2]
        client.send(f.headers(3))
        assert (await client.answer(3))[0] == 200
        assert app.paths == ["/"]
        logged = client.protocol.component.logged
        assert [stream.status for stream in logged] == [status, 200]


async def test_an_application_that_fails_after_its_head(caplog: pytest.LogCaptureFixture) -> None:
    async def app(stream: StreamState) -> None:
        stream.send_head(200, ())
        await stream.send_data(b"half")
        raise LookupError("broken")

    async with serving(app) as (_, client):
        client.send(f.headers(1))
        reset = await client.next(f.RST_STREAM, f.GOAWAY)
        assert (reset.kind, reset.stream, reset.code) == (f.RST_STREAM, 1, f.INTERNAL_ERROR)
        client.send(f.frame(f.PING, 0, 0, b"12345678"))
        assert (await client.next(f.PING)).payload == b"12345678"
    assert "LookupError" in caplog.text
    caplog.clear()


async def test_an_application_that_forgets_to_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def app(stream: StreamState) -> None:
        pass

    async with serving(app) as (_, client):
        client.send(f.headers(1))
        assert (await client.answer(1))[0] == 500
    assert "sent no answer" in caplog.text
    caplog.clear()


# -- Other frames ------------------------------------------------------------------------------


async def test_a_ping_comes_back() -> None:
    async with serving() as (_, client):
        client.send(f.frame(f.PING, 0, 0, b"abcdefgh"), f.frame(f.PING, f.ACK, 0, b"12345678"))
        (pong,) = await client.settled()
        assert pong == (f.PING, f.ACK, 0, b"abcdefgh")


async def test_frames_that_mean_nothing_here_are_ignored() -> None:
    async with serving(Mirror()) as (app, client):
        priority = struct.pack(">LB", 1, 200)
        client.send(
            f.frame(0xFA, 0xFF, 0, b"unknown"),
            f.frame(0xFA, 0xFF, 77, b"unknown"),
            f.frame(f.PRIORITY, 0, 5, priority),
            f.headers(1, POST, end=False),
            f.frame(0xFA, 0xFF, 1, b"unknown"),
            f.frame(f.PRIORITY, 0, 1, struct.pack(">LB", 5, 1)),
            f.data(1, b"abc", True),
            f.frame(f.PRIORITY, 0, 1, struct.pack(">LB", 3, 1)),
            f.frame(0xFA, 0, 1, bytes(16_384)),
        )
        assert (await client.answer(1))[2] == b"POST / abc"
        client.send(
            f.frame(f.PRIORITY, 0, 1, struct.pack(">LB", 3, 1)),
            f.window_update(1, 10),
            f.rst_stream(1),
            f.headers(7),
        )
        assert (await client.answer(7))[2] == b"GET / "
        assert drain(client) == []


async def test_late_frames_of_a_stream_that_is_long_over() -> None:
    """More streams ago than are remembered: they were harmless then, and are so now."""
    async with serving(Mirror()) as (_, client):
        for number in range(1, 2500, 2):
            client.send(f.headers(number))
            await client.answer(number)
        drain(client)
        client.send(f.window_update(1, 5), f.rst_stream(3))
        client.send(f.frame(f.PRIORITY, 0, 5, struct.pack(">LB", 1, 1)), f.headers(2501))
        assert (await client.answer(2501))[0] == 200
        assert drain(client) == []


async def test_a_stream_that_depends_on_itself() -> None:
    async with serving() as (_, client):
        client.send(f.frame(f.PRIORITY, 0, 3, struct.pack(">LB", 3, 1)))
        frame = await client.next(f.RST_STREAM, f.GOAWAY)
        assert frame.code == f.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "code, frames",
    [
        (f.PROTOCOL_ERROR, [f.headers(2)]),
        (f.PROTOCOL_ERROR, [f.headers(0)]),
        (f.PROTOCOL_ERROR, [f.data(0, b"x")]),
        (f.PROTOCOL_ERROR, [f.data(3, b"x")]),
        (f.PROTOCOL_ERROR, [f.rst_stream(3)]),
        (f.PROTOCOL_ERROR, [f.rst_stream(0)]),
        (f.PROTOCOL_ERROR, [f.window_update(3, 1)]),
        (f.PROTOCOL_ERROR, [f.window_update(0, 0)]),
        (f.FLOW_CONTROL_ERROR, [f.window_update(0, 2**31 - 1)]),
        (f.FLOW_CONTROL_ERROR, [f.settings({f.INITIAL_WINDOW_SIZE: 2**31})]),
        (f.PROTOCOL_ERROR, [f.settings({f.MAX_FRAME_SIZE: 100})]),
        (f.PROTOCOL_ERROR, [f.settings({f.ENABLE_PUSH: 2})]),
        (f.PROTOCOL_ERROR, [f.frame(f.SETTINGS, 0, 1)]),
        (f.FRAME_SIZE_ERROR, [f.frame(f.SETTINGS, 0, 0, b"12345")]),
        (f.FRAME_SIZE_ERROR, [f.frame(f.SETTINGS, f.ACK, 0, bytes(6))]),
        (f.FRAME_SIZE_ERROR, [f.frame(f.PING, 0, 0, b"1234567")]),
        (f.PROTOCOL_ERROR, [f.frame(f.PING, 0, 1, b"12345678")]),
        (f.PROTOCOL_ERROR, [f.frame(f.PUSH_PROMISE, f.END_HEADERS, 1, bytes(4))]),
        (f.PROTOCOL_ERROR, [f.frame(f.CONTINUATION, f.END_HEADERS, 1, b"")]),
        (f.PROTOCOL_ERROR, [f.headers(1, flags=0), f.frame(f.PING, 0, 0, b"12345678")]),
        (f.PROTOCOL_ERROR, [f.headers(1, flags=0), f.headers(3)]),
        (f.COMPRESSION_ERROR, [f.frame(f.HEADERS, 5, 1, b"\xff\xff\xff\xff\x0f")]),
        (f.FRAME_SIZE_ERROR, [b"\x00\x40\x01\x00\x00\x00\x00\x00\x01"]),
        (f.PROTOCOL_ERROR, [f.headers(5), f.headers(3)]),
        (
            f.FLOW_CONTROL_ERROR,
            [
                f.headers(3, POST, end=False),
                f.window_update(3, 2**31 - 1 - 65_535),
                f.settings({f.INITIAL_WINDOW_SIZE: 65_536}),
            ],
        ),
    ],
)
async def test_errors_of_a_connection(code: int, frames: list[bytes]) -> None:
    """The connection ends with a GOAWAY that says why; what came before was served."""
    app = Mirror()
    async with MemoryServer(app, H2KyoukaiProtocol) as server:
        client = FrameClient(server)
        client.send(f.headers(1, f.request(b"/before"))) if frames[0][8] != 1 else None
        await turns()
        client.send(*frames)
        goaway = await client.next(f.GOAWAY)
        assert goaway.code in (code, f.STREAM_CLOSED if frames[-1] == f.headers(3) else code)
        assert goaway.payload[8:].decode().isprintable()
        assert len(goaway.payload) > 8
        await turns()
        assert client.closed
        assert all(path in ("/before", "/") for path in app.paths)


async def test_requests_of_the_same_read_as_an_error_are_served() -> None:
    """h2 would lose them: its exception says nothing of what came before in the same bytes."""
    async with serving(Mirror()) as (app, client):
        client.send(f.headers(1), f.headers(3, f.request(b"/b")), f.data(0, b"x"))
        goaway = await client.next(f.GOAWAY)
        assert goaway.number == 3
        assert (await client.answer(1))[2] == b"GET / "
        assert (await client.answer(3))[2] == b"GET /b "
        await turns()
        assert client.closed


async def test_errors_of_a_stream_leave_the_others_alone() -> None:
    async with serving() as (stage, client):
        client.send(f.headers(1, POST, end=False))
        healthy = await stage.next()
        client.send(f.headers(3, POST, end=False), f.window_update(3, 0))
        client.send(f.headers(5, POST, end=False), f.window_update(5, 2**31 - 1))
        client.send(f.headers(7), f.data(7, b"x"))
        client.send(f.headers(9, f.request(extra=[(b"Upper", b"1")])))
        client.send(f.headers(11), f.window_update(11, 2**31 - 1))
        client.send(f.headers(13), f.window_update(13, 0))
        resets = {x.stream: x.code for x in await client.settled() if x.kind == f.RST_STREAM}
        assert resets == {
            3: f.PROTOCOL_ERROR,
            5: f.FLOW_CONTROL_ERROR,
            7: f.STREAM_CLOSED,
            9: f.PROTOCOL_ERROR,
            11: f.FLOW_CONTROL_ERROR,
            13: f.PROTOCOL_ERROR,
        }
        client.send(f.data(1, b"abc", True))
        assert await healthy.read_async() == b"abc"
        await healthy.send_response(200, (), b"ok")
        stage.leave(healthy)
        assert (await client.answer(1))[2] == b"ok"


@pytest.mark.parametrize("tail", ["data", "headers", "trailers"])
async def test_a_body_that_is_not_as_long_as_declared(tail: str) -> None:
    async with serving() as (stage, client):
        head = f.request(method=b"POST", extra=[(b"content-length", b"10")])
        if tail == "headers":
            client.send(f.headers(1, head))
        elif tail == "data":
            client.send(f.headers(1, head, end=False), f.data(1, b"abc", True))
        else:
            client.send(
                f.headers(1, head, end=False), f.data(1, b"abc"), f.headers(1, [(b"x", b"y")])
            )
        reset = await client.next(f.RST_STREAM, f.GOAWAY)
        assert (reset.kind, reset.code) == (f.RST_STREAM, f.PROTOCOL_ERROR)
        await turns()
        assert stage.left == stage.cancelled


async def test_a_client_that_says_goaway_gets_its_answers() -> None:
    async with serving() as (stage, client):
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 10}), f.headers(1), f.headers(3))
        client.send(f.frame(f.GOAWAY, 0, 0, struct.pack(">LL", 0, f.NO_ERROR) + b"bye"))
        for number in (1, 3):
            stream = await stage.next()
            sending = asyncio.ensure_future(stream.send_response(200, (), distinct(100)))
            client.send(f.window_update(number, 90))
            await sending
            stage.leave(stream)
            assert (await client.answer(number))[2] == distinct(100)


# -- Resets ------------------------------------------------------------------------------------


async def test_a_reset_cancels_a_native_task_at_once() -> None:
    ended = asyncio.Event()
    app = Kyoukai("test")

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "never"

    async with serving(app) as (_, client):
        client.send(f.headers(1))
        await turns()
        client.send(f.rst_stream(1))
        await turns(3)
        assert ended.is_set()
        assert drain(client) == []


async def test_a_reset_wakes_a_sender_that_waits() -> None:
    async with serving() as (stage, client):
        client.send(f.settings({f.INITIAL_WINDOW_SIZE: 3}), f.headers(1), f.headers(3))
        first, second = await stage.next(), await stage.next()
        first.cancel_on_disconnect = False
        sending = asyncio.ensure_future(first.send_response(200, (), b"123456"))
        other = asyncio.ensure_future(second.send_response(200, (), b"abcdef"))
        await turns()
        drain(client)
        client.send(f.rst_stream(1))
        with pytest.raises(PeerGone):
            await sending
        assert (first.sending, first.receiving) == (RESET, CLOSED)
        client.send(f.window_update(1, 10), f.window_update(3, 10))
        await other
        frames = drain(client)
        assert {x.stream for x in frames} == {3}
        assert payload(frames) == b"def"
        stage.leave(first)


async def test_a_reset_in_the_same_read_as_its_request() -> None:
    """Before the task has begun: nothing is left of it, not even its place among the streams."""
    async with MemoryServer(Stage(), H2KyoukaiProtocol, h2_max_concurrent_streams=2) as server:
        stage: Any = server.interface
        client = FrameClient(server)
        for number in range(1, 101, 2):
            client.send(f.headers(number), f.rst_stream(number))
            await turns()
        assert server.connections.tasks == set()
        assert drain(client) == []
        client.send(f.headers(101), f.headers(103))
        await stage.answer()
        await stage.answer()
        assert (await client.answer(103))[0] == 200


async def test_a_reset_of_ours_says_so_once() -> None:
    async with serving() as (stage, client):
        client.send(f.headers(1, POST, end=False))
        stream = await stage.next()
        stream.send_head(200, ())
        stream.reset("for the test")
        stream.reset("again")
        client.send(f.data(1, b"on its way"), f.window_update(1, 10), f.rst_stream(1))
        stage.leave(stream)
        frames = [x for x in await client.settled() if x.kind != f.WINDOW_UPDATE]
        assert [x.kind for x in frames] == [f.HEADERS, f.RST_STREAM]
        assert frames[1].code in (f.INTERNAL_ERROR, f.CANCEL)


async def test_frames_after_a_reset_of_ours_are_no_error() -> None:
    """They were on their way: data, trailers, window updates, a reset."""
    async with serving() as (stage, client):
        for number in (1, 3, 5, 7):
            client.send(f.headers(number, POST, end=False))
            stream = await stage.next()
            stream.reset("for the test")
            stage.leave(stream)
        client.send(f.data(1, b"x", True), f.headers(3, [(b"x", b"y")]))
        client.send(f.window_update(5, 1), f.rst_stream(7), f.headers(9))
        await stage.answer()
        assert (await client.answer(9))[0] == 200
        kinds = {x.kind for x in drain(client)} - {f.WINDOW_UPDATE}
        assert kinds == {f.RST_STREAM}


async def test_streams_beyond_the_limit_are_refused() -> None:
    async with serving(h2_max_concurrent_streams=2) as (stage, client):
        client.send(*[f.headers(number) for number in (1, 3, 5, 7)])
        resets = [x for x in await client.settled() if x.kind == f.RST_STREAM]
        assert [(x.stream, x.code) for x in resets] == [(5, 7), (7, 7)]
        await stage.answer()
        client.send(f.headers(9))
        await stage.answer()
        await stage.answer()
        assert (await client.answer(9))[0] == 200
        assert stage.streams.empty()


async def test_tasks_of_streams_that_were_reset_count_until_they_end() -> None:
    leave = asyncio.Event()
    begun: list[int] = []

    async def app(stream: Any) -> None:
        begun.append(stream.stream_id)
        try:
            await asyncio.Event().wait()
        finally:
            await leave.wait()

    async with serving(app, h2_max_concurrent_streams=2) as (_, client):
        client.send(f.headers(1), f.headers(3))
        await turns()
        client.send(f.rst_stream(1), f.rst_stream(3), f.headers(5))
        (refused,) = await client.settled()
        assert (refused.kind, refused.stream, refused.code) == (
            f.RST_STREAM,
            5,
            f.REFUSED_STREAM,
        )
        leave.set()
        await turns()
        client.send(f.headers(7))
        await turns()
        assert begun == [1, 3, 7]


async def test_what_an_application_does_after_its_answer_takes_no_stream() -> None:
    async with serving(h2_max_concurrent_streams=1) as (stage, client):
        for number in (1, 3, 5):
            client.send(f.headers(number))
            stream = await stage.next()
            await stream.send_response(200, (), b"ok")
            assert (await client.answer(number))[2] == b"ok"
        assert stage.left == []
