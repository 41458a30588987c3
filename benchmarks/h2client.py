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
from collections.abc import Iterable, Iterator

import hpack

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
HUGE = 2**31 - 1
DEFAULT_WINDOW = 65535
_INITIAL_WINDOW_SIZE = 4
_FRAME_SIZE = 16384


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
def _block(path: str, size: int | None = None) -> bytes:
    """
    Encode a request without touching the table, so that it is the same every time.

    :param size: of the body of a POST request; without it, the request is a GET
    """
    block = (b"\x82" if size is None else b"\x83") + b"\x87\x01\x01x\x04" + _string(path)
    return block if size is None else block + b"\x0f\x0d" + _string(str(size))


def _string(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()


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
        #: Bytes that may be sent: on the connection, on the stream of the body that is being sent.
        self._windows = {0: DEFAULT_WINDOW}
        self._initial_window = DEFAULT_WINDOW

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

    def body(self) -> Iterator[bytes]:
        """Yield the data of the only stream until its end."""
        flags = 0
        while not flags & END_STREAM:
            kind, flags, _, payload = self._next_frame()
            if kind == DATA:
                yield payload
            elif kind != HEADERS:
                flags = 0

    def post(self, path: str, size: int, chunks: Iterable[bytes]) -> tuple[dict[str, str], bytes]:
        """Send a body as the windows allow, and return the fields and the body of the answer."""
        stream_id, self._next_id = self._next_id, self._next_id + 2
        self._windows[stream_id] = self._initial_window
        self.sock.sendall(frame(HEADERS, END_HEADERS, stream_id, _block(path, size)))
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                most = min(_FRAME_SIZE, self._windows[0], self._windows[stream_id])
                if most <= 0:
                    kind, *_ = self._read_frame()
                    if kind == HEADERS:
                        raise ConnectionError("the server did not take the whole body")
                    continue
                part = view[:most]
                self.sock.sendall(frame(DATA, 0, stream_id, bytes(part)))
                self._windows[0] -= len(part)
                self._windows[stream_id] -= len(part)
                view = view[most:]
        self.sock.sendall(frame(DATA, END_STREAM, stream_id))
        return self._answer()

    def get(self, path: str) -> tuple[dict[str, str], bytes]:
        """Return the fields and the body of an answer."""
        self.request(path)
        return self._answer()

    def _answer(self) -> tuple[dict[str, str], bytes]:
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
        """Return the next frame that is no matter of the connection."""
        while True:
            found = self._read_frame()
            kind, flags, *_ = found
            if kind not in (SETTINGS, PING) or flags & ACK:
                return found

    def _read_frame(self) -> tuple[int, int, int, bytes]:
        """Return the next frame; settings and pings are answered, and windows are opened."""
        head = self._take(9)
        kind, flags, stream_id = struct.unpack(">BBI", head[3:])
        payload = self._take(int.from_bytes(head[:3]))
        if kind in (RST_STREAM, GOAWAY):
            name = "GOAWAY" if kind == GOAWAY else f"RST_STREAM on stream {stream_id}"
            raise ConnectionError(f"the server sent {name}: {payload!r}")
        if kind == WINDOW_UPDATE and stream_id in self._windows:
            self._windows[stream_id] += int.from_bytes(payload)
        elif kind == SETTINGS:
            self._set(payload)
        if kind in (SETTINGS, PING) and not flags & ACK:
            self.sock.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
        return kind, flags, stream_id, payload

    def _set(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW_SIZE:
                for stream_id in self._windows.keys() - {0}:
                    self._windows[stream_id] += value - self._initial_window
                self._initial_window = value

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken
