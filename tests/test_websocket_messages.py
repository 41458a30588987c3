"""``WebSocket``: messages, several tasks, and clients that are lost or slow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from talks import both, ends, turns

from kyoukai import (
    Kyoukai,
    OperationNotAllowed,
    PayloadTypeError,
    WebSocketDisconnected,
)
from kyoukai.testing import Client

if TYPE_CHECKING:
    from kyoukai import WebSocket, WebSocketContext

# -- Messages ----------------------------------------------------------------------------------


@both
async def test_types_of_messages(http2: bool) -> None:
    async with ends(http2) as pair:
        server, client = pair.server, pair.client
        for data in (b"a", bytearray(b"b"), memoryview(b"xcx")[1:2], memoryview(b"d e f")[::2]):
            await server.send_data(data)
        await server.send_text("é")
        assert [await client.receive() for _ in range(5)] == [b"a", b"b", b"c", b"def", "é"]
        for wrong in (b"a", bytearray(b"a"), 1, None, ["a"]):
            with pytest.raises(TypeError, match="send_text takes a str, not "):
                await server.send_text(wrong)  # type: ignore[arg-type]
        for wrong in ("a", 1, None, [1]):
            with pytest.raises(TypeError, match="send_data takes bytes, not "):
                await server.send_data(wrong)  # type: ignore[arg-type]
        pair.client_says("text", b"data", "next")
        with pytest.raises(PayloadTypeError, match="the message is text, not binary") as caught:
            await server.receive_data()
        assert isinstance(caught.value, TypeError)
        with pytest.raises(PayloadTypeError, match="the message is binary, not text"):
            await server.receive_text()
        assert await server.receive_text() == "next"
        assert server.ready


@both
async def test_what_is_sent_may_change_afterwards(http2: bool) -> None:
    async with ends(http2) as pair:
        data = bytearray(b"before")
        await pair.server.send_data(data)
        data[:] = b"behind"
        assert await pair.client.receive() == b"before"


@both
async def test_iteration(http2: bool) -> None:
    async with ends(http2) as pair:
        pair.client_says("a", b"b")
        await pair.client.close()
        assert [message async for message in pair.server] == ["a", b"b"]
        assert [message async for message in pair.server] == []


# -- Several tasks -----------------------------------------------------------------------------


@both
async def test_many_tasks_send(http2: bool) -> None:
    """Messages go out whole, and those of one task in its order."""
    async with ends(http2) as pair:

        async def send(number: int) -> None:
            for count in range(20):
                if number % 2:
                    await pair.server.send_text(f"{number} {count} " + "x" * (number * 997))
                else:
                    await pair.server.send_data(b"%d %d " % (number, count) + bytes(number * 997))

        async def receive() -> None:
            last = dict.fromkeys(range(20), -1)
            for _ in range(400):
                message = await pair.client.receive()
                words = message.split(maxsplit=2) if isinstance(message, str) else message.split()
                number, count = int(words[0]), int(words[1])
                assert isinstance(message, str) == bool(number % 2)
                assert len(message) - len(f"{number} {count} ") == number * 997
                assert count == last[number] + 1
                last[number] = count

        await asyncio.gather(receive(), *(send(number) for number in range(20)))


@both
async def test_the_order_of_the_calls(http2: bool) -> None:
    async with ends(http2) as pair:
        await asyncio.gather(*(pair.server.send_text(str(number)) for number in range(100)))
        assert [await pair.client.receive() for _ in range(100)] == [str(n) for n in range(100)]


@both
async def test_one_task_receives(http2: bool) -> None:
    async with ends(http2) as pair:
        receiving = asyncio.create_task(pair.server.receive())
        await turns(1)
        for call in (pair.server.receive(), pair.server.receive_media(), anext(pair.server)):
            with pytest.raises(OperationNotAllowed, match="another task is receiving"):
                await call
        pair.client_says("for the first")
        assert await receiving == "for the first"
        pair.client_says("for anybody")
        assert await pair.server.receive() == "for anybody"


@both
async def test_a_message_that_another_task_takes(http2: bool) -> None:
    """Between its arrival and the turn of the task that waits: that goes on waiting."""
    async with ends(http2) as pair:
        receiving = asyncio.create_task(pair.server.receive())
        await turns(1)
        pair.client_says("one")
        assert await pair.server.receive() == "one"
        await turns()
        assert not receiving.done()
        pair.client_says("two")
        assert await receiving == "two"


@both
async def test_a_cancelled_receive_loses_nothing(http2: bool) -> None:
    async with ends(http2) as pair:
        for moment in ("before", "after"):
            receiving = asyncio.create_task(pair.server.receive())
            await turns()
            if moment == "after":
                pair.client_says("kept")
            receiving.cancel()
            await asyncio.wait([receiving])
            assert receiving.cancelled()
            if moment == "before":
                pair.client_says("kept")
            assert await pair.server.receive() == "kept"


@both
async def test_receiving_and_sending_at_once(http2: bool) -> None:
    async with ends(http2) as pair:
        receiving = asyncio.create_task(pair.server.receive())
        await turns(1)
        await pair.server.send_text("to the client")
        assert await pair.client.receive() == "to the client"
        assert not receiving.done()
        pair.client_says("to the server")
        assert await receiving == "to the server"


# -- Slow clients ------------------------------------------------------------------------------


@both
async def test_a_slow_client_makes_sending_wait(http2: bool) -> None:
    async with ends(http2) as pair:
        server, client = pair.server, pair.client
        assert server.buffered_amount == 0
        client.pause()
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(200):
                await server.send_data(bytes(4096))
                sent += 1

        sending = asyncio.create_task(send())
        await turns(1000)
        assert 0 < sent < 200
        waiting = server.buffered_amount
        # What the windows or the transport hold, and ws_write_limit more at most.
        assert 0 < waiting <= 65536 + 4096 + 100
        await turns(100)
        assert server.buffered_amount == waiting
        client.resume()
        for _ in range(200):
            assert len(await client.receive()) == 4096
        await sending
        assert sent == 200
        assert server.buffered_amount == 0


@both
async def test_a_cancelled_send_has_been_sent(http2: bool) -> None:
    async with ends(http2) as pair:
        pair.client.pause()
        sending = None
        count = 0
        while sending is None or sending.done():
            sending = asyncio.create_task(pair.server.send_data(b"%06d" % count + bytes(16384)))
            count += 1
            await turns(5)
        sending.cancel()
        await asyncio.wait([sending])
        pair.client.resume()
        for number in range(count):
            assert (await pair.client.receive())[:6] == b"%06d" % number


@both
async def test_closing_wakes_who_waits(http2: bool) -> None:
    """Senders, receivers, pings and ``wait_closed``."""
    async with ends(http2, settings={"ws_close_timeout": 0.05}) as pair:
        server, client = pair.server, pair.client
        client.pause()

        async def send() -> None:
            while True:
                await server.send_data(bytes(65536))

        tasks = [
            asyncio.create_task(work)
            for work in (send(), send(), server.receive(), server.ping(), server.wait_closed())
        ]
        await turns(500)
        assert not any(task.done() for task in tasks)
        await server.close(4000, "enough")
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results.pop() is None
        for error in results:
            assert isinstance(error, WebSocketDisconnected)
            assert (error.code, error.reason) == (4000, "enough")
        client.abort()


# -- Lost clients ------------------------------------------------------------------------------


@both
async def test_a_lost_client_wakes_who_waits(http2: bool) -> None:
    async with ends(http2) as pair:
        pair.client.pause()  # or it would answer the ping
        tasks = [
            asyncio.create_task(work)
            for work in (pair.server.receive(), pair.server.ping(), pair.server.wait_closed())
        ]
        await turns()
        pair.client.abort()
        receiving, pinging, closing = await asyncio.gather(*tasks, return_exceptions=True)
        assert closing is None
        for error in (receiving, pinging):
            assert isinstance(error, WebSocketDisconnected)
            assert (error.code, error.reason) == (1006, "")
        assert not pair.server.ready
        assert pair.server.buffered_amount == 0


@both
async def test_a_handler_that_only_sends_notices(http2: bool) -> None:
    """And is not cancelled."""
    app = Kyoukai("test")
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()
        count = 0
        try:
            while True:
                await ws.send_text(f"event {count}")
                count += 1
                await asyncio.sleep(0)
        except WebSocketDisconnected as error:
            await asyncio.sleep(0)  # would raise, if it were cancelled
            ended.set_result((error.code, ws.close_code, count))

    async with Client(app) as client, client.websocket("/", http2=http2) as ws:
        assert await ws.receive() == "event 0"
        ws.abort()
        code, close_code, count = await ended
        assert (code, close_code) == (1006, 1006)
        assert count >= 1


@both
async def test_a_lost_client_while_sending_waits(http2: bool) -> None:
    async with ends(http2) as pair:
        pair.client.pause()

        async def send() -> None:
            while True:
                await pair.server.send_data(bytes(65536))

        sending = asyncio.create_task(send())
        await turns(500)
        pair.client.abort()
        with pytest.raises(WebSocketDisconnected) as caught:
            await sending
        assert caught.value.code == 1006


@both
async def test_what_came_before_the_client_was_lost(http2: bool) -> None:
    async with ends(http2) as pair:
        pair.client_says("one", "two")
        pair.client.abort()
        await pair.server.wait_closed()
        assert [message async for message in pair.server] == ["one", "two"]
        assert pair.server.close_code == 1006


@both
async def test_a_client_that_takes_nothing_is_lost(http2: bool) -> None:
    async with ends(http2, settings={"send_stall_timeout": 0.02}) as pair:
        pair.client.pause()
        with pytest.raises(WebSocketDisconnected) as caught:
            while True:
                await pair.server.send_data(bytes(65536))
        assert caught.value.code == pair.server.close_code == 1006


@both
@pytest.mark.parametrize(
    "frames, code",
    [
        (b"\x83\x80aaaa", 1002),  # an opcode that there is not
        (b"\x01\x05hello", 1002),  # not masked
        (b"\x81\x81\0\0\0\0\xff", 1007),
        (b"\x82\xff\0\0\0\0\0\x20\0\0aaaa", 1009),
    ],
)
async def test_what_breaks_the_protocol(http2: bool, frames: bytes, code: int) -> None:
    async with ends(http2) as pair:
        pair.client_says("before")
        pair.client.tunnel.write(frames)
        assert await pair.server.receive() == "before"
        with pytest.raises(WebSocketDisconnected) as caught:
            await pair.server.receive()
        assert caught.value.code == pair.server.close_code == code
        assert caught.value.reason == pair.server.close_reason
        await pair.client.wait_closed()
        assert pair.client.close_code == code


@both
async def test_a_client_that_does_not_answer_the_close(http2: bool) -> None:
    """``close`` does not wait for it, and ``ws_close_timeout`` ends the conversation."""
    async with ends(http2, settings={"ws_close_timeout": 0.05}) as pair:
        over = asyncio.Event()
        pair.ctx.add_teardown_callback(over.set)
        pair.client.pause()
        await pair.server.close(4000)
        assert state_of(pair.server) == (False, 4000)
        pair.leave.set()
        assert not over.is_set()
        await over.wait()


# -- Pings -------------------------------------------------------------------------------------


@both
async def test_pings(http2: bool) -> None:
    async with ends(http2) as pair:
        seconds = await asyncio.gather(*(pair.server.ping() for _ in range(10)))
        assert all(0 <= each < 5 for each in seconds)
        waiting = asyncio.create_task(pair.server.ping())
        await turns(1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert await pair.server.ping() >= 0  # late answers harm nobody
        await pair.client.close(4000)
        with pytest.raises(WebSocketDisconnected) as caught:
            await pair.server.ping()
        assert caught.value.code == 4000


@both
async def test_a_client_that_answers_no_ping_is_lost(http2: bool) -> None:
    settings = {"ws_ping_interval": 0.02, "ws_ping_timeout": 0.02}
    async with ends(http2, settings=settings) as pair:
        pair.client.pause()
        await pair.server.wait_closed()
        assert state_of(pair.server) == (False, 1006)
        pair.leave.set()


def state_of(ws: WebSocket) -> tuple[bool, int | None]:
    return ws.ready, ws.close_code


@both
async def test_wait_closed_may_be_cancelled(http2: bool) -> None:
    async with ends(http2) as pair:
        one, two = (asyncio.create_task(pair.server.wait_closed()) for _ in range(2))
        await turns()
        one.cancel()
        await asyncio.wait([one])
        assert not two.done()
        await pair.client.close()
        await two


# -- What waits to be received -----------------------------------------------------------------


@both
@pytest.mark.parametrize("queue", [0, 1, 4, 100])
async def test_reading_stops(http2: bool, queue: int) -> None:
    """Nobody receives: after ``max_receive_queue`` messages, the client's own wait."""
    app = Kyoukai("test")
    assert app.ws_options.max_receive_queue == 4
    app.ws_options.max_receive_queue = queue
    async with ends(http2, app) as pair:
        sent = 0

        async def send() -> None:
            nonlocal sent
            for number in range(300):
                await pair.client.send_data(b"%03d" % number + bytes(50_000))
                sent += 1

        sending = asyncio.create_task(send())
        await turns(2000)
        # The messages of the queue, but no more than ws_max_message_size; and what a read, the
        # client's buffer and the windows hold.
        most = min(queue * 50_003, 1_048_576) + 2 * 262_144 + 65_536
        assert sent * 50_003 < most
        for number in range(300):
            assert (await pair.server.receive_data())[:3] == b"%03d" % number
        await sending
