"""The chat example: what it says to pages, and to those who send it anything else."""

from __future__ import annotations

import re
import ssl
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from blocking_sockets import connect
from example_programs import EXAMPLES, RUNNERS, config_with_free_ports, load_app, started
from websockets.exceptions import ConnectionClosed

from kyoukai import WebSocketDisconnected, WebSocketPayloadType
from kyoukai.server.tls import write_certificate
from kyoukai.testing import Client

if TYPE_CHECKING:
    from types import ModuleType

    from kyoukai.testing import ClientWebSocket


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's module."""
    load_app(monkeypatch, "chat")
    return sys.modules["app"]


async def events(ws: ClientWebSocket, *types: str) -> list[dict[str, Any]]:
    """Receive as many events as types are given, which have to be theirs."""
    received = [await ws.receive_media() for _ in types]
    assert [each["type"] for each in received] == [*types]
    return received


async def refused(client: Client, target: str) -> tuple[int | None, str | None]:
    """Return code and reason of the close that comes instead of a welcome."""
    async with client.websocket(target) as ws:
        with pytest.raises(WebSocketDisconnected):
            await ws.receive()
        return ws.close_code, ws.close_reason


def said(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(each["name"], each["text"]) for each in messages]


async def test_page_is_whole_by_itself(chat):
    async with Client(chat.app) as client:
        page = await client.get("/")
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert not re.search(r"https?://|\b(src|href)=.(?!data:)|@import|innerHTML", page.text)
        assert len(page.text.splitlines()) < 200


@pytest.mark.parametrize("http2", [False, True])
async def test_two_people_talk(chat, http2):
    async with Client(chat.app) as client:
        assert (await client.get("/rooms/kitchen")).status == 404
        async with client.websocket("/rooms/kitchen?name=Ada", http2=http2) as ada:
            welcome, join = await events(ada, "welcome", "join")
            assert (welcome["names"], welcome["messages"]) == (["Ada"], [])
            assert join == {"type": "join", "name": "Ada", "names": ["Ada"]}
            async with client.websocket("/rooms/kitchen?name=+Bob++B.", http2=http2) as bob:
                await events(bob, "welcome", "join")
                (join,) = await events(ada, "join")
                assert (join["name"], join["names"]) == ("Bob B.", ["Ada", "Bob B."])
                await bob.send_media({"text": " <b>Hello</b>\n"})
                # MessagePack is as good.
                await bob.send_media({"text": "Häh?"}, WebSocketPayloadType.BINARY)
                for ws in (ada, bob):
                    messages = await events(ws, "message", "message")
                    assert said(messages) == [("Bob B.", "<b>Hello</b>"), ("Bob B.", "Häh?")]
            (leave,) = await events(ada, "leave")
            assert leave == {"type": "leave", "name": "Bob B.", "names": ["Ada"]}
            room = (await client.get("/rooms/kitchen")).json()
            assert room["names"] == ["Ada"]
            assert said(room["messages"]) == [("Bob B.", "<b>Hello</b>"), ("Bob B.", "Häh?")]


async def test_rooms_hear_nothing_of_each_other(chat):
    async with (
        Client(chat.app) as client,
        client.websocket("/rooms/kitchen?name=Ada") as ada,
        client.websocket("/rooms/the%20garden?name=Ada") as dee,
    ):
        await events(ada, "welcome", "join")
        await events(dee, "welcome", "join")
        await ada.send_media({"text": "one"})
        await events(ada, "message")
        await dee.send_media({"text": "two"})
        (message,) = await events(dee, "message")
        assert message["text"] == "two"


async def test_history_has_the_last_messages(chat, monkeypatch):
    monkeypatch.setattr(chat, "HISTORY", 3)
    async with (
        Client(chat.app) as client,
        client.websocket("/rooms/kitchen?name=Ada") as ada,
    ):
        await events(ada, "welcome", "join")
        for number in range(5):
            await ada.send_media({"text": str(number)})
        await events(ada, *["message"] * 5)
        async with client.websocket("/rooms/kitchen?name=Bob") as bob:
            (welcome,) = await events(bob, "welcome")
            assert [each["text"] for each in welcome["messages"]] == ["2", "3", "4"]


async def test_what_is_no_message_is_answered_with_an_error(chat):
    async with (
        Client(chat.app) as client,
        client.websocket("/rooms/kitchen?name=Ada") as ada,
    ):
        await events(ada, "welcome", "join")
        for text in ("{", "[]", '"text"', "{}", '{"text": 1}', '{"text": " "}'):
            await ada.send_text(text)
            (error,) = await events(ada, "error")
            assert error["text"]
        await ada.send_data(b"\xc1")
        await events(ada, "error")
        await ada.send_media({"text": "x" * 501})
        (error,) = await events(ada, "error")
        assert error["text"] == "A message has 1 to 500 characters."
        await ada.send_media({"text": "x" * 500})
        await events(ada, "message")


async def test_who_may_not_come_in(chat, monkeypatch):
    monkeypatch.setattr(chat, "MAX_PEOPLE", 2)
    no_name = (4400, "A name has 1 to 20 characters.")
    async with (
        Client(chat.app) as client,
        client.websocket("/rooms/kitchen?name=Ada") as ada,
    ):
        await events(ada, "welcome", "join")
        for query in ("", "?name=", "?name=%20", f"?name={'x' * 21}", "?name=a%00b"):
            assert await refused(client, f"/rooms/kitchen{query}") == no_name
        taken = (4409, "Somebody here has that name.")
        assert await refused(client, "/rooms/kitchen?name=aDA") == taken
        async with client.websocket("/rooms/kitchen?name=Bob") as bob:
            await events(bob, "welcome", "join")
            assert await refused(client, "/rooms/kitchen?name=Cy") == (4503, "There is no room.")
        # Nobody has noticed those who were refused.
        assert [each["name"] for each in await events(ada, "join", "leave")] == ["Bob", "Bob"]
        # Whose socket is lost has left, and the name is free again.
        async with client.websocket("/rooms/kitchen?name=Bob") as bob:
            await events(bob, "welcome", "join")
            await events(ada, "join")
            bob.abort()
            await events(ada, "leave")
        assert (await client.get("/rooms/kitchen")).json()["names"] == ["Ada"]


async def test_an_empty_room_makes_way(chat, monkeypatch):
    monkeypatch.setattr(chat, "MAX_ROOMS", 2)
    async with Client(chat.app) as client, AsyncExitStack() as kitchen:
        ada = await kitchen.enter_async_context(client.websocket("/rooms/kitchen?name=Ada"))
        await events(ada, "welcome", "join")
        async with client.websocket("/rooms/garden?name=Bob") as bob:
            await events(bob, "welcome", "join")
            no_room = (4503, "There is no room.")
            assert await refused(client, "/rooms/cellar?name=Cy") == no_room
            await kitchen.aclose()
            async with client.websocket("/rooms/cellar?name=Cy") as cy:
                await events(cy, "welcome", "join")
                assert (await client.get("/rooms/kitchen")).status == 404
                assert (await client.get("/rooms/garden")).json()["names"] == ["Bob"]


async def test_who_is_too_slow_comes_back_and_misses_nothing(chat):
    async with (
        Client(chat.app, ws_write_limit=1024) as client,
        client.websocket("/rooms/kitchen?name=Ada") as ada,
    ):
        await events(ada, "welcome", "join")
        async with client.websocket("/rooms/kitchen?name=Bob") as bob:
            await events(bob, "welcome", "join")
            await events(ada, "join")
            bob.pause()
            sent = 0
            # Transports and queues take many; at some time it is too much for them.
            while (await client.get("/rooms/kitchen")).json()["names"] == ["Ada", "Bob"]:
                sent += 1
                await ada.send_media({"text": f"{sent:x<500}"})
                await ada.receive()
            bob.resume()
            await bob.wait_closed()
            assert bob.close_code == 1013
        async with client.websocket("/rooms/kitchen?name=Bob") as bob:
            (welcome,) = await events(bob, "welcome")
            assert welcome["messages"][-1]["text"] == f"{sent:x<500}"


@pytest.mark.parametrize("runner", RUNNERS)
def test_both_addresses(runner, tmp_path):
    """People on both addresses are in the same rooms; when the server stops, they are told."""
    write_certificate(tmp_path / "certs")
    config = config_with_free_ports("chat", tmp_path, 8000, 8443)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "certs" / "localhost.pem"))
    with started(
        *RUNNERS[runner],
        config,
        folder=tmp_path,
        addresses=2,
        PYTHONPATH=str(EXAMPLES / "chat"),
    ) as program:
        plain = f"ws://127.0.0.1:{program.port}/rooms/kitchen?name=Ada"
        secure = f"wss://localhost:{program.tls_port}/rooms/kitchen?name=Bob"
        with connect(plain) as ada, connect(secure, ssl=trusting) as bob:
            assert '"welcome"' in bob.recv(timeout=30)
            bob.send('{"text": "Hello, Ada!"}')
            received = ""
            while "Hello, Ada!" not in received:
                received = ada.recv(timeout=30)
            with pytest.raises(ConnectionClosed):
                while True:
                    # What is beyond the limit of config.yaml.
                    ada.send("x" * 8193)
                    ada.recv(timeout=30)
            assert ada.close_code == 1009
            said = program.stop()
            with pytest.raises(ConnectionClosed):
                while True:
                    bob.recv(timeout=30)
            assert bob.close_code == 1001
    assert "'Ada' comes to 'kitchen' by HTTP/1.1" in said
    assert "'Ada' left 'kitchen' with code 1009" in said
