"""An HTTP/2 client on a blocking socket, for servers in processes of their own."""

from __future__ import annotations

import base64
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from support import connect

if TYPE_CHECKING:
    import ssl

GOAWAY = 7
#: The last stream of a GOAWAY that only announces the end (RFC 9113 section 6.8).
ANY_STREAM = 2**31 - 1


@dataclass
class Answer:
    """What came on one stream."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    is_whole: bool = False
    #: The code of a RST_STREAM.
    reset: int | None = None


class H2Client:
    """
    One connection.

    h2 takes GOAWAY for the end of everything. For most clients it is the end of new streams only,
    so that frame is kept from h2.

    :param sock: a socket that is connected, after the TLS handshake if there is one
    :param upgraded: whether the connection was upgraded from HTTP/1.1
    """

    def __init__(self, sock: socket.socket, upgraded: bool = False) -> None:
        self.sock = sock
        self.answers: dict[int, Answer] = {}
        #: Last stream and error code of each GOAWAY.
        self.goaways: list[tuple[int, int]] = []
        self._input = b""
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        if upgraded:
            self.settings = self._h2.initiate_upgrade_connection()
            self.answers[1] = Answer()
        else:
            self._h2.initiate_connection()

    @property
    def max_streams(self) -> int:
        """The server's SETTINGS_MAX_CONCURRENT_STREAMS."""
        return self._h2.remote_settings.max_concurrent_streams

    def send(self) -> None:
        """Send what h2 has to say."""
        self.sock.sendall(self._h2.data_to_send())

    def request(self, path: str, method: str = "GET", length: int = 0) -> int:
        """Send a request, or the head of one whose body has a length; return its stream."""
        stream = self._h2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        headers = [
            (":method", method),
            (":scheme", "https" if hasattr(self.sock, "version") else "http"),
            (":authority", "localhost"),
            (":path", path),
        ]
        if length:
            headers.append(("content-length", str(length)))
        self._h2.send_headers(stream, headers, end_stream=not length)
        self.send()
        return stream

    def send_body(self, stream: int, data: bytes) -> None:
        """Send the whole body of a request."""
        self._h2.send_data(stream, data, end_stream=True)
        self.send()

    def read(self) -> bool:
        """Take what comes next; False at the end of the connection."""
        data = self.sock.recv(65536)
        self._input += data
        while len(self._input) >= 9:
            size = 9 + int.from_bytes(self._input[:3])
            if len(self._input) < size:
                break
            frame, self._input = self._input[:size], self._input[size:]
            if frame[3] == GOAWAY:
                self.goaways.append((int.from_bytes(frame[9:13]), int.from_bytes(frame[13:17])))
            else:
                for event in self._h2.receive_data(frame):
                    self._take(event)
        if data:
            # A server that has sent all and closed takes nothing more. What it has sent can be
            # read still, and then its end.
            with suppress(ConnectionError):
                self.send()
        return bool(data)

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            answer = self.answers[event.stream_id]
            answer.headers = list(event.headers)
            answer.status = int(dict(answer.headers)[":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.answers[event.stream_id].body += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.answers[event.stream_id].is_whole = True
        elif isinstance(event, h2.events.StreamReset):
            self.answers[event.stream_id].reset = int(event.error_code)

    def wait(self, stream: int) -> Answer:
        """Read until a stream is over, and return what came on it."""
        answer = self.answers[stream]
        while not answer.is_whole and answer.reset is None:
            assert self.read(), f"the connection ended before stream {stream}"
        return answer

    def get(self, path: str) -> tuple[int, bytes]:
        """Send one GET, and return status and body."""
        answer = self.wait(self.request(path))
        return answer.status, answer.body

    def close(self) -> None:
        self.sock.close()


def connect_h2(port: int, context: ssl.SSLContext | None = None) -> H2Client:
    """Connect, by ALPN with a context, by prior knowledge without."""
    if context is not None:
        context.set_alpn_protocols(["h2"])
    sock = connect(port, context)
    if context is not None:
        assert sock.selected_alpn_protocol() == "h2"
    client = H2Client(sock)
    client.send()
    return client


def upgrade_to_h2(port: int, path: str) -> H2Client:
    """Connect in the clear, and ask for HTTP/2 with a request, which is stream 1."""
    client = H2Client(connect(port), upgraded=True)
    assert base64.urlsafe_b64decode(client.settings + b"==")
    client.sock.sendall(
        b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: %b\r\n\r\n" % (path.encode(), client.settings)
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    client.send()
    return client


def get_h2(port: int, path: str = "/", context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    """Send one GET on a connection of its own, and return status and body."""
    client = connect_h2(port, context)
    try:
        return client.get(path)
    finally:
        client.close()
