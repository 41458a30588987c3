"""The context of a request: Asphalt's, with the request in it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from asphalt.core import (
    Context,
    NoCurrentContext,
    context_teardown,
    current_context,
    inject,
    resource,
)
from asphalt.core.context import ResourceConflict, ResourceNotFound
from werkzeug.exceptions import NotFound

from kyoukai import Blueprint, HTTPRequestContext, Kyoukai, Response, TestKyoukai
from kyoukai.pipeline import RequestPipeline
from kyoukai.testing import Client, MemoryServer
from kyoukai.wrappers import lazy
from kyoukai.wsgi import to_wsgi_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from kyoukai.context import RouteCompletedEvent, RouteInvokedEvent, RouteMatchedEvent


class Full(RequestPipeline):
    """A pipeline that takes the full way."""

    async def finalize_response(self, response: Any, request: Any = None) -> Any:
        return response


both_ways = pytest.mark.parametrize("pipeline", [RequestPipeline, Full])


def app_with_root(pipeline: type = RequestPipeline) -> Kyoukai:
    """An application whose root context has resources."""
    app = Kyoukai("test", pipeline_class=pipeline)

    @app.before_serving
    async def before(ctx: Context) -> None:
        ctx.add_resource("root text")
        ctx.add_resource("other text", "other")
        ctx.add_resource_factory(lambda ctx: [type(ctx).__name__], list)

    return app


# -- Resources ---------------------------------------------------------------------------------


@both_ways
async def test_resources_of_the_root_context(pipeline: type) -> None:
    app = app_with_root(pipeline)

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> Any:
        assert ctx.require_resource(list) is ctx.require_resource(list)
        assert ctx.get_resource(int) is None
        with pytest.raises(ResourceNotFound):
            ctx.require_resource(int)
        return [
            ctx.require_resource(str),
            await ctx.request_resource(str, "other"),
            sorted(ctx.get_resources(str)),
            ctx.require_resource(list)[0],
        ]

    async with Client(app) as client:
        assert (await client.get("/")).json() == [
            "root text",
            "other text",
            ["other text", "root text"],
            "HTTPRequestContext",
        ]


async def test_injection_with_and_without_inject() -> None:
    app = app_with_root()

    @app.route("/plain/<int:number>")
    async def plain(
        ctx: HTTPRequestContext, number: int, text: str = resource(), *, o: str = resource("other")
    ) -> Any:
        return [number, text, o]

    @app.route("/inject/<int:number>")
    @inject
    async def injected(ctx: HTTPRequestContext, number: int, text: str = resource()) -> Any:
        return [number, text]

    @app.route("/sync")
    def sync(ctx: HTTPRequestContext, text: str = resource()) -> Any:
        return [text]

    @app.route("/optional")
    async def optional(ctx: HTTPRequestContext, missing: int | None = resource()) -> Any:
        return [missing]

    @app.route("/missing")
    async def missing(ctx: HTTPRequestContext, number: int = resource()) -> Any:
        return [number]

    @app.route("/agen")
    async def agen(ctx: HTTPRequestContext, text: str = resource()) -> AsyncIterator[str]:
        yield text

    @app.route("/gen")
    def gen(ctx: HTTPRequestContext, text: str = resource()) -> Iterator[str]:
        yield text

    @app.route("/error")
    async def error(ctx: HTTPRequestContext) -> None:
        raise NotFound

    @app.errorhandler(NotFound)
    async def not_found(ctx: HTTPRequestContext, exc: Exception, text: str = resource()) -> str:
        return text

    async with Client(app) as client:
        assert (await client.get("/plain/3")).json() == [3, "root text", "other text"]
        assert (await client.get("/inject/3")).json() == [3, "root text"]
        assert (await client.get("/sync")).json() == ["root text"]
        assert (await client.get("/optional")).json() == [None]
        assert (await client.get("/missing")).status == 500
        assert (await client.get("/agen")).text == "root text"
        assert (await client.get("/gen")).text == "root text"
        assert (await client.get("/error")).text == "root text"
    assert set(app.injected_resources()) == {(str, "default"), (str, "other"), (int, "default")}


def bare(parent: Context | None = None) -> HTTPRequestContext:
    app = TestKyoukai("test")
    return HTTPRequestContext(app, app.request_class(to_wsgi_environment({}, "GET", "/")), parent)


async def behave(ctx: Context) -> list[Any]:
    """What a context does, for a comparison with Asphalt's own."""
    seen: list[Any] = []
    ctx.resource_added.connect(lambda event: seen.append(("event", event.resource_name)))
    ctx.add_resource("one")
    ctx.add_resource(2, "two", types=[int, float])
    ctx.add_resource_factory(lambda ctx: {"made": "once"}, dict, "made")
    for wrong in (
        lambda: ctx.add_resource("again"),
        lambda: ctx.add_resource("x", "a name"),
        lambda: ctx.add_resource_factory(dict, dict, "made"),
        lambda: ctx.add_resource(None),
        lambda: ctx.require_resource(bytes),
        lambda: ctx.no_such_attribute,
    ):
        with pytest.raises(Exception) as caught:
            wrong()
        seen.append(
            (type(caught.value), str(caught.value).replace("HTTPRequestContext", "Context"))
        )
    seen += [ctx.require_resource(float, "two"), ctx.get_resources(int)]
    seen += [ctx.require_resource(dict, "made"), ctx.get_resource(dict)]
    seen.append(ctx.require_resource(dict, "made") is ctx.require_resource(dict, "made"))
    with pytest.warns(DeprecationWarning, match="context attributes"):
        ctx.add_resource(b"attr", "attr", context_attr="attribute")
    with pytest.warns(DeprecationWarning, match="context attributes"):
        ctx.add_resource_factory(lambda ctx: {3}, set, context_attr="lazily")
    seen += [ctx.attribute, ctx.lazily, ctx.require_resource(set)]
    with pytest.raises(ResourceConflict):
        ctx.add_resource(b"attr", "attr3", context_attr="attribute")
    ctx.add_teardown_callback(lambda: seen.append("first"))
    ctx.add_teardown_callback(lambda exc: seen.append(exc), pass_exception=True)
    seen += [ctx.closed, ctx.loop is asyncio.get_running_loop()]
    await ctx.close()
    seen.append(ctx.closed)
    for late in (lambda: ctx.add_resource("x", "late"), lambda: ctx.get_resource(str)):
        with pytest.raises(RuntimeError, match="closed"):
            late()
    await asyncio.sleep(0)
    return seen


async def test_a_request_context_behaves_as_asphalts_does() -> None:
    assert await behave(bare()) == await behave(Context())


async def test_two_contexts_share_nothing() -> None:
    first, second = bare(), bare()
    first.add_resource("mine")
    first.params["x"] = 1
    first.trailers["X"] = "1"
    first.add_teardown_callback(lambda: None)
    assert second.get_resource(str) is None
    assert not second.params
    assert not second.trailers
    assert not second.has_teardown
    assert first.has_teardown


async def test_parents_are_found() -> None:
    async with Context() as root:
        root.add_resource("text")
        child = bare()
        assert child.parent is root
        assert child.context_chain == [child, root]
        async with Context() as other:
            assert bare().parent is other
            assert bare(root).parent is root
    assert bare().parent is None


async def test_a_request_context_may_be_entered() -> None:
    ctx = bare()
    closed: list[str] = []
    ctx.add_teardown_callback(lambda: closed.append("closed"))
    async with ctx:
        assert current_context() is ctx
    assert closed == ["closed"]
    assert ctx.closed


async def test_an_attribute_error_inside_is_no_missing_attribute() -> None:
    class Own(HTTPRequestContext):
        @lazy
        def user(self) -> Any:
            """Looks for something that is not there."""
            return self.request.nothing_of_the_sort

    app = TestKyoukai("test", context_class=Own)
    seen: list[BaseException] = []

    @app.route("/")
    async def handler(ctx: Any) -> str:
        try:
            return str(ctx.user)
        except RuntimeError as error:
            seen.append(error)
            raise

    assert (await app.inject_request({}, "/")).status_code == 500
    assert "Own.user failed" in str(seen[0])
    assert "nothing_of_the_sort" in str(seen[0])


async def test_the_context_of_a_request_without_a_stream() -> None:
    ctx = bare()
    assert ctx.proto is None
    await ctx.early_hints(["</a>"])
    with pytest.raises(TimeoutError):
        # There is no client to leave, and so nothing to wait for.
        await asyncio.wait_for(_for_ever(ctx), 0.01)


async def _for_ever(ctx: HTTPRequestContext) -> None:
    await ctx.disconnected()
    await asyncio.get_running_loop().create_future()


async def test_what_a_handler_finds_in_its_context() -> None:
    app = Kyoukai("test")
    child = app.register_blueprint(Blueprint("child", prefix="/c"))

    @child.route("/<name>")
    async def handler(ctx: HTTPRequestContext, name: str) -> Any:
        assert ctx.route is handler
        assert ctx.bp is child
        assert ctx.app is app
        assert ctx.rule is not None
        assert ctx.request.context is ctx
        assert ctx.environ is ctx.request.environ
        return [dict(ctx.params), ctx.rule.rule, type(ctx.proto).__name__]

    async with Client(app) as client:
        response = await client.get("/c/me")
    assert response.json() == [{"name": "me"}, "/c/<name>", "HttpToolsProtocol"]


# -- The current context -----------------------------------------------------------------------


@both_ways
async def test_the_current_context(pipeline: type) -> None:
    app = Kyoukai("test", pipeline_class=pipeline)
    seen: list[bool] = []

    @app.before_request
    async def hook(ctx: HTTPRequestContext) -> None:
        seen.append(current_context() is ctx)

    @app.after_request
    def after(ctx: HTTPRequestContext, response: Response) -> None:
        seen.append(current_context() is ctx)

    @app.errorhandler(404)
    def error(ctx: HTTPRequestContext, exc: Exception) -> str:
        seen.append(current_context() is ctx)
        return ""

    @app.route("/async")
    async def handler(ctx: HTTPRequestContext) -> Any:
        await asyncio.gather(asyncio.create_task(inner(ctx)))
        seen.append(current_context() is ctx)

    async def inner(ctx: HTTPRequestContext) -> None:
        seen.append(current_context() is ctx)

    @app.route("/sync")
    def sync(ctx: HTTPRequestContext) -> Any:
        seen.append(current_context() is ctx)

    async with Client(app) as client:
        for path, number in (("/async", 4), ("/sync", 3), ("/missing", 1)):
            await client.get(path)
            assert seen == [True] * number
            seen.clear()
    with pytest.raises(NoCurrentContext):
        current_context()


async def test_injected_requests_leave_the_current_context_as_it_was() -> None:
    app = TestKyoukai("test")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> Any:
        assert current_context() is ctx
        return ctx.require_resource(str)

    async with Context() as root:
        root.add_resource("found")
        response = await app.inject_request({}, "/")
        assert response.get_data() == b"found"
        assert current_context() is root
    other = Context()
    other.add_resource("base")
    app.base_context = other
    assert (await app.inject_request({}, "/")).get_data() == b"base"


@both_ways
async def test_a_hook_may_put_another_context_in_place(pipeline: type) -> None:
    class Own(HTTPRequestContext):
        pass

    app = app_with_root(pipeline)
    events: list[Any] = []
    own: list[Own] = []

    @app.before_request
    async def hook(ctx: HTTPRequestContext) -> HTTPRequestContext:
        if ctx.request.path != "/quiet":
            ctx.add_teardown_callback(lambda exc: events.append(("old", type(exc))), True)
        own.append(Own(ctx.app, ctx.request))
        return own[-1]

    @app.route("/<int:number>")
    async def handler(ctx: HTTPRequestContext, number: int) -> Any:
        assert ctx is own[-1]
        assert current_context() is ctx
        assert ctx.request.context is ctx
        assert ctx.route is handler
        assert ctx.params == {"number": number}
        assert ctx.bp is app.root
        assert ctx.require_resource(str) == "root text"
        ctx.add_teardown_callback(lambda exc: events.append(("new", type(exc))), True)
        ctx.trailers["X-T"] = "1"
        if number == 2:
            raise KeyError
        return "x"

    @app.route("/quiet")
    async def quiet(ctx: HTTPRequestContext) -> str:
        ctx.add_teardown_callback(lambda: events.append("quiet"))
        return "quiet"

    async with Client(app) as client:
        response = await client.get("/1")
        assert (response.text, response.trailers["X-T"]) == ("x", "1")
        assert events == [("new", type(None)), ("old", type(None))]
        events.clear()
        assert (await client.get("/2")).status == 500
        assert events == [("new", KeyError), ("old", KeyError)]
        events.clear()
        assert (await client.get("/quiet")).text == "quiet"
        assert events == ["quiet"]


# -- Teardown ----------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("path", ["/plain", "/response", "/stream", "/fails", "/error", "/hook"])
async def test_teardown_comes_after_the_answer(path: str, pipeline: type) -> None:
    app = Kyoukai("test", pipeline_class=pipeline)
    seen: list[Any] = []

    @app.before_request
    async def hook(ctx: HTTPRequestContext) -> Any:
        def sync_callback(exc: BaseException | None) -> None:
            seen.append(("sync", ctx.request.state.sending.value, type(exc).__name__))

        async def callback() -> None:
            await asyncio.sleep(0)
            seen.append("async")

        ctx.add_teardown_callback(sync_callback, True)
        ctx.add_teardown_callback(callback)
        return "hook" if path == "/hook" else None

    @app.route("/hook")
    @app.route("/plain")
    async def plain(ctx: HTTPRequestContext) -> str:
        return "x"

    @app.route("/response")
    async def response(ctx: HTTPRequestContext) -> Response:
        return Response("x")

    @app.route("/stream")
    async def stream(ctx: HTTPRequestContext) -> AsyncIterator[str]:
        yield "x"
        assert not seen

    @app.route("/fails")
    async def fails(ctx: HTTPRequestContext) -> None:
        raise ValueError

    @app.route("/error")
    async def error(ctx: HTTPRequestContext) -> None:
        raise NotFound

    async with MemoryServer(app) as server:
        connection = server.connect()
        connection.request("GET", path)
        await connection.response()
        connection.close()
        await server.connections.wait_idle()
    exc = {"/fails": "ValueError", "/error": "NotFound"}.get(path, "NoneType")
    assert seen == ["async", ("sync", "closed", exc)]


@both_ways
async def test_a_failing_teardown_is_logged(
    pipeline: type, caplog: pytest.LogCaptureFixture
) -> None:
    app = Kyoukai("test", pipeline_class=pipeline)

    @app.route("/", endpoint="it")
    async def handler(ctx: HTTPRequestContext) -> str:
        def fail() -> None:
            raise ValueError("in teardown")

        ctx.add_teardown_callback(fail)
        return "x"

    async with Client(app) as client:
        assert (await client.get("/")).text == "x"
        assert (await client.get("/")).text == "x"
    assert "route it (GET '/'): its context could not be closed" in caplog.text
    assert "in teardown" in caplog.text


async def test_context_teardown_functions() -> None:
    app = Kyoukai("test")
    seen: list[Any] = []

    @app.before_request
    @context_teardown
    async def session(ctx: HTTPRequestContext) -> AsyncIterator[None]:
        ctx.add_resource({"session": 1})
        exception = yield
        seen.append(type(exception).__name__)

    @app.route("/")
    async def handler(ctx: HTTPRequestContext, session: dict = resource()) -> Any:  # type: ignore[type-arg]
        if ctx.request.args:
            raise ValueError
        return session

    async with Client(app) as client:
        assert (await client.get("/")).json() == {"session": 1}
        assert (await client.get("/?fail=1")).status == 500
    assert seen == ["NoneType", "ValueError"]


async def test_injected_requests_are_torn_down() -> None:
    app = TestKyoukai("test")
    seen: list[str] = []

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> str:
        ctx.add_teardown_callback(lambda: seen.append("torn down"))
        return "x"

    await app.inject_request({}, "/")
    assert seen == ["torn down"]


# -- Signals -----------------------------------------------------------------------------------


async def settle() -> None:
    """Let the tasks run that Asphalt dispatches events in."""
    for _ in range(3):
        await asyncio.sleep(0)


@both_ways
async def test_signals_of_the_application(pipeline: type) -> None:
    app = Kyoukai("test", pipeline_class=pipeline)
    seen: list[Any] = []

    @app.route("/<int:number>")
    async def handler(ctx: HTTPRequestContext, number: int) -> str:
        if number == 2:
            raise ValueError
        return "x"

    @app.after_request
    async def after(ctx: HTTPRequestContext, response: Response) -> Any:
        return "changed", 201

    @app.route_matched.connect
    def matched(event: RouteMatchedEvent) -> None:
        assert event.source is app
        seen.append(("matched", event.ctx.route, dict(event.ctx.params)))

    @app.route_invoked.connect
    def invoked(event: RouteInvokedEvent) -> None:
        seen.append(("invoked", event.ctx.params["number"]))

    @app.route_completed.connect
    def completed(event: RouteCompletedEvent) -> None:
        seen.append(("completed", event.result.status_code))

    async with Client(app) as client:
        response = await client.get("/1")
        assert (response.status, response.text) == (201, "changed")
        await settle()
        assert seen == [
            ("matched", handler, {"number": 1}),
            ("invoked", 1),
            ("completed", 201),
        ]
        seen.clear()
        assert (await client.get("/2")).status == 500
        await settle()
        assert [name for name, *_ in seen] == ["matched", "invoked"]
        seen.clear()
        assert (await client.get("/missing")).status == 404
        await settle()
        assert not seen


@both_ways
async def test_signals_of_a_context(pipeline: type) -> None:
    app = Kyoukai("test", pipeline_class=pipeline)
    seen: list[Any] = []

    @app.route("/<int:number>")
    async def handler(ctx: HTTPRequestContext, number: int) -> str:
        if number == 1:

            def completed(event: RouteCompletedEvent) -> None:
                assert event.source is event.ctx is ctx
                seen.append((event.result.status_code, event.result.get_data()))

            ctx.route_completed.connect(completed)
        return "x"

    async with Client(app) as client:
        for number in (1, 2, 1):
            assert (await client.get(f"/{number}")).text == "x"
            await settle()
    assert seen == [(200, b"x")] * 2


async def test_a_failing_listener_does_not_harm_the_answer() -> None:
    app = Kyoukai("test")

    @app.route("/")
    async def handler(ctx: HTTPRequestContext) -> str:
        return "x"

    @app.route_matched.connect
    def fail(event: Any) -> None:
        raise ValueError

    seen: list[str] = []

    @app.route_matched.connect
    async def late(event: Any) -> None:
        seen.append(event.ctx.request.path)

    async with Client(app) as client:
        assert (await client.get("/")).text == "x"
        await settle()
    assert seen == ["/"]
