"""
``kyoukai run``: from a configuration to a program that serves, and to its orderly end.

Start: logging, components, sockets bound (components do that when they are made), components
started, applications started, sockets listening. Stop: sockets closed, requests finished,
applications ended, root context closed.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from asphalt.core import Context, TeardownError

from kyoukai.exceptions import KyoukaiError
from kyoukai.server.group import ServerGroup, current_group, on_signal
from kyoukai.server.setup import make_component, make_loop
from kyoukai.targets import describe

if TYPE_CHECKING:
    from asphalt.core import Component

    from kyoukai.server.loading import Application

__all__ = ("Outcome", "exit_within", "run")

logger = logging.getLogger("kyoukai.server")

#: Seconds that tasks which nobody waits for have to end when they are cancelled, and threads that
#: are still busy when the time of the requests is over.
_LAST_MOMENT = 0.2

#: Seconds after which a start that hangs is reported. (Asphalt's own runner gives up then.)
_PATIENCE = 10.0

#: New objects between two collections; Python's own threshold is 700.
_YOUNG_OBJECTS = 10_000

#: The signals that we answer: two to stop, and one to read the certificates again.
_SIGNALS = [
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
]


class Outcome(NamedTuple):
    """
    How a program ended.

    :param status: the exit status
    :param seconds_left: what is left of the time that requests had to finish
    """

    status: int
    seconds_left: float


def run(application: Application, loop_name: str = "auto") -> Outcome:
    """
    Run a program until it is told to stop.

    :param application: the program; logging must have been set up
    :param loop_name: ``auto``, ``asyncio`` or ``uvloop``
    :return: the exit status, and the time left
    :raises KyoukaiError: in one line, if it cannot start; an exception of the application's own
        is the cause
    """
    loop = make_loop(loop_name, application.event_loop_policy)
    asyncio.set_event_loop(loop)
    program = _Program()
    token = current_group.set(program.group)
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        if application.max_threads is not None:
            loop.set_default_executor(ThreadPoolExecutor(application.max_threads))
        # Outside the running loop, as Asphalt does it: modules may run one when imported.
        component = make_component(application)
        status = _run_to_end(loop, program, component)
        return Outcome(status, program.group.seconds_left + _LAST_MOMENT)
    finally:
        current_group.reset(token)
        for server in program.group.servers:
            server.close_listeners()
        _close(loop)
        asyncio.set_event_loop(None)
        for number, handler in handlers.items():  # uvloop leaves its own behind
            signal.signal(number, handler)


def _run_to_end(loop: asyncio.AbstractEventLoop, program: _Program, component: Component) -> int:
    task = loop.create_task(program.main(component))
    while True:
        try:
            return loop.run_until_complete(task)
        except SystemExit as error:
            # Raised in a callback or another task, it leaves the loop: an orderly stop all the
            # same. (Asphalt's components for command line tools end that way.)
            if task.done():
                raise
            program.leave(error.code)


class _Program:
    """A running program: its servers, and how it is told to stop."""

    def __init__(self) -> None:
        self.group = ServerGroup(held=True)
        self._stop = asyncio.Event()
        self._status = 0

    async def main(self, component: Component) -> int:
        """Start everything, serve until told to stop, and stop everything."""
        for number in _SIGNALS:
            on_signal(number, partial(self._on_signal, number))
        try:
            await self._live(component)
        except TeardownError as error:
            for each in error.exceptions:
                logger.error("error while the application was closed", exc_info=each)
            if isinstance(error.__context__, KyoukaiError):  # why it did not start matters more
                raise error.__context__ from error.__context__.__cause__
            self._status = self._status or 1
        return self._status

    async def _live(self, component: Component) -> None:
        async with Context() as context:
            context.add_resource(self.group)
            try:
                if await self._start(component, context):
                    _settle_collector()
                    self._announce()
                    await self._stop.wait()
            finally:
                await self.group.stop()

    async def _start(self, component: Component, context: Context) -> bool:
        """Start everything; False if a signal came meanwhile."""
        starting = asyncio.create_task(self._start_all(component, context))
        stopping = asyncio.create_task(self._stop.wait())
        patience = asyncio.get_running_loop().call_later(_PATIENCE, self._still_starting)
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        patience.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
        if starting.cancelled():
            return False
        error = starting.exception()
        if isinstance(error, SystemExit):
            return False  # it has left the loop, see _run_to_end
        if isinstance(error, KyoukaiError):
            raise error
        if error is not None:
            raise KyoukaiError(f"the application failed to start: {describe(error)}") from error
        return not self._stop.is_set()

    async def _start_all(self, component: Component, context: Context) -> None:
        await component.start(context)
        await self.group.serve(context)

    def _still_starting(self) -> None:
        logger.warning(
            "the application is still starting after %g seconds; "
            "a component may wait for a resource that no other adds",
            _PATIENCE,
        )

    def _announce(self) -> None:
        for server in self.group.servers:
            for url in server.urls:
                print(f"Kyoukai listening on {url} ({server.label})", file=sys.stderr, flush=True)

    def leave(self, code: Any) -> None:
        """Stop, and end with a status as ``sys.exit`` takes it."""
        if isinstance(code, str):
            print(code, file=sys.stderr)
        self._status = code if isinstance(code, int) else int(code is not None)
        self._stop.set()

    def _on_signal(self, number: signal.Signals) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM):
            self.group.reload()
        elif self._stop.is_set():
            logger.warning("second signal: ending at once")
            self.group.abort()
            _leave_now(128 + number)
        else:
            self._stop.set()


def _settle_collector() -> None:
    """
    Spare requests the garbage collector's work on what the program keeps anyway.

    Requests leave no cycles behind, so the young generation may also grow larger.
    """
    gc.collect()
    gc.freeze()
    youngest, *others = gc.get_threshold()
    gc.set_threshold(max(youngest, _YOUNG_OBJECTS), *others)


# -- The end ---------------------------------------------------------------------------------------


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop, without waiting long for tasks that do not want to end."""
    if not loop.is_closed():
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=_LAST_MOMENT))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def exit_within(seconds: float, status: int) -> None:
    """
    Make sure that the process ends, whatever threads still run.

    At its end the interpreter waits for every thread of every pool. A handler that blocks in one,
    past the time that requests had to finish, must not hold it up.

    :param seconds: how long threads may take
    :param status: the exit status, if they take longer
    """
    over = threading.Event()
    atexit.register(over.set)  # called when the threads have ended

    def watch() -> None:
        if not over.wait(seconds):
            _leave_now(status)

    threading.Thread(target=watch, daemon=True, name="kyoukai-exit").start()


def _leave_now(status: int) -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)
