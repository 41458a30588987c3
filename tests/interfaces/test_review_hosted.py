"""What the review of hosted applications found."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from talks import lines_of

from kyoukai import Kyoukai, ServerConfig
from kyoukai.exceptions import TargetError
from kyoukai.interfaces.build import interface_for, make_interface
from kyoukai.mount import Mount
from kyoukai.testing import Client

CONFIG = ServerConfig(access_log=False, lifespan="off")


@pytest.mark.parametrize("path", ["/a", "/a/", "/%61"])
async def test_a_mount_without_a_root_path_has_a_path(path: str) -> None:
    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        told = f"{scope['root_path']!r} {scope['path']} {scope['raw_path'].decode()}"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": told.encode()})

    mounts = [Mount("/a", asgi, "asgi", root_path="", lifespan="off")]
    async with Client(interface_for(Kyoukai("base"), CONFIG, mounts=mounts)) as client:
        assert (await client.get(path)).text == "'' / /"


@pytest.mark.parametrize("kind", ["asgi", "rsgi", "ssgi", "wsgi"])
def test_what_cannot_be_called_is_refused_whatever_its_interface(kind: str) -> None:
    with pytest.raises(TargetError, match=r"^app: 'm:app' is of type builtins.int, which cannot"):
        make_interface(kind, 5, CONFIG, source="m:app")


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("kind", ["asgi", "rsgi", "asgi error"])
async def test_to_return_because_the_client_has_closed_is_no_fault(
    kind: str, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Each closed tab of a page with server-sent events comes by here."""
    waiting = asyncio.Event()

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if begun:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"event", "more_body": True})
        waiting.set()
        assert (await receive())["type"] == "http.disconnect"
        if kind == "asgi error":
            raise ValueError("the framework's own")

    async def rsgi(scope: Any, proto: Any) -> None:
        if begun:
            transport = proto.response_stream(200, [])
            await transport.send_bytes(b"event")
        waiting.set()
        await proto.client_disconnect()

    app = rsgi if kind == "rsgi" else asgi
    async with Client(make_interface(kind.split()[0], app, CONFIG)) as client:
        connection = client.connect()
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await waiting.wait()
        connection.transport.feed_eof()
        async with asyncio.timeout(10):
            await client.server.connections.wait_idle()
            await connection.closed()
    assert lines_of(caplog) == []
