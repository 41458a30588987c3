"""
``HTTPProtocol``: what an RSGI application answers a request with.

The ``response_*`` calls are not awaited, and yet send at once: a response is a coroutine of the
stream, which nearly always ends without a pause, and is driven to its end right where the
application calls. What has to wait for the client, or for a file, is gone on with by a task.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import get_running_loop
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from kyoukai.exceptions import BodyError, InvalidResponse, PeerGone, StreamStateError
from kyoukai.interfaces.rsgi_errors import (
    RSGIProtocolClosed,
    RSGIProtocolError,
    RSGIRangeError,
    make_error,
)
from kyoukai.interfaces.rsgi_fields import (
    as_bytes,
    encoded,
    fields_of,
    known_fields,
    status_of,
)
from kyoukai.interfaces.rsgi_sending import Answer, StreamTransport
from kyoukai.interfaces.stepping import begin
from kyoukai.rules import check_response_head
from kyoukai.stream import CLOSED, RESET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kyoukai.interfaces.rsgi_fields import Fields

__all__ = ("HTTPProtocol",)

T = TypeVar("T")


class HTTPProtocol(Answer, eq=False):
    """
    One request's body, and its response.

    :param reading: whether the body has been asked for
    :param told: whether the application knows that the client is gone
    """

    reading: bool = False
    told: bool = False

    # -- The request's body --------------------------------------------------------------------

    async def __call__(self) -> bytes:
        """
        Return the whole body of the request.

        :raises RSGIProtocolError: if it has been asked for before
        :raises RSGIProtocolClosed: if it cannot be had; let through, it is answered as it should
        """
        self._read()
        stream = self.stream
        if stream.receiving is CLOSED and not stream.received:
            return b""
        pieces = []
        while piece := await self._receive():
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __aiter__(self) -> HTTPProtocol:
        """
        Iterate over the body of the request, as it arrives.

        :raises RSGIProtocolError: if it has been asked for before
        """
        self._read()
        return self

    async def __anext__(self) -> bytes:
        if not self.reading:
            raise make_error(RSGIProtocolError, "anext() of what is iterated over by 'async for'")
        piece = await self._receive()
        if not piece:
            raise StopAsyncIteration
        return piece

    def _read(self) -> None:
        if self.reading:
            raise make_error(
                RSGIProtocolError, "the body is there once: by await proto(), or by async for"
            )
        self.reading = True

    async def _receive(self) -> bytes:
        try:
            return await self.stream.receive()
        except (BodyError, PeerGone) as error:
            raise make_error(RSGIProtocolClosed, str(error)) from error
        except StreamStateError as error:
            raise make_error(RSGIProtocolError, str(error)) from error

    async def client_disconnect(self) -> None:
        """Wait until the client is gone, or has its whole response."""
        stream = self.stream
        if stream.sending is not CLOSED and stream.sending is not RESET:
            await stream.disconnected(or_closed_input=True)
            self.told = stream.sending is not CLOSED

    # -- Whole responses -----------------------------------------------------------------------

    def response_empty(self, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> None:
        """
        Send a response without a body.

        :param status: its status
        :param headers: its headers
        :raises RSGIProtocolError: if there has been another, or this one may not be sent
        """
        self._respond("response_empty", status, headers, b"")

    def response_bytes(
        self, status: int = 200, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> None:
        """
        Send a response; raises as ``response_empty`` does.

        :param status: its status
        :param headers: its headers
        :param body: its body: bytes, or what can be taken for them
        """
        if type(body) is not bytes:
            body = as_bytes(body, "response_bytes: body")
        self._respond("response_bytes", status, headers, body)

    def response_str(
        self, status: int = 200, headers: Iterable[tuple[str, str]] = (), body: str = ""
    ) -> None:
        """
        Send a response of text, in UTF-8; raises as ``response_empty`` does.

        :param status: its status
        :param headers: its headers
        :param body: its body
        """
        self._respond("response_str", status, headers, encoded(body, "response_str: body"))

    def _respond(self, call: str, status: Any, headers: Any, body: bytes) -> None:
        """Send a whole response at once, or as soon as the client takes it."""
        try:
            get_running_loop()
        except RuntimeError:
            self._on_loop(partial(self._respond, call, status, headers, body))
            return
        if self.answered:
            self._refuse(call)
        try:
            pairs, bare, length = known_fields[tuple(headers)]
        except (KeyError, TypeError):  # new, or made of what has no hash
            pairs, bare, length = fields_of(headers, call)
        if type(status) is not int:
            status = status_of(status, call)
        if length is not None and length == len(body):
            pairs = bare
        stream = self.stream
        try:
            if stream.send_now(status, pairs, body):  # most answers go this way
                self.answered = True
                if stream._gone is not None:
                    self.wake()
                return
            rest = begin(stream.send_response(status, pairs, body))
        except PeerGone:
            self.answered = True  # there is nobody to answer
            return
        except (InvalidResponse, StreamStateError) as error:
            raise make_error(RSGIProtocolError, f"{call}: {error}") from error
        self.answered = True
        if rest is not None:
            self.run(rest)
        elif stream._gone is not None:
            self.wake()

    # -- Others --------------------------------------------------------------------------------

    def response_stream(
        self, status: int = 200, headers: Iterable[tuple[str, str]] = ()
    ) -> StreamTransport:
        """
        Send the head of a response, and return what its body is sent by.

        The response ends when nobody has the transport any more, at the latest when the
        application returns.

        :param status: its status
        :param headers: its headers
        :raises RSGIProtocolError: if there has been another response, or this may not be sent
        """
        try:
            get_running_loop()
        except RuntimeError:
            return self._on_loop(partial(self.response_stream, status, headers))
        status, fields = self._check("response_stream", status, headers)
        self.lock = asyncio.Lock()
        try:
            self.stream.send_head(status, fields.headers)
        except PeerGone:
            pass  # the transport says so
        except (InvalidResponse, StreamStateError) as error:
            raise make_error(RSGIProtocolError, f"response_stream: {error}") from error
        self.answered = True
        return StreamTransport(self)

    def response_file(
        self, status: int, headers: Iterable[tuple[str, str]], file: str | os.PathLike[str]
    ) -> None:
        """
        Send a file; 404 if it cannot be opened.

        :param status: the status
        :param headers: the headers; Content-Length is added
        :param file: its path
        :raises RSGIProtocolError: if there has been another response, or this may not be sent
        """
        self._file("response_file", status, headers, file, 0, None)

    def response_file_range(
        self,
        status: int,
        headers: Iterable[tuple[str, str]],
        file: str | os.PathLike[str],
        start: int,
        end: int,
    ) -> None:
        """
        Send part of a file; 404 if it cannot be opened, 416 if the part is not in it.

        :param status: the status, such as 206
        :param headers: the headers, with Content-Range; Content-Length is added
        :param file: its path
        :param start: the first byte to send
        :param end: the byte after the last one; cut off at the end of the file
        :raises RSGIRangeError: if there is no byte in between
        :raises RSGIProtocolError: if there has been another response, or this may not be sent
        """
        call = "response_file_range"
        given: dict[str, Any] = {"start": start, "end": end}
        for name, value in given.items():
            if not isinstance(value, int):
                kind = type(value).__name__
                raise make_error(RSGIProtocolError, f"{call}: {name} must be an int, not {kind}")
        if not 0 <= start < end:
            raise make_error(RSGIRangeError, f"{call}: there is no range {start} to {end}")
        self._file(call, status, headers, file, start, end)

    def _file(
        self, call: str, status: Any, headers: Any, file: Any, start: int, end: int | None
    ) -> None:
        try:
            get_running_loop()
        except RuntimeError:
            self._on_loop(partial(self._file, call, status, headers, file, start, end))
            return
        if not isinstance(file, str | os.PathLike):
            kind = type(file).__name__
            raise make_error(RSGIProtocolError, f"{call}: file must be a str, not {kind}")
        path = os.fsdecode(file)
        status, fields = self._check(call, status, headers)
        try:
            check_response_head(status, fields.headers)
        except InvalidResponse as error:
            raise make_error(RSGIProtocolError, f"{call}: {error}") from error
        self.answered = True
        if self.stream.sending is not RESET:
            self.run(self.send_file(call, status, fields, path, start, end))

    # -- What they share -----------------------------------------------------------------------

    def _check(self, call: str, status: Any, headers: Any) -> tuple[int, Fields]:
        if self.answered:
            self._refuse(call)
        if type(status) is not int:
            status = status_of(status, call)
        return status, fields_of(headers, call)

    def _refuse(self, call: str) -> NoReturn:
        if self.stream.sending is RESET:
            raise make_error(RSGIProtocolClosed, "the client is gone")
        raise make_error(RSGIProtocolError, f"{call}: a second response")

    def _on_loop(self, work: Callable[[], T]) -> T:
        """Do something on the event loop, for an application that calls from a thread."""
        task = self.stream.task
        if task is None:
            raise make_error(RSGIProtocolClosed, "the application has returned")

        async def do() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(do(), task.get_loop()).result()
