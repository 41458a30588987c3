"""
The ways from HTTP/1.1 to HTTP/2, by chance: what comes in pieces must be what came whole.

The bytes around a switch are where two protocols could take the same bytes for different things.
"""

from __future__ import annotations

import base64
import random
import struct
from collections.abc import Iterable
from typing import Any

import pytest

from kyoukai.backends.httptools_ import HttpToolsProtocol
from kyoukai.testing import MemoryServer

from ..frames import PREFACE, settings
from ..support import turns
from .test_fuzz import Writer, application, outcome, result, split
from .trial import Prober


async def entered(pieces: Iterable[bytes]) -> Any:
    """Feed a connection that begins with HTTP/1.1; its first line and its frames."""
    async with MemoryServer(application, HttpToolsProtocol, access_log=True) as server:
        client = Prober(server, greet=False)
        for piece in pieces:
            client.send(piece)
        await turns(40)
        written = client.transport.take()
        line = b""
        if written.startswith(b"HTTP/1.1"):
            head, _, rest = written.partition(b"\r\n\r\n")
            line = head.partition(b"\r\n")[0]
            written = rest if line.startswith(b"HTTP/1.1 101 ") else b""
        client._bytes += written
        found = result(client.look(), client.closed)
        client.transport.feed_eof()
        await turns(20)
        assert client.transport.closed
        assert not server.connections.tasks
        assert not server.connections.open
        assert len({id(stream) for stream in server.logged}) == len(server.logged)
        # Where HTTP/1.1 went on, it closes or does not by how much had come when it answered.
        return line, found if b" 200 " not in line else None


@pytest.mark.parametrize("seed", range(2))
async def test_prior_knowledge(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(12):
        writer = Writer(rng, rng.choice((0, 0.05)))
        sent = PREFACE + settings() + b"".join(writer() for _ in range(rng.randrange(1, 30)))
        expected = b"", await outcome(sent, [sent])
        assert await entered([sent]) == expected
        assert await entered(split(rng, sent)) == expected


def upgrade(rng: random.Random) -> bytes:
    """A request that asks for h2c, in one of many ways, some of them wrong."""
    pairs = [(4, rng.choice((0, 10, 65535, 2**31))), (99, 1), (1, 0)]
    offer = b"".join(struct.pack(">HL", *pair) for pair in rng.sample(pairs, rng.randrange(4)))
    if rng.random() < 0.1:
        offer += b"x"
    value = base64.urlsafe_b64encode(offer).rstrip(b"=")
    if rng.random() < 0.1:
        value = rng.choice((b"!!", b"a=", b"A", b"\xff", b"AAAA" * 100))
    size = rng.choice((0, 0, 5, 1000, 70_000))
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    head = head % rng.choice((b"/", b"/early", b"/parts")) + b"Upgrade: h2c\r\n"
    head += b"HTTP2-Settings: %b\r\n" % value * rng.choice((1, 1, 1, 1, 0, 2))
    if rng.random() < 0.1:
        head += b"Expect: 100-continue\r\n"
    body = b"q" * size
    if rng.random() < 0.7:
        return head + b"Content-Length: %d\r\n\r\n" % size + body
    chunk = b"%x\r\n%b\r\n" % (size, body) if size else b""
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"


@pytest.mark.parametrize("seed", range(2))
async def test_upgrades(seed: int) -> None:
    rng = random.Random(10 + seed)
    lines = set()
    for _ in range(25):
        writer = Writer(rng, 0.02)
        writer.last = 1
        frames = b"".join(writer() for _ in range(rng.randrange(20)))
        sent = upgrade(rng) + rng.choice((PREFACE, PREFACE, b"", b"GET ")) + settings() + frames
        expected = await entered([sent])
        pieces = list(split(rng, sent))
        assert await entered(pieces) == expected, pieces
        lines.add(expected[0][9:12])
    assert {b"101", b"200"} <= lines
