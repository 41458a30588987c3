"""
``HttpExchange``: a request and its answer, as an ASGI application receives and sends them.

There is one for each request, and on the way of a short answer it makes nothing else: no task, no
queue, no future. Its ``receive`` and ``send`` are what the application is called with.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import BodyError, InterfaceError, InvalidResponse, PeerGone
from kyoukai.interfaces.asgi_files import open_descriptor, open_path
from kyoukai.interfaces.asgi_messages import body_of, fields_of, known_fields, required, type_of
from kyoukai.interfaces.asgi_response import BODY, DONE, HELD, START, TRAILERS, AsgiResponse
from kyoukai.rules import bodyless
from kyoukai.stream import CLOSED, IDLE, RESET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kyoukai.interfaces.asgi_files import Pieces
    from kyoukai.rules import Header
    from kyoukai.stream import StreamState

__all__ = ("HttpExchange",)

logger = logging.getLogger("kyoukai")


class HttpExchange(AsgiResponse):
    """
    One request.

    :param stream: its stream
    """

    __slots__ = ("_heard", "_pairs", "left", "told")

    #: The trailers so far.
    _pairs: list[Header]

    def __init__(self, stream: StreamState) -> None:
        self.stream = stream
        self.step = START
        #: Whether the application has been given the whole request.
        self._heard = False
        #: Whether it has been told that there is no more to receive.
        self.told = False
        #: Whether the application has returned; whoever sets it calls ``wake``, as tasks that it
        #: has left behind must not wait for ever.
        self.left = False

    # -- Receiving -----------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """
        Return the next message: some of the body, or that the client is gone.

        The client counts as gone when it has its answer, too.

        :raises BodyError: if the rest of the body cannot be had
        """
        stream = self.stream
        if not (stream.sending is CLOSED or stream.sending is RESET or self.left):
            if self._heard:
                await stream.disconnected(or_closed_input=True)
            elif stream.receiving is CLOSED and not stream.received:
                self._heard = True
                return {"type": "http.request", "body": b"", "more_body": False}
            else:
                try:
                    data = await stream.receive()
                except PeerGone:
                    return await self._disconnected()
                except BodyError:
                    if stream.sending is CLOSED:  # by another task: nobody needs the rest
                        return await self._disconnected()
                    raise
                more = bool(data) and not (stream.receiving is CLOSED and not stream.buffered)
                self._heard = not more
                return {"type": "http.request", "body": data, "more_body": more}
        return await self._disconnected()

    async def _disconnected(self) -> dict[str, Any]:
        if self.told:  # some ask again and again, and would keep all others from their turn
            await asyncio.sleep(0)
        self.told = True
        return {"type": "http.disconnect"}

    def wake(self) -> None:
        """The answer is complete, or will be: there is no more to receive."""
        gone = self.stream._gone  # what ``disconnected`` waits for; no lost client resolves it now
        if gone is not None and not gone.done():
            gone.set_result(None)

    # -- Sending -------------------------------------------------------------------------------

    async def send(self, message: Mapping[str, Any]) -> None:
        """
        Take a message; waits while the client or the transport is slow.

        :raises InterfaceError: if it is out of order, unknown or of wrong types
        :raises InvalidResponse: if it may not be sent
        :raises PeerGone: if the client left (an ``OSError``, as the specification asks)
        """
        try:
            kind = message["type"]
        except (KeyError, TypeError):
            kind = None
        if kind == "http.response.start":
            if self.step != START or self.stream.sending is not IDLE:
                self.refuse(kind)
            # What ``start`` does with most heads.
            try:
                status, headers = message["status"], message["headers"]
                fields = known_fields[tuple(headers) if type(headers) is list else headers]
            except (KeyError, TypeError):
                fields = None
            if fields is None or type(status) is not int or not 200 <= status <= 599:
                self.start(message, kind)
                return
            self.status = status
            self.fields = fields
            self.trailers = "trailers" in message and bool(message["trailers"])
            self.step = HELD
        elif kind == "http.response.body":
            body = message.get("body", b"")
            if type(body) is not bytes:
                body = body_of(body, kind)
            more = "more_body" in message and message["more_body"]
            if self.step != HELD or more or self.trailers:
                if more and self.step == BODY:
                    await self.stream.send_data(body)
                else:
                    await self.body(body, bool(more), kind)
                return
            # What ``body`` would do, without another coroutine: most answers go this way.
            fields = self.fields
            headers = fields.bare if fields.length == len(body) else fields.headers
            self.step = DONE
            stream = self.stream
            try:
                if not stream.send_now(self.status, headers, body):
                    await stream.send_response(self.status, headers, body)
            except InvalidResponse:
                self.step = START  # nothing is out
                raise
            if stream._gone is not None:
                self.wake()
        else:
            handler = _HANDLERS.get(kind) if isinstance(kind, str) else None
            if handler is None:
                kind = type_of(message)
                raise InterfaceError(f"{kind} is no message of an http scope")
            await handler(self, message, kind)

    async def _trailers(self, message: Mapping[str, Any], kind: str) -> None:
        """``http.response.trailers``: what follows the body."""
        if self.step != TRAILERS:
            if self.step in (HELD, BODY) and not self.trailers:
                raise InterfaceError(f"{kind}: http.response.start has announced no trailers")
            self.refuse(kind)
        pairs = fields_of(required(message, "headers"), kind).headers
        if not hasattr(self, "_pairs"):
            self._pairs = []
        self._pairs += pairs
        if not message.get("more_trailers"):
            self.step = DONE
            await self.stream.end(self._pairs)
            self.wake()

    async def _early_hint(self, message: Mapping[str, Any], kind: str) -> None:
        """
        ``http.response.early_hint``: 103 with Link headers (RFC 8297).

        Once the head is out, it is ignored, as the specification allows.
        """
        if self.stream.sending is RESET or self.step not in (START, HELD, BODY):
            self.refuse(kind)
        links = required(message, "links")
        try:
            pairs = tuple([(b"link", link) for link in links])
        except TypeError:
            pairs = ((b"link", links),)
        if not all(isinstance(link, bytes) for _, link in pairs):
            raise InterfaceError(f"{kind}: links must be a list of bytes")
        self.stream.send_informational(103, pairs)

    async def _debug(self, message: Mapping[str, Any], kind: str) -> None:
        """``http.response.debug``: for test clients; here, it goes into the log."""
        if self.step != START:
            raise InterfaceError(f"{kind} after http.response.start")
        info = required(message, "info")
        if not isinstance(info, dict):
            raise InterfaceError(f"{kind}: info must be a dict, not {type(info).__name__}")
        head = self.stream.head
        logger.debug("%s %r: %s: %r", head.method, head.target, kind, info)

    # -- Files ---------------------------------------------------------------------------------

    async def _path(self, message: Mapping[str, Any], kind: str) -> None:
        """``http.response.pathsend``: a file as the body."""
        if self.step != HELD:
            self.refuse(kind)
        path = required(message, "path")
        if not isinstance(path, str):
            raise InterfaceError(f"{kind}: path must be a str, not {type(path).__name__}")
        pieces = await open_path(path, kind)
        try:
            await self._pieces(pieces, False, kind)
        finally:
            pieces.close()

    async def _file(self, message: Mapping[str, Any], kind: str) -> None:
        """``http.response.zerocopysend``: part of an open file as part of the body."""
        if self.step not in (HELD, BODY):
            self.refuse(kind)
        file = required(message, "file")
        pieces = open_descriptor(file, message.get("offset"), message.get("count"), kind)
        await self._pieces(pieces, bool(message.get("more_body")), kind)

    async def _pieces(self, pieces: Pieces, more: bool, kind: str) -> None:
        """
        Send what comes from a file, piece by piece.

        :param more: whether more of the body comes after it
        """
        piece = b""
        if not bodyless(self.stream.head.method, self.status):
            piece = await pieces.read()
            while piece and not pieces.done:
                await self.body(piece, True, kind)
                piece = await pieces.read()
        await self.body(piece, more, kind)


_HANDLERS: dict[str, Callable[[HttpExchange, Mapping[str, Any], str], Awaitable[None]]] = {
    "http.response.debug": HttpExchange._debug,
    "http.response.early_hint": HttpExchange._early_hint,
    "http.response.pathsend": HttpExchange._path,
    "http.response.trailers": HttpExchange._trailers,
    "http.response.zerocopysend": HttpExchange._file,
}
