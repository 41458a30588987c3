"""Middlewares of WebSockets: their order, and what happens when one denies, fails or accepts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from talks import Outcome, ask, both, converse
from werkzeug.exceptions import Forbidden

from kyoukai import Blueprint, Kyoukai, Middleware, Resource, RouteGroup, WebSocketContext
from kyoukai.routegroup import websocket
from kyoukai.testing import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai import HTTPRequestContext, WebSocket


class Watch(Middleware):
    """Notes its calls; at one stage it does something of its own."""

    def __init__(
        self,
        name: str,
        log: list[str],
        stage: str = "",
        action: Callable[[WebSocket], Any] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.stage = stage
        self.action = action

    async def note(self, stage: str, ws: WebSocket) -> None:
        self.log.append(f"{self.name} {stage}")
        if stage == self.stage and self.action is not None:
            await self.action(ws)

    async def process_request_ws(self, ctx: HTTPRequestContext, ws: WebSocket) -> None:
        assert isinstance(ctx, WebSocketContext)
        assert ctx.ws is ws
        assert ws.unaccepted
        await self.note("request", ws)

    async def process_resource_ws(
        self, ctx: HTTPRequestContext, ws: WebSocket, resource: Any, params: dict[str, Any]
    ) -> None:
        await self.note("resource", ws)

    async def process_request(self, ctx: HTTPRequestContext) -> None:
        self.log.append(f"{self.name} HTTP")

    async def process_resource(self, ctx: HTTPRequestContext, resource: Any, params: Any) -> None:
        self.log.append(f"{self.name} HTTP")

    async def process_response(self, ctx: HTTPRequestContext, response: Any) -> None:
        self.log.append(f"{self.name} response")


def site(
    log: list[str], stage: str = "", action: Callable[[WebSocket], Any] | None = None
) -> Kyoukai:
    """An application with middlewares a, b and c (of a blueprint): b does something at a stage."""
    app = Kyoukai("test", middleware=[Watch("a", log)])
    app.add_middleware(Watch("b", log, stage, action))
    below = Blueprint("below", prefix="/below")
    below.add_middleware(Watch("c", log))
    app.register_blueprint(below)

    @app.before_request
    async def before(ctx: HTTPRequestContext) -> None:
        log.append("hook")

    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        log.append("handler")
        await ws.accept()

    app.websocket("/")(handler)
    below.websocket("/", endpoint="socket")(handler)
    return app


# -- Order -------------------------------------------------------------------------------------


@both
async def test_order(http2: bool) -> None:
    log: list[str] = []
    app = site(log)
    assert (await ask(app, http2=http2)).code == 1000
    assert log == ["a request", "b request", "a resource", "b resource", "hook", "handler"]
    log.clear()
    assert (await ask(app, "/below/", http2=http2)).code == 1000
    assert log == [
        *("a request", "b request", "c request"),
        *("a resource", "b resource", "c resource"),
        *("hook", "handler"),
    ]


@both
@pytest.mark.parametrize("path, status", [("/missing", 404), ("/below", 308)])
async def test_without_a_match_there_is_no_resource(http2: bool, path: str, status: int) -> None:
    log: list[str] = []
    assert (await ask(site(log), path, http2=http2)).status == status
    assert log == ["a request", "b request"]


async def test_requests_take_the_other_methods() -> None:
    """Also those that should have been handshakes."""
    log: list[str] = []
    async with Client(site(log)) as client:
        assert (await client.get("/")).status == 426
    assert log == ["a HTTP", "b HTTP", "b response", "a response"]


@both
async def test_wrong_handshakes_reach_no_middleware(http2: bool) -> None:
    log: list[str] = []
    headers = {"Sec-WebSocket-Version": "8"}
    assert (await ask(site(log), http2=http2, headers=headers)).status in (400, 426)
    assert log == []


# -- Answers -----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("stage", ["request", "resource"])
@pytest.mark.parametrize("how", ["deny", "close", "raise", "fail", "accept and close"])
async def test_a_middleware_that_answers(
    http2: bool, stage: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def action(ws: WebSocket) -> None:
        if how == "deny":
            await ws.deny(401, "who are you?", {"X-A": "b"})
        elif how == "close":
            await ws.close(4000)
        elif how == "raise":
            raise Forbidden("not you")
        elif how == "fail":
            raise LookupError("the middleware")
        else:
            await ws.accept()
            await ws.close(4005, "not you")

    log: list[str] = []
    outcome = await ask(site(log, stage, action), "/below/", http2=http2)
    before = ["a request", "b request"]
    if stage == "resource":
        before += ["c request", "a resource", "b resource"]
    assert log == before  # nothing later runs
    if how == "accept and close":
        assert outcome == Outcome(None, 4005, "not you")
        return
    assert outcome.denied
    if how == "deny":
        assert (outcome.status, outcome.denied.text) == (401, "who are you?")
        assert outcome.denied.headers["X-A"] == "b"
    elif how == "raise":
        assert outcome.status == 403
        assert "not you" in outcome.denied.text
    else:
        assert outcome.status == (403 if how == "close" else 500)
    assert ("LookupError: the middleware" in caplog.text) == (how == "fail")


@both
async def test_what_a_middleware_returns_does_not_matter(http2: bool) -> None:
    """A socket is answered by the socket."""

    class Returns:
        async def process_request_ws(self, ctx: Any, ws: WebSocket) -> Any:
            return "no answer", 500

    app = Kyoukai("test", middleware=Returns())

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()

    assert (await ask(app, http2=http2)).code == 1000


@both
async def test_a_middleware_that_accepts(http2: bool) -> None:
    """Then what follows finds an open socket; errors are close codes."""

    class Accepts:
        async def process_request_ws(self, ctx: Any, ws: WebSocket) -> None:
            await ws.accept()

    app = Kyoukai("test", middleware=[Accepts()])

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        assert ws.ready
        await ws.send_text("as it is")

    assert (await ask(app, http2=http2)).messages == ("as it is",)
    outcome = await ask(app, "/missing", http2=http2)
    assert (outcome.code, outcome.reason) == (3404, "Not Found")


@both
async def test_error_handlers_answer_for_middlewares(http2: bool) -> None:
    async def fail(ws: WebSocket) -> None:
        raise LookupError("the middleware")

    app = site([], "request", fail)

    @app.errorhandler(LookupError)
    async def wrong(ctx: Any, error: LookupError, ws: WebSocket) -> Any:
        assert ws.unaccepted
        return "soon", 503, {"Retry-After": "1"}

    response = (await ask(app, http2=http2)).denied
    assert response
    assert (response.status, response.headers["Retry-After"]) == (503, "1")


# -- Arguments ---------------------------------------------------------------------------------


class Arguments(Middleware):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def process_resource_ws(
        self, ctx: HTTPRequestContext, ws: WebSocket, resource: Any, params: dict[str, Any]
    ) -> None:
        self.seen.append((resource, dict(params), ctx.params is params, ctx.route is not None))
        params["name"] = params["name"].upper()


@both
async def test_resources_and_changed_arguments(http2: bool) -> None:
    arguments = Arguments()
    app = Kyoukai("test", middleware=arguments)

    async def function(ctx: WebSocketContext, ws: WebSocket, name: str) -> None:
        await ws.accept()
        await ws.send_text(name)

    class Named(Resource):
        async def on_websocket(self, ctx: WebSocketContext, ws: WebSocket, name: str) -> None:
            await function(ctx, ws, name)

    class Group(RouteGroup):
        @websocket("/group/<name>")
        async def handler(self, ctx: WebSocketContext, ws: WebSocket, name: str) -> None:
            await function(ctx, ws, name)

    resource, group = Named(), Group()
    app.websocket("/function/<name>")(function)
    app.add_resource("/resource/<name>", resource)
    app.add_route_group(group)
    owners = {"function": function, "resource": resource, "group": group}
    async with Client(app) as client:
        for path, owner in owners.items():
            outcome = await converse(client, f"/{path}/ada", http2=http2)
            assert outcome.messages == ("ADA",)
            assert arguments.seen.pop() == (owner, {"name": "ada"}, True, True)


@both
async def test_what_is_known_before_the_match(http2: bool) -> None:
    """The handshake, but no route."""
    seen: list[Any] = []

    class Early:
        async def process_request_ws(self, ctx: Any, ws: WebSocket) -> None:
            seen.append((ctx.route, ctx.request.path, ws.subprotocols))
            ctx.user = ctx.request.headers["X-User"]

    app = Kyoukai("test", middleware=[Early()])

    @app.websocket("/")
    async def handler(ctx: Any, ws: WebSocket) -> None:
        await ws.accept("chat")
        await ws.send_text(ctx.user)

    options: dict[str, Any] = {"headers": {"X-User": "Ada"}, "subprotocols": ["chat"]}
    assert (await ask(app, http2=http2, **options)).messages == ("Ada",)
    assert seen == [(None, "/", ("chat",))]


@both
async def test_plain_methods_run_in_threads(http2: bool) -> None:
    threads: list[bool] = []

    class Plain:
        def process_request_ws(self, ctx: Any, ws: WebSocket) -> None:
            threads.append(threading.current_thread() is threading.main_thread())

        def process_resource_ws(self, ctx: Any, ws: Any, resource: Any, params: Any) -> None:
            threads.append(threading.current_thread() is threading.main_thread())
            if "deny" in ctx.request.args:
                raise Forbidden

    app = Kyoukai("test", middleware=[Plain()])

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()

    assert (await ask(app, http2=http2)).code == 1000
    assert (await ask(app, "/?deny", http2=http2)).status == 403
    assert threads == [False] * 4


@both
async def test_middlewares_for_requests_alone_cost_nothing(http2: bool) -> None:
    """Nothing of a middleware for HTTP is called for a socket."""

    class ForRequests(Middleware):
        async def process_request(self, ctx: HTTPRequestContext) -> Any:
            return "answered"

        async def process_response(self, ctx: HTTPRequestContext, response: Any) -> None:
            raise AssertionError

    app = Kyoukai("test", middleware=[ForRequests()])

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()

    assert (await ask(app, http2=http2)).code == 1000
    assert (await ask(app, "/missing", http2=http2)).status == 404
