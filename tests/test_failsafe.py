"""Whatever fails, over both wires: a well-formed 500, in which nothing of the application is."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from backends.http2.support import dial
from exchanges import WIRES, Exchange, exchange
from streams import request_bytes
from werkzeug.exceptions import Conflict, HTTPException

from kyoukai import HTTPRequestContext, Kyoukai, Middleware, Request, Response
from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.pipeline import RequestPipeline
from kyoukai.testing import Client, MemoryServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "the-name-of-a-thing-inside"


class Stranger(BaseException):
    """Something that is no Exception."""


class Unprintable(Exception):
    """Something that fails when the log looks at it."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)

    __repr__ = __str__


class Nameless(HTTPException):
    """An HTTP error whose status cannot be asked for."""

    @property
    def code(self) -> int:  # type: ignore[override]
        raise Stranger(SECRET)


class Pageless(HTTPException):
    code = 404

    def __repr__(self) -> str:
        raise RuntimeError(SECRET)

    def get_response(self, *args: Any, **kwargs: Any) -> Any:
        raise Stranger(SECRET)


class NoResponse(HTTPException):
    code = 404

    def get_response(self, *args: Any, **kwargs: Any) -> Any:
        return SECRET


class OddStatus(HTTPException):
    code = 1000


class Broken(Response):
    """Its headers fail when they are asked for."""

    def get_wsgi_headers(self, environ: Any) -> Any:
        raise Stranger(SECRET)


class NoHeaders(Response):
    def get_wsgi_headers(self, environ: Any) -> Any:
        return {SECRET: 1}


class Unclosable(Response):
    """Neither its headers nor its end work."""

    def get_wsgi_headers(self, environ: Any) -> Any:
        raise ValueError(SECRET)

    def close(self) -> None:
        raise KeyError(SECRET)


def raising(error: Any) -> Any:
    def made() -> Any:
        raise error if isinstance(error, BaseException) else error()

    return made


class Iterating:
    """An iterator that is none."""

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        raise Stranger(SECRET)


def pieces(*found: Any) -> Iterator[Any]:
    for piece in found:
        if isinstance(piece, BaseException):
            raise piece
        yield piece


async def later(*found: Any) -> Any:
    for piece in found:
        await asyncio.sleep(0)
        if isinstance(piece, BaseException):
            raise piece
        yield piece


FAULTS: dict[str, Any] = {
    "an exception": raising(ValueError(SECRET)),
    "no Exception": raising(Stranger(SECRET)),
    "an exit": raising(SystemExit(SECRET)),
    "a cancellation of nobody": raising(asyncio.CancelledError(SECRET)),
    "a group": raising(BaseExceptionGroup(SECRET, [Stranger(SECRET)])),
    "without a text": raising(Unprintable()),
    "an HTTP error without a status": raising(Nameless()),
    "an HTTP error without a page": raising(Pageless()),
    "an HTTP error with another page": raising(NoResponse()),
    "an HTTP error of no status": raising(OddStatus(SECRET)),
    "what JSON cannot say": lambda: {SECRET: object()},
    "what is no answer": lambda: object,
    "a tuple of too many": lambda: (SECRET, 200, {}, 1),
    "a status that is none": lambda: (SECRET, 99),
    "a status of words": lambda: Response(SECRET, "fine"),
    "a header that is none": lambda: (SECRET, {"X A": SECRET}),
    "a value that is none": lambda: (SECRET, {"X-A": f"\x01{SECRET}"}),
    "a header beyond Latin-1": lambda: (SECRET, {"X-A": f"\u20ac{SECRET}"}),
    "headers that fail": lambda: Broken(SECRET),
    "headers that are none": lambda: NoHeaders(SECRET),
    "a response that cannot be closed": lambda: Unclosable(SECRET),
    "pieces that are none": lambda: Response([SECRET, 1]),
    "a length that is not its own": lambda: (SECRET, {"Content-Length": "x"}),
    "a length that is another's": lambda: (SECRET, {"Content-Length": "3"}),
    "an iterator that fails": lambda: pieces(ValueError(SECRET)),
    "one that is empty, then fails": lambda: pieces("", b"", Stranger(SECRET)),
    "one that yields what it may not": lambda: pieces(1),
    "one that is none": lambda: Response(Iterating()),
    "an async iterator that fails": lambda: later(ValueError(SECRET)),
    "an async one that is empty, then fails": lambda: later(b"", Stranger(SECRET)),
    "an async one that yields what it may not": lambda: later(object()),
}


def app_with(made: Any, **options: Any) -> Kyoukai:
    app = Kyoukai("test", **options)

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> Any:
        return made()

    @app.route("/in-a-thread")
    def in_a_thread(ctx: HTTPRequestContext) -> Any:
        return made()

    return app


def check(answer: Exchange) -> None:
    """Look whether it is whole, a 500, and says nothing."""
    assert answer.whole
    assert answer.status == 500
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert b"Internal Server Error" in answer.body
    everything = answer.body.decode() + str(answer.headers)
    for word in (SECRET, "Traceback", "Error:", ".py", "kyoukai.", "X-A"):
        assert word not in everything


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("path", ["/", "/in-a-thread"])
async def test_whatever_fails(
    name: str, wire: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    check(await exchange(app_with(FAULTS[name]), path, wire=wire))
    assert any(record.levelno == logging.ERROR for record in caplog.records)


async def test_the_connection_goes_on() -> None:
    async with Client(app_with(FAULTS["an iterator that fails"])) as client:
        connection = client.connect()
        for _ in range(3):
            connection.request("GET", "/")
            assert (await connection.response()).status == 500


class Failing(Middleware):
    """A middleware that fails wherever it is said to."""

    def __init__(self, *steps: str) -> None:
        self.steps = steps

    def __repr__(self) -> str:
        raise RuntimeError(SECRET)

    async def process_request(self, ctx: HTTPRequestContext) -> None:
        if "request" in self.steps:
            raise Stranger(SECRET)

    async def process_resource(self, ctx: HTTPRequestContext, resource: Any, params: Any) -> None:
        if "resource" in self.steps:
            raise Unprintable

    async def process_response(self, ctx: HTTPRequestContext, response: Response) -> Any:
        response.headers["X-Seen"] = "1"
        if "response" in self.steps:
            raise Stranger(SECRET)
        return object() if "nonsense" in self.steps else None


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("steps", [("request",), ("resource",), ("request", "response")])
async def test_a_middleware_fails(steps: tuple[str, ...], wire: str) -> None:
    answer = await exchange(app_with(lambda: "it", middleware=Failing(*steps)), wire=wire)
    check(answer)
    assert answer.headers["X-Seen"] == "1"


@pytest.mark.parametrize("step", ["response", "nonsense"])
async def test_a_middleware_that_fails_on_the_way_back_loses_nothing(
    step: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await exchange(app_with(lambda: "it", middleware=Failing(step)))
    assert (answer.status, answer.body) == (200, b"it")
    assert "process_response of <Failing without a text> failed" in caplog.text


ERROR_HANDLERS: dict[str, Any] = {
    "raises": raising(Stranger(SECRET)),
    "raises without a text": raising(Unprintable()),
    "raises an error without a page": raising(Pageless()),
    "returns nonsense": lambda: object(),
    "returns what cannot be sent": lambda: ("x", {"X-A": "\x01"}),
    "returns what fails": lambda: pieces(ValueError(SECRET)),
    "returns a broken response": lambda: Broken(SECRET),
}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", ERROR_HANDLERS)
async def test_an_error_handler_fails(name: str, wire: str) -> None:
    app = app_with(raising(Conflict()))

    @app.errorhandler(409)
    @app.errorhandler(500)
    async def handler(ctx: HTTPRequestContext, error: Any) -> Any:
        return ERROR_HANDLERS[name]()

    check(await exchange(app, wire=wire))


@pytest.mark.parametrize("wire", WIRES)
async def test_a_finalizer_spoils_the_500_too(wire: str, caplog: pytest.LogCaptureFixture) -> None:
    class Own(RequestPipeline):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.finalizers += (self.spoil,)

        async def spoil(self, response: Response, request: Request) -> None:
            response.headers["X-A"] = "\x01"

    check(await exchange(app_with(lambda: "it", pipeline_class=Own), wire=wire))
    assert "its 500 cannot be sent" in caplog.text


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("attribute", ["path", "method", "environ"])
async def test_a_request_that_fails_when_it_is_looked_at(attribute: str, wire: str) -> None:
    def fail(self: Any) -> Any:
        raise RuntimeError(SECRET)

    odd = type("Odd", (Request,), {attribute: property(fail)})
    check(await exchange(app_with(raising(ValueError(SECRET)), request_class=odd), wire=wire))


@pytest.mark.parametrize("wire", WIRES)
async def test_a_failure_with_trailers(wire: str) -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> Any:
        ctx.trailers["X-Sum"] = "\x01"
        return "it"

    check(await exchange(app, wire=wire))


async def test_a_disk_that_fails_is_named_in_the_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = Kyoukai("test")

    @app.route("/", methods=["POST"])
    async def handler(ctx: HTTPRequestContext) -> str:
        return "it"

    settings: dict[str, Any] = {"body_spool_dir": str(tmp_path / "missing"), "body_spool_size": 1}
    sent = request_bytes("/", method="POST", body=b"x" * 200_000)
    async with Client(app, **settings) as client:
        connection = client.connect()
        for start in range(0, len(sent), 20_000):
            connection.send(sent[start : start + 20_000])
        answer = await connection.response()
    assert answer.status == 507
    assert "no room for the request" in answer.text
    assert "No such file" not in answer.text
    assert "handler (POST '/'): the body cannot be spooled: No such file" in caplog.text


# -- The order of the steps --------------------------------------------------------------------


class Noting(Middleware):
    """Writes down what is called, and fails or answers where it is told to."""

    def __init__(self, name: str, order: list[str], deed: str) -> None:
        self.name, self.order, self.deed = name, order, deed

    def note(self, step: str) -> Any:
        self.order.append(f"{self.name}.{step}")
        if self.deed == f"{self.name}.{step} fails":
            raise Stranger(SECRET)
        return "answered" if self.deed == f"{self.name}.{step} answers" else None

    async def process_request(self, ctx: HTTPRequestContext) -> Any:
        return self.note("in")

    async def process_resource(self, ctx: HTTPRequestContext, resource: Any, params: Any) -> Any:
        return self.note("resource")

    async def process_response(self, ctx: HTTPRequestContext, response: Response) -> Any:
        return self.note("out")


IN, RESOURCE, OUT = "a.in b.in c.in", "a.resource b.resource c.resource", "c.out b.out a.out"


@pytest.mark.parametrize(
    ("deed", "path", "order"),
    [
        ("none", "/", f"{IN} {RESOURCE} handler {OUT} last"),
        ("a.in fails", "/", "a.in a.out last"),
        ("b.in fails", "/", "a.in b.in b.out a.out last"),
        ("b.in answers", "/", "a.in b.in b.out a.out last"),
        ("c.in fails", "/", f"{IN} {OUT} last"),
        ("b.resource fails", "/", f"{IN} a.resource b.resource b.out a.out last"),
        ("b.resource answers", "/", f"{IN} a.resource b.resource b.out a.out last"),
        ("handler fails", "/", f"{IN} {RESOURCE} handler {OUT} last"),
        ("handler error fails", "/", f"{IN} {RESOURCE} handler error {OUT} last"),
        ("b.out fails", "/", f"{IN} {RESOURCE} handler {OUT} last"),
        ("b.out answers", "/", f"{IN} {RESOURCE} handler {OUT} last"),
        ("none", "/missing", f"{IN} {OUT} last"),
    ],
)
async def test_the_order(deed: str, path: str, order: str) -> None:
    called: list[str] = []

    class Own(RequestPipeline):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.finalizers += (self.last,)

        async def last(self, response: Response, request: Request) -> None:
            called.append("last")

    app = Kyoukai("test", pipeline_class=Own)
    for name in "abc":
        app.add_middleware(Noting(name, called, deed))

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> str:
        called.append("handler")
        if deed.startswith("handler"):
            raise Stranger(SECRET)
        return "it"

    if "error" in deed:

        @app.errorhandler(500)
        async def failed(ctx: HTTPRequestContext, error: Any) -> str:
            called.append("error")
            raise Stranger(SECRET)

    answer = await exchange(app, path)
    assert " ".join(called) == order
    fails = deed.endswith("fails") and deed != "b.out fails"
    assert answer.status == (500 if fails else 404 if path == "/missing" else 200)


# -- Heads of streamed answers -----------------------------------------------------------------


def late_app(may_go_on: asyncio.Event) -> Kyoukai:
    class Quick(RequestPipeline):
        head_delay = 0.01

    app = Kyoukai("test", pipeline_class=Quick)

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> Any:
        async def body() -> Any:
            await may_go_on.wait()
            yield b"late"

        return Response(body(), 203)

    return app


async def test_a_head_waits_for_its_body_but_not_for_ever_on_http2() -> None:
    may_go_on = asyncio.Event()
    async with MemoryServer(late_app(may_go_on), H2KyoukaiProtocol) as server:
        client, _ = dial(server)
        asked = client.request("GET", "/")
        while not asked.response.status:
            await client.event()
        assert (asked.response.status, asked.body) == (203, b"")
        may_go_on.set()
        assert (await asked.finished()).body == b"late"


async def test_a_head_waits_for_its_body_but_not_for_ever() -> None:
    """A client may wait for the head before it does what the body waits for."""
    may_go_on = asyncio.Event()
    async with Client(late_app(may_go_on)) as client:
        connection = client.connect()
        transport = connection.transport
        connection.request("GET", "/")
        data = b""
        while b"\r\n\r\n" not in data:
            await transport.changed.wait()
            transport.changed.clear()
            data += transport.take()
        assert data.startswith(b"HTTP/1.1 203 ")
        assert not data.partition(b"\r\n\r\n")[2]
        may_go_on.set()
        while b"0\r\n\r\n" not in data:
            await transport.changed.wait()
            transport.changed.clear()
            data += transport.take()
    assert b"4\r\nlate\r\n" in data


async def test_a_head_that_cannot_be_sent_early_is_reported_late(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Quick(RequestPipeline):
        head_delay = 0.0

    app = Kyoukai("test", pipeline_class=Quick)

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> Any:
        async def body() -> Any:
            for _ in range(5):
                await asyncio.sleep(0)
            yield b"late"

        return Response(body(), headers={"X-A": "\x01"})

    check(await exchange(app))
    assert "header 'X-A' has an illegal value" in caplog.text


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("body", [lambda: pieces(b"a", ValueError(SECRET)), lambda: later(b"a", 1)])
async def test_what_fails_after_its_first_byte_is_not_whole(body: Any, wire: str) -> None:
    answer = await exchange(app_with(body), wire=wire)
    assert not answer.whole


@pytest.mark.parametrize("wire", WIRES)
async def test_a_body_of_nothing(wire: str) -> None:
    answer = await exchange(app_with(lambda: pieces("", b"")), wire=wire)
    assert (answer.status, answer.body, answer.whole) == (200, b"", True)
