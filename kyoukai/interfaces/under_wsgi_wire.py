"""
One request of a WSGI server: a thread of the server's, and a stream in the loop's.

The two halves talk by messages. The loop's half, ``WsgiWire``, gives the thread commands: read some
of the body, begin the answer, hand on some of it. The thread's half, ``Exchange``, obeys until the
last one, and is the iterable that the server gets. All that touches the environ happens in the
server's thread, and all that touches the stream in the loop's.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from wsgiref.util import is_hop_by_hop

from kyoukai.exceptions import BodyMalformed, PeerGone, StreamError
from kyoukai.interfaces.under_heads import streamed_head, whole_answer
from kyoukai.interfaces.under_no_tunnels import NoTunnels
from kyoukai.stream import IDLE, OPEN, StreamState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kyoukai.config import ServerConfig
    from kyoukai.rules import Header
    from kyoukai.stream import Payload, RequestHead

__all__ = ("Exchange", "WsgiStream", "WsgiWire")

logger = logging.getLogger("kyoukai.server")

#: Bytes of a body that are read at a time.
_READ_SIZE = 65536

# Commands to the server's thread.
_READ, _HINTS, _START, _DATA, _ANSWER, _END, _FAIL = range(7)


class Exchange:
    """
    The server's thread's half of a request.

    :param environ: the request's environ
    :param length: bytes of its body; None if the server knows where it ends
    """

    def __init__(self, environ: dict[str, Any], length: int | None) -> None:
        self.commands: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self.wire: WsgiWire
        self._loop: asyncio.AbstractEventLoop
        self._input = environ.get("wsgi.input")
        self._hints = environ.get("wsgi.early_hints")
        self._left = length
        self._unconfirmed = 0
        self._error: Exception | None = None
        self._over = False

    @property
    def takes_hints(self) -> bool:
        """Whether the server can send early hints."""
        return self._hints is not None

    def attach(self, wire: WsgiWire, loop: asyncio.AbstractEventLoop) -> None:
        """
        Say where the other half is.

        :param wire: the other half
        :param loop: its loop
        """
        self.wire = wire
        self._loop = loop

    # -- In the server's thread ----------------------------------------------------------------

    def respond(self, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """
        Obey until the answer begins, and return its body.

        :param start_response: the server's
        :raises Exception: what reading the body has raised
        """
        try:
            while True:
                kind, *arguments = self._obey()
                if kind == _FAIL:
                    self._over = True
                    if self._error is not None:
                        raise self._error
                    logger.error("a request could not be answered: %s", arguments[0])
                    start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
                    return [b"Internal Server Error\n"]
                status, headers = arguments[:2]
                start_response(_status_line(status), headers)
                if kind == _ANSWER:
                    self._over = True
                    return [arguments[2]] if arguments[2] else []
                return self
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Exchange:
        return self

    def __next__(self) -> bytes:
        if self._over:
            raise StopIteration
        if self._unconfirmed:
            size, self._unconfirmed = self._unconfirmed, 0
            self._call(self.wire.taken, size)
        kind, *arguments = self._obey()
        if kind == _DATA:
            data: bytes = arguments[0]
            self._unconfirmed = len(data)
            return data
        self._over = True
        if kind == _FAIL:
            raise self._error or StreamError(f"the answer is not whole: {arguments[0]}")
        raise StopIteration

    def close(self) -> None:
        """The server is done with the answer; unless it is complete, the client is gone."""
        if not self._over:
            self._over = True
            self._call(self.wire.lost)

    def _obey(self) -> tuple[Any, ...]:
        """Obey commands up to one that is for the server."""
        while True:
            command = self.commands.get()
            try:
                if command[0] == _READ:
                    self._read()
                elif command[0] == _HINTS:
                    self._hints(command[1])  # type: ignore[misc]
                else:
                    return command
            except Exception as error:  # the server's: it gets it back when the stream has ended
                self._error = error
                self._call(self.wire.lost)

    def _read(self) -> None:
        size = _READ_SIZE if self._left is None else min(_READ_SIZE, self._left)
        data = bytes(self._input.read(size)) if size else b""  # type: ignore[union-attr]
        if self._left is not None:
            if data or not self._left:
                self._left -= len(data)
            else:
                self._call(self.wire.body_cut)
                return
        ended = self._left == 0 if self._left is not None else not data
        self._call(self.wire.body_came, data, ended)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call something in the loop, soon."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # it is closed, and has said so in a last command
            pass


class WsgiStream(StreamState):
    """A stream whose body is read when it is asked for: until then, the thread has to answer."""

    protocol: WsgiWire

    def ask_for_body(self) -> None:
        """The application wants more of the body."""
        self.protocol.ask()


class WsgiWire(NoTunnels):
    """
    The loop's half of a request: its stream's protocol.

    :param exchange: the other half
    :param head: the request's head
    :param bodiless: whether it is known to have no body
    :param config: the settings
    """

    def __init__(
        self, exchange: Exchange, head: RequestHead, bodiless: bool, config: ServerConfig
    ) -> None:
        #: The other half, and the stream; None when its task has ended.
        self.exchange: Exchange | None = exchange
        self.stream: WsgiStream | None = WsgiStream(head, self)
        self.config = config
        if bodiless:
            self.stream.stream_complete()
        else:
            self.stream.continue_expected = True
        self._asked = False
        self._is_over = False
        self._is_gone = False
        self._waiting = 0
        self._room: asyncio.Future[None] | None = None

    # -- From the server's thread --------------------------------------------------------------

    def body_came(self, data: bytes, ended: bool) -> None:
        """Some of the body was read."""
        self._asked = False
        stream = self.stream
        if stream is None or stream.receiving is not OPEN:
            return
        if data:
            stream.insert_data(data)
        if ended:
            stream.continue_expected = False
            stream.stream_complete()
        else:
            stream.continue_expected = True

    def body_cut(self) -> None:
        """The body has ended before its length was reached."""
        if self.stream is not None:
            self.stream.body_failed(BodyMalformed("the body ended early"))

    def taken(self, size: int) -> None:
        """The server has taken so many bytes of the answer."""
        self._waiting -= size
        self._wake()

    def lost(self) -> None:
        """The client is gone."""
        self._is_gone = True
        if self.stream is not None:
            self.stream.lost()
        self._wake()

    def task_done(self, task: asyncio.Task[None]) -> None:
        """The stream's task has ended: the thread need wait no longer."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a request has ended the loop", exc_info=error)
        self.fail("its task has ended")
        # Each refers to the other: nothing is left to the collector.
        self.stream = self.exchange = None

    def fail(self, why: str) -> None:
        """Say that nothing more comes, unless that is clear."""
        if not self._is_over:
            self._command(_FAIL, why)

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # -- To it ---------------------------------------------------------------------------------

    def _command(self, kind: int, *arguments: Any) -> None:
        self._is_over = self._is_over or kind in (_ANSWER, _END, _FAIL)
        assert self.exchange is not None
        self.exchange.commands.put((kind, *arguments))

    def ask(self) -> None:
        """Have some of the body read."""
        if not self._asked:
            self._asked = True
            self._command(_READ)

    def acknowledge(self, stream: StreamState, size: int) -> None:
        """The application has consumed some of what came; more is read when it asks."""

    def send_informational(
        self, stream: StreamState, status: int, headers: Sequence[Header]
    ) -> None:
        """Send early hints, if the server can."""
        if status == 103 and self.exchange is not None and self.exchange.takes_hints:
            self._command(_HINTS, _texts(status, headers))

    def send_head(
        self, stream: StreamState, status: int, headers: Sequence[Header], length: int | None
    ) -> None:
        """Send the head of a response whose body follows."""
        kept = streamed_head(status, headers, length)
        self._command(_START, status, _texts(status, kept))

    def send_now(
        self, stream: StreamState, status: int, headers: Sequence[Header], body: Payload
    ) -> bool:
        """Never: the server has to be waited for."""
        return False

    async def send_response(
        self, stream: StreamState, status: int, headers: Sequence[Header], body: Payload
    ) -> None:
        """Send a whole response."""
        if stream.sending is not IDLE:  # since this coroutine was made
            raise PeerGone
        kept, body = whole_answer(stream.head.method, status, headers, body)
        stream.sending = OPEN
        stream.status = status
        stream.bytes_sent += len(body)
        self._command(_ANSWER, status, _texts(status, kept), body)
        stream.finished()

    async def send_data(self, stream: StreamState, data: Payload) -> None:
        """Send some of the body; waits while the server has enough."""
        if self._is_gone:
            raise PeerGone
        self._waiting += len(data)
        stream.bytes_sent += len(data)
        self._command(_DATA, bytes(data))
        while self._waiting > self.config.write_buffer_size and not self._is_gone:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if self._is_gone:
            raise PeerGone

    async def end(self, stream: StreamState, trailers: Sequence[Header]) -> None:
        """Finish the response; WSGI has no trailers."""
        self._command(_END)
        stream.finished()

    def reset(self, stream: StreamState, error: str) -> None:
        """Give the stream up: an exception tells the server."""
        self.fail(error)


def _texts(status: int, headers: Iterable[Header]) -> list[tuple[str, str]]:
    """
    Return headers as PEP 3333 has them, without those that are the server's.

    An answer that has no content has no type of it either: servers may insist on that.
    """
    contentless = status in (204, 304)
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if not is_hop_by_hop(name.decode("latin-1"))
        and not (contentless and name == b"content-type")
    ]


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"
