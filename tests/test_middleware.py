"""Middlewares: their order, who answers, what fails, and which responses they see."""

# ruff: noqa: A002 - what handlers look like

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from streams import request_bytes
from werkzeug.exceptions import Forbidden

from kyoukai import (
    Blueprint,
    HTTPRequestContext,
    Kyoukai,
    Middleware,
    Resource,
    Response,
    RouteGroup,
    TestKyoukai,
    WebSocket,
    WebSocketContext,
)
from kyoukai.exceptions import ExpectingNoResponse, PeerGone, RouteError
from kyoukai.middleware import Bound
from kyoukai.pipeline import RequestPipeline
from kyoukai.routegroup import get_rg_bp
from kyoukai.routegroup import route as group_route
from kyoukai.stream import CLOSED
from kyoukai.testing import Client, MemoryServer, WebSocketDenied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from kyoukai.testing import ClientResponse

STAGES = ("request", "resource", "response")


class Watch(Middleware):
    """Notes its calls; at one stage it does something of its own."""

    def __init__(
        self, name: str, log: list[str], stage: str = "", action: Callable[[], Any] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self.stage = stage
        self.action = action

    def note(self, stage: str) -> Any:
        self.log.append(f"{self.name} {stage}")
        if stage == self.stage and self.action is not None:
            return self.action()
        return None

    async def process_request(self, ctx: HTTPRequestContext) -> Any:
        return self.note("request")

    async def process_resource(
        self, ctx: HTTPRequestContext, resource: Any, params: dict[str, Any]
    ) -> Any:
        return self.note("resource")

    async def process_response(self, ctx: HTTPRequestContext, response: Any) -> Any:
        return self.note("response")


def fail() -> Any:
    raise ValueError("the middleware")


def forbid() -> Any:
    raise Forbidden("the middleware")


async def ask(app: Kyoukai, path: str = "/", method: str = "GET", **options: Any) -> ClientResponse:
    async with Client(app) as client:
        return await client.request(method, path, **options)


def three(log: list[str], stage: str = "", action: Callable[[], Any] | None = None) -> Kyoukai:
    """An application with middlewares a, b and c, of which b does something at a stage."""
    app = Kyoukai("test", middleware=[Watch("a", log), Watch("b", log, stage, action)])
    app.add_middleware(Watch("c", log))

    @app.route("/", methods=["GET", "POST"])
    async def index(ctx: HTTPRequestContext) -> str:
        log.append("handler")
        return "hello"

    @app.before_request
    async def before(ctx: HTTPRequestContext) -> None:
        log.append("before")

    @app.after_request
    async def after(ctx: HTTPRequestContext, response: Response) -> None:
        log.append("after")

    return app


ON_THE_WAY_IN = ["a request", "b request", "c request", "a resource", "b resource", "c resource"]
ON_THE_WAY_OUT = ["c response", "b response", "a response"]


# -- Order -------------------------------------------------------------------------------------


async def test_order() -> None:
    log: list[str] = []
    response = await ask(three(log))
    assert (response.status, response.text) == (200, "hello")
    assert log == [*ON_THE_WAY_IN, "before", "handler", "after", *ON_THE_WAY_OUT]


async def test_order_with_blueprints() -> None:
    log: list[str] = []
    app = Kyoukai("test")
    outer = Blueprint("outer", prefix="/outer")
    inner = Blueprint("inner", outer, "/inner")
    other = Blueprint("other", prefix="/other")
    for name, blueprint in (("in", inner), ("out", outer), ("other", other)):
        assert blueprint.add_middleware(Watch(name, log)).name == name
    app.register_blueprint(outer)
    app.register_blueprint(other)
    app.add_middleware(Watch("root", log))

    @inner.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        log.append("handler")
        return "inner"

    @outer.route("/")
    async def outer_index(ctx: HTTPRequestContext) -> str:
        return "outer"

    assert (await ask(app, "/outer/inner/")).text == "inner"
    assert log == [
        *("root request", "out request", "in request"),
        *("root resource", "out resource", "in resource"),
        "handler",
        *("in response", "out response", "root response"),
    ]
    log.clear()
    assert (await ask(app, "/outer/")).text == "outer"
    assert [entry.partition(" ")[0] for entry in log if "response" in entry] == ["out", "root"]
    log.clear()
    # Without a match no blueprint is known.
    assert (await ask(app, "/outer/missing")).status == 404
    assert log == ["root request", "root response"]


async def test_what_the_steps_see() -> None:
    seen: list[Any] = []

    class Look(Middleware):
        async def process_request(self, ctx: HTTPRequestContext) -> None:
            seen.append((ctx.route, ctx.params, ctx.request.path))

        async def process_resource(
            self, ctx: HTTPRequestContext, resource: Any, params: dict[str, Any]
        ) -> None:
            assert ctx.route is not None
            assert ctx.params is params
            seen.append((resource, dict(params)))
            params["id"] += 1

        async def process_response(
            self, ctx: HTTPRequestContext, response: Response
        ) -> Response | None:
            seen.append((ctx.route is None, response.status_code))
            response.headers["X-Seen"] = "yes"
            return None

    app = Kyoukai("test", middleware=Look())

    async def user(ctx: HTTPRequestContext, id: int) -> Any:
        assert ctx.params == {"id": id}
        return {"id": id}

    app.route("/users/<int:id>")(user)
    response = await ask(app, "/users/12")
    assert response.json() == {"id": 13}
    assert response.headers["X-Seen"] == "yes"
    assert seen == [(None, {}, "/users/12"), (user, {"id": 12}), (False, 200)]


async def test_a_middleware_may_give_arguments_that_the_path_lacks() -> None:
    class Give(Middleware):
        async def process_resource(
            self, ctx: HTTPRequestContext, resource: Any, params: dict[str, Any]
        ) -> None:
            params["user"] = "Ada"

    app = Kyoukai("test", middleware=[Give()])

    @app.route("/")
    async def index(ctx: HTTPRequestContext, user: str) -> str:
        return user

    async with Client(app) as client:
        for _ in range(2):  # nothing of one request is left to the next
            assert (await client.get("/")).text == "Ada"


async def test_the_resource_of_each_kind_of_handler() -> None:
    seen: list[Any] = []

    class Look(Middleware):
        async def process_resource(
            self, ctx: HTTPRequestContext, resource: Any, params: dict[str, Any]
        ) -> None:
            seen.append(resource)

    class Group(RouteGroup):
        @group_route("/group")
        async def show(self, ctx: HTTPRequestContext) -> str:
            return "group"

        @staticmethod
        @group_route("/static")
        async def static(ctx: HTTPRequestContext) -> str:
            return "static"

    class Thing(Resource):
        async def on_get(self, ctx: HTTPRequestContext) -> str:
            return "thing"

    class Plain:
        async def method(self, ctx: HTTPRequestContext) -> str:
            return "method"

    app = Kyoukai("test", middleware=[Look()])
    group, thing, plain = Group(), Thing(), Plain()
    app.add_route_group(group)
    app.add_resource("/thing", thing)
    app.add_route(app.wrap_route(plain.method), "/method")
    async with Client(app) as client:
        for path in ("group", "static", "thing", "method"):
            assert (await client.get(f"/{path}")).text == path
    assert seen == [group, group, thing, plain]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/missing", 404),
        ("PUT", "/", 405),
        ("GET", "/folder", 308),
        ("OPTIONS", "*", 204),
    ],
)
async def test_responses_without_a_route(method: str, path: str, status: int) -> None:
    log: list[str] = []
    app = three(log)

    @app.route("/folder/")
    async def folder(ctx: HTTPRequestContext) -> str:
        return "folder"

    response = await ask(app, path, method)
    assert response.status == status
    assert log == [*ON_THE_WAY_IN[:3], *ON_THE_WAY_OUT]


async def test_automatic_answers_to_options_and_head() -> None:
    log: list[str] = []
    app = three(log)
    response = await ask(app, method="OPTIONS")
    assert (response.status, response.headers["Allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert log == [*ON_THE_WAY_IN, *ON_THE_WAY_OUT]
    log.clear()
    response = await ask(app, method="HEAD")
    assert (response.status, response.body) == (200, b"")
    assert log == [*ON_THE_WAY_IN, "before", "handler", "after", *ON_THE_WAY_OUT]


async def test_the_body_is_read_after_process_resource() -> None:
    states: list[bool] = []

    class Look(Middleware):
        async def process_request(self, ctx: HTTPRequestContext) -> None:
            states.append(ctx.request.state.receiving is CLOSED)

        async def process_resource(
            self, ctx: HTTPRequestContext, resource: Any, params: dict[str, Any]
        ) -> None:
            states.append(ctx.request.state.receiving is CLOSED)
            arrived.set()

    arrived = asyncio.Event()
    app = Kyoukai("test", middleware=[Look()])

    @app.route("/", methods=["POST"])
    async def index(ctx: HTTPRequestContext) -> str:
        return ctx.request.get_data(as_text=True)

    async with MemoryServer(app) as server:
        connection = server.connect()
        data = request_bytes(method="POST", body=b"body")
        connection.send(data[:-2])
        await arrived.wait()
        connection.send(data[-2:])
        assert (await connection.response()).text == "body"
    assert states == [False, False]


class Reader:
    """Reads the body, and notes how much it got."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    async def read(self, ctx: HTTPRequestContext, *rest: Any) -> None:
        self.sizes.append(0)
        size = 0
        while chunk := await ctx.request.read_async(to_end=False):
            size += len(chunk)
        self.sizes[-1] = size


class RequestReader(Reader):
    process_request = Reader.read


class ResourceReader(Reader):
    process_resource = Reader.read


async def read_by(middleware: type[Reader], below: bool, path: str, size: int) -> Any:
    """Return the status, and what a middleware could read; the server's limit is 1,000 bytes."""
    sizes: list[int] = []
    app = Kyoukai("test")
    api = Blueprint("api", app.root)
    (api if below else app).add_middleware(middleware(sizes))

    async def index(ctx: HTTPRequestContext) -> str:
        return "index"

    for limit in (10, None):
        options = {"endpoint": f"{limit}", "max_body_size": limit, "stream": True}
        api.route(f"/{limit}", methods=["POST"], **options)(index)
    async with Client(app, max_body_size=1000) as client:
        response = await client.post(path, chunks=[b"x" * min(size, 1024)] * max(size // 1024, 1))
    return response.status, sizes


MUCH = 1 << 20


@pytest.mark.parametrize(
    ("path", "size", "status", "sizes"),
    [
        ("/10", 10, 200, [10]),
        ("/10", MUCH, 413, [0]),
        ("/None", MUCH, 200, [MUCH]),
        ("/missing", 10, 404, []),
    ],
)
@pytest.mark.parametrize(
    ("middleware", "below"),
    [(ResourceReader, False), (ResourceReader, True), (RequestReader, True)],
)
async def test_a_body_read_after_the_match(
    middleware: type[Reader], below: bool, path: str, size: int, status: int, sizes: list[int]
) -> None:
    """The route's limit holds."""
    assert await read_by(middleware, below, path, size) == (status, sizes)


@pytest.mark.parametrize(
    ("path", "size", "status", "sizes"),
    [
        ("/10", 10, 200, [10]),
        ("/10", 11, 413, [11]),
        ("/None", MUCH, 413, [0]),
        ("/missing", 10, 404, [10]),
        ("/missing", MUCH, 413, [0]),
    ],
)
async def test_a_body_read_before_the_match(
    path: str, size: int, status: int, sizes: list[int]
) -> None:
    """The server's limit holds, because no route has one yet."""
    assert await read_by(RequestReader, False, path, size) == (status, sizes)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_passes_the_middlewares(chunked: bool) -> None:
    log: list[str] = []
    app = three(log)
    async with Client(app, max_body_size=3) as client:
        body = {"chunks": [b"body"]} if chunked else {"body": "body"}
        response = await client.post("/", **body)
    assert response.status == 413
    assert log == [*ON_THE_WAY_IN, *ON_THE_WAY_OUT]


# -- Answers and errors ------------------------------------------------------------------------


async def test_an_answer_to_the_request() -> None:
    log: list[str] = []
    response = await ask(three(log, "request", lambda: ({"from": "b"}, 203)), "/missing")
    assert (response.status, response.json()) == (203, {"from": "b"})
    assert log == ["a request", "b request", "b response", "a response"]


async def test_an_answer_to_the_resource() -> None:
    log: list[str] = []
    response = await ask(three(log, "resource", lambda: "from b"))
    assert (response.status, response.text) == (200, "from b")
    assert log == [*ON_THE_WAY_IN[:5], "b response", "a response"]


async def test_another_response() -> None:
    log: list[str] = []
    response = await ask(three(log, "response", lambda: ("instead", 201)))
    assert (response.status, response.text) == (201, "instead")
    assert log[-3:] == ON_THE_WAY_OUT


async def test_an_answer_of_a_blueprints_middleware() -> None:
    log: list[str] = []
    app = Kyoukai("test", middleware=[Watch("root", log)])
    api = Blueprint("api", app.root, "/api")
    api.add_middleware(Watch("api", log, "request", lambda: "from api"))
    api.add_middleware(Watch("inner", log))

    @api.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        return "not seen"

    assert (await ask(app, "/api/")).text == "from api"
    assert log == ["root request", "api request", "api response", "root response"]


@pytest.mark.parametrize("answer", ["", {}, []])
async def test_an_empty_answer_is_one(answer: Any) -> None:
    log: list[str] = []
    response = await ask(three(log, "request", lambda: answer))
    assert response.status == 200
    assert "handler" not in log


@pytest.mark.parametrize("action", [fail, forbid, object], ids=["fails", "forbids", "nonsense"])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_middleware_that_fails(
    stage: str, action: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    response = await ask(three(log, stage, action))
    if stage == "response":  # it is too late to answer otherwise
        assert (response.status, response.text) == (200, "hello")
        assert "test_middleware.Watch object" in caplog.text
        assert log[-3:] == ON_THE_WAY_OUT
        return
    assert response.status == (403 if action is forbid else 500)
    assert log == [
        *ON_THE_WAY_IN[: 2 if stage == "request" else 5],
        "b response",
        "a response",
    ]
    assert ("failed" in caplog.text) is (action is not forbid)


@pytest.mark.parametrize("stage", ["handler", "before", "after", "error handler"])
@pytest.mark.parametrize("action", [fail, forbid])
async def test_a_failure_further_in(stage: str, action: Callable[[], Any]) -> None:
    log: list[str] = []
    app = three(log)

    @app.route("/fails")
    async def fails(ctx: HTTPRequestContext) -> str:
        if stage in ("handler", "error handler"):
            action()
        return "not seen"

    @fails.before_request
    async def before(ctx: HTTPRequestContext) -> None:
        if stage == "before":
            action()

    @fails.after_request
    async def after(ctx: HTTPRequestContext, response: Response) -> None:
        if stage == "after":
            action()

    @app.errorhandler(403)
    @app.errorhandler(500)
    async def answer(ctx: HTTPRequestContext, error: Any) -> Any:
        if stage == "error handler":
            raise KeyError("the error handler")
        return f"answered {error.code}"

    response = await ask(app, "/fails")
    status = 500 if action is fail or stage == "error handler" else 403
    assert response.status == status
    if stage != "error handler":
        assert response.text == f"answered {status}"
    assert log[:6] == ON_THE_WAY_IN
    assert log[-3:] == ON_THE_WAY_OUT
    assert sum("response" in entry for entry in log) == 3


async def test_the_error_handler_of_a_blueprint_answers_for_its_middleware() -> None:
    app = Kyoukai("test")
    blueprint = Blueprint("api", prefix="/api")
    blueprint.add_middleware(Watch("api", [], "request", fail))
    app.register_blueprint(blueprint)

    @blueprint.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        return "not seen"

    @blueprint.errorhandler(ValueError)
    async def wrong(ctx: HTTPRequestContext, error: ValueError) -> Any:
        return {"error": str(error)}, 418

    response = await ask(app, "/api/")
    assert (response.status, response.json()) == (418, {"error": "the middleware"})


async def test_all_middlewares_fail_on_the_way_out(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    app = Kyoukai("test", middleware=[Watch(name, log, "response", fail) for name in "ab"])
    response = await ask(app)
    assert response.status == 404
    assert log == ["a request", "b request", "b response", "a response"]
    assert caplog.text.count("(GET '/'): process_response of") == 2
    assert caplog.text.count("ValueError: the middleware") == 2


async def test_a_client_that_left_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []

    def gone() -> None:
        raise PeerGone()

    app = Kyoukai("test", middleware=[Watch(name, log, "response", gone) for name in "ab"])
    assert (await ask(app)).status == 404
    assert log[2:] == ["b response", "a response"]
    assert not caplog.records


async def test_a_middleware_that_is_cancelled_on_the_way_out() -> None:
    log: list[str] = []

    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        raise asyncio.CancelledError

    app = TestKyoukai("test", middleware=[Watch(name, log, "response", cancel) for name in "ab"])
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(app.inject_request({}, "/"))
    assert log[2:] == ["b response"]


@pytest.mark.parametrize("where", ["request", "response"])
async def test_the_cancellation_of_something_else_is_an_error(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []

    def cancel() -> None:  # by awaiting what was cancelled, such as a fetch that many share
        raise asyncio.CancelledError

    app = Kyoukai("test", middleware=[Watch(name, log, where, cancel) for name in "ab"])

    @app.errorhandler(500)
    async def failed(ctx: HTTPRequestContext, error: Exception) -> str:
        return "sorry"

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        await asyncio.gather(cancelled := asyncio.create_task(asyncio.sleep(0)), _cancel(cancelled))
        return "never"

    answer = await ask(app)
    assert (answer.status, answer.text) == (500, "sorry")
    assert log[-1] == "a response"
    assert "asyncio.exceptions.CancelledError" in caplog.text


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


async def test_a_cancelled_request_has_no_response() -> None:
    log: list[str] = []
    app = three(log)
    entered, ended = asyncio.Event(), asyncio.Event()

    @app.route("/slow")
    async def slow(ctx: HTTPRequestContext) -> str:
        entered.set()
        try:
            return await asyncio.Future()
        finally:
            ended.set()

    async with MemoryServer(app) as server:
        connection = server.connect()
        connection.send(request_bytes("/slow"))
        await entered.wait()
        connection.close()
        await ended.wait()
    assert log == [*ON_THE_WAY_IN, "before"]


async def test_a_connection_that_was_taken_over_has_no_response() -> None:
    log: list[str] = []
    app = three(log)

    @app.route("/taken")
    async def taken(ctx: HTTPRequestContext) -> None:
        await ctx.request.state.send_response(299, (), b"")
        raise ExpectingNoResponse()

    assert (await ask(app, "/taken")).status == 299
    assert log == [*ON_THE_WAY_IN, "before"]


# -- What goes with it -------------------------------------------------------------------------


async def test_plain_methods_run_in_threads() -> None:
    names: list[str] = []

    class Sync:
        def process_request(self, ctx: HTTPRequestContext) -> None:
            names.append(threading.current_thread().name)

        def process_resource(self, ctx: HTTPRequestContext, resource: Any, params: Any) -> None:
            names.append(threading.current_thread().name)

        def process_response(self, ctx: HTTPRequestContext, response: Response) -> Any:
            names.append(threading.current_thread().name)
            return "from a thread"

    app = Kyoukai("test", middleware=[Sync()])
    assert (await ask(app)).text == "from a thread"
    assert len(names) == 2  # nothing matched
    assert all(name.startswith("kyoukai-test") for name in names)


async def test_injected_requests() -> None:
    log: list[str] = []
    app = TestKyoukai.wrap_existing_app(three(log))
    for path, status in (("/", 200), ("/missing", 404)):
        log.clear()
        response = await app.inject_request({}, path)
        assert response.status_code == status
        assert log[:3] == ON_THE_WAY_IN[:3]
        assert log[-3:] == ON_THE_WAY_OUT
        assert sum("response" in entry for entry in log) == 3


async def test_a_blueprint_for_tests_has_none() -> None:
    log: list[str] = []
    app = TestKyoukai("test", middleware=[Watch("a", log)])
    with app.testing_bp() as blueprint:

        @blueprint.route("/")
        async def index(ctx: HTTPRequestContext) -> str:
            return "hello"

        assert (await app.inject_request({}, "/")).get_data() == b"hello"
    assert log == []


async def test_a_pipeline_that_overrides_the_way_back() -> None:
    log: list[str] = []

    class Own(RequestPipeline):
        async def apply_middlewares_to_response(self, response: Any, request: Any) -> Any:
            log.append("before")
            response = await super().apply_middlewares_to_response(response, request)
            response = await super().apply_middlewares_to_response(response, request)
            log.append("after")
            response.headers["X-Own"] = "1"
            return response

    app = Kyoukai("test", pipeline_class=Own, middleware=[Watch("a", log), Watch("b", log)])
    assert (await ask(app)).headers["X-Own"] == "1"
    assert log == ["a request", "b request", "before", "b response", "a response", "after"]


async def test_a_streamed_response() -> None:
    log: list[str] = []

    class Header(Middleware):
        async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
            log.append("response")
            response.headers["X-Streamed"] = str(response.is_streamed)

    app = Kyoukai("test", middleware=[Header()])

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> AsyncIterator[str]:
        log.append("first")
        yield "one "
        yield "two"

    response = await ask(app)
    assert (response.text, response.headers["X-Streamed"]) == ("one two", "True")
    assert log == ["response", "first"]


async def test_a_hook_that_puts_another_context_in_place() -> None:
    contexts: list[HTTPRequestContext] = []

    class Look(Middleware):
        async def process_request(self, ctx: HTTPRequestContext) -> None:
            contexts.append(ctx)

        async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
            contexts.append(ctx)

    app = Kyoukai("test", middleware=[Look(), Look()])

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        return "hello"

    @app.before_request
    async def other(ctx: HTTPRequestContext) -> HTTPRequestContext:
        return HTTPRequestContext(ctx.app, ctx.request)

    assert (await ask(app)).text == "hello"
    assert len(contexts) == 4
    assert contexts[0] is contexts[1]
    assert contexts[2] is contexts[3] is not contexts[0]


async def test_nothing_is_left_to_the_collector() -> None:
    contexts: list[weakref.ref[HTTPRequestContext]] = []

    class Look(Middleware):
        async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None:
            contexts.append(weakref.ref(ctx))

    app = Kyoukai("test", middleware=[Look()])

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        return "hello"

    gc.disable()
    try:
        async with Client(app) as client:
            for _ in range(2):
                await client.get("/")
            assert contexts[0]() is None
    finally:
        gc.enable()


async def test_middlewares_that_are_added_while_the_application_runs() -> None:
    log: list[str] = []
    app = Kyoukai("test")
    blueprint = Blueprint("api", app.root, "/api")

    @blueprint.route("/")
    async def index(ctx: HTTPRequestContext) -> str:
        return "hello"

    async with Client(app) as client:
        assert (await client.get("/api/")).text == "hello"
        blueprint.add_middleware(Watch("late", log))
        assert (await client.get("/api/")).text == "hello"
    assert log == ["late request", "late resource", "late response"]


def test_the_root_knows_whether_there_are_middlewares() -> None:
    root = Blueprint("root")
    child = Blueprint("child", root)
    assert not root.uses_middleware
    leaf = Blueprint("leaf")
    leaf.add_middleware(Watch("leaf", []))
    child.add_child(leaf)
    assert root.uses_middleware
    other = Blueprint("other")
    Blueprint("below", other).add_middleware(Watch("below", []))
    assert other.uses_middleware
    assert not Blueprint("none").uses_middleware


async def test_the_blueprint_of_a_group_has_middlewares() -> None:
    log: list[str] = []

    class Group(RouteGroup):
        @group_route("/")
        async def show(self, ctx: HTTPRequestContext) -> str:
            return "group"

    app = Kyoukai("test")
    group = Group()
    get_rg_bp(group).add_middleware(Watch("group", log))
    app.add_route_group(group)
    assert (await ask(app)).text == "group"
    assert log == ["group request", "group resource", "group response"]


# -- Sockets -----------------------------------------------------------------------------------


class WatchSockets(Watch):
    """Notes its calls for handshakes too; at one stage it does something with the socket."""

    async def process_request_ws(self, ctx: HTTPRequestContext, ws: WebSocket) -> None:
        await self.note_ws("request_ws", ws)

    async def process_resource_ws(
        self, ctx: HTTPRequestContext, ws: WebSocket, resource: Any, params: dict[str, Any]
    ) -> None:
        self.log.append(f"{params} {resource}")
        await self.note_ws("resource_ws", ws)

    async def note_ws(self, stage: str, ws: WebSocket) -> None:
        self.log.append(f"{self.name} {stage}")
        if stage == self.stage and self.action is not None:
            await self.action(ws)


class Room(Resource):
    def __repr__(self) -> str:
        return "Room"

    async def on_websocket(self, ctx: WebSocketContext, ws: WebSocket, id: int) -> None:
        await ws.accept()
        await ws.send_media([id, ctx.entered_middlewares])


def room_app(
    log: list[str], stage: str = "", action: Callable[[WebSocket], Any] | None = None
) -> Kyoukai:
    app = Kyoukai("test", middleware=[WatchSockets("a", log)])
    inner = Blueprint("inner", app.root, "/inner")
    inner.add_middleware(WatchSockets("c", log))
    app.add_middleware(WatchSockets("b", log, stage, action))
    inner.add_resource("/<int:id>", Room())
    return app


HANDSHAKE = [
    *("a request_ws", "b request_ws", "c request_ws"),
    *("{'id': 3} Room", "a resource_ws", "{'id': 3} Room", "b resource_ws"),
    *("{'id': 3} Room", "c resource_ws"),
]


@pytest.mark.parametrize("http2", [False, True])
async def test_order_for_a_socket(http2: bool) -> None:
    log: list[str] = []
    async with (
        Client(room_app(log)) as client,
        client.websocket("/inner/3", http2=http2) as ws,
    ):
        assert await ws.receive_media() == [3, []]
    assert log == HANDSHAKE


async def deny(ws: WebSocket) -> None:
    await ws.deny(418, "denied")


async def close(ws: WebSocket) -> None:
    await ws.close()


async def forbid_ws(ws: WebSocket) -> None:
    raise Forbidden("the middleware")


async def fail_ws(ws: WebSocket) -> None:
    raise ValueError("the middleware")


@pytest.mark.parametrize(("stage", "calls"), [("request_ws", 2), ("resource_ws", 7)])
@pytest.mark.parametrize(
    ("action", "status"), [(deny, 418), (close, 403), (forbid_ws, 403), (fail_ws, 500)]
)
async def test_a_middleware_answers_a_handshake(
    stage: str, calls: int, action: Callable[[WebSocket], Any], status: int
) -> None:
    log: list[str] = []
    async with Client(room_app(log, stage, action)) as client:
        with pytest.raises(WebSocketDenied) as denied:
            async with client.websocket("/inner/3"):
                pass
    assert denied.value.response.status == status
    assert log == HANDSHAKE[:calls]


async def test_a_handshake_that_matches_nothing() -> None:
    log: list[str] = []
    async with Client(room_app(log)) as client:
        with pytest.raises(WebSocketDenied, match="404"):
            async with client.websocket("/inner/three"):
                pass
    assert log == ["a request_ws", "b request_ws"]


# -- What a middleware is ----------------------------------------------------------------------


def test_what_is_not_overridden_is_not_called() -> None:
    class Some(Middleware):
        async def process_response(self, ctx: HTTPRequestContext, response: Response) -> None: ...

        async def process_request_ws(self, ctx: HTTPRequestContext, ws: Any) -> None: ...

    class Less(Some):
        process_response = None  # type: ignore[assignment]

    some = Some()
    bound = Bound(some)
    assert (bound.middleware, bound.response) == (some, some.process_response)
    assert bound.request_ws == some.process_request_ws
    assert bound.request is bound.resource is bound.resource_ws is None
    assert Bound(Less()).response is None
    assert "Some" in repr(bound)


def test_methods_of_an_instance() -> None:
    class Plain:
        pass

    plain = Plain()
    plain.process_request = lambda ctx: None  # type: ignore[attr-defined]
    assert Bound(plain).request is plain.process_request  # type: ignore[attr-defined]


def test_a_method_without_a_signature() -> None:
    class Odd:
        process_request = staticmethod(min)

    assert Bound(Odd()).request is min


async def test_the_methods_of_the_base_class_do_nothing() -> None:
    bare = Middleware()
    some: Any = None
    assert await bare.process_request(some) is None
    assert await bare.process_resource(some, some, some) is None
    assert await bare.process_response(some, some) is None
    assert await bare.process_request_ws(some, some) is None
    assert await bare.process_resource_ws(some, some, some, some) is None


class Typo(Middleware):
    async def process_responce(self, ctx: Any, response: Any) -> None: ...


class Falcon:
    async def process_request(self, req: Any, resp: Any) -> None: ...


class NoMethod:
    process_request = "something else"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Watch, "Watch is a class; add an instance: Watch()"),
        (Middleware(), "has no method process_request, process_resource, .* of its own"),
        (Typo(), "no method 'process_response' (did you mean that by 'process_responce'?)"),
        (Falcon(), "process_request of .*Falcon .* must take (ctx)"),
        (NoMethod(), "process_request of .* is no method"),
        (None, "None is no middleware"),
    ],
)
def test_what_is_no_middleware(wrong: Any, message: str) -> None:
    message = message.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")
    for add in (Kyoukai("test").add_middleware, Blueprint("test").add_middleware):
        with pytest.raises(RouteError, match=message):
            add(wrong)
    with pytest.raises(RouteError, match=message):
        Kyoukai("test", middleware=[wrong])


async def test_a_body_read_before_the_match_is_limited():
    read = []

    class Reader(Middleware):
        async def process_request(self, ctx):
            read.append(len(await ctx.request.read_async()))

    app = Kyoukai("limits", middleware=[Reader()])

    @app.route("/", methods=["POST"], max_body_size=100)
    async def index(ctx):
        return str(len(ctx.request.get_data()))

    async with Client(app, max_body_size=10) as client:
        assert (await client.post("/", body=b"x" * 50)).status == 413
        assert (await client.post("/", chunks=[b"x" * 8] * 3)).status == 413
        assert read == []
        assert (await client.post("/", body=b"x" * 10)).text == "10"
        assert read == [10]
