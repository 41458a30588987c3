"""
``SSGIHttpResponse``: the ``res`` of an SSGI application that answers a request.

Sending does not wait: what the client does not take yet is kept, up to a limit, and goes out in the
order of the calls. Who awaits what a call has returned waits until it was handed over.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from kyoukai.exceptions import BodyTooLarge, InterfaceError, PeerGone
from kyoukai.interfaces.ssgi_exchange import SsgiExchange
from kyoukai.interfaces.ssgi_headers import fields_of
from kyoukai.interfaces.ssgi_sending import (
    GONE,
    MOST_WAITING,
    SENT,
    Later,
    SendQueue,
    Settled,
    payload_of,
)
from kyoukai.interfaces.stepping import begin
from kyoukai.rules import bodyless
from kyoukai.stream import CLOSED, RESET

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from kyoukai.interfaces.ssgi_exchange import Handler
    from kyoukai.rules import Header
    from kyoukai.stream import Payload

__all__ = ("SSGIHttpResponse",)

#: What ``send_chunk`` gives: more is to follow; it was the last; the client is gone.
_MORE: Final = Settled((True, False))
_LAST: Final = Settled((True, True))
_ABORTED: Final = Settled((False, True), turn=True)  # who never looks at it keeps no loop busy


class SSGIHttpResponse(SsgiExchange):
    """
    A response, and the body of its request.

    Made by the server. All of it is to be used on the event loop's thread.
    """

    _status = 0
    _fields: tuple[Header, ...] = ()
    #: Whether the head has gone out, and whether the end has been sent.
    _begun = False
    _ended = False
    _queue: SendQueue | None = None
    #: Bytes of the body so far, as far as ``send_chunk`` counts them; what they are to come to.
    _sent = 0
    _total: int | None = None
    #: What the Content-Length, or ``total_size``, still allows.
    _left: int | None = None
    _aborters: list[Handler] | None = None
    #: What the request's body was larger than, if ``get_data`` has refused it.
    _refused_over: int | None = None

    @property
    def aborted(self) -> bool:
        """Whether the client left, or the server gave the answer up, before it was complete."""
        stream = self._stream
        return stream.sending is RESET or (stream.input_is_closed and stream.sending is not CLOSED)

    # -- The head ------------------------------------------------------------------------------

    def send_status(self, status_code: int | None = 200) -> None:
        """
        Set the status; it goes out with the first of the body.

        :param status_code: 200 to 599; None for 200
        :raises InterfaceError: for any other, the second time, or when the head has gone out
        """
        status = 200 if status_code is None else status_code
        if type(status) is not int or not 200 <= status <= 599:
            raise InterfaceError(f"send_status() takes a status from 200 to 599, not {status!r}")
        if self._begun:
            raise InterfaceError("send_status() after the head of the answer")
        if self._status:
            raise InterfaceError(f"send_status({status}) after send_status({self._status})")
        self._status = status

    def send_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """
        Add headers; they go out with the first of the body.

        :param headers: pairs of ``str``; names in ASCII, values in Latin-1
        :raises InterfaceError: if they may not be sent, or when the head has gone out
        """
        if self._begun:
            raise InterfaceError("send_headers() after the head of the answer")
        fields = fields_of(headers)
        self._fields = self._fields + fields if self._fields else fields

    def _framing(self, total: int | None) -> tuple[tuple[Header, ...], int | None]:
        """
        Return the headers of an answer whose body follows, and the length that they tell of.

        :param total: the length, if ``send_chunk`` knows it
        """
        fields = self._fields
        length = next((each for name, each in fields if name.lower() == b"content-length"), None)
        if total is not None:
            if length is None:
                length = b"%d" % total
                fields += ((b"content-length", length),)
            elif length != b"%d" % total:
                raise InterfaceError(
                    f"total_size is {total}, and the Content-Length {length.decode('latin-1')}"
                )
        if length is None or not length.isdigit():  # the stream has something to say of that
            return fields, None
        return fields, int(length)

    # -- The body ------------------------------------------------------------------------------

    def send(self, payload: str | Payload | None, has_more: bool | None = False) -> Awaitable[None]:
        """
        Send some of the body, all that is left of it by default; text in UTF-8.

        :param payload: the bytes, which are copied unless they cannot change; None for none
        :param has_more: whether more follows
        :return: to be awaited or not: waits until the payload was handed over, raises
            :class:`ConnectionError` if the client is gone
        :raises InterfaceError: after the end, for a payload of another type, or if the body does
            not fit its Content-Length
        :raises InvalidResponse: likewise, when the body is sent as a whole
        """
        data = b"" if payload is None else payload_of(payload, "send()")
        if self._begun or has_more:
            return self._send_part(data, not has_more, None, "send()")
        self._check_open("send()")
        try:
            status = self._status or 200
            if self._stream.send_now(status, self._fields, data):
                self._begun = self._ended = True
                return SENT
            step = self._stream.send_response(status, self._fields, data)
        except PeerGone:
            return GONE
        sent = self._hand_over(step, len(data))
        self._begun = self._ended = True  # now, as another may be sent if this one is refused
        return sent

    def send_chunk(
        self, chunk: str | Payload, total_size: int | None = False
    ) -> Awaitable[tuple[bool, bool]]:
        """
        Send a chunk of the body; to be awaited, which waits for the client.

        :param chunk: the bytes, as for ``send``
        :param total_size: bytes of the whole body, if known: the Content-Length, with which the
            answer ends. Without it, ``send(None)`` ends the answer
        :return: gives whether the chunk was handed over, which it is unless the client is gone;
            and whether the answer has ended
        :raises InterfaceError: after the end, for a chunk of another type, or if there are more
            bytes than ``total_size``
        """
        data = payload_of(chunk, "send_chunk()")
        total = self._total
        if total_size is not False and total_size is not None:
            if type(total_size) is not int or total_size < 0:
                raise InterfaceError(f"total_size is a number of bytes, not {total_size!r}")
            if total is not None and total_size != total:
                raise InterfaceError(f"total_size was {total}, and is now {total_size}")
            total = total_size
        size = self._sent + len(data)
        if total is not None and size > total:
            raise InterfaceError(f"send_chunk() of {size} bytes in all, with total_size {total}")
        ends = size == total
        sent = self._send_part(data, ends, total, "send_chunk()")
        self._total = total
        if sent is SENT:
            return _LAST if ends else _MORE
        if sent is GONE:
            return _ABORTED
        return Later(_chunk_sent, sent, ends)

    def _send_part(self, data: bytes, ends: bool, total: int | None, what: str) -> Awaitable[None]:
        """Send some of a body that is sent in parts."""
        self._check_open(what)
        stream = self._stream
        if stream.sending is RESET:
            return GONE
        size = len(data)
        status = self._status or 200
        fields: tuple[Header, ...] = ()
        left = self._left
        if not self._begun:
            fields, left = self._framing(total)
        elif left is None and total is not None:
            left = total - self._sent
        if left is not None and not bodyless(stream.head.method, status):
            if size > left:
                raise InterfaceError(f"{what}: the body is longer than declared")
            left -= size
            if ends and left:
                raise InterfaceError(f"{what}: the body is {left} bytes shorter than declared")
        if not self._begun:
            try:
                stream.send_head(status, fields)
            except PeerGone:
                return GONE
            self._begun = True
        self._left = left
        self._sent += size
        self._ended = ends
        if ends:
            return self._hand_over(self._last(data), size)
        return self._hand_over(stream.send_data(data), size) if size else SENT

    async def _last(self, data: bytes) -> None:
        if data:
            await self._stream.send_data(data)
        await self._stream.end()

    def _check_open(self, what: str) -> None:
        if self._ended:
            raise InterfaceError(f"{what} after the end of the answer")
        if self._stream.sending is CLOSED:
            raise InterfaceError(f"{what} after the server has answered for the application")

    def _hand_over(self, step: Coroutine[Any, Any, None], size: int) -> Awaitable[None]:
        """Take a step at once, or as soon as those before it are taken."""
        queue = self._queue
        if queue is not None and (queue.busy or queue.gone):
            if queue.gone or (size and queue.waiting >= MOST_WAITING):
                step.close()
                if not queue.gone:
                    self._overflow(queue.waiting)
                return GONE
            return Later(queue.wait, queue.put(step, size))
        try:
            rest = begin(step)
        except PeerGone:
            return GONE
        if rest is None:
            return SENT
        if queue is None:
            queue = self._queue = SendQueue()
        number = queue.put(rest, size)
        self._spawn(queue.run(), self._writer_done)
        return Later(queue.wait, number)

    def _writer_done(self, writer: asyncio.Task[Any]) -> None:
        if writer.cancelled() and self._queue is not None:
            self._queue.drop()  # it may not even have begun

    # -- The request's body --------------------------------------------------------------------

    async def get_data(self) -> BytesIO | None:
        """
        Wait for the whole body, or for what is left of it.

        :return: None if there is none
        :raises BodyTooLarge: if it is longer than the limit of the mount or component; without
            one, than ``max_body_size`` of the server, as it is kept in memory
        :raises BodyError: if it cannot be had
        :raises ConnectionError: if the client left before its end
        """
        stream = self._stream
        limit = self._interface.most_in_memory
        if self._refused_over is not None:
            raise BodyTooLarge(self._refused_over)
        body = BytesIO()
        size = 0
        if limit is not None and not stream.received and (stream.head.content_length or 0) > limit:
            self._refuse(limit)
        while data := await stream.receive():
            size += len(data)
            if limit is not None and size > limit:
                self._refuse(limit)
            body.write(data)
        body.seek(0)
        return body if size else None

    def _refuse(self, limit: int) -> None:
        self._refused_over = limit
        error = BodyTooLarge(limit)
        self._stream.body_failed(error)
        self._stream.discard()
        raise error

    async def get_chunk(self) -> BytesIO | None:
        """
        Wait for the next bytes of the body, as many as have come.

        :return: None at its end
        :raises BodyError: if the rest cannot be had
        :raises ConnectionError: if the client left before its end
        """
        if self._refused_over is not None:
            raise BodyTooLarge(self._refused_over)
        data = await self._stream.receive()
        return BytesIO(data) if data else None

    # -- Events --------------------------------------------------------------------------------

    def on_aborted(self, handler: Callable[..., Any], *arguments: Any) -> None:
        """
        Have a handler called once, if the client leaves before it has its answer.

        :param handler: called with ``res`` and the arguments; a coroutine function is awaited
        :param arguments: these
        :raises InterfaceError: if it is no callable, or the request is over
        """
        self._check_handler("on_aborted", handler)
        if self._aborters is None:
            self._aborters = []
        self._aborters.append((handler, arguments))
        if self._stream.sending is RESET:
            self._notify()
        else:
            self._watch()

    def _notify(self) -> None:
        if self._aborters:
            aborters, self._aborters = self._aborters, None
            self._spawn(self._fire("on_aborted", aborters))

    def _end(self) -> None:
        super()._end()
        self._aborters = None


async def _chunk_sent(sent: Awaitable[None], ends: bool) -> tuple[bool, bool]:
    try:
        await sent
    except PeerGone:
        return False, True
    return True, ends
