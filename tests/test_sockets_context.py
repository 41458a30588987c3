"""What is around a WebSocket's handler: hooks, contexts, resources, signals, the log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asphalt.core import Component, Context, inject, resource
from asphalt.core.context import current_context
from talks import ask, both, converse, greet, run, turns
from werkzeug.exceptions import BadRequest

from kyoukai import (
    Blueprint,
    HTTPRequestContext,
    Kyoukai,
    RouteGroup,
    WebSocket,
    WebSocketContext,
)
from kyoukai.routegroup import before_request, websocket
from kyoukai.testing import Client

Ctx = Any


# -- Hooks -------------------------------------------------------------------------------------


@both
async def test_hooks_run_for_handshakes(http2: bool) -> None:
    app = Kyoukai("test")
    below = Blueprint("below", prefix="/below")
    app.register_blueprint(below)
    steps: list[str] = []

    @app.before_request
    async def outer(ctx: HTTPRequestContext) -> None:
        assert isinstance(ctx, WebSocketContext)
        assert ctx.ws.unaccepted
        steps.append("outer")

    @below.before_request
    def inner(ctx: HTTPRequestContext) -> None:
        steps.append("inner, in a thread")

    @app.after_request
    async def after(ctx: HTTPRequestContext, response: Any) -> None:
        steps.append("after")

    route = below.websocket("/")(greet)
    assert route is not None

    @route.before_request
    async def own(ctx: HTTPRequestContext) -> None:
        steps.append("own")

    assert (await ask(app, "/below/", http2=http2)).messages == ("hello nobody",)
    # There is no response, and so nothing for hooks after the handler.
    assert steps == ["outer", "inner, in a thread", "own"]


@both
@pytest.mark.parametrize(
    "answer, status, body",
    [
        (("members only", 401), 401, "members only"),
        ("members only", 403, "members only"),  # which a plain answer would not say
        (({"a": 1}, 429, {"Retry-After": "3"}), 429, '{"a":1}'),
    ],
)
async def test_a_hook_that_answers(http2: bool, answer: Any, status: int, body: str) -> None:
    app = Kyoukai("test")
    steps: list[str] = []

    @app.before_request
    async def hook(ctx: HTTPRequestContext) -> Any:
        return answer

    @app.before_request
    async def later(ctx: HTTPRequestContext) -> None:
        steps.append("later")

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        steps.append("handler")

    response = (await ask(app, http2=http2)).denied
    assert response
    assert (response.status, response.text) == (status, body)
    assert response.headers.get("Retry-After") == ("3" if status == 429 else None)
    assert steps == []


@both
@pytest.mark.parametrize("how", ["deny", "close", "raise"])
async def test_a_hook_that_denies(http2: bool, how: str) -> None:
    app = Kyoukai("test")

    @app.before_request
    async def hook(ctx: Ctx) -> None:
        if how == "deny":
            await ctx.ws.deny(402)
        elif how == "close":
            await ctx.ws.close()
        else:
            raise BadRequest

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        raise AssertionError

    outcome = await ask(app, http2=http2)
    assert outcome.status == {"deny": 402, "close": 403, "raise": 400}[how]


@both
async def test_hooks_of_a_route_group(http2: bool) -> None:
    class Group(RouteGroup):
        @before_request
        async def check(self, ctx: Ctx) -> Any:
            return ("no", 409) if "deny" in ctx.request.args else None

        @websocket("/")
        async def handler(self, ctx: Ctx, ws: WebSocket) -> None:
            await greet(ctx, ws)

    app = Kyoukai("test")
    app.add_route_group(Group())
    assert (await ask(app, "/", http2=http2)).code == 1000
    assert (await ask(app, "/?deny", http2=http2)).status == 409


# -- Contexts ----------------------------------------------------------------------------------


@both
async def test_the_context(http2: bool) -> None:
    app = Kyoukai("test")

    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        assert type(ctx) is WebSocketContext
        assert isinstance(ctx, HTTPRequestContext)
        assert ctx.ws is ws
        assert ctx.app is app
        assert ctx.request is ws.request
        assert ctx.request.path == "/"
        assert ctx.request.cookies["a"] == "1"
        assert current_context() is ctx
        assert ctx.route is not None
        assert ctx.route.is_websocket
        assert ctx.bp is app.root
        assert ctx.rule is not None
        assert ctx.params == {}
        await ws.accept()

    outcome = await run(handler, http2=http2, app=app, headers={"Cookie": "a=1"})
    assert outcome.code == 1000


class User(HTTPRequestContext):
    """An application's own context; like most, it does not take the parent."""

    def __init__(self, app: Kyoukai, request: Any) -> None:
        super().__init__(app, request)
        self.user = request.headers.get("X-User", "nobody")


class SocketUser(User, WebSocketContext):
    pass


@both
@pytest.mark.parametrize("context_class", [User, SocketUser])
async def test_an_applications_own_context(http2: bool, context_class: type[User]) -> None:
    app = Kyoukai("test", context_class=context_class)

    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        assert isinstance(ctx, User)
        assert isinstance(ctx, WebSocketContext)
        assert isinstance(ctx, context_class)
        assert (ctx.user, ctx.ws) == ("Ada", ws)
        await ws.accept()

    @app.route("/page")
    async def page(ctx: Ctx) -> str:
        return f"{type(ctx) is context_class} {ctx.user}"

    async with Client(app) as client:
        app.websocket("/")(handler)
        assert (await client.get("/page", headers={"X-User": "Eve"})).text == "True Eve"
        outcome = await converse(client, http2=http2, headers={"X-User": "Ada"})
        assert outcome.code == 1000


@both
async def test_a_hook_that_puts_another_context_in_place(http2: bool) -> None:
    app = Kyoukai("test")
    torn: list[Any] = []

    @app.before_request
    async def replace(ctx: Ctx) -> Any:
        ctx.add_teardown_callback(lambda: torn.append("old"))
        other = SocketUser(ctx.app, ctx.request)
        other.user = "replaced"
        other.add_teardown_callback(lambda error: torn.append(error), pass_exception=True)
        return other

    @app.errorhandler(KeyError)
    async def wrong(ctx: Ctx, error: KeyError, ws: WebSocket) -> None:
        assert ctx.user == "replaced"
        await ws.close(4001)

    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        assert (ctx.user, ctx.ws) == ("replaced", ws)
        assert current_context() is ctx
        await ws.accept()
        raise KeyError("at the end")

    assert (await run(handler, http2=http2, app=app)).code == 4001
    error, old = torn
    assert isinstance(error, KeyError)
    assert old == "old"


@both
@pytest.mark.parametrize("how", ["return", "fail", "deny", "lost"])
async def test_teardown_callbacks_run_at_the_end(
    http2: bool, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Kyoukai("test")
    steps: list[Any] = []
    ready, ended = asyncio.Event(), asyncio.Event()

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        def teardown(error: BaseException | None) -> None:
            steps.append((type(error), ws.closed, current_context() is ctx))
            ended.set()

        ctx.add_teardown_callback(teardown, pass_exception=True)
        if how == "deny":
            await ws.deny()
            return
        await ws.accept()
        ready.set()
        if how == "lost":
            await ws.wait_closed()
        if how == "fail":
            raise LookupError
        steps.append("handler")

    async with Client(app) as client:
        if how == "lost":
            async with client.websocket("/", http2=http2) as ws:
                await ready.wait()
                assert steps == []
                ws.abort()
                await ended.wait()
        else:
            await converse(client, http2=http2)
            await ended.wait()
    kind = LookupError if how == "fail" else type(None)
    before = [] if how in ("fail", "deny") else ["handler"]
    assert steps == [*before, (kind, True, True)]


class Greeting(str):
    pass


class GreetingComponent(Component):
    async def start(self, ctx: Context) -> None:
        ctx.add_resource(Greeting("good day"))


@both
async def test_resources(http2: bool) -> None:
    app = Kyoukai("test")
    app.add_component("greeting", GreetingComponent)

    @app.websocket("/plain/<name>")
    async def plain(
        ctx: WebSocketContext, ws: WebSocket, name: str, *, greeting: Greeting = resource()
    ) -> None:
        await ws.accept()
        await ws.send_text(f"{greeting}, {name}")

    @app.websocket("/decorated/<name>")
    @inject
    async def decorated(
        ctx: WebSocketContext, ws: WebSocket, name: str, *, greeting: Greeting = resource()
    ) -> None:
        await plain.function(ctx, ws, name=name, greeting=greeting)

    class Group(RouteGroup):
        @websocket("/group/<name>")
        async def handler(
            self, ctx: Ctx, ws: WebSocket, name: str, *, greeting: Greeting = resource()
        ) -> None:
            await plain.function(ctx, ws, name=name, greeting=greeting)

    app.add_route_group(Group())
    async with Client(app) as client:
        for way in ("plain", "decorated", "group"):
            outcome = await converse(client, f"/{way}/Ada", http2=http2)
            assert outcome.messages == ("good day, Ada",), way


# -- Signals -----------------------------------------------------------------------------------


@both
async def test_signals(http2: bool) -> None:
    app = Kyoukai("test")
    app.websocket("/<name>")(greet)
    seen: list[Any] = []
    app.route_matched.connect(lambda event: seen.append(("matched", event.ctx.params["name"])))
    app.route_invoked.connect(lambda event: seen.append(("invoked", type(event.ctx))))
    app.route_completed.connect(lambda event: seen.append("completed"))
    assert (await ask(app, "/Ada", http2=http2)).code == 1000
    await turns()
    assert seen == [("matched", "Ada"), ("invoked", WebSocketContext)]


# -- The log -----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("deny", [False, True])
async def test_the_access_log(http2: bool, deny: bool) -> None:
    """One entry, at the end, with everything that was sent in the tunnel."""

    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        if deny:
            await ws.deny(402, "pay")
            return
        await ws.accept()
        await ws.send_text("x" * 100)
        assert len(logged) == 0

    app = Kyoukai("test")
    app.websocket("/")(handler)
    async with Client(app, access_log=True) as client:
        logged = client.server.logged
        outcome = await converse(client, "/?q", http2=http2)
        await turns()
        (stream,) = logged
    assert stream.head.target == b"/?q"
    if deny:
        assert (outcome.status, stream.status, stream.bytes_sent) == (402, 402, 3)
    else:
        assert stream.status == (200 if http2 else 101)
        # Two frames: the text, and the Close frame with its code and reason.
        assert stream.bytes_sent == 2 + 100 + 2 + 2 + len("Normal Closure")
