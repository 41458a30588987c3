"""ASGI over HTTP: scopes, requests, answers, and clients that leave."""

from __future__ import annotations

import asyncio
import gc
import logging
import types
from http import HTTPStatus
from typing import Any

import pytest
from interfaces.asgi_peers import TEXT, ask, body, hosted, interface, sends, sound, start, wires  # noqa: F401
from talks import lines_of, turns

from kyoukai.exceptions import BodyError, InvalidResponse, PeerGone
from kyoukai.interfaces.asgi import AsgiInterface
from kyoukai.stream import CLOSED
from kyoukai.testing import Client, MemoryServer

ok = sends(start(200, TEXT), body(b"ok"))


class Recorder:
    """An application that keeps its scopes, and answers ``ok``."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await ok(scope, receive, send)


async def read(receive: Any) -> bytes:
    """Receive a whole body."""
    parts = []
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


# -- Scopes ------------------------------------------------------------------------------------


@wires
async def test_the_scope_of_a_request(wire: str) -> None:
    app = Recorder()
    async with hosted(app, wire) as peer:
        peer.request(
            "PUT", "/a%20b/%C3%BC?c=%20d", headers=[("X-A", "1"), ("x-a", "2")], body=b"abc"
        )
        await peer.response()
        version = peer.version
    extensions = ("early_hint", "pathsend", "trailers", "zerocopysend")
    assert app.scopes == [
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": version,
            "method": "PUT",
            "scheme": "http",
            "path": "/a b/ü",
            "raw_path": b"/a%20b/%C3%BC",
            "query_string": b"c=%20d",
            "root_path": "",
            "headers": [
                (b"host", b"localhost"),
                (b"x-a", b"1"),
                (b"x-a", b"2"),
                (b"content-length", b"3"),
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "state": {},
            "extensions": {f"http.response.{name}": {} for name in extensions},
        }
    ]


@wires
async def test_each_request_has_a_scope_of_its_own(wire: str) -> None:
    """Frameworks write into it, and into what is in it."""
    app = Recorder()
    async with hosted(app, wire) as peer:
        for _ in range(4):
            peer.request()
            await peer.response()
            scope = app.scopes[-1]
            assert "mine" not in scope
            for each in (scope, scope["asgi"], scope["state"], scope["extensions"]):
                assert "mine" not in each
                each["mine"] = True
            scope["headers"].append((b"mine", b""))
    assert all(scope["headers"].count((b"mine", b"")) == 1 for scope in app.scopes)


async def test_a_method_is_in_capitals() -> None:
    app = Recorder()
    async with hosted(app, "http2") as peer:
        peer.request("patch", body=b"a")
        await peer.response()
    assert app.scopes[0]["method"] == "PATCH"


async def test_a_unix_socket_has_no_client() -> None:
    app = Recorder()
    async with MemoryServer(interface(app)) as server:
        connection = server.connect(peername="", sockname="/run/a.sock")
        connection.request("GET", "/")
        await connection.response()
    assert app.scopes[0]["client"] is None
    assert app.scopes[0]["server"] == ("/run/a.sock", None)


@pytest.mark.parametrize(
    ("root_path", "target", "path", "raw_path"),
    [
        ("/api", "/api/a%20b", "/api/a b", b"/api/a%20b"),
        ("/api", "/a%20b", "/api/a b", b"/api/a%20b"),  # a proxy has taken the prefix off
        ("/api", "/apis", "/api/apis", b"/api/apis"),
        ("/api", "/api", "/api", b"/api"),
        ("/ä", "/a", "/ä/a", b"/%C3%A4/a"),
    ],
)
async def test_the_path_is_whole(root_path: str, target: str, path: str, raw_path: bytes) -> None:
    app = Recorder()
    async with MemoryServer(interface(app), root_path=root_path) as server:
        connection = server.connect()
        connection.request("GET", target)
        await connection.response()
    scope = app.scopes[0]
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == (root_path, path, raw_path)


async def test_http_10_has_neither_trailers_nor_hints() -> None:
    app = Recorder()
    async with hosted(app) as peer:
        peer.connection.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        await peer.response()
    assert app.scopes[0]["http_version"] == "1.0"
    assert set(app.scopes[0]["extensions"]) == {
        "http.response.pathsend",
        "http.response.zerocopysend",
    }


# -- Requests ----------------------------------------------------------------------------------


@wires
async def test_a_request_without_a_body(wire: str) -> None:
    messages = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        messages.append(await receive())
        await ok(scope, receive, send)
        messages.append(await receive())
        messages.append(await receive())

    async with hosted(app, wire) as peer:
        peer.request()
        await peer.response()
        await turns()
    gone = {"type": "http.disconnect"}
    assert messages == [{"type": "http.request", "body": b"", "more_body": False}, gone, gone]


@wires
@pytest.mark.parametrize("length", [6, None])
async def test_a_body_comes_as_it_comes(wire: str, length: int | None) -> None:
    messages: asyncio.Queue[Any] = asyncio.Queue()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            messages.put_nowait(message)
            if not message["more_body"]:
                break
        await ok(scope, receive, send)

    async with hosted(app, wire) as peer:
        peer.begin("POST", "/", length)
        for part in (b"abc", b"def"):
            peer.data(part)
            message = await messages.get()
            assert message["body"] == part
            assert message["more_body"] is (part == b"abc" or length is None or wire != "http1")
        peer.end()
        assert (await peer.response()).body == b"ok"
        if not messages.empty():
            assert await messages.get() == {"type": "http.request", "body": b"", "more_body": False}


@wires
async def test_a_large_body_waits_for_its_application(wire: str) -> None:
    go = asyncio.Event()
    size = 3_000_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await send(start())
        await send(body(b"%d" % len(await read(receive))))

    async with hosted(app, wire) as peer:
        peer.begin("POST", "/", size)
        for at in range(0, size, 10000):
            peer.data(b"x" * min(10000, size - at))
        peer.end()
        await turns()
        (task,) = peer.server.connections.tasks
        assert not task.done()
        go.set()
        assert (await peer.response()).body == b"%d" % size


async def test_100_continue_is_sent_when_the_body_is_asked_for() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        data = await read(receive)
        await send(start())
        await send(body(data))

    async with hosted(app) as peer:
        peer.connection.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        await turns()
        assert not peer.transport.output
        go.set()
        await turns()
        assert bytes(peer.transport.output).startswith(b"HTTP/1.1 100 Continue\r\n")
        peer.transport.feed(b"abc")
        response = await peer.response()
        assert (response.informational[0][0], response.body) == (100, b"abc")


@wires
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large(
    wire: str, declared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read(receive)

    made = AsgiInterface(app, interface(app).config, max_body_size=4)
    async with hosted(made, wire) as peer:
        peer.begin("POST", "/", 5 if declared else None)
        peer.data(b"12345")
        response = await peer.response()
        assert response.status == 413
        assert lines_of(caplog) == []


async def test_a_body_that_is_malformed() -> None:
    errors = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await read(receive)
        except BodyError as error:
            errors.append(error)
            raise

    async with hosted(app) as peer:
        peer.connection.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"
        )
        assert (await peer.response()).status == 400
    assert len(errors) == 1


async def test_two_tasks_that_receive(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.gather(receive(), receive())

    async with hosted(app) as peer:
        peer.begin()
        assert (await peer.response()).status == 500
    (line,) = lines_of(caplog)
    assert line == "POST /: asgi application test:app: two tasks read the body at once"


# -- Answers -----------------------------------------------------------------------------------


@wires
@pytest.mark.parametrize(
    ("app", "status", "content"),
    [
        (sends(start(201, TEXT), body(b"ab")), 201, b"ab"),
        (sends(start(), {"type": "http.response.body"}), 200, b""),
        (sends({"type": "http.response.start", "status": 200}, body(b"ab")), 200, b"ab"),
        (sends(start(), body(b"a", True), body(b"b", True), body()), 200, b"ab"),
        (sends(start(), body(b"a", True), body(b"", True), body(b"b")), 200, b"ab"),
        (sends(start(), body(b"", True), body(b"ab")), 200, b"ab"),
        (sends(start(200, (b"content-length", b"2")), body(b"ab")), 200, b"ab"),
        (sends(start(200, (b"content-length", b"2")), body(b"a", True), body(b"b")), 200, b"ab"),
        (sends(start(), body(bytearray(b"ab"))), 200, b"ab"),
        (sends(start(), body(memoryview(b"ab"), True), body(memoryview(b"cd"))), 200, b"abcd"),
        (sends(start(HTTPStatus.NOT_FOUND), body(b"ab")), 404, b"ab"),
        (sends(start(204), body(b"ab")), 204, b""),
        (sends(start(304, (b"content-length", b"7")), body()), 304, b""),
        (sends(start(200), body(b"x" * 300_000)), 200, b"x" * 300_000),
        (sends(start(200), body(b"x" * 300_000, True), body(b"y")), 200, b"x" * 300_000 + b"y"),
    ],
)
async def test_answers(
    wire: str, app: Any, status: int, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosted(app, wire) as peer:
        for _ in range(2):  # the connection is sane after it
            peer.request()
            response = await peer.response()
            assert (response.status, response.body) == (status, content)
    assert lines_of(caplog) == []


@wires
@pytest.mark.parametrize(
    "messages",
    [
        [start(200, (b"content-length", b"2")), body(b"ab")],
        [start(200, (b"content-length", b"2")), body()],
        [start(200, (b"content-length", b"2")), body(b"a", True), body(b"b")],
        [start(200), body(b"ab")],
    ],
)
async def test_answers_to_head(wire: str, messages: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with hosted(sends(*messages), wire) as peer:
        peer.request("HEAD")
        response = await peer.response()
        assert (response.status, response.body) == (200, b"")
        assert response.headers["content-length"] == "2"
        peer.request("HEAD")
        await peer.response()
    assert lines_of(caplog) == []


@wires
@pytest.mark.parametrize(
    "made_of",
    [
        tuple,
        list,
        iter,
        lambda pairs: [list(pair) for pair in pairs],
        lambda pairs: map(iter, pairs),
    ],
)
async def test_headers_are_pairs_of_whatever_kind(wire: str, made_of: Any) -> None:
    pairs = [(b"X-A", b"1"), (b"x-b", b"2"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
    message = {"type": "http.response.start", "status": 200, "headers": made_of(pairs)}
    response = await ask(sends(message, body(b"ok")), wire)
    assert (response.headers["x-a"], response.headers["x-b"]) == ("1", "2")
    assert response.headers.getlist("set-cookie") == ["a", "b"]
    assert "x-a" in [name for name, _ in response.headers]


@wires
async def test_framing_is_the_servers(wire: str) -> None:
    """The specification: a Transfer-Encoding of the application is ignored."""
    headers = [(b"transfer-encoding", b"chunked"), (b"content-length", b"2")]
    response = await ask(sends(start(200, *headers), body(b"ab")), wire)
    assert response.body == b"ab"
    assert "transfer-encoding" not in response.headers
    assert response.headers.getlist("content-length") == ["2"]


async def test_head_and_body_leave_as_one() -> None:
    """The start alone sends nothing; a streamed answer's head leaves with its first part."""
    sent: list[int] = []
    transport: Any = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, TEXT))
        sent.append(len(transport.output))
        await send(body(b"ok", True))
        sent.append(len(transport.output))
        await send(body())

    async with hosted(app) as peer:
        transport = peer.transport
        peer.request()
        assert (await peer.response()).body == b"ok"
    assert sent[0] == 0
    assert sent[1] > 0


@wires
async def test_a_slow_client_makes_send_wait(wire: str) -> None:
    sent = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200, (b"content-length", b"%d" % (800 * 8192))))
        for _ in range(800):
            await send(body(b"x" * 8192, True))
            sent.append(1)
        await send(body())

    async with hosted(app, wire) as peer:
        await turns()
        peer.hold()
        peer.request()
        await turns()
        assert 0 < len(sent) < 50
        peer.release()
        assert len((await peer.response()).body) == 800 * 8192


# -- Clients that leave ------------------------------------------------------------------------


@wires
async def test_receive_tells_that_the_client_left(
    wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    messages: list[Any] = []
    errors: list[Exception] = []
    ready, done = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(start())
        await send(body(b"a", True))
        ready.set()
        messages.extend([await receive(), await receive()])
        for message in (body(b"b", True), start(), body(b"c")):
            try:
                await send(message)
            except OSError as error:
                errors.append(error)
        done.set()

    async with hosted(app, wire) as peer:
        peer.request()
        await ready.wait()
        await turns()
        peer.leave()
        await done.wait()
    assert messages == [{"type": "http.disconnect"}] * 2
    assert [type(error) for error in errors] == [PeerGone] * 3
    assert lines_of(caplog) == []


@wires
async def test_a_client_that_leaves_in_its_body(wire: str) -> None:
    messages: asyncio.Queue[Any] = asyncio.Queue()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            messages.put_nowait(await receive())

    async with hosted(app, wire) as peer:
        peer.begin("POST", "/", 10)
        peer.data(b"abc")
        assert (await messages.get())["body"] == b"abc"
        await turns()
        peer.leave()
        assert await messages.get() == {"type": "http.disconnect"}
        assert await messages.get() == {"type": "http.disconnect"}


@wires
async def test_an_application_is_not_cancelled(wire: str) -> None:
    ready, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ready.set()
        await go.wait()
        with pytest.raises(OSError, match="gone"):
            await send(start())
        done.set()

    async with hosted(app, wire) as peer:
        peer.request()
        await ready.wait()
        peer.leave()
        await turns()
        go.set()
        await done.wait()


class Leaving(Exception):
    """What frameworks make of the OSError."""


@wires
@pytest.mark.parametrize("how", ["through", "wrapped", "group", "its own", "before"])
async def test_what_is_logged_when_the_client_left(
    wire: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    ready, go = asyncio.Event(), asyncio.Event()
    left = asyncio.Event()

    async def send_all(send: Any) -> None:
        await send(start())
        await send(body(b"a", True))
        ready.set()
        await go.wait()
        if how == "its own":
            raise OSError("a file")
        try:
            await send(body(b"b", True))
        except OSError:
            if how == "wrapped":
                raise Leaving from None
            raise

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            if how == "before":
                ready.set()
                await go.wait()
            elif how == "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(send_all(send))
            else:
                await send_all(send)
        finally:
            left.set()

    async with hosted(app, wire) as peer:
        peer.request()
        await ready.wait()
        await turns()
        peer.leave()
        await turns()
        go.set()
        await left.wait()
        await turns()
    if how == "its own":
        (line,) = lines_of(caplog)
        assert line == "GET /: asgi application test:app: unhandled error in the application"
    else:
        assert lines_of(caplog) == []


@wires
async def test_a_task_that_waits_for_the_client_to_leave(wire: str) -> None:
    """It is told when the answer is complete, as the specification says."""
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

        async def listen() -> None:
            messages.append(await receive())

        tasks = [asyncio.create_task(listen()) for _ in range(2)]
        await turns(3)
        tasks[0].cancel()
        await turns(3)
        assert not tasks[1].done()
        await ok(scope, receive, send)
        await tasks[1]

    async with hosted(app, wire) as peer:
        for _ in range(2):
            peer.request()
            assert (await peer.response()).body == b"ok"
            await turns()
    assert messages == [{"type": "http.disconnect"}] * 2


@wires
@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_a_task_that_is_left_behind(wire: str, how: str) -> None:
    """It must not wait for ever for a request that is over."""
    tasks: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        tasks.append(asyncio.create_task(receive()))
        await turns(3)
        if how == "raises":
            raise LookupError

    async with hosted(app, wire) as peer:
        peer.request()
        assert (await peer.response()).status == 500
        assert await tasks[0] == {"type": "http.disconnect"}


@wires
async def test_an_answer_before_the_body_has_come(wire: str) -> None:
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        listener = asyncio.create_task(receive())
        await turns(3)
        await ok(scope, receive, send)
        messages.extend([await listener, await receive()])

    async with hosted(app, wire) as peer:
        peer.begin("POST", "/", 10)
        assert (await peer.response()).body == b"ok"
        await turns()
    assert messages == [{"type": "http.disconnect"}] * 2


# -- After the answer --------------------------------------------------------------------------


@wires
async def test_what_goes_on_after_the_answer_keeps_nothing(wire: str) -> None:
    """Neither the connection nor a stream: with one stream allowed, the next has its answer."""
    go = asyncio.Event()
    finished: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ok(scope, receive, send)
        await go.wait()
        finished.append(scope["path"])

    async with hosted(app, wire, h2_max_concurrent_streams=1) as peer:
        for number in range(5):
            peer.request("GET", f"/{number}")
            assert (await peer.response()).body == b"ok"
        assert finished == []
        assert len(peer.server.connections.tasks) == 5
        peer.leave()
        await turns()
        go.set()
        await turns()
        assert sorted(finished) == [f"/{number}" for number in range(5)]
        assert not peer.server.connections.tasks


@wires
async def test_an_error_after_the_answer(wire: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ok(scope, receive, send)
        raise LookupError("in the background")

    async with hosted(app, wire) as peer:
        for _ in range(2):
            peer.request()
            assert (await peer.response()).body == b"ok"
            await turns()
    assert (
        lines_of(caplog)
        == ["GET /: asgi application test:app: unhandled error in the application"] * 2
    )
    assert all(record.exc_info for record in caplog.records if record.levelno >= logging.ERROR)


@wires
async def test_background_work_is_awaited_at_shutdown(wire: str) -> None:
    finished = []
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ok(scope, receive, send)
        await go.wait()
        finished.append(True)

    async with hosted(app, wire) as peer:
        peer.request()
        await peer.response()
        peer.server.connections.shutdown()
        waiting = asyncio.create_task(peer.server.connections.wait_idle())
        peer.leave()
        await turns()
        assert not waiting.done()
        go.set()
        await waiting
    assert finished == [True]


# -- What an application does to itself --------------------------------------------------------


@wires
async def test_another_head_after_one_that_may_not_be_sent(
    wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An application that notices its mistake may answer otherwise."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in (start(200, (b"x", b"a\r\nb")), start(999)):
            with pytest.raises(InvalidResponse):
                await send(message)
        await send(start(200, (b"content-length", b"3")))
        with pytest.raises(InvalidResponse, match="2 bytes"):
            await send(body(b"ab"))
        await send(start(500))
        await send(body(b"sorry"))

    response = await ask(app, wire)
    assert (response.status, response.body) == (500, b"sorry")
    assert lines_of(caplog) == []


async def test_requests_leave_nothing_to_collect() -> None:
    """Production runs without the collector, or with a lazy one."""
    streams = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        streams.append(receive.__self__.stream)
        await read(receive)
        if scope["path"] == "/wait":
            waiting = asyncio.create_task(receive())
            await turns(2)
        await send(start(200, TEXT))
        if scope["path"] == "/stream":
            await send(body(b"o", True))
            await send(body(b"k"))
        else:
            await send(body(b"ok"))
        if scope["path"] == "/wait":
            await waiting
        if scope["path"] == "/fail":
            raise LookupError

    async with Client(interface(app)) as client:

        async def go() -> None:
            for path in ("/", "/stream", "/fail", "/wait"):
                assert (await client.get(path)).body == b"ok"
                await turns(5)
            assert (await client.post("/", body=b"abc")).body == b"ok"
            await turns(5)

        await go()
        streams.clear()
        gc.collect()
        gc.disable()
        try:
            await go()
            assert all(stream.sending is CLOSED for stream in streams)
            streams.clear()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            kinds = {type(each) for each in gc.garbage}
            assert not [
                kind for kind in kinds if kind.__module__.startswith(("kyoukai", "asyncio"))
            ]
            assert not kinds & {types.CoroutineType, types.FrameType, asyncio.Task, asyncio.Future}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
