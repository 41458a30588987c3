"""SSGI applications for tests: in three styles, served to clients of every wire."""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from backends.test_contract import PEERS

from kyoukai import ServerConfig
from kyoukai.interfaces.ssgi import SsgiInterface
from kyoukai.testing import MemoryServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = (
    "ANSWERING",
    "STYLES",
    "answered",
    "each_peer",
    "each_style",
    "in_style",
    "interface",
    "on_http",
    "served",
)

#: For tests that hold on every wire, and however the client leaves.
each_peer = pytest.mark.parametrize("peer", list(PEERS))

#: What the last line of the log says of an application that has not answered.
ANSWERING = "the application returned without an answer"


def _sync(work: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function; what it is to do must not wait."""

    def application(*arguments: Any) -> None:
        step = work(*arguments)
        with pytest.raises(StopIteration):
            step.send(None)

    return application


def _coroutine(work: Callable[..., Any]) -> Callable[..., Any]:
    return work


def _run_async(work: Callable[..., Any]) -> Callable[..., Any]:
    def application(*arguments: Any) -> None:
        arguments[-1].run_async(work, *arguments)

    return application


#: How a coroutine function becomes an application of each style.
STYLES: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "sync": _sync,
    "async": _coroutine,
    "run_async": _run_async,
}

#: For tests that hold in every style.
each_style = pytest.mark.parametrize("style", list(STYLES))


def interface(app: Any, **options: Any) -> SsgiInterface:
    """The interface of an application that is called ``site:app``."""
    settings = {key: value for key, value in options.items() if key != "body_limit"}
    config = ServerConfig(**{"access_log": False, **settings})
    limit = options.get("body_limit")
    return SsgiInterface(app, config, name="site:app", max_body_size=limit)


@asynccontextmanager
async def served(app: Any, peer: str = "http1", **options: Any) -> AsyncIterator[Any]:
    """Serve an application, and yield a client of it."""
    kind = PEERS[peer]
    settings = {key: value for key, value in options.items() if key != "body_limit"}
    async with MemoryServer(interface(app, **options), kind.protocol_class, **settings) as server:
        client = kind(server)
        client.server = server
        yield client


async def answered(app: Any, peer: str = "http1", *request: Any, **options: Any) -> Any:
    """Return what an application answers to a request."""
    async with served(app, peer) as client:
        client.request(*request, **options)
        return await client.response()


def on_http(work: Callable[..., Any]) -> Callable[..., Any]:
    """An application of a function that takes ``res`` alone."""

    @functools.wraps(work)
    def application(*arguments: Any) -> Any:
        return work(arguments[-1])

    return application


def in_style(style: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """An application of a style, of a coroutine function that takes ``res`` alone."""
    return STYLES[style](on_http(work))
