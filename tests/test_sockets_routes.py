"""Where handshakes go: routes, resources, route groups, URLs; and those that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from talks import ask, both, converse, greet

from kyoukai import (
    Blueprint,
    HTTPRequestContext,
    Kyoukai,
    Resource,
    RouteGroup,
    WebSocket,
    WebSocketContext,
)
from kyoukai.routegroup import websocket
from kyoukai.testing import Client

Ctx = Any


# -- Routes ------------------------------------------------------------------------------------


@both
async def test_every_way_to_a_handler(http2: bool) -> None:
    app = Kyoukai("test")
    app.websocket("/function/<name>")(greet)

    class Greeter(Resource):
        async def on_get(self, ctx: Ctx, name: str) -> str:
            return f"hello {name}, by HTTP"

        async def on_websocket(self, ctx: Ctx, ws: WebSocket, name: str) -> None:
            await greet(ctx, ws, name)

    class Group(RouteGroup, prefix="/group"):
        @websocket("/<name>")
        async def greet(self, ctx: Ctx, ws: WebSocket, name: str) -> None:
            assert isinstance(self, Group)
            await greet(ctx, ws, name)

    class Suffixed:
        async def on_websocket_two(self, ctx: Ctx, ws: WebSocket, name: str) -> None:
            await greet(ctx, ws, name)

    app.add_resource("/resource/<name>", Greeter())
    app.add_resource("/suffixed/<name>", Suffixed(), suffix="two")
    app.add_route_group(Group())
    below = Blueprint("below", prefix="/below")
    below.websocket("/<name>")(greet)
    app.register_blueprint(below)
    async with Client(app) as client:
        for way in ("function", "resource", "group", "below", "suffixed"):
            outcome = await converse(client, f"/{way}/Ada", http2=http2)
            assert (outcome.messages, outcome.code) == (("hello Ada",), 1000), way
        assert (await client.get("/resource/Ada")).text == "hello Ada, by HTTP"


@both
async def test_arguments_from_the_path(http2: bool) -> None:
    app = Kyoukai("test")

    @app.websocket("/<int:number>/<path:rest>")
    async def handler(
        ctx: WebSocketContext, ws: WebSocket, number: int, rest: str, extra: str = "default"
    ) -> None:
        await ws.accept()
        await ws.send_media([number, rest, extra, ctx.request.args["q"]])

    outcome = await ask(app, "/12/a/b?q=%C3%A9", http2=http2)
    assert outcome.messages == ('[12,"a/b","default","é"]',)


@both
async def test_arguments_of_another_type(http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    """They are checked against the handler's annotations, as for requests."""
    app = Kyoukai("test")

    @app.websocket("/<number>")
    async def handler(ctx: WebSocketContext, ws: WebSocket, number: int) -> None:
        await ws.accept()

    assert (await ask(app, "/x", http2=http2)).status == 500
    assert "TypeError: route" in caplog.text
    assert "number" in caplog.text


def site() -> Kyoukai:
    app = Kyoukai("test")
    app.websocket("/socket")(greet)
    app.websocket("/folder/", endpoint="folder")(greet)

    @app.route("/page", methods=["GET", "PUT"])
    async def page(ctx: HTTPRequestContext) -> str:
        return "page"

    return app


@both
async def test_handshakes_that_match_nothing(http2: bool) -> None:
    app = site()
    assert (await ask(app, "/missing", http2=http2)).status == 404
    refused = (await ask(app, "/page", http2=http2)).denied
    assert refused
    assert refused.status == 405
    assert refused.headers["Allow"] == "GET, HEAD, OPTIONS, PUT"
    moved = (await ask(app, "/folder?a=b", http2=http2)).denied
    assert moved
    assert moved.status == 308
    assert moved.headers["Location"].endswith("/folder/?a=b")


async def test_plain_requests_to_a_socket() -> None:
    async with Client(site()) as client:
        for method in ("GET", "POST"):
            response = await client.request(method, "/socket")
            assert response.status == 426
            assert response.headers["Upgrade"] == "websocket"


@both
@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Sec-WebSocket-Version": "12"}, 426),
        ({"Sec-WebSocket-Version": "13, 12"}, 426),
        ({"Sec-WebSocket-Protocol": "a b"}, 400),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_handshakes_that_are_wrong(http2: bool, headers: dict[str, str], status: int) -> None:
    """They are refused before the application sees them."""
    app = site()
    seen: list[Any] = []

    class Watch:
        async def process_request_ws(self, ctx: Ctx, ws: WebSocket) -> None:
            seen.append(ws)

    app.add_middleware(Watch())
    response = (await ask(app, "/socket", http2=http2, headers=headers)).denied
    assert response
    assert response.status == (400 if http2 and status == 426 else status)
    if status != 403:
        assert response.headers["Sec-WebSocket-Version"] == "13"
    assert seen == []


@both
@pytest.mark.parametrize("key", ["", "short", "A" * 24, "A" * 21 + "=="])
async def test_a_wrong_key(http2: bool, key: str) -> None:
    """HTTP/2 has none, and ignores it."""
    outcome = await ask(site(), "/socket", http2=http2, headers={"Sec-WebSocket-Key": key})
    if http2:
        assert outcome.code == 1000
    else:
        assert outcome.status == 400


@both
async def test_the_answer_to_a_handshake(http2: bool) -> None:
    """HTTP/2 has neither Upgrade nor a key (RFC 8441 section 5)."""
    async with Client(site()) as client, client.websocket("/socket", http2=http2) as ws:
        headers = ws.response_headers
        if http2:
            assert ws.response.status == 200
            for name in ("Upgrade", "Connection", "Sec-WebSocket-Accept"):
                assert name not in headers
        else:
            assert ws.response.status == 101
            assert (headers["Upgrade"], headers["Connection"]) == ("websocket", "Upgrade")
            assert len(headers["Sec-WebSocket-Accept"]) == 28
        for name in ("Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Content-Length"):
            assert name not in headers


@both
async def test_origins(http2: bool) -> None:
    async with Client(site(), ws_origins=("https://a.example",)) as client:
        for origin, code in (("https://a.example", 1000), ("https://b.example", None)):
            outcome = await converse(client, "/socket", http2=http2, headers={"Origin": origin})
            assert outcome.code == code
    own = {"Host": "own.example", "Origin": "https://own.example"}
    if not http2:
        assert (await ask(site(), "/socket", http2=False, headers=own)).code == 1000


@both
async def test_urls(http2: bool) -> None:
    app = Kyoukai("test")

    @app.websocket("/rooms/<name>")
    async def room(ctx: WebSocketContext, ws: WebSocket, name: str) -> None:
        await ws.accept()
        await ws.send_text(ctx.url_for("room", name="two"))
        await ws.send_text(ctx.url_for("room", name="two", _external=True, q=1))
        await ws.send_text(ctx.url_for("page", _external=True))

    @app.route("/page")
    async def page(ctx: HTTPRequestContext) -> str:
        return ctx.url_for("room", name="x", _external=True)

    async with Client(app) as client:
        assert (await client.get("/page")).text == "ws://localhost/rooms/x"
        outcome = await converse(client, "/rooms/one", http2=http2)
        assert outcome.messages == (
            "/rooms/two",
            "ws://localhost/rooms/two?q=1",
            "http://localhost/page",
        )
