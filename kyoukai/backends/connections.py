"""
What a protocol needs of the component that it serves, and the registry of its connections.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai.backends.base import BaseProtocol
    from kyoukai.config import ServerConfig
    from kyoukai.stream import Interface, StreamState

__all__ = ("Component", "Connections")


class Component(Protocol):
    """What a protocol needs of the component that it serves."""

    @property
    def config(self) -> ServerConfig:
        """The server's settings."""

    @property
    def interface(self) -> Interface:
        """The application."""

    @property
    def connections(self) -> Connections:
        """The registry of the server's connections."""

    def switch_target(self, name: str) -> BaseProtocol | None:
        """
        Make a protocol that a connection may go on with.

        :param name: ``h2`` for HTTP/2
        :return: None if the component does not speak it
        """

    def log_access(self, stream: StreamState) -> None:
        """Write a line for a stream whose response is complete, or was given up."""


class Connections:
    """
    One server's open connections and running tasks.

    :param limit: connections at once; None for no limit
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.open: set[BaseProtocol] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        #: Whether the server is stopping.
        self.closing = False
        #: Connections turned away at the limit.
        self.full_refused = 0
        self.on_made: Callable[[BaseProtocol], None] | None = None
        self.on_lost: Callable[[BaseProtocol], None] | None = None
        #: Whether anyone waits for ``wait_idle``.
        self.waited_for = False
        self._idle: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self.open)

    @property
    def requests(self) -> int:
        """Requests in progress; some have no task, and some tasks go on when the answer is sent."""
        return max(len(self.tasks), sum(protocol.unanswered for protocol in self.open))

    def add(self, protocol: BaseProtocol) -> bool:
        """Register a connection; False if there are too many, or the server is stopping."""
        if self.closing or (self.limit is not None and len(self.open) >= self.limit):
            self.full_refused += 1
            return False
        self.open.add(protocol)
        if self.on_made is not None:
            self.on_made(protocol)
        return True

    def discard(self, protocol: BaseProtocol) -> None:
        """Take a connection off the registry."""
        if protocol in self.open:
            self.open.discard(protocol)
            if self.on_lost is not None:
                self.on_lost(protocol)
            self.check_idle()

    def task_done(self, task: asyncio.Task[None]) -> None:
        """Take a task off the registry."""
        self.tasks.discard(task)
        self.check_idle()

    def shutdown(self) -> None:
        """Tell every connection to finish: idle ones close, busy ones after their answer."""
        self.closing = True
        for protocol in tuple(self.open):
            protocol.shutdown()

    async def wait_idle(self) -> None:
        """Wait until no connection and no task is left."""
        if self._idle is None:
            self._idle = asyncio.Event()
            self.waited_for = True
        self.check_idle()
        await self._idle.wait()

    def abort(self) -> None:
        """Cancel every task and cut every connection."""
        self.closing = True
        for task in tuple(self.tasks):
            task.add_done_callback(self.task_done)  # one that has not begun cannot do it itself
            task.cancel()
        for protocol in tuple(self.open):
            protocol.abort()

    def check_idle(self) -> None:
        """Wake who waits for ``wait_idle``, if nothing is left."""
        if self._idle is not None:
            if self.open or self.tasks:
                self._idle.clear()
            else:
                self._idle.set()
