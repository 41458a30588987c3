"""Answers of WSGI applications: how they are sent, in which order, and that they are closed."""

from __future__ import annotations

import contextvars
import io
import sys
import threading
from typing import Any
from wsgiref.validate import validator

import pytest
from talks import lines_of
from wsgi_apps import PLAIN, Body, Gate, answer_of, both, hosted, saying

from kyoukai.testing import Client, WebSocketDenied


def lazily(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"la"
    yield b"zy"


def writing(environ: dict[str, Any], start_response: Any) -> Any:
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"first ")
    write(b"")
    write(b"second ")
    return [b"last"]


def only_writing(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])(b"written")
    return []


def replacing(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        raise KeyError("x")
    except KeyError:
        start_response("503 Later", [("Content-Type", "text/x")], sys.exc_info())
    return [b"replaced"]


def echo(environ: dict[str, Any], start_response: Any) -> Any:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body or b"nothing"]


def file(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"file " * 60000), 1000)


def logging_app(environ: dict[str, Any], start_response: Any) -> Any:
    environ["wsgi.errors"].write("one\n")
    environ["wsgi.errors"].writelines(["two\n"])
    environ["wsgi.errors"].flush()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"logged"]


def app_of(*chunks: bytes, length: int | None = None, kind: Any = list) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        headers = [("Content-Type", "text/plain")]
        if length is not None:
            headers.append(("Content-Length", str(length)))
        start_response("200 OK", headers)
        return kind(chunks)

    return app


#: Applications, and the bodies of their answers to GET.
APPS: dict[str, tuple[Any, bytes]] = {
    "list": (app_of(b"whole"), b"whole"),
    "parts": (app_of(b"a", b"", b"b"), b"ab"),
    "large-parts": (app_of(b"a" * 70000, b"", b"b" * 70000), b"a" * 70000 + b"b" * 70000),
    "tuple": (app_of(b"whole", kind=tuple), b"whole"),
    "length": (app_of(b"whole", length=5), b"whole"),
    "empty-list": (app_of(), b""),
    "iterator": (app_of(b"a", b"b", kind=iter), b"ab"),
    "iterator-length": (app_of(b"a", b"bc", length=3, kind=iter), b"abc"),
    "iterator-whole": (app_of(b"abc", length=3, kind=iter), b"abc"),
    "iterator-then-nothing": (app_of(b"", b"abc", b"", length=3, kind=iter), b"abc"),
    "iterator-empty": (app_of(kind=iter), b""),
    "body": (app_of(b"a", b"", b"b", kind=Body), b"ab"),
    "large-body": (app_of(*[b"x" * 5000] * 50, kind=iter), b"x" * 250000),
    "large-chunk": (app_of(b"x" * 300000, kind=iter), b"x" * 300000),
    "lazily": (lazily, b"lazy"),
    "writing": (writing, b"first second last"),
    "only-writing": (only_writing, b"written"),
    "replacing": (replacing, b"replaced"),
    "echo": (echo, b"nothing"),
    "file": (file, b"file " * 60000),
    "logging": (logging_app, b"logged"),
}


@both
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("validated", [False, True], ids=["plain", "validated"])
@pytest.mark.parametrize("name", APPS)
async def test_good_applications(
    wire: str, method: str, validated: bool, name: str, caplog: Any, capsys: Any
) -> None:
    """The validator stands between: it holds the application and us to PEP 3333."""
    app, body = APPS[name]
    options = {"body": b"posted"} if method == "POST" else {}
    if name == "echo" and method == "POST":
        body = b"posted"
    target = "/a/b%20c?q=1"
    async with hosted(validator(app) if validated else app, wire) as site:
        response = await site.ask(method, target, **options)
        again = await site.ask(method, target, **options)
    assert response.status == again.status == (503 if name == "replacing" else 200)
    assert response.body == again.body == (b"" if method == "HEAD" else body)
    assert response.headers["content-type"] == ("text/x" if name == "replacing" else "text/plain")
    length = response.headers.get("content-length", type=int)
    assert length is None or length == len(body)
    assert lines_of(caplog) == (["one", "two"] * 2 if name == "logging" else [])
    assert capsys.readouterr() == ("", "")  # the validator complains there of what is not closed


@both
@pytest.mark.parametrize(
    "app",
    [
        saying([b"whole"]),
        saying((b"wh", b"ole")),
        app_of(b"whole", length=5, kind=iter),
        app_of(b"", b"whole", length=5, kind=Body),
    ],
)
async def test_what_is_whole_is_sent_whole(wire: str, app: Any) -> None:
    response = await answer_of(app, wire)
    assert response.headers["content-length"] == "5"
    assert "transfer-encoding" not in response.headers


async def test_a_whole_answer_is_one_write() -> None:
    writes = []
    async with hosted(app_of(b"whole", length=5, kind=Body)) as site:
        peer = site.dial()
        write = peer.transport.write
        peer.transport.write = lambda data: (writes.append(bytes(data)), write(data))
        peer.request()
        await peer.response()
    assert len(writes) == 1


@both
@pytest.mark.parametrize("length", [None, 11])
async def test_each_chunk_is_sent_at_once(wire: str, length: int | None) -> None:
    """The application goes on only when the client has what it has yielded."""
    seen = [Gate(), Gate()]

    def chunks(environ: dict[str, Any], start_response: Any) -> Any:
        headers = [("Content-Length", str(length))] if length else []
        start_response("200 OK", headers)
        yield b"first"
        seen[0].wait()
        yield b"second"
        seen[1].wait()

    async with hosted(chunks, wire) as site:
        peer = site.dial()
        peer.request()
        for gate, text in zip(seen, (b"first", b"second"), strict=True):
            while text not in (
                peer.exchanges[0].body if wire == "http2" else peer.transport.output
            ):
                peer.transport.changed.clear()
                if wire == "http2":
                    await peer.client.event()
                else:
                    await peer.transport.changed.wait()
            gate.open()
        assert (await peer.response()).body == b"firstsecond"


@both
async def test_the_head_waits_for_the_first_byte(wire: str) -> None:
    """So it may be replaced until then, even after empty chunks."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("X-A", "1")])
        yield b""
        try:
            raise ValueError
        except ValueError:
            start_response("409 Conflict", [("X-B", "2")], sys.exc_info())
        yield b"replaced"

    response = await answer_of(app, wire)
    assert (response.status, response.body) == (409, b"replaced")
    assert "x-a" not in response.headers
    assert response.headers["x-b"] == "2"


@both
async def test_a_head_that_is_out_cannot_be_replaced(wire: str, caplog: Any) -> None:
    raised = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        yield b"begun"
        try:
            raise KeyError("too late")
        except KeyError:
            try:
                start_response("500 Oh", PLAIN, sys.exc_info())
            except KeyError as error:
                raised.append(str(error))
                raise

    async with hosted(app, wire) as site:
        with pytest.raises(ConnectionError):
            await site.ask()
    assert raised == ["'too late'"]
    assert lines_of(caplog) == [
        "GET /: wsgi application project:app: unhandled error in the application"
    ]


@both
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_statuses_without_a_body(wire: str, status: str) -> None:
    body = Body([b"not sent"])
    response = await answer_of(saying(body, status), wire)
    assert (response.status, response.body) == (int(status[:3]), b"")
    assert "content-length" not in response.headers
    assert body.taken == 0
    assert body.closings == 1


@both
@pytest.mark.parametrize(
    ("app", "length"),
    [
        (saying([b"12345"]), "5"),
        (saying([], headers=[("Content-Length", "7")]), "7"),
        (saying([]), None),
        (saying(lambda: iter([b"12345"])), None),
        (lazily, None),
    ],
)
async def test_head_has_the_length_of_get_if_it_is_known(
    wire: str, app: Any, length: str | None
) -> None:
    response = await answer_of(app, wire, "HEAD")
    assert (response.status, response.body) == (200, b"")
    assert response.headers.get("content-length") == length


@both
async def test_head_iterates_no_more_than_needed(wire: str) -> None:
    body = Body([b"a", b"b"])
    await answer_of(saying(body), wire, "HEAD")
    assert (body.taken, body.closings) == (0, 1)


@both
async def test_304_keeps_the_length_it_was_given(wire: str) -> None:
    response = await answer_of(
        saying([], "304 Not Modified", [("Content-Length", "12"), ("ETag", '"x"')]), wire
    )
    # On HTTP/2, where a length without a body confuses clients, the wire leaves it out.
    assert response.headers.get("content-length") == ("12" if wire == "http1" else None)
    assert response.headers["etag"] == '"x"'


async def test_headers_come_as_they_were_given() -> None:
    headers = [("Set-Cookie", "a=1"), ("X-Latin", "caf\xe9"), ("set-cookie", "b=2")]
    response = await answer_of(saying([b"x"], "299 Own Words", headers))
    assert response.status == 299
    assert response.headers.getlist("set-cookie") == ["a=1", "b=2"]
    assert response.headers["x-latin"] == "caf\xe9"


# -- One thread, one context -----------------------------------------------------------------------


@both
async def test_one_thread_and_one_context_from_the_call_to_close(wire: str) -> None:
    variable: contextvars.ContextVar[list[str]] = contextvars.ContextVar("variable")
    threads = set()
    closed = Gate()

    class Chunks:
        def __iter__(self) -> Any:
            for word in ("one", "two", "three"):
                threads.add(threading.get_ident())
                variable.set([*variable.get(), word])
                yield word.encode()

        def close(self) -> None:
            threads.add(threading.get_ident())
            variable.set([*variable.get(), "close"])
            ends.append(variable.get())
            closed.open()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        assert variable.get(None) is None, "another request's context"
        variable.set(["call"])
        threads.add(threading.get_ident())
        start_response("200 OK", PLAIN)
        return Chunks()

    ends: list[list[str]] = []
    async with hosted(app, wire, wsgi_threads=3) as site:
        for count in (1, 2):
            threads.clear()
            assert (await site.ask()).body == b"onetwothree"
            await closed.opened()
            assert len(threads) == 1
            assert threads != {threading.get_ident()}
            assert ends == [["call", "one", "two", "three", "close"]] * count


# -- Errors ----------------------------------------------------------------------------------------


class Odd(Exception):
    """An error of the application's own."""


@both
@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (Odd("x"), "unhandled error in the application"),
        (StopIteration("x"), "unhandled error in the application"),
        (SystemExit(3), "SystemExit was raised in the application"),
        (KeyboardInterrupt(), "KeyboardInterrupt was raised in the application"),
        (GeneratorExit(), "GeneratorExit was raised in the application"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("place", ["call", "first", "later", "close"])
async def test_what_the_application_raises(
    wire: str, error: BaseException, problem: str, place: str, caplog: Any
) -> None:
    """It is logged once; the thread goes on with the next request."""

    class Chunks(Body):
        def __next__(self) -> Any:
            if (place, self.taken) in (("first", 0), ("later", 1)):
                raise error
            return super().__next__()

        def close(self) -> None:
            super().close()
            if place == "close":
                raise error

    body = Chunks([b"a", b"b"])

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/good":
            start_response("200 OK", [])
            return [b"good"]
        if place == "call":
            raise error
        start_response("200 OK", PLAIN)
        return body

    # An iterator that raises StopIteration has only ended.
    ends = isinstance(error, StopIteration) and place in ("first", "later")
    async with hosted(app, wire, wsgi_threads=1) as site:
        if ends:
            assert (await site.ask()).body == (b"" if place == "first" else b"a")
        elif place in ("call", "first"):
            response = await site.ask()
            assert response.status == 500
            assert response.text == "Internal Server Error\n"
        elif place == "later":
            with pytest.raises(ConnectionError):
                await site.ask()
        else:
            assert (await site.ask()).body == b"ab"
        assert (await site.ask("GET", "/good")).body == b"good"
    expected = [] if ends else [f"GET /: wsgi application project:app: {problem}"]
    assert lines_of(caplog) == expected
    assert body.closings == (place != "call")
    if expected:
        record = next(each for each in caplog.records if each.name == "kyoukai")
        assert record.exc_info[1] is error


@both
async def test_a_handshake_is_not_found(wire: str) -> None:
    async with hosted(saying([b"x"]), wire) as site, Client(site.interface) as client:
        with pytest.raises(WebSocketDenied) as denied:
            async with client.websocket("/", http2=wire == "http2"):
                pass
    assert denied.value.response.status == 404
