"""
``LoopStandIn``: the event loop that ``__rsgi_init__`` and ``__rsgi_del__`` are given.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, TypeVar

__all__ = ("LoopStandIn",)

T = TypeVar("T")

#: What schedules, and so must happen in the loop's own thread.
_SCHEDULING = frozenset(
    (
        "add_reader",
        "add_signal_handler",
        "add_writer",
        "call_at",
        "call_later",
        "create_task",
        "remove_reader",
        "remove_signal_handler",
        "remove_writer",
    )
)


class LoopStandIn(asyncio.AbstractEventLoop):
    """
    Stands in for a loop that runs, towards code that runs in a thread and expects one that rests.

    ``run_until_complete`` lets the loop do it, and waits. Whatever else is asked for is the loop's
    own; what schedules happens in the loop's thread. In the loop's thread it is nothing but the
    loop, so that an application may keep it. The loop is the server's: it is neither stopped nor
    closed here.

    :param loop: the loop
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._own = _Own(loop)

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__dict__", "_own", "give_up"):
            return object.__getattribute__(self, name)
        own: _Own = object.__getattribute__(self, "_own")
        if name in _INSTEAD:
            return partial(_INSTEAD[name], own)
        value = getattr(own.loop, name)
        if name in _SCHEDULING and not own.is_here():
            return partial(own.call, value)
        return value

    def __repr__(self) -> str:
        return f"<LoopStandIn for {self._own.loop!r}>"

    def give_up(self) -> None:
        """Whoever waits in ``run_until_complete`` need wait no longer: the server stops."""
        self._own.give_up()


class _Own:
    """What a stand-in has of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._given_up = False
        self._waiting: set[Future[Any]] = set()

    def is_here(self) -> bool:
        """Whether this is the loop's own thread."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call something in the loop's thread."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(function(*args, **options))
            except Exception as error:
                result.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return self._wait(result)

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        if self.is_here():
            return self.loop.call_soon(callback, *args, context=context)
        return self.loop.call_soon_threadsafe(callback, *args, context=context)

    def run_until_complete(self, future: Awaitable[T]) -> T:
        if self.is_here():
            if asyncio.iscoroutine(future):
                future.close()
            raise RuntimeError("This event loop is already running")

        async def run() -> tuple[T | None, BaseException | None]:
            try:
                return await future, None
            except (KeyboardInterrupt, SystemExit) as error:
                return None, error  # they would end the server's loop

        value, error = self._wait(asyncio.run_coroutine_threadsafe(run(), self.loop))
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def _wait(self, result: Future[T]) -> T:
        with self._lock:
            if self._given_up:
                result.cancel()
                raise CancelledError  # even if it was quicker than we are
            self._waiting.add(result)
        try:
            return result.result()
        finally:
            with self._lock:
                self._waiting.discard(result)

    def give_up(self) -> None:
        with self._lock:
            self._given_up = True
            waiting = tuple(self._waiting)
        for result in waiting:
            result.cancel()

    def is_running(self) -> bool:
        return self.is_here()  # who looks wants to know whether to use run_until_complete

    def refuse(self, *args: Any) -> None:
        raise RuntimeError("the event loop is the server's")

    def nothing(self) -> None:
        pass

    async def nothing_async(self, *args: Any) -> None:
        pass


#: What a stand-in does in its own way.
_INSTEAD: dict[str, Callable[..., Any]] = {
    "call_soon": _Own.call_soon,
    "close": _Own.nothing,
    "is_running": _Own.is_running,
    "run_forever": _Own.refuse,
    "run_until_complete": _Own.run_until_complete,
    "shutdown_asyncgens": _Own.nothing_async,
    "shutdown_default_executor": _Own.nothing_async,
    "stop": _Own.refuse,
}
