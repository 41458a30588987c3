"""
The threads that run WSGI applications: one pool for all of them in a process (on one event loop).

Python runs one thread at a time, and each change from one to another costs more than a small
application. So a thread that has done its work takes the next request by itself, and no second
thread is woken before the first that was woken has begun: as long as applications compute, one or
two threads do it all. When one waits for a database, the next is already there to go on, and wakes
the one after it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextvars import Context

    from kyoukai.config import ServerConfig
    from kyoukai.stream import StreamState

__all__ = ("Job", "WsgiPool", "give_back", "lease")

logger = logging.getLogger("kyoukai")


class Job(Protocol):
    """A request for a thread."""

    @property
    def stream(self) -> StreamState:
        """Its stream."""

    @property
    def context(self) -> Context:
        """The context that it runs in."""

    def run(self) -> None:
        """Run the application, in the thread; raises nothing."""

    def wake(self) -> None:
        """Look at what the thread has left, on the loop; may be called without need."""


class WsgiPool:
    """
    A bounded number of threads, and a bounded queue before them.

    The threads are daemons: one that hangs in its application does not hold the process at its end.

    :param loop: the loop that requests come from
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        #: The most threads, and the most requests that wait for one.
        self.threads = 0
        self.queue = 0
        #: Interfaces that use the pool.
        self.users = 0
        #: Threads that run an application, and threads that there are.
        self.busy = 0
        self.started = 0
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        # The one that became idle last is woken first: its caches are warm, and the others sleep.
        self._idle: list[threading.Lock] = []
        #: Whether a thread has been woken and has not begun yet.
        self._waking = False
        self._closed = False
        self._complained = False
        self._news: deque[Job] = deque()
        self._expected = False

    @property
    def waiting(self) -> int:
        """How many requests wait for a thread."""
        return len(self._waiting)

    # -- On the loop ---------------------------------------------------------------------------

    def grow(self, config: ServerConfig) -> None:
        """Let the pool be as large as a component wants it; the largest wish counts."""
        self.threads = max(self.threads, config.wsgi_threads)
        self.queue = max(self.queue, config.wsgi_queue)

    def submit(self, job: Job) -> bool:
        """Run a request in a thread, as soon as one is free; False if too many wait already."""
        with self._lock:
            full = self.busy + len(self._waiting) >= self.threads + self.queue
            if not full:
                self._waiting.append(job)
                wake = self._to_wake()
        if full:
            self._say_full()
            return False
        if wake:
            try:
                self._wake(wake)
            except RuntimeError:  # the system gives no more threads
                if not self.started and self.drop(job):
                    raise
        return True

    def drop(self, job: Job) -> bool:
        """Forget a request that waits; False if a thread has it, or has had it."""
        with self._lock:
            try:
                self._waiting.remove(job)
            except ValueError:
                return False
            return True

    def close(self) -> None:
        """Let the threads end, when they have done what they are at."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for baton in idle:
            baton.release()

    def _say_full(self) -> None:
        if not self._complained:
            logger.warning(
                "%d requests for WSGI applications are in %d threads and %d wait: more get 503"
                " (wsgi_threads, wsgi_queue)",
                self.busy,
                self.started,
                len(self._waiting),
            )
            self._complained = True

    def _deliver(self) -> None:
        """Wake the tasks whose threads have news."""
        self._expected = False  # first, so that none is missed
        news = self._news
        while news:
            news.popleft().wake()

    # -- In the threads ------------------------------------------------------------------------

    def notify(self, job: Job) -> None:
        """There is something to do for the task of a request; one turn of the loop does many."""
        self._news.append(job)
        if not self._expected:
            self._expected = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                pass  # the loop is closed, and the thread was too slow for its server's end

    def _to_wake(self) -> threading.Lock | bool:
        """
        With the lock held: which thread to wake, if any; True for a new one.

        While requests wait and a thread could be had, one has been woken that has not begun: so
        none waits for an application that blocks.
        """
        if not self._waiting or self._waking:
            return False
        if self._idle:
            self._waking = True
            return self._idle.pop()
        if self.started < self.threads:
            self._waking = True
            self.started += 1
            return True
        return False

    def _wake(self, wake: threading.Lock | bool) -> None:
        if wake is not True:
            wake.release()  # type: ignore[union-attr]
            return
        thread = threading.Thread(target=self._work, daemon=True, name="kyoukai-wsgi")
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self.started -= 1
                self._waking = False
            raise

    def _work(self) -> None:
        baton = threading.Lock()  # whoever releases it wakes this thread
        baton.acquire()
        job = self._take(baton, True)
        while True:
            if job is None:
                if self._closed:
                    return
                baton.acquire()
                job = self._take(baton, True)
                continue
            try:
                job.context.run(job.run)
            except BaseException:
                logger.exception("error in a thread for WSGI applications")
            job = None  # nothing of a request outlives it
            job = self._take(baton, False)

    def _take(self, baton: threading.Lock, woken: bool) -> Job | None:
        """
        Take the next request that waits; without one, become idle.

        :param woken: whether the thread was idle before
        """
        wake: Any = False
        job: Job | None = None
        with self._lock:
            if woken:
                self._waking = False
            else:
                self.busy -= 1
            if self._waiting:
                job = self._waiting.popleft()
                # From here on, a client that leaves no longer ends the request.
                job.stream.cancel_on_disconnect = False
                self.busy += 1
                wake = self._to_wake()
                if self._complained and len(self._waiting) <= self.queue // 2:
                    self._complained = False
            elif not self._closed:
                self._idle.append(baton)
            else:
                self.started -= 1
        if wake:
            try:
                self._wake(wake)
            except RuntimeError:
                pass  # this thread goes on alone
        return job


# -- One pool for each loop ------------------------------------------------------------------------

_pools: dict[asyncio.AbstractEventLoop, WsgiPool] = {}


def lease(config: ServerConfig) -> WsgiPool:
    """
    Return the pool of the running loop, for one more user.

    :param config: the user's settings, of which the largest of all users' count
    """
    loop = asyncio.get_running_loop()
    for other in [each for each in _pools if each.is_closed()]:
        _pools.pop(other).close()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = WsgiPool(loop)
    pool.users += 1
    pool.grow(config)
    return pool


def give_back(pool: WsgiPool) -> None:
    """End one use of a pool; the last ends its threads."""
    pool.users -= 1
    if not pool.users:
        if _pools.get(pool.loop) is pool:
            del _pools[pool.loop]
        pool.close()
