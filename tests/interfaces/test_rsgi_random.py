"""RSGI applications made up by dice, on each wire: none of them leaves its client waiting."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from interfaces.rsgi_peers import hosted, interface, wires
from talks import both, lines_of

from kyoukai.exceptions import PeerGone, WebSocketDisconnected
from kyoukai.interfaces.rsgi import RSGIProtocolClosed, RSGIProtocolError
from kyoukai.testing import Client, WebSocketDenied

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = range(6)

SIZES = (0, 1, 1000, 70_000, 300_000)


def payload(dice: random.Random) -> bytes:
    return dice.randbytes(dice.choice(SIZES))


class Script:
    """What a well-behaved application is to do, and what its client must get."""

    def __init__(self, dice: random.Random, folder: Path) -> None:
        self.dice = dice
        self.kind = dice.choice(("empty", "str", "bytes", "file", "range", "stream", "echo"))
        self.status = dice.choice((200, 201, 206, 404, 503))
        self.headers = [(f"x-{number}", str(dice.random())) for number in range(dice.randrange(4))]
        self.parts = [payload(dice) for _ in range(dice.randrange(1, 5))]
        if self.kind == "str":
            self.parts = [part.hex().encode() for part in self.parts[:1]]
        self.body = b"".join(self.parts)
        if dice.random() < 0.3 and self.kind not in ("empty", "range", "echo"):
            self.headers.append(("Content-Length", str(len(self.body))))
        self.reads = dice.choice(("not", "whole", "pieces"))
        self.sent = payload(dice) if dice.random() < 0.5 or self.kind == "echo" else b""
        self.file = folder / f"{dice.random()}"
        self.file.write_bytes(self.body)
        self.goes_on = dice.random() < 0.3
        if self.kind == "range":
            self.start = dice.randrange(max(len(self.body), 1))
            self.end = dice.randrange(self.start + 1, len(self.body) + 1000)
            self.body = self.body[self.start : self.end]
            if not self.body:
                self.kind = "empty"
        if self.kind == "empty":
            self.body = b""
        elif self.kind == "echo":
            self.reads = "not"
            self.body = self.sent
        self.done = asyncio.Event()

    async def __call__(self, scope: Any, proto: Any) -> None:
        pairs = self.headers
        if self.reads == "whole":
            assert await proto() == self.sent
        elif self.reads == "pieces":
            assert b"".join([piece async for piece in proto]) == self.sent
        if self.kind == "empty":
            proto.response_empty(self.status, pairs)
        elif self.kind == "str":
            proto.response_str(self.status, pairs, self.body.decode())
        elif self.kind == "bytes":
            proto.response_bytes(self.status, pairs, self.body)
        elif self.kind == "file":
            proto.response_file(self.status, pairs, str(self.file))
        elif self.kind == "range":
            proto.response_file_range(self.status, pairs, str(self.file), self.start, self.end)
        else:
            await self.stream(proto)
        if self.goes_on:
            await turns(self.dice.randrange(20))
        self.done.set()

    async def stream(self, proto: Any) -> None:
        transport = proto.response_stream(self.status, self.headers)
        if self.kind == "echo":
            async for piece in proto:
                await transport.send_bytes(piece)
            return
        for part in self.parts:
            await transport.send_bytes(part)
            if self.dice.random() < 0.3:
                await turns(self.dice.randrange(5))


@pytest.mark.parametrize("seed", SEEDS)
@wires
async def test_whatever_is_sent_arrives(wire: str, seed: int, tmp_path: Path, caplog: Any) -> None:
    dice = random.Random(f"{wire} {seed}")
    for _ in range(4):
        script = Script(dice, tmp_path)
        async with asyncio.timeout(20), hosted(script, wire) as peer:
            if dice.random() < 0.4:
                peer.hold()
            peer.request("POST", "/", body=script.sent)
            await turns(dice.randrange(40))
            peer.release()
            answer = await peer.response()
            assert answer.status == script.status
            assert answer.body == script.body, script.kind
            for name, value in script.headers:
                assert answer.headers[name] == value
            await script.done.wait()
    assert not lines_of(caplog)


@pytest.mark.parametrize("seed", SEEDS)
@wires
async def test_whoever_leaves_is_no_fault(
    wire: str, seed: int, tmp_path: Path, caplog: Any
) -> None:
    """The application runs to its end, or hears of it; nothing is left of either."""
    dice = random.Random(f"{wire} {seed} leaves")
    for _ in range(4):
        script = Script(dice, tmp_path)
        async with asyncio.timeout(20), hosted(script, wire) as peer:
            if dice.random() < 0.5:
                peer.hold()
            peer.begin()
            peer.data(script.sent or b"x")
            await turns(dice.randrange(40))
            peer.leave()
            # One that has not begun is cancelled.
            await asyncio.gather(*peer.server.connections.tasks, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not lines_of(caplog)


# -- Nonsense ----------------------------------------------------------------------------------

PAIRS: tuple[Any, ...] = (
    [],
    [("a", "b")],
    None,
    [("a", "b\r\n")],
    [("content-length", "3")],
    [("content-length", "x")],
    {"ab": "cd"},
    [("connection", "close")],
    [("transfer-encoding", "chunked")],
)
STATUSES: tuple[Any, ...] = (200, 200, 204, 304, 404, 500, 100, 99, 1000, "200", None, -1)
BODIES: tuple[Any, ...] = (b"abc", "abc", b"", "", None, 5, b"x" * 100_000)


async def nonsense(dice: random.Random, proto: Any) -> None:
    """Do something with a protocol that may be right, wrong, or too late."""
    pairs, status, body = dice.choice(PAIRS), dice.choice(STATUSES), dice.choice(BODIES)
    step = dice.randrange(12)
    if step == 0:
        proto.response_empty(status, pairs)
    elif step == 1:
        proto.response_str(status, pairs, body)
    elif step == 2:
        proto.response_bytes(status, pairs, body)
    elif step in (3, 4):
        transport = proto.response_stream(status, pairs)
        for _ in range(dice.randrange(4)):
            data = dice.choice(BODIES)
            await (transport.send_str if dice.random() < 0.5 else transport.send_bytes)(data)
    elif step == 5:
        proto.response_file(status, pairs, dice.choice((__file__, "/missing", "/", 5, "")))
    elif step == 6:
        start, end = dice.choice(((0, 5), (5, 0), (10**9, 10**9 + 1), (None, "x"), (-1, 1)))
        proto.response_file_range(status, pairs, __file__, start, end)
    elif step == 7:
        await proto()
    elif step == 8:
        async for _ in proto:
            pass
    elif step == 9:
        await turns(dice.randrange(5))
    elif step == 10:
        proto.run_away()
    else:
        task = asyncio.ensure_future(proto.client_disconnect())
        await asyncio.sleep(0)
        task.cancel()


@pytest.mark.parametrize("seed", range(10))
@wires
async def test_nonsense(wire: str, seed: int, caplog: Any) -> None:
    """Every client gets an answer or an end, and every line of the log says whose fault it is."""
    dice = random.Random(f"{wire} {seed} nonsense")

    async def app(scope: Any, proto: Any) -> None:
        for _ in range(dice.randrange(5)):
            try:
                await nonsense(dice, proto)
            except (RSGIProtocolError, RSGIProtocolClosed):
                if dice.random() < 0.5:
                    raise

    for _ in range(8):
        async with asyncio.timeout(20), hosted(app, wire) as peer:
            method = dice.choice(("GET", "POST", "HEAD"))
            peer.request(method, "/", body=b"abc" if method == "POST" else None)
            try:
                answer = await peer.response()
            except (ConnectionError, AssertionError):
                pass  # cut, as half an answer must be
            else:
                assert 200 <= answer.status <= 599
        assert asyncio.all_tasks() == {asyncio.current_task()}
    for line in lines_of(caplog):
        assert line.partition(" /: ")[2].startswith("rsgi application test:app: "), line


@pytest.mark.parametrize("seed", range(10))
@both
async def test_nonsense_in_websockets(http2: bool, seed: int, caplog: Any) -> None:
    dice = random.Random(f"{http2} {seed} nonsense")
    messages: tuple[Any, ...] = (b"abc", "abc", b"", None, 5, b"x" * 100_000)

    async def app(scope: Any, proto: Any) -> None:
        transport: Any = None
        for _ in range(dice.randrange(6)):
            step = dice.randrange(7)
            try:
                if step <= 1:
                    transport = await proto.accept()
                elif step == 2:
                    proto.close(dice.choice((None, 403, 200, 1000, 4000, "x", -1)))
                elif step == 3:
                    await transport.send_str(dice.choice(messages))
                elif step == 4:
                    await transport.send_bytes(dice.choice(messages))
                elif step == 5:
                    await turns(dice.randrange(5))
                else:
                    await transport.receive()
            except (RSGIProtocolError, RSGIProtocolClosed):
                if dice.random() < 0.5:
                    raise

    for _ in range(6):
        async with asyncio.timeout(20), Client(interface(app)) as client:
            denied = 403
            try:
                async with client.websocket("/", http2=http2) as ws:
                    for _ in range(dice.randrange(4)):
                        await ws.send_text("text")
                    if dice.random() < 0.3:
                        ws.abort()
                    elif dice.random() < 0.5:
                        await ws.close()
            except WebSocketDenied as error:
                denied = error.response.status
            except (WebSocketDisconnected, PeerGone):
                pass
            assert denied in (403, 500)
    for line in lines_of(caplog):
        assert line.partition(" /: ")[2].startswith("rsgi application test:app: "), line
