"""
``AsgiWire``: a stream's protocol whose bytes are another server's business: it speaks ASGI to that.

Messages leave one after the other, each awaited before the next, so that the server's backpressure
is the stream's. The body is asked for as the application takes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from kyoukai.exceptions import InterfaceError, PeerGone, StreamError
from kyoukai.interfaces.under_heads import streamed_head, whole_answer
from kyoukai.interfaces.under_no_tunnels import NoTunnels
from kyoukai.stream import IDLE, OPEN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence

    from kyoukai.config import ServerConfig
    from kyoukai.rules import Header
    from kyoukai.stream import Payload, StreamState

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

__all__ = ("AsgiWire",)


class AsgiWire(NoTunnels):
    """
    One HTTP request of an ASGI server.

    :param scope: its scope
    :param receive: where its messages come from
    :param send: where those of the answer go
    :param config: the settings
    """

    #: What the types of the answer's messages begin with.
    prefix = "http.response."

    def __init__(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, config: ServerConfig
    ) -> None:
        self.config = config
        self.extensions: Mapping[str, Any] = scope.get("extensions") or {}
        #: Whether the server has said that the client is gone.
        self.is_gone = False
        #: Why the server must not take the answer for a whole one.
        self.failure: str | None = None
        self.stream: StreamState
        self.receive = receive
        self._send = send
        self._has_trailers = False
        # What is yet to be sent, and the task that sends it if no other does.
        self._queue: deque[Message | bytes] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._room: asyncio.Future[None] | None = None

    # -- Running a stream ----------------------------------------------------------------------

    async def run(self, stream: StreamState, task: asyncio.Task[None]) -> None:
        """
        Bring what the server has for a stream, until its task has ended.

        :param stream: the stream
        :param task: the task that answers it
        :raises StreamError: if the server must close what it has sent of the answer
        """
        pump: asyncio.Task[None] | None = None
        try:
            if stream.receiving is not OPEN:
                await asyncio.sleep(0)  # many answers need no more than one turn
            if not task.done():
                pump = asyncio.create_task(self._pump())
                await asyncio.wait((task, pump), return_when=asyncio.FIRST_COMPLETED)
                if pump.done() and pump.exception() is not None:
                    self._lost()
                await asyncio.wait((task,))
        except asyncio.CancelledError:  # the server waits no longer
            self._lost()
            task.cancel()
            await asyncio.wait((task,))
            raise
        finally:
            await _end(pump)
            if self._sender is not None and self.failure is None and not self.is_gone:
                await asyncio.wait((self._sender,), timeout=self.config.ws_close_timeout)
            await _end(self._sender)
            sender = self._sender
            self.release()
        if self._error is not None:
            raise self._error
        for each in (pump, sender, task):
            error = None if each is None or each.cancelled() else each.exception()
            if error is not None and not isinstance(error, PeerGone):
                raise error
        if self.failure is not None and not self.is_gone:
            raise StreamError(f"the server must close this connection: {self.failure}")

    def release(self) -> None:
        """The stream is over: each refers to the others, and nothing is left to the collector."""
        self._sender = None
        self.stream = None  # type: ignore[assignment]

    def _lost(self) -> None:
        self.is_gone = True
        self.stream.lost()

    async def _pump(self) -> None:
        """Take the server's messages, as fast as the application takes what they bring."""
        while True:
            while not self.wants_more():
                self._room = asyncio.get_running_loop().create_future()
                await self._room
            message = await self.receive()
            if not self.take(message):
                return

    def wants_more(self) -> bool:
        """Whether the server's next message is wanted."""
        stream = self.stream
        if stream.receiving is not OPEN:
            return True  # it says that the client is gone
        if stream.continue_expected and stream.sending is IDLE:
            return False  # asking for the body makes the server ask the client for it
        return stream.buffered < self.config.read_buffer_size

    def take(self, message: Message) -> bool:
        """
        Take one of the server's messages.

        :return: False if it was the last
        :raises InterfaceError: if it should not come
        """
        kind, stream = message["type"], self.stream
        if kind == "http.disconnect":
            self._lost()
            return False
        if kind != "http.request":
            raise InterfaceError(f"the ASGI server sent {kind!r} to a request")
        if stream.receiving is OPEN:
            if body := message.get("body"):
                stream.insert_data(bytes(body))
            if not message.get("more_body", False):
                stream.stream_complete()
        return True

    def acknowledge(self, stream: StreamState, size: int) -> None:
        """The application has consumed some of what came."""
        self.wake_pump()

    def wake_pump(self) -> None:
        """Go on asking the server, if more is wanted."""
        if self._room is not None and not self._room.done() and self.wants_more():
            self._room.set_result(None)

    # -- Sending -------------------------------------------------------------------------------

    def post(self, item: Message | bytes) -> None:
        """Send a message soon, without waiting; ``flushed`` waits."""
        self._queue.append(item)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_queue())

    async def _send_queue(self) -> None:
        try:
            while self._queue:
                await self.deliver(self._queue.popleft())
        except PeerGone:
            raise
        except Exception as error:  # the server's: nothing can be sent any more
            self._error = self._error or error
            self._lost()

    async def deliver(self, item: Message | bytes) -> None:
        """
        Hand a message to the server.

        :raises PeerGone: if the client left
        """
        assert not isinstance(item, bytes)
        try:
            await self._send(item)
        except OSError:  # as the specification has it for a client that is gone
            self._lost()
            raise PeerGone from None

    async def flushed(self) -> None:
        """
        Wait until all that was posted is sent.

        :raises PeerGone: if the client left
        """
        while self._sender is not None and not self._sender.done():
            await asyncio.wait((self._sender,))
        if self._sender is not None and not self._sender.cancelled():
            self._sender.result()

    def send_informational(
        self, stream: StreamState, status: int, headers: Sequence[Header]
    ) -> None:
        """Ask for the body (100), or send early hints (103) to a server that knows them."""
        if status == 100:
            self.wake_pump()
        elif status == 103 and "http.response.early_hint" in self.extensions:
            links = [value for name, value in headers if name.lower() == b"link"]
            if links:
                self.post({"type": "http.response.early_hint", "links": links})

    def send_head(
        self, stream: StreamState, status: int, headers: Sequence[Header], length: int | None
    ) -> None:
        """Send the head of a response whose body follows."""
        message = self._start(status, streamed_head(status, headers, length))
        if "http.response.trailers" in self.extensions:  # whether there are any is not known yet
            self._has_trailers = message["trailers"] = True
        self.post(message)
        self.wake_pump()

    def _start(self, status: int, headers: list[Header]) -> Message:
        return {"type": f"{self.prefix}start", "status": status, "headers": headers}

    def _body(self, body: Payload, more: bool) -> Message:
        return {"type": f"{self.prefix}body", "body": bytes(body), "more_body": more}

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
        await self.flushed()
        await self.deliver(self._start(status, kept))
        await self.deliver(self._body(body, False))
        stream.bytes_sent += len(body)
        stream.finished()

    async def send_data(self, stream: StreamState, data: Payload) -> None:
        """Send some of the body; waits as long as the server does."""
        await self.flushed()
        await self.deliver(self._body(data, True))
        stream.bytes_sent += len(data)

    async def end(self, stream: StreamState, trailers: Sequence[Header]) -> None:
        """Finish the response; trailers go to a server that knows them."""
        await self.flushed()
        await self.deliver(self._body(b"", False))
        if self._has_trailers:
            lower = [(name.lower(), value) for name, value in trailers]
            await self.deliver({"type": "http.response.trailers", "headers": lower})
        stream.finished()

    def reset(self, stream: StreamState, error: str) -> None:
        """Give the stream up: an exception tells the server."""
        self.failure = error
        self._queue.clear()


async def _end(task: asyncio.Task[None] | None) -> None:
    """Cancel a task, if it has not ended, and wait until it has."""
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait((task,))
