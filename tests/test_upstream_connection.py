"""
Answers of upstream servers, in one piece and byte by byte.

What is well-formed is taken, and its connection used again. What is not is an error: before the
head is out no answer at all, afterwards one that is cut; and its connection is never used again.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns

from kyoukai import Proxy
from kyoukai.exceptions import UpstreamError
from kyoukai.testing import MemoryTransport
from kyoukai.upstream_answer import AnswerReceiver
from kyoukai.upstream_connection import UpstreamConnection
from kyoukai.upstream_head import HeadReader

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 2\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TO_EOF = OK + b"\r\n"
OLD = b"HTTP/1.0 200 OK\r\n"
NONE = b"HTTP/1.1 204 No Content\r\n"
SAME = b"HTTP/1.1 304 Not Modified\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
MANY = b"a" * 70000


@dataclass
class Taken:
    """What became of an answer."""

    status: int = 0
    body: bytes = b""
    #: Whether all of it was there.
    whole: bool = False
    #: Whether the connection may have another request.
    reusable: bool = False
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)


class Line:
    """A connection whose server is the test."""

    def __init__(self, **settings: Any) -> None:
        self.lost: list[UpstreamConnection] = []
        proxy = Proxy("http://up:1", **settings)
        self.connection = UpstreamConnection(proxy, HeadReader(""), self.lost.append)
        self.transport = MemoryTransport(self.connection)
        self.connection.connection_made(self.transport)

    async def ask(self, method: str = "GET", complete: bool = True) -> asyncio.Task[Taken]:
        """Send a request, and take the answer as it comes."""
        self.connection.begin(method, b"%b / HTTP/1.1\r\n\r\n" % method.encode(), complete)
        task = asyncio.create_task(self._take())
        await turns(2)
        return task

    async def _take(self) -> Taken:
        taken, connection = Taken(), self.connection
        connection.on_interim = lambda head: taken.interim.append(head.status)
        try:
            async with asyncio.timeout(10):
                await self._take_all(taken)
        except UpstreamError:
            pass
        taken.reusable = connection.reusable
        return taken

    async def _take_all(self, taken: Taken) -> None:
        connection = self.connection
        taken.status = (await connection.final_head()).status
        while data := await connection.receive():
            taken.body += data
        taken.whole = True
        taken.trailers = list(connection.trailers)

    def feed(self, data: bytes) -> None:
        """Let the server send."""
        if not self.transport.is_closing():
            self.transport.feed(data)


def pieces(data: bytes, bytewise: bool) -> Iterator[bytes]:
    size = 1 if len(data) < 4000 else 1000
    yield from [data[i : i + size] for i in range(0, len(data), size)] if bytewise else [data]


async def converse(
    data: bytes, method: str = "GET", bytewise: bool = False, **settings: Any
) -> tuple[Taken, Line]:
    """Send an answer, and the end of the connection if there is need of one."""
    line = Line(**settings)
    task = await line.ask(method)
    for piece in pieces(data, bytewise):
        line.feed(piece)
    await turns(3)
    if not task.done():
        line.transport.feed_eof()
    return await task, line


both_ways = pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])


@both_ways
@pytest.mark.parametrize(
    ("method", "data", "status", "body"),
    [
        ("GET", LENGTH + b"ok", 200, b"ok"),
        ("GET", OK + b"Content-Length: 0\r\n\r\n", 200, b""),
        ("GET", OLD + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        ("GET", CHUNKED + b"0\r\n\r\n", 200, b""),
        ("GET", CHUNKED + b"2\r\nok\r\n0\r\n\r\n", 200, b"ok"),
        ("GET", CHUNKED + b"2;a=b\r\nok\r\n000;c\r\n\r\n", 200, b"ok"),
        ("GET", CHUNKED + b"A\r\n0123456789\r\n00b\r\n01234567890\r\n0\r\n\r\n", 200, None),
        ("GET", CHUNKED + b"2\r\nok\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n", 200, b"ok"),
        ("GET", HINTS + HINTS + LENGTH + b"ok", 200, b"ok"),
        ("GET", b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\n" + LENGTH + b"ok", 200, b"ok"),
        ("GET", HINTS * 32 + LENGTH + b"ok", 200, b"ok"),
        ("GET", NONE + b"\r\n", 204, b""),
        ("GET", NONE + b"Content-Length: 0\r\n\r\n", 204, b""),
        ("GET", SAME + b"Content-Length: 2\r\n\r\n", 304, b""),
        ("GET", SAME + b"Transfer-Encoding: chunked\r\n\r\n", 304, b""),
        ("HEAD", LENGTH, 200, b""),
        ("HEAD", CHUNKED, 200, b""),
        ("HEAD", TO_EOF, 200, b""),
        ("GET", b"HTTP/1.1 404\r\nContent-Length: 2\r\n\r\nok", 404, b"ok"),
        ("GET", b"HTTP/1.1 599 \xe4\xb6\r\nContent-Length: 2\r\n\r\nok", 599, b"ok"),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_good_answers(
    method: str, data: bytes, status: int, body: bytes | None, bytewise: bool
) -> None:
    taken, line = await converse(data, method, bytewise)
    assert taken.whole
    assert taken.status == status
    assert taken.body == (body if body is not None else b"0123456789" * 2 + b"0")
    assert taken.interim == [103] * data.count(b" 103 ") + [100] * data.count(b" 100 ")
    assert taken.trailers == ([(b"x-a", b"b"), (b"x-c", b"d")] if b"X-C" in data else [])
    assert taken.reusable
    # The next one is not mistaken for any of it.
    line.connection.become_idle(5)
    task = await line.ask()
    line.feed(OK + b"Content-Length: 4\r\n\r\nnext")
    again = await task
    assert (again.body, again.whole, again.reusable, again.trailers) == (b"next", True, True, [])
    line.transport.lose()


@both_ways
@pytest.mark.parametrize(
    ("method", "data", "status", "body"),
    [
        # Good answers which say that it is the last one, or whose end is that of the connection.
        ("GET", OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        ("GET", OLD + b"Content-Length: 2\r\n\r\nok", 200, b"ok"),
        ("GET", OLD + b"\r\nok", 200, b"ok"),
        ("GET", TO_EOF + b"ok", 200, b"ok"),
        ("GET", TO_EOF, 200, b""),
        ("GET", HINTS + TO_EOF + b"ok", 200, b"ok"),
        # More than there should be.
        ("GET", LENGTH + b"okX", 200, b"ok"),
        ("GET", LENGTH + b"ok" + LENGTH + b"no", 200, b"ok"),
        ("GET", OK + b"Content-Length: 0\r\n\r\nX", 200, b""),
        ("GET", CHUNKED + b"2\r\nok\r\n0\r\n\r\nX", 200, b"ok"),
        ("GET", CHUNKED + b"2\r\nok\r\n0\r\n\r\nX Y\r\n\r\n", 200, b"ok"),
        ("GET", CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + LENGTH + b"no", 200, b"ok"),
        ("GET", CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + CHUNKED + b"2\r\nno\r\n0\r\n\r\n", 200, b"ok"),
        ("GET", CHUNKED + b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 101 S\r\n\r\n", 200, b"ok"),
        ("GET", NONE + b"\r\nX", 204, b""),
        ("GET", NONE + b"Content-Length: 2\r\n\r\nok", 204, b""),
        ("GET", NONE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 204, b""),
        ("GET", SAME + b"Content-Length: 2\r\n\r\nok", 304, b""),
        ("HEAD", LENGTH + b"ok", 200, b""),
        ("HEAD", CHUNKED + b"2\r\nok\r\n0\r\n\r\n", 200, b""),
        ("HEAD", LENGTH + LENGTH, 200, b""),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_answers_after_which_the_connection_ends(
    method: str, data: bytes, status: int, body: bytes, bytewise: bool
) -> None:
    taken, line = await converse(data, method, bytewise)
    assert taken.whole
    assert (taken.status, taken.body) == (status, body)
    assert not (taken.reusable and line.connection.reusable)
    line.connection.abort()


@both_ways
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTT",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        b"hello",
        b"hello\r\n\r\n",
        b"<html>",
        b"\x16\x03\x01\x02\x00\x01",
        b"\0",
        b"\r\n" + LENGTH + b"ok",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\rok",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        OLD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK + b"A: " + MANY,
        OK + b"A: " + MANY + b"\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 " + MANY,
        OK + b"A: b\r\n" * 12000,
        HINTS * 33 + LENGTH + b"ok",
        HINTS * 10000,
        HINTS,
        HINTS + b"hello",
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: x\r\n\r\n" + LENGTH + b"ok",
        b"HTTP/1.1 103 Early Hints\r\nHost: x\r\n\r\n" + LENGTH + b"ok",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        SWITCH + b"Content-Length: x\r\n\r\n",
    ],
    ids=lambda data: repr(data)[:60],
)
async def test_no_answer(data: bytes, bytewise: bool) -> None:
    """Nothing of it may reach the client."""
    taken, line = await converse(data, bytewise=bytewise)
    assert taken.status == 0
    assert (taken.body, taken.whole, taken.reusable) == (b"", False, False)
    assert line.transport.is_closing()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\nok",
        b"HTTP/1.0\t",
        b"hello",
        b"HTTP/1.1 103 E\r\n\r\nHTTP/2",
    ],
)
async def test_what_can_be_no_answer_is_none_at_once(data: bytes) -> None:
    """Nobody waits for the rest."""
    line = Line()
    task = await line.ask()
    line.feed(data + b"\r\n" * data.startswith(b"HTTP/1.0"))
    line.feed(b"\r\n" * data.startswith(b"HTTP/1.0"))
    await turns(3)
    assert task.done()
    assert (await task).status == 0


async def test_heads_that_are_known() -> None:
    """A whole answer with a head that has come before is one, and nothing that looks like it."""
    line = Line()
    known = OK + b"X-Known: yes\r\nContent-Length: 2\r\n\r\n"
    for data, status, body, fields, reusable in [
        ((known + b"ok",), 200, b"ok", [b"x-known"], True),
        ((known + b"no",), 200, b"no", [b"x-known"], True),
        ((known + b"o", b"k"), 200, b"ok", [b"x-known"], True),
        ((known, b"ok"), 200, b"ok", [b"x-known"], True),
        ((OK + b"X-A: ", known + b"ok"), 200, b"ok", [b"x-a", b"x-known"], True),
        ((HINTS, known + b"ok"), 200, b"ok", [b"x-known"], True),
        ((HINTS + known + b"ok",), 200, b"ok", [b"x-known"], True),
        ((known + b"ok!",), 200, b"ok", [b"x-known"], False),
    ]:
        task = await line.ask()
        for piece in data:
            line.feed(piece)
        taken = await task
        assert (taken.status, taken.body, taken.whole) == (status, body, True), data
        assert line.connection.head is not None
        assert [name for name, _ in line.connection.head.headers] == fields
        assert taken.reusable is reusable
        line.connection.become_idle(5)
    line.transport.lose()


@both_ways
@pytest.mark.parametrize(
    ("data", "body"),
    [
        (LENGTH + b"o", b"o"),
        (LENGTH, b""),
        (CHUNKED, b""),
        (CHUNKED + b"5\r\nok", b"ok"),
        (CHUNKED + b"2\r\nok", b"ok"),
        (CHUNKED + b"2\r\nok\r\n", b"ok"),
        (CHUNKED + b"2\r\nok\r\n0", b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\n", b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\nX-A: b\r\n", b"ok"),
        (CHUNKED + b"2\r\nok0\r\n\r\n", b"ok"),
        (CHUNKED + b"2\r\nokk\r\n0\r\n\r\n", b"ok"),
        (CHUNKED + b"2\r\nok\n0\r\n\r\n", b"ok"),
        (CHUNKED + b"2\nok\r\n0\r\n\r\n", b""),
        (CHUNKED + b"2\rok\r\n0\r\n\r\n", b""),
        (CHUNKED + b" 2\r\nok\r\n0\r\n\r\n", b""),
        (CHUNKED + b"2 \r\nok\r\n0\r\n\r\n", b""),
        (CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n", b""),
        (CHUNKED + b"+2\r\nok\r\n0\r\n\r\n", b""),
        (CHUNKED + b"-2\r\nok\r\n0\r\n\r\n", b""),
        (CHUNKED + b"\r\nok\r\n0\r\n\r\n", b""),
        (CHUNKED + b";a\r\nok\r\n0\r\n\r\n", b""),
        (CHUNKED + b"2;a\nb\r\nok\r\n0\r\n\r\n", b""),
        (CHUNKED + b"2;a\0\r\nok\r\n0\r\n\r\n", b""),
        (CHUNKED + b"ffffffffffffffff1\r\nok\r\n0\r\n\r\n", b""),
        (CHUNKED + b"2\r\nok\r\n0\r\nX A: b\r\n\r\n", b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\nX-A: b\r\n c\r\n\r\n", b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\nX-A: b\nX-C: d\r\n\r\n", b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\nX-A: \0\r\n\r\n", b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\nContent-Length: 5\r\n\r\n", b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\nX-A: " + MANY + b"\r\n\r\n", b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\n" + b"A: b\r\n" * 12000 + b"\r\n", b"ok"),
    ],
    ids=lambda data: repr(data)[-60:],
)
async def test_answers_that_are_cut(data: bytes, body: bytes, bytewise: bool) -> None:
    """What has come may be passed on, but never as all of it."""
    taken, line = await converse(data, bytewise=bytewise)
    assert taken.status == 200
    assert not taken.whole
    assert body.startswith(taken.body)
    assert not taken.reusable
    assert line.transport.is_closing()


@pytest.mark.parametrize(
    "data", [b"2;" + b"a" * 10**6, b"2\r\nok\r\n0\r\nX: " + b"a" * 10**6], ids=["chunk", "trailer"]
)
async def test_endless_framing_is_not_kept(data: bytes) -> None:
    """What is no body, and no end of it either, comes to an end at ``max_head_size``."""
    line = Line()
    task = await line.ask()
    line.feed(CHUNKED)
    for piece in range(0, len(data), 1000):
        line.feed(data[piece : piece + 1000])
        if line.transport.is_closing():
            break
    assert piece < 80000
    assert not (await task).whole


async def test_small_chunks_are_no_endless_framing() -> None:
    line = Line(max_head_size=256)
    task = await line.ask()
    line.feed(CHUNKED)
    for _ in range(200):
        line.feed(b"1;" + b"a" * 100 + b"\r\n")
        line.feed(b"x\r\n")
    line.feed(b"0\r\n\r\n")
    taken = await task
    assert (taken.body, taken.whole, taken.reusable) == (b"x" * 200, True, True)
    line.transport.lose()


async def test_fields_that_must_not_be_trailers() -> None:
    """Trailers that would frame or route a message go no further; the others do."""
    lines = b"Connection: x\r\nHost: evil\r\nX-Sum: 1\r\nTransfer-Encoding: x\r\nTrailer: x\r\n"
    taken, line = await converse(CHUNKED + b"2\r\nok\r\n0\r\n" + lines + b"\r\n")
    assert taken.whole
    assert taken.trailers == [(b"x-sum", b"1")]
    line.transport.lose()


@pytest.mark.parametrize("data", [b"X", b"\r\n", LENGTH + b"no", b"HTTP/1.1 408 T\r\n\r\n"])
async def test_bytes_on_an_idle_connection(data: bytes) -> None:
    """Nobody has asked for them: the connection is closed, and they are nobody's answer."""
    taken, line = await converse(LENGTH + b"ok")
    assert taken.reusable
    line.connection.become_idle(5)
    line.feed(data)
    assert line.transport.is_closing()
    assert not line.connection.reusable
    task = await line.ask()
    assert (await task).status == 0


async def test_bytes_between_the_end_of_an_answer_and_its_taking() -> None:
    """The answer is what it was, and the connection is not used again."""
    line = Line()
    line.connection.begin("GET", b"GET / HTTP/1.1\r\n\r\n", True)
    line.feed(LENGTH + b"ok")
    line.feed(LENGTH + b"no")
    taken = await line._take()
    assert (taken.status, taken.body, taken.whole) == (200, b"ok", True)
    assert not taken.reusable


async def test_an_answer_before_the_end_of_the_request() -> None:
    """It is taken; the server might take the rest of the body for a request."""
    line = Line()
    task = await line.ask("POST", complete=False)
    line.feed(LENGTH + b"ok")
    taken = await task
    assert (taken.body, taken.whole, taken.reusable) == (b"ok", True, False)
    line.connection.complete_request()
    line.transport.lose()


@pytest.mark.parametrize("loss", ["reset", "abort", "fail"])
@pytest.mark.parametrize("begun", [TO_EOF, CHUNKED + b"2\r\n", OK + b"Content-Length: 9\r\n\r\n"])
async def test_only_an_orderly_end_is_one(begun: bytes, loss: str) -> None:
    """A body that ends with the connection is whole after the server's FIN, and nothing else."""
    line = Line()
    task = await line.ask()
    line.feed(begun + b"ok")
    await turns(3)
    if loss == "reset":
        line.transport.lose(ConnectionResetError())
    elif loss == "abort":  # as at the end of the program
        line.connection.abort()
    else:
        line.connection.fail(UpstreamError("it takes too long"))
    taken = await task
    assert (taken.status, taken.body, taken.whole, taken.reusable) == (200, b"ok", False, False)
    assert line.lost == [line.connection]


async def test_a_switch_of_protocols() -> None:
    """What follows a 101 is the tunnel's, from the first byte on."""
    line = Line()
    task = await line.ask()
    line.feed(HINTS + SWITCH + b"Content-Length: 1\r\n\r\n\r\nHTTP")
    line.feed(b"/1.1")
    line.transport.feed_eof()
    taken = await task
    assert (taken.status, taken.body, taken.whole) == (101, b"\r\nHTTP/1.1", True)
    assert not taken.reusable
    line.transport.lose()


@both_ways
async def test_backpressure(bytewise: bool) -> None:
    """Reading stops when ``buffer_size`` bytes wait, and goes on when they are taken."""
    for begin, end in (
        (LENGTH.replace(b": 2", b": 9000"), b""),
        (CHUNKED + b"2328\r\n", b"\r\n0\r\n\r\n"),
    ):
        line = Line(buffer_size=1024)
        line.connection.begin("GET", b"GET / HTTP/1.1\r\n\r\n", True)
        line.feed(begin)
        for piece in pieces(b"x" * 9000, True):
            line.feed(piece)
        line.feed(end)
        assert not line.transport.is_reading()
        assert 9000 - 1000 - 1024 <= line.transport.untaken + len(end) <= 9000
        taken = await line._take()
        assert (taken.body, taken.whole, taken.reusable) == (b"x" * 9000, True, True)
        line.transport.lose()


# -- A write that fails -------------------------------------------------------------------------

LARGE = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: "


async def meet_a_reset(answer: bytes) -> UpstreamConnection:
    """Send a body to a server that has sent its answer and closed without reading anything."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy("http://127.0.0.1:9000", buffer_size=1024)
        _, connection = await loop.create_connection(
            lambda: UpstreamConnection(proxy, HeadReader(""), lambda lost: None),
            *listener.getsockname(),
        )
        peer, _ = listener.accept()
        connection.begin("POST", b"POST / HTTP/1.1\r\nContent-Length: 9000\r\n\r\n", False)
        peer.sendall(answer)
        peer.close()  # with bytes unread: a reset
    connection.write(b"x")  # which fails, before the loop has seen that there is something to read
    await connection.when_lost()
    return connection


@pytest.mark.parametrize("size", [2, 100_000], ids=["small", "larger than the buffer"])
async def test_an_answer_that_came_before_the_write_failed(size: int) -> None:
    connection = await meet_a_reset(LARGE + b"%d\r\n\r\n" % size + b"n" * size)
    assert (await connection.final_head()).status == 413
    assert await connection.receive() == b"n" * size
    assert await connection.receive() == b""
    assert not connection.reusable


async def test_half_an_answer_that_came_before_the_write_failed() -> None:
    connection = await meet_a_reset(LARGE + b"9\r\n\r\nhalf")
    assert (await connection.final_head()).status == 413
    assert await connection.receive() == b"half"
    with pytest.raises(UpstreamError, match="in the middle of its answer"):
        await connection.receive()


def test_what_receives_answers_says_what_becomes_of_them() -> None:
    with pytest.raises(TypeError, match="abstract"):
        AnswerReceiver(Proxy("unix:x"), HeadReader(""))  # type: ignore[abstract]


async def test_nothing_came_before_the_write_failed() -> None:
    connection = await meet_a_reset(b"")
    with pytest.raises(UpstreamError, match="without an answer"):
        await connection.final_head()
