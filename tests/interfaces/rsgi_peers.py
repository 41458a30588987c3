"""What the tests of RSGI share: applications behind each wire, and answers to look at."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from backends.test_contract import PEERS

from kyoukai.config import ServerConfig
from kyoukai.interfaces.rsgi import RsgiInterface
from kyoukai.testing import MemoryServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: For tests that hold on all wires; they take ``wire``. A client on HTTP/2 leaves in two ways.
wires = pytest.mark.parametrize("wire", PEERS)

TEXT = ("content-type", "text/plain")


def interface(app: Any, *, max_body_size: int | None = None, **settings: Any) -> RsgiInterface:
    config = ServerConfig(**{"access_log": False, **settings})
    return RsgiInterface(app, config, name="test:app", max_body_size=max_body_size)


@asynccontextmanager
async def hosted(
    app: Any, wire: str = "http1", *, max_body_size: int | None = None, **settings: Any
) -> AsyncIterator[Any]:
    """Serve an RSGI application; yields a client on that wire, whose server is ``server``."""
    made = app
    if not isinstance(app, RsgiInterface):
        made = interface(app, max_body_size=max_body_size, **settings)
    peer_class = PEERS[wire]
    async with MemoryServer(made, peer_class.protocol_class, **settings) as server:
        peer = peer_class(server)
        peer.server = server
        yield peer


async def ask(app: Any, wire: str = "http1", **request: Any) -> Any:
    """Send one request, and return its answer."""
    async with hosted(app, wire) as peer:
        peer.request(**request)
        return await peer.response()
