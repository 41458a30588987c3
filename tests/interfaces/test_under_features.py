"""What a Kyoukai application can do below an ASGI server, and below a WSGI server: the same."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from asphalt.core import Component, Context, context_teardown, resource
from under_ways import AsgiWay, WsgiWay

from kyoukai import HTTPRequestContext, Kyoukai, Middleware, Resource, Response
from kyoukai.exceptions import ExpectingNoResponse, KyoukaiError, StreamError
from kyoukai.mount import Mount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from under_ways import Answer

Way = type[AsgiWay] | type[WsgiWay]


@pytest.fixture(params=(AsgiWay, WsgiWay), ids=("asgi", "wsgi"))
def way(request: pytest.FixtureRequest) -> Way:
    kind: Way = request.param
    return kind


@dataclass
class Database:
    closed: bool = False


class DatabaseComponent(Component):
    def __init__(self, log: list[str]) -> None:
        self.log = log

    @context_teardown
    async def start(self, ctx: Context) -> AsyncIterator[None]:
        database = Database()
        ctx.add_resource(database)
        self.log.append("database")
        yield
        database.closed = True
        self.log.append("no database")


def make_app() -> Kyoukai:
    app = Kyoukai("features")

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        return "Hello, world!"

    @app.route("/users/<int:number>")
    async def user(ctx: HTTPRequestContext, number: int) -> dict[str, Any]:
        return {"id": number, "q": ctx.request.args.get("q")}

    @app.route("/echo", methods=["POST"])
    async def echo(ctx: HTTPRequestContext) -> bytes:
        return ctx.request.get_data()

    @app.route("/form", methods=["POST"])
    async def form(ctx: HTTPRequestContext) -> dict[str, Any]:
        upload = ctx.request.files["file"]
        return {"name": ctx.request.form["name"], "size": len(upload.read())}

    @app.route("/count", methods=["POST"], stream=True, max_body_size=1 << 30)
    async def count(ctx: HTTPRequestContext) -> dict[str, int]:
        size = 0
        async for chunk in ctx.request.chunks():
            size += len(chunk)
        return {"size": size}

    @app.route("/both", methods=["POST"], stream=True)
    async def both(ctx: HTTPRequestContext) -> Response:
        async def shout() -> AsyncIterator[bytes]:
            yield b"<"
            async for chunk in ctx.request.chunks():
                yield chunk.upper()
            yield b">"

        return Response(shout())

    @app.route("/letters")
    async def letters(ctx: HTTPRequestContext) -> AsyncIterator[str]:
        for letter in "abc":
            yield letter

    @app.route("/threads", methods=["GET", "POST"])
    def threads(ctx: HTTPRequestContext) -> Iterator[str]:
        assert threading.current_thread() is not threading.main_thread()
        yield ctx.request.method
        yield threading.current_thread().name.partition("-")[0]

    @app.route("/cookies")
    async def cookies(ctx: HTTPRequestContext) -> Response:
        response = Response(json.dumps(dict(ctx.request.cookies)))
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    @app.route("/urls/<path:rest>")
    async def urls(ctx: HTTPRequestContext, rest: str) -> dict[str, Any]:
        request = ctx.request
        return {
            "path": request.path,
            "root_path": request.root_path,
            "rest": rest,
            "url": request.url,
            "for": ctx.url_for("urls", rest="x"),
            "uri": request.environ["REQUEST_URI"],
            "client": request.remote_addr,
        }

    @app.route("/headers")
    async def headers(ctx: HTTPRequestContext) -> dict[str, str]:
        return dict(ctx.request.headers)

    @app.route("/nothing")
    async def nothing(ctx: HTTPRequestContext) -> tuple[str, int]:
        return "", 204

    @app.route("/hop")
    async def hop(ctx: HTTPRequestContext) -> Response:
        return Response(
            "x", headers={"Connection": "close", "Keep-Alive": "timeout=1", "X-Kept": "y"}
        )

    @app.route("/fails")
    async def fails(ctx: HTTPRequestContext) -> str:
        raise LookupError("not like this")

    @app.route("/illegal")
    async def illegal(ctx: HTTPRequestContext) -> Response:
        response = Response("x")
        response.headers.extend([("X-Bad", "a\x01b")])
        return response

    return app


def text_of(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.body.decode()


async def test_routes_and_errors(way: Way) -> None:
    async with way(make_app()) as server:
        assert text_of(await server.ask()) == (200, "Hello, world!")
        answer = await server.ask("GET", "/users/7?q=a%20b")
        assert answer.headers["Content-Type"] == "application/json"
        assert json.loads(answer.body) == {"id": 7, "q": "a b"}
        assert (await server.ask("GET", "/users/seven")).status == 404
        refused = await server.ask("GET", "/echo")
        assert refused.status == 405
        assert refused.headers["Allow"] == "OPTIONS, POST"
        assert (await server.ask("OPTIONS", "/echo")).headers["Allow"] == "OPTIONS, POST"
        assert (await server.ask("OPTIONS", "/echo")).status == 204


async def test_answers_without_a_body(way: Way) -> None:
    async with way(make_app()) as server:
        head = await server.ask("HEAD", "/")
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "13")
        streamed = await server.ask("HEAD", "/letters")
        assert (streamed.status, streamed.body) == (200, b"")
        assert "Content-Length" not in streamed.headers
        nothing = await server.ask("GET", "/nothing")
        assert (nothing.status, nothing.body) == (204, b"")
        assert "Content-Length" not in nothing.headers


async def test_headers_that_are_the_servers_are_left_to_it(way: Way) -> None:
    async with way(make_app()) as server:
        answer = await server.ask("GET", "/hop")
        assert {name.lower() for name, _ in answer.headers} == {
            "content-type",
            "content-length",
            "x-kept",
        }


async def test_bodies(way: Way) -> None:
    async with way(make_app()) as server:
        big = bytes(range(256)) * 2000
        assert (await server.ask("POST", "/echo", body=big)).body == big
        assert (await server.ask("POST", "/echo")).body == b""
        counted = await server.ask("POST", "/count", body=b"x" * 1_000_003)
        assert json.loads(counted.body) == {"size": 1_000_003}
        assert (await server.ask("POST", "/both", body=b"abc" * 60000)).body == (
            b"<" + b"ABC" * 60000 + b">"
        )


async def test_a_form_with_a_file(way: Way) -> None:
    parts = (
        '--X\r\nContent-Disposition: form-data; name="name"\r\n\r\nAda\r\n'
        '--X\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        f"{'x' * 200000}\r\n--X--\r\n"
    )
    kind = {"Content-Type": "multipart/form-data; boundary=X"}
    async with way(make_app()) as server:
        answer = await server.ask("POST", "/form", headers=kind, body=parts.encode())
        assert json.loads(answer.body) == {"name": "Ada", "size": 200000}


async def test_a_body_that_is_too_large_is_refused(way: Way) -> None:
    async with way(make_app(), max_body_size=1000) as server:
        assert (await server.ask("POST", "/echo", body=b"x" * 1001)).status == 413
        assert (await server.ask("POST", "/echo", body=b"x" * 1000)).status == 200
        assert (await server.ask("POST", "/count", body=b"x" * 1001)).status == 200


async def test_streamed_answers_come_in_their_pieces(way: Way) -> None:
    async with way(make_app()) as server:
        assert (await server.ask("GET", "/letters")).pieces == [b"a", b"b", b"c"]
        assert (await server.ask("GET", "/threads")).body == b"GETkyoukai"


async def test_cookies(way: Way) -> None:
    async with way(make_app()) as server:
        answer = await server.ask("GET", "/cookies", headers={"Cookie": "x=1; y=2"})
        assert json.loads(answer.body) == {"x": "1", "y": "2"}
        assert answer.headers.getlist("Set-Cookie") == ["a=1; Path=/", "b=2; Path=/"]


async def test_urls_below_a_prefix(way: Way) -> None:
    async with way(make_app()) as server:
        answer = await server.ask("GET", "/urls/a%2Fb%20c?q=1", root_path="/pre")
        assert json.loads(answer.body) == {
            "path": "/urls/a/b c",
            "root_path": "/pre",
            "rest": "a/b c",
            "url": "http://example.com/pre/urls/a/b%20c?q=1",
            "for": "/pre/urls/x",
            "uri": "/pre/urls/a%2Fb%20c?q=1",
            "client": "192.0.2.1",
        }


async def test_a_prefix_of_the_settings(way: Way) -> None:
    async with way(make_app(), root_path="/pre") as server:
        answer = json.loads((await server.ask("GET", "/urls/x")).body)
        assert (answer["path"], answer["for"]) == ("/urls/x", "/pre/urls/x")


async def test_the_host_and_forwarding_headers_follow_our_rules(way: Way) -> None:
    forwarded = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}
    async with way(make_app()) as server:
        headers = json.loads((await server.ask("GET", "/headers", headers=forwarded)).body)
        assert headers == {"Host": "example.com"}
    async with way(make_app(), trusted_proxies=["192.0.2.0/24"]) as server:
        answer = json.loads((await server.ask("GET", "/urls/x", headers=forwarded)).body)
        assert (answer["client"], answer["url"]) == ("198.51.100.7", "https://example.com/urls/x")


async def test_an_error_is_a_500_and_a_line_in_the_log(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    async with way(make_app()) as server:
        assert (await server.ask("GET", "/fails")).status == 500
        assert "not like this" in caplog.text
        caplog.clear()
        assert (await server.ask("GET", "/illegal")).status == 500
        assert "X-Bad" in caplog.text


async def test_hooks_middlewares_resources_and_the_contexts_end(way: Way) -> None:
    log: list[str] = []

    class Around(Middleware):
        async def process_request(self, ctx: HTTPRequestContext) -> None:
            log.append("in")

        async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
            response.headers["X-Around"] = "yes"

    class Things(Resource):
        async def on_get(self, ctx: HTTPRequestContext) -> str:
            ctx.add_teardown_callback(lambda: log.append("closed"))
            return "things"

    app = Kyoukai("steps", middleware=Around())
    app.add_resource("/things", Things())

    @app.before_request
    async def before(ctx: HTTPRequestContext) -> None:
        log.append("before")

    @app.after_request
    async def after(ctx: HTTPRequestContext, response: Response) -> Response:
        log.append("after")
        return response

    async with way(app) as server:
        answer = await server.ask("GET", "/things")
        assert (answer.body, answer.headers["X-Around"]) == (b"things", "yes")
    assert log == ["in", "before", "after", "closed"]


async def test_components_and_hooks_of_serving_run_once_and_in_order(way: Way) -> None:
    log: list[str] = []
    app = Kyoukai("life")
    app.add_component("database", DatabaseComponent, log=log)
    kept: list[Database] = []
    tasks: list[Any] = []

    @app.before_serving
    async def before(ctx: Context) -> None:
        assert ctx.require_resource(Kyoukai, "life") is ctx.require_resource(Kyoukai) is app
        kept.append(ctx.require_resource(Database))
        ctx.add_teardown_callback(lambda: tasks.append(asyncio.current_task()))
        tasks.append(asyncio.current_task())
        log.append("before")

    @app.while_serving
    async def during(ctx: Context) -> AsyncIterator[None]:
        log.append("begin")
        yield
        log.append("end")

    @app.after_serving
    async def after(ctx: Context) -> None:
        assert not ctx.require_resource(Database).closed
        log.append("after")

    @app.route("/")
    async def index(ctx: HTTPRequestContext, database: Database = resource()) -> str:
        assert database is kept[0]
        return f"closed: {database.closed}"

    async with way(app) as server:
        answers = await asyncio.gather(*[server.ask() for _ in range(8)])
        assert {answer.body for answer in answers} == {b"closed: False"}
        assert log == ["database", "before", "begin"]
    assert log == ["database", "before", "begin", "end", "after", "no database"]
    assert tasks[0] is tasks[1], "the context ends in the task that has opened it"


async def test_what_is_mounted_is_served_and_started(way: Way) -> None:
    log: list[str] = []
    inner = Kyoukai("inner")

    @inner.route("/where")
    async def where(ctx: HTTPRequestContext) -> str:
        return f"{ctx.request.root_path}|{ctx.request.path}"

    @inner.before_serving
    async def before(ctx: Context) -> None:
        log.append("inner")

    app = make_app()
    app.mount("/inner", inner)
    assert isinstance(app.mounts[0], Mount)
    async with way(app) as server:
        assert (await server.ask("GET", "/inner/where")).body == b"/inner|/where"
        assert (await server.ask("GET", "/inner/where", root_path="/pre")).body == (
            b"/pre/inner|/where"
        )
        assert (await server.ask()).body == b"Hello, world!"
    assert log == ["inner"]


async def test_a_handler_that_ignores_its_body_answers(way: Way) -> None:
    async with way(make_app()) as server:
        assert (await server.ask("POST", "/threads", body=b"x" * 400000)).body == b"POSTkyoukai"


async def echo_asgi(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def test_limits_of_a_mount_hold(way: Way) -> None:
    app = make_app()
    app.mount("/asgi", echo_asgi, interface="asgi", max_body_size=1000)
    async with way(app) as server:
        assert (await server.ask("POST", "/asgi", body=b"x" * 1000)).body == b"x" * 1000
        assert (await server.ask("POST", "/asgi", body=b"x" * 1001)).status == 413


async def test_a_handler_that_takes_the_connection_over_and_says_nothing(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    app = Kyoukai("silent")

    @app.route("/")
    async def silent(ctx: HTTPRequestContext) -> str:
        raise ExpectingNoResponse

    @app.route("/half")
    async def half(ctx: HTTPRequestContext) -> str:
        assert ctx.request.state is not None
        ctx.request.state.send_head(200, [(b"content-type", b"text/plain")])
        raise ExpectingNoResponse

    async with way(app) as server:
        assert (await server.ask()).status == 500
        assert "the application sent no answer" in caplog.text
        with pytest.raises(StreamError, match="not whole|must close"):
            await server.ask("GET", "/half")
        assert "the application did not end its answer" in caplog.text


async def test_two_applications_of_one_name_are_refused(way: Way) -> None:
    app = make_app()
    app.mount("/twin", make_app())
    server = way(app)
    with pytest.raises((AssertionError, KyoukaiError), match="two applications are called"):
        async with server:
            await server.ask()


async def test_requests_leave_nothing_to_the_collector(way: Way) -> None:
    """Garbage in cycles waits for the collector, whose work delays all requests."""
    async with way(make_app()) as server:

        async def some() -> None:
            assert (await server.ask()).status == 200
            assert (await server.ask("GET", "/letters")).body == b"abc"
            assert (await server.ask("POST", "/count", body=b"x" * 200000)).status == 200

        await some()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await some()
            gc.collect()
            left = [each for each in gc.garbage if type(each).__module__.startswith("kyoukai")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert left == []
