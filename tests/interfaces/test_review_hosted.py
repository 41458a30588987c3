"""What the review of hosted applications found."""

from __future__ import annotations

from typing import Any

import pytest

from kyoukai import Kyoukai, ServerConfig
from kyoukai.interfaces.build import interface_for
from kyoukai.mount import Mount
from kyoukai.testing import Client

CONFIG = ServerConfig(access_log=False)


@pytest.mark.parametrize("path", ["/a", "/a/", "/%61"])
async def test_a_mount_without_a_root_path_has_a_path(path: str) -> None:
    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        told = f"{scope['root_path']!r} {scope['path']} {scope['raw_path'].decode()}"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": told.encode()})

    mounts = [Mount("/a", asgi, "asgi", root_path="", lifespan="off")]
    async with Client(interface_for(Kyoukai("base"), CONFIG, mounts=mounts)) as client:
        assert (await client.get(path)).text == "'' / /"
