"""
A small HTTP/2 client over TLS, for what h2load does not do.

It blocks, and keeps to frames and windows that it is told: clients that stop reading, give no
window, or leave streams open.
"""

from __future__ import annotations

import functools
import socket
import ssl
import struct

import hpack

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
HUGE = 2**31 - 1
DEFAULT_WINDOW = 65535
_INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload
    )


@functools.cache
def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


@functools.cache
def _block(path: str) -> bytes:
    """Encode a request without touching the table, so that it is the same every time."""
    field = path.encode()
    return b"\x82\x87\x01\x01x\x04" + bytes((len(field),)) + field


class Client:
    """
    One connection.

    :param window: bytes that each stream may send, and the connection if it is more than usual
    :raises ConnectionError: in every method, if the server ends a stream or the connection
    """

    def __init__(self, port: int, window: int = DEFAULT_WINDOW) -> None:
        sock = socket.create_connection(("127.0.0.1", port), 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = _context().wrap_socket(sock)
        if self.sock.selected_alpn_protocol() != "h2":
            raise ConnectionError("the server does not speak HTTP/2")
        hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        hello += frame(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, window))
        if window > DEFAULT_WINDOW:
            hello += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", window - DEFAULT_WINDOW))
        self.sock.sendall(hello)
        self._decoder = hpack.Decoder()
        self._next_id = 1
        self._buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def request(self, path: str, count: int = 1) -> range:
        """Send requests in one write, and return the numbers of their streams."""
        streams = range(self._next_id, self._next_id + 2 * count, 2)
        block = _block(path)
        flags = END_HEADERS | END_STREAM
        self.sock.sendall(b"".join(frame(HEADERS, flags, number, block) for number in streams))
        self._next_id = streams.stop
        return streams

    def heads(self, streams: range) -> None:
        """Read until the heads of these streams have come, and no further."""
        left = set(streams)
        while left:
            kind, _, stream_id, _ = self._next_frame()
            if kind == HEADERS:
                left.discard(stream_id)

    def ends(self, count: int) -> None:
        """Read until so many streams have ended."""
        while count:
            kind, flags, _, _ = self._next_frame()
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                count -= 1

    def get(self, path: str) -> tuple[dict[str, str], bytes]:
        """Return the fields and the body of an answer."""
        self.request(path)
        fields, body = {}, b""
        while True:
            kind, flags, _, payload = self._next_frame()
            if kind == HEADERS:
                fields = dict(self._decoder.decode(payload))
            elif kind == DATA:
                body += payload
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                return fields, body

    def _next_frame(self) -> tuple[int, int, int, bytes]:
        """Return the next frame; settings and pings are answered."""
        while True:
            head = self._take(9)
            kind, flags, stream_id = struct.unpack(">BBI", head[3:])
            payload = self._take(int.from_bytes(head[:3]))
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.sock.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind in (RST_STREAM, GOAWAY):
                name = "GOAWAY" if kind == GOAWAY else f"RST_STREAM on stream {stream_id}"
                raise ConnectionError(f"the server sent {name}: {payload!r}")
            else:
                return kind, flags, stream_id, payload

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken
