"""WebSockets of RSGI applications, on each wire."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from interfaces.rsgi_peers import interface
from talks import Outcome, both, converse, lines_of, turns

from kyoukai.interfaces.rsgi import (
    RSGIProtocolClosed,
    RSGIProtocolError,
    WebsocketMessage,
    WebsocketMessageType,
)
from kyoukai.testing import Client, WebSocketDenied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WHERE = "GET /: rsgi application test:app: "


@asynccontextmanager
async def opened(app: Any, http2: bool, **settings: Any) -> AsyncIterator[Any]:
    """An open socket's client."""
    async with (
        Client(interface(app, **settings), **settings) as client,
        client.websocket("/", http2=http2) as ws,
    ):
        yield ws


async def ask(app: Any, http2: bool, **options: Any) -> Outcome:
    """Open a socket, receive until the server closes, and say how that ended."""
    async with Client(interface(app)) as client:
        return await converse(client, http2=http2, **options)


async def echo(scope: Any, proto: Any) -> None:
    transport = await proto.accept()
    while True:
        message = await transport.receive()
        if message.kind == 0:
            break
        if message.kind == WebsocketMessageType.bytes:
            await transport.send_bytes(message.data)
        else:
            await transport.send_str(message.data)
    proto.close()


@both
async def test_echo(http2: bool, caplog: Any) -> None:
    async with opened(echo, http2) as ws:
        for message in ("text", b"bytes", "", b"", "ł" * 70000):
            await (ws.send_text if isinstance(message, str) else ws.send_data)(message)
            assert await ws.receive() == message
        await ws.close(3001)
    assert ws.close_code == 3001
    assert not lines_of(caplog)


@both
async def test_messages_are_as_in_granian(http2: bool) -> None:
    seen: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        transport = await proto.accept()
        for _ in range(3):
            message = await transport.receive()
            seen.append((int(message.kind), message.data))
        with pytest.raises(RSGIProtocolClosed):
            await transport.receive()
        with pytest.raises(RSGIProtocolClosed):
            await transport.send_str("x")

    async with opened(app, http2) as ws:
        await ws.send_text("text")
        await ws.send_data(b"bytes")
    assert seen == [(2, "text"), (1, b"bytes"), (0, None)]
    assert repr(WebsocketMessage(WebsocketMessageType.string, "x")) == (
        "<WebsocketMessage string 'x'>"
    )


@both
async def test_sending_every_type_of_bytes(http2: bool) -> None:
    async def app(scope: Any, proto: Any) -> None:
        transport = await proto.accept()
        for kind in (bytes, bytearray, memoryview):
            await transport.send_bytes(kind(b"data"))

    assert (await ask(app, http2)).messages == (b"data",) * 3


@both
async def test_a_handshake_that_is_wrong_never_gets_there(http2: bool) -> None:
    called: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        called.append(scope)

    async with Client(interface(app)) as client:
        with pytest.raises(WebSocketDenied) as denied:
            headers = [("Origin", "https://elsewhere.example")]
            async with client.websocket("/", http2=http2, headers=headers):
                pass
    assert denied.value.response.status == 403
    assert not called


# -- Closing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (None, 1000),
        (1000, 1000),
        (4000, 4000),
        (1011, 1011),
        (403, 1000),
        (1005, 1000),
        (70000, 1000),
        (-1, 1000),
        ("x", 1000),
    ],
)
@both
async def test_close_codes(http2: bool, given: Any, code: int, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        await proto.accept()
        proto.close(given)
        proto.close(4999)

    assert (await ask(app, http2)).code == code
    assert not lines_of(caplog)


@both
async def test_an_application_that_returns_has_closed(http2: bool, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        transport = await proto.accept()
        await transport.send_str("bye")

    outcome = await ask(app, http2)
    assert (outcome.messages, outcome.code) == (("bye",), 1000)
    assert not lines_of(caplog)


@both
async def test_after_its_own_close(http2: bool) -> None:
    done: list[int] = []

    async def app(scope: Any, proto: Any) -> None:
        transport = await proto.accept()
        proto.close(4000)
        for send in (transport.send_str("x"), transport.send_bytes(b"x")):
            with pytest.raises(RSGIProtocolError, match="a message after close"):
                await send
        assert (await transport.receive()).kind == 0
        with pytest.raises(RSGIProtocolClosed):
            await transport.receive()
        done.append(1)

    assert (await ask(app, http2)).code == 4000
    assert done


# -- Refusing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "status"), [((), 403), ((None,), 403), ((401,), 401), ((503,), 503)]
)
@both
async def test_refusing(http2: bool, given: Any, status: int, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        proto.close(*given)
        proto.close(500)
        with pytest.raises(RSGIProtocolError, match=r"accept\(\) after close\(\)"):
            await proto.accept()

    outcome = await ask(app, http2)
    assert outcome.denied is not None
    assert (outcome.status, outcome.denied.body) == (status, b"")
    assert not lines_of(caplog)


@both
async def test_an_application_that_returns_has_refused(http2: bool, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        pass

    assert (await ask(app, http2)).status == 403
    assert not lines_of(caplog)


@pytest.mark.parametrize("status", [200, 101, 299, 600, 1000, "403", 4000])
@both
async def test_what_is_no_refusal(http2: bool, status: Any, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        proto.close(status)

    assert (await ask(app, http2)).status == 500
    method = "CONNECT" if http2 else "GET"
    assert lines_of(caplog) == [
        f"{method} /: rsgi application test:app: close({status!r}): before accept() it is an HTTP"
        " status, 300 to 599"
    ]


@both
async def test_a_refusal_goes_out_at_once(http2: bool) -> None:
    go = asyncio.Event()

    async def app(scope: Any, proto: Any) -> None:
        proto.close(401)
        await go.wait()

    async with Client(interface(app)) as client:
        with pytest.raises(WebSocketDenied) as denied:
            async with client.websocket("/", http2=http2):
                pass
        assert denied.value.response.status == 401
        go.set()


# -- Mistakes ----------------------------------------------------------------------------------


@both
async def test_an_error_before_accept(http2: bool, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        raise LookupError("mine")

    assert (await ask(app, http2)).status == 500
    assert len(lines_of(caplog)) == 1


@both
async def test_an_error_after_accept(http2: bool, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        await proto.accept()
        raise LookupError("mine")

    assert (await ask(app, http2)).code == 1011
    (line,) = lines_of(caplog)
    assert line.endswith("rsgi application test:app: unhandled error in the application")


@both
async def test_an_error_after_a_refusal(http2: bool, caplog: Any) -> None:
    async def app(scope: Any, proto: Any) -> None:
        proto.close(401)
        raise LookupError("mine")

    assert (await ask(app, http2)).status == 401
    assert len(lines_of(caplog)) == 1


@both
async def test_what_is_no_coroutine_function(http2: bool, caplog: Any) -> None:
    assert (await ask(lambda scope, proto: None, http2)).status == 500
    assert "calling it gave NoneType" in lines_of(caplog)[0]


async def use_twice(proto: Any, transport: Any) -> None:
    await proto.accept()


async def bytes_as_text(proto: Any, transport: Any) -> None:
    await transport.send_str(b"x")


async def text_as_bytes(proto: Any, transport: Any) -> None:
    await transport.send_bytes("x")


async def lone_surrogate(proto: Any, transport: Any) -> None:
    await transport.send_str("\ud800")


async def receive_twice(proto: Any, transport: Any) -> None:
    first = asyncio.create_task(transport.receive())
    await turns(2)
    try:
        await transport.receive()
    finally:
        first.cancel()


@pytest.mark.parametrize(
    ("mistake", "rule"),
    [
        (use_twice, "accept() after another accept()"),
        (bytes_as_text, "send_str: data must be a str, not bytes"),
        (text_as_bytes, "send_bytes: data must be bytes, not str"),
        (lone_surrogate, "send_str: data cannot be encoded"),
        (receive_twice, "receive(): another task is receiving"),
    ],
)
@both
async def test_mistakes(http2: bool, mistake: Any, rule: str, caplog: Any) -> None:
    """The application sees them where it calls; let through, they are logged, and it is closed."""

    async def app(scope: Any, proto: Any) -> None:
        transport = await proto.accept()
        try:
            await mistake(proto, transport)
        except RSGIProtocolError:
            await transport.send_str("seen")
            raise

    outcome = await ask(app, http2)
    assert (outcome.messages, outcome.code) == (("seen",), 1011)
    (line,) = lines_of(caplog)
    assert rule in line


# -- Clients that leave ------------------------------------------------------------------------


@both
async def test_a_client_that_is_lost(http2: bool, caplog: Any) -> None:
    """``receive`` raises: it has not closed."""
    errors: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        transport = await proto.accept()
        await transport.send_str("x")
        try:
            await transport.receive()
        except RSGIProtocolClosed as error:
            errors.append(error)
            raise

    async with Client(interface(app)) as client, client.websocket("/", http2=http2) as ws:
        assert await ws.receive() == "x"
        ws.abort()
        await turns()
    assert len(errors) == 1
    assert not lines_of(caplog)


@both
async def test_a_client_that_leaves_before_the_answer(http2: bool, caplog: Any) -> None:
    began, go, done = asyncio.Event(), asyncio.Event(), []

    async def app(scope: Any, proto: Any) -> None:
        began.set()
        await go.wait()
        if scope.path == "/close":
            proto.close()
        else:
            with pytest.raises(RSGIProtocolClosed):
                await proto.accept()
        done.append(scope.path)

    for path in ("/close", "/accept"):
        began.clear()
        go.clear()
        async with Client(interface(app)) as client:

            async def dial() -> None:
                async with client.websocket(path, http2=http2):  # noqa: B023 - awaited below
                    pass

            task = asyncio.create_task(dial())
            await began.wait()
            for protocol in tuple(client.server.connections.open):
                protocol.transport.lose()
            with pytest.raises(ConnectionError):
                await task
            go.set()
            await turns()
    assert done == ["/close", "/accept"]
    assert not lines_of(caplog)


@both
async def test_an_error_that_comes_of_leaving_is_no_fault(http2: bool, caplog: Any) -> None:
    """A framework's own around ours, or a task group's."""

    async def app(scope: Any, proto: Any) -> None:
        transport = await proto.accept()
        await transport.receive()
        async with asyncio.TaskGroup() as group:
            group.create_task(transport.send_str("x"))
            group.create_task(transport.receive())

    async with opened(app, http2):
        pass
    await turns()
    assert not lines_of(caplog)


@both
async def test_the_loss_of_another_socket_is_a_fault(http2: bool, caplog: Any) -> None:
    others: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        if scope.path == "/early":
            await others[0].send_str("x")
        transport = await proto.accept()
        if not others:
            others.append(transport)
            await transport.receive()
            return
        if scope.path == "/raw":
            await others[0].send_str("x")
        with pytest.raises(RSGIProtocolClosed) as caught:
            await others[0].send_str("x")
        raise LookupError("lost") from caught.value

    async with Client(interface(app)) as client:
        async with client.websocket("/", http2=http2):
            await turns()
        for target, status, code in (
            ("/", None, 1011),
            ("/raw", None, 1011),
            ("/early", 500, None),
        ):
            caplog.clear()
            outcome = await converse(client, target, http2=http2)
            assert (outcome.status, outcome.code) == (status, code)
            (line,) = lines_of(caplog)
            assert line.endswith("test:app: unhandled error in the application")


@both
async def test_a_slow_client_makes_sending_wait(http2: bool) -> None:
    sent = 0

    async def app(scope: Any, proto: Any) -> None:
        nonlocal sent
        transport = await proto.accept()
        for _ in range(64):
            await transport.send_bytes(b"x" * 65536)
            sent += 1

    async with opened(app, http2) as ws:
        ws.pause()
        await turns(100)
        assert sent < 32
        ws.resume()
        assert sum([len(message) async for message in ws]) == 64 * 65536
    assert sent == 64


@both
async def test_the_server_stops(http2: bool) -> None:
    seen: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        transport = await proto.accept()
        seen.append((await transport.receive()).kind)

    async with Client(interface(app)) as client, client.websocket("/", http2=http2) as ws:
        await turns()
        client.server.connections.shutdown()
        assert [message async for message in ws] == []
        assert ws.close_code == 1001
    assert seen == [0]


@both
async def test_a_cancelled_receive_loses_no_message(http2: bool) -> None:
    got: list[Any] = []

    async def app(scope: Any, proto: Any) -> None:
        transport = await proto.accept()
        task = asyncio.create_task(transport.receive())
        await turns(2)
        task.cancel()
        await turns(2)
        await transport.send_str("now")
        got.append((await transport.receive()).data)

    async with opened(app, http2) as ws:
        assert await ws.receive() == "now"
        await ws.send_text("kept")
        await ws.wait_closed()
    assert got == ["kept"]
