"""SSGI's ``res`` for WebSockets, on both wires: the handshake, the rules, the messages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from backends.support import turns
from ssgi_peers import each_style, in_style, interface, on_http
from talks import both, converse, lines_of

from kyoukai.exceptions import InterfaceError, InvalidResponse
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
@pytest.mark.parametrize("style", ["async", "run_async"])
async def test_messages_that_have_waited_in_vain_are_dropped(style: str, http2: bool) -> None:
    log = Log()
    go_on = asyncio.Event()

    async def work(ws: SSGIWebSocket) -> None:
        ws.on_close(log.plain)
        await ws.accept()
        await go_on.wait()

    async with Client(interface(in_style(style, work))) as client:
        async with client.websocket("/", http2=http2) as ws:
            for _ in range(20):
                await ws.send_text("x" * 1000)
            await turns()
            go_on.set()
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
