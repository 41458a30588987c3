"""HTTP/2, frame by frame: requests, answers, flow control, time-outs and ways to end."""

from __future__ import annotations

import asyncio
import gc
import random
import struct
import weakref
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kyoukai.app import Kyoukai
from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.context import HTTPRequestContext
from kyoukai.exceptions import BodyError, BodyTimeout, PeerGone
from kyoukai.stream import CLOSED, RESET, StreamState
from kyoukai.testing import MemoryServer

from .. import frames as f
from ..frames import FrameClient
from ..support import Clock, Mirror, Stage, turns
from .support import Client, PumpingTransport, dial


@asynccontextmanager
async def serving(app: Any = None, **settings: Any) -> AsyncIterator[tuple[Any, FrameClient]]:
    """A server, and a client of frames that has greeted it."""
    app = app or Stage()
    async with MemoryServer(app, H2KyoukaiProtocol, **settings) as server:
        yield app, FrameClient(server)


@asynccontextmanager
async def serving_client(
    app: Any = None, client: Any = (), **settings: Any
) -> AsyncIterator[tuple[Any, Client, PumpingTransport]]:
    """A server, and a client that keeps the rules and checks that the server does."""
    app = app or Stage()
    async with MemoryServer(app, H2KyoukaiProtocol, **settings) as server:
        yield app, *dial(server, **dict(client))


def drain(client: FrameClient, *kinds: int, stream: int | None = None) -> list[f.Frame]:
    """What has come and was not asked for, and that is forgotten now; these kinds of it."""
    frames = client.take()
    client.frames.clear()
    return [
        frame
        for frame in frames
        if (not kinds or frame.kind in kinds) and stream in (None, frame.stream)
    ]


def credit(frames: Iterable[f.Frame], stream: int) -> int:
    """How many bytes the WINDOW_UPDATEs among these allow."""
    return sum(x.number for x in frames if x.kind == f.WINDOW_UPDATE and x.stream == stream)


def payload(frames: Iterable[f.Frame], stream: int | None = None) -> bytes:
    """The data in these frames."""
    return b"".join(x.payload for x in frames if x.kind == f.DATA and stream in (None, x.stream))


def distinct(size: int, start: int = 0) -> bytes:
    """Bytes of which no four are the same as others, so that what is amiss can be told."""
    numbers = range(start, start + size // 4 + 1)
    return struct.pack(f">{len(numbers)}L", *numbers)[:size]


POST = f.request(method=b"POST")


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
        assert pairs.pop(8, 0) == 0  # no WebSockets (RFC 8441 section 3)
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
        for _ in range(100):
            client.send(f.frame(f.PING, 0, 0, b"12345678") * 1000)
        await turns()
        assert len(client.transport.output) <= 65_536 + 17 * 15_500
        client.transport.output[:0] = client.transport.release()
        await turns()
        assert len(drain(client, f.PING)) == 100_000


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

LAST = 2**31 - 1


async def begin_shutdown(client: FrameClient) -> f.Frame:
    """Stop the server; return the PING that follows the first GOAWAY."""
    client.protocol.connections.shutdown()
    goaway = await client.next(f.GOAWAY)
    assert (goaway.number, goaway.code) == (LAST, f.NO_ERROR)
    ping = await client.next(f.PING)
    assert ping.flags == 0
    return ping


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
        client.send(f.headers(3), f.headers(5), f.settings({f.INITIAL_WINDOW_SIZE: 0}))
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
            del client
            await turns()
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
