"""
``Session``: a WebSocket from its acceptance to its end, for every kind of application.

A session is the tunnel of its stream. It is open until either side says that it closes, closing
until the other side says so too, and then over; a client that is lost makes it over at once.
Messages that have come before the client closed can still be received.

How much may wait is bounded on both sides: messages that nobody receives stop the reading, and
frames that the client does not take make whoever sends wait.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Protocol

from kyoukai.exceptions import OperationNotAllowed, WebSocketDisconnected
from kyoukai.ws.codes import ABNORMAL, FAILED, GOING_AWAY, POLICY, check_close
from kyoukai.ws.keepalive import Keepalive
from kyoukai.ws.messages import MOST_CONTROL, MessageReader, frame_of

if TYPE_CHECKING:
    from websockets.extensions import Extension

    from kyoukai.config import ServerConfig
    from kyoukai.stream import StreamState

__all__ = ("Listener", "Session")

#: How often the largest message a client may leave that is gone; compressed, it may be much more.
_REST = 4


#: Bytes that may be sent before the loop gets a turn, and what each message counts beside its own.
_TURN = 1048576
_MESSAGE = 1024

#: How often the queue is filled from what has come before others get their turn.
_ROUNDS = 64


class Listener(Protocol):
    """Who wants to hear of a session; none of this may wait, or raise."""

    def socket_writable(self, session: Session) -> None:
        """There is room for more after there was none."""

    def socket_closed(self, session: Session) -> None:
        """The session is not open any more."""


class Session:
    """
    One open WebSocket.

    :param stream: the stream that is about to become its tunnel
    :param config: the server's settings
    :param extensions: those that were accepted
    :param max_queue: messages that may wait to be received before reading stops; with 0, none is
        read before somebody waits for it
    """

    __slots__ = (
        "_close_timer",
        "_closed",
        "_compresses",
        "_is_full",
        "_loop",
        "_max_bytes",
        "_max_queue",
        "_over",
        "_reader",
        "_receiver",
        "_rounds",
        "_turn_left",
        "_write",
        "_writers",
        "busy",
        "close_code",
        "close_reason",
        "config",
        "full",
        "is_open",
        "is_over",
        "keepalive",
        "listeners",
        "messages",
        "stream",
    )

    def __init__(
        self,
        stream: StreamState,
        config: ServerConfig,
        extensions: list[Extension],
        max_queue: int,
    ) -> None:
        self.stream = stream
        self.config = config
        #: Messages that wait to be received.
        self.messages: deque[str | bytes] = deque()
        #: Whether reading has stopped, see ``kyoukai.stream.Tunnel``.
        self.full = max_queue == 0
        #: Whether so many messages came at once that the loop should have a turn in between.
        self.busy = False
        self._rounds = 0
        self._turn_left = _TURN
        #: Whether messages can be sent, and may still come.
        self.is_open = True
        #: Whether the tunnel has ended.
        self.is_over = False
        #: Why it is not open: None while it is.
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self._loop = asyncio.get_running_loop()
        self._max_queue = max_queue
        self._max_bytes = config.ws_max_message_size
        self._reader = MessageReader(self._max_bytes, config.ws_max_fragments, extensions)
        self._write = partial(stream.protocol.tunnel_write, stream)
        self._is_full = partial(stream.protocol.tunnel_full, stream)
        self._compresses = bool(extensions)
        self._receiver: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self._closed: asyncio.Future[None] | None = None
        self._over: asyncio.Future[None] | None = None
        #: Who wants to hear when there is room to write, and when the socket is not open any more.
        self.listeners: list[Listener] = []
        self.keepalive = Keepalive(self, config)
        self._close_timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The handshake has been accepted."""
        if self.is_open:
            self.keepalive.begin()

    # -- Receiving -----------------------------------------------------------------------------

    async def receive(self) -> str | bytes:
        """
        Return the next message; a cancelled call loses none.

        :raises WebSocketDisconnected: if there will be none
        :raises OperationNotAllowed: if another task waits for it
        """
        if self.busy:  # others have waited long enough
            self.busy = False
            await asyncio.sleep(0)
        messages = self.messages
        if not messages:
            await self._await_message()
        message = messages.popleft()
        if self.full and not messages:
            self.make_room()
        return message

    def make_room(self) -> None:
        """All messages that waited have been received: read on, if reading has stopped."""
        if self._max_queue:
            self._rounds += 1
            self.busy = self._rounds % _ROUNDS == 0
            self._read_on()

    async def _await_message(self) -> None:
        if self._receiver is not None:
            raise OperationNotAllowed("another task is receiving from this WebSocket")
        try:
            while not self.messages:  # one that came may be taken by another task
                self._receiver = receiver = self._loop.create_future()
                if self.full:
                    self._read_on()
                if not self.messages:
                    if not self.is_open:
                        raise self.disconnected()
                    await receiver
        finally:
            self._receiver = None

    def disconnected(self) -> WebSocketDisconnected:
        """Return the error that says how the socket was closed."""
        return WebSocketDisconnected(self.close_code or ABNORMAL, self.close_reason or "")

    def _read_on(self) -> None:
        """There is room for messages again."""
        self.full = False
        self.keepalive.heard = True  # its deadline has rested
        self._read()
        if not self.full:
            self.stream.taken()

    def _read(self) -> None:
        """Read what has come, as far as there is room."""
        while self._read_part():
            pass

    def _read_part(self) -> bool:
        """Read until there is no room, nothing left, or much control; True for the last."""
        reader = self._reader
        if not self.is_open:  # until the client's Close frame comes, what it sends is dropped
            while reader.read(deque(), 64, self._max_bytes):
                pass
        else:
            messages = self.messages
            room = self._max_queue - len(messages)
            if not self._max_queue:
                room = 1 if self._receiver is not None and not messages else 0
            size = self._max_bytes
            if messages:
                size -= sum(map(len, messages))
            if room > 0 and size > 0:
                count = reader.read(messages, room, size)
                self.keepalive.earn(count)
                if count and self._receiver is not None and not self._receiver.done():
                    self._receiver.set_result(None)
                self.full = count == room or sum(map(len, messages)) >= self._max_bytes
            else:
                self.full = True
        protocol = reader.protocol
        much = len(reader.control) >= MOST_CONTROL
        if protocol.writes or reader.control or protocol.eof_sent:
            self._take_control()
        return much and not self.full

    def _take_control(self) -> None:
        """Look at pings and pongs, answer what is to be answered, and see whether it was closed."""
        reader = self._reader
        control, reader.control = reader.control, []
        for frame in control:
            if not self.keepalive.affords(frame):
                reader.fail(POLICY, "too many pings and pongs")
                break
        output, ends = reader.output()
        protocol = reader.protocol
        if output:
            self._write(output)
        if not ends:
            return
        if self.is_open:
            close = protocol.close_rcvd or protocol.close_sent
            if close is not None and protocol.parser_exc is None:
                self._leave(close.code, close.reason)
            elif protocol.close_sent is not None:
                self._leave(protocol.close_sent.code, protocol.close_sent.reason)
            else:
                self._leave(ABNORMAL, "")
        self._end()

    # -- Sending -------------------------------------------------------------------------------

    def put(self, opcode: int, payload: bytes) -> bool:
        """
        Send a message, without waiting; messages go out whole and in order.

        :param opcode: ``TEXT`` or ``BINARY``
        :param payload: its bytes; text in UTF-8
        :return: whether ``drain`` should be awaited before the next one
        :raises WebSocketDisconnected: if the socket is not open
        """
        if not self.is_open:
            raise self.disconnected()
        if self._compresses:
            self._write(self._reader.frame(opcode, payload))
        else:
            self._write(frame_of(opcode, payload))
        self._turn_left -= len(payload) + _MESSAGE
        return self._is_full() or self._turn_left < 0

    def put_frame(self, frame: bytes) -> None:
        """Send a frame that was made elsewhere, without waiting; nothing if it is not open."""
        if self.is_open:
            self._write(frame)

    @property
    def is_clogged(self) -> bool:
        """Whether too much waits for the client."""
        return self._is_full()

    @property
    def buffered(self) -> int:
        """Bytes that wait for the client."""
        return 0 if self.is_over else self.stream.protocol.tunnel_waiting(self.stream)

    async def drain(self) -> None:
        """
        Wait until less waits for the client, and let others have their turn.

        :raises WebSocketDisconnected: if the socket is closed or lost meanwhile
        """
        if self._turn_left < 0:  # whose client is fast, or gone without the loop's knowledge
            self._turn_left = _TURN
            await asyncio.sleep(0)
        while self.is_open and self.is_clogged:
            waiter = self._loop.create_future()
            self._writers.append(waiter)
            await waiter
        if not self.is_open:
            raise self.disconnected()

    async def ping(self) -> float:
        """
        Send a ping and wait for its answer.

        :return: seconds that it took
        :raises WebSocketDisconnected: if the socket is not open, or lost meanwhile
        """
        if not self.is_open:
            raise self.disconnected()
        seconds = await self.keepalive.ping()
        if seconds is None:
            raise self.disconnected()
        return seconds

    def send_ping(self, payload: bytes) -> None:
        """For ``Keepalive``: send a ping."""
        self._reader.protocol.send_ping(payload)
        self._write(self._reader.output()[0])

    def not_answering(self) -> None:
        """The client does not answer: it is lost, and told so if it can hear."""
        clogged = self.buffered
        self._reader.fail(FAILED, "no answer to a ping")
        output, _ = self._reader.output()
        self._leave(ABNORMAL, "")
        if clogged:
            self._cut()
        else:
            self._write(output)
            self._end()

    # -- Closing -------------------------------------------------------------------------------

    def close(self, code: int, reason: str = "") -> None:
        """
        Say that the socket is closed, if it is open; what the client still sends is dropped.

        The client has ``ws_close_timeout`` to answer.

        :param code: the close code
        :param reason: at most 123 bytes in UTF-8
        :raises ValueError: if these may not be sent
        """
        check_close(code, reason)
        if not self.is_open:
            return
        self._reader.protocol.send_close(code, reason)
        self._write(self._reader.output()[0])
        self.messages.clear()
        self._leave(code, reason)
        self._await_end()
        self._read_on()

    def _leave(self, code: int, reason: str) -> None:
        """The socket is not open any more."""
        self.is_open = False
        self.close_code = int(code)
        self.close_reason = reason
        self.keepalive.end()
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)
        self.writable()
        for listener in tuple(self.listeners):
            listener.socket_closed(self)
        self.listeners.clear()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def _end(self) -> None:
        """End the tunnel, once all is sent; what still comes is dropped."""
        self.full = False
        self._await_end()
        complete = self._reader.protocol.close_rcvd is not None
        self.stream.protocol.tunnel_end(self.stream, complete)

    def _await_end(self) -> None:
        if self._close_timer is None and not self.is_over:
            wait = self.config.ws_close_timeout
            self._close_timer = self._loop.call_later(wait, self._cut, context=Context())

    def _cut(self) -> None:
        """The client has had its time: end the tunnel without it."""
        self.stream.reset("cancelled")
        self.ended()

    async def wait_closed(self) -> None:
        """Wait until the socket is not open any more."""
        if self.is_open:
            if self._closed is None:
                self._closed = self._loop.create_future()
            await asyncio.shield(self._closed)

    async def wait_over(self) -> None:
        """Wait until the tunnel has ended."""
        if not self.is_over:
            if self._over is None:
                self._over = self._loop.create_future()
            await asyncio.shield(self._over)

    # -- What the stream calls, see ``kyoukai.stream.Tunnel`` ----------------------------------

    def bytes_received(self, data: bytes) -> None:
        """Some bytes from the client."""
        if self.is_over:
            return
        self.keepalive.heard = True
        self._reader.feed(data)
        if not self.full:
            self._read()

    def end_received(self) -> None:
        """The client sends no more; without a Close frame, it is lost."""
        if not self.is_over:
            self._leave_lost()
            self._end()

    def lost(self) -> None:
        """The client is gone."""
        if not self.is_over:
            self._leave_lost()
            self.ended()

    def _leave_lost(self) -> None:
        """Nothing more comes: read what has, in spite of the limit, which what has come keeps."""
        if self.is_open and self.full:
            self.full = False
            self._max_queue = sys.maxsize
            self._max_bytes = _REST * self._max_bytes if self._compresses else sys.maxsize
            self._read()
        if self.is_open:
            self._leave(ABNORMAL, "")

    def writable(self) -> None:
        """There is room for more: the client is there, and has taken something."""
        self.keepalive.heard = True
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)
        if self.is_open:
            for listener in tuple(self.listeners):
                listener.socket_writable(self)

    def ended(self) -> None:
        """The tunnel has ended."""
        self.is_over = True
        self.keepalive.release()
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def going_away(self) -> None:
        """The server is stopping."""
        self.close(GOING_AWAY, "the server is stopping")
