"""
What a thread that runs a WSGI application and the task of its request have to say to each other.

The thread leaves notes, in order; the task does what they say. For some the thread waits: for the
next part of the request's body, and for a client that takes the answer slowly. Most requests need
one note, the whole answer, and one that says that the thread is done.
"""

from __future__ import annotations

from collections import deque
from contextvars import copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import InvalidResponse, PeerGone, StreamError
from kyoukai.stream import CLOSED

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from kyoukai.interfaces.wsgi_pool import WsgiPool
    from kyoukai.rules import Header
    from kyoukai.stream import StreamState

__all__ = ("DATA", "DONE", "END", "FLUSH", "HEAD", "READ", "WHOLE", "Exchange")

#: A whole answer: status, headers, body.
WHOLE = 1
#: The thread is done with the request: what it has raised, or None.
DONE = 2
#: The head of an answer whose body follows: status and headers.
HEAD = 3
#: Some of the body.
DATA = 4
#: The body's end.
END = 5
#: Tell the thread when everything before this note has been taken.
FLUSH = 6
#: Give the thread some of the request's body, and whether that was the last of it.
READ = 7

#: Bytes of a request's body that go to the thread at once, if so many wait.
_READ_SIZE = 131072


class Exchange:
    """
    A request between a thread and a task.

    :param pool: the threads
    :param stream: the stream
    """

    __slots__ = ("_notes", "_waiter", "context", "failure", "left_alone", "pool", "stream")

    def __init__(self, pool: WsgiPool, stream: StreamState) -> None:
        self.pool = pool
        self.stream = stream
        #: The one context in which everything of the application runs.
        self.context = copy_context()
        #: Why no more of the answer can be sent.
        self.failure: StreamError | None = None
        #: Whether the task has ended, and does nothing for the thread any more.
        self.left_alone = False
        self._notes: deque[tuple[Any, ...]] = deque()
        self._waiter: asyncio.Future[None] | None = None

    # -- In the thread -------------------------------------------------------------------------

    def post(self, *note: Any) -> None:
        """Leave a note for the task."""
        self._notes.append(note)
        if self.left_alone:  # asked after the note was left: either side sees it, or both do
            self._answer_rest()
        else:
            self.pool.notify(self)  # type: ignore[arg-type]  # the subclass can run

    def ask(self, what: int) -> Any:
        """
        Leave a note, and wait for what comes of it.

        :raises StreamError: if that cannot be had
        """
        reply: SimpleQueue[Any] = SimpleQueue()  # its own: the application may ask in two threads
        self.post(what, reply)
        result = reply.get()
        if isinstance(result, BaseException):
            try:
                raise result
            finally:
                del result  # its traceback leads to this frame
        return result

    # -- On the loop ---------------------------------------------------------------------------

    def wake(self) -> None:
        """There are notes."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def attend(self) -> BaseException | None:
        """
        Do what the thread asks for, until it is done.

        :return: what the application has raised
        """
        notes = self._notes
        try:
            while True:
                while not notes:
                    self._waiter = self.pool.loop.create_future()
                    await self._waiter
                note = notes.popleft()
                kind = note[0]
                if kind == DONE:
                    error: BaseException | None = note[1]
                    return error or self._own_failure()
                if kind == READ:
                    try:
                        data = await self._read()
                    except BaseException:
                        notes.appendleft(note)  # to be answered with the rest
                        raise
                    note[1].put(data)
                elif kind == FLUSH:
                    note[1].put(self.trouble())
                elif self.failure is None:
                    try:
                        await self._carry_out(*note)
                    except StreamError as failure:
                        self.failure = failure.with_traceback(None)  # which would lead back here
        finally:
            self._leave()

    def _own_failure(self) -> StreamError | None:
        """What the thread could not know, because it was done before."""
        return self.failure if isinstance(self.failure, InvalidResponse) else None

    def trouble(self) -> StreamError | None:
        """Why no more of the answer can be sent, to be raised in the thread."""
        return PeerGone() if isinstance(self.failure, PeerGone) else self.failure

    async def _read(self) -> tuple[bytes, bool] | StreamError:
        stream = self.stream
        try:
            data = await stream.receive()
            if stream.buffered and data:
                pieces, size = [data], len(data)
                while stream.buffered and size < _READ_SIZE:
                    data = await stream.receive()
                    pieces.append(data)
                    size += len(data)
                data = b"".join(pieces)
        except StreamError as error:
            # From Python 3.12 on, its frames would lead back to those here that hold it.
            return error.with_traceback(None)
        return data, stream.receiving is CLOSED and not stream.buffered

    async def _carry_out(self, kind: int, *what: Any) -> None:
        stream = self.stream
        if kind == WHOLE:
            await stream.send_response(*what)
        elif kind == DATA:
            await stream.send_data(self._joined(what[0]))
        elif kind == HEAD:
            await self._begin(*what)
        else:
            await stream.end()

    async def _begin(self, status: int, headers: Sequence[Header]) -> None:
        """Send a head with what there is of the body; as a whole answer, if that is all of it."""
        stream, notes = self.stream, self._notes
        body = self._joined(b"")
        if body and notes and notes[0][0] == END:
            notes.popleft()
            await stream.send_response(status, headers, body)
            return
        stream.send_head(status, headers)
        if body:
            await stream.send_data(body)

    def _joined(self, first: bytes) -> bytes:
        """Return some of the body, with what follows it at once."""
        notes = self._notes
        if not (notes and notes[0][0] == DATA):
            return first
        pieces = [first]
        while notes and notes[0][0] == DATA:
            pieces.append(notes.popleft()[1])
        return b"".join(pieces)

    def _leave(self) -> None:
        """The task ends: who waits for it waits no more."""
        self._waiter = None
        self.left_alone = True
        self._answer_rest()

    def _answer_rest(self) -> None:
        """Answer notes that no task will read, here or in the thread; each of them once."""
        while True:
            try:
                note = self._notes.popleft()
            except IndexError:
                return
            if note[0] in (READ, FLUSH):
                note[1].put(PeerGone())
            elif note[0] == DONE:
                self.unheard(note[1])

    def unheard(self, error: BaseException | None) -> None:
        """The application has raised something after its request was given up."""
