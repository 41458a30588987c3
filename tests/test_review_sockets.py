"""Sockets: what a review found, each as a test of what was wrong."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from talks import ask, both, ends, run, turns
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Response

from kyoukai import Kyoukai
from kyoukai.testing import Client
from kyoukai.ws.session import Session

if TYPE_CHECKING:
    from kyoukai import HTTPRequestContext, WebSocket, WebSocketContext


# -- Waiting for the end -------------------------------------------------------------------------


@both
@pytest.mark.parametrize("answer", ["close", "deny", "return"])
async def test_who_waits_for_the_end_before_the_answer_learns_of_it(
    http2: bool, answer: str
) -> None:
    waiting: list[asyncio.Task[None]] = []

    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        waiting.append(asyncio.create_task(ws.wait_closed()))
        await turns()
        assert not waiting[0].done()
        if answer == "deny":
            await ws.deny(404)
            return
        await ws.accept()
        await turns()
        assert not waiting[0].done()
        if answer == "close":
            await ws.close()

    await run(handler, http2=http2)
    await asyncio.wait_for(waiting[0], 5)


@both
async def test_who_waits_for_the_end_before_the_answer_may_give_up(http2: bool) -> None:
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        waiting = asyncio.create_task(ws.wait_closed())
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await ws.accept()
        await ws.send_text("still here")

    outcome = await run(handler, http2=http2)
    assert (outcome.messages, outcome.code) == (("still here",), 1000)


# -- Headers of an acceptance --------------------------------------------------------------------


@both
@pytest.mark.parametrize("name", ["Connection", "upgrade", "Sec-WebSocket-Accept"])
async def test_headers_of_the_wire_cannot_be_set(http2: bool, name: str) -> None:
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        with pytest.raises(ValueError, match="the server's to send"):
            await ws.accept(headers={name: "other"})
        assert ws.unaccepted
        await ws.accept()

    assert (await run(handler, http2=http2)).code == 1000


# -- Errors --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("accepts", "said"), [(True, 3404), (False, 404)])
async def test_an_error_handler_of_good_cheer_hides_no_http_error(
    http2: bool, accepts: bool, said: int
) -> None:
    app = Kyoukai("test")

    @app.errorhandler(HTTPException)
    async def page(ctx: HTTPRequestContext, error: HTTPException) -> tuple[str, int]:
        return "a page for people", 200

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        if accepts:
            await ws.accept()
        raise NotFound

    outcome = await ask(app, http2=http2)
    assert (outcome.code if accepts else outcome.status) == said


@both
async def test_a_redirect_of_an_error_handler_stays_one(http2: bool) -> None:
    app = Kyoukai("test")

    @app.errorhandler(404)
    async def page(ctx: HTTPRequestContext, error: HTTPException) -> Response:
        return Response(status=303, headers={"Location": "/"})

    assert (await ask(app, "/nowhere", http2=http2)).status == 303


@both
async def test_the_cancellation_of_another_task_is_an_error_of_the_handler(http2: bool) -> None:
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()
        other = asyncio.create_task(asyncio.sleep(60))
        await turns()
        other.cancel()
        await other

    outcome = await run(handler, http2=http2)
    assert (outcome.code, outcome.reason) == (1011, "Internal Server Error")


# -- What costs memory ---------------------------------------------------------------------------


@both
async def test_a_client_that_takes_no_pongs_earns_none_by_its_messages(http2: bool) -> None:
    async with ends(http2) as both_ends:
        server, client = both_ends.server, both_ends.client
        client.pause()
        sending = asyncio.create_task(server.send_data(bytes(2_000_000)))
        await turns()
        assert not sending.done()
        already = server.buffered_amount
        for _ in range(30):
            for _ in range(20):
                client.protocol.send_binary(b"")
                client.protocol.send_ping(b"x" * 125)
            client.flush()
            for _ in range(20):
                if server.closed:
                    break
                await server.receive()
        assert server.close_code == 1008
        assert server.buffered_amount - already < 127 * 200
        with pytest.raises(ConnectionError):
            await sending


@both
async def test_a_socket_that_is_over_leaves_nothing_to_the_collector(http2: bool) -> None:
    app = Kyoukai("test")

    @app.websocket("/")
    async def echo(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()
        async for message in ws:
            await ws.send_text(str(message))

    gc.collect()
    before = {id(found) for found in gc.get_objects() if type(found) is Session}
    gc.disable()
    try:
        async with Client(app) as client:
            for _ in range(3):
                async with client.websocket("/", http2=http2) as ws:
                    await ws.send_text("x")
                    assert await ws.receive() == "x"
                await turns()
            left = {id(found) for found in gc.get_objects() if type(found) is Session}
            assert left <= before
    finally:
        gc.enable()


@both
@pytest.mark.parametrize("limit", [1024, 65536, 300_000])
async def test_the_write_limit_holds_on_both_protocols(http2: bool, limit: int) -> None:
    async with ends(http2, settings={"ws_write_limit": limit}) as both_ends:
        server = both_ends.server
        both_ends.client.pause()

        async def send() -> None:
            for _ in range(1000):
                await server.send_data(bytes(500))

        sending = asyncio.create_task(send())
        await turns()
        assert not sending.done()
        # What is gathered in a turn may wait in front of a transport that is full by then.
        assert limit <= server.buffered_amount <= 2 * limit + 2048
        both_ends.client.resume()
        await sending


@both
async def test_a_default_reason_that_is_too_long_is_cut(http2: bool) -> None:
    app = Kyoukai("reasons")
    app.ws_options.default_close_reasons[1000] = "\u00e9" * 70

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept()

    async with Client(app) as client, client.websocket("/", http2=http2) as ws:
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (1000, "\u00e9" * 61)


@both
async def test_a_flood_of_messages_lets_others_have_their_turn(http2: bool) -> None:
    turns_of_others = 0

    async def other() -> None:
        nonlocal turns_of_others
        while True:
            turns_of_others += 1
            await asyncio.sleep(0)

    async with ends(http2) as both_ends:
        server, client = both_ends.server, both_ends.client
        client.pause()
        for _ in range(5000):
            await client.send_text("x")
        await client.send_text("last")
        task = asyncio.create_task(other())
        await turns()
        before = turns_of_others
        received = 0
        while await server.receive() != "last":
            received += 1
        assert received == 5000
        assert turns_of_others - before >= 10
        task.cancel()


@both
async def test_who_waits_for_the_transport_goes_on_when_it_has_drained(http2: bool) -> None:
    settings = {"write_buffer_size": 4096, "ws_write_limit": 4096}
    async with ends(http2, settings=settings) as both_ends:
        transport: Any = both_ends.server.stream.protocol.transport  # type: ignore[attr-defined]
        transport.hold()
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(8):
                await both_ends.server.send_data(bytes(3000))
                sent += 1

        sending = asyncio.create_task(send())
        await turns()
        assert sent < 8
        while not sending.done():
            before = sent
            transport.release()
            transport.hold()
            await turns()
            assert sent > before or sending.done()
        await sending
        both_ends.client.abort()
