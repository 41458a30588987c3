"""What the tests of ASGI share: applications behind each wire, and messages."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from backends.test_contract import PEERS

from kyoukai.config import ServerConfig
from kyoukai.interfaces.asgi import AsgiInterface
from kyoukai.testing import MemoryServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

#: For tests that hold on all wires; they take ``wire``. A client on HTTP/2 leaves in two ways.
wires = pytest.mark.parametrize("wire", PEERS)

TEXT = (b"content-type", b"text/plain")


def start(status: Any = 200, *headers: Any, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(data: Any = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def interface(app: Any, **settings: Any) -> AsgiInterface:
    options = {"access_log": False, "lifespan": "off", **settings}
    return AsgiInterface(app, ServerConfig(**options), name="test:app")


@asynccontextmanager
async def hosted(app: Any, wire: str = "http1", **settings: Any) -> AsyncIterator[Any]:
    """Serve an ASGI application; yields a client on that wire, whose server is ``server``."""
    made = app if isinstance(app, AsgiInterface) else interface(app, **settings)
    peer_class = PEERS[wire]
    settings.pop("lifespan", None)
    async with MemoryServer(made, peer_class.protocol_class, **settings) as server:
        peer = peer_class(server)
        peer.server = server
        yield peer


@pytest.fixture(autouse=True)
def sound(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let what applications assert fail their test; the server would only log it."""
    yield
    for record in caplog.get_records("call"):
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, AssertionError | pytest.fail.Exception):
            raise error


async def ask(app: Any, wire: str = "http1", **request: Any) -> Any:
    """Send one request, and return its answer."""
    async with hosted(app, wire) as peer:
        peer.request(**request)
        return await peer.response()


def sends(*messages: Any) -> Any:
    """Return an application that sends these messages."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return application
