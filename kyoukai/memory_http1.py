"""
Clients of HTTP/1.1 in memory: requests to bytes, and bytes to responses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import httptools
import msgspec
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from kyoukai.memory import MemoryTransport

__all__ = ("ClientResponse", "Connection", "HeaderList", "header_pairs")

HeaderList = Mapping[str, str] | Iterable[tuple[str, str]]


class Connection:
    """
    One HTTP/1.1 connection, from the client's side.

    :param transport: the transport whose other end is the server's protocol
    """

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self._methods: deque[str] = deque()
        self._ready: deque[ClientResponse] = deque()
        self._reader = _ResponseReader(self._methods, self._ready)

    def send(self, data: bytes, *methods: str) -> None:
        """
        Send bytes as they are.

        :param methods: the methods of the requests in them, if not all are GET: answers to HEAD
            have no body
        """
        self._methods.extend(methods)
        self.transport.feed(data)

    def request(
        self,
        method: str,
        target: str,
        headers: HeaderList = (),
        body: bytes | None = None,
        chunks: Iterable[bytes] | None = None,
        trailers: HeaderList = (),
    ) -> None:
        """
        Send a request.

        :param target: path and query
        :param headers: more headers than Host and the framing
        :param body: a body, sent with its length
        :param chunks: a body, sent in these chunks
        :param trailers: header lines after the chunks
        """
        self._methods.append(method)
        pairs = header_pairs(headers)
        if not any(name.lower() == "host" for name, _ in pairs):
            pairs.insert(0, ("Host", "localhost"))
        if body is not None:
            pairs.append(("Content-Length", str(len(body))))
        if chunks is not None:
            pairs.append(("Transfer-Encoding", "chunked"))
        lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
        data = f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + (body or b"")
        if chunks is not None:
            data += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
            ends = "".join(f"{name}: {value}\r\n" for name, value in header_pairs(trailers))
            data += f"0\r\n{ends}\r\n".encode("latin-1")
        self.transport.feed(data)

    async def response(self) -> ClientResponse:
        """
        Wait for the next response.

        :raises ConnectionError: if the server closes before it is complete
        """
        while True:
            self._reader.feed(self.transport.take())
            if self._ready:
                return self._ready.popleft()
            if self.transport.closed or self.transport.eof_written:
                self._reader.end()
                if self._ready:
                    return self._ready.popleft()
                raise ConnectionError("the server closed the connection before its answer ended")
            self.transport.changed.clear()
            await self.transport.changed.wait()

    def take_rest(self) -> bytes:
        """Return what has come after a 101, which is no HTTP any more."""
        return self._reader.take_rest() + self.transport.take()

    async def closed(self) -> None:
        """Wait until the server closes the connection, or its direction of it."""
        while not (self.transport.closed or self.transport.eof_written):
            self.transport.changed.clear()
            await self.transport.changed.wait()

    def close(self) -> None:
        """Close the connection."""
        if not self.transport.closed:
            self.transport.lose()


class ClientResponse:
    """A response as the client sees it."""

    def __init__(self) -> None:
        self.status = 0
        self.reason = ""
        self.headers = Headers()
        self.trailers = Headers()
        self.body = b""
        #: Interim responses that came before: status and headers.
        self.informational: list[tuple[int, Headers]] = []

    @property
    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)

    def __repr__(self) -> str:
        return f"<ClientResponse {self.status} {len(self.body)} bytes>"


class _ResponseReader:
    """Parses responses; each parser sees one, as an answer to HEAD must end at its head."""

    def __init__(self, methods: deque[str], ready: deque[ClientResponse]) -> None:
        self._methods = methods
        self._ready = ready
        self._buffer = b""
        self._informational: list[tuple[int, Headers]] = []
        #: Whether the server has switched protocols: what follows is not HTTP.
        self._switched = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._response = ClientResponse()
        self._in_head = True
        self._headers: list[tuple[bytes, bytes]] = []
        self._done = False
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes from the server."""
        self._buffer += data
        while self._buffer and not self._switched:
            if self._in_head:
                end = self._buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                head, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
                try:
                    self._parser.feed_data(head)
                except httptools.HttpParserUpgrade:
                    pass  # a 101
                self._head_complete()
                continue
            length = self._response.headers.get("Content-Length", type=int)
            if length is not None:
                rest = length - len(self._body)
                piece, self._buffer = self._buffer[:rest], self._buffer[rest:]
                self._body += piece
                if len(self._body) == length:
                    self._finish()
            elif self._response.headers.get("Transfer-Encoding") == "chunked":
                # The parser does not say how much it has taken, so it never gets more than what
                # may be the end: the last chunk and the trailers end with an empty line.
                end = self._buffer.find(b"\r\n\r\n")
                size = end + 4 if end >= 0 else len(self._buffer) - 3
                if size <= 0:
                    return
                piece, self._buffer = self._buffer[:size], self._buffer[size:]
                self._parser.feed_data(piece)
                if self._done:
                    self._finish()
            else:
                self._body += self._buffer
                self._buffer = b""

    def _head_complete(self) -> None:
        response = self._response
        response.status = self._parser.get_status_code()
        for name, value in self._headers:
            response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        self._headers = []
        if response.status < 200 and response.status != 101:
            self._informational.append((response.status, response.headers))
            self._begin()
            return
        response.informational, self._informational = self._informational, []
        self._in_head = False
        method = self._methods.popleft() if self._methods else "GET"
        empty = response.headers.get("Content-Length") == "0"
        self._switched = response.status == 101
        if method == "HEAD" or response.status in (101, 204, 304) or empty:
            self._finish()

    def take_rest(self) -> bytes:
        """Return what came and is no part of a response, such as bytes after a 101."""
        rest, self._buffer = self._buffer, b""
        return rest

    def end(self) -> None:
        """The server has closed: a body without a length ends here."""
        headers = self._response.headers
        if not self._in_head and not {"content-length", "transfer-encoding"} & {
            name.lower() for name, _ in headers
        }:
            self._finish()

    def _finish(self) -> None:
        self._response.body = bytes(self._body)
        for name, value in self._headers:
            self._response.trailers.add(name.decode("latin-1"), value.decode("latin-1"))
        self._ready.append(self._response)
        self._begin()

    def on_status(self, status: bytes) -> None:
        """Parser callback: the reason."""
        self._response.reason += status.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Parser callback: a header or trailer."""
        self._headers.append((name, value))

    def on_body(self, data: bytes) -> None:
        """Parser callback: some of the body."""
        self._body += data

    def on_message_complete(self) -> None:
        """Parser callback: the end."""
        self._done = True


def header_pairs(headers: HeaderList) -> list[tuple[str, str]]:
    """Return headers as a list of pairs."""
    return list(headers.items() if isinstance(headers, Mapping) else headers)
