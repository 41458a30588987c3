"""Applications, end to end: what handlers return, errors, hooks, serving."""

from __future__ import annotations

import asyncio
import collections
import inspect
import logging
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from asphalt.core import Component, Context
from werkzeug.exceptions import (
    Conflict,
    Forbidden,
    HTTPException,
    NotFound,
    ServiceUnavailable,
    abort,
)
from werkzeug.utils import redirect

from kyoukai import Blueprint, HTTPRequestContext, Kyoukai, Request, Response, TestKyoukai
from kyoukai.exceptions import ConfigurationError, ExpectingNoResponse, RouteError
from kyoukai.testing import Client, MemoryServer
from kyoukai.util import as_html, as_json, as_plaintext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
JSON = "application/json"


class Odd:
    def __iter__(self) -> Iterator[str]:
        return iter("odd")


async def agen() -> AsyncIterator[Any]:
    yield "a"
    yield b"b"
    yield bytearray(b"c")


def gen() -> Iterator[Any]:
    yield "a"
    yield b"b"
    yield memoryview(b"c")


VALUES: dict[str, tuple[Any, int, str | None, bytes]] = {
    "str": ("h\u00e9", 200, TEXT, "h\u00e9".encode()),
    "empty str": ("", 200, TEXT, b""),
    "bytes": (b"\x00\xff", 200, BYTES, b"\x00\xff"),
    "bytearray": (bytearray(b"x"), 200, BYTES, b"x"),
    "dict": ({"a": [1, None]}, 200, JSON, b'{"a":[1,null]}'),
    "dict of a subclass": (collections.OrderedDict(a=1), 200, JSON, b'{"a":1}'),
    "list": ([1, "x"], 200, JSON, b'[1,"x"]'),
    "None": (None, 204, None, b""),
    "status": (("x", 201), 201, TEXT, b"x"),
    "status of no name": (("x", 299), 299, TEXT, b"x"),
    "status as text": (("x", "418 I'm a teapot"), 418, TEXT, b"x"),
    "None with a status": ((None, 202), 202, None, b""),
    "JSON with a status": (({"a": 1}, 400), 400, JSON, b'{"a":1}'),
    "headers": (("x", {"Content-Type": "a/b"}), 200, "a/b", b"x"),
    "status and headers": (("x", 404, {"Content-Type": "a/b"}), 404, "a/b", b"x"),
    "status and pairs": (("x", 404, [("Content-Type", "a/b")]), 404, "a/b", b"x"),
    "Response": (Response("r", status=203, content_type="a/b"), 203, "a/b", b"r"),
    "Response and status": ((Response("r", content_type="a/b"), 206), 206, "a/b", b"r"),
    "as_html": (as_html("<p>"), 200, "text/html; charset=utf-8", b"<p>"),
    "as_plaintext": (as_plaintext("p", 201), 201, TEXT, b"p"),
    "as_json": (as_json({1}, 202, {"X-A": "1"}), 202, JSON, b"[1]"),
    "redirect": (redirect("/x", 303), 303, "text/html; charset=utf-8", None),
    "iterable Response": (lambda: Response(iter(["a", b"b"])), 200, TEXT, b"ab"),
    "iterator": (lambda: iter(["a", b"b"]), 200, TEXT, b"ab"),
    "map": (lambda: map(str, (1, 2)), 200, TEXT, b"12"),
    "generator": (gen, 200, TEXT, b"abc"),
    "async generator": (agen, 200, TEXT, b"abc"),
    "empty iterator": (lambda: iter(()), 200, TEXT, b""),
    "iterator with all": (lambda: (gen(), 201, {"Content-Type": "a/b"}), 201, "a/b", b"abc"),
    "async Response": (lambda: Response(agen(), content_type="a/b"), 200, "a/b", b"abc"),
    "object": (object(), 500, "text/html; charset=utf-8", None),
    "int": (3, 500, "text/html; charset=utf-8", None),
    "True": (True, 500, "text/html; charset=utf-8", None),
    "set": ({1}, 500, "text/html; charset=utf-8", None),
    "iterable that is no iterator": (Odd(), 500, "text/html; charset=utf-8", None),
    "tuple of one": (("x",), 500, "text/html; charset=utf-8", None),
    "tuple of four": (("x", 200, {}, 1), 500, "text/html; charset=utf-8", None),
    "tuple in a tuple": ((("x", 1), 200), 500, "text/html; charset=utf-8", None),
    "status True": (("x", True), 500, "text/html; charset=utf-8", None),
    "status 0": (("x", 0), 500, "text/html; charset=utf-8", None),
    "status 99": (("x", 99), 500, "text/html; charset=utf-8", None),
    "status 101": (("x", 101), 500, "text/html; charset=utf-8", None),
    "status 1000": (({"a": 1}, 1000), 500, "text/html; charset=utf-8", None),
    "no JSON": ({"a": object()}, 500, "text/html; charset=utf-8", None),
    "no JSON key": ({("a",): 1}, 500, "text/html; charset=utf-8", None),
    "illegal header": (("x", {"X-A": "a\x00b"}), 500, "text/html; charset=utf-8", None),
    "illegal name": (("x", {"X A": "1"}), 500, "text/html; charset=utf-8", None),
    "header beyond Latin-1": (("x", {"X-A": "\u20ac"}), 500, "text/html; charset=utf-8", None),
    "wrong length": (("x", {"Content-Length": "junk"}), 500, "text/html; charset=utf-8", None),
}


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("name", VALUES)
async def test_what_handlers_return(name: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    value, status, content_type, body = VALUES[name]
    app = Kyoukai("test")

    def make() -> Any:
        return value() if inspect.isfunction(value) else value

    async def handler(ctx: HTTPRequestContext) -> Any:
        return make()

    def sync_handler(ctx: HTTPRequestContext) -> Any:
        return make()

    app.route("/", endpoint="handler-of-it")(handler if kind == "async" else sync_handler)
    async with Client(app) as client:
        response = await client.get("/")
        assert response.status == status
        assert response.headers.get("Content-Type") == content_type
        if body is not None:
            assert response.body == body
        again = await client.get("/missing")  # the connection goes on
        assert again.status == 404
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == (status == 500)
    for record in errors:
        assert "route handler-of-it (GET '/')" in record.getMessage()


async def test_generator_functions_are_streamed() -> None:
    app = Kyoukai("test")

    @app.route("/async/<int:n>")
    async def numbers(ctx: HTTPRequestContext, n: int) -> AsyncIterator[str]:
        for number in range(n):
            yield str(number)

    @app.route("/sync/<int:n>")
    def more(ctx: HTTPRequestContext, n: int) -> Iterator[str]:
        yield from map(str, range(n))

    async with Client(app) as client:
        for path in ("/async/3", "/sync/3"):
            response = await client.get(path)
            assert response.text == "012"
            assert response.headers["Transfer-Encoding"] == "chunked"


# -- Routes ------------------------------------------------------------------------------------


async def test_several_paths_of_one_route() -> None:
    app = Kyoukai("test")

    @app.route("/users/<int:number>")
    @app.route("/me", methods=["GET", "POST"])
    async def user(ctx: HTTPRequestContext, number: int = 0) -> Any:
        return [ctx.request.method, number]

    async with Client(app) as client:
        assert (await client.get("/users/7")).json() == ["GET", 7]
        assert (await client.post("/me")).json() == ["POST", 0]
        assert (await client.post("/users/7")).status == 405
        assert (await client.get("/users/x")).status == 404


async def test_head_options_and_405() -> None:
    app = Kyoukai("test")
    calls: list[str] = []

    @app.route("/x", methods=["GET", "POST"])
    async def x(ctx: HTTPRequestContext) -> str:
        calls.append(ctx.request.method)
        return "hello"

    @app.route("/own", methods=["OPTIONS", "GET"])
    async def own(ctx: HTTPRequestContext) -> str:
        return "my own"

    @app.before_request
    async def hook(ctx: HTTPRequestContext) -> None:
        calls.append("hook")

    async with Client(app) as client:
        head = await client.head("/x")
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "5")
        assert calls == ["hook", "HEAD"]
        options = await client.options("/x")
        assert (options.status, options.body) == (204, b"")
        assert options.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
        assert calls == ["hook", "HEAD"]
        assert (await client.options("/own")).text == "my own"
        assert (await client.options("/missing")).status == 404
        refused = await client.put("/x")
        assert refused.status == 405
        assert set(refused.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
        assert (await client.head("/missing")).status == 404
        everything = await client.options("*")
        assert everything.status == 204
        assert "GET" in everything.headers["Allow"]
        assert (await client.get("/x")).text == "hello"


async def test_streamed_head_has_no_body() -> None:
    app = Kyoukai("test")
    steps: list[str] = []

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> AsyncIterator[str]:
        steps.append("ran")
        yield "x"

    async with Client(app) as client:
        assert (await client.head("/")).body == b""
        assert (await client.get("/")).text == "x"
    assert steps == ["ran"]


async def test_slash_redirects_keep_the_query() -> None:
    app = Kyoukai("test")

    @app.route("/folder/")
    async def folder(ctx: HTTPRequestContext) -> str:
        return "in"

    async with Client(app) as client:
        response = await client.get("/folder?a=%20", headers={"Host": "example.com:81"})
        assert response.status == 308
        assert response.headers["Location"] == "http://example.com:81/folder/?a=%20"


async def test_the_root_path_is_not_part_of_the_routes() -> None:
    app = Kyoukai("test")

    @app.route("/x")
    async def x(ctx: HTTPRequestContext) -> str:
        return ctx.url_for("x")

    async with Client(app, root_path="/app") as client:
        assert (await client.get("/app/x")).text == "/app/x"
        assert (await client.get("/x")).text == "/app/x"


# -- Errors ------------------------------------------------------------------------------------


class Teapot(HTTPException):
    code = 418


class Base(Exception):
    code = "not a status"


class Derived(Base):
    pass


class UrlError(Exception):
    code = 404


def raising(app: Kyoukai | Blueprint, path: str, error: BaseException | type) -> None:
    async def handler(ctx: HTTPRequestContext) -> None:
        raise error

    app.route(path, endpoint=f"{app.name}{path}")(handler)


async def test_error_handlers_by_code_range_and_class(caplog: pytest.LogCaptureFixture) -> None:
    app = Kyoukai("test")
    for path, error in {
        "/403": Forbidden(),
        "/409": Conflict(),
        "/418": Teapot(),
        "/503": ServiceUnavailable(),
        "/base": Base(),
        "/derived": Derived(),
        "/key": KeyError("k"),
    }.items():
        raising(app, path, error)

    @app.errorhandler(403)
    async def by_code(ctx: HTTPRequestContext, exc: HTTPException) -> Any:
        return f"code {exc.code}"

    @app.errorhandler(405, 420)
    def by_range(ctx: HTTPRequestContext, exc: HTTPException) -> Any:
        return {"range": exc.code}

    @app.errorhandler(501, 505, 2)
    async def by_steps(ctx: HTTPRequestContext, exc: HTTPException) -> Any:
        return f"steps {exc.code}"

    @app.errorhandler(Teapot)
    async def by_class(ctx: HTTPRequestContext, exc: Teapot) -> Any:
        return "tea", 200

    @app.errorhandler(Base)
    async def by_base(ctx: HTTPRequestContext, exc: Base) -> Any:
        return type(exc).__name__

    async with Client(app) as client:

        async def get(path: str) -> tuple[int, str]:
            response = await client.get(path)
            return response.status, response.text

        assert await get("/403") == (403, "code 403")
        assert await get("/409") == (409, '{"range":409}')
        assert await get("/418") == (200, "tea")
        assert await get("/503") == (503, "steps 503")
        assert await get("/base") == (500, "Base")
        assert await get("/derived") == (500, "Derived")
        assert not caplog.records
        assert (await get("/missing"))[0] == 404
        assert (await get("/key"))[0] == 500
    assert "route test/key (GET '/key') failed" in caplog.text
    assert "KeyError: 'k'" in caplog.text


@pytest.mark.parametrize(
    ("value", "status", "body"),
    [
        ("text", 409, b"text"),
        ({"a": 1}, 409, b'{"a":1}'),
        (None, 409, b""),
        (("text", {"X-A": "1"}), 409, b"text"),
        (("text", None, {"X-A": "1"}), 409, b"text"),
        (("text", 200), 200, b"text"),
        (("text", 202, {}), 202, b"text"),
        (Response("text", status=203), 203, b"text"),
        ((Response("text", status=203), {"X-A": "1"}), 203, b"text"),
    ],
)
async def test_a_bare_value_keeps_the_errors_status(value: Any, status: int, body: bytes) -> None:
    app = Kyoukai("test")
    raising(app, "/", Conflict())

    @app.errorhandler(409)
    async def handler(ctx: HTTPRequestContext, exc: HTTPException) -> Any:
        return value

    async with Client(app) as client:
        response = await client.get("/")
    assert (response.status, response.body) == (status, body)


async def test_the_code_of_another_exception_is_no_status() -> None:
    app = Kyoukai("test")
    raising(app, "/", UrlError())

    @app.errorhandler(UrlError)
    async def handler(ctx: HTTPRequestContext, exc: UrlError) -> str:
        return "upstream"

    async with Client(app) as client:
        response = await client.get("/")
    assert (response.status, response.text) == (500, "upstream")


async def test_500_handlers_get_what_was_raised(caplog: pytest.LogCaptureFixture) -> None:
    app = Kyoukai("test")
    raising(app, "/", KeyError("secret"))

    @app.errorhandler(500)
    async def handler(ctx: HTTPRequestContext, exc: Any) -> Any:
        assert isinstance(ctx.exception, KeyError)
        return repr(exc.original_exception)

    async with Client(app) as client:
        response = await client.get("/")
    assert (response.status, response.text) == (500, "KeyError('secret')")
    assert "route test/ (GET '/') failed" in caplog.text


async def test_a_500_shows_nothing_of_the_fault() -> None:
    app = Kyoukai("test")
    raising(app, "/", KeyError("secret"))
    async with Client(app) as client:
        assert b"secret" not in (await client.get("/")).body


async def test_error_handlers_are_inherited() -> None:
    app = Kyoukai("test")
    outer = Blueprint("outer", prefix="/outer")
    inner = Blueprint("inner", outer, "/inner")
    app.register_blueprint(outer)
    for member, prefix in ((app, ""), (outer, "/o"), (inner, "/i")):
        raising(member, f"{prefix}/403", Forbidden())
        raising(member, f"{prefix}/409", Conflict())

    @app.errorhandler(403)
    async def root(ctx: HTTPRequestContext, exc: Exception) -> str:
        return "root"

    @outer.errorhandler(403)
    async def middle(ctx: HTTPRequestContext, exc: Exception) -> str:
        return "outer"

    @app.errorhandler(HTTPException)
    async def general(ctx: HTTPRequestContext, exc: Exception) -> str:
        return "general"

    async with Client(app) as client:
        assert (await client.get("/403")).text == "root"
        assert (await client.get("/outer/o/403")).text == "outer"
        assert (await client.get("/outer/inner/i/403")).text == "outer"
        assert (await client.get("/outer/inner/i/409")).text == "general"
        assert (await client.get("/outer/missing")).text == "general"


async def test_failing_error_handlers(caplog: pytest.LogCaptureFixture) -> None:
    app = Kyoukai("test")
    for path, error in {
        "/fails": Forbidden(),
        "/aborts": Conflict(),
        "/wrong": Teapot(),
        "/both": NotFound(),
    }.items():
        raising(app, path, error)
    child = app.register_blueprint(Blueprint("child", prefix="/child"))
    raising(child, "/fails", Forbidden())

    @app.errorhandler(403)
    async def fails(ctx: HTTPRequestContext, exc: Exception) -> None:
        raise KeyError("in the handler")

    @app.errorhandler(409)
    async def aborts(ctx: HTTPRequestContext, exc: Exception) -> None:
        abort(503)

    @app.errorhandler(418)
    def wrong(ctx: HTTPRequestContext, exc: Exception) -> Any:
        return object()

    @app.errorhandler(500)
    async def last(ctx: HTTPRequestContext, exc: Exception) -> str:
        if ctx.request.path == "/child/fails":
            raise ValueError("this one too")
        return "last resort"

    async with Client(app) as client:

        async def get(path: str) -> tuple[int, str]:
            response = await client.get(path)
            return response.status, response.text

        assert await get("/fails") == (500, "last resort")
        assert (await get("/aborts"))[0] == 503
        assert await get("/wrong") == (500, "last resort")
        assert (await get("/both"))[0] == 404
        caplog.clear()
        status, text = await get("/child/fails")
        assert status == 500
        assert "Internal Server Error" in text
    assert "KeyError: 'in the handler'" in caplog.text
    assert "ValueError: this one too" in caplog.text


async def test_abort_with_a_response_is_an_answer() -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> None:
        abort(Response("as it is", status=202))

    @app.errorhandler(HTTPException)
    async def general(ctx: HTTPRequestContext, exc: Exception) -> str:
        return "not called"

    async with Client(app) as client:
        response = await client.get("/")
    assert (response.status, response.text) == (202, "as it is")


class Strange(BaseException):
    pass


FAILURES = {
    "ValueError": ValueError("x"),
    "BaseException": Strange("x"),
    "SystemExit": SystemExit(3),
    "StopIteration": StopIteration(),
    "StopAsyncIteration": StopAsyncIteration(),
    "RecursionError": RecursionError(),
    "MemoryError": MemoryError(),
    "TimeoutError": TimeoutError(),
    "ConnectionError": ConnectionResetError(),
    "group": BaseExceptionGroup("two", [ValueError(), Strange()]),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("kind", ["async", "sync", "hook", "after", "error handler"])
async def test_whatever_fails_a_response_comes_back(
    kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = FAILURES[name]
    app = Kyoukai("test")

    async def fail(*args: Any) -> Any:
        raise error

    def sync_fail(*args: Any) -> Any:
        raise error

    async def good(ctx: HTTPRequestContext) -> str:
        return "good"

    app.route("/good", endpoint="good")(good)
    child = app.register_blueprint(Blueprint("child"))
    if kind == "async":
        child.route("/", endpoint="it")(fail)
    elif kind == "sync":
        child.route("/", endpoint="it")(sync_fail)
    else:
        child.route("/", endpoint="it")(good)
    if kind == "hook":
        child.before_request(sync_fail)
    elif kind == "after":
        child.after_request(fail)
    elif kind == "error handler":
        child.before_request(fail)
        child.errorhandler(BaseException)(sync_fail)
    async with Client(app) as client:
        assert (await client.get("/")).status == 500
        assert (await client.get("/good")).text == "good"
        assert "failed" in caplog.text
    response = await TestKyoukai.wrap_existing_app(app).inject_request({}, "/")
    assert response.status_code == 500


@pytest.mark.parametrize("error", [GeneratorExit, KeyboardInterrupt, ExpectingNoResponse])
async def test_what_gets_through_process_request(error: type[BaseException]) -> None:
    app = TestKyoukai("test")
    raising(app, "/", error)

    @app.errorhandler(BaseException)
    async def never(ctx: HTTPRequestContext, exc: BaseException) -> str:
        return "not called"

    # (Not awaited in this task alone: KeyboardInterrupt would end the loop.)
    step = app.inject_request({}, "/")
    with pytest.raises(error):
        step.send(None)


async def test_cancellation_gets_through_process_request() -> None:
    app = TestKyoukai("test")
    started = asyncio.Event()

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> str:
        started.set()
        await asyncio.get_running_loop().create_future()
        return "not reached"

    task = asyncio.create_task(app.inject_request({}, "/"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_exception_with_a_broken_page() -> None:
    class Broken(HTTPException):
        code = 400

        def get_response(self, *args: Any, **kwargs: Any) -> Any:
            raise ValueError("no page")

    app = TestKyoukai("test")
    raising(app, "/", Broken())
    assert (await app.inject_request({}, "/")).status_code == 500
    async with Client(app) as client:
        assert (await client.get("/")).status == 500


# -- Hooks -------------------------------------------------------------------------------------


async def test_hooks_sync_and_async_in_their_order() -> None:
    app = Kyoukai("test")
    child = app.register_blueprint(Blueprint("child"))
    calls: list[str] = []

    @app.before_request
    async def first(ctx: HTTPRequestContext) -> None:
        calls.append("app")

    def second(ctx: HTTPRequestContext) -> HTTPRequestContext:
        calls.append("app sync")
        return ctx

    app.add_hook("pre", second)

    @child.before_request
    async def third(ctx: HTTPRequestContext) -> None:
        calls.append("child")

    @app.after_request
    async def outer(ctx: HTTPRequestContext, response: Response) -> Response:
        calls.append("after app")
        response.headers["X-App"] = "1"
        return response

    @child.after_request
    def inner(ctx: HTTPRequestContext, response: Response) -> None:
        calls.append("after child sync")
        response.headers["X-Child"] = "1"

    @child.route("/")
    async def handler(ctx: HTTPRequestContext) -> str:
        calls.append("handler")
        return "x"

    @handler.before_request
    async def own(ctx: HTTPRequestContext) -> None:
        calls.append("route")

    @handler.after_request
    async def own_after(ctx: HTTPRequestContext, response: Response) -> Any:
        calls.append("after route")
        return response.get_data() + b"!", 201

    @child.route("/none", should_invoke_hooks=False)
    async def none(ctx: HTTPRequestContext) -> str:
        return "none"

    async with Client(app) as client:
        response = await client.get("/")
        assert (response.status, response.body) == (201, b"x!")
        assert calls == [
            "app",
            "app sync",
            "child",
            "route",
            "handler",
            "after app",
            "after child sync",
            "after route",
        ]
        calls.clear()
        response = await client.get("/none")
        assert response.text == "none"
        assert "X-App" not in response.headers
        assert not calls
        assert (await client.get("/missing")).status == 404
        assert not calls


@pytest.mark.parametrize("answer", ["no", ("no", 403), Response("no"), {"a": 1}])
async def test_a_hook_that_answers(answer: Any) -> None:
    app = Kyoukai("test")
    calls: list[str] = []

    @app.before_request
    async def hook(ctx: HTTPRequestContext) -> Any:
        return answer

    @app.before_request
    async def later(ctx: HTTPRequestContext) -> None:
        calls.append("later")

    @app.after_request
    async def after(ctx: HTTPRequestContext, response: Response) -> None:
        calls.append("after")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> str:
        calls.append("handler")
        return "yes"

    async with Client(app) as client:
        response = await client.get("/")
    assert response.status == (403 if isinstance(answer, tuple) else 200)
    assert response.body in (b"no", b'{"a":1}')
    assert calls == ["after"]


# -- URLs --------------------------------------------------------------------------------------


async def test_url_for() -> None:
    app = Kyoukai("test")
    child = app.register_blueprint(Blueprint("child", prefix="/c"))

    @app.route("/users/<int:number>")
    async def user(ctx: HTTPRequestContext, number: int) -> Any:
        return [
            ctx.url_for("user", number=7),
            ctx.url_for("user", number=7, q="a b"),
            ctx.url_for("child.item"),
            ctx.url_for("user", number=7, _external=True),
            ctx.url_for("user", number=7, _scheme="https"),
            ctx.url_for("named", _anchor="top"),
            app.url_for(ctx.environ, "child.item", method="GET"),
        ]

    @child.route("/item")
    async def item(ctx: HTTPRequestContext) -> Any:
        return [ctx.url_for(".item"), ctx.url_for("user", number=1)]

    @app.route("/n", endpoint="named")
    async def other(ctx: HTTPRequestContext) -> Any:
        with pytest.raises(RouteError, match="number"):
            ctx.url_for("user")
        with pytest.raises(RouteError, match="no endpoint 'usr'"):
            ctx.url_for("usr")
        return None

    async with Client(app) as client:
        response = await client.get("/users/1", headers={"Host": "h.example:81"})
        assert response.json() == [
            "/users/7",
            "/users/7?q=a+b",
            "/c/item",
            "http://h.example:81/users/7",
            "https://h.example:81/users/7",
            "/n#top",
            "/c/item",
        ]
        assert (await client.get("/c/item")).json() == ["/c/item", "/users/1"]
        assert (await client.get("/n")).status == 204


# -- Serving -----------------------------------------------------------------------------------


async def test_serving_hooks_run_once_and_in_order() -> None:
    app = Kyoukai("test")
    calls: list[str] = []
    contexts: list[Context] = []

    @app.before_serving
    async def before(ctx: Context) -> None:
        calls.append("before")
        contexts.append(ctx)
        ctx.add_resource("value", "from_before")

    @app.while_serving
    async def first(ctx: Context) -> AsyncIterator[None]:
        calls.append("first up")
        yield
        calls.append("first down")

    @app.while_serving
    async def second(ctx: Context) -> AsyncIterator[None]:
        calls.append("second up")
        yield
        calls.append("second down")
        raise ValueError("the rest runs all the same")

    @app.after_serving
    async def after(ctx: Context) -> None:
        calls.append("after")
        contexts.append(ctx)

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> str:
        calls.append("request")
        return ctx.require_resource(str, "from_before")

    async with Client(app) as client, Client(app) as other:
        assert (await client.get("/")).text == "value"
        assert (await other.get("/")).status == 500  # its own root context has no such resource
    assert calls == [
        "before",
        "first up",
        "second up",
        "request",
        "request",
        "second down",
        "first down",
        "after",
    ]
    assert contexts[0] is contexts[1]
    await app.shutdown()  # one too many does nothing
    assert calls.count("after") == 1


async def test_while_serving_must_yield() -> None:
    app = Kyoukai("test")

    @app.while_serving
    async def never(ctx: Context) -> AsyncIterator[None]:
        return
        yield

    with pytest.raises(ConfigurationError, match="ended without a yield"):
        await app.startup(Context())


async def test_add_component() -> None:
    class Database(Component):
        def __init__(self, url: str) -> None:
            self.url = url

        async def start(self, ctx: Context) -> None:
            ctx.add_resource(self.url, "url")

    app = Kyoukai("test")
    app.add_component("db", Database, url="sqlite://")

    @app.before_serving
    async def before(ctx: Context) -> None:
        assert ctx.require_resource(str, "url")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> str:
        return ctx.require_resource(str, "url")

    assert app.components == {"db": (Database, {"url": "sqlite://"})}
    async with Client(app) as client:
        assert (await client.get("/")).text == "sqlite://"


# -- Classes and settings ----------------------------------------------------------------------


async def test_subclassed_classes() -> None:
    class MyRequest(Request):
        @property
        def loud(self) -> str:
            return self.path.upper()

    class MyResponse(Response):
        default_mimetype = "text/x-mine"

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.headers["X-Mine"] = "1"

    class MyContext(HTTPRequestContext):
        made: ClassVar[list[Any]] = []

        def __init__(self, app: Kyoukai, request: Request) -> None:
            super().__init__(app, request)
            self.made.append(self.parent)

        @property
        def user(self) -> str:
            return "me"

    app = Kyoukai(
        "test", request_class=MyRequest, response_class=MyResponse, context_class=MyContext
    )

    @app.route("/x")
    async def handler(ctx: Any) -> Any:
        assert ctx.require_resource(str) == "root"
        return [ctx.user, ctx.request.loud]

    @app.before_serving
    async def before(ctx: Context) -> None:
        ctx.add_resource("root")

    async with Client(app) as client:
        response = await client.get("/x")
    assert response.json() == ["me", "/X"]
    assert response.headers["X-Mine"] == "1"
    assert len(MyContext.made) == 1


@pytest.mark.parametrize("path", ["/", "/stream", "/missing", "/fails"])
async def test_server_and_powered_by(path: str) -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        return "x"

    @app.route("/stream")
    async def stream(ctx: HTTPRequestContext) -> AsyncIterator[str]:
        yield "x"

    raising(app, "/fails", ValueError)
    for setting, expected in ((None, None), ("Mine/1", "Mine/1")):
        async with Client(app, server_header=setting) as client:
            response = await client.get(path)
            assert response.headers.get("Server") == expected
            assert "X-Powered-By" not in response.headers
            assert "Date" in response.headers
    async with Client(app) as client:
        assert (await client.get(path)).headers["Server"].startswith("Kyoukai")


async def test_the_applications_configuration() -> None:
    app = Kyoukai("test", debug=True, answer=42)
    assert app.config == {"debug": True, "answer": 42}
    assert app.debug
    assert repr(app) == "<Kyoukai 'test'>"


async def test_routes_may_be_added_while_serving() -> None:
    app = Kyoukai("test")

    async def late(ctx: HTTPRequestContext) -> str:
        return "late"

    async with Client(app) as client:
        assert (await client.get("/late")).status == 404
        app.add_route(app.wrap_route(late), "/late")
        assert (await client.get("/late")).text == "late"


async def test_the_test_application() -> None:
    app = Kyoukai("test", answer=42)

    @app.route("/<name>", methods=["POST"])
    async def handler(ctx: HTTPRequestContext, name: str) -> Any:
        return [name, ctx.request.headers["X-A"], ctx.request.get_data(as_text=True)]

    test_app = TestKyoukai.wrap_existing_app(app)
    assert test_app.config["answer"] == 42
    response = await test_app.inject_request({"X-A": "1"}, "/me?q=1", "POST", "body")
    assert response.json == ["me", "1", "body"]
    with test_app.testing_bp() as bp:

        @bp.route("/only")
        async def only(ctx: HTTPRequestContext) -> str:
            return "here"

        assert (await test_app.inject_request({}, "/only")).get_data() == b"here"
        assert (await test_app.inject_request({}, "/me", "POST")).status_code == 404
    assert (await test_app.inject_request({}, "/only")).status_code == 405


async def test_a_server_serves_an_interface() -> None:
    async def interface(stream: Any) -> None:
        await stream.send_response(200, [(b"x-a", b"1")], b"raw")

    async with MemoryServer(interface) as server:
        connection = server.connect()
        connection.request("GET", "/")
        assert (await connection.response()).text == "raw"
