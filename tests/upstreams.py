"""
A server behind a proxy, for tests: it answers with the bytes that the test gives it.

It reads requests by the letter of RFC 9112 and keeps them. What is not beyond doubt is no request
to it: it notes that in ``wrong``, and closes the connection.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    Handler = Callable[["Seen", "Wire"], Awaitable[bytes | None]]
    Answer = bytes | Callable[["Seen"], bytes] | Handler

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[!-~\x80-\xff][\t -~\x80-\xff]*)?)")
_SIZE = re.compile(rb"[0-9a-f]{1,8}")


class Wrong(Exception):
    """Something that no proxy may send."""


@dataclass
class Seen:
    """A request that came."""

    method: str
    target: str
    #: Names in lower case, in the order of the lines.
    headers: list[tuple[str, str]]
    #: Head and body as they came; the head alone until the body was read.
    raw: bytes
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    #: Whether all of it has come.
    complete: bool = False

    def all(self, name: str) -> list[str]:
        """Return the values of all lines with a name."""
        return [value for each, value in self.headers if each == name]

    def __getitem__(self, name: str) -> str | None:
        """Return the value of the only line with a name, or None."""
        values = self.all(name)
        assert len(values) < 2, f"{name} is there twice: {values}"
        return values[0] if values else None

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


class Wire:
    """
    A connection to the server.

    :param reader: what comes
    :param writer: what goes
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        #: The requests that came on it.
        self.requests: list[Seen] = []
        #: Set when the other side has closed it, or we have.
        self.closed = asyncio.Event()
        #: Whether bodies are kept, which takes long for large ones.
        self.keeps_bodies = True
        self._reader = reader
        self._seen: Seen | None = None
        self._left = 0
        self._chunked = False

    async def send(self, data: bytes) -> None:
        """Write bytes, and wait until there is room for more."""
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, size: int = 65536) -> bytes:
        """Read what comes next, whatever it is: for tunnels."""
        return await self._reader.read(size)

    def abort(self) -> None:
        """Cut the connection."""
        self.writer.transport.abort()

    async def head(self) -> Seen | None:
        """Read the head of a request; None if there is no other."""
        try:
            raw = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise Wrong(f"the end within a head: {error.partial!r}") from None
            return None
        line, *lines = raw[:-4].split(b"\r\n")
        found = _LINE.fullmatch(line)
        if found is None:
            raise Wrong(f"request line {line!r}")
        seen = Seen(found[1].decode(), found[2].decode(), _fields(lines), raw)
        if seen["host"] is None:
            raise Wrong("no Host")
        coding, length = seen["transfer-encoding"], seen["content-length"]
        if (coding is not None and (coding != "chunked" or length is not None)) or (
            length is not None and not (length.isascii() and length.isdigit())
        ):
            raise Wrong(f"framing {coding!r} {length!r}")
        self._chunked = coding is not None
        self._left = int(length or 0)
        self._seen = seen
        seen.complete = not (self._chunked or self._left)
        return seen

    async def body(self) -> bytes:
        """Read a piece of the request's body; ``b""`` at its end."""
        seen = self._seen
        assert seen is not None
        try:
            if seen.complete:
                return b""
            if self._chunked and not self._left:
                line = await self._line()
                if not _SIZE.fullmatch(line):
                    raise Wrong(f"chunk {line!r}")
                self._left = int(line, 16)
                if not self._left:
                    lines = []
                    while line := await self._line():
                        lines.append(line)
                    seen.trailers = _fields(lines)
                    seen.complete = True
                    return b""
            data = await self._reader.read(min(self._left, 65536))
            self._left -= len(data)
            if self.keeps_bodies:
                seen.body += data
                seen.raw += data
            if not data:
                raise asyncio.IncompleteReadError(b"", None)
            if self._chunked and not self._left and await self._line():
                raise Wrong("more than its size in a chunk")
            seen.complete = not self._chunked and not self._left
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the end within a body") from None
        return data

    async def _line(self) -> bytes:
        line = await self._reader.readuntil(b"\r\n")
        assert self._seen is not None
        if self.keeps_bodies:
            self._seen.raw += line
        return line[:-2]


def _fields(lines: list[bytes]) -> list[tuple[str, str]]:
    fields = []
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise Wrong(f"line {line!r}")
        fields.append((found[1].decode().lower(), found[2].rstrip().decode("latin-1")))
    return fields


class ScriptedUpstream:
    """
    A server whose answers a test gives::

        async with ScriptedUpstream(b"HTTP/1.1 204 No Content\\r\\n\\r\\n") as upstream:
            Proxy(upstream.url)
            ...
            assert [str(seen) for seen in upstream.requests] == ["GET /x"]

    An answer is the bytes to send when a request is complete, or a function from a request to such
    bytes, or a coroutine function of request and :class:`Wire`, which runs when the head is there
    and may send, read the body and cut the connection as it likes; bytes that it returns are sent.
    The connection stays open for the next request, unless ``closes``.

    :param answer: the answer to each request for which ``answers`` has none
    :param tcp: whether it listens on a port of 127.0.0.1, rather than on a unix socket
    :param path: what the URL ends with; only with ``tcp``
    :param context: for TLS; only with ``tcp``
    :param closes: whether it closes the connection after each answer
    """

    def __init__(
        self,
        answer: Answer = OK,
        *,
        tcp: bool = False,
        path: str = "",
        context: ssl.SSLContext | None = None,
        closes: bool = False,
    ) -> None:
        self.answer = answer
        #: Answers to the next requests, in order.
        self.answers: list[Answer] = []
        self.closes = closes
        #: All requests, in the order of their heads, and all connections.
        self.requests: list[Seen] = []
        self.wires: list[Wire] = []
        #: What no proxy may send.
        self.wrong: list[str] = []
        #: Notified at each head, each end of a request, and each end of a connection.
        self.changed = asyncio.Condition()
        self.port = 0
        self._tcp, self._path, self._context = tcp, path, context
        self._folder: Any = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """What a proxy is given."""
        if self._tcp:
            scheme = "http" if self._context is None else "https"
            name = "127.0.0.1" if self._context is None else "localhost"
            return f"{scheme}://{name}:{self.port}{self._path}"
        return f"unix:{self._folder.name}/up"

    @property
    def raw(self) -> list[bytes]:
        """All requests, as they came."""
        return [seen.raw for seen in self.requests]

    async def __aenter__(self) -> ScriptedUpstream:
        if not self._tcp:
            self._folder = tempfile.TemporaryDirectory()
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        if self._folder is not None:
            self._folder.cleanup()

    async def start(self) -> None:
        """Listen: where it did before, after ``stop``."""
        if self._tcp:
            self._server = await asyncio.start_server(
                self._connected, "127.0.0.1", self.port, ssl=self._context
            )
            self.port = self._server.sockets[0].getsockname()[1]
        else:
            Path(f"{self._folder.name}/up").unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(
                self._connected, f"{self._folder.name}/up"
            )

    async def stop(self) -> None:
        """Cut all connections, and listen no more: be killed."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for wire in self.wires:
            wire.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds of what has come."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        self.wires.append(wire)
        task = asyncio.get_running_loop().create_task(self._serve(wire))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, wire: Wire) -> None:
        try:
            while (seen := await wire.head()) is not None:
                self.requests.append(seen)
                wire.requests.append(seen)
                await self._tell()
                await self._give(self.answers.pop(0) if self.answers else self.answer, seen, wire)
                while await wire.body():
                    pass
                await self._tell()
                if self.closes:
                    break
        except Wrong as error:
            self.wrong.append(str(error))
        except OSError:
            pass
        except Exception as error:  # a fault of the test's, which must not go by unseen
            self.wrong.append(repr(error))
        finally:
            wire.writer.close()
            wire.closed.set()
            await self._tell()

    async def _give(self, answer: Any, seen: Seen, wire: Wire) -> None:
        if asyncio.iscoroutinefunction(answer):
            data = await answer(seen, wire)
        else:
            while await wire.body():
                pass
            data = answer(seen) if callable(answer) else answer
        if data:
            await wire.send(data)
