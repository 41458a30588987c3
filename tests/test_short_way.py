"""The pipeline's short way and its long one: what a client gets does not tell which it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from exchanges import WIRES, exchange
from upstreams import ScriptedUpstream

from kyoukai import HTTPRequestContext, Kyoukai, Middleware, Proxy, Response
from kyoukai.pipeline import RequestPipeline
from kyoukai.testing import Client
from kyoukai.util import as_json
from kyoukai.wrappers import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.stream import StreamState


class LongWay(RequestPipeline):
    async def get_request(self, stream: StreamState) -> Request:
        return await super().get_request(stream)


class Stamp(Middleware):
    async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
        response.headers["X-Stamp"] = "1"


class Escaping(Response):
    def get_wsgi_headers(self, environ: dict[str, Any]) -> Any:
        headers = super().get_wsgi_headers(environ)
        headers["X-Path"] = environ["PATH_INFO"]
        return headers


class Unreadable(Response):
    def iter_encoded(self) -> Any:
        raise ValueError("secret")


class Unsizable(Response):
    @property
    def is_sequence(self) -> bool:
        raise BaseExceptionGroup("secret", [KeyError("secret")])


def with_cookies() -> Response:
    response = Response("a")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


ANSWERS: dict[str, Callable[[], Any]] = {
    "text": lambda: "é",
    "bytes": lambda: b"a",
    "nothing": lambda: None,
    "status": lambda: ("a", 201),
    "headers": lambda: ("a", 200, {"X-A": "é", "Content-Type": "text/html"}),
    "json": lambda: as_json({"a": 1}),
    "response": lambda: Response("a"),
    "another size": lambda: Response("abc"),
    "empty": lambda: Response(),
    "pieces": lambda: Response(["a", b"b", "é"]),
    "tuple": lambda: Response(("a", "b")),
    "cookies": with_cookies,
    "several of a name": lambda: ("a", 200, [("X-A", "1"), ("x-a", "2"), ("X-B", "3")]),
    "its length": lambda: ("abc", {"content-length": "3"}),
    "a wrong length": lambda: ("abc", {"Content-Length": "4"}),
    "no length at all": lambda: ("abc", {"Content-Length": "x"}),
    "204": lambda: Response("a", 204),
    "304": lambda: Response("a", 304, {"Content-Language": "de"}),
    "status 99": lambda: Response("a", 99),
    "status by name": lambda: Response("a", "FINE"),
    "location": lambda: Response("a", 302, {"Location": "/é ü?a=b c"}),
    "content-location": lambda: Response("a", headers={"content-location": "/é"}),
    "etag": lambda: Response("a", headers={"ETag": '"v1"'}),
    "not Latin-1": lambda: Response("a", headers={"X-A": "\u20ac"}),
    "no token": lambda: Response("a", headers={"X A": "1"}),
    "close": lambda: Response("a", headers={"Connection": "close"}),
    "own headers": lambda: Escaping("a"),
    "no bytes": lambda: Response([1]),  # type: ignore[list-item]
    "unreadable": lambda: Unreadable("a"),
    "unsizable": lambda: Unsizable("a"),
    "streamed": lambda: iter("ab"),
}


async def answers(
    make: Callable[[], Any],
    pipeline: type[RequestPipeline],
    middlewares: list[Middleware],
    wire: str,
) -> list[Any]:
    """Ask more than once, as much is remembered, and for the head alone."""
    app = Kyoukai("test", middleware=middlewares, pipeline_class=pipeline)

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> Any:
        return make()

    return [await ask(app, method, wire) for method in ("GET", "GET", "HEAD", "GET")]


async def ask(app: Kyoukai, method: str, wire: str) -> tuple[int, bool, list[Any], bytes]:
    answer = await exchange(app, "/", method, wire=wire)
    lines = sorted((name.lower(), value) for name, value in answer.headers)
    lines = [pair for pair in lines if pair[0] != "date"]
    return answer.status, answer.whole, lines, answer.body


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("middlewares", [[], [Stamp()]], ids=["bare", "middleware"])
@pytest.mark.parametrize("make", ANSWERS.values(), ids=ANSWERS)
async def test_the_same_answers(
    make: Callable[[], Any], middlewares: list[Middleware], wire: str
) -> None:
    short = await answers(make, RequestPipeline, middlewares, wire)
    assert short == await answers(make, LongWay, middlewares, wire)
    for status, _, lines, body in short:
        assert (("x-stamp", "1") in lines) == (bool(middlewares) and status != 500)
        assert b"secret" not in body


class Tamper(Middleware):
    """Does one thing to responses."""

    def __init__(self, deed: Callable[[Any], Any]) -> None:
        self.deed = deed

    async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
        self.deed(response)


DEEDS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda response: None,
    "looks": lambda response: response.headers["X-Server"],
    "adds": lambda response: response.headers.add("X-A", "é"),
    "removes": lambda response: response.headers.remove("X-Server"),
    "another status": lambda response: setattr(response, "status_code", 203),
    "204": lambda response: setattr(response, "status_code", 204),
    "another body": lambda response: response.set_data(b"mine"),
    "a wrong length": lambda response: response.headers.set("Content-Length", "3"),
    "not Latin-1": lambda response: response.headers.set("X-A", "\u20ac"),
    "location": lambda response: response.headers.set("Location", "/\xe9"),
    "etag": lambda response: response.headers.set("ETag", '"v1"'),
}
SERVERS = {
    "length": b"HTTP/1.1 200 OK\r\nX-Server: a\r\nContent-Length: 2\r\n\r\nok",
    "chunked": b"HTTP/1.1 200 OK\r\nX-Server: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nok\r\n0\r\n\r\n",
    "empty": b"HTTP/1.1 204 No Content\r\nX-Server: a\r\n\r\n",
}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("answer", SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
async def test_the_same_proxied_answers(
    deed: Callable[[Any], Any], answer: bytes, wire: str
) -> None:
    found = []
    async with ScriptedUpstream(answer) as up:
        for pipeline in (RequestPipeline, LongWay):
            app = Kyoukai("test", middleware=[Tamper(deed)], pipeline_class=pipeline)
            app.mount("/", Proxy(up.url))
            found.append([await ask(app, "GET", wire) for _ in range(2)])
    assert found[0] == found[1]
    assert found[0][0] == found[0][1]


@pytest.mark.parametrize("pipeline", [RequestPipeline, LongWay])
@pytest.mark.parametrize("value", ["fine", "\u20ac"])
async def test_a_response_is_closed_once(pipeline: type[RequestPipeline], value: str) -> None:
    closed = []
    app = Kyoukai("test", pipeline_class=pipeline)

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> Response:
        response = Response("a", headers={"X-A": value})
        response.call_on_close(lambda: closed.append(value))
        return response

    async with Client(app) as client:
        assert (await client.get("/")).status == (200 if value == "fine" else 500)
    assert closed == [value]


@pytest.mark.parametrize("pipeline", [RequestPipeline, LongWay])
async def test_one_response_for_all(pipeline: type[RequestPipeline]) -> None:
    shared = Response("shared")
    app = Kyoukai("test", middleware=[Stamp()], pipeline_class=pipeline)

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> Response:
        return shared

    async with Client(app) as client:
        for text in ("shared", "shared", "changed", "changed"):
            shared.set_data(text)
            answer = await client.get("/")
            assert answer.text == text
            assert answer.headers["content-length"] == str(len(text))


async def test_a_request_knows_its_pipeline() -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        return type(ctx.request.pipeline).__name__

    async with Client(app) as client:
        assert (await client.get("/")).text == "RequestPipeline"
