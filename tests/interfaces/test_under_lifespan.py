"""Kyoukai applications as ASGI applications: from their start to their end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.testing import ApplicationCommunicator
from talks import lines_of
from under_ways import Lifespan, ask, hello, http_app, http_scope, talk

from kyoukai import HTTPRequestContext, Kyoukai
from kyoukai.exceptions import ConfigurationError, InterfaceError, KyoukaiError, StreamError
from kyoukai.interfaces.under_asgi import as_asgi

if TYPE_CHECKING:
    from asphalt.core import Context

COMPLETE = {"type": "lifespan.startup.complete"}


def app_with_a_log() -> tuple[Kyoukai, list[str]]:
    app = http_app(hello)
    log: list[str] = []

    @app.before_serving
    async def before(ctx: Context) -> None:
        log.append("up")

    @app.after_serving
    async def after(ctx: Context) -> None:
        log.append("down")

    return app, log


def test_without_a_lifespan_the_first_request_starts_and_the_loops_end_ends() -> None:
    app, log = app_with_a_log()
    application = as_asgi(app)

    async def main() -> None:
        answers = await asyncio.gather(*[ask(application) for _ in range(5)])
        assert {answer.body for answer in answers} == {b"hello"}
        assert log == ["up"]

    asyncio.run(main())
    assert log == ["up", "down"]
    asyncio.run(main_again(application))
    assert log == ["up", "down", "up", "down"]


async def main_again(application: Any) -> None:
    async with Lifespan(application):
        assert (await ask(application)).body == b"hello"


async def test_two_lifespans_share_one_life() -> None:
    app, log = app_with_a_log()
    application = as_asgi(app)
    async with Lifespan(application):
        async with Lifespan(application):
            pass
        assert log == ["up"]
        assert (await ask(application)).body == b"hello"
    assert log == ["up", "down"]


async def test_a_start_that_fails_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    app = http_app(hello)
    ended = []

    @app.before_serving
    async def before(ctx: Context) -> None:
        ctx.add_teardown_callback(lambda: ended.append("context"))
        raise OSError("no database\nat all")

    application = as_asgi(app)
    assert await Lifespan(application).begin() == {
        "type": "lifespan.startup.failed",
        "message": "OSError: no database at all",
    }
    assert "before_serving" in caplog.text or "no database" in caplog.text
    assert ended == ["context"]
    communicator = talk(application)
    with pytest.raises(OSError, match="no database"):
        await communicator.wait()


async def test_a_wrong_mount_is_told_at_the_start() -> None:
    app = http_app(hello)
    app.mount("/x", "no_such_module:app")
    message = await Lifespan(as_asgi(app)).begin()
    assert message["type"] == "lifespan.startup.failed"
    assert "no_such_module" in message["message"]
    assert "\n" not in message["message"]


async def test_an_end_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    app = http_app(hello)

    @app.before_serving
    async def before(ctx: Context) -> None:
        ctx.add_teardown_callback(fails)

    def fails() -> None:
        raise OSError("it does not close")

    lifespan = Lifespan(as_asgi(app))
    assert await lifespan.begin() == COMPLETE
    message = await lifespan.end()
    assert message["type"] == "lifespan.shutdown.failed"
    assert "it does not close" in message["message"]


async def test_requests_in_progress_end_before_the_application(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, log = app_with_a_log()
    began = asyncio.Event()

    @app.route("/long")
    async def long(ctx: HTTPRequestContext) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")
        return ""

    application = as_asgi(app, settings={"graceful_timeout": 0})
    lifespan = Lifespan(application)
    await lifespan.begin()
    communicator = talk(application, target="/long")
    await communicator.send_input({"type": "http.request"})
    await began.wait()
    assert await lifespan.end() == {"type": "lifespan.shutdown.complete"}
    assert log == ["up", "cancelled", "down"]
    with pytest.raises(StreamError, match="must close this connection: cancelled"):
        await communicator.wait()
    assert lines_of(caplog) == []


async def test_a_request_while_the_application_stops_starts_nothing() -> None:
    app, log = app_with_a_log()
    stopping, go_on = asyncio.Event(), asyncio.Event()

    @app.after_serving
    async def slowly(ctx: Context) -> None:
        stopping.set()
        await go_on.wait()

    application = as_asgi(app)
    lifespan = Lifespan(application)
    await lifespan.begin()
    end = asyncio.create_task(lifespan.end())
    await stopping.wait()
    late = talk(application)
    with pytest.raises(KyoukaiError, match="stopping"):
        await late.wait()
    assert (await Lifespan(application).begin())["type"] == "lifespan.startup.failed"
    go_on.set()
    assert (await end)["type"] == "lifespan.shutdown.complete"
    assert log == ["up", "down"]


def test_settings_are_checked_at_once() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'max_body_size'"):
        as_asgi(http_app(hello), settings={"max_bodysize": 1})


async def test_scopes_and_messages_that_are_not_known() -> None:
    application = as_asgi(http_app(hello))
    for scope, message, said in (
        ({"type": "carrier-pigeon"}, None, "carrier-pigeon"),
        ({"type": "lifespan"}, {"type": "lifespan.shutdown"}, "lifespan.shutdown"),
        ({**http_scope(), "type": "websocket"}, {"type": "http.request"}, "http.request"),
    ):
        communicator = ApplicationCommunicator(application, scope)
        if message is not None:
            await communicator.send_input(message)
        with pytest.raises(InterfaceError, match=said):
            await communicator.wait()
