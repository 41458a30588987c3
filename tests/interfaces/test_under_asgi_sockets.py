"""WebSockets of Kyoukai applications below ASGI servers."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.testing import ApplicationCommunicator
from talks import app_with, greet, lines_of, turns
from under_ways import Lifespan, answer_of, socket_scope

from kyoukai import Kyoukai, WebSocketDisconnected
from kyoukai.exceptions import InterfaceError, StreamError, StreamStateError
from kyoukai.interfaces.under_asgi import as_asgi
from kyoukai.interfaces.under_asgi_websocket import AsgiSocketWire
from kyoukai.testing import Client, WebSocketDenied

if TYPE_CHECKING:
    from collections.abc import Callable

    from kyoukai import HTTPRequestContext, WebSocket

ACCEPT = {"type": "websocket.accept", "subprotocol": None, "headers": []}
DENIAL = {"websocket.http.response": {}}


class Talk(ApplicationCommunicator):
    """An ASGI server with a WebSocket that wants to be opened."""

    def __init__(
        self, handler: Callable[..., Any] | Kyoukai, settings: Any = None, **changes: Any
    ) -> None:
        app = handler if isinstance(handler, Kyoukai) else app_with(handler)
        scope = socket_scope(**{"extensions": DENIAL, **changes})
        super().__init__(as_asgi(app, settings=settings), scope)

    async def begin(self) -> dict[str, Any]:
        await self.send_input({"type": "websocket.connect"})
        message: dict[str, Any] = await self.receive_output()
        return message

    async def text(self, text: str) -> None:
        await self.send_input({"type": "websocket.receive", "text": text})

    async def bytes(self, data: bytes) -> None:
        await self.send_input({"type": "websocket.receive", "bytes": data, "text": None})

    async def leave(self, **close: Any) -> None:
        await self.send_input({"type": "websocket.disconnect", **close})
        await self.wait()


async def echo(ctx: Any, ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await (ws.send_text(message) if isinstance(message, str) else ws.send_data(message))


async def test_messages_both_ways() -> None:
    talk = Talk(echo)
    assert await talk.begin() == ACCEPT
    await talk.text("grüße")
    assert await talk.receive_output() == {"type": "websocket.send", "text": "grüße"}
    await talk.text("")
    assert await talk.receive_output() == {"type": "websocket.send", "text": ""}
    for size in (0, 125, 126, 65535, 65536, 1048576):
        await talk.bytes(b"\xff" * size)
        message = await talk.receive_output()
        assert message == {"type": "websocket.send", "bytes": b"\xff" * size}
    await talk.leave(code=1000)


async def test_bytes_are_not_to_be_had() -> None:
    """An ASGI server passes on messages: a raw tunnel is refused, and that costs nothing."""

    async def handler(ctx: Any, ws: WebSocket) -> None:
        with pytest.raises(StreamStateError):
            ws.stream.accept_upgrade(())
        await echo(ctx, ws)

    talk = Talk(handler)
    assert await talk.begin() == ACCEPT
    await talk.text("hi")
    assert await talk.receive_output() == {"type": "websocket.send", "text": "hi"}
    await talk.leave(code=1000)


async def test_messages_keep_their_order() -> None:
    async def count(ctx: Any, ws: WebSocket) -> None:
        await ws.accept()
        for number in range(500):
            await ws.send_text(str(number))

    talk = Talk(count)
    await talk.begin()
    got = [(await talk.receive_output())["text"] for _ in range(500)]
    assert got == [str(number) for number in range(500)]
    message = await talk.receive_output()
    assert (message["type"], message["code"]) == ("websocket.close", 1000)
    await talk.wait()


async def test_a_subprotocol_and_headers() -> None:
    async def choose(ctx: HTTPRequestContext, ws: WebSocket) -> None:
        assert ws.subprotocols == ("chat", "superchat")
        await ws.accept("superchat", headers={"X-One": "1"})

    talk = Talk(choose, subprotocols=["chat", "superchat"])
    assert await talk.begin() == {
        "type": "websocket.accept",
        "subprotocol": "superchat",
        "headers": [(b"x-one", b"1")],
    }
    assert (await talk.receive_output())["code"] == 1000
    await talk.wait()


async def test_the_handshake_is_the_requests() -> None:
    async def show(ctx: HTTPRequestContext, ws: WebSocket) -> None:
        request = ctx.request
        await ws.accept()
        await ws.send_text(
            f"{request.scheme} {request.host} {request.root_path} {request.path} {request.args}"
        )

    app = Kyoukai("test")
    app.websocket("/room")(show)
    talk = Talk(app, target="/pre/room?q=1", root_path="/pre", scheme="wss")
    await talk.begin()
    assert (await talk.receive_output())["text"] == (
        "https example.com /pre /room ImmutableMultiDict([('q', '1')])"
    )
    assert (await talk.receive_output())["type"] == "websocket.close"


@pytest.mark.parametrize(
    "close, seen",
    [
        ({"code": 1001, "reason": "going"}, (1001, "going")),
        ({"code": 4321}, (4321, "")),
        ({"code": 1005}, (1005, "")),
        ({}, (1005, "")),
        ({"code": 1006}, (1006, "")),
        ({"code": 1012, "reason": None}, (1012, "")),
        ({"code": 1, "reason": "no code at all"}, (1006, "")),
        ({"code": 3000, "reason": "é" * 100}, (3000, "é" * 61)),
    ],
)
async def test_how_the_client_closes(close: dict[str, Any], seen: tuple[int, str]) -> None:
    found = []

    async def wait(ctx: Any, ws: WebSocket) -> None:
        await ws.accept()
        assert await ws.receive() == "first"
        try:
            await ws.receive()
        except WebSocketDisconnected as error:
            found.append((error.code, error.reason))
        with pytest.raises(WebSocketDisconnected):
            await ws.send_text("too late")

    talk = Talk(wait)
    await talk.begin()
    await talk.text("first")
    await talk.leave(**close)
    assert found == [seen]
    assert talk.output_queue.empty(), "nothing is sent to a client that is gone"


async def test_messages_before_the_clients_close_can_be_received() -> None:
    found = []
    go_on = asyncio.Event()

    async def late(ctx: Any, ws: WebSocket) -> None:
        await ws.accept()
        await go_on.wait()
        async for message in ws:
            found.append(message)

    talk = Talk(late)
    await talk.begin()
    for number in range(20):
        await talk.text(str(number))
    await talk.send_input({"type": "websocket.disconnect", "code": 1000})
    await turns()
    assert talk.input_queue.qsize() >= 15, "no more is taken than the session wants"
    go_on.set()
    await talk.wait()
    assert found == [str(number) for number in range(20)]


async def test_how_the_handler_closes() -> None:
    async def closes(ctx: Any, ws: WebSocket) -> None:
        await ws.accept()
        await ws.close(4000, "enough")

    talk = Talk(closes)
    await talk.begin()
    assert await talk.receive_output() == {
        "type": "websocket.close",
        "code": 4000,
        "reason": "enough",
    }
    await talk.wait()


async def test_a_server_that_closes_once_nobody_receives_any_more() -> None:
    """As Granian does: what we send last may have to wait until we do not receive."""
    receiving = asyncio.Lock()
    sent = []
    ended = []

    async def closes(ctx: Any, ws: WebSocket) -> None:
        await ws.accept()
        await ws.close(4000)
        ended.append(True)

    first = [{"type": "websocket.connect"}]

    async def receive() -> Any:
        if first:
            return first.pop()
        async with receiving:
            return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "websocket.close":
            async with receiving:
                assert ended
        sent.append(message["type"])

    await as_asgi(app_with(closes))(socket_scope(), receive, send)
    assert sent == ["websocket.accept", "websocket.close"]


async def test_a_handler_that_fails_closes_by_1011(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(ctx: Any, ws: WebSocket) -> None:
        await ws.accept()
        raise LookupError("not like this")

    talk = Talk(fails)
    await talk.begin()
    assert (await talk.receive_output())["code"] == 1011
    await talk.wait()
    assert "not like this" in caplog.text


async def test_limits_are_ours() -> None:
    talk = Talk(echo, settings={"ws_max_message_size": 1000})
    await talk.begin()
    await talk.text("x" * 1001)
    assert (await talk.receive_output())["code"] == 1009
    await talk.wait()


async def test_a_ping_is_answered_by_the_loop_back() -> None:
    async def pings(ctx: Any, ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text(str(await ws.ping() < 5))

    talk = Talk(pings)
    await talk.begin()
    assert (await talk.receive_output())["text"] == "True"
    assert (await talk.receive_output())["type"] == "websocket.close"
    await talk.wait()


async def test_a_denial_is_an_answer_where_the_server_can() -> None:
    async def deny(ctx: Any, ws: WebSocket) -> None:
        await ws.deny(401, "not you")

    talk = Talk(deny)
    await talk.send_input({"type": "websocket.connect"})
    answer = await answer_of(talk)
    assert (answer.status, answer.body) == (401, b"not you")
    talk = Talk(deny, extensions={})
    assert await talk.begin() == {"type": "websocket.close", "code": 1000, "reason": ""}
    await talk.wait()
    assert talk.output_queue.empty()


@pytest.mark.parametrize(
    "changes, status",
    [
        ({"target": "/nowhere"}, 404),
        ({"target": "/http"}, 405),
        ({"headers": [(b"origin", b"https://evil.example")]}, 403),
        ({"headers": [(b"origin", b"http://example.com")]}, 403),  # the handler does not accept
        ({"subprotocols": ["a b"]}, 400),
        ({"headers": [(b"host", b"other")]}, 400),
    ],
)
async def test_what_is_no_websocket(changes: dict[str, Any], status: int) -> None:
    async def returns(ctx: Any, ws: WebSocket) -> None:
        pass

    app = app_with(returns)
    app.route("/http")(greet)
    talk = Talk(app, **changes)
    await talk.send_input({"type": "websocket.connect"})
    assert (await answer_of(talk)).status == status


async def test_a_client_that_is_gone_before_it_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AsgiSocketWire, "patience", 0.0)
    cancelled = asyncio.Event()

    async def waits(ctx: Any, ws: WebSocket) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    talk = Talk(waits)
    await talk.send_input({"type": "websocket.connect"})
    await turns()
    await talk.leave(code=1006)
    assert cancelled.is_set()
    talk = Talk(waits)
    await talk.send_input({"type": "websocket.disconnect", "code": 1006})
    await talk.wait()
    assert talk.output_queue.empty()


async def test_a_server_is_not_asked_about_a_websocket_that_is_denied() -> None:
    """Granian's worker fails at its end if it was."""
    asked = []
    sent = []

    async def deny(ctx: Any, ws: WebSocket) -> None:
        await turns()
        await ws.deny(401)

    async def receive() -> Any:
        asked.append(True)
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        await turns()
        sent.append(message["type"])

    await as_asgi(app_with(deny))(socket_scope(extensions=DENIAL), receive, send)
    assert sent == ["websocket.http.response.start", "websocket.http.response.body"]
    assert asked == [True]


async def test_a_slow_client_makes_the_handler_wait() -> None:
    sent = 0
    taken: list[Any] = []
    room = asyncio.Semaphore(2)
    over = asyncio.Event()
    inbox = iter([{"type": "websocket.connect"}])

    async def floods(ctx: Any, ws: WebSocket) -> None:
        nonlocal sent
        await ws.accept()
        for _ in range(100):
            await ws.send_data(bytes(10000))
            sent += 1

    async def receive() -> Any:
        message = next(inbox, None)
        if message is None:
            await over.wait()
            return {"type": "websocket.disconnect", "code": 1000}
        return message

    async def send(message: Any) -> None:
        await room.acquire()
        taken.append(message)
        if message["type"] == "websocket.close":
            over.set()

    task = asyncio.create_task(as_asgi(app_with(floods))(socket_scope(), receive, send))
    await turns(200)
    assert len(taken) == 2
    assert sent <= 9, "not much more than ws_write_limit waits"
    for _ in range(200):
        room.release()
    await task
    assert [message["type"] for message in taken].count("websocket.send") == 100


async def test_a_client_that_takes_nothing_does_not_hold_the_end_up() -> None:
    async def says(ctx: Any, ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text("x")
        await ws.close()

    first = [{"type": "websocket.connect"}]

    async def receive() -> Any:
        return first.pop() if first else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] != "websocket.accept":
            await asyncio.Event().wait()

    application = as_asgi(app_with(says), settings={"ws_close_timeout": 0.05})
    with pytest.raises(StreamError, match="must close"):
        await application(socket_scope(), receive, send)


async def test_a_send_that_fails_ends_the_socket_and_is_raised() -> None:
    codes = []

    async def floods(ctx: Any, ws: WebSocket) -> None:
        await ws.accept()
        try:
            while True:
                await ws.send_data(bytes(50000))
        except WebSocketDisconnected as error:
            codes.append(error.code)

    first = [{"type": "websocket.connect"}]

    async def receive() -> Any:
        return first.pop() if first else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        if message["type"] == "websocket.send":
            raise RuntimeError("the server does not like it")

    with pytest.raises(RuntimeError, match="does not like"):
        await as_asgi(app_with(floods))(socket_scope(), receive, send)
    assert codes == [1006]


async def test_messages_that_come_after_the_end_are_dropped() -> None:
    ended = asyncio.Event()

    async def closes(ctx: Any, ws: WebSocket) -> None:
        ctx.add_teardown_callback(turns)
        ctx.add_teardown_callback(ended.set)
        await ws.accept()
        await ws.close(4000)

    messages = [{"type": "websocket.connect"}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await ended.wait()
        await asyncio.sleep(0)
        return {"type": "websocket.receive", "text": "late"}

    async def send(message: Any) -> None:
        pass

    await as_asgi(app_with(closes))(socket_scope(), receive, send)


async def test_open_sockets_are_told_that_the_server_stops() -> None:
    app = app_with(echo)
    application = as_asgi(app)
    lifespan = Lifespan(application)
    await lifespan.begin()
    talk = ApplicationCommunicator(application, socket_scope())
    await talk.send_input({"type": "websocket.connect"})
    assert await talk.receive_output() == ACCEPT
    assert (await lifespan.end())["type"] == "lifespan.shutdown.complete"
    assert (await talk.receive_output())["code"] == 1001
    await talk.wait()


async def test_sockets_leave_nothing_to_the_collector() -> None:
    application = as_asgi(app_with(echo))

    async def one() -> None:
        talk = ApplicationCommunicator(application, socket_scope())
        await talk.send_input({"type": "websocket.connect"})
        assert await talk.receive_output() == ACCEPT
        await talk.send_input({"type": "websocket.receive", "text": "x"})
        assert (await talk.receive_output())["text"] == "x"
        await talk.send_input({"type": "websocket.disconnect", "code": 1000})
        await talk.wait()

    await one()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await one()
        gc.collect()
        left = [each for each in gc.garbage if type(each).__module__.startswith("kyoukai")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


async def test_a_message_that_should_not_come() -> None:
    talk = Talk(echo)
    await talk.begin()
    await talk.send_input({"type": "http.request"})
    with pytest.raises(InterfaceError, match=r"http\.request"):
        await talk.wait()


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
async def test_below_our_own_asgi_interface(http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Kyoukai as ASGI below Kyoukai: whatever one half says, the other understands."""
    app = app_with(echo)
    closed = []

    async def last(ctx: Any, ws: WebSocket) -> None:
        await ws.accept("b")
        try:
            await ws.receive()
        except WebSocketDisconnected as error:
            closed.append(error.code)

    app.websocket("/last")(last)

    @app.route("/http", methods=["POST"])
    async def http(ctx: HTTPRequestContext) -> bytes:
        return ctx.request.get_data()[::-1]

    config = {"access_log": False}
    outer = Kyoukai("outer")
    outer.mount("/in", as_asgi(app), interface="asgi")
    async with Client(outer, **config) as client:
        async with client.websocket("/in/", http2=http2) as ws:
            await ws.send_text("hi")
            assert await ws.receive() == "hi"
            await ws.send_data(b"\x00" * 100000)
            assert await ws.receive() == b"\x00" * 100000
        async with client.websocket("/in/last", http2=http2, subprotocols=["a", "b"]) as ws:
            assert ws.subprotocol == "b"
            await ws.close(4001, "bye")
        with pytest.raises(WebSocketDenied, match="404"):
            async with client.websocket("/in/none", http2=http2):
                pass
        answer = await client.post("/in/http", body=b"x" * 100000 + b"y")
        assert answer.body == b"y" + b"x" * 100000
    assert closed == [4001]
    assert lines_of(caplog) == []
