"""ASGI over WebSockets: scopes, handshakes, messages, and how conversations end."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import pytest
from backends.wires import LINES, close_frame
from interfaces.asgi_peers import interface, sound  # noqa: F401
from talks import both, converse, lines_of, turns

from kyoukai.exceptions import (
    InterfaceError,
    InvalidResponse,
    KyoukaiError,
    PeerGone,
    WebSocketDisconnected,
)
from kyoukai.testing import Client, MemoryServer

ACCEPT = {"type": "websocket.accept"}
CONNECT = {"type": "websocket.connect"}

lines = pytest.mark.parametrize("line_class", LINES.values(), ids=LINES)


def close(**more: Any) -> dict[str, Any]:
    return {"type": "websocket.close", **more}


def text(payload: Any) -> dict[str, Any]:
    return {"type": "websocket.send", "text": payload}


def data(payload: Any) -> dict[str, Any]:
    return {"type": "websocket.send", "bytes": payload}


def deny(status: Any = 403, *headers: Any) -> dict[str, Any]:
    return {"type": "websocket.http.response.start", "status": status, "headers": headers}


def deny_body(payload: Any = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "websocket.http.response.body", "body": payload, "more_body": more}


def gone(code: int, reason: str = "") -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


class Talker:
    """An application that sends these messages to whoever shakes hands, and keeps its scope."""

    def __init__(self, *messages: Any) -> None:
        self.messages = messages
        self.scope: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        assert await receive() == CONNECT
        for message in self.messages:
            await send(message)


async def talk(app: Any, http2: bool, **options: Any) -> Any:
    """Open a WebSocket, receive until it is closed, and say how that ended."""
    async with Client(interface(app)) as client:
        return await converse(client, options.pop("target", "/"), http2=http2, **options)


# -- Handshakes --------------------------------------------------------------------------------


@both
async def test_the_scope_of_a_handshake(http2: bool) -> None:
    app = Talker(close())
    await talk(app, http2, target="/a%20b?c=d", headers=[("x-a", "1")], subprotocols=("one", "two"))
    headers = app.scope.pop("headers")
    assert headers[0] == (b"host", b"localhost")
    assert (b"x-a", b"1") in headers
    assert (b"sec-websocket-version", b"13") in headers
    assert app.scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "2" if http2 else "1.1",
        "scheme": "ws",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"c=d",
        "root_path": "",
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "subprotocols": ["one", "two"],
        "state": {},
        "extensions": {"websocket.http.response": {}},
    }


@both
async def test_acceptance(http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    accept = {**ACCEPT, "subprotocol": "two", "headers": [(b"X-A", b"1"), (b"set-cookie", b"b")]}
    app = Talker(accept, text("hello"))
    async with (
        Client(interface(app)) as client,
        client.websocket("/", http2=http2, subprotocols=("one", "two")) as ws,
    ):
        assert ws.subprotocol == "two"
        assert ws.response.headers["x-a"] == "1"
        assert ws.response.headers["set-cookie"] == "b"
        assert await ws.receive_text() == "hello"
    assert lines_of(caplog) == []


@both
@pytest.mark.parametrize("accept", [{"subprotocol": None}, {"headers": []}, {"headers": None}, {}])
async def test_acceptance_without_more(http2: bool, accept: dict[str, Any]) -> None:
    outcome = await talk(Talker({**ACCEPT, **accept}), http2, subprotocols=("one",))
    assert (outcome.status, outcome.code) == (None, 1000)


@both
async def test_a_wrong_handshake_never_reaches_the_application(http2: bool) -> None:
    app = Talker(ACCEPT)
    outcome = await talk(app, http2, headers=[("sec-websocket-version", "12")])
    assert outcome.status == (400 if http2 else 426)
    outcome = await talk(app, http2, headers=[("origin", "http://elsewhere")])
    assert outcome.status == 403
    assert app.scope is None


@both
async def test_a_denial_by_close(http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    outcome = await talk(Talker(close(code=4000, reason="no")), http2)
    assert (outcome.status, outcome.denied.body) == (403, b"")
    assert lines_of(caplog) == []


@both
@pytest.mark.parametrize(
    "bodies",
    [[deny_body(b"Not you.")], [deny_body(b"Not ", True), deny_body(b"you.")]],
)
@pytest.mark.parametrize("headers", [[], [(b"content-length", b"8")]])
async def test_a_denial_by_a_response(
    http2: bool, bodies: Any, headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = await talk(Talker(deny(401, (b"x-a", b"1"), *headers), *bodies), http2)
    assert (outcome.status, outcome.denied.body) == (401, b"Not you.")
    assert outcome.denied.headers["x-a"] == "1"
    assert lines_of(caplog) == []


# -- Messages ----------------------------------------------------------------------------------


@both
async def test_messages(http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    received = []

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == CONNECT
        await send(ACCEPT)
        while (message := await receive())["type"] == "websocket.receive":
            received.append(message)
            await send({**message, "type": "websocket.send"})
        received.append(message)

    async with Client(interface(echo)) as client, client.websocket("/", http2=http2) as ws:
        for payload in ("hé", "", "x" * 300_000):
            await ws.send_text(payload)
            assert await ws.receive_text() == payload
        for binary in (b"\xff", b"", b"x" * 300_000):
            await ws.send_data(binary)
            assert await ws.receive_data() == binary
        await ws.close(4001, "done")
    assert received[0] == {"type": "websocket.receive", "text": "hé"}
    assert received[3] == {"type": "websocket.receive", "bytes": b"\xff"}
    assert received[-1] == gone(4001, "done")
    assert lines_of(caplog) == []


@both
async def test_what_send_takes(http2: bool) -> None:
    app = Talker(
        ACCEPT,
        {"type": "websocket.send", "text": "a", "bytes": None},
        {"type": "websocket.send", "text": None, "bytes": b"b"},
        data(bytearray(b"c")),
        data(memoryview(b"d")),
    )
    assert (await talk(app, http2)).messages == ("a", b"b", b"c", b"d")


@lines
async def test_a_slow_client_makes_send_wait(line_class: Any) -> None:
    sent = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        for _ in range(100):
            await send(data(b"x" * 65536))
            sent.append(1)

    async with MemoryServer(interface(app), line_class.protocol_class) as server:
        line = line_class(server)
        await turns()
        line.ask()
        line.hold()
        await turns()
        assert len(sent) < 20
        line.release()
        while len(sent) < 100:
            await turns(5)
            line.frames  # noqa: B018 - the client takes what has come


# -- How it ends -------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (close(), 1000, ""),
        (close(code=None, reason=None), 1000, ""),
        (close(code=4000, reason="enough"), 4000, "enough"),
        (close(reason="é" * 60), 1000, "é" * 60),
    ],
)
async def test_the_application_closes(http2: bool, message: Any, code: int, reason: str) -> None:
    received = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await send(message)
        received.extend([await receive(), await receive()])
        for late in (text("a"), close(), ACCEPT, deny()):
            with pytest.raises(OSError, match="closed") as told:
                await send(late)
            assert isinstance(told.value, WebSocketDisconnected)

    outcome = await talk(app, http2)
    assert (outcome.code, outcome.reason) == (code, reason)
    assert received == [gone(code, reason)] * 2


@lines
@pytest.mark.parametrize("how", ["code", "no code", "lost", "end"])
async def test_the_client_closes(
    line_class: Any, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    received: list[Any] = []
    done = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        received.extend([await receive(), await receive()])
        done.set()
        await send(text("late"))  # raises, and that is nothing to report

    async with MemoryServer(interface(app), line_class.protocol_class) as server:
        line = line_class(server)
        line.ask()
        await turns()
        if how == "lost":
            line.leave()
        elif how == "end":
            line.end()
        else:
            line.send(close_frame(3001, "bye") if how == "code" else close_frame(None))
        await done.wait()
        await turns()
        if how in ("code", "no code"):
            assert line.close == ((3001, "bye") if how == "code" else (1005, ""))
    end = {"code": gone(3001, "bye"), "no code": gone(1005)}.get(how, gone(1006))
    assert received == [end, end]
    assert lines_of(caplog) == []


@lines
@pytest.mark.parametrize("waits", [True, False])
async def test_a_client_that_leaves_in_its_handshake(
    line_class: Any, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    received: list[Any] = []
    ready, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        ready.set()
        if not waits:
            await go.wait()
        received.extend([await receive(), await receive()])
        for message in (ACCEPT, deny(), close(), text("a")):
            with pytest.raises(OSError, match="gone|closed") as told:
                await send(message)
            assert isinstance(told.value, PeerGone | WebSocketDisconnected)
        done.set()

    async with MemoryServer(interface(app), line_class.protocol_class) as server:
        line = line_class(server)
        line.ask()
        await ready.wait()
        await turns()
        line.leave()
        await turns()
        go.set()
        await done.wait()
    assert received == [gone(1006)] * 2
    assert lines_of(caplog) == []


@both
async def test_a_task_that_receives_before_the_answer(http2: bool) -> None:
    """It waits for the answer, then for messages; a denial ends it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waiting = asyncio.create_task(receive())
        await turns(3)
        assert not waiting.done()
        if scope["path"] == "/deny":
            await send(deny(401))
            await send(deny_body())
            assert await waiting == gone(1006)
            assert await receive() == gone(1006)
        elif scope["path"] == "/close":
            await send(close())
            assert await waiting == gone(1006)
        else:
            await send(ACCEPT)
            await send(text("ready"))
            assert await waiting == {"type": "websocket.receive", "text": "hi"}
            await send(text("good"))

    async with Client(interface(app)) as client:
        assert (await converse(client, "/deny", http2=http2)).status == 401
        assert (await converse(client, "/close", http2=http2)).status == 403
        async with client.websocket("/", http2=http2) as ws:
            assert await ws.receive_text() == "ready"
            await ws.send_text("hi")
            assert await ws.receive_text() == "good"


@lines
@pytest.mark.parametrize("how", ["close", "deny"])
@pytest.mark.parametrize("early", [True, False])
async def test_what_is_received_of_a_denial(line_class: Any, how: str, early: bool) -> None:
    """A task that waits is told at once, not when the client leaves; so is who asks later."""
    received = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if early:
            waiting = asyncio.create_task(receive())
            await turns(3)
        for message in [close()] if how == "close" else [deny(403), deny_body()]:
            await send(message)
        received.append(await (waiting if early else receive()))

    async with MemoryServer(interface(app), line_class.protocol_class) as server:
        line = line_class(server)
        line.ask()
        await turns()
        assert line.status == 403
        assert received == [gone(1006)]


@both
@pytest.mark.parametrize("waits", [True, False])
async def test_a_task_that_is_left_behind(http2: bool, waits: bool) -> None:
    receives = []
    tasks = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        receives.append(receive)
        if waits:
            tasks.append(asyncio.create_task(receive()))
            await turns(3)

    assert (await talk(app, http2)).status == 500
    assert await (tasks[0] if waits else receives[0]()) == gone(1006)


@both
async def test_two_tasks_that_receive(http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await asyncio.gather(receive(), receive())

    assert (await talk(app, http2)).code == 1011
    (line,) = lines_of(caplog)
    assert line.endswith("asgi application test:app: another task is receiving from this WebSocket")


# -- Applications that break the rules ---------------------------------------------------------

RETURNED = "the application returned"
#: Messages before acceptance, and the rule that they break.
BEFORE: list[tuple[list[Any], str]] = [
    ([], "the application returned without accepting or denying"),
    ([deny()], f"{RETURNED} where websocket.http.response.body is due"),
    ([text("a")], "websocket.send before websocket.accept"),
    ([deny(), text("a")], "websocket.send before the end of the body"),
    ([deny(), ACCEPT], "websocket.accept before the end of the body"),
    ([deny(), close()], "websocket.close before the end of the body"),
    ([deny(), deny()], "a second websocket.http.response.start"),
    ([deny_body()], "websocket.http.response.body before websocket.http.response.start"),
    (
        [deny(200)],
        "websocket.http.response.start: 200 denies nothing: 300 to 599 do",
    ),
    ([deny(600)], "600 is no status of a final response (200 to 599)"),
    ([deny("403")], "websocket.http.response.start: status must be an int, not str"),
    (
        [{"type": "websocket.http.response.start"}],
        "websocket.http.response.start: status is missing",
    ),
    ([deny(), deny_body("a")], "websocket.http.response.body: body must be bytes, not str"),
    ([deny(403, (b"a", b"\n"))], r"header 'a' has an illegal value b'\n'"),
    (
        [{**ACCEPT, "subprotocol": b"one"}],
        "websocket.accept: subprotocol must be a str or None, not bytes",
    ),
    (
        [{**ACCEPT, "subprotocol": "three"}],
        "websocket.accept: the client does not offer 'three'; it offers: none",
    ),
    (
        [{**ACCEPT, "headers": [(b"Sec-WebSocket-Protocol", b"one")]}],
        "websocket.accept: the header 'sec-websocket-protocol' is the server's to send",
    ),
    (
        [{**ACCEPT, "headers": [("a", "b")]}],
        "websocket.accept: a header must be a pair of bytes, not ('a', 'b')",
    ),
    (
        [{**ACCEPT, "headers": [(b"a", b"b\r\nc: d")]}],
        r"header 'a' has an illegal value b'b\r\nc: d'",
    ),
    ([close(reason=1)], "websocket.close: reason must be a str or None, not int"),
    ([{"type": "http.response.start"}], "http.response.start is no message of a websocket scope"),
    ([{"type": 1}], "the type of a message is a str, not int"),
    ([None], "a message is a dict, not NoneType"),
]
#: Messages after acceptance.
AFTER: list[tuple[Any, str]] = [
    (ACCEPT, "websocket.accept after websocket.accept"),
    (deny(), "websocket.http.response.start after websocket.accept"),
    (deny_body(), "websocket.http.response.body after websocket.accept"),
    (
        {"type": "websocket.send"},
        "websocket.send: either text or bytes must be given, and not both",
    ),
    (
        {"type": "websocket.send", "text": "", "bytes": b""},
        "websocket.send: either text or bytes must be given, and not both",
    ),
    (text(b"a"), "websocket.send: text must be a str or None, not bytes"),
    (text(1), "websocket.send: text must be a str or None, not int"),
    (text("\ud800"), "websocket.send: text has a surrogate, which is no character"),
    (data("a"), "websocket.send: bytes must be bytes, not str"),
    (
        close(code=1005),
        "websocket.close: 1005 is no close code to send: 1000 to 1003, 1007 to 1014, 3000 to 4999",
    ),
    (
        close(code=None, reason="x" * 200),
        "websocket.close: the reason of a close has at most 123 bytes",
    ),
    (
        close(code="1"),
        "websocket.close: '1' is no close code to send: 1000 to 1003, 1007 to 1014, 3000 to 4999",
    ),
    (close(reason="x" * 124), "websocket.close: the reason of a close has at most 123 bytes"),
    ({}, "the type of a message is a str, not NoneType"),
]


@both
@pytest.mark.parametrize(("messages", "rule"), BEFORE, ids=[rule[:50] for _, rule in BEFORE])
async def test_a_rule_that_is_broken_before_acceptance(
    http2: bool, messages: Any, rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = await talk(Talker(*messages), http2)
    assert (outcome.status, outcome.denied.body) == (500, b"Internal Server Error\n")
    method = "CONNECT" if http2 else "GET"
    assert lines_of(caplog) == [f"{method} /: asgi application test:app: {rule}"]


@both
@pytest.mark.parametrize(("message", "rule"), AFTER, ids=[rule[:50] for _, rule in AFTER])
async def test_a_rule_that_is_broken_after_acceptance(
    http2: bool, message: Any, rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = await talk(Talker(ACCEPT, text("a"), message), http2)
    assert (outcome.code, outcome.messages) == (1011, ("a",))
    method = "CONNECT" if http2 else "GET"
    assert lines_of(caplog) == [f"{method} /: asgi application test:app: {rule}"]


@both
async def test_a_denial_that_is_not_whole(http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConnectionError):
        await talk(Talker(deny(), deny_body(b"a", True)), http2)
    (line,) = lines_of(caplog)
    assert line.endswith(f"{RETURNED} where websocket.http.response.body without more_body is due")


@both
@pytest.mark.parametrize("accepted", [False, True])
async def test_an_application_that_raises(
    http2: bool, accepted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if accepted:
            await send(ACCEPT)
        raise LookupError

    outcome = await talk(app, http2)
    assert (outcome.status, outcome.code) == ((None, 1011) if accepted else (500, None))
    (line,) = lines_of(caplog)
    assert line.endswith("asgi application test:app: unhandled error in the application")


@both
async def test_an_application_that_sees_its_mistakes(
    http2: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in (text("a"), {**ACCEPT, "subprotocol": "x"}, deny(200), None):
            with pytest.raises(InterfaceError):
                await send(message)
        with pytest.raises(InvalidResponse):
            await send({**ACCEPT, "headers": [(b"a", b"\n")]})
        await send(ACCEPT)  # the specification does not ask to receive first
        with pytest.raises(InterfaceError):
            await send(close(code=1))
        await send(text("still here"))

    assert (await talk(app, http2)).messages == ("still here",)
    assert lines_of(caplog) == []


@both
async def test_after_a_denial(http2: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(close())
        for message in (text("a"), close()):
            with pytest.raises(WebSocketDisconnected):
                await send(message)
        for message in (ACCEPT, deny(), deny_body()):
            with pytest.raises(InterfaceError, match="after the end"):
                await send(message)
        assert await receive() == gone(1006)

    assert (await talk(app, http2)).status == 403


@both
async def test_sockets_leave_nothing_to_collect(http2: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await send(text("a"))
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async with Client(interface(app)) as client:

        async def go() -> None:
            async with client.websocket("/", http2=http2) as ws:
                assert await ws.receive_text() == "a"
            await turns(5)

        await go()
        gc.collect()
        gc.disable()
        try:
            await go()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            found = {type(each).__module__ for each in gc.garbage}
            assert not [name for name in found if name.startswith("kyoukai.interfaces")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()


# -- Anything at all ---------------------------------------------------------------------------

ANY = [ACCEPT, text("a"), data(b"b"), close(), deny(), deny_body(b"a"), deny_body(b"a", True)]
ANY += [message for messages, _ in BEFORE for message in messages]
ANY += [message for message, _ in AFTER]


@both
@pytest.mark.parametrize("seed", range(4))
async def test_random_conversations(http2: bool, seed: int) -> None:
    """Whatever it sends and receives, its client has an answer or a close, in time."""
    rng = random.Random(seed)
    outcomes = set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/good":
            await Talker(ACCEPT, text("good"))(scope, receive, send)
            return
        if rng.random() < 0.7:
            await receive()
        for number in range(rng.randrange(8)):
            step = rng.randrange(12)
            if step == 0:
                raise LookupError
            if step == 1:
                listening = asyncio.create_task(receive())
                await turns(2)
                listening.cancel()
            message = rng.choice(ANY if rng.random() < 0.4 else ANY[: 7 if number else 1])
            try:
                await send(message)
            except (KyoukaiError, OSError):
                if rng.random() < 0.3:
                    raise

    async with Client(interface(app)) as client:
        for _ in range(20):
            async with asyncio.timeout(10):
                try:
                    outcome = await converse(client, http2=http2)
                    outcomes.add(outcome.status or outcome.code)
                except ConnectionError:
                    outcomes.add("cut")
                assert (await converse(client, "/good", http2=http2)).messages == ("good",)
        await turns()
        assert not client.server.connections.tasks
    assert {403, 500, 1000, 1011} <= outcomes
