"""
Many clients at once, a server that answers in every way, and a few that break off: whatever
happens, what a client gets is the answer to its own request, or visibly none.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from interfaces.proxy_peers import Front, both_ways, fronted

CLIENTS, REQUESTS = 8, 12

#: Ways of an answer, and those after which there may be none.
GOOD = ("plain", "plain", "plain", "chunks", "eof", "close", "hints", "more")
BAD = ("early", "short", "cut", "reset", "junk")


class Server:
    """
    Answers each request with its target and its body, in a way that the target asks for.

    :param chance: says how the bytes fall into pieces
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def answer(self, seen: Any, wire: Any) -> None:
        """Answer a request."""
        way = seen.target.rpartition("/")[2]
        if way == "early" and not seen.complete:  # the body is on its way
            await wire.send(self._whole(seen, b""))
            raise ConnectionResetError
        while await wire.body():
            pass
        data = self._answer(way, seen, seen.body)
        if way == "more":  # in one read: later, it would be the answer to the next request
            await wire.send(data)
        else:
            await self._send(wire, data)
        if way == "reset" and seen.method != "HEAD":
            wire.abort()
        if way == "close" or (way in ("eof", "short", "cut") and seen.method != "HEAD"):
            raise ConnectionResetError

    async def _send(self, wire: Any, data: bytes) -> None:
        """Send bytes in pieces."""
        while data:
            size = self._chance.choice((1, 7, 100, 100000))
            await wire.send(data[:size])
            await asyncio.sleep(0)
            data = data[size:]

    def _whole(self, seen: Any, body: bytes, more: bytes = b"") -> bytes:
        text = b"" if seen.method == "HEAD" else seen.target.encode() + b" " + body
        return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (more, len(text), text)

    def _answer(self, way: str, seen: Any, body: bytes) -> bytes:
        text = seen.target.encode() + b" " + body
        whole = self._whole(seen, body, b"Connection: close\r\n" if way == "close" else b"")
        if seen.method == "HEAD":
            return whole
        if way in ("chunks", "cut"):
            chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            for start in range(0, len(text), 50):
                piece = text[start : start + 50]
                chunks += b"%x;a\r\n%b\r\n" % (len(piece), piece)
            return chunks + (b"0\r\nX-T: y\r\n\r\n" if way == "chunks" else b"")
        if way == "eof":
            return b"HTTP/1.1 200 OK\r\n\r\n" + text
        if way in ("short", "reset"):
            return whole[:-1]
        if way == "more":
            return whole + self._whole(seen, b"evil")
        if way == "junk":
            return b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 9\r\n\r\nevil body"
        if way == "hints":
            return b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 2 + whole
        return whole


class Clients:
    """
    Clients, each with requests of its own.

    :param front: the proxy
    :param chance: says what they do
    """

    def __init__(self, front: Front, chance: random.Random) -> None:
        self.front = front
        self.chance = chance
        self.whole = self.broken = 0

    async def run(self, number: int, http2: bool) -> None:
        """Send requests, one after the other on HTTP/1.1, and several at once on HTTP/2."""
        client = None
        for turn in range(REQUESTS):
            targets = [f"/{number}/{turn}/{part}" for part in range(3 if http2 else 1)]
            if client is None or (client.closed if http2 else client.transport.is_closing()):
                client = self.front.http2() if http2 else self.front.http1()
            await asyncio.gather(*(self._ask(client, http2, target) for target in targets))

    async def _ask(self, client: Any, http2: bool, target: str) -> None:
        chance = self.chance
        way = chance.choice(GOOD * 2 + BAD)
        target = f"{target}/{way}"
        method = chance.choice(("GET", "POST", "PUT", "HEAD"))
        body = chance.randbytes(chance.choice((0, 1, 300, 20000))).hex().encode()
        parts = [body[i : i + 700] for i in range(0, len(body), 700)]
        options: Any = chance.choice(({"body": body}, {"chunks": parts})) if body else {}
        leaves = chance.random() < 0.15
        try:
            if http2:
                exchange = client.request(method, target, **options)
                if leaves:
                    await asyncio.sleep(0)
                    exchange.reset()
                    return
                response = await exchange.finished()
            else:
                client.request(method, target, **options)
                if leaves:
                    await asyncio.sleep(0)
                    client.close()
                    return
                response = await client.response()
        except ConnectionError:
            self.broken += 1
            assert way in BAD
            return
        if response.status == 200:
            if method == "HEAD":
                assert response.body == b""
            else:
                sent = b"" if way == "early" else body
                assert response.body == b"%b %b" % (target.encode(), sent)
            self.whole += 1
        else:
            assert response.status == 502
            assert way in BAD
            self.broken += 1


@both_ways
@pytest.mark.parametrize("seed", range(3))
async def test_everybody_gets_their_own(seed: int, way: str) -> None:
    chance = random.Random(seed)
    async with fronted(Server(chance).answer, way=way, pool_size=4, max_connections=12) as front:
        clients = Clients(front, chance)
        await asyncio.gather(*(clients.run(each, each % 2 == 1) for each in range(CLIENTS)))
        assert clients.whole > 50
        assert clients.broken > 5
        assert not front.upstream.wrong
        targets = [seen.target for seen in front.upstream.requests]
        assert max(map(targets.count, targets)) <= 2, "sent again more often than by retries"
