"""SSGI's WebSockets: how they end, and clients that are slow."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from ssgi_peers import STYLES, each_style, in_style, interface, on_http
from talks import both, converse, lines_of

from kyoukai.exceptions import InterfaceError
from kyoukai.interfaces.ssgi import SSGIWebSocket
from kyoukai.testing import Client

if TYPE_CHECKING:
    from talks import Outcome

MIB = 1048576
PENDING, REJECTED, CLOSED, ACCEPTED = range(4)

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def ask(app: Any, http2: bool, **options: Any) -> Outcome:
    async with Client(interface(app)) as client:
        return await converse(client, http2=http2, **options)


class Log:
    """Handlers that keep what they are called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def plain(self, ws: SSGIWebSocket, *arguments: Any) -> None:
        self.calls.append(arguments)

    async def waiting(self, ws: SSGIWebSocket, *arguments: Any) -> None:
        await asyncio.sleep(0)
        self.calls.append(arguments)


# -- The end -----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("code", "expected"), [(None, 1000), (1000, 1000), (1001, 1001), (3000, 3000), (4999, 4999)]
)
async def test_close(code: int | None, expected: int, http2: bool) -> None:
    log = Log()

    def application(*arguments: Any) -> None:
        ws = arguments[7]
        ws.on_close(log.plain)
        ws.accept()
        ws.close(code)
        ws.close(4000)
        assert ws.status == CLOSED

    outcome = await ask(application, http2)
    assert (outcome.code, outcome.reason) == (expected, "")
    assert log.calls == [(expected, None)]


@both
@pytest.mark.parametrize(
    ("sent", "told"),
    [((1000, ""), (1000, None)), ((1000, "why"), (1000, "why")), (None, (1005, None))],
)
@each_style
async def test_the_clients_close(
    sent: tuple[int, str] | None, told: tuple[Any, ...], style: str, http2: bool
) -> None:
    log = Log()

    async def work(ws: SSGIWebSocket) -> None:
        ws.on_close(log.plain)
        ws.on_close(log.waiting, "a", "b")
        ws.accept()

    async with Client(interface(in_style(style, work))) as client:
        async with client.websocket("/", http2=http2) as ws:
            ws.protocol.send_close(*(sent or (None, "")))
            ws.flush()
            await ws.wait_closed()
        await turns()
    assert log.calls == [told, (*told, "a", "b")]


@both
@each_style
async def test_a_client_that_is_lost(style: str, http2: bool) -> None:
    log = Log()
    sockets = []

    async def work(ws: SSGIWebSocket) -> None:
        sockets.append(ws)
        ws.accept()
        ws.on_close(log.plain)
        ws.on_close(log.waiting)

    async with (
        Client(interface(in_style(style, work))) as client,
        client.websocket("/", http2=http2) as ws,
    ):
        await turns()
        ws.abort()
        await turns()
        assert sockets[0].status == CLOSED
        assert log.calls == [(1006, None), (1006, None)]


@both
async def test_a_client_that_is_lost_before_the_answer(http2: bool) -> None:
    log = Log()
    begun, left = asyncio.Event(), asyncio.Event()
    ends = []

    async def work(ws: SSGIWebSocket) -> None:
        ws.on_close(log.plain, 1)
        begun.set()
        await left.wait()
        ends.append(ws.status)
        ws.accept()
        with pytest.raises(ConnectionError):
            await ws.accept()
        with pytest.raises(ConnectionError):
            await ws.reject()
        with pytest.raises(ConnectionError):
            await ws.send("gone")
        await ws.close()
        ws.on_close(log.plain, 2)

    async with Client(interface(on_http(work))) as client:

        async def open_it() -> None:
            async with client.websocket("/", http2=http2):
                raise AssertionError

        opening = asyncio.create_task(open_it())
        await begun.wait()
        opening.cancel()
        await asyncio.wait([opening])
        await turns()
        assert log.calls == [(1006, None, 1)]
        left.set()
        await turns()
    assert ends == [CLOSED]
    assert log.calls == [(1006, None, 1), (1006, None, 2)]


@both
async def test_a_handler_that_comes_late_is_called_too(http2: bool) -> None:
    log = Log()
    closed = asyncio.Event()

    async def work(ws: SSGIWebSocket) -> None:
        ws.on_close(lambda *arguments: closed.set())
        await ws.accept()
        await closed.wait()
        ws.on_close(log.plain, "late")

    async with Client(interface(on_http(work))) as client:
        async with client.websocket("/", http2=http2):
            pass
        await turns()
    assert log.calls == [(1000, None, "late")]


@both
async def test_handlers_of_close_are_not_called_after_reject(http2: bool) -> None:
    log = Log()

    async def work(ws: SSGIWebSocket) -> None:
        ws.on_close(log.plain)
        await ws.reject()

    assert (await ask(on_http(work), http2)).status == 403
    assert log.calls == []


@both
async def test_a_handler_of_close_that_raises(
    http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()

    def raises(*arguments: Any) -> None:
        raise ValueError

    async def sends(ws: SSGIWebSocket, *arguments: Any) -> None:
        await ws.send("gone")

    def application(*arguments: Any) -> None:
        for handler in (raises, sends, log.plain):
            arguments[7].on_close(handler)
        arguments[7].accept()

    async with Client(interface(application)) as client:
        async with client.websocket("/", http2=http2):
            pass
        await turns()
    assert log.calls == [(1000, None)]
    [line] = lines_of(caplog)
    assert line.endswith("site:app: unhandled error in a handler of on_close()")


@both
async def test_the_task_is_not_cancelled(http2: bool) -> None:
    go_on = asyncio.Event()
    ends = []

    async def work(ws: SSGIWebSocket) -> None:
        await ws.accept()
        await go_on.wait()
        ends.append(ws.status)
        with pytest.raises(ConnectionError):
            await ws.send("gone")
        ws.send("gone")
        await ws.close()
        ends.append("ignored")
        await ws.send("gone")  # let through

    async with Client(interface(on_http(work))) as client:
        async with client.websocket("/", http2=http2):
            pass
        await turns()
        assert ends == []
        go_on.set()
        await turns()
    assert ends == [CLOSED, "ignored"]


@both
async def test_tasks_go_on_after_the_close(http2: bool) -> None:
    go_on = asyncio.Event()
    ends = []

    async def later(ws: SSGIWebSocket) -> None:
        await go_on.wait()
        ends.append(ws.status)

    def application(*arguments: Any) -> None:
        ws = arguments[7]
        ws.accept()
        ws.run_async(later, ws)

    async with Client(interface(application)) as client:
        async with client.websocket("/", http2=http2):
            pass
        await turns()
        assert ends == []
        go_on.set()
        await turns()
        assert ends == [CLOSED]


@both
async def test_nothing_begins_when_it_is_over(http2: bool) -> None:
    kept: list[SSGIWebSocket] = []

    def application(*arguments: Any) -> None:
        arguments[7].accept()
        kept.append(arguments[7])

    async with Client(interface(application)) as client:
        async with client.websocket("/", http2=http2):
            pass
        await turns()
        for call in (kept[0].on_receive, kept[0].on_close, kept[0].run_async):
            with pytest.raises(InterfaceError, match="after the request is over"):
                call(print)


@both
async def test_the_server_stops(http2: bool) -> None:
    log = Log()

    def application(*arguments: Any) -> None:
        arguments[7].accept()
        arguments[7].on_close(log.plain)

    async with (
        Client(interface(application)) as client,
        client.websocket("/", http2=http2) as ws,
    ):
        client.server.connections.shutdown()
        await ws.wait_closed()
        assert ws.close_code == 1001
    assert log.calls == [(1001, "the server is stopping")]


@both
async def test_tasks_and_handlers_end_with_the_server(http2: bool) -> None:
    ends: list[str] = []

    async def forever(ws: SSGIWebSocket, name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append(name)

    async def work(ws: SSGIWebSocket) -> None:
        ws.on_receive(forever)
        await ws.accept()
        ws.run_async(forever, ws, "task")
        await forever(ws, "call")

    client = Client(interface(on_http(work)))
    await client.__aenter__()
    async with client.websocket("/", http2=http2) as ws:
        await ws.send_text("message")
        await turns()
        await client.__aexit__(None, None, None)
        assert sorted(ends) == ["call", "message", "task"]


# -- Slow clients ------------------------------------------------------------------------------


@both
async def test_awaiting_waits_for_the_client(http2: bool) -> None:
    sent = []
    go_on = asyncio.Event()

    async def work(ws: SSGIWebSocket) -> None:
        await ws.accept()
        await go_on.wait()
        for number in range(40):
            await ws.send(bytes([number]) * (MIB // 4))
            sent.append(number)
        ws.close()

    async with (
        Client(interface(on_http(work))) as client,
        client.websocket("/", http2=http2) as ws,
    ):
        ws.pause()
        go_on.set()
        await turns(100)
        assert len(sent) < 12
        ws.resume()
        for number in range(40):
            assert await ws.receive() == bytes([number]) * (MIB // 4)


@both
async def test_what_nobody_awaits_goes_out_in_order(http2: bool) -> None:
    def application(*arguments: Any) -> None:
        ws = arguments[7]
        ws.accept()
        buffer = bytearray(100000)
        for number in range(9):
            buffer[:] = bytes([number]) * 100000
            ws.send(buffer)
        ws.close()

    async with (
        Client(interface(application)) as client,
        client.websocket("/", http2=http2) as ws,
    ):
        ws.pause()
        await turns(100)
        ws.resume()
        messages = [message async for message in ws]
    assert messages == [bytes([number]) * 100000 for number in range(9)]


@both
async def test_too_much_that_nobody_awaits_resets_the_stream(
    http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    go_on = asyncio.Event()

    async def work(ws: SSGIWebSocket) -> None:
        ws.on_close(log.plain)
        await ws.accept()
        await go_on.wait()
        for _ in range(100):
            ws.send(bytes(65536))
        assert ws.status == CLOSED
        with pytest.raises(ConnectionError):
            await ws.send("gone")

    async with (
        Client(interface(on_http(work))) as client,
        client.websocket("/", http2=http2) as ws,
    ):
        ws.pause()
        go_on.set()
        await turns(50)
        assert log.calls == [(1006, None)]
        ws.abort()
    [line] = lines_of(caplog)
    assert "site:app: more was sent while 1" in line


@both
async def test_a_long_rejection(http2: bool) -> None:
    """The call ends before all of it is sent."""
    outcome = await ask(on_http(lambda ws: ws.reject(403, bytes(3 * MIB))), http2)
    assert outcome.denied is not None
    assert len(outcome.denied.body) == 3 * MIB


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_rejection_that_waits(leaves: bool) -> None:
    ends: list[Any] = []

    async def work(ws: SSGIWebSocket) -> None:
        ws.on_close(lambda *arguments: ends.append("closed"))
        sent = ws.reject(403, bytes(900000))
        ends.append(ws.status)
        try:
            await sent
        except ConnectionError:
            ends.append("gone")
        else:
            ends.append("sent")
        ends.append(ws.status)

    async with Client(interface(on_http(work))) as client:
        connection = client.connect()
        connection.transport.hold()
        connection.request("GET", "/", HANDSHAKE)
        await turns()
        assert ends == [REJECTED]
        if leaves:
            connection.close()
        else:
            connection.transport.output[:0] = connection.transport.release()
            assert len((await connection.response()).body) == 900000
        await turns()
    assert ends == [REJECTED, "gone" if leaves else "sent", REJECTED]


# -- What is left behind -----------------------------------------------------------------------


@both
@each_style
async def test_nothing_is_left_to_the_collector(style: str, http2: bool) -> None:
    async def work(ws: SSGIWebSocket) -> None:
        ws.on_receive(lambda ws, message: ws.send(message))
        ws.on_close(lambda ws, code, reason: None)
        ws.accept()

    async with Client(interface(STYLES[style](on_http(work)))) as client:
        for _ in range(3):
            gc.collect()
            gc.disable()
            try:
                async with client.websocket("/", http2=http2) as ws:
                    await ws.send_text("a")
                    await ws.receive()
                await turns()
                alive = [each for each in gc.get_objects() if type(each) is SSGIWebSocket]
            finally:
                gc.enable()
            assert alive == []
