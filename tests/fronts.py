"""
Proxies in memory, for tests, and their clients: each says and takes what the test wants, when.

``Talk`` is one request. Its subclasses speak HTTP/1.1 and HTTP/2, and behave alike.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from backends import frames as f
from backends.http2.support import dial
from backends.support import Tls, connect, turns

from kyoukai import Kyoukai, Proxy, ServerConfig
from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.interfaces.build import interface_for
from kyoukai.interfaces.proxy import ProxyInterface
from kyoukai.testing import MemoryServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from kyoukai.upstream import Upstream

    Text = Iterable[tuple[str, str]]


class Talk(ABC):
    """
    One request on a connection of its own, from the client's side.

    :param server: the server
    """

    status = 0
    headers: dict[str, str]
    informational: list[int]
    body: bytes
    trailers: dict[str, str]
    #: Whether all of the answer has come in good order.
    done: bool
    #: Whether the server has reset it.
    cut: bool

    @abstractmethod
    def begin(self, method: str = "GET", target: str = "/", headers: Text = ()) -> None:
        """Send a head whose body follows, by a Content-Length among the headers or in chunks."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send some of the body."""

    @abstractmethod
    def end(self, trailers: Text = ()) -> None:
        """End the body."""

    @abstractmethod
    def ask(
        self, method: str = "GET", target: str = "/", headers: Text = (), body: Any = None
    ) -> None:
        """Send a whole request, whose body has a length."""

    @abstractmethod
    def hold(self) -> None:
        """Take nothing of what comes."""

    @abstractmethod
    def release(self) -> None:
        """Take what has come, and go on."""

    @abstractmethod
    def leave(self) -> None:
        """Be gone."""

    @property
    @abstractmethod
    def untaken(self) -> int:
        """Bytes that the server has not taken from us."""

    @abstractmethod
    async def event(self) -> None:
        """Wait until something comes."""

    async def until(self, condition: Callable[[Talk], Any]) -> None:
        """Wait until a condition holds of what has come."""
        async with asyncio.timeout(10):
            while not condition(self):
                await self.event()

    async def answer(self) -> int:
        """Wait for the end of the answer, however it comes, and return the status."""
        await self.until(lambda talk: talk.done or talk.cut)
        return self.status


class Http1Talk(Talk):
    """Over HTTP/1.1."""

    protocol_class = HttpToolsProtocol

    def __init__(self, server: MemoryServer, **extra: Any) -> None:
        self.transport = connect(server, **extra).transport
        self.informational = []
        self._headers: dict[str, str] = {}
        self._trailers: dict[str, str] = {}
        self._status = 0
        self._raw = bytearray()
        self._body = bytearray()
        self._left: int | None = None
        self._chunked = self._done = self._is_tunnel = False
        self._method = ""
        self._sends_chunks = False

    def begin(self, method: str = "GET", target: str = "/", headers: Text = ()) -> None:
        headers = list(headers)
        self._method = method
        if not any(name in ("content-length", "upgrade") for name, _ in headers):
            headers.append(("transfer-encoding", "chunked"))
            self._sends_chunks = True
        self._head(method, target, headers)

    def _head(self, method: str, target: str, headers: Text, body: bytes = b"") -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"{method} {target} HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n"
        self.transport.feed(head.encode() + body)

    def ask(
        self, method: str = "GET", target: str = "/", headers: Text = (), body: Any = None
    ) -> None:
        self._method = method
        length = [] if body is None else [("content-length", str(len(body)))]
        self._head(method, target, [*headers, *length], body or b"")

    def upgrade(self, token: str = "websocket", target: str = "/", headers: Text = ()) -> None:
        """Ask for an upgrade."""
        fields = [("connection", "upgrade"), ("upgrade", token)]
        if token == "websocket":
            fields += [
                ("sec-websocket-key", "AAECAwQFBgcICQoLDA0ODw=="),
                ("sec-websocket-version", "13"),
            ]
        self.begin("GET", target, [*fields, *headers])

    def send(self, data: bytes) -> None:
        self.transport.feed(b"%x\r\n%b\r\n" % (len(data), data) if self._sends_chunks else data)

    def end(self, trailers: Text = ()) -> None:
        if self._sends_chunks:
            lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            self.transport.feed(f"0\r\n{lines}\r\n".encode())
        elif self._is_tunnel:
            self.transport.feed_eof()

    def hold(self) -> None:
        self.advance()
        self.transport.hold()

    def release(self) -> None:
        self._raw += self.transport.release()
        self.advance()

    def leave(self) -> None:
        if not self.transport.closed:
            self.transport.lose(ConnectionResetError("gone"))

    @property
    def untaken(self) -> int:
        return int(self.transport.untaken)

    async def event(self) -> None:
        await self.transport.changed.wait()
        self.transport.changed.clear()
        self.advance()

    # -- What has come -------------------------------------------------------------------------

    def advance(self) -> None:
        if not self.transport.held:
            self._raw += self.transport.take()
        while not self._status and (end := self._raw.find(b"\r\n\r\n")) >= 0:
            first, *lines = bytes(self._raw[:end]).decode("latin-1").split("\r\n")
            del self._raw[: end + 4]
            status = int(first.split()[1])
            if 100 <= status <= 199 and status != 101:
                self.informational.append(status)
                continue
            self._status = status
            self._headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            self._is_tunnel = status == 101
            self._chunked = self._headers.get("transfer-encoding") == "chunked"
            length = self._headers.get("content-length")
            self._left = None if length is None else int(length)
            if self._method == "HEAD" or status in (204, 304):
                self._left = 0
                self._chunked = False
        if self._status:
            self._take_body()

    def _take_body(self) -> None:
        if self._chunked:
            while not self._done and (end := self._raw.find(b"\r\n")) >= 0:
                size = int(self._raw[:end], 16)
                if size and len(self._raw) < end + size + 4:
                    return
                if not size:
                    if (last := self._raw.find(b"\r\n\r\n")) < 0:
                        return
                    lines = bytes(self._raw[end + 2 : last]).decode().split("\r\n")
                    self._trailers = dict(line.split(": ", 1) for line in lines if line)
                    self._done = True
                    del self._raw[: last + 4]
                    return
                self._body += self._raw[end + 2 : end + 2 + size]
                del self._raw[: end + size + 4]
        elif self._left is not None:
            self._body += self._raw[: self._left]
            self._left -= len(self._raw[: self._left])
            self._raw.clear()
            self._done = not self._left
        else:
            self._body += self._raw
            self._raw.clear()
            closed = self.transport.eof_written or self.transport.closed
            self._done = closed and not self.transport.aborted

    @property
    def status(self) -> int:  # type: ignore[override]
        self.advance()
        return self._status

    @property
    def headers(self) -> dict[str, str]:  # type: ignore[override]
        self.advance()
        return self._headers

    @property
    def body(self) -> bytes:  # type: ignore[override]
        self.advance()
        return bytes(self._body)

    @property
    def trailers(self) -> dict[str, str]:  # type: ignore[override]
        self.advance()
        return self._trailers

    @property
    def done(self) -> bool:  # type: ignore[override]
        self.advance()
        return self._done

    @property
    def cut(self) -> bool:  # type: ignore[override]
        return bool(self.transport.aborted) or (self.transport.closed and not self.done)

    #: What it has of the connection.
    version = "1.1"


class Http2Talk(Talk):
    """Over HTTP/2."""

    protocol_class = H2KyoukaiProtocol
    version = "2"

    def __init__(self, server: MemoryServer, client: Any = (), **extra: Any) -> None:
        self.client, self.transport = dial(server, extra=extra, **dict(client))
        self.exchange: Any = None

    def begin(self, method: str = "GET", target: str = "/", headers: Text = ()) -> None:
        self.exchange = self.client.begin(method, target, headers)

    def ask(
        self, method: str = "GET", target: str = "/", headers: Text = (), body: Any = None
    ) -> None:
        self.exchange = self.client.request(method, target, headers, body)

    def upgrade(self, token: str = "websocket", target: str = "/", headers: Text = ()) -> None:
        """Ask for an upgrade."""
        fields = [(":protocol", token)]
        if token == "websocket":
            fields.append(("sec-websocket-version", "13"))
        self.begin("CONNECT", target, [*fields, *headers])

    def send(self, data: bytes) -> None:
        self.exchange.data(data)

    def end(self, trailers: Text = ()) -> None:
        self.exchange.end(trailers)

    def hold(self) -> None:
        self.client.gives_credit = False

    def release(self) -> None:
        client, exchange = self.client, self.exchange
        client.gives_credit = True
        if missing := client.own_window - exchange.credit:
            exchange.credit += missing
            client.send(f.window_update(exchange.number, missing))
        if missing := 65535 - client.credit:
            client.credit += missing
            client.send(f.window_update(0, missing))

    def leave(self) -> None:
        self.exchange.reset()

    @property
    def untaken(self) -> int:
        return sum(len(data) for data, _ in self.exchange.waiting)

    async def event(self) -> None:
        await self.client.event()

    @property
    def status(self) -> int:  # type: ignore[override]
        return int(self.exchange.response.status)

    @property
    def headers(self) -> dict[str, str]:  # type: ignore[override]
        return dict(self.exchange.response.headers.items())

    @property
    def informational(self) -> list[int]:  # type: ignore[override]
        return [status for status, _ in self.exchange.response.informational]

    @property
    def body(self) -> bytes:  # type: ignore[override]
        return bytes(self.exchange.body)

    @property
    def trailers(self) -> dict[str, str]:  # type: ignore[override]
        return dict(self.exchange.response.trailers.items())

    @property
    def done(self) -> bool:  # type: ignore[override]
        return bool(self.exchange.done)

    @property
    def cut(self) -> bool:  # type: ignore[override]
        return bool(self.exchange.gone) or (self.client.closed and not self.done)


TALKS: dict[str, Any] = {"http1": Http1Talk, "http2": Http2Talk}

#: For tests that hold on both wires; they take ``wire``.
both = pytest.mark.parametrize("wire", TALKS.values(), ids=TALKS)


class Front:
    """
    A server in memory with a proxy.

    :param server: the server
    :param proxy: the proxy's interface
    :param wire: what its clients are
    """

    def __init__(self, server: MemoryServer, proxy: ProxyInterface, wire: Any) -> None:
        self.server = server
        self.proxy = proxy
        self.wire = wire

    def talk(self, **options: Any) -> Any:
        """Connect a client."""
        return self.wire(self.server, **options)

    async def ask(self, *what: Any, **options: Any) -> Any:
        """Send a whole request, and return it when its answer is over."""
        talk = self.talk()
        talk.ask(*what, **options)
        await talk.answer()
        return talk

    @property
    def upstreams(self) -> list[Upstream]:
        """What the proxy knows of its servers."""
        return self.proxy.upstreams.all

    @property
    def upstream(self) -> Upstream:
        """What it knows of the only one."""
        (only,) = self.upstreams
        return only

    def is_at_rest(self) -> bool:
        """Whether no request is in progress, and each connection that is counted is idle."""
        return not self.server.connections.tasks and all(
            each.active == 0 and each.open == len(each._all) == len(each._idle)
            for each in self.upstreams
        )

    async def rest(self) -> None:
        """Wait until nothing goes on."""
        for _ in range(1000):
            if self.is_at_rest():
                return
            await turns(1)
        raise AssertionError([vars(each) for each in self.upstreams])


def proxies_of(interface: Any) -> list[ProxyInterface]:
    """Return those that are mounted on an application."""
    if isinstance(interface, ProxyInterface):
        return [interface]
    mounted = [each for _, each in interface.mounted]
    return [proxy for proxy in mounted if isinstance(proxy, ProxyInterface)]


@asynccontextmanager
async def front(
    app: Proxy | Kyoukai, wire: Any = Http1Talk, **settings: Any
) -> AsyncIterator[Front]:
    """
    Serve a proxy, or an application that one is mounted on, to clients of one kind.

    At the end no connection to a server may be left, nor any task.
    """
    config = ServerConfig(**{"access_log": False, **settings})
    interface: Any = ProxyInterface(app, config) if isinstance(app, Proxy) else None
    interface = interface or interface_for(app, config)
    before = asyncio.all_tasks()
    async with MemoryServer(interface, wire.protocol_class, **settings) as server:
        proxies = proxies_of(interface)
        yield Front(server, proxies[0], wire)
        tasks = set(server.connections.tasks)
    for proxy in proxies:
        for upstream in proxy.upstreams.all:
            for _ in range(200):
                if not upstream.open:
                    break
                await turns(1)
            assert (upstream.open, upstream.active) == (0, 0), upstream
            assert not upstream._all | set(upstream._idle)
            assert not upstream._waiting
    await turns(3)
    left = {task for task in asyncio.all_tasks() - before - tasks if not task.done()}
    left = {task for task in left if "kyoukai" in repr(task.get_coro())}
    assert not left


async def quiet(count: Callable[[], int], still: int = 40) -> int:
    """Let everything go on until a number has stayed the same for many turns; return it."""
    last, same = count(), 0
    while same < still:
        await turns(1)
        now = count()
        last, same = now, (same + 1 if now == last else 0)
    return last


def over_tls() -> dict[str, Any]:
    """What the transport of a client over TLS says."""
    return {"ssl_object": Tls()}
