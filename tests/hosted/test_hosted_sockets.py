"""WebSockets of frameworks over HTTP/2, and over HTTP/1.1 with the same assertions, in memory."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hosted_site import SITES

from kyoukai import Kyoukai, WebSocketDisconnected
from kyoukai.testing import Client, WebSocketDenied

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import a site's application, and mount it."""
    monkeypatch.syspath_prepend(str(SITES))

    def load(name: str) -> Client:
        app = Kyoukai("around")
        app.mount("/below", importlib.import_module(name).app)
        return Client(app, access_log=False)

    return load


@pytest.mark.parametrize("site", ["starlette_site", "quart_site"])
async def test_messages_and_close(load, http2, site):
    async with load(site) as client, client.websocket("/below/socket", http2=http2) as ws:
        assert ws.response_headers["x-socket"] == "yes"
        await ws.send_text("häh")
        assert await ws.receive_text() == "HÄH"
        await ws.send_data(b"\x01\x02\x03" * 30_000)
        assert await ws.receive_data() == b"\x03\x02\x01" * 30_000
        await ws.send_text("close")
        with pytest.raises(WebSocketDisconnected):
            await ws.receive()
        assert (ws.close_code, ws.close_reason) == (4001, "as you wish")


async def test_subprotocols_and_dependencies(load, http2):
    async with (
        load("fastapi_site") as client,
        client.websocket("/below/socket/kitchen", http2=http2, subprotocols=["one", "two"]) as ws,
    ):
        assert ws.subprotocol == "one"
        welcome = json.loads(await ws.receive_text())
        assert (welcome["room"], welcome["prices"]) == ("kitchen", {"apple": 1.5})
        await ws.send_text('["x"]')
        assert json.loads(await ws.receive_text()) == {"echo": ["x"]}


@pytest.mark.parametrize(
    "site, path, status",
    [
        ("starlette_site", "denied", 403),
        ("fastapi_site", "refused", 401),
        ("quart_site", "refused", 403),
        ("quart_site", "no/such", 404),
        ("flask_site", "socket", 404),
    ],
)
async def test_refusals(load, http2, site, path, status):
    async with load(site) as client:
        with pytest.raises(WebSocketDenied, match=f": {status} "):
            async with client.websocket(f"/below/{path}", http2=http2):
                pass
