"""Pings of a ``Session``: how it learns that a client is lost, without blaming one that is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from backends.support import Clock, turns
from backends.wires import BINARY, PING, PONG, both, frame, opened, text

from kyoukai.exceptions import WebSocketDisconnected


def pings(line: Any) -> int:
    """How many pings have come since the last look."""
    return sum(opcode == PING for opcode, _ in line.take())


@both
async def test_pings_keep_an_idle_client(wire: Any) -> None:
    async with opened(wire, ws_ping_interval=20, ws_ping_timeout=20) as (session, line):
        clock = Clock()
        await clock.advance(19)
        assert pings(line) == 0
        await clock.advance(1.1)
        for _ in range(5):
            assert pings(line) == 1
            await clock.advance(5)
            line.send(frame(PONG))
            await clock.advance(14)
            assert pings(line) == 0
            await clock.advance(1.1)
        assert session.is_open


@pytest.mark.parametrize(("interval", "timeout"), [(20, 20), (20, 5), (5, 20), (7, 0.5)])
@both
async def test_a_client_that_answers_no_ping(wire: Any, interval: float, timeout: float) -> None:
    async with opened(wire, ws_ping_interval=interval, ws_ping_timeout=timeout) as (session, line):
        clock = Clock()
        await clock.advance(interval + 0.05, step=0.5)
        assert pings(line) == 1
        await clock.advance(timeout - 0.15, step=0.5)
        assert session.is_open
        await clock.advance(0.3)
        assert (session.close_code, session.close_reason) == (1006, "")
        assert line.close == (1011, "no answer to a ping")
        assert session.is_over
        assert line.ended


@pytest.mark.parametrize("data", [text("a"), frame(PING), frame(PONG, b"other"), b"\x81"])
@both
async def test_whatever_comes_is_a_sign_of_life(wire: Any, data: bytes) -> None:
    async with opened(wire, ws_ping_interval=20, ws_ping_timeout=10) as (session, line):
        clock = Clock()
        await clock.advance(21)
        line.send(data)
        await clock.advance(18, step=1)
        assert session.is_open
        assert pings(line) == 1
        await clock.advance(12, step=1)
        assert session.close_code == 1006


@both
async def test_a_client_is_not_blamed_while_reading_has_stopped(wire: Any) -> None:
    settings = {"ws_ping_interval": 20, "ws_ping_timeout": 10}
    async with opened(wire, max_queue=1, **settings) as (session, line):
        clock = Clock()
        line.send(text("1") + text("2"))
        await turns()
        await clock.advance(100, step=1)
        assert session.is_open
        assert pings(line) >= 4
        assert await session.receive() == "1"
        assert await session.receive() == "2"
        assert not session.full
        await clock.advance(31, step=1)
        assert session.close_code == 1006


@both
async def test_the_deadline_does_not_pass_the_moment_reading_goes_on(wire: Any) -> None:
    settings = {"ws_ping_interval": 20, "ws_ping_timeout": 10}
    async with opened(wire, max_queue=1, **settings) as (session, line):
        clock = Clock()
        line.send(text("1"))
        await clock.advance(29.9, step=0.1)
        assert await session.receive() == "1"
        await clock.advance(5, step=0.1)  # its pong may be on its way
        assert session.is_open
        await clock.advance(20, step=0.1)
        assert session.close_code == 1006


@both
async def test_a_client_that_neither_speaks_nor_listens(wire: Any) -> None:
    settings = {"ws_ping_interval": 20, "ws_ping_timeout": 10, "ws_write_limit": 4096}
    async with opened(wire, **settings) as (session, line):
        clock = Clock()
        line.stop()
        session.put(BINARY, bytes(200_000))
        await turns()
        await clock.advance(31, step=1)
        assert (session.close_code, session.is_over) == (1006, True)
        assert line.cut


@pytest.mark.parametrize(
    ("settings", "count"),
    [({"ws_ping_interval": 0}, 0), ({"ws_ping_interval": 10, "ws_ping_timeout": 0}, 50)],
)
@both
async def test_time_outs_that_are_off(wire: Any, settings: dict[str, Any], count: int) -> None:
    async with opened(wire, **settings) as (session, line):
        clock = Clock()
        await clock.advance(505, step=5)
        assert session.is_open
        assert abs(pings(line) - count) <= 1


@both
async def test_pings_of_the_application(wire: Any) -> None:
    async with opened(wire) as (session, line):
        clock = Clock()
        first, second = (asyncio.ensure_future(session.ping()) for _ in range(2))
        await turns()
        payloads = [payload for opcode, payload in line.take() if opcode == PING]
        assert len(set(payloads)) == 2
        line.send(frame(PONG, b"no such ping"))
        await clock.advance(3)
        assert not first.done()
        line.send(frame(PONG, payloads[1]))
        assert 3 <= await second < 4
        assert not first.done()
        third = asyncio.ensure_future(session.ping())
        await turns()
        third.cancel()
        line.send(frame(PONG, line.take()[-1][1]))
        line.leave()
        await asyncio.wait((first, third))
        assert isinstance(first.exception(), WebSocketDisconnected)
        assert session.keepalive._waiting == {}
