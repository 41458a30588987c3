"""``WebSocket``: its states, its answer to the handshake, and its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from talks import both, ends, run, turns

from kyoukai import Kyoukai, OperationNotAllowed, WebSocketDisconnected
from kyoukai.exceptions import InvalidResponse
from kyoukai.testing import Client

if TYPE_CHECKING:
    from kyoukai import WebSocket, WebSocketContext

Ctx = Any

UNACCEPTED = (True, False, False, None, None)
READY = (False, True, False, None, None)


def state(ws: WebSocket) -> tuple[bool, bool, bool, int | None, str | None]:
    return ws.unaccepted, ws.ready, ws.closed, ws.close_code, ws.close_reason


def closed(code: int | None, reason: str | None) -> tuple[bool, bool, bool, int | None, str | None]:
    return False, False, True, code, reason


# -- States ------------------------------------------------------------------------------------


@both
async def test_states_when_the_server_closes(http2: bool) -> None:
    kept: list[WebSocket] = []

    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        kept.append(ws)
        assert state(ws) == UNACCEPTED
        assert repr(ws) == "<WebSocket '/' unaccepted>"
        assert ctx.ws is ws
        await ws.accept()
        assert state(ws) == READY
        assert repr(ws) == "<WebSocket '/' ready>"
        await ws.close(3000, "done")
        assert state(ws) == closed(3000, "done")
        assert repr(ws) == "<WebSocket '/' closed>"
        await ws.close(4000, "again")
        assert state(ws) == closed(3000, "done")

    outcome = await run(handler, http2=http2)
    assert (outcome.code, outcome.reason) == (3000, "done")
    assert state(kept[0]) == closed(3000, "done")


@both
async def test_states_when_the_client_closes(http2: bool) -> None:
    async with ends(http2) as pair:
        assert state(pair.server) == READY
        await pair.client.close(4321, "enough")
        await pair.server.wait_closed()
        assert state(pair.server) == closed(4321, "enough")
        await pair.server.close(1000)
        assert state(pair.server) == closed(4321, "enough")


@both
async def test_a_close_frame_without_a_code(http2: bool) -> None:
    async with ends(http2) as pair:
        pair.client.protocol.send_close()
        pair.client.flush()
        await pair.server.wait_closed()
        assert state(pair.server) == closed(1005, "")
        with pytest.raises(WebSocketDisconnected) as caught:
            await pair.server.receive()
        assert caught.value.code == 1005


@both
async def test_states_when_the_client_is_lost(http2: bool) -> None:
    async with ends(http2) as pair:
        pair.client.abort()
        await pair.server.wait_closed()
        assert state(pair.server) == closed(1006, "")
        pair.leave.set()


@both
async def test_states_when_it_is_denied(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        await ws.deny()
        assert state(ws) == closed(None, None)
        await ws.close(3000)
        assert state(ws) == closed(None, None)
        assert ws.subprotocol is None
        await ws.wait_closed()

    assert (await run(handler, http2=http2)).status == 403


# -- The handshake -----------------------------------------------------------------------------


@both
async def test_what_the_handshake_said(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        assert ws.headers["x-one"] == ws.headers["X-One"] == "1"
        assert "X-Two" not in ws.headers
        assert ws.subprotocols == ("b", "a", "c")
        assert ws.subprotocol is None
        assert ctx.request is ws.request
        assert ctx.request.args["q"] == "7"
        await ws.accept("a", {"X-Three": "3"})
        assert ws.subprotocol == "a"

    options: dict[str, Any] = {"headers": {"X-One": "1"}, "subprotocols": ["b", "a", "c"]}
    app = Kyoukai("test")
    seen: list[Any] = []

    @app.websocket("/sub")
    async def sub(ctx: WebSocketContext, ws: WebSocket) -> None:
        try:
            await handler(ctx, ws)
        except AssertionError as error:
            seen.append(error)

    async with (
        Client(app) as client,
        client.websocket("/sub?q=7", http2=http2, **options) as ws,
    ):
        assert ws.subprotocol == "a"
        assert ws.response_headers["X-Three"] == "3"
    assert seen == []


@both
@pytest.mark.parametrize("headers", [{"X-A": "1", "X-B": "2"}, [("X-A", "1"), ("X-B", "2")], None])
async def test_headers_of_the_acceptance(http2: bool, headers: Any) -> None:
    app = Kyoukai("test")

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept(headers=headers)

    async with Client(app) as client, client.websocket("/", http2=http2) as ws:
        assert ws.response_headers.get("X-A") == (headers and "1")
        assert ws.response_headers.get("X-B") == (headers and "2")


@both
async def test_a_header_twice(http2: bool) -> None:
    app = Kyoukai("test")

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.accept(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])

    async with Client(app) as client, client.websocket("/", http2=http2) as ws:
        assert ws.response_headers.getlist("Set-Cookie") == ["a=1", "b=2"]


@both
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"subprotocol": "c"}, "the client does not offer 'c'; it offers: a, b"),
        ({"subprotocol": "A"}, "does not offer 'A'"),
        ({"subprotocol": ""}, "does not offer ''"),
        ({"headers": {"Sec-WebSocket-Protocol": "a"}}, "Sec-WebSocket-Protocol is the server's"),
        ({"headers": {"sec-websocket-accept": "x"}}, "sec-websocket-accept is the server's"),
        ({"headers": {"Sec-WebSocket-Anything": "x"}}, "Sec-WebSocket-Anything is the server's"),
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, "X-A|x-a"),
        ({"headers": {"X A": "1"}}, "X A|x a"),
        ({"headers": {"X-A": "snow ☃"}}, "latin-1|Latin-1"),
    ],
)
async def test_an_acceptance_that_is_refused(
    http2: bool, arguments: dict[str, Any], message: str
) -> None:
    """The socket is as it was, and can still be accepted."""

    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        with pytest.raises(ValueError, match=message):
            await ws.accept(**arguments)
        assert state(ws) == UNACCEPTED
        assert ws.subprotocol is None
        await ws.accept("b")
        assert ws.subprotocol == "b"

    outcome = await run(handler, http2=http2, subprotocols=["a", "b"])
    assert outcome.code == 1000


@both
async def test_a_subprotocol_where_none_is_offered(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        assert ws.subprotocols == ()
        with pytest.raises(ValueError, match="does not offer 'a'; it offers: none"):
            await ws.accept("a")

    assert (await run(handler, http2=http2)).status == 403


@both
async def test_an_answer_is_given_once(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        await ws.accept()
        with pytest.raises(OperationNotAllowed, match="has been accepted"):
            await ws.accept()
        with pytest.raises(OperationNotAllowed, match="has been accepted"):
            await ws.deny()
        assert ws.ready

    async def denies(ctx: Ctx, ws: WebSocket) -> None:
        await ws.deny(410)
        with pytest.raises(OperationNotAllowed, match="has been denied"):
            await ws.accept()
        with pytest.raises(OperationNotAllowed, match="has been denied"):
            await ws.deny()

    assert (await run(handler, http2=http2)).code == 1000
    assert (await run(denies, http2=http2)).status == 410


@both
async def test_before_acceptance_nothing_can_be_sent_or_received(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        calls = [
            lambda: ws.send_text("a"),
            lambda: ws.send_data(b"a"),
            lambda: ws.send_media({}),
            lambda: ws.receive(),
            lambda: ws.receive_text(),
            lambda: ws.receive_data(),
            lambda: ws.receive_media(),
            lambda: ws.ping(),
            lambda: anext(ws),
        ]
        for call in calls:
            with pytest.raises(OperationNotAllowed, match="has not been accepted"):
                await call()
        assert ws.buffered_amount == 0
        await ws.deny()
        for call in calls:
            with pytest.raises(OperationNotAllowed, match="was denied"):
                await call()
        assert ws.buffered_amount == 0

    assert (await run(handler, http2=http2)).status == 403


# -- Denied ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "arguments, status, body, content_type",
    [
        ({}, 403, "", None),
        ({"status": 401, "headers": {"WWW-Authenticate": "Basic"}}, 401, "", None),
        ({"status": 302, "headers": [("Location", "/x")]}, 302, "", None),
        ({"status": 503, "body": "nö"}, 503, "nö", "text/plain; charset=utf-8"),
        ({"body": b"raw"}, 403, "raw", None),
        (
            {"status": 599, "body": "<p>", "headers": {"content-type": "text/html"}},
            599,
            "<p>",
            "text/html",
        ),
    ],
)
async def test_denied(
    http2: bool, arguments: dict[str, Any], status: int, body: str, content_type: str | None
) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        await ws.deny(**arguments)

    response = (await run(handler, http2=http2)).denied
    assert response is not None
    assert (response.status, response.body) == (status, body.encode())
    assert response.headers.get("Content-Type") == content_type
    for name, value in dict(arguments.get("headers", {})).items():
        assert response.headers[name] == value


@both
@pytest.mark.parametrize("status", [0, 100, 101, 200, 204, 299, 600, True, "403", None, 403.0])
async def test_a_status_that_denies_nothing(http2: bool, status: Any) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        with pytest.raises(ValueError, match="denies nothing: 300 to 599 do"):
            await ws.deny(status)
        assert state(ws) == UNACCEPTED
        await ws.accept()

    assert (await run(handler, http2=http2)).code == 1000


@both
async def test_a_denial_that_may_not_be_sent(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        with pytest.raises(InvalidResponse):
            await ws.deny(403, headers={"X-A": "a\nb"})
        assert state(ws) == UNACCEPTED
        await ws.deny(429)

    assert (await run(handler, http2=http2)).status == 429


@both
async def test_closing_before_acceptance_denies(http2: bool) -> None:
    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        await ws.close(3001, "whatever")
        assert state(ws) == closed(None, None)
        await ws.close()

    response = (await run(handler, http2=http2)).denied
    assert response is not None
    assert (response.status, response.body) == (403, b"")


@both
async def test_a_denial_that_takes_its_time(http2: bool) -> None:
    """A client that is slow to read a long body: the answer is given, all the same."""
    body = bytes(3_000_000)

    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        denying = asyncio.create_task(ws.deny(403, body))
        await turns(1)
        assert not denying.done()  # windows hold it back, or the turn that others get
        assert state(ws) == closed(None, None)
        with pytest.raises(OperationNotAllowed, match="has been denied"):
            await ws.deny(404)
        with pytest.raises(OperationNotAllowed, match="has been denied"):
            await ws.accept()
        await ws.close()
        await denying

    response = (await run(handler, http2=http2)).denied
    assert response
    assert (response.status, response.body) == (403, body)


async def test_a_denied_connection_goes_on() -> None:
    """HTTP/1.1: the next request comes on the connection of the handshake."""
    app = Kyoukai("test")

    @app.websocket("/")
    async def handler(ctx: WebSocketContext, ws: WebSocket) -> None:
        await ws.deny(404, "no")

    async with Client(app) as client:
        connection = client.connect()
        fields = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "A" * 22 + "==",
        }
        for _ in range(2):
            connection.request("GET", "/", fields)
            response = await connection.response()
            assert (response.status, response.text) == (404, "no")
        connection.request("GET", "/missing")
        assert (await connection.response()).status == 404


# -- Closing -----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999]
)
async def test_codes_that_may_be_sent(http2: bool, code: int) -> None:
    async with ends(http2) as pair:
        await pair.server.close(code, "ä" * 61 + "z")  # 123 bytes
        await pair.client.wait_closed()
        assert (pair.client.close_code, pair.client.close_reason) == (code, "ä" * 61 + "z")


@both
async def test_codes_and_reasons_that_may_not(http2: bool) -> None:
    async with ends(http2) as pair:
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, -1, True, "1000", None):
            with pytest.raises(ValueError, match=f"{code!r} is no close code to send"):
                await pair.server.close(code)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="at most 123 bytes"):
            await pair.server.close(1000, "ä" * 62)
        assert state(pair.server) == READY


@both
async def test_codes_are_checked_at_every_stage(http2: bool) -> None:
    """A mistake shows even where the code would not be sent."""

    async def handler(ctx: Ctx, ws: WebSocket) -> None:
        with pytest.raises(ValueError):
            await ws.close(1005)
        assert ws.unaccepted
        await ws.accept()
        await ws.close()
        with pytest.raises(ValueError):
            await ws.close(1005)

    assert (await run(handler, http2=http2)).code == 1000


@both
async def test_reasons_by_default(http2: bool) -> None:
    app = Kyoukai("test")
    reasons = app.ws_options.default_close_reasons
    assert reasons[1011] == "Internal Server Error"
    assert reasons[3404] == "Not Found"
    assert Kyoukai("other").ws_options.default_close_reasons is not reasons
    reasons[4001] = "Too many cooks"

    @app.websocket("/<int:code>")
    async def handler(ctx: WebSocketContext, ws: WebSocket, code: int) -> None:
        await ws.accept()
        await (ws.close(code, "") if code == 4001 and ws.subprotocols else ws.close(code))

    async with Client(app) as client:
        for code, reason in ((4001, "Too many cooks"), (4002, ""), (1000, "Normal Closure")):
            async with client.websocket(f"/{code}", http2=http2) as ws:
                await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (code, reason)
        async with client.websocket("/4001", http2=http2, subprotocols=["x"]) as ws:
            await ws.wait_closed()
        assert ws.close_reason == ""  # one that is given, even an empty one, counts


@both
async def test_after_closing(http2: bool) -> None:
    """What came before is dropped, and everything says with which code we closed."""
    async with ends(http2) as pair:
        pair.client_says("unread")
        await pair.server.close(3003, "bye")
        for call in (
            pair.server.send_text("a"),
            pair.server.send_data(b"a"),
            pair.server.send_media([]),
            pair.server.receive(),
            pair.server.receive_text(),
            pair.server.receive_data(),
            pair.server.receive_media(),
            pair.server.ping(),
        ):
            with pytest.raises(WebSocketDisconnected) as caught:
                await call
            assert (caught.value.code, caught.value.reason) == (3003, "bye")
            assert isinstance(caught.value, ConnectionError)
        assert [message async for message in pair.server] == []
        await pair.server.wait_closed()


@both
async def test_what_the_client_said_before_it_closed(http2: bool) -> None:
    async with ends(http2) as pair:
        pair.client_says("one", b"two")
        await pair.client.close(4000, "bye")
        assert pair.server.closed
        with pytest.raises(WebSocketDisconnected):
            await pair.server.send_text("too late")
        assert await pair.server.receive() == "one"
        assert await pair.server.receive() == b"two"
        with pytest.raises(WebSocketDisconnected) as caught:
            await pair.server.receive()
        assert (caught.value.code, caught.value.reason) == (4000, "bye")


# -- Options -----------------------------------------------------------------------------------


def test_options_that_cannot_work() -> None:
    """They are refused where they are set, and not when a socket needs them."""
    options = Kyoukai("test").ws_options
    for code in (0, 200, 1005, 1006, 1015, 5000, True, "1011", None):
        with pytest.raises(ValueError, match=f"{code!r} is no close code to send"):
            options.error_close_code = code  # type: ignore[assignment]
    for queue in (-1, 1.5, True, "4", None):
        with pytest.raises(ValueError, match=f"max_receive_queue must be .* not {queue!r}"):
            options.max_receive_queue = queue  # type: ignore[assignment]
    assert (options.error_close_code, options.max_receive_queue) == (1011, 4)
