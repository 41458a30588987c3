"""
``LoopThread``: an event loop in a thread of its own, with an application at work in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from kyoukai.exceptions import KyoukaiError
from kyoukai.interfaces.under_serving import Serving, describe

if TYPE_CHECKING:
    from kyoukai.app import Kyoukai
    from kyoukai.config import ServerConfig
    from kyoukai.interfaces.under_wsgi_wire import WsgiWire
    from kyoukai.stream import Interface

__all__ = ("LoopThread",)

logger = logging.getLogger("kyoukai.server")

#: Seconds that the end may take, beside those that requests in progress have.
_PATIENCE = 10.0


class LoopThread:
    """
    A loop in a thread, which ends with the process that has made it.

    :param app: the application
    :param config: the settings
    :raises KyoukaiError: if the application cannot start; why is its cause
    """

    def __init__(self, app: Kyoukai, config: ServerConfig) -> None:
        self.pid = os.getpid()
        self._app = app
        self._config = config
        self._lock = threading.Lock()
        self._requests: set[WsgiWire] = set()
        self._is_over = False
        self._serving: Serving | None = None
        self._loop = asyncio.new_event_loop()
        started: Future[None] = Future()
        # A daemon: the interpreter waits for other threads before it lets us end this one.
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="kyoukai loop", daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except Exception as error:
            self._thread.join()
            raise KyoukaiError(f"the application failed to start: {describe(error)}") from error

    @property
    def is_usable(self) -> bool:
        """Whether it takes requests of this process."""
        return not self._is_over and self.pid == os.getpid()

    # -- In other threads ----------------------------------------------------------------------

    def begin(self, wire: WsgiWire, interface: Interface | None = None) -> None:
        """
        Answer a request.

        :param wire: the request
        :param interface: what answers, instead of the application's interface
        """
        assert wire.exchange is not None
        wire.exchange.attach(wire, self._loop)
        with self._lock:
            if not self._is_over:
                self._requests.add(wire)
                # In a copy of this thread's context, so that it is the handler's too.
                self._loop.call_soon_threadsafe(self._begin, wire, interface)
                return
        wire.fail("the loop has ended")

    def close(self) -> None:
        """
        Let the application come to its end, and wait for that.

        In another process than the loop's, and after the end, nothing happens.
        """
        if self.pid != os.getpid():
            return
        with self._lock:
            if not self._is_over:
                self._loop.call_soon_threadsafe(self._stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(self._config.graceful_timeout + _PATIENCE)
            if self._thread.is_alive():
                logger.warning("the application does not come to its end")

    # -- In the loop's -------------------------------------------------------------------------

    def _run(self, started: Future[None]) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._live(started))
        except BaseException as error:  # such as SystemExit, from anywhere in the loop
            if not started.done():
                started.set_exception(error)
            else:
                logger.error("the loop of the application has ended", exc_info=error)
        finally:
            with self._lock:
                self._is_over = True
                requests = tuple(self._requests)
            for wire in requests:
                wire.fail("the loop has ended")
            _close(loop)
            asyncio.set_event_loop(None)

    async def _live(self, started: Future[None]) -> None:
        self._serving = serving = Serving(self._app, self._config)
        life = asyncio.create_task(serving.live(), name="kyoukai application")
        await serving.started()
        started.set_result(None)
        await life

    def _stop(self) -> None:
        if self._serving is not None:
            self._serving.stop()

    def _begin(self, wire: WsgiWire, interface: Interface | None) -> None:
        assert self._serving is not None
        assert wire.stream is not None
        if self._is_over or self._serving.is_over:
            self._requests.discard(wire)
            wire.fail("the application is stopping")
            return
        try:
            task = self._serving.begin(wire.stream, interface)
        except BaseException:
            wire.fail("it cannot begin")  # the server's thread must not wait for ever
            raise
        task.add_done_callback(wire.task_done)
        task.add_done_callback(lambda _: self._requests.discard(wire))


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop, with what is left in it."""
    try:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except BaseException:
        logger.exception("the loop of the application cannot be closed in good order")
    finally:
        loop.close()
