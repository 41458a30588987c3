"""Long lives of connections on which everything happens at once, by chance and by the rules."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.exceptions import PeerGone
from kyoukai.stream import StreamState
from kyoukai.testing import MemoryServer

from ..support import turns
from .support import Client, Exchange, PumpingTransport, dial, distinct


async def application(stream: StreamState) -> None:
    """Do what the path says: what is done with the body, and how large the answer is."""
    _, way, size = stream.head.path.split("/")
    answer = distinct(int(size))
    if way == "whole":
        body = await stream.read_async()
        await stream.send_response(200, ((b"x-got", b"%d" % len(body)),), answer)
    elif way == "early":
        await stream.send_response(200, (), answer)
    elif way == "mirror":
        stream.send_informational(103, [(b"link", b"</a>")])
        stream.send_head(200, ())
        while data := await stream.receive():
            await stream.send_data(data)
        await stream.end([*stream.trailers, (b"x-end", b"1")])
    elif way == "pieces":
        stream.send_head(200, [(b"content-length", b"%d" % len(answer))])
        for start in range(0, len(answer), 7_000):
            await stream.send_data(bytearray(answer[start : start + 7_000]))
            await asyncio.sleep(0)
        await stream.end()
    elif way == "slow":
        while await stream.receive():
            await turns(5)
        await stream.send_response(200, (), answer)
    elif way == "broken":
        stream.send_head(200, ())
        await stream.send_data(answer)
        stream.reset("for the test")
    elif way == "deaf":
        stream.cancel_on_disconnect = False
        await turns(20)
        try:
            await stream.send_response(200, (), answer)
        except PeerGone:
            await turns(5)


WAYS = ("whole", "early", "mirror", "pieces", "slow", "broken", "deaf")


class Request:
    """One of the client's requests, and how far it has come."""

    def __init__(self, client: Client, chance: random.Random) -> None:
        self.way = chance.choice(WAYS)
        self.size = chance.choice([0, 1, 100, 16_384, 70_000])
        self.body = distinct(chance.choice([0, 0, 1, 1000, 16_384, 90_000]), chance.randrange(1000))
        self.trailers = [("x-sum", "1")] if chance.random() < 0.2 else []
        self.sent = 0
        self.left = False
        ended = not self.body and not self.trailers
        urgency = [("priority", f"u={chance.randrange(8)}{chance.choice(['', ', i'])}")]
        known = self.body and chance.random() < 0.5
        length = [("content-length", str(len(self.body)))] if known else []
        target = f"/{self.way}/{self.size}"
        self.exchange: Exchange = client.begin("POST", target, [*length, *urgency], ended)

    @property
    def over(self) -> bool:
        return self.left or self.exchange.reset_code is not None or self.exchange.ended

    def go_on(self, size: int) -> None:
        """Send some more, and at last the end."""
        exchange = self.exchange
        if self.over or exchange.waiting:
            return
        piece = self.body[self.sent : self.sent + size]
        self.sent += len(piece)
        if self.sent < len(self.body):
            exchange.data(piece)
        elif not self.trailers:
            exchange.data(piece, True)
        else:
            exchange.data(piece)
            if not exchange.waiting:
                exchange.end(self.trailers)

    def leave(self) -> None:
        """Reset the stream."""
        if not self.exchange.gone and not (self.exchange.done and self.exchange.ended):
            self.left = True
            self.exchange.reset()

    async def check(self) -> None:
        """See that the answer is what it should be."""
        if self.left:
            return
        if self.way == "broken":
            with pytest.raises(ConnectionError):
                await self.exchange.finished()
            return
        response = await self.exchange.finished()
        assert response.status == 200
        assert response.body == (self.body if self.way == "mirror" else distinct(self.size))
        if self.way == "mirror":
            assert list(response.trailers) == [*self.trailers, ("x-end", "1")]
            assert len(response.informational) == 1
        if self.way == "whole":
            assert response.headers["x-got"] == str(len(self.body))


async def live(client: Client, transport: PumpingTransport, chance: random.Random) -> None:
    """Send a hundred requests and more, beside each other, and check every answer."""
    requests: list[Request] = []
    resets = 0
    while len(requests) < 120:
        action = chance.random()
        going = [request for request in requests if not request.over]
        if action < 0.3 and len(going) < 40:
            requests.append(Request(client, chance))
        elif action < 0.8 and going:
            chance.choice(going).go_on(chance.choice([1, 100, 5_000, 50_000]))
        elif action < 0.84 and requests and resets < 60:
            resets += 1
            chance.choice(requests).leave()
        elif action < 0.9:
            transport.hold()
        elif transport.held:
            transport.let_go()
        await turns(chance.randrange(6))
    if transport.held:
        transport.let_go()
    for request in requests:
        while not request.over:
            request.go_on(1 << 20)
            await turns(1)
    for request in requests:
        await request.check()
    assert client.goaways == []


@pytest.mark.parametrize("seed", range(4))
async def test_a_long_life(seed: int) -> None:
    chance = random.Random(seed)
    settings: dict[str, Any] = {
        "h2_stream_window": chance.choice([5_000, 65_535, 262_144]),
        "h2_connection_window": chance.choice([65_535, 200_000, 1_048_576]),
        "write_buffer_size": chance.choice([1024, 10_000, 65_536]),
        "h2_max_concurrent_streams": 1000,
        "h2_control_burst": 100_000,  # windows of 100 bytes are worth no updates
    }
    windows = {
        "window": chance.choice([100, 10_000, 65_535, 1_000_000]),
        "connection_window": chance.choice([65_535, 1_000_000]),
    }
    async with MemoryServer(application, H2KyoukaiProtocol, **settings) as server:
        client, transport = dial(server, **windows)
        await live(client, transport, chance)
        # All that was lent has come back: windows, tasks, places in the queues.
        big = client.begin("POST", "/whole/300000")
        big.data(distinct(3_000_000), True)
        assert (await big.finished()).headers["x-got"] == "3000000"
        await turns()
        assert client.window > settings["h2_connection_window"] // 3
        assert server.connections.tasks == set()
        protocol: Any = transport.protocol
        open_requests = {x.number for x in client.exchanges.values() if not x.ended}
        assert set(protocol.streams) <= open_requests
        assert len(protocol._scheduler) == 0
