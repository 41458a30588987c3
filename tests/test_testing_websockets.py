"""The client of WebSockets in memory, and applications on both protocols."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from werkzeug.exceptions import Conflict

from kyoukai.app import Kyoukai
from kyoukai.backends.http2.protocol import H2KyoukaiProtocol
from kyoukai.context import HTTPRequestContext, WebSocketContext
from kyoukai.exceptions import MediaError, PayloadTypeError, WebSocketDisconnected
from kyoukai.media import WebSocketPayloadType
from kyoukai.memory_handshake import open_websocket
from kyoukai.testing import Client, MemoryServer, TestKyoukai, WebSocketDenied
from kyoukai.websocket import WebSocket

both = pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])


class Site:
    """An application, and what its handlers saw."""

    def __init__(self) -> None:
        self.app = app = Kyoukai("test")
        #: Set when a handler has ended, and the close code that it saw.
        self.ended = asyncio.Event()
        self.code: int | None = None
        self.go = asyncio.Event()

        @app.route("/page")
        async def page(ctx: HTTPRequestContext) -> str:
            return "page"

        @app.websocket("/echo")
        async def echo(ctx: WebSocketContext, ws: WebSocket) -> None:
            await ws.accept(
                "two" if "two" in ws.subprotocols else None,
                {"X-Seen": ctx.request.headers.get("X-A", "")},
            )
            async for message in ws:
                if isinstance(message, str):
                    await ws.send_text(message)
                else:
                    await ws.send_data(message)
            self.code = ws.close_code
            self.ended.set()

        @app.websocket("/media")
        async def media(ctx: WebSocketContext, ws: WebSocket) -> None:
            await ws.accept()
            for kind in WebSocketPayloadType:
                await ws.send_media({"got": await ws.receive_media()}, kind)

        @app.websocket("/close/<int:code>")
        async def close(ctx: WebSocketContext, ws: WebSocket, code: int) -> None:
            await ws.accept()
            await ws.send_text("last")
            await ws.close(code, "enough")

        @app.websocket("/fails")
        async def fails(ctx: WebSocketContext, ws: WebSocket) -> None:
            await ws.accept()
            raise LookupError("in the handler")

        @app.websocket("/fails/http")
        async def fails_http(ctx: WebSocketContext, ws: WebSocket) -> None:
            await ws.accept()
            raise Conflict

        @app.websocket("/deny")
        async def deny(ctx: WebSocketContext, ws: WebSocket) -> None:
            await ws.deny(402, "Pay\nfirst.", {"X-Price": "3"})

        @app.websocket("/unheard")
        async def unheard(ctx: WebSocketContext, ws: WebSocket) -> None:
            await ws.accept()
            await self.go.wait()
            async for message in ws:
                await ws.send_text(str(len(message)))

        @app.websocket("/flood")
        async def flood(ctx: WebSocketContext, ws: WebSocket) -> None:
            await ws.accept()
            await ws.receive()
            for _ in range(100):
                await ws.send_data(bytes(65536))
            self.ended.set()


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def app(site: Site) -> Kyoukai:
    return site.app


async def turns(count: int = 100) -> None:
    """Let everything go on that can."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- Messages ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("deflate", [False, True])
async def test_messages(http2: bool, deflate: bool, site: Site, app: Kyoukai) -> None:
    async with Client(app, ws_deflate=True) as client:
        async with client.websocket("/echo", http2=http2, deflate=deflate) as ws:
            assert ws.deflated is deflate
            await ws.send_text("töxt" * 100)
            await ws.send_data(bytearray(b"\0\xff"))
            await ws.send_data(memoryview(b"view"))
            await ws.send_text("")
            assert await ws.receive_text() == "töxt" * 100
            assert await ws.receive_data() == b"\0\xff"
            assert await ws.receive() == b"view"
            assert await ws.receive() == ""
            assert not ws.closed
            assert ws.close_code is ws.close_reason is None
        await site.ended.wait()
        assert site.code == 1000
        assert (ws.close_code, ws.close_reason) == (1000, "")


@both
async def test_no_compression_where_the_server_does_not_want_it(http2: bool, app: Kyoukai) -> None:
    async with (
        Client(app) as client,
        client.websocket("/echo", http2=http2, deflate=True) as ws,
    ):
        assert ws.deflated is False
        await ws.send_text("a")
        assert await ws.receive() == "a"


@both
async def test_the_type_of_a_message(http2: bool, app: Kyoukai) -> None:
    async with Client(app) as client, client.websocket("/echo", http2=http2) as ws:
        await ws.send_text("text")
        await ws.send_data(b"data")
        with pytest.raises(PayloadTypeError, match="the message is text, not bytes: 'text'"):
            await ws.receive_data()
        with pytest.raises(PayloadTypeError, match="the message is 4 bytes, not text"):
            await ws.receive_text()


@both
async def test_media(http2: bool, app: Kyoukai) -> None:
    async with Client(app) as client:
        async with client.websocket("/media", http2=http2) as ws:
            await ws.send_media({"a": [1]})
            assert await ws.receive() == '{"got":{"a":[1]}}'
            await ws.send_media(b"raw", WebSocketPayloadType.BINARY)
            assert await ws.receive_media() == {"got": b"raw"}
        async with client.websocket("/echo", http2=http2) as ws:
            await ws.send_text("{")
            with pytest.raises(MediaError):
                await ws.receive_media()
            with pytest.raises(MediaError):
                await ws.send_media(object())


@both
async def test_the_handshake(http2: bool, app: Kyoukai) -> None:
    async with TestKyoukai.wrap_existing_app(app).client() as client:
        options: Any = {"headers": {"X-A": "b"}, "subprotocols": ["one", "two"], "http2": http2}
        async with client.websocket("/echo?q", **options) as ws:
            assert ws.subprotocol == "two"
            assert ws.response_headers["X-Seen"] == "b"
            assert ws.response.status == (200 if http2 else 101)
        async with client.websocket("/echo", subprotocols=["one"], http2=http2) as ws:
            assert ws.subprotocol is None


@both
async def test_sockets_beside_each_other_and_requests(http2: bool, app: Kyoukai) -> None:
    async with Client(app) as client:
        async with (
            client.websocket("/media", http2=http2) as one,
            client.websocket("/media", http2=not http2) as two,
        ):
            assert (await client.get("/page")).text == "page"
            await one.send_media(1)
            await two.send_media(2)
            assert (await two.receive_media(), await one.receive_media()) == (
                {"got": 2},
                {"got": 1},
            )
        assert (await client.get("/page")).text == "page"


@both
async def test_iteration_ends_with_the_socket(http2: bool, app: Kyoukai) -> None:
    async with Client(app) as client:
        async with client.websocket("/close/4001", http2=http2) as ws:
            assert [message async for message in ws] == ["last"]
        assert (ws.close_code, ws.close_reason) == (4001, "enough")


@both
async def test_pings(http2: bool, app: Kyoukai) -> None:
    async with Client(app) as client, client.websocket("/echo", http2=http2) as ws:
        assert min(await asyncio.gather(ws.ping(), ws.ping())) >= 0
        ws.abort()
        with pytest.raises(WebSocketDisconnected):
            await ws.ping()


async def test_a_server_with_a_protocol_of_its_own(app: Kyoukai) -> None:
    class Own(H2KyoukaiProtocol):
        pass

    async with MemoryServer(app, Own) as server:
        transport = server.connect_http2(peername=("10.0.0.1", 1))
        assert isinstance(transport.protocol, Own)
        assert transport.protocol.client == ("10.0.0.1", 1)
        async with open_websocket(transport, "/echo", http2=True) as ws:
            await ws.send_text("a")
            assert await ws.receive() == "a"


# -- Denied ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "target, headers, status, says",
    [
        ("/deny", {}, 402, "the WebSocket was denied: 402 Payment Required: Pay first."),
        ("/echo", {"Origin": "https://elsewhere.example"}, 403, "403 Forbidden"),
        ("/echo", {"Sec-WebSocket-Version": "12"}, 426, "426 Upgrade Required: "),
        ("/missing", {}, 404, "404 Not Found"),
        ("/page", {}, 405, "405 Method Not Allowed"),
    ],
)
async def test_denied(
    http2: bool, target: str, headers: dict[str, str], status: int, says: str, app: Kyoukai
) -> None:
    if http2 and status == 426:  # HTTP/2 has no Upgrade
        status, says = 400, "400 Bad Request: "
    async with Client(app) as client:
        with pytest.raises(WebSocketDenied) as caught:
            async with client.websocket(target, headers=headers, http2=http2):
                raise RuntimeError
        response = caught.value.response
        assert response.status == status
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
        if status == 402:
            assert (response.text, response.headers["X-Price"]) == ("Pay\nfirst.", "3")
        if status == 405:
            assert "GET" in response.headers["Allow"]
        if "Sec-WebSocket-Version" in headers:
            assert response.headers["Sec-WebSocket-Version"] == "13"
        assert (await client.get("/page")).status == 200


@both
async def test_another_error_than_denial(http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    """An interface that fails before it accepts."""

    async def interface(stream: Any) -> None:
        raise LookupError

    async with Client(interface) as client:
        with pytest.raises(WebSocketDenied, match="500 Internal Server Error"):
            async with client.websocket("/", http2=http2):
                raise RuntimeError
    assert "LookupError" in caplog.text


# -- Closing -----------------------------------------------------------------------------------


@both
async def test_the_server_closes(http2: bool, app: Kyoukai) -> None:
    async with Client(app) as client:
        async with client.websocket("/close/3000", http2=http2) as ws:
            await ws.wait_closed()
            assert await ws.receive() == "last"
            for call in (ws.receive(), ws.send_text("a"), ws.send_data(b"a"), ws.ping()):
                with pytest.raises(WebSocketDisconnected) as caught:
                    await call
                assert (caught.value.code, caught.value.reason) == (3000, "enough")
            await ws.close(4000)  # too late: nothing happens
        assert (ws.close_code, ws.close_reason) == (3000, "enough")


@both
@pytest.mark.parametrize("target, code", [("/fails", 1011), ("/fails/http", 3409)])
async def test_a_handler_that_fails(
    http2: bool, target: str, code: int, caplog: pytest.LogCaptureFixture, app: Kyoukai
) -> None:
    async with Client(app) as client, client.websocket(target, http2=http2) as ws:
        with pytest.raises(WebSocketDisconnected) as caught:
            await ws.receive()
        assert caught.value.code == ws.close_code == code


@both
async def test_the_client_closes(http2: bool, site: Site, app: Kyoukai) -> None:
    async with Client(app) as client, client.websocket("/echo", http2=http2) as ws:
        await ws.close(4002, "done")
        await site.ended.wait()
        assert site.code == 4002
        assert ws.closed
        with pytest.raises(WebSocketDisconnected):
            await ws.receive()


@both
async def test_the_server_stops(http2: bool, site: Site, app: Kyoukai) -> None:
    """On HTTP/2, there is a GOAWAY before the Close frame."""
    async with Client(app) as client, client.websocket("/echo", http2=http2) as ws:
        await ws.ping()
        client.server.connections.shutdown()
        with pytest.raises(WebSocketDisconnected) as caught:
            await ws.receive()
        assert caught.value.code == 1001
        await site.ended.wait()
        assert site.code == 1001


@both
@pytest.mark.parametrize("code, reason", [(1006, ""), (999, ""), (1000, "x" * 124)])
async def test_what_may_not_be_said(http2: bool, code: int, reason: str, app: Kyoukai) -> None:
    async with Client(app) as client, client.websocket("/echo", http2=http2) as ws:
        with pytest.raises(ValueError, match="close"):
            await ws.close(code, reason)
        await ws.send_text("still open")
        assert await ws.receive() == "still open"


@both
async def test_a_lost_client(http2: bool, site: Site, app: Kyoukai) -> None:
    async with Client(app) as client, client.websocket("/echo", http2=http2) as ws:
        await ws.send_text("a")
        assert await ws.receive() == "a"
        ws.abort()
        await site.ended.wait()
        assert site.code == 1006
        assert ws.close_code == 1006
        with pytest.raises(WebSocketDisconnected):
            await ws.receive()


@both
async def test_leaving_the_client_ends_its_sockets(http2: bool, app: Kyoukai) -> None:
    async with Client(app) as client:
        opening = client.websocket("/unheard", http2=http2)
        ws = await opening.__aenter__()
    await ws.wait_closed()
    assert ws.close_code == 1006
    await opening.__aexit__(None, None, None)


# -- Flow control ------------------------------------------------------------------------------


@both
async def test_large_messages_both_ways(http2: bool, app: Kyoukai) -> None:
    async with (
        Client(app, ws_max_message_size=1 << 24) as client,
        client.websocket("/echo", http2=http2) as ws,
    ):
        for size in (65535, 65536, 5_000_000):
            await ws.send_data(bytes(range(256)) * (size // 256))
            await ws.send_text("ä" * size)
            assert await ws.receive() == bytes(range(256)) * (size // 256)
            assert await ws.receive() == "ä" * size


@both
async def test_both_send_before_either_receives(http2: bool, app: Kyoukai) -> None:
    """The client takes what comes while it sends, so an echo cannot lock both up."""
    async with Client(app) as client, client.websocket("/echo", http2=http2) as ws:
        for _ in range(20):
            await ws.send_data(bytes(500_000))
        for _ in range(20):
            assert len(await ws.receive()) == 500_000


@both
async def test_a_slow_server_makes_sending_wait(http2: bool, site: Site, app: Kyoukai) -> None:
    async with Client(app) as client, client.websocket("/unheard", http2=http2) as ws:

        async def send() -> None:
            for _ in range(10):
                await ws.send_data(bytes(1_000_000))

        sending = asyncio.create_task(send())
        await turns(1000)
        assert not sending.done()
        site.go.set()
        await sending
        assert [await ws.receive() for _ in range(10)] == ["1000000"] * 10


@both
async def test_a_slow_reader_makes_the_handler_wait(http2: bool, site: Site, app: Kyoukai) -> None:
    async with Client(app) as client, client.websocket("/flood", http2=http2) as ws:
        ws.pause()
        await ws.send_text("go")
        await turns(1000)
        assert not site.ended.is_set()
        ws.resume()
        count = 0
        async for message in ws:
            count += len(message)
        assert count == 100 * 65536
        assert site.ended.is_set()


@both
async def test_a_slow_reader_that_is_given_up(http2: bool, app: Kyoukai) -> None:
    """Nothing waits for ever: the server cuts the connection, and the client sees it."""
    async with (
        Client(app, send_stall_timeout=0.01) as client,
        client.websocket("/flood", http2=http2) as ws,
    ):
        ws.pause()
        await ws.send_text("go")
        await ws.wait_closed()
        assert ws.close_code == 1006
