"""The way of a WebSocket through the pipeline: how handlers end, and what that means."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from talks import Outcome, app_with, ask, both, converse, lines_of, run, turns
from werkzeug.exceptions import Conflict, Forbidden, HTTPException, NotFound, abort
from werkzeug.wrappers import Response as WerkzeugResponse

from kyoukai import Kyoukai, WebSocketDisconnected
from kyoukai.testing import Client

if TYPE_CHECKING:
    from kyoukai import WebSocket, WebSocketContext

Ctx = Any


# -- How a handler ends ------------------------------------------------------------------------


@both
async def test_a_handler_that_returns(http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def after(ctx: Ctx, ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text("last words")

    async def before(ctx: Ctx, ws: WebSocket) -> None:
        pass

    outcome = await run(after, http2=http2)
    assert outcome == Outcome(None, 1000, "Normal Closure", ("last words",))
    outcome = await run(before, http2=http2)
    assert (outcome.status, outcome.denied and outcome.denied.body) == (403, b"")
    assert lines_of(caplog) == []


@both
async def test_what_a_handler_returns_does_not_matter(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> str:
        await ws.accept()
        return "a response"

    assert (await run(handler, http2=http2)).code == 1000


@both
@pytest.mark.parametrize("accepted", [False, True])
async def test_a_handler_that_fails(
    http2: bool, accepted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        if accepted:
            await ws.accept()
        raise LookupError("in the handler")

    outcome = await run(handler, http2=http2)
    if accepted:
        assert (outcome.code, outcome.reason) == (1011, "Internal Server Error")
    else:
        assert outcome.status == 500
        assert outcome.denied
        assert "LookupError" not in outcome.denied.text
    (line,) = lines_of(caplog)
    assert "failed" in line
    assert "LookupError: in the handler" in caplog.text


@both
async def test_the_code_of_failures(http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        await ws.accept()
        raise LookupError

    app = app_with(handler)
    assert app.ws_options.error_close_code == 1011
    app.ws_options.error_close_code = 3011
    app.ws_options.default_close_reasons[3011] = "Our fault"
    outcome = await ask(app, http2=http2)
    assert (outcome.code, outcome.reason) == (3011, "Our fault")


@both
@pytest.mark.parametrize("error", [Conflict("taken"), NotFound(), Forbidden()])
async def test_an_http_error(
    http2: bool, error: HTTPException, caplog: pytest.LogCaptureFixture
) -> None:
    async def before(ctx: Ctx, ws: WebSocket) -> None:
        raise error

    async def after(ctx: Ctx, ws: WebSocket) -> None:
        await ws.accept()
        raise error

    assert error.code is not None
    outcome = await run(before, http2=http2)
    assert outcome.denied
    assert outcome.status == error.code
    assert error.get_description() in outcome.denied.text
    outcome = await run(after, http2=http2)
    assert (outcome.code, outcome.reason) == (3000 + error.code, error.name)
    assert lines_of(caplog) == []


@both
async def test_an_http_error_keeps_its_headers(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        abort(WerkzeugResponse("pay", 402, {"X-Price": "3"}))

    async def accepted(ctx: Ctx, ws: WebSocket) -> None:
        await ws.accept()
        abort(WerkzeugResponse("pay", 402))

    outcome = await run(handler, http2=http2)
    assert outcome.denied
    assert (outcome.status, outcome.denied.text) == (402, "pay")
    assert outcome.denied.headers["X-Price"] == "3"
    assert (await run(accepted, http2=http2)).code == 3402


@both
@pytest.mark.parametrize("status", [101, 200, 204, 299])
async def test_no_answer_looks_like_acceptance(
    http2: bool, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """On HTTP/2 a 200 would open the WebSocket (RFC 8441 section 5)."""

    async def aborts(ctx: Ctx, ws: WebSocket) -> None:
        abort(WerkzeugResponse("fine", status))

    async def fails(ctx: Ctx, ws: WebSocket) -> None:
        raise KeyError

    outcome = await run(aborts, http2=http2)
    assert outcome.denied
    assert (outcome.status, outcome.denied.text) == (403, "fine")
    app = app_with(fails)

    @app.errorhandler(KeyError)
    async def wrong(ctx: Ctx, error: KeyError) -> Any:
        return WerkzeugResponse("fine", status)

    outcome = await ask(app, http2=http2)
    assert outcome.denied
    assert (outcome.status, outcome.denied.text) == (500, "fine")
    assert lines_of(caplog) == []


@both
async def test_a_handler_that_fails_after_it_has_closed(
    http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def closes(ctx: Ctx, ws: WebSocket) -> None:
        await ws.accept()
        await ws.close(3333, "bye")
        raise LookupError("afterwards")

    async def denies(ctx: Ctx, ws: WebSocket) -> None:
        await ws.deny(410)
        raise LookupError("afterwards")

    outcome = await run(closes, http2=http2)
    assert (outcome.code, outcome.reason) == (3333, "bye")
    assert (await run(denies, http2=http2)).status == 410
    assert caplog.text.count("LookupError: afterwards") == 2


@both
async def test_media_that_a_handler_lets_through(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        await ws.accept()
        await ws.receive_media()

    async with Client(app_with(handler)) as client, client.websocket("/", http2=http2) as ws:
        await ws.send_text("{")
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (3400, "Bad Request")


# -- Disconnected ------------------------------------------------------------------------------


async def drop(client: Client, *, http2: bool) -> None:
    """Open a WebSocket, close it, and wait until the server is done with it."""
    async with client.websocket("/", http2=http2) as ws:
        await ws.close(4004, "gone")
    await turns()


async def listener(ctx: Ctx, ws: WebSocket) -> None:
    await ws.accept()
    await ws.receive()


@both
async def test_a_disconnection_that_is_let_through(
    http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_with(listener)
    seen: list[Any] = []

    @app.errorhandler(Exception)
    async def general(ctx: Ctx, error: BaseException) -> str:
        seen.append(error)
        return "no"

    app.add_errorhandler(general, 500)
    async with Client(app) as client:
        await drop(client, http2=http2)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelno == logging.WARNING
    assert "4004 (gone)" in record.getMessage()
    assert "'/'" in record.getMessage()
    assert record.exc_info is None
    assert seen == []


@both
async def test_a_disconnection_that_ends_a_group_of_tasks(
    http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        await ws.accept()
        async with asyncio.TaskGroup() as group:
            group.create_task(ws.receive())
            group.create_task(ws.ping())

    async with Client(app_with(handler)) as client:
        await drop(client, http2=http2)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelno == logging.WARNING
    assert "4004" in record.getMessage()
    assert record.exc_info is None


@both
@pytest.mark.parametrize("expected", [WebSocketDisconnected, ConnectionError])
async def test_a_handler_of_disconnections(
    http2: bool, expected: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    app = app_with(listener)
    seen: list[Any] = []

    @app.errorhandler(expected)
    async def particular(ctx: Ctx, error: WebSocketDisconnected, ws: WebSocket) -> None:
        seen.append((error.code, error.reason, ws is ctx.ws, ws.closed))

    async with Client(app) as client:
        await drop(client, http2=http2)
    assert seen == [(4004, "gone", True, True)]
    assert lines_of(caplog) == []


@both
async def test_a_disconnection_of_another_socket(
    http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler has failed; its own client is there, and is told so."""
    app = Kyoukai("test")
    others: list[WebSocket] = []

    @app.websocket("/")
    async def first(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()
        others.append(ws)
        await ws.wait_closed()

    @app.websocket("/second")
    async def second(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()
        await others[0].send_text("hello")

    async with Client(app) as client:
        await drop(client, http2=http2)
        outcome = await converse(client, "/second", http2=http2)
    assert outcome.code == 1011
    (line,) = lines_of(caplog)
    assert "4004 (gone)" in line
    assert "'/second'" in line


async def abandon(client: Client, entered: asyncio.Event, *, http2: bool) -> None:
    """Ask for a WebSocket, and leave before the answer."""
    asking = asyncio.create_task(converse(client, http2=http2))
    await entered.wait()
    asking.cancel()  # which closes the connection
    await asyncio.wait([asking])


@both
async def test_a_client_that_leaves_before_the_answer(http2: bool) -> None:
    """As for a request, the handler is cancelled: nobody waits for it."""
    app = Kyoukai("test")
    entered, ended = asyncio.Event(), asyncio.Event()
    seen: list[Any] = []

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append((ws.unaccepted, ws.ready))
            raise
        finally:
            ended.set()

    async with Client(app) as client:
        await abandon(client, entered, http2=http2)
        await ended.wait()
    assert seen == [(True, False)]


@both
async def test_a_handler_that_accepts_too_late(
    http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = Kyoukai("test")
    entered, gone = asyncio.Event(), asyncio.Event()

    @app.websocket("/", cancel_on_disconnect=False)
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        entered.set()
        await ctx.disconnected()
        gone.set()
        await ws.accept()

    async with Client(app) as client:
        await abandon(client, entered, http2=http2)
        await gone.wait()
        await turns()
    (line,) = lines_of(caplog)
    assert line.endswith("the WebSocket is closed: 1006")


@both
@pytest.mark.parametrize("what", ["accept", "deny", "wait_closed"])
async def test_a_client_that_is_gone_before_the_answer(http2: bool, what: str) -> None:
    app = Kyoukai("test")
    entered, done = asyncio.Event(), asyncio.Event()
    seen: list[Any] = []

    @app.websocket("/", cancel_on_disconnect=False)
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        entered.set()
        await ctx.disconnected()
        try:
            await getattr(ws, what)()
        except WebSocketDisconnected as error:
            seen.append(error.code)
        seen.append((ws.ready, ws.close_code))
        await ws.close()  # does nothing, and does not fail
        done.set()

    async with Client(app) as client:
        await abandon(client, entered, http2=http2)
        await done.wait()
        await turns()
    assert seen == [1006, (False, None)] if what != "wait_closed" else [(False, None)]


# -- The end of the server ---------------------------------------------------------------------


@both
async def test_the_server_stops(http2: bool) -> None:
    """Clients get 1001, and handlers finish what they do."""
    app = Kyoukai("test")
    steps: list[Any] = []

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()
        try:
            await ws.receive()
        except WebSocketDisconnected as error:
            steps.append((error.code, ws.closed, ws.close_code))
        await asyncio.sleep(0)
        steps.append("cleaned up")

    async with Client(app) as client, client.websocket("/", http2=http2) as ws:
        await turns()
        client.server.connections.shutdown()
        await ws.wait_closed()
        assert ws.close_code == 1001
        assert ws.close_reason
        await client.server.connections.wait_idle()
        assert steps == [(1001, True, 1001), "cleaned up"]


@both
async def test_a_socket_that_is_accepted_while_the_server_stops(http2: bool) -> None:
    app = Kyoukai("test")
    entered, go = asyncio.Event(), asyncio.Event()

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        entered.set()
        await go.wait()
        await ws.accept()
        await ws.send_text("just in time")
        await ws.wait_closed()
        assert ws.close_code == 1001

    async with Client(app) as client:
        talking = asyncio.create_task(converse(client, http2=http2))
        await entered.wait()
        client.server.connections.shutdown()
        go.set()
        outcome = await talking
    assert (outcome.code, outcome.messages) == (1001, ("just in time",))
