"""
``__rsgi_init__`` and ``__rsgi_del__``: an RSGI application is told of its server's start and stop.

Both are given an event loop, and expect one that is not running: they call its
``run_until_complete``. Ours runs, so that they are called in a thread, with a stand-in for it.

Once in a process, and an event loop, for each application, however many mounts and components have
it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from contextvars import copy_context
from types import MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kyoukai.exceptions import KyoukaiError
from kyoukai.interfaces.rsgi_loop import LoopStandIn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Life", "life_of")

logger = logging.getLogger("kyoukai")

#: The applications that live on each loop, by their identity.
_living: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Life]] = WeakKeyDictionary()


def life_of(app: Any, name: str) -> Life:
    """
    Return the life of an application on the running loop, and count who has it.

    :param app: the application
    :param name: what messages call the application
    """
    lives = _living.setdefault(asyncio.get_running_loop(), {})
    key: Any = id(app)
    if isinstance(app, MethodType):  # a new object each time that it is named
        key = (id(app.__self__), app.__func__)
    life = lives.get(key)
    if life is None:
        life = lives[key] = Life(app, name)
        life.forget = lambda: lives.pop(key)
    life.users += 1
    return life


class Life:
    """
    One application, from ``__rsgi_init__`` to ``__rsgi_del__``.

    :param app: the application
    :param name: what messages call the application
    """

    def __init__(self, app: Any, name: str) -> None:
        self.app = app  # as long as this lives, its identity is nobody else's
        self.name = name
        #: How many interfaces have begun it and not ended it.
        self.users = 0
        self.forget: Callable[[], Any] = lambda: None
        self._loop = LoopStandIn(asyncio.get_running_loop())  # type: ignore[abstract]
        self._beginning: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """
        Wait until ``__rsgi_init__`` has returned; it is called once.

        :raises KyoukaiError: in one line, if it fails
        """
        if self._beginning is None:
            self._beginning = asyncio.ensure_future(self._begin())
        await asyncio.shield(self._beginning)

    async def _begin(self) -> None:
        error = await self._call("__rsgi_init__")
        if error is not None:
            text = " ".join(str(error).split())
            what = f"{type(error).__name__}: {text}" if text else type(error).__name__
            raise KyoukaiError(
                f"{self.name}: the application cannot start: __rsgi_init__: {what}"
            ) from error

    async def end(self) -> None:
        """Call ``__rsgi_del__``, once nobody needs the application; if it fails, that is logged."""
        self.users -= 1
        if self.users:
            return
        self.forget()
        beginning = self._beginning
        if beginning is None:
            return
        if not beginning.done():  # its start was cancelled
            beginning.cancel()
            await asyncio.wait((beginning,))
        if beginning.cancelled() or beginning.exception() is not None:
            return  # what has not begun is not ended
        error = await self._call("__rsgi_del__")
        if error is not None:
            logger.error("rsgi application %s: __rsgi_del__ failed", self.name, exc_info=error)

    async def _call(self, name: str) -> BaseException | None:
        """Call one of the two in a thread, and return what it raises."""
        function = getattr(self.app, name, None)
        if function is None:
            return None
        stand_in = self._loop
        real = asyncio.get_running_loop()
        ended: asyncio.Future[BaseException | None] = real.create_future()

        def settle(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(error)

        def run() -> None:
            error: BaseException | None = None
            try:
                asyncio.set_event_loop(stand_in)
                made = function(stand_in)
                if inspect.isawaitable(made):  # no part of RSGI, and clear what it means
                    stand_in.run_until_complete(made)
            except BaseException as raised:
                error = raised
            try:
                real.call_soon_threadsafe(settle, error)
            except RuntimeError:
                pass  # nobody has waited for it, and the loop is closed

        # A daemon: what hangs in it must not keep a process that was told to stop.
        threading.Thread(
            target=copy_context().run, args=(run,), name=f"kyoukai {name}", daemon=True
        ).start()
        try:
            return await ended
        except asyncio.CancelledError:
            stand_in.give_up()
            raise
