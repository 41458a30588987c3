"""``Session``: receiving and sending on both wires, and how much of either may wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from backends.support import Clock, turns
from backends.wires import (
    BINARY,
    CONT,
    PING,
    PONG,
    TEXT,
    Http2Line,
    both,
    close_frame,
    frame,
    opened,
    received,
    text,
)

from kyoukai.exceptions import OperationNotAllowed, WebSocketDisconnected
from kyoukai.ws.session import Session

WIDE = {"window": 2**22, "connection_window": 2**23}


def chunk(number: int, size: int = 20_000) -> bytes:
    """A message that tells which one it is."""
    return number.to_bytes(4) * (size // 4)


class Ear:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def socket_writable(self, session: Session) -> None:
        self.heard.append("writable")

    def socket_closed(self, session: Session) -> None:
        self.heard.append(f"closed {session.close_code}")


async def clog(session: Session) -> int:
    """Send until the client's line is full; return the number of messages."""
    for number in range(500):
        session.put(BINARY, chunk(number, 4096))
        await turns(6)
        if session.is_clogged:
            return number + 1
    raise AssertionError("it takes anything")


# -- Receiving ---------------------------------------------------------------------------------


@both
async def test_messages_come_in_order(wire: Any) -> None:
    async with opened(wire) as (session, line):
        line.send(text("ä") + frame(BINARY, b"\xff") + text("b", fin=False))
        assert await session.receive() == "ä"
        assert await session.receive() == b"\xff"
        receiving = asyncio.ensure_future(session.receive())
        await turns()
        assert not receiving.done()
        line.send(frame(CONT, b"c") + text(""))
        assert await receiving == "bc"
        assert await session.receive() == ""


@both
async def test_one_receives_at_a_time(wire: Any) -> None:
    async with opened(wire) as (session, line):
        receiving = asyncio.ensure_future(session.receive())
        await turns()
        with pytest.raises(OperationNotAllowed):
            await session.receive()
        line.send(text("one"))
        assert await receiving == "one"


@pytest.mark.parametrize("max_queue", [0, 1, 4])
@both
async def test_a_message_that_another_task_took(wire: Any, max_queue: int) -> None:
    async with opened(wire, max_queue=max_queue) as (session, line):
        receiving = asyncio.ensure_future(session.receive())
        await turns()
        line.send(text("one"))
        if wire is not Http2Line or session.messages:
            assert await session.receive() == "one"  # before the task has run
            line.send(text("two"))
            assert await receiving == "two"
        assert session.is_open


@pytest.mark.parametrize("max_queue", [0, 1, 4])
@both
async def test_a_cancelled_receive_loses_nothing(wire: Any, max_queue: int) -> None:
    async with opened(wire, max_queue=max_queue) as (session, line):
        for message in "before", "with":
            receiving = asyncio.ensure_future(session.receive())
            await turns()
            if message == "with":
                line.send(text(message))  # it is there, and the task has not run yet
            receiving.cancel()
            await asyncio.wait((receiving,))
            if message == "before":
                line.send(text(message))
                assert len(session.messages) <= max_queue
            assert await session.receive() == message


@pytest.mark.parametrize("max_queue", [0, 1, 4, 7])
@both
async def test_how_many_messages_wait(wire: Any, max_queue: int) -> None:
    async with opened(wire, max_queue=max_queue) as (session, line):
        for number in range(20):
            line.send(text(str(number)))
        await turns()
        assert len(session.messages) == max_queue
        for number in range(20):
            assert await session.receive() == str(number)
            assert len(session.messages) <= max_queue
        assert not session.full or max_queue == 0
        line.send(text("more"))
        assert await session.receive() == "more"


@pytest.mark.parametrize("max_queue", [0, 4, 1000])
@both
async def test_what_waits_is_bounded_while_nobody_receives(wire: Any, max_queue: int) -> None:
    limit = 50_000
    count = 200
    async with opened(wire, max_queue=max_queue, ws_max_message_size=limit) as (session, line):
        for number in range(count):
            line.send(frame(BINARY, chunk(number)))
        await turns(30)
        taken = count * 20_000 - line.untaken
        assert taken <= wire.most_taken + limit + 20_000
        assert sum(map(len, session.messages)) < limit + 20_000
        found = []
        for _ in range(count):
            found.append(await session.receive())
            await turns(4)
        assert found == [chunk(number) for number in range(count)]
        assert line.untaken == 0


@both
async def test_small_messages_do_not_stop_the_reading_before_the_limit(wire: Any) -> None:
    async with opened(wire, max_queue=1000, ws_max_message_size=1000) as (session, line):
        for number in range(9):
            line.send(frame(BINARY, chunk(number, 100)))
        await turns()
        assert len(session.messages) == 9
        assert not session.full
        line.send(frame(BINARY, chunk(9, 100)) + frame(BINARY, b"one more"))
        await turns()
        assert len(session.messages) == 10
        assert session.full


@pytest.mark.parametrize("size", [1, 100_000, 1_000_000])
@both
async def test_a_message_larger_than_what_may_wait(wire: Any, size: int) -> None:
    async with opened(wire, max_queue=1) as (session, line):
        line.send(text("first") + frame(BINARY, chunk(1, size)) + text("last"))
        await turns(40)
        assert await session.receive() == "first"
        assert await session.receive() == chunk(1, size)
        assert await session.receive() == "last"


@pytest.mark.parametrize("end", ["close", "close, end", "end", "end before", "leave"])
@pytest.mark.parametrize("max_queue", [0, 1, 4])
@both
async def test_nothing_is_lost_at_the_end(wire: Any, max_queue: int, end: str) -> None:
    messages = [f"{number} " + "x" * 1000 for number in range(50)]
    async with opened(wire, max_queue=max_queue) as (session, line):
        if end == "end before":
            assert session.messages is not None
            receiving = asyncio.ensure_future(received(session))
            await turns()
        data = b"".join(map(text, messages))
        line.send(data + close_frame(4000, "done") if "close" in end else data)
        if "end" in end:
            line.end()
        if end == "leave":
            line.leave()
        await turns()
        if end != "close":
            assert session.is_over
        found = await (receiving if end == "end before" else received(session))
        assert found == messages
        code, reason = (4000, "done") if "close" in end else (1006, "")
        assert (session.close_code, session.close_reason) == (code, reason)
        await turns()
        assert line.close == ((4000, "done") if "close" in end else None)


@both
async def test_what_was_begun_is_no_message(wire: Any) -> None:
    async with opened(wire) as (session, line):
        line.send(text("whole") + text("beg", fin=False) + frame(CONT, b"un")[:-1])
        line.end()
        assert await received(session) == ["whole"]
        assert session.close_code == 1006


@both
async def test_a_stop_is_no_end(wire: Any) -> None:
    """Reading stops and goes on again and again, with frames cut anywhere."""
    data = b"".join(frame(BINARY, chunk(number, 3_000)) for number in range(300))
    async with opened(wire, max_queue=2) as (session, line):
        for start in range(0, len(data), 7_001):
            line.send(data[start : start + 7_001])
            if start % 3 == 0:
                await turns(2)
        for number in range(300):
            assert await session.receive() == chunk(number, 3_000)
        assert session.is_open


# -- Sending -----------------------------------------------------------------------------------


@both
async def test_what_is_sent_is_on_its_way_at_once(wire: Any) -> None:
    async with opened(wire) as (session, line):
        for number in range(100):
            assert session.put(TEXT, b"%d" % number) is False
        session.put(BINARY, b"\xff" * 300)
        await turns(6)
        *texts, last = line.take()
        assert texts == [(TEXT, b"%d" % number) for number in range(100)]
        assert last == (BINARY, b"\xff" * 300)
        assert session.buffered == 0


@pytest.mark.parametrize("client", [{}, WIDE], ids=["small windows", "wide windows"])
@both
async def test_senders_wait_for_room(wire: Any, client: Any) -> None:
    """Whatever the windows: each message may come to more than the limit, and goes out whole."""
    order: list[int] = []

    async with opened(wire, client=client if wire is Http2Line else ()) as (session, line):

        async def send(number: int) -> None:
            order.append(number)
            if session.put(BINARY, chunk(number, 150_000)):
                await session.drain()

        async with asyncio.timeout(20):
            await asyncio.gather(*(send(number) for number in range(12)))
        await turns(200)
        assert line.take() == [(BINARY, chunk(number, 150_000)) for number in order]


@both
async def test_a_message_after_the_other_while_the_client_keeps_up(wire: Any) -> None:
    client = WIDE if wire is Http2Line else ()
    async with opened(wire, client=client) as (session, line):
        async with asyncio.timeout(20):
            for number in range(20):
                if session.put(BINARY, chunk(number, 70_000)):
                    await session.drain()
        await turns(200)
        assert len(line.take()) == 20


@both
async def test_sending_waits_while_the_client_takes_nothing(wire: Any) -> None:
    ear = Ear()
    async with opened(wire, ws_write_limit=4096) as (session, line):
        session.listeners.append(ear)
        line.hold()
        sent = await clog(session)
        assert session.buffered > 0
        ear.heard.clear()
        draining = [asyncio.ensure_future(session.drain()) for _ in range(3)]
        await turns()
        assert not any(task.done() for task in draining)
        assert ear.heard == []
        line.release()
        await asyncio.gather(*draining)
        await turns(50)
        assert ear.heard
        assert set(ear.heard) == {"writable"}
        assert session.buffered == 0
        assert line.take() == [(BINARY, chunk(number, 4096)) for number in range(sent)]


@both
async def test_a_cancelled_send_has_been_sent(wire: Any) -> None:
    async with opened(wire, ws_write_limit=4096) as (session, line):
        line.hold()
        await clog(session)

        async def send() -> None:
            session.put(TEXT, b"cancelled")
            await session.drain()

        sending = asyncio.ensure_future(send())
        await turns()
        sending.cancel()
        await asyncio.wait((sending,))
        session.put(TEXT, b"after")
        line.release()
        await turns(50)
        assert line.take()[-2:] == [(TEXT, b"cancelled"), (TEXT, b"after")]


@both
async def test_senders_learn_that_the_client_is_gone(wire: Any) -> None:
    ear = Ear()
    async with opened(wire, ws_write_limit=4096) as (session, line):
        session.listeners.append(ear)
        line.hold()
        await clog(session)
        ear.heard.clear()
        draining = asyncio.ensure_future(session.drain())
        await turns()
        line.leave()
        await asyncio.wait((draining,))
        assert isinstance(draining.exception(), WebSocketDisconnected)
        assert ear.heard == ["closed 1006"]
        with pytest.raises(WebSocketDisconnected) as caught:
            session.put(TEXT, b"late")
        assert caught.value.code == 1006
        session.put_frame(b"late")
        assert session.buffered == 0


@both
async def test_frames_that_were_made_elsewhere(wire: Any) -> None:
    async with opened(wire) as (session, line):
        session.put(TEXT, b"1")
        session.put_frame(frame(TEXT, b"2", mask=None))
        session.put(TEXT, b"3")
        await turns()
        assert [payload for _, payload in line.take()] == [b"1", b"2", b"3"]


@both
async def test_a_client_that_takes_nothing_for_long_is_lost(wire: Any) -> None:
    settings = {"send_stall_timeout": 30, "ws_ping_interval": 0, "ws_write_limit": 4096}
    async with opened(wire, **settings) as (session, line):
        clock = Clock()
        line.stop()
        await clog(session)
        draining = asyncio.ensure_future(session.drain())
        await clock.advance(29)
        assert session.is_open
        await clock.advance(62, step=1)  # it is looked at once in that time
        assert (session.close_code, session.is_over) == (1006, True)
        await asyncio.wait((draining,))
        assert isinstance(draining.exception(), WebSocketDisconnected)
        assert line.cut


# -- Floods ------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [PING, PONG])
@both
async def test_a_flood_of_control(wire: Any, opcode: int) -> None:
    async with opened(wire, ws_ping_burst=100, ws_ping_rate=10) as (session, line):
        clock = Clock()
        line.send(frame(opcode, b"1") * 100)
        await turns()
        assert session.is_open
        await clock.advance(5)
        line.send(frame(opcode, b"2") * 50)
        await turns()
        assert session.is_open
        line.send(frame(opcode, b"3") * 50_000 + text("dropped"))
        await turns(40)
        assert line.close == (1008, "too many pings and pongs")
        assert (session.close_code, session.messages) == (1008, type(session.messages)())
        assert len([1 for each, _ in line.frames if each == PONG]) < 300
        assert line.ended


@pytest.mark.parametrize("max_queue", [0, 1, 4])
@both
async def test_messages_among_much_control(wire: Any, max_queue: int) -> None:
    async with opened(wire, max_queue=max_queue, ws_ping_burst=10_000) as (session, line):
        data = b"".join(frame(PING) * 300 + text(f"{number}") for number in range(6))
        line.send(data + frame(PING) * 300)
        for number in range(6):
            assert await session.receive() == f"{number}"
        receiving = asyncio.ensure_future(session.receive())
        await turns()
        assert line.take() == [(PONG, b"")] * 2100
        session.close(1000)
        line.send(frame(PING) * 300 + close_frame())
        await asyncio.wait((receiving,))
        assert isinstance(receiving.exception(), WebSocketDisconnected)
        await turns()
        assert session.is_over


@both
async def test_what_messages_pay_for_is_not_saved_for_ever(wire: Any) -> None:
    async with opened(wire, max_queue=4000, ws_ping_burst=1, ws_ping_rate=0) as (session, line):
        line.send(text("") * 3000)
        await turns()
        line.send(frame(PONG) * 1001)
        await turns()
        assert session.is_open
        line.send(frame(PONG))
        await turns()
        assert session.close_code == 1008


@both
async def test_messages_and_our_pings_pay_for_control(wire: Any) -> None:
    async with opened(wire, max_queue=50, ws_ping_burst=1, ws_ping_rate=0) as (session, line):
        for _ in range(20):
            line.send(text("one") * 10 + frame(PING) * 10)
            for _ in range(10):
                await session.receive()
        for _ in range(30):
            pinging = asyncio.ensure_future(session.ping())
            await turns(6)
            line.send(frame(PONG, line.take()[-1][1]))
            await pinging
        assert session.is_open
        line.send(frame(PING) * 2)
        await turns()
        assert session.close_code == 1008


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (text("a", fin=False) + frame(CONT, b"", fin=False) * 8, 1008),
        (frame(BINARY, bytes(2001)), 1009),
        (frame(BINARY, bytes(1500), fin=False) + frame(CONT, bytes(501)), 1009),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xff", fin=False), 1007),
        (text("x", mask=None), 1002),
        (text("x", rsv=2), 1002),
        (frame(5, b""), 1002),
        (close_frame(1005), 1002),
    ],
)
@both
async def test_what_is_wrong_closes_it(wire: Any, data: bytes, code: int) -> None:
    async with opened(wire, ws_max_fragments=8, ws_max_message_size=2000) as (session, line):
        line.send(text("before") + data + text("dropped"))
        await turns(20)
        assert await received(session) == ["before"]
        assert session.close_code == code
        close = line.close
        assert close is not None
        assert close[0] == code
        assert close[1] == session.close_reason
        assert session.is_over
        assert line.ended
        if wire is not Http2Line:  # the client may be sending: a reset would destroy the Close
            assert not line.transport.closed
        line.send(text("more") * 100)
        await turns()


@both
async def test_a_flood_right_before_messages_leaves_no_debt(wire: Any) -> None:
    """It ended while reading had stopped: what comes later must not take from the windows."""
    async with opened(wire, max_queue=2, ws_ping_burst=1, ws_ping_rate=0) as (session, line):
        line.send(frame(PING) * 10 + text("a") * 3)
        await turns()
        assert session.close_code == 1008
        assert not session.full
        assert session.stream.buffered == 0
        if wire is Http2Line:
            line.send(bytes(100_000))
            await turns()
            assert line.client.window >= line.protocol.config.h2_connection_window // 2
