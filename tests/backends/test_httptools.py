"""HTTP/1.1 on the wire: connections, framing, backpressure, time-outs, shutdown."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from kyoukai.exceptions import BodyTimeout, BodyTooLarge, PeerGone
from kyoukai.stream import CLOSED, StreamState
from kyoukai.testing import Connection, MemoryServer

from .support import (
    GOOD,
    Clock,
    Mirror,
    Stage,
    Tls,
    by_byte,
    connect,
    parse_answers,
    send_in_pieces,
    turns,
    whole,
)

feeds = pytest.mark.parametrize("feed", [whole, by_byte])

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


def get(path: bytes, headers: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (path, headers)


def upload(size: int, sent: bytes = b"", headers: bytes = b"") -> bytes:
    return POST + b"Content-Length: %d\r\n%b\r\n%b" % (size, headers, sent)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def taken(connection: Connection, *methods: str) -> list[Any]:
    return parse_answers(connection.transport.take(), methods)


def buffered(connection: Connection) -> int:
    """Bytes that the protocol keeps and nobody has taken."""
    protocol: Any = connection.transport.protocol
    return len(protocol._buffer) + sum(stream.buffered for stream in protocol._streams)


# -- Keep-alive and versions -------------------------------------------------------------------


async def test_requests_follow_each_other() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        for index in range(5):
            connection.request("POST", f"/{index}", body=b"x" * index)
            response = await connection.response()
            assert response.text == f"POST /{index} " + "x" * index
            assert "Connection" not in response.headers
        assert not connection.transport.is_closing()


@pytest.mark.parametrize(
    "version, header, kept",
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: Close\r\n", False),
        (b"1.1", b"Connection: x, close\r\n", False),
        (b"1.1", b"Connection: close, keep-alive\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"Connection: Keep-Alive, x\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
@pytest.mark.parametrize("body", [b"", b"abc"])
async def test_who_keeps_the_connection(
    version: bytes, header: bytes, kept: bool, body: bytes
) -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        request = b"POST / HTTP/%b\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (
            version,
            header,
            len(body),
            body,
        )
        connection.send(request + GOOD)
        response = await connection.response()
        assert response.text == "POST / " + body.decode()
        if kept:
            expected = "keep-alive" if version == b"1.0" else None
            assert response.headers.get("Connection") == expected
            assert (await connection.response()).text == "GET /good "
        else:
            assert response.headers["Connection"] == "close"
            await connection.closed()
            assert connection.transport.take() == b""
            assert app.paths == ["/"]


async def test_the_server_gives_a_nameless_request_its_own_name() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server, sockname=("::1", 8000, 0, 0))
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await connection.response()).status == 200
        assert app.heads[0].authority == "[::1]:8000"
        assert app.heads[0].headers == [(b"host", b"[::1]:8000")]


async def test_an_application_can_close_the_connection() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(GOOD + GOOD)
        stream = await stage.next()
        await stream.send_response(200, ((b"connection", b"close"),), b"bye")
        response = await connection.response()
        assert response.headers["Connection"] == "close"
        await connection.closed()
        assert stage.streams.empty()


async def test_max_requests_per_connection() -> None:
    app = Mirror()
    async with MemoryServer(app, max_requests_per_connection=3) as server:
        connection = connect(server)
        connection.send(GOOD * 5)
        answers = [await connection.response() for _ in range(3)]
        closes = [answer.headers.get("Connection") for answer in answers]
        assert closes == [None, None, "close"]
        await connection.closed()
        assert connection.transport.take() == b""
        assert len(app.heads) == 3


# -- Pipelining --------------------------------------------------------------------------------


@feeds
async def test_pipelined_requests_are_answered_in_order(feed: Any) -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        requests = b"".join(
            get(b"/%d" % index) if index % 2 else upload(3, b"abc") + CHUNKED + chunk(b"de") + END
            for index in range(20)
        )
        send_in_pieces(connection, feed(requests))
        texts = [(await connection.response()).text for _ in range(30)]
        expected = [
            text
            for index in range(20)
            for text in ([f"GET /{index} "] if index % 2 else ["POST / abc", "POST / de"])
        ]
        assert texts == expected


async def test_one_request_runs_at_a_time() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(get(b"/1") + get(b"/2"))
        first = await stage.next()
        await turns()
        assert stage.streams.empty()
        await first.send_response(200, (), b"1")
        second = await stage.next()
        assert second.head.path == "/2"


async def test_a_bad_request_is_answered_after_the_good_ones() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(get(b"/1") + get(b"/2") + b"BAD\r\n\r\n" + get(b"/3"))
        await turns()
        assert connection.transport.take() == b""
        for path in ("/1", "/2"):
            stream = await stage.answer()
            assert stream.head.path == path
        statuses = [(await connection.response()).status for _ in range(3)]
        assert statuses == [200, 200, 400]
        await connection.closed()
        assert stage.streams.empty()


async def test_a_flood_of_requests_waits_unparsed() -> None:
    stage = Stage()
    async with MemoryServer(stage, max_pipelined=4, read_buffer_size=4096) as server:
        connection = connect(server)
        protocol: Any = connection.transport.protocol
        for _ in range(100):
            connection.send(GOOD * 10)
        await turns()
        assert len(protocol._streams) == 4
        assert not connection.transport.is_reading()
        assert buffered(connection) <= 4096 + 10 * len(GOOD)
        for _ in range(1000):
            await stage.answer()
        await turns()
        answers = taken(connection)
        assert len(answers) == 1000
        assert connection.transport.is_reading()
        assert not connection.transport.is_closing()


async def test_requests_that_wait_unparsed_survive_a_half_close() -> None:
    app = Mirror()
    async with MemoryServer(app, max_pipelined=2) as server:
        connection = connect(server)
        connection.send(GOOD * 10)
        connection.transport.feed_eof()
        await connection.closed()
        assert len(taken(connection)) == 10


async def test_a_line_longer_than_the_read_buffer_arrives() -> None:
    app = Mirror()
    async with MemoryServer(app, read_buffer_size=1024) as server:
        connection = connect(server)
        request = get(b"/long", b"X-A: %b\r\n" % (b"x" * 5000))
        for start in range(0, len(request), 500):
            connection.send(request[start : start + 500])
        await turns()
        assert [answer[0] for answer in taken(connection)] == [200]


# -- Bodies ------------------------------------------------------------------------------------


@feeds
async def test_chunked_requests(feed: Any) -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        data = CHUNKED + b"".join(chunk(b"x" * size) for size in range(1, 40)) + END
        send_in_pieces(connection, feed(data + GOOD))
        await connection.response()
        assert app.bodies == [b"x" * sum(range(1, 40))]
        assert (await connection.response()).text == "GET /good "


@feeds
async def test_request_trailers_stay_apart(feed: Any) -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        trailers = b"X-Sum: 1\r\nX-Sum: 2\r\nAuthorization: evil\r\n"
        send_in_pieces(
            connection, feed(CHUNKED + chunk(b"a") + b"0\r\n" + trailers + b"\r\n" + GOOD)
        )
        await connection.response()
        assert app.trailers == [[(b"x-sum", b"1"), (b"x-sum", b"2"), (b"authorization", b"evil")]]
        assert [name for name, _ in app.heads[0].headers] == [b"host", b"transfer-encoding"]
        assert (await connection.response()).text == "GET /good "
        assert app.heads[1].headers == [(b"host", b"a")]
        assert app.trailers[1] == []


async def test_answers_in_chunks_with_trailers() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(GOOD + GOOD)
        stream = await stage.next()
        stream.send_head(200, ((b"trailer", b"x-sum"),))
        for part in (b"a", b"", b"bc", bytearray(b"d"), memoryview(b"ef")):
            await stream.send_data(part)
        await stream.end(((b"x-sum", b"6"),))
        response = await connection.response()
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert response.body == b"abcdef"
        assert response.trailers["x-sum"] == "6"
        assert stream.bytes_sent == 6
        await stage.answer()
        assert (await connection.response()).status == 200


async def test_answers_without_a_length_on_1_0_end_with_the_connection() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        stream = await stage.next()
        stream.send_head(200, ())
        await stream.send_data(b"abc")
        await stream.end(((b"x-sum", b"6"),))
        response = await connection.response()
        assert response.body == b"abc"
        assert response.headers["Connection"] == "close"
        assert "Transfer-Encoding" not in response.headers


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(
    "method, status, length",
    [("HEAD", 200, "5"), ("GET", 204, None), ("GET", 304, "5"), ("HEAD", 204, None)],
)
async def test_answers_without_a_body(
    method: str, status: int, length: str | None, version: bytes, streamed: bool
) -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        request = b"%b / HTTP/%b\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
        connection.send(request % (method.encode(), version) * 2, method, method)
        for _ in range(2):
            stream = await stage.next()
            headers = ((b"content-length", b"5"),)
            if streamed:
                stream.send_head(status, headers)
                await stream.send_data(b"12345")
                await stream.end()
            else:
                await stream.send_response(status, headers, b"12345")
            assert stream.bytes_sent == 0
            response = await connection.response()
            assert response.status == status
            assert response.body == b""
            assert response.headers.get("Content-Length") == length
            assert "Transfer-Encoding" not in response.headers
            stage.leave(stream)
        assert not connection.transport.is_closing()


@pytest.mark.parametrize(
    "headers, chunks",
    [(((b"content-length", b"5"),), [b"abc"]), ((), [b"abc"])],
)
async def test_an_answer_that_is_cut_short_cannot_be_taken_for_whole(
    headers: Any, chunks: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async def app(stream: StreamState) -> None:
        stream.send_head(200, headers)
        for part in chunks:
            await stream.send_data(part)

    async with MemoryServer(app) as server:
        connection = connect(server)
        connection.send(GOOD)
        with pytest.raises(ConnectionError):
            await connection.response()
        assert connection.transport.aborted
    assert "did not end its answer" in caplog.text
    caplog.clear()


async def test_an_application_that_fails_early_gets_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(stream: StreamState) -> None:
        if stream.head.path == "/silent":
            return
        raise LookupError("broken")

    async with MemoryServer(app) as server:
        connection = connect(server)
        connection.send(get(b"/silent") + get(b"/raises"))
        assert (await connection.response()).status == 500
        assert (await connection.response()).status == 500
        assert not connection.transport.is_closing()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "/silent" in messages[0]
    assert "/raises" in messages[1]
    assert caplog.records[1].exc_info is not None
    caplog.clear()


# -- Expect ------------------------------------------------------------------------------------

EXPECT = b"Expect: 100-Continue\r\n"


async def test_continue_is_sent_when_the_application_reads() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(3, headers=EXPECT))
        stream = await stage.next()
        await turns()
        assert connection.transport.take() == b""
        reader = asyncio.ensure_future(stream.read_async())
        await turns()
        assert connection.transport.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(b"abc")
        assert await reader == b"abc"
        await stream.send_response(200, (), b"ok")
        response = await connection.response()
        assert response.status == 200
        assert "Connection" not in response.headers


async def test_continue_is_not_sent_for_a_body_that_came_by_itself() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        connection.send(upload(3, b"abc", EXPECT) + GOOD)
        assert (await connection.response()).informational == []
        assert (await connection.response()).text == "GET /good "


async def test_continue_is_not_sent_once_the_body_has_begun() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(6, headers=EXPECT))
        stream = await stage.next()
        connection.send(b"abc")
        reader = asyncio.ensure_future(stream.read_async())
        await turns()
        assert connection.transport.take() == b""
        connection.send(b"def")
        assert await reader == b"abcdef"


async def test_a_body_that_is_never_asked_for_costs_the_connection() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(3, headers=EXPECT))
        stream = await stage.next()
        await stream.send_response(403, (), b"no")
        response = await connection.response()
        assert response.status == 403
        assert response.informational == []
        assert response.headers["Connection"] == "close"
        await connection.closed()


async def test_1_0_gets_no_interim_answers() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        connection.send(b"POST / HTTP/1.0\r\nContent-Length: 3\r\n" + EXPECT + b"\r\n")
        await turns()
        assert connection.transport.take() == b""
        connection.send(b"abc")
        assert (await connection.response()).text == "POST / abc"


async def test_early_hints() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(GOOD + b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        for _ in range(2):
            stream = await stage.next()
            stream.send_informational(103, ((b"link", b"</a.css>; rel=preload"),))
            stream.send_informational(103, ((b"link", b"</b.css>; rel=preload"),))
            await stream.send_response(200, (), b"ok")
        first, second = await connection.response(), await connection.response()
        assert [status for status, _ in first.informational] == [103, 103]
        assert first.informational[1][1]["Link"] == "</b.css>; rel=preload"
        assert second.informational == []


# -- Early answers -----------------------------------------------------------------------------


async def test_an_early_answer_to_a_short_body_keeps_the_connection() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(65536, b"x" * 1000))
        await stage.answer()
        response = await connection.response()
        assert "Connection" not in response.headers
        connection.send(b"x" * 64536 + GOOD)
        await stage.answer()
        assert (await connection.response()).status == 200


@feeds
async def test_an_early_answer_to_short_chunks_keeps_the_connection(feed: Any) -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(CHUNKED)
        await stage.answer()
        response = await connection.response()
        assert "Connection" not in response.headers
        send_in_pieces(connection, feed(chunk(b"x" * 3000) * 2 + END + GOOD))
        await stage.answer()
        assert (await connection.response()).status == 200


async def test_an_early_answer_to_a_long_body_closes_one_direction_and_lingers() -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        transport = connection.transport
        connection.send(upload(1_000_000, b"x" * 1000))
        await stage.answer(b"early")
        response = await connection.response()
        assert response.body == b"early"
        assert response.headers["Connection"] == "close"
        assert transport.eof_written
        assert not transport.is_closing()
        for _ in range(20):
            connection.send(b"x" * 50_000)
        assert transport.is_reading()
        assert buffered(connection) == 0
        await clock.advance(1.9)
        assert not transport.is_closing()
        await clock.advance(0.2)
        assert transport.closed
        assert not transport.aborted


async def test_an_early_answer_while_reading_is_paused() -> None:
    stage = Stage()
    async with MemoryServer(stage, read_buffer_size=1024) as server:
        connection = connect(server)
        connection.send(upload(4000, b"x" * 2000))
        connection.send(b"x" * 2000 + GOOD)
        stream = await stage.next()
        assert not connection.transport.is_reading()
        await stream.send_response(200, (), b"early")
        stage.leave(stream)
        await stage.answer(b"next")
        bodies = [(await connection.response()).body for _ in range(2)]
        assert bodies == [b"early", b"next"]


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_early_answer_while_more_waits_than_is_dropped(
    framing: str, streamed: bool
) -> None:
    stage = Stage()
    async with MemoryServer(stage, access_log=True) as server:
        connection = connect(server)
        body = b"x" * 100_000
        connection.send(upload(1_000_000, body) if framing == "length" else CHUNKED + chunk(body))
        stream = await stage.next()
        assert stream.buffered == 100_000
        if streamed:
            stream.send_head(200, ())
            await stream.send_data(b"early")
            await stream.end()
        else:
            await stream.send_response(200, (), b"early")
        assert (await connection.response()).body == b"early"
        await connection.closed()
        assert buffered(connection) == 0
        assert server.logged == [stream]
        stage.leave(stream)
        await turns()
        assert stage.cancelled == []


async def test_a_client_that_finishes_ends_the_lingering() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(1_000_000))
        await stage.answer()
        await turns()
        connection.send(b"x" * 1_000_000)
        connection.transport.feed_eof()
        await turns()
        assert connection.transport.closed
        assert len(server.connections) == 0


@pytest.mark.parametrize("end", [END, b"zz\r\n"])
async def test_an_early_answer_to_chunks_that_grow_long(end: bytes) -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(CHUNKED)
        await stage.answer()
        assert (await connection.response()).status == 200
        connection.send(chunk(b"x" * 60_000))
        assert not connection.transport.eof_written
        connection.send(chunk(b"x" * 10_000) + end + GOOD)
        await connection.closed()
        assert connection.transport.take() == b""
        assert stage.streams.empty()


async def test_an_early_answer_while_much_of_the_body_waits() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(100_000, b"x" * 50_000))
        await stage.answer()
        assert (await connection.response()).status == 200
        connection.send(b"x" * 50_000 + GOOD)
        await turns()
        if not connection.transport.eof_written:  # either way, the next one is not lost halfway
            await stage.answer()
            assert (await connection.response()).status == 200


async def test_over_tls_lingering_only_drops() -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server, ssl_object=Tls())
        connection.send(upload(1_000_000))
        stream = await stage.answer()
        assert stream.head.scheme == "https"
        assert (await connection.response()).headers["Connection"] == "close"
        await turns()
        assert not connection.transport.eof_written
        assert not connection.transport.is_closing()
        connection.send(b"x" * 500_000)
        await clock.advance(2.1)
        assert connection.transport.closed


async def test_a_body_that_stays_away_after_an_early_answer() -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(1000))
        await stage.answer()
        assert (await connection.response()).status == 200
        await clock.advance(2.1)
        assert connection.transport.eof_written
        await clock.advance(2.1)
        assert connection.transport.closed


# -- Upgrades ----------------------------------------------------------------------------------

INNER = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@feeds
@pytest.mark.parametrize("token", [b"websocket", b"h2c", b"TLS/1.0", b"x, y"])
@pytest.mark.parametrize("method", [b"GET", b"POST", b"OPTIONS"])
@pytest.mark.parametrize("framing", ["none", "length", "chunked", "empty"])
async def test_an_upgrade_that_is_not_taken_is_an_ordinary_request(
    feed: Any, token: bytes, method: bytes, framing: str
) -> None:
    app = Mirror()
    body = b""
    data = b"%b /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %b\r\n" % (method, token)
    if framing == "none":
        data += b"\r\n"
    elif framing == "empty":
        data += b"Content-Length: 0\r\n\r\n"
    elif framing == "length":
        body = INNER
        data += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    else:
        body = INNER + END
        data += b"Transfer-Encoding: chunked\r\n\r\n" + chunk(INNER) + chunk(END) + END
    async with MemoryServer(app) as server:
        connection = connect(server)
        send_in_pieces(connection, feed(data + data + GOOD))
        for _ in range(2):
            response = await connection.response()
            assert response.body == method + b" /up " + body
        assert (await connection.response()).text == "GET /good "
        assert app.paths == ["/up", "/up", "/good"]
        assert app.heads[0].protocol == token.decode().lower()
        assert app.heads[0].headers[0] == (b"host", b"a")
        assert not connection.transport.is_closing()


async def test_an_upgrade_that_also_closes() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        headers = b"Connection: upgrade, close\r\nUpgrade: x\r\n"
        connection.send(upload(3, b"abc", headers) + GOOD)
        assert (await connection.response()).text == "POST / abc"
        await connection.closed()
        assert app.paths == ["/"]


# -- Half-closed clients and lost ones ---------------------------------------------------------


async def test_a_half_closed_client_gets_its_answers() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(get(b"/1") + get(b"/2"))
        connection.transport.feed_eof()
        first = await stage.next()
        gone = asyncio.ensure_future(first.disconnected())
        await turns()
        assert not gone.done()
        assert stage.cancelled == []
        await first.send_response(200, (), b"x" * 100_000)
        gone.cancel()
        await stage.answer()
        assert len((await connection.response()).body) == 100_000
        assert (await connection.response()).status == 200
        await connection.closed()
        await turns()
        assert len(server.connections) == 0


async def test_who_asks_for_it_hears_of_a_half_close() -> None:
    """Nothing but writing tells whether the client is gone: those who only wait must know."""
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(get(b"/1") + get(b"/2"))
        first = await stage.next()
        early = asyncio.ensure_future(first.disconnected(or_closed_input=True))
        await turns()
        assert not early.done()
        connection.transport.feed_eof()
        await early
        await first.disconnected(or_closed_input=True)
        await first.send_response(200, (), b"1")
        second = await stage.next()  # which waited its turn
        await second.disconnected(or_closed_input=True)
        assert stage.cancelled == []
        await second.send_response(200, (), b"2")
        assert (await connection.response()).body == b"1"
        assert (await connection.response()).body == b"2"
        for stream in (first, second):
            stage.leave(stream)


@pytest.mark.parametrize("sent", [b"", b"abc"])
async def test_a_half_close_inside_a_body_is_a_disconnect(sent: bytes) -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(10, sent))
        stream = await stage.next()
        connection.transport.feed_eof()
        await turns()
        assert stage.cancelled == [stream]
        assert connection.transport.closed
        assert connection.transport.take() == b""


async def test_a_half_close_inside_a_later_body_answers_the_earlier_request() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(get(b"/1") + upload(10, b"abc"))
        connection.transport.feed_eof()
        await stage.answer()
        assert (await connection.response()).status == 200
        await connection.closed()
        assert stage.streams.empty()


@pytest.mark.parametrize("data", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n", b""])
async def test_a_half_close_inside_a_head_is_a_disconnect(data: bytes) -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        connection.send(data)
        connection.transport.feed_eof()
        await turns()
        assert connection.transport.closed
        assert connection.transport.take() == b""
        assert app.heads == []


async def test_a_half_close_inside_a_later_head_answers_the_earlier_request() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(GOOD + b"GET / HT")
        connection.transport.feed_eof()
        await stage.answer()
        assert (await connection.response()).status == 200
        await connection.closed()


async def test_over_tls_the_end_is_a_disconnect() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server, ssl_object=Tls())
        connection.send(GOOD)
        stream = await stage.next()
        connection.transport.feed_eof()
        await turns()
        assert stage.cancelled == [stream]
        assert connection.transport.closed


@pytest.mark.parametrize("where", ["sleeping", "uploading", "downloading"])
async def test_a_lost_client_ends_the_task(where: str) -> None:
    stage = Stage()
    seen: list[BaseException] = []
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(100) if where == "uploading" else GOOD)
        stream = await stage.next()
        gone = asyncio.ensure_future(stream.disconnected())
        work = None
        if where == "uploading":
            work = asyncio.ensure_future(stream.read_async())
        elif where == "downloading":
            connection.transport.hold()
            stream.send_head(200, ())
            work = asyncio.ensure_future(stream.send_data(b"x" * 300_000))
        await turns()
        assert not gone.done()
        connection.transport.lose(ConnectionResetError())
        await turns()
        assert stage.cancelled == [stream]
        assert gone.done()
        if work is not None:
            with pytest.raises(PeerGone):
                await work
        with pytest.raises(PeerGone):
            await stream.send_data(b"more")
        assert seen == []
        assert not server.connections.tasks
        assert not server.connections.open


async def test_a_stream_may_outlive_its_client() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(GOOD)
        stream = await stage.next()
        stream.cancel_on_disconnect = False
        connection.close()
        await turns()
        assert stage.cancelled == []
        with pytest.raises(PeerGone):
            await stream.send_response(200, (), b"late")
        stage.leave(stream)
        await turns()
        assert stage.left == [stream]


async def test_after_a_complete_answer_nothing_is_cancelled() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(GOOD)
        stream = await stage.next()
        await stream.send_response(200, (), b"ok")
        connection.close()
        await turns()
        assert stage.cancelled == []
        assert len(server.connections) == 0
        assert len(server.connections.tasks) == 1
        stage.leave(stream)
        await server.connections.wait_idle()


async def test_after_an_early_answer_nothing_is_cancelled() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(1000))
        stream = await stage.next()
        await stream.send_response(200, (), b"ok")
        connection.close()
        await turns()
        assert stage.cancelled == []
        stage.leave(stream)
        await server.connections.wait_idle()


async def test_what_an_application_does_after_its_answer_holds_nothing_up() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(GOOD + GOOD)
        first = await stage.next()
        await first.send_response(200, (), b"1")
        second = await stage.next()
        await second.send_response(200, (), b"2")
        assert [answer[2] for answer in taken(connection)] == [b"1", b"2"]
        assert len(server.connections.tasks) == 2


async def test_lost_before_the_task_starts() -> None:
    stage = Stage()
    server = MemoryServer(stage)
    connection = connect(server)
    connection.send(GOOD)
    connection.transport.lose()
    await turns()
    assert not server.connections.tasks
    await asyncio.wait_for(server.connections.wait_idle(), 30)


async def test_abort_before_the_task_starts() -> None:
    stage = Stage()
    server = MemoryServer(stage)
    connect(server).send(GOOD)
    server.connections.abort()
    await turns()
    assert not server.connections.tasks
    await asyncio.wait_for(server.connections.wait_idle(), 30)


@pytest.mark.parametrize(
    "data", [b"", GOOD, GOOD + b"GET /", b"BAD\r\n\r\n", CHUNKED, upload(10, b"abc"), GOOD * 30]
)
async def test_nothing_keeps_a_lost_connection(data: bytes) -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        connection.send(data)
        await turns(60)
        reference = weakref.ref(connection.transport.protocol)
        gc.disable()
        try:
            if not connection.transport.closed:
                connection.transport.lose(ConnectionResetError())
            await turns()
            app.heads.clear()
            app.errors.clear()
            del connection.transport.protocol  # as a socket's transport does
            assert reference() is None
        finally:
            gc.enable()


# -- Backpressure ------------------------------------------------------------------------------


async def test_an_application_waits_for_a_slow_reader() -> None:
    stage = Stage()
    async with MemoryServer(stage, write_buffer_size=10_000) as server:
        connection = connect(server)
        transport = connection.transport
        transport.hold()
        connection.send(GOOD)
        stream = await stage.next()
        stream.send_head(200, ())
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(100):
                await stream.send_data(b"x" * 1000)
                sent += 1
            await stream.end()

        sending = asyncio.ensure_future(send())
        await turns()
        assert not sending.done()
        assert sent <= 10
        assert transport.get_write_buffer_size() < 12_000
        data = b""
        while not sending.done():
            data += transport.release()
            transport.hold()
            await turns()
        data += transport.release()
        (answer,) = parse_answers(data)
        assert answer[2] == b"x" * 100_000


@pytest.mark.parametrize("length", [None, 1_000_000])
async def test_a_large_answer_goes_out_in_slices(length: int | None) -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        transport = connection.transport
        transport.hold()
        connection.send(GOOD)
        stream = await stage.next()

        async def send() -> None:
            body = bytes(range(250)) * 4000
            if length is None:
                stream.send_head(200, ())
                await stream.send_data(body)
                await stream.end()
            else:
                await stream.send_response(200, (), body)

        sending = asyncio.ensure_future(send())
        data = b""
        while not sending.done():
            await turns()
            assert transport.get_write_buffer_size() < 3 * 65536
            data += transport.release()
            transport.hold()
        (answer,) = parse_answers(data + transport.release())
        assert answer[2] == bytes(range(250)) * 4000
        assert stream.bytes_sent == 1_000_000


async def test_a_reader_that_takes_nothing_holds_up_the_requests_behind() -> None:
    app = Mirror()
    async with MemoryServer(app, write_buffer_size=1024, read_buffer_size=1024) as server:
        connection = connect(server)
        connection.transport.hold()
        for _ in range(1000):
            connection.send(GOOD)
        await turns(100)
        assert connection.transport.get_write_buffer_size() < 2048
        assert not connection.transport.is_reading()
        assert buffered(connection) < 2048
        data = b""
        while len(app.heads) < 1000:
            data += connection.transport.release()
            connection.transport.hold()
            await turns()
        await turns()
        assert len(parse_answers(data + connection.transport.release())) == 1000


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_reading_stops_while_the_application_is_behind(framing: str) -> None:
    stage = Stage()
    size = 1_000_000
    async with MemoryServer(stage) as server:
        connection = connect(server)
        transport = connection.transport
        connection.send(upload(size) if framing == "length" else CHUNKED)
        stream = await stage.next()
        piece = b"x" * 10_000
        for _ in range(size // len(piece)):
            connection.send(piece if framing == "length" else chunk(piece))
        if framing == "chunked":
            connection.send(END)
        assert not transport.is_reading()
        assert 65536 < buffered(connection) < 90_000
        assert stream.received < 90_000
        total = 0
        while data := await stream.receive():
            total += len(data)
            assert buffered(connection) < 90_000
        assert total == size
        assert transport.is_reading()
        await stream.send_response(200, (), b"ok")
        assert (await connection.response()).status == 200


async def test_many_small_chunks_cost_little_memory() -> None:
    """A body in tiny chunks counts what it costs, not only what it says."""
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(CHUNKED)
        stream = await stage.next()
        for _ in range(300):
            connection.send(chunk(b"xy") * 1000)
        assert len(stream._chunks) <= 20_000


# -- Time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"GET", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_a_slow_head_gets_408(data: bytes) -> None:
    clock = Clock()
    app = Mirror()
    async with MemoryServer(app, header_timeout=10) as server:
        connection = connect(server)
        connection.send(data)
        await clock.advance(9.9)
        assert connection.transport.take() == b""
        await clock.advance(0.2)
        response = await connection.response()
        assert response.status == 408
        assert response.headers["Connection"] == "close"
        await connection.closed()


async def test_the_time_for_a_head_is_absolute() -> None:
    clock = Clock()
    app = Mirror()
    async with MemoryServer(app, header_timeout=10) as server:
        connection = connect(server)
        connection.send(GOOD)
        await connection.response()
        head = get(b"/", b"X-A: b\r\n" * 20)
        for index in range(11):
            connection.send(head[index : index + 1])
            await clock.advance(1)
        assert (await connection.response()).status == 408


async def test_a_head_that_waits_behind_a_slow_answer_is_not_late() -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage, header_timeout=10) as server:
        connection = connect(server)
        connection.send(GOOD + GOOD[:10])
        await clock.advance(60, 5)
        await stage.answer()
        connection.send(GOOD[10:])
        await stage.answer()
        statuses = [(await connection.response()).status for _ in range(2)]
        assert statuses == [200, 200]


async def test_a_head_that_waits_behind_a_slow_answer_gets_its_time_after_it() -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage, header_timeout=10, keep_alive_timeout=15) as server:
        connection = connect(server)
        connection.send(GOOD + GOOD[:10])
        await clock.advance(60, 5)
        await stage.answer()
        assert (await connection.response()).status == 200
        await clock.advance(9)
        assert connection.transport.take() == b""
        await clock.advance(2)
        assert (await connection.response()).status == 408


async def test_a_silent_connection_is_closed_without_a_word() -> None:
    clock = Clock()
    app = Mirror()
    async with MemoryServer(app, header_timeout=10) as server:
        connection = connect(server)
        await clock.advance(9.9)
        assert not connection.transport.is_closing()
        await clock.advance(0.2)
        assert connection.transport.closed
        assert connection.transport.take() == b""


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    clock = Clock()
    app = Mirror()
    async with MemoryServer(app, keep_alive_timeout=15) as server:
        connection = connect(server)
        for _ in range(3):
            connection.send(GOOD)
            await connection.response()
            await clock.advance(14.9)
            assert not connection.transport.is_closing()
        await clock.advance(0.2)
        assert connection.transport.closed
        assert connection.transport.take() == b""


async def test_blank_lines_do_not_keep_a_connection() -> None:
    clock = Clock()
    app = Mirror()
    async with MemoryServer(app, keep_alive_timeout=15) as server:
        connection = connect(server)
        connection.send(GOOD)
        await connection.response()
        for _ in range(8):
            connection.send(b"\r\n")
            await clock.advance(2)
        assert connection.transport.closed
        assert connection.transport.take() == b""


async def test_blank_lines_by_twos_are_no_head() -> None:
    clock = Clock()
    app = Mirror()
    async with MemoryServer(app, keep_alive_timeout=15) as server:
        connection = connect(server)
        connection.send(GOOD)
        await connection.response()
        connection.send(b"\r\n\r\n")
        await clock.advance(16)
        assert connection.transport.closed
        assert connection.transport.take() == b""


async def test_a_slow_handler_is_not_timed() -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(GOOD)
        stream = await stage.next()
        await clock.advance(1000, 20)
        await stream.send_response(200, (), b"ok")
        assert (await connection.response()).status == 200


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_slow_body_gets_408(framing: str) -> None:
    clock = Clock()
    app = Mirror()
    async with MemoryServer(app, min_body_rate=240, min_body_grace=5) as server:
        connection = connect(server)
        connection.send(upload(10_000) if framing == "length" else CHUNKED)
        for _ in range(5):
            connection.send(b"x" * 200 if framing == "length" else chunk(b"x" * 200))
            await clock.advance(1)
            if connection.transport.eof_written:
                break
        await clock.advance(1.5)
        response = await connection.response()
        assert response.status == 408
        assert response.headers["Connection"] == "close"
        assert isinstance(app.errors[0], BodyTimeout)


async def test_a_body_that_is_fast_enough_is_taken() -> None:
    clock = Clock()
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        connection.send(upload(10_000))
        for _ in range(40):
            connection.send(b"x" * 250)
            await clock.advance(1)
        assert (await connection.response()).status == 200


async def test_the_rate_counts_only_while_the_server_asks() -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage, read_buffer_size=1024) as server:
        connection = connect(server)
        connection.send(upload(4000, b"x" * 2000))
        stream = await stage.next()
        assert not connection.transport.is_reading()
        await clock.advance(120, 1)
        reader = asyncio.ensure_future(stream.read_async())
        await turns()
        connection.send(b"x" * 2000)
        assert len(await reader) == 4000


async def test_the_rate_does_not_count_before_continue() -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(10, headers=EXPECT))
        stream = await stage.next()
        await clock.advance(60, 1)
        reader = asyncio.ensure_future(stream.read_async())
        await turns()
        connection.send(b"x" * 10)
        assert await reader == b"x" * 10


async def test_no_rate_is_asked_for_at_0() -> None:
    clock = Clock()
    app = Mirror()
    async with MemoryServer(app, min_body_rate=0) as server:
        connection = connect(server)
        connection.send(upload(10))
        await clock.advance(120, 1)
        connection.send(b"x" * 10)
        assert (await connection.response()).status == 200


async def test_a_reader_that_stalls_is_cut() -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage, send_stall_timeout=60) as server:
        connection = connect(server)
        connection.transport.hold()
        connection.send(GOOD)
        stream = await stage.next()
        stream.send_head(200, ())
        sending = asyncio.ensure_future(stream.send_data(b"x" * 1_000_000))
        await clock.advance(59.9, 10)
        assert not connection.transport.is_closing()
        await clock.advance(0.2)
        assert connection.transport.aborted
        with pytest.raises(PeerGone):
            await sending
        assert stage.cancelled == [stream]


async def test_a_reader_that_takes_a_little_is_not_cut() -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage, send_stall_timeout=60) as server:
        connection = connect(server)
        transport = connection.transport
        transport.hold()
        connection.send(GOOD)
        stream = await stage.next()
        stream.send_head(200, ())
        sending = asyncio.ensure_future(stream.send_data(b"x" * 200_000))
        await turns()
        for _ in range(5):
            await clock.advance(50)
            del transport.output[:100]
        assert not transport.is_closing()
        await clock.advance(120, 60)
        assert transport.aborted
        with pytest.raises(PeerGone):
            await sending


async def test_a_short_answer_that_nobody_takes_is_cut() -> None:
    clock = Clock()
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        transport = connection.transport
        transport.hold()
        lose, transport._lose = transport._lose, lambda error: None  # type: ignore[method-assign]
        connection.send(GOOD)
        await clock.advance(16)
        assert transport.is_closing()  # as idle; but bytes wait, so that a socket would stay
        assert not transport.aborted
        await clock.advance(61)
        assert transport.aborted
        lose(None)


# -- Limits ------------------------------------------------------------------------------------


async def test_a_declared_body_over_the_limit_is_refused_before_a_byte_is_read() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(upload(2**64 - 1))
        stream = await stage.next()
        with pytest.raises(BodyTooLarge):
            stream.set_body_limit(16777216)
        with pytest.raises(BodyTooLarge):
            await stream.read_async()
        await stream.send_response(413, (), b"no")
        response = await connection.response()
        assert response.headers["Connection"] == "close"


async def test_chunks_over_the_limit_are_refused_as_they_come() -> None:
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(CHUNKED + chunk(b"x" * 1000))
        stream = await stage.next()
        stream.set_body_limit(1500)
        connection.send(chunk(b"x" * 501))
        with pytest.raises(BodyTooLarge):
            await stream.read_async()
        assert buffered(connection) == 0
        connection.send(chunk(b"x" * 501) + END + GOOD)
        await stream.send_response(413, (), b"no")
        await stage.answer()
        assert (await connection.response()).status == 413
        assert (await connection.response()).status == 200


async def test_too_many_connections_get_503() -> None:
    app = Mirror()
    async with MemoryServer(app, max_connections=2) as server:
        first, second, third = connect(server), connect(server), connect(server)
        response = await third.response()
        assert response.status == 503
        assert response.headers["Connection"] == "close"
        assert "Retry-After" in response.headers
        await turns()
        assert third.transport.closed
        assert server.connections.full_refused == 1
        first.close()
        fourth = connect(server)
        for connection in (second, fourth):
            connection.send(GOOD)
            assert (await connection.response()).status == 200
        over_tls = connect(server, ssl_object=Tls())
        await turns()
        assert over_tls.transport.closed
        assert over_tls.transport.take() == b""


async def test_hooks_of_the_registry() -> None:
    app = Mirror()
    made: list[Any] = []
    lost: list[Any] = []
    async with MemoryServer(app, max_connections=1) as server:
        server.connections.on_made = made.append
        server.connections.on_lost = lost.append
        first, refused = connect(server), connect(server)
        await turns()
        assert made == [first.transport.protocol]
        assert lost == []
        assert refused.transport.closed
        first.close()
        assert lost == made


# -- Heads -------------------------------------------------------------------------------------


@feeds
async def test_the_head_as_applications_see_it(feed: Any) -> None:
    app = Mirror()
    async with MemoryServer(app, root_path="/base") as server:
        connection = connect(server, peername=("::1", 5000, 0, 0), sockname=("::1", 80, 0, 0))
        data = (
            b"GET /a%20b/%C3%A9%2F?x=%20&y HTTP/1.1\r\nX-A: 1\r\nHOST: Example.COM:80\r\n"
            b"x-a: 2\r\nX_A: 3\r\nContent_Length: 5\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"
        )
        send_in_pieces(connection, feed(data))
        await connection.response()
        (head,) = app.heads
        assert head.method == "GET"
        assert head.target == b"/a%20b/%C3%A9%2F?x=%20&y"
        assert head.raw_path == b"/a%20b/%C3%A9%2F"
        assert head.path == "/a b/é/"
        assert head.query == b"x=%20&y"
        assert head.scheme == "http"
        assert head.authority == "example.com:80"
        assert head.http_version == "1.1"
        assert head.headers == [(b"host", b"Example.COM:80"), (b"x-a", b"1"), (b"x-a", b"2")]
        assert head.content_length is None
        assert head.protocol is None
        assert head.client == ("::1", 5000)
        assert head.server == ("::1", 80)
        assert head.tls is None
        assert head.root_path == "/base"


async def test_the_authority_of_an_absolute_target_wins() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        connection.send(b"GET http://B.example:81/x?y HTTP/1.1\r\nX-A: b\r\nHost: a\r\n\r\n")
        await connection.response()
        (head,) = app.heads
        assert head.authority == "b.example:81"
        assert head.headers == [(b"host", b"B.example:81"), (b"x-a", b"b")]
        assert (head.raw_path, head.query) == (b"/x", b"y")
        assert head.target == b"http://B.example:81/x?y"


FORWARDED = (
    b"X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.9\r\nX-Forwarded-Proto: https\r\n"
    b"X-Forwarded-Host: public.example\r\n"
)


@pytest.mark.parametrize(
    "trusted, peer, believed",
    [
        ((), ("10.0.0.1", 1), False),
        (("10.0.0.0/8",), ("10.0.0.1", 1), True),
        (("10.0.0.0/8",), ("11.0.0.1", 1), False),
        (("10.0.0.0/8",), "", False),
        (("unix", "10.0.0.0/8"), "", True),
        (("unix",), ("10.0.0.1", 1), False),
    ],
)
async def test_who_is_believed(trusted: tuple[str, ...], peer: Any, believed: bool) -> None:
    app = Mirror()
    async with MemoryServer(app, trusted_proxies=trusted) as server:
        connection = connect(server, peername=peer)
        connection.send(get(b"/", FORWARDED))
        await connection.response()
        (head,) = app.heads
        if believed:
            assert head.client == ("1.2.3.4", 0)
            assert head.scheme == "https"
            assert head.authority == "public.example"
            assert head.headers[0] == (b"host", b"public.example")
        else:
            assert head.client == (peer or None)
            assert head.scheme == "http"
            assert head.headers == [(b"host", b"a")]


async def test_a_scheme_must_be_one_of_two_and_a_host_valid() -> None:
    app = Mirror()
    async with MemoryServer(app, trusted_proxies=("*",)) as server:
        connection = connect(server)
        connection.send(get(b"/", b"X-Forwarded-Proto: javascript\r\n"))
        assert (await connection.response()).status == 200
        assert app.heads[0].scheme == "http"
        connection.send(get(b"/", b"X-Forwarded-Host: a b\r\n"))
        assert (await connection.response()).status == 400


# -- Shutdown ----------------------------------------------------------------------------------


async def test_shutdown_closes_idle_connections_soon() -> None:
    clock = Clock()
    app = Mirror()
    async with MemoryServer(app) as server:
        fresh, used = connect(server), connect(server)
        used.send(GOOD)
        await used.response()
        server.connections.shutdown()
        await clock.advance(1)
        assert fresh.transport.closed
        assert used.transport.closed
        assert fresh.transport.take() == b""
        await server.connections.wait_idle()


async def test_a_request_on_its_way_at_shutdown_is_answered() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        connection = connect(server)
        server.connections.shutdown()
        connection.send(GOOD)
        response = await connection.response()
        assert response.status == 200
        assert response.headers["Connection"] == "close"
        await server.connections.wait_idle()


@pytest.mark.parametrize("streamed", [False, True])
async def test_shutdown_waits_for_answers_and_says_close(streamed: bool) -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(GOOD + GOOD)
        first = await stage.next()
        server.connections.shutdown()
        await clock.advance(5)
        for stream in (first, None):
            stream = stream or await stage.next()
            if streamed:
                stream.send_head(200, ())
                await stream.send_data(b"ok")
                await stream.end()
            else:
                await stream.send_response(200, (), b"ok")
            stage.leave(stream)
        closes = [(await connection.response()).headers.get("Connection") for _ in range(2)]
        assert closes == [None, "close"]
        await connection.closed()
        await turns()
        await asyncio.wait_for(server.connections.wait_idle(), 30)


async def test_shutdown_in_the_middle_of_an_answer() -> None:
    clock = Clock()
    stage = Stage()
    async with MemoryServer(stage) as server:
        connection = connect(server)
        connection.send(GOOD)
        stream = await stage.next()
        stream.send_head(200, ())
        server.connections.shutdown()
        await stream.send_data(b"ok")
        await stream.end()
        stage.leave(stream)
        assert (await connection.response()).body == b"ok"
        await clock.advance(1)
        assert connection.transport.closed
        await server.connections.wait_idle()


async def test_a_server_that_stops_takes_no_connections() -> None:
    app = Mirror()
    async with MemoryServer(app) as server:
        server.connections.shutdown()
        connection = connect(server)
        assert (await connection.response()).status == 503
        await turns()
        assert connection.transport.closed


async def test_abort_ends_everything() -> None:
    stage = Stage()
    server = MemoryServer(stage)
    busy, idle = connect(server), connect(server)
    busy.send(GOOD)
    stream = await stage.next()
    server.connections.abort()
    await server.connections.wait_idle()
    assert stage.cancelled == [stream]
    assert busy.transport.closed
    assert idle.transport.closed


# -- The access log ----------------------------------------------------------------------------


async def logged(data: bytes, lose: bool = False, **settings: Any) -> list[tuple[str, int]]:
    app = Mirror()
    async with MemoryServer(app, access_log=True, **settings) as server:
        connection = connect(server)
        connection.send(data)
        await turns(60)
        if lose:
            connection.close()
            await turns()
        return [(stream.head.path, stream.status) for stream in server.logged]


async def test_each_answer_is_logged_once() -> None:
    assert await logged(GOOD + get(b"/2") + upload(1, b"a")) == [
        ("/good", 200),
        ("/2", 200),
        ("/", 200),
    ]
    assert await logged(GOOD + b"BAD\r\n\r\n", lose=True) == [("/good", 200), ("", 400)]
    assert await logged(upload(10, b"a"), lose=True) == [("/", 0)]
    assert await logged(b"", lose=True) == []


async def test_an_early_answer_is_logged_once_though_the_client_leaves() -> None:
    stage = Stage()
    async with MemoryServer(stage, access_log=True) as server:
        connection = connect(server)
        connection.send(upload(1000))
        stream = await stage.answer()
        assert server.logged == [stream]
        connection.close()
        await turns()
        assert server.logged == [stream]


async def test_an_answer_that_fails_half_way_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(stream: StreamState) -> None:
        stream.send_head(200, ())
        await stream.send_data(b"abc")
        raise LookupError("broken")

    async with MemoryServer(app, access_log=True) as server:
        connection = connect(server)
        connection.send(GOOD + GOOD)
        await connection.closed()
        await turns()
        assert [(stream.status, stream.bytes_sent) for stream in server.logged[:1]] == [(200, 3)]
        assert len([stream for stream in server.logged if stream.status]) == 1
    assert "unhandled error" in caplog.text
    caplog.clear()


async def test_a_lost_answer_is_logged_with_what_was_sent() -> None:
    stage = Stage()
    async with MemoryServer(stage, access_log=True) as server:
        connection = connect(server)
        connection.send(GOOD)
        stream = await stage.next()
        stream.send_head(200, ())
        await stream.send_data(b"abc")
        connection.close()
        await turns()
        assert server.logged == [stream]
        assert (stream.status, stream.bytes_sent) == (200, 3)
        assert stream.sending is not CLOSED
        assert stream.started > 0
