"""
``SsgiExchange``: what the two kinds of SSGI's ``res`` have in common.

That is the tasks of a request, which it lasts as long as, and its handlers of events.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import InterfaceError, PeerGone, WebSocketDisconnected
from kyoukai.interfaces.ssgi_headers import extensions_of
from kyoukai.interfaces.stepping import begin
from kyoukai.stream import RESET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from contextvars import Context

    from kyoukai.interfaces.ssgi import SsgiInterface
    from kyoukai.interfaces.ssgi_headers import RequestHeaders
    from kyoukai.stream import StreamState

    #: A handler of an event, and the arguments that it gets after its own.
    Handler = tuple[Callable[..., Any], tuple[Any, ...]]

__all__ = ("RunTask", "SsgiExchange")


class RunTask(asyncio.Task[Any]):
    """
    What ``run_async`` runs, which knows whether anybody but the server will hear how it ends.
    """

    #: Whether it is awaited, by whatever means.
    is_awaited = False

    def add_done_callback(self, callback: Any, *, context: Context | None = None) -> None:
        """Call something at the end: so do ``await``, ``wait``, ``gather`` and ``shield``."""
        self.is_awaited = True
        super().add_done_callback(callback, context=context)

    def tell(self, callback: Callable[[asyncio.Task[Any]], object]) -> None:
        """For the server: call something at the end."""
        super().add_done_callback(callback)


class SsgiExchange(ABC):
    """
    One request and what answers it.

    :param interface: the interface
    :param stream: the request's stream
    :param headers: its headers
    """

    _tasks: set[RunTask] | None = None
    #: Done when no task is left.
    _idle: asyncio.Future[None] | None = None
    _watcher: asyncio.Task[None] | None = None
    _extensions: dict[str, Any] | None = None
    #: An exception that has been seen to: a task's, which who awaits the task may raise again.
    _seen: BaseException | None = None
    _over = False

    def __init__(
        self, interface: SsgiInterface, stream: StreamState, headers: RequestHeaders
    ) -> None:
        self._interface = interface
        self._stream = stream
        self._headers = headers
        #: How many need the request: the call of the application, and what run_async() runs.
        self._holders = 1

    @property
    def extensions(self) -> dict[str, Any]:
        """What is known of the request beyond the draft, see :doc:`/ssgi`; the caller may add."""
        if self._extensions is None:
            self._extensions = extensions_of(self._stream.head)
        return self._extensions

    # -- Tasks ---------------------------------------------------------------------------------

    def run_async(
        self, handler: Callable[..., Any] | Awaitable[Any], *arguments: Any
    ) -> asyncio.Task[Any]:
        """
        Call a handler in a task of its own; the request and its headers are kept until it ends.

        :param handler: a coroutine function or any other callable; or an awaitable, without
            arguments
        :param arguments: what it is called with; nothing is added to them
        :return: the task; what it raises is logged and ends the answer, if nobody awaits it then
        :raises InterfaceError: if it is no such handler, or the request is over
        """
        if inspect.isawaitable(handler):
            if arguments:
                _forget(handler)
                raise InterfaceError("run_async() of an awaitable takes no arguments for it")
        elif not callable(handler):
            raise InterfaceError(f"run_async() cannot call {type(handler).__name__}")
        if self._over:
            _forget(handler)
            raise InterfaceError("run_async() after the request is over")
        self._holders += 1
        return self._spawn(_call(handler, arguments), self._release)

    def _spawn(
        self,
        work: Coroutine[Any, Any, Any],
        done: Callable[[asyncio.Task[Any]], object] | None = None,
    ) -> RunTask:
        """Run something that the request lasts as long as."""
        task = RunTask(work, loop=asyncio.get_running_loop(), name="kyoukai ssgi")
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.tell(self._task_done)
        if done is not None:
            task.tell(done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        assert self._tasks is not None
        assert isinstance(task, RunTask)
        self._tasks.discard(task)
        if not (task.is_awaited or task.cancelled()):
            error = task.exception()
            if isinstance(error, Exception):
                self.fail(error)
        if not self._tasks and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _release(self, task: object = None) -> None:
        """One of those that need the request has ended."""
        self._holders -= 1
        if not self._holders:
            self._headers.end()

    def goes_on(self) -> bool:
        """
        The application's call has ended.

        :return: whether something that it has begun has not
        """
        self._release()
        if self._stream.sending is RESET:
            self._notify()
        if self._tasks:
            return True
        self._end()
        return False

    async def finish(self) -> None:
        """Wait for all that the application has begun."""
        while self._tasks:
            await self._wait()
            if self._stream.sending is RESET:
                self._notify()
        self._end()

    async def _wait(self) -> None:
        """Wait until no task is left."""
        self._idle = asyncio.get_running_loop().create_future()
        await self._idle

    def _end(self) -> None:
        """The request is over: forget what may refer to this in turn."""
        self._over = True
        self._seen = None
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    async def abandon(self) -> None:
        """The request's task is cancelled, and so are those of the application."""
        self._headers.end()
        self._end()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await self._wait()

    # -- What goes wrong -----------------------------------------------------------------------

    def fail(self, error: Exception) -> None:
        """Log what the application has raised, and end the answer if it is not complete."""
        if error is not self._seen:  # a task's, raised again by who has awaited the task
            self._seen = error
            rest = begin(self._interface.application_failed(self._stream, error))
            if rest is not None:
                self._spawn(_call(rest, ()))

    def _event_failed(self, event: str, error: Exception) -> None:
        """Log what a handler of an event has raised."""
        if isinstance(error, InterfaceError):
            problem = f"{error} (in a handler of {event}())"
        elif isinstance(error, PeerGone | WebSocketDisconnected):
            return  # it has let through that the client is gone
        else:
            problem = f"unhandled error in a handler of {event}()"
        self._interface.complain(self._stream, problem, error)

    def _overflow(self, size: int) -> None:
        """More has been sent than the client takes, by an application that does not wait."""
        problem = f"more was sent while {size} bytes of it wait: what sends is to be awaited"
        self._interface.complain(self._stream, problem)
        self._stream.reset(problem)

    # -- Events --------------------------------------------------------------------------------

    def _check_handler(self, event: str, handler: Any) -> None:
        if not callable(handler):
            _forget(handler)
            raise InterfaceError(f"{event}() takes a callable, not {type(handler).__name__}")
        if self._over:
            raise InterfaceError(f"{event}() after the request is over")

    async def _fire(self, event: str, handlers: Sequence[Handler], *own: Any) -> None:
        """Call the handlers of an event, one after the other."""
        for handler, arguments in handlers:
            try:
                result = handler(self, *own, *arguments)
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                self._event_failed(event, error)

    def _watch(self) -> None:
        """Notice when the client leaves."""
        if self._watcher is None:
            loop = asyncio.get_running_loop()
            self._watcher = loop.create_task(self._until_gone(), name="kyoukai ssgi watcher")

    async def _until_gone(self) -> None:
        await self._stream.disconnected(or_closed_input=True)
        if self._stream.sending is RESET or self._stream.input_is_closed:
            self._notify()

    @abstractmethod
    def _notify(self) -> None:
        """The client has left before it had its answer: call who wants to hear of it, once."""


async def _call(handler: Any, arguments: tuple[Any, ...]) -> Any:
    """Call a handler, or await what is one already."""
    result = handler if inspect.isawaitable(handler) else handler(*arguments)
    return await result if inspect.isawaitable(result) else result


def _forget(handler: Any) -> None:
    """A coroutine that was handed in wrongly is not awaited, and the error says so already."""
    if inspect.iscoroutine(handler):
        handler.close()
