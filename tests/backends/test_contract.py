"""
What every stream offers its application, whatever the wire.

The suite runs once for each wire. A wire brings a ``Peer``: a client that sends requests and takes
answers, and knows nothing else of the protocol.
"""

from __future__ import annotations

import array
import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.exceptions import (
    BodyError,
    BodyNotReady,
    BodyStorageError,
    BodyTooLarge,
    InvalidResponse,
    PeerGone,
    StreamStateError,
)
from kyoukai.memory import ClientResponse
from kyoukai.stream import CLOSED, IDLE, OPEN, RESET, StreamState
from kyoukai.testing import MemoryServer

from .http2.support import Exchange, dial
from .support import Stage, connect, turns


class Http1Peer:
    """A client on HTTP/1.1."""

    version = "1.1"
    protocol_class = HttpToolsProtocol
    #: Whether a body that was declared with its length may have trailers.
    trailers_after_length = False

    def __init__(self, server: MemoryServer) -> None:
        self.connection = connect(server)
        self.transport = self.connection.transport
        self._chunked = False

    def request(self, method: str = "GET", target: str = "/", **options: Any) -> None:
        """Send a whole request."""
        self.connection.request(method, target, **options)

    def begin(
        self, method: str = "POST", target: str = "/", length: int | None = None, expect: str = ""
    ) -> None:
        """Send a head whose body follows."""
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        if expect:
            framing += f"\r\nExpect: {expect}"
        self._chunked = length is None
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n"
        self.connection.send(head.encode(), method)

    def data(self, data: bytes) -> None:
        """Send some of the body."""
        self.transport.feed(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self, trailers: Iterable[tuple[str, str]] = ()) -> None:
        """End the body."""
        if self._chunked:
            lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            self.transport.feed(f"0\r\n{lines}\r\n".encode())

    async def response(self) -> ClientResponse:
        """Wait for the next answer; ConnectionError if it is cut short."""
        return await self.connection.response()

    def hold(self) -> None:
        """Take nothing of what comes."""
        self.transport.hold()

    def release(self) -> None:
        """Take what has come, and go on."""
        self.transport.output[:0] = self.transport.release()

    def leave(self) -> None:
        """Be gone."""
        self.connection.close()


class Http2Peer:
    """A client on HTTP/2 that leaves by closing the connection; each request is a stream."""

    version = "2"
    protocol_class = H2KyoukaiProtocol
    trailers_after_length = True

    def __init__(self, server: MemoryServer) -> None:
        self.client, self.transport = dial(server)
        self.exchanges: list[Exchange] = []
        self._due: deque[Exchange] = deque()

    def request(self, method: str = "GET", target: str = "/", **options: Any) -> None:
        """Send a whole request."""
        self._sent(self.client.request(method, target, **options))

    def begin(
        self, method: str = "POST", target: str = "/", length: int | None = None, expect: str = ""
    ) -> None:
        """Send a head whose body follows."""
        headers = [] if length is None else [("content-length", str(length))]
        headers += [("expect", expect)] if expect else []
        self._sent(self.client.begin(method, target, headers))

    def _sent(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self._due.append(exchange)

    def data(self, data: bytes) -> None:
        """Send some of the body."""
        self.exchanges[-1].data(data)

    def end(self, trailers: Iterable[tuple[str, str]] = ()) -> None:
        """End the body."""
        self.exchanges[-1].end(trailers)

    async def response(self) -> ClientResponse:
        """Wait for the next answer, in the order of the requests."""
        return await self._due.popleft().finished()

    def hold(self) -> None:
        """Take nothing of what comes."""
        self.transport.hold()

    def release(self) -> None:
        """Take what has come, and go on."""
        self.transport.let_go()

    def leave(self) -> None:
        """Be gone."""
        if not self.transport.closed:
            self.transport.lose()


class Http2ResettingPeer(Http2Peer):
    """A client on HTTP/2 that leaves by resetting its streams; the connection stays."""

    def leave(self) -> None:
        """Be gone."""
        for exchange in self.exchanges:
            if not (exchange.done and exchange.ended):
                exchange.reset()


PEERS: dict[str, Any] = {
    "http1": Http1Peer,
    "http2": Http2Peer,
    "http2-reset": Http2ResettingPeer,
}


@pytest.fixture(params=PEERS, name="meet")
def meet_fixture(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return a context manager that serves a stage, and yields it with a peer."""

    @asynccontextmanager
    async def meet(app: Any = None, **settings: Any) -> AsyncIterator[tuple[Any, Any]]:
        app = app or Stage()
        peer_class = PEERS[request.param]
        async with MemoryServer(app, peer_class.protocol_class, **settings) as server:
            yield app, peer_class(server)

    return meet


# -- The head ----------------------------------------------------------------------------------


async def test_the_head(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request("PUT", "/a%20b?c=d", headers=[("X-A", "1"), ("x-a", "2")], body=b"abc")
        stream = await stage.next()
        head = stream.head
        assert (head.method, head.path, head.raw_path) == ("PUT", "/a b", b"/a%20b")
        assert (head.query, head.target) == (b"c=d", b"/a%20b?c=d")
        assert (head.scheme, head.authority) == ("http", "localhost")
        assert head.http_version == peer.version
        assert head.content_length == 3
        assert head.client == ("127.0.0.1", 50000)
        assert head.server == ("127.0.0.1", 8000)
        assert head.headers == [
            (b"host", b"localhost"),
            (b"x-a", b"1"),
            (b"x-a", b"2"),
            (b"content-length", b"3"),
        ]
        assert head.get(b"x-a") == b"1"
        assert head.get(b"x-b") is None


# -- Reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [6, None])
async def test_a_body_is_read_as_it_comes(meet: Any, length: int | None) -> None:
    async with meet() as (stage, peer):
        peer.begin(length=length)
        stream = await stage.next()
        assert stream.receiving is OPEN
        for part in (b"abc", b"def"):
            reading = asyncio.ensure_future(stream.receive())
            await turns()
            assert not reading.done()
            peer.data(part)
            assert await reading == part
        peer.end([("x-sum", "6")])
        assert await stream.receive() == b""
        assert await stream.receive() == b""
        assert stream.receiving is CLOSED
        assert stream.received == 6
        assert stream.buffered == 0
        trailers = length is None or peer.trailers_after_length
        assert list(stream.trailers) == ([(b"x-sum", b"6")] if trailers else [])


async def test_a_body_is_read_whole(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request("POST", "/", chunks=[b"abc", b"def"])
        stream = await stage.next()
        assert await stream.read_async() == b"abcdef"
        assert await stream.read_async() == b"abcdef"
        assert stream.read(2) == b"ab"
        assert stream.read() == b"cdef"
        assert await stream.read_async() == b"abcdef"


async def test_a_body_is_iterated(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.begin()
        stream = await stage.next()
        peer.data(b"abc")
        peer.end()
        assert b"".join([part async for part in stream]) == b"abc"
        assert await stream.read_async(to_end=False) == b""


async def test_no_body(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request()
        stream = await stage.next()
        assert stream.receiving is CLOSED
        assert stream.read() == b""
        assert await stream.read_async() == b""
        assert [part async for part in stream] == []


async def test_a_complete_body_is_a_file(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request("POST", "/", body=b"a\nb\nc")
        stream = await stage.next()
        assert stream.readline() == b"a\n"
        assert stream.readlines() == [b"b\n", b"c"]
        assert stream.read() == b""
        assert stream.buffered == 0
        peer.request("POST", "/", body=b"a\nb")
        await stream.send_response(200, ())
        assert list(await stage.next()) == [b"a\n", b"b"]


async def test_a_body_that_is_not_complete_is_not_ready_on_the_loop(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.begin(length=3)
        stream = await stage.next()
        for read in (stream.read, stream.readline, stream.readlines, lambda: list(stream)):
            with pytest.raises(BodyNotReady, match="read_async"):
                read()
        peer.data(b"abc")
        peer.end()
        assert stream.read() == b"abc"


async def test_a_worker_thread_waits_for_the_body(meet: Any) -> None:
    lines: list[bytes] = []
    asked = threading.Event()

    async def app(stream: StreamState) -> None:
        def work() -> None:
            lines.append(stream.readline())
            asked.set()
            lines.extend(stream)

        await asyncio.get_running_loop().run_in_executor(None, work)
        await stream.send_response(200, (), b"ok")

    async with meet(app) as (_, peer):
        peer.begin()
        await turns()
        peer.data(b"a\nb")
        await asyncio.get_running_loop().run_in_executor(None, asked.wait)
        peer.data(b"c\nd")
        peer.end()
        assert (await peer.response()).status == 200
        assert lines == [b"a\n", b"bc\n", b"d"]


async def test_a_worker_thread_learns_that_the_client_is_gone(meet: Any) -> None:
    caught: list[BaseException] = []
    begun = threading.Event()
    done = asyncio.Event()

    async def app(stream: StreamState) -> None:
        stream.cancel_on_disconnect = False

        def work() -> None:
            begun.set()
            try:
                stream.read()
            except ConnectionError as error:
                caught.append(error)

        await asyncio.get_running_loop().run_in_executor(None, work)
        done.set()

    async with meet(app) as (_, peer):
        peer.begin(length=10)
        await turns()
        await asyncio.get_running_loop().run_in_executor(None, begun.wait)
        await turns()
        peer.leave()
        await done.wait()
        assert isinstance(caught[0], PeerGone)


async def test_only_one_task_reads(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.begin(length=3)
        stream = await stage.next()
        first = asyncio.ensure_future(stream.receive())
        await turns()
        with pytest.raises(StreamStateError):
            await stream.receive()
        peer.data(b"abc")
        assert await first == b"abc"


async def test_a_cancelled_read_loses_nothing(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.begin(length=3)
        stream = await stage.next()
        reading = asyncio.ensure_future(stream.receive())
        await turns()
        peer.data(b"abc")
        reading.cancel()
        await turns()
        assert await stream.receive() == b"abc"


async def test_a_body_is_kept_in_memory_or_on_disk(meet: Any, tmp_path: Any) -> None:
    async with meet() as (stage, peer):
        for size in (100, 101, 300_000):
            body = bytes(range(250)) * (size // 250 + 1)
            body = body[:size]
            peer.request("POST", "/", body=body)
            stream = await stage.next()
            await stream.receive_body(100, str(tmp_path))
            await stream.receive_body(100, str(tmp_path))
            assert stream.read(50) == body[:50]
            assert await stream.read_async() == body
            assert await stream.read_async(to_end=False) == body[50 : 50 + 65536]
            assert not list(tmp_path.iterdir())  # it has no name
            await stream.send_response(200, ())
            stage.leave(stream)
            await turns()
            with pytest.raises(ValueError, match="closed"):
                stream.read()


async def test_a_disk_that_takes_nothing(meet: Any, tmp_path: Any) -> None:
    async with meet() as (stage, peer):
        peer.begin(length=2000)
        stream = await stage.next()
        reading = asyncio.ensure_future(stream.receive_body(100, str(tmp_path / "missing")))
        peer.data(b"x" * 1000)
        with pytest.raises(BodyStorageError) as caught:
            await reading
        assert caught.value.status == 507
        with pytest.raises(BodyStorageError):
            await stream.read_async()
        peer.data(b"x" * 1000)
        peer.end()
        assert stream.buffered == 0
        await stream.send_response(507, ())
        assert (await peer.response()).status == 507


async def test_a_limit_on_what_is_declared(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.begin(length=11)
        stream = await stage.next()
        stream.set_body_limit(11)
        stream.set_body_limit(None)
        with pytest.raises(BodyTooLarge) as caught:
            stream.set_body_limit(10)
        assert caught.value.limit == 10
        with pytest.raises(BodyTooLarge):
            await stream.receive()


async def test_a_limit_on_what_comes(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.begin()
        stream = await stage.next()
        stream.set_body_limit(10)
        peer.data(b"x" * 10)
        assert len(await stream.receive()) == 10
        reading = asyncio.ensure_future(stream.receive())
        await turns()
        peer.data(b"x")
        with pytest.raises(BodyTooLarge):
            await reading
        peer.data(b"x" * 100)
        peer.end()
        assert stream.buffered == 0
        await stream.send_response(413, ())
        assert (await peer.response()).status == 413


async def test_a_limit_that_comes_too_late(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.begin()
        stream = await stage.next()
        peer.data(b"x" * 100)
        with pytest.raises(BodyTooLarge):
            stream.set_body_limit(10)
        assert stream.buffered == 0


async def test_a_body_is_not_to_be_had_after_the_answer(meet: Any) -> None:
    """Whoever still read it would wait for ever."""
    caught: list[BaseException] = []

    async def app(stream: StreamState) -> None:
        reading = asyncio.ensure_future(stream.read_async())
        await asyncio.sleep(0)
        await stream.send_response(200, ())
        try:
            await reading
        except BodyError as error:
            caught.append(error)

    async with meet(app) as (_, peer):
        peer.begin(length=10)
        peer.data(b"abc")
        assert (await peer.response()).status == 200
        await turns()
        assert len(caught) == 1
        assert not peer.transport.protocol.connections.tasks


async def test_a_body_that_the_client_broke_is_its_fault(
    meet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An interface need not catch what reading raises."""

    async def app(stream: StreamState) -> None:
        stream.set_body_limit(10)
        await stream.read_async()

    async with meet(app) as (_, peer):
        peer.begin()
        peer.data(bytes(100))
        peer.end()
        assert (await peer.response()).status == 413
    assert not caplog.records


# -- Answering ---------------------------------------------------------------------------------


async def test_states_of_a_stream(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request()
        stream = await stage.next()
        assert (stream.receiving, stream.sending) == (CLOSED, IDLE)
        with pytest.raises(StreamStateError):
            await stream.send_data(b"x")
        with pytest.raises(StreamStateError):
            await stream.end()
        stream.send_head(201, ())
        assert (stream.sending, stream.status) == (OPEN, 201)
        with pytest.raises(StreamStateError):
            stream.send_head(200, ())
        with pytest.raises(StreamStateError):
            await stream.send_response(200, ())
        await stream.send_data(b"x")
        await stream.end()
        assert stream.sending is CLOSED
        for late in (stream.send_data(b"x"), stream.end()):
            with pytest.raises(StreamStateError):
                await late
        with pytest.raises(StreamStateError):
            await stream.send_response(200, ())
        with pytest.raises(StreamStateError):
            stream.send_head(200, ())
        stream.reset()  # too late to matter
        stage.leave(stream)
        response = await peer.response()
        assert (response.status, response.body) == (201, b"x")


BODIES = {
    "none": b"",
    "bytes": b"abc",
    "bytearray": bytearray(b"abc"),
    "memoryview": memoryview(b"abcdef")[::1][:3],
    "ints": memoryview(array.array("I", [1, 2])),
    "large": bytes(200_000),
    "large-view": memoryview(bytes(200_000)),
    "large-ints": memoryview(array.array("I", range(50_000))),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_bodies_of_every_kind(meet: Any, body: Any, streamed: bool) -> None:
    async with meet() as (stage, peer):
        for _ in range(2):
            peer.request()
            stream = await stage.next()
            if streamed:
                stream.send_head(200, ())
                await stream.send_data(body)
                await stream.end()
            else:
                await stream.send_response(200, (), body)
            expected = bytes(body)
            assert stream.bytes_sent == len(expected)
            response = await peer.response()
            assert response.body == expected
            stage.leave(stream)


async def test_a_length_that_the_application_knows(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request()
        stream = await stage.next()
        stream.send_head(200, [(b"Content-Length", b"6")])
        await stream.send_data(b"abc")
        with pytest.raises(InvalidResponse):
            await stream.send_data(b"defg")
        await stream.send_data(b"def")
        await stream.end()
        response = await peer.response()
        assert response.headers["Content-Length"] == "6"
        assert response.body == b"abcdef"


async def test_a_body_shorter_than_its_length_is_cut(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request()
        stream = await stage.next()
        stream.send_head(200, [(b"content-length", b"6")])
        await stream.send_data(b"abc")
        with pytest.raises(InvalidResponse):
            await stream.end()
        assert stream.sending is RESET
        with pytest.raises(ConnectionError):
            await peer.response()
        stage.leave(stream)
        await turns()


async def test_a_length_that_is_wrong_for_a_whole_answer(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request()
        stream = await stage.next()
        with pytest.raises(InvalidResponse):
            await stream.send_response(200, ((b"content-length", b"2"),), b"abc")
        assert (stream.sending, stream.status) == (IDLE, 0)
        await stream.send_response(500, (), b"sorry")
        assert (await peer.response()).status == 500


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "status, headers",
    [
        (200, [(b"x-a", b"b\r\nx-evil: 1")]),
        (200, [(b"x-a\r\nx-evil", b"1")]),
        (200, [(b"x a", b"1")]),
        (200, [(b"x-a", b"\0")]),
        (99, []),
        (101, []),
        (600, []),
        ("200", []),
        (200, [(b"content-length", b"x")]),
        (200, [(b"content-length", b"1"), (b"content-length", b"2")]),
    ],
)
async def test_a_head_that_may_not_be_sent(
    meet: Any, status: Any, headers: Any, streamed: bool
) -> None:
    async with meet() as (stage, peer):
        peer.request()
        stream = await stage.next()
        with pytest.raises(InvalidResponse):
            if streamed:
                stream.send_head(status, headers)
            else:
                await stream.send_response(status, tuple(headers), b"x")
        assert stream.sending is IDLE
        await stream.send_response(500, (), b"sorry")
        response = await peer.response()
        assert (response.status, response.body) == (500, b"sorry")
        assert "x-evil" not in response.headers


@pytest.mark.parametrize(
    "arguments",
    [
        (200, None, b""),
        (200, [(b"a",)], b""),
        (200, ((bytearray(b"a"), b"b"),), b""),
        (200, ((b"a", None),), b""),
        (200, (), "text"),
        (200, (), None),
        (200, (), 5),
        (None, (), b""),
    ],
)
async def test_what_is_of_a_wrong_type_gets_500(
    meet: Any, arguments: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(stream: StreamState) -> None:
        await stream.send_response(*arguments)

    async with meet(app) as (_, peer):
        peer.request(target="/name")
        assert (await peer.response()).status == 500
    (record,) = caplog.records
    assert "/name" in record.getMessage()
    caplog.clear()


async def test_trailers_of_the_answer(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request()
        stream = await stage.next()
        stream.send_head(200, ())
        await stream.send_data(b"abc")
        await stream.end([(b"x-sum", b"3")])
        response = await peer.response()
        assert response.body == b"abc"
        assert response.trailers["x-sum"] == "3"


async def test_trailers_that_may_not_be_sent(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request()
        stream = await stage.next()
        stream.send_head(200, ())
        with pytest.raises(InvalidResponse):
            await stream.end([(b"x-a", b"b\r\n\r\nevil")])
        with pytest.raises(ConnectionError):
            await peer.response()
        stage.leave(stream)
        await turns()


async def test_interim_answers(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request()
        stream = await stage.next()
        for status in (99, 101, 200):
            with pytest.raises(InvalidResponse):
                stream.send_informational(status)
        with pytest.raises(InvalidResponse):
            stream.send_informational(103, [(b"link", b"a\r\nb")])
        stream.send_informational(103, [(b"link", b"</a>")])
        await stream.send_response(200, (), b"ok")
        stream.send_informational(103, [(b"link", b"</late>")])
        response = await peer.response()
        assert [(status, headers["link"]) for status, headers in response.informational] == [
            (103, "</a>")
        ]
        stage.leave(stream)
        peer.request()
        await stage.answer()
        assert (await peer.response()).informational == []


@pytest.mark.parametrize("by_hand", [[], [100], [102, 100, 103]])
async def test_continue_is_sent_once(meet: Any, by_hand: list[int]) -> None:
    """Who passes a body on may wait for another's word before it says that it wants it."""
    async with meet() as (stage, peer):
        peer.begin(length=4, expect="100-continue")
        stream = await stage.next()
        assert stream.continue_expected
        assert stream.head.get(b"expect") == b"100-continue"
        for status in by_hand:
            stream.send_informational(status)
        assert stream.continue_expected is (not by_hand)
        reading = asyncio.ensure_future(stream.read_async())
        await turns()
        assert not stream.continue_expected
        peer.data(b"body")
        peer.end()
        assert await reading == b"body"
        await stream.send_response(200, (), b"ok")
        response = await peer.response()
        assert [status for status, _ in response.informational] == (by_hand or [100])
        assert "connection" not in response.headers


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "method, status, expected", [("HEAD", 200, "3"), ("GET", 304, "3"), ("GET", 204, None)]
)
async def test_answers_without_a_body(
    meet: Any, method: str, status: int, expected: str | None, streamed: bool
) -> None:
    async with meet() as (stage, peer):
        peer.request(method)
        stream = await stage.next()
        headers = ((b"content-length", b"3"),)
        if streamed:
            stream.send_head(status, headers)
            await stream.send_data(b"abc")
            await stream.end()
        else:
            await stream.send_response(status, headers, b"abc")
        response = await peer.response()
        assert (response.status, response.body) == (status, b"")
        if status == 304 and peer.version == "2":  # where clients take it for a body's
            expected = None
        assert response.headers.get("Content-Length") == expected
        assert stream.bytes_sent == 0


async def test_every_answer_has_a_date_and_a_server(meet: Any) -> None:
    async with meet(server_header="Test") as (stage, peer):
        peer.request()
        await stage.answer()
        response = await peer.response()
        assert response.headers["Server"] == "Test"
        assert response.headers["Date"].endswith(" GMT")
        assert "X-Powered-By" not in response.headers
    async with meet(server_header=None) as (stage, peer):
        peer.request()
        await stage.answer()
        assert "Server" not in (await peer.response()).headers


# -- Being slow, and being gone ----------------------------------------------------------------


async def test_sending_waits_for_a_slow_client(meet: Any) -> None:
    async with meet(write_buffer_size=10_000) as (stage, peer):
        peer.hold()
        peer.request()
        stream = await stage.next()
        stream.send_head(200, ())
        sending = asyncio.ensure_future(stream.send_data(b"x" * 20_000))
        await turns()
        assert not sending.done()
        peer.release()
        await sending
        await stream.end()
        assert len((await peer.response()).body) == 20_000


async def test_tasks_may_send_beside_each_other(meet: Any) -> None:
    """One tells what happens, another that it is alive: each piece arrives, once and whole."""
    async with meet(write_buffer_size=10_000) as (stage, peer):
        peer.hold()
        peer.request()
        stream = await stage.next()
        stream.send_head(200, ())

        async def tell(what: bytes) -> None:
            for _ in range(10):
                await stream.send_data(what * 5_000)

        telling = [asyncio.ensure_future(tell(what)) for what in (b"a", b"b", b"c")]
        await turns()
        assert not any(each.done() for each in telling)
        peer.release()
        await asyncio.gather(*telling)
        await stream.end()
        body = (await peer.response()).body
        pieces = [body[start : start + 5_000] for start in range(0, len(body), 5_000)]
        assert sorted(pieces) == sorted([b"a" * 5_000, b"b" * 5_000, b"c" * 5_000] * 10)
        assert len({piece[:1] for piece in pieces[:9]}) == 3  # nobody waits for another's end


async def test_reset(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.request()
        stream = await stage.next()
        gone = asyncio.ensure_future(stream.disconnected())
        stream.send_head(200, ())
        await stream.send_data(b"abc")
        stream.reset("for the test")
        assert stream.sending is RESET
        stream.reset("twice")
        with pytest.raises(PeerGone):
            await stream.send_data(b"x")
        with pytest.raises(PeerGone):
            await stream.end()
        await gone
        with pytest.raises(ConnectionError):
            await peer.response()


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_client_that_leaves(meet: Any, cancel: bool) -> None:
    async with meet() as (stage, peer):
        peer.begin(length=10)
        stream = await stage.next()
        stream.cancel_on_disconnect = cancel
        waiting = asyncio.ensure_future(stream.disconnected())
        reading = asyncio.ensure_future(stream.receive())
        await turns()
        assert not waiting.done()
        peer.leave()
        await waiting
        with pytest.raises(PeerGone):
            await reading
        await stream.disconnected()
        assert (stream.receiving, stream.sending) == (RESET, RESET)
        with pytest.raises(PeerGone):
            await stream.send_response(200, ())
        with pytest.raises(PeerGone):
            stream.send_head(200, ())
        stream.send_informational(103)
        await turns()
        assert stage.cancelled == ([stream] if cancel else [])
        if not cancel:
            stage.leave(stream)


async def test_what_came_before_the_client_left_can_be_read(meet: Any) -> None:
    async with meet() as (stage, peer):
        peer.begin(length=10)
        stream = await stage.next()
        stream.cancel_on_disconnect = False
        peer.data(b"abc")
        peer.leave()
        await turns()
        assert await stream.receive() == b"abc"
        with pytest.raises(PeerGone):
            await stream.receive()
        stage.leave(stream)


async def test_a_client_that_leaves_is_no_error(meet: Any) -> None:
    """An application that does not mind gets ``PeerGone``; nothing of it is logged."""
    passed: list[str] = []

    async def app(stream: StreamState) -> None:
        stream.cancel_on_disconnect = False
        passed.append("in")
        await stream.disconnected()
        passed.append("gone")
        await stream.send_response(200, ())
        passed.append("never")

    async with meet(app) as (_, peer):
        peer.request()
        await turns()
        peer.leave()
        await turns()
        assert passed == ["in", "gone"]


async def test_an_application_that_swallows_cancellation(meet: Any) -> None:
    """A handler may end on its own terms when the client leaves."""
    passed: list[str] = []

    async def app(stream: StreamState) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            passed.append("cancelled")

    async with meet(app) as (_, peer):
        peer.request()
        await turns()
        peer.leave()
        await turns()
        assert passed == ["cancelled"]


async def test_an_application_that_cancels_itself(
    meet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(stream: StreamState) -> None:
        raise asyncio.CancelledError

    async with meet(app) as (_, peer):
        peer.request()
        assert (await peer.response()).status == 500
    assert "cancelled" in caplog.text
    caplog.clear()
