"""
Random conversations through a proxy: clients, server and application do what they like.

Whatever happens, a client gets its own answer as a whole, an error of ours, or a clear cut; and at
the end nothing is left: no connection that is counted, no task, no line about a fault.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from fronts import both, front
from upstreams import ScriptedUpstream, Seen, Wire

from kyoukai import Kyoukai, Middleware, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 60


@pytest.fixture(autouse=True)
def nothing_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    wrong = [r for r in caplog.get_records("call") if r.name == "asyncio" or r.exc_info]
    assert [r.getMessage() for r in wrong] == []


class Idler(Middleware):
    """Takes its time, in both directions."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    async def process_request(self, ctx: Any) -> None:
        await turns(self.dice.randrange(3))
        if ctx.request.method == "POST" and self.dice.random() < 0.3:
            await ctx.request.read_async()

    async def process_response(self, ctx: Any, response: Any) -> None:
        await turns(self.dice.randrange(3))


def body_of(number: int, size: int) -> bytes:
    return (b"%06d." % number) * (size // 7 + 1)


class Server:
    """Answers with the number of the request, in some way or other, or not at all."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    async def __call__(self, seen: Seen, wire: Wire) -> bytes | None:
        dice = self.dice
        number = int(seen.target.rpartition("/")[2])
        body = body_of(number, dice.choice((0, 10, 3000, 150_000)))
        what = dice.random()
        if what < 0.05:
            raise ConnectionResetError
        if what < 0.1:
            await wire.send(
                dice.choice((b"junk\r\n", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\na b: c\r\n\r\n"))
            )
            raise ConnectionResetError
        if what < 0.2:
            await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if what < 0.8:
            while await wire.body():
                await turns(dice.randrange(2))
        else:
            await wire.body()
        framing = dice.choice(("length", "chunked", "eof"))
        close = b"Connection: close\r\n" if dice.random() < 0.2 or not seen.complete else b""
        head = b"HTTP/1.1 200 OK\r\nX-Number: %d\r\nX-Size: %d\r\n%b" % (number, len(body), close)
        if framing == "length":
            await wire.send(head + b"Content-Length: %d\r\n\r\n" % len(body))
        elif framing == "chunked":
            await wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
        else:
            await wire.send(head + b"Connection: close\r\n\r\n")
        cut = dice.random() < 0.1
        for start in range(0, len(body), 20_000):
            data = body[start : start + 20_000]
            await wire.send(b"%x\r\n%b\r\n" % (len(data), data) if framing == "chunked" else data)
            await turns(dice.randrange(2))
            if cut and framing != "eof":  # whose end cannot be told from a cut on a unix socket
                raise ConnectionResetError
        if framing == "chunked":
            await wire.send(b"0\r\n\r\n")
        if close or framing == "eof":
            raise ConnectionResetError
        return None


async def client(fr: Any, number: int, dice: random.Random) -> None:
    await turns(dice.randrange(40))
    talk = fr.talk()
    method = dice.choice(("GET", "GET", "POST", "PUT"))
    if method == "GET" or dice.random() < 0.3:
        talk.ask(method, f"/{number}", body=None if method == "GET" else b"x" * 500)
    else:
        expects = [("expect", "100-continue")] if dice.random() < 0.2 else []
        talk.begin(method, f"/{number}", expects)
        for _ in range(dice.randrange(4)):
            talk.send(b"y" * dice.choice((1, 1000, 60_000)))
            await turns(dice.randrange(4))
        talk.end()
    if dice.random() < 0.2:
        await turns(dice.randrange(30))
        talk.leave()
        return
    if dice.random() < 0.2:
        talk.hold()
        await turns(dice.randrange(30))
        talk.release()
    await talk.answer()
    if talk.status == 200 and talk.done and not talk.cut:
        assert talk.headers["x-number"] == str(number)
        assert talk.body.replace(b"%06d." % number, b"") == b""
        assert len(talk.body) == int(talk.headers["x-size"])
    else:
        assert talk.cut or talk.status in (502, 503, 504), talk.status


@both
@pytest.mark.parametrize("way", ["bare", "app"])
@pytest.mark.parametrize("seed", range(3))
async def test_random_conversations(
    wire: Any, way: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "kyoukai.proxy")
    dice = random.Random(seed)
    async with ScriptedUpstream(Server(dice).__call__) as up:
        proxy = Proxy(
            up.url, max_connections=4, buffer_size=10_000, pool_size=dice.choice((0, 2, 9))
        )
        app: Any = proxy
        if way == "app":
            app = Kyoukai("front", middleware=Idler(dice))
            app.mount("/", proxy)
        async with front(app, wire) as fr:
            async with asyncio.timeout(30):
                await asyncio.gather(*(client(fr, number, dice) for number in range(ROUNDS)))
            await fr.rest()
            assert fr.upstream.open <= 4
        assert up.wrong == []


# -- Tunnels -----------------------------------------------------------------------------------


class Far:
    """The server's end of a tunnel: it sends, reads and ends as it likes."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.sent = b""
        self.heard = b""
        #: How it has ended, and whether the client's end came in good order.
        self.ending = ""
        self.heard_end = False
        self.over = asyncio.Event()

    async def __call__(self, seen: Seen, wire: Wire) -> None:
        dice = self.dice
        await wire.send(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: acme\r\n\r\n")
        reading = asyncio.create_task(self.read(wire))
        try:
            for _ in range(dice.randrange(12)):
                data = dice.randbytes(dice.choice((1, 100, 30_000)))
                self.sent += data
                await wire.send(data)
                await turns(dice.randrange(4))
            self.ending = dice.choice(("eof", "eof", "reset", "close"))
            if self.ending == "eof":
                wire.writer.write_eof()
                await reading
            elif self.ending == "reset":
                sock = wire.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            reading.cancel()
            self.over.set()
            if self.ending == "reset":
                wire.abort()
            raise ConnectionResetError

    async def read(self, wire: Wire) -> None:
        try:
            while data := await wire.read(self.dice.choice((100, 65536))):
                self.heard += data
                await turns(self.dice.randrange(3))
            self.heard_end = True
        except OSError:
            pass


async def tunnel(fr: Any, far: Far, dice: random.Random) -> None:
    talk = fr.talk()
    talk.upgrade("acme")
    sent = dice.randbytes(dice.choice((0, 5000)))
    talk.send(sent)
    await talk.until(lambda talk: talk.status or talk.cut)
    for _ in range(dice.randrange(12)):
        if dice.random() < 0.1:
            talk.hold()
            await turns(dice.randrange(10))
            talk.release()
        data = dice.randbytes(dice.choice((1, 100, 30_000)))
        sent += data
        talk.send(data)
        await turns(dice.randrange(4))
        if talk.cut:
            break
    left = dice.random() < 0.25
    if left:
        talk.leave()
    else:
        talk.end()
        await talk.until(lambda talk: talk.done or talk.cut)
        await far.over.wait()
        assert far.sent.startswith(talk.body)
        if talk.done and not talk.cut:
            assert talk.body == far.sent
            assert far.ending in ("eof", "close")
    await fr.rest()
    assert sent.startswith(far.heard)
    if far.heard_end:
        assert far.heard == sent or left
    if not left and far.ending == "eof":
        assert far.heard_end
        assert talk.done


@both
@pytest.mark.parametrize("seed", range(20))
async def test_random_tunnels(wire: Any, seed: int) -> None:
    dice = random.Random(seed)
    far = Far(dice)
    async with ScriptedUpstream(far.__call__, tcp=True) as up:
        proxy = Proxy(up.url, protocol_receive_buffer=dice.choice((2000, 65536)))
        async with front(proxy, wire, upgrade_tokens=["acme"]) as fr, asyncio.timeout(20):
            await tunnel(fr, far, dice)
            assert fr.upstream.open == 0
        assert up.wrong == []
