"""The lifespan of ASGI applications: once for each, in one task, and what fails in it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asphalt.core import Context
from backends.support import Clock
from interfaces.asgi_peers import body, hosted, interface, sends, sound, start  # noqa: F401
from talks import lines_of, turns

from kyoukai.exceptions import KyoukaiError
from kyoukai.interfaces.asgi import AsgiInterface
from kyoukai.interfaces.lifespan import _running

STARTED = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}


def failed(phase: str, **more: Any) -> dict[str, Any]:
    return {"type": f"lifespan.{phase}.failed", **more}


class Living:
    """An application with a lifespan, of which it keeps what happened."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.scopes: list[dict[str, Any]] = []
        self.tasks: set[Any] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] != "lifespan":
            await sends(start(), body(b"ok"))(scope, receive, send)
            return
        self.tasks.add(asyncio.current_task())
        assert await receive() == {"type": "lifespan.startup"}
        scope["state"]["pool"] = self
        self.events.append("started")
        await send(STARTED)
        assert await receive() == {"type": "lifespan.shutdown"}
        self.tasks.add(asyncio.current_task())
        self.events.append("stopped")
        await send(STOPPED)


@asynccontextmanager
async def living(*interfaces: AsgiInterface) -> AsyncIterator[None]:
    async with Context() as context:
        for each in interfaces:
            await each.startup(context)
        try:
            yield
        finally:
            for each in reversed(interfaces):
                await each.shutdown()


def made(app: Any, lifespan: str = "auto", **settings: Any) -> AsgiInterface:
    return interface(app, lifespan=lifespan, **settings)


async def fails(app: Any, lifespan: str = "auto", **settings: Any) -> str:
    """Return the error of a startup; nothing of it is left."""
    one = made(app, lifespan, **settings)
    with pytest.raises(KyoukaiError) as told:
        await one.startup(Context())
    await one.shutdown()
    assert not _running[asyncio.get_running_loop()]
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    return str(told.value)


# -- How it goes -------------------------------------------------------------------------------


@pytest.mark.parametrize("lifespan", ["auto", "on"])
async def test_a_lifespan(lifespan: str, caplog: pytest.LogCaptureFixture) -> None:
    app = Living()
    one = made(app, lifespan)
    async with hosted(one) as peer:
        assert app.events == ["started"]
        assert app.scopes[0] == {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": {"pool": app},
        }
        for _ in range(2):
            peer.request()
            await peer.response()
            state = app.scopes[-1]["state"]
            assert state == {"pool": app}  # a copy: what requests add is their own
            state["mine"] = True
        assert app.events == ["started"]
    assert app.events == ["started", "stopped"]
    assert len(app.tasks) == 1
    assert app.tasks.pop().done()
    assert lines_of(caplog) == []


async def test_off() -> None:
    app = Living()
    async with hosted(made(app, "off")) as peer:
        peer.request()
        await peer.response()
    assert app.events == []
    assert app.scopes[0]["state"] == {}


async def test_once_for_each_application() -> None:
    app, other = Living(), Living()
    interfaces = [made(each) for each in (app, other, app, app)]
    async with living(*interfaces):
        assert (app.events, other.events) == (["started"], ["started"])
        await interfaces[0].shutdown()
        await interfaces[0].shutdown()  # which says nothing more
        await interfaces[2].shutdown()
        assert app.events == ["started"]
        await interfaces[3].shutdown()
        assert app.events == ["started", "stopped"]
        assert other.events == ["started"]
    assert other.events == ["started", "stopped"]


async def test_interfaces_of_one_application_share_its_state() -> None:
    app = Living()
    one, two = made(app), made(app)
    async with living(one, two):
        for each in (one, two):
            async with hosted(each) as peer:
                peer.request()
                await peer.response()
            assert app.scopes[-1]["state"] == {"pool": app}


async def test_components_that_start_side_by_side() -> None:
    """The second waits for what the first has begun, and gets the same outcome."""
    go = asyncio.Event()
    count = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        count.append(1)
        await receive()
        await go.wait()
        await send(failed("startup", message="no"))

    one, two = made(app), made(app)
    context = Context()
    tasks = [asyncio.create_task(each.startup(context)) for each in (one, two)]
    await turns()
    assert not any(task.done() for task in tasks)
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [KyoukaiError] * 2
    assert len(count) == 1
    assert not _running[asyncio.get_running_loop()]


async def test_a_bound_method_is_one_application() -> None:
    class Site:
        count = 0

        async def app(self, scope: Any, receive: Any, send: Any) -> None:
            self.count += 1
            await receive()
            await send(STARTED)
            await receive()
            await send(STOPPED)

    site, other = Site(), Site()
    async with living(made(site.app), made(site.app), made(other.app)):
        assert (site.count, other.count) == (1, 1)


async def test_another_lifespan_after_the_first() -> None:
    app = Living()
    one = made(app)
    for _ in range(2):
        async with living(one):
            pass
    assert app.events == ["started", "stopped"] * 2


def test_each_loop_has_its_own() -> None:
    app = Living()

    async def main() -> None:
        async with living(made(app)):
            assert app.events[-1] == "started"

    for _ in range(2):
        asyncio.run(main())
    assert app.events == ["started", "stopped"] * 2


async def test_the_context_is_that_of_one_task() -> None:
    """Cancel scopes and context variables must be left where they were entered."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    done = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        token = variable.set(1)
        async with asyncio.timeout(100):
            await receive()
            await send(STARTED)
            await receive()
            await send(STOPPED)
        variable.reset(token)
        done.append(True)

    async with living(made(app)):
        pass
    assert done == [True]


# -- Applications without one ------------------------------------------------------------------


async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError(f"no {scope['type']}")


async def receives_and_raises(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise AssertionError("only http\nis known")


async def says_nothing(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError


async def returns(scope: Any, receive: Any, send: Any) -> None:
    pass


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await sends(start(), body(b"ok"))(scope, receive, send)


WITHOUT = [
    (raises, "NotImplementedError: no lifespan"),
    (receives_and_raises, "AssertionError: only http"),
    (says_nothing, "ValueError"),
    (returns, "it returned"),
    (answers, "InterfaceError: http.response.start is no message of a lifespan scope"),
]


@pytest.mark.parametrize(("app", "why"), WITHOUT)
async def test_an_application_without_one(
    app: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kyoukai")
    async with living(made(app)):
        pass
    assert lines_of(caplog) == []
    (line,) = lines_of(caplog, logging.INFO)
    assert line == f"test:app: the application has no lifespan: {why}"


@pytest.mark.parametrize(("app", "why"), WITHOUT)
async def test_an_application_that_must_have_one(app: Any, why: str) -> None:
    message = await fails(app, "on")
    assert message == f"test:app: the application has no lifespan, and lifespan is on: {why}"


# -- Starts that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("lifespan", ["auto", "on"])
@pytest.mark.parametrize("after", ["returns", "raises", "receives"])
@pytest.mark.parametrize(
    ("message", "line", "logged"),
    [
        ({"message": "no database"}, "no database", False),
        ({"message": "Traceback:\n  File\nValueError: no\n"}, "ValueError: no", True),
        ({"message": ""}, "it has given no reason", False),
        ({}, "it has given no reason", False),
    ],
)
async def test_a_start_that_fails(
    lifespan: str,
    after: str,
    message: dict[str, Any],
    line: str,
    logged: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(failed("startup", **message))
        if after == "raises":  # as Starlette does
            raise ValueError("no")
        if after == "receives":
            await receive()

    assert await fails(app, lifespan) == f"test:app: the application cannot start: {line}"
    lines = lines_of(caplog)
    assert len(lines) == logged
    if logged:
        assert lines[0].startswith(
            "asgi application test:app: lifespan.startup.failed: Traceback:\n"
        )


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_start_that_takes_too_long(stubborn: bool) -> None:
    ended = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)
            if stubborn:
                raise LookupError

    message = await fails(app, lifespan_timeout=0.01)
    assert message == (
        "test:app: the application has not answered lifespan.startup in 0.01 seconds"
        " (lifespan_timeout)"
    )
    assert ended == [True]


async def test_without_a_limit() -> None:
    async with living(made(Living(), lifespan_timeout=0)):
        pass


async def test_a_start_that_is_cancelled() -> None:
    ended = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    one = made(app)
    starting = asyncio.create_task(one.startup(Context()))
    await turns()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert ended == [True]
    await one.shutdown()
    assert not _running[asyncio.get_running_loop()]


async def test_a_component_that_is_cancelled_leaves_the_start_to_others() -> None:
    go = asyncio.Event()
    app = Living()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await app(scope, receive, send)

    one, two = made(slow), made(slow)
    tasks = [asyncio.create_task(each.startup(Context())) for each in (one, two)]
    await turns()
    tasks[0].cancel()
    await turns()
    go.set()
    await tasks[1]
    assert tasks[0].cancelled()
    assert app.events == ["started"]
    await two.shutdown()
    assert app.events == ["started", "stopped"]


# -- Ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "last", "logged"),
    [
        ([STOPPED], None, []),
        ([STOPPED], "receives", []),
        ([STOPPED], "raises", ["it failed in its lifespan"]),
        ([], None, []),
        ([], "raises", ["it failed in its lifespan"]),
        ([], "waits", ["it has not answered lifespan.shutdown in 60 seconds"]),
        ([STOPPED], "waits", []),
        ([failed("shutdown", message="no")], None, ["lifespan.shutdown.failed: no"]),
        ([failed("shutdown")], "raises", ["lifespan.shutdown.failed: "]),
        (
            [{"type": "lifespan.shutdown"}],
            None,
            ["it failed in its lifespan"],
        ),
    ],
)
async def test_ends(
    messages: Any, last: str | None, logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(STARTED)
        assert await receive() == {"type": "lifespan.shutdown"}
        for message in messages:
            await send(message)
        if last == "receives":  # a loop without an end
            while True:
                await receive()
        if last == "waits":
            await clock.advance(61)
            await asyncio.get_running_loop().create_future()
        if last == "raises":
            raise LookupError

    clock = Clock()
    async with living(made(app)):
        pass
    assert lines_of(caplog) == [f"asgi application test:app: {line}" for line in logged]
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_a_task_that_ends_early(how: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(STARTED)
        if how == "raises":
            raise LookupError

    async with living(made(app)):
        await turns()
        lines = lines_of(caplog)  # at once, not at the end
    assert lines == lines_of(caplog)
    failure = "asgi application test:app: it failed in its lifespan"
    assert lines == ([failure] if how == "raises" else [])


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (STARTED, "lifespan.startup.complete after another answer to lifespan.startup"),
        (failed("startup"), "lifespan.startup.failed after another answer to lifespan.startup"),
        (STOPPED, "lifespan.shutdown.complete before lifespan.shutdown"),
        (start(), "http.response.start is no message of a lifespan scope"),
        ({"type": "lifespan.startup"}, "lifespan.startup is no message of a lifespan scope"),
        ({"type": "x.lifespan.startup.complete"}, "x.lifespan.startup.complete is no message of a"),
        ({}, "the type of a message is a str, not NoneType"),
        (None, "a message is a dict, not NoneType"),
    ],
)
async def test_messages_out_of_order(
    message: Any, rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(STARTED)
        await send(message)

    async with living(made(app)):
        await turns()
    assert lines_of(caplog) == ["asgi application test:app: it failed in its lifespan"]
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert str(record.exc_info[1]).startswith(rule)


async def test_a_reason_of_a_wrong_type() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(failed("startup", message=b"no"))

    message = await fails(app, "on")
    assert message.endswith("lifespan.startup.failed: message must be a str or None, not bytes")
