"""
A WebSocket's bytes over HTTP/2, in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from werkzeug.datastructures import Headers
from werkzeug.http import HTTP_STATUS_CODES

from kyoukai.memory_tunnel import ClientTunnel, merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kyoukai.memory import MemoryTransport
    from kyoukai.memory_http1 import HeaderList

__all__ = ("Http2ClientTunnel",)

#: The only stream of a connection.
_STREAM = 1

_GOAWAY = 7


class Http2ClientTunnel(ClientTunnel):
    """
    The only stream of a connection, opened by extended CONNECT (RFC 8441).

    A slow reader goes on reading frames, as clients do, but gives no credit for data.
    """

    def __init__(self, transport: MemoryTransport) -> None:
        super().__init__(transport)
        self.h2 = H2Connection(H2Configuration(client_side=True))
        self._partial = bytearray()
        self._answered = False
        #: Whether the server has ended its direction, and why there will be no more of either.
        self._ended = False
        self._lost: str | None = None
        self._has_settings = False
        self._paused = False
        #: Bytes that cost the server's windows, and that have not been taken.
        self._credit = 0
        self._queue = bytearray()
        self._ending = False
        self._handlers: dict[type[events.Event], Callable[[Any], None]] = {
            events.RemoteSettingsChanged: self._settings_changed,
            events.InformationalResponseReceived: self._interim_received,
            events.ResponseReceived: self._response_received,
            events.DataReceived: self._data_received,
            events.StreamEnded: self._stream_ended,
            events.StreamReset: self._stream_reset,
        }

    # -- The handshake -------------------------------------------------------------------------

    async def open(self, target: str, key: str, fields: HeaderList, headers: HeaderList) -> bool:
        """Send a CONNECT with :protocol, once the server's SETTINGS allow it."""
        self.h2.initiate_connection()
        await self._until(lambda: self._has_settings)
        if not self.h2.remote_settings.enable_connect_protocol:
            raise AssertionError(
                "the server's SETTINGS do not allow WebSockets (RFC 8441 section 3)"
            )
        pairs = [(name.lower(), value) for name, value in merged(fields, headers)]
        authority = next((value for name, value in pairs if name == "host"), "localhost")
        head = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", target),
            (":authority", authority),
            *(pair for pair in pairs if pair[0] != "host"),
        ]
        self.h2.send_headers(_STREAM, head)
        await self._until(lambda: self._answered)
        if 200 <= self.response.status < 300:
            return True
        body = bytearray()
        while not self._ended:
            await self._until(lambda: self._ended or bool(self._inbox))
            body += self.take()
        self.response.body = bytes(body + self.take())
        return False

    async def _until(self, ready: Callable[[], bool]) -> None:
        while True:
            self.transport.changed.clear()
            self.advance()
            if ready():
                return
            if self._lost is not None:
                raise ConnectionError(f"{self._lost} before its answer ended")
            await self.transport.changed.wait()

    # -- What comes ----------------------------------------------------------------------------

    def advance(self) -> None:
        """Take the server's frames, and send what the windows allow."""
        for frame in self._frames(self.transport.take()):
            if frame[3] == _GOAWAY:  # h2 would take nothing more of a connection that is ending
                self._going_away(frame[9:])
                continue
            try:
                happened = self.h2.receive_data(frame)
            except ProtocolError as error:
                raise AssertionError(f"the server broke HTTP/2: {error}") from error
            for event in happened:
                handler = self._handlers.get(type(event))
                if handler is not None:
                    handler(event)
        if self.transport.closed or self.transport.eof_written:
            self._lose("the server closed the connection")
        self._flush()

    def _frames(self, data: bytes) -> Iterator[bytes]:
        """Split bytes into frames (RFC 9113 section 4.1)."""
        self._partial += data
        while len(self._partial) >= 9:
            end = 9 + int.from_bytes(self._partial[:3])
            if len(self._partial) < end:
                return
            frame = bytes(self._partial[:end])
            del self._partial[:end]
            yield frame

    def _going_away(self, payload: bytes) -> None:
        last, code = int.from_bytes(payload[:4]), int.from_bytes(payload[4:8])
        if code or last < _STREAM:
            self._lose(f"the server gave the connection up ({_code_name(code)})")

    def _lose(self, why: str) -> None:
        if self._lost is None:
            self._lost = why

    def _settings_changed(self, event: events.RemoteSettingsChanged) -> None:
        self._has_settings = True

    def _interim_received(self, event: events.InformationalResponseReceived) -> None:
        status, headers = _read_head(event.headers or [])
        self.response.informational.append((status, headers))

    def _response_received(self, event: events.ResponseReceived) -> None:
        response = self.response
        response.status, response.headers = _read_head(event.headers or [])
        response.reason = HTTP_STATUS_CODES.get(response.status, "")
        self._answered = True

    def _data_received(self, event: events.DataReceived) -> None:
        self._inbox += event.data or b""
        self._credit += event.flow_controlled_length or 0

    def _stream_ended(self, event: events.StreamEnded) -> None:
        self._ended = True

    def _stream_reset(self, event: events.StreamReset) -> None:
        self._lose(f"the server reset the stream ({_code_name(event.error_code or 0)})")

    def take(self) -> bytes:
        """Return what has come since the last call, and give credit for it."""
        if self._paused and self._lost is None:
            return b""
        data = bytes(self._inbox)
        self._inbox.clear()
        if self._credit:
            self.h2.acknowledge_received_data(self._credit, _STREAM)
            self._credit = 0
            self._flush()
        return data

    @property
    def over(self) -> bool:
        """Whether the stream is reset or lost, or has ended; a slow reader has not seen its end."""
        return self._lost is not None or (self._ended and not self._paused)

    # -- What is sent --------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """How many bytes wait for the windows, or because the server has paused reading."""
        return len(self._queue) + self.transport.untaken

    def write(self, data: bytes) -> None:
        """Send bytes, as the windows allow."""
        if self._lost is None:
            self._queue += data
            self._flush()

    def write_eof(self) -> None:
        """End the stream."""
        self._ending = True
        self._flush()

    def _flush(self) -> None:
        h2 = self.h2
        while self._queue and self._lost is None:
            window = h2.local_flow_control_window(_STREAM)
            size = min(len(self._queue), window, h2.max_outbound_frame_size)
            if size <= 0:
                break
            h2.send_data(_STREAM, bytes(self._queue[:size]))
            del self._queue[:size]
        if self._ending and not self._queue and self._lost is None:
            self._ending = False
            h2.end_stream(_STREAM)
        data = h2.data_to_send()
        if data:
            self.transport.feed(data)

    def pause(self) -> None:
        """Give no more credit for data, so that the server's window runs out."""
        self._paused = True

    def resume(self) -> None:
        """Take again."""
        self._paused = False
        self.transport.changed.set()

    def abort(self) -> None:
        """Reset the stream."""
        if self._lost is None:
            self._lose("the client reset the stream")
            try:
                self.h2.reset_stream(_STREAM, ErrorCodes.CANCEL)
            except ProtocolError:
                pass  # there is no stream any more
            self._flush()
            self.transport.changed.set()

    def close(self) -> None:
        """Close the connection."""
        if not self.transport.closed:
            self.h2.close_connection()
            self._flush()
            self.transport.lose()


def _read_head(pairs: list[Any]) -> tuple[int, Headers]:
    status, headers = 0, Headers()
    for name, value in pairs:
        if name == b":status":
            status = int(value)
        else:
            headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return status, headers


def _code_name(code: int) -> str:
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"code {code}"
