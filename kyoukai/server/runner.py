"""
``kyoukai run``: from a configuration to a program that serves, and to its orderly end.

Start: logging, components, sockets bound (components do that when they are made), components
started, applications started, sockets listening. Stop: sockets closed, requests finished,
applications ended, root context closed.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import logging.config
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from asphalt.core import Component, ContainerComponent, Context, TeardownError
from asphalt.core.component import CLIApplicationComponent, component_types
from asphalt.core.runner import policies

from kyoukai.config import nearest_name
from kyoukai.exceptions import ConfigurationError, KyoukaiError
from kyoukai.server.access_log import AccessFormatter
from kyoukai.server.group import ServerGroup, current_group, on_signal
from kyoukai.server.loading import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.server.loading import Application

__all__ = ("Outcome", "exit_within", "make_component", "make_loop", "run", "set_up_logging")

logger = logging.getLogger("kyoukai.server")

#: Seconds that tasks which nobody waits for have to end when they are cancelled.
_LAST_MOMENT = 0.5

#: Seconds after which a start that hangs is reported. (Asphalt's own runner gives up then.)
_PATIENCE = 10.0

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


# -- Components -----------------------------------------------------------------------------------


def make_component(application: Application) -> Component:
    """
    Make the root component, and below it every component that its configuration names.

    Containers make their children when they start. Ours are made before that, so that their
    sockets are bound before any component starts. A container of the user's that has a ``start``
    of its own makes its children there, before it starts them.

    :param application: the program
    :raises KyoukaiError: in one line, with the component's place in the configuration
    """
    config = dict(application.component)
    create = partial(component_types.create_object, **config)
    component: Component = _make(application.source, "component", create)
    _make_children(application.source, "component", component)
    return component


def _make_children(source: str, place: str, parent: Component) -> None:
    starts_plainly = type(parent).start in (ContainerComponent.start, CLIApplicationComponent.start)
    if not isinstance(parent, ContainerComponent) or not starts_plainly:
        return
    for alias in parent.component_configs:
        below = f"{place}.components.{alias}"
        if alias not in parent.child_components:
            _make(source, below, partial(parent.add_component, alias))
    for alias, child in parent.child_components.items():
        _make_children(source, f"{place}.components.{alias}", child)


def _make(source: str, place: str, make: Callable[[], Any]) -> Any:
    where = f"{source}: {place}: " if source else ""
    try:
        return make()
    except ConfigurationError as error:
        raise type(error)(f"{where}{error}") from error.__cause__
    except Exception as error:
        if type(error) is not LookupError:
            message = f"{where}the component cannot be made: {describe(error)}"
            raise KyoukaiError(message) from error
        # A type that Asphalt does not find; one that fails to import has a cause.
        message = " ".join(str(error).split())
        wrong = message.rpartition(": ")[2]
        near = nearest_name(wrong, component_types.names) if "entry point" in message else None
        hint = f"; did you mean {near!r}?" if near else ""
        cause = error.__cause__
        if cause is not None:
            message += f": {describe(cause)}"
            if isinstance(cause, ModuleNotFoundError):
                cause = None
        raise ConfigurationError(f"{where}{message}{hint}") from cause


# -- Loops ----------------------------------------------------------------------------------------


def make_loop(name: str, policy: str | None = None) -> asyncio.AbstractEventLoop:
    """
    Make an event loop.

    :param name: ``asyncio``, ``uvloop``, or ``auto``: the policy's, else uvloop's if there is one
    :param policy: name of an event loop policy, in Asphalt's entry-point group
    :raises ConfigurationError: if there is no such loop here
    """
    if name == "auto" and policy is not None:
        return _loop_of_policy(policy)
    if name != "asyncio":
        # Imported here because it is an extra, and does not exist for every system.
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise ConfigurationError(
                    '--loop: uvloop is not installed; pip install "kyoukai[uvloop]"'
                ) from None
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def _loop_of_policy(name: str) -> asyncio.AbstractEventLoop:
    try:
        policy = policies.resolve(name)()
    except (LookupError, ImportError) as error:
        near = nearest_name(name, policies.names)
        hint = f"; did you mean {near!r}?" if near and near != name else f": {error}"
        raise ConfigurationError(f"event_loop_policy: cannot use {name!r}{hint}") from None
    asyncio.set_event_loop_policy(policy)
    return asyncio.new_event_loop()


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


# -- Logging --------------------------------------------------------------------------------------

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(setting: dict[str, Any] | str | int | None, level: str | None = None) -> None:
    """
    Set up logging as the configuration says.

    By default messages go to standard error, and access lines to standard output.

    :param setting: a configuration for ``dictConfig``, a level, or None for no set-up
    :param level: a level that comes before the configuration's
    :raises ConfigurationError: if the configuration cannot be used
    """
    if isinstance(setting, dict):
        try:
            logging.config.dictConfig(setting)
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            reasons = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
            raise ConfigurationError(f"logging: {' '.join(reasons.split())}") from None
        # It silences the loggers that exist already, ours among them, and under Asphalt's own
        # runner ours would not exist yet.
        for name in list(logging.root.manager.loggerDict):
            if name.partition(".")[0] in ("kyoukai", "asphalt"):
                logging.getLogger(name).disabled = False
        if level is not None:
            logging.root.setLevel(level.upper())
    elif setting is not None or level is not None:
        chosen = level if level is not None else setting
        try:
            logging.basicConfig(
                level=chosen.upper() if isinstance(chosen, str) else chosen, format=_FORMAT
            )
        except ValueError:
            raise ConfigurationError(f"logging: {chosen!r} is no level") from None
        access = logging.getLogger("kyoukai.access")
        if not access.handlers:
            handler = logging.StreamHandler(sys.stdout)
            handler.setFormatter(AccessFormatter())
            access.addHandler(handler)
            access.propagate = False


# -- The end --------------------------------------------------------------------------------------


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
