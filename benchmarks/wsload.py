"""
The load on WebSockets, in a process of its own: ``python wsload.py WAY PORT SECONDS``.

It does no more than it must, so that the server is what is measured: every connection has some
messages in flight, all of the same bytes, made once; what comes back is counted by its bytes, and
so many messages are sent again.

    http1   WebSockets over HTTP/1.1
    http2   the same in streams of one HTTP/2 connection, in the clear
    bytes   no WebSockets: frames to a server that sends all bytes back, to measure the load itself
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time

from h2client import ACK, DATA, GOAWAY, PING, RST_STREAM, SETTINGS, frame

CONNECTIONS = 16
DEPTH = 8
SIZE = 64

MASK = b"\x12\x34\x56\x78"
TEXT = b"x" * SIZE
#: A message to the server and what comes back, as long as their length fits in 7 bits.
MESSAGE = bytes((0x81, 0x80 | SIZE)) + MASK + bytes(TEXT[i] ^ MASK[i % 4] for i in range(SIZE))
ANSWER = bytes((0x81, SIZE)) + TEXT

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def connect(port: int, path: str = "/echo") -> socket.socket:
    """Open a WebSocket over HTTP/1.1."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(HANDSHAKE.format(path=path).encode())
    answer = sock.recv(4096)
    if not answer.startswith(b"HTTP/1.1 101 ") or not answer.endswith(b"\r\n\r\n"):
        raise ConnectionError(f"the handshake was answered with {answer!r}")
    return sock


def check(sock: socket.socket) -> None:
    """See that a message comes back."""
    sock.sendall(MESSAGE)
    answer = b""
    while len(answer) < len(ANSWER):
        came = sock.recv(4096)
        if not came:
            break
        answer += came
    if answer != ANSWER:
        raise ConnectionError(f"a message was answered with {answer!r}")


def load_http1(port: int, seconds: float) -> tuple[int, float]:
    """Return how many messages came back, and the seconds that this took."""
    socks = [connect(port) for _ in range(CONNECTIONS)]
    for sock in socks:
        check(sock)
    return _exchange(socks, len(ANSWER), seconds)


def load_bytes(port: int, seconds: float) -> tuple[int, float]:
    """Return the same of a server that sends all bytes back."""
    socks = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(CONNECTIONS)]
    return _exchange(socks, len(MESSAGE), seconds)


def _exchange(socks: list[socket.socket], size: int, seconds: float) -> tuple[int, float]:
    """Keep messages in flight; ``size`` bytes are the answer to one."""
    poll = select.epoll()
    peers, rests = {}, {}
    for sock in socks:
        poll.register(sock, select.EPOLLIN)
        peers[sock.fileno()] = sock
        rests[sock.fileno()] = 0
        sock.sendall(MESSAGE * DEPTH)
    blocks = [MESSAGE * count for count in range(DEPTH + 1)]
    total = 0
    start = time.perf_counter()
    deadline = start + seconds
    while (now := time.perf_counter()) < deadline:
        for number, _ in poll.poll(1):
            sock = peers[number]
            came = len(sock.recv(65536))
            if not came:
                raise ConnectionError("the server closed a connection")
            count, rests[number] = divmod(rests[number] + came, size)
            if count:
                total += count
                sock.send(blocks[count])
    return total, now - start


class Http2:
    """
    WebSockets in streams of one connection.

    :param count: how many
    """

    HUGE = 2**31 - 1

    def __init__(self, port: int, count: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        hello += frame(SETTINGS, 0, 0, struct.pack(">HI", 4, self.HUGE))
        hello += frame(8, 0, 0, struct.pack(">I", self.HUGE - 65535))
        self.sock.sendall(hello)
        self._buffer = b""
        self._connect_allowed = False
        while not self._connect_allowed:  # RFC 8441 section 3
            self.read()
        fields = ((":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"))
        fields += ((":path", "/echo"), (":authority", "localhost"), ("sec-websocket-version", "13"))
        block = b"".join(
            b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
            for name, value in fields
        )
        self.streams = range(1, 2 * count, 2)
        self.sock.sendall(b"".join(frame(1, 4, number, block) for number in self.streams))

    def read(self) -> dict[int, int]:
        """Read once; return how many bytes of messages came on each stream."""
        came = self.sock.recv(262144)
        if not came:
            raise ConnectionError("the server closed the connection")
        data = self._buffer + came
        at, end, sizes, answers = 0, len(data), {}, []
        while end - at >= 9:
            stop = at + 9 + int.from_bytes(data[at : at + 3])
            if stop > end:
                break
            kind, flags = data[at + 3], data[at + 4]
            if kind == DATA:
                stream = int.from_bytes(data[at + 5 : at + 9])
                sizes[stream] = sizes.get(stream, 0) + stop - at - 9
            elif kind in (SETTINGS, PING) and not flags & ACK:
                self._connect_allowed |= kind == SETTINGS
                answers.append(frame(kind, ACK, 0, data[at + 9 : stop] if kind == PING else b""))
            elif kind in (RST_STREAM, GOAWAY):
                raise ConnectionError(f"the server sent {data[at:stop]!r}")
            at = stop
        self._buffer = data[at:]
        if answers:
            self.sock.sendall(b"".join(answers))
        return sizes


def load_http2(port: int, seconds: float) -> tuple[int, float]:
    """Return how many messages came back over HTTP/2, and the seconds that this took."""
    client = Http2(port, CONNECTIONS)
    message = {number: frame(DATA, 0, number, MESSAGE) for number in client.streams}
    rests = dict.fromkeys(client.streams, 0)
    client.sock.sendall(b"".join(message[number] * DEPTH for number in client.streams))
    total = 0
    start = time.perf_counter()
    deadline = start + seconds
    while (now := time.perf_counter()) < deadline:
        again = []
        for number, size in client.read().items():
            count, rests[number] = divmod(rests[number] + size, len(ANSWER))
            total += count
            again.append(message[number] * count)
        client.sock.sendall(b"".join(again))
    return total, now - start


LOADS = {"http1": load_http1, "http2": load_http2, "bytes": load_bytes}


if __name__ == "__main__":
    used = time.process_time()
    messages, took = LOADS[sys.argv[1]](int(sys.argv[2]), float(sys.argv[3]))
    busy = (time.process_time() - used) / took
    print(json.dumps({"messages": messages, "seconds": took, "busy": busy}))
