"""Error handlers of WebSockets: before acceptance they answer, after it they choose the code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from talks import Outcome, app_with, ask, both, lines_of
from werkzeug.exceptions import Conflict, NotFound

from kyoukai import Blueprint, Kyoukai, MediaError
from kyoukai.testing import Client

if TYPE_CHECKING:
    from kyoukai import WebSocket, WebSocketContext

Ctx = Any


# -- Error handlers ----------------------------------------------------------------------------


@both
async def test_error_handlers_answer_before_acceptance(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        raise KeyError("missing")

    app = app_with(handler)

    @app.errorhandler(KeyError)
    async def wrong(ctx: Ctx, error: KeyError, ws: WebSocket) -> Any:
        assert ws.unaccepted
        return {"error": error.args[0]}, 422, {"X-A": "b"}

    @app.errorhandler(404)
    async def missing(ctx: Ctx, error: NotFound) -> str:
        return "nothing here"

    outcome = await ask(app, http2=http2)
    assert outcome.denied
    assert (outcome.status, outcome.denied.json()) == (422, {"error": "missing"})
    assert outcome.denied.headers["X-A"] == "b"
    outcome = await ask(app, "/other", http2=http2)
    assert outcome.denied
    assert (outcome.status, outcome.denied.text) == (404, "nothing here")


@both
@pytest.mark.parametrize(
    "answer, code",
    [
        ("text", 1011),  # status 500, as without a status
        (("text", 418), 3418),
        (("text", 503), 1011),
        (("text", 200), 1011),
    ],
)
async def test_error_handlers_choose_the_code_after_it(http2: bool, answer: Any, code: int) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        await ws.accept()
        raise KeyError

    app = app_with(handler)

    @app.errorhandler(KeyError)
    async def wrong(ctx: Ctx, error: KeyError) -> Any:
        return answer

    assert (await ask(app, http2=http2)).code == code


@both
async def test_an_error_handler_for_http_errors_chooses_the_code_too(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        await ws.accept()
        raise Conflict

    app = app_with(handler)

    @app.errorhandler(409)
    async def wrong(ctx: Ctx, error: Conflict) -> Any:
        return "later", 503

    assert (await ask(app, http2=http2)).code == 3503


@both
async def test_error_handlers_close_by_themselves(http2: bool) -> None:
    app = Kyoukai("test")

    @app.websocket("/<when>")
    async def handler(ctx: WebSocketContext, ws: WebSocket, when: str) -> None:
        if when == "after":
            await ws.accept()
        raise KeyError

    @app.errorhandler(KeyError)
    async def wrong(ctx: Ctx, error: KeyError, ws: WebSocket) -> None:
        if ws.unaccepted:
            await ws.deny(451, "censored")
        else:
            await ws.send_text("sorry")
            await ws.close(4999, "that was it")

    outcome = await ask(app, "/before", http2=http2)
    assert outcome.denied
    assert (outcome.status, outcome.denied.text) == (451, "censored")
    outcome = await ask(app, "/after", http2=http2)
    assert outcome == Outcome(None, 4999, "that was it", ("sorry",))


@both
async def test_an_error_handler_that_accepts(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        raise Conflict

    app = app_with(handler)

    @app.errorhandler(409)
    async def wrong(ctx: Ctx, error: Conflict, ws: WebSocket) -> str:
        await ws.accept()
        await ws.send_text(error.name)
        return "not sent"

    assert await ask(app, http2=http2) == Outcome(None, 3409, "Conflict", ("Conflict",))


@both
@pytest.mark.parametrize("accepted", [False, True])
async def test_an_error_handler_that_fails(
    http2: bool, accepted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        if accepted:
            await ws.accept()
        raise KeyError

    app = app_with(handler)

    @app.errorhandler(KeyError)
    async def wrong(ctx: Ctx, error: KeyError) -> Any:
        raise LookupError("in the error handler")

    outcome = await ask(app, http2=http2)
    assert (outcome.status, outcome.code) == ((None, 1011) if accepted else (500, None))
    assert "LookupError: in the error handler" in caplog.text
    assert len(lines_of(caplog)) == 1


@both
async def test_an_error_handler_that_raises_an_http_error(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        raise KeyError

    app = app_with(handler)

    @app.errorhandler(KeyError)
    async def wrong(ctx: Ctx, error: KeyError) -> Any:
        raise Conflict

    assert (await ask(app, http2=http2)).status == 409


@both
async def test_an_answer_that_may_not_be_sent(
    http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        raise KeyError

    app = app_with(handler)

    @app.errorhandler(KeyError)
    async def wrong(ctx: Ctx, error: KeyError) -> Any:
        return "text", 400, {"X-Snow": "☃"}

    assert (await ask(app, http2=http2)).status == 500
    assert "X-Snow" in caplog.text or "Latin-1" in caplog.text


@both
async def test_error_handlers_of_blueprints(http2: bool) -> None:
    app = Kyoukai("test")
    below = Blueprint("below", prefix="/below")
    app.register_blueprint(below)

    @below.errorhandler(KeyError)
    async def wrong(ctx: Ctx, error: KeyError, ws: WebSocket) -> None:
        await ws.close(4001)

    @app.errorhandler(KeyError)
    async def root(ctx: Ctx, error: KeyError, ws: WebSocket) -> None:
        await ws.close(4002)

    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()
        raise KeyError

    below.websocket("/")(handler)
    app.websocket("/other")(handler)
    assert (await ask(app, "/below/", http2=http2)).code == 4001
    assert (await ask(app, "/other", http2=http2)).code == 4002


@both
async def test_media_errors_go_to_their_handler(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        await ws.accept()
        await ws.receive_media()

    app = app_with(handler)

    @app.errorhandler(MediaError)
    async def unreadable(ctx: Ctx, error: MediaError, ws: WebSocket) -> None:
        await ws.close(1007, error.payload_type)

    async with Client(app) as client, client.websocket("/", http2=http2) as ws:
        await ws.send_data(b"\xc1")
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (1007, "binary")
