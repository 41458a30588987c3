"""
The client's side of a WebSocket, for tests: real frames to a server in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from websockets.frames import Frame, Opcode
from websockets.protocol import CLOSED, OPEN

from kyoukai.exceptions import PayloadTypeError, WebSocketDisconnected
from kyoukai.media import WebSocketPayloadType, read_message, websocket_handlers, write_message
from kyoukai.ws.codes import ABNORMAL, check_close

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from websockets.client import ClientProtocol
    from werkzeug.datastructures import Headers

    from kyoukai.memory_http1 import ClientResponse
    from kyoukai.memory_tunnel import ClientTunnel

__all__ = ("ClientWebSocket",)

#: Bytes that may wait for the server before sending waits too, as in a socket's buffer.
_WRITE_LIMIT = 65536


class ClientWebSocket:
    """
    An open WebSocket, from the client's side.

    Frames are read as they come, and pings answered, also while nobody receives. What is received
    waits without a limit, unless ``pause`` makes this a slow reader.

    :param tunnel: its bytes
    :param protocol: its frames
    :param close_timeout: seconds that the server has to end the connection after ``close``
    """

    def __init__(
        self, tunnel: ClientTunnel, protocol: ClientProtocol, close_timeout: float
    ) -> None:
        #: For tests that care about frames and bytes: websockets' protocol, to be followed by
        #: ``flush``, and the bytes below it.
        self.protocol = protocol
        self.tunnel = tunnel
        self.media_handlers = websocket_handlers()
        self._close_timeout = close_timeout
        self._messages: deque[str | bytes] = deque()
        self._parts: list[Frame] = []
        self._pings = 0
        self._pongs: set[bytes] = set()
        self._failure: Exception | None = None
        self._progress = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="kyoukai websocket client")

    def __repr__(self) -> str:
        return f"<ClientWebSocket {self.protocol.state.name}>"

    # -- What is known -------------------------------------------------------------------------

    @property
    def response(self) -> ClientResponse:
        """The answer to the handshake."""
        return self.tunnel.response

    @property
    def response_headers(self) -> Headers:
        """The headers of the answer to the handshake."""
        return self.tunnel.response.headers

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server has chosen."""
        return self.protocol.subprotocol

    @property
    def deflated(self) -> bool:
        """Whether messages may be compressed (RFC 7692)."""
        return bool(self.protocol.extensions)

    @property
    def closed(self) -> bool:
        """Whether the server has closed, or is lost."""
        return self.close_code is not None

    @property
    def close_code(self) -> int | None:
        """
        The server's close code; None while the WebSocket is open.

        1005 is a Close frame without a code, 1006 an end without a Close frame.
        """
        received = self.protocol.close_rcvd
        if received is not None:
            return int(received.code)
        return ABNORMAL if self.protocol.state is CLOSED else None

    @property
    def close_reason(self) -> str | None:
        """The reason that came with the server's close code; None while the WebSocket is open."""
        received = self.protocol.close_rcvd
        if received is not None:
            return received.reason
        return "" if self.protocol.state is CLOSED else None

    # -- Sending -------------------------------------------------------------------------------

    async def send_text(self, text: str) -> None:
        """
        Send text; waits while the server is slow.

        :raises WebSocketDisconnected: if the WebSocket is closed or lost
        """
        self._check_open()
        self.protocol.send_text(text.encode())
        await self._drain()

    async def send_data(self, data: bytes | bytearray | memoryview) -> None:
        """
        Send bytes; waits while the server is slow.

        :raises WebSocketDisconnected: if the WebSocket is closed or lost
        """
        self._check_open()
        self.protocol.send_binary(bytes(data))
        await self._drain()

    async def send_media(
        self, obj: Any, payload_type: WebSocketPayloadType = WebSocketPayloadType.TEXT
    ) -> None:
        """
        Send an object, as JSON in text or as MessagePack in bytes.

        Other handlers may be put into ``media_handlers``.

        :raises WebSocketDisconnected: if the WebSocket is closed or lost
        """
        message = write_message(self.media_handlers, obj, payload_type)
        await (self.send_text(message) if isinstance(message, str) else self.send_data(message))

    async def ping(self) -> float:
        """
        Send a ping, and wait for its pong.

        :return: the seconds that it took
        :raises WebSocketDisconnected: if the WebSocket is closed or lost before
        """
        self._check_open()
        self._pings += 1
        payload = b"%d" % self._pings
        loop = asyncio.get_running_loop()
        started = loop.time()
        self.protocol.send_ping(payload)
        self.flush()
        await self._wait(lambda: payload in self._pongs or self.closed)
        if payload not in self._pongs:
            raise self._disconnected()
        self._pongs.discard(payload)
        return loop.time() - started

    def flush(self) -> None:
        """Send the frames that wait in ``protocol``."""
        for data in self.protocol.data_to_send():
            if data:
                self.tunnel.write(data)
            else:
                self.tunnel.write_eof()

    async def _drain(self) -> None:
        self.flush()
        await self._wait(lambda: self.tunnel.unsent <= _WRITE_LIMIT or self.closed)
        if self.tunnel.unsent > _WRITE_LIMIT:
            raise self._disconnected()

    # -- Receiving -----------------------------------------------------------------------------

    async def receive(self) -> str | bytes:
        """
        Wait for the next message.

        :raises WebSocketDisconnected: if there is none any more: with the server's code
        """
        await self._wait(lambda: bool(self._messages) or self.closed)
        if not self._messages:
            raise self._disconnected()
        return self._messages.popleft()

    async def receive_text(self) -> str:
        """
        Wait for the next message, which has to be text.

        :raises PayloadTypeError: if it is bytes
        :raises WebSocketDisconnected: if there is none any more
        """
        message = await self.receive()
        if not isinstance(message, str):
            raise PayloadTypeError(f"the message is {len(message)} bytes, not text")
        return message

    async def receive_data(self) -> bytes:
        """
        Wait for the next message, which has to be bytes.

        :raises PayloadTypeError: if it is text
        :raises WebSocketDisconnected: if there is none any more
        """
        message = await self.receive()
        if isinstance(message, str):
            raise PayloadTypeError(f"the message is text, not bytes: {message[:80]!r}")
        return message

    async def receive_media(self) -> Any:
        """
        Wait for the next message, and return what it says: text is JSON, bytes are MessagePack.

        :raises MediaError: if it cannot be read
        :raises WebSocketDisconnected: if there is none any more
        """
        return read_message(self.media_handlers, await self.receive())

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.receive()
        except WebSocketDisconnected:
            raise StopAsyncIteration from None

    def pause(self) -> None:
        """Take nothing more from the server: be a slow reader."""
        self.tunnel.pause()

    def resume(self) -> None:
        """Take from the server again."""
        self.tunnel.resume()

    # -- Closing -------------------------------------------------------------------------------

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """
        Close, and wait until the server has closed too; nothing happens if it has already.

        :param code: the close code
        :param reason: at most 123 bytes in UTF-8
        :raises ValueError: if these may not be sent
        :raises TimeoutError: if the server does not end the connection within ``ws_close_timeout``
        """
        check_close(code, reason)
        self.resume()
        if self.protocol.state is OPEN:
            self.protocol.send_close(code, reason)
            self.flush()
        try:
            async with asyncio.timeout(self._close_timeout):
                await self._wait(lambda: self.protocol.state is CLOSED)
        except TimeoutError:
            what = "end the connection" if self.closed else "answer the Close frame"
            self.abort()
            raise TimeoutError(
                f"the server did not {what} within {self._close_timeout:g} seconds"
            ) from None

    async def wait_closed(self) -> None:
        """Wait until the server has closed, or is lost."""
        await self._wait(lambda: self.closed)

    def abort(self) -> None:
        """Be lost: cut the connection, or reset the stream, without a Close frame."""
        self.tunnel.abort()
        self._advance()

    def _check_open(self) -> None:
        self._check_failure()
        if self.protocol.state is not OPEN:
            raise self._disconnected()

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _disconnected(self) -> WebSocketDisconnected:
        close = self.protocol.close_rcvd or self.protocol.close_sent
        if close is None:
            return WebSocketDisconnected()
        return WebSocketDisconnected(int(close.code), close.reason)

    # -- What comes ----------------------------------------------------------------------------

    async def _wait(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self._check_failure()
            self._progress.clear()
            await self._progress.wait()
        self._check_failure()

    async def _run(self) -> None:
        """Take what comes, until nothing more will."""
        changed = self.tunnel.transport.changed
        try:
            while self.protocol.state is not CLOSED:
                changed.clear()  # before anything is sent: the server may answer at once
                self._advance()
                if self.protocol.state is not CLOSED:
                    await changed.wait()
        except Exception as error:
            self._failure = error
            self._progress.set()
            self.tunnel.abort()

    def _advance(self) -> None:
        if self.protocol.state is CLOSED:
            return
        self.tunnel.advance()
        data = self.tunnel.take()
        if data:
            self.protocol.receive_data(data)
        if self.tunnel.over:
            self.protocol.receive_eof()
        for event in self.protocol.events_received():
            assert isinstance(event, Frame)
            self._frame_received(event)
        self.flush()
        self._progress.set()
        error = self.protocol.parser_exc
        if error is not None and not isinstance(error, EOFError):
            raise AssertionError(f"the server broke the WebSocket protocol: {error}") from error

    def _frame_received(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self._pongs.add(bytes(frame.data))
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._parts.append(frame)
            if frame.fin:
                parts, self._parts = self._parts, []
                data = b"".join([part.data for part in parts])
                if parts[0].opcode is Opcode.TEXT:
                    try:
                        self._messages.append(data.decode())
                    except UnicodeDecodeError as error:
                        raise AssertionError(f"the server sent text that is no UTF-8: {error}")
                else:
                    self._messages.append(data)

    async def leave(self) -> None:
        """Stop taking what comes, and close the connection."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self.tunnel.close()
