"""A proxy between a scripted upstream server and clients of both protocols, all in one process."""

from __future__ import annotations

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
    Put a proxy before a scripted upstream.

    :param answer: the upstream's
    :param way: whether the proxy's application has a middleware, which makes the way a longer one
    :param prefix: what the proxy is mounted at
    :param path: that of the upstream's URL; None for a unix socket
    :param settings: the server's
    :param options: the proxy's
    """
    upstream = ScriptedUpstream(answer, tcp=path is not None, path=path or "", closes=closes)
    async with upstream:
        app = Kyoukai("front", middleware=[Looker()] if way == "pipeline" else ())
        app.mount(prefix, Proxy(upstream.url, **options))
        async with MemoryServer(app, **dict(settings)) as server:
            yield Front(server, upstream)
            assert not upstream.wrong
