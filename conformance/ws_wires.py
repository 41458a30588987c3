"""
Two ways to a WebSocket: an upgrade of HTTP/1.1, and CONNECT on HTTP/2 (RFC 8441).

Both know nothing of frames: after the handshake bytes go out as they are given, each in a write or
in DATA of its own, so that a case decides what the server reads at once.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import select
import socket
import time
from typing import Protocol

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

#: The key of RFC 6455 section 1.3, and what must answer it.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = base64.b64encode(
    hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
).decode()

#: Seconds that the server has for anything.
TIMEOUT = 5.0

Fields = list[tuple[str, str]]


class Lost(Exception):
    """The server does not do what it must below the frames; the message says what."""


class Wire(Protocol):
    """The way of one WebSocket."""

    #: The answer to the handshake: its fields, names in lower case.
    fields: Fields
    #: Whether the end was a reset.
    was_cut: bool

    def send(self, data: bytes) -> None:
        """Send bytes; if the server is gone, do nothing."""

    def receive(self) -> bytes:
        """
        Return what comes next; nothing at the end.

        :raises Lost: if nothing comes in time
        """

    def close(self) -> None:
        """Leave."""


class Way(Protocol):
    """How to open WebSockets, each on a wire of its own."""

    #: What the summary calls it.
    name: str

    def open(self, extensions: str | None) -> Wire:
        """
        Open a socket.

        :param extensions: the Sec-WebSocket-Extensions that are offered
        :raises Lost: if the server does not accept
        """

    def close(self) -> None:
        """Leave."""


class Link:
    """A connection that neither blocks while it sends, nor waits for ever."""

    def __init__(self, port: int) -> None:
        try:
            self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        except OSError as error:
            raise Lost(f"no connection: {error}") from None
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.is_broken = False
        self.was_cut = False
        self._came: list[bytes] = []

    def send(self, data: bytes) -> None:
        """Send bytes, and read on meanwhile: the server may wait for that."""
        deadline = time.monotonic() + TIMEOUT
        view = memoryview(data)
        while view and not self.is_broken:
            left = deadline - time.monotonic()
            readable, writable, _ = select.select([self.sock], [self.sock], [], max(left, 0))
            if not readable and not writable:
                raise Lost("the server takes nothing")
            try:
                if readable:
                    came = self.sock.recv(65536)
                    if not came:
                        self.is_broken = True
                    self._came.append(came)
                if writable:
                    view = view[self.sock.send(view) :]
            except BlockingIOError:
                pass
            except OSError:
                self.is_broken = self.was_cut = True

    def receive(self) -> bytes:
        """Return what comes next; nothing at the end, also if that is a reset."""
        if self._came:
            return self._came.pop(0)
        if not select.select([self.sock], [], [], TIMEOUT)[0]:
            raise Lost(f"nothing came in {TIMEOUT:.0f} seconds")
        try:
            return self.sock.recv(65536)
        except OSError:
            self.was_cut = True
            return b""

    def close(self) -> None:
        """Close it."""
        self.sock.close()


class Http1:
    """
    Upgrades of HTTP/1.1, each on a connection of its own.

    :param port: the server's, on 127.0.0.1
    """

    name = "HTTP/1.1"

    def __init__(self, port: int) -> None:
        self.port = port

    def open(self, extensions: str | None) -> Wire:
        """Open a socket."""
        wire = Http1Wire(self.port)
        offer = f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions is not None else ""
        try:
            status = wire.ask(
                "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {KEY.decode()}\r\n{offer}\r\n"
            )
            if status != 101:
                raise Lost(f"the handshake was answered with {status}")
        except Lost:
            wire.close()
            raise
        return wire

    def close(self) -> None:
        """Every wire has its own connection."""


class Http1Wire:
    """A connection that is to become a WebSocket."""

    def __init__(self, port: int) -> None:
        self._link = Link(port)
        self._rest = b""
        self.fields: Fields = []

    @property
    def was_cut(self) -> bool:
        """Whether the end was a reset."""
        return self._link.was_cut

    def ask(self, request: str) -> int:
        """
        Send a request; return the status that answers it.

        :raises Lost: if there is no answer
        """
        self._link.send(request.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            came = self._link.receive()
            if not came:
                raise Lost("the handshake was not answered")
            answer += came
        head, _, self._rest = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        self.fields = [(name.strip().lower(), value.strip()) for name, _, value in pairs]
        return int(first.split()[1])

    def send(self, data: bytes) -> None:
        """Send bytes in one write."""
        self._link.send(data)

    def receive(self) -> bytes:
        """Return what comes next; nothing at the end."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        return self._link.receive()

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


class Http2:
    """
    Streams of one HTTP/2 connection, in the clear, which must stand all of them.

    :param port: the server's, on 127.0.0.1
    """

    name = "HTTP/2"

    def __init__(self, port: int) -> None:
        self._link = Link(port)
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._wires: dict[int, Http2Wire] = {}
        #: Whether the server has said that it takes CONNECT with ``:protocol`` (RFC 8441).
        self.takes_connect = False
        try:
            self._flush()
            while not self.takes_connect:
                self._pump()
        except Lost:
            self.close()
            raise

    def open(self, extensions: str | None) -> Wire:
        """Open a socket."""
        fields = [("sec-websocket-version", "13")]
        if extensions is not None:
            fields.append(("sec-websocket-extensions", extensions))
        wire = self.ask(fields)
        if wire.status != 200 or wire.is_over:
            raise Lost(f"the handshake was answered with {wire.status}")
        return wire

    def ask(
        self, fields: Fields, method: str = "CONNECT", protocol: str = "websocket", path: str = "/"
    ) -> Http2Wire:
        """
        Send a request; return its stream when its answer has begun.

        :raises Lost: if there is no answer
        """
        stream = self._h2.get_next_available_stream_id()
        wire = self._wires[stream] = Http2Wire(self, stream)
        head = [
            (":method", method),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", path),
        ]
        if protocol:
            head.append((":protocol", protocol))
        self._h2.send_headers(stream, [*head, *fields], end_stream=method == "GET")
        self._flush()
        while not wire.status and not wire.is_over:
            self._pump()
        return wire

    def send(self, stream: int, data: bytes) -> None:
        """Send DATA, as the windows let it."""
        view = memoryview(data)
        while view and not self._wires[stream].is_over:
            room = self._h2.local_flow_control_window(stream)
            size = min(len(view), room, self._h2.max_outbound_frame_size)
            if not size:
                self._pump()
                continue
            self._h2.send_data(stream, view[:size].tobytes())
            view = view[size:]
            self._flush()

    def receive(self, wire: Http2Wire) -> bytes:
        """Return what comes next on a stream; nothing at its end."""
        while not wire.came and not wire.is_over:
            self._pump()
        came = b"".join(wire.came)
        wire.came.clear()
        return came

    def forget(self, stream: int) -> None:
        """End a stream, or our half of it if the server has ended its own."""
        wire = self._wires.pop(stream)
        with contextlib.suppress(ProtocolError):
            if not wire.is_over:
                self._h2.reset_stream(stream)
            elif not wire.was_cut:
                self._h2.end_stream(stream)
        self._flush()

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _flush(self) -> None:
        self._link.send(self._h2.data_to_send())

    def _pump(self) -> None:
        came = self._link.receive()
        if not came:
            raise Lost("the server closed the connection")
        try:
            events = self._h2.receive_data(came)
        except ProtocolError as error:
            raise Lost(f"the server breaks HTTP/2: {error}") from None
        for event in events:
            self._handle(event)
        self._flush()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.takes_connect = bool(self._h2.remote_settings.enable_connect_protocol)
            if not self.takes_connect:
                raise Lost("the server's first SETTINGS do not allow CONNECT with :protocol")
            return
        if isinstance(event, h2.events.ConnectionTerminated):
            raise Lost(f"the server sent GOAWAY with {event.error_code}")
        wire = self._wires.get(getattr(event, "stream_id", 0) or 0)
        if isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if wire is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            wire.fields = list(event.headers)
            wire.status = int(dict(event.headers)[":status"])
        elif isinstance(event, h2.events.DataReceived):
            wire.came.append(event.data)
        elif isinstance(event, h2.events.StreamEnded):
            wire.is_over = True
        elif isinstance(event, h2.events.StreamReset):
            wire.is_over = wire.was_cut = True


class Http2Wire:
    """A stream that is to become a WebSocket."""

    def __init__(self, way: Http2, stream: int) -> None:
        self._way = way
        self._stream = stream
        self.fields: Fields = []
        self.status = 0
        self.came: list[bytes] = []
        self.is_over = False
        self.was_cut = False

    def send(self, data: bytes) -> None:
        """Send bytes in DATA of their own, if they fit."""
        self._way.send(self._stream, data)

    def receive(self) -> bytes:
        """Return what comes next; nothing at the end."""
        return self._way.receive(self)

    def close(self) -> None:
        """End the stream."""
        self._way.forget(self._stream)
