"""
``AsgiSocketWire``: a WebSocket of an ASGI server, as a tunnel of a stream.

The server has the real frames; ASGI has messages. A session reads and writes frames, so there are
frames in between: a sans-I/O client puts the server's messages into them, and takes the session's
out. The opening handshake is the server's as well, and so are pings and compression.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from kyoukai.exceptions import InterfaceError, StreamStateError
from kyoukai.interfaces.under_asgi_wire import AsgiWire
from kyoukai.interfaces.under_heads import own_headers
from kyoukai.stream import CLOSED, OPEN
from kyoukai.ws.codes import ABNORMAL, check_close, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kyoukai.config import ServerConfig
    from kyoukai.interfaces.under_asgi_wire import Message, Receive, Send
    from kyoukai.rules import Header
    from kyoukai.stream import StreamState

__all__ = ("AsgiSocketWire",)

#: What a client says that closes without a code (RFC 6455 section 7.1.5).
_NO_CODE = 1005

_logger = logging.getLogger("kyoukai.ws.frames")


class AsgiSocketWire(AsgiWire):
    """
    One WebSocket of an ASGI server.

    :param scope: its scope
    :param receive: where its messages come from
    :param send: where ours go
    :param config: the settings
    """

    prefix = "websocket.http.response."
    #: Seconds that the handler has to answer the handshake before the server is asked whether the
    #: client is still there. Granian cannot be asked about a WebSocket that is then denied: its
    #: worker fails at its end, before the application comes to its own.
    patience = 1.0

    def __init__(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, config: ServerConfig
    ) -> None:
        super().__init__(scope, receive, send, config)
        # Without the extension, the server denies in its own words.
        self._denies = "websocket.http.response" in self.extensions
        self._frames = Protocol(Side.CLIENT, state=State.OPEN, max_size=None, logger=_logger)
        self._waiting = 0
        self._was_full = False
        self._asks = False
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.patience, self._ask)
        self._is_closing = False
        self._end_due = False

    # -- From the server -----------------------------------------------------------------------

    def wants_more(self) -> bool:
        """Whether the server's next message is wanted: not while the session is full."""
        return self._asks and not self.stream.buffered

    def _ask(self) -> None:
        self._asks = True
        self.wake_pump()

    def release(self) -> None:
        """The stream is over."""
        super().release()
        self._timer.cancel()

    def take(self, message: Message) -> bool:
        """Put one of the server's messages into frames."""
        kind, frames = message["type"], self._frames
        if kind == "websocket.disconnect":
            self._disconnected(message)
            return False
        if kind != "websocket.receive" or self.stream.status != 101:
            raise InterfaceError(f"the ASGI server sent {kind!r} to a WebSocket")
        if frames.state is State.OPEN:
            text = message.get("text")
            if text is not None:
                frames.send_text(text.encode())
            else:
                frames.send_binary(bytes(message.get("bytes") or b""))
            self._pass_frames_on()
        return True

    def _disconnected(self, message: Message) -> None:
        """The client has closed, or is lost."""
        code = message.get("code", _NO_CODE)
        reason = message.get("reason") or ""
        self.is_gone = True
        if self.stream.tunnel is not None and code != ABNORMAL:
            try:
                if code != _NO_CODE:
                    check_close(code, shorten(reason))
            except ValueError:  # no code of a Close frame: there was none
                pass
            else:
                if self._frames.state is State.OPEN:
                    if code == _NO_CODE:
                        self._frames.send_close()
                    else:
                        self._frames.send_close(code, shorten(reason))
                    self._pass_frames_on()
                if self.stream.sending is CLOSED or self._end_due:
                    return  # the session has heard it
        self.stream.lost()

    def _pass_frames_on(self) -> None:
        data = b"".join(self._frames.data_to_send())
        stream = self.stream
        if data and stream.tunnel is not None:
            stream.pass_on(data, len(data))

    # -- To the server -------------------------------------------------------------------------

    def accept_upgrade(self, stream: StreamState, headers: Sequence[Header]) -> None:
        """Accept the WebSocket."""
        if stream.is_raw:
            raise StreamStateError("an ASGI server has messages, and no bytes for a raw tunnel")
        kept, _ = own_headers(headers)
        subprotocol = None
        for name, value in kept:
            if name == b"sec-websocket-protocol":
                subprotocol = value.decode("latin-1")
        rest = [pair for pair in kept if not pair[0].startswith(b"sec-websocket-")]
        stream.status = 101
        self.post({"type": "websocket.accept", "subprotocol": subprotocol, "headers": rest})
        self._timer.cancel()
        self._ask()

    def tunnel_write(self, stream: StreamState, data: bytes) -> None:
        """Send what the session's frames say."""
        self._waiting += len(data)
        self.post(data)

    def tunnel_waiting(self, stream: StreamState) -> int:
        """Return how many bytes wait for the server."""
        return self._waiting

    def tunnel_full(self, stream: StreamState) -> bool:
        """Whether so many wait that no more should be sent."""
        full = self._waiting >= self.config.ws_write_limit
        self._was_full = self._was_full or full
        return full

    def tunnel_end(self, stream: StreamState, complete: bool) -> None:
        """End the tunnel once all is sent."""
        self._end_due = True
        if self._is_closing:
            self._ended()
        else:
            self.post(b"")

    async def deliver(self, item: Message | bytes) -> None:
        """Hand a message to the server, or those that a session's frames come to."""
        if isinstance(item, bytes):
            if item:
                await self._deliver_frames(item)
            if self._end_due and not self._waiting:
                self._ended()
            return
        if not self._denies and item["type"].startswith(self.prefix):
            if item["type"].endswith("body"):
                return
            item = {"type": "websocket.close", "code": 1000, "reason": ""}
        if not self.is_gone:
            await super().deliver(item)

    async def _deliver_frames(self, data: bytes) -> None:
        self._frames.receive_data(data)
        for frame in self._frames.events_received():
            assert isinstance(frame, Frame)
            message = self._message_of(frame)
            if message is None or self.is_gone:
                continue
            if frame.opcode is Opcode.CLOSE:
                # The closing handshake is the server's, and may take it a while, or wait until
                # nobody receives any more: for the session it is over.
                self._is_closing = True
                self._waiting -= len(data)
                self._pass_frames_on()
                await super().deliver(message)
                return
            await super().deliver(message)
        self._waiting -= len(data)
        tunnel = self.stream.tunnel
        if self._was_full and tunnel is not None and not self.tunnel_full(self.stream):
            self._was_full = False
            tunnel.writable()
        self._pass_frames_on()  # pongs, and the answer to a Close frame

    def _message_of(self, frame: Frame) -> Message | None:
        """Return what a session's frame says; it sends each message in one."""
        if frame.opcode is Opcode.TEXT:
            return {"type": "websocket.send", "text": bytes(frame.data).decode()}
        if frame.opcode is Opcode.BINARY:
            return {"type": "websocket.send", "bytes": bytes(frame.data)}
        if frame.opcode is Opcode.CLOSE and self._frames.close_rcvd is not None:
            close = self._frames.close_rcvd
            return {"type": "websocket.close", "code": int(close.code), "reason": close.reason}
        return None

    def _ended(self) -> None:
        stream = self.stream
        if stream.sending is OPEN:
            stream.receiving = stream.sending = CLOSED
            if stream.tunnel is not None:
                stream.tunnel.ended()
