"""What becomes of errors: translation, error handlers that take the socket, and their failures."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived
from werkzeug.exceptions import BadRequest, HTTPException, NotFound

from kyoukai import (
    Blueprint,
    HTTPRequestContext,
    Kyoukai,
    Request,
    RouteGroup,
    ServerConfig,
    WebSocket,
    WebSocketContext,
)
from kyoukai.exceptions import (
    ExpectingNoResponse,
    MediaError,
    PeerGone,
    WebSocketDisconnected,
)
from kyoukai.failures import name_of
from kyoukai.pipeline import RequestPipeline
from kyoukai.routegroup import errorhandler
from kyoukai.testing import Client, MemoryServer, WebSocketDenied
from kyoukai.wsgi import to_wsgi_environment

if TYPE_CHECKING:
    from collections.abc import Callable

#: Stands for a socket: failures only hand it on.
SOCKET: Any = object()


def context(app: Kyoukai, blueprint: Blueprint | None = None) -> HTTPRequestContext:
    request = Request(to_wsgi_environment([], "GET", "/path", "1.1", None))
    ctx = HTTPRequestContext(app, request)
    request.context = ctx
    ctx.bp = blueprint
    return ctx


async def handle(
    app: Kyoukai, error: BaseException, ws: Any = None, blueprint: Blueprint | None = None
) -> tuple[int, str]:
    pipeline = RequestPipeline(app, ServerConfig())
    response = await pipeline.handle_error(context(app, blueprint), error, ws)
    return response.status_code, response.get_data(as_text=True)


async def ask(app: Kyoukai, path: str = "/") -> Any:
    async with Client(app) as client:
        return await client.get(path)


# -- Error handlers that take the socket -------------------------------------------------------


async def by_name(ctx: Any, error: Any, ws: Any) -> str:
    return f"{ws is SOCKET} {type(error).__name__}"


async def keyword(ctx: Any, error: Any, *, ws: Any = "unset") -> str:
    return f"{ws is SOCKET} {type(error).__name__}"


async def among_others(ctx: Any, *errors: Any, ws: Any) -> str:
    return f"{ws is SOCKET} {type(errors[0]).__name__}"


def in_a_thread(ctx: Any, error: Any, ws: Any) -> str:
    return f"{ws is SOCKET} {type(error).__name__}"


class CallableObject:
    async def __call__(self, ctx: Any, error: Any, ws: Any) -> str:
        return f"{ws is SOCKET} {type(error).__name__}"


@pytest.mark.parametrize("handler", [by_name, keyword, among_others, in_a_thread, CallableObject()])
async def test_a_handler_that_takes_the_socket(handler: Callable[..., Any]) -> None:
    app = Kyoukai("test")
    assert app.add_errorhandler(handler, ValueError).takes_socket
    assert await handle(app, ValueError(), SOCKET) == (500, "True ValueError")
    assert await handle(app, ValueError()) == (500, "False ValueError")


async def other_name(ctx: Any, error: Any) -> str:
    return type(error).__name__


async def the_error_is_called_ws(ctx: Any, ws: Any) -> str:
    return type(ws).__name__


async def anything(ctx: Any, *rest: Any, **named: Any) -> str:
    assert len(rest) == 1
    assert not named
    return type(rest[0]).__name__


@pytest.mark.parametrize("handler", [other_name, the_error_is_called_ws, anything])
async def test_a_handler_that_does_not(handler: Callable[..., Any]) -> None:
    app = Kyoukai("test")
    assert not app.add_errorhandler(handler, ValueError).takes_socket
    assert await handle(app, ValueError(), SOCKET) == (500, "ValueError")


async def test_a_handler_of_a_route_group_takes_the_socket() -> None:
    class Group(RouteGroup):
        @errorhandler(404)
        async def wrong(self, ctx: Any, error: Any, ws: Any) -> str:
            return f"{ws is SOCKET} {error.code}"

    app = Kyoukai("test")
    app.add_route_group(Group())
    answer = await handle(app, NotFound(), SOCKET, app.root.children[0])
    assert answer == (404, "True 404")


async def test_a_request_has_no_socket() -> None:
    app = Kyoukai("test")
    seen: list[Any] = []

    @app.errorhandler(404)
    async def missing(ctx: HTTPRequestContext, error: Any, ws: Any) -> str:
        seen.append(ws)
        return "missing"

    response = await ask(app)
    assert (response.status, response.text, seen) == (404, "missing", [None])


async def test_the_last_handler_gets_the_socket_too() -> None:
    app = Kyoukai("test")

    @app.errorhandler(ValueError)
    async def fails(ctx: Any, error: Any) -> str:
        raise KeyError

    @app.errorhandler(500)
    async def last(ctx: Any, error: Any, ws: Any) -> str:
        return f"last {ws is SOCKET}"

    assert await handle(app, ValueError(), SOCKET) == (500, "last True")


async def test_handlers_of_a_conversation() -> None:
    app = Kyoukai("test")

    @app.websocket("/<when>")
    async def socket(ctx: WebSocketContext, ws: WebSocket, when: str) -> None:
        if when == "after":
            await ws.accept()
        raise LookupError(when)

    @app.errorhandler(LookupError)
    async def wrong(ctx: HTTPRequestContext, error: LookupError, ws: WebSocket) -> Any:
        if ws.ready:
            await ws.send_text(str(error.args))
            await ws.close(4000, "wrong")
        return {"error": error.args}, 409

    async with Client(app) as client:
        async with client.websocket("/after") as ws:
            assert await ws.receive() == "('after',)"
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (4000, "wrong")
        with pytest.raises(WebSocketDenied) as denied:
            async with client.websocket("/before"):
                pass
    response = denied.value.response
    assert (response.status, response.json()) == (409, {"error": ["before"]})


@pytest.mark.parametrize("error", [PeerGone, ExpectingNoResponse, asyncio.CancelledError])
@pytest.mark.parametrize("status", [404, 500])
async def test_what_goes_through_an_error_handler(error: type[BaseException], status: int) -> None:
    app = Kyoukai("test")

    def stop() -> NoReturn:
        if error is asyncio.CancelledError:
            task.cancel()
        raise error()

    @app.errorhandler(500)
    async def last(ctx: Any, exc: Any) -> str:
        stop()

    @app.errorhandler(404)
    async def missing(ctx: Any, exc: Any) -> str:
        if status == 404:
            stop()
        raise KeyError

    task = asyncio.create_task(handle(app, NotFound()))
    with pytest.raises(error):
        await task


async def test_an_error_handler_that_waits_for_what_was_cancelled() -> None:
    app = Kyoukai("test")

    @app.errorhandler(404)
    async def missing(ctx: Any, exc: Any) -> str:
        raise asyncio.CancelledError

    @app.errorhandler(500)
    async def last(ctx: Any, exc: Any) -> str:
        return "sorry"

    assert await handle(app, NotFound()) == (500, "sorry")


# -- A socket that is gone ---------------------------------------------------------------------


async def test_a_disconnected_socket_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    app = Kyoukai("test")

    @app.errorhandler(500)
    @app.errorhandler(Exception)
    @app.errorhandler(HTTPException)
    async def general(ctx: Any, error: Any, ws: Any) -> str:
        raise AssertionError("nothing has failed")

    await handle(app, WebSocketDisconnected(1001, "bye"), SOCKET)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "request (GET '/path'): the WebSocket is closed: 1001 (bye)")
    ]


@pytest.mark.parametrize("class_", [WebSocketDisconnected, ConnectionError])
@pytest.mark.parametrize("above", [False, True])
async def test_a_handler_of_disconnected_sockets(
    class_: type[Exception], above: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = Kyoukai("test")
    child = Blueprint("child", app.root)
    seen: list[Any] = []

    @(app.root if above else child).errorhandler(class_)
    async def gone(ctx: Any, error: WebSocketDisconnected, ws: Any) -> str:
        seen.append((error.code, ws))
        return ""

    await handle(app, WebSocketDisconnected(1006), SOCKET, child)
    assert seen == [(1006, SOCKET)]
    assert not caplog.records


async def test_a_request_may_fail_for_a_socket(caplog: pytest.LogCaptureFixture) -> None:
    """A handler of requests that sends to sockets must expect that they are gone."""
    app = Kyoukai("test")

    @app.route("/")
    async def index(ctx: HTTPRequestContext) -> None:
        raise WebSocketDisconnected(1006)

    assert (await ask(app)).status == 500
    assert "Traceback" in caplog.text


async def test_nobody_answers_a_client_that_left(caplog: pytest.LogCaptureFixture) -> None:
    app = Kyoukai("test")
    app.add_errorhandler(other_name, Exception)
    for ws in (None, SOCKET):
        assert (await handle(app, PeerGone(), ws))[1] == ""
    assert not caplog.records


# -- Translations ------------------------------------------------------------------------------


def media_error(received: bool) -> MediaError:
    return MediaError("this is not JSON", "application/json", received)


async def test_media_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    app = Kyoukai("test")
    status, text = await handle(app, media_error(True))
    assert status == 400
    assert "This is not JSON." in text
    assert not caplog.records
    assert (await handle(app, media_error(False)))[0] == 500
    assert "this is not JSON" in caplog.text


async def test_a_handler_of_bad_requests_gets_the_cause() -> None:
    app = Kyoukai("test")

    @app.errorhandler(400)
    async def wrong(ctx: Any, error: BadRequest) -> str:
        assert isinstance(error.__cause__, MediaError)
        return error.__cause__.payload_type

    assert await handle(app, media_error(True)) == (400, "application/json")


@pytest.mark.parametrize("class_", [MediaError, ValueError])
@pytest.mark.parametrize("received", [False, True])
async def test_a_handler_of_media_errors(class_: type[Exception], received: bool) -> None:
    app = Kyoukai("test")

    @app.errorhandler(class_)
    async def wrong(ctx: Any, error: MediaError) -> Any:
        return f"{error.received}", 422

    app.add_errorhandler(other_name, 400)
    app.add_errorhandler(other_name, Exception)
    assert await handle(app, media_error(received)) == (422, str(received))


def socket_app() -> Kyoukai:
    app = Kyoukai("test")

    @app.websocket("/socket")
    async def socket(ctx: Any, ws: Any) -> None: ...

    return app


async def test_a_plain_request_for_a_socket() -> None:
    app = socket_app()
    response = await ask(app, "/socket")
    assert (response.status, response.headers["Upgrade"]) == (426, "websocket")
    assert "WebSocket" in response.text

    @app.errorhandler(426)
    async def upgrade(ctx: HTTPRequestContext, error: HTTPException) -> str:
        return f"{error.code} {ctx.request.path}"

    assert (await ask(app, "/socket")).text == "426 /socket"


async def test_a_plain_request_for_a_socket_on_http2() -> None:
    """HTTP/2 has no upgrades, and so no status that asks for one (RFC 9113 section 8.6)."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding="ascii"))
    client.initiate_connection()
    head = {":method": "GET", ":scheme": "http", ":authority": "a", ":path": "/socket"}
    client.send_headers(1, list(head.items()), end_stream=True)
    async with MemoryServer(socket_app()) as server:
        transport = server.connect_http2()
        transport.feed(client.data_to_send())
        heads: list[ResponseReceived] = []
        while not heads:
            await transport.changed.wait()
            transport.changed.clear()
            events = client.receive_data(transport.take())
            heads += [event for event in events if isinstance(event, ResponseReceived)]
    headers = dict(heads[0].headers)
    assert headers[":status"] == "400"
    assert "upgrade" not in headers


def test_names_in_the_log() -> None:
    ctx = context(Kyoukai("test"))
    assert name_of(ctx.request) == "request (GET '/path')"
