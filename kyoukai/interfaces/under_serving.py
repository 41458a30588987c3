"""
``Serving``: a Kyoukai application at work below another server, in one event loop.

Its root context is opened and closed by one task, as Asphalt wants it, with everything in between:
components, ``before_serving``, requests, ``after_serving``. Each request is a task of its own, with
the same guarantees as on our own wires: it is answered, whatever happens, or its stream is reset.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING

from asphalt.core import Context

from kyoukai.app import Kyoukai
from kyoukai.config import ServerConfig
from kyoukai.context import set_current
from kyoukai.exceptions import (
    KyoukaiError,
)
from kyoukai.interfaces.build import interface_for
from kyoukai.interfaces.hosted import answer_plainly
from kyoukai.interfaces.mounts import natives_of, shut_down, start_up
from kyoukai.outcome import settle
from kyoukai.publishing import publish_app

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from kyoukai.stream import Interface, StreamState

__all__ = ("Serving", "as_settings", "describe")

#: Seconds that requests have to end once they are cancelled.
_LAST_MOMENT = 1.0


class Serving:
    """
    An application from its start to its end.

    :param app: the application
    :param config: the settings
    """

    def __init__(self, app: Kyoukai, config: ServerConfig) -> None:
        self.app = app
        self.config = config
        #: Who uses it, of those that say when they do no more.
        self.users = 0
        self._interface: Interface | None = None
        self._context: Context | None = None
        self._streams: dict[asyncio.Task[None], StreamState] = {}
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        #: Whether no request is taken any more.
        self.is_over = False

    # -- From start to end ---------------------------------------------------------------------

    async def live(self) -> None:
        """
        Open the root context, serve until ``stop`` is called or this is cancelled, and close it.

        :raises Exception: what has failed at the end; ``started`` raises what fails at the start
        """
        try:
            async with Context() as context:
                await self._serve(context)
        except BaseException as error:
            if self._started.done():
                raise
            if isinstance(error, Exception):
                self._started.set_exception(error)
                self._started.exception()  # whoever waits raises it, if anybody does
                return
            self._started.cancel()
            raise
        finally:
            self.is_over = True

    async def _serve(self, context: Context) -> None:
        self._interface = interface = interface_for(self.app, self.config, context)
        try:
            for native in natives_of(interface):
                await publish_app(native.app, context)
            await start_up(interface, context)
            self._context = context
            self._started.set_result(None)
            try:
                await self._stop.wait()
            except asyncio.CancelledError:
                pass  # the loop is about to be closed: the last moment for an orderly end
            self.is_over = True
            await self._end_streams()
        finally:
            await shut_down(interface)

    async def started(self) -> None:
        """
        Wait until requests can be answered.

        :raises Exception: if the application cannot start
        """
        await asyncio.shield(self._started)

    def stop(self) -> None:
        """Let the application come to its end."""
        self._stop.set()

    async def _end_streams(self) -> None:
        """Wait for requests in progress, as long as they may take; then cancel them."""
        for stream in tuple(self._streams.values()):
            if stream.tunnel is not None:
                stream.tunnel.going_away()
        if self._streams:
            await asyncio.wait(tuple(self._streams), timeout=self.config.graceful_timeout)
        if left := tuple(self._streams):
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=_LAST_MOMENT)

    # -- Requests ------------------------------------------------------------------------------

    def begin(self, stream: StreamState, interface: Interface | None = None) -> asyncio.Task[None]:
        """
        Answer a stream, in a task of its own.

        :param stream: the stream
        :param interface: what answers, instead of the application's interface
        """
        interface = interface or self._interface
        assert interface is not None
        assert self._context is not None
        context = copy_context()
        context.run(set_current, self._context)
        task = asyncio.get_running_loop().create_task(
            self._run(stream, interface), name="kyoukai request", context=context
        )
        stream.task = task
        self._streams[task] = stream
        task.add_done_callback(self._streams.pop)
        return task

    async def _run(self, stream: StreamState, interface: Interface) -> None:
        """Run an interface, and see to it that the stream ends whatever happens."""
        try:
            try:
                await interface(stream)
            except BaseException as error:
                await settle(stream, error, self.is_over, _refuse)
            else:
                await settle(stream, None, False, _refuse)
        finally:
            stream.close()
            stream.task = None


def as_settings(settings: ServerConfig | Mapping[str, Any] | None) -> ServerConfig:
    """
    Return settings as they are given to ``as_asgi`` and ``as_wsgi``.

    :param settings: settings, a mapping of them, or None for the defaults
    :raises ConfigurationError: if one is wrong
    """
    if isinstance(settings, ServerConfig):
        return settings
    return ServerConfig.from_mapping({} if settings is None else settings)


def describe(error: BaseException) -> str:
    """Return what an error says, in one line."""
    line = " ".join(str(error).split())
    if isinstance(error, KyoukaiError):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


async def _refuse(stream: StreamState, status: int, detail: str) -> None:
    await answer_plainly(stream, status, detail or "Internal Server Error")
