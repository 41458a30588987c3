"""
The request's half of a stream: its body, as it arrives, as a whole, and as ``wsgi.input``.

Bytes are acknowledged to the peer when the application takes them, never on arrival: that is all
the flow control there is on this side.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from enum import Enum
from typing import IO, TYPE_CHECKING, Any

from kyoukai.exceptions import (
    BodyError,
    BodyNotReady,
    BodyStorageError,
    BodyTooLarge,
    PeerGone,
    StreamStateError,
)
from kyoukai.rules import Header

if TYPE_CHECKING:
    from kyoukai.head import RequestHead

__all__ = ("CLOSED", "IDLE", "OPEN", "RESET", "RequestBody", "Side")


class Side(Enum):
    """The state of one direction of a stream."""

    IDLE = "idle"
    OPEN = "open"
    CLOSED = "closed"
    RESET = "reset"


IDLE, OPEN, CLOSED, RESET = Side


#: Bytes read from a spooled body at a time.
_FILE_CHUNK = 65536
#: Pieces shorter than this are joined while they wait.
_SMALL = 1024


class RequestBody:
    """
    The body of a request.

    The backend puts it in (``insert_data``, ``stream_complete``, ``body_failed``), the interface
    takes it out (``receive`` and what is built on it).
    """

    head: RequestHead
    task: asyncio.Task[None] | None = None

    receiving: Side = OPEN
    #: The request's trailers, complete after the body.
    trailers: Sequence[Header] = ()
    #: Bytes of the body that have arrived.
    received: int = 0
    #: Bytes that wait for the application.
    buffered: int = 0
    #: The most bytes that the body may have; None for no limit.
    body_limit: int | None = None
    #: Whether the client waits for ``100 Continue`` before it sends the body.
    continue_expected: bool = False

    _body_error: BodyError | None = None
    _reader: asyncio.Future[None] | None = None
    _file: IO[bytes] | None = None
    _threaded: Any = None
    _discarding: bool = False
    _padding: int = 0
    #: What has arrived and not been taken; a deque once anything has.
    _chunks: deque[bytes] | tuple[()] = ()

    # -- What the stream defines ---------------------------------------------------------------

    def consumed(self, size: int) -> None:
        """That many bytes were taken, or will never be: the peer may send as many more."""

    def ask_for_body(self) -> None:
        """The application wants the body that the client holds back."""

    # -- What the backend puts in --------------------------------------------------------------

    def insert_data(self, data: bytes, flow_controlled_length: int | None = None) -> None:
        """
        Add some of the request's body.

        :param data: the bytes
        :param flow_controlled_length: what they cost the peer, padding included; by default their
            length
        """
        size = len(data)
        cost = size if flow_controlled_length is None else flow_controlled_length
        self.received += size
        if self.body_limit is not None and self.received > self.body_limit:
            self.body_failed(BodyTooLarge(self.body_limit))
        if self._discarding or not size:  # a frame may be all padding
            self.consumed(cost)
            return
        self.continue_expected = False
        if not self._chunks:
            self._chunks = deque((data,))
        elif size < _SMALL and len(self._chunks[-1]) < _SMALL:
            self._chunks[-1] += data  # a body in tiny pieces must not cost many times its size
        else:
            self._chunks.append(data)
        self._padding += cost - size
        self.buffered += cost
        self._wake_reader()

    def stream_complete(self, event: object = None) -> None:
        """The request has ended; its trailers are in ``trailers``."""
        if self.receiving is OPEN:
            self.receiving = CLOSED
            self._wake_reader()

    def body_failed(self, error: BodyError) -> None:
        """The rest of the body is not to be had: reads raise ``error``."""
        if self._body_error is None and self.receiving is OPEN:
            self._body_error = error
            self.discard()
            self._wake_reader()

    def discard(self) -> None:
        """From now on, drop the body as it arrives."""
        self._discarding = True
        if self.buffered:
            size, self.buffered, self._padding = self.buffered, 0, 0
            self._chunks = ()
            self.consumed(size)

    def _wake_reader(self) -> None:
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    # -- What the interface takes out ----------------------------------------------------------

    def set_body_limit(self, limit: int | None) -> None:
        """
        Limit the body; what has been declared or received counts at once.

        :param limit: bytes, or None for no limit
        :raises BodyTooLarge: if the body is known to be longer
        """
        self.body_limit = limit
        if limit is not None:
            declared = self.head.content_length
            if self.received > limit or (declared is not None and declared > limit):
                error = BodyTooLarge(limit)
                self.body_failed(error)
                raise error

    async def receive(self) -> bytes:
        """
        Return the next bytes of the body, as they arrive; ``b""`` at its end.

        :raises BodyError: if the rest cannot be had
        :raises PeerGone: if the client left before the end
        """
        if self._file is not None:
            return await _in_thread_if_on_disk(self._file, lambda f: f.read(_FILE_CHUNK))
        while True:
            if self._body_error is not None:
                raise self._body_error
            if self._chunks:
                data = self._chunks.popleft()
                cost = len(data) + self._padding
                self._padding = 0
                self.buffered -= cost
                self.consumed(cost)
                return data
            if self.receiving is CLOSED:
                return b""
            if self.receiving is RESET:
                raise PeerGone
            if self.continue_expected:
                self.ask_for_body()
            if self._reader is not None:
                raise StreamStateError("two tasks read the body at once")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    async def receive_body(self, spool_size: int, spool_dir: str | None = None) -> None:
        """
        Wait for the whole body and keep it, so that ``read`` and its like work.

        :param spool_size: bytes kept in memory; what is beyond goes to a temporary file
        :param spool_dir: folder of that file; None means the system's
        :raises BodyError: if it cannot be had or kept
        :raises PeerGone: if the client left before the end
        """
        if self._file is not None:
            return
        file: IO[bytes] = io.BytesIO()
        size = 0
        loop = asyncio.get_running_loop()
        try:
            while data := await self.receive():
                size += len(data)
                if size > spool_size and isinstance(file, io.BytesIO):
                    data = file.getvalue() + data
                    opening = loop.run_in_executor(None, _open_spool, spool_dir)
                    try:
                        file = await asyncio.shield(opening)
                    except asyncio.CancelledError:  # the thread opens it all the same
                        await asyncio.wait((opening,))
                        if opening.exception() is None:
                            file = opening.result()
                        raise
                if isinstance(file, io.BytesIO):
                    file.write(data)
                else:
                    await loop.run_in_executor(None, file.write, data)
            file.seek(0)
        except OSError as error:
            file.close()
            if isinstance(error, PeerGone):
                raise
            failure = BodyStorageError(f"the body cannot be spooled: {error.strerror}")
            self.body_failed(failure)
            raise failure from error
        except BaseException:
            file.close()
            raise
        self._file = file

    async def read_async(self, to_end: bool = True) -> bytes:
        """
        Read the body as it arrives.

        :param to_end: whether to return all of it, which also keeps it for ``read``; otherwise
            one chunk, ``b""`` at the end
        """
        if not to_end:
            return await self.receive()
        if self._file is None:
            parts = []
            while data := await self.receive():
                parts.append(data)
            body = b"".join(parts)
            self._file = io.BytesIO(body)
            return body
        return await _in_thread_if_on_disk(self._file, _whole)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks_to_end()

    async def _chunks_to_end(self) -> AsyncIterator[bytes]:
        while data := await self.receive():
            yield data

    # -- The body, as ``wsgi.input`` -----------------------------------------------------------

    def read(self, size: int = -1) -> bytes:
        """
        Read up to ``size`` bytes of the body, all of it by default.

        :raises BodyNotReady: on the event loop, if the body is not complete
        """
        data: bytes = self._readable().read(size)
        return data

    def readline(self, size: int = -1) -> bytes:
        """Read one line of the body; raises as ``read`` does."""
        line: bytes = self._readable().readline(size)
        return line

    def readlines(self, hint: int = -1) -> list[bytes]:
        """Read the lines of the body; raises as ``read`` does."""
        lines: list[bytes] = self._readable().readlines(hint)
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._readable())

    def _readable(self) -> Any:
        if self._file is not None:
            return self._file
        if self._threaded is not None:
            return self._threaded
        if self.receiving is CLOSED and self._body_error is None:
            self._file = io.BytesIO(b"".join(self._chunks))
            if self.buffered:
                self.discard()
            return self._file
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            task = self.task
            if task is None:
                raise BodyNotReady("the body has not arrived") from None
            self._threaded = io.BufferedReader(_ThreadedBody(self, task.get_loop()))
            return self._threaded
        raise BodyNotReady(
            "the body has not arrived; use 'await request.read_async()' or "
            "'async for chunk in request.chunks()' in a route with stream=True"
        )

    def rewind(self) -> None:
        """
        Begin again with a body that was kept, for who passes it on after somebody has read it.

        :raises StreamStateError: if some of it was taken, and not kept
        """
        if self._file is not None:
            self._file.seek(0)
        elif self.received > sum(map(len, self._chunks)) and self._body_error is None:
            raise StreamStateError("some of the body was read and not kept: it cannot be passed on")

    def close(self) -> None:
        """Free what the body holds."""
        if self._file is not None:
            self._file.close()


class _ThreadedBody(io.RawIOBase):
    """The body of a request that is still arriving, for a handler in a worker thread."""

    def __init__(self, stream: RequestBody, loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            data = asyncio.run_coroutine_threadsafe(self._stream.receive(), self._loop).result()
            self._rest = memoryview(data)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _open_spool(folder: str | None) -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="kyoukai-", dir=folder)


def _whole(file: IO[bytes]) -> bytes:
    position = file.tell()
    file.seek(0)
    try:
        return file.read()
    finally:
        file.seek(position)


async def _in_thread_if_on_disk(file: IO[bytes], work: Callable[[IO[bytes]], bytes]) -> bytes:
    if isinstance(file, io.BytesIO):
        return work(file)
    return await asyncio.get_running_loop().run_in_executor(None, work, file)
