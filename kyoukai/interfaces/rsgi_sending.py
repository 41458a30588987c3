"""
How the answers of RSGI applications go out, when they cannot go out at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from kyoukai.exceptions import InvalidResponse, PeerGone, StreamStateError
from kyoukai.interfaces.hosted import answer_plainly
from kyoukai.interfaces.rsgi_errors import RSGIProtocolClosed, RSGIProtocolError, make_error
from kyoukai.interfaces.rsgi_fields import as_bytes, encoded
from kyoukai.interfaces.rsgi_files import open_part
from kyoukai.rules import bodyless
from kyoukai.stream import OPEN, StreamState

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from kyoukai.interfaces.rsgi_fields import Fields

__all__ = ("Answer", "StreamTransport")


class Answer(msgspec.Struct, eq=False):  # made for each request: twice as fast so
    """
    The answer to one stream, which the application gives without waiting for it.

    :param stream: the stream
    :param interface: the interface that it came to, for what goes wrong when the application has
        gone on
    :param answered: whether the application has answered
    :param rest: sends what could not be sent at once
    :param lock: lets those who send the body in pieces take turns
    """

    stream: StreamState
    interface: Any
    answered: bool = False
    rest: asyncio.Task[None] | None = None
    lock: asyncio.Lock | None = None

    def run(self, sending: Awaitable[None]) -> None:
        """Let a task send, while the application goes on."""
        self.rest = asyncio.get_running_loop().create_task(self._run(sending), name="kyoukai rsgi")

    async def _run(self, sending: Awaitable[None]) -> None:
        try:
            await sending
        except Exception as error:
            self.interface.report(self.stream, error)
            await self.interface.give_up(self.stream)
        finally:
            self.wake()

    def wake(self) -> None:
        """The answer is complete, or will not be: nobody need wait for the client to leave."""
        gone = self.stream._gone
        if gone is not None and not gone.done():
            gone.set_result(None)

    # -- Streams -------------------------------------------------------------------------------

    async def complete(self) -> None:
        """
        The application has returned: wait until all it gave is sent, and end its stream.

        :raises InvalidResponse: if the body is shorter than its Content-Length
        :raises PeerGone: if the client left
        """
        if self.rest is not None:
            await self.rest
        if self.stream.sending is OPEN:
            await self._end()
        self.wake()

    def dropped(self) -> None:
        """Nobody can send on the stream any more: end it, even if the application goes on."""
        if self.stream.sending is OPEN and self.rest is None:
            self.run(self._end())

    async def _end(self) -> None:
        assert self.lock is not None  # or the stream would not be open
        async with self.lock:
            if self.stream.sending is OPEN:
                await self.stream.end()

    # -- Files ---------------------------------------------------------------------------------

    async def send_file(
        self, call: str, status: int, fields: Fields, path: str, start: int, end: int | None
    ) -> None:
        """
        Answer with a file, or part of it.

        :param call: what the application has called, for errors
        :param status: the status
        :param fields: the headers
        :param path: the file
        :param start: the first byte
        :param end: the byte after the last one; None for all
        :raises RSGIProtocolError: if the Content-Length is wrong, or the file cannot be read
        :raises PeerGone: if the client left
        """
        stream = self.stream
        try:
            part = await open_part(path, start, end)
        except (OSError, ValueError) as error:
            self._lacking(f"{call}: {path!r} cannot be sent: {_text(error)}")
            await answer_plainly(stream, 404, "Not Found")
            return
        try:
            size = part.size
            if end is not None and not size:
                whole = part.whole_size
                self._lacking(f"{call}: {path!r} has {whole} bytes, none of them from {start} on")
                missing = (b"content-range", b"bytes */%d" % whole)
                await answer_plainly(stream, 416, "Range Not Satisfiable", (missing,))
                return
            if fields.length is not None and fields.length != size:
                rule = f"Content-Length says {fields.length}, and there are {size} bytes"
                raise make_error(RSGIProtocolError, f"{call}: {path!r}: {rule}")
            headers = (*fields.bare, (b"content-length", b"%d" % size))
            if bodyless(stream.head.method, status):
                await stream.send_response(status, headers, b"")
            elif size == len(part.first):
                await stream.send_response(status, fields.bare, part.first)
            else:
                stream.send_head(status, headers)
                piece = part.first
                while piece:
                    await stream.send_data(piece)
                    try:
                        piece = await part.read()
                    except OSError as error:
                        rule = f"{path!r} cannot be read: {_text(error)}"
                        raise make_error(RSGIProtocolError, f"{call}: {rule}") from error
                await stream.end()
        finally:
            part.close()

    def _lacking(self, problem: str) -> None:
        self.interface.complain(self.stream, problem)


class StreamTransport:
    """
    What the body of a response is sent by, piece by piece.

    :param answer: the answer, whose head is out
    """

    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def send_bytes(self, data: bytes) -> None:
        """
        Send some of the body; waits while the client or the transport is slow.

        :param data: the bytes
        :raises RSGIProtocolClosed: if the client is gone, or the response has ended
        :raises RSGIProtocolError: if these are no bytes, or more than the Content-Length says
        """
        await self._send(data if type(data) is bytes else as_bytes(data, "send_bytes: data"))

    async def send_str(self, data: str) -> None:
        """
        Send some of the body, in UTF-8; raises as ``send_bytes`` does.

        :param data: the text
        """
        await self._send(encoded(data, "send_str: data"))

    async def _send(self, data: bytes) -> None:
        answer = self._answer
        assert answer.lock is not None
        try:
            async with answer.lock:
                await answer.stream.send_data(data)
        except PeerGone as error:
            raise make_error(RSGIProtocolClosed, str(error)) from error
        except StreamStateError as error:
            raise make_error(RSGIProtocolClosed, "the response has ended") from error
        except InvalidResponse as error:
            raise make_error(RSGIProtocolError, str(error)) from error

    def __del__(self) -> None:
        answer: Any = getattr(self, "_answer", None)
        if answer is None or answer.stream.sending is not OPEN:
            return
        task = answer.stream.task
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # in another thread: the stream ends when the application returns
        # Not here: the last reference may have gone in the middle of whatever runs.
        if task is not None and task.get_loop() is loop:
            loop.call_soon(answer.dropped)


def _text(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
