"""
The servers of one program, which start together and stop together.

Under ``kyoukai run`` the runner makes the group and holds it back until the whole application has
started. Elsewhere (``asphalt run``, a program of the user's) the first server's component makes it
and each component serves at the end of its own start.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import threading
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from asphalt.core import Context

    from kyoukai.server.listener import Server
    from kyoukai.stream import Interface

__all__ = ("ServerGroup", "current_group", "on_signal")

logger = logging.getLogger("kyoukai.server")

#: The group that components made now belong to; None outside ``kyoukai run``.
current_group: ContextVar[ServerGroup | None] = ContextVar("current_group", default=None)

#: Seconds that requests which were cut have to end, before the program ends without them.
_LAST_MOMENT = 0.3

#: What accept() says when descriptors or memory have run out.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class ServerGroup:
    """
    The servers of one program.

    :param held: whether servers wait for :meth:`serve`; otherwise each serves when it is ready
    """

    def __init__(self, held: bool = False) -> None:
        self.held = held
        self.servers: list[Server] = []
        #: What factories have made, by their targets.
        self.applications: dict[str, Any] = {}
        self._deadline: float | None = None
        self._connection_limit = _connection_limit()
        self._started: list[Interface] = []
        self._stopping: asyncio.Task[None] | None = None
        self._aborted = asyncio.Event()
        self._starting = asyncio.Lock()
        self._next_complaint = 0.0

    def add(self, server: Server) -> None:
        """
        Take a server in, and bind its addresses.

        :param server: the server
        :raises ConfigurationError: if an address or the certificate cannot be had
        """
        server.connections.is_full = self._is_full
        server.bind()
        taken = {sock.place for other in self.servers for sock in other.sockets}
        for sock in server.sockets:
            if sock.place in taken:
                server.close_listeners()
                raise ConfigurationError(
                    f"cannot listen on {sock.place}: this program already does; "
                    "change the port or bind of one component"
                )
            taken.add(sock.place)
        self.servers.append(server)

    def _is_full(self) -> bool:
        limit = self._connection_limit
        return limit is not None and limit <= sum(len(each.connections) for each in self.servers)

    # -- Serving -------------------------------------------------------------------------------

    async def serve(self, context: Context) -> None:
        """
        Start every application, then listen on every address.

        :param context: the root context
        :raises ConfigurationError: if an address cannot be had after all
        """
        self.held = False
        for server in self.servers:
            await self._start(server, context)
        for server in self.servers:
            await self._listen(server)

    async def serve_one(self, server: Server, context: Context) -> None:
        """
        Start one server, unless the group is held back.

        :param server: a server of this group
        :param context: the root context, whose end stops the group
        :raises ConfigurationError: if an address cannot be had after all
        """
        if self.held:
            return
        # The callback that was added last is called first. The second one comes after those of
        # the resources that requests use, and so stops the servers before these go; the first one
        # is for a start that fails in between.
        context.add_teardown_callback(self._torn_down)
        await self._start(server, context)
        context.add_teardown_callback(self._torn_down)
        await self._listen(server)
        if server.has_tls and hasattr(signal, "SIGHUP"):
            on_signal(signal.SIGHUP, self.reload, instead_of=signal.SIG_DFL)
        on_signal(signal.SIGINT, _interrupt, instead_of=signal.default_int_handler)
        for url in server.urls:
            logger.info("Kyoukai listening on %s (%s)", url, server.label)

    async def _start(self, server: Server, context: Context) -> None:
        async with self._starting:  # one application may have several servers
            startup = getattr(server.interface, "startup", None)
            if startup is not None:
                self._started.append(server.interface)
                await startup(context)
        if server.before_listening is not None:
            await server.before_listening(context)

    async def _listen(self, server: Server) -> None:
        if self._stopping is None:
            self.watch_loop()
            await server.start_serving()

    def watch_loop(self) -> None:
        """Keep accept errors from flooding the log; leaves a handler of the user's alone."""
        loop = asyncio.get_running_loop()
        if loop.get_exception_handler() is None:
            loop.set_exception_handler(self._loop_failed)

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _EXHAUSTED and "socket" in context:
            # The loop tries again after a second, by itself, for each address.
            if loop.time() >= self._next_complaint:
                self._next_complaint = loop.time() + 1
                logger.error("cannot accept connections: %s", error.strerror)
        elif not (self._stopping and "_start_serving" in context.get("message", "")):
            # (That one is the second try, on a listener that has been closed since.)
            loop.default_exception_handler(context)

    # -- Signals -------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read every certificate again; one that cannot be used is reported, the old one stays."""
        for server in self.servers:
            try:
                server.reload_certificate()
            except ConfigurationError as error:
                logger.error("the certificate was not replaced: %s", error)
            else:
                if server.has_tls:
                    logger.info("the certificate of %s was read again", ", ".join(server.urls))

    def abort(self) -> None:
        """Cut every connection and every request at once."""
        self._aborted.set()
        self._deadline = monotonic()
        for server in self.servers:
            server.close_listeners()
            server.connections.shutdown()
            server.connections.abort()

    # -- Stopping ------------------------------------------------------------------------------

    async def stop(self) -> None:
        """
        Stop every server: close all listeners, let requests finish, end the applications.

        The time limit is the longest ``graceful_timeout``. The first call does the work, and
        further ones wait for it.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    @property
    def seconds_left(self) -> float:
        """What is left of the time that requests have to finish, once the group is stopping."""
        return 0.0 if self._deadline is None else max(0.0, self._deadline - monotonic())

    async def _torn_down(self) -> None:
        # Asphalt's own runner closes the root context in a task of its own, and by then has no
        # answer to a second signal but to leave its loop; from here on it cuts the connections.
        task = asyncio.current_task()
        if task is not None and getattr(task.get_coro(), "__qualname__", "") == "Context.close":
            for number in (signal.SIGINT, signal.SIGTERM):
                on_signal(number, self.abort)
        await self.stop()

    async def _stop(self) -> None:
        for server in self.servers:
            server.shutdown()
        timeout = max((s.config.graceful_timeout for s in self.servers), default=0.0)
        if not self._aborted.is_set():
            self._deadline = monotonic() + timeout
        await self._drain(timeout)
        for interface in reversed(self._started):
            try:
                await interface.shutdown()  # type: ignore[attr-defined]
            except Exception:
                logger.exception("error while the application was ended")

    async def _drain(self, timeout: float) -> None:
        waiters = [asyncio.create_task(s.connections.wait_idle()) for s in self.servers]
        idle = asyncio.gather(*waiters)
        aborted = asyncio.create_task(self._aborted.wait())
        try:
            await asyncio.wait(
                (idle, aborted), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not idle.done():
                if not self._aborted.is_set():
                    connections = sum(len(server.connections) for server in self.servers)
                    requests = sum(server.connections.requests for server in self.servers)
                    logger.warning(
                        "cutting %d connections and %d requests that did not finish in %g seconds",
                        connections,
                        requests,
                        timeout,
                    )
                self.abort()
                await asyncio.wait((idle,), timeout=_LAST_MOMENT)
        finally:
            aborted.cancel()
            idle.cancel()
            await asyncio.gather(idle, aborted, return_exceptions=True)


def _connection_limit() -> int | None:
    """The connections that the limit of open files leaves room for; None if there is no limit."""
    try:
        import resource
    except ImportError:
        return None  # Windows
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else max(1, limit * 4 // 5)


def _interrupt() -> None:
    # What Python does by itself, but between two steps of the loop: in the midst of a handler's
    # step it would take that request's answer along.
    raise KeyboardInterrupt


def on_signal(number: int, callback: Callable[[], None], instead_of: Any = None) -> None:
    """
    Call a function in the running loop when a signal comes.

    :param number: the signal
    :param callback: the function
    :param instead_of: the signal's handler that this one may replace; None for any
    """
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        return  # signals reach the main thread only
    if instead_of is not None and signal.getsignal(number) != instead_of:
        return
    try:
        loop.add_signal_handler(number, callback)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback))
