"""SSGI's ``res`` for WebSockets, on both wires."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from ssgi_peers import STYLES, each_style, in_style, interface, on_http
from talks import both, converse, lines_of

from kyoukai.exceptions import InterfaceError, InvalidResponse, WebSocketDisconnected
from kyoukai.interfaces.ssgi import SSGIWebSocket
from kyoukai.testing import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from talks import Outcome

MIB = 1048576
PENDING, REJECTED, CLOSED, ACCEPTED = range(4)


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


# -- The handshake -----------------------------------------------------------------------------


@both
@each_style
async def test_accept_and_messages(style: str, http2: bool) -> None:
    async def work(ws: SSGIWebSocket) -> None:
        assert ws.status == PENDING
        assert await ws.accept() is None
        assert ws.status == ACCEPTED
        assert await ws.send("text é") is None
        for payload in (b"bytes", bytearray(b"array"), memoryview(b"view"), ""):
            ws.send(payload)
        ws.close()
        assert ws.status == CLOSED

    outcome = await ask(in_style(style, work), http2)
    assert outcome.messages == ("text é", b"bytes", b"array", b"view", "")
    assert (outcome.code, outcome.reason) == (1000, "")


@both
@each_style
async def test_an_echo(style: str, http2: bool) -> None:
    """It lasts although the call has ended."""
    log = Log()

    async def work(ws: SSGIWebSocket) -> None:
        ws.on_receive(lambda ws, message: ws.send(message))
        ws.on_receive(log.waiting, 1, 2)
        ws.on_close(log.plain, 3)
        ws.accept()

    async with Client(interface(in_style(style, work))) as client:
        async with client.websocket("/", http2=http2, deflate=True) as ws:
            for message in ("one", b"two", "", "x" * 100000):
                await (ws.send_text if isinstance(message, str) else ws.send_data)(message)
                assert await ws.receive() == message
            await ws.close(3001, "enough")
        await turns()
    assert log.calls == [
        ("one", 1, 2),
        (b"two", 1, 2),
        ("", 1, 2),
        ("x" * 100000, 1, 2),
        (3001, "enough", 3),
    ]


@both
@each_style
async def test_reject(style: str, http2: bool) -> None:
    async def work(ws: SSGIWebSocket) -> None:
        assert await ws.reject(418, "tea", [("X-A", "1")]) is None
        assert ws.status == REJECTED

    outcome = await ask(in_style(style, work), http2)
    assert outcome.denied is not None
    assert (outcome.status, outcome.denied.body) == (418, b"tea")
    assert outcome.denied.headers["X-A"] == "1"


@both
@pytest.mark.parametrize(
    ("arguments", "status", "body"),
    [
        ({}, 403, b""),
        ({"status_code": None}, 403, b""),
        ({"status_code": 302, "headers": [("Location", "/")]}, 302, b""),
        ({"payload": bytearray(b"a")}, 403, b"a"),
        ({"payload": memoryview(b"a")}, 403, b"a"),
        ({"payload": None, "headers": None}, 403, b""),
    ],
)
async def test_how_to_reject(
    arguments: dict[str, Any], status: int, body: bytes, http2: bool
) -> None:
    outcome = await ask(on_http(lambda ws: ws.reject(**arguments)), http2)
    assert outcome.denied is not None
    assert (outcome.status, outcome.denied.body) == (status, body)


@both
async def test_close_before_accept_rejects(http2: bool) -> None:
    states = []

    async def work(ws: SSGIWebSocket) -> None:
        await ws.close(4000)
        states.append(ws.status)
        await ws.close()

    assert (await ask(on_http(work), http2)).status == 403
    assert states == [REJECTED]


@both
@pytest.mark.parametrize(
    ("offered", "protocol", "chosen"),
    [
        (["b", "a"], None, "b"),
        (["b", "a"], "a", "a"),
        (["b", "a"], "", None),
        ([], None, None),
        ([], "", None),
    ],
)
async def test_subprotocols(
    offered: list[str], protocol: str | None, chosen: str | None, http2: bool
) -> None:
    extensions: dict[str, Any] = {}

    async def work(ws: SSGIWebSocket) -> None:
        ws.accept(protocol)
        extensions.update(ws.extensions)

    async with (
        Client(interface(on_http(work))) as client,
        client.websocket("/", http2=http2, subprotocols=offered) as ws,
    ):
        assert ws.subprotocol == chosen
    assert extensions["subprotocols"] == tuple(offered)
    assert extensions["subprotocol"] == chosen


@both
@pytest.mark.parametrize(
    "headers", [{"Sec-WebSocket-Version": "12"}, {"Origin": "http://elsewhere"}]
)
async def test_a_wrong_handshake_never_reaches_the_application(
    headers: dict[str, str], http2: bool
) -> None:
    def application(*arguments: Any) -> None:
        raise AssertionError

    outcome = await ask(application, http2, headers=headers)
    assert outcome.status in (400, 403, 426)


# -- Out of order ------------------------------------------------------------------------------


def send_before_accept(ws: SSGIWebSocket) -> None:
    ws.send("a")


def send_after_reject(ws: SSGIWebSocket) -> None:
    ws.reject()
    ws.send("a")


def accept_twice(ws: SSGIWebSocket) -> None:
    ws.accept()
    ws.accept()


def accept_after_reject(ws: SSGIWebSocket) -> None:
    ws.reject()
    ws.accept()


def reject_twice(ws: SSGIWebSocket) -> None:
    ws.reject()
    ws.reject()


def reject_after_accept(ws: SSGIWebSocket) -> None:
    ws.accept()
    ws.reject()


def reject_by_200(ws: SSGIWebSocket) -> None:
    ws.reject(200)


def reject_with_a_number(ws: SSGIWebSocket) -> None:
    ws.reject(403, 7)  # type: ignore[arg-type]


def reject_with_a_split_header(ws: SSGIWebSocket) -> None:
    ws.reject(403, None, [("x", "a\r\nb")])


def reject_with_another_length(ws: SSGIWebSocket) -> None:
    ws.reject(403, b"abc", [("content-length", "7")])


def accept_what_is_not_offered(ws: SSGIWebSocket) -> None:
    ws.accept("chat")


def accept_bytes(ws: SSGIWebSocket) -> None:
    ws.accept(b"chat")  # type: ignore[arg-type]


def send_a_number(ws: SSGIWebSocket) -> None:
    ws.accept()
    ws.send(7)  # type: ignore[arg-type]


def send_nothing(ws: SSGIWebSocket) -> None:
    ws.accept()
    ws.send(None)  # type: ignore[arg-type]


def send_no_unicode(ws: SSGIWebSocket) -> None:
    ws.accept()
    ws.send("\udc00")


def close_1005(ws: SSGIWebSocket) -> None:
    ws.accept()
    ws.close(1005)


def close_text(ws: SSGIWebSocket) -> None:
    ws.accept()
    ws.close("1000")  # type: ignore[arg-type]


def no_receiver(ws: SSGIWebSocket) -> None:
    ws.on_receive(None)  # type: ignore[arg-type]


def no_closer(ws: SSGIWebSocket) -> None:
    ws.on_close("f")  # type: ignore[arg-type]


#: What breaks the rules, the rule as it is told, and what the client gets: a status or a code.
BROKEN: list[tuple[Callable[..., Any], str, int]] = [
    (send_before_accept, "send() to a WebSocket that is pending", 500),
    (send_after_reject, "send() to a WebSocket that is rejected", 403),
    (accept_twice, "accept() of a WebSocket that is accepted", 1011),
    (accept_after_reject, "accept() of a WebSocket that is rejected", 403),
    (reject_twice, "reject() of a WebSocket that is rejected", 403),
    (reject_after_accept, "reject() of a WebSocket that is accepted", 1011),
    (reject_by_200, "reject() takes a status from 300 to 599, not 200", 500),
    (
        reject_with_a_number,
        "reject() takes str, bytes, bytearray or memoryview, not int",
        500,
    ),
    (reject_with_a_split_header, "header 'x' has an illegal value b'a\\r\\nb'", 500),
    (reject_with_another_length, "the body has 3 bytes, its Content-Length says 7", 500),
    (
        accept_what_is_not_offered,
        "accept(): the client does not offer 'chat'; it offers: none",
        500,
    ),
    (accept_bytes, "accept() takes a str or None, not bytes", 500),
    (send_a_number, "send() takes str, bytes, bytearray or memoryview, not int", 1011),
    (send_nothing, "send() takes str, bytes, bytearray or memoryview, not NoneType", 1011),
    (send_no_unicode, "send(): the text is not Unicode: surrogates not allowed", 1011),
    (
        close_1005,
        "close(): 1005 is no close code to send: 1000 to 1003, 1007 to 1014, 3000 to 4999",
        1011,
    ),
    (
        close_text,
        "close(): '1000' is no close code to send: 1000 to 1003, 1007 to 1014, 3000 to 4999",
        1011,
    ),
    (no_receiver, "on_receive() takes a callable, not NoneType", 500),
    (no_closer, "on_close() takes a callable, not str", 500),
]


@both
@each_style
@pytest.mark.parametrize(
    ("broken", "rule", "end"), BROKEN, ids=[broken.__name__ for broken, _, _ in BROKEN]
)
async def test_rules_are_told_where_they_are_broken_and_in_the_log(
    broken: Any, rule: str, end: int, style: str, http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    raised = []

    def work(ws: SSGIWebSocket) -> None:
        try:
            broken(ws)
        except (InterfaceError, InvalidResponse) as error:
            raised.append(str(error))
            raise

    async def waiting(ws: SSGIWebSocket) -> None:
        work(ws)

    application = on_http(work) if style == "sync" else in_style(style, waiting)
    outcome = await ask(application, http2)
    assert (outcome.status or outcome.code) == end
    assert raised == [rule]
    method = "CONNECT" if http2 else "GET"
    assert lines_of(caplog) == [f"{method} /: ssgi application site:app: {rule}"]


@both
@each_style
async def test_a_handshake_without_an_answer(
    style: str, http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(ws: SSGIWebSocket) -> None:
        ws.on_receive(print)

    assert (await ask(in_style(style, work), http2)).status == 500
    [line] = lines_of(caplog)
    assert line.endswith("the application returned without an answer")


@both
@pytest.mark.parametrize("accepts", [False, True])
@pytest.mark.parametrize("style", ["async", "run_async"])
async def test_an_application_that_raises(
    style: str, accepts: bool, http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()

    async def work(ws: SSGIWebSocket) -> None:
        ws.on_close(log.plain)
        if accepts:
            await ws.accept()
        raise ValueError

    outcome = await ask(in_style(style, work), http2)
    assert (outcome.status, outcome.code) == ((None, 1011) if accepts else (500, None))
    [line] = lines_of(caplog)
    assert line.endswith("ssgi application site:app: unhandled error in the application")
    assert log.calls == ([(1011, None)] if accepts else [])


# -- Messages that come ------------------------------------------------------------------------


@both
async def test_messages_wait_for_a_handler(http2: bool) -> None:
    """While the application's coroutine runs, or a task of it."""
    log = Log()
    go_on = asyncio.Event()

    async def work(ws: SSGIWebSocket) -> None:
        await ws.accept()
        await go_on.wait()
        ws.on_receive(log.plain)

    for style in ("async", "run_async"):
        log.calls.clear()
        go_on.clear()
        async with (
            Client(interface(in_style(style, work))) as client,
            client.websocket("/", http2=http2) as ws,
        ):
            for number in range(20):
                await ws.send_text(str(number))
            await turns()
            assert log.calls == []
            go_on.set()
            await turns(60)
            assert log.calls == [(str(number),) for number in range(20)]


@both
async def test_messages_that_nobody_wants_are_dropped(http2: bool) -> None:
    """So that a close is not stuck behind them."""
    log = Log()

    def application(*arguments: Any) -> None:
        arguments[7].accept()
        arguments[7].on_close(log.plain)

    async with Client(interface(application)) as client:
        async with client.websocket("/", http2=http2) as ws:
            for _ in range(20):
                await ws.send_text("x" * 1000)
        await turns()
    assert log.calls == [(1000, None)]


@both
async def test_messages_come_one_after_the_other(http2: bool) -> None:
    """The next is given when the handler of the last has ended; on_close comes after them all."""
    order: list[Any] = []
    go_on = asyncio.Event()

    async def receive(ws: SSGIWebSocket, message: str) -> None:
        order.append(message)
        if message == "0":
            await go_on.wait()
        order.append(f"end {message}")

    def application(*arguments: Any) -> None:
        ws = arguments[7]
        ws.accept()
        ws.on_receive(receive)
        ws.on_close(lambda ws, code, reason: order.append(code))

    async with Client(interface(application)) as client:
        async with client.websocket("/", http2=http2) as ws:
            for number in range(3):
                await ws.send_text(str(number))
            await turns()
            assert order == ["0"]
            ws.protocol.send_close(1000)
            ws.flush()
            await turns()
            assert order == ["0"]
            go_on.set()
        await turns()
    assert order == ["0", "end 0", "1", "end 1", "2", "end 2", 1000]


@both
async def test_messages_that_nobody_takes_stop_the_reading(http2: bool) -> None:
    go_on = asyncio.Event()
    seen = []

    async def receive(ws: SSGIWebSocket, message: bytes) -> None:
        await go_on.wait()
        seen.append(len(message))

    def application(*arguments: Any) -> None:
        arguments[7].accept()
        arguments[7].on_receive(receive)

    async with Client(interface(application), ws_max_message_size=MIB) as client:
        async with client.websocket("/", http2=http2) as ws:
            for _ in range(40):
                ws.protocol.send_binary(bytes(MIB // 4))
            ws.flush()
            await turns(50)
            assert ws.tunnel.unsent > 4 * MIB
            go_on.set()
        assert seen == [MIB // 4] * 40


@both
@pytest.mark.parametrize("waits", [False, True])
async def test_a_handler_of_messages_that_raises(
    waits: bool, http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()

    def plain(ws: SSGIWebSocket, message: str) -> None:
        raise ValueError

    async def waiting(ws: SSGIWebSocket, message: str) -> None:
        await asyncio.sleep(0)
        raise ValueError

    def application(*arguments: Any) -> None:
        ws = arguments[7]
        ws.accept()
        ws.on_receive(waiting if waits else plain)
        ws.on_close(log.plain)

    async with Client(interface(application)) as client:
        async with client.websocket("/", http2=http2) as ws:
            await ws.send_text("one")
            await ws.send_text("two")
            await ws.wait_closed()
            assert ws.close_code == 1011
        await turns()
    assert log.calls == [(1011, None)]
    [line] = lines_of(caplog)
    assert line.endswith("site:app: unhandled error in a handler of on_receive()")


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
        with pytest.raises(WebSocketDisconnected, match="1000"):
            raise WebSocketDisconnected(1000)
        with pytest.raises(ConnectionError):
            await ws.send("gone")
        ws.send("gone")
        await ws.close()
        await ws.send("gone")  # let through

    async with Client(interface(on_http(work))) as client:
        async with client.websocket("/", http2=http2):
            pass
        await turns()
        assert ends == []
        go_on.set()
        await turns()
    assert ends == [CLOSED]


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
async def test_a_rejection_that_waits(http2: bool) -> None:
    """The call ends before all of it is sent."""
    ends = []

    async def work(ws: SSGIWebSocket) -> None:
        sent = ws.reject(403, bytes(3 * MIB))
        ends.append(ws.status)
        await sent
        ends.append("sent")

    def application(*arguments: Any) -> None:
        arguments[7].reject(403, bytes(3 * MIB))

    for app in (on_http(work), application):
        async with Client(interface(app)) as client:
            outcome = await converse(client, http2=http2)
            assert outcome.denied is not None
            assert len(outcome.denied.body) == 3 * MIB
            await turns()
    assert ends == [REJECTED, "sent"]


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
