"""Requests and whole responses of RSGI applications, on each wire."""

from __future__ import annotations

import asyncio
import gc
import weakref
from http import HTTPStatus
from typing import Any

import pytest
from backends.support import turns
from interfaces.rsgi_peers import TEXT, ask, hosted, interface, wires
from talks import lines_of

from kyoukai.exceptions import InterfaceError
from kyoukai.interfaces.rsgi import RSGIProtocolClosed, RSGIProtocolError
from kyoukai.interfaces.rsgi_fields import known_fields


async def hello(scope: Any, proto: Any) -> None:
    proto.response_str(200, [TEXT], "héllo")


class Application:
    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        proto.response_bytes(200, [TEXT], b"object")


class Static:
    @staticmethod
    async def __rsgi__(scope: Any, proto: Any) -> None:
        proto.response_bytes(200, [TEXT], b"class")


def routed(scope: Any, proto: Any) -> Any:
    return hello(scope, proto)


# -- Responses ---------------------------------------------------------------------------------


@wires
async def test_text(wire: str) -> None:
    answer = await ask(hello, wire)
    assert (answer.status, answer.text) == (200, "héllo")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["content-length"] == "6"


@pytest.mark.parametrize(
    ("app", "body"), [(Application(), b"object"), (Static, b"class"), (routed, "héllo".encode())]
)
async def test_what_an_application_may_be(app: Any, body: bytes) -> None:
    assert (await ask(app)).body == body


@wires
async def test_bytes_of_every_type(wire: str) -> None:
    async def app(scope: Any, proto: Any) -> None:
        kind = {"/b": bytes, "/a": bytearray, "/m": memoryview}[scope.path]
        proto.response_bytes(HTTPStatus.CREATED, (TEXT, ("X-A", "b")), kind(b"data"))

    for path in ("/b", "/a", "/m"):
        answer = await ask(app, wire, target=path)
        assert (answer.status, answer.body, answer.headers["x-a"]) == (201, b"data", "b")


@wires
async def test_defaults(wire: str) -> None:
    async def app(scope: Any, proto: Any) -> None:
        getattr(proto, scope.path[1:])()

    for name in ("response_empty", "response_str", "response_bytes"):
        answer = await ask(app, wire, target=f"/{name}")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-length"] == "0"


@wires
async def test_head(wire: str) -> None:
    async def app(scope: Any, proto: Any) -> None:
        if scope.path == "/empty":
            proto.response_empty(200, [TEXT, ("Content-Length", "1234")])
        else:
            proto.response_str(200, [TEXT], "hello")

    async with hosted(app, wire) as peer:
        for path, length in (("/empty", "1234"), ("/text", "5")):
            peer.request("HEAD", path)
            answer = await peer.response()
            assert (answer.status, answer.body) == (200, b"")
            assert answer.headers["content-length"] == length


@wires
async def test_values_are_utf_8(wire: str) -> None:
    async def app(scope: Any, proto: Any) -> None:
        proto.response_str(200, [("x-name", "ł")], "")

    answer = await ask(app, wire)
    assert answer.headers["x-name"].encode("latin-1").decode() == "ł"


@wires
async def test_a_content_length_that_is_right_is_sent_once(wire: str) -> None:
    async def app(scope: Any, proto: Any) -> None:
        proto.response_str(200, [TEXT, ("Content-Length", "5")], "hello")

    answer = await ask(app, wire)
    assert answer.headers.getlist("content-length") == ["5"]
    assert answer.body == b"hello"


async def test_the_wire_gets_the_same_tuple_for_the_same_headers() -> None:
    """It has rendered that head before, and knows the tuple again."""
    known_fields.clear()
    tuples = []

    async def app(scope: Any, proto: Any) -> None:
        proto.response_str(200, [TEXT, ("x-a", "b")], "hello")
        tuples.append(known_fields[TEXT, ("x-a", "b")].headers)

    await ask(app)
    await ask(app)
    assert tuples[0] is tuples[1]


async def test_remembered_headers_are_bounded() -> None:
    async def app(scope: Any, proto: Any) -> None:
        proto.response_str(200, [("x-number", scope.path)], "")

    async with hosted(app) as peer:
        for number in range(600):
            peer.request("GET", f"/{number}")
            assert (await peer.response()).headers["x-number"] == f"/{number}"
    assert len(known_fields) <= 256
    await ask(app, target="/" + "x" * 3000)
    assert (("x-number", "/" + "x" * 3000),) not in known_fields


@wires
async def test_a_response_is_sent_before_the_application_returns(wire: str) -> None:
    go, done = asyncio.Event(), []

    async def app(scope: Any, proto: Any) -> None:
        proto.response_str(200, [TEXT], "now")
        await go.wait()
        done.append(scope.path)

    async with hosted(app, wire) as peer:
        peer.request("GET", "/")
        assert (await peer.response()).text == "now"
        assert not done
        peer.leave()  # what comes after the response runs to its end
        await turns()
        go.set()
        await turns()
        assert done == ["/"]


@wires
async def test_a_client_that_takes_nothing_does_not_stop_the_application(
    wire: str, caplog: Any
) -> None:
    """``response_bytes`` returns at once; a task goes on with it."""
    returned = asyncio.Event()
    body = bytes(range(256)) * 8192

    async def app(scope: Any, proto: Any) -> None:
        proto.response_bytes(200, [TEXT], body)
        returned.set()

    async with hosted(app, wire) as peer:
        peer.hold()
        peer.request("GET", "/")
        await returned.wait()
        await turns()
        peer.release()
        assert (await peer.response()).body == body
    assert not lines_of(caplog)


@wires
async def test_an_error_after_a_response_that_waits(wire: str, caplog: Any) -> None:
    body = b"x" * 1_000_000

    async def app(scope: Any, proto: Any) -> None:
        proto.response_bytes(200, [TEXT], body)
        raise ValueError("late")

    async with hosted(app, wire) as peer:
        peer.hold()
        peer.request("GET", "/")
        await turns()
        peer.release()
        assert (await peer.response()).body == body
        await turns()
    assert lines_of(caplog) == [
        "GET /: rsgi application test:app: unhandled error in the application"
    ]


@wires
async def test_a_client_that_leaves_while_a_response_waits(wire: str, caplog: Any) -> None:
    ended = asyncio.Event()

    async def app(scope: Any, proto: Any) -> None:
        proto.response_bytes(200, [TEXT], b"x" * 1_000_000)
        await proto.client_disconnect()
        ended.set()

    async with hosted(app, wire) as peer:
        peer.hold()
        peer.request("GET", "/")
        await turns()
        peer.leave()
        await ended.wait()
        await turns()
    assert not lines_of(caplog)


async def test_from_a_thread(caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        if scope.path == "/stream":
            transport = await asyncio.to_thread(proto.response_stream, 200, [TEXT])
            await transport.send_str("stream")
        elif scope.path == "/file":
            await asyncio.to_thread(proto.response_file, 200, [TEXT], __file__)
        else:
            await asyncio.to_thread(proto.response_str, 200, [TEXT], "thread")
            with pytest.raises(RSGIProtocolError, match="a second response"):
                await asyncio.to_thread(proto.response_empty, 200, [])

    assert (await ask(app)).text == "thread"
    assert (await ask(app, target="/stream")).text == "stream"
    assert "test_from_a_thread" in (await ask(app, target="/file")).text
    assert not lines_of(caplog)


async def test_nothing_is_left_of_a_request() -> None:
    """No reference cycles: the collector has nothing to do."""
    seen: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        seen.append(weakref.ref(proto.stream))
        assert scope.headers["host"]
        if scope.path == "/stream":
            transport = proto.response_stream(200, [TEXT])
            await transport.send_str("x")
        elif scope.path == "/body":
            proto.response_bytes(200, [TEXT], await proto())
        else:
            proto.response_str(200, [TEXT], "x")

    async with hosted(app) as peer:
        for path in ("/", "/stream", "/body"):
            peer.request("POST", path, body=b"x")
            assert (await peer.response()).text == "x"
        await turns()
        gc.disable()
        try:
            seen.clear()
            for path in ("/", "/stream", "/body", "/"):
                peer.request("POST", path, body=b"x")
                await peer.response()
                await turns()
            # The connection keeps the last one.
            assert [ref() is None for ref in seen[:-1]] == [True, True, True]
        finally:
            gc.enable()


# -- Bodies of requests ------------------------------------------------------------------------


@wires
async def test_a_whole_body(wire: str) -> None:
    async def app(scope: Any, proto: Any) -> None:
        proto.response_bytes(200, [TEXT], await proto())

    assert (await ask(app, wire)).body == b""
    assert (await ask(app, wire, method="POST", body=b"one")).body == b"one"
    async with hosted(app, wire) as peer:
        peer.begin()
        for piece in (b"a" * 70000, b"b", b"c"):
            peer.data(piece)
            await turns()
        peer.end()
        assert (await peer.response()).body == b"a" * 70000 + b"bc"


@wires
async def test_a_body_piece_by_piece(wire: str) -> None:
    pieces: list[bytes] = []
    got = asyncio.Event()

    async def app(scope: Any, proto: Any) -> None:
        async for piece in proto:
            pieces.append(piece)
            got.set()
        with pytest.raises(StopAsyncIteration):
            await anext(proto)
        proto.response_empty(204, [])

    async with hosted(app, wire) as peer:
        peer.begin()
        for piece in (b"one", b"two"):
            got.clear()
            peer.data(piece)
            await got.wait()
        peer.end()
        assert (await peer.response()).status == 204
    assert pieces == [b"one", b"two"]


async def test_a_body_is_there_once(caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        with pytest.raises(RSGIProtocolError, match="iterated over"):
            await anext(proto)
        await proto()
        with pytest.raises(RSGIProtocolError, match="the body is there once"):
            aiter(proto)
        await proto()

    assert (await ask(app, method="POST", body=b"x")).status == 500
    assert lines_of(caplog) == [
        "POST /: rsgi application test:app: the body is there once: by await proto(), or by async"
        " for"
    ]


@wires
async def test_a_client_that_leaves_before_the_end_of_its_body(wire: str, caplog: Any) -> None:
    errors: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        try:
            await proto()
        except RSGIProtocolClosed as error:
            errors.append(error)
            raise

    async with hosted(app, wire) as peer:
        peer.begin()
        peer.data(b"some")
        await turns()
        peer.leave()
        await turns()
    assert len(errors) == 1
    assert isinstance(errors[0], ConnectionError)
    assert not lines_of(caplog)


@wires
async def test_a_body_that_is_too_large(wire: str, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        proto.response_bytes(200, [TEXT], await proto())

    async with hosted(app, wire, max_body_size=10) as peer:
        peer.request("POST", "/", body=b"x" * 10)
        assert (await peer.response()).status == 200
        peer.begin()
        peer.data(b"x" * 11)
        assert (await peer.response()).status == 413
    assert not lines_of(caplog)


@wires
async def test_a_body_that_nobody_reads(wire: str) -> None:
    async with hosted(hello, wire) as peer:
        peer.request("POST", "/", body=b"x" * 50000)
        assert (await peer.response()).status == 200
        peer.request("GET", "/")
        assert (await peer.response()).status == 200


# -- Mistakes ----------------------------------------------------------------------------------


def call(name: str, *arguments: Any) -> Any:
    async def app(scope: Any, proto: Any) -> None:
        getattr(proto, name)(*arguments)

    return app


MISTAKES = {
    "a status that is text": (
        call("response_str", "200", [], ""),
        "status must be an int, not str",
    ),
    "a status that is a bool": (call("response_str", True, [], ""), "status must be an int"),
    "an interim status": (call("response_empty", 100, []), "100 is no status"),
    "no status": (call("response_stream", 999, []), "999 is no status"),
    "headers that are none": (call("response_str", 200, None, ""), "must be a list of (str, str)"),
    "a dict of headers": (call("response_str", 200, {"ab": "c"}, ""), "must be a (str, str)"),
    "headers of bytes": (call("response_empty", 200, [(b"a", b"b")]), "must be a (str, str)"),
    "a header that is a list": (call("response_empty", 200, [["a", "b"]]), "must be a (str, str)"),
    "a value that is a number": (call("response_empty", 200, [("a", 5)]), "must be a (str, str)"),
    "three in a pair": (call("response_empty", 200, [("a", "b", "c")]), "must be a (str, str)"),
    "a name that is not ASCII": (call("response_empty", 200, [("é", "b")]), "cannot be encoded"),
    "a value that has no UTF-8": (call("response_empty", 200, [("a", "\ud800")]), "cannot be"),
    "a line break": (
        call("response_str", 200, [("a", "b\r\nc: d")], ""),
        "'a' has an illegal value",
    ),
    "a name with a space": (call("response_str", 200, [("a b", "c")], ""), "is no token"),
    "a name with a line break": (call("response_file", 200, [("a\n", "c")], __file__), "no token"),
    "text that is bytes": (call("response_str", 200, [], b"x"), "body must be a str, not bytes"),
    "text that has no UTF-8": (call("response_str", 200, [], "\ud800"), "cannot be encoded"),
    "bytes that are text": (call("response_bytes", 200, [], "x"), "body must be bytes, not str"),
    "bytes that are a number": (call("response_bytes", 200, [], 5), "body must be bytes, not int"),
    "a body that is too long": (
        call("response_str", 200, [("content-length", "1")], "xx"),
        "the body has 2 bytes, its Content-Length says 1",
    ),
    "a length that is none": (
        call("response_str", 200, [("content-length", "x")], "xx"),
        "is no number",
    ),
    "two lengths": (
        call("response_str", 200, [("content-length", "2"), ("content-length", "1")], "xx"),
        "is no number",
    ),
    "a file that is a number": (call("response_file", 200, [], 5), "file must be a str, not int"),
    "a range that is text": (
        call("response_file_range", 206, [], __file__, "0", 5),
        "start must be an int, not str",
    ),
    "no answer": (call("__aiter__"), "the application returned without an answer"),
}


@pytest.mark.parametrize(("app", "rule"), MISTAKES.values(), ids=MISTAKES)
@wires
async def test_mistakes(wire: str, app: Any, rule: str, caplog: Any) -> None:
    async with hosted(app, wire) as peer:
        peer.request("GET", "/x")
        answer = await peer.response()
        assert answer.status == 500
        peer.request("GET", "/y")
        assert (await peer.response()).status == 500
    lines = lines_of(caplog)
    assert len(lines) == 2
    assert lines[0].startswith("GET /x: rsgi application test:app: ")
    assert rule in lines[0]
    assert "\n" not in lines[0]


async def test_another_response_after_a_mistake() -> None:
    async def app(scope: Any, proto: Any) -> None:
        for name, arguments in (
            ("response_str", (200, [("a", "b\nc")], "x")),
            ("response_stream", (99, [])),
            ("response_file", (200, [("a", "\n")], "x")),
            ("response_file_range", (200, [], "x", 5, 5)),
        ):
            with pytest.raises(InterfaceError):
                getattr(proto, name)(*arguments)
        proto.response_str(200, [TEXT], "right")

    assert (await ask(app)).text == "right"


@pytest.mark.parametrize(
    "second", ["response_empty", "response_str", "response_stream", "response_file"]
)
@wires
async def test_a_second_response(wire: str, second: str, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        proto.response_str(200, [TEXT], "first")
        arguments = {"response_str": ("x",), "response_file": (__file__,)}.get(second, ())
        getattr(proto, second)(200, [], *arguments)

    async with hosted(app, wire) as peer:
        peer.request("GET", "/")
        assert (await peer.response()).text == "first"
        await turns()
    assert lines_of(caplog) == [f"GET /: rsgi application test:app: {second}: a second response"]


async def test_an_application_that_fails(caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        raise LookupError("mine")

    assert (await ask(app)).status == 500
    assert lines_of(caplog) == [
        "GET /: rsgi application test:app: unhandled error in the application"
    ]
    assert caplog.records[0].exc_info[0] is LookupError


async def test_what_is_no_coroutine_function(caplog: Any) -> None:
    assert (await ask(lambda scope, proto: None)).status == 500
    assert "an application is a coroutine function; calling it gave NoneType" in caplog.text


@wires
async def test_a_client_that_is_gone_is_not_answered(wire: str, caplog: Any) -> None:
    go = asyncio.Event()
    errors: list[str] = []

    async def app(scope: Any, proto: Any) -> None:
        await go.wait()
        name = scope.path[1:]
        arguments = {"response_str": ("x",), "response_file": (__file__,)}.get(name, ())
        transport = getattr(proto, name)(200, [TEXT], *arguments)
        if transport is not None:
            with pytest.raises(RSGIProtocolClosed):
                await transport.send_bytes(b"x")
        with pytest.raises(RSGIProtocolClosed):
            proto.response_empty(200, [])
        errors.append(name)

    names = ["response_empty", "response_str", "response_stream", "response_file"]
    for name in names:
        go.clear()
        async with hosted(app, wire) as peer:
            peer.request("GET", f"/{name}")
            await turns()
            peer.leave()
            await turns()
            go.set()
            await turns()
    assert errors == names
    assert not lines_of(caplog)


async def test_an_error_that_comes_of_leaving_is_no_fault(caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        transport = proto.response_stream(200, [TEXT])
        await proto.client_disconnect()
        if scope.path == "/group":
            async with asyncio.TaskGroup() as group:
                group.create_task(transport.send_str("x"))
        try:
            await transport.send_str("x")
        except RSGIProtocolClosed as error:
            raise LookupError("a framework's own") from error

    for path in ("/", "/group"):
        async with hosted(app) as peer:
            peer.request("GET", path)
            await turns()
            peer.leave()
            await turns()
    assert not lines_of(caplog)


async def test_cancelled_at_the_end_of_the_server() -> None:
    """Neither the task of the application nor that of its response is left."""
    started = asyncio.Event()

    async def app(scope: Any, proto: Any) -> None:
        proto.response_bytes(200, [TEXT], b"x" * 1_000_000)
        started.set()
        await asyncio.Event().wait()

    async with hosted(app) as peer:
        peer.hold()
        peer.request("GET", "/")
        await started.wait()
        await turns()
        for task in tuple(peer.server.connections.tasks):
            task.cancel()
        await turns()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


def test_the_interface_says_what_it_is() -> None:
    made = interface(hello)
    assert made.name == "rsgi"
    assert made.application_name == "test:app"
