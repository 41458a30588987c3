"""
``AsgiResponse``: the answer of an ASGI application, from its start to its last message.

The head is held until the first message of the body is there. If that is the last one as well, head
and body leave as one; and an application that fails in between still has a 500 for its client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from kyoukai.exceptions import InterfaceError, InvalidResponse, PeerGone
from kyoukai.interfaces.asgi_messages import (
    Fields,
    body_of,
    fields_of,
    known_fields,
    required,
    status_of,
)
from kyoukai.rules import check_response_head
from kyoukai.stream import IDLE, RESET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kyoukai.stream import Payload, StreamState

__all__ = ("BODY", "DONE", "HELD", "START", "TRAILERS", "AsgiResponse")

# What comes next: the start, the first of the body, more of it, the trailers, nothing.
START, HELD, BODY, TRAILERS, DONE = range(5)


class AsgiResponse:
    """
    The answer to one request, or to a handshake that is denied.

    :param stream: the stream
    """

    __slots__ = ("fields", "status", "step", "stream", "trailers")

    #: What the types of its messages begin with.
    prefix = "http.response"

    fields: Fields
    status: int
    #: Whether trailers come after the body.
    trailers: bool

    def __init__(self, stream: StreamState) -> None:
        self.stream = stream
        self.step = START

    def start(self, message: Mapping[str, Any], kind: str) -> None:
        """
        Take the start of the answer, and hold it.

        :param message: status, headers, and whether trailers will come
        :param kind: its type
        :raises InterfaceError: if it is out of order, or something in it of a wrong type
        :raises InvalidResponse: if this head may not be sent
        :raises PeerGone: if the client left
        """
        if self.step != START or self.stream.sending is not IDLE:
            self.refuse(kind)
        status = required(message, "status")
        if type(status) is not int:
            status = status_of(status, kind)
        headers = message.get("headers", ())
        if type(headers) is list:
            headers = tuple(headers)
        try:
            fields = known_fields.get(headers)
        except TypeError:  # it is made of what has no hash
            fields = None
        if fields is None:
            fields = fields_of(headers, kind)
        if not 200 <= status <= 599:
            check_response_head(status, ())
        self.status = status
        self.fields = fields
        self.trailers = bool(message.get("trailers"))
        self.step = HELD

    async def body(self, body: Payload, more: bool, kind: str) -> None:
        """
        Send some of the body.

        :param body: the bytes
        :param more: whether more of it comes
        :param kind: the type of the message
        :raises InterfaceError: if it is out of order
        :raises InvalidResponse: if the body is longer or shorter than its Content-Length
        :raises PeerGone: if the client left
        """
        stream = self.stream
        if self.step == HELD:
            if not (more or self.trailers):
                fields = self.fields
                headers = fields.bare if fields.length == len(body) else fields.headers
                self.step = DONE
                try:
                    await stream.send_response(self.status, headers, body)
                except InvalidResponse:
                    self.step = START  # nothing is out
                    raise
                self.wake()
                return
            self._begin()
        elif self.step != BODY:
            self.refuse(kind)
        if not more:
            self.step = TRAILERS if self.trailers else DONE
        await stream.send_data(body)
        if self.step == DONE:
            await stream.end()
            self.wake()

    async def take_body(self, message: Mapping[str, Any], kind: str) -> None:
        """Send the body that a message has; raises as ``body`` does."""
        body = body_of(message.get("body", b""), kind)
        await self.body(body, bool(message.get("more_body")), kind)

    def _begin(self) -> None:
        """Send the head alone."""
        stream, fields = self.stream, self.fields
        headers = fields.headers
        if self.trailers and stream.head.http_version == "1.1":
            headers = fields.bare  # only a chunked body has trailers (RFC 9112 section 7.1.2)
        try:
            stream.send_head(self.status, headers)
        except InvalidResponse:
            self.step = START
            raise
        self.step = BODY

    def wake(self) -> None:
        """The answer is complete: who waits for the end of the request need wait no longer."""

    def refuse(self, kind: str) -> NoReturn:
        """
        Refuse a message.

        :param kind: its type
        :raises PeerGone: if the client left
        :raises InterfaceError: otherwise: it is out of order
        """
        if self.stream.sending is RESET:
            raise PeerGone
        if self.step == START:
            raise InterfaceError(f"{kind} before {self.prefix}.start")
        if self.step == DONE:
            raise InterfaceError(f"{kind} after the end of the response")
        if self.step == TRAILERS:
            raise InterfaceError(f"{kind} where {self.prefix}.trailers is due")
        if kind == f"{self.prefix}.start":
            raise InterfaceError(f"a second {kind}")
        raise InterfaceError(f"{kind} before the end of the body")

    def what_is_due(self) -> str:
        """Return what an application that has returned has left out; empty if nothing."""
        if self.stream.sending is RESET or self.step in (START, DONE):
            return ""
        due = "trailers" if self.step == TRAILERS else "body"
        last = "" if self.step != BODY else " without more_body"
        return f"the application returned where {self.prefix}.{due}{last} is due"
