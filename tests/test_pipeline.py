"""The pipeline: its steps, streamed answers, threads, and what happens when the client leaves."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from streams import request_bytes
from werkzeug.exceptions import Conflict

from kyoukai import HTTPRequestContext, Kyoukai, Request, Response, ServerConfig, TestKyoukai
from kyoukai.exceptions import PeerGone
from kyoukai.pipeline import RequestPipeline
from kyoukai.testing import Client, MemoryServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from asphalt.core import Context

    from kyoukai.stream import StreamState
    from kyoukai.testing import ClientResponse

variable: ContextVar[str] = ContextVar("variable", default="unset")


def small_app(**options: Any) -> Kyoukai:
    app = Kyoukai("test", **options)

    @app.route("/", methods=["GET", "POST"])
    async def index(ctx: HTTPRequestContext) -> str:
        return "hello"

    return app


# -- The steps ---------------------------------------------------------------------------------

CALLS: list[str] = []


class OwnCall(RequestPipeline):
    async def __call__(self, stream: StreamState) -> Request:
        CALLS.append("__call__")
        request = await super().__call__(stream)
        CALLS.append(request.path)
        return request


class OwnRequest(RequestPipeline):
    async def get_request(self, stream: StreamState) -> Request:
        CALLS.append("get_request")
        request = await super().get_request(stream)
        request.path = "/other"
        return request


class OwnStart(RequestPipeline):
    async def start_response(self, request: Request, response: Any = None) -> None:
        CALLS.append("start_response")
        if request.path == "/answered":
            response = Response("answered early")
        await super().start_response(request, response)


class OwnGet(RequestPipeline):
    async def get_response(self, request: Request) -> Any:
        CALLS.append("get_response")
        response = await super().get_response(request)
        response.headers["X-Own"] = "1"
        return response


class OwnFailsafe(RequestPipeline):
    async def produce_final_response_failsafe(
        self, request: Request, producer: Any, processor: Any = None
    ) -> Any:
        CALLS.append("failsafe")

        async def mark(response: Response) -> Response:
            response.headers["X-Own"] = "1"
            return response

        return await super().produce_final_response_failsafe(request, producer, mark)


class OwnApply(RequestPipeline):
    async def apply_middlewares_to_response(self, response: Any, request: Request) -> Any:
        CALLS.append("apply")
        response.headers["X-Own"] = request.path
        return response


class OwnFinalize(RequestPipeline):
    async def finalize_response(self, response: Any, request: Request | None = None) -> Any:
        CALLS.append("finalize")
        response.headers["X-Own"] = "1"
        return response


class OwnSend(RequestPipeline):
    async def send_response(
        self,
        response: Any,
        stream: StreamState,
        request: Request | None = None,
        disable_logging: bool = False,
    ) -> None:
        CALLS.append("send")
        response.headers["X-Own"] = "1"
        await super().send_response(response, stream, request, disable_logging)


async def get(app: Kyoukai, path: str = "/") -> ClientResponse:
    CALLS.clear()
    async with Client(app) as client:
        return await client.get(path)


async def test_own_call() -> None:
    response = await get(small_app(pipeline_class=OwnCall))
    assert response.text == "hello"
    assert CALLS == ["__call__", "/"]


async def test_own_request() -> None:
    app = small_app(pipeline_class=OwnRequest)

    @app.before_request
    async def hook(ctx: HTTPRequestContext) -> Any:
        return ctx.request.path

    response = await get(app)
    assert (response.text, CALLS) == ("/other", ["get_request"])


async def test_own_start() -> None:
    app = small_app(pipeline_class=OwnStart)
    assert (await get(app)).text == "hello"
    assert CALLS == ["start_response"]
    assert (await get(app, "/answered")).text == "answered early"
    assert CALLS == ["start_response"]


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [
        (OwnGet, "get_response"),
        (OwnFailsafe, "failsafe"),
        (OwnApply, "apply"),
        (OwnFinalize, "finalize"),
        (OwnSend, "send"),
    ],
)
@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/missing", 404)])
async def test_own_steps(pipeline: type, name: str, path: str, status: int) -> None:
    response = await get(small_app(pipeline_class=pipeline), path)
    assert (response.status, CALLS) == (status, [name])
    assert response.headers["X-Own"] == (path if name == "apply" else "1")


async def test_own_process_request() -> None:
    class App(Kyoukai):
        async def process_request(self, request: Request, parent_context: Any = None) -> Any:
            CALLS.append("process_request")
            response = await super().process_request(request, parent_context)
            response.headers["X-Own"] = "1"
            return response

    app = App("test")

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        return ctx.require_resource(str)

    @app.before_serving
    async def before(ctx: Context) -> None:
        ctx.add_resource("from the root")

    response = await get(app)
    assert (response.text, response.headers["X-Own"]) == ("from the root", "1")
    assert CALLS == ["process_request"]


@pytest.mark.parametrize("step", ["get_response", "apply_middlewares_to_response"])
async def test_a_failing_step_within_the_failsafe(
    step: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: Any, *args: Any) -> Any:
        raise ValueError("the step")

    pipeline = type("Failing", (RequestPipeline,), {step: fail})
    app = small_app(pipeline_class=pipeline)
    assert (await get(app)).status == 500
    assert "(GET '/') failed" in caplog.text
    assert "the step" in caplog.text
    response = await TestKyoukai.wrap_existing_app(app).inject_request({}, "/")
    assert response.status_code == 500


@pytest.mark.parametrize("step", ["finalize_response", "send_response", "start_response"])
async def test_a_failing_step_outside_of_it_is_logged_with_the_route(
    step: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("the step")

    pipeline = type("Failing", (RequestPipeline,), {step: fail})
    app = small_app(pipeline_class=pipeline)
    async with Client(app) as client:
        assert (await client.get("/")).status == 500
        assert (await client.get("/")).status == 500
    if step != "start_response":
        assert "index (GET '/') failed" in caplog.text


async def test_a_failing_processor_leaves_the_response_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Own(RequestPipeline):
        async def produce_final_response_failsafe(
            self, request: Request, producer: Any, processor: Any = None
        ) -> Any:
            async def fail(response: Any) -> Any:
                response.status_code = 299
                response.set_data("spoilt")
                raise ValueError("the processor")

            return await super().produce_final_response_failsafe(request, producer, fail)

    answer = await get(small_app(pipeline_class=Own))
    assert (answer.status, answer.text) == (200, "hello")
    assert "its response could not be processed" in caplog.text


async def test_logging_can_be_disabled(caplog: pytest.LogCaptureFixture) -> None:
    class Quiet(RequestPipeline):
        async def send_response(self, *args: Any, **kwargs: Any) -> None:
            await super().send_response(*args, **{**kwargs, "disable_logging": True})

    app = small_app(pipeline_class=Quiet)

    @app.after_request
    async def hook(ctx: HTTPRequestContext, response: Response) -> Any:
        return "x", {"X A": "1"}

    assert (await get(app)).status == 500
    assert not caplog.records


# -- The lean way and the full way -------------------------------------------------------------


async def two() -> AsyncIterator[str]:
    yield "a"
    yield "b"


HANDLED: dict[str, Any] = {
    "str": lambda: "h\u00e9",
    "empty": lambda: "",
    "bytes": lambda: b"x",
    "dict": lambda: {"a": 1},
    "list": lambda: [1],
    "None": lambda: None,
    "status": lambda: ("x", 201),
    "204 with a body": lambda: ("x", 204),
    "None and status": lambda: (None, 404),
    "headers": lambda: ("x", 200, {"X-A": "1"}),
    "Response": lambda: Response("x", 299),
    "iterator": lambda: iter("ab"),
    "async iterator": two,
    "wrong": object,
    "bad status": lambda: ("x", 99),
    "illegal": lambda: ("x", {"X-A": "\r\nX-B: 1"}),
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", HANDLED)
async def test_both_ways_answer_alike(
    name: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers = []
    logged = []
    for pipeline in (RequestPipeline, OwnCall):
        app = Kyoukai("test", pipeline_class=pipeline)

        async def handler(ctx: HTTPRequestContext) -> Any:
            return HANDLED[name]()

        app.route("/", endpoint="it")(handler)
        async with Client(app) as client:
            response = await client.request(method, "/")
        headers = sorted((key.lower(), value) for key, value in response.headers if key != "date")
        answers.append((response.status, headers, response.body))
        logged.append([record.getMessage() for record in caplog.records])
        caplog.clear()
    assert answers[0] == answers[1]
    assert logged[0] == logged[1]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/none"),
        ("PUT", "/"),
        ("OPTIONS", "/"),
        ("OPTIONS", "*"),
        ("GET", "//"),
        ("GET", "/f"),
    ],
)
async def test_both_ways_refuse_alike(method: str, path: str) -> None:
    answers = []
    for pipeline in (RequestPipeline, OwnCall):
        app = small_app(pipeline_class=pipeline)
        app.route("/f/", endpoint="f")(HANDLED["str"])
        async with Client(app) as client:
            response = await client.request(method, path)
        headers = sorted((key.lower(), value) for key, value in response.headers if key != "date")
        answers.append((response.status, headers, response.body))
    assert answers[0] == answers[1]


# -- Streamed answers --------------------------------------------------------------------------


class Chunks:
    """An iterator with a close method, which says where it was driven."""

    def __init__(self, *chunks: Any) -> None:
        self.chunks = iter(chunks)
        self.threads: set[str] = set()
        self.closed = 0

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> Any:
        self.threads.add(threading.current_thread().name)
        chunk = next(self.chunks)
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1


class AsyncChunks:
    """The same, asynchronous."""

    def __init__(self, *chunks: Any) -> None:
        self.chunks = iter(chunks)
        self.closed = 0

    def __aiter__(self) -> AsyncChunks:
        return self

    async def __anext__(self) -> Any:
        chunk = next(self.chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("kind", [Chunks, AsyncChunks])
@pytest.mark.parametrize("pipeline", [RequestPipeline, OwnCall])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 204, 304])
async def test_iterators_are_closed_once(
    kind: Any, pipeline: type, method: str, status: int
) -> None:
    source = kind("a", b"b")
    closed: list[str] = []
    app = Kyoukai("test", pipeline_class=pipeline)

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> Response:
        response = Response(source, status)
        response.call_on_close(lambda: closed.append("closed"))
        return response

    async with Client(app) as client:
        response = await client.request(method, "/")
        assert response.body == (b"ab" if method == "GET" and status == 200 else b"")
        assert (await client.get("/other")).status == 404
    assert source.closed == 1
    assert closed == ["closed"]
    if kind is Chunks:
        assert all(name.startswith("kyoukai-test") for name in source.threads)


async def test_call_on_close_of_a_whole_response() -> None:
    closed: list[str] = []
    app = Kyoukai("test")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> Response:
        response = Response(["a", "b"])
        response.call_on_close(lambda: closed.append("closed"))
        return response

    async with Client(app) as client:
        response = await client.get("/")
        assert response.text == "ab"
        assert response.headers["Content-Length"] == "2"
    assert closed == ["closed"]


@pytest.mark.parametrize("kind", [Chunks, AsyncChunks])
@pytest.mark.parametrize("pipeline", [RequestPipeline, OwnCall])
@pytest.mark.parametrize(
    "fault", [ValueError("broken"), SystemExit(1), 42, "too long for its length"], ids=repr
)
async def test_an_error_in_the_middle_resets_the_connection(
    fault: Any, kind: Any, pipeline: type, caplog: pytest.LogCaptureFixture
) -> None:
    source = kind("ab", fault)
    contexts: list[HTTPRequestContext] = []
    app = Kyoukai("test", pipeline_class=pipeline)

    @app.route("/", endpoint="streaming")
    async def handler(ctx: HTTPRequestContext) -> Any:
        contexts.append(ctx)
        return source, {"Content-Length": "9"}

    async with MemoryServer(app) as server:
        connection = server.connect()
        connection.request("GET", "/")
        with pytest.raises(ConnectionError):
            await connection.response()
        assert connection.transport.aborted
        await server.connections.wait_idle()
    assert source.closed == 1
    assert isinstance(contexts[0].exception, BaseException)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "route streaming (GET '/')" in errors[0].getMessage()


async def test_a_body_shorter_than_its_length_resets_the_connection() -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> Any:
        return iter(["a"]), {"Content-Length": "2"}

    async with MemoryServer(app) as server:
        connection = server.connect()
        connection.request("GET", "/")
        with pytest.raises(ConnectionError):
            await connection.response()


async def test_a_generator_sees_its_context_and_variables() -> None:
    from asphalt.core import current_context

    for pipeline in (RequestPipeline, OwnCall):
        app = Kyoukai("test", pipeline_class=pipeline)

        @app.route("/async")
        async def numbers(ctx: HTTPRequestContext) -> AsyncIterator[str]:
            yield str(current_context() is ctx)
            yield str(current_context() is ctx)

        @app.route("/sync")
        def more(ctx: HTTPRequestContext) -> Iterator[str]:
            token = variable.set("set")
            try:
                yield str(current_context() is ctx)
                yield variable.get()
            finally:
                variable.reset(token)

        async with Client(app) as client:
            assert (await client.get("/async")).text == "TrueTrue"
            assert (await client.get("/sync")).text == "Trueset"


# -- Heads, hints, trailers --------------------------------------------------------------------


async def test_early_hints() -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> str:
        await ctx.early_hints(["</a.css>; rel=preload", "</b.js>; rel=preload"])
        return "x"

    @app.route("/bad")
    async def bad(ctx: HTTPRequestContext) -> str:
        await ctx.early_hints(["a\r\nb"])
        return "x"

    async with Client(app) as client:
        response = await client.get("/")
        assert (response.status, response.text) == (200, "x")
        ((status, headers),) = response.informational
        assert status == 103
        assert headers.getlist("Link") == ["</a.css>; rel=preload", "</b.js>; rel=preload"]
        bad_response = await client.get("/bad")
        assert (bad_response.status, bad_response.informational) == (500, [])


@pytest.mark.parametrize("pipeline", [RequestPipeline, OwnCall])
async def test_trailers(pipeline: type) -> None:
    app = Kyoukai("test", pipeline_class=pipeline)

    @app.route("/whole")
    async def whole(ctx: HTTPRequestContext) -> str:
        ctx.trailers["X-Sum"] = "3"
        return "abc"

    @app.route("/late")
    async def late(ctx: HTTPRequestContext) -> AsyncIterator[str]:
        yield "abc"
        ctx.trailers["X-Sum"] = "late"

    @app.route("/sync")
    def sync(ctx: HTTPRequestContext) -> Iterator[str]:
        yield "abc"
        ctx.trailers["X-Sum"] = "sync"

    @app.route("/empty")
    async def empty(ctx: HTTPRequestContext) -> str:
        assert not ctx.trailers
        return "abc"

    async with Client(app) as client:
        for path, value in (("/whole", "3"), ("/late", "late"), ("/sync", "sync")):
            response = await client.get(path)
            assert (response.text, list(response.trailers)) == ("abc", [("X-Sum", value)])
        response = await client.get("/empty")
        assert (response.text, list(response.trailers)) == ("abc", [])
        assert response.headers["Content-Length"] == "3"


async def test_an_illegal_trailer_that_comes_before_the_head(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> str:
        ctx.trailers["Content-Length"] = "3"
        return "abc"

    async with Client(app) as client:
        response = await client.get("/")
        assert (response.status, list(response.trailers)) == (500, [])
        assert (await client.get("/")).status == 500
    assert "handler (GET '/'): its response cannot be sent" in caplog.text


async def test_an_illegal_trailer_resets_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> AsyncIterator[str]:
        yield "abc"
        ctx.trailers["Content-Length"] = "3"

    async with MemoryServer(app) as server:
        connection = server.connect()
        connection.request("GET", "/")
        with pytest.raises(ConnectionError):
            await connection.response()
    assert "handler (GET '/'): its response cannot be sent" in caplog.text


# -- Threads -----------------------------------------------------------------------------------


async def test_plain_functions_run_in_threads_with_the_context() -> None:
    app = Kyoukai("test")
    seen: list[tuple[str, str, str]] = []

    def note(what: str) -> None:
        seen.append((what, threading.current_thread().name[:12], variable.get()))

    @app.before_request
    async def first(ctx: HTTPRequestContext) -> None:
        variable.set("from the hook")

    @app.before_request
    def hook(ctx: HTTPRequestContext) -> None:
        note("hook")

    @app.after_request
    def after(ctx: HTTPRequestContext, response: Response) -> None:
        note("after")

    @app.errorhandler(409)
    def error(ctx: HTTPRequestContext, exc: Exception) -> str:
        note("error")
        return "conflict"

    @app.route("/")
    def handler(ctx: HTTPRequestContext) -> str:
        note("handler")
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return "x"

    @app.route("/fails")
    def fails(ctx: HTTPRequestContext) -> str:
        raise Conflict

    async with Client(app) as client:
        assert (await client.get("/")).text == "x"
        assert (await client.get("/fails")).status == 409
    assert seen == [
        (what, "kyoukai-test", "from the hook")
        for what in ("hook", "handler", "after", "hook", "error")
    ]
    assert variable.get() == "unset"


async def test_an_awaitable_from_a_plain_function_is_awaited() -> None:
    app = Kyoukai("test")

    async def answer() -> str:
        return "awaited"

    @app.route("/")
    def handler(ctx: HTTPRequestContext) -> Any:
        return answer()

    async with Client(app) as client:
        assert (await client.get("/")).text == "awaited"


@pytest.mark.parametrize("threads", [1, 3])
async def test_the_number_of_threads_is_a_setting(threads: int) -> None:
    assert ServerConfig().handler_threads == 16
    app = Kyoukai("test")
    barrier = threading.Barrier(threads)
    names: set[str] = set()

    @app.route("/")
    def handler(ctx: HTTPRequestContext) -> str:
        names.add(threading.current_thread().name)
        barrier.wait(10)  # all of them must run at once
        return "x"

    async with MemoryServer(app, handler_threads=threads) as server:
        connections = [server.connect() for _ in range(threads * 2)]
        for connection in connections:
            connection.request("GET", "/")
        for connection in connections:
            assert (await connection.response()).text == "x"
    assert len(names) == threads


# -- When the client is gone -------------------------------------------------------------------


class Watch:
    """Notes what becomes of a handler."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.events: list[str] = []

    async def wait(self) -> None:
        self.started.set()
        try:
            await self.go_on.wait()
            self.events.append("finished")
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise


async def leave(server: MemoryServer, watch: Watch, target: str = "/") -> Any:
    connection = server.connect()
    connection.request("GET", target)
    await watch.started.wait()
    connection.transport.lose()
    return connection


@pytest.mark.parametrize("pipeline", [RequestPipeline, OwnCall])
async def test_the_handler_is_cancelled_when_the_client_leaves(
    pipeline: type, caplog: pytest.LogCaptureFixture
) -> None:
    app, watch = Kyoukai("test", pipeline_class=pipeline), Watch()

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> str:
        ctx.add_teardown_callback(lambda exc: watch.events.append(type(exc).__name__), True)
        await watch.wait()
        return "not reached"

    async with MemoryServer(app) as server:
        await leave(server, watch)
        await server.connections.wait_idle()
    assert watch.events == ["cancelled", "CancelledError"]
    assert not caplog.records


async def test_a_handler_may_ask_not_to_be_cancelled() -> None:
    app, watch = Kyoukai("test"), Watch()

    @app.route("/", cancel_on_disconnect=False)
    async def handler(ctx: HTTPRequestContext) -> str:
        await watch.wait()
        ctx.add_teardown_callback(lambda: watch.events.append("torn down"))
        return "for nobody"

    async with MemoryServer(app) as server:
        await leave(server, watch)
        watch.go_on.set()
        await server.connections.wait_idle()
    assert watch.events == ["finished", "torn down"]


async def test_waiting_for_the_client_to_leave() -> None:
    app, watch = Kyoukai("test"), Watch()

    @app.route("/", cancel_on_disconnect=False)
    async def handler(ctx: HTTPRequestContext) -> str:
        watch.started.set()
        await ctx.disconnected()
        watch.events.append("disconnected")
        await ctx.disconnected()  # returns at once from now on
        return "for nobody"

    async with MemoryServer(app) as server:
        await leave(server, watch)
        await server.connections.wait_idle()
    assert watch.events == ["disconnected"]


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_streamed_answer_ends_when_the_client_leaves(cancel: bool) -> None:
    app, watch = Kyoukai("test"), Watch()

    @app.route("/", cancel_on_disconnect=cancel)
    async def handler(ctx: HTTPRequestContext) -> AsyncIterator[str]:
        ctx.add_teardown_callback(lambda: watch.events.append("torn down"))
        try:
            yield "first"
            await watch.wait()
            yield "second"
            watch.events.append("not reached")
        finally:
            watch.events.append("closed")

    async with MemoryServer(app) as server:
        await leave(server, watch)
        watch.go_on.set()
        await server.connections.wait_idle()
    assert watch.events == ["cancelled" if cancel else "finished", "closed", "torn down"]


@pytest.mark.parametrize("kind", ["generator", "async generator"])
async def test_a_reader_that_stops_and_leaves(kind: str) -> None:
    app = Kyoukai("test")
    events: list[str] = []

    async def agen(ctx: HTTPRequestContext) -> AsyncIterator[bytes]:
        try:
            while True:
                events.append("made")
                yield b"x" * 60_000
        finally:
            events.append("closed")

    def gen(ctx: HTTPRequestContext) -> Iterator[bytes]:
        try:
            while True:
                events.append("made")
                yield b"x" * 60_000
        finally:
            events.append("closed")

    app.route("/")(gen if kind == "generator" else agen)
    async with MemoryServer(app) as server:
        connection = server.connect()
        connection.transport.hold()
        connection.request("GET", "/")
        (protocol,) = server.connections.open
        while not protocol._write_waiters:
            await connection.transport.changed.wait()
            await asyncio.sleep(0)
        assert events == ["made", "made"]
        connection.transport.lose()
        await server.connections.wait_idle()
    assert events == ["made", "made", "closed"]


async def test_the_context_outlives_the_thread_of_a_cancelled_handler() -> None:
    app, watch = Kyoukai("test"), Watch()
    loop = asyncio.get_running_loop()
    release = threading.Event()

    @app.route("/")
    def handler(ctx: HTTPRequestContext) -> str:
        ctx.add_teardown_callback(lambda: watch.events.append("torn down"))
        loop.call_soon_threadsafe(watch.started.set)
        release.wait(10)
        watch.events.append("thread ends")
        return "for nobody"

    async with MemoryServer(app) as server:
        await leave(server, watch)
        loop.call_soon(release.set)
        await server.connections.wait_idle()
    assert watch.events == ["thread ends", "torn down"]


async def test_a_step_in_a_thread_ends_before_its_generator_is_closed() -> None:
    app, watch = Kyoukai("test"), Watch()
    loop = asyncio.get_running_loop()
    release = threading.Event()

    @app.route("/")
    def handler(ctx: HTTPRequestContext) -> Iterator[str]:
        ctx.add_teardown_callback(lambda: watch.events.append("torn down"))
        try:
            yield "first"
            loop.call_soon_threadsafe(watch.started.set)
            release.wait(10)
            watch.events.append("step ends")
            yield "second"
        finally:
            watch.events.append("closed")

    async with MemoryServer(app) as server:
        await leave(server, watch)
        loop.call_soon(release.set)
        await server.connections.wait_idle()
    assert watch.events == ["step ends", "closed", "torn down"]


async def test_a_client_that_leaves_during_its_body(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, watch = Kyoukai("test"), Watch()
    loop = asyncio.get_running_loop()
    opened: asyncio.Queue[Any] = asyncio.Queue()
    temporary_file = tempfile.TemporaryFile

    def open_and_tell(**options: Any) -> Any:
        file = temporary_file(**options)
        loop.call_soon_threadsafe(opened.put_nowait, file)
        return file

    monkeypatch.setattr("tempfile.TemporaryFile", open_and_tell)

    @app.route("/buffered", methods=["POST"])
    async def buffered(ctx: HTTPRequestContext) -> str:
        watch.events.append("not reached")
        return ""

    @app.route("/streaming", methods=["POST"], stream=True, cancel_on_disconnect=False)
    async def streaming(ctx: HTTPRequestContext) -> str:
        watch.started.set()
        try:
            await ctx.request.read_async()
        except PeerGone:
            watch.events.append("peer gone")
            raise
        return ""

    async with MemoryServer(app, body_spool_size=1000) as server:
        other = server.connect()
        other.send(request_bytes("/streaming", "Content-Length: 5", method="POST") + b"12")
        await watch.started.wait()
        other.transport.lose()
        connection = server.connect()
        connection.send(request_bytes("/buffered", "Content-Length: 500000", method="POST"))
        for _ in range(10):
            connection.send(b"x" * 40_000)
        spooled = await opened.get()
        connection.transport.lose()
        await server.connections.wait_idle()
    assert spooled.closed
    assert watch.events == ["peer gone"]
    assert not caplog.records


async def test_pipelined_requests_share_no_context_variables() -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> Any:
        before = variable.get()
        variable.set("secret")
        return before

    async with MemoryServer(app) as server:
        connection = server.connect()
        connection.send(request_bytes() * 3)
        assert [(await connection.response()).text for _ in range(3)] == ["unset"] * 3
