"""What well-known clients do that might look like an attack, and is none."""

from __future__ import annotations

import pytest

from kyoukai.stream import StreamState
from kyoukai.testing import MemoryServer

from ..frames import (
    DATA,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    FrameClient,
    headers,
    settings,
    window_update,
)
from ..support import turns
from .trial import h2_server

SIZE = 8_000_000


async def download(stream: StreamState) -> None:
    stream.send_head(200, ())
    for _ in range(SIZE // 50_000):
        await stream.send_data(bytes(50_000))
    await stream.end()


def begin(server: MemoryServer) -> FrameClient:
    """Ask for a download, with windows that hold all of it."""
    client = FrameClient(server)
    client.send(settings({INITIAL_WINDOW_SIZE: 2**30}), window_update(0, 2**30))
    client.send(headers(1))
    return client


async def take_all(client: FrameClient, reply: bytes = b"") -> None:
    """Take the whole download, with a reply to each frame."""
    got = 0
    while got < SIZE:
        frame = await client.next(DATA, GOAWAY)
        assert frame.kind == DATA
        got += len(frame.payload)
        client.send(reply)


@pytest.mark.parametrize("piece", [2048, 4096, 65_536])
async def test_windows_are_given_back_in_small_pieces_and_late(piece: int) -> None:
    """Go's client sends two updates for each 4 KiB that its application reads, when it reads."""
    async with h2_server(download) as server:
        client = begin(server)
        await take_all(client)
        for _ in range(SIZE // piece):
            client.send(window_update(0, piece), window_update(1, piece))
        client.send(headers(3))
        assert (await client.next(DATA, GOAWAY)).kind == DATA


async def test_but_not_more_than_was_sent() -> None:
    async with h2_server(download) as server:
        client = begin(server)
        await take_all(client)
        for _ in range(3 * SIZE // 4096):
            client.send(window_update(0, 4096))
        await turns()
        goaway = await client.next(GOAWAY)
        assert goaway.code == ENHANCE_YOUR_CALM


async def test_a_ping_with_each_frame() -> None:
    """gRPC's clients measure the round trip so, to find the window that they need."""
    async with h2_server(download) as server:
        await take_all(begin(server), b"\0\0\x08\x06\0\0\0\0\0measured")
