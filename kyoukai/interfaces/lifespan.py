"""
``Lifespan``: an ASGI application is told when its server starts and stops.

Once in a process, and an event loop, for each application, however many mounts and components have
it. All of it runs in one task, as what an application opens in a task must often be closed in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kyoukai.exceptions import InterfaceError, KyoukaiError
from kyoukai.interfaces.asgi_messages import text_of, type_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.config import ServerConfig

__all__ = ("Lifespan", "lifespan_of")

logger = logging.getLogger("kyoukai")

#: The version of the specification of lifespan scopes.
SPEC_VERSION = "2.0"

#: What an application may send: of which phase, and how that went.
_ANSWERS = {
    f"lifespan.{phase}.{result}": (phase, result)
    for phase in ("startup", "shutdown")
    for result in ("complete", "failed")
}

#: The lifespans of each loop, by the identity of their applications.
_running: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Lifespan]] = WeakKeyDictionary()


def lifespan_of(
    app: Any, call: Callable[..., Any], config: ServerConfig, name: str, version: str
) -> Lifespan:
    """
    Return the lifespan of an application on the running loop, and count who has it.

    :param app: the application
    :param call: what is called with scope, ``receive`` and ``send``
    :param config: the settings of who asks first
    :param name: what messages call the application
    :param version: the version of ASGI that it speaks
    """
    lifespans = _running.setdefault(asyncio.get_running_loop(), {})
    key: Any = id(app)
    if isinstance(app, MethodType):  # a new object each time that it is named
        key = (id(app.__self__), app.__func__)
    lifespan = lifespans.get(key)
    if lifespan is None:
        lifespan = lifespans[key] = Lifespan(app, call, config, name, version)
        lifespan.forget = lambda: lifespans.pop(key)
    lifespan.users += 1
    return lifespan


class Lifespan:
    """
    The lifespan of one application.

    :param app: the application
    :param call: what is called with scope, ``receive`` and ``send``
    :param config: for ``lifespan`` and ``lifespan_timeout``
    :param name: what messages call the application
    :param version: the version of ASGI that it speaks
    """

    def __init__(
        self, app: Any, call: Callable[..., Any], config: ServerConfig, name: str, version: str
    ) -> None:
        self.app = app  # as long as this lives, its identity is nobody else's
        self.name = name
        #: What the application puts here, each scope has a shallow copy of.
        self.state: dict[str, Any] = {}
        #: How many interfaces have started it and not stopped it.
        self.users = 0
        self.forget: Callable[[], Any] = lambda: None
        self._call = call
        self._must = config.lifespan == "on"
        self._timeout = config.lifespan_timeout or None
        self._asgi = {"version": version, "spec_version": SPEC_VERSION}
        loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._outcome: asyncio.Task[None] | None = None
        #: What the application has been given: nothing, the startup, the shutdown.
        self._given = 0
        #: Answers to startup and shutdown: None, or why it failed.
        self._started: asyncio.Future[str | None] = loop.create_future()
        self._stopped: asyncio.Future[str | None] = loop.create_future()
        #: Done when the shutdown begins, and when the application asks for more than there is.
        self._stopping: asyncio.Future[None] = loop.create_future()
        self._idle: asyncio.Future[None] = loop.create_future()
        #: Whether an error of the application has been told.
        self._told = False

    # -- What interfaces call ------------------------------------------------------------------

    async def startup(self) -> None:
        """
        Wait until the application has started; it is told once.

        :raises KyoukaiError: in one line, if it says that it cannot, or does not say in time
        """
        if self._outcome is None:
            self._outcome = asyncio.ensure_future(self._start())
        await asyncio.shield(self._outcome)

    async def shutdown(self) -> None:
        """Wait until the application has stopped, once nobody uses it; what fails is logged."""
        self.users -= 1
        if self.users:
            return
        self.forget()
        if self._outcome is not None and not self._outcome.done():  # its start was cancelled
            self._outcome.cancel()
            await asyncio.wait((self._outcome,))
            _error_of(self._outcome)
        task = self._task
        if task is None or task.done():
            return
        self._stopping.set_result(None)
        try:
            await self._wait(self._stopped)
            if not self._stopped.done() and not task.done():
                self._log(f"it has not answered lifespan.shutdown in {self._timeout:g} seconds")
                await self._cancel(task)
                return
            failure = self._stopped.result() if self._stopped.done() else None
            if failure is not None:
                self._told = True
                self._log(f"lifespan.shutdown.failed: {failure}")
            await self._end(task)
        finally:
            task.cancel()  # if this one was

    # -- How it goes ---------------------------------------------------------------------------

    async def _start(self) -> None:
        task = self._task = asyncio.create_task(self._run(), name="kyoukai lifespan")
        try:
            await self._wait(self._started)
            if self._started.done():
                failure = self._started.result()
                if failure is None:
                    task.add_done_callback(self._ended)
                    return
                self._told = True
                await self._end(task)
                lines = failure.strip().splitlines() or ["it has given no reason"]
                if len(lines) > 1:
                    self._log(f"lifespan.startup.failed: {failure.strip()}")
                raise KyoukaiError(
                    f"{self.name}: the application cannot start: {lines[-1].strip()}"
                )
            if not task.done():
                raise KyoukaiError(
                    f"{self.name}: the application has not answered lifespan.startup in"
                    f" {self._timeout:g} seconds (lifespan_timeout)"
                )
        except BaseException:
            await self._cancel(task)
            raise
        error = _error_of(task)
        what = "it returned" if error is None else _line(error)
        if self._must:
            raise KyoukaiError(
                f"{self.name}: the application has no lifespan, and lifespan is on: {what}"
            ) from error
        logger.info("%s: the application has no lifespan: %s", self.name, what)

    async def _wait(self, answer: asyncio.Future[str | None]) -> None:
        """Wait for an answer, or for the end of the application's task, or its time."""
        assert self._task is not None
        await asyncio.wait(
            (answer, self._task), timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
        )

    async def _end(self, task: asyncio.Task[None]) -> None:
        """Wait until an application that has given its last answer returns, or waits for more."""
        await asyncio.wait(
            (task, self._idle), timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if not task.done():
            await self._cancel(task)
        elif (error := _error_of(task)) is not None and not self._told:
            self._log("it failed in its lifespan", error)

    async def _cancel(self, task: asyncio.Task[None]) -> None:
        """End the application's task; what it raises now is of no interest."""
        task.cancel()
        await asyncio.wait((task,), timeout=self._timeout)
        if task.done():
            _error_of(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The application's task has ended after its start."""
        error = _error_of(task)
        if error is not None and not self._stopping.done():
            self._log("it failed in its lifespan", error)

    def _log(self, problem: str, error: BaseException | None = None) -> None:
        logger.error("asgi application %s: %s", self.name, problem, exc_info=error)

    # -- What the application calls ------------------------------------------------------------

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": self._asgi, "state": self.state}
        await self._call(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self._given == 0:
            self._given = 1
            return {"type": "lifespan.startup"}
        if self._given == 1 and not (self._started.done() and self._started.result() is not None):
            await asyncio.shield(self._stopping)
            self._given = 2
            return {"type": "lifespan.shutdown"}
        if not self._idle.done():
            self._idle.set_result(None)
        await asyncio.get_running_loop().create_future()  # until the task is cancelled
        raise AssertionError

    async def _send(self, message: Mapping[str, Any]) -> None:
        kind = type_of(message)
        if kind not in _ANSWERS:
            raise InterfaceError(f"{kind} is no message of a lifespan scope")
        phase, result = _ANSWERS[kind]
        answer = self._started if phase == "startup" else self._stopped
        if answer.done():
            raise InterfaceError(f"{kind} after another answer to lifespan.{phase}")
        if phase == "shutdown" and not self._stopping.done():
            raise InterfaceError(f"{kind} before lifespan.shutdown")
        if result == "complete":
            answer.set_result(None)
        else:
            answer.set_result(text_of(message, "message") or "")


def _line(error: BaseException) -> str:
    return ": ".join((type(error).__name__, *str(error).strip().splitlines()[:1]))


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()
