"""A proxy between a scripted upstream server and clients of both protocols, all in one process."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from backends.frames import FrameClient
from backends.http2.support import dial
from upstreams import OK, ScriptedUpstream

from kyoukai import Kyoukai, Middleware, Proxy
from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.testing import MemoryServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kyoukai.testing import ClientResponse

#: Both protocols of clients; for tests that take ``http2``.
both = pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])

#: Both ways of an answer: from connection to connection, and through an application's pipeline;
#: for tests that take ``way``.
WAYS = ("bare", "pipeline")
both_ways = pytest.mark.parametrize("way", WAYS)


class Looker(Middleware):
    """Looks at every request, and that is all."""

    async def process_request(self, ctx: Any) -> None:
        """Look."""


class Front:
    """
    A server with a proxy.

    :param server: the server
    :param upstream: what it passes requests on to
    """

    def __init__(self, server: MemoryServer, upstream: ScriptedUpstream) -> None:
        self.server = server
        self.upstream = upstream

    def http1(self, **extra: Any) -> Any:
        """Connect a client."""
        self.server.protocol_class = HttpToolsProtocol
        return self.server.connect(**extra)

    def http2(self, **extra: Any) -> Any:
        """Connect a client that keeps the rules of HTTP/2."""
        self.server.protocol_class = H2KyoukaiProtocol
        return dial(self.server, extra=extra)[0]

    def frames(self) -> Any:
        """Connect a client that sends any frames."""
        self.server.protocol_class = H2KyoukaiProtocol
        return FrameClient(self.server)

    async def ask(
        self,
        http2: bool = False,
        method: str = "GET",
        target: str = "/",
        headers: Any = (),
        *,
        extra: Any = (),
        **options: Any,
    ) -> ClientResponse:
        """Send a request on a connection of its own, and wait for its answer."""
        if http2:
            client = self.http2(**dict(extra))
            return await client.request(method, target, headers, **options).finished()
        connection = self.http1(**dict(extra))
        connection.request(method, target, headers, **options)
        return await connection.response()

    async def raw(self, data: bytes) -> ClientResponse:
        """Send bytes on a connection of their own, and wait for an answer on HTTP/1.1."""
        connection = self.http1()
        connection.send(data)
        return await connection.response()

    @property
    def seen(self) -> list[str]:
        """The requests that came, for short."""
        assert not self.upstream.wrong
        return [str(each) for each in self.upstream.requests]

    @property
    def last(self) -> Any:
        """The last request that came."""
        assert not self.upstream.wrong
        return self.upstream.requests[-1]


@asynccontextmanager
async def fronted(
    answer: Any = OK,
    *,
    way: str = "bare",
    prefix: str = "/",
    path: str | None = None,
    closes: bool = False,
    settings: Any = (),
    **options: Any,
) -> AsyncIterator[Front]:
    """
    Put a proxy before a scripted upstream; what takes half a minute in there takes too long.

    :param answer: the upstream's
    :param way: whether the proxy's application has a middleware, which makes the way a longer one
    :param prefix: what the proxy is mounted at
    :param path: that of the upstream's URL; None for a unix socket
    :param settings: the server's
    :param options: the proxy's
    """
    upstream = ScriptedUpstream(answer, tcp=path is not None, path=path or "", closes=closes)
    async with asyncio.timeout(30), upstream:
        app = Kyoukai("front", middleware=[Looker()] if way == "pipeline" else ())
        app.mount(prefix, Proxy(upstream.url, **options))
        async with MemoryServer(app, **dict(settings)) as server:
            yield Front(server, upstream)
            assert not upstream.wrong


# -- Who asks what, and gets what ---------------------------------------------------------------

#: Requests: method, target and body.
Expected = list[tuple[str, str, bytes]]


def echo(seen: Any) -> bytes:
    """Answer with what the request was: method, target and body."""
    body = b"%b %b %b" % (seen.method.encode(), seen.target.encode(), seen.body)
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Bystanders:
    """Clients of both protocols, which ask for something of their own all the time."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._count = 0
        self._http1 = [front.http1() for _ in range(2)]
        self._http2 = front.http2()

    async def ask(self) -> None:
        """Let each of them ask, and look at the answers."""
        await asyncio.gather(
            *(self._ask_http1(each) for each in self._http1), *(self._ask_http2() for _ in "12")
        )

    def _target(self) -> str:
        self._count += 1
        return f"/by/{self._count}"

    async def _ask_http1(self, connection: Any) -> None:
        target = self._target()
        connection.request("POST", target, body=target.encode())
        response = await connection.response()
        assert response.body == f"POST {target} {target}".encode()

    async def _ask_http2(self) -> None:
        target = self._target()
        assert (await self._http2.get(target)).body == f"GET {target} ".encode()


def seen_of(front: Front) -> Expected:
    """Return what the server saw of the attack: requests that are complete."""
    assert not front.upstream.wrong
    return [
        (each.method, each.target, each.body)
        for each in front.upstream.requests
        if each.complete and not each.target.startswith("/by/")
    ]


async def answers_to(connection: Any, count: int) -> list[bytes]:
    """Wait for answers, then for the end, and return the bodies of those that are the server's."""
    answers = [await connection.response() for _ in range(count)]
    connection.transport.feed_eof()
    try:
        while True:
            answers.append(await connection.response())
    except ConnectionError:
        pass
    return [each.body for each in answers if each.status == 200]


def answers_of(expected: Expected) -> list[bytes]:
    """Return what ``echo`` answers."""
    return [
        b"" if method == "HEAD" else b"%b %b %b" % (method.encode(), target.encode(), body)
        for method, target, body in expected
    ]
