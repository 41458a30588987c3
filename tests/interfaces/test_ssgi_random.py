"""SSGI applications made up by dice: what they send arrives, whatever client, style and wire."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from ssgi_peers import STYLES, each_peer, interface, on_http, served
from talks import both, lines_of

from kyoukai.testing import Client

if TYPE_CHECKING:
    from kyoukai.interfaces.ssgi import SSGIHttpResponse, SSGIWebSocket

SEEDS = range(5)


def payload(dice: random.Random, most: int) -> Any:
    size = dice.choice((0, 1, dice.randrange(100), dice.randrange(most)))
    data = dice.randbytes(size)
    return dice.choice((data, bytearray(data), memoryview(data), data.hex()))


def octets(data: Any) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)


class Script:
    """What an application is to do: a status, headers and the parts of a body."""

    def __init__(self, dice: random.Random, waits: bool) -> None:
        self.dice = dice
        self.status = dice.choice((None, 200, 201, 404, 599))
        self.headers = [(f"x-{number}", str(dice.random())) for number in range(dice.randrange(4))]
        self.parts = [payload(dice, 60000) for _ in range(dice.randrange(1, 12))]
        self.body = b"".join(octets(part) for part in self.parts)
        #: Whether it may wait for the client, the length is told, and how each part is sent.
        self.waits = waits
        self.total = dice.choice((None, len(self.body)))
        self.aborts = 0
        self.res: Any = None

    async def __call__(self, res: SSGIHttpResponse) -> None:
        self.res = res
        res.on_aborted(self.aborted)
        if self.status is not None:
            res.send_status(self.status)
        for pair in self.headers:
            res.send_headers([pair])
        if len(self.parts) == 1 and self.total is None:
            res.send(self.parts[0])
            return
        size = 0
        for part in self.parts:
            if self.waits and self.dice.random() < 0.2:
                await turns(self.dice.randrange(4))
            awaits = self.waits and self.dice.random() < 0.7
            if self.total is not None or self.dice.random() < 0.5:
                sent: Any = res.send_chunk(part, False if self.total is None else self.total)
            else:
                sent = res.send(part, True)
            if awaits:
                outcome = await sent
                if outcome == (False, True):
                    assert res.aborted
                    return
                if outcome == (True, True):
                    return
            size += len(octets(part))
            if size == self.total:
                return  # what is left are empty parts
        if self.total is None:
            res.send(None)

    def aborted(self, res: SSGIHttpResponse) -> None:
        assert res.aborted
        self.aborts += 1


@each_peer
@pytest.mark.parametrize("style", list(STYLES))
@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_is_sent_arrives(
    seed: int, style: str, peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    dice = random.Random(f"{seed} {style} {peer}")
    for _ in range(3):
        script = Script(dice, waits=style != "sync")
        async with served(STYLES[style](on_http(script)), peer) as client:
            if dice.random() < 0.5:
                client.hold()
            client.request()
            await turns(dice.randrange(30))
            client.release()
            answer = await client.response()
            assert answer.status == (script.status or 200)
            assert answer.body == script.body
            for name, value in script.headers:
                assert answer.headers[name] == value
            if script.total is not None:
                assert answer.headers["Content-Length"] == str(script.total)
            await turns()
            assert script.aborts == 0
    assert lines_of(caplog) == []


@each_peer
@pytest.mark.parametrize("style", list(STYLES))
@pytest.mark.parametrize("seed", SEEDS)
async def test_whoever_leaves_is_noticed_once(
    seed: int, style: str, peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    dice = random.Random(f"{seed} {style} {peer} leaves")
    for _ in range(3):
        script = Script(dice, waits=style != "sync")
        async with served(STYLES[style](on_http(script)), peer) as client:
            client.hold()
            client.request()
            await turns(dice.randrange(30))
            client.leave()
            await turns(60)
            if script.res is not None:  # else it has left before it was heard
                assert script.aborts == script.res.aborted
            current = asyncio.current_task()
            assert [task for task in asyncio.all_tasks() if task is not current] == []
    assert lines_of(caplog) == []


class Talk:
    """A conversation: what each side says, and who closes it."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.says = [payload(dice, 30000) for _ in range(dice.randrange(12))]
        self.hears: list[Any] = []
        self.closes = dice.random() < 0.5
        self.code = dice.choice((1000, 1001, 3000, 4999))
        self.ends: list[Any] = []
        self.late = dice.random() < 0.5

    async def __call__(self, ws: SSGIWebSocket) -> None:
        ws.on_close(self.closed, "argument")
        if not self.late:
            ws.on_receive(self.heard, ws)
        ws.accept()
        if self.late:
            ws.on_receive(self.heard, ws)
        for message in self.says:
            ws.send(message)

    def heard(self, ws: SSGIWebSocket, message: Any, same: SSGIWebSocket) -> Any:
        assert ws is same
        self.hears.append(message)
        if message == "close":
            ws.close(self.code)
        return turns(self.dice.randrange(3)) if self.dice.random() < 0.5 else None

    def closed(self, ws: SSGIWebSocket, code: int, reason: str | None, argument: str) -> None:
        assert ws.status == 2
        self.ends.append((code, reason, argument))


@both
@pytest.mark.parametrize("style", list(STYLES))
@pytest.mark.parametrize("seed", SEEDS)
async def test_conversations(
    seed: int, style: str, http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    dice = random.Random(f"{seed} {style} {http2}")
    talk = Talk(dice)
    says = [payload(dice, 30000) for _ in range(dice.randrange(12))]
    async with Client(interface(STYLES[style](on_http(talk)))) as client:
        deflate = dice.random() < 0.5
        async with client.websocket("/", http2=http2, deflate=deflate) as ws:
            for message in says:
                if dice.random() < 0.2:
                    ws.pause()
                await (ws.send_text if isinstance(message, str) else ws.send_data)(message)
                if dice.random() < 0.4:
                    ws.resume()
            ws.resume()
            for message in talk.says:
                got = await ws.receive()
                assert got == (message if isinstance(message, str) else bytes(message))
            if talk.closes:
                await ws.send_text("close")
                await ws.wait_closed()
                assert ws.close_code == talk.code
            else:
                await ws.close(talk.code, "why")
        await turns(60)
    heard = [message if isinstance(message, str) else bytes(message) for message in says]
    if talk.closes:
        heard.append("close")
    assert talk.hears == heard
    assert talk.ends == [(talk.code, None if talk.closes else "why", "argument")]
    assert lines_of(caplog) == []
