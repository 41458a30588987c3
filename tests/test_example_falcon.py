"""The example in Falcon's style: both protocols, every mode, and what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from example_programs import EXAMPLES, load_app, started
from talks import both, turns

from kyoukai.testing import Client, WebSocketDenied

if TYPE_CHECKING:
    from types import ModuleType

    from kyoukai.testing import ClientWebSocket

RIGHT: dict[str, Any] = {"headers": {"Some-Header": "some value"}, "subprotocols": ["wamp"]}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's module."""
    load_app(monkeypatch, "falcon_style")
    return sys.modules["app"]


async def test_requests_beside_sockets(example: ModuleType) -> None:
    async with Client(example.app) as client:
        assert (await client.get("/ada/messages")).json() == {"messages": [], "of": 0}
        for number in range(1, 13):
            added = await client.post("/ada/messages", json={"text": f"no. {number}"})
            assert (added.status, added.json()) == (201, {"number": number})
        page = (await client.get("/ada/messages?start=10")).json()
        assert page == {"messages": ["no. 11", "no. 12"], "of": 12}
        assert (await client.get("/grace/messages")).json()["of"] == 0
        assert (await client.get("/nobody/messages")).status == 404
        refused = await client.put("/ada/messages")
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")


@both
@pytest.mark.parametrize(
    "target, options, status",
    [
        ("/ada/messages?mode=other", RIGHT, 400),
        ("/ada/messages", {"subprotocols": ["wamp"]}, 403),
        ("/ada/messages", {"headers": RIGHT["headers"], "subprotocols": ["soap"]}, 403),
        ("/nobody/messages", RIGHT, 404),
        ("/no/such/path", RIGHT, 404),
    ],
)
async def test_denied(
    http2: bool, target: str, options: dict[str, Any], status: int, example: ModuleType
) -> None:
    async with Client(example.app) as client:
        with pytest.raises(WebSocketDenied) as caught:
            async with client.websocket(target, http2=http2, **options):
                raise RuntimeError
    assert caught.value.response.status == status
    (bound,) = example.app.root.middlewares
    assert bound.middleware.handshakes == 1


@both
async def test_the_feed(http2: bool, example: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "falcon_style")
    async with Client(example.app) as client:
        async with client.websocket("/ada/messages?mode=feed", http2=http2, **RIGHT) as ws:
            assert ws.subprotocol == "wamp"
            await turns()
            await client.post("/ada/messages", json={"text": "über"})
            assert await ws.receive() == "über"
            assert await ws.receive() == "über".encode()
            assert await ws.receive() == '{"number":1,"price":null,"text":"über"}'
            ws.abort()
        await client.post("/ada/messages", json={"text": "too late"})
        await turns()
    lines = [record.getMessage() for record in caplog.records if record.name == "falcon_style"]
    assert lines == [
        "the feed has ended: 1006",
        "/ada/messages: the client has left (1006)",
    ]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@both
async def test_requests(http2: bool, example: ModuleType) -> None:
    async with (
        Client(example.app) as client,
        client.websocket("/ada/messages?mode=requests", http2=http2, **RIGHT) as ws,
    ):

        async def ask(*messages: str | bytes) -> Any:
            for message in messages:
                await (ws.send_text if isinstance(message, str) else ws.send_data)(message)
            answer = await ws.receive()
            if isinstance(answer, bytes):
                return msgspec.msgpack.decode(answer)
            return msgspec.json.decode(answer)

        receipt = await ask("apples", b"12345", '{"price": 0.10}')
        assert receipt == {"number": 1, "size": 5}
        assert await ask("pears", b"", "{}") == {"number": 2, "size": 0}
        assert await ask(b"no text") == {"error": "the message is binary, not text"}
        assert await ask("x", "no bytes") == {"error": "the message is text, not binary"}
        assert await ask("x", b"", "no JSON") == {"error": "unreadable text"}
        assert await ask("x", b"", b"no receipt") == {"error": "unreadable binary"}
        await ws.send_text("done")
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (1000, "you are done")
    (bound,) = example.app.root.middlewares
    prices = [str(message.price) for message in bound.middleware.accounts["ada"].messages]
    assert prices == ["0.10", "None"]  # exact


@both
async def test_both_sides_talk(http2: bool, example: ModuleType) -> None:
    """Two tasks: what one client says, all hear, in whatever order they talk."""
    async with Client(example.app) as client:
        async with (
            client.websocket("/ada/messages", http2=http2, **RIGHT) as one,
            client.websocket("/ada/messages", http2=not http2, **RIGHT) as two,
        ):
            await turns()

            async def say(ws: ClientWebSocket, name: str) -> None:
                for number in range(20):
                    await ws.send_text(f"{name}{number}")

            async def hear(ws: ClientWebSocket) -> list[Any]:
                return [await ws.receive() for _ in range(40)]

            *_, first, second = await asyncio.gather(
                say(one, "a"), say(two, "b"), hear(one), hear(two)
            )
            assert first == second
            assert [each for each in first if each[0] == "a"] == [f"a{n}" for n in range(20)]
        assert (one.close_code, two.close_code) == (1000, 1000)
        assert (await client.get("/ada/messages")).json()["of"] == 40


def test_the_readme() -> None:
    """The program as it says, with its client."""
    text = (EXAMPLES / "falcon_style" / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    folder = EXAMPLES / "falcon_style"
    with started("kyoukai", "run", "app:app", "--bind", "127.0.0.1:0", folder=folder) as program:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(code.replace("127.0.0.1:8000", f"127.0.0.1:{program.port}"), {})
        assert output.getvalue() == "{'number': 1, 'size': 13}\n"
        status, body = program.get("/ada/messages")
        assert (status, body) == (200, b'{"messages":["hello"],"of":1}')
        program.stop()
