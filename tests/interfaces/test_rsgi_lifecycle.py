"""``__rsgi_init__`` and ``__rsgi_del__``, and the loop that they are given."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from asphalt.core import Context
from interfaces.rsgi_peers import TEXT, hosted, interface
from talks import lines_of

from kyoukai.exceptions import KyoukaiError
from kyoukai.interfaces.rsgi_loop import LoopStandIn

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.interfaces.rsgi import RsgiInterface


class Application:
    """Notes what is called, and may do something of its own."""

    def __init__(self, init: Any = None, end: Any = None) -> None:
        self.steps: list[Any] = []
        self.loops: list[Any] = []
        self._init = init
        self._end = end

    def __rsgi_init__(self, loop: Any) -> Any:
        self.steps.append("init")
        self.loops.append(loop)
        return self._init(loop) if self._init is not None else None

    def __rsgi_del__(self, loop: Any) -> Any:
        self.steps.append("del")
        self.loops.append(loop)
        return self._end(loop) if self._end is not None else None

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        self.steps.append(scope.path)
        proto.response_str(200, [TEXT], "x")


async def start(*interfaces: RsgiInterface) -> None:
    context = Context()
    for each in interfaces:
        await each.startup(context)
    await context.close()


async def test_before_the_first_and_after_the_last_request() -> None:
    app = Application()
    async with hosted(app) as peer:
        assert app.steps == ["init"]
        peer.request("GET", "/a")
        await peer.response()
    assert app.steps == ["init", "/a", "del"]
    assert app.loops[0] is app.loops[1]


async def test_both_are_optional() -> None:
    async def application(scope: Any, proto: Any) -> None:
        proto.response_str(200, [TEXT], "x")

    seen: list[Any] = []
    async with hosted(application) as peer:
        peer.request("GET", "/")
        await peer.response()
    application.__rsgi_init__ = seen.append  # type: ignore[attr-defined]
    async with hosted(application):
        assert len(seen) == 1
    assert len(seen) == 1


# -- Once --------------------------------------------------------------------------------------


async def test_once_for_every_application() -> None:
    app, other = Application(), Application()
    first, second, third = interface(app), interface(app), interface(other)
    await start(first, first, second, third)
    assert app.steps == other.steps == ["init"]
    await first.shutdown()
    await first.shutdown()
    assert app.steps == ["init"]
    await second.shutdown()
    await third.shutdown()
    assert app.steps == other.steps == ["init", "del"]
    await start(first)
    await first.shutdown()
    assert app.steps == ["init", "del"] * 2


async def test_once_for_a_bound_method() -> None:
    """Which is a new object each time that it is named."""
    seen: list[Any] = []

    class Class:
        async def app(self, scope: Any, proto: Any) -> None:
            pass

    Class.app.__rsgi_init__ = seen.append  # type: ignore[attr-defined]
    made = Class()
    first, second = interface(made.app), interface(made.app)
    await start(first, second)
    assert len(seen) == 1
    await first.shutdown()
    await second.shutdown()


async def test_who_starts_it_at_the_same_time_waits_for_it() -> None:
    go = threading.Event()
    app = Application(lambda loop: go.wait())
    first, second = interface(app), interface(app)
    tasks = [asyncio.create_task(start(each)) for each in (first, second)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    go.set()
    await asyncio.gather(*tasks)
    assert app.steps == ["init"]
    await first.shutdown()
    await second.shutdown()


def test_for_every_loop() -> None:
    app = Application()

    async def live() -> None:
        made = interface(app)
        await start(made)
        await made.shutdown()

    asyncio.run(live())
    asyncio.run(live())
    assert app.steps == ["init", "del"] * 2


# -- Failing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (LookupError("no\n  such thing"), "LookupError: no such thing"),
        (SystemExit(1), "SystemExit: 1"),
        (KeyError(), "KeyError"),
    ],
)
async def test_init_that_fails(error: BaseException, text: str, caplog: Any) -> None:
    def fail(loop: Any) -> None:
        raise error

    app = Application(fail)
    made = interface(app)
    with pytest.raises(KyoukaiError) as caught:
        await start(made)
    assert str(caught.value) == f"test:app: the application cannot start: __rsgi_init__: {text}"
    assert caught.value.__cause__ is error
    await made.shutdown()
    assert app.steps == ["init"]
    assert not lines_of(caplog)


async def test_init_that_fails_for_all_who_wait() -> None:
    go = threading.Event()

    def fail(loop: Any) -> None:
        go.wait()
        raise LookupError

    app = Application(fail)
    tasks = [asyncio.create_task(start(interface(app))) for _ in range(2)]
    await asyncio.sleep(0)
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [KyoukaiError] * 2
    assert app.steps == ["init"]


async def test_del_that_fails(caplog: Any) -> None:
    def fail(loop: Any) -> None:
        raise LookupError("mine")

    async with hosted(Application(end=fail)):
        pass
    assert lines_of(caplog) == ["rsgi application test:app: __rsgi_del__ failed"]
    assert caplog.records[0].exc_info[0] is LookupError


async def test_a_start_that_is_cancelled() -> None:
    """What waits in ``run_until_complete`` is told, and does not begin to live."""
    waiting, ended = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    async def forever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    def init(loop: Any) -> None:
        try:
            loop.run_until_complete(forever())
        except BaseException as error:
            errors.append(error)
            try:
                loop.run_until_complete(asyncio.sleep(0))
            except BaseException as another:
                errors.append(another)
            raise
        finally:
            ended.set()

    app = Application(init)
    made = interface(app)
    task = asyncio.create_task(start(made))
    await asyncio.to_thread(waiting.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(ended.wait)
    assert [type(error).__name__ for error in errors] == ["CancelledError"] * 2
    assert app.steps == ["init"]


# -- The loop ----------------------------------------------------------------------------------

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


async def within(
    work: Callable[[Any], Any], loop_factory: Any = None
) -> tuple[Any, asyncio.AbstractEventLoop]:
    """Do something with a stand-in, in a thread as ``__rsgi_init__`` does; and the real loop."""
    box = SimpleNamespace(result=None)

    def init(loop: Any) -> None:
        box.result = work(loop)

    made = interface(Application(init))
    await start(made)
    await made.shutdown()
    return box.result, asyncio.get_running_loop()


async def test_run_until_complete(loop_factory: Any) -> None:
    async def where() -> tuple[Any, str]:
        await asyncio.sleep(0)
        return asyncio.get_running_loop(), threading.current_thread().name

    def work(loop: Any) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        task = loop.create_task(where(), name="mine")
        assert task.get_name() == "mine"
        future = loop.create_future()
        loop.call_soon(future.set_result, "soon")
        late = loop.create_future()
        handle = loop.call_later(0, late.set_result, "late")
        assert not handle.cancelled()
        return (
            loop.run_until_complete(where()),
            loop.run_until_complete(task),
            loop.run_until_complete(future),
            loop.run_until_complete(late),
            loop.run_until_complete(loop.run_in_executor(None, int, "5")),
        )

    (first, second, soon, late, number), real = await within(work)
    main = (real, threading.main_thread().name)
    assert first == second == main
    assert (soon, late, number) == ("soon", "late", 5)


async def test_errors_come_through() -> None:
    async def fail(error: BaseException) -> None:
        raise error

    def work(loop: Any) -> None:
        for error in (LookupError("mine"), SystemExit(3), KeyboardInterrupt()):
            with pytest.raises(type(error)) as caught:
                loop.run_until_complete(fail(error))
            assert caught.value is error
        with pytest.raises(TypeError):
            loop.call_later("soon", print)

    await within(work)


async def test_what_is_set_in_the_context_is_there() -> None:
    async def get() -> str:
        return variable.get()

    def work(loop: Any) -> Any:
        before = loop.run_until_complete(get())
        variable.set("inner")
        return (
            before,
            loop.run_until_complete(get()),
            loop.run_until_complete(loop.create_task(get())),
        )

    variable.set("outer")
    result, _ = await within(work)
    assert result == ("outer", "inner", "inner")
    assert variable.get() == "outer"


async def test_it_is_the_loop_of_its_thread() -> None:
    def work(loop: Any) -> None:
        assert asyncio.get_event_loop() is loop
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert not loop.is_running()
        assert not loop.is_closed()
        assert loop.get_debug() in (True, False)
        assert repr(loop).startswith("<LoopStandIn for <")

    await within(work)


async def test_the_loop_is_the_servers() -> None:
    def work(loop: Any) -> None:
        loop.close()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        with pytest.raises(RuntimeError, match="the event loop is the server's"):
            loop.stop()
        with pytest.raises(RuntimeError, match="the event loop is the server's"):
            loop.run_forever()

    _, real = await within(work)
    assert not real.is_closed()
    assert await real.run_in_executor(None, int, "5") == 5


async def test_an_async_init() -> None:
    """No part of RSGI; there is but one thing that it can mean."""
    steps: list[str] = []

    async def run(step: str) -> None:
        await asyncio.sleep(0)
        steps.append(step)

    app = Application(lambda loop: run("begun"), lambda loop: run("ended"))
    async with hosted(app):
        assert steps == ["begun"]
    assert steps == ["begun", "ended"]


async def test_in_the_loops_own_thread_it_is_the_loop() -> None:
    """Applications keep it, and use it in requests."""
    real = asyncio.get_running_loop()
    loop: Any = LoopStandIn(real)  # type: ignore[abstract]
    called: list[int] = []
    loop.call_soon(called.append, 1)
    task = loop.create_task(asyncio.sleep(0, "slept"))
    assert await task == "slept"
    assert called == [1]
    assert loop.is_running()
    assert loop.create_future().get_loop() is real
    waiting = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="already running"):
        loop.run_until_complete(waiting)
    assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop) is not None
    await asyncio.sleep(0)
    with pytest.raises(AttributeError):
        loop.nonsense  # noqa: B018
