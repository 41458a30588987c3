"""
The WSGI interface (PEP 3333): streams to applications such as Flask's and Django's.

An application runs in a thread of the pool that all WSGI applications of the process share. What
it reads and writes goes through the task of its request, which waits for the thread to the end:
a thread cannot be cancelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kyoukai.interfaces.hosted import Hosted, answer_plainly
from kyoukai.interfaces.under_wsgi import as_wsgi
from kyoukai.interfaces.wsgi_files import InputError
from kyoukai.interfaces.wsgi_pool import WsgiPool, give_back, lease
from kyoukai.interfaces.wsgi_request import WsgiRequest
from kyoukai.stream import CLOSED

if TYPE_CHECKING:
    from asphalt.core import Context

    from kyoukai.rules import Header
    from kyoukai.stream import StreamState

__all__ = ("WsgiInterface", "as_wsgi")

_RETRY: tuple[Header, ...] = ((b"retry-after", b"1"),)


class WsgiInterface(Hosted):
    """Answers streams by a WSGI application; see :class:`Hosted` for its arguments."""

    name = "wsgi"

    _pool: WsgiPool | None = None
    _uses = 0

    async def startup(self, context: Context) -> None:
        """
        Take part in the pool of threads.

        :param context: the root context
        """
        self._use_pool()

    async def shutdown(self) -> None:
        """Leave the pool; the last to leave ends its threads."""
        if self._pool is not None:
            give_back(self._pool)
            self._uses -= 1
            if not self._uses:
                self._pool = None

    def _use_pool(self) -> WsgiPool:
        self._pool = lease(self.config)
        self._uses += 1
        return self._pool

    async def answer(self, stream: StreamState) -> None:
        """Answer a request; returns when its thread is done with it."""
        pool = self._pool or self._use_pool()
        body = None
        if stream.receiving is CLOSED:
            body = await _received(stream)
        request = WsgiRequest(self, pool, stream, body)
        # Until a thread takes the request, it ends when its client leaves.
        stream.cancel_on_disconnect = True
        if not pool.submit(request):
            stream.cancel_on_disconnect = False
            await answer_plainly(stream, 503, "Service Unavailable", _RETRY)
            return
        try:
            error = await request.attend()
        except BaseException:
            pool.drop(request)
            raise
        if error is not None:
            await self._application_failed(stream, error)

    async def _application_failed(self, stream: StreamState, error: BaseException) -> None:
        if isinstance(error, InputError):
            error = error.error
        if isinstance(error, Exception):
            await self._failed(stream, error)
        else:
            self.complain(stream, f"{type(error).__name__} was raised in the application", error)
            await self.give_up(stream)


async def _received(stream: StreamState) -> bytes:
    """Return the body of a request that is complete."""
    if not stream.received:
        return b""
    parts = []
    while data := await stream.receive():
        parts.append(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)
